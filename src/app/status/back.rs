//! What `/status` tells about the way back: commands, methods and twins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bridge::down::Audit;
use crate::bridge::twins;
use crate::downlink::Terms;
use crate::message::excerpt;

/// Twins that are listed.
const TWINS: usize = 5;

/// What came down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    /// Whether anything may come down now: `open`, `dry run` or `closed`.
    #[serde(default)]
    pub state: String,
    /// What became of all commands, methods and desired properties since the start.
    pub outcomes: BTreeMap<String, u64>,
    /// Those that wait for their device, its answer or their turn.
    pub waiting: u64,
    /// Why the audit log lacks lines, while it cannot be written.
    #[serde(default)]
    pub unaudited: Option<String>,
    /// The last few, the newest first.
    pub last: Vec<Command>,
}

/// What happened to a command, as the audit log has it; no payload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// When.
    pub at: String,
    /// `message`, `method` or `desired`.
    pub kind: String,
    /// The name of the `[[command]]` or `[[desired]]`.
    pub command: String,
    /// For which device.
    pub device: String,
    /// Where it went, or was to go.
    #[serde(default)]
    pub topic: Option<String>,
    /// What became of it.
    pub outcome: String,
    /// Why.
    #[serde(default)]
    pub detail: Option<String>,
}

/// The twins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twins {
    /// How many are known.
    pub count: usize,
    /// Changes of reported properties that the hub does not have yet.
    pub waiting: u64,
    /// The bridge's own, and those of which most waits.
    pub listed: Vec<Twin>,
    /// What the hub refused last, since the start.
    pub last_refused: Option<TwinRefused>,
}

/// One twin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// The hub's device.
    pub device: String,
    /// The version of its desired properties, where they are known.
    pub desired_version: Option<u64>,
    /// That of its reported properties, once the hub has confirmed a change.
    pub reported_version: Option<u64>,
    /// Changes that the hub does not have yet.
    pub waiting: u64,
}

/// A change of a twin, or a question, that the hub refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinRefused {
    /// When.
    pub at: String,
    /// The hub's device.
    pub device: String,
    /// As in HTTP.
    pub status: u16,
    /// What the hub said.
    pub detail: String,
}

impl Commands {
    /// What the audit log and a page of Prometheus' text format have of them; nothing where none may come and none came.
    pub(in crate::app) fn of(terms: &Terms, audit: &Audit, page: &str) -> Option<Self> {
        let cut = |text: String| excerpt(&text).to_owned();
        let read = |line| serde_json::from_value::<Command>(line).ok();
        let shown = audit.recent().into_iter().filter_map(read).map(|command| Command {
            command: cut(command.command),
            device: cut(command.device),
            topic: command.topic.map(cut),
            detail: command.detail.map(cut),
            ..command
        });
        let state = match (terms.enabled, terms.dry_run) {
            (false, _) => "closed",
            (true, true) => "dry run",
            (true, false) => "open",
        };
        let commands = Self {
            state: state.to_owned(),
            outcomes: outcomes(page),
            waiting: super::sum(page, "brownbridge_commands_waiting"),
            unaudited: audit.trouble().map(|trouble| trouble.to_string()),
            last: shown.collect(),
        };
        (terms.enabled || !commands.outcomes.is_empty()).then_some(commands)
    }
}

/// How often each outcome was, over all commands.
fn outcomes(page: &str) -> BTreeMap<String, u64> {
    let mut outcomes = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("brownbridge_commands_total{")) {
        // A name of a command may hold anything; an outcome is a word, and the last label.
        let Some((labels, count)) = line.rsplit_once("\"} ") else { continue };
        let (Some((_, outcome)), Ok(count)) = (labels.rsplit_once("outcome=\""), count.parse::<u64>()) else {
            continue;
        };
        *outcomes.entry(outcome.to_owned()).or_insert(0) += count;
    }
    outcomes
}

impl Twins {
    pub(in crate::app) fn of(twins: &twins::Twins) -> Self {
        let account = twins.account(TWINS);
        let listed = account.listed.into_iter().map(|one| Twin {
            device: one.device,
            desired_version: one.desired,
            reported_version: one.reported,
            waiting: one.waiting,
        });
        let refused = account.refused.map(|refused| TwinRefused {
            at: refused.at.to_string(),
            device: refused.device,
            status: refused.status,
            detail: refused.detail,
        });
        Self { count: account.twins, waiting: account.waiting, listed: listed.collect(), last_refused: refused }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn commands_are_counted_by_outcome_and_the_last_ones_shown() {
        let page = "# TYPE brownbridge_commands_total counter\n\
            brownbridge_commands_total{command=\"a\",outcome=\"published\"} 2\n\
            brownbridge_commands_total{command=\"b\\\"} 9,outcome=\\\"x\",outcome=\"published\"} 3\n\
            brownbridge_commands_total{command=\"a\",outcome=\"no_device\"} 1\n\
            brownbridge_commands_waiting 4\n";
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::new(dir.path(), 1 << 20);
        let line = |n: usize| {
            json!({"at": "2026", "kind": "message", "command": format!("c{n}"), "device": "d", "id": n, "topic": null,
                   "outcome": "published", "detail": "x".repeat(1000), "bytes": 7, "complete": true})
        };
        assert!((0..20).all(|n| audit.write(&line(n))));
        let terms = |enabled, dry_run| Terms { enabled, dry_run, ..Terms::default() };
        for (enabled, dry_run, page, expect) in [
            (true, false, page, Some("open")),
            (true, true, "", Some("dry run")),
            (false, true, page, Some("closed")),
            (false, false, "", None),
        ] {
            let state = Commands::of(&terms(enabled, dry_run), &audit, page).map(|commands| commands.state);
            assert_eq!(state.as_deref(), expect, "{enabled} {dry_run}");
        }
        let commands = Commands::of(&terms(true, false), &audit, page).unwrap();
        let counted: Vec<_> = commands.outcomes.iter().map(|(outcome, count)| (outcome.as_str(), *count)).collect();
        assert_eq!((counted, commands.waiting), (vec![("no_device", 1), ("published", 5)], 4));
        let last: Vec<_> = commands.last.iter().map(|one| one.command.as_str()).collect();
        assert_eq!(last, ["c19", "c18", "c17", "c16", "c15", "c14", "c13", "c12"]);
        assert_eq!(commands.last[0].detail.as_ref().map(String::len), Some(200));
    }
}
