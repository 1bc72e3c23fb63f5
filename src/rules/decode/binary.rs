//! `binary`: bytes by a list of fields become an object.
//!
//! Fields follow one another, each `at` a byte offset of its own where the rule gives one. What JSON cannot write (NaN,
//! infinity) becomes null. Bytes behind the last field are refused, as a payload of another layout would be read
//! wrongly, unless the rule says `rest = "ignore"`.

use super::{Decoded, ITEM_NAMES, push_base64, push_key, push_string};
use crate::rules::number;
use crate::rules::refusal::Refusal;

pub(in crate::rules) mod s7;

/// Bytes a payload may have for `binary`, and so what arrays and offsets can reach.
pub(in crate::rules) const MAX_BYTES: usize = 1 << 16;

/// How the payload is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Layout {
    pub(in crate::rules) fields: Box<[Field]>,
    /// Bytes behind the last field are left out instead of refused.
    pub(in crate::rules) ignore_rest: bool,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Field {
    pub(in crate::rules) name: Box<str>,
    /// Where it begins, instead of behind the field before it.
    pub(in crate::rules) at: Option<usize>,
    pub(in crate::rules) kind: Kind,
    pub(in crate::rules) order: Order,
    /// An array of this many.
    pub(in crate::rules) count: Option<usize>,
}

/// What a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rules) enum Kind {
    /// So many bytes, with a sign or without.
    Integer {
        bytes: usize,
        signed: bool,
    },
    F32,
    F64,
    /// A byte that is 0 or not.
    Bool,
    /// Decimal digits, two a byte.
    Bcd {
        bytes: usize,
    },
    /// Text up to the first zero byte; bytes that are no UTF-8 are read as Latin-1.
    Text {
        bytes: usize,
    },
    /// A STRING of Siemens S7 with this maximum length, or a WSTRING.
    S7 {
        length: usize,
        wide: bool,
    },
    /// Bytes, as base64.
    Bytes {
        bytes: usize,
    },
    /// Bytes nobody needs.
    Skip {
        bytes: usize,
    },
    /// A bit of the field with this index, which is an integer or an array of them. The bits of an array are counted
    /// through, each element from its least significant one on.
    Bit {
        bit: u32,
        of: usize,
    },
}

/// In which order the bytes of a number come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::rules) enum Order {
    /// ABCD
    #[default]
    Big,
    /// DCBA
    Little,
    /// CDAB: 16-bit words the wrong way round, as many Modbus devices send them.
    WordSwapped,
    /// BADC: the bytes in each word the wrong way round.
    ByteSwapped,
}

impl Kind {
    /// How many bytes one takes.
    pub(in crate::rules) fn size(self) -> usize {
        match self {
            Self::Integer { bytes, .. }
            | Self::Bcd { bytes }
            | Self::Text { bytes }
            | Self::Bytes { bytes }
            | Self::Skip { bytes } => bytes,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Bool => 1,
            Self::S7 { length, wide } => s7::size(length, wide),
            Self::Bit { .. } => 0,
        }
    }
}

pub(super) fn decode(layout: &Layout, payload: &[u8], out: &mut Decoded) -> Result<(), Refusal> {
    let start = out.json.len();
    out.json.push(b'{');
    let mut first = true;
    let (mut at, mut furthest) = (0, 0);
    for field in &layout.fields {
        if let Kind::Bit { bit, of } = field.kind {
            push_key(&mut out.json, &mut first, &field.name);
            push_bits((layout, of), payload, (bit, field.count), &mut out.json);
            continue;
        }
        at = field.at.unwrap_or(at);
        let size = field.kind.size();
        let end = at.saturating_add(size.saturating_mul(field.count.unwrap_or(1)));
        let Some(bytes) = payload.get(at..end) else { return Err(too_short(field, at, end, payload.len())) };
        if !matches!(field.kind, Kind::Skip { .. }) {
            push_key(&mut out.json, &mut first, &field.name);
            match field.count {
                None => push(field, bytes, &mut out.json)?,
                Some(_) => {
                    out.json.push(b'[');
                    for (index, bytes) in bytes.chunks_exact(size.max(1)).enumerate() {
                        if index > 0 {
                            out.json.push(b',');
                        }
                        push(field, bytes, &mut out.json)?;
                    }
                    out.json.push(b']');
                }
            }
        }
        at = end;
        furthest = furthest.max(end);
    }
    out.json.push(b'}');
    if payload.len() > furthest && !layout.ignore_rest {
        let detail = format!(
            "the payload has {} bytes, the fields end at byte {furthest} (rest = \"ignore\" takes it all the same)",
            payload.len()
        );
        return Err(Refusal::undecoded(detail));
    }
    out.end(start, [""; ITEM_NAMES])
}

fn too_short(field: &Field, at: usize, end: usize, len: usize) -> Refusal {
    let what = match field.kind {
        Kind::Skip { .. } => "the bytes to skip".to_owned(),
        _ => format!("the field `{}`", field.name),
    };
    Refusal::undecoded(format!("{what} takes bytes {} to {end}, the payload has {len}", at + 1))
}

