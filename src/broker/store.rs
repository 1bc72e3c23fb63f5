//! What outlives the process: sessions that last and retained messages, as records for a [`Store`].
//!
//! Memory is the truth. A message for a client that is away is written down at once, before its publisher is
//! acknowledged. All else that changes is noted, and written down a moment later by [`upkeep`](super::upkeep); what
//! is over by then is never written. So a subscriber that keeps up costs no writes, and a topic that is retained a
//! hundred times a second is written once. A crash loses the last moment of that, an orderly stop nothing.
//!
//! # Records
//!
//! A byte for the kind, then integers little endian; texts and packets have their length, a `u32`, before them. A
//! message is an MQTT 5 PUBLISH packet. Times are milliseconds since 1970.
//!
//! | kind | what follows |
//! |---|---|
//! | 1 session | number `u64`, whole `u8` (forget what was read of it), expiry in seconds `u32`, gone at `i64` or 0, will due at `i64`, will or nothing, client id, the will's user or nothing (may be left out) |
//! | 2 ended | number |
//! | 3 subscribed | number, options `u8` as in SUBSCRIBE, identifier `u32` or 0, filter |
//! | 4 unsubscribed | number, filter |
//! | 5 queued | number, seq `u64`, taken at `i64`, message, when nobody is to hear of it any more `i64` (left out where there is no such time) |
//! | 6 sent | number, seq, packet identifier `u16`, awaits `u8`: 1 PUBACK, 2 PUBREC, 3 PUBCOMP |
//! | 7 done | number, seq |
//! | 8 received | number, packet identifier, held `u8` |
//! | 9 retained | taken at, message, the same time |
//! | 10 not retained | topic |
//!
//! A record of an unknown kind, or that ends early, is passed over and counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::num::{NonZeroU16, NonZeroU32};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use bytestring::ByteString;
use parking_lot::Mutex;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::{Codec, Packet, RetainHandling, SubscriptionOptions};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};

use super::application_message::{Delivery, Message};
use super::deliver::{Awaits, Flying};
use super::session::{DelayedWill, NEVER, Session, Subscribed, after};
use crate::message::Timestamp;

/// Keeps records over a restart, in order. The wiring implements it.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Adds a record. It does not wait for the disk.
    fn append(&self, record: &[u8]);

    /// Everything is written anew from here on: what came before is obsolete when that is done.
    fn begin_anew(&self);

    /// Everything has been written anew.
    fn written_anew(&self);

    /// Returns when there is room for the records of one more session.
    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Returns when everything is to be written anew: too much of what is kept is obsolete, or some was lost.
    fn outgrown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Knows what the store does not know yet.
pub(super) struct Scribe {
    pub(super) store: Arc<dyn Store>,
    changed: Mutex<Changed>,
    pub(super) wake: Notify,
}

#[derive(Default)]
struct Changed {
    sessions: Vec<Arc<Session>>,
    retained: HashSet<ByteString>,
}

impl Scribe {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, changed: Mutex::default(), wake: Notify::new() }
    }

    /// Notes that a session has changed.
    pub(super) fn list(&self, session: Arc<Session>) {
        self.changed.lock().sessions.push(session);
        self.wake.notify_one();
    }

    /// Notes that the retained message of a topic has changed.
    pub(super) fn list_retained(&self, topic: &ByteString) {
        let new = {
            let mut changed = self.changed.lock();
            !changed.retained.contains(topic) && changed.retained.insert(topic.clone())
        };
        if new {
            self.wake.notify_one();
        }
    }

    /// Takes what has changed.
    pub(super) fn take(&self) -> (Vec<Arc<Session>>, HashSet<ByteString>) {
        let changed = std::mem::take(&mut *self.changed.lock());
        (changed.sessions, changed.retained)
    }

    /// To write records with.
    pub(super) fn writer(&self) -> Writer<'_> {
        Writer { store: &*self.store, record: BytesMut::new() }
    }
}

mod kind {
    pub(super) const SESSION: u8 = 1;
    pub(super) const ENDED: u8 = 2;
    pub(super) const SUBSCRIBED: u8 = 3;
    pub(super) const UNSUBSCRIBED: u8 = 4;
    pub(super) const QUEUED: u8 = 5;
    pub(super) const SENT: u8 = 6;
    pub(super) const DONE: u8 = 7;
    pub(super) const RECEIVED: u8 = 8;
    pub(super) const RETAINED: u8 = 9;
    pub(super) const NOT_RETAINED: u8 = 10;
}

