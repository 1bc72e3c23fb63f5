//! The fields of `decode = { format = "binary" }`.

use toml::de::DeTable;

use crate::diag::walk::{Reader, Report, Text};
use crate::diag::{Span, nearest};
use crate::rules::decode::binary::{Field, Kind, Layout, MAX_BYTES, Order, s7};
use crate::rules::rule::Decode;

/// Fields of one layout at most.
const MAX_FIELDS: usize = 2_000;

pub(super) const ORDERS: [(&str, Order); 4] = [
    ("big", Order::Big),
    ("little", Order::Little),
    ("word-swapped", Order::WordSwapped),
    ("byte-swapped", Order::ByteSwapped),
];

pub(super) const TYPES: [&str; 21] = [
    "u8",
    "i8",
    "u16",
    "i16",
    "u24",
    "i24",
    "u32",
    "i32",
    "u64",
    "i64",
    "f32",
    "f64",
    "bool",
    "bcd8",
    "bcd16",
    "bcd32",
    "bcd64",
    "string",
    "s7string",
    "s7wstring",
    "bytes",
];

/// What becomes of a longer payload, and whether the rest is ignored.
pub(super) const RESTS: [(&str, bool); 2] = [("refuse", false), ("ignore", true)];

/// The types of IEC 61131-3 and what they are here.
const PLC_TYPES: [(&str, &str); 19] = [
    ("REAL", "f32"),
    ("LREAL", "f64"),
    ("SINT", "i8"),
    ("USINT", "u8"),
    ("BYTE", "u8"),
    ("INT", "i16"),
    ("UINT", "u16"),
    ("WORD", "u16"),
    ("DINT", "i32"),
    ("UDINT", "u32"),
    ("DWORD", "u32"),
    ("LINT", "i64"),
    ("ULINT", "u64"),
    ("LWORD", "u64"),
    ("FLOAT", "f32"),
    ("DOUBLE", "f64"),
    ("BOOLEAN", "bool"),
    ("CHAR", "string"),
    ("WSTRING", "s7wstring"),
];

/// Reads `order`, `rest` and `fields`.
pub(super) fn read(keys: &mut Reader<'_>, name: &Text<'_>, report: &mut Report<'_>) -> Option<Decode> {
    let order = keys.word("order", &ORDERS, "unknown-word", report).unwrap_or_default();
    let ignore_rest = keys.word("rest", &RESTS, "unknown-word", report).unwrap_or(false);
    let has_fields = keys.any("fields").is_some();
    let tables = keys.tables("fields", report);
    if !has_fields {
        let found = report.new_error("bad-decode", "`binary` needs to know the fields").at(name.span(), "no `fields`");
        report.push(
            found.help("fields = [ { name = \"temp\", type = \"f32\" }, { name = \"counter\", type = \"u16\" } ]"),
        );
    }
    if tables.len() > MAX_FIELDS {
        let title = format!("there are more than {MAX_FIELDS} fields");
        report.error("bad-decode", title, name.span(), "an array is written count = 10");
        return None;
    }
    let mut fields: Vec<Field> = Vec::new();
    let mut end = 0_usize;
    for (table, span) in &tables {
        let Some(field) = field(table, span, (order, &fields), report) else { continue };
        if !field.name.is_empty() && fields.iter().any(|known| known.name == field.name) {
            report.error("bad-decode", format!("two fields are called `{}`", field.name), span.clone(), "again");
        }
        let size = field.kind.size().saturating_mul(field.count.unwrap_or(1));
        end = field.at.unwrap_or(end).saturating_add(size);
        if end > MAX_BYTES {
            report.error("bad-decode", format!("this field ends behind byte {MAX_BYTES}"), span.clone(), "");
        }
        fields.push(field);
    }
    Some(Decode::Binary(Layout { fields: fields.into(), ignore_rest }))
}

fn field<'a>(
    table: &'a DeTable<'a>,
    span: &Span,
    (order, before): (Order, &[Field]),
    report: &mut Report<'_>,
) -> Option<Field> {
    let mut keys = Reader::new(table, "field");
    let name = keys.string("name", report);
    let at = keys.integer("at", report).and_then(|(at, span)| number(at, 0, &span, report));
    let field_order = keys.word("order", &ORDERS, "unknown-word", report).unwrap_or(order);
    let count = keys.integer("count", report).and_then(|(count, span)| number(count, 1, &span, report));
    let skip = keys.integer("skip", report);
    let kind = match (skip, keys.any("bit").is_some()) {
        (Some((bytes, place)), _) => Some(Kind::Skip { bytes: number(bytes, 1, &place, report)? }),
        (None, true) => bit(&mut keys, (span, count.unwrap_or(1)), before, report),
        (None, false) => typed(&mut keys, span, report),
    };
    keys.finish(report);
    let kind = kind?;
    if name.is_none() && !matches!(kind, Kind::Skip { .. }) && !table.contains_key("name") {
        let found = report.new_error("bad-decode", "the field has no name").at(span.clone(), "no `name`");
        report.push(found.help("bytes nobody needs are written { skip = 2 }"));
    }
    let name = name.map_or(Box::default(), |name| name.value.into());
    Some(Field { name, at, kind, order: field_order, count })
}

