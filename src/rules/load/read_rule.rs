//! One `[[rule]]`.

use std::cell::Cell;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::read_table::{self, Tables};
use super::texts::{Names, Unknown};
use super::{
    Draft, line, lint, read_command, read_decode, read_on, read_pattern, read_reported, read_restraint, read_shape,
    read_time, read_window,
};
use crate::diag::walk::{Reader, Report, text};
use crate::diag::{Diagnostic, SourceFile, Span};
use crate::rules::expr::Expr;
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
            read_pattern::read(&mut keys, report)
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
            unknown: Cell::new(asked.unknown(on.is_some())),
            regex: asked.regex.is_some() && on.is_none(),
            on: on.is_some(),
            command: false,
            answer: None,
        };
        let makes = if drops { Makes::Nothing } else { Makes::Message };
        read_message(&mut keys, (&mut names, makes, urgent), tables, report)
            .map(|message| Action::Send(Box::new(message)))
    };
    let mistyped = keys.finish(report);
    let picky = may_let_by(action.as_ref().and_then(Action::message), table, &mistyped);
    let goes_on = goes_on || mistyped.contains(&"continue");
    let missing = |key: &str| table.get(key).is_none() && !mistyped.contains(&key);
    if missing("topic") && missing("regex") && missing("on") {
        let found = report.new_error("no-topic", "the rule does not say which topics it takes");
        report.push(found.at(span.clone(), "no `topic`").help("topic = \"plant1/{line}/{machine}\""));
    }
    if !drops && !table.contains_key("device") {
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
            when: written(table.get("when")),
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
        meant: asked.meant,
        regex: asked.regex,
        allow: allow.into_iter().map(str::to_owned).collect(),
        rule,
    }
}

/// A text on one line.
pub(super) fn written(value: Option<&Spanned<DeValue<'_>>>) -> Option<Box<str>> {
    let words: Vec<&str> = value?.get_ref().as_str()?.split_whitespace().collect();
    Some(words.join(" ").into())
}

/// Whether a rule may let publishes go by; also where the key that says so has a mistake.
fn may_let_by(message: Option<&Message>, table: &DeTable<'_>, mistyped: &[&str]) -> bool {
    let has = |key: &str| table.contains_key(key) || mistyped.contains(&key);
    match message {
        Some(message) => {
            message.is_picky() || (message.when.is_none() && has("when")) || (message.lookup.is_none() && has("lookup"))
        }
        None => has("when"),
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

/// What a table with the keys of a body makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Makes {
    Message,
    /// What is taken is dropped.
    Nothing,
    /// Publishes to plant clients, see [`read_command`].
    Command,
    /// What a method is answered.
    Answer,
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
            None if read_decode::brings_names(&entry) => names.unknown.set(Unknown::Open),
            None => {}
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
    } else if makes == Makes::Answer {
        read_command::answer_templates(keys, names, &mut message, report);
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
fn read_cost(keys: &mut Reader<'_>, names: &mut Names, message: &mut Message, urgent: bool, report: &mut Report<'_>) {
    let mut restraint = read_restraint::read(keys, (names, &message.device), report);
    message.gzip = keys.word("compress", &COMPRESSIONS, "unknown-word", report).unwrap_or(false);
    let gzip = message.gzip;
    let mut window = read_window::read(keys, names, report).map(|combine| {
        read_window::unused(keys, &combine, report);
        Window::new(combine, gzip, urgent)
    });
    if let Some(entry) = keys.any("per") {
        let per = text(&entry, report).map(|text| names.template_of_sent(&text, &message.device, report));
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
