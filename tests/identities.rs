//! Fifty devices, each with a connection of its own, and everything that happens to connections at once: nothing that was
//! acknowledged is missing at the hub.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

mod support;
use support::site::Site;
use support::*;

const RULES: &str = "[[rule]]\nname = \"t\"\ntopic = \"t/{d}\"\ndevice = \"{d}\"\n";
const DEVICES: usize = 50;

/// Publishes a message of each device in turn, for ever, reconnecting; those that were acknowledged.
fn rounds(address: &Mutex<SocketAddr>, stop: &AtomicBool) -> Vec<String> {
    let (mut acknowledged, mut round) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let to = *address.lock().unwrap();
        let Ok(mut publisher) = Publisher::connect(to, "plant") else { continue };
        while !stop.load(Ordering::Relaxed) {
            // A plant of some speed: what is in the way is to be the faults, not a backlog of minutes.
            std::thread::sleep(Duration::from_millis(25));
            let ids: Vec<String> = (0..DEVICES).map(|device| format!("d-{device}-{round}")).collect();
            round += 1;
            let mut out = Vec::new();
            for (device, id) in ids.iter().enumerate() {
                publisher.publish(&mut out, &format!("t/d-{device}"), format!("{{\"id\":\"{id}\"}}").as_bytes());
            }
            let mut waiting = ids.into_iter();
            let mut flushed = publisher.flush(&mut out).is_ok();
            while flushed && publisher.inflight() > 0 {
                match publisher.acknowledged() {
                    Ok(acks) => acknowledged.extend(waiting.by_ref().take(acks.len())),
                    Err(_) => flushed = false,
                }
            }
            if !flushed {
                break;
            }
        }
    }
    acknowledged
}

fn signal(process: &Process, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(process.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, signal).unwrap();
}

/// Waits for so many more messages at the hubs than there were.
fn more(received: impl Fn() -> Vec<Value>, messages: usize) {
    let wanted = received().len() + messages;
    until("more messages", PATIENCE, || (received().len() >= wanted).then_some(()));
}

/// Devices publish in turn until [`Plant::stop`], wherever the bridge is.
struct Plant {
    address: Arc<Mutex<SocketAddr>>,
    stop: Arc<AtomicBool>,
    publisher: JoinHandle<Vec<String>>,
}

impl Plant {
    fn start(bridge: &Bridge) -> Self {
        let (address, stop) = (Arc::new(Mutex::new(bridge.mqtt)), Arc::new(AtomicBool::new(false)));
        let (to, until_then) = (Arc::clone(&address), Arc::clone(&stop));
        Self { address, stop, publisher: std::thread::spawn(move || rounds(&to, &until_then)) }
    }

    fn follow(&self, bridge: &Bridge) {
        *self.address.lock().unwrap() = bridge.mqtt;
    }

    /// What was acknowledged.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.publisher.join().unwrap()
    }
}

fn drained(bridge: &Bridge) {
    until("drained", PATIENCE * 3, || {
        let waits = bridge.metric("brownbridge_spool_messages") + bridge.metric("brownbridge_shelf_messages");
        (waits == 0.0).then_some(())
    });
}

fn start(dir: &Path, sim: &Sim, web: SocketAddr, transport: &str) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    fs::create_dir_all(dir.join("rules")).unwrap();
    fs::write(dir.join("rules/1.toml"), RULES).unwrap();
    let place = if transport == "websocket" { web } else { SocketAddr::from((sim.host, sim.port)) };
    let config = format!(
        "state = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [uplink]\nconnection_string = \"{}\"\nca_file = {:?}\naddress = \"{place}\"\n\
         identity = \"per-device\"\ntransport = \"{transport}\"\ntoken_lifetime = \"10s\"\n\
         backoff_min = \"50ms\"\nbackoff_max = \"200ms\"\n\
         [uplink.devices]\nallow = [\"*\"]\ngroup_key_file = {:?}\n",
        sim.connection_string,
        sim.dir.join("ca.pem"),
        sim.dir.join("master.key"),
    );
    Bridge::with_config(dir, &config, (mqtt, admin))
}

