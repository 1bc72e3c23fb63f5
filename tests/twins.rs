//! Twins with the real program: what plant clients publish is reported, what a service desires is published to them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "twins/fence.rs"]
mod fence;
#[path = "support/plant.rs"]
mod plant;
#[path = "support/relay.rs"]
mod relay;
mod sim_client;
mod support;

use std::path::Path;
use std::time::Instant;

use brownbridge::hubsim::{Misbehave, Running};
use plant::{Plant, launched, pair};
use relay::{Line, Relay};
use serde_json::{Value, json};
use sim_client::service::*;
use sim_client::{Messages, sim};
use support::*;

const REPORTED: &str = r#"
[[rule]]
name   = "state"
topic  = "plant/{machine}/state"
device = "{machine}"
to     = "reported"
every  = "50ms"

[[rule]]
name   = "tools"
topic  = "plant/{machine}/tool/{nr}"
device = "{machine}"
to     = "reported"
at     = "tools.{nr}"
every  = "50ms"

[[rule]]
name     = "both"
topic    = "plant/{machine}/both"
device   = "{machine}"
to       = "reported"
every    = "50ms"
continue = true

[[rule]]
name   = "telemetry"
topic  = "plant/{machine}/both"
device = "{machine}"
"#;

struct World {
    sim: Running,
    /// While it is open the hub takes messages.
    messages: Messages,
    bridge: Bridge,
}

async fn world(dir: &Path, rules: &str, misbehave: Misbehave, sections: &str) -> World {
    let (sim, messages) = sim(|options| options.misbehave = misbehave).await;
    let bridge = launched(dir, &sim, sim.local_addr().port(), (rules, sections));
    World { sim, messages, bridge }
}

/// The twin as a service sees it.
async fn twin(sim: &Running, device: &str) -> Value {
    ask(sim, ("GET", &format!("/twins/{device}?{API}")), "", "").await.1
}

