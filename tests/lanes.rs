//! The real program after an outage: what is new goes first, alarms before all, the backlog follows, nothing is lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::{Bridge, Publisher, Sim, assert_conserved, free_port, until};

const RULES: &str = "[[rule]]\nname = \"all\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n\
    [[rule]]\nname = \"alarms\"\ntopic = \"alarm/{device}\"\ndevice = \"{device}\"\npriority = \"high\"\n\
    continue = true\n\
    [[rule]]\nname = \"archive\"\ntopic = \"alarm/copied\"\ndevice = \"archive\"\n";
/// 400 messages a second at most, whatever the machine: what is to overtake has the time to.
const SLOW: [&str; 2] = ["--puback-delay", "20"];
const WINDOW: usize = 8;
const UPLINK: &str =
    "window = 8\nmark_late = true\ndrain_timeout = \"50ms\"\nbackoff_min = \"10ms\"\nbackoff_max = \"50ms\"";
const PATIENCE: Duration = Duration::from_secs(60);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Publishes numbered messages in turn for three devices, and waits until all are acknowledged.
fn publish(bridge: &Bridge, numbers: std::ops::Range<usize>) {
    let mut publisher = Publisher::connect(bridge.mqtt, &format!("p{}", numbers.start)).unwrap();
    let mut out = Vec::new();
    for n in numbers {
        publisher.publish(&mut out, &format!("t/device{}", n % 3), n.to_string().as_bytes());
        publisher.flush(&mut out).unwrap();
        while publisher.inflight() > 100 {
            publisher.acknowledged().unwrap();
        }
    }
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
}

fn alarm(bridge: &Bridge, device: &str) {
    let mut publisher = Publisher::connect(bridge.mqtt, "alarm").unwrap();
    let mut out = Vec::new();
    publisher.publish(&mut out, &format!("alarm/{device}"), b"fire");
    publisher.flush(&mut out).unwrap();
    publisher.acknowledged().unwrap();
}

#[test]
fn without_live_first_everything_goes_in_order() {
    let dir = folder();
    let port = free_port();
    let mut sim = Sim::start(&dir.path().join("sim"), port, &[]);
    sim.process.kill();
    let bridge = Bridge::start(dir.path(), &sim, RULES, &format!("{UPLINK}\nlive_first = false"));
    publish(&bridge, 0..2_000);
    let mut sim = Sim::start(&dir.path().join("sim"), port, &SLOW);
    until("it delivers", PATIENCE, || (bridge.metric("brownbridge_messages_delivered_total") > 0.0).then_some(()));
    publish(&bridge, 2_000..2_200);
    drained(&bridge);
    let arrived: Vec<usize> = first_arrivals(&mut sim).iter().filter_map(number).collect();
    assert_eq!(arrived, (0..2_200).collect::<Vec<_>>());
    assert_conserved(&bridge);
}

/// A bridge that has published `late` messages while its hub was away, and that hub, back again and slow.
fn after_an_outage(dir: &Path, late: usize) -> (Sim, Bridge) {
    let port = free_port();
    let mut sim = Sim::start(&dir.join("sim"), port, &[]);
    sim.process.kill();
    let bridge = Bridge::start(dir, &sim, RULES, UPLINK);
    publish(&bridge, 0..late);
    alarm(&bridge, "device0");
    let sim = Sim::start(&dir.join("sim"), port, &SLOW);
    until("the backlog is late", PATIENCE, || (bridge.metric("brownbridge_spool_late_messages") > 0.0).then_some(()));
    (sim, bridge)
}

