//! The real program and what can be wrong between it and the hub: each is named in the log, the metrics and /readyz.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::collections::HashSet;
use std::fs;

use brownbridge::hub::connect::Identity;
use brownbridge::hub::connection_string::{Auth, ConnectionString};
use brownbridge::hub::sas;
use brownbridge::message::Timestamp;
use support::clock::Clock;
use support::{Bridge, PATIENCE, Sim, assert_conserved, bodies, folder, free_port, publish_all, quarantined, until};

const RULES: &str = "[[rule]]\nname = \"all\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n";
const QUICK: &str = "backoff_min = \"50ms\"\nbackoff_max = \"100ms\"";

/// Waits until a reason is counted, is the state, and is in the log.
fn named(bridge: &Bridge, reason: &str, words: &str) {
    until(reason, PATIENCE, || {
        let page = bridge.get("/metrics");
        let counted = page.contains(&format!("uplink_reconnects_total{{reason=\"{reason}\"}}"));
        let state = page.contains(&format!("uplink_state{{state=\"{reason}\"}} 1\n"));
        (counted && state).then_some(())
    });
    let log = fs::read_to_string(&bridge.log).unwrap();
    assert!(log.contains(words), "{log}");
    assert!(bridge.get("/status").contains(words));
}

#[test]
fn two_gateways_with_one_identity_are_told_so() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridges = ["one", "two"].map(|name| {
        fs::create_dir(dir.path().join(name)).unwrap();
        Bridge::start(&dir.path().join(name), &sim, RULES, QUICK)
    });
    for bridge in &bridges {
        named(bridge, "taken_over", "another client connects as dev-01");
        let ready = bridge.get("/readyz");
        assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("ready, but: "), "nothing waits: {ready}");
    }
    let [one, two] = bridges;
    drop(two);
    publish_all(one.mqtt, "t/a", ["1"]);
    until("it goes on alone", PATIENCE, || (bodies(&sim) == ["1"]).then_some(()));
    assert!(quarantined(&dir.path().join("one")).is_empty());
}

#[test]
fn a_spent_quota_is_told_and_costs_nothing() {
    let dir = folder();
    let port = free_port();
    let sim = Sim::start(&dir.path().join("sim"), port, &["--quota", "20"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    let payloads: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    publish_all(bridge.mqtt, "t/a", payloads.iter().map(String::as_str));
    named(&bridge, "nothing_taken", "daily message quota is spent");
    until("not ready", PATIENCE, || {
        let ready = bridge.get("/readyz");
        (ready.starts_with("HTTP/1.1 503") && ready.contains("quota")).then_some(())
    });
    drop(sim);
    let sim = Sim::start(&dir.path().join("sim"), port, &[]);
    until("delivered", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert!(quarantined(dir.path()).is_empty());
    let arrived: HashSet<String> = until("all are printed", PATIENCE, || {
        let arrived: HashSet<String> = bodies(&sim).into_iter().collect();
        (arrived.len() == 60).then_some(arrived)
    });
    assert!(payloads.iter().all(|payload| arrived.contains(payload)));
}

#[test]
fn a_token_that_nobody_renews_is_told_when_it_is_over() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let connection = ConnectionString::parse(&sim.connection_string).unwrap();
    let Auth::Key(key) = &connection.auth else { panic!("a key") };
    let identity = Identity::of(&connection);
    let token = sas::mint(key, &identity.resource(), Timestamp::now().as_secs() - 3_600, None);
    sim.connection_string =
        format!("HostName={};DeviceId={};SharedAccessSignature={}", identity.hub, identity.device, token.expose());
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    publish_all(bridge.mqtt, "t/a", ["1"]);
    named(&bridge, "token_expired", "nobody renews it");
    assert!(bridge.get("/metrics").contains("brownbridge_sas_expiry_timestamp_seconds "));
    assert!(!fs::read_to_string(&bridge.log).unwrap().contains("SharedAccessSignature sr"), "no secret in the log");
}

#[test]
fn a_wrong_clock_is_told_from_a_wrong_key() {
    let dir = folder();
    let port = free_port();
    let sim = Sim::start(&dir.path().join("sim"), port, &["--refuse"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    publish_all(bridge.mqtt, "t/a", ["1"]);
    named(&bridge, "refused", "the clock of this machine is not the reason");
    drop(bridge);
    drop(sim);

    let Some(clock) = Clock::off(dir.path(), "-2d") else { return };
    let sim = Sim::start(&dir.path().join("sim"), port, &[]);
    let bridge = Bridge::start_in(dir.path(), &sim, (RULES, QUICK), &clock.environment());
    publish_all(bridge.mqtt, "t/a", ["2"]);
    named(&bridge, "clock", "2 days behind the hub's");
    until("connecting is held", PATIENCE, || {
        let ready = bridge.get("/readyz");
        (ready.contains("2 days behind") && !ready.contains("CONNACK")).then_some(())
    });
    let ahead = bridge.metric("brownbridge_clock_ahead_seconds");
    assert!((ahead + 172_800.0).abs() < 60.0, "{ahead}");
    clock.set("+0");
    until("with the right time", PATIENCE, || (bodies(&sim) == ["1", "2"]).then_some(()));
    until("counted", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
}
