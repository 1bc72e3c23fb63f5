//! A rule as it runs: every text parsed, every name resolved.

use super::clock::Clock;
use super::decode::binary::Layout;
use super::decode::coding::Coding;
use super::decode::csv::Csv;
use super::decode::kepware::Kepware;
use super::decode::keyvalue::KeyValue;
use super::pattern::Pattern;
use super::template::Template;
use crate::message::Event;

/// A checked rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    /// The file and line it stands in.
    pub(super) path: String,
    pub(super) line: usize,
    /// The rule is for the coming or going of clients, and its pattern for their client ids.
    pub(super) on: Option<Event>,
    pub(super) pattern: Pattern,
    /// The names from the topic, in the order of the captures.
    pub(super) names: Vec<String>,
    pub(super) goes_on: bool,
    /// Its message goes up before those of other rules.
    pub(super) urgent: bool,
    pub(super) action: Action,
}

/// What a rule does with a publish.
#[derive(Debug)]
pub(super) enum Action {
    Drop,
    Send(Box<Message>),
}

/// How a rule makes its message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) decode: Option<Decode>,
    pub(super) device: Template,
    pub(super) add: Vec<(Box<str>, Value)>,
    pub(super) props: Vec<(Box<str>, Template)>,
    pub(super) time: Option<Clock>,
    /// A template has a field, so the payload must be an object.
    pub(super) reads_fields: bool,
}

/// How the payload is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decode {
    Json,
    Text,
    Number {
        comma: bool,
    },
    Raw,
    RawBase64,
    RawHex,
    KeyValue(KeyValue),
    Csv(Csv),
    Binary(Layout),
    Kepware(Kepware),
    Sparkplug,
    Xml,
    /// Bytes written as text, and how those are read then; nothing takes them as they are.
    Coded(Coding, Option<Box<Decode>>),
}

impl Decode {
    /// The names it gives to each of its objects.
    pub(super) fn names(&self) -> &'static [&'static str] {
        match self {
            Self::Kepware(kepware) => kepware.split.names(),
            Self::Coded(_, Some(inner)) => inner.names(),
            _ => &[],
        }
    }

    /// Nothing of it can be JSON.
    pub(super) fn is_raw(&self) -> bool {
        match self {
            Self::Raw => true,
            Self::Coded(_, Some(inner)) => inner.is_raw(),
            _ => false,
        }
    }
}

/// A value for `add`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// JSON text that never changes.
    Constant(Box<str>),
    Text(Template),
    /// A field of the payload, with its type.
    Field(Box<[Box<str>]>),
    List(Vec<Value>),
    Table(Vec<(Box<str>, Value)>),
}

impl Rule {
    /// True where the search ends when this rule matches.
    pub(super) fn is_last(&self) -> bool {
        !self.goes_on || matches!(self.action, Action::Drop)
    }
}

impl Value {
    pub(super) fn has_field(&self) -> bool {
        match self {
            Self::Constant(_) => false,
            Self::Text(template) => template.has_field(),
            Self::Field(_) => true,
            Self::List(values) => values.iter().any(Self::has_field),
            Self::Table(entries) => entries.iter().any(|(_, value)| value.has_field()),
        }
    }
}
