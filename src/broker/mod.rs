//! The local MQTT broker: MQTT 3.1, 3.1.1 and 5 on a plaintext port, and over TLS and WebSocket where wanted.
//!
//! What a client may rely on:
//! - **An acknowledgement means durable.** PUBACK (QoS 1) and PUBREC (QoS 2) leave only after
//!   [`Commits::cover`] says so of everything [`Ingest::offer`] made of the publish. They leave in the order
//!   of the publishes ([MQTT-4.6.0-2], [MQTT-4.6.0-3]), and later publishes are read and offered
//!   meanwhile: 50 publishes in flight share commits instead of waiting for 50.
//! - **Backpressure instead of loss.** While the ingest has no room, or [`Options::max_unacknowledged`]
//!   publishes wait for their commit, that connection's socket is not read.
//! - **A bad client hurts only itself.** Malformed, oversize or late packets close its connection, with
//!   the protocol's own reason where it has one, counted by reason.
//! - **Local subscribers** get every publish from memory, through a queue of their own that is bounded in
//!   messages and bytes. A subscriber that does not read loses messages there, counted, and delays nobody.
//!
//! - **Sessions last** as long as their client asks, within [`Options::max_session_expiry`]: QoS 1 and 2 messages wait
//!   for it, bounded, and what is in flight is sent again. With a [`Store`] sessions and retained messages outlive the
//!   process.
//!
//! Of MQTT 5 it speaks everything but enhanced authentication: topic aliases, receive maximum and maximum packet size
//! both ways, session and message expiry, will delay, subscription identifiers and options, shared subscriptions (for
//! clients of MQTT 3.1.1 too), and passes user properties and request/response on.
//!
//! The broker knows nothing of rules, spool or hub: it offers each publish to an [`Ingest`].

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::message::{Presence, Publish};
use crate::metrics::Metrics;

mod acknowledge;
mod alias;
mod application_message;
mod census;
mod clients;
mod connection;
mod deliver;
mod expired;
// Also where it is tested, so that what nobody builds every day does not rot.
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
mod handshake;
mod inside;
mod listen;
mod presence;
mod retained;
mod router;
mod sequences;
mod serve;
mod session;
mod share;
mod store;
mod strict;
mod system;
mod upkeep;
mod wire;

pub use census::{Census, Client, Totals, Traffic};
pub use gate::{Gate, Judgement, Pass, Refusal, RefusalCode, Visitor};
pub use inside::Inside;
pub use listen::{Listener, Transport, server_tls};
pub use sequences::{LOGS, Sequences};
pub use store::{Restored, Store};

use router::Router;

/// Where publishes go. The wiring implements it over rules and spool.
pub trait Ingest: Send + Sync + 'static {
    /// What one connection reuses from publish to publish.
    type Scratch: Send + Sync;

    /// Makes the state of a new connection.
    fn scratch(&self) -> Self::Scratch;

    /// Takes a publish, or says that it cannot now.
    fn offer(&self, scratch: &mut Self::Scratch, publish: &Publish<'_>) -> Offer;

    /// Takes the coming or going of a client, as a publish; `None` where it makes nothing of it.
    fn presence(&self, _: &mut Self::Scratch, _: &Presence<'_>) -> Option<Offer> {
        None
    }

    /// Returns when the publish that got [`Offer::Full`] with this scratch, and nothing was offered with since, is worth
    /// offering again.
    fn room(&self, scratch: &Self::Scratch) -> impl Future<Output = ()> + Send;

    /// Follows what is on disk.
    type Commits: Commits;

    /// Follows what is on disk, for one connection.
    fn commits(&self) -> Self::Commits;
}

/// What is on disk.
pub trait Commits: Send {
    /// Whether all of them are on disk at this moment.
    fn cover(&mut self, sequences: Sequences) -> bool;

    /// Returns when all of them are on disk.
    fn reach(&mut self, sequences: Sequences) -> impl Future<Output = ()> + Send;
}

/// The answer to an offered publish.
pub enum Offer {
    /// Taken: acknowledge when these are on disk, and read on meanwhile.
    Taken(Sequences),
    /// Taken, and a part of it is not in a log yet: await that and read nothing more, then as [`Offer::Taken`]. Who
    /// drops the future instead never acknowledges.
    TakenAfter(Pin<Box<dyn Future<Output = ()> + Send>>, Sequences),
    /// No room: stop reading, wait for [`Ingest::room`], offer again.
    Full,
}

impl Offer {
    /// The same, where something else has to be awaited, too.
    #[must_use]
    pub fn and_after(self, more: impl Future<Output = ()> + Send + 'static) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Taken(sequences) => Self::TakenAfter(Box::pin(more), sequences),
            Self::TakenAfter(written, sequences) => {
                let both = async move {
                    written.await;
                    more.await;
                };
                Self::TakenAfter(Box::pin(both), sequences)
            }
        }
    }
}

