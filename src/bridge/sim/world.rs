//! A bridge whose disk, hub and time are the test's: the real translation, spools, lanes and uplink between them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::books::Books;
use super::oracle::{Key, Oracle};
use super::{Plan, Rng};
use crate::bridge::{Bridge, Holding, Own, Stores, join};
use crate::broker::{Commits as _, Ingest as _, Offer, Sequences};
use crate::config::Unmatched;
use crate::diag::SourceFile;
use crate::message::{Publish, Timestamp};
use crate::metrics::Metrics;
use crate::rules::{self, Output, RuleSet};
use crate::spool::sim::{Faults, SimDisk};
use crate::spool::{self, Stats};
use crate::uplink::sim::{Cut, Hub};
use crate::{quarantine, uplink};

const RULES: &str = r#"
[[rule]]
topic  = "t/{device}"
device = "{device}"

[[rule]]
topic    = "alarm/{device}"
device   = "urgent-{device}"
priority = "high"
continue = true

[[rule]]
topic  = "alarm/both"
device = "copy"

[[rule]]
topic  = "list/{device}"
device = "list-{device}"
batch  = { max_messages = 5, max_wait = "300ms" }

[[rule]]
topic     = "fold/{device}"
device    = "fold-{device}"
aggregate = { every = "1s", fields = { n = ["count", "min", "max", "sum"] } }

[[rule]]
topic  = "row/{device}/{name}"
device = "row-{device}"
pivot  = { name = "{name}", max_wait = "700ms" }

[[rule]]
topic    = "twice/{device}"
device   = "list-twice-{device}"
batch    = { max_messages = 3, max_wait = "2s" }
priority = "high"
continue = true

[[rule]]
topic  = "twice/{device}"
device = "twice-{device}"
"#;
pub(super) const SEGMENT: u64 = 32 * 1024;
/// What the hub closes the line at.
const POISON: &str = "poison";
/// A planned end waits 5 s for acknowledgements.
const LONGEST_END: Duration = Duration::from_secs(8);
/// When the simulation begins, in milliseconds since 1970: nothing in it is ever too old by the machine's clock.
const EPOCH: i64 = 4_102_444_800_000;

/// The time of day: it goes as fast as the runtime's.
#[derive(Debug, Clone, Copy)]
struct Clock(tokio::time::Instant);

impl Clock {
    fn now(self) -> Timestamp {
        Timestamp(EPOCH + self.0.elapsed().as_millis() as i64)
    }
}

/// A publish that its client has not been acknowledged yet.
struct Owed {
    keys: Vec<Key>,
    written: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    waits_for: Sequences,
}

/// The program from its start to its end.
struct Life {
    bridge: Arc<Bridge>,
    scratch: Output,
    stores: Stores,
    /// Of the spool, of the urgent one and of the holding spool.
    steps: [spool::steps::Steps; 3],
    quarantine: quarantine::steps::Steps,
    uplink: JoinHandle<()>,
    stop: CancellationToken,
    windows: JoinHandle<()>,
    windows_stop: CancellationToken,
    owed: Vec<Owed>,
    /// The counters at its start.
    before: [u64; 3],
    closes: u32,
    began: usize,
}

pub(super) struct World {
    plan: Plan,
    pub(super) rng: Rng,
    pub(super) disks: [SimDisk; 3],
    clock: Clock,
    pub(super) hub: Hub,
    books: Books,
    pub(super) oracle: Oracle,
    life: Life,
    published: u64,
    /// Shed, expired and lost in the lives before.
    given_up: u64,
}

