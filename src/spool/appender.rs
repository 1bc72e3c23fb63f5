//! Where connections leave their records: the pending batch, its admission, and the sign that it became durable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::batch::Batch;
use super::disk::Disk;
use super::format::MAX_SEQ;
use super::lanes::ReadQueue;
use super::ranges::Ranges;
use super::track::Track;
use super::{AppendError, Durable, Stats, Stored, Ticket};

/// Sizes that follow from the options.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Length of a new segment.
    pub(super) segment: usize,
    /// Longest batch, and so the longest publish.
    pub(super) batch: usize,
    /// Longest block of more than one record.
    pub(super) block: usize,
    /// Bound on live and spare segments together.
    pub(super) max_size: u64,
    /// Most resolved ranges that are written to disk.
    pub(super) ranges: usize,
}

/// What the appenders, the writer, the reader and the acknowledgements share.
///
/// Two locks are taken together only in the order `pending`, `track`.
pub(super) struct Shared {
    pub(super) id: u64,
    /// An operator has withdrawn records: what was read ahead may not be due any more.
    pub(super) withdrawn: AtomicBool,
    pub(super) geometry: Geometry,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) pending: Mutex<Pending>,
    /// Wakes the writer.
    pub(super) work: Condvar,
    pub(super) room: Room,
    pub(super) track: Mutex<Track>,
    pub(super) reading: ReadQueue,
    pub(super) durable: watch::Sender<Durable>,
    /// Something was resolved and no one has told the disk.
    pub(super) cursor_moved: AtomicBool,
    pub(super) recovered: u64,
    pub(super) written: Written,
}

/// Where appenders wait for room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Wakes one of them; it wakes the next.
    notify: Notify,
    /// How often there may have come to be room.
    rounds: AtomicU64,
}

impl Room {
    /// There may be room now.
    pub(super) fn opened(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// There will be none any more.
    pub(super) fn closed(&self) {
        self.notify.notify_waiters();
    }
}

/// Counters of the writer.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// What was taken has no place on disk for now.
    pub(super) no_room: AtomicBool,
    pub(super) commits: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) sync_failures: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
}

/// The batch that is being filled while the writer writes the one before.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    pub(super) next_seq: u64,
    /// Bytes the batch may have: what the disk is known to have room for.
    pub(super) limit: usize,
    /// Someone was refused for lack of space on disk; nothing is taken before there is enough again.
    pub(super) full: bool,
    pub(super) closed: bool,
    pub(super) appended: u64,
    /// Bytes of all records taken.
    pub(super) bytes: u64,
    /// The writer sleeps, and wants to be woken when the batch has this many records.
    pub(super) wake_at: Option<u64>,
    /// The writer sleeps without an alarm and wants to know when the cursor moves.
    pub(super) idle: bool,
    /// There is something to do besides records.
    pub(super) poked: bool,
}

/// A poisoned lock is taken anyway: every critical section here leaves the state whole at each step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Whether a record that was read ahead may still be delivered.
    pub(super) fn is_due(&self, stored: &Stored) -> bool {
        let withdrawn = self.withdrawn.load(Ordering::Acquire) && !lock(&self.track).is_waiting(stored.seq);
        self.reading.is_due(stored) && !withdrawn
    }

    /// Tells the writer that there is something to do besides records.
    pub(super) fn wake_writer(&self) {
        let mut pending = lock(&self.pending);
        pending.poked = true;
        drop(pending);
        self.work.notify_one();
    }

    /// All counters of one instant.
    pub(super) fn stats(&self) -> Stats {
        let pending = lock(&self.pending);
        let mut track = lock(&self.track);
        let last = pending.next_seq - 1;
        Stats {
            waiting: track.waiting(last),
            late: track.late(),
            oldest_ms: track.oldest(last),
            recovered: self.recovered,
            appended: pending.appended,
            acked: track.acked,
            shed: track.shed,
            expired: track.expired,
            lost: track.lost,
            full: pending.full,
            disk_bytes: self.written.disk_bytes.load(Ordering::Relaxed),
            commits: self.written.commits.load(Ordering::Relaxed),
            bytes_appended: pending.bytes,
            bytes_written: self.written.bytes.load(Ordering::Relaxed),
            sync_failures: self.written.sync_failures.load(Ordering::Relaxed),
        }
    }
}

/// Which room an append may take.
#[derive(Debug, Clone, Copy)]
enum Share {
    All,
    Leaving,
    Last,
}

/// Appends records. Clones share one spool.
#[derive(Clone)]
pub struct Appender {
    pub(super) shared: Arc<Shared>,
}

impl Appender {
    /// Takes all records of one publish, one after the other and all or none, into the pending batch.
    ///
    /// They are durable once [`durable`](Self::durable) has reached the ticket. No records are a ticket for what
    /// was appended before.
    pub fn try_append<'r, I>(&self, records: I) -> Result<Ticket, AppendError>
    where
        I: Iterator<Item = &'r [u8]> + Clone,
    {
        self.append(records, Share::All)
    }

    /// As [`try_append`](Self::try_append), but of the last room an eighth of a segment is left for
    /// [`try_append_last`](Self::try_append_last).
    pub fn try_append_leaving<'r, I>(&self, records: I) -> Result<Ticket, AppendError>
    where
        I: Iterator<Item = &'r [u8]> + Clone,
    {
        self.append(records, Share::Leaving)
    }

    /// As [`try_append`](Self::try_append), also where the others were refused already, as long as the disk has room.
    pub fn try_append_last<'r, I>(&self, records: I) -> Result<Ticket, AppendError>
    where
        I: Iterator<Item = &'r [u8]> + Clone,
    {
        self.append(records, Share::Last)
    }

