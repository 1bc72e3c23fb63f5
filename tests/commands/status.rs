//! What an operator sees of the way back.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_came_down_and_what_became_of_it() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let status = || {
        let admin = world.bridge.admin.to_string();
        let output = std::process::Command::new(support::BINARY).args(["status", "--admin", &admin]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(status().contains("\ncommands   none yet\n"), "{}", status());

    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    world.command(("setpoint", "press7", "m-1"), r#"{"value": 4711.5}"#).await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "4711.5"));
    world.ended("published", 1);
    world.command(("nonsense", "press8", "m-2"), "4711.5").await;
    world.ended("no_rule", 1);
    // The line of the audit log is written after the count.
    let said = until("both are shown", PATIENCE, || Some(status()).filter(|said| said.contains(": no_rule")));
    assert!(said.contains("\ncommands   1 no_rule, 1 published\n"), "{said}");
    assert!(said.contains(" message setpoint for press7, plant/press7/set: published\n"), "{said}");
    let (first, second) = (said.find(": no_rule").unwrap(), said.find(": published").unwrap());
    assert!(first < second, "the newest first: {said}");
    assert!(!said.contains("4711"), "no payload: {said}");
}
