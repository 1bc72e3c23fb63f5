//! One shelf: what is known about its file, and the work on it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::format::{self, Cursor, Found, HEADER};
use super::{Mark, Place, Placed, Share, Shelved};

/// Bytes read at once, and more where a single message is longer.
const CHUNK: u64 = 64 << 10;
/// More than the longest record.
const LONGEST: u64 = 9 << 20;
/// Settled bytes at the front that are worth giving back.
const PUNCH: u64 = 1 << 20;

/// A shelf, as its file stands.
#[derive(Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    id: String,
    pub(super) salt: u32,
    end: u64,
    cursor: u64,
    /// Settled behind the cursor: begin and end of each.
    done: BTreeMap<u64, u64>,
    pub(super) messages: u64,
    pub(super) oldest: i64,
    /// The last cursor that was written.
    written: Cursor,
    /// Up to here the space was given back.
    punched: u64,
    exists: bool,
    appending: bool,
}

/// A cursor to write, away from the lock.
#[derive(Debug)]
pub(super) struct Persist {
    pub(super) id: String,
    pub(super) salt: u32,
    path: PathBuf,
    cursor: Cursor,
    /// Space to give back: from, length.
    free: Option<(u64, u64)>,
}

/// What to append needs, away from the lock.
#[derive(Debug)]
pub(super) struct Append {
    path: PathBuf,
    salt: u32,
    /// The header, where the file is new.
    header: Option<Vec<u8>>,
    end: u64,
}

/// A stretch of a file to read.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    path: PathBuf,
    pub(super) salt: u32,
    from: u64,
    end: u64,
}

/// Begin and end of messages, or of what was damaged.
type Places = Vec<(u64, u64)>;

impl Shelf {
    /// A shelf without a file.
    pub(super) fn begin(dir: &Path, device: &str) -> Self {
        Self {
            path: dir.join(name(device)),
            id: device.to_owned(),
            salt: rand::random(),
            end: HEADER,
            cursor: HEADER,
            done: BTreeMap::new(),
            messages: 0,
            oldest: 0,
            written: Cursor::default(),
            punched: HEADER,
            exists: false,
            appending: false,
        }
    }

