//! Who is connected, since when and from where, and how much each says and hears.
//!
//! A connection counts in its own [`Presence`], which nobody else writes: a count is a load and a store, no lock and
//! no contended line. Whoever wants to know sums them up, under a lock that is taken elsewhere only when a
//! connection begins or ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::message::Timestamp;

/// What went over a connection, or over all there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// MQTT packets from clients.
    pub packets_in: u64,
    /// MQTT packets to clients.
    pub packets_out: u64,
    /// PUBLISH packets from clients.
    pub publishes_in: u64,
    /// PUBLISH packets to clients.
    pub publishes_out: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.packets_in += more.packets_in;
        self.packets_out += more.packets_out;
        self.publishes_in += more.publishes_in;
        self.publishes_out += more.publishes_out;
    }
}

/// What is known of a client when it is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its client identifier.
    pub client_id: String,
    /// Where it comes from.
    pub address: SocketAddr,
    /// The transport it comes over.
    pub via: &'static str,
    /// The MQTT version: `3.1`, `3.1.1` or `5`.
    pub version: &'static str,
    /// Its keep-alive; zero is none.
    pub keep_alive: Duration,
    /// When it connected.
    pub since: Timestamp,
}

/// One connected client and its counters.
#[derive(Debug)]
pub(super) struct Presence {
    client: Client,
    packets_in: AtomicU64,
    packets_out: AtomicU64,
    publishes_in: AtomicU64,
    publishes_out: AtomicU64,
}

/// Adds one to a counter only this task writes.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Presence {
    /// Counts a packet from the client.
    pub(super) fn received(&self, is_publish: bool) {
        count(&self.packets_in);
        if is_publish {
            count(&self.publishes_in);
        }
    }

    /// Counts a packet to the client.
    pub(super) fn sent(&self, is_publish: bool) {
        count(&self.packets_out);
        if is_publish {
            count(&self.publishes_out);
        }
    }

    fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            packets_in: read(&self.packets_in),
            packets_out: read(&self.packets_out),
            publishes_in: read(&self.publishes_in),
            publishes_out: read(&self.publishes_out),
        }
    }
}

/// All who are connected, and the sums over all who were.
#[derive(Debug)]
pub struct Census {
    started: Instant,
    people: Mutex<People>,
    dropped: AtomicU64,
    away: AtomicU64,
}

#[derive(Debug, Default)]
struct People {
    /// In the order they came.
    present: BTreeMap<u64, Arc<Presence>>,
    next: u64,
    maximum: usize,
    gone: Traffic,
}

/// The census at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Totals {
    /// Since the broker started.
    pub uptime: Duration,
    /// Clients connected now.
    pub connected: usize,
    /// Most clients there were at one time.
    pub maximum: usize,
    /// Clients that are away and whose session waits for them.
    pub away: u64,
    /// Of all connections there were.
    pub traffic: Traffic,
    /// Publishes a local subscriber lost.
    pub dropped: u64,
}

impl Default for Census {
    fn default() -> Self {
        Self { started: Instant::now(), people: Mutex::default(), dropped: AtomicU64::new(0), away: AtomicU64::new(0) }
    }
}

impl Census {
    /// Enters a client; it is connected until the value is dropped.
    pub(super) fn enter(&self, client: Client) -> Entry<'_> {
        // CONNECT and CONNACK were before there was anything to count in.
        let presence = Arc::new(Presence {
            client,
            packets_in: AtomicU64::new(1),
            packets_out: AtomicU64::new(1),
            publishes_in: AtomicU64::new(0),
            publishes_out: AtomicU64::new(0),
        });
        let mut people = self.people.lock();
        let number = people.next;
        people.next += 1;
        people.present.insert(number, Arc::clone(&presence));
        people.maximum = people.maximum.max(people.present.len());
        Entry { census: self, number, presence }
    }

    /// Says how many clients are away whose session waits for them.
    pub(super) fn are_away(&self, clients: usize) {
        self.away.store(clients as u64, Ordering::Relaxed);
    }

    /// Counts a publish a local subscriber lost.
    pub(super) fn lost(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Clients connected now.
    pub fn connected(&self) -> usize {
        self.people.lock().present.len()
    }

    /// The sums. Looks at every client that is connected.
    pub fn totals(&self) -> Totals {
        let people = self.people.lock();
        let mut traffic = people.gone;
        people.present.values().for_each(|presence| traffic += presence.traffic());
        Totals {
            uptime: self.started.elapsed(),
            connected: people.present.len(),
            maximum: people.maximum,
            away: self.away.load(Ordering::Relaxed),
            traffic,
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// Up to `limit` connected clients in the order they came, with what went over their connections.
    pub fn clients(&self, limit: usize) -> Vec<(Client, Traffic)> {
        let present: Vec<_> = self.people.lock().present.values().take(limit).cloned().collect();
        present.iter().map(|presence| (presence.client.clone(), presence.traffic())).collect()
    }
}

/// A client's entry in the census; it leaves when this is dropped.
pub(super) struct Entry<'c> {
    census: &'c Census,
    number: u64,
    pub(super) presence: Arc<Presence>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut people = self.census.people.lock();
        people.present.remove(&self.number);
        people.gone += self.presence.traffic();
    }
}
