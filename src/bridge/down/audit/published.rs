//! What a line says of publishes: the topic of each, and where that is asked for the beginning of its payload.

use serde_json::{Map, Value, json};

use crate::rules::LocalPublish;

/// The outcomes whose lines have payloads, so that each is written down once.
const WITH_PAYLOAD: [&str; 4] = ["published", "dry_run", "not_allowed", "cleared"];

/// All publishes of a command, where one topic does not say it all: there are several, or `most` bytes of payload, of all
/// together, are to be told.
pub fn publishes(all: &[LocalPublish], outcome: &str, most: usize) -> Option<Value> {
    let mut room = if WITH_PAYLOAD.contains(&outcome) { most } else { 0 };
    if all.is_empty() || all.len() == 1 && room == 0 {
        return None;
    }
    let told = all.iter().map(|publish| {
        let mut told = Map::new();
        told.insert("topic".to_owned(), publish.topic.as_str().into());
        told.insert("bytes".to_owned(), publish.payload.len().into());
        if room > 0 {
            room -= payload(&publish.payload, room, &mut told);
        }
        Value::Object(told)
    });
    Some(told.collect())
}

/// Tells a payload, and takes so much room: text as it is, other bytes in Base64.
fn payload(payload: &[u8], room: usize, told: &mut Map<String, Value>) -> usize {
    use base64::Engine as _;
    let taken = match std::str::from_utf8(payload) {
        Ok(text) => {
            let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            told.insert("payload".to_owned(), text.get(..end).unwrap_or_default().into());
            end
        }
        Err(_) => {
            let bytes = payload.get(..room).unwrap_or(payload);
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            told.insert("payload_base64".to_owned(), text.into());
            bytes.len()
        }
    };
    if taken < payload.len() {
        told.insert("cut".to_owned(), json!(true));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_payloads() {
        let publish = |topic: &str, payload: &[u8]| LocalPublish {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            qos: 1,
            retain: false,
        };
        let one = vec![publish("a", "12 °C".as_bytes())];
        let two = vec![publish("a", b"on"), publish("b", b"\xff\x00\x01\x02")];
        for (all, outcome, most, expect) in [
            (&vec![], "published", 9, None),
            (&one, "published", 0, None),
            (&one, "acknowledged", 9, None),
            (&one, "published", 9, Some(json!([{"topic": "a", "bytes": 6, "payload": "12 °C"}]))),
            (&one, "dry_run", 4, Some(json!([{"topic": "a", "bytes": 6, "payload": "12 ", "cut": true}]))),
            (&two, "acknowledged", 9, Some(json!([{"topic": "a", "bytes": 2}, {"topic": "b", "bytes": 4}]))),
            (
                &two,
                "not_allowed",
                5,
                Some(json!([{"topic": "a", "bytes": 2, "payload": "on"},
                            {"topic": "b", "bytes": 4, "payload_base64": "/wAB", "cut": true}])),
            ),
            (
                &two,
                "published",
                2,
                Some(json!([{"topic": "a", "bytes": 2, "payload": "on"}, {"topic": "b", "bytes": 4}])),
            ),
        ] {
            assert_eq!(publishes(all, outcome, most), expect, "{} {outcome} {most}", all.len());
        }
    }
}
