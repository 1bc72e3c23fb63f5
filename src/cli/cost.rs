//! `brownbridge cost`: what the hub will bill for, rule by rule, and whether the day's quota is enough.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::check::{could_not_run, print};
use super::running::{admin_address, default_config, get};
use super::text::{columns, plain, span};
use crate::amount::{count, of};
use crate::app::status::Report;
use crate::config::units;

/// Shows what the hub bills for each rule, what rules save, and the forecast against the day's quota.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  brownbridge cost                       of the bridge of this machine, since its start\n  \
    brownbridge cost --for 10m             at the rate of the next ten minutes\n  \
    brownbridge cost --admin 10.0.0.5:9883 --json | jq '.rules[] | [.rule, .units_per_day]'\n\n\
    A hub bills each 4 KB of a message that it begins (free tier: 0.5 KB), and also messages sent\n\
    again after a lost connection, which are not in here. What was seen in less than ten minutes\n\
    since the start is told and not judged: how a plant begins is not how it goes on.\n\n\
    Exit code: 0 within the quota, no `tier` set, or too short a look, 1 over the quota (with --for\n\
    however short), 2 could not be asked."
)]
pub(super) struct Args {
    /// The configuration that says where the admin page is [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    /// Where the admin page is, instead of what the configuration says: 10.0.0.5:9883.
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "config")]
    admin: Option<String>,
    /// Looks on for this time, instead of at everything since the start: 30s, 10m.
    #[arg(long = "for", value_name = "TIME")]
    during: Option<String>,
    /// Prints the figures as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let during = match args.during.as_deref().map(|text| (text, units::duration(text))) {
        Some((text, None)) => {
            return could_not_run(&format!("--for {text} is no duration: write \"30s\", \"10m\", \"1h\""));
        }
        during => during.and_then(|(_, during)| during),
    };
    let address = match admin_address(args.admin, &args.config) {
        Ok(address) => address,
        Err(code) => return code,
    };
    let bill = match observe(&address, during) {
        Ok(bill) => bill,
        Err(error) => {
            return could_not_run(&format!(
                "no bridge answers at {address} ({error}). The figures are those of a running one: start it, or say where it is \
                 with --admin"
            ));
        }
    };
    let text = if args.json { serde_json::to_string(&bill).unwrap_or_default() + "\n" } else { bill.to_string() };
    print(&text);
    ExitCode::from(u8::from(bill.is_over()))
}

/// A forecast from less than this is no verdict, unless somebody asked for it with `--for`.
const SHORT: Duration = Duration::from_secs(600);

fn observe(address: &str, during: Option<Duration>) -> io::Result<Bill> {
    let look = || -> io::Result<(Counts, u64)> {
        let status = get(address, "/status")?;
        let status: Report = serde_json::from_str(&status)
            .map_err(|error| io::Error::other(format!("it is no brownbridge of this version: {error}")))?;
        Ok((Counts::of(&get(address, "/metrics")?), status.uptime_seconds))
    };
    let (counts, uptime) = look()?;
    let Some(during) = during else { return Ok(Bill::since_start(&counts, Duration::from_secs(uptime))) };
    std::thread::sleep(during);
    let (after, later) = look()?;
    if later < uptime {
        return Err(io::Error::other("the bridge was restarted meanwhile"));
    }
    Ok(Bill::of(&after.since(&counts), during))
}

/// What one rule has made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct OfRule {
    messages: u64,
    units: u64,
    held_back: u64,
    combined: u64,
}

/// What /metrics says.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    rules: BTreeMap<String, OfRule>,
    /// Tier, units, messages a day.
    quota: Option<(String, u32, u64)>,
    /// Something is billed.
    billed: bool,
}

impl Counts {
    fn of(page: &str) -> Self {
        let mut counts = Self::default();
        let mut each = |name: &str, field: fn(&mut OfRule) -> &mut u64| {
            for (labels, value) in series(page, name) {
                let Some((_, rule)) = labels.into_iter().find(|(label, _)| label == "rule") else { continue };
                *field(counts.rules.entry(rule).or_default()) += value;
            }
        };
        each("brownbridge_messages_translated_total", |rule| &mut rule.messages);
        each("brownbridge_billable_units_total", |rule| &mut rule.units);
        each("brownbridge_messages_held_back_total", |rule| &mut rule.held_back);
        each("brownbridge_messages_combined_total", |rule| &mut rule.combined);
        counts.rules.retain(|_, rule| *rule != OfRule::default());
        counts.billed = series(page, "brownbridge_billable_units_total").next().is_some();
        counts.quota = series(page, "brownbridge_billable_quota_units").next().map(|(labels, quota)| {
            let label = |name| labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.clone());
            let units = label("units").and_then(|units| units.parse().ok()).unwrap_or(1);
            (label("tier").unwrap_or_default(), units, quota)
        });
        counts
    }

    fn since(mut self, before: &Self) -> Self {
        for (name, rule) in &mut self.rules {
            let then = before.rules.get(name).copied().unwrap_or_default();
            rule.messages = rule.messages.saturating_sub(then.messages);
            rule.units = rule.units.saturating_sub(then.units);
            rule.held_back = rule.held_back.saturating_sub(then.held_back);
            rule.combined = rule.combined.saturating_sub(then.combined);
        }
        self
    }
}

