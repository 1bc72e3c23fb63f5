//! The hub simulator: an MQTT 3.1.1 server over TLS that behaves as an IoT Hub, or an edgeHub, does.
//!
//! It exists to try a configuration without Azure and to test against. It is strict where the service
//! is strict, because a simulator that forgives teaches wrong. Where the service's behaviour is not
//! settled, the choice is a field of [`Options`].
//!
//! | the client does | hub | edgeHub (`edge`) |
//! |---|---|---|
//! | TLS | 1.2 | 1.2, 1.3 |
//! | protocol level other than 4 | CONNACK 1 | CONNACK 1 |
//! | malformed user name | CONNACK 5 | CONNACK 3 |
//! | another host in the user name | CONNACK 5 | taken |
//! | wrong client id, device, token, certificate | CONNACK 5 | CONNACK 5 |
//! | connects again | the older connection is closed | same |
//! | is disabled, connected or not | CONNACK 5, closed | same |
//! | connects faster than it may | CONNACK late, then closed | same |
//! | QoS 2, more than 262,144 bytes | closed | closed |
//! | foreign topic, bad property bag | closed | PUBACK, dropped, counted |
//! | undocumented topic filter, or a sixth | closed | granted, ignored |
//! | UNSUBSCRIBE from what it never had | closed | UNSUBACK |
//! | silence of 1.5 times the keep-alive | closed, at most after 1767 s | at most after 600 s |
//! | its token is over | closed 300 s later | same |
//!
//! Each device has a twin, a queue of cloud-to-device messages and direct methods; what a service does with them comes
//! over HTTPS on the same port (`service`). There is MQTT over WebSocket, too (`websocket`). A message that a device has not
//! acknowledged when its lock of a minute ends is sent again (`queue`), and the service can hear what became of it (`feedback`).
//!
//! One simulator can be several hubs and a provisioning service ([`site`]).
//!
//! A message is handed to the output before its PUBACK is written. Connections, sessions, queues,
//! packets and waiting times are all bounded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::hub::certificate;
use crate::hub::sas::{self, Key};
use crate::secret::Secret;

mod accept;
mod admission;
mod authority;
mod cloud;
mod connection;
mod counters;
pub mod dps;
mod feedback;
pub mod names;
mod queue;
mod received;
mod service;
mod sessions;
pub mod site;
mod websocket;

pub use authority::AuthorityError;
pub use counters::{ByIdentity, Closed, Counts};
pub use queue::Keeping;
pub use received::{Received, Source};

use accept::{Door, House, Shaper};
use admission::Register;
use authority::Authority;
use cloud::Cloud;
use counters::Counters;
use sessions::Sessions;

/// How a device proves itself to the simulator.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A key derived from the simulator's master key, or a certificate of its CA with the device id as
    /// common name.
    Derived,
    /// This key.
    Key(Key),
    /// The certificate with this SHA-256.
    Thumbprint([u8; 32]),
}

/// Faults on purpose.
#[derive(Debug, Clone, Default)]
pub struct Misbehave {
    /// PUBACKs are written this much later.
    pub puback_delay: Duration,
    /// PUBACKs are never written.
    pub withhold_puback: bool,
    /// The line is cut after every so many messages of a connection, before the PUBACK of the last.
    pub cut_every: Option<u64>,
    /// The line is closed at every message whose payload has this text in it; the message is not taken.
    pub close_on: Option<String>,
    /// After so many messages in all, every connection is closed at its first publish, as with a spent daily quota.
    pub quota: Option<u64>,
    /// Every CONNECT is refused with 5.
    pub refuse: bool,
    /// A connection is closed this long after its CONNECT, as if its token were over.
    pub expire_after: Option<Duration>,
    /// CONNECTs a second: more wait for their CONNACK, and after some seconds of that they are closed without one.
    pub connect_rate: Option<u32>,
    /// Messages a second, of all devices together: more wait for their PUBACK, and where one would wait for some seconds
    /// the connection is closed and the message not taken.
    pub message_rate: Option<u32>,
    /// Twin operations a second; more are answered with 429.
    pub twin_rate: Option<u32>,
    /// The first so many changes of reported properties are answered with this status, and not made.
    pub twin_status: Option<(u16, u32)>,
}