/// How the broker listens and what it bounds.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest packet accepted, in bytes.
    pub max_packet_size: u32,
    /// Most connections of all listeners at one time; more are closed at once.
    pub max_connections: usize,
    /// Time from accept to a complete CONNECT, and for a TLS or WebSocket handshake before that.
    pub connect_timeout: Duration,
    /// Publishes of one connection that may wait for their commit before its socket is not read.
    pub max_unacknowledged: usize,
    /// Messages that may wait for one subscriber, connected or away.
    pub subscriber_queue_messages: usize,
    /// Bytes of topics, payloads and MQTT 5 properties that may wait for one subscriber.
    pub subscriber_queue_bytes: usize,
    /// Longest a session may outlive its connection, in seconds, and how long one without MQTT 5 does.
    pub max_session_expiry: u32,
    /// Most sessions whose client is away; the one that is away longest ends for a new one.
    pub max_sessions: usize,
    /// Bytes that may wait for all clients that are away.
    pub max_session_bytes: usize,
    /// Longest keep-alive in seconds; MQTT 5 clients that want a longer one are told this one. 0 is no limit.
    pub max_keep_alive: u16,
    /// Where sessions and retained messages are kept over a restart.
    pub store: Option<Arc<dyn Store>>,
    /// Most retained messages.
    pub max_retained: usize,
    /// Most bytes of retained topics, payloads and MQTT 5 properties.
    pub max_retained_bytes: usize,
    /// Most subscriptions of one client.
    pub max_subscriptions: usize,
    /// A client id that is refused: the uplink's own, so that a bridge pointed at itself cannot loop.
    pub refused_client_id: Option<String>,
    /// Most connections of one address.
    pub max_connections_per_address: usize,
    /// CONNECTs of one address a second; 0 is no limit.
    pub max_connect_rate: u32,
    /// Publishes of one client a second; 0 is no limit.
    pub max_publish_rate: u32,
    /// A client over its publish rate is closed instead of read later.
    pub close_over_publish_rate: bool,
    /// Judges clients; without one everybody may do everything.
    pub gate: Option<Arc<dyn Gate>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_packet_size: 1024 * 1024,
            max_connections: 10_000,
            connect_timeout: Duration::from_secs(10),
            max_unacknowledged: 1_000,
            subscriber_queue_messages: 1_000,
            subscriber_queue_bytes: 1024 * 1024,
            max_session_expiry: 7 * 24 * 3600,
            max_sessions: 10_000,
            max_session_bytes: 64 * 1024 * 1024,
            max_keep_alive: 0,
            store: None,
            max_retained: 10_000,
            max_retained_bytes: 16 * 1024 * 1024,
            max_subscriptions: 1_000,
            refused_client_id: None,
            max_connections_per_address: 10_000,
            max_connect_rate: 0,
            max_publish_rate: 0,
            close_over_publish_rate: false,
            gate: None,
        }
    }
}

/// What all connections share.
struct Shared<I> {
    options: Options,
    ingest: Arc<I>,
    router: Arc<Router>,
    doors: gate::Doors,
    metrics: Metrics,
    stop: CancellationToken,
    /// Places for wills and events that wait for room, or to be written.
    wills: Arc<Semaphore>,
    /// What the broker does beside its callers.
    tasks: TaskTracker,
}

impl<I> Shared<I> {
    fn new(
        (options, restored): (Options, Restored),
        ingest: Arc<I>,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let router = Arc::new(Router::new(&options, metrics.clone(), restored));
        let wills = Arc::new(Semaphore::new((options.max_connections / 10).max(1)));
        let doors = gate::Doors::new(&options);
        Self { options, ingest, router, doors, metrics, stop, wills, tasks: TaskTracker::new() }
    }
}

/// A running broker.
pub struct Broker {
    addresses: Vec<(&'static str, SocketAddr)>,
    census: Arc<Census>,
    inside: Inside,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Writes down what changed last.
    last_words: Box<dyn FnOnce() + Send>,
}

impl Broker {
    /// Serves all `listeners` until [`stop`](Self::stop), with the sessions of an earlier process.
    pub fn start<I: Ingest>(
        listeners: Vec<Listener>,
        (options, restored): (Options, Restored),
        ingest: Arc<I>,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let address = |listener: &Listener| Ok((listener.transport.name(), listener.socket.local_addr()?));
        let addresses = listeners.iter().map(address).collect::<std::io::Result<_>>()?;
        let stop = CancellationToken::new();
        let places = Arc::new(Semaphore::new(options.max_connections));
        let shared = Arc::new(Shared::new((options, restored), ingest, metrics, stop.clone()));
        let (tasks, census) = (shared.tasks.clone(), Arc::clone(&shared.router.census));
        let inside = Inside::new(Arc::clone(&shared.router));
        for listener in listeners {
            tasks.spawn(listen::accept(listener, Arc::clone(&shared), Arc::clone(&places), tasks.clone()));
        }
        tasks.spawn(system::refresh(Arc::clone(&shared)));
        tasks.spawn(upkeep::expire(Arc::clone(&shared)));
        tasks.spawn(upkeep::write_down(Arc::clone(&shared)));
        let last_words = Box::new(move || upkeep::write_changes(&shared.router));
        Ok(Self { addresses, census, inside, stop, tasks, last_words })
    }

    /// Where the broker listens, with the name of each transport, in the order of the listeners.
    pub fn addresses(&self) -> &[(&'static str, SocketAddr)] {
        &self.addresses
    }

    /// Who is connected.
    pub fn census(&self) -> Arc<Census> {
        Arc::clone(&self.census)
    }

    /// Publishes to the clients from inside the process.
    pub fn inside(&self) -> Inside {
        self.inside.clone()
    }

    /// Stops accepting and reading, acknowledges what becomes durable within `grace`, closes all connections.
    pub async fn stop(self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!("some plant connections did not end within {grace:?}");
        }
        (self.last_words)();
    }
}

#[cfg(test)]
mod tests;
