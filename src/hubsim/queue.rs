//! The cloud-to-device messages of one device: each is enqueued, invisible while a connection has it, and in the end
//! completed or dead-lettered ("Understand cloud-to-device messaging", 2026-02).
//!
//! | what happens | what becomes of the message |
//! |---|---|
//! | it is given to a connection | invisible until its lock ends |
//! | it is acknowledged under that lock | completed: `Success` |
//! | the lock ends, also because the connection did | enqueued again; what comes again has DUP |
//! | it is acknowledged after that | nothing: the lock is lost |
//! | its time to live ends while it is enqueued | dead-lettered: `Expired` |
//! | it was delivered as often as it may | dead-lettered: `DeliveryCountExceeded` |
//! | the queue is purged | dead-lettered: `Purged` |
//!
//! A hub counts a delivery only where the device abandons the message, which MQTT cannot: over MQTT a message comes again
//! until it expires. Older documents say that each end of a lock counts, so that is a choice, as is what the end of a
//! connection does. Pure: `now` comes in.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::hub::back::Command;

/// Messages that wait for one device.
pub(super) const QUEUE_MAX: usize = 50;

/// How the hub keeps cloud-to-device messages.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// How long a message is invisible once a connection has it. A hub's is a minute.
    pub lock: Duration,
    /// The same of a batch of feedback once a service has it.
    pub feedback_lock: Duration,
    /// How long a message waits that names no expiry.
    pub time_to_live: Duration,
    /// How often a message may be delivered, where deliveries count.
    pub max_deliveries: u32,
    /// The end of a lock counts as a delivery.
    pub count_lock_ends: bool,
    /// The end of a connection ends its locks.
    pub release_on_close: bool,
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(60),
            feedback_lock: Duration::from_secs(60),
            time_to_live: Duration::from_secs(3600),
            max_deliveries: 10,
            count_lock_ends: false,
            release_on_close: false,
        }
    }
}

/// The end of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Expired,
    DeliveryCountExceeded,
    Purged,
}

/// A message on its way to a connection.
#[derive(Debug)]
pub(super) struct Delivery {
    /// Counts the messages.
    pub(super) id: u64,
    /// What completes it.
    pub(super) lock: u64,
    /// It was on its way before.
    pub(super) again: bool,
    pub(super) command: Command,
    pub(super) body: Bytes,
}

#[derive(Debug)]
struct Queued {
    id: u64,
    command: Command,
    body: Bytes,
    expires: Instant,
    /// How often it was on its way.
    sent: u32,
    /// A connection has it.
    lock: Option<Lock>,
}

#[derive(Debug, Clone, Copy)]
struct Lock {
    id: u64,
    until: Instant,
}

/// The queue, and what has become of messages since it was asked last.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Queued>,
    ended: Vec<(Command, Outcome)>,
}

impl Queue {
    /// How much waits or is on its way.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds a message; false where there are as many as a hub keeps.
    pub(super) fn add(&mut self, id: u64, (command, body): (Command, Bytes), expires: Instant) -> bool {
        if self.messages.len() >= QUEUE_MAX {
            return false;
        }
        self.messages.push_back(Queued { id, command, body, expires, sent: 0, lock: None });
        true
    }

    /// Ends the locks and the messages whose time has come.
    pub(super) fn look(&mut self, now: Instant, keeping: &Keeping) {
        for at in (0..self.messages.len()).rev() {
            let Some(message) = self.messages.get_mut(at) else { continue };
            if message.lock.is_some_and(|lock| lock.until > now) {
                continue;
            }
            message.lock = None;
            let outcome = if message.expires <= now {
                Outcome::Expired
            } else if keeping.count_lock_ends && message.sent >= keeping.max_deliveries {
                Outcome::DeliveryCountExceeded
            } else {
                continue;
            };
            if let Some(message) = self.messages.remove(at) {
                self.ended.push((message.command, outcome));
            }
        }
    }

    /// The oldest message that is enqueued becomes invisible under this lock.
    pub(super) fn take(&mut self, lock: u64, now: Instant, keeping: &Keeping) -> Option<Delivery> {
        self.look(now, keeping);
        let message = self.messages.iter_mut().find(|message| message.lock.is_none())?;
        message.lock = Some(Lock { id: lock, until: now + keeping.lock });
        message.sent = message.sent.saturating_add(1);
        Some(Delivery {
            id: message.id,
            lock,
            again: message.sent > 1,
            command: message.command.clone(),
            body: message.body.clone(),
        })
    }

    /// When the next lock ends.
    pub(super) fn next_lock_end(&self) -> Option<Instant> {
        self.messages.iter().filter_map(|message| message.lock).map(|lock| lock.until).min()
    }

