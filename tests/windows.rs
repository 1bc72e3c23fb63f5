//! The real program with messages that wait in windows: acknowledged at once, on disk, and never missing at the hub.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use support::{
    Bridge, PATIENCE, Publisher, Sim, assert_conserved, assert_ledger, folder, free_port, number_publisher,
    publish_all, until,
};

const QUICK: &str = "backoff_min = \"5ms\"\nbackoff_max = \"20ms\"";

fn batches(keys: &str) -> String {
    format!("[[rule]]\nname = \"batched\"\ntopic = \"t/{{device}}\"\ndevice = \"{{device}}\"\n{keys}\n")
}

/// The simulator acknowledges before it prints; its end prints the rest.
fn bodies(sim: &mut Sim) -> Vec<String> {
    let _ = sim.process.terminate();
    support::bodies(sim)
}

/// Everything that is in the batches the hub got, in the order it got them.
fn unpacked(sim: &mut Sim) -> Vec<String> {
    bodies(sim).iter().flat_map(|body| unpack(body)).collect()
}

fn unpack(list: &str) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_str(list).unwrap();
    list.iter().map(Value::to_string).collect()
}

/// What the hub got of one device.
fn of_device(received: &[Value], device: &str) -> Vec<String> {
    let of = received.iter().filter(|message| message["properties"]["device"] == device);
    of.map(|message| message["body"].as_str().unwrap().to_owned()).collect()
}

fn held(bridge: &Bridge) -> f64 {
    bridge.metric("brownbridge_held_messages")
}

fn empty(bridge: &Bridge) {
    until("nothing waits", PATIENCE, || {
        (held(bridge) + bridge.metric("brownbridge_spool_messages") == 0.0).then_some(())
    });
}

/// Kills a bridge under load again and again, and goes on until nothing waits; gives what was acknowledged.
fn killed_under_load(dir: &Path, sim: &Sim, rules: &str) -> Vec<String> {
    let mut bridge = Bridge::start(dir, sim, rules, QUICK);
    let address = Arc::new(Mutex::new(bridge.mqtt));
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..4)
        .map(|n| {
            let (address, stop) = (Arc::clone(&address), Arc::clone(&stop));
            thread::spawn(move || number_publisher(address, format!("p{n}"), stop))
        })
        .collect();
    let crashes = 5;
    for _ in 0..crashes {
        let some = bridge.metric("brownbridge_publishes_received_total") + 300.0;
        until("publishes come", PATIENCE, || {
            (bridge.metric("brownbridge_publishes_received_total") > some).then_some(())
        });
        bridge.process.kill();
        bridge = Bridge::start(dir, sim, rules, QUICK);
        *address.lock().unwrap() = bridge.mqtt;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<String> = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
    empty(&bridge);
    assert_conserved(&bridge);
    assert_ledger(&bridge, crashes, 0);
    assert_eq!(bridge.process.terminate(), Some(0));
    assert!(acknowledged.len() > 500, "the test did too little: {}", acknowledged.len());
    acknowledged
}

fn assert_all(arrived: &[String], acknowledged: &[String], what: &str) {
    let arrived: HashSet<&str> = arrived.iter().map(String::as_str).collect();
    let missing: Vec<_> =
        acknowledged.iter().filter(|id| !arrived.contains(format!("{{\"id\":\"{id}\"}}").as_str())).collect();
    assert!(missing.is_empty(), "{what}: {} acknowledged missing, first {:?}", missing.len(), missing.first());
}

#[test]
fn kill_9_with_open_windows_loses_nothing_acknowledged() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = batches("batch = { max_messages = 30, max_wait = \"100ms\" }");
    let acknowledged = killed_under_load(dir.path(), &sim, &rules);
    let arrived = unpacked(&mut sim);
    let lists = support::bodies(&sim).len();
    assert_all(&arrived, &acknowledged, "windows");
    assert!(lists * 3 < arrived.len(), "{lists} batches of {}", arrived.len());
}

