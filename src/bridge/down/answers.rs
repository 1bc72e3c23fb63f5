//! Watches for answers among what plant clients publish. While none is awaited it costs a publish one atomic load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// The largest answer that is taken: a hub takes no larger one of a method.
pub(super) const ANSWER_MAX_BYTES: usize = 128 * 1024;
/// Answers that may wait for the way down.
const ROOM: usize = 64;

/// A publish on a topic on which an answer was awaited.
#[derive(Debug)]
pub struct Answered {
    /// Its topic.
    pub topic: String,
    /// Its payload; `None` where it is too large.
    pub payload: Option<Bytes>,
    /// As many as are awaited come out; where answers are picked, all that is published does.
    pub counted: bool,
}

/// Which topics answers are awaited on.
#[derive(Debug)]
pub struct Watch {
    waiting: AtomicUsize,
    /// What is awaited on each.
    topics: Mutex<HashMap<String, Awaited>>,
    sender: mpsc::Sender<Answered>,
}

/// How many answers are awaited on a topic.
#[derive(Debug, Default)]
struct Awaited {
    all: usize,
    /// Those of them that not every publish is.
    picked: usize,
}

impl Watch {
    /// With the place where answers come out.
    pub fn new() -> (Self, mpsc::Receiver<Answered>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        (Self { waiting: AtomicUsize::new(0), topics: Mutex::default(), sender }, receiver)
    }

    /// One answer is awaited on this topic; `picks` where not every publish is one.
    pub(super) fn add(&self, topic: &str, picks: bool) {
        let mut topics = self.topics.lock();
        let awaited = topics.entry(topic.to_owned()).or_default();
        awaited.all += 1;
        awaited.picked += usize::from(picks);
        self.waiting.fetch_add(1, Ordering::Release);
    }

    /// One is awaited no more.
    pub(super) fn remove(&self, topic: &str, picks: bool) {
        self.remove_from(&mut self.topics.lock(), topic, picks);
    }

    fn remove_from(&self, topics: &mut HashMap<String, Awaited>, topic: &str, picks: bool) {
        let Some(awaited) = topics.get_mut(topic) else { return };
        awaited.all = awaited.all.saturating_sub(1);
        awaited.picked = awaited.picked.saturating_sub(usize::from(picks));
        if awaited.all == 0 {
            topics.remove(topic);
        }
        self.waiting.fetch_sub(1, Ordering::Release);
    }

    /// Whether a publish on this topic comes out, and as one of those that are counted.
    fn take(&self, topic: &str) -> Option<bool> {
        let mut topics = self.topics.lock();
        let counted = topics.get(topic)?.picked == 0;
        if counted {
            self.remove_from(&mut topics, topic, false);
        }
        Some(counted)
    }

    /// A client has published. Where there is no room for an answer, it is as if it had not come.
    pub fn published(&self, topic: &str, payload: &[u8]) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let Ok(place) = self.sender.try_reserve() else { return };
        if let Some(counted) = self.take(topic) {
            let payload = (payload.len() <= ANSWER_MAX_BYTES).then(|| Bytes::copy_from_slice(payload));
            place.send(Answered { topic: topic.to_owned(), payload, counted });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_answers_as_are_awaited() {
        let (watch, mut answers) = Watch::new();
        watch.published("a", b"too early");
        watch.add("a", false);
        watch.add("a", false);
        watch.add("b", false);
        watch.published("c", b"");
        for payload in ["1", "2", "3"] {
            watch.published("a", payload.as_bytes());
        }
        watch.remove("b", false);
        watch.published("b", b"");
        let mut got = || answers.try_recv().ok().map(|answered| answered.payload.unwrap());
        assert_eq!([got().as_deref(), got().as_deref(), got().as_deref()], [Some(&b"1"[..]), Some(&b"2"[..]), None]);
        assert_eq!(watch.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn where_answers_are_picked_all_that_is_published_comes_out() {
        let (watch, mut answers) = Watch::new();
        watch.add("a", true);
        watch.add("a", false);
        let mut published = |payload: &str| {
            watch.published("a", payload.as_bytes());
            answers.try_recv().ok().map(|answered| answered.counted)
        };
        assert_eq!([published("1"), published("2"), published("3")], [Some(false); 3]);
        watch.remove("a", true);
        assert_eq!([published("4"), published("5")], [Some(true), None]);
        assert_eq!(watch.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_too_large_is_said_to_be() {
        let (watch, mut answers) = Watch::new();
        for (length, taken) in [(ANSWER_MAX_BYTES, true), (ANSWER_MAX_BYTES + 1, false)] {
            watch.add("a", false);
            watch.published("a", &vec![b'x'; length]);
            assert_eq!(answers.try_recv().unwrap().payload.is_some(), taken, "{length}");
        }
    }
}
