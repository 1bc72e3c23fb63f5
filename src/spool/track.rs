//! What is known about every record that is not in the pending batch: where its segment is and whether it still waits.
//!
//! Pure. The account `appended + recovered = acked + shed + expired + lost + waiting` is kept here: a sequence above the
//! cursor is either waiting or *resolved* (acknowledged out of order or in the live lane, or found lost), one at or
//! below it is resolved, and each becomes so exactly once.

use std::collections::VecDeque;

use super::format::segment_name;
use super::ranges::{Range, Ranges};

/// A live segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first_seq: u64,
    /// Its last sequence; `u64::MAX` while it is the active one.
    pub(super) last_seq: u64,
    pub(super) salt: u32,
    pub(super) len: u64,
    pub(super) created: i64,
}

impl Segment {
    pub(super) fn name(&self) -> String {
        segment_name(self.first_seq, self.salt)
    }

    pub(super) fn is_active(&self) -> bool {
        self.last_seq == u64::MAX
    }
}

/// Where the reader may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub(super) segment: Segment,
    /// Bytes of the segment that may be read.
    pub(super) end: u64,
    /// The last sequence that may be delivered from it.
    pub(super) last_seq: u64,
}

/// When the blocks that a lane has read were appended.
#[derive(Debug, Default)]
struct Times {
    /// First sequence and time, about one a second.
    blocks: VecDeque<(u64, i64)>,
    /// The highest sequence it knows.
    read_to: u64,
}

impl Times {
    fn read(&mut self, first_seq: u64, end_seq: u64, time: i64) {
        if self.blocks.back().is_none_or(|&(_, last)| time >= last.saturating_add(1000) || time < last) {
            self.blocks.push_back((first_seq, time));
        }
        self.read_to = end_seq - 1;
    }

    /// Forgets what is not needed to tell the time of `seq` and what comes after it.
    fn forget_before(&mut self, seq: u64) {
        if self.read_to < seq {
            self.blocks.clear();
        }
        while self.blocks.get(1).is_some_and(|&(first, _)| first <= seq) {
            self.blocks.pop_front();
        }
    }

    fn of(&self, seq: u64) -> Option<i64> {
        self.blocks.front().filter(|_| seq <= self.read_to).map(|&(_, time)| time)
    }
}

/// Why a record that waits is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// There is no room.
    Full,
    /// It is older than asked for.
    TooOld,
}

/// Records and segments; see the module.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Every sequence up to this one is resolved.
    cursor: u64,
    /// What is resolved above the cursor, never the sequence that follows it.
    resolved: Ranges,
    /// Sequences up to this one are in the late lane.
    split: u64,
    segments: VecDeque<Segment>,
    /// The last sequence that is durable.
    durable: u64,
    /// Durable bytes of the active segment.
    durable_end: u64,
    late_times: Times,
    live_times: Times,
    pub(super) last_commit: i64,
    pub(super) acked: u64,
    pub(super) shed: u64,
    pub(super) expired: u64,
    pub(super) lost: u64,
}

