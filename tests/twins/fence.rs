//! What is desired follows the fence while the bridge runs.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_desired_waits_behind_a_closed_fence_and_passes_an_open_one() {
    let dir = folder();
    let world = world(dir.path(), DESIRED, Misbehave::default(), COMMANDS).await;
    let (sim, bridge) = (&world.sim, &world.bridge);
    let path = dir.path().join("bridge.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let write = |from: &str, to: &str| std::fs::write(&path, text.replace(from, to)).unwrap();
    desire(sim, "press-7", json!({"mode": "auto"})).await;
    came_to(bridge, "mode", "published", 1.0);

    write("enabled = true", "enabled = false");
    until("nothing is asked for", PATIENCE, || sim.subscriptions("gw").is_empty().then_some(()));
    desire(sim, "press-7", json!({"mode": "manual"})).await;

    write("plant/#", "other/#");
    came_to(bridge, "mode", "not_allowed", 1.0);
    write("", "");
    came_to(bridge, "mode", "published", 2.0);
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    assert_eq!(plant.hears().await, pair("plant/press-7/mode", "mode=manual"), "the last value, and once");
}
