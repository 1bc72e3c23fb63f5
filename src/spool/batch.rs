//! The pending batch: records are copied once, straight into the form the disk gets.

use super::format::{BLOCK_HEADER, BlockHeader, PAGE, RECORD_HEADER, padded};
use super::ranges::{self, RANGE_LEN, Range};

/// A batch this long ends on a page, so that no later commit rewrites a page it filled.
const PAD_FROM: usize = 12 * 1024;
/// A buffer that grew beyond this in a burst shrinks to it when the burst is over.
const KEEP: usize = 512 * 1024;
/// What the count of a block header can say.
const MAX_COUNT: u32 = u16::MAX as u32;

/// One commit in the making. The buffers are kept from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    buf: Vec<u8>,
    blocks: Vec<Block>,
    block_size: usize,
    first_seq: u64,
    count: u64,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    at: usize,
    body_len: usize,
    count: u32,
    time: i64,
    lists_ranges: bool,
}

/// Where and with what a batch is about to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seal<'a> {
    /// Of the segment.
    pub(super) salt: u32,
    /// For the block headers.
    pub(super) cursor: u64,
    /// Resolved ranges to write with it, where there is room.
    pub(super) ranges: &'a [Range],
    /// The place in the segment.
    pub(super) at: usize,
    /// Bytes of the segment from there.
    pub(super) room: usize,
}

impl Batch {
    pub(super) fn new(block_size: usize) -> Self {
        Self { block_size, ..Self::default() }
    }

    /// Empties the batch; its first record will have `first_seq`.
    pub(super) fn restart(&mut self, first_seq: u64) {
        if self.buf.capacity() > KEEP && self.buf.len() < KEEP / 4 {
            self.buf.shrink_to(KEEP);
        }
        self.buf.clear();
        self.blocks.clear();
        self.first_seq = first_seq;
        self.count = 0;
    }

    pub(super) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The length on disk, without what [`seal`](Self::seal) adds to end on a page.
    pub(super) fn len(&self) -> usize {
        padded(self.buf.len())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// The time of the last block.
    pub(super) fn time(&self) -> i64 {
        self.blocks.last().map_or(0, |block| block.time)
    }

    /// The length on disk once `records` are pushed.
    pub(super) fn len_with<'r>(&self, records: impl Iterator<Item = &'r [u8]>) -> usize {
        let (mut len, mut body, mut count) = match self.blocks.last() {
            Some(block) => (self.buf.len(), block.body_len, block.count),
            None => (0, usize::MAX, 0),
        };
        for record in records {
            let cost = RECORD_HEADER.saturating_add(record.len());
            if body.saturating_add(cost) > self.block_size && (count > 0 || body == usize::MAX) || count == MAX_COUNT {
                (len, body, count) = (padded(len).saturating_add(BLOCK_HEADER), 0, 0);
            }
            len = len.saturating_add(cost);
            body = body.saturating_add(cost);
            count += 1;
        }
        padded(len.min(usize::MAX / 2))
    }

    /// Appends one record; `now` is asked when a block begins.
    pub(super) fn push(&mut self, record: &[u8], now: impl FnOnce() -> i64) {
        let cost = RECORD_HEADER + record.len();
        let fits = self.blocks.last().is_some_and(|block| {
            block.count == 0 || (block.body_len + cost <= self.block_size && block.count < MAX_COUNT)
        });
        if !fits {
            self.begin_block(now());
        }
        if let Some(block) = self.blocks.last_mut() {
            let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
            self.buf.extend_from_slice(&len.to_le_bytes());
            self.buf.extend_from_slice(record);
            block.body_len += cost;
            block.count += 1;
            self.count += 1;
        }
    }

    /// Writes the block headers for a segment. May be repeated for another. Says whether the ranges found room.
    pub(super) fn seal(&mut self, seal: Seal<'_>) -> bool {
        while self.blocks.last().is_some_and(|block| block.count == 0) {
            let end = self.blocks.pop().map_or(0, |block| block.at);
            self.buf.truncate(end);
        }
        self.buf.resize(padded(self.buf.len()), 0);
        let listed = self.buf.len() + list_len(seal.ranges.len()) <= seal.room;
        if listed && !seal.ranges.is_empty() {
            self.list(seal.ranges);
        }
        if self.buf.len() >= PAD_FROM {
            self.pad_to_page(seal.at, seal.room);
        }
        let mut into_commit = 0;
        for block in &self.blocks {
            let Some((head, rest)) =
                self.buf.get_mut(block.at..).and_then(|bytes| bytes.split_first_chunk_mut::<BLOCK_HEADER>())
            else {
                continue;
            };
            let header = BlockHeader {
                body_crc: crc32c::crc32c(rest.get(..block.body_len).unwrap_or_default()),
                body_len: u32::try_from(block.body_len).unwrap_or(u32::MAX),
                count: block.count,
                into_commit,
                first_seq: self.first_seq + u64::from(into_commit),
                cursor: seal.cursor,
                time: block.time,
                lists_ranges: block.lists_ranges,
            };
            *head = header.encode(seal.salt);
            into_commit += block.count;
        }
        listed
    }

