//! Templates: `{level}`, `{.field}`, `{time}`, `{topic}`, `{client}`, and `{{` `}}` for braces.

use std::ops::Range;

use super::json::{self, Kind, Member};
use crate::message::{Publish, Timestamp};

/// Names a template knows beside those from the topic.
pub(super) const BUILT_IN: [&str; 3] = ["time", "topic", "client"];

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(Box<str>),
    /// A named level or capture, by its index in the rule.
    Capture(usize),
    /// A field of the payload, by its path.
    Field(Box<[Box<str>]>),
    /// A column of the table, by its index.
    Column(usize),
    Time,
    Topic,
    Client,
}

/// A text with placeholders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Template(pub(super) Vec<Part>);

/// What a rendered template becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The inside of a JSON string: written with its escapes.
    Json,
    /// A property, as it is.
    Property,
    /// The name of a device, as it is; an object, a list or null names none.
    Device,
}

/// Why a template cannot be rendered: the path of the field it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap<'t> {
    /// The payload does not have it.
    Missing(&'t [Box<str>]),
    /// The row of the table has nothing in this column.
    NoCell(usize),
    /// It names no device.
    NotText(&'t [Box<str>]),
}

/// What is wrong with a template, with the place inside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mistake {
    /// `{` without its `}`.
    Unclosed(Range<usize>),
    /// `}` without its `{`.
    LoneBrace(Range<usize>),
    /// `{}`, `{.}` or `{.a..b}`.
    EmptyName(Range<usize>),
    /// A name that is neither built in nor from the topic.
    Unknown(Range<usize>),
}

impl Template {
    /// Reads a template; `names` are those from the topic, `columns` those of the table. Every mistake is told.
    pub(super) fn parse(text: &str, names: &[String], columns: &[String]) -> (Self, Vec<Mistake>) {
        let mut parts = Vec::new();
        let mut mistakes = Vec::new();
        let mut literal = String::new();
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let doubled = chars.peek().is_some_and(|(_, next)| *next == c);
            match c {
                '{' | '}' if doubled => {
                    chars.next();
                    literal.push(c);
                }
                '}' => mistakes.push(Mistake::LoneBrace(at..at + 1)),
                '{' => {
                    let start = at + 1;
                    let Some(length) = text.get(start..).and_then(|rest| rest.find('}')) else {
                        mistakes.push(Mistake::Unclosed(at..text.len()));
                        break;
                    };
                    let name = start..start + length;
                    while chars.next_if(|(at, _)| *at <= name.end).is_some() {}
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                    }
                    match placeholder(text.get(name.clone()).unwrap_or(""), names, columns) {
                        Ok(part) => parts.push(part),
                        Err(mistake) => mistakes.push(mistake(name)),
                    }
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        (Self(parts), mistakes)
    }

    /// True where a field of the payload is needed.
    pub(super) fn has_field(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Field(_)))
    }

    /// What the template needs of a publish, where it does: a rule with `on` has none.
    pub(super) fn of_publish(&self) -> Option<String> {
        self.0.iter().find_map(|part| match part {
            Part::Field(path) => Some(format!("{{.{}}}", path.join("."))),
            Part::Topic => Some("{topic}".to_owned()),
            _ => None,
        })
    }

    /// The field of a template that is nothing but one field.
    pub(super) fn only_field(&self) -> Option<&[Box<str>]> {
        match self.0.as_slice() {
            [Part::Field(path)] => Some(path),
            _ => None,
        }
    }

    /// The column of a template that is nothing but one column.
    pub(super) fn only_column(&self) -> Option<usize> {
        match self.0.as_slice() {
            [Part::Column(index)] => Some(*index),
            _ => None,
        }
    }

    /// True for a text in which all placeholders are empty and only signs, like the `-` of `{line}-{press}`, are left.
    pub(super) fn is_nothing_but_signs(&self, rendered: &[u8]) -> bool {
        let literals = self.0.iter().map(|part| if let Part::Literal(text) = part { text.len() } else { 0 });
        let is_sign = |byte: &u8| byte.is_ascii_punctuation() || *byte == b' ';
        rendered.iter().all(is_sign)
            && literals.sum::<usize>() == rendered.len()
            && self.0.iter().any(|part| !matches!(part, Part::Literal(_)))
    }

    /// Appends the text. Names the first field that will not do.
    pub(super) fn render<'t>(&'t self, from: &Facts<'_>, place: Place, out: &mut Vec<u8>) -> Result<(), Gap<'t>> {
        let escape = place == Place::Json;
        let put = |out: &mut Vec<u8>, text: &str| match escape {
            true => json::push_escaped(out, text),
            false => out.extend_from_slice(text.as_bytes()),
        };
        for part in &self.0 {
            match part {
                Part::Literal(text) => put(out, text),
                Part::Capture(index) => put(out, from.capture(*index)),
                Part::Topic => put(out, from.publish.topic),
                Part::Client => put(out, from.publish.client),
                Part::Time => push_time(out, from.time),
                Part::Column(_) | Part::Field(_) => {
                    let (value, path) = match part {
                        Part::Column(index) => (from.column(*index), &[][..]),
                        Part::Field(path) => (from.field(path), &**path),
                        _ => (None, &[][..]),
                    };
                    let gap = if let Part::Column(index) = part { Gap::NoCell(*index) } else { Gap::Missing(path) };
                    let value = value.ok_or(gap)?;
                    if place == Place::Device && value.starts_with(['{', '[', 'n']) {
                        return Err(Gap::NotText(path));
                    }
                    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
                        Some(text) if escape => out.extend_from_slice(text.as_bytes()),
                        Some(text) => out.extend_from_slice(json::unescape(text).as_bytes()),
                        None => put(out, value),
                    }
                }
            }
        }
        Ok(())
    }
}

