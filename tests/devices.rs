//! Every device its own hub connection: the real program against the simulator, with its faults.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, reason = "test code")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

mod support;
use support::*;

/// What no rule takes goes up under the bridge's own identity.
const RULES: &str = "[[rule]]\nname = \"t\"\ntopic = \"t/{d}\"\ndevice = \"{d}\"\n";

/// A bridge whose devices prove themselves with keys derived from the simulator's; `more` is more of the devices.
fn start(dir: &Path, sim: &Sim, uplink: &str, more: &str) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    fs::create_dir_all(dir.join("rules")).unwrap();
    fs::write(dir.join("rules/10-test.toml"), RULES).unwrap();
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

#[test]
fn a_refused_device_waits_alone_and_follows_in_order() {
    let dir = folder();
    let file = dir.path().join("ids");
    fs::write(&file, "!bad\n").unwrap();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--device-file", file.to_str().unwrap()]);
    let bridge = start(dir.path(), &sim, "", "allow = [\"*\"]");
    publish(&bridge, "good", 0..10);
    publish(&bridge, "bad", 0..10);
    until_arrived(&sim, "good", &(0..10).collect::<Vec<_>>());
    let bad = until_state(dir.path(), "bad", "refused");
    assert!(bad["trouble"].as_str().unwrap().contains("refused the connection"), "{bad}");
    publish(&bridge, "bad", 10..300);
    publish(&bridge, "good", 10..20);
    until_arrived(&sim, "good", &(0..20).collect::<Vec<_>>());
    until("all on the shelf", PATIENCE, || (listed(dir.path())["bad"]["shelved"] == 300).then_some(()));
    until("the spool is free of it", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert_ledger(&bridge, 0, 320);
    assert!(bridge.get("/readyz").starts_with("HTTP/1.1 200"), "most devices send");
    let stat = Command::new(BINARY).args(["queue", "stat", "--config"]).arg(dir.path().join("bridge.toml")).output();
    let stat = String::from_utf8(stat.unwrap().stdout).unwrap();
    assert!(stat.contains("300 more lie on shelves"), "{stat}");
    let status = Command::new(BINARY).args(["status", "--config"]).arg(dir.path().join("bridge.toml")).output();
    let status = String::from_utf8(status.unwrap().stdout).unwrap();
    assert!(status.contains("1 refused") && status.contains("bad is refused"), "{status}");

    register(&sim, &file, "# nobody is disabled\n");
    publish(&bridge, "bad", 300..310);
    until_arrived(&sim, "bad", &(0..310).collect::<Vec<_>>());
    until("the shelf is gone", PATIENCE, || {
        (fs::read_dir(dir.path().join("state/shelf")).unwrap().count() == 0).then_some(())
    });
    publish(&bridge, "bad", 310..312);
    until_arrived(&sim, "bad", &(0..312).collect::<Vec<_>>());
    assert_eq!(sim.received().len(), 332, "none twice");
    until("the books at rest", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert_ledger(&bridge, 0, 332);
}

#[test]
fn the_log_names_every_refused_device() {
    let dir = folder();
    let file = dir.path().join("ids");
    fs::write(&file, "!bad-1\n!bad-2\n!bad-3\n").unwrap();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--device-file", file.to_str().unwrap()]);
    let bridge = start(dir.path(), &sim, "", "allow = [\"*\"]");
    publish(&bridge, "good", 0..1);
    for device in ["bad-1", "bad-2", "bad-3"] {
        publish(&bridge, device, 0..1);
    }
    // What there is to look at is told once, however often it is tried again.
    let full = "In the order to look at";
    for device in ["bad-1", "bad-2", "bad-3"] {
        until_state(dir.path(), device, "refused");
        let lines = |line: &str| -> Vec<String> {
            let named = |text: &&str| text.contains(line) && text.contains(&format!("device=\"{device}\""));
            fs::read_to_string(&bridge.log).unwrap().lines().filter(named).map(str::to_owned).collect()
        };
        let refusals = until(&format!("{device} is refused again"), PATIENCE, || {
            Some(lines("uplink: localhost refused the connection")).filter(|lines| lines.len() > 2)
        });
        assert!(refusals[0].contains(full) && refusals[1..].iter().all(|line| !line.contains(full)), "{refusals:#?}");
        let told = lines("a device is not let in");
        assert!(!told.is_empty() && told.iter().all(|line| !line.contains(full)), "{device}: {told:#?}");
    }
}

/// Ten devices, fifty messages each, over lines that end again and again: nothing is missing, first arrivals are in order,
/// and no end of a line sends more again than was in flight.
#[test]
fn lines_that_end_again_and_again_lose_nothing() {
    /// Publishes in flight of a device.
    const WINDOW: usize = 32;
    let rows = [
        (&["--cut-every", "7"][..], 10.0),
        (&["--expire", "1", "--puback-delay", "700"], 10.0),
        // It shapes first, and may close.
        (&["--message-rate", "150"], 0.0),
    ];
    for (faults, least) in rows {
        let dir = folder();
        let sim = Sim::start(&dir.path().join("hub"), free_port(), faults);
        let bridge = start(dir.path(), &sim, "", "allow = [\"press-*\"]");
        let devices: Vec<String> = (0..10).map(|n| format!("press-{n}")).collect();
        for device in &devices {
            publish(&bridge, device, 0..50);
        }
        let whole: BTreeMap<String, Vec<u32>> =
            devices.iter().map(|device| (device.clone(), (0..50).collect())).collect();
        until("all of them", 4 * PATIENCE, || {
            (bridge.metric("brownbridge_spool_messages") == 0.0 && by_device(&sim) == whole).then_some(())
        });
        // Closes again and again are counted by what they most likely mean.
        let reasons = ["closed", "taken_over", "nothing_taken", "throttled"];
        let ended = |reason| bridge.metric(&format!("brownbridge_uplink_reconnects_total{{reason=\"{reason}\"}}"));
        let ends: f64 = reasons.into_iter().map(ended).sum();
        assert!(ends >= least, "{faults:?}: the lines ended: {ends}");
        let again = sim.received().len() - 500;
        assert!(again <= ends as usize * WINDOW, "{faults:?}: {again} again over {ends} ends");
        assert_conserved(&bridge);
        assert_ledger(&bridge, 0, 500);
    }
}

#[test]
fn refused_messages_go_another_way_where_that_is_wanted() {
    for (policy, reason) in [("gateway", ""), ("quarantine", "device_refused")] {
        let dir = folder();
        let file = dir.path().join("ids");
        fs::write(&file, "!bad\n").unwrap();
        let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--device-file", file.to_str().unwrap()]);
        let bridge = start(dir.path(), &sim, "", &format!("allow = [\"*\"]\nwhen_refused = \"{policy}\""));
        publish(&bridge, "bad", 0..50);
        let other_way = || match policy {
            "gateway" => {
                let of_bad = |message: &Value| message["properties"]["device"] == "bad";
                sim.received().iter().filter(|message| of_bad(message)).map(|message| message["body"].clone()).collect()
            }
            _ => quarantined(dir.path()).iter().map(|entry| entry["payload"].clone()).collect::<Vec<_>>(),
        };
        until("the first ones", PATIENCE, || (other_way().len() == 50).then_some(()));
        publish(&bridge, "bad", 50..100);
        until("all of them", PATIENCE, || (other_way().len() == 100).then_some(()));
        let order: Vec<u32> = other_way().iter().map(|body| body.as_str().unwrap().parse().unwrap()).collect();
        assert!(policy == "quarantine" || order.is_sorted(), "{order:?}");
        if !reason.is_empty() {
            assert!(quarantined(dir.path()).iter().all(|entry| entry["reason"] == reason && entry["device"] == "bad"));
        }
        until("the books at rest", PATIENCE, || {
            let waits = bridge.metric("brownbridge_spool_messages") + bridge.metric("brownbridge_shelf_messages");
            (waits == 0.0).then_some(())
        });
        assert_conserved(&bridge);
        assert_ledger(&bridge, 0, 100);
        // Repaired, it has its own identity again.
        register(&sim, &file, "");
        let mut next = 100;
        until("its own identity", PATIENCE, || {
            publish(&bridge, "bad", next..next + 1);
            next += 1;
            (!arrived(&sim, "bad").is_empty()).then_some(())
        });
    }
}

#[test]
fn who_is_unknown_is_held_until_an_operator_speaks() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    fs::write(dir.path().join("devices.csv"), "id\nlisted\n").unwrap();
    let more = "table = \"devices.csv\"\nallow = [\"press-*\"]";
    let mut bridge = start(dir.path(), &sim, "", more);
    for device in ["listed", "press-4", "stranger", "enemy"] {
        publish(&bridge, device, 0..20);
    }
    for device in ["listed", "press-4"] {
        until_arrived(&sim, device, &(0..20).collect::<Vec<_>>());
    }
    for device in ["stranger", "enemy"] {
        until_state(dir.path(), device, "held");
    }
    until("both on shelves", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 40.0).then_some(()));
    let (code, out) = devices(dir.path(), &["list", "--state", "held"]);
    assert!(code == 0 && out.contains("stranger") && out.contains("enemy") && !out.contains("press-4"), "{out}");
    assert!(!by_device(&sim).contains_key("stranger"));

    let (code, said) = devices(dir.path(), &["approve", "stranger", "press-4", "press-9"]);
    for (id, expect) in [("stranger", "is let in now"), ("press-4", "was connected"), ("press-9", "not seen yet")] {
        assert!(code == 0 && said.contains(&format!("{id}: {expect}")), "{said}");
    }
    let named = sim.connection_string.split(';').find_map(|part| part.strip_prefix("DeviceId=")).unwrap();
    let (code, own) = devices(dir.path(), &["show", named]);
    assert!(code == 0 && own.starts_with(&format!("{named} is the bridge itself: ")), "{own}");
    until_arrived(&sim, "stranger", &(0..20).collect::<Vec<_>>());
    assert_eq!(devices(dir.path(), &["deny", "enemy", "press-4"]).0, 0);
    until("the enemy's are in the quarantine", PATIENCE, || (quarantined(dir.path()).len() == 20).then_some(()));
    publish(&bridge, "press-4", 20..22);
    until("and what a denied one sends", PATIENCE, || (quarantined(dir.path()).len() == 22).then_some(()));
    assert!(quarantined(dir.path()).iter().all(|entry| entry["reason"] == "device_denied"));
    assert_eq!(devices(dir.path(), &["show", "enemy"]).1.lines().next(), Some("enemy: denied"));
    assert_eq!(devices(dir.path(), &["show", "nobody"]).0, 1);
    until("the books at rest", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert_eq!(bridge.process.terminate(), Some(0));
    // What was said holds after a restart.
    let bridge = start(dir.path(), &sim, "", more);
    publish(&bridge, "stranger", 20..22);
    publish(&bridge, "press-4", 22..23);
    until_arrived(&sim, "stranger", &(0..22).collect::<Vec<_>>());
    until("denied after a restart", PATIENCE, || (quarantined(dir.path()).len() == 23).then_some(()));
}

/// All shelves together are full: one that is only begun gets its room from the longest, and nobody else waits for that.
#[test]
fn full_shelves_make_room_where_that_is_wanted_and_stop_nobody() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let more = "shelf_max_size = \"1MiB\"\nshelf_max_device_size = \"1MiB\"\nshelf_when_full = \"drop-oldest\"\n\
                allow = [\"good\"]";
    let mut bridge = start(dir.path(), &sim, "", more);
    let publish_long = |device: &str, count: u32| {
        let payloads: Vec<String> = (0..count).map(|n| format!("{n:08000}")).collect();
        publish_all(bridge.mqtt, &format!("t/{device}"), payloads.iter().map(String::as_str));
    };
    let shelved = |device: &str, count: u32| {
        until("on its shelf", PATIENCE, || (listed(dir.path()).get(device)?["shelved"] == count).then_some(()));
    };
    publish_long("first", 120);
    shelved("first", 120);
    publish_long("second", 40);
    shelved("second", 40);
    publish(&bridge, "good", 0..3);
    until_arrived(&sim, "good", &[0, 1, 2]);
    let first = listed(dir.path())["first"]["shelved"].as_u64().unwrap();
    assert!((60..120).contains(&first), "{first} are left of the longest shelf");
    until("the books at rest", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert_eq!(bridge.process.terminate(), Some(0));
}

/// A full shelf refuses: who publishes for its device is not acknowledged, everybody else is, and nothing is given up. Once
/// for one shelf that is full, once for all together.
#[test]
fn full_shelves_refuse_before_they_lose_anything() {
    for (all, held) in [("64MiB", vec!["bad"]), ("1MiB", vec!["bad", "worse"])] {
        let dir = folder();
        let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
        let more = format!("shelf_max_size = \"{all}\"\nshelf_max_device_size = \"1MiB\"\nallow = [\"good\"]");
        let bridge = start(dir.path(), &sim, "", &more);
        let flood = |device: &str, numbers: std::ops::Range<u32>| {
            let (topic, name) = (format!("t/{device}"), format!("{device}-{}", numbers.start));
            let mut publisher = Publisher::connect(bridge.mqtt, &name).unwrap();
            std::thread::spawn(move || {
                let mut out = Vec::new();
                for number in numbers {
                    publisher.publish(&mut out, &topic, format!("{number:08000}").as_bytes());
                }
                publisher.flush(&mut out).unwrap();
                while publisher.inflight() > 0 {
                    publisher.acknowledged().unwrap();
                }
            })
        };
        // Each has a shelf before there is no room for another.
        held.iter().for_each(|device| flood(device, 0..1).join().unwrap());
        let on_shelves = || bridge.metric("brownbridge_shelf_messages");
        until("each has a shelf", PATIENCE, || (on_shelves() == held.len() as f64).then_some(()));
        // Two megabytes each: what is acknowledged before the door is shut finds its place.
        let first: Vec<_> = held.iter().map(|device| flood(device, 1..250)).collect();
        until("they are refused", PATIENCE, || {
            (bridge.metric("brownbridge_devices_not_read") == held.len() as f64).then_some(())
        });
        let told = listed(dir.path()).remove("bad").unwrap();
        assert!(told["trouble"].as_str().unwrap().starts_with("its shelf is full"), "{told}");
        assert!(bridge.get("/readyz").contains("not read"), "{}", bridge.get("/readyz"));
        let floods: Vec<_> = held.iter().map(|device| flood(device, 250..260)).collect();
        for round in 0..3 {
            publish(&bridge, "good", round..round + 1);
        }
        until_arrived(&sim, "good", &[0, 1, 2]);
        assert!(floods.iter().all(|flood| !flood.is_finished()), "what finds no place is not acknowledged");
        assert_eq!(devices(dir.path(), &[&["approve"], &held[..]].concat()).0, 0);
        for flood in first.into_iter().chain(floods) {
            flood.join().unwrap();
        }
        for device in held {
            until_arrived(&sim, device, &(0..260).collect::<Vec<_>>());
        }
        until("all are read again", PATIENCE, || (bridge.metric("brownbridge_devices_not_read") == 0.0).then_some(()));
        assert_eq!(bridge.metric("brownbridge_messages_shed_total"), 0.0);
        until("the books at rest", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
        assert_conserved(&bridge);
    }
}

#[test]
fn a_device_that_floods_does_not_hold_up_the_others() {
    let dir = folder();
    // 32 in flight and half a second for each: the flood takes minutes, if everything waits for it.
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--puback-delay", "200"]);
    let bridge = start(dir.path(), &sim, "", "allow = [\"*\"]");
    // All lines are there before it begins.
    for device in 0..5 {
        publish(&bridge, &format!("calm-{device}"), 0..1);
        until_arrived(&sim, &format!("calm-{device}"), &[0]);
    }
    for round in 0..4 {
        publish(&bridge, "flood", round * 500..(round + 1) * 500);
        for device in 0..5 {
            publish(&bridge, &format!("calm-{device}"), round + 1..round + 2);
        }
    }
    until_arrived(&sim, "calm-4", &[0, 1, 2, 3, 4]);
    let early = arrived(&sim, "flood").len();
    assert!(early < 1_900, "all {early} of the flood came before the last of the others");
    until_arrived(&sim, "flood", &(0..2_000).collect::<Vec<_>>());
    let order: Vec<_> = sim.received().iter().map(|message| message["body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(order.len(), 2_025, "none twice");
    until("the books at rest", PATIENCE, || {
        let waits = bridge.metric("brownbridge_spool_messages") + bridge.metric("brownbridge_shelf_messages");
        (waits == 0.0).then_some(())
    });
    assert!(bridge.metric("brownbridge_shelf_appended_total") > 0.0, "the flood went over a shelf");
    assert_conserved(&bridge);
}

#[test]
fn kill_9_with_shelves_loses_nothing() {
    let dir = folder();
    let file = dir.path().join("ids");
    fs::write(&file, "!bad-0\n!bad-1\n!bad-2\n").unwrap();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--device-file", file.to_str().unwrap()]);
    let more = "allow = [\"good*\", \"bad*\"]";
    let (mut next, mut bridge) = (0, start(dir.path(), &sim, "", more));
    for _ in 0..4 {
        for device in ["bad-0", "bad-1", "bad-2", "good", "held"] {
            publish(&bridge, device, next..next + 40);
        }
        next += 40;
        bridge.process.kill();
        bridge = start(dir.path(), &sim, "", more);
    }
    register(&sim, &file, "");
    assert_eq!(devices(dir.path(), &["approve", "held", "bad-0", "bad-1", "bad-2"]).0, 0);
    for device in ["bad-0", "bad-1", "bad-2", "good", "held"] {
        let wanted: BTreeSet<u32> = (0..next).collect();
        until(&format!("all of {device}"), PATIENCE, || {
            (arrived(&sim, device).into_iter().collect::<BTreeSet<_>>() == wanted).then_some(())
        });
        // Copies carry one message id, so each counts once here: the first arrivals are in order.
        assert!(arrived(&sim, device).is_sorted(), "{device}: {:?}", arrived(&sim, device));
    }
    until("the books at rest", PATIENCE, || {
        let waits = bridge.metric("brownbridge_spool_messages") + bridge.metric("brownbridge_shelf_messages");
        (waits == 0.0).then_some(())
    });
    assert_conserved(&bridge);
    assert_ledger(&bridge, 4, u64::from(next) * 5);
}

/// Part of a flood is in memory and in the spool, newer messages are on the shelf: a start finds both, and their order.
#[test]
fn kill_9_in_a_flood_keeps_the_order_of_the_device() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--puback-delay", "200"]);
    let more = "allow = [\"*\"]";
    let mut bridge = start(dir.path(), &sim, "", more);
    let mut next = 0;
    for round in 0..3 {
        for device in ["calm-0", "calm-1"] {
            publish(&bridge, device, round..round + 1);
            until_arrived(&sim, device, &(0..=round).collect::<Vec<_>>());
        }
        publish(&bridge, "flood", next..next + 600);
        next += 600;
        let shelf = || bridge.metric("brownbridge_shelf_messages");
        until("part of the flood is on its shelf", PATIENCE, || (shelf() > 0.0).then_some(()));
        bridge.process.kill();
        bridge = start(dir.path(), &sim, "", more);
    }
    // Copies carry one message id, so each counts once here: the first arrivals are in order.
    until_arrived(&sim, "flood", &(0..next).collect::<Vec<_>>());
    until("the books at rest", PATIENCE, || {
        let waits = bridge.metric("brownbridge_spool_messages") + bridge.metric("brownbridge_shelf_messages");
        (waits == 0.0).then_some(())
    });
    assert_conserved(&bridge);
    assert_ledger(&bridge, 3, u64::from(next) + 6);
}

/// The hub comes back with a certificate of another CA, whose root replaces the old one in `ca_file`.
#[test]
fn another_root_is_taken_up_by_the_lines_of_devices() {
    let dir = folder();
    let (hub, port) = (dir.path().join("hub"), free_port());
    let sim = Sim::start(&hub, port, &[]);
    let bridge = start(dir.path(), &sim, "", "allow = [\"*\"]");
    for device in ["a", "b"] {
        publish(&bridge, device, 0..1);
        until_arrived(&sim, device, &[0]);
    }
    let received = sim.received().len();
    drop(sim);
    for file in ["ca.pem", "ca.key"] {
        fs::remove_file(hub.join(file)).unwrap();
    }
    // The keys of the devices are the same.
    let sim = Sim::start(&hub, port, &[]);
    for device in ["a", "b", "c"] {
        publish(&bridge, device, 1..2);
    }
    until("all have arrived", PATIENCE, || (sim.received().len() == received + 3).then_some(()));
    let log = fs::read_to_string(&bridge.log).unwrap();
    assert!(log.contains("is taken up by a planned reconnect"), "{log}");
    assert_conserved(&bridge);
}

#[test]
fn after_a_restart_of_the_hub_connects_come_in_a_row() {
    let dir = folder();
    // The simulator holds a CONNACK back for three seconds: of 200 at once it would close a half.
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--connect-rate", "40"]);
    let bridge = start(dir.path(), &sim, "", "allow = [\"*\"]\nconnect_rate = 40");
    let count = 200;
    let each = |number: u32| (0..count).for_each(|device| publish(&bridge, &format!("d-{device}"), number..number + 1));
    let all = |messages: usize| {
        until("all messages", PATIENCE, || (sim.received().len() >= messages).then_some(()));
        until("all connections", PATIENCE, || {
            (bridge.metric("brownbridge_uplink_connections") == f64::from(count)).then_some(())
        });
    };
    each(0);
    all(200);
    assert_eq!(bridge.metric("brownbridge_uplink_reconnects_total"), 0.0);
    signal(&sim.process, rustix::process::Signal::USR1);
    until("all have noticed", PATIENCE, || {
        (bridge.metric("brownbridge_uplink_reconnects_total") >= f64::from(count)).then_some(())
    });
    each(1);
    all(400);
    let dropped = bridge.metric("brownbridge_uplink_reconnects_total");
    assert_eq!(dropped, f64::from(count), "nobody was closed for coming too fast");
    assert_eq!(sim.received().len(), 400);
}

#[test]
fn more_devices_than_connections_take_turns() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let bridge = start(dir.path(), &sim, "", "allow = [\"*\"]\nmax_connections = 5");
    for round in 0..3 {
        for device in 0..20 {
            publish(&bridge, &format!("d-{device}"), round..round + 1);
        }
    }
    for device in 0..20 {
        until_arrived(&sim, &format!("d-{device}"), &[0, 1, 2]);
    }
    assert!(bridge.metric("brownbridge_uplink_connections") <= 5.0);
    assert_eq!(sim.received().len(), 60, "none twice");
}

/// More are kept open than there are connections: it is told, who has something to send gets a place, and nobody is lost.
#[test]
fn who_has_something_to_send_goes_before_those_that_are_kept_open() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let kept: Vec<String> = (0..6).map(|n| format!("\"k-{n}\"")).collect();
    let more = format!("allow = [\"*\"]\nmax_connections = 3\nkeep_open = [{}]", kept.join(", "));
    let bridge = start(dir.path(), &sim, "", &more);
    let connected = |count: f64| (bridge.metric("brownbridge_uplink_connections") == count).then_some(());
    until("all places are taken", PATIENCE, || connected(3.0));
    until("that is told", PATIENCE, || {
        let log = fs::read_to_string(&bridge.log).unwrap();
        let told = log.contains("6 devices are to stay connected, and `max_connections` is 3")
            && log.contains("3 devices that `keep_open` names have no connection");
        told.then_some(())
    });
    for number in 0..3 {
        for device in ["d-1", "k-5", "d-2"] {
            publish(&bridge, device, number..number + 1);
        }
    }
    for device in ["d-1", "k-5", "d-2"] {
        until_arrived(&sim, device, &[0, 1, 2]);
    }
    assert!(bridge.metric("brownbridge_uplink_connections") <= 3.0);
}

#[test]
fn idle_connections_are_closed_and_certificates_open_them_again() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--device", "gateway", "--x509", "x-1"]);
    let more = format!("allow = [\"x-*\"]\nidle_timeout = \"1s\"\ncertificates = {:?}", sim.dir);
    let bridge = start(dir.path(), &sim, "", &more);
    let soonest = "brownbridge_certificate_expiry_timestamp_seconds";
    until("the end is told before it has connected", PATIENCE, || (bridge.metric(soonest) > 1e9).then_some(()));
    for number in 0..2 {
        publish(&bridge, "x-1", number..number + 1);
        until_arrived(&sim, "x-1", &(0..=number).collect::<Vec<_>>());
        until("it is closed", PATIENCE, || (bridge.metric("brownbridge_uplink_connections") == 0.0).then_some(()));
        until_state(dir.path(), "x-1", "idle");
    }
    until("the first end is told", PATIENCE, || (bridge.metric(soonest) > 1e9).then_some(()));
    assert_eq!(bridge.metric("brownbridge_credentials_expiring"), 0.0);
    let method = sim.received()[0]["system"]["iothub-connection-auth-method"].to_string();
    assert!(method.contains("x509Certificate"), "{method}");
    // Without a certificate it is told, and waits.
    publish(&bridge, "x-2", 0..3);
    let other = until_state(dir.path(), "x-2", "refused");
    assert!(other["trouble"].as_str().unwrap().contains("nobody knows its credentials"), "{other}");
}

