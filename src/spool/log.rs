//! The writing side: commits batches, rolls to the next segment, keeps spares ready, takes back what is done with.
//!
//! No threads and no clock of its own: `writer` drives it in the product, the tests drive it step by step.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::appender::{Shared, lock};
use super::batch::{Batch, Seal, cursor_block, list_len};
use super::disk::{DiskFile, is_full};
use super::format::{BLOCK_HEADER, PAGE, SegmentHeader};
use super::ranges::Range;
use super::track::Segment;
use super::{Durability, Options, WhenFull};

/// Spares to keep: one to append to next, and one so that a full disk can still record acknowledgements.
pub(super) const SPARES: usize = 2;
/// A busy spool writes the resolved ranges at most this often, in milliseconds.
const LIST_EVERY: i64 = 250;

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Committed {
    /// There was nothing to write.
    Nothing,
    /// So many records are durable.
    Records(u64),
    /// The disk has no room even for what was accepted; the batch is kept, try again later.
    NoRoom,
    /// The batch could not be made durable on two segments. The spool is at its end.
    Failed(String),
}

/// The writer's state.
pub(super) struct Log {
    pub(super) shared: Arc<Shared>,
    durability: Durability,
    pub(super) when_full: WhenFull,
    /// In milliseconds.
    pub(super) max_age: Option<i64>,
    pub(super) spares: Vec<Spare>,
    pub(super) active: Option<Active>,
    batch: Batch,
    /// The batch holds records that are not durable yet.
    pub(super) taken: bool,
    /// What the last block with a cursor, and the last one with ranges, says, and whether they are synced.
    cursor: u64,
    listed: Vec<Range>,
    unsynced: bool,
    /// The ranges that are surely on the disk, in the segment that a start would read.
    pub(super) on_disk: Vec<Range>,
    /// When ranges were last written with a commit, and how long it takes until they may be again.
    listed_at: i64,
    pub(super) list_every: i64,
    /// Creating a spare failed; wait for [`retry`](Self::retry).
    pub(super) no_space: bool,
    /// The shortage has been logged.
    pub(super) told_no_space: bool,
}

pub(super) struct Spare {
    pub(super) name: String,
    pub(super) len: u64,
}

pub(super) struct Active {
    file: Arc<dyn DiskFile>,
    salt: u32,
    at: usize,
    len: usize,
}

impl Active {
    fn left(&self) -> usize {
        self.len.saturating_sub(self.at)
    }
}

impl Log {
    pub(super) fn new(shared: Arc<Shared>, options: &Options, spares: Vec<(String, u64)>) -> Self {
        let batch = Batch::new(shared.geometry.block);
        let (cursor, listed) = {
            let track = lock(&shared.track);
            (track.cursor(), track.resolved().list(shared.geometry.ranges))
        };
        let spares = spares.into_iter().map(|(name, len)| Spare { name, len }).collect();
        let active = None;
        Self {
            shared,
            durability: options.durability,
            when_full: options.when_full,
            max_age: options.max_age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
            spares,
            active,
            batch,
            taken: false,
            cursor,
            listed,
            unsynced: false,
            on_disk: Vec::new(),
            listed_at: 0,
            list_every: LIST_EVERY,
            no_space: false,
            told_no_space: false,
        }
    }

    /// Makes the pending batch durable and says so.
    pub(super) fn commit(&mut self) -> Committed {
        if !self.taken {
            self.take();
        }
        if !self.taken {
            return Committed::Nothing;
        }
        let mut failures = Vec::new();
        while failures.len() < 2 {
            match self.write_batch() {
                Ok(true) => return Committed::Records(self.publish()),
                Ok(false) => {
                    self.shared.written.no_room.store(true, Ordering::Relaxed);
                    return Committed::NoRoom;
                }
                Err(error) => {
                    // What a failed write or fsync left behind is unknown, and asking again would be answered
                    // "fine": this segment is finished.
                    tracing::error!(%error, "spool: a commit failed; writing it again to a fresh segment");
                    self.finish_segment(self.batch.first_seq());
                    failures.push(error.to_string());
                }
            }
        }
        Committed::Failed(failures.join("; then "))
    }

