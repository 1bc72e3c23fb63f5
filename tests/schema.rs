//! The JSON Schemas against every file that is shipped, shown or refused. `tests/interop/schema.py` does the same with
//! a validator by others, and checks the schemas themselves.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use brownbridge::{config, rules};
use serde_json::Value;

/// What is wrong with a value, each with its place; of draft 7 what the schemas use, and nothing else.
fn check(schema: &Value, root: &Value, value: &Value, place: &str, wrong: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().unwrap() {
        let mut ensure = |sound: bool| {
            if !sound {
                wrong.push(format!("{place}: {value} is against {keyword} {rule}"));
            }
        };
        match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "definitions" => {}
            "type" => {
                let is = |name: &str| match name {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    _ => panic!("type {name}"),
                };
                let names = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                ensure(names.iter().any(|name| is(name.as_str().unwrap())));
            }
            "enum" => ensure(rule.as_array().unwrap().contains(value)),
            "minimum" => ensure(value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap())),
            "maximum" => ensure(value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap())),
            "minItems" => ensure(value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap())),
            "maxItems" => ensure(value.as_array().is_none_or(|list| list.len() as u64 <= rule.as_u64().unwrap())),
            "pattern" => {
                let pattern = regex::Regex::new(rule.as_str().unwrap()).unwrap();
                ensure(value.as_str().is_none_or(|text| pattern.is_match(text)));
            }
            "required" => {
                for key in rule.as_array().unwrap() {
                    ensure(value.as_object().is_none_or(|object| object.contains_key(key.as_str().unwrap())));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, root, item, &format!("{place}[{index}]"), wrong);
                }
            }
            "properties" | "additionalProperties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    let named = schema.get("properties").and_then(|known| known.get(key));
                    let place = format!("{place}.{key}");
                    match (keyword.as_str(), named, rule) {
                        ("properties", Some(named), _) => check(named, root, value, &place, wrong),
                        ("additionalProperties", None, Value::Bool(false)) => wrong.push(format!("{place}: unknown")),
                        ("additionalProperties", None, rule) => check(rule, root, value, &place, wrong),
                        _ => {}
                    }
                }
            }
            "allOf" => rule.as_array().unwrap().iter().for_each(|rule| check(rule, root, value, place, wrong)),
            "anyOf" => {
                let tries = rule.as_array().unwrap().iter().map(|rule| {
                    let mut wrong = Vec::new();
                    check(rule, root, value, place, &mut wrong);
                    wrong
                });
                let tries: Vec<_> = tries.collect();
                if !tries.iter().any(Vec::is_empty) {
                    wrong.extend(tries.into_iter().flatten());
                }
            }
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/definitions/").unwrap();
                assert_eq!(schema.as_object().unwrap().len(), 1, "beside $ref draft 7 takes nothing");
                check(&root["definitions"][name], root, value, place, wrong);
            }
            other => panic!("the keyword {other} is not known here"),
        }
    }
}

/// A TOML file as JSON; a date is text.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(list) => list.into_iter().map(json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, json(value))).collect(),
        plain => serde_json::to_value(plain).unwrap(),
    }
}

fn wrong(schema: &Value, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    check(schema, schema, &json(toml::from_str(text).unwrap()), "", &mut wrong);
    wrong
}

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files
}

#[test]
fn every_rule_file_that_loads_is_valid() {
    let schema = rules::schema();
    let mut tried = 0;
    for path in ["rules", "tests/golden/rules", "tests/golden/check"].into_iter().flat_map(toml_files) {
        let text = std::fs::read_to_string(&path).unwrap();
        let source = brownbridge::diag::SourceFile { path: "r.toml".into(), text: text.clone() };
        if rules::load(&[source]).rules.is_some() {
            let wrong = wrong(&schema, &text);
            assert!(wrong.is_empty(), "{}\n{}", path.display(), wrong.join("\n"));
            tried += 1;
        }
    }
    assert!(tried > 25, "only {tried}");
}

