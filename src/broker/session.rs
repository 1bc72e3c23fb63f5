//! A session: what the broker keeps of a client between its packets and, where the client asked for that, between its
//! connections: subscriptions, messages that wait, publishes in flight, the QoS 2 identifiers it has not released.
//!
//! A session that lasts keeps QoS 1 and 2 messages while its client is away, within the bounds of one client and of
//! all absent ones together; QoS 0 messages only reach who is there. What does not fit is dropped and counted.
//!
//! Nothing here waits. A connection takes packets out with [`next`](Session::next) and is woken when there is
//! something again; publishers put deliveries in under a lock that is held for a push.

use std::collections::{HashMap, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use parking_lot::Mutex;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::SubscriptionOptions;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::application_message::Delivery;
use super::deliver::Window;
use super::store::{Kept, Scribe, Writer};
use super::wire::Outgoing;
use super::{Options, Sequences};
use crate::message::Timestamp;
use crate::metrics::Metrics;

/// The Session Expiry Interval that means never.
pub(super) const NEVER: u32 = u32::MAX;

/// What all sessions share: bounds, counters, and who writes down what is to outlive the process.
pub(super) struct Common {
    max_messages: usize,
    max_bytes: usize,
    max_absent_bytes: usize,
    /// Bytes that wait for clients that are away.
    absent_bytes: AtomicUsize,
    pub(super) scribe: Option<Arc<Scribe>>,
    metrics: Metrics,
}

impl Common {
    pub(super) fn new(options: &Options, scribe: Option<Arc<Scribe>>, metrics: Metrics) -> Self {
        Self {
            max_messages: options.subscriber_queue_messages.max(1),
            max_bytes: options.subscriber_queue_bytes,
            max_absent_bytes: options.max_session_bytes,
            absent_bytes: AtomicUsize::new(0),
            scribe,
            metrics,
        }
    }
}

/// What a publish that is not taken yet waits for.
const UNTAKEN: Sequences = Sequences::NEVER;

/// One session.
pub(super) struct Session {
    pub(super) client_id: ByteString,
    /// What the store knows it by.
    pub(super) number: u64,
    common: Arc<Common>,
    state: Mutex<State>,
    /// Told when there is something for a connection that found nothing.
    pub(super) wake: Notify,
}

#[derive(Default)]
struct State {
    /// The connection that serves it; 0 while the client is away.
    served_by: u64,
    ended: bool,
    /// The connection found nothing to send and waits.
    hungry: bool,
    /// Seconds it outlives its connection; [`NEVER`] never ends.
    expiry: u32,
    gone_at: Option<Timestamp>,
    /// When it ends unless its client comes back.
    ends_at: Option<Instant>,
    will: Option<DelayedWill>,
    subscriptions: HashMap<ByteString, Subscribed>,
    waiting: VecDeque<Delivery>,
    bytes: usize,
    window: Window,
    /// QoS 2 identifiers between PUBLISH and PUBREL ([MQTT-4.3.3-10]).
    inward: HashMap<NonZeroU16, Inward>,
    /// Where the session lasts and there is a store.
    changes: Option<Box<Changes>>,
}

/// A subscription as its session knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscribed {
    pub(super) options: SubscriptionOptions,
    pub(super) identifier: Option<NonZeroU32>,
}

/// A will that waits for its client to stay away.
#[derive(Debug)]
pub(super) struct DelayedWill {
    pub(super) publish: Box<Publish>,
    /// The user name its connection gave.
    pub(super) user: Option<ByteString>,
    pub(super) due: Instant,
}

/// A QoS 2 publish the client has not released.
#[derive(Debug, Clone, Copy)]
struct Inward {
    /// Its commits, or [`UNTAKEN`]: a repetition is acknowledged when they are on disk.
    waits_for: Sequences,
    /// Its PUBREC went out: from then on the store has to know.
    acknowledged: bool,
}

/// What the store does not know yet.
#[derive(Default)]
struct Changes {
    listed: bool,
    /// The store knows the session.
    known: bool,
    header: bool,
    filters: Vec<ByteString>,
    last_seq: u64,
    stored_seq: u64,
    done: Vec<u64>,
    inward: Vec<NonZeroU16>,
}

/// What became of a delivery that was put into a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits for the client.
    Queued,
    /// There is no room.
    Full,
    /// The client is away, and the message is one that does not wait.
    Absent,
}

