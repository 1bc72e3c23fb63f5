//! Rule files into checked rules and tests. Every mistake of every file is told, none stops the reading.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use toml::Spanned;
use toml::de::DeTable;

use crate::diag::walk::{Reader, Report, Text};
use crate::diag::{Diagnostic, SourceFile, Span, syntax};
use crate::message::Event;

use super::RuleSet;
use super::desired::Desired;
use super::rule::Rule;
use super::testing::Test;

mod durations;
mod lint;
mod read_binary;
mod read_command;
mod read_command_test;
mod read_decode;
mod read_desired;
mod read_on;
mod read_pattern;
mod read_reported;
mod read_restraint;
mod read_rule;
mod read_shape;
mod read_table;
mod read_test;
mod read_time;
mod read_window;
mod texts;
mod twin_names;
mod whole;
pub(super) mod words;

pub use lint::{FIRM_LINTS, LINTS};
use read_table::Tables;

/// Every code a rule file can be answered with.
pub const CODES: [&str; 54] = [
    "bad-decode",
    "bad-encode",
    "bad-duration",
    "bad-hex",
    "bad-name",
    "bad-path",
    "bad-regex",
    "bad-report",
    "bad-scale",
    "bad-table",
    "bad-time",
    "bad-topic",
    "bad-window",
    "constant-device",
    "duplicate-name",
    "empty-level",
    "endless-script",
    "loose-regex",
    "never-runs",
    "no-answer",
    "no-device",
    "no-rules",
    "no-topic",
    "no-want",
    "not-once",
    "odd-level",
    "overlap",
    "raw-with-fields",
    "renamed-field",
    "reserved-property",
    "same-name",
    "shared-answer",
    "script-syntax",
    "template-syntax",
    "toml-syntax",
    "too-long",
    "two-patterns",
    "unknown-event",
    "unknown-field",
    "unknown-filter",
    "unknown-format",
    "unknown-function",
    "unknown-key",
    "unknown-lint",
    "unknown-name",
    "unknown-reason",
    "unknown-table",
    "unknown-type",
    "unknown-variable",
    "unknown-word",
    "unused-key",
    "unused-name",
    "unused-table",
    "wrong-type",
];

/// The longest path of a field.
const MAX_STEPS: usize = 16;

/// What reading rule files came to.
#[derive(Debug)]
pub struct Loaded {
    /// The rules; none where there is an error.
    pub rules: Option<RuleSet>,
    /// Every finding, in the order of files and places.
    pub diagnostics: Vec<Diagnostic>,
    /// The `[[test]]`s of all files.
    pub tests: Vec<Test>,
    /// What each file has, in the order of the files.
    pub files: Vec<FileSummary>,
    /// The CSV files that tables are to be read from, as the rule files name them; those that are not there too.
    pub tables: Vec<String>,
    /// 16 hex digits that stand for the names and contents of the rule files and of the CSV files they name.
    pub hash: String,
}

/// What one file has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileSummary {
    /// How many `[[rule]]`s.
    pub rules: usize,
    /// How many `[[command]]`s.
    pub commands: usize,
    /// How many `[[desired]]`s.
    pub desired: usize,
    /// How many `[[test]]`s.
    pub tests: usize,
}

/// A rule as read, with what the checks across rules need, also where the rule itself has mistakes.
struct Draft {
    file: usize,
    name: String,
    name_span: Span,
    named: bool,
    /// It does not take all messages of its topics for itself.
    goes_on: bool,
    /// What clients do, where it is not for publishes.
    on: Option<Event>,
    /// The topic filter, or the regex.
    filter: Option<String>,
    /// What the topic filter was meant to take, where it has a mistake.
    meant: Option<String>,
    regex: Option<String>,
    /// The warnings it is not to have.
    allow: Vec<String>,
    rule: Option<Rule>,
}

