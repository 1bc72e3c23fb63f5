//! Every device its own hub connection: the real program against the simulator, with its faults.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

mod support;
use support::*;

/// What no rule takes goes up under the bridge's own identity.
const RULES: &str = "[[rule]]\nname = \"t\"\ntopic = \"t/{d}\"\ndevice = \"{d}\"\n";

/// A bridge whose devices prove themselves with keys derived from the simulator's; `more` is more of the devices.
fn start(dir: &Path, sim: &Sim, uplink: &str, more: &str) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    fs::create_dir_all(dir.join("rules")).unwrap();
    fs::write(dir.join("rules/1.toml"), RULES).unwrap();
    let config = format!(
        "state = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [uplink]\nidentity = \"per-device\"\nconnection_string = \"{}\"\nca_file = {:?}\n\
         address = \"localhost:{}\"\nbackoff_min = \"50ms\"\nbackoff_max = \"200ms\"\n{uplink}\n\
         [uplink.devices]\n{more}\n",
        sim.connection_string,
        sim.dir.join("ca.pem"),
        sim.port,
    );
    let config = if more.contains("group_key_file") || more.contains("certificates") {
        config
    } else {
        format!("{config}group_key_file = {:?}\n", sim.dir.join("master.key"))
    };
    Bridge::with_config(dir, &config, (mqtt, admin))
}

fn publish(bridge: &Bridge, device: &str, numbers: impl IntoIterator<Item = u32>) {
    let payloads: Vec<String> = numbers.into_iter().map(|n| n.to_string()).collect();
    publish_all(bridge.mqtt, &format!("t/{device}"), payloads.iter().map(String::as_str));
}

/// What arrived, by the identity it came from; the same message sent twice counts once.
fn by_device(sim: &Sim) -> BTreeMap<String, Vec<u32>> {
    let (mut arrived, mut seen) = (BTreeMap::<String, Vec<u32>>::new(), BTreeSet::new());
    for message in sim.received() {
        let device = message["system"]["iothub-connection-device-id"].as_str().unwrap().to_owned();
        if seen.insert(message["system"]["message-id"].as_str().unwrap().to_owned()) {
            arrived.entry(device).or_default().push(message["body"].as_str().unwrap().parse().unwrap());
        }
    }
    arrived
}

fn arrived(sim: &Sim, device: &str) -> Vec<u32> {
    by_device(sim).remove(device).unwrap_or_default()
}

fn until_arrived(sim: &Sim, device: &str, expect: &[u32]) {
    let mut last = Vec::new();
    until(&format!("{expect:?} of {device}"), PATIENCE, || {
        last = arrived(sim, device);
        (last.len() >= expect.len()).then_some(())
    });
    assert_eq!(last, expect, "{device}");
}

/// `brownbridge devices ..` of the bridge in `dir`.
fn devices(dir: &Path, args: &[&str]) -> (i32, String) {
    let out = Command::new(BINARY).arg("devices").args(args).arg("--config").arg(dir.join("bridge.toml")).output();
    let out = out.unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
}

fn listed(dir: &Path) -> HashMap<String, Value> {
    let (code, out) = devices(dir, &["list", "--json"]);
    assert_eq!(code, 0);
    let list: Vec<Value> = serde_json::from_str(&out).unwrap();
    list.into_iter().map(|device| (device["id"].as_str().unwrap().to_owned(), device)).collect()
}

fn until_state(dir: &Path, device: &str, state: &str) -> Value {
    until(&format!("{device} {state}"), PATIENCE, || {
        listed(dir).remove(device).filter(|device| device["state"] == state)
    })
}

fn signal(process: &Process, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(process.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// The simulator reads its devices again.
fn register(sim: &Sim, file: &Path, lines: &str) {
    fs::write(file, lines).unwrap();
    signal(&sim.process, rustix::process::Signal::HUP);
}

fn many() -> u32 {
    if std::env::var_os("BROWNBRIDGE_SLOW").is_some() { 1_000 } else { 200 }
}

#[test]
fn many_devices_each_on_a_connection_of_its_own() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let mut bridge = start(dir.path(), &sim, "", "allow = [\"d-*\"]");
    let count = many();
    let mut publisher = Publisher::connect(bridge.mqtt, "plant").unwrap();
    let mut out = Vec::new();
    for round in 0..5 {
        for device in 0..count {
            publisher.publish(&mut out, &format!("t/d-{device}"), round.to_string().as_bytes());
        }
        publisher.publish(&mut out, "own", round.to_string().as_bytes());
        publisher.flush(&mut out).unwrap();
        while publisher.inflight() > 0 {
            publisher.acknowledged().unwrap();
        }
    }
    let total = usize::try_from(5 * (count + 1)).unwrap();
    until("all messages", 4 * PATIENCE, || (sim.received().len() >= total).then_some(()));
    let arrived = by_device(&sim);
    assert_eq!(arrived.len(), usize::try_from(count + 1).unwrap(), "each device is an identity, and the bridge one");
    for (device, numbers) in &arrived {
        assert_eq!(numbers, &[0, 1, 2, 3, 4], "{device}");
    }
    for message in sim.received() {
        assert_eq!(message["properties"]["device"], Value::Null, "the identity says it: {message}");
    }
    until("all connections in the metrics", PATIENCE, || {
        (bridge.metric("brownbridge_uplink_connections") >= f64::from(count + 1)).then_some(())
    });
    until("the books at rest", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert!(bridge.get("/readyz").starts_with("HTTP/1.1 200"));
    assert_eq!(bridge.process.terminate(), Some(0));
    assert_eq!(sim.received().len(), total, "none twice");
}
