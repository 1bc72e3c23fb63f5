//! Where messages go, and under which topic and name.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::MessageId;
use super::relay::{Carrier, Route};
use super::transport::Transport;
use rumqttc::tokio_rustls::rustls::ClientConfig;

use crate::hub::connect::{self, Identity};
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::hub::limits::{D2C_MAX_BYTES, TOPIC_MAX_BYTES};
use crate::hub::{d2c, sas};
use crate::message::{HubMessage, Timestamp};
use crate::outbound::Way;
use crate::secret::Secret;

/// What the uplink connects to.
#[derive(Debug, Clone)]
pub enum Target {
    /// An IoT Hub or an edgeHub.
    Hub(HubTarget),
    /// Any MQTT 3.1.1 broker.
    Mqtt(MqttTarget),
}

/// An IoT Hub, or an edgeHub through `GatewayHostName`.
#[derive(Debug, Clone)]
pub struct HubTarget {
    /// Identity, key and host names.
    pub connection: ConnectionString,
    /// Roots, and the client certificate with X.509.
    pub tls: Arc<ClientConfig>,
    /// What carries MQTT there.
    pub transport: Transport,
    /// How its port is reached.
    pub way: Way,
    /// When the client certificate ends, seconds since 1970.
    pub certificate_expiry: Option<i64>,
    /// Lifetime of the tokens minted.
    pub token_lifetime: Duration,
    /// The model that a plug-and-play device follows.
    pub model_id: Option<String>,
    /// The connection speaks for other devices: what a rule names as device becomes a property. Otherwise the messages
    /// are those of this identity.
    pub gateway: bool,
}

/// A plain MQTT broker.
#[derive(Debug, Clone)]
pub struct MqttTarget {
    /// Host and port.
    pub address: (String, u16),
    /// How they are reached.
    pub way: Way,
    /// TLS, or plain TCP.
    pub tls: Option<Arc<ClientConfig>>,
    /// The path of its WebSocket; without it MQTT is spoken at once.
    pub websocket: Option<String>,
    /// Topic with `{device}`, `{topic}` and `{properties}`.
    pub topic: String,
    /// User name and password.
    pub credentials: Option<(Secret, Secret)>,
    /// MQTT client id.
    pub client_id: String,
}

/// What CONNECT says.
pub(crate) struct Login {
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    /// `None` with X.509: the password flag is then absent.
    pub(super) password: Option<Secret>,
    /// When the password expires, seconds since 1970, and when it is to be renewed.
    pub(super) expiry: Option<(i64, Duration)>,
}

/// How this program names itself to the hub.
const CLIENT_TYPE: &str = concat!("brownbridge/", env!("CARGO_PKG_VERSION"));

/// A token is renewed after this part of its life at the latest, as Microsoft's .NET and Java libraries do.
const RENEW_AT: f64 = 0.85;

impl Target {
    /// The host to dial, the name its certificate must have, and the port.
    pub(super) fn server(&self) -> (&str, u16) {
        match self {
            Self::Hub(hub) => {
                let port = hub.way.address.as_ref().map_or(hub.transport.port(), |(_, port)| *port);
                (connect::server_name(&hub.connection), port)
            }
            Self::Mqtt(mqtt) => (&mqtt.address.0, mqtt.address.1),
        }
    }

