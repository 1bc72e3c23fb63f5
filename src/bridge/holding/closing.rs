//! Closed windows on their way into the spool.
//!
//! | step | what is on disk then | a crash now |
//! |---|---|---|
//! | 1 | the contributions, which was so before their publishes were acknowledged | the windows go on |
//! | 2 | the mark that says which contributions are in which of the closed windows | the same windows are made again |
//! | 3 | the messages, in the spool of all messages | the same messages are made again |
//! | 4 | the mark that says that the contributions are done with | nothing comes again |
//! | 5 | | the contributions are done with in the spool, in any order and at any time |
//!
//! Without room for a mark things go on without: what is done with stays in memory then, and is done with in the
//! holding spool in one step when all windows are closed, which a full spool brings about.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::Bridge;
use super::super::meters::Meter;
use super::super::urgent::durable;
use super::{Holding, marks};
use crate::message;
use crate::metrics::{window_closed, windows_unmarked};
use crate::rules::Closed;
use crate::spool::{AppendError, Ranges};

/// Windows that are stored with one wait for the disk, and about the bytes of their messages and their sequences.
const AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 4 << 20;
const SEQUENCES_AT_ONCE: usize = 128 << 10;
/// What a `$.mid` takes in a record, with its name and lengths.
const ROOM_FOR_ID: usize = 64;
/// Windows that become messages without a pause.
const FOLDED: usize = 64;
/// Stretches that are done with under one lock.
const STRETCHES: usize = 1_000;
/// Room for a mark is waited for that long.
const PATIENCE: Duration = Duration::from_millis(50);

impl Holding {
    /// Gives the message of a window a `$.mid` that is made of what it is made of: one that is made again after a crash
    /// has the same. Two windows never begin and end with the same contributions.
    fn named(&self, mut closed: Closed) -> Closed {
        let Some((first, last)) = closed.sequences.span() else { return closed };
        let id = format!("{:016x}-{first}-{last}", self.spool.id());
        let mut record = Vec::with_capacity(closed.record.len() + ROOM_FOR_ID);
        message::push_with_id(&mut record, &closed.record, &id);
        closed.record = record;
        closed
    }

    /// Writes marks and waits until they are on disk. False where there is no room.
    async fn write(&self, notes: Vec<marks::Note>) -> bool {
        let mut last = 0;
        for (note, names_to) in notes {
            let mut answer = self.append(&note, names_to);
            if answer == Err(AppendError::Full) {
                tokio::select! {
                    biased;
                    () = self.spool.room() => {}
                    () = tokio::time::sleep(PATIENCE) => {}
                }
                answer = self.append(&note, names_to);
            }
            match answer {
                Ok(sequence) => last = sequence,
                Err(AppendError::Full | AppendError::TooLarge) => return false,
                // The program is about to end; what the windows were made of is on disk.
                Err(AppendError::Closed) => return std::future::pending().await,
            }
        }
        self.is_on_disk(last).await
    }

    /// Waits until everything up to a sequence is on disk. False where that takes room that is only made by being done
    /// with something.
    async fn is_on_disk(&self, sequence: u64) -> bool {
        loop {
            tokio::select! {
                biased;
                () = durable(self.spool.clone(), sequence) => return true,
                () = tokio::time::sleep(PATIENCE) => {}
            }
            if self.spool.is_stuck() {
                return false;
            }
        }
    }

    /// Counted under the same lock, so that nobody takes a mark for a contribution.
    fn append(&self, note: &[u8], names_to: u64) -> Result<u64, AppendError> {
        let mut marks = self.marks.lock();
        let ticket = self.spool.try_append_last(std::iter::once(note))?;
        marks.add(ticket.0, note.len(), names_to);
        Ok(ticket.0)
    }

    /// The messages that these contributions became are on disk. `all`: nothing else waits in a window. False where
    /// that could not be written down.
    async fn done_with(&self, mut done: Ranges, all: bool) -> bool {
        let unwritten = std::mem::take(&mut self.marks.lock().unwritten);
        done.extend(unwritten.iter());
        if !self.write(vec![marks::done(&done)]).await {
            let durable = self.spool.durable().borrow().seq;
            let (now, later) = done.iter().partition::<Vec<_>, _>(|(_, last)| all && *last <= durable);
            // All at once: on disk either nothing of it is done with, or everything.
            self.acker.ack_ranges(&now);
            self.marks.lock().unwritten.extend(later);
            self.settle();
            return false;
        }
        let ranges: Vec<(u64, u64)> = done.iter().collect();
        for some in ranges.chunks(STRETCHES) {
            self.acker.ack_ranges(some);
            tokio::task::yield_now().await;
        }
        self.settle();
        true
    }

