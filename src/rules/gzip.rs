//! `compress`: bodies as gzip (RFC 1952), one member, without a name or a time: the same body gives the same bytes.

use std::borrow::Cow;
use std::io::Read as _;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use crate::message::{Content, HubMessage};

/// The content encoding.
pub(super) const ENCODING: &str = "gzip";

/// Magic, deflate, no flags, no time, no extra flags, system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A body read back is cut off here: it is for people.
const READ_MAX: u64 = 4 << 20;

/// What compressing needs, kept from one body to the next.
#[derive(Debug, Default)]
pub(super) struct Gzip(Option<Box<Compress>>);

impl Gzip {
    /// Appends a compressed body.
    pub(super) fn push(&mut self, body: &[u8], out: &mut Vec<u8>) {
        let deflate = self.0.get_or_insert_with(|| Box::new(Compress::new(Compression::default(), false)));
        deflate.reset();
        out.extend_from_slice(&HEADER);
        let mut read = 0;
        loop {
            out.reserve(body.len().saturating_sub(read) / 2 + 256);
            let rest = body.get(read..).unwrap_or(&[]);
            // It fails only for a stream that has ended.
            let status = deflate.compress_vec(rest, out, FlushCompress::Finish);
            read = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
            if !matches!(status, Ok(Status::Ok | Status::BufError)) {
                break;
            }
        }
        let mut sum = Crc::new();
        sum.update(body);
        out.extend_from_slice(&sum.sum().to_le_bytes());
        out.extend_from_slice(&sum.amount().to_le_bytes());
    }
}

/// What a compressed body is said to be.
pub(super) fn said_to_be(content: Content<'_>) -> Content<'_> {
    Content::Named { content_type: content.content_type().unwrap_or(""), encoding: ENCODING }
}

/// The body of a message as it was before `compress`.
pub fn plain_body<'m>(message: &HubMessage<'m>) -> Cow<'m, [u8]> {
    if message.content.encoding() != Some(ENCODING) {
        return Cow::Borrowed(message.body);
    }
    let mut plain = Vec::new();
    match flate2::bufread::GzDecoder::new(message.body).take(READ_MAX).read_to_end(&mut plain) {
        Ok(_) => Cow::Owned(plain),
        Err(_) => Cow::Borrowed(message.body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_compressed_is_read_back(bodies in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..300), 0..200usize), 1..4))
        {
            let mut gzip = Gzip::default();
            for (part, times) in bodies {
                let body = part.repeat(times);
                let mut out = b"before".to_vec();
                gzip.push(&body, &mut out);
                let mut read = Vec::new();
                flate2::bufread::GzDecoder::new(&out[6..]).read_to_end(&mut read).unwrap();
                prop_assert_eq!(read, body);
            }
        }
    }
}
