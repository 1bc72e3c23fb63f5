//! Who looks on: the eyes of `tap` and `record`, and the topics no rule takes.
//!
//! Where nobody looks, a publish costs one relaxed load. Where somebody does, the publish is shown after it is
//! settled, and nothing waits: an eye has a queue that is bounded by entries and bytes, and an eye for people also a
//! pace. What does not fit is counted; the count stands before the next entry that does, or at the end. An eye that is
//! closed still shows what is in its queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::metrics::Counter;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::Bridge;
use super::judge::{Judge, Settled, does_not_fit};
use crate::broker::Offer;
use crate::control::{Feed, Watch};
use crate::message::{Publish, Timestamp};
use crate::metrics::watch_missed;
use crate::rules::{Closed, Verdict};
use crate::watch::busiest::{Busiest, Counted};
use crate::watch::traffic::{self, Passage, Recorded};
use crate::watch::{Filter, Sight};

/// Most eyes at one time.
const MOST_EYES: usize = 4;
/// Entries that wait for one of them.
const QUEUE: usize = 4_096;
/// Bytes that wait for one of them. A single larger entry passes where nothing else waits.
const QUEUE_BYTES: usize = 8 << 20;
/// Bytes of lines that are handed over at once.
const HANDFUL: usize = 64 << 10;
/// How long a number of missing entries waits for the next entry.
const TELL_MISSING: Duration = Duration::from_secs(1);
/// Most bytes of each payload in a tap.
const MOST_EXCERPT: usize = 64 << 10;
/// Topics without a rule that are told apart, in parts by their hash so that connections do not wait for each other.
const TOPICS: usize = 2_048;
const TOPIC_PARTS: usize = 8;
/// Bytes of an entry beside what it copies.
const ENTRY: usize = 256;

/// Everybody who looks on.
pub struct Watchers {
    /// How many eyes there are.
    open: AtomicUsize,
    eyes: RwLock<Vec<Arc<Eye>>>,
    unmatched: [Mutex<Busiest>; TOPIC_PARTS],
    hasher: std::hash::RandomState,
    too_fast: Counter,
    slow_reader: Counter,
}

struct Eye {
    watch: Watch,
    queue: mpsc::Sender<Entry>,
    /// Bytes in the queue.
    bytes: AtomicUsize,
    missed: AtomicU64,
    pace: Mutex<Pace>,
}

/// So many entries in this second.
struct Pace {
    since: Instant,
    shown: u32,
}

/// A tap that may want to see a publish.
struct Look<'e> {
    eye: &'e Eye,
    filter: &'e Filter,
    /// Bytes of each payload.
    excerpt: usize,
    /// Its pace, where that is asked once it is known what became of the publish.
    rate: Option<u32>,
}

struct Entry {
    /// Entries that are missing before this one.
    missed: u64,
    bytes: usize,
    what: What,
}

enum What {
    Sight(Box<Sight>),
    Publish(Box<Recorded>),
    Passage(Box<Passage>),
}

/// What an eye sees, line by line. It closes when this is dropped.
pub struct View {
    eye: Arc<Eye>,
    queue: mpsc::Receiver<Entry>,
    watchers: Arc<Watchers>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            open: AtomicUsize::new(0),
            eyes: RwLock::default(),
            unmatched: std::array::from_fn(|_| Mutex::new(Busiest::new(TOPICS / TOPIC_PARTS))),
            hasher: std::hash::RandomState::new(),
            too_fast: watch_missed("pace"),
            slow_reader: watch_missed("slow_reader"),
        }
    }
}

