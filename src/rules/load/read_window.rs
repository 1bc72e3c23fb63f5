//! `batch`, `aggregate` and `pivot`: messages that go up together.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::durations;
use super::read_path;
use super::texts::Names;
use crate::diag::walk::{Entry, Reader, Report, Text, text, type_name};
use crate::diag::{Diagnostic, Span, nearest};
use crate::rules::window::{Aggregate, Batch, Combine, Function, Picked, Pivot};

const KINDS: [&str; 3] = ["batch", "aggregate", "pivot"];

const BATCH: &str = "batch = { max_messages = 50, max_bytes = 4000, max_wait = \"10s\" }";
const AGGREGATE: &str = "aggregate = { every = \"1m\", fields = { temp = [\"min\", \"max\", \"mean\"] } }";
const PIVOT: &str = "pivot = { name = \"{signal}\", max_wait = \"2s\" }";

/// Messages and bytes of a batch at most.
const MAX_MESSAGES: i64 = 100_000;
const MAX_BYTES: i64 = 262_144;
/// Functions of an aggregate at most.
const MAX_RESULTS: usize = 1_000;

/// Reads the window of a rule; none where its messages go up alone.
pub(super) fn read(keys: &mut Reader<'_>, names: &Names, report: &mut Report<'_>) -> Option<Combine> {
    let entries = KINDS.map(|kind| keys.any(kind));
    let mut there = entries.iter().flatten();
    if let (Some(first), Some(second)) = (there.next(), there.next()) {
        let title = "a rule has one of `batch`, `aggregate` and `pivot`";
        let found = report.new_error("bad-window", title).at(second.key_span.clone(), "one too many");
        report.push(found.context(first.key_span.clone(), "the other one"));
    }
    let batch = keys.table("batch", report).and_then(|table| batch(table, report)).map(Combine::Batch);
    let aggregate = keys.table("aggregate", report).and_then(|table| aggregate(table, report)).map(Combine::Aggregate);
    let pivot = keys.table("pivot", report).and_then(|table| pivot(table, names, report)).map(Combine::Pivot);
    batch.or(aggregate).or(pivot)
}

/// Says that keys mean nothing beside a window that picks fields.
pub(super) fn unused(keys: &mut Reader<'_>, combine: &Combine, report: &mut Report<'_>) {
    let kind = match combine {
        Combine::Batch(_) => return,
        Combine::Aggregate(_) => "aggregate",
        Combine::Pivot(_) => "pivot",
    };
    for key in ["rename", "remove"] {
        if let Some(entry) = keys.any(key) {
            let title = format!("`{key}` means nothing beside `{kind}`");
            let found = Diagnostic::warning("unused-key", title, report.file);
            report.push(found.at(entry.key_span, "only what the window names, and `add`, is sent"));
        }
    }
}

/// A key that must be there.
fn missing(table: &DeTable<'_>, key: &str, (mistyped, what): (&[&str], &str), span: &Span, report: &mut Report<'_>) {
    if !table.contains_key(key) && !mistyped.contains(&key) {
        let (kind, _) = what.split_once(' ').unwrap_or((what, ""));
        let title = match key {
            "max_wait" => format!("`{kind}` does not say how long a message may wait"),
            "every" => format!("`{kind}` does not say how long a window is"),
            "fields" => format!("`{kind}` does not say which fields"),
            _ => format!("`{kind}` does not say what the values are called"),
        };
        let found = report.new_error("bad-window", title).at(span.clone(), format!("no `{key}`"));
        report.push(found.help(what));
    }
}

fn batch<'a>((table, span): (&'a DeTable<'a>, Span), report: &mut Report<'_>) -> Option<Batch> {
    let mut keys = Reader::new(table, "batch");
    let max_messages = count(&mut keys, "max_messages", 2..=MAX_MESSAGES, report);
    let max_bytes = count(&mut keys, "max_bytes", 2..=MAX_BYTES, report);
    let max_wait = durations::longer_than_nothing(&mut keys, "max_wait", report);
    let mistyped = keys.finish(report);
    missing(table, "max_wait", (&mistyped, BATCH), &span, report);
    Some(Batch {
        max_messages: max_messages.unwrap_or(u64::MAX),
        max_bytes: max_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
        max_wait: max_wait?,
    })
}

fn count<'a>(
    keys: &mut Reader<'a>,
    key: &'a str,
    range: std::ops::RangeInclusive<i64>,
    report: &mut Report<'_>,
) -> Option<u64> {
    let (number, place) = keys.integer(key, report)?;
    if range.contains(&number) {
        return u64::try_from(number).ok();
    }
    let title = format!("`{key}` must be from {} to {}", range.start(), range.end());
    let found = report.new_error("bad-window", title).at(place, "");
    report.push(match key {
        "max_bytes" if number > 0 => found.help("a hub takes 256 KB at most, and bills each 4 KB as one message"),
        _ => found,
    });
    None
}

