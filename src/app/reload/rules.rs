//! Takes up rule files and their tables when they change.
//!
//! New rules are taken as a whole, after they were read without an error and have passed their own `[[test]]`s; otherwise
//! those in use stay. Refused are also files without a single rule where there were some: an unmounted folder, an upload
//! that a full disk cut off.
//!
//! The first look comes with the start: rules that came into use then and fail their own tests stay, as there are no
//! others, and that is told as loudly.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{NotTaken, Watched};
use crate::app::rule_files::{read, rule_paths, table_paths};
use crate::bridge::InUse;
use crate::diag::{Diagnostic, SourceFile, rendered};
use crate::rules::{self, Loaded, RuleSet, Tune, testing, twin_name};

/// Names of rules that one line of the log has room for.
const MOST_NAMES: usize = 8;

/// Findings that one line of the log has room for.
const MOST_FINDINGS: usize = 50;

/// A file that had rules and has no text any more.
const EMPTIED: &str = "emptied-file";
const EMPTIED_HELP: &str = "to be without its rules, remove the file or write a comment into it";

/// What somebody else than the files says about the rules: files that are not in use, and other numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::app) struct Tuned {
    /// Rule files, by their names without `.toml` as a twin takes them.
    pub(in crate::app) off: BTreeSet<String>,
    pub(in crate::app) tunes: BTreeMap<String, Tune>,
}

impl Tuned {
    /// Loads the rules at `path`, says what their own tests find wrong, and what of this makes no sense for them.
    pub(in crate::app) fn load(&self, path: &Path) -> Result<(Candidate, Vec<String>), String> {
        self.load_from(read(path)?, |_, _| ())
    }

    /// The tests are those of the files, so they are run before any number is another.
    fn load_from(
        &self,
        mut sources: Vec<SourceFile>,
        look: impl FnOnce(&mut Loaded, &[SourceFile]),
    ) -> Result<(Candidate, Vec<String>), String> {
        let name = |source: &SourceFile| {
            let name = Path::new(&source.path).file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.strip_suffix(".toml").map(twin_name)
        };
        let names: BTreeSet<String> = sources.iter().filter_map(name).collect();
        sources.retain(|source| name(source).is_none_or(|name| !self.off.contains(&name)));
        let mut loaded = rules::load(&sources);
        look(&mut loaded, &sources);
        let results = loaded.rules.as_ref().map(|set| testing::run(set, &loaded.tests)).unwrap_or_default();
        let failures = results.into_iter().flat_map(|result| result.failures).collect();
        let mut wrong: Vec<String> =
            self.off.difference(&names).map(|name| format!("no rule file is called `{name}`")).collect();
        if let Some(set) = &mut loaded.rules {
            wrong.extend(set.tune(&self.tunes));
        }
        Ok((Candidate { sources, loaded, failures }, wrong))
    }
}

/// The rule files of a bridge.
pub(in crate::app) struct RuleFiles {
    path: PathBuf,
    in_use: Arc<InUse>,
    tuned: Arc<Mutex<Tuned>>,
    last: Mutex<Last>,
}

/// What came of the last reading.
#[derive(Default)]
struct Last {
    /// The CSV files that tables are read from, as the rule files name them.
    tables: Vec<String>,
    /// Files that had rules when they were last taken.
    had_rules: BTreeSet<String>,
    /// What was refused, known by its hash or by why it could not be read, and the words for that.
    refused: Option<(String, String)>,
}

/// Rules that may come into use.
pub(in crate::app) struct Candidate {
    sources: Vec<SourceFile>,
    loaded: Loaded,
    /// What their own tests find wrong.
    failures: Vec<Diagnostic>,
}

/// Why rules cannot be used.
#[derive(Default)]
struct Refusal {
    /// In words that follow "the rules".
    what: String,
    /// For the log.
    findings: String,
    /// The command that finds the same.
    shown_by: Option<&'static str>,
}