/// Reads rule files, given in the order in which their rules are to be tried.
pub fn load(files: &[SourceFile]) -> Loaded {
    let mut diagnostics = Vec::new();
    let mut drafts = Vec::new();
    let mut commands = Vec::new();
    let mut desired = Vec::new();
    let mut tests = Vec::new();
    let mut summaries = Vec::new();
    let mut reports: Vec<Report<'_>> =
        files.iter().enumerate().map(|(file, source)| Report::new(file, &source.text)).collect();
    let documents: Vec<_> = files
        .iter()
        .zip(&mut reports)
        .map(|(source, report)| if is_table(source) { None } else { syntax::parse(report) })
        .collect();
    let mut tables = Tables::default();
    for (document, report) in documents.iter().zip(&mut reports) {
        if let Some(document) = document {
            tables.read(&mut Reader::new(document.get_ref(), "the file"), files, report);
        }
    }
    for ((document, report), source) in documents.iter().zip(&mut reports).zip(files) {
        summaries.push(match document {
            Some(document) => {
                let down = (&mut commands, &mut desired);
                load_file((document, source), &tables, report, (&mut drafts, down, &mut tests))
            }
            None => FileSummary::default(),
        });
    }
    reports.iter_mut().for_each(|report| diagnostics.append(&mut report.found));
    whole::never_runs(&drafts, &mut diagnostics);
    whole::overlaps(&drafts, &mut diagnostics);
    whole::duplicate_names(&drafts, &mut diagnostics);
    whole::duplicate_commands(&commands, ("commands", "command"), &mut diagnostics);
    whole::duplicate_commands(&desired, ("[[desired]]", "[[desired]]"), &mut diagnostics);
    if !diagnostics.iter().any(Diagnostic::is_error) {
        tables.unused(&mut diagnostics);
    }
    let hash = hash(files, &tables.files);
    let mut rules = None;
    name_states(&mut drafts);
    if !diagnostics.iter().any(Diagnostic::is_error) {
        let commands = commands.into_iter().filter_map(|draft| draft.command).collect();
        let desired = desired.into_iter().filter_map(|draft| draft.command).collect();
        let sound = drafts.into_iter().filter_map(|draft| draft.rule).collect();
        match RuleSet::new(sound, (commands, desired), hash.clone()) {
            Ok(set) => rules = Some(set),
            Err(error) => diagnostics.push(
                Diagnostic::error("bad-regex", "the regexes of all rules are too large together", 0)
                    .help(error.to_string()),
            ),
        }
    }
    diagnostics.sort_by_key(Diagnostic::sort_key);
    Loaded { rules, diagnostics, tests, files: summaries, tables: tables.files, hash }
}

/// True where `path` is the CSV file that a table calls `name`.
pub fn is_table_file(path: &str, name: &str) -> bool {
    path.ends_with(".csv") && Path::new(path).ends_with(name)
}