#[test]
fn what_is_on_shelves_goes_up_when_devices_have_no_lines_any_more() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let mut bridge = start(dir.path(), &sim, "", "allow = [\"nobody\"]");
    publish(&bridge, "d", 0..20);
    until("on the shelf", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 20.0).then_some(()));
    assert_eq!(bridge.process.terminate(), Some(0));
    let bridge = Bridge::start(dir.path(), &sim, RULES, "");
    until("under the bridge's own identity", PATIENCE, || (sim.received().len() == 20).then_some(()));
    assert!(sim.received().iter().all(|message| message["properties"]["device"] == "d"));
    until("the books at rest", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert_ledger(&bridge, 0, 20);
}

/// What waits for a held device, or for a hub that is not there, is not waited for at a stop, however long that may take,
/// and is there at the next start.
#[test]
fn a_stop_does_not_wait_for_what_cannot_go() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let begin = |sim: &Sim| start(dir.path(), sim, "drain_timeout = \"1h\"", "allow = [\"known\"]");
    let mut bridge = begin(&sim);
    publish(&bridge, "known", 0..3);
    publish(&bridge, "stranger", 0..3);
    until_arrived(&sim, "known", &[0, 1, 2]);
    until("on the shelf", PATIENCE, || (listed(dir.path())["stranger"]["shelved"] == 3).then_some(()));
    signal(&bridge.process, rustix::process::Signal::TERM);
    assert_eq!(until("the end", PATIENCE, || bridge.process.exit_code()), 0);
    drop(bridge);

    let mut bridge = begin(&sim);
    until("on the shelf", PATIENCE, || (listed(dir.path()).get("stranger")?["shelved"] == 3).then_some(()));
    sim.process.kill();
    publish(&bridge, "known", 3..6);
    until("a hub that is not there", PATIENCE, || listed(dir.path())["known"]["trouble"].as_str().map(|_| ()));
    signal(&bridge.process, rustix::process::Signal::TERM);
    assert_eq!(until("the end", PATIENCE, || bridge.process.exit_code()), 0);
    drop(bridge);
    let bridge = begin(&sim);
    assert_eq!(bridge.metric("brownbridge_spool_messages"), 3.0);
}

