//! What waits in windows, kept on disk until the message it becomes is in the spool.
//!
//! A publisher with one publish in flight must not wait for a window of ten seconds. So what a message gives to its
//! window (a *contribution*) goes at once into a spool of its own, the *holding spool*, and the acknowledgement follows
//! its commit. When the window closes, its message goes into the spool of all messages, and once it is on disk
//! there, its contributions are done with here ([`closing`] has the steps). What becomes of contributions is written down
//! among them ([`marks`]), so that a window is after any crash either done with or there as it was, however many there
//! are: a crash loses nothing, and repeats a message only between two commits, with the same body and the same `$.mid`. A
//! start reads the contributions back into their windows before clients come ([`recover`]).
//!
//! | what is full | what happens |
//! |---|---|
//! | the spool of all messages | closed windows wait, publishes for windows are refused until there is room |
//! | the holding spool | the oldest windows close early, a sixteenth of them at a time, until there is room; until then publishes for windows are refused |
//!
//! At an end that is no crash, all windows are closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::commits::HELD;
use super::{Bridge, Current, Offer, Reason, messages};
use crate::broker::Sequences;
use crate::message::{Publish, Timestamp};
use crate::rules::{self, Output};
use crate::spool::{Acker, AppendError, Appender, Opened, Reader, Spool};

mod closing;
mod marks;
mod recover;

use marks::Marks;
use recover::Recovery;

/// A holding spool that is full closes its windows in so many steps.
const SHARES: usize = 16;
/// A holding spool is full when it is for that long.
const FULL_FOR: Duration = Duration::from_millis(50);
/// The clock is looked at that often, however far the next window is.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// What could not be written down for lack of room is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// How long an end may wait for room for the last windows.
pub const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// The holding spool.
#[derive(Debug, Clone)]
pub struct Holding {
    pub(super) spool: Appender,
    acker: Acker,
    /// A window closed, or one is due sooner.
    changed: Arc<Notify>,
    /// There is room for closed windows again.
    drained: Arc<Notify>,
    marks: Arc<Mutex<Marks>>,
    /// Where the start has got to, and that it is not over yet.
    recovery: Arc<Mutex<Option<Recovery>>>,
    recovering: Arc<AtomicBool>,
}

impl Holding {
    /// Takes an open spool apart.
    pub fn over(opened: Opened) -> (Self, Spool) {
        let Opened { appender, acker, reader, recovered, spool } = opened;
        if recovered.waiting > 0 {
            tokio::spawn(read_over(reader, appender.durable().borrow().seq));
        }
        let holding = Self {
            spool: appender,
            acker,
            changed: Arc::default(),
            drained: Arc::default(),
            marks: Arc::default(),
            recovery: Arc::default(),
            recovering: Arc::default(),
        };
        (holding, spool)
    }

    /// A list takes the place of marks as soon as there are more than `most`.
    #[cfg(test)]
    pub(super) fn bound_marks(&self, most: usize) {
        self.marks.lock().bound(most);
    }

    /// How many contributions wait.
    pub fn waiting(&self) -> u64 {
        let marks = self.marks.lock();
        self.spool.stats().waiting.saturating_sub(marks.count())
    }

    /// Contributions may come: closed windows have room, and those of the time before the start are in theirs.
    fn is_open(&self, memory: &rules::Memory) -> bool {
        memory.has_room() && !self.recovering.load(Ordering::Acquire)
    }

    /// What is done with is to be written down as soon as there is room.
    fn has_unwritten(&self) -> bool {
        self.marks.lock().unwritten.count() > 0
    }

    /// The spool of what is held.
    pub fn spool(&self) -> &Appender {
        &self.spool
    }

    /// Closes all windows before their time; says how many.
    pub(super) fn close_all(&self, memory: &rules::Memory) -> usize {
        let closed = memory.close_oldest(usize::MAX);
        self.changed.notify_one();
        closed
    }

    /// Returns when contributions are worth offering again.
    pub(super) async fn room(&self, memory: &rules::Memory) {
        loop {
            let drained = self.drained.notified();
            if self.is_open(memory) {
                break;
            }
            drained.await;
        }
        self.spool.room().await;
    }
}

/// Reads what was there at the start, so that what is damaged is found, counted and no longer waited for.
async fn read_over(mut reader: Reader, last: u64) {
    while let Some(stored) = reader.next(true).await {
        if stored.seq >= last {
            return;
        }
    }
}