/// The labels and values of a metric on a page of Prometheus' text format.
fn series<'p>(page: &'p str, name: &'p str) -> impl Iterator<Item = (Vec<(String, String)>, u64)> + 'p {
    page.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?.strip_prefix('{')?;
        let (labels, value) = labels(rest)?;
        Some((labels, value.trim().parse().ok()?))
    })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(value) = rest.strip_prefix('}') {
            return Some((labels, value));
        }
        let (name, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        rest = quoted.get(end..)?;
    }
}

/// What it comes to.
#[derive(Debug, Serialize)]
struct Bill {
    observed_seconds: u64,
    rules: Vec<Line>,
    messages_per_day: u64,
    units_per_day: u64,
    saved_per_day: u64,
    tier: Option<String>,
    tier_units: Option<u32>,
    quota_per_day: Option<u64>,
    /// The forecast by the quota.
    quota_share: Option<f64>,
    /// The bridge runs for so short a time that the forecast says little.
    too_short: bool,
    #[serde(skip)]
    billed: bool,
}

/// What it comes to for one rule.
#[derive(Debug, Serialize)]
struct Line {
    rule: String,
    messages: u64,
    units: u64,
    messages_per_day: u64,
    units_per_day: u64,
    /// Of all units.
    share: f64,
    /// Messages that were held back, or went up with others as one.
    saved_per_day: u64,
}

impl Bill {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn of(counts: &Counts, observed: Duration) -> Self {
        let a_day = 86_400.0 / observed.as_secs_f64().max(1.0);
        let per_day = |count: u64| (count as f64 * a_day).round() as u64;
        let all: u64 = counts.rules.values().map(|rule| rule.units).sum();
        let mut rules: Vec<Line> = counts
            .rules
            .iter()
            .map(|(name, rule)| Line {
                rule: name.clone(),
                messages: rule.messages,
                units: rule.units,
                messages_per_day: per_day(rule.messages),
                units_per_day: per_day(rule.units),
                share: rule.units as f64 / all.max(1) as f64,
                saved_per_day: per_day(rule.held_back + rule.combined.saturating_sub(rule.messages)),
            })
            .collect();
        rules.sort_by(|a, b| b.units.cmp(&a.units).then_with(|| a.rule.cmp(&b.rule)));
        let units_per_day = per_day(all);
        let quota = counts.quota.as_ref().map(|(.., quota)| *quota);
        Self {
            observed_seconds: observed.as_secs(),
            messages_per_day: per_day(counts.rules.values().map(|rule| rule.messages).sum()),
            saved_per_day: rules.iter().map(|line| line.saved_per_day).sum(),
            rules,
            units_per_day,
            tier: counts.quota.as_ref().map(|(tier, ..)| tier.clone()),
            tier_units: counts.quota.as_ref().map(|(_, units, _)| *units),
            quota_per_day: quota,
            quota_share: quota.map(|quota| units_per_day as f64 / quota.max(1) as f64),
            too_short: false,
            billed: counts.billed,
        }
    }

    /// Of everything since the start, which may be a moment ago.
    fn since_start(counts: &Counts, uptime: Duration) -> Self {
        Self { too_short: uptime < SHORT, ..Self::of(counts, uptime) }
    }

    /// Seen for long enough to say so.
    fn is_over(&self) -> bool {
        !self.too_short && self.quota_share.is_some_and(|share| share > 1.0)
    }

    /// How the forecast is to the quota.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn forecast(&self) -> String {
        let (Some(tier), Some(units), Some(quota), Some(share)) =
            (&self.tier, self.tier_units, self.quota_per_day, self.quota_share)
        else {
            return match self.billed {
                true => "no quota known: say `tier` and `units` in [uplink]".to_owned(),
                false => "the uplink is no IoT Hub: nothing is billed by the message".to_owned(),
            };
        };
        let units = of(units.into(), "unit", "units");
        let share_of = format!("{:.0} % of the {} of {units} {}", share * 100.0, count(quota), plain(tier));
        if self.too_short {
            let observed = span(Duration::from_secs(self.observed_seconds));
            return format!("{share_of} (observed for {observed} only: --for 10m looks longer)");
        }
        if !self.is_over() {
            return share_of;
        }
        let minutes = (1440.0 / share) as u64;
        format!("{share_of}: OVER THE QUOTA, spent at {:02}:{:02} UTC each day", minutes / 60, minutes % 60)
    }
}

