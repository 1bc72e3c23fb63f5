//! `bridge.toml`: from text to checked settings, every mistake with its place.
//!
//! Pure: it opens no file. Environment variables come in through a function, and paths are returned as
//! written. What can only be judged with another module's knowledge (is the connection string one?) or with
//! the file system (is the certificate there?) keeps the place of its value, so that the wiring can report it
//! the same way.
//!
//! Any text may contain `${NAME}`, which is replaced by the environment variable; `$$` is a dollar sign.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::diag::walk::Report;
use crate::diag::{Diagnostic, Span};
use crate::secret::Secret;

mod changes;
mod devices;
mod dps;
mod mask;
pub mod proxy;
mod read;
mod schema;
pub mod units;

pub use changes::changed_keys;
pub use devices::{Devices, WhenRefused};
pub use dps::{Dps, DpsTransport, Given};
pub use mask::masked;
use read::Section;
pub use read::roots::Roots;
pub use schema::schema;

/// A value with its place in `bridge.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

/// All of `bridge.toml`.
#[derive(Debug, Clone)]
pub struct Config {
    /// File or folder of rule files.
    pub rules: Placed<String>,
    /// Folder of everything that is kept: spool, quarantine.
    pub state: Placed<String>,
    /// What becomes of a publish no rule takes.
    pub unmatched: Unmatched,
    /// `[broker]`
    pub broker: Broker,
    /// `[uplink]`
    pub uplink: Uplink,
    /// `[spool]`
    pub spool: Spool,
    /// `[quarantine]`
    pub quarantine: Quarantine,
    /// `[commands]`
    pub commands: Commands,
    /// `[admin]`
    pub admin: Admin,
}

/// `[commands]`: what the cloud may do to the plant.
#[derive(Debug, Clone)]
pub struct Commands {
    /// Anything at all.
    pub enabled: Placed<bool>,
    /// Everything is checked and told, and nothing published.
    pub dry_run: bool,
    /// Commands a second of one device; 0 is no limit.
    pub rate: u32,
    /// The methods of the bridge itself are answered.
    pub own_methods: bool,
    /// Where each device has a connection, the bridge's own stays open for what the hub sends on it.
    pub own_line: bool,
    /// The bridge tells about itself in its twin.
    pub own_twin: bool,
    /// How often its counters are told.
    pub own_twin_every: Duration,
    /// So many devices are listed there, with whether they are there.
    pub own_twin_presence: usize,
    /// A device that was not heard of for so long is quiet.
    pub own_twin_quiet_after: Duration,
    /// What is desired of the bridge in its twin is done.
    pub desired: bool,
    /// Nothing is done that cannot be written into the audit log.
    pub audit_required: bool,
    /// So many bytes of the payloads of a command are written there.
    pub audit_payload: usize,
    /// Largest size of the audit log.
    pub audit_max_size: u64,
    /// Devices, in which `*` stands for any text, and the topic filters their commands may go to; none is no limit.
    pub allow: Placed<Vec<(String, Vec<String>)>>,
}

/// What becomes of a publish no rule takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// It goes up under the bridge's own identity, with its topic as a property.
    Forward,
    /// It is acknowledged, counted and dropped.
    Drop,
}

/// `[broker]`: the plant's side.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Where MQTT clients connect.
    pub listen: Placed<SocketAddr>,
    /// Where MQTT clients connect over WebSocket.
    pub websocket: Option<Placed<SocketAddr>>,
    /// Where MQTT clients connect over TLS.
    pub tls: Option<PlantTls>,
    /// Largest packet accepted, in bytes.
    pub max_packet_size: u64,
    /// Most connections at one time.
    pub max_connections: usize,
    /// Time a new connection has to send CONNECT.
    pub connect_timeout: Duration,
    /// Publishes of one client that may wait for their commit.
    pub max_unacknowledged: usize,
    /// Messages that may wait for one local subscriber.
    pub subscriber_queue_messages: usize,
    /// Bytes that may wait for one local subscriber.
    pub subscriber_queue_bytes: u64,
    /// What outlives a connection.
    pub sessions: Sessions,
    /// Longest keep-alive MQTT 5 clients may have; zero is no limit.
    pub max_keep_alive: Duration,
    /// Most retained messages.
    pub max_retained: usize,
    /// Most bytes of retained messages.
    pub max_retained_bytes: u64,
    /// Who may come in and do what.
    pub fence: Fence,
    /// What one address or client may ask for.
    pub limits: Limits,
}

