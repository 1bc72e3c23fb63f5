//! Two lanes over one log: what is appended goes out at once, what waited through an outage follows.
//!
//! At first there is one lane, live, from the cursor on. A split ([`Reader::split`]) makes everything durable late and
//! lets the live lane begin behind it. A later split makes late what the live lane has not delivered by then; what it
//! has delivered is left out, so each record is delivered once. A late lane that has delivered all of its own is
//! replaced by the live one at the next split, with what that has read ahead.
//!
//! The reader thread owns the two [`ReadCore`]s; the uplink's side asks for a split under the lock of the queue, and
//! the thread carries it out before it reads on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Stored;
use super::appender::{Shared, lock};
use super::ranges::Range;
use super::read::{Filled, ReadCore};
use super::track::Segment;

/// The queue of a lane holds this many records and bytes, and [`Reader`] as many again in its hand.
const QUEUE_RECORDS: usize = 512;
const QUEUE_BYTES: usize = 512 * 1024;
/// A segment that cannot be opened is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// The records that were read ahead.
#[derive(Debug, Default)]
pub(super) struct ReadQueue {
    state: Mutex<QueueState>,
    /// Wakes the reader thread.
    work: Condvar,
    /// Wakes [`Reader::next`].
    ready: Notify,
    /// Records up to this one were counted as shed and are no longer delivered.
    shed_to: AtomicU64,
}

#[derive(Debug, Default)]
struct QueueState {
    live: Lane,
    late: Lane,
    /// The late lane has been read to its end.
    late_done: bool,
    /// What the reader thread has yet to carry out.
    split: Option<Split>,
    /// Counts commits.
    commits: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Lane {
    records: VecDeque<Stored>,
    bytes: usize,
}

impl Lane {
    fn has_room(&self) -> bool {
        self.records.len() < QUEUE_RECORDS && self.bytes < QUEUE_BYTES
    }

    fn add(&mut self, read: &mut VecDeque<Stored>) {
        self.bytes += read.iter().map(|stored| stored.record.len()).sum::<usize>();
        self.records.append(read);
    }
}

/// Everything up to `last` is late from now on.
#[derive(Debug)]
struct Split {
    last: u64,
    /// Where the active segment goes on.
    at: Option<(Segment, u64)>,
    late: Late,
}

#[derive(Debug)]
enum Late {
    /// The live lane goes on as the late one.
    WasLive,
    /// The late lane goes on, without what the live one has delivered.
    GoesOn(Option<Range>),
}

impl ReadQueue {
    /// Something became durable.
    pub(super) fn committed(&self) {
        let mut state = lock(&self.state);
        state.commits += 1;
        // A reader that has read ahead as far as it may has no use for being woken at each commit.
        let due = state.live.has_room();
        drop(state);
        if due {
            self.work.notify_one();
        }
    }

    pub(super) fn shed(&self, last_seq: u64) {
        self.shed_to.store(last_seq, Ordering::Release);
    }

    /// Whether the record may still be delivered.
    pub(super) fn is_due(&self, stored: &Stored) -> bool {
        stored.seq > self.shed_to.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_one();
        self.ready.notify_one();
    }
}

/// Delivers the records, in each lane in order and each record once. After a restart it begins at the cursor.
pub struct Reader {
    shared: Arc<Shared>,
    live: VecDeque<Stored>,
    late: VecDeque<Stored>,
    /// The live lane began behind `begun` and was delivered up to `delivered`.
    begun: u64,
    delivered: u64,
}

/// What [`Reader::take`] found.
#[derive(Debug)]
pub(super) enum Taken {
    Record(Stored),
    Nothing,
    Closed,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let cursor = lock(&shared.track).cursor();
        Self { shared, live: VecDeque::new(), late: VecDeque::new(), begun: cursor, delivered: cursor }
    }

    /// The next record of the live lane, or, where there is none and `late` allows it, of the late one, as soon as
    /// there is a durable one; `None` once the spool is closed. Cancel-safe.
    pub async fn next(&mut self, late: bool) -> Option<Stored> {
        loop {
            match self.take(late) {
                Taken::Record(stored) => return Some(stored),
                Taken::Closed => return None,
                // One reader only: a notification before this wait is kept as a permit.
                Taken::Nothing => self.shared.reading.ready.notified().await,
            }
        }
    }

    /// [`next`](Self::next) without waiting.
    pub(super) fn take(&mut self, late: bool) -> Taken {
        let queue = &self.shared.reading;
        loop {
            while let Some(stored) = self.live.pop_front() {
                self.delivered = stored.seq;
                if self.shared.is_due(&stored) {
                    return Taken::Record(stored);
                }
            }
            {
                let mut state = lock(&queue.state);
                if state.closed {
                    return Taken::Closed;
                }
                std::mem::swap(&mut self.live, &mut state.live.records);
                state.live.bytes = 0;
                if late && self.live.is_empty() && self.late.is_empty() {
                    std::mem::swap(&mut self.late, &mut state.late.records);
                    state.late.bytes = 0;
                    queue.work.notify_one();
                }
            }
            if !self.live.is_empty() {
                queue.work.notify_one();
                continue;
            }
            let is_late = if late { self.late.pop_front() } else { None };
            match is_late {
                Some(stored) if self.shared.is_due(&stored) => return Taken::Record(Stored { late: true, ..stored }),
                Some(_) => {}
                None => return Taken::Nothing,
            }
        }
    }

