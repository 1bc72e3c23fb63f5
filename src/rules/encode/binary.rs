//! `binary`: an object becomes bytes by a list of fields.
//!
//! The payload is as long as its layout; bytes no field says anything about are 0. Every field must be there and fit:
//! a number in its range, a text in its length, an array of its count. A bit is put into the word it is of; where the
//! body does not have the word itself, the other bits are 0.

use super::{Object, missing, refused};
use crate::rules::decode::binary::{self as decode, Field, Kind, Layout, Order, s7};
use crate::rules::decode::coding::{self, Coding};
use crate::rules::json;
use crate::rules::refusal::{Refusal, shown};

/// A layout that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Words {
    fields: Box<[Placed]>,
    length: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    field: Field,
    start: usize,
    end: usize,
    /// For a field with bits of its own in the list: those.
    bits: Box<[Bits]>,
}

/// A bit of a field, or so many from that on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bits {
    name: Box<str>,
    first: usize,
    count: Option<usize>,
}

impl Words {
    /// Says in words why a layout cannot be written.
    pub(in crate::rules) fn new(layout: Layout) -> Result<Self, String> {
        let bits_of = |index: usize| {
            let bits = layout.fields.iter().filter_map(|field| match field.kind {
                Kind::Bit { bit, of } if of == index => {
                    let first = usize::try_from(bit).unwrap_or(usize::MAX);
                    Some(Bits { name: field.name.clone(), first, count: field.count })
                }
                _ => None,
            });
            bits.collect::<Box<[_]>>()
        };
        let (mut fields, mut at): (Vec<Placed>, usize) = (Vec::new(), 0);
        for (index, field) in layout.fields.iter().enumerate() {
            if matches!(field.kind, Kind::Bit { .. }) {
                continue;
            }
            let start = field.at.unwrap_or(at);
            let end = start.saturating_add(field.kind.size().saturating_mul(field.count.unwrap_or(1)));
            at = end;
            if matches!(field.kind, Kind::Skip { .. }) {
                let (field, bits) = (field.clone(), Box::default());
                fields.push(Placed { field, start, end, bits });
                continue;
            }
            let written = |known: &&Placed| !matches!(known.field.kind, Kind::Skip { .. });
            if let Some(other) = fields.iter().filter(written).find(|other| other.start < end && start < other.end) {
                return Err(format!("`{}` and `{}` are written to the same bytes", other.field.name, field.name));
            }
            fields.push(Placed { field: field.clone(), start, end, bits: bits_of(index) });
        }
        let length = fields.iter().map(|placed| placed.end).max().unwrap_or(0);
        Ok(Self { fields: fields.into(), length })
    }
}

pub(super) fn encode(words: &Words, object: &Object<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.resize(words.length, 0);
    for placed in &words.fields {
        let Some(place) = out.get_mut(placed.start..placed.end) else { continue };
        let field = &placed.field;
        if matches!(field.kind, Kind::Skip { .. }) {
            continue;
        }
        match object.get(&field.name) {
            Some(value) => put(field, value, place)?,
            None if placed.bits.is_empty() => return Err(missing(&field.name)),
            None => {}
        }
        for bits in &placed.bits {
            match object.get(&bits.name) {
                Some(value) => put_bits(bits, field, value, place)?,
                // The word has it.
                None if object.get(&field.name).is_some() => {}
                None => return Err(missing(&bits.name)),
            }
        }
    }
    Ok(())
}

fn put(field: &Field, value: &str, place: &mut [u8]) -> Result<(), Refusal> {
    let Some(count) = field.count else { return one(field, field.kind, value, place) };
    let elements = list(&field.name, count, value)?;
    elements
        .into_iter()
        .zip(place.chunks_exact_mut(field.kind.size().max(1)))
        .try_for_each(|(element, place)| one(field, field.kind, element, place))
}

fn put_bits(bits: &Bits, field: &Field, value: &str, place: &mut [u8]) -> Result<(), Refusal> {
    let values = bits.count.map_or(Ok(vec![value]), |count| list(&bits.name, count, value))?;
    let size = field.kind.size().max(1);
    for (value, bit) in values.into_iter().zip(bits.first..) {
        let Some(place) = place.chunks_exact_mut(size).nth(bit / (size * 8)) else { continue };
        let (word, bit) = (decode::in_order(place, field.order), bit % (size * 8));
        in_order(word & !(1 << bit) | u64::from(truth(&bits.name, value)?) << bit, field.order, place);
    }
    Ok(())
}

/// The elements of a list that must have so many.
fn list<'v>(name: &str, count: usize, value: &'v str) -> Result<Vec<&'v str>, Refusal> {
    let elements = if value.starts_with('[') { json::elements(value) } else { Vec::new() };
    if elements.len() != count {
        let is = if value.starts_with('[') { elements.len().to_string() } else { "none".to_owned() };
        return Err(refused(format!("the field `{name}` is a list of {count}, the body has {is}")));
    }
    Ok(elements.into_iter().map(|element| value.get(element).unwrap_or("").trim()).collect())
}

