//! The spool: keeps records, opaque bytes, in order and durably until they are acknowledged.
//!
//! Many [`Appender`]s, one [`Reader`], many [`Acker`]s. A segmented log in one folder; std threads do the work, the
//! async side meets them at short locks, a `watch` and `Notify`. It is no queue for several readers and no store to
//! look things up in.
//!
//! There are two lanes over the one log, so that what is new need not wait behind what an outage left: see
//! [`Reader::split`]. A lane is a matter of reading; on disk there is one sequence.
//!
//! # Promises
//!
//! 1. With [`Durability::Fsync`] a [`Ticket`] that [`Durable`] has reached survives a power cut.
//! 2. Records are delivered in each lane in the order of their sequence, each once per process, and never before
//!    they are durable.
//! 3. `appended + recovered = acked + shed + expired + lost + waiting` in every [`Stats`].
//! 4. A failed `fdatasync` is not repeated and believed: the segment is finished and the batch is written again to a
//!    fresh one. If that fails too, [`Durable::failed`] says so and the process has to end.
//! 5. A full disk shows when a segment is to be created, before a message is accepted. Then there is no room;
//!    acknowledgements go on (a spare segment is kept for them), and so does the spool when there is space again.
//! 6. Damage is skipped, counted and reported. Only a folder that is locked, forbidden or no folder fails [`open`].
//!
//! # The folder
//!
//! | name | what |
//! |---|---|
//! | `<first sequence, 16 hex digits>-<salt, 8>.seg` | a live segment, its space allocated at creation |
//! | `*.spare` | a segment to be used next, at most two; if it was the first one before, its name begins with the sequence after its last |
//! | `id` | the spool's id, 16 hex digits |
//! | `lock` | locked while in use, holds the process id |
//! | `quarantine/` | whatever else was found; nothing is ever deleted there |
//!
//! Length of a segment: a 64th of the maximum size, 4 to 32 MB, but at most a quarter. Live and spare segments
//! together stay within the maximum.
//!
//! # A segment, version 2
//!
//! All integers little endian. A header page of 4096 bytes, then blocks at multiples of eight:
//!
//! | header | type | meaning |
//! |---|---|---|
//! | magic | 8 bytes | `bbspool\n` |
//! | version | `u32` | 2; magic, version and checksum keep their place in every version |
//! | checksum | `u32` | CRC32C of the first 64 bytes without this field |
//! | salt | `u32` | new and random each time the file is used; also in the name, which wins |
//! | reserved | `u32` | 0 |
//! | first sequence | `u64` | of the first record; also in the name |
//! | cursor | `u64` | every sequence up to this one was resolved when the segment was begun |
//! | id | `u64` | of the spool |
//! | created | `i64` | milliseconds since 1970 |
//!
//! | block | type | meaning |
//! |---|---|---|
//! | magic | 4 bytes | `bbk\x01` |
//! | header checksum | `u32` | CRC32C of the salt and the header after this field |
//! | body checksum | `u32` | CRC32C of the body |
//! | body length | `u32` | without the padding to eight |
//! | count | `u16` | records in the body; 0 in a block that only carries the cursor or fills a page |
//! | flags | `u16` | 0, or 1 where the body lists resolved ranges; a block with another value is not of this version |
//! | into commit | `u32` | records of the same commit before this block |
//! | first sequence | `u64` | of its first record |
//! | cursor | `u64` | every sequence up to this one is resolved |
//! | time | `i64` | when its first record was appended, milliseconds since 1970 |
//! | body | | `count` times: length `u32`, record; with flag 1 instead ranges: first and last sequence, `u64` each, ascending |
//!
//! Version 1 is the same without flag 1 and is read as it is; what is written is version 2.
//!
//! Above the cursor there may be *resolved ranges*: what was acknowledged in the live lane while late records wait.
//! A block that lists them all stands at the beginning of each segment that begins while there are any, and follows
//! with a commit (at most every 250 ms) or with the cursor when they have changed; the last list counts. So a crash
//! costs a second sending of about a second of live records and not of all since the outage. A list has at most 2,048
//! ranges (a 128th of a smaller segment's length); from half of that on there is no new lane.
//!
//! A segment in the middle of which nothing waits is taken back once a list that covers it is synced. So a start
//! finds a hole in the sequence only where a list says that everything in it is resolved.
//!
//! A block ends at 64 KB unless one record is longer. A commit of 12 KB or more ends on a page. Blocks of an earlier
//! life of the file fail their checksum, because the salt is another.
//!
//! # Recovery
//!
//! Only the last segment is read: it gives the next sequence, the cursor and the resolved ranges. A hole in it is a torn tail, and cut,
//! unless a later commit stands behind it: then it is damage in durable records, and those are counted as lost when
//! the reader comes to them. Nothing is ever appended to an old segment. A sealed segment ends where the next begins.
//! Everything that waits is in the live lane then.

