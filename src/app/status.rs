//! What `/status` tells and `brownbridge status` shows: one value, written by the running bridge and read by the command.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod back;

pub use back::{Command, Commands, Twin, TwinRefused, Twins};

use super::reload;
use crate::bridge::InUse;
use crate::bridge::devices::{self, Condition};
use crate::broker::{Census, Client, Traffic};
use crate::hub::accounts::Described;
use crate::message::Timestamp;
use crate::spool::Stats;
use crate::uplink;

/// Most clients listed; more are only counted. It bounds the page to some megabytes.
pub const MAX_CLIENTS: usize = 10_000;

/// Devices that cannot send and are named on the page.
const WORST: usize = 5;

/// The state of a running bridge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// Seconds since its broker started.
    pub uptime_seconds: u64,
    /// Why the bridge does not do its job, as `/readyz` says it; null while it does.
    pub not_ready: Option<String>,
    /// Where clients connect.
    pub listeners: Vec<Address>,
    /// The cloud's side.
    pub uplink: Uplink,
    /// What waits.
    pub spool: Spool,
    /// What waits for others before it goes up.
    pub windows: Windows,
    /// The births of Sparkplug, where rules ask for them.
    #[serde(default)]
    pub sparkplug: Option<Sparkplug>,
    /// The devices, where each has a connection of its own.
    #[serde(default)]
    pub devices: Option<Devices>,
    /// What came down, where that may.
    #[serde(default)]
    pub commands: Option<Commands>,
    /// The twins, where the uplink is a hub.
    #[serde(default)]
    pub twins: Option<Twins>,
    /// The rules in use.
    pub rules: Rules,
    /// Files on disk that are not in use because something is wrong with them.
    pub refused: Vec<Refused>,
    /// What became of all publishes, since the start.
    pub counters: Counters,
    /// Who is connected.
    pub clients: Clients,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `mqtt`, `mqtts` or `websocket`.
    pub name: String,
    /// Where it listens.
    pub address: String,
}

/// The cloud's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// True while it is connected.
    pub connected: bool,
    /// Why the last connection ended or could not be made.
    pub trouble: Option<String>,
    /// What carries MQTT, where it is not the usual way.
    #[serde(default)]
    pub via: Option<String>,
    /// How long ago the hub acknowledged a message.
    pub last_acknowledged_seconds_ago: Option<u64>,
    /// Messages a second that it is taken to take, by `tier` or by what is desired of the bridge.
    #[serde(default)]
    pub hub_rate: Option<u32>,
}

/// What waits for the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spool {
    /// Messages.
    pub waiting: u64,
    /// How long the oldest has waited.
    pub oldest_age_seconds: u64,
    /// Disk space it takes.
    pub bytes: u64,
    /// True while it refuses messages for lack of room.
    pub full: bool,
}

/// The devices, where each has a connection of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// How many are `connected`, `connecting`, `registering`, `idle`, `refused`, `held` and `denied`.
    pub states: BTreeMap<String, u64>,
    /// Messages on shelves.
    pub shelved: u64,
    /// The disk space they take.
    pub shelf_bytes: u64,
    /// Those that cannot send and have most waiting; a few of them.
    pub worst: Vec<Device>,
}

/// A device, as `brownbridge devices` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id; empty for the bridge's own line.
    pub id: String,
    /// `connected`, `connecting`, `registering`, `idle`, `refused`, `held` or `denied`.
    pub state: String,
    /// Messages in memory, on their way.
    pub queued: u64,
    /// Messages on its shelf.
    pub shelved: u64,
    /// The disk space they take.
    pub shelf_bytes: u64,
    /// When the oldest of them was put there.
    pub shelved_since: Option<String>,
    /// Messages the hub has acknowledged since the start.
    pub delivered: u64,
    /// When it last did.
    pub last_delivered: Option<String>,
    /// Why it cannot send.
    pub trouble: Option<String>,
    /// How long until it is tried again.
    pub again_in_seconds: Option<u64>,
    /// Where one device was asked for: why it may connect, or may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<String>,
    /// The same: what it connects with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// The same: its hub, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// The same: when the provisioning service told its hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<String>,
    /// The same: its id there, where the service assigned another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there: Option<String>,
}

impl Devices {
    pub(super) fn of(devices: &devices::Devices) -> Self {
        let (summary, shelves) = (devices.summary(), devices.shelves());
        let states = Condition::ALL.iter().zip(summary.phases);
        Self {
            states: states.map(|(phase, count)| (phase.label().to_owned(), count)).collect(),
            shelved: shelves.waiting,
            shelf_bytes: shelves.bytes,
            worst: devices.worst(WORST).into_iter().map(Device::from).collect(),
        }
    }
}

impl From<devices::Listed> for Device {
    fn from(listed: devices::Listed) -> Self {
        let shelf = listed.shelf;
        let (admission, account) = match listed.origin {
            Some(devices::Origin { admission, account, .. }) => (Some(admission), Some(account)),
            None => (None, None),
        };
        let (credentials, hub, assigned, there) = match account {
            Some(Described { proof, hub, assigned, there }) => (Some(proof), hub, assigned, there),
            None => (None, None, None, None),
        };
        Self {
            admission,
            credentials,
            hub,
            assigned,
            there,
            id: listed.id,
            state: listed.phase.label().to_owned(),
            queued: listed.queued,
            shelved: shelf.messages,
            shelf_bytes: shelf.bytes,
            shelved_since: (shelf.messages > 0).then(|| Timestamp(shelf.oldest).to_string()),
            delivered: listed.delivered,
            last_delivered: listed.last_delivered.map(|at| at.to_string()),
            trouble: listed.trouble,
            again_in_seconds: listed.again_seconds,
        }
    }
}