    /// Reads a file, cuts its torn tail, and counts damaged stretches. `None` where it has no header.
    pub(super) fn open(path: &Path) -> io::Result<Option<(String, Self, u64)>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut header = Vec::new();
        (&file).take(HEADER).read_to_end(&mut header)?;
        let Some((id, salt, cursor)) = format::read_header(&header) else { return Ok(None) };
        let length = file.metadata()?.len();
        let base = cursor.at.min(length.max(HEADER));
        let mut bytes = vec![0; usize::try_from(length.saturating_sub(base)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, base)?;
        let bytes = Bytes::from(bytes);
        let (mut at, mut messages, mut oldest, mut damaged) = (0, 0, 0, Places::new());
        loop {
            match format::look(&bytes, at, (salt, base)) {
                Found::Record { placed, since } => {
                    oldest = if messages == 0 { since } else { oldest };
                    messages += 1;
                    at = usize::try_from(placed.place.next - base).unwrap_or(usize::MAX);
                }
                Found::Damage(next) => {
                    damaged.push((base + at as u64, base + next as u64));
                    at = next;
                }
                Found::Cut | Found::End => break,
            }
        }
        let end = base + at as u64;
        if end < length {
            file.set_len(end)?;
            file.sync_data()?;
        }
        let mut shelf = Self {
            path: path.to_owned(),
            id: id.clone(),
            salt,
            end,
            cursor: base,
            messages,
            oldest,
            written: cursor,
            punched: base,
            exists: true,
            ..Self::begin(Path::new(""), "")
        };
        let damage = damaged.len() as u64;
        damaged.into_iter().for_each(|(at, next)| shelf.pass(at, next));
        Ok(Some((id, shelf, damage)))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.end - self.cursor
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn share(&self) -> Share {
        Share { messages: self.messages, bytes: self.bytes(), oldest: self.oldest }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0 && !self.appending
    }

    pub(super) fn begin_append(&mut self) -> Append {
        self.appending = true;
        let header = (!self.exists).then(|| format::header(&self.id, self.salt));
        Append { path: self.path.clone(), salt: self.salt, header, end: self.end }
    }

    /// The end of an append, with the new end where it succeeded.
    pub(super) fn appended(&mut self, end: Option<u64>, messages: u64, now: i64) {
        self.appending = false;
        if let Some(end) = end {
            self.exists = true;
            self.oldest = if self.messages == 0 { now } else { self.oldest };
            self.end = end;
            self.messages += messages;
        }
    }

    /// What a reader is to read.
    pub(super) fn to_read(&self, from: Option<Mark>) -> Stretch {
        let from = from.filter(|mark| mark.salt == self.salt).map_or(self.cursor, |mark| mark.at.max(self.cursor));
        Stretch { path: self.path.clone(), salt: self.salt, from, end: self.end }
    }

    pub(super) fn is_settled(&self, at: u64) -> bool {
        at < self.cursor || self.done.contains_key(&at)
    }

    /// False where it was settled before.
    pub(super) fn settle(&mut self, at: u64, next: u64) -> bool {
        if self.is_settled(at) {
            return false;
        }
        self.pass(at, next);
        self.messages = self.messages.saturating_sub(1);
        true
    }

    fn pass(&mut self, at: u64, next: u64) {
        self.done.insert(at, next);
        while let Some(next) = self.done.remove(&self.cursor) {
            self.cursor = next;
        }
    }

    /// Messages that were counted and were not found, once all is settled: a damaged stretch may have held several.
    pub(super) fn left_over(&mut self) -> u64 {
        if self.cursor == self.end { std::mem::take(&mut self.messages) } else { 0 }
    }

    /// The cursor to write, where it has moved.
    pub(super) fn changed(&mut self) -> Option<Persist> {
        if self.cursor == self.written.at || !self.exists {
            return None;
        }
        self.written = Cursor { at: self.cursor, number: self.written.number + 1 };
        let free = (self.cursor - self.punched >= PUNCH).then(|| (self.punched, self.cursor - self.punched));
        if free.is_some() {
            self.punched = self.cursor;
        }
        let (id, path) = (self.id.clone(), self.path.clone());
        Some(Persist { id, salt: self.salt, path, cursor: self.written, free })
    }

    /// The name of its file, when that is no longer needed.
    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }
}

impl Persist {
    /// Opens the file, which has to be that of this shelf still.
    pub(super) fn open(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(&self.path)
    }

    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let (place, bytes) = self.cursor.write();
        file.write_all_at(&bytes, place)?;
        if let Some((from, length)) = self.free {
            // The cursor first: a crash must not find a hole where it expects a message.
            file.sync_data()?;
            let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            // Not every file system can do it; then the space comes back with the file's end.
            let _ = rustix::fs::fallocate(file, flags, from, length);
        }
        Ok(())
    }
}

impl Append {
    /// The name of the file, where it is to be made.
    pub(super) fn new_file(&self) -> Option<&Path> {
        self.header.as_ref().map(|_| &*self.path)
    }

    /// Makes the file, or opens it. One of the same name that is still there was that of an earlier shelf.
    pub(super) fn open(&self) -> io::Result<File> {
        if self.header.is_some() {
            unlink(&self.path)?;
        }
        OpenOptions::new().write(true).create_new(self.header.is_some()).mode(0o600).open(&self.path)
    }

