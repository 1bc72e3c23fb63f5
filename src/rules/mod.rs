//! The rule engine: a publish in, hub messages out. Pure: it knows no client, no file and no clock.
//!
//! # Which rule
//!
//! Files are read in name order, rules in the order they stand. The first rule whose `topic` or `regex`
//! matches takes the message. A rule with `continue = true` makes its message and the search goes on. A
//! rule with `drop = true` ends it. The verdict is about the publish as a whole:
//!
//! | what happened | verdict |
//! |---|---|
//! | at least one message, and no rule failed | [`Verdict::Translated`] |
//! | no message, a rule says `drop` or makes nothing, or each lets it go by | [`Verdict::Dropped`] |
//! | a rule took it and could not make its message | [`Verdict::Quarantined`]; the messages of the rules before it stay |
//! | no rule matched | [`Verdict::Unmatched`] |
//!
//! An empty retained publish takes the retained message of its topic away. A rule that can make its message of nothing (no
//! `decode`, or `raw`) makes it; one that needs a payload makes none, and that is no failure.
//!
//! A rule with `when`, or with a `lookup` that says `miss = "skip"`, may let a publish of its topics go by: the search goes
//! on as if it did not match. A publish that rules let go by and none takes is dropped, not unmatched.
//!
//! A rule works in this order: `decode`, `lookup`, `when`, `script`, `scale`, `set`; then `device`, `props`, `time` and the
//! values of `add` are read from what there is, and last come `rename`, `remove` and `add`. The language of `when` and `set`
//! is described in `expr`, that of `script` in `script`. Then `dedupe`, `report_by_exception` and `throttle` look whether the
//! message is worth sending (`restraint`); what is waits for others where the rule has `batch`, `aggregate` or `pivot`
//! (`window`), and `compress` comes last of all. A publish of which everything is held back is
//! dropped, and [`Output::held_back`] says why.
//!
//! What a rule with `to = "reported"` makes is no message: its object, in the objects that `at` names, is to be merged into
//! the reported properties of the device's twin ([`RuleSet::reported`]).
//!
//! Messages of a rule with `priority = "high"` are urgent ([`RuleSet::is_urgent`]); what that means is not decided here.
//!
//! A rule with `on = "connect"` or `on = "disconnect"` takes no publish: it makes a message of the coming or going of
//! a client. Instead of `topic` it has `client`, a client id in which `{name}` and `*` stand for any text (a name for
//! one character at least and as few as do), or `regex` for the client id, or neither for every client. There is
//! no payload: the body is the object that `add` makes.
//!
//! # What a text may refer to
//!
//! | written | stands for |
//! |---|---|
//! | `{line}` | the topic level `{line}` of `topic`, or the capture `(?<line>..)` of `regex`; empty where an optional capture took no part |
//! | `{.field}`, `{.a.b}` | a field of the decoded payload, nested with dots |
//! | `{unit}` | a column of the table of `lookup`; alone in `add` it keeps its type |
//! | `{time}` | when the publish was received, or the moment that `time` finds; RFC 3339 in UTC with milliseconds |
//! | `{topic}`, `{client}` | the topic, the client id of the publisher |
//! | `{address}`, `{reason}` | only with `on`: the client's IP address; why its connection ended (not with `connect`) |
//! | `{{`, `}}` | a brace |
//!
//! A text field is put in without its quotes, any other as its JSON. An `add` value that is one `{.field}` and
//! nothing else keeps the type of the field. A name in `topic` is a whole level; braces that are part of a
//! topic need `regex`.
//!
//! # When a message is of
//!
//! `time = { from = ".ts", format = "unix_ms" }` makes the time in the payload that of the message. Formats are `unix_s`,
//! `unix_ms`, `unix_us`, `unix_ns`, `rfc3339` (the default; ISO 8601 without an offset is in `zone`) and patterns of
//! strftime. A time that is missing or unreadable, from before 2015, ahead of the receipt by more than `max_ahead` (10
//! minutes) or older than `max_age` (nothing) is not taken: the message then has the time of its receipt.
//!
//! # What the body becomes
//!
//! | `decode` | body | said to be |
//! |---|---|---|
//! | none | the payload, byte for byte | JSON if it is JSON, else text if it is UTF-8, else binary; nothing if it is empty |
//! | `"json"` | the payload, byte for byte; quarantined if it is no JSON | JSON |
//! | `"text"` | `{"value":"<text>"}` | JSON |
//! | `"number"` | `{"value":<number>}`, digits as written: `12.0` stays `12.0`; with `decimal = ","` a decimal comma | JSON |
//! | `"raw"` | the payload, byte for byte, unseen | binary |
//! | `{ format = "raw", as = "base64" }` | `{"value_base64":"..."}`, and with `as = "hex"` `{"value_hex":"..."}` | JSON |
//! | `"keyvalue"` | an object of the pairs (`decode::keyvalue`) | JSON |
//! | `{ format = "csv", .. }` | a message for each row (`decode::csv`) | JSON |
//! | `{ format = "binary", .. }` | an object of fields at places (`decode::binary`) | JSON |
//! | `"kepware"` | the tags of Kepware's IoT Gateway, in one message, one a device or one a tag (`decode::kepware`) | JSON |
//! | `"sparkplug"` | the metrics of a Sparkplug B payload (`decode::sparkplug`) | JSON |
//! | `"xml"` | the elements (`decode::xml`) | JSON |
//! | `"hex"`, `"base64"` | the bytes that the text stands for, decoded further as `then` says | by `then`, else by its looks |
//!
//! A rule makes all its messages of a publish or none: where one cannot be made, the publish is quarantined. A rule that
//! takes a publish and makes nothing of it, because there is nothing in it, drops it.
//!
//! JSON means: UTF-8 (no byte order mark), RFC 8259, at most 128 levels deep.
//!
//! `add` puts its entries behind the last member of the object, in the order written, and leaves every other
//! byte alone. A key the payload has already gets the new value in its place. Whoever needs a field (`add`,
//! `{.field}`) needs an object, otherwise the publish is quarantined. A field that is missing leaves its
//! entry out in `add` and `props`; in `device` the publish is quarantined, as it is where the field is an object,
//! a list or null. Of a key that is there twice the last one is read.
//!
//! Numbers in `add` keep their spelling where JSON can write them so (`1e3` stays `1e3`). JSON has no dates: a TOML
//! date goes up as text, as it is written.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod answer;
mod clock;
mod command;
mod decode;
mod desired;
mod encode;
mod explain;
mod expr;
mod gzip;
mod habits;
mod index;
mod json;
mod load;
mod lookup;
mod make;
mod memory;
mod near;
mod number;
mod pattern;
mod place;
mod refusal;
mod restraint;
mod rule;
mod schema;
mod script;
mod shape;
mod template;
pub mod testing;
mod translate;
mod tuning;
mod window;

