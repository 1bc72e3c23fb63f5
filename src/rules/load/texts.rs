//! Templates and `add` values of a rule, with the names they may use.

use std::cell::Cell;

use toml::Spanned;
use toml::de::DeValue;

use crate::diag::walk::{Report, Text, type_name};
use crate::diag::{Span, nearest};
use crate::rules::rule::Value;
use crate::rules::template::{BUILT_IN, Mistake, Part, Template};

const KNOWN_IN_COMMANDS: &str =
    "known are {device}, {id}, {time} and the names in `device` and `props`; a field of the body is written {.field}";

const KNOWN_IN_DESIRED: &str = "known are {device}, with `split = \"leaf\"` {path} and {name}, {time} and the names in `device`; a field of the body is written {.field}";

const DEVICE: &str = "device";

const WITH_A_DOT: &str = "a field of the payload is written with a dot: {.field}";

/// What a name that is not known comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// A finding.
    Wrong,
    /// A finding in a template, and only the first one: the regex that would bring the names is broken, and whether
    /// mending it brings this one too is for its author to see.
    WrongOnce,
    /// No finding: what would bring more names has a mistake of its own.
    Open,
}

/// The names a rule's templates may use.
pub(super) struct Names {
    pub(super) names: Vec<String>,
    /// The columns of the table.
    pub(super) columns: Vec<String>,
    /// How many of the names come from the pattern.
    pub(super) of_pattern: usize,
    /// The pattern they come from.
    pub(super) place: Option<Span>,
    /// What an unknown one is.
    pub(super) unknown: Cell<Unknown>,
    /// They come from a regex.
    pub(super) regex: bool,
    /// The rule is for what clients do: there is no publish.
    pub(super) on: bool,
    /// They are of a command: there is no publish.
    pub(super) command: bool,
    /// The template of a command's answer, read before the names are complete.
    pub(super) answer: Option<(String, Span)>,
}

impl Names {
    /// Those of what comes down, before its patterns bring more.
    pub(super) fn down(known: &[&str]) -> Self {
        Self {
            names: known.iter().map(|name| (*name).to_owned()).collect(),
            columns: Vec::new(),
            of_pattern: 0,
            place: None,
            unknown: Cell::new(Unknown::Wrong),
            regex: false,
            on: false,
            command: true,
            answer: None,
        }
    }

    /// An expression or a script may use names that are not known here.
    pub(super) fn is_open(&self) -> bool {
        self.unknown.get() != Unknown::Wrong
    }

