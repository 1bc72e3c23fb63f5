//! The values a script works on: JSON, with a meter.
//!
//! jaq has no limits of its own, but asks its values to do all the work. So the values count it: every operation costs
//! [`spend`] what it touches, each value knows how large and how deep it is as a tree, and what would be too large or
//! too deep is not made. Once the fuel is spent every operation fails, and the script ends. Comparing counts too, but is
//! never refused: a sort must not see an order that changes.

use std::cell::Cell;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Div, Mul, Neg, Rem, Sub};
use std::rc::Rc;

use indexmap::IndexMap;
use jaq_core::box_iter::BoxIter;
use jaq_core::path::Opt;
use jaq_core::val::Range;
use jaq_core::{Error, Exn, ValR, ValX};

use crate::rules::decode::{push_key, push_string};
use crate::rules::json;
use crate::rules::number;

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

impl jaq_core::ValT for Val {
    fn from_num(text: &str) -> ValR<Self> {
        Ok(Self::of_number(text))
    }

    fn from_map<I: IntoIterator<Item = (Self, Self)>>(entries: I) -> ValR<Self> {
        let mut members = IndexMap::new();
        for (key, value) in entries {
            match key {
                _ if !spend(1) => return spent(),
                Self::Text(key) => members.insert(key, value),
                other => return Err(Error::typ(other, "string")),
            };
        }
        Ok(Self::object(members))
    }

    fn key_values(self) -> BoxIter<'static, ValR<(Self, Self), Self>> {
        if !spend(self.size().weight) {
            return Box::new(std::iter::once(spent()));
        }
        match self {
            Self::List(list) => {
                let items = Rc::unwrap_or_clone(list).items.into_iter().enumerate();
                Box::new(items.map(|(index, value)| Ok((Self::from(index), value))))
            }
            Self::Object(object) => {
                let members = Rc::unwrap_or_clone(object).members.into_iter();
                Box::new(members.map(|(key, value)| Ok((Self::Text(key), value))))
            }
            other => Box::new(std::iter::once(Err(Error::typ(other, "iterable (array or object)")))),
        }
    }

    fn values(self) -> Box<dyn Iterator<Item = ValR<Self>>> {
        Box::new(self.key_values().map(|entry| entry.map(|(_, value)| value)))
    }

    fn index(self, index: &Self) -> ValR<Self> {
        if !spend(1) {
            return spent();
        }
        let found = match (&self, index) {
            (Self::Null, _) => None,
            (Self::Object(object), Self::Text(key)) => object.members.get(key).cloned(),
            (Self::List(list), index) if index.as_number().is_some() => {
                Self::place(index, list.items.len()).and_then(|at| list.items.get(at)).cloned()
            }
            _ => return self.cannot_index(index),
        };
        Ok(found.unwrap_or(Self::Null))
    }

    fn range(self, range: Range<&Self>) -> ValR<Self> {
        if !spend(self.size().weight) {
            return spent();
        }
        match &self {
            Self::Null => Ok(Self::Null),
            Self::List(list) => {
                let bounds = Self::bounds(&range, list.items.len())?;
                Ok(Self::list(list.items.get(bounds).unwrap_or(&[]).to_vec()))
            }
            Self::Text(text) => {
                let bounds = Self::bounds(&range, text.chars().count())?;
                Ok(Self::from(text.chars().skip(bounds.start).take(bounds.len()).collect::<String>()))
            }
            _ => Err(Error::typ(self, "rangeable (array or string)")),
        }
    }

    fn map_values<'a, I: Iterator<Item = ValX<'a, Self>>>(self, opt: Opt, f: impl Fn(Self) -> I) -> ValX<'a, Self> {
        if !spend(self.size().weight) {
            return Ok(spent()?);
        }
        match self {
            Self::List(list) => {
                let items = Rc::unwrap_or_clone(list).items.into_iter().flat_map(f);
                Ok(Self::list(items.collect::<Result<_, _>>()?))
            }
            Self::Object(object) => {
                let members = Rc::unwrap_or_clone(object).members.into_iter();
                let mapped = members.filter_map(|(key, value)| Some(f(value).next()?.map(|value| (key, value))));
                Ok(Self::object(mapped.collect::<Result<_, _>>()?))
            }
            other => opt.fail(other, |value| Exn::from(Error::typ(value, "iterable (array or object)"))),
        }
    }

    fn map_index<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        index: &Self,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        let length = match &self {
            Self::List(list) => list.items.len(),
            Self::Object(object) => object.members.len(),
            _ => 0,
        };
        if !spend(length) {
            return Ok(spent()?);
        }
        match (self, index) {
            (Self::Null, Self::Text(_)) => Self::object(IndexMap::new()).map_index(index, opt, f),
            (Self::Object(object), Self::Text(key)) => {
                let mut members = Rc::unwrap_or_clone(object).members;
                let old = members.get(key).cloned().unwrap_or(Self::Null);
                match f(old).next().transpose()? {
                    Some(new) => drop(members.insert(Rc::clone(key), new)),
                    None => drop(members.shift_remove(key)),
                }
                Ok(Self::object(members))
            }
            (Self::List(list), index) if index.as_number().is_some() => {
                let mut items = Rc::unwrap_or_clone(list).items;
                let Some(at) = Self::place(index, items.len()).filter(|at| *at < items.len()) else {
                    let fail = |_| Exn::from(Error::str(format_args!("index {index} out of bounds")));
                    return opt.fail(Self::list(items), fail);
                };
                let old = items.get(at).cloned().unwrap_or(Self::Null);
                match (f(old).next().transpose()?, items.get_mut(at)) {
                    (Some(new), Some(place)) => *place = new,
                    _ => drop(items.remove(at)),
                }
                Ok(Self::list(items))
            }
            (other, _) => opt.fail(other, |value| Exn::from(Error::index(value, index.clone()))),
        }
    }

    fn map_range<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        range: Range<&Self>,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        if !spend(self.size().weight) {
            return Ok(spent()?);
        }
        let Self::List(list) = self else {
            return opt.fail(self, |value| Exn::from(Error::typ(value, "array")));
        };
        let mut items = Rc::unwrap_or_clone(list).items;
        let bounds = Self::bounds(&range, items.len())?;
        let part = Self::list(items.get(bounds.clone()).unwrap_or(&[]).to_vec());
        match f(part).next().transpose()? {
            Some(Self::List(new)) => drop(items.splice(bounds, new.items.iter().cloned())),
            Some(other) => return Err(Exn::from(Error::typ(other, "array"))),
            None => drop(items.drain(bounds)),
        }
        Ok(Self::list(items))
    }

    fn as_bool(&self) -> bool {
        !matches!(self, Self::Null | Self::Bool(false))
    }

    fn into_string(self) -> Self {
        match self {
            Self::Text(_) => self,
            other => other.to_json().map_or(Self::Null, Self::from),
        }
    }
}

