//! `brownbridge explain`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::check::{could_not_run, print, print_findings, read_rule_files};
use crate::amount::{count, of_len};
use crate::app::text_file;
use crate::hub::bag::{self, BagError, Property};
use crate::hub::connect::Identity;
use crate::hub::d2c;
use crate::message::{Event, HubMessage, Presence, Publish, Timestamp};
use crate::rules::{self, Explanation, Output, QuarantineReason, RuleSet, Step, Verdict};
use crate::topic;

mod command;
mod fence;
mod identity;

use identity::{Configured, Identities};

/// Says which rule takes a topic, or the coming or going of a client, and what the hub would receive.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  brownbridge explain plant1/packaging/wrapper3/speed --payload '{\"rpm\": 1450}'\n  \
    brownbridge explain --on disconnect --client plc-line4-7 --reason keep_alive_timeout\n  \
    brownbridge explain --command press7 --prop kind=setpoint --payload '{\"value\": 12}'\n\n\
    Exit code: 0 it goes up or is dropped, 1 it is quarantined, kept out by [commands] or the rules have errors, 2 no rule\n\
    matched or could not run."
)]
pub(super) struct Args {
    /// The topic of a publish.
    #[arg(required_unless_present_any = ["on", "command", "desired"], conflicts_with_all = ["on", "command", "desired"])]
    topic: Option<String>,
    /// Instead of a publish: a message of the hub for this device, or a method with --method.
    #[arg(long, value_name = "DEVICE", conflicts_with = "on")]
    command: Option<String>,
    /// Instead of a publish: what is desired of this device, as JSON in --payload.
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["on", "command"])]
    desired: Option<String>,
    /// The direct method that is called on the device of --command.
    #[arg(long, value_name = "NAME", requires = "command")]
    method: Option<String>,
    /// A property of the message, kind=setpoint; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", allow_hyphen_values = true, requires = "command")]
    prop: Vec<String>,
    /// The message id, or the request id of the method.
    #[arg(long, value_name = "ID", requires = "command", default_value = "1")]
    id: String,
    /// Instead of a publish: a client comes or goes.
    #[arg(long, value_enum, value_name = "EVENT")]
    on: Option<On>,
    /// The address the client of --on comes from.
    #[arg(long, value_name = "IP", requires = "on", default_value = "192.0.2.1")]
    address: String,
    /// Why the client of --on disconnect goes: disconnect, keep_alive_timeout.
    #[arg(long, value_name = "REASON", requires = "on", default_value = "connection_lost")]
    reason: String,
    /// The user name of the publisher.
    #[arg(long, value_name = "NAME", conflicts_with = "on")]
    user: Option<String>,
    /// The QoS of the publish: 0, 1 or 2.
    #[arg(long, value_name = "QOS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(..=2), conflicts_with = "on")]
    qos: u8,
    /// The publish is retained.
    #[arg(long, conflicts_with = "on")]
    retained: bool,
    /// The payload of the publish, or of what comes down.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["payload_file", "on"])]
    payload: Option<String>,
    /// Reads the payload from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "on")]
    payload_file: Option<PathBuf>,
    /// The payload as hexadecimal digits: "00 1f a0"
    #[arg(long, value_name = "DIGITS", value_parser = digits, conflicts_with_all = ["payload", "payload_file", "on"])]
    payload_hex: Option<Digits>,
    /// The client id of the publisher.
    #[arg(long, value_name = "ID", default_value = "client")]
    client: String,
    /// A rule file, or a folder of rule files; may be given several times.
    #[arg(long, value_name = "PATH", default_value = "rules")]
    rules: Vec<PathBuf>,
    /// When it comes: 2026-11-21T06:00:00Z; now, where nothing is said.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Timestamp>,
    /// Takes the rules of this configuration instead, and the Sparkplug births its bridge has kept; says under which
    /// identity a message goes up
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rules", "gateway"])]
    config: Option<PathBuf>,
    /// Shows every rule that was tried, not only the nearest.
    #[arg(long)]
    all: bool,
    /// The device id of the bridge itself, or DEVICE/MODULE, for the hub topic.
    #[arg(long, value_name = "ID", default_value = "GATEWAY")]
    gateway: String,
    /// Prints the explanation as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// What a client does.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum On {
    /// It connects.
    Connect,
    /// Its connection ends.
    Disconnect,
}

