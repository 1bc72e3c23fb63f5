//! The uplink's identity as the wiring knows it: the target of each connection.
//!
//! The files of the client certificate and the roots are looked at before each connection and every [`LOOK`]; when
//! they changed and make sense, the connection is made anew with them, as with a new token. With `[uplink.dps]` the hub
//! is the one the provisioning service told last. It is asked when nothing is known, and when the hub has refused the
//! device for `ask_again_after`; not at every start, as Microsoft asks of devices. While it cannot be asked, what was
//! known stays good.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::reload::{LOOK, Mark, mark, settled};
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::hub::dps::{Assignment, Trouble};
use crate::message::Timestamp;
use crate::metrics;
use crate::provision::cache::{self, Known};
use crate::provision::{self, Proof};
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
    /// Roots to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

/// What they make: the settings, and when the certificate ends.
type Made = (Arc<ClientConfig>, Option<i64>);

impl Files {
    fn read(&self) -> Result<Made, String> {
        let text = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |error: TlsError| format!("{path}: {error}")
        };
        let roots = match &self.ca {
            None => tls::roots(None).map_err(|error| error.to_string())?,
            Some(path) => tls::roots(Some(&text(path)?)).map_err(at(path))?,
        };
        let Some((certificate, key)) = &self.identity else {
            return Ok((tls::client(roots, None).map_err(|error| error.to_string())?, None));
        };
        let chain = tls::certificates(&text(certificate)?).map_err(at(certificate))?;
        let key = tls::private_key(&text(key)?).map_err(at(key))?;
        let expiry = chain.first().and_then(|leaf| crate::hub::certificate::expiry(leaf));
        Ok((tls::client(roots, Some((chain, key))).map_err(at(certificate))?, expiry))
    }

    fn marks(&self) -> [Mark; 3] {
        let (certificate, key) = self.identity.as_ref().map_or((None, None), |(c, k)| (Some(c), Some(k)));
        [certificate, key, self.ca.as_ref()].map(|path| mark(path?))
    }
}

/// See the module documentation.
pub struct Credentials {
    files: Files,
    held: Mutex<Held>,
    dps: Option<Dps>,
    renew: Arc<Notify>,
}

/// What is in use.
struct Held {
    target: Target,
    marks: [Mark; 3],
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
        ConnectionString { host: hub, device, module: None, gateway: None, auth }
    }
}

/// How it goes with the hub that is known.
struct Course {
    known: Option<Known>,
    /// Since when it refuses.
    refused: Option<Instant>,
    /// Registrations that failed in a row.
    failures: u32,
    /// The service is not asked before this.
    not_before: Option<Instant>,
}

/// The credentials of one connection, for [`crate::uplink::run`].
pub struct Identity {
    credentials: Arc<Credentials>,
    course: Mutex<Course>,
}

impl Credentials {
    /// Over a target made from `files`.
    pub fn new(target: Target, files: Files, dps: Option<Dps>) -> Self {
        let held = Mutex::new(Held { target, marks: files.marks() });
        Self { files, held, dps, renew: Arc::default() }
    }

    /// Notified when the files changed.
    pub fn renew(&self) -> Arc<Notify> {
        Arc::clone(&self.renew)
    }

    /// The target with what the files say now; files that make no sense leave what is in use. True where it is new.
    fn refresh(&self) -> (Target, bool) {
        let marks = self.files.marks();
        let mut held = self.held.lock();
        if marks == held.marks {
            return (held.target.clone(), false);
        }
        match self.files.read() {
            Ok((tls, expiry)) => {
                match &mut held.target {
                    Target::Hub(hub) => (hub.tls, hub.certificate_expiry) = (tls, expiry),
                    Target::Mqtt(mqtt) if mqtt.tls.is_some() => mqtt.tls = Some(tls),
                    Target::Mqtt(_) => {}
                }
                held.marks = marks;
                tracing::info!("uplink: the certificate files changed and are taken up");
                (held.target.clone(), true)
            }
            Err(error) => {
                tracing::error!("uplink: the certificate files changed, the old ones stay in use: {error}");
                (held.target.clone(), false)
            }
        }
    }

    /// When the client certificate ends, seconds since 1970.
    fn certificate_expiry(&self) -> Option<i64> {
        match &self.held.lock().target {
            Target::Hub(hub) => hub.certificate_expiry,
            Target::Mqtt(_) => None,
        }
    }
}

/// Follows the files until `stop`.
pub(super) async fn watch(credentials: Arc<Credentials>, stop: CancellationToken) {
    let mut warned = 0;
    let mut seen = credentials.files.marks();
    loop {
        let now = Timestamp::now().as_secs();
        let left = credentials.certificate_expiry().map(|expiry| expiry - now);
        if let Some(left) = left.filter(|left| *left < EXPIRES_SOON && now - warned > DAY) {
            warned = now;
            match left {
                ..0 => tracing::error!("uplink: the client certificate has expired; the hub will refuse it"),
                _ => tracing::warn!("uplink: the client certificate expires in {} days", left / DAY),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if credentials.files.marks() == seen {
            continue;
        }
        seen = settled(|| credentials.files.marks()).await;
        let renewed = Arc::clone(&credentials);
        let (_, new) = tokio::task::spawn_blocking(move || renewed.refresh()).await.unwrap_or_else(|_| {
            // A panic in it was told by its own log line.
            (credentials.held.lock().target.clone(), false)
        });
        if new {
            credentials.renew.notify_waiters();
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
        let course = Mutex::new(Course { known, refused: None, failures: 0, not_before: None });
        Self { credentials, course }
    }

    /// What is known, if that is enough.
    fn known(&self, dps: &Dps) -> Option<Known> {
        let course = self.course.lock();
        let gone = course.refused.is_some_and(|since| since.elapsed() >= dps.ask_again_after);
        let may_ask = course.not_before.is_none_or(|at| Instant::now() >= at);
        course.known.clone().filter(|_| !gone || !may_ask)
    }

    /// Registers, and remembers what came of it.
    async fn register(&self, dps: &Dps, tls: Arc<ClientConfig>) -> Result<Known, Unassigned> {
        let options = provision::Options { tls, ..dps.options.clone() };
        let id = &options.registration.id;
        tracing::info!("provisioning: asking {} which hub {id} belongs to", options.host);
        match provision::register(&options, |seen| tracing::debug!("provisioning: {seen}")).await {
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
        *course = Course { known: Some(new.clone()), refused: None, failures: 0, not_before: None };
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
            None => Err(Unassigned { reason: "unassigned", text: trouble.text.clone(), pause }),
        }
    }

    async fn find(&self) -> Result<Target, Unassigned> {
        let (target, _) = self.credentials.refresh();
        let (Some(dps), Target::Hub(hub)) = (&self.credentials.dps, &target) else { return Ok(target) };
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
        self.course.lock().refused = None;
    }

    fn refused(&self) {
        self.course.lock().refused.get_or_insert_with(Instant::now);
    }
}
