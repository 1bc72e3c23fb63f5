//! The bytes of a segment: header page and blocks, encoded and checked. Pure.
//!
//! The tables are in the module documentation of [`super`].

/// The unit of the page cache; the header fills one, and large commits end on one.
pub(super) const PAGE: usize = 4096;
/// The length of a block header.
pub(super) const BLOCK_HEADER: usize = 48;
/// What one record costs besides its bytes.
pub(super) const RECORD_HEADER: usize = 4;
/// Sequences above this are nonsense; it keeps sums of sequences and counts from overflowing.
pub(super) const MAX_SEQ: u64 = 1 << 62;

/// What is written. Version 1 is the same without lists of resolved ranges.
const VERSION: u32 = 2;
const HEADER_USED: usize = 64;
const HEADER_MAGIC: [u8; 8] = *b"bbspool\n";
const BLOCK_MAGIC: [u8; 4] = *b"bbk\x01";
/// The flag of a block whose body is a list of resolved ranges.
const FLAG_RANGES: u16 = 1;

/// What the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) salt: u32,
    pub(super) first_seq: u64,
    pub(super) cursor: u64,
    pub(super) id: u64,
    pub(super) created: i64,
}

/// The verdict on a header page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderCheck {
    Good(SegmentHeader),
    /// Undamaged, but of a format this program does not know.
    Foreign(u32),
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut rest = [0; HEADER_USED - 16];
        let mut put = Put(&mut rest);
        put.bytes(self.salt.to_le_bytes());
        put.bytes([0; 4]);
        put.bytes(self.first_seq.to_le_bytes());
        put.bytes(self.cursor.to_le_bytes());
        put.bytes(self.id.to_le_bytes());
        put.bytes(self.created.to_le_bytes());
        let mut page = Vec::with_capacity(PAGE);
        page.extend_from_slice(&HEADER_MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&page), &rest);
        page.extend_from_slice(&crc.to_le_bytes());
        page.extend_from_slice(&rest);
        page.resize(PAGE, 0);
        page
    }

    pub(super) fn check(page: &[u8]) -> HeaderCheck {
        Self::read(page).unwrap_or(HeaderCheck::Damaged)
    }

    fn read(page: &[u8]) -> Option<HeaderCheck> {
        let used = page.get(..HEADER_USED)?;
        let (head, rest) = used.split_at_checked(16)?;
        let mut take = Take(head);
        let magic: [u8; 8] = take.bytes()?;
        let version = u32::from_le_bytes(take.bytes()?);
        let crc = u32::from_le_bytes(take.bytes()?);
        let actual = crc32c::crc32c_append(crc32c::crc32c(head.get(..12)?), rest);
        if magic != HEADER_MAGIC || crc != actual {
            return None;
        }
        if !(1..=VERSION).contains(&version) {
            return Some(HeaderCheck::Foreign(version));
        }
        let mut take = Take(rest);
        let salt = u32::from_le_bytes(take.bytes()?);
        take.bytes::<4>()?;
        let header = Self {
            salt,
            first_seq: u64::from_le_bytes(take.bytes()?),
            cursor: u64::from_le_bytes(take.bytes()?),
            id: u64::from_le_bytes(take.bytes()?),
            created: i64::from_le_bytes(take.bytes()?),
        };
        (header.first_seq <= MAX_SEQ && header.cursor <= MAX_SEQ).then_some(HeaderCheck::Good(header))
    }
}

/// What stands before the records of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) body_crc: u32,
    pub(super) body_len: u32,
    pub(super) count: u32,
    /// Records of the same commit that stand before this block.
    pub(super) into_commit: u32,
    pub(super) first_seq: u64,
    pub(super) cursor: u64,
    pub(super) time: i64,
    /// The body is a list of resolved ranges; there are no records in it.
    pub(super) lists_ranges: bool,
}

