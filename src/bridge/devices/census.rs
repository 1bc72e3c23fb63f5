//! How the devices are: counted for metrics, status and readiness, and one by one for an operator.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::expiries::Next;
use super::queue::{Device, Phase as Doing};
use super::register::{Register, Verdict};
use super::{Devices, Door, Plan, Shared};
use crate::amount::of;
use crate::hub::accounts::Described;
use crate::message::Timestamp;
use crate::shelf;
use crate::uplink::{Expiry, Status};

/// What is told of a device for which the door is shut.
const FULL: &str = "its shelf is full: what is published for it is not acknowledged until there is room";

/// For so long the hub counts as one that lets somebody in.
const ADMITTED: Duration = Duration::from_secs(60);

/// What a device does, in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Its connection is open.
    Connected,
    /// It is being opened, or waits for its turn.
    Connecting,
    /// The provisioning service is asked for its hub, or will be when it is its turn.
    Registering,
    /// It has nothing to send.
    #[default]
    Idle,
    /// The hub does not let it in, or nobody knows its credentials.
    Refused,
    /// It waits for an operator.
    Held,
    /// An operator has denied it.
    Denied,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Connected, Self::Connecting, Self::Registering, Self::Idle, Self::Refused, Self::Held, Self::Denied];

    /// The word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Connecting => "connecting",
            Self::Registering => "registering",
            Self::Idle => "idle",
            Self::Refused => "refused",
            Self::Held => "held",
            Self::Denied => "denied",
        }
    }
}

impl From<Doing> for Phase {
    fn from(doing: Doing) -> Self {
        match doing {
            Doing::Idle => Self::Idle,
            Doing::Registering => Self::Registering,
            Doing::InLine | Doing::Connecting => Self::Connecting,
            Doing::Connected(_) => Self::Connected,
            Doing::Refused(_) => Self::Refused,
            Doing::Held => Self::Held,
            Doing::Denied => Self::Denied,
        }
    }
}

/// One device as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id; empty for the bridge's own line.
    pub id: String,
    /// What it does.
    pub phase: Phase,
    /// Messages in memory, on their way.
    pub queued: u64,
    /// What is on its shelf.
    pub shelf: shelf::Share,
    /// Messages the hub has acknowledged since the start.
    pub delivered: u64,
    /// When it last did.
    pub last_delivered: Option<Timestamp>,
    /// Why it cannot send.
    pub trouble: Option<String>,
    /// Seconds until it is tried again.
    pub again_seconds: Option<u64>,
    /// Where one device was asked for, what is known of it.
    pub origin: Option<Origin>,
}

/// Why a device may connect or may not, and what it connects with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `allowed`, `held` or `denied`.
    pub verdict: &'static str,
    /// Why it may, or may not.
    pub admission: String,
    /// What it connects with, and where.
    pub account: Described,
}

impl Origin {
    fn of(register: &Register, plan: &Plan, device: &str) -> Self {
        let verdict = match register.verdict(device) {
            Verdict::Allowed => "allowed",
            Verdict::Unknown => "held",
            Verdict::Denied => "denied",
        };
        Self { verdict, admission: register.reason(device), account: plan.accounts.describe(device) }
    }
}

/// Why a device may connect, or may not, as files and the state folder say now.
pub fn origin(plan: &Plan, state: &Path, device: &str) -> io::Result<Origin> {
    let register = Register::open(state, plan.allow.clone(), plan.table.clone())?;
    Ok(Origin::of(&register, plan, device))
}

/// All devices in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Devices by what they do, in the order of [`Phase::ALL`]; the bridge's own line is none of them.
    pub phases: [u64; 7],
    /// Devices that may send: connected, on their way, or idle.
    pub able: u64,
    /// Devices that have something to send and cannot: refused or held.
    pub stuck: u64,
    /// Devices whose shelf is full: what is published for them is not taken.
    pub full: u64,
}

impl Summary {
    /// How many do this.
    pub fn count(&self, phase: Phase) -> u64 {
        Phase::ALL.iter().zip(self.phases).find(|(known, _)| **known == phase).map_or(0, |(_, count)| count)
    }

    /// Says so where some cannot send.
    pub fn warning(&self) -> Option<String> {
        let (refused, held) = (self.count(Phase::Refused), self.count(Phase::Held));
        let part = |count: u64, one: &str, more: &str| match count {
            0 => None,
            count => Some(of(count, &format!("device {one}"), &format!("devices {more}"))),
        };
        let parts = [
            part(refused, "is not let in", "are not let in"),
            part(held, "waits for approval", "wait for approval"),
            part(self.full, "has a full shelf and is not read", "have full shelves and are not read"),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{}; `brownbridge devices list` shows them", parts.join(", ")))
    }
}

impl Devices {
    /// All devices in numbers.
    pub fn summary(&self) -> Summary {
        Summary { full: self.0.door.count() as u64, ..self.0.fleet.summary() }
    }

