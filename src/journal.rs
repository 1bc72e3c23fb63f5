//! A journal: small records that outlive the program, for state that is rewritten as a whole now and then.
//!
//! Who uses it keeps its state in memory, appends a record for each change, and writes the whole state again when the
//! journal says that it is [`outgrown`](Journal::outgrown). [`append`](Journal::append) copies into memory and never
//! waits for the disk: one thread writes. What it has written survives the end of the program in any way; only a
//! whole rewriting is synced, so a power cut may cost what the system had not written yet, some 30 seconds.
//!
//! One that is opened with [`open_synced`] syncs whatever has gathered, once for all of it, and tells how far it is:
//! [`append`](Journal::append) gives each record a number, and [`committed`](Journal::committed) follows which of them the
//! disk has. It is not the spool: what is appended has its place in a state that fits into memory.
//!
//! # The folder
//!
//! Files `<number, 16 hex digits>.journal`: eight bytes `bbjrnl\x00\x01`, then records of a length `u32`, a CRC32C of
//! length and body, both little endian, and the body. They are read in the order of their numbers. The first record
//! of a file that is not whole ends it; the next file goes on. A rewriting begins a new file, and when it is complete
//! and synced the older ones are removed, the oldest first; until then they are read, too. One that could not be read
//! to its end, or has the header of another version, is not removed but becomes `journal.damaged`, in place of an
//! earlier one: what is in it may matter to somebody.
//!
//! # When the disk says no
//!
//! After a failed write the rest of the file could not be read back. So the records that wait are given up, and the
//! journal asks for everything anew every `RETRY`, until that succeeds. A rewriting that fails gives the room it
//! took back, and its number is used again: a full disk is not filled by attempts. The same where more waits for the
//! disk than may; who writes everything anew waits for [`room`](Journal::room). Where the journal is synced, a rewriting
//! does not count there: somebody waits for its end, and it has no more than who writes it has in memory.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};

mod disk;

use disk::{Disk, Order};

/// Bytes that wait for the disk below which there is room.
const ROOM: usize = 4 << 20;
/// How long after a failure everything is asked for anew.
const RETRY: Duration = Duration::from_secs(5);

/// Appends records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Shared>);

/// Ends the journal's thread.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Records read.
    pub records: u64,
    /// Bytes that were no whole record.
    pub damaged: u64,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    /// Bytes that may wait.
    max_pending: usize,
    work: Condvar,
    outgrown: Notify,
    room: Notify,
    /// The disk did not take the last that was written.
    failing: AtomicBool,
    /// More waited than may, and not everything was written anew since.
    overflowed: AtomicBool,
    /// What is kept, in words.
    what: &'static str,
    /// The number of the last record that the disk has; `None` where nothing is synced.
    durable: Option<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Pending {
    /// The number of the last record.
    last: u64,
    /// Records were given up since the thread looked last.
    gap: bool,
    orders: Vec<Order>,
    bytes: usize,
    /// Records are given up until everything is written anew.
    broken: bool,
    /// Everything is being written anew.
    anew: bool,
    closed: bool,
}

/// Opens the journal of a folder, which is made where needed, and gives every record to `read`, in order. Up to
/// `max_pending` bytes may wait for the disk.
pub fn open(dir: &Path, max_pending: usize, read: impl FnMut(&[u8])) -> io::Result<(Journal, Writer, Found)> {
    open_shared(dir, Shared::new(max_pending), read)
}

/// The same for a journal that syncs what it writes. `what` says in the log what it keeps.
pub fn open_synced(
    dir: &Path,
    (what, max_pending): (&'static str, usize),
    read: impl FnMut(&[u8]),
) -> io::Result<(Journal, Writer, Found)> {
    let durable = Some(watch::Sender::default());
    open_shared(dir, Shared { what, durable, ..Shared::new(max_pending) }, read)
}

/// Gives every record of a folder to `read`, in order, and changes nothing. Who writes the journal may go on meanwhile: then
/// a file may be gone before it is read, which is [`io::ErrorKind::NotFound`], and the next look finds what is in its place.
pub fn look(dir: &Path, mut read: impl FnMut(&[u8])) -> io::Result<Found> {
    let mut found = Found::default();
    if dir.exists() {
        Disk::read(dir, &mut read, &mut found)?;
    }
    Ok(found)
}

fn open_shared(dir: &Path, shared: Shared, mut read: impl FnMut(&[u8])) -> io::Result<(Journal, Writer, Found)> {
    fs::create_dir_all(dir)?;
    let mut found = Found::default();
    let disk = Disk::read(dir, &mut read, &mut found)?;
    // Nothing can be appended to a file that was read: the first rewriting begins a new one.
    let shared = Arc::new(shared);
    shared.pending.lock().give_up();
    let thread = {
        let shared = Arc::clone(&shared);
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || run(&shared, disk))?
    };
    Ok((Journal(Arc::clone(&shared)), Writer { shared, thread: Some(thread) }, found))
}