fn queue(dir: &Path, args: &[&str]) -> String {
    let out =
        Command::new(BINARY).arg("queue").args(args).arg("--config").arg(dir.join("bridge.toml")).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn an_operator_sees_and_drops_what_is_on_shelves() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let bridge = start(dir.path(), &sim, "", "allow = [\"nobody\"]");
    for device in ["a", "b"] {
        publish(&bridge, device, 0..100);
    }
    until("on shelves", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 200.0).then_some(()));
    let shown: Vec<Value> =
        serde_json::from_str(&queue(dir.path(), &["peek", "--device", "a", "--first", "3", "--json"])).unwrap();
    let bodies: Vec<_> =
        shown.iter().map(|one| (one["device"].as_str().unwrap(), one["payload"].as_str().unwrap())).collect();
    assert_eq!(bodies, [("a", "0"), ("a", "1"), ("a", "2")]);
    for (args, dropped, left) in [
        (vec!["drop", "--device", "a", "--first", "30", "--yes"], 30, 170.0),
        (vec!["drop", "--device", "a", "--older-than", "1h", "--yes"], 0, 170.0),
        (vec!["drop", "--device", "a", "--yes"], 70, 100.0),
        (vec!["drop", "--device", "a", "--yes"], 0, 100.0),
    ] {
        assert_eq!(queue(dir.path(), &args), format!("{dropped} messages dropped\n"), "{args:?}");
        assert_eq!(bridge.metric("brownbridge_shelf_messages"), left, "{args:?}");
    }
    assert!(bridge.get("/metrics").contains("messages_shed_total{reason=\"operator\"} 100"));
    assert_conserved(&bridge);
    assert_ledger(&bridge, 0, 200);
    assert_eq!(devices(dir.path(), &["approve", "a", "b"]).0, 0);
    until_arrived(&sim, "b", &(0..100).collect::<Vec<_>>());
    publish(&bridge, "a", 100..101);
    until_arrived(&sim, "a", &[100]);
    publish(&bridge, "c", 0..5);
    until("on its shelf", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 5.0).then_some(()));
    assert_eq!(queue(dir.path(), &["drop", "--all", "--yes"]), "5 messages dropped\n");
    assert_conserved(&bridge);
}

