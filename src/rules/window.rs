//! `batch`, `aggregate` and `pivot`: messages that wait in a window until they go up as one.
//!
//! | key | the message | closes |
//! |---|---|---|
//! | `batch` | a JSON list of the bodies, in the order they came; of one device, with the same properties | at `max_messages`, `max_bytes`, or `max_wait` after the first |
//! | `aggregate` | an object with `min`, `max`, `mean`, `sum`, `count`, `first` or `last` of fields | at each whole `every` of UTC |
//! | `pivot` | an object of what several topics say about one device | when it is `complete`, at a `trigger`, or `max_wait` after the first |
//!
//! A message of a window has the time of the newest one in it, and beside the values what `add` puts in.
//!
//! # What waits
//!
//! A rule with a window makes no record but a *contribution* ([`Held`]): bytes that the caller makes durable before the
//! publish is acknowledged, and then gives to [`Windows::add`] with the sequence they have where they are kept. A window
//! that closes becomes a [`Closed`]: the record to be sent, and the sequences that are done with once it is stored. What
//! is read back after a restart is added in its order and makes the same windows.
//!
//! A contribution whose rule is gone, or has no window any more, or one to which it means something else (another kind,
//! other fields or names), goes up by itself. A window that is open goes on as it
//! was begun when its rule changes: the next contribution closes it and begins one of the new kind.
//!
//! # Bounds
//!
//! Open windows take [`MAX_BYTES`] at most; what is beyond closes those that are due first, early. Where closed ones take
//! as much, or are [`MAX_CLOSED`], no more contributions may come ([`Windows::has_room`]). A window of `pivot`
//! closes before it is larger than a message may be; of `batch` so does each. What a window remembers of where its
//! contributions are kept takes [`MAX_SEQUENCES`] at most.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::gzip::Gzip;
use super::memory;
use super::template::Template;
use crate::message::HubMessage;

mod aggregate;
mod batch;
mod contribution;
mod open;
mod pivot;
mod sequences;
#[cfg(test)]
mod tests;

pub(super) use aggregate::{Aggregate, Function, Picked};
pub(super) use batch::Batch;
pub use contribution::held_record;
pub(super) use contribution::{Held, Made};
pub(super) use pivot::Pivot;
pub use sequences::Sequences;

use open::Open;

/// Bytes of all open windows.
const MAX_BYTES: usize = 32 << 20;

/// Windows that are closed and were not fetched yet; of bytes they take as many as the open ones.
const MAX_CLOSED: usize = 10_000;

/// Bytes of the sequences of one window: a record that names them has to fit a spool's commit.
const MAX_SEQUENCES: usize = 512 << 10;

/// What an open window costs beside its messages.
const PER_WINDOW: usize = 512;

/// A body that a hub takes with any properties a rule would make: 256 KB less room for them.
const LARGEST_BODY: usize = 240_000;

/// Milliseconds that a clock may seem to go back before a window is taken for one of another time: connections read the
/// clock apart from each other, and what they read first may come second.
const SLACK: i64 = 5_000;

/// What a hub bills as one message where nothing else is said, and what it counts of a message beside body, device and properties: id, content type
/// and encoding, creation time, and the mark of late messages.
const ONE_BLOCK: usize = 4096;
const SYSTEM_BYTES: usize = 56 + 16 + 5 + 24 + 12;

/// The window of a rule.
#[derive(Debug, PartialEq)]
pub(super) struct Window {
    pub(super) combine: Combine,
    /// What has windows of its own, where it is not topic and device.
    pub(super) per: Option<Template>,
    pub(super) gzip: bool,
    pub(super) urgent: bool,
    /// What its contributions are.
    pub(super) made: Made,
}

impl Window {
    /// A window for topic and device.
    pub(super) fn new(combine: Combine, gzip: bool, urgent: bool) -> Self {
        let made = Made::of(&combine);
        Self { combine, per: None, gzip, urgent, made }
    }

    /// Something looks at fields.
    pub(super) fn needs_object(&self) -> bool {
        let fields = match &self.combine {
            Combine::Batch(_) => false,
            Combine::Aggregate(_) => true,
            Combine::Pivot(pivot) => pivot.value.is_some() || pivot.name.has_field(),
        };
        fields || self.per.as_ref().is_some_and(Template::has_field)
    }
}

/// What it makes of its messages.
#[derive(Debug, PartialEq)]
pub(super) enum Combine {
    Batch(Batch),
    Aggregate(Aggregate),
    Pivot(Pivot),
}

impl Combine {
    /// When a window that begins now closes at the latest, and how long one is open at most.
    fn due(&self, now: i64) -> (i64, i64) {
        let wait = match self {
            Self::Batch(batch) => batch.max_wait,
            Self::Pivot(pivot) => pivot.max_wait,
            Self::Aggregate(Aggregate { every, .. }) => {
                return (now.saturating_sub(now.rem_euclid(*every)).saturating_add(*every), *every);
            }
        };
        (now.saturating_add(wait), wait)
    }
}

