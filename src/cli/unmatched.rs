//! `brownbridge unmatched`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::check::{could_not_run, print, print_error};
use super::running::{self, default_config};
use super::tap::payload;
use super::text::{columns, plain, span};
use crate::amount::{count, of};
use crate::control::{Answer, Request};
use crate::message::{Timestamp, excerpt};
use crate::rules::{self, Near, RuleSet};
use crate::watch::busiest::{Counted, Seen};
use crate::watch::siblings::{Family, families};
use crate::watch::sight::Excerpt;

/// Shows the busiest topics that no rule of the running bridge takes, and a rule for each, ready to paste.
///
/// Topics that differ in one level only are one row, from two on in the level before the last, from three on in any
/// other. Counted since the start of the bridge. Left out are topics that begin with $, answers to commands, and what a
/// rule takes by now. Where a rule comes near, it is named, with the level that differs and a topic for both.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge unmatched                          the ten busiest\n  \
    brownbridge unmatched --rules --first 3 >> rules/90-new.toml\n  \
    brownbridge unmatched --reset                  shows them, and counts anew from now on\n  \
    brownbridge unmatched --json | jq -r '.topics[] | [.publishes, .topic] | @tsv'\n\n\
    Exit code: 0 every topic has a rule, 1 there are some without, 2 could not run.")]
pub(super) struct Args {
    /// The configuration of the bridge [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    /// Shows at most so many rows.
    #[arg(long, value_name = "N", default_value_t = 10)]
    first: usize,
    /// Shows each topic for itself.
    #[arg(long)]
    each: bool,
    /// Prints only the rules, as a rule file.
    #[arg(long, conflicts_with = "json")]
    rules: bool,
    /// Counts anew from now on.
    #[arg(long)]
    reset: bool,
    /// Prints everything as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let state = match running::state_folder(&args.config) {
        Ok(state) => state,
        Err(code) => return code,
    };
    let counted = match running::ask(&state, &Request::Unmatched { reset: args.reset }) {
        Ok(Some(Answer::Unmatched(counted))) => counted,
        Ok(Some(_)) => return could_not_run("the bridge gave another answer"),
        Ok(None) => return could_not_run("no bridge runs here: only a running one can be asked"),
        Err(problem) => return could_not_run(&problem),
    };
    let rows = match args.each {
        false => families(&counted.topics),
        true => counted.topics.iter().enumerate().map(|(place, seen)| Family::alone(place, seen)).collect(),
    };
    let set = running::rules(&args.config);
    let told = Told { counted: &counted, rows: &rows, first: args.first, now: Timestamp::now(), set: set.as_ref() };
    if args.json {
        print(&format!("{}\n", told.as_json()));
    } else if args.rules {
        print(&told.rules());
    } else {
        print(&told.in_words());
    }
    if !args.json && rows.len() > args.first {
        let more = of((rows.len() - args.first) as u64, "more row", "more rows");
        print_error(&format!("and {more}: --first {}\n", rows.len()));
    }
    ExitCode::from(u8::from(counted.total > 0))
}

struct Told<'t> {
    counted: &'t Counted,
    rows: &'t [Family],
    first: usize,
    now: Timestamp,
    /// The rules on disk, where they can be read.
    set: Option<&'t RuleSet>,
}

