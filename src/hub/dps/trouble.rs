//! Why a registration failed, in words, and when it pays to try again.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::{Reply, spread};
use crate::hub::clock::{Skew, THE_SERVICES};
use crate::message::excerpt;

/// Pauses after refusals that only an operator can end: first and longest.
const REFUSED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3_600));
/// The part of a refusal about the clock, for where that was compared and is not the reason.
const CLOCK_OF_THIS_MACHINE: &str = "the clock of this machine; ";
/// Pauses while the clock of this machine is wrong.
const CLOCK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// Pauses while the service is not there or in trouble.
const UNAVAILABLE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// Pauses where it throttles and does not say for how long.
const THROTTLED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// Longest pause taken over from the service.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// What kind of failure it is; the label of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The proof of identity is refused, and the clock of this machine is wrong.
    Clock,
    /// Token, key or certificate are not those of the enrolment, or there is none.
    Refused,
    /// The enrolment is disabled.
    Disabled,
    /// The service could not assign a hub.
    Failed,
    /// The hub speaks another protocol than this program.
    Profile,
    /// Too many registrations at once.
    Throttled,
    /// The service is in trouble.
    Unavailable,
    /// The service cannot be reached.
    Unreachable,
}

impl Kind {
    /// The label of the counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Refused => "refused",
            Self::Disabled => "disabled",
            Self::Failed => "failed",
            Self::Profile => "profile",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Unreachable => "unreachable",
        }
    }
}

/// A registration that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of failure it is.
    pub kind: Kind,
    /// A sentence, with what to do about it.
    pub text: String,
    /// How long the service asks to wait.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Trouble {}

/// The body of an error.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Told {
    error_code: Option<i64>,
    tracking_id: Option<String>,
    message: Option<String>,
}

impl Trouble {
    /// A failure with its sentence.
    pub fn new(kind: Kind, text: String) -> Self {
        Self { kind, text, retry_after: None }
    }

    /// How long to wait after so many failures in a row (from 0). `chance`, from 0 to 1, spreads it over devices.
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        let doubled = |(first, longest): (Duration, Duration)| {
            spread(first.saturating_mul(1 << failures.min(16)).min(longest), chance)
        };
        let said = self.retry_after.map(|said| spread(said.min(RETRY_AFTER_MAX), chance));
        match self.kind {
            Kind::Clock => doubled(CLOCK),
            Kind::Refused | Kind::Disabled | Kind::Failed | Kind::Profile => doubled(REFUSED),
            Kind::Throttled => said.map_or_else(|| doubled(THROTTLED), |said| said.max(spread(UNAVAILABLE.0, chance))),
            Kind::Unavailable | Kind::Unreachable => doubled(UNAVAILABLE).max(said.unwrap_or_default()),
        }
    }

    /// A refused proof of identity, with what the service's clock says about it.
    pub fn judged(self, skew: Skew) -> Self {
        let clocks = skew.explain(THE_SERVICES);
        match skew.is_wrong() {
            true => Self { kind: Kind::Clock, text: format!("{clocks}. {}", self.text), retry_after: None },
            false => {
                let text = self.text.replace(CLOCK_OF_THIS_MACHINE, "");
                Self { text: format!("{text}. Checked: {clocks}"), ..self }
            }
        }
    }

    /// An error of the service.
    pub(super) fn of(reply: &Reply<'_>) -> Self {
        let told: Told = serde_json::from_slice(reply.body).unwrap_or_default();
        let (kind, why) = classify(reply.status, told.error_code);
        let mut text = format!("the provisioning service refused: {why}");
        push_told(&mut text, reply.status, &told);
        Self { kind, text, retry_after: reply.retry_after }
    }

    /// An answer that cannot be read.
    pub(super) fn answer(what: &str, reply: &Reply<'_>) -> Self {
        let body = String::from_utf8_lossy(reply.body);
        let text = format!(
            "the provisioning service answered {} and {what}: {:?}; is the host a provisioning service?",
            reply.status,
            excerpt(&body)
        );
        Self::new(Kind::Unavailable, text)
    }

    pub(super) fn disabled() -> Self {
        let text = "the enrolment of this device is disabled in the provisioning service: enable the enrolment entry \
                    (portal: DPS > Manage enrollments)";
        Self::new(Kind::Disabled, text.to_owned())
    }

    pub(super) fn unassigned() -> Self {
        let text = "the provisioning service knows the device and has assigned no hub to it: link a hub to the \
                    service, or look at the allocation policy of the enrolment";
        Self::new(Kind::Failed, text.to_owned())
    }

    pub(super) fn failed(code: Option<i64>, message: Option<&str>) -> Self {
        let mut text = "the provisioning service could not assign a hub: look at the allocation policy of the \
                        enrolment, its linked hubs and, with a custom allocation, at the log of that function"
            .to_owned();
        push_told(&mut text, 200, &Told { error_code: code, tracking_id: None, message: message.map(str::to_owned) });
        Self::new(Kind::Failed, text)
    }

    pub(super) fn profile(profile: &str) -> Self {
        let text = format!(
            "the assigned hub wants the connection profile {:?}; this version speaks the classic one only. Assign the \
             device to a classic hub, or look for a newer version",
            excerpt(profile)
        );
        Self::new(Kind::Profile, text)
    }
}

