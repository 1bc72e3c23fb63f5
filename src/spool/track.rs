//! What is known about every record that is not in the pending batch: where its segment is and whether it still waits.
//!
//! Pure. The account `appended + recovered = acked + shed + lost + waiting` is kept here: a sequence above the
//! cursor is either waiting or *resolved* (acknowledged out of order, or found lost), one at or below it is
//! resolved, and each becomes so exactly once.

use std::collections::{BTreeMap, VecDeque};

use super::format::segment_name;

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

/// Records and segments; see the module.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Every sequence up to this one is resolved.
    cursor: u64,
    /// Resolved ranges above the cursor, first to last, with a gap between any two.
    resolved: BTreeMap<u64, u64>,
    resolved_len: u64,
    segments: VecDeque<Segment>,
    /// The last sequence that is durable.
    durable: u64,
    /// Durable bytes of the active segment.
    durable_end: u64,
    /// First sequence and time of blocks that were read, about one a second.
    times: VecDeque<(u64, i64)>,
    /// The highest sequence `times` knows.
    read_to: u64,
    pub(super) last_commit: i64,
    pub(super) acked: u64,
    pub(super) shed: u64,
    pub(super) lost: u64,
}

impl Track {
    pub(super) fn new(cursor: u64, durable: u64, segments: VecDeque<Segment>) -> Self {
        Self { cursor, durable, segments, ..Self::default() }
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// Sequences up to `last` that still wait.
    pub(super) fn waiting(&self, last: u64) -> u64 {
        last.saturating_sub(self.cursor).saturating_sub(self.resolved_len)
    }

    /// False if the record was acknowledged, shed or lost before, or was never durable.
    pub(super) fn ack(&mut self, seq: u64) -> bool {
        let counted = seq <= self.durable && self.resolve(seq, seq) == 1;
        self.acked += u64::from(counted);
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
        let (mut start, mut end, mut known) = (first, last, 0);
        // Swallow every range that touches the new one; the acknowledgement in order meets none.
        while let Some((&other_first, &other_last)) = self.resolved.range(..=end + 1).next_back() {
            if other_last + 1 < start {
                break;
            }
            let overlap = last.min(other_last) + 1;
            known += overlap.saturating_sub(first.max(other_first));
            self.resolved.remove(&other_first);
            self.resolved_len -= other_last - other_first + 1;
            start = start.min(other_first);
            end = end.max(other_last);
        }
        if start == self.cursor + 1 {
            self.cursor = end;
        } else {
            self.resolved.insert(start, end);
            self.resolved_len += end - start + 1;
        }
        last - first + 1 - known
    }

    /// Gives up the oldest segment if it is sealed; its waiting records are counted as shed.
    pub(super) fn shed_front(&mut self) -> Option<(Segment, u64)> {
        let front = *self.segments.front().filter(|segment| !segment.is_active())?;
        let shed = self.resolve(self.cursor + 1, front.last_seq);
        self.shed += shed;
        self.segments.pop_front();
        Some((front, shed))
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

    /// The reader came upon a block that was appended at `time`.
    pub(super) fn block_read(&mut self, first_seq: u64, end_seq: u64, time: i64) {
        if self.read_to <= self.cursor {
            self.times.clear();
        }
        if self.times.back().is_none_or(|&(_, last)| time >= last.saturating_add(1000) || time < last) {
            self.times.push_back((first_seq, time));
        }
        self.read_to = end_seq - 1;
    }

    /// When the oldest waiting record was appended, to about a second.
    pub(super) fn oldest(&mut self, last: u64) -> Option<i64> {
        if self.waiting(last) == 0 {
            return None;
        }
        let oldest = self.cursor + 1;
        while self.times.get(1).is_some_and(|&(first, _)| first <= oldest) {
            self.times.pop_front();
        }
        if oldest <= self.read_to
            && let Some(&(_, time)) = self.times.front()
        {
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
            let mut track = Track::new(0, 50, segments);
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
                    _ => if seq < 4 && let Some((front, shed)) = track.shed_front() {
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
        let mut track = Track::new(0, 20, [segment(1, 10), segment(11, 20)].into());
        assert_eq!(track.free_front(true), None);
        (1..=20).for_each(|seq| assert!(track.ack(seq)));
        assert_eq!(track.free_front(false), Some(segment(1, 10)));
        assert_eq!(track.free_front(false), None);
        assert_eq!(track.free_front(true), Some(segment(11, 20)));
    }
}
