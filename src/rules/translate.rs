//! The hot path: one publish through its rules into records.

use std::fmt::Write as _;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::index::{Cache, Route};
use super::json::{self, Kind, Member, NotJson};
use super::rule::{Action, Decode, Message, Value};
use super::template::{Facts, Gap, Place, Template};
use super::{QuarantineReason, RuleIndex, Rules, Verdict};
use crate::message::{Content, Event, Presence, Publish, RecordWriter};

/// Room an [`Output`] keeps in each of its buffers from one translation to the next, in bytes.
const KEPT: usize = 1 << 20;

/// Where a translation puts its records, and what it needs to work without allocating. One per connection.
#[derive(Debug, Default)]
pub struct Output {
    records: Vec<u8>,
    /// The rule of each record and where the record ends.
    ends: Vec<(Option<RuleIndex>, usize)>,
    detail: String,
    advice: Option<&'static str>,
    cache: Cache,
    work: Work,
}

#[derive(Debug, Default)]
struct Work {
    decoded: Vec<u8>,
    members: Vec<Member>,
    device: Vec<u8>,
    value: Vec<u8>,
}

/// Why a message cannot be made: the reason, in words, and the `decode` that would do.
struct Refusal(QuarantineReason, String, Option<&'static str>);

impl Output {
    /// An empty output.
    pub fn new() -> Self {
        Self::default()
    }

    /// The records of the last translation with the rule that made each. What [`forward`] made has no rule
    /// and is given with `RuleIndex::MAX`.
    pub fn records(&self) -> impl Iterator<Item = (RuleIndex, &[u8])> + Clone {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        starts
            .zip(&self.ends)
            .map(|(start, (rule, end))| (rule.unwrap_or(RuleIndex::MAX), self.records.get(start..*end).unwrap_or(&[])))
    }

    /// In words why the last publish was quarantined; empty otherwise.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What the rule could say to take such a payload, if there is something.
    pub fn advice(&self) -> Option<&'static str> {
        self.advice
    }

    /// Forgets the last translation. What one huge payload needed is given back.
    fn clear(&mut self) {
        let Work { decoded, members, device, value } = &mut self.work;
        for buffer in [&mut self.records, decoded, device, value] {
            buffer.clear();
            buffer.shrink_to(KEPT);
        }
        members.clear();
        members.shrink_to(KEPT / size_of::<Member>());
        self.ends.clear();
        self.detail.clear();
        self.advice = None;
    }
}

pub(super) fn translate(rules: &Rules, publish: &Publish<'_>, out: &mut Output) -> Verdict {
    out.clear();
    let Output { records, ends, detail, advice, cache, work } = out;
    let route = cache.route(rules.number, &rules.index, &rules.rules, publish.topic);
    follow(rules, route, (publish, [""; 2]), Made { records, ends, detail, advice, work })
}

pub(super) fn presence(rules: &Rules, presence: &Presence<'_>, out: &mut Output) -> Verdict {
    out.clear();
    let Output { records, ends, detail, advice, cache, work } = out;
    let index = match presence.event {
        Event::Connect => &rules.on_connect,
        Event::Disconnect => &rules.on_disconnect,
    };
    let route = cache.find(index, &rules.rules, presence.client);
    let source = (&presence.as_publish(), [presence.address, presence.reason]);
    follow(rules, route, source, Made { records, ends, detail, advice, work })
}

/// An [`Output`] without its cache.
struct Made<'o> {
    records: &'o mut Vec<u8>,
    ends: &'o mut Vec<(Option<RuleIndex>, usize)>,
    detail: &'o mut String,
    advice: &'o mut Option<&'static str>,
    work: &'o mut Work,
}

/// What a message is made from: the publish, and what the names behind those of the pattern stand for.
type Source<'a> = (&'a Publish<'a>, [&'a str; 2]);