/// The keys of `[broker]` about sessions whose client is away.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// Longest time a client may stay away.
    pub max_expiry: Duration,
    /// Most sessions whose client is away.
    pub max_away: usize,
    /// Most bytes that wait for all of them.
    pub max_bytes: u64,
}

/// The keys of `[broker]` about users and rights.
#[derive(Debug, Clone)]
pub struct Fence {
    /// The access file.
    pub access: Option<Placed<String>>,
    /// The users file.
    pub users: Option<Placed<String>>,
    /// True where clients without a user name may connect.
    pub anonymous: bool,
    /// The file to write who talks into; nothing of the access file is enforced then.
    pub learn: Option<Placed<String>>,
}

/// The keys of `[broker]` about single addresses and clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections of one address.
    pub max_connections_per_address: usize,
    /// CONNECTs of one address a second; 0 is no limit.
    pub max_connect_rate: usize,
    /// Publishes of one client a second; 0 is no limit.
    pub max_publish_rate: usize,
    /// What becomes of a client over its publish rate.
    pub over_publish_rate: OverRate,
    /// Most subscriptions of one client.
    pub max_subscriptions: usize,
}

/// What becomes of a client over its publish rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverRate {
    /// Its socket is read later.
    Wait,
    /// Its connection is closed.
    Close,
}

/// `[broker.tls]`: a TLS listener beside the plain one.
#[derive(Debug, Clone)]
pub struct PlantTls {
    /// Where it listens.
    pub listen: Placed<SocketAddr>,
    /// PEM file of the server's certificate and its chain.
    pub certificate: Placed<String>,
    /// PEM file of the certificate's key.
    pub key: Placed<String>,
    /// PEM file of the roots a client's certificate must lead to; without it clients need none.
    pub client_ca: Option<Placed<String>>,
}

/// What the uplink connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Azure IoT Hub.
    IotHub,
    /// The edgeHub of an IoT Edge gateway.
    Edge,
    /// Any MQTT broker.
    Mqtt,
}

/// What carries MQTT to the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// MQTT, over TLS where there is TLS.
    Mqtt,
    /// The same inside a WebSocket.
    WebSocket,
    /// Whichever gets through.
    Auto,
}

/// `[uplink]`: the cloud's side.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// What is on the other end, with its place.
    pub kind: Placed<Kind>,
    /// The device connection string, environment variables filled in.
    pub connection_string: Option<Placed<Secret>>,
    /// A file with the connection string.
    pub connection_string_file: Option<Placed<String>>,
    /// `[uplink.dps]`, in place of a connection string.
    pub dps: Option<Dps>,
    /// PEM file of the client certificate and its chain.
    pub certificate: Option<Placed<String>>,
    /// PEM file of the certificate's key.
    pub key: Option<Placed<String>>,
    /// Whom to trust.
    pub roots: Roots,
    /// The name under which the hub, or an edge in front of it, is looked up and proves itself, where it is not the hub's.
    pub gateway_host_name: Option<Placed<String>>,
    /// The model that the bridge itself follows, where it is a plug-and-play device.
    pub model_id: Option<Placed<String>>,
    /// What carries MQTT.
    pub transport: Transport,
    /// Host and port to connect to where they differ from what the name says.
    pub address: Option<Placed<(String, u16)>>,
    /// The HTTP proxy, `http://[user:password@]host:port`.
    pub proxy: Option<Placed<Secret>>,
    /// The address of this machine to connect from.
    pub bind: Option<Placed<IpAddr>>,
    /// Publishes that may wait for the hub's acknowledgement; `None` is as many as pay.
    pub window: Option<u16>,
    /// The hub's tier, by which late messages are paced.
    pub tier: Option<&'static str>,
    /// Units of that tier.
    pub units: u32,
    /// True where new messages go before those that waited through an outage.
    pub live_first: bool,
    /// True to mark messages that waited through an outage.
    pub mark_late: bool,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// Lifetime of a SAS token; it is renewed at 85 %.
    pub token_lifetime: Duration,
    /// First and longest pause between attempts to connect.
    pub backoff: (Duration, Duration),
    /// Time an acknowledgement may take before the connection is taken for dead.
    pub ack_timeout: Duration,
    /// Closes of the line in a row after which what was in flight is suspected of causing them; 0 suspects nothing.
    pub suspect_after: u32,
    /// The property that numbers the messages of each device; none without it.
    pub sequence_property: Option<Placed<String>>,
    /// How long the end of the program waits for the spool to drain.
    pub drain_timeout: Duration,
    /// Set where every device has a connection of its own.
    pub devices: Option<Devices>,
    /// Settings of `kind = "mqtt"`.
    pub mqtt: Mqtt,
}

