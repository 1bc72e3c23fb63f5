//! The real program between a plant and the simulated hub: the promises of README.md, with faults.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use support::{
    BINARY, Bridge, Publisher, Sim, assert_conserved, assert_nothing_missing, free_port, number_publisher, until,
};

const RULES: &str = "[[rule]]\nname = \"all\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n\
    [[rule]]\nname = \"strict\"\ntopic = \"json/{device}\"\ndevice = \"{device}\"\ndecode = \"json\"\n\
    [[rule]]\nname = \"no\"\ntopic = \"drop/#\"\ndrop = true\n";
const PATIENCE: Duration = Duration::from_secs(30);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Publishes and waits for the acknowledgement.
fn send(bridge: &Bridge, topic: &str, payload: &str) {
    static CLIENTS: AtomicU32 = AtomicU32::new(0);
    let client_id = format!("test-{}", CLIENTS.fetch_add(1, Ordering::Relaxed));
    let mut publisher = Publisher::connect(bridge.mqtt, &client_id).unwrap();
    let mut out = Vec::new();
    publisher.publish(&mut out, topic, payload.as_bytes());
    publisher.flush(&mut out).unwrap();
    publisher.acknowledged().unwrap();
}

fn bodies(received: &[Value]) -> Vec<String> {
    received.iter().map(|message| message["body"].as_str().unwrap_or_default().to_owned()).collect()
}

fn wait_for(sim: &Sim, count: usize) -> Vec<Value> {
    until("messages at the hub", PATIENCE, || Some(sim.received()).filter(|received| received.len() >= count))
}

fn log(bridge: &Bridge) -> String {
    std::fs::read_to_string(&bridge.log).unwrap()
}

#[test]
fn a_publish_becomes_a_hub_message() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, "");
    send(&bridge, "t/press7", "{\"v\": 1}");
    send(&bridge, "elsewhere/x", "hello");
    send(&bridge, "drop/it", "x");
    send(&bridge, "$SYS/broker/connection/x/state", "1");
    send(&bridge, "json/press7", "{oops");
    send(&bridge, "devices/dev-01/messages/events/a=b&%24.ct=application%2Fjson", "{}");
    send(&bridge, "devices/dev-01/messages/events/a==b", "{}");
    send(&bridge, "t/big", &"x".repeat(300_000));
    let received = wait_for(&sim, 3);

    assert_eq!(bodies(&received), ["{\"v\": 1}", "hello", "{}"]);
    assert_eq!(received[0]["properties"], serde_json::json!({"device": "press7"}));
    assert_eq!(received[0]["system"]["content-type"], "application/json");
    assert_eq!(received[1]["properties"], serde_json::json!({"topic": "elsewhere/x"}));
    assert_eq!(received[1]["system"]["content-type"], "text/plain");
    assert_eq!(received[2]["properties"], serde_json::json!({"a": "b"}));
    assert!(received[2]["system"]["message-id"].is_null(), "what is addressed to the hub goes up as it is");

    until("delivery is counted", PATIENCE, || {
        (bridge.metric("brownbridge_messages_delivered_total") == 3.0).then_some(())
    });
    assert_conserved(&bridge);
    for (label, count) in [
        ("brownbridge_messages_dropped_total{reason=\"rule\"}", 1),
        ("brownbridge_messages_dropped_total{reason=\"system_topic\"}", 1),
        ("brownbridge_messages_quarantined_total{reason=\"not_json\"}", 1),
        ("brownbridge_rule_failures_total{rule=\"strict\",reason=\"not_json\"}", 1),
        ("brownbridge_messages_quarantined_total{reason=\"bad_property_bag\"}", 1),
        ("brownbridge_messages_quarantined_total{reason=\"too_large\"}", 1),
    ] {
        assert!(bridge.get("/metrics").contains(&format!("{label} {count}\n")), "{label}");
    }
    let kept = support::quarantined(dir.path());
    assert_eq!(kept.len(), 3);
    assert_eq!((kept[0]["payload"].as_str(), kept[0]["rule"].as_str()), (Some("{oops"), Some("strict")));

    assert!(bridge.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(bridge.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(bridge.get("/nowhere").starts_with("HTTP/1.1 404"));
    assert_eq!(bridge.process.terminate(), Some(0));
}

#[test]
fn unmatched_can_be_dropped_and_a_quiet_day_leaves_no_warning() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    std::fs::create_dir_all(dir.path().join("rules")).unwrap();
    std::fs::write(dir.path().join("rules/1.toml"), RULES).unwrap();
    let (mqtt, admin) = (free_port(), free_port());
    let config = format!(
        "state = \"state\"\nunmatched = \"drop\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n[uplink]\nconnection_string = \"{}\"\nca_file = \"sim/ca.pem\"\n\
         address = \"localhost:{}\"\n",
        sim.connection_string, sim.port
    );
    let mut bridge = Bridge::with_config(dir.path(), &config, (mqtt, admin));
    send(&bridge, "elsewhere/x", "hello");
    send(&bridge, "t/a", "1");
    assert_eq!(bodies(&wait_for(&sim, 1)), ["1"]);
    assert!(bridge.get("/metrics").contains("messages_dropped_total{reason=\"unmatched\"} 1\n"));
    assert_eq!(bridge.process.terminate(), Some(0));
    assert!(!log(&bridge).contains("WARN") && !log(&bridge).contains("ERROR"), "{}", log(&bridge));
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged() {
    let kills: u32 = std::env::var("BROWNBRIDGE_KILLS").map_or(4, |n| n.parse().unwrap());
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let address = Arc::new(Mutex::new(([127, 0, 0, 1], 1).into()));
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..3)
        .map(|n| {
            let (address, stop) = (Arc::clone(&address), Arc::clone(&stop));
            std::thread::spawn(move || number_publisher(address, format!("p{n}"), stop))
        })
        .collect();
    for n in 0..kills {
        let mut bridge = Bridge::start(dir.path(), &sim, RULES, "[spool]\nmax_size = \"64MiB\"");
        *address.lock().unwrap() = bridge.mqtt;
        // Killed at another depth of the load each time, not at a time of day.
        let deep = f64::from(50 + n * 397 % 2_000);
        until("load", PATIENCE, || (bridge.metric("brownbridge_publishes_received_total") > deep).then_some(()));
        bridge.process.kill();
    }
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, "[spool]\nmax_size = \"64MiB\"");
    *address.lock().unwrap() = bridge.mqtt;
    until("load", PATIENCE, || (bridge.metric("brownbridge_publishes_received_total") > 500.0).then_some(()));
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<String> = publishers.into_iter().flat_map(|p| p.join().unwrap()).collect();
    until("the spool drains", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    support::assert_ledger(&bridge, u64::from(kills), acknowledged.len() as u64);
    assert_eq!(bridge.metric("brownbridge_spool_lost_total"), 0.0);
    assert_eq!(bridge.process.terminate(), Some(0));
    // The simulator acknowledges before it prints; its end prints the rest.
    assert_eq!(sim.process.terminate(), Some(0));
    assert_nothing_missing(|| sim.received(), &acknowledged);
}

