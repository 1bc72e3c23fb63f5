//! What rules remember from one publish to the next: Sparkplug births, what was sent last, and what waits in windows.
//!
//! A [`Memory`] belongs to the caller, who shares it among connections and keeps it when the rules change. What a rule
//! remembers is filed under its name, so a rule of the same name goes on with it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::RuleSet;
use super::decode::Births;
use super::gzip::Gzip;
use super::rule::{Action, Rule};
use super::window::{Closed, Closing, Windows};
use crate::message::Timestamp;

/// Marks that a rule keeps at most, twice; and those of all rules together.
const MARKS_OF_A_RULE: usize = 32_768;
const MARKS_OF_ALL: usize = 1 << 20;
/// However many rules there are, each may keep so many.
const MARKS_LEAST: usize = 256;
/// Windows that are closed under one lock.
const WINDOWS_AT_ONCE: usize = 256;

/// What the rules remember from one publish to the next; a clone is another handle to the same memory. It is bounded,
/// belongs to the caller, and so survives connections and new rules.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub(super) births: Births,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What was sent last, by the rule's name.
    marks: Mutex<HashMap<Box<str>, Arc<Mutex<Marks>>>>,
    /// What was forgotten by rules that are no more.
    forgotten: AtomicU64,
    windows: Mutex<Windows>,
    /// For closed windows.
    gzip: Mutex<Gzip>,
}

/// What was sent last of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mark {
    /// When, in milliseconds since 1970.
    pub(super) at: i64,
    /// It says nothing any more from then on.
    pub(super) until: i64,
    /// The value as a number; NaN where it is none.
    pub(super) number: f64,
    /// Stands for the value as it was written.
    pub(super) text: u64,
}

/// Keys are hashes already.
#[derive(Debug, Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    #[expect(clippy::cast_possible_truncation)]
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

type Generation = HashMap<u128, Mark, BuildHasherDefault<AsItIs>>;

/// The marks of one rule. When the young ones are as many as may be, they become the old ones and the old ones go: what
/// was asked for since then stays.
#[derive(Debug)]
pub(super) struct Marks {
    young: Generation,
    old: Generation,
    most: usize,
    /// Marks that went and would still have said something.
    forgotten: u64,
}

impl Default for Marks {
    fn default() -> Self {
        Self { young: Generation::default(), old: Generation::default(), most: MARKS_OF_A_RULE, forgotten: 0 }
    }
}

impl Marks {
    /// What is marked. It stays for having been asked for.
    pub(super) fn get(&mut self, key: u128) -> Option<Mark> {
        if let Some(mark) = self.young.get(&key) {
            return Some(*mark);
        }
        let mark = *self.old.get(&key)?;
        self.put(key, mark);
        Some(mark)
    }

    pub(super) fn put(&mut self, key: u128, mark: Mark) {
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
            self.old.remove(&key);
            let alive = self.old.values().filter(|old| old.until > mark.at).count();
            self.forgotten += alive as u64;
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.old.remove(&key);
        self.young.insert(key, mark);
    }
}

/// The marks of the rules of a set, by their index; looked up once for each set.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    set: u64,
    rules: Vec<Option<Arc<Mutex<Marks>>>>,
}

impl Ledgers {
    /// Those of rule set number `set`.
    pub(super) fn of(&mut self, set: u64, rules: &[Rule], memory: &Memory) -> &[Option<Arc<Mutex<Marks>>>] {
        if self.set != set {
            self.set = set;
            self.rules.clear();
            let restrained = rules.iter().filter(|rule| is_restrained(rule)).count();
            if let Some(share) = (MARKS_OF_ALL / 2).checked_div(restrained) {
                let most = share.clamp(MARKS_LEAST, MARKS_OF_A_RULE);
                let mut known = memory.shared.marks.lock();
                self.rules.extend(rules.iter().map(|rule| {
                    is_restrained(rule).then(|| {
                        let marks = known.entry(rule.state.clone()).or_default();
                        marks.lock().most = most;
                        Arc::clone(marks)
                    })
                }));
            }
        }
        &self.rules
    }
}

fn is_restrained(rule: &Rule) -> bool {
    matches!(&rule.action, Action::Send(message) if message.restraint.is_some())
}

impl Memory {
    /// How many marks of `throttle`, `report_by_exception` and `dedupe` were forgotten because there were too many.
    pub fn forgotten(&self) -> u64 {
        let now: u64 = self.shared.marks.lock().values().map(|marks| marks.lock().forgotten).sum();
        now + self.shared.forgotten.load(Ordering::Relaxed)
    }

    /// One that knows these births and nothing else.
    pub fn of_births(births: Births) -> Self {
        Self { births, ..Self::default() }
    }

