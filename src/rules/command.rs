//! Commands: what comes down from the hub becomes local publishes. Pure, as the rules are.
//!
//! The first `[[command]]` in file order that matches takes what came: its `device`, its `props`, its `method`, and
//! then its `when`. Without `method` a command is for cloud-to-device messages, with it for direct methods of that name.
//! `decode`, `lookup`, `when`, `script`, `scale`, `set`, `rename`, `remove` and `add` work on the body as they do in a
//! rule; from what is then there `topic`, `payload` and the topic of the answer are made, and `encode` writes the payload
//! as the equipment reads it.
//!
//! | written | stands for |
//! |---|---|
//! | `{device}` | the device it is for |
//! | `{id}` | the message's `$.mid`, or the request id of a method; empty where there is none |
//! | `{name}` | a name of the patterns in `device` and `props` |
//! | `{.field}`, `{column}`, `{time}` | as in a rule |
//!
//! Nothing from the cloud chooses where it goes: a topic has as many levels as its template, none of them empty by what
//! was put in, and no wildcard.

use std::fmt;

use regex::Regex;

use super::QuarantineReason;
use super::answer::Answer;
use super::decode::Births;
use super::encode::{self, Encode, Source as Payload};
use super::make::{self, Records, Source, Taken, Work};
use super::refusal::Refusal;
use super::rule::Message;
use super::template::{Part, Template};
use crate::message::{HubMessage, Publish, Timestamp};
use crate::topic;

/// The names that every command has.
pub(super) const NAMES: [&str; 2] = ["device", "id"];
/// The place of `id` among them.
pub(super) const ID: usize = 1;

/// Under these names the texts a command makes ride in its record.
pub(super) const TOPIC: &str = "topic";
pub(super) const PAYLOAD: &str = "payload";
pub(super) const ANSWER: &str = "answer";

/// A checked command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: String,
    /// Direct methods of this name; without one cloud-to-device messages.
    pub(super) method: Option<String>,
    pub(super) device: Option<TextPattern>,
    pub(super) props: Vec<(Box<str>, TextPattern)>,
    pub(super) message: Message,
    /// Its `when` as the user wrote it, on one line.
    pub(super) when: Option<Box<str>>,
    pub(super) topic: Levels,
    pub(super) answer_topic: Option<Levels>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// How the payload is written.
    pub(super) encode: Option<Encode>,
    pub(super) answer: Option<Answer>,
    /// A message is published once at most.
    pub(super) once: bool,
}

/// A pattern over a whole text.
#[derive(Debug)]
pub(super) struct TextPattern {
    pub(super) regex: Regex,
    /// The groups with names, in order.
    pub(super) groups: Vec<usize>,
}

impl TextPattern {
    /// Appends what the names stand for; false where it does not match.
    fn captures<'t>(&self, text: &'t str, found: &mut Vec<&'t str>) -> bool {
        let Some(captures) = self.regex.captures(text) else { return false };
        found.extend(self.groups.iter().map(|group| captures.get(*group).map_or("", |part| part.as_str())));
        true
    }
}

/// What a template says about the levels of its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Levels {
    count: usize,
    empty: usize,
    /// It begins with a dollar sign of its own.
    system: bool,
    /// The topics it can become, as a filter.
    filter: String,
}

impl Levels {
    pub(super) fn of(template: &Template) -> Self {
        // What is put in stands for a text that is not empty and has no slash.
        let mut shape = String::new();
        for part in &template.0 {
            match part {
                Part::Literal(text) => shape.push_str(text),
                _ => shape.push('\u{1}'),
            }
        }
        let level = |level: &'_ str| if level.contains('\u{1}') { "+".to_owned() } else { level.to_owned() };
        Self {
            count: shape.split('/').count(),
            empty: shape.split('/').filter(|level| level.is_empty()).count(),
            system: shape.starts_with('$'),
            filter: shape.split('/').map(level).collect::<Vec<_>>().join("/"),
        }
    }

    /// Says why a topic is none that the template means.
    fn check(&self, name: &str) -> Result<(), String> {
        topic::check_name(name).map_err(|error| format!("`{name}` is no topic: {error}"))?;
        let empty = name.split('/').filter(|level| level.is_empty()).count();
        if name.split('/').count() != self.count || empty != self.empty || name.starts_with('$') != self.system {
            return Err(format!("`{name}` is not one of the topics of this command: {}", self.filter));
        }
        Ok(())
    }
}

/// Where a `[[command]]` or `[[desired]]` publishes.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// Which of the two it is, as it is written.
    pub section: &'static str,
    /// Its name.
    pub name: &'a str,
    /// All topics it can make, and maybe others, as a filter.
    pub topic: &'a str,
    device: Option<&'a TextPattern>,
}

