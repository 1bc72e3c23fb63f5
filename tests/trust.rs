//! Whom the uplink trusts (the system's roots, others beside them, others instead), and by which names things are called: a
//! hub's in front of it, a device's model.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

#[path = "support/front.rs"]
mod front;
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use front::Front;
use support::site::{HUBS, RULES, Site, chain};
use support::{Bridge, PATIENCE, Sim, assert_conserved, folder, free_port, publish_all, until};

/// The variable by which the system's roots are others.
const SYSTEM: &str = "SSL_CERT_FILE";

/// A bridge with this `[uplink]` and what follows it.
fn with_uplink(dir: &Path, uplink: &str, environment: &[(&str, &str)]) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    fs::create_dir_all(dir.join("rules")).unwrap();
    fs::write(dir.join("rules/1.toml"), RULES).unwrap();
    let config = format!(
        "rules = \"rules\"\nstate = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\n\
         listen = \"127.0.0.1:{admin}\"\n[uplink]\nbackoff_min = \"20ms\"\nbackoff_max = \"50ms\"\n{uplink}\n"
    );
    Bridge::launch(dir, &config, (mqtt, admin), environment)
}

/// A bridge whose devices register, each on a connection of its own: the service, the bridge's line and theirs all have
/// to trust. `roots` is what `[uplink]` says about that.
fn bridge(dir: &Path, site: &Site, (system, roots): (&Path, &str)) -> Bridge {
    let uplink = format!("address = \"127.0.0.1:{}\"\n{roots}\n{}", site.port, registering(site));
    with_uplink(dir, &uplink, &[(SYSTEM, system.to_str().unwrap())])
}

/// Every device registers.
fn registering(site: &Site) -> String {
    format!(
        "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\n[uplink.dps]\nid_scope = \"0ne00000A0A\"\n\
         address = \"127.0.0.1:{}\"\nregistration_id = \"gw\"\ngroup_key_file = {:?}\n",
        site.port,
        site.dir.join("group.key")
    )
}

fn site(dir: &Path) -> Site {
    let site = Site::start(dir, free_port(), &format!("{HUBS}[[enrolment]]\ngroup = \"line-1\"\n"));
    let master = fs::read_to_string(site.dir.join("master.key")).unwrap();
    let group = brownbridge::hub::sas::Key::parse(master.trim()).unwrap().derive("line-1");
    fs::write(site.dir.join("group.key"), group.expose()).unwrap();
    site
}

#[test]
fn roots_of_the_system_beside_it_and_instead() {
    let dir = folder();
    let site = site(&dir.path().join("site"));
    let own = site.dir.join("ca.pem");
    let [other, ..] = chain(&dir.path().join("other"), "x");
    let none = dir.path().join("none.pem");
    let mut messages = 0;
    for (name, system, roots, expect) in [
        ("the system's", &own, String::new(), Ok(())),
        ("not the system's", &other, String::new(), Err("signed by nobody this machine trusts")),
        ("beside the system's", &other, format!("extra_ca_file = {own:?}"), Ok(())),
        ("the system's with another", &own, format!("extra_ca_file = {other:?}"), Ok(())),
        ("one of two beside", &other, format!("extra_ca_file = [{other:?}, {own:?}]"), Ok(())),
        ("instead", &own, format!("ca_file = {other:?}"), Err("signed by nobody this machine trusts")),
        ("one of two instead", &other, format!("ca_file = [{other:?}, {own:?}]"), Ok(())),
        ("a system without roots", &none, format!("ca_file = {own:?}"), Ok(())),
    ] {
        let bridge = bridge(&dir.path().join(name.replace([' ', '\''], "-")), &site, (system, &roots));
        publish_all(bridge.mqtt, "t/press-1", ["{}"]);
        match expect {
            Ok(()) => {
                messages += 1;
                assert_eq!(site.last(messages).1, "press-1", "{name}");
                assert_conserved(&bridge);
            }
            Err(text) => {
                let told = || fs::read_to_string(&bridge.log).unwrap().contains(text).then_some(());
                until(name, PATIENCE, told);
                assert_eq!(site.received().len(), messages, "{name}");
            }
        }
    }
}

#[test]
fn an_extra_root_is_taken_up_when_its_file_changes() {
    let dir = folder();
    let site = site(&dir.path().join("site"));
    let [other, ..] = chain(&dir.path().join("other"), "x");
    let extra = dir.path().join("extra.pem");
    fs::copy(&other, &extra).unwrap();
    let bridge = bridge(&dir.path().join("bridge"), &site, (&other, &format!("extra_ca_file = {extra:?}")));
    publish_all(bridge.mqtt, "t/press-1", ["{}"]);
    let log = || fs::read_to_string(&bridge.log).unwrap();
    until("nobody is trusted", PATIENCE, || log().contains("signed by nobody").then_some(()));
    fs::copy(site.dir.join("ca.pem"), &extra).unwrap();
    assert_eq!(site.last(1).1, "press-1");
    assert!(log().contains("is taken up by a planned reconnect"), "{}", log());
    assert_conserved(&bridge);
}

