//! The uplink: takes what waits in the spool to the hub, one TLS connection, one feeder.
//!
//! The [`Backlog`] is the truth. A message leaves it only on the hub's PUBACK; what was in flight when a
//! connection ended is kept here, in order, and sent first on the next one, with the same `$.mid`. So a
//! message may arrive twice and never not at all, and messages of one device stay in order.
//!
//! Messages come in three [lanes](Lane): urgent ones before all others, live ones before those that waited through
//! an outage. When a connection begins and more waits in the live lane than the uplink sends in about a second (what
//! it sent in a good second before, 1,000 where it never did, at least 100, at most what the tier takes), all of that
//! becomes late: what comes from then on goes first. Late messages follow at the pace the hub's tier allows
//! ([`crate::hub::pace`]) and as the window has room; urgent and live ones wait for the window only.
//!
//! Each connection gets a fresh `rumqttc` client and event loop: an event loop that saw an error, or a CONNACK
//! without its session, throws away what it had pending. Its future is never dropped half-way, for a publish
//! it has taken from its queue could be lost between its state and the wire; when a connection is to end, the
//! whole event loop goes.
//!
//! A message that makes the hub close the connection would stop everything behind it. `suspicion` finds it, and
//! it leaves for the quarantine, as does one that the hub is known not to take.
//!
//! A connection ends for these reasons, each counted in `uplink_reconnects` and, while it lasts, the state in
//! `uplink_state`: `token_renewal` and `subscriptions` (planned, after what is in flight was acknowledged), `refused`, `clock` (refused, and
//! the hub's clock tells why; or it cannot be, see `credentials`), `token_expired` (a token of the connection string, which nobody renews), `tls`, `network`,
//! `proxy` (there is no tunnel through it), `timeout`, `websocket` (an HTTP answer that is no WebSocket), `closed`, `unassigned` (nobody says which hub it is to be, see [`Credentials`]), `ack_timeout` (the hub takes messages but acknowledges none) and `protocol`; and for closes
//! again and again (`diagnosis`) `taken_over`, `nothing_taken` or `throttled`. All but the first two are followed by a
//! pause that doubles from `backoff` to its cap, with jitter.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::hub::refused::{CLOCK, brief};
use crate::message::{HubMessage, Timestamp, excerpt};
use crate::metrics::Metrics;

mod clock;
mod connection;
mod credentials;
mod crowd;
mod diagnosis;
mod dial;
mod down;
mod flight;
mod pacing;
mod relay;
#[cfg(test)]
pub(crate) mod sim;
mod subscribed;
mod suspicion;
mod target;
pub mod tls;
mod transport;
mod window;
mod wire;

pub use credentials::{Credentials, Unassigned};
pub use crowd::Crowd;
#[cfg(test)]
pub(crate) use down::Nowhere;
pub use down::{Arrival, Arrivals, Down, Gone, Return, TwinLine, TwinNews, Twins, Wanted};
pub use pacing::{HubRate, Pacing};
pub use subscribed::Subscribed;
pub use target::{HubTarget, MqttTarget, Target};
pub use transport::Transport;
pub use window::WindowSize;

use clock::Clocks;
use connection::End;
use diagnosis::{Closed, Diagnosis};
use flight::Flight;
use suspicion::Verdict;
use window::Window;
use wire::Dial;

/// How soon a message goes up. The order of the variants is the order of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A rule said so.
    Urgent,
    /// It came while the line was up, or there was little before it.
    Live,
    /// It waited through an outage.
    Late,
}

/// The name of a message, the same for every sending and for ever: `$.mid` is its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The identifier of the spool that keeps it.
    pub spool: u64,
    /// Its place there.
    pub sequence: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.spool, self.sequence)
    }
}

/// What waits for the hub. The wiring implements it over the spool.
pub trait Backlog: Send + 'static {
    /// The next message of the first lane that has one, down to and including `down_to`; within a lane in order.
    /// Pending while there is none, `None` when there will be no more. Each message is given once. Cancel-safe.
    fn next(&mut self, down_to: Lane) -> impl Future<Output = Option<Waiting>> + Send;

    /// Makes everything late that waits in the live lane, if that is more than `over` messages. True if it did.
    fn split(&mut self, over: u64) -> bool;
}

/// Why a message that is older than [`Options::max_age`] is abandoned.
pub const TOO_OLD: &str = "too_old";

