//! `brownbridge explain --command`: what comes down from the hub.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;

use super::write_body;
use crate::cli::check::print;
use crate::message::Timestamp;
use crate::rules::{Commanded, Incoming, RuleSet};

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

fn in_words(asked: &Commanded, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match asked {
        Commanded::NoRule => writeln!(out, "\nno [[command]] takes it: it is acknowledged, counted and forgotten"),
        Commanded::Refused { command, reason, detail } => {
            writeln!(out, "\ncommand `{command}` cannot make anything of it ({reason}): {detail}")
        }
        Commanded::Made(made) => {
            for publish in &made.publishes {
                let retain = if publish.retain { ", retained" } else { "" };
                let _ = writeln!(out, "\npublish by command `{}`", made.command);
                let _ = writeln!(out, "  topic       {}", publish.topic);
                let _ = writeln!(out, "  qos         {}{retain}", publish.qos);
                let _ = write_body(out, &publish.payload);
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
            let publishes: Vec<_> = made
                .publishes
                .iter()
                .map(|publish| {
                    let text = std::str::from_utf8(&publish.payload).ok();
                    let bytes = publish.payload.iter().map(|byte| format!("{byte:02x}"));
                    let hex = text.is_none().then(|| bytes.collect::<String>());
                    let (topic, qos, retain) = (&publish.topic, publish.qos, publish.retain);
                    json!({"topic": topic, "qos": qos, "retain": retain, "payload": text, "payload_hex": hex})
                })
                .collect();
            let answer = made.answer.as_ref().map(|(topic, _)| topic);
            json!({"command": made.command, "publishes": publishes, "answer": answer})
        }
    }
}
