//! Warnings about rules that work, but hardly as they were meant, and the key `allow` that lets them by.
//!
//! | code | told of |
//! |---|---|
//! | `constant-device` | many topics or clients make one device, and nothing in its messages tells them apart |
//! | `empty-level` | a topic that begins or ends with `/`, or has `//` |
//! | `loose-regex` | a regex without `^` and `$`, which takes whatever has it in it |
//! | `never-runs` | a rule before this one takes everything |
//! | `odd-level` | a level that is a wildcard or a name elsewhere, and stands for itself here; `$share/group/` |
//! | `overlap` | a rule before this one takes some of the topics, and reads as the more general one |
//! | `renamed-field` | a field by the name that `rename` gives it, where the rule still knows it by the old one |
//! | `same-name` | a field that `rename` puts in the place of another one |
//! | `shared-answer` | a method of a command whose answers look alike whatever call they are of |
//! | `too-long` | what is known of a message alone is more than the hub takes |
//! | `unknown-field` | a field that the decoder does not make, and nothing else before it |
//! | `unused-name` | a name from the topic that nothing refers to; one that begins with `_` may be unused |
//!
//! Those of commands are found where commands are read. A lint is told only of rules without a mistake: one finding must
//! not be the echo of another. `never-runs` asks the topics alone, and is told wherever those say enough.

use std::collections::{HashMap, HashSet};

use regex_syntax::hir::{Hir, HirKind};
use toml::de::{DeTable, DeValue};

use super::read_pattern::Asked;
use crate::diag::walk::{Reader, Report, Text};
use crate::diag::{Diagnostic, Span, nearest};
use crate::rules::pattern::Level;
use crate::rules::rule::{Decode, Message, Value};
use crate::rules::template::{Part, Template};

mod fields;

pub(super) use fields::{unknown as unknown_fields, unknown_in_answer};

/// The warnings that are not about one rule, or not to be allowed: `check --deny` can name them all the same.
pub const FIRM_LINTS: [&str; 3] = ["not-once", "unused-key", "unused-table"];

/// The warnings that one rule or command can allow, and `check --deny` can name.
pub const LINTS: [&str; 12] = [
    "constant-device",
    "empty-level",
    "loose-regex",
    "never-runs",
    "odd-level",
    "overlap",
    "renamed-field",
    "same-name",
    "shared-answer",
    "too-long",
    "unknown-field",
    "unused-name",
];

/// Longest topic of a message to the hub (MQTT), less what is not the rule's: identities and system properties.
const TOPIC_LIMIT: usize = 65_535 - 700;

/// The largest message to the hub, and to Event Hubs behind it.
const MESSAGE_LIMIT: usize = 262_144;

/// Reads `allow`.
pub(super) fn allowed<'a>(keys: &mut Reader<'a>, report: &mut Report<'_>) -> Vec<&'a str> {
    let mut allowed = Vec::new();
    for name in keys.strings("allow", report).unwrap_or_default() {
        if LINTS.contains(&name.value) {
            allowed.push(name.value);
            continue;
        }
        let found = report.new_error("unknown-lint", format!("there is no warning `{}` to allow", name.value));
        let found = found.at(name.span(), "");
        report.push(match nearest(name.value, LINTS) {
            Some(meant) => found.fix(name.span(), format!("\"{meant}\"")),
            None => found.help(format!("known are {}", LINTS.join(", "))),
        });
    }
    allowed
}

/// Takes back what a rule allows of the findings from `before` on.
pub(super) fn let_by(allowed: &[&str], before: usize, report: &mut Report<'_>) {
    let mut index = 0;
    report.found.retain(|found| {
        index += 1;
        index <= before || found.is_error() || !allowed.contains(&found.code)
    });
}

/// Looks at one rule; `message` is none where it makes none.
pub(super) fn rule<'a>(table: &'a DeTable<'a>, asked: &Asked, message: Option<&Message>, report: &mut Report<'_>) {
    empty_levels(asked, report);
    if let Some(regex) = table.get("regex") {
        loose_regex(&Text::new(&asked.text, &regex.span()), report);
    }
    let Some(message) = message else { return };
    unknown_fields(table, &asked.names, message, report);
    if message.drops {
        return;
    }
    too_long(table, message, report);
    renamed_fields(table, report);
    same_names(table, message, report);
    if !constant_device(table, asked, message, report) {
        unused_names(table, asked, report);
    }
}