#[test]
fn a_line_cut_every_50_messages_loses_nothing() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--cut-every", "50"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, "backoff_min = \"5ms\"\nbackoff_max = \"20ms\"");
    let mut publisher = Publisher::connect(bridge.mqtt, "p").unwrap();
    let (mut out, mut sent) = (Vec::new(), Vec::new());
    for n in 0..1_000 {
        let id = format!("p-{n}");
        publisher.publish(&mut out, "t/p", format!("{{\"id\":\"{id}\"}}").as_bytes());
        sent.push(id);
    }
    publisher.flush(&mut out).unwrap();
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
    until("the spool drains", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_nothing_missing(|| sim.received(), &sent);
    assert!(sim.received().len() > sent.len(), "no line was cut");
    assert!(bridge.metric("brownbridge_uplink_reconnects_total") >= 20.0);
    let mut order = Vec::new();
    for body in bodies(&sim.received()) {
        if !order.contains(&body) {
            order.push(body);
        }
    }
    let expect: Vec<String> = sent.iter().map(|id| format!("{{\"id\":\"{id}\"}}")).collect();
    assert_eq!(order, expect, "first arrivals are in order");
    assert_conserved(&bridge);
}

#[test]
fn an_unreachable_hub_is_waited_for_over_a_restart() {
    let dir = folder();
    let sim_dir = dir.path().join("sim");
    let port = free_port();
    let mut sim = Sim::start(&sim_dir, port, &[]);
    sim.process.kill();
    let backoff = "backoff_min = \"10ms\"\nbackoff_max = \"50ms\"";
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, &format!("drain_timeout = \"50ms\"\n{backoff}"));
    send(&bridge, "t/a", "1");
    until("the trouble is told", PATIENCE, || bridge.get("/readyz").contains("cannot reach").then_some(()));
    assert!(bridge.get("/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!(bridge.process.terminate(), Some(0), "an unreachable hub is no failure");
    let sim = Sim::start(&sim_dir, port, &[]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, backoff);
    assert_eq!(bodies(&wait_for(&sim, 1)), ["1"]);
    until("counted", PATIENCE, || (bridge.metric("brownbridge_messages_delivered_total") == 1.0).then_some(()));
    assert_eq!(bridge.metric("brownbridge_spool_recovered_total"), 1.0);
    assert_conserved(&bridge);
}

#[test]
fn a_refusing_hub_is_explained_and_the_plant_goes_on() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--refuse"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, "");
    send(&bridge, "t/a", "1");
    until("the refusal is told", PATIENCE, || {
        let why = bridge.get("/readyz");
        (why.starts_with("HTTP/1.1 503") && why.contains("CONNACK 5") && why.contains("clock")).then_some(())
    });
    send(&bridge, "t/a", "2");
    assert!(log(&bridge).contains("the key"), "{}", log(&bridge));
    assert!(bridge.get("/metrics").contains("uplink_reconnects_total{reason=\"refused\"}"));
    assert!(!log(&bridge).contains("SharedAccess"), "no secret in the log");
}

