//! A rule as it runs: every text parsed, every name resolved.

use std::sync::Arc;

use super::clock::Clock;
use super::decode::binary::{Kind, Layout};
use super::decode::coding::Coding;
use super::decode::csv::Csv;
use super::decode::encoding::Encoding;
use super::decode::kepware::{Kepware, Split};
use super::decode::keyvalue::KeyValue;
use super::decode::quality::Quality;
use super::decode::sparkplug::Sparkplug;
use super::expr::Expr;
use super::lookup::{Lookup, Miss};
use super::pattern::Pattern;
use super::restraint::Restraint;
use super::script::Script;
use super::shape::{Reshape, Scale, Set};
use super::template::Template;
use super::window::{Combine, Window};
use crate::message::Event;

/// A checked rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    /// What its memory is filed under: the name, and a number where several rules have no name of their own.
    pub(super) state: Box<str>,
    /// The file and line it stands in.
    pub(super) path: String,
    pub(super) line: usize,
    /// The rule is for the coming or going of clients, and its pattern for their client ids.
    pub(super) on: Option<Event>,
    pub(super) pattern: Pattern,
    /// The pattern as the user wrote it.
    pub(super) written: String,
    /// The names from the topic, in the order of the captures.
    pub(super) names: Vec<String>,
    pub(super) goes_on: bool,
    /// It may let a publish of its topics go by.
    pub(super) picky: bool,
    /// Its `when` as the user wrote it, on one line.
    pub(super) when: Option<Box<str>>,
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

impl Action {
    /// How a message is made, where one is.
    pub(super) fn message(&self) -> Option<&Message> {
        match self {
            Self::Drop => None,
            Self::Send(message) => Some(message),
        }
    }
}

/// How a rule makes its message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) decode: Option<Decode>,
    pub(super) device: Template,
    pub(super) add: Vec<(Box<str>, Value)>,
    pub(super) props: Vec<(Box<str>, Template)>,
    pub(super) time: Option<Clock>,
    pub(super) lookup: Option<Lookup>,
    pub(super) when: Option<Expr>,
    pub(super) script: Option<Script>,
    pub(super) scale: Vec<Scale>,
    pub(super) set: Vec<Set>,
    pub(super) reshape: Reshape,
    /// What is not worth sending.
    pub(super) restraint: Option<Box<Restraint>>,
    /// Where its messages wait for others.
    pub(super) window: Option<Arc<Window>>,
    /// The body goes up compressed.
    pub(super) gzip: bool,
    /// It is no message but a change of reported properties.
    pub(super) reported: Option<Reported>,
    /// Nothing is made: the rule is there to drop what its `when` takes.
    pub(super) drops: bool,
    /// Something behind the script needs fields, so the payload must be an object.
    pub(super) reads_fields: bool,
    /// `when` or `lookup` looks at fields.
    pub(super) reads_early: bool,
}

/// Where a change of reported properties goes.
#[derive(Debug)]
pub(super) struct Reported {
    /// The objects it lies in, outermost first.
    pub(super) at: Vec<Template>,
    /// The twin is not changed more often than that, in milliseconds.
    pub(super) every: i64,
}

impl Message {
    /// It may let publishes of its topics go by.
    pub(super) fn is_picky(&self) -> bool {
        self.when.is_some() || self.lookup.as_ref().is_some_and(|lookup| lookup.miss == Miss::Skip)
    }

    /// Something needs JSON.
    pub(super) fn needs_json(&self) -> bool {
        self.reads_fields || self.reads_early || self.window.is_some()
    }

    fn combines(&self, how: impl Fn(&Combine) -> bool) -> bool {
        self.window.as_ref().is_some_and(|window| how(&window.combine))
    }

    /// Something needs fields of the payload, or of what the script makes of it.
    pub(super) fn needs_object(&self) -> bool {
        !self.add.is_empty()
            || !self.set.is_empty()
            || !self.scale.is_empty()
            || !self.reshape.is_empty()
            || self.time.is_some()
            || self.restraint.as_ref().is_some_and(|restraint| restraint.needs_object())
            || self.window.as_ref().is_some_and(|window| window.needs_object())
            || self.reported.is_some()
            || self.device.has_field()
            || self.props.iter().any(|(_, template)| template.has_field())
    }

