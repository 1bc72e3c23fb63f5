//! `brownbridge explain --command` and `--desired`: what comes down from the hub.

use std::fmt::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::fence::Fence;
use super::write_body;
use crate::bridge::down::is_own_method;
use crate::cli::check::{could_not_run, print};
use crate::downlink::Forbidden;
use crate::message::Timestamp;
use crate::rules::{Commanded, Incoming, LocalPublish, Made, RuleSet, Wish, addressee};

/// What is asked about.
pub(super) struct Down<'a> {
    /// The device whose connection it comes on, or for whom it comes on the one that all share.
    pub(super) asked: &'a str,
    /// The fence, where there is a configuration.
    pub(super) fence: Option<&'a Fence>,
    pub(super) method: Option<&'a str>,
    pub(super) id: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) received: Timestamp,
}

impl Down<'_> {
    /// Tells what becomes of it. Properties are written `name=value`.
    pub(super) fn tell(&self, set: &RuleSet, props: &[String], as_json: bool) -> ExitCode {
        let split = |prop: &String| match prop.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (prop.clone(), None),
        };
        let props: Vec<_> = props.iter().map(split).collect();
        let device = self.device(&props);
        let incoming = Incoming {
            device,
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
            let fence = self.fence.map(|fence| fence.in_json(device, publishes(&asked)));
            let outcome = match (&asked, self.answered()) {
                (Commanded::NoRule, Some(_)) => json!({"answered_by_bridge": true}),
                _ => in_json(&asked),
            };
            let told = json!({"device": device, "passed_by": tried, "outcome": outcome, "fence": fence});
            print(&format!("{told}\n"));
        } else {
            let mut out = match self.method {
                Some(method) => format!("method {method} of device {device}\n"),
                None => format!("message for device {device}\n"),
            };
            for (name, why) in &passed_by {
                let _ = writeln!(out, "  {name}  {why}");
            }
            self.in_words(device, &asked, &mut out);
            print(&out);
        }
        let is_let_through = self.fence.is_none_or(|fence| fence.lets_through(device, publishes(&asked)));
        match asked {
            Commanded::Made(_) if is_let_through => ExitCode::SUCCESS,
            Commanded::Made(_) | Commanded::Refused { .. } => ExitCode::from(1),
            Commanded::NoRule if self.answered().is_some() => ExitCode::SUCCESS,
            Commanded::NoRule => ExitCode::from(2),
        }
    }

    /// The device it is for. A method has no properties; where each device has a connection no property names it, and
    /// where all share one a method is called on that.
    fn device<'d>(&'d self, props: &'d [(String, Option<String>)]) -> &'d str {
        match (self.method, self.fence) {
            (Some(_), Some(fence)) => fence.called(self.asked),
            (Some(_), None) => self.asked,
            (None, fence) => addressee(self.asked, fence.is_none_or(|fence| !fence.per_device), props),
        }
    }

    /// What the bridge itself says to a method that no command takes; none where it is none of its own.
    fn answered(&self) -> Option<&'static str> {
        self.method.filter(|method| is_own_method(method))?;
        match self.fence {
            None => Some("the bridge answers it itself, under its own identity and unless own_methods = false"),
            Some(fence) if fence.has_own_methods(fence.called(self.asked)) => Some("the bridge answers it itself"),
            Some(_) => None,
        }
    }

    fn in_words(&self, device: &str, asked: &Commanded, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = match (asked, self.method) {
            (Commanded::NoRule, Some(_)) => {
                let told = self.answered().unwrap_or("it is answered with 404");
                writeln!(out, "\nno [[command]] takes this method: {told}")
            }
            (Commanded::NoRule, None) => {
                writeln!(out, "\nno [[command]] takes it: it is acknowledged, counted and forgotten")
            }
            (Commanded::Refused { command, reason, detail }, _) => {
                writeln!(out, "\ncommand `{command}` cannot make anything of it ({reason}): {detail}")
            }
            (Commanded::Made(made), _) => self.made_in_words(device, made, out),
        };
        let _ = self.fence.map(|fence| fence.write_all(out, device, publishes(asked)));
    }

    fn made_in_words(&self, device: &str, made: &Made, out: &mut String) -> fmt::Result {
        for publish in &made.publishes {
            writeln!(out, "\npublish by command `{}`", made.command)?;
            write_publish(out, publish)?;
            self.fence.map_or(Ok(()), |fence| fence.write_one(out, device, &publish.topic))?;
        }
        if made.once {
            out.push_str("\nonce at most: what may have been published is not published again, and without a message id nothing is\n");
        }
        match &made.answer {
            Some((topic, answer)) => writeln!(out, "\ncomplete with an answer on {topic} within {:?}", answer.within),
            None => writeln!(out, "\ncomplete once it is handed to a subscriber or retained"),
        }
    }
}