pub(super) fn run(args: Args) -> ExitCode {
    let topic = args.topic.as_deref().unwrap_or_default();
    let down = args.command.is_some() || args.desired.is_some();
    if let (None, false, Err(error)) = (args.on, down, topic::check_name(topic)) {
        return could_not_run(&error.to_string());
    }
    let given = args.payload.map(String::into_bytes).or(args.payload_hex.map(|Digits(payload)| payload));
    let payload = match (given, &args.payload_file) {
        (given, None) => given,
        (_, Some(path)) => match std::fs::read(path) {
            Ok(payload) => Some(payload),
            Err(error) => return could_not_run(&text_file::cannot_read(path, &error)),
        },
    };
    let configured = match args.config.as_deref().map(identity::load).transpose() {
        Ok(configured) => configured,
        Err(code) => return code,
    };
    let gateway = configured.as_ref().and_then(|configured| configured.gateway.clone()).unwrap_or(args.gateway);
    if let Some(bag) = d2c::addressed(topic, own(&gateway)) {
        let addressed = Addressed { topic, bag, payload: payload.as_deref().unwrap_or_default() };
        return addressed.tell(args.json);
    }
    let (set, identities, births, fence) = match configured {
        Some(Configured { rules, identities, births, fence, .. }) => (rules, identities, Some(births), Some(fence)),
        None => match load(&args.rules) {
            Ok(set) => (set, None, None, None),
            Err(code) => return code,
        },
    };
    let received = args.at.unwrap_or_else(Timestamp::now);
    let set = &set;
    if let Some(device) = &args.desired {
        let down = command::Desired { device, received, fence: fence.as_ref() };
        return down.tell(set, payload.as_deref().unwrap_or(b"{}"), args.json);
    }
    if let Some(device) = &args.command {
        let (payload, method) = (payload.as_deref().unwrap_or_default(), args.method.as_deref());
        let fence = fence.as_ref();
        let down = command::Down { asked: device, fence, method, id: &args.id, payload, received };
        return down.tell(set, &args.prop, args.json);
    }
    let presence = args.on.map(|on| Presence {
        event: match on {
            On::Connect => Event::Connect,
            On::Disconnect => Event::Disconnect,
        },
        client: &args.client,
        address: &args.address,
        reason: if matches!(on, On::Disconnect) { &args.reason } else { "" },
        at: received,
    });
    let publish = Publish {
        topic,
        payload: payload.as_deref().unwrap_or_default(),
        client: &args.client,
        user: args.user.as_deref(),
        qos: args.qos,
        retain: args.retained,
        received,
    };
    let explanation = match &presence {
        Some(presence) => set.explain_presence(presence),
        None => set.explain_with(&publish, births.clone().unwrap_or_default()),
    };
    let told = Told {
        set,
        publish: &publish,
        presence,
        explanation: &explanation,
        gateway: &gateway,
        identities: identities.as_ref(),
        has_payload: payload.is_some(),
        knows_births: births.is_some(),
        all: args.all,
    };
    print(&if args.json { told.as_json() } else { told.in_words() });
    match explanation.verdict {
        Verdict::Translated | Verdict::Dropped { .. } => ExitCode::SUCCESS,
        Verdict::Quarantined { .. } => ExitCode::from(1),
        Verdict::Unmatched => ExitCode::from(2),
    }
}

/// A moment as a user writes it.
fn moment(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| "write it as 2026-11-21T06:00:00Z".to_owned())?;
    Ok(Timestamp(time.as_millisecond()))
}

/// The rules of some files.
fn load(rules: &[PathBuf]) -> Result<RuleSet, ExitCode> {
    let sources =
        read_rule_files(rules, "brownbridge explain TOPIC --rules PATH").map_err(|problem| could_not_run(&problem))?;
    let loaded = rules::load(&sources);
    loaded.rules.ok_or_else(|| {
        print_findings(&loaded.diagnostics, &sources);
        ExitCode::from(1)
    })
}