pub use answer::{Answer, Reply};
pub use clock::Doubt;
pub use command::{Commanded, Destination, Incoming, LocalPublish, Made, PassedBy, addressee};
pub use decode::{Births, Keep as KeepBirths, LeftOut, Tally as BirthsTally, rebirth};
pub use desired::{Unmade, Wish};
pub use explain::{Explanation, Step, Tried, new_rule, new_rule_for_siblings};
pub use gzip::plain_body;
pub use load::{CODES, FIRM_LINTS, FileSummary, LINTS, Loaded, is_table_file, load};
pub use memory::Memory;
pub use near::Near;
pub use restraint::HeldBack;
pub use schema::schema;
pub use translate::{Output, forward};
pub use tuning::{Tune, twin_name};
pub use window::{Again, Closed, Closing, Sequences, held_record};

use crate::message::{Event, NotARecord, Presence, Publish, Timestamp};

/// A rule of a [`RuleSet`], counted in file order from 0.
pub type RuleIndex = usize;

/// Checked rules, ready to run. Immutable; a clone is another handle to the same rules.
#[derive(Debug, Clone)]
pub struct RuleSet(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// Tells rule sets apart, so that a cache notices a reload.
    number: u64,
    hash: String,
    rules: Vec<rule::Rule>,
    index: index::Index,
    on_connect: index::Index,
    on_disconnect: index::Index,
    commands: Vec<command::Command>,
    desired: Vec<desired::Desired>,
    /// The rules with windows, by what their memory is filed under.
    windows: HashMap<Box<str>, RuleIndex>,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The output has at least one record.
    Translated,
    /// A rule says it is not wanted.
    Dropped {
        /// The rule that says so.
        rule: RuleIndex,
    },
    /// A rule took it and could not make its message. Records of rules before it are in the output.
    Quarantined {
        /// The rule that failed.
        rule: RuleIndex,
        /// Why; [`Output::detail`] has it in words.
        reason: QuarantineReason,
    },
    /// No rule matched.
    Unmatched,
}

