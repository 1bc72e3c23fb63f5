//! JSON to payloads that equipment reads: the formats of [`decode`](super::decode) the other way round, with the same
//! options. What a decoder makes of a payload, the encoder makes that payload of again, as far as the decoder keeps what
//! was there.
//!
//! | format | of what | becomes |
//! |---|---|---|
//! | `json`, `raw` | the body | itself |
//! | `text`, `number` | its `value`, or a body that is one | bare |
//! | `raw` with `as` | its `value_base64` or `value_hex` | the bytes |
//! | `hex`, `base64` | the body, or what `then` makes of it | digits |
//! | `keyvalue` | its members in their order | pairs; text that would be read as something else in quotes |
//! | `csv` | its members, or those of each object of a list | a row each; with `header = true` the names before them |
//! | `binary` | its members by name | bytes; a bit is put into its word, on top of what the word itself says |
//!
//! With `encoding` the text is written in that. Where a command has a `payload`, that text is what is encoded. Nothing is guessed and nothing cut: what does not fit
//! is refused.

use super::QuarantineReason;
use super::decode::coding::{self, Coding};
use super::decode::csv::Csv;
use super::decode::encoding::{self, Encoding};
use super::decode::keyvalue::KeyValue;
use super::json::{self, Kind, Member};
use super::number;
use super::refusal::{Refusal, shown};
use super::rule::Decode;

pub(super) mod binary;
mod text;

use binary::Words;

/// How a payload is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Encode {
    Asis,
    Text,
    Number {
        comma: bool,
    },
    /// The bytes of one member that has them as text.
    Bytes(Coding),
    KeyValue(KeyValue),
    Csv(Csv),
    Binary(Words),
    /// Text that is no UTF-8.
    Encoded(Encoding, Box<Encode>),
    /// Bytes written as text.
    Coded(Coding, Option<Box<Encode>>),
}

impl Encode {
    /// The other way round; in words why there is none.
    pub(super) fn of(decode: Decode) -> Result<Self, String> {
        Ok(match decode {
            Decode::Json | Decode::Raw => Self::Asis,
            Decode::Text => Self::Text,
            Decode::Number { comma } => Self::Number { comma },
            Decode::RawBase64 => Self::Bytes(Coding::Base64),
            Decode::RawHex => Self::Bytes(Coding::Hex),
            Decode::KeyValue(options) => Self::KeyValue(options),
            Decode::Csv(options) => Self::Csv(options),
            Decode::Binary(layout) => Self::Binary(Words::new(layout)?),
            Decode::Encoded(encoding, inner) => Self::Encoded(encoding, Box::new(Self::of(*inner)?)),
            Decode::Coded(coding, None) => Self::Coded(coding, None),
            Decode::Coded(coding, Some(inner)) => Self::Coded(coding, Some(Box::new(Self::of(*inner)?))),
            Decode::Kepware(_) | Decode::Sparkplug(_) | Decode::Xml => {
                return Err("this format can only be read".to_owned());
            }
        })
    }

    /// It takes the members of the body apart, so that a text alone is of no use to it.
    pub(super) fn needs_object(&self) -> bool {
        match self {
            Self::Bytes(_) | Self::KeyValue(_) | Self::Csv(_) | Self::Binary(_) => true,
            Self::Coded(_, Some(inner)) | Self::Encoded(_, inner) => inner.needs_object(),
            Self::Asis | Self::Text | Self::Number { .. } | Self::Coded(_, None) => false,
        }
    }
}

/// What is to be encoded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// What a template made.
    Text(&'a str),
    /// The body.
    Body(&'a [u8]),
}

impl<'a> Source<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Body(body) => body,
        }
    }
}

