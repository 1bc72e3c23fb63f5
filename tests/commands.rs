//! The way down with the real program: a service asks the simulated hub, plant clients hear of it and answer.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "commands/again.rs"]
mod again;
#[path = "commands/audit.rs"]
mod audit;
#[path = "commands/away.rs"]
mod away;
#[path = "commands/faults.rs"]
mod faults;
#[path = "commands/fence.rs"]
mod fence;
#[path = "commands/identity.rs"]
mod identity;
#[path = "commands/kept.rs"]
mod kept;
#[path = "commands/own.rs"]
mod own;
#[path = "commands/own_twin.rs"]
mod own_twin;
#[path = "support/plant.rs"]
mod plant;
#[path = "support/relay.rs"]
mod relay;
mod sim_client;
#[path = "commands/status.rs"]
mod status;
#[path = "commands/subscriptions.rs"]
mod subscriptions;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use brownbridge::hubsim::Running;
use plant::{Plant, launched, pair};
use relay::{Line, Relay};
use rumqttc::{MqttOptions, QoS};
use serde_json::{Value, json};
use sim_client::service::*;
use sim_client::{Messages, sim};
use support::*;

const RULES: &str = r##"
[[command]]
name    = "setpoint"
props   = { kind = "setpoint" }
topic   = "plant/{device}/set"
payload = "{.value}"

[[command]]
name   = "mode"
props  = { kind = "mode" }
topic  = "plant/{device}/mode"
retain = true

[[command]]
name  = "careful"
props = { kind = "careful" }
topic = "plant/{device}/do"
ack   = { topic = "plant/{device}/done", within = "10s" }

[[command]]
name  = "worded"
props = { kind = "worded" }
topic = "plant/{device}/do"
ack   = { topic = "plant/{device}/word", within = "10s", decode = { format = "binary", fields = [{ name = "w", type = "u16" }] } }

[[command]]
name  = "hasty"
props = { kind = "hasty" }
topic = "plant/{device}/do"
ack   = { topic = "plant/{device}/done", within = "1ms" }

[[command]]
name  = "single"
props = { kind = "single" }
topic = "plant/{device}/do"
once  = true
ack   = { topic = "plant/{device}/done", within = "10s" }

[[command]]
name  = "hurried"
props = { kind = "hurried" }
topic = "plant/{device}/do"
once  = true
ack   = { topic = "plant/{device}/done", within = "1ms" }

[[command]]
name  = "blind"
props = { kind = "blind" }
topic = "plant/{device}/do"
once  = true

[[command]]
name  = "stroke"
props = { kind = "stroke" }
topic = "plant/{device}/stroke/{id}"
once  = true

[[command]]
name  = "forbidden"
props = { kind = "forbidden" }
topic = "secret/{device}"

[[command]]
method   = "read"
decode   = "json"
topic    = "plant/{.machine}/read/{id}"
response = { topic = "plant/answers/{id}", within = "10s", status = ".code" }

[[command]]
method   = "impatient"
topic    = "plant/impatient"
response = { topic = "plant/impatient/answer", within = "2s" }

[[command]]
method   = "shared"
topic    = "plant/shared/{id}"
response = { topic = "plant/shared", when = ".ref == $id", status = ".code", remove = ["ref", "code"] }

[[command]]
method = "reset"
topic  = "plant/reset"
"##;

/// A lock of the hub whose end a test can wait for.
const LOCK: std::time::Duration = std::time::Duration::from_millis(200);
const COMMANDS: &str = "[commands]\nenabled = true\nallow = { \"*\" = [\"plant/#\"] }\n";

/// A bridge before the simulator.
struct World {
    sim: Running,
    /// While it is open the hub takes messages.
    messages: Messages,
    bridge: Bridge,
}

fn bridge(dir: &Path, sim: &Running, port: u16, what: (&str, &str)) -> Bridge {
    let bridge = launched(dir, sim, port, what);
    // A hub keeps a session's subscriptions, so they alone do not tell of a line.
    until("the uplink is up", PATIENCE, || (bridge.metric("brownbridge_uplink_connected") > 0.0).then_some(()));
    until("the bridge is subscribed", PATIENCE, || (!sim.subscriptions("gw").is_empty()).then_some(()));
    bridge
}