#[test]
fn mistakes_in_rules_are_marked() {
    let schema = rules::schema();
    for (text, place) in [
        (include_str!("golden/check/bad-1-typos.toml"), ".rule[0].devise: unknown"),
        (include_str!("golden/check/bad-1-typos.toml"), ".rule[0].decode: \"jsn\""),
        (include_str!("golden/check/unknown-type.toml"), ".fields[0].type"),
        (include_str!("golden/check/unknown-word.toml"), "is against enum"),
        (include_str!("golden/check/unknown-reason.toml"), ".want.quarantine"),
        (include_str!("golden/check/unknown-event.toml"), ".on: "),
        ("[[rule]]\ntime = { from = \".ts\", max_age = \"10 sec\" }", ".max_age: \"10 sec\" is against pattern"),
        (include_str!("golden/check/unknown-lint.toml"), ".allow[0]: \"emty-level\""),
        ("[[rule]]\ntopic = 7", ".rule[0].topic: 7 is against type"),
        ("[[rule]]\nscale = { v = { from = [1] } }", ".scale.v.from: [1] is against minItems"),
        ("[rule]", ".rule: {} is against type"),
        ("[[test]]\nqos = 3", ".test[0].qos: 3 is against maximum"),
        ("[[test]]\nwant = [{ count = 1 }]", ".want[0].count: unknown"),
        ("[[rules]]", ".rules: unknown"),
        ("[[rule]]", ".rule[0]: {} is against required [\"topic\"]"),
        ("[[rule]]\ntopic = \"t\"", ".rule[0]: {\"topic\":\"t\"} is against required [\"device\"]"),
        ("[[rule]]\ndecode = {}", ".decode: {} is against required [\"format\"]"),
        ("[[rule]]\ntime = {}", ".time: {} is against required [\"from\"]"),
        ("[[rule]]\nbatch = {}", ".batch: {} is against required [\"max_wait\"]"),
        ("[[rule]]\nlookup = { table = \"t\" }", ".lookup: {\"table\":\"t\"} is against required [\"key\"]"),
        ("[[test]]\nwant = {}", "is against required [\"send\"]"),
    ] {
        let wrong = wrong(&schema, text);
        assert!(wrong.iter().any(|wrong| wrong.contains(place)), "{text}\n{place}\n{wrong:#?}");
    }
}

#[test]
fn configurations() {
    let schema = config::schema();
    let example = include_str!("../bridge.toml.example");
    let hub = "[uplink]\nconnection_string = \"${HUB}\"\n";
    assert_eq!(wrong(&schema, example), [""; 0]);
    for text in [
        "[uplink]\nkind = \"mqtt\"\naddress = \"h\"\ntls = false\ntopic = \"a/{device}\"",
        "[uplink]\nwindow = 16\ntier = \"S1\"\nunits = 2",
        &format!("rules = \"r\"\n{hub}[spool]\nmax_age = \"7d\"\nmax_size = \"1.5 GiB\""),
        &format!("[broker.tls]\ncertificate = \"a\"\nkey = \"b\"\n{hub}"),
    ] {
        assert_eq!(wrong(&schema, text), [""; 0], "{text}");
    }
    for (text, place) in [
        (include_str!("golden/bridge/typos.toml"), ": unknown"),
        ("", "required"),
        (&format!("[broker]\nlisten = 1883\n{hub}"), ".broker.listen: 1883 is against type"),
        (&format!("[spool]\ndurability = \"disk\"\n{hub}"), ".spool.durability: \"disk\" is against enum"),
        (&format!("[spool]\nmax_size = \"4 gigs\"\n{hub}"), ".spool.max_size: \"4 gigs\" is against pattern"),
        (&format!("[broker]\nmax_connections = 0\n{hub}"), ".broker.max_connections: 0 is against minimum"),
        (&format!("[broker.tls]\nlisten = \"h\"\ncert = \"x\"\n{hub}"), ".broker.tls.cert: unknown"),
        (&format!("{hub}window = \"aut\""), ".uplink.window: \"aut\" is against enum"),
        (&format!("{hub}tier = \"S4\""), ".uplink.tier: \"S4\" is against enum"),
    ] {
        let wrong = wrong(&schema, text);
        assert!(wrong.iter().any(|wrong| wrong.contains(place)), "{text}\n{place}\n{wrong:#?}");
    }
    // The defaults are those of the example.
    let example = json(toml::from_str(example).unwrap());
    for (section, key) in [("broker", "max_session_expiry"), ("uplink", "window"), ("spool", "durability")] {
        let known = &schema["properties"][section]["properties"][key];
        assert_eq!(known["default"], example[section][key], "{section}.{key}");
    }
}
