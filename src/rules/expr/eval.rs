//! Calculates expressions. Total: a value, or a problem that says what could not be calculated.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use jiff::tz::TimeZone;

use super::{Compare, Expr, Function, Math, Name};
use crate::message::Timestamp;
use crate::rules::decode::push_string;
use crate::rules::json::{self, Kind};
use crate::rules::number;
use crate::rules::template::Facts;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::rules) enum Value<'a> {
    /// Nothing: a field that is not there, or what is made of one.
    Missing,
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    /// JSON of the payload, as it stands there: a number, an object or a list.
    Json(&'a str),
}

/// What an expression refers to.
#[derive(Debug, Clone)]
pub(in crate::rules) struct Scope<'a> {
    facts: &'a Facts<'a>,
    /// The value before the `|`; without one the payload.
    dot: Option<Value<'a>>,
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Result<'a> = std::result::Result<Value<'a>, Problem>;

impl<'a> Value<'a> {
    fn of_json(text: &'a str) -> Self {
        match text.as_bytes().first() {
            Some(b'"') => json::string(text).map_or(Self::Missing, Self::Text),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') => Self::Null,
            _ => Self::Json(text),
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Missing | Self::Null)
    }

    /// As jq has it: all but null and false.
    pub(in crate::rules) fn is_true(&self) -> bool {
        !matches!(self, Self::Missing | Self::Null | Self::Bool(false))
    }

    pub(in crate::rules) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Json(text) if !text.starts_with(['{', '[']) => text.parse().ok().filter(|n: &f64| n.is_finite()),
            _ => None,
        }
    }

    /// Appends the value as JSON; false, and nothing, for one that is missing.
    pub(in crate::rules) fn push(&self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Missing => return false,
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Self::Number(number) => return number::push_f64(*number, out),
            Self::Text(text) => push_string(out, text),
            Self::Json(text) => out.extend_from_slice(text.as_bytes()),
        }
        true
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Missing | Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::Json(text) if text.starts_with('{') => "object",
            Self::Json(text) if text.starts_with('[') => "array",
            Self::Json(_) => "number",
        }
    }

    /// For a person.
    fn shown(&self) -> String {
        let mut out = Vec::new();
        self.push(&mut out);
        let text = String::from_utf8_lossy(&out).into_owned();
        match text.char_indices().nth(40) {
            None => text,
            Some((at, _)) => format!("{} ...", text.get(..at).unwrap_or("")),
        }
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (a, b) if a.is_nothing() || b.is_nothing() => a.is_nothing() && b.is_nothing(),
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (a, b) => match (a.number(), b.number()) {
                (Some(a), Some(b)) => a == b,
                (None, None) => match (a, b) {
                    (Self::Json(a), Self::Json(b)) => {
                        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
                        parse(a) == parse(b)
                    }
                    _ => false,
                },
                _ => false,
            },
        }
    }

    /// Only numbers among numbers and texts among texts have an order.
    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (a, b) => a.number()?.partial_cmp(&b.number()?),
        }
    }
}

impl<'a> Scope<'a> {
    pub(in crate::rules) fn new(facts: &'a Facts<'a>) -> Self {
        Self { facts, dot: None }
    }