impl Watchers {
    /// True where somebody looks.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Opens an eye; the error says why there cannot be another.
    pub fn open(self: &Arc<Self>, watch: Watch) -> Result<View, String> {
        let mut eyes = self.eyes.write();
        if eyes.len() >= MOST_EYES {
            return Err(format!("{MOST_EYES} taps and recordings run already, which is the most: end one of them"));
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        let eye = Arc::new(Eye {
            watch,
            queue: sender,
            bytes: AtomicUsize::new(0),
            missed: AtomicU64::new(0),
            pace: Mutex::new(Pace { since: Instant::now(), shown: 0 }),
        });
        eyes.push(Arc::clone(&eye));
        self.open.store(eyes.len(), Ordering::Relaxed);
        Ok(View { eye, queue, watchers: Arc::clone(self) })
    }

    /// Shows an eye nothing more: whoever shows something to all of them is waited for.
    fn close(&self, closing: &Arc<Eye>) {
        let mut eyes = self.eyes.write();
        eyes.retain(|eye| !Arc::ptr_eq(eye, closing));
        self.open.store(eyes.len(), Ordering::Relaxed);
    }

    /// The busiest topics that no rule takes.
    pub fn unmatched(&self, reset: bool) -> Counted {
        self.unmatched.iter().fold(Counted::default(), |all, part| {
            let mut part = part.lock();
            let counted = part.counted();
            if reset {
                part.reset();
            }
            drop(part);
            all.with(counted)
        })
    }

    /// How a tap looks at a publish on a topic and of a client that it wants. Where that settles what it wants and its
    /// pace is used up, it does not: what nobody will see need not be told.
    fn look<'e>(&self, eye: &'e Eye) -> Option<Look<'e>> {
        let Watch::Tap { filter, excerpt, rate } = &eye.watch else { return None };
        let excerpt = (*excerpt).min(MOST_EXCERPT);
        if !filter.is_settled_early() {
            return Some(Look { eye, filter, excerpt, rate: Some(*rate) });
        }
        self.is_in_pace(eye, *rate).then_some(Look { eye, filter, excerpt, rate: None })
    }

    /// Asks the pace of a tap; what is too fast for it is counted.
    fn is_in_pace(&self, eye: &Eye, rate: u32) -> bool {
        let is_in_pace = eye.in_pace(rate);
        if !is_in_pace {
            eye.miss(&self.too_fast);
        }
        is_in_pace
    }

    /// Counts a publish that no rule takes.
    fn count(&self, publish: &Publish<'_>) {
        use std::hash::BuildHasher as _;
        let hash = usize::try_from(self.hasher.hash_one(publish.topic) % TOPIC_PARTS as u64).unwrap_or(0);
        if let Some(part) = self.unmatched.get(hash) {
            part.lock().count(publish);
        }
    }
}

impl Bridge {
    /// Counts and shows what was settled.
    #[inline]
    pub(super) fn note(&self, settled: &Settled<'_, '_>, offer: &Offer) {
        let unmatched = settled.verdict == Some(Verdict::Unmatched);
        if !unmatched && !self.watchers.any() || matches!(offer, Offer::Full) {
            return;
        }
        // What brokers say about themselves ($SYS) is not waiting for a rule, and an answer to a command has its use.
        let topic = settled.publish.topic;
        let waits_for_a_rule = || !topic.starts_with('$') && !settled.rules.is_some_and(|rules| rules.is_answer(topic));
        if unmatched && settled.presence.is_none() && waits_for_a_rule() {
            self.watchers.count(settled.publish);
        }
        if self.watchers.any() {
            self.show(settled, offer);
        }
    }

    /// Shows what a window sends.
    pub(super) fn note_window(&self, closed: &Closed) {
        if !self.watchers.any() {
            return;
        }
        let now = self.rules.load();
        let judge = Judge { rules: &now.set, unmatched: self.unmatched, own: &self.own };
        let Some(made) = judge.made(&closed.rule, closed.urgent, &closed.record) else { return };
        for eye in self.watchers.eyes.read().iter() {
            let Watch::Tap { filter, excerpt, rate } = &eye.watch else { continue };
            if filter.wants_window(&made) && self.watchers.is_in_pace(eye, *rate) {
                let sight = Sight::of_window(Timestamp::now(), Some(&made), (*excerpt).min(MOST_EXCERPT));
                let sight = Box::new(sight);
                eye.send(sight.weight(), &self.watchers.slow_reader, || What::Sight(sight));
            }
        }
    }