/// What became of a message; the other half of the backlog.
pub trait Outcome: Send + Sync + 'static {
    /// The hub has it. False where it does not count any more (it was given up to make room).
    fn delivered(&self, id: MessageId) -> bool;

    /// It will never be sent, for `reason`.
    fn abandon(&self, id: MessageId, reason: &'static str);

    /// It will never be sent, and is to be kept where somebody can look at it. Returns when it is.
    fn isolate(&self, waiting: &Waiting, isolation: &Isolation) -> impl Future<Output = ()> + Send;
}

/// Why a message is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// A fixed word, the counter's label.
    pub reason: &'static str,
    /// A sentence.
    pub detail: String,
}

/// A message taken from the backlog.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its name.
    pub id: MessageId,
    /// The lane it was taken from.
    pub lane: Lane,
    /// See [`crate::message`].
    pub record: Bytes,
}

/// How the uplink connects and how much it has in flight.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where messages go; what [`Credentials`] say takes its place before each connection.
    pub target: Target,
    /// Publishes in flight.
    pub window: WindowSize,
    /// Messages a second that the hub takes, where it is to be spared.
    pub hub_rate: HubRate,
    /// New messages go before those that waited through an outage; otherwise nothing becomes late.
    pub live_first: bool,
    /// Late messages get the application property `replayed=true`.
    pub mark_late: bool,
    /// Messages older than this are given up instead of sent.
    pub max_age: Option<Duration>,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// First and longest pause after a failed connection.
    pub backoff: (Duration, Duration),
    /// When it is notified, the connection is made anew as with a new token.
    pub renew: Arc<Notify>,
    /// Where the copying for an `address` is done; without it, where the uplink runs.
    pub relays: Option<Handle>,
    /// Age of the oldest unacknowledged publish at which the connection is given up.
    pub ack_timeout: Duration,
    /// Closes of the line in a row after which what was in flight is suspected of causing them; 0 suspects nothing.
    pub suspect_after: u32,
    /// What takes what the hub sends; without it nothing is subscribed to.
    pub down: Option<Down>,
    /// What the hub was asked to send before, to be taken back where nothing takes it any more.
    pub subscribed: Option<Arc<Subscribed>>,
    /// Set where this is one of many uplinks: it waits for its turn to connect, and tells its comings and
    /// goings quietly.
    pub crowd: Option<Arc<Crowd>>,
}

/// What the uplink is doing, for /readyz.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// When the hub let us in; `None` from the end of the connection on.
    pub connected: Option<Instant>,
    /// True from the end of a connection that was planned to the next CONNACK.
    pub renewing: bool,
    /// When the hub last acknowledged a message.
    pub last_puback: Option<Instant>,
    /// Why the last connection ended or could not be made, in words.
    pub trouble: Option<String>,
    /// What is wrong though connections come about: they are closed again and again.
    pub warning: Option<String>,
    /// The word for why the last connection ended, planned ends left out.
    pub reason: Option<&'static str>,
    /// How many connections have ended so, or could not be made.
    pub failures: u64,
    /// What carries MQTT, where it is not the usual way.
    pub via: Option<String>,
    /// When the proof of the last connection ends.
    pub expiry: Expiry,
}

/// When what a connection proves itself with ends, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expiry {
    /// The token, which is renewed before.
    pub minted: Option<i64>,
    /// A token of the connection string, which nobody renews.
    pub given: Option<i64>,
    /// The client certificate.
    pub certificate: Option<i64>,
}

impl Expiry {
    /// Whichever token it is.
    pub fn token(&self) -> Option<i64> {
        self.minted.or(self.given)
    }
}

/// The clock of the runtime, which a test may move.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The states of `uplink_state` beside the reasons of an end.
const UP: &str = "connected";
const CONNECTING: &str = "connecting";

/// Delivers until `stop`; the in-flight messages it then holds are still in the backlog.
pub async fn run<C: Credentials, B: Backlog, O: Outcome>(
    (options, credentials): (Options, C),
    waiting: (B, O),
    metrics: Metrics,
    status: watch::Sender<Status>,
    stop: CancellationToken,
) {
    run_over((dial::Network, options, credentials), waiting, metrics, status, stop).await;
}

