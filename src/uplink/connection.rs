//! One connection from CONNECT to its end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::flight::Flight;
use super::pacing::Pacing;
use super::transport::{Transport, Up};
use super::window::{Latency, Window};
use super::wire::{Broken, Dial, Event, Sender, Wire};
use super::{Backlog, Expiry, Isolation, Lane, Options, Outcome, Status, TOO_OLD, Waiting, now};
use crate::message::{HubMessage, Timestamp};
use crate::metrics::Metrics;

mod trial;

/// From this part of the time until a token is to be renewed on, a quiet moment is taken.
const QUIET_FROM: f64 = 0.94;

/// How long a planned end waits for the acknowledgements it is owed.
const LAST_ACKS: Duration = Duration::from_secs(5);

/// Bytes in flight, so that a large window of large messages does not take the memory.
const FLIGHT_BYTES: usize = 8 << 20;

/// How a connection ended.
pub(super) enum End {
    /// The program ends.
    Stopped,
    /// The backlog is closed.
    NoMore,
    /// The token is due, or there is something else to subscribe to: the counter's label.
    Renew(&'static str),
    /// Anything else.
    Failed { reason: &'static str, text: String },
}

impl End {
    fn not_taken(error: &str) -> Self {
        Self::Failed { reason: "protocol", text: format!("a message was not taken: {error}") }
    }
}

/// Why a message is not sent.
enum Refusal {
    TooOld,
    Isolate(Isolation),
}

/// What the feeder and the driver of one connection share.
struct Line<'a, O> {
    outcome: &'a O,
    flight: Mutex<&'a mut Flight>,
    window: Mutex<&'a mut Window>,
    pace: Mutex<Pacing>,
    /// Tells every acknowledgement to all who wait: the window may have room, the flight may be empty.
    room: Notify,
    /// Set when nothing more is to be handed over.
    closing: CancellationToken,
    connected: CancellationToken,
    /// For the other lines: that this one is connected.
    up: Mutex<Option<Up>>,
    /// Set when the event loop has sent DISCONNECT, or failed while closing.
    gone: CancellationToken,
    options: &'a Options,
    metrics: &'a Metrics,
    status: &'a watch::Sender<Status>,
}

pub(super) async fn serve<D: Dial, B: Backlog, O: Outcome>(
    (dial, options): (&D, &Options),
    (backlog, outcome): (&mut B, &O),
    (flight, window): (&mut Flight, &mut Window),
    metrics: &Metrics,
    (status, stop): (&watch::Sender<Status>, &CancellationToken),
) -> End {
    flight.restart();
    window.restart();
    let login = options.target.login(Timestamp::now());
    let mut wire = match dial.dial(options, &login).await {
        Ok(wire) => wire,
        Err(error) => return End::Failed { reason: "network", text: format!("cannot open a socket: {error}") },
    };
    let expiry = Expiry {
        minted: login.expiry.map(|(expiry, _)| expiry),
        given: options.target.given_token_expiry(),
        certificate: options.target.certificate_expiry(),
    };
    expiry.token().into_iter().for_each(|expiry| metrics.sas_expires(expiry));
    expiry.certificate.into_iter().for_each(|expiry| metrics.certificate_expires(expiry));
    status.send_modify(|status| status.expiry = expiry);
    let line = Line {
        outcome,
        flight: Mutex::new(flight),
        window: Mutex::new(window),
        pace: Mutex::new(Pacing::new(options.hub_rate.clone())),
        room: Notify::new(),
        closing: CancellationToken::new(),
        connected: CancellationToken::new(),
        up: Mutex::default(),
        gone: CancellationToken::new(),
        options,
        metrics,
        status,
    };
    let sender = wire.sender();
    let renew_in = login.expiry.map(|(_, renew_in)| renew_in);
    // The driver's future lives to the end of the connection: see the module documentation.
    tokio::select! {
        biased;
        end = line.drive(&mut wire) => end,
        end = line.feed(&sender, backlog) => end,
        end = line.close_in_time(&sender, renew_in, stop) => end,
        end = line.watch_silence() => end,
    }
}

impl<O: Outcome> Line<'_, O> {
    /// Turns what happens on the line into acknowledgements.
    async fn drive(&self, wire: &mut impl Wire) -> End {
        loop {
            match wire.event(&self.options.target).await {
                Ok(Event::Sent(packet_id)) => self.flight.lock().name(packet_id),
                Ok(Event::Connected) => self.on_connected(),
                Ok(Event::Acknowledged(packet_id)) => self.on_puback(packet_id),
                Ok(Event::Left) => {
                    self.gone.cancel();
                    return std::future::pending().await;
                }
                Ok(Event::Other) => {}
                Err(_) if self.closing.is_cancelled() => {
                    self.gone.cancel();
                    return std::future::pending().await;
                }
                Err(Broken { reason, text }) => return End::Failed { reason, text },
            }
        }
    }

