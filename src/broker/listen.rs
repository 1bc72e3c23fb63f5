//! From listening sockets to byte streams: plain TCP, TLS, WebSocket.
//!
//! All listeners share the places of [`Options::max_connections`](super::Options::max_connections) and serve the
//! same sessions: what a client may do does not depend on the way it came. A connection takes its place before its
//! TLS or WebSocket handshake, which has [`Options::connect_timeout`](super::Options::connect_timeout) to end.

use std::fmt;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{Ingest, Shared, handshake, serve};
use crate::websocket::server;

/// Silence after which the system probes whether a peer is still there.
const PROBE_AFTER: Duration = Duration::from_secs(120);

/// A listening socket and what is spoken on it.
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// What carries MQTT on it.
    pub transport: Transport,
}

/// What carries MQTT.
#[derive(Clone)]
pub enum Transport {
    /// Nothing but TCP.
    Tcp,
    /// TLS with the settings of the moment; [`server_tls`] makes them.
    Tls(watch::Receiver<Arc<ServerConfig>>),
    /// WebSocket, plaintext.
    WebSocket,
}

impl Transport {
    /// Its name for people and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "mqtt",
            Self::Tls(_) => "mqtts",
            Self::WebSocket => "websocket",
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The name of the transport.
    pub(super) via: &'static str,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { address, via: Transport::Tcp.name() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// The settings of a TLS listener. With `client_roots` a client must show a certificate that leads to one of them.
pub fn server_tls(
    (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    client_roots: Option<rustls::RootCertStore>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| rustls::Error::General(error.to_string()))?)
        }
    };
    builder.with_single_cert(chain, key).map(Arc::new)
}

/// Accepts until the broker stops.
pub(super) async fn accept<I: Ingest>(
    listener: Listener,
    shared: Arc<Shared<I>>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
) {
    let via = listener.transport.name();
    let accepted_total = shared.metrics.accepted(via);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.socket.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: give the system a moment instead of spinning.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        accepted_total.increment(1);
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            shared.metrics.connection_closed("too_many_connections");
            continue;
        };
        let _ = stream.set_nodelay(true);
        // A client that vanished without keep-alive would hold its place for ever.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER));
        let (shared, transport) = (Arc::clone(&shared), listener.transport.clone());
        tasks.spawn(async move {
            serve(stream, Peer { address, via }, transport, &shared).await;
            drop(place);
        });
    }
}

async fn serve<I: Ingest>(stream: TcpStream, peer: Peer, transport: Transport, shared: &Shared<I>) {
    match transport {
        Transport::Tcp => serve::serve(stream, peer, shared).await,
        // In boxes, so that a plain connection's task has no room for their state.
        Transport::Tls(config) => {
            let config = Arc::clone(&config.borrow());
            Box::pin(serve_tls(stream, peer, config, shared)).await;
        }
        Transport::WebSocket => Box::pin(serve_websocket(stream, peer, shared)).await,
    }
}

async fn serve_tls<I: Ingest>(stream: TcpStream, peer: Peer, config: Arc<ServerConfig>, shared: &Shared<I>) {
    let accepting = async {
        let accepted = TlsAcceptor::from(config).accept(stream).await;
        accepted.map_err(|error| match error.kind() {
            // Gone in the middle, mostly before the first byte: a port scan or a health check.
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Refusal::PROBED,
            _ => Refusal { reason: "tls_handshake", detail: error.to_string() },
        })
    };
    // The handshake's state is large and short-lived: it must not stay in the task of the connection.
    if let Some(stream) = begun(Box::pin(accepting), peer, shared).await {
        serve::serve(stream, peer, shared).await;
    }
}

async fn serve_websocket<I: Ingest>(stream: TcpStream, peer: Peer, shared: &Shared<I>) {
    let max_packet_size = usize::try_from(shared.options.max_packet_size).unwrap_or(usize::MAX);
    let upgrade = async {
        server::upgrade(stream, max_packet_size).await.map_err(|refusal| match refusal {
            server::Refusal::Silence => Refusal::PROBED,
            server::Refusal::Request(detail) => Refusal { reason: "websocket_handshake", detail },
        })
    };
    if let Some(stream) = begun(Box::pin(upgrade), peer, shared).await {
        serve::serve(stream, peer, shared).await;
    }
}

/// Why a transport's handshake failed: the counter's label, and what there is to say about it.
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

impl Refusal {
    /// Nothing was asked for.
    pub(super) const PROBED: Self = Self { reason: handshake::PROBED, detail: String::new() };
}

/// Waits for the handshake below MQTT; tells and counts one that fails.
async fn begun<T, I: Ingest>(
    handshake: impl Future<Output = Result<T, Refusal>>,
    peer: Peer,
    shared: &Shared<I>,
) -> Option<T> {
    let done = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return None,
        done = tokio::time::timeout(shared.options.connect_timeout, handshake) => done,
    };
    let Refusal { reason, detail } = match done {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal { reason: "connect_timeout", detail: "the handshake was not done in time".to_owned() },
    };
    shared.metrics.connection_closed(reason);
    if reason == handshake::PROBED {
        tracing::debug!(%peer, via = peer.via, reason, "a connection that asked for nothing");
        return None;
    }
    shared.metrics.log_pace(reason, |left_out| {
        tracing::warn!(%peer, via = peer.via, reason, detail, left_out, "a client was refused before it connected");
    });
    None
}
