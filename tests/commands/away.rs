//! What becomes of a command whose device is away, with a session that keeps what it is sent.

use super::*;

/// A plant client with a session that lasts.
pub(super) async fn lasting(world: &World, filter: &str) -> Plant {
    let at = world.bridge.mqtt;
    let mut options = MqttOptions::new("plc9", at.ip().to_string(), at.port());
    options.set_clean_session(false);
    Plant::with(options, filter, QoS::AtLeastOnce).await
}

pub(super) async fn leaves(world: &World, plant: Plant) {
    plant.client.disconnect().await.unwrap();
    until("it is away", PATIENCE, || (world.bridge.metric("brownbridge_broker_connections") == 0.0).then_some(()));
}

fn headers(kind: &str, id: &str, good_for: i64) -> String {
    let at = brownbridge::message::Timestamp(brownbridge::message::Timestamp::now().0 + good_for);
    format!(
        "iothub-app-kind: {kind}\r\niothub-app-device: press9\r\niothub-messageid: {id}\r\niothub-ack: full\r\n\
         iothub-expiry: {at}\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_given_up_is_carried_out_on_return() {
    let dir = folder();
    let (sim, messages) = sim(|options| options.keeping.lock = LOCK).await;
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (RULES, COMMANDS));
    let world = World { sim, messages, bridge };
    let plant = lasting(&world, "plant/#").await;
    leaves(&world, plant).await;
    for (method, topic) in [("reset", "plant/reset"), ("impatient", "plant/impatient")] {
        let (_, answer) = world.call(method, Value::Null).await;
        let why = format!("nobody who subscribes to {topic} is connected");
        assert_eq!(answer, json!({"status": 404, "payload": {"error": why}}));
    }
    world.send(&headers("setpoint", "m-1", 1_000), r#"{"value": 1}"#).await;
    assert_eq!(feedback(&world.sim, 1).await, [told("m-1", "Expired")]);
    // What nobody has given up waits in the session.
    world.command(("setpoint", "press9", "m-2"), r#"{"value": 2}"#).await;
    world.ended("published", 1);
    let mut plant = lasting(&world, "plant/#").await;
    assert_eq!(plant.hears().await, pair("plant/press9/set", "2"));
    plant.says("plant/marker", "").await;
    assert_eq!(plant.hears().await.0, "plant/marker", "nothing else");
    world.ended("no_device", 2);
    world.ended("timeout", 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_time_reaches_who_comes_back() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let plant = lasting(&world, "plant/#").await;
    leaves(&world, plant).await;
    world.send(&headers("setpoint", "m-1", 600_000), r#"{"value": 1}"#).await;
    until("it waits", PATIENCE, || (world.bridge.metric("brownbridge_commands_waiting") == 1.0).then_some(()));
    assert_eq!(world.waiting().await, 1, "the hub is not told that it succeeded");
    // To be retained does, for as long as it may: it is not retained for ever.
    world.send(&headers("mode", "m-2", 5_000), "auto").await;
    world.ended("published", 1);
    let mut plant = lasting(&world, "plant/#").await;
    // The session has it, and to subscribe again brings it as retained.
    let mut heard = vec![plant.hears().await, plant.hears().await, plant.hears().await];
    heard.sort();
    let mode = pair("plant/press9/mode", "auto");
    assert_eq!(heard, [mode.clone(), mode, pair("plant/press9/set", "1")]);
    let mut done = feedback(&world.sim, 2).await;
    done.sort();
    assert_eq!(done, [told("m-1", "Success"), told("m-2", "Success")]);
    let began = std::time::Instant::now();
    loop {
        let mut late = Plant::subscribed(world.bridge.mqtt, "late", "plant/#").await;
        late.says("plant/marker", "").await;
        if late.hears().await.0 == "plant/marker" {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it is still retained");
    }
}

const SEVERAL: &str = r#"
[[command]]
name   = "both"
props  = { kind = "both" }
script = '{to: "a"}, {to: "b"}'
topic  = "plant/{.to}"

[[command]]
name   = "both as a call"
method = "both"
script = '{to: "a"}, {to: "b"}'
topic  = "plant/{.to}"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn several_publishes_go_together_or_not_at_all() {
    let dir = folder();
    let (sim, messages) = sim(|_| ()).await;
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (SEVERAL, COMMANDS));
    let world = World { sim, messages, bridge };
    let mut one = Plant::subscribed(world.bridge.mqtt, "one", "plant/a").await;
    world.command(("both", "press9", "m-1"), "{}").await;
    let (_, answer) = world.call("both", json!({})).await;
    assert_eq!(answer, json!({"status": 404, "payload": {"error": "nobody subscribes to plant/b"}}));
    one.says("plant/a", "nothing before this").await;
    assert_eq!(one.hears().await, pair("plant/a", "nothing before this"));
    let mut other = Plant::subscribed(world.bridge.mqtt, "other", "plant/b").await;
    for (plant, to) in [(&mut one, "a"), (&mut other, "b")] {
        assert_eq!(plant.hears().await, pair(&format!("plant/{to}"), &format!(r#"{{"to":"{to}"}}"#)));
    }
    world.ended("published", 1);
    let (_, answer) = world.call("both", json!({})).await;
    assert_eq!(answer["status"], 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_loses_of_several_publishes_is_told() {
    let dir = folder();
    let (sim, messages) = sim(|_| ()).await;
    let sections = format!("[broker]\nsubscriber_queue_messages = 1\n\n{COMMANDS}");
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (SEVERAL, &sections));
    let world = World { sim, messages, bridge };
    let plant = lasting(&world, "plant/#").await;
    leaves(&world, plant).await;
    world.command(("both", "press9", "m-1"), "{}").await;
    world.ended("in_part", 1);
    until_empty(&world).await;
    assert_eq!(audit(dir.path()), [("both".to_owned(), "in_part".to_owned(), true)]);
    let mut plant = lasting(&world, "plant/#").await;
    assert_eq!(plant.hears().await.0, "plant/a");
    // It is done with, though not as a whole.
    world.command(("both", "press9", "m-1"), "{}").await;
    world.ended("duplicate", 1);
}