/// A number of bytes, or a place among them.
fn number(value: i64, least: i64, span: &Span, report: &mut Report<'_>) -> Option<usize> {
    let number = usize::try_from(value).ok().filter(|number| value >= least && *number <= MAX_BYTES);
    if number.is_none() {
        let title = format!("this must be between {least} and {MAX_BYTES}");
        report.error("bad-decode", title, span.clone(), "");
    }
    number
}

/// So many bits of a field.
fn bit(
    keys: &mut Reader<'_>,
    (span, count): (&Span, usize),
    before: &[Field],
    report: &mut Report<'_>,
) -> Option<Kind> {
    let (bit, bit_span) = keys.integer("bit", report)?;
    let Some(of) = keys.string("of", report) else {
        let found = report.new_error("bad-decode", "a bit is of a field before it").at(span.clone(), "no `of`");
        report.push(found.help("{ name = \"running\", bit = 0, of = \"status\" }"));
        return None;
    };
    let Some(index) = before.iter().position(|field| *field.name == *of.value) else {
        let title = format!("there is no field `{}` before this one", of.value);
        let found = report.new_error("bad-decode", title).at(of.span(), "");
        report.push(match nearest(of.value, before.iter().map(|field| &*field.name)) {
            Some(meant) => found.fix(of.span(), format!("\"{meant}\"")),
            None => found.help("a bit stands behind the field it is of"),
        });
        return None;
    };
    let bytes = match before.get(index) {
        Some(Field { kind: Kind::Integer { bytes, .. }, count, .. }) => bytes.saturating_mul(count.unwrap_or(1)),
        _ => {
            let title = format!("`{}` is no whole number, it has no bits", of.value);
            report.error("bad-decode", title, of.span(), "u8, u16, u32 and u64 have");
            return None;
        }
    };
    match u32::try_from(bit) {
        Ok(bit) if u64::from(bit) + count as u64 <= bytes as u64 * 8 => Some(Kind::Bit { bit, of: index }),
        _ => {
            let title = format!("`{}` has bits 0 to {}", of.value, bytes * 8 - 1);
            report.error("bad-decode", title, bit_span, "0 is the least significant one");
            None
        }
    }
}

fn typed(keys: &mut Reader<'_>, span: &Span, report: &mut Report<'_>) -> Option<Kind> {
    let Some(name) = keys.string("type", report) else {
        let found = report.new_error("bad-decode", "the field has no type").at(span.clone(), "no `type`");
        report.push(found.help(format!("types: {}", TYPES.join(", "))));
        return None;
    };
    let integer = |bytes, signed| Some(Kind::Integer { bytes, signed });
    let length = keys.integer("length", report);
    let declared = |wide: bool, report: &mut Report<'_>| match length.clone() {
        Some((length, place)) => {
            let most = s7::longest(wide);
            let found = usize::try_from(length).ok().filter(|length| (1..=most).contains(length));
            if found.is_none() {
                let title = format!("`{}` has a length between 1 and {most}", name.value);
                report.error("bad-decode", title, place, "");
            }
            found.map(|length| Kind::S7 { length, wide })
        }
        None => {
            let title = format!("`{}` needs the length it is declared with", name.value);
            let found = report.new_error("bad-decode", title).at(name.span(), "no `length`");
            report.push(found.help("STRING[20] has length = 20, STRING alone 254"));
            None
        }
    };
    let of_length = |report: &mut Report<'_>| match length.clone() {
        Some((length, place)) => number(length, 1, &place, report),
        None => {
            let title = format!("`{}` needs to know how many bytes it has", name.value);
            report.push(report.new_error("bad-decode", title).at(name.span(), "no `length`").help("length = 8"));
            None
        }
    };
    match name.value {
        "u8" => integer(1, false),
        "i8" => integer(1, true),
        "u16" => integer(2, false),
        "i16" => integer(2, true),
        "u24" => integer(3, false),
        "i24" => integer(3, true),
        "u32" => integer(4, false),
        "i32" => integer(4, true),
        "u64" => integer(8, false),
        "i64" => integer(8, true),
        "f32" => Some(Kind::F32),
        "f64" => Some(Kind::F64),
        "bool" => Some(Kind::Bool),
        "bcd8" => Some(Kind::Bcd { bytes: 1 }),
        "bcd16" => Some(Kind::Bcd { bytes: 2 }),
        "bcd32" => Some(Kind::Bcd { bytes: 4 }),
        "bcd64" => Some(Kind::Bcd { bytes: 8 }),
        "string" => of_length(report).map(|bytes| Kind::Text { bytes }),
        "s7string" => declared(false, report),
        "s7wstring" => declared(true, report),
        "bytes" => of_length(report).map(|bytes| Kind::Bytes { bytes }),
        unknown => {
            let found = report.new_error("unknown-type", format!("unknown type `{unknown}`")).at(name.span(), "");
            let plc = PLC_TYPES.iter().find(|(plc, _)| plc.eq_ignore_ascii_case(unknown)).map(|(_, own)| *own);
            report.push(match plc.or(nearest(unknown, TYPES)) {
                Some(meant) => found.fix(name.span(), format!("\"{meant}\"")),
                None => found.help(format!("types: {}", TYPES.join(", "))),
            });
            None
        }
    }
}