/// What the equation of the ledger needs from the counters.
fn counters(books: &Books) -> [u64; 3] {
    ["messages_translated_total", "messages_delivered_total", "hub_messages_quarantined_total"]
        .map(|name| books.count(name))
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan, books: Books) -> Self {
        let disks = [SimDisk::new(seed), SimDisk::new(!seed), SimDisk::new(seed.rotate_left(32))];
        let clock = Clock(tokio::time::Instant::now());
        let hub = Hub::default();
        if plan.poison {
            hub.poisoned_by(POISON.as_bytes());
        }
        let life = Life::begin(&plan, (&disks, clock), &hub, &books);
        let (oracle, rng) = (Oracle::default(), Rng(seed));
        Self { plan, rng, disks, clock, hub, books, oracle, life, published: 0, given_up: 0 }
    }

    /// Offers one publish as a plant client would.
    pub(super) fn publish(&mut self) {
        self.published += 1;
        let number = self.published;
        let device = self.rng.below(3);
        let kind = self.rng.below(24);
        let (topic, devices): (_, Vec<String>) = match kind {
            0 => ("alarm/both".to_owned(), vec!["urgent-both".to_owned(), "copy".to_owned()]),
            1 => (format!("alarm/d{device}"), vec![format!("urgent-d{device}")]),
            2..4 => (format!("list/d{device}"), vec![format!("list-d{device}")]),
            4..6 => (format!("fold/d{device}"), vec![format!("fold-d{device}")]),
            6..8 => (format!("row/d{device}/{number}"), vec![format!("row-d{device}")]),
            8 => (format!("twice/d{device}"), vec![format!("list-twice-d{device}"), format!("twice-d{device}")]),
            _ => (format!("t/d{device}"), vec![format!("d{device}")]),
        };
        let windows = (2..9).contains(&kind);
        let old = self.plan.max_age && self.rng.below(20) == 0 && !windows;
        let poison = self.plan.poison && self.rng.below(60) == 0 && !windows;
        let size = if self.rng.below(8) == 0 { self.rng.below(2_000) } else { self.rng.below(60) };
        let payload = match kind {
            4..6 => format!("{{\"n\":{number}}}"),
            2..9 => number.to_string(),
            _ => format!("{number} {}{}", if poison { POISON } else { "" }, "x".repeat(size as usize)),
        };
        let publish = Publish {
            topic: &topic,
            payload: payload.as_bytes(),
            client: "c",
            user: None,
            qos: 1,
            retain: false,
            received: if old { Timestamp(0) } else { self.clock.now() },
        };
        let keys: Vec<Key> = devices.into_iter().map(|device| (device, number)).collect();
        let life = &mut self.life;
        let (written, waits_for) = match life.bridge.offer(&mut life.scratch, &publish) {
            Offer::Taken(waits_for) => (None, waits_for),
            Offer::TakenAfter(written, waits_for) => (Some(written), waits_for),
            Offer::Full => {
                self.oracle.tally.refused += 1;
                return;
            }
        };
        keys.iter().for_each(|key| self.oracle.offered(key.clone(), old || poison));
        life.owed.push(Owed { keys, written, waits_for });
    }

    /// Commits; where the disk failed for good the program ends, and the power is cut with it.
    pub(super) fn commit(&mut self, which: usize) {
        if !self.life.steps[which].commit() {
            self.crash(true);
        }
    }

    pub(super) fn read_ahead(&mut self) {
        self.life.steps.iter_mut().for_each(spool::steps::Steps::read_ahead);
    }

    pub(super) fn write_cursor(&mut self, sync: bool) {
        self.life.steps.iter_mut().for_each(|steps| steps.write_cursor(sync));
    }

    pub(super) fn retry(&mut self) {
        self.life.steps.iter_mut().for_each(spool::steps::Steps::retry);
    }

    /// The quarantine's disk is through with one entry.
    pub(super) fn quarantine(&mut self) -> bool {
        let Some(entry) = self.life.quarantine.store() else { return false };
        assert_eq!(entry.reason, "poison", "{entry:?}");
        let record = entry.record().expect("a hub message");
        let message = crate::message::HubMessage::parse(&record).expect("readable");
        let text = std::str::from_utf8(message.body).expect("a text");
        let number = text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        self.oracle.isolated((entry.device.clone(), number), text.contains(POISON));
        true
    }

    /// The hub takes up to `most` of what is on the way.
    pub(super) fn take(&mut self, most: u64) {
        self.hub.take(1 + self.rng.below(most) as usize);
    }

    /// It acknowledges up to `most` of what it took, from the `at`-th on.
    pub(super) fn acknowledge(&mut self, most: u64, at: u64) {
        self.hub.acknowledge(1 + self.rng.below(most) as usize, at as usize);
    }

    /// Windows close before their time, as they do without room.
    pub(super) fn close_early(&mut self) {
        let most = 1 + self.rng.below(6) as usize;
        self.life.bridge.rules().memory().close_oldest(most);
    }

    pub(super) fn cut(&mut self) {
        let reason = ["network", "closed", "timeout"][self.rng.below(3) as usize];
        self.life.closes += u32::from(reason == "closed");
        let (taken, told) = (self.rng.below(12) as usize, self.rng.below(6) as usize);
        self.hub.cut(Cut { taken, told, reason });
    }

    /// Lets the uplink do what it can, and judges what came of it.
    pub(super) async fn settle(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
        let life = &mut self.life;
        let mut commits = life.bridge.commits();
        let mut promised = Vec::new();
        life.owed.retain_mut(|owed| {
            let written = owed
                .written
                .as_mut()
                .is_none_or(|written| written.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
            if written {
                owed.written = None;
            }
            let done = written && commits.cover(owed.waits_for);
            if done {
                promised.append(&mut owed.keys);
            }
            !done
        });
        self.oracle.promised(promised);
        self.judge();
    }

    fn judge(&mut self) {
        let life = &self.life;
        let urgent = &life.stores.urgent;
        let spools = [(life.stores.normal.id(), life.steps[0].durable()), (urgent.id(), life.steps[1].durable())];
        let oracle = &mut self.oracle;
        oracle.unmarked = self.books.count("windows_unmarked_total") > 0;
        self.hub.arrivals(|arrivals| {
            let heard = arrivals.iter().skip(life.began).any(|arrival| arrival.told);
            let suspects = self.plan.poison || life.closes >= self.plan.suspect_after;
            if !heard && suspects && self.plan.suspect_after > 0 {
                spools.iter().for_each(|&(spool, durable)| oracle.may_be_unordered(spool, durable));
            }
            oracle.judge(arrivals, |spool| spools.iter().find(|(id, _)| *id == spool).map(|(_, durable)| *durable));
        });
        let stats = self.stats();
        let [translated, delivered, isolated] = counters(&self.books);
        let [was_translated, was_delivered, was_isolated] = life.before;
        let made = translated - was_translated + stats.recovered;
        let settled = delivered - was_delivered + isolated - was_isolated + given_up(&stats);
        assert_eq!(made, settled + stats.waiting, "the ledger: {stats:?}");
        assert_eq!(translated - was_translated, stats.appended, "{stats:?}");
    }

    pub(super) fn stats(&self) -> Stats {
        self.life.stores.stats()
    }

    /// What waits in windows.
    fn held(&self) -> u64 {
        let held = &self.life.stores.held;
        let stats = held.spool().stats();
        assert_eq!((stats.lost, stats.shed, stats.expired), (0, 0, 0), "the holding spool gives nothing up");
        held.waiting()
    }

    /// kill -9, with the power or without.
    pub(super) fn crash(&mut self, power: bool) {
        self.oracle.tally.crashes += 1;
        self.life.uplink.abort();
        self.life.windows.abort();
        if power {
            self.disks.iter().for_each(SimDisk::power_cut);
        }
        let cut = Cut { taken: self.rng.below(9) as usize, told: 0, reason: "network" };
        self.hub.cut(cut);
        self.judge_the_last();
        self.restart(false);
    }

    /// What was on its way when the program ended is of its life still.
    fn judge_the_last(&mut self) {
        let stats = self.stats();
        self.given_up += given_up(&stats);
        self.judge();
    }

    fn restart(&mut self, orderly: bool) {
        self.disks.iter().for_each(|disk| disk.set_faults(Faults::default()));
        self.hub.arrivals(|arrivals| self.oracle.new_life(orderly, arrivals));
        self.life = Life::begin(&self.plan, (&self.disks, self.clock), &self.hub, &self.books);
    }

    /// SIGTERM, as `app` does it: nothing is taken any more, windows are closed, what waits may drain for a while, the
    /// uplink says goodbye.
    pub(super) async fn stop(&mut self) {
        self.oracle.tally.stops += 1;
        self.life.windows_stop.cancel();
        let began = tokio::time::Instant::now();
        while !self.life.windows.is_finished() {
            assert!(began.elapsed() < LONGEST_END, "the windows do not end");
            self.deliver().await;
            if !self.life.windows_stop.is_cancelled() {
                // The disk has failed meanwhile.
                return;
            }
        }
        for _ in 0..self.rng.below(4) {
            self.deliver().await;
        }
        self.life.stop.cancel();
        let began = tokio::time::Instant::now();
        while !self.life.uplink.is_finished() {
            assert!(began.elapsed() < LONGEST_END, "the uplink does not end");
            match self.rng.below(3) {
                0 => self.take(9),
                1 => self.acknowledge(9, 0),
                _ => drop(self.quarantine()),
            }
            let time = Duration::from_millis(1 + self.rng.below(400));
            self.settle(time).await;
        }
        let sound = self.disks.iter().all(SimDisk::is_sound);
        let closed = self.life.steps.each_mut().map(spool::steps::Steps::close);
        // What was on its way when the program left arrives or not.
        let taken = self.rng.below(3) as usize;
        self.hub.cut(Cut { taken, told: 0, reason: "network" });
        self.judge_the_last();
        self.restart(sound && closed == [true; 3]);
    }

    /// A moment in which nothing goes wrong.
    async fn deliver(&mut self) {
        (0..3).for_each(|disk| self.commit(disk));
        self.read_ahead();
        self.settle(Duration::from_millis(2)).await;
        self.hub.take(64);
        self.hub.acknowledge(64, 0);
        self.settle(Duration::from_millis(2)).await;
        while self.quarantine() {
            self.settle(Duration::from_millis(1)).await;
        }
        self.write_cursor(true);
    }

    /// Nothing goes wrong any more: everything promised arrives, and so does something new.
    pub(super) async fn prove(&mut self) {
        for disk in &self.disks {
            disk.set_faults(Faults::default());
            disk.set_capacity(u64::MAX);
        }
        self.hub.away(false);
        self.hub.stall(false);
        for last in [false, true] {
            let mut rounds = 0;
            while self.stats().waiting + self.held() > 0 || !self.life.owed.is_empty() {
                rounds += 1;
                let held = self.life.stores.held.spool().stats();
                assert!(rounds < 20_000, "it does not drain: {:?}, held: {held:?}", self.stats());
                self.retry();
                self.deliver().await;
                // Pauses, paces and patiences pass; a hub that takes longer would be spared.
                self.settle(Duration::from_millis(90)).await;
            }
            if !last {
                self.publish();
            }
        }
        self.oracle.finish(self.given_up + given_up(&self.stats()));
        self.oracle.tally.connections = self.hub.connections();
        self.oracle.tally.renewed = self.books.count("uplink_reconnects_total token_renewal");
        self.oracle.tally.combined_again = self.books.count("windows_closed_total repeated");
    }
}