    pub(in crate::rules) fn value(&self, expr: &'a Expr) -> Result<'a> {
        Ok(match expr {
            Expr::Dot => self.payload(),
            Expr::Field(of, name) => self.field(of, name)?,
            Expr::Index(of, index) => element(&self.value(of)?, *index),
            Expr::Name(name) => self.name(*name),
            Expr::Number(number) => Value::Number(*number),
            Expr::Text(text) => Value::Text(Cow::Borrowed(text)),
            Expr::Bool(value) => Value::Bool(*value),
            Expr::Null => Value::Null,
            Expr::Negate(inner) => match self.value(inner)? {
                nothing if nothing.is_nothing() => Value::Missing,
                value => Value::Number(-number_of(&value, "-")?),
            },
            Expr::Math(math, both) => {
                let [left, right] = &**both;
                calculate(*math, self.value(left)?, self.value(right)?)?
            }
            Expr::Compare(compare, both) => {
                let [left, right] = &**both;
                Value::Bool(holds(*compare, &self.value(left)?, &self.value(right)?))
            }
            Expr::And(both) => {
                let [left, right] = &**both;
                Value::Bool(self.value(left)?.is_true() && self.value(right)?.is_true())
            }
            Expr::Or(both) => {
                let [left, right] = &**both;
                Value::Bool(self.value(left)?.is_true() || self.value(right)?.is_true())
            }
            Expr::Otherwise(both) => {
                let [left, right] = &**both;
                match self.value(left)? {
                    value if value.is_true() => value,
                    _ => self.value(right)?,
                }
            }
            Expr::If(three) => {
                let [condition, then, otherwise] = &**three;
                let branch = if self.value(condition)?.is_true() { then } else { otherwise };
                self.value(branch)?
            }
            Expr::Pipe(both) => {
                let [left, right] = &**both;
                Scope { facts: self.facts, dot: Some(self.value(left)?) }.value(right)?
            }
            Expr::Call(function, arguments) => self.call(*function, arguments)?,
            Expr::Test(regex) => match self.payload() {
                Value::Text(text) => Value::Bool(regex.is_match(&text)),
                value if value.is_nothing() => Value::Missing,
                value => return Err(Problem(format!("`test` is for text, not for {}", value.shown()))),
            },
            Expr::TimeOfDay(zone) => self.clock(zone, "%H:%M:%S"),
            Expr::Weekday(zone) => self.clock(zone, "%a"),
        })
    }

    fn payload(&self) -> Value<'a> {
        match &self.dot {
            Some(dot) => dot.clone(),
            None if self.facts.text.is_empty() => Value::Missing,
            None => Value::of_json(self.facts.text.trim()),
        }
    }

    fn field(&self, of: &'a Expr, name: &str) -> Result<'a> {
        // The members of the payload itself are known.
        let found = match (of, &self.dot) {
            (Expr::Dot, None) => json::member(self.facts.text, self.facts.members, name),
            _ => match self.value(of)? {
                Value::Json(text) => {
                    let mut members = Vec::new();
                    match json::scan(text, Some(&mut members)) {
                        Ok(Kind::Object) => json::member(text, &members, name),
                        _ => None,
                    }
                }
                _ => None,
            },
        };
        Ok(found.map_or(Value::Missing, Value::of_json))
    }

    fn name(&self, name: Name) -> Value<'a> {
        let publish = self.facts.publish;
        match name {
            Name::Capture(index) => Value::Text(Cow::Borrowed(self.facts.capture(index))),
            Name::Column(index) => match self.facts.row.get(index) {
                Some(Some(json)) => Value::of_json(json),
                _ => Value::Missing,
            },
            Name::Topic => Value::Text(Cow::Borrowed(publish.topic)),
            Name::Client => Value::Text(Cow::Borrowed(publish.client)),
            Name::User => publish.user.map_or(Value::Null, |user| Value::Text(Cow::Borrowed(user))),
            Name::Time => Value::Text(Cow::Owned(self.facts.time.to_string())),
            Name::Qos => Value::Number(f64::from(publish.qos)),
            Name::Retained => Value::Bool(publish.retain),
        }
    }

