//! Keys of later versions: known, and answered with a plain "not available".

use toml::de::DeValue;

use crate::diag::Span;
use crate::diag::walk::{Entry, Reader, Report};

/// Keys of a rule that later versions have.
const RULE_KEYS: [&str; 8] = ["lookup", "script", "scale", "set", "when", "throttle", "report_by_exception", "batch"];

/// Says that a key is not available.
pub(super) fn not_available(what: &str, span: Span, report: &mut Report<'_>) {
    let title = format!("`{what}` is not available in this version of brownbridge");
    let found = report.new_error("not-available", title).at(span, "");
    report.push(found.help(instead(what)));
}

/// What to write instead, and what that changes.
fn instead(what: &str) -> &'static str {
    match what {
        "lookup" | "table" => "remove it: write a rule for each name, with the value in `add`",
        "script" => "remove it: the payload then goes up as it is, with what `add` puts there",
        "scale" => "remove it: the value then goes up as it was read",
        "set" => "use `add`: it also replaces a field that is there, without calculating",
        "when" => "remove it: the rule then takes every message of its topics",
        "throttle" => "remove it: every message then goes up",
        "report_by_exception" => "remove it: every message then goes up, changed or not",
        "batch" => "remove it: every message then goes up by itself",
        _ => "remove this test: it cannot run in this version",
    }
}

/// What keys of later versions would change about the rest of a rule.
#[derive(Default)]
pub(super) struct Later {
    /// Templates may use names this version does not know.
    pub(super) brings_names: bool,
    /// The rule lets some messages of its topics go by.
    pub(super) is_picky: bool,
}

/// Reports the keys of a rule that later versions have.
pub(super) fn rule_keys(rule: &mut Reader<'_>, report: &mut Report<'_>) -> Later {
    let mut later = Later::default();
    for key in RULE_KEYS {
        let Some(entry) = rule.unoffered(key) else { continue };
        not_available(key, entry.key_span.clone(), report);
        later.brings_names |= key == "lookup";
        later.is_picky |= key == "when";
        durations(&entry, report);
    }
    later
}

/// Reports the keys of a test that later versions have. True where there is one: the test cannot run.
pub(super) fn test_keys(table: &mut Reader<'_>, keys: &[&'static str], report: &mut Report<'_>) -> bool {
    let mut found = false;
    for key in keys {
        if let Some(entry) = table.unoffered(key) {
            not_available(key, entry.key_span, report);
            found = true;
        }
    }
    found
}

/// Reports the tables of a file for `lookup`.
pub(super) fn table(file: &mut Reader<'_>, report: &mut Report<'_>) {
    if let Some(entry) = file.unoffered("table") {
        not_available("table", entry.key_span, report);
    }
}

/// Checks the durations among a key's values, so that a mistake in one is told now and not with the next version.
fn durations(entry: &Entry<'_>, report: &mut Report<'_>) {
    let mut check = |key: &str, value: &DeValue<'_>, span: Span| {
        if !matches!(value, DeValue::String(text) if duration_ms(text).is_some()) {
            let found = report.new_error("bad-duration", format!("`{key}` is not a duration"));
            let help = "write a number and a unit: \"500ms\", \"10s\", \"5m\", \"1h\"";
            report.push(found.at(span, "").help(help));
        }
    };
    match (entry.key, entry.value.get_ref()) {
        ("throttle", value) => check("throttle", value, entry.value.span()),
        ("report_by_exception" | "batch", DeValue::Table(table)) => {
            for key in ["at_least_every", "max_wait"] {
                if let Some(value) = table.get(key) {
                    check(key, value.get_ref(), value.span());
                }
            }
        }
        _ => {}
    }
}

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
