//! Whom the uplink trusts: the system's roots, others beside them, others instead.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::fs;
use std::path::Path;

use support::site::{HUBS, RULES, Site, chain};
use support::{Bridge, PATIENCE, assert_conserved, folder, free_port, publish_all, until};

/// The variable by which the system's roots are others.
const SYSTEM: &str = "SSL_CERT_FILE";

/// A bridge whose devices register, each on a connection of its own: the service, the bridge's line and theirs all have
/// to trust. `roots` is what `[uplink]` says about that.
fn bridge(dir: &Path, site: &Site, (system, roots): (&Path, &str)) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    fs::create_dir_all(dir.join("rules")).unwrap();
    fs::write(dir.join("rules/1.toml"), RULES).unwrap();
    let (port, group) = (site.port, site.dir.join("group.key"));
    let config = format!(
        "rules = \"rules\"\nstate = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\n\
         listen = \"127.0.0.1:{admin}\"\n[uplink]\nidentity = \"per-device\"\naddress = \"127.0.0.1:{port}\"\n\
         backoff_min = \"20ms\"\nbackoff_max = \"50ms\"\n{roots}\n[uplink.devices]\nallow = [\"*\"]\n[uplink.dps]\n\
         id_scope = \"0ne00000A0A\"\naddress = \"127.0.0.1:{port}\"\nregistration_id = \"gw\"\ngroup_key_file = {group:?}\n"
    );
    Bridge::launch(dir, &config, (mqtt, admin), &[(SYSTEM, system.to_str().unwrap())])
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
