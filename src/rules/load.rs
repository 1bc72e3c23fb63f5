//! Rule files into checked rules and tests. Every mistake of every file is told, none stops the reading.

use toml::Spanned;
use toml::de::DeTable;

use crate::diag::walk::{Reader, Report, Text};
use crate::diag::{Diagnostic, SourceFile, Span, syntax};
use crate::message::Event;

use super::RuleSet;
use super::rule::Rule;
use super::testing::Test;

mod later;
mod lint;
mod read_binary;
mod read_command;
mod read_command_test;
mod read_decode;
mod read_on;
mod read_rule;
mod read_shape;
mod read_table;
mod read_test;
mod read_time;
mod texts;
mod whole;

pub use lint::LINTS;
use read_table::Tables;

/// Every code a rule file can be answered with.
pub const CODES: [&str; 45] = [
    "bad-decode",
    "bad-duration",
    "bad-hex",
    "bad-name",
    "bad-path",
    "bad-regex",
    "bad-scale",
    "bad-table",
    "bad-time",
    "bad-topic",
    "constant-device",
    "duplicate-name",
    "empty-level",
    "endless-script",
    "never-runs",
    "no-answer",
    "no-device",
    "no-rules",
    "no-topic",
    "no-want",
    "not-available",
    "odd-level",
    "overlap",
    "raw-with-fields",
    "reserved-property",
    "script-syntax",
    "template-syntax",
    "toml-syntax",
    "too-long",
    "two-patterns",
    "unknown-event",
    "unknown-filter",
    "unknown-format",
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
}

/// What one file has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileSummary {
    /// How many `[[rule]]`s.
    pub rules: usize,
    /// How many `[[command]]`s.
    pub commands: usize,
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
            Some(document) => load_file((document, source), &tables, report, (&mut drafts, &mut commands, &mut tests)),
            None => FileSummary::default(),
        });
    }
    reports.iter_mut().for_each(|report| diagnostics.append(&mut report.found));
    whole::never_runs(&drafts, &mut diagnostics);
    whole::overlaps(&drafts, &mut diagnostics);
    whole::duplicate_names(&drafts, &mut diagnostics);
    whole::duplicate_commands(&commands, &mut diagnostics);
    if !diagnostics.iter().any(Diagnostic::is_error) {
        tables.unused(&mut diagnostics);
    }
    let mut rules = None;
    if !diagnostics.iter().any(Diagnostic::is_error) {
        let commands = commands.into_iter().filter_map(|draft| draft.command).collect();
        match RuleSet::new(drafts.into_iter().filter_map(|draft| draft.rule).collect(), commands) {
            Ok(set) => rules = Some(set),
            Err(error) => diagnostics.push(
                Diagnostic::error("bad-regex", "the regexes of all rules are too large together", 0)
                    .help(error.to_string()),
            ),
        }
    }
    diagnostics.sort_by_key(Diagnostic::sort_key);
    Loaded { rules, diagnostics, tests, files: summaries }
}

/// A file that a table may take its rows from.
fn is_table(source: &SourceFile) -> bool {
    source.path.ends_with(".csv")
}

fn load_file(
    (document, source): (&Spanned<DeTable<'_>>, &SourceFile),
    tables: &Tables,
    report: &mut Report<'_>,
    (drafts, commands, tests): (&mut Vec<Draft>, &mut Vec<read_command::Draft>, &mut Vec<Test>),
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
    FileSummary { rules: rules.len(), commands: down.len(), tests: cases.len() }
}

/// The path of a field: `.ts`, `.a.b`, and `ts` too. A `"` or space in it is kept.
fn read_path(text: &Text<'_>, report: &mut Report<'_>) -> Option<Box<[Box<str>]>> {
    let path = text.value.strip_prefix('.').unwrap_or(text.value);
    let steps: Box<[Box<str>]> = path.split('.').map(Box::from).collect();
    if steps.iter().all(|step| !step.is_empty()) && steps.len() <= MAX_STEPS && !path.contains(['{', '}']) {
        return Some(steps);
    }
    let found = report.new_error("bad-path", "this is no field of the payload").at(text.span(), "");
    report.push(found.help("a field is written .temp, a field of a field .motor.temp"));
    None
}

/// The line of a byte offset, from 1.
fn line(text: &str, at: usize) -> usize {
    memchr::memchr_iter(b'\n', text.as_bytes().get(..at).unwrap_or(&[])).count() + 1
}