fn follow(rules: &Rules, route: &Route, source: Source<'_>, out: Made<'_>) -> Verdict {
    for (index, captures) in route.steps() {
        let Some(rule) = rules.rules.get(index) else { continue };
        match &rule.action {
            Action::Drop if out.ends.is_empty() => return Verdict::Dropped { rule: index },
            Action::Drop => {}
            Action::Send(message) => match send(message, source, captures, out.records, out.work) {
                Ok(()) => out.ends.push((Some(index), out.records.len())),
                Err(Refusal(reason, detail, advice)) => {
                    *out.detail = detail;
                    *out.advice = advice;
                    return Verdict::Quarantined { rule: index, reason };
                }
            },
        }
    }
    if out.ends.is_empty() { Verdict::Unmatched } else { Verdict::Translated }
}

/// Makes the message for a publish that no rule matched and that is to go up all the same: from the bridge's own
/// identity, the payload as it is, the topic in the property `topic`. Nothing is made of a topic that is too long.
pub fn forward(publish: &Publish<'_>, out: &mut Output) {
    out.clear();
    let mut writer = RecordWriter::begin(&mut out.records, publish.received, look(publish.payload), |_| ());
    writer.property("topic", |value| value.extend_from_slice(publish.topic.as_bytes()));
    if writer.finish(|body| body.extend_from_slice(publish.payload)).is_ok() {
        out.ends.push((None, out.records.len()));
    }
}

/// What a payload is, by its looks.
fn look(payload: &[u8]) -> Content<'static> {
    match std::str::from_utf8(payload) {
        Ok("") => Content::None,
        Ok(text) if json::scan(text, None).is_ok() => Content::Json,
        Ok(_) => Content::Text,
        Err(_) => Content::Binary,
    }
}

fn send(
    message: &Message,
    (publish, more): Source<'_>,
    captures: &[Range<usize>],
    records: &mut Vec<u8>,
    work: &mut Work,
) -> Result<(), Refusal> {
    let Work { decoded, members, device, value } = work;
    members.clear();
    let (content, body) = decode(message, publish.payload, decoded)?;
    let needs_object = message.reads_fields || !message.add.is_empty();
    let text = if needs_object { object(message, body, members)? } else { "" };
    let facts = Facts { publish, captures, more, text, members };
    device.clear();
    message.device.render(&facts, Place::Device, device).map_err(no_device)?;
    if device.is_empty() {
        return Err(Refusal(QuarantineReason::EmptyDevice, "the name of the device is empty".into(), None));
    }
    let content = content.unwrap_or_else(|| if needs_object { Content::Json } else { look(body) });
    let mut writer = RecordWriter::begin(records, publish.received, content, |out| out.extend_from_slice(device));
    for (name, template) in &message.props {
        value.clear();
        if template.render(&facts, Place::Property, value).is_ok() {
            writer.property(name, |out| out.extend_from_slice(value));
        }
    }
    let written = writer.finish(|out| match needs_object && !message.add.is_empty() {
        true => enrich(&message.add, &facts, value, out),
        false => out.extend_from_slice(body),
    });
    written.map_err(|_| {
        let detail = "the device or a property is longer than 65535 bytes".into();
        Refusal(QuarantineReason::TooLong, detail, None)
    })
}

fn no_device(gap: Gap<'_>) -> Refusal {
    match gap {
        Gap::Missing(path) => {
            let detail = format!("`device` needs the field `{}`, the payload does not have it", path.join("."));
            Refusal(QuarantineReason::MissingField, detail, None)
        }
        Gap::NotText(path) => {
            let detail = format!("the field `{}` names no device: it is an object, a list or null", path.join("."));
            Refusal(QuarantineReason::DeviceNotText, detail, None)
        }
    }
}

