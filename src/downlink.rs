//! What comes down from the cloud, as far as it can be decided without a socket: the fence, what was done already, how
//! often a device may be commanded, and who waits for what. Pure: `now` comes in, values go out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

mod desk;
mod presence;
mod terms;
mod wishes;

pub use desk::{Case, Desk, Stage};
pub use presence::{Known, State, presence};
pub use terms::{Fence, Forbidden, Terms};
pub use wishes::{COMPONENT, Parameter, Tune, Wishes, acknowledged, desired};

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
        Self { between: between(a_second), paid: HashMap::new() }
    }

    /// So many a second from now on. What each device was sent stays paid for.
    pub fn change(&mut self, a_second: u32) {
        self.between = between(a_second);
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

fn between(a_second: u32) -> Duration {
    Duration::from_secs(1).checked_div(a_second).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        rates.change(4);
        for (ms, expect) in [(1000, Err(at(1250))), (1250, Ok(())), (1250, Err(at(1500)))] {
            assert_eq!(rates.take("a", at(ms)), expect, "with another rate at {ms} ms");
        }
        rates.change(0);
        assert!((0..1000).all(|_| rates.take("a", at(1250)).is_ok()));
        let mut free = Rates::new(0);
        assert!((0..1000).all(|_| free.take("a", start).is_ok()));
    }
}
