//! The state machine of a registration.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::trouble::{Kind, Trouble};
use super::{Request, spread};
use crate::hub::connection_string::{is_host, is_id};
use crate::message::excerpt;

/// Time for a whole registration.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Pause before a status request where the service does not say how long.
const POLL: Duration = Duration::from_secs(2);
/// The service's limit of requests by one device.
const WINDOW: Duration = Duration::from_secs(10);
const IN_WINDOW: usize = 5;
/// Shortest pause after a failure of the service.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// An answer of the service.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// As in HTTP.
    pub status: u16,
    /// How long to wait, where it says so.
    pub retry_after: Option<Duration>,
    /// JSON, as a rule.
    pub body: &'a [u8],
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this after a pause.
    Ask(Request, Duration),
    /// The device has a hub.
    Done(Assignment),
    /// It has none.
    Failed(Trouble),
}

/// Where a device belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The host name of the hub.
    pub hub: String,
    /// The device id there.
    pub device: String,
    /// How it came about, as the service names it.
    pub substatus: Option<String>,
    /// The enrolment group, where it was one.
    pub group: Option<String>,
    /// What a custom allocation returned, JSON as it came.
    pub payload: Option<String>,
}

impl Assignment {
    /// How the assignment came about, in words.
    pub fn how(&self) -> &str {
        match self.substatus.as_deref() {
            Some("initialAssignment") => "the hub it was assigned first",
            Some("deviceDataMigrated") => "moved here, its twin came along",
            Some("deviceDataReset") => "moved here, its twin begins anew",
            Some("reprovisionedToInitialAssignment") => "moved back to its first hub",
            Some(other) => other,
            None => "assigned",
        }
    }
}

/// One registration from its first request to its result.
#[derive(Debug)]
pub struct Dialogue {
    started: Duration,
    operation: Option<String>,
    /// When the last requests were, or will be, sent.
    asked: VecDeque<Duration>,
    /// Failed status requests in a row.
    failures: u32,
}

impl Dialogue {
    /// Begins; the caller sends [`Request::Register`] at once. Times are since any point, the same for all calls.
    pub fn begin(now: Duration) -> Self {
        Self { started: now, operation: None, asked: VecDeque::from([now]), failures: 0 }
    }

    /// The next step after an answer. `chance`, from 0 to 1, spreads pauses over many devices.
    pub fn answered(&mut self, reply: &Reply<'_>, now: Duration, chance: f64) -> Step {
        let body: Option<Body<'_>> = serde_json::from_slice(reply.body).ok();
        match (reply.status, body) {
            (202, Some(Body { operation_id: Some(operation), .. })) if !operation.is_empty() => {
                self.failures = 0;
                self.operation = Some(operation);
                self.ask(reply.retry_after.unwrap_or(POLL), now)
            }
            (200, Some(body)) => settled(body),
            (200 | 202, _) => Step::Failed(Trouble::answer("its answer makes no sense", reply)),
            (status @ (429 | 500..=599), _) if self.operation.is_some() => {
                let base = AFTER_FAILURE.saturating_mul(1 << self.failures.min(4));
                self.failures += 1;
                let said = reply.retry_after.filter(|said| status == 429 || *said > AFTER_FAILURE);
                self.ask(said.unwrap_or_else(|| spread(base, chance)), now)
            }
            _ => Step::Failed(Trouble::of(reply)),
        }
    }

    /// Asks for the status after `pause`, later where the service's limit wants it so.
    fn ask(&mut self, pause: Duration, now: Duration) -> Step {
        let Some(operation) = self.operation.clone() else {
            return Step::Failed(Trouble::new(Kind::Unavailable, "it gave no operation to ask for".to_owned()));
        };
        let mut at = now.saturating_add(pause);
        if let Some(earlier) = self.asked.len().checked_sub(IN_WINDOW).and_then(|n| self.asked.get(n)) {
            at = at.max(earlier.saturating_add(WINDOW));
        }
        if at.saturating_sub(self.started) > PATIENCE {
            let minutes = PATIENCE.as_secs() / 60;
            let text = format!("the provisioning service has not assigned a hub within {minutes} minutes");
            return Step::Failed(Trouble::new(Kind::Unavailable, text));
        }
        self.asked.push_back(at);
        if self.asked.len() > IN_WINDOW {
            self.asked.pop_front();
        }
        Step::Ask(Request::Status(operation), at.saturating_sub(now))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    operation_id: Option<String>,
    status: Option<String>,
    #[serde(borrow)]
    registration_state: Option<State<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    assigned_hub: Option<String>,
    device_id: Option<String>,
    substatus: Option<String>,
    error_code: Option<i64>,
    error_message: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    symmetric_key: Option<Group>,
    x509: Option<Group>,
    connection_profile: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    enrollment_group_id: Option<String>,
}

/// The step after a final answer.
fn settled(body: Body<'_>) -> Step {
    let (status, state) = (body.status.unwrap_or_default(), body.registration_state);
    let fail = |kind, text: String| Step::Failed(Trouble::new(kind, text));
    let state = match (status.as_str(), state) {
        ("assigned", Some(state)) => state,
        ("failed", state) => {
            let (code, message) = state.map_or((None, None), |state| (state.error_code, state.error_message));
            return Step::Failed(Trouble::failed(code, message.as_deref()));
        }
        ("disabled", _) => return Step::Failed(Trouble::disabled()),
        ("unassigned", _) => return Step::Failed(Trouble::unassigned()),
        (other, _) => {
            let text = format!("the provisioning service answered with the status {:?}", excerpt(other));
            return fail(Kind::Unavailable, text);
        }
    };
    if let Some(profile) = state.connection_profile.filter(|profile| !profile.eq_ignore_ascii_case("classic")) {
        return Step::Failed(Trouble::profile(&profile));
    }
    let (hub, device) = (state.assigned_hub.unwrap_or_default(), state.device_id.unwrap_or_default());
    if hub.is_empty() || !is_host(&hub) || !is_id(&device) {
        let text = format!("the provisioning service assigned {:?} at {:?}", excerpt(&device), excerpt(&hub));
        return fail(Kind::Failed, format!("{text}, which is no device id and host name"));
    }
    let group = state.symmetric_key.or(state.x509).and_then(|group| group.enrollment_group_id);
    let payload = state.payload.map(|payload| payload.get().to_owned()).filter(|payload| payload != "null");
    Step::Done(Assignment { hub, device, substatus: state.substatus, group, payload })
}
