//! Reading in order: the core that walks the segments, and the bounded queue between it and the uplink.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::Stored;
use super::appender::{Shared, lock};
use super::format::{PAGE, record_at};
use super::segment::{Found, Window};
use super::track::View;

/// The queue holds this many records and bytes, and [`Reader`] as many again in its hand.
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
    records: VecDeque<Stored>,
    bytes: usize,
    /// Counts commits.
    commits: u64,
    /// The reader thread has read all that was durable, and sleeps until there is more.
    waits_for_commit: bool,
    closed: bool,
}

impl ReadQueue {
    /// Something became durable.
    pub(super) fn committed(&self) {
        let mut state = lock(&self.state);
        state.commits += 1;
        // A reader that has read ahead as far as it may has no use for being woken at each commit.
        let waits = std::mem::take(&mut state.waits_for_commit);
        drop(state);
        if waits {
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

/// Delivers the records in order. After a restart it begins at the cursor; while running it never goes back.
pub struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) hand: VecDeque<Stored>,
}

impl Reader {
    /// The next record, as soon as there is a durable one; `None` once the spool is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Stored> {
        let queue = &self.shared.reading;
        loop {
            while let Some(stored) = self.hand.pop_front() {
                if queue.is_due(&stored) {
                    return Some(stored);
                }
            }
            {
                let mut state = lock(&queue.state);
                if state.closed {
                    return None;
                }
                std::mem::swap(&mut self.hand, &mut state.records);
                state.bytes = 0;
            }
            if self.hand.is_empty() {
                // One reader only: a notification before this wait is kept as a permit.
                queue.ready.notified().await;
            } else {
                queue.work.notify_one();
            }
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// The life of the reader thread.
pub(super) fn run(mut core: ReadCore) {
    let shared = core.shared.clone();
    let queue = &shared.reading;
    let mut read = VecDeque::new();
    loop {
        let commits = {
            let mut state = lock(&queue.state);
            while !state.closed && (state.records.len() >= QUEUE_RECORDS || state.bytes >= QUEUE_BYTES) {
                state = queue.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return;
            }
            state.commits
        };
        let filled = core.fill(&mut read, QUEUE_RECORDS, QUEUE_BYTES);
        let mut state = lock(&queue.state);
        if !read.is_empty() {
            state.bytes += read.iter().map(|stored| stored.record.len()).sum::<usize>();
            state.records.append(&mut read);
            queue.ready.notify_one();
        }
        match filled {
            Filled::Enough => {}
            Filled::AllDurable => {
                while !state.closed && state.commits == commits {
                    state.waits_for_commit = true;
                    state = queue.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.waits_for_commit = false;
            }
            Filled::Retry => {
                let waited = queue.work.wait_timeout_while(state, RETRY, |state| !state.closed);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

/// Why [`ReadCore::fill`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// What was asked for is there.
    Enough,
    /// Nothing more is durable.
    AllDurable,
    /// A segment cannot be opened just now.
    Retry,
}

/// Walks the segments.
pub(super) struct ReadCore {
    shared: Arc<Shared>,
    /// Every sequence before this one was delivered or is resolved.
    expected: u64,
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

impl ReadCore {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let expected = lock(&shared.track).cursor() + 1;
        Self { shared, expected, place: None, block: None }
    }

    /// Adds records to `out` until one of the limits is reached or nothing more is durable.
    pub(super) fn fill(&mut self, out: &mut VecDeque<Stored>, records: usize, bytes: usize) -> Filled {
        let mut taken = 0;
        loop {
            while out.len() < records
                && taken < bytes
                && let Some(stored) = self.next_of_block()
            {
                taken += stored.record.len();
                out.push_back(stored);
            }
            if out.len() >= records || taken >= bytes {
                return Filled::Enough;
            }
            let (view, durable) = {
                let track = lock(&self.shared.track);
                self.expected = self.expected.max(track.cursor() + 1);
                (track.view(self.expected), track.durable())
            };
            let Some(view) = view else {
                // Durable and in no segment: the recovery had to put aside every file that could have held it.
                self.skip_to(durable + 1);
                return Filled::AllDurable;
            };
            match self.go_to(&view) {
                Ok(()) => self.step(&view),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.skip_to(view.last_seq + 1),
                Err(error) => {
                    tracing::warn!(segment = view.segment.name(), %error, "spool: a segment cannot be opened; trying again");
                    return Filled::Retry;
                }
            }
        }
    }

    fn next_of_block(&mut self) -> Option<Stored> {
        loop {
            let block = self.block.as_mut()?;
            let range = if block.seq < block.end_seq { record_at(&block.body, block.at) } else { None };
            let Some(range) = range else {
                let end_seq = block.end_seq;
                self.block = None;
                self.skip_to(end_seq);
                return None;
            };
            let seq = block.seq;
            block.seq += 1;
            block.at = range.end;
            if seq >= self.expected {
                self.expected = seq + 1;
                return Some(Stored { seq, record: block.body.slice(range) });
            }
        }
    }

    fn go_to(&mut self, view: &View) -> io::Result<()> {
        let segment = (view.segment.first_seq, view.segment.salt);
        if self.place.as_ref().is_none_or(|place| place.segment != segment) {
            let file = self.shared.disk.open(&view.segment.name())?;
            self.place = Some(Place { segment, window: Window::new(file, segment.1), pos: PAGE as u64 });
        }
        Ok(())
    }

    /// Looks at the next place of the segment: a block, damage, or its end.
    fn step(&mut self, view: &View) {
        let Some(place) = &mut self.place else { return };
        let end_seq = view.last_seq + 1;
        let (header, body) = match place.window.block(place.pos, view.end) {
            Found::Block(header, body) => (header, Some(body)),
            Found::BadBody(header) => (header, None),
            Found::Nothing => {
                // The place itself was just found bad, even if a header could be read there by now.
                match place.window.search(place.pos + 8, view.end) {
                    Some(found) => place.pos = found,
                    None => self.skip_to(end_seq),
                }
                return;
            }
        };
        place.pos += header.len_on_disk() as u64;
        if header.count == 0 || header.end_seq() <= self.expected {
            return;
        }
        self.skip_to(header.first_seq.min(end_seq));
        let block_end = header.end_seq().min(end_seq);
        match body {
            Some(body) if header.first_seq < end_seq => {
                lock(&self.shared.track).block_read(header.first_seq, block_end, header.time);
                self.block = Some(Block { body, at: 0, seq: header.first_seq, end_seq: block_end });
            }
            _ => self.skip_to(block_end),
        }
    }

    /// Gives up what is expected before `seq`: the part that still waits is lost.
    fn skip_to(&mut self, seq: u64) {
        if self.expected >= seq {
            return;
        }
        let lost = lock(&self.shared.track).lose(self.expected, seq - 1);
        if lost > 0 {
            tracing::error!(lost, first = self.expected, last = seq - 1, "spool: damaged on disk, messages are lost");
            self.shared.wake_writer();
        }
        self.expected = seq;
    }
}
