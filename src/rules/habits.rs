//! What a rule does with its messages over time, in words: for `explain`, which sees one publish only.

use super::restraint::{Change, Restraint};
use super::rule::Message;
use super::shape::Reshape;
use super::window::{Combine, Window};

/// A line for each key that remembers.
pub(super) fn of(message: &Message) -> Vec<String> {
    let mut lines =
        message.restraint.as_ref().map(|restraint| of_restraint(restraint, &message.reshape)).unwrap_or_default();
    if let Some(reported) = &message.reported {
        let every = span(reported.every);
        lines.push(format!("it is merged into the reported properties of the twin, every {every} at most (to)"));
    }
    lines.extend(message.window.as_ref().map(|window| of_window(window)));
    lines
}

fn of_restraint(restraint: &Restraint, reshape: &Reshape) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(dedupe) = &restraint.dedupe {
        let what = if dedupe.key.is_some() { "one with the same key" } else { "the same payload" };
        lines.push(format!("{what} within {} is held back (dedupe)", span(dedupe.within)));
    }
    if let Some(report) = &restraint.report {
        // The rule looks at a field before it is renamed; whoever reads this sees it afterwards.
        let names = report.fields.iter().map(|path| match reshape.outcome(path) {
            Some(outcome) => format!("`{}` ({outcome})", path.join(".")),
            None => format!("`{}`", path.join(".")),
        });
        let names: Vec<String> = names.collect();
        let what = if names.is_empty() { "the payload".to_owned() } else { names.join(" or ") };
        let how = match report.change {
            Change::Any => "has changed".to_owned(),
            Change::By(least) => format!("has changed by {least}"),
            Change::Percent(least) => format!("has changed by {least} %"),
        };
        let due = report.at_least_every.map_or(String::new(), |every| format!(", or after {}", span(every)));
        lines.push(format!("the next goes up when {what} {how}{due} (report_by_exception)"));
    }
    if let Some(least) = restraint.throttle {
        lines.push(format!("what comes within {} after it is held back (throttle)", span(least)));
    }
    lines
}

fn of_window(window: &Window) -> String {
    match &window.combine {
        Combine::Batch(batch) => {
            let count = match batch.max_messages {
                u64::MAX => String::new(),
                most => format!(" or {most} are there"),
            };
            let bytes = batch.max_bytes.map_or("one billed block".to_owned(), |bytes| format!("{bytes} bytes"));
            format!("it waits for others until {} are over{count} or {bytes} are full (batch)", span(batch.max_wait))
        }
        Combine::Aggregate(aggregate) => {
            format!("it is summed up with the others of the same {} (aggregate)", span(aggregate.every))
        }
        Combine::Pivot(pivot) => {
            let list = |names: &[Box<str>]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let mut ends = vec![format!("until {} are over", span(pivot.max_wait))];
            if !pivot.complete.is_empty() {
                ends.push(format!("{} are there", list(&pivot.complete)));
            }
            if !pivot.trigger.is_empty() {
                ends.push(format!("{} comes", list(&pivot.trigger)));
            }
            format!("it waits for what else is said about the device {} (pivot)", ends.join(" or "))
        }
    }
}

/// A length of time as a rule file has it.
fn span(ms: i64) -> String {
    match ms {
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}
