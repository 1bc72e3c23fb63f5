//! From a TCP connection to a client that is let in: TLS, the CONNECT packet, the verdict.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::v3::{Codec, Connect, Packet};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::codec::Decoder as _;

use super::Shared;
use super::admission::{Admitted, Refusal};
use super::connection::{Connection, PACKET_MAX, READ, Stream, WRITE_TIMEOUT};
use super::counters::Closed;
use super::dps::{self, Service};
use super::service;
use super::sessions::Hold;
use crate::message::Timestamp;

/// Who answers at one address. Which hub, or the provisioning service, the name in the TLS handshake says.
pub(super) struct House {
    /// Also for clients that name nobody.
    first: Arc<Shared>,
    others: Vec<Arc<Shared>>,
    dps: Option<Arc<Service>>,
}

impl House {
    /// A single hub.
    pub(super) fn of(hub: Arc<Shared>) -> Self {
        Self { first: hub, others: Vec::new(), dps: None }
    }

    /// Several hubs and a provisioning service.
    pub(super) fn of_many(first: Arc<Shared>, others: Vec<Arc<Shared>>, dps: Arc<Service>) -> Self {
        Self { first, others, dps: Some(dps) }
    }

    fn hub(&self, name: Option<&str>) -> &Arc<Shared> {
        let named = |hub: &&Arc<Shared>| name.is_some_and(|name| hub.options.host.eq_ignore_ascii_case(name));
        self.others.iter().find(named).unwrap_or(&self.first)
    }

    fn dps(&self, name: Option<&str>) -> Option<&Arc<Service>> {
        self.dps.as_ref().filter(|dps| name.is_some_and(|name| dps.is_called(name)))
    }
}

/// What a listening port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Everything: MQTT, HTTPS and WebSocket.
    Any,
    /// What a hub takes on port 443: no bare MQTT.
    Web,
}

/// Accepts until the simulator stops, then waits for the connections.
pub(super) async fn run(listener: TcpListener, door: Door, tls: TlsAcceptor, house: Arc<House>) {
    let mut connections = JoinSet::new();
    let first = &house.first;
    loop {
        let room = connections.len() < first.options.max_connections.max(1);
        tokio::select! {
            () = first.stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            taken = listener.accept(), if room => match taken {
                Ok((stream, peer)) => {
                    first.counters.accept();
                    connections.spawn(one(stream, (peer, door), tls.clone(), Arc::clone(&house)));
                }
                // Out of descriptors, or the client gave up: neither gets better by spinning.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn one(stream: TcpStream, (peer, door): (SocketAddr, Door), tls: TlsAcceptor, house: Arc<House>) {
    let _ = stream.set_nodelay(true);
    let first = &house.first;
    let handshake = tokio::time::timeout(first.options.handshake_timeout, tls.accept(stream));
    let closed = tokio::select! {
        () = first.stop.cancelled() => Closed::Stopped,
        done = handshake => match done {
            Ok(Ok(stream)) => {
                let name = stream.get_ref().1.server_name().map(str::to_owned);
                let certificates = stream.get_ref().1.peer_certificates().map(owned);
                let guest = Guest { peer, door, certificates: certificates.as_deref() };
                match house.dps(name.as_deref()) {
                    Some(service) => dps::serve(Box::new(stream), service, guest, &first.stop).await,
                    None => serve(Box::new(stream), guest, house.hub(name.as_deref())).await,
                }
            }
            Ok(Err(e)) => {
                tracing::info!(%peer, error = %e, "TLS handshake failed");
                Closed::Handshake
            }
            Err(_) => Closed::Handshake,
        },
    };
    tracing::debug!(%peer, reason = ?closed, "connection closed");
    first.counters.close(closed);
}

/// Who comes, and where.
#[derive(Clone, Copy)]
pub(super) struct Guest<'c> {
    peer: SocketAddr,
    pub(super) door: Door,
    /// What it has shown in its TLS handshake, leaf first.
    pub(super) certificates: Option<&'c [CertificateDer<'static>]>,
}

fn owned(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|der| der.clone().into_owned()).collect()
}

