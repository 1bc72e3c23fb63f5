//! The start: what the holding spool has goes back into its windows.
//!
//! It is read twice. The marks come first: what they say is done with is left out, and windows that were closed and may
//! be in the spool of all messages already, or not, are made again as they were. Then the contributions. Where they make
//! more closed windows than may wait, the rest is read when some are stored; until then publishes for windows are
//! refused, so that contributions stay in order.

use std::sync::atomic::Ordering;

use super::super::Bridge;
use super::Holding;
use super::marks::{self, Found};
use crate::amount::of;
use crate::rules::Again;
use crate::spool::Look;

/// A start that is under way.
#[derive(Debug)]
pub(super) struct Recovery {
    look: Look,
    /// Stretches of windows that are made again, ascending, and which.
    again: Vec<(u64, u64, u64)>,
    /// The highest sequence of each of them.
    ends: Vec<u64>,
    held: u64,
}

impl Recovery {
    /// Reads the marks.
    fn begin(holding: &Holding) -> Self {
        let mut look = holding.spool.look();
        let mut found = Found::default();
        while let Some(stored) = look.next_waiting() {
            if !marks::is_mark(&stored.record) {
                continue;
            }
            match found.take(&stored.record) {
                Some(names_to) => holding.marks.lock().add(stored.seq, stored.record.len(), names_to),
                None => unreadable(stored.seq),
            }
        }
        holding.acker.ack_ranges(&found.done.iter().collect::<Vec<_>>());
        let (mut again, mut ends) = (Vec::new(), Vec::new());
        for (window, stretches) in (0..).zip(found.again()) {
            again.extend(stretches.iter().map(|(first, last)| (*first, *last, window)));
            ends.push(stretches.iter().map(|(_, last)| *last).max().unwrap_or(0));
        }
        again.sort_unstable();
        Self { look: holding.spool.look(), again, ends, held: 0 }
    }

    /// The window that is made again with this contribution.
    fn window(&self, sequence: u64) -> Option<Again> {
        let at = self.again.partition_point(|(first, _, _)| *first <= sequence).checked_sub(1)?;
        let (_, last, window) = *self.again.get(at)?;
        let end = self.ends.get(usize::try_from(window).ok()?)?;
        (sequence <= last).then_some(Again { window, last: *end == sequence })
    }
}

impl Bridge {
    /// Puts what was held when the program ended back into its windows, as far as there is room for those that close;
    /// [`run_windows`](Self::run_windows) goes on with the rest.
    pub fn recover(&self) {
        let holding = &self.stores.held;
        *holding.recovery.lock() = Some(Recovery::begin(holding));
        self.read_back();
    }

    /// Goes on with the start. True where it is over.
    pub(super) fn read_back(&self) -> bool {
        let (now, memory, holding) = (self.rules.load(), self.rules.memory(), &self.stores.held);
        let mut recovery = holding.recovery.lock();
        let Some(under_way) = recovery.as_mut() else { return true };
        while memory.has_room() {
            let Some(stored) = under_way.look.next_waiting() else {
                (0..under_way.ends.len() as u64).for_each(|window| memory.close_again(window));
                if under_way.held > 0 {
                    tracing::info!("{} in windows", of(under_way.held, "message waits", "messages wait"));
                }
                *recovery = None;
                holding.settle();
                holding.recovering.store(false, Ordering::Release);
                holding.drained.notify_waiters();
                return true;
            };
            if marks::is_mark(&stored.record) {
                continue;
            }
            under_way.held += 1;
            let kept = match under_way.window(stored.seq) {
                None => now.set.hold(&stored.record, stored.seq, memory),
                Some(again) => now.set.hold_again(&stored.record, stored.seq, again, memory),
            };
            if kept.is_err() {
                unreadable(stored.seq);
            }
        }
        holding.recovering.store(true, Ordering::Release);
        false
    }
}

fn unreadable(sequence: u64) {
    tracing::error!(sequence, "what was held for a window cannot be read; it stays in the holding spool");
}
