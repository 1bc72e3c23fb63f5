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

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
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
    /// Host name of the hub it leads to.
    pub hub: String,
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
}

/// The service at work.
pub(super) struct Service {
    options: Options,
    own_root: Arc<dyn ClientCertVerifier>,
    /// Verifiers of the enrolments with a root of their own, in their order.
    roots: Vec<Option<Arc<dyn ClientCertVerifier>>>,
    hubs: Vec<Arc<Shared>>,
    state: Mutex<State>,
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
    enrolment: usize,
    credential: Credential,
    payload: Value,
    created: Timestamp,
    assigned: bool,
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
        roots: Vec<Option<Arc<dyn ClientCertVerifier>>>,
        hubs: Vec<Arc<Shared>>,
    ) -> Self {
        let state = State { throttled: options.throttled, ..State::default() };
        Self { options, own_root, roots, hubs, state: Mutex::new(state) }
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.options.host.eq_ignore_ascii_case(name)
    }

    /// A device says that it is there.
    fn register(&self, (scope, id): (&str, &str), proof: &Proof<'_>, body: &[u8]) -> Answer {
        let (id, enrolment, credential) = match self.identify((scope, id), proof) {
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
            let retry_after = Some(self.options.retry_after);
            return Answer { retry_after, ..Answer::error(429_001, "operations are being throttled") };
        }
        if self.options.enrolments.get(enrolment).is_some_and(|enrolment| enrolment.disabled) {
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
            polls: self.options.assigning,
            enrolment,
            credential,
            payload: body.get("payload").cloned().unwrap_or(Value::Null),
            created: Timestamp::now(),
            assigned: false,
        };
        state.registrations.insert(id, registered);
        self.assigning(&operation)
    }

    fn assigning(&self, operation: &str) -> Answer {
        let body = json!({"operationId": operation, "status": "assigning"});
        Answer { status: 202, retry_after: Some(self.options.retry_after), body }
    }

    /// What became of an operation; without one, of the device.
    fn status(&self, (scope, id): (&str, &str), operation: Option<&str>, proof: &Proof<'_>) -> Answer {
        let id = match self.identify((scope, id), proof) {
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
            return self.assigning(&known.operation);
        }
        let Some(enrolment) = self.options.enrolments.get(known.enrolment) else {
            return Answer::error(500_001, "the enrolment is gone");
        };
        if enrolment.fails {
            let body = json!({
                "operationId": known.operation,
                "status": "failed",
                "registrationState": {"status": "failed", "errorCode": 400_209, "errorMessage": "no hub to assign"},
            });
            return Answer { status: 200, retry_after: None, body };
        }
        let device = enrolment.device.as_deref().unwrap_or(&id);
        if !known.assigned {
            known.assigned = true;
            for hub in &self.hubs {
                if hub.options.host == enrolment.hub {
                    hub.register.enter(device, known.credential.clone());
                } else {
                    hub.register.remove(device);
                }
            }
            tracing::info!(registration = id, device, hub = enrolment.hub, "assigned");
        }
        Answer { status: 200, retry_after: None, body: assigned(&id, device, known, enrolment) }
    }

    /// Who asks: the id in lower case, the enrolment that lets it in, and its credential at the hub.
    fn identify(&self, (scope, id): (&str, &str), proof: &Proof<'_>) -> Result<(String, usize, Credential), Answer> {
        if scope != self.options.scope {
            return Err(Answer::error(404_001, "no such ID scope"));
        }
        let id = RegistrationId::parse(id).map_err(|_| Answer::error(400_004, "no registration id"))?;
        let id = id.as_str();
        let (mut candidates, mut found) = (0, None);
        for (number, enrolment) in self.options.enrolments.iter().enumerate() {
            // An entry of its own goes before any group.
            let fits = if enrolment.is_group { found.is_none() } else { enrolment.name.eq_ignore_ascii_case(id) };
            if !fits {
                continue;
            }
            candidates += 1;
            let root = self.roots.get(number).and_then(Option::as_ref).unwrap_or(&self.own_root);
            if let Some(credential) = self.proves(enrolment, id, proof, root.as_ref()) {
                found = Some((number, credential));
                if !enrolment.is_group {
                    break;
                }
            }
        }
        match found {
            Some((number, credential)) => Ok((id.to_owned(), number, credential)),
            None if candidates == 0 => Err(Answer::error(404_201, "no such registration")),
            None => {
                tracing::info!(registration = id, "registration refused: neither its token nor its certificate fits");
                Err(Answer::error(401_002, "Unauthorized"))
            }
        }
    }

    fn proves(
        &self,
        enrolment: &Enrolment,
        id: &str,
        proof: &Proof<'_>,
        root: &dyn ClientCertVerifier,
    ) -> Option<Credential> {
        match &enrolment.attestation {
            Attestation::Key(key) => {
                let token = Token::parse(proof.token?).ok()?;
                let key = if enrolment.is_group { Key::parse(key.derive(id).expose()).ok()? } else { key.clone() };
                let want = format!("{}/registrations/{id}", self.options.scope);
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
}

fn assigned(id: &str, device: &str, known: &Registered, enrolment: &Enrolment) -> Value {
    let mut state = json!({
        "registrationId": id,
        "createdDateTimeUtc": known.created.to_string(),
        "assignedHub": enrolment.hub,
        "deviceId": device,
        "status": "assigned",
        "substatus": "initialAssignment",
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
