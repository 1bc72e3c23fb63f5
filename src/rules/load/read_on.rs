//! The keys of a rule for the coming and going of clients: `on`, and `client` or `regex`.

use regex::Regex;

use super::read_pattern::{Asked, read_regex};
use crate::diag::nearest;
use crate::diag::walk::{Reader, Report, Text, text};
use crate::message::Event;
use crate::rules::pattern::{self, Pattern};

/// What `on` can say.
pub(super) const EVENTS: [(&str, Event); 2] = [("connect", Event::Connect), ("disconnect", Event::Disconnect)];

/// Reads `on`.
pub(super) fn event<'a>(keys: &mut Reader<'a>, report: &mut Report<'_>) -> Option<Event> {
    let word = keys.string("on", report)?;
    if let Some((_, event)) = EVENTS.into_iter().find(|(name, _)| *name == word.value) {
        return Some(event);
    }
    // What else such a rule or test has is no mistake of its own.
    for key in ["client", "address", "reason"] {
        keys.unoffered(key);
    }
    let found = report.new_error("unknown-event", format!("`on` cannot be `{}`", word.value)).at(word.span(), "");
    report.push(match nearest(word.value, EVENTS.map(|(name, _)| name)) {
        Some(meant) => found.fix(word.span(), format!("\"{meant}\"")),
        None => found.help("write \"connect\" or \"disconnect\""),
    });
    None
}

/// Tells a key that only a rule with `on` has.
pub(super) fn without(keys: &mut Reader<'_>, has_on: bool, report: &mut Report<'_>) {
    if let Some(client) = keys.unoffered("client").filter(|_| !has_on) {
        let found = report.new_error("unused-key", "`client` is for rules with `on`").at(client.key_span, "");
        report.push(found.help("add on = \"connect\" or on = \"disconnect\", or remove this line"));
    }
}

/// Reads which clients a rule with `on` takes, and the names it gives to its templates.
pub(super) fn pattern<'a>(keys: &mut Reader<'a>, event: Event, report: &mut Report<'_>) -> Asked {
    if let Some(topic) = keys.any("topic") {
        let found = report.new_error("two-patterns", "a rule with `on` takes clients, not topics");
        report.push(found.at(topic.key_span, "no topic here").help("client = \"plc-{line}-{nr}\""));
        return Asked::default();
    }
    if let Some(decode) = keys.any("decode") {
        let found = report.new_error("two-patterns", "a rule with `on` has no payload to decode");
        report.push(found.at(decode.key_span, "").help("remove it: the body is the object that `add` makes"));
    }
    let mut asked = match (keys.any("client"), keys.any("regex")) {
        (Some(client), Some(regex)) => {
            let found = report.new_error("two-patterns", "a rule with `on` has `client` or `regex`, not both");
            report.push(found.at(regex.key_span, "one too many").context(client.key_span, "the other one"));
            Asked::default()
        }
        (Some(client), None) => text(&client, report).map(|text| read_client(&text, report)).unwrap_or_default(),
        (None, Some(regex)) => text(&regex, report).map(|text| read_regex(&text, report)).unwrap_or_default(),
        (None, None) => compiled("*", ".*"),
    };
    asked.names.push("address".to_owned());
    if event == Event::Disconnect {
        asked.names.push("reason".to_owned());
    }
    asked
}

/// A client id with `{name}` and `*` for any text.
fn read_client(text: &Text<'_>, report: &mut Report<'_>) -> Asked {
    let read = text_pattern(text, "client", &["address", "reason"], report);
    let mut asked = read.as_ref().map_or_else(Asked::default, |(regex, _)| compiled(text.value, regex));
    asked.place = Some(text.span());
    asked.names = read.into_iter().flat_map(|(_, names)| names).map(str::to_owned).collect();
    asked
}

