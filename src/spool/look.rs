//! Looking at what waits without taking it, and withdrawing it: for an operator.
//!
//! A [`Look`] walks the segments on its own. It changes nothing, counts no damage and holds no lock while it reads, so
//! what it shows may be delivered at the same moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Stored;
use super::appender::{Acker, Appender, Shared, lock};
use super::format::{PAGE, record_at};
use super::segment::{Found, Window};
use super::track::View;

/// Walks what waits, in order.
pub struct Look {
    shared: Arc<Shared>,
    next: u64,
    place: Option<Place>,
    block: Option<Block>,
}

struct Place {
    segment: (u64, u32),
    window: Window,
    pos: u64,
}

struct Block {
    body: Bytes,
    at: usize,
    seq: u64,
    end_seq: u64,
}

impl Appender {
    /// Looks at what waits and is durable, from the oldest on.
    pub fn look(&self) -> Look {
        Look { shared: self.shared.clone(), next: 0, place: None, block: None }
    }

    /// The sequence of the record that was taken last.
    pub fn last(&self) -> u64 {
        lock(&self.shared.pending).next_seq - 1
    }

    /// How many records up to this one still wait.
    pub fn waiting_up_to(&self, last: u64) -> u64 {
        let track = lock(&self.shared.track);
        let above = track.resolved().len_above(last);
        last.saturating_sub(track.cursor()).saturating_sub(track.resolved().len() - above)
    }

    /// Whether more records may be withdrawn one here and one there: a crash brings back what the disk cannot remember.
    pub fn may_scatter(&self) -> bool {
        lock(&self.shared.track).resolved().count() * 2 <= self.shared.geometry.ranges
    }

    /// Gives a record up at an operator's wish. False if it does not wait any more. What the uplink has in its hands
    /// may still be sent.
    pub fn withdraw(&self, seq: u64) -> bool {
        self.shared.withdrawn.store(true, Ordering::Release);
        Acker { shared: self.shared.clone() }.ack(seq)
    }
}

impl Look {
    /// The next record that waits at this moment; `None` at the end. It reads from disk.
    pub fn next_waiting(&mut self) -> Option<Stored> {
        loop {
            if let Some(stored) = self.next_of_block() {
                return Some(stored);
            }
            let view = {
                let track = lock(&self.shared.track);
                self.next = track.resolved().first_gap(self.next.max(track.cursor() + 1));
                track.view(self.next)?
            };
            self.next = self.next.max(view.segment.first_seq);
            if !self.read_block(&view) {
                self.next = view.last_seq + 1;
            }
        }
    }

    fn next_of_block(&mut self) -> Option<Stored> {
        loop {
            let block = self.block.as_mut()?;
            let range = if block.seq < block.end_seq { record_at(&block.body, block.at) } else { None };
            let Some(range) = range else {
                self.next = self.next.max(block.end_seq);
                self.block = None;
                return None;
            };
            let seq = block.seq;
            block.seq += 1;
            block.at = range.end;
            let record = block.body.slice(range);
            if seq >= self.next && lock(&self.shared.track).is_waiting(seq) {
                self.next = seq + 1;
                return Some(Stored { seq, late: false, record });
            }
        }
    }

    /// Finds the block with the next record, or the first one behind it; false where the segment has none.
    fn read_block(&mut self, view: &View) -> bool {
        let segment = (view.segment.first_seq, view.segment.salt);
        if self.place.as_ref().is_none_or(|place| place.segment != segment) {
            let Ok(file) = self.shared.disk.open(&view.segment.name()) else { return false };
            self.place = Some(Place { segment, window: Window::new(file, segment.1), pos: PAGE as u64 });
        }
        let Some(place) = &mut self.place else { return false };
        loop {
            match place.window.block(place.pos, view.end) {
                Found::Block(header, body) => {
                    place.pos += header.len_on_disk() as u64;
                    if header.count > 0 && header.end_seq() > self.next && header.first_seq <= view.last_seq {
                        let end_seq = header.end_seq().min(view.last_seq + 1);
                        self.block = Some(Block { body, at: 0, seq: header.first_seq, end_seq });
                        return true;
                    }
                }
                Found::BadBody(header) => place.pos += header.len_on_disk() as u64,
                Found::Nothing => match place.window.search(place.pos + 8, view.end) {
                    Some(found) => place.pos = found,
                    None => return false,
                },
            }
        }
    }
}

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Look").field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, open};

    #[tokio::test]
    async fn what_waits_is_seen_and_what_is_withdrawn_is_not_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_size: Some(64 << 10), ..Options::new(dir.path(), 4 << 20) };
        let mut opened = open(options.clone()).unwrap();
        let record = |n: u64| format!("{n:0500}").into_bytes();
        for n in 1..=1_000 {
            let one = record(n);
            while opened.appender.try_append(std::iter::once(one.as_slice())).is_err() {
                opened.appender.room().await;
            }
        }
        opened.appender.durable().wait_for(|durable| durable.seq == 1_000).await.unwrap();
        let seen = |appender: &super::Appender| {
            let mut look = appender.look();
            let mut seen = Vec::new();
            while let Some(stored) = look.next_waiting() {
                assert_eq!(stored.record, record(stored.seq));
                seen.push(stored.seq);
            }
            seen
        };
        assert_eq!(seen(&opened.appender), (1..=1_000).collect::<Vec<_>>());
        for seq in (1..=10).chain(500..=510) {
            assert!(opened.acker.ack(seq));
        }
        // Some of these are read ahead already, some are not.
        for seq in [11, 12, 400, 999] {
            assert!(opened.appender.withdraw(seq));
            assert!(!opened.appender.withdraw(seq), "once");
        }
        assert!(!opened.appender.withdraw(5), "delivered");
        let left: Vec<u64> = (13..=1_000).filter(|n| !(500..=510).contains(n) && ![400, 999].contains(n)).collect();
        assert_eq!(seen(&opened.appender), left);
        let mut delivered = Vec::new();
        while delivered.last() != Some(&1_000) {
            delivered.push(opened.reader.next(true).await.unwrap().seq);
        }
        for withdrawn in [11, 12, 400, 999] {
            assert!(!delivered.contains(&withdrawn), "{withdrawn}");
        }
        let stats = opened.appender.stats();
        assert_eq!((stats.waiting, stats.acked), (left.len() as u64, 1_000 - left.len() as u64));

        // A flipped bit costs the look its block, and nothing is counted by looking.
        opened.spool.close().unwrap();
        let file = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = file.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).collect();
        files.sort();
        let mut bytes = std::fs::read(&files[2]).unwrap();
        bytes[4_096 + 100] ^= 1;
        std::fs::write(&files[2], bytes).unwrap();
        let opened = open(options).unwrap();
        let damaged = seen(&opened.appender);
        assert!(damaged.len() < left.len() && damaged.len() > left.len() - 200, "{}", damaged.len());
        assert!(damaged.iter().all(|seq| left.contains(seq)));
    }
}