/// Serves a client from its CONNECT, or its HTTP request, to its end.
async fn serve(mut stream: Stream, guest: Guest<'_>, shared: &Arc<Shared>) -> Closed {
    let Guest { peer, door, certificates } = guest;
    let mut codec = Codec::new(PACKET_MAX);
    let mut input = BytesMut::with_capacity(READ);
    let mut first = await_first(&mut stream, &mut codec, &mut input, shared).await;
    if let Ok(First::Http) = first {
        match service::serve(stream, std::mem::take(&mut input), shared).await {
            Ok(websocket) => stream = websocket,
            Err(closed) => return closed,
        }
        first = await_first(&mut stream, &mut codec, &mut input, shared).await;
    } else if door == Door::Web {
        return Closed::Protocol;
    }
    let verdict = match first {
        Err(closed) => return closed,
        Ok(First::Http) => return Closed::Protocol,
        Ok(First::OtherProtocol) => Err(Refusal::Protocol),
        Ok(First::Connect(connect)) => {
            if !shared.turn_to_connect().await {
                return Closed::Throttled;
            }
            admit(certificates, *connect, shared)
        }
    };
    let (admitted, connect, hold) = match verdict {
        Ok(admitted) => admitted,
        Err(refusal) => {
            tracing::info!(%peer, reason = %refusal, "CONNECT refused");
            let code = refusal.code(shared.options.edge);
            let _ = timeout(WRITE_TIMEOUT, async {
                stream.write_all(&[0x20, 2, 0, code]).await?;
                stream.shutdown().await
            })
            .await;
            return Closed::Refused;
        }
    };
    shared.counters.connect(&admitted.identity);
    let identity = admitted.identity.clone();
    tracing::info!(%peer, %identity, "connected");
    let mut connection = Connection::new(stream, codec, input, Arc::clone(shared), (admitted, &connect, hold));
    let (stop, taken_over) = (shared.stop.clone(), connection.hold.taken_over.clone());
    let closed = tokio::select! {
        biased;
        () = stop.cancelled() => Closed::Stopped,
        () = taken_over.cancelled() => if shared.register.lets_in(&identity) { Closed::TakenOver } else { Closed::Disabled },
        () = shared.restart.notified() => Closed::Restarted,
        closed = connection.run() => closed,
    };
    tracing::info!(%peer, %identity, reason = closed.why(), "closed");
    connection.end(connect.last_will, closed).await;
    closed
}

impl Shared {
    /// Waits until this CONNECT may be answered; false where that is too far away.
    async fn turn_to_connect(&self) -> bool {
        let Some(rate) = self.options.misbehave.connect_rate else { return true };
        let Some(at) = self.next_connect.turn(rate) else { return false };
        tokio::time::sleep_until(at).await;
        true
    }
}

/// A rate, shaped as a hub does it: what is too much waits, and what would wait too long is refused.
#[derive(Debug, Default)]
pub(super) struct Shaper(Mutex<Option<Instant>>);

impl Shaper {
    /// When the next one has its turn; `None` where that is too far away.
    pub(super) fn turn(&self, rate: u32) -> Option<Instant> {
        /// How long an answer is held back before the line is closed.
        const SHAPED: Duration = Duration::from_secs(3);
        let now = Instant::now();
        let mut next = self.0.lock();
        let at = next.unwrap_or(now).max(now);
        if at - now > SHAPED {
            return None;
        }
        *next = Some(at + Duration::from_secs(1) / rate.max(1));
        Some(at)
    }
}

async fn await_first(
    stream: &mut Stream,
    codec: &mut Codec,
    input: &mut BytesMut,
    shared: &Shared,
) -> Result<First, Closed> {
    let first = timeout(shared.options.connect_timeout, first_packet(stream, codec, input));
    tokio::select! {
        () = shared.stop.cancelled() => Err(Closed::Stopped),
        first = first => first.unwrap_or(Err(Closed::NoConnect)),
    }
}

enum First {
    Connect(Box<Connect>),
    Http,
    OtherProtocol,
}

async fn first_packet(stream: &mut Stream, codec: &mut Codec, input: &mut BytesMut) -> Result<First, Closed> {
    loop {
        match service::is_http(input) {
            Some(true) => return Ok(First::Http),
            Some(false) => match codec.decode(input) {
                Ok(Some((Packet::Connect(connect), _))) => return Ok(First::Connect(connect)),
                Err(DecodeError::UnsupportedProtocolLevel) => return Ok(First::OtherProtocol),
                Ok(Some(_)) | Err(_) => return Err(Closed::Protocol),
                Ok(None) => {}
            },
            None => {}
        }
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return Err(Closed::Lost),
            Ok(_) => {}
        }
    }
}

fn admit(
    certificates: Option<&[CertificateDer<'_>]>,
    connect: Connect,
    shared: &Shared,
) -> Result<(Admitted, Connect, Hold), Refusal> {
    if shared.options.misbehave.refuse {
        return Err(Refusal::Switch);
    }
    let admitted = shared.register.admit(&connect, certificates, Timestamp::now().as_secs())?;
    let hold = shared.sessions.take(&admitted.identity, connect.clean_session).ok_or(Refusal::TooMany)?;
    Ok((admitted, connect, hold))
}
