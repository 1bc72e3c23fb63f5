//! The hubs of devices as the Device Provisioning Service tells them, and what it told before.
//!
//! `Courses` knows who is to ask when; here it is done: dialogues beside each other, each paced, and what
//! they told is written down in [`Assignments`] before it is used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::courses::{Courses, Next};
use super::directory::derived;
use super::known::Found;
use crate::hub::accounts::{Account, Certificate, NoAccount};
use crate::hub::certificate::common_name;
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::hub::dps::{Assignment, Registration, RegistrationId};
use crate::hub::sas::Key;
use crate::message::Timestamp;
use crate::metrics;
use crate::outbound::Way;
use crate::provision::assignments::{Assigned, Assignments};
use crate::provision::{self, Proof, Transport};
use crate::uplink::tls;

/// Registrations under way at one time, at least and at most.
const AT_ONCE: std::ops::RangeInclusive<usize> = 8..=128;
/// Seconds that a registration may take without slowing down the others. The service is asked for a result every few.
const TAKES: usize = 10;
/// How long it is believed that a name is there, or gone.
const NAME_HOLDS: Duration = Duration::from_secs(60);

/// The service as the devices reach it.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its host name.
    pub host: String,
    /// How it is reached.
    pub way: Way,
    /// The protocol.
    pub transport: Transport,
    /// The ID scope.
    pub scope: String,
    /// The version of its interface.
    pub api_version: String,
    /// What each registration brings along, JSON.
    pub payload: Option<String>,
    /// Whom devices trust.
    pub trust: Arc<tls::Trust>,
    /// How long a hub may refuse a device until the service is asked again.
    pub ask_again_after: Duration,
    /// Registrations a minute, all devices together.
    pub per_minute: u32,
}

/// What a device registers with.
pub enum Given {
    /// The key of its own enrolment.
    Key(Key),
    /// The key of its group.
    Group(Key),
    /// A certificate.
    Certificate(Certificate),
}

impl TryFrom<Found> for Given {
    /// Its connection string says all, and the service is not asked.
    type Error = Box<Account>;

    fn try_from(found: Found) -> Result<Self, Box<Account>> {
        match found {
            Found::Account(account) => Err(account),
            Found::Key(key) => Ok(Self::Key(key)),
            Found::Group(key) => Ok(Self::Group(key)),
            Found::Certificate(certificate) => Ok(Self::Certificate(certificate)),
        }
    }
}

impl Given {
    fn proof(self, id: &RegistrationId) -> Result<(Proof, Option<Certificate>), NoAccount> {
        match self {
            Self::Key(key) => Ok((Proof::Key(key), None)),
            Self::Group(group) => derived(&group, id.as_str()).map(|key| (Proof::Key(key), None)),
            Self::Certificate(certificate) => Ok((Proof::Certificate, Some(certificate))),
        }
    }
}

/// See the module documentation.
pub struct Provisioned {
    service: Service,
    courses: Mutex<Courses>,
    /// Locked while it is written.
    file: Arc<Mutex<Assignments>>,
    places: Semaphore,
    at_once: usize,
    /// Whether the names of hubs are gone, as they were looked up last.
    names: tokio::sync::Mutex<HashMap<String, (Instant, bool)>>,
}

impl Provisioned {
    /// Over what was told before.
    pub fn new(service: Service, file: Assignments) -> Self {
        let courses = Courses::new(file.known(), service.ask_again_after, service.per_minute);
        let (courses, file) = (Mutex::new(courses), Arc::new(Mutex::new(file)));
        let at_once = at_once(service.per_minute);
        let (places, names) = (Semaphore::new(at_once), tokio::sync::Mutex::default());
        Self { service, courses, file, places, at_once, names }
    }

