//! Keeps the [`Books`]: opens them at the start, writes them while the bridge runs, closes them at the end.
//!
//! `<state>/ledger.json` is replaced as a whole, with fdatasync, at the start, every 30 s where something changed,
//! and at the end. A file that cannot be read is put aside as `ledger.json.unreadable` and new books are begun.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::admin::Recorder;
use crate::bridge::Holding;
use crate::ledger::{Account, Books, ByReason, Counts, Position, Publishes};
use crate::message::Timestamp;
use crate::shelf::{self, Shelves};
use crate::spool::Appender;
use crate::uplink;

/// How often the books are written.
const EVERY: Duration = Duration::from_secs(30);
/// The name of the file in the state folder.
pub const FILE: &str = "ledger.json";

/// Why shelves give messages up: for lack of room, and those that waited too long.
pub(super) const SHELF_FULL: &str = "shelf_full";
pub(super) const TOO_OLD_ON_SHELF: &str = "too_old_on_shelf";

const DAY_MS: i64 = 86_400_000;

/// Where messages were found at the start, and what waits in windows.
type Found = (Vec<Appender>, Option<Arc<Shelves>>, Holding);

/// The books of a running bridge.
pub(super) struct Ledger {
    path: PathBuf,
    opened: Books,
    spools: Vec<(Appender, Position)>,
    held: Holding,
    shelves: Option<Arc<Shelves>>,
    recorder: Recorder,
    /// What the file says.
    written: Mutex<Books>,
}

/// Reads the books of a state folder; `None` where there are none.
pub fn read(state: &Path) -> io::Result<Option<Books>> {
    match fs::read(state.join(FILE)) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Ledger {
    /// Opens the books over spools that were just opened, the last one that of what waits in windows.
    pub(super) fn open(state: &Path, recorder: Recorder, (spools, shelves, held): Found) -> Arc<Self> {
        let path = state.join(FILE);
        let before = read(state).unwrap_or_else(|error| {
            tracing::warn!("{} cannot be read, new books are begun: {error}", path.display());
            let _ = fs::rename(&path, path.with_extension("json.unreadable"));
            None
        });
        let mut on_shelves = shelves.as_ref().map_or(0, |shelves| shelves.stats().recovered);
        let spools: Vec<_> = spools
            .into_iter()
            .map(|spool| {
                let waiting = spool.stats().recovered + std::mem::take(&mut on_shelves);
                let at = Position { last: spool.durable().borrow().seq, waiting };
                (spool, at)
            })
            .collect();
        let found = spools.iter().map(|(spool, at)| (name(spool), *at)).collect();
        let opened = Books::open(before, &found, Timestamp::now());
        let ledger = Self {
            path,
            opened: opened.clone(),
            spools,
            held,
            shelves,
            recorder,
            written: Mutex::new(Books::default()),
        };
        ledger.write(opened);
        Arc::new(ledger)
    }

    /// The books of this moment.
    pub(super) fn now(&self) -> Books {
        let page = self.recorder.render();
        let mut shed = labelled(&page, "brownbridge_messages_shed_total");
        // The spool's own count is of the same instant as its others.
        let own = ["spool_full", uplink::TOO_OLD, SHELF_FULL, TOO_OLD_ON_SHELF];
        shed.retain(|reason, _| !own.contains(&reason.as_str()));
        let mut spools = BTreeMap::new();
        // What is on a shelf is settled in its spool, and in the books it waits there. The first spool speaks for all.
        let shelf = self.shelves.as_ref().map(|shelves| shelves.stats()).unwrap_or_default();
        let mut moved: u64 = shelf.appended.values().sum();
        for (n, (spool, at)) in self.spools.iter().enumerate() {
            let stats = spool.stats();
            let here = moved.min(stats.acked);
            moved -= here;
            let shelf = if n == 0 { shelf.clone() } else { shelf::Stats::default() };
            let account = Account {
                last: at.last + stats.appended,
                appended: stats.appended,
                settled: stats.acked - here + shelf.settled + shelf.shed + shelf.expired,
                shed: stats.shed,
                expired: stats.expired,
                lost: stats.lost + shelf.lost,
                waiting: stats.waiting + shelf.waiting,
            };
            spools.insert(name(spool), account);
        }
        for (reason, count) in [(SHELF_FULL, shelf.shed), (TOO_OLD_ON_SHELF, shelf.expired)] {
            *shed.entry(reason.to_owned()).or_default() += count;
        }
        let counts = Counts {
            publishes: Publishes {
                received: total(&page, "brownbridge_publishes_received_total"),
                translated: total(&page, "brownbridge_publishes_translated_total"),
                dropped: labelled(&page, "brownbridge_messages_dropped_total"),
                quarantined: labelled(&page, "brownbridge_messages_quarantined_total"),
                ..Publishes::default()
            },
            shed,
            quarantined: labelled(&page, "brownbridge_hub_messages_quarantined_total"),
            held: self.held.waiting(),
            spools,
        };
        self.opened.with(&counts, Timestamp::now())
    }

    /// Writes the books where something changed since they were written.
    fn write(&self, books: Books) {
        let mut written = self.written.lock();
        let same = Books { written: written.written.clone(), ..books.clone() } == *written;
        if same {
            return;
        }
        match replace(&self.path, &format!("{:#}\n", books.to_json())) {
            Ok(()) => *written = books,
            Err(error) => tracing::warn!("the ledger {} cannot be written: {error}", self.path.display()),
        }
    }

    /// Writes the books for the last time: nothing happens any more.
    pub(super) fn close(&self) {
        self.write(Books { running: false, ..self.now() });
    }
}

/// Writes the books every so often, and a line a day into the log, until `stop`.
pub(super) async fn keep(ledger: Arc<Ledger>, stop: CancellationToken) {
    let mut yesterday = ledger.opened.clone();
    let mut midnight = next_midnight(Timestamp::now());
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let keeper = Arc::clone(&ledger);
        let books = tokio::task::spawn_blocking(move || {
            let books = keeper.now();
            keeper.write(books.clone());
            books
        });
        let Ok(books) = books.await else { return };
        let now = Timestamp::now();
        if now >= midnight {
            tracing::info!("ledger of the last day: {}", books.day(&yesterday));
            yesterday = books;
            midnight = next_midnight(now);
        }
    }
}

