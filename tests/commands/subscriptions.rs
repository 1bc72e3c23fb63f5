//! What the hub was asked to send, and what it is told when nobody takes that any more.

use super::*;

fn restarted(world: &mut World, dir: &Path, what: (&str, &str)) {
    assert_eq!(world.bridge.process.terminate(), Some(0));
    world.bridge = launched(dir, &world.sim, world.sim.local_addr().port(), what);
    until("the uplink is up", PATIENCE, || (world.bridge.metric("brownbridge_uplink_connected") > 0.0).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_switched_off_is_unsubscribed_from() {
    let dir = folder();
    let mut world = world(dir.path(), COMMANDS).await;
    let both = ["devices/gw/messages/devicebound/#", "$iothub/methods/POST/#"];
    assert_eq!(world.sim.subscriptions("gw"), both);

    // No command takes messages any more.
    let methods = "[[command]]\nmethod = \"reset\"\ntopic = \"plant/reset\"\n";
    std::fs::write(dir.path().join("rules/1.toml"), methods).unwrap();
    until("messages are taken back", PATIENCE, || (world.sim.subscriptions("gw") == both[1..]).then_some(()));

    restarted(&mut world, dir.path(), (RULES, "[commands]\nenabled = false\n"));
    until("all is taken back", PATIENCE, || world.sim.subscriptions("gw").is_empty().then_some(()));
    until("it is written down", PATIENCE, || (!dir.path().join("state/subscribed").exists()).then_some(()));
    let called = ask(&world.sim, ("POST", &format!("/twins/gw/methods?{API}")), "", r#"{"methodName":"ping"}"#).await;
    assert_eq!(called.0, 404, "the service hears at once that nobody is there: {called:?}");

    restarted(&mut world, dir.path(), (RULES, COMMANDS));
    until("it is back", PATIENCE, || (world.sim.subscriptions("gw") == both).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_has_forgotten_the_session_keeps_the_connection() {
    let dir = folder();
    let (sim, mut messages) = sim(|_| ()).await;
    std::fs::create_dir_all(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/subscribed"), "messages\nmethods\n").unwrap();
    let rules = "[[rule]]\nname = \"t\"\ntopic = \"t/{d}\"\ndevice = \"{d}\"\n";
    let bridge = launched(dir.path(), &sim, sim.local_addr().port(), (rules, ""));
    let plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    plant.says("t/press7", "1").await;
    assert_eq!(sim_client::take(&mut messages, 1).await[0].body, b"1"[..]);
    until("it is written down", PATIENCE, || (!dir.path().join("state/subscribed").exists()).then_some(()));
    let page = bridge.get("/metrics");
    assert!(!page.contains("brownbridge_uplink_reconnects_total{"), "{page}");
    assert!(sim.subscriptions("gw").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_device_with_a_connection_of_its_own_takes_back_what_was_its_own() {
    let dir = folder();
    let (sim, mut messages) = sim(|_| ()).await;
    let sections = |enabled: bool| {
        format!(
            "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\ngroup_key_file = {:?}\n\
             [commands]\nenabled = {enabled}\n",
            sim.ca_file().with_file_name("master.key")
        )
    };
    let rules = format!("{RULES}\n[[rule]]\nname = \"t\"\ntopic = \"t/{{d}}\"\ndevice = \"{{d}}\"\n");
    for (enabled, expect) in [(true, 2), (false, 0)] {
        let mut bridge = launched(dir.path(), &sim, sim.local_addr().port(), (&rules, &sections(enabled)));
        let plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
        plant.says("t/press7", "1").await;
        sim_client::take(&mut messages, 1).await;
        until("it has what it wants", PATIENCE, || (sim.subscriptions("press7").len() == expect).then_some(()));
        assert_eq!(bridge.process.terminate(), Some(0));
    }
}
