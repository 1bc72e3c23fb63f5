//! What comes down from the cloud, as far as it can be decided without a socket: the fence, what was done already, how
//! often a device may be commanded, and who waits for what. Pure: `now` comes in, values go out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::topic;

mod desk;
mod presence;
mod wishes;

pub use desk::{Case, Desk, Stage};
pub use presence::{Known, State, presence};
pub use wishes::{COMPONENT, Parameter, Tune, Wishes, acknowledged, desired};

/// Which topics the commands for a device may go to.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    /// Devices, in which `*` stands for any text, and topic filters. Without an entry nothing is fenced in.
    pub allow: Vec<(String, Vec<String>)>,
}

impl Fence {
    /// True where a command for this device may go to this topic.
    pub fn allows(&self, device: &str, topic: &str) -> bool {
        self.allow.is_empty()
            || self
                .allow
                .iter()
                .filter(|(pattern, _)| matches(pattern, device))
                .any(|(_, filters)| filters.iter().any(|filter| topic::matches(filter, topic)))
    }
}

/// True where `*` in the pattern can stand for something that makes it the text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first place leaves the most for what follows.
        match rest.find(part).and_then(|at| rest.get(at + part.len()..)) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What was done last, so that a second delivery is not done again. Bounded: the oldest is forgotten first.
#[derive(Debug)]
pub struct Done {
    known: HashSet<String>,
    order: VecDeque<String>,
    most: usize,
}

impl Done {
    /// Remembers so many.
    pub fn new(most: usize) -> Self {
        Self { known: HashSet::new(), order: VecDeque::new(), most }
    }

    /// Remembers one.
    pub fn add(&mut self, key: &str) {
        if !self.known.insert(key.to_owned()) {
            return;
        }
        self.order.push_back(key.to_owned());
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True where none is.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All of them, the oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// True where it is remembered.
    pub fn has(&self, key: &str) -> bool {
        self.known.contains(key)
    }
}

/// Devices whose rate is remembered before those that are at rest are forgotten.
const DEVICES: usize = 1_000;

/// How often each device may be commanded: a rate, with a second's worth saved up.
#[derive(Debug)]
pub struct Rates {
    /// The time between two; zero is no limit.
    between: Duration,
    /// When what each device was sent is paid for.
    paid: HashMap<String, Instant>,
}

impl Rates {
    /// So many a second; 0 is no limit.
    pub fn new(a_second: u32) -> Self {
        let between = Duration::from_secs(1).checked_div(a_second).unwrap_or_default();
        Self { between, paid: HashMap::new() }
    }

    /// Takes a turn of the device, or says when it has one.
    pub fn take(&mut self, device: &str, now: Instant) -> Result<(), Instant> {
        if self.between.is_zero() {
            return Ok(());
        }
        if self.paid.len() >= DEVICES && !self.paid.contains_key(device) {
            self.paid.retain(|_, paid| *paid > now);
        }
        let burst = Duration::from_secs(1);
        let paid = self.paid.get(device).copied().unwrap_or(now).max(now);
        if paid + self.between > now + burst.max(self.between) {
            return Err(paid + self.between - burst.max(self.between));
        }
        if self.paid.len() < 10 * DEVICES {
            self.paid.insert(device.to_owned(), paid + self.between);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_their_topics() {
        let fence = Fence {
            allow: vec![
                ("press*".into(), vec!["plant1/+/set".into(), "plant1/all/#".into()]),
                ("*-7".into(), vec!["line7/#".into()]),
                ("one".into(), vec!["one".into()]),
            ],
        };
        for (device, topic, expect) in [
            ("press1", "plant1/press1/set", true),
            ("press1", "plant1/all/lamps", true),
            ("press1", "plant1/press1/reset", false),
            ("press-7", "line7/x", true),
            ("oven-7", "line7/x", true),
            ("oven-7", "plant1/oven/set", false),
            ("one", "one", true),
            ("one-", "one", false),
            ("x", "plant1/x/set", false),
        ] {
            assert_eq!(fence.allows(device, topic), expect, "{device} {topic}");
        }
        assert!(Fence::default().allows("any", "where"));
    }

    #[test]
    fn stars() {
        for (pattern, text, expect) in [
            ("*", "", true),
            ("*", "x", true),
            ("a*c", "ac", true),
            ("a*c", "a", false),
            ("aa*aa", "aaa", false),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "acb", false),
            ("a*bc", "abcbc", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, text), expect, "{pattern} {text}");
        }
    }

    #[test]
    fn what_was_done_is_known_for_a_while() {
        let mut done = Done::new(2);
        for key in ["a", "b", "b", "a"] {
            done.add(key);
        }
        assert!(done.has("a") && done.has("b"));
        done.add("c");
        assert_eq!([done.has("a"), done.has("b"), done.has("c")], [false, true, true]);
    }

    #[test]
    fn a_device_has_its_turns() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rates = Rates::new(2);
        for (ms, expect) in
            [(0, Ok(())), (0, Ok(())), (0, Err(at(500))), (500, Ok(())), (600, Err(at(1000))), (1000, Ok(()))]
        {
            assert_eq!(rates.take("a", at(ms)), expect, "at {ms} ms");
        }
        assert_eq!(rates.take("b", at(600)), Ok(()));
        let mut free = Rates::new(0);
        assert!((0..1000).all(|_| free.take("a", start).is_ok()));
    }
}