fn next_midnight(now: Timestamp) -> Timestamp {
    Timestamp((now.0.div_euclid(DAY_MS) + 1) * DAY_MS)
}

fn name(spool: &Appender) -> String {
    format!("{:016x}", spool.id())
}

/// Puts a new file in the place of the old one; a crash leaves either.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The values of a counter on a page of Prometheus' text format, by their label `reason`.
fn labelled(page: &str, name: &str) -> ByReason {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("{reason=\""));
    let read = lines.filter_map(|line| {
        let (reason, count) = line.rsplit_once("\"} ")?;
        Some((reason.to_owned(), count.parse().ok()?))
    });
    read.filter(|(_, count): &(String, u64)| *count > 0).collect()
}

fn total(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_reason() {
        let page = "x_total{reason=\"a\"} 2\nx_total{reason=\"b \\\" c\"} 3\nx_total_more{reason=\"d\"} 4\nx_total 9\n\
            x_total{reason=\"never\"} 0\n";
        let expect: ByReason = [("a".to_owned(), 2), ("b \\\" c".to_owned(), 3)].into();
        assert_eq!((labelled(page, "x_total"), total(page, "x_total")), (expect, 9));
    }

    #[test]
    fn midnights() {
        for (now, expect) in [(0, DAY_MS), (1, DAY_MS), (DAY_MS - 1, DAY_MS), (DAY_MS, 2 * DAY_MS)] {
            assert_eq!(next_midnight(Timestamp(now)), Timestamp(expect));
        }
    }
}
