//! Desired properties: what a service wants of a device becomes local publishes. Pure, as the rules are.
//!
//! A `[[desired]]` takes the properties of the devices that its `device` matches, or of them what lies under `at`. With
//! `split = "leaf"`, which is the default, each value makes a publish: the first `[[desired]]` in file order that takes a
//! value has it for itself. The body it works on is `{"path": "motor.speed", "name": "speed", "value": 12}`; what is
//! published is `payload`, or the value, a text without its quotes. With `split = "whole"` the object is the body and
//! what is published; it takes nothing away from others.
//!
//! | written | stands for |
//! |---|---|
//! | `{device}` | the device |
//! | `{path}`, `{name}` | with `leaf`: where the value is, from `at` on, with dots; the last part of that |
//! | `{name}` of the pattern in `device` | as in commands |
//! | `{.value}`, `{.field}` | a field of the body |
//!
//! As with commands, a topic has as many levels as its template, none of them empty by what was put in, and no wildcard.

use serde_json::{Map, Value, json};

use super::QuarantineReason;
use super::command::{Command, LocalPublish};
use crate::message::Timestamp;

/// The names that every one has.
pub(super) const NAMES: [&str; 1] = ["device"];
/// Those it has besides where each value makes a publish.
pub(super) const NAMES_OF_LEAF: [&str; 3] = ["device", "path", "name"];

/// A checked `[[desired]]`.
#[derive(Debug)]
pub(super) struct Desired {
    pub(super) command: Command,
    /// The objects in which what it takes lies.
    pub(super) at: Box<[Box<str>]>,
    /// Each value makes a publish.
    pub(super) by_leaf: bool,
    /// The template says what is published.
    pub(super) has_payload: bool,
    pub(super) acknowledge: bool,
}

/// What a `[[desired]]` makes of properties.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Its name.
    pub rule: String,
    /// Where what it is of lies in the properties.
    pub path: Vec<String>,
    /// What lies there.
    pub value: Value,
    /// What is to be published, or why nothing can be.
    pub made: Result<Vec<LocalPublish>, (QuarantineReason, String)>,
    /// It is to be reported when that is done.
    pub acknowledge: bool,
}

/// What all make of the properties of a device.
pub(super) fn wishes(
    desired: &[Desired],
    (device, received): (&str, Timestamp),
    properties: &Map<String, Value>,
) -> Vec<Wish> {
    let mut wishes = Vec::new();
    let mut path = Vec::new();
    leaves(properties, &mut path, &mut |path, value| {
        let takes = |rule: &&Desired| rule.by_leaf && rule.is_within(path);
        wishes.extend(desired.iter().filter(takes).find_map(|rule| rule.of_leaf((device, received), path, value)));
    });
    for rule in desired.iter().filter(|rule| !rule.by_leaf) {
        let found = rule.at.iter().try_fold(properties, |inner, name| inner.get(&**name)?.as_object());
        wishes
            .extend(found.filter(|found| !found.is_empty()).and_then(|found| rule.of_whole((device, received), found)));
    }
    wishes
}

/// Shows every value that is no object.
fn leaves(properties: &Map<String, Value>, path: &mut Vec<String>, take: &mut impl FnMut(&[String], &Value)) {
    for (name, value) in properties {
        path.push(name.clone());
        match value {
            Value::Object(inner) => leaves(inner, path, take),
            Value::Null => {}
            value => take(path, value),
        }
        path.pop();
    }
}

impl Desired {
    fn is_within(&self, path: &[String]) -> bool {
        path.len() > self.at.len() && self.at.iter().zip(path).all(|(at, name)| **at == **name)
    }

    fn of_leaf(&self, (device, received): (&str, Timestamp), path: &[String], value: &Value) -> Option<Wish> {
        let own = path.get(self.at.len()..)?;
        let (shown, name) = (own.join("."), own.last()?.as_str());
        let body = json!({"path": shown, "name": name, "value": value}).to_string();
        self.wish((path, value), (device, &[device, &shown, name]), (body.as_bytes(), received))
    }

    fn of_whole(&self, (device, received): (&str, Timestamp), found: &Map<String, Value>) -> Option<Wish> {
        let path: Vec<String> = self.at.iter().map(|name| name.to_string()).collect();
        let value = Value::Object(found.clone());
        let body = value.to_string();
        self.wish((&path, &value), (device, &[device]), (body.as_bytes(), received))
    }