/// Waits until a part of the reported properties is so.
async fn reported(sim: &Running, device: &str, pointer: &str, expect: Value) {
    let began = Instant::now();
    loop {
        let twin = twin(sim, device).await;
        let found = twin["properties"]["reported"].pointer(pointer).cloned().unwrap_or(Value::Null);
        if found == expect {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{pointer} is {found} and not {expect}");
    }
}

/// How many changes of reported properties ended so.
fn ended(bridge: &Bridge, outcome: &str) -> f64 {
    let page = bridge.get("/metrics");
    let wanted = format!("brownbridge_reported_ended_total{{outcome=\"{outcome}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0.0)
}

/// All that was taken to be reported is over, or waits.
fn assert_balanced(bridge: &Bridge, waiting: f64) {
    until("the books of what is reported balance", PATIENCE, || {
        let page = bridge.get("/metrics");
        let m = |name: &str| metric(&page, &format!("brownbridge_reported_{name}"));
        let (came, ended) = (m("changes_total") + m("recovered_total"), m("ended_total"));
        (came == ended + waiting && m("waiting") == waiting).then_some(())
    });
    assert_conserved(bridge);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plant_says_is_reported_and_only_changes_are() {
    let dir = folder();
    let mut world = world(dir.path(), REPORTED, Misbehave::default(), "").await;
    let at = world.bridge.mqtt;
    publish_all(at, "plant/press.7/state", [r#"{"mode":"auto","speed":{"set":5,"is":4}}"#]);
    publish_all(at, "plant/press.7/tool/1", [r#"{"wear":0.5}"#, r#"{"wear":0.6,"name":"drill"}"#]);
    publish_all(at, "plant/gw/state", [r#"{"own":true}"#]);
    reported(&world.sim, "gw", "/devices/press%2E7/speed", json!({"set": 5, "is": 4})).await;
    reported(&world.sim, "gw", "/devices/press%2E7/tools/1", json!({"wear": 0.6, "name": "drill"})).await;
    reported(&world.sim, "gw", "/own", json!(true)).await;
    assert_eq!(world.sim.subscriptions("gw"), ["$iothub/twin/res/#"], "no more than is needed");

    publish_all(at, "plant/press.7/state", [r#"{"speed":{"is":null},"mode":"auto"}"#]);
    reported(&world.sim, "gw", "/devices/press%2E7/speed", json!({"set": 5})).await;
    assert_balanced(&world.bridge, 0.0);
    let version = twin(&world.sim, "gw").await["properties"]["reported"]["$version"].clone();
    let before = ended(&world.bridge, "unchanged");
    publish_all(at, "plant/press.7/state", [r#"{"mode":"auto"}"#, r#"{"gone":null}"#]);
    assert_balanced(&world.bridge, 0.0);
    assert_eq!(ended(&world.bridge, "unchanged") - before, 2.0);
    assert_eq!(twin(&world.sim, "gw").await["properties"]["reported"]["$version"], version, "nothing was sent");

    publish_all(at, "plant/press8/both", [r#"{"x":1}"#]);
    reported(&world.sim, "gw", "/devices/press8", json!({"x": 1})).await;
    let received = sim_client::take(&mut world.messages, 1).await;
    assert_eq!(received[0].body, r#"{"x":1}"#, "and a message besides");
    assert_balanced(&world.bridge, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_goes_to_the_quarantine() {
    let dir = folder();
    let world = world(dir.path(), REPORTED, Misbehave::default(), "").await;
    let text = "x".repeat(4097);
    let nearly = format!(r#"{{"a":"{0}","b":"{0}","c":"{0}","d":"{0}","e":"{0}","f":"{0}"}}"#, "y".repeat(4000));
    let payloads =
        [r#"{"a.b":1}"#, "12", "no json", &format!(r#"{{"a":"{text}"}}"#), &nearly, &nearly.replace("\"a\"", "\"z\"")];
    publish_all(world.bridge.mqtt, "plant/press7/state", payloads);
    publish_all(world.bridge.mqtt, "plant/press8/state", [nearly.as_str()]);
    reported(&world.sim, "gw", "/devices/press7/f", json!("y".repeat(4000))).await;
    let found = quarantined(dir.path());
    let reasons: Vec<_> =
        found.iter().map(|entry| (entry["rule"].as_str().unwrap(), entry["reason"].as_str().unwrap())).collect();
    let expect =
        ["bad_twin", "not_an_object", "not_an_object", "bad_twin", "twin_full"].map(|reason| ("state", reason));
    assert_eq!(reasons, expect);
    assert_balanced(&world.bridge, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_and_a_crash_lose_no_last_value() {
    let dir = folder();
    let (sim, _messages) = sim(|_| ()).await;
    let relay = Relay::start(sim.local_addr());
    let mut bridge = launched(dir.path(), &sim, relay.port, (REPORTED, ""));
    publish_all(bridge.mqtt, "plant/press7/state", [r#"{"a":{"x":1},"b":1}"#]);
    reported(&sim, "gw", "/devices/press7", json!({"a": {"x": 1}, "b": 1})).await;

    // What is acknowledged while the hub is away survives a crash, and arrives as one change.
    relay.set(Line { partition: true, ..Line::default() });
    let payloads: Vec<_> = (0..200).map(|n| format!(r#"{{"a":"text","c":{n}}}"#)).collect();
    publish_all(bridge.mqtt, "plant/press7/state", payloads.iter().map(String::as_str));
    publish_all(bridge.mqtt, "plant/press7/state", [r#"{"a":{"y":2},"b":null}"#]);
    bridge.process.kill();
    let version = twin(&sim, "gw").await["properties"]["reported"]["$version"].as_u64().unwrap();
    bridge = launched(dir.path(), &sim, sim.local_addr().port(), (REPORTED, ""));
    reported(&sim, "gw", "/devices/press7", json!({"a": {"y": 2}, "c": 199})).await;
    let now = twin(&sim, "gw").await["properties"]["reported"]["$version"].as_u64().unwrap();
    assert!(now <= version + 2, "{version} {now}: what was under way when the line went silent, and all the rest");
    assert_balanced(&bridge, 0.0);
    assert!(metric(&bridge.get("/metrics"), "brownbridge_reported_recovered_total") >= 200.0);

    // The next start has nothing left to say.
    bridge.process.kill();
    bridge = launched(dir.path(), &sim, sim.local_addr().port(), (REPORTED, ""));
    assert_balanced(&bridge, 0.0);
    assert_eq!(bridge.metric("brownbridge_reported_recovered_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_followed_by_another_try_or_told() {
    for (status, arrives) in [(429, true), (503, true), (400, false), (413, false)] {
        let dir = folder();
        let misbehave = Misbehave { twin_status: Some((status, 1)), ..Misbehave::default() };
        let world = world(dir.path(), REPORTED, misbehave, "").await;
        publish_all(world.bridge.mqtt, "plant/press7/state", [r#"{"a":1}"#]);
        if arrives {
            reported(&world.sim, "gw", "/devices/press7", json!({"a": 1})).await;
        } else {
            until("it is refused", PATIENCE, || (ended(&world.bridge, "refused") == 1.0).then_some(()));
            publish_all(world.bridge.mqtt, "plant/press7/state", [r#"{"b":1}"#]);
            reported(&world.sim, "gw", "/devices/press7", json!({"b": 1})).await;
        }
        assert_balanced(&world.bridge, 0.0);
        let page = world.bridge.get("/status");
        let page: Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
        let twins = &page["twins"];
        let refused = &twins["last_refused"];
        assert_eq!((&twins["count"], &twins["waiting"]), (&json!(1), &json!(0)), "{twins}");
        assert_eq!((&twins["listed"][0]["device"], &twins["listed"][0]["reported_version"]), (&json!("gw"), &json!(2)));
        match arrives {
            true => assert!(refused.is_null(), "{twins}"),
            false => assert_eq!((&refused["status"], &refused["device"]), (&json!(status), &json!("gw")), "{twins}"),
        }
    }
}

const DESIRED: &str = r#"
[[desired]]
name        = "motor"
device      = "press-{nr}"
at          = "motor"
topic       = "plant/press{nr}/set/{path}"
when        = ".value <= 80"
acknowledge = true

[[desired]]
name   = "mode"
device = "press-*"
when   = '.path == "mode"'
topic  = "plant/{device}/{name}"
payload = "mode={.value}"

[[desired]]
name        = "forbidden"
device      = "oven"
topic       = "secret/{name}"
acknowledge = true

[[desired]]
name   = "recipe"
device = "oven"
at     = "recipe"
split  = "whole"
topic  = "plant/{device}/recipe"
retain = false
"#;

const COMMANDS: &str = "[commands]\nenabled = true\nallow = { \"*\" = [\"plant/#\"] }\nown_methods = false\nrate = 0\n";

/// A service patches what is desired of a device behind the gateway.
async fn desire(sim: &Running, device: &str, properties: Value) {
    let desired = if device.is_empty() { properties } else { json!({"devices": {device: properties}}) };
    let body = json!({"properties": {"desired": desired}}).to_string();
    assert_eq!(ask(sim, ("PATCH", &format!("/twins/gw?{API}")), "", &body).await.0, 200);
}

/// Waits until commands or desired properties came to this end so often.
fn came_to(bridge: &Bridge, rule: &str, outcome: &str, count: f64) {
    let wanted = format!("brownbridge_commands_total{{command=\"{rule}\",outcome=\"{outcome}\"}} ");
    until(&format!("{rule} {outcome} {count}"), PATIENCE, || {
        let page = bridge.get("/metrics");
        let found = page.lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0.0);
        assert!(found <= count, "{rule} {outcome}: {found}");
        (found == count).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_desired_is_retained_and_nothing_is_published_twice() {
    let dir = folder();
    let (sim, _messages) = sim(|_| ()).await;
    let relay = Relay::start(sim.local_addr());
    desire(&sim, "press-7", json!({"motor": {"speed": 12.5}, "mode": "auto"})).await;
    let mut bridge = launched(dir.path(), &sim, relay.port, (DESIRED, COMMANDS));
    came_to(&bridge, "mode", "published", 1.0);
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    let mut heard = [plant.hears().await, plant.hears().await];
    heard.sort();
    assert_eq!(heard, [pair("plant/press-7/mode", "mode=auto"), pair("plant/press7/set/speed", "12.5")], "retained");
    let subscriptions = ["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"];
    until("it listens", PATIENCE, || (sim.subscriptions("gw") == subscriptions).then_some(()));
    let answer = |value: Value, code: u16, version: u64, detail: &str| json!({"value": value, "ac": code, "av": version, "ad": detail});
    reported(&sim, "gw", "/devices/press-7/motor/speed", answer(json!(12.5), 200, 2, "published")).await;

    // Only what changes is published, and what goes away is cleared.
    desire(&sim, "press-7", json!({"motor": {"speed": 12.5, "ramp": 3}, "mode": null})).await;
    let mut heard = [plant.hears().await, plant.hears().await];
    heard.sort();
    assert_eq!(heard, [pair("plant/press-7/mode", ""), pair("plant/press7/set/ramp", "3")]);

    // While the line is cut, and over a restart: the last value counts.
    relay.set(Line { tear_after: Some(1), ..Line::default() });
    plant.says("plant/line/is/used", "1").await;
    plant.hears().await;
    desire(&sim, "press-7", json!({"motor": {"ramp": 4}})).await;
    desire(&sim, "press-7", json!({"motor": {"ramp": 5}})).await;
    relay.set(Line::default());
    assert_eq!(plant.hears().await, pair("plant/press7/set/ramp", "5"));
    reported(&sim, "gw", "/devices/press-7/motor/ramp", answer(json!(5), 200, 5, "published")).await;
    bridge.process.kill();
    desire(&sim, "press-7", json!({"motor": {"speed": null, "ramp": 6}})).await;
    bridge = launched(dir.path(), &sim, sim.local_addr().port(), (DESIRED, COMMANDS));
    came_to(&bridge, "motor", "published", 1.0);
    came_to(&bridge, "(removed)", "cleared", 1.0);
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    assert_eq!(plant.hears().await, pair("plant/press7/set/ramp", "6"), "and nothing else is retained");
    assert_balanced(&bridge, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_bounds_what_is_desired() {
    let dir = folder();
    let world = world(dir.path(), DESIRED, Misbehave::default(), COMMANDS).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    desire(&world.sim, "press-7", json!({"motor": {"speed": 81}})).await;
    desire(&world.sim, "oven", json!({"door": "open", "a/b": 1})).await;
    came_to(&world.bridge, "forbidden", "not_allowed", 1.0);
    came_to(&world.bridge, "forbidden", "bad_topic", 1.0);
    reported(&world.sim, "gw", "/devices/oven/door/ac", json!(403)).await;
    reported(&world.sim, "gw", "/devices/oven/a~1b/ac", json!(400)).await;
    desire(&world.sim, "unheard-of", json!({"x": 1})).await;
    desire(&world.sim, "press-7", json!({"motor": {"speed": 80}})).await;
    assert_eq!(plant.hears().await, pair("plant/press7/set/speed", "80"), "nothing of the others is published");
    came_to(&world.bridge, "motor", "published", 1.0);
    came_to(&world.bridge, "forbidden", "not_allowed", 1.0);
    came_to(&world.bridge, "forbidden", "bad_topic", 1.0);
    let audit = std::fs::read_to_string(dir.path().join("state/commands.jsonl")).unwrap();
    let outcomes: Vec<Value> =
        audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["outcome"].clone()).collect();
    for outcome in ["published", "not_allowed", "bad_topic"] {
        assert!(outcomes.contains(&json!(outcome)), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_refused_leaves_the_good_one_in_force() {
    let dir = folder();
    let (sim, _messages) = sim(|_| ()).await;
    let start = || launched(dir.path(), &sim, sim.local_addr().port(), (DESIRED, COMMANDS));
    let mut bridge = start();
    let said = |value: Value, code: u16, version: u64, detail: &str| {
        let answer = json!({"value": value, "ac": code, "av": version, "ad": detail});
        reported(&sim, "gw", "/devices/press-7/motor/speed", answer)
    };
    let beyond = "beyond `when`: .value <= 80";
    desire(&sim, "press-7", json!({"motor": {"speed": 500}})).await;
    said(json!(500), 400, 2, beyond).await;
    desire(&sim, "press-7", json!({"motor": {"speed": 12.5}})).await;
    said(json!(12.5), 200, 3, "published").await;
    desire(&sim, "press-7", json!({"motor": {"speed": 500}})).await;
    said(json!(500), 400, 4, beyond).await;
    came_to(&bridge, "motor", "beyond_when", 2.0);
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    let speed = |payload: &str| pair("plant/press7/set/speed", payload);
    assert_eq!(plant.hears().await, speed("12.5"), "what was good stays");
    let audit = std::fs::read_to_string(dir.path().join("state/commands.jsonl")).unwrap();
    let last: Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
    let told = ["outcome", "command", "device", "detail", "id"].map(|key| last[key].clone());
    assert_eq!(json!(told), json!(["beyond_when", "motor", "press-7", beyond, 4]));

    // Over a restart; and the good value again is nothing to publish, but an answer.
    bridge.process.kill();
    bridge = start();
    desire(&sim, "press-7", json!({"motor": {"speed": 12.5}})).await;
    said(json!(12.5), 200, 5, "published").await;
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    assert_eq!(plant.hears().await, speed("12.5"));
    desire(&sim, "press-7", json!({"motor": {"speed": null}})).await;
    assert_eq!(plant.hears().await, speed(""), "what is desired no more is cleared");
    came_to(&bridge, "motor", "published", 0.0);
    came_to(&bridge, "(removed)", "cleared", 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_retained_waits_for_somebody() {
    let dir = folder();
    let world = world(dir.path(), DESIRED, Misbehave::default(), COMMANDS).await;
    desire(&world.sim, "oven", json!({"recipe": {"name": "bread", "minutes": 40}})).await;
    let twins = || metric(&world.bridge.get("/metrics"), "brownbridge_twin_answers_total");
    until("the twin is there", PATIENCE, || (twins() > 0.0).then_some(()));
    desire(&world.sim, "oven", json!({"recipe": {"minutes": 42}})).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    let (topic, body) = plant.hears().await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((topic.as_str(), body), ("plant/oven/recipe", json!({"name": "bread", "minutes": 42})), "the last");
    came_to(&world.bridge, "recipe", "published", 1.0);
}

const EACH: &str =
    "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\ngroup_key_file = \"GROUP\"\nidle_timeout = \"1s\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_connection_of_its_own_has_a_twin_of_its_own() {
    let dir = folder();
    let hub = dir.path().join("hub");
    let (sim, _messages) = sim(|options| options.dir = Some(hub.clone())).await;
    let sections = EACH.replace("GROUP", hub.join("master.key").to_str().unwrap());
    let bridge = launched(dir.path(), &sim, sim.local_addr().port(), (REPORTED, &sections));
    publish_all(bridge.mqtt, "plant/press7/state", [r#"{"a":1}"#]);
    publish_all(bridge.mqtt, "plant/press8/both", [r#"{"b":1}"#]);
    publish_all(bridge.mqtt, "plant/gw/state", [r#"{"own":1}"#]);
    for (device, pointer) in [("press7", "/a"), ("press8", "/b"), ("gw", "/own")] {
        reported(&sim, device, pointer, json!(1)).await;
    }
    assert_balanced(&bridge, 0.0);
    let closed = async || {
        let began = Instant::now();
        while twin(&sim, "press7").await["connectionState"] == "Connected" {
            assert!(began.elapsed() < PATIENCE, "its line stays open");
        }
    };
    closed().await;
    publish_all(bridge.mqtt, "plant/press7/state", [r#"{"a":2}"#]);
    reported(&sim, "press7", "/a", json!(2)).await;
    assert_balanced(&bridge, 0.0);
}
