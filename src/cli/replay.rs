//! `brownbridge replay`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::check::{could_not_run, print, print_error, print_findings, read_rule_files};
use super::tap::{payload, why};
use super::text::{bytes, columns, filter, plain};
use crate::amount::{count, of};
use crate::app::replay::{Replay, Setting, Side};
use crate::bridge::Own;
use crate::config::Unmatched;
use crate::recording;
use crate::rules::{self, RuleSet};
use crate::watch::Sight;
use crate::watch::changes::Group;
use crate::watch::sight::Message;
use crate::watch::tally::{Tally, units};

/// Runs recorded traffic through rules, offline, at the times it was recorded.
///
/// Without --against it sums up what each rule makes. With it, it shows which messages would change their
/// destination, properties, body or cost, grouped by the rule that takes them.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  brownbridge replay line4.jsonl --rules rules            what comes out, by rule\n  \
    brownbridge replay line4.jsonl --rules rules.new --against rules\n  \
    brownbridge replay line4.jsonl --rules new --against old --json \\\n    \
    | jq '.changes[] | {pattern, kinds, publishes}'\n\n\
    Exit code: 0 done and no change, 1 changes, 2 could not run (or the rules have errors)."
)]
pub(super) struct Args {
    /// A recording of `brownbridge record`; FILE.1 is read first where it is there.
    file: PathBuf,
    /// The rules: a file, or a folder of rule files; may be given several times.
    #[arg(long, required = true, value_name = "NEW")]
    rules: Vec<PathBuf>,
    /// The rules to compare with, most often those that run today.
    #[arg(long, value_name = "OLD")]
    against: Vec<PathBuf>,
    /// Only publishes on topics that this filter matches; + and # as in MQTT.
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    topic: Option<String>,
    /// What becomes of publishes no rule takes, as in bridge.toml.
    #[arg(long, value_name = "WHAT", default_value = "forward")]
    unmatched: How,
    /// The device id of the bridge itself: what is addressed to it goes up as it is.
    #[arg(long, value_name = "ID", default_value = "GATEWAY")]
    gateway: String,
    /// Shows at most so many groups of changes.
    #[arg(long, value_name = "N", default_value_t = 50)]
    first: usize,
    /// Prints everything as JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum How {
    Forward,
    Drop,
}

pub(super) fn run(args: Args) -> ExitCode {
    let sets = load(&args.rules).and_then(|new| {
        let old = if args.against.is_empty() { None } else { Some(load(&args.against)?) };
        Ok((new, old))
    });
    let (new, old) = match sets {
        Ok(sets) => sets,
        Err(code) => return code,
    };
    let own = Own { hub: String::new(), device: Some(args.gateway), module: None, mark_late: false, block: None };
    let unmatched = match args.unmatched {
        How::Forward => Unmatched::Forward,
        How::Drop => Unmatched::Drop,
    };
    let mut replay = Replay::new(Setting { unmatched, own, topic: args.topic }, new, old);
    if let Err(error) = recording::read(&args.file, |entry| replay.feed(&entry)) {
        return could_not_run(&error.to_string());
    }
    replay.finish();
    print(&if args.json { as_json(&replay, &args.file) } else { in_words(&replay, args.first) });
    ExitCode::from(u8::from(replay.changes.changed + replay.changes.window_messages_changed > 0))
}

fn load(paths: &[PathBuf]) -> Result<RuleSet, ExitCode> {
    let sources =
        read_rule_files(paths, "brownbridge replay FILE --rules PATH").map_err(|problem| could_not_run(&problem))?;
    let loaded = rules::load(&sources);
    loaded.rules.ok_or_else(|| {
        print_findings(&loaded.diagnostics, &sources);
        print_error("nothing was replayed: the rules have errors\n");
        ExitCode::from(2)
    })
}

fn as_json(replay: &Replay, file: &Path) -> String {
    let Replay { new, old, changes, recorded, .. } = replay;
    let mut told = json!({
        "recording": {
            "file": file, "first": recorded.first.map(|time| time.to_string()),
            "last": recorded.last.map(|time| time.to_string()),
            "publishes": recorded.publishes, "comings_and_goings": recorded.passages, "missing": recorded.missing, "damaged_lines": recorded.damaged,
        },
        "new": new.tally,
    });
    if let (Some(old), Some(told)) = (old, told.as_object_mut()) {
        told.insert("old".to_owned(), json!(old.tally));
        told.insert("changed".to_owned(), json!(changes.changed));
        told.insert("window_messages".to_owned(), json!(changes.window_messages));
        told.insert("window_messages_changed".to_owned(), json!(changes.window_messages_changed));
        told.insert("changes".to_owned(), json!(changes.groups()));
    }
    format!("{told}\n")
}

