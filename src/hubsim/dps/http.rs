//! The service over REST.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::mqtt::PACKET_MAX;
use super::{Answer, Proof, Service};
use crate::hub::bag;
use crate::hubsim::connection::Stream;
use crate::hubsim::counters::Closed;
use crate::hubsim::websocket::Next;

/// The service's own limit of a message.
const BODY_MAX: usize = 96 * 1024;
/// How long a connection may last.
const MAX_LIFE: Duration = Duration::from_secs(300);

/// Serves one connection, of which one byte is read already; the stream that follows where it asked for a WebSocket.
pub(super) async fn serve(
    stream: Stream,
    first: u8,
    service: &Arc<Service>,
    certificates: Option<&[CertificateDer<'static>]>,
) -> Result<Stream, Closed> {
    let next = Next::default();
    let (reader, writer) = tokio::io::split(stream);
    let whole = tokio::io::join(Cursor::new([first]).chain(reader), writer);
    let answer = service_fn(|mut request| {
        let upgrade = next.answer(&mut request);
        async move {
            match upgrade {
                Some(answer) => Ok(answer),
                None => answer(service, certificates, request).await,
            }
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(whole), answer)
        .with_upgrades();
    let ended = match timeout(MAX_LIFE, connection).await {
        Ok(Ok(())) => Closed::Goodbye,
        Ok(Err(_)) => Closed::Lost,
        Err(_) => Closed::Silent,
    };
    next.stream(ended, PACKET_MAX).await
}

async fn answer(
    service: &Service,
    certificates: Option<&[CertificateDer<'static>]>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        return Ok(response(&Answer::error(413_001, "too large")));
    };
    let body = body.to_bytes();
    let token = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let proof = Proof { token, certificates };
    let versioned = head.uri.query().is_some_and(|query| {
        query.split('&').any(|pair| pair.strip_prefix("api-version=").is_some_and(|version| !version.is_empty()))
    });
    if !versioned {
        return Ok(response(&Answer::error(400_004, "no api-version")));
    }
    let levels: Vec<_> = head.uri.path().split('/').skip(1).map(bag::unescape).collect();
    let levels: Vec<&str> = levels.iter().map(AsRef::as_ref).collect();
    let answer = match (&head.method, levels.as_slice()) {
        (&Method::PUT, [scope, "registrations", id, "register"]) => service.register((scope, id), &proof, &body),
        (&Method::GET, [scope, "registrations", id, "operations", operation]) => {
            service.status((scope, id), Some(operation), &proof)
        }
        (&Method::POST, [scope, "registrations", id]) => service.status((scope, id), None, &proof),
        _ => Answer::error(404_000, "no such resource"),
    };
    Ok(response(&answer))
}

fn response(answer: &Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body.to_string())));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Some(seconds) = answer.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(code) = answer.body.get("errorCode").and_then(serde_json::Value::as_u64) {
        headers.insert(HeaderName::from_static("x-ms-error-code"), HeaderValue::from(code));
    }
    response
}
