//! Which rules a topic meets, found without asking every rule.
//!
//! A trie answers for all topic patterns and one `RegexSet` for all regexes; the candidates are sorted into
//! file order and cut after the first that ends the search. In front stands a small cache the caller owns:
//! plant equipment publishes on the same few topics, and then neither trie nor regex is asked.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use regex::RegexSet;

use super::pattern::Pattern;
use super::rule::Rule;
use crate::message::Event;
use crate::topic::Trie;

/// The lazy DFA of the set may grow to this. With the crate's default it falls off a cliff at a few
/// thousand rules: 57 to 1,000 times slower, measured.
const DFA_LIMIT: usize = 64 << 20;

/// The compiled set may grow to this.
const SET_LIMIT: usize = 256 << 20;

/// Topics a cache holds, each in the slot its hash names.
const SLOTS: usize = 128;

/// Longer topics are not cached, and neither are topics that meet more rules: the cache stays below 128 KiB.
const MAX_TOPIC: usize = 512;
const MAX_STEPS: usize = 16;

/// Finds the rules a topic meets.
#[derive(Debug)]
pub(super) struct Index {
    topics: Trie<usize>,
    regexes: Option<RegexSet>,
    /// The rule of each regex of the set.
    regex_rules: Vec<usize>,
}

/// The rules a topic meets, in file order, each with the places of its names in the topic.
#[derive(Debug, Default)]
pub(super) struct Route {
    steps: Vec<Step>,
    places: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Step {
    rule: usize,
    places: Range<usize>,
}

impl Index {
    /// Files the rules for publishes, or those for what clients do.
    pub(super) fn new(rules: &[Rule], on: Option<Event>) -> Result<Self, regex::Error> {
        let mut topics = Trie::default();
        let mut regex_rules = Vec::new();
        let mut texts = Vec::new();
        for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.on == on) {
            match &rule.pattern {
                Pattern::Topic { filter, .. } => topics.entry(filter).push(index),
                Pattern::Regex { text, .. } => {
                    regex_rules.push(index);
                    texts.push(text.as_str());
                }
            }
        }
        let regexes = match texts.is_empty() {
            true => None,
            false => Some(regex::RegexSetBuilder::new(texts).size_limit(SET_LIMIT).dfa_size_limit(DFA_LIMIT).build()?),
        };
        Ok(Self { topics, regexes, regex_rules })
    }

    fn find(&self, rules: &[Rule], topic: &str, candidates: &mut Vec<usize>, route: &mut Route) {
        candidates.clear();
        route.clear();
        self.topics.each_match(topic, |rule| candidates.push(*rule));
        if let Some(set) = &self.regexes {
            candidates.extend(set.matches(topic).iter().filter_map(|regex| self.regex_rules.get(regex)));
        }
        candidates.sort_unstable();
        for index in candidates {
            let Some(rule) = rules.get(*index) else { continue };
            let start = route.places.len();
            if !rule.pattern.captures(topic, &mut route.places) {
                continue;
            }
            route.steps.push(Step { rule: *index, places: start..route.places.len() });
            if rule.is_last() {
                break;
            }
        }
    }
}

impl Route {
    fn clear(&mut self) {
        self.steps.clear();
        self.places.clear();
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = (usize, &[Range<usize>])> {
        self.steps.iter().map(|step| (step.rule, self.places.get(step.places.clone()).unwrap_or(&[])))
    }
}

/// The routes of topics seen lately. It belongs to one connection, so it needs no lock, and it notices by
/// the number of the rule set that the rules were changed.
#[derive(Debug, Default)]
pub(super) struct Cache {
    set: u64,
    slots: Vec<Slot>,
    uncached: Route,
    candidates: Vec<usize>,
}

#[derive(Debug, Default)]
struct Slot {
    topic: String,
    route: Route,
}

impl Cache {
    /// The route of a text through an index, found now: what comes seldom takes no slot.
    pub(super) fn find(&mut self, index: &Index, rules: &[Rule], text: &str) -> &Route {
        index.find(rules, text, &mut self.candidates, &mut self.uncached);
        &self.uncached
    }

    /// The route of a topic through rule set number `set`, from the cache or found now.
    pub(super) fn route(&mut self, set: u64, index: &Index, rules: &[Rule], topic: &str) -> &Route {
        if self.set != set {
            self.set = set;
            self.slots.clear();
        }
        if topic.len() > MAX_TOPIC {
            index.find(rules, topic, &mut self.candidates, &mut self.uncached);
            return &self.uncached;
        }
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, Slot::default);
        }
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % SLOTS as u64).unwrap_or(0);
        let Some(slot) = self.slots.get_mut(at) else { return &self.uncached };
        if slot.topic == topic {
            return &slot.route;
        }
        slot.topic.clear();
        index.find(rules, topic, &mut self.candidates, &mut self.uncached);
        if self.uncached.steps.len() > MAX_STEPS {
            return &self.uncached;
        }
        slot.topic.push_str(topic);
        std::mem::swap(&mut slot.route, &mut self.uncached);
        &slot.route
    }
}