/// Why a rule could not make its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineReason {
    /// JSON was asked for and the payload is none.
    NotJson,
    /// JSON, but nested deeper than 128 levels.
    TooDeep,
    /// A field was asked for and the payload is no JSON object.
    NotAnObject,
    /// Text was asked for and the payload is not UTF-8.
    NotText,
    /// A number was asked for and the payload is none.
    NotANumber,
    /// The payload is not what `decode` says.
    NotDecoded,
    /// A Sparkplug metric has an alias that no birth has declared.
    UnknownAlias,
    /// The table has no such key.
    LookupMiss,
    /// An expression has no value: a text where a number is needed, a division by zero.
    NotCalculable,
    /// The script ended with an error.
    ScriptFailed,
    /// The script wanted more time or room than it may have.
    ScriptLimit,
    /// The publish makes more messages than one may.
    TooMany,
    /// The device is named after a field that is missing.
    MissingField,
    /// The device is named after a field that is an object, a list or null.
    DeviceNotText,
    /// The device has no name.
    EmptyDevice,
    /// The device or a property is longer than 65,535 bytes.
    TooLong,
    /// The body of a command does not fit what `encode` says.
    NotEncoded,
    /// What a command made of its topic is none, or one of other levels.
    BadTopic,
}

impl QuarantineReason {
    /// Every reason.
    pub const ALL: [Self; 18] = [
        Self::NotJson,
        Self::TooDeep,
        Self::NotAnObject,
        Self::NotText,
        Self::NotANumber,
        Self::NotDecoded,
        Self::UnknownAlias,
        Self::LookupMiss,
        Self::NotCalculable,
        Self::ScriptFailed,
        Self::ScriptLimit,
        Self::TooMany,
        Self::MissingField,
        Self::DeviceNotText,
        Self::EmptyDevice,
        Self::TooLong,
        Self::NotEncoded,
        Self::BadTopic,
    ];

    /// The reason as a fixed word, for metrics and `want.quarantine`.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::TooDeep => "too_deep",
            Self::NotAnObject => "not_an_object",
            Self::NotText => "not_text",
            Self::NotANumber => "not_a_number",
            Self::NotDecoded => "not_decoded",
            Self::UnknownAlias => "unknown_alias",
            Self::LookupMiss => "lookup_miss",
            Self::NotCalculable => "not_calculable",
            Self::ScriptFailed => "script_failed",
            Self::ScriptLimit => "script_limit",
            Self::TooMany => "too_many",
            Self::MissingField => "missing_field",
            Self::DeviceNotText => "device_not_text",
            Self::EmptyDevice => "empty_device",
            Self::TooLong => "too_long",
            Self::NotEncoded => "not_encoded",
            Self::BadTopic => "bad_topic",
        }
    }
}

