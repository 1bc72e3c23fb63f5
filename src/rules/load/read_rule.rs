//! One `[[rule]]`.

use std::sync::Arc;

use regex_syntax::ast;
use toml::de::DeTable;

use super::read_table::{self, Tables};
use super::texts::Names;
use super::{
    Draft, line, lint, read_command, read_decode, read_on, read_reported, read_restraint, read_shape, read_time,
    read_window,
};
use crate::diag::walk::{Reader, Report, Text, text};
use crate::diag::{Diagnostic, SourceFile, Span};
use crate::rules::expr::Expr;
use crate::rules::pattern::{self, Level, Mistake, Pattern};
use crate::rules::rule::{Action, Message, Rule};
use crate::rules::shape::Reshape;
use crate::rules::template::Template;
use crate::rules::window::{Combine, Window};

/// What `priority` can be, and whether the message is urgent then.
pub(super) const PRIORITIES: [(&str, bool); 2] = [("high", true), ("normal", false)];

/// Keys that say something about the messages of a rule.
const OF_MESSAGES: [&str; 22] = [
    "to",
    "at",
    "every",
    "device",
    "add",
    "props",
    "time",
    "script",
    "scale",
    "set",
    "rename",
    "remove",
    "continue",
    "priority",
    "dedupe",
    "report_by_exception",
    "throttle",
    "per",
    "batch",
    "aggregate",
    "pivot",
    "compress",
];

/// What `compress` can be.
pub(super) const COMPRESSIONS: [(&str, bool); 2] = [("gzip", true), ("none", false)];

/// A compiled regex may grow to this.
const REGEX_LIMIT: usize = 16 << 20;

/// What the pattern of a rule came to.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) pattern: Option<Pattern>,
    /// The pattern as written.
    pub(super) text: String,
    pub(super) names: Vec<String>,
    pub(super) place: Option<Span>,
    pub(super) filter: Option<String>,
    pub(super) regex: Option<String>,
}

pub(super) fn read<'a>(
    table: &'a DeTable<'a>,
    span: &Span,
    (source, tables): (&SourceFile, &Tables),
    report: &mut Report<'_>,
) -> Draft {
    let before = report.found.len();
    let mut keys = Reader::new(table, "rule");
    let name = keys.string("name", report);
    let on = read_on::event(&mut keys, report);
    let asked = match on {
        Some(event) => read_on::pattern(&mut keys, event, report),
        None => {
            read_on::without(&mut keys, table.contains_key("on"), report);
            read_pattern(&mut keys, report)
        }
    };
    let goes_on = keys.boolean("continue", report).is_some_and(|(yes, _)| yes);
    let drops = keys.boolean("drop", report).is_some_and(|(yes, _)| yes);
    let urgent = keys.word("priority", &PRIORITIES, "unknown-word", report).unwrap_or(false);
    let name_span = name.map(|name| name.span()).or(asked.place.clone()).unwrap_or(span.clone());
    let shown = name.map_or_else(|| asked.text.clone(), |name| name.value.to_owned());
    let allow = lint::allowed(&mut keys, report);
    let action = if drops && keys.any("when").is_none() {
        unused(&mut keys, &["decode", "lookup"], report);
        Some(Action::Drop)
    } else {
        if drops {
            unused(&mut keys, &[], report);
        }
        let mut names = Names {
            names: asked.names.clone(),
            columns: Vec::new(),
            of_pattern: asked.names.len(),
            place: asked.place.clone(),
            open: asked.pattern.is_none(),
            regex: asked.regex.is_some() && on.is_none(),
            on: on.is_some(),
            command: false,
            answer: None,
        };
        let makes = if drops { Makes::Nothing } else { Makes::Message };
        read_message(&mut keys, (&mut names, makes, urgent), tables, report)
            .map(|message| Action::Send(Box::new(message)))
    };
    let picky = match &action {
        Some(Action::Send(message)) => message.is_picky(),
        _ => table.contains_key("when"),
    };
    let mistyped = keys.finish(report);
    let missing = |key: &str| table.get(key).is_none() && !mistyped.contains(&key);
    if missing("topic") && missing("regex") && missing("on") {
        let found = report.new_error("no-topic", "the rule does not say which topics it takes");
        report.push(found.at(span.clone(), "no `topic`").help("topic = \"plant1/{line}/{machine}\""));
    }
    if !drops && missing("device") {
        no_device(&shown, &name_span, &asked.names, report);
    }
    let sound = !report.found.iter().skip(before).any(|found| found.is_error());
    if sound {
        let message = action.as_ref().and_then(Action::message);
        lint::rule(table, &asked, message, report);
    }
    lint::let_by(&allow, before, report);
    let rule = match (asked.pattern, action) {
        (Some(pattern), Some(action)) if sound => Some(Rule {
            state: shown.as_str().into(),
            name: shown.clone(),
            path: source.path.clone(),
            line: line(&source.text, name_span.start),
            on,
            pattern,
            written: asked.text,
            names: asked.names,
            goes_on,
            picky,
            urgent,
            action,
        }),
        _ => None,
    };
    Draft {
        file: report.file,
        name: shown,
        name_span,
        named: name.is_some(),
        goes_on: (goes_on && !drops) || picky,
        on,
        filter: asked.filter,
        regex: asked.regex,
        allow: allow.into_iter().map(str::to_owned).collect(),
        rule,
    }
}

