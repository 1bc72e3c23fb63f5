//! The metrics of the product, by name.
//!
//! Every counter and gauge is registered here once, with its help text, so that /metrics shows it from
//! the start and the hot path only touches an atomic. Labels are rule, reason and direction, never a
//! topic or a device.
//!
//! Conservation, which holds at rest and survives a restart through `spool_recovered`:
//! - `publishes_received` = `publishes_translated` + sum of `messages_dropped` + sum of `messages_quarantined`
//! - sum of `messages_translated` + `spool_recovered` = `messages_delivered` + sum of `messages_shed` + sum of
//!   `hub_messages_quarantined` + `spool_lost` + `spool_messages`
//!
//! A publish whose message waits in a window (`held_messages`) counts as translated once it is kept on disk for that; the
//! message that the window becomes counts when it is stored.
//!
//! What goes into a twin counts as translated, and is no hub message: `reported_changes` + `reported_recovered` = sum of
//! `reported_ended` + `reported_waiting`.
//!
//! Where devices have connections of their own, `shelf_recovered` is added to the left of the second, and `shelf_lost`
//! and `shelf_messages` to its right. A message that the spool gave up to make room while it came to a shelf is there
//! after all: it counts as shed, and as translated once more, by the rule `(saved on a shelf)`.
//!
//! A retried entry of the quarantine counts as received anew, a retried hub message as translated by the rule
//! `(retried)`: the counters of the quarantine count what went in, not what lies there.

use std::collections::HashMap;
use std::sync::Arc;

use ::metrics::{Counter, Gauge, Histogram, Unit};
use parking_lot::Mutex;

use crate::message::Timestamp;

/// Handles of all metrics that code below the wiring touches.
#[derive(Clone)]
pub struct Metrics {
    /// Publishes of plant clients that the broker accepted; wills, what rules with `on` take, and what is retried from
    /// the quarantine, among them.
    pub publishes_received: Counter,
    /// Publishes of which the rules made at least one hub message.
    pub publishes_translated: Counter,
    /// Hub messages the hub acknowledged.
    pub messages_delivered: Counter,
    /// Seconds from reading a publish to its acknowledgement.
    pub ack_seconds: Histogram,
    /// Seconds from the plant's publish to the hub's acknowledgement.
    pub delivery_seconds: Histogram,
    /// Plant connections.
    pub connections: Gauge,
    sessions: Gauge,
    sessions_away: Gauge,
    /// Publishes queued for local subscribers.
    pub local_deliveries: Counter,
    /// Publishes a local subscriber lost because its queue was full, or those of all absent clients were.
    pub local_deliveries_dropped: Counter,
    /// Publishes that waited for a local subscriber longer than their message expiry interval.
    pub local_deliveries_expired: Counter,
    /// Retained messages not kept because of the limits.
    pub retained_dropped: Counter,
    /// 1 while the uplink is connected.
    pub uplink_connected: Gauge,
    /// When the hub last acknowledged a message.
    pub uplink_last_puback: Gauge,
    /// Publishes sent to the hub, repetitions among them.
    pub uplink_publishes: Counter,
    /// Publishes that may be in flight.
    pub uplink_window: Gauge,
    pace: Arc<Pace>,
    /// The last state of the uplink.
    state: Arc<Mutex<Option<&'static str>>>,
    /// Counts for one connection of many: what only one can say is not said.
    one_of_many: bool,
}

const DELIVERIES_DROPPED: &str = "brownbridge_broker_deliveries_dropped_total";

/// At most one log line a second and kind for what a misbehaving client can cause at will.
#[derive(Default)]
struct Pace {
    kinds: Kinds,
    /// The same by whom it is about.
    of: Kinds,
}

/// When each kind was last logged, in seconds, and how often it was left out since.
type Kinds = Mutex<HashMap<String, (i64, u64)>>;

/// Kinds of paced log lines that are told apart; what is beyond shares one pace.
const MAX_KINDS: usize = 1_000;