    #[cold]
    fn show(&self, settled: &Settled<'_, '_>, offer: &Offer) {
        let slow_reader = &self.watchers.slow_reader;
        let eyes = self.watchers.eyes.read();
        let wanting = || eyes.iter().filter(|eye| eye.watch.may_want(settled.publish, settled.presence));
        for eye in wanting().filter(|eye| matches!(eye.watch, Watch::Record { .. })) {
            let bytes = ENTRY + settled.publish.payload.len() + settled.publish.topic.len();
            eye.send(bytes, slow_reader, || match settled.presence {
                None => What::Publish(Box::new(Recorded::of(settled.publish))),
                Some(presence) => What::Passage(Box::new(Passage::of(presence))),
            });
        }
        let of_no_rule = settled.presence.is_some() && settled.verdict == Some(Verdict::Unmatched);
        if of_no_rule {
            return;
        }
        let taps: Vec<Look<'_>> = wanting().filter_map(|eye| self.watchers.look(eye)).collect();
        if taps.is_empty() {
            return;
        }
        let now = self.rules.load();
        let rules = settled.rules.unwrap_or(&now.set);
        let judge = Judge { rules, unmatched: self.unmatched, own: &self.own };
        let mut given = Vec::new();
        let mut treated = judge.treated(settled, &mut given);
        // What goes into a twin only is in no spool either.
        let is_reported = || settled.out.records().any(|(rule, _)| rules.reported(rule).is_some());
        if matches!(offer, Offer::TakenAfter(_, parts) if parts.is_none()) && !is_reported() {
            does_not_fit(&mut treated);
        }
        for Look { eye, excerpt, rate, .. } in taps.into_iter().filter(|look| look.filter.wants(&treated)) {
            if rate.is_none_or(|rate| self.watchers.is_in_pace(eye, rate)) {
                let sight = Box::new(Sight::new(&treated, excerpt));
                eye.send(sight.weight(), slow_reader, || What::Sight(sight));
            }
        }
    }
}

impl Eye {
    /// Puts an entry into the queue if there is room.
    fn send(&self, bytes: usize, missed: &Counter, entry: impl FnOnce() -> What) {
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = waiting == 0 || waiting + bytes <= QUEUE_BYTES;
        match self.queue.try_reserve() {
            Ok(place) if room => {
                place.send(Entry { missed: self.missed.swap(0, Ordering::Relaxed), bytes, what: entry() });
            }
            _ => {
                self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.miss(missed);
            }
        }
    }

    fn miss(&self, counter: &Counter) {
        self.missed.fetch_add(1, Ordering::Relaxed);
        counter.increment(1);
    }

    /// True for so many entries a second.
    fn in_pace(&self, rate: u32) -> bool {
        let mut pace = self.pace.lock();
        if pace.since.elapsed() >= Duration::from_secs(1) {
            *pace = Pace { since: Instant::now(), shown: 0 };
        }
        pace.shown += 1;
        pace.shown <= rate
    }

    fn push_missed(&self, missed: u64, lines: &mut Vec<u8>) {
        match self.watch {
            _ if missed == 0 => {}
            Watch::Record { .. } => traffic::push_gap(lines, missed, Timestamp::now()),
            Watch::Tap { .. } => lines.extend_from_slice(format!("{{\"missed\":{missed}}}\n").as_bytes()),
        }
    }
}

impl View {
    fn push(&self, entry: Entry, lines: &mut Vec<u8>) {
        self.eye.bytes.fetch_sub(entry.bytes, Ordering::Relaxed);
        self.eye.push_missed(entry.missed, lines);
        match entry.what {
            What::Publish(recorded) => traffic::push_publish(lines, &recorded.as_publish()),
            What::Passage(passage) => traffic::push_presence(lines, &passage.as_presence()),
            What::Sight(sight) => {
                // Writing text to a Vec cannot fail.
                let _ = serde_json::to_writer(&mut *lines, &sight);
                lines.push(b'\n');
            }
        }
    }
}

impl Feed for View {
    async fn next(&mut self, lines: &mut Vec<u8>) -> bool {
        match tokio::time::timeout(TELL_MISSING, self.queue.recv()).await {
            Ok(None) => {
                self.eye.push_missed(self.eye.missed.swap(0, Ordering::Relaxed), lines);
                return false;
            }
            Err(_) => self.eye.push_missed(self.eye.missed.swap(0, Ordering::Relaxed), lines),
            Ok(Some(entry)) => {
                self.push(entry, lines);
                while lines.len() < HANDFUL
                    && let Ok(entry) = self.queue.try_recv()
                {
                    self.push(entry, lines);
                }
            }
        }
        true
    }

    fn close(&mut self) {
        self.watchers.close(&self.eye);
        self.queue.close();
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.watchers.close(&self.eye);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::bridge;
    use crate::bridge::twins::{self, Whose};
    use crate::broker::Ingest as _;
    use crate::metrics::Metrics;

    const RULES: &str = "[[rule]]\nname = \"r\"\ntopic = \"t/#\"\ndevice = \"d\"\n\
        [[command]]\nmethod = \"start\"\ntopic = \"cmd/start\"\nresponse = { topic = \"answers/{id}\" }\n";

    fn publish(topic: &str) -> Publish<'_> {
        Publish { topic, payload: b"1", client: "c", user: None, qos: 0, retain: false, received: Timestamp(0) }
    }

