//! Payloads to JSON: one module a format, each pure, from bytes to the text of JSON objects or a refusal that says
//! which byte or field is wrong.
//!
//! A decoder appends its objects to [`Decoded::json`] and names each in [`Decoded::items`]: most make one, `csv` one a
//! row, `kepware` one a device or tag, and what makes several may give each its own [names](Item::names).
//!
//! A byte order mark at the beginning of text (U+FEFF) and zero bytes at its end are no part of it ([`Decode::part`]).

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::QuarantineReason;
use super::json;
use super::number;
use super::refusal::{self, Refusal, not_json, shown};
use super::rule::Decode;
use crate::message::{Content, Publish};

pub(super) mod binary;
pub(super) mod coding;
pub(super) mod csv;
pub(super) mod encoding;
pub(super) mod kepware;
pub(super) mod keyvalue;
pub(super) mod quality;
pub(super) mod sparkplug;
pub(super) mod xml;

pub use quality::LeftOut;
pub use sparkplug::{Births, Keep, Tally, rebirth};

/// Messages one rule makes of one publish at most.
pub(super) const MAX_ITEMS: usize = 1_000;

/// Names a decoder gives to each of its objects at most.
pub(super) const ITEM_NAMES: usize = 3;

/// What a payload was decoded to.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    /// The objects, one after the other.
    pub(super) json: Vec<u8>,
    pub(super) items: Vec<Item>,
    /// The texts of the items' names.
    pub(super) names: String,
    /// The values that are in none of the objects because of their quality.
    pub(super) left_out: LeftOut,
    /// The bytes behind hexadecimal digits or base64.
    bytes: Vec<u8>,
}

/// One object.
#[derive(Debug, Default)]
pub(super) struct Item {
    pub(super) body: Range<usize>,
    pub(super) names: [Range<usize>; ITEM_NAMES],
}

/// Where the bodies are, and what they are if that is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    /// The payload itself.
    Payload(Option<Content<'static>>),
    /// The items of [`Decoded`].
    Items(Option<Content<'static>>),
}

impl Decode {
    /// The part of a payload that the format is about: text is without its byte order mark, and without the zero bytes
    /// that end it in C.
    pub(super) fn part<'p>(&self, payload: &'p [u8]) -> &'p [u8] {
        match self {
            Self::Raw | Self::RawBase64 | Self::RawHex | Self::Binary(_) | Self::Sparkplug(_) => payload,
            // What that is of these is known when the encoding is.
            Self::Xml | Self::Encoded(..) => payload,
            Self::Json | Self::Text | Self::Number { .. } | Self::KeyValue(_) | Self::Csv(_) => text_of(payload),
            Self::Kepware(_) | Self::Coded(..) => text_of(payload),
        }
    }
}

impl Decoded {
    pub(super) fn clear(&mut self, kept: usize) {
        for buffer in [&mut self.json, &mut self.bytes] {
            buffer.clear();
            buffer.shrink_to(kept);
        }
        self.items.clear();
        self.items.shrink_to(MAX_ITEMS);
        self.names.clear();
        self.names.shrink_to(kept);
        self.left_out = LeftOut::default();
    }

    /// Ends the object that began at `start`.
    pub(super) fn end(&mut self, start: usize, names: [&str; ITEM_NAMES]) -> Result<(), Refusal> {
        if self.items.len() >= MAX_ITEMS {
            let detail = format!("the payload makes more than {MAX_ITEMS} messages");
            return Err(Refusal::new(QuarantineReason::TooMany, detail));
        }
        let names = names.map(|name| {
            let start = self.names.len();
            self.names.push_str(name);
            start..self.names.len()
        });
        self.items.push(Item { body: start..self.json.len(), names });
        Ok(())
    }

    /// The text of an item.
    pub(super) fn body(&self, item: &Item) -> &[u8] {
        self.json.get(item.body.clone()).unwrap_or(&[])
    }

    /// The names of an item.
    pub(super) fn names(&self, item: &Item) -> [&str; ITEM_NAMES] {
        [0, 1, 2].map(|at: usize| item.names.get(at).and_then(|name| self.names.get(name.clone())).unwrap_or(""))
    }
}

