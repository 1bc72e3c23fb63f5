//! What the fence of a configuration says of what a command or a wish makes.

use std::fmt::{self, Write};

use serde_json::{Value, json};

use crate::downlink::{Forbidden, Terms};
use crate::rules::LocalPublish;

/// The fence, and whose connections there are.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    pub(super) terms: Terms,
    /// The bridge's own id; none where the uplink is a broker, from which nothing comes.
    pub(super) own: Option<String>,
    /// Every device has a connection of its own.
    pub(super) per_device: bool,
}

impl Fence {
    /// Whose connection a method comes on that is called on this device.
    pub(super) fn called<'a>(&'a self, device: &'a str) -> &'a str {
        self.own.as_deref().filter(|_| !self.per_device).unwrap_or(device)
    }

    /// True where the bridge answers its own methods on this connection.
    pub(super) fn has_own_methods(&self, connection: &str) -> bool {
        self.terms.enabled && self.terms.own_methods && self.own.as_deref() == Some(connection)
    }

    /// What keeps these publishes from a device.
    pub(super) fn forbid(&self, device: &str, publishes: &[LocalPublish]) -> Option<Forbidden> {
        self.terms.forbid(device, publishes.iter().map(|publish| publish.topic.as_str()))
    }

    /// True where it is carried out, if only for show.
    pub(super) fn lets_through(&self, device: &str, publishes: &[LocalPublish]) -> bool {
        self.own.is_some() && matches!(self.forbid(device, publishes), None | Some(Forbidden::DryRun))
    }

    /// What `allow` says of one publish.
    pub(super) fn write_one(&self, out: &mut String, device: &str, topic: &str) -> fmt::Result {
        let fence = &self.terms.fence;
        match fence.admits(device, topic) {
            _ if fence.allow.is_empty() => writeln!(out, "  fence       open: there is no [commands] allow"),
            Some((pattern, filter)) => writeln!(out, "  fence       open by allow: {pattern:?} = [{filter:?}]"),
            None => {
                writeln!(
                    out,
                    "  fence       closed (not_allowed): [commands] allow lets nothing for {device} go there"
                )?;
                writeln!(out, "              {} would", fence.with(device, topic))
            }
        }
    }

    /// What is said of all.
    pub(super) fn write_all(&self, out: &mut String, device: &str, publishes: &[LocalPublish]) -> fmt::Result {
        if self.own.is_none() {
            return writeln!(out, "\nnothing comes down: the uplink is a broker");
        }
        match self.forbid(device, publishes) {
            None => Ok(()),
            Some(forbidden @ Forbidden::Beyond(_)) => writeln!(out, "\nnothing is published ({})", forbidden.label()),
            Some(forbidden) => writeln!(out, "\nnothing is published ({}): {forbidden}", forbidden.label()),
        }
    }

    pub(super) fn in_json(&self, device: &str, publishes: &[LocalPublish]) -> Value {
        let forbidden = self.forbid(device, publishes);
        let mend = match &forbidden {
            Some(Forbidden::Beyond(topic)) => Some(self.terms.fence.with(device, topic).to_string()),
            _ => None,
        };
        let outcome = forbidden.as_ref().map(Forbidden::label);
        json!({"outcome": outcome, "why": forbidden.map(|why| why.to_string()), "mend": mend})
    }
}
