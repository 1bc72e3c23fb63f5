//! The real program finds its hub through the Device Provisioning Service, and what happens when that moves it, refuses
//! it, or is not there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

#[path = "support/proxy.rs"]
mod proxy;
mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::clock::Clock;
use support::site::{HUBS, RULES, Site, chain};
use support::{
    BINARY, Bridge, PATIENCE, assert_conserved, assert_nothing_missing, folder, free_port, publish_all, until,
};

/// Everything is acknowledged, and the books say so.
fn drained(bridge: &Bridge) {
    until("drained", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(bridge);
}

#[test]
fn a_bridge_finds_its_hub_by_key_and_by_certificate() {
    let dir = folder();
    let [root, leaf, leaf_key] = chain(&dir.path().join("chain"), "Press-7");
    let site = dir.path().join("site");
    fs::create_dir_all(&site).unwrap();
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    fs::write(site.join("press-4.key"), key).unwrap();
    fs::write(site.join("group.key"), key).unwrap();
    let plan = format!(
        "assigning = 2\n{HUBS}\
         [[enrolment]]\nid = \"press-4\"\nkey_file = \"press-4.key\"\ndevice = \"Press4\"\n\
         [[enrolment]]\ngroup = \"line-1\"\nkey_file = \"group.key\"\nhub = \"hub-b.example\"\n\
         [[enrolment]]\nid = \"press-6\"\nx509 = true\n\
         [[enrolment]]\ngroup = \"line-2\"\nx509 = true\nca = {root:?}\nhub = \"hub-b.example\"\n"
    );
    let site = Site::start(&site, free_port(), &plan);
    let own = site.dir.join("press-6.pem");
    until("the certificate is written", PATIENCE, || own.exists().then_some(()));
    let certificate = |pem: &Path, key: &Path| format!("certificate = {pem:?}\nkey = {key:?}");
    let own = certificate(&own, &site.dir.join("press-6.key"));
    let group = certificate(&leaf, &leaf_key);
    let single = format!("registration_id = \"Press-4\"\nsymmetric_key = \"{key}\"\npayload = '{{\"site\":1}}'");
    let any = format!("registration_id = \"press-99\"\ngroup_key = \"{key}\"");
    let rows = [
        ("a key of its own", "", single, ("hub-a.example", "Press4")),
        ("the key of a group", "", any, ("hub-b.example", "press-99")),
        ("a certificate of its own", &own, String::new(), ("hub-a.example", "press-6")),
        ("a certificate of a group, with its chain", &group, String::new(), ("hub-b.example", "press-7")),
    ];
    let mut messages = 0;
    for (name, uplink, dps, (hub, device)) in &rows {
        for transport in ["rest", "mqtt", "websocket"] {
            let dir = dir.path().join(format!("{}-{transport}", name.replace(' ', "-")));
            let mut bridge = site.bridge(&dir, uplink, &format!("{dps}\ntransport = \"{transport}\""));
            publish_all(bridge.mqtt, "t/d", ["{\"id\":\"x\"}"]);
            messages += 1;
            assert_eq!(site.last(messages), ((*hub).to_owned(), (*device).to_owned()), "{name} over {transport}");
            assert_eq!(bridge.metric("brownbridge_dps_registrations_total"), 1.0, "{name} over {transport}");
            drained(&bridge);
            assert_eq!(bridge.process.terminate(), Some(0));
            let log = fs::read_to_string(&bridge.log).unwrap();
            assert!(log.contains(&format!("is device {device} at {hub} (the hub it was assigned first)")), "{log}");
            assert!(!log.contains("MDEyMz") && !log.contains("SharedAccessSignature"), "{log}");
        }
    }
}

#[test]
fn a_hub_once_told_is_kept_and_left_when_it_refuses() {
    let dir = folder();
    let site_dir = dir.path().join("site");
    let (port, nowhere) = (free_port(), free_port());
    let plan = |hub: &str| format!("{HUBS}[[enrolment]]\nid = \"press-4\"\nhub = \"{hub}\"\n");
    let mut site = Site::start(&site_dir, port, &plan("hub-a.example"));
    // Without a key file the key is derived from the simulator's own; it prints it, as would be copied by hand.
    let key = {
        let master = fs::read_to_string(site_dir.join("master.key")).unwrap();
        brownbridge::hub::sas::Key::parse(master.trim()).unwrap().derive("press-4")
    };
    let dps =
        format!("registration_id = \"press-4\"\nsymmetric_key = \"{}\"\nask_again_after = \"300ms\"", key.expose());
    let state = dir.path().join("bridge");
    let mut bridge = site.bridge(&state, "", &dps);
    publish_all(bridge.mqtt, "t/d", ["{\"id\":\"1\"}"]);
    assert_eq!(site.last(1).0, "hub-a.example");
    assert_eq!(bridge.process.terminate(), Some(0));
    let kept = fs::read_to_string(state.join("state/assignments/press-4.json")).unwrap();
    assert!(kept.contains("hub-a.example") && !kept.contains(key.expose()), "{kept}");

    // A boot without the service: what is known is good.
    let away = dps.replace("registration_id", "host = \"dps.example\"\nregistration_id");
    let ports = (free_port(), free_port());
    let config = site.config("", &away, ports).replacen(
        &format!("[uplink.dps]\nid_scope = \"0ne00000A0A\"\naddress = \"127.0.0.1:{port}\""),
        &format!("[uplink.dps]\nid_scope = \"0ne00000A0A\"\naddress = \"127.0.0.1:{nowhere}\""),
        1,
    );
    let mut bridge = Bridge::with_config(&state, &config, ports);
    publish_all(bridge.mqtt, "t/d", ["{\"id\":\"2\"}"]);
    assert_eq!(site.last(2).0, "hub-a.example");
    assert_eq!(bridge.metric("brownbridge_dps_registrations_total"), 0.0);
    assert_eq!(bridge.process.terminate(), Some(0));

    // The device moves: the first hub refuses it, the service tells the second, nothing is lost.
    let bridge = site.bridge(&state, "", &dps);
    publish_all(bridge.mqtt, "t/d", ["{\"id\":\"3\"}"]);
    assert_eq!(site.last(3).0, "hub-a.example");
    assert_eq!(site.process.terminate(), Some(0));
    let many: Vec<String> = (10..210).map(|id| id.to_string()).collect();
    let payloads: Vec<String> = many.iter().map(|id| format!("{{\"id\":\"{id}\"}}")).collect();
    publish_all(bridge.mqtt, "t/d", payloads.iter().map(String::as_str));
    let mut site = Site::start(&site_dir, port, &plan("hub-b.example"));
    assert_eq!(site.last(203).0, "hub-b.example");
    publish_all(bridge.mqtt, "t/d", ["{\"id\":\"4\"}"]);
    assert_eq!(site.last(204), ("hub-b.example".to_owned(), "press-4".to_owned()));
    let log = fs::read_to_string(&bridge.log).unwrap();
    assert!(log.contains("press-4 moves from hub-a.example to device press-4 at hub-b.example"), "{log}");
    drained(&bridge);
    assert_eq!(site.process.terminate(), Some(0));
    let few = ["1", "2", "3", "4"].map(str::to_owned);
    assert_nothing_missing(|| site.received(), &[&few, many.as_slice()].concat());
}

#[test]
fn a_device_without_a_hub_is_told_why_and_the_plant_goes_on() {
    let dir = folder();
    let plan = format!(
        "throttled = 1\n{HUBS}\
         [[enrolment]]\nid = \"off\"\ndisabled = true\n\
         [[enrolment]]\nid = \"sad\"\nfails = true\n\
         [[enrolment]]\nid = \"new\"\nprofile = \"MqttV5\"\n\
         [[enrolment]]\nid = \"press-4\"\n"
    );
    let site = Site::start(&dir.path().join("site"), free_port(), &plan);
    let master = fs::read_to_string(site.dir.join("master.key")).unwrap();
    let master = brownbridge::hub::sas::Key::parse(master.trim()).unwrap();
    let rows = [
        ("off", "off", "throttled", "it has too much to do"),
        ("off", "off", "disabled", "the enrolment of this device is disabled"),
        ("sad", "sad", "failed", "no hub to assign"),
        ("new", "new", "profile", "wants the connection profile \"MqttV5\""),
        ("nobody", "nobody", "refused", "no enrolment for this registration id"),
        ("press-4", "off", "refused", "error 401002"),
    ];
    for (number, (id, key, result, words)) in rows.into_iter().enumerate() {
        for transport in ["rest", "mqtt"].into_iter().take(if number == 0 { 1 } else { 2 }) {
            let key = master.derive(key);
            let dps = format!(
                "registration_id = \"{id}\"\nsymmetric_key = \"{}\"\ntransport = \"{transport}\"",
                key.expose()
            );
            let bridge = site.bridge(&dir.path().join(format!("{number}-{transport}")), "", &dps);
            publish_all(bridge.mqtt, "t/d", ["{}"]);
            until(words, PATIENCE, || bridge.get("/readyz").contains(words).then_some(()));
            let page = bridge.get("/metrics");
            assert!(page.contains(&format!("dps_registrations_total{{result=\"{result}\"}} 1")), "{page}");
            assert!(page.contains("uplink_state{state=\"unassigned\"} 1"), "{page}");
            assert_conserved(&bridge);
        }
    }
    assert!(site.received().is_empty());
}

#[test]
fn a_service_that_refuses_a_wrong_clock_is_asked_again_once_it_is_set() {
    for transport in ["rest", "mqtt"] {
        let dir = folder();
        let Some(clock) = Clock::off(dir.path(), "-2d") else { return };
        let site = Site::start(&dir.path().join("site"), free_port(), &format!("{HUBS}[[enrolment]]\nid = \"p\"\n"));
        let master = fs::read_to_string(site.dir.join("master.key")).unwrap();
        let key = brownbridge::hub::sas::Key::parse(master.trim()).unwrap().derive("p");
        let dps = format!("registration_id = \"p\"\nsymmetric_key = \"{}\"\ntransport = \"{transport}\"", key.expose());
        let bridge = site.bridge_in(&dir.path().join("bridge"), ("", &dps), &clock.environment());
        publish_all(bridge.mqtt, "t/d", ["{\"id\":\"1\"}"]);
        let words = "2 days behind the provisioning service's";
        until(words, PATIENCE, || bridge.get("/readyz").contains(words).then_some(()));
        let page = bridge.get("/metrics");
        assert!(page.contains("dps_registrations_total{result=\"clock\"}"), "{page}");
        assert!(page.contains("uplink_state{state=\"clock\"} 1"), "{page}");
        clock.set("+0");
        site.last(1);
        drained(&bridge);
    }
}

#[test]
fn a_hub_whose_name_is_gone_is_asked_for_again_and_an_outage_of_names_is_no_reason() {
    let dir = folder();
    let site = Site::start(&dir.path().join("site"), free_port(), &format!("{HUBS}[[enrolment]]\nid = \"p\"\n"));
    let master = fs::read_to_string(site.dir.join("master.key")).unwrap();
    let key = brownbridge::hub::sas::Key::parse(master.trim()).unwrap().derive("p");
    let dps = format!("registration_id = \"p\"\nsymmetric_key = \"{}\"\nask_again_after = \"500ms\"", key.expose());
    for (name, service, asked) in [("gone", None, true), ("outage", Some("no-such-service.invalid:443"), false)] {
        let dir = dir.path().join(name);
        fs::create_dir_all(dir.join("rules")).unwrap();
        fs::create_dir_all(dir.join("state/assignments")).unwrap();
        fs::write(dir.join("rules/1.toml"), RULES).unwrap();
        let known =
            r#"{"hub":"deleted.invalid","device":"p","id_scope":"0ne00000A0A","registration_id":"p","assigned":"x"}"#;
        fs::write(dir.join("state/assignments/p.json"), known).unwrap();
        let ports = (free_port(), free_port());
        let place = format!("address = \"127.0.0.1:{}\"\n", site.port);
        // The hub has no address of its own here: it is its name that leads to it.
        let config = site.config("", &dps, ports).replacen(&place, "", 1);
        let config =
            service.map_or(config.clone(), |service| config.replace(&place, &format!("address = \"{service}\"\n")));
        let bridge = Bridge::with_config(&dir, &config, ports);
        let log = || fs::read_to_string(&bridge.log).unwrap();
        let told = "p moves from deleted.invalid to device p at hub-a.example";
        if asked {
            until("it moves", PATIENCE, || log().contains(told).then_some(()));
            assert!(log().contains("the name deleted.invalid is not there any more"));
        } else {
            // Long past `ask_again_after`: each attempt is 50 ms and more after the one before.
            let failures = "brownbridge_uplink_reconnects_total{reason=\"network\"}";
            until("twenty attempts", PATIENCE, || (bridge.metric(failures) >= 20.0).then_some(()));
            assert!(!log().contains("provisioning: asking"), "{}", log());
        }
    }
}

#[test]
fn a_new_certificate_is_taken_up_by_a_planned_reconnect() {
    let dir = folder();
    let site =
        Site::start(&dir.path().join("site"), free_port(), &format!("{HUBS}[[enrolment]]\nid = \"p\"\nx509 = true\n"));
    let files = ["p.pem", "p.key"].map(|name| site.dir.join(name));
    until("the certificate is written", PATIENCE, || files[1].exists().then_some(()));
    let copies = ["c.pem", "c.key"].map(|name| dir.path().join(name));
    let copy = || files.iter().zip(&copies).for_each(|(from, to)| assert!(fs::copy(from, to).unwrap() > 0));
    copy();
    let uplink = format!("certificate = {:?}\nkey = {:?}", copies[0], copies[1]);
    let bridge = site.bridge(&dir.path().join("bridge"), &uplink, "");
    publish_all(bridge.mqtt, "t/d", ["{\"id\":\"1\"}"]);
    site.last(1);
    let expiry = "brownbridge_certificate_expiry_timestamp_seconds";
    assert!(bridge.metric(expiry) > 0.0);
    // Half of a pair is no pair: what is in use stays.
    fs::write(&copies[1], "-----BEGIN PRIVATE KEY-----\n").unwrap();
    let log = || fs::read_to_string(&bridge.log).unwrap();
    until("told", PATIENCE, || log().contains("the certificate of the uplink stays the old one").then_some(()));
    copy();
    until("put right", PATIENCE, || {
        log().contains("the certificate of the uplink on disk is the one in use").then_some(())
    });
    assert!(!log().contains("planned reconnect"), "the same costs no reconnect");
    let renewed = fs::read_to_string(&files[0]).unwrap() + "\n";
    fs::write(&copies[0], renewed).unwrap();
    until("taken up", PATIENCE, || log().contains("the certificate of the uplink is taken up").then_some(()));
    until("made anew", PATIENCE, || {
        bridge.get("/metrics").contains("uplink_reconnects_total{reason=\"token_renewal\"} 1").then_some(())
    });
    publish_all(bridge.mqtt, "t/d", ["{\"id\":\"2\"}"]);
    site.last(2);
}

fn command(dir: &Path, args: &[&str], stdin: &str, environment: &[(&str, &str)]) -> Output {
    let mut child = Command::new(BINARY)
        .args(args)
        .current_dir(dir)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who needs no input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// Exit code, and what stdout and stderr have in them.
fn check(name: &str, output: &Output, code: i32, stdout: &str, stderr: &str) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{name}\n{out}\n{err}");
    assert!(out.contains(stdout) && (!stdout.is_empty() || out.is_empty()), "{name} stdout\n{out}");
    assert!(err.contains(stderr) && (!stderr.is_empty() || err.is_empty()), "{name} stderr\n{err}");
}

#[test]
fn tokens_and_keys_by_hand() {
    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let dir = folder();
    fs::write(dir.path().join("hub.secret"), format!("HostName=h.example;DeviceId=d;SharedAccessKey={KEY}\n")).unwrap();
    fs::write(dir.path().join("group.key"), format!("{KEY}\n")).unwrap();
    let service = format!("HostName=h.example;SharedAccessKeyName=owner;SharedAccessKey={KEY}");
    let group = brownbridge::hub::sas::Key::parse(KEY).unwrap();
    let derived = "i5UM0PKI1Sb5mwGN8AjJz+/JmSdnyA6vEEm+l1Nvn/I=\n";
    let as_written = group.derive("REG-01");
    let as_written = as_written.expose();
    let json = format!("{{\"key\":{:?},\"registration_id\":\"reg-01\"}}\n", derived.trim());
    for (args, stdin, code, stdout, stderr) in [
        (vec!["derive-key", "reg-01", "--file", "group.key"], "", 0, derived, ""),
        (vec!["derive-key", "REG-01", "--env", "GROUP"], "", 0, derived, "derived from \"reg-01\", in lower case"),
        (vec!["derive-key", "REG-01", "--as-written"], KEY, 0, as_written, "derived from \"REG-01\", as it is written"),
        (vec!["derive-key", "reg-01", "--as-written"], KEY, 0, derived, ""),
        (
            vec!["derive-key", "REG-01", "--as-written", "--json"],
            KEY,
            0,
            "{\"device_id\":\"REG-01\",\"key\":",
            "derived",
        ),
        (vec!["derive-key", "a/b", "--as-written"], KEY, 2, "", "\"a/b\" is no device id"),
        (vec!["derive-key", "reg-01"], KEY, 0, derived, ""),
        (vec!["derive-key", "reg-01", "--json"], KEY, 0, json.as_str(), ""),
        (vec!["derive-key", "reg 01"], KEY, 2, "", "the registration id has ' ' in it"),
        (vec!["derive-key", "reg-01"], "", 2, "", "the group key is empty"),
        (vec!["derive-key", "reg-01"], "x", 2, "", "the key is not base64"),
        (vec!["derive-key", "reg-01", "--env", "NOWHERE"], "", 2, "", "the environment variable NOWHERE is not set"),
        (vec!["derive-key", "reg-01", "--file", "nowhere"], "", 2, "", "cannot read nowhere: No such file"),
        (vec!["sas", "--file", "hub.secret"], "", 0, "SharedAccessSignature sr=h.example%2Fdevices%2Fd&sig=", ""),
        (
            vec!["sas", "--file", "hub.secret", "--lifetime", "5m", "--json"],
            "",
            0,
            "\"resource\":\"h.example/devices/d\"",
            "",
        ),
        (vec!["sas", "--lifetime", "0s"], "", 2, "", "at least 1s"),
        (vec!["sas"], &service, 2, "", "this is the connection string of a service"),
        (vec!["sas"], "HostName=h;DeviceId=d;x509=true", 2, "", "has no `SharedAccessKey`"),
    ] {
        let output = command(dir.path(), &args, stdin, &[("GROUP", KEY)]);
        check(&format!("{args:?}"), &output, code, stdout, stderr);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("MDEy"), "{args:?}");
    }
}