impl RuleFiles {
    /// Those at `path`, of which `in_use` was read.
    pub(in crate::app) fn new(path: PathBuf, in_use: Arc<InUse>, tuned: Arc<Mutex<Tuned>>) -> Self {
        Self { path, in_use, tuned, last: Mutex::default() }
    }

    fn use_now(&self, candidate: &Candidate, before: &RuleSet, last: &mut Last, asked: bool) {
        let Candidate { sources, loaded, .. } = candidate;
        let Some(set) = &loaded.rules else { return };
        let with_rules = sources.iter().zip(&loaded.files).filter(|(_, file)| file.rules > 0);
        last.had_rules = with_rules.map(|(source, _)| source.path.clone()).collect();
        let (rules, hash) = (set.len(), set.hash());
        if hash != before.hash() {
            self.in_use.replace(set.clone());
            let told = told(loaded.diagnostics.iter(), sources);
            tracing::info!(rules, hash, "new rules are in use{}{told}", changes(before, set));
        } else if last.refused.is_some() {
            tracing::info!(rules, hash, "the rules on disk are again those in use");
        } else if asked {
            tracing::info!(rules, hash, "the rules have not changed");
        }
    }
}

impl Watched for RuleFiles {
    const WHAT: &'static str = "the rules";
    /// A folder is copied, or pulled, file by file.
    const STILL: Duration = Duration::from_secs(1);
    type Found = Result<Candidate, String>;

    fn paths(&self) -> Vec<PathBuf> {
        // A folder that cannot be listed is watched itself.
        let mut paths = rule_paths(&self.path).unwrap_or_else(|_| vec![self.path.clone()]);
        let tables = &self.last.lock().tables;
        let named = |path: &PathBuf| {
            let path = path.display().to_string();
            tables.iter().any(|name| rules::is_table_file(&path, name))
        };
        paths.extend(table_paths(&self.path).into_iter().filter(named));
        paths
    }

    fn read(&self) -> Self::Found {
        let tuned = self.tuned.lock().clone();
        let had_rules = self.last.lock().had_rules.clone();
        let (candidate, wrong) = tuned.load_from(read(&self.path)?, |loaded, sources| {
            let emptied = |source: &SourceFile| source.text.trim().is_empty() && had_rules.contains(&source.path);
            for (file, _) in sources.iter().enumerate().filter(|(_, source)| emptied(source)) {
                let found = Diagnostic::error(EMPTIED, "the file is empty, and had rules", file);
                loaded.diagnostics.push(Diagnostic { help: vec![EMPTIED_HELP.to_owned()], ..found });
            }
        })?;
        for wrong in wrong {
            tracing::warn!("what the twin says about the rules is not for these: {wrong}");
        }
        Ok(candidate)
    }

    fn take(&self, found: Self::Found, asked: bool) -> Result<(), NotTaken> {
        let mut last = self.last.lock();
        let known_by = match &found {
            Ok(candidate) => &candidate.loaded.hash,
            Err(problem) => problem,
        };
        if let Some((_, why)) = last.refused.as_ref().filter(|(refused, _)| !asked && refused == known_by) {
            return Err(why.clone().into());
        }
        let known_by = known_by.clone();
        let before = self.in_use.rules();
        let Refusal { what, findings, shown_by } = match &found {
            Err(problem) => Refusal { what: format!("cannot be read: {problem}"), ..Refusal::default() },
            Ok(candidate) => {
                last.tables.clone_from(&candidate.loaded.tables);
                match candidate.refusal(&before) {
                    Some(refusal) => refusal,
                    None => {
                        self.use_now(candidate, &before, &mut last, asked);
                        last.refused = None;
                        return Ok(());
                    }
                }
            }
        };
        let shown_by = shown_by
            .map_or(String::new(), |command| format!(" (`brownbridge {command} {}` shows it)", self.path.display()));
        let why = match known_by == before.hash() {
            true => format!("the rules in use {what}{shown_by}"),
            false => format!("the rules on disk {what}; older ones stay in use{shown_by}"),
        };
        tracing::error!("{why}{findings}");
        last.refused = Some((known_by, why.clone()));
        let findings = findings.trim_start_matches([':', '\n']).to_owned();
        Err(NotTaken { why, findings })
    }
}