#[test]
fn a_silent_hub_is_redialled() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--withhold-puback"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, "ack_timeout = \"1s\"\nbackoff_min = \"10ms\"");
    send(&bridge, "t/a", "1");
    until("redialled", PATIENCE, || {
        bridge.get("/metrics").contains("uplink_reconnects_total{reason=\"ack_timeout\"}").then_some(())
    });
    let received = wait_for(&sim, 2);
    assert_eq!(received[0]["system"]["message-id"], received[1]["system"]["message-id"]);
    assert_eq!(bridge.metric("brownbridge_spool_messages"), 1.0);
}

#[test]
fn a_token_is_renewed_without_a_message_lost_or_sent_twice() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, "token_lifetime = \"10s\"");
    let mut publisher = Publisher::connect(bridge.mqtt, "p").unwrap();
    let (mut out, mut sent) = (Vec::new(), 0);
    until("a renewal", PATIENCE, || {
        publisher.publish(&mut out, "t/p", format!("{sent}").as_bytes());
        sent += 1;
        publisher.flush(&mut out).unwrap();
        publisher.acknowledged().unwrap();
        bridge.get("/metrics").contains("uplink_reconnects_total{reason=\"token_renewal\"} 1\n").then_some(())
    });
    let received = wait_for(&sim, sent);
    let expect: Vec<String> = (0..sent).map(|n| n.to_string()).collect();
    assert_eq!(bodies(&received), expect);
    assert!(!log(&bridge).contains("WARN"), "{}", log(&bridge));
}

#[test]
fn a_certificate_instead_of_a_key() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--x509", "plc-7"]);
    let find = |ending: &str| {
        let files = std::fs::read_dir(&sim.dir).unwrap().map(|file| file.unwrap().path());
        let mut files =
            files.filter(|path| path.to_string_lossy().ends_with(ending) && path.to_string_lossy().contains("plc-7"));
        files.next().unwrap()
    };
    let keys = format!("certificate = {:?}\nkey = {:?}", find(".pem"), find(".key"));
    let bridge = Bridge::start(dir.path(), &sim, RULES, &keys);
    send(&bridge, "t/a", "1");
    let received = wait_for(&sim, 1);
    assert_eq!(received[0]["device"], "plc-7");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(bridge.metric("brownbridge_certificate_expiry_timestamp_seconds") > now);
    assert!(!bridge.get("/metrics").contains("sas_expiry"), "no token, no gauge");
}

#[test]
fn an_edge_is_reached_through_its_gateway_name() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--edge"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, "kind = \"edge\"");
    send(&bridge, "t/a", "1");
    assert_eq!(bodies(&wait_for(&sim, 1)), ["1"]);
}

#[test]
fn a_plain_broker_as_uplink_and_no_loop() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let hub_side = dir.path().join("hub-side");
    std::fs::create_dir_all(&hub_side).unwrap();
    let upper = Bridge::start(&hub_side, &sim, RULES, "");
    let lower = |name: &str, to: u16, mqtt: u16| {
        let dir = dir.path().join(name);
        std::fs::create_dir_all(dir.join("rules")).unwrap();
        std::fs::write(dir.join("rules/1.toml"), RULES).unwrap();
        let admin = free_port();
        let config = format!(
            "state = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [uplink]\nkind = \"mqtt\"\ntls = false\naddress = \"127.0.0.1:{to}\"\ntopic = \"up/{{device}}/{{properties}}\"\n\
             backoff_min = \"10ms\"\nbackoff_max = \"20ms\"\n"
        );
        Bridge::with_config(&dir, &config, (mqtt, admin))
    };
    let chained = lower("chained", upper.mqtt.port(), free_port());
    send(&chained, "t/press", "{}");
    let received = wait_for(&sim, 1);
    let topic = received[0]["properties"]["topic"].as_str().unwrap();
    assert!(topic.starts_with("up/press/%24.mid=") && topic.contains("device=press"), "{topic}");

    let own_port = free_port();
    let itself = lower("itself", own_port, own_port);
    send(&itself, "t/press", "{}");
    until("it is refused by itself", PATIENCE, || {
        itself.get("/metrics").contains("uplink_reconnects_total{reason=\"refused\"}").then_some(())
    });
    until("why is told, in a broker's words", PATIENCE, || {
        itself.get("/readyz").contains("does `address` lead back to this bridge?").then_some(())
    });
    assert_eq!(itself.metric("brownbridge_publishes_received_total"), 1.0);
}

