//! The fence is closed, opened and mended while the bridge runs.

use rustix::process::{Pid, Signal, kill_process};

use super::*;

const BOTH: [&str; 2] = ["devices/gw/messages/devicebound/#", "$iothub/methods/POST/#"];

/// Another `[commands]` in bridge.toml, and who wrote it says so.
fn rewritten(world: &World, dir: &Path, commands: &str) {
    let path = dir.join("bridge.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, _) = text.split_once("[commands]\n").unwrap();
    let before_log = taken_up(world);
    std::fs::write(&path, format!("{before}[commands]\n{commands}\n")).unwrap();
    let pid = Pid::from_raw(world.bridge.process.id().cast_signed()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    until("it is taken up", PATIENCE, || (taken_up(world) > before_log).then_some(()));
}

fn log(world: &World) -> String {
    std::fs::read_to_string(&world.bridge.log).unwrap()
}

fn taken_up(world: &World) -> usize {
    log(world).matches("the fence of [commands] is taken up").count()
}

impl World {
    async fn setpoint(&self, id: &str) {
        self.command(("setpoint", "press7", id), r#"{"value": 1}"#).await;
    }

    async fn status_of(&self, method: &str) -> Value {
        self.call(method, Value::Null).await.1["status"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_is_closed_opened_and_mended_without_a_restart() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    let state = || {
        let page = world.bridge.get("/status");
        serde_json::from_str::<Value>(page.split_once("\r\n\r\n").unwrap().1).unwrap()["commands"]["state"].clone()
    };
    world.setpoint("m-1").await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "1"));
    assert_eq!((world.status_of("ping").await, state()), (json!(200), json!("open")));

    rewritten(&world, dir.path(), "enabled = false");
    until("nothing is asked for", PATIENCE, || world.sim.subscriptions("gw").is_empty().then_some(()));
    world.setpoint("m-2").await;
    assert_eq!(world.call("ping", Value::Null).await.0, 404, "the hub knows that nobody is there");
    assert_eq!((world.waiting().await, state()), (1, json!("closed")), "the hub has it still");

    rewritten(&world, dir.path(), "enabled = true");
    assert_eq!(plant.hears().await, pair("plant/press7/set", "1"), "what the hub still had");
    until("all is asked for", PATIENCE, || (world.sim.subscriptions("gw") == BOTH).then_some(()));
    world.ended("published", 2);

    rewritten(&world, dir.path(), "enabled = true\nallow = { \"oven*\" = [\"plant/#\"] }");
    world.setpoint("m-3").await;
    world.ended("not_allowed", 1);
    rewritten(&world, dir.path(), "enabled = true\ndry_run = true");
    world.setpoint("m-4").await;
    world.ended("dry_run", 1);
    assert_eq!(state(), json!("dry run"));
    let (_, shown) = world.call("get-config", Value::Null).await;
    assert_eq!(shown["payload"]["commands"]["dry_run"], json!(true), "what is in force: {shown}");
    rewritten(&world, dir.path(), "enabled = true\nown_methods = false");
    assert_eq!((world.status_of("ping").await, world.status_of("reset").await), (json!(404), json!(200)));
    assert_eq!(plant.hears().await.0, "plant/reset", "nothing came before it");
    until_empty(&world).await;

    // With a mistake in it the fence stays, and that is told until it is put right. Nothing else is told to need a restart.
    let path = dir.path().join("bridge.toml");
    let sound = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, sound.replace("enabled = true", "enabled = tru")).unwrap();
    until("it is told", PATIENCE, || world.bridge.get("/readyz").contains("[commands] stays as it was").then_some(()));
    assert_eq!(world.status_of("reset").await, json!(200));
    std::fs::write(&path, sound).unwrap();
    until("it is right", PATIENCE, || (!world.bridge.get("/readyz").contains("stays as it was")).then_some(()));
    assert!(!log(&world).contains("restart for"), "{}", log(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_began_closed_opens_without_a_restart_and_without_being_told() {
    let dir = folder();
    let (sim, messages) = sim(|_| ()).await;
    let sections = "[commands]\nenabled = false\nown_twin = true\n";
    let bridge = launched(dir.path(), &sim, sim.local_addr().port(), (RULES, sections));
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "#").await;
    until("the uplink is up", PATIENCE, || (bridge.metric("brownbridge_uplink_connected") > 0.0).then_some(()));
    assert!(sim.subscriptions("gw").is_empty(), "{:?}", sim.subscriptions("gw"));
    let path = dir.path().join("bridge.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("enabled = false", "enabled = true")).unwrap();
    until("all is asked for", PATIENCE, || (sim.subscriptions("gw").len() == 4).then_some(()));
    let world = World { sim, messages, bridge };
    world.setpoint("m-1").await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "1"));
    let began = std::time::Instant::now();
    loop {
        let (_, twin) = ask(&world.sim, ("GET", &format!("/twins/gw?{API}")), "", "").await;
        if twin["properties"]["reported"]["bridge"]["version"].is_string() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the bridge tells about itself: {twin}");
    }
}
