//! Fifty devices, each with a connection of its own, and everything that happens to connections at once: nothing that was
//! acknowledged is missing at the hub.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

mod support;
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

/// Waits for so many more acknowledgements of the hub than there were.
fn more(sim: &Sim, messages: usize) {
    let wanted = sim.received().len() + messages;
    until("more messages", PATIENCE, || (sim.received().len() >= wanted).then_some(()));
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
        let (address, stop) = (Arc::new(Mutex::new(bridge.mqtt)), Arc::new(AtomicBool::new(false)));
        let (to, until_then) = (Arc::clone(&address), Arc::clone(&stop));
        let plant = std::thread::spawn(move || rounds(&to, &until_then));
        more(&sim, 300);
        for _ in 0..2 {
            bridge.process.kill();
            bridge = start(dir.path(), &sim, web, transport);
            *address.lock().unwrap() = bridge.mqtt;
            more(&sim, 300);
        }
        for _ in 0..2 {
            // Some are away at any moment, as if their tokens were over.
            let lines = || bridge.metric("brownbridge_uplink_connections");
            until("most lines are there", PATIENCE, || (lines() >= 40.0).then_some(()));
            signal(&sim.process, rustix::process::Signal::USR1);
            more(&sim, 300);
        }
        let mut disabled = String::new();
        (0..5).for_each(|device| writeln!(disabled, "!d-{device}").unwrap());
        fs::write(&file, disabled).unwrap();
        signal(&sim.process, rustix::process::Signal::HUP);
        let refused = "brownbridge_devices{state=\"refused\"}";
        until("five are refused", PATIENCE, || (bridge.metric(refused) == 5.0).then_some(()));
        more(&sim, 300);
        fs::write(&file, "").unwrap();
        signal(&sim.process, rustix::process::Signal::HUP);
        stop.store(true, Ordering::Relaxed);
        let acknowledged = plant.join().unwrap();
        until("drained", PATIENCE * 3, || {
            let waits = bridge.metric("brownbridge_spool_messages") + bridge.metric("brownbridge_shelf_messages");
            (waits == 0.0).then_some(())
        });
        assert_nothing_missing(&sim.received(), &acknowledged);
        assert!(bridge.metric("brownbridge_uplink_reconnects_total{reason=\"closed\"}") >= 50.0, "{transport}");
        assert_conserved(&bridge);
        assert_ledger(&bridge, 2, acknowledged.len() as u64);
    }
}
