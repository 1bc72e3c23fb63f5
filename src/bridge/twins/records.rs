//! What the journal of twins has, as JSON: what is no record of this kind says nothing.
//!
//! | record | meaning |
//! |---|---|
//! | `["changed", device, change]` | a change that waits, behind what waited before |
//! | `["waits", device, cleared, set, count]` | all that waits, instead of what did |
//! | `["desired", device, version, properties, published]` | what is desired, and what of it is with the plant; with `null` in place of that it is as before |
//! | `["published", device, topic, entry]` | what is with the plant now under a topic, or `null` |

use std::time::Instant;

use serde_json::{Value, json};

use super::book::{Book, Twin};
use super::desired::Published;
use crate::hub::change::Change;
use crate::hub::exchange::Desired;
use crate::hub::twin::Properties;

/// A change that waits.
pub(super) fn changed(device: &str, change: &Properties) -> Vec<u8> {
    json!(["changed", device, change]).to_string().into_bytes()
}

/// All that waits.
pub(super) fn waits(device: &str, change: &Change) -> Vec<u8> {
    json!(["waits", device, change.to_json()]).to_string().into_bytes()
}

/// What is desired, and what of it is with the plant where that is to be said.
pub(super) fn desired(device: &str, desired: &Desired, published: Option<&Published>) -> Vec<u8> {
    let published = published.map(Published::to_json);
    json!(["desired", device, desired.version, desired.properties, published]).to_string().into_bytes()
}

/// What is with the plant under a topic.
pub(super) fn published(device: &str, (topic, entry): (&str, &Value)) -> Vec<u8> {
    json!(["published", device, topic, entry]).to_string().into_bytes()
}

/// Everything of a twin.
pub(super) fn all(device: &str, twin: &Twin) -> Vec<Vec<u8>> {
    let (change, known, published) = twin.kept();
    let waits = (!change.is_empty()).then(|| waits(device, &change));
    let desired = (known.version.is_some() || !published.is_empty()).then(|| desired(device, known, Some(published)));
    waits.into_iter().chain(desired).collect()
}

/// Reads a record; false where it is none.
pub(super) fn read(record: &[u8], book: &mut Book, now: Instant) -> bool {
    let Ok(Value::Array(fields)) = serde_json::from_slice(record) else { return false };
    let [Value::String(kind), Value::String(device), rest @ ..] = fields.as_slice() else { return false };
    match (kind.as_str(), rest) {
        ("changed", [Value::Object(change)]) => {
            book.with(device, |twin| {
                let mut all = twin.exchange.unconfirmed();
                all.add(change);
                twin.exchange.restore(all, now);
            });
        }
        ("waits", [change]) => {
            let Some(change) = Change::from_json(change) else { return false };
            book.with(device, |twin| twin.exchange.restore(change, now));
        }
        ("desired", [version, Value::Object(properties), published]) => {
            let known = Desired { version: version.as_u64(), properties: properties.clone() };
            let read = Published::from_json(published);
            if read.is_none() && !published.is_null() {
                return false;
            }
            book.with(device, |twin| {
                twin.exchange.restore_desired(known);
                if let Some(published) = read {
                    twin.published = published;
                }
            });
        }
        ("published", [Value::String(topic), entry]) => {
            return book.with(device, |twin| twin.published.note(topic, entry)).is_some();
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let now = Instant::now();
        let object = |value: Value| value.as_object().unwrap().clone();
        let (mut book, mut again) = (Book::default(), Book::default());
        let known = Desired { version: Some(7), properties: object(json!({"x": 1})) };
        for record in [
            changed("d", &object(json!({"a": 1}))),
            changed("d", &object(json!({"a": {"b": 2}}))),
            desired("d", &known, Some(&Published::default())),
            published("d", ("t/1", &json!(["00ff", true]))),
            published("d", ("t/2", &json!(["00ff", false]))),
            published("d", ("t/3", &json!(["00ff", true, "motor.speed", true]))),
            desired("d", &known, None),
            published("d", ("t/2", &Value::Null)),
        ] {
            assert!(read(&record, &mut book, now));
        }
        let written: Vec<_> = book.all().flat_map(|(device, twin)| all(device, twin)).collect();
        assert_eq!(written.len(), 2);
        assert!(written.iter().all(|record| read(record, &mut again, now)));
        let kept = again.with("d", |twin| (twin.exchange.unconfirmed(), twin.exchange.desired().clone()));
        assert_eq!((again.waiting(), kept.1), (2, known));
        assert_eq!(
            again.with("d", |twin| twin.published.to_json()),
            json!({"t/1": ["00ff", true], "t/3": ["00ff", true, "motor.speed", true]})
        );
        assert_eq!(Value::Object(kept.0.applied(&Properties::new())), json!({"a": {"b": 2}}));
        assert!(read(&waits("d", &Change::default()), &mut again, now));
        assert_eq!(again.waiting(), 0);
        for wrong in ["", "[]", "{}", r#"["changed","d",1]"#, r#"["waits","d",[1]]"#, r#"["later","d"]"#] {
            assert!(!read(wrong.as_bytes(), &mut again, now), "{wrong}");
        }
    }
}