/// More windows than the spool could remember as stretches: every other device has its list sent, the others wait, and
/// all of them wait for their aggregate.
#[test]
fn kill_9_with_two_thousand_windows_repeats_nothing_and_misses_nothing() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = "[[rule]]\nname = \"list\"\ntopic = \"t/{device}\"\ndevice = \"list-{device}\"\n\
        batch = { max_messages = 4, max_wait = \"1h\" }\ncontinue = true\n\
        [[rule]]\nname = \"fold\"\ntopic = \"t/{device}\"\ndevice = \"fold-{device}\"\ndecode = \"number\"\n\
        aggregate = { every = \"1d\", fields = { value = [\"count\", \"sum\"] } }\n";
    let devices = 2_000_u64;
    let mut bridge = Bridge::start(dir.path(), &sim, rules, QUICK);
    // By device: how many it has published.
    let mut published = vec![0_u64; devices as usize];
    let rounds: [[u64; 2]; 2] = [[4, 3], [2, 3]];
    for (crash, rounds) in (1..).zip(rounds) {
        let mut publisher = Publisher::connect(bridge.mqtt, "many").unwrap();
        let mut out = Vec::new();
        for round in 0..4 {
            for device in (0..devices).filter(|device| round < rounds[*device as usize % 2]) {
                published[device as usize] += 1;
                publisher.publish(&mut out, &format!("t/{device}"), published[device as usize].to_string().as_bytes());
                if publisher.inflight() == 100 {
                    settle(&mut publisher, &mut out);
                }
            }
        }
        settle(&mut publisher, &mut out);
        let in_lists: u64 = published.iter().map(|count| count % 4).sum();
        let waiting = (published.iter().sum::<u64>() + in_lists) as f64;
        until("lists are sent", PATIENCE, || {
            (held(&bridge) == waiting && bridge.metric("brownbridge_spool_messages") == 0.0).then_some(())
        });
        bridge.process.kill();
        bridge = Bridge::start(dir.path(), &sim, rules, QUICK);
        assert_eq!(held(&bridge), waiting, "after crash {crash}");
    }
    assert_ledger(&bridge, 2, 0);
    assert_eq!(bridge.process.terminate(), Some(0));
    let _ = sim.process.terminate();
    let (mut lists, mut folds) = (HashMap::<String, Vec<u64>>::new(), HashMap::<String, [u64; 2]>::new());
    let mut seen = HashSet::new();
    for message in sim.received() {
        // The uplink may send again what the hub had acknowledged shortly before the crash, under the same name.
        if !seen.insert(message["system"]["message-id"].to_string()) {
            continue;
        }
        let device = message["properties"]["device"].as_str().unwrap().to_owned();
        let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        match body.as_array() {
            Some(list) => lists.entry(device).or_default().extend(list.iter().map(|one| one.as_u64().unwrap())),
            None => {
                let fold = folds.entry(device).or_default();
                fold[0] += body["value_count"].as_u64().unwrap();
                fold[1] += body["value_sum"].as_u64().unwrap();
            }
        }
    }
    for (device, count) in published.iter().enumerate() {
        assert_eq!(lists[&format!("list-{device}")], (1..=*count).collect::<Vec<_>>(), "device {device}");
        assert_eq!(folds[&format!("fold-{device}")], [*count, count * (count + 1) / 2], "device {device}");
    }
}

/// Waits until everything is acknowledged.
fn settle(publisher: &mut Publisher, out: &mut Vec<u8>) {
    publisher.flush(out).unwrap();
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
}