    /// Makes late what is durable and was not delivered, if more than `over` records of the live lane are that.
    /// Says how many records are late then, or `None` if it was not done.
    ///
    /// The disk remembers a bounded number of ranges that went out before older ones. Near that bound there is no
    /// new lane.
    pub fn split(&mut self, over: u64) -> Option<u64> {
        let queue = &self.shared.reading;
        let mut state = lock(&queue.state);
        let mut track = lock(&self.shared.track);
        let bounded = track.resolved().count() * 2 <= self.shared.geometry.ranges;
        if track.waiting_above(self.delivered) <= over || state.split.is_some() || !bounded {
            return None;
        }
        let late_done = (state.late_done || track.late() == 0) && state.late.records.is_empty() && self.late.is_empty();
        let (last, at) = track.split();
        let late = if late_done {
            self.late = std::mem::take(&mut self.live);
            state.late = std::mem::take(&mut state.live);
            Late::WasLive
        } else {
            self.live.clear();
            state.live = Lane::default();
            Late::GoesOn((self.begun < self.delivered).then_some((self.begun + 1, self.delivered)))
        };
        state.late_done = false;
        state.split = Some(Split { last, at, late });
        (self.begun, self.delivered) = (last, last);
        queue.work.notify_one();
        Some(track.late())
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// The life of the reader thread.
pub(super) fn run(mut ahead: ReadAhead) {
    let shared = ahead.shared.clone();
    let queue = &shared.reading;
    loop {
        match ahead.turn() {
            Turn::Closed => return,
            Turn::Again => {}
            Turn::Wait => {
                let waited = queue.work.wait_while(lock(&queue.state), |state| ahead.is_idle(state));
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
            Turn::Retry => {
                let waited = queue.work.wait_timeout_while(lock(&queue.state), RETRY, |state| !state.closed);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

/// What the reader thread has to do after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Closed,
    /// There may be more to do.
    Again,
    /// Nothing before something changes.
    Wait,
    /// A segment cannot be opened just now.
    Retry,
}

/// The lane to read for, and how many commits there had been when that was found.
#[derive(Debug)]
pub(super) struct Due {
    is_live: bool,
    commits: u64,
}

/// What was read for one lane.
pub(super) struct Read {
    is_live: bool,
    commits: u64,
    records: VecDeque<Stored>,
    filled: Filled,
}

/// Fills the queues of the lanes, the live one first.
pub(super) struct ReadAhead {
    shared: Arc<Shared>,
    pub(super) live: ReadCore,
    late: Option<ReadCore>,
    /// The live lane was read to its end when there had been this many commits.
    live_done: Option<u64>,
}

impl ReadAhead {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { live: ReadCore::new(shared.clone()), late: None, live_done: None, shared }
    }

    /// Carries out a split, and fills one lane once.
    pub(super) fn turn(&mut self) -> Turn {
        match self.begin() {
            Ok(due) => {
                let read = self.read(due);
                self.deliver(read)
            }
            Err(turn) => turn,
        }
    }

    /// First part of a turn: what is due. The other side may ask for a split before the second and the third.
    pub(super) fn begin(&mut self) -> Result<Due, Turn> {
        let shared = self.shared.clone();
        let mut state = lock(&shared.reading.state);
        if state.closed {
            return Err(Turn::Closed);
        }
        if let Some(split) = state.split.take() {
            self.split(split);
        }
        if self.is_idle(&state) {
            return Err(Turn::Wait);
        }
        Ok(Due { is_live: self.live_is_due(&state), commits: state.commits })
    }

    /// Second part of a turn, without a lock.
    pub(super) fn read(&mut self, Due { is_live, commits }: Due) -> Read {
        let core = match &mut self.late {
            Some(late) if !is_live => late,
            _ => &mut self.live,
        };
        let mut records = VecDeque::new();
        let filled = core.fill(&mut records, QUEUE_RECORDS, QUEUE_BYTES);
        Read { is_live, commits, records, filled }
    }

    /// Third part of a turn.
    pub(super) fn deliver(&mut self, read: Read) -> Turn {
        let Read { is_live, commits, mut records, filled } = read;
        let mut state = lock(&self.shared.reading.state);
        match &state.split {
            Some(Split { last, late: Late::WasLive, .. }) if is_live => {
                records.retain(|stored| stored.seq <= *last);
                state.late.add(&mut records);
            }
            // This lane is to begin anew.
            Some(_) if is_live => {}
            _ if is_live => {
                state.live.add(&mut records);
                self.live_done = (filled == Filled::AllDurable).then_some(commits);
            }
            pending => {
                state.late_done = pending.is_none() && filled == Filled::AllDurable;
                state.late.add(&mut records);
            }
        }
        drop(state);
        self.shared.reading.ready.notify_one();
        if filled == Filled::Retry { Turn::Retry } else { Turn::Again }
    }

    fn live_is_due(&self, state: &QueueState) -> bool {
        state.live.has_room() && self.live_done != Some(state.commits)
    }

    fn is_idle(&self, state: &QueueState) -> bool {
        let late_is_due = self.late.is_some() && state.late.has_room() && !state.late_done;
        !state.closed && state.split.is_none() && !self.live_is_due(state) && !late_is_due
    }

    fn split(&mut self, split: Split) {
        let live = ReadCore::after(self.shared.clone(), split.last, split.at);
        let was_live = std::mem::replace(&mut self.live, live);
        self.live_done = None;
        match (split.late, &mut self.late) {
            (Late::GoesOn(delivered), Some(late)) => late.extend(split.last, delivered),
            (_, late) => late.insert(was_live).extend(split.last, None),
        }
    }
}
