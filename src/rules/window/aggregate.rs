//! `aggregate`: what fields were over a length of time.
//!
//! A field that is missing or null takes no part; one that is no number and must be is refused before it comes here.
//! A window of which a field had no value leaves it out. Numbers are written as JSON writes them: `12.0` becomes `12`.
//!
//! Whole numbers are exact up to 38 digits ([`Number`]), so that a counter beyond 2^53 keeps its last digits in `min`, `max`
//! and, of whole numbers only, `sum`. The mean of values whose sum is too large for a number is still found; the sum
//! itself, which JSON's readers could not take, is then left out.

use super::pivot::{Object, key, too_long};
use crate::rules::QuarantineReason;
use crate::rules::decode::push_key;
use crate::rules::json;
use crate::rules::number::push_f64;
use crate::rules::refusal::{Refusal, shown};
use crate::rules::template::Facts;

/// The settings of an aggregate.
#[derive(Debug, PartialEq)]
pub(in crate::rules) struct Aggregate {
    /// Milliseconds.
    pub(in crate::rules) every: i64,
    pub(in crate::rules) fields: Vec<Picked>,
}

/// A field that is aggregated.
#[derive(Debug, PartialEq)]
pub(in crate::rules) struct Picked {
    pub(in crate::rules) path: Box<[Box<str>]>,
    /// What it is called in a contribution.
    pub(in crate::rules) key: Box<str>,
    /// The functions, and what their results are called.
    pub(in crate::rules) results: Vec<(Function, Box<str>)>,
}

/// What is made of the values of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rules) enum Function {
    Min,
    Max,
    Mean,
    Sum,
    Count,
    First,
    Last,
}

impl Function {
    pub(in crate::rules) const ALL: [(&'static str, Self); 7] = [
        ("min", Self::Min),
        ("max", Self::Max),
        ("mean", Self::Mean),
        ("sum", Self::Sum),
        ("count", Self::Count),
        ("first", Self::First),
        ("last", Self::Last),
    ];

    fn needs_number(self) -> bool {
        matches!(self, Self::Min | Self::Max | Self::Mean | Self::Sum)
    }

    fn keeps_text(self) -> bool {
        matches!(self, Self::First | Self::Last)
    }
}

impl Aggregate {
    /// Appends an object of the fields that are there.
    pub(in crate::rules) fn push_picked(&self, facts: &Facts<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (start, mut first) = (out.len(), true);
        out.push(b'{');
        for picked in &self.fields {
            let Some(value) = facts.field(&picked.path).filter(|value| *value != "null") else { continue };
            let numbers = picked.results.iter().any(|(function, _)| function.needs_number());
            if numbers && !value.parse::<f64>().is_ok_and(f64::is_finite) {
                let detail =
                    format!("`aggregate` needs a number in `{}`, it is {}", picked.key, shown(value.as_bytes()));
                return Err(Refusal::new(QuarantineReason::NotANumber, detail));
            }
            push_key(out, &mut first, &picked.key);
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
        if first {
            let names: Vec<&str> = self.fields.iter().map(|picked| &*picked.key).collect();
            let detail = format!("the payload has none of the fields of `aggregate`: {}", names.join(", "));
            return Err(Refusal::new(QuarantineReason::MissingField, detail));
        }
        // The texts of several functions may be those of several messages.
        let texts = self.fields.iter().flat_map(|picked| &picked.results).filter(|(function, _)| function.keeps_text());
        let copies = texts.count().max(1);
        too_long(out.get(start..).unwrap_or(&[]))?;
        if (out.len() - start).saturating_mul(copies) > super::LARGEST_BODY / 2 {
            let detail =
                format!("the values for the window are longer than {} bytes", super::LARGEST_BODY / 2 / copies);
            return Err(Refusal::new(QuarantineReason::TooLong, detail));
        }
        Ok(())
    }

    pub(super) fn cells(&self) -> Cells {
        Cells { cells: self.fields.iter().map(|_| Cell::default()).collect(), others: Object::default() }
    }
}

/// A power of two so small that no sum of values by it is too large, and so near that none is lost in one that was.
const SMALL: f64 = 1.0 / 18_446_744_073_709_551_616.0;

/// A value, exact where it is whole.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Default for Number {
    fn default() -> Self {
        Self::Whole(0)
    }
}

impl Number {
    fn of(text: &str) -> Self {
        match text.parse() {
            Ok(whole) => Self::Whole(whole),
            Err(_) => Self::Real(text.parse().unwrap_or(0.0)),
        }
    }

