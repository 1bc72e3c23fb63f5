//! What a folder holds after a start: which segments, from where to where, and how far it is acknowledged.
//!
//! Only the last segment is read. Nothing in the content makes it fail.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::disk::Disk;
use super::format::{HeaderCheck, MAX_SEQ, PAGE, SegmentHeader, parse_segment_name, parse_spare_name};
use super::ranges::{self, Range as Resolved};
use super::segment::{Found, Window};
use super::track::{Segment, Track};

/// Bytes copied at once.
const CHUNK: usize = 512 * 1024;
const ID: &str = "id";
const ID_NEW: &str = "id.new";
/// Sixteen digits and a line feed.
const ID_LEN: usize = 17;

/// The state a folder was found in.
pub(super) struct Recovery {
    pub(super) track: Track,
    pub(super) next_seq: u64,
    pub(super) id: u64,
    pub(super) spares: Vec<(String, u64)>,
    pub(super) quarantined: u64,
}

#[derive(Default)]
struct Folder {
    segments: Vec<Segment>,
    spares: Vec<(String, u64)>,
    /// Spares were segments once; their names tell up to where everything is resolved.
    resolved: u64,
    id: Option<u64>,
    header_id: Option<u64>,
    /// First sequences of segments that had to be put aside.
    aside: Vec<u64>,
    quarantined: u64,
}

/// Reads the folder and puts aside what is no part of the spool.
pub(super) fn recover(disk: &dyn Disk, segment_len: u64) -> io::Result<Recovery> {
    let mut folder = Folder::default();
    for (name, len) in disk.list()? {
        folder.file(disk, &name, len, segment_len)?;
    }
    let mut segments = std::mem::take(&mut folder.segments);
    segments.sort_by_key(|segment| (segment.first_seq, segment.created));
    // A segment that failed and could not be removed shares its beginning with the one that took its place.
    if !segments.is_sorted_by(|a, b| a.first_seq < b.first_seq) {
        segments.sort_by_cached_key(|segment| (segment.first_seq, tail(disk, segment).next_seq, segment.created));
    }
    let first = segments.iter().map(|segment| segment.first_seq).chain(folder.aside.iter().copied()).min();
    let mut next_seq = folder.aside.iter().copied().max().unwrap_or(1).max(1);
    let (mut cursor, mut resolved) = (0, Vec::new());
    if let Some(last) = segments.last() {
        let tail = tail(disk, last);
        next_seq = next_seq.max(tail.next_seq);
        cursor = tail.cursor;
        resolved = tail.resolved;
        if let Err(error) = settle(disk, last, tail.last_commit.clone()) {
            tracing::warn!(%error, "spool: the last commit of the earlier run cannot be made durable again");
        }
    }
    // Segments are removed from the front only when all in them is acknowledged or shed.
    cursor = cursor.max(first.unwrap_or(1).saturating_sub(1)).max(folder.resolved);
    next_seq = next_seq.max(cursor + 1).max(resolved.last().map_or(0, |(_, last)| last + 1));
    let mut end = next_seq - 1;
    for segment in segments.iter_mut().rev() {
        segment.last_seq = end;
        end = end.min(segment.first_seq.saturating_sub(1));
    }
    let id = folder.settle_id(disk, first.is_none() && folder.resolved == 0);
    let track = Track::new(cursor, &resolved, next_seq - 1, VecDeque::from(segments));
    Ok(Recovery { track, next_seq, id, spares: folder.spares, quarantined: folder.quarantined })
}

impl Folder {
    fn file(&mut self, disk: &dyn Disk, name: &str, len: u64, segment_len: u64) -> io::Result<()> {
        if let Some((first_seq, salt)) = parse_segment_name(name) {
            match self.segment(disk, name, (first_seq, salt), len)? {
                Some(segment) => self.segments.push(segment),
                None => {
                    self.aside.push(first_seq);
                    self.put_aside(disk, name);
                }
            }
        } else if name.ends_with(".spare") {
            self.resolved = self.resolved.max(parse_spare_name(name).map_or(0, |next_seq| next_seq.saturating_sub(1)));
            // Nothing in a spare is needed: one of another size, or too many, is simply space.
            if len == segment_len && self.spares.len() < 2 {
                self.spares.push((name.to_owned(), len));
            } else if let Err(error) = disk.remove(name) {
                tracing::warn!(name, %error, "spool: a spare segment cannot be removed");
            }
        } else if name == ID {
            self.id = read_id(disk);
        } else if name == ID_NEW {
            let _ = disk.remove(name);
        } else {
            self.put_aside(disk, name);
        }
        Ok(())
    }

