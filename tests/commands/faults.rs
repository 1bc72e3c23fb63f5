//! What becomes of a call when something goes wrong on its way.

use super::*;

/// A call that the caller waits for as short as a hub allows.
async fn call(world: &World, method: &str, payload: Value) -> (u16, Value) {
    let body = json!({"methodName": method, "payload": payload, "responseTimeoutInSeconds": 5});
    ask(&world.sim, ("POST", &format!("/twins/gw/methods?{API}")), "", &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_a_hub_would_not_take_is_told_to_be_too_large() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/+/read/+").await;
    for (length, status, outcome) in [(128 * 1024, 200, "answered"), (128 * 1024 + 1, 502, "answer_too_large")] {
        let device = async {
            let (topic, _) = plant.hears().await;
            let id = topic.strip_prefix("plant/press7/read/").unwrap();
            plant.says(&format!("plant/answers/{id}"), &"9".repeat(length)).await;
        };
        let ((), (_, answer)) = tokio::join!(device, call(&world, "read", json!({"machine": "press7"})));
        assert_eq!(answer["status"], status, "{length}: {:.200}", answer.to_string());
        world.ended(outcome, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_after_the_deadline_answers_nothing() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/impatient").await;
    let (_, answer) = call(&world, "impatient", Value::Null).await;
    assert_eq!(answer["status"], 504, "{answer}");
    plant.hears().await;
    plant.says("plant/impatient/answer", "too late").await;
    until("it is dropped", PATIENCE, || {
        (world.bridge.metric("brownbridge_messages_dropped_total") == 1.0).then_some(())
    });
    let outcomes: Vec<_> = outcomes(&world.bridge).into_iter().collect();
    assert_eq!(outcomes, [("timeout".to_owned(), 1)]);
    world.at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_before_the_answer_loses_it_and_nothing_else() {
    let dir = folder();
    let (sim, messages) = sim(|_| ()).await;
    let relay = Relay::start(sim.local_addr());
    let bridge = bridge(dir.path(), &sim, relay.port, (RULES, COMMANDS));
    let world = World { sim, messages, bridge };
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/+/read/+").await;
    let device = async {
        let (topic, _) = plant.hears().await;
        world.cut(&relay, &plant).await;
        let id = topic.strip_prefix("plant/press7/read/").unwrap();
        plant.says(&format!("plant/answers/{id}"), "1").await;
        world.ended("line_lost", 1);
    };
    let ((), (status, answer)) = tokio::join!(device, call(&world, "read", json!({"machine": "press7"})));
    assert_eq!(status, 504, "{answer}");
    let (_, pong) = call(&world, "ping", Value::Null).await;
    assert_eq!(pong["status"], 200, "{pong}");
    world.at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_on_one_topic_find_their_calls() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/shared/+").await;
    let device = async {
        let mut refs = Vec::new();
        for _ in 0..2 {
            refs.push(plant.hears().await.0.strip_prefix("plant/shared/").unwrap().to_owned());
        }
        plant.says("plant/shared", "nobody's").await;
        for (id, code) in refs.iter().rev().zip([202, 203]) {
            plant.says("plant/shared", &json!({"ref": id, "code": code, "of": id}).to_string()).await;
        }
        refs
    };
    let (refs, first, second) =
        tokio::join!(device, call(&world, "shared", Value::Null), call(&world, "shared", Value::Null));
    let mut answers = [first.1, second.1].map(|answer| (answer["status"].clone(), answer["payload"]["of"].clone()));
    answers.sort_by_key(|(status, _)| status.as_u64());
    assert_eq!(answers, [(json!(202), json!(refs[1])), (json!(203), json!(refs[0]))]);
    world.ended("answered", 2);
    world.at_rest();
}

/// What cannot be read is no answer, and the one that can be is still heard.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_cannot_be_read_is_none() {
    let dir = folder();
    let world = world(dir.path(), COMMANDS).await;
    let mut plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/+/do").await;
    world.command(("worded", "press7", "m-1"), "{}").await;
    plant.hears().await;
    plant.says("plant/press7/word", "1").await;
    plant.says("plant/press7/word", "12").await;
    world.ended("acknowledged", 1);
    world.at_rest();
}
