//! A JSON Schema for bridge.toml, so that editors complete and mark it.
//!
//! Nothing of it is written down here: keys, types, words and ranges are what the reading itself asks for, told by
//! [`Section`] while it reads a file without keys; what a key means and its default are the words of
//! bridge.toml.example, where every key stands. It is of draft 7.

use serde_json::{Map, Value, json};

use super::read::Section;
use super::units;
use crate::diag::walk::Report;

/// The file with every key, its default and a few words about it.
const EXAMPLE: &str = include_str!("../../bridge.toml.example");

/// What a key can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Texts,
    /// One text, or a list of them.
    TextOrTexts,
    Flag,
    /// One of these.
    Words(Vec<&'static str>),
    Count(i64, i64),
    /// `"auto"`, or a count.
    CountOrAuto(i64, i64),
    Size,
    Duration,
    /// A table of lists, under any keys.
    Lists,
    /// A table: the keys noted for it.
    Section(&'static str),
}

/// A key that the reading asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// The section as it is called in messages.
    pub(super) section: String,
    pub(super) key: &'static str,
    pub(super) shape: Shape,
}

/// The schema.
pub fn schema() -> Value {
    let known = known();
    let words = words();
    let mut schema = object("bridge.toml", &known, &words);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
        schema.insert("title".to_owned(), json!("brownbridge: bridge.toml"));
        schema.insert("required".to_owned(), json!(["uplink"]));
    }
    schema
}

/// Every key of bridge.toml, each once.
pub(super) fn known() -> Vec<Known> {
    let mut all: Vec<Known> = Vec::new();
    // The keys of a section are asked for where there is one: each round has the sections the one before told of.
    for kind in ["iothub", "mqtt", "iothub", "mqtt"] {
        let mut text = String::new();
        for Known { shape, .. } in &all {
            if let Shape::Section(section) = shape {
                text.push_str(section);
                text.push('\n');
            }
            if *shape == Shape::Section("[uplink]") {
                text.push_str(&format!("kind = \"{kind}\"\n"));
            }
        }
        let (table, _) = toml::de::DeTable::parse_recoverable(&text);
        let mut ignored = Report::new(0, "");
        let mut noted = Vec::new();
        let section = Section::new(table.get_ref(), "bridge.toml", &|_| None, &mut ignored);
        super::whole(section.noting(&mut noted));
        for known in noted {
            if !all.iter().any(|other| (&other.section, other.key) == (&known.section, known.key)) {
                all.push(known);
            }
        }
    }
    all
}

fn object(section: &str, known: &[Known], words: &[Words]) -> Value {
    let mut properties = Map::new();
    for Known { key, shape, .. } in known.iter().filter(|known| known.section == section) {
        let own = words.iter().find(|words| words.section == section && words.key == *key);
        let mut value = shape_schema(shape, known, words);
        if let Some(value) = value.as_object_mut() {
            let told = match shape {
                Shape::Section(title) => words.iter().find(|words| words.section == *title && words.key.is_empty()),
                _ => own,
            };
            value.insert("description".to_owned(), json!(told.map_or("", |words| &words.means)));
            if let Some(default) = told.and_then(|words| words.default.clone()) {
                value.insert("default".to_owned(), default);
            }
        }
        properties.insert((*key).to_owned(), value);
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn shape_schema(shape: &Shape, known: &[Known], words: &[Words]) -> Value {
    match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::TextOrTexts => {
            json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
        }
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Words(words) => json!({ "type": "string", "enum": words }),
        Shape::Count(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Shape::CountOrAuto(from, to) => {
            json!({ "anyOf": [{ "enum": ["auto"] }, { "type": "integer", "minimum": from, "maximum": to }] })
        }
        Shape::Size => json!({ "type": "string", "pattern": pattern(&units::SIZES) }),
        Shape::Duration => json!({ "type": "string", "pattern": pattern(&units::DURATIONS) }),
        Shape::Lists => {
            json!({ "type": "object", "additionalProperties": { "type": "array", "items": { "type": "string" } } })
        }
        Shape::Section(section) => object(section, known, words),
    }
}

/// A number with one of these units.
fn pattern(units: &[(&str, u64)]) -> String {
    let units: Vec<&str> = units.iter().map(|(unit, _)| *unit).collect();
    format!("^\\s*[0-9]+(\\.[0-9]+)?\\s*({})\\s*$", units.join("|"))
}

/// What the example says about a key, or about a section where there is no key.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) means: String,
    /// None for a key that has no default.
    pub(super) default: Option<Value>,
}

/// What the example says. The words about a key stand behind it and in the lines below, or in the lines above it.
pub(super) fn words() -> Vec<Words> {
    let mut all: Vec<Words> = Vec::new();
    let mut section = "bridge.toml".to_owned();
    let mut above: Vec<&str> = Vec::new();
    // A line that goes on with the comment above begins far to the right.
    let mut goes_on = false;
    for line in EXAMPLE.lines() {
        let comment = line.trim_start().strip_prefix('#').map(str::trim);
        if let (Some(more), true, Some(last)) = (comment, goes_on && line.starts_with("          "), all.last_mut()) {
            last.means = format!("{} {more}", last.means).trim().to_owned();
            continue;
        }
        goes_on = false;
        let setting = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = setting.strip_prefix('[').and_then(|line| line.split_once(']')) {
            section = format!("[{}]", name.0);
            let means = above.join(" ");
            all.push(Words { section: section.clone(), key: String::new(), means, default: None });
            above.clear();
            continue;
        }
        match setting.split_once(" = ").filter(|(key, _)| is_key(key)) {
            Some((key, rest)) => {
                let (value, means) = match rest.split_once(" # ") {
                    Some((value, comment)) => (value, comment.trim().to_owned()),
                    None => (rest, above.join(" ")),
                };
                let default = if line.starts_with('#') { None } else { default(key, value.trim()) };
                all.push(Words { section: section.clone(), key: key.to_owned(), means, default });
                above.clear();
                goes_on = true;
            }
            None => match comment {
                Some(comment) => above.push(comment),
                None => above.clear(),
            },
        }
    }
    all
}

fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The value of a line as JSON. A connection string is a sample and no default.
fn default(key: &str, value: &str) -> Option<Value> {
    if key == "connection_string" {
        return None;
    }
    serde_json::from_str(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_words() {
        let (known, words) = (known(), words());
        assert!(known.len() > 60, "{known:?}");
        for Known { section, key, shape } in &known {
            let told = words.iter().find(|words| match shape {
                Shape::Section(section) => words.section == *section && words.key.is_empty(),
                _ => words.section == *section && words.key == *key,
            });
            let told = told.unwrap_or_else(|| panic!("bridge.toml.example does not have `{key}` in {section}"));
            assert!(told.means.len() > 8, "bridge.toml.example has no comment about `{key}`: {told:?}");
        }
        // And no key stands there that is not read.
        for Words { section, key, .. } in words.iter().filter(|words| !words.key.is_empty()) {
            let is_known = known.iter().any(|known| known.section == *section && known.key == key);
            assert!(is_known, "`{key}` of {section} stands in bridge.toml.example and is not read");
        }
    }
}
