//! Both neighbours of the broker: a client whose bytes are the input, and an ingest with every kind of answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use brownbridge::broker::{self, Offer, Sequences};
use brownbridge::message::Publish;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;

/// CONNECT of MQTT 3.1, 3.1.1 with a will, 3.1.1 without an id, 5 with a receive maximum,
/// 5 with a will, 5 without an id, 3.1.1 with a session that lasts.
const CONNECTS: [&[u8]; 8] = [
    b"",
    b"\x10\x0f\0\x06MQIsdp\x03\x02\0\x0a\0\x01a",
    b"\x10\x13\0\x04MQTT\x04\x0e\0\x0a\0\x01a\0\x01w\0\x01x",
    b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0",
    b"\x10\x11\0\x04MQTT\x05\x02\0\x0a\x03\x21\0\x02\0\x01b",
    b"\x10\x15\0\x04MQTT\x05\x06\0\x0a\0\0\x01a\0\0\x01w\0\x01x",
    b"\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0\0",
    b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01a",
];

/// A client's end of the stream.
pub struct Client<'i> {
    input: io::Chain<&'i [u8], &'i [u8]>,
    /// Most bytes of one read or write; 0 does not stop at pieces.
    piece: usize,
    /// Every second turn the stream is not ready.
    ready: bool,
    turns: usize,
    len: usize,
    received: Vec<u8>,
}

impl<'i> Client<'i> {
    pub fn new(connect: u8, cut: u8, bytes: &'i [u8]) -> Self {
        let connect = CONNECTS[usize::from(connect)];
        let len = connect.len() + bytes.len();
        let piece = if cut.is_multiple_of(4) { usize::MAX } else { usize::from(cut) };
        Self { input: io::Read::chain(connect, bytes), piece, ready: true, turns: 0, len, received: Vec::new() }
    }

    /// Checks what the broker wrote and how long it took.
    pub fn check(&self) {
        let mut rest = &self.received[..];
        let mut packets = 0;
        while let [first, after @ ..] = rest {
            let digits = after.iter().position(|byte| byte & 0x80 == 0).expect("the length ends") + 1;
            assert!(digits <= 4);
            let len = after[..digits].iter().rev().fold(0, |len, byte| len << 7 | usize::from(byte & 0x7f));
            rest = after[digits..].get(len..).expect("a whole packet");
            let kind = first >> 4;
            assert!(matches!(kind, 2..=7 | 9 | 11 | 13 | 14), "a broker does not send {first:#x}");
            assert_eq!(kind == 2, packets == 0, "CONNACK comes first and once");
            packets += 1;
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        self.turns += 1;
        // Every turn reads, writes or waits once; a packet of two bytes is answered by at most a retained message.
        assert!(self.turns < 10_000 + 100 * (self.len + self.received.len()), "the broker does not come to an end");
        self.ready = !self.ready || self.piece == usize::MAX;
        if !self.ready {
            cx.waker().wake_by_ref();
        }
        self.ready
    }
}

impl AsyncRead for Client<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.turn(cx) {
            return Poll::Pending;
        }
        let len = buf.remaining().min(self.piece);
        let n = io::Read::read(&mut self.input, buf.initialize_unfilled_to(len))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.turn(cx) {
            return Poll::Pending;
        }
        let len = bytes.len().min(self.piece);
        self.received.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Takes every publish: at once, after its commit, after another write, or not before it was asked again.
#[derive(Default)]
pub struct Ingest {
    asked: AtomicU64,
    durable: Arc<[AtomicU64; 2]>,
}

impl broker::Ingest for Ingest {
    type Scratch = ();

    fn scratch(&self) {}

    fn offer(&self, (): &mut (), publish: &Publish<'_>) -> Offer {
        brownbridge::topic::check_name(publish.topic).expect("the broker offers valid topics only");
        let asked = self.asked.fetch_add(1, Relaxed) + 1;
        match asked % 5 {
            0 => Offer::Full,
            1 => Offer::Taken(Sequences::NONE),
            2 => Offer::TakenAfter(Box::pin(yield_now()), Sequences::of(0, asked)),
            3 => Offer::Taken(Sequences::of(0, asked).and(1, asked)),
            _ => Offer::Taken(Sequences::of(1, asked)),
        }
    }

    async fn room(&self, (): &()) {
        yield_now().await;
    }

    type Commits = Commits;

    fn commits(&self) -> Commits {
        Commits(self.durable.clone())
    }
}

/// A disk that has what was asked for one turn later.
pub struct Commits(Arc<[AtomicU64; 2]>);

impl broker::Commits for Commits {
    fn cover(&mut self, sequences: Sequences) -> bool {
        self.0.iter().zip(sequences.each()).all(|(durable, sequence)| sequence <= durable.load(Relaxed))
    }

    async fn reach(&mut self, sequences: Sequences) {
        for (durable, sequence) in self.0.iter().zip(sequences.each()) {
            yield_now().await;
            durable.fetch_max(sequence, Relaxed);
        }
    }
}
