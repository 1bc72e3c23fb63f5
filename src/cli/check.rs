//! `brownbridge check`, and how rule files are found and findings are printed.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;

use super::text::colored;
use crate::amount::of_len;
use crate::app::{settings, text_file};
use crate::diag::{Diagnostic, Severity, SourceFile};
use crate::rules::{self, FileSummary};

/// Checks rule files and bridge.toml, and tells every mistake at once.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge check rules              the rule files of a folder\n  \
    brownbridge check bridge.toml        the configuration and the rules it names\n  \
    brownbridge check /etc/brownbridge   the same, by the folder bridge.toml lies in\n\n\
    Exit code: 0 no errors, 1 errors or denied warnings, 2 could not run.")]
pub(super) struct Args {
    /// Rule files, folders of rule files, or one bridge.toml or the folder it lies in [default: bridge.toml if it
    /// lies here, else the folder rules].
    paths: Vec<PathBuf>,
    /// A configuration with another name than bridge.toml; its rules are checked too.
    #[arg(long, value_name = "FILE", conflicts_with = "paths")]
    config: Option<PathBuf>,
    /// Prints the findings as JSON on stdout.
    #[arg(long)]
    json: bool,
    /// Takes warnings for errors: all of them, or those of one kind. A rule or command can let one by: allow = ["overlap"].
    #[arg(long, value_name = "KIND", value_parser = denied_kinds())]
    deny: Vec<String>,
}

/// What `--deny` can name.
fn denied_kinds() -> PossibleValuesParser {
    std::iter::once(ALL_WARNINGS).chain(rules::LINTS).chain(rules::FIRM_LINTS).collect::<Vec<_>>().into()
}

const ALL_WARNINGS: &str = "warnings";

/// How the configuration is called where nobody says otherwise.
const BRIDGE_TOML: &str = "bridge.toml";

/// Where the rules are where nobody says otherwise.
const RULES: &str = "rules";

/// What there is to tell.
struct Checked {
    sources: Vec<SourceFile>,
    found: Vec<Diagnostic>,
    summaries: Vec<FileSummary>,
    /// Of the rules; none where something has errors.
    hash: Option<String>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let checked = match subject(args.config, args.paths) {
        Ok(Subject::Config(path)) => check_config(&path),
        Ok(Subject::Rules(paths)) => check_rules(&paths),
        Err(problem) => Err(problem),
    };
    let checked = match checked {
        Ok(checked) => checked,
        Err(problem) => return could_not_run(&problem),
    };
    if args.json {
        let findings: Vec<_> = checked.found.iter().map(|found| found.json(&checked.sources)).collect();
        print(&format!("{}\n", serde_json::Value::Array(findings)));
    } else {
        print_findings(&checked.found, &checked.sources);
        for (file, source) in checked.sources.iter().enumerate() {
            let summary = checked.summaries.get(file).filter(|_| !source.path.ends_with(".csv"));
            let line = summary_line(file, summary, &checked.found);
            print(&format!("{}: {line}\n", source.path));
        }
        if let Some(hash) = &checked.hash {
            print(&format!("hash of the rules: {hash}\n"));
        }
    }
    let is_denied = |found: &&Diagnostic| args.deny.iter().any(|kind| kind == ALL_WARNINGS || kind == found.code);
    let denied = checked.found.iter().filter(|found| !found.is_error()).filter(is_denied).count();
    if denied > 0 {
        print_error(&format!("error: {} denied\n", of_len(denied, "warning", "warnings")));
    }
    ExitCode::from(u8::from(checked.hash.is_none() || denied > 0))
}

/// The hub lets nobody in with these. A start only warns of them: the plant's messages are kept meanwhile, and what the
/// bridge proves itself with may be put right while it runs.
const REFUSED: [&str; 4] = ["expired", "not-yet-valid", "token-expired", "token-for-another"];

/// What is to be checked.
enum Subject {
    Config(PathBuf),
    Rules(Vec<PathBuf>),
}

fn subject(config: Option<PathBuf>, paths: Vec<PathBuf>) -> Result<Subject, String> {
    if let Some(config) = config {
        return Ok(Subject::Config(config));
    }
    if paths.is_empty() {
        let here = PathBuf::from(BRIDGE_TOML);
        return Ok(if here.is_file() { Subject::Config(here) } else { Subject::Rules(vec![RULES.into()]) });
    }
    match paths.iter().find_map(|path| as_config(path)) {
        Some(config) if paths.len() > 1 => {
            Err(format!("{} is a configuration and names its rules itself: check it alone", config.display()))
        }
        Some(config) => Ok(Subject::Config(config)),
        None => Ok(Subject::Rules(paths)),
    }
}

