//! `brownbridge queue`: what waits for the hub.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::check::{could_not_run, print, print_error};
use super::running::{self, default_config};
use super::text::{bytes, columns, confirmed, duration, plain, span};
use crate::amount::of;
use crate::control::{Answer, Peeked, QueueStat, Request, Which};
use crate::message::excerpt;

/// Shows what waits for the hub in a running bridge, and drops it.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  brownbridge queue stat                         how much waits, and of which devices\n  \
    brownbridge queue peek --first 5               the next messages\n  \
    brownbridge queue drop --older-than 24h        asks first; counted as shed, reason operator\n\n\
    Exit code: 0 done, 1 not all of it, 2 could not run (no bridge runs, or it is another user's)."
)]
pub(super) struct Args {
    /// The configuration of the bridge whose queue it is [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", global = true, hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Shows how much waits, how long, and of which devices.
    Stat {
        /// Prints it as JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Shows the messages that wait first.
    Peek {
        /// Shows at most so many, 1000 at most.
        #[arg(long, value_name = "N", default_value_t = 10)]
        first: usize,
        /// Only of this device; "" is the bridge's own.
        #[arg(long, value_name = "ID")]
        device: Option<String>,
        /// Prints them as JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Gives messages up for good, those all conditions are true of.
    Drop {
        #[command(flatten)]
        selection: Selection,
        /// Deletes without asking.
        #[arg(long)]
        yes: bool,
    },
}

/// Which messages are meant.
#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Selection {
    /// Everything that waits.
    #[arg(long, conflicts_with_all = ["first", "older_than", "device"])]
    all: bool,
    /// At most so many, the oldest.
    #[arg(long, value_name = "N")]
    first: Option<u64>,
    /// Published longer ago than this: 30m, 24h.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older_than: Option<Duration>,
    /// Of this device; "" is the bridge's own.
    #[arg(long, value_name = "ID")]
    device: Option<String>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let state = match running::state_folder(&args.config) {
        Ok(state) => state,
        Err(code) => return code,
    };
    let done = match args.action {
        Action::Stat { json } => stat(&state, json),
        Action::Peek { first, device, json } => peek(&state, first, device, json),
        Action::Drop { selection, yes } => drop_messages(&state, &selection, yes),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => could_not_run(&problem),
    }
}

fn ask(state: &Path, request: &Request) -> Result<Answer, String> {
    running::ask(state, request)?.ok_or_else(|| "no bridge runs here: only a running one can be asked".to_owned())
}

fn other<T>() -> Result<T, String> {
    Err("the bridge gave another answer".to_owned())
}

fn json(value: &impl serde::Serialize) -> Result<bool, String> {
    print(&format!("{}\n", serde_json::to_string(value).map_err(|error| error.to_string())?));
    Ok(true)
}

fn stat(state: &Path, as_json: bool) -> Result<bool, String> {
    let Answer::Queue(stat) = ask(state, &Request::QueueStat)? else { return other() };
    if as_json {
        return json(&stat);
    }
    print(&shown(&stat));
    Ok(true)
}

fn shown(stat: &QueueStat) -> String {
    let mut out = String::new();
    let oldest = span(Duration::from_secs(stat.oldest_seconds));
    let _ = match stat.waiting {
        0 => writeln!(out, "nothing waits; {} on disk", bytes(stat.disk_bytes)),
        waiting => {
            let waiting = of(waiting, "message waits, for", "messages wait, the oldest for");
            writeln!(out, "{waiting} {oldest}; {} on disk", bytes(stat.disk_bytes))
        }
    };
    if stat.late > 0 {
        let _ = writeln!(out, "{} from an outage, behind the new ones", of(stat.late, "of them is", "of them are"));
    }
    if stat.shelved > 0 {
        let _ =
            writeln!(out, "{} on shelves, of devices that cannot send now", of(stat.shelved, "more lies", "more lie"));
    }
    if stat.full {
        let _ = writeln!(out, "FULL: nothing more is taken");
    }
    if stat.looked_at < stat.waiting {
        let _ = writeln!(out, "below: the first {}", stat.looked_at);
    }
    let mut devices: Vec<_> = stat.devices.iter().collect();
    if devices.is_empty() {
        return out;
    }
    devices.sort_by_key(|(_, share)| std::cmp::Reverse(share.messages));
    out.push('\n');
    let rows = devices.into_iter().map(|(device, share)| {
        [
            own_or(device),
            share.messages.to_string(),
            bytes(share.bytes),
            span(Duration::from_secs(share.oldest_seconds)),
        ]
    });
    columns(&mut out, ["DEVICE", "MESSAGES", "BYTES", "OLDEST"], rows);
    out
}

fn own_or(device: &str) -> String {
    if device.is_empty() { "(the bridge itself)".to_owned() } else { plain(excerpt(device)) }
}

fn peek(state: &Path, first: usize, device: Option<String>, as_json: bool) -> Result<bool, String> {
    let Answer::Peeked(messages) = ask(state, &Request::QueuePeek { first, device })? else { return other() };
    if as_json {
        return json(&messages);
    }
    if messages.is_empty() {
        print_error("nothing waits\n");
        return Ok(true);
    }
    let mut out = String::new();
    let rows = messages.iter().map(|Peeked { number, device, age_seconds, size, payload, .. }| {
        let payload: String = payload.chars().take(60).collect();
        [number.to_string(), own_or(device), span(Duration::from_secs(*age_seconds)), bytes(*size), plain(&payload)]
    });
    columns(&mut out, ["NUMBER", "DEVICE", "AGE", "SIZE", "PAYLOAD"], rows);
    print(&out);
    Ok(true)
}

fn drop_messages(state: &Path, selection: &Selection, yes: bool) -> Result<bool, String> {
    let Answer::Queue(stat) = ask(state, &Request::QueueStat)? else { return other() };
    let which = if selection.all { "all" } else { "those you named" };
    let waiting = stat.waiting + stat.shelved;
    let question = format!("{}; {which} will be given up for good.", of(waiting, "message waits", "messages wait"));
    if !yes && !confirmed(&question)? {
        print_error("nothing was dropped\n");
        return Ok(false);
    }
    // What comes from now on is not meant by --all.
    let mut first = selection.first.unwrap_or(waiting);
    let (mut dropped, mut complete) = (0, true);
    while first > 0 {
        let which = Which {
            first: Some(first),
            older_than_seconds: selection.older_than.map(|age| age.as_secs()),
            device: selection.device.clone(),
        };
        let Answer::Withdrawn { messages, more, scattered } = ask(state, &Request::QueueDrop(which))? else {
            return other();
        };
        dropped += messages;
        first = first.saturating_sub(messages);
        if scattered {
            print_error("there are more between messages of others: try again when some of those are delivered\n");
            complete = false;
        }
        if !more || messages == 0 {
            break;
        }
    }
    print(&format!("{} dropped\n", of(dropped, "message", "messages")));
    Ok(complete)
}