fn placeholder(name: &str, names: &[String], columns: &[String]) -> Result<Part, fn(Range<usize>) -> Mistake> {
    if let Some(path) = name.strip_prefix('.') {
        let path: Box<[Box<str>]> = path.split('.').map(Box::from).collect();
        return if path.iter().any(|step| step.is_empty()) { Err(Mistake::EmptyName) } else { Ok(Part::Field(path)) };
    }
    if let Some(index) = names.iter().position(|known| known == name) {
        return Ok(Part::Capture(index));
    }
    if let Some(index) = columns.iter().position(|known| known == name) {
        return Ok(Part::Column(index));
    }
    match name {
        "" => Err(Mistake::EmptyName),
        "time" => Ok(Part::Time),
        "topic" => Ok(Part::Topic),
        "client" => Ok(Part::Client),
        _ => Err(Mistake::Unknown),
    }
}

fn push_time(out: &mut Vec<u8>, time: Timestamp) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{time}");
}

/// What a template is filled from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) publish: &'a Publish<'a>,
    /// Where the captures are in the topic.
    pub(super) captures: &'a [Range<usize>],
    /// What the names behind the captures stand for: those of rules with `on`, and those of the decoder.
    pub(super) more: [&'a [&'a str]; 2],
    /// What the columns of a table stand for.
    pub(super) row: &'a [Option<Box<str>>],
    /// The moment the message is of.
    pub(super) time: Timestamp,
    /// The payload as JSON, and the members of its object; both empty where no field is needed.
    pub(super) text: &'a str,
    pub(super) members: &'a [Member],
}

impl<'a> Facts<'a> {
    pub(super) fn capture(&self, mut index: usize) -> &'a str {
        if let Some(place) = self.captures.get(index) {
            return self.publish.topic.get(place.clone()).unwrap_or("");
        }
        index -= self.captures.len();
        for names in self.more {
            if let Some(text) = names.get(index) {
                return text;
            }
            index -= names.len();
        }
        ""
    }

    /// The JSON text of a column of the table.
    pub(super) fn column(&self, index: usize) -> Option<&'a str> {
        self.row.get(index)?.as_deref()
    }

    /// The JSON text of a field. Of a key that is there twice the last one counts.
    pub(super) fn field(&self, path: &[Box<str>]) -> Option<&'a str> {
        let (first, rest) = path.split_first()?;
        let mut value = json::member(self.text, self.members, first)?;
        let mut inner = Vec::new();
        for step in rest {
            if json::scan(value, Some(&mut inner)) != Ok(Kind::Object) {
                return None;
            }
            value = json::member(value, &inner, step)?;
        }
        Some(value)
    }
}
