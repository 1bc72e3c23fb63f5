//! What a rule set makes of a recording, summed up by rule.

use std::collections::BTreeMap;

use serde::Serialize;

use super::sight::{Fate, Treated};

/// Bytes of a block that the hub bills as one message. The free tier's are an eighth of it.
pub const BILLED_BLOCK: usize = 4_096;

/// What became of many publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Publishes, and clients that came or went and that a rule asks for.
    pub publishes: u64,
    /// Those of which rules made messages.
    pub translated: u64,
    /// Those that were addressed to the hub.
    pub addressed: u64,
    /// Those no rule takes and that go up all the same.
    pub forwarded: u64,
    /// Those that make no message on purpose, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Those that go to the quarantine, by reason.
    pub quarantined: BTreeMap<String, u64>,
    /// Hub messages of all rules.
    pub messages: Amount,
    /// What each rule did. What no rule made is `(unmatched)` or `(addressed to the hub)`.
    pub rules: BTreeMap<String, ByRule>,
}

/// What a rule did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ByRule {
    /// The messages it made.
    #[serde(flatten)]
    pub made: Amount,
    /// The messages it put into windows, which became fewer.
    #[serde(skip_serializing_if = "is_zero")]
    pub held: u64,
    /// The publishes it dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// The publishes it could not translate, by reason.
    pub quarantined: BTreeMap<String, u64>,
}

/// An amount of hub messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub messages: u64,
    /// Their bytes as the hub counts them.
    pub bytes: u64,
    /// The blocks of 4 KB it bills for them.
    pub units: u64,
}

impl Amount {
    /// One message more.
    pub fn add(&mut self, size: usize) {
        self.messages += 1;
        self.bytes += size as u64;
        self.units += units(size);
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Blocks the hub bills for a message.
pub fn units(size: usize) -> u64 {
    size.div_ceil(BILLED_BLOCK).max(1) as u64
}

impl Tally {
    /// One publish more. A client that comes or goes counts where a rule asks for it.
    pub fn count(&mut self, treated: &Treated<'_>) {
        if treated.presence.is_some() && treated.fate == Fate::Unmatched {
            return;
        }
        self.publishes += 1;
        let fate = &treated.fate;
        let reason = fate.reason();
        let add = |counts: &mut BTreeMap<String, u64>| match counts.get_mut(reason) {
            Some(count) => *count += 1,
            None => drop(counts.insert(reason.to_owned(), 1)),
        };
        match fate {
            Fate::Translated => self.translated += 1,
            Fate::Addressed => self.addressed += 1,
            Fate::Forwarded => self.forwarded += 1,
            Fate::Unmatched | Fate::Dropped { .. } => add(&mut self.dropped),
            Fate::Quarantined { .. } => add(&mut self.quarantined),
        }
        let rule = fate.rule();
        match fate {
            Fate::Dropped { .. } if !rule.is_empty() => add(&mut self.of(rule).dropped),
            Fate::Quarantined { .. } if !rule.is_empty() => add(&mut self.of(rule).quarantined),
            _ => {}
        }
        for made in &treated.made {
            let rule = match (made.rule, fate) {
                ("", Fate::Addressed) => "(addressed to the hub)",
                ("", _) => "(unmatched)",
                (rule, _) => rule,
            };
            if made.held {
                self.of(rule).held += 1;
                continue;
            }
            self.made(rule, made.size);
        }
    }

    /// One message more, of a rule: also of a window that closed.
    pub fn made(&mut self, rule: &str, size: usize) {
        self.of(rule).made.add(size);
        self.messages.add(size);
    }

    fn of(&mut self, rule: &str) -> &mut ByRule {
        if !self.rules.contains_key(rule) {
            self.rules.insert(rule.to_owned(), ByRule::default());
        }
        self.rules.entry(rule.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn billed_blocks() {
        for (size, expect) in [(0, 1), (1, 1), (4_096, 1), (4_097, 2), (262_144, 64)] {
            assert_eq!(units(size), expect, "{size}");
        }
    }
}
