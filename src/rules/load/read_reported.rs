//! `to = "reported"` with `at` and `every`: a rule whose result goes into the twin.

use super::durations;
use super::texts::Names;
use super::twin_names;
use crate::diag::Diagnostic;
use crate::diag::walk::{Reader, Report, Text};
use crate::rules::rule::Reported;
use crate::rules::template::Template;

/// What `to` can be, and whether it is the twin then.
pub(super) const TO: [(&str, bool); 2] = [("reported", true), ("telemetry", false)];

/// How often a twin is changed at most where nothing is said: a hundred devices then need a fifth of what the
/// smallest tier takes, 50 changes a second.
const EVERY: i64 = 10_000;
/// A twin takes no deeper objects ("Understand and use device twins in IoT Hub").
const DEPTH_MAX: usize = 8;

/// Keys of messages that a change of a twin has no use for.
const UNUSED: [&str; 7] = ["props", "time", "priority", "compress", "batch", "aggregate", "pivot"];

/// Reads the three keys; none where the rule makes messages.
pub(super) fn read(keys: &mut Reader<'_>, names: &Names, report: &mut Report<'_>) -> Option<Reported> {
    let to = keys.word("to", &TO, "unknown-word", report).unwrap_or(false);
    let at = keys.string("at", report);
    let every = durations::longer_than_nothing(keys, "every", report).unwrap_or(EVERY);
    if !to {
        for key in ["at", "every"] {
            if let Some(entry) = keys.any(key) {
                let title = format!("`{key}` means nothing without `to = \"reported\"`");
                report.push(Diagnostic::warning("unused-key", title, report.file).at(entry.key_span, ""));
            }
        }
        return None;
    }
    for key in UNUSED {
        if let Some(entry) = keys.any(key) {
            let title = format!("`{key}` is for messages, and this rule changes the twin");
            let found = report.new_error("unused-key", title).at(entry.key_span, "");
            report.push(found.help("make the message with another rule, and `continue = true` in the first"));
        }
    }
    twin_names::fields(keys, report);
    Some(Reported { at: at.map(|text| path(&text, names, report)).unwrap_or_default(), every })
}

/// The parts between dots, each a template.
fn path(text: &Text<'_>, names: &Names, report: &mut Report<'_>) -> Vec<Template> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (place, c) in text.value.char_indices().chain([(text.value.len(), '.')]) {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '.' if depth == 0 => {
                parts.push(text.value.get(start..place).unwrap_or(""));
                start = place + 1;
            }
            _ => {}
        }
    }
    if parts.iter().any(|part| part.is_empty()) || parts.len() > DEPTH_MAX {
        let found = report.new_error("bad-path", "this is no place in a twin").at(text.span(), "");
        report.push(found.help(format!("at most {DEPTH_MAX} names with dots between them: at = \"press.{{nr}}\"")));
        return Vec::new();
    }
    twin_names::place_of_rule(text, &parts, report);
    parts.into_iter().map(|part| names.template(&Text::new(part, &text.span()), report)).collect()
}
