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
//! A value for which only `when` or `lookup` has no room, because of what it is, is [`Beyond`](Unmade): somebody looks
//! after the property, and will not have this. Whether it is that is told by asking again as if every look at the value
//! were true: a `when` that is false all the same (`.name == "speed"` of `mode`) says that the property is none of its own.
//! Where several may take a value (one for each range) it is beyond none of them as long as one takes it.
//!
//! As with commands, a topic has as many levels as its template, none of them empty by what was put in, and no wildcard.

use serde_json::{Map, Value, json};

use super::QuarantineReason;
use super::command::{Command, LocalPublish, PassedBy};
use super::expr::{Expr, Name, Scope};
use super::json as text;
use super::template::Facts;
use crate::message::{Publish, Timestamp};

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
    /// It is an object as a whole, not one value.
    pub whole: bool,
    /// What is to be published, or why nothing can be.
    pub made: Result<Vec<LocalPublish>, (Unmade, String)>,
    /// It is to be reported when that is done.
    pub acknowledge: bool,
}

/// Why nothing is made of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmade {
    /// It is beyond `when`.
    Beyond,
    /// The table has no row for it.
    NoRow,
    /// It cannot be worked on.
    Reason(QuarantineReason),
}

impl Unmade {
    /// A fixed word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Beyond => "beyond_when",
            Self::NoRow => "no_row",
            Self::Reason(reason) => reason.label(),
        }
    }
}

impl Wish {
    /// `when` or `lookup` let it go by because of its value.
    pub fn is_let_by(&self) -> bool {
        matches!(self.made, Err((Unmade::Beyond | Unmade::NoRow, _)))
    }
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
        let mut let_by: Option<Wish> = None;
        for wish in desired.iter().filter(takes).filter_map(|rule| rule.of_leaf((device, received), path, value)) {
            if !wish.is_let_by() {
                return wishes.push(wish);
            }
            match &mut let_by {
                Some(first) => first.acknowledge |= wish.acknowledge,
                None => let_by = Some(wish),
            }
        }
        wishes.extend(let_by);
    });
    let whole = desired.iter().filter(|rule| !rule.by_leaf).filter_map(|rule| {
        let found = rule.at.iter().try_fold(properties, |inner, name| inner.get(&**name)?.as_object());
        found.filter(|found| !found.is_empty()).and_then(|found| rule.of_whole((device, received), found))
    });
    let whole: Vec<Wish> = whole.collect();
    for (n, wish) in whole.iter().enumerate() {
        let goes_before = |(m, other): (usize, &Wish)| other.path == wish.path && (m < n || !other.is_let_by());
        if !(wish.is_let_by() && whole.iter().enumerate().any(goes_before)) {
            wishes.push(wish.clone());
        }
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

    /// Why a value is let by; none where it is not for what it is.
    fn let_by(&self, why: PassedBy, (names, body): (&[&str], &[u8]), received: Timestamp) -> Option<(Unmade, String)> {
        let message = &self.command.message;
        match why {
            PassedBy::When(when) => {
                let asked = with_any_value(message.when.as_ref()?, self.by_leaf);
                let its_own = message.decode.is_some() || is_true(&asked, (names, body), received);
                its_own.then(|| (Unmade::Beyond, format!("beyond `when`: {when}")))
            }
            PassedBy::Lookup(table) => {
                let by_value = message.lookup.as_ref()?.key.has_field();
                by_value.then(|| (Unmade::NoRow, format!("the table `{table}` has no row for it")))
            }
            PassedBy::Body(reason, detail) => Some((Unmade::Reason(reason), detail)),
            _ => None,
        }
    }

    /// None where it is not for it.
    fn wish<'a>(
        &'a self,
        (path, value): (&[String], &Value),
        (device, names): (&'a str, &[&'a str]),
        (body, received): (&[u8], Timestamp),
    ) -> Option<Wish> {
        let names = self.command.names_of_device(device, names)?;
        let made = match self.command.made((&names, body), received) {
            Ok(Err(passed_by)) => Err(self.let_by(passed_by, (&names, body), received)?),
            Ok(Ok(made)) => Ok(made.publishes),
            Err((reason, detail)) => Err((Unmade::Reason(reason), detail)),
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
            whole: !self.by_leaf,
            made,
            acknowledge: self.acknowledge,
        };
        Some(wish)
    }
}

