//! The real program finds the hub of each device through the Device Provisioning Service.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use support::site::{HUBS, SCOPE, Site, chain};
use support::{BINARY, Bridge, PATIENCE, assert_conserved, folder, free_port, publish_all, until};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER: &str = "YW5vdGhlciBrZXkgb2YgYW4gaW5kaXZpZHVhbCBvbmU=";

/// `[uplink]` of a bridge with devices; the bridge itself is `gw` of the group.
fn devices(more: &str) -> String {
    format!("identity = \"per-device\"\n[uplink.devices]\n{more}")
}

fn own() -> String {
    format!("registration_id = \"gw\"\ngroup_key = \"{KEY}\"\nask_again_after = \"300ms\"")
}

fn plan(enrolments: &str) -> String {
    format!("{HUBS}[[enrolment]]\ngroup = \"line-1\"\nkey_file = \"group.key\"\nhub = \"hub-b.example\"\n{enrolments}")
}

/// A site whose folder has the keys.
fn site(dir: &Path, port: u16, enrolments: &str) -> Site {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("group.key"), KEY).unwrap();
    fs::write(dir.join("single.key"), OTHER).unwrap();
    Site::start(dir, port, &plan(enrolments))
}

/// Where the messages of each device arrived, and which, each once.
fn arrived(site: &Site) -> BTreeMap<(String, String), Vec<u32>> {
    let (mut arrived, mut seen) = (BTreeMap::<_, Vec<u32>>::new(), BTreeSet::new());
    for message in site.received() {
        if seen.insert(message["system"]["message-id"].as_str().unwrap().to_owned()) {
            let text = |name: &str| message[name].as_str().unwrap().to_owned();
            let number = text("body").parse().unwrap();
            arrived.entry((text("hub"), text("device"))).or_default().push(number);
        }
    }
    arrived
}

fn until_arrived(site: &Site, hub: &str, device: &str, numbers: std::ops::Range<u32>) {
    let (at, mut last) = ((hub.to_owned(), device.to_owned()), Vec::new());
    until(&format!("{numbers:?} of {device} at {hub}"), PATIENCE, || {
        last = arrived(site).remove(&at).unwrap_or_default();
        (last.len() >= numbers.len()).then_some(())
    });
    assert!(last.iter().copied().eq(numbers), "{device}: {last:?}");
}

fn publish(bridge: &Bridge, device: &str, numbers: std::ops::Range<u32>) {
    let payloads: Vec<String> = numbers.map(|n| n.to_string()).collect();
    publish_all(bridge.mqtt, &format!("t/{device}"), payloads.iter().map(String::as_str));
}

fn show(dir: &Path, device: &str) -> String {
    let out = Command::new(BINARY).args(["devices", "show", device, "--config"]).arg(dir.join("bridge.toml")).output();
    String::from_utf8(out.unwrap().stdout).unwrap()
}

fn explain(dir: &Path, device: &str) -> String {
    let mut out = Command::new(BINARY);
    out.arg("explain").arg(format!("t/{device}")).arg("--config").arg(dir.join("bridge.toml"));
    String::from_utf8(out.output().unwrap().stdout).unwrap()
}

fn registrations(bridge: &Bridge) -> f64 {
    bridge.metric("brownbridge_dps_registrations_total")
}