/// What is to be published.
fn publishes(asked: &Commanded) -> &[LocalPublish] {
    match asked {
        Commanded::Made(made) => &made.publishes,
        Commanded::Refused { .. } | Commanded::NoRule => &[],
    }
}

/// What is asked about what is desired.
pub(super) struct Desired<'a> {
    pub(super) device: &'a str,
    pub(super) received: Timestamp,
    /// The fence, where there is a configuration.
    pub(super) fence: Option<&'a Fence>,
}

impl Desired<'_> {
    /// Tells what becomes of desired properties.
    pub(super) fn tell(&self, set: &RuleSet, payload: &[u8], as_json: bool) -> ExitCode {
        let Ok(Value::Object(properties)) = serde_json::from_slice(payload) else {
            return could_not_run("desired properties are a JSON object: --payload '{\"speed\": 12.5}'");
        };
        let wishes = set.desired((self.device, self.received), &properties);
        let none = wishes.iter().all(Wish::is_let_by);
        if as_json {
            let told: Vec<_> = wishes.iter().map(|wish| self.wish_in_json(wish)).collect();
            print(&format!("{}\n", json!({"device": self.device, "wishes": told})));
        } else {
            let mut out = format!("desired of device {}\n", self.device);
            // Writing to a String cannot fail.
            let _ = wishes.iter().try_for_each(|wish| self.write_wish(&mut out, wish));
            if none {
                out.push_str("\nno [[desired]] takes any of it\n");
            }
            print(&out);
        }
        let is_kept_out =
            |publishes: &Vec<LocalPublish>| self.fence.is_some_and(|f| !f.lets_through(self.device, publishes));
        let refused = wishes.iter().any(|wish| wish.made.as_ref().map_or(true, is_kept_out));
        ExitCode::from(if none { 2 } else { u8::from(refused) })
    }

    fn write_wish(&self, out: &mut String, wish: &Wish) -> fmt::Result {
        let path = wish.path.join(".");
        let mut code = "code 400";
        match &wish.made {
            Ok(publishes) => {
                code = "code";
                for publish in publishes {
                    writeln!(out, "\n{path}: publish by [[desired]] `{}`", wish.rule)?;
                    write_publish(out, publish)?;
                    self.fence.map_or(Ok(()), |fence| fence.write_one(out, self.device, &publish.topic))?;
                }
                if let Some(fence) = self.fence {
                    fence.write_all(out, self.device, publishes)?;
                    code = match fence.forbid(self.device, publishes) {
                        Some(Forbidden::Beyond(_)) => "code 403",
                        _ => code,
                    };
                }
            }
            Err((_, detail)) if wish.is_let_by() => {
                writeln!(out, "\n{path}: refused by [[desired]] `{}`: {} is {detail}", wish.rule, wish.value)?;
            }
            Err((why, detail)) => {
                let why = why.label();
                writeln!(out, "\n{path}: [[desired]] `{}` cannot make anything of it ({why}): {detail}", wish.rule)?;
            }
        }
        if wish.acknowledge {
            writeln!(out, "  and then    it is reported, with {code} and version (acknowledge)")?;
        }
        Ok(())
    }

    fn wish_in_json(&self, wish: &Wish) -> Value {
        let made = wish.made.as_deref().unwrap_or_default();
        let refused = wish.made.as_ref().err();
        let fence = self.fence.filter(|_| refused.is_none()).map(|fence| fence.in_json(self.device, made));
        json!({
            "rule": wish.rule, "path": wish.path, "value": wish.value,
            "publishes": made.iter().map(publish_in_json).collect::<Vec<_>>(),
            "refused": refused.map(|(reason, _)| reason.label()), "detail": refused.map(|(_, detail)| detail),
            "acknowledge": wish.acknowledge, "fence": fence,
        })
    }
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