/// Keys that mean nothing beside `drop = true`, with some that do beside `when`.
fn unused<'a>(keys: &mut Reader<'a>, without_when: &[&'static str], report: &mut Report<'_>) {
    for key in OF_MESSAGES.iter().chain(without_when) {
        if let Some(entry) = keys.any(key) {
            let title = format!("`{key}` means nothing beside `drop = true`");
            let found = Diagnostic::warning("unused-key", title, report.file);
            report.push(found.at(entry.key_span, "no message is made"));
        }
    }
}

fn no_device(rule: &str, place: &Span, names: &[String], report: &mut Report<'_>) {
    let title = match rule {
        "" => "the rule does not say which device the message belongs to".to_owned(),
        name => format!("rule `{name}` does not say which device the message belongs to"),
    };
    let found = report.new_error("no-device", title).at(place.clone(), "no `device`");
    report.push(found.help(format!("device = \"{}\"", device_name(names))));
}

fn read_pattern<'a>(keys: &mut Reader<'a>, report: &mut Report<'_>) -> Asked {
    match (keys.any("topic"), keys.any("regex")) {
        (Some(topic), Some(regex)) => {
            let found = report.new_error("two-patterns", "a rule has `topic` or `regex`, not both");
            report.push(found.at(regex.key_span, "one too many").context(topic.key_span, "the other one"));
            Asked::default()
        }
        (Some(topic), None) => text(&topic, report).map(|text| read_topic(&text, report)).unwrap_or_default(),
        (None, Some(regex)) => text(&regex, report).map(|text| read_regex(&text, report)).unwrap_or_default(),
        (None, None) => Asked::default(),
    }
}

fn read_topic(text: &Text<'_>, report: &mut Report<'_>) -> Asked {
    let (levels, mistakes) = pattern::levels(text.value);
    let sound = mistakes.is_empty();
    for mistake in mistakes {
        let part = |part| text.part(report.text, part);
        let found = match mistake {
            Mistake::Mixed(level) => report
                .new_error("bad-topic", "a wildcard must be a whole topic level")
                .at(part(level), "mixed with other characters")
                .help("to match inside a level, use `regex = '...'` instead of `topic`"),
            Mistake::Hash(level) => report
                .new_error("bad-topic", "`#` must be the last topic level")
                .at(part(level), "levels follow")
                .help("for exactly one level write `+` or a name in braces"),
            Mistake::Name(name) => report
                .new_error("bad-name", "this cannot be the name of a topic level")
                .at(part(name), "")
                .help("a name has letters, digits and `_`, and is not `time`, `topic` or `client`"),
            Mistake::Twice(name, first) => report
                .new_error("bad-name", "two topic levels have the same name")
                .at(part(name), "again")
                .context(part(first), "first here"),
            Mistake::Filter(error) => report.new_error("bad-topic", error.to_string()).at(text.span(), ""),
        };
        report.push(found);
    }
    foreign_wildcards(text, &levels, report);
    let filter = pattern::filter(&levels);
    Asked {
        text: text.value.to_owned(),
        names: pattern::names(&levels),
        place: Some(text.span()),
        filter: sound.then(|| filter.clone()),
        regex: None,
        pattern: sound.then(|| Pattern::Topic { filter, levels }),
    }
}

