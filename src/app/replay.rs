//! A recording through one or two rule sets, offline: what comes out, and what would differ.
//!
//! Each publish is translated at the time it was recorded, by the same calls as in a running bridge, and nothing is
//! stored. What the rules remember begins empty.

use std::collections::HashMap;

use crate::bridge::{Judge, Own};
use crate::config::Unmatched;
use crate::message::Timestamp;
use crate::rules::{Output, RuleSet};
use crate::topic;
use crate::watch::changes::Changes;
use crate::watch::tally::Tally;
use crate::watch::traffic::Entry;
use crate::watch::{Made, Treated};

/// A rule set and what it makes of the recording.
pub struct Side {
    engine: Engine,
    /// The pattern of each rule by its name.
    patterns: HashMap<String, String>,
    /// What came out.
    pub tally: Tally,
}

struct Engine {
    rules: RuleSet,
    out: Output,
    given: Vec<u8>,
}

/// What decides beside the rules.
pub struct Setting {
    /// What becomes of publishes no rule takes.
    pub unmatched: Unmatched,
    /// The identity of the uplink.
    pub own: Own,
    /// Only publishes that this topic filter matches.
    pub topic: Option<String>,
}

/// A recording that is being replayed.
pub struct Replay {
    setting: Setting,
    /// The new rules.
    pub new: Side,
    /// The rules they are compared with.
    pub old: Option<Side>,
    /// What differs.
    pub changes: Changes,
    /// What the recording says of itself.
    pub recorded: Recorded,
}

/// What a recording has.
#[derive(Debug, Default, Clone, Copy)]
pub struct Recorded {
    /// The time of its first line.
    pub first: Option<Timestamp>,
    /// The time of its last one.
    pub last: Option<Timestamp>,
    /// Its publishes that are replayed.
    pub publishes: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// How often a client came or went.
    pub passages: u64,
    /// How much it says is missing.
    pub missing: u64,
    /// Lines that cannot be read.
    pub damaged: u64,
}

impl Replay {
    /// Begins with empty memories.
    pub fn new(setting: Setting, new: RuleSet, old: Option<RuleSet>) -> Self {
        let (changes, recorded) = (Changes::default(), Recorded::default());
        Self { setting, new: Side::new(new), old: old.map(Side::new), changes, recorded }
    }

    /// Nothing more comes: what waits in windows becomes messages.
    pub fn finish(&mut self) {
        let Self { setting, new, old, changes, recorded } = self;
        for side in std::iter::once(&mut *new).chain(&mut *old) {
            side.engine.rules.finish(&mut side.engine.out);
        }
        count_windows(setting, (new, old.as_mut()), recorded.last.unwrap_or(Timestamp(0)), changes);
    }

    /// The next line.
    pub fn feed(&mut self, entry: &Entry) {
        let Self { setting, new, old, changes, recorded } = self;
        let (time, wanted) = match (entry, &setting.topic) {
            (Entry::Publish(publish), None) => (publish.received, true),
            (Entry::Publish(publish), Some(filter)) => (publish.received, topic::matches(filter, &publish.topic)),
            (Entry::Presence(passage), filter) => (passage.at, filter.is_none()),
            (Entry::Gap(missing), _) => return recorded.missing += missing,
            (Entry::Damaged, _) => return recorded.damaged += 1,
            (Entry::Began | Entry::Foreign(_), _) => return,
        };
        recorded.first.get_or_insert(time);
        recorded.last = Some(time);
        match entry {
            _ if !wanted => return,
            Entry::Publish(publish) => {
                recorded.publishes += 1;
                recorded.payload_bytes += publish.payload.len() as u64;
            }
            _ => recorded.passages += 1,
        }
        for side in std::iter::once(&mut *new).chain(&mut *old) {
            side.engine.rules.due(time, &mut side.engine.out);
        }
        count_windows(setting, (new, old.as_mut()), time, changes);
        let Some(now) = new.engine.treat(setting, entry) else { return };
        new.tally.count(&now);
        if let Some(old) = old
            && let Some(before) = old.engine.treat(setting, entry)
        {
            old.tally.count(&before);
            let taken_by = pattern(&old.patterns, &before).or_else(|| pattern(&new.patterns, &now));
            changes.compare(&before, &now, taken_by.unwrap_or("(no rule)"));
        }
    }
}

/// Counts and compares the messages of windows that have just closed.
fn count_windows(setting: &Setting, (new, old): (&mut Side, Option<&mut Side>), at: Timestamp, changes: &mut Changes) {
    let now = new.engine.closed(setting);
    now.iter().for_each(|made| new.tally.made(made.rule, made.size));
    let Some(old) = old else { return };
    let before = old.engine.closed(setting);
    before.iter().for_each(|made| old.tally.made(made.rule, made.size));
    let pattern = |rule: &str| old.patterns.get(rule).or_else(|| new.patterns.get(rule)).map(String::as_str);
    changes.compare_windows(at, (&before, &now), pattern);
}

impl Side {
    fn new(rules: RuleSet) -> Self {
        let patterns = rules.patterns().map(|(name, pattern)| (name.to_owned(), pattern.to_owned())).collect();
        let engine = Engine { rules, out: Output::new(), given: Vec::new() };
        Self { engine, patterns, tally: Tally::default() }
    }
}

/// The pattern of the rule that took a publish.
fn pattern<'p>(patterns: &'p HashMap<String, String>, treated: &Treated<'_>) -> Option<&'p str> {
    let made = treated.made.first().map(|made| made.rule).filter(|rule| !rule.is_empty());
    patterns.get(made.unwrap_or(treated.fate.rule())).map(String::as_str)
}

impl Engine {
    /// The messages of windows that have just closed.
    fn closed<'a>(&'a self, setting: &'a Setting) -> Vec<Made<'a>> {
        Judge { rules: &self.rules, unmatched: setting.unmatched, own: &setting.own }.closed(&self.out)
    }

    fn treat<'a>(&'a mut self, setting: &'a Setting, entry: &'a Entry) -> Option<Treated<'a>> {
        let Self { rules, out, given } = self;
        given.clear();
        let judge = Judge { rules, unmatched: setting.unmatched, own: &setting.own };
        match entry {
            Entry::Publish(recorded) => Some(judge.publish(&recorded.as_publish(), out, given)),
            Entry::Presence(passage) => Some(judge.presence(&passage.as_presence(), out, given)),
            _ => None,
        }
    }
}