impl fmt::Display for QuarantineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl RuleSet {
    fn new(
        rules: Vec<rule::Rule>,
        (commands, desired): (Vec<command::Command>, Vec<desired::Desired>),
        hash: String,
    ) -> Result<Self, regex::Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let index = index::Index::new(&rules, None)?;
        let on_connect = index::Index::new(&rules, Some(Event::Connect))?;
        let on_disconnect = index::Index::new(&rules, Some(Event::Disconnect))?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let windows = rules.iter().enumerate().filter(|(_, rule)| rule.window().is_some());
        let windows = windows.map(|(index, rule)| (rule.state.clone(), index)).collect();
        Ok(Self(Arc::new(Rules { number, hash, rules, index, on_connect, on_disconnect, commands, desired, windows })))
    }

    /// Translates a publish. Total: any publish, an outcome. The records are in `out` until its next use, and what
    /// the rules have to remember of them is remembered. What waits in windows is in the memory of `out`, and comes
    /// with [`due`](Self::due).
    pub fn translate(&self, publish: &Publish<'_>, out: &mut Output) -> Verdict {
        let verdict = self.attempt(publish, out);
        self.settle_all(out);
        verdict
    }

    /// As [`translate`](Self::translate), but nothing counts as sent before [`settle`](Self::settle): a publish whose
    /// records find no room may be attempted again.
    pub fn attempt(&self, publish: &Publish<'_>, out: &mut Output) -> Verdict {
        translate::translate(&self.0, publish, out)
    }

    /// Translates the coming or going of a client by the rules with `on`; otherwise as [`translate`](Self::translate).
    pub fn presence(&self, presence: &Presence<'_>, out: &mut Output) -> Verdict {
        let verdict = self.attempt_presence(presence, out);
        self.settle_all(out);
        verdict
    }

    /// As [`attempt`](Self::attempt), for [`presence`](Self::presence).
    pub fn attempt_presence(&self, presence: &Presence<'_>, out: &mut Output) -> Verdict {
        translate::presence(&self.0, presence, out)
    }

    /// What was attempted last is stored: its messages count as sent from now on.
    pub fn settle(&self, out: &mut Output) {
        translate::settle(&self.0, out);
    }

    /// Puts a contribution of [`Output::held`] into its window. `sequence` is where the caller keeps it.
    pub fn hold(&self, held: &[u8], sequence: u64, memory: &Memory) -> Result<(), NotARecord> {
        translate::hold(&self.0, held, (sequence, None), memory)
    }

    /// Puts a contribution into a window that is made again as it was before a crash.
    pub fn hold_again(&self, held: &[u8], sequence: u64, again: Again, memory: &Memory) -> Result<(), NotARecord> {
        translate::hold(&self.0, held, (sequence, Some(again)), memory)
    }

    fn settle_all(&self, out: &mut Output) {
        self.settle(out);
        for (_, held) in out.held() {
            // What was just written can be read.
            let _ = self.hold(held, 0, out.memory());
        }
    }

    /// Puts the messages of all windows that have closed by `now` into `out`, as [`translate`](Self::translate) does
    /// those of a publish. For who keeps no contributions.
    pub fn due(&self, now: Timestamp, out: &mut Output) {
        out.clear();
        out.memory().close_due(now);
        translate::fetch(&self.0, out);
    }

    /// The same of all windows: nothing more comes.
    pub fn finish(&self, out: &mut Output) {
        out.clear();
        while out.memory().close_first() {}
        translate::fetch(&self.0, out);
    }

    /// True where a rule matches the topic, whatever it makes of a publish.
    pub fn takes(&self, topic: &str) -> bool {
        index::Cache::default().find(&self.0.index, &self.0.rules, topic).steps().next().is_some()
    }

    /// Says which rules were tried and why each took the publish or did not.
    pub fn explain(&self, publish: &Publish<'_>) -> Explanation {
        explain::explain(self, publish, Output::new())
    }

    /// The same where these births are known. A birth or death is taken up in them.
    pub fn explain_with(&self, publish: &Publish<'_>, births: Births) -> Explanation {
        explain::explain(self, publish, Output::sharing(&Memory::of_births(births)))
    }

    /// Why a rule lets a publish of its topics go by, where it does.
    pub fn why_let_by(&self, rule: RuleIndex) -> String {
        self.0.rules.get(rule).map(explain::why_let_by).unwrap_or_default()
    }

    /// The same for the coming or going of a client.
    pub fn explain_presence(&self, presence: &Presence<'_>) -> Explanation {
        explain::presence(self, presence)
    }

    /// What tells these rules from others: a hash of the files they were read from, see [`Loaded::hash`].
    pub fn hash(&self) -> &str {
        &self.0.hash
    }

    /// What the commands make of what comes down. Total: anything, an outcome.
    pub fn command(&self, incoming: &Incoming<'_>) -> Commanded {
        command::ask(&self.0.commands, incoming)
    }

    /// The commands that let it go by before one takes it, and why.
    pub fn passed_by(&self, incoming: &Incoming<'_>) -> Vec<(String, PassedBy)> {
        command::passed_by(&self.0.commands, incoming)
    }

    /// What every `[[desired]]` makes of the desired properties of a device, which came at this time. Total, as [`command`](Self::command).
    pub fn desired(&self, of: (&str, Timestamp), properties: &serde_json::Map<String, serde_json::Value>) -> Vec<Wish> {
        desired::wishes(&self.0.desired, of, properties)
    }

    /// True where there is a `[[desired]]`.
    pub fn takes_desired(&self) -> bool {
        !self.0.desired.is_empty()
    }

    /// True where the command of this name publishes a message once at most.
    pub fn is_once(&self, command: &str) -> bool {
        self.0.commands.iter().any(|one| one.name == command && one.once)
    }

    /// Where what comes down may be published, in file order.
    pub fn destinations(&self) -> impl Iterator<Item = Destination<'_>> {
        let commands = self.0.commands.iter().map(|command| command.destination("[[command]]"));
        commands.chain(self.0.desired.iter().map(|desired| desired.command.destination("[[desired]]")))
    }

    /// True where a command takes cloud-to-device messages.
    pub fn takes_messages(&self) -> bool {
        self.0.commands.iter().any(|command| command.method.is_none())
    }

    /// True where a command takes direct methods.
    pub fn takes_methods(&self) -> bool {
        self.0.commands.iter().any(|command| command.method.is_some())
    }

    /// True where this topic is one on which a command may be answered.
    pub fn is_answer(&self, topic: &str) -> bool {
        let mut filters = self.0.commands.iter().filter_map(command::Command::answers);
        filters.any(|filter| crate::topic::matches(filter, topic))
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.0.rules.len()
    }

    /// True where there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.rules.is_empty()
    }

    /// The name of a rule; empty for an index this set does not have.
    pub fn name(&self, rule: RuleIndex) -> &str {
        self.0.rules.get(rule).map_or("", |rule| &rule.name)
    }

    /// True where the messages of a rule go up before those of others.
    pub fn is_urgent(&self, rule: RuleIndex) -> bool {
        self.0.rules.get(rule).is_some_and(|rule| rule.urgent)
    }

    /// How often the twin is changed at most, where a rule makes changes of reported properties and no messages.
    pub fn reported(&self, rule: RuleIndex) -> Option<Duration> {
        let message = self.0.rules.get(rule)?.action.message()?;
        let every = message.reported.as_ref()?.every;
        Some(Duration::from_millis(u64::try_from(every).unwrap_or(0)))
    }

    /// True where some rule changes reported properties.
    pub fn has_reported(&self) -> bool {
        (0..self.0.rules.len()).any(|rule| self.reported(rule).is_some())
    }

    /// True where some rule knows metrics by the aliases that births gave them.
    pub fn hears_births(&self) -> bool {
        let formats = self.0.rules.iter().filter_map(|rule| rule.action.message()?.decode.as_ref());
        formats.into_iter().any(rule::Decode::is_sparkplug)
    }

    /// True where a rule may hold messages back for what was sent before.
    pub fn restrains(&self, rule: RuleIndex) -> bool {
        let action = self.0.rules.get(rule).map(|rule| &rule.action);
        matches!(action, Some(rule::Action::Send(message)) if message.restraint.is_some())
    }

    /// True where a rule may leave values out because of their quality.
    pub fn grades(&self, rule: RuleIndex) -> bool {
        let message = self.0.rules.get(rule).and_then(|rule| rule.action.message());
        message.and_then(|message| message.decode.as_ref()).is_some_and(rule::Decode::grades)
    }

    /// What a rule does with its messages over time, in words: a line for each key that remembers.
    pub fn habits(&self, rule: RuleIndex) -> Vec<String> {
        match self.0.rules.get(rule).map(|rule| &rule.action) {
            Some(rule::Action::Send(message)) => habits::of(message),
            _ => Vec::new(),
        }
    }

    /// True where the messages of a rule wait in windows.
    pub fn combines(&self, rule: RuleIndex) -> bool {
        self.0.rules.get(rule).is_some_and(|rule| rule.window().is_some())
    }

    /// True where the messages of some rule go up first.
    pub fn has_urgent(&self) -> bool {
        self.0.rules.iter().any(|rule| rule.urgent)
    }

    /// The name of each rule and its topic, regex or client as it is written, in file order.
    pub fn patterns(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.rules.iter().map(|rule| (rule.name.as_str(), rule.written.as_str()))
    }

    /// The names of all rules, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.rules.iter().map(|rule| rule.name.as_str())
    }
}
