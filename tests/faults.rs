//! The real program and what lines, hubs, clocks and disks do. After each: the ledger balances, nothing that was
//! acknowledged is missing at the hub, and no innocent message is in the quarantine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use namespace::Namespace;
use relay::{Line, Relay};
use rustix::process::{Pid, Signal, kill_process};
use support::clock::Clock;
use support::{
    Bridge, PATIENCE, Publisher, Sim, assert_conserved, assert_ledger, assert_nothing_missing, folder, free_port,
    quarantined, until,
};

const RULES: &str = "[[rule]]\nname = \"all\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n";
const QUICK: &str = "backoff_min = \"20ms\"\nbackoff_max = \"100ms\"\nack_timeout = \"1s\"";
/// Messages of each of the two publishers.
const EACH: usize = 400;
/// Long enough for a slow line to drain.
const LONG: Duration = Duration::from_secs(120);

type Address = Arc<Mutex<SocketAddr>>;

/// Publishes until all are acknowledged, over as many connections as it takes.
fn publisher(address: &Address, name: &str) -> Vec<String> {
    let ids: Vec<String> = (0..EACH).map(|n| format!("{name}-{n}")).collect();
    let mut done = 0;
    while done < ids.len() {
        let to = *address.lock().unwrap();
        let Ok(mut publisher) = Publisher::connect(to, name) else {
            std::thread::yield_now();
            continue;
        };
        let (mut out, mut sent) = (Vec::new(), done);
        while done < ids.len() {
            while sent < ids.len() && sent - done < 20 {
                let payload = format!("{{\"id\":\"{}\"}}", ids[sent]);
                publisher.publish(&mut out, &format!("t/{name}"), payload.as_bytes());
                sent += 1;
            }
            if publisher.flush(&mut out).is_err() {
                break;
            }
            match publisher.acknowledged() {
                Ok(acknowledged) => done += acknowledged.len(),
                Err(_) => break,
            }
        }
    }
    ids
}

fn start(address: &Address, name: &'static str) -> JoinHandle<Vec<String>> {
    let address = Arc::clone(address);
    std::thread::spawn(move || publisher(&address, name))
}

fn load(address: &Address) -> Vec<JoinHandle<Vec<String>>> {
    ["p0", "p1"].map(|name| start(address, name)).into()
}

fn delivered(bridge: &Bridge, at_least: f64) {
    until("delivered", LONG, || (bridge.metric("brownbridge_messages_delivered_total") >= at_least).then_some(()));
}

fn reconnected(bridge: &Bridge, reason: &str) {
    until(reason, PATIENCE, || {
        bridge.get("/metrics").contains(&format!("uplink_reconnects_total{{reason=\"{reason}\"}}")).then_some(())
    });
}