fn one(field: &Field, kind: Kind, value: &str, place: &mut [u8]) -> Result<(), Refusal> {
    let name = &field.name;
    let is_no = |what: &str| refused(format!("the field `{name}` is {}, and no {what}", shown(value.as_bytes())));
    match kind {
        Kind::Integer { bytes, signed } => in_order(integer(field, (bytes, signed), value)?, field.order, place),
        Kind::F32 => {
            let number: f32 = value.parse().map_err(|_| is_no("number"))?;
            let finite = Some(number).filter(|number| number.is_finite()).ok_or_else(|| is_no("f32"))?;
            in_order(u64::from(finite.to_bits()), field.order, place);
        }
        Kind::F64 => {
            let number: f64 = value.parse().map_err(|_| is_no("number"))?;
            let finite = Some(number).filter(|number| number.is_finite()).ok_or_else(|| is_no("f64"))?;
            in_order(finite.to_bits(), field.order, place);
        }
        Kind::Bool => in_order(u64::from(truth(name, value)?), Order::Big, place),
        Kind::Bcd { bytes } => in_order(bcd(field, bytes, value)?, field.order, place),
        Kind::Text { bytes } => {
            let text = json::string(value).ok_or_else(|| is_no("text"))?;
            let written = fitting(&text, bytes).ok_or_else(|| {
                let why = if text.contains('\0') { "has a zero byte in it" } else { "is longer" };
                refused(format!("the field `{name}` is a text of {bytes} bytes, the body's {why}"))
            })?;
            place.iter_mut().zip(written).for_each(|(place, byte)| *place = byte);
        }
        Kind::S7 { length, wide } => {
            let text = json::string(value).ok_or_else(|| is_no("text"))?;
            s7::write(&text, wide, place).map_err(|why| {
                refused(format!("the field `{name}` is a text of {length} characters, the body's {why}"))
            })?;
        }
        Kind::Bytes { bytes } => {
            let text = json::string(value).ok_or_else(|| is_no("text"))?;
            let mut decoded = Vec::new();
            coding::bytes(Coding::Base64, text.as_bytes(), &mut decoded).map_err(|_| is_no("base64"))?;
            if decoded.len() != bytes {
                let is = decoded.len();
                return Err(refused(format!("the field `{name}` has {bytes} bytes, the body's has {is}")));
            }
            place.copy_from_slice(&decoded);
        }
        Kind::Skip { .. } | Kind::Bit { .. } => {}
    }
    Ok(())
}

/// A text as the bytes of a field: UTF-8, or Latin-1 where only that is short enough and cannot be taken for the other.
fn fitting(text: &str, length: usize) -> Option<Vec<u8>> {
    if text.contains('\0') {
        return None;
    }
    if text.len() <= length {
        return Some(text.as_bytes().to_vec());
    }
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<_>>()?;
    (latin.len() <= length && std::str::from_utf8(&latin).is_err()).then_some(latin)
}

/// A whole number, also one that is written with a fraction of nothing.
fn whole(value: &str) -> Option<i128> {
    /// Up to here every whole number is one of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Ok(number) = value.parse() {
        return Some(number);
    }
    let number = value.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && number.abs() <= EXACT)?;
    format!("{number:.0}").parse().ok()
}

/// The bits of a number in a field of its size.
fn integer(field: &Field, (bytes, signed): (usize, bool), value: &str) -> Result<u64, Refusal> {
    let bits = u32::try_from(bytes * 8).unwrap_or(64);
    let (least, most) = match signed {
        true => (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1),
        false => (0, (1_i128 << bits) - 1),
    };
    let number = whole(value).filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        let (name, is) = (&field.name, shown(value.as_bytes()));
        refused(format!("the field `{name}` is a whole number from {least} to {most}, the body's is {is}"))
    })?;
    // The upper bits of a negative number are those of the sign.
    u64::try_from(number & ((1_i128 << bits) - 1))
        .map_err(|_| refused(format!("the field `{}` is too large", field.name)))
}

fn bcd(field: &Field, bytes: usize, value: &str) -> Result<u64, Refusal> {
    let digits = bytes * 2;
    let text = whole(value).filter(|number| *number >= 0).map(|number| number.to_string());
    let text = text.filter(|text| text.len() <= digits).ok_or_else(|| {
        let (name, is) = (&field.name, shown(value.as_bytes()));
        refused(format!("the field `{name}` is a whole number of up to {digits} digits, the body's is {is}"))
    })?;
    Ok(text.bytes().fold(0, |value, digit| value << 4 | u64::from(digit & 15)))
}

fn truth(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(refused(format!("the field `{name}` is true or false, the body's is {}", shown(value.as_bytes())))),
    }
}

/// Writes a number over all of a place.
fn in_order(value: u64, order: Order, place: &mut [u8]) {
    let mut bytes = value.to_be_bytes().into_iter().skip(8_usize.saturating_sub(place.len()));
    let mut put = |place: &mut u8| *place = bytes.next().unwrap_or(0);
    match order {
        Order::Big => place.iter_mut().for_each(put),
        Order::Little => place.iter_mut().rev().for_each(put),
        Order::WordSwapped => place.rchunks_mut(2).for_each(|word| word.iter_mut().for_each(&mut put)),
        Order::ByteSwapped => place.chunks_mut(2).for_each(|word| word.iter_mut().rev().for_each(&mut put)),
    }
}