fn is_true(when: &Expr, (names, body): (&[&str], &[u8]), received: Timestamp) -> bool {
    let publish = Publish { topic: "", payload: body, client: "", user: None, qos: 1, retain: false, received };
    let (text, mut members) = (std::str::from_utf8(body).unwrap_or(""), Vec::new());
    let _ = text::scan(text, Some(&mut members));
    let facts = Facts {
        publish: &publish,
        captures: &[],
        more: [names, &[]],
        row: &[],
        time: received,
        text,
        members: &members,
    };
    Scope::new(&facts).value(when).is_ok_and(|value| value.is_true())
}

/// A `when` as it would be with the best of values: what looks at the value is true.
fn with_any_value(when: &Expr, by_leaf: bool) -> Expr {
    let both = |[one, other]: &[Expr; 2]| Box::new([one, other].map(|part| with_any_value(part, by_leaf)));
    match when {
        Expr::And(parts) => Expr::And(both(parts)),
        Expr::Or(parts) => Expr::Or(both(parts)),
        when if reads_value(when, by_leaf) => Expr::Bool(true),
        when => when.clone(),
    }
}

fn reads_value(expr: &Expr, by_leaf: bool) -> bool {
    match expr {
        Expr::Field(of, name) if by_leaf && matches!(**of, Expr::Dot) => !matches!(&**name, "name" | "path"),
        Expr::Dot | Expr::Field(..) | Expr::Index(..) | Expr::Call(..) | Expr::Test(_) => true,
        Expr::Name(Name::Column(_)) => true,
        // What stands behind `|` has the value before it as its payload.
        Expr::Pipe(both) => both.first().is_some_and(|first| reads_value(first, by_leaf)),
        other => other.parts().iter().any(|part| reads_value(part, by_leaf)),
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
        let ranges = "[[desired]]\nname = \"lo\"\ntopic = \"lo/{name}\"\nwhen = '.value <= 50'\n\
                      [[desired]]\nname = \"hi\"\ntopic = \"hi/{name}\"\nwhen = '.value > 50 and .value <= 90'\n";
        let named = "[[desired]]\nname = \"n\"\ntopic = \"n/{name}\"\nwhen = '.name == \"speed\" and .value <= 80'\n";
        let whole_of = |name: &str, topic: &str| {
            format!("[[desired]]\nname = \"{name}\"\nsplit = \"whole\"\ntopic = \"{topic}\"\n")
        };
        let autos = format!("{}when = '.mode == \"auto\"'\n", whole_of("w2", "auto"));
        let always = whole_of("w3", "any");
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
            (
                bound,
                "d",
                r#"{"motor":{"speed":80,"top":81},"speed":1}"#,
                vec!["b m/speed 80 rpm 2 false", "b beyond_when"],
            ),
            (whole, "d", r#"{"motor":{"speed":80}}"#, vec![r#"w all/d {"speed":80} 1 true"#]),
            (whole, "d", r#"{"motor":{},"x":1}"#, vec![]),
            // One for each range: beyond none of them as long as one takes it.
            (ranges, "d", r#"{"a":12}"#, vec!["lo lo/a 12 1 true"]),
            (ranges, "d", r#"{"a":70}"#, vec!["hi hi/a 70 1 true"]),
            (ranges, "d", r#"{"a":500,"b":"x"}"#, vec!["lo beyond_when", "lo beyond_when"]),
            // What is false of any value is about another property.
            (named, "d", r#"{"speed":90,"mode":"auto"}"#, vec!["n beyond_when"]),
            (named, "d", r#"{"speed":9}"#, vec!["n n/speed 9 1 true"]),
            (&autos, "d", r#"{"mode":"manual"}"#, vec!["w2 beyond_when"]),
            (&format!("{autos}{always}"), "d", r#"{"mode":"manual"}"#, vec![r#"w3 any {"mode":"manual"} 1 true"#]),
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
                    Err((why, _)) => vec![format!("{} {}", wish.rule, why.label())],
                })
                .collect();
            let expect: Vec<_> = expect.iter().map(|one| if *one == bad { "s not_calculable" } else { *one }).collect();
            assert_eq!(told, expect, "{properties}");
        }
    }
}