/// The configuration a path means: bridge.toml, the folder it lies in, or a file that looks like one.
fn as_config(path: &Path) -> Option<PathBuf> {
    let inside = path.join(BRIDGE_TOML);
    if inside.is_file() {
        return Some(inside);
    }
    let named = path.file_name().is_some_and(|name| name == BRIDGE_TOML);
    // A pipe can be read once only, and nobody writes a configuration of a megabyte.
    let is_small_file = path.metadata().is_ok_and(|found| found.is_file() && found.len() < 1 << 20);
    let looks = || is_small_file && std::fs::read_to_string(path).is_ok_and(|text| looks_like_config(&text));
    (named || looks()).then(|| path.to_owned())
}

/// True for a text with keys that only bridge.toml has, and without a rule.
fn looks_like_config(text: &str) -> bool {
    let (table, _) = toml::de::DeTable::parse_recoverable(text);
    let has_one_of = |keys: &[&str]| keys.iter().any(|key| table.get_ref().contains_key(*key));
    has_one_of(&["uplink", "broker", "spool", "state"]) && !has_one_of(&["rule", "command", "test"])
}

fn check_rules(paths: &[PathBuf]) -> Result<Checked, String> {
    let sources = read_rule_files(paths, "brownbridge check PATH")?;
    let loaded = rules::load(&sources);
    let hash = loaded.rules.map(|rules| rules.hash().to_owned());
    let passed_by = paths.iter().flat_map(|path| settings::passed_by_rule_files(path));
    let mut found: Vec<Diagnostic> = passed_by.map(|title| Diagnostic::warning("no-rules", title, 0)).collect();
    found.extend(loaded.diagnostics);
    Ok(Checked { sources, found, summaries: loaded.files, hash })
}

fn check_config(path: &Path) -> Result<Checked, String> {
    let loaded =
        settings::load(path, &|name| std::env::var(name).ok()).map_err(|error| text_file::cannot_read(path, &error))?;
    let mut found = loaded.diagnostics;
    for found in found.iter_mut().filter(|found| REFUSED.contains(&found.code)) {
        found.severity = Severity::Error;
    }
    let sound = !found.iter().any(Diagnostic::is_error);
    let hash = loaded.settings.filter(|_| sound).map(|settings| settings.rules.hash().to_owned());
    Ok(Checked { sources: loaded.sources, found, summaries: loaded.summaries, hash })
}

fn summary_line(file: usize, summary: Option<&FileSummary>, found: &[Diagnostic]) -> String {
    let here = || found.iter().filter(|found| found.file == file);
    let errors = here().filter(|found| found.is_error()).count();
    let warnings = here().count() - errors;
    let warned = if warnings == 0 { String::new() } else { format!(", {}", of_len(warnings, "warning", "warnings")) };
    match (errors, summary) {
        (0, None) => format!("ok{warned}"),
        (0, Some(summary)) => {
            let commands = match summary.commands {
                0 => String::new(),
                commands => format!(", {}", of_len(commands, "command", "commands")),
            };
            let desired = match summary.desired {
                0 => String::new(),
                desired => format!(", {desired} desired"),
            };
            format!(
                "ok, {}{commands}{desired}, {}{warned}",
                of_len(summary.rules, "rule", "rules"),
                of_len(summary.tests, "test", "tests")
            )
        }
        (errors, _) => format!("{}{warned}", of_len(errors, "error", "errors")),
    }
}

/// Reads rule files; of a folder every `*.toml` in it, in name order. `usage` is how to name others.
pub(super) fn read_rule_files(paths: &[PathBuf], usage: &str) -> Result<Vec<SourceFile>, String> {
    let mut files = Vec::new();
    for path in paths {
        if let Err(error) = std::fs::metadata(path)
            && error.kind() == ErrorKind::NotFound
        {
            let what = if path == Path::new(RULES) { "folder" } else { "file or folder" };
            return Err(format!("there is no {what} `{}` here: name one, e.g. {usage} ({error})", path.display()));
        }
        let found = settings::read_rule_files(path)?;
        if found.is_empty() {
            return Err(format!("there is no rule file (*.toml) in the folder {}", path.display()));
        }
        files.extend(found);
    }
    match files.iter().find(|file| looks_like_config(&file.text)) {
        Some(config) => Err(format!("{} is a configuration, no rule file: name its rules, e.g. {usage}", config.path)),
        None => Ok(files),
    }
}

/// Says why the command could not run; exit code 2.
pub(super) fn could_not_run(problem: &str) -> ExitCode {
    print_error(&format!("error: {problem}\n"));
    ExitCode::from(2)
}

/// Prints findings to stderr, with colour where a person looks on.
pub(super) fn print_findings(found: &[Diagnostic], sources: &[SourceFile]) {
    let color = colored(&std::io::stderr());
    for found in found {
        print_error(&format!("{}\n", found.render(sources, color)));
    }
}

/// Prints to stdout. A reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints to stderr.
pub(super) fn print_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
