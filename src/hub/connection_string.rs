//! Device connection strings, as they are pasted from the portal or the Azure CLI.
//!
//! ```text
//! HostName=..;DeviceId=..[;ModuleId=..];(SharedAccessKey=..|SharedAccessSignature=..|x509=true)[;GatewayHostName=..]
//! ```
//!
//! Names are case-sensitive and a value may contain `=`. What pasting adds and nobody can misread is
//! tolerated: white space around the text and its parts, a pair of quotes around it, a `;` at its end.
//! Everything else that is not exactly right is an error that says what; no error repeats a value, for
//! the value may be the key.

use std::fmt;

use super::limits::{DEVICE_ID_MARKS, DEVICE_ID_MAX_CHARS};
use super::sas::{Key, KeyError, Token, TokenError};
use crate::secret::Secret;

/// A device connection string, taken apart.
#[derive(Debug, Clone)]
pub struct ConnectionString {
    /// The hub.
    pub host: String,
    /// The device id.
    pub device: String,
    /// The module id.
    pub module: Option<String>,
    /// The IoT Edge gateway to connect to instead of the hub.
    pub gateway: Option<String>,
    /// How the device proves itself.
    pub auth: Auth,
}

/// How a device proves itself.
#[derive(Debug, Clone)]
pub enum Auth {
    /// `SharedAccessKey`: tokens are minted from it.
    Key(Key),
    /// `SharedAccessSignature`: a ready token, good until it expires.
    Token(Secret),
    /// `x509=true`: the certificate of the TLS connection.
    X509,
}

/// What is wrong with a connection string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionStringError {
    /// There is no text.
    Empty,
    /// JSON, most often the output of `az` without `-o tsv`.
    Json,
    /// The part with this number, from 1, is no `Name=value`.
    NotAPair(usize),
    /// A name nobody knows; where it differs from a known one only in case, that one.
    Unknown(usize, Option<&'static str>),
    /// A name is there twice.
    Repeated(&'static str),
    /// A name is not there, or without a value.
    Missing(&'static str),
    /// None of `SharedAccessKey`, `SharedAccessSignature` and `x509=true`.
    NoAuth,
    /// More than one of them.
    MixedAuth,
    /// The string of a service (or of the whole hub), not of a device.
    Service,
    /// `x509` with another value than `true`.
    X509,
    /// The key is not base64.
    Key(KeyError),
    /// The token is not one.
    Token(TokenError),
    /// A host name that is none.
    Host(&'static str),
    /// A device or module id that the hub does not allow.
    Id(&'static str),
}

/// Where to get the right one.
const WHERE: &str = "a device connection string is shown in the portal under IoT Hub > Devices > (device) > \
     Primary connection string, or by `az iot hub device-identity connection-string show -n HUB -d DEVICE -o tsv`";

impl fmt::Display for ConnectionStringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the connection string is empty; {WHERE}"),
            Self::Json => f.write_str("this is JSON, not a connection string; `az ... -o tsv` prints the bare text"),
            Self::NotAPair(n) => write!(f, "part {n} of the connection string is not of the form `Name=value`"),
            Self::Unknown(n, Some(like)) => {
                write!(f, "part {n} of the connection string has an unknown name; it is written `{like}`, in this case")
            }
            Self::Unknown(n, None) => write!(
                f,
                "part {n} of the connection string has an unknown name (known: HostName, DeviceId, ModuleId, \
                 SharedAccessKey, SharedAccessSignature, x509, GatewayHostName)"
            ),
            Self::Repeated(name) => write!(f, "the connection string has `{name}` twice"),
            Self::Missing(name) => write!(f, "the connection string has no `{name}`; {WHERE}"),
            Self::NoAuth => f.write_str(
                "the connection string has none of `SharedAccessKey`, `SharedAccessSignature` and `x509=true`",
            ),
            Self::MixedAuth => f.write_str(
                "the connection string has more than one of `SharedAccessKey`, `SharedAccessSignature` and `x509`",
            ),
            Self::Service => write!(
                f,
                "this is the connection string of a service (it has `SharedAccessKeyName`): \
                 it would open the whole hub, and a device connection string is needed; {WHERE}"
            ),
            Self::X509 => f.write_str("`x509` in a connection string can only be `true`"),
            Self::Key(e) => write!(f, "SharedAccessKey: {e}"),
            Self::Token(e) => write!(f, "SharedAccessSignature: {e}"),
            Self::Host(name) => {
                write!(
                    f,
                    "`{name}` must be a bare host name, like `my-hub.azure-devices.net`, without scheme, port or path"
                )
            }
            Self::Id(name) => write!(
                f,
                "`{name}` has a character the hub does not allow, or more than {DEVICE_ID_MAX_CHARS} of them \
                 (allowed: ASCII letters, digits and {DEVICE_ID_MARKS})"
            ),
        }
    }
}

impl std::error::Error for ConnectionStringError {}

const NAMES: [&str; 8] = [
    "HostName",
    "DeviceId",
    "ModuleId",
    "SharedAccessKey",
    "SharedAccessSignature",
    "x509",
    "GatewayHostName",
    "SharedAccessKeyName",
];

impl ConnectionString {
    /// Reads a connection string.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        let values = split(unquote(text.trim()))?;
        let [host, device, module, key, token, x509, gateway, policy] = values;
        if policy.is_some() {
            return Err(ConnectionStringError::Service);
        }
        let required = |value: Option<&str>, name| {
            value.map(str::to_owned).filter(|v| !v.is_empty()).ok_or(ConnectionStringError::Missing(name))
        };
        let optional = |value: Option<&str>| value.map(str::to_owned).filter(|v| !v.is_empty());
        let connection = Self {
            host: required(host, "HostName")?,
            device: required(device, "DeviceId")?,
            module: optional(module),
            gateway: optional(gateway),
            auth: auth(key, token, x509)?,
        };
        for (host, name) in [(Some(&connection.host), "HostName"), (connection.gateway.as_ref(), "GatewayHostName")] {
            if host.is_some_and(|h| !is_host(h)) {
                return Err(ConnectionStringError::Host(name));
            }
        }
        for (id, name) in [(Some(&connection.device), "DeviceId"), (connection.module.as_ref(), "ModuleId")] {
            if id.is_some_and(|id| !is_id(id)) {
                return Err(ConnectionStringError::Id(name));
            }
        }
        Ok(connection)
    }
}