impl Bridge {
    /// Keeps what a publish gives to windows, and stores what else the rules made of it. On `Err` nothing has happened.
    #[cold]
    pub(super) fn store_held(
        &self,
        now: &Current,
        publish: &Publish<'_>,
        out: &Output,
        failed: Option<Reason<'_>>,
    ) -> Result<Offer, AppendError> {
        let (holding, memory) = (&self.stores.held, self.rules.memory());
        if !holding.is_open(memory) {
            return Err(AppendError::Full);
        }
        let ticket = holding.spool.try_append_leaving(out.held().map(|(_, held)| held)).inspect_err(|error| {
            if *error == AppendError::Full {
                holding.changed.notify_one();
            }
        })?;
        let ticket = ticket.0;
        let first = (ticket + 1).saturating_sub(out.held().count() as u64);
        let before = memory.next_due();
        for ((rule, held), sequence) in out.held().zip(first..) {
            now.meters.of(rule).combined();
            // What was just written can be read.
            let _ = now.set.hold(held, sequence, memory);
        }
        if memory.next_due() != before || memory.count_windows().1 > 0 {
            holding.changed.notify_one();
        }
        let held = Sequences::of(HELD, ticket);
        if failed.is_none() && messages(now, out).next().is_none() {
            self.metrics.publishes_translated.increment(1);
            return Ok(Offer::Taken(held));
        }
        Ok(self.store_rest(now, publish, out, (failed, held, self.store_first(now, out))))
    }

    /// Closes windows when they are due and stores their messages, until `stop`; then closes all, for which it takes
    /// [`CLOSE_GRACE`] at most. `clock` tells the time of day.
    pub async fn run_windows(self: Arc<Self>, clock: impl Fn() -> Timestamp, stop: CancellationToken) {
        let all = async {
            self.close_when_due(clock, &stop).await;
            while self.rules.memory().close_first() {}
            self.store_closed().await;
        };
        let patience = async {
            stop.cancelled().await;
            tokio::time::sleep(CLOSE_GRACE).await;
        };
        tokio::select! {
            biased;
            () = all => {}
            () = patience => {}
        }
    }

