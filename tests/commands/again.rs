//! What becomes of a message that the hub sends again: its lock has ended, or the bridge was away.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::*;

/// Headers of a message for press7 of which the service wants to hear.
fn headers(kind: &str, id: &str) -> String {
    format!("iothub-app-kind: {kind}\r\niothub-app-device: press7\r\niothub-messageid: {id}\r\niothub-ack: full\r\n")
}

async fn short_lock(dir: &Path) -> World {
    let (sim, messages) = sim(|options| options.keeping.lock = LOCK).await;
    let bridge = bridge(dir, &sim, sim.local_addr().port(), (RULES, COMMANDS));
    World { sim, messages, bridge }
}

impl World {
    fn repeated(&self, outcome: &str, times: u64) {
        until(&format!("{times} {outcome}"), PATIENCE, || {
            (outcomes(&self.bridge).get(outcome).copied().unwrap_or(0) >= times).then_some(())
        });
    }

    /// The outcomes that are counted are those that are written down.
    fn counts_what_it_wrote(&self, dir: &Path) {
        let mut written = BTreeMap::new();
        for (command, outcome, complete) in audit(dir) {
            let waits = matches!(&*command, "careful" | "single" | "hurried");
            if !matches!(&*outcome, "begun" | "withdrawn") && (complete || outcome != "published" || !waits) {
                *written.entry(outcome).or_default() += 1;
            }
        }
        until("as much is counted", PATIENCE, || (outcomes(&self.bridge) == written).then_some(()));
    }
}

/// With queues for one message.
async fn narrow(dir: &Path) -> World {
    let (sim, messages) = sim(|options| options.keeping.lock = LOCK).await;
    let bridge = bridge(dir, &sim, sim.local_addr().port(), (RULES, &narrow_sections()));
    World { sim, messages, bridge }
}

fn narrow_sections() -> String {
    format!("[broker]\nsubscriber_queue_messages = 1\n\n{COMMANDS}")
}

/// A plant client that is connected, takes one message at a time, and never acknowledges it: with two its queue is full.
fn takes_one(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).unwrap();
    let connect = b"\x10\x13\0\x04MQTT\x05\x02\0\0\x03\x21\0\x01\0\x03plc";
    stream.write_all(&[&connect[..], b"\x82\x0d\0\x01\0\0\x07plant/#\x01"].concat()).unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\x90\x04\0\x01\0\x01") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
    stream
}

