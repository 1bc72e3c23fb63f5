//! Keys of later versions: known, and answered with a plain "not available".

use toml::de::DeValue;

use crate::diag::Span;
use crate::diag::walk::{Entry, Reader, Report};

/// Keys of a rule that later versions have.
const RULE_KEYS: [&str; 3] = ["throttle", "report_by_exception", "batch"];

/// Says that a key is not available.
fn not_available(what: &str, span: Span, report: &mut Report<'_>) {
    let title = format!("`{what}` is not available in this version of brownbridge");
    let found = report.new_error("not-available", title).at(span, "");
    report.push(found.help(instead(what)));
}

/// What to write instead, and what that changes.
fn instead(what: &str) -> &'static str {
    match what {
        "throttle" => "remove it: every message then goes up",
        "report_by_exception" => "remove it: every message then goes up, changed or not",
        _ => "remove it: every message then goes up by itself",
    }
}

/// Reports the keys of a rule that later versions have.
pub(super) fn rule_keys(rule: &mut Reader<'_>, report: &mut Report<'_>) {
    for key in RULE_KEYS {
        let Some(entry) = rule.unoffered(key) else { continue };
        not_available(key, entry.key_span.clone(), report);
        durations(&entry, report);
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