    /// Whether something of what waits may go in a moment: a device has messages and is neither kept out nor in trouble.
    pub fn can_send(&self) -> bool {
        self.0.fleet.can_send()
    }

    /// Which devices nothing is taken for.
    pub fn door(&self) -> Arc<Door> {
        Arc::clone(&self.0.door)
    }

    /// The counts of all shelves.
    pub fn shelves(&self) -> shelf::Stats {
        self.0.shelves.stats()
    }

    /// The devices that follow an id in the order of ids, at most so many; the bridge's own line is the first of all.
    pub fn page(&self, after: Option<&str>, most: usize) -> Vec<Listed> {
        let mut devices = self.0.all();
        devices.retain(|device| after.is_none_or(|after| *device.id > *after));
        devices.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        devices.iter().take(most).map(|device| self.0.listed(device)).collect()
    }

    /// What every device does, but for the bridge's own line.
    pub fn conditions(&self) -> Vec<(String, Phase)> {
        let all = self.0.all();
        let others = all.iter().filter(|device| !device.is_own());
        others.map(|device| (device.id.to_string(), Phase::from(device.state().phase))).collect()
    }

    /// The devices that are in trouble, those on whose shelves most waits first; at most so many.
    pub fn worst(&self, most: usize) -> Vec<Listed> {
        let in_trouble = |device: &Arc<Device>| {
            let state = device.state();
            state.trouble.is_some() || state.phase == Doing::Held || self.0.door.is_shut_for(&device.id)
        };
        let shelved = |device: &Arc<Device>| self.0.shelves.share(&device.id).map_or(0, |share| share.messages);
        let mut worst: Vec<_> = self.0.all().into_iter().filter(in_trouble).map(|one| (shelved(&one), one)).collect();
        worst.sort_unstable_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.id.cmp(&other.id)));
        worst.iter().take(most).map(|(_, device)| self.0.listed(device)).collect()
    }

    /// What is on shelves, by device.
    pub fn shares(&self) -> Vec<(String, shelf::Share)> {
        self.0.shelves.shares()
    }

    /// One device. The bridge itself has no id here, whatever it is called at its hub.
    pub fn show(&self, id: &str) -> Option<Listed> {
        if id.is_empty() || *id == *self.0.options.plan.own.connection.device {
            return Some(self.0.listed(&self.0.own));
        }
        let device = self.0.devices.lock().by_id.get(id).cloned();
        let mut listed = device.map(|device| self.0.listed(&device))?;
        listed.origin = Some(Origin::of(&self.0.register.lock(), &self.0.options.plan, id));
        Some(listed)
    }

    /// Lets a device in, now and after a restart, and tries it at once. Returns when that is on disk.
    pub fn approve(&self, id: &str) -> std::io::Result<()> {
        self.0.register.lock().say(id, true)?;
        let Some(device) = self.0.device(id) else { return Ok(()) };
        let phase = device.state().phase;
        if phase.is_parked() {
            if matches!(phase, Doing::Refused(_)) {
                self.0.options.plan.accounts.ask_anew(id);
            }
            self.0.let_in(&device);
        }
        self.0.wake.notify_one();
        Ok(())
    }

    /// Keeps a device out, now and after a restart: what waits for it goes to the quarantine. Returns when that is on disk.
    pub fn deny(&self, id: &str) -> std::io::Result<()> {
        self.0.register.lock().say(id, false)?;
        let Some(device) = self.0.device(id) else { return Ok(()) };
        if !self.0.keep_out(&device, Verdict::Denied) {
            device.ask_to_leave();
        }
        self.0.wake.notify_one();
        Ok(())
    }
}

impl Shared {
    fn listed(&self, device: &Device) -> Listed {
        let shelf = self.shelves.share(&device.id).unwrap_or_default();
        let state = device.state();
        let again = match state.phase {
            Doing::Refused(again) => Some(again.saturating_duration_since(Instant::now()).as_secs()),
            _ => None,
        };
        Listed {
            id: device.id.to_string(),
            phase: state.phase.into(),
            queued: state.in_memory() as u64,
            shelf,
            delivered: state.delivered,
            last_delivered: state.last_delivered,
            trouble: match (&state.trouble, self.door.is_shut_for(&device.id)) {
                (trouble, false) => trouble.clone(),
                (None, true) => Some(FULL.to_owned()),
                (Some(trouble), true) => Some(format!("{FULL}. {trouble}")),
            },
            again_seconds: again,
            origin: None,
        }
    }