/// A text with `{name}` and `*` for any text, as a regex and its names; none of those may be `taken`.
pub(super) fn text_pattern<'t>(
    text: &Text<'t>,
    key: &str,
    taken: &[&str],
    report: &mut Report<'_>,
) -> Option<(String, Vec<&'t str>)> {
    let mut regex = String::new();
    let mut names: Vec<&str> = Vec::new();
    let mut sound = true;
    let mut rest = text.value;
    while let Some(at) = rest.find(['{', '*', '}']) {
        let (before, special) = rest.split_at(at);
        regex.push_str(&regex::escape(before));
        if let Some(after) = special.strip_prefix('*') {
            regex.push_str(".*");
            rest = after;
            continue;
        }
        let Some((name, after)) = special.strip_prefix('{').and_then(|inside| inside.split_once('}')) else {
            let title = format!("a brace in `{key}` belongs to a name: {{line}}");
            let help = if key == "client" { "for a brace in a client id use `regex`" } else { "" };
            report.error("bad-name", title, text.span(), help);
            return None;
        };
        if !pattern::is_name(name) || taken.contains(&name) || names.contains(&name) {
            let start = text.value.len() - rest.len() + at + 1;
            let found = report.new_error("bad-name", "this cannot be a name, or it is one already");
            let found = found.at(text.part(report.text, start..start + name.len()), "");
            let whose = if key == "client" { "rule" } else { "command" };
            let help = format!("a name has letters, digits and `_`, and is not one that every such {whose} has");
            report.push(found.help(help));
            sound = false;
        }
        names.push(name);
        regex.push_str(&format!("(?<{name}>.+?)"));
        rest = after;
    }
    regex.push_str(&regex::escape(rest));
    sound.then_some((regex, names))
}

/// The pattern of a whole client id.
fn compiled(shown: &str, regex: &str) -> Asked {
    let whole = format!("(?s)^{regex}$");
    let groups = |regex: &Regex| {
        let named = regex.capture_names().enumerate().filter_map(|(group, name)| name.map(|_| group));
        named.collect()
    };
    let pattern = Regex::new(&whole).ok();
    Asked {
        text: shown.to_owned(),
        regex: Some(whole.clone()),
        pattern: pattern.map(|regex| Pattern::Regex { text: whole, groups: groups(&regex), regex }),
        ..Asked::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::diag::SourceFile;
    use crate::message::{Event, HubMessage, Presence, Timestamp};
    use crate::rules::{self, Output, Verdict};

    const RULE: &str =
        "[[rule]]\nname = \"r\"\non = \"connect\"\nclient = \"p.{a}-{b}\"\ndevice = \"{a}/{b}/{address}\"\n";

    proptest! {
        /// The first name is as short as it can be, and a name is never empty.
        #[test]
        fn a_client_pattern_takes_whole_client_ids(client in "(p[.x]|.)?[-ap\\n\u{e9}]{0,8}") {
            let loaded = rules::load(&[SourceFile { path: "r.toml".into(), text: RULE.into() }]);
            let mut out = Output::new();
            let presence =
                Presence { event: Event::Connect, client: &client, address: "ip", reason: "", at: Timestamp(0) };
            let verdict = loaded.rules.unwrap().presence(&presence, &mut out);
            let expect = client.strip_prefix("p.").and_then(|rest| {
                let second = rest.chars().next()?.len_utf8();
                let dash = second + rest.get(second..)?.find('-')?;
                Some((rest.get(..dash)?, rest.get(dash + 1..).filter(|b| !b.is_empty())?))
            });
            match expect {
                None => prop_assert_eq!(verdict, Verdict::Unmatched),
                Some((a, b)) => {
                    prop_assert_eq!(verdict, Verdict::Translated);
                    let (_, record) = out.records().next().unwrap();
                    let expect = format!("{a}/{b}/ip");
                    prop_assert_eq!(HubMessage::parse(record).unwrap().device, expect.as_str());
                }
            }
        }
    }
}
