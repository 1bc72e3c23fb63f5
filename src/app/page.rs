//! What the admin page shows: gauges, the ledger, the report of `/status`, and whether the bridge does its job.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::ledger::{Ledger, SHELF_FULL, TOO_OLD_ON_SHELF};
use super::reload::Standing;
use super::status;
use crate::admin;
use crate::amount::of;
use crate::bridge::devices::{Devices, Summary};
use crate::bridge::down::Audit;
use crate::bridge::twins::{Agreed, Twins};
use crate::bridge::{InUse, Stores};
use crate::broker::Census;
use crate::journal::Journal;
use crate::ledger::{Books, sum};
use crate::message::Timestamp;
use crate::metrics::rules_info;
use crate::shelf::Shelves;
use crate::spool::Stats;
use crate::uplink::{self, HubRate, Status};

/// Age at which a waiting message, or the last acknowledgement, says that the uplink does not do its job.
const STALE: Duration = Duration::from_secs(30);

/// The books as metrics.
fn publish_ledger(books: &Books) {
    let (p, m) = (&books.publishes, &books.messages);
    for (outcome, count) in [
        ("received", p.received),
        ("translated", p.translated),
        ("dropped", sum(&p.dropped)),
        ("quarantined", sum(&p.quarantined)),
        ("interrupted", p.interrupted),
    ] {
        ::metrics::counter!("brownbridge_ledger_publishes_total", "outcome" => outcome).absolute(count);
    }
    for (outcome, count) in [
        ("produced", m.produced),
        ("reopened", m.reopened),
        ("delivered", m.delivered),
        ("shed", sum(&m.shed)),
        ("quarantined", sum(&m.quarantined)),
        ("lost", m.lost),
        ("unrecorded", m.unrecorded),
    ] {
        ::metrics::counter!("brownbridge_ledger_messages_total", "outcome" => outcome).absolute(count);
    }
}

/// Ready is: the hub acknowledges, or nothing waits.
fn readiness(stats: &Stats, status: &Status, age: impl Fn(Option<i64>) -> Duration) -> Result<Option<String>, String> {
    let fresh = status.last_puback.is_some_and(|at| at.elapsed() < STALE);
    let up = status.connected.is_some() || status.renewing;
    if stats.waiting == 0 || (up && (fresh || age(stats.oldest_ms) < STALE)) {
        return Ok(status.warning.clone());
    }
    let waiting = of(stats.waiting, "message waits", "messages wait");
    Err(match (&status.warning, &status.trouble, up) {
        (Some(trouble), ..) | (None, Some(trouble), false) => format!("{waiting}; uplink: {trouble}"),
        (None, None, false) => format!("{waiting}; the uplink is not connected yet"),
        (None, _, true) => format!("{waiting}; connected, but the hub acknowledges nothing"),
    })
}

/// Says so where more devices have something to send and cannot than there are others.
fn most_are_stuck(devices: &Summary) -> Option<String> {
    let (stuck, able) = (devices.stuck, devices.able);
    (stuck > able).then(|| {
        format!(
            "{stuck} of {} cannot send what waits: {}",
            of(stuck + able, "device", "devices"),
            devices.warning().unwrap_or_default()
        )
    })
}