/// What a refused device has goes over the bridge's own line: an operator drops what waits there, and not what is on its way.
#[test]
fn an_operator_drops_what_waits_in_the_bridges_own_line() {
    let dir = folder();
    let file = dir.path().join("ids");
    fs::write(&file, "!bad\n").unwrap();
    let args = ["--device-file", file.to_str().unwrap(), "--puback-delay", "15000"];
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &args);
    let bridge = start(dir.path(), &sim, "window = 16", "allow = [\"nobody\"]\nwhen_refused = \"gateway\"");
    publish(&bridge, "bad", 0..200);
    until("on its shelf", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 200.0).then_some(()));
    assert_eq!(devices(dir.path(), &["approve", "bad"]).0, 0);
    // As many as may be in flight; the rest waits behind them.
    until("some are on their way", PATIENCE, || (sim.received().len() == 16).then_some(()));
    assert_eq!(queue(dir.path(), &["drop", "--device", "bad", "--yes"]), "184 messages dropped\n");
    until("the rest is acknowledged", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 0.0).then_some(()));
    assert_eq!(sim.received().len(), 16, "nothing that was dropped is sent");
    assert_conserved(&bridge);
}

/// A denied device is swept into the quarantine; who approves it meanwhile stops that, and the rest goes up in order.
#[test]
fn an_approval_stops_a_sweep() {
    let dir = folder();
    let file = dir.path().join("ids");
    fs::write(&file, "!bad\n").unwrap();
    // The sweep goes over the bridge's own line, which has room for 2,048 messages and gets no acknowledgement meanwhile.
    let sim = Sim::start(
        &dir.path().join("hub"),
        free_port(),
        &["--puback-delay", "20000", "--device-file", file.to_str().unwrap()],
    );
    let more = "allow = [\"good\"]\nwhen_refused = \"gateway\"";
    let bridge = start(dir.path(), &sim, "drain_timeout = \"1s\"", more);
    // Held, it fills its shelf; allowed and refused, it is swept.
    publish(&bridge, "bad", 0..3_000);
    until("on its shelf", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 3_000.0).then_some(()));
    assert_eq!(devices(dir.path(), &["approve", "bad"]).0, 0);
    publish(&bridge, "good", 0..1);
    until_arrived(&sim, "good", &[0]);
    let by_gateway = || sim.received().iter().filter(|message| message["properties"]["device"] == "bad").count();
    until("the sweep has begun", PATIENCE, || (by_gateway() > 0).then_some(()));
    register(&sim, &file, "");
    assert_eq!(devices(dir.path(), &["approve", "bad"]).0, 0);
    let own_line = until("its own line", PATIENCE, || arrived(&sim, "bad").first().copied());
    assert!((1..=2_048).contains(&own_line), "the sweep took {own_line} messages and no more");
    assert!(arrived(&sim, "bad").is_sorted());
}