fn empty_levels(asked: &Asked, report: &mut Report<'_>) {
    let (Some(_), Some(place)) = (&asked.filter, &asked.place) else { return };
    let text = asked.text.as_str();
    let (title, slash) = match (text.starts_with('/'), text.ends_with('/'), text.find("//")) {
        (true, ..) => ("the topic begins with `/`: its first level is empty", 0),
        (_, true, _) => ("the topic ends with `/`: its last level is empty", text.len() - 1),
        (_, _, Some(at)) => ("there is nothing between these two `/`", at),
        _ => return,
    };
    let found = Diagnostic::warning("empty-level", title, report.file);
    let exact = Text::new(text, place).exact_part(report.text, slash..slash + 1);
    let found = found.at(exact.clone().unwrap_or(place.clone()), "");
    let found = found.help("where equipment does publish so, say it: allow = [\"empty-level\"]");
    report.push(match exact {
        Some(exact) if text.len() > 1 => found.fix(exact, ""),
        _ => found,
    });
}

/// One anchor says that its author knows them; with none the other end was hardly meant to be open.
fn loose_regex(text: &Text<'_>, report: &mut Report<'_>) {
    let Ok(hir) = regex_syntax::parse(text.value) else { return };
    let (begin, end) = (hir.properties().look_set_prefix_any(), hir.properties().look_set_suffix_any());
    let open = |end: &str| [".*", ".+"].contains(&end);
    let begins_open = text.value.get(..2).is_some_and(open);
    let ends_open = text.value.len().checked_sub(2).and_then(|at| text.value.get(at..)).is_some_and(open);
    if begin.contains_anchor() || end.contains_anchor() || begins_open || ends_open {
        return;
    }
    let found = Diagnostic::warning("loose-regex", "the regex takes every text that has this in it", report.file);
    let exact = text.exact_part(report.text, 0..text.value.len());
    let found = found.at(exact.clone().unwrap_or(text.span()), "neither `^` nor `$`");
    let found = found.help("`^` is the beginning of the whole, `$` its end; `.*` says that anything may stand there");
    let several = matches!(hir.kind(), HirKind::Alternation(_));
    let whole = if several { format!("^({})$", text.value) } else { format!("^{}$", text.value) };
    report.push(match exact {
        Some(exact) => found.fix(exact, whole),
        None => found,
    });
}

/// Tells where many sources make one device and nothing tells them apart.
fn constant_device<'a>(table: &'a DeTable<'a>, asked: &Asked, message: &Message, report: &mut Report<'_>) -> bool {
    let constant = message.device.0.iter().all(|part| matches!(part, Part::Literal(_)));
    // The payload says of which devices and nodes its values are.
    let says_itself = matches!(message.decode, Some(Decode::Kepware(_) | Decode::Sparkplug(_)));
    let Some(device) = table.get("device").filter(|_| constant && !says_itself && takes_many(asked)) else {
        return false;
    };
    let texts = texts(table, &["device", "when"]);
    let names = asked.names.iter().map(String::as_str).chain(["topic", "client"]);
    if names.into_iter().any(|name| texts.iter().any(|text| uses(text, name))) {
        return false;
    }
    let clients = table.contains_key("on");
    let (what, which) = if clients { ("client", "clients") } else { ("topic", "topics") };
    let title = format!("many {which} become one device, and its messages do not say which {what} they are of");
    let found = Diagnostic::warning("constant-device", title, report.file).at(device.span(), "the same for all");
    let found = match &asked.place {
        Some(place) => found.context(place.clone(), format!("many {which}")),
        None => found,
    };
    let name = asked.names.iter().rfind(|name| !["address", "reason"].contains(&name.as_str()));
    let device = match name {
        Some(name) => format!("device = \"{{{name}}}\""),
        None if asked.filter.is_some() => "name a level in braces".to_owned(),
        None if clients && !table.contains_key("regex") => "client = \"plc-{nr}\" and device = \"{nr}\"".to_owned(),
        None => "name a part of it, (?<nr>..), and write {nr} here".to_owned(),
    };
    report.push(found.help(format!("{device}, or add = {{ {what} = \"{{{what}}}\" }}")));
    true
}

/// True for a pattern that hardly takes one topic, or one client, only.
fn takes_many(asked: &Asked) -> bool {
    match (&asked.pattern, &asked.filter) {
        (Some(pattern), Some(_)) => pattern.levels().iter().any(|level| !matches!(level, Level::Literal(_))),
        _ => {
            asked.regex.as_deref().and_then(|regex| regex_syntax::parse(regex).ok()).is_some_and(|hir| !is_fixed(&hir))
        }
    }
}

