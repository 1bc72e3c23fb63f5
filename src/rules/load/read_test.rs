//! One `[[test]]`.

use toml::de::{DeTable, DeValue};

use super::durations;
use super::read_reported::TO;
use super::read_rule::PRIORITIES;
use super::{read_command_test, read_on};
use crate::diag::walk::{Reader, Report, Text};
use crate::diag::{Span, nearest};
use crate::message::{Event, Timestamp};
use crate::rules::QuarantineReason;
use crate::rules::testing::{On, Sent, TEST_TIME, Test, Want, WantMessage};

/// Reads a test; none where it has a mistake.
pub(super) fn read<'a>(table: &'a DeTable<'a>, span: &Span, number: usize, report: &mut Report<'_>) -> Option<Test> {
    if table.contains_key("command") || table.contains_key("desired") {
        return read_command_test::read(table, span, number, report);
    }
    let before = report.found.len();
    let mut keys = Reader::new(table, "test");
    let name = keys.string("name", report);
    let on = read_on::event(&mut keys, report);
    let (address, reason) = match on {
        Some(_) => (keys.string("address", report), keys.string("reason", report)),
        None => (None, None),
    };
    let clock = read_clock(&mut keys, report);
    let own = read_sent(&mut keys, on, None, report);
    let mut sent = Vec::new();
    let several = table.contains_key("send") && on.is_none();
    if on.is_none() {
        for (table, place) in keys.tables("send", report) {
            let mut keys = Reader::new(table, "send");
            let one = read_sent(&mut keys, None, Some(&own), report);
            keys.finish(report);
            if one.topic.is_none() {
                report.error("no-topic", "the test does not say on which topic", place, "no `topic`");
            }
            sent.push(one);
        }
    }
    let want = read_want(&mut keys, report);
    let mistyped = keys.finish(report);
    let missing = |key: &str| table.get(key).is_none() && !mistyped.contains(&key);
    if missing("want") {
        let found = report.new_error("no-want", "the test does not say what it wants").at(span.clone(), "no `want`");
        report.push(found.help("want.device = \"press7\", want.payload = '{\"v\": 1}' or want.nothing = true"));
    }
    if missing("topic") && missing("on") && !several {
        report.error("no-topic", "the test does not say on which topic", span.clone(), "no `topic`");
    }
    if report.found.len() > before {
        return None;
    }
    let on = on.map(|event| On {
        event,
        address: address.map_or("192.0.2.1", |address| address.value).to_owned(),
        reason: match event {
            Event::Connect => String::new(),
            Event::Disconnect => reason.map_or("connection_lost", |reason| reason.value).to_owned(),
        },
    });
    if !several {
        sent = vec![own];
    }
    let sent: Vec<Sent> = sent.into_iter().map(|one| one.finish(on.is_some(), clock, span)).collect();
    let shown = sent.first().map_or("", |sent| sent.topic.as_str());
    Some(Test {
        file: report.file,
        name: name.map_or_else(|| format!("test {number} ({shown})"), |name| name.value.to_owned()),
        on,
        sent,
        want: want?,
        command: None,
    })
}

/// Reads where the clock of the test begins: a date and time of TOML, or one in quotes.
fn read_clock(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Timestamp {
    let Some(entry) = keys.any("clock") else { return TEST_TIME };
    let text = match entry.value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        _ => String::new(),
    };
    text.parse::<jiff::Timestamp>().map_or_else(
        |_| {
            let found = report.new_error("bad-time", "`clock` is not a moment").at(entry.value.span(), "");
            report.push(found.help("clock = \"2026-11-21T06:00:00Z\""));
            TEST_TIME
        },
        |time| Timestamp(time.as_millisecond()),
    )
}

/// A publish as read.
#[derive(Clone)]
struct Draft<'a> {
    topic: Option<Text<'a>>,
    client: Option<Text<'a>>,
    user: Option<Text<'a>>,
    payload: Vec<u8>,
    qos: u8,
    retained: bool,
    at: i64,
}

impl Draft<'_> {
    fn finish(self, on: bool, clock: Timestamp, span: &Span) -> Sent {
        let client = self.client.unwrap_or(Text::new("test", span));
        let topic = if on { client } else { self.topic.unwrap_or(Text::new("", span)) };
        Sent {
            topic: topic.value.to_owned(),
            topic_span: topic.span(),
            client: client.value.to_owned(),
            user: self.user.map(|user| user.value.to_owned()),
            payload: self.payload,
            qos: self.qos,
            retained: self.retained,
            clock,
            at: self.at,
        }
    }
}

