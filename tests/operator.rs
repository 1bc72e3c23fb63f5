//! What an operator does at two in the morning, with the real program: quarantine, queue, ledger.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{
    BINARY, Bridge, PATIENCE, Sim, assert_conserved, bodies, folder, free_port, publish_all, quarantined, until,
};

const RULES: &str = "[[rule]]\nname = \"strict\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\ndecode = \"json\"\n\
    [[rule]]\nname = \"no\"\ntopic = \"no/#\"\ndrop = true\n";
const LAX: &str = "[[rule]]\nname = \"lax\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n";
const QUICK: &str = "backoff_min = \"5ms\"\nbackoff_max = \"20ms\"";

/// Runs a command beside the bridge: exit code, stdout, stderr.
fn brownbridge(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(BINARY)
        .args(args)
        .args(["--config", "bridge.toml"])
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn listed(dir: &Path) -> Vec<Value> {
    let (code, stdout, stderr) = brownbridge(dir, &["quarantine", "list", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn id(entry: &Value) -> &str {
    entry["id"].as_str().unwrap()
}

#[test]
fn what_was_quarantined_is_seen_retried_by_todays_rules_and_dropped() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--close-on", "BAD"]);
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    publish_all(
        bridge.mqtt,
        "t/press7",
        ["{oops 1", "{\"v\":1}", "{oops 2", "{oops 2", "{\"v\":\"BAD\"}", "{\"v\":2}"],
    );
    until("the spool drains", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    let entries = listed(dir.path());
    let reasons: Vec<_> = entries.iter().map(|entry| entry["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["not_json", "not_json", "not_json", "poison"]);

    let (code, stdout, _) = brownbridge(dir.path(), &["quarantine", "list", "--last", "2"]);
    assert!(code == 0 && stdout.contains("2 older ones") && stdout.contains("(hub message)"), "{stdout}");
    let (code, stdout, _) = brownbridge(dir.path(), &["quarantine", "show", id(&entries[0]).get(..8).unwrap()]);
    assert!(code == 0 && stdout.contains("{oops 1") && stdout.contains("strict"), "{stdout}");
    let (code, _, stderr) = brownbridge(dir.path(), &["quarantine", "show", "nonsense"]);
    assert!(code == 2 && stderr.contains("no entry nonsense"), "{stderr}");

    // The rules are as before: it fails again, and nothing is lost or doubled.
    let (code, stdout, _) = brownbridge(dir.path(), &["quarantine", "retry", id(&entries[0])]);
    assert!(code == 1 && stdout.contains("failed again"), "{stdout}");
    assert_eq!(listed(dir.path()).len(), 4);
    assert_conserved(&bridge);

    // Deleting asks, and without a terminal refuses.
    let (code, _, stderr) = brownbridge(dir.path(), &["quarantine", "drop", "--all"]);
    assert!(code == 2 && stderr.contains("--yes"), "{stderr}");
    assert_eq!(listed(dir.path()).len(), 4);

    // With other rules and another hub everything finds its way.
    assert_eq!(bridge.process.terminate(), Some(0));
    let (code, _, stderr) = brownbridge(dir.path(), &["quarantine", "retry", "--all"]);
    assert!(code == 2 && stderr.contains("no bridge runs"), "{stderr}");
    drop(sim);
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, LAX, QUICK);
    let entries = listed(dir.path());
    let (code, stdout, _) = brownbridge(dir.path(), &["quarantine", "drop", id(&entries[0]), "--yes"]);
    assert_eq!((code, stdout.as_str()), (0, "1 entry deleted\n"));
    let (code, stdout, stderr) = brownbridge(dir.path(), &["quarantine", "retry", "--all"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stderr.contains("3 of 3 left"), "{stderr}");
    assert!(listed(dir.path()).is_empty() && quarantined(dir.path()).is_empty());
    until("they arrive", PATIENCE, || {
        let arrived = bodies(&sim);
        let all = ["{oops 1", "{oops 2", "{\"v\":\"BAD\"}"].iter().all(|body| arrived.iter().any(|one| one == body));
        all.then_some(())
    });
    until("counted", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    assert_eq!(bridge.metric("brownbridge_quarantine_taken_total"), 4.0);
}

#[test]
fn without_a_bridge_entries_can_be_dropped_and_with_one_its_lock_holds() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    publish_all(bridge.mqtt, "t/press7", ["{oops 1", "{oops 2"]);
    // A bridge that is there but cannot be asked: nothing is written behind its back.
    std::fs::rename(dir.path().join("state/control.sock"), dir.path().join("state/elsewhere.sock")).unwrap();
    let (code, _, stderr) = brownbridge(dir.path(), &["quarantine", "drop", "--all", "--yes"]);
    assert!(code == 2 && stderr.contains("cannot be rewritten"), "{stderr}");
    assert_eq!(bridge.process.terminate(), Some(0));
    let (code, stdout, stderr) = brownbridge(dir.path(), &["quarantine", "drop", "--reason", "not_json", "--yes"]);
    assert_eq!((code, stdout.as_str()), (0, "2 entries deleted\n"), "{stderr}");
    assert!(listed(dir.path()).is_empty());
}

#[test]
fn the_control_socket_is_for_its_owner_and_bears_nonsense() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    let path = dir.path().join("state/control.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for nonsense in [&b"\n"[..], b"{}\n", b"{\"do\":\"retry\",\"ids\":7}\n", &[0xff, b'\n'], &[b'x'; 100_000]] {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let _ = stream.write_all(nonsense);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("failed"), "{answer}");
    }
    let many: Vec<String> = (0..1_000).map(|n| format!("{n:012x}")).collect();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    writeln!(stream, "{}", serde_json::json!({"do": "drop", "ids": many})).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("64 are the most"), "{answer}");
    assert!(bridge.get("/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn the_ledger_goes_on_over_restarts_and_is_read_with_and_without_a_bridge() {
    let dir = folder();
    let (code, _, stderr) = {
        let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
        let mut bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
        publish_all(bridge.mqtt, "t/press7", ["{oops", "{\"v\":1}", "{\"v\":2}"]);
        publish_all(bridge.mqtt, "no/thanks", ["x"]);
        until("delivered", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
        assert_eq!(bridge.process.terminate(), Some(0));
        brownbridge(dir.path(), &["ledger"])
    };
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("no bridge answers"), "{stderr}");
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--withhold-puback"]);
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    publish_all(bridge.mqtt, "t/press7", ["{\"v\":3}"]);
    let books = support::assert_ledger(&bridge, 0, 3);
    assert_eq!(books["publishes"]["received"], 5);
    assert_eq!(books["publishes"]["dropped"], serde_json::json!({"rule": 1}));
    assert_eq!(books["publishes"]["quarantined"], serde_json::json!({"not_json": 1}));
    assert_eq!((&books["messages"]["delivered"], &books["messages"]["waiting"]), (&2.into(), &1.into()));
    let (code, stdout, stderr) = brownbridge(dir.path(), &["ledger"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("= delivered                2\n"), "{stdout}");
    assert!(bridge.get("/metrics").contains("brownbridge_ledger_messages_total{outcome=\"produced\"} 3\n"));

    // A crash: the last message waits, its publish may be missing.
    bridge.process.kill();
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    let books = support::assert_ledger(&bridge, 1, 3);
    assert_eq!((&books["messages"]["waiting"], &books["publishes"]["uncounted"]), (&1.into(), &1.into()));
    drop(bridge);

    // Books nobody can read are put aside.
    std::fs::write(dir.path().join("state/ledger.json"), "{torn").unwrap();
    let (code, _, stderr) = brownbridge(dir.path(), &["ledger"]);
    assert!(code == 2 && stderr.contains("cannot be read"), "{stderr}");
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    assert!(bridge.get("/ledger").contains("\"crashes\":0"));
    assert!(dir.path().join("state/ledger.json.unreadable").exists());
}

#[test]
fn messages_are_numbered_by_device_without_a_gap() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let config = format!("{QUICK}\nsequence_property = \"seq\"");
    let mut expect = Vec::new();
    for round in 0..3 {
        let mut bridge = Bridge::start(dir.path(), &sim, LAX, &config);
        for device in ["a", "b"] {
            publish_all(bridge.mqtt, &format!("t/{device}"), ["1", "2", "3"]);
            // The second start goes on after a stop, the third begins anew after a kill -9.
            let first = if round == 1 { 4 } else { 1 };
            expect.extend((first..first + 3).map(|n| format!("{device} {n}")));
        }
        until("delivered", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
        if round == 1 {
            bridge.process.kill();
        } else {
            assert_eq!(bridge.process.terminate(), Some(0));
        }
    }
    let received = until("the last is printed", PATIENCE, || {
        let received = sim.received();
        let last = |message: &Value| message["properties"]["seq"].as_str().unwrap().ends_with("-3");
        (received.iter().filter(|message| last(message)).count() == 4).then_some(received)
    });
    let mut runs = std::collections::HashSet::new();
    // What the kill kept from being noted as delivered is sent again, with the same number and message id.
    let mut seen = std::collections::HashSet::new();
    let numbers: Vec<String> = received
        .iter()
        .filter(|message| seen.insert(message["system"]["message-id"].clone()))
        .map(|message| {
            let (run, number) = message["properties"]["seq"].as_str().unwrap().split_once('-').unwrap();
            runs.insert(run.to_owned());
            format!("{} {number}", message["properties"]["device"].as_str().unwrap())
        })
        .collect();
    assert_eq!(numbers, expect);
    assert_eq!(runs.len(), 2);
}

#[test]
fn what_waits_is_seen_and_dropped_on_demand() {
    let dir = folder();
    let port = free_port();
    let sim = Sim::start(&dir.path().join("sim"), port, &["--refuse"]);
    let mut bridge = Bridge::start(dir.path(), &sim, LAX, QUICK);
    for (device, count) in [("a", 6), ("b", 4)] {
        let payloads: Vec<String> = (0..count).map(|n| format!("{device}{n}")).collect();
        publish_all(bridge.mqtt, &format!("t/{device}"), payloads.iter().map(String::as_str));
    }
    let ask = |args: &[&str]| {
        let (code, stdout, stderr) = brownbridge(dir.path(), args);
        assert_eq!(code, 0, "{args:?}: {stderr}");
        stdout
    };
    let stat: Value = serde_json::from_str(&ask(&["queue", "stat", "--json"])).unwrap();
    assert_eq!((&stat["waiting"], &stat["looked_at"]), (&10.into(), &10.into()));
    assert_eq!((&stat["devices"]["a"]["messages"], &stat["devices"]["b"]["bytes"]), (&6.into(), &8.into()));
    assert!(ask(&["queue", "stat"]).starts_with("10 messages wait"));
    let shown = ask(&["queue", "peek", "--first", "2"]);
    assert!(shown.contains("a0") && shown.contains("a1") && !shown.contains("a2"), "{shown}");
    let peeked: Value = serde_json::from_str(&ask(&["queue", "peek", "--device", "b", "--json"])).unwrap();
    assert_eq!(peeked.as_array().unwrap().len(), 4);
    assert_eq!((&peeked[0]["device"], &peeked[0]["payload"]), (&"b".into(), &"b0".into()));

    let (code, _, stderr) = brownbridge(dir.path(), &["queue", "drop", "--all"]);
    assert!(code == 2 && stderr.contains("--yes"), "{stderr}");
    let (code, _, stderr) = brownbridge(dir.path(), &["queue", "drop", "--yes"]);
    assert!(code == 2 && stderr.contains("required"), "{stderr}");
    for (args, expect) in [
        (vec!["--older-than", "1h"], "0 messages"),
        (vec!["--first", "2"], "2 messages"),
        (vec!["--device", "b", "--first", "1"], "1 message"),
        (vec!["--device", "nobody"], "0 messages"),
    ] {
        let args: Vec<&str> = ["queue", "drop", "--yes"].into_iter().chain(args).collect();
        assert_eq!(ask(&args), format!("{expect} dropped\n"), "{args:?}");
    }
    assert_conserved(&bridge);
    let books = support::assert_ledger(&bridge, 0, 10);
    assert_eq!(books["messages"]["shed"], serde_json::json!({"operator": 3}));
    // What was dropped stays so over a stop and a start, and the rest arrives.
    assert_eq!(bridge.process.terminate(), Some(0));
    let (code, _, stderr) = brownbridge(dir.path(), &["queue", "stat"]);
    assert!(code == 2 && stderr.contains("no bridge runs"), "{stderr}");
    drop(sim);
    let sim = Sim::start(&dir.path().join("sim"), port, &[]);
    let bridge = Bridge::start(dir.path(), &sim, LAX, QUICK);
    until("the rest arrives", PATIENCE, || (bodies(&sim).len() == 7).then_some(()));
    assert_eq!(bodies(&sim), ["a2", "a3", "a4", "a5", "b1", "b2", "b3"]);
    until("counted", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    support::assert_ledger(&bridge, 0, 10);
    let (_, stdout, _) = brownbridge(dir.path(), &["queue", "stat"]);
    assert!(stdout.starts_with("nothing waits"), "{stdout}");
}