impl BlockHeader {
    pub(super) fn encode(&self, salt: u32) -> [u8; BLOCK_HEADER] {
        let mut rest = [0; BLOCK_HEADER - 8];
        let mut put = Put(&mut rest);
        put.bytes(self.body_crc.to_le_bytes());
        put.bytes(self.body_len.to_le_bytes());
        put.bytes(u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes());
        put.bytes((if self.lists_ranges { FLAG_RANGES } else { 0 }).to_le_bytes());
        put.bytes(self.into_commit.to_le_bytes());
        put.bytes(self.first_seq.to_le_bytes());
        put.bytes(self.cursor.to_le_bytes());
        put.bytes(self.time.to_le_bytes());
        let mut out = [0; BLOCK_HEADER];
        let mut put = Put(&mut out);
        put.bytes(BLOCK_MAGIC);
        put.bytes(header_crc(salt, &rest).to_le_bytes());
        put.bytes(rest);
        out
    }

    /// The header at the start of `bytes`, if there is an undamaged one of this life of the segment.
    pub(super) fn parse(bytes: &[u8], salt: u32) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<BLOCK_HEADER>()?;
        let mut take = Take(head);
        if take.bytes()? != BLOCK_MAGIC {
            return None;
        }
        let crc = u32::from_le_bytes(take.bytes()?);
        if crc != header_crc(salt, take.0) {
            return None;
        }
        let body_crc = u32::from_le_bytes(take.bytes()?);
        let body_len = u32::from_le_bytes(take.bytes()?);
        let count = u32::from(u16::from_le_bytes(take.bytes()?));
        let flags = u16::from_le_bytes(take.bytes()?);
        let header = Self {
            body_crc,
            body_len,
            count,
            into_commit: u32::from_le_bytes(take.bytes()?),
            first_seq: u64::from_le_bytes(take.bytes()?),
            cursor: u64::from_le_bytes(take.bytes()?),
            time: i64::from_le_bytes(take.bytes()?),
            lists_ranges: flags == FLAG_RANGES,
        };
        let known = flags == 0 || (flags == FLAG_RANGES && count == 0);
        (known && header.first_seq <= MAX_SEQ && header.cursor <= MAX_SEQ).then_some(header)
    }

    /// How far the next block is from the start of this one.
    pub(super) fn len_on_disk(&self) -> usize {
        BLOCK_HEADER + padded(self.body_len())
    }

    pub(super) fn body_len(&self) -> usize {
        usize::try_from(self.body_len).unwrap_or(usize::MAX / 2)
    }

    /// The sequence after the last record of this block.
    pub(super) fn end_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }

    /// The sequence of the first record of the commit this block belongs to.
    pub(super) fn commit_first(&self) -> u64 {
        self.first_seq.saturating_sub(u64::from(self.into_commit))
    }
}

fn header_crc(salt: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), rest)
}

/// Blocks begin at multiples of eight.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// Where the magic of a block stands in `bytes`, at or after `from`, at a multiple of eight.
pub(super) fn find_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let from = padded(from);
    let rest = bytes.get(from..)?;
    let at = rest.chunks(8).position(|chunk| chunk.starts_with(&BLOCK_MAGIC))?;
    Some(from + at * 8)
}