    /// None where it lets it go by.
    fn wish<'a>(
        &'a self,
        (path, value): (&[String], &Value),
        (device, names): (&'a str, &[&'a str]),
        (body, received): (&[u8], Timestamp),
    ) -> Option<Wish> {
        let names = self.command.names_of_device(device, names)?;
        let made = match self.command.made((&names, body), received) {
            Ok(Err(_)) => return None,
            Ok(Ok(made)) => Ok(made.publishes),
            Err(refused) => Err(refused),
        };
        let made = made.map(|mut publishes| {
            if self.by_leaf && !self.has_payload {
                publishes.iter_mut().for_each(|publish| bare(&mut publish.payload));
            }
            publishes
        });
        let wish = Wish {
            rule: self.command.name.clone(),
            path: path.to_vec(),
            value: value.clone(),
            made,
            acknowledge: self.acknowledge,
        };
        Some(wish)
    }
}

/// The value of a body in place of it; a text without its quotes.
fn bare(payload: &mut Vec<u8>) {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(payload) else { return };
    *payload = match body.remove("value") {
        Some(Value::String(text)) => text.into_bytes(),
        Some(value) => value.to_string().into_bytes(),
        None => return,
    };
}

#[cfg(test)]
mod tests {
    use crate::diag::SourceFile;
    use crate::message::Timestamp;
    use crate::rules;

    #[test]
    fn what_becomes_of_properties() {
        let set = |text: &str| {
            let loaded = rules::load(&[SourceFile { path: "r.toml".into(), text: text.into() }]);
            loaded.rules.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
        };
        let leaf = "[[desired]]\nname = \"a\"\ndevice = \"press-{nr}\"\ntopic = \"p/{nr}/set/{path}\"\n";
        let bound = "[[desired]]\nname = \"b\"\nat = \"motor\"\ntopic = \"m/{name}\"\nwhen = '.value <= 80'\n\
                     payload = \"{.value} rpm\"\nretain = false\nqos = 2\n";
        let whole = "[[desired]]\nname = \"w\"\nat = \"motor\"\nsplit = \"whole\"\ntopic = \"all/{device}\"\n";
        let scaled = "[[desired]]\nname = \"s\"\ntopic = \"s/{name}\"\nset = { value = \".value * 2\" }\n";
        let bad = "not_calculable";
        for (text, device, properties, expect) in [
            (
                leaf,
                "press-7",
                r#"{"mode":"auto","motor":{"speed":12.5,"on":true}}"#,
                vec![
                    "a p/7/set/mode auto 1 true",
                    "a p/7/set/motor.on true 1 true",
                    "a p/7/set/motor.speed 12.5 1 true",
                ],
            ),
            (leaf, "oven-7", r#"{"mode":"auto"}"#, vec![]),
            (leaf, "press-7", r#"{"list":[1,"x"],"gone":null,"empty":{}}"#, vec![r#"a p/7/set/list [1,"x"] 1 true"#]),
            (
                leaf,
                "press-7",
                "{\"a/b\":1,\"#\":2,\"c\":3}",
                vec!["a bad_topic", "a bad_topic", "a p/7/set/c 3 1 true"],
            ),
            (bound, "d", r#"{"motor":{"speed":80,"top":81},"speed":1}"#, vec!["b m/speed 80 rpm 2 false"]),
            (whole, "d", r#"{"motor":{"speed":80}}"#, vec![r#"w all/d {"speed":80} 1 true"#]),
            (whole, "d", r#"{"motor":{},"x":1}"#, vec![]),
            (scaled, "d", r#"{"a":4,"b":"text"}"#, vec!["s s/a 8 1 true", bad]),
            (
                &format!("{bound}{leaf}{whole}"),
                "press-7",
                r#"{"motor":{"speed":80,"top":90}}"#,
                vec![
                    "b m/speed 80 rpm 2 false",
                    "a p/7/set/motor.top 90 1 true",
                    r#"w all/press-7 {"speed":80,"top":90} 1 true"#,
                ],
            ),
        ] {
            let properties: serde_json::Value = serde_json::from_str(properties).unwrap();
            let wishes = set(text).desired((device, Timestamp(0)), properties.as_object().unwrap());
            let told: Vec<String> = wishes
                .iter()
                .flat_map(|wish| match &wish.made {
                    Ok(publishes) => publishes
                        .iter()
                        .map(|publish| {
                            let payload = String::from_utf8_lossy(&publish.payload);
                            format!("{} {} {payload} {} {}", wish.rule, publish.topic, publish.qos, publish.retain)
                        })
                        .collect(),
                    Err((reason, _)) => vec![format!("{} {reason}", wish.rule)],
                })
                .collect();
            let expect: Vec<_> = expect.iter().map(|one| if *one == bad { "s not_calculable" } else { *one }).collect();
            assert_eq!(told, expect, "{properties}");
        }
    }
}