/// What to simulate.
#[derive(Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where to listen as a hub does on port 443: HTTPS and MQTT over WebSocket, which the other port takes too, but no
    /// bare MQTT.
    pub websocket: Option<SocketAddr>,
    /// The host name of the hub, as connection strings name it.
    pub host: String,
    /// Keep certificates and keys here; without it they last as long as the simulator.
    pub dir: Option<PathBuf>,
    /// The devices (`device` or `device/module`); empty takes any with [`Credential::Derived`].
    pub devices: HashMap<String, Credential>,
    /// Devices that are registered and not let in.
    pub disabled: HashSet<String>,
    /// Behave as an edgeHub.
    pub edge: bool,
    /// Say `session present` where subscriptions were kept.
    pub session_present: bool,
    /// How long after the end of its token a connection is closed.
    pub expiry_grace: Duration,
    /// Close on a foreign topic; otherwise the publish is acknowledged and dropped.
    pub close_on_foreign_topic: bool,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long the CONNECT may take after it.
    pub connect_timeout: Duration,
    /// Connections at once; a further one waits in the listen queue.
    pub max_connections: usize,
    /// How cloud-to-device messages are kept.
    pub keeping: Keeping,
    /// Where messages go, in batches; without it they are checked and counted.
    pub output: Option<mpsc::Sender<Vec<Received>>>,
    /// Faults on purpose.
    pub misbehave: Misbehave,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            websocket: None,
            host: "localhost".to_owned(),
            dir: None,
            devices: HashMap::new(),
            disabled: HashSet::new(),
            edge: false,
            session_present: true,
            expiry_grace: Duration::from_secs(300),
            close_on_foreign_topic: true,
            handshake_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(60),
            max_connections: 10_000,
            keeping: Keeping::default(),
            output: None,
            misbehave: Misbehave::default(),
        }
    }
}

/// Why the simulator did not start.
#[derive(Debug)]
pub enum StartError {
    /// The address is taken, or not ours.
    Listen(SocketAddr, std::io::Error),
    /// Certificates and keys.
    Authority(AuthorityError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, e) => write!(f, "cannot listen on {address}: {e}"),
            Self::Authority(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// What all connections share.
struct Shared {
    options: Options,
    register: Register,
    sessions: Sessions,
    cloud: Cloud,
    counters: Counters,
    /// When the next CONNECT may be answered.
    next_connect: Shaper,
    /// When the next message may be acknowledged.
    next_message: Shaper,
    /// All connections are dropped at once.
    restart: Notify,
    stop: CancellationToken,
}

/// A simulator at work. Dropping it stops it; [`stop`](Self::stop) also waits.
pub struct Running {
    local_addr: SocketAddr,
    websocket_addr: Option<SocketAddr>,
    authority: Authority,
    shared: Arc<Shared>,
    accept: Vec<JoinHandle<()>>,
}

/// Starts to listen.
pub async fn start(options: Options) -> Result<Running, StartError> {
    let authority = Authority::open(options.dir.as_deref()).map_err(StartError::Authority)?;
    let hosts = [options.host.clone()];
    let tls = authority.server_config(&hosts, options.edge).map_err(StartError::Authority)?;
    let tls = TlsAcceptor::from(Arc::new(tls));
    let (listener, local_addr) = bind(options.listen).await?;
    let web = match options.websocket {
        None => None,
        Some(listen) => Some(bind(listen).await?),
    };
    let websocket_addr = web.as_ref().map(|(_, address)| *address);
    let open = options.devices.is_empty();
    let shared = Shared::new(options, (open, false), &authority, CancellationToken::new())?;
    let house = Arc::new(House::of(Arc::clone(&shared)));
    let doors = [Some((listener, Door::Any)), web.map(|(listener, _)| (listener, Door::Web))];
    let accept = doors.into_iter().flatten();
    let accept = accept
        .map(|(listener, door)| tokio::spawn(accept::run(listener, door, tls.clone(), Arc::clone(&house))))
        .collect();
    Ok(Running { local_addr, websocket_addr, authority, shared, accept })
}

async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(listen).await.map_err(|e| StartError::Listen(listen, e))?;
    let local_addr = listener.local_addr().map_err(|e| StartError::Listen(listen, e))?;
    Ok((listener, local_addr))
}

impl Shared {
    /// A hub; `open`: to any device with a derived key. `named`: messages say which hub got them.
    fn new(
        options: Options,
        (open, named): (bool, bool),
        authority: &Authority,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StartError> {
        let register = Register {
            host: options.host.clone(),
            edge: options.edge,
            master: authority.master.clone(),
            open: AtomicBool::new(open),
            devices: RwLock::new(options.devices.clone()),
            disabled: RwLock::new(options.disabled.clone()),
            verifier: authority.client_verifier().map_err(StartError::Authority)?,
            named,
        };
        let (sessions, cloud, counters) =
            (Sessions::default(), Cloud::new(options.keeping.clone()), Counters::default());
        let (next_connect, next_message) = (Shaper::default(), Shaper::default());
        let restart = Notify::new();
        Ok(Arc::new(Self { options, register, sessions, cloud, counters, next_connect, next_message, restart, stop }))
    }
}

impl Running {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where it listens without bare MQTT.
    pub fn websocket_addr(&self) -> Option<SocketAddr> {
        self.websocket_addr
    }