/// Writes records.
pub(super) struct Writer<'s> {
    store: &'s dyn Store,
    record: BytesMut,
}

impl Writer<'_> {
    fn put(&mut self, kind: u8, fill: impl FnOnce(&mut BytesMut)) {
        self.record.clear();
        self.record.put_u8(kind);
        fill(&mut self.record);
        self.store.append(&self.record);
    }

    pub(super) fn session(
        &mut self,
        number: u64,
        whole: bool,
        client_id: &str,
        (expiry, gone_at): (u32, Option<Timestamp>),
        will: Option<&DelayedWill>,
    ) {
        self.put(kind::SESSION, |out| {
            out.put_u64_le(number);
            out.put_u8(whole.into());
            out.put_u32_le(expiry);
            out.put_i64_le(gone_at.map_or(0, |at| at.0));
            let wait = will.map_or(Duration::ZERO, |will| will.due.saturating_duration_since(Instant::now()));
            out.put_i64_le(Timestamp::now().0.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)));
            let user = will.and_then(|will| will.user.as_deref()).unwrap_or_default();
            let will = will.map(|will| packet(&will.publish)).unwrap_or_default();
            put_bytes(out, &will);
            put_bytes(out, client_id.as_bytes());
            if !user.is_empty() {
                put_bytes(out, user.as_bytes());
            }
        });
    }

    pub(super) fn ended(&mut self, number: u64) {
        self.put(kind::ENDED, |out| out.put_u64_le(number));
    }

    pub(super) fn subscription(&mut self, number: u64, filter: &str, to: Option<&Subscribed>) {
        let kind = if to.is_some() { kind::SUBSCRIBED } else { kind::UNSUBSCRIBED };
        self.put(kind, |out| {
            out.put_u64_le(number);
            if let Some(Subscribed { options, identifier }) = to {
                let handling = match options.retain_handling {
                    RetainHandling::AtSubscribe => 0,
                    RetainHandling::AtSubscribeNew => 0x10,
                    RetainHandling::NoAtSubscribe => 0x20,
                };
                let no_local = u8::from(options.no_local) << 2;
                let as_published = u8::from(options.retain_as_published) << 3;
                out.put_u8(options.qos.value() | no_local | as_published | handling);
                out.put_u32_le(identifier.map_or(0, NonZeroU32::get));
            }
            put_bytes(out, filter.as_bytes());
        });
    }

    pub(super) fn queued(&mut self, number: u64, delivery: &Delivery) {
        let publish = delivery.publish(Some(NonZeroU16::MIN));
        self.put(kind::QUEUED, |out| {
            out.put_u64_le(number);
            out.put_u64_le(delivery.seq);
            out.put_i64_le(Timestamp::now().0);
            put_bytes(out, &packet(&publish));
            put_end(out, &delivery.message);
        });
    }

    pub(super) fn sent(&mut self, number: u64, flying: &Flying) {
        self.put(kind::SENT, |out| {
            out.put_u64_le(number);
            out.put_u64_le(flying.seq);
            out.put_u16_le(flying.packet_id.get());
            out.put_u8(match flying.awaits {
                Awaits::Ack => 1,
                Awaits::Received => 2,
                Awaits::Complete => 3,
            });
        });
    }

    pub(super) fn done(&mut self, number: u64, seq: u64) {
        self.put(kind::DONE, |out| {
            out.put_u64_le(number);
            out.put_u64_le(seq);
        });
    }

    pub(super) fn inward(&mut self, number: u64, packet_id: NonZeroU16, held: bool) {
        self.put(kind::RECEIVED, |out| {
            out.put_u64_le(number);
            out.put_u16_le(packet_id.get());
            out.put_u8(held.into());
        });
    }

    pub(super) fn retained(&mut self, topic: &str, message: Option<&Arc<Message>>) {
        let Some(message) = message.filter(|message| !message.is_expired()) else {
            return self.put(kind::NOT_RETAINED, |out| put_bytes(out, topic.as_bytes()));
        };
        let delivery =
            Delivery { message: Arc::clone(message), qos: message.qos, retain: true, identifiers: Vec::new(), seq: 0 };
        let publish = delivery.publish((message.qos != QoS::AtMostOnce).then_some(NonZeroU16::MIN));
        self.put(kind::RETAINED, |out| {
            out.put_i64_le(Timestamp::now().0);
            put_bytes(out, &packet(&publish));
            put_end(out, message);
        });
    }
}