/// What the admin page shows beyond the counters.
pub(super) struct Gauges {
    pub(super) ledger: Arc<Ledger>,
    pub(super) stores: Stores,
    pub(super) status: watch::Receiver<Status>,
    /// The messages a second that the hub is taken to take.
    pub(super) hub_rate: HubRate,
    pub(super) standing: Arc<Standing>,
    pub(super) rules: Arc<InUse>,
    pub(super) listeners: Vec<(&'static str, SocketAddr)>,
    pub(super) census: Arc<Census>,
    pub(super) sessions: Journal,
    /// The hub's tier, its units, and the messages a day they take.
    pub(super) quota: Option<(&'static str, u32, u64)>,
    pub(super) shelves: Option<Arc<Shelves>>,
    /// The devices, where each has a connection of its own.
    pub(super) devices: Option<Devices>,
    /// What came down, where the uplink is a hub.
    pub(super) audit: Option<Audit>,
    /// What may come down now.
    pub(super) terms: Agreed,
    /// The twins, where the uplink is a hub.
    pub(super) twins: Option<Twins>,
}

impl Gauges {
    fn oldest_age(&self, oldest_ms: Option<i64>) -> Duration {
        let age = oldest_ms.map_or(0, |oldest| Timestamp::now().0.saturating_sub(oldest));
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// Only where rules ask for births.
    #[expect(clippy::cast_precision_loss)]
    fn refresh_births(&self) {
        let Some(kept) = self.rules.births_are_kept() else { return };
        let tally = self.rules.memory().births().tally();
        ::metrics::gauge!("brownbridge_sparkplug_nodes").set(tally.nodes as f64);
        ::metrics::gauge!("brownbridge_sparkplug_births").set(tally.births as f64);
        ::metrics::gauge!("brownbridge_sparkplug_births_kept").set(f64::from(u8::from(kept)));
        for (outcome, count) in
            [("changed", tally.changed), ("repeated", tally.repeated), ("unchanged", tally.unchanged)]
        {
            ::metrics::counter!("brownbridge_sparkplug_births_total", "outcome" => outcome).absolute(count);
        }
        for (reason, count) in [("death", tally.died), ("new_session", tally.superseded), ("no_room", tally.no_room)] {
            ::metrics::counter!("brownbridge_sparkplug_births_ended_total", "reason" => reason).absolute(count);
        }
    }

    /// Why the audit log of commands is not written, while some may come.
    fn unaudited(&self) -> Option<String> {
        let terms = self.terms.borrow();
        let trouble = self.audit.as_ref().filter(|_| terms.enabled)?.trouble()?;
        let refused = if terms.audit_required { "; commands are refused until it can be" } else { "" };
        Some(format!("{trouble}{refused}"))
    }

    #[expect(clippy::cast_precision_loss)]
    fn refresh_shelves(&self) {
        let Some(shelves) = &self.shelves else { return };
        let stats = shelves.stats();
        ::metrics::gauge!("brownbridge_shelf_messages").set(stats.waiting as f64);
        ::metrics::gauge!("brownbridge_shelf_bytes").set(stats.bytes as f64);
        ::metrics::gauge!("brownbridge_shelf_devices").set(stats.shelves as f64);
        ::metrics::counter!("brownbridge_shelf_recovered_total").absolute(stats.recovered);
        ::metrics::counter!("brownbridge_shelf_lost_total").absolute(stats.lost);
        ::metrics::counter!("brownbridge_shelf_appended_total").absolute(stats.appended.values().sum());
        for (reason, count) in [(SHELF_FULL, stats.shed), (TOO_OLD_ON_SHELF, stats.expired)] {
            ::metrics::counter!("brownbridge_messages_shed_total", "reason" => reason).absolute(count);
        }
    }
}

impl admin::Source for Gauges {
    #[expect(clippy::cast_precision_loss)]
    fn refresh(&self) {
        let stats = self.stores.stats();
        let gauge = |name: &'static str, value: f64| ::metrics::gauge!(name).set(value);
        gauge("brownbridge_spool_messages", stats.waiting as f64);
        gauge("brownbridge_spool_bytes", stats.disk_bytes as f64);
        gauge("brownbridge_spool_oldest_age_seconds", self.oldest_age(stats.oldest_ms).as_secs_f64());
        gauge("brownbridge_spool_full", f64::from(u8::from(stats.full)));
        let sound = self.standing.refused().is_empty();
        gauge("brownbridge_config_last_reload_successful", f64::from(u8::from(sound)));
        let last_success = self.standing.last_success().0 as f64 / 1e3;
        gauge("brownbridge_config_last_reload_success_timestamp_seconds", last_success);
        ::metrics::gauge!("brownbridge_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let held = self.stores.held.spool().stats();
        gauge("brownbridge_held_messages", self.stores.held.waiting() as f64);
        gauge("brownbridge_held_bytes", held.disk_bytes as f64);
        gauge("brownbridge_open_windows", self.rules.memory().count_windows().0 as f64);
        if let Some((tier, units, quota)) = self.quota {
            let labels = [("tier", tier.to_owned()), ("units", units.to_string())];
            ::metrics::gauge!("brownbridge_billable_quota_units", &labels).set(quota as f64);
        }
        let counter = |name: &'static str, value| ::metrics::counter!(name).absolute(value);
        counter("brownbridge_rule_marks_forgotten_total", self.rules.memory().forgotten());
        counter("brownbridge_spool_recovered_total", stats.recovered);
        counter("brownbridge_spool_lost_total", stats.lost);
        counter("brownbridge_spool_commits_total", stats.commits);
        counter("brownbridge_spool_bytes_written_total", stats.bytes_written);
        counter("brownbridge_spool_bytes_appended_total", stats.bytes_appended);
        counter("brownbridge_spool_sync_failures_total", stats.sync_failures);
        gauge("brownbridge_spool_late_messages", stats.late as f64);
        gauge("brownbridge_broker_sessions_kept", f64::from(u8::from(self.sessions.is_sound())));
        for (reason, count) in [("spool_full", stats.shed), (uplink::TOO_OLD, stats.expired)] {
            ::metrics::counter!("brownbridge_messages_shed_total", "reason" => reason).absolute(count);
        }
        self.refresh_births();
        self.refresh_shelves();
        publish_ledger(&self.ledger.now());
    }

    fn info(&self) -> String {
        rules_info(self.rules.rules().hash())
    }

    fn ledger(&self) -> String {
        format!("{}\n", self.ledger.now().to_json())
    }

    fn status(&self, metrics: &str) -> String {
        let stats = self.stores.stats();
        let (clients, uptime) = status::Clients::of(&self.census);
        let address = |(name, address): &(&str, SocketAddr)| status::Address {
            name: (*name).to_owned(),
            address: address.to_string(),
        };
        let report = status::Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: uptime.as_secs(),
            not_ready: self.ready().err(),
            listeners: self.listeners.iter().map(address).collect(),
            uplink: status::Uplink::of(&self.status.borrow(), self.hub_rate.get()),
            spool: status::Spool::of(&stats, self.oldest_age(stats.oldest_ms)),
            devices: self.devices.as_ref().map(status::Devices::of),
            commands: self.audit.as_ref().and_then(|audit| status::Commands::of(&self.terms.borrow(), audit, metrics)),
            twins: self.twins.as_ref().map(status::Twins::of),
            rules: status::Rules::of(&self.rules),
            refused: self.standing.refused().iter().map(status::Refused::of).collect(),
            windows: status::Windows {
                open: self.rules.memory().count_windows().0,
                messages: self.stores.held.waiting(),
            },
            sparkplug: status::Sparkplug::of(&self.rules),
            counters: status::Counters::of(metrics),
            clients,
        };
        report.to_string()
    }

    fn ready(&self) -> Result<Option<String>, String> {
        if let Some(reason) = self.stores.failed() {
            return Err(format!("the spool failed: {reason}"));
        }
        if let Some(most) = self.devices.as_ref().and_then(|devices| most_are_stuck(&devices.summary())) {
            return Err(most);
        }
        let ready = readiness(&self.stores.stats(), &self.status.borrow(), |oldest| self.oldest_age(oldest))?;
        let warnings: Vec<String> = ready.into_iter().chain(self.standing.warning()).chain(self.unaudited()).collect();
        Ok((!warnings.is_empty()).then(|| warnings.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn not_ready_where_most_devices_cannot_send() {
        for (stuck, able, expect) in
            [(0, 0, None), (1, 1, None), (0, 9, None), (2, 1, Some("2 of 3")), (1, 0, Some("1 of 1"))]
        {
            let got = most_are_stuck(&Summary { stuck, able, ..Summary::default() });
            assert_eq!(got.is_some(), expect.is_some(), "{stuck} {able}");
            assert!(got.unwrap_or_default().starts_with(expect.unwrap_or("")), "{stuck} {able}");
        }
    }

    #[test]
    fn ready_means_that_acknowledgements_come_or_nothing_waits() {
        const OLD: Duration = Duration::from_secs(100);
        let now = Instant::now();
        let text = |text: &str| Some(text.to_owned());
        let up = Status { connected: Some(now), last_puback: Some(now), ..Status::default() };
        let down = Status { connected: None, trouble: text("refused"), ..up.clone() };
        let silent = Status { last_puback: None, ..up.clone() };
        let renewing = Status { connected: None, renewing: true, ..up.clone() };
        let flapping = Status { warning: text("taken over"), ..silent.clone() };
        // What waits, its age, the uplink; ready with a warning or not, with the reason.
        for (name, waiting, age, status, expect) in [
            ("nothing waits", 0, OLD, &Status::default(), Ok("")),
            ("nothing waits and no line", 0, OLD, &down, Ok("")),
            ("acknowledgements come", 9, OLD, &up, Ok("")),
            ("no line yet", 1, Duration::ZERO, &Status::default(), Err("not connected yet")),
            ("no line", 9, Duration::ZERO, &down, Err("refused")),
            ("up and silent", 9, OLD, &silent, Err("acknowledges nothing")),
            ("up and too early to say", 9, Duration::ZERO, &silent, Ok("")),
            ("a new token is on its way", 9, OLD, &renewing, Ok("")),
            ("closed again and again", 9, OLD, &flapping, Err("taken over")),
            ("closed again and again, but nothing waits", 0, OLD, &flapping, Ok("taken over")),
        ] {
            let stats = Stats { waiting, ..Stats::default() };
            let got = readiness(&stats, status, |_| age);
            match (&got, expect) {
                (Ok(warning), Ok(expect)) => assert_eq!(warning.as_deref().unwrap_or(""), expect, "{name}"),
                (Err(why), Err(expect)) => assert!(why.contains(expect), "{name}: {why}"),
                _ => panic!("{name}: {got:?}"),
            }
        }
    }
}
