//! `dedupe`, `report_by_exception` and `throttle`: messages that are not worth their money.
//!
//! Each looks at what was sent last of the same thing. The same thing is, where `per` says nothing else: of the same rule,
//! topic and device, and of the same tag where a decoder makes several messages. Time is that of the receipt.
//!
//! They work in this order, and what one holds back leaves no mark anywhere: the next message is compared with what was
//! sent, not with what was seen.
//!
//! | key | holds back |
//! |---|---|
//! | `dedupe` | the same payload, as decoded, within the time; with `key`, whatever has the same key, from any topic |
//! | `report_by_exception` | what differs too little from what was sent, unless that is `at_least_every` ago |
//! | `throttle` | what comes sooner than this after the one before it |
//!
//! A clock that was set back by more than the time in question lets the next message pass.

use std::fmt;

use parking_lot::Mutex;

use super::RuleIndex;
use super::memory::{self, Mark, Marks};
use super::template::{Facts, Place, Template};

mod noted;

use noted::Note;
pub(super) use noted::Noted;

/// What a rule holds back.
#[derive(Debug)]
pub(super) struct Restraint {
    pub(super) per: Option<Template>,
    pub(super) dedupe: Option<Dedupe>,
    pub(super) report: Option<Report>,
    /// Milliseconds.
    pub(super) throttle: Option<i64>,
}

/// `dedupe`
#[derive(Debug)]
pub(super) struct Dedupe {
    /// Milliseconds.
    pub(super) within: i64,
    pub(super) key: Option<Template>,
}

/// `report_by_exception`
#[derive(Debug)]
pub(super) struct Report {
    /// Paths of the fields; none for the whole payload.
    pub(super) fields: Vec<Box<[Box<str>]>>,
    pub(super) change: Change,
    /// Milliseconds.
    pub(super) at_least_every: Option<i64>,
}

/// What counts as a change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    Any,
    By(f64),
    Percent(f64),
}

/// Why a message is held back. [`Display`](fmt::Display) says it in words, [`label`](Self::label) in one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldBack {
    /// It came too soon after the one before it.
    Throttled {
        /// Milliseconds since that one.
        after: i64,
        /// What they must be at least.
        least: i64,
    },
    /// It differs too little from what was sent last.
    Unchanged {
        /// The difference and what it must be at least, where that is a number.
        by: Option<(f64, f64)>,
        /// They are percents.
        percent: bool,
    },
    /// It was sent already.
    Duplicate {
        /// Milliseconds since then.
        after: i64,
    },
}

impl HeldBack {
    /// The reason as a fixed word, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::Unchanged { .. } => "unchanged",
            Self::Duplicate { .. } => "duplicate",
        }
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throttled { after, least } => {
                write!(f, "throttled: {after} ms after the one before, the rule wants {least} ms")
            }
            Self::Unchanged { by: None, .. } => f.write_str("unchanged since the one sent last"),
            Self::Unchanged { by: Some((by, least)), percent } => {
                let unit = if *percent { " %" } else { "" };
                // The tail of a binary fraction says nothing to a person.
                let by = (by * 1e9).round() / 1e9;
                write!(f, "change {by}{unit} < {least}{unit}")
            }
            Self::Duplicate { after } => write!(f, "duplicate of one sent {after} ms before"),
        }
    }
}

impl Note {
    /// Writes it down.
    pub(super) fn settle(&self, marks: &Mutex<Marks>) {
        marks.lock().put(self.key, self.mark);
    }
}

/// The message that is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged<'a> {
    pub(super) rule: RuleIndex,
    pub(super) facts: &'a Facts<'a>,
    pub(super) device: &'a [u8],
    /// The payload as decoded, before `scale` and `set`.
    pub(super) decoded: &'a [u8],
    /// After them.
    pub(super) body: &'a [u8],
}

impl Judged<'_> {
    fn now(&self) -> i64 {
        self.facts.publish.received.0
    }

    /// What stands for the thing the message is about.
    pub(super) fn thing(&self, per: Option<&Template>, buffer: &mut Vec<u8>) -> u128 {
        if let Some(per) = per {
            return rendered(per, self.facts, buffer);
        }
        let [_, names] = self.facts.more;
        let topic = self.facts.publish.topic.as_bytes();
        memory::key([topic, self.device].into_iter().chain(names.iter().map(|name| name.as_bytes())))
    }
}

/// A key of a template; a field that is missing is empty in it.
fn rendered(template: &Template, facts: &Facts<'_>, buffer: &mut Vec<u8>) -> u128 {
    buffer.clear();
    let whole = template.render(facts, Place::Property, buffer).is_ok();
    memory::key([buffer.as_slice(), &[u8::from(whole)]].iter())
}

const THROTTLE: u8 = 0;
const REPORT: u8 = 1;
const DEDUPE: u8 = 2;

impl Restraint {
    /// Something looks at fields.
    pub(super) fn needs_object(&self) -> bool {
        let templates = self.per.iter().chain(self.dedupe.iter().filter_map(|dedupe| dedupe.key.as_ref()));
        self.report_needs_object() || templates.into_iter().any(Template::has_field)
    }

    /// `report_by_exception` looks at fields.
    pub(super) fn report_needs_object(&self) -> bool {
        self.report.as_ref().is_some_and(|report| !report.fields.is_empty())
    }