/// The payload.
pub(super) fn encode(encode: &Encode, source: Source<'_>) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    match encode {
        Encode::Asis => out.extend_from_slice(source.bytes()),
        Encode::Text => out.extend_from_slice(bare(source)?.as_bytes()),
        Encode::Number { comma } => push_number(&bare(source)?, *comma, &mut out)?,
        Encode::Bytes(coding) => {
            let name = if *coding == Coding::Hex { "value_hex" } else { "value_base64" };
            let object = Object::of(source)?;
            let text = object.string(name)?;
            coding::bytes(*coding, text.as_bytes(), &mut out)
                .map_err(|refusal| refused(format!("`{name}` is not what it is called: {}", refusal.detail)))?;
        }
        Encode::KeyValue(options) => text::keyvalue(options, &Object::of(source)?, &mut out)?,
        Encode::Csv(options) => text::csv(options, source, &mut out)?,
        Encode::Binary(words) => binary::encode(words, &Object::of(source)?, &mut out)?,
        Encode::Encoded(encoding, inner) => {
            let text = String::from_utf8(self::encode(inner, source)?)
                .map_err(|error| refused(format!("the body is not text, it is {}", shown(error.as_bytes()))))?;
            encoding::write(*encoding, &text, &mut out)
                .map_err(|c| refused(format!("`{c}` is not in {}: {}", encoding.word(), shown(text.as_bytes()))))?;
        }
        Encode::Coded(coding, inner) => {
            let bytes = match inner {
                Some(inner) => self::encode(inner, source)?,
                None => source.bytes().to_vec(),
            };
            coding::push(*coding, &bytes, &mut out);
        }
    }
    Ok(out)
}

/// A refusal of an encoder.
fn refused(detail: impl Into<String>) -> Refusal {
    Refusal::new(QuarantineReason::NotEncoded, detail)
}

/// The one value of a body, as text.
fn bare(source: Source<'_>) -> Result<String, Refusal> {
    let body = match source {
        Source::Text(text) => return Ok(text.to_owned()),
        Source::Body(body) => body,
    };
    let no_value = || refused(format!("the body has no `value`, it is {}", shown(body)));
    let text = std::str::from_utf8(body).map_err(|_| no_value())?;
    let mut members = Vec::new();
    let value = match json::scan(text, Some(&mut members)).map_err(|_| no_value())? {
        Kind::Object => json::member(text, &members, "value").ok_or_else(no_value)?,
        _ => text.trim(),
    };
    match value.as_bytes().first() {
        Some(b'"') => Ok(json::string(value).unwrap_or_default().into_owned()),
        Some(b'{' | b'[' | b'n') | None => {
            Err(refused(format!("{} is neither text nor number", shown(value.as_bytes()))))
        }
        Some(_) => Ok(value.to_owned()),
    }
}

fn push_number(text: &str, comma: bool, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let start = out.len();
    if !number::push_number(text.trim(), out) {
        return Err(refused(format!("{} is not a number", shown(text.as_bytes()))));
    }
    if comma && let Some(point) = out.iter_mut().skip(start).find(|byte| **byte == b'.') {
        *point = b',';
    }
    Ok(())
}

/// The members of a body.
struct Object<'a> {
    text: &'a str,
    members: Vec<Member>,
}

impl<'a> Object<'a> {
    fn of(source: Source<'a>) -> Result<Self, Refusal> {
        let body = source.bytes();
        let text = std::str::from_utf8(body).ok();
        text.and_then(Self::parse).ok_or_else(|| {
            let detail = format!("the body is no JSON object, it is {}", shown(body));
            Refusal::new(QuarantineReason::NotAnObject, detail)
        })
    }

    fn parse(text: &'a str) -> Option<Self> {
        let mut members = Vec::new();
        let kind = json::scan(text, Some(&mut members)).ok()?;
        (kind == Kind::Object).then_some(Self { text, members })
    }

    /// The JSON of a member.
    fn get(&self, name: &str) -> Option<&'a str> {
        json::member(self.text, &self.members, name)
    }

    fn string(&self, name: &str) -> Result<std::borrow::Cow<'a, str>, Refusal> {
        let value = self.get(name).ok_or_else(|| missing(name))?;
        json::string(value).ok_or_else(|| refused(format!("`{name}` is no text, it is {}", shown(value.as_bytes()))))
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(QuarantineReason::MissingField, format!("the body lacks the field `{name}`"))
}

#[cfg(test)]
mod tests;
