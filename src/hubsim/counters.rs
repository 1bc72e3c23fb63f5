//! What happened so far, as numbers that any task may read.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Closed {
    /// The client said DISCONNECT.
    Goodbye,
    /// The client's end of the line is gone.
    Lost,
    /// Nothing came for 1.5 times the keep-alive.
    Silent,
    /// The same identity connected again.
    TakenOver,
    /// Its device was disabled, or is another hub's now.
    Disabled,
    /// All connections were dropped.
    Restarted,
    /// It connected faster than it may.
    Throttled,
    /// The token ended.
    Expired,
    /// A publish with QoS 2.
    Qos2,
    /// A publish to a topic that is not the client's own.
    Topic,
    /// A property bag that does not parse.
    Bag,
    /// A message over the size limit.
    TooLarge,
    /// A topic filter that is not documented, or too many of them.
    Subscribe,
    /// An UNSUBSCRIBE from what was never subscribed.
    Unsubscribe,
    /// Bytes that are no MQTT, or a packet at the wrong time.
    Protocol,
    /// The line was cut on purpose.
    Cut,
    /// A message it was told to close at.
    Disliked,
    /// The daily quota it was told is spent.
    Quota,
    /// The client does not read what it is sent.
    NotReading,
    /// The CONNECT was refused.
    Refused,
    /// The TLS handshake failed or took too long.
    Handshake,
    /// No CONNECT came in time.
    NoConnect,
    /// Whoever takes the messages is gone.
    NoOutput,
    /// The simulator stops.
    Stopped,
}

impl Closed {
    /// The reason in words: a hub closes without a word, so the simulator's log must have it.
    pub fn why(self) -> &'static str {
        match self {
            Self::Goodbye => "the client said DISCONNECT",
            Self::Lost => "the client is gone",
            Self::Silent => "nothing came for 1.5 times the keep-alive",
            Self::TakenOver => "the same identity connected again; two clients with one id do this for ever",
            Self::Disabled => "its device was disabled or removed",
            Self::Restarted => "all connections were dropped",
            Self::Throttled => "too many connects a second",
            Self::Expired => "its token is over",
            Self::Qos2 => "publish with QoS 2, which IoT Hub does not know",
            Self::Topic => "publish to a topic that is not the client's own",
            Self::Bag => "the property bag does not parse",
            Self::TooLarge => "the message is larger than 262144 bytes, properties included",
            Self::Subscribe => "a topic filter that is not documented, or a sixth one",
            Self::Unsubscribe => "UNSUBSCRIBE from a topic filter it did not have",
            Self::Protocol => "not MQTT 3.1.1, or a packet out of place",
            Self::Cut => "cut on purpose",
            Self::Disliked => "a message it was told to close at",
            Self::Quota => "the daily quota is spent",
            Self::NotReading => "the client does not read what it is sent",
            Self::Refused => "the CONNECT was refused",
            Self::Handshake => "the TLS handshake failed or took too long",
            Self::NoConnect => "no CONNECT came in time",
            Self::NoOutput => "nobody takes the messages any more",
            Self::Stopped => "the simulator stops",
        }
    }
}

const REASONS: usize = Closed::Stopped as usize + 1;

/// The running counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    connected: AtomicU64,
    messages: AtomicU64,
    dropped: AtomicU64,
    /// Messages taken off the quota.
    quota: AtomicU64,
    closed: [AtomicU64; REASONS],
    by_identity: Mutex<HashMap<String, ByIdentity>>,
}

/// What one identity did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByIdentity {
    /// Connections that got CONNACK 0.
    pub connected: u64,
    /// Messages received.
    pub messages: u64,
}

/// Identities that are counted one by one.
const IDENTITIES: usize = 100_000;

impl Counters {
    pub(super) fn accept(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(super) fn connect(&self, identity: &str) {
        self.connected.fetch_add(1, Relaxed);
        self.of(identity, |counts| counts.connected += 1);
    }

    fn of(&self, identity: &str, count: impl FnOnce(&mut ByIdentity)) {
        let mut all = self.by_identity.lock();
        let room = all.len() < IDENTITIES;
        match all.get_mut(identity) {
            Some(counts) => count(counts),
            None if room => count(all.entry(identity.to_owned()).or_default()),
            None => {}
        }
    }

    pub(super) fn by_identity(&self) -> BTreeMap<String, ByIdentity> {
        self.by_identity.lock().iter().map(|(identity, counts)| (identity.clone(), *counts)).collect()
    }

    pub(super) fn batch(&self, identity: &str, messages: u64, dropped: u64) {
        if messages > 0 {
            self.messages.fetch_add(messages, Relaxed);
            self.of(identity, |counts| counts.messages += messages);
        }
        if dropped > 0 {
            self.dropped.fetch_add(dropped, Relaxed);
        }
    }

    /// Takes a message off the quota; `None` where nothing is left of it.
    pub(super) fn take_one_of(&self, quota: u64) -> Option<u64> {
        self.quota.fetch_update(Relaxed, Relaxed, |used| (used < quota).then_some(used + 1)).ok()
    }

    pub(super) fn close(&self, why: Closed) {
        if let Some(count) = self.closed.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            accepted: self.accepted.load(Relaxed),
            connected: self.connected.load(Relaxed),
            messages: self.messages.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            closed: std::array::from_fn(|i| self.closed.get(i).map_or(0, |c| c.load(Relaxed))),
        }
    }
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// TCP connections taken.
    pub accepted: u64,
    /// Connections that got CONNACK 0.
    pub connected: u64,
    /// Messages received, wills included.
    pub messages: u64,
    /// Publishes an edgeHub acknowledges and throws away.
    pub dropped: u64,
    closed: [u64; REASONS],
}

impl Counts {
    /// How many connections ended, for whatever reason.
    pub fn ended(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// How many connections ended so.
    pub fn closed(&self, why: Closed) -> u64 {
        self.closed.get(why as usize).copied().unwrap_or(0)
    }
}
