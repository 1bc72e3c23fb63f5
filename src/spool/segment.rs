//! A look into one segment through a window: block by block, and over damage to the next good block.

use std::sync::Arc;

use bytes::Bytes;

use super::disk::DiskFile;
use super::format::{BLOCK_HEADER, BlockHeader, PAGE, find_magic};

/// Bytes asked of the disk at once; a longer block is read whole.
const CHUNK: usize = 512 * 1024;

/// What stands at a place of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A block and its body.
    Block(BlockHeader, Bytes),
    /// The header is good and tells what was lost with the body.
    BadBody(BlockHeader),
    /// No block of this life of the segment.
    Nothing,
}

/// A file and the part of it that was read last.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    salt: u32,
    at: u64,
    chunk: Bytes,
}

impl Window {
    pub(super) fn new(file: Arc<dyn DiskFile>, salt: u32) -> Self {
        Self { file, salt, at: 0, chunk: Bytes::new() }
    }

    /// The block at `pos`, not looking at or past `end`.
    pub(super) fn block(&mut self, pos: u64, end: u64) -> Found {
        match self.look(pos, end, false) {
            found @ Found::Block(..) => found,
            // What was read may be older than the disk, or a cable's fault: damage is believed the second time.
            _ => self.look(pos, end, true),
        }
    }

    /// The place of the next good block header at or after `pos`.
    pub(super) fn search(&mut self, mut pos: u64, end: u64) -> Option<u64> {
        while pos < end {
            self.load(pos, end, BLOCK_HEADER, false);
            let start = self.offset(pos)?;
            let Some(at) = find_magic(&self.chunk, start) else {
                pos = self.at + self.chunk.len() as u64 / 8 * 8;
                if self.chunk.len() < start + BLOCK_HEADER {
                    return None;
                }
                continue;
            };
            let found = self.at + at as u64;
            if found + BLOCK_HEADER as u64 > end {
                return None;
            }
            if at + BLOCK_HEADER > self.chunk.len() {
                // The header is cut by the end of the window: move the window.
                if self.load(found, end, BLOCK_HEADER, true) < BLOCK_HEADER {
                    return None;
                }
                pos = found;
                continue;
            }
            if self.chunk.get(at..).is_some_and(|bytes| BlockHeader::parse(bytes, self.salt).is_some()) {
                return Some(found);
            }
            pos = found + 8;
        }
        None
    }

    fn look(&mut self, pos: u64, end: u64, fresh: bool) -> Found {
        if self.load(pos, end, BLOCK_HEADER, fresh) < BLOCK_HEADER {
            return Found::Nothing;
        }
        let header = self.offset(pos).and_then(|at| BlockHeader::parse(self.chunk.get(at..)?, self.salt));
        let Some(header) = header else { return Found::Nothing };
        let whole = BLOCK_HEADER + header.body_len();
        if pos + whole as u64 > end || self.load(pos, end, whole, false) < whole {
            return Found::BadBody(header);
        }
        let Some(at) = self.offset(pos).filter(|at| at + whole <= self.chunk.len()) else {
            return Found::BadBody(header);
        };
        let body = self.chunk.slice(at + BLOCK_HEADER..at + whole);
        if crc32c::crc32c(&body) == header.body_crc { Found::Block(header, body) } else { Found::BadBody(header) }
    }

    /// Makes sure that `need` bytes from `pos` are in the window if the file has them; says how many there are.
    fn load(&mut self, pos: u64, end: u64, need: usize, fresh: bool) -> usize {
        let have = self.offset(pos).map_or(0, |at| self.chunk.len() - at);
        if have >= need && !fresh {
            return have;
        }
        let left = usize::try_from(end.saturating_sub(pos)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(need.max(CHUNK))];
        let read = match self.file.read_at(&mut bytes, pos) {
            Ok(read) => read,
            Err(_) => self.read_pages(&mut bytes, pos),
        };
        bytes.truncate(read);
        self.chunk = Bytes::from(bytes);
        self.at = pos;
        self.chunk.len()
    }

    /// Page by page, so that a bad sector costs its own page; what cannot be read stays zero and is no block.
    fn read_pages(&self, bytes: &mut [u8], pos: u64) -> usize {
        let mut at = pos;
        for part in bytes.chunks_mut(PAGE) {
            if self.file.read_at(part, at).is_err() {
                part.fill(0);
            }
            at += part.len() as u64;
        }
        bytes.len()
    }

    fn offset(&self, pos: u64) -> Option<usize> {
        let at = usize::try_from(pos.checked_sub(self.at)?).ok()?;
        (at <= self.chunk.len()).then_some(at)
    }
}
