//! The Device Provisioning Service: a device says who it is, and is told its hub and its device id.
//!
//! # The dialogue
//!
//! ```text
//! register -> 202 assigning -> (pause) -> status -> 202 assigning -> .. -> 200 assigned | failed | disabled
//! ```
//!
//! REST and MQTT carry the same requests and the same JSON; only the envelope differs ([`Request::http`],
//! [`Request::topic`]). [`Dialogue`] is the state machine of both: an answer and the time go in, the next [`Step`]
//! comes out.
//!
//! | answer | what follows |
//! |---|---|
//! | 202 | the status after `Retry-After`, else 2 s; never more than 5 requests in 10 s, the service's limit |
//! | 200 assigned | done |
//! | 200 with any other status | failed, in words |
//! | 429 or 5xx to a status request | asked again after `Retry-After`, or 5 s and more |
//! | 429 or 5xx to a registration, any other 4xx | failed; [`Trouble::pause`] says when it pays to try again |
//!
//! A dialogue that has no result after [`PATIENCE`] has failed.
//!
//! # Identity
//!
//! Registration ids are case-insensitive and go out in lower case, also into the derivation of keys. A key proves
//! itself by a token for `{scope}/registrations/{id}`, a certificate by the TLS connection, whose common name is the
//! registration id then.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use super::bag;
use super::sas::{self, Key};
use crate::secret::Secret;

mod dialogue;
mod trouble;

pub use dialogue::{Assignment, Dialogue, PATIENCE, Reply, Step};
pub use trouble::{Kind, Trouble};

/// Where every provisioning service of the public cloud answers.
pub const HOST: &str = "global.azure-devices-provisioning.net";
/// The version all of Microsoft's device SDKs ask for.
pub const API_VERSION: &str = "2019-03-31";
/// What a device subscribes to over MQTT.
pub const REPLIES: &str = "$dps/registrations/res/#";
/// Nothing is kept between two registrations.
pub const CLEAN_SESSION: bool = true;
/// Longest registration id.
pub const ID_MAX_CHARS: usize = 128;
/// Longest registration id that fits the common name of a certificate.
pub const COMMON_NAME_MAX_CHARS: usize = 64;

/// The policy that tokens for registrations name.
const POLICY: &str = "registration";
/// The registration id marks besides letters and digits.
const MARKS: &str = "-._:";

/// Who registers; always in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistrationId(String);

/// A registration id the service does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationIdError {
    /// There is no text.
    Empty,
    /// More than [`ID_MAX_CHARS`].
    Long(usize),
    /// A character that cannot be in it.
    Character(char),
    /// It ends with another mark than `-`.
    End(char),
}

impl fmt::Display for RegistrationIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the registration id is empty"),
            Self::Long(chars) => write!(f, "the registration id has {chars} characters, {ID_MAX_CHARS} are allowed"),
            Self::Character(c) => write!(
                f,
                "the registration id has {c:?} in it; allowed are ASCII letters, digits, `-`, `.`, `_` and `:`"
            ),
            Self::End(c) => write!(f, "the registration id ends with {c:?}; it must end with a letter, a digit or `-`"),
        }
    }
}

impl std::error::Error for RegistrationIdError {}

impl RegistrationId {
    /// Takes an id as people write it; upper case becomes lower case.
    pub fn parse(text: &str) -> Result<Self, RegistrationIdError> {
        let chars = text.chars().count();
        if chars > ID_MAX_CHARS {
            return Err(RegistrationIdError::Long(chars));
        }
        if let Some(c) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !MARKS.contains(*c)) {
            return Err(RegistrationIdError::Character(c));
        }
        match text.chars().last() {
            None => Err(RegistrationIdError::Empty),
            Some(c) if !c.is_ascii_alphanumeric() && c != '-' => Err(RegistrationIdError::End(c)),
            Some(_) => Ok(Self(text.to_ascii_lowercase())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of this device in a group with `group` as its key.
    pub fn key_of(&self, group: &Key) -> Secret {
        group.derive(&self.0)
    }
}

impl fmt::Display for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is registered where.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The ID scope of the service.
    pub scope: String,
    /// Who registers.
    pub id: RegistrationId,
    /// The version of the service's interface to ask for.
    pub api_version: String,
    /// A JSON value for the service's custom allocation, as it is sent.
    pub payload: Option<String>,
}

impl Registration {
    /// What a token is for, not encoded.
    pub fn resource(&self) -> String {
        format!("{}/registrations/{}", self.scope, self.id)
    }