impl Destination<'_> {
    /// True where it is for this device.
    pub fn takes(&self, device: &str) -> bool {
        self.device.is_none_or(|pattern| pattern.regex.is_match(device))
    }
}

/// What came down.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The device it is for.
    pub device: &'a str,
    /// The method that is called; a cloud-to-device message without one.
    pub method: Option<&'a str>,
    /// The message id or the request id.
    pub id: &'a str,
    /// Application properties.
    pub props: &'a [(String, Option<String>)],
    /// The body.
    pub payload: &'a [u8],
    /// When it came.
    pub received: Timestamp,
}

/// The device a message is for. On a connection that all share its property `device` names it, as rules mark messages that
/// go up; on one that a device has for itself it is that device, whatever the message says: who may send to one is not to
/// reach another through it.
pub fn addressee<'a>(connection: &'a str, is_shared: bool, props: &'a [(String, Option<String>)]) -> &'a str {
    let named = props.iter().rev().find(|(name, _)| name == "device").and_then(|(_, value)| value.as_deref());
    named.filter(|device| is_shared && !device.is_empty()).unwrap_or(connection)
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commanded {
    /// A command takes it.
    Made(Made),
    /// A command takes it and cannot make anything of it.
    Refused {
        /// The command.
        command: String,
        /// Why.
        reason: QuarantineReason,
        /// In words.
        detail: String,
    },
    /// No command takes it.
    NoRule,
}

/// What a command makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The command.
    pub command: String,
    /// What is to be published, in order.
    pub publishes: Vec<LocalPublish>,
    /// What is to be waited for, and on which topic.
    pub answer: Option<(String, Answer)>,
    /// It may be published once at most.
    pub once: bool,
}

impl Made {
    /// Nothing, in the name of a command.
    pub fn nothing(command: String) -> Self {
        Self { command, publishes: Vec::new(), answer: None, once: false }
    }
}

/// A publish to plant clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPublish {
    /// A valid topic name.
    pub topic: String,
    /// Any bytes.
    pub payload: Vec<u8>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// It stays with the broker.
    pub retain: bool,
}

/// Why a command does not take what came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassedBy {
    /// It is for methods, or for others, or for messages.
    Method,
    /// It is for other devices.
    Device,
    /// This property is missing, or has another value.
    Property(String),
    /// Its `when`, which is this, is not true.
    When(String),
    /// This table of it has no row for it.
    Lookup(String),
    /// Its `when` or its table needs a body that can be read.
    Body(QuarantineReason, String),
}

impl fmt::Display for PassedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("`method` is another"),
            Self::Device => f.write_str("`device` does not match"),
            Self::Property(name) => write!(f, "the property `{name}` is missing or has another value"),
            Self::When(when) => write!(f, "its `when` is not true: {when}"),
            Self::Lookup(table) => write!(f, "its table `{table}` has no row for it"),
            Self::Body(_, detail) => f.write_str(detail),
        }
    }
}

pub(super) type Asked = Result<Result<Made, PassedBy>, (QuarantineReason, String)>;

/// The commands that let it go by, in order, and why.
pub(super) fn passed_by(commands: &[Command], incoming: &Incoming<'_>) -> Vec<(String, PassedBy)> {
    let asked = commands.iter().map(|command| (command.name.clone(), command.ask(incoming)));
    asked.map_while(|(name, asked)| Some((name, asked.ok()?.err()?))).collect()
}

/// Asks the commands in order. A body that nobody can read is refused by the first that would have looked into it.
pub(super) fn ask(commands: &[Command], incoming: &Incoming<'_>) -> Commanded {
    let mut unreadable = None;
    for command in commands {
        match command.ask(incoming) {
            Ok(Err(PassedBy::Body(reason, detail))) => {
                let command = command.name.clone();
                unreadable.get_or_insert(Commanded::Refused { command, reason, detail });
            }
            Ok(Err(_)) => {}
            Ok(Ok(made)) => return Commanded::Made(made),
            Err((reason, detail)) => {
                return Commanded::Refused { command: command.name.clone(), reason, detail };
            }
        }
    }
    unreadable.unwrap_or(Commanded::NoRule)
}

impl Command {
    fn ask(&self, incoming: &Incoming<'_>) -> Asked {
        if self.method.as_deref() != incoming.method {
            return Ok(Err(PassedBy::Method));
        }
        let Some(mut names) = self.names_of_device(incoming.device, &[incoming.device, incoming.id]) else {
            return Ok(Err(PassedBy::Device));
        };
        for (name, pattern) in &self.props {
            // Of a property that is there twice the last one counts.
            let value = incoming.props.iter().rev().find(|(known, _)| **known == **name);
            let value = value.map(|(_, value)| value.as_deref().unwrap_or(""));
            if !value.is_some_and(|value| pattern.captures(value, &mut names)) {
                return Ok(Err(PassedBy::Property(name.to_string())));
            }
        }
        self.made((&names, incoming.payload), incoming.received)
    }