    #[expect(clippy::cast_precision_loss)]
    fn about(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Real(number) => number,
        }
    }

    fn whole(self) -> Option<i128> {
        match self {
            Self::Whole(number) => Some(number),
            Self::Real(_) => None,
        }
    }

    fn is_below(self, other: Self) -> bool {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a < b,
            _ => self.about() < other.about(),
        }
    }

    /// Appends it; false for a number that JSON cannot write.
    fn push(self, out: &mut Vec<u8>) -> bool {
        use std::io::Write as _;
        match self {
            // Writing to a Vec cannot fail.
            Self::Whole(number) => write!(out, "{number}").is_ok(),
            Self::Real(number) => push_f64(number, out),
        }
    }
}

/// What the fields were so far.
#[derive(Debug)]
pub(super) struct Cells {
    cells: Vec<Cell>,
    /// What `add` put in.
    others: Object,
}

#[derive(Debug, Default)]
struct Cell {
    count: u64,
    sum: f64,
    /// The sum, as long as all values are whole.
    whole: Option<i128>,
    /// The sum of the values by [`SMALL`].
    small: f64,
    min: Number,
    max: Number,
    first: Box<str>,
    last: Box<str>,
}

impl Cells {
    /// Takes a contribution; says how many bytes there are.
    pub(super) fn add(&mut self, aggregate: &Aggregate, text: &str) -> usize {
        let mut members = Vec::new();
        let _ = json::scan(text, Some(&mut members));
        for member in &members {
            let value = text.get(member.value.clone()).unwrap_or("");
            let at = aggregate.fields.iter().position(|picked| member.is(text, &picked.key));
            match at.and_then(|at| Some((aggregate.fields.get(at)?, self.cells.get_mut(at)?))) {
                Some((picked, cell)) => cell.add(picked, value),
                None => self.others.set(key(text, member), value),
            }
        }
        let texts: usize = self.cells.iter().map(|cell| cell.first.len() + cell.last.len()).sum();
        self.others.len() + texts + self.cells.len() * size_of::<Cell>()
    }

    pub(super) fn finish(&self, aggregate: &Aggregate) -> Vec<u8> {
        let (mut out, mut first) = (vec![b'{'], true);
        for (picked, cell) in aggregate.fields.iter().zip(&self.cells).filter(|(_, cell)| cell.count > 0) {
            for (function, name) in &picked.results {
                let (start, was_first) = (out.len(), first);
                push_key(&mut out, &mut first, name);
                if !cell.push(*function, &mut out) {
                    out.truncate(start);
                    first = was_first;
                }
            }
        }
        self.others.push(&mut first, &mut out);
        out.push(b'}');
        out
    }
}

impl Cell {
    fn add(&mut self, picked: &Picked, value: &str) {
        let number = Number::of(value);
        if self.count == 0 {
            (self.min, self.max, self.first, self.whole) = (number, number, value.into(), Some(0));
        }
        self.count += 1;
        self.sum += number.about();
        self.small += number.about() * SMALL;
        self.whole = self.whole.and_then(|sum| sum.checked_add(number.whole()?));
        if number.is_below(self.min) {
            self.min = number;
        }
        if self.max.is_below(number) {
            self.max = number;
        }
        if picked.results.iter().any(|(function, _)| *function == Function::Last) {
            self.last = value.into();
        }
    }

    /// Appends a result; false for a number that JSON cannot write.
    #[expect(clippy::cast_precision_loss)]
    fn push(&self, function: Function, out: &mut Vec<u8>) -> bool {
        match function {
            Function::Min => self.min.push(out),
            Function::Max => self.max.push(out),
            Function::Mean if self.sum.is_finite() => push_f64(self.sum / self.count as f64, out),
            Function::Mean => push_f64(self.small / self.count as f64 / SMALL, out),
            Function::Sum => self.whole.map_or(Number::Real(self.sum), Number::Whole).push(out),
            Function::Count => push_f64(self.count as f64, out),
            Function::First => {
                out.extend_from_slice(self.first.as_bytes());
                true
            }
            Function::Last => {
                out.extend_from_slice(self.last.as_bytes());
                true
            }
        }
    }
}
