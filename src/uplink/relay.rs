//! A detour for one connection: where it is to be opened in another way than by dialling the hub's name.
//!
//! `rumqttc` dials the name it verifies, and speaks bare MQTT or MQTT in TLS. To go [another way](crate::outbound) and
//! still send and check the right name, it is given this one-shot HTTP CONNECT proxy on loopback, which opens the TCP
//! connection that way and copies bytes. It sees only TLS.
//!
//! Where the hub is to be reached by WebSocket, TLS and WebSocket end here instead, and `rumqttc` speaks bare MQTT to
//! it. The certificate is checked here then, by the same settings and the same name. So that no other program of this
//! machine gets in and speaks under the client certificate, the CONNECT carries a password made for this one
//! connection; who has not got it is hung up on.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use rumqttc::tokio_rustls::TlsConnector;
use rumqttc::tokio_rustls::rustls::ClientConfig;
use rumqttc::tokio_rustls::rustls::pki_types::ServerName;
use rumqttc::{Proxy, ProxyAuth, ProxyType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::wire::Broken;
use crate::hub::limits::WEBSOCKET_PORT;
use crate::hub::refused::tls_hint;
use crate::outbound::{ProxyError, Way};
use crate::websocket::Goodbye;
use crate::websocket::client;

const MAX_REQUEST: usize = 4096;
/// Time for the request of who connects here. Where thousands of lines come up at once, `rumqttc` may be slow to make it.
const REQUEST: Duration = Duration::from_secs(25);
/// Who may be about to make a request at one time: `rumqttc`, and programs that have no business here.
const ASKING: usize = 16;
/// Time until MQTT may begin: TCP, proxy, TLS and WebSocket. Less than `rumqttc` waits, which knows no reason.
const OPEN: Duration = Duration::from_secs(27);
/// How long the last bytes may take after the end: DISCONNECT is among them.
const LINGER: Duration = Duration::from_secs(1);
const NAME: &str = "relay";

/// Where a connection goes, and in what.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) way: Way,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) carrier: Carrier,
}

/// What is spoken there.
#[derive(Debug, Clone)]
pub(super) enum Carrier {
    /// What `rumqttc` speaks.
    Bytes,
    /// A WebSocket with MQTT in it.
    WebSocket { tls: Option<Arc<ClientConfig>>, path: String, max_packet_size: usize },
}

/// Lives as long as its connection.
pub(super) struct Relay {
    port: u16,
    password: String,
    told: Arc<Told>,
    end: CancellationToken,
}

/// What the relay has to say about the connection.
#[derive(Default)]
struct Told {
    failed: Mutex<Option<Failed>>,
    goodbye: OnceLock<Arc<OnceLock<Goodbye>>>,
}

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) broken: Broken,
    /// The network may let another port through.
    pub(super) may_be_the_port: bool,
}

impl Relay {
    /// `on`: where the copying is done.
    pub(super) fn start(route: Route, on: Option<&Handle>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let password = format!("{:032x}", rand::random::<u128>());
        let (told, end) = (Arc::<Told>::default(), CancellationToken::new());
        let line = Line { route, told: Arc::clone(&told), end: end.clone() };
        let serve = line.serve(listener, authorization(&password));
        match on {
            Some(runtime) => drop(runtime.spawn(serve)),
            None => drop(tokio::spawn(serve)),
        }
        Ok(Self { port, password, told, end })
    }

    /// What `rumqttc` has to know.
    pub(super) fn proxy(&self) -> Proxy {
        let auth = ProxyAuth::Basic { username: NAME.to_owned(), password: self.password.clone() };
        Proxy { ty: ProxyType::Http, auth, addr: Ipv4Addr::LOCALHOST.to_string(), port: self.port }
    }

    /// Why there is no connection.
    pub(super) fn failed(&self) -> Option<Failed> {
        self.told.failed.lock().clone()
    }

