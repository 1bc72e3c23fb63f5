//! The audit log where it cannot be written, and what of publishes stands in it.

use super::*;

/// The audit log cannot be opened: a folder is in its place.
fn blocked(dir: &Path) -> std::path::PathBuf {
    let log = dir.join("state/commands.jsonl");
    std::fs::create_dir_all(&log).unwrap();
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_is_told_and_commands_go_on() {
    let dir = folder();
    let log = blocked(dir.path());
    let world = world(dir.path(), COMMANDS).await;
    let ready = |text: &str| world.bridge.get("/readyz").contains(text);
    until("it is told before the first command", PATIENCE, || ready("audit log of commands cannot").then_some(()));
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    world.command(("setpoint", "press7", "m-1"), r#"{"value": 1}"#).await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "1"));
    until("it is counted", PATIENCE, || {
        (world.bridge.metric("brownbridge_audit_lines_lost_total") == 1.0).then_some(())
    });
    assert!(world.bridge.get("/metrics").contains("audit_lines_lost_total{reason=\"not_a_file\"} 1\n"));
    let admin = world.bridge.admin.to_string();
    let status = std::process::Command::new(support::BINARY).args(["status", "--admin", &admin]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("\nUNAUDITED  ") && status.contains("1 line is missing"), "{status}");

    std::fs::remove_dir(&log).unwrap();
    until("it is written again", PATIENCE, || (!ready("audit log")).then_some(()));
    world.command(("setpoint", "press7", "m-2"), r#"{"value": 2}"#).await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "2"));
    world.ended("published", 2);
    until_empty(&world).await;
    let outcomes: Vec<_> = audit(dir.path()).into_iter().map(|(_, outcome, _)| outcome).collect();
    assert_eq!(outcomes, ["lines_lost", "published"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_audit_log_is_required_nothing_happens_without_it() {
    let dir = folder();
    let log = blocked(dir.path());
    let (sim, messages) = sim(|options| options.keeping.lock = LOCK).await;
    let sections = format!("{COMMANDS}audit = \"required\"\n");
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (RULES, &sections));
    let world = World { sim, messages, bridge };
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    world.command(("setpoint", "press7", "m-1"), r#"{"value": 1}"#).await;
    let refused = || outcomes(&world.bridge).get("unaudited").copied().unwrap_or(0);
    until("it is refused again and again", PATIENCE, || (refused() >= 2).then_some(()));
    let status = async |method: &str| world.call(method, Value::Null).await.1["status"].clone();
    assert_eq!([status("reset").await, status("reload").await, status("ping").await], [503, 503, 200]);
    assert!(world.bridge.get("/readyz").contains("commands are refused until it can be"));
    plant.says("marker", "").await;
    assert_eq!(plant.hears().await.0, "marker", "nothing before it");

    std::fs::remove_dir(&log).unwrap();
    assert_eq!(plant.hears().await, pair("plant/press7/set", "1"));
    world.ended("published", 1);
    let outcomes: Vec<_> = audit(dir.path()).into_iter().map(|(_, outcome, _)| outcome).collect();
    assert_eq!(outcomes.last().unwrap(), "published");
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "admitted").count(), 1, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_topics_and_the_beginning_of_payloads_are_written_down_where_that_is_asked_for() {
    let dir = folder();
    let rules = format!(
        "{RULES}\n[[command]]\nname = \"recipe\"\nprops = {{ kind = \"recipe\" }}\nscript = '.steps[] | {{n, do}}'\n\
         topic = \"plant/{{device}}/step/{{.n}}\"\npayload = \"{{.do}}\"\n"
    );
    let (sim, messages) = sim(|_| ()).await;
    let sections = format!("{COMMANDS}audit_payload = \"10B\"\n");
    let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (&rules, &sections));
    let world = World { sim, messages, bridge };
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "#").await;
    let steps = r#"{"steps": [{"n": 1, "do": "heat up"}, {"n": 2, "do": "hold on"}, {"n": 3, "do": "cool"}]}"#;
    world.command(("recipe", "oven", "m-1"), steps).await;
    plant.hears().await;
    world.ended("published", 1);
    until_empty(&world).await;
    let text = std::fs::read_to_string(dir.path().join("state/commands.jsonl")).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["topic"], "plant/oven/step/1");
    let expect = json!([
        {"topic": "plant/oven/step/1", "bytes": 7, "payload": "heat up"},
        {"topic": "plant/oven/step/2", "bytes": 7, "payload": "hol", "cut": true},
        {"topic": "plant/oven/step/3", "bytes": 4},
    ]);
    assert_eq!(line["publishes"], expect, "{line}");
    assert!(!world.bridge.get("/status").contains("heat up"), "no payload is shown");
}