impl Metrics {
    /// Registers everything with the installed recorder; without one the handles do nothing.
    pub fn register() -> Self {
        Self {
            publishes_received: counter(
                "publishes_received_total",
                "Publishes of plant clients accepted by the broker",
            ),
            publishes_translated: counter(
                "publishes_translated_total",
                "Publishes of which the rules made at least one hub message",
            ),
            messages_delivered: counter("messages_delivered_total", "Hub messages the hub acknowledged"),
            ack_seconds: histogram("ack_seconds", "From reading a publish to acknowledging it, after its commit"),
            delivery_seconds: histogram("delivery_seconds", "From the plant's publish to the hub's acknowledgement"),
            connections: gauge("broker_connections", Unit::Count, "Plant connections"),
            sessions: gauge("broker_sessions", Unit::Count, "Sessions, those whose client is away among them"),
            sessions_away: gauge("broker_sessions_away", Unit::Count, "Sessions whose client is away"),
            local_deliveries: counter("broker_deliveries_total", "Publishes queued for local subscribers"),
            local_deliveries_dropped: ::metrics::counter!(DELIVERIES_DROPPED, "reason" => "queue_full"),
            local_deliveries_expired: counter(
                "broker_deliveries_expired_total",
                "Publishes that waited for a local subscriber longer than their message expiry interval",
            ),
            retained_dropped: counter(
                "broker_retained_dropped_total",
                "Retained messages not kept because of max_retained or max_retained_bytes",
            ),
            uplink_connected: gauge("uplink_connected", Unit::Count, "1 while the uplink is connected"),
            uplink_last_puback: gauge(
                "uplink_last_puback_timestamp_seconds",
                Unit::Seconds,
                "When the hub last acknowledged a message",
            ),
            uplink_window: gauge("uplink_window", Unit::Count, "Publishes that may wait for the hub's PUBACK"),
            uplink_publishes: counter("uplink_publishes_total", "Publishes sent to the hub, repetitions among them"),
            pace: Arc::default(),
            state: Arc::default(),
            one_of_many: false,
        }
    }

    /// The same counters for one uplink of many: the gauges that only a single one can set are left alone.
    #[must_use]
    pub fn of_one_of_many(&self) -> Self {
        Self { uplink_connected: Gauge::noop(), uplink_window: Gauge::noop(), one_of_many: true, ..self.clone() }
    }

    /// The counter of connections accepted by a listener.
    pub fn accepted(&self, listener: &'static str) -> Counter {
        ::metrics::counter!("brownbridge_broker_accepted_total", "listener" => listener)
    }

    /// Counts a plant connection that ended, or never began.
    pub fn connection_closed(&self, reason: &'static str) {
        ::metrics::counter!("brownbridge_broker_disconnects_total", "reason" => reason).increment(1);
    }

    /// Counts a publish that makes no hub message on purpose.
    pub fn dropped(&self, reason: &'static str) {
        ::metrics::counter!("brownbridge_messages_dropped_total", "reason" => reason).increment(1);
    }

    /// Counts publishes a local subscriber lost for another reason than a full queue.
    pub fn deliveries_dropped(&self, reason: &'static str, messages: u64) {
        ::metrics::counter!(DELIVERIES_DROPPED, "reason" => reason).increment(messages);
    }

    /// Counts a session that ended because its client stayed away.
    pub fn session_ended(&self, reason: &'static str) {
        ::metrics::counter!("brownbridge_broker_sessions_ended_total", "reason" => reason).increment(1);
    }

    /// Says how many sessions there are, and of how many the client is away.
    #[expect(clippy::cast_precision_loss)]
    pub fn sessions(&self, all: usize, away: usize) {
        self.sessions.set(all as f64);
        self.sessions_away.set(away as f64);
    }

    /// Counts a subscription that was refused.
    pub fn subscription_refused(&self, reason: &'static str) {
        ::metrics::counter!("brownbridge_broker_subscriptions_refused_total", "reason" => reason).increment(1);
    }

    /// Counts a publish that a rule could not translate.
    pub fn rule_failed(&self, rule: &str, reason: &str) {
        ::metrics::counter!("brownbridge_rule_failures_total", "rule" => rule.to_owned(), "reason" => reason.to_owned())
            .increment(1);
    }

    /// Counts a message whose payload has a time that was not taken.
    pub fn time_ignored(&self, rule: &str, reason: &'static str) {
        ::metrics::counter!("brownbridge_time_ignored_total", "rule" => rule.to_owned(), "reason" => reason)
            .increment(1);
    }

    /// Counts what became of a command from the hub, or of a method; an empty name is that of none.
    pub fn commanded(&self, command: &str, outcome: &'static str) {
        ::metrics::counter!("brownbridge_commands_total", "command" => command.to_owned(), "outcome" => outcome)
            .increment(1);
    }

    /// Says how many commands wait for a device, an answer or their turn.
    #[expect(clippy::cast_precision_loss)]
    pub fn commands_waiting(&self, waiting: usize) {
        ::metrics::gauge!("brownbridge_commands_waiting").set(waiting as f64);
    }