    fn clock(&self, zone: &TimeZone, pattern: &str) -> Value<'a> {
        let Timestamp(ms) = self.facts.publish.received;
        let written = jiff::Timestamp::from_millisecond(ms).ok().and_then(|moment| {
            let local = moment.to_zoned(zone.clone());
            jiff::fmt::strtime::format(pattern, &local).ok()
        });
        written.map_or(Value::Missing, |text| Value::Text(Cow::Owned(text.to_lowercase())))
    }

    fn call(&self, function: Function, arguments: &'a [Expr]) -> Result<'a> {
        let argument = |at: usize| match arguments.get(at) {
            Some(expr) => self.value(expr),
            None => Ok(Value::Missing),
        };
        let dot = self.payload();
        let name = super::FUNCTIONS.iter().find(|(_, known, ..)| *known == function).map_or("", |(name, ..)| name);
        match function {
            Function::Not => return Ok(Value::Bool(!dot.is_true())),
            Function::Type => return Ok(Value::Text(Cow::Borrowed(dot.kind()))),
            Function::Pow | Function::Min | Function::Max => {
                let (a, b) = (argument(0)?, argument(1)?);
                if a.is_nothing() || b.is_nothing() {
                    return Ok(Value::Missing);
                }
                let (a, b) = (number_of(&a, name)?, number_of(&b, name)?);
                return finite(
                    name,
                    match function {
                        Function::Pow => a.powf(b),
                        Function::Min => a.min(b),
                        _ => a.max(b),
                    },
                );
            }
            _ if dot.is_nothing() => return Ok(Value::Missing),
            _ => {}
        }
        match function {
            Function::Length => length(&dot),
            Function::ToNumber => match &dot {
                Value::Text(text) => {
                    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                    number.map(Value::Number).ok_or_else(|| Problem(format!("{} is no number", dot.shown())))
                }
                value => Ok(Value::Number(number_of(value, name)?)),
            },
            Function::ToString => match dot {
                Value::Text(text) => Ok(Value::Text(text)),
                value => {
                    let mut out = Vec::new();
                    value.push(&mut out);
                    Ok(Value::Text(Cow::Owned(String::from_utf8_lossy(&out).into_owned())))
                }
            },
            Function::Round => match argument(0)? {
                digits if digits.is_nothing() => finite(name, number_of(&dot, name)?.round()),
                digits => finite(name, round(number_of(&dot, name)?, number_of(&digits, name)?)),
            },
            Function::Sum => sum(&dot),
            Function::Has => Ok(Value::Bool(has(&dot, &argument(0)?))),
            Function::Floor | Function::Ceil | Function::Abs | Function::Sqrt | Function::Log | Function::Exp => {
                let number = number_of(&dot, name)?;
                finite(
                    name,
                    match function {
                        Function::Floor => number.floor(),
                        Function::Ceil => number.ceil(),
                        Function::Abs => number.abs(),
                        Function::Sqrt => number.sqrt(),
                        Function::Log => number.ln(),
                        _ => number.exp(),
                    },
                )
            }
            _ => of_text(function, name, &dot, &argument(0)?),
        }
    }
}

/// Functions of a text, with a text as their argument.
fn of_text<'a>(function: Function, name: &str, dot: &Value<'a>, argument: &Value<'a>) -> Result<'a> {
    let text = text_of(dot, name)?;
    let owned = |text: &str| Value::Text(Cow::Owned(text.to_owned()));
    match function {
        Function::Downcase => return Ok(Value::Text(Cow::Owned(text.to_ascii_lowercase()))),
        Function::Upcase => return Ok(Value::Text(Cow::Owned(text.to_ascii_uppercase()))),
        _ if argument.is_nothing() => return Ok(Value::Missing),
        _ => {}
    }
    let other = text_of(argument, name)?;
    Ok(match function {
        Function::StartsWith => Value::Bool(text.starts_with(other)),
        Function::EndsWith => Value::Bool(text.ends_with(other)),
        Function::Contains => Value::Bool(text.contains(other)),
        Function::TrimLeft => owned(text.strip_prefix(other).unwrap_or(text)),
        _ => owned(text.strip_suffix(other).unwrap_or(text)),
    })
}

fn text_of<'v>(value: &'v Value<'_>, name: &str) -> std::result::Result<&'v str, Problem> {
    match value {
        Value::Text(text) => Ok(text),
        value => Err(Problem(format!("`{name}` is for text, not for {}", value.shown()))),
    }
}

fn number_of(value: &Value<'_>, name: &str) -> std::result::Result<f64, Problem> {
    value.number().ok_or_else(|| Problem(format!("`{name}` is for numbers, not for {}", value.shown())))
}

fn finite<'a>(name: &str, number: f64) -> Result<'a> {
    match number.is_finite() {
        true => Ok(Value::Number(number)),
        false => Err(Problem(format!("`{name}` has no number as its result"))),
    }
}