impl Track {
    pub(super) fn new(cursor: u64, resolved: &[Range], durable: u64, segments: VecDeque<Segment>) -> Self {
        let mut track = Self { cursor, durable, segments, ..Self::default() };
        for &(first, last) in resolved {
            track.resolve(first, last.min(durable));
        }
        track
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// What is resolved above the cursor.
    pub(super) fn resolved(&self) -> &Ranges {
        &self.resolved
    }

    /// Whether a sequence is durable and still waits.
    pub(super) fn is_waiting(&self, seq: u64) -> bool {
        seq > self.cursor && seq <= self.durable && self.resolved.first_gap(seq) == seq
    }

    /// Sequences up to `last` that still wait.
    pub(super) fn waiting(&self, last: u64) -> u64 {
        last.saturating_sub(self.cursor).saturating_sub(self.resolved.len())
    }

    /// Durable sequences above `seq` that still wait.
    pub(super) fn waiting_above(&self, seq: u64) -> u64 {
        let seq = seq.max(self.cursor);
        self.durable.saturating_sub(seq).saturating_sub(self.resolved.len_above(seq))
    }

    /// Sequences of the late lane that still wait.
    pub(super) fn late(&self) -> u64 {
        if self.split <= self.cursor {
            return 0;
        }
        self.split - self.cursor - (self.resolved.len() - self.resolved.len_above(self.split))
    }

    /// Everything durable becomes late. Says up to where, and where the segment goes on behind it.
    pub(super) fn split(&mut self) -> (u64, Option<(Segment, u64)>) {
        let live_times = std::mem::take(&mut self.live_times);
        if self.late() == 0 {
            self.late_times = live_times;
        }
        self.split = self.durable;
        let active = self.segments.back().filter(|segment| segment.is_active());
        (self.split, active.map(|segment| (*segment, self.durable_end)))
    }

    /// False if the record was acknowledged, shed or lost before, or was never durable.
    pub(super) fn ack(&mut self, seq: u64) -> bool {
        let counted = seq <= self.durable && self.resolve(seq, seq) == 1;
        self.acked += u64::from(counted);
        counted
    }

    /// As [`ack`](Self::ack), for all from `first` to `last`; says how many there were.
    pub(super) fn ack_range(&mut self, first: u64, last: u64) -> u64 {
        let counted = self.resolve(first, last.min(self.durable));
        self.acked += counted;
        counted
    }

    /// As [`ack`](Self::ack), for a record that was not sent because it is too old.
    pub(super) fn expire(&mut self, seq: u64) -> bool {
        let counted = seq <= self.durable && self.resolve(seq, seq) == 1;
        self.expired += u64::from(counted);
        counted
    }

    /// Counts the records of the range that still wait as lost, and says how many there were.
    pub(super) fn lose(&mut self, first: u64, last: u64) -> u64 {
        let lost = self.resolve(first, last);
        self.lost += lost;
        lost
    }

    fn resolve(&mut self, first: u64, last: u64) -> u64 {
        let first = first.max(self.cursor + 1);
        if first > last {
            return 0;
        }
        if first == self.cursor + 1 && self.resolved.count() == 0 {
            // In order, as nearly always.
            self.cursor = last;
            return last - first + 1;
        }
        let new = self.resolved.insert(first, last);
        if let Some(end) = self.resolved.take(self.cursor + 1) {
            self.cursor = end;
        }
        new
    }

    /// Gives up the oldest segment if it is sealed, and counts its waiting records.
    pub(super) fn shed_front(&mut self, why: GivenUp) -> Option<(Segment, u64)> {
        let front = *self.segments.front().filter(|segment| !segment.is_active())?;
        let shed = self.resolve(self.cursor + 1, front.last_seq);
        match why {
            GivenUp::Full => self.shed += shed,
            GivenUp::TooOld => self.expired += shed,
        }
        self.segments.pop_front();
        Some((front, shed))
    }

    /// True if everything in the oldest segment was appended before `time`: so was the beginning of the next.
    pub(super) fn front_is_before(&self, time: i64) -> bool {
        let next = self.segments.get(1);
        next.is_some_and(|next| next.created > 0 && next.created < time)
    }

    /// Takes out the oldest segment if nothing in it waits. The very last one stays, it keeps the sequence,
    /// unless `even_last`.
    pub(super) fn free_front(&mut self, even_last: bool) -> Option<Segment> {
        if self.has_free_front() || (even_last && self.segments.len() == 1) {
            return self.segments.pop_front_if(|segment| segment.last_seq <= self.cursor);
        }
        None
    }

    pub(super) fn has_free_front(&self) -> bool {
        self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.last_seq <= self.cursor)
    }

    /// Takes out a segment behind the first in which nothing waits, if the disk knows that: a start that knew only
    /// the cursor would take its records for lost.
    pub(super) fn free_middle(&mut self, on_disk: &[Range]) -> Option<Segment> {
        let sealed = self.segments.len().checked_sub(1)?;
        let at = self.segments.iter().take(sealed).skip(1).position(|segment| {
            let within = |&(first, last): &Range| first <= segment.first_seq && segment.last_seq <= last;
            segment.first_seq <= segment.last_seq && on_disk.iter().any(within)
        })?;
        self.segments.remove(at + 1)
    }

