//! One rule's messages: decode, read the fields, write the records.

use std::ops::Range;

use super::QuarantineReason;
use super::clock::Doubt;
use super::decode::{self, Births, Body, Decoded};
use super::json::{self, Kind, Member, NotJson};
use super::refusal::{BASE64, Refusal, not_json, shown};
use super::rule::{Decode, Message, Value};
use super::template::{Facts, Gap, Place, Template};
use crate::message::{Content, Publish, RecordWriter};

/// What making a message needs, kept from one to the next so that nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Work {
    decoded: Decoded,
    members: Vec<Member>,
    device: Vec<u8>,
    value: Vec<u8>,
}

impl Work {
    /// Forgets everything and keeps at most `kept` bytes of room in each buffer.
    pub(super) fn clear(&mut self, kept: usize) {
        self.decoded.clear(kept);
        for buffer in [&mut self.device, &mut self.value] {
            buffer.clear();
            buffer.shrink_to(kept);
        }
        self.members.clear();
        self.members.shrink_to(kept / size_of::<Member>());
    }
}

/// What a message is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) publish: &'a Publish<'a>,
    pub(super) captures: &'a [Range<usize>],
    /// What the names of a rule with `on` stand for.
    pub(super) event: &'a [&'a str],
    pub(super) births: &'a Births,
}

/// The records made so far.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) bytes: Vec<u8>,
    /// The rule of each record and where the record ends.
    pub(super) ends: Vec<(Option<super::RuleIndex>, usize)>,
    /// Where the time of a payload was not taken.
    pub(super) doubts: Vec<(super::RuleIndex, Doubt)>,
}

/// Makes all messages of a rule, or none.
pub(super) fn make(
    message: &Message,
    rule: super::RuleIndex,
    source: &Source<'_>,
    work: &mut Work,
    records: &mut Records,
) -> Result<(), Refusal> {
    let (bytes, ends) = (records.bytes.len(), records.ends.len());
    let made = all(message, rule, source, work, records);
    if made.is_err() {
        records.bytes.truncate(bytes);
        records.ends.truncate(ends);
    }
    made
}

fn all(
    message: &Message,
    rule: super::RuleIndex,
    source: &Source<'_>,
    work: &mut Work,
    records: &mut Records,
) -> Result<(), Refusal> {
    let payload = source.publish.payload;
    let Work { decoded, members, device, value } = work;
    let mut buffers = Buffers { members, device, value };
    let Some(format) = &message.decode else {
        return one(message, (source, &[]), (payload, None), &mut buffers, (rule, records));
    };
    decoded.clear(usize::MAX);
    let needs_object = message.reads_fields || !message.add.is_empty();
    match decode::decode(format, (source.publish, needs_object), source.births, decoded)? {
        Body::Payload(content) => one(message, (source, &[]), (payload, content), &mut buffers, (rule, records)),
        Body::Items(content) => decoded.items.iter().try_for_each(|item| {
            let names = decoded.names(item);
            let names = names.get(..format.names().len()).unwrap_or(&[]);
            one(message, (source, names), (decoded.body(item), content), &mut buffers, (rule, records))
        }),
    }
}

struct Buffers<'w> {
    members: &'w mut Vec<Member>,
    device: &'w mut Vec<u8>,
    value: &'w mut Vec<u8>,
}

/// Makes the message of one body.
fn one(
    message: &Message,
    (source, names): (&Source<'_>, &[&str]),
    (body, content): (&[u8], Option<Content<'static>>),
    Buffers { members, device, value }: &mut Buffers<'_>,
    (rule, records): (super::RuleIndex, &mut Records),
) -> Result<(), Refusal> {
    members.clear();
    let needs_object = message.reads_fields || !message.add.is_empty();
    let text = if needs_object { object(message, body, members)? } else { "" };
    let Source { publish, captures, event, .. } = *source;
    let row = &[];
    let mut facts = Facts { publish, captures, more: [event, names], row, time: publish.received, text, members };
    if let Some(clock) = &message.time {
        match clock.read(&facts) {
            Ok(time) => facts.time = time,
            Err(doubt) => records.doubts.push((rule, doubt)),
        }
    }
    device.clear();
    message.device.render(&facts, Place::Device, device).map_err(no_device)?;
    if device.is_empty() {
        return Err(Refusal::new(QuarantineReason::EmptyDevice, "the name of the device is empty"));
    }
    let content = content.unwrap_or_else(|| if needs_object { Content::Json } else { look(body) });
    let out = &mut records.bytes;
    let mut writer = RecordWriter::begin(out, facts.time, content, |out| out.extend_from_slice(device));
    for (name, template) in &message.props {
        value.clear();
        if template.render(&facts, Place::Property, value).is_ok() {
            writer.property(name, |out| out.extend_from_slice(value));
        }
    }
    let written = writer.finish(|out| match message.add.is_empty() {
        false => enrich(&message.add, &facts, value, out),
        true => out.extend_from_slice(body),
    });
    written
        .map_err(|_| Refusal::new(QuarantineReason::TooLong, "the device or a property is longer than 65535 bytes"))?;
    records.ends.push((Some(rule), records.bytes.len()));
    Ok(())
}

/// What a payload is, by its looks.
pub(super) fn look(payload: &[u8]) -> Content<'static> {
    match std::str::from_utf8(payload) {
        Ok("") => Content::None,
        Ok(text) if json::scan(text, None).is_ok() => Content::Json,
        Ok(_) => Content::Text,
        Err(_) => Content::Binary,
    }
}

fn no_device(gap: Gap<'_>) -> Refusal {
    match gap {
        Gap::Missing(path) => {
            let detail = format!("`device` needs the field `{}`, the payload does not have it", path.join("."));
            Refusal::new(QuarantineReason::MissingField, detail)
        }
        Gap::NotText(path) => {
            let detail = format!("the field `{}` names no device: it is an object, a list or null", path.join("."));
            Refusal::new(QuarantineReason::DeviceNotText, detail)
        }
    }
}

/// Lists the members of a body that must be an object.
fn object<'a>(message: &Message, body: &'a [u8], members: &mut Vec<Member>) -> Result<&'a str, Refusal> {
    let text = std::str::from_utf8(body);
    let kind = text.map_err(|_| None).and_then(|text| json::scan(text, Some(members)).map_err(Some));
    let what = if message.add.is_empty() { "`{.field}`" } else { "`add`" };
    match (kind, text) {
        (Ok(Kind::Object), Ok(text)) => Ok(text),
        (Err(error), _) if matches!(message.decode, Some(Decode::Json)) => Err(not_json(body, error)),
        (Err(Some(NotJson::TooDeep)), _) => Err(not_json(body, Some(NotJson::TooDeep))),
        (kind, text) => {
            let advice = match (kind, text) {
                _ if message.decode.is_some() => None,
                (Ok(Kind::Number), _) => Some("decode = \"number\""),
                (_, Ok(_)) => Some("decode = \"text\""),
                (_, Err(_)) => Some(BASE64),
            };
            let detail = format!("{what} needs a JSON object, the payload is {}", shown(body));
            Err(Refusal::new(QuarantineReason::NotAnObject, detail).advise(advice))
        }
    }
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