    /// Registrations under way at one time.
    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }

    /// The account of a device that proves itself so.
    pub(super) async fn account(&self, device: &str, given: Given) -> Result<Account, NoAccount> {
        let id = registration_id(device)?;
        let (proof, certificate) = given.proof(&id)?;
        let auth = match &proof {
            Proof::Key(key) => Auth::Key(key.clone()),
            Proof::Certificate => Auth::X509,
        };
        let next = self.courses.lock().next(id.as_str(), device, Instant::now());
        let assigned = match next {
            Next::Use(assigned) => assigned,
            Next::Wait(why) => return Err(why),
            Next::Ask => self.register(id, proof, certificate.as_ref()).await?,
        };
        let (host, device) = (assigned.hub.clone(), assigned.device.clone());
        let connection = ConnectionString { host, device, module: None, gateway: None, auth };
        Ok(Account { connection, model_id: None, certificate })
    }

    async fn register(
        &self,
        id: RegistrationId,
        proof: Proof,
        certificate: Option<&Certificate>,
    ) -> Result<Arc<Assigned>, NoAccount> {
        let tls = self.service.tls_of(&id, certificate)?;
        let _place = self.turn().await;
        let options = self.service.options(id, (proof, tls));
        let id = &options.registration.id;
        tracing::debug!("provisioning: asking {} which hub {id} belongs to", options.host);
        match provision::register(&options, |seen| tracing::trace!("provisioning: {id}: {seen}")).await {
            Ok(assignment) => {
                metrics::registration("assigned");
                Ok(self.settle(id, &assignment).await)
            }
            Err(trouble) => {
                metrics::registration(trouble.kind.label());
                let next = self.courses.lock().failed(id.as_str(), &trouble, (Instant::now(), rand::random()));
                match next {
                    Next::Use(known) => {
                        tracing::warn!("provisioning: {id}: {trouble}; {} is tried further", known.hub);
                        Ok(known)
                    }
                    Next::Wait(why) => Err(why),
                    Next::Ask => Err(NoAccount::new(trouble.text)),
                }
            }
        }
    }

    /// Returns when the next registration may begin, with its place.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        loop {
            let at = self.courses.lock().turn(Instant::now());
            tokio::time::sleep_until(at.into()).await;
            // Nobody closes it.
            let place = self.places.acquire().await.ok();
            if !self.courses.lock().is_paused(Instant::now()) {
                return place;
            }
        }
    }

    /// Writes an assignment down.
    async fn settle(&self, id: &RegistrationId, assignment: &Assignment) -> Arc<Assigned> {
        let assigned = Arc::new(Assigned::new(assignment, Timestamp::now()));
        let (file, for_disk, registration) = (Arc::clone(&self.file), Arc::clone(&assigned), id.clone());
        let stored = tokio::task::spawn_blocking(move || file.lock().store(&registration, for_disk)).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!("provisioning: the hub of {id} is not written down, the next start asks again: {error}");
        }
        let before = self.courses.lock().assigned(id.as_str(), &assigned);
        let Assigned { hub, device, .. } = &*assigned;
        match before {
            Some(before) if (&before.hub, &before.device) != (hub, device) => {
                tracing::warn!(
                    "provisioning: {id} moves from {} to device {device} at {hub} ({})",
                    before.hub,
                    assignment.how()
                );
            }
            _ => tracing::info!("provisioning: {id} is device {device} at {hub} ({})", assignment.how()),
        }
        assigned
    }

    /// What is known of a device is enough to connect, or to say why not.
    pub(super) fn is_at_hand(&self, device: &str) -> bool {
        let Ok(id) = registration_id(device) else { return true };
        self.courses.lock().next(id.as_str(), device, Instant::now()) != Next::Ask
    }

    /// The hub it was told last.
    pub(super) fn assigned(&self, device: &str) -> Option<Arc<Assigned>> {
        self.courses.lock().known(&device.to_ascii_lowercase())
    }

    pub(super) fn accepted(&self, device: &str) {
        self.courses.lock().accepted(&device.to_ascii_lowercase());
    }

    pub(super) fn refused(&self, device: &str) {
        self.courses.lock().refused(&device.to_ascii_lowercase(), Instant::now());
    }

    pub(super) fn unreachable(&self, device: &str) {
        self.courses.lock().unreachable(&device.to_ascii_lowercase(), Instant::now());
    }

    /// Looks for the name of a hub that was out of reach for long. An outage of the names is none of the hub: then the
    /// service has no address either.
    pub(super) async fn is_gone(&self, device: &str) -> bool {
        let registration = device.to_ascii_lowercase();
        let Some(known) = self.courses.lock().lost(&registration, Instant::now()) else { return false };
        // All devices of a hub lose it in one moment: one looks it up, the others wait for what it finds.
        let mut names = self.names.lock().await;
        names.retain(|_, (at, _)| at.elapsed() < NAME_HOLDS);
        let gone = match names.get(&known.hub) {
            Some((_, gone)) => *gone,
            None => {
                let gone = self.service.has_lost(&known.hub).await;
                names.insert(known.hub.clone(), (Instant::now(), gone));
                if gone {
                    let hub = &known.hub;
                    tracing::warn!("provisioning: the name {hub} is not there any more: was the hub deleted?");
                }
                gone
            }
        };
        if gone {
            self.courses.lock().gone(&registration, Instant::now());
        }
        gone
    }

    pub(super) fn ask_anew(&self, device: &str) {
        self.courses.lock().ask_anew(&device.to_ascii_lowercase(), device, Instant::now());
    }
}

