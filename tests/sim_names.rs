//! The simulator's readers of user names, topics and filters against Microsoft's own (`tests/golden/azure`).

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use brownbridge::hubsim::names::{EventsTopic, Username, is_known_filter};
use serde_json::Value;

fn golden(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/golden/azure/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

#[test]
fn user_names_are_read_as_edge_hub_reads_them() {
    for row in golden("edgehub_usernames") {
        let input = row["input"].as_str().unwrap();
        let read = Username::parse(input);
        assert_eq!(read.is_some(), row["ok"].as_bool().unwrap(), "{input}");
        let Some(read) = read else { continue };
        assert_eq!(Some(read.device), row["deviceId"].as_str(), "{input}");
        assert_eq!(Some(read.module.unwrap_or("")), row["moduleId"].as_str(), "{input}");
        assert_eq!(Some(&*read.client_type), row["deviceClientType"].as_str(), "{input}");
        assert_eq!(read.model_id.as_deref(), row["modelId"].as_str(), "{input}");
        assert_eq!(read.auth_chain.as_deref(), row["authChain"].as_str(), "{input}");
    }
}

#[test]
fn topics_are_read_as_edge_hub_reads_them() {
    for row in golden("edgehub_topics") {
        let input = row["input"].as_str().unwrap();
        if input.starts_with("$iothub") {
            continue;
        }
        let read = EventsTopic::parse_edge(input)
            .and_then(|topic| brownbridge::hub::bag::decode(topic.bag).ok().map(|bag| (topic, bag)));
        assert_eq!(read.is_some(), row["ok"].as_bool().unwrap(), "{input}");
        let Some((topic, bag)) = read else { continue };
        let mut all = vec![("deviceId".to_owned(), Some(topic.device.to_owned()))];
        all.extend(topic.module.map(|m| ("moduleId".to_owned(), Some(m.to_owned()))));
        all.extend(bag.into_iter().map(|(n, v)| (n.into_owned(), v.map(|v| v.into_owned()))));
        let expect: Vec<(String, Option<String>)> = serde_json::from_value(row["props"].clone()).unwrap();
        assert_eq!(all, expect, "{input}");
    }
}

#[test]
fn every_filter_of_the_sdks_is_granted() {
    let mut seen = 0;
    for row in golden("subscriptions") {
        let scenario = row["scenario"].as_str().unwrap();
        if row["packet"] != "SUBSCRIBE" || scenario.contains("dps") || scenario.starts_with("mosq") {
            continue;
        }
        for filter in row["filters"].as_array().unwrap() {
            let filter = filter["filter"].as_str().unwrap();
            let (device, module) =
                if scenario.contains("module") { ("edge-dev-01", Some("mod-01")) } else { ("dev-01", None) };
            assert!(is_known_filter(filter, device, module), "{scenario}: {filter}");
            assert!(filter.starts_with("$iothub/") || !is_known_filter(filter, "other", module), "{filter}");
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}