    fn on_connected(&self) {
        self.metrics.uplink_connected.set(1.0);
        match self.options.crowd {
            None => tracing::info!("uplink: connected to {}", self.options.target.server().0),
            Some(_) => tracing::debug!("uplink: connected to {}", self.options.target.server().0),
        }
        let warned = self.status.borrow().warning.is_some();
        if !warned {
            self.metrics.uplink_state(super::UP);
        }
        self.status.send_modify(|status| {
            status.connected = Some(now());
            status.renewing = false;
            status.trouble = None;
        });
        *self.up.lock() = self.options.target.transport().and_then(Transport::connected);
        self.connected.cancel();
    }

    fn on_puback(&self, packet_id: u16) {
        let Some(acknowledged) = self.flight.lock().acknowledge(packet_id) else {
            self.room.notify_waiters();
            return;
        };
        self.learn(now(), acknowledged.handed);
        let wall = Timestamp::now();
        if self.outcome.delivered(acknowledged.id) {
            self.metrics.messages_delivered.increment(1);
        }
        #[expect(clippy::cast_precision_loss)]
        {
            self.metrics.delivery_seconds.record((wall.0 - acknowledged.created.0).max(0) as f64 / 1000.0);
            self.metrics.uplink_last_puback.set(wall.0 as f64 / 1000.0);
        }
        self.status.send_if_modified(|status| {
            status.last_puback = Some(now());
            false
        });
        self.room.notify_waiters();
    }

    /// What a PUBACK tells about the line and the hub.
    fn learn(&self, now: Instant, handed: Option<Instant>) {
        let Some(handed) = handed else { return };
        let mut window = self.window.lock();
        let before = window.limit();
        window.acknowledged(now, now.saturating_duration_since(handed));
        if window.limit() != before {
            self.tell_window(window.limit());
        }
        if let Latency { best: Some(best), recent } = window.latency() {
            self.paced(|pace| pace.latency(now, recent, best));
        }
    }

    /// Where the hub is to be spared; else nothing is locked.
    fn paced<T>(&self, with: impl FnOnce(&mut Pacing) -> T) -> Option<T> {
        self.options.hub_rate.get().map(|_| with(&mut self.pace.lock()))
    }

    fn tell_window(&self, limit: usize) {
        self.metrics.uplink_window.set(f64::from(u32::try_from(limit).unwrap_or(u32::MAX)));
    }

    /// What waits for more than about a second of sending becomes late.
    fn split<B: Backlog>(&self, backlog: &mut B) {
        if !self.options.live_first {
            return;
        }
        let second = self.window.lock().second();
        let second = self.options.hub_rate.get().map_or(second, |rate| second.min(u64::from(rate)));
        if backlog.split(second) {
            tracing::info!("uplink: what waited follows in its own lane; what comes now goes first");
        }
    }

    /// Hands messages to the event loop in order, as far as the window allows.
    async fn feed<B: Backlog>(&self, sender: &impl Sender, backlog: &mut B) -> End {
        self.connected.cancelled().await;
        if let Err(end) = self.send_suspects_alone(sender, backlog).await {
            return end;
        }
        self.tell_window(self.window.lock().limit());
        self.split(backlog);
        loop {
            let left_over = self.flight.lock().left_over().cloned();
            let waiting = match left_over {
                Some(waiting) => waiting,
                None => {
                    self.window_open().await;
                    let Some(waiting) = self.next(backlog).await else { return End::NoMore };
                    waiting
                }
            };
            if let Err(end) = self.hand_over(sender, waiting).await {
                return end;
            }
        }
    }

    /// The next message to send; a late one when its time has come.
    async fn next<B: Backlog>(&self, backlog: &mut B) -> Option<Waiting> {
        loop {
            let pause = self.paced(|pace| pace.wait(now())).unwrap_or_default();
            let down_to = if pause.is_zero() { Lane::Late } else { Lane::Live };
            if let Some(next) = backlog.next(down_to).now_or_never() {
                return next;
            }
            self.window.lock().idle();
            let late = async {
                match pause.is_zero() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                biased;
                next = backlog.next(down_to) => return next,
                () = late => {}
            }
        }
    }