/// Appends a bit of a field, or a list of so many; the field is found again for it.
fn push_bits((layout, of): (&Layout, usize), payload: &[u8], (bit, count): (u32, Option<usize>), out: &mut Vec<u8>) {
    let Some(field) = layout.fields.get(of) else { return };
    let mut at = 0;
    for other in layout.fields.iter().take(of) {
        at = other.at.unwrap_or(at) + other.kind.size().saturating_mul(other.count.unwrap_or(1));
    }
    let size = field.kind.size().max(1);
    let words = payload.get(field.at.unwrap_or(at)..).unwrap_or(&[]);
    let is_set = |bit: usize| {
        let start = bit / (size * 8) * size;
        let word = words.get(start..start + size).map_or(0, |word| in_order(word, field.order));
        word >> (bit % (size * 8)) & 1 == 1
    };
    let bit = usize::try_from(bit).unwrap_or(usize::MAX);
    let Some(count) = count else { return push_bool(out, is_set(bit)) };
    out.push(b'[');
    for at in 0..count {
        if at > 0 {
            out.push(b',');
        }
        push_bool(out, is_set(bit + at));
    }
    out.push(b']');
}

/// Up to eight bytes as one number.
pub(in crate::rules) fn in_order(bytes: &[u8], order: Order) -> u64 {
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    match order {
        Order::Big => bytes.iter().fold(0, join),
        Order::Little => bytes.iter().rev().fold(0, join),
        Order::WordSwapped => bytes.rchunks(2).fold(0, |value, word| word.iter().fold(value, join)),
        Order::ByteSwapped => bytes.chunks(2).fold(0, |value, word| word.iter().rev().fold(value, join)),
    }
}

fn push(field: &Field, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    match field.kind {
        Kind::Integer { bytes: size, signed } => {
            let value = in_order(bytes, field.order);
            // The sign bit of the field moves to that of the i64 and back.
            let unused = u32::try_from(64_usize.saturating_sub(size * 8)).unwrap_or(0);
            let mut buffer = itoa::Buffer::new();
            out.extend_from_slice(match signed {
                true => buffer.format((value << unused).cast_signed() >> unused).as_bytes(),
                false => buffer.format(value).as_bytes(),
            });
        }
        Kind::F32 => {
            let bits = u32::try_from(in_order(bytes, field.order)).unwrap_or(0);
            or_null(out, |out| number::push_f32(f32::from_bits(bits), out));
        }
        Kind::F64 => or_null(out, |out| number::push_f64(f64::from_bits(in_order(bytes, field.order)), out)),
        Kind::Bool => push_bool(out, bytes.iter().any(|byte| *byte != 0)),
        Kind::Bcd { bytes: size } => push_bcd(field, size, in_order(bytes, field.order), out)?,
        Kind::Text { .. } => {
            // Blanks of ASCII only: without a no-break space at its end, Latin-1 may look like UTF-8.
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]).trim_ascii_end();
            match std::str::from_utf8(text) {
                Ok(text) => push_string(out, text),
                Err(_) => push_string(out, &text.iter().map(|byte| char::from(*byte)).collect::<String>()),
            }
        }
        Kind::S7 { wide, .. } => push_string(out, &s7::read(bytes, wide)),
        Kind::Bytes { .. } => {
            out.push(b'"');
            push_base64(bytes, out);
            out.push(b'"');
        }
        Kind::Skip { .. } | Kind::Bit { .. } => {}
    }
    Ok(())
}