async fn world(dir: &Path, sections: &str) -> World {
    let (sim, messages) = sim(|_| ()).await;
    let bridge = bridge(dir, &sim, sim.local_addr().port(), (RULES, sections));
    World { sim, messages, bridge }
}

impl World {
    /// Sends a message to the gateway's own device; the status of the service's answer.
    async fn send(&self, headers: &str, body: &str) {
        let path = format!("/devices/gw/messages/devicebound?{API}");
        assert_eq!(ask(&self.sim, ("POST", &path), headers, body).await.0, 204);
    }

    /// A message with a kind, for a device behind the gateway.
    async fn command(&self, (kind, device, id): (&str, &str, &str), body: &str) {
        let headers = format!("iothub-app-kind: {kind}\r\niothub-app-device: {device}\r\niothub-messageid: {id}\r\n");
        self.send(&headers, body).await;
    }

    /// Messages that the hub has not seen acknowledged.
    async fn waiting(&self) -> u64 {
        let (_, device) = ask(&self.sim, ("GET", &format!("/devices/gw?{API}")), "", "").await;
        device["cloudToDeviceMessageCount"].as_u64().unwrap()
    }

    /// Cuts the line to the hub where it is used next, and waits until it is back.
    async fn cut(&self, relay: &Relay, plant: &Plant) {
        relay.set(Line { tear_after: Some(1), ..Line::default() });
        plant.says("other", "something for the hub, so that the line is used").await;
        let metric = |name| self.bridge.metric(name);
        until("the line is cut", PATIENCE, || (metric("brownbridge_uplink_reconnects_total") > 0.0).then_some(()));
        relay.set(Line::default());
        until("it is back", PATIENCE, || (metric("brownbridge_uplink_connected") > 0.0).then_some(()));
    }

    /// Waits until no command waits for anything.
    fn at_rest(&self) {
        until("no command waits", PATIENCE, || {
            (self.bridge.metric("brownbridge_commands_waiting") == 0.0).then_some(())
        });
    }

    async fn call(&self, method: &str, payload: Value) -> (u16, Value) {
        let body = json!({"methodName": method, "payload": payload, "responseTimeoutInSeconds": 30});
        ask(&self.sim, ("POST", &format!("/twins/gw/methods?{API}")), "", &body.to_string()).await
    }

    /// Waits until so many commands came to this end.
    fn ended(&self, outcome: &str, count: u64) {
        until(&format!("{count} {outcome}"), PATIENCE, || {
            let found = outcomes(&self.bridge).get(outcome).copied().unwrap_or(0);
            assert!(found <= count, "{found} {outcome}");
            (found == count).then_some(())
        });
    }
}

/// How often commands came to which end.
fn outcomes(bridge: &Bridge) -> BTreeMap<String, u64> {
    let page = bridge.get("/metrics");
    let mut found = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("brownbridge_commands_total{")) {
        let outcome = line.split("outcome=\"").nth(1).unwrap().split('"').next().unwrap();
        *found.entry(outcome.to_owned()).or_default() += line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    }
    found
}