    fn list(&mut self, list: &[Range]) {
        self.begin_block(self.time());
        ranges::encode(list, &mut self.buf);
        if let Some(block) = self.blocks.last_mut() {
            block.body_len = list.len() * RANGE_LEN;
            block.lists_ranges = true;
        }
    }

    fn begin_block(&mut self, time: i64) {
        self.buf.resize(padded(self.buf.len()), 0);
        self.blocks.push(Block { at: self.buf.len(), body_len: 0, count: 0, time, lists_ranges: false });
        self.buf.resize(self.buf.len() + BLOCK_HEADER, 0);
    }

    /// Ends the batch on a page with an empty block, if the segment has that much room.
    fn pad_to_page(&mut self, at: usize, room: usize) {
        let end = at + self.buf.len();
        if end.is_multiple_of(PAGE) {
            return;
        }
        let target = (end + BLOCK_HEADER).next_multiple_of(PAGE);
        let len = target - end;
        if self.buf.len() + len > room {
            return;
        }
        self.begin_block(self.time());
        if let Some(block) = self.blocks.last_mut() {
            block.body_len = len - BLOCK_HEADER;
        }
        self.buf.resize(target - at, 0);
    }
}

/// The length of a block that lists so many ranges.
pub(super) fn list_len(ranges: usize) -> usize {
    BLOCK_HEADER + ranges * RANGE_LEN
}

/// A block without records: it carries the cursor and the resolved ranges when there are no records for them to
/// ride with.
pub(super) fn cursor_block(salt: u32, next_seq: u64, (cursor, list): (u64, &[Range]), time: i64) -> Vec<u8> {
    let mut body = Vec::with_capacity(list.len() * RANGE_LEN);
    ranges::encode(list, &mut body);
    let header = BlockHeader {
        body_crc: crc32c::crc32c(&body),
        body_len: u32::try_from(body.len()).unwrap_or(u32::MAX),
        count: 0,
        into_commit: 0,
        first_seq: next_seq,
        cursor,
        time,
        lists_ranges: !list.is_empty(),
    };
    let mut block = header.encode(salt).to_vec();
    block.append(&mut body);
    block
}

#[cfg(test)]
mod tests {
    use super::super::format::record_at;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_pushed_is_in_the_blocks_and_the_length_was_known(
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..200),
            block_size in 64..4096usize, list in 0..3u64, at in (1..1000usize).prop_map(|n| n * 8), salt: u32,
        ) {
            let mut batch = Batch::new(block_size);
            batch.restart(7);
            let mut expect_len = 0;
            for publish in records.chunks(3) {
                expect_len = batch.len_with(publish.iter().map(Vec::as_slice));
                for record in publish {
                    batch.push(record, || 5);
                }
                prop_assert_eq!(batch.len(), expect_len);
            }
            for salt in [salt, !salt] {
                let ranges: Vec<Range> = (0..list).map(|n| (n * 10 + 1, n * 10 + 5)).collect();
                let listed = batch.seal(Seal { salt, cursor: 3, ranges: &ranges, at, room: 1 << 20 });
                prop_assert!(listed);
                let most = expect_len + list_len(ranges.len()) + PAGE + BLOCK_HEADER;
                prop_assert!(batch.len() >= expect_len && batch.len() <= most);
                prop_assert!(batch.len() < PAD_FROM || (at + batch.len()).is_multiple_of(PAGE));
                let (mut pos, mut seq, mut read, mut listed) = (0, 7, Vec::new(), Vec::new());
                while pos < batch.len() {
                    let header = BlockHeader::parse(&batch.bytes()[pos..], salt).expect("a block");
                    prop_assert_eq!((header.first_seq, header.commit_first(), header.cursor, header.time), (seq, 7, 3, 5));
                    let body = &batch.bytes()[pos + BLOCK_HEADER..][..header.body_len()];
                    prop_assert_eq!(crc32c::crc32c(body), header.body_crc);
                    if header.lists_ranges {
                        listed = ranges::decode(body, 100);
                    }
                    let mut record = 0;
                    for _ in 0..header.count {
                        let range = record_at(body, record).expect("a record");
                        record = range.end;
                        read.push(body[range].to_vec());
                    }
                    seq = header.end_seq();
                    pos += header.len_on_disk();
                }
                prop_assert_eq!(&read, &records);
                prop_assert_eq!(&listed, &ranges);
            }
        }
    }
}