/// The folder a file lies in does not count: a gateway and the desk where its rules were written agree.
fn hash(files: &[SourceFile], tables: &[String]) -> String {
    let mut hasher = Sha256::new();
    for file in files.iter().filter(|file| !is_table(file) || tables.iter().any(|name| is_table_file(&file.path, name)))
    {
        let name = Path::new(&file.path).file_name().unwrap_or_default().as_encoded_bytes();
        for part in [name, file.text.as_bytes()] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Rules without a name may be called the same; what they remember must not be.
fn name_states(drafts: &mut [Draft]) {
    let mut taken: HashMap<String, usize> = HashMap::new();
    for rule in drafts.iter_mut().filter_map(|draft| draft.rule.as_mut()) {
        let number = taken.entry(rule.name.clone()).or_default();
        *number += 1;
        rule.state = match *number {
            1 => rule.name.as_str().into(),
            number => format!("{} #{number}", rule.name).into(),
        };
    }
}

/// A file that a table may take its rows from.
fn is_table(source: &SourceFile) -> bool {
    source.path.ends_with(".csv")
}

/// What comes down: commands and desired properties.
type Down<'d> = (&'d mut Vec<read_command::Draft>, &'d mut Vec<read_command::Draft<Desired>>);

fn load_file(
    (document, source): (&Spanned<DeTable<'_>>, &SourceFile),
    tables: &Tables,
    report: &mut Report<'_>,
    (drafts, (commands, desired), tests): (&mut Vec<Draft>, Down<'_>, &mut Vec<Test>),
) -> FileSummary {
    let mut file = Reader::new(document.get_ref(), "the file");
    let rules = file.tables("rule", report);
    for (table, span) in &rules {
        drafts.push(read_rule::read(table, span, (source, tables), report));
    }
    let down = file.tables("command", report);
    for (table, span) in &down {
        commands.push(read_command::read(table, span, tables, report));
    }
    let wanted = file.tables("desired", report);
    for (table, span) in &wanted {
        desired.push(read_desired::read(table, span, tables, report));
    }
    let cases = file.tables("test", report);
    for (index, (table, span)) in cases.iter().enumerate() {
        tests.extend(read_test::read(table, span, index + 1, report));
    }
    // Read before the rules of all files.
    file.any("table");
    file.finish(report);
    if document.get_ref().is_empty() {
        let found = Diagnostic::warning("no-rules", "there is no [[rule]] in this file", report.file);
        report.push(found.help("brownbridge explain TOPIC writes a first one"));
    }
    FileSummary { rules: rules.len(), commands: down.len(), desired: wanted.len(), tests: cases.len() }
}

/// The path of a field: `.ts`, `.a.b`, and `ts` too. A `"` or space in it is kept.
fn read_path(text: &Text<'_>, report: &mut Report<'_>) -> Option<Box<[Box<str>]>> {
    let path = text.value.strip_prefix('.').unwrap_or(text.value);
    let steps = steps(text.value);
    if steps.iter().all(|step| !step.is_empty()) && steps.len() <= MAX_STEPS && !path.contains(['{', '}']) {
        return Some(steps);
    }
    let found = report.new_error("bad-path", "this is no field of the payload").at(text.span(), "");
    report.push(found.help("a field is written .temp, a field of a field .motor.temp"));
    None
}

/// The names in the path of a field.
fn steps(path: &str) -> Box<[Box<str>]> {
    path.strip_prefix('.').unwrap_or(path).split('.').map(Box::from).collect()
}

/// The line of a byte offset, from 1.
fn line(text: &str, at: usize) -> usize {
    memchr::memchr_iter(b'\n', text.as_bytes().get(..at).unwrap_or(&[])).count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_what_the_rules_are_made_of() {
        let hash = |files: &[(&str, &str)]| {
            let source = |(path, text): &(&str, &str)| SourceFile { path: (*path).into(), text: (*text).into() };
            load(&files.iter().map(source).collect::<Vec<_>>()).hash
        };
        let table = "[table.t]\nfile = \"t.csv\"\n";
        let first = [("rules/1.toml", table), ("rules/t.csv", "a,b\n1,2\n")];
        for (name, files, same) in [
            ("elsewhere", &[("/etc/r/1.toml", table), ("/etc/r/t.csv", "a,b\n1,2\n")][..], true),
            ("a file nobody names", &[first[0], first[1], ("rules/x.csv", "a\n")], true),
            ("another table", &[first[0], ("rules/t.csv", "a,b\n1,3\n")], false),
            ("no table", &[first[0]], false),
            ("another name", &[("rules/2.toml", table), first[1]], false),
            ("another file", &[first[0], first[1], ("rules/2.toml", "")], false),
            ("text in another file", &[("rules/1.toml", ""), ("rules/2.toml", table), first[1]], false),
            ("mistakes", &[("rules/1.toml", "nonsense"), first[1]], false),
        ] {
            assert_eq!(hash(files) == hash(&first), same, "{name}");
        }
        assert_eq!(hash(&first).len(), 16);
    }
}
