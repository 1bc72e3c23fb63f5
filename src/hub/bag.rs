//! The property bag: the text behind `messages/events/` that carries the properties of a message.
//!
//! # Writing
//!
//! `name=value&name=value` over UTF-8, everything percent-encoded except `A-Z a-z 0-9 - . _ ~`
//! (RFC 3986), with upper-case hex. A system property is an ordinary name that begins with `$.`, so it
//! goes out as `%24.ct`.
//!
//! # Reading
//!
//! The grammar of Microsoft's own reader, quirks included, because a message that it refuses takes the
//! connection with it:
//!
//! - `name` and `name=` both have no value.
//! - No name before `=` or `&`, a `&` with nothing after it and a second raw `=` in a pair are errors.
//! - The first raw `/` ends the bag; what follows is lost (see [`lost`]).
//! - A broken escape, or one that is not UTF-8, stays as it is written. `+` is a plus.
//! - The last of two equal names wins; names are case-sensitive.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// Appends `text`, percent-encoded.
pub fn encode(out: &mut String, text: &str) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let hex = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    let mut rest = text;
    loop {
        let plain = rest.bytes().position(|b| !is_unreserved(b)).unwrap_or(rest.len());
        let (head, tail) = rest.split_at_checked(plain).unwrap_or((rest, ""));
        out.push_str(head);
        let mut chars = tail.chars();
        let Some(c) = chars.next() else { return };
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            out.push('%');
            out.push(hex(byte >> 4));
            out.push(hex(byte & 15));
        }
        rest = chars.as_str();
    }
}

/// Appends one `name=value` pair, with `&` before it unless the bag at `start` of `out` is still empty.
pub fn push(out: &mut String, start: usize, name: &str, value: &str) {
    if out.len() > start {
        out.push('&');
    }
    encode(out, name);
    out.push('=');
    encode(out, value);
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// A writer that percent-encodes what is formatted into it.
#[derive(Debug)]
pub struct Encoder<'a>(pub &'a mut String);

impl fmt::Write for Encoder<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        encode(self.0, text);
        Ok(())
    }
}

/// A bag that the hub refuses, closing the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BagError {
    /// A pair without a name, at this byte.
    NoName(usize),
    /// A second raw `=` in one pair, at this byte.
    SecondEquals(usize),
    /// The bag ends with `&`.
    EndsWithAmpersand,
}

impl fmt::Display for BagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName(at) => write!(f, "the property bag has a pair without a name at byte {at}"),
            Self::SecondEquals(at) => {
                write!(f, "the property bag has a second `=` in one pair at byte {at} (in a value it is written %3D)")
            }
            Self::EndsWithAmpersand => f.write_str("the property bag ends with `&`"),
        }
    }
}

impl std::error::Error for BagError {}

/// Says whether the hub accepts this bag.
pub fn check(bag: &str) -> Result<(), BagError> {
    pairs(bag).try_for_each(|pair| pair.map(|_| ()))
}

/// What the hub ignores: everything behind the first raw `/`, unless that is the end.
///
/// `$.ct=application/json&$.ce=utf-8` is the classic: the content type arrives as `application`.
pub fn lost(bag: &str) -> Option<&str> {
    bag.split_once('/').map(|(_, rest)| rest).filter(|rest| !rest.is_empty())
}

/// One name and, where it has one, its value.
pub type Property<'a> = (Cow<'a, str>, Option<Cow<'a, str>>);

/// Reads a bag: each name once, in the order of first appearance.
pub fn decode(bag: &str) -> Result<Vec<Property<'_>>, BagError> {
    let mut properties: Vec<Property<'_>> = Vec::new();
    // A bag of 64 KB can name 32,768 properties: a search through all of them for each would be a weapon.
    let mut index: HashMap<Cow<'_, str>, usize> = HashMap::new();
    for pair in pairs(bag) {
        let (name, value) = pair?;
        let (name, value) = (unescape(name), value.map(unescape));
        let known = if properties.len() < INDEX_FROM {
            properties.iter().position(|(n, _)| *n == name)
        } else {
            if index.is_empty() {
                index.extend(properties.iter().enumerate().map(|(i, (n, _))| (n.clone(), i)));
            }
            index.get(&name).copied()
        };
        match known.and_then(|i| properties.get_mut(i)) {
            Some(property) => property.1 = value,
            None => {
                if !index.is_empty() {
                    index.insert(name.clone(), properties.len());
                }
                properties.push((name, value));
            }
        }
    }
    Ok(properties)
}

const INDEX_FROM: usize = 16;

/// The pairs of a bag as they are written, escapes and repeated names included.
pub fn pairs(bag: &str) -> Pairs<'_> {
    let text = bag.split_once('/').map_or(bag, |(head, _)| head);
    Pairs { rest: Some(text).filter(|t| !t.is_empty()), slash: text.len() < bag.len(), at: 0 }
}

/// See [`pairs`].
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    rest: Option<&'a str>,
    /// The text ends at a `/`, which may follow a `&`.
    slash: bool,
    at: usize,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a str, Option<&'a str>), BagError>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest.take()?;
        let at = self.at;
        let (pair, rest) = match text.split_once('&') {
            Some((pair, rest)) => (pair, Some(rest)),
            None => (text, None),
        };
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        };
        if name.is_empty() {
            return match (pair.is_empty() && rest.is_none(), self.slash) {
                (true, true) => None,
                (true, false) => Some(Err(BagError::EndsWithAmpersand)),
                (false, _) => Some(Err(BagError::NoName(at))),
            };
        }
        if let Some(second) = value.and_then(|v| v.find('=')) {
            return Some(Err(BagError::SecondEquals(at + name.len() + 1 + second)));
        }
        self.rest = rest;
        self.at = at + pair.len() + 1;
        Some(Ok((name, value.filter(|v| !v.is_empty()))))
    }
}

/// Resolves percent escapes; what is no escape, or not UTF-8 when resolved, stays as it is written.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut run = Vec::new();
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('%').map(|(plain, _)| rest.split_at(plain.len())) {
        out.push_str(plain);
        run.clear();
        let mut after = escaped;
        while let Some((byte, tail)) = escape(after) {
            run.push(byte);
            after = tail;
        }
        if run.is_empty() {
            out.push('%');
            rest = escaped.strip_prefix('%').unwrap_or("");
            continue;
        }
        resolve(&run, escaped, &mut out);
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The byte of the `%XX` that `text` begins with, and the text behind it.
fn escape(text: &str) -> Option<(u8, &str)> {
    let (digits, tail) = text.strip_prefix('%')?.split_at_checked(2)?;
    let byte = digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())??;
    Some((byte, tail))
}

/// Appends the characters that a run of escapes stands for; `written` is the text the run was read from.
fn resolve(run: &[u8], written: &str, out: &mut String) {
    let mut at = 0;
    for chunk in run.utf8_chunks() {
        out.push_str(chunk.valid());
        at += chunk.valid().len() * 3;
        let len = chunk.invalid().len() * 3;
        out.push_str(written.get(at..at + len).unwrap_or(""));
        at += len;
    }
}