/// What `derive-key --config` prints is what the bridge connects with, also where an id has capitals: a hub tells them
/// apart, the provisioning service does not.
#[tokio::test]
async fn a_derived_key_is_the_one_that_the_bridge_connects_with() {
    use brownbridge::hub::accounts::Accounts as _;
    use brownbridge::hub::connection_string::Auth;
    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let group = brownbridge::hub::sas::Key::parse(KEY).unwrap();
    let direct = "connection_string = \"HostName=h.example;DeviceId=b;SharedAccessKey=a2V5\"\nidentity = \"per-device\"\n\
                  [uplink.devices]\nallow = [\"*\"]\ntable = \"devices.csv\"\n";
    let of_devices = format!("{direct}group_key_file = \"group.key\"\n");
    let of_dps = "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\n[uplink.dps]\n\
                  id_scope = \"0ne00000A0A\"\nregistration_id = \"b\"\ngroup_key_file = \"group.key\"\n";
    let gateway = "[uplink.dps]\nid_scope = \"0ne00000A0A\"\nregistration_id = \"b\"\ngroup_key_file = \"group.key\"\n";
    let assigned = |id: &str| {
        format!(
            "{{\"scope\":\"0ne00000A0A\",\"registration\":{id:?},\"hub\":\"h.example\",\"device\":{id:?},\"at\":\"now\"}}\n"
        )
    };
    for (name, uplink, device, from, told) in [
        ("direct", of_devices.as_str(), "SN-007", Some("SN-007"), "this bridge has no [uplink.dps]"),
        ("direct, no capitals", &of_devices, "sn-007", Some("sn-007"), ""),
        ("with the service", of_dps, "SN-007", Some("sn-007"), "this bridge has [uplink.dps]"),
        ("with the service, no capitals", of_dps, "sn-007", Some("sn-007"), ""),
        (
            "its own key",
            &of_devices,
            "press-1",
            Some("press-1"),
            "does not use this key for press-1, but its key in the",
        ),
        ("no device id", &of_devices, "a/b", None, "\"a/b\" is no device id"),
        ("no registration id", of_dps, "SN$7", None, "the registration id has '$' in it"),
        ("one connection", gateway, "SN-007", Some("sn-007"), "this bridge has [uplink.dps]"),
        ("no group", direct, "SN-007", None, "no group key to derive from"),
    ] {
        let dir = folder();
        let path = dir.path().join("bridge.toml");
        fs::create_dir_all(dir.path().join("state/assignments")).unwrap();
        fs::create_dir_all(dir.path().join("rules")).unwrap();
        fs::write(dir.path().join("rules/all.toml"), "[[rule]]\ntopic = \"{machine}\"\ndevice = \"{machine}\"\n")
            .unwrap();
        fs::write(dir.path().join("group.key"), KEY).unwrap();
        fs::write(dir.path().join("devices.csv"), "id,key\npress-1,a2V5\n").unwrap();
        fs::write(dir.path().join("state/assignments/devices.jsonl"), assigned("sn-007")).unwrap();
        fs::write(&path, format!("state = \"state\"\n[uplink]\n{uplink}")).unwrap();
        let output = command(dir.path(), &["derive-key", device, "--config", "bridge.toml"], "", &[]);
        let expect = from.map(|from| format!("{}\n", group.derive(from).expose())).unwrap_or_default();
        check(name, &output, if from.is_some() { 0 } else { 2 }, &expect, told);
        let loaded = brownbridge::app::settings::load(&path, &|_| None).unwrap();
        let Some(planned) = loaded.settings.and_then(|settings| settings.devices).filter(|_| from.is_some()) else {
            assert!(name == "one connection" || from.is_none(), "{name}: {:?}", loaded.diagnostics);
            continue;
        };
        let account = planned.directory.of(device).await.unwrap_or_else(|why| panic!("{name}: {why}"));
        let Auth::Key(key) = account.connection.auth else { panic!("{name}") };
        let own = format!("{}\n", key.encode().expose());
        assert_eq!(own == expect, name != "its own key", "{name}: the bridge connects with another key");
    }
}