    async fn hand_over(&self, sender: &impl Sender, waiting: Waiting) -> Result<(), End> {
        let late = waiting.lane == Lane::Late;
        let ready = self.ready_to_send(&waiting);
        let created = ready.as_ref().map_or(Timestamp(0), |(_, _, created)| *created);
        {
            let mut flight = self.flight.lock();
            let is_new = flight.left_over().is_none();
            if is_new {
                flight.add(waiting.clone(), created);
            }
        }
        // Only now: the backlog gives a message once, so the next connection must find this one in the flight.
        if self.closing.is_cancelled() {
            return std::future::pending().await;
        }
        let (topic, body, _) = match ready {
            Ok(ready) => ready,
            Err(refusal) => {
                match refusal {
                    Refusal::TooOld => self.outcome.abandon(waiting.id, TOO_OLD),
                    Refusal::Isolate(why) => super::isolate(self.outcome, self.metrics, &waiting, &why).await,
                }
                self.flight.lock().give_up(waiting.id);
                self.room.notify_waiters();
                return Ok(());
            }
        };
        self.flight.lock().hand();
        self.paced(|pace| pace.sent(now(), late));
        self.metrics.uplink_publishes.increment(1);
        sender.publish(topic, body).await.map_err(|error| End::not_taken(&error))
    }

    /// Topic, body and time of a message; or why it is not to be sent.
    fn ready_to_send(&self, waiting: &Waiting) -> Result<(String, Bytes, Timestamp), Refusal> {
        let Waiting { id, lane, record } = waiting;
        let isolate = |reason, detail| Err(Refusal::Isolate(Isolation { reason, detail }));
        let Ok(message) = HubMessage::parse(record) else {
            return isolate("unreadable", "the stored message cannot be read".to_owned());
        };
        if self.is_too_old(message.created) {
            return Err(Refusal::TooOld);
        }
        let replayed = self.options.mark_late && *lane == Lane::Late;
        let topic = self.options.target.topic(&message, *id, replayed);
        if crate::topic::check_name(&topic).is_err() {
            return isolate("invalid_topic", format!("{topic:?} is no topic to publish to"));
        }
        if let Some(detail) = self.options.target.too_large(&message, (*id, &topic, replayed)) {
            return isolate("too_large", detail);
        }
        Ok((topic, record.slice_ref(message.body), message.created))
    }

    fn is_too_old(&self, created: Timestamp) -> bool {
        let age = u128::try_from(Timestamp::now().0.saturating_sub(created.0)).unwrap_or(0);
        self.options.max_age.is_some_and(|max_age| age > max_age.as_millis())
    }

    async fn window_open(&self) {
        loop {
            let room = self.room.notified();
            let (span, bytes) = {
                let flight = self.flight.lock();
                (flight.span(), flight.bytes())
            };
            if span < self.window.lock().limit() && bytes < FLIGHT_BYTES {
                return;
            }
            room.await;
        }
    }

    /// Returns when nothing that was handed over waits for its acknowledgement.
    async fn all_acknowledged(&self) {
        loop {
            let room = self.room.notified();
            if !self.flight.lock().is_waiting() {
                return;
            }
            room.await;
        }
    }

    /// Returns when the token is to be renewed: in the first moment of the last part of its time in which nothing waits for
    /// its acknowledgement, and at the end of that time at the latest.
    async fn token_is_due(&self, renew_in: Option<Duration>) {
        let Some(renew_in) = renew_in else { return std::future::pending().await };
        let busy = renew_in.mul_f64(QUIET_FROM);
        tokio::time::sleep(busy).await;
        let _ = tokio::time::timeout(renew_in.saturating_sub(busy), self.all_acknowledged()).await;
    }

