//! The values a script works on: JSON, with a meter.
//!
//! jaq has no limits of its own, but asks its values to do all the work. So the values count it: every operation costs
//! [`spend`] what it touches, each value knows how large and how deep it is as a tree, and what would be too large or
//! too deep is not made. Once the fuel is spent every operation fails, and the script ends. Comparing counts too, but is
//! never refused: a sort must not see an order that changes.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use indexmap::IndexMap;
use jaq_core::val::Range;
use jaq_core::{Error, ValR};

use crate::rules::decode::{push_key, push_string};
use crate::rules::json;
use crate::rules::number;

mod arithmetic;
mod interface;

/// What one run may cost: about a tenth of a second at the worst, and at most some tens of megabytes.
const FUEL: i64 = 1_000_000;

/// The deepest nesting of a value.
const MAX_DEPTH: usize = 200;

/// Whole numbers up to here are whole; beyond it they are as floating as in JavaScript.
const EXACT: isize = 1 << 53;

thread_local! {
    static LEFT: Cell<i64> = const { Cell::new(0) };
}

/// Fills the tank for one run.
pub(super) fn refuel() {
    LEFT.set(FUEL);
}

/// True once the fuel is spent.
pub(super) fn is_spent() -> bool {
    LEFT.get() < 0
}

/// Takes the cost of an operation; false where the fuel does not suffice.
pub(super) fn spend(cost: usize) -> bool {
    let cost = i64::try_from(cost).unwrap_or(i64::MAX);
    LEFT.set(LEFT.get().saturating_sub(cost.saturating_add(1)));
    !is_spent()
}

/// The error of an operation without fuel.
fn spent<T>() -> Result<T, Error<Val>> {
    Err(Error::new(Val::Null))
}

/// A JSON value.
#[derive(Debug, Clone)]
pub(in crate::rules) enum Val {
    Null,
    Bool(bool),
    Int(isize),
    Float(f64),
    /// A number of the payload with its spelling.
    Spelled(Rc<str>, f64),
    Text(Rc<str>),
    List(Rc<List>),
    Object(Rc<Object>),
}

#[derive(Debug, Clone, Default)]
pub(in crate::rules) struct List {
    pub(super) items: Vec<Val>,
    size: Size,
}

#[derive(Debug, Clone, Default)]
pub(in crate::rules) struct Object {
    pub(super) members: IndexMap<Rc<str>, Val>,
    size: Size,
}

/// How large and deep a value is as a tree; parts that are shared count each time.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    weight: usize,
    depth: usize,
}

impl Size {
    fn with(self, inner: Self) -> Self {
        Self { weight: self.weight.saturating_add(inner.weight), depth: self.depth.max(inner.depth + 1) }
    }
}

