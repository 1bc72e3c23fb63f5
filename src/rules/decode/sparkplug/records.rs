//! What is written down of births, as JSON: what is no record of this kind says nothing.
//!
//! | record | meaning |
//! |---|---|
//! | `["birth", node, device, bdSeq, metrics, at]` | a birth; that of the node itself has no device and ends those of its devices |
//! | `["again", node, device, bdSeq, at]` | the same, with the metrics it had before it ended |
//! | `["death", node, device, at]` | the birth has ended; that of the node itself with all of its devices |
//! | `["stands", node, device, bdSeq, alive, metrics, since, heard, ended]` | what is known of a birth; it ends no other |
//! | `["forgotten", node, ""]` | nothing of the node is known any more |
//!
//! A node is written as `group/node`, no device as an empty text, a metric as `[name, alias, datatype]`, with `null` for no alias.
//! Times are milliseconds since 1970: when the message was received; until when another birth of the device held, when the
//! node was heard last, and when the birth ended. A record may lack them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::declared::{Declared, Named};

/// What changes about the birth of a device, or of the node itself where there is no device.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    Born { bd_seq: Option<u64>, declared: Arc<Declared>, at: i64 },
    Again { bd_seq: Option<u64>, at: i64 },
    Dead { at: i64 },
    Stands { bd_seq: Option<u64>, alive: bool, declared: Arc<Declared>, since: i64, heard: i64, ended: i64 },
    Forgotten,
}

impl Change {
    /// When its node was heard last.
    pub(super) fn heard(&self) -> i64 {
        match *self {
            Self::Born { at, .. } | Self::Again { at, .. } | Self::Dead { at } => at,
            Self::Stands { heard, .. } => heard,
            Self::Forgotten => 0,
        }
    }
}

/// What is written down of a change.
pub(super) fn record((node, device): (&str, &str), change: &Change) -> Vec<u8> {
    let written = |declared: &Declared| {
        let metrics = declared.metrics().iter().map(|metric| json!([metric.name, metric.alias, metric.datatype]));
        Value::Array(metrics.collect())
    };
    let record = match change {
        Change::Born { bd_seq, declared, at } => json!(["birth", node, device, bd_seq, written(declared), at]),
        Change::Again { bd_seq, at } => json!(["again", node, device, bd_seq, at]),
        Change::Dead { at } => json!(["death", node, device, at]),
        Change::Stands { bd_seq, alive, declared, since, heard, ended } => {
            json!(["stands", node, device, bd_seq, alive, written(declared), since, heard, ended])
        }
        Change::Forgotten => json!(["forgotten", node, device]),
    };
    record.to_string().into_bytes()
}

/// The node, the device and the change of a record.
pub(super) fn read(record: &[u8]) -> Option<(String, String, Change)> {
    let Ok(Value::Array(fields)) = serde_json::from_slice(record) else { return None };
    let [Value::String(kind), Value::String(node), Value::String(device), rest @ ..] = fields.as_slice() else {
        return None;
    };
    let change = match (kind.as_str(), rest) {
        ("birth", [bd_seq, metrics, times @ ..]) => {
            let declared = Arc::new(declared(metrics)?);
            Change::Born { bd_seq: bd_seq.as_u64(), declared, at: time(times, 0) }
        }
        ("again", [bd_seq, times @ ..]) => Change::Again { bd_seq: bd_seq.as_u64(), at: time(times, 0) },
        ("death", times) => Change::Dead { at: time(times, 0) },
        ("stands", [bd_seq, Value::Bool(alive), metrics, times @ ..]) => {
            let (bd_seq, declared) = (bd_seq.as_u64(), Arc::new(declared(metrics)?));
            let [since, heard, ended] = [0, 1, 2].map(|which| time(times, which));
            Change::Stands { bd_seq, alive: *alive, declared, since, heard, ended }
        }
        ("forgotten", []) => Change::Forgotten,
        _ => return None,
    };
    Some((node.clone(), device.clone(), change))
}

fn time(times: &[Value], which: usize) -> i64 {
    times.get(which).and_then(Value::as_i64).unwrap_or(0)
}

fn declared(metrics: &Value) -> Option<Declared> {
    let named = metrics.as_array()?.iter().map(|metric| {
        let [Value::String(name), alias, datatype] = metric.as_array()?.as_slice() else { return None };
        let datatype = u32::try_from(datatype.as_u64()?).ok()?;
        Some(Named { name: name.as_str().into(), alias: alias.as_u64(), datatype })
    });
    Some(Declared::new(named.collect::<Option<_>>()?))
}
