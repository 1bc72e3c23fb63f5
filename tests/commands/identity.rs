//! For whom a command is: with one connection for all, and where each device has its own.

use super::*;

const ALLOW: &str =
    "[commands]\nenabled = true\nallow = { press7 = [\"plant/press7/#\"], press-danger = [\"plant/#\"] }\n";

/// The uplink's section and what follows it, where each device has a connection of its own.
fn per_device(sim: &Running, commands: &str) -> String {
    let key = sim.ca_file().with_file_name("master.key");
    format!(
        "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\nidle_timeout = \"1h\"\n\
         group_key_file = {key:?}\n{commands}"
    )
}

/// Whose connection and for whom, of the last line of the audit log.
fn last_line(dir: &Path) -> (Value, Value) {
    let text = std::fs::read_to_string(dir.join("state/commands.jsonl")).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    (line["identity"].clone(), line["device"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_names_the_device_only_where_all_share_a_connection() {
    // The hub's device, its property; the topic it becomes, and for whom it counts.
    let each = [
        ("press7", "press-danger", Some("plant/press7/set"), "press7"),
        ("press7", "gw", Some("plant/press7/set"), "press7"),
        ("gw", "press7", None, "gw"),
    ];
    let all = [
        ("gw", "press7", Some("plant/press7/set"), "press7"),
        ("gw", "press-danger", Some("plant/press-danger/set"), "press-danger"),
        ("gw", "", None, "gw"),
    ];
    for (is_per_device, rows) in [(true, each), (false, all)] {
        let dir = folder();
        let (sim, mut messages) = sim(|_| ()).await;
        let sections = if is_per_device { per_device(&sim, ALLOW) } else { ALLOW.to_owned() };
        let rules = format!("{RULES}\n[[rule]]\nname = \"t\"\ntopic = \"t/{{d}}\"\ndevice = \"{{d}}\"\n");
        let bridge = bridge(dir.path(), &sim, sim.local_addr().port(), (&rules, &sections));
        let mut plant = Plant::subscribed(bridge.mqtt, "plc", "plant/#").await;
        plant.says("t/press7", "1").await;
        sim_client::take(&mut messages, 1).await;
        if is_per_device {
            until("press7 listens", PATIENCE, || (sim.subscriptions("press7").len() == 2).then_some(()));
        }
        for (n, (identity, named, topic, device)) in rows.into_iter().enumerate() {
            let path = format!("/devices/{identity}/messages/devicebound?{API}");
            let headers =
                format!("iothub-app-kind: setpoint\r\niothub-app-device: {named}\r\niothub-messageid: m-{n}\r\n");
            assert_eq!(ask(&sim, ("POST", &path), &headers, r#"{"value": 4}"#).await.0, 204);
            if let Some(topic) = topic {
                assert_eq!(plant.hears().await, pair(topic, "4"), "{identity} {named}");
            }
            let lines = || std::fs::read_to_string(dir.path().join("state/commands.jsonl")).unwrap_or_default();
            until("it is written down", PATIENCE, || (lines().lines().count() == n + 1).then_some(()));
            assert_eq!(last_line(dir.path()), (json!(identity), json!(device)), "{identity} {named}");
            let outcome = if topic.is_some() { "published" } else { "not_allowed" };
            assert_eq!(audit(dir.path())[n].1, outcome, "{identity} {named}");
        }
        for (identity, method, expect) in
            [("gw", "ping", 200), ("gw", "nope", 404), ("press7", "ping", 404), ("press7", "get-config", 404)]
        {
            if !is_per_device && identity != "gw" {
                continue;
            }
            let body = json!({"methodName": method, "responseTimeoutInSeconds": 30}).to_string();
            let (_, answer) = ask(&sim, ("POST", &format!("/twins/{identity}/methods?{API}")), "", &body).await;
            assert_eq!(answer["status"], expect, "{method} of {identity}: {answer}");
        }
    }
}