impl Val {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(Rc::from(text))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        spend(items.len());
        let size = items.iter().fold(Size { weight: 1, depth: 1 }, |size, item| size.with(item.size()));
        if Self::is_too_large(size) { Self::Null } else { Self::List(Rc::new(List { items, size })) }
    }

    fn object(members: IndexMap<Rc<str>, Self>) -> Self {
        spend(members.len());
        let size = members.iter().fold(Size { weight: 1, depth: 1 }, |size, (key, value)| {
            size.with(value.size()).with(Size { weight: 1 + key.len() / 8, depth: 0 })
        });
        if Self::is_too_large(size) { Self::Null } else { Self::Object(Rc::new(Object { members, size })) }
    }

    /// Ends the run where a value would be larger than all the fuel could touch.
    fn is_too_large(size: Size) -> bool {
        let too_large = size.depth > MAX_DEPTH || i64::try_from(size.weight).is_ok_and(|weight| weight > FUEL);
        if too_large {
            LEFT.set(-1);
        }
        too_large
    }

    fn size(&self) -> Size {
        match self {
            Self::Text(text) | Self::Spelled(text, _) => Size { weight: 1 + text.len() / 8, depth: 0 },
            Self::List(list) => list.size,
            Self::Object(object) => object.size,
            _ => Size { weight: 1, depth: 0 },
        }
    }

    /// The value of a text that is JSON.
    pub(super) fn of_json(text: &str) -> Self {
        let text = text.trim_matches([' ', '\n', '\r', '\t']);
        match text.as_bytes().first() {
            Some(b'{') => {
                let mut members = Vec::new();
                let _ = json::scan(text, Some(&mut members));
                let of = |place| Self::of_json(text.get(place).unwrap_or(""));
                let key = |place| Rc::from(json::unescape(text.get(place).unwrap_or("")).as_ref());
                Self::object(members.into_iter().map(|member| (key(member.key), of(member.value))).collect())
            }
            Some(b'[') => {
                let places = json::elements(text);
                Self::list(places.into_iter().map(|place| Self::of_json(text.get(place).unwrap_or(""))).collect())
            }
            Some(b'"') => Self::text(&json::string(text).unwrap_or_default()),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'-' | b'0'..=b'9') => Self::of_number(text),
            _ => Self::Null,
        }
    }

    fn of_number(text: &str) -> Self {
        match text.parse::<isize>() {
            Ok(whole) if whole.unsigned_abs() <= EXACT.unsigned_abs() => Self::Int(whole),
            _ => Self::Spelled(Rc::from(text), text.parse().unwrap_or(f64::NAN)),
        }
    }

    /// Appends the value as JSON; what JSON cannot write is null.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Self::Int(value) => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            Self::Float(value) => {
                if !number::push_f64(*value, out) {
                    out.extend_from_slice(b"null");
                }
            }
            Self::Spelled(text, _) => out.extend_from_slice(text.as_bytes()),
            Self::Text(text) => push_string(out, text),
            Self::List(list) => {
                out.push(b'[');
                for (index, item) in list.items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.push(out);
                }
                out.push(b']');
            }
            Self::Object(object) => {
                out.push(b'{');
                let mut first = true;
                for (key, value) in &object.members {
                    push_key(out, &mut first, key);
                    value.push(out);
                }
                out.push(b'}');
            }
        }
    }

    /// The value as JSON text, where there is fuel to write it.
    pub(super) fn to_json(&self) -> Result<String, Error<Self>> {
        if !spend(self.size().weight) {
            return spent();
        }
        let mut out = Vec::new();
        self.push(&mut out);
        Ok(String::from_utf8(out).unwrap_or_default())
    }

    pub(super) fn as_number(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss)]
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) | Self::Spelled(_, value) => Some(*value),
            _ => None,
        }
    }

    /// A result: whole where it is.
    pub(super) fn number(value: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        match value.fract() == 0.0 && value.abs() <= EXACT as f64 {
            true => Self::Int(value as isize),
            false => Self::Float(value),
        }
    }

    pub(super) fn as_text(&self) -> Result<&Rc<str>, Error<Self>> {
        match self {
            Self::Text(text) if spend(text.len()) => Ok(text),
            Self::Text(_) => spent(),
            other => Err(Error::typ(other.clone(), "string")),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(false) => 1,
            Self::Bool(true) => 2,
            Self::Int(_) | Self::Float(_) | Self::Spelled(..) => 3,
            Self::Text(_) => 4,
            Self::List(_) => 5,
            Self::Object(_) => 6,
        }
    }

    /// Where an index points in a list of this length.
    fn place(index: &Self, length: usize) -> Option<usize> {
        let index = index.as_number()?.floor();
        #[expect(clippy::cast_precision_loss)]
        let place = if index < 0.0 { index + length as f64 } else { index };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (place >= 0.0).then_some(place as usize)
    }

    /// The bounds of a slice.
    fn bounds(range: &Range<&Self>, length: usize) -> Result<std::ops::Range<usize>, Error<Self>> {
        let bound = |bound: Option<&Self>, open: usize| match bound {
            None | Some(Self::Null) => Ok(open),
            Some(index) if index.as_number().is_some() => Ok(Self::place(index, length).unwrap_or(0).min(length)),
            Some(other) => Err(Error::typ(other.clone(), "number")),
        };
        let start = bound(range.start, 0)?;
        Ok(start..bound(range.end, length)?.max(start))
    }

    fn cannot_index<T>(self, index: &Self) -> Result<T, Error<Self>> {
        Err(Error::index(self, index.clone()))
    }

    fn arithmetic(self, op: jaq_core::ops::Math, other: Self, run: impl Fn(f64, f64) -> f64) -> ValR<Self> {
        if !spend(1) {
            return spent();
        }
        match (self.as_number(), other.as_number()) {
            (Some(a), Some(b)) => Ok(Self::number(run(a, b))),
            _ => Err(Error::math(self, op, other)),
        }
    }
}

impl fmt::Display for Val {
    /// The beginning of it, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "\"{}\"", text.chars().take(60).collect::<String>()),
            Self::List(_) => f.write_str("a list"),
            Self::Object(_) => f.write_str("an object"),
            other => {
                let mut out = Vec::new();
                other.push(&mut out);
                f.write_str(&String::from_utf8_lossy(&out))
            }
        }
    }
}
