//! Runs the `[[test]]`s that stand beside the rules, through the same `translate` as the plant's messages.
//!
//! | key | meaning |
//! |---|---|
//! | `topic`, `client` | of the publish; the client is `test` where none is named |
//! | `user`, `qos`, `retained`, `at` | of the publish too; nobody, 1, false, and how long after the test's begin it comes |
//! | `send = [ {..}, .. ]` | several publishes, each with the keys above; what it does not say is as in the test itself |
//! | `payload`, `payload_hex` | its payload, as text or as hexadecimal digits; empty where there is neither |
//! | `on`, `address`, `reason` | instead of `topic`: the client comes (`"connect"`) or goes (`"disconnect"`); from 192.0.2.1, with `connection_lost`, where nothing else is said |
//! | `name` | how the test is called; its number and topic where there is none |
//! | `want.device`, `want.payload`, `want.time`, `want.props.x` | one message is made, and this is in it |
//! | `want.priority` | `"high"` or `"normal"`: the message is made by a rule with this `priority` |
//! | `want.to` | `"reported"` or `"telemetry"`: it goes into the twin, or is a message; `want.payload` is then the whole change |
//! | `want = [ {..}, .. ]` | these messages are made, in this order |
//! | `want.count = 3` | so many messages are made, of all publishes together |
//! | `want.nothing = true` | no message is made, and nothing is quarantined |
//! | `want.quarantine = "reason"` | a rule takes it and fails for this reason ([`QuarantineReason::label`]) |
//!
//! A test of a command has `command` instead of `topic`: `command.device` (`test` where there is none), `command.method`,
//! `command.id`, `command.props.x`, `command.payload` or `command.payload_hex`. It wants `want.topic`, `want.payload`,
//! `want.qos`, `want.retain` and `want.answer` (the topic on which an answer is awaited), several publishes as a list,
//! `want.nothing = true` where no command takes it, or `want.refused = "reason"`.
//! A test of desired properties has `desired.device` and `desired.properties`, a JSON object as text, and wants the same; the
//! publishes are in the order of the names of the properties.
//! Windows close at the time of the publishes, and all that are open at the end of the test.
//!
//! The clock of a test stands at 2026-01-01T00:00:00.000Z, or where its `clock` says, and each test begins with no memory of the others. Payloads are compared as JSON where both sides
//! are JSON (the order of members and white space do not count), otherwise as text; compressed ones as they were before.

use serde_json::Value;

use super::{Output, QuarantineReason, RuleSet, Step, Verdict, plain_body};
use crate::diag::{Diagnostic, Span};
use crate::message::{Event, HubMessage, Publish, Timestamp};
use course::Course;

mod command;
mod course;

pub(super) use command::{CommandTest, WantAnswer, WantCommand, WantPublish, no_messages};

/// The moment at which tests receive their messages.
pub const TEST_TIME: Timestamp = Timestamp(1_767_225_600_000);

/// A `[[test]]`.
#[derive(Debug, Clone)]
pub struct Test {
    /// Index of its file.
    pub file: usize,
    /// Its name, or its number and topic.
    pub name: String,
    /// What the client does, where nothing is published.
    pub(super) on: Option<On>,
    /// What is published, one after the other.
    pub(super) sent: Vec<Sent>,
    pub(super) want: Want,
    /// What comes down, where that is tested.
    pub(super) command: Option<Box<CommandTest>>,
}

/// One publish of a test.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) topic: String,
    pub(super) topic_span: Span,
    pub(super) client: String,
    pub(super) user: Option<String>,
    pub(super) payload: Vec<u8>,
    pub(super) qos: u8,
    pub(super) retained: bool,
    /// When the test begins.
    pub(super) clock: Timestamp,
    /// Milliseconds after that.
    pub(super) at: i64,
}

impl Sent {
    fn publish(&self) -> Publish<'_> {
        Publish {
            topic: &self.topic,
            payload: &self.payload,
            client: &self.client,
            user: self.user.as_deref(),
            qos: self.qos,
            retain: self.retained,
            received: Timestamp(self.clock.0.saturating_add(self.at)),
        }
    }
}

/// The coming or going of the test's client.
#[derive(Debug, Clone)]
pub(super) struct On {
    pub(super) event: Event,
    pub(super) address: String,
    pub(super) reason: String,
}

#[derive(Debug, Clone)]
pub(super) enum Want {
    Messages(Vec<WantMessage>),
    /// So many, whatever is in them.
    Count(usize, Span),
    Nothing(Span),
    Quarantine(QuarantineReason, Span),
}

#[derive(Debug, Clone)]
pub(super) struct WantMessage {
    pub(super) span: Span,
    pub(super) device: Option<(String, Span)>,
    pub(super) payload: Option<(String, Span)>,
    pub(super) time: Option<(String, Span)>,
    pub(super) urgent: Option<(bool, Span)>,
    pub(super) reported: Option<(bool, Span)>,
    pub(super) props: Vec<(String, String, Span)>,
}

