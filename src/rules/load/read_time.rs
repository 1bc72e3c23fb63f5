//! The key `time`: where in the payload the moment of a message is.

use jiff::fmt::strtime;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};

use super::durations;
use super::read_path;
use crate::diag::nearest;
use crate::diag::walk::{Reader, Report, Text};
use crate::rules::clock::{Clock, Format, MAX_AHEAD};

pub(super) const FORMATS: [&str; 5] = ["unix_ms", "unix_s", "unix_us", "unix_ns", "rfc3339"];

/// Reads `time`.
pub(super) fn read(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Option<Clock> {
    let (table, span) = keys.table("time", report)?;
    let mut keys = Reader::new(table, "time");
    let from = keys.string("from", report);
    let format = keys.string("format", report);
    let zone = keys.string("zone", report);
    let max_ahead = durations::read(&mut keys, "max_ahead", report).unwrap_or(MAX_AHEAD);
    let max_age = durations::read(&mut keys, "max_age", report);
    let mistyped = keys.finish(report);
    if from.is_none() && !table.contains_key("from") && !mistyped.contains(&"from") {
        let found = report.new_error("bad-time", "`time` does not say where the time is").at(span, "no `from`");
        report.push(found.help("time = { from = \".ts\", format = \"unix_ms\" }"));
    }
    let from = from.and_then(|text| read_path(&text, report));
    let format = match format {
        Some(text) => read_format(&text, report),
        None => Some(Format::Rfc3339),
    };
    let zone = match zone {
        Some(text) => read_zone(&text, report),
        None => Some(TimeZone::UTC),
    };
    Some(Clock { from: from?, format: format?, zone: zone?, max_ahead, max_age })
}

fn read_format(text: &Text<'_>, report: &mut Report<'_>) -> Option<Format> {
    let unix = |per_second| Some(Format::Unix { per_second });
    match text.value {
        "unix_s" => return unix(1),
        "unix_ms" => return unix(1_000),
        "unix_us" => return unix(1_000_000),
        "unix_ns" => return unix(1_000_000_000),
        "rfc3339" => return Some(Format::Rfc3339),
        _ => {}
    }
    if !text.value.contains('%') {
        let title = format!("unknown format of time `{}`", text.value);
        let found = report.new_error("bad-time", title).at(text.span(), "");
        report.push(match nearest(text.value, FORMATS) {
            Some(meant) => found.fix(text.span(), format!("\"{meant}\"")),
            None => found.help(format!("formats: {}, or a pattern: \"%d.%m.%Y %H:%M:%S\"", FORMATS.join(", "))),
        });
        return None;
    }
    // What the pattern writes of a moment, it must be able to read.
    let sample = jiff::Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    let read = strtime::format(text.value, &sample).and_then(|written| strtime::parse(text.value, written));
    let problem = match read {
        Ok(time) if time.to_timestamp().is_ok() || time.to_datetime().is_ok() => {
            return Some(Format::Pattern(text.value.into()));
        }
        Ok(_) => "a year, a month or a day is missing".to_owned(),
        Err(error) => error.to_string(),
    };
    let found = report.new_error("bad-time", "this pattern does not make a time").at(text.span(), "");
    report.push(found.help(problem).help("for example \"%d.%m.%Y %H:%M:%S\" or \"%Y-%m-%dT%H:%M:%S%.f%z\""));
    None
}

/// A name of the time zone database, or a fixed offset.
pub(super) fn read_zone(text: &Text<'_>, report: &mut Report<'_>) -> Option<TimeZone> {
    if let Some(zone) = offset(text.value) {
        return Some(zone);
    }
    let zones = TimeZoneDatabase::bundled();
    if let Ok(zone) = zones.get(text.value) {
        return Some(zone);
    }
    let found = report.new_error("bad-time", format!("unknown time zone `{}`", text.value)).at(text.span(), "");
    let names: Vec<String> = zones.available().map(|name| name.to_string()).collect();
    report.push(match nearest(text.value, names.iter().map(String::as_str)) {
        Some(meant) => found.fix(text.span(), format!("\"{meant}\"")),
        None => found.help("zone = \"Europe/Berlin\", \"UTC\" or \"+02:00\""),
    });
    None
}

/// `+02:00` or `-0530`.
fn offset(text: &str) -> Option<TimeZone> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits: String = digits.chars().filter(|c| *c != ':').collect();
    let (hours, minutes) = digits.split_at_checked(2)?;
    let (hours, minutes) = (hours.parse::<i32>().ok()?, minutes.parse::<i32>().ok()?);
    let seconds = sign * (hours * 3600 + minutes * 60);
    Offset::from_seconds(seconds).ok().filter(|_| hours < 24 && minutes < 60).map(TimeZone::fixed)
}