    /// What Sparkplug births declared.
    pub fn births(&self) -> &Births {
        &self.births
    }

    /// A handle for publishes that were in the quarantine, see [`Births::retried`].
    #[must_use]
    pub fn retried(&self) -> Self {
        Self { births: self.births.retried(), shared: Arc::clone(&self.shared) }
    }

    /// To be called once `rules` are in use and no publish is on its way through those before them any more. What rules that
    /// are gone have sent is forgotten, and their windows are closed; a rule goes on with what one of its name remembered.
    /// Births belong to no rule and stay.
    pub fn taken_up(&self, rules: &RuleSet) {
        self.keep_marks_of(&rules.0.rules);
        self.windows().close_without(|state| rules.0.windows.contains_key(state));
    }

    /// Closes the windows whose time has come.
    pub fn close_due(&self, now: Timestamp) {
        // Connections wait for the lock meanwhile.
        while self.windows().close_due(now.0, WINDOWS_AT_ONCE) {}
    }

    /// Closes the window that is due first, before its time: there is no room for more. False where none is open.
    pub fn close_first(&self) -> bool {
        self.windows().close_first(Closing::Early)
    }

    /// Closes the `most` windows that began first, to make room where their contributions are kept; says how many it
    /// closed.
    pub fn close_oldest(&self, most: usize) -> usize {
        self.windows().close_oldest(most)
    }

    /// Closes a window that is made again as it was, where what was the last in it could not be read.
    pub fn close_again(&self, window: u64) {
        self.windows().close_again(window);
    }

    /// When the next window is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.windows().next_due().map(Timestamp)
    }

    /// The window that closed first and was not fetched yet.
    pub fn fetch_closed(&self) -> Option<Closed> {
        let waiting = self.windows().fetch()?;
        Some(waiting.close(&mut self.shared.gzip.lock()))
    }

    /// The hub bills messages by so many bytes, and windows that begin from now on go by that.
    pub fn bill_by(&self, block: usize) {
        self.windows().bill_by(block);
    }

    /// Whether there is room for more closed windows: contributions may come.
    pub fn has_room(&self) -> bool {
        self.windows().has_room()
    }

    /// How many windows are open, and how many are closed and not fetched yet.
    pub fn count_windows(&self) -> (usize, usize) {
        self.windows().counts()
    }

    pub(super) fn windows(&self) -> MutexGuard<'_, Windows> {
        self.shared.windows.lock()
    }

    /// Forgets what was sent by rules that are no more.
    fn keep_marks_of(&self, rules: &[Rule]) {
        let names: std::collections::HashSet<&str> =
            rules.iter().filter(|rule| is_restrained(rule)).map(|rule| &*rule.state).collect();
        self.shared.marks.lock().retain(|name, marks| {
            let stays = names.contains(&**name);
            if !stays {
                self.shared.forgotten.fetch_add(marks.lock().forgotten, Ordering::Relaxed);
            }
            stays
        });
    }
}

/// A key for what stands in `parts`; the same from one start of the program to the next.
pub(super) fn key(parts: impl Iterator<Item = impl AsRef<[u8]>> + Clone) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        parts.clone().for_each(|part| part.as_ref().hash(&mut hasher));
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// A key for something that belongs to another key.
pub(super) fn key_within(outer: u128, what: u8, parts: &[&[u8]]) -> u128 {
    let outer = outer.to_le_bytes();
    key([&outer[..], &[what]].iter().chain(parts))
}

/// What stands for a text.
pub(super) fn digest(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at: i64) -> Mark {
        Mark { at, until: at + 10, number: 0.0, text: 0 }
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes_when_there_are_too_many() {
        let mut marks = Marks { most: 4, ..Marks::default() };
        for n in 0..100_u128 {
            marks.put(n, mark(0));
            assert_eq!(marks.get(0), Some(mark(0)), "asked for all the time, after {n}");
            assert!(marks.young.len() <= 4 && marks.old.len() <= 4);
        }
        assert_eq!(marks.get(1), None);
        let left = marks.young.len() + marks.old.len();
        assert_eq!(marks.forgotten, 100 - left as u64, "each that went is counted");
        for n in 0..100_u32 {
            marks.put(u128::from(n) + 100, mark(1_000 + 10 * i64::from(n)));
        }
        assert_eq!(marks.forgotten, 100 - left as u64, "what says nothing any more is not missed");
    }

    #[test]
    fn keys_tell_parts_apart() {
        let of = |parts: &[&str]| key(parts.iter());
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        for other in [&["ab"][..], &["a", "b", ""], &["b", "a"], &[]] {
            assert_ne!(of(&["a", "b"]), of(other), "{other:?}");
        }
    }
}