fn given_up(stats: &Stats) -> u64 {
    stats.shed + stats.expired + stats.lost
}

impl Life {
    fn begin(plan: &Plan, (disks, clock): (&[SimDisk; 3], Clock), hub: &Hub, books: &Books) -> Self {
        let before = counters(books);
        let began = hub.arrivals(<[_]>::len);
        let metrics = Metrics::register();
        let (kept, kept_by_hand) = quarantine::steps::open();
        let [normal, urgent, held] = [0, 1, 2].map(|n| spool::steps::open(&disks[n], &plan.spool(n)).expect("opens"));
        let (stores, (backlog, outcome), _) = join([normal.0, urgent.0], Holding::over(held.0), (&kept, &metrics));
        let own = Own { hub: "h".into(), device: Some("gw".into()), module: None, mark_late: true, block: None };
        let bridge = Arc::new(Bridge::new((rules(), Unmatched::Drop), own, stores.clone(), kept, metrics.clone()));
        stores.held.bound_marks(plan.marks);
        bridge.recover();
        let windows_stop = CancellationToken::new();
        let windows = Arc::clone(&bridge).run_windows(move || clock.now(), windows_stop.clone());
        let (status, stop) = (watch::Sender::default(), CancellationToken::new());
        let options = plan.uplink();
        let target = options.target.clone();
        let line = (hub.clone(), options, target);
        let uplink = tokio::spawn(uplink::run_over(line, (backlog, outcome), metrics, status, stop.clone()));
        Self {
            scratch: bridge.scratch(),
            bridge,
            stores,
            steps: [normal.1, urgent.1, held.1],
            quarantine: kept_by_hand,
            uplink,
            stop,
            windows: tokio::spawn(windows),
            windows_stop,
            owed: Vec::new(),
            before,
            closes: 0,
            began,
        }
    }
}

fn rules() -> RuleSet {
    static LOADED: OnceLock<RuleSet> = OnceLock::new();
    let load = || {
        let file = SourceFile { path: "r.toml".into(), text: RULES.into() };
        rules::load(&[file]).rules.expect("sound rules")
    };
    LOADED.get_or_init(load).clone()
}
