//! MQTT over WebSocket (section 6 of the MQTT standards).
//!
//! The HTTP request is answered by `hyper`; the frames are `tungstenite`'s. What follows is a byte stream:
//! - Only binary frames carry MQTT ([MQTT-6.0.0-1]); a text frame ends the connection.
//! - A message may hold a part of a packet or several ([MQTT-6.0.0-2]): bounds of messages mean nothing. A message
//!   of up to `max_packet_size` and [`JOINED`] more is taken.
//! - The subprotocol is `mqtt` ([MQTT-6.0.0-3], [MQTT-6.0.0-4]), or `mqttv3.1` as old clients say. Any path will do.
//! - A request that is no such upgrade gets a plain answer with the reason: 426, or 400.
//! - `Origin` is not looked at: a page of any site that a browser on the plant network opens can connect, as can
//!   any other program there. The fence of the listener is the network.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use futures_util::{Sink, Stream};

use super::listen::Refusal;

/// Bytes of further packets a message may hold beside a largest one.
const JOINED: usize = 64 * 1024;
/// Largest message written; more output goes into several.
const WRITE_MAX: usize = 64 * 1024;
/// Most bytes of a request's head.
const HEAD_MAX: usize = 8 * 1024;
/// Memory of an idle connection's read buffer.
const READ_BUFFER: usize = 2 * 1024;
/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers one HTTP request; where it asked for MQTT over WebSocket, the stream that follows.
pub(super) async fn upgrade(
    stream: TcpStream,
    max_packet_size: usize,
) -> Result<WebSocket<TokioIo<Upgraded>>, Refusal> {
    let refusal = |detail: String| Refusal { reason: "websocket_handshake", detail };
    let outcome = Arc::new(Mutex::new(None));
    let taken = Arc::clone(&outcome);
    let service = service_fn(move |request| {
        let (answer, next) = answer(request);
        *taken.lock() = Some(next);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    let next = outcome.lock().take();
    let next = match (next, served) {
        (Some(next), Ok(())) => next.map_err(refusal)?,
        (None, Ok(())) => return Err(Refusal::PROBED),
        (_, Err(error)) => return Err(refusal(error.to_string())),
    };
    let upgraded = next.await.map_err(|error| refusal(error.to_string()))?;
    Ok(WebSocket::new(TokioIo::new(upgraded), max_packet_size).await)
}

/// The answer to a request, and the stream that will follow it or why there is none.
fn answer(mut request: Request<Incoming>) -> (Response<Full<Bytes>>, Result<OnUpgrade, String>) {
    let refused = |status, why: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        if status == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        (response, Err(why.to_owned()))
    };
    let headers = request.headers();
    let upgrades = names(headers, header::UPGRADE).any(|name| name.eq_ignore_ascii_case("websocket"))
        && names(headers, header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
    if !upgrades || *request.method() != Method::GET {
        return refused(StatusCode::UPGRADE_REQUIRED, "this port speaks MQTT over WebSocket only");
    }
    if !names(headers, header::SEC_WEBSOCKET_VERSION).any(|version| version == "13") {
        return refused(StatusCode::UPGRADE_REQUIRED, "the WebSocket version must be 13");
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return refused(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing");
    };
    let accept = derive_accept_key(key.as_bytes());
    let protocol = names(headers, header::SEC_WEBSOCKET_PROTOCOL)
        .find_map(|name| ["mqtt", "mqttv3.1"].into_iter().find(|known| *known == name));
    let (Some(protocol), Ok(accept)) = (protocol, HeaderValue::from_str(&accept)) else {
        return refused(StatusCode::BAD_REQUEST, "the WebSocket subprotocol must be mqtt");
    };
    let next = hyper::upgrade::on(&mut request);
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    (response, Ok(next))
}

/// The comma-separated names of all headers with this name.
fn names(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim)).collect::<Vec<_>>().into_iter()
}

/// The bytes in and out of a WebSocket's binary messages.
///
/// `tungstenite` answers ping and close by itself, while it is read. What is written waits in its buffer
/// only while the socket takes no more, and nothing more is taken until that is gone.
pub(super) struct WebSocket<S> {
    frames: WebSocketStream<S>,
    /// The rest of the message being read.
    unread: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The server's end of an upgraded connection.
    pub(super) async fn new(stream: S, max_packet_size: usize) -> Self {
        let max = max_packet_size.saturating_add(JOINED);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max))
            .max_frame_size(Some(max));
        let frames = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Self { frames, unread: Bytes::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
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
