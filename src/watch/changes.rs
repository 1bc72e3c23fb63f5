//! What another rule set would make different: two treatments of each publish, compared and grouped.
//!
//! | kind | what differs |
//! |---|---|
//! | `outcome` | the verdict, or the reason of a drop or of the quarantine |
//! | `messages` | how many messages are made |
//! | `destination` | the device of a message |
//! | `priority` | whether it goes before others |
//! | `properties` | names, values or number of its properties; their order does not count |
//! | `content` | its content type or encoding |
//! | `time` | its creation time |
//! | `body` | a byte of its body |
//! | `cost` | the blocks the hub bills for all messages of the publish |
//!
//! Messages are compared one by one, in the order they are made. The name of the rule is no difference. A group is
//! what differs and the pattern of the rule that took the publish; its first publish is the example.
//!
//! What windows send is compared at the moment they close ([`Changes::compare_windows`]): messages of a device that are the same
//! on both sides cancel out, those that are left face each other in their order, and one that faces nothing differs in
//! `messages`.

use std::collections::VecDeque;
use std::fmt;

use indexmap::IndexMap;
use serde::{Serialize, Serializer};

use super::sight::{Made, Sight, Treated};
use super::tally::units;
use crate::message::Timestamp;

/// Groups that are told apart; what is beyond shares one.
const MOST_GROUPS: usize = 1_000;
/// Bytes of each payload in an example.
const EXCERPT: usize = 1_000;

/// In what two treatments differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The verdict or its reason.
    Outcome,
    /// The number of messages.
    Messages,
    /// The device.
    Destination,
    /// What goes before others.
    Priority,
    /// The properties.
    Properties,
    /// Content type or encoding.
    Content,
    /// The creation time.
    Time,
    /// The body.
    Body,
    /// The billed blocks.
    Cost,
}

impl Kind {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Outcome, "outcome"),
        (Self::Messages, "messages"),
        (Self::Destination, "destination"),
        (Self::Priority, "priority"),
        (Self::Properties, "properties"),
        (Self::Content, "content"),
        (Self::Time, "time"),
        (Self::Body, "body"),
        (Self::Cost, "cost"),
    ];

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// A set of kinds; nothing differs where it is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Kinds(u16);

impl Kinds {
    /// True where nothing differs.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kinds by name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Kind::ALL.into_iter().filter(move |(kind, _)| self.0 & kind.bit() != 0).map(|(_, name)| name)
    }

    /// In what two messages differ, but for their cost.
    fn add_message(&mut self, old: &Made<'_>, new: &Made<'_>) {
        let (a, b) = (&old.message, &new.message);
        self.add(Kind::Destination, a.device != b.device);
        self.add(Kind::Priority, old.urgent != new.urgent);
        self.add(Kind::Properties, properties(old) != properties(new));
        self.add(Kind::Content, a.content != b.content);
        self.add(Kind::Time, a.created != b.created);
        self.add(Kind::Body, a.body != b.body);
    }

    fn add(&mut self, kind: Kind, differs: bool) {
        if differs {
            self.0 |= kind.bit();
        }
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, name) in self.names().enumerate() {
            if place > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl Serialize for Kinds {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.names())
    }
}

/// What the members of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    kinds: Kinds,
    pattern: String,
    of_windows: bool,
}

/// Everything that differs.
#[derive(Debug, Default)]
pub struct Changes {
    /// Publishes that were compared.
    pub publishes: u64,
    /// Publishes with a difference.
    pub changed: u64,
    /// Messages of windows that were compared.
    pub window_messages: u64,
    /// Those with a difference.
    pub window_messages_changed: u64,
    groups: IndexMap<Key, (u64, Example)>,
}

/// One publish with both treatments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// As the old rules have it.
    pub old: Sight,
    /// As the new rules have it.
    pub new: Sight,
}