struct Told<'a> {
    set: &'a RuleSet,
    publish: &'a Publish<'a>,
    presence: Option<Presence<'a>>,
    explanation: &'a Explanation,
    gateway: &'a str,
    /// Where a configuration says that devices have identities of their own.
    identities: Option<&'a Identities>,
    has_payload: bool,
    /// False where a running bridge may know births that are not known here.
    knows_births: bool,
    all: bool,
}

/// Rules that did not take the topic are shown up to this many.
const SHOWN: usize = 5;

impl Told<'_> {
    /// The topic a message goes up on. Its id is made when it is stored.
    fn hub_topic(&self, message: &HubMessage<'_>) -> String {
        let has_own = self.identities.is_some_and(|identities| identities.has(message.device));
        let there = self.identities.filter(|_| has_own).and_then(|identities| identities.there(message.device));
        let device = there.as_deref().unwrap_or(message.device);
        let (device, module) = if has_own { (device, None) } else { own(self.gateway) };
        let identity = Identity { hub: "", device, module };
        let mut topic = String::new();
        d2c::push_topic(
            &mut topic,
            &d2c::Sender { identity, gateway: !has_own, replayed: false },
            message,
            "MESSAGE-ID",
        );
        topic
    }

    fn in_words(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_tried(&mut out).and_then(|()| self.write_outcome(&mut out));
        out
    }

    fn write_tried(&self, out: &mut String) -> fmt::Result {
        match &self.presence {
            None => writeln!(out, "topic {}", self.publish.topic)?,
            Some(Presence { event: Event::Connect, client, address, .. }) => {
                writeln!(out, "client {client} connects from {address}")?;
            }
            Some(Presence { client, address, reason, .. }) => {
                writeln!(out, "client {client} at {address} goes: {reason}")?;
            }
        }
        if !self.explanation.tried.is_empty() {
            writeln!(out, "\nrules tried, in order")?;
        }
        let shown = self.shown();
        for tried in shown.iter().filter_map(|at| self.explanation.tried.get(*at)) {
            writeln!(out, "  {} ({}:{})  {}", tried.name, tried.path, tried.line, tried.pattern)?;
            writeln!(out, "    {}", tried.step.in_words())?;
            if let Step::Took { captures } | Step::LetBy { captures, .. } = &tried.step {
                for (name, text) in captures {
                    writeln!(out, "    {{{name}}} = {text}")?;
                }
            }
            tried.decoded.iter().try_for_each(|object| writeln!(out, "    decoded  {object}"))?;
        }
        match self.explanation.tried.len() - shown.len() {
            0 => Ok(()),
            1 => writeln!(out, "  and 1 more that does not take it (--all shows it)"),
            more => writeln!(out, "  and {more} more that do not take it (--all shows them)"),
        }
    }

    /// The places in `tried` of the rules to show: those that took the topic, and the nearest of the others.
    fn shown(&self) -> Vec<usize> {
        let tried = &self.explanation.tried;
        let took = |at: &usize| {
            tried.get(*at).is_some_and(|tried| matches!(tried.step, Step::Took { .. } | Step::LetBy { .. }))
        };
        let (mut shown, mut others): (Vec<usize>, Vec<usize>) = (0..tried.len()).partition(took);
        if !self.all {
            others.sort_by_key(|at| tried.get(*at).map(|tried| std::cmp::Reverse(tried.likeness)));
            others.truncate(SHOWN);
        }
        shown.append(&mut others);
        shown.sort_unstable();
        shown
    }

    /// Where a rule wants what no payload was given for: how to give one.
    fn payload_missing(&self) -> Option<&'static str> {
        match self.explanation.verdict {
            _ if self.has_payload => None,
            Verdict::Quarantined { reason: QuarantineReason::NotANumber, .. } => {
                Some("no payload was given: add --payload '21.5'")
            }
            Verdict::Quarantined { reason: QuarantineReason::NotAnObject | QuarantineReason::NotJson, .. } => {
                Some("no payload was given: add --payload '{\"value\": 1}'")
            }
            _ => None,
        }
    }

    /// Why it goes to the quarantine.
    fn detail(&self) -> &str {
        match self.explanation.verdict {
            Verdict::Quarantined { reason: QuarantineReason::UnknownAlias, .. } if !self.knows_births => {
                "explain knows no births: with --config it reads those the bridge keeps"
            }
            _ => self.payload_missing().unwrap_or(self.explanation.output.detail()),
        }
    }

    fn write_outcome(&self, out: &mut String) -> fmt::Result {
        let (set, output) = (self.set, &self.explanation.output);
        for (rule, record) in output.records() {
            let first = if set.is_urgent(rule) { ", to go before others (priority high)" } else { "" };
            let what = if set.reported(rule).is_some() { "change of the twin" } else { "message" };
            writeln!(out, "\n{what} from rule `{}`{first}", set.name(rule))?;
            self.write_message(out, record)?;
            set.habits(rule).iter().try_for_each(|habit| writeln!(out, "  and then    {habit}"))?;
        }
        for (rule, held) in output.held() {
            let first = if set.is_urgent(rule) { ", to go before others (priority high)" } else { "" };
            writeln!(out, "\nfor a window of rule `{}`{first}; alone it would be", set.name(rule))?;
            self.write_message(out, rules::held_record(held))?;
            set.habits(rule).iter().try_for_each(|habit| writeln!(out, "  and then    {habit}"))?;
        }
        for (rule, doubt) in output.doubts() {
            writeln!(out, "\nrule `{}` does not take the time: {doubt}", set.name(rule))?;
        }
        for (rule, left_out) in output.left_out() {
            writeln!(out, "\nrule `{}`: {left_out}", set.name(*rule))?;
        }
        match self.explanation.verdict {
            Verdict::Translated => Ok(()),
            Verdict::Dropped { rule } if output.let_by().contains(&rule) => {
                writeln!(out, "\nnothing is sent: rule `{}` lets it go by, and no other takes it", set.name(rule))
            }
            Verdict::Dropped { .. } if output.clears_retained() => {
                writeln!(out, "\nnothing is sent: an empty retained publish only takes the retained message away")
            }
            Verdict::Dropped { rule } if output.nothing_left(rule).is_some() => {
                writeln!(out, "\nnothing is sent: there is nothing else in the payload")
            }
            Verdict::Dropped { rule } => writeln!(out, "\nnothing is sent: rule `{}` drops it", set.name(rule)),
            Verdict::Quarantined { rule, reason } => {
                let name = set.name(rule);
                if let Some(missing) = self.payload_missing() {
                    return writeln!(out, "\nrule `{name}` needs a payload ({reason}): {missing}");
                }
                writeln!(out, "\nrule `{name}` puts it into quarantine ({reason}): {}", self.detail())?;
                match output.advice() {
                    Some(advice) => writeln!(out, "the rule could say: {advice}"),
                    None => Ok(()),
                }
            }
            Verdict::Unmatched => self.write_unmatched(out),
        }
    }

    fn write_unmatched(&self, out: &mut String) -> fmt::Result {
        let explanation = self.explanation;
        if let Some(presence) = &self.presence {
            let on = if presence.event == Event::Connect { "connect" } else { "disconnect" };
            return writeln!(out, "\nno rule with on = \"{on}\" takes this client: nothing is sent");
        }
        writeln!(out, "\nno rule takes this topic")?;
        if let Some(near) = explanation.nearest.and_then(|nearest| explanation.tried.get(nearest)) {
            writeln!(out, "nearest: {} ({}:{}), but {}", near.name, near.path, near.line, near.step.in_words())?;
            if let Some(both) = self.set.with_both(near.rule, self.publish.topic) {
                writeln!(out, "         with topic = {both:?} it would take this one, too")?;
            }
        }
        if let Some(id) = addressee(self.publish.topic) {
            writeln!(
                out,
                "if `{id}` is the device id of the bridge itself, it goes up as it is: --gateway {id} shows how"
            )?;
        }
        let mut forwarded = Output::new();
        rules::forward(self.publish, &mut forwarded);
        if let Some((_, record)) = forwarded.records().next() {
            writeln!(out, "\nwith `unmatched = \"forward\"` (the default) the hub receives")?;
            self.write_message(out, record)?;
        }
        write!(out, "\na rule that would:\n\n{}", rules::new_rule(self.publish.topic, self.publish.payload))
    }

    fn write_message(&self, out: &mut String, record: &[u8]) -> fmt::Result {
        let Ok(message) = HubMessage::parse(record) else { return Ok(()) };
        writeln!(out, "  hub topic   {}", self.hub_topic(&message))?;
        if !message.device.is_empty() {
            writeln!(out, "  device      {}", message.device)?;
        }
        if let Some(identities) = self.identities.filter(|identities| identities.has(message.device)) {
            identities.write(out, message.device)?;
        }
        for (name, value) in message.properties() {
            writeln!(out, "  property    {name} = {value}")?;
        }
        if message.created != self.publish.received {
            writeln!(out, "  time        {}", message.created)?;
        }
        if let Some(kind) = message.content.content_type() {
            let encoding = message.content.encoding().map_or(String::new(), |encoding| format!("; {encoding}"));
            writeln!(out, "  content     {kind}{encoding}")?;
        }
        let plain = rules::plain_body(&message);
        if plain.len() != message.body.len() {
            writeln!(
                out,
                "  compressed  {} to {}",
                of_len(plain.len(), "byte", "bytes"),
                count(message.body.len() as u64)
            )?;
        }
        write_body(out, &plain)
    }

    fn as_json(&self) -> String {
        let (set, explanation) = (self.set, self.explanation);
        let tried = explanation.tried.iter().map(|tried| {
            let captures = match &tried.step {
                Step::Took { captures } => Some(captures.iter().cloned().collect::<BTreeMap<_, _>>()),
                _ => None,
            };
            json!({
                "rule": tried.name, "path": tried.path, "line": tried.line, "pattern": tried.pattern,
                "took": captures.is_some(), "why": tried.step.in_words(), "captures": captures, "decoded": tried.decoded,
            })
        });
        let held = explanation.output.held().map(|(rule, held)| (rule, rules::held_record(held), true));
        let records = explanation.output.records().map(|(rule, record)| (rule, record, false));
        let messages = records.chain(held).filter_map(|(rule, record, waits)| {
            let message = HubMessage::parse(record).ok()?;
            let identity = self.identities.filter(|identities| identities.has(message.device));
            let identity = identity.map(|identities| identities.as_json(message.device));
            Some(json!({
                "identity": identity,
                "rule": set.name(rule), "waits_in_window": waits, "device": message.device, "properties": message.properties().collect::<Vec<_>>(),
                "content_type": message.content.content_type(), "content_encoding": message.content.encoding(),
                "to": if set.reported(rule).is_some() { "reported" } else { "telemetry" },
                "priority": if set.is_urgent(rule) { "high" } else { "normal" },
                "hub_topic": self.hub_topic(&message), "time": message.created.to_string(), "body_bytes": message.body.len(),
                "body": std::str::from_utf8(message.body).ok(), "body_hex": body_hex(message.body),
            }))
        });
        let (verdict, rule, reason) = match explanation.verdict {
            Verdict::Translated => ("translated", None, None),
            Verdict::Dropped { rule } => ("dropped", Some(set.name(rule)), None),
            Verdict::Quarantined { rule, reason } => ("quarantined", Some(set.name(rule)), Some(reason.label())),
            Verdict::Unmatched => ("unmatched", None, None),
        };
        let nearest = explanation.nearest.and_then(|nearest| explanation.tried.get(nearest));
        let told = json!({
            "topic": self.presence.is_none().then_some(self.publish.topic),
            "client": self.publish.client, "verdict": verdict, "rule": rule, "reason": reason,
            "detail": self.detail(),
            "advice": explanation.output.advice().filter(|_| self.payload_missing().is_none()),
            "tried": tried.collect::<Vec<_>>(), "messages": messages.collect::<Vec<_>>(),
            "nearest": nearest.map(|tried| tried.name.as_str()),
            "nearest_for_both": nearest.and_then(|tried| set.with_both(tried.rule, self.publish.topic)),
            "new_rule": (verdict == "unmatched" && self.presence.is_none()).then(|| rules::new_rule(self.publish.topic, self.publish.payload)),
        });
        format!("{told}\n")
    }
}