    /// Changes what a device does, and keeps count of those that are connected.
    pub(super) fn set_phase(&self, state: &mut super::queue::State, phase: Doing) {
        let connected = |phase: Doing| matches!(phase, Doing::Connected(_));
        match (connected(state.phase), connected(phase)) {
            (false, true) => {
                self.connected.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                self.connected.fetch_sub(1, Ordering::Relaxed);
                *self.admitted.lock() = Some(Instant::now());
            }
            _ => {}
        }
        state.phase = phase;
    }

    pub(super) fn any_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed) > 0
    }

    /// The hub lets somebody in, or did so a moment ago: that it refuses a device says something about the device.
    pub(super) fn lets_in(&self) -> bool {
        self.any_connected() || self.admitted.lock().is_some_and(|at| at.elapsed() < ADMITTED)
    }

    /// The line of a device uses this from now on; what its files have counts while there is none.
    pub(super) fn uses(&self, device: &Device, expiry: Expiry) {
        let in_use = |expiry: Expiry| expiry.certificate.is_some();
        let before = in_use(device.uses(expiry));
        if before != in_use(expiry)
            && !device.is_own()
            && let Some(ends) = self.options.plan.accounts.end_of(&device.id)
        {
            self.fleet.expiries().file_in_use(ends, !before);
        }
    }

    /// A line that is not there has no token in use. Its certificate is there all the same: that of a device in a file,
    /// which may have been renewed.
    pub(super) fn uses_nothing(&self, device: &Device) {
        let certificate = device.expiry().certificate.filter(|_| device.is_own());
        self.uses(device, Expiry { certificate, ..Expiry::default() });
    }

    /// What ends next. The files are looked through where they are others than before.
    pub(super) fn next_end(&self) -> Next {
        if self.files_changed.swap(false, Ordering::Relaxed) {
            let mut unused = Vec::new();
            let devices = self.devices.lock();
            self.options.plan.accounts.each_end(&mut |id, ends| {
                if devices.by_id.get(id).is_none_or(|device| device.expiry().certificate.is_none()) {
                    unused.push(ends);
                }
            });
            self.fleet.expiries().set_files(unused);
        }
        self.fleet.expiries().next(Timestamp::now().as_secs())
    }

    /// Tells metrics and status how the devices are.
    #[expect(clippy::cast_precision_loss)]
    pub(super) fn publish(self: &Arc<Self>, status: &watch::Sender<Status>) {
        let summary = Devices(Arc::clone(self)).summary();
        for (phase, count) in Phase::ALL.iter().zip(summary.phases) {
            ::metrics::gauge!("brownbridge_devices", "state" => phase.label()).set(count as f64);
        }
        ::metrics::gauge!("brownbridge_devices_not_read").set(summary.full as f64);
        let connected = self.connected.load(Ordering::Relaxed);
        ::metrics::gauge!("brownbridge_uplink_connections").set(connected as f64);
        self.metrics.uplink_connected.set(f64::from(u8::from(connected > 0)));
        let next = self.next_end();
        crate::metrics::credentials_end(next.token, next.certificate, next.soon);
        let (last_puback, trouble) = (*self.last_puback.lock(), self.trouble.lock().clone());
        let state = match (connected > 0, &trouble) {
            (true, _) => "connected",
            (false, Some((reason, _))) => reason,
            (false, None) => "idle",
        };
        self.metrics.uplink_state(state);
        status.send_modify(|status| {
            status.connected = (connected > 0).then(|| status.connected.unwrap_or_else(Instant::now));
            status.last_puback = last_puback;
            status.trouble = trouble.map(|(_, text)| text).filter(|_| connected == 0);
            status.warning = summary.warning();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_send_is_counted_in_words() {
        for (refused, held, expect) in [
            (0, 0, None),
            (1, 0, Some("1 device is not let in; `brownbridge devices list` shows them")),
            (
                2,
                1,
                Some("2 devices are not let in, 1 device waits for approval; `brownbridge devices list` shows them"),
            ),
            (0, 0, None),
            (0, 3, Some("3 devices wait for approval; `brownbridge devices list` shows them")),
        ] {
            let phases = Phase::ALL.map(|phase| match phase {
                Phase::Refused => refused,
                Phase::Held => held,
                _ => 7,
            });
            let summary = Summary { phases, ..Summary::default() };
            assert_eq!(summary.warning().as_deref(), expect);
        }
    }
}