    /// Is done with the marks that say nothing any more.
    pub(super) fn settle(&self) {
        loop {
            let mut marks = self.marks.lock();
            let passed = marks.take_passed(self.spool.cursor(), self.spool.durable().borrow().seq);
            if passed.is_empty() || self.acker.ack_ranges(&passed) == 0 {
                return;
            }
        }
    }

    /// Puts one list in the place of too many marks. Only where nothing is announced and not stored: the marks that say
    /// so would go, too.
    async fn list(&self) {
        // What a start has not read yet may have to be made again.
        if self.recovering.load(Ordering::Acquire) {
            return;
        }
        let list = self.marks.lock().list(|| self.spool.resolved());
        let Some(list) = list else { return };
        let first = self.spool.last_appended() + 1;
        // The part of a list that found room does no harm.
        if self.write(list).await {
            let mut marks = self.marks.lock();
            let listed = marks.take_listed(first);
            self.acker.ack_ranges(&listed);
        }
    }
}

impl Bridge {
    /// Stores the messages of closed windows, as soon as there is room for them, and is done with what they were made
    /// of. Who drops this leaves the rest to the next start.
    pub(super) async fn store_closed(&self) {
        loop {
            let group = self.next_group().await;
            if group.is_empty() {
                break;
            }
            self.store_group(group).await;
            self.stores.held.drained.notify_waiters();
        }
        if self.stores.held.has_unwritten() {
            let all = self.has_no_windows();
            if self.stores.held.done_with(Ranges::default(), all).await {
                self.stores.held.list().await;
            }
        }
    }

    /// The windows that closed first.
    async fn next_group(&self) -> Vec<Closed> {
        let memory = self.rules.memory();
        let (mut group, mut bytes, mut sequences) = (Vec::new(), 0, 0);
        while group.len() < AT_ONCE
            && bytes < BYTES_AT_ONCE
            && sequences < SEQUENCES_AT_ONCE
            && let Some(closed) = memory.fetch_closed()
        {
            bytes += closed.record.len();
            sequences += closed.sequences.len();
            group.push(self.stores.held.named(closed));
            if group.len().is_multiple_of(FOLDED) {
                tokio::task::yield_now().await;
            }
        }
        group
    }

    /// Takes windows through all steps.
    async fn store_group(&self, group: Vec<Closed>) {
        let holding = &self.stores.held;
        let last = group.iter().filter_map(|closed| closed.sequences.span()).map(|(_, last)| last).max();
        let announced = holding.is_on_disk(last.unwrap_or(0)).await && holding.write(marks::closing(&group)).await;
        let mut left = VecDeque::from(group);
        while !left.is_empty() {
            let (stored, done) = self.store_some(&mut left).await;
            if stored == 0 {
                self.stores.normal.room().await;
                continue;
            }
            let all = left.is_empty() && self.has_no_windows();
            if !(holding.done_with(done, all).await && announced) {
                windows_unmarked(stored);
            }
        }
        holding.list().await;
    }

    /// Nothing waits in a window, nor will from before the start.
    fn has_no_windows(&self) -> bool {
        !self.stores.held.recovering.load(Ordering::Acquire) && self.rules.memory().count_windows() == (0, 0)
    }