/// A publish with a part in each of the three spools is acknowledged when all of them have theirs.
#[test]
fn kill_9_with_parts_in_three_spools_loses_none_of_what_was_acknowledged() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = "[[rule]]\nname = \"alarm\"\ntopic = \"t/+\"\ndevice = \"alarm\"\npriority = \"high\"\ncontinue = true\n\
        [[rule]]\nname = \"batch\"\ntopic = \"t/+\"\ndevice = \"batch\"\nbatch = { max_messages = 30, max_wait = \"100ms\" }\ncontinue = true\n\
        [[rule]]\nname = \"archive\"\ntopic = \"t/+\"\ndevice = \"archive\"\n";
    let acknowledged = killed_under_load(dir.path(), &sim, rules);
    let _ = sim.process.terminate();
    let received = sim.received();
    for device in ["alarm", "archive"] {
        assert_all(&of_device(&received, device), &acknowledged, device);
    }
    let lists = of_device(&received, "batch");
    let batched: Vec<String> = lists.iter().flat_map(|list| unpack(list)).collect();
    assert_all(&batched, &acknowledged, "batch");
    assert!(lists.len() * 3 < batched.len(), "{} batches of {}", lists.len(), batched.len());
}

#[test]
fn a_window_survives_a_crash_and_closes_at_an_end() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = batches("batch = { max_bytes = 100000, max_wait = \"1h\" }");
    let mut bridge = Bridge::start(dir.path(), &sim, &rules, QUICK);
    publish_all(bridge.mqtt, "t/press7", ["1", "2", "3"]);
    assert_eq!((held(&bridge), bridge.metric("brownbridge_publishes_translated_total")), (3.0, 3.0));
    assert_conserved(&bridge);
    bridge.process.kill();
    let mut bridge = Bridge::start(dir.path(), &sim, &rules, QUICK);
    assert_eq!((held(&bridge), bridge.metric("brownbridge_open_windows")), (3.0, 1.0));
    publish_all(bridge.mqtt, "t/press7", ["4"]);
    assert_ledger(&bridge, 1, 0);
    assert_eq!(bridge.process.terminate(), Some(0));
    let mut bridge = Bridge::start(dir.path(), &sim, &rules, QUICK);
    assert_eq!(held(&bridge), 0.0);
    assert_eq!(bridge.process.terminate(), Some(0));
    assert_eq!(bodies(&mut sim), ["[1,2,3,4]"], "one message, and at the end");
}

#[test]
fn what_waits_for_a_rule_that_is_gone_goes_up_by_itself() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = batches("batch = { max_wait = \"1h\" }");
    let mut bridge = Bridge::start(dir.path(), &sim, &rules, QUICK);
    publish_all(bridge.mqtt, "t/press7", ["1", "2"]);
    bridge.process.kill();
    let bridge = Bridge::start(dir.path(), &sim, "[[rule]]\ntopic = \"t/#\"\ndevice = \"other\"\n", QUICK);
    empty(&bridge);
    assert_eq!(bodies(&mut sim), ["1", "2"]);
    assert_conserved(&bridge);
}

/// A publish may be for a window, an alarm and a message at once, and a failing rule too.
#[test]
fn windows_alarms_and_messages_of_one_publish() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = "[[rule]]\nname = \"alarm\"\ntopic = \"t/+\"\ndevice = \"alarm\"\npriority = \"high\"\ncontinue = true\n\
        [[rule]]\nname = \"batch\"\ntopic = \"t/+\"\ndevice = \"batch\"\nbatch = { max_messages = 2, max_wait = \"1h\" }\ncontinue = true\n\
        [[rule]]\nname = \"archive\"\ntopic = \"t/+\"\ndevice = \"archive\"\ncontinue = true\n\
        [[rule]]\nname = \"strict\"\ntopic = \"t/+\"\ndevice = \"{.id}\"\n";
    let bridge = Bridge::start(dir.path(), &sim, rules, QUICK);
    publish_all(bridge.mqtt, "t/a", ["{\"id\":\"x\"}", "{\"n\":2}"]);
    empty(&bridge);
    assert_conserved(&bridge);
    assert_ledger(&bridge, 0, 6);
    let _ = sim.process.terminate();
    let received = sim.received();
    let devices = |device: &str| of_device(&received, device);
    assert_eq!(devices("alarm"), ["{\"id\":\"x\"}", "{\"n\":2}"]);
    assert_eq!(devices("batch"), ["[{\"id\":\"x\"},{\"n\":2}]"]);
    assert_eq!(devices("archive"), ["{\"id\":\"x\"}", "{\"n\":2}"]);
    assert_eq!(devices("x"), ["{\"id\":\"x\"}"]);
    assert_eq!(bridge.metric("brownbridge_messages_quarantined_total{reason=\"missing_field\"}"), 1.0);
}