    /// Whether segments behind the first were taken out.
    #[cfg(test)]
    pub(super) fn has_hole(&self) -> bool {
        let next = self.segments.iter().skip(1);
        self.segments.iter().zip(next).any(|(segment, next)| segment.last_seq + 1 < next.first_seq)
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// A new active segment; the one before it is sealed.
    pub(super) fn push_active(&mut self, segment: Segment, end: u64) {
        self.seal_active(segment.first_seq - 1);
        self.segments.push_back(segment);
        self.durable_end = end;
    }

    pub(super) fn seal_active(&mut self, last_seq: u64) {
        if let Some(active) = self.segments.back_mut().filter(|segment| segment.is_active()) {
            active.last_seq = last_seq;
        }
    }

    /// Takes out the segment before the last if it holds no record.
    pub(super) fn take_empty_before_last(&mut self) -> Option<Segment> {
        let at = self.segments.len().checked_sub(2)?;
        let segment = self.segments.get(at)?;
        if segment.last_seq < segment.first_seq { self.segments.remove(at) } else { None }
    }

    pub(super) fn committed(&mut self, durable: u64, end: u64) {
        self.durable = durable;
        self.durable_end = end;
    }

    /// Where the record `expected`, or the first durable one after it, is to be looked for.
    pub(super) fn view(&self, expected: u64) -> Option<View> {
        let at = self.segments.partition_point(|segment| segment.last_seq < expected);
        let segment = *self.segments.get(at)?;
        let active = segment.is_active();
        let view = View {
            segment,
            end: if active { self.durable_end } else { segment.len },
            last_seq: if active { self.durable } else { segment.last_seq },
        };
        (expected <= view.last_seq).then_some(view)
    }

    /// A reader came upon a block that was appended at `time`.
    pub(super) fn block_read(&mut self, first_seq: u64, end_seq: u64, time: i64) {
        if end_seq <= self.split + 1 {
            self.late_times.forget_before(self.cursor + 1);
            self.late_times.read(first_seq, end_seq, time);
        } else {
            self.live_times.forget_before(self.first_live());
            self.live_times.read(first_seq, end_seq, time);
        }
    }

    fn first_live(&self) -> u64 {
        self.resolved.first_gap(self.split.max(self.cursor) + 1)
    }

    /// When the oldest waiting record was appended, to about a second.
    pub(super) fn oldest(&mut self, last: u64) -> Option<i64> {
        if self.waiting(last) == 0 {
            return None;
        }
        let oldest = self.cursor + 1;
        let times = if oldest <= self.split { &mut self.late_times } else { &mut self.live_times };
        times.forget_before(oldest);
        if let Some(time) = times.of(oldest) {
            return Some(time);
        }
        let segment = self.segments.iter().find(|segment| oldest <= segment.last_seq)?;
        Some(if segment.is_active() { self.last_commit } else { segment.created })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn segment(first_seq: u64, last_seq: u64) -> Segment {
        Segment { first_seq, last_seq, salt: 0, len: 100, created: 0 }
    }

    proptest! {
        #[test]
        fn every_sequence_is_resolved_once(ops in proptest::collection::vec((0..3u8, 1..60u64, 0..9u64), 0..80)) {
            let segments = (0..5).map(|n| segment(n * 10 + 1, n * 10 + 10)).collect();
            let mut track = Track::new(0, &[], 50, segments);
            let mut waiting: BTreeSet<u64> = (1..=50).collect();
            for (op, seq, len) in ops {
                match op {
                    0 => prop_assert_eq!(track.ack(seq), waiting.remove(&seq)),
                    1 => {
                        let last = (seq + len).min(50);
                        let before = waiting.len();
                        waiting.retain(|s| !(seq..=last).contains(s));
                        prop_assert_eq!(track.lose(seq, last), (before - waiting.len()) as u64);
                    }
                    _ => if seq < 4 && let Some((front, shed)) = track.shed_front(GivenUp::Full) {
                        let before = waiting.len();
                        waiting.retain(|s| *s > front.last_seq);
                        prop_assert_eq!(shed, (before - waiting.len()) as u64);
                    }
                }
                prop_assert_eq!(track.waiting(50), waiting.len() as u64);
                prop_assert_eq!(track.cursor(), waiting.first().map_or(50, |first| first - 1));
                prop_assert_eq!(50, track.acked + track.lost + track.shed + track.waiting(50));
            }
        }
    }

    #[test]
    fn the_last_segment_stays_to_keep_the_sequence() {
        let mut track = Track::new(0, &[], 20, [segment(1, 10), segment(11, 20)].into());
        assert_eq!(track.free_front(true), None);
        (1..=20).for_each(|seq| assert!(track.ack(seq)));
        assert_eq!(track.free_front(false), Some(segment(1, 10)));
        assert_eq!(track.free_front(false), None);
        assert_eq!(track.free_front(true), Some(segment(11, 20)));
    }
}
