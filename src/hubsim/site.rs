//! Several hubs and a provisioning service in one simulator, as a file describes them.
//!
//! All of them answer at the same addresses; the name a client asks for in the TLS handshake says which one it means.
//!
//! ```toml
//! scope = "0ne00000A0A"                     # the ID scope
//! # listen = ["127.0.0.1:8883"]             # REST, MQTT and WebSocket, hubs and service
//! # websocket = ["127.0.0.1:443"]           # the same without bare MQTT, as port 443 is in Azure
//! # host = "global.azure-devices-provisioning.net"
//! # assigning = 1                           # questions answered "assigning" before the hub is told
//! # retry_after = 1                         # seconds, in Retry-After
//! # throttled = 0                           # so many registrations are answered with 429 first
//! # away = false                            # the service closes every connection without an answer
//!
//! [[hub]]
//! host = "hub-a.example"
//! # disabled = ["press-9"]                  # known there and not let in
//!
//! [[enrolment]]
//! id = "press-4"                            # or group = "line-1"
//! key_file = "press-4.key"                  # base64; or x509 = true: a certificate with the id as common name, of the
//!                                           # simulator's CA or of `ca`; or certificate = "press-4.pem": this one.
//!                                           # Without any of them the key is derived from the simulator's own.
//! # hub = "hub-a.example"                   # else the first; or hubs = ["hub-a.example", ..]: spread over them
//! # device = "press-4"                      # the device id there, else the registration id
//! # disabled = true   fails = true   profile = "MqttV5"
//! ```
//!
//! All but addresses, names and hubs may be replaced while it runs ([`Site::replace`]).

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::accept::{self, Door, House};
use super::authority::Authority;
use super::dps::{self, Attestation, Enrolment, Roots, Service};
use super::{AuthorityError, Counts, Keeping, Misbehave, Options, Received, Shared, StartError, bind};
use crate::hub::certificate;
use crate::hub::connection_string::{is_host, is_id};
use crate::hub::dps::{HOST, RegistrationId};
use crate::hub::sas::Key;
use crate::secret::Secret;

/// A site as its file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The ID scope.
    pub scope: String,
    /// Where everything listens.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// Where it listens without bare MQTT.
    #[serde(default)]
    pub websocket: Vec<SocketAddr>,
    /// The host name of the provisioning service.
    #[serde(default = "default_host")]
    pub host: String,
    /// Questions that are answered `assigning`.
    #[serde(default = "one")]
    pub assigning: u32,
    /// Seconds in `Retry-After`.
    #[serde(default = "one_second")]
    pub retry_after: u64,
    /// Registrations that are answered with 429 first.
    #[serde(default)]
    pub throttled: u32,
    /// The service closes every connection without an answer.
    #[serde(default)]
    pub away: bool,
    /// The hubs.
    #[serde(rename = "hub")]
    pub hubs: Vec<Hub>,
    /// Who may register.
    #[serde(rename = "enrolment", default)]
    pub enrolments: Vec<Entry>,
}

fn default_host() -> String {
    HOST.to_owned()
}

fn one() -> u32 {
    1
}

fn one_second() -> u64 {
    1
}

/// A hub of a site.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// Its host name.
    pub host: String,
    /// Devices that are not let in.
    #[serde(default)]
    pub disabled: HashSet<String>,
}

/// An enrolment of a site.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entry {
    /// The registration id.
    pub id: Option<String>,
    /// The name of a group.
    pub group: Option<String>,
    /// File with the key.
    pub key_file: Option<PathBuf>,
    /// It proves itself by a certificate that leads to the simulator's CA, or to `ca`.
    pub x509: bool,
    /// PEM file of that root.
    pub ca: Option<PathBuf>,
    /// PEM file of the one certificate.
    pub certificate: Option<PathBuf>,
    /// The hub it leads to.
    pub hub: Option<String>,
    /// Hubs over which its devices are spread.
    pub hubs: Vec<String>,
    /// The device id there.
    pub device: Option<String>,
    /// It lets nobody in.
    pub disabled: bool,
    /// It ends in the status `failed`.
    pub fails: bool,
    /// The connection profile it tells.
    pub profile: Option<String>,
}