#[test]
fn a_registration_by_hand_shows_each_step() {
    let dir = folder();
    let plan = format!(
        "{HUBS}[[enrolment]]\ngroup = \"line-1\"\n\
         [[enrolment]]\nid = \"press-6\"\nx509 = true\nhub = \"hub-b.example\"\n\
         [[enrolment]]\nid = \"off\"\ndisabled = true\n"
    );
    let site = Site::start(&dir.path().join("site"), free_port(), &plan);
    let master = fs::read_to_string(site.dir.join("master.key")).unwrap();
    let master = brownbridge::hub::sas::Key::parse(master.trim()).unwrap();
    let (group, off) = (master.derive("line-1"), master.derive("off"));
    fs::write(site.dir.join("group.key"), group.expose()).unwrap();
    let state = dir.path().join("bridge");
    fs::create_dir_all(&state).unwrap();
    let dps = "registration_id = \"press-1\"\ngroup_key = \"${GROUP}\"";
    fs::write(state.join("bridge.toml"), site.config("", dps, (1, 2))).unwrap();
    fs::write(state.join("bad.toml"), site.config("", "registration_id = \"a b\"\ngroup_key = \"Zm9v*\"", (1, 2)))
        .unwrap();
    let address = format!("127.0.0.1:{}", site.port);
    let ca = site.dir.join("ca.pem").display().to_string();
    let by_hand = |args: &[&'static str]| {
        let mut all: Vec<String> = ["enrol"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        all.extend(["--id-scope", "0ne00000A0A", "--ca-file", &ca, "--address", &address].map(str::to_owned));
        all
    };
    let configured =
        |args: &[&str]| ["enrol", "--config", "bridge.toml"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    let (pem, key) = (site.dir.join("press-6.pem"), site.dir.join("press-6.key"));
    until("the certificate is written", PATIENCE, || key.exists().then_some(()));
    fs::copy(&pem, state.join("leaf.pem")).unwrap();
    let certificate =
        ["--certificate", &pem.display().to_string(), "--key", &key.display().to_string()].map(str::to_owned);
    let rows: Vec<(Vec<String>, i32, &str, &str)> = vec![
        (
            configured(&[]),
            0,
            "press-1 is device press-1 at hub-a.example (the hub it was assigned first)\nenrolment group: line-1\n",
            "asked: register this device\n",
        ),
        (configured(&["Press-2"]), 0, "press-2 is device press-2 at hub-a.example", "answered: 202, assigning\n"),
        (configured(&["--json"]), 0, "\"result\":\"assigned\"", "answered: 200\n"),
        (configured(&["--save"]), 0, "hub-a.example", "written down"),
        (vec!["enrol".into(), "--config".into(), "bad.toml".into()], 2, "", "the registration id has ' ' in it"),
        (vec!["enrol".into(), "--config".into(), "none.toml".into()], 2, "", "cannot read none.toml"),
        (by_hand(&["press-3"]), 0, "press-3 is device press-3", "with a key"),
        (by_hand(&["press-3", "--transport", "websocket"]), 0, "press-3 is device press-3", "which hub is it?"),
        (
            by_hand(&["press-3", "--bind", "127.0.0.1", "--api-version", "2021-06-01"]),
            0,
            "press-3 is device press-3",
            "answered: 200\n",
        ),
        (by_hand(&["press-3", "--bind", "eth0"]), 2, "", "`bind` is not an IP address"),
        (by_hand(&["press-3", "--proxy", "http://me:pass@h:1"]), 2, "", "into the environment variable DPS_PROXY"),
        (by_hand(&["press-3", "--proxy", "https://h:1"]), 2, "", "only proxies that speak plain HTTP"),
        (by_hand(&["press-3", "--host", "no.such:1"]), 2, "", "`host` is no host name"),
        (
            [by_hand(&["press-3"]), vec!["--ca-file".to_owned(), "leaf.pem".to_owned()]].concat(),
            0,
            "press-3 is device press-3",
            "warning: `ca_file`: CN=press-6 is a server's or device's own certificate",
        ),
        (by_hand(&[]), 2, "", "which device is it? brownbridge enrol ID"),
        (by_hand(&["press-3", "--transport", "mqtt"]), 0, "press-3 is device press-3", "which hub is it?"),
        (
            [by_hand(&[]), certificate.to_vec()].concat(),
            0,
            "press-6 is device press-6 at hub-b.example",
            "with a certificate",
        ),
        (by_hand(&["off", "--json"]), 1, "\"result\":\"disabled\"", "answered: 200"),
        // Of the group it would be, had it no entry of its own.
        (configured(&["off"]), 1, "error 401002", "answered: 401\n"),
    ];
    for (args, code, stdout, stderr) in rows {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut environment = vec![("GROUP", group.expose())];
        if args.contains(&"--id-scope") && !args.contains(&"--certificate") {
            environment.push(match args.contains(&"off") {
                true => ("DPS_SYMMETRIC_KEY", off.expose()),
                false => ("DPS_GROUP_KEY", group.expose()),
            });
        }
        let output = command(&state, &args, "", &environment);
        check(&format!("{args:?}"), &output, code, stdout, stderr);
        let said = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains(group.expose()), "{args:?}");
    }
    by_hand_in_words(&state, &by_hand(&["press-3"]), group.expose());
    let kept = fs::read_to_string(state.join("state/assignments/press-1.json")).unwrap();
    assert!(kept.contains("hub-a.example"), "{kept}");
    // A wrong key is told under the user's own line, with the key hidden.
    let output = command(&state, &["enrol", "--config", "bad.toml"], "", &[]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("Zm9v"), "{output:?}");
}

/// What a registration by hand reads from the environment, and what it says of ports that lead elsewhere; `good` is one that
/// works.
fn by_hand_in_words(dir: &Path, good: &[String], group: &str) {
    let (proxy, asked) = proxy::start();
    let proxy = format!("http://me:pass%20word@127.0.0.1:{proxy}");
    let [shut, other] = [free_port(), web_port()].map(|port| format!("127.0.0.1:{port}"));
    let given: Vec<&str> = good.iter().map(String::as_str).collect();
    let root = given[given.iter().position(|arg| *arg == "--ca-file").unwrap() + 1];
    let without_address = &given[..given.len() - 2];
    let at = |address: &'static str| [without_address, &["--address", address]].concat();
    let leaked = |text: &String| -> &'static str { Box::leak(text.clone().into_boxed_str()) };
    let (shut, other) = (leaked(&shut), leaked(&other));
    let mqtt = ["--transport", "mqtt"].as_slice();
    let key = ("DPS_GROUP_KEY", group);
    let blocked = "Where a firewall or proxy lets only port 443 out, set `transport` to \"rest\" or \"websocket\"";
    for (name, args, environment, code, expect) in [
        ("a proxy", given.clone(), vec![key, ("DPS_PROXY", &proxy)], 0, "through the proxy 127.0.0.1:"),
        ("no proof", given.clone(), vec![], 2, "the environment variable DPS_SYMMETRIC_KEY or DPS_GROUP_KEY; a cert"),
        ("two proofs", given.clone(), vec![key, ("DPS_SYMMETRIC_KEY", group)], 2, "are both set"),
        ("no base64", given.clone(), vec![("DPS_SYMMETRIC_KEY", "Zm9v*")], 2, "the key is not base64"),
        ("a shut port", [at(shut).as_slice(), mqtt].concat(), vec![key], 1, blocked),
        ("a shut port of REST", at(shut), vec![key], 1, "Connection refused (os error 111)\n"),
        ("a port that hangs up", [at(other).as_slice(), mqtt].concat(), vec![key], 1, blocked),
        (
            "no roots at all",
            given.iter().copied().filter(|arg| *arg != "--ca-file" && *arg != root).collect(),
            vec![key, ("SSL_CERT_FILE", "/nowhere/none.pem"), ("SSL_CERT_DIR", "")],
            2,
            "at '/nowhere/none.pem'): install the package ca-certificates",
        ),
        ("a system without roots", given.clone(), vec![key, ("SSL_CERT_FILE", "/dev/null")], 0, "answered: 200\n"),
        (
            "a root beside the system's",
            given.iter().map(|arg| if *arg == "--ca-file" { "--extra-ca-file" } else { *arg }).collect(),
            vec![key, ("SSL_CERT_FILE", root)],
            0,
            "answered: 200\n",
        ),
    ] {
        let output = command(dir, &args, "", &environment);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        assert!(
            said.contains(expect) && !said.contains("https://") && !said.contains("command line"),
            "{name}: {said}"
        );
        assert!(!said.contains(group) && !said.contains("Zm9v") && !said.contains("pass%20word"), "{name}: {said}");
        assert_eq!(said.contains(blocked), name == "a shut port" || name == "a port that hangs up", "{name}: {said}");
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
}

/// A port that hangs up at once, as something on the way does.
fn web_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    port
}

#[test]
fn mistakes_with_certificates_are_told_before_a_start() {
    let dir = folder();
    let [root, chain, key] = chain(&dir.path().join("chain"), "press-7");
    let text = fs::read_to_string(&chain).unwrap();
    let (leaf, middle) = text.split_at(text.rfind("-----BEGIN").unwrap());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let reversed = file("reversed.pem", &format!("{middle}{leaf}"));
    let gap = file("gap.pem", &format!("{leaf}{}", fs::read_to_string(&root).unwrap()));
    let dated = |name: &str, common: &str, (from, until): (i32, (i32, u8, u8))| {
        let own = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let pem = params.self_signed(&own).unwrap().pem();
        (file(&format!("{name}.pem"), &pem), file(&format!("{name}.key"), &own.serialize_pem()))
    };
    let (old, old_key) = dated("old", "press-7", (2000, (2020, 1, 1)));
    let (early, early_key) = dated("early", "press-7", (2099, (2100, 1, 1)));
    let lone = dir.path().join("lone");
    fs::create_dir(&lone).unwrap();
    fs::copy(&chain, lone.join("lone.pem")).unwrap();
    let plain = "connection_string = \"HostName=h;DeviceId=d;SharedAccessKey=a2V5\"";
    let token = |sr: &str, se: i64| {
        let token = format!("SharedAccessSignature sr={sr}&sig=a2V5&se={se}");
        format!("connection_string = \"HostName=h;DeviceId=d;SharedAccessSignature={token}\"")
    };
    let (baltimore, _) = dated("root", "Baltimore CyberTrust Root", (2000, (2025, 5, 12)));
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tls").join(name);
    let identity = |pem: &Path, key: &Path| format!("certificate = {pem:?}\nkey = {key:?}\nca_file = {root:?}\n");
    let dps = "[uplink.dps]\nid_scope = \"0ne00000A0A\"\n";
    for (name, uplink, dps, code, words) in [
        ("chain", identity(&chain, &key), dps.to_owned(), 0, ""),
        ("PKCS#1", identity(&golden("rsa.pem"), &golden("rsa-pkcs1.key")), dps.to_owned(), 0, ""),
        ("PKCS#8", identity(&golden("rsa.pem"), &golden("rsa-pkcs8.key")), dps.to_owned(), 0, ""),
        ("SEC1", identity(&golden("ec.pem"), &golden("ec-sec1.key")), dps.to_owned(), 0, ""),
        (
            "encrypted",
            identity(&golden("ec.pem"), &golden("ec-encrypted.key")),
            dps.to_owned(),
            1,
            "key in it is encrypted",
        ),
        (
            "mismatch",
            identity(&chain, &golden("ec-sec1.key")),
            dps.to_owned(),
            1,
            "the key is not the one of the certificate",
        ),
        ("order", identity(&reversed, &key), dps.to_owned(), 1, "the device's own certificate is number 2"),
        ("gap", identity(&gap, &key), dps.to_owned(), 1, "was issued by \"CN=plant line 1\""),
        ("expired", identity(&old, &old_key), dps.to_owned(), 1, "the certificate has expired"),
        ("not yet", identity(&early, &early_key), dps.to_owned(), 1, "the certificate is good from 2099-01-01"),
        ("version 1", identity(&golden("v1.pem"), &golden("v1.key")), dps.to_owned(), 1, "of X.509 version 1"),
        ("P-521", identity(&golden("p521.pem"), &golden("p521.key")), dps.to_owned(), 1, "a key on the curve P-521"),
        ("a coin's", identity(&golden("k1.pem"), &golden("k1.key")), dps.to_owned(), 1, "on the curve secp256k1"),
        ("short", identity(&golden("short.pem"), &golden("short.key")), dps.to_owned(), 1, "an RSA key of 1024 bits"),
        (
            "thumbprint",
            identity(&chain, &key) + "connection_string = \"HostName=h;DeviceId=press-8;x509=true\"",
            String::new(),
            0,
            "the certificate is for \"press-7\", and the device is \"press-8\"",
        ),
        (
            "two gateways",
            plain.replace("a2V5", "a2V5;GatewayHostName=a") + "\ngateway_host_name = \"b\"",
            String::new(),
            1,
            "says GatewayHostName=a, and `gateway_host_name` b",
        ),
        (
            "one gateway twice",
            plain.replace("a2V5", "a2V5;GatewayHostName=a.b") + "\ngateway_host_name = \"A.B\"",
            String::new(),
            0,
            "",
        ),
        ("no edge", format!("kind = \"edge\"\n{plain}"), String::new(), 1, "an edge needs `GatewayHostName`"),
        ("an edge", format!("kind = \"edge\"\ngateway_host_name = \"e\"\n{plain}"), String::new(), 0, ""),
        ("a URL", format!("gateway_host_name = \"https://e\"\n{plain}"), String::new(), 1, "is no host name"),
        ("no model", format!("model_id = \"press\"\n{plain}"), String::new(), 1, "no model id: it begins with `dtmi:`"),
        (
            "no model of devices",
            format!("identity = \"per-device\"\n{plain}"),
            "[uplink.devices]\ngroup_key = \"a2V5\"\nallow = [\"*\"]\nmodel_id = \"dtmi:com:press\"".to_owned(),
            1,
            "no model id: it ends with its version",
        ),
        ("leaf as root", format!("ca_file = {chain:?}\n{}", plain), String::new(), 0, "CN=press-7 is a server's or"),
        (
            "expired root",
            format!("ca_file = {old:?}\n{}", plain),
            String::new(),
            0,
            "`ca_file`: CN=press-7 has expired",
        ),
        (
            "leaf as extra",
            format!("extra_ca_file = {chain:?}\n{}", plain),
            String::new(),
            0,
            "`extra_ca_file`: CN=press-7 is",
        ),
        ("no such root", "extra_ca_file = [\"no.pem\"]\n".to_owned() + plain, String::new(), 1, "no.pem: No such file"),
        ("no root", format!("extra_ca_file = {key:?}\n{plain}"), String::new(), 1, "there is no certificate in it"),
        (
            "Baltimore beside",
            format!("extra_ca_file = {baltimore:?}\n{}", plain),
            String::new(),
            0,
            "`extra_ca_file` has the Baltimore CyberTrust Root",
        ),
        ("expired token", token("h%2Fdevices%2Fd", 1), String::new(), 1, "ended 1970-01-01"),
        ("token of the hub", token("H", 4_000_000_000), String::new(), 0, ""),
        ("another's token", token("h%2Fdevices%2Fd2", 4_000_000_000), String::new(), 1, "is for \"h/devices/d2\""),
        ("another hub's token", token("h2%2Fdevices%2Fd", 4_000_000_000), String::new(), 1, "is for \"h2/devices/d\""),
        (
            "no key of a device",
            format!("identity = \"per-device\"\n{plain}\n[uplink.devices]\ncertificates = {lone:?}\nallow = [\"*\"]"),
            String::new(),
            1,
            "lone.key, the key of",
        ),
        (
            "two at once",
            format!("{plain}\nproxy = \"h:1\"\nbind = \"eth0\""),
            String::new(),
            1,
            "`proxy` is no HTTP proxy: it begins with http://",
        ),
        ("the other", format!("{plain}\nproxy = \"h:1\"\nbind = \"eth0\""), String::new(), 1, "`bind` is not an IP"),
        (
            "old root",
            format!("ca_file = {baltimore:?}\nconnection_string = \"HostName=h;DeviceId=d;SharedAccessKey=a2V5\""),
            String::new(),
            0,
            "Baltimore",
        ),
        (
            "another name",
            identity(&chain, &key),
            format!("{dps}registration_id = \"press-8\""),
            1,
            "is for \"press-7\"",
        ),
        (
            "no DPS key",
            format!("ca_file = {root:?}"),
            format!("{dps}registration_id = \"p\"\nsymmetric_key = \"a b\""),
            1,
            "the key is not base64",
        ),
        (
            "no key file",
            format!("ca_file = {root:?}"),
            format!("{dps}registration_id = \"p\"\ngroup_key_file = \"none\""),
            1,
            "cannot read",
        ),
        (
            "no proxy",
            format!("proxy = \"https://me:pw@h:1\"\nca_file = {root:?}"),
            format!("{dps}registration_id = \"p\"\ngroup_key = \"a2V5\""),
            1,
            "only proxies that speak plain HTTP",
        ),
    ] {
        let folder = dir.path().join(name.replace(' ', "-"));
        fs::create_dir_all(folder.join("rules")).unwrap();
        fs::write(folder.join("rules/1.toml"), RULES).unwrap();
        fs::write(folder.join("bridge.toml"), format!("[uplink]\n{uplink}\n{dps}\n")).unwrap();
        let output = command(&folder, &["check", "bridge.toml"], "", &[]);
        check(name, &output, code, "bridge.toml", words);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("me:pw"), "{name}");
    }
}

