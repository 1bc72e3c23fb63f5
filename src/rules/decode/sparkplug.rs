//! `sparkplug`: a Sparkplug B payload becomes an object: `time`, `seq`, and each metric as a field.
//!
//! | metric | field |
//! |---|---|
//! | integers, floats, booleans, strings, UUIDs | as they are; the datatype of the birth decides the sign |
//! | DateTime | RFC 3339 text |
//! | Bytes, File | base64 |
//! | arrays | lists |
//! | DataSet | a list of row objects |
//! | Template | an object of its metrics |
//! | null | null |
//!
//! A metric that comes again in one payload (buffered history) begins a new object with the metric's own time.
//!
//! Data messages may name metrics by the alias that the birth gave them. What births say is kept in [`Births`], which
//! belongs to the caller and is bounded; a data message with an alias nobody has declared is refused, and its node is
//! asked for its births where the rule says so.

use std::collections::HashSet;

use super::{Decoded, ITEM_NAMES, push_base64, push_key, push_string};
use crate::message::{Publish, Timestamp};
use crate::rules::QuarantineReason;
use crate::rules::number;
use crate::rules::refusal::{Refusal, shown};

mod births;
mod declared;
mod rebirth;
mod records;
mod wire;

pub use births::{Births, Keep, Tally};
pub use rebirth::rebirth;
use wire::{Fault, Metric, Payload, Value, code};

/// Templates in templates.
const MAX_NESTING: usize = 8;

/// Who sent a payload, and what kind it is.
struct Sender<'t> {
    node: String,
    kind: &'t str,
    device: &'t str,
}

impl<'t> Sender<'t> {
    /// From `spBv1.0/group/kind/node[/device]`; what is of the node itself has no device.
    fn of(topic: &'t str) -> Option<Self> {
        let mut levels = topic.split('/');
        let _namespace = levels.next().filter(|level| *level == "spBv1.0")?;
        let (group, kind, node) = (levels.next()?, levels.next()?, levels.next()?);
        let device = match kind {
            "NBIRTH" | "NDEATH" => "",
            "DBIRTH" | "DDEATH" => levels.next().filter(|device| !device.is_empty())?,
            _ => levels.next().unwrap_or(""),
        };
        Some(Self { node: format!("{group}/{node}"), kind, device })
    }

    fn is_data(&self) -> bool {
        matches!(self.kind, "NDATA" | "DDATA")
    }
}