/// The name in front of a hub is what is looked up, asked for and in the certificate; user name and token stay the hub's,
/// or the simulator would refuse them.
#[test]
fn a_hub_is_reached_by_a_name_of_the_plant() {
    const NAME: &str = "iot.plant.example";
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &["--host-name", "hub.example"]);
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let front = Front::start(dir.path(), NAME, (at(sim.port), "hub.example", &sim.dir.join("ca.pem")));
    let string = &sim.connection_string;
    let own = string.split("DeviceId=").nth(1).unwrap().split(';').next().unwrap();
    let key = format!("gateway_host_name = {NAME:?}");
    let devices = format!(
        "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\ngroup_key_file = {:?}",
        sim.dir.join("master.key")
    );
    let way = format!("ca_file = {:?}\naddress = \"127.0.0.1:{}\"", front.ca, front.port);
    let rows = [
        ("in the connection string", format!("connection_string = \"{string};GatewayHostName={NAME}\"\n{way}"), own),
        ("by the key", format!("connection_string = \"{string}\"\n{key}\n{way}"), own),
        ("devices", format!("connection_string = \"{string}\"\n{key}\n{way}\n{devices}"), "press-1"),
    ];
    for (messages, (name, uplink, from)) in (1..).zip(rows) {
        let bridge = with_uplink(&dir.path().join(name.replace(' ', "-")), &uplink, &[]);
        publish_all(bridge.mqtt, "t/press-1", ["{}"]);
        until(name, PATIENCE, || (sim.received().len() == messages).then_some(()));
        assert_eq!(sim.received().pop().unwrap()["device"], from, "{name}");
        let asked = std::mem::take(&mut *front.asked.lock().unwrap());
        assert!(!asked.is_empty() && asked.iter().all(|name| name == NAME), "{name}: {asked:?}");
        assert_conserved(&bridge);
    }
    // Without an address it is the name that is looked up.
    let uplink = format!("connection_string = \"{string}\"\n{key}\nca_file = {:?}", front.ca);
    let bridge = with_uplink(&dir.path().join("by-name"), &uplink, &[]);
    publish_all(bridge.mqtt, "t/press-1", ["{}"]);
    let told = format!("cannot reach {NAME}:8883");
    until(&told, PATIENCE, || fs::read_to_string(&bridge.log).unwrap().contains(&told).then_some(()));
}

#[test]
fn a_hub_that_the_service_tells_is_reached_by_a_name_of_the_plant() {
    const NAME: &str = "iot.plant.example";
    let dir = folder();
    let site = site(&dir.path().join("site"));
    let (hub, ca) = (SocketAddr::from(([127, 0, 0, 1], site.port)), site.dir.join("ca.pem"));
    let front = Front::start(dir.path(), NAME, (hub, "hub-a.example", &ca));
    let uplink = format!(
        "gateway_host_name = {NAME:?}\nca_file = [{ca:?}, {:?}]\naddress = \"127.0.0.1:{}\"\n{}",
        front.ca,
        front.port,
        registering(&site)
    );
    let bridge = with_uplink(&dir.path().join("bridge"), &uplink, &[]);
    publish_all(bridge.mqtt, "t/press-1", ["{}"]);
    assert_eq!(site.last(1), ("hub-a.example".to_owned(), "press-1".to_owned()));
    // The bridge's own line goes the same way.
    publish_all(bridge.mqtt, "unmatched", ["{}"]);
    assert_eq!(site.last(2), ("hub-a.example".to_owned(), "gw".to_owned()));
    let asked = front.asked.lock().unwrap().clone();
    assert!(asked.len() == 2 && asked.iter().all(|name| name == NAME), "{asked:?}");
    assert_conserved(&bridge);
}

/// The hub stamps messages with the model that the CONNECT named.
#[test]
fn devices_say_which_model_they_follow() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("hub"), free_port(), &[]);
    let table = dir.path().join("devices.csv");
    fs::write(&table, "id,model_id\npress-1,dtmi:com:example:Press;2\nvalve-1,\n").unwrap();
    let way = format!(
        "connection_string = {:?}\nca_file = {:?}\naddress = \"127.0.0.1:{}\"\n",
        sim.connection_string,
        sim.dir.join("ca.pem"),
        sim.port
    );
    let devices = format!(
        "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\ntable = {table:?}\ngroup_key_file = {:?}\n",
        sim.dir.join("master.key")
    );
    let own = "model_id = \"dtmi:com:example:Gateway;1\"\n";
    let mut messages = 0;
    for (name, uplink, topics) in [
        ("none", way.clone(), vec![("t/press-1", None)]),
        ("the bridge", format!("{way}{own}"), vec![("t/press-1", Some("dtmi:com:example:Gateway;1"))]),
        (
            "devices",
            format!("{way}{own}{devices}model_id = \"dtmi:com:example:Valve;1\"\n"),
            vec![
                ("t/press-1", Some("dtmi:com:example:Press;2")),
                ("t/valve-1", Some("dtmi:com:example:Valve;1")),
                ("t/valve-2", Some("dtmi:com:example:Valve;1")),
                ("unmatched", Some("dtmi:com:example:Gateway;1")),
            ],
        ),
        (
            "devices of the table",
            format!("{way}{devices}"),
            vec![("t/press-1", Some("dtmi:com:example:Press;2")), ("t/valve-1", None), ("unmatched", None)],
        ),
    ] {
        let bridge = with_uplink(&dir.path().join(name.replace(' ', "-")), &uplink, &[]);
        for (topic, expect) in topics {
            publish_all(bridge.mqtt, topic, ["{}"]);
            messages += 1;
            until(name, PATIENCE, || (sim.received().len() == messages).then_some(()));
            let last = sim.received().pop().unwrap();
            assert_eq!(last["system"]["dt-dataschema"].as_str(), expect, "{name} {topic}");
        }
        assert_conserved(&bridge);
    }
}