impl jaq_std::ValT for Val {
    fn into_seq<S: FromIterator<Self>>(self) -> Result<S, Self> {
        match self {
            Self::List(list) => {
                // What is made of a sequence is most often sorted.
                spend(list.items.len() * 8);
                Ok(Rc::unwrap_or_clone(list).items.into_iter().collect())
            }
            other => Err(other),
        }
    }

    fn is_int(&self) -> bool {
        matches!(self, Self::Int(_))
    }

    fn as_isize(&self) -> Option<isize> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        self.as_number()
    }

    fn is_utf8_str(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) if spend(text.len()) => Some(text.as_bytes()),
            _ => None,
        }
    }

    fn as_sub_str(&self, sub: &[u8]) -> Self {
        Self::text(&String::from_utf8_lossy(sub))
    }

    fn from_utf8_bytes(bytes: impl AsRef<[u8]> + Send + 'static) -> Self {
        spend(bytes.as_ref().len());
        Self::text(&String::from_utf8_lossy(bytes.as_ref()))
    }
}

impl From<bool> for Val {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<isize> for Val {
    fn from(value: isize) -> Self {
        spend(0);
        Self::Int(value.clamp(-EXACT, EXACT))
    }
}

impl From<usize> for Val {
    fn from(value: usize) -> Self {
        Self::from(isize::try_from(value).unwrap_or(EXACT))
    }
}

impl From<f64> for Val {
    fn from(value: f64) -> Self {
        Self::number(value)
    }
}

impl From<String> for Val {
    fn from(text: String) -> Self {
        spend(text.len() / 8);
        Self::Text(Rc::from(text))
    }
}

impl From<Range<Self>> for Val {
    fn from(range: Range<Self>) -> Self {
        let bounds = [("start", range.start), ("end", range.end)];
        Self::object(bounds.into_iter().filter_map(|(key, value)| Some((Rc::from(key), value?))).collect())
    }
}

impl FromIterator<Self> for Val {
    fn from_iter<T: IntoIterator<Item = Self>>(items: T) -> Self {
        Self::list(items.into_iter().take_while(|_| spend(0)).collect())
    }
}

impl Add for Val {
    type Output = ValR<Self>;

    fn add(self, other: Self) -> Self::Output {
        match (self, other) {
            (Self::Null, value) | (value, Self::Null) => Ok(value),
            (Self::Text(a), Self::Text(b)) => match spend((a.len() + b.len()) / 8) {
                true => Ok(Self::from([&*a, &*b].concat())),
                false => spent(),
            },
            (Self::List(a), Self::List(b)) => {
                let shared = if Rc::strong_count(&a) > 1 { a.items.len() } else { 0 };
                let size = b.items.iter().fold(a.size, |size, item| size.with(item.size()));
                if !spend(shared + b.items.len()) || Self::is_too_large(size) {
                    return spent();
                }
                let mut items = Rc::unwrap_or_clone(a).items;
                items.extend(b.items.iter().cloned());
                Ok(Self::List(Rc::new(List { items, size })))
            }
            (Self::Object(a), Self::Object(b)) => {
                let mut members = Rc::unwrap_or_clone(a).members;
                if !spend(members.len() + b.members.len()) {
                    return spent();
                }
                members.extend(b.members.iter().map(|(key, value)| (Rc::clone(key), value.clone())));
                Ok(Self::object(members))
            }
            (a, b) => a.arithmetic(jaq_core::ops::Math::Add, b, |a, b| a + b),
        }
    }
}

impl Sub for Val {
    type Output = ValR<Self>;