    fn tap(filter: Filter) -> Watch {
        Watch::Tap { filter, excerpt: 100, rate: 1 }
    }

    /// Over its pace a tap costs no judging, unless only that tells whether the publish is one that it misses.
    #[test]
    fn the_pace_is_asked_before_what_became_of_a_publish_is_told() {
        let of_rule = Filter { rule: Some("r".to_owned()), ..Filter::default() };
        let of_client = Filter { client: Some("c".to_owned()), ..Filter::default() };
        for (filter, looks, missed) in
            [(Filter::default(), [true, false], 1), (of_client, [true, false], 1), (of_rule, [true, true], 0)]
        {
            let watchers = Arc::new(Watchers::default());
            let view = watchers.open(tap(filter.clone())).unwrap();
            let looked = [(); 2].map(|()| watchers.look(&view.eye).is_some());
            assert_eq!((looked, view.eye.missed.load(Ordering::Relaxed)), (looks, missed), "{filter:?}");
        }
    }

    #[tokio::test]
    async fn a_view_that_is_closed_shows_what_came_and_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (bridge, writer, _spools) = bridge(dir.path(), None, RULES);
        let mut tap = bridge.watchers().open(tap(Filter::default())).unwrap();
        let mut record = bridge.watchers().open(Watch::Record { topic: None }).unwrap();
        let mut scratch = bridge.scratch();
        (0..3).for_each(|_| drop(bridge.offer(&mut scratch, &publish("t/1"))));
        tap.close();
        record.close();
        bridge.offer(&mut scratch, &publish("t/late"));
        assert!(!bridge.watchers().any());
        for (view, expect) in [(&mut tap, ["t/1", "\"missed\":2"].as_slice()), (&mut record, &["t/1"; 3])] {
            let mut lines = Vec::new();
            while view.next(&mut lines).await {}
            let lines = String::from_utf8(lines).unwrap();
            assert_eq!(lines.lines().count(), expect.len(), "{lines}");
            assert!(lines.lines().zip(expect).all(|(line, expect)| line.contains(expect)), "{lines}");
        }
        drop(bridge);
        writer.join();
    }

    /// What a rule reports is in no spool, and fits all the same.
    #[tokio::test]
    async fn what_is_reported_is_told_as_translated() {
        let dir = tempfile::tempdir().unwrap();
        let rules = "[[rule]]\nname = \"r\"\ntopic = \"t/#\"\ndevice = \"d\"\nto = \"reported\"\n";
        let (bridge, writer, _spools) = bridge(dir.path(), Some("own"), rules);
        let whose = Whose { own: "own".to_owned(), per_device: false, block: None, own_twin: false };
        let (twins, _journal) = twins::open(dir.path(), (whose, twins::closed()), Metrics::register()).unwrap();
        let bridge = bridge.reporting(twins);
        let mut tap = bridge.watchers().open(tap(Filter::default())).unwrap();
        let reported = Publish { payload: b"{\"v\":1}", ..publish("t/1") };
        assert!(matches!(bridge.offer(&mut bridge.scratch(), &reported), Offer::Taken(parts) if !parts.is_none()));
        tap.close();
        let mut lines = Vec::new();
        while tap.next(&mut lines).await {}
        let sight: Sight = serde_json::from_slice(&lines).unwrap();
        assert_eq!((sight.verdict.as_str(), sight.messages.len()), ("translated", 1));
        drop(bridge);
        writer.join();
    }

    #[tokio::test]
    async fn answers_to_commands_wait_for_no_rule() {
        let dir = tempfile::tempdir().unwrap();
        let (bridge, writer, _spools) = bridge(dir.path(), None, RULES);
        let mut scratch = bridge.scratch();
        for topic in ["answers/press7", "t/1", "other", "$SYS/x"] {
            bridge.offer(&mut scratch, &publish(topic));
        }
        let counted = bridge.watchers().unmatched(false);
        let topics: Vec<&str> = counted.topics.iter().map(|seen| seen.topic.as_str()).collect();
        assert_eq!((counted.total, topics), (1, vec!["other"]));
        drop(bridge);
        writer.join();
    }
}
