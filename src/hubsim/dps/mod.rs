//! The simulated Device Provisioning Service, over REST and over MQTT on the same address.
//!
//! | the client | gets |
//! |---|---|
//! | another ID scope, an id without an enrolment | 404 |
//! | a wrong token or certificate | 401002, over MQTT after CONNACK 0, as it was seen |
//! | registers while throttled | 429001 with `Retry-After` |
//! | registers | 202 and an operation |
//! | asks for the operation | 202 so many times as `assigning` says, then its hub; from then on that hub knows it |
//!
//! An enrolment may be disabled, fail, or name a connection profile, to see what a client makes of it. A payload comes
//! back as it was sent, as if a custom allocation had returned it.
//!
//! The enrolments may be replaced while it is at work. As in Azure a device moves when it registers the next time: the hub
//! it leaves forgets it and closes its connection.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::accept::{Door, Guest};
use super::connection::Stream;
use super::counters::Closed;
use super::{Credential, Shared};
use crate::hub::certificate::{common_name, thumbprint};
use crate::hub::dps::RegistrationId;
use crate::hub::sas::{Key, Token};
use crate::message::Timestamp;

mod http;
mod mqtt;

/// Registrations remembered at once.
const REGISTRATIONS_MAX: usize = 10_000;

/// How an enrolment proves its devices.
#[derive(Debug, Clone)]
pub enum Attestation {
    /// This key; of a group, the keys derived from it.
    Key(Key),
    /// A certificate with the registration id as common name that leads to this root, or to the simulator's own CA.
    Authority(Option<CertificateDer<'static>>),
    /// The certificate with this SHA-256.
    Thumbprint([u8; 32]),
}

/// An entry of the enrolment list.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// The registration id; of a group, its name.
    pub name: String,
    /// It is good for all ids that prove themselves.
    pub is_group: bool,
    /// How.
    pub attestation: Attestation,
    /// Host names of the hubs it leads to. Of several a device gets one by its id, and stays where it is as long as that
    /// is one of them.
    pub hubs: Vec<String>,
    /// The device id at the hub, where it is not the registration id.
    pub device: Option<String>,
    /// It lets nobody in.
    pub disabled: bool,
    /// It ends in the status `failed`.
    pub fails: bool,
    /// The connection profile it tells.
    pub profile: Option<String>,
}

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host name by which TLS clients ask for it.
    pub host: String,
    /// The ID scope.
    pub scope: String,
    /// Who may register.
    pub enrolments: Vec<Enrolment>,
    /// Questions for an operation that are answered `assigning`.
    pub assigning: u32,
    /// What it says in `Retry-After`, in seconds.
    pub retry_after: u64,
    /// So many registrations are answered with 429 first.
    pub throttled: u32,
    /// It closes every connection without an answer.
    pub away: bool,
}

/// A verifier for each enrolment with a root of its own, in their order.
pub(super) type Roots = Vec<Option<Arc<dyn ClientCertVerifier>>>;

/// The service at work.
pub(super) struct Service {
    host: String,
    own_root: Arc<dyn ClientCertVerifier>,
    book: RwLock<Arc<Book>>,
    hubs: Vec<Arc<Shared>>,
    state: Mutex<State>,
}

/// What may be replaced while it is at work.
struct Book {
    options: Options,
    roots: Roots,
}

#[derive(Default)]
struct State {
    registrations: HashMap<String, Registered>,
    operations: u64,
    throttled: u32,
}

struct Registered {
    operation: String,
    polls: u32,
    enrolment: Enrolment,
    credential: Credential,
    payload: Value,
    created: Timestamp,
    /// The hub it was assigned before this registration.
    before: Option<String>,
    /// The hub of this registration.
    hub: Option<String>,
}

/// What a client shows of itself.
struct Proof<'a> {
    token: Option<&'a str>,
    certificates: Option<&'a [CertificateDer<'static>]>,
}

/// What it is answered.
struct Answer {
    status: u16,
    retry_after: Option<u64>,
    body: Value,
}

impl Answer {
    fn error(code: u32, message: &str) -> Self {
        let body = json!({
            "errorCode": code,
            "trackingId": format!("{:016x}", rand::random::<u64>()),
            "message": message,
            "timestampUtc": Timestamp::now().to_string(),
        });
        Self { status: u16::try_from(code / 1_000).unwrap_or(500), retry_after: None, body }
    }
}

impl Service {
    pub(super) fn new(
        options: Options,
        own_root: Arc<dyn ClientCertVerifier>,
        roots: Roots,
        hubs: Vec<Arc<Shared>>,
    ) -> Self {
        let state = State { throttled: options.throttled, ..State::default() };
        let (host, book) = (options.host.clone(), RwLock::new(Arc::new(Book { options, roots })));
        Self { host, own_root, book, hubs, state: Mutex::new(state) }
    }