/// True for a regex that takes one text only.
fn is_fixed(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Look(_) => true,
        HirKind::Concat(parts) => parts.iter().all(is_fixed),
        HirKind::Capture(group) => is_fixed(&group.sub),
        HirKind::Class(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => false,
    }
}

fn unused_names<'a>(table: &'a DeTable<'a>, asked: &Asked, report: &mut Report<'_>) {
    let Some(place) = &asked.place else { return };
    let texts = texts(table, &[]);
    for name in asked.names.iter().filter(|name| !name.starts_with('_')) {
        if texts.iter().any(|text| uses(text, name)) {
            continue;
        }
        let braces = format!("{{{name}}}");
        let groups = [format!("?<{name}>"), format!("?P<{name}>")];
        let written = match table.contains_key("regex") {
            true => groups.iter().find_map(|group| Some((asked.text.find(group)?, group, ""))),
            false => asked.text.find(&braces).map(|at| (at, &braces, if asked.filter.is_some() { "+" } else { "*" })),
        };
        let Some((at, written, instead)) = written else { continue };
        let exact = Text::new(&asked.text, place).exact_part(report.text, at..at + written.len());
        let title = format!("nothing in this rule refers to `{{{name}}}`");
        let found = Diagnostic::warning("unused-name", title, report.file);
        let found = found.at(exact.clone().unwrap_or(place.clone()), "the messages do not say which");
        let found = found.help(format!("put {{{name}}} into `device` or `add`, or call it {{_{name}}}"));
        report.push(match exact {
            Some(exact) => found.fix(exact, instead),
            None => found,
        });
    }
}

/// What the rule itself puts into a message, without what comes from topic and payload.
fn too_long<'a>(table: &'a DeTable<'a>, message: &Message, report: &mut Report<'_>) {
    let longest = message.lookup.as_ref().map_or(&[][..], |lookup| &lookup.table.longest);
    let mut topic = "device=&topic=".len() + known_length(&message.device, longest, 3);
    for (name, value) in &message.props {
        topic += 2 + name.len() + known_length(value, longest, 3);
    }
    let body: usize = message.add.iter().map(|(key, value)| key.len() + 4 + value_length(value, longest)).sum();
    let (key, title) = if topic > TOPIC_LIMIT {
        ("props", "the properties can be longer than a topic of MQTT, which they are a part of")
    } else if body + topic / 3 > MESSAGE_LIMIT {
        ("add", "the message can be larger than IoT Hub takes: 256 KiB")
    } else {
        return;
    };
    let Some((key, value)) = table.get_key_value(key).or(table.get_key_value("device")) else { return };
    let bytes = if topic > TOPIC_LIMIT { topic } else { body };
    let found = Diagnostic::warning("too-long", title, report.file).at(key.span(), format!("up to {bytes} bytes"));
    let rows = "a long text belongs to the reader of the messages, under a short name of it";
    report.push(found.context(value.span(), "").help(rows));
}

/// The bytes of a text as far as they are known; `factor` is what a character that must be escaped becomes.
fn known_length(template: &Template, longest: &[usize], factor: usize) -> usize {
    let part = |part: &Part| match part {
        Part::Literal(text) => escaped_length(text, factor),
        Part::Column(index) => longest.get(*index).copied().unwrap_or(0),
        Part::Time => "2026-01-01T00%3A00%3A00.000Z".len(),
        Part::Capture(_) | Part::Field(_) | Part::Topic | Part::Client => 0,
    };
    template.0.iter().map(part).sum()
}

fn value_length(value: &Value, longest: &[usize]) -> usize {
    match value {
        Value::Constant(text) => text.len(),
        Value::Text(template) => known_length(template, longest, 1),
        Value::Field(_) => 0,
        Value::Column(index) => longest.get(*index).copied().unwrap_or(0),
        Value::List(values) => values.iter().map(|value| 1 + value_length(value, longest)).sum(),
        Value::Table(values) => values.iter().map(|(key, value)| key.len() + 4 + value_length(value, longest)).sum(),
    }
}

/// The bytes of a text where all but letters, digits and `-_.~` become `factor` bytes.
pub(super) fn escaped_length(text: &str, factor: usize) -> usize {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.as_bytes().iter().map(|byte| if plain(byte) { 1 } else { factor }).sum()
}

