//! One `[[command]]`.

use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use toml::de::DeTable;

use super::durations;
use super::lint;
use super::read_decode;
use super::read_on::text_pattern;
use super::read_path;
use super::read_rule::{self, Makes, read_message};
use super::read_table::Tables;
use super::texts::Names;
use crate::diag::walk::{Entry, Reader, Report, Text, text};
use crate::diag::{Diagnostic, Span};
use crate::rules::answer::{Answer, STATUS};
use crate::rules::command::{ANSWER, Command, ID, Levels, NAMES, PAYLOAD, TOPIC, TextPattern};
use crate::rules::encode::Encode;
use crate::rules::rule::Message;
use crate::rules::template::{Part, Template};

/// How long an answer is waited for where nothing is said.
const WITHIN: Duration = Duration::from_secs(10);
/// As long as a hub waits for a method, at most ("Understand and invoke direct methods").
const WITHIN_MAX: Duration = Duration::from_secs(300);

/// The keys of an answer that leave it as it is.
const AS_IT_IS: [&str; 3] = ["topic", "within", "status"];

/// When a command is complete.
pub(super) const COMPLETE: [(&str, bool); 2] = [("on-publish", false), ("on-ack", true)];

/// A command as read, with what the checks across commands need.
pub(super) struct Draft<C = Command> {
    pub(super) file: usize,
    pub(super) name: String,
    pub(super) name_span: Span,
    pub(super) command: Option<C>,
}

pub(super) fn read<'a>(table: &'a DeTable<'a>, span: &Span, tables: &Tables, report: &mut Report<'_>) -> Draft {
    let before = report.found.len();
    let mut keys = Reader::new(table, "command");
    let name = keys.string("name", report);
    let method = keys.string("method", report);
    let allow = lint::allowed(&mut keys, report);
    let mut names = Names::down(&NAMES);
    let device = keys.any("device").and_then(|entry| pattern(&entry, &mut names, report));
    let mut props = Vec::new();
    if let Some((table, _)) = keys.table("props", report) {
        for (key, value) in table {
            let entry = Entry { key: key.get_ref(), key_span: key.span(), value };
            props.extend(pattern(&entry, &mut names, report).map(|pattern| (entry.key.into(), pattern)));
        }
    }
    let complete = keys.any("complete");
    let on_ack = keys.word("complete", &COMPLETE, "unknown-word", report);
    let once = read_once(&mut keys, method.is_some(), report);
    let answer = read_answer(&mut keys, method.is_some(), (&mut names, tables), report);
    let message = read_message(&mut keys, (&mut names, Makes::Command, false), tables, report);
    let encode = read_encode(&mut keys, report);
    // Any other may be sent again to a device that was away before it had acknowledged it.
    let (qos, retain) = how(&mut keys, (if once { 2 } else { 1 }, false), report);
    let mistyped = keys.finish(report);
    let missing = |key: &str| table.get(key).is_none() && !mistyped.contains(&key);
    if missing("topic") {
        let found = report.new_error("no-topic", "the command does not say where it goes");
        report.push(found.at(span.clone(), "no `topic`").help("topic = \"plant1/{device}/set\""));
    }
    match (on_ack, method.is_some()) {
        (Some(true), false) if missing("ack") => {
            let found = report.new_error("no-answer", "`complete = \"on-ack\"` needs the topic of the answer");
            let place = complete.map_or(span.clone(), |entry| entry.value.span());
            report.push(found.at(place, "").help("ack = { topic = \"plant1/{device}/ack\", within = \"10s\" }"));
        }
        (Some(false), false) if answer.is_some() => {
            let title = "`ack` means nothing beside `complete = \"on-publish\"`";
            let found = Diagnostic::warning("unused-key", title, report.file);
            report.push(found.at(complete.map_or(span.clone(), |entry| entry.value.span()), "nobody waits for it"));
        }
        (Some(_), true) => {
            let title = "`complete` means nothing beside `method`: a method is answered";
            let found = Diagnostic::warning("unused-key", title, report.file);
            report.push(found.at(complete.map_or(span.clone(), |entry| entry.key_span), ""));
        }
        _ => {}
    }
    let name_span = name.map_or(span.clone(), |name| name.span());
    let written = table.get("topic").and_then(|topic| topic.get_ref().as_str()).unwrap_or("(command)");
    let shown = name.or(method).map_or(written, |name| name.value).to_owned();
    let sound = !report.found.iter().skip(before).any(Diagnostic::is_error);
    let waits = method.is_some() || on_ack != Some(false);
    if let Some(message) = message.as_ref().filter(|_| sound && method.is_some()) {
        shared_answer(table, message, &names, report);
    }
    if let Some(message) = message.as_ref().filter(|_| sound) {
        lint::unknown_fields(table, &names.names, message, report);
    }
    lint::let_by(&allow, before, report);
    let command = message.filter(|_| sound).map(|message| {
        let levels = |what: &str| {
            let template = message.props.iter().find(|(name, _)| **name == *what);
            template.map(|(_, template)| Levels::of(template))
        };
        Command {
            name: shown.clone(),
            method: method.map(|method| method.value.to_owned()),
            device,
            props,
            topic: levels(TOPIC).unwrap_or_else(|| Levels::of(&Template::default())),
            answer_topic: levels(ANSWER).filter(|_| waits),
            message,
            when: read_rule::written(table.get("when")),
            encode,
            qos,
            retain,
            answer: answer.filter(|_| waits),
            once,
        }
    });
    Draft { file: report.file, name: shown, name_span, command }
}