    /// From now on it does as these say; who is assigned stays so until it registers again.
    pub(super) fn replace(&self, options: Options, roots: Roots) {
        self.state.lock().throttled = options.throttled;
        *self.book.write() = Arc::new(Book { options, roots });
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.host.eq_ignore_ascii_case(name)
    }

    fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book.read())
    }

    /// A device says that it is there.
    fn register(&self, (scope, id): (&str, &str), proof: &Proof<'_>, body: &[u8]) -> Answer {
        let book = self.book();
        let (id, enrolment, credential) = match self.identify(&book, (scope, id), proof) {
            Ok(known) => known,
            Err(answer) => return answer,
        };
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Answer::error(400_004, "no JSON") };
        let named = body.get("registrationId").and_then(Value::as_str);
        if named.is_none_or(|named| !named.eq_ignore_ascii_case(&id)) {
            return Answer::error(400_004, "registrationId is not that of the path");
        }
        let mut state = self.state.lock();
        if state.throttled > 0 {
            state.throttled -= 1;
            let retry_after = Some(book.options.retry_after);
            return Answer { retry_after, ..Answer::error(429_001, "operations are being throttled") };
        }
        if enrolment.disabled {
            let body = json!({
                "operationId": "",
                "status": "disabled",
                "registrationState": {"registrationId": id, "status": "disabled"},
            });
            return Answer { status: 200, retry_after: None, body };
        }
        if state.registrations.len() >= REGISTRATIONS_MAX && !state.registrations.contains_key(&id) {
            return Answer::error(403_001, "too many registrations");
        }
        state.operations += 1;
        let operation = format!("5.{:016x}.{:08x}", state.operations, rand::random::<u32>());
        let registered = Registered {
            operation: operation.clone(),
            polls: book.options.assigning,
            enrolment: enrolment.clone(),
            credential,
            payload: body.get("payload").cloned().unwrap_or(Value::Null),
            created: Timestamp::now(),
            before: state.registrations.remove(&id).and_then(|old| old.hub.or(old.before)),
            hub: None,
        };
        state.registrations.insert(id, registered);
        book.assigning(&operation)
    }

    /// What became of an operation; without one, of the device.
    fn status(&self, (scope, id): (&str, &str), operation: Option<&str>, proof: &Proof<'_>) -> Answer {
        let book = self.book();
        let id = match self.identify(&book, (scope, id), proof) {
            Ok((id, ..)) => id,
            Err(answer) => return answer,
        };
        let mut state = self.state.lock();
        let known = state.registrations.get_mut(&id);
        let Some(known) = known.filter(|known| operation.is_none_or(|asked| asked == known.operation)) else {
            return Answer::error(404_202, "no such operation");
        };
        if known.polls > 0 {
            known.polls -= 1;
            return book.assigning(&known.operation);
        }
        if known.enrolment.fails {
            let body = json!({
                "operationId": known.operation,
                "status": "failed",
                "registrationState": {"status": "failed", "errorCode": 400_209, "errorMessage": "no hub to assign"},
            });
            return Answer { status: 200, retry_after: None, body };
        }
        if known.hub.is_none() {
            let (hub, device) = (known.choose(&id), known.device(&id));
            for one in &self.hubs {
                if one.options.host == hub {
                    one.register.enter(device, known.credential.clone());
                } else {
                    one.register.remove(device);
                    one.sessions.end(device);
                }
            }
            tracing::info!(registration = id, device, hub, "assigned");
            known.hub = Some(hub);
        }
        Answer { status: 200, retry_after: None, body: assigned(&id, known) }
    }

    /// Who asks: the id in lower case, the enrolment that lets it in, and its credential at the hub.
    fn identify<'b>(
        &self,
        book: &'b Book,
        (scope, id): (&str, &str),
        proof: &Proof<'_>,
    ) -> Result<(String, &'b Enrolment, Credential), Answer> {
        if scope != book.options.scope {
            return Err(Answer::error(404_001, "no such ID scope"));
        }
        let id = RegistrationId::parse(id).map_err(|_| Answer::error(400_004, "no registration id"))?;
        let id = id.as_str();
        let all = || book.options.enrolments.iter().enumerate();
        let is_its_own = |enrolment: &Enrolment| !enrolment.is_group && enrolment.name.eq_ignore_ascii_case(id);
        // An entry of its own goes before any group, and keeps a device out of them: so one of a group is disabled.
        let has_its_own = all().any(|(_, enrolment)| is_its_own(enrolment));
        let fits = |enrolment: &Enrolment| if has_its_own { is_its_own(enrolment) } else { enrolment.is_group };
        let mut candidates = all().filter(|(_, enrolment)| fits(enrolment)).peekable();
        let nobody = candidates.peek().is_none();
        let found = candidates.find_map(|(number, enrolment)| {
            let root = book.roots.get(number).and_then(Option::as_ref).unwrap_or(&self.own_root);
            Some((enrolment, proves((scope, id), enrolment, proof, root.as_ref())?))
        });
        match found {
            Some((enrolment, credential)) => Ok((id.to_owned(), enrolment, credential)),
            None if nobody => Err(Answer::error(404_201, "no such registration")),
            None => {
                tracing::info!(registration = id, "registration refused: neither its token nor its certificate fits");
                Err(Answer::error(401_002, "Unauthorized"))
            }
        }
    }
}

