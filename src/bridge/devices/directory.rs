//! The accounts of all devices: files say what a device proves itself with, and where there is a provisioning service,
//! that says at which hub.
//!
//! | what the files have of a device | without the service | with it |
//! |---|---|---|
//! | a connection string | its hub | the same: the service is not asked |
//! | a key, a certificate | the bridge's own hub | an individual enrolment, or an X.509 group: registered by its id |
//! | a group key | the key derived from its id as it is written | the symmetric group: the derived key registers, and is the device's key at the hub |
//!
//! What the files say may be replaced while it is in use; what the service has told stays.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::RwLock;

use super::known::{Found, Known};
use super::provisioned::{Given, Provisioned, registration_id};
use crate::hub::accounts::{Account, Accounts, Answer, Described, NoAccount};
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::hub::sas::Key;

/// What a device's key is derived from: its registration id where the provisioning service tells its hub, which is in
/// lower case; otherwise its id as it is written, for a hub tells `SN-7` from `sn-7`.
pub fn derived_from(device: &str, provisioned: bool) -> Result<String, NoAccount> {
    if provisioned { registration_id(device).map(|id| id.as_str().to_owned()) } else { Ok(device.to_owned()) }
}

/// The key that follows from a group's and what [`derived_from`] says.
pub fn derived(group: &Key, id: &str) -> Result<Key, NoAccount> {
    let key = Key::parse(group.derive(id).expose());
    key.map_err(|error| NoAccount::new(format!("its derived key cannot be used: {error}")))
}

/// See the module documentation.
pub struct Directory {
    known: RwLock<Arc<Known>>,
    /// The hub of devices where neither a connection string nor the service names one.
    host: String,
    service: Option<Provisioned>,
}

impl Directory {
    /// Over what the files say. `host` is the bridge's own hub.
    pub fn new(known: Known, host: String, service: Option<Provisioned>) -> Self {
        Self { known: RwLock::new(Arc::new(known)), host, service }
    }

    /// From now on the files say this.
    pub fn replace(&self, known: Arc<Known>) {
        *self.known.write() = known;
    }

    /// What the files say.
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read())
    }

    async fn find(&self, device: &str) -> Result<Account, NoAccount> {
        let (known, found) = self.look_up(device).await?;
        let account = match &self.service {
            None => self.direct(device, found)?,
            Some(service) => match Given::try_from(found) {
                Ok(given) => service.account(device, given).await?,
                Err(account) => *account,
            },
        };
        Ok(Account { model_id: known.model_of(device).map(str::to_owned), ..account })
    }

    /// What the files say now. Those that have to be read are read beside everything else.
    async fn look_up(&self, device: &str) -> Result<(Arc<Known>, Found), NoAccount> {
        let known = self.known();
        if !known.may_be_in_files(device) {
            let found = known.find(device)?;
            return Ok((known, found));
        }
        let (name, beside) = (device.to_owned(), Arc::clone(&known));
        let read = tokio::task::spawn_blocking(move || beside.find(&name)).await;
        let found = read.unwrap_or_else(|_| Err(NoAccount::new("its certificate was not read")))?;
        Ok((known, found))
    }

    fn direct(&self, device: &str, found: Found) -> Result<Account, NoAccount> {
        let (auth, certificate) = match found {
            Found::Account(account) => return Ok(*account),
            Found::Key(key) => (Auth::Key(key), None),
            Found::Group(group) => (Auth::Key(derived(&group, &derived_from(device, false)?)?), None),
            Found::Certificate(certificate) => (Auth::X509, Some(certificate)),
        };
        let (host, device) = (self.host.clone(), device.to_owned());
        let connection = ConnectionString { host, device, module: None, gateway: None, auth };
        Ok(Account { connection, model_id: None, certificate })
    }

    /// The service, where it is to be asked for this device.
    fn asked_for(&self, device: &str) -> Option<&Provisioned> {
        self.service.as_ref().filter(|_| self.known().hub_of(device).is_none())
    }
}

impl Accounts for Directory {
    fn of<'a>(&'a self, device: &'a str) -> Answer<'a> {
        Box::pin(self.find(device))
    }

    fn is_at_hand(&self, device: &str) -> bool {
        self.asked_for(device).is_none_or(|service| service.is_at_hand(device))
    }

    fn asks_at_once(&self) -> usize {
        self.service.as_ref().map_or(1, |service| service.at_once())
    }

    fn describe(&self, device: &str) -> Described {
        let known = self.known();
        let proof = known.describe(device).to_owned();
        let fixed = |hub: &str| Described { hub: Some(hub.to_owned()), ..Described::default() };
        let place = match (known.hub_of(device), &self.service) {
            (Some(hub), _) => fixed(hub),
            (None, None) => fixed(&self.host),
            (None, Some(service)) => service.assigned(device).map_or_else(Described::default, |assigned| Described {
                hub: Some(assigned.hub.clone()),
                assigned: Some(assigned.at.clone()),
                there: Some(assigned.device.clone()).filter(|there| there != device),
                ..Described::default()
            }),
        };
        Described { proof, ..place }
    }

    fn each_end(&self, with: &mut dyn FnMut(&str, i64)) {
        self.known().ends().for_each(|(device, ends)| with(device, ends));
    }

    fn end_of(&self, device: &str) -> Option<i64> {
        self.known().end_of(device)
    }

    fn accepted(&self, device: &str) {
        if let Some(service) = self.asked_for(device) {
            service.accepted(device);
        }
    }

    fn refused(&self, device: &str) {
        if let Some(service) = self.asked_for(device) {
            service.refused(device);
        }
    }

    fn unreachable(&self, device: &str) {
        if let Some(service) = self.asked_for(device) {
            service.unreachable(device);
        }
    }

    fn is_gone<'a>(&'a self, device: &'a str) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(async move {
            match self.asked_for(device) {
                Some(service) => service.is_gone(device).await,
                None => false,
            }
        })
    }

    fn ask_anew(&self, device: &str) {
        if let Some(service) = self.asked_for(device) {
            service.ask_anew(device);
        }
    }
}
