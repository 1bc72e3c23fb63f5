//! `brownbridge explain`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::check::{could_not_run, print, print_findings, read_rule_files};
use crate::message::{HubMessage, Publish, Timestamp};
use crate::rules::{self, Explanation, RuleSet, Step, Verdict};
use crate::topic;

/// Says which rule takes a topic and what the hub would receive.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  brownbridge explain plant1/packaging/wrapper3/speed --payload '{\"rpm\": 1450}'\n\n\
    Exit code: 0 a rule took it, 1 it is quarantined or the rules have errors, 2 no rule matched or could not run."
)]
pub(super) struct Args {
    /// The topic of a publish.
    topic: String,
    /// The payload of the publish.
    #[arg(long, default_value = "", conflicts_with = "payload_file")]
    payload: String,
    /// Reads the payload from a file.
    #[arg(long)]
    payload_file: Option<PathBuf>,
    /// The client id of the publisher.
    #[arg(long, default_value = "client")]
    client: String,
    /// A rule file, or a folder of rule files; may be given several times.
    #[arg(long, default_value = "rules")]
    rules: Vec<PathBuf>,
    /// Prints the explanation as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    if let Err(error) = topic::check_name(&args.topic) {
        return could_not_run(&error.to_string());
    }
    let payload = match &args.payload_file {
        None => args.payload.into_bytes(),
        Some(path) => match std::fs::read(path) {
            Ok(payload) => payload,
            Err(error) => return could_not_run(&format!("cannot read {}: {error}", path.display())),
        },
    };
    let sources = match read_rule_files(&args.rules) {
        Ok(sources) => sources,
        Err(problem) => return could_not_run(&problem),
    };
    let loaded = rules::load(&sources);
    let Some(set) = &loaded.rules else {
        print_findings(&loaded.diagnostics, &sources);
        return ExitCode::from(1);
    };
    let publish = Publish {
        topic: &args.topic,
        payload: &payload,
        client: &args.client,
        qos: 1,
        retain: false,
        received: Timestamp::now(),
    };
    let explanation = set.explain(&publish);
    let told = if args.json { as_json(set, &publish, &explanation) } else { in_words(set, &publish, &explanation) };
    print(&told);
    match explanation.verdict {
        Verdict::Translated | Verdict::Dropped { .. } => ExitCode::SUCCESS,
        Verdict::Quarantined { .. } => ExitCode::from(1),
        Verdict::Unmatched => ExitCode::from(2),
    }
}

/// The topic a message goes to at the hub.
///
/// Rules know no hub: this is the place to compute it from the record once the hub's topics are at hand.
fn hub_topic(_message: &HubMessage<'_>) -> Option<String> {
    None
}

fn in_words(set: &RuleSet, publish: &Publish<'_>, explanation: &Explanation) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_words(&mut out, set, publish, explanation);
    out
}

fn write_words(out: &mut String, set: &RuleSet, publish: &Publish<'_>, explanation: &Explanation) -> std::fmt::Result {
    writeln!(out, "topic {}", publish.topic)?;
    if !explanation.tried.is_empty() {
        writeln!(out, "\nrules tried, in order")?;
    }
    for tried in &explanation.tried {
        writeln!(out, "  {} ({}:{})  {}", tried.name, tried.path, tried.line, tried.pattern)?;
        writeln!(out, "    {}", tried.step.in_words())?;
        if let Step::Took { captures } = &tried.step {
            for (name, text) in captures {
                writeln!(out, "    {{{name}}} = {text}")?;
            }
        }
    }
    for (rule, record) in explanation.output.records() {
        let Ok(message) = HubMessage::parse(record) else { continue };
        writeln!(out, "\nmessage from rule `{}`", set.name(rule))?;
        write_message(out, &message)?;
    }
    match explanation.verdict {
        Verdict::Translated => Ok(()),
        Verdict::Dropped { rule } => writeln!(out, "\nnothing is sent: rule `{}` drops it", set.name(rule)),
        Verdict::Quarantined { rule, reason } => {
            writeln!(
                out,
                "\nrule `{}` puts it into quarantine ({reason}): {}",
                set.name(rule),
                explanation.output.detail()
            )?;
            match explanation.output.advice() {
                Some(advice) => writeln!(out, "the rule could say: {advice}"),
                None => Ok(()),
            }
        }
        Verdict::Unmatched => {
            writeln!(out, "\nno rule takes this topic")?;
            if let Some(near) = explanation.nearest.and_then(|nearest| explanation.tried.get(nearest)) {
                writeln!(out, "nearest: {} ({}:{}), but {}", near.name, near.path, near.line, near.step.in_words())?;
            }
            write!(out, "\na rule that would:\n\n{}", rules::new_rule(publish.topic))
        }
    }
}