#[test]
fn whatever_happens_to_fifty_lines_nothing_acknowledged_is_missing() {
    for transport in ["mqtt", "websocket"] {
        let dir = folder();
        let (file, web) = (dir.path().join("ids"), SocketAddr::from(([127, 0, 0, 1], free_port())));
        fs::write(&file, "").unwrap();
        let (file_text, web_text) = (file.to_str().unwrap(), web.to_string());
        // Every connection is closed as if its token were over, in the middle of its life.
        let args = ["--device-file", file_text, "--websocket", &web_text, "--expire", "3"];
        let sim = Sim::start(&dir.path().join("hub"), free_port(), &args);
        let mut bridge = start(dir.path(), &sim, web, transport);
        let plant = Plant::start(&bridge);
        let more = || more(|| sim.received(), 300);
        more();
        for _ in 0..2 {
            bridge.process.kill();
            bridge = start(dir.path(), &sim, web, transport);
            plant.follow(&bridge);
            more();
        }
        for _ in 0..2 {
            // Some are away at any moment, as if their tokens were over.
            let lines = || bridge.metric("brownbridge_uplink_connections");
            until("most lines are there", PATIENCE, || (lines() >= 40.0).then_some(()));
            signal(&sim.process, rustix::process::Signal::USR1);
            more();
        }
        let mut disabled = String::new();
        (0..5).for_each(|device| writeln!(disabled, "!d-{device}").unwrap());
        fs::write(&file, disabled).unwrap();
        signal(&sim.process, rustix::process::Signal::HUP);
        let refused = "brownbridge_devices{state=\"refused\"}";
        until("five are refused", PATIENCE, || (bridge.metric(refused) == 5.0).then_some(()));
        more();
        fs::write(&file, "").unwrap();
        signal(&sim.process, rustix::process::Signal::HUP);
        let acknowledged = plant.stop();
        drained(&bridge);
        assert_nothing_missing(|| sim.received(), &acknowledged);
        assert!(bridge.metric("brownbridge_uplink_reconnects_total{reason=\"closed\"}") >= 50.0, "{transport}");
        assert_conserved(&bridge);
        assert_ledger(&bridge, 2, acknowledged.len() as u64);
    }
}

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const BOTH: [&str; 2] = ["hub-a.example", "hub-b.example"];

/// Two hubs that do not let these in, and a group that leads to `hubs`; `service` is what else the service does.
fn plan(service: &str, disabled: [&[String]; 2], (hubs, group): (&[&str], &str)) -> String {
    let mut plan = format!("scope = {:?}\nretry_after = 0\n{service}\n", support::site::SCOPE);
    for (host, devices) in BOTH.iter().zip(disabled) {
        writeln!(plan, "[[hub]]\nhost = {host:?}\ndisabled = {devices:?}").unwrap();
    }
    plan + &format!("[[enrolment]]\ngroup = \"line-1\"\nkey_file = \"group.key\"\nhubs = {hubs:?}\n{group}\n")
}

/// A site whose lines are cut again and again, and close as if tokens were over.
fn unsteady(dir: &Path) -> Site {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("group.key"), KEY).unwrap();
    Site::start_with(dir, free_port(), &plan("", [&[], &[]], (&BOTH, "")), &["--cut-every", "40", "--expire", "3"])
}

/// `[uplink.dps]` of a bridge that is `gw` itself.
fn dps(more: &str) -> String {
    format!("registration_id = \"gw\"\ngroup_key = \"{KEY}\"\nask_again_after = \"300ms\"\n{more}")
}

fn registrations(bridge: &Bridge, result: &str) -> f64 {
    bridge.metric(&format!("brownbridge_dps_registrations_total{{result=\"{result}\"}}"))
}

/// The hub that each device reached last; and that each was itself there, and first arrivals came in order.
fn last_hubs(received: &[Value]) -> BTreeMap<usize, String> {
    let (mut seen, mut last, mut hubs) = (HashSet::new(), BTreeMap::new(), BTreeMap::new());
    for message in received {
        let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        let id = body["id"].as_str().unwrap();
        let [_, device, round] = id.split('-').collect::<Vec<_>>()[..] else { panic!("{id}") };
        assert_eq!(message["device"].as_str().unwrap(), format!("d-{device}"), "{id} in another's name");
        let (device, round): (usize, u32) = (device.parse().unwrap(), round.parse().unwrap());
        hubs.insert(device, message["hub"].as_str().unwrap().to_owned());
        if seen.insert(id.to_owned()) {
            let before = last.insert(device, round);
            assert!(before < Some(round), "{id} came after round {before:?}");
        }
    }
    hubs
}