/// Publishes, or messages of windows, that change alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group<'c> {
    /// The pattern of the rule that takes them.
    pub pattern: &'c str,
    /// What differs.
    pub kinds: Kinds,
    /// How many there are.
    pub publishes: u64,
    /// They are no publishes but messages of windows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub of_windows: bool,
    /// The first of them.
    pub example: &'c Example,
}

impl Changes {
    /// Compares one publish; `pattern` is that of the rule that takes it.
    pub fn compare(&mut self, old: &Treated<'_>, new: &Treated<'_>, pattern: &str) {
        self.publishes += 1;
        let kinds = differences(old, new);
        if kinds.is_empty() {
            return;
        }
        self.changed += 1;
        let key = Key { kinds, pattern: pattern.to_owned(), of_windows: false };
        self.add(key, || Example { old: Sight::new(old, EXCERPT), new: Sight::new(new, EXCERPT) });
    }

    /// Compares what windows send that close at one moment; `pattern` tells that of a rule.
    pub fn compare_windows<'p>(
        &mut self,
        at: Timestamp,
        (old, new): (&[Made<'_>], &[Made<'_>]),
        pattern: impl Fn(&str) -> Option<&'p str>,
    ) {
        self.window_messages += old.len().max(new.len()) as u64;
        for (old, new) in differing(old, new) {
            self.window_messages_changed += 1;
            let mut kinds = Kinds::default();
            kinds.add(Kind::Messages, old.is_some() != new.is_some());
            if let (Some(old), Some(new)) = (old, new) {
                kinds.add_message(old, new);
            }
            let cost = |made: Option<&Made<'_>>| made.map_or(0, |made| units(made.size));
            kinds.add(Kind::Cost, cost(old) != cost(new));
            let rule = old.or(new).map_or("", |made| made.rule);
            let key = Key { kinds, pattern: pattern(rule).unwrap_or("(no rule)").to_owned(), of_windows: true };
            let sight = |made: Option<&Made<'_>>| Sight::of_window(at, made, EXCERPT);
            self.add(key, || Example { old: sight(old), new: sight(new) });
        }
    }

    fn add(&mut self, mut key: Key, example: impl FnOnce() -> Example) {
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&key) {
            key.pattern = "(others)".to_owned();
        }
        self.groups.entry(key).or_insert_with(|| (0, example())).0 += 1;
    }

    /// The groups, the largest first.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let groups = self.groups.iter().map(|(key, (publishes, example))| Group {
            pattern: &key.pattern,
            kinds: key.kinds,
            publishes: *publishes,
            of_windows: key.of_windows,
            example,
        });
        let mut groups: Vec<Group<'_>> = groups.collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.publishes));
        groups
    }
}

/// In what two treatments of a publish differ.
pub fn differences(old: &Treated<'_>, new: &Treated<'_>) -> Kinds {
    let mut kinds = Kinds::default();
    let outcome = |treated: &Treated<'_>| (treated.fate.verdict(), treated.fate.reason().to_owned());
    kinds.add(Kind::Outcome, outcome(old) != outcome(new));
    kinds.add(Kind::Messages, old.made.len() != new.made.len());
    for (old, new) in old.made.iter().zip(&new.made) {
        kinds.add_message(old, new);
    }
    let cost = |treated: &Treated<'_>| sent(treated).map(|made| units(made.size)).sum::<u64>();
    kinds.add(Kind::Cost, cost(old) != cost(new));
    kinds
}

/// The messages of closing windows that have no equal on the other side, each with the one that it faces there.
fn differing<'m, 'a>(
    old: &'m [Made<'a>],
    new: &'m [Made<'a>],
) -> impl Iterator<Item = (Option<&'m Made<'a>>, Option<&'m Made<'a>>)> {
    let mut left: IndexMap<&str, VecDeque<&Made<'_>>> = IndexMap::new();
    for made in new {
        left.entry(made.message.device).or_default().push_back(made);
    }
    let mut without_equal = Vec::new();
    for made in old {
        let same = |other: &&Made<'_>| {
            let mut kinds = Kinds::default();
            kinds.add_message(made, other);
            kinds.is_empty()
        };
        let others = left.get_mut(made.message.device);
        if others.and_then(|others| others.remove(others.iter().position(same)?)).is_none() {
            without_equal.push(made);
        }
    }
    let mut pairs: Vec<(Option<&Made<'_>>, Option<&Made<'_>>)> = Vec::new();
    for made in without_equal {
        pairs.push((Some(made), left.get_mut(made.message.device).and_then(VecDeque::pop_front)));
    }
    pairs.extend(left.into_values().flatten().map(|made| (None, Some(made))));
    pairs.into_iter()
}