/// The audit log: command, outcome, whether it is complete.
fn audit(dir: &Path) -> Vec<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (text(&line["command"]), text(&line["outcome"]), line["complete"].as_bool().unwrap())
    };
    std::fs::read_to_string(dir.join("state/commands.jsonl")).unwrap().lines().map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_become_publishes_and_are_acknowledged_when_their_command_says_so() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    assert_eq!(world.sim.subscriptions("gw"), ["devices/gw/messages/devicebound/#", "$iothub/methods/POST/#"]);
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;

    world.command(("setpoint", "press7", "m-1"), r#"{"value": 12.50}"#).await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "12.50"));
    world.send("iothub-app-kind: setpoint\r\n", r#"{"value": "own"}"#).await;
    assert_eq!(plant.hears().await, pair("plant/gw/set", "own"), "without the property the gateway is meant");
    world.command(("mode", "press7", "m-2"), "auto").await;
    assert_eq!(plant.hears().await, pair("plant/press7/mode", "auto"));
    world.ended("published", 3);
    let mut later = Plant::subscribed(world.bridge.mqtt, "later", "plant/+/mode").await;
    assert_eq!(later.hears().await, pair("plant/press7/mode", "auto"), "it is retained");

    // The same message id again is done once; it is the device and the id together that count.
    world.command(("setpoint", "press7", "m-1"), r#"{"value": 12.50}"#).await;
    world.ended("duplicate", 1);
    world.command(("setpoint", "press8", "m-1"), r#"{"value": 8}"#).await;
    assert_eq!(plant.hears().await, pair("plant/press8/set", "8"));
    until_empty(&world).await;

    world.command(("careful", "press7", "m-3"), "go").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));
    plant.says("plant/press8/done", "somebody else").await;
    plant.hears().await;
    assert_eq!(world.waiting().await, 1, "not before the answer");
    plant.says("plant/press7/done", "").await;
    world.ended("acknowledged", 1);
    until_empty(&world).await;

    world.command(("hasty", "press7", "m-4"), "quick").await;
    world.ended("ack_timeout", 1);
    assert_eq!(world.waiting().await, 1);
    plant.says("plant/press7/done", "").await;
    world.ended("acknowledged_late", 1);
    until_empty(&world).await;
    let last: Vec<_> = audit(dir.path()).into_iter().rev().take(3).collect();
    let line = |outcome: &str, complete| ("hasty".to_owned(), outcome.to_owned(), complete);
    let expect = [line("acknowledged_late", true), line("ack_timeout", false), line("published", false)];
    assert_eq!(last, expect);
    world.at_rest();
}

async fn until_empty(world: &World) {
    let began = std::time::Instant::now();
    while world.waiting().await > 0 {
        assert!(began.elapsed() < PATIENCE, "the hub has them still");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_acknowledged_and_counted() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    let big = "x".repeat(60_000);
    for (headers, body, outcome) in [
        ("iothub-app-kind: unheard of\r\n", "x", "no_rule"),
        ("", "x", "no_rule"),
        ("iothub-app-kind: setpoint\r\n", "{\"value\": ", "not_an_object"),
        ("iothub-app-kind: setpoint\r\n", "{}", "missing_field"),
        ("iothub-app-kind: mode\r\niothub-app-device: a/b\r\n", "x", "bad_topic"),
        ("iothub-app-kind: forbidden\r\n", "x", "not_allowed"),
    ] {
        let before = outcomes(&world.bridge).get(outcome).copied().unwrap_or(0);
        world.send(headers, body).await;
        world.ended(outcome, before + 1);
    }
    until_empty(&world).await;
    world.command(("mode", "press7", "big"), &big).await;
    assert_eq!(plant.hears().await.1.len(), big.len(), "nothing of the others was published");
    world.ended("published", 1);
    let written = audit(dir.path());
    assert!(written.len() == 7 && written.iter().all(|(_, _, complete)| *complete), "{written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_for_its_device_and_not_longer_than_it_may() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    world.command(("setpoint", "press7", "m-1"), r#"{"value": 1}"#).await;
    let soon = brownbridge::message::Timestamp(brownbridge::message::Timestamp::now().0 + 1_000);
    let short = format!("iothub-app-kind: setpoint\r\niothub-app-device: press9\r\niothub-expiry: {soon}\r\n");
    world.send(&short, r#"{"value": 9}"#).await;
    until("they wait", PATIENCE, || (world.bridge.metric("brownbridge_commands_waiting") >= 1.0).then_some(()));
    world.ended("expired", 1);
    assert_eq!(world.waiting().await, 2, "the hub is to tell that it has expired");
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/+/set").await;
    // A later one does not overtake it.
    world.command(("setpoint", "press7", "m-2"), r#"{"value": 2}"#).await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "1"));
    assert_eq!(plant.hears().await, pair("plant/press7/set", "2"));
    world.ended("published", 2);
    assert_eq!(world.waiting().await, 1, "the one that has expired, until its lock ends");
    world.at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_keep_a_command_has_not_got_it() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let at = world.bridge.mqtt;
    let away = || {
        let mut options = MqttOptions::new("plc", at.ip().to_string(), at.port());
        options.set_clean_session(false);
        options
    };
    let plant = Plant::with(away(), "plant/#", QoS::AtMostOnce).await;
    plant.client.disconnect().await.unwrap();
    until("it is away", PATIENCE, || (world.bridge.metric("brownbridge_broker_connections") == 0.0).then_some(()));
    let (_, answer) = world.call("reset", Value::Null).await;
    assert_eq!(answer["status"], 404, "{answer}");
    let (_, answer) = world.call("read", json!({"machine": "m"})).await;
    assert_eq!(answer["status"], 404, "{answer}");
    world.command(("setpoint", "press7", "m-1"), r#"{"value": 1}"#).await;
    world.command(("careful", "press7", "m-2"), "go").await;
    until("they wait", PATIENCE, || (world.bridge.metric("brownbridge_commands_waiting") >= 2.0).then_some(()));
    assert_eq!(world.waiting().await, 2, "the hub has them still");
    let mut plant = Plant::with(away(), "plant/#", QoS::AtMostOnce).await;
    let mut heard = [plant.hears().await, plant.hears().await];
    heard.sort();
    assert_eq!(heard, [pair("plant/press7/do", "go"), pair("plant/press7/set", "1")]);
    plant.says("plant/press7/done", "").await;
    world.ended("acknowledged", 1);
    world.ended("published", 1);
    until_empty(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_or_a_crash_before_the_answer_brings_the_command_again() {
    let dir = folder();
    let (sim, messages) = sim(|options| options.keeping.lock = LOCK).await;
    let relay = Relay::start(sim.local_addr());
    let first = bridge(dir.path(), &sim, relay.port, (RULES, COMMANDS));
    let mut world = World { sim, messages, bridge: first };
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    world.command(("careful", "press7", "m-1"), "go").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));

    // Cut: the hub sends it again on the next connection, and the plant is not asked twice.
    world.cut(&relay, &plant).await;
    plant.says("plant/press7/done", "").await;
    assert_eq!(plant.hears().await.0, "plant/press7/done", "it was not published again");
    world.ended("acknowledged", 1);
    until_empty(&world).await;

    // Crash: the next bridge has it again, and publishes it again.
    world.command(("careful", "press7", "m-2"), "once more").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "once more"));
    world.bridge.process.kill();
    let port = world.sim.local_addr().port();
    world.bridge = bridge(dir.path(), &world.sim, port, (RULES, COMMANDS));
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "once more"));
    plant.says("plant/press7/done", "").await;
    world.ended("acknowledged", 1);
    until_empty(&world).await;
    // What was done before the crash is known.
    world.command(("careful", "press7", "m-1"), "go").await;
    world.ended("duplicate", 1);
    until_empty(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_answered_by_the_plant_or_say_why_not() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let no_device = world.call("reset", Value::Null).await;
    assert_eq!((no_device.0, &no_device.1["status"]), (200, &json!(404)), "{no_device:?}");
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;

    let device = async {
        for (status, answer) in [(200, r#"{"rpm": 1450}"#), (409, r#"{"code": 409}"#), (200, "running")] {
            let (topic, body) = plant.hears().await;
            assert_eq!(body, r#"{"machine":"press7"}"#);
            let id = topic.strip_prefix("plant/press7/read/").unwrap();
            plant.says(&format!("plant/answers/{id}"), answer).await;
            assert_eq!(plant.hears().await.1, answer, "{status}");
        }
    };
    let calls = async {
        for expect in [
            json!({"status": 200, "payload": {"rpm": 1450}}),
            json!({"status": 409, "payload": {"code": 409}}),
            json!({"status": 200, "payload": "running"}),
        ] {
            assert_eq!(world.call("read", json!({"machine": "press7"})).await, (200, expect));
        }
    };
    tokio::join!(device, calls);
    world.ended("answered", 3);

    for (method, payload, status, outcome) in [
        ("impatient", Value::Null, 504, "timeout"),
        ("unheard of", Value::Null, 404, "no_rule"),
        ("read", json!("no object"), 400, "not_an_object"),
        ("read", json!({"other": 1}), 400, "missing_field"),
        ("reset", Value::Null, 200, "published"),
    ] {
        let before = outcomes(&world.bridge).get(outcome).copied().unwrap_or(0);
        let (_, answer) = world.call(method, payload).await;
        assert_eq!(answer["status"], status, "{method}: {answer}");
        world.ended(outcome, before + 1);
    }
    // Nobody took what the plant said in answer for telemetry.
    until("they are dropped", PATIENCE, || {
        (world.bridge.metric("brownbridge_messages_dropped_total") == 3.0).then_some(())
    });
    let (_, pong) = world.call("ping", Value::Null).await;
    assert_eq!(pong["payload"]["version"], env!("CARGO_PKG_VERSION"));
    let (_, state) = world.call("status", Value::Null).await;
    assert_eq!(state["payload"]["spool"]["waiting"], 0, "{state}");
    let (_, shown) = world.call("get-config", Value::Null).await;
    let shown = shown["payload"]["bridge.toml"].as_str().unwrap();
    assert!(shown.contains("[commands]") && shown.contains("SharedAccessKey=****"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_are_taken_up_bring_their_subscriptions() {
    let dir = folder();
    let (sim, messages) = sim(|_| ()).await;
    let sections = "[commands]\nenabled = true\n";
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), ("", sections));
    let world = World { sim, messages, bridge };
    assert_eq!(world.sim.subscriptions("gw"), ["$iothub/methods/POST/#"], "no command wants messages");
    std::fs::write(dir.path().join("rules/1.toml"), RULES).unwrap();
    until("it subscribes to messages", PATIENCE, || (world.sim.subscriptions("gw").len() == 2).then_some(()));
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    world.command(("setpoint", "press7", "m-1"), r#"{"value": 1}"#).await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "1"));
    let page = world.bridge.get("/metrics");
    assert!(page.contains("brownbridge_uplink_reconnects_total{reason=\"subscriptions\"} 1\n"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_connection_of_its_own_is_commanded_on_it() {
    let dir = folder();
    let (sim, mut messages) = sim(|_| ()).await;
    let sections = format!(
        "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\ngroup_key_file = {:?}\n[commands]\nenabled = true\n",
        sim.ca_file().with_file_name("master.key")
    );
    let rules = format!("{RULES}\n[[rule]]\nname = \"t\"\ntopic = \"t/{{d}}\"\ndevice = \"{{d}}\"\n");
    let bridge = launched(dir.path(), &sim, sim.local_addr().port(), (&rules, &sections));
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    // Its line opens with its first message, and brings what waits for it.
    let path = format!("/devices/press7/messages/devicebound?{API}");
    assert_eq!(ask(&sim, ("POST", &path), "iothub-app-kind: setpoint\r\n", r#"{"value": 1}"#).await.0, 204);
    plant.says("t/press7", "1").await;
    let up = sim_client::take(&mut messages, 1).await;
    assert_eq!(up[0].source.device, "press7");
    assert_eq!(plant.hears().await, pair("plant/press7/set", "1"));
    let body = r#"{"methodName": "reset", "responseTimeoutInSeconds": 30}"#;
    let path = format!("/twins/press7/methods?{API}");
    assert_eq!(ask(&sim, ("POST", &path), "", body).await, (200, json!({"status": 200, "payload": null})));
    assert_eq!(plant.hears().await.0, "plant/reset");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_does_everything_but_publish() {
    let dir = folder();
    let world = world(dir.path(), "[commands]\nenabled = true\ndry_run = true\nown_methods = false\n").await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    world.command(("setpoint", "press7", "m-1"), r#"{"value": 1}"#).await;
    world.ended("dry_run", 1);
    let (_, answer) = world.call("reset", Value::Null).await;
    assert_eq!(answer, json!({"status": 200, "payload": {"dry_run": true, "topics": ["plant/reset"]}}));
    assert_eq!(world.call("ping", Value::Null).await.1["status"], 404);
    plant.says("plant/last", "").await;
    assert_eq!(plant.hears().await.0, "plant/last", "nothing before it");
    until_empty(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_no_more_than_its_rate_and_nothing_goes_up_again() {
    let dir = folder();
    let sections = "[commands]\nenabled = true\nrate = 2\n";
    let (sim, messages) = sim(|_| ()).await;
    let rules = format!("{RULES}\n[[rule]]\nname = \"all\"\ntopic = \"#\"\ndevice = \"all\"\n");
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (&rules, sections));
    let mut world = World { sim, messages, bridge };
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    for n in 0..4 {
        world.command(("setpoint", "press7", &format!("m-{n}")), &format!("{{\"value\": {n}}}")).await;
    }
    for n in 0..4 {
        assert_eq!(plant.hears().await, pair("plant/press7/set", &n.to_string()), "in their order");
    }
    world.ended("published", 4);
    plant.says("up", "the only one").await;
    let up = sim_client::take(&mut world.messages, 1).await;
    assert_eq!(up[0].body, b"the only one"[..]);
}