/// Appends what the service itself says, for the support case.
fn push_told(text: &mut String, status: u16, told: &Told) {
    let mut parts = Vec::new();
    if status != 200 {
        parts.push(format!("HTTP {status}"));
    }
    parts.extend(told.error_code.map(|code| format!("error {code}")));
    // One line stays one line, whatever the other side says.
    let line = |said: &str| excerpt(said).replace(char::is_control, " ");
    parts.extend(told.message.as_deref().map(line));
    parts.extend(told.tracking_id.as_deref().map(|id| format!("tracking id {}", line(id))));
    if !parts.is_empty() {
        text.push_str(&format!(" ({})", parts.join(", ")));
    }
}

fn classify(status: u16, code: Option<i64>) -> (Kind, &'static str) {
    // 404001 is an HTTP status and a number; what is not known by its number is known by its status.
    let number = code.unwrap_or_default();
    let status = u16::try_from(number / 1_000).ok().filter(|status| (400..600).contains(status)).unwrap_or(status);
    match (status, number) {
        (400, _) => (
            Kind::Refused,
            "it does not understand the registration: look at `id_scope`, `registration_id`, `api_version` and \
             `payload`",
        ),
        (401, _) => (
            Kind::Refused,
            "the proof of identity is wrong. In the order to look at: the clock of this machine; the key (of this \
             enrolment or, with `group_key`, of the group, not derived); `registration_id` and `id_scope`; for X.509 \
             whether the certificate, or the CA that signed it, is the one of the enrolment and not expired, and \
             whether its common name is the registration id",
        ),
        (403, _) => (
            Kind::Refused,
            "this device may not register: look at the enrolment, and at the network rules (IP filter, private \
             endpoint) of the provisioning service",
        ),
        (404, _) => (
            Kind::Refused,
            "there is no such ID scope, or no enrolment for this registration id: look at `id_scope` (portal: DPS > \
             Overview) and at the enrolments, upper and lower case aside",
        ),
        (409, _) => (
            Kind::Unavailable,
            "another registration of the same device is under way, or the hub has the device in another state",
        ),
        (412, _) => (Kind::Unavailable, "the enrolment was changed at the same moment"),
        (429, _) => (Kind::Throttled, "it has too much to do (quota of the provisioning service); it is asked later"),
        (500..=599, _) => (Kind::Unavailable, "it is in trouble itself; it is asked later"),
        _ => (Kind::Refused, "for a reason this version does not know"),
    }
}
