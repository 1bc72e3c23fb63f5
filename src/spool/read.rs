//! Reading in order: walks the segments from one sequence to another.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::Stored;
use super::appender::{Shared, lock};
use super::format::{PAGE, record_at};
use super::ranges::{Range, Skip};
use super::segment::{Found, Window};
use super::track::{Segment, View};

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
    /// Nothing after this one is delivered.
    end: u64,
    /// What is not delivered, ascending: it was resolved before the start, or another lane has delivered it.
    skip: Skip,
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
    /// Over everything that waits.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (expected, skip) = {
            let track = lock(&shared.track);
            (track.cursor() + 1, Skip::new(track.resolved()))
        };
        Self { shared, expected, end: u64::MAX, skip, place: None, block: None }
    }

    /// Over what is appended after `seq`, where the active segment goes on as `at` says.
    pub(super) fn after(shared: Arc<Shared>, seq: u64, at: Option<(Segment, u64)>) -> Self {
        let place = at.and_then(|(segment, pos)| {
            // A segment that cannot be opened just now is found in the usual way.
            let file = shared.disk.open(&segment.name()).ok()?;
            Some(Place { segment: (segment.first_seq, segment.salt), window: Window::new(file, segment.salt), pos })
        });
        Self { shared, expected: seq + 1, end: u64::MAX, skip: Skip::default(), place, block: None }
    }

    /// Goes on to `end`, but without what another lane has delivered on the way there.
    pub(super) fn extend(&mut self, end: u64, delivered: Option<Range>) {
        self.end = end;
        self.skip.add(delivered);
        if self.expected > end + 1 {
            // It read ahead of what was its own.
            self.expected = end + 1;
            (self.block, self.place) = (None, None);
        }
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
                self.expected = self.skip.pass(self.expected.max(track.cursor() + 1));
                (track.view(self.expected), track.durable())
            };
            if self.expected > self.end {
                return Filled::AllDurable;
            }
            let Some(mut view) = view else {
                // Durable and in no segment: the recovery had to put aside every file that could have held it.
                self.skip_to(durable.min(self.end) + 1);
                return Filled::AllDurable;
            };
            view.last_seq = view.last_seq.min(self.end);
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
            if seq > self.end {
                (self.block, self.place) = (None, None);
                return None;
            }
            block.seq += 1;
            block.at = range.end;
            if seq >= self.expected && !self.skip.has(seq) {
                self.expected = seq + 1;
                return Some(Stored { seq, late: false, record: block.body.slice(range) });
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
                if block_end < header.end_seq() {
                    // The rest of it belongs to another lane today, and may be this one's tomorrow.
                    self.place = None;
                }
            }
            _ => self.skip_to(block_end),
        }
    }

    /// Gives up what is expected before `seq`: the part that still waits is lost.
    fn skip_to(&mut self, seq: u64) {
        if self.expected >= seq {
            return;
        }
        let lost: u64 = {
            let parts = self.skip.gaps(self.expected, seq - 1);
            let mut track = lock(&self.shared.track);
            parts.into_iter().map(|(first, last)| track.lose(first, last)).sum()
        };
        if lost > 0 {
            tracing::error!(lost, first = self.expected, last = seq - 1, "spool: damaged on disk, messages are lost");
            self.shared.wake_writer();
        }
        self.expected = seq;
    }
}