impl std::fmt::Display for Bill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        let observed = span(Duration::from_secs(self.observed_seconds));
        let _ = writeln!(out, "observed over {observed}; a day at this rate:\n");
        const HEADS: [&str; 5] = ["RULE", "MESSAGES", "BILLED", "SHARE", "SAVED"];
        let line = |line: &Line| {
            [
                plain(&line.rule),
                line.messages_per_day.to_string(),
                line.units_per_day.to_string(),
                format!("{:.1} %", line.share * 100.0),
                line.saved_per_day.to_string(),
            ]
        };
        let total = [
            "total".to_owned(),
            self.messages_per_day.to_string(),
            self.units_per_day.to_string(),
            String::new(),
            self.saved_per_day.to_string(),
        ];
        columns(&mut out, HEADS, self.rules.iter().map(line).chain([total]));
        let _ = writeln!(
            out,
            "\nforecast {} a day, {}",
            of(self.units_per_day, "billed message", "billed messages"),
            self.forecast()
        );
        f.write_str(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# TYPE brownbridge_billable_units_total counter
brownbridge_messages_translated_total{rule=\"energy\"} 10
brownbridge_messages_translated_total{rule=\"an \\\"odd\\\" } one\"} 20
brownbridge_messages_translated_total{rule=\"never\"} 0
brownbridge_billable_units_total{rule=\"energy\"} 10
brownbridge_billable_units_total{rule=\"an \\\"odd\\\" } one\"} 60
brownbridge_messages_combined_total{rule=\"energy\"} 500
brownbridge_messages_held_back_total{rule=\"an \\\"odd\\\" } one\",reason=\"throttled\"} 5
brownbridge_messages_held_back_total{rule=\"an \\\"odd\\\" } one\",reason=\"unchanged\"} 6
";

    #[test]
    fn what_a_page_comes_to() {
        let table = "\
observed over 1 h 0 min; a day at this rate:

RULE            MESSAGES  BILLED  SHARE   SAVED
an \"odd\" } one  480       1440    85.7 %  264
energy          240       240     14.3 %  11760
total           720       1680            12024
";
        let quota = "brownbridge_billable_quota_units{tier=\"F1\",units=\"1\"} ";
        for (more, expect) in [
            (
                String::new(),
                "forecast 1,680 billed messages a day, no quota known: say `tier` and `units` in [uplink]\n",
            ),
            (format!("{quota}8000\n"), "forecast 1,680 billed messages a day, 21 % of the 8,000 of 1 unit F1\n"),
            (
                format!("{quota}840\n"),
                "forecast 1,680 billed messages a day, 200 % of the 840 of 1 unit F1: OVER THE QUOTA, spent at 12:00 UTC each day\n",
            ),
        ] {
            let bill = Bill::of(&Counts::of(&(PAGE.to_owned() + &more)), Duration::from_secs(3600));
            assert_eq!(bill.to_string(), format!("{table}\n{expect}"));
        }
    }

    /// A forecast of the first seconds is no verdict; one that was asked for is.
    #[test]
    fn a_short_look() {
        let page = PAGE.to_owned() + "brownbridge_billable_quota_units{tier=\"F1\",units=\"1\"} 840\n";
        let (counts, seconds) = (Counts::of(&page), Duration::from_secs);
        for (bill, over, expect) in [
            (
                Bill::since_start(&counts, seconds(28)),
                false,
                "1 unit F1 (observed for 28 s only: --for 10m looks longer)\n",
            ),
            (Bill::since_start(&counts, seconds(599)), false, "looks longer)\n"),
            (Bill::since_start(&counts, seconds(600)), true, "OVER THE QUOTA"),
            (Bill::of(&counts, seconds(28)), true, "OVER THE QUOTA"),
        ] {
            assert_eq!((bill.is_over(), bill.to_string().contains(expect)), (over, true), "{bill}");
        }
    }

    #[test]
    fn between_two_looks() {
        let before = Counts::of(PAGE);
        let after = Counts::of(&PAGE.replace("} 60", "} 63"));
        let odd = after.since(&before).rules["an \"odd\" } one"];
        assert_eq!(odd, OfRule { units: 3, ..OfRule::default() });
        let none = Bill::of(&Counts::default(), Duration::ZERO);
        assert!(none.to_string().contains("the uplink is no IoT Hub"));
    }

    #[test]
    fn labels_are_read_with_their_escapes() {
        for (text, expect) in [
            ("a=\"1\",b=\"x\\\"y\\\\z\\n\"} 7", Some((vec![("a", "1"), ("b", "x\"y\\z\n")], " 7"))),
            ("} 7", Some((vec![], " 7"))),
            ("a=\"1", None),
            ("a", None),
            ("", None),
        ] {
            let expect = expect.map(|(labels, rest)| {
                (
                    labels
                        .into_iter()
                        .map(|(name, value): (&str, &str)| (name.to_owned(), value.to_owned()))
                        .collect::<Vec<_>>(),
                    rest,
                )
            });
            assert_eq!(labels(text), expect, "{text}");
        }
    }
}