/// The rules in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// How many.
    pub count: usize,
    /// What tells them from others.
    pub hash: String,
    /// Since when they are in use.
    pub since: String,
}

/// Files that are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Since when.
    pub since: String,
    /// What is wrong, in a sentence.
    pub why: String,
}

/// Windows of rules with `batch`, `aggregate` or `pivot`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Open ones.
    pub open: usize,
    /// Messages that wait in them, or in closed ones that are not stored yet.
    pub messages: u64,
}

/// What is known of Sparkplug edge nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sparkplug {
    /// Edge nodes of which births are known.
    pub nodes: usize,
    /// Births that hold, of nodes and of devices.
    pub births: usize,
    /// Bytes they take.
    pub bytes: usize,
    /// False while they would not survive a restart.
    pub kept: bool,
}

/// The counters of /metrics that tell what became of everything, summed over their labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Publishes taken from clients.
    pub received: u64,
    /// Publishes of which the rules made at least one hub message.
    pub translated: u64,
    /// Publishes that make no hub message on purpose.
    pub dropped: u64,
    /// Publishes in the quarantine.
    pub quarantined: u64,
    /// Hub messages the hub acknowledged.
    pub delivered: u64,
    /// Hub messages given up to make room.
    pub shed: u64,
    /// Hub messages that could not be read back from disk.
    pub lost: u64,
}

/// Who is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// How many.
    pub connected: usize,
    /// Most there were at one time.
    pub maximum: usize,
    /// How many are away while their session waits for them.
    pub away: u64,
    /// In the order they came; at most [`MAX_CLIENTS`].
    pub list: Vec<Connected>,
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Its client identifier, a long one cut.
    pub client_id: String,
    /// Where it comes from.
    pub address: String,
    /// The listener it came to.
    pub via: String,
    /// `3.1`, `3.1.1` or `5`.
    pub mqtt_version: String,
    /// 0 is none.
    pub keep_alive_seconds: u64,
    /// When it connected.
    pub since: String,
    /// Publishes from it.
    pub messages_in: u64,
    /// Publishes to it.
    pub messages_out: u64,
}

impl From<(Client, Traffic)> for Connected {
    fn from((client, traffic): (Client, Traffic)) -> Self {
        Self {
            client_id: client.client_id,
            address: client.address.to_string(),
            via: client.via.to_owned(),
            mqtt_version: client.version.to_owned(),
            keep_alive_seconds: client.keep_alive.as_secs(),
            since: client.since.to_string(),
            messages_in: traffic.publishes_in,
            messages_out: traffic.publishes_out,
        }
    }
}

impl Clients {
    /// Who is in the census.
    pub(super) fn of(census: &Census) -> (Self, Duration) {
        let totals = census.totals();
        let list = census.clients(MAX_CLIENTS).into_iter().map(Connected::from).collect();
        (Self { connected: totals.connected, maximum: totals.maximum, away: totals.away, list }, totals.uptime)
    }
}

impl Uplink {
    pub(super) fn of(status: &uplink::Status, hub_rate: Option<u32>) -> Self {
        Self {
            hub_rate,
            connected: status.connected.is_some(),
            trouble: status.trouble.clone().or_else(|| status.warning.clone()),
            via: status.via.clone(),
            last_acknowledged_seconds_ago: status.last_puback.map(|at| at.elapsed().as_secs()),
        }
    }
}

impl Rules {
    pub(super) fn of(in_use: &InUse) -> Self {
        let rules = in_use.rules();
        Self { count: rules.len(), hash: rules.hash().to_owned(), since: in_use.since().to_string() }
    }
}

impl Sparkplug {
    pub(super) fn of(in_use: &InUse) -> Option<Self> {
        let kept = in_use.births_are_kept()?;
        let tally = in_use.memory().births().tally();
        Some(Self { nodes: tally.nodes, births: tally.births, bytes: tally.bytes, kept })
    }
}

impl Refused {
    pub(super) fn of(refused: &reload::Refused) -> Self {
        Self { since: refused.since.to_string(), why: refused.why.clone() }
    }
}

impl Spool {
    pub(super) fn of(stats: &Stats, oldest_age: Duration) -> Self {
        Self {
            waiting: stats.waiting,
            oldest_age_seconds: oldest_age.as_secs(),
            bytes: stats.disk_bytes,
            full: stats.full,
        }
    }
}

impl Counters {
    /// Sums a page of Prometheus' text format.
    pub(super) fn of(page: &str) -> Self {
        Self {
            received: sum(page, "brownbridge_publishes_received_total"),
            translated: sum(page, "brownbridge_publishes_translated_total"),
            dropped: sum(page, "brownbridge_messages_dropped_total"),
            quarantined: sum(page, "brownbridge_messages_quarantined_total"),
            delivered: sum(page, "brownbridge_messages_delivered_total"),
            shed: sum(page, "brownbridge_messages_shed_total"),
            lost: sum(page, "brownbridge_spool_lost_total"),
        }
    }
}

fn sum(page: &str, name: &str) -> u64 {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name));
    let lines = lines.filter(|rest| rest.starts_with([' ', '{']));
    lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

impl fmt::Display for Report {
    /// The page as it is served.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        writeln!(f, "{json}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_their_labels() {
        let page = "# TYPE x counter\n\
            brownbridge_messages_dropped_total{reason=\"rule\"} 2\n\
            brownbridge_messages_dropped_total{reason=\"an odd } one\"} 3\n\
            brownbridge_messages_dropped_total_of_another 100\n\
            brownbridge_publishes_received_total 7\n";
        let counters = Counters::of(page);
        assert_eq!((counters.dropped, counters.received, counters.lost), (5, 7, 0));
    }
}
