//! The shelves: what waits for a device that cannot take it now, a file a device.
//!
//! The spool is one log for all. A message that cannot be sent would hold back those behind it, or leave holes in the
//! log of which there may be few. So it is put on the shelf of its device, and only when it is on disk there it is
//! taken out of the spool. A shelf is an append log of its own; it is read from the front when the device can send
//! again, and removed when everything on it is settled. It is no queue for several readers: one writer appends, one
//! reader takes from each shelf.
//!
//! # Promises
//!
//! 1. What [`Shelves::append`] has returned for survives a power cut.
//! 2. A shelf gives its messages in the order they were appended.
//! 3. `appended + recovered = settled + shed + lost + waiting`, for each spool the messages came from and in all.
//! 4. A crash repeats messages that were settled in the second before it; it loses none.
//! 5. Damage costs the records it hit, is counted, and keeps nothing from starting.
//! 6. All shelves together stay within `max_size`, each within `max_device_size`.
//!
//! # The folder
//!
//! `<beginning of the id>-<hash of it>.shelf`, of this form, integers little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | `bbshelf\x01`, a random salt `u32`, length of the device id `u16`, the id, CRC32C of all that |
//! | 384 and 448 | two cursors, written in turn: number `u64`, place `u64`, CRC32C; the higher number counts. Everything before the place is settled |
//! | 512 | records: `bbr\x01`, length `u32`, CRC32C of salt, place `u64`, length and body, body: spool `u64`, sequence `u64`, time `i64`, lane `u8`, message |
//!
//! Settled space at the front is given back to the file system where it can do that. A file whose header cannot be read
//! is renamed to `*.damaged`. See `names` for when files are made and unlinked.

mod file;
mod format;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use file::Shelf;

/// Bounds of the shelves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Their folder; made where needed.
    pub dir: PathBuf,
    /// Most bytes of all.
    pub max_size: u64,
    /// Most bytes of one.
    pub max_device_size: u64,
}

/// A message put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelved {
    /// The spool it came from.
    pub spool: u64,
    /// Its number there: both make its name, which stays the same.
    pub sequence: u64,
    /// Its lane, as its owner codes it.
    pub lane: u8,
    /// The message.
    pub record: Bytes,
}

/// Where a message is; it is settled by this. It means nothing any more once the shelf was empty: the next shelf of this
/// device has the same places again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which shelf of this device it is on.
    salt: u32,
    /// Where it begins.
    at: u64,
    /// Where the next one begins.
    next: u64,
}

impl Place {
    /// Where to read on behind this message.
    pub fn behind(&self) -> Mark {
        Mark { salt: self.salt, at: self.next }
    }
}

/// A message on a shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Where it is.
    pub place: Place,
    /// The message.
    pub shelved: Shelved,
}

/// A place on a shelf. It means nothing any more once the shelf was empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which shelf of this device it was.
    salt: u32,
    at: u64,
}

/// What was read from a shelf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Messages, in order.
    pub messages: Vec<Placed>,
    /// Where to read on.
    pub next: Option<Mark>,
}

/// The counts of all shelves since they were opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages put on a shelf, by the spool they came from.
    pub appended: BTreeMap<u64, u64>,
    /// Messages found at the start.
    pub recovered: u64,
    /// Messages settled, for whatever reason.
    pub settled: u64,
    /// Messages given up because their shelf was full.
    pub shed: u64,
    /// Messages given up because they were too old.
    pub expired: u64,
    /// Messages that could not be read back.
    pub lost: u64,
    /// Messages that wait.
    pub waiting: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Shelves that hold something.
    pub shelves: u64,
}

/// What one device's shelf holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Messages.
    pub messages: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// When the oldest was put there, milliseconds since 1970.
    pub oldest: i64,
}

/// Why something cannot be put on a shelf.
#[derive(Debug)]
pub enum ShelfError {
    /// It would be more than the bounds allow.
    Full,
    /// The disk does not take it. It may be tried again.
    Disk(io::Error),
}

/// All shelves of a state folder.
#[derive(Debug)]
pub struct Shelves {
    options: Options,
    index: Mutex<Index>,
    /// Who makes, opens by name or unlinks a file holds this, and looks into the index then.
    names: Mutex<()>,
    /// Cursors are written by one at a time, so that an older one never comes after a newer one.
    persisting: Mutex<()>,
}

#[derive(Debug, Default)]
struct Index {
    shelves: HashMap<String, Shelf>,
    stats: Stats,
    /// How often what is on shelves has changed.
    changes: u64,
    /// Something was settled since the cursors were written.
    is_moved: bool,
    /// Files to unlink. No shelf has made one of that name since.
    empty: HashSet<PathBuf>,
}

impl Index {
    /// A shelf is no more.
    fn remove(&mut self, device: &str) {
        self.empty.extend(self.shelves.remove(device).map(Shelf::into_path));
    }
}