/// Decodes a payload. `needs_object` says that the rule itself looks at the JSON again.
pub(super) fn decode(
    decode: &Decode,
    (publish, needs_object): (&Publish<'_>, bool),
    births: &Births,
    out: &mut Decoded,
) -> Result<Body, Refusal> {
    let payload = decode.part(publish.payload);
    match decode {
        Decode::Raw => return Ok(Body::Payload(Some(Content::Binary))),
        Decode::Json => {
            if !needs_object {
                let text = std::str::from_utf8(payload).map_err(|_| not_json(payload, None))?;
                json::scan(text, None).map_err(|error| not_json(payload, Some(error)))?;
            }
            return Ok(Body::Payload(Some(Content::Json)));
        }
        Decode::Text => value(out, |json| push_text(refusal::text(payload)?, json))?,
        Decode::Number { comma } => value(out, |json| push_bare_number(payload, *comma, json))?,
        Decode::RawBase64 => coded(out, "value_base64", |json| push_base64(payload, json))?,
        Decode::RawHex => coded(out, "value_hex", |json| coding::push_hex(payload, json))?,
        Decode::KeyValue(options) => keyvalue::decode(options, payload, out)?,
        Decode::Csv(options) => csv::decode(options, payload, out)?,
        Decode::Binary(layout) => binary::decode(layout, payload, out)?,
        Decode::Kepware(options) => kepware::decode(options, payload, out)?,
        Decode::Sparkplug(options) => sparkplug::decode(*options, publish, births, out)?,
        Decode::Xml => xml::decode(payload, out)?,
        Decode::Coded(coding, inner) => {
            let read = |bytes: &mut Vec<u8>| coding::bytes(*coding, payload, bytes);
            return within(read, inner.as_deref(), (publish, needs_object), births, out);
        }
        Decode::Encoded(encoding, inner) => {
            let read = |text: &mut Vec<u8>| encoding::read(*encoding, payload, text);
            return within(read, Some(inner), (publish, false), births, out);
        }
    }
    Ok(Body::Items(Some(Content::Json)))
}

/// Decodes what `read` makes of the payload.
fn within(
    read: impl FnOnce(&mut Vec<u8>) -> Result<(), Refusal>,
    inner: Option<&Decode>,
    (publish, needs_object): (&Publish<'_>, bool),
    births: &Births,
    out: &mut Decoded,
) -> Result<Body, Refusal> {
    let mut bytes = std::mem::take(&mut out.bytes);
    let decoded = read(&mut bytes).and_then(|()| match inner {
        Some(inner) => decode(inner, (&Publish { payload: &bytes, ..*publish }, needs_object), births, out),
        None => Ok(Body::Payload(None)),
    });
    let decoded = match decoded {
        Ok(Body::Payload(content)) => own(inner.map_or(&bytes, |inner| inner.part(&bytes)), content, out),
        decoded => decoded,
    };
    out.bytes = bytes;
    decoded
}

/// Keeps bytes that are not the payload's own.
fn own(bytes: &[u8], content: Option<Content<'static>>, out: &mut Decoded) -> Result<Body, Refusal> {
    let start = out.json.len();
    out.json.extend_from_slice(bytes);
    out.end(start, [""; ITEM_NAMES])?;
    Ok(Body::Items(content))
}

/// An object with the one member `value`.
fn value(out: &mut Decoded, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let start = out.json.len();
    out.json.extend_from_slice(b"{\"value\":");
    write(&mut out.json)?;
    out.json.push(b'}');
    out.end(start, [""; ITEM_NAMES])
}

/// An object with the bytes as text in one member.
fn coded(out: &mut Decoded, key: &str, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Refusal> {
    let start = out.json.len();
    push_key(&mut out.json, &mut { true }, key);
    out.json.insert(start, b'{');
    out.json.push(b'"');
    write(&mut out.json);
    out.json.extend_from_slice(b"\"}");
    out.end(start, [""; ITEM_NAMES])
}

fn push_text(text: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
    push_string(out, text);
    Ok(())
}

fn push_bare_number(payload: &[u8], comma: bool, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let text = std::str::from_utf8(payload).unwrap_or("").trim();
    if number::push_with_decimal(text, comma, out) || (comma && number::push_thousands(text, out)) {
        return Ok(());
    }
    let mut detail = format!("the payload is not a number: {}", shown(payload));
    let mut advice = refusal::utf16(payload);
    if !comma && number::is_number(&text.replacen(',', ".", 1)) {
        detail.push_str(" (a decimal comma?)");
        advice = Some("decode = { format = \"number\", decimal = \",\" }");
    }
    if comma && text.contains('.') && number::has_thousands(text) {
        detail.push_str(" (with decimal = \",\" the point may be for thousands, or not)");
    } else if comma {
        detail.push_str(" (with decimal = \",\")");
    }
    Err(Refusal::new(QuarantineReason::NotANumber, detail).advise(advice))
}

fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let end = out.get_mut(start..).and_then(|room| STANDARD.encode_slice(bytes, room).ok()).unwrap_or(0);
    out.truncate(start + end);
}

/// Appends a JSON string.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    json::push_escaped(out, text);
    out.push(b'"');
}

/// Appends `"key":`, with a comma before it where it is not the first.
pub(super) fn push_key(out: &mut Vec<u8>, first: &mut bool, key: &str) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    push_string(out, key);
    out.push(b':');
}

/// Appends a list of texts.
fn push_texts<'t>(out: &mut Vec<u8>, texts: impl Iterator<Item = &'t str>) {
    out.push(b'[');
    for (index, text) in texts.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_string(out, text);
    }
    out.push(b']');
}

/// Text without the byte order mark that some programs put before it.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Text without its byte order mark and the zero bytes at its end.
fn text_of(payload: &[u8]) -> &[u8] {
    let mut text = without_mark(payload);
    while let Some(rest) = text.strip_suffix(b"\0") {
        text = rest;
    }
    text
}

/// Appends what a field of text most likely is: a number, a truth value, or text. Digits behind a zero, as in `007`, are an
/// identifier: a number would lose the zero.
fn push_guessed(out: &mut Vec<u8>, text: &str, comma: bool) {
    let zeros = text.strip_prefix(['+', '-']).unwrap_or(text).strip_prefix('0');
    match text {
        "true" | "false" => out.extend_from_slice(text.as_bytes()),
        text if zeros.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) => push_string(out, text),
        text if number::push_with_decimal(text, comma, out) => {}
        text => push_string(out, text),
    }
}

#[cfg(test)]
mod tests;