impl Told<'_> {
    /// The rows to show, each with its busiest topic.
    fn shown(&self) -> impl Iterator<Item = (&Family, &Seen)> {
        let busiest = |row: &Family| self.counted.topics.get(*row.members.first()?);
        self.rows.iter().take(self.first).filter_map(move |row| Some((row, busiest(row)?)))
    }

    fn rate(&self, row: &Family) -> f64 {
        let of = row.members.iter().filter_map(|place| self.counted.topics.get(*place));
        of.map(|seen| seen.rate(self.now)).sum()
    }

    fn in_words(&self) -> String {
        let Counted { total, too_long, crowded, .. } = self.counted;
        if *total == 0 {
            return "every publish has found a rule\n".to_owned();
        }
        let or_more = if *crowded { " or more" } else { "" };
        let topics = of(self.counted.topics.len() as u64, "topic", "topics");
        let mut out = format!("{} on {topics}{or_more} found no rule\n\n", of(*total, "publish", "publishes"));
        let rows = self.shown().map(|(row, seen)| {
            let ago = Duration::from_millis(u64::try_from(self.now.0 - row.last).unwrap_or(0));
            [
                count(row.count),
                format!("{:.2}", self.rate(row)),
                format!("{} ago", span(ago)),
                if row.level.is_some() { count(row.members.len() as u64) } else { String::new() },
                plain(excerpt(&row.pattern)),
                payload(&sample(seen, 60)),
            ]
        });
        columns(&mut out, ["publishes", "a second", "last", "topics", "topic", "payload"], rows);
        if *too_long > 0 {
            let _ = writeln!(out, "{} more on topics that are too long to be told apart", count(*too_long));
        }
        let _ = write!(out, "\nrules that would take them:\n\n{}", self.rules());
        out
    }

    /// A rule for each row. Where two rows would have the same one, it is there once: the second could never run.
    fn rules(&self) -> String {
        let mut out = String::new();
        let mut taken = HashSet::new();
        for (row, seen) in self.shown() {
            let rule = self.rule(row, seen);
            if !taken.insert(taken_topic(&rule).to_owned()) {
                continue;
            }
            let _ = writeln!(out, "# {}, e.g. {}", of(row.count, "publish", "publishes"), plain(&seen.topic));
            if let Some(near) = self.near(row, seen) {
                let place = format!("{} ({}:{})", near.name, near.path, near.line);
                let _ = writeln!(
                    out,
                    "# near: rule {} takes {}, but {}",
                    plain(&place),
                    plain(&near.pattern),
                    plain(&near.why)
                );
                if let Some(both) = &near.both {
                    let _ = writeln!(
                        out,
                        "# if it is meant for these, too: it takes both with  topic = {}",
                        toml::Value::from(both.as_str())
                    );
                }
            }
            out.push_str(&rule);
            out.push('\n');
        }
        out
    }

    /// A rule that would take the topics of a row.
    fn rule(&self, row: &Family, seen: &Seen) -> String {
        let Some(level) = row.level else { return rules::new_rule(&seen.topic, &telling(seen)) };
        let members = row.members.iter().filter_map(|place| self.counted.topics.get(*place));
        let payloads: Vec<Vec<u8>> = members.map(telling).collect();
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        rules::new_rule_for_siblings(&seen.topic, &payloads, level)
    }

    /// The rule that comes near to the topics of a row.
    fn near(&self, row: &Family, seen: &Seen) -> Option<Near> {
        self.set?.near(&seen.topic, row.level)
    }

    fn as_json(&self) -> serde_json::Value {
        let topics = self.shown().map(|(row, seen)| {
            let near = self.near(row, seen).map(|near| {
                let Near { name, path, line, pattern, why, both } = near;
                json!({ "rule": name, "path": path, "line": line, "takes": pattern, "why": why, "topic_for_both": both })
            });
            json!({
                "topic": row.pattern, "topics": row.members.len(), "publishes": row.count,
                "may_be_less_by": seen.error, "per_second": self.rate(row),
                "last_seen": Timestamp(row.last).to_string(), "example": seen.topic, "client": seen.client,
                "payload": sample(seen, usize::MAX), "rule": self.rule(row, seen), "near": near,
            })
        });
        json!({
            "publishes": self.counted.total, "on_too_long_topics": self.counted.too_long,
            "more_topics_than_told_apart": self.counted.crowded, "rows": self.rows.len(),
            "topics": topics.collect::<Vec<_>>(),
        })
    }
}

/// The line that says which topics a new rule takes.
fn taken_topic(rule: &str) -> &str {
    rule.lines().find(|line| line.starts_with("topic ") || line.starts_with("regex ")).unwrap_or_default()
}

fn sample(seen: &Seen, most: usize) -> Excerpt {
    Excerpt { size: seen.size as u64, ..Excerpt::new(&seen.payload(), most) }
}

/// What was kept of a payload, as far as it tells what the payload is.
fn telling(seen: &Seen) -> Vec<u8> {
    let mut kept = seen.payload();
    if kept.len() == seen.size {
        return kept;
    }
    // Of a payload that was cut only its beginning tells what it is.
    let told = match (kept.first(), std::str::from_utf8(&kept)) {
        (Some(b'{' | b'['), _) => 0,
        (_, Err(error)) if error.error_len().is_none() => error.valid_up_to(),
        _ => kept.len(),
    };
    kept.truncate(told);
    kept
}