    fn sub(self, other: Self) -> Self::Output {
        match (self, other) {
            (Self::List(a), Self::List(b)) => {
                if !spend(a.items.len().saturating_mul(b.items.len())) {
                    return spent();
                }
                Ok(Self::list(a.items.iter().filter(|item| !b.items.contains(item)).cloned().collect()))
            }
            (a, b) => a.arithmetic(jaq_core::ops::Math::Sub, b, |a, b| a - b),
        }
    }
}

impl Mul for Val {
    type Output = ValR<Self>;

    fn mul(self, other: Self) -> Self::Output {
        match (self, other) {
            (Self::Text(text), Self::Int(times)) | (Self::Int(times), Self::Text(text)) => match usize::try_from(times)
            {
                Ok(times) if times > 0 => match spend(text.len().saturating_mul(times)) {
                    true => Ok(Self::from(text.repeat(times))),
                    false => spent(),
                },
                _ => Ok(Self::Null),
            },
            (Self::Object(a), Self::Object(b)) => merge(a, &b),
            (a, b) => a.arithmetic(jaq_core::ops::Math::Mul, b, |a, b| a * b),
        }
    }
}

/// Objects into one another, as deep as they go.
fn merge(a: Rc<Object>, b: &Object) -> ValR<Val> {
    let mut members = Rc::unwrap_or_clone(a).members;
    if !spend(members.len() + b.members.len()) {
        return spent();
    }
    for (key, value) in &b.members {
        let merged = match (members.get(key), value) {
            (Some(Val::Object(old)), Val::Object(new)) => merge(Rc::clone(old), new)?,
            _ => value.clone(),
        };
        members.insert(Rc::clone(key), merged);
    }
    Ok(Val::object(members))
}

impl Div for Val {
    type Output = ValR<Self>;

    fn div(self, other: Self) -> Self::Output {
        match (&self, &other) {
            (Self::Text(text), Self::Text(by)) => {
                if !spend(text.len()) {
                    return spent();
                }
                let parts: Vec<Self> = match (text.is_empty(), by.is_empty()) {
                    (true, _) => Vec::new(),
                    (false, true) => text.chars().map(|c| Self::text(c.encode_utf8(&mut [0; 4]))).collect(),
                    (false, false) => text.split(&**by).map(Self::text).collect(),
                };
                Ok(Self::list(parts))
            }
            (_, by) if by.as_number() == Some(0.0) && self.as_number().is_some() => {
                Err(Error::str(format_args!("{self} is divided by zero")))
            }
            _ => self.arithmetic(jaq_core::ops::Math::Div, other, |a, b| a / b),
        }
    }
}

impl Rem for Val {
    type Output = ValR<Self>;

    fn rem(self, other: Self) -> Self::Output {
        match other.as_number() {
            Some(0.0) if self.as_number().is_some() => Err(Error::str(format_args!("{self} is divided by zero"))),
            _ => self.arithmetic(jaq_core::ops::Math::Rem, other, |a, b| a % b),
        }
    }
}

impl Neg for Val {
    type Output = ValR<Self>;

    fn neg(self) -> Self::Output {
        match self.as_number() {
            Some(value) => Ok(Self::number(-value)),
            None => Err(Error::typ(self, "number")),
        }
    }
}

impl Ord for Val {
    fn cmp(&self, other: &Self) -> Ordering {
        spend(self.size().weight.min(other.size().weight));
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) => a.items.cmp(&b.items),
            (Self::Object(a), Self::Object(b)) => {
                let sorted = |object: &Object| {
                    let mut members: Vec<(Rc<str>, Self)> =
                        object.members.iter().map(|(key, value)| (Rc::clone(key), value.clone())).collect();
                    members.sort_by(|(a, _), (b, _)| a.cmp(b));
                    members
                };
                let (a, b) = (sorted(a), sorted(b));
                let keys = a.iter().map(|(key, _)| key).cmp(b.iter().map(|(key, _)| key));
                keys.then_with(|| a.iter().map(|(_, value)| value).cmp(b.iter().map(|(_, value)| value)))
            }
            (a, b) => match (a.as_number(), b.as_number()) {
                (Some(a), Some(b)) if a == b => Ordering::Equal,
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => a.rank().cmp(&b.rank()),
            },
        }
    }
}

impl PartialOrd for Val {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Val {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Val {}

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