fn in_words(replay: &Replay, first: usize) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_recording(&mut out, replay);
    let _ = match &replay.old {
        None => write_tally(&mut out, &replay.new.tally),
        Some(old) => write_changes(&mut out, (&replay.new, old), replay, first),
    };
    out
}

fn write_recording(out: &mut String, replay: &Replay) -> std::fmt::Result {
    let recorded = &replay.recorded;
    let publishes = of(recorded.publishes, "publish", "publishes");
    write!(out, "{publishes}, {} of payload", bytes(recorded.payload_bytes))?;
    if recorded.passages > 0 {
        write!(out, ", clients came or went {}", of(recorded.passages, "time", "times"))?;
    }
    if let (Some(first), Some(last)) = (recorded.first, recorded.last) {
        write!(out, ", from {first} to {last}")?;
    }
    out.push('\n');
    if recorded.missing > 0 {
        writeln!(out, "missing in the recording: {}", of(recorded.missing, "publish", "publishes"))?;
    }
    if recorded.damaged > 0 {
        writeln!(out, "skipped, because damaged: {}", of(recorded.damaged, "line", "lines"))?;
    }
    Ok(())
}

fn write_tally(out: &mut String, tally: &Tally) -> std::fmt::Result {
    out.push('\n');
    let total = |counts: &BTreeMap<String, u64>| match counts.values().sum() {
        0 => String::new(),
        sum => count(sum),
    };
    let rows = tally.rules.iter().map(|(rule, by)| {
        [
            plain(rule),
            count(by.made.messages),
            bytes(by.made.bytes),
            count(by.made.units),
            total(&by.dropped),
            total(&by.quarantined),
        ]
    });
    let all = [
        "all".to_owned(),
        count(tally.messages.messages),
        bytes(tally.messages.bytes),
        count(tally.messages.units),
        total(&tally.dropped),
        total(&tally.quarantined),
    ];
    columns(out, ["rule", "messages", "size", "4 KB units", "dropped", "quarantined"], rows.chain([all]));
    for (what, counts) in [("dropped", &tally.dropped), ("quarantined", &tally.quarantined)] {
        if !counts.is_empty() {
            let reasons: Vec<String> =
                counts.iter().map(|(reason, number)| format!("{} {}", plain(reason), count(*number))).collect();
            writeln!(out, "{what}: {}", reasons.join(", "))?;
        }
    }
    Ok(())
}

fn write_changes(out: &mut String, (new, old): (&Side, &Side), replay: &Replay, first: usize) -> std::fmt::Result {
    let (a, b) = (&old.tally, &new.tally);
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    for (what, old, new) in [
        ("messages", a.messages.messages, b.messages.messages),
        ("4 KB units", a.messages.units, b.messages.units),
        ("without a rule", a.forwarded, b.forwarded),
        ("dropped", sum(&a.dropped), sum(&b.dropped)),
        ("quarantined", sum(&a.quarantined), sum(&b.quarantined)),
    ] {
        let change = if old == new { count(new) } else { format!("{} -> {}", count(old), count(new)) };
        writeln!(out, "  {what:15} {change}")?;
    }
    let groups = replay.changes.groups();
    if groups.is_empty() {
        return match replay.changes.window_messages {
            0 => writeln!(out, "\nno publish changes"),
            1 => writeln!(out, "\nno publish changes, nor does the one message of a window"),
            windows => writeln!(out, "\nno publish changes, nor does one of {} messages of windows", count(windows)),
        };
    }
    let verb = |changed: u64| if changed == 1 { "changes" } else { "change" };
    let (changed, all) = (replay.changes.changed, replay.changes.publishes);
    let (changed, does) = (count(changed), verb(changed));
    match replay.recorded.passages {
        0 => writeln!(out, "\n{changed} of {} {does}", of(all, "publish", "publishes"))?,
        // Rules are asked about those, too.
        passages => {
            let times = of(passages, "time", "times");
            let all = count(all);
            writeln!(out, "\n{changed} of {all} {does} (publishes, and {times} that a client came or went)")?;
        }
    }
    if replay.changes.window_messages > 0 {
        let (changed, all) = (replay.changes.window_messages_changed, replay.changes.window_messages);
        let all = of(all, "message of a window", "messages of windows");
        writeln!(out, "{} of {all} {}", count(changed), verb(changed))?;
    }
    for group in groups.iter().take(first) {
        write_group(out, group)?;
    }
    match groups.len().saturating_sub(first) {
        0 => Ok(()),
        more => writeln!(out, "\nand {}: --first {}", of(more as u64, "more group", "more groups"), groups.len()),
    }
}

