//! The value of a metric as JSON.

use std::collections::HashSet;

use super::super::{push_base64, push_key, push_string};
use super::graded::Graded;
use super::wire::{self, Fault, Metric, Value, code};
use crate::message::Timestamp;
use crate::rules::number;

/// Templates in templates.
const MAX_NESTING: usize = 8;

/// Where a value stands: the name of its metric, and the templates that one is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'n> {
    pub(super) name: &'n str,
    within: Option<&'n Place<'n>>,
}

impl<'n> Place<'n> {
    /// That of a metric of the payload itself.
    pub(super) fn of(name: &'n str) -> Self {
        Self { name, within: None }
    }

    /// How many templates it is in.
    fn depth(&self) -> usize {
        std::iter::successors(self.within, |place| place.within).count()
    }

    /// All names, as Sparkplug writes folders: `Motor/Temp`.
    pub(super) fn path(&self) -> String {
        match self.within {
            None => self.name.to_owned(),
            Some(within) => format!("{}/{}", within.path(), self.name),
        }
    }
}

pub(super) fn push_whole(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds since 1970 as RFC 3339; a number where no calendar reaches.
pub(super) fn push_time(ms: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    match i64::try_from(ms) {
        // Writing to a Vec cannot fail.
        Ok(ms) if ms <= 253_402_300_799_999 => drop(write!(out, "\"{}\"", Timestamp(ms))),
        _ => push_whole(ms, out),
    }
}

/// Appends the value of a metric. What of a template is not good goes by `graded`.
pub(super) fn push_value(
    (metric, datatype): (&Metric<'_>, u32),
    place: Place<'_>,
    graded: &mut Graded,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    match (&metric.value, datatype) {
        _ if metric.is_null => out.extend_from_slice(b"null"),
        (Some(Value::Bytes(bytes)), code::FIRST_ARRAY..=code::LAST_ARRAY) => push_array(bytes, datatype, out)?,
        (Some(Value::Template(bytes)), _) => push_template(bytes, place, graded, out)?,
        (Some(Value::DataSet(bytes)), _) => push_data_set(bytes, out)?,
        (Some(value), datatype) => push_scalar(value, datatype, out),
        (None, _) => out.extend_from_slice(b"null"),
    }
    Ok(())
}

fn push_template(bytes: &[u8], place: Place<'_>, graded: &mut Graded, out: &mut Vec<u8>) -> Result<(), Fault> {
    if place.depth() >= MAX_NESTING {
        return Err(Fault { at: 0, what: "templates nest too deep" });
    }
    out.push(b'{');
    let mut first = true;
    let mut names = HashSet::new();
    for member in &wire::template(bytes)? {
        let name = member.name.unwrap_or("");
        let place = Place { name, within: Some(&place) };
        if names.insert(name) && graded.takes(member) {
            graded.mark(member, place);
            push_key(out, &mut first, name);
            push_value((member, member.datatype.unwrap_or(0)), place, graded, out)?;
        }
    }
    out.push(b'}');
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