/// What may be in one batch: records that differ in body and time only. `body` is where the body begins.
pub(super) fn group_of(record: &[u8], body: usize) -> u128 {
    let kind = record.get(..2).unwrap_or(&[]);
    memory::key([kind, record.get(10..body).unwrap_or(&[])].iter())
}

/// Why a window closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Its time has come.
    Wait,
    /// It has as many messages as it may.
    Messages,
    /// It has as many bytes as it may.
    Bytes,
    /// Everything it waits for is there.
    Complete,
    /// What triggers it came.
    Trigger,
    /// There were too many open windows.
    Early,
    /// Its rule is gone or changed.
    Rules,
    /// It was made before a crash, and again after it.
    Repeated,
}

impl Closing {
    /// The reason as a fixed word, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Messages => "max_messages",
            Self::Bytes => "max_bytes",
            Self::Complete => "complete",
            Self::Trigger => "trigger",
            Self::Early => "early",
            Self::Rules => "rules_changed",
            Self::Repeated => "repeated",
        }
    }
}

/// A window that is closed, as the message it became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The name of its rule.
    pub rule: Arc<str>,
    /// The message goes up before others.
    pub urgent: bool,
    /// The message, as a record.
    pub record: Vec<u8>,
    /// The sequences of what it was made of.
    pub sequences: Sequences,
    /// How many messages it was made of.
    pub messages: u64,
    /// Why it closed.
    pub why: Closing,
    pub(super) state: Box<str>,
}

impl Closed {
    /// A message of a window as a test wants it.
    #[cfg(test)]
    pub(crate) fn new(rule: &str, record: Vec<u8>, sequences: Sequences, why: Closing) -> Self {
        Self { rule: rule.into(), urgent: false, record, sequences, messages: 1, why, state: rule.into() }
    }
}

/// All open windows, and those that are closed and were not fetched yet.
#[derive(Debug, Default)]
pub(super) struct Windows {
    open: HashMap<u128, Open>,
    /// Those that are made again as they were before a crash.
    again: HashMap<u64, Open>,
    /// When they are due, and their keys.
    due: BTreeMap<(i64, u64), u128>,
    bytes: usize,
    begun: u64,
    closed: VecDeque<Waiting>,
    closed_bytes: usize,
    /// What is billed as one message; none where nobody has said.
    block: Option<usize>,
}

/// A closed window that was not fetched yet. It becomes a message when it is, which takes a while.
#[derive(Debug)]
pub(super) enum Waiting {
    Window(Box<Open>, Closing),
    Alone(Closed),
}

impl Waiting {
    pub(super) fn close(self, gzip: &mut Gzip) -> Closed {
        match self {
            Self::Window(open, why) => open.close(why, gzip),
            Self::Alone(closed) => closed,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Window(open, _) => open.bytes,
            Self::Alone(closed) => PER_WINDOW + closed.record.len(),
        }
    }
}

/// The place of a contribution that is in a window as it was before a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// Which window.
    pub window: u64,
    /// The window has no more.
    pub last: bool,
}

/// The rule of a contribution.
pub(super) struct OfRule<'r> {
    pub(super) name: &'r str,
    pub(super) window: &'r Arc<Window>,
}

impl Windows {
    /// Windows that begin from now on are for a hub that bills messages by so many bytes.
    pub(super) fn bill_by(&mut self, block: usize) {
        self.block = Some(block);
    }

    fn begin(&self, id: u64, held: &Held<'_>, rule: &OfRule<'_>) -> Open {
        Open::begin(id, held, rule, self.block.unwrap_or(ONE_BLOCK))
    }

    /// Puts a contribution into its window, and closes what is to be closed by that.
    pub(super) fn add(&mut self, held: Held<'_>, rule: Option<OfRule<'_>>, sequence: u64) {
        let (Some(rule), Ok(message)) = (held.fitting(rule), HubMessage::parse(held.record)) else {
            return self.alone(held, sequence);
        };
        let key = memory::key_within(held.group, 0, &[held.state.as_bytes()]);
        let ends = self.open.get(&key).and_then(|open| match () {
            () if *open.settings != **rule.window => Some(Closing::Rules),
            () if held.received >= open.due
                || open.due.saturating_sub(held.received) > open.longest.saturating_add(SLACK) =>
            {
                Some(Closing::Wait)
            }
            () if open.has_no_room(&message) => Some(Closing::Bytes),
            () => None,
        });
        if let Some(why) = ends {
            self.close(key, why);
        }
        if !self.open.contains_key(&key) {
            self.begun += 1;
            let open = self.begin(self.begun, &held, &rule);
            self.bytes += open.bytes;
            self.due.insert((open.due, open.id), key);
            self.open.insert(key, open);
        }
        let Some(open) = self.open.get_mut(&key) else { return };
        let before = open.bytes;
        let ends = open.add(&held, &message, sequence);
        self.bytes = self.bytes + open.bytes - before;
        if let Some(why) = ends {
            self.close(key, why);
        }
        while self.bytes > MAX_BYTES
            && let Some(key) = self.due.first_key_value().map(|(_, key)| *key)
        {
            self.close(key, Closing::Early);
        }
    }

