//! What a device connects with: the seam between those who know credentials and those who open connections.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::connection_string::ConnectionString;
use crate::secret::Secret;

/// Everything a device needs to connect.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its hub, its identity and how it proves itself.
    pub connection: ConnectionString,
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
pub struct NoAccount(pub String);

impl fmt::Display for NoAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAccount {}

/// An answer to come.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Account, NoAccount>> + Send + 'a>>;

/// Knows what devices connect with. It is asked before each new connection, so what it says may change.
pub trait Accounts: Send + Sync + 'static {
    /// The account of a device.
    fn of<'a>(&'a self, device: &'a str) -> Answer<'a>;
}