    /// Appends to the file and syncs; returns where each of the messages is.
    pub(super) fn append(&self, file: &File, messages: &[Shelved], now: i64) -> io::Result<Vec<Place>> {
        let mut out = Vec::new();
        let mut places = Vec::with_capacity(messages.len());
        for message in messages {
            let at = self.end + out.len() as u64;
            format::push(&mut out, (self.salt, self.end), message, now);
            places.push(Place { salt: self.salt, at, next: self.end + out.len() as u64 });
        }
        if let Some(header) = &self.header {
            file.write_all_at(header, 0)?;
        }
        // What an earlier try left is cut off: these bytes are written, and synced, anew.
        file.set_len(self.end)?;
        file.write_all_at(&out, self.end)?;
        file.sync_data()?;
        if self.header.is_some() {
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(places)
    }
}

/// Unlinks a file that may be gone already.
pub(super) fn unlink(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads messages of a stretch of a file; also how far it came, and what of it is damaged.
pub(super) fn read(stretch: &Stretch, most: usize) -> io::Result<(Vec<Placed>, u64, Places)> {
    let (mut messages, mut end, mut lost) = (Vec::new(), stretch.from, Places::new());
    scan(stretch, |found| {
        match found {
            Ok((placed, _)) => {
                end = placed.place.next;
                messages.push(placed);
            }
            Err(damage) => {
                end = damage.1;
                lost.push(damage);
            }
        }
        messages.len() < most && end - stretch.from < CHUNK
    })?;
    Ok((messages, end, lost))
}

/// The leading messages that are meant, as many as take so many bytes, and the time of the first one that is not.
pub(super) fn leading(stretch: &Stretch, which: impl Fn(i64) -> bool, bytes: u64) -> io::Result<(Places, Option<i64>)> {
    let (mut leading, mut oldest) = (Places::new(), None);
    let mut freed = 0;
    scan(stretch, |found| match found {
        Ok((_, since)) if freed >= bytes || !which(since) => {
            oldest = Some(since);
            false
        }
        Ok((placed, _)) => {
            let Place { at, next, .. } = placed.place;
            freed += next - at;
            leading.push((at, next));
            true
        }
        Err(damage) => {
            freed += damage.1 - damage.0;
            leading.push(damage);
            true
        }
    })?;
    Ok((leading, oldest))
}

/// Gives every record of a stretch, or where damage is, until `with` says no.
fn scan(stretch: &Stretch, mut with: impl FnMut(Result<(Placed, i64), (u64, u64)>) -> bool) -> io::Result<()> {
    let (file, end) = (File::open(&stretch.path)?, stretch.end);
    let (mut base, mut size) = (stretch.from, CHUNK);
    while base < end {
        let length = size.min(end - base);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, base)?;
        let bytes = Bytes::from(bytes);
        let whole = base + length == end;
        let mut at = 0;
        loop {
            match format::look(&bytes, at, (stretch.salt, base)) {
                Found::Record { placed, since } => {
                    at = usize::try_from(placed.place.next - base).unwrap_or(usize::MAX);
                    if !with(Ok((placed, since))) {
                        return Ok(());
                    }
                }
                // A record that only seems damaged because the rest of it was not read yet.
                Found::Damage(_) | Found::End if !whole && size < LONGEST => break,
                Found::Damage(next) => {
                    let damage = (base + at as u64, base + next as u64);
                    at = next;
                    if !with(Err(damage)) {
                        return Ok(());
                    }
                }
                Found::Cut if !whole => break,
                Found::Cut | Found::End => {
                    if base + (at as u64) < end {
                        with(Err((base + at as u64, end)));
                    }
                    return Ok(());
                }
            }
        }
        // At the beginning of what is not whole here, with more room where that was all.
        size = if at == 0 { size.saturating_mul(4) } else { CHUNK };
        base += at as u64;
    }
    Ok(())
}

/// The name of a device's file: something to recognise it by, and a hash, for an id may hold any character.
fn name(device: &str) -> String {
    let mut name: String =
        device.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(40).collect();
    name.push('-');
    for byte in Sha256::digest(device.as_bytes()).iter().take(12) {
        let _ = write!(name, "{byte:02x}");
    }
    name.push_str(".shelf");
    name
}