/// Device and module of the bridge itself.
fn own(gateway: &str) -> (&str, Option<&str>) {
    gateway.split_once('/').map_or((gateway, None), |(device, module)| (device, Some(module)))
}

/// The identity in a topic of the hub's own form, as `--gateway` takes it.
fn addressee(topic: &str) -> Option<String> {
    let mut levels = topic.strip_prefix("devices/")?.split('/');
    let device = levels.next()?;
    let module = levels.next().filter(|level| *level == "modules").and_then(|_| levels.next());
    d2c::addressed(topic, (device, module))?;
    Some(module.map_or_else(|| device.to_owned(), |module| format!("{device}/{module}")))
}

/// A publish that is addressed to the hub already: `run` asks no rule about it.
struct Addressed<'a> {
    topic: &'a str,
    bag: &'a str,
    payload: &'a [u8],
}

impl Addressed<'_> {
    fn tell(&self, as_json: bool) -> ExitCode {
        let properties = bag::decode(self.bag);
        print(&if as_json { self.as_json(&properties) } else { self.in_words(&properties) });
        ExitCode::from(u8::from(properties.is_err()))
    }

    fn in_words(&self, properties: &Result<Vec<Property<'_>>, BagError>) -> String {
        let mut out = format!("topic {}\n\n", self.topic);
        // Writing to a String cannot fail.
        let _ = match properties {
            Ok(properties) => self.write_message(&mut out, properties),
            Err(error) => writeln!(
                out,
                "addressed to the hub, and put into quarantine (bad_property_bag): the hub would close the connection: {error}"
            ),
        };
        out
    }

    fn write_message(&self, out: &mut String, properties: &[Property<'_>]) -> fmt::Result {
        writeln!(out, "addressed to the hub: goes up as it is, no rule is asked")?;
        writeln!(out, "  hub topic   {}", self.topic)?;
        for (name, value) in properties {
            writeln!(out, "  property    {name} = {}", value.as_deref().unwrap_or(""))?;
        }
        write_body(out, self.payload)?;
        match bag::lost(self.bag) {
            Some(lost) => writeln!(
                out,
                "\nthe hub ignores what stands behind the first `/`: `{lost}` (a `/` in a value is written %2F)"
            ),
            None => Ok(()),
        }
    }

    fn as_json(&self, properties: &Result<Vec<Property<'_>>, BagError>) -> String {
        let (verdict, reason) = match properties {
            Ok(_) => ("addressed", None),
            Err(_) => ("quarantined", Some("bad_property_bag")),
        };
        let message = properties.as_ref().ok().map(|properties| {
            json!({
                "properties": properties, "hub_topic": self.topic,
                "body": std::str::from_utf8(self.payload).ok(), "body_hex": body_hex(self.payload),
            })
        });
        let told = json!({
            "topic": self.topic, "verdict": verdict, "reason": reason,
            "detail": properties.as_ref().map_or_else(BagError::to_string, |_| String::new()),
            "tried": [], "messages": message.into_iter().collect::<Vec<_>>(), "lost": bag::lost(self.bag),
        });
        format!("{told}\n")
    }
}

fn body_hex(body: &[u8]) -> String {
    body.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that are written as hexadecimal digits.
#[derive(Debug, Clone)]
struct Digits(Vec<u8>);

fn digits(text: &str) -> Result<Digits, String> {
    let digit = |c: char| c.to_digit(16).ok_or_else(|| format!("`{c}` is no hexadecimal digit"));
    let digits: Vec<u32> = text.chars().filter(|c| !c.is_whitespace()).map(digit).collect::<Result<_, _>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return Err("a byte has two digits".to_owned()) };
    Ok(Digits(pairs.iter().filter_map(|[high, low]| u8::try_from(high << 4 | low).ok()).collect()))
}

fn write_body(out: &mut String, body: &[u8]) -> fmt::Result {
    match std::str::from_utf8(body) {
        Ok(text) => writeln!(out, "  body        {text}"),
        Err(_) => writeln!(out, "  body        {}: {}", of_len(body.len(), "byte", "bytes"), hex(body)),
    }
}

fn hex(bytes: &[u8]) -> String {
    const BYTES: usize = 32;
    let mut text = String::new();
    for byte in bytes.iter().take(BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x} ");
    }
    if bytes.len() > BYTES { text + "..." } else { text.trim_end().to_owned() }
}