impl Candidate {
    /// The rules, or why they cannot be used.
    pub(in crate::app) fn rules(self, before: &RuleSet) -> Result<RuleSet, String> {
        match (self.refusal(before), self.loaded.rules) {
            (None, Some(rules)) => Ok(rules),
            (Some(refusal), _) => Err(format!("the rules on disk {}", refusal.what)),
            (None, None) => Err("there are no rules on disk".to_owned()),
        }
    }

    /// Why these rules cannot be used, where that is so.
    fn refusal(&self, before: &RuleSet) -> Option<Refusal> {
        let Self { sources, loaded, failures } = self;
        let errors: Vec<_> = loaded.diagnostics.iter().filter(|found| found.is_error()).collect();
        if let Some(first) = errors.first() {
            let findings = told(loaded.diagnostics.iter(), sources);
            // Only the running bridge knows what a file had, so no command would find fault with an empty one.
            let (what, shown_by) = match errors.iter().all(|found| found.code == EMPTIED) {
                true => (format!("lack what they had: {}", self.emptied(&errors)), None),
                false => (format!("have {}", self.summary(errors.len(), "error", first)), Some("check")),
            };
            return Some(Refusal { what, findings, shown_by });
        }
        if let Some(first) = failures.first() {
            let what = format!("do not pass their own tests: {}", self.summary(failures.len(), "failure", first));
            return Some(Refusal { what, findings: told(failures.iter(), sources), shown_by: Some("test") });
        }
        let vanished = loaded.rules.as_ref().is_none_or(RuleSet::is_empty) && !before.is_empty();
        let what = "are gone (to run without any, restart)";
        vanished.then(|| Refusal { what: what.to_owned(), ..Refusal::default() })
    }

    fn emptied(&self, errors: &[&Diagnostic]) -> String {
        let path = |found: &&Diagnostic| self.sources.get(found.file).map_or("", |source| &source.path).to_owned();
        let first: Vec<String> = errors.iter().take(MOST_NAMES).map(path).collect();
        let more = if errors.len() > MOST_NAMES { ", .." } else { "" };
        let word = if errors.len() == 1 { "is" } else { "are" };
        format!("{}{more} {word} empty, and had rules ({EMPTIED_HELP})", first.join(", "))
    }

    fn summary(&self, count: usize, word: &str, first: &Diagnostic) -> String {
        let path = self.sources.get(first.file).map_or("", |source| &source.path);
        match count {
            1 => format!("1 {word}: {} ({path})", first.title),
            _ => format!("{count} {word}s, the first: {} ({path})", first.title),
        }
    }
}

/// Findings as they follow a line of the log.
fn told<'d>(found: impl ExactSizeIterator<Item = &'d Diagnostic>, sources: &[SourceFile]) -> String {
    let more = found.len().saturating_sub(MOST_FINDINGS);
    let mut text = rendered(found.take(MOST_FINDINGS), sources);
    if more > 0 {
        text.push_str(&format!(".. and {more} more\n"));
    }
    if text.is_empty() { text } else { format!(":\n{text}") }
}

/// Which rules came and went, by name.
fn changes(before: &RuleSet, after: &RuleSet) -> String {
    let names = |set: &RuleSet| set.names().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, after) = (names(before), names(after));
    let mut text = String::new();
    for (what, names) in [("new", &after - &before), ("gone", &before - &after)] {
        if names.is_empty() {
            continue;
        }
        let first: Vec<&str> = names.iter().take(MOST_NAMES).map(String::as_str).collect();
        let more = if names.len() > MOST_NAMES { ", .." } else { "" };
        text.push_str(&format!("; {} {what}: {}{more}", names.len(), first.join(", ")));
    }
    text
}
