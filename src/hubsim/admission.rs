//! Who may connect: the CONNECT packet against the registered devices.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rmqtt_codec::v3::Connect;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use super::Credential;
use super::names::Username;
use super::received::Source;
use crate::hub::certificate::{common_name, thumbprint};
use crate::hub::connect::Identity;
use crate::hub::connection_string::is_id;
use crate::hub::sas::{Key, Token, TokenError};

/// What the hub stamps on messages of a device with a key.
const BY_TOKEN: &str = r#"{"scope":"device","type":"sas","issuer":"iothub"}"#;
const BY_CERTIFICATE: &str = r#"{"scope":"device","type":"x509Certificate","issuer":"external"}"#;

/// Why a CONNECT is refused. The client learns only a number, the operator of the simulator this.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not MQTT 3.1.1.
    Protocol,
    Switch,
    Username(String),
    Host(String),
    ClientId(String),
    Unknown(String),
    Disabled(String),
    NoCredential,
    Certificate(&'static str),
    Policy,
    Audience(String),
    Token(TokenError),
    TooMany,
}

impl Refusal {
    /// The CONNACK return code: a hub answers 5 to nearly everything.
    pub(super) fn code(&self, edge: bool) -> u8 {
        match self {
            Self::Protocol => 1,
            Self::Username(_) if edge => 3,
            Self::TooMany => 3,
            _ => 5,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol => f.write_str("not MQTT 3.1.1 (protocol level 4)"),
            Self::Switch => f.write_str("told to refuse"),
            Self::Username(name) => write!(f, "malformed user name {name:?}"),
            Self::Host(name) => write!(f, "user name {name:?} names another hub"),
            Self::ClientId(id) => write!(f, "client id {id:?} is not the identity of the user name"),
            Self::Unknown(id) => write!(f, "no device {id:?}"),
            Self::Disabled(id) => write!(f, "the device {id:?} is disabled"),
            Self::NoCredential => f.write_str("neither a password nor a client certificate"),
            Self::Certificate(why) => write!(f, "client certificate: {why}"),
            Self::Policy => f.write_str("the token names a policy of the hub; devices sign with their own key"),
            Self::Audience(audience) => write!(f, "the token is for {audience:?}"),
            Self::Token(e) => e.fmt(f),
            Self::TooMany => f.write_str("too many sessions"),
        }
    }
}

/// A client that may come in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) source: Source,
    pub(super) identity: String,
    /// When its token ends, seconds since 1970.
    pub(super) expiry: Option<i64>,
}

/// The registered devices.
pub(super) struct Register {
    pub(super) host: String,
    pub(super) edge: bool,
    pub(super) master: Key,
    /// It also takes any device whose key is derived from the master key, or whose certificate our CA signed.
    pub(super) open: AtomicBool,
    pub(super) devices: RwLock<HashMap<String, Credential>>,
    /// Registered and not let in.
    pub(super) disabled: RwLock<HashSet<String>>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Messages say which hub got them.
    pub(super) named: bool,
}

impl Register {
    /// What a device proves itself with; `None` where it is not registered.
    pub(super) fn credential(&self, id: &str) -> Option<Credential> {
        let known = self.devices.read().get(id).cloned();
        known.or(self.open.load(Ordering::Relaxed).then_some(Credential::Derived))
    }

    pub(super) fn is_disabled(&self, id: &str) -> bool {
        self.disabled.read().contains(id)
    }

    /// True where it is registered and not disabled.
    pub(super) fn lets_in(&self, id: &str) -> bool {
        self.has(id) && !self.is_disabled(id)
    }

    /// Registers others from now on; without any it is open to all.
    pub(super) fn replace(&self, devices: HashMap<String, Credential>, disabled: HashSet<String>) {
        self.open.store(devices.is_empty(), Ordering::Relaxed);
        *self.devices.write() = devices;
        self.disable(disabled);
    }

    /// These are refused from now on, and no others.
    pub(super) fn disable(&self, disabled: HashSet<String>) {
        *self.disabled.write() = disabled;
    }

    /// Enters a device, or gives it another credential.
    pub(super) fn enter(&self, id: &str, credential: Credential) {
        self.devices.write().insert(id.to_owned(), credential);
    }

    /// Forgets a device.
    pub(super) fn remove(&self, id: &str) {
        self.devices.write().remove(id);
    }