    fn append<'r, I>(&self, records: I, share: Share) -> Result<Ticket, AppendError>
    where
        I: Iterator<Item = &'r [u8]> + Clone,
    {
        let shared = &*self.shared;
        let mut pending = lock(&shared.pending);
        if pending.closed || pending.next_seq > MAX_SEQ {
            return Err(AppendError::Closed);
        }
        let len = pending.batch.len_with(records.clone());
        let (limit, full) = match share {
            Share::All => (pending.limit, pending.full),
            // Where a whole batch fits, the next one finds a segment of its own.
            Share::Leaving if pending.limit >= shared.geometry.batch => (pending.limit, pending.full),
            Share::Leaving => (pending.limit.saturating_sub(shared.geometry.segment / 8), pending.full),
            Share::Last => (pending.limit, false),
        };
        if len > limit || full {
            return Err(self.refuse(pending, records));
        }
        let before = pending.batch.count();
        for record in records {
            pending.bytes += record.len() as u64;
            pending.batch.push(record, || shared.disk.now());
        }
        let added = pending.batch.count() - before;
        pending.next_seq += added;
        pending.appended += added;
        let ticket = Ticket(pending.next_seq - 1);
        let wake = pending.wake_at.is_some_and(|at| pending.batch.count() >= at && added > 0);
        if wake {
            pending.wake_at = None;
        }
        drop(pending);
        if wake {
            shared.work.notify_one();
        }
        Ok(ticket)
    }

    /// Out of line: the way of a full spool, not of every message.
    #[cold]
    fn refuse<'r>(&self, mut pending: MutexGuard<'_, Pending>, records: impl Iterator<Item = &'r [u8]>) -> AppendError {
        let most = self.shared.geometry.batch;
        if Batch::new(self.shared.geometry.block).len_with(records) > most {
            return AppendError::TooLarge;
        }
        if pending.limit < most && !pending.full {
            pending.full = true;
            drop(pending);
            self.shared.wake_writer();
        }
        AppendError::Full
    }

    /// Waits until an append that was refused as [`AppendError::Full`] may succeed. Try again afterwards, and wait
    /// again if it does not.
    pub async fn room(&self) {
        let room = &self.shared.room;
        let round = room.rounds.load(Ordering::Relaxed);
        let notified = room.notify.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        {
            let pending = lock(&self.shared.pending);
            let open = !pending.full && pending.batch.count() == 0 && pending.limit >= self.shared.geometry.batch;
            if open || pending.closed {
                return;
            }
        }
        notified.await;
        // One wake-up per commit starts a chain that goes on while there is room: no stampede, and an appender
        // that goes away after being woken has already passed it on. Who came back in the same round found too
        // little room: to pass it on would be to wake itself until the next commit.
        let again = room.rounds.load(Ordering::Relaxed) == round;
        let more = {
            let pending = lock(&self.shared.pending);
            !pending.full && pending.limit.saturating_sub(pending.batch.len()) >= self.shared.geometry.batch / 8
        };
        if more && !again {
            room.notify.notify_one();
        }
    }

    /// Follows the last durable sequence, and tells if the spool failed for good.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    /// All counters of one instant.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// What was taken cannot be written before something else is acknowledged: the segment that was meant for it has
    /// failed, and there is none besides.
    pub fn is_stuck(&self) -> bool {
        self.shared.written.no_room.load(Ordering::Relaxed)
    }

    /// The sequence of the last record that was taken.
    pub fn last_appended(&self) -> u64 {
        lock(&self.shared.pending).next_seq - 1
    }

    /// Everything up to this sequence is resolved.
    pub fn cursor(&self) -> u64 {
        lock(&self.shared.track).cursor()
    }

    /// What is resolved above the cursor.
    pub fn resolved(&self) -> Ranges {
        lock(&self.shared.track).resolved().clone()
    }

    /// A random number made with the folder and kept in it. With the sequence it names a record for ever.
    pub fn id(&self) -> u64 {
        self.shared.id
    }
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").finish_non_exhaustive()
    }
}

/// Acknowledges records. Clones share one spool.
#[derive(Clone)]
pub struct Acker {
    pub(super) shared: Arc<Shared>,
}

impl Acker {
    /// The hub has the record. In any order; false if it was not waiting (acknowledged before, shed, lost).
    pub fn ack(&self, seq: u64) -> bool {
        self.resolve(|track| track.ack(seq))
    }

    /// The record is not to be sent any more because it is too old; false as with [`ack`](Self::ack).
    pub fn expire(&self, seq: u64) -> bool {
        self.resolve(|track| track.expire(seq))
    }

    /// As [`ack`](Self::ack), for all sequences of the ranges at once; says how many there were.
    pub fn ack_ranges(&self, ranges: &[(u64, u64)]) -> u64 {
        let mut count = 0;
        self.resolve(|track| {
            count = ranges.iter().map(|(first, last)| track.ack_range(*first, *last)).sum();
            count > 0
        });
        count
    }

    fn resolve(&self, how: impl FnOnce(&mut Track) -> bool) -> bool {
        let mut track = lock(&self.shared.track);
        let counted = how(&mut track);
        let freed = counted && track.has_free_front();
        drop(track);
        if counted && (!self.shared.cursor_moved.swap(true, Ordering::AcqRel) || freed) {
            // A busy writer looks by itself; only one that sleeps without an alarm is woken.
            if freed || lock(&self.shared.pending).idle {
                self.shared.wake_writer();
            }
        }
        counted
    }
}

impl std::fmt::Debug for Acker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acker").finish_non_exhaustive()
    }
}