    /// The key that needs an object, as it is called in messages.
    pub(super) fn what_reads(&self) -> &'static str {
        match () {
            () if !self.add.is_empty() => "`add`",
            () if !self.set.is_empty() => "`set`",
            () if !self.scale.is_empty() => "`scale`",
            () if !self.reshape.is_empty() => "`rename` or `remove`",
            () if self.time.is_some() => "`time`",
            () if self.restraint.as_ref().is_some_and(|restraint| restraint.report_needs_object()) => {
                "`report_by_exception`"
            }
            () if self.combines(|combine| matches!(combine, Combine::Aggregate(_))) => "`aggregate`",
            () if self.combines(|combine| matches!(combine, Combine::Pivot(pivot) if pivot.value.is_some())) => {
                "`pivot`"
            }
            () if !self.reads_fields && self.window.is_some() => "`batch`",
            () if self.reported.is_some() => "`to = \"reported\"`",
            () => "`{.field}`",
        }
    }
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
    Sparkplug(Sparkplug),
    Xml,
    /// Text that is no UTF-8, and how it is read then.
    Encoded(Encoding, Box<Decode>),
    /// Bytes written as text, and how those are read then; nothing takes them as they are.
    Coded(Coding, Option<Box<Decode>>),
}

impl Decode {
    /// The format, whatever encoding its text has.
    pub(super) fn format(&self) -> &Self {
        match self {
            Self::Encoded(_, inner) => inner.format(),
            format => format,
        }
    }

    /// The names it gives to each of its objects.
    pub(super) fn names(&self) -> &'static [&'static str] {
        match self {
            Self::Kepware(kepware) => kepware.split.names(),
            Self::Coded(_, Some(inner)) => inner.names(),
            _ => &[],
        }
    }

    /// The fields of its objects, where no other can be in them.
    pub(super) fn fields(&self) -> Option<Vec<&str>> {
        match self.format() {
            Self::Text | Self::Number { .. } => Some(vec!["value"]),
            Self::RawBase64 => Some(vec!["value_base64"]),
            Self::RawHex => Some(vec!["value_hex"]),
            Self::Csv(csv) => Some(csv.names.as_ref()?.iter().map(|name| &**name).collect()),
            Self::Binary(layout) => {
                let written = layout.fields.iter().filter(|field| !matches!(field.kind, Kind::Skip { .. }));
                Some(written.map(|field| &*field.name).collect())
            }
            Self::Kepware(Kepware { split: Split::Tag, quality, .. }) => Some(match quality {
                Quality::Mark => vec!["time", "value", "bad"],
                Quality::Good | Quality::Keep => vec!["time", "value"],
            }),
            Self::Coded(_, Some(inner)) => inner.fields(),
            _ => None,
        }
    }

    /// Births give its metrics their names.
    pub(super) fn is_sparkplug(&self) -> bool {
        match self {
            Self::Sparkplug(_) => true,
            Self::Coded(_, Some(inner)) => inner.is_sparkplug(),
            _ => false,
        }
    }

    /// It may leave values out because of their quality.
    pub(super) fn grades(&self) -> bool {
        match self {
            Self::Kepware(kepware) => kepware.quality == Quality::Good,
            Self::Sparkplug(sparkplug) => sparkplug.quality == Quality::Good,
            Self::Coded(_, Some(inner)) => inner.grades(),
            _ => false,
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
    /// A column of the table, with its type.
    Column(usize),
    List(Vec<Value>),
    Table(Vec<(Box<str>, Value)>),
}

impl Rule {
    /// Where its messages wait for others.
    pub(super) fn window(&self) -> Option<&Arc<Window>> {
        match &self.action {
            Action::Send(message) => message.window.as_ref(),
            Action::Drop => None,
        }
    }

    /// True where the search ends when this rule matches.
    pub(super) fn is_last(&self) -> bool {
        !self.picky && (!self.goes_on || matches!(self.action, Action::Drop))
    }
}