    /// Puts a contribution into a window that is made again as it was: what is in it is known, and with the `last` it
    /// closes.
    pub(super) fn add_again(&mut self, held: Held<'_>, rule: Option<OfRule<'_>>, (sequence, again): (u64, Again)) {
        let (Some(rule), Ok(message)) = (held.fitting(rule), HubMessage::parse(held.record)) else {
            return self.alone(held, sequence);
        };
        let begun = self.again.remove(&again.window).unwrap_or_else(|| self.begin(0, &held, &rule));
        let open = self.again.entry(again.window).or_insert(begun);
        let _ = open.add(&held, &message, sequence);
        if again.last {
            self.close_again(again.window);
        }
    }

    /// Closes a window that is made again.
    pub(super) fn close_again(&mut self, window: u64) {
        let Some(open) = self.again.remove(&window) else { return };
        self.wait(Waiting::Window(Box::new(open), Closing::Repeated));
    }

    /// A message that has no window to wait in.
    fn alone(&mut self, held: Held<'_>, sequence: u64) {
        self.wait(Waiting::Alone(Closed {
            rule: held.state.into(),
            urgent: false,
            record: held.record.to_vec(),
            sequences: std::iter::once((sequence, sequence)).collect(),
            messages: 1,
            why: Closing::Rules,
            state: held.state.into(),
        }));
    }

    fn close(&mut self, key: u128, why: Closing) {
        let Some(open) = self.open.remove(&key) else { return };
        self.due.remove(&(open.due, open.id));
        self.bytes -= open.bytes;
        self.wait(Waiting::Window(Box::new(open), why));
    }

    fn wait(&mut self, waiting: Waiting) {
        self.closed_bytes += waiting.bytes();
        self.closed.push_back(waiting);
    }

    /// Closes up to `most` windows whose time has come; also those that would wait longer than ever, because the clock
    /// was set back. True where there may be more.
    pub(super) fn close_due(&mut self, now: i64, most: usize) -> bool {
        for _ in 0..most {
            let Some(((due, _), key)) = self.due.first_key_value().map(|(due, key)| (*due, *key)) else { return false };
            let longest = self.open.get(&key).map_or(0, |open| open.longest);
            if due > now && due.saturating_sub(now) <= longest.saturating_add(SLACK) {
                return false;
            }
            self.close(key, Closing::Wait);
        }
        true
    }

    /// Closes the windows of rules that have none any more.
    pub(super) fn close_without(&mut self, has_window: impl Fn(&str) -> bool) {
        let gone = self.open.iter().filter(|(_, open)| !has_window(&open.state));
        let mut gone: Vec<(u64, u128)> = gone.map(|(key, open)| (open.id, *key)).collect();
        gone.sort_unstable();
        gone.into_iter().for_each(|(_, key)| self.close(key, Closing::Rules));
    }

    /// Closes the window that is due first.
    pub(super) fn close_first(&mut self, why: Closing) -> bool {
        let first = self.due.first_key_value().map(|(_, key)| *key);
        first.inspect(|key| self.close(*key, why)).is_some()
    }

    /// Closes the `most` windows that began first, which have the contributions that are kept longest; says how many
    /// it closed.
    pub(super) fn close_oldest(&mut self, most: usize) -> usize {
        let mut oldest: Vec<(u64, u128)> = self.open.iter().map(|(key, open)| (open.id, *key)).collect();
        if most < oldest.len() {
            oldest.select_nth_unstable(most);
            oldest.truncate(most);
        }
        oldest.sort_unstable();
        oldest.iter().for_each(|(_, key)| self.close(*key, Closing::Early));
        oldest.len()
    }

    /// When the next window is due.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    /// The window that closed first and was not fetched yet.
    pub(super) fn fetch(&mut self) -> Option<Waiting> {
        self.closed.pop_front().inspect(|waiting| self.closed_bytes -= waiting.bytes())
    }

    /// More windows may close.
    pub(super) fn has_room(&self) -> bool {
        self.closed.len() < MAX_CLOSED && self.closed_bytes < MAX_BYTES
    }

    /// Open windows, and closed ones that wait to be fetched.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.open.len(), self.closed.len())
    }
}
