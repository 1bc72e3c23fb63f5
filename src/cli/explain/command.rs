//! `brownbridge explain --command` and `--desired`: what comes down from the hub.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::write_body;
use crate::cli::check::{could_not_run, print};
use crate::message::Timestamp;
use crate::rules::{Commanded, Incoming, LocalPublish, RuleSet, Unmade, Wish};

/// What is asked about.
pub(super) struct Down<'a> {
    pub(super) device: &'a str,
    pub(super) method: Option<&'a str>,
    pub(super) id: &'a str,
    /// `name=value`
    pub(super) props: &'a [String],
    pub(super) payload: &'a [u8],
    pub(super) received: Timestamp,
}

impl Down<'_> {
    pub(super) fn tell(&self, set: &RuleSet, as_json: bool) -> ExitCode {
        let split = |prop: &String| match prop.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (prop.clone(), None),
        };
        let props: Vec<_> = self.props.iter().map(split).collect();
        let incoming = Incoming {
            device: self.device,
            method: self.method,
            id: self.id,
            props: &props,
            payload: self.payload,
            received: self.received,
        };
        let passed_by = set.passed_by(&incoming);
        let asked = set.command(&incoming);
        if as_json {
            let tried: Vec<_> =
                passed_by.iter().map(|(name, why)| json!({"command": name, "why": why.to_string()})).collect();
            print(&format!("{}\n", json!({"passed_by": tried, "outcome": in_json(&asked)})));
        } else {
            let mut out = match self.method {
                Some(method) => format!("method {method} of device {}\n", self.device),
                None => format!("message for device {}\n", self.device),
            };
            for (name, why) in &passed_by {
                let _ = writeln!(out, "  {name}  {why}");
            }
            in_words(&asked, &mut out);
            print(&out);
        }
        match asked {
            Commanded::Made(_) => ExitCode::SUCCESS,
            Commanded::Refused { .. } => ExitCode::from(1),
            Commanded::NoRule => ExitCode::from(2),
        }
    }
}

/// Tells what becomes of desired properties.
pub(super) fn desired(of: (&str, Timestamp), payload: &[u8], set: &RuleSet, as_json: bool) -> ExitCode {
    let Ok(Value::Object(properties)) = serde_json::from_slice(payload) else {
        return could_not_run("desired properties are a JSON object: --payload '{\"speed\": 12.5}'");
    };
    let (device, wishes) = (of.0, set.desired(of, &properties));
    let none = wishes.is_empty();
    let refused = wishes.iter().any(|wish| wish.made.is_err());
    if as_json {
        let told: Vec<_> = wishes.iter().map(wish_in_json).collect();
        print(&format!("{}\n", json!({"device": device, "wishes": told})));
    } else {
        let mut out = format!("desired of device {device}\n");
        for wish in &wishes {
            let path = wish.path.join(".");
            // Writing to a String cannot fail.
            let _ = match &wish.made {
                Ok(publishes) => publishes.iter().try_for_each(|publish| {
                    writeln!(out, "\n{path}: publish by [[desired]] `{}`", wish.rule)?;
                    write_publish(&mut out, publish)
                }),
                Err((Unmade::Beyond, detail)) => {
                    writeln!(out, "\n{path}: refused by [[desired]] `{}`: {} is {detail}", wish.rule, wish.value)
                }
                Err((Unmade::NoRow, detail)) => {
                    writeln!(out, "\n{path}: refused by [[desired]] `{}`: {}: {detail}", wish.rule, wish.value)
                }
                Err((why, detail)) => {
                    let why = why.label();
                    writeln!(out, "\n{path}: [[desired]] `{}` cannot make anything of it ({why}): {detail}", wish.rule)
                }
            };
            let code = if wish.made.is_ok() { "code" } else { "code 400" };
            if wish.acknowledge {
                let _ = writeln!(out, "  and then    it is reported, with {code} and version (acknowledge)");
            }
        }
        if none {
            out.push_str("\nno [[desired]] takes any of it\n");
        }
        print(&out);
    }
    ExitCode::from(if none { 2 } else { u8::from(refused) })
}

fn wish_in_json(wish: &Wish) -> Value {
    let (publishes, refused) = match &wish.made {
        Ok(publishes) => (publishes.iter().map(publish_in_json).collect(), None),
        Err((reason, _)) => (Vec::new(), Some(reason.label())),
    };
    let detail = wish.made.as_ref().err().map(|(_, detail)| detail);
    json!({
        "rule": wish.rule, "path": wish.path, "value": wish.value, "publishes": publishes, "refused": refused,
        "detail": detail, "acknowledge": wish.acknowledge,
    })
}

fn write_publish(out: &mut String, publish: &LocalPublish) -> std::fmt::Result {
    let retain = if publish.retain { ", retained" } else { "" };
    writeln!(out, "  topic       {}", publish.topic)?;
    writeln!(out, "  qos         {}{retain}", publish.qos)?;
    write_body(out, &publish.payload)
}

fn publish_in_json(publish: &LocalPublish) -> Value {
    let text = std::str::from_utf8(&publish.payload).ok();
    let bytes = publish.payload.iter().map(|byte| format!("{byte:02x}"));
    let hex = text.is_none().then(|| bytes.collect::<String>());
    let (topic, qos, retain) = (&publish.topic, publish.qos, publish.retain);
    json!({"topic": topic, "qos": qos, "retain": retain, "payload": text, "payload_hex": hex})
}

fn in_words(asked: &Commanded, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match asked {
        Commanded::NoRule => writeln!(out, "\nno [[command]] takes it: it is acknowledged, counted and forgotten"),
        Commanded::Refused { command, reason, detail } => {
            writeln!(out, "\ncommand `{command}` cannot make anything of it ({reason}): {detail}")
        }
        Commanded::Made(made) => {
            for publish in &made.publishes {
                let _ = writeln!(out, "\npublish by command `{}`", made.command);
                let _ = write_publish(out, publish);
            }
            if made.once {
                out.push_str("\nonce at most: what may have been published is not published again, and without a message id nothing is\n");
            }
            match &made.answer {
                Some((topic, answer)) => {
                    writeln!(out, "\ncomplete with an answer on {topic} within {:?}", answer.within)
                }
                None => writeln!(out, "\ncomplete once it is handed to a subscriber or retained"),
            }
        }
    };
}

fn in_json(asked: &Commanded) -> serde_json::Value {
    match asked {
        Commanded::NoRule => json!({"no_rule": true}),
        Commanded::Refused { command, reason, detail } => {
            json!({"command": command, "refused": reason.label(), "detail": detail})
        }
        Commanded::Made(made) => {
            let publishes: Vec<_> = made.publishes.iter().map(publish_in_json).collect();
            let answer = made.answer.as_ref().map(|(topic, _)| topic);
            json!({"command": made.command, "publishes": publishes, "answer": answer, "once": made.once})
        }
    }
}