mod appender;
mod batch;
mod disk;
mod format;
mod lanes;
mod log;
mod look;
mod ranges;
mod read;
mod recover;
mod segment;
#[cfg(test)]
pub(crate) mod sim;
mod space;
mod stats;
#[cfg(test)]
pub(crate) mod steps;
#[cfg(test)]
mod tests;
mod track;
#[cfg(test)]
mod world;
mod writer;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

pub use crate::config::{Durability, WhenFull};
pub use appender::{Acker, Appender};
use appender::{Geometry, Pending, Room, Shared, Written, lock};
use batch::Batch;
use disk::{Disk, FolderError, RealDisk};
use format::PAGE;
pub use lanes::Reader;
use lanes::{ReadAhead, ReadQueue};
use log::Log;
pub use look::Look;
pub use ranges::Ranges;
pub use stats::Stats;

/// How to open a spool.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its folder; made where needed.
    pub dir: PathBuf,
    /// Bound on the bytes of all segments. It also bounds one publish, to a quarter of a segment: 1 MB from 16 MB
    /// on, 4 MB from 1 GB on. A message of 256 KB takes at least 5 MB.
    pub max_size: u64,
    /// What "durable" means.
    pub durability: Durability,
    /// What to do when there is no room.
    pub when_full: WhenFull,
    /// How long a commit may wait for company, and only while the last one had any.
    pub linger: Duration,
    /// Records older than this are given up.
    pub max_age: Option<Duration>,
    /// Length of new segments instead of the one that follows from `max_size`; for tests.
    pub segment_size: Option<u64>,
    /// Resolved ranges to write down at most, instead of what follows from the length of a segment; for tests.
    pub ranges: Option<usize>,
}

impl Options {
    /// The defaults, for a folder and a size.
    pub fn new(dir: impl Into<PathBuf>, max_size: u64) -> Self {
        Self {
            dir: dir.into(),
            max_size,
            durability: Durability::Fsync,
            when_full: WhenFull::Refuse,
            linger: Duration::from_micros(500),
            max_age: None,
            segment_size: None,
            ranges: None,
        }
    }

    fn geometry(&self) -> Geometry {
        const MIB: u64 = 1 << 20;
        let wanted = self.segment_size.unwrap_or((self.max_size / 64).clamp(4 * MIB, 32 * MIB).min(self.max_size / 4));
        let page = PAGE as u64;
        let segment = usize::try_from(wanted.clamp(4 * page, 1 << 30) / page * page).unwrap_or(1 << 30);
        let batch = (segment / 4).min(4 << 20);
        let max_size = self.max_size.max(4 * segment as u64);
        let ranges = self.ranges.unwrap_or(segment / 128).min(MAX_RANGES);
        Geometry { segment, batch, block: (segment / 64).min(64 << 10), max_size, ranges }
    }
}

/// Most resolved ranges a block lists.
const MAX_RANGES: usize = 2048;

/// The sequence of the last record of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How far the spool is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durable {
    /// The last durable sequence.
    pub seq: u64,
    /// Why the spool has failed for good, if it has. Nothing becomes durable any more and the process has to end.
    pub failed: Option<Arc<str>>,
}

/// One record as it is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// To acknowledge it by.
    pub seq: u64,
    /// It is of the late lane.
    pub late: bool,
    /// Its bytes, a slice of what was read from disk at once.
    pub record: Bytes,
}

/// Why an append was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendError {
    /// No room now: await [`Appender::room`] and try again.
    Full,
    /// More than ever fits at once.
    TooLarge,
    /// The spool was closed or has failed.
    Closed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the spool has no room now",
            Self::TooLarge => "the messages of this publish are too large for the spool",
            Self::Closed => "the spool is closed",
        })
    }
}

impl std::error::Error for AppendError {}

/// What was found at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Records that wait; damage among them is only found when they are read.
    pub waiting: u64,
    /// Files that were moved to `quarantine/`.
    pub quarantined: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why a spool cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process uses the folder.
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The other process, where it said so.
        pid: Option<u32>,
    },
    /// The folder cannot be made, listed or locked, or a thread cannot be started.
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { dir, pid: Some(pid) } => {
                write!(f, "the spool folder {} is in use by process {pid}", dir.display())
            }
            Self::Locked { dir, pid: None } => {
                write!(f, "the spool folder {} is in use by another process", dir.display())
            }
            Self::Folder { dir, .. } => write!(f, "the spool folder {} cannot be used", dir.display()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Locked { .. } => None,
            Self::Folder { source, .. } => Some(source),
        }
    }
}