/// The simulator's key of a device.
fn key_of(sim: &Sim, device: &str) -> String {
    let master = fs::read_to_string(sim.dir.join("master.key")).unwrap();
    let master = brownbridge::hub::sas::Key::parse(master.trim()).unwrap();
    master.derive(device).expose().to_owned()
}

fn successful(bridge: &Bridge, value: f64) {
    until("the files are looked at", PATIENCE, || {
        (bridge.metric("brownbridge_config_last_reload_successful") == value).then_some(())
    });
}

#[test]
fn the_table_and_the_patterns_are_taken_up_when_they_change() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let table = |rows: &[(&str, &str)]| {
        let rows: String = rows.iter().map(|(id, key)| format!("{id},{key}\n")).collect();
        fs::write(dir.path().join("devices.csv"), format!("id,key\n{rows}")).unwrap();
    };
    let keys: HashMap<&str, String> = ["a", "b", "c"].map(|id| (id, key_of(&sim, id))).into();
    table(&[("a", &keys["a"]), ("b", &keys["b"])]);
    let bridge = start(dir.path(), &sim, "", "table = \"devices.csv\"\nallow = [\"press-*\"]");
    for device in ["a", "b"] {
        publish(&bridge, device, 0..3);
        until_arrived(&sim, device, &[0, 1, 2]);
    }
    for device in ["c", "line-1"] {
        publish(&bridge, device, 0..3);
        until_state(dir.path(), device, "held");
    }
    // One comes, one goes.
    table(&[("a", &keys["a"]), ("c", &keys["c"])]);
    until_arrived(&sim, "c", &[0, 1, 2]);
    let gone = until_state(dir.path(), "b", "held");
    assert!(gone["trouble"].as_str().unwrap().contains("taken out of the devices table"), "{gone}");
    publish(&bridge, "b", 3..5);
    until("it waits for a word", PATIENCE, || (listed(dir.path())["b"]["shelved"] == 2).then_some(()));
    // A table with a mistake changes nothing, and neither does an empty one.
    for text in ["id,kye\na,b\n", "id,key\n"] {
        fs::write(dir.path().join("devices.csv"), text).unwrap();
        successful(&bridge, 0.0);
        publish(&bridge, "a", 3..4);
        table(&[("a", &keys["a"]), ("c", &keys["c"])]);
        successful(&bridge, 1.0);
    }
    until_arrived(&sim, "a", &[0, 1, 2, 3, 3]);
    // Another key connects anew: the wrong one is refused, the right one let in.
    table(&[("a", &keys["b"]), ("c", &keys["c"])]);
    until_state(dir.path(), "a", "idle");
    publish(&bridge, "a", 4..6);
    until_state(dir.path(), "a", "refused");
    table(&[("a", &keys["a"]), ("c", &keys["c"])]);
    until_arrived(&sim, "a", &[0, 1, 2, 3, 3, 4, 5]);
    // A pattern in bridge.toml, and it is no reason for a restart.
    let config = fs::read_to_string(dir.path().join("bridge.toml")).unwrap();
    fs::write(dir.path().join("bridge.toml"), config.replace("\"press-*\"", "\"press-*\", \"line-*\"")).unwrap();
    signal(&bridge.process, rustix::process::Signal::HUP);
    until_arrived(&sim, "line-1", &[0, 1, 2]);
    let log = fs::read_to_string(&bridge.log).unwrap();
    assert!(!log.contains("read at start only"), "{log}");
    assert!(!keys.values().any(|key| log.contains(key)), "a key is in the log: {log}");
    assert_conserved(&bridge);
}

