//! `dedupe`, `report_by_exception`, `throttle` and `per`: what is not worth sending.

use toml::de::DeValue;

use super::durations;
use super::read_path;
use super::read_shape::number;
use super::texts::Names;
use crate::diag::Diagnostic;
use crate::diag::walk::{Entry, Reader, Report, text, type_name};
use crate::rules::restraint::{Change, Dedupe, Report as ByException, Restraint};
use crate::rules::template::Template;

/// Reads what a rule holds back; none where it holds nothing back.
pub(super) fn read(
    keys: &mut Reader<'_>,
    (names, device): (&mut Names, &Template),
    report: &mut Report<'_>,
) -> Option<Restraint> {
    let dedupe = dedupe(keys, (names, device), report);
    let by_exception = by_exception(keys, report);
    let throttle = durations::longer_than_nothing(keys, "throttle", report);
    (dedupe.is_some() || by_exception.is_some() || throttle.is_some()).then_some(Restraint {
        per: None,
        dedupe,
        report: by_exception,
        throttle,
    })
}

/// Says that `per` tells nothing apart.
pub(super) fn lone_per(entry: &Entry<'_>, report: &mut Report<'_>) {
    let title = "`per` means nothing without a key that remembers";
    let found = Diagnostic::warning("unused-key", title, report.file).at(entry.key_span.clone(), "");
    report.push(found.help("it is for throttle, report_by_exception, dedupe and aggregate"));
}

/// `dedupe = "10s"` or `dedupe = { within = "10s", key = "{.id}" }`.
fn dedupe(keys: &mut Reader<'_>, (names, device): (&mut Names, &Template), report: &mut Report<'_>) -> Option<Dedupe> {
    let entry = keys.any("dedupe")?;
    let DeValue::Table(table) = entry.value.get_ref() else {
        return durations::of_entry(&entry, report).map(|within| Dedupe { within, key: None });
    };
    let mut keys = Reader::new(table, "dedupe");
    let within = durations::longer_than_nothing(&mut keys, "within", report);
    let key = keys.string("key", report).map(|text| names.template_of_sent(&text, device, report));
    let mistyped = keys.finish(report);
    if !table.contains_key("within") && !mistyped.contains(&"within") {
        let found = report.new_error("bad-duration", "`dedupe` does not say for how long").at(entry.value.span(), "");
        report.push(
            found.help("dedupe = { within = \"10s\", key = \"{.id}\" }, or dedupe = \"10s\" for the whole payload"),
        );
    }
    Some(Dedupe { within: within?, key })
}

const EXAMPLE: &str = "report_by_exception = { field = \"temp\", change = 0.5, at_least_every = \"5m\" }";

fn by_exception(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Option<ByException> {
    let (table, span) = keys.table("report_by_exception", report)?;
    let before = report.found.len();
    let mut keys = Reader::new(table, "report_by_exception");
    let one = keys.any("field");
    let several = keys.strings("fields", report);
    let several_at = keys.any("fields").map(|entry| entry.key_span);
    if let (Some(one), Some(place)) = (&one, several_at) {
        let found = report.new_error("bad-report", "`report_by_exception` has `field` or `fields`, not both");
        report.push(found.at(place, "one too many").context(one.key_span.clone(), "the other one"));
    }
    let one = one.and_then(|entry| text(&entry, report));
    let texts = one.into_iter().chain(several.unwrap_or_default());
    let fields: Vec<_> = texts.filter_map(|text| read_path(&text, report)).collect();
    let change = change(&mut keys, report);
    let at_least_every = durations::longer_than_nothing(&mut keys, "at_least_every", report);
    keys.finish(report);
    if fields.is_empty() && change != Change::Any && report.found.len() == before {
        let title = "`report_by_exception` does not say which field must change so much";
        let found = report.new_error("bad-report", title).at(span, "no `field`");
        report.push(found.help(EXAMPLE));
    }
    Some(ByException { fields, change, at_least_every })
}

fn change(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Change {
    let (by, percent) = (keys.any("change"), keys.any("percent"));
    if let (Some(by), Some(percent)) = (&by, &percent) {
        let found = report.new_error("bad-report", "`report_by_exception` has `change` or `percent`, not both");
        report.push(found.at(percent.key_span.clone(), "one too many").context(by.key_span.clone(), "the other one"));
        return Change::Any;
    }
    let (entry, key, kind): (_, _, fn(f64) -> Change) = match (by, percent) {
        (Some(by), _) => (by, "change", Change::By),
        (None, Some(percent)) => (percent, "percent", Change::Percent),
        (None, None) => return Change::Any,
    };
    if let DeValue::String(text) = entry.value.get_ref() {
        let found = report.new_error("wrong-type", format!("`{key}` must be a number"));
        let found = found.at(entry.value.span(), format!("this is {}", type_name(entry.value.get_ref())));
        let trimmed = text.trim_end_matches(['%', ' ']);
        report.push(match trimmed.parse::<f64>() {
            Ok(_) if key == "percent" || trimmed == text.as_ref() => found.fix(entry.value.span(), trimmed),
            Ok(_) => found.help(format!("percent = {trimmed}")),
            Err(_) => found.help(EXAMPLE),
        });
        return Change::Any;
    }
    match number(keys, key, report) {
        Some(least) if least > 0.0 => kind(least),
        Some(_) => {
            let found = report.new_error("bad-report", format!("`{key}` must be more than 0"));
            report.push(found.at(entry.value.span(), "").help("leave it out where any change is to be reported"));
            Change::Any
        }
        None => Change::Any,
    }
}