    /// Counts an edge node that was asked for a rebirth, or should have been.
    pub fn rebirth(&self, outcome: &'static str) {
        ::metrics::counter!("brownbridge_sparkplug_rebirths_total", "outcome" => outcome).increment(1);
    }

    /// Counts a change of reported properties that was taken to be made; the rule that made it.
    pub fn reported(&self, rule: &str) {
        ::metrics::counter!("brownbridge_reported_changes_total", "rule" => rule.to_owned()).increment(1);
    }

    /// Counts changes of reported properties that are over.
    pub fn reported_ended(&self, outcome: &'static str, changes: u64) {
        ::metrics::counter!("brownbridge_reported_ended_total", "outcome" => outcome).increment(changes);
    }

    /// Counts changes of reported properties that were found to wait at the start.
    pub fn reported_recovered(&self, changes: u64) {
        ::metrics::counter!("brownbridge_reported_recovered_total").increment(changes);
    }

    /// Says how many changes of reported properties wait for the hub.
    #[expect(clippy::cast_precision_loss)]
    pub fn reported_waiting(&self, changes: u64) {
        ::metrics::gauge!("brownbridge_reported_waiting").set(changes as f64);
    }

    /// Counts what the hub answered to twin operations.
    pub fn twin_answer(&self, outcome: &'static str) {
        ::metrics::counter!("brownbridge_twin_answers_total", "outcome" => outcome).increment(1);
    }

    /// Counts publishes that went to the quarantine for a reason.
    pub fn quarantined(&self, reason: &str) -> Counter {
        ::metrics::counter!("brownbridge_messages_quarantined_total", "reason" => reason.to_owned())
    }

    /// Counts a stored hub message that went to the quarantine.
    pub fn isolated(&self, reason: &'static str) {
        ::metrics::counter!("brownbridge_hub_messages_quarantined_total", "reason" => reason).increment(1);
    }

    /// Counts entries that left the quarantine: `retried`, or dropped by the `operator`.
    pub fn quarantine_taken(&self, reason: &'static str, entries: usize) {
        ::metrics::counter!("brownbridge_quarantine_taken_total", "reason" => reason).increment(entries as u64);
    }

    /// Says when the SAS token in use expires. Without a token there is no such gauge, and no alarm about it.
    pub fn sas_expires(&self, seconds: i64) {
        if self.one_of_many {
            return;
        }
        set("brownbridge_sas_expiry_timestamp_seconds", seconds);
    }

    /// Says when the client certificate in use expires. Without one there is no such gauge.
    pub fn certificate_expires(&self, seconds: i64) {
        if self.one_of_many {
            return;
        }
        set("brownbridge_certificate_expiry_timestamp_seconds", seconds);
    }

    /// Says what the uplink is doing, or why it does not: 1 for this state, 0 for those before it.
    pub fn uplink_state(&self, state: &'static str) {
        if self.one_of_many {
            return;
        }
        let mut last = self.state.lock();
        if let Some(before) = last.replace(state).filter(|before| *before != state) {
            ::metrics::gauge!("brownbridge_uplink_state", "state" => before).set(0.0);
        }
        ::metrics::gauge!("brownbridge_uplink_state", "state" => state).set(1.0);
    }

    /// Says when the certificate of the plant's TLS listener expires.
    pub fn plant_certificate_expires(&self, seconds: i64) {
        set("brownbridge_broker_certificate_expiry_timestamp_seconds", seconds);
    }

    /// Counts an end of the uplink's connection.
    pub fn uplink_reconnect(&self, reason: &'static str) {
        ::metrics::counter!("brownbridge_uplink_reconnects_total", "reason" => reason).increment(1);
    }

    /// Calls `log` at most once a second for each `kind`, with the number of calls left out since, if any.
    pub fn log_pace(&self, kind: &str, log: impl FnOnce(Option<u64>)) {
        Self::paced(&self.pace.kinds, kind, log);
    }

    /// The same for each `kind` and `who`, so that one of many does not hide the others. Beyond a thousand of them they
    /// share one pace.
    pub fn log_pace_of(&self, kind: &str, who: &str, log: impl FnOnce(Option<u64>)) {
        Self::paced(&self.pace.of, &format!("{kind} {who}"), log);
    }