/// What the plant hears next is what it says itself: nothing was published before.
async fn hears_nothing(plant: &mut Plant) {
    plant.says("plant/marker", "").await;
    assert_eq!(plant.hears().await.0, "plant/marker", "nothing before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_while_its_answer_is_awaited_is_not_published_again() {
    let dir = folder();
    let world = short_lock(dir.path()).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    world.send(&headers("careful", "m-1"), "go").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));
    world.repeated("came_again", 2);
    hears_nothing(&mut plant).await;
    plant.says("plant/press7/done", "").await;
    world.ended("acknowledged", 1);
    assert_eq!(feedback(&world.sim, 1).await, [told("m-1", "Success")]);
    until_empty(&world).await;
    world.counts_what_it_wrote(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_ends_while_an_answer_is_awaited_publishes_again_unless_once_is_said() {
    for (kind, crash) in [("careful", false), ("single", false), ("single", true)] {
        let dir = folder();
        let mut world = short_lock(dir.path()).await;
        let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
        world.send(&headers(kind, "m-1"), "go").await;
        assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));
        if crash {
            world.bridge.process.kill();
        } else {
            assert_eq!(world.bridge.process.terminate(), Some(0));
            let last = audit(dir.path()).pop().unwrap();
            assert_eq!(last, (kind.to_owned(), "stopped".to_owned(), false));
        }
        // As so much else leaves the audit log that nothing of this is in it.
        for name in ["commands.jsonl", "commands.1.jsonl"] {
            let other =
                format!("{}\n", json!({"kind": "method", "device": "gw", "outcome": "answered", "complete": true}));
            std::fs::write(dir.path().join("state").join(name), other.repeat((1 << 20) / other.len() + 1)).unwrap();
        }
        world.bridge = bridge(dir.path(), &world.sim, world.sim.local_addr().port(), (RULES, COMMANDS));
        let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
        let expect = if kind == "single" {
            world.ended("not_repeated", 1);
            world.repeated("came_again", 1);
            hears_nothing(&mut plant).await;
            "acknowledged_late"
        } else {
            assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));
            "acknowledged"
        };
        plant.says("plant/press7/done", "").await;
        world.ended(expect, 1);
        assert_eq!(feedback(&world.sim, 1).await, [told("m-1", "Success")], "{kind}, crash: {crash}");
        until_empty(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_published_once_is_left_to_the_hub_until_it_expires() {
    let dir = folder();
    // As a crash leaves it between the audit log and the publish.
    std::fs::create_dir_all(dir.path().join("state")).unwrap();
    let line = |id: &str, outcome: &str| {
        let line = json!({"kind": "message", "command": "blind", "device": "press7", "id": id, "outcome": outcome,
            "complete": false});
        format!("{line}\n")
    };
    let lines = [line("m-1", "begun"), line("m-2", "begun"), line("m-2", "withdrawn")];
    std::fs::write(dir.path().join("state/commands.jsonl"), lines.concat()).unwrap();
    let world = short_lock(dir.path()).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    let soon = brownbridge::message::Timestamp(brownbridge::message::Timestamp::now().0 + 1_500);
    world.send(&format!("{}iothub-expiry: {soon}\r\n", headers("blind", "m-1")), "go").await;
    world.repeated("not_repeated", 2);
    hears_nothing(&mut plant).await;
    // What was not published after all may be.
    world.send(&headers("blind", "m-2"), "two").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "two"));
    let mut heard = feedback(&world.sim, 2).await;
    heard.sort();
    assert_eq!(heard[1], told("m-2", "Success"));
    assert!(heard[0] == told("m-1", "Expired") || outcomes(&world.bridge).contains_key("expired"), "{heard:?}");

    // What could not be known again is not taken.
    world.send("iothub-app-kind: blind\r\niothub-app-device: press7\r\n", "three").await;
    world.ended("no_id", 1);
    // Nor where its topic could not be made, either.
    world.send("iothub-app-kind: stroke\r\niothub-app-device: press7\r\n", "four").await;
    world.ended("no_id", 2);
    hears_nothing(&mut plant).await;
    until_empty(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_is_once_also_where_the_answer_is_too_late_and_the_device_was_away() {
    let dir = folder();
    let world = short_lock(dir.path()).await;
    world.send(&headers("single", "m-1"), "go").await;
    world.repeated("came_again", 1);
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));
    plant.says("plant/press7/done", "").await;
    world.ended("acknowledged", 1);
    assert_eq!(feedback(&world.sim, 1).await, [told("m-1", "Success")]);
    let begun = audit(dir.path()).iter().filter(|(_, outcome, _)| outcome == "begun").count();
    assert_eq!(begun, 1, "it is written down once, and not while nobody is there");
    assert_eq!(plant.hears().await.0, "plant/press7/done");
    world.send(&headers("hurried", "m-2"), "two").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "two"));
    world.ended("ack_timeout", 1);
    let before = outcomes(&world.bridge).get("came_again").copied().unwrap_or(0);
    world.repeated("came_again", before + 1);
    hears_nothing(&mut plant).await;
    plant.says("plant/press7/done", "").await;
    world.ended("acknowledged_late", 1);
    until_empty(&world).await;
    world.counts_what_it_wrote(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_down_and_found_no_room_may_be_published_after_a_restart() {
    let dir = folder();
    let mut world = narrow(dir.path()).await;
    let plant = away::lasting(&world, "plant/#").await;
    away::leaves(&world, plant).await;
    world.send(&headers("setpoint", "m-0"), r#"{"value": 1}"#).await;
    world.ended("published", 1);
    world.send(&headers("blind", "m-1"), "go").await;
    world.repeated("came_again", 2);
    assert_eq!(world.bridge.process.terminate(), Some(0));
    let written: Vec<_> = audit(dir.path()).into_iter().map(|(_, outcome, _)| outcome).collect();
    let count = |wanted: &str| written.iter().filter(|outcome| *outcome == wanted).count();
    assert_eq!((count("begun"), count("withdrawn"), count("stopped")), (1, 1, 1), "{written:?}");
    world.bridge = bridge(dir.path(), &world.sim, world.sim.local_addr().port(), (RULES, &narrow_sections()));
    let mut plant = Plant::subscribed(world.bridge.mqtt, "other", "plant/#").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));
    assert_eq!(feedback(&world.sim, 2).await, [told("m-0", "Success"), told("m-1", "Success")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_down_and_expires_unpublished_is_taken_back() {
    let dir = folder();
    let world = narrow(dir.path()).await;
    let _plant = takes_one(world.bridge.mqtt);
    for id in ["m-2", "m-3"] {
        world.send(&headers("setpoint", id), r#"{"value": 1}"#).await;
    }
    world.ended("published", 2);
    let soon = brownbridge::message::Timestamp(brownbridge::message::Timestamp::now().0 + 2_000);
    world.send(&format!("{}iothub-expiry: {soon}\r\n", headers("blind", "m-1")), "go").await;
    world.ended("expired", 1);
    let mut written: Vec<_> = audit(dir.path()).into_iter().map(|(_, outcome, _)| outcome).collect();
    written.retain(|outcome| !matches!(&**outcome, "came_again" | "published"));
    assert_eq!(written, ["begun", "withdrawn", "expired"]);
}

/// What is over is acknowledged when it comes again, also where the audit log has forgotten it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_once_is_known_without_the_audit_log() {
    let dir = folder();
    let mut world = short_lock(dir.path()).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    world.send(&headers("blind", "m-1"), "go").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));
    world.ended("published", 1);
    assert_eq!(world.bridge.process.terminate(), Some(0));
    std::fs::remove_file(dir.path().join("state/commands.jsonl")).unwrap();
    world.bridge = bridge(dir.path(), &world.sim, world.sim.local_addr().port(), (RULES, COMMANDS));
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    world.send(&headers("blind", "m-1"), "go").await;
    world.ended("duplicate", 1);
    hears_nothing(&mut plant).await;
    until_empty(&world).await;
}

/// What cannot be written down is not published, and holds up nothing else; it comes when it can be.
#[tokio::test(flavor = "multi_thread")]
async fn once_waits_for_a_file_that_can_be_written() {
    let dir = folder();
    let file = dir.path().join("state/once.jsonl");
    std::fs::create_dir_all(&file).unwrap();
    let mut world = short_lock(dir.path()).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    world.send(&headers("blind", "m-1"), "go").await;
    world.repeated("came_again", 1);
    world.send(&headers("setpoint", "m-2"), r#"{"value": 7}"#).await;
    assert_eq!(plant.hears().await, pair("plant/press7/set", "7"));
    world.ended("published", 1);
    assert_eq!(world.bridge.process.terminate(), Some(0));
    std::fs::remove_dir(&file).unwrap();
    world.bridge = bridge(dir.path(), &world.sim, world.sim.local_addr().port(), (RULES, COMMANDS));
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    assert_eq!(plant.hears().await, pair("plant/press7/do", "go"));
    world.ended("published", 1);
    until_empty(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_with_the_bridge_and_its_late_answer_answers_no_other() {
    for crash in [false, true] {
        let dir = folder();
        let mut world = world(dir.path(), COMMANDS).await;
        let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/+/read/+").await;
        let body = json!({"methodName": "read", "payload": {"machine": "press7"}, "responseTimeoutInSeconds": 5});
        let (path, body) = (format!("/twins/gw/methods?{API}"), body.to_string());
        let (topic, (status, answer)) = {
            let World { sim, bridge, .. } = &mut world;
            let device = async {
                let (topic, _) = plant.hears().await;
                if crash {
                    bridge.process.kill();
                } else {
                    assert_eq!(bridge.process.terminate(), Some(0));
                }
                topic
            };
            tokio::join!(device, ask(sim, ("POST", &path), "", &body))
        };
        let expect = if crash { (504, json!(null)) } else { (200, json!(503)) };
        assert_eq!((status, answer["status"].clone()), expect, "{answer}");
        world.bridge = bridge(dir.path(), &world.sim, world.sim.local_addr().port(), (RULES, COMMANDS));
        let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/+/read/+").await;
        let late = topic.rsplit('/').next().unwrap();
        let device = async {
            let (topic, _) = plant.hears().await;
            plant.says(&format!("plant/answers/{late}"), "\"of the call before\"").await;
            until("it is dropped", PATIENCE, || {
                let page = world.bridge.get("/metrics");
                page.contains("brownbridge_messages_dropped_total{reason=\"command_answer\"} 1\n").then_some(())
            });
            let id = topic.rsplit('/').next().unwrap();
            plant.says(&format!("plant/answers/{id}"), "\"of this call\"").await;
        };
        let ((), (_, answer)) = tokio::join!(device, world.call("read", json!({"machine": "press7"})));
        assert_eq!(answer, json!({"status": 200, "payload": "of this call"}));
        world.ended("answered", 1);
        assert_eq!(audit(dir.path()).last().unwrap().1, "answered");
    }
}