fn unquote(text: &str) -> &str {
    ['"', '\''].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote)).map_or(text, str::trim)
}

fn split(text: &str) -> Result<[Option<&str>; 8], ConnectionStringError> {
    if text.is_empty() {
        return Err(ConnectionStringError::Empty);
    }
    if text.starts_with(['{', '[']) {
        return Err(ConnectionStringError::Json);
    }
    let mut values = [None; 8];
    let text = text.strip_suffix(';').unwrap_or(text);
    for (number, part) in (1..).zip(text.split(';')) {
        let (name, value) = part.split_once('=').ok_or(ConnectionStringError::NotAPair(number))?;
        let (name, value) = (name.trim(), value.trim());
        let Some((slot, known)) = values.iter_mut().zip(NAMES).find(|(_, known)| *known == name) else {
            let like = NAMES.into_iter().find(|known| known.eq_ignore_ascii_case(name));
            return Err(ConnectionStringError::Unknown(number, like));
        };
        if slot.replace(value).is_some() {
            return Err(ConnectionStringError::Repeated(known));
        }
    }
    Ok(values)
}

fn auth(key: Option<&str>, token: Option<&str>, x509: Option<&str>) -> Result<Auth, ConnectionStringError> {
    match (key, token, x509) {
        (None, None, None) => Err(ConnectionStringError::NoAuth),
        (Some(key), None, None) => Key::parse(key).map(Auth::Key).map_err(ConnectionStringError::Key),
        (None, Some(token), None) => {
            Token::parse(token).map_err(ConnectionStringError::Token)?;
            Ok(Auth::Token(Secret::new(token.to_owned())))
        }
        (None, None, Some("true")) => Ok(Auth::X509),
        (None, None, Some(_)) => Err(ConnectionStringError::X509),
        _ => Err(ConnectionStringError::MixedAuth),
    }
}

/// Says whether a text is a bare host name or IPv6 address.
pub fn is_host(text: &str) -> bool {
    // An IPv6 address of a gateway has colons; a port behind a name is the mistake to catch.
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    text.bytes().all(name) || text.parse::<std::net::Ipv6Addr>().is_ok()
}

/// Says whether a device or module id is one the hub allows.
pub fn is_id(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || DEVICE_ID_MARKS.contains(c);
    !text.is_empty() && text.len() <= DEVICE_ID_MAX_CHARS && text.chars().all(allowed)
}