fn write_message(out: &mut String, message: &HubMessage<'_>) -> std::fmt::Result {
    if let Some(topic) = hub_topic(message) {
        writeln!(out, "  hub topic   {topic}")?;
    }
    writeln!(out, "  device      {}", message.device)?;
    for (name, value) in message.properties() {
        writeln!(out, "  property    {name} = {value}")?;
    }
    if let Some(kind) = message.content.content_type() {
        let encoding = message.content.encoding().map_or(String::new(), |encoding| format!("; {encoding}"));
        writeln!(out, "  content     {kind}{encoding}")?;
    }
    match std::str::from_utf8(message.body) {
        Ok(text) => writeln!(out, "  body        {text}"),
        Err(_) => writeln!(out, "  body        {} bytes: {}", message.body.len(), hex(message.body)),
    }
}

fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x} ");
    }
    if bytes.len() > SHOWN { text + "..." } else { text.trim_end().to_owned() }
}

fn as_json(set: &RuleSet, publish: &Publish<'_>, explanation: &Explanation) -> String {
    let tried = explanation.tried.iter().map(|tried| {
        let captures = match &tried.step {
            Step::Took { captures } => Some(captures.iter().cloned().collect::<std::collections::BTreeMap<_, _>>()),
            _ => None,
        };
        serde_json::json!({
            "rule": tried.name, "path": tried.path, "line": tried.line, "pattern": tried.pattern,
            "took": captures.is_some(), "why": tried.step.in_words(), "captures": captures,
        })
    });
    let messages = explanation.output.records().filter_map(|(rule, record)| {
        let message = HubMessage::parse(record).ok()?;
        let properties: Vec<_> = message.properties().collect();
        Some(serde_json::json!({
            "rule": set.name(rule), "device": message.device, "properties": properties,
            "content_type": message.content.content_type(), "content_encoding": message.content.encoding(),
            "hub_topic": hub_topic(&message),
            "body": std::str::from_utf8(message.body).ok(), "body_hex": message.body.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
        }))
    });
    let (verdict, rule, reason) = match explanation.verdict {
        Verdict::Translated => ("translated", None, None),
        Verdict::Dropped { rule } => ("dropped", Some(set.name(rule)), None),
        Verdict::Quarantined { rule, reason } => ("quarantined", Some(set.name(rule)), Some(reason.label())),
        Verdict::Unmatched => ("unmatched", None, None),
    };
    let nearest =
        explanation.nearest.and_then(|nearest| explanation.tried.get(nearest)).map(|tried| tried.name.as_str());
    let told = serde_json::json!({
        "topic": publish.topic, "verdict": verdict, "rule": rule, "reason": reason,
        "detail": explanation.output.detail(), "advice": explanation.output.advice(),
        "tried": tried.collect::<Vec<_>>(), "messages": messages.collect::<Vec<_>>(), "nearest": nearest,
        "new_rule": matches!(explanation.verdict, Verdict::Unmatched).then(|| rules::new_rule(publish.topic)),
    });
    format!("{told}\n")
}