/// With `asks` the node is asked for its births where the aliases of its data are not known.
pub(super) fn decode((publish, asks): (&Publish<'_>, bool), births: &Births, out: &mut Decoded) -> Result<(), Refusal> {
    let payload = Payload::read(publish.payload).map_err(|fault| unreadable(fault, publish.payload))?;
    let sender = Sender::of(publish.topic);
    let (metrics, received) = (&payload.metrics, publish.received);
    let scope = sender.as_ref().map(|sender| births.scope(sender, metrics, received)).unwrap_or_default();
    let asked = sender.as_ref().filter(|sender| asks && sender.is_data());
    if let Some(sender) = asked.filter(|_| scope.restored && metrics.iter().any(|metric| metric.name.is_none())) {
        // The last birth before a crash may not have come to the disk.
        births.ask_rebirth(&sender.node);
    }
    let mut objects: Vec<Vec<(&str, u32, &Metric<'_>)>> = Vec::new();
    let mut names: HashSet<&str> = HashSet::new();
    for metric in &payload.metrics {
        let Some((name, datatype)) = scope.resolve(metric) else {
            if let Some(alias) = metric.alias.filter(|_| scope.is_later()) {
                return Err(of_earlier_births(alias));
            }
            if let Some(sender) = asked.filter(|_| metric.alias.is_some()) {
                births.ask_rebirth(&sender.node);
            }
            return Err(unknown_alias(metric, asks, scope.is_born()));
        };
        if objects.is_empty() || !names.insert(name) {
            names.clear();
            names.insert(name);
            objects.push(Vec::new());
        }
        if let Some(object) = objects.last_mut() {
            object.push((name, datatype, metric));
        }
    }
    if objects.is_empty() {
        objects.push(Vec::new());
    }
    let history = objects.len() > 1;
    for object in &objects {
        let own = || object.iter().find_map(|(_, _, metric)| metric.timestamp);
        let time = if history { own().or(payload.timestamp) } else { payload.timestamp.or_else(own) };
        let start = out.json.len();
        out.json.push(b'{');
        let mut first = true;
        if let Some(time) = time {
            push_key(&mut out.json, &mut first, "time");
            push_time(time, &mut out.json);
        }
        if let Some(seq) = payload.seq {
            push_key(&mut out.json, &mut first, "seq");
            push_whole(seq, &mut out.json);
        }
        for (name, datatype, metric) in object {
            push_key(&mut out.json, &mut first, name);
            push_value(metric, *datatype, 0, &mut out.json).map_err(|fault| unreadable(fault, publish.payload))?;
        }
        out.json.push(b'}');
        out.end(start, [""; ITEM_NAMES])?;
    }
    Ok(())
}

fn unreadable(fault: Fault, payload: &[u8]) -> Refusal {
    Refusal::undecoded(format!("the payload is not Sparkplug B: {fault}: {}", shown(payload)))
}

fn of_earlier_births(alias: u64) -> Refusal {
    let detail =
        format!("the birth that declared the alias {alias} for this message is not known any more: another came since");
    Refusal::new(QuarantineReason::UnknownAlias, detail)
}

fn unknown_alias(metric: &Metric<'_>, asked: bool, born: bool) -> Refusal {
    let ask = if asked { "the edge node is asked" } else { "ask the edge node" };
    let detail = match metric.alias {
        Some(alias) if born => format!(
            "the birth that holds does not declare the alias {alias}: it is of another session or the sender has changed since, {ask} for a rebirth"
        ),
        Some(alias) => format!(
            "no birth that holds has declared the alias {alias}: its sender was born before brownbridge was there, or has died since, {ask} for a rebirth"
        ),
        None => "a metric has neither name nor alias".to_owned(),
    };
    let advice = (!asked).then_some("decode = { format = \"sparkplug\", rebirth = true }");
    Refusal::new(QuarantineReason::UnknownAlias, detail).advise(advice)
}

fn push_whole(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds since 1970 as RFC 3339; a number where no calendar reaches.
fn push_time(ms: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    match i64::try_from(ms) {
        // Writing to a Vec cannot fail.
        Ok(ms) if ms <= 253_402_300_799_999 => drop(write!(out, "\"{}\"", Timestamp(ms))),
        _ => push_whole(ms, out),
    }
}

fn push_value(metric: &Metric<'_>, datatype: u32, depth: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
    match (&metric.value, datatype) {
        _ if metric.is_null => out.extend_from_slice(b"null"),
        (Some(Value::Bytes(bytes)), code::FIRST_ARRAY..=code::LAST_ARRAY) => push_array(bytes, datatype, out)?,
        (Some(Value::Template(bytes)), _) => {
            if depth >= MAX_NESTING {
                return Err(Fault { at: 0, what: "templates nest too deep" });
            }
            out.push(b'{');
            let mut first = true;
            let mut names = HashSet::new();
            for member in &wire::template(bytes)? {
                let name = member.name.unwrap_or("");
                if names.insert(name) {
                    push_key(out, &mut first, name);
                    push_value(member, member.datatype.unwrap_or(0), depth + 1, out)?;
                }
            }
            out.push(b'}');
        }
        (Some(Value::DataSet(bytes)), _) => push_data_set(bytes, out)?,
        (Some(value), datatype) => push_scalar(value, datatype, out),
        (None, _) => out.extend_from_slice(b"null"),
    }
    Ok(())
}

fn push_scalar(value: &Value<'_>, datatype: u32, out: &mut Vec<u8>) {
    match *value {
        Value::Int(value) => push_integer(u64::from(value), datatype, out),
        Value::Long(value) if datatype == code::DATE_TIME => push_time(value, out),
        Value::Long(value) => push_integer(value, datatype, out),
        Value::Float(value) => {
            if !number::push_f32(value, out) {
                out.extend_from_slice(b"null");
            }
        }
        Value::Double(value) => {
            if !number::push_f64(value, out) {
                out.extend_from_slice(b"null");
            }
        }
        Value::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Value::Text(text) => push_string(out, text),
        Value::Bytes(bytes) | Value::DataSet(bytes) | Value::Template(bytes) => {
            out.push(b'"');
            push_base64(bytes, out);
            out.push(b'"');
        }
    }
}

/// An integer as its datatype reads it: negative ones come as two's complement of 32 or 64 bits.
fn push_integer(value: u64, datatype: u32, out: &mut Vec<u8>) {
    let signed = |bits: u32| (value << (64 - bits)).cast_signed() >> (64 - bits);
    let number = match datatype {
        code::INT8 => signed(8),
        code::INT16 => signed(16),
        code::INT32 => signed(32),
        code::INT64 => signed(64),
        _ => return push_whole(value, out),
    };
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Packed little-endian values; booleans are bits behind a count, strings end with a zero byte.
fn push_array(bytes: &[u8], datatype: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut first = true;
    let mut comma = |out: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
    };
    out.push(b'[');
    match datatype {
        code::BOOLEAN_ARRAY => {
            let (count, bits) = bytes.split_first_chunk::<4>().ok_or(Fault { at: 0, what: "an array is cut short" })?;
            let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
            for index in 0..count.min(bits.len() * 8) {
                comma(out);
                let bit = bits.get(index / 8).is_some_and(|byte| byte >> (7 - index % 8) & 1 == 1);
                out.extend_from_slice(if bit { b"true" } else { b"false" });
            }
        }
        code::STRING_ARRAY => {
            let texts = bytes.strip_suffix(b"\0").unwrap_or(bytes);
            for text in texts.split(|byte| *byte == 0).filter(|_| !bytes.is_empty()) {
                comma(out);
                push_string(out, &String::from_utf8_lossy(text));
            }
        }
        _ => {
            let size = code::array_size(datatype);
            if !bytes.len().is_multiple_of(size) {
                return Err(Fault { at: 0, what: "an array is cut short" });
            }
            for element in bytes.chunks_exact(size) {
                comma(out);
                let value = element.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
                match datatype {
                    code::FLOAT_ARRAY => {
                        let bits = u32::try_from(value).unwrap_or(0);
                        push_scalar(&Value::Float(f32::from_bits(bits)), 0, out);
                    }
                    code::DOUBLE_ARRAY => push_scalar(&Value::Double(f64::from_bits(value)), 0, out),
                    code::LAST_ARRAY => push_time(value, out),
                    _ => push_integer(value, code::element(datatype), out),
                }
            }
        }
    }
    out.push(b']');
    Ok(())
}

fn push_data_set(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let set = wire::DataSet::read(bytes)?;
    out.push(b'[');
    for (index, row) in set.rows.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'{');
        let mut first = true;
        for (at, value) in wire::row(row)?.iter().enumerate() {
            let Some(name) = set.columns.get(at) else { break };
            push_key(out, &mut first, name);
            match value {
                Some(value) => push_scalar(value, set.types.get(at).copied().unwrap_or(0), out),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }
    out.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests;
