//! The local MQTT broker: one plaintext port for MQTT 3.1, 3.1.1 and 5.
//!
//! What a client may rely on:
//! - **An acknowledgement means durable.** PUBACK (QoS 1) and PUBREC (QoS 2) leave only after
//!   [`Commits::durable`] covers everything [`Ingest::offer`] made of the publish. They leave in the order
//!   of the publishes ([MQTT-4.6.0-2], [MQTT-4.6.0-3]), and later publishes are read and offered
//!   meanwhile: 50 publishes in flight share commits instead of waiting for 50.
//! - **Backpressure instead of loss.** While the ingest has no room, or [`Options::max_unacknowledged`]
//!   publishes wait for their commit, that connection's socket is not read.
//! - **A bad client hurts only itself.** Malformed, oversize or late packets close its connection, with
//!   the protocol's own reason where it has one, counted by reason.
//! - **Local subscribers** get every publish from memory, through a queue of their own that is bounded in
//!   messages and bytes. A subscriber that does not read loses messages there, counted, and delays nobody.
//!
//! Sessions end with their connection: a CONNECT that asks for a persistent session is accepted with
//! `session present = 0`. Retained messages live in memory.
//!
//! The broker knows nothing of rules, spool or hub: it offers each publish to an [`Ingest`].

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::message::Publish;
use crate::metrics::Metrics;

mod acknowledge;
mod alias;
mod application_message;
mod connection;
mod deliver;
#[cfg(fuzzing)]
pub mod fuzz;
mod handshake;
mod router;
mod session;
mod wire;

use router::Router;

/// Where publishes go. The wiring implements it over rules and spool.
pub trait Ingest: Send + Sync + 'static {
    /// What one connection reuses from publish to publish.
    type Scratch: Send;

    /// Makes the state of a new connection.
    fn scratch(&self) -> Self::Scratch;

    /// Takes a publish, or says that it cannot now.
    fn offer(&self, scratch: &mut Self::Scratch, publish: &Publish<'_>) -> Offer;

    /// Returns when a publish that got [`Offer::Full`] is worth offering again.
    fn room(&self) -> impl Future<Output = ()> + Send;

    /// Follows what is on disk.
    type Commits: Commits;

    /// Follows what is on disk, for one connection.
    fn commits(&self) -> Self::Commits;
}

/// The sequence up to which everything is on disk.
pub trait Commits: Send {
    /// The sequence now.
    fn durable(&self) -> u64;

    /// Returns when the sequence has reached `sequence`.
    fn reach(&mut self, sequence: u64) -> impl Future<Output = ()> + Send;
}

/// The answer to an offered publish.
pub enum Offer {
    /// Taken: acknowledge when the durable sequence reaches this one; 0 means at once.
    Taken(u64),
    /// Taken, and part of it is written elsewhere: await that, then as [`Offer::Taken`]. Who drops the future
    /// instead never acknowledges.
    TakenAfter(Pin<Box<dyn Future<Output = ()> + Send>>, u64),
    /// No room: stop reading, wait for [`Ingest::room`], offer again.
    Full,
}

/// How the broker listens and what it bounds.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest packet accepted, in bytes.
    pub max_packet_size: u32,
    /// Most connections at one time; more are closed at once.
    pub max_connections: usize,
    /// Time from accept to a complete CONNECT.
    pub connect_timeout: Duration,
    /// Publishes of one connection that may wait for their commit before its socket is not read.
    pub max_unacknowledged: usize,
    /// Messages that may wait for one subscriber.
    pub subscriber_queue_messages: usize,
    /// Bytes of topics, payloads and MQTT 5 properties that may wait for one subscriber.
    pub subscriber_queue_bytes: usize,
    /// Most retained messages.
    pub max_retained: usize,
    /// Most bytes of retained topics, payloads and MQTT 5 properties.
    pub max_retained_bytes: usize,
    /// Most subscriptions of one client.
    pub max_subscriptions: usize,
    /// A client id that is refused: the uplink's own, so that a bridge pointed at itself cannot loop.
    pub refused_client_id: Option<String>,
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
            max_retained: 10_000,
            max_retained_bytes: 16 * 1024 * 1024,
            max_subscriptions: 1_000,
            refused_client_id: None,
        }
    }
}

/// What all connections share.
struct Shared<I> {
    options: Options,
    ingest: Arc<I>,
    router: Router,
    metrics: Metrics,
    stop: CancellationToken,
    /// Places for wills that wait for room.
    wills: Semaphore,
}

impl<I> Shared<I> {
    fn new(options: Options, ingest: Arc<I>, metrics: Metrics, stop: CancellationToken) -> Self {
        let router = Router::new(&options, metrics.clone());
        let wills = Semaphore::new((options.max_connections / 10).max(1));
        Self { options, ingest, router, metrics, stop, wills }
    }
}

/// A running broker.
pub struct Broker {
    local_addr: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Broker {
    /// Serves `listener` until [`stop`](Self::stop).
    pub fn start<I: Ingest>(
        listener: TcpListener,
        options: Options,
        ingest: Arc<I>,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let local_addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared::new(options, ingest, metrics, stop.clone()));
        tasks.spawn(accept(listener, shared, tasks.clone()));
        Ok(Self { local_addr, stop, tasks })
    }

    /// Where the broker listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting and reading, acknowledges what becomes durable within `grace`, closes all connections.
    pub async fn stop(self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!("some plant connections did not end within {grace:?}");
        }
    }
}

async fn accept<I: Ingest>(listener: TcpListener, shared: Arc<Shared<I>>, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(shared.options.max_connections));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: give the system a moment instead of spinning.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            shared.metrics.connection_closed("too_many_connections");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            session::serve(stream, peer, &shared).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests;