/// Tells of a method whose answers look alike whatever call they are of, so that a late one answers the call after its own.
fn shared_answer<'a>(table: &'a DeTable<'a>, message: &Message, names: &Names, report: &mut Report<'_>) {
    let Some((written, place)) = &names.answer else { return };
    let response = table.get("response").and_then(|response| response.get_ref().as_table());
    let when = response.and_then(|response| response.get("when")?.get_ref().as_str());
    if when.is_some_and(|when| lint::uses(when, "id")) {
        return;
    }
    let Some((_, topic)) = message.props.iter().find(|(name, _)| **name == *ANSWER) else { return };
    // What the body says may be the same of two calls; the request id and the time of receipt are not.
    let of_one_call = |part: &Part| matches!(part, Part::Capture(ID) | Part::Time);
    if topic.0.iter().any(of_one_call) {
        return;
    }
    let title = "an answer that comes too late can answer the next call: nothing says which call it is of";
    let found = Diagnostic::warning("shared-answer", title, report.file);
    let exact = Text::new(written, place).exact_part(report.text, written.len()..written.len());
    let found = found.at(place.clone(), "no `{id}`");
    let found = found.help("tell the equipment the `{id}`, too: in `topic`, `payload` or `add`");
    let found = found.help("of one topic for all: when = '.id == $id'; without an id: allow = [\"shared-answer\"]");
    report.push(match exact {
        Some(exact) => found.fix(exact, if written.ends_with('/') { "{id}" } else { "/{id}" }),
        None => found,
    });
}

/// Reads `once`, and tells what a device would hear twice all the same.
fn read_once(keys: &mut Reader<'_>, is_method: bool, report: &mut Report<'_>) -> bool {
    let Some((true, place)) = keys.boolean("once", report) else { return false };
    if is_method {
        let title = "`once` means nothing beside `method`: a hub calls once";
        report.push(Diagnostic::warning("unused-key", title, report.file).at(place, ""));
        return false;
    }
    if let Some(retain) = keys.any("retain").filter(|entry| entry.value.get_ref().as_bool() == Some(true)) {
        let found = report.new_error("not-once", "a retained message is heard again with every subscription");
        let found = found.at(retain.value.span(), "").context(place.clone(), "the device is to hear it once");
        report.push(found.help("remove `retain`, or `once` where hearing it again does no harm"));
    }
    let qos = keys.any("qos").filter(|entry| entry.value.get_ref().as_integer().is_some_and(|qos| qos.as_str() == "1"));
    if let Some(qos) = qos {
        let title = "with QoS 1 a device may hear a message twice, where its connection breaks";
        let found = Diagnostic::warning("not-once", title, report.file).at(qos.value.span(), "");
        let found = found.context(place, "the device is to hear it once");
        report.push(found.help("remove `qos`: with `once` it is 2; or 0"));
    }
    true
}

