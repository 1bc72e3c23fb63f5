//! The files of a journal: reading them, writing them anew, and clearing away what that makes obsolete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::Found;

pub(super) const MAGIC: &[u8; 8] = b"bbjrnl\0\x01";
pub(super) const HEADER: usize = 8;
/// Length and checksum before a record.
const RECORD_HEADER: u64 = 8;
/// Growth since the last rewriting that is not worth another.
const MIN_GROWTH: u64 = 4 << 20;

/// What the journal's thread is to do.
#[derive(Debug)]
pub(super) enum Order {
    Write(Vec<u8>),
    Begin,
    Complete,
}

/// The files.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    current: u64,
    /// Files that could not be read to their end.
    damaged: Vec<u64>,
    /// `None` until everything is written anew.
    file: Option<File>,
    /// The current file was opened by this process; then, whether what is in it is a complete rewriting.
    begun: bool,
    complete: bool,
    /// Bytes of the current file, and how many of them were the last rewriting.
    written: u64,
    pub(super) whole: u64,
}

impl Disk {
    /// Gives every record of the files of a folder to `read`, in order.
    pub(super) fn read(dir: &Path, read: &mut impl FnMut(&[u8]), found: &mut Found) -> io::Result<Self> {
        let numbers = numbers(dir)?;
        let mut damaged = Vec::new();
        for number in &numbers {
            let path = path(dir, *number);
            let lost = read_file(&path, read, found).map_err(|error| at(&path, &error))?;
            damaged.extend((lost > 0).then_some(*number));
        }
        Ok(Self {
            dir: dir.to_owned(),
            current: numbers.last().copied().unwrap_or(0),
            damaged,
            file: None,
            begun: false,
            complete: false,
            written: 0,
            whole: 0,
        })
    }

    /// True where what is appended now follows a complete rewriting.
    pub(super) fn is_complete(&self) -> bool {
        self.complete && self.file.is_some()
    }

    /// The disk has what was written. After a failure the file is not written to again.
    pub(super) fn sync(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_data().map_err(|error| at(&path(&self.dir, self.current), &error))
    }

    /// True where a rewriting is complete by this.
    pub(super) fn carry_out(&mut self, order: Order) -> io::Result<bool> {
        match order {
            Order::Begin => self.begin().map_err(|error| at(&path(&self.dir, self.current), &error))?,
            Order::Write(bytes) => {
                if let Some(file) = &mut self.file {
                    file.write_all(&bytes).map_err(|error| at(&path(&self.dir, self.current), &error))?;
                    self.written += bytes.len() as u64;
                }
            }
            Order::Complete => {
                let Some(file) = &self.file else { return Ok(false) };
                file.sync_data().map_err(|error| at(&path(&self.dir, self.current), &error))?;
                File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|error| at(&self.dir, &error))?;
                self.complete = true;
                self.whole = self.written;
                if let Err(error) = self.clear() {
                    // What is there is read before the current file, which tells the truth.
                    tracing::warn!("an obsolete file of sessions cannot be removed: {error}");
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn begin(&mut self) -> io::Result<()> {
        self.file = None;
        if self.complete || !self.begun {
            self.current = self.current.checked_add(1).ok_or_else(|| io::Error::other("no number is left"))?;
        }
        (self.begun, self.complete) = (false, false);
        let path = path(&self.dir, self.current);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        self.begun = true;
        file.write_all(MAGIC)?;
        self.written = HEADER as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Nothing can be appended any more. A rewriting that is not complete gives its room back.
    pub(super) fn give_up(&mut self) {
        if let Some(file) = self.file.take()
            && !self.complete
        {
            let _ = file.set_len(0);
        }
    }

    /// Removes what the current file makes obsolete, the oldest first: what is left is never a gap in the order.
    fn clear(&mut self) -> io::Result<()> {
        for number in numbers(&self.dir)?.into_iter().filter(|number| *number < self.current) {
            let path = path(&self.dir, number);
            let cleared = if self.damaged.contains(&number) {
                let kept = self.dir.join("journal.damaged");
                tracing::warn!("what could not be read of {} is kept as {}", path.display(), kept.display());
                fs::rename(&path, kept)
            } else {
                fs::remove_file(&path)
            };
            cleared.map_err(|error| at(&path, &error))?;
        }
        Ok(())
    }

    pub(super) fn is_outgrown(&self) -> bool {
        self.complete
            && self.whole != u64::MAX
            && self.written > self.whole.saturating_mul(4).max(self.whole + MIN_GROWTH)
    }
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.journal"))
}

/// An error that says of what file it is.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The files there are, in order. What is not named as this module names them is somebody else's.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".journal"));
        let number = number.and_then(|number| u64::from_str_radix(number, 16).ok());
        numbers.extend(number.filter(|number| path(dir, *number).file_name() == Some(&name)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn checksum(len: u32, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len.to_le_bytes()), record)
}

/// Gives the records of a file to `read`, one at a time in memory; says how many bytes were no whole record.
fn read_file(path: &Path, read: &mut impl FnMut(&[u8]), found: &mut Found) -> io::Result<u64> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut file = BufReader::with_capacity(64 << 10, file);
    let mut magic = [0; HEADER];
    let is_ours = size >= HEADER as u64 && file.read_exact(&mut magic).map(|()| magic == *MAGIC)?;
    let mut whole = if is_ours { HEADER as u64 } else { 0 };
    let mut record = Vec::new();
    while is_ours && next(&mut file, size - whole, &mut record)? {
        read(&record);
        found.records += 1;
        whole += RECORD_HEADER + record.len() as u64;
    }
    let damaged = size.saturating_sub(whole);
    found.damaged += damaged;
    if damaged > 0 && is_ours {
        tracing::warn!("{}: the last {damaged} bytes are no whole record and are passed over", path.display());
    } else if damaged > 0 {
        tracing::warn!("{}: not a journal of this version of brownbridge, passed over", path.display());
    }
    Ok(damaged)
}

/// Reads the next record; false where there is no whole one in what is `left` of the file.
fn next(file: &mut impl io::Read, left: u64, record: &mut Vec<u8>) -> io::Result<bool> {
    let mut header = [0; RECORD_HEADER as usize];
    if left < RECORD_HEADER {
        return Ok(false);
    }
    file.read_exact(&mut header)?;
    let [a, b, c, d, crc @ ..] = header;
    let len = u32::from_le_bytes([a, b, c, d]);
    if u64::from(len) > left - RECORD_HEADER {
        return Ok(false);
    }
    record.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
    file.read_exact(record)?;
    Ok(checksum(len, record) == u32::from_le_bytes(crc))
}