impl Shared {
    fn new(max_pending: usize) -> Self {
        let (outgrown, room) = (Notify::new(), Notify::new());
        let failing = AtomicBool::new(false);
        let what = "sessions and retained messages";
        Self {
            pending: Mutex::default(),
            max_pending,
            work: Condvar::new(),
            outgrown,
            room,
            failing,
            overflowed: AtomicBool::new(false),
            what,
            durable: None,
        }
    }

    /// Says once that records were given up.
    fn tell_overflow(&self) {
        if !self.overflowed.swap(true, Ordering::Relaxed) {
            let (what, most) = (self.what, self.max_pending);
            tracing::warn!(
                "{what}: the disk is too slow, more than {most} bytes wait for it; all of it is written anew"
            );
        }
    }
}

impl Pending {
    /// Until everything is written anew nothing is written.
    fn give_up(&mut self) {
        self.orders.clear();
        self.bytes = 0;
        (self.broken, self.gap) = (true, true);
    }
}

impl Journal {
    /// Adds a record and returns its number; one that is never [`committed`](Self::committed) where the journal has ended.
    pub fn append(&self, record: &[u8]) -> u64 {
        let mut pending = self.0.pending.lock();
        if pending.closed {
            return u64::MAX;
        }
        pending.last += 1;
        let number = pending.last;
        let Ok(len) = u32::try_from(record.len()) else { return number };
        if pending.broken {
            return number;
        }
        let counts = !(pending.anew && self.0.durable.is_some());
        if counts && pending.bytes + record.len() > self.0.max_pending {
            pending.give_up();
            drop(pending);
            self.0.work.notify_one();
            self.0.tell_overflow();
            return number;
        }
        if !matches!(pending.orders.last(), Some(Order::Write(_))) {
            pending.orders.push(Order::Write(Vec::new()));
        }
        if let Some(Order::Write(bytes)) = pending.orders.last_mut() {
            let before = bytes.len();
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&disk::checksum(len, record).to_le_bytes());
            bytes.extend_from_slice(record);
            let grown = bytes.len() - before;
            if counts {
                pending.bytes += grown;
            }
        }
        self.0.work.notify_one();
        number
    }

    /// The number of the last record the disk has, itself or by everything written anew since. `None` where nothing is
    /// synced.
    pub fn committed(&self) -> Option<watch::Receiver<u64>> {
        self.0.durable.as_ref().map(watch::Sender::subscribe)
    }

    /// From here on everything is written anew.
    pub fn begin_anew(&self) {
        let mut pending = self.0.pending.lock();
        pending.broken = false;
        pending.anew = true;
        pending.orders.push(Order::Begin);
        self.0.work.notify_one();
    }

    /// Everything has been written anew.
    pub fn written_anew(&self) {
        let mut pending = self.0.pending.lock();
        pending.anew = false;
        // What was given since the end came is not in it: the files before have to stay.
        if !pending.broken && !pending.closed {
            pending.orders.push(Order::Complete);
            self.0.work.notify_one();
        }
    }

    /// False while the disk does not take what is written.
    pub fn is_sound(&self) -> bool {
        !self.0.failing.load(Ordering::Relaxed)
    }

    /// True where little waits for the disk.
    pub fn has_room(&self) -> bool {
        self.0.pending.lock().bytes < ROOM
    }

    /// Returns when little waits for the disk.
    pub async fn room(&self) {
        loop {
            let told = self.0.room.notified();
            if self.has_room() {
                return;
            }
            told.await;
        }
    }

    /// Returns when everything is to be written anew.
    pub async fn outgrown(&self) {
        self.0.outgrown.notified().await;
    }
}

impl Writer {
    /// Writes what waits and ends.
    pub fn join(mut self) {
        self.close();
    }

