//! What has been taken from the backlog and is not acknowledged yet, in order.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::suspicion::{Suspicion, Verdict};
use super::{Lane, MessageId, Waiting, now};
use crate::message::Timestamp;

/// A message on its way.
#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    created: Timestamp,
    len: usize,
    /// When it was handed to the current connection; `None` until then.
    handed: Option<Instant>,
    /// The identifier it went out with; 0 until the event loop names it.
    packet_id: u16,
    acknowledged: bool,
}

/// The in-flight messages of the uplink, across connections.
#[derive(Debug, Default)]
pub(super) struct Flight {
    entries: VecDeque<Entry>,
    /// How many entries, from the front, were handed to the current connection.
    handed: usize,
    /// How many of those have their packet identifier.
    named: usize,
    /// Bytes of all records.
    bytes: usize,
    /// True once the current connection brought an acknowledgement.
    heard: bool,
    /// Messages that went out on the current connection, and those of them that were acknowledged.
    traffic: (u64, u64),
    suspicion: Suspicion,
    /// The last message that was acknowledged: the hub is known to take it.
    good: Option<Waiting>,
    control: Control,
}

/// A message known to be good, sent again to see whether the hub takes anything at all.
#[derive(Debug, Default, PartialEq, Eq)]
enum Control {
    #[default]
    None,
    Handed(Instant),
    Named(Instant, u16),
}

/// An acknowledged message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) id: MessageId,
    pub(super) lane: Lane,
    pub(super) created: Timestamp,
    /// When it was handed to this connection.
    pub(super) handed: Option<Instant>,
}

impl Flight {
    /// Empty; messages are suspects after so many closes of the line, see [`Suspicion`].
    pub(super) fn new(suspect_after: u32) -> Self {
        Self { suspicion: Suspicion::new(suspect_after), ..Self::default() }
    }

    /// Begins a connection: everything is to be handed over again.
    pub(super) fn restart(&mut self) {
        self.entries.retain(|entry| !entry.acknowledged);
        self.bytes = self.entries.iter().map(|entry| entry.len).sum();
        for entry in &mut self.entries {
            entry.handed = None;
            entry.packet_id = 0;
        }
        self.handed = 0;
        self.named = 0;
        self.heard = false;
        self.traffic = (0, 0);
        self.control = Control::None;
    }

    /// Messages between the oldest unacknowledged and the newest, both included: the window is measured in these.
    pub(super) fn span(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the same messages.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next message to hand over that an earlier connection left, in order.
    pub(super) fn left_over(&self) -> Option<&Waiting> {
        self.entries.get(self.handed).map(|entry| &entry.waiting)
    }

    /// Adds a message from the backlog.
    pub(super) fn add(&mut self, waiting: Waiting, created: Timestamp) {
        let len = waiting.record.len();
        self.bytes += len;
        self.entries.push_back(Entry { waiting, created, len, handed: None, packet_id: 0, acknowledged: false });
    }

    /// The next message is being handed to the connection.
    pub(super) fn hand(&mut self) {
        if let Some(entry) = self.entries.get_mut(self.handed) {
            entry.handed = Some(now());
            self.handed += 1;
        }
    }

    /// The event loop sent the oldest message that had no identifier yet: they go out as they were handed.
    pub(super) fn name(&mut self, packet_id: u16) {
        // It goes out before anything else is handed over.
        if let Control::Handed(at) = self.control {
            self.control = Control::Named(at, packet_id);
            self.traffic.0 += 1;
            return;
        }
        if let Some(entry) = self.entries.get_mut(self.named)
            && self.named < self.handed
        {
            entry.packet_id = packet_id;
            self.named += 1;
            self.traffic.0 += 1;
        }
    }

    /// The hub acknowledged an identifier.
    pub(super) fn acknowledge(&mut self, packet_id: u16) -> Option<Acknowledged> {
        self.heard = true;
        if matches!(self.control, Control::Named(_, id) if id == packet_id) {
            self.control = Control::None;
            self.traffic.1 += 1;
            return None;
        }
        let named = self.entries.iter_mut().take(self.named);
        let entry = named.into_iter().find(|entry| entry.packet_id == packet_id && !entry.acknowledged)?;
        entry.acknowledged = true;
        self.traffic.1 += 1;
        // Only the place in the order is still needed, not the bytes.
        let record = std::mem::replace(&mut entry.waiting.record, Bytes::new());
        let Waiting { id, lane, .. } = entry.waiting;
        let acknowledged = Acknowledged { id, lane, created: entry.created, handed: entry.handed };
        self.good = Some(Waiting { id, lane, record });
        self.suspicion.clear(id);
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.acknowledged) {
            self.bytes -= entry.len;
            self.handed -= 1;
            self.named -= 1;
        }
        Some(acknowledged)
    }

    /// Messages that went out on this connection, and those of them that were acknowledged.
    pub(super) fn traffic(&self) -> (u64, u64) {
        self.traffic
    }

