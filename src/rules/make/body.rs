//! A rule's body: an object rewritten by `rename`, `remove`, `scale` and `add`, and values written as JSON.

use std::ops::Range;

use super::Shaped;
use crate::rules::QuarantineReason;
use crate::rules::json::{self, Kind, Member, NotJson};
use crate::rules::refusal::{Refusal, not_json, readable, shown};
use crate::rules::rule::{Decode, Message, Value};
use crate::rules::template::{Facts, Place, Template};

/// Appends a body with what `rename`, `remove` and `add` make of it.
pub(super) fn push_body(
    message: &Message,
    facts: &Facts<'_>,
    (body, value, reshaped): (&[u8], &mut Vec<u8>, &mut Shaped),
    out: &mut Vec<u8>,
) {
    match (message.reshape.is_empty(), message.add.is_empty()) {
        (true, true) => out.extend_from_slice(body),
        (true, false) => enrich(&message.add, facts, (facts.text, facts.members), value, out),
        (false, true) => message.reshape.apply(facts.text, facts.members, out),
        (false, false) => {
            reshaped.text.clear();
            message.reshape.apply(facts.text, facts.members, &mut reshaped.text);
            rescan(&reshaped.text, &mut reshaped.members);
            let text = std::str::from_utf8(&reshaped.text).unwrap_or("");
            enrich(&message.add, facts, (text, &reshaped.members), value, out);
        }
    }
}

/// Lists the members of an object that a rule has written.
pub(super) fn rescan(text: &[u8], members: &mut Vec<Member>) {
    members.clear();
    let _ = json::scan(std::str::from_utf8(text).unwrap_or(""), Some(members));
}

/// Lists the members of a body that must be an object.
pub(super) fn object<'a>(message: &Message, body: &'a [u8], members: &mut Vec<Member>) -> Result<&'a str, Refusal> {
    let text = std::str::from_utf8(body);
    let kind = text.map_err(|_| None).and_then(|text| json::scan(text, Some(members)).map_err(Some));
    match (kind, text) {
        (Ok(Kind::Object), Ok(text)) => Ok(text),
        (Err(error), _) if matches!(message.decode, Some(Decode::Json)) => Err(not_json(body, error)),
        (Err(Some(NotJson::TooDeep)), _) => Err(not_json(body, Some(NotJson::TooDeep))),
        (kind, text) => {
            let advice = match (kind, text) {
                _ if message.decode.is_some() => None,
                (Ok(Kind::Number), _) => Some("decode = \"number\""),
                (_, Ok(_)) => Some("decode = \"text\""),
                (_, Err(_)) => Some(readable(body)),
            };
            let detail = format!("{} needs a JSON object, the payload is {}", message.what_reads(), shown(body));
            Err(Refusal::new(QuarantineReason::NotAnObject, detail).advise(advice))
        }
    }
}

/// Writes the object with the entries of `add`: those whose key is there replace it, the others follow the
/// last member. The values come from `facts`.
pub(super) fn enrich(
    add: &[(Box<str>, Value)],
    facts: &Facts<'_>,
    (text, members): (&str, &[Member]),
    value: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
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
        Value::Column(index) => match facts.column(*index) {
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