/// Warns of levels that are wildcards or names elsewhere, and that MQTT takes as they stand. `$name` is none of
/// them: topics of that kind exist.
fn foreign_wildcards(text: &Text<'_>, levels: &[Level], report: &mut Report<'_>) {
    let mut at = 0;
    for (level, written) in levels.iter().zip(text.value.split('/')) {
        let exact = text.exact_part(report.text, at..at + written.len());
        let place = exact.clone().unwrap_or(text.span());
        at += written.len() + 1;
        if !matches!(level, Level::Literal(_)) {
            continue;
        }
        if written == "*" {
            let found = Diagnostic::warning("odd-level", "`*` is no MQTT wildcard", report.file).at(place, "");
            report.push(found.help("write `+` or `{name}` for one level, `#` for all that follow"));
        } else if let Some(name) = placeholder_elsewhere(written) {
            let title = format!("`{written}` takes only a level that is written so");
            let found = Diagnostic::warning("odd-level", title, report.file).at(place, "a name is in braces");
            report.push(match exact {
                Some(place) => found.fix(place, format!("{{{name}}}")),
                None => found.help(format!("write {{{name}}}")),
            });
        }
    }
}

/// The name in `<name>`, `:name` or `%name%`.
fn placeholder_elsewhere(level: &str) -> Option<&str> {
    let between = |open, close| level.strip_prefix(open)?.strip_suffix(close);
    between('<', '>')
        .or_else(|| between('%', '%'))
        .or_else(|| level.strip_prefix(':'))
        .filter(|name| pattern::is_name(name))
}

pub(super) fn read_regex(text: &Text<'_>, report: &mut Report<'_>) -> Asked {
    let mut asked = Asked {
        text: text.value.to_owned(),
        place: Some(text.span()),
        regex: Some(text.value.to_owned()),
        ..Asked::default()
    };
    match regex::RegexBuilder::new(text.value).size_limit(REGEX_LIMIT).build() {
        Ok(regex) => {
            let named = || regex.capture_names().enumerate().filter_map(|(group, name)| Some((group, name?)));
            asked.names = named().map(|(_, name)| name.to_owned()).collect();
            let groups = named().map(|(group, _)| group).collect();
            asked.pattern = Some(Pattern::Regex { text: text.value.to_owned(), regex, groups });
        }
        Err(error) => {
            asked.regex = None;
            bad_regex(text, &error, report);
        }
    }
    asked
}

fn bad_regex(text: &Text<'_>, error: &regex::Error, report: &mut Report<'_>) {
    let found = report.new_error("bad-regex", "this regex does not work");
    report.push(match ast::parse::Parser::new().parse(text.value) {
        Err(syntax) => {
            let part = syntax.span().start.offset..syntax.span().end.offset;
            let found = found.at(text.part(report.text, part), syntax.kind().to_string());
            match regex_advice(syntax.kind()) {
                Some(advice) => found.help(advice),
                None => found,
            }
        }
        Ok(_) => found.at(text.span(), error.to_string().lines().last().unwrap_or("")),
    });
}

/// What to do about the mistakes people make in a regex.
fn regex_advice(kind: &ast::ErrorKind) -> Option<&'static str> {
    match kind {
        ast::ErrorKind::GroupUnclosed | ast::ErrorKind::GroupUnopened => {
            Some("a group is written (..); a parenthesis that is meant as it stands is written \\( or \\)")
        }
        ast::ErrorKind::UnsupportedLookAround => {
            Some("write what the topic looks like; a rule before this one can take those that are not wanted")
        }
        ast::ErrorKind::GroupNameInvalid | ast::ErrorKind::GroupNameEmpty | ast::ErrorKind::GroupNameUnexpectedEof => {
            Some("a name has letters, digits and `_`, a letter first: (?<line>[^/]+)")
        }
        ast::ErrorKind::RepetitionMissing => {
            Some("`*` and `+` repeat what stands before them; one topic level is [^/]+, any text is .*")
        }
        ast::ErrorKind::UnsupportedBackreference => Some("a regex here cannot refer to its own groups"),
        _ => None,
    }
}

/// What a table with the keys of a body makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Makes {
    Message,
    /// What is taken is dropped.
    Nothing,
    /// Publishes to plant clients, see [`read_command`].
    Command,
}

