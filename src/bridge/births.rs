//! Sparkplug births over a restart: a journal in `<state>/births`.
//!
//! Edge nodes tell the names of their metrics in births, and send them by number from then on. They do not know of
//! a restart of the bridge, so what the births said has to survive it. What is known belongs to the memory of the rules
//! ([`rules::Births`](crate::rules::Births)); here its changes are written down, and at a start read back before the
//! first publish is taken.
//!
//! The acknowledgement of a birth or death waits until the disk has what it changed. Sparkplug sends them at QoS 0, to which
//! there is no answer: such a one is on disk some milliseconds later, and nothing waits for it.
//!
//! Where no rule decodes Sparkplug there is no journal. It is opened with the first rules that do, and stays.
//!
//! Where a rule says `rebirth = true`, an edge node whose births are not known is asked for them: by an NCMD to the clients
//! of the broker, once in [`REBIRTH_PAUSE`] at most. So is one whose births are those of an earlier process, at its first
//! data by alias: what it said last before a crash may not have come to the disk. It is a publish of the bridge itself, and goes to no rule.
//!
//! What is known is bounded, and so is the journal: it is written anew when it has grown to a multiple of that.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Bridge;
use crate::broker::{Inside, Offer};
use crate::journal::{self, Journal};
use crate::message::{Publish, Timestamp, excerpt};
use crate::metrics::Metrics;
use crate::rules::{self, Births, KeepBirths};

/// The folder below the state.
const FOLDER: &str = "births";
/// Bytes of records that may wait for the disk.
const MAX_PENDING: usize = 16 << 20;
/// How long a node has to send its births before it is asked again.
const REBIRTH_PAUSE: Duration = Duration::from_secs(30);
/// Nodes that are remembered to have been asked.
const MAX_ASKED: usize = 10_000;
/// Nodes that wait to be asked.
const MAX_TO_ASK: usize = 256;

/// Looks again where the bridge wrote everything anew meanwhile.
const LOOKS: usize = 5;

/// The births that a bridge has kept in its state folder, which may be at work: nothing is changed.
pub fn kept(state: &Path) -> io::Result<Births> {
    let mut looks = 0;
    loop {
        let births = Births::default();
        let looked = journal::look(&state.join(FOLDER), |record| {
            births.restore(record);
        });
        looks += 1;
        match looked {
            Err(error) if error.kind() == io::ErrorKind::NotFound && looks < LOOKS => {}
            looked => return looked.map(|_| births),
        }
    }
}

/// Where births are written down.
#[derive(Debug)]
pub(super) struct Kept {
    dir: PathBuf,
    births: Births,
    journal: OnceLock<Journal>,
    writer: Mutex<Option<journal::Writer>>,
    opened: Notify,
    asks: Arc<Asks>,
    to_ask: Mutex<Option<mpsc::Receiver<String>>>,
}

/// Appends what changes, and notes who is to be asked.
#[derive(Debug)]
struct Appends(Journal, Arc<Asks>);

impl KeepBirths for Appends {
    fn keep(&self, record: &[u8]) -> u64 {
        self.0.append(record)
    }

    fn ask_rebirth(&self, node: &str) -> bool {
        self.1.ask(node, Instant::now())
    }
}

/// The nodes that are asked for their births.
#[derive(Debug)]
struct Asks {
    /// Since when each has been asked.
    asked: Mutex<HashMap<String, Instant>>,
    queue: mpsc::Sender<String>,
}

impl Asks {
    /// False where there is no place for it now.
    fn ask(&self, node: &str, now: Instant) -> bool {
        let mut asked = self.asked.lock();
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= REBIRTH_PAUSE;
        if asked.get(node).is_some_and(|at| !is_over(at)) {
            return true;
        }
        if asked.len() >= MAX_ASKED {
            asked.retain(|_, at| !is_over(at));
        }
        // Whoever has no place now is asked at one of its next messages.
        let has_place = asked.len() < MAX_ASKED && self.queue.try_send(node.to_owned()).is_ok();
        if has_place {
            asked.insert(node.to_owned(), now);
        }
        has_place
    }
}

impl Kept {
    pub(super) fn new(state: &Path, births: Births) -> Self {
        let (queue, to_ask) = mpsc::channel(MAX_TO_ASK);
        Self {
            dir: state.join(FOLDER),
            births,
            journal: OnceLock::new(),
            writer: Mutex::default(),
            opened: Notify::new(),
            asks: Arc::new(Asks { asked: Mutex::default(), queue }),
            to_ask: Mutex::new(Some(to_ask)),
        }
    }