impl Book {
    fn assigning(&self, operation: &str) -> Answer {
        let body = json!({"operationId": operation, "status": "assigning"});
        Answer { status: 202, retry_after: Some(self.options.retry_after), body }
    }
}

impl Registered {
    fn device<'a>(&'a self, id: &'a str) -> &'a str {
        self.enrolment.device.as_deref().unwrap_or(id)
    }

    /// The hub it gets.
    fn choose(&self, id: &str) -> String {
        let hubs = &self.enrolment.hubs;
        if let Some(before) = self.before.as_ref().filter(|before| hubs.contains(before)) {
            return before.clone();
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % (hubs.len().max(1) as u64)).unwrap_or(0);
        hubs.get(place).cloned().unwrap_or_default()
    }
}

/// What a device is entered with at its hub; `None` where it is not who it says.
fn proves(
    (scope, id): (&str, &str),
    enrolment: &Enrolment,
    proof: &Proof<'_>,
    root: &dyn ClientCertVerifier,
) -> Option<Credential> {
    match &enrolment.attestation {
        Attestation::Key(key) => {
            let token = Token::parse(proof.token?).ok()?;
            let key = if enrolment.is_group { Key::parse(key.derive(id).expose()).ok()? } else { key.clone() };
            let want = format!("{scope}/registrations/{id}");
            let fits = token.audience.eq_ignore_ascii_case(&want);
            let good = fits && token.check(Timestamp::now().as_secs(), &[&key]).is_ok();
            good.then_some(Credential::Key(key))
        }
        Attestation::Authority(_) => {
            let (leaf, chain) = proof.certificates?.split_first()?;
            let named = common_name(leaf).is_some_and(|name| name.eq_ignore_ascii_case(id));
            let good = named && root.verify_client_cert(leaf, chain, UnixTime::now()).is_ok();
            good.then(|| Credential::Thumbprint(thumbprint(leaf)))
        }
        Attestation::Thumbprint(registered) => {
            let leaf = proof.certificates?.first()?;
            (thumbprint(leaf) == *registered).then_some(Credential::Thumbprint(*registered))
        }
    }
}

fn assigned(id: &str, known: &Registered) -> Value {
    let enrolment = &known.enrolment;
    let moved = known.before.is_some() && known.before != known.hub;
    let mut state = json!({
        "registrationId": id,
        "createdDateTimeUtc": known.created.to_string(),
        "assignedHub": known.hub,
        "deviceId": known.device(id),
        "status": "assigned",
        "substatus": if moved { "deviceDataMigrated" } else { "initialAssignment" },
        "lastUpdatedDateTimeUtc": Timestamp::now().to_string(),
        "etag": "ImV0YWci",
    });
    let mut add = |name: &str, value: Value| {
        if let Some(object) = state.as_object_mut() {
            object.insert(name.to_owned(), value);
        }
    };
    if enrolment.is_group {
        let kind = if matches!(enrolment.attestation, Attestation::Key(_)) { "symmetricKey" } else { "x509" };
        add(kind, json!({"enrollmentGroupId": enrolment.name}));
    }
    if !known.payload.is_null() {
        add("payload", known.payload.clone());
    }
    if let Some(profile) = &enrolment.profile {
        add("connectionProfile", json!(profile));
    }
    json!({"operationId": known.operation, "status": "assigned", "registrationState": state})
}

/// Serves one client, in the protocol of its first byte.
pub(super) async fn serve(
    mut stream: Stream,
    service: &Arc<Service>,
    guest: Guest<'_>,
    stop: &CancellationToken,
) -> Closed {
    let mut first = [0];
    let patience = std::time::Duration::from_secs(60);
    let read = tokio::select! {
        () = stop.cancelled() => return Closed::Stopped,
        read = timeout(patience, stream.read_exact(&mut first)) => read,
    };
    match read {
        Err(_) => return Closed::NoConnect,
        Ok(Err(_)) => return Closed::Lost,
        Ok(Ok(_)) => {}
    }
    if service.book().options.away {
        return Closed::Stopped;
    }
    let ([first], Guest { door, certificates, .. }) = (first, guest);
    tokio::select! {
        () = stop.cancelled() => Closed::Stopped,
        closed = async {
            match first {
                0x10 if door == Door::Web => Closed::Protocol,
                0x10 => mqtt::serve(stream, &[first], service, certificates).await,
                _ => match http::serve(stream, first, service, certificates).await {
                    Ok(upgraded) => mqtt::serve(upgraded, &[], service, certificates).await,
                    Err(closed) => closed,
                },
            }
        } => closed,
    }
}