/// The body before `add`, and what it is where `decode` decides that.
fn decode<'a>(
    message: &Message,
    payload: &'a [u8],
    decoded: &'a mut Vec<u8>,
) -> Result<(Option<Content<'static>>, &'a [u8]), Refusal> {
    let Some(decode) = message.decode else { return Ok((None, payload)) };
    decoded.clear();
    match decode {
        Decode::Raw => return Ok((Some(Content::Binary), payload)),
        Decode::Json => {
            // `object` looks at the whole payload again only where fields are needed.
            if message.add.is_empty() && !message.reads_fields {
                let text = std::str::from_utf8(payload).map_err(|_| not_json(payload, None))?;
                json::scan(text, None).map_err(|error| not_json(payload, Some(error)))?;
            }
            return Ok((Some(Content::Json), payload));
        }
        Decode::Text => {
            let text = std::str::from_utf8(payload).map_err(|error| {
                let detail = format!("the payload is not text: byte {} is no UTF-8", error.valid_up_to() + 1);
                Refusal(QuarantineReason::NotText, detail, Some(BASE64))
            })?;
            decoded.extend_from_slice(b"{\"value\":\"");
            json::push_escaped(decoded, text);
            decoded.extend_from_slice(b"\"}");
        }
        Decode::Number => {
            decoded.extend_from_slice(b"{\"value\":");
            let text = std::str::from_utf8(payload).unwrap_or("");
            if !push_number(text.trim(), decoded) {
                let mut detail = format!("the payload is not a number: {}", shown(payload));
                if is_number(&text.trim().replacen(',', ".", 1)) {
                    detail.push_str(" (a decimal comma?)");
                }
                return Err(Refusal(QuarantineReason::NotANumber, detail, None));
            }
            decoded.push(b'}');
        }
        Decode::RawBase64 => {
            decoded.extend_from_slice(b"{\"value_base64\":\"");
            let start = decoded.len();
            decoded.resize(start + payload.len().div_ceil(3) * 4, 0);
            let end = decoded.get_mut(start..).and_then(|room| STANDARD.encode_slice(payload, room).ok()).unwrap_or(0);
            decoded.truncate(start + end);
            decoded.extend_from_slice(b"\"}");
        }
    }
    Ok((Some(Content::Json), decoded))
}

const BASE64: &str = "decode = { format = \"raw\", as = \"base64\" }";

/// Lists the members of a body that must be an object.
fn object<'a>(message: &Message, body: &'a [u8], members: &mut Vec<Member>) -> Result<&'a str, Refusal> {
    let text = std::str::from_utf8(body);
    let kind = text.map_err(|_| None).and_then(|text| json::scan(text, Some(members)).map_err(Some));
    let what = if message.add.is_empty() { "`{.field}`" } else { "`add`" };
    match (kind, text) {
        (Ok(Kind::Object), Ok(text)) => Ok(text),
        (Err(error), _) if message.decode == Some(Decode::Json) => Err(not_json(body, error)),
        (Err(Some(NotJson::TooDeep)), _) => Err(not_json(body, Some(NotJson::TooDeep))),
        (kind, text) => {
            let advice = match (kind, text) {
                _ if message.decode.is_some() => None,
                (Ok(Kind::Number), _) => Some("decode = \"number\""),
                (_, Ok(_)) => Some("decode = \"text\""),
                (_, Err(_)) => Some(BASE64),
            };
            let detail = format!("{what} needs a JSON object, the payload is {}", shown(body));
            Err(Refusal(QuarantineReason::NotAnObject, detail, advice))
        }
    }
}

fn not_json(payload: &[u8], error: Option<NotJson>) -> Refusal {
    match error {
        Some(NotJson::TooDeep) => {
            let detail = format!("the payload nests deeper than {} levels", json::MAX_DEPTH);
            Refusal(QuarantineReason::TooDeep, detail, None)
        }
        Some(NotJson::Invalid { at }) => {
            let detail = format!("the payload is not JSON, at byte {}: {}", at + 1, shown(payload));
            Refusal(QuarantineReason::NotJson, detail, Some("decode = \"text\""))
        }
        None => {
            let detail = format!("the payload is not JSON: {}", shown(payload));
            Refusal(QuarantineReason::NotJson, detail, Some(BASE64))
        }
    }
}

/// The beginning of a payload for a message to a person.
fn shown(payload: &[u8]) -> String {
    const LENGTH: usize = 40;
    let head = payload.get(..LENGTH).unwrap_or(payload);
    let more = if payload.len() > LENGTH { " ..." } else { "" };
    match std::str::from_utf8(head) {
        _ if payload.is_empty() => "empty".to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => format!("`{text}`{more}"),
        _ => {
            let mut hex = String::from("the bytes");
            for byte in head.iter().take(16) {
                let _ = write!(hex, " {byte:02x}");
            }
            if payload.len() > 16 { hex + " ..." } else { hex }
        }
    }
}

