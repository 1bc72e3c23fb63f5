//! The uplink's identity as the wiring knows it: the target of each connection.
//!
//! When the files of the client certificate and the roots change and make sense, the connection is made anew with them,
//! as with a new token. With `[uplink.dps]` the hub
//! is the one the provisioning service told last. It is asked when nothing is known, when the hub has refused the
//! device for `ask_again_after`, and when the network has not led to the hub for so long and its name is gone while the
//! service's own is there, as with a hub that was deleted; not at every start, as Microsoft asks of devices. While it
//! cannot be asked, what was known stays good.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::reload::{NotTaken, Watched};
use crate::bridge::devices::Devices;
use crate::bridge::devices::known::mark;
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::hub::dps::{Assignment, Kind, Trouble};
use crate::message::Timestamp;
use crate::metrics;
use crate::provision::cache::{self, Known};
use crate::provision::{self, Proof, Seen};
use crate::uplink::tls::{self, TlsError};
use crate::uplink::{HubTarget, Target, Unassigned};

/// A certificate that ends within this time, in seconds, is told once a day.
pub(super) const EXPIRES_SOON: i64 = 30 * DAY;
/// Seconds.
pub(super) const DAY: i64 = 24 * 3_600;

/// The files of the uplink's TLS.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The client certificate, leaf first, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Roots to trust.
    pub roots: Vec<PathBuf>,
    /// The system's roots are trusted, too.
    pub has_system: bool,
}

/// What they make.
pub(super) struct Made {
    tls: Arc<ClientConfig>,
    roots: Arc<RootCertStore>,
    /// When the certificate ends, in seconds since 1970.
    expiry: Option<i64>,
    /// What tells the roots from others, and the identity.
    marks: (u64, u64),
}

impl Files {
    fn read(&self) -> Result<Made, String> {
        let text =
            |path: &Path| fs::read(path).map(Zeroizing::new).map_err(|error| format!("{}: {error}", path.display()));
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |error: TlsError| format!("{path}: {error}")
        };
        let mut roots = match self.has_system {
            true => tls::system_roots().map_err(|error| error.to_string())?,
            false => RootCertStore::empty(),
        };
        let texts = self.roots.iter().map(|path| text(path)).collect::<Result<Vec<_>, _>>()?;
        for (path, text) in self.roots.iter().zip(&texts) {
            tls::add_roots(&mut roots, text).map_err(at(path))?;
        }
        let roots_mark = mark(&texts.iter().map(|text| text.as_slice()).collect::<Vec<_>>());
        let roots = Arc::new(roots);
        let Some((certificate, key)) = &self.identity else {
            let tls = tls::client(Arc::clone(&roots), None).map_err(|error| error.to_string())?;
            return Ok(Made { tls, roots, expiry: None, marks: (roots_mark, 0) });
        };
        let (chain, private) = (text(certificate)?, text(key)?);
        let marks = (roots_mark, mark(&[&chain, &private]));
        let chain = tls::certificates(&chain).map_err(at(certificate))?;
        let private = tls::private_key(&private).map_err(at(key))?;
        let expiry = chain.first().and_then(|leaf| crate::hub::certificate::expiry(leaf));
        let tls = tls::client(Arc::clone(&roots), Some((chain, private))).map_err(at(certificate))?;
        Ok(Made { tls, roots, expiry, marks })
    }
}

/// See the module documentation.
pub struct Credentials {
    files: Files,
    /// With what the files said last.
    target: Mutex<Target>,
    dps: Option<Dps>,
    renew: Arc<Notify>,
}

/// How the hub is learned.
pub struct Dps {
    /// Who registers where; its TLS settings are those of the files.
    pub options: provision::Options,
    /// The folder of everything that is kept.
    pub state: PathBuf,
    /// How long the hub may refuse until the service is asked again.
    pub ask_again_after: Duration,
    /// What is known.
    pub known: Option<Known>,
    /// The name under which each hub is reached, where it is not its own.
    pub gateway: Option<String>,
}

