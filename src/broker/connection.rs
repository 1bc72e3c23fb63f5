//! The traffic of one connected client: one task, one loop, no step that blocks another.
//!
//! Each turn decodes what has been read, releases the acknowledgements that became due, and then waits
//! for whatever comes first: bytes to read or room to write, a commit of the spool, room in the spool, a
//! message for this subscriber, the keep-alive, a take-over, the end of the broker.

use std::future::{Future, poll_fn};
use std::io;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use rmqtt_codec::types::{Publish, QoS};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::acknowledge::{Acknowledgements, Kind};
use super::alias::{self, Sent};
use super::census::Presence;
use super::clients::Place;
use super::gate::Badge;
use super::handshake::{Connected, receive_maximum};
use super::retained::Feed;
use super::session::Put;
use super::wire::{Close, Incoming, Outgoing, Wire};
use super::{Commits as _, Ingest, Offer, Sequences, Shared};
use crate::message::{self, Timestamp};
use crate::topic;

mod subscriptions;

/// Output waiting for the socket above which no packet that makes more of it is taken up.
const OUTPUT_HIGH: usize = 64 * 1024;
/// Smallest and largest read; the size follows what the client sends.
const READ_MIN: usize = 2 * 1024;
const READ_MAX: usize = 64 * 1024;
/// Messages, or KiB of them, for local subscribers after which these get their turn: a small part of a subscriber's
/// queue, which a socket that never runs dry would fill many times before the runtime lets anybody else run.
const TURN: usize = 64;
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why no further packet of this client is taken up.
enum Blocked {
    No,
    /// The ingest has no room for this publish.
    Full(Box<Publish>),
    /// A part of this publish is being written; then it is owed as (packet id, QoS, what else it waits for).
    Writing(Pin<Box<dyn Future<Output = ()> + Send>>, Option<NonZeroU16>, QoS, Sequences),
}

pub(super) struct Connection<'s, S, I: Ingest> {
    shared: &'s Shared<I>,
    stream: S,
    wire: Wire,
    client_id: ByteString,
    place: Place<'s>,
    /// Retained messages of new subscriptions.
    feed: Feed,
    presence: Arc<Presence>,
    aliases: (alias::Inward, alias::Outward),
    scratch: I::Scratch,
    commits: I::Commits,
    owed: Acknowledgements,
    badge: Badge,
    /// A Mosquitto bridge, which wants to hear the retain flag and not itself.
    is_bridge: bool,
    blocked: Blocked,
    /// What was handed to local subscribers in this turn, in the measure of [`TURN`].
    handed_on: usize,
    input: BytesMut,
    output: BytesMut,
    /// A TLS or WebSocket stream may still hold written bytes.
    unflushed: bool,
    read_size: usize,
    keep_alive: Duration,
    /// When the bytes now being decoded were read.
    read_at: Instant,
    received: Timestamp,
    stopping: bool,
}

enum Event {
    Transferred,
    Due,
    Room,
    Written,
    Silent,
    Stop,
    End(Close),
}