    /// Writes what is resolved if no block has told since it changed; `sync` also makes it durable.
    /// Says whether a later call has something to do.
    pub(super) fn write_cursor(&mut self, sync: bool) -> bool {
        let (cursor, list) = self.mark_resolved();
        let list = if list == self.listed { Vec::new() } else { list };
        if (cursor != self.cursor || !list.is_empty()) && !self.taken {
            let Some(next_seq) = self.reserve_cursor(list_len(list.len())) else {
                self.shared.cursor_moved.store(true, Ordering::Release);
                return true;
            };
            if let Err(error) = self.put_cursor(next_seq, (cursor, list)) {
                tracing::warn!(%error, "spool: the cursor cannot be written");
                if !is_full(&error) {
                    self.finish_segment(next_seq);
                }
            }
        }
        if sync && self.unsynced {
            self.unsynced = false;
            match self.active.as_ref().map(|active| self.sync_file(&*active.file)) {
                Some(Ok(())) => self.on_disk.clone_from(&self.listed),
                Some(Err(error)) => {
                    tracing::error!(%error, "spool: the cursor cannot be made durable");
                    let next_seq = lock(&self.shared.track).durable() + 1;
                    self.finish_segment(next_seq);
                }
                None => {}
            }
        }
        self.unsynced
    }

    /// Records were accepted that are not durable yet.
    pub(super) fn has_batch(&self) -> bool {
        self.taken
    }

    pub(super) fn wants_retry(&self) -> bool {
        self.no_space || self.taken
    }

    fn take(&mut self) {
        let mut pending = lock(&self.shared.pending);
        if pending.batch.count() == 0 {
            return;
        }
        std::mem::swap(&mut pending.batch, &mut self.batch);
        let next_seq = pending.next_seq;
        pending.batch.restart(next_seq);
        self.taken = true;
        // What may gather meanwhile: as much as will surely have a place when this batch is on disk.
        let len = self.batch.len();
        let fits = self.active.as_ref().is_some_and(|active| active.left() >= len);
        let left = if fits { self.left() } else { self.shared.geometry.segment - PAGE - self.longest_list() };
        let ready = if fits { self.ready() } else { self.spares.len() > SPARES };
        let left = left.saturating_sub(len + self.longest_list() + PAGE + BLOCK_HEADER);
        pending.limit = self.limit(left, ready);
        let full = pending.full;
        drop(pending);
        if !full {
            self.shared.room.opened();
        }
    }