/// The time to the millisecond: in the packet it has seconds.
fn put_end(out: &mut BytesMut, message: &Message) {
    if let Some(end) = message.firm_end() {
        let left = end.saturating_duration_since(Instant::now()).as_millis();
        out.put_i64_le(Timestamp::now().0.saturating_add(i64::try_from(left).unwrap_or(i64::MAX)));
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

fn packet(publish: &Publish) -> BytesMut {
    let mut publish = publish.clone();
    if publish.qos != QoS::AtMostOnce && publish.packet_id.is_none() {
        publish.packet_id = Some(NonZeroU16::MIN);
    }
    let mut out = BytesMut::new();
    let encoded = Codec::new(0, 0).encode(Packet::Publish(Box::new(publish)), &mut out);
    if encoded.is_err() {
        out.clear(); // Read back as a record that ends early.
    }
    out
}

/// A session of an earlier process.
pub(super) struct Kept {
    pub(super) client_id: ByteString,
    pub(super) expiry: u32,
    pub(super) gone_at: Timestamp,
    pub(super) ends_at: Option<Instant>,
    pub(super) will: Option<DelayedWill>,
    pub(super) subscriptions: HashMap<ByteString, Subscribed>,
    pub(super) flying: Vec<(NonZeroU16, Awaits, Option<Delivery>, u64)>,
    pub(super) waiting: Vec<Delivery>,
    pub(super) inward: Vec<NonZeroU16>,
    pub(super) last_seq: u64,
}

/// What an earlier process left: give it every record of the store, in order.
#[derive(Default)]
pub struct Restored {
    sessions: HashMap<u64, Draft>,
    retained: HashMap<ByteString, Message>,
    unreadable: usize,
}

/// A session as it is being read.
#[derive(Default)]
struct Draft {
    client_id: ByteString,
    expiry: u32,
    gone_at: i64,
    will: Option<(i64, Box<Publish>, Option<ByteString>)>,
    subscriptions: HashMap<ByteString, Subscribed>,
    queued: BTreeMap<u64, Delivery>,
    /// In the order of their first sending.
    sent: Vec<(u64, NonZeroU16, Awaits)>,
    inward: HashSet<NonZeroU16>,
    last_seq: u64,
}

impl fmt::Debug for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sessions, retained) = (self.sessions.len(), self.retained.len());
        f.debug_struct("Restored").field("sessions", &sessions).field("retained", &retained).finish_non_exhaustive()
    }
}

impl Restored {
    /// Takes the next record.
    pub fn read(&mut self, record: &[u8]) {
        if self.take(&mut Reader(record)).is_none() {
            self.unreadable += 1;
        }
    }

    /// How many sessions, retained messages and unreadable records there were.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.sessions.len(), self.retained.len(), self.unreadable)
    }

    fn take(&mut self, record: &mut Reader<'_>) -> Option<()> {
        match record.u8()? {
            kind::SESSION => self.take_session(record)?,
            kind::ENDED => {
                self.sessions.remove(&record.u64()?);
            }
            kind::RETAINED => {
                let message = record.message()?.0;
                self.retained.insert(message.topic.clone(), message);
            }
            kind::NOT_RETAINED => {
                self.retained.remove(&*record.text()?);
            }
            kind => {
                let number = record.u64()?;
                // Of a session whose whole state comes later in the record.
                let draft = self.sessions.entry(number).or_default();
                draft.take(kind, record)?;
            }
        }
        Some(())
    }

    fn take_session(&mut self, record: &mut Reader<'_>) -> Option<()> {
        let number = record.u64()?;
        let whole = record.u8()? != 0;
        let (expiry, gone_at, due) = (record.u32()?, record.i64()?, record.i64()?);
        let will = record.bytes()?;
        let client_id = record.text()?;
        let will = if will.is_empty() { None } else { Some((due, publish(will)?, record.text())) };
        let draft = self.sessions.entry(number).or_default();
        if whole {
            *draft = Draft::default();
        }
        *draft = Draft { client_id, expiry, gone_at, will, ..std::mem::take(draft) };
        Some(())
    }

    /// The sessions with their numbers, and the retained messages.
    pub(super) fn into_parts(self) -> (Vec<(u64, Kept)>, Vec<Arc<Message>>) {
        // The records may end between a new session of a client and the end of its old one: the new one counts.
        let mut newest: HashMap<ByteString, (u64, Draft)> = HashMap::new();
        for (number, draft) in self.sessions {
            if newest.get(&draft.client_id).is_none_or(|(other, _)| *other < number) {
                newest.insert(draft.client_id.clone(), (number, draft));
            }
        }
        let drafts = newest.into_values().filter(|(_, draft)| draft.expiry > 0);
        let sessions = drafts.map(|(number, draft)| (number, draft.finish())).collect();
        let retained = self.retained.into_values().filter(|message| !message.is_expired());
        (sessions, retained.map(Arc::new).collect())
    }
}