impl State {
    /// True where the store knows the delivery with this number.
    fn is_stored(&self, seq: u64) -> bool {
        self.changes.as_ref().is_some_and(|changes| seq != 0 && seq <= changes.stored_seq)
    }
}

impl Session {
    pub(super) fn new(client_id: ByteString, number: u64, common: Arc<Common>) -> Arc<Self> {
        Arc::new(Self { client_id, number, common, state: Mutex::default(), wake: Notify::new() })
    }

    /// A session of an earlier process.
    pub(super) fn restore(kept: Kept, number: u64, common: Arc<Common>) -> Arc<Self> {
        let mut state = State { expiry: kept.expiry, gone_at: Some(kept.gone_at), will: kept.will, ..State::default() };
        state.ends_at = kept.ends_at;
        state.subscriptions = kept.subscriptions;
        for (id, awaits, delivery, seq) in kept.flying {
            state.window.restore((id, awaits), delivery, seq);
        }
        state.bytes = kept.waiting.iter().map(|delivery| delivery.message.size).sum();
        state.waiting = kept.waiting.into();
        let inward = Inward { waits_for: Sequences::NONE, acknowledged: true };
        state.inward = kept.inward.into_iter().map(|id| (id, inward)).collect();
        common.absent_bytes.fetch_add(state.bytes, Ordering::Relaxed);
        if common.scribe.is_some() {
            state.changes = Some(Box::new(Changes { known: true, last_seq: kept.last_seq, ..Changes::default() }));
        }
        Arc::new(Self { client_id: kept.client_id, number, common, state: Mutex::new(state), wake: Notify::new() })
    }

    /// A connection takes the session over; gives the will that waited.
    pub(super) fn attach(
        self: &Arc<Self>,
        connection: u64,
        expiry: u32,
        receive_max: Option<NonZeroU16>,
    ) -> Option<DelayedWill> {
        let mut state = self.state.lock();
        if state.served_by == 0 {
            self.common.absent_bytes.fetch_sub(state.bytes, Ordering::Relaxed);
        }
        state.served_by = connection;
        state.gone_at = None;
        state.ends_at = None;
        state.window.attach(receive_max);
        state.expiry = expiry;
        if expiry > 0 && state.changes.is_none() && self.common.scribe.is_some() {
            state.changes = Some(Box::default());
        }
        let will = state.will.take();
        self.changed(&mut state, |changes| changes.header = true);
        will
    }

    /// The connection is over, and its client away. False where another connection serves the session by now, or
    /// another session has taken its place.
    pub(super) fn detach(self: &Arc<Self>, connection: u64, will: Option<DelayedWill>) -> bool {
        let mut state = self.state.lock();
        if state.served_by != connection || state.ended {
            return false;
        }
        state.served_by = 0;
        state.hungry = false;
        state.gone_at = Some(Timestamp::now());
        state.ends_at = after(state.expiry);
        state.will = will;
        // QoS 0 messages do not wait for who is away.
        let before = state.waiting.len();
        state.waiting.retain(|delivery| delivery.qos != QoS::AtMostOnce);
        let lost = (before - state.waiting.len()) as u64;
        if lost > 0 {
            self.common.metrics.deliveries_dropped("session_ended", lost);
        }
        state.bytes = state.waiting.iter().map(|delivery| delivery.message.size).sum();
        self.common.absent_bytes.fetch_add(state.bytes, Ordering::Relaxed);
        self.changed(&mut state, |changes| changes.header = true);
        true
    }

    /// Ends the session; gives its filters and the will that waited.
    pub(super) fn end(self: &Arc<Self>) -> (Vec<ByteString>, Option<DelayedWill>) {
        let mut state = self.state.lock();
        state.ended = true;
        if state.served_by == 0 {
            self.common.absent_bytes.fetch_sub(state.bytes, Ordering::Relaxed);
        }
        // Those in flight whose delivery is kept were on the wire, but nobody will send them again.
        let lost = state.waiting.len() + state.window.flying().filter(|flying| flying.delivery.is_some()).count();
        if lost > 0 {
            self.common.metrics.deliveries_dropped("session_ended", lost as u64);
        }
        state.waiting = VecDeque::new();
        state.bytes = 0;
        state.window = Window::default();
        let filters = state.subscriptions.drain().map(|(filter, _)| filter).collect();
        let will = state.will.take();
        self.changed(&mut state, |_| {});
        (filters, will)
    }