#[test]
fn a_full_holding_spool_closes_windows_early_and_loses_nothing() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = batches("aggregate = { every = \"1d\", fields = { n = [\"count\", \"sum\"] } }");
    let extra = format!("{QUICK}\n[spool]\nheld_max_size = \"16MiB\"\ndurability = \"os\"");
    let mut bridge = Bridge::start(dir.path(), &sim, &rules, &extra);
    let mut publisher = Publisher::connect(bridge.mqtt, "many").unwrap();
    let (mut out, mut sent) = (Vec::new(), 0_u64);
    // About 100 bytes each: several times what the spool holds.
    let topic = format!("t/{}", "x".repeat(60));
    while bridge_is_early(&bridge, sent) {
        for _ in 0..2_000 {
            publisher.publish(&mut out, &topic, b"{\"n\":2}");
            sent += 1;
        }
        settle(&mut publisher, &mut out);
        assert!(sent < 1_000_000, "no window closed early");
    }
    assert_eq!(bridge.process.terminate(), Some(0));
    let lists: Vec<Value> = bodies(&mut sim).iter().map(|body| serde_json::from_str(body).unwrap()).collect();
    let total = |key: &str| lists.iter().map(|list| list[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("n_count"), total("n_sum")), (sent, 2 * sent));
    assert!(lists.len() > 1);
}

/// With many windows each segment has contributions of all of them: so many have to close until one is free.
#[test]
fn a_full_holding_spool_of_many_windows_goes_on() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = batches("batch = { max_bytes = 200000, max_wait = \"1d\" }");
    let extra = format!("{QUICK}\n[spool]\nheld_max_size = \"16MiB\"\ndurability = \"os\"");
    let mut bridge = Bridge::start(dir.path(), &sim, &rules, &extra);
    let mut publisher = Publisher::connect(bridge.mqtt, "many").unwrap();
    let (devices, rounds) = (2_000, 10);
    // More than twice what the spool holds.
    let payload = format!("\"{}\"", "x".repeat(2_000));
    let mut out = Vec::new();
    for n in 0..devices * rounds {
        publisher.publish(&mut out, &format!("t/{}", n % devices), payload.as_bytes());
        if publisher.inflight() == 100 {
            settle(&mut publisher, &mut out);
        }
    }
    assert!(bridge.metric("brownbridge_windows_closed_total{reason=\"early\"}") > 0.0, "it was never full");
    assert_conserved(&bridge);
    assert_eq!(bridge.process.terminate(), Some(0));
    assert_eq!(unpacked(&mut sim).len(), devices * rounds);
}

fn bridge_is_early(bridge: &Bridge, sent: u64) -> bool {
    sent < 2_000 || bridge.metric("brownbridge_windows_closed_total{reason=\"early\"}") == 0.0
}

/// The acknowledgement of a message for a window does not wait for the window, and many are on their way at a time.
#[test]
fn acknowledgements_do_not_wait_for_windows() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, &batches("batch = { max_bytes = 200000, max_wait = \"1h\" }"), QUICK);
    let mut publisher = Publisher::connect(bridge.mqtt, "one").unwrap();
    let mut out = Vec::new();
    for n in 0..500 {
        publisher.publish(&mut out, "t/a", n.to_string().as_bytes());
    }
    settle(&mut publisher, &mut out);
    assert_eq!((held(&bridge), sim.received().len()), (500.0, 0));
}