/// The provisioning service moves devices, refuses them, throttles and goes away; hubs disable devices; lines are cut, tokens
/// end, the program is killed.
#[test]
fn whatever_the_provisioning_service_does_nothing_acknowledged_is_missing() {
    for (service, line) in [("rest", "mqtt"), ("mqtt", "websocket")] {
        let dir = folder();
        let hubs = unsteady(&dir.path().join("site"));
        let uplink = format!(
            "identity = \"per-device\"\ntransport = \"{line}\"\ntoken_lifetime = \"10s\"\nlive_first = false\n\
             [uplink.devices]\nallow = [\"*\"]"
        );
        let dps = dps(&format!("transport = \"{service}\"\nregistrations_per_minute = 6000"));
        let start = || hubs.bridge(&dir.path().join("bridge"), &uplink, &dps);
        let mut bridge = start();
        let plant = Plant::start(&bridge);
        let more = || more(|| hubs.received(), 300);
        until("both hubs are in use", PATIENCE, || {
            let last = last_hubs(&hubs.received());
            (last.len() == DEVICES && last.values().collect::<BTreeSet<_>>().len() == 2).then_some(())
        });

        let some: Vec<String> = (0..10).map(|device| format!("d-{device}")).collect();
        hubs.replan(&plan("", [&some, &[]], (&BOTH[1..], "")));
        until("they are at the other hub", PATIENCE, || {
            let last = last_hubs(&hubs.received());
            (0..10).all(|device| last[&device] == BOTH[1]).then_some(())
        });
        bridge.process.kill();
        bridge = start();
        plant.follow(&bridge);
        more();

        let others: Vec<String> = (10..15).map(|device| format!("d-{device}")).collect();
        for (does, group, result) in [
            ("away = true", "", "unreachable"),
            ("throttled = 1", "", "throttled"),
            ("", "disabled = true", "disabled"),
        ] {
            hubs.replan(&plan(does, [&others, &others], (&BOTH, group)));
            until(result, PATIENCE, || (registrations(&bridge, result) >= 1.0).then_some(()));
            more();
        }
        bridge.process.kill();
        bridge = start();
        plant.follow(&bridge);
        hubs.replan(&plan("", [&[], &[]], (&BOTH, "")));
        signal(&hubs.process, rustix::process::Signal::USR1);
        more();
        let acknowledged = plant.stop();
        drained(&bridge);
        assert_nothing_missing(|| hubs.received(), &acknowledged);
        last_hubs(&hubs.received());
        assert_conserved(&bridge);
        assert_ledger(&bridge, 2, acknowledged.len() as u64);
    }
}

/// The bridge itself moves between two hubs, by way of a service that is away at first, and a kill.
#[test]
fn a_bridge_that_is_moved_under_load_loses_nothing() {
    let dir = folder();
    let hubs = unsteady(&dir.path().join("site"));
    let start = || hubs.bridge(&dir.path().join("bridge"), "token_lifetime = \"10s\"", &dps(""));
    let mut bridge = start();
    let plant = Plant::start(&bridge);
    let is_at = |hub: &str| {
        let name = format!("messages at {hub}");
        let there = || hubs.received().iter().filter(|message| message["hub"] == hub).count();
        let wanted = there() + 300;
        until(&name, PATIENCE, || (there() >= wanted).then_some(()));
    };
    let gw = ["gw".to_owned()];
    hubs.replan(&plan("", [&[], &gw], (&BOTH[..1], "")));
    is_at(BOTH[0]);
    hubs.replan(&plan("away = true", [&gw, &[]], (&BOTH[1..], "")));
    until("the service is asked in vain", PATIENCE, || (registrations(&bridge, "unreachable") >= 1.0).then_some(()));
    hubs.replan(&plan("", [&gw, &[]], (&BOTH[1..], "")));
    is_at(BOTH[1]);
    bridge.process.kill();
    hubs.replan(&plan("", [&[], &gw], (&BOTH[..1], "")));
    bridge = start();
    plant.follow(&bridge);
    is_at(BOTH[0]);
    let acknowledged = plant.stop();
    drained(&bridge);
    assert_nothing_missing(|| hubs.received(), &acknowledged);
    assert!(hubs.received().iter().all(|message| message["device"] == "gw"));
    assert_conserved(&bridge);
    assert_ledger(&bridge, 1, acknowledged.len() as u64);
}