    fn close(&mut self) {
        self.shared.pending.lock().closed = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(shared: &Shared, mut disk: Disk) {
    // Whoever opened it writes everything anew without being asked.
    let mut retry_at = Some(Instant::now() + RETRY);
    let mut whole = false;
    loop {
        let (orders, broken, closed, last) = {
            let mut pending = shared.pending.lock();
            while pending.orders.is_empty() && !pending.closed && !(pending.broken && retry_at.is_none()) {
                match retry_at {
                    Some(at) if pending.broken => {
                        if shared.work.wait_until(&mut pending, at).timed_out() {
                            break;
                        }
                    }
                    _ => shared.work.wait(&mut pending),
                }
            }
            pending.bytes = 0;
            shared.room.notify_waiters();
            whole &= !std::mem::take(&mut pending.gap);
            (std::mem::take(&mut pending.orders), pending.broken, pending.closed, pending.last)
        };
        let now = Instant::now();
        if broken && retry_at.is_none_or(|at| at <= now) {
            shared.outgrown.notify_one();
            retry_at = Some(now + RETRY);
        }
        match carry_out(shared, &mut disk, orders) {
            Ok(complete) => {
                whole |= complete;
                if complete {
                    retry_at = None;
                }
                if let Some(durable) = shared.durable.as_ref().filter(|_| whole && disk.is_complete()) {
                    durable.send_replace(last);
                }
            }
            Err(error) => {
                if !shared.failing.swap(true, Ordering::Relaxed) {
                    let what = shared.what;
                    tracing::error!("{what} would not survive a restart now: {error}; trying again every {RETRY:?}");
                }
                disk.give_up();
                shared.pending.lock().give_up();
                retry_at = Some(now + RETRY);
            }
        }
        if disk.is_outgrown() {
            disk.whole = u64::MAX; // Once is enough.
            shared.outgrown.notify_one();
        }
        if closed && shared.pending.lock().orders.is_empty() {
            return;
        }
    }
}

/// Writes what is to be written, and syncs it where that is wanted. True where with it everything was written anew.
fn carry_out(shared: &Shared, disk: &mut Disk, orders: Vec<Order>) -> io::Result<bool> {
    let (mut complete, something) = (false, !orders.is_empty());
    for order in orders {
        if matches!(order, Order::Begin) && shared.durable.is_some() {
            disk.sync()?;
        }
        if disk.carry_out(order)? {
            complete = true;
            shared.overflowed.store(false, Ordering::Relaxed);
            if shared.failing.swap(false, Ordering::Relaxed) {
                tracing::info!("{} are kept over a restart again", shared.what);
            }
        }
    }
    if something && shared.durable.is_some() {
        disk.sync()?;
    }
    Ok(complete)
}

/// A disk that is busy for as long as a test wants.
#[cfg(test)]
impl Journal {
    /// Nothing of what is appended gets to the disk.
    pub(crate) fn stuck() -> Self {
        Self(Arc::new(Shared { durable: Some(watch::Sender::default()), ..Shared::new(8 << 20) }))
    }

    /// All of it is there.
    pub(crate) fn go_on(&self) {
        let last = {
            let mut pending = self.0.pending.lock();
            pending.orders.clear();
            pending.bytes = 0;
            pending.last
        };
        self.0.room.notify_waiters();
        if let Some(durable) = &self.0.durable {
            durable.send_replace(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::disk::{HEADER, MAGIC, checksum, path};
    use super::*;
    use proptest::prelude::*;

    fn all(dir: &Path) -> (Vec<Vec<u8>>, Journal, Writer, Found) {
        let mut records = Vec::new();
        let (journal, writer, found) = open(dir, 8 << 20, |record| records.push(record.to_vec())).unwrap();
        (records, journal, writer, found)
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The end comes while everything is written anew: what is given after it is in no file, so no file may go.
    #[test]
    fn a_rewriting_that_the_end_cuts_short_removes_nothing() {
        for (ends, expect) in [(true, &[&b"a"[..], b"b", b"a"][..]), (false, &[b"a", b"b"])] {
            let dir = tempfile::tempdir().unwrap();
            let (_, journal, writer, _) = all(dir.path());
            journal.begin_anew();
            [b"a", b"b"].iter().for_each(|record| _ = journal.append(*record));
            journal.written_anew();
            writer.join();
            let (_, journal, writer, _) = all(dir.path());
            journal.begin_anew();
            journal.append(b"a");
            journal.0.pending.lock().closed = ends;
            journal.append(b"b");
            journal.written_anew();
            writer.join();
            let (records, ..) = all(dir.path());
            assert_eq!(records, expect, "{ends}");
        }
    }

    #[test]
    fn what_is_appended_is_read_back_and_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let (records, journal, writer, _) = all(dir.path());
        assert!(records.is_empty());
        journal.append(b"lost: nothing is written before the first rewriting");
        journal.begin_anew();
        journal.append(b"whole");
        journal.written_anew();
        journal.append(b"change");
        writer.join();

        let (records, journal, writer, found) = all(dir.path());
        assert_eq!(records, [&b"whole"[..], b"change"]);
        assert_eq!(found, Found { records: 2, damaged: 0 });
        journal.begin_anew();
        journal.append(b"anew");
        drop(writer);
        assert_eq!(files(dir.path()).len(), 2, "an incomplete rewriting removes nothing");

        let (records, journal, writer, _) = all(dir.path());
        assert_eq!(records, [&b"whole"[..], b"change", b"anew"]);
        journal.begin_anew();
        journal.append(b"at last");
        journal.written_anew();
        writer.join();
        assert_eq!(files(dir.path()).len(), 1);
        assert_eq!(all(dir.path()).0, [b"at last"]);
    }

    #[test]
    fn a_disk_that_says_no_is_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let (_, journal, writer, _) = all(dir.path());
        // The name of the next file is taken by a folder.
        fs::create_dir(path(dir.path(), 1)).unwrap();
        journal.begin_anew();
        journal.append(b"in vain");
        journal.written_anew();
        // What is written while it is broken is given up, and that is asked for again, into the file after that.
        while !journal.0.pending.lock().broken {
            std::thread::yield_now();
        }
        assert!(!journal.is_sound());
        fs::remove_dir(path(dir.path(), 1)).unwrap();
        journal.begin_anew();
        journal.append(b"whole");
        journal.written_anew();
        writer.join();
        assert!(journal.is_sound());
        assert_eq!(all(dir.path()).0, [b"whole"]);
    }

    /// Returns when the disk has a record.
    async fn durable(journal: &Journal, number: u64) {
        journal.committed().unwrap().wait_for(|committed| *committed >= number).await.unwrap();
    }

    /// Nothing is called durable that a read of the folder would not give.
    #[tokio::test]
    async fn a_synced_journal_tells_what_the_disk_has() {
        let dir = tempfile::tempdir().unwrap();
        let open = |records: &mut Vec<Vec<u8>>| {
            open_synced(dir.path(), ("things", 8 << 20), |record| records.push(record.to_vec())).unwrap()
        };
        let (journal, writer, _) = open(&mut Vec::new());
        let early = journal.append(b"early");
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut waits = Box::pin(durable(&journal, early));
        assert!(waits.as_mut().poll(&mut context).is_pending());
        journal.begin_anew();
        journal.append(b"early, written anew");
        journal.written_anew();
        waits.await;
        durable(&journal, journal.append(b"next")).await;
        let mut records = Vec::new();
        drop(
            Disk::read(dir.path(), &mut |record: &[u8]| records.push(record.to_vec()), &mut Found::default()).unwrap(),
        );
        assert_eq!(records, [&b"early, written anew"[..], b"next"]);

        // What is given up counts only when everything was written anew.
        let lost = journal.append(&vec![b'x'; 9 << 20]);
        let mut waits = Box::pin(durable(&journal, lost));
        journal.outgrown().await;
        assert!(waits.as_mut().poll(&mut context).is_pending());
        journal.begin_anew();
        journal.append(b"all");
        journal.written_anew();
        waits.await;

        // A state that is larger than what may wait is written anew all the same, and there is room for what follows.
        let large = vec![b'x'; 5 << 20];
        journal.begin_anew();
        for _ in 0..3 {
            journal.append(&large);
        }
        journal.written_anew();
        durable(&journal, journal.append(&large)).await;
        writer.join();
        assert_eq!(journal.append(b"late"), u64::MAX, "nobody writes it");
        let mut records = Vec::new();
        drop(open(&mut records));
        assert!(records == vec![large; 4]);
    }

    #[test]
    fn what_cannot_be_read_is_not_removed() {
        let ours = |record: &[u8]| {
            let len = record.len() as u32;
            [MAGIC, &len.to_le_bytes()[..], &checksum(len, record).to_le_bytes(), record].concat()
        };
        for (name, content, records, damaged) in [
            ("whole", ours(b"x"), 1, None),
            ("an empty file", vec![], 0, None),
            ("another version", b"bbjrnl\0\x02 of tomorrow".to_vec(), 0, Some(20)),
            ("zeros at the end", [ours(b"x"), vec![0; 100]].concat(), 1, Some(100)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(dir.path(), 1), &content).unwrap();
            let (read, journal, writer, found) = all(dir.path());
            assert_eq!((read.len(), found.damaged), (records, damaged.unwrap_or(0)), "{name}");
            journal.begin_anew();
            journal.written_anew();
            writer.join();
            let mut expect = vec![path(dir.path(), 2)];
            expect.extend(damaged.map(|_| dir.path().join("journal.damaged")));
            assert_eq!(files(dir.path()), expect, "{name}");
            if let Some(kept) = expect.get(1) {
                assert_eq!(fs::read(kept).unwrap(), content, "{name}");
            }
        }
    }

    #[test]
    fn a_name_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.journal", "dead.journal", "+00000000000000f.journal", "copy of 1.journal", "note"] {
            fs::write(dir.path().join(name), "mine").unwrap();
        }
        let (records, journal, writer, _) = all(dir.path());
        assert!(records.is_empty());
        journal.begin_anew();
        journal.written_anew();
        writer.join();
        assert_eq!(files(dir.path()).len(), 6);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(path(dir.path(), 7)).unwrap();
        let error = open(dir.path(), 1000, |_| {}).unwrap_err().to_string();
        assert!(error.starts_with(path(dir.path(), 7).to_str().unwrap()), "{error}");
    }

    #[test]
    fn attempts_do_not_fill_a_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path(), 3), MAGIC).unwrap();
        let mut disk = Disk::read(dir.path(), &mut |_| {}, &mut Found::default()).unwrap();
        let size = |number| fs::metadata(path(dir.path(), number)).map(|file| file.len()).ok();
        for _ in 0..3 {
            disk.carry_out(Order::Begin).unwrap();
            disk.carry_out(Order::Write(vec![7; 1000])).unwrap();
            disk.give_up();
            assert_eq!((size(4), size(5)), (Some(0), None));
        }
        disk.carry_out(Order::Begin).unwrap();
        disk.carry_out(Order::Complete).unwrap();
        disk.carry_out(Order::Write(vec![7; 1000])).unwrap();
        // This one was complete: it is what there is until the next one is.
        disk.give_up();
        assert_eq!((size(4), size(5)), (Some(1008), None));
        disk.carry_out(Order::Begin).unwrap();
        assert_eq!((size(4), size(5)), (Some(1008), Some(8)));
        disk.carry_out(Order::Complete).unwrap();
        assert_eq!((size(4), size(5)), (None, Some(8)));
    }

    #[tokio::test]
    async fn a_journal_that_has_grown_asks_to_be_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let (_, journal, writer, _) = all(dir.path());
        journal.begin_anew();
        journal.written_anew();
        let record = vec![7; 1 << 20];
        for _ in 0..6 {
            journal.room().await;
            journal.append(&record);
        }
        journal.outgrown().await;
        writer.join();
    }

    #[test]
    fn more_than_may_wait_is_given_up_and_asked_for() {
        let journal = Journal(Arc::new(Shared::new(1000)));
        let record = vec![7; 500];
        journal.append(&record);
        journal.append(&record);
        assert!(journal.0.pending.lock().broken);
        assert_eq!(journal.0.pending.lock().orders.len(), 0);
        journal.append(b"x");
        assert_eq!(journal.0.pending.lock().orders.len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_cut_or_flip_costs_what_is_behind_it(
            lens in prop::collection::vec(0_usize..40, 1..10), at in 0_usize..400, flip in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let records: Vec<Vec<u8>> = lens.iter().enumerate().map(|(n, len)| vec![n as u8; *len]).collect();
            let mut bytes = MAGIC.to_vec();
            let mut ends = Vec::new();
            for record in &records {
                let len = record.len() as u32;
                bytes.extend(len.to_le_bytes());
                bytes.extend(checksum(len, record).to_le_bytes());
                bytes.extend(record);
                ends.push(bytes.len());
            }
            let at = HEADER + at % (bytes.len() - HEADER);
            if flip {
                bytes[at] ^= 1;
            } else {
                bytes.truncate(at);
            }
            fs::write(path(dir.path(), 1), &bytes).unwrap();
            let whole = ends.iter().take_while(|end| **end <= at).count();
            let (read, _, _, found) = all(dir.path());
            prop_assert_eq!(&read[..], &records[..whole]);
            let begun = ends.get(whole.wrapping_sub(1)).copied().unwrap_or(HEADER);
            prop_assert_eq!(found.damaged as usize, bytes.len() - begun);
        }
    }
}