#[test]
fn service_and_hub_are_reached_through_a_proxy() {
    let dir = folder();
    let site = Site::start(&dir.path().join("site"), free_port(), &format!("{HUBS}[[enrolment]]\nid = \"p\"\n"));
    let master = fs::read_to_string(site.dir.join("master.key")).unwrap();
    let key = brownbridge::hub::sas::Key::parse(master.trim()).unwrap().derive("p");
    let dps = format!("registration_id = \"p\"\nsymmetric_key = \"{}\"", key.expose());
    let (port, asked) = proxy::start();
    let through = |user: &str| format!("bind = \"127.0.0.1\"\nproxy = \"http://{user}127.0.0.1:{port}\"");
    let bridge = site.bridge(&dir.path().join("good"), &through("me:pass%20word@"), &dps);
    publish_all(bridge.mqtt, "t/d", ["{}"]);
    site.last(1);
    drained(&bridge);
    let place = format!("127.0.0.1:{}", site.port);
    assert_eq!(*asked.lock().unwrap(), [place.clone(), place], "the service, then the hub");
    let bridge = site.bridge(&dir.path().join("bad"), &through(""), &dps);
    publish_all(bridge.mqtt, "t/d", ["{}"]);
    until("told", PATIENCE, || bridge.get("/readyz").contains("it wants a user name and a password").then_some(()));
}