impl Dps {
    /// The connection string that says what is known, or what there is of it.
    pub fn connection(&self, known: Option<&Known>) -> ConnectionString {
        let (hub, device) = match known {
            Some(known) => (known.hub.clone(), known.device.clone()),
            None => (String::new(), self.options.registration.id.to_string()),
        };
        let auth = match &self.options.proof {
            Proof::Key(key) => Auth::Key(key.clone()),
            Proof::Certificate => Auth::X509,
        };
        ConnectionString { host: hub, device, module: None, gateway: self.gateway.clone(), auth }
    }
}

/// How it goes with the hub that is known.
struct Course {
    known: Option<Known>,
    /// Since when it refuses.
    refused: Option<Instant>,
    /// Since when the network does not lead to it.
    unreachable: Option<Instant>,
    /// Registrations that failed in a row.
    failures: u32,
    /// The service is not asked before this.
    not_before: Option<Instant>,
}

impl Course {
    /// All is well with what is known.
    fn new(known: Option<Known>) -> Self {
        Self { known, refused: None, unreachable: None, failures: 0, not_before: None }
    }
}

/// The credentials of one connection, for [`crate::uplink::run`].
pub struct Identity {
    credentials: Arc<Credentials>,
    course: Mutex<Course>,
}

impl Credentials {
    /// Over a target made from `files`.
    pub fn new(target: Target, files: Files, dps: Option<Dps>) -> Self {
        Self { files, target: Mutex::new(target), dps, renew: Arc::default() }
    }

    /// Notified when the files changed.
    pub fn renew(&self) -> Arc<Notify> {
        Arc::clone(&self.renew)
    }

    /// The target as it is now, but for the hub that is told.
    fn target(&self) -> Target {
        self.target.lock().clone()
    }
}

/// The files of the uplink's TLS, taken up when they change.
pub(super) struct UplinkTls {
    credentials: Arc<Credentials>,
    /// They trust whom the bridge trusts.
    devices: Option<Devices>,
    /// Of the contents in use: a file that is written again as it was costs no reconnect.
    in_use: Mutex<Option<(u64, u64)>>,
    /// When the end of the certificate was last told, in seconds since 1970.
    warned: AtomicI64,
}

impl UplinkTls {
    pub(super) fn new(credentials: Arc<Credentials>, devices: Option<Devices>) -> Self {
        let in_use = credentials.files.read().ok().map(|made| made.marks);
        Self { credentials, devices, in_use: Mutex::new(in_use), warned: AtomicI64::new(0) }
    }
}

impl Watched for UplinkTls {
    const WHAT: &'static str = "the certificate of the uplink";
    const STILL: Duration = Duration::from_millis(100);
    /// Each taking costs a reconnect.
    const AGAIN: bool = false;
    type Found = Result<Made, String>;

    fn paths(&self) -> Vec<PathBuf> {
        let Files { identity, roots, .. } = &self.credentials.files;
        let identity = identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        identity.chain(roots).cloned().collect()
    }

    fn read(&self) -> Self::Found {
        self.credentials.files.read()
    }

    fn take(&self, found: Self::Found, _: bool) -> Result<(), NotTaken> {
        let Made { tls, roots, expiry, marks } = found.map_err(|error| {
            let why = format!("{} stays the old one: {error}", Self::WHAT);
            tracing::error!("{why}");
            why
        })?;
        let before = self.in_use.lock().replace(marks);
        if before == Some(marks) {
            tracing::info!("{} on disk is the one in use", Self::WHAT);
            return Ok(());
        }
        if let Some(devices) = self.devices.as_ref().filter(|_| before.is_none_or(|before| before.0 != marks.0)) {
            devices.trust(roots).map_err(|error| error.to_string())?;
        }
        match &mut *self.credentials.target.lock() {
            Target::Hub(hub) => (hub.tls, hub.certificate_expiry) = (tls, expiry),
            Target::Mqtt(mqtt) if mqtt.tls.is_some() => mqtt.tls = Some(tls),
            Target::Mqtt(_) => {}
        }
        self.warned.store(0, Ordering::Relaxed);
        tracing::info!("{} is taken up by a planned reconnect", Self::WHAT);
        self.credentials.renew.notify_waiters();
        Ok(())
    }