    /// True where a connection may resume it.
    pub(super) fn is_resumable(&self) -> bool {
        let state = self.state.lock();
        let is_over = state.ends_at.is_some_and(|ends_at| ends_at <= Instant::now());
        state.expiry > 0 && !state.ended && !is_over
    }

    /// Seconds it outlives its connection.
    pub(super) fn expiry(&self) -> u32 {
        self.state.lock().expiry
    }

    /// Sets what DISCONNECT asks for.
    pub(super) fn set_expiry(self: &Arc<Self>, expiry: u32) {
        let mut state = self.state.lock();
        state.expiry = expiry;
        self.changed(&mut state, |changes| changes.header = true);
    }

    /// When its client went away.
    pub(super) fn gone_at(&self) -> Option<Timestamp> {
        self.state.lock().gone_at
    }

    /// When it ends unless its client comes back; `None` for never, and while its client is here.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.state.lock().ends_at
    }

    /// When the will that waits is due.
    pub(super) fn will_due(&self) -> Option<Instant> {
        self.state.lock().will.as_ref().map(|will| will.due)
    }

    /// Takes the will that waits.
    pub(super) fn take_will(self: &Arc<Self>) -> Option<DelayedWill> {
        let mut state = self.state.lock();
        let will = state.will.take();
        self.changed(&mut state, |changes| changes.header = true);
        will
    }

    /// True while a connection serves it.
    pub(super) fn is_present(&self) -> bool {
        self.state.lock().served_by != 0
    }

    /// True where a message of this QoS waits for its client while that is away.
    pub(super) fn keeps(&self, qos: QoS) -> bool {
        let state = self.state.lock();
        !state.ended && state.expiry > 0 && qos != QoS::AtMostOnce
    }

    /// Puts a delivery in for the client.
    pub(super) fn put(self: &Arc<Self>, mut delivery: Delivery) -> Put {
        let common = &self.common;
        let size = delivery.message.size;
        let mut state = self.state.lock();
        let present = state.served_by != 0;
        let kept = state.expiry > 0 && delivery.qos != QoS::AtMostOnce;
        if state.ended || (!present && !kept) {
            return Put::Absent;
        }
        // An empty queue takes any one message, so that a message over the byte limit is not undeliverable.
        let fits = state.waiting.len() < common.max_messages
            && (state.waiting.is_empty() || state.bytes + size <= common.max_bytes);
        if !fits || (!present && !common.claim_absent(size)) {
            return Put::Full;
        }
        if kept {
            let number = |changes: &mut Changes| {
                changes.last_seq += 1;
                delivery.seq = changes.last_seq;
            };
            if present {
                self.changed(&mut state, number);
            } else {
                state.changes.as_deref_mut().map(number);
            }
        }
        state.bytes += size;
        state.waiting.push_back(delivery);
        // Who is away will not take it in a moment: it is written before its publisher is acknowledged.
        if let (false, Some(scribe)) = (present, &common.scribe) {
            self.write_state(&mut state, &mut scribe.writer(), false);
        }
        if std::mem::take(&mut state.hungry) {
            drop(state);
            self.wake.notify_one();
        }
        Put::Queued
    }

    /// The next packet for the client: what an earlier connection left, then what `feed` gives, then what waits.
    pub(super) fn next(self: &Arc<Self>, feed: impl FnOnce() -> Option<Delivery>) -> Option<Outgoing> {
        let mut state = self.state.lock();
        while let Some(flying) = state.window.overdue() {
            self.common.metrics.local_deliveries_expired.increment(1);
            self.finished(&mut state, flying.seq);
        }
        if let Some(packet) = state.window.resend() {
            return Some(packet);
        }
        if !state.window.is_open() {
            return None;
        }
        let lasts = state.expiry > 0;
        if let Some(mut delivery) = feed() {
            if lasts && delivery.qos != QoS::AtMostOnce {
                self.changed(&mut state, |changes| {
                    changes.last_seq += 1;
                    delivery.seq = changes.last_seq;
                });
            }
            return Some(Outgoing::Publish(state.window.send(delivery, lasts)));
        }
        while let Some(delivery) = state.waiting.pop_front() {
            state.bytes -= delivery.message.size;
            if delivery.message.is_expired() {
                self.common.metrics.local_deliveries_expired.increment(1);
                self.finished(&mut state, delivery.seq);
                continue;
            }
            if state.is_stored(delivery.seq) {
                self.changed(&mut state, |_| {}); // That it is in flight is news.
            }
            return Some(Outgoing::Publish(state.window.send(delivery, lasts)));
        }
        state.hungry = true;
        None
    }

    /// Drops what waits of some topics; says how much that was.
    pub(super) fn drop_waiting(self: &Arc<Self>, mut is_unwanted: impl FnMut(&str) -> bool) -> u64 {
        let mut state = self.state.lock();
        let waiting = std::mem::take(&mut state.waiting);
        let (unwanted, wanted): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|delivery| is_unwanted(&delivery.message.topic));
        state.waiting = wanted;
        for delivery in &unwanted {
            state.bytes -= delivery.message.size;
            self.finished(&mut state, delivery.seq);
        }
        unwanted.len() as u64
    }

    /// PUBACK, or a PUBREC that refuses.
    pub(super) fn on_puback(self: &Arc<Self>, packet_id: NonZeroU16) {
        let mut state = self.state.lock();
        if let Some(flying) = state.window.on_puback(packet_id) {
            self.finished(&mut state, flying.seq);
        }
    }

    /// PUBREC; PUBREL answers in any case ([MQTT-4.3.3-3]).
    pub(super) fn on_pubrec(self: &Arc<Self>, packet_id: NonZeroU16) {
        let mut state = self.state.lock();
        if state.window.on_pubrec(packet_id) {
            self.changed(&mut state, |_| {});
        }
    }

    /// PUBCOMP.
    pub(super) fn on_pubcomp(self: &Arc<Self>, packet_id: NonZeroU16) {
        let mut state = self.state.lock();
        if let Some(flying) = state.window.on_pubcomp(packet_id) {
            self.finished(&mut state, flying.seq);
        }
    }

    /// A publish that cannot be sent to this client at all.
    pub(super) fn forget(self: &Arc<Self>, packet_id: NonZeroU16) {
        let mut state = self.state.lock();
        if let Some(flying) = state.window.forget(packet_id) {
            self.finished(&mut state, flying.seq);
        }
    }

    /// A QoS 2 publish came. Where its identifier is not released yet it is a repetition, and what the first waits
    /// for is given.
    pub(super) fn receive(&self, packet_id: NonZeroU16) -> Option<Sequences> {
        let mut state = self.state.lock();
        let known = state.inward.get(&packet_id).map(|inward| inward.waits_for);
        if known.is_none() {
            state.inward.insert(packet_id, Inward { waits_for: UNTAKEN, acknowledged: false });
        }
        known
    }

    /// What was received is taken, and on disk when what it `waits_for` is.
    pub(super) fn received(&self, packet_id: NonZeroU16, waits_for: Sequences) {
        if let Some(inward) = self.state.lock().inward.get_mut(&packet_id) {
            inward.waits_for = waits_for;
        }
    }

    /// Its PUBREC leaves.
    pub(super) fn acknowledged(self: &Arc<Self>, packet_id: NonZeroU16) {
        let mut state = self.state.lock();
        if let Some(inward) = state.inward.get_mut(&packet_id) {
            inward.acknowledged = true;
            self.changed(&mut state, |changes| changes.inward.push(packet_id));
        }
    }

    /// PUBREL, or the end of a refused exchange; says whether there was one.
    pub(super) fn release(self: &Arc<Self>, packet_id: NonZeroU16) -> bool {
        let mut state = self.state.lock();
        let known = state.inward.remove(&packet_id);
        if known.is_some_and(|inward| inward.acknowledged) {
            self.changed(&mut state, |changes| changes.inward.push(packet_id));
        }
        known.is_some()
    }

    /// How many QoS 2 publishes are not released.
    pub(super) fn unreleased(&self) -> usize {
        self.state.lock().inward.len()
    }

    /// Forgets the QoS 2 publishes that were not taken: they come again as the first time.
    pub(super) fn forget_untaken(&self) {
        self.state.lock().inward.retain(|_, inward| inward.waits_for != UNTAKEN);
    }

    /// Notes a subscription. `None` where the client has as many as it may, else whether it had this one.
    pub(super) fn subscribe(self: &Arc<Self>, filter: &ByteString, to: Subscribed, max: usize) -> Option<bool> {
        let mut state = self.state.lock();
        let known = state.subscriptions.contains_key(filter);
        if state.ended || (!known && state.subscriptions.len() >= max) {
            return None;
        }
        let filter = ByteString::from(&**filter);
        self.changed(&mut state, |changes| changes.filters.push(filter.clone()));
        state.subscriptions.insert(filter, to);
        Some(known)
    }

    /// Notes the end of a subscription; says whether there was one.
    pub(super) fn unsubscribe(self: &Arc<Self>, filter: &str) -> bool {
        let mut state = self.state.lock();
        let known = state.subscriptions.remove_entry(filter);
        if let Some((filter, _)) = known {
            self.changed(&mut state, |changes| changes.filters.push(filter));
            return true;
        }
        false
    }

    /// Its subscriptions.
    pub(super) fn subscriptions(&self) -> Vec<(ByteString, Subscribed)> {
        self.state.lock().subscriptions.iter().map(|(filter, to)| (filter.clone(), *to)).collect()
    }

    fn finished(self: &Arc<Self>, state: &mut State, seq: u64) {
        if state.is_stored(seq) {
            self.changed(state, |changes| changes.done.push(seq));
        }
    }

    /// Notes a change for the store, and that there is one.
    fn changed(self: &Arc<Self>, state: &mut State, note: impl FnOnce(&mut Changes)) {
        let (Some(changes), Some(scribe)) = (&mut state.changes, &self.common.scribe) else { return };
        note(changes);
        if !std::mem::replace(&mut changes.listed, true) {
            scribe.list(Arc::clone(self));
        }
    }

    /// Writes down what the store does not know, or everything.
    pub(super) fn write(&self, out: &mut Writer<'_>, whole: bool) {
        let state = &mut *self.state.lock();
        if let Some(changes) = &mut state.changes {
            changes.listed = false;
        }
        self.write_state(state, out, whole);
    }

    fn write_state(&self, state: &mut State, out: &mut Writer<'_>, whole: bool) {
        let Some(changes) = &mut state.changes else { return };
        if state.ended || (state.expiry == 0 && state.served_by == 0) {
            if std::mem::take(&mut changes.known) {
                out.ended(self.number);
            }
            return;
        }
        let whole = whole || !changes.known;
        if whole {
            let Changes { listed, last_seq, .. } = **changes;
            **changes = Changes { listed, known: true, header: true, last_seq, ..Changes::default() };
            changes.filters = state.subscriptions.keys().cloned().collect();
            changes.inward = state.inward.keys().copied().collect();
            state.window.flying().for_each(|flying| flying.stored = None);
        }
        if std::mem::take(&mut changes.header) {
            out.session(self.number, whole, &self.client_id, (state.expiry, state.gone_at), state.will.as_ref());
        }
        for filter in changes.filters.drain(..) {
            out.subscription(self.number, &filter, state.subscriptions.get(&filter));
        }
        for seq in changes.done.drain(..) {
            out.done(self.number, seq);
        }
        for flying in state.window.flying() {
            let new = flying.seq > changes.stored_seq;
            if let (true, Some(delivery)) = (new, &flying.delivery) {
                out.queued(self.number, delivery);
            }
            if flying.seq != 0 && (new || flying.stored != Some(flying.awaits)) {
                out.sent(self.number, flying);
                flying.stored = Some(flying.awaits);
            }
        }
        let stored_seq = changes.stored_seq;
        let new = state.waiting.iter().rev().take_while(|delivery| delivery.seq == 0 || delivery.seq > stored_seq);
        let new = new.count();
        for delivery in state.waiting.iter().skip(state.waiting.len() - new).filter(|delivery| delivery.seq != 0) {
            out.queued(self.number, delivery);
        }
        changes.stored_seq = changes.last_seq;
        for id in changes.inward.drain(..) {
            let held = state.inward.get(&id).is_some_and(|inward| inward.acknowledged);
            out.inward(self.number, id, held);
        }
    }
}

impl Common {
    /// Takes room for a message among those of all absent clients.
    fn claim_absent(&self, size: usize) -> bool {
        let claimed = self.absent_bytes.fetch_add(size, Ordering::Relaxed) + size <= self.max_absent_bytes;
        if !claimed {
            self.absent_bytes.fetch_sub(size, Ordering::Relaxed);
        }
        claimed
    }
}

/// The moment a number of seconds from now, if that is ever.
pub(super) fn after(seconds: u32) -> Option<Instant> {
    if seconds == NEVER {
        return None;
    }
    Instant::now().checked_add(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests;
