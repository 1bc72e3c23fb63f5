//! Expressions, for `set` and `when`: the part of jq's language that makes one value of one payload.
//!
//! | written | stands for |
//! |---|---|
//! | `.temp`, `.motor.temp`, `.list[0]`, `.["odd key"]`, `.` | a field of the payload, the payload |
//! | `$line`, `$unit` | a name from the topic, the decoder or the table |
//! | `$topic` `$client` `$user` `$time` `$qos` `$retained` | of the publish; without a user name `$user` is null |
//! | `time_of_day`, `weekday("Europe/Berlin")` | of the receipt: `"14:05:09"`, `"mon"`; in UTC without a zone |
//! | `12`, `"text"`, `true`, `null` | themselves |
//! | `+ - * / %`, `== != < <= > >=`, `and` `or`, `//`, `( )` | as in jq; `//` gives another value where the first is missing, null or false |
//! | `if .. then .. elif .. else .. end` | one of several values |
//! | `.temp \| round` | a function of the value before it ([`Function`]) |
//!
//! Where jq goes on with null, this does not: what is made of a missing field or of null is missing. What cannot be
//! calculated (a text by a number, a division by zero) is a [`Problem`]. `==` and `!=` see a missing field as null;
//! `<` and its like are false between values of different kinds.
//!
//! An expression is finite: it has no loops, and its depth is bounded.

use jiff::tz::TimeZone;
use regex::Regex;

mod eval;
mod literals;
mod parse;

pub(super) use eval::{Scope, round};
pub(super) use literals::never;
pub(super) use parse::{Known, Mistake, VARIABLES, Wrong, mentions, parse};

/// A checked expression.
#[derive(Debug, Clone)]
pub(super) enum Expr {
    Dot,
    Field(Box<Expr>, Box<str>),
    Index(Box<Expr>, i64),
    Name(Name),
    Number(f64),
    Text(Box<str>),
    Bool(bool),
    Null,
    Negate(Box<Expr>),
    Math(Math, Box<[Expr; 2]>),
    Compare(Compare, Box<[Expr; 2]>),
    And(Box<[Expr; 2]>),
    Or(Box<[Expr; 2]>),
    /// `//`
    Otherwise(Box<[Expr; 2]>),
    If(Box<[Expr; 3]>),
    /// The second, with the value of the first as its payload.
    Pipe(Box<[Expr; 2]>),
    Call(Function, Box<[Expr]>),
    /// A regular expression, compiled.
    Test(Box<Regex>),
    TimeOfDay(TimeZone),
    Weekday(TimeZone),
}

/// What a `$name` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Capture(usize),
    Column(usize),
    Topic,
    Client,
    User,
    Time,
    Qos,
    Retained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Math {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A function of the value before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Not,
    Length,
    ToNumber,
    ToString,
    Floor,
    Ceil,
    Round,
    Abs,
    Sqrt,
    Log,
    Exp,
    Pow,
    Min,
    Max,
    Downcase,
    Upcase,
    StartsWith,
    EndsWith,
    Contains,
    TrimLeft,
    TrimRight,
    Has,
    Sum,
    Type,
}

/// Name, least and most arguments.
const FUNCTIONS: [(&str, Function, usize, usize); 25] = [
    ("not", Function::Not, 0, 0),
    ("length", Function::Length, 0, 0),
    ("tonumber", Function::ToNumber, 0, 0),
    ("tostring", Function::ToString, 0, 0),
    ("floor", Function::Floor, 0, 0),
    ("ceil", Function::Ceil, 0, 0),
    ("round", Function::Round, 0, 1),
    ("abs", Function::Abs, 0, 0),
    ("fabs", Function::Abs, 0, 0),
    ("sqrt", Function::Sqrt, 0, 0),
    ("log", Function::Log, 0, 0),
    ("exp", Function::Exp, 0, 0),
    ("pow", Function::Pow, 2, 2),
    ("fmin", Function::Min, 2, 2),
    ("fmax", Function::Max, 2, 2),
    ("ascii_downcase", Function::Downcase, 0, 0),
    ("ascii_upcase", Function::Upcase, 0, 0),
    ("startswith", Function::StartsWith, 1, 1),
    ("endswith", Function::EndsWith, 1, 1),
    ("contains", Function::Contains, 1, 1),
    ("ltrimstr", Function::TrimLeft, 1, 1),
    ("rtrimstr", Function::TrimRight, 1, 1),
    ("has", Function::Has, 1, 1),
    ("add", Function::Sum, 0, 0),
    ("type", Function::Type, 0, 0),
];

/// Functions whose argument is checked when the rules are loaded.
const CHECKED: [&str; 3] = ["test", "time_of_day", "weekday"];

impl Expr {
    /// What it is made of.
    pub(super) fn parts(&self) -> &[Self] {
        match self {
            Self::Field(inner, _) | Self::Index(inner, _) | Self::Negate(inner) => std::slice::from_ref(inner),
            Self::Math(_, both) | Self::Compare(_, both) => both.as_slice(),
            Self::And(both) | Self::Or(both) | Self::Otherwise(both) | Self::Pipe(both) => both.as_slice(),
            Self::If(three) => three.as_slice(),
            Self::Call(_, arguments) => arguments,
            _ => &[],
        }
    }

    /// True where a field of the payload is needed.
    pub(super) fn has_field(&self) -> bool {
        match self {
            Self::Dot | Self::Field(..) | Self::Index(..) => true,
            Self::Negate(inner) => inner.has_field(),
            Self::Math(_, both) | Self::Compare(_, both) => both.iter().any(Self::has_field),
            // What stands behind `|` has the value before it as its payload.
            Self::Pipe(both) => both.first().is_some_and(Self::has_field),
            Self::And(both) | Self::Or(both) | Self::Otherwise(both) => both.iter().any(Self::has_field),
            Self::If(three) => three.iter().any(Self::has_field),
            Self::Call(..) | Self::Test(_) => true,
            _ => false,
        }
    }
}