    /// True where a device (or `device/module`) of this name could connect.
    pub(super) fn has(&self, id: &str) -> bool {
        self.devices.read().contains_key(id) || (self.open.load(Ordering::Relaxed) && id.split('/').all(is_id))
    }

    /// Decides on a CONNECT. `now` is in seconds since 1970.
    pub(super) fn admit(
        &self,
        connect: &Connect,
        certificates: Option<&[CertificateDer<'_>]>,
        now: i64,
    ) -> Result<Admitted, Refusal> {
        if connect.protocol.level() != 4 {
            return Err(Refusal::Protocol);
        }
        let username = connect.username.as_deref().unwrap_or("");
        let name = Username::parse(username).ok_or_else(|| Refusal::Username(username.to_owned()))?;
        if !self.edge && !name.host.eq_ignore_ascii_case(&self.host) {
            return Err(Refusal::Host(username.to_owned()));
        }
        let identity = Identity { hub: &self.host, device: name.device, module: name.module };
        let id = identity.client_id();
        if *connect.client_id != *id {
            return Err(Refusal::ClientId(connect.client_id.to_string()));
        }
        if self.is_disabled(&id) {
            return Err(Refusal::Disabled(id));
        }
        let Some(credential) = self.credential(&id) else { return Err(Refusal::Unknown(id)) };
        let (expiry, auth_method) = match (&connect.password, certificates.and_then(<[_]>::split_first)) {
            (Some(password), _) => (Some(self.token(password, &identity, &credential, now)?), BY_TOKEN),
            (None, Some((leaf, chain))) => {
                self.certificate(leaf, chain, &identity, &credential)?;
                (None, BY_CERTIFICATE)
            }
            (None, None) => return Err(Refusal::NoCredential),
        };
        let source = Source {
            hub: self.named.then(|| self.host.clone()),
            device: name.device.to_owned(),
            module: name.module.map(str::to_owned),
            model_id: name.model_id.map(std::borrow::Cow::into_owned),
            auth_method,
        };
        Ok(Admitted { source, identity: id, expiry })
    }

    fn token(&self, password: &[u8], who: &Identity<'_>, known: &Credential, now: i64) -> Result<i64, Refusal> {
        let text = std::str::from_utf8(password).map_err(|_| Refusal::Token(TokenError::Malformed))?;
        let token = Token::parse(text).map_err(Refusal::Token)?;
        if !token.key_name.is_empty() {
            return Err(Refusal::Policy);
        }
        // The host of the resource is compared without case, the ids behind it with.
        let (want, is) = (who.resource(), token.audience.as_str());
        let fits = |want: &str| {
            want.split_once('/').zip(is.split_once('/')).is_some_and(|((host, path), (their_host, their_path))| {
                host.eq_ignore_ascii_case(their_host) && path == their_path
            })
        };
        let through_gateway = Identity { hub: "localhost", ..*who }.resource();
        if !(fits(&want) || (self.edge && fits(&through_gateway))) {
            return Err(Refusal::Audience(token.audience));
        }
        let key = match known {
            Credential::Key(key) => key.clone(),
            Credential::Derived => Key::parse(self.master.derive(&who.client_id()).expose())
                .map_err(|_| Refusal::Token(TokenError::Signature))?,
            Credential::Thumbprint(_) => return Err(Refusal::Token(TokenError::Signature)),
        };
        token.check(now, &[&key]).map_err(Refusal::Token)?;
        Ok(token.expiry)
    }

    fn certificate(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        who: &Identity<'_>,
        known: &Credential,
    ) -> Result<(), Refusal> {
        match known {
            Credential::Key(_) => Err(Refusal::Certificate("this device has a key")),
            Credential::Thumbprint(registered) if thumbprint(leaf) == *registered => Ok(()),
            Credential::Thumbprint(_) => Err(Refusal::Certificate("its thumbprint is not the registered one")),
            Credential::Derived => {
                if common_name(leaf).as_deref() != Some(who.device) {
                    return Err(Refusal::Certificate("its common name is not the device id"));
                }
                self.verifier
                    .verify_client_cert(leaf, chain, UnixTime::now())
                    .map(|_| ())
                    .map_err(|_| Refusal::Certificate("it is not signed by the simulator's CA, or expired"))
            }
        }
    }
}