/// What a device leaves that is taken out of the table goes where the messages of refused ones go.
#[test]
fn what_a_removed_device_leaves_goes_as_configured() {
    for policy in ["wait", "gateway", "quarantine"] {
        let dir = folder();
        // What is sent is not acknowledged before the device is gone.
        let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--puback-delay", "20000"]);
        fs::write(dir.path().join("devices.csv"), "id\na\nb\n").unwrap();
        let more = format!("table = \"devices.csv\"\nwhen_refused = \"{policy}\"");
        let bridge = start(dir.path(), &sim, "drain_timeout = \"1s\"", &more);
        for device in ["a", "b"] {
            publish(&bridge, device, 0..20);
            until_arrived(&sim, device, &(0..20).collect::<Vec<_>>());
        }
        fs::write(dir.path().join("devices.csv"), "id\na\n").unwrap();
        signal(&bridge.process, rustix::process::Signal::HUP);
        until_state(dir.path(), "b", "held");
        let of_b = |message: &Value| message["properties"]["device"] == "b";
        until(policy, PATIENCE, || {
            let there = match policy {
                "wait" => listed(dir.path())["b"]["shelved"] == 20,
                "gateway" => sim.received().iter().filter(|message| of_b(message)).count() == 20,
                _ => quarantined(dir.path()).iter().filter(|entry| entry["reason"] == "device_refused").count() == 20,
            };
            there.then_some(())
        });
        // From then on it is a stranger.
        publish(&bridge, "b", 20..25);
        let waiting = if policy == "wait" { 25 } else { 5 };
        until("held", PATIENCE, || (listed(dir.path())["b"]["shelved"] == waiting).then_some(()));
    }
}