    fn paced(kinds: &Kinds, kind: &str, log: impl FnOnce(Option<u64>)) {
        let now = Timestamp::now().as_secs();
        let left_out = {
            let mut kinds = kinds.lock();
            let kind = if kinds.len() < MAX_KINDS || kinds.contains_key(kind) { kind } else { "" };
            let (last, left_out) = kinds.entry(kind.to_owned()).or_insert((i64::MIN, 0));
            if *last == now {
                *left_out += 1;
                return;
            }
            *last = now;
            std::mem::take(left_out)
        };
        log((left_out > 0).then_some(left_out));
    }
}

/// Says what ends first of all that devices connect with, and of how many it ends soon without being renewed. Where
/// nothing has an end any more the gauge is no number: no alarm compares with that.
#[expect(clippy::cast_precision_loss)]
pub fn credentials_end(token: Option<i64>, certificate: Option<i64>, soon: u64) {
    let ends = |name: &'static str, at: Option<i64>| {
        ::metrics::gauge!(name).set(at.map_or(f64::NAN, |seconds| seconds as f64));
    };
    ends("brownbridge_sas_expiry_timestamp_seconds", token);
    ends("brownbridge_certificate_expiry_timestamp_seconds", certificate);
    ::metrics::gauge!("brownbridge_credentials_expiring").set(soon as f64);
}

/// A counter per rule, looked up once when the rules are loaded.
pub fn translated_by_rule(rule: &str) -> Counter {
    ::metrics::counter!("brownbridge_messages_translated_total", "rule" => rule.to_owned())
}

/// Lines that the audit log lacks.
pub fn audit_lost(reason: &'static str, lines: u64) {
    ::metrics::counter!("brownbridge_audit_lines_lost_total", "reason" => reason).increment(lines);
}

/// What the hub will bill for the messages of a rule.
pub fn billable_by_rule(rule: &str) -> Counter {
    ::metrics::counter!("brownbridge_billable_units_total", "rule" => rule.to_owned())
}

/// The messages that a rule did not make because they were not worth it.
pub fn held_back_by_rule(rule: &str, reason: &'static str) -> Counter {
    ::metrics::counter!("brownbridge_messages_held_back_total", "rule" => rule.to_owned(), "reason" => reason)
}

/// The values that a rule left out of its messages because of their quality.
pub fn left_out_by_rule(rule: &str, reason: &'static str) -> Counter {
    ::metrics::counter!("brownbridge_values_left_out_total", "rule" => rule.to_owned(), "reason" => reason)
}

/// The messages of a rule that went into a window.
pub fn combined_by_rule(rule: &str) -> Counter {
    ::metrics::counter!("brownbridge_messages_combined_total", "rule" => rule.to_owned())
}

/// Counts a window that became a message.
pub fn window_closed(reason: &'static str) {
    ::metrics::counter!("brownbridge_windows_closed_total", "reason" => reason).increment(1);
}

/// Counts windows that were stored while the holding spool had no room to write that down.
pub fn windows_unmarked(count: u64) {
    ::metrics::counter!("brownbridge_windows_unmarked_total").increment(count);
}

/// Counts a registration with the provisioning service: `assigned`, or why not.
pub fn registration(result: &'static str) {
    ::metrics::counter!("brownbridge_dps_registrations_total", "result" => result).increment(1);
}

/// How many seconds this machine was ahead of the hub, or the provisioning service, when they were compared last.
pub fn clock_ahead(seconds: i64) {
    #[expect(clippy::cast_precision_loss)]
    ::metrics::gauge!("brownbridge_clock_ahead_seconds").set(seconds as f64);
}

/// Counts what a tap or a recording misses, by reason.
pub fn watch_missed(reason: &'static str) -> Counter {
    ::metrics::counter!("brownbridge_watch_missed_total", "reason" => reason)
}

/// Tells which rules are in use, in Prometheus' text format. The hash changes with them and the one before is gone then,
/// which no gauge can do.
pub fn rules_info(hash: &str) -> String {
    let name = "brownbridge_rules_info";
    format!(
        "# HELP {name} 1, with the hash of the rules in use as a label\n# TYPE {name} gauge\n{name}{{hash=\"{hash}\"}} 1\n"
    )
}

