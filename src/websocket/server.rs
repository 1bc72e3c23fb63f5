//! The server's side: the answer to a request that asks for MQTT over WebSocket.
//!
//! The HTTP request is answered by `hyper`.
//! - The subprotocol is `mqtt`, or `mqttv3.1` as old clients say. Any path will do here; who minds looks at it first.
//! - A request that is no such upgrade gets a plain answer with the reason: 426, or 400.
//! - `Origin` is not looked at: a page of any site that a browser on the plant network opens can connect, as can
//!   any other program there. The fence of a listener is the network.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::WebSocket;

/// Most bytes of a request's head.
const HEAD_MAX: usize = 8 * 1024;
/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's end of a WebSocket.
pub type Accepted = WebSocket<TokioIo<Upgraded>>;

/// Why no WebSocket follows.
#[derive(Debug)]
pub enum Refusal {
    /// Nothing was asked for.
    Silence,
    /// It was no such request, or the line broke.
    Request(String),
}

/// Answers one HTTP request; where it asked for MQTT over WebSocket, the stream that follows.
pub async fn upgrade<S>(stream: S, max_packet_size: usize) -> Result<Accepted, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let outcome = Arc::new(Mutex::new(None));
    let taken = Arc::clone(&outcome);
    let service = service_fn(move |mut request| {
        let (answer, next) = answer(&mut request);
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
        (Some(next), Ok(())) => next.map_err(Refusal::Request)?,
        (None, Ok(())) => return Err(Refusal::Silence),
        (_, Err(error)) => return Err(Refusal::Request(error.to_string())),
    };
    accepted(next, max_packet_size).await.map_err(|error| Refusal::Request(error.to_string()))
}

/// The stream after the answer went out.
pub async fn accepted(next: OnUpgrade, max_packet_size: usize) -> io::Result<Accepted> {
    let upgraded = next.await.map_err(io::Error::other)?;
    Ok(WebSocket::server(TokioIo::new(upgraded), max_packet_size).await)
}

/// Whether a request asks for a WebSocket.
pub fn is_upgrade<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    names(headers, header::UPGRADE).any(|name| name.eq_ignore_ascii_case("websocket"))
        && names(headers, header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"))
        && *request.method() == Method::GET
}

/// The answer to a request, and the stream that will follow it or why there is none.
pub fn answer<B>(request: &mut Request<B>) -> (Response<Full<Bytes>>, Result<OnUpgrade, String>) {
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
    if !is_upgrade(request) {
        return refused(StatusCode::UPGRADE_REQUIRED, "this port speaks MQTT over WebSocket only");
    }
    let headers = request.headers();
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
    let next = hyper::upgrade::on(request);
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