    /// False if there is no segment to write to.
    fn write_batch(&mut self) -> io::Result<bool> {
        if self.left() < self.batch.len() {
            match self.roll(self.batch.first_seq()) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if is_full(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let (cursor, list) = self.mark_resolved();
        let now = self.shared.disk.now();
        let due = list != self.listed && (now - self.listed_at).abs() >= self.list_every;
        let Some(active) = self.active.as_mut() else { return Ok(false) };
        let (salt, at, room) = (active.salt, active.at, active.left());
        let ranges = if due { list.as_slice() } else { &[] };
        let listed = self.batch.seal(Seal { salt, cursor, ranges, at, room }) && due;
        match active.file.write_at(self.batch.bytes(), active.at as u64) {
            Err(error) if is_full(&error) => return Ok(false),
            written => written?,
        }
        let file = active.file.clone();
        self.sync_file(&*file)?;
        self.cursor = cursor;
        self.unsynced = false;
        if listed {
            self.listed = list;
            self.listed_at = now;
        }
        self.on_disk.clone_from(&self.listed);
        Ok(true)
    }

    fn publish(&mut self) -> u64 {
        self.taken = false;
        let count = self.batch.count();
        let seq = self.batch.first_seq() + count - 1;
        if let Some(active) = &mut self.active {
            active.at += self.batch.len();
            let mut track = lock(&self.shared.track);
            track.committed(seq, active.at as u64);
            track.last_commit = self.batch.time();
        }
        let written = &self.shared.written;
        written.no_room.store(false, Ordering::Relaxed);
        written.commits.fetch_add(1, Ordering::Relaxed);
        written.bytes.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
        self.shared.durable.send_modify(|durable| durable.seq = seq);
        self.shared.reading.committed();
        count
    }

    /// The cursor and the ranges a block is about to say.
    fn mark_resolved(&self) -> (u64, Vec<Range>) {
        // The mark is taken first: an acknowledgement that comes in between sets it again.
        self.shared.cursor_moved.store(false, Ordering::Release);
        let track = lock(&self.shared.track);
        (track.cursor(), track.resolved().list(self.shared.geometry.ranges))
    }

    fn longest_list(&self) -> usize {
        list_len(self.shared.geometry.ranges)
    }

    /// Room for one block of `len` bytes that no appender has been promised; rolls where needed. The sequence it
    /// will carry.
    fn reserve_cursor(&mut self, len: usize) -> Option<u64> {
        let mut pending = lock(&self.shared.pending);
        if pending.batch.count() > 0 {
            return None;
        }
        let next_seq = pending.next_seq;
        if let Some(left) = self.left().checked_sub(len) {
            pending.limit = self.limit(left, self.ready());
            return Some(next_seq);
        }
        // Rolling takes a while: nothing is taken in meanwhile, and `tidy` opens the door again.
        pending.limit = 0;
        drop(pending);
        let rolled = self.roll(next_seq).unwrap_or_else(|error| {
            tracing::error!(%error, "spool: no segment for the cursor");
            false
        });
        rolled.then_some(next_seq)
    }

    fn put_cursor(&mut self, next_seq: u64, (cursor, list): (u64, Vec<Range>)) -> io::Result<()> {
        let now = self.shared.disk.now();
        let Some(active) = self.active.as_mut() else { return Ok(()) };
        let block = cursor_block(active.salt, next_seq, (cursor, &list), now);
        active.file.write_at(&block, active.at as u64)?;
        active.at += block.len();
        lock(&self.shared.track).committed(next_seq - 1, active.at as u64);
        self.shared.written.bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
        self.cursor = cursor;
        if !list.is_empty() {
            self.listed = list;
        }
        self.unsynced = true;
        Ok(())
    }

    pub(super) fn left(&self) -> usize {
        self.active.as_ref().map_or(0, Active::left)
    }

    /// Makes a spare the active segment. False if there is none to be had.
    fn roll(&mut self, first_seq: u64) -> io::Result<bool> {
        if self.spares.is_empty() {
            self.replenish();
        }
        if self.spares.is_empty() {
            return Ok(false);
        }
        self.active = None;
        let Some(spare) = self.spares.pop() else { return Ok(false) };
        let result = self.open_segment(&spare, first_seq);
        if result.is_err() {
            let _ = self.shared.disk.remove(&spare.name);
            self.count_bytes();
        }
        result?;
        // Its predecessor may have no record, only cursors or a commit that failed. It went on being the place
        // where the sequence is kept, until now.
        let empty = lock(&self.shared.track).take_empty_before_last();
        if let Some(segment) = empty {
            self.remove(&segment.name());
        }
        Ok(true)
    }

    fn open_segment(&mut self, spare: &Spare, first_seq: u64) -> io::Result<()> {
        let disk = &*self.shared.disk;
        let file = disk.open(&spare.name)?;
        let salt = u32::try_from(disk.random() >> 32).unwrap_or(1);
        let (cursor, list) = self.mark_resolved();
        let header = SegmentHeader { salt, first_seq, cursor, id: self.shared.id, created: disk.now() };
        let mut begin = header.encode();
        if !list.is_empty() {
            // A start reads the last segment only: it has to find everything there.
            begin.append(&mut cursor_block(salt, first_seq, (cursor, &list), header.created));
        }
        file.write_at(&begin, 0)?;
        self.sync_file(&*file)?;
        let segment = Segment { first_seq, last_seq: u64::MAX, salt, len: spare.len, created: header.created };
        disk.rename(&spare.name, &segment.name())?;
        if let Err(error) = self.sync_dir() {
            let _ = disk.remove(&segment.name());
            return Err(error);
        }
        self.cursor = cursor;
        self.unsynced = false;
        self.on_disk.clone_from(&list);
        self.listed = list;
        lock(&self.shared.track).push_active(segment, begin.len() as u64);
        let len = usize::try_from(spare.len).unwrap_or(0);
        self.active = Some(Active { file, salt, at: begin.len(), len });
        Ok(())
    }

    /// Nothing more is written to the active segment; `next_seq` will stand in another.
    fn finish_segment(&mut self, next_seq: u64) {
        self.active = None;
        self.unsynced = false;
        lock(&self.shared.track).seal_active(next_seq - 1);
    }

    fn sync_file(&self, file: &dyn DiskFile) -> io::Result<()> {
        match self.durability {
            Durability::Fsync => file.sync().inspect_err(|_| {
                self.shared.written.sync_failures.fetch_add(1, Ordering::Relaxed);
            }),
            Durability::Os => Ok(()),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        match self.durability {
            Durability::Fsync => self.shared.disk.sync(),
            Durability::Os => Ok(()),
        }
    }
}