fn write_group(out: &mut String, group: &Group<'_>) -> std::fmt::Result {
    let (old, new) = (&group.example.old, &group.example.new);
    let publishes = match group.of_windows {
        true => of(group.publishes, "message of a window", "messages of windows"),
        false => of(group.publishes, "publish", "publishes"),
    };
    writeln!(out, "\n{}  {publishes}: {}", plain(group.pattern), group.kinds)?;
    let about = match &old.topic {
        Some(topic) => format!("{}  {}", plain(topic), shortened(&payload(&old.payload))),
        None if group.of_windows => "a window closes".to_owned(),
        None => format!("client {}: {}", plain(&old.client), old.on.as_deref().unwrap_or_default()),
    };
    writeln!(out, "  e.g. {}  {about}", old.time)?;
    differ(out, "outcome", &outcome(old), &outcome(new))?;
    let most = old.messages.len().max(new.messages.len());
    for place in 0..most {
        match (old.messages.get(place), new.messages.get(place)) {
            (Some(old), Some(new)) => write_difference(out, old, new)?,
            (old, new) => {
                let whole = |message: Option<&Message>| message.map(whole).unwrap_or_default();
                differ(out, "message", &whole(old), &whole(new))?;
            }
        }
    }
    Ok(())
}

fn write_difference(out: &mut String, old: &Message, new: &Message) -> std::fmt::Result {
    let priority = |message: &Message| if message.urgent { "high" } else { "normal" }.to_owned();
    let content = |message: &Message| {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        format!("{}; {}", or_none(&message.content_type), or_none(&message.content_encoding))
    };
    let cost =
        |message: &Message| format!("{}, {}", of(units(message.size), "unit", "units"), bytes(message.size as u64));
    differ(out, "device", &device(old), &device(new))?;
    differ(out, "priority", &priority(old), &priority(new))?;
    differ(out, "properties", &properties(old), &properties(new))?;
    differ(out, "content", &content(old), &content(new))?;
    differ(out, "time", &old.time, &new.time)?;
    differ(out, "body", &payload(&old.body), &payload(&new.body))?;
    if units(old.size) != units(new.size) {
        differ(out, "cost", &cost(old), &cost(new))?;
    }
    Ok(())
}

/// Both values below each other, where they differ.
fn differ(out: &mut String, what: &str, old: &str, new: &str) -> std::fmt::Result {
    if old == new {
        return Ok(());
    }
    let mut label = what;
    for (sign, value) in [("-", old), ("+", new)] {
        if !value.is_empty() {
            writeln!(out, "    {label:10}  {sign} {}", plain(&shortened(value)))?;
            label = "";
        }
    }
    Ok(())
}

/// A longer text is no line to read.
fn shortened(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 300;
    match text.get(..text.floor_char_boundary(LONGEST)) {
        Some(head) if head.len() < text.len() => Cow::Owned(format!("{head} ..")),
        _ => Cow::Borrowed(text),
    }
}

fn outcome(sight: &Sight) -> String {
    match (sight.verdict.as_str(), sight.reason.as_str()) {
        ("unmatched", _) if sight.on.is_some() => "no rule asks for it".to_owned(),
        ("unmatched", "") => "no rule takes it: sent as the bridge's own".to_owned(),
        ("unmatched", _) => "no rule takes it: dropped".to_owned(),
        (verdict, "") => verdict.to_owned(),
        (verdict, _) => format!("{verdict} {}", why(sight)),
    }
}

fn device(message: &Message) -> String {
    if message.device.is_empty() { "(the bridge itself)".to_owned() } else { message.device.clone() }
}

fn properties(message: &Message) -> String {
    let properties: Vec<String> = message.properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if properties.is_empty() { "none".to_owned() } else { properties.join(" ") }
}

fn whole(message: &Message) -> String {
    format!("{}  {}  ({})", device(message), payload(&message.body), properties(message))
}
