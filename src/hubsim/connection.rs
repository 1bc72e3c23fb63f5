//! One client that was let in: packets in batches until something ends it.
//!
//! A read fills one buffer; all packets in it are decoded, their messages handed to the output in one
//! piece, and then all their acknowledgements are written in one piece.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, ConnectAck, ConnectAckReason, LastWill, Packet, SubscribeReturnCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::Shared;
use super::admission::Admitted;
use super::cloud::{Down, Line};
use super::counters::Closed;
use super::names::{self, EventsTopic};
use super::queue::{Delivery, QUEUE_MAX};
use super::received::{Received, Source};
use super::sessions::Hold;
use crate::hub::back::{self, Upward};
use crate::hub::connect::Identity;
use crate::hub::limits::{
    D2C_MAX_BYTES, EDGE_KEEP_ALIVE_TIMEOUT_MAX_SECS, KEEP_ALIVE_TIMEOUT_MAX_SECS, TOPIC_MAX_BYTES,
};
use crate::hub::twin::TwinError;
use crate::hub::{bag, d2c};
use crate::message::Timestamp;

/// The largest packet: a message at its limit, its topic, the packet identifier.
pub(super) const PACKET_MAX: u32 = (D2C_MAX_BYTES + TOPIC_MAX_BYTES + 16) as u32;
pub(super) const READ: usize = 64 * 1024;
/// A client that does not read its acknowledgements is closed after this.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Delayed acknowledgements of one connection; at this many it is not read any more.
const DELAYED_MAX: usize = 1024;

/// TLS, or a WebSocket over that.
pub(super) type Stream = Box<dyn Duplex>;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// One client that was let in.
pub(super) struct Connection {
    shared: Arc<Shared>,
    stream: Stream,
    codec: Codec,
    input: BytesMut,
    output: BytesMut,
    batch: Vec<Received>,
    source: Arc<Source>,
    pub(super) hold: Hold,
    /// Silence longer than this ends it.
    patience: Duration,
    expires: Option<Instant>,
    delayed: VecDeque<(Instant, NonZeroU16)>,
    messages: u64,
    counted: u64,
    dropped: u64,
    identity: String,
    line: Line,
    /// Messages to the device that it has not acknowledged, and the packet identifier after the last of them.
    unacknowledged: Vec<Unacknowledged>,
    /// When one of them may be sent again.
    look: Option<Instant>,
    last_id: u16,
}

/// A message to the device.
struct Unacknowledged {
    packet_id: NonZeroU16,
    message: u64,
    lock: u64,
}