    /// A token that ends at `expiry`, seconds since 1970: the `Authorization` of REST, the password of MQTT.
    pub fn token(&self, key: &Key, expiry: i64) -> Secret {
        sas::mint(key, &self.resource(), expiry, Some(POLICY))
    }

    /// The user name of a CONNECT; `client` is how the program names itself. There is no `?` in it.
    pub fn username(&self, client: &str) -> String {
        let mut name = format!("{}/api-version={}&ClientVersion=", self.resource(), self.api_version);
        bag::encode(&mut name, client);
        name
    }

    fn body(&self) -> String {
        let mut body = format!("{{\"registrationId\":\"{}\"", self.id);
        if let Some(payload) = &self.payload {
            let _ = write!(body, ",\"payload\":{payload}");
        }
        body.push('}');
        body
    }
}

/// One question of the dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Here I am.
    Register,
    /// What became of it? With the operation's id, as the service gave it.
    Status(String),
}

/// A request over REST.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// `PUT` or `GET`.
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    /// JSON.
    pub body: String,
}

impl Request {
    /// The request over REST.
    pub fn http(&self, registration: &Registration) -> HttpRequest {
        let (resource, version) = (registration.resource(), &registration.api_version);
        match self {
            Self::Register => HttpRequest {
                method: "PUT",
                path: format!("/{resource}/register?api-version={version}"),
                body: registration.body(),
            },
            Self::Status(operation) => {
                let mut path = format!("/{resource}/operations/");
                bag::encode(&mut path, operation);
                let _ = write!(path, "?api-version={version}");
                HttpRequest { method: "GET", path, body: String::new() }
            }
        }
    }

    /// The topic of the request over MQTT; the answer repeats `request_id`.
    pub fn topic(&self, request_id: &str) -> String {
        match self {
            Self::Register => format!("$dps/registrations/PUT/iotdps-register/?$rid={request_id}"),
            Self::Status(operation) => {
                let mut topic =
                    format!("$dps/registrations/GET/iotdps-get-operationstatus/?$rid={request_id}&operationId=");
                bag::encode(&mut topic, operation);
                topic
            }
        }
    }

    /// What is published to that topic. The SDKs send one space where there is nothing to say.
    pub fn payload(&self, registration: &Registration) -> String {
        match self {
            Self::Register => registration.body(),
            Self::Status(_) => " ".to_owned(),
        }
    }
}

/// What the topic of an answer over MQTT says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTopic<'a> {
    /// As in HTTP.
    pub status: u16,
    /// That of the request.
    pub request_id: &'a str,
    /// Seconds to wait before the next request.
    pub retry_after: Option<u64>,
}

impl<'a> ReplyTopic<'a> {
    /// Reads `$dps/registrations/res/{status}/?$rid={rid}[&retry-after={seconds}]`.
    pub fn parse(topic: &'a str) -> Option<Self> {
        let (status, query) = topic.strip_prefix("$dps/registrations/res/")?.split_once("/?")?;
        let field = |name: &str| query.split('&').find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name));
        Some(Self {
            status: status.parse().ok()?,
            request_id: field("$rid")?.1,
            retry_after: field("retry-after").and_then(|(_, seconds)| seconds.parse().ok()),
        })
    }
}

/// A pause of `base`, spread by up to a quarter more as `chance` (0 to 1) has it.
fn spread(base: Duration, chance: f64) -> Duration {
    base.mul_f64(1.0 + 0.25 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
