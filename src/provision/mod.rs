//! Asks the Device Provisioning Service for a device's hub, over REST, MQTT or MQTT in a WebSocket, all over TLS.
//!
//! The dialogue itself is [`crate::hub::dps`]; here are its sockets, its pauses, and the file in which an assignment
//! outlives the program ([`cache`]). One call of [`register`] is one registration from the first request to the result;
//! when it pays to try again, the [`Trouble`] says.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::hub::broken::{in_words, looks_blocked};
use crate::hub::clock::{Skew, THE_SERVICES};
use crate::hub::dps::{Assignment, Dialogue, Kind, Registration, Reply, Request, Step, Trouble};
use crate::hub::limits::{MQTT_PORT, WEBSOCKET_PORT};
use crate::hub::refused::tls_hint;
use crate::hub::sas::Key;
use crate::message::Timestamp;
use crate::metrics;
use crate::outbound::{ProxyError, Way};
use crate::secret::Secret;

pub mod assignments;
pub mod cache;
mod mqtt;
mod rest;

/// Time for one request and its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lifetime of the token of one registration.
const TOKEN: i64 = 3_600;
/// Largest answer; the service's own limit of a message is 96 KB.
const BODY_MAX: usize = 128 * 1024;
/// The status of a refused proof of identity.
const UNAUTHORIZED: u16 = 401;
/// Many plants let nothing out but web traffic.
const BLOCKED: &str =
    ". Where a firewall or proxy lets only port 443 out, set `transport` to \"rest\" or \"websocket\"";
/// What hangs up when it is greeted with MQTT may be waiting for HTTP.
const FOR_THE_WEB: &str = ". If that port is one for web traffic, set `transport` to \"rest\" or \"websocket\"";
/// How this program names itself.
const CLIENT: &str = concat!("brownbridge/", env!("CARGO_PKG_VERSION"));

/// The protocol of the dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTPS, port 443.
    Rest,
    /// MQTT over TLS, port 8883.
    Mqtt,
    /// MQTT over WebSocket over TLS, port 443.
    WebSocket,
}

impl Transport {
    fn port(self) -> u16 {
        match self {
            Self::Rest | Self::WebSocket => WEBSOCKET_PORT,
            Self::Mqtt => MQTT_PORT,
        }
    }
}

/// How a device proves itself.
#[derive(Debug, Clone)]
pub enum Proof {
    /// With its own key; in a group, the one derived from the group's.
    Key(Key),
    /// With the client certificate of the TLS settings.
    Certificate,
}

/// Who registers where, and how it is reached.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host name of the service.
    pub host: String,
    /// How it is reached.
    pub way: Way,
    /// The protocol.
    pub transport: Transport,
    /// Roots, and the client certificate.
    pub tls: Arc<ClientConfig>,
    /// What is registered.
    pub registration: Registration,
    /// How it proves itself.
    pub proof: Proof,
}

/// A step of a registration, for who looks on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A connection is made to this place.
    Connecting(String),
    /// A request went out.
    Asked(&'static str),
    /// An answer came.
    Answered(u16),
    /// The next request waits.
    Waiting(Duration),
    /// The clock of this machine is wrong, in words.
    Clock(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting(place) => write!(f, "connecting to {place}"),
            Self::Asked(what) => write!(f, "asked: {what}"),
            Self::Answered(202) => f.write_str("answered: 202, assigning"),
            Self::Answered(status) => write!(f, "answered: {status}"),
            Self::Clock(text) => f.write_str(text),
            Self::Waiting(pause) => write!(f, "waiting {:.1} s", pause.as_secs_f64()),
        }
    }
}

/// Who looks on.
type Tell<'t> = &'t mut (dyn FnMut(Seen) + Send);

/// An answer, whatever carried it.
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    /// The service's clock, in seconds since 1970.
    date: Option<i64>,
    body: Vec<u8>,
}

enum Line<'o> {
    Rest(rest::Line<'o>),
    Mqtt(Box<mqtt::Line<'o>>),
}

impl Line<'_> {
    async fn ask(&mut self, request: &Request, tell: Tell<'_>) -> Result<Answer, Trouble> {
        match self {
            Self::Rest(line) => line.ask(request, tell).await,
            Self::Mqtt(line) => line.ask(request, tell).await,
        }
    }
}