    /// None if nothing in the file can be read by this program.
    fn segment(
        &mut self,
        disk: &dyn Disk,
        name: &str,
        (first_seq, salt): (u64, u32),
        len: u64,
    ) -> io::Result<Option<Segment>> {
        let segment = Segment { first_seq, last_seq: 0, salt, len, created: 0 };
        let file = match disk.open(name) {
            Ok(file) => file,
            // The owner can mend this one, and without the file the sequence would be a guess.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) => return Ok(None),
        };
        let mut page = vec![0; PAGE];
        let check = match file.read_at(&mut page, 0) {
            Ok(read) => SegmentHeader::check(page.get(..read).unwrap_or_default()),
            Err(_) => HeaderCheck::Damaged,
        };
        Ok(match check {
            HeaderCheck::Good(header) if (header.first_seq, header.salt) == (first_seq, salt) => {
                self.header_id = Some(header.id);
                Some(Segment { created: header.created, ..segment })
            }
            HeaderCheck::Foreign(version) => {
                tracing::error!(name, version, "spool: a segment of a newer version is put aside");
                None
            }
            // The name says as much as the header; what counts is whether there are blocks.
            _ => Window::new(file, salt).search(PAGE as u64, len).map(|_| segment),
        })
    }

    fn put_aside(&mut self, disk: &dyn Disk, name: &str) {
        self.quarantined += 1;
        match disk.quarantine(name) {
            Ok(()) => tracing::error!(name, "spool: not readable as part of the spool, moved to quarantine/"),
            Err(error) => tracing::error!(name, %error, "spool: not part of the spool and cannot be moved away"),
        }
    }

    fn settle_id(&self, disk: &dyn Disk, empty: bool) -> u64 {
        // Without segments the sequence begins anew, and must not meet the old names again.
        // The segments are right where the file is not: a new id cannot be written on a full disk.
        let known = self.header_id.or(self.id).filter(|_| !empty);
        let id = known.unwrap_or_else(|| disk.random());
        if self.id != Some(id)
            && let Err(error) = write_id(disk, id)
        {
            tracing::warn!(%error, "spool: the id cannot be written; every segment carries it too");
        }
        id
    }
}

struct Tail {
    next_seq: u64,
    cursor: u64,
    /// The last list of resolved ranges.
    resolved: Vec<Resolved>,
    /// The bytes of the last commit.
    last_commit: Range<u64>,
}

/// Writes the last commit over itself and syncs it.
///
/// The process before may have ended between writing and syncing, or by a failed sync: what can be read now may be
/// in memory only, and counted as clean. Only pages that are written again are sure to reach the disk.
fn settle(disk: &dyn Disk, segment: &Segment, commit: Range<u64>) -> io::Result<()> {
    let file = disk.open(&segment.name())?;
    let mut bytes = vec![0; CHUNK];
    let mut at = commit.start;
    while at < commit.end {
        let len = usize::try_from(commit.end - at).unwrap_or(CHUNK).min(CHUNK);
        let part = bytes.get_mut(..len).unwrap_or_default();
        let read = file.read_at(part, at)?;
        if read == 0 {
            break;
        }
        file.write_at(part.get(..read).unwrap_or_default(), at)?;
        at += read as u64;
    }
    file.sync()
}

/// Reads a whole segment to find where its durable records end.
///
/// A hole is either a torn tail, the part of the last commit that a power cut kept from the disk, or damage in
/// records that were durable. A good block behind it of a *later* commit tells: that commit was begun only after
/// the one with the hole was durable. A torn tail is cut at the hole, damage is left for the reader to count.
fn tail(disk: &dyn Disk, segment: &Segment) -> Tail {
    let first = PAGE as u64..PAGE as u64;
    let mut tail = Tail { next_seq: segment.first_seq, cursor: 0, resolved: Vec::new(), last_commit: first };
    let mut commit = None;
    let Ok(file) = disk.open(&segment.name()) else { return tail };
    let mut page = vec![0; PAGE];
    if let Ok(read) = file.read_at(&mut page, 0)
        && let HeaderCheck::Good(header) = SegmentHeader::check(page.get(..read).unwrap_or_default())
        && header.salt == segment.salt
    {
        tail.cursor = header.cursor;
    }
    let mut window = Window::new(file, segment.salt);
    let mut pos = PAGE as u64;
    loop {
        match window.block(pos, segment.len) {
            Found::Block(header, body) => {
                tail.cursor = tail.cursor.max(header.cursor);
                if header.lists_ranges {
                    tail.resolved = ranges::decode(&body, MAX_SEQ);
                }
                if header.first_seq == tail.next_seq || header.commit_first() > tail.next_seq {
                    tail.next_seq = tail.next_seq.max(header.end_seq());
                    if header.count > 0 && commit != Some(header.commit_first()) {
                        commit = Some(header.commit_first());
                        tail.last_commit.start = pos;
                    }
                    tail.last_commit.end = pos + header.len_on_disk() as u64;
                }
                pos += header.len_on_disk() as u64;
            }
            Found::BadBody(header) => pos += header.len_on_disk() as u64,
            Found::Nothing => match window.search(pos + 8, segment.len) {
                Some(found) => pos = found,
                None => return tail,
            },
        }
    }
}

fn read_id(disk: &dyn Disk) -> Option<u64> {
    let file = disk.open(ID).ok()?;
    let mut text = [0; ID_LEN];
    let read = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..read)?).ok()?;
    u64::from_str_radix(text.strip_suffix('\n')?, 16).ok()
}

fn write_id(disk: &dyn Disk, id: u64) -> io::Result<()> {
    let file = disk.create(ID_NEW, ID_LEN as u64)?;
    file.write_at(format!("{id:016x}\n").as_bytes(), 0)?;
    file.sync()?;
    disk.rename(ID_NEW, ID)?;
    disk.sync()
}
