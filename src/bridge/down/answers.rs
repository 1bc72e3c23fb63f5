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
}

/// Which topics answers are awaited on.
#[derive(Debug)]
pub struct Watch {
    waiting: AtomicUsize,
    /// How many answers are awaited on each.
    topics: Mutex<HashMap<String, usize>>,
    sender: mpsc::Sender<Answered>,
}

impl Watch {
    /// With the place where answers come out.
    pub fn new() -> (Self, mpsc::Receiver<Answered>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        (Self { waiting: AtomicUsize::new(0), topics: Mutex::default(), sender }, receiver)
    }

    /// One answer is awaited on this topic.
    pub(super) fn add(&self, topic: &str) {
        *self.topics.lock().entry(topic.to_owned()).or_default() += 1;
        self.waiting.fetch_add(1, Ordering::Release);
    }

    /// One is awaited no more.
    pub(super) fn remove(&self, topic: &str) {
        self.take(topic);
    }

    fn take(&self, topic: &str) -> bool {
        let mut topics = self.topics.lock();
        let Some(count) = topics.get_mut(topic) else { return false };
        *count -= 1;
        if *count == 0 {
            topics.remove(topic);
        }
        self.waiting.fetch_sub(1, Ordering::Release);
        true
    }

    /// A client has published. Where there is no room for an answer, it is as if it had not come.
    pub fn published(&self, topic: &str, payload: &[u8]) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let Ok(place) = self.sender.try_reserve() else { return };
        if self.take(topic) {
            let payload = (payload.len() <= ANSWER_MAX_BYTES).then(|| Bytes::copy_from_slice(payload));
            place.send(Answered { topic: topic.to_owned(), payload });
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
        watch.add("a");
        watch.add("a");
        watch.add("b");
        watch.published("c", b"");
        for payload in ["1", "2", "3"] {
            watch.published("a", payload.as_bytes());
        }
        watch.remove("b");
        watch.published("b", b"");
        let mut got = || answers.try_recv().ok().map(|answered| answered.payload.unwrap());
        assert_eq!([got().as_deref(), got().as_deref(), got().as_deref()], [Some(&b"1"[..]), Some(&b"2"[..]), None]);
        assert_eq!(watch.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_too_large_is_said_to_be() {
        let (watch, mut answers) = Watch::new();
        for (length, taken) in [(ANSWER_MAX_BYTES, true), (ANSWER_MAX_BYTES + 1, false)] {
            watch.add("a");
            watch.published("a", &vec![b'x'; length]);
            assert_eq!(answers.try_recv().unwrap().payload.is_some(), taken, "{length}");
        }
    }
}