fn drained(bridge: &Bridge) {
    until("the spool drains", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
}

fn number(message: &Value) -> Option<usize> {
    message["body"].as_str()?.parse().ok()
}

fn is_late(message: &Value) -> bool {
    message["properties"]["replayed"] == "true"
}

/// What the hub received, each message once, after the hub has printed everything.
fn first_arrivals(sim: &mut Sim) -> Vec<Value> {
    assert_eq!(sim.process.terminate(), Some(0));
    let mut seen = HashSet::new();
    let new = |message: &Value| seen.insert(message["system"]["message-id"].as_str().unwrap().to_owned());
    sim.received().into_iter().filter(new).collect()
}

fn assert_ordered(arrived: &[Value], count: usize) {
    let numbers: HashSet<usize> = arrived.iter().filter_map(number).collect();
    let missing: Vec<usize> = (0..count).filter(|n| !numbers.contains(n)).collect();
    assert!(missing.is_empty(), "{} missing, first {:?}", missing.len(), missing.first());
    let mut last: HashMap<(&str, bool), usize> = HashMap::new();
    for message in arrived {
        let Some(n) = number(message) else { continue };
        let lane = (message["properties"]["device"].as_str().unwrap(), is_late(message));
        if let Some(before) = last.insert(lane, n) {
            assert!(before < n, "{n} after {before} in {lane:?}");
        }
    }
}

#[test]
fn after_an_outage_what_is_new_goes_first() {
    let dir = folder();
    let (late, live) = (3_000, 200);
    let (mut sim, bridge) = after_an_outage(dir.path(), late);
    publish(&bridge, late..late + live);
    alarm(&bridge, "copied");
    drained(&bridge);
    assert_conserved(&bridge);
    let arrived = first_arrivals(&mut sim);
    assert_eq!(arrived.len(), late + live + 3);
    assert_ordered(&arrived, late + live);
    let place = |found: &dyn Fn(&Value) -> bool| arrived.iter().position(found).unwrap();
    assert_eq!(place(&|message| message["body"] == "fire"), 0, "the alarm of the outage is the first of all");
    assert!(arrived.iter().all(|m| number(m).is_none_or(|n| is_late(m) == (n < late))), "the marks");
    let last_live = arrived.iter().rposition(|m| number(m).is_some_and(|n| n >= late)).unwrap();
    let last_late = arrived.iter().rposition(is_late).unwrap();
    assert!(last_live + 500 < last_late, "the last live message came at {last_live}, the last late one at {last_late}");
    // Both messages of the last publish are there, the urgent one under the name of another spool.
    let fires: Vec<&Value> = arrived.iter().filter(|message| message["body"] == "fire").collect();
    let spool =
        |message: &Value| message["system"]["message-id"].as_str().unwrap().split('-').next().unwrap().to_owned();
    let copy = fires.iter().find(|message| message["properties"]["device"] == "archive").unwrap();
    let alarm = fires.iter().find(|message| message["properties"]["device"] == "copied").unwrap();
    assert_eq!((spool(copy) == spool(&arrived[1]), spool(alarm) == spool(fires[0])), (true, true));
    assert_ne!(spool(copy), spool(alarm));
}

#[test]
fn kill_9_between_two_lanes_repeats_about_a_second() {
    let dir = folder();
    let (late, live) = (2_500, 1_000);
    let (mut sim, mut bridge) = after_an_outage(dir.path(), late);
    publish(&bridge, late..late + live);
    // Every live message is acknowledged and two seconds of late ones have followed.
    let most = (live + 900) as f64;
    until("half of it", PATIENCE, || (bridge.metric("brownbridge_messages_delivered_total") > most).then_some(()));
    bridge.process.kill();
    let before: HashSet<String> =
        sim.received().iter().map(|m| m["system"]["message-id"].as_str().unwrap().to_owned()).collect();
    let bridge = Bridge::start(dir.path(), &sim, RULES, UPLINK);
    drained(&bridge);
    assert_conserved(&bridge);
    assert_eq!(bridge.metric("brownbridge_spool_lost_total"), 0.0);
    assert_eq!(sim.process.terminate(), Some(0));
    let received = sim.received();
    let mut counts: HashMap<&str, (usize, usize)> = HashMap::new();
    for message in &received {
        let n = number(message).unwrap_or(0);
        counts.entry(message["system"]["message-id"].as_str().unwrap()).or_insert((0, n)).0 += 1;
    }
    assert!(before.len() > live + 800, "{} before the end", before.len());
    let again: Vec<usize> = counts.values().filter(|(count, _)| *count > 1).map(|(_, n)| *n).collect();
    assert!(again.iter().all(|n| *n < late), "live messages came twice");
    // The cursor is synced once a second; what the hub has printed and not yet acknowledged is in the window.
    let second = WINDOW + 400 * 3 / 2;
    assert!(again.len() <= second, "{} messages came twice", again.len());
    let arrived: HashSet<usize> = received.iter().filter_map(number).collect();
    assert_eq!(arrived.len(), late + live);
}

#[test]
fn a_second_outage_makes_everything_late() {
    let dir = folder();
    let (late, live) = (2_500, 1_500);
    let (mut sim, bridge) = after_an_outage(dir.path(), late);
    publish(&bridge, late..late + live);
    sim.process.kill();
    let before = sim.received().len();
    let mut sim = Sim::start(&sim.dir.clone(), sim.port, &SLOW);
    until("the uplink is back", PATIENCE, || (bridge.metric("brownbridge_uplink_connected") == 1.0).then_some(()));
    until("it goes on", PATIENCE, || (sim.received().len() > before + 50).then_some(()));
    publish(&bridge, late + live..late + live + 100);
    drained(&bridge);
    assert_conserved(&bridge);
    assert_eq!(sim.process.terminate(), Some(0));
    let mut seen = HashSet::new();
    let arrived: Vec<Value> = sim.received().into_iter().filter(|m| number(m).is_none_or(|n| seen.insert(n))).collect();
    let numbers: HashSet<usize> = arrived.iter().filter_map(number).collect();
    assert_eq!(numbers.len(), late + live + 100);
    let last = |lane: &dyn Fn(usize) -> bool| arrived.iter().rposition(|m| number(m).is_some_and(lane)).unwrap();
    let newest = last(&|n| n >= late + live);
    assert!(newest < last(&|n| n < late), "the newest overtake the oldest");
    assert!(newest < last(&|n| (late..late + live).contains(&n)), "and what was live before");
    assert!(last(&|n| n < late) < last(&|n| (late..late + live).contains(&n)), "which follows the oldest");
}