/// Two fields that `rename` gives the same name, or one that gets the name of a field the rule is sure to know.
fn same_names<'a>(table: &'a DeTable<'a>, message: &Message, report: &mut Report<'_>) {
    let Some(DeValue::Table(renames)) = table.get("rename").map(|value| value.get_ref()) else { return };
    let removed = table.get("remove").and_then(|value| value.get_ref().as_array());
    let is_removed =
        |name: &str| removed.is_some_and(|list| list.iter().any(|item| item.get_ref().as_str() == Some(name)));
    let known = known_fields(message);
    let mut named: HashMap<String, Span> = HashMap::new();
    for (old, new) in renames {
        let (old_name, Some(new_name)) = (old.get_ref().as_ref(), new.get_ref().as_str()) else { continue };
        let whole = match old_name.rsplit_once('.') {
            Some((object, _)) => format!("{object}.{new_name}"),
            None => new_name.to_owned(),
        };
        let goes_away = renames.contains_key(whole.as_str()) || is_removed(&whole);
        let (title, other) = match named.get(&whole) {
            Some(first) => (format!("two fields are called `{whole}` in the end"), Some(first.clone())),
            None if !goes_away && known.contains(&whole) => (format!("there is a field `{whole}` already"), None),
            None => {
                named.insert(whole, old.span());
                continue;
            }
        };
        let found = Diagnostic::warning("same-name", title, report.file);
        report.push(match other {
            Some(first) => found.at(old.span(), "and this one").context(first, "this one").help(
                "of those a payload has, the last one is kept; where it has one at a time: allow = [\"same-name\"]",
            ),
            None => found.at(new.span(), "this takes its place").help("another name, or `remove` the other field"),
        });
    }
}

/// The fields that are there whatever the payload is: by the names of a decoder, or because the rule makes them.
fn known_fields(message: &Message) -> HashSet<String> {
    let decode = message.decode.as_ref().filter(|_| message.script.is_none());
    let made = decode.and_then(Decode::fields).into_iter().flatten();
    let mut known: HashSet<String> = made.map(str::to_owned).collect();
    known.extend(message.set.iter().map(|set| set.path.join(".")));
    known.extend(message.scale.iter().map(|scale| scale.path.join(".")));
    known
}

/// `rename` comes last: what is compared, combined or looked at before it has the old name.
fn renamed_fields<'a>(table: &'a DeTable<'a>, report: &mut Report<'_>) {
    let Some(DeValue::Table(renames)) = table.get("rename").map(|value| value.get_ref()) else { return };
    let made = renames.iter().filter_map(|(old, new)| Some((new.get_ref().as_str()?, old.get_ref().as_ref())));
    let made: Vec<(&str, &str)> = made.filter(|(new, _)| !renames.contains_key(*new)).collect();
    let mut named = Vec::new();
    for (key, member) in [("report_by_exception", "field"), ("report_by_exception", "fields"), ("pivot", "value")] {
        if let Some(DeValue::Table(inner)) = table.get(key).map(|value| value.get_ref())
            && let Some(value) = inner.get(member)
        {
            match value.get_ref() {
                DeValue::Array(values) => named.extend(values.iter()),
                _ => named.push(value),
            }
        }
    }
    for value in named {
        let Some((new, old)) = made.iter().find(|(new, _)| value.get_ref().as_str() == Some(*new)) else { continue };
        let title = format!("`{new}` is only made by `rename`, which comes later");
        let found = Diagnostic::warning("renamed-field", title, report.file);
        let found = found.at(value.span(), format!("here the field is still `{old}`"));
        report.push(found.fix(value.span(), format!("\"{old}\"")));
    }
}

/// Every text of a rule but its name, its pattern and some more keys.
fn texts<'a>(table: &'a DeTable<'a>, without: &[&str]) -> Vec<&'a str> {
    let mut texts = Vec::new();
    for (key, value) in table {
        let key = key.get_ref().as_ref();
        if !["name", "topic", "regex", "client", "allow"].contains(&key) && !without.contains(&key) {
            gather(value.get_ref(), &mut texts);
        }
    }
    texts
}

fn gather<'a>(value: &'a DeValue<'a>, texts: &mut Vec<&'a str>) {
    match value {
        DeValue::String(text) => texts.push(text),
        DeValue::Array(values) => values.iter().for_each(|value| gather(value.get_ref(), texts)),
        DeValue::Table(table) => table.iter().for_each(|(_, value)| gather(value.get_ref(), texts)),
        _ => {}
    }
}

/// True for a text with `{name}`, or `$name` as scripts have it. What looks like a use counts as one.
pub(super) fn uses(text: &str, name: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    text.contains(&format!("{{{name}}}"))
        || text.split('$').skip(1).any(|rest| rest.strip_prefix(name).is_some_and(|rest| !goes_on(rest)))
}