/// The keys of `[uplink]` that only `kind = "mqtt"` has.
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// Topic of a message; `{device}`, `{topic}` and `{properties}` are filled in.
    pub topic: Placed<String>,
    /// True to speak TLS.
    pub tls: bool,
    /// The path of its WebSocket.
    pub websocket_path: Placed<String>,
    /// User name.
    pub username: Option<Placed<Secret>>,
    /// Password.
    pub password: Option<Placed<Secret>>,
    /// MQTT client id.
    pub client_id: Placed<String>,
}

/// When an append counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync.
    Fsync,
    /// After write: survives a crash of the program, not of the machine.
    Os,
}

/// What a full spool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It takes nothing more; publishers are not acknowledged.
    Refuse,
    /// It gives up its oldest messages, counted.
    DropOldest,
}

/// `[spool]`: what waits for the hub.
#[derive(Debug, Clone)]
pub struct Spool {
    /// Most disk space, in bytes.
    pub max_size: u64,
    /// Most disk space for messages of rules with `priority = "high"`, beside the other.
    pub urgent_max_size: u64,
    /// Most disk space for what waits in windows of rules with `batch`, `aggregate` or `pivot`.
    pub held_max_size: u64,
    /// When an append counts as durable.
    pub durability: Durability,
    /// What a full spool does.
    pub when_full: WhenFull,
    /// How long a commit may wait for company while more than one message comes at a time.
    pub commit_wait: Duration,
    /// Messages older than this are given up; `None` keeps them for ever.
    pub max_age: Option<Duration>,
}

/// `[quarantine]`: what the rules could not translate.
#[derive(Debug, Clone)]
pub struct Quarantine {
    /// Most disk space, in bytes; the oldest file goes first.
    pub max_size: u64,
}

/// `[admin]`: /metrics, /healthz and /readyz.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where HTTP is served.
    pub listen: Placed<SocketAddr>,
}

const SMALLEST_SPOOL: u64 = 16 << 20;

/// Reads `bridge.toml`. The settings are there only without errors; warnings may come with them.
pub fn parse(file: usize, text: &str, env: &dyn Fn(&str) -> Option<String>) -> (Option<Config>, Vec<Diagnostic>) {
    let mut report = Report::new(file, text);
    let table = crate::diag::syntax::parse(&mut report);
    let config = table.as_ref().map(|table| whole(Section::new(table.get_ref(), "bridge.toml", env, &mut report)));
    let sound = !report.found.iter().any(Diagnostic::is_error);
    report.found.sort_by_key(Diagnostic::sort_key);
    (config.flatten().filter(|_| sound), report.found)
}

fn whole(mut top: Section<'_, '_, '_>) -> Option<Config> {
    let rules = top.text_or("rules", "rules");
    let state = top.text_or("state", "/var/lib/brownbridge");
    let unmatched = top.choice("unmatched", &[("forward", Unmatched::Forward), ("drop", Unmatched::Drop)]);
    let broker = top.table("broker", "[broker]", broker);
    let uplink = match top.table("uplink", "[uplink]", uplink) {
        Some(uplink) => uplink,
        None => {
            top.missing_uplink();
            None
        }
    };
    let spool = top.table("spool", "[spool]", spool);
    let quarantine = top.table("quarantine", "[quarantine]", quarantine);
    let commands = top.table("commands", "[commands]", read::commands::commands);
    let admin = top.table("admin", "[admin]", admin);
    top.finish();
    let empty = toml::de::DeTable::new();
    let mut ignored = Report::new(0, "");
    let mut defaults = Section::new(&empty, "", &|_| None, &mut ignored);
    Some(Config {
        rules,
        state,
        unmatched: unmatched.map_or(Unmatched::Forward, |choice| choice.value),
        broker: broker.unwrap_or_else(|| self::broker(&mut defaults)),
        uplink: uplink?,
        spool: spool.unwrap_or_else(|| self::spool(&mut defaults)),
        quarantine: quarantine.unwrap_or_else(|| self::quarantine(&mut defaults)),
        commands: commands.unwrap_or_else(|| read::commands::commands(&mut defaults)),
        admin: admin.unwrap_or_else(|| self::admin(&mut defaults)),
    })
}

