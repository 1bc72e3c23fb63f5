//! `brownbridge quarantine`: what the rules could not translate and the hub would not take.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::check::{could_not_run, print, print_error};
use super::running::{self, default_config};
use super::text::{bytes, columns, confirmed, plain, span};
use crate::amount::of_len;
use crate::control::{Answer, MAX_IDS, Outcome, Request, Retried};
use crate::message::{Timestamp, excerpt};
use crate::quarantine::{self, Entry};

/// Lists, shows, retries and deletes what lies in the quarantine.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge quarantine list                    the newest last\n  \
    brownbridge quarantine show 3f9a               all of one entry, its payload included\n  \
    brownbridge quarantine retry --all --reason not_json   after the rules were mended\n  \
    brownbridge quarantine drop 3f9a 77c0 --yes\n\n\
    An entry is named by its ID or the beginning of it.\n\n\
    Exit code: 0 done, 1 not all of it, 2 could not run.")]
pub(super) struct Args {
    /// The configuration of the bridge whose quarantine it is [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", global = true, hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Lists the entries, the newest last.
    List {
        /// Only entries with this reason: not_json, lookup_miss.
        #[arg(long, value_name = "REASON")]
        reason: Option<String>,
        /// Only so many, the newest.
        #[arg(long, value_name = "N")]
        last: Option<usize>,
        /// Prints them as JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Shows all of an entry.
    Show {
        /// Its ID, or the beginning of it.
        id: String,
        /// Prints the entry as JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Gives publishes to the rules of the running bridge, and sends hub messages again.
    Retry {
        #[command(flatten)]
        which: Which,
    },
    /// Deletes entries for good.
    Drop {
        #[command(flatten)]
        which: Which,
        /// Deletes without asking.
        #[arg(long)]
        yes: bool,
    },
}

/// Which entries are meant.
#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Which {
    /// Their IDs, or the beginnings of them.
    #[arg(value_name = "ID", conflicts_with_all = ["all", "reason"])]
    ids: Vec<String>,
    /// Every entry.
    #[arg(long)]
    all: bool,
    /// Every entry with this reason: not_json, lookup_miss.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let state = match running::state_folder(&args.config) {
        Ok(state) => state,
        Err(code) => return code,
    };
    let done = match args.action {
        Action::List { reason, last, json } => list(&state, reason.as_deref(), last, json),
        Action::Show { id, json } => show(&state, &id, json),
        Action::Retry { which } => retry(&state, &which),
        Action::Drop { which, yes } => drop_entries(&state, &which, yes),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => could_not_run(&problem),
    }
}

fn folder(state: &Path) -> PathBuf {
    state.join("quarantine")
}