/// What the next wait brought.
enum Event {
    Data,
    AcksDue,
    Down(Down),
    Closed(Closed),
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        codec: Codec,
        input: BytesMut,
        shared: Arc<Shared>,
        (admitted, connect, hold): (Admitted, &Connect, Hold),
    ) -> Self {
        let cap = if shared.options.edge { EDGE_KEEP_ALIVE_TIMEOUT_MAX_SECS } else { KEEP_ALIVE_TIMEOUT_MAX_SECS };
        let cap = Duration::from_secs(cap);
        let patience = match connect.keep_alive {
            0 => cap,
            secs => (Duration::from_secs(secs.into()) * 3 / 2).min(cap),
        };
        let until_expiry = admitted.expiry.map(|expiry| {
            let left = expiry.saturating_sub(Timestamp::now().as_secs());
            // A token good for centuries would overflow the clock.
            Duration::from_secs(u64::try_from(left).unwrap_or(0).min(100 * 366 * 86_400)) + shared.options.expiry_grace
        });
        let after = [until_expiry, shared.options.misbehave.expire_after].into_iter().flatten().min();
        let mut connection = Self {
            stream,
            codec,
            input,
            output: BytesMut::new(),
            batch: Vec::new(),
            source: Arc::new(admitted.source),
            patience,
            expires: after.map(|after| Instant::now() + after),
            delayed: VecDeque::new(),
            messages: 0,
            counted: 0,
            dropped: 0,
            line: shared.cloud.attach(&admitted.identity),
            identity: admitted.identity,
            unacknowledged: Vec::new(),
            look: None,
            last_id: 0,
            hold,
            shared,
        };
        let session_present = connection.hold.present && connection.shared.options.session_present;
        let return_code = ConnectAckReason::ConnectionAccepted;
        connection.send(Packet::ConnectAck(ConnectAck { return_code, session_present }));
        connection
    }

    pub(super) async fn run(&mut self) -> Closed {
        loop {
            let verdict = self.take_packets();
            if let Break(closed) = self.hand_over().await {
                return closed;
            }
            if let Break(closed) = self.flush().await {
                return closed;
            }
            if let Break(closed) = verdict {
                return closed;
            }
            match self.wait().await {
                Event::Data => {}
                Event::AcksDue => self.release_acks(),
                Event::Down(Down::Publish(topic, payload)) => self.say(topic, payload),
                Event::Down(Down::Commands) => self.send_commands(),
                Event::Closed(closed) => return closed,
            }
        }
    }

    /// Decodes everything that is in the input buffer.
    fn take_packets(&mut self) -> ControlFlow<Closed> {
        let now = Timestamp::now();
        loop {
            match self.codec.decode(&mut self.input) {
                Ok(None) => return Continue(()),
                Ok(Some((Packet::Publish(publish), _))) => self.publish(&publish, now)?,
                Ok(Some((packet, _))) => self.other(packet)?,
                Err(DecodeError::MaxSizeExceeded { .. }) => return Break(Closed::TooLarge),
                Err(_) => return Break(Closed::Protocol),
            }
        }
    }

    fn publish(&mut self, publish: &Publish, now: Timestamp) -> ControlFlow<Closed> {
        if publish.qos == QoS::ExactlyOnce {
            return Break(Closed::Qos2);
        }
        if publish.topic.starts_with("$iothub/") {
            self.twin_or_method(&publish.topic, &publish.payload)?;
            self.acknowledge(publish.packet_id);
            return Continue(());
        }
        let Some(bag) = self.events_bag(&publish.topic)? else {
            self.drop_message(publish);
            return Continue(());
        };
        let size = publish.payload.len() + bag.len();
        if size > D2C_MAX_BYTES && publish.payload.len() + d2c::bag_size(bag) > D2C_MAX_BYTES {
            return Break(Closed::TooLarge);
        }
        if self.shared.options.misbehave.close_on.as_ref().is_some_and(|text| contains(&publish.payload, text)) {
            return Break(Closed::Disliked);
        }
        if self.shared.options.misbehave.quota.is_some_and(|quota| self.shared.counters.take_one_of(quota).is_none()) {
            return Break(Closed::Quota);
        }
        let turn = match self.shared.options.misbehave.message_rate.map(|rate| self.shared.next_message.turn(rate)) {
            Some(None) => return Break(Closed::Throttled),
            turn => turn.flatten(),
        };
        let taken = self.take_message(bag, &publish.payload, now, publish.retain.then_some(("mqtt-retain", "true")));
        if let Err(error) = taken {
            tracing::info!(device = %self.source.device, %error, "bad property bag");
            if !self.shared.options.edge {
                return Break(Closed::Bag);
            }
            self.drop_message(publish);
            return Continue(());
        }
        if self.shared.options.misbehave.cut_every.is_some_and(|n| self.messages.is_multiple_of(n.max(1))) {
            return Break(Closed::Cut);
        }
        self.acknowledge_at(publish.packet_id, turn);
        Continue(())
    }

    /// The bag of a publish to the client's own topic; `None` where it is to be dropped.
    fn events_bag<'t>(&self, topic: &'t str) -> ControlFlow<Closed, Option<&'t str>> {
        let options = &self.shared.options;
        if options.edge {
            return Continue(EventsTopic::parse_edge(topic).map(|t| t.bag));
        }
        let own = |t: &EventsTopic<'_>| t.device == self.source.device && t.module == self.source.module.as_deref();
        match EventsTopic::parse(topic).filter(own) {
            Some(topic) => Continue(Some(topic.bag)),
            None if options.close_on_foreign_topic => {
                tracing::info!(device = %self.source.device, topic, "publish to a topic that is not the device's own");
                Break(Closed::Topic)
            }
            None => Continue(None),
        }
    }

    fn take_message(
        &mut self,
        bag: &str,
        body: &[u8],
        now: Timestamp,
        extra: Option<(&str, &str)>,
    ) -> Result<(), bag::BagError> {
        if self.shared.options.output.is_none() {
            bag::check(bag)?;
        } else {
            let mut message = Received::new(&self.source, bag, body, now)?;
            if let Some((name, value)) = extra {
                // What the hub stamps wins over what the client wrote under that name.
                message.properties.retain(|(n, _)| n != name);
                message.properties.push((name.to_owned(), Some(value.to_owned())));
            }
            self.batch.push(message);
        }
        self.messages += 1;
        Ok(())
    }

    fn drop_message(&mut self, publish: &Publish) {
        self.dropped += 1;
        self.acknowledge(publish.packet_id);
    }

    fn acknowledge(&mut self, id: Option<NonZeroU16>) {
        self.acknowledge_at(id, None);
    }

    /// Not before `turn`. Turns come in order, so PUBACKs do.
    fn acknowledge_at(&mut self, id: Option<NonZeroU16>, turn: Option<Instant>) {
        let Some(packet_id) = id else { return };
        let faults = &self.shared.options.misbehave;
        if faults.withhold_puback {
            return;
        }
        let now = Instant::now();
        let due = turn.unwrap_or(now).max(now) + faults.puback_delay;
        if due <= now && self.delayed.is_empty() {
            self.send(Packet::PublishAck { packet_id });
        } else {
            self.delayed.push_back((due, packet_id));
        }
    }

    fn release_acks(&mut self) {
        let now = Instant::now();
        while let Some((_, packet_id)) = self.delayed.pop_front_if(|(due, _)| *due <= now) {
            self.send(Packet::PublishAck { packet_id });
        }
    }

    fn other(&mut self, packet: Packet) -> ControlFlow<Closed> {
        match packet {
            Packet::PingRequest => self.send(Packet::PingResponse),
            Packet::Disconnect => return Break(Closed::Goodbye),
            Packet::PublishAck { packet_id } => self.complete(packet_id),
            Packet::Subscribe { packet_id, topic_filters } => {
                self.subscribe(&topic_filters.iter().map(|(filter, _)| &**filter).collect::<Vec<_>>())?;
                let granted = |qos: &QoS| SubscribeReturnCode::Success(qos.less_value(QoS::AtLeastOnce));
                let status = topic_filters.iter().map(|(_, qos)| granted(qos)).collect();
                self.send(Packet::SubscribeAck { packet_id, status });
                self.shared.cloud.subscribed(&self.identity);
            }
            Packet::Unsubscribe { packet_id, topic_filters } => {
                for filter in &topic_filters {
                    let had = self.shared.sessions.unsubscribe(&self.hold, filter);
                    if !had && !self.shared.options.edge {
                        return Break(Closed::Unsubscribe);
                    }
                }
                self.send(Packet::UnsubscribeAck { packet_id });
            }
            _ => return Break(Closed::Protocol),
        }
        Continue(())
    }

    fn subscribe(&self, filters: &[&str]) -> ControlFlow<Closed> {
        let Source { device, module, .. } = &*self.source;
        let (known, strange): (Vec<_>, Vec<_>) =
            filters.iter().partition(|filter| names::is_known_filter(filter, device, module.as_deref()));
        let too_many = self.shared.sessions.subscribe(&self.hold, &known);
        match strange.first().copied().or(too_many) {
            Some(filter) if !self.shared.options.edge => {
                tracing::info!(%device, filter, "subscription refused");
                Break(Closed::Subscribe)
            }
            _ => Continue(()),
        }
    }

    /// Answers a request about the twin, and takes the answer to a method.
    fn twin_or_method(&mut self, topic: &str, payload: &Bytes) -> ControlFlow<Closed> {
        let upward = Upward::parse(topic);
        let rid = upward.and_then(|upward| back::field(upward.query(), "$rid")).unwrap_or("");
        let refused = self.twin_refused(upward.as_ref());
        let (topic, body) = match upward {
            Some(Upward::GetTwin { .. } | Upward::PatchReported { .. }) if !rid.is_empty() && refused.is_some() => {
                (back::twin_answer(refused.unwrap_or(500), rid, None), String::new())
            }
            Some(Upward::GetTwin { .. }) if !rid.is_empty() => {
                (back::twin_answer(200, rid, None), self.shared.cloud.twin_for_device(&self.identity).to_string())
            }
            Some(Upward::PatchReported { .. }) if !rid.is_empty() => {
                match self.shared.cloud.report(&self.identity, payload) {
                    Ok(version) => (back::twin_answer(204, rid, Some(version)), String::new()),
                    Err(error) => {
                        tracing::info!(identity = self.identity, %error, "reported properties refused");
                        (back::twin_answer(400, rid, None), refusal(&error))
                    }
                }
            }
            Some(Upward::MethodAnswer { status, .. }) => {
                let Ok(status) = status.parse() else { return self.foreign() };
                self.shared.cloud.answer(&self.identity, rid, status, payload.clone());
                return Continue(());
            }
            _ => return self.foreign(),
        };
        self.say(topic, body.into());
        Continue(())
    }

    /// The status of a twin operation that fails on purpose.
    fn twin_refused(&self, upward: Option<&Upward<'_>>) -> Option<u16> {
        let (misbehave, cloud) = (&self.shared.options.misbehave, &self.shared.cloud);
        match upward? {
            Upward::MethodAnswer { .. } => return None,
            Upward::PatchReported { .. } => {
                if let Some((status, times)) = misbehave.twin_status
                    && cloud.failed_on_purpose.fetch_add(1, Ordering::Relaxed) < times
                {
                    return Some(status);
                }
            }
            Upward::GetTwin { .. } => {}
        }
        misbehave.twin_rate.is_some_and(|rate| cloud.is_over(rate)).then_some(429)
    }

    /// A topic under `$iothub/` that nobody knows.
    fn foreign(&self) -> ControlFlow<Closed> {
        if self.shared.options.edge { Continue(()) } else { Break(Closed::Topic) }
    }

    /// Writes a publish of QoS 0.
    fn say(&mut self, topic: String, payload: Bytes) {
        let (qos, topic) = (QoS::AtMostOnce, topic.into());
        let publish = Publish { dup: false, retain: false, qos, topic, packet_id: None, payload, properties: None };
        self.send(Packet::Publish(Box::new(publish)));
    }

    /// Sends what waits for the device, once it is subscribed.
    fn send_commands(&mut self) {
        self.look = None;
        let Source { device, module, .. } = &*self.source.clone();
        let identity = Identity { hub: &self.shared.options.host.clone(), device, module: module.as_deref() };
        let own = back::commands(&identity);
        let filters = self.shared.sessions.filters(&self.identity);
        if !filters.iter().any(|filter| *filter == own || filter == "devices/+/messages/devicebound/#") {
            return;
        }
        for _ in 0..QUEUE_MAX {
            let Some(delivery) = self.shared.cloud.take(&self.identity) else { break };
            let Delivery { id: message, lock, again: dup, command, body: payload } = delivery;
            // Its lock has ended: the acknowledgement of the packet before completes nothing any more.
            self.unacknowledged.retain(|sent| sent.message != message);
            let packet_id = self.next_packet_id();
            self.unacknowledged.push(Unacknowledged { packet_id, message, lock });
            let (qos, topic, packet_id) = (QoS::AtLeastOnce, command.topic(&identity).into(), Some(packet_id));
            let publish = Publish { dup, retain: false, qos, topic, packet_id, payload, properties: None };
            self.send(Packet::Publish(Box::new(publish)));
        }
        self.look = self.shared.cloud.next_lock_end(&self.identity);
    }

    fn next_packet_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.last_id)
                && self.unacknowledged.iter().all(|sent| sent.packet_id != id)
            {
                return id;
            }
        }
    }

    /// The PUBACK of a cloud-to-device message completes it.
    fn complete(&mut self, packet_id: NonZeroU16) {
        let sent = self.unacknowledged.iter().position(|sent| sent.packet_id == packet_id);
        let lock = sent.map(|at| self.unacknowledged.swap_remove(at).lock);
        if !lock.is_some_and(|lock| self.shared.cloud.complete(&self.identity, lock)) {
            tracing::info!(
                identity = self.identity,
                packet_id,
                "acknowledged too late: the lock is lost, it comes again"
            );
        }
    }

    /// Puts a packet behind the others that wait to be written.
    fn send(&mut self, packet: Packet) {
        // The packets above are all small and well formed, so that encoding them cannot fail.
        let _ = self.codec.encode(packet, &mut self.output);
    }

    async fn hand_over(&mut self) -> ControlFlow<Closed> {
        let new = self.messages - self.counted;
        self.shared.counters.batch(self.hold.identity(), new, std::mem::take(&mut self.dropped));
        self.counted = self.messages;
        if self.batch.is_empty() {
            return Continue(());
        }
        let Some(output) = &self.shared.options.output else { return Continue(()) };
        match output.send(std::mem::take(&mut self.batch)).await {
            Ok(()) => Continue(()),
            Err(_) => Break(Closed::NoOutput),
        }
    }

    async fn flush(&mut self) -> ControlFlow<Closed> {
        if self.output.is_empty() {
            return Continue(());
        }
        match write_out(&mut self.stream, &mut self.output).await {
            Ok(()) => Continue(()),
            Err(closed) => Break(closed),
        }
    }

    async fn wait(&mut self) -> Event {
        let silent = Instant::now() + self.patience;
        let (deadline, reason) = match self.expires {
            Some(expires) if expires < silent => (expires, Closed::Expired),
            _ => (silent, Closed::Silent),
        };
        let acks_due = self.delayed.front().map(|(due, _)| *due);
        let readable = self.delayed.len() < DELAYED_MAX;
        self.input.reserve(READ.saturating_sub(self.input.len()).max(1));
        tokio::select! {
            read = self.stream.read_buf(&mut self.input), if readable => match read {
                Ok(0) | Err(_) => Event::Closed(Closed::Lost),
                Ok(_) => Event::Data,
            },
            () = sleep_until(acks_due.unwrap_or(deadline)), if acks_due.is_some() => Event::AcksDue,
            () = sleep_until(self.look.unwrap_or(deadline)), if self.look.is_some() => Event::Down(Down::Commands),
            Some(down) = self.line.down.recv() => Event::Down(down),
            () = sleep_until(deadline) => Event::Closed(reason),
        }
    }

    /// The last things: the will where the client did not say goodbye, the session, the line.
    pub(super) async fn end(&mut self, will: Option<LastWill>, closed: Closed) {
        if let Some(will) = will.filter(|_| closed != Closed::Goodbye && closed != Closed::Stopped) {
            let bag = match self.events_bag(&will.topic) {
                Continue(bag) => bag,
                Break(_) => None,
            };
            if let Some(bag) = bag {
                let stamp = Some(("iothub-MessageType", "Will"));
                let _ = self.take_message(bag, &will.message, Timestamp::now(), stamp);
                let _ = timeout(WRITE_TIMEOUT, self.hand_over()).await;
            }
        }
        self.shared.cloud.detach(&self.identity, &self.line);
        self.shared.sessions.leave(&self.hold);
        if closed != Closed::Cut {
            let _ = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
        }
    }
}

/// Writes what waits, to a client that reads.
pub(super) async fn write_out(stream: &mut Stream, output: &mut BytesMut) -> Result<(), Closed> {
    let write = async {
        stream.write_all(output).await?;
        stream.flush().await
    };
    match timeout(WRITE_TIMEOUT, write).await {
        Ok(Ok(())) => {
            output.clear();
            Ok(())
        }
        Ok(Err(_)) => Err(Closed::Lost),
        Err(_) => Err(Closed::NotReading),
    }
}

/// What a hub writes below a refusal.
fn refusal(error: &TwinError) -> String {
    serde_json::json!({"errorCode": 400_004, "trackingId": "", "message": error.to_string(), "timestampUtc": Timestamp::now().to_string()})
        .to_string()
}

fn contains(payload: &[u8], text: &str) -> bool {
    memchr::memmem::find(payload, text.as_bytes()).is_some()
}