fn broker(section: &mut Section<'_, '_, '_>) -> Broker {
    Broker {
        listen: section.listen("listen", SocketAddr::from(([0, 0, 0, 0], 1883))),
        websocket: section.listen_if("websocket", SocketAddr::from(([0, 0, 0, 0], 9001))),
        tls: section.table("tls", "[broker.tls]", plant_tls).flatten(),
        max_packet_size: section.size("max_packet_size", 1 << 20, 1 << 10..=268_435_455),
        max_connections: section.count("max_connections", 10_000, 1..=1_000_000),
        connect_timeout: section.duration("connect_timeout", Duration::from_secs(10)),
        max_unacknowledged: section.count("max_unacknowledged", 1_000, 1..=65_535),
        subscriber_queue_messages: section.count("subscriber_queue_messages", 1_000, 1..=1_000_000),
        subscriber_queue_bytes: section.size("subscriber_queue_bytes", 1 << 20, 1 << 10..=1 << 30),
        sessions: Sessions {
            max_expiry: section.duration("max_session_expiry", Duration::from_secs(7 * 24 * 3600)),
            max_away: section.count("max_sessions", 10_000, 0..=1_000_000),
            max_bytes: section.size("max_session_bytes", 64 << 20, 0..=1 << 40),
        },
        max_keep_alive: section.duration("max_keep_alive", Duration::ZERO),
        max_retained: section.count("max_retained", 10_000, 0..=1_000_000),
        max_retained_bytes: section.size("max_retained_bytes", 16 << 20, 0..=1 << 32),
        fence: fence(section),
        limits: limits(section),
    }
}

fn fence(section: &mut Section<'_, '_, '_>) -> Fence {
    let fence = Fence {
        access: section.text("access"),
        users: section.text("users"),
        anonymous: section.flag("anonymous", true),
        learn: section.text("learn"),
    };
    section.check_fence(&fence);
    fence
}

fn limits(section: &mut Section<'_, '_, '_>) -> Limits {
    let over = section.choice("over_publish_rate", &[("wait", OverRate::Wait), ("close", OverRate::Close)]);
    Limits {
        max_connections_per_address: section.count("max_connections_per_address", 10_000, 1..=1_000_000),
        max_connect_rate: section.count("max_connect_rate", 0, 0..=1_000_000),
        max_publish_rate: section.count("max_publish_rate", 0, 0..=10_000_000),
        over_publish_rate: over.map_or(OverRate::Wait, |choice| choice.value),
        max_subscriptions: section.count("max_subscriptions", 1_000, 0..=1_000_000),
    }
}

fn plant_tls(section: &mut Section<'_, '_, '_>) -> Option<PlantTls> {
    let listen = section.listen("listen", SocketAddr::from(([0, 0, 0, 0], 8883)));
    let certificate = section.demanded("certificate", "certificate = \"plant.pem\"   # the chain, leaf first");
    let key = section.demanded("key", "key = \"plant.key\"");
    let client_ca = section.text("client_ca");
    Some(PlantTls { listen, certificate: certificate?, key: key?, client_ca })
}