    /// Completes what is under this lock; false where the lock is lost.
    pub(super) fn complete(&mut self, lock: u64, now: Instant) -> bool {
        let held = |message: &Queued| message.lock.is_some_and(|held| held.id == lock && held.until > now);
        let Some(at) = self.messages.iter().position(held) else { return false };
        if let Some(message) = self.messages.remove(at) {
            self.ended.push((message.command, Outcome::Success));
        }
        true
    }

    /// Ends all locks now.
    pub(super) fn release(&mut self, now: Instant) {
        self.messages.iter_mut().filter_map(|message| message.lock.as_mut()).for_each(|lock| lock.until = now);
    }

    /// Throws everything away, and says how much that was.
    pub(super) fn purge(&mut self) -> usize {
        let purged = self.messages.drain(..).map(|message| (message.command, Outcome::Purged));
        let before = self.ended.len();
        self.ended.extend(purged);
        self.ended.len() - before
    }

    /// What has ended since this was asked last.
    pub(super) fn ended(&mut self) -> Vec<(Command, Outcome)> {
        std::mem::take(&mut self.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    fn named(id: &str) -> (Command, Bytes) {
        (Command { message_id: Some(id.to_owned()), ..Command::default() }, Bytes::new())
    }

    fn ended(queue: &mut Queue) -> Vec<(String, Outcome)> {
        queue.ended().into_iter().map(|(command, outcome)| (command.message_id.unwrap(), outcome)).collect()
    }

    fn taken(queue: &mut Queue, lock: u64, now: Instant, keeping: &Keeping) -> Option<(u64, bool)> {
        queue.take(lock, now, keeping).map(|delivery| (delivery.id, delivery.again))
    }

    #[test]
    fn a_message_is_invisible_until_its_lock_ends_and_comes_again_until_it_expires() {
        let (start, keeping) = (Instant::now(), Keeping::default());
        let mut queue = Queue::default();
        assert!(queue.add(1, named("a"), at(start, 3600)));
        assert_eq!(taken(&mut queue, 10, start, &keeping), Some((1, false)));
        assert_eq!(taken(&mut queue, 11, at(start, 59), &keeping), None, "it is invisible");
        assert_eq!(queue.next_lock_end(), Some(at(start, 60)));
        for n in 1..60 {
            assert_eq!(taken(&mut queue, 10 + n, at(start, 60 * n), &keeping), Some((1, true)), "{n}");
        }
        assert!(!queue.complete(10, at(start, 3550)), "the lock is lost");
        assert_eq!(taken(&mut queue, 99, at(start, 3600), &keeping), None);
        assert_eq!(ended(&mut queue), [("a".to_owned(), Outcome::Expired)]);
        assert_eq!(ended(&mut queue), []);
    }

    #[test]
    fn what_ends_a_message() {
        let keeping = Keeping { count_lock_ends: true, max_deliveries: 2, ..Keeping::default() };
        let start = Instant::now();
        let mut queue = Queue::default();
        for (id, name, secs) in [(1, "done", 3600), (2, "often", 3600), (3, "late", 50), (4, "purged", 3600)] {
            assert!(queue.add(id, named(name), at(start, secs)));
        }
        for lock in 1..=3 {
            assert_eq!(taken(&mut queue, lock, start, &keeping), Some((lock, false)));
        }
        assert!(queue.complete(1, at(start, 59)));
        assert!(queue.complete(3, at(start, 59)), "it has expired, and is under its lock");
        assert_eq!(taken(&mut queue, 4, at(start, 60), &keeping), Some((2, true)));
        assert_eq!(taken(&mut queue, 5, at(start, 120), &keeping), Some((4, false)));
        assert_eq!(queue.purge(), 1);
        let expect = [
            ("done", Outcome::Success),
            ("late", Outcome::Success),
            ("often", Outcome::DeliveryCountExceeded),
            ("purged", Outcome::Purged),
        ];
        assert_eq!(ended(&mut queue), expect.map(|(name, outcome)| (name.to_owned(), outcome)));
        assert!(queue.is_empty());
    }

    #[test]
    fn no_more_than_a_hub_keeps_also_of_what_is_invisible() {
        let (start, keeping) = (Instant::now(), Keeping::default());
        let mut queue = Queue::default();
        for id in 0..50 {
            assert!(queue.add(id, named("x"), at(start, 3600)));
            assert_eq!(taken(&mut queue, id, start, &keeping), Some((id, false)));
        }
        assert!(!queue.add(50, named("x"), at(start, 3600)));
        queue.release(at(start, 1));
        assert_eq!(taken(&mut queue, 60, at(start, 1), &keeping), Some((0, true)));
    }
}