/// Every entry that `wanted` asks for, without its payload: there may be many.
fn read(state: &Path, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, String> {
    let mut found = Vec::new();
    let read = quarantine::read(&folder(state), |entry| {
        if wanted(&entry) {
            found.push(entry.summary());
        }
        true
    });
    read.map_err(|error| format!("{} cannot be read: {error}", folder(state).display()))?;
    Ok(found)
}

fn list(state: &Path, reason: Option<&str>, last: Option<usize>, as_json: bool) -> Result<bool, String> {
    let mut entries = read(state, |entry| reason.is_none_or(|reason| entry.reason == reason))?;
    let older = entries.len().saturating_sub(last.unwrap_or(usize::MAX));
    entries.drain(..older);
    if as_json {
        let entries: Vec<_> = entries.iter().map(as_value).collect();
        print(&format!("{}\n", serde_json::Value::Array(entries)));
        return Ok(true);
    }
    if entries.is_empty() {
        print_error("nothing lies in the quarantine\n");
        return Ok(true);
    }
    let mut out = String::new();
    if older > 0 {
        let _ = writeln!(out, "{} not shown", of_len(older, "older one is", "older ones are"));
    }
    let rows = entries.iter().map(|entry| {
        let (from, about) =
            if entry.is_message() { ("(hub message)", &entry.device) } else { (entry.client.as_str(), &entry.topic) };
        [
            entry.id.clone(),
            age(entry),
            plain(&entry.reason),
            plain(excerpt(from)),
            plain(excerpt(about)),
            bytes(entry.size() as u64),
        ]
    });
    columns(&mut out, ["ID", "AGE", "REASON", "CLIENT", "TOPIC OR DEVICE", "SIZE"], rows);
    print(&out);
    Ok(true)
}

fn age(entry: &Entry) -> String {
    let seconds = entry.received().map_or(0, |at| Timestamp::now().as_secs().saturating_sub(at.as_secs()));
    span(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn as_value(entry: &Entry) -> serde_json::Value {
    json!({
        "id": entry.id,
        "kind": if entry.is_message() { "hub-message" } else { "publish" },
        "time": entry.time,
        "reason": entry.reason,
        "detail": entry.detail,
        "rule": entry.rule,
        "client": entry.client,
        "topic": entry.topic,
        "device": entry.device,
        "message_id": entry.message_id,
        "size": entry.size(),
    })
}

fn show(state: &Path, id: &str, as_json: bool) -> Result<bool, String> {
    let id = resolve(&read(state, |entry| entry.id.starts_with(id))?, id)?;
    let mut found = None;
    let read = quarantine::read(&folder(state), |entry| {
        if entry.id == id {
            found = Some(entry);
        }
        found.is_none()
    });
    read.map_err(|error| error.to_string())?;
    let entry = found.ok_or_else(|| format!("there is no entry {id} any more"))?;
    let payload = entry.payload();
    let text = String::from_utf8(payload.clone());
    if as_json {
        let mut value = as_value(&entry);
        if let Some(value) = value.as_object_mut() {
            match text {
                Ok(text) => value.insert("payload".to_owned(), text.into()),
                Err(_) => value.insert("payload_hex".to_owned(), hex(&payload).into()),
            };
        }
        print(&format!("{value}\n"));
        return Ok(true);
    }
    let mut out = String::new();
    let from = if entry.is_message() { "a message for the hub" } else { "a publish" };
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:11}{}", plain(value));
        }
    };
    field("id", &entry.id);
    field("what", from);
    field("time", &entry.time);
    field("client", &entry.client);
    field("topic", &entry.topic);
    field("device", &entry.device);
    field("message id", &entry.message_id);
    field("rule", &entry.rule);
    field("reason", &entry.reason);
    field("detail", &entry.detail);
    let _ = writeln!(out, "payload    {}", bytes(payload.len() as u64));
    match text {
        Ok(text) => text.lines().for_each(|line| out.push_str(&format!("  {}\n", plain(line)))),
        Err(_) => {
            let _ = writeln!(out, "  {}", hex(&payload));
        }
    }
    print(&out);
    Ok(true)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The one entry whose identifier begins with `id`.
fn resolve(entries: &[Entry], id: &str) -> Result<String, String> {
    let ids: HashSet<&str> =
        entries.iter().map(|entry| entry.id.as_str()).filter(|full| full.starts_with(id)).collect();
    match (ids.len(), ids.iter().next()) {
        (1, Some(one)) => Ok((*one).to_owned()),
        (0, _) | (_, None) => Err(format!("there is no entry {id}: `brownbridge quarantine list` names them")),
        (several, _) => Err(format!("{several} entries begin with {id}: write more of it")),
    }
}

fn selected(state: &Path, which: &Which) -> Result<Vec<String>, String> {
    let entries = read(state, |entry| {
        which.ids.iter().any(|id| entry.id.starts_with(id.as_str()))
            || (which.ids.is_empty() && which.reason.as_ref().is_none_or(|reason| entry.reason == *reason))
    })?;
    if which.ids.is_empty() {
        return Ok(entries.into_iter().map(|entry| entry.id).collect());
    }
    which.ids.iter().map(|id| resolve(&entries, id)).collect()
}

fn retry(state: &Path, which: &Which) -> Result<bool, String> {
    let ids = selected(state, which)?;
    let mut all: Vec<Retried> = Vec::with_capacity(ids.len());
    for ids in ids.chunks(MAX_IDS) {
        let answer = running::ask(state, &Request::Retry { ids: ids.to_vec() })?;
        let answer = answer.ok_or("no bridge runs here: start it, its rules decide what becomes of an entry")?;
        let Answer::Retried(retried) = answer else { return Err("the bridge gave another answer".to_owned()) };
        for one in &retried {
            print(&format!("{}  {}\n", plain(&one.id), in_words(one.outcome)));
        }
        all.extend(retried);
    }
    let failed =
        all.iter().filter(|one| matches!(one.outcome, Outcome::Quarantined | Outcome::Gone | Outcome::Kept)).count();
    print_error(&format!("{} of {} left the quarantine\n", all.len() - failed, all.len()));
    Ok(failed == 0)
}

fn in_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Translated => "translated; its messages wait for the hub",
        Outcome::Dropped => "dropped: a rule says it is not wanted",
        Outcome::Queued => "waits to be sent again",
        Outcome::Quarantined => "failed again: it is in the quarantine as a new entry",
        Outcome::Gone => "is not there any more",
        Outcome::Kept => "stays: the spool has no room now, or the entry is damaged",
    }
}

fn drop_entries(state: &Path, which: &Which, yes: bool) -> Result<bool, String> {
    let ids = selected(state, which)?;
    if ids.is_empty() {
        print_error("nothing to delete\n");
        return Ok(true);
    }
    if !yes && !confirmed(&format!("{} will be deleted for good.", of_len(ids.len(), "entry", "entries")))? {
        print_error("nothing was deleted\n");
        return Ok(false);
    }
    let mut dropped = 0;
    for ids in ids.chunks(MAX_IDS) {
        dropped += match running::ask(state, &Request::Drop { ids: ids.to_vec() })? {
            Some(Answer::Dropped(taken)) => taken.len(),
            Some(_) => return Err("the bridge gave another answer".to_owned()),
            None => drop_alone(state, ids)?,
        };
    }
    print(&format!("{} deleted\n", of_len(dropped, "entry", "entries")));
    Ok(dropped == ids.len())
}

/// Deletes while no bridge runs: the lock of the folder keeps one from starting meanwhile.
fn drop_alone(state: &Path, ids: &[String]) -> Result<usize, String> {
    let problem = |error: std::io::Error| format!("{} cannot be rewritten: {error}", folder(state).display());
    let (quarantine, writer) = quarantine::open(&folder(state), u64::MAX).map_err(problem)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(problem)?;
    let taken = runtime.block_on(quarantine.take(ids.iter().cloned().collect())).map_err(problem);
    drop(quarantine);
    writer.join();
    taken.map(|taken| taken.len())
}
