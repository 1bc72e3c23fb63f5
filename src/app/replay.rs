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
use crate::watch::Treated;
use crate::watch::changes::Changes;
use crate::watch::tally::Tally;
use crate::watch::traffic::Entry;

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
        for side in std::iter::once(&mut self.new).chain(&mut self.old) {
            side.engine.rules.finish(&mut side.engine.out);
            side.count_windows(&self.setting.own);
        }
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
        new.close_windows(time, &setting.own);
        if let Some(old) = old {
            old.close_windows(time, &setting.own);
        }
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

impl Side {
    /// Counts the messages of windows that are due by `now`.
    fn close_windows(&mut self, now: Timestamp, own: &Own) {
        let Engine { rules, out, .. } = &mut self.engine;
        rules.due(now, out);
        self.count_windows(own);
    }

    fn count_windows(&mut self, own: &Own) {
        let Engine { rules, out, .. } = &self.engine;
        for (rule, record) in out.records() {
            if let Some(size) = own.size(record) {
                self.tally.made(rules.name(rule), size);
            }
        }
    }

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