    /// What the other side said when it closed its WebSocket.
    pub(super) fn goodbye(&self) -> Option<&Goodbye> {
        self.told.goodbye.get().and_then(|goodbye| goodbye.get())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

fn authorization(password: &str) -> String {
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{NAME}:{password}")))
}

/// The relay's side.
struct Line {
    route: Route,
    told: Arc<Told>,
    end: CancellationToken,
}

impl Line {
    async fn serve(self, listener: std::net::TcpListener, authorization: String) {
        let connected = async {
            let near = accept(listener, &authorization).await?;
            match self.open().await {
                Ok(far) => Some((near, far)),
                Err(failed) => {
                    // Before `near` ends: `rumqttc` sees that, and the reason has to be there then.
                    *self.told.failed.lock() = Some(failed);
                    None
                }
            }
        };
        let pair = tokio::select! {
            pair = connected => pair,
            () = self.end.cancelled() => None,
        };
        let Some((mut near, mut far)) = pair else { return };
        let copied = async {
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            // An end of either side here is an end of the connection; the uplink sees it as such.
            tokio::io::copy_bidirectional(&mut near, &mut far).await
        };
        let ended = async {
            self.end.cancelled().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            _ = copied => {}
            () = ended => {}
        }
    }

    /// Opens the connection, up to where MQTT begins.
    async fn open(&self) -> Result<Box<dyn Stream>, Failed> {
        let by = Instant::now() + OPEN;
        let Route { way, host, port, carrier } = &self.route;
        let place = way.describe(host, *port);
        let broken = |reason, text| Failed { broken: Broken { reason, text }, may_be_the_port: false };
        let far = way.open(host, *port).await.map_err(|error| {
            let (reason, may_be_the_port) = match ProxyError::within(&error) {
                Some(proxy) => ("proxy", proxy.is_for_place()),
                None => ("network", true),
            };
            Failed { broken: Broken { reason, text: format!("cannot reach {place}: {error}") }, may_be_the_port }
        })?;
        let Carrier::WebSocket { tls, path, max_packet_size } = carrier else { return Ok(Box::new(far)) };
        let upgraded = async {
            let far: Box<dyn Stream> = match tls {
                None => Box::new(far),
                Some(tls) => {
                    let wrong = |error: &dyn std::fmt::Display| {
                        let hint = tls_hint(&error.to_string());
                        broken("tls", format!("no TLS connection to {host} ({place}): {error}{hint}"))
                    };
                    let name = ServerName::try_from(host.clone()).map_err(|error| wrong(&error))?;
                    let connected = TlsConnector::from(Arc::clone(tls)).connect(name, far).await;
                    Box::new(connected.map_err(|error| wrong(&error))?)
                }
            };
            let usual = if tls.is_some() { WEBSOCKET_PORT } else { 80 };
            let named = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            let said = if *port == usual { named } else { format!("{named}:{port}") };
            let asked = client::ask(far, (&said, path), *max_packet_size).await;
            let socket = asked.map_err(|why| broken("websocket", format!("no WebSocket to {place}: {why}")))?;
            let _ = self.told.goodbye.set(socket.goodbye());
            Ok(Box::new(socket) as Box<dyn Stream>)
        };
        timeout_at(by, upgraded).await.unwrap_or_else(|_| {
            let text = format!("{place} takes the connection, but makes no WebSocket within {} s", OPEN.as_secs());
            Err(broken("timeout", text))
        })
    }
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The connection of who knows the password; `None` where none comes any more.
async fn accept(listener: std::net::TcpListener, authorization: &str) -> Option<TcpStream> {
    let listener = TcpListener::from_std(listener).ok()?;
    let mut asking = FuturesUnordered::new();
    loop {
        tokio::select! {
            taken = listener.accept(), if asking.len() < ASKING => {
                let (mut near, _) = taken.ok()?;
                asking.push(async move {
                    let asked = timeout(REQUEST, is_authorized(&mut near, authorization)).await;
                    asked.unwrap_or(false).then_some(near)
                });
            }
            Some(near) = asking.next(), if !asking.is_empty() => if let Some(near) = near {
                near.set_nodelay(true).ok()?;
                return Some(near);
            }
        }
    }
}

async fn is_authorized(near: &mut TcpStream, authorization: &str) -> bool {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if near.read_buf(&mut request).await.unwrap_or(0) == 0 || request.len() > MAX_REQUEST {
            return false;
        }
    }
    let request = String::from_utf8_lossy(&request);
    let mut fields = request.lines().filter_map(|line| line.split_once(':'));
    fields.any(|(name, value)| name.eq_ignore_ascii_case("proxy-authorization") && value.trim() == authorization)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silent_strangers_hold_nobody_up() {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = far.local_addr().unwrap().port();
        let route = Route { way: Way::default(), host: "127.0.0.1".into(), port, carrier: Carrier::Bytes };
        let relay = Relay::start(route, None).unwrap();
        let mut strangers = Vec::new();
        for _ in 0..ASKING - 1 {
            strangers.push(TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap());
        }
        let mut near = TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap();
        let right = authorization(&relay.password);
        let request = format!("CONNECT h:1 HTTP/1.1\r\nProxy-Authorization: {right}\r\n\r\n");
        near.write_all(request.as_bytes()).await.unwrap();
        // One after the other they would take longer.
        let answered = timeout(REQUEST / 2, near.read_u8()).await;
        assert!(answered.is_ok_and(|answer| answer.is_ok()));
    }

    #[tokio::test]
    async fn only_who_has_the_password_gets_through() {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = far.local_addr().unwrap().port();
        let route = Route { way: Way::default(), host: "127.0.0.1".into(), port, carrier: Carrier::Bytes };
        let relay = Relay::start(route, None).unwrap();
        let request = |more: &str| format!("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n{more}\r\n");
        let right = format!("proxy-authorization: {}\r\n", authorization(&relay.password));
        for (more, gets_in) in [
            ("", false),
            ("Proxy-Authorization: Basic cmVsYXk6\r\n", false),
            (&format!("X-Authorization: {}\r\n", authorization(&relay.password)), false),
            (right.as_str(), true),
        ] {
            let mut near = TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap();
            near.write_all(request(more).as_bytes()).await.unwrap();
            let answer = near.read_u8().await;
            assert_eq!(answer.is_ok(), gets_in, "{more}");
            if gets_in {
                let (mut hub, _) = far.accept().await.unwrap();
                near.write_all(b"last words").await.unwrap();
                drop((near, relay));
                let mut heard = String::new();
                hub.read_to_string(&mut heard).await.unwrap();
                assert_eq!(heard, "last words", "what was said before the end arrives");
                return;
            }
        }
    }
}