impl WantMessage {
    /// The place of the first thing that is wanted of the message.
    pub(super) fn first_place(&self) -> Option<Span> {
        let texts = self.device.iter().chain(&self.payload).chain(&self.time).map(|(_, span)| span);
        let urgent = self.urgent.iter().chain(&self.reported).map(|(_, span)| span);
        texts.chain(urgent).chain(self.props.iter().map(|(_, _, span)| span)).next().cloned()
    }
}

/// How a test went.
#[derive(Debug, Clone)]
pub struct TestResult {
    /// Index of its file.
    pub file: usize,
    /// Its name.
    pub name: String,
    /// What is wrong; nothing where it passed.
    pub failures: Vec<Diagnostic>,
}

impl TestResult {
    /// True where nothing is wrong.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Runs tests in the order given.
pub fn run(rules: &RuleSet, tests: &[Test]) -> Vec<TestResult> {
    let run = |test: &Test| TestResult { file: test.file, name: test.name.clone(), failures: run_one(rules, test) };
    tests.iter().map(run).collect()
}

/// How a message goes up, and what it is.
type Made<'a> = (How, HubMessage<'a>);

/// What the rule of a message says about its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) urgent: bool,
    /// It goes into the twin.
    pub(super) reported: bool,
}

fn run_one(rules: &RuleSet, test: &Test) -> Vec<Diagnostic> {
    if let Some(command) = &test.command {
        let title = format!("test `{}` failed", test.name);
        let tell = |(span, label)| Diagnostic::error("test-failed", &title, test.file).at(span, label);
        return command::run(rules, command).into_iter().map(tell).collect();
    }
    let mut out = Output::new();
    let Course { records, verdict, last, nothing, doubts, steps } = Course::play(rules, test, &mut out);
    let Some(last) = last else { return Vec::new() };
    let parsed = records.iter().map(|(how, record)| Some((*how, HubMessage::parse(record).ok()?)));
    let made: Vec<Made<'_>> = parsed.flatten().collect();
    let came = || match (verdict, made.len()) {
        (Verdict::Translated, 1) => "a message is made".to_owned(),
        (Verdict::Translated, made) => format!("{made} messages are made"),
        _ => nothing.clone(),
    };
    let mut wrong: Vec<(Span, String)> = Vec::new();
    match (&test.want, verdict) {
        (Want::Quarantine(want, _), Verdict::Quarantined { reason, .. }) if *want == reason => {}
        (Want::Nothing(_), Verdict::Dropped { .. } | Verdict::Unmatched) => {}
        (Want::Quarantine(_, span) | Want::Nothing(span), _) => wrong.push((span.clone(), came())),
        (Want::Messages(_) | Want::Count(..), Verdict::Quarantined { .. }) => {
            wrong.push((last.topic_span.clone(), came()));
        }
        (Want::Count(want, span), _) if *want != made.len() => {
            let why = if made.is_empty() { format!(": {}", came()) } else { String::new() };
            wrong.push((span.clone(), format!("{}{why}", want_other(*want, made.len()))));
        }
        (Want::Count(..), _) => {}
        (Want::Messages(_), Verdict::Unmatched | Verdict::Dropped { .. }) => {
            wrong.push((last.topic_span.clone(), came()));
        }
        (Want::Messages(wants), Verdict::Translated) => compare(wants, &made, &last.topic_span, &mut wrong),
    }
    let tell = |(span, label)| {
        let title = format!("test `{}` failed", test.name);
        let mut found = Diagnostic::error("test-failed", title, test.file).at(span, label);
        if test.on.is_none() {
            let several = test.sent.len() > 1;
            for line in background(rules, &last.publish(), !several) {
                found = found.help(line);
            }
        }
        for line in steps.iter().chain(&doubts) {
            found = found.help(line);
        }
        match out.advice() {
            Some(advice) => found.help(format!("the rule could say {advice}")),
            None => found,
        }
    };
    wrong.into_iter().map(tell).collect()
}

/// What became of a publish of which nothing was made.
fn nothing(rules: &RuleSet, verdict: Verdict, on: bool, out: &Output) -> String {
    match verdict {
        Verdict::Translated => String::new(),
        Verdict::Dropped { rule } if out.let_by().contains(&rule) => {
            format!("rule `{}` lets it go by: {}", rules.name(rule), rules.why_let_by(rule))
        }
        Verdict::Dropped { rule } => match out.held_back().first() {
            Some((_, why)) => format!("rule `{}` holds it back: {why}", rules.name(rule)),
            None if out.clears_retained() => "it only takes the retained message away".to_owned(),
            None => match out.nothing_left(rule) {
                Some(left_out) => format!("rule `{}` has nothing to send: {left_out}", rules.name(rule)),
                None => format!("rule `{}` drops it", rules.name(rule)),
            },
        },
        Verdict::Quarantined { reason, .. } => format!("quarantined as {reason}: {}", out.detail()),
        Verdict::Unmatched if on => "no rule with this `on` takes this client".to_owned(),
        Verdict::Unmatched => "no rule takes this topic".to_owned(),
    }
}

