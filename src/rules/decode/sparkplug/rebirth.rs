//! The command by which an edge node is asked to send its births again: the metric `Node Control/Rebirth` in an NCMD.

use crate::message::Timestamp;

const NAME: &[u8; 20] = b"Node Control/Rebirth";
/// The datatype Boolean.
const BOOLEAN: u8 = 11;

/// Topic and payload for a node, which is `group/node`.
pub fn rebirth(node: &str, now: Timestamp) -> Option<(String, Vec<u8>)> {
    let (group, node) = node.split_once('/')?;
    let mut time = Vec::with_capacity(10);
    push_varint(u64::try_from(now.0).unwrap_or(0), &mut time);
    // name, timestamp, datatype and the value true.
    let mut metric = vec![0x0a, NAME.len().to_le_bytes()[0]];
    metric.extend_from_slice(NAME);
    metric.push(0x18);
    metric.extend_from_slice(&time);
    metric.extend_from_slice(&[0x20, BOOLEAN, 0x70, 1]);
    let mut payload = vec![0x08];
    payload.extend_from_slice(&time);
    payload.extend_from_slice(&[0x12, metric.len().to_le_bytes()[0]]);
    payload.extend_from_slice(&metric);
    Some((format!("spBv1.0/{group}/NCMD/{node}"), payload))
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}
