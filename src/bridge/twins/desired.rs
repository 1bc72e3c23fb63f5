//! What of the desired properties is with the plant.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What was published of one twin, by topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Published(BTreeMap<String, Kept>);

/// A publish that is with the plant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    /// What stands for its payload.
    hash: String,
    /// The broker keeps it.
    retained: bool,
}

impl Published {
    /// True where nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As it is kept on disk.
    pub(super) fn to_json(&self) -> Value {
        let one = |(topic, kept): (&String, &Kept)| {
            (topic.clone(), Value::from(vec![Value::from(kept.hash.as_str()), kept.retained.into()]))
        };
        Value::Object(self.0.iter().map(one).collect::<Map<_, _>>())
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let one = |(topic, kept): (&String, &Value)| {
            let [hash, retained] = kept.as_array()?.as_slice() else { return None };
            Some((topic.clone(), Kept { hash: hash.as_str()?.to_owned(), retained: retained.as_bool()? }))
        };
        value.as_object()?.iter().map(one).collect::<Option<_>>().map(Self)
    }
}