    /// Who connects, for people.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::Hub(hub) => Identity::of(&hub.connection).client_id(),
            Self::Mqtt(mqtt) => mqtt.client_id.clone(),
        }
    }

    /// Says so where a token of the connection string is over: nobody renews it.
    pub fn token_expired(&self, now: Timestamp) -> Option<String> {
        let Self::Hub(hub) = self else { return None };
        let expiry = hub.given_token_expiry().filter(|expiry| *expiry < now.as_secs())?;
        let at = Timestamp(expiry.saturating_mul(1_000));
        Some(format!(
            "the SharedAccessSignature of the connection string ended {at} and nobody renews it: put a new one, or the \
             device's SharedAccessKey, from which the bridge makes its own"
        ))
    }

    /// How whoever judges the tokens that are made here is asked for the time.
    pub(super) fn clock(&self) -> Option<(&Way, &str, &Arc<ClientConfig>)> {
        let Self::Hub(hub) = self else { return None };
        matches!(hub.connection.auth, Auth::Key(_)).then(|| (&hub.way, self.server().0, &hub.tls))
    }

    /// When the token ends that the connection string brought, seconds since 1970.
    pub(super) fn given_token_expiry(&self) -> Option<i64> {
        match self {
            Self::Hub(hub) => hub.given_token_expiry(),
            Self::Mqtt(_) => None,
        }
    }

    /// When the client certificate ends, where there is one.
    pub(super) fn certificate_expiry(&self) -> Option<i64> {
        match self {
            Self::Hub(hub) => hub.certificate_expiry,
            Self::Mqtt(_) => None,
        }
    }

    /// How the connection is opened where `rumqttc` cannot do it itself: it only dials the name it verifies.
    pub(super) fn route(&self, max_packet_size: usize) -> Option<Route> {
        let (way, (host, port)) = (self.way(), self.server());
        let elsewhere = way.address.as_ref().is_some_and(|(other, _)| other != host);
        let path = self.websocket();
        let needed = path.is_some() || elsewhere || way.proxy.is_some() || way.bind.is_some();
        let carrier = match path {
            None => Carrier::Bytes,
            Some(path) => Carrier::WebSocket { tls: self.tls().cloned(), path: path.to_owned(), max_packet_size },
        };
        needed.then(|| Route { way: way.clone(), host: host.to_owned(), port, carrier })
    }

    /// The path of the WebSocket, where there is to be one.
    pub(super) fn websocket(&self) -> Option<&str> {
        match self {
            Self::Hub(hub) => {
                hub.transport.is_websocket().then(|| connect::websocket_path(hub.certificate_by_websocket()))
            }
            Self::Mqtt(mqtt) => mqtt.websocket.as_deref(),
        }
    }

    /// What carries MQTT to a hub.
    pub(super) fn transport(&self) -> Option<&Transport> {
        match self {
            Self::Hub(hub) => Some(&hub.transport),
            Self::Mqtt(_) => None,
        }
    }

    /// Decides what is still open, for one connection.
    pub(super) fn decide(mut self) -> Self {
        if let Self::Hub(hub) = &mut self {
            hub.transport.decide();
        }
        self
    }

    pub(super) fn way(&self) -> &Way {
        match self {
            Self::Hub(hub) => &hub.way,
            Self::Mqtt(mqtt) => &mqtt.way,
        }
    }

    pub(super) fn tls(&self) -> Option<&Arc<ClientConfig>> {
        match self {
            Self::Hub(hub) => Some(&hub.tls),
            Self::Mqtt(mqtt) => mqtt.tls.as_ref(),
        }
    }

    /// A plain broker has nothing to keep.
    pub(super) fn clean_session(&self) -> bool {
        match self {
            Self::Hub(_) => connect::CLEAN_SESSION,
            Self::Mqtt(_) => true,
        }
    }

    pub(super) fn login(&self, now: Timestamp) -> Login {
        match self {
            Self::Hub(hub) => hub.login(now),
            Self::Mqtt(mqtt) => Login {
                client_id: mqtt.client_id.clone(),
                username: mqtt.credentials.as_ref().map(|(name, _)| name.expose().to_owned()),
                password: mqtt.credentials.as_ref().map(|(_, password)| password.clone()),
                expiry: None,
            },
        }
    }

    /// In words why the other side would close the connection at `message`; `None` where it takes it. `topic` is what
    /// [`topic`](Self::topic) made of it.
    pub(super) fn too_large(
        &self,
        message: &HubMessage<'_>,
        (id, topic, replayed): (MessageId, &str, bool),
    ) -> Option<String> {
        let fits = topic.len() <= TOPIC_MAX_BYTES;
        match self {
            Self::Hub(hub) if !fits || message.body.len() + topic.len() > D2C_MAX_BYTES => {
                let sender = d2c::Sender { identity: Identity::of(&hub.connection), gateway: hub.gateway, replayed };
                d2c::check_size(&sender, message, &message_id(id), topic).err().map(|error| error.to_string())
            }
            Self::Mqtt(_) if !fits => Some(d2c::SizeError::Topic(topic.len()).to_string()),
            _ => None,
        }
    }

    /// The topic `message` goes out on; `replayed` marks it as late.
    pub(super) fn topic(&self, message: &HubMessage<'_>, id: MessageId, replayed: bool) -> String {
        let mut topic = String::with_capacity(192);
        match self {
            Self::Hub(hub) => {
                let sender = d2c::Sender { identity: Identity::of(&hub.connection), gateway: hub.gateway, replayed };
                d2c::push_topic(&mut topic, &sender, message, &message_id(id));
            }
            Self::Mqtt(mqtt) => mqtt.push_topic(&mut topic, message, id, replayed),
        }
        topic
    }
}