    /// Opens the journal, where it is not open, and reads what is in it.
    pub(super) fn open(&self) -> io::Result<()> {
        let mut kept = self.writer.lock();
        if self.journal.get().is_some() {
            return Ok(());
        }
        // What has been heard meanwhile is newer than what is on disk.
        let is_new = self.births.tally().nodes == 0;
        let mut unreadable = 0;
        let read = |record: &[u8]| unreadable += u64::from(is_new && !self.births.restore(record));
        let (journal, writer, _) = journal::open_synced(&self.dir, ("Sparkplug births", MAX_PENDING), read)?;
        if unreadable > 0 {
            tracing::warn!(unreadable, "{}: records that say nothing were passed over", self.dir.display());
        }
        let known = self.births.tally();
        if known.nodes > 0 {
            tracing::info!(nodes = known.nodes, births = known.births, "Sparkplug births are back");
        }
        self.births.keep_with(Arc::new(Appends(journal.clone(), Arc::clone(&self.asks))));
        self.write_anew(&journal);
        *kept = Some(writer);
        let _ = self.journal.set(journal);
        self.opened.notify_one();
        Ok(())
    }

    /// Writes everything anew, an edge node at a time. What is said of one meanwhile stands before or behind it, and is
    /// right in both places.
    fn write_anew(&self, journal: &Journal) {
        journal.begin_anew();
        for node in self.births.nodes() {
            self.births.write(&node, |record| {
                journal.append(record);
            });
        }
        journal.written_anew();
    }

    /// Returns when the disk has a record.
    fn durable(&self, record: u64) -> impl Future<Output = ()> + Send + 'static {
        let committed = self.journal.get().and_then(Journal::committed);
        async move {
            let Some(mut committed) = committed else { return };
            if committed.wait_for(|durable| *durable >= record).await.is_err() {
                // The journal is gone: nothing more gets to the disk.
                std::future::pending().await
            }
        }
    }

    /// Writes everything anew whenever that is to be done.
    async fn keep(self: Arc<Self>) {
        loop {
            let Some(journal) = self.journal.get().cloned() else {
                self.opened.notified().await;
                continue;
            };
            journal.outgrown().await;
            let kept = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || kept.write_anew(&journal)).await;
        }
    }

    /// Asks whoever is to be asked.
    async fn ask(self: Arc<Self>, inside: Inside, metrics: Metrics) {
        let Some(mut to_ask) = self.to_ask.lock().take() else { return };
        while let Some(node) = to_ask.recv().await {
            let Some((topic, payload)) = rules::rebirth(&node, Timestamp::now()) else { continue };
            let reaches = inside.publish(&topic, payload.into(), 0, false);
            metrics.rebirth(if reaches { "asked" } else { "no_subscriber" });
            metrics.log_pace("rebirth", |left_out| {
                let node = excerpt(&node);
                tracing::info!(node, reaches, left_out, "an edge node was asked for its births");
            });
        }
    }

    /// False while what is said would not survive a restart; `None` where no rule asks for births.
    pub(super) fn is_sound(&self) -> Option<bool> {
        Some(self.journal.get()?.is_sound())
    }
}