    /// Ends the connection on purpose, for a new token or with the program: hands over nothing more, waits for
    /// the acknowledgements, says DISCONNECT.
    async fn close_in_time(&self, sender: &impl Sender, renew_in: Option<Duration>, stop: &CancellationToken) -> End {
        let other_subscriptions = async {
            match &self.options.down {
                Some(down) => down.changed().await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            biased;
            () = stop.cancelled() => End::Stopped,
            () = self.token_is_due(renew_in) => End::Renew("token_renewal"),
            () = other_subscriptions => End::Renew("subscriptions"),
            () = self.options.renew.notified() => End::Renew("token_renewal"),
        };
        self.closing.cancel();
        if !self.connected.is_cancelled() {
            return end; // Nothing was handed over, and nobody is there to take leave of.
        }
        let last = async {
            self.all_acknowledged().await;
            sender.disconnect().await;
            self.gone.cancelled().await;
        };
        tokio::select! {
            biased;
            _ = tokio::time::timeout(LAST_ACKS, last) => {}
            () = self.gone.cancelled() => {}
        }
        end
    }

    /// A connection that lasts takes back what was said of those before it.
    fn lasts(&self) {
        let lasted =
            self.status.borrow().connected.is_some_and(|at| now().duration_since(at) > super::diagnosis::SHORT);
        if lasted && self.status.borrow().warning.is_some() {
            self.metrics.uplink_state(super::UP);
            self.status.send_modify(|status| status.warning = None);
        }
    }

    /// Gives the connection up when the hub takes messages and acknowledges none.
    async fn watch_silence(&self) -> End {
        let patience = self.options.ack_timeout;
        let mut tick = tokio::time::interval(patience / 4);
        loop {
            tick.tick().await;
            self.lasts();
            let silent = self.flight.lock().oldest_handed().map(|handed| now().duration_since(handed));
            if silent.is_some_and(|silent| silent > patience) && !self.closing.is_cancelled() {
                let host = self.options.target.server().0;
                let text = format!("{host} has not acknowledged a message for {} s", patience.as_secs());
                return End::Failed { reason: "ack_timeout", text };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::sync::mpsc;

    use super::super::MessageId;
    use super::super::tests::{options, waiting};
    use super::*;

    struct Nobody;

    impl Outcome for Nobody {
        fn delivered(&self, _: MessageId) -> bool {
            true
        }

        fn abandon(&self, _: MessageId, _: &'static str) {}

        async fn isolate(&self, _: &Waiting, _: &Isolation) {}
    }

    fn line<'a>(
        (flight, window): (&'a mut Flight, &'a mut Window),
        options: &'a Options,
        (metrics, status): (&'a Metrics, &'a watch::Sender<Status>),
    ) -> Line<'a, Nobody> {
        Line {
            outcome: &Nobody,
            flight: Mutex::new(flight),
            window: Mutex::new(window),
            pace: Mutex::new(Pacing::new(options.hub_rate.clone())),
            room: Notify::new(),
            closing: CancellationToken::new(),
            connected: CancellationToken::new(),
            up: Mutex::default(),
            gone: CancellationToken::new(),
            options,
            metrics,
            status,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_in_a_quiet_moment_or_at_last() {
        let options = options(1, 4);
        let told = (Metrics::register(), watch::Sender::default());
        let second = Duration::from_secs;
        // When the only message is acknowledged, and when the token is renewed.
        for (acknowledged, expect) in [(0, 940), (100, 940), (960, 960), (5_000, 1_000)] {
            let (mut flight, mut window) = (Flight::default(), Window::new(options.window));
            flight.add(waiting(1), Timestamp(0));
            flight.hand();
            flight.name(1);
            let line = line((&mut flight, &mut window), &options, (&told.0, &told.1));
            let began = tokio::time::Instant::now();
            let acknowledging = async {
                tokio::time::sleep(second(acknowledged)).await;
                line.flight.lock().acknowledge(1);
                line.room.notify_waiters();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = line.token_is_due(Some(second(1_000))) => {}
                () = acknowledging => {}
            }
            assert_eq!(began.elapsed().as_secs(), expect, "acknowledged after {acknowledged} s");
        }
    }

    #[tokio::test]
    async fn what_comes_while_the_connection_closes_is_kept_for_the_next_one() {
        let options = options(1, 4);
        let (metrics, status) = (Metrics::register(), watch::Sender::default());
        let (mut flight, mut window) = (Flight::default(), Window::new(options.window));
        let line = line((&mut flight, &mut window), &options, (&metrics, &status));
        let (client, _events) = rumqttc::AsyncClient::new(rumqttc::MqttOptions::new("c", "localhost", 1), 4);
        let (sender, mut backlog) = mpsc::channel(1);
        line.connected.cancel();
        {
            let mut feed = pin!(line.feed(&client, &mut backlog));
            let mut context = Context::from_waker(Waker::noop());
            assert!(feed.as_mut().poll(&mut context).is_pending(), "nothing waits");
            line.closing.cancel();
            sender.try_send(waiting(7)).unwrap();
            assert!(feed.as_mut().poll(&mut context).is_pending());
        }
        assert!(backlog.try_recv().is_err(), "it was taken");
        assert!(!flight.is_waiting(), "the closing connection did not get it");
        flight.restart();
        assert_eq!(flight.left_over().map(|waiting| waiting.id.sequence), Some(7));
    }
}