/// To so many digits behind the point.
pub(in crate::rules) fn round(number: f64, digits: f64) -> f64 {
    let factor = 10_f64.powf(digits.clamp(-15.0, 15.0).trunc());
    let rounded = (number * factor).round() / factor;
    if rounded.is_finite() { rounded } else { number }
}

fn calculate<'a>(math: Math, left: Value<'a>, right: Value<'a>) -> Result<'a> {
    if left.is_nothing() || right.is_nothing() {
        return Ok(Value::Missing);
    }
    if let (Math::Add, Value::Text(left), Value::Text(right)) = (math, &left, &right) {
        return Ok(Value::Text(Cow::Owned(format!("{left}{right}"))));
    }
    let sign = match math {
        Math::Add => "+",
        Math::Subtract => "-",
        Math::Multiply => "*",
        Math::Divide => "/",
        Math::Remainder => "%",
    };
    let (a, b) = (number_of(&left, sign)?, number_of(&right, sign)?);
    if b == 0.0 && matches!(math, Math::Divide | Math::Remainder) {
        return Err(Problem(format!("{} is divided by zero", left.shown())));
    }
    finite(
        sign,
        match math {
            Math::Add => a + b,
            Math::Subtract => a - b,
            Math::Multiply => a * b,
            Math::Divide => a / b,
            Math::Remainder => a % b,
        },
    )
}

fn holds(compare: Compare, left: &Value<'_>, right: &Value<'_>) -> bool {
    let order = || left.order(right);
    match compare {
        Compare::Equal => left.equals(right),
        Compare::Unequal => !left.equals(right),
        Compare::Less => order().is_some_and(Ordering::is_lt),
        Compare::LessOrEqual => order().is_some_and(Ordering::is_le),
        Compare::Greater => order().is_some_and(Ordering::is_gt),
        Compare::GreaterOrEqual => order().is_some_and(Ordering::is_ge),
    }
}

fn element<'a>(of: &Value<'a>, index: i64) -> Value<'a> {
    let Value::Json(text) = of else { return Value::Missing };
    let places = json::elements(text);
    let at = match usize::try_from(index) {
        Ok(at) => Some(at),
        Err(_) => usize::try_from(index.unsigned_abs()).ok().and_then(|back| places.len().checked_sub(back)),
    };
    let place = at.and_then(|at| places.get(at)).and_then(|place| text.get(place.clone()));
    place.map_or(Value::Missing, Value::of_json)
}

fn length<'a>(dot: &Value<'a>) -> Result<'a> {
    #[expect(clippy::cast_precision_loss)]
    let count = |count: usize| Ok(Value::Number(count as f64));
    match dot {
        Value::Text(text) => count(text.chars().count()),
        Value::Json(text) if text.starts_with('[') => count(json::elements(text).len()),
        Value::Json(text) if text.starts_with('{') => {
            let mut members = Vec::new();
            let _ = json::scan(text, Some(&mut members));
            count(members.len())
        }
        value => Ok(Value::Number(number_of(value, "length")?.abs())),
    }
}

/// The numbers of a list together.
fn sum<'a>(dot: &Value<'a>) -> Result<'a> {
    let Value::Json(text) = dot else { return Err(Problem(format!("`add` is for lists, not for {}", dot.shown()))) };
    let places = json::elements(text);
    if places.is_empty() {
        return match text.starts_with('[') {
            true => Ok(Value::Missing),
            false => Err(Problem(format!("`add` is for lists, not for {}", dot.shown()))),
        };
    }
    let mut sum = 0.0;
    for place in places {
        sum += number_of(&text.get(place).map_or(Value::Missing, Value::of_json), "add")?;
    }
    finite("add", sum)
}

fn has(dot: &Value<'_>, key: &Value<'_>) -> bool {
    match (dot, key) {
        (Value::Json(text), Value::Text(key)) => {
            let mut members = Vec::new();
            let _ = json::scan(text, Some(&mut members));
            members.iter().any(|member| member.is(text, key))
        }
        _ => false,
    }
}