    /// The host name of the hub.
    pub fn host(&self) -> &str {
        &self.shared.options.host
    }

    /// The certificate a client must trust.
    pub fn ca_file(&self) -> PathBuf {
        self.authority.ca_file()
    }

    /// The connection string of a device, or `device/module`.
    pub fn connection_string(&self, id: &str) -> Secret {
        let (device, module) = id.split_once('/').map_or((id, None), |(device, module)| (device, Some(module)));
        let mut text = format!("HostName={};DeviceId={device}", self.shared.options.host);
        if let Some(module) = module {
            text.push_str(";ModuleId=");
            text.push_str(module);
        }
        match self.shared.register.credential(id) {
            Some(Credential::Thumbprint(_)) => text.push_str(";x509=true"),
            Some(Credential::Key(key)) => {
                text.push_str(";SharedAccessKey=");
                text.push_str(key.encode().expose());
            }
            Some(Credential::Derived) | None => {
                text.push_str(";SharedAccessKey=");
                text.push_str(self.authority.master.derive(id).expose());
            }
        }
        text.push_str(self.gateway());
        Secret::new(text)
    }

    /// The connection string of a service: it may call methods, change twins and send messages to devices.
    pub fn service_connection_string(&self) -> Secret {
        let (host, port) = (&self.shared.options.host, self.local_addr.port());
        let key = service::policy_key(&self.authority.master);
        let policy = service::POLICY;
        Secret::new(format!("HostName={host}:{port};SharedAccessKeyName={policy};SharedAccessKey={}", key.expose()))
    }

    /// What a service puts into the `Authorization` header of its requests until `expiry`, seconds since 1970.
    pub fn service_token(&self, expiry: i64) -> Secret {
        let key = service::policy_key(&self.authority.master);
        Key::parse(key.expose()).map_or_else(
            |_| Secret::new(String::new()),
            |key| sas::mint(&key, &self.shared.options.host, expiry, Some(service::POLICY)),
        )
    }

    /// The connection string of a device that has a certificate.
    pub fn x509_connection_string(&self, device: &str) -> String {
        format!("HostName={};DeviceId={device};x509=true{}", self.shared.options.host, self.gateway())
    }

    fn gateway(&self) -> &'static str {
        if self.shared.options.edge { ";GatewayHostName=localhost" } else { "" }
    }

    /// The `kind` of an uplink to it.
    pub fn kind(&self) -> &'static str {
        if self.shared.options.edge { "edge" } else { "iothub" }
    }

    /// Makes a certificate for a device, signed by the simulator's CA: the paths of certificate and key.
    pub fn device_certificate(&self, device: &str) -> Result<(PathBuf, PathBuf), AuthorityError> {
        self.authority.issue(device)
    }

    /// The topic filters an identity is subscribed to.
    pub fn subscriptions(&self, id: &str) -> Vec<String> {
        self.shared.sessions.filters(id)
    }

    /// Registers other devices from now on; those that are disabled now lose their connection, as in the hub.
    pub fn register(&self, devices: HashMap<String, Credential>, disabled: HashSet<String>) {
        disabled.iter().for_each(|id| self.shared.sessions.end(id));
        self.shared.register.replace(devices, disabled);
    }

    /// Drops all connections at once, as a hub does that restarts.
    pub fn restart(&self) {
        self.shared.restart.notify_waiters();
    }

    /// What each identity did.
    pub fn by_identity(&self) -> BTreeMap<String, ByIdentity> {
        self.shared.counters.by_identity()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.shared.counters.counts()
    }

    /// Closes all connections and waits for them.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        for accept in std::mem::take(&mut self.accept) {
            // The task ends by itself; an error would be a panic in it, which its own log line told.
            let _ = accept.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// The SHA-256 thumbprint of the first certificate in a PEM file.
pub fn thumbprint_of(pem: &Path) -> Option<[u8; 32]> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_file(pem).ok().map(|der| certificate::thumbprint(&der))
}