pub(super) fn read_message(
    keys: &mut Reader<'_>,
    (names, makes, urgent): (&mut Names, Makes, bool),
    tables: &Tables,
    report: &mut Report<'_>,
) -> Option<Message> {
    let decode = keys.any("decode").map(|entry| {
        let decode = read_decode::read(&entry, report);
        match &decode {
            Some(decode) => names.bring(decode.names().iter().copied(), &entry.value.span(), report),
            None => names.open |= read_decode::brings_names(&entry),
        }
        (decode, entry.value.span())
    });
    let lookup = read_table::lookup(keys, names, tables, report);
    let when = read_shape::when(keys, names, report);
    let drops = makes == Makes::Nothing;
    let mut message = Message {
        decode: None,
        device: Template::default(),
        add: Vec::new(),
        props: Vec::new(),
        time: None,
        reads_early: when.as_ref().is_some_and(Expr::has_field)
            || lookup.as_ref().is_some_and(|lookup| lookup.key.has_field()),
        lookup,
        when,
        script: None,
        scale: Vec::new(),
        set: Vec::new(),
        reshape: Reshape::default(),
        restraint: None,
        window: None,
        gzip: false,
        reported: None,
        drops,
        reads_fields: false,
    };
    if drops {
        message.decode = decode.and_then(|(decode, _)| decode);
        return Some(message);
    }
    message.script = read_shape::script(keys, names, report);
    message.scale = read_shape::scale(keys, report);
    message.set = read_shape::set(keys, names, report);
    message.reshape = read_shape::reshape(keys, report);
    if makes == Makes::Message {
        message.device = keys.string("device", report).map(|text| names.template(&text, report)).unwrap_or_default();
    }
    let add_key = keys.any("add");
    if let Some((table, _)) = keys.table("add", report) {
        for (key, value) in table {
            message.add.push((key.get_ref().as_ref().into(), names.value(key.get_ref(), value, report)));
        }
    }
    if makes == Makes::Command {
        read_command::templates(keys, names, &mut message, report);
    } else {
        message.reported = read_reported::read(keys, names, report);
        message.props = read_props(keys, names, report);
        message.time = read_time::read(keys, report);
        read_cost(keys, names, &mut message, urgent, report);
    }
    message.reads_fields = message.needs_object();
    message.decode = match decode {
        Some((Some(decode), span)) if decode.is_raw() && message.needs_json() => {
            let what = message.what_reads();
            let title = format!("{what} needs JSON, and `decode = \"raw\"` leaves the payload as it is");
            let mut found = report.new_error("raw-with-fields", title).at(span.clone(), "no JSON comes of this");
            if let Some(entry) = add_key.filter(|_| !message.add.is_empty()) {
                found = found.context(entry.key_span, "this needs JSON");
            }
            report.push(found.fix(span, "{ format = \"raw\", as = \"base64\" }"));
            None
        }
        decode => decode.and_then(|(decode, _)| decode),
    };
    Some(message)
}

/// Reads what makes messages fewer and smaller.
fn read_cost(keys: &mut Reader<'_>, names: &Names, message: &mut Message, urgent: bool, report: &mut Report<'_>) {
    let mut restraint = read_restraint::read(keys, names, report);
    message.gzip = keys.word("compress", &COMPRESSIONS, "unknown-word", report).unwrap_or(false);
    let gzip = message.gzip;
    let mut window = read_window::read(keys, names, report).map(|combine| {
        read_window::unused(keys, &combine, report);
        Window::new(combine, gzip, urgent)
    });
    if let Some(entry) = keys.any("per") {
        let per = text(&entry, report).map(|text| names.template(&text, report));
        let aggregate = window.as_mut().filter(|window| matches!(window.combine, Combine::Aggregate(_)));
        if restraint.is_none() && aggregate.is_none() {
            read_restraint::lone_per(&entry, report);
        }
        if let Some(window) = aggregate {
            window.per.clone_from(&per);
        }
        if let Some(restraint) = &mut restraint {
            restraint.per = per;
        }
    }
    message.restraint = restraint.map(Box::new);
    message.window = window.map(Arc::new);
}

fn device_name(names: &[String]) -> String {
    let known = ["device", "machine"].into_iter().find(|known| names.iter().any(|name| name == known));
    match known.or(names.last().map(String::as_str)) {
        Some(name) => format!("{{{name}}}"),
        None => "machine-1".to_owned(),
    }
}

fn read_props(keys: &mut Reader<'_>, names: &Names, report: &mut Report<'_>) -> Vec<(Box<str>, Template)> {
    let mut props = Vec::new();
    let Some((table, _)) = keys.table("props", report) else { return props };
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if let Some(why) = reserved(name) {
            let title = format!("the property `{name}` cannot be set by a rule");
            report.error("reserved-property", title, key.span(), why);
        }
        props.push((name.into(), names.property(name, value, report)));
    }
    props
}

/// Why a property name is not free, if it is not.
fn reserved(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "" => Some("a property needs a name"),
        "device" | "topic" => Some("brownbridge sets it itself"),
        _ if lower.starts_with('$') || lower.starts_with("iothub-") => Some("names of this kind belong to IoT Hub"),
        _ => None,
    }
}