    fn turn(&self) {
        let Target::Hub(hub) = self.credentials.target() else { return };
        let Some(expiry) = hub.certificate_expiry else { return };
        let now = Timestamp::now().as_secs();
        if expiry - now >= EXPIRES_SOON || now - self.warned.load(Ordering::Relaxed) < DAY {
            return;
        }
        self.warned.store(now, Ordering::Relaxed);
        match expiry - now {
            ..0 => tracing::error!("{} has expired; the hub will refuse it", Self::WHAT),
            left => tracing::warn!("{} expires in {} days", Self::WHAT, left / DAY),
        }
    }
}

impl Identity {
    /// The identity of the bridge itself.
    pub fn new(credentials: Arc<Credentials>) -> Self {
        let known = credentials.dps.as_ref().and_then(|dps| dps.known.clone());
        if let (Some(dps), Some(known)) = (&credentials.dps, &known) {
            let id = &dps.options.registration.id;
            tracing::info!(
                "provisioning: {id} is device {} at {}, as assigned {}",
                known.device,
                known.hub,
                known.assigned
            );
        }
        Self { credentials, course: Mutex::new(Course::new(known)) }
    }

    /// What is known, if that is enough.
    fn known(&self, dps: &Dps) -> Option<Known> {
        let course = self.course.lock();
        let gone = course.refused.is_some_and(|since| since.elapsed() >= dps.ask_again_after);
        let may_ask = course.not_before.is_none_or(|at| Instant::now() >= at);
        course.known.clone().filter(|_| !gone || !may_ask)
    }

    /// Takes a hub that was out of reach for long for one that refuses, where its name is gone. An outage of the names
    /// is none of the hub: then the service has no address either.
    async fn look_for_its_name(&self, dps: &Dps, hub: &HubTarget) {
        let known = {
            let mut course = self.course.lock();
            let Some(since) = course.unreachable.filter(|since| since.elapsed() >= dps.ask_again_after) else { return };
            course.unreachable = Some(Instant::now()); // It is looked up as seldom as the service is asked.
            course.known.clone().map(|known| (known.hub, since))
        };
        let Some((name, since)) = known else { return };
        let is_found_by_its_name = hub.way.address.is_none() && dps.gateway.is_none();
        let is_gone = is_found_by_its_name
            && hub.way.resolves(&name).await == Some(false)
            && dps.options.way.resolves(&dps.options.host).await == Some(true);
        if is_gone {
            tracing::warn!("provisioning: the name {name} is not there any more: was the hub deleted?");
            self.course.lock().refused.get_or_insert(since);
        }
    }

    /// Registers, and remembers what came of it.
    async fn register(&self, dps: &Dps, tls: Arc<ClientConfig>) -> Result<Known, Unassigned> {
        let options = provision::Options { tls, ..dps.options.clone() };
        let id = &options.registration.id;
        tracing::info!("provisioning: asking {} which hub {id} belongs to", options.host);
        let tell = |seen| match seen {
            Seen::Clock(text) => tracing::warn!("provisioning: {text}"),
            seen => tracing::debug!("provisioning: {seen}"),
        };
        match provision::register(&options, tell).await {
            Ok(assignment) => {
                metrics::registration("assigned");
                Ok(self.assigned(dps, &assignment))
            }
            Err(trouble) => self.failed(&trouble),
        }
    }