#[test]
fn new_rules_keep_windows_and_close_those_of_rules_that_are_gone() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = batches("batch = { max_wait = \"1h\" }");
    let mut bridge = Bridge::start(dir.path(), &sim, &rules, QUICK);
    publish_all(bridge.mqtt, "t/press7", ["1", "2"]);
    let more = format!("{rules}[[rule]]\nname = \"new\"\ntopic = \"new/{{device}}\"\ndevice = \"{{device}}\"\n");
    let file = dir.path().join("rules/10-test.toml");
    std::fs::write(&file, more).unwrap();
    until("the new rules are in use", PATIENCE, || {
        bridge.get("/metrics").contains("brownbridge_messages_translated_total{rule=\"new\"}").then_some(())
    });
    publish_all(bridge.mqtt, "t/press7", ["3"]);
    assert_eq!((held(&bridge), bridge.metric("brownbridge_open_windows")), (3.0, 1.0));
    std::fs::write(&file, "[[rule]]\nname = \"other\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n").unwrap();
    empty(&bridge);
    assert_eq!(bridge.metric("brownbridge_windows_closed_total{reason=\"rules_changed\"}"), 1.0);
    publish_all(bridge.mqtt, "t/press7", ["4"]);
    assert_conserved(&bridge);
    assert_eq!(bridge.process.terminate(), Some(0));
    assert_eq!(bodies(&mut sim), ["[1,2,3]", "4"]);
}

#[test]
fn what_it_costs_is_told_by_rule_and_against_the_quota() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = "[[rule]]\nname = \"large\"\ntopic = \"large/#\"\ndevice = \"d\"\n\
        [[rule]]\nname = \"changes\"\ntopic = \"changes/#\"\ndevice = \"d\"\nreport_by_exception = {}\n\
        [[rule]]\nname = \"lists\"\ntopic = \"lists/#\"\ndevice = \"d\"\nbatch = { max_messages = 4, max_wait = \"1h\" }\n";
    let bridge = Bridge::start(dir.path(), &sim, rules, &format!("tier = \"F1\"\n{QUICK}"));
    let large = "x".repeat(1_000);
    publish_all(bridge.mqtt, "large/a", [large.as_str(), "1"]);
    publish_all(bridge.mqtt, "changes/a", ["1", "1", "1", "2"]);
    publish_all(bridge.mqtt, "lists/a", ["1", "2", "3", "4"]);
    empty(&bridge);
    assert_eq!(bridge.metric("brownbridge_messages_dropped_total{reason=\"unchanged\"}"), 2.0);
    let cost = |more: &[&str]| {
        let admin = bridge.admin.to_string();
        let output = Command::new(support::BINARY).args(["cost", "--admin", &admin]).args(more).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, json) = cost(&["--json"]);
    let bill: Value = serde_json::from_str(&json).unwrap();
    let units = |rule: &str| {
        let rules = bill["rules"].as_array().unwrap();
        let line = rules.iter().find(|line| line["rule"] == rule).unwrap();
        (line["messages"].as_u64().unwrap(), line["units"].as_u64().unwrap(), line["saved_per_day"] != 0)
    };
    assert_eq!([units("large"), units("changes"), units("lists")], [(2, 4, false), (2, 2, true), (1, 1, true)]);
    assert_eq!((&bill["tier"], &bill["quota_per_day"]), (&Value::from("F1"), &Value::from(8_000)));
    assert!(code == 0 && bill["too_short"] == true, "{bill}");
    let (_, text) = cost(&[]);
    assert!(text.contains("RULE") && text.contains("of the 8,000 of 1 unit F1"), "{text}");
    let (code, text) = cost(&["--for", "10ms"]);
    assert!(code == 0 && text.contains("forecast 0 billed messages"), "{text}");
    let output = Command::new(support::BINARY).args(["cost", "--admin", "127.0.0.1:1"]).output().unwrap();
    assert!(output.status.code() == Some(2) && String::from_utf8(output.stderr).unwrap().contains("start it"));
}