    /// When the oldest unacknowledged message was handed to this connection.
    pub(super) fn oldest_handed(&self) -> Option<Instant> {
        match self.control {
            Control::Handed(at) | Control::Named(at, _) => Some(at),
            Control::None => self.entries.front().and_then(|entry| entry.handed),
        }
    }

    /// True while a handed message is not acknowledged.
    pub(super) fn is_waiting(&self) -> bool {
        self.handed > 0 || self.control != Control::None
    }

    /// The other side closed the line. Returns the verdict, and the message it convicts: it is in the flight no more.
    pub(super) fn closed(&mut self) -> (Verdict, Option<Waiting>) {
        if self.control != Control::None {
            // It does not take what it took before: nobody here is to blame.
            self.suspicion.forget();
            return (Verdict::Unproven, None);
        }
        let sent = self.entries.iter().take(self.named).filter(|entry| !entry.acknowledged);
        let verdict = self.suspicion.closed(sent.map(|entry| entry.waiting.id), self.heard);
        match verdict {
            Verdict::Convicted(id) => (verdict, self.take(id)),
            // With nothing known to be good, another one has to go first.
            Verdict::Unproven if self.good.is_none() => {
                self.restart();
                self.entries.rotate_left(usize::from(!self.entries.is_empty()));
                (verdict, None)
            }
            _ => (verdict, None),
        }
    }

    /// Takes a message out that is never to be sent. Only between connections.
    fn take(&mut self, id: MessageId) -> Option<Waiting> {
        self.restart();
        let at = self.entries.iter().position(|entry| entry.waiting.id == id)?;
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.len;
        Some(entry.waiting)
    }

    /// Takes out the message that was to be handed over next: it is never to be sent.
    pub(super) fn give_up(&mut self, id: MessageId) {
        if self.left_over().is_some_and(|next| next.id == id) {
            self.bytes -= self.entries.remove(self.handed).map_or(0, |entry| entry.len);
            self.suspicion.clear(id);
        }
    }

    /// How many messages known to be good go before the suspects.
    pub(super) fn controls(&self) -> u32 {
        self.suspicion.controls()
    }

    /// True while suspects are to be sent alone.
    pub(super) fn is_on_trial(&self) -> bool {
        self.suspicion.is_on_trial()
    }

    /// Ends a trial that has no suspect left to send.
    pub(super) fn acquit(&mut self) {
        self.suspicion.forget();
    }

    /// Puts a message before all others. Only before anything is handed to the connection.
    pub(super) fn add_first(&mut self, waiting: Waiting, created: Timestamp) {
        self.add(waiting, created);
        self.entries.rotate_right(1);
    }

    /// A message the hub is known to take.
    pub(super) fn good(&self) -> Option<Waiting> {
        self.good.clone()
    }

    /// The good message is being handed to the connection again.
    pub(super) fn hand_good(&mut self) {
        self.control = Control::Handed(now());
    }

    /// What was good cannot be sent any more: nothing is known to be.
    pub(super) fn forget_good(&mut self) {
        self.good = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(sequences: std::ops::Range<u64>) -> Flight {
        let mut flight = Flight::default();
        for sequence in sequences {
            let id = MessageId { spool: 0, sequence };
            flight.add(Waiting { id, lane: Lane::Live, record: bytes::Bytes::new() }, Timestamp(0));
        }
        flight
    }

    #[test]
    fn acknowledged_out_of_order_and_resent_in_order() {
        let mut flight = filled(10..14);
        for packet_id in 1..=3 {
            flight.hand();
            flight.name(packet_id);
        }
        let sequence = |flight: &mut Flight, id| flight.acknowledge(id).map(|a| a.id.sequence);
        assert_eq!(sequence(&mut flight, 2), Some(11));
        assert_eq!(flight.span(), 4, "11 is done, but 10 holds the window");
        assert_eq!(sequence(&mut flight, 2), None, "once only");
        assert_eq!(sequence(&mut flight, 9), None);
        assert_eq!(sequence(&mut flight, 1), Some(10));
        assert_eq!(flight.span(), 2);

        flight.restart();
        let mut resent = Vec::new();
        while let Some(waiting) = flight.left_over() {
            resent.push(waiting.id.sequence);
            flight.hand();
        }
        assert_eq!(resent, [12, 13]);
        assert_eq!(sequence(&mut flight, 3), None, "identifiers of the old connection mean nothing");
    }

    #[test]
    fn a_restart_does_not_resend_what_was_acknowledged_behind_a_gap() {
        let mut flight = filled(1..4);
        for packet_id in 1..=3 {
            flight.hand();
            flight.name(packet_id);
        }
        flight.acknowledge(3);
        flight.restart();
        let mut resent = Vec::new();
        while let Some(waiting) = flight.left_over() {
            resent.push(waiting.id.sequence);
            flight.hand();
        }
        assert_eq!(resent, [1, 2]);
    }
}
