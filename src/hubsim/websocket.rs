//! MQTT over WebSocket, as hub, edgeHub and provisioning service take it beside HTTPS: at one path, with the subprotocol
//! `mqtt`. Another path is 404, another subprotocol (AMQP's) is 400. After the answer it is a connection like all others.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use parking_lot::Mutex;

use super::connection::Stream;
use super::counters::Closed;
use crate::hub::connect::WEBSOCKET_PATH;
use crate::websocket::server;

/// What follows the last answer of an HTTP connection.
#[derive(Clone, Default)]
pub(super) struct Next(Arc<Mutex<Option<OnUpgrade>>>);

impl Next {
    /// The answer to a request that asks for a WebSocket; `None` for any other.
    pub(super) fn answer<B>(&self, request: &mut Request<B>) -> Option<Response<Full<Bytes>>> {
        if !server::is_upgrade(request) {
            return None;
        }
        if request.uri().path() != WEBSOCKET_PATH {
            tracing::info!(path = request.uri().path(), "WebSocket refused: no such path");
            let mut answer = Response::new(Full::new(Bytes::from_static(b"no WebSocket at this path\n")));
            *answer.status_mut() = StatusCode::NOT_FOUND;
            return Some(answer);
        }
        let (answer, next) = server::answer(request);
        match next {
            Ok(next) => *self.0.lock() = Some(next),
            Err(why) => tracing::info!("WebSocket refused: {why}"),
        }
        Some(answer)
    }

    /// The stream, where one was asked for; else how the connection ended.
    pub(super) async fn stream(&self, ended: Closed, max_packet_size: u32) -> Result<Stream, Closed> {
        let next = self.0.lock().take().ok_or(ended)?;
        let max_packet_size = usize::try_from(max_packet_size).unwrap_or(usize::MAX);
        match server::accepted(next, max_packet_size).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(_) => Err(Closed::Lost),
        }
    }
}