    async fn close_when_due(&self, clock: impl Fn() -> Timestamp, stop: &CancellationToken) {
        let (holding, memory) = (&self.stores.held, self.rules.memory());
        while !self.read_back() {
            self.store_closed().await;
        }
        loop {
            let now = clock();
            memory.close_due(now);
            self.store_closed().await;
            self.make_room(stop).await;
            let longest = if holding.has_unwritten() { RETRY } else { LONGEST_SLEEP };
            let wait = memory.next_due().map_or(longest, |due| {
                Duration::from_millis(u64::try_from(due.0.saturating_sub(now.0)).unwrap_or(0)).min(longest)
            });
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = holding.changed.notified() => {}
                () = self.rules.replaced() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Closes windows for as long as the holding spool is full, the oldest first. A segment is free when all of its
    /// contributions are done with, so one window of many makes no room; a share of them at a time soon does.
    async fn make_room(&self, stop: &CancellationToken) {
        let (holding, memory) = (&self.stores.held, self.rules.memory());
        let is_full = async || {
            if !holding.spool.stats().full {
                return false;
            }
            // While a segment is being made, or what was freed is not yet taken back, that is no sign.
            tokio::select! {
                biased;
                () = tokio::time::sleep(FULL_FOR) => holding.spool.stats().full,
                () = stop.cancelled() => false,
            }
        };
        let mut share = None;
        while is_full().await {
            let share = *share.get_or_insert_with(|| memory.count_windows().0.div_ceil(SHARES));
            if memory.close_oldest(share) == 0 {
                return;
            }
            self.store_closed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::super::tests::{bridge, fill};
    use super::super::urgent::durable;
    use super::*;
    use crate::broker::Ingest as _;

    const RULES: &str = "[[rule]]\ntopic = \"window/#\"\ndevice = \"d\"\nbatch = { max_wait = \"1d\" }\n\
        [[rule]]\ntopic = \"plain/#\"\ndevice = \"d\"\n";

    /// A failing test ends.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// More windows close at a start than may wait: the rest is read when there is room for it, and until then nobody
    /// adds to windows.
    #[tokio::test]
    async fn a_start_that_closes_many_windows_goes_step_by_step() {
        let dir = tempfile::tempdir().unwrap();
        let (before, _writer, (_spools, _held)) = bridge(dir.path(), Some("own"), RULES);
        let publish = Publish {
            topic: "window/a",
            payload: b"1",
            client: "c",
            user: None,
            qos: 1,
            retain: false,
            received: Timestamp(0),
        };
        let mut scratch = before.scratch();
        before.rules.load().set.attempt(&publish, &mut scratch);
        let contribution = scratch.held().next().unwrap().1.to_vec();
        let count = 25_000;
        let held = before.stores.held.spool.clone();
        for _ in 0..count {
            while held.try_append(std::iter::once(contribution.as_slice())).is_err() {
                held.room().await;
            }
        }
        durable(held, count).await;
        drop(before);
        drop((_spools, _held));

        // The rule has no window any more, so each is a message of its own.
        let rules = RULES.replace("batch = { max_wait = \"1d\" }", "");
        let rules = format!("{rules}[[rule]]\ntopic = \"other/#\"\ndevice = \"d\"\nbatch = {{ max_wait = \"1d\" }}\n");
        let (bridge, _writer, (spools, _held)) = bridge(dir.path(), Some("own"), &rules);
        bridge.recover();
        assert_eq!(bridge.rules.memory().count_windows(), (0, 10_000));
        let other = Publish { topic: "other/a", ..publish };
        let mut scratch = bridge.scratch();
        assert!(matches!(bridge.offer(&mut scratch, &other), Offer::Full), "they would come before older ones");
        let (bridge, stop) = (Arc::new(bridge), CancellationToken::new());
        let windows = tokio::spawn(Arc::clone(&bridge).run_windows(|| Timestamp(0), stop.clone()));
        tokio::time::timeout(PATIENCE, bridge.room(&scratch)).await.unwrap();
        assert!(matches!(bridge.offer(&mut scratch, &other), Offer::Taken(_)));
        stop.cancel();
        windows.await.unwrap();
        assert_eq!(bridge.stores.held.waiting(), 0);
        assert_eq!(spools[0].appender.stats().appended, count + 1);
    }

    /// What the holding spool cannot take at once goes into the quarantine, and is not remembered as sent.
    #[tokio::test]
    async fn a_publish_that_is_too_large_for_the_holding_spool_is_not_taken_for_sent() {
        let rule = "[[rule]]\ntopic = \"many\"\ndevice = \"d\"\ndecode = { format = \"csv\", names = [\"a\"] }\n\
            dedupe = \"1h\"\nbatch = { max_wait = \"1d\" }\n";
        let rows = |count: u32| (0..count).map(|row| format!("{row:010000}\n")).collect::<String>();
        for (count, expect) in [(500, [true, true]), (9, [false, false])] {
            let dir = tempfile::tempdir().unwrap();
            let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
            let (bridge, writer, _spools) =
                metrics::with_local_recorder(&recorder, || bridge(dir.path(), Some("own"), rule));
            let rows = rows(count);
            let publish = Publish {
                topic: "many",
                payload: rows.as_bytes(),
                client: "c",
                user: None,
                qos: 1,
                retain: false,
                received: Timestamp(0),
            };
            let quarantined = [(); 2].map(|()| {
                let offer = || bridge.offer(&mut bridge.scratch(), &publish);
                matches!(metrics::with_local_recorder(&recorder, offer), Offer::TakenAfter(..))
            });
            let page = recorder.handle().render();
            let told = page.contains("messages_quarantined_total{reason=\"too_large\"}");
            assert_eq!((quarantined, told), (expect, expect[0]), "{count}: {page}");
            let held_back = page.contains("messages_dropped_total{reason=\"duplicate\"} 1\n");
            assert_eq!(held_back, !expect[1], "{count}: only what was sent comes a second time");
            drop(bridge);
            writer.join();
        }
    }

    /// Who waits for one spool does not wait for the other, whatever was offered before.
    #[tokio::test]
    async fn each_waits_for_the_spool_that_refused_it() {
        let dir = tempfile::tempdir().unwrap();
        let (bridge, _writer, (spools, _held)) = bridge(dir.path(), Some("own"), RULES);
        let (normal, held) = (&spools[0], &bridge.stores.held);
        let of = |topics: &[&str]| {
            let mut scratch = bridge.scratch();
            for topic in topics {
                let received = Timestamp(0);
                let publish =
                    Publish { topic, payload: b"1", client: "c", user: None, qos: 1, retain: false, received };
                let refused = matches!(bridge.offer(&mut scratch, &publish), Offer::Full);
                assert!(refused, "{topic}");
            }
            scratch
        };
        // Room that came before a spool was full may still be told once.
        let is_pending = |scratch: &Output| {
            (0..2).any(|_| {
                let mut room = Box::pin(bridge.room(scratch));
                room.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
            })
        };
        let drain = |spool: &Appender, acker: &Acker| {
            (1..=spool.stats().appended).for_each(|sequence| {
                acker.ack(sequence);
            });
        };
        fill(&normal.appender).await;
        fill(&held.spool).await;
        let windows = [of(&["window/a"]), of(&["plain/a", "window/a"])];
        let plain = [of(&["plain/a"]), of(&["window/a", "plain/a"]), of(&["window/a", "devices/own/messages/events/"])];
        assert!(windows.iter().chain(&plain).all(is_pending));

        drain(&normal.appender, &normal.acker);
        for scratch in &plain {
            tokio::time::timeout(PATIENCE, bridge.room(scratch)).await.unwrap();
        }
        assert!(windows.iter().all(is_pending), "the holding spool is full");

        fill(&normal.appender).await;
        drain(&held.spool, &held.acker);
        for scratch in &windows {
            tokio::time::timeout(PATIENCE, bridge.room(scratch)).await.unwrap();
        }
        assert!(plain.iter().all(is_pending), "the spool is full");
    }
}
