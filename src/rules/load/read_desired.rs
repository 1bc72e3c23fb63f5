//! One `[[desired]]`.

use toml::de::DeTable;

use super::read_command::{self, Draft};
use super::read_rule::{self, Makes, read_message};
use super::read_table::Tables;
use super::texts::Names;
use super::{lint, read_path, twin_names};
use crate::diag::walk::{Reader, Report};
use crate::diag::{Diagnostic, Span};
use crate::rules::command::{Command, Levels, PAYLOAD, TOPIC};
use crate::rules::desired::{Desired, NAMES, NAMES_OF_LEAF};

/// What `split` can be, and whether each value makes a publish then.
pub(super) const SPLITS: [(&str, bool); 2] = [("leaf", true), ("whole", false)];

pub(super) fn read<'a>(
    table: &'a DeTable<'a>,
    span: &Span,
    tables: &Tables,
    report: &mut Report<'_>,
) -> Draft<Desired> {
    let before = report.found.len();
    let mut keys = Reader::new(table, "desired");
    let name = keys.string("name", report);
    let by_leaf = keys.word("split", &SPLITS, "unknown-word", report).unwrap_or(true);
    let at = keys.string("at", report).and_then(|text| {
        let path = read_path(&text, report)?;
        twin_names::place(&text, &path, report);
        Some(path)
    });
    let at = at.unwrap_or_default();
    let known: &[&str] = if by_leaf { &NAMES_OF_LEAF } else { &NAMES };
    let mut names = Names::down(known);
    let device = keys.any("device").and_then(|entry| read_command::pattern(&entry, &mut names, report));
    let acknowledge = keys.boolean("acknowledge", report).is_some_and(|(yes, _)| yes);
    let message = read_message(&mut keys, (&mut names, Makes::Command, false), tables, report);
    let encode = read_command::read_encode(&mut keys, report);
    let (qos, retain) = read_command::how(&mut keys, (1, true), report);
    let mistyped = keys.finish(report);
    if table.get("topic").is_none() && !mistyped.contains(&"topic") {
        let found = report.new_error("no-topic", "what is desired goes nowhere").at(span.clone(), "no `topic`");
        report.push(found.help("topic = \"plant1/{device}/set/{path}\""));
    }
    let written = table.get("topic").and_then(|topic| topic.get_ref().as_str()).unwrap_or("(desired)");
    let name_span = name.map_or(span.clone(), |name| name.span());
    let shown = name.map_or(written, |name| name.value).to_owned();
    let sound = !report.found.iter().skip(before).any(Diagnostic::is_error);
    let command = message.filter(|_| sound).map(|message| {
        lint::unknown_fields(table, &names.names, &message, report);
        let template =
            |what: &str| message.props.iter().find(|(name, _)| **name == *what).map(|(_, template)| template);
        let has_payload = template(PAYLOAD).is_some() || encode.is_some();
        let topic = template(TOPIC).map(Levels::of).unwrap_or_else(|| Levels::of(&Default::default()));
        let command = Command {
            name: shown.clone(),
            method: None,
            device,
            props: Vec::new(),
            message,
            when: read_rule::written(table.get("when")),
            encode,
            topic,
            answer_topic: None,
            qos,
            retain,
            answer: None,
            once: false,
        };
        Desired { command, at, by_leaf, has_payload, acknowledge }
    });
    Draft { file: report.file, name: shown, name_span, command }
}
