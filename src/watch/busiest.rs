//! The busiest topics of a stream, in bounded memory, by space-saving (Metwally, Agrawal and El Abbadi, 2005).
//!
//! So many topics are counted; where a new one comes and there is no place, it takes that of the topic with the
//! smallest count and goes on from its count, which is noted as its `error`. What follows:
//!
//! - a topic with more than `total / places` publishes is there;
//! - `count - error` is not more than the publishes there were of a topic, and `count` not less;
//! - all counts together are the publishes there were, so a group of topics is counted truly as a whole.
//!
//! Topics longer than [`LONGEST_TOPIC`] are only counted together. With the beginning of a payload each, the memory is
//! at most places times 1.6 kB.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::message::{Publish, Timestamp};

/// Longer topics are not told apart.
pub const LONGEST_TOPIC: usize = 1_024;
/// Bytes of a payload that are kept.
pub const PAYLOAD: usize = 400;
/// Bytes of a client id that are kept.
const CLIENT: usize = 64;

/// Counts topics.
#[derive(Debug)]
pub struct Busiest {
    most: usize,
    places: HashMap<Arc<str>, usize>,
    /// The counts of `slots`, close together: the smallest is looked for often.
    counts: Vec<u64>,
    slots: Vec<Slot>,
    total: u64,
    too_long: u64,
    displaced: bool,
}

#[derive(Debug)]
struct Slot {
    topic: Arc<str>,
    error: u64,
    first: Timestamp,
    last: Timestamp,
    client: String,
    size: usize,
    payload: Vec<u8>,
}

/// A topic that was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The topic.
    pub topic: String,
    /// Its publishes, at most.
    pub count: u64,
    /// By how much that may be too many.
    pub error: u64,
    /// When it was first seen, in milliseconds since 1970. After a displacement that is later than the truth.
    pub first: i64,
    /// When it was last seen.
    pub last: i64,
    /// Who published it last.
    pub client: String,
    /// Bytes of the last payload.
    pub size: usize,
    /// The beginning of a recent payload, in base64.
    pub payload: String,
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// All publishes.
    pub total: u64,
    /// Those of them with topics that are too long to be told apart.
    pub too_long: u64,
    /// There were more topics than can be told apart.
    pub crowded: bool,
    /// The busiest topics, the busiest first.
    pub topics: Vec<Seen>,
}

impl Counted {
    /// Two counts of different topics as one.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.total += other.total;
        self.too_long += other.too_long;
        self.crowded |= other.crowded;
        self.topics.extend(other.topics);
        self.topics.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.topic.cmp(&b.topic)));
        self
    }
}

impl Counted {
    /// Without the topics that have a rule by now.
    #[must_use]
    pub fn without(mut self, has_rule: impl Fn(&str) -> bool) -> Self {
        let total = &mut self.total;
        self.topics.retain(|seen| {
            let goes = has_rule(&seen.topic);
            if goes {
                *total = total.saturating_sub(seen.count - seen.error.min(seen.count));
            }
            !goes
        });
        self
    }
}

impl Busiest {
    /// Tells so many topics apart.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            places: HashMap::new(),
            counts: Vec::new(),
            slots: Vec::new(),
            total: 0,
            too_long: 0,
            displaced: false,
        }
    }

    /// Counts a publish. Allocates only for a topic that has no place yet.
    pub fn count(&mut self, publish: &Publish<'_>) {
        self.total += 1;
        if publish.topic.len() > LONGEST_TOPIC {
            self.too_long += 1;
            return;
        }
        if let Some(place) = self.places.get(publish.topic).copied() {
            if let (Some(count), Some(slot)) = (self.counts.get_mut(place), self.slots.get_mut(place)) {
                *count += 1;
                slot.saw(publish);
            }
            return;
        }
        let topic: Arc<str> = publish.topic.into();
        if self.slots.len() < self.most {
            self.places.insert(Arc::clone(&topic), self.slots.len());
            self.counts.push(1);
            self.slots.push(Slot::new(topic, 0, publish));
            return;
        }
        let smallest = self.counts.iter().enumerate().min_by_key(|(_, count)| **count).map(|(place, _)| place);
        let Some(place) = smallest else { return };
        if let (Some(count), Some(slot)) = (self.counts.get_mut(place), self.slots.get_mut(place)) {
            self.places.remove(&slot.topic);
            self.places.insert(Arc::clone(&topic), place);
            self.displaced = true;
            *slot = Slot::new(topic, *count, publish);
            *count += 1;
        }
    }

    /// What was counted.
    pub fn counted(&self) -> Counted {
        let topics = self.slots.iter().zip(&self.counts).map(|(slot, count)| slot.seen(*count)).collect();
        let all = Counted { total: self.total, too_long: self.too_long, crowded: self.displaced, topics };
        all.with(Counted::default())
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        *self = Self::new(self.most);
    }
}