impl<'s, S, I> Connection<'s, S, I>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Ingest,
{
    pub(super) fn new(
        stream: S,
        input: BytesMut,
        mut connected: Connected,
        (place, present, presence): (Place<'s>, bool, Arc<Presence>),
        shared: &'s Shared<I>,
    ) -> Self {
        let mut output = BytesMut::new();
        connected.accept(&shared.options, present, &mut output);
        Self {
            stream,
            client_id: ByteString::from(&*connected.client_id),
            place,
            feed: Feed::default(),
            presence,
            scratch: shared.ingest.scratch(),
            commits: shared.ingest.commits(),
            owed: Acknowledgements::default(),
            badge: std::mem::take(&mut connected.badge),
            is_bridge: connected.is_bridge,
            blocked: Blocked::No,
            handed_on: 0,
            input,
            output,
            unflushed: false,
            read_size: READ_MIN,
            keep_alive: connected.keep_alive + connected.keep_alive / 2,
            aliases: (alias::Inward::default(), alias::Outward::new(connected.topic_alias_max)),
            wire: Wire::new(connected.codec, connected.max_packet_size),
            read_at: Instant::now(),
            received: Timestamp::now(),
            stopping: false,
            shared,
        }
    }

    /// Serves the client to its end, and gives place and badge back. `ends` is called before the client is told.
    pub(super) async fn run(mut self, ends: impl FnOnce(Close)) -> (Close, Place<'s>, Badge) {
        let close = self.serve().await;
        ends(close);
        self.wire.farewell(close, &mut self.output);
        let _ = tokio::time::timeout(FAREWELL, async {
            self.stream.write_all(&self.output).await?;
            self.stream.shutdown().await
        })
        .await;
        self.put_back();
        (close, self.place, self.badge)
    }

    /// Leaves in the session what the next connection is to find there.
    fn put_back(&mut self) {
        self.place.session.forget_untaken();
        if self.place.session.expiry() > 0 {
            while let Some(delivery) = self.feed.next(&self.shared.router) {
                if delivery.qos != QoS::AtMostOnce && self.place.session.put(delivery) != Put::Queued {
                    self.shared.metrics.local_deliveries_dropped.increment(1);
                }
            }
        }
    }

    async fn serve(&mut self) -> Close {
        self.judge_again();
        let mut alarm = Box::pin(tokio::time::sleep(self.first_alarm()));
        loop {
            let wants_input = match self.take_up() {
                Ok(wants_input) => wants_input,
                Err(close) => return close,
            };
            self.release();
            if self.badge.has_changed() {
                self.judge_again();
            }
            // Here and not only below, where a socket that never runs dry comes first.
            while self.output.len() < OUTPUT_HIGH
                && !self.stopping
                && let Some(packet) = self.place.session.next(|| self.feed.next(&self.shared.router))
            {
                self.deliver(packet);
            }
            if self.handed_on >= TURN {
                self.handed_on = 0;
                tokio::task::yield_now().await;
                continue;
            }
            let writing = matches!(self.blocked, Blocked::Writing(..));
            if self.stopping && !writing && self.owed.len() == 0 && self.output.is_empty() {
                return Close::ShuttingDown;
            }
            match self.next_event(wants_input, &mut alarm).await {
                Event::Transferred | Event::Due => {}
                Event::Room => self.offer_again(),
                Event::Written => self.written(),
                Event::Silent if wants_input && self.read_at.elapsed() >= self.keep_alive => return Close::KeepAlive,
                Event::Silent => {
                    // Silence while we do not read is ours, not the client's.
                    let heard = if wants_input { self.read_at } else { Instant::now() };
                    alarm.as_mut().reset(heard + self.keep_alive);
                }
                Event::Stop => self.stopping = true,
                Event::End(close) => return close,
            }
        }
    }

    /// Decodes and handles what has been read, until input runs out (`true`) or something must come first.
    fn take_up(&mut self) -> Result<bool, Close> {
        loop {
            // MQTT 5 has the receive maximum for this, and more is an error instead of a pause.
            let may_owe = self.wire.is_v5() || self.owed.len() < self.shared.options.max_unacknowledged;
            let room = matches!(self.blocked, Blocked::No)
                && may_owe
                && self.output.len() < OUTPUT_HIGH
                && self.handed_on < TURN
                && self.badge.rests_until().is_none()
                && !self.stopping;
            if !room {
                return Ok(false);
            }
            match self.wire.decode(&mut self.input)? {
                Some(packet) => self.on_packet(packet)?,
                None => return Ok(true),
            }
        }
    }

    async fn next_event(&mut self, wants_input: bool, alarm: &mut Pin<Box<tokio::time::Sleep>>) -> Event {
        let due = self.owed.waits_for();
        let read_size = if wants_input { self.read_size } else { 0 };
        let (full, writing) = match &mut self.blocked {
            Blocked::No => (false, None),
            Blocked::Full(_) => (true, None),
            Blocked::Writing(written, ..) => (false, Some(written)),
        };
        let is_writing = writing.is_some();
        let rests = self.badge.rests_until();
        let output = (&mut self.output, &mut self.unflushed);
        let transfer = transfer(&mut self.stream, &mut self.input, output, read_size);
        tokio::select! {
            biased;
            () = self.place.kick.cancelled() => Event::End(Close::TakenOver),
            () = self.shared.stop.cancelled(), if !self.stopping => Event::Stop,
            transferred = transfer => match transferred {
                Ok(0) => Event::Transferred,
                Ok(read) => {
                    self.read_at = Instant::now();
                    self.received = Timestamp::now();
                    self.read_size = match read {
                        read if read >= self.read_size => (self.read_size * 2).min(READ_MAX),
                        read if read < self.read_size / 4 => (self.read_size / 2).max(READ_MIN),
                        _ => self.read_size,
                    };
                    Event::Transferred
                }
                Err(_) => Event::End(Close::Lost),
            },
            () = self.commits.reach(due.unwrap_or_default()), if due.is_some() => Event::Due,
            () = self.shared.ingest.room(&self.scratch), if full => Event::Room,
            () = tokio::time::sleep_until(rests.unwrap_or(self.read_at)), if rests.is_some() => Event::Due,
            () = async { if let Some(written) = writing { written.await } }, if is_writing => Event::Written,
            () = self.place.session.wake.notified(), if !self.stopping => Event::Due,
            () = alarm.as_mut(), if !self.keep_alive.is_zero() => Event::Silent,
        }
    }

    fn first_alarm(&self) -> Duration {
        // With keep-alive 0 the alarm is never asked ([MQTT-3.1.2-24] does not apply).
        if self.keep_alive.is_zero() { Duration::from_secs(3600) } else { self.keep_alive }
    }

    /// The one way out for PUBACK and PUBREC: what the spool has made durable.
    fn release(&mut self) {
        if self.owed.len() == 0 {
            return;
        }
        let mut now = None;
        while let Some((packet, read)) = self.owed.release(|waits_for| self.commits.cover(waits_for)) {
            let now = *now.get_or_insert_with(Instant::now);
            self.shared.metrics.ack_seconds.record(now.duration_since(read).as_secs_f64());
            if let Outgoing::PubRec(packet_id) = packet {
                self.place.session.acknowledged(packet_id);
            }
            self.send(packet);
        }
    }

    fn send(&mut self, packet: Outgoing) {
        let is_publish = matches!(packet, Outgoing::Publish(_));
        // Only a publish can be too large for the client, and those go out in `deliver`.
        if self.wire.encode(packet, &mut self.output).is_ok() {
            self.presence.sent(is_publish);
        }
    }

    fn deliver(&mut self, packet: Outgoing) {
        let Outgoing::Publish(mut publish) = packet else { return self.send(packet) };
        let (packet_id, topic) = (publish.packet_id, publish.topic.clone());
        let sent = self.aliases.1.pick(&topic);
        if let Sent::NameAnd(alias) | Sent::Alias(alias) = sent {
            publish.properties.get_or_insert_default().topic_alias = Some(alias);
        }
        if let Sent::Alias(_) = sent {
            publish.topic = ByteString::new();
        }
        if self.wire.encode(Outgoing::Publish(publish), &mut self.output).is_ok() {
            self.presence.sent(true);
        } else {
            if let Sent::NameAnd(_) = sent {
                self.aliases.1.forget(&topic);
            }
            if let Some(packet_id) = packet_id {
                self.place.session.forget(packet_id);
            }
            self.shared.metrics.deliveries_dropped("too_large", 1);
        }
    }

    fn on_packet(&mut self, packet: Incoming) -> Result<(), Close> {
        self.presence.received(matches!(packet, Incoming::Publish(_)));
        match packet {
            Incoming::Publish(publish) => self.on_publish(publish)?,
            Incoming::PubRel(packet_id) => {
                let known = self.place.session.release(packet_id);
                self.send(Outgoing::PubComp { packet_id, known });
            }
            Incoming::PubAck(packet_id) => self.place.session.on_puback(packet_id),
            Incoming::PubRec(packet_id) => {
                self.place.session.on_pubrec(packet_id);
                self.send(Outgoing::PubRel(packet_id));
            }
            Incoming::PubComp(packet_id) => self.place.session.on_pubcomp(packet_id),
            Incoming::Subscribe(subscribe) => self.on_subscribe(subscribe)?,
            Incoming::Unsubscribe { packet_id, filters } => {
                let status = filters.iter().map(|filter| self.unsubscribe(filter)).collect();
                self.send(Outgoing::UnsubAck { packet_id, status });
            }
            Incoming::PingReq => self.send(Outgoing::PingResp),
            Incoming::Disconnect { publish_will, expiry } => return Err(self.on_disconnect(publish_will, expiry)),
        }
        Ok(())
    }

    fn on_disconnect(&mut self, publish_will: bool, expiry: Option<u32>) -> Close {
        if let Some(expiry) = expiry {
            if expiry > 0 && self.place.session.expiry() == 0 {
                return Close::Protocol; // [MQTT-3.1.2-23] ends what was not asked for at CONNECT.
            }
            self.place.session.set_expiry(expiry.min(self.shared.options.max_session_expiry));
        }
        if publish_will { Close::DisconnectedWithWill } else { Close::Disconnected }
    }

    fn on_publish(&mut self, mut publish: Box<Publish>) -> Result<(), Close> {
        if let Some(properties) = &mut publish.properties {
            if let Some(alias) = properties.topic_alias.take() {
                self.aliases.0.resolve(alias, &mut publish.topic)?;
            }
            let bad_response = properties.response_topic.as_deref().is_some_and(|t| topic::check_name(t).is_err());
            if bad_response || !properties.subscription_ids.is_empty() {
                return Err(Close::Protocol); // [MQTT-3.3.2-14], [MQTT-3.3.4-6]
            }
        }
        if topic::check_name(&publish.topic).is_err() {
            return Err(Close::TopicName); // [MQTT-3.3.2-2]
        }
        if !self.badge.count_publish() {
            return Err(Close::MessageRate);
        }
        if let Some(packet_id) = publish.packet_id {
            if publish.qos == QoS::ExactlyOnce
                && let Some(waits_for) = self.place.session.receive(packet_id)
            {
                // Sent again before PUBREL: the first one counts, its acknowledgement goes first ([MQTT-4.3.3-10]).
                self.owed.owe(packet_id, Kind::PubRec, waits_for, self.read_at);
                return Ok(());
            }
            let before = if self.wire.is_v5() { self.owed.pubacks() + self.place.session.unreleased() } else { 0 };
            let open = before + usize::from(publish.qos == QoS::AtLeastOnce);
            if self.wire.is_v5() && open > usize::from(receive_maximum(&self.shared.options).get()) {
                return Err(Close::ReceiveMaximum);
            }
        }
        if !self.badge.may_publish(&publish.topic) {
            self.refuse(&publish);
            return Ok(());
        }
        if self.shared.router.route(Some(&self.place.session), &publish).offered {
            self.handed_on += 1 + publish.payload.len() / 1024;
        }
        self.offer(publish);
        Ok(())
    }

    /// Answers a publish the client may not make. MQTT 3.1.1 has no word for that: it is acknowledged and dropped.
    fn refuse(&mut self, publish: &Publish) {
        self.shared.metrics.publishes_received.increment(1);
        self.shared.metrics.dropped("not_authorized");
        self.shared.metrics.log_pace("publish not authorized", |left_out| {
            let (client, topic) = (message::excerpt(&self.client_id), message::excerpt(&publish.topic));
            tracing::warn!(client, topic, left_out, "a publish was refused: the client may not publish to this topic");
        });
        if let Some(packet_id) = publish.packet_id {
            let kind = if publish.qos == QoS::ExactlyOnce { Kind::PubRec } else { Kind::PubAck };
            self.owed.refuse(packet_id, kind, self.read_at);
            if kind == Kind::PubRec && self.wire.is_v5() {
                self.place.session.release(packet_id); // A refused exchange ends with its PUBREC.
            } else if kind == Kind::PubRec {
                self.place.session.received(packet_id, Sequences::NONE); // Sent again, it is answered again, at once.
            }
        }
    }

    fn offer(&mut self, publish: Box<Publish>) {
        let offered = message::Publish {
            topic: &publish.topic,
            payload: &publish.payload,
            client: &self.client_id,
            user: self.badge.user(),
            qos: publish.qos.value(),
            retain: publish.retain,
            received: self.received,
        };
        let answer = self.shared.ingest.offer(&mut self.scratch, &offered);
        if !matches!(answer, Offer::Full) {
            self.shared.metrics.publishes_received.increment(1);
        }
        self.blocked = match answer {
            Offer::Taken(waits_for) => {
                self.owe(publish.packet_id, publish.qos, waits_for);
                Blocked::No
            }
            Offer::TakenAfter(written, rest) => Blocked::Writing(written, publish.packet_id, publish.qos, rest),
            Offer::Full => Blocked::Full(publish),
        };
    }

    fn offer_again(&mut self) {
        if let Blocked::Full(publish) = std::mem::replace(&mut self.blocked, Blocked::No) {
            self.offer(publish);
        }
    }

    fn written(&mut self) {
        if let Blocked::Writing(_, packet_id, qos, rest) = std::mem::replace(&mut self.blocked, Blocked::No) {
            self.owe(packet_id, qos, rest);
        }
    }

    fn owe(&mut self, packet_id: Option<NonZeroU16>, qos: QoS, waits_for: Sequences) {
        if let Some(packet_id) = packet_id {
            let kind = if qos == QoS::ExactlyOnce { Kind::PubRec } else { Kind::PubAck };
            if kind == Kind::PubRec {
                self.place.session.received(packet_id, waits_for);
            }
            self.owed.owe(packet_id, kind, waits_for, self.read_at);
        }
    }
}

/// Writes what waits and reads up to `read_size` bytes; returns how many were read once either moved.
async fn transfer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    (output, unflushed): (&mut BytesMut, &mut bool),
    read_size: usize,
) -> io::Result<usize> {
    poll_fn(|cx| {
        let wrote = poll_write_all(stream, output, unflushed, cx)?;
        if read_size > 0 {
            input.reserve(read_size);
            if let Poll::Ready(read) = poll_read_buf(Pin::new(stream), cx, input)? {
                return match read {
                    0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    read => Poll::Ready(Ok(read)),
                };
            }
        }
        if wrote { Poll::Ready(Ok(0)) } else { Poll::Pending }
    })
    .await
}

/// Writes until the socket takes no more; says whether it took anything.
fn poll_write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    output: &mut BytesMut,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<bool> {
    let mut wrote = false;
    while !output.is_empty() {
        match poll_write_buf(Pin::new(stream), cx, output) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(_)) => wrote = true,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    // A TLS or WebSocket stream buffers: without this its last bytes would wait for the next ones.
    *unflushed |= wrote;
    if *unflushed && output.is_empty() {
        *unflushed = Pin::new(stream).poll_flush(cx)?.is_pending();
    }
    Ok(wrote)
}