/// Describes the metrics that have labels or are set at scrape time.
pub fn describe_labelled() {
    for (name, help) in [
        ("brownbridge_broker_accepted_total", "Connections accepted, by listener"),
        ("brownbridge_broker_disconnects_total", "Plant connections that ended, by reason"),
        ("brownbridge_broker_subscriptions_refused_total", "Subscriptions of plant clients refused, by reason"),
        (DELIVERIES_DROPPED, "Publishes a local subscriber lost, by reason"),
        ("brownbridge_broker_sessions_ended_total", "Sessions that ended because their client stayed away, by reason"),
        ("brownbridge_messages_translated_total", "Hub messages made and stored, by rule"),
        (
            "brownbridge_billable_units_total",
            "Blocks of 4 KB (free tier: 0.5 KB) the hub bills for messages stored, by rule",
        ),
        (
            "brownbridge_messages_held_back_total",
            "Messages not made because of throttle, report_by_exception or dedupe",
        ),
        (
            "brownbridge_values_left_out_total",
            "Values left out of messages because of their quality, by rule and reason",
        ),
        (
            "brownbridge_rule_marks_forgotten_total",
            "What rules sent last of something, forgotten because there was too much",
        ),
        (
            "brownbridge_sparkplug_births_total",
            "Births of Sparkplug nodes and devices: whether they declared something new (changed), what an ended one had \
             (repeated), or what was known (unchanged)",
        ),
        ("brownbridge_sparkplug_births_ended_total", "Births that hold no more, by why"),
        ("brownbridge_sparkplug_rebirths_total", "Edge nodes asked for a rebirth, by what became of that"),
        ("brownbridge_windows_closed_total", "Windows that became a message, by why they closed"),
        (
            "brownbridge_windows_unmarked_total",
            "Windows stored while the holding spool was too full to note it: a crash then may repeat a part of one",
        ),
        ("brownbridge_messages_dropped_total", "Publishes that make no hub message on purpose, by reason"),
        ("brownbridge_messages_quarantined_total", "Publishes put into the quarantine, by reason"),
        ("brownbridge_rule_failures_total", "Publishes a rule could not translate, by rule and reason"),
        ("brownbridge_hub_messages_quarantined_total", "Stored hub messages put into the quarantine, by reason"),
        ("brownbridge_quarantine_taken_total", "Quarantined entries taken out by an operator, by what became of them"),
        (
            "brownbridge_time_ignored_total",
            "Messages whose payload's time was not taken for theirs, by rule and reason",
        ),
        ("brownbridge_commands_total", "Commands and methods from the hub, by command and by what became of them"),
        ("brownbridge_audit_lines_lost_total", "Lines of the audit log of commands that could not be written, by why"),
        ("brownbridge_reported_changes_total", "Changes of reported properties taken, by rule"),
        ("brownbridge_reported_recovered_total", "Changes of reported properties found waiting at start"),
        ("brownbridge_reported_ended_total", "Changes of reported properties that are over, by what became of them"),
        ("brownbridge_twin_answers_total", "What the hub said about twins, by outcome"),
        ("brownbridge_quarantine_evicted_total", "Quarantined entries given up because the quarantine was full"),
        ("brownbridge_messages_shed_total", "Stored hub messages given up to make room, by reason"),
        ("brownbridge_ledger_publishes_total", "Publishes over all restarts, by what became of them"),
        ("brownbridge_ledger_messages_total", "Hub messages over all restarts, by what became of them"),
        ("brownbridge_dps_registrations_total", "Registrations with the provisioning service, by result"),
        ("brownbridge_uplink_reconnects_total", "Ends of the uplink's connection, by reason"),
        (
            "brownbridge_watch_missed_total",
            "Publishes that taps and recordings did not show: over their pace, or for a slow reader",
        ),
        ("brownbridge_spool_recovered_total", "Hub messages found waiting in the spool at start"),
        ("brownbridge_spool_lost_total", "Stored hub messages that could not be read back"),
        ("brownbridge_spool_commits_total", "Group commits"),
        ("brownbridge_spool_bytes_written_total", "Bytes the spool wrote to disk"),
        ("brownbridge_spool_bytes_appended_total", "Bytes of the hub messages the spool took"),
        ("brownbridge_spool_sync_failures_total", "fdatasync calls that failed"),
        ("brownbridge_shelf_recovered_total", "Hub messages found on the shelves of devices at start"),
        ("brownbridge_shelf_lost_total", "Hub messages on shelves that could not be read back"),
        ("brownbridge_shelf_appended_total", "Hub messages moved from the spool to a device's shelf"),
    ] {
        ::metrics::describe_counter!(name, help);
    }
    for (name, unit, help) in [
        (
            "brownbridge_sas_expiry_timestamp_seconds",
            Unit::Seconds,
            "When the SAS token in use expires; of many devices the first one",
        ),
        (
            "brownbridge_credentials_expiring",
            Unit::Count,
            "Devices whose certificate, or token that nobody renews, expires within 7 days",
        ),
        (
            "brownbridge_certificate_expiry_timestamp_seconds",
            Unit::Seconds,
            "When the client certificate in use expires; of many devices the first one",
        ),
        (
            "brownbridge_clock_ahead_seconds",
            Unit::Seconds,
            "How far this machine's clock was ahead of the hub's, or the provisioning service's, when they were compared",
        ),
        ("brownbridge_uplink_state", Unit::Count, "1 for what the uplink does, or why it does not, in one word"),
        (
            "brownbridge_broker_certificate_expiry_timestamp_seconds",
            Unit::Seconds,
            "When the certificate of the TLS listener expires",
        ),
        (
            "brownbridge_broker_sessions_kept",
            Unit::Count,
            "1 while sessions and retained messages would survive a restart, 0 while the disk does not take them",
        ),
        ("brownbridge_sparkplug_nodes", Unit::Count, "Sparkplug edge nodes of which births are known"),
        ("brownbridge_sparkplug_births", Unit::Count, "Births that hold, of nodes and of devices"),
        (
            "brownbridge_sparkplug_births_kept",
            Unit::Count,
            "1 while they would survive a restart, 0 while the disk does not take them",
        ),
        ("brownbridge_commands_waiting", Unit::Count, "Commands that wait for their device, its answer or their turn"),
        ("brownbridge_reported_waiting", Unit::Count, "Changes of reported properties that wait for the hub"),
        ("brownbridge_spool_messages", Unit::Count, "Hub messages waiting for the hub's acknowledgement"),
        (
            "brownbridge_spool_late_messages",
            Unit::Count,
            "Those of them that waited through an outage and follow what is new",
        ),
        (
            "brownbridge_held_messages",
            Unit::Count,
            "Messages waiting in windows: acknowledged, not yet made into hub messages",
        ),
        ("brownbridge_held_bytes", Unit::Bytes, "Disk space of what waits in windows"),
        ("brownbridge_open_windows", Unit::Count, "Windows of batch, aggregate and pivot that are open"),
        ("brownbridge_spool_bytes", Unit::Bytes, "Disk space the spool takes"),
        ("brownbridge_spool_oldest_age_seconds", Unit::Seconds, "Age of the oldest waiting hub message"),
        ("brownbridge_shelf_messages", Unit::Count, "Hub messages on the shelves of devices that cannot take them now"),
        ("brownbridge_shelf_bytes", Unit::Bytes, "Disk space they take"),
        ("brownbridge_shelf_devices", Unit::Count, "Devices that have messages on their shelf"),
        ("brownbridge_devices", Unit::Count, "Devices with a connection of their own, by state"),
        (
            "brownbridge_devices_not_read",
            Unit::Count,
            "Devices whose shelf is full: publishes for them are not acknowledged until there is room",
        ),
        ("brownbridge_uplink_connections", Unit::Count, "Open connections to the hub, one a device"),
        ("brownbridge_spool_full", Unit::Count, "1 while the spool refuses messages for lack of room"),
        (
            "brownbridge_config_last_reload_successful",
            Unit::Count,
            "1 while rules, users and access files, devices and certificates on disk are those in use, 0 while some are refused",
        ),
        (
            "brownbridge_config_last_reload_success_timestamp_seconds",
            Unit::Seconds,
            "When files were last found good, at the start or after a change",
        ),
        ("brownbridge_build_info", Unit::Count, "1, with the version as a label"),
    ] {
        ::metrics::describe_gauge!(name, unit, help);
    }
}

#[expect(clippy::cast_precision_loss)]
fn set(name: &'static str, value: i64) {
    ::metrics::gauge!(name).set(value as f64);
}

fn counter(name: &'static str, help: &'static str) -> Counter {
    let name = prefixed(name);
    ::metrics::describe_counter!(name.clone(), help);
    ::metrics::counter!(name)
}

fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Gauge {
    let name = prefixed(name);
    ::metrics::describe_gauge!(name.clone(), unit, help);
    ::metrics::gauge!(name)
}

fn histogram(name: &'static str, help: &'static str) -> Histogram {
    let name = prefixed(name);
    ::metrics::describe_histogram!(name.clone(), Unit::Seconds, help);
    ::metrics::histogram!(name)
}

fn prefixed(name: &str) -> String {
    format!("brownbridge_{name}")
}
