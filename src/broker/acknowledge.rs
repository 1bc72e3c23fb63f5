//! Acknowledgements that wait for their publish to be durable.
//!
//! This queue is the only place from which a PUBACK or PUBREC can leave (invariant 1 of
//! ARCHITECTURE.md): an entry is put in with the sequences its publish got from the ingest, and
//! [`release`](Acknowledgements::release) gives entries out from the front, in the order of the
//! publishes, while what they wait for is on disk.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use tokio::time::Instant;

use super::Sequences;
use super::wire::Outgoing;

/// What acknowledges a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// QoS 1.
    PubAck,
    /// QoS 2.
    PubRec,
}

#[derive(Debug)]
struct Entry {
    packet_id: NonZeroU16,
    kind: Kind,
    waits_for: Sequences,
    read: Instant,
    refused: bool,
}

/// The acknowledgements one connection owes.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    queue: VecDeque<Entry>,
    pubacks: usize,
}

impl Acknowledgements {
    /// Owes the acknowledgement of a publish read at `read`, due when what it `waits_for` is durable.
    pub(super) fn owe(&mut self, packet_id: NonZeroU16, kind: Kind, waits_for: Sequences, read: Instant) {
        self.pubacks += usize::from(kind == Kind::PubAck);
        self.queue.push_back(Entry { packet_id, kind, waits_for, read, refused: false });
    }

    /// Owes the answer to a publish its client was not allowed to make.
    pub(super) fn refuse(&mut self, packet_id: NonZeroU16, kind: Kind, read: Instant) {
        self.pubacks += usize::from(kind == Kind::PubAck);
        self.queue.push_back(Entry { packet_id, kind, waits_for: Sequences::NONE, read, refused: true });
    }

    /// How many are owed.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many of them are for QoS 1.
    pub(super) fn pubacks(&self) -> usize {
        self.pubacks
    }

    /// What the oldest one waits for.
    pub(super) fn waits_for(&self) -> Option<Sequences> {
        self.queue.front().map(|entry| entry.waits_for)
    }

    /// Takes the oldest acknowledgement if what it waits for is on disk, with the moment its publish was read.
    pub(super) fn release(&mut self, is_durable: impl FnOnce(Sequences) -> bool) -> Option<(Outgoing, Instant)> {
        let entry = self.queue.pop_front_if(|entry| is_durable(entry.waits_for))?;
        self.pubacks -= usize::from(entry.kind == Kind::PubAck);
        let packet = match entry.kind {
            kind if entry.refused => Outgoing::NotAuthorized(kind, entry.packet_id),
            Kind::PubAck => Outgoing::PubAck(entry.packet_id),
            Kind::PubRec => Outgoing::PubRec(entry.packet_id),
        };
        Some((packet, entry.read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_in_order_and_only_when_durable() {
        let id = |n| NonZeroU16::new(n).unwrap();
        let mut owed = Acknowledgements::default();
        // 2 needs no commit (dropped by a rule) but must not overtake 1.
        for (packet_id, kind, sequence) in [(1, Kind::PubAck, 5), (2, Kind::PubAck, 0), (3, Kind::PubRec, 7)] {
            owed.owe(id(packet_id), kind, Sequences::of(0, sequence), Instant::now());
        }
        for (durable, expect) in [(4, vec![]), (5, vec![1, 2]), (6, vec![]), (9, vec![3])] {
            let mut got = Vec::new();
            while let Some((packet, _)) = owed.release(|waits_for| waits_for.in_log(0) <= durable) {
                match packet {
                    Outgoing::PubAck(id) | Outgoing::PubRec(id) => got.push(id.get()),
                    _ => unreachable!("only acknowledgements are owed"),
                }
            }
            assert_eq!(got, expect, "durable {durable}");
        }
    }
}
