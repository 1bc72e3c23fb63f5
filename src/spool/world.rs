//! A spool whose threads are the test, over the simulated disk, and the model it is held against.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::appender::lock;
use super::lanes::{ReadAhead, Taken, Turn};
use super::log::{Committed, Log};
use super::read::{Filled, ReadCore};
use super::sim::{Faults, SimDisk};
use super::*;

pub(super) const SEGMENT: u64 = 32 * 1024;

/// A spool without threads over a simulated disk, and what it owes.
pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) options: Options,
    pub(super) log: Log,
    pub(super) ahead: ReadAhead,
    pub(super) reader: Reader,
    pub(super) recovered: Recovered,
    /// Accepted and not acknowledged: sequence to content.
    pub(super) owed: BTreeMap<u64, Vec<u8>>,
    /// The last sequence that was reported durable.
    pub(super) durable: u64,
    pub(super) delivered: VecDeque<Stored>,
    /// Everything that was delivered since the spool was opened.
    pub(super) seen: BTreeSet<u64>,
    /// The last one delivered of the live and of the late lane.
    last: [u64; 2],
    /// What is late, and how often there was a new lane.
    pub(super) split: u64,
    pub(super) splits: u32,
    /// Segments behind the first were taken back.
    pub(super) hole: bool,
    /// Destroyed on purpose, so that losses are expected.
    pub(super) damaged: bool,
    pub(super) failed: bool,
    pub(super) content: u64,
}