/// Three devices at two hubs, the program killed in between: what the service has told is not asked
/// for again, and nothing is lost.
#[test]
fn devices_find_their_hubs_and_keep_them_over_a_crash() {
    let dir = folder();
    let single = "[[enrolment]]\nid = \"press-3\"\nkey_file = \"single.key\"\ndevice = \"Press3\"\n";
    let site = site(&dir.path().join("site"), free_port(), single);
    let state = dir.path().join("bridge");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("devices.csv"), format!("id,key\npress-3,{OTHER}\npress-1,\n")).unwrap();
    let uplink = devices("table = \"devices.csv\"\nallow = [\"Press-2\"]");
    let mut bridge = site.bridge(&state, &uplink, &own());
    let places = [
        ("press-1", "hub-b.example", "press-1"),
        ("Press-2", "hub-b.example", "press-2"),
        ("press-3", "hub-a.example", "Press3"),
    ];
    for round in 0..3 {
        for (device, hub, there) in places {
            publish(&bridge, device, round * 20..(round + 1) * 20);
            until_arrived(&site, hub, there, 0..(round + 1) * 20);
        }
        assert_eq!(registrations(&bridge), if round == 0 { 3.0 } else { 0.0 }, "round {round}: each device once");
        bridge.process.kill();
        bridge = site.bridge(&state, &uplink, &own());
    }
    let kept = fs::read_to_string(state.join("state/assignments/devices.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 3, "{kept}");
    assert!(!kept.contains(KEY) && !kept.contains(OTHER), "{kept}");
    publish(&bridge, "press-3", 60..61);
    until_arrived(&site, "hub-a.example", "Press3", 0..61);
    let told = show(&state, "press-3");
    for expect in [
        "press-3: connected",
        "it is in the devices table",
        "its key in the devices table",
        "hub-a.example, as the provisioning",
        "there      Press3, the id",
    ] {
        assert!(told.contains(expect), "{told}");
    }
    for (device, expects) in [
        (
            "press-3",
            [
                "devices/Press3/messages/events/",
                "device      press-3\n",
                "its own, allowed: it is in the devices table",
                "hub-a.example, as",
                "there       Press3, the id",
            ],
        ),
        (
            "press-1",
            [
                "devices/press-1/messages/events/",
                "device      press-1\n",
                "its own, allowed: ",
                "a key derived from the group key",
                "hub-b.example, as",
            ],
        ),
        (
            "press-9",
            [
                "devices/press-9/messages/events/",
                "device      press-9\n",
                "its own, held: it is neither",
                "a key derived from the group key",
                "not known yet",
            ],
        ),
    ] {
        let told = explain(&state, device);
        assert!(expects.into_iter().all(|expect| told.contains(expect)), "{told}");
    }
    until("the books at rest", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert_eq!(bridge.process.terminate(), Some(0));
    let log = fs::read_to_string(&bridge.log).unwrap();
    assert!(!log.contains("MDEyMz") && !log.contains("SharedAccessSignature"), "{log}");
}

#[test]
fn a_device_that_moves_is_followed_alone() {
    let dir = folder();
    let (port, folder) = (free_port(), dir.path().join("site"));
    let at = |hub: &str| format!("[[enrolment]]\nid = \"press-3\"\nkey_file = \"single.key\"\nhub = \"{hub}\"\n");
    let mut first = site(&folder, port, &at("hub-a.example"));
    let state = dir.path().join("bridge");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("devices.csv"), format!("id,key\npress-3,{OTHER}\n")).unwrap();
    let bridge = first.bridge(&state, &devices("table = \"devices.csv\"\nallow = [\"press-1\"]"), &own());
    for (device, hub) in [("press-3", "hub-a.example"), ("press-1", "hub-b.example")] {
        publish(&bridge, device, 0..10);
        until_arrived(&first, hub, device, 0..10);
    }
    assert_eq!(first.process.terminate(), Some(0));
    let second = site(&folder, port, &at("hub-b.example"));
    publish(&bridge, "press-3", 10..200);
    // The simulator has forgotten all it has assigned: who comes back registers again, wherever it is sent.
    until_arrived(&second, "hub-b.example", "press-3", 10..200);
    let log = || fs::read_to_string(&bridge.log).unwrap();
    assert!(log().contains("press-3 moves from hub-a.example to device press-3 at hub-b.example"), "{}", log());
    publish(&bridge, "press-1", 10..20);
    until_arrived(&second, "hub-b.example", "press-1", 0..20);
    assert!(!log().contains("press-1 moves"), "{}", log());
}

#[test]
fn a_device_without_a_hub_waits_alone_and_is_told_why() {
    let dir = folder();
    let [root, leaf, key] = chain(&dir.path().join("chain"), "x-1");
    let enrolments = format!(
        "[[enrolment]]\nid = \"off\"\nkey_file = \"single.key\"\ndisabled = true\n\
         [[enrolment]]\nid = \"sad\"\nkey_file = \"single.key\"\nfails = true\n\
         [[enrolment]]\ngroup = \"line-2\"\nx509 = true\nca = {root:?}\n"
    );
    let site = site(&dir.path().join("site"), free_port(), &enrolments);
    let state = dir.path().join("bridge");
    let certificates = state.join("certificates");
    fs::create_dir_all(&certificates).unwrap();
    for device in ["x-1", "x-2"] {
        fs::copy(&leaf, certificates.join(format!("{device}.pem"))).unwrap();
        fs::copy(&key, certificates.join(format!("{device}.key"))).unwrap();
    }
    let table = format!("id,key\noff,{OTHER}\nsad,{OTHER}\nwrong,{OTHER}\nx-1,\nx-2,\n");
    fs::write(state.join("devices.csv"), table).unwrap();
    let uplink = devices(
        "table = \"devices.csv\"\ncertificates = \"certificates\"\nallow = [\"good\", \"a$b\"]\nwhen_refused = \"quarantine\"",
    );
    let bridge = site.bridge(&state, &uplink, &own());
    publish(&bridge, "good", 0..3);
    publish(&bridge, "x-1", 0..3);
    until_arrived(&site, "hub-b.example", "good", 0..3);
    until_arrived(&site, "hub-a.example", "x-1", 0..3);
    let rows = [
        ("off", "the enrolment of this device is disabled"),
        ("sad", "no hub to assign"),
        ("wrong", "the proof of identity is wrong"),
        ("x-2", "its certificate is for \"x-1\""),
        ("a$b", "cannot be registered with the provisioning service under its id"),
    ];
    for (device, words) in rows {
        publish(&bridge, device, 0..2);
        until(words, PATIENCE, || {
            let told = show(&state, device);
            (told.contains(": refused") && told.contains(words) && told.contains("next try")).then_some(())
        });
    }
    let quarantine = || support::quarantined(&state);
    until("all in the quarantine", PATIENCE, || (quarantine().len() == 2 * rows.len()).then_some(()));
    assert!(quarantine().iter().all(|entry| entry["reason"] == "device_refused"));
    publish(&bridge, "good", 3..6);
    until_arrived(&site, "hub-b.example", "good", 0..6);
    assert_conserved(&bridge);
}

/// The service is away: that says nothing about any device. Those that are known go on, the others wait for it.
#[test]
fn without_the_service_known_devices_go_on_and_new_ones_wait() {
    let dir = folder();
    let site = site(&dir.path().join("site"), free_port(), "");
    let state = dir.path().join("bridge");
    let uplink = devices("allow = [\"*\"]\nwhen_refused = \"quarantine\"");
    let mut bridge = site.bridge(&state, &uplink, &own());
    publish(&bridge, "known", 0..10);
    until_arrived(&site, "hub-b.example", "known", 0..10);
    assert_eq!(bridge.process.terminate(), Some(0));
    let text = fs::read_to_string(state.join("bridge.toml")).unwrap();
    let away = text.replace(
        &format!("id_scope = \"{SCOPE}\"\naddress = \"127.0.0.1:{}\"", site.port),
        &format!("id_scope = \"{SCOPE}\"\naddress = \"127.0.0.1:{}\"", free_port()),
    );
    assert_ne!(text, away);
    let mut bridge = Bridge::with_config(&state, &away, (bridge.mqtt.port(), bridge.admin.port()));
    publish(&bridge, "new", 0..10);
    publish(&bridge, "known", 10..20);
    until_arrived(&site, "hub-b.example", "known", 0..20);
    until("all on its shelf", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 10.0).then_some(()));
    let told = show(&state, "new");
    assert!(told.contains("cannot be reached") && told.contains("not known yet"), "{told}");
    assert!(support::quarantined(&state).is_empty());
    assert_eq!(bridge.process.terminate(), Some(0));
    let bridge = Bridge::with_config(&state, &text, (bridge.mqtt.port(), bridge.admin.port()));
    until_arrived(&site, "hub-b.example", "new", 0..10);
    until("the books at rest", PATIENCE, || (bridge.metric("brownbridge_shelf_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
}

/// A key that is put right while its device waits for its turn to register: the wrong one is not tried any more.
#[test]
fn a_key_that_changes_while_its_device_registers_is_the_one_it_registers_with() {
    let dir = folder();
    let single = "[[enrolment]]\nid = \"press-3\"\nkey_file = \"single.key\"\n";
    let site = site(&dir.path().join("site"), free_port(), single);
    let state = dir.path().join("bridge");
    fs::create_dir_all(&state).unwrap();
    let table = |key: &str| fs::write(state.join("devices.csv"), format!("id,key\npress-3,{key}\n")).unwrap();
    table(KEY);
    let uplink = devices("table = \"devices.csv\"\nallow = [\"d-*\"]\nwhen_refused = \"quarantine\"");
    // Twelve others are before it, a second each.
    let bridge = site.bridge(&state, &uplink, &format!("{}\nregistrations_per_minute = 60", own()));
    for device in 0..12 {
        publish(&bridge, &format!("d-{device}"), 0..1);
    }
    publish(&bridge, "press-3", 0..5);
    until("it registers", PATIENCE, || show(&state, "press-3").contains(": registering").then_some(()));
    table(OTHER);
    let pid = rustix::process::Pid::from_raw(bridge.process.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until_arrived(&site, "hub-a.example", "press-3", 0..5);
    assert_eq!(registrations(&bridge), 13.0, "each once, and none that was refused");
    assert!(support::quarantined(&state).is_empty());
    assert_conserved(&bridge);
}

/// The bridge itself has a connection string, and the devices have the service.
#[test]
fn a_connection_string_beside_the_service_is_the_bridge_itself() {
    let dir = folder();
    let site = site(&dir.path().join("site"), free_port(), "");
    let state = dir.path().join("bridge");
    let string = format!("HostName=hub-a.example;DeviceId=gw;SharedAccessKey={OTHER}");
    let uplink = format!("connection_string = \"{string}\"\n{}", devices("allow = [\"*\"]"));
    let bridge = site.bridge(&state, &uplink, &format!("group_key = \"{KEY}\"\nregistrations_per_minute = 6000"));
    for device in 0..20 {
        publish(&bridge, &format!("d-{device}"), 0..2);
    }
    for device in 0..20 {
        until_arrived(&site, "hub-b.example", &format!("d-{device}"), 0..2);
    }
    assert_eq!(registrations(&bridge), 20.0, "each once");
}

/// A device registers by hand with what the bridge has for it, and the program says what that is.
#[test]
fn a_device_is_enrolled_by_hand_as_the_bridge_would() {
    let dir = folder();
    let [root, leaf, key] = chain(&dir.path().join("chain"), "x-1");
    let enrolments = format!(
        "[[enrolment]]\nid = \"press-3\"\nkey_file = \"single.key\"\ndevice = \"Press3\"\n\
         [[enrolment]]\ngroup = \"line-2\"\nx509 = true\nca = {root:?}\n"
    );
    let site = site(&dir.path().join("site"), free_port(), &enrolments);
    let state = dir.path().join("bridge");
    let certificates = state.join("certificates");
    fs::create_dir_all(&certificates).unwrap();
    for (from, name) in [(&leaf, "x-1.pem"), (&key, "x-1.key"), (&leaf, "x-2.pem"), (&key, "x-2.key")] {
        fs::copy(from, certificates.join(name)).unwrap();
    }
    let string = format!("HostName=h.example;DeviceId=fixed;SharedAccessKey={OTHER}");
    let table = format!(
        "[[device]]\nid = \"press-3\"\nkey = \"{OTHER}\"\n\
         [[device]]\nid = \"fixed\"\nconnection_string = \"{string}\"\n"
    );
    fs::write(state.join("devices.toml"), table).unwrap();
    let known = "table = \"devices.toml\"\ncertificates = \"certificates\"\nallow = [\"press-*\"]";
    fs::write(state.join("bridge.toml"), site.config(&devices(known), &own(), (1, 2))).unwrap();
    for (args, code, out, err) in [
        (&[][..], 0, "gw is device gw at hub-b.example", "gw in ID scope 0ne00000A0A, with a key\n"),
        (&["gw"], 0, "gw is device gw at hub-b.example", "gw in ID scope 0ne00000A0A, with a key\n"),
        (&["press-3"], 0, "press-3 is device Press3 at hub-a.example", "with its key in the devices table\n"),
        (&["Press-4"], 0, "press-4 is device press-4 at hub-b.example", "with a key derived from the group key\n"),
        (&["x-1"], 0, "x-1 is device x-1 at hub-a.example", "with its certificate in the folder of certificates\n"),
        (&["x-2"], 2, "", "its certificate is for \"x-1\""),
        (&["fixed"], 2, "", "its connection string says which hub it is"),
        (&["press-4", "--save"], 2, "", "--save is for the bridge itself"),
        (&["press-3", "--json"], 0, "\"device\":\"Press3\"", "answered: 200\n"),
    ] {
        let run = Command::new(BINARY).arg("enrol").args(args).arg("--config").arg(state.join("bridge.toml")).output();
        let run = run.unwrap();
        let [told, steps] = [&run.stdout, &run.stderr].map(|text| String::from_utf8(text.clone()).unwrap());
        assert_eq!(run.status.code(), Some(code), "{args:?}\n{told}\n{steps}");
        assert!(told.contains(out) && steps.contains(err), "{args:?}\n{told}\n{steps}");
        assert!(!steps.contains(OTHER) && !told.contains(OTHER) && !steps.contains(KEY), "{args:?}");
    }
}

/// The hub of three devices is deleted, its name with it. While the names are away altogether, nobody is asked.
#[test]
fn devices_whose_hub_is_deleted_are_led_to_another() {
    let dir = folder();
    let site = site(&dir.path().join("site"), free_port(), "");
    for (name, service, asked) in [("gone", None, true), ("outage", Some("no-such-service.invalid:443"), false)] {
        let state = dir.path().join(name);
        fs::create_dir_all(state.join("rules")).unwrap();
        fs::create_dir_all(state.join("state/assignments")).unwrap();
        fs::write(state.join("rules/1.toml"), support::site::RULES).unwrap();
        let line = |id: &str| {
            format!(
                "{{\"scope\":\"{SCOPE}\",\"registration\":\"{id}\",\"hub\":\"deleted.invalid\",\"device\":\"{id}\",\
                 \"at\":\"2026-01-01T00:00:00Z\"}}\n"
            )
        };
        let ids = ["d-1", "d-2", "d-3"];
        fs::write(state.join("state/assignments/devices.jsonl"), ids.map(line).concat()).unwrap();
        let ports = (free_port(), free_port());
        let place = format!("address = \"127.0.0.1:{}\"\n", site.port);
        // The hubs have no address of their own here: it is their names that lead to them.
        let config = site.config(&devices("allow = [\"*\"]"), &own(), ports).replacen(&place, "", 1);
        let config =
            service.map_or(config.clone(), |service| config.replace(&place, &format!("address = \"{service}\"\n")));
        let bridge = Bridge::with_config(&state, &config, ports);
        ids.iter().for_each(|id| publish(&bridge, id, 0..3));
        let log = || fs::read_to_string(&bridge.log).unwrap();
        if asked {
            for id in ids {
                let told = format!("{id} moves from deleted.invalid to device {id} at hub-b.example");
                until(&told, PATIENCE, || log().contains(&told).then_some(()));
            }
            assert_eq!(log().matches("the name deleted.invalid is not there any more").count(), 1, "one look for all");
            assert!(show(&state, "d-1").contains("hub-b.example, as the provisioning"));
        } else {
            // Long past `ask_again_after`: each attempt is 50 ms and more after the one before.
            let failures = "brownbridge_uplink_reconnects_total{reason=\"network\"}";
            until("sixty attempts", PATIENCE, || (bridge.metric(failures) >= 60.0).then_some(()));
            assert!(!log().contains("moves from") && !log().contains("is not there any more"), "{}", log());
            assert!(show(&state, "d-1").contains("deleted.invalid, as the provisioning"));
        }
    }
}