/// Reads `qos` and `retain`; these are meant where nothing is said.
pub(super) fn how(keys: &mut Reader<'_>, meant: (u8, bool), report: &mut Report<'_>) -> (u8, bool) {
    let qos = keys.integer("qos", report).map_or(meant.0, |(qos, place)| {
        u8::try_from(qos).ok().filter(|qos| *qos <= 2).unwrap_or_else(|| {
            report.error("wrong-type", "`qos` is 0, 1 or 2", place, "");
            meant.0
        })
    });
    (qos, keys.boolean("retain", report).map_or(meant.1, |(retain, _)| retain))
}

/// Reads `encode`: the words of `decode`, the other way round.
pub(super) fn read_encode(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Option<Encode> {
    let entry = keys.any("encode")?;
    let place = entry.value.span();
    let encode = match Encode::of(read_decode::read(&entry, report)?) {
        Ok(encode) => encode,
        Err(why) => {
            let found = report.new_error("bad-encode", format!("the payload cannot be written so: {why}"));
            report.push(found.at(place, "").help(match why.contains("bytes") {
                true => "bits of a word are written { name = \"run\", bit = 0, of = \"control\" }",
                false => "formats: json, text, number, raw, keyvalue, csv, hex, base64, binary",
            }));
            return None;
        }
    };
    if let Some(payload) = keys.any("payload").filter(|_| encode.needs_object()) {
        let found = report.new_error("bad-encode", "`encode` needs the members of the body, and `payload` is one text");
        let help = "remove `payload`; `set`, `rename` and `add` make the members";
        report.push(found.at(place, "").context(payload.key_span, "one text").help(help));
    }
    Some(encode)
}

/// A text in which `{name}` and `*` stand for any text, with its names.
pub(super) fn pattern(entry: &Entry<'_>, names: &mut Names, report: &mut Report<'_>) -> Option<TextPattern> {
    let text = text(entry, report)?;
    let taken: Vec<String> = names.names.clone();
    let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
    let (regex, brought) = text_pattern(&text, entry.key, &taken, report)?;
    names.names.extend(brought.into_iter().map(str::to_owned));
    names.of_pattern = names.names.len();
    names.place.get_or_insert(text.span());
    let regex = Regex::new(&format!("(?s)^{regex}$")).ok()?;
    let groups = regex.capture_names().enumerate().filter_map(|(group, name)| name.map(|_| group)).collect();
    Some(TextPattern { regex, groups })
}

/// Reads `ack` or `response`, but for its topic, which is a template and read with the others.
fn read_answer<'a>(
    keys: &mut Reader<'a>,
    method: bool,
    (names, tables): (&mut Names, &Tables),
    report: &mut Report<'_>,
) -> Option<Answer> {
    let (key, other) = if method { ("response", "ack") } else { ("ack", "response") };
    if let Some(entry) = keys.unoffered(other) {
        let title = format!("`{other}` is for commands {} `method`", if method { "without" } else { "with" });
        report.push(report.new_error("unused-key", title).at(entry.key_span, "").help(format!("write `{key}`")));
    }
    let (table, span) = keys.table(key, report)?;
    let before = report.found.len();
    let mut keys = Reader::new(table, key);
    let topic = keys.string("topic", report);
    let within = within(&mut keys, report);
    let known: Vec<&str> = names.names.iter().map(String::as_str).collect();
    let mut known = Names::down(&known);
    let makes = if method { Makes::Answer } else { Makes::Nothing };
    let message = read_message(&mut keys, (&mut known, makes, false), tables, report);
    keys.finish(report);
    let sound = !report.found.iter().skip(before).any(Diagnostic::is_error);
    if let Some(message) = message.as_ref().filter(|_| sound) {
        lint::unknown_in_answer(table, &known.names, message, report);
    }
    let status = message.as_ref().and_then(|message| message.props.iter().find(|(name, _)| **name == *STATUS));
    let status = status.and_then(|(_, template)| match template.0.first() {
        Some(Part::Field(path)) => Some(path.clone()),
        _ => None,
    });
    let is_read = table.keys().any(|key| !AS_IT_IS.contains(&key.get_ref().as_ref()));
    let reading = message.filter(|_| is_read).map(Arc::new);
    if topic.is_none() && table.get("topic").is_none() {
        let found = report.new_error("no-topic", format!("`{key}` does not say on which topic the answer comes"));
        report.push(found.at(span, "no `topic`").help("topic = \"plant1/{device}/ack\""));
    }
    names.answer = topic.map(|topic| (topic.value.to_owned(), topic.span()));
    Some(Answer { within, status, reading, names: Vec::new() })
}