    /// The names that what comes down may use.
    fn known_down(&self) -> &'static str {
        if self.names.iter().any(|name| name == "id") { KNOWN_IN_COMMANDS } else { KNOWN_IN_DESIRED }
    }

    /// Takes up the names that a key at `place` brings.
    pub(super) fn bring<'n>(&mut self, names: impl Iterator<Item = &'n str>, place: &Span, report: &mut Report<'_>) {
        for name in names {
            self.check_free(name, place, report);
            self.names.push(name.to_owned());
        }
    }

    /// Takes up the columns of the table.
    pub(super) fn bring_columns(&mut self, columns: &[String], place: &Span, report: &mut Report<'_>) {
        for column in columns {
            self.check_free(column, place, report);
        }
        self.columns = columns.to_vec();
    }

    fn check_free(&self, name: &str, place: &Span, report: &mut Report<'_>) {
        if !self.names.iter().any(|known| known == name) && !BUILT_IN.contains(&name) {
            return;
        }
        let title = format!("the name `{name}` is taken");
        let found = report.new_error("bad-name", title).at(place.clone(), format!("this brings {{{name}}}"));
        let found = match &self.place {
            Some(pattern) => found.context(pattern.clone(), "known before"),
            None => found,
        };
        report.push(found.help("give one of the two another name"));
    }

    /// Reads a template and tells its mistakes.
    pub(super) fn template(&self, text: &Text<'_>, report: &mut Report<'_>) -> Template {
        let (template, mistakes) = Template::parse(text.value, &self.names, &self.columns);
        for mistake in mistakes {
            self.tell(mistake, text, report);
        }
        if self.command && template.0.iter().any(|part| matches!(part, Part::Topic | Part::Client)) {
            let title = "`{topic}` and `{client}` are of a publish, and a command comes from the hub";
            report.push(report.new_error("unknown-name", title).at(text.span(), "").help(self.known_down()));
        }
        if self.on
            && let Some(needed) = template.of_publish()
        {
            let title = format!("`{needed}` is of a publish, and a rule with `on` has none");
            let found = report.new_error("unknown-name", title).at(text.span(), "");
            report.push(found.help(format!("known are {{time}}, {{client}}, {{{}}}", self.names.join("}, {"))));
        }
        template
    }

    /// Reads a template that is asked once the message has its `device`, which `{device}` stands for, where that is no name
    /// of the rule's own.
    pub(super) fn template_of_sent(&mut self, text: &Text<'_>, device: &Template, report: &mut Report<'_>) -> Template {
        if self.names.iter().chain(&self.columns).any(|name| name == DEVICE) {
            return self.template(text, report);
        }
        let own = self.names.len();
        self.names.push(DEVICE.to_owned());
        let template = self.template(text, report);
        self.names.pop();
        let meant = |part| if part == Part::Capture(own) { device.0.clone() } else { vec![part] };
        Template(template.0.into_iter().flat_map(meant).collect())
    }

    fn tell(&self, mistake: Mistake, text: &Text<'_>, report: &mut Report<'_>) {
        let syntax = |report: &mut Report<'_>, title: &str, part: Span, help: &str| {
            let found = report.new_error("template-syntax", title).at(text.part(report.text, part), "");
            report.push(found.help(help));
        };
        match mistake {
            Mistake::Unclosed(part) => {
                syntax(
                    report,
                    "the closing brace is missing",
                    part,
                    "a brace that is meant as it stands is written twice: {{",
                );
            }
            Mistake::LoneBrace(part) => {
                syntax(
                    report,
                    "the opening brace is missing",
                    part,
                    "a brace that is meant as it stands is written twice: }}",
                );
            }
            Mistake::EmptyName(part) => {
                let part = part.start.saturating_sub(1)..part.end + 1;
                syntax(
                    report,
                    "the name is missing",
                    part,
                    "write {name} for a name from the topic, {.field} for a field of the payload",
                );
            }
            Mistake::Unknown(_) if self.unknown.get() == Unknown::Open => {}
            Mistake::Unknown(part) => {
                let name = text.value.get(part.clone()).unwrap_or("");
                let exact = text.exact_part(report.text, part);
                let place = exact.clone().unwrap_or(text.span());
                let what = if self.command { "command" } else { "rule" };
                let title = format!("`{{{name}}}` is not known in this {what}");
                let mut found = report.new_error("unknown-name", title).at(place, "unknown name");
                if let Some(pattern) = &self.place {
                    let known = self.names.get(..self.of_pattern).unwrap_or(&self.names);
                    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    let from = match () {
                        () if self.command => "names of this command",
                        () if self.on => "names of this rule",
                        () => "names from the topic",
                    };
                    found = found.context(pattern.clone(), format!("{from}: {list}"));
                }
                let brought = self.names.get(self.of_pattern..).unwrap_or(&[]).iter().chain(&self.columns);
                let brought: Vec<&str> = brought.map(String::as_str).collect();
                if !brought.is_empty() {
                    found = found.help(format!("further names of this {what}: {}", brought.join(", ")));
                }
                let broken = self.unknown.get() == Unknown::WrongOnce;
                let meant = self.meant(name).map_err(|advice| if broken { WITH_A_DOT } else { advice });
                if broken {
                    self.unknown.set(Unknown::Open);
                }
                report.push(match (meant, exact) {
                    (Ok(meant), Some(place)) => found.fix(place, meant),
                    (Ok(meant), None) => found.help(format!("did you mean {{{meant}}}?")),
                    (Err(advice), _) => found.help(advice),
                });
            }
        }
    }

    /// What an unknown name most likely means, or what to do about it.
    fn meant(&self, name: &str) -> Result<String, &'static str> {
        let lower = name.to_ascii_lowercase();
        let known = self.names.iter().chain(&self.columns).map(String::as_str).chain(BUILT_IN);
        match lower.as_str() {
            "now" | "timestamp" | "date" | "datetime" => Ok("time".to_owned()),
            "payload" | "body" | "value" => Err("a field of the payload is written {.field}"),
            _ if lower.chars().all(|c| c.is_ascii_digit()) && self.regex => {
                Err("groups need a name: `PLC_(?<plc>\\d+)` makes {plc}")
            }
            _ if self.command => match nearest(name, known.filter(|known| !["topic", "client"].contains(known))) {
                Some(meant) => Ok(meant.to_owned()),
                None => Err(self.known_down()),
            },
            _ if self.on => match nearest(name, known.filter(|known| *known != "topic")) {
                Some(meant) => Ok(meant.to_owned()),
                None => Err("known are {time}, {client}, {address}, and with `disconnect` {reason}"),
            },
            _ => match (nearest(name, known), lower.strip_prefix("payload.")) {
                (Some(meant), _) => Ok(meant.to_owned()),
                (None, Some(field)) => Ok(format!(".{field}")),
                (None, None) if lower == DEVICE => {
                    Err("`per` and the key of `dedupe` know {device}; here write what `device` says")
                }
                (None, None) => Err("known are {time}, {topic}, {client}; a field of the payload is written {.field}"),
            },
        }
    }

    /// Reads a value of `add`.
    pub(super) fn value(&self, key: &str, value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Value {
        match value.get_ref() {
            DeValue::String(text) => {
                let template = self.template(&Text::new(text, &value.span()), report);
                match (template.only_field(), template.only_column()) {
                    (Some(path), _) => Value::Field(path.into()),
                    (None, Some(column)) => Value::Column(column),
                    (None, None) => Value::Text(template),
                }
            }
            DeValue::Array(values) => Value::List(values.iter().map(|value| self.value(key, value, report)).collect()),
            DeValue::Table(table) => Value::Table(
                table
                    .iter()
                    .map(|(key, value)| (key.get_ref().as_ref().into(), self.value(key.get_ref(), value, report)))
                    .collect(),
            ),
            other => Value::Constant(constant(key, other, value.span(), report).into()),
        }
    }

    /// Reads the value of a property: a template, or a constant that is sent as text.
    pub(super) fn property(&self, key: &str, value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Template {
        match value.get_ref() {
            DeValue::String(text) => self.template(&Text::new(text, &value.span()), report),
            other @ (DeValue::Array(_) | DeValue::Table(_)) => {
                let title = format!("the property `{key}` must be text in quotes");
                report.error("wrong-type", title, value.span(), format!("this is {}", type_name(other)));
                Template::default()
            }
            other => {
                let text = constant(key, other, value.span(), report);
                Template::parse(text.trim_matches('"'), &[], &[]).0
            }
        }
    }
}

/// The JSON of a TOML number, truth value or date.
fn constant(key: &str, value: &DeValue<'_>, span: Span, report: &mut Report<'_>) -> String {
    let number = match value {
        DeValue::Boolean(value) => return value.to_string(),
        DeValue::Datetime(date) => return format!("\"{date}\""),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n.to_string()),
        DeValue::Float(f) => float(f.as_str()),
        _ => None,
    };
    number.unwrap_or_else(|| {
        report.error("wrong-type", format!("`{key}` must be a number JSON knows"), span, "not finite, or too large");
        "null".to_owned()
    })
}

/// A number with a point as JSON: as written where JSON can write it so.
fn float(text: &str) -> Option<String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite())?;
    let as_written = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
    Some(if as_written { text.to_owned() } else { format!("{value:?}") })
}
