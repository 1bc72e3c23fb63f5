//! Who looks on: the eyes of `tap` and `record`, and the topics no rule takes.
//!
//! Where nobody looks, a publish costs one relaxed load. Where somebody does, the publish is shown after it is
//! settled, and nothing waits: an eye has a queue that is bounded by entries and bytes, and an eye for people also a
//! pace. What does not fit is counted; the count stands before the next entry that does.

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
use crate::rules::Verdict;
use crate::watch::Sight;
use crate::watch::busiest::{Busiest, Counted};
use crate::watch::traffic::{self, Passage, Recorded};

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
        // What brokers say about themselves ($SYS) is not waiting for a rule.
        if unmatched && settled.presence.is_none() && !settled.publish.topic.starts_with('$') {
            self.watchers.count(settled.publish);
        }
        if self.watchers.any() {
            self.show(settled, offer);
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
        let taps = || {
            wanting().filter_map(|eye| match &eye.watch {
                Watch::Tap { filter, excerpt, rate } => Some((eye, filter, (*excerpt).min(MOST_EXCERPT), *rate)),
                Watch::Record { .. } => None,
            })
        };
        let of_no_rule = settled.presence.is_some() && settled.verdict == Some(Verdict::Unmatched);
        if of_no_rule || taps().next().is_none() {
            return;
        }
        let now = self.rules.load();
        let rules = settled.rules.unwrap_or(&now.set);
        let judge = Judge { rules, unmatched: self.unmatched, own: &self.own };
        let mut given = Vec::new();
        let mut treated = judge.treated(settled, &mut given);
        if matches!(offer, Offer::TakenAfter(_, parts) if parts.is_none()) {
            does_not_fit(&mut treated);
        }
        for (eye, _, excerpt, rate) in taps().filter(|(_, filter, ..)| filter.wants(&treated)) {
            if eye.in_pace(rate) {
                let sight = Box::new(Sight::new(&treated, excerpt));
                eye.send(sight.weight(), slow_reader, || What::Sight(sight));
            } else {
                eye.miss(&self.watchers.too_fast);
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
            Ok(None) => return false,
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
}

impl Drop for View {
    fn drop(&mut self) {
        let mut eyes = self.watchers.eyes.write();
        eyes.retain(|eye| !Arc::ptr_eq(eye, &self.eye));
        self.watchers.open.store(eyes.len(), Ordering::Relaxed);
    }
}
