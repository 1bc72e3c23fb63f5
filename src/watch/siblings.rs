//! Topics that differ in one level only, as one row: `plant1/+/temp` instead of `plant1/press1/temp`,
//! `plant1/press2/temp` and so on. Two are enough where that is the level before the last, three elsewhere.
//!
//! Greedy: of all levels that could be left open the one that joins most topics does, then the one that joins most of
//! the rest; among equals the one with more publishes, then the one further in front.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::busiest::Seen;

/// Fewer topics stay apart: two that differ in a level may well be two kinds of message.
const FEWEST: usize = 3;
/// In the level before the last stands the machine, mostly, so there two are siblings already.
const FEWEST_MACHINES: usize = 2;
/// Levels that may be left open.
const LEVELS: usize = 16;

/// Topics that differ in one level, or one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The topic, with `+` in the level that differs.
    pub pattern: String,
    /// The level that differs, from 0.
    pub level: Option<usize>,
    /// Its topics, as places in the list that was given, the busiest first.
    pub members: Vec<usize>,
    /// Publishes of all of them.
    pub count: u64,
    /// When one of them was last seen.
    pub last: i64,
}

impl Family {
    /// One topic, at a place of the list, without siblings.
    pub fn alone(place: usize, seen: &Seen) -> Self {
        Self { pattern: seen.topic.clone(), level: None, members: vec![place], count: seen.count, last: seen.last }
    }
}

/// Groups topics; the busiest family comes first.
pub fn families(topics: &[Seen]) -> Vec<Family> {
    let mut open: HashMap<Open<'_>, Vec<usize>> = HashMap::new();
    for (place, seen) in topics.iter().enumerate() {
        for key in openings(&seen.topic) {
            open.entry(key).or_default().push(place);
        }
    }
    let count = |members: &[usize]| members.iter().filter_map(|place| topics.get(*place)).map(|seen| seen.count).sum();
    let mut candidates: Vec<(Open<'_>, Vec<usize>, u64)> = open
        .into_iter()
        .filter(|(key, members)| members.len() >= key.fewest())
        .map(|(key, members)| {
            let count = count(&members);
            (key, members, count)
        })
        .collect();
    candidates.sort_by_key(|(key, members, count)| (Reverse(members.len()), Reverse(*count), *key));

    let mut taken: HashSet<usize> = HashSet::new();
    let mut families = Vec::new();
    for (key, members, _) in candidates {
        let members: Vec<usize> = members.into_iter().filter(|place| !taken.contains(place)).collect();
        if members.len() >= key.fewest() {
            taken.extend(&members);
            families.push(family(key.pattern(), key.level, members, topics));
        }
    }
    let alone = (0..topics.len()).filter(|place| !taken.contains(place));
    families.extend(alone.filter_map(|place| Some(Family::alone(place, topics.get(place)?))));
    families.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.pattern.cmp(&b.pattern)));
    families
}

fn family(pattern: String, level: usize, mut members: Vec<usize>, topics: &[Seen]) -> Family {
    members.sort_by_key(|place| topics.get(*place).map(|seen| Reverse(seen.count)));
    let seen = || members.iter().filter_map(|place| topics.get(*place));
    let count = seen().map(|seen| seen.count).sum();
    let last = seen().map(|seen| seen.last).max().unwrap_or(0);
    Family { pattern, level: Some(level), members, count, last }
}

/// A topic without one of its levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Open<'t> {
    level: usize,
    before: &'t str,
    behind: &'t str,
}

impl Open<'_> {
    fn pattern(&self) -> String {
        format!("{}+{}", self.before, self.behind)
    }

    /// How many make a family.
    fn fewest(&self) -> usize {
        let is_machine = self.behind.bytes().filter(|byte| *byte == b'/').count() == 1;
        if is_machine { FEWEST_MACHINES } else { FEWEST }
    }
}

fn openings(topic: &str) -> impl Iterator<Item = Open<'_>> {
    let mut at = 0;
    topic.split('/').take(LEVELS).enumerate().filter_map(move |(level, word)| {
        let start = at;
        at += word.len() + 1;
        Some(Open { level, before: topic.get(..start)?, behind: topic.get(start + word.len()..)? })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic;

    fn seen(topic: &str, count: u64) -> Seen {
        let (client, payload) = (String::new(), String::new());
        Seen { topic: topic.to_owned(), count, error: 0, first: 0, last: 0, client, size: 0, payload }
    }

    #[test]
    fn families_of_topics() {
        for (topics, expect) in [
            (&["a/1/t", "a/2/t"][..], &["a/+/t*2"][..]),
            (&["a/1/t", "a/1/u"], &["a/1/t", "a/1/u"]),
            (&["a/1/b/t", "a/2/b/t"], &["a/1/b/t", "a/2/b/t"]),
            (&["a/1/t", "a/2/t", "a/3/t"], &["a/+/t*3"]),
            // Five machines with three signals each: by signal, not by machine.
            (
                &["p/1/a", "p/1/b", "p/2/a", "p/2/b", "p/3/a", "p/3/b", "p/1/c", "p/2/c", "p/3/c", "p/4/a", "p/5/a"],
                &["p/+/a*5", "p/+/b*3", "p/+/c*3"],
            ),
            (&["x", "y", "z"], &["+*3"]),
            (&["a/b", "a/b/c", "a/b/c/d"], &["a/b", "a/b/c", "a/b/c/d"]),
            (&["t/1", "t/2", "t/3", "t/3/x"], &["t/+*3", "t/3/x"]),
            (&[], &[]),
        ] {
            let topics: Vec<Seen> = topics.iter().map(|topic| seen(topic, 1)).collect();
            let found: Vec<String> = families(&topics)
                .iter()
                .map(|family| match family.members.len() {
                    1 => family.pattern.clone(),
                    members => format!("{}*{members}", family.pattern),
                })
                .collect();
            assert_eq!(found, expect);
        }
    }

    proptest! {
        /// Each topic is in one family, whose pattern takes it, and no publish is lost on the way.
        #[test]
        fn families_are_a_partition(topics in proptest::collection::btree_map("[ab]{0,1}(/[abc]{0,1}){0,3}", 1_u64..9, 0..40)) {
            let topics: Vec<Seen> = topics.iter().map(|(topic, count)| seen(topic, *count)).collect();
            let found = families(&topics);
            let mut members: Vec<usize> = found.iter().flat_map(|family| family.members.clone()).collect();
            members.sort_unstable();
            prop_assert_eq!(members, (0..topics.len()).collect::<Vec<_>>());
            prop_assert!(found.is_sorted_by_key(|family| Reverse(family.count)));
            for family in &found {
                let of = family.members.iter().map(|place| &topics[*place]);
                prop_assert_eq!(family.count, of.clone().map(|seen| seen.count).sum::<u64>());
                for seen in of {
                    prop_assert!(topic::matches(&family.pattern, &seen.topic), "{} {}", family.pattern, seen.topic);
                }
            }
        }
    }
}