/// The spool could not write everything it had accepted before it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseError(pub String);

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the spool ended without writing all it had accepted: {}", self.0)
    }
}

impl std::error::Error for CloseError {}

/// An open spool and its handles.
#[derive(Debug)]
pub struct Opened {
    /// For the connections.
    pub appender: Appender,
    /// For the uplink.
    pub reader: Reader,
    /// For the uplink.
    pub acker: Acker,
    /// For the log and the metrics.
    pub recovered: Recovered,
    /// For the end.
    pub spool: Spool,
}

/// Owns the threads and the lock of the folder. Dropping it closes the spool too, so keep it: `..` in a pattern drops it.
pub struct Spool {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<Result<(), String>>>,
    reader: Option<JoinHandle<()>>,
}

/// Opens the spool of a folder, recovers what it holds and starts its threads.
pub fn open(options: Options) -> Result<Opened, OpenError> {
    let started = Instant::now();
    let folder = |source| OpenError::Folder { dir: options.dir.clone(), source };
    let disk = RealDisk::open(&options.dir).map_err(|error| match error {
        FolderError::Locked(pid) => OpenError::Locked { dir: options.dir.clone(), pid },
        FolderError::Io(source) => folder(source),
    })?;
    let (mut log, ahead, recovered) = assemble(Arc::new(disk), &options).map_err(folder)?;
    log.tidy();
    let shared = log.shared.clone();
    let linger = options.linger;
    let mut spool = Spool { shared: shared.clone(), writer: None, reader: None };
    let thread = |name: &str| std::thread::Builder::new().name(name.into());
    spool.writer = Some(thread("spool-write").spawn(move || writer::run(log, linger)).map_err(folder)?);
    spool.reader = Some(thread("spool-read").spawn(move || lanes::run(ahead)).map_err(folder)?);
    Ok(Opened {
        appender: Appender { shared: shared.clone() },
        reader: Reader::new(shared.clone()),
        acker: Acker { shared },
        recovered: Recovered { took: started.elapsed(), ..recovered },
        spool,
    })
}

/// The parts without the threads.
fn assemble(disk: Arc<dyn Disk>, options: &Options) -> io::Result<(Log, ReadAhead, Recovered)> {
    let geometry = options.geometry();
    let found = recover::recover(&*disk, geometry.segment as u64)?;
    let waiting = found.track.waiting(found.next_seq - 1);
    let mut batch = Batch::new(geometry.block);
    batch.restart(found.next_seq);
    let pending = Pending {
        batch,
        next_seq: found.next_seq,
        limit: 0,
        full: false,
        closed: false,
        appended: 0,
        bytes: 0,
        wake_at: None,
        idle: false,
        poked: false,
    };
    let shared = Arc::new(Shared {
        id: found.id,
        withdrawn: AtomicBool::new(false),
        geometry,
        disk,
        pending: Mutex::new(pending),
        work: Condvar::new(),
        room: Room::default(),
        durable: watch::Sender::new(Durable { seq: found.next_seq - 1, failed: None }),
        track: Mutex::new(found.track),
        reading: ReadQueue::default(),
        cursor_moved: AtomicBool::new(false),
        recovered: waiting,
        written: Written::default(),
    });
    let ahead = ReadAhead::new(shared.clone());
    let log = Log::new(shared, options, found.spares);
    Ok((log, ahead, Recovered { waiting, quarantined: found.quarantined, took: Duration::ZERO }))
}

impl Spool {
    /// Makes durable what was accepted, writes the cursor, stops the threads. Blocks for as long as the disk takes.
    pub fn close(mut self) -> Result<(), CloseError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), CloseError> {
        lock(&self.shared.pending).closed = true;
        self.shared.work.notify_one();
        self.shared.room.closed();
        self.shared.reading.close();
        let reader = self.reader.take().map_or(Ok(()), JoinHandle::join);
        let writer = self.writer.take().map_or(Ok(Ok(())), JoinHandle::join);
        self.shared.disk.release();
        match (writer, reader) {
            (Ok(Ok(())), Ok(())) => Ok(()),
            (Ok(Err(reason)), _) => Err(CloseError(reason)),
            _ => Err(CloseError("a thread of the spool panicked".into())),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.writer.is_some() || self.reader.is_some() {
            // The reason was logged, and whoever wants to know it calls `close`.
            let _ = self.stop();
        }
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}