    fn assigned(&self, dps: &Dps, assignment: &Assignment) -> Known {
        let registration = &dps.options.registration;
        let new = Known::new(registration, assignment, Timestamp::now());
        if let Err(error) = cache::store(&dps.state, registration, &new) {
            let path = cache::path(&dps.state, registration);
            tracing::warn!("provisioning: {} cannot be written, the next start asks again: {error}", path.display());
        }
        let mut course = self.course.lock();
        let (id, hub, device, how) = (&registration.id, &new.hub, &new.device, assignment.how());
        match &course.known {
            Some(old) if (&old.hub, &old.device) != (hub, device) => {
                tracing::warn!("provisioning: {id} moves from {} to device {device} at {hub} ({how})", old.hub);
            }
            _ => tracing::info!("provisioning: {id} is device {device} at {hub} ({how})"),
        }
        *course = Course::new(Some(new.clone()));
        new
    }

    fn failed(&self, trouble: &Trouble) -> Result<Known, Unassigned> {
        metrics::registration(trouble.kind.label());
        let mut course = self.course.lock();
        let pause = trouble.pause(course.failures, rand::random());
        course.failures = course.failures.saturating_add(1);
        course.not_before = Some(Instant::now() + pause);
        match &course.known {
            Some(known) => {
                tracing::warn!("provisioning: {trouble}; {} is tried further", known.hub);
                Ok(known.clone())
            }
            None => {
                let reason = if trouble.kind == Kind::Clock { "clock" } else { "unassigned" };
                Err(Unassigned { reason, text: trouble.text.clone(), pause })
            }
        }
    }

    async fn find(&self) -> Result<Target, Unassigned> {
        let target = self.credentials.target();
        let (Some(dps), Target::Hub(hub)) = (&self.credentials.dps, &target) else { return Ok(target) };
        self.look_for_its_name(dps, hub).await;
        let known = match self.known(dps) {
            Some(known) => known,
            None => self.register(dps, Arc::clone(&hub.tls)).await?,
        };
        Ok(Target::Hub(HubTarget { connection: dps.connection(Some(&known)), ..hub.clone() }))
    }
}

impl crate::uplink::Credentials for Identity {
    fn target(&self) -> impl Future<Output = Result<Target, Unassigned>> + Send {
        self.find()
    }

    fn accepted(&self) {
        let mut course = self.course.lock();
        (course.refused, course.unreachable) = (None, None);
    }

    fn refused(&self) {
        let mut course = self.course.lock();
        course.refused.get_or_insert_with(Instant::now);
        course.unreachable = None;
    }

    fn unreachable(&self) {
        self.course.lock().unreachable.get_or_insert_with(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::hub::connection_string::ConnectionString;
    use crate::outbound::Way;
    use crate::uplink::Transport;

    fn root() -> String {
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn only_other_contents_are_worth_a_reconnect() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let (first, second) = (root(), root());
        fs::write(&ca, &first).unwrap();
        let files = Files { roots: vec![ca.clone()], ..Files::default() };
        let hub = HubTarget {
            connection: ConnectionString::parse("HostName=h;DeviceId=d;SharedAccessKey=a2V5").unwrap(),
            tls: files.read().unwrap().tls,
            transport: Transport::MQTT,
            way: Way::default(),
            model_id: None,
            certificate_expiry: None,
            token_lifetime: Duration::from_secs(3_600),
            gateway: true,
        };
        let watched = UplinkTls::new(Arc::new(Credentials::new(Target::Hub(hub), files, None)), None);
        let renew = watched.credentials.renew();
        for (text, is_taken, reconnects) in [
            (&first, true, false),
            (&"no certificate".to_owned(), false, false),
            (&first, true, false),
            (&second, true, true),
            (&second, true, false),
            (&first, true, true),
        ] {
            let mut told = std::pin::pin!(renew.notified());
            told.as_mut().enable();
            fs::write(&ca, text).unwrap();
            assert_eq!(watched.take(watched.read(), true).is_ok(), is_taken, "{text}");
            assert_eq!(told.now_or_never().is_some(), reconnects, "{text}");
        }
    }
}