/// True for what `decode = "number"` takes.
pub(super) fn is_number(text: &str) -> bool {
    push_number(text, &mut Vec::new())
}

/// Appends a number as JSON wants it. The digits stay as written; a `+`, leading zeros, and a point without
/// digits beside it, which equipment writes and JSON does not know, are put right.
fn push_number(text: &str, out: &mut Vec<u8>) -> bool {
    let plausible = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(plausible) || !text.parse().is_ok_and(f64::is_finite) {
        return false;
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = digits.split_at(digits.find(['e', 'E']).unwrap_or(digits.len()));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches('0');
    out.extend_from_slice(sign.as_bytes());
    out.extend_from_slice(if whole.is_empty() { "0" } else { whole }.as_bytes());
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
    out.extend_from_slice(exponent.as_bytes());
    true
}

/// Writes the object with the entries of `add`: those whose key is there replace it, the others follow the
/// last member.
fn enrich(add: &[(Box<str>, Value)], facts: &Facts<'_>, value: &mut Vec<u8>, out: &mut Vec<u8>) {
    let Facts { text, members, .. } = *facts;
    let bytes = |place: Range<usize>| text.as_bytes().get(place).unwrap_or(&[]);
    let there = |key: &str| members.iter().any(|member| member.is(text, key));
    let mut copied = 0;
    if add.iter().any(|(key, _)| there(key)) {
        for member in members {
            let Some((_, new)) = add.iter().find(|(key, _)| member.is(text, key)) else { continue };
            value.clear();
            if push_value(new, facts, value) {
                out.extend_from_slice(bytes(copied..member.value.start));
                out.extend_from_slice(value);
                copied = member.value.end;
            }
        }
    }
    let end = members.last().map_or_else(|| text.rfind('}').unwrap_or(text.len()), |last| last.value.end);
    out.extend_from_slice(bytes(copied..end));
    let mut first = members.is_empty();
    for (key, new) in add.iter().filter(|(key, _)| !there(key)) {
        push_entry(key, new, facts, &mut first, out);
    }
    out.extend_from_slice(bytes(end..text.len()));
}

/// Appends `"key":value` with a comma before it where needed; nothing where a field is missing.
fn push_entry(key: &str, value: &Value, facts: &Facts<'_>, first: &mut bool, out: &mut Vec<u8>) {
    let start = out.len();
    if !*first {
        out.push(b',');
    }
    out.push(b'"');
    json::push_escaped(out, key);
    out.extend_from_slice(b"\":");
    match push_value(value, facts, out) {
        true => *first = false,
        false => out.truncate(start),
    }
}

/// Appends a value as JSON; false where a field is missing, and then what is appended is to be taken back.
fn push_value(value: &Value, facts: &Facts<'_>, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Constant(json) => out.extend_from_slice(json.as_bytes()),
        Value::Field(path) => match facts.field(path) {
            Some(json) => out.extend_from_slice(json.as_bytes()),
            None => return false,
        },
        Value::Text(template) => return push_text(template, facts, out),
        Value::List(values) => {
            out.push(b'[');
            let mut first = true;
            for value in values {
                let start = out.len();
                if !first {
                    out.push(b',');
                }
                match push_value(value, facts, out) {
                    true => first = false,
                    false => out.truncate(start),
                }
            }
            out.push(b']');
        }
        Value::Table(entries) => {
            out.push(b'{');
            let mut first = true;
            for (key, value) in entries {
                push_entry(key, value, facts, &mut first, out);
            }
            out.push(b'}');
        }
    }
    true
}

fn push_text(template: &Template, facts: &Facts<'_>, out: &mut Vec<u8>) -> bool {
    out.push(b'"');
    let whole = template.render(facts, Place::Json, out).is_ok();
    out.push(b'"');
    whole
}
