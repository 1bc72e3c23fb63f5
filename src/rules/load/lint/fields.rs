//! `unknown-field`: what a rule does with a field that is never there.
//!
//! Told where the fields of a payload are known: those of a decoder that makes the same ones always ([`Decode::fields`]),
//! and those that `set` has made before. Behind a script nothing is known. What `rename` and `add` make comes after
//! everything that reads a field. A field of a known field, as `.value.x`, is let by: values may be objects.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diag::walk::{Report, Text};
use crate::diag::{Diagnostic, Span, nearest};
use crate::rules::expr;
use crate::rules::load::steps;
use crate::rules::rule::{Decode, Message};
use crate::rules::template::{Part, Template};
use crate::rules::window::Combine;

/// The keys whose texts are templates, with those in which some are; `topic` and `payload` are of commands.
const TEMPLATES: [&str; 9] = ["device", "props", "add", "at", "topic", "payload", "per", "dedupe", "pivot"];

/// The same of an answer; its `topic` is one of the command's.
const TEMPLATES_OF_ANSWER: [&str; 2] = ["add", "payload"];

/// The keys with the path of a field, or several, that another lint looks at for names that `rename` makes.
const PATHS: [(&str, &str); 3] =
    [("report_by_exception", "field"), ("report_by_exception", "fields"), ("pivot", "value")];

/// So many fields are listed.
const LISTED: usize = 8;

/// Tells the fields that are never there; `names` are those that templates may use.
pub(in crate::rules::load) fn unknown<'a>(
    table: &'a DeTable<'a>,
    names: &[String],
    message: &Message,
    report: &mut Report<'_>,
) {
    look(table, (names, &TEMPLATES), message, report);
}

/// The same of what is said of a device's answer.
pub(in crate::rules::load) fn unknown_in_answer<'a>(
    table: &'a DeTable<'a>,
    names: &[String],
    message: &Message,
    report: &mut Report<'_>,
) {
    look(table, (names, &TEMPLATES_OF_ANSWER), message, report);
}

fn look<'a>(
    table: &'a DeTable<'a>,
    (names, templates): (&[String], &[&str]),
    message: &Message,
    report: &mut Report<'_>,
) {
    let Some(made) = message.decode.as_ref().and_then(Decode::fields) else { return };
    let Some(decode) = table.get("decode") else { return };
    let columns = message.lookup.iter().flat_map(|lookup| &lookup.table.columns);
    let mut look = Look {
        table,
        decode: decode.span(),
        made: listed(&made),
        known: made.iter().map(|name| Box::from([Box::from(*name)])).collect(),
        names: names.iter().chain(columns).map(String::as_str).collect(),
        report,
    };
    if let Some(when) = table.get("when") {
        look.expression(when);
    }
    if let Some(key) = inner(table, "lookup", "key") {
        look.templates(key);
    }
    if message.drops || message.script.is_some() {
        return;
    }
    look.shaping();
    look.sending(templates, matches!(&message.window, Some(window) if !matches!(window.combine, Combine::Batch(_))));
}

/// A value in a table in a table.
fn inner<'a>(table: &'a DeTable<'a>, key: &str, member: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    table.get(key)?.get_ref().as_table()?.get(member)
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Where a field is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// `{.temp}`
    Template,
    /// `.temp > 1`
    Expression,
    /// `field = "temp"`
    Text,
    /// `temp = { .. }`
    Key,
}

/// A rule that is looked at.
struct Look<'a, 'n, 'r, 's> {
    table: &'a DeTable<'a>,
    /// What makes the fields, and which.
    decode: Span,
    made: String,
    /// The fields that are there, as far as the rule has come.
    known: Vec<Box<[Box<str>]>>,
    names: Vec<&'n str>,
    report: &'r mut Report<'s>,
}