fn uplink(section: &mut Section<'_, '_, '_>) -> Option<Uplink> {
    let kinds = [("iothub", Kind::IotHub), ("edge", Kind::Edge), ("mqtt", Kind::Mqtt)];
    let kind = section.choice("kind", &kinds).unwrap_or(Placed { value: Kind::IotHub, span: section.span() });
    let transport = transport(section, kind.value);
    let uplink = Uplink {
        connection_string: section.secret("connection_string"),
        connection_string_file: section.text("connection_string_file"),
        dps: section.table("dps", "[uplink.dps]", dps::dps).flatten(),
        certificate: section.text("certificate"),
        key: section.text("key"),
        roots: read::roots::roots(section),
        model_id: section.for_a_hub("model_id", kind.value),
        gateway_host_name: section.for_a_hub("gateway_host_name", kind.value),
        address: section.address("address", if transport == Transport::WebSocket { 443 } else { 8883 }),
        transport,
        proxy: dps::proxy(section),
        bind: dps::bind(section),
        window: section.count_or_auto("window", 1..=16_384).map(|window| u16::try_from(window).unwrap_or(16)),
        tier: section.tier(kind.value),
        units: u32::try_from(section.count("units", 1, 1..=200)).unwrap_or(1),
        live_first: section.flag("live_first", true),
        mark_late: section.flag("mark_late", false),
        keep_alive: section.duration("keep_alive", Duration::from_secs(60)),
        token_lifetime: section.duration("token_lifetime", Duration::from_secs(3_600)),
        backoff: (
            section.duration("backoff_min", Duration::from_secs(1)),
            section.duration("backoff_max", Duration::from_secs(60)),
        ),
        ack_timeout: section.duration("ack_timeout", Duration::from_secs(60)),
        suspect_after: u32::try_from(section.count("suspect_after", 3, 0..=1_000)).unwrap_or(3),
        sequence_property: section.text("sequence_property"),
        drain_timeout: section.duration("drain_timeout", Duration::from_secs(5)),
        devices: devices::read(section, kind.value),
        mqtt: mqtt(section, kind.value),
        kind,
    };
    section.check_uplink(&uplink);
    section.check_credentials(&uplink);
    if let Some(dps) = &uplink.dps {
        section.check_dps(&uplink, dps);
    }
    Some(uplink)
}

/// What carries MQTT. To try both, each port must be the usual one.
fn transport(section: &mut Section<'_, '_, '_>, kind: Kind) -> Transport {
    let words = [("mqtt", Transport::Mqtt), ("websocket", Transport::WebSocket), ("auto", Transport::Auto)];
    let Some(Placed { value, span }) = section.choice("transport", &words) else { return Transport::Mqtt };
    if value == Transport::Auto {
        section.check_auto(kind, span);
    }
    value
}

fn mqtt(section: &mut Section<'_, '_, '_>, kind: Kind) -> Mqtt {
    let default_id = || "brownbridge".to_owned();
    if kind != Kind::Mqtt {
        section.only_for_mqtt(&["topic", "tls", "username", "password", "client_id", "websocket_path"]);
        let nowhere = |value| Placed { value, span: 0..0 };
        return Mqtt {
            topic: nowhere(String::new()),
            tls: true,
            websocket_path: nowhere(String::new()),
            username: None,
            password: None,
            client_id: nowhere(String::new()),
        };
    }
    Mqtt {
        topic: section.topic_template("topic", "brownbridge/{device}", &["device", "topic", "properties"]),
        tls: section.flag("tls", true),
        websocket_path: section.url_path("websocket_path", "/mqtt"),
        username: section.secret("username"),
        password: section.secret("password"),
        client_id: section.text("client_id").unwrap_or(Placed { value: default_id(), span: 0..0 }),
    }
}

fn spool(section: &mut Section<'_, '_, '_>) -> Spool {
    let durability = section.choice("durability", &[("fsync", Durability::Fsync), ("os", Durability::Os)]);
    let when_full = section.choice("when_full", &[("refuse", WhenFull::Refuse), ("drop-oldest", WhenFull::DropOldest)]);
    Spool {
        max_size: section.size("max_size", 4 << 30, SMALLEST_SPOOL..=1 << 50),
        urgent_max_size: section.size("urgent_max_size", 64 << 20, SMALLEST_SPOOL..=1 << 50),
        held_max_size: section.size("held_max_size", 256 << 20, SMALLEST_SPOOL..=1 << 50),
        durability: durability.map_or(Durability::Fsync, |choice| choice.value),
        when_full: when_full.map_or(WhenFull::Refuse, |choice| choice.value),
        commit_wait: section.duration("commit_wait", Duration::from_micros(500)),
        max_age: section.age("max_age"),
    }
}

fn quarantine(section: &mut Section<'_, '_, '_>) -> Quarantine {
    Quarantine { max_size: section.size("max_size", 64 << 20, 1 << 20..=1 << 40) }
}

fn admin(section: &mut Section<'_, '_, '_>) -> Admin {
    Admin { listen: section.listen("listen", SocketAddr::from(([127, 0, 0, 1], 9883))) }
}

#[cfg(test)]
mod tests;