/// What is wrong with a plan.
#[derive(Debug)]
pub struct PlanError(String);

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let plan: Self = toml::from_str(text).map_err(|error| PlanError(error.to_string()))?;
        let wrong = |what: String| Err(PlanError(what));
        if plan.hubs.is_empty() {
            return wrong("there is no [[hub]]".into());
        }
        let hosts = plan.hubs.iter().map(|hub| &hub.host).chain([&plan.host]);
        if let Some(host) = hosts.into_iter().find(|host| host.is_empty() || !is_host(host)) {
            return wrong(format!("{host:?} is no host name"));
        }
        for entry in &plan.enrolments {
            let name = match (&entry.id, &entry.group) {
                (Some(id), None) => {
                    RegistrationId::parse(id).map_err(|error| PlanError(format!("{id:?}: {error}")))?;
                    id
                }
                (None, Some(group)) => group,
                _ => return wrong("an [[enrolment]] needs either `id` or `group`".into()),
            };
            let proofs = [entry.key_file.is_some(), entry.x509, entry.certificate.is_some()];
            if proofs.into_iter().filter(|given| *given).count() > 1 {
                return wrong(format!("{name}: one of `key_file`, `x509` and `certificate`"));
            }
            if entry.ca.is_some() && !entry.x509 {
                return wrong(format!("{name}: `ca` is for `x509 = true`"));
            }
            if entry.device.as_ref().is_some_and(|device| !is_id(device)) {
                return wrong(format!("{name}: `device` is no device id"));
            }
            if entry.hub.iter().chain(&entry.hubs).any(|hub| plan.hubs.iter().all(|known| known.host != *hub)) {
                return wrong(format!("{name}: there is no [[hub]] with this host"));
            }
            if entry.hub.is_some() && !entry.hubs.is_empty() {
                return wrong(format!("{name}: one of `hub` and `hubs`"));
            }
        }
        Ok(plan)
    }

    /// The enrolments, their files read; names in them are relative to `base`.
    fn enrolments(&self, base: &Path, master: &Key) -> Result<Vec<Enrolment>, PlanError> {
        let first = self.hubs.first().map_or("", |hub| hub.host.as_str());
        let mut all = Vec::new();
        for entry in &self.enrolments {
            let name = entry.id.as_ref().or(entry.group.as_ref()).cloned().unwrap_or_default();
            all.push(Enrolment {
                is_group: entry.group.is_some(),
                attestation: entry.attestation(base, &name, master)?,
                hubs: match (&entry.hub, entry.hubs.is_empty()) {
                    (Some(hub), _) => vec![hub.clone()],
                    (None, true) => vec![first.to_owned()],
                    (None, false) => entry.hubs.clone(),
                },
                device: entry.device.clone(),
                disabled: entry.disabled,
                fails: entry.fails,
                profile: entry.profile.clone(),
                name,
            });
        }
        Ok(all)
    }

    /// What the service does.
    fn service(&self, enrolments: Vec<Enrolment>) -> dps::Options {
        dps::Options {
            host: self.host.clone(),
            scope: self.scope.clone(),
            enrolments,
            assigning: self.assigning,
            retry_after: self.retry_after,
            throttled: self.throttled,
            away: self.away,
        }
    }
}

impl Entry {
    fn attestation(&self, base: &Path, name: &str, master: &Key) -> Result<Attestation, PlanError> {
        let pem = |path: &PathBuf| {
            let path = base.join(path);
            CertificateDer::from_pem_file(&path).map_err(|error| PlanError(format!("{}: {error}", path.display())))
        };
        if let Some(path) = &self.certificate {
            return Ok(Attestation::Thumbprint(certificate::thumbprint(&pem(path)?)));
        }
        if self.x509 {
            return Ok(Attestation::Authority(self.ca.as_ref().map(pem).transpose()?));
        }
        let text = match &self.key_file {
            None => master.derive(&name.to_ascii_lowercase()),
            Some(path) => {
                let path = base.join(path);
                let text = std::fs::read_to_string(&path);
                Secret::new(text.map_err(|error| PlanError(format!("{}: {error}", path.display())))?)
            }
        };
        let key = Key::parse(text.expose().trim()).map_err(|error| PlanError(format!("{name}: {error}")))?;
        Ok(Attestation::Key(key))
    }
}

/// What the hubs of a site have in common.
#[derive(Debug, Default)]
pub struct Common {
    /// Keep certificates and keys here.
    pub dir: Option<PathBuf>,
    /// Names in the plan are relative to this folder.
    pub base: PathBuf,
    /// Where messages go.
    pub output: Option<mpsc::Sender<Vec<Received>>>,
    /// How messages are kept until they are acknowledged.
    pub keeping: Keeping,
    /// Faults on purpose.
    pub misbehave: Misbehave,
}