impl Draft {
    fn take(&mut self, kind: u8, record: &mut Reader<'_>) -> Option<()> {
        match kind {
            kind::SUBSCRIBED => {
                let (options, identifier) = (options(record.u8()?)?, NonZeroU32::new(record.u32()?));
                self.subscriptions.insert(record.text()?, Subscribed { options, identifier });
            }
            kind::UNSUBSCRIBED => {
                self.subscriptions.remove(&*record.text()?);
            }
            kind::QUEUED => {
                let seq = record.u64()?;
                let (message, qos, retain, identifiers) = record.message()?;
                self.last_seq = self.last_seq.max(seq);
                self.queued.insert(seq, Delivery { message: Arc::new(message), qos, retain, identifiers, seq });
            }
            kind::SENT => {
                let (seq, packet_id) = (record.u64()?, NonZeroU16::new(record.u16()?)?);
                let awaits = match record.u8()? {
                    1 => Awaits::Ack,
                    2 => Awaits::Received,
                    3 => Awaits::Complete,
                    _ => return None,
                };
                self.last_seq = self.last_seq.max(seq);
                match self.sent.iter_mut().find(|(known, ..)| *known == seq) {
                    Some(known) => *known = (seq, packet_id, awaits),
                    None => self.sent.push((seq, packet_id, awaits)),
                }
            }
            kind::DONE => {
                let seq = record.u64()?;
                self.queued.remove(&seq);
                self.sent.retain(|(sent, ..)| *sent != seq);
            }
            kind::RECEIVED => {
                let packet_id = NonZeroU16::new(record.u16()?)?;
                if record.u8()? != 0 {
                    self.inward.insert(packet_id);
                } else {
                    self.inward.remove(&packet_id);
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn finish(mut self) -> Kept {
        let now = Timestamp::now();
        // Who was connected when the process ended is away since then, which is as good as since now.
        let gone_at = if self.gone_at == 0 { now } else { Timestamp(self.gone_at.min(now.0)) };
        let away = u32::try_from(now.0.saturating_sub(gone_at.0) / 1000).unwrap_or(u32::MAX);
        let ends_at = if self.expiry == NEVER { None } else { after(self.expiry.saturating_sub(away)) };
        let will = self.will.take().map(|(due, publish, user)| {
            let wait = Duration::from_millis(u64::try_from(due.saturating_sub(now.0)).unwrap_or(0));
            DelayedWill { publish, user, due: Instant::now() + wait.min(Duration::from_secs(self.expiry.into())) }
        });
        let flying = std::mem::take(&mut self.sent).into_iter().filter_map(|(seq, packet_id, awaits)| {
            let delivery = self.queued.remove(&seq);
            match awaits {
                Awaits::Complete => Some((packet_id, awaits, None, seq)),
                _ => Some((packet_id, awaits, Some(delivery?), seq)),
            }
        });
        let flying = flying.collect();
        Kept {
            client_id: self.client_id,
            expiry: self.expiry,
            gone_at,
            ends_at,
            will,
            subscriptions: self.subscriptions,
            flying,
            waiting: self.queued.into_values().collect(),
            inward: self.inward.into_iter().collect(),
            last_seq: self.last_seq,
        }
    }
}

fn options(byte: u8) -> Option<SubscriptionOptions> {
    Some(SubscriptionOptions {
        qos: QoS::try_from(byte & 3).ok()?,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling: match byte >> 4 {
            0 => RetainHandling::AtSubscribe,
            1 => RetainHandling::AtSubscribeNew,
            2 => RetainHandling::NoAtSubscribe,
            _ => return None,
        },
    })
}

fn publish(packet: &[u8]) -> Option<Box<Publish>> {
    match Codec::new(0, 0).decode(&mut BytesMut::from(packet)).ok()?? {
        (Packet::Publish(publish), _) => Some(publish),
        _ => None,
    }
}

/// The rest of a record.
struct Reader<'r>(&'r [u8]);

impl<'r> Reader<'r> {
    fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16_le().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32_le().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }

    fn i64(&mut self) -> Option<i64> {
        self.0.try_get_i64_le().ok()
    }

    fn bytes(&mut self) -> Option<&'r [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<ByteString> {
        std::str::from_utf8(self.bytes()?).ok().map(ByteString::from)
    }

    /// A message whose expiry interval is less the time since it was written down.
    fn message(&mut self) -> Option<(Message, QoS, bool, Vec<NonZeroU32>)> {
        let written_at = self.i64()?;
        let mut publish = publish(self.bytes()?)?;
        let identifiers =
            publish.properties.as_mut().map(|properties| std::mem::take(&mut properties.subscription_ids));
        let now = Timestamp::now().0;
        let passed = |from: i64, to: i64| Duration::from_millis(u64::try_from(to.saturating_sub(from)).unwrap_or(0));
        let end = self.i64().and_then(|end| Instant::now().checked_add(passed(now, end)));
        let mut message = Message::until(&publish, end);
        if end.is_none() {
            message.age(passed(written_at, now));
        }
        Some((message, publish.qos, publish.retain, identifiers.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: u64, expiry: u32, gone_at: i64, due: i64) -> Vec<u8> {
        let mut record = vec![kind::SESSION];
        record.extend(number.to_le_bytes());
        record.push(1);
        record.extend(expiry.to_le_bytes());
        record.extend([gone_at.to_le_bytes(), due.to_le_bytes()].concat());
        record.extend([0, 0, 0, 0, 1, 0, 0, 0, b'a']);
        record
    }

    #[test]
    fn the_newest_session_of_a_client_counts() {
        for (name, records, expect) in [
            ("one", vec![numbered(1, 60, 0, 0)], vec![1]),
            ("the old one has not ended", vec![numbered(1, 60, 0, 0), numbered(2, 60, 0, 0)], vec![2]),
            ("in any order", vec![numbered(2, 60, 0, 0), numbered(1, 60, 0, 0)], vec![2]),
            ("the new one does not last", vec![numbered(1, 60, 0, 0), numbered(2, 0, 0, 0)], vec![]),
        ] {
            let mut restored = Restored::default();
            records.iter().for_each(|record| restored.read(record));
            let numbers: Vec<_> = restored.into_parts().0.into_iter().map(|(number, _)| number).collect();
            assert_eq!(numbers, expect, "{name}");
        }
    }

    #[test]
    fn records_nobody_wrote_do_no_harm() {
        let session = |gone_at, due| numbered(7, 60, gone_at, due);
        for (name, records, sessions, unreadable) in [
            ("nothing", vec![vec![]], 0, 1),
            ("an unknown kind", vec![vec![99, 0, 0, 0, 0, 0, 0, 0, 0]], 1, 1),
            ("the end of time", vec![session(i64::MAX, i64::MAX)], 1, 0),
            ("before time", vec![session(i64::MIN, i64::MIN)], 1, 0),
            ("cut off", vec![session(1, 1)[..30].to_vec()], 0, 1),
            ("no session", vec![[vec![kind::DONE], vec![0; 16]].concat()], 1, 0),
        ] {
            let mut restored = Restored::default();
            records.iter().for_each(|record: &Vec<u8>| restored.read(record));
            assert_eq!((restored.counts().0, restored.counts().2), (sessions, unreadable), "{name}");
            restored.into_parts();
        }
    }
}