/// The length before the record that begins at `at` in a body, and where its bytes begin.
pub(super) fn record_at(body: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let (len, _) = body.get(at..)?.split_first_chunk::<RECORD_HEADER>()?;
    let start = at + RECORD_HEADER;
    let end = start.checked_add(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    (end <= body.len()).then_some(start..end)
}

/// The name of a live segment.
pub(super) fn segment_name(first_seq: u64, salt: u32) -> String {
    format!("{first_seq:016x}-{salt:08x}.seg")
}

/// The name of a spare that was a segment; everything before `next_seq` is resolved.
pub(super) fn spare_name(next_seq: u64, salt: u32) -> String {
    format!("{next_seq:016x}-{salt:08x}.spare")
}

/// First sequence and salt, if `name` is the name of a live segment.
pub(super) fn parse_segment_name(name: &str) -> Option<(u64, u32)> {
    parse_name(name, ".seg").filter(|&(first_seq, salt)| segment_name(first_seq, salt) == name)
}

/// The sequence in the name of a spare that was a segment.
pub(super) fn parse_spare_name(name: &str) -> Option<u64> {
    parse_name(name, ".spare").filter(|&(next_seq, salt)| spare_name(next_seq, salt) == name).map(|(seq, _)| seq)
}

fn parse_name(name: &str, suffix: &str) -> Option<(u64, u32)> {
    let (seq, salt) = name.strip_suffix(suffix)?.split_once('-')?;
    let seq = u64::from_str_radix(seq, 16).ok().filter(|&seq| seq <= MAX_SEQ)?;
    Some((seq, u32::from_str_radix(salt, 16).ok()?))
}

struct Put<'a>(&'a mut [u8]);

impl Put<'_> {
    fn bytes<const N: usize>(&mut self, bytes: [u8; N]) {
        if let Some((head, rest)) = std::mem::take(&mut self.0).split_first_chunk_mut::<N>() {
            *head = bytes;
            self.0 = rest;
        }
    }
}

struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn block()(body_crc: u32, body_len: u32, count in 0..=65_535u32, into_commit: u32, first_seq in 0..MAX_SEQ, cursor in 0..MAX_SEQ, time: i64, lists_ranges: bool) -> BlockHeader {
            let count = if lists_ranges { 0 } else { count };
            BlockHeader { body_crc, body_len, count, into_commit, first_seq, cursor, time, lists_ranges }
        }
    }

    proptest! {
        #[test]
        fn headers_round_trip_and_every_flipped_bit_is_seen(block in block(), salt: u32, id: u64, created: i64, bit in 0..BLOCK_HEADER * 8, page_bit in 0..HEADER_USED * 8) {
            let mut bytes = block.encode(salt);
            prop_assert_eq!(BlockHeader::parse(&bytes, salt), Some(block));
            prop_assert_eq!(BlockHeader::parse(&bytes, salt ^ 1), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(BlockHeader::parse(&bytes, salt), None);

            let header = SegmentHeader { salt, first_seq: block.first_seq, cursor: block.cursor, id, created };
            let mut page = header.encode();
            prop_assert_eq!(page.len(), PAGE);
            prop_assert_eq!(SegmentHeader::check(&page), HeaderCheck::Good(header));
            page[page_bit / 8] ^= 1 << (page_bit % 8);
            prop_assert_eq!(SegmentHeader::check(&page), HeaderCheck::Damaged);
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes: Vec<u8>, at: usize, salt: u32, name in ".{0,40}") {
            prop_assert_eq!(BlockHeader::parse(&bytes, salt), None);
            prop_assert_eq!(SegmentHeader::check(&bytes), HeaderCheck::Damaged);
            if let Some(range) = record_at(&bytes, at % 64) {
                prop_assert!(bytes.get(range).is_some());
            }
            let _ = find_magic(&bytes, at % 64);
            prop_assert_eq!(parse_segment_name(&name), None);
        }
    }

    #[test]
    fn names() {
        for (name, expect) in [
            ("0000000000000001-0000abcd.seg", Some((1, 0xabcd))),
            ("0000000000000001-0000ABCD.seg", None),
            ("ffffffffffffffff-0000abcd.seg", None),
            ("1-abcd.seg", None),
            ("0000000000000001-0000abcd.spare", None),
            ("+000000000000001-0000abcd.seg", None),
        ] {
            assert_eq!(parse_segment_name(name), expect, "{name}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut page = SegmentHeader { salt: 1, first_seq: 1, cursor: 0, id: 1, created: 0 }.encode();
        page[8] = 3;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&page[..12]), &page[16..HEADER_USED]);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::check(&page), HeaderCheck::Foreign(3));
    }
}
