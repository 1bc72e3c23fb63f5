//! Devices that only listen, each with a connection of its own that stays open.

use super::*;

fn launch(dir: &Path, sim: &Running, keep_open: &str) -> Bridge {
    let sections = format!(
        "identity = \"per-device\"\n[uplink.devices]\nallow = [\"press*\"]\nkeep_open = [{keep_open}]\nidle_timeout = \"2s\"\n\
         group_key_file = {:?}\n[commands]\nenabled = true\n",
        sim.ca_file().with_file_name("master.key")
    );
    let rules = format!("{RULES}\n[[rule]]\nname = \"t\"\ntopic = \"t/{{d}}\"\ndevice = \"{{d}}\"\n");
    launched(dir, sim, sim.local_addr().port(), (&rules, &sections))
}

/// Waits until so many lines are open, the bridge's own among them.
fn lines(bridge: &Bridge, count: f64) {
    until(&format!("{count} lines"), PATIENCE, || {
        (bridge.metric("brownbridge_uplink_connections") == count).then_some(())
    });
}

/// Calls a method of a device until it is there.
async fn stroke(sim: &Running, device: &str) {
    let body = r#"{"methodName": "reset", "responseTimeoutInSeconds": 30}"#;
    let path = format!("/twins/{device}/methods?{API}");
    let began = std::time::Instant::now();
    loop {
        match ask(sim, ("POST", &path), "", body).await {
            (200, answer) => return assert_eq!(answer, json!({"status": 200, "payload": null})),
            (status, _) => assert_eq!(status, 404, "it is not connected yet"),
        }
        assert!(began.elapsed() < PATIENCE, "{device} is not connected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_only_listens_is_commanded_from_the_start_and_after_a_drop() {
    let dir = folder();
    let (sim, _messages) = sim(|_| ()).await;
    let bridge = launch(dir.path(), &sim, "\"press9\", \"stranger\"");
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    stroke(&sim, "press9").await;
    assert_eq!(plant.hears().await.0, "plant/reset");
    // One that is not kept rests after a while, and this one has had nothing to do for longer.
    plant.says("t/press1", "1").await;
    lines(&bridge, 3.0);
    lines(&bridge, 2.0);
    assert_eq!(sim.by_identity()["press9"].connected, 1, "it was never away");
    stroke(&sim, "press9").await;
    assert_eq!(plant.hears().await.0, "plant/reset");
    sim.restart();
    until("the drop is seen", PATIENCE, || (bridge.metric("brownbridge_uplink_reconnects_total") > 0.0).then_some(()));
    stroke(&sim, "press9").await;
    assert_eq!(plant.hears().await.0, "plant/reset");
    lines(&bridge, 2.0);
    let log = std::fs::read_to_string(&bridge.log).unwrap();
    assert!(log.contains("`keep_open` names stranger, which may not connect"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_once_let_in_is_kept_over_a_restart_and_by_a_pattern_that_comes_later() {
    let dir = folder();
    let (sim, _messages) = sim(|_| ()).await;
    let mut bridge = launch(dir.path(), &sim, "");
    let plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    plant.says("t/press7", "1").await;
    lines(&bridge, 2.0);
    assert_eq!(bridge.process.terminate(), Some(0));
    assert_eq!(std::fs::read_to_string(dir.path().join("state/let-in")).unwrap(), "press7\n");
    let bridge = launch(dir.path(), &sim, "\"press*\"");
    let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
    stroke(&sim, "press7").await;
    assert_eq!(plant.hears().await.0, "plant/reset");
    // What is changed needs no restart, both ways.
    let path = dir.path().join("bridge.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[\"press*\"]\nidle", "[]\nidle")).unwrap();
    lines(&bridge, 1.0);
    std::fs::write(&path, text.replace("[\"press*\"]\nidle", "[\"press8\"]\nidle")).unwrap();
    stroke(&sim, "press8").await;
    assert_eq!(plant.hears().await.0, "plant/reset");
    let page = bridge.get("/metrics");
    assert!(page.contains("brownbridge_config_last_reload_successful 1\n"), "{page}");
}