/// [`run`], over any kind of line.
pub(crate) async fn run_over<D: Dial, C: Credentials, B: Backlog, O: Outcome>(
    (dial, mut options, credentials): (D, Options, C),
    (mut backlog, outcome): (B, O),
    metrics: Metrics,
    status: watch::Sender<Status>,
    stop: CancellationToken,
) {
    let mut flight = Flight::new(options.suspect_after);
    let mut window = Window::new(options.window);
    let mut watch = Watch::default();
    let mut pause = options.backoff.0;
    metrics.uplink_state(CONNECTING);
    loop {
        let assigned = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            assigned = watch.target(&credentials, &options) => assigned,
        };
        match assigned {
            Ok(target) => options.target = target.decide(),
            Err(Unassigned { reason, text, pause }) => {
                let ended = Ended { reason, text, again_and_again: false };
                tell(ended, (pause, &options), &metrics, &status);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => continue,
                }
            }
        }
        if let Some(crowd) = &options.crowd {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = crowd.turn(options.target.server().0) => {}
            }
        }
        let target = &options.target;
        let via = target.transport().and_then(|transport| transport.told(target.server().1));
        status.send_modify(|status| status.via = via);
        let started = now();
        let end = connection::serve(
            (&dial, &options),
            (&mut backlog, &outcome),
            (&mut flight, &mut window),
            &metrics,
            (&status, &stop),
        )
        .await;
        metrics.uplink_connected.set(0.0);
        let (connected, progressed) = {
            let status = status.borrow();
            (status.connected, status.last_puback.is_some_and(|at| at >= started))
        };
        if connected.is_some() {
            credentials.accepted();
        }
        if learn(&options.target, &end, connected.is_some()) {
            credentials.unreachable();
        }
        let renewing = matches!(end, End::Renew(_));
        status.send_modify(|status| (status.connected, status.renewing) = (None, renewing));
        if progressed {
            pause = options.backoff.0;
        }
        let (reason, text) = match end {
            End::Stopped | End::NoMore => return,
            End::Renew(reason) => {
                metrics.uplink_reconnect(reason);
                continue;
            }
            End::Failed { reason, text } => (reason, text),
        };
        let lived = connected.map(|at| now().duration_since(at));
        let ended = tokio::select! {
            biased;
            ended = watch.look(&options, (reason, text), lived, &flight) => ended,
            () = stop.cancelled() => return,
        };
        if ended.reason == "refused" {
            credentials.refused();
        }
        if reason == "closed" {
            // A quarantine whose disk does not answer must not hold the end up: what it has not got is in the spool.
            let found = tokio::select! {
                biased;
                found = look_for_poison(&mut flight, &outcome, &metrics) => found,
                () = stop.cancelled() => return,
            };
            if found {
                pause = options.backoff.0;
            }
        }
        let jittered = pause.mul_f64(rand::random_range(0.5..=1.0));
        tell(ended, (jittered, &options), &metrics, &status);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
        pause = (pause * 2).min(options.backoff.1);
    }
}

/// What an end says about the way that was taken; true where it did not lead to the hub.
fn learn(target: &Target, end: &End, connected: bool) -> bool {
    let End::Failed { reason, .. } = end else { return false };
    let blocked = transport::is_blocked(reason, connected);
    if !connected && let Some(news) = target.transport().and_then(|transport| transport.failed(blocked)) {
        tracing::warn!("uplink: {news}");
    }
    blocked
}

/// An end of a connection, understood.
struct Ended {
    reason: &'static str,
    text: String,
    /// It is one of many, and this is what they have in common.
    again_and_again: bool,
}

/// What helps to understand the end of a connection.
#[derive(Default)]
struct Watch {
    clocks: Clocks,
    diagnosis: Diagnosis,
}

impl Watch {
    /// What this line knows itself where it is alone.
    fn clocks<'a>(&'a self, options: &'a Options) -> &'a Clocks {
        options.crowd.as_ref().map_or(&self.clocks, |crowd| &crowd.clocks)
    }

    /// Where the next connection goes, once the clock allows one.
    async fn target(&mut self, credentials: &impl Credentials, options: &Options) -> Result<Target, Unassigned> {
        let target = credentials::ask(credentials).await?;
        match self.clocks(options).holds(&target).await {
            None => Ok(target),
            Some(skew) => {
                Err(Unassigned { reason: "clock", text: clock::explain(skew), pause: credentials::CLOCK_AGAIN })
            }
        }
    }

