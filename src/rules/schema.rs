//! A JSON Schema for rule files, so that editors complete and mark them.
//!
//! Words that a key can be come from the tables the loader reads by. A test compares the keys with those the loader
//! asks for, so that neither has one the other does not know. What depends on the value of another key (`csv` needs
//! names) is left to `check`. The schema is of draft 7, and has nothing but what draft 4 has too, which is what Taplo knows.

use serde_json::{Map, Value, json};

use super::load::{LINTS, words};

mod keys;

use keys::{NEEDS, ROOT, TABLES};

/// A key of a table.
pub(super) struct Key {
    name: &'static str,
    shape: Shape,
    means: &'static str,
}

/// What a value can be.
pub(super) enum Shape {
    Text,
    Flag,
    Number,
    /// A whole number in a range.
    Whole(i64, i64),
    Duration,
    /// Two numbers.
    Pair,
    /// Text, a number, true or false.
    Plain,
    Anything,
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
    List(&'static Shape),
    /// A table with any keys.
    Map(&'static Shape),
    /// A table of [`TABLES`], by its name.
    Table(&'static str),
    Either(&'static [Shape]),
}

/// The schema.
pub fn schema() -> Value {
    let tables = TABLES.iter().map(|(name, keys)| ((*name).to_owned(), table(name, keys))).collect::<Map<_, _>>();
    let mut schema = object(&[ROOT]);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
        schema.insert("title".to_owned(), json!("brownbridge: rules"));
        schema.insert("definitions".to_owned(), Value::Object(tables));
    }
    schema
}

fn table(name: &str, keys: &[&[Key]]) -> Value {
    let mut table = object(keys);
    let needs = NEEDS.iter().filter(|(table, _)| *table == name).flat_map(|(_, needs)| needs.iter());
    let one_of =
        |keys: &&[&str]| json!({ "anyOf": keys.iter().map(|key| json!({ "required": [key] })).collect::<Vec<_>>() });
    let needs: Vec<_> = needs.map(one_of).collect();
    if let Some(table) = table.as_object_mut().filter(|_| !needs.is_empty()) {
        table.insert("allOf".to_owned(), Value::Array(needs));
    }
    table
}

fn object(keys: &[&[Key]]) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .copied()
        .flatten()
        .map(|key| {
            let mut value = of_shape(&key.shape);
            // Beside a reference draft 7 allows nothing.
            if value.get("$ref").is_some() {
                value = json!({ "allOf": [value] });
            }
            if let Some(value) = value.as_object_mut() {
                value.insert("description".to_owned(), json!(key.means));
            }
            (key.name.to_owned(), value)
        })
        .collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn of_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Number => json!({ "type": "number" }),
        Shape::Whole(from, i64::MAX) => json!({ "type": "integer", "minimum": from }),
        Shape::Whole(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Shape::Duration => json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(ms|s|m|h|d)$" }),
        Shape::Pair => json!({ "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 }),
        Shape::Plain => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Anything => json!({}),
        Shape::Words(words) => json!({ "type": "string", "enum": words() }),
        Shape::List(shape) => json!({ "type": "array", "items": of_shape(shape) }),
        Shape::Map(shape) => json!({ "type": "object", "additionalProperties": of_shape(shape) }),
        Shape::Table(name) => json!({ "$ref": format!("#/definitions/{name}") }),
        Shape::Either(shapes) => json!({ "anyOf": shapes.iter().map(of_shape).collect::<Vec<_>>() }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;
    use crate::diag::{SourceFile, walk};

    /// The loader's tables, under the names of the schema's.
    fn in_schema(what: &str) -> Vec<&str> {
        match what {
            "the file" => vec!["root"],
            "want" => vec!["want", "wanted message"],
            "the command of a test" => vec!["tested command"],
            "the desired properties of a test" => vec!["tested desired"],
            "what becomes of a command" => vec!["wanted command"],
            "what a command is to publish" => vec!["wanted publish"],
            what => vec![what],
        }
    }

    fn asked_for() -> BTreeMap<String, BTreeSet<String>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        for folder in ["rules", "tests/golden/rules", "tests/golden/check"].map(|name| folder.join(name)) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "toml") {
                    files.push(SourceFile { path: "r.toml".into(), text: std::fs::read_to_string(path).unwrap() });
                }
            }
        }
        // What is asked for depends on what is there.
        for text in [
            "[[rule]]\non = \"connect\"\n[[test]]\non = \"connect\"\n[[test]]\nsend = [{}]\nwant = [{}]",
            "[table.t]\nfile = \"t.csv\"",
        ] {
            files.push(SourceFile { path: "r.toml".into(), text: text.into() });
        }
        walk::note_keys(|| files.iter().for_each(|file| drop(crate::rules::load(std::slice::from_ref(file)))))
    }

    #[test]
    fn the_schema_knows_the_keys_of_the_loader() {
        let asked = asked_for();
        let of_table = |name: &str| -> BTreeSet<String> {
            let keys: &[&[Key]] = match name {
                "root" => &[ROOT],
                name => TABLES.iter().find(|(table, _)| *table == name).map_or(&[], |(_, keys)| keys),
            };
            keys.iter().copied().flatten().map(|key| key.name.to_owned()).collect()
        };
        let mut seen = BTreeSet::new();
        for (what, keys) in &asked {
            let tables = in_schema(what);
            let known: BTreeSet<String> = tables.iter().flat_map(|name| of_table(name)).collect();
            assert_eq!(keys, &known, "left: what the loader asks for in `{what}`, right: what rules/schema has");
            seen.extend(tables);
        }
        for (name, _) in TABLES {
            assert!(seen.contains(name), "the loader reads no table `{name}`");
        }
    }

    #[test]
    fn what_is_needed_is_a_key() {
        for (name, needs) in NEEDS {
            let (_, keys) = TABLES.iter().find(|(table, _)| table == name).unwrap();
            for key in needs.iter().copied().flatten() {
                assert!(keys.iter().copied().flatten().any(|known| known.name == *key), "{key} of {name}");
            }
        }
    }

    #[test]
    fn every_key_says_what_it_means() {
        for key in ROOT.iter().chain(TABLES.iter().flat_map(|(_, keys)| keys.iter().copied().flatten())) {
            assert!(key.means.len() > 8 && !key.means.ends_with('.'), "{}: {}", key.name, key.means);
        }
    }
}
