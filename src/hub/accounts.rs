//! What a device connects with: the seam between those who know credentials and those who open connections.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::connection_string::ConnectionString;
use crate::secret::Secret;

/// Everything a device needs to connect.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its hub, its identity and how it proves itself.
    pub connection: ConnectionString,
    /// The model it follows, where it says so.
    pub model_id: Option<String>,
    /// Its certificate, where [`super::connection_string::Auth::X509`] says so.
    pub certificate: Option<Certificate>,
}

/// A client certificate as PEM texts.
#[derive(Clone)]
pub struct Certificate {
    /// The chain, leaf first.
    pub chain: Vec<u8>,
    /// The private key.
    pub key: Secret,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(..)")
    }
}

/// Why a device has no account, in words. It is asked for again after a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAccount {
    /// A sentence, with what to do about it.
    pub text: String,
    /// When it pays to ask again; `None` leaves that to who asked.
    pub pause: Option<Duration>,
    /// It says something about this device. Otherwise whoever knows could not be asked, and others are no better off.
    pub is_its_own: bool,
}

impl NoAccount {
    /// For a reason that lies with the device.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), pause: None, is_its_own: true }
    }
}

impl fmt::Display for NoAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for NoAccount {}

/// An answer to come.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Account, NoAccount>> + Send + 'a>>;

/// What is known of a device's account without asking anybody, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// What it proves itself with.
    pub proof: String,
    /// The host name of its hub, where that is known.
    pub hub: Option<String>,
    /// When the provisioning service told that hub.
    pub assigned: Option<String>,
    /// The device id there, where the service assigned another.
    pub there: Option<String>,
}

/// Knows what devices connect with. It is asked before each new connection, so what it says may change.
pub trait Accounts: Send + Sync + 'static {
    /// The account of a device. May take long, for somebody else may have to be asked: see [`Self::is_at_hand`].
    fn of<'a>(&'a self, device: &'a str) -> Answer<'a>;

    /// [`Self::of`] answers from what is known.
    fn is_at_hand(&self, device: &str) -> bool;

    /// How many devices may wait at one time for what is not at hand.
    fn asks_at_once(&self) -> usize {
        1
    }

    /// What is known without asking.
    fn describe(&self, device: &str) -> Described;

    /// Tells when the certificate of each device ends, in seconds since 1970.
    fn each_end(&self, with: &mut dyn FnMut(&str, i64));

    /// The same of one device.
    fn end_of(&self, device: &str) -> Option<i64>;

    /// The hub let this device in.
    fn accepted(&self, device: &str);

    /// The hub refused this device, again and again.
    fn refused(&self, device: &str);

    /// The network did not lead to this device's hub, whose name is all there is to find it by.
    fn unreachable(&self, device: &str);

    /// The hub of this device has been out of reach for long and is there no more: from now on whoever told it is asked
    /// again.
    fn is_gone<'a>(&'a self, device: &'a str) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

    /// An operator wants this device tried at once: whoever told its hub is asked again, and no pause is kept.
    fn ask_anew(&self, device: &str);
}