fn push_bcd(field: &Field, size: usize, value: u64, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut number = 0_u64;
    for place in (0..size * 2).rev() {
        let digit = value >> (place * 4) & 15;
        if digit > 9 {
            let detail = format!(
                "the field `{}` is no BCD number: the digit {digit:x} in {value:0w$x}",
                field.name,
                w = size * 2
            );
            return Err(Refusal::undecoded(detail));
        }
        number = number * 10 + digit;
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    Ok(())
}

fn push_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn or_null(out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>) -> bool) {
    if !push(out) {
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::rules::rule::Decode;

    fn field(name: &str, kind: Kind) -> Field {
        Field { name: name.into(), at: None, kind, order: Order::Big, count: None }
    }

    fn integer(bytes: usize, signed: bool) -> Kind {
        Kind::Integer { bytes, signed }
    }

    #[test]
    fn layouts() {
        let ordered = |order| vec![Field { order, ..field("x", integer(4, false)) }];
        let floats = |order| vec![Field { order, ..field("x", Kind::F32) }];
        for (fields, payload, expect) in [
            (
                vec![field("a", integer(2, true)), field("b", integer(1, false))],
                &b"\xff\xfe\xff"[..],
                Ok("{\"a\":-2,\"b\":255}"),
            ),
            (vec![field("a", integer(8, true))], b"\xff\xff\xff\xff\xff\xff\xff\xff", Ok("{\"a\":-1}")),
            (
                vec![field("a", integer(8, false))],
                b"\xff\xff\xff\xff\xff\xff\xff\xff",
                Ok("{\"a\":18446744073709551615}"),
            ),
            (ordered(Order::Big), b"\x01\x02\x03\x04", Ok("{\"x\":16909060}")),
            (ordered(Order::Little), b"\x04\x03\x02\x01", Ok("{\"x\":16909060}")),
            (ordered(Order::WordSwapped), b"\x03\x04\x01\x02", Ok("{\"x\":16909060}")),
            (ordered(Order::ByteSwapped), b"\x02\x01\x04\x03", Ok("{\"x\":16909060}")),
            (floats(Order::WordSwapped), b"\x00\x00\x41\xac", Ok("{\"x\":21.5}")),
            (floats(Order::Big), b"\x7f\xc0\x00\x00", Ok("{\"x\":null}")),
            (vec![field("x", Kind::F64)], b"\x40\x35\x80\x00\x00\x00\x00\x00", Ok("{\"x\":21.5}")),
            (
                vec![
                    field("w", integer(2, false)),
                    field("b", Kind::Bit { bit: 8, of: 0 }),
                    field("c", Kind::Bit { bit: 1, of: 0 }),
                ],
                b"\x01\x01",
                Ok("{\"w\":257,\"b\":true,\"c\":false}"),
            ),
            (vec![field("x", Kind::Bcd { bytes: 2 })], b"\x12\x34", Ok("{\"x\":1234}")),
            (
                vec![field("x", Kind::Bcd { bytes: 1 })],
                b"\x1a",
                Err("the field `x` is no BCD number: the digit a in 1a"),
            ),
            (vec![field("x", Kind::Text { bytes: 4 })], b"ab\0d", Ok("{\"x\":\"ab\"}")),
            (vec![field("x", Kind::Text { bytes: 2 })], b"\xe4 ", Ok("{\"x\":\"\u{e4}\"}")),
            (vec![field("x", Kind::Text { bytes: 4 })], b"\xc2\x86\xa0 ", Ok("{\"x\":\"\u{c2}\u{86}\u{a0}\"}")),
            (
                vec![field("x", Kind::S7 { length: 12, wide: false }), field("y", integer(1, false))],
                b"\x0c\x05Motorxyzzy\0\0\x07",
                Ok("{\"x\":\"Motor\",\"y\":7}"),
            ),
            (vec![field("x", Kind::S7 { length: 4, wide: false })], b"\xfe\xffK\xfchl", Ok("{\"x\":\"Kühl\"}")),
            (vec![field("x", Kind::S7 { length: 4, wide: false })], b"\0\0\0\0\0\0", Ok("{\"x\":\"\"}")),
            (vec![field("x", Kind::S7 { length: 3, wide: true })], b"\0\x03\0\x02\x20\xac\0A\0B", Ok("{\"x\":\"€A\"}")),
            (
                vec![field("x", Kind::S7 { length: 2, wide: true })],
                b"\0\x02\xff\xff\xd8\x3d\xde\0",
                Ok("{\"x\":\"\u{1f600}\"}"),
            ),
            (
                vec![
                    Field { count: Some(2), ..field("w", integer(2, false)) },
                    field("b", Kind::Bit { bit: 8, of: 0 }),
                    field("c", Kind::Bit { bit: 17, of: 0 }),
                    Field { count: Some(3), ..field("d", Kind::Bit { bit: 15, of: 0 }) },
                ],
                b"\x01\x00\x00\x02",
                Ok("{\"w\":[256,2],\"b\":true,\"c\":true,\"d\":[false,false,true]}"),
            ),
            (
                vec![
                    field("s", Kind::Skip { bytes: 1 }),
                    field("w", integer(1, false)),
                    field("b", Kind::Bit { bit: 1, of: 1 }),
                ],
                b"\x00\x02",
                Ok("{\"w\":2,\"b\":true}"),
            ),
            (vec![field("x", Kind::Bytes { bytes: 2 })], b"\0\xff", Ok("{\"x\":\"AP8=\"}")),
            (vec![Field { count: Some(3), ..field("x", integer(1, false)) }], b"\x01\x02\x03", Ok("{\"x\":[1,2,3]}")),
            (vec![field("", Kind::Skip { bytes: 2 }), field("x", Kind::Bool)], b"??\x02", Ok("{\"x\":true}")),
            (
                vec![Field { at: Some(2), ..field("x", integer(1, false)) }, field("y", integer(1, false))],
                b"??\x05\x06",
                Ok("{\"x\":5,\"y\":6}"),
            ),
            (vec![field("x", integer(2, false))], b"\x01", Err("the field `x` takes bytes 1 to 2, the payload has 1")),
            (
                vec![field("x", integer(1, false))],
                b"\x01\x02",
                Err("the payload has 2 bytes, the fields end at byte 1 (rest = \"ignore\" takes it all the same)"),
            ),
        ] {
            let layout = Layout { fields: fields.into(), ignore_rest: false };
            check(&Decode::Binary(layout), payload, expect.map(|text| vec![text]));
        }
    }
}