/// Registers once. Each step is told to `tell`, which must not say more than that.
pub async fn register(options: &Options, mut tell: impl FnMut(Seen) + Send) -> Result<Assignment, Trouble> {
    let began = Instant::now();
    let token = match &options.proof {
        Proof::Key(key) => Some(options.registration.token(key, Timestamp::now().as_secs().saturating_add(TOKEN))),
        Proof::Certificate => None,
    };
    let mut line = match options.transport {
        Transport::Rest => Line::Rest(rest::Line::new(options, token)),
        Transport::Mqtt | Transport::WebSocket => Line::Mqtt(Box::new(mqtt::Line::new(options, token))),
    };
    let mut dialogue = Dialogue::begin(began.elapsed());
    let mut request = Request::Register;
    loop {
        let asked = tokio::time::timeout(PATIENCE, line.ask(&request, &mut tell)).await;
        let asked = asked.unwrap_or_else(|_| {
            let hint = if options.transport == Transport::Mqtt { BLOCKED } else { "" };
            Err(options.unreachable(&format!("no answer within {} s{hint}", PATIENCE.as_secs())))
        });
        let answer = match asked {
            Ok(answer) => answer,
            Err(trouble) => return Err(options.judge(trouble, None).await),
        };
        tell(Seen::Answered(answer.status));
        let skew = answer.date.map(|theirs| Skew::between(Timestamp::now(), theirs));
        if let Some(skew) = skew.filter(|_| request == Request::Register) {
            metrics::clock_ahead(skew.0);
            if skew.is_wrong() {
                tell(Seen::Clock(skew.explain(THE_SERVICES)));
            }
        }
        let reply = Reply { status: answer.status, retry_after: answer.retry_after, body: &answer.body };
        match dialogue.answered(&reply, began.elapsed(), rand::random()) {
            Step::Done(assignment) => return Ok(assignment),
            Step::Failed(trouble) if answer.status == UNAUTHORIZED => return Err(options.judge(trouble, skew).await),
            Step::Failed(trouble) => return Err(trouble),
            Step::Ask(next, pause) => {
                request = next;
                tell(Seen::Waiting(pause));
                tokio::time::sleep(pause).await;
            }
        }
    }
}

impl Options {
    /// Where the service is, for people.
    fn place(&self) -> String {
        self.way.describe(&self.host, self.transport.port())
    }

    fn unreachable(&self, why: &str) -> Trouble {
        let place = self.place();
        let text = format!("the provisioning service {} ({place}) cannot be reached: {why}", self.host);
        Trouble::new(Kind::Unreachable, text)
    }

    /// The line broke.
    fn broken(&self, error: &io::Error) -> Trouble {
        self.unreachable(&in_words(error))
    }

    /// The line did not come about.
    fn not_dialled(&self, error: &io::Error) -> Trouble {
        let is_blocked = ProxyError::within(error).map_or_else(|| looks_blocked(error), ProxyError::is_for_place);
        let hint = if is_blocked && self.transport == Transport::Mqtt { BLOCKED } else { "" };
        self.unreachable(&format!("{}{hint}", in_words(error)))
    }

    /// What is on the other end has not answered CONNECT.
    fn not_greeted(&self, trouble: Trouble) -> Trouble {
        let hint = if self.transport == Transport::Mqtt { FOR_THE_WEB } else { "" };
        Trouble { text: format!("{}{hint}", trouble.text), ..trouble }
    }

    /// What the clocks say about a refused token: `skew`, or what the service says when it is asked.
    async fn judge(&self, trouble: Trouble, skew: Option<Skew>) -> Trouble {
        if trouble.kind != Kind::Refused || !matches!(self.proof, Proof::Key(_)) {
            return trouble;
        }
        let skew = match skew {
            Some(skew) => Some(skew),
            None => {
                let theirs = self.way.time(&self.host, &self.tls).await;
                let skew = theirs.map(|theirs| Skew::between(Timestamp::now(), theirs));
                skew.iter().for_each(|skew| metrics::clock_ahead(skew.0));
                skew
            }
        };
        match skew {
            Some(skew) => trouble.judged(skew),
            None => trouble,
        }
    }

    /// Opens a TLS connection.
    async fn dial(&self, tell: Tell<'_>) -> Result<TlsStream<tokio::net::TcpStream>, Trouble> {
        tell(Seen::Connecting(self.place()));
        let opened = self.way.open(&self.host, self.transport.port()).await;
        let stream = opened.map_err(|error| self.not_dialled(&error))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| self.unreachable(&error.to_string()))?;
        let connected = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        connected.map_err(|error| {
            if looks_blocked(&error) {
                return self.not_dialled(&error);
            }
            let text = error.to_string();
            self.unreachable(&format!("no TLS connection: {text}{}", tls_hint(&text)))
        })
    }
}

/// What a request is called.
fn named(request: &Request) -> &'static str {
    match request {
        Request::Register => "register this device",
        Request::Status(_) => "which hub is it?",
    }
}

/// The password or header of a token.
fn exposed(token: Option<&Secret>) -> Option<&str> {
    token.map(Secret::expose)
}
