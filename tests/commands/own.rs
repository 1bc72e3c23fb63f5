//! The methods of the bridge itself.

use super::*;

const WINDOWS: &str =
    "[[rule]]\nname = \"batched\"\ntopic = \"t/{d}\"\ndevice = \"{d}\"\nbatch = { max_wait = \"1h\" }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_answers_with_what_is_in_use_or_why_not() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let reload = async || world.call("reload", Value::Null).await.1;
    let file = dir.path().join("rules/1.toml");
    let first = reload().await;
    assert_eq!(first["status"], 200, "{first}");
    assert_eq!(first["payload"]["rules"]["changed"], false);
    assert_eq!(first["payload"]["restart_for"], json!([]));
    let in_use = first["payload"]["in_use"].as_array().unwrap();
    assert!(in_use.contains(&json!("the rules")), "{first}");

    std::fs::write(&file, format!("{RULES}\n[[rule]]\nname = \"new\"\ntopic = \"new\"\ndevice = \"d\"\n")).unwrap();
    let taken = reload().await;
    assert_eq!((&taken["status"], &taken["payload"]["rules"]["changed"]), (&json!(200), &json!(true)), "{taken}");
    let hash = taken["payload"]["rules"]["hash"].clone();
    assert_ne!(hash, first["payload"]["rules"]["hash"]);

    std::fs::write(&file, "[[rule]]\ntopic = \"new/{\"\ndevice = \"d\"\n").unwrap();
    let config = std::fs::read_to_string(dir.path().join("bridge.toml")).unwrap();
    std::fs::write(dir.path().join("bridge.toml"), config.replace("10ms", "20ms")).unwrap();
    let refused = reload().await;
    assert_eq!((&refused["status"], &refused["payload"]["rules"]["hash"]), (&json!(409), &hash), "{refused}");
    let why = &refused["payload"]["refused"][0];
    assert_eq!(why["what"], "the rules");
    assert!(why["why"].as_str().unwrap().contains("1 error"), "{refused}");
    assert!(why["findings"].as_str().unwrap().contains("1.toml:2:"), "{refused}");
    assert_eq!(refused["payload"]["restart_for"], json!(["uplink.backoff_min", "uplink.drain_timeout"]), "{refused}");
    world.ended("answered", 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_closes_windows_and_says_when_all_has_left() {
    let dir = folder();
    let (sim, messages) = sim(|_| ()).await;
    let relay = Relay::start(sim.local_addr());
    let bridge = bridge(dir.path(), &sim, relay.port, (&format!("{RULES}{WINDOWS}"), COMMANDS));
    let mut world = World { sim, messages, bridge };
    let plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    for n in 0..3 {
        plant.says("t/d", &n.to_string()).await;
    }
    until("they are held", PATIENCE, || (world.bridge.metric("brownbridge_held_messages") == 3.0).then_some(()));
    let (_, flushed) = world.call("flush", json!({"within": 20})).await;
    let told = &flushed["payload"];
    assert_eq!((&flushed["status"], &told["windows_closed"]), (&json!(200), &json!(1)), "{flushed}");
    assert_eq!((&told["empty"], &told["waiting"]), (&json!(true), &json!(0)), "{flushed}");
    let up = sim_client::take(&mut world.messages, 1).await;
    assert_eq!(up[0].body, b"[0,1,2]"[..]);

    let (_, refused) = world.call("flush", json!({"within": "soon"})).await;
    assert_eq!(refused["status"], 400, "{refused}");
    let (_, nothing) = world.call("flush", Value::Null).await;
    let told = &nothing["payload"];
    assert_eq!((&told["windows_closed"], &told["waited"], &told["empty"]), (&json!(0), &json!(0), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_the_hub_does_not_take_ends_in_time() {
    let dir = folder();
    let (sim, messages) = sim(|options| options.misbehave.withhold_puback = true).await;
    let rules = format!("{RULES}\n[[rule]]\nname = \"t\"\ntopic = \"t/{{d}}\"\ndevice = \"{{d}}\"\n");
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (&rules, COMMANDS));
    let world = World { sim, messages, bridge };
    let plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    plant.says("t/d", "1").await;
    until("it waits", PATIENCE, || (world.bridge.metric("brownbridge_spool_messages") == 1.0).then_some(()));
    let (_, flushed) = world.call("flush", json!({"within": 1})).await;
    let told = &flushed["payload"];
    assert_eq!((&flushed["status"], &told["empty"]), (&json!(200), &json!(false)), "{flushed}");
    assert_eq!((&told["waited"], &told["waiting"]), (&json!(1), &json!(1)), "{flushed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_line_stays_open_where_each_device_has_its_own() {
    let dir = folder();
    let (sim, mut messages) = sim(|_| ()).await;
    let sections = format!(
        "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\nidle_timeout = \"1s\"\ngroup_key_file = {:?}\n{COMMANDS}",
        sim.ca_file().with_file_name("master.key")
    );
    let rules = format!("{RULES}\n[[rule]]\nname = \"t\"\ntopic = \"t/{{d}}\"\ndevice = \"{{d}}\"\n");
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (&rules, &sections));
    let plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    plant.says("t/press7", "1").await;
    sim_client::take(&mut messages, 1).await;
    let idle = "brownbridge_devices{state=\"idle\"} 1\n";
    until("the device's line is closed", PATIENCE, || bridge.get("/metrics").contains(idle).then_some(()));
    let called = ask(&sim, ("POST", &format!("/twins/gw/methods?{API}")), "", r#"{"methodName":"flush"}"#).await;
    assert_eq!(
        (called.0, &called.1["status"], &called.1["payload"]["shelved"]),
        (200, &json!(200), &json!(0)),
        "{called:?}"
    );
}