impl Service {
    /// What a device registers with, which proves itself so.
    pub fn registering(&self, device: &str, given: Given) -> Result<provision::Options, NoAccount> {
        let id = registration_id(device)?;
        let (proof, certificate) = given.proof(&id)?;
        let tls = self.tls_of(&id, certificate.as_ref())?;
        Ok(self.options(id, (proof, tls)))
    }

    fn tls_of(&self, id: &RegistrationId, certificate: Option<&Certificate>) -> Result<Arc<ClientConfig>, NoAccount> {
        match certificate {
            None => Ok(self.trust.client()),
            Some(certificate) => self.tls(id, certificate),
        }
    }

    /// TLS settings with the certificate of a device, which must be its own.
    fn tls(&self, id: &RegistrationId, certificate: &Certificate) -> Result<Arc<ClientConfig>, NoAccount> {
        let pem = |error: tls::TlsError| NoAccount::new(format!("its certificate cannot be used: {error}"));
        let chain = tls::certificates(&certificate.chain).map_err(pem)?;
        let key = tls::private_key(certificate.key.expose().as_bytes()).map_err(pem)?;
        let named = chain.first().and_then(|leaf| common_name(leaf)).unwrap_or_default();
        if !named.eq_ignore_ascii_case(id.as_str()) {
            let text = format!(
                "its certificate is for {named:?}: with the provisioning service the common name must be the device's id"
            );
            return Err(NoAccount::new(text));
        }
        tls::client(self.trust.roots(), Some((chain, key))).map_err(pem)
    }

    /// The name of a hub is gone, and the service's is there.
    async fn has_lost(&self, hub: &str) -> bool {
        let by_name = Way { address: None, ..self.way.clone() };
        by_name.resolves(hub).await == Some(false) && self.way.resolves(&self.host).await == Some(true)
    }

    fn options(&self, id: RegistrationId, (proof, tls): (Proof, Arc<ClientConfig>)) -> provision::Options {
        provision::Options {
            host: self.host.clone(),
            way: self.way.clone(),
            transport: self.transport,
            tls,
            registration: Registration {
                scope: self.scope.clone(),
                id,
                api_version: self.api_version.clone(),
                payload: self.payload.clone(),
            },
            proof,
        }
    }
}

/// As many as begin in the time that one may take.
fn at_once(per_minute: u32) -> usize {
    let at_pace = usize::try_from(per_minute).unwrap_or(usize::MAX).saturating_mul(TAKES).div_ceil(60);
    at_pace.clamp(*AT_ONCE.start(), *AT_ONCE.end())
}

/// Who registers, where that is possible.
pub(super) fn registration_id(device: &str) -> Result<RegistrationId, NoAccount> {
    RegistrationId::parse(device).map_err(|error| {
        NoAccount::new(format!("it cannot be registered with the provisioning service under its id: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_at_one_time_as_keep_the_pace() {
        for (per_minute, expect) in [(1, 8), (48, 8), (49, 9), (300, 50), (768, 128), (60_000, 128), (u32::MAX, 128)] {
            assert_eq!(at_once(per_minute), expect, "{per_minute}");
        }
    }
}