impl Slot {
    fn new(topic: Arc<str>, error: u64, publish: &Publish<'_>) -> Self {
        let mut slot = Self {
            topic,
            error,
            first: publish.received,
            last: publish.received,
            client: String::new(),
            size: 0,
            payload: Vec::new(),
        };
        slot.keep(publish);
        slot
    }

    fn saw(&mut self, publish: &Publish<'_>) {
        // Once a second is recent enough.
        if publish.received.as_secs() != self.last.as_secs() {
            self.keep(publish);
        }
        self.last = publish.received;
    }

    fn keep(&mut self, publish: &Publish<'_>) {
        let client = publish.client.get(..publish.client.floor_char_boundary(CLIENT)).unwrap_or_default();
        if self.client != client {
            client.clone_into(&mut self.client);
        }
        self.size = publish.payload.len();
        self.payload.clear();
        self.payload.extend_from_slice(publish.payload.get(..PAYLOAD).unwrap_or(publish.payload));
    }

    fn seen(&self, count: u64) -> Seen {
        use base64::Engine as _;
        Seen {
            topic: self.topic.as_ref().to_owned(),
            count,
            error: self.error,
            first: self.first.0,
            last: self.last.0,
            client: self.client.clone(),
            size: self.size,
            payload: base64::prelude::BASE64_STANDARD.encode(&self.payload),
        }
    }
}

impl Seen {
    /// The beginning of a recent payload.
    pub fn payload(&self) -> Vec<u8> {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.decode(&self.payload).unwrap_or_default()
    }

    /// Publishes a second, since the topic was first seen.
    #[expect(clippy::cast_precision_loss)]
    pub fn rate(&self, now: Timestamp) -> f64 {
        let seconds = now.0.saturating_sub(self.first).max(1_000) as f64 / 1_000.0;
        (self.count - self.error.min(self.count)) as f64 / seconds
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publish<'a>(topic: &'a str, payload: &'a [u8], ms: i64) -> Publish<'a> {
        Publish { topic, payload, client: "c", user: None, qos: 0, retain: false, received: Timestamp(ms) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// The promises of the module documentation, against exact counts.
        #[test]
        fn counts_are_bounded_by_the_truth(
            topics in proptest::collection::vec((0_u8..40, 0_u8..6), 0..600),
            most in 1_usize..30,
        ) {
            let mut busiest = Busiest::new(most);
            let mut exact: HashMap<String, u64> = HashMap::new();
            for (topic, skew) in topics {
                // Some topics are much busier than others.
                let topic = format!("t/{}", topic >> skew);
                busiest.count(&publish(&topic, b"1", 0));
                *exact.entry(topic).or_default() += 1;
            }
            let counted = busiest.counted();
            let total: u64 = exact.values().sum();
            prop_assert_eq!(counted.total, total);
            prop_assert_eq!(counted.topics.iter().map(|seen| seen.count).sum::<u64>(), total);
            prop_assert!(counted.topics.len() <= most);
            prop_assert!(counted.topics.is_sorted_by_key(|seen| std::cmp::Reverse(seen.count)));
            prop_assert_eq!(counted.crowded, exact.len() > most);
            for seen in &counted.topics {
                let truth = exact[&seen.topic];
                prop_assert!(seen.count >= truth && seen.count - seen.error <= truth, "{:?}: {}", seen, truth);
            }
            for (topic, truth) in &exact {
                let there = counted.topics.iter().any(|seen| seen.topic == *topic);
                prop_assert!(there || *truth <= total / most as u64, "{} {}", topic, truth);
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_recent() {
        let mut busiest = Busiest::new(2);
        let long = "x".repeat(LONGEST_TOPIC + 1);
        busiest.count(&publish(&long, b"", 0));
        busiest.count(&publish("a", &[7; 5_000], 1_000));
        busiest.count(&publish("a", b"same second", 1_999));
        assert_eq!(busiest.counted().topics[0].payload().len(), PAYLOAD);
        busiest.count(&publish("a", b"later", 11_000));
        let counted = busiest.counted();
        assert_eq!((counted.total, counted.too_long, counted.crowded), (4, 1, false));
        let seen = &counted.topics[0].clone();
        assert_eq!((seen.count, seen.first, seen.last), (3, 1_000, 11_000));
        assert_eq!((seen.payload(), seen.size), (b"later".to_vec(), 5));
        assert!((seen.rate(Timestamp(31_000)) - 0.1).abs() < 1e-9);
        let without = counted.without(|topic| topic == "a");
        assert_eq!((without.total, without.topics.len()), (1, 0));
        busiest.reset();
        assert_eq!(busiest.counted(), Counted::default());
    }
}