#[test]
fn two_processes_never_share_a_spool() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let _first = Bridge::start(dir.path(), &sim, RULES, "");
    let text = std::fs::read_to_string(dir.path().join("bridge.toml")).unwrap();
    let moved = text.replace("listen = \"127.0.0.1:", "listen = \"127.0.0.2:");
    std::fs::write(dir.path().join("second.toml"), moved).unwrap();
    let (code, stderr) = run(dir.path(), &["run", "--config", "second.toml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("spool") && stderr.contains("in use"), "{stderr}");
}

#[test]
fn what_a_client_says_cannot_forge_or_flood_the_log() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, "");
    let long = "x".repeat(10_000);
    for (client_id, topic) in [("a\nforged", "t/a"), (long.as_str(), "json/a")] {
        let lines = || log(&bridge).matches("WARN").count();
        let before = lines();
        // What one client can cause at will is told once a second at most.
        until("a warning", PATIENCE, || {
            let mut publisher = Publisher::connect(bridge.mqtt, client_id).unwrap();
            let mut out = Vec::new();
            publisher.publish(&mut out, topic, b"{\"a\": nonsense\nforged");
            publisher.publish(&mut out, "t/+", b"");
            let _ = publisher.flush(&mut out);
            while publisher.acknowledged().is_ok() {}
            (lines() > before).then_some(())
        });
    }
    for line in log(&bridge).lines() {
        assert!(!line.starts_with("forged") && line.len() < 2_000, "{line}");
    }
}

#[test]
fn a_quarantine_that_cannot_be_written_does_not_keep_the_program_from_ending() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, "");
    send(&bridge, "t/a", "1");
    std::fs::remove_dir_all(dir.path().join("state/quarantine")).unwrap();
    let mut publisher = Publisher::connect(bridge.mqtt, "p").unwrap();
    let mut out = Vec::new();
    publisher.publish(&mut out, "json/a", b"{oops");
    publisher.flush(&mut out).unwrap();
    until("it is told", PATIENCE, || log(&bridge).contains("cannot be written").then_some(()));
    let (told, ended) = std::sync::mpsc::channel();
    let pid = rustix::process::Pid::from_raw(i32::try_from(bridge.process.id()).unwrap()).unwrap();
    std::thread::spawn(move || told.send(bridge.process.terminate()));
    let ended = ended.recv_timeout(PATIENCE);
    if ended.is_err() {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    assert_eq!(ended, Ok(Some(0)));
}

fn run(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(BINARY).args(args).current_dir(dir).env_remove("HUB_CONNECTION").output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_run_says_of_a_bad_start() {
    let hub = "[uplink]\nconnection_string = ";
    let good = "\"HostName=h;DeviceId=d;SharedAccessKey=a2V5\"\nca_file = \"ca.pem\"\n";
    for (config, code, expect) in [
        (None, 78, "cannot read bridge.toml"),
        (Some(String::new()), 78, "there is no [uplink]"),
        (Some(format!("{hub}\"${{HUB_CONNECTION}}\"")), 78, "`HUB_CONNECTION` is not set"),
        (
            Some(format!("{hub}\"HostName=h;SharedAccessKeyName=owner;SharedAccessKey=a2V5\"")),
            78,
            "device connection string is needed",
        ),
        (Some(format!("{hub}\"HostName=h;DeviceId=d;SharedAccessKey=not base64\"")), 78, "not base64"),
        (Some(format!("{hub}\"HostName=h;DeviceId=d;x509=true\"")), 78, "x509=true needs a certificate"),
        (Some(format!("{hub}{good}")), 78, "ca.pem: No such file"),
        (Some(format!("kind = \"edge\"\n{hub}{good}")), 78, "unknown key `kind`"),
        (Some(format!("rules = \"nowhere\"\n{hub}{good}")), 78, "cannot be read"),
        (Some(format!("{hub}{good}window = 0\n[spool]\nmax_sise = \"1GiB\"")), 78, "did you mean"),
    ] {
        let dir = folder();
        std::fs::create_dir(dir.path().join("rules")).unwrap();
        if let Some(config) = &config {
            std::fs::write(dir.path().join("bridge.toml"), config).unwrap();
        }
        let (got, stderr) = run(dir.path(), &["run", "--config", "bridge.toml"]);
        assert_eq!(got, Some(code), "{config:?}\n{stderr}");
        assert!(stderr.contains(expect), "{config:?}\n{stderr}");
        assert!(!stderr.contains("a2V5") && !stderr.contains("not base64\""), "no secret is shown: {stderr}");
    }
}