/// Which rules took the publish, and the payload they saw, unless that is told elsewhere.
fn background(rules: &RuleSet, publish: &Publish<'_>, with_payload: bool) -> Vec<String> {
    let (mut lines, mut decoded) = (Vec::new(), Vec::new());
    for tried in rules.explain(publish).tried {
        let (takes, captures) = match tried.step {
            Step::Took { captures } => ("takes it", captures),
            Step::LetBy { captures, .. } => ("takes the topic", captures),
            _ => continue,
        };
        let names: serde_json::Map<String, Value> =
            captures.into_iter().map(|(name, text)| (name, Value::String(text))).collect();
        lines.push(format!("rule `{}` {takes}: {}", tried.name, Value::Object(names)));
        decoded.extend(tried.decoded.into_iter().map(|object| format!("  decoded  {object}")));
    }
    if with_payload && !lines.is_empty() {
        let payload = match serde_json::from_slice::<Value>(publish.payload) {
            Ok(json) => json.to_string(),
            Err(_) => String::from_utf8_lossy(publish.payload).into_owned(),
        };
        lines.push(format!("  payload  {payload}"));
        lines.append(&mut decoded);
    }
    lines
}

fn want_other(want: usize, got: usize) -> String {
    let messages = if want == 1 { "message" } else { "messages" };
    format!("want {want} {messages}, got {got}")
}

fn compare(wants: &[WantMessage], made: &[Made<'_>], topic: &Span, wrong: &mut Vec<(Span, String)>) {
    if wants.len() != made.len() {
        let label = want_other(wants.len(), made.len());
        wrong.push((wants.first().map_or(topic.clone(), |want| want.span.clone()), label));
    }
    for (want, (How { urgent, reported }, got)) in wants.iter().zip(made) {
        if let Some((device, span)) = &want.device
            && device != got.device
        {
            wrong.push((span.clone(), format!("got \"{}\"", got.device)));
        }
        if let Some((payload, span)) = &want.payload {
            let differences = differences(payload, &plain_body(got));
            if !differences.is_empty() {
                wrong.push((span.clone(), differences.join("; ")));
            }
        }
        if let Some((time, span)) = &want.time
            && *time != got.created.to_string()
        {
            wrong.push((span.clone(), format!("got \"{}\"", got.created)));
        }
        if let Some((want, span)) = &want.urgent
            && want != urgent
        {
            wrong.push((span.clone(), format!("got \"{}\"", if *urgent { "high" } else { "normal" })));
        }
        if let Some((want, span)) = &want.reported
            && want != reported
        {
            wrong.push((span.clone(), format!("got \"{}\"", if *reported { "reported" } else { "telemetry" })));
        }
        for (name, value, span) in &want.props {
            match got.properties().find(|(got, _)| got == name) {
                Some((_, got)) if got == value => {}
                Some((_, got)) => wrong.push((span.clone(), format!("got \"{got}\""))),
                None => wrong.push((span.clone(), format!("there is no property `{name}`"))),
            }
        }
    }
}

/// What is different between the payload a test wants and the one it got.
fn differences(want: &str, got: &[u8]) -> Vec<String> {
    if want.as_bytes() == got {
        return Vec::new();
    }
    let mut found = Vec::new();
    match (serde_json::from_str(want), serde_json::from_slice(got)) {
        (Ok(wanted), Ok(got)) => differ(want, "", (&wanted, &got), &mut found),
        _ => found.push(format!("got {}", String::from_utf8_lossy(got))),
    }
    found
}

/// Tells the fields in the order in which `text` has what is wanted.
fn differ(text: &str, path: &str, (want, got): (&Value, &Value), found: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            let mut members: Vec<(&String, &Value)> = want.iter().collect();
            members.sort_by_cached_key(|(key, _)| text.find(&format!("\"{key}\"")));
            for (key, value) in members {
                let path = join(path, key);
                match got.get(key) {
                    Some(got) => differ(text, &path, (value, got), found),
                    None => found.push(format!("field `{path}` is missing")),
                }
            }
            for (key, value) in got.iter().filter(|(key, _)| !want.contains_key(*key)) {
                found.push(format!("extra field `{}`: {value}", join(path, key)));
            }
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            for (index, (want, got)) in want.iter().zip(got).enumerate() {
                differ(text, &join(path, &index.to_string()), (want, got), found);
            }
        }
        (want, got) if same(want, got) => {}
        (want, got) if path.is_empty() => found.push(format!("want {want}, got {got}")),
        (want, got) => found.push(format!("field `{path}`: want {want}, got {got}")),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Equal as JSON; 75 and 75.0 are the same number.
fn same(want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => a.as_f64() == b.as_f64(),
        (want, got) => want == got,
    }
}