/// Why a site did not start.
#[derive(Debug)]
pub enum SiteError {
    /// The plan, or a file it names.
    Plan(PlanError),
    /// The addresses, certificates and keys.
    Start(StartError),
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SiteError {}

impl From<StartError> for SiteError {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

impl From<AuthorityError> for SiteError {
    fn from(error: AuthorityError) -> Self {
        Self::Start(StartError::Authority(error))
    }
}

/// A site at work. Dropping it stops it.
pub struct Site {
    addresses: Vec<SocketAddr>,
    authority: Authority,
    hubs: Vec<Arc<Shared>>,
    service: Arc<Service>,
    base: PathBuf,
    stop: CancellationToken,
    accept: Vec<JoinHandle<()>>,
    enrolments: Vec<Enrolment>,
}

/// Starts the hubs and the service of `plan`.
pub async fn start(plan: &Plan, common: Common) -> Result<Site, SiteError> {
    let authority = Authority::open(common.dir.as_deref())?;
    let enrolments = plan.enrolments(&common.base, &authority.master).map_err(SiteError::Plan)?;
    let mut hosts: Vec<String> = plan.hubs.iter().map(|hub| hub.host.clone()).collect();
    hosts.push(plan.host.clone());
    let tls = TlsAcceptor::from(Arc::new(authority.server_config(&hosts, false)?));
    let stop = CancellationToken::new();
    let mut hubs = Vec::new();
    for hub in &plan.hubs {
        let (output, misbehave) = (common.output.clone(), common.misbehave.clone());
        let disabled = hub.disabled.clone();
        let keeping = common.keeping.clone();
        let options = Options { host: hub.host.clone(), disabled, output, keeping, misbehave, ..Options::default() };
        hubs.push(Shared::new(options, (false, true), &authority, stop.clone())?);
    }
    let roots = roots_of(&enrolments)?;
    let options = plan.service(enrolments.clone());
    let service = Arc::new(Service::new(options, authority.client_verifier()?, roots, hubs.clone()));
    let (mut addresses, mut accept) = (Vec::new(), Vec::new());
    let Some((first, others)) = hubs.split_first() else {
        return Err(SiteError::Plan(PlanError("there is no hub".into())));
    };
    let house = Arc::new(House::of_many(Arc::clone(first), others.to_vec(), Arc::clone(&service)));
    let default = [Options::default().listen];
    let listen = if plan.listen.is_empty() { default.as_slice() } else { &plan.listen };
    let doors = listen.iter().map(|listen| (listen, Door::Any));
    for (listen, door) in doors.chain(plan.websocket.iter().map(|listen| (listen, Door::Web))) {
        let (listener, address) = bind(*listen).await?;
        addresses.push(address);
        accept.push(tokio::spawn(accept::run(listener, door, tls.clone(), Arc::clone(&house))));
    }
    Ok(Site { addresses, authority, hubs, service, base: common.base, stop, accept, enrolments })
}

fn roots_of(enrolments: &[Enrolment]) -> Result<Roots, AuthorityError> {
    let root = |enrolment: &Enrolment| match &enrolment.attestation {
        Attestation::Authority(Some(root)) => Authority::verifier(root.clone()).map(Some),
        _ => Ok(None),
    };
    enrolments.iter().map(root).collect()
}

impl Site {
    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The certificate a client must trust.
    pub fn ca_file(&self) -> PathBuf {
        self.authority.ca_file()
    }

    /// The enrolments with their keys.
    pub fn enrolments(&self) -> &[Enrolment] {
        &self.enrolments
    }

    /// Makes a certificate signed by the simulator's CA: the paths of certificate and key.
    pub fn device_certificate(&self, id: &str) -> Result<(PathBuf, PathBuf), AuthorityError> {
        self.authority.issue(id)
    }

    /// Takes up another plan with the same hubs and the same service. Devices that are disabled now lose their connection;
    /// who leads elsewhere now goes there when it registers the next time.
    pub fn replace(&self, plan: &Plan) -> Result<(), SiteError> {
        let same = plan.hubs.len() == self.hubs.len()
            && plan.hubs.iter().zip(&self.hubs).all(|(hub, at_work)| hub.host == at_work.options.host)
            && self.service.is_called(&plan.host);
        if !same {
            let text = "other hubs, or another name of the service, are taken up at a start only".to_owned();
            return Err(SiteError::Plan(PlanError(text)));
        }
        let enrolments = plan.enrolments(&self.base, &self.authority.master).map_err(SiteError::Plan)?;
        let roots = roots_of(&enrolments)?;
        self.service.replace(plan.service(enrolments), roots);
        for (hub, at_work) in plan.hubs.iter().zip(&self.hubs) {
            at_work.register.disable(hub.disabled.clone());
            hub.disabled.iter().for_each(|device| at_work.sessions.end(device));
        }
        Ok(())
    }

    /// Drops all connections at once, as hubs that restart.
    pub fn restart(&self) {
        self.hubs.iter().for_each(|hub| hub.restart.notify_waiters());
    }

    /// What happened so far, of each hub.
    pub fn counts(&self) -> Vec<Counts> {
        self.hubs.iter().map(|hub| hub.counters.counts()).collect()
    }

    /// Closes all connections and waits for them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for accept in std::mem::take(&mut self.accept) {
            // The task ends by itself; an error would be a panic in it, which its own log line told.
            let _ = accept.await;
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn each_hub_keeps_messages_as_it_is_told() {
        let plan = "scope = \"0ne1\"\nlisten = [\"127.0.0.1:0\"]\n[[hub]]\nhost = \"a.example\"\n[[hub]]\nhost = \"b.example\"\n";
        let lock = Duration::from_secs(5);
        let common = Common { keeping: Keeping { lock, ..Keeping::default() }, ..Common::default() };
        let site = start(&Plan::parse(plan).unwrap(), common).await.unwrap();
        assert!(site.hubs.len() == 2 && site.hubs.iter().all(|hub| hub.options.keeping.lock == lock));
        site.stop().await;
    }
}