impl Shelves {
    /// Opens the folder and finds out what waits.
    pub fn open(options: Options) -> io::Result<Self> {
        fs::create_dir_all(&options.dir)?;
        let mut index = Index::default();
        for entry in fs::read_dir(&options.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "shelf") {
                continue;
            }
            let Some((id, shelf, damage)) = Shelf::open(&path)? else {
                tracing::error!("the shelf {} has no header that can be read, it is put aside", path.display());
                fs::rename(&path, path.with_extension("damaged"))?;
                continue;
            };
            if damage > 0 {
                tracing::error!(places = damage, "the shelf {} is damaged: messages on it are lost", path.display());
            }
            index.stats.recovered += shelf.messages + damage;
            index.stats.lost += damage;
            if shelf.messages == 0 {
                fs::remove_file(&path)?;
            } else {
                index.shelves.insert(id, shelf);
            }
        }
        Ok(Self { options, index: Mutex::new(index), names: Mutex::default(), persisting: Mutex::default() })
    }

    /// Puts messages on a device's shelf. Returns when they are durable, and where; on `Err` none of them is there. Blocks
    /// for as long as the disk takes; only one caller at a time.
    pub fn append(&self, device: &str, messages: &[Shelved], now: i64) -> Result<Vec<Place>, ShelfError> {
        self.append_below(u64::MAX, device, messages, now)
    }

    /// The same, only where all shelves together take less than so many bytes.
    pub fn append_below(
        &self,
        below: u64,
        device: &str,
        messages: &[Shelved],
        now: i64,
    ) -> Result<Vec<Place>, ShelfError> {
        let more: u64 = messages.iter().map(format::size).sum();
        let append = {
            let mut index = self.index.lock();
            let total: u64 = index.shelves.values().map(Shelf::bytes).sum();
            let own = index.shelves.get(device).map_or(0, Shelf::bytes);
            let fits = own + more <= self.options.max_device_size && total + more <= self.options.max_size;
            if !fits || total >= below {
                return Err(ShelfError::Full);
            }
            let dir = &self.options.dir;
            let shelf = index.shelves.entry(device.to_owned()).or_insert_with(|| Shelf::begin(dir, device));
            shelf.begin_append()
        };
        let written = self.file_for(&append).and_then(|file| append.append(&file, messages, now));
        let mut index = self.index.lock();
        index.changes += 1;
        let Some(shelf) = index.shelves.get_mut(device) else { return Ok(Vec::new()) };
        let end = written.as_ref().ok().map(|places| places.last().map_or(shelf.end(), |last| last.next));
        shelf.appended(end, messages.len() as u64, now);
        match written {
            Ok(places) => {
                for message in messages {
                    *index.stats.appended.entry(message.spool).or_default() += 1;
                }
                Ok(places)
            }
            Err(error) => {
                if shelf.messages == 0 {
                    index.remove(device);
                }
                drop(index);
                self.unlink_empty();
                Err(ShelfError::Disk(error))
            }
        }
    }

    /// Reads messages from a mark on, or from the first that is not settled; those that are settled already are left
    /// out. Blocks for as long as the disk takes.
    pub fn read(&self, device: &str, from: Option<Mark>, most: usize) -> io::Result<Chunk> {
        let Some(stretch) = self.index.lock().shelves.get(device).map(|shelf| shelf.to_read(from)) else {
            return Ok(Chunk::default());
        };
        let read = file::read(&stretch, most);
        let mut index = self.index.lock();
        let Some(shelf) = index.shelves.get_mut(device) else { return Ok(Chunk::default()) };
        if shelf.salt != stretch.salt {
            return Ok(Chunk::default()); // Another one has come meanwhile; it is read from its front.
        }
        let (messages, end, lost) = read?;
        let mut chunk = Chunk { messages, next: Some(Mark { salt: stretch.salt, at: end }) };
        chunk.messages.retain(|placed| !shelf.is_settled(placed.place.at));
        let mut gone = 0;
        for (at, next) in lost {
            gone += u64::from(shelf.settle(at, next));
        }
        gone += shelf.left_over();
        index.changes += u64::from(gone > 0);
        index.is_moved |= gone > 0;
        index.stats.lost += gone;
        Ok(chunk)
    }

    /// True where nothing is on a shelf behind a mark now. Who asks must keep others from appending, or what he concludes
    /// from it may be over at once.
    pub fn is_read(&self, device: &str, to: Option<Mark>) -> bool {
        let index = self.index.lock();
        let Some(shelf) = index.shelves.get(device) else { return true };
        to.is_some_and(|mark| mark.salt == shelf.salt && mark.at >= shelf.end())
    }

    /// A message is done with: nobody is to get it again. False where that was so before.
    pub fn settle(&self, device: &str, place: Place) -> bool {
        let mut index = self.index.lock();
        let Some(shelf) = index.shelves.get_mut(device).filter(|shelf| shelf.salt == place.salt) else { return false };
        let counts = shelf.settle(place.at, place.next);
        let lost = shelf.left_over();
        let empty = shelf.is_empty();
        index.changes += 1;
        index.is_moved = true;
        index.stats.settled += u64::from(counts);
        index.stats.lost += lost;
        if empty {
            index.remove(device);
        }
        counts
    }

    /// A message is given up because it is too old to be sent. False where it was done with before.
    pub fn expire_one(&self, device: &str, place: Place) -> bool {
        let counts = self.settle(device, place);
        let mut index = self.index.lock();
        index.stats.settled -= u64::from(counts);
        index.stats.expired += u64::from(counts);
        counts
    }

    /// Gives up the oldest messages of a shelf that nobody reads now: as many as take so many bytes. Blocks for as long as
    /// the disk takes.
    pub fn give_up_oldest(&self, device: &str, bytes: u64) -> io::Result<u64> {
        self.give_up(device, |_| true, bytes)
    }

    /// Makes room for so many bytes on a shelf: its own oldest messages are given up where it is too long, and where all
    /// together are, the oldest of the longest one of `others`. Says how many that were. Blocks for as long as the disk
    /// takes.
    pub fn make_room(&self, device: &str, bytes: u64, others: &[Arc<str>]) -> io::Result<u64> {
        let own = self.share(device).map_or(0, |share| share.bytes);
        let over = (own + bytes).saturating_sub(self.options.max_device_size);
        let mut gone = if over > 0 { self.give_up(device, |_| true, over)? } else { 0 };
        loop {
            let (over, longest) = {
                let index = self.index.lock();
                let total: u64 = index.shelves.values().map(Shelf::bytes).sum();
                let shelves = others.iter().filter_map(|id| Some((index.shelves.get(&**id)?.bytes(), id)));
                ((total + bytes).saturating_sub(self.options.max_size), shelves.max().map(|(_, id)| Arc::clone(id)))
            };
            let Some(longest) = longest.filter(|_| over > 0) else { return Ok(gone) };
            match self.give_up(&longest, |_| true, over)? {
                0 => return Ok(gone),
                more => gone += more,
            }
        }
    }

    /// Gives up the leading messages of a shelf that were put there before a moment. Nobody must read it now.
    pub fn expire(&self, device: &str, before: i64) -> io::Result<u64> {
        if self.share(device).is_none_or(|share| share.oldest >= before) {
            return Ok(0);
        }
        let gone = self.give_up(device, |since| since < before, u64::MAX)?;
        let mut index = self.index.lock();
        index.stats.shed -= gone;
        index.stats.expired += gone;
        Ok(gone)
    }

    fn give_up(&self, device: &str, which: impl Fn(i64) -> bool, bytes: u64) -> io::Result<u64> {
        let Some(stretch) = self.index.lock().shelves.get(device).map(|shelf| shelf.to_read(None)) else {
            return Ok(0);
        };
        let leading = file::leading(&stretch, which, bytes);
        let mut index = self.index.lock();
        let same = index.shelves.get_mut(device).filter(|shelf| shelf.salt == stretch.salt);
        let Some(shelf) = same else { return Ok(0) };
        let (leading, oldest) = leading?;
        let gone = leading.into_iter().filter(|(at, next)| shelf.settle(*at, *next)).count() as u64;
        shelf.oldest = oldest.unwrap_or(shelf.oldest);
        let (lost, empty) = (shelf.left_over(), shelf.is_empty());
        index.changes += 1;
        index.is_moved = true;
        index.stats.shed += gone;
        index.stats.lost += lost;
        if empty {
            index.remove(device);
        }
        drop(index);
        self.unlink_empty();
        Ok(gone)
    }

    /// The counts of this moment.
    pub fn stats(&self) -> Stats {
        let index = self.index.lock();
        let mut stats = index.stats.clone();
        for shelf in index.shelves.values() {
            stats.waiting += shelf.messages;
            stats.bytes += shelf.bytes();
            stats.shelves += u64::from(shelf.messages > 0);
        }
        stats
    }

    /// How often what is on shelves has changed: while that is the same, so is all else that is told here.
    pub fn changes(&self) -> u64 {
        self.index.lock().changes
    }

    /// What a device's shelf holds; `None` where it has none.
    pub fn share(&self, device: &str) -> Option<Share> {
        self.index.lock().shelves.get(device).map(Shelf::share)
    }

    /// What is on all shelves that hold something, by device.
    pub fn shares(&self) -> Vec<(String, Share)> {
        let index = self.index.lock();
        let holding = index.shelves.iter().filter(|(_, shelf)| shelf.messages > 0);
        holding.map(|(id, shelf)| (id.clone(), shelf.share())).collect()
    }

    /// The devices that have a shelf.
    pub fn devices(&self) -> Vec<String> {
        self.index.lock().shelves.keys().cloned().collect()
    }
}

/// True where a folder has shelves. It is not opened for that.
pub fn holds_something(dir: &Path) -> bool {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.into_iter().any(|file| Path::new(&file.file_name()).extension().is_some_and(|ending| ending == "shelf"))
}
