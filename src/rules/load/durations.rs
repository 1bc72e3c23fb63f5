//! Lengths of time: `"500ms"`, `"10s"`, `"5m"`, `"1h"`, `"1d"`.

use toml::de::DeValue;

use crate::diag::walk::{Entry, Reader, Report};

/// What to write.
const HELP: &str = "write a number and a unit: \"500ms\", \"10s\", \"5m\", \"1h\"";

/// The milliseconds of a duration.
pub(super) fn duration_ms(text: &str) -> Option<i64> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.strip_prefix(number)? {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let ms = number.starts_with(|c: char| c.is_ascii_digit()).then(|| number.parse::<f64>().ok())?? * factor;
    // A thousand years.
    #[expect(clippy::cast_possible_truncation)]
    (ms <= 3.2e13).then(|| ms.round() as i64)
}

/// The milliseconds of a duration that is there.
pub(super) fn read<'a>(keys: &mut Reader<'a>, key: &'a str, report: &mut Report<'_>) -> Option<i64> {
    let entry = keys.any(key)?;
    of(&entry, report)
}

/// The same where nothing and less make no sense.
pub(super) fn longer_than_nothing<'a>(keys: &mut Reader<'a>, key: &'a str, report: &mut Report<'_>) -> Option<i64> {
    let entry = keys.any(key)?;
    of(&entry, report).filter(|ms| not_nothing(*ms, &entry, report))
}

/// The milliseconds of an entry's value, which must be more than none.
pub(super) fn of_entry(entry: &Entry<'_>, report: &mut Report<'_>) -> Option<i64> {
    of(entry, report).filter(|ms| not_nothing(*ms, entry, report))
}

fn not_nothing(ms: i64, entry: &Entry<'_>, report: &mut Report<'_>) -> bool {
    if ms == 0 {
        let title = format!("`{}` must be longer than nothing", entry.key);
        let found = report.new_error("bad-duration", title).at(entry.value.span(), "");
        report.push(found.help("remove the key where nothing is to wait"));
    }
    ms > 0
}

fn of(entry: &Entry<'_>, report: &mut Report<'_>) -> Option<i64> {
    let ms = match entry.value.get_ref() {
        DeValue::String(text) => duration_ms(text),
        _ => None,
    };
    if ms.is_none() {
        let title = format!("`{}` is not a duration", entry.key);
        let found = report.new_error("bad-duration", title).at(entry.value.span(), "");
        report.push(found.help(HELP));
    }
    ms
}