fn aggregate<'a>((table, span): (&'a DeTable<'a>, Span), report: &mut Report<'_>) -> Option<Aggregate> {
    let mut keys = Reader::new(table, "aggregate");
    let every = durations::longer_than_nothing(&mut keys, "every", report);
    let mut fields = Vec::new();
    if let Some((list, place)) = keys.table("fields", report) {
        fields.extend(list.iter().filter_map(|(key, value)| picked(key, value, report)));
        if list.is_empty() {
            let found = report.new_error("bad-window", "`aggregate` has no fields").at(place, "");
            report.push(found.help(AGGREGATE));
        }
    }
    let mistyped = keys.finish(report);
    missing(table, "every", (&mistyped, AGGREGATE), &span, report);
    missing(table, "fields", (&mistyped, AGGREGATE), &span, report);
    if fields.iter().map(|picked| picked.results.len()).sum::<usize>() > MAX_RESULTS {
        report.error("bad-window", format!("`aggregate` makes more than {MAX_RESULTS} values"), span, "");
    }
    Some(Aggregate { every: every?, fields })
}

/// A field with its functions.
fn picked<'a>(
    key: &'a Spanned<std::borrow::Cow<'a, str>>,
    value: &'a Spanned<DeValue<'a>>,
    report: &mut Report<'_>,
) -> Option<Picked> {
    let path = read_path(&Text::new(key.get_ref(), &key.span()), report)?;
    let name = path.join("_");
    let entry = Entry { key: key.get_ref(), key_span: key.span(), value };
    let results = match value.get_ref() {
        DeValue::String(_) => {
            let text = text(&entry, report)?;
            vec![(function(&text, report)?, name.as_str().into())]
        }
        DeValue::Array(list) if list.is_empty() => {
            let title = format!("`{}` does not say what is made of its values", entry.key);
            let found = report.new_error("bad-window", title).at(value.span(), "no function");
            report.push(found.help(AGGREGATE));
            return None;
        }
        DeValue::Array(list) => {
            let of = |value| {
                let text = text(&Entry { value, ..entry.clone() }, report)?;
                Some((function(&text, report)?, format!("{name}_{}", text.value).into()))
            };
            list.iter().filter_map(of).collect()
        }
        other => {
            let title = format!("`{}` must say what is made of its values", entry.key);
            let found = report.new_error("wrong-type", title).at(value.span(), format!("this is {}", type_name(other)));
            report.push(found.help(AGGREGATE));
            return None;
        }
    };
    Some(Picked { key: path.join(".").into(), path, results })
}

fn function(text: &Text<'_>, report: &mut Report<'_>) -> Option<Function> {
    let words = || Function::ALL.iter().map(|(word, _)| *word);
    let found = Function::ALL.iter().find(|(word, _)| *word == text.value).map(|(_, function)| *function);
    if found.is_none() {
        let told = report.new_error("unknown-function", format!("unknown function `{}`", text.value));
        let told = told.at(text.span(), "");
        let meant = match text.value {
            "median" => None,
            "avg" | "average" => Some("mean"),
            "minimum" => Some("min"),
            "maximum" => Some("max"),
            other => nearest(other, words()),
        };
        report.push(match meant {
            Some(meant) => told.fix(text.span(), format!("\"{meant}\"")),
            None => told.help(format!("functions: {}", words().collect::<Vec<_>>().join(", "))),
        });
    }
    found
}

fn pivot<'a>((table, span): (&'a DeTable<'a>, Span), names: &Names, report: &mut Report<'_>) -> Option<Pivot> {
    let mut keys = Reader::new(table, "pivot");
    let name = keys.string("name", report).map(|text| names.template(&text, report));
    let value = keys.string("value", report).and_then(|text| read_path(&text, report));
    let max_wait = durations::longer_than_nothing(&mut keys, "max_wait", report);
    let complete = keys.strings("complete", report).unwrap_or_default();
    let trigger = match keys.any("trigger") {
        Some(entry) if entry.value.get_ref().is_array() => keys.strings("trigger", report).unwrap_or_default(),
        _ => keys.string("trigger", report).into_iter().collect(),
    };
    let mistyped = keys.finish(report);
    missing(table, "name", (&mistyped, PIVOT), &span, report);
    missing(table, "max_wait", (&mistyped, PIVOT), &span, report);
    let owned = |texts: Vec<Text<'_>>| texts.into_iter().map(|text| text.value.into()).collect();
    Some(Pivot { name: name?, value, max_wait: max_wait?, complete: owned(complete), trigger: owned(trigger) })
}
