//! The bytes of a shelf: its header, its records, and what damage looks like. Pure.

use bytes::Bytes;

use super::{Place, Placed, Shelved};

pub(super) const MAGIC: &[u8; 8] = b"bbshelf\x01";
/// Records begin here.
pub(super) const HEADER: u64 = 512;
/// Places of the two cursors; they are written in turn.
const SLOTS: [usize; 2] = [384, 448];
const SLOT: usize = 20;
/// Most bytes of a device id.
pub(super) const MAX_ID: usize = 256;
const RECORD_MAGIC: &[u8; 4] = b"bbr\x01";
/// Magic, length, checksum.
const RECORD_HEADER: usize = 12;
/// Spool, sequence, time, lane.
const FIXED: usize = 25;
/// Longer than any record there is.
const MAX_BODY: usize = 8 << 20;

/// The first bytes of a shelf.
pub(super) fn header(id: &str, salt: u32) -> Vec<u8> {
    let mut out = vec![0; HEADER as usize];
    let mut start = MAGIC.to_vec();
    start.extend_from_slice(&salt.to_le_bytes());
    start.extend_from_slice(&u16::try_from(id.len()).unwrap_or(0).to_le_bytes());
    start.extend_from_slice(id.as_bytes());
    start.extend_from_slice(&crc32c::crc32c(&start).to_le_bytes());
    for (to, from) in out.iter_mut().zip(start) {
        *to = from;
    }
    out
}

/// The device, the salt and the cursor of a header; `None` where it is none.
pub(super) fn read_header(bytes: &[u8]) -> Option<(String, u32, Cursor)> {
    let salt = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
    let length = usize::from(u16::from_le_bytes(bytes.get(12..14)?.try_into().ok()?));
    let covered = bytes.get(..14 + length).filter(|covered| covered.starts_with(MAGIC) && length <= MAX_ID)?;
    let sum = u32::from_le_bytes(bytes.get(14 + length..18 + length)?.try_into().ok()?);
    let id = std::str::from_utf8(covered.get(14..)?).ok().filter(|_| crc32c::crc32c(covered) == sum)?;
    let slots = SLOTS.iter().filter_map(|at| Cursor::read(bytes.get(*at..*at + SLOT)?));
    let cursor = slots.max_by_key(|cursor| cursor.number).unwrap_or_default();
    Some((id.to_owned(), salt, cursor))
}

/// Everything before it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) at: u64,
    /// Counts up with every writing.
    pub(super) number: u64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { at: HEADER, number: 0 }
    }
}

impl Cursor {
    /// Where the cursor is written, and how.
    pub(super) fn write(self) -> (u64, [u8; SLOT]) {
        let slot = SLOTS.get(usize::from(self.number % 2 == 1)).map_or(0, |at| *at as u64);
        let mut out = [0; SLOT];
        let fields = self.number.to_le_bytes().into_iter().chain(self.at.to_le_bytes());
        out.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        let sum = crc32c::crc32c(out.get(..16).unwrap_or_default()).to_le_bytes();
        out.iter_mut().skip(16).zip(sum).for_each(|(to, from)| *to = from);
        (slot, out)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let sum = u32::from_le_bytes(bytes.get(16..20)?.try_into().ok()?);
        let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let at = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
        (number > 0 && crc32c::crc32c(bytes.get(..16)?) == sum && at >= HEADER).then_some(Self { at, number })
    }
}

/// The checksum of a record. The salt and the place are in it, so that no message can hold a record that would be
/// taken for one.
fn checksum((salt, at): (u32, u64), length: u32, body: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(salt, &at.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(sum, &length.to_le_bytes()), body)
}

/// Appends a record to what will be written at `base`.
pub(super) fn push(out: &mut Vec<u8>, (salt, base): (u32, u64), shelved: &Shelved, now: i64) {
    let start = out.len();
    let length = u32::try_from(FIXED + shelved.record.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(RECORD_MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&shelved.spool.to_le_bytes());
    out.extend_from_slice(&shelved.sequence.to_le_bytes());
    out.extend_from_slice(&now.to_le_bytes());
    out.push(shelved.lane);
    out.extend_from_slice(&shelved.record);
    let body = out.get(start + RECORD_HEADER..).unwrap_or_default();
    let sum = checksum((salt, base + start as u64), length, body);
    let place = out.iter_mut().skip(start + 8);
    place.zip(sum.to_le_bytes()).for_each(|(to, from)| *to = from);
}

/// What stands at a place.
pub(super) enum Found {
    Record {
        placed: Placed,
        /// When it was put here, milliseconds since 1970.
        since: i64,
    },
    /// Nothing that can be read before this place, where a record begins again.
    Damage(usize),
    /// More bytes are needed to say.
    Cut,
    /// No record stands here and none behind.
    End,
}

/// Looks at `at`; `base` is the place of the first byte in the file.
pub(super) fn look(bytes: &Bytes, at: usize, (salt, base): (u32, u64)) -> Found {
    match record(bytes, at, (salt, base)) {
        Ok(found) => found,
        Err(cut) => {
            let mut from = at + 1;
            while let Some(next) = bytes.get(from..).and_then(|rest| memchr::memmem::find(rest, RECORD_MAGIC)) {
                if matches!(record(bytes, from + next, (salt, base)), Ok(Found::Record { .. })) {
                    return Found::Damage(from + next);
                }
                from += next + 1;
            }
            if cut { Found::Cut } else { Found::End }
        }
    }
}

/// The record at a place; `Err` says whether more bytes could make one of it.
fn record(bytes: &Bytes, at: usize, (salt, base): (u32, u64)) -> Result<Found, bool> {
    let field = |from: usize, to: usize| bytes.get(at + from..at + to);
    let Some(head) = field(0, RECORD_HEADER) else { return Err(true) };
    let number = |from: usize| head.get(from..from + 4).and_then(|n| n.try_into().ok()).map_or(0, u32::from_le_bytes);
    let length = number(4) as usize;
    if !head.starts_with(RECORD_MAGIC) || !(FIXED..=MAX_BODY).contains(&length) {
        return Err(false);
    }
    let end = RECORD_HEADER + length;
    let Some(body) = field(RECORD_HEADER, end) else { return Err(true) };
    if checksum((salt, base + at as u64), number(4), body) != number(8) {
        return Err(false);
    }
    let long = |from: usize| body.get(from..from + 8).and_then(|n| n.try_into().ok()).map_or(0, u64::from_le_bytes);
    let record = bytes.slice(at + RECORD_HEADER + FIXED..at + end);
    let lane = body.get(24).copied().unwrap_or(0);
    let shelved = Shelved { spool: long(0), sequence: long(8), lane, record };
    let place = Place { salt, at: base + at as u64, next: base + (at + end) as u64 };
    let placed = Placed { place, shelved };
    Ok(Found::Record { placed, since: long(16).cast_signed() })
}

/// Bytes a record takes.
pub(super) fn size(shelved: &Shelved) -> u64 {
    (RECORD_HEADER + FIXED + shelved.record.len()) as u64
}
