//! MQTT over WebSocket (section 6 of the MQTT standards): a byte stream inside binary messages.
//!
//! [`server`] answers a client's HTTP request, [`client`] makes one; the frames are `tungstenite`'s. For both ends:
//! - Only binary frames carry MQTT ([MQTT-6.0.0-1]); a text frame ends the connection.
//! - A message may hold a part of a packet or several ([MQTT-6.0.0-2]): bounds of messages mean nothing. A message
//!   of up to the largest packet and 64 KiB more is taken, in one frame or in many.
//! - The subprotocol is `mqtt` ([MQTT-6.0.0-3], [MQTT-6.0.0-4]).
//! - Ping is answered, also in the middle of a message; a pong nobody asked for is ignored.
//!
//! It opens no socket and knows no TLS: the stream below is the caller's.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::message::excerpt;

pub mod client;
pub mod server;

/// Bytes of further packets a message may hold beside a largest one.
const JOINED: usize = 64 * 1024;
/// Largest message written; more output goes into several.
const WRITE_MAX: usize = 64 * 1024;
/// Memory of an idle connection's read buffer.
const READ_BUFFER: usize = 2 * 1024;

/// The bytes in and out of a WebSocket's binary messages.
///
/// `tungstenite` answers ping and close by itself, while it is read. What is written waits in its buffer
/// only while the socket takes no more, and nothing more is taken until that is gone.
#[derive(Debug)]
pub struct WebSocket<S> {
    frames: WebSocketStream<S>,
    /// The rest of the message being read.
    unread: Bytes,
    goodbye: Arc<OnceLock<Goodbye>>,
}

/// What the other side said when it closed the WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    /// The close code; `None` where it gave none.
    pub code: Option<u16>,
    /// Its reason, as it wrote it.
    pub reason: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The server's end of an upgraded connection.
    pub async fn server(stream: S, max_packet_size: usize) -> Self {
        let config = Some(config(max_packet_size));
        Self::new(WebSocketStream::from_raw_socket(stream, Role::Server, config).await)
    }

    fn new(frames: WebSocketStream<S>) -> Self {
        Self { frames, unread: Bytes::new(), goodbye: Arc::default() }
    }

    /// What the other side will say when it closes, to look at from elsewhere. It is there before the stream ends, and
    /// never where it hangs up without a word.
    pub fn goodbye(&self) -> Arc<OnceLock<Goodbye>> {
        Arc::clone(&self.goodbye)
    }
}

/// Writes each message at once, and reads none larger than a largest packet with a bit of company.
fn config(max_packet_size: usize) -> WebSocketConfig {
    let max = max_packet_size.saturating_add(JOINED);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(max))
        .max_frame_size(Some(max))
}

impl Goodbye {
    fn of(frame: Option<CloseFrame>) -> Self {
        match frame {
            None => Self { code: None, reason: String::new() },
            Some(frame) => Self { code: Some(frame.code.into()), reason: frame.reason.as_str().to_owned() },
        }
    }

    /// What the code means, where it is one of RFC 6455 or its register.
    fn means(&self) -> Option<&'static str> {
        Some(match self.code? {
            1000 => "it is done",
            1001 => "it goes away: the server, or something on the way, ends or restarts",
            1002 => "it dislikes the frames: something on the way may have changed them",
            1003 => "it does not take binary data: is it an MQTT server?",
            1007 => "it could not read the data: something on the way may have changed it",
            1008 => "a policy of the server or of something on the way forbids it",
            1009 => "a message is too big for it, or for something on the way",
            1011 => "an error inside the server",
            1012 => "the server restarts",
            1013 => "the server is overloaded: it is tried again later",
            1014 => "something on the way got no good answer from the server",
            _ => return None,
        })
    }
}

impl fmt::Display for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            None => f.write_str("no close code")?,
            Some(code) => write!(f, "close code {code}")?,
        }
        if !self.reason.is_empty() {
            write!(f, " {:?}", excerpt(&self.reason))?;
        }
        match self.means() {
            None => Ok(()),
            Some(means) => write!(f, ": {means}"),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() && self.goodbye.get().is_none() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Ok(Message::Close(frame))) => {
                    // Nothing follows a close frame, so the stream ends with it. Who sent it may let the TCP connection
                    // stand for long, and has the answer as far as it goes out now.
                    let _ = (self.goodbye.set(Goodbye::of(frame)), Pin::new(&mut self.frames).poll_flush(cx));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(as_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(as_io)?;
        let part = bytes.copy_to_bytes(bytes.len().min(WRITE_MAX));
        let length = part.len();
        Pin::new(&mut self.frames).start_send(Message::Binary(part)).map_err(as_io)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(as_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_close(cx).map_err(as_io)
    }
}

fn as_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
