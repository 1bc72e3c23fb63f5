//! The real program and a hub that closes the connection at certain messages: they leave, the others arrive, and a bad
//! line never costs an innocent one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::path::Path;
use std::time::Duration;

use support::{Bridge, PATIENCE, Sim, assert_conserved, bodies, folder, free_port, publish_all, quarantined, until};

const RULES: &str = "[[rule]]\nname = \"all\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n";
const QUICK: &str = "backoff_min = \"5ms\"\nbackoff_max = \"20ms\"";

fn settled(bridge: &Bridge) {
    until("the spool drains", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(bridge);
}

/// Payloads of what is quarantined as poison.
fn poison(dir: &Path) -> Vec<String> {
    let found = quarantined(dir);
    found
        .iter()
        .map(|entry| format!("{}:{}", entry["reason"].as_str().unwrap(), entry["payload"].as_str().unwrap()))
        .collect()
}

#[test]
fn what_the_hub_closes_at_leaves_and_the_others_arrive_in_order() {
    for (name, payloads, config, expect) in [
        ("in the middle", vec!["1", "2", "BAD 3", "4", "5"], "", vec!["BAD 3"]),
        ("several in a row", vec!["1", "BAD 2", "BAD 3", "BAD 4", "5"], "", vec!["BAD 2", "BAD 3", "BAD 4"]),
        ("the very first, with nothing known to be good", vec!["BAD 1", "2", "3"], "", vec!["BAD 1"]),
        ("with a window of one", vec!["BAD 1", "2", "BAD 3"], "\nwindow = 1", vec!["BAD 1", "BAD 3"]),
        ("after one close", vec!["1", "BAD 2", "3"], "\nsuspect_after = 1", vec!["BAD 2"]),
    ] {
        let dir = folder();
        let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--close-on", "BAD"]);
        let mut bridge = Bridge::start(dir.path(), &sim, RULES, &format!("{QUICK}{config}"));
        publish_all(bridge.mqtt, "t/press7", payloads.iter().copied());
        settled(&bridge);
        let found = quarantined(dir.path());
        let kept: Vec<_> = found.iter().map(|entry| entry["payload"].as_str().unwrap()).collect();
        assert_eq!(kept, expect, "{name}");
        for entry in &found {
            assert_eq!(
                (entry["reason"].as_str(), entry["device"].as_str()),
                (Some("poison"), Some("press7")),
                "{name}"
            );
        }
        assert_eq!(bridge.metric("brownbridge_hub_messages_quarantined_total"), expect.len() as f64, "{name}");
        assert_eq!(bridge.process.terminate(), Some(0));
        drop(sim);
        // Repetitions aside, everything else came, and in order.
        let mut arrived = Vec::new();
        for body in bodies(&Sim::start(&dir.path().join("sim"), free_port(), &[])) {
            if !arrived.contains(&body) {
                arrived.push(body);
            }
        }
        let mut innocent: Vec<_> = payloads.iter().filter(|payload| !payload.starts_with("BAD")).copied().collect();
        if name.contains("first") || name.contains("one") {
            // Where nothing was known to be good, one of them had to go first.
            arrived.sort();
            innocent.sort_unstable();
        }
        assert_eq!(arrived, innocent, "{name}");
    }
}

#[test]
fn a_suspect_that_is_alone_waits_for_company_and_is_sent_meanwhile() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--close-on", "BAD"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    publish_all(bridge.mqtt, "t/a", ["BAD 1"]);
    until("it is tried again and again", PATIENCE, || {
        (bridge.metric("brownbridge_uplink_publishes_total") > 6.0).then_some(())
    });
    assert!(quarantined(dir.path()).is_empty(), "no proof without an acknowledgement");
    publish_all(bridge.mqtt, "t/a", ["2"]);
    settled(&bridge);
    assert_eq!(poison(dir.path()), ["poison:BAD 1"]);
}

#[test]
fn a_hub_that_takes_nothing_convicts_nobody() {
    for (fault, back) in [
        (vec!["--cut-every", "1"], true),
        (vec!["--close-on", "m"], true),
        (vec!["--refuse"], true),
        (vec!["--cut-every", "2"], false),
    ] {
        let dir = folder();
        let port = free_port();
        let sim = Sim::start(&dir.path().join("sim"), port, &fault);
        let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
        let payloads: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
        publish_all(bridge.mqtt, "t/a", payloads.iter().map(String::as_str));
        until("closed often", PATIENCE, || (bridge.metric("brownbridge_uplink_reconnects_total") > 20.0).then_some(()));
        let _sim = if back {
            drop(sim);
            Sim::start(&dir.path().join("sim"), port, &[])
        } else {
            sim
        };
        settled(&bridge);
        assert!(quarantined(dir.path()).is_empty(), "{fault:?}");
        until("counted", PATIENCE, || (bridge.metric("brownbridge_messages_delivered_total") == 40.0).then_some(()));
    }
}

#[test]
fn a_hub_that_restarts_again_and_again_convicts_nobody() {
    let dir = folder();
    let port = free_port();
    let mut sim = Sim::start(&dir.path().join("sim"), port, &["--puback-delay", "20"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    let payloads: Vec<String> = (0..300).map(|n| format!("m{n}")).collect();
    publish_all(bridge.mqtt, "t/a", payloads.iter().map(String::as_str));
    for n in 1..=12 {
        let sent = f64::from(n) * 3.0;
        until("something is in flight", PATIENCE, || {
            (bridge.metric("brownbridge_uplink_publishes_total") > sent).then_some(())
        });
        sim.process.kill();
        drop(sim);
        sim = Sim::start(&dir.path().join("sim"), port, &["--puback-delay", "20"]);
    }
    settled(&bridge);
    assert!(quarantined(dir.path()).is_empty());
}

#[test]
fn suspicion_can_be_switched_off() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--close-on", "BAD"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, &format!("{QUICK}\nsuspect_after = 0"));
    publish_all(bridge.mqtt, "t/a", ["1", "BAD 2", "3"]);
    until("closed often", Duration::from_secs(30), || {
        (bridge.metric("brownbridge_uplink_reconnects_total") > 20.0).then_some(())
    });
    assert!(quarantined(dir.path()).is_empty());
    assert_eq!(bridge.metric("brownbridge_spool_messages"), 2.0);
}
