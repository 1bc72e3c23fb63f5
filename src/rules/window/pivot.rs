//! `pivot`: what several topics say about one device becomes one object.

use super::LARGEST_BODY;
use crate::message::Content;
use crate::rules::QuarantineReason;
use crate::rules::decode::push_key;
use crate::rules::json::{self, Member};
use crate::rules::refusal::{Refusal, shown};
use crate::rules::template::{Facts, Place, Template};

/// The settings of a pivot.
#[derive(Debug, PartialEq)]
pub(in crate::rules) struct Pivot {
    /// What a value is called in the object.
    pub(in crate::rules) name: Template,
    /// Where it is; where nothing is said, in `value`, or it is the whole payload.
    pub(in crate::rules) value: Option<Box<[Box<str>]>>,
    /// Milliseconds.
    pub(in crate::rules) max_wait: i64,
    /// The object is complete with these.
    pub(in crate::rules) complete: Vec<Box<str>>,
    /// It goes up when one of these comes.
    pub(in crate::rules) trigger: Vec<Box<str>>,
}

impl Pivot {
    /// Appends `{"<name>":<value>}`.
    pub(in crate::rules) fn push_named(
        &self,
        facts: &Facts<'_>,
        (body, content): (&[u8], Content<'_>),
        name: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        name.clear();
        if let Err(gap) = self.name.render(facts, Place::Property, name) {
            let detail = format!("`pivot` names the value after a field that the payload does not have: {gap:?}");
            return Err(Refusal::new(QuarantineReason::MissingField, detail));
        }
        let value = match &self.value {
            Some(path) => facts.field(path).ok_or_else(|| {
                let detail = format!("`pivot` needs the field `{}`, the payload does not have it", path.join("."));
                Refusal::new(QuarantineReason::MissingField, detail)
            })?,
            None => whole(body, content)?,
        };
        out.push(b'{');
        push_key(out, &mut { true }, std::str::from_utf8(name).unwrap_or(""));
        out.extend_from_slice(value.as_bytes());
        out.push(b'}');
        too_long(out)
    }

    pub(super) fn is_trigger(&self, name: Option<&str>) -> bool {
        name.is_some_and(|name| self.trigger.iter().any(|trigger| **trigger == *name))
    }

    pub(super) fn is_complete(&self, object: &Object) -> bool {
        let there = |name: &str| object.members.iter().any(|(key, _)| **key == *name);
        !self.complete.is_empty() && self.complete.iter().all(|name| there(name))
    }
}

/// The member `value` of a payload, or all of it.
fn whole<'b>(body: &'b [u8], content: Content<'_>) -> Result<&'b str, Refusal> {
    let text = std::str::from_utf8(body).unwrap_or("");
    let mut members = Vec::new();
    if content != Content::Json || json::scan(text, Some(&mut members)).is_err() {
        let detail = format!("`pivot` needs JSON, the payload is {}", shown(body));
        return Err(Refusal::new(QuarantineReason::NotJson, detail).advise(Some("decode = \"text\"")));
    }
    Ok(json::member(text, &members, "value").unwrap_or(text.trim()))
}

/// Refuses what would make a window larger than a message may be.
pub(super) fn too_long(values: &[u8]) -> Result<(), Refusal> {
    if values.len() <= LARGEST_BODY / 2 {
        return Ok(());
    }
    let detail = format!("the values for the window are longer than {} bytes", LARGEST_BODY / 2);
    Err(Refusal::new(QuarantineReason::TooLong, detail))
}

/// An object in the making: a later value takes the place of an earlier one.
#[derive(Debug, Default)]
pub(super) struct Object {
    /// Key, escapes resolved, and value.
    members: Vec<(Box<str>, Box<str>)>,
    bytes: usize,
}

impl Object {
    /// Puts the members of an object in, and says what the first is called.
    pub(super) fn put(&mut self, text: &str) -> Option<String> {
        let mut members = Vec::new();
        let _ = json::scan(text, Some(&mut members));
        let mut first = None;
        for member in &members {
            let key = key(text, member);
            let value = text.get(member.value.clone()).unwrap_or("");
            first.get_or_insert_with(|| key.clone());
            self.set(key, value);
        }
        first
    }

    pub(super) fn set(&mut self, key: String, value: &str) {
        if let Some((_, old)) = self.members.iter_mut().find(|(known, _)| **known == *key) {
            if **old != *value {
                self.bytes = self.bytes + value.len() - old.len();
                *old = value.into();
            }
            return;
        }
        self.bytes += key.len() + value.len() + 4;
        self.members.push((key.into(), value.into()));
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Appends the members behind those that are there.
    pub(super) fn push(&self, first: &mut bool, out: &mut Vec<u8>) {
        for (key, value) in &self.members {
            push_key(out, first, key);
            out.extend_from_slice(value.as_bytes());
        }
    }

    pub(super) fn finish(&self) -> Vec<u8> {
        let mut out = vec![b'{'];
        self.push(&mut { true }, &mut out);
        out.push(b'}');
        out
    }
}

pub(super) fn key(text: &str, member: &Member) -> String {
    json::unescape(text.get(member.key.clone()).unwrap_or("")).into_owned()
}