/// The certificates of devices, in a folder and in a table, and what is told of each.
#[test]
fn check_tells_what_a_hub_refuses_in_the_certificates_of_devices() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
    let dir = folder();
    let path = dir.path().join("certificates");
    for folder in ["certificates", "rules"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::write(dir.path().join("rules/1.toml"), RULES).unwrap();
    let named = |name: &str, years: (i32, i32)| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        params
    };
    let (now, over, to_come) = ((2020, 4000), (2020, 2021), (3999, 4000));
    let mut ca = named("plant root", now);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let issuer = Issuer::new(ca, KeyPair::generate().unwrap());
    let write = |id: &str, name: &str, years| {
        let key = KeyPair::generate().unwrap();
        let leaf = named(name, years).signed_by(&key, &issuer).unwrap().pem();
        fs::write(path.join(format!("{id}.pem")), format!("{leaf}{root}")).unwrap();
        fs::write(path.join(format!("{id}.key")), key.serialize_pem()).unwrap();
        (leaf, key.serialize_pem())
    };
    let head = "[uplink]\nidentity = \"per-device\"\n\
        connection_string = \"HostName=h.example;DeviceId=g;SharedAccessKey=a2V5\"\n[uplink.devices]\nallow = [\"*\"]\n";
    let folder = "certificates = \"certificates\"\n";
    let table = "table = \"devices.toml\"\n";
    fs::write(
        dir.path().join("devices.toml"),
        "[[device]]\nid = \"a\"\ncertificate = \"certificates/a.pem\"\ncertificate_key = \"certificates/a.key\"\n",
    )
    .unwrap();
    let check = |devices: &str| {
        fs::write(dir.path().join("bridge.toml"), format!("{head}{devices}")).unwrap();
        let out = Command::new(BINARY).arg("check").arg(dir.path().join("bridge.toml")).output().unwrap();
        let told = String::from_utf8(out.stderr).unwrap() + &String::from_utf8(out.stdout).unwrap();
        assert!(!told.contains("PRIVATE"), "{told}");
        (out.status.code().unwrap(), told)
    };
    for devices in [folder, table] {
        let place = if devices == table { "devices.toml:3" } else { "bridge.toml:6" };
        for (case, years, name, expect, code) in [
            ("sound", now, "a", "", 0),
            ("over", over, "a", "a.pem: the certificate has expired", 1),
            ("to come", to_come, "a", "a.pem: the certificate is good from 3999-01-01", 1),
            ("of another", now, "b", "a.pem: the certificate is for \"b\", and the device is \"a\"", 0),
            ("turned round", now, "a", "the device's own certificate is number 2 and must be first", 1),
            ("of another key", now, "a", "the key is not the one of the certificate", 1),
        ] {
            let (leaf, _) = write("a", name, years);
            match case {
                "turned round" => fs::write(path.join("a.pem"), format!("{root}{leaf}")).unwrap(),
                "of another key" => {
                    fs::write(path.join("a.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
                }
                _ => {}
            }
            let (status, told) = check(devices);
            assert!(told.contains(expect) && status == code, "{case}: {status} {told}");
            assert_eq!(told.contains(place), !expect.is_empty(), "{case}: {told}");
        }
    }
    (0..30).for_each(|n| drop(write(&format!("d-{n:02}"), &format!("d-{n:02}"), over)));
    write("a", "a", now);
    let (_, told) = check(folder);
    assert_eq!(told.matches("has expired").count(), 20, "{told}");
    assert!(told.contains("10 more findings in certificates are not told"), "{told}");
}

#[test]
fn check_tells_mistakes_with_their_places_and_shows_no_key() {
    const KEY: &str = "dGhlIHNlY3JldCBrZXkgb2YgYSBkZXZpY2U=";
    let dir = folder();
    fs::create_dir_all(dir.path().join("rules")).unwrap();
    fs::write(dir.path().join("rules/1.toml"), RULES).unwrap();
    fs::write(dir.path().join("c.pem"), "no certificate").unwrap();
    let head = format!(
        "[uplink]\nidentity = \"per-device\"\nconnection_string = \"HostName=h.example;DeviceId=g;SharedAccessKey={KEY}\"\n\
         [uplink.devices]\n"
    );
    let table = |name: &str| format!("table = \"{name}\"");
    for (name, text, devices, expect) in [
        ("d.csv", format!("id,key\na,{KEY}\na,{KEY}\n"), table("d.csv"), "the device \"a\" is there twice"),
        ("d.csv", format!("id,kye\na,{KEY}\n"), table("d.csv"), "help: did you mean"),
        ("d.toml", format!("[[device]]\nid = \"a b\"\nkey = \"{KEY}\"\n"), table("d.toml"), "is no device id"),
        ("d.toml", format!("[[device]]\nid = \"a\"\nkey = \"{KEY}!\"\n"), table("d.toml"), "the key is not base64"),
        (
            "d.toml",
            "[[device]]\nid = \"a\"\ncertificate = \"c.pem\"\ncertificate_key = \"c.pem\"\n".to_owned(),
            table("d.toml"),
            "there is no certificate in it",
        ),
        ("x", String::new(), table("nowhere.toml"), "cannot read"),
        ("x", String::new(), format!("group_key = \"{KEY}!\""), "the key is not base64"),
        ("x", String::new(), "certificates = \"nowhere\"".to_owned(), "is no folder"),
        ("x", String::new(), format!("group_key = \"{KEY}\""), "every device will be held"),
        ("x", String::new(), String::new(), "what should devices connect with?"),
    ] {
        fs::write(dir.path().join(name), &text).unwrap();
        fs::write(dir.path().join("bridge.toml"), format!("{head}{devices}\n")).unwrap();
        let out = Command::new(BINARY).arg("check").arg(dir.path().join("bridge.toml")).output().unwrap();
        let told = String::from_utf8(out.stderr).unwrap() + &String::from_utf8(out.stdout).unwrap();
        assert!(told.contains(expect), "{text}{devices}\n{told}");
        assert!(!told.contains("dGhlIHNl"), "a key is shown:\n{told}");
        assert_eq!(out.status.code(), Some(i32::from(!expect.contains("held"))), "{told}");
    }
}