impl<'a> Look<'a, '_, '_, '_> {
    /// `scale` and `set`; what `set` makes is known from then on.
    fn shaping(&mut self) {
        self.keys("scale", None);
        let Some(set) = self.table.get("set").and_then(|set| set.get_ref().as_table()) else { return };
        for (key, value) in set {
            self.expression(value);
            self.known.push(steps(key.get_ref()));
        }
    }

    /// What reads the finished object. `picks` says that a window takes single fields from it, and the rest is not sent.
    fn sending(&mut self, templates: &[&str], picks: bool) {
        let of_answers = ["ack", "response"].map(|key| inner(self.table, key, "topic"));
        let values = templates.iter().map(|key| self.table.get(*key)).chain(of_answers);
        values.flatten().for_each(|value| self.templates(value));
        if let Some(status) = self.table.get("status") {
            self.paths(status, false);
        }
        for (key, member) in PATHS {
            if let Some(value) = inner(self.table, key, member) {
                self.paths(value, true);
            }
        }
        if let Some(from) = inner(self.table, "time", "from") {
            self.paths(from, false);
        }
        self.keys("aggregate", Some("fields"));
        if !picks {
            self.keys("rename", None);
            if let Some(remove) = self.table.get("remove") {
                self.paths(remove, false);
            }
        }
    }

    fn expression(&mut self, value: &'a Spanned<DeValue<'a>>) {
        let Some(text) = value.get_ref().as_str() else { return };
        let whole = Text::new(text, &value.span());
        for mention in expr::mentions(text) {
            self.field(&mention.path, &whole, mention.at, Written::Expression);
        }
    }

    /// Every text in a value, as a template.
    fn templates(&mut self, value: &'a Spanned<DeValue<'a>>) {
        match value.get_ref() {
            DeValue::Array(values) => values.iter().for_each(|value| self.templates(value)),
            DeValue::Table(table) => table.iter().for_each(|(_, value)| self.templates(value)),
            DeValue::String(text) => {
                let whole = Text::new(text, &value.span());
                let mut seen = Vec::new();
                for part in Template::parse(text, &[], &[]).0.0 {
                    let Part::Field(path) = part else { continue };
                    let name = format!("{{.{}}}", path.join("."));
                    if seen.contains(&name) {
                        continue;
                    }
                    let at = text.find(&name).unwrap_or(0);
                    self.field(&path, &whole, at + 1..at + name.len() - 1, Written::Template);
                    seen.push(name);
                }
            }
            _ => {}
        }
    }

    /// A path, or a list of them. `of_rename` says that names which `rename` makes are told as `renamed-field`.
    fn paths(&mut self, value: &'a Spanned<DeValue<'a>>, of_rename: bool) {
        match value.get_ref() {
            DeValue::Array(values) => values.iter().for_each(|value| self.paths(value, of_rename)),
            DeValue::String(text) if of_rename && self.old_name(text).is_some() => {}
            DeValue::String(text) => {
                let at = text.len() - text.trim_start_matches('.').len()..text.len();
                self.field(&steps(text), &Text::new(text, &value.span()), at, Written::Text);
            }
            _ => {}
        }
    }

    /// The keys of a table, or of one inside of it.
    fn keys(&mut self, key: &str, member: Option<&str>) {
        let of_key = self.table.get(key);
        let value = member.map_or(of_key, |member| inner(self.table, key, member));
        for (key, _) in value.and_then(|value| value.get_ref().as_table()).into_iter().flatten() {
            let text = key.get_ref().as_ref();
            let at = text.len() - text.trim_start_matches('.').len()..text.len();
            self.field(&steps(text), &Text::new(text, &key.span()), at, Written::Key);
        }
    }

    /// The name that a field has before `rename` gives it this one.
    fn old_name(&self, name: &str) -> Option<&'a str> {
        let renames = self.table.get("rename")?.get_ref().as_table()?;
        let mut made = renames.iter().filter(|(_, new)| new.get_ref().as_str() == Some(name));
        made.next().map(|(old, _)| old.get_ref().as_ref()).filter(|_| !renames.contains_key(name))
    }

    fn has_key(&self, table: &str, key: &str) -> bool {
        inner(self.table, table, key).is_some()
    }

    /// Tells a field that is not there, named in `whole` at `at`.
    fn field(&mut self, path: &[Box<str>], whole: &Text<'_>, at: Span, written: Written) {
        if self.known.iter().any(|known| path.starts_with(known) || known.starts_with(path)) {
            return;
        }
        let name = path.join(".");
        let exact = whole.exact_part(self.report.text, at.clone());
        let place = exact.clone().unwrap_or(whole.span());
        let found = Diagnostic::warning("unknown-field", format!("there is no field `{name}`"), self.report.file);
        let found = found.at(place, "never there").context(self.decode.clone(), format!("this makes {}", self.made));
        // A name in quotes or behind an index is not written as it would be in its place.
        let dot = if matches!(written, Written::Template | Written::Expression) { "." } else { "" };
        let exact = exact.filter(|_| whole.value.get(at) == Some(format!("{dot}{name}").as_str()));
        let is_name = self.names.contains(&name.as_str());
        let found = match written {
            _ if is_name || self.old_name(&name).is_some() => found,
            _ if self.has_key("add", &name) => found.help("`add` comes last: nothing in this rule sees what it makes"),
            _ if self.has_key("set", &name) => found.help("the entry of `set` that makes it comes later"),
            _ => found,
        };
        let known: Vec<String> = self.known.iter().map(|known| known.join(".")).collect();
        let meant = self.old_name(&name).or_else(|| nearest(&name, known.iter().map(String::as_str)));
        self.report.push(match (written, exact, meant) {
            (Written::Template, Some(exact), _) if is_name => found.fix(exact, name),
            (Written::Expression, Some(exact), _) if is_name => found.fix(exact, format!("${name}")),
            _ if is_name => found.help(format!("`{name}` is a name of this rule, and no field of the payload")),
            (_, Some(exact), Some(meant)) if is_plain(meant, written) => found.fix(exact, format!("{dot}{meant}")),
            (_, _, Some(meant)) => found.help(format!("did you mean `{meant}`?")),
            (_, _, None) => found,
        });
    }
}

/// True for a name that needs no quotes where it is written.
fn is_plain(name: &str, written: Written) -> bool {
    name.chars().all(|c| match c {
        '_' => true,
        '-' => written != Written::Expression,
        '.' => written != Written::Key,
        c => c.is_ascii_alphanumeric() || (c.is_alphanumeric() && written != Written::Key),
    }) && !(written == Written::Expression && name.split('.').any(|step| step.starts_with(|c: char| c.is_numeric())))
}