pub(super) fn options(segments: u64) -> Options {
    Options { segment_size: Some(SEGMENT), ..Options::new("unused", segments * SEGMENT) }
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        Self::on(SimDisk::new(seed), options)
    }

    pub(super) fn on(disk: SimDisk, options: Options) -> Self {
        let (mut log, ahead, recovered) = assemble(Arc::new(disk.clone()), &options).expect("opens");
        log.tidy();
        if recovered.waiting.is_multiple_of(2) {
            log.list_every = 0;
        }
        let reader = Reader::new(log.shared.clone());
        Self {
            disk,
            options,
            log,
            ahead,
            reader,
            recovered,
            owed: BTreeMap::new(),
            durable: 0,
            delivered: VecDeque::new(),
            seen: BTreeSet::new(),
            last: [0, 0],
            split: 0,
            splits: 0,
            hole: false,
            damaged: false,
            failed: false,
            content: 0,
        }
    }

    pub(super) fn appender(&self) -> Appender {
        Appender { shared: self.log.shared.clone() }
    }

    pub(super) fn append(&mut self, sizes: &[usize]) -> Result<Ticket, AppendError> {
        let records: Vec<Vec<u8>> = sizes
            .iter()
            .map(|&size| {
                self.content += 1;
                let mut record = self.content.to_le_bytes().to_vec();
                record.resize(size.max(8), self.content as u8);
                record
            })
            .collect();
        let ticket = self.appender().try_append(records.iter().map(Vec::as_slice))?;
        let first = ticket.0 + 1 - records.len() as u64;
        self.owed.extend((first..).zip(records));
        Ok(ticket)
    }

    pub(super) fn commit(&mut self) {
        if !self.failed {
            if let Committed::Failed(_) = self.log.commit() {
                self.failed = true;
                lock(&self.log.shared.pending).closed = true;
                return;
            }
            self.log.tidy();
            self.durable = self.log.shared.durable.borrow().seq;
        }
    }

    /// Delivers up to `most` records, late ones among them if asked for.
    pub(super) fn read(&mut self, most: usize, late: bool) {
        for _ in 0..most {
            while self.ahead.turn() == Turn::Again {}
            let Taken::Record(stored) = self.reader.take(late) else { return };
            self.deliver(stored);
        }
    }

    fn deliver(&mut self, stored: Stored) {
        let lane = &mut self.last[usize::from(stored.late)];
        assert!(stored.seq > *lane, "{} after {lane}", stored.seq);
        *lane = stored.seq;
        assert!(stored.seq <= self.durable, "delivered before durable");
        assert_eq!(stored.late, stored.seq <= self.split, "the lane of {} after {}", stored.seq, self.split);
        assert!(self.seen.insert(stored.seq), "{} delivered twice", stored.seq);
        if stored.late {
            assert_eq!(self.live().next(), None, "{} went out before a live one", stored.seq);
        }
        let expect = self.owed.get(&stored.seq);
        assert_eq!(Some(&stored.record[..]), expect.map(Vec::as_slice), "content of {}", stored.seq);
        self.delivered.push_back(stored);
    }

    /// What is to be delivered in the live lane.
    fn live(&self) -> impl Iterator<Item = u64> + '_ {
        let durable = self.owed.keys().copied().filter(|seq| (self.split + 1..=self.durable).contains(seq));
        durable.filter(|seq| !self.seen.contains(seq))
    }

    /// What waits becomes late, after so many parts of a turn of the reader thread.
    pub(super) fn split(&mut self, over: u64, parts: u8) {
        let mut due = if parts > 0 { self.ahead.begin().ok() } else { None };
        let mut read = if parts > 1 { due.take().map(|due| self.ahead.read(due)) } else { None };
        let undelivered = self.live().count() as u64;
        let late = self.reader.split(over);
        if self.options.when_full == WhenFull::Refuse && !self.damaged {
            assert_eq!(late.is_some(), undelivered > over, "{undelivered} over {over}");
        }
        if late.is_some() {
            self.split = self.durable;
            self.splits += 1;
        }
        if let Some(due) = due {
            let _ = self.append(&[30, 40]);
            self.commit();
            read = Some(self.ahead.read(due));
        }
        if let Some(read) = read {
            self.ahead.deliver(read);
        }
        // The next one waits for the thread.
        self.ahead.turn();
    }

    pub(super) fn ack(&mut self, index: usize) {
        if self.delivered.is_empty() {
            return;
        }
        let stored = self.delivered.remove(index % self.delivered.len()).expect("in range");
        let acker = Acker { shared: self.log.shared.clone() };
        let shed =
            self.options.when_full == WhenFull::DropOldest && stored.seq <= lock(&self.log.shared.track).cursor();
        assert_eq!(acker.ack(stored.seq), !shed, "ack of {}", stored.seq);
        assert!(!acker.ack(stored.seq), "acknowledged twice");
        self.owed.remove(&stored.seq);
    }

    pub(super) fn check(&mut self) {
        self.hole |= lock(&self.log.shared.track).has_hole();
        let s = self.appender().stats();
        assert_eq!(s.appended + s.recovered, s.acked + s.shed + s.expired + s.lost + s.waiting, "{s:?}");
        assert!(s.late <= s.waiting, "{s:?}");
        assert!(s.disk_bytes <= self.options.max_size, "{s:?}");
        if self.options.when_full == WhenFull::Refuse && !self.damaged {
            assert_eq!(s.waiting, self.owed.len() as u64, "{s:?}");
            assert_eq!((s.lost, s.shed), (0, 0));
        }
    }

    /// Opens anew what is on disk. What was durable must be there; what was not may be.
    pub(super) fn reopen(&mut self) {
        let mut new = Self::on(self.disk.clone(), self.options.clone());
        new.damaged = self.damaged;
        new.content = self.content;
        (new.hole, new.splits) = (self.hole, self.splits);
        new.durable = new.log.shared.durable.borrow().seq;
        if new.appender().id() != self.appender().id() {
            // Nothing waited, and the last segment was lost to a failed write: the sequence begins anew.
            self.owed.retain(|seq, _| *seq <= self.durable && *seq > lock(&self.log.shared.track).cursor());
            assert!(self.owed.is_empty(), "begins anew and owes {:?}", self.owed);
            self.log.on_disk.clear();
            self.durable = 0;
        }
        assert!(new.durable >= self.durable, "durable to {}, found to {}", self.durable, new.durable);
        let cursor = lock(&new.log.shared.track).cursor();
        let oldest = self.owed.keys().find(|seq| **seq <= self.durable).copied();
        if self.options.when_full == WhenFull::Refuse {
            assert!(oldest.is_none_or(|seq| seq > cursor), "the cursor {cursor} is past {oldest:?}");
        }
        let recovered: Vec<u64> = {
            let track = lock(&new.log.shared.track);
            let known = |seq: u64| seq <= cursor || track.resolved().first_gap(seq) != seq;
            if new.appender().id() == self.appender().id() {
                let on_disk = self.log.on_disk.iter().flat_map(|&(first, last)| first..=last);
                assert!(on_disk.into_iter().all(known), "{:?} was on disk: {track:?}", self.log.on_disk);
            }
            (cursor + 1..=new.durable).filter(|seq| !known(*seq)).collect()
        };
        assert_eq!(new.recovered.waiting, recovered.len() as u64);
        if !self.damaged {
            let lacks = self.owed.keys().find(|seq| **seq <= self.durable && recovered.binary_search(seq).is_err());
            assert!(lacks.is_none() || self.options.when_full == WhenFull::DropOldest, "{lacks:?} is not there");
        }
        // Read everything once with its own reader, then begin again.
        let mut out = VecDeque::new();
        assert_eq!(ReadCore::new(new.log.shared.clone()).fill(&mut out, usize::MAX, usize::MAX), Filled::AllDurable);
        if !self.damaged {
            assert_eq!(out.iter().map(|stored| stored.seq).collect::<Vec<_>>(), recovered, "all of the backlog");
        }
        for stored in &out {
            if let Some(expect) = self.owed.get(&stored.seq) {
                assert_eq!(stored.record, expect);
            }
        }
        for stored in out {
            new.owed.insert(stored.seq, stored.record.to_vec());
        }
        *self = new;
    }

    /// The spool works again once nothing goes wrong any more: everything owed comes, and new records too.
    pub(super) fn prove(&mut self) {
        self.disk.set_faults(Faults::default());
        self.disk.set_capacity(u64::MAX);
        if self.failed {
            self.disk.power_cut();
            self.reopen();
        }
        self.log.retry();
        self.commit();
        for _ in 0..200 {
            self.read(usize::MAX, true);
            while !self.delivered.is_empty() {
                self.ack(0);
            }
            self.log.write_cursor(true);
            self.log.retry();
            self.commit();
            if self.owed.is_empty() {
                break;
            }
            if self.options.when_full == WhenFull::DropOldest {
                let cursor = lock(&self.log.shared.track).cursor();
                self.owed.retain(|seq, _| *seq > cursor);
            }
        }
        assert!(self.damaged || self.owed.is_empty(), "never delivered: {:?}", self.owed.keys());
        self.log.tidy();
        let ticket = self.append(&[100]).expect("room in an empty spool");
        self.commit();
        assert_eq!(self.durable, ticket.0);
        self.read(usize::MAX, true);
        assert_eq!(self.delivered.pop_back().map(|stored| stored.seq), Some(ticket.0));
        self.check();
    }
}