/// Everything acknowledged has arrived, and the books say so.
fn settled(name: &str, dir: &Path, mut bridge: Bridge, mut sim: Sim, acknowledged: &[String], crashes: u64) {
    until("the spool drains", LONG, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert_ledger(&bridge, crashes, acknowledged.len() as u64);
    assert_eq!(bridge.metric("brownbridge_spool_lost_total"), 0.0, "{name}");
    assert_eq!(bridge.process.terminate(), Some(0), "{name}");
    assert_eq!(sim.process.terminate(), Some(0), "{name}");
    assert_nothing_missing(|| sim.received(), acknowledged);
    assert!(quarantined(dir).is_empty(), "{name}");
}

#[test]
fn bad_lines() {
    let slow = std::env::var_os("BROWNBRIDGE_SLOW").is_some();
    type Fault = fn(&Relay, &Bridge);
    let still = Line::default();
    let rows: [(&str, Line, Fault, bool); 5] = [
        ("100 ms each way", Line { delay: Duration::from_millis(100), ..still }, |_, _| {}, true),
        ("one packet in twenty lost", Line { lose_every: 20, ..still }, |_, _| {}, true),
        (
            "torn in the middle of a packet, again and again",
            Line { tear_after: Some(9_001), ..still },
            |relay, bridge| {
                until("torn often", PATIENCE, || {
                    (bridge.metric("brownbridge_uplink_reconnects_total") > 10.0).then_some(())
                });
                relay.set(Line { tear_after: Some(40_001), ..Line::default() });
            },
            false,
        ),
        (
            "a partition that heals",
            still,
            |relay, bridge| {
                delivered(bridge, 50.0);
                relay.set(Line { partition: true, ..Line::default() });
                reconnected(bridge, "ack_timeout");
                until("told", PATIENCE, || bridge.get("/readyz").contains("has not acknowledged").then_some(()));
                relay.set(Line::default());
            },
            false,
        ),
        (
            "three short partitions",
            still,
            |relay, bridge| {
                for n in 1..=3 {
                    delivered(bridge, f64::from(n) * 50.0);
                    relay.set(Line { partition: true, ..Line::default() });
                    let waiting = bridge.metric("brownbridge_spool_messages");
                    until("it fills", PATIENCE, || {
                        let now = bridge.metric("brownbridge_spool_messages");
                        (now > waiting || bridge.metric("brownbridge_publishes_received_total") >= 800.0).then_some(())
                    });
                    relay.set(Line::default());
                }
            },
            false,
        ),
    ];
    for (name, line, fault, is_slow) in rows {
        if is_slow && !slow {
            continue;
        }
        let dir = folder();
        let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
        let relay = Relay::start(([127, 0, 0, 1], sim.port).into());
        relay.set(line);
        sim.port = relay.port;
        let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
        let publishers = load(&Arc::new(Mutex::new(bridge.mqtt)));
        fault(&relay, &bridge);
        let acknowledged: Vec<String> = publishers.into_iter().flat_map(|one| one.join().unwrap()).collect();
        settled(name, dir.path(), bridge, sim, &acknowledged, 0);
    }
}

/// The kernel's own partition: no close, no reset, packets that vanish, a hub that still has the old connection when
/// the new one comes.
#[test]
fn a_link_that_goes_down_and_comes_back() {
    let Some(network) = Namespace::make() else {
        assert!(std::env::var_os("CI").is_none(), "no network namespace: it takes root and the package iproute2");
        eprintln!("no right to make a network namespace: this test is left out");
        return;
    };
    let dir = folder();
    let listen = SocketAddr::from((network.address, 8883));
    let sim = Sim::start_as(network.command(support::BINARY), listen, &dir.path().join("sim"), &[]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    let address = Arc::new(Mutex::new(bridge.mqtt));
    let mut publishers = load(&address);
    delivered(&bridge, 50.0);
    network.link(false);
    // What is acknowledged from here on has to wait for the link, whatever came before it.
    publishers.push(start(&address, "p2"));
    reconnected(&bridge, "ack_timeout");
    until("told", PATIENCE, || bridge.get("/readyz").contains("has not acknowledged").then_some(()));
    assert!(bridge.metric("brownbridge_spool_messages") > 0.0, "it waits on disk");
    network.link(true);
    let acknowledged: Vec<String> = publishers.into_iter().flat_map(|one| one.join().unwrap()).collect();
    settled("a link that goes down", dir.path(), bridge, sim, &acknowledged, 0);
}

#[test]
fn a_hub_that_stands_still_and_goes_on() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    let hub = Pid::from_raw(i32::try_from(sim.process.id()).unwrap()).unwrap();
    let publishers = load(&Arc::new(Mutex::new(bridge.mqtt)));
    delivered(&bridge, 50.0);
    kill_process(hub, Signal::STOP).unwrap();
    support::publish_all(bridge.mqtt, "t/p2", ["{\"id\":\"while it stands still\"}"]);
    reconnected(&bridge, "ack_timeout");
    kill_process(hub, Signal::CONT).unwrap();
    let mut acknowledged: Vec<String> = publishers.into_iter().flat_map(|one| one.join().unwrap()).collect();
    acknowledged.push("while it stands still".to_owned());
    settled("SIGSTOP", dir.path(), bridge, sim, &acknowledged, 0);
}

#[test]
fn a_clock_two_days_off() {
    for (offset, delivers) in [("+2d", true), ("-2d", false)] {
        let dir = folder();
        let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
        let Some(clock) = Clock::off(dir.path(), offset) else { return };
        let mut bridge = Bridge::start_in(dir.path(), &sim, (RULES, QUICK), &clock.environment());
        let address = Arc::new(Mutex::new(bridge.mqtt));
        let publishers = load(&address);
        let acknowledged: Vec<String> = publishers.into_iter().flat_map(|one| one.join().unwrap()).collect();
        if delivers {
            delivered(&bridge, (2 * EACH) as f64);
        } else {
            reconnected(&bridge, "clock");
            assert_eq!(bridge.metric("brownbridge_messages_delivered_total"), 0.0);
        }
        // The clock jumps back to the right time over a crash.
        bridge.process.kill();
        let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
        settled(offset, dir.path(), bridge, sim, &acknowledged, 1);
    }
}

/// A file system of its own that goes with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` without the right to mount.
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_that_comes_back() {
    let dir = folder();
    let Some(disk) = SmallDisk::mount(dir.path().join("state")) else {
        eprintln!("no right to mount a small disk: this test is left out");
        return;
    };
    let port = free_port();
    let sim = Sim::start(&dir.path().join("sim"), port, &["--refuse"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, &format!("{QUICK}\n[spool]\nmax_size = \"1GiB\""));
    // Somebody else fills the disk.
    let ballast = disk.0.join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    let zeros = vec![0; 1 << 20];
    while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
    let big = format!("{{\"id\":\"{}\"}}", "x".repeat(100_000));
    let mut filler = Publisher::connect(bridge.mqtt, "filler").unwrap();
    let mut out = Vec::new();
    let filled = until("full", LONG, || {
        filler.publish(&mut out, "t/filler", big.as_bytes());
        let _ = filler.flush(&mut out);
        (bridge.metric("brownbridge_spool_full") == 1.0).then_some(filler.inflight())
    });
    assert!(filled > 0);
    assert!(bridge.get("/healthz").starts_with("HTTP/1.1 200"), "it lives");
    let publishers = load(&Arc::new(Mutex::new(bridge.mqtt)));
    fs::remove_file(&ballast).unwrap();
    drop(file);
    drop(sim);
    let sim = Sim::start(&dir.path().join("sim"), port, &[]);
    let acknowledged: Vec<String> = publishers.into_iter().flat_map(|one| one.join().unwrap()).collect();
    drop(filler);
    settled("a full disk", dir.path(), bridge, sim, &acknowledged, 0);
    drop(disk);
}
