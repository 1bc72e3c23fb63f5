//! `[commands]`.

use std::time::Duration;

use super::Section;
use crate::config::schema::Shape;
use crate::config::{Commands, Placed};
use crate::diag::Span;
use crate::diag::walk::{Entry, text};
use crate::topic;

/// What becomes of a command that cannot be written into the audit log: it is refused, or goes its way.
const AUDIT: [(&str, bool); 2] = [("best-effort", false), ("required", true)];

/// Reads the section.
pub(in crate::config) fn commands(section: &mut Section<'_, '_, '_>) -> Commands {
    Commands {
        enabled: Placed { value: section.flag("enabled", false), span: section.place("enabled") },
        dry_run: section.flag("dry_run", false),
        rate: u32::try_from(section.count("rate", 10, 0..=100_000)).unwrap_or(10),
        own_methods: section.flag("own_methods", true),
        own_twin: section.flag("own_twin", false),
        own_twin_every: section.duration("own_twin_every", Duration::from_secs(300)),
        own_twin_presence: section.count("own_twin_presence", 100, 0..=500),
        own_twin_quiet_after: section.duration("own_twin_quiet_after", Duration::from_secs(900)),
        desired: section.flag("desired", true),
        own_line: section.flag("own_line", true),
        audit_required: section.choice("audit", &AUDIT).is_some_and(|choice| choice.value),
        audit_payload: usize::try_from(section.size("audit_payload", 0, 0..=16 << 10)).unwrap_or(0),
        audit_max_size: section.size("audit_max_size", 16 << 20, 64 << 10..=1 << 40),
        allow: Placed { value: section.allow(), span: section.place("allow") },
    }
}

impl Section<'_, '_, '_> {
    /// Where a key and its value stand; nowhere where it is left out.
    fn place(&mut self, key: &'static str) -> Span {
        self.reader.any(key).map_or(0..0, |entry| entry.key_span.start..entry.value.span().end)
    }

    /// Devices and the topic filters their commands may go to.
    fn allow(&mut self) -> Vec<(String, Vec<String>)> {
        self.note("allow", || Shape::Lists);
        let Some((table, span)) = self.reader.table("allow", self.report) else { return Vec::new() };
        let mut allow = Vec::new();
        for (device, value) in table {
            let entry = Entry { key: device.get_ref(), key_span: device.span(), value };
            let Some(list) = value.get_ref().as_array() else {
                let title = format!("`{}` must be a list of texts", entry.key);
                let found = self.report.new_error("wrong-type", title).at(value.span(), "");
                self.report.push(found.help("allow = { \"press*\" = [\"plant1/+/set/#\"] }"));
                continue;
            };
            let mut filters = Vec::new();
            for value in list.iter() {
                let Some(filter) = text(&Entry { value, ..entry.clone() }, self.report) else { continue };
                if let Err(error) = topic::check_filter(filter.value) {
                    self.report.error("bad-topic", error.to_string(), filter.span(), "");
                }
                filters.push(filter.value.to_owned());
            }
            allow.push((entry.key.to_owned(), filters));
        }
        if allow.is_empty() {
            let found = self.report.new_error("empty-list", "`allow` names no device").at(span, "");
            self.report.push(found.help("remove it to allow every topic that a [[command]] names"));
        }
        allow
    }
}
