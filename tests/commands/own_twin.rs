//! The bridge's own twin.

use super::*;

const OWN: &str = "[commands]\nenabled = true\nown_twin = true\n";
const FILES: &str = "[[rule]]\nname = \"slow one\"\ntopic = \"slow/{d}\"\ndevice = \"{d}\"\n\
    report_by_exception = { field = \"x\", change = 100 }\n";
const EXTRA: &str = "[[rule]]\nname = \"extra\"\ntopic = \"extra/{d}\"\ndevice = \"{d}\"\n";

impl World {
    async fn twin(&self) -> Value {
        ask(&self.sim, ("GET", &format!("/twins/gw?{API}")), "", "").await.1["properties"].clone()
    }

    async fn desire(&self, component: Value) {
        let body = json!({"properties": {"desired": {"bridge": component}}}).to_string();
        assert_eq!(ask(&self.sim, ("PATCH", &format!("/twins/gw?{API}")), "", &body).await.0, 200);
    }

    /// Waits until something is reported of the bridge.
    async fn reported(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let began = std::time::Instant::now();
        loop {
            let twin = self.twin().await;
            let found = &twin["reported"]["bridge"];
            if is(found) {
                return found.clone();
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {twin:#}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Waits for the answer to a parameter: its status, and why.
    async fn answered(&self, parameter: &str, value: &Value) -> (u64, String) {
        let desired = self.twin().await["desired"]["$version"].clone();
        let answer = |bridge: &Value| bridge[parameter]["av"] == desired && bridge[parameter]["value"] == *value;
        let bridge = self.reported(parameter, answer).await;
        (bridge[parameter]["ac"].as_u64().unwrap(), bridge[parameter]["ad"].as_str().unwrap().to_owned())
    }
}

fn status(world: &World) -> Value {
    let page = world.bridge.get("/status");
    serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn own_world(dir: &Path, sections: &str) -> World {
    own_world_at(dir, sim(|_| ()).await, sections)
}

fn own_world_at(dir: &Path, (sim, messages): (Running, Messages), sections: &str) -> World {
    std::fs::create_dir_all(dir.join("rules")).unwrap();
    std::fs::write(dir.join("rules/20-extra.toml"), EXTRA).unwrap();
    let bridge = bridge(dir, &sim, sim.local_addr().port(), (FILES, sections));
    World { sim, messages, bridge }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_tells_about_itself() {
    let dir = folder();
    let world = own_world(dir.path(), OWN).await;
    let filters = world.sim.subscriptions("gw");
    assert!(filters.len() <= 5 && filters.iter().any(|filter| filter.contains("desired")), "{filters:?}");
    let _plant = Plant::subscribed(world.bridge.mqtt, "plc 7", "plant/#").await;
    let told = world.reported("the client", |bridge| bridge["clients"]["names"] == json!(["plc 7"])).await;
    assert_eq!((&told["__t"], &told["version"]), (&json!("c"), &json!(env!("CARGO_PKG_VERSION"))), "{told:#}");
    assert_eq!((&told["rules"]["count"], &told["files"]["sound"]), (&json!(2), &json!(true)), "{told:#}");
    world.reported("counters", |bridge| bridge["counters"]["received"].is_u64()).await;

    std::fs::write(dir.path().join("rules/1.toml"), "[[rule]]\n").unwrap();
    let refused = world.reported("a refusal", |bridge| bridge["files"]["sound"] == json!(false)).await;
    assert!(refused["files"]["refused"].as_str().unwrap().contains("older ones stay in use"), "{refused:#}");
    assert_eq!(refused["rules"], told["rules"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_desired_of_the_bridge_is_taken_or_refused_and_kept() {
    let (dir, own) = (folder(), format!("tier = \"S1\"\n{OWN}"));
    let mut world = own_world(dir.path(), &own).await;
    for (parameter, value, status, why) in [
        ("log_level", json!("loud"), 400, "one of error, warn, info, debug"),
        ("log_level", json!("debug"), 200, ""),
        ("hub_rate", json!(101), 400, "more than the 100 of `tier`"),
        ("hub_rate", json!("fast"), 400, "a whole number from 1 to 60000"),
        ("hub_rate", json!(50), 200, ""),
        ("rule_files", json!({"30-none": false}), 400, "no rule file is called `30-none`"),
        ("rule_files", json!({"30-none": null, "1": false, "20-extra": false}), 400, "are gone"),
        ("rule_files", json!({"1": null, "20-extra": false}), 200, ""),
        ("tuning", json!({"extra": {"throttle": 1}}), 400, "no rule in use is called `extra`"),
        ("tuning", json!({"extra": null, "slow%20one": {"throttle": 1}}), 400, "has no `throttle` in its file"),
        ("tuning", json!({"slow%20one": {"throttle": null, "change": 2}}), 200, ""),
    ] {
        let mut patch = serde_json::Map::new();
        patch.insert(parameter.to_owned(), value.clone());
        world.desire(patch.into()).await;
        let desired = world.twin().await["desired"]["bridge"][parameter].clone();
        let (ac, ad) = world.answered(parameter, &desired).await;
        assert_eq!(ac, status, "{parameter} {value}: {ad}");
        assert!(ad.contains(why), "{parameter} {value}: {ad}");
    }
    let log = || std::fs::read_to_string(dir.path().join("log.txt")).unwrap();
    until("the log tells more", PATIENCE, || log().contains("DEBUG").then_some(()));

    // Its rules are bent now, and after a restart from the first publish on.
    let plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    let check = async |plant: &Plant, world: &mut World| {
        plant.says("extra/a", "nobody takes it").await;
        plant.says("slow/a", r#"{"x":1}"#).await;
        plant.says("slow/a", r#"{"x":3}"#).await;
        let up = sim_client::take(&mut world.messages, 3).await;
        assert!(up[0].properties.iter().all(|(name, _)| name != "device"), "no rule takes it: {:?}", up[0]);
        assert_eq!([&up[1].body[..], &up[2].body[..]], [br#"{"x":1}"#, br#"{"x":3}"#]);
    };
    check(&plant, &mut world).await;
    assert_eq!(world.bridge.process.terminate(), Some(0));
    // The hub says nothing to this start.
    let nowhere = free_port();
    world.bridge = launched(dir.path(), &world.sim, nowhere, (FILES, &own));
    let status = status(&world);
    assert_eq!((&status["rules"]["count"], &status["uplink"]["hub_rate"]), (&json!(1), &json!(50)), "{status}");
    world.bridge.process.kill();
    world.bridge = bridge(dir.path(), &world.sim, world.sim.local_addr().port(), (FILES, &own));
    let plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    check(&plant, &mut world).await;

    // What is no longer desired is as the files say.
    world.desire(json!({"rule_files": null, "hub_rate": null})).await;
    world.reported("the rules are whole", |bridge| bridge["rules"]["count"] == json!(2)).await;
    world.reported("the answer is taken back", |bridge| bridge.get("rule_files").is_none()).await;
    assert_eq!(self::status(&world)["uplink"]["hub_rate"], 100, "what the tier takes");
}

/// What was taken before and is not in use since this start is not answered as taken.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_could_not_bring_into_use_is_refused_when_it_is_desired_again() {
    let dir = folder();
    let kept = json!({"hub_rate": 200, "log_level": "debug", "rule_files": {"1": false, "20-extra": false}});
    std::fs::create_dir_all(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/own_twin.json"), kept.to_string()).unwrap();
    // It is desired before the bridge asks for the first time.
    let (sim, messages) = sim(|_| ()).await;
    let body = json!({"properties": {"desired": {"bridge": kept}}}).to_string();
    assert_eq!(ask(&sim, ("PATCH", &format!("/twins/gw?{API}")), "", &body).await.0, 200);
    let world = own_world_at(dir.path(), (sim, messages), &format!("tier = \"S1\"\n{OWN}"));
    for (parameter, status, why) in
        [("hub_rate", 400, "more than the 100 of `tier`"), ("log_level", 200, ""), ("rule_files", 400, "are gone")]
    {
        let (ac, ad) = world.answered(parameter, &kept[parameter]).await;
        assert_eq!((ac, ad.contains(why)), (status, true), "{parameter}: {ad}");
    }
    assert_eq!(self::status(&world)["uplink"]["hub_rate"], 100, "what the tier takes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_has_the_last_word() {
    let dir = folder();
    let world = own_world(dir.path(), &format!("{OWN}desired = false\n")).await;
    world.desire(json!({"rule_files": {"20-extra": false}})).await;
    let (status, why) = world.answered("rule_files", &json!({"20-extra": false})).await;
    assert_eq!((status, why.contains("desired = false")), (403, true), "{why}");
    let told = world.reported("the rules", |bridge| bridge["rules"].is_object()).await;
    assert_eq!(told["rules"]["count"], 2);
}

/// Devices come, go on to be listed by what matters, and go; and a restart knows who was there.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_there_is_told() {
    let dir = folder();
    let file = dir.path().join("state/presence.json");
    std::fs::create_dir_all(dir.path().join("state")).unwrap();
    let long_ago = brownbridge::message::Timestamp::now().0 - 3_600_000;
    std::fs::write(&file, json!({"old one": long_ago}).to_string()).unwrap();
    let few = format!("{OWN}own_twin_every = \"1s\"\nown_twin_presence = 2\n");
    let mut world = own_world(dir.path(), &few).await;
    let plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    let told = world.reported("who was there", |bridge| bridge["presence"]["counts"]["quiet"] == 1).await;
    let seen = told["presence"]["devices"]["old%20one"]["seen"].as_str().unwrap().to_owned();
    let whole = brownbridge::message::Timestamp(long_ago).to_string();
    assert!(seen.ends_with('Z') && whole.starts_with(seen.trim_end_matches('Z')), "{seen} of {whole}");
    assert_eq!(seen.len(), "2026-11-21T15:30Z".len());

    for (device, connected, listed, unlisted) in
        [("a.b", 1, ["a%2Eb", "old%20one"], 0), ("c", 2, ["a%2Eb", "old%20one"], 1), ("old one", 3, ["a%2Eb", "c"], 1)]
    {
        plant.says(&format!("extra/{device}"), "1").await;
        let told = world.reported(device, |bridge| bridge["presence"]["counts"]["connected"] == connected).await;
        let presence = &told["presence"];
        let names: Vec<&String> = presence["devices"].as_object().unwrap().keys().collect();
        assert_eq!(names, listed);
        assert_eq!(presence["unlisted"], unlisted);
    }
    assert_eq!(world.bridge.process.terminate(), Some(0));
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept.as_object().unwrap().keys().collect::<Vec<_>>(), ["a.b", "c", "old one"]);
    assert!(kept["old one"].as_i64() > Some(long_ago), "{kept}");

    let none = format!("{OWN}own_twin_presence = 0\n");
    world.bridge = bridge(dir.path(), &world.sim, world.sim.local_addr().port(), (FILES, &none));
    world.reported("nobody is told of any more", |bridge| bridge.get("presence").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_line_and_who_is_held_is_told() {
    let dir = folder();
    let (sim, messages) = sim(|_| ()).await;
    let sections = format!(
        "identity = \"per-device\"\n[uplink.devices]\nallow = [\"press*\"]\ngroup_key_file = {:?}\n{OWN}own_twin_every = \"1s\"\n",
        sim.ca_file().with_file_name("master.key")
    );
    let world = own_world_at(dir.path(), (sim, messages), &sections);
    let plant = Plant::subscribed(world.bridge.mqtt, "plc", "plant/#").await;
    for device in ["press7", "oven"] {
        plant.says(&format!("extra/{device}"), "1").await;
    }
    let both = json!({"connected": 1, "quiet": 0, "refused": 1});
    let told = world.reported("both", |bridge| bridge["presence"]["counts"] == both).await;
    let state = |device: &str| told["presence"]["devices"][device]["state"].clone();
    assert_eq!((state("press7"), state("oven")), (json!("connected"), json!("refused")));
}