/// The messages that go up by themselves; what a window makes of the others nobody knows yet.
fn sent<'t, 'a>(treated: &'t Treated<'a>) -> impl Iterator<Item = &'t Made<'a>> {
    treated.made.iter().filter(|made| !made.held)
}

fn properties<'a>(made: &Made<'a>) -> Vec<(&'a str, &'a str)> {
    let mut properties: Vec<_> = made.message.properties().collect();
    properties.sort_unstable();
    properties
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Content, HubMessage, Publish, RecordWriter};
    use crate::watch::Fate;

    struct Hub<'a>(&'a str, Content<'a>, i64, &'a [(&'a str, &'a str)], &'a [u8]);

    fn record(message: &Hub<'_>) -> Vec<u8> {
        let Hub(device, content, ms, properties, body) = message;
        let mut out = Vec::new();
        let mut writer = RecordWriter::begin(&mut out, Timestamp(*ms), *content, |out| out.extend(device.bytes()));
        properties.iter().for_each(|(name, value)| writer.property(name, |out| out.extend(value.bytes())));
        writer.finish(|out| out.extend_from_slice(body)).unwrap();
        out
    }

    fn treated<'a>(fate: Fate<'a>, records: &'a [Vec<u8>]) -> Treated<'a> {
        let made = records.iter().map(|record| {
            let message = HubMessage::parse(record).unwrap();
            Made {
                rule: "r",
                urgent: message.device == "alarm",
                held: false,
                reported: false,
                size: message.body.len(),
                message,
            }
        });
        let publish = Publish {
            topic: "t",
            payload: b"",
            client: "c",
            user: None,
            qos: 1,
            retain: false,
            received: Timestamp(0),
        };
        Treated { publish, presence: None, fate, made: made.collect() }
    }

    #[test]
    fn kinds_of_change() {
        let base = Hub("m7", Content::Json, 0, &[("a", "1"), ("b", "2")], b"{}");
        let long = [b'x'; 5_000];
        let translated = || Fate::Translated;
        let dropped = |reason| Fate::Dropped { rule: "other", reason, detail: "".into() };
        for (fate, messages, expect) in [
            (translated(), vec![Hub("m7", Content::Json, 0, &[("a", "1"), ("b", "2")], b"{}")], ""),
            (translated(), vec![Hub("m7", Content::Json, 0, &[("b", "2"), ("a", "1")], b"{}")], ""),
            (translated(), vec![Hub("m8", Content::Json, 0, &[("a", "1"), ("b", "2")], b"{}")], "destination"),
            (
                translated(),
                vec![Hub("alarm", Content::Json, 0, &[("a", "1"), ("b", "2")], b"{}")],
                "destination, priority",
            ),
            (translated(), vec![Hub("m7", Content::Json, 0, &[("a", "1")], b"{}")], "properties"),
            (translated(), vec![Hub("m7", Content::Json, 0, &[("a", "1"), ("b", "3")], b"{}")], "properties"),
            (translated(), vec![Hub("m7", Content::Text, 0, &[("a", "1"), ("b", "2")], b"{}")], "content"),
            (translated(), vec![Hub("m7", Content::Json, 1, &[("a", "1"), ("b", "2")], b"{}")], "time"),
            (translated(), vec![Hub("m7", Content::Json, 0, &[("a", "1"), ("b", "2")], b"{ }")], "body"),
            (translated(), vec![Hub("m7", Content::Json, 0, &[("a", "1"), ("b", "2")], &long)], "body, cost"),
            (translated(), vec![], "messages, cost"),
            (dropped("rule"), vec![], "outcome, messages, cost"),
            (Fate::Forwarded, vec![Hub("m7", Content::Json, 0, &[("a", "1"), ("b", "2")], b"{}")], "outcome"),
        ] {
            let old = [record(&base)];
            let new: Vec<Vec<u8>> = messages.iter().map(record).collect();
            let (old, new) = (treated(Fate::Translated, &old), treated(fate, &new));
            assert_eq!(differences(&old, &new).to_string(), expect);
            assert_eq!(differences(&new, &old).to_string(), expect);
        }
        let (old, new) = (treated(dropped("rule"), &[]), treated(dropped("throttled"), &[]));
        assert_eq!(differences(&old, &new).to_string(), "outcome");
    }

    #[test]
    fn messages_of_windows_face_their_like() {
        let hub =
            |device: &'static str, body: &'static str| record(&Hub(device, Content::Json, 0, &[], body.as_bytes()));
        for (old, new, expect) in [
            (vec![("a", "[1]"), ("b", "[2]")], vec![("b", "[2]"), ("a", "[1]")], ""),
            (vec![("a", "[1]"), ("b", "[2]")], vec![("a", "[1]"), ("b", "[3]")], "1 body"),
            (vec![("a", "[1]"), ("a", "[2]")], vec![("a", "[2]")], "1 messages, cost"),
            (vec![], vec![("a", "[2]"), ("b", "[2]")], "2 messages, cost"),
            (vec![("a", "[1,2]")], vec![("a", "[1]"), ("a", "[2]")], "1 body; 1 messages, cost"),
            (vec![("a", "[1]")], vec![("b", "[1]")], "2 messages, cost"),
        ] {
            let records = |all: &[(&'static str, &'static str)]| -> Vec<Vec<u8>> {
                all.iter().map(|(device, body)| hub(device, body)).collect()
            };
            let (a, b) = (records(&old), records(&new));
            let mut changes = Changes::default();
            let (a, b) = (treated(Fate::Translated, &a).made, treated(Fate::Translated, &b).made);
            changes.compare_windows(Timestamp(7), (&a, &b), |_| Some("p/+"));
            let mut told: Vec<String> =
                changes.groups().iter().map(|group| format!("{} {}", group.publishes, group.kinds)).collect();
            told.sort();
            assert_eq!(told.join("; "), expect, "{old:?} {new:?}");
            assert!(changes.groups().iter().all(|group| group.of_windows && group.pattern == "p/+"));
            assert_eq!((changes.publishes, changes.window_messages), (0, old.len().max(new.len()) as u64));
        }
    }

    #[test]
    fn groups_are_bounded_and_the_largest_comes_first() {
        let records: Vec<Vec<u8>> =
            ["m7", "m8"].iter().map(|device| record(&Hub(device, Content::Json, 0, &[], b"{}"))).collect();
        let (old, new) = (treated(Fate::Translated, &records[..1]), treated(Fate::Translated, &records[1..]));
        let mut changes = Changes::default();
        changes.compare(&old, &old, "same/+");
        (0..2 * MOST_GROUPS).for_each(|n| changes.compare(&old, &new, &format!("t/{n}")));
        changes.compare(&old, &new, "t/7");
        let groups = changes.groups();
        assert_eq!((changes.publishes, changes.changed), (2 * MOST_GROUPS as u64 + 2, 2 * MOST_GROUPS as u64 + 1));
        assert_eq!(groups.len(), MOST_GROUPS + 1);
        assert_eq!((groups[0].pattern, groups[0].publishes), ("(others)", MOST_GROUPS as u64));
        assert_eq!((groups[1].pattern, groups[1].publishes), ("t/7", 2));
        assert_eq!(groups[1].example.new.messages[0].device, "m8");
    }
}
