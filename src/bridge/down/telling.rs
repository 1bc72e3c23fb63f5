//! What becomes of commands, for those who look on: the audit log, the metrics and the log of the program.

use serde_json::{Value, json};

use super::own::Own;
use super::{Downlink, Kind, Order, publishes};
use crate::message::{Timestamp, excerpt};
use crate::metrics::Metrics;
use crate::rules::PassedBy;

/// Properties that are told where no command takes a message.
const MOST_TOLD: usize = 8;

impl Downlink {
    /// Counts, logs and writes down an outcome.
    pub(super) fn tell(&mut self, order: &Order, outcome: &'static str, detail: &str, complete: bool) {
        self.parts.metrics.commanded(&order.made.command, outcome);
        self.note(order, outcome, detail, complete);
        log(order, outcome, detail, &self.parts.metrics);
    }

    /// Writes an outcome into the audit log.
    pub(super) fn note(&mut self, order: &Order, outcome: &'static str, detail: &str, complete: bool) {
        self.parts.audit.write(&order.line_of(outcome, (detail, complete), self.terms().audit_payload));
    }
}

impl Order {
    /// Its line in the audit log.
    pub(super) fn line_of(&self, outcome: &str, (detail, complete): (&str, bool), payload: usize) -> Value {
        let publish = self.made.publishes.first();
        let mut line = json!({
            "at": Timestamp::now().to_string(),
            "kind": match &self.kind { Kind::Message => "message", Kind::Method(_) => "method" },
            "command": self.made.command,
            "identity": self.identity,
            "device": self.device,
            "id": self.id,
            "user": self.who,
            "topic": publish.map(|publish| publish.topic.as_str()),
            "bytes": publish.map(|publish| publish.payload.len()),
            "outcome": outcome,
            "detail": Some(detail).filter(|detail| !detail.is_empty()),
            "complete": complete,
        });
        if let (Some(line), Some(all)) = (line.as_object_mut(), publishes(&self.made.publishes, outcome, payload)) {
            line.insert("publishes".to_owned(), all);
        }
        line
    }
}

pub(super) fn log(order: &Order, outcome: &'static str, detail: &str, metrics: &Metrics) {
    let command = order.made.command.as_str();
    let fine = matches!(
        outcome,
        "published" | "acknowledged" | "answered" | "dry_run" | "nothing" | "duplicate" | "came_again"
    );
    metrics.log_pace(&format!("command {command} {outcome}"), |left_out| {
        let (device, detail) = (excerpt(&order.device), excerpt(detail));
        if fine {
            tracing::info!(command, device, outcome, detail, left_out, "a command from the hub");
        } else {
            tracing::warn!(command, device, outcome, detail, left_out, "a command from the hub");
        }
    });
}

/// Why commands that are for a device and its message let it go by all the same, where there are such.
pub(super) fn passed_by(passed_by: &[(String, PassedBy)]) -> Option<String> {
    let told = passed_by.iter().filter_map(|(name, why)| match why {
        PassedBy::When(_) | PassedBy::Lookup(_) | PassedBy::Body(..) => Some(format!("{}: {why}", excerpt(name))),
        PassedBy::Method | PassedBy::Device | PassedBy::Property(_) => None,
    });
    let told: Vec<String> = told.take(MOST_TOLD).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// Why nobody answers a method.
pub(super) fn no_method(name: &str) -> String {
    let of_bridge =
        Own::named(name).map_or("", |_| "; the bridge's own is off, or answered under its own identity only");
    format!("no [[command]] has the method {}{of_bridge}", excerpt(name))
}

/// The properties of a message, as `brownbridge explain --command` takes them.
pub(super) fn properties(properties: &[(String, Option<String>)]) -> String {
    if properties.is_empty() {
        return "it has no properties".to_owned();
    }
    let mut told = String::from("its properties are");
    for (name, value) in properties.iter().take(MOST_TOLD) {
        told.push(' ');
        told.push_str(excerpt(name));
        told.push('=');
        told.push_str(excerpt(value.as_deref().unwrap_or("")));
    }
    told
}