impl HubTarget {
    fn given_token_expiry(&self) -> Option<i64> {
        let Auth::Token(token) = &self.connection.auth else { return None };
        sas::Token::parse(token.expose()).ok().map(|token| token.expiry)
    }

    /// True where a client certificate is to be shown below a WebSocket.
    pub(super) fn certificate_by_websocket(&self) -> bool {
        self.transport.is_websocket() && matches!(self.connection.auth, Auth::X509)
    }

    fn login(&self, now: Timestamp) -> Login {
        let identity = Identity::of(&self.connection);
        let (password, expiry) = match &self.connection.auth {
            Auth::Key(key) => {
                let lifetime = i64::try_from(self.token_lifetime.as_secs()).unwrap_or(3_600);
                let expiry = now.as_secs().saturating_add(lifetime);
                let token = sas::mint(key, &identity.resource(), expiry, None);
                (Some(token), Some((expiry, self.token_lifetime.mul_f64(RENEW_AT))))
            }
            Auth::Token(token) => (Some(token.clone()), None),
            Auth::X509 => (None, None),
        };
        Login {
            client_id: identity.client_id(),
            username: Some(identity.username(Some(CLIENT_TYPE), self.model_id.as_deref())),
            password,
            expiry,
        }
    }
}

impl MqttTarget {
    fn push_topic(&self, out: &mut String, message: &HubMessage<'_>, id: MessageId, replayed: bool) {
        let mut rest = self.topic.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let Some((name, next)) = after.split_once('}') else { break };
            match name {
                "device" => push_levels(out, message.device),
                "topic" => {
                    let original = message.properties().find(|(name, _)| *name == "topic");
                    push_levels(out, original.map_or("", |(_, topic)| topic));
                }
                _ => Self::push_properties(out, message, id, replayed),
            }
            rest = next;
        }
        out.push_str(rest);
    }

    fn push_properties(out: &mut String, message: &HubMessage<'_>, id: MessageId, replayed: bool) {
        let nobody = Identity { hub: "", device: "", module: None };
        let mut topic = String::new();
        let sender = d2c::Sender { identity: nobody, gateway: true, replayed };
        d2c::push_topic(&mut topic, &sender, message, &message_id(id));
        let mut prefix = String::new();
        d2c::push_prefix(&mut prefix, &nobody);
        out.push_str(topic.strip_prefix(prefix.as_str()).unwrap_or(&topic));
    }
}

/// Keeps a name from the plant from being read as a wildcard.
fn push_levels(out: &mut String, name: &str) {
    out.extend(name.chars().map(|c| if matches!(c, '+' | '#' | '\0') { '_' } else { c }));
}

/// The same for every sending of one message, so that the cloud can drop duplicates.
fn message_id(id: MessageId) -> String {
    let mut text = String::with_capacity(36);
    let _ = write!(text, "{id}");
    text
}