/// The journal at work.
#[derive(Debug)]
pub struct KeptBirths {
    kept: Option<Arc<Kept>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl KeptBirths {
    /// Looks after the births of a bridge.
    pub fn run(bridge: &Bridge, inside: Inside) -> Self {
        let (kept, stop) = (bridge.rules.kept_births(), CancellationToken::new());
        let metrics = bridge.metrics.clone();
        let run = kept.clone().map(|kept| async move {
            tokio::join!(Arc::clone(&kept).keep(), kept.ask(inside, metrics));
        });
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            if let Some(run) = run {
                tokio::select! {
                    () = run => {}
                    () = stopped => {}
                }
            }
        });
        Self { kept, stop, task }
    }

    /// Writes what waits and ends. To be called when nothing is translated any more.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
        if let Some(writer) = self.kept.and_then(|kept| kept.writer.lock().take()) {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

impl Bridge {
    /// Keeps Sparkplug births in a folder of the state, and takes up those that are there.
    pub fn keeping_births(self, state: &Path) -> io::Result<Self> {
        self.rules.keep_births(state)?;
        Ok(self)
    }

    /// The answer for a publish that may be a birth or death.
    pub(super) fn after_births(&self, hears_births: bool, publish: &Publish<'_>, offer: Offer) -> Offer {
        if !hears_births || publish.qos == 0 || matches!(offer, Offer::Full) {
            return offer;
        }
        let Some(record) = self.rules.memory().births().record_of(publish.topic) else { return offer };
        match self.rules.kept_births() {
            Some(kept) => offer.and_after(kept.durable(record)),
            None => offer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::{Duration, Instant};

    use super::super::tests::bridge;
    use super::*;
    use crate::broker::{Ingest as _, Sequences};
    use crate::diag::SourceFile;
    use crate::message::Timestamp;
    use crate::quarantine;
    use crate::rules;

    const RULES: &str = "[[rule]]\ntopic = \"spBv1.0/#\"\ndecode = \"sparkplug\"\ndevice = \"d\"\n";
    /// A metric `a` of the alias 1.
    const BIRTH: &[u8] = b"\x12\x09\x0a\x01a\x10\x01\x20\x0b\x70\x01";
    const DATA: &[u8] = b"\x12\x04\x10\x01\x70\x00";

    /// A bridge that keeps births, and what ends its quarantine and holds its spools.
    struct Alone {
        bridge: Bridge,
        writer: quarantine::Writer,
        _spools: Box<dyn std::any::Any>,
    }

    impl Alone {
        fn start(dir: &Path, rules: &str) -> Self {
            let (bridge, writer, spools) = bridge(dir, None, rules);
            Self { bridge: bridge.keeping_births(dir).unwrap(), writer, _spools: Box::new(spools) }
        }

        fn offer(&self, topic: &str, payload: &[u8], qos: u8) -> Offer {
            let received = Timestamp(0);
            let publish = Publish { topic, payload, client: "c", user: None, qos, retain: false, received };
            self.bridge.offer(&mut self.bridge.scratch(), &publish)
        }

        /// Whether data by alias is translated.
        async fn knows(&self, topic: &str) -> bool {
            match self.offer(topic, DATA, 1) {
                Offer::Taken(_) => true,
                Offer::TakenAfter(written, _) => {
                    written.await;
                    false
                }
                Offer::Full => unreachable!(),
            }
        }

        fn end(self) {
            drop(self.bridge);
            self.writer.join();
        }
    }

    fn set(rules: &str) -> rules::RuleSet {
        rules::load(&[SourceFile { path: "r.toml".into(), text: rules.into() }]).rules.unwrap()
    }

    #[tokio::test]
    async fn an_acknowledgement_waits_for_the_birth_and_only_for_that() {
        let dir = tempfile::tempdir().unwrap();
        let alone = Alone::start(dir.path(), RULES);
        for (topic, payload, qos, waits) in [
            ("spBv1.0/g/NBIRTH/n", BIRTH, 1, true),
            ("spBv1.0/g/DBIRTH/n/d", BIRTH, 0, false),
            // It says nothing new, and waits for what was said.
            ("spBv1.0/g/DBIRTH/n/d", BIRTH, 2, true),
            ("spBv1.0/g/DDATA/n/d", DATA, 1, false),
            ("spBv1.0/g/NDEATH/n", b"", 1, true),
            ("spBv1.0/g/NDEATH/other", b"", 1, false),
        ] {
            match alone.offer(topic, payload, qos) {
                Offer::Taken(_) => assert!(!waits, "{topic}"),
                Offer::TakenAfter(written, parts) => {
                    assert!(waits && parts != Sequences::NONE, "{topic}");
                    written.await;
                }
                Offer::Full => panic!("{topic}"),
            }
        }
        // What no disk has is not acknowledged.
        let kept = alone.bridge.rules.kept_births().unwrap();
        kept.writer.lock().take().unwrap().join();
        let Offer::TakenAfter(written, _) = alone.offer("spBv1.0/g/NBIRTH/n", BIRTH, 1) else { panic!() };
        assert!(pin!(written).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        alone.end();
    }

    #[tokio::test]
    async fn births_are_kept_from_the_first_rules_that_ask_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let none = "[[rule]]\ntopic = \"a\"\ndevice = \"d\"\n";
        let alone = Alone::start(dir.path(), none);
        assert_eq!(alone.bridge.rules.births_are_kept(), None);
        alone.bridge.rules.replace(set(none));
        assert!(!dir.path().join(FOLDER).exists(), "where nobody asks there is no file");
        alone.bridge.rules.replace(set(RULES));
        let Offer::TakenAfter(written, _) = alone.offer("spBv1.0/g/NBIRTH/n", BIRTH, 1) else { panic!() };
        written.await;
        // A journal stays open whatever the rules are.
        alone.bridge.rules.replace(set(none));
        alone.bridge.rules.replace(set(RULES));
        assert!(alone.knows("spBv1.0/g/NDATA/n").await);
        alone.end();
        let again = Alone::start(dir.path(), RULES);
        assert!(again.knows("spBv1.0/g/NDATA/n").await && !again.knows("spBv1.0/g/NDATA/m").await);
        again.end();
    }

    /// What was heard while the journal could not be opened is newer than what is in it.
    #[tokio::test]
    async fn a_journal_that_is_opened_late_makes_nothing_undone() {
        const NODE: &str = "spBv1.0/g/NBIRTH/n";
        let dir = tempfile::tempdir().unwrap();
        let alone = Alone::start(dir.path(), RULES);
        let Offer::TakenAfter(written, _) = alone.offer(NODE, BIRTH, 1) else { panic!() };
        written.await;
        let kept = alone.bridge.rules.kept_births().unwrap();
        kept.writer.lock().take().unwrap().join();
        drop(kept);
        alone.end();
        let (folder, aside) = (dir.path().join(FOLDER), dir.path().join("aside"));
        std::fs::rename(&folder, &aside).unwrap();
        std::fs::write(&folder, "in the way").unwrap();
        let alone = Alone::start(dir.path(), "");
        alone.bridge.rules.replace(set(RULES));
        assert_eq!(alone.bridge.rules.births_are_kept(), None, "it cannot be opened");
        let other = "\u{12}\u{9}\n\u{1}b\u{10}\u{2} \u{b}p\u{1}";
        assert!(matches!(alone.offer(NODE, other.as_bytes(), 0), Offer::Taken(_)));
        std::fs::remove_file(&folder).unwrap();
        std::fs::rename(&aside, &folder).unwrap();
        alone.bridge.rules.replace(set(RULES));
        assert_eq!(alone.bridge.rules.births_are_kept(), Some(true));
        assert!(!alone.knows("spBv1.0/g/NDATA/n").await, "the name of a session that is over");
        alone.end();
    }

    #[test]
    fn a_node_is_asked_once_in_a_while() {
        let (queue, mut to_ask) = mpsc::channel(2);
        let asks = Asks { asked: Mutex::default(), queue };
        let began = Instant::now();
        for (after, node, is_asked) in [
            (0, "g/a", true),
            (1, "g/a", false),
            (1, "g/b", true),
            (29, "g/a", false),
            (30, "g/a", true),
            (30, "g/b", false),
            (31, "g/b", true),
        ] {
            asks.ask(node, began + Duration::from_secs(after));
            assert_eq!(to_ask.try_recv().ok().as_deref(), is_asked.then_some(node), "{node} after {after} s");
        }
        // Whoever finds the queue full is asked later.
        let now = began + Duration::from_secs(100);
        assert_eq!(["g/1", "g/2", "g/3"].map(|node| asks.ask(node, now)), [true, true, false]);
        assert_eq!((to_ask.try_recv().unwrap(), to_ask.try_recv().unwrap()), ("g/1".into(), "g/2".into()));
        asks.ask("g/3", now);
        assert_eq!(to_ask.try_recv().unwrap(), "g/3");
        // Those that are over make room.
        for node in 0..=MAX_ASKED {
            asks.ask(&node.to_string(), now);
            let _ = to_ask.try_recv();
        }
        assert_eq!(asks.asked.lock().len(), MAX_ASKED);
        asks.ask("late", now + REBIRTH_PAUSE);
        assert_eq!((to_ask.try_recv().unwrap().as_str(), asks.asked.lock().len()), ("late", 1));
    }

    /// Births that come and go do not fill the disk.
    #[tokio::test]
    async fn the_journal_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let alone = Alone::start(dir.path(), RULES);
        let at_work = tokio::spawn(alone.bridge.rules.kept_births().unwrap().keep());
        let folder = dir.path().join(FOLDER);
        let size = || {
            let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().metadata().map_or(0, |m| m.len()));
            files.sum::<u64>()
        };
        let mut written = 0;
        let began = Instant::now();
        // The name is new in each.
        for number in 0_u32.. {
            let name = format!("{number:0>60000}");
            let mut birth = b"\x12\xe8\xd4\x03\x0a\xe0\xd4\x03".to_vec();
            birth.extend_from_slice(name.as_bytes());
            birth.extend_from_slice(b"\x10\x01\x20\x0b");
            let Offer::TakenAfter(on_disk, _) = alone.offer("spBv1.0/g/NBIRTH/n", &birth, 1) else {
                panic!("no room any more: {written} bytes make {}", size())
            };
            on_disk.await;
            written += birth.len() as u64;
            if size() < written / 2 {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{written} bytes make {}", size());
        }
        assert!(written > 4 << 20, "not sooner than it pays");
        at_work.abort();
        alone.end();
        let again = Alone::start(dir.path(), RULES);
        assert!(again.knows("spBv1.0/g/NDATA/n").await);
        again.end();
    }
}