/// Reads what is said of an answer that becomes the answer of a method.
pub(super) fn answer_templates(keys: &mut Reader<'_>, names: &Names, message: &mut Message, report: &mut Report<'_>) {
    message.device = Template(vec![Part::Literal("answer".into())]);
    if let Some(text) = keys.string("payload", report) {
        message.props.push((PAYLOAD.into(), names.template(&text, report)));
    }
    if let Some(path) = keys.string("status", report).and_then(|text| read_path(&text, report)) {
        message.props.push((STATUS.into(), Template(vec![Part::Field(path)])));
    }
}

fn within(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Duration {
    let place = keys.any("within").map_or(0..0, |entry| entry.value.span());
    let Some(ms) = durations::longer_than_nothing(keys, "within", report) else { return WITHIN };
    let within = u64::try_from(ms).map_or(WITHIN, Duration::from_millis);
    if within > WITHIN_MAX {
        report.error("bad-duration", "`within` is 5 minutes at most", place, "");
    }
    within
}

/// Reads the templates of a command into the properties of its message.
pub(super) fn templates(keys: &mut Reader<'_>, names: &Names, message: &mut Message, report: &mut Report<'_>) {
    message.device = Template(vec![Part::Literal("command".into())]);
    if let Some(text) = keys.string("topic", report) {
        message.props.push((TOPIC.into(), topic(&text, names, report)));
    }
    if let Some(text) = keys.string("payload", report) {
        message.props.push((PAYLOAD.into(), names.template(&text, report)));
    }
    if let Some((answer, span)) = &names.answer {
        message.props.push((ANSWER.into(), topic(&Text::new(answer, span), names, report)));
    }
}

fn topic(text: &Text<'_>, names: &Names, report: &mut Report<'_>) -> Template {
    let template = names.template(text, report);
    let shape: String = template.0.iter().map(|part| if let Part::Literal(text) = part { text } else { "x" }).collect();
    if let Err(error) = crate::topic::check_name(&shape) {
        let found = report.new_error("bad-topic", format!("this is no topic to publish to: {error}"));
        report.push(found.at(text.span(), "").help("topic = \"plant1/{device}/set\""));
    } else if matches!(template.0.first(), None | Some(Part::Field(_))) || shape.starts_with('$') {
        let found = report.new_error("bad-topic", "what comes from the cloud cannot choose where it goes");
        let help = "begin with a level of your own that does not begin with $: \"plant1/{.machine}/set\"";
        report.push(found.at(text.span(), "").help(help));
    }
    template
}