/// Reads one publish; what it does not say is as in `outer`.
fn read_sent<'a>(
    keys: &mut Reader<'a>,
    on: Option<Event>,
    outer: Option<&Draft<'a>>,
    report: &mut Report<'_>,
) -> Draft<'a> {
    let client = keys.string("client", report);
    let at = durations::read(keys, "at", report);
    let mut draft = Draft {
        topic: None,
        client: client.or(outer.and_then(|outer| outer.client)),
        user: None,
        payload: Vec::new(),
        qos: 1,
        retained: false,
        at: at.or(outer.map(|outer| outer.at)).unwrap_or(0),
    };
    if on.is_some() {
        return draft;
    }
    let topic = keys.string("topic", report);
    if let Some(topic) = &topic
        && let Err(error) = crate::topic::check_name(topic.value)
    {
        report.error("bad-topic", error.to_string(), topic.span(), "");
    }
    draft.topic = topic.or(outer.and_then(|outer| outer.topic));
    draft.user = keys.string("user", report).or(outer.and_then(|outer| outer.user));
    let qos = keys.integer("qos", report).map(|(qos, place)| {
        u8::try_from(qos).ok().filter(|qos| *qos <= 2).unwrap_or_else(|| {
            report.error("wrong-type", "`qos` is 0, 1 or 2", place, "");
            1
        })
    });
    draft.qos = qos.or(outer.map(|outer| outer.qos)).unwrap_or(1);
    let retained = keys.boolean("retained", report).map(|(retained, _)| retained);
    draft.retained = retained.or(outer.map(|outer| outer.retained)).unwrap_or(false);
    let (payload, hex) = (keys.string("payload", report), keys.string("payload_hex", report));
    if let (Some(_), Some(hex)) = (&payload, &hex) {
        report.error("unused-key", "a test has `payload` or `payload_hex`, not both", hex.span(), "one too many");
    }
    draft.payload = match (hex, payload, outer) {
        (Some(hex), ..) => read_hex(&hex, report),
        (None, Some(text), _) => text.value.as_bytes().to_vec(),
        (None, None, Some(outer)) => outer.payload.clone(),
        (None, None, None) => Vec::new(),
    };
    draft
}

fn read_want(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Option<Want> {
    let entry = keys.any("want")?;
    if entry.value.get_ref().is_array() {
        let tables = keys.tables("want", report);
        return Some(Want::Messages(
            tables
                .iter()
                .map(|(table, span)| {
                    let mut keys = Reader::new(table, "want");
                    let want = read_message(&mut keys, span, report);
                    keys.finish(report);
                    want
                })
                .collect(),
        ));
    }
    let (table, want_span) = keys.table("want", report)?;
    let mut keys = Reader::new(table, "want");
    let count = keys.integer("count", report);
    let nothing = keys.boolean("nothing", report);
    let quarantine = keys.string("quarantine", report);
    let message = read_message(&mut keys, &want_span, report);
    keys.finish(report);
    let no_message = match (&quarantine, &nothing) {
        (Some(_), _) => Some("quarantine"),
        (None, Some((true, _))) => Some("nothing"),
        _ => None,
    };
    if let (Some(instead), Some(span)) = (no_message, message.first_place()) {
        let title = format!("a test that wants `{instead}` can want nothing of a message");
        report.error("unused-key", title, span, "there is no message to compare");
    }
    if let Some((count, span)) = count {
        let wanted = usize::try_from(count).ok();
        if wanted.is_none() {
            report.error("wrong-type", "`count` cannot be negative", span.clone(), "");
        }
        if message.first_place().is_none() && no_message.is_none() {
            return wanted.map(|count| Want::Count(count, span));
        }
        report.error("unused-key", "`count` stands alone", span, "to compare messages write want = [ {..}, {..} ]");
    }
    if let Some(word) = quarantine {
        return read_reason(&word, report).map(|reason| Want::Quarantine(reason, word.span()));
    }
    match nothing {
        Some((true, span)) => Some(Want::Nothing(span)),
        _ => Some(Want::Messages(vec![message])),
    }
}

pub(super) fn read_reason(word: &Text<'_>, report: &mut Report<'_>) -> Option<QuarantineReason> {
    let reason = QuarantineReason::ALL.into_iter().find(|reason| reason.label() == word.value);
    if reason.is_none() {
        let labels = QuarantineReason::ALL.map(QuarantineReason::label);
        let title = format!("unknown reason `{}`", word.value);
        let found = report.new_error("unknown-reason", title).at(word.span(), "");
        report.push(match nearest(word.value, labels) {
            Some(meant) => found.fix(word.span(), format!("\"{meant}\"")),
            None => found.help(format!("reasons: {}", labels.join(", "))),
        });
    }
    reason
}

fn read_message(keys: &mut Reader<'_>, span: &Span, report: &mut Report<'_>) -> WantMessage {
    let owned = |text: Text<'_>| (text.value.to_owned(), text.span());
    let device = keys.string("device", report).map(owned);
    let payload = keys.string("payload", report).map(owned);
    let time = keys.string("time", report).map(owned);
    let place = keys.any("priority").map(|entry| entry.value.span());
    let urgent = keys.word("priority", &PRIORITIES, "unknown-word", report).zip(place);
    let place = keys.any("to").map(|entry| entry.value.span());
    let reported = keys.word("to", &TO, "unknown-word", report).zip(place);
    let mut props = Vec::new();
    if let Some((table, _)) = keys.table("props", report) {
        for (name, value) in table {
            let entry = crate::diag::walk::Entry { key: name.get_ref(), key_span: name.span(), value };
            if let Some(text) = crate::diag::walk::text(&entry, report) {
                props.push((entry.key.to_owned(), text.value.to_owned(), text.span()));
            }
        }
    }
    WantMessage { span: span.clone(), device, payload, time, urgent, reported, props }
}

pub(super) fn read_hex(text: &Text<'_>, report: &mut Report<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut high = None;
    for (at, c) in text.value.char_indices().filter(|(_, c)| !c.is_whitespace()) {
        let Some(digit) = c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()) else {
            let place = text.part(report.text, at..at + c.len_utf8());
            report.error("bad-hex", "this is not a hexadecimal digit", place, "0 to 9 and a to f");
            return bytes;
        };
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(high << 4 | digit),
        }
    }
    if high.is_some() {
        report.error("bad-hex", "a hexadecimal digit is missing", text.span(), "a byte has two digits");
    }
    bytes
}