    /// Says why a connection really ended. `lived` is its time since CONNACK.
    async fn look(
        &mut self,
        options: &Options,
        (reason, text): (&'static str, String),
        lived: Option<Duration>,
        flight: &Flight,
    ) -> Ended {
        let target = &options.target;
        let plain = |reason, text| Ended { reason, text, again_and_again: false };
        match (reason, lived) {
            ("closed", Some(lived)) => {
                let (sent, acknowledged) = flight.traffic();
                if flight.is_on_trial() && acknowledged > 0 {
                    return plain(reason, text); // The suspect that was alone on the line explains it.
                }
                let Some(cause) = self.diagnosis.closed(Closed { lived, sent, acknowledged }) else {
                    return plain(reason, text);
                };
                let text = cause.explain(&target.identity(), target.server().0);
                Ended { reason: cause.label(), text, again_and_again: true }
            }
            ("refused", _) => {
                self.diagnosis.clear();
                if let Some(text) = target.token_expired(Timestamp::now()) {
                    return plain("token_expired", text);
                }
                match self.clocks(options).compare(target).await {
                    Some(skew) if skew.is_wrong() => plain("clock", format!("{}. {text}", clock::explain(skew))),
                    Some(skew) => {
                        let text = text.replace(CLOCK, "");
                        plain(reason, format!("{text}. Checked: {}", clock::explain(skew)))
                    }
                    None => plain(reason, text),
                }
            }
            _ => {
                self.diagnosis.clear();
                plain(reason, text)
            }
        }
    }
}

/// Tells the end of a connection: counter, gauge, log and status.
fn tell(ended: Ended, (pause, options): (Duration, &Options), metrics: &Metrics, status: &watch::Sender<Status>) {
    let Ended { reason, text, again_and_again } = ended;
    metrics.uplink_reconnect(reason);
    metrics.uplink_state(reason);
    let known = {
        let status = status.borrow();
        [&status.trouble, &status.warning].into_iter().any(|known| known.as_deref() == Some(text.as_str()))
    };
    if options.crowd.is_some() {
        let device = options.target.identity();
        let told = if known { brief(&text) } else { &text };
        let log = |left_out| {
            tracing::warn!(device, reason, left_out, "uplink: {told}; trying again in {pause:.1?}");
        };
        match reason {
            // A matter of this one; each is to be named.
            "refused" | "token_expired" | "taken_over" => metrics.log_pace_of(reason, &device, log),
            // A hub that restarts ends a thousand of them at once.
            _ => metrics.log_pace(&format!("uplink {reason}"), log),
        }
    } else if known {
        tracing::debug!(reason, "uplink: {text}; trying again in {pause:.1?}");
    } else {
        tracing::warn!(reason, "uplink: {text}; trying again in {pause:.1?}");
    }
    status.send_modify(|status| {
        status.warning = again_and_again.then(|| text.clone());
        status.trouble = Some(text);
        status.reason = Some(reason);
        status.failures += 1;
    });
}

/// After the other side closed the line: isolates the message that makes it do so. True if one was found.
async fn look_for_poison<O: Outcome>(flight: &mut Flight, outcome: &O, metrics: &Metrics) -> bool {
    let (verdict, convicted) = flight.closed();
    if let Verdict::Suspected(count) = verdict {
        tracing::warn!(
            "uplink: the line was closed again and again with the same messages in flight; {count} of them are sent \
             alone now, to see whether one of them is the cause"
        );
    }
    let Some(poison) = convicted else { return false };
    let detail = "the hub acknowledged another message and closed the connection at this one, alone on the line, twice";
    let isolation = Isolation { reason: "poison", detail: detail.to_owned() };
    isolate(outcome, metrics, &poison, &isolation).await;
    true
}

/// Puts a message that is not to be sent where it can be looked at.
async fn isolate<O: Outcome>(outcome: &O, metrics: &Metrics, waiting: &Waiting, isolation: &Isolation) {
    metrics.log_pace(&format!("isolated {}", isolation.reason), |left_out| {
        let device = HubMessage::parse(&waiting.record).map_or_else(|_| "", |message| message.device);
        tracing::error!(
            id = %waiting.id,
            device = excerpt(device),
            reason = isolation.reason,
            detail = excerpt(&isolation.detail),
            left_out,
            "a message that the hub would not take goes to the quarantine"
        );
    });
    outcome.isolate(waiting, isolation).await;
}

#[cfg(test)]
mod tests;
