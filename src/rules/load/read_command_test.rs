//! One `[[test]]` of a command.

use toml::de::DeTable;

use super::read_test::{read_hex, read_reason};
use crate::diag::Span;
use crate::diag::walk::{Entry, Reader, Report, Text, text};
use crate::rules::testing::{CommandTest, Test, WantAnswer, WantCommand, WantPublish, no_messages};

/// Reads a test; none where it has a mistake.
pub(super) fn read<'a>(table: &'a DeTable<'a>, span: &Span, number: usize, report: &mut Report<'_>) -> Option<Test> {
    let before = report.found.len();
    let mut keys = Reader::new(table, "test");
    let name = keys.string("name", report);
    let what = if table.contains_key("desired") { "desired" } else { "command" };
    let place = keys.any(what).map_or(span.clone(), |entry| entry.value.span());
    let (given, _) = keys.table(what, report)?;
    let given = match what {
        "desired" => read_desired(given, &place, report),
        _ => read_given(given, &place, report),
    };
    let (want, want_answer) = read_want(&mut keys, report).unzip();
    keys.finish(report);
    if table.get("want").is_none() {
        let found = report.new_error("no-want", "the test does not say what it wants").at(span.clone(), "no `want`");
        report.push(found.help("want.topic = \"plant1/press7/set\", want.payload = \"12\" or want.nothing = true"));
    }
    if report.found.len() > before {
        return None;
    }
    let shown = given.method.as_deref().unwrap_or(&given.device);
    Some(Test {
        file: report.file,
        name: name.map_or_else(|| format!("test {number} ({shown})"), |name| name.value.to_owned()),
        on: None,
        sent: Vec::new(),
        want: no_messages(),
        command: Some(Box::new(CommandTest { want: want?, want_answer: want_answer?, ..given })),
    })
}

/// Desired properties of a device.
fn read_desired(table: &DeTable<'_>, span: &Span, report: &mut Report<'_>) -> CommandTest {
    let mut keys = Reader::new(table, "the desired properties of a test");
    let device = keys.string("device", report).map_or_else(|| "test".to_owned(), |text| text.value.to_owned());
    let properties = keys.string("properties", report);
    if let Some(text) = &properties
        && !serde_json::from_str::<serde_json::Value>(text.value).is_ok_and(|value| value.is_object())
    {
        report.error("wrong-type", "desired properties are a JSON object", text.span(), "");
    }
    let payload = properties.map_or("{}", |text| text.value).as_bytes().to_vec();
    keys.finish(report);
    let (method, id, props, want) = (None, String::new(), Vec::new(), WantCommand::Nothing(0..0));
    let (answered, want_answer) = (None, WantAnswer::default());
    CommandTest { span: span.clone(), device, method, id, props, payload, desired: true, answered, want, want_answer }
}

fn read_given(table: &DeTable<'_>, span: &Span, report: &mut Report<'_>) -> CommandTest {
    let mut keys = Reader::new(table, "the command of a test");
    let owned = |text: Option<Text<'_>>| text.map(|text| text.value.to_owned());
    let device = owned(keys.string("device", report)).unwrap_or_else(|| "test".to_owned());
    let method = owned(keys.string("method", report));
    let id = owned(keys.string("id", report)).unwrap_or_else(|| "1".to_owned());
    let mut props = Vec::new();
    if let Some((table, _)) = keys.table("props", report) {
        for (name, value) in table {
            let entry = Entry { key: name.get_ref(), key_span: name.span(), value };
            props.extend(text(&entry, report).map(|text| (entry.key.to_owned(), Some(text.value.to_owned()))));
        }
    }
    let (payload, hex) = (keys.string("payload", report), keys.string("payload_hex", report));
    if let (Some(_), Some(hex)) = (&payload, &hex) {
        report.error("unused-key", "a test has `payload` or `payload_hex`, not both", hex.span(), "one too many");
    }
    let payload = match (hex, payload) {
        (Some(hex), _) => read_hex(&hex, report),
        (None, payload) => payload.map_or("", |payload| payload.value).as_bytes().to_vec(),
    };
    let answered = keys.string("answered", report).map(|text| text.value.as_bytes().to_vec());
    let answered = keys.string("answered_hex", report).map(|hex| read_hex(&hex, report)).or(answered);
    keys.finish(report);
    let (want, want_answer) = (WantCommand::Nothing(0..0), WantAnswer::default());
    CommandTest { span: span.clone(), device, method, id, props, payload, desired: false, answered, want, want_answer }
}

fn read_want(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Option<(WantCommand, WantAnswer)> {
    let entry = keys.any("want")?;
    if entry.value.get_ref().is_array() {
        let tables = keys.tables("want", report);
        let mut wants = Vec::new();
        for (table, span) in tables {
            let mut keys = Reader::new(table, "what a command is to publish");
            wants.push(read_publish(&mut keys, &span, report));
            keys.finish(report);
        }
        return Some((WantCommand::Publishes(wants), WantAnswer::default()));
    }
    let (table, span) = keys.table("want", report)?;
    let mut keys = Reader::new(table, "what becomes of a command");
    let nothing = keys.boolean("nothing", report);
    let refused = keys.string("refused", report);
    let publish = read_publish(&mut keys, &span, report);
    let answer = WantAnswer {
        status: keys.integer("status", report),
        body: keys.string("body", report).map(|text| (text.value.to_owned(), text.span())),
    };
    keys.finish(report);
    let want = match (refused, nothing) {
        (Some(word), _) => WantCommand::Refused(read_reason(&word, report)?, word.span()),
        (None, Some((true, span))) => WantCommand::Nothing(span),
        _ => WantCommand::Publishes(vec![publish]),
    };
    Some((want, answer))
}

fn read_publish(keys: &mut Reader<'_>, span: &Span, report: &mut Report<'_>) -> WantPublish {
    let owned = |text: Text<'_>| (text.value.to_owned(), text.span());
    WantPublish {
        span: span.clone(),
        topic: keys.string("topic", report).map(owned),
        payload: keys.string("payload", report).map(owned),
        payload_hex: keys.string("payload_hex", report).map(|hex| (read_hex(&hex, report), hex.span())),
        qos: keys.integer("qos", report),
        retain: keys.boolean("retain", report),
        answer: keys.string("answer", report).map(owned),
    }
}