    /// Says why a message is held back; otherwise puts what is to be written down behind `pending`.
    pub(super) fn judge(
        &self,
        judged: &Judged<'_>,
        marks: &Mutex<Marks>,
        (pending, buffer): (&mut Noted, &mut Vec<u8>),
    ) -> Option<HeldBack> {
        let first = pending.len();
        let thing = judged.thing(self.per.as_ref(), buffer);
        let mut seen = Seen { rule: judged.rule, now: judged.now(), marks: &mut marks.lock(), pending };
        let held_back = self.is_duplicate(judged, thing, &mut seen, buffer);
        let held_back = held_back.or_else(|| self.report.as_ref()?.judge(judged, thing, &mut seen));
        let held_back = held_back.or_else(|| {
            let least = self.throttle?;
            let key = memory::key_within(thing, THROTTLE, &[]);
            match seen.after(key) {
                Some(after) if after.saturating_abs() < least => Some(HeldBack::Throttled { after, least }),
                _ => seen.note(key, Value::NONE, least),
            }
        });
        if held_back.is_some() {
            pending.truncate(first);
        }
        held_back
    }

    fn is_duplicate(
        &self,
        judged: &Judged<'_>,
        thing: u128,
        seen: &mut Seen<'_>,
        buffer: &mut Vec<u8>,
    ) -> Option<HeldBack> {
        let dedupe = self.dedupe.as_ref()?;
        let key = match &dedupe.key {
            Some(key) => memory::key_within(rendered(key, judged.facts, buffer), DEDUPE, &[]),
            None => memory::key_within(thing, DEDUPE, &[judged.decoded]),
        };
        match seen.after(key) {
            Some(after) if after.saturating_abs() < dedupe.within => Some(HeldBack::Duplicate { after }),
            _ => seen.note(key, Value::NONE, dedupe.within),
        }
    }
}

impl Report {
    fn judge(&self, judged: &Judged<'_>, thing: u128, seen: &mut Seen<'_>) -> Option<HeldBack> {
        // What has none of the fields cannot be unchanged in them; a wrong name must not silence a device.
        if !self.fields.is_empty() && self.fields.iter().all(|path| judged.facts.field(path).is_none()) {
            return None;
        }
        let mut held_back = Some(HeldBack::Unchanged { by: None, percent: false });
        let first = seen.pending.len();
        for path in self.fields.iter().map(Some).chain(self.fields.is_empty().then_some(None)) {
            let value = match path {
                Some(path) => judged.facts.field(path).map(str::as_bytes),
                None => Some(judged.body),
            };
            let value = Value::of(value);
            let steps: Vec<&[u8]> = path.iter().flat_map(|path| path.iter()).map(|step| step.as_bytes()).collect();
            let key = memory::key_within(thing, REPORT, &steps);
            let unchanged = seen.last(key).and_then(|last| {
                let after = seen.now.saturating_sub(last.at).saturating_abs();
                let due = self.at_least_every.is_some_and(|every| after >= every);
                if due { None } else { self.change.too_small(value, Value { number: last.number, text: last.text }) }
            });
            held_back = held_back.and(unchanged);
            // All fields are marked when one of them has changed.
            let _ = seen.note(key, value, i64::MAX);
        }
        if held_back.is_some() {
            seen.pending.truncate(first);
        }
        held_back
    }
}

impl Change {
    /// Says that a value differs too little from the last one; none where it differs enough.
    fn too_small(self, value: Value, last: Value) -> Option<HeldBack> {
        let (difference, numbers) =
            ((value.number - last.number).abs(), value.number.is_finite() && last.number.is_finite());
        // Room for what decimal fractions lose in binary: 1.15 - 1.10 is a change of 0.05.
        let slack = 1e-12 * value.number.abs().max(last.number.abs());
        match self {
            Self::By(least) if numbers => {
                let by = Some((difference, least));
                (difference + slack < least).then_some(HeldBack::Unchanged { by, percent: false })
            }
            Self::Percent(least) if numbers => {
                let least_difference = last.number.abs() * least / 100.0;
                let by = (last.number != 0.0).then(|| (difference / last.number.abs() * 100.0, least));
                let small = difference == 0.0 || difference + slack < least_difference;
                small.then_some(HeldBack::Unchanged { by, percent: true })
            }
            _ => {
                let same = value.text == last.text || (numbers && difference == 0.0 && value.number.abs() < EXACT);
                same.then_some(HeldBack::Unchanged { by: None, percent: false })
            }
        }
    }
}

/// Up to here every whole number is one of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A value as it is remembered.
#[derive(Debug, Clone, Copy)]
struct Value {
    number: f64,
    text: u64,
}

impl Value {
    const NONE: Self = Self { number: f64::NAN, text: 0 };

    fn of(json: Option<&[u8]>) -> Self {
        let Some(json) = json else { return Self::NONE };
        let number = std::str::from_utf8(json).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(f64::NAN);
        Self { number, text: memory::digest(json) }
    }
}

/// What was sent before, by earlier publishes and by this one.
struct Seen<'a> {
    rule: RuleIndex,
    now: i64,
    marks: &'a mut Marks,
    pending: &'a mut Noted,
}

impl Seen<'_> {
    fn last(&mut self, key: u128) -> Option<Mark> {
        self.pending.last(self.rule, key).or_else(|| self.marks.get(key))
    }

    /// Milliseconds since then.
    fn after(&mut self, key: u128) -> Option<i64> {
        self.last(key).map(|last| self.now.saturating_sub(last.at))
    }

    /// Is to be written down, and says something for so long. Nothing is held back for it.
    fn note(&mut self, key: u128, Value { number, text }: Value, says_for: i64) -> Option<HeldBack> {
        let mark = Mark { at: self.now, until: self.now.saturating_add(says_for), number, text };
        self.pending.push(self.rule, key, mark);
        None
    }
}