    /// The names with those of the pattern for devices; none where that does not match.
    pub(super) fn names_of_device<'a>(&self, device: &'a str, names: &[&'a str]) -> Option<Vec<&'a str>> {
        let mut names = names.to_vec();
        let matches = self.device.as_ref().is_none_or(|pattern| pattern.captures(device, &mut names));
        matches.then_some(names)
    }

    /// What it makes of a body.
    pub(super) fn made(&self, (names, payload): (&[&str], &[u8]), received: Timestamp) -> Asked {
        let mut records = Records::default();
        match make(&self.message, (names, payload), received, &mut records) {
            Ok(Taken::When) => Ok(Err(self.passed_by(payload, PassedBy::When(self.written_when())))),
            Ok(Taken::Lookup) => Ok(Err(self.passed_by(payload, PassedBy::Lookup(self.table())))),
            Ok(Taken::Yes) => self.collect(&records, names).map(Ok),
            Err(refusal) => Err((refusal.reason, refusal.detail)),
        }
    }

    /// Why `when` or `lookup` let a body go by.
    fn passed_by(&self, payload: &[u8], why: PassedBy) -> PassedBy {
        match make::unreadable(&self.message, payload) {
            Some(refusal) => PassedBy::Body(refusal.reason, refusal.detail),
            None => why,
        }
    }

    fn written_when(&self) -> String {
        self.when.as_deref().unwrap_or_default().to_owned()
    }

    fn table(&self) -> String {
        self.message.lookup.as_ref().map(|lookup| lookup.name.to_string()).unwrap_or_default()
    }

    fn collect(&self, records: &Records, names: &[&str]) -> Result<Made, (QuarantineReason, String)> {
        let mut made = Made { once: self.once, ..Made::nothing(self.name.clone()) };
        let mut start = 0;
        for (_, end) in &records.ends {
            let record = records.bytes.get(start..*end).unwrap_or(&[]);
            start = *end;
            let Ok(message) = HubMessage::parse(record) else { continue };
            let text = |wanted: &str| message.properties().find(|(name, _)| *name == wanted).map(|(_, value)| value);
            let topic = self.topic(TOPIC, text(TOPIC), &self.topic)?;
            let payload = match text(PAYLOAD) {
                Some(payload) => Payload::Text(payload),
                None if self.has(PAYLOAD) => return Err(missing(PAYLOAD)),
                None => Payload::Body(message.body),
            };
            let encode = self.encode.as_ref().unwrap_or(&Encode::Asis);
            let payload = encode::encode(encode, payload).map_err(|refusal| (refusal.reason, refusal.detail))?;
            made.publishes.push(LocalPublish { topic, payload, qos: self.qos, retain: self.retain });
            if made.answer.is_none()
                && let (Some(answer), Some(levels)) = (&self.answer, &self.answer_topic)
            {
                let names = names.iter().map(|name| (*name).to_owned()).collect();
                made.answer = Some((self.topic(ANSWER, text(ANSWER), levels)?, Answer { names, ..answer.clone() }));
            }
        }
        Ok(made)
    }

    fn has(&self, what: &str) -> bool {
        self.message.props.iter().any(|(name, _)| **name == *what)
    }

    fn topic(&self, what: &str, text: Option<&str>, levels: &Levels) -> Result<String, (QuarantineReason, String)> {
        let text = text.ok_or_else(|| missing(what))?;
        levels.check(text).map_err(|detail| (QuarantineReason::BadTopic, detail))?;
        Ok(text.to_owned())
    }

    /// Where it publishes.
    pub(super) fn destination(&self, section: &'static str) -> Destination<'_> {
        Destination { section, name: &self.name, topic: &self.topic.filter, device: self.device.as_ref() }
    }

    /// The topics on which this command may be answered, as a filter.
    pub(super) fn answers(&self) -> Option<&str> {
        self.answer_topic.as_ref().map(|levels| levels.filter.as_str())
    }
}

/// Makes what a message says of a body that came with no publish.
pub(super) fn make(
    message: &Message,
    (names, payload): (&[&str], &[u8]),
    received: Timestamp,
    records: &mut Records,
) -> Result<Taken, Refusal> {
    let publish = Publish { topic: "", payload, client: "", user: None, qos: 1, retain: false, received };
    let births = Births::default();
    let source = Source { publish: &publish, captures: &[], event: names, births: &births, state: "", marks: None };
    make::make(message, 0, &source, &mut Work::default(), records)
}

fn missing(what: &str) -> (QuarantineReason, String) {
    (QuarantineReason::MissingField, format!("the body lacks a field that the {what} needs"))
}