    /// Stores messages as long as there is room, and waits until they are on disk. Says how many windows that were,
    /// and what they were made of.
    async fn store_some(&self, left: &mut VecDeque<Closed>) -> (u64, Ranges) {
        let (normal, urgent) = (&self.stores.normal, &self.stores.urgent);
        let (mut count, mut done, mut last) = (0, Ranges::default(), [None, None]);
        while let Some(closed) = left.front() {
            let record = || std::iter::once(closed.record.as_slice());
            let first = if closed.urgent { self.stores.append(urgent, record()).ok() } else { None };
            let ticket = match first.map_or_else(|| self.stores.append(normal, record()), Ok) {
                Ok(ticket) if first.is_some() => *last[1].insert(ticket),
                Ok(ticket) => *last[0].insert(ticket),
                Err(AppendError::Full) => break,
                // The program is about to end; what the window was made of is on disk.
                Err(AppendError::Closed | AppendError::TooLarge) => return std::future::pending().await,
            };
            Meter::new(&closed.rule, (false, false), self.own.block).made(&self.own, &closed.record, ticket);
            window_closed(closed.why.label());
            self.note_window(closed);
            done.extend(closed.sequences.iter());
            count += 1;
            left.pop_front();
        }
        for (spool, last) in [normal, urgent].into_iter().zip(last) {
            durable(spool.clone(), last.map_or(0, |ticket| ticket.0)).await;
        }
        (count, done)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::super::super::Offer;
    use super::super::super::tests::bridge_over;
    use super::*;
    use crate::broker::Ingest as _;
    use crate::config::Durability;
    use crate::message::{Publish, Timestamp};
    use crate::rules::Closing;
    use crate::spool;

    const RULES: &str = "[[rule]]\ntopic = \"window/{d}\"\ndevice = \"{d}\"\ndecode = \"text\"\n\
        batch = { max_messages = 2, max_bytes = 100000, max_wait = \"1d\" }\n";
    /// A failing test ends.
    const PATIENCE: Duration = Duration::from_secs(30);
    const SEGMENT: u64 = 64 << 10;
    /// Windows of one group, and the bytes of each half of one.
    const GROUP: usize = 24;
    const HALF: usize = 6_000;

    /// Offers until there is room for it.
    async fn offer(bridge: &Bridge, topic: &str, bytes: usize) {
        let (payload, received) = (vec![b'x'; bytes], Timestamp(0));
        let publish = Publish { topic, payload: &payload, client: "c", user: None, qos: 1, retain: false, received };
        loop {
            match bridge.offer(&mut bridge.scratch(), &publish) {
                Offer::Taken(_) => return,
                Offer::Full => bridge.stores.held.spool.room().await,
                Offer::TakenAfter(..) => panic!("{topic} is not for a window only"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Drives `storing`, which does not end, until something is so.
    async fn until(mut storing: Pin<&mut impl Future<Output = ()>>, is_so: impl Fn() -> bool) {
        let is_so = async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = &mut storing => panic!("there is no room for all windows"),
            () = is_so => {}
            () = tokio::time::sleep(PATIENCE) => panic!("nothing comes of it"),
        }
    }

    /// The spool has room for a part of a group, and there are as many marks as may be. A crash behind the second part:
    /// what was announced and not stored is made again as it was announced, and nothing of it is in a window that goes on.
    #[tokio::test]
    async fn what_is_announced_and_not_stored_yet_stays_announced() {
        let dir = tempfile::tempdir().unwrap();
        let options = spool::Options {
            durability: Durability::Os,
            segment_size: Some(SEGMENT),
            ..spool::Options::new("", 16 * SEGMENT)
        };
        let open = || bridge_over(dir.path(), Some("own"), RULES, options.clone());
        let (bridge, writer, (spools, held_spool)) = open();
        let (normal, held) = (&spools[0], &bridge.stores.held);
        // It waits for ever, so that no mark is passed.
        offer(&bridge, "window/first", 1).await;
        while held.marks.lock().count() < 256 {
            for _ in 0..2 {
                offer(&bridge, "window/small", 1).await;
            }
            bridge.store_closed().await;
        }
        assert_eq!(held.marks.lock().count(), 256);
        let (record, mut filled) = (vec![0; 12_000], 0);
        while !normal.appender.stats().full {
            filled += u64::from(normal.appender.try_append(std::iter::once(record.as_slice())).is_ok());
            tokio::task::yield_now().await;
        }
        for window in 0..GROUP {
            let topic = format!("window/{window}");
            for _ in 0..2 {
                offer(&bridge, &topic, HALF).await;
            }
        }
        let mut storing = Box::pin(bridge.store_closed());
        let small = normal.appender.stats().appended - filled;
        for part in 1..=2 {
            let waiting = held.waiting();
            // The bytes of one segment and a half.
            normal.acker.ack_ranges(&[(1, small + part * 8)]);
            until(storing.as_mut(), || held.waiting() < waiting).await;
        }
        let left = usize::try_from(held.waiting() / 2).unwrap();
        assert!((2..GROUP).contains(&left), "{left} of {GROUP} windows are not done with");
        drop(storing);
        drop((bridge, held_spool, spools));
        writer.join();

        let (bridge, writer, _spools) = open();
        bridge.recover();
        let (open, closed) = bridge.rules.memory().count_windows();
        assert_eq!(open, 1, "{closed} of {left} windows are made again, only the one that waits goes on");
        assert!((1..=left).contains(&closed), "{closed} of {left}");
        while let Some(closed) = bridge.rules.memory().fetch_closed() {
            assert_eq!((closed.why, closed.messages), (Closing::Repeated, 2));
        }
        drop(bridge);
        writer.join();
    }
}
