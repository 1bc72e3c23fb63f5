//! `brownbridge tap`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;

use super::check::{could_not_run, print_error};
use super::running::{self, default_config};
use super::text::{bytes, colored, duration, filter, plain};
use super::watching::{End, Watching, write_out};
use crate::amount::{count, of, of_len};
use crate::control::Watch;
use crate::watch::sight::{Excerpt, Message};
use crate::watch::{Filter, Sight};

/// Shows what comes in and what becomes of it, live, from a running bridge.
///
/// A tap never slows the plant: over --rate a second, or for a terminal that is too slow, publishes are left out and
/// their number is told.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge tap                                everything, until Ctrl-C\n  \
    brownbridge tap --topic 'plant1/+/temp' --count 5\n  \
    brownbridge tap --unmatched                    what no rule takes\n  \
    brownbridge tap --rule presses --for 10s --json | jq -r '.messages[].body.text'\n\n\
    Exit code: 0 done, also by Ctrl-C, 1 the bridge ended, 2 could not run (no bridge runs, or it is\n\
    another user's).")]
pub(super) struct Args {
    /// The configuration of the bridge [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    /// Only publishes on topics that this filter matches; + and # as in MQTT.
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    topic: Option<String>,
    /// Only what this rule made, dropped or could not translate.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Only of the client with this id.
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Only with a message of this device.
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Only what no rule takes.
    #[arg(long)]
    unmatched: bool,
    /// Only what makes no message on purpose.
    #[arg(long)]
    dropped: bool,
    /// Only what goes to the quarantine.
    #[arg(long)]
    quarantined: bool,
    /// Ends after this time: 10s, 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Ends after so many publishes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Shows at most so many a second.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Shows so many bytes of each payload.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    payload: u32,
    /// Prints one JSON object a line on stdout.
    #[arg(long)]
    json: bool,
}

/// A line from the bridge.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Missed { missed: u64 },
    Sight(Box<Sight>),
}

pub(super) fn run(args: Args) -> ExitCode {
    let state = match running::state_folder(&args.config) {
        Ok(state) => state,
        Err(code) => return code,
    };
    let filter = Filter {
        topic: args.topic,
        rule: args.rule,
        client: args.client,
        device: args.device,
        unmatched: args.unmatched,
        dropped: args.dropped,
        quarantined: args.quarantined,
    };
    let watch = Watch::Tap { filter, excerpt: args.payload as usize, rate: args.rate };
    let watching = match Watching::begin(&state, watch, args.time) {
        Ok(watching) => watching,
        Err(problem) => return could_not_run(&problem),
    };
    follow(watching, args.json, args.count.unwrap_or(u64::MAX))
}

fn follow(mut watching: Watching, json: bool, most: u64) -> ExitCode {
    let pens = Pens { color: colored(&std::io::stdout()) };
    let (mut shown, mut missed) = (0, 0);
    let mut line = Vec::new();
    while shown < most {
        if !watching.next(&mut line) {
            if watching.end() == End::Bridge {
                print_error("the bridge has ended\n");
                return ExitCode::from(1);
            }
            break;
        }
        let Ok(read) = serde_json::from_slice(&line) else { continue };
        let there = match (read, json) {
            (Line::Missed { missed: more }, _) => {
                missed += more;
                if json { write_out(&line) } else { write_out(pens.missed(more).as_bytes()) }
            }
            (Line::Sight(_), true) => {
                shown += 1;
                write_out(&line)
            }
            (Line::Sight(sight), false) => {
                shown += 1;
                write_out(pens.sight(&sight).as_bytes())
            }
        };
        if !there {
            // Whoever read it (`| head`) has enough.
            return ExitCode::SUCCESS;
        }
    }
    print_error(&format!("{} shown, {} not shown\n", of(shown, "publish", "publishes"), count(missed)));
    ExitCode::SUCCESS
}

/// How it looks: a time or a label in the first column, as wide as `09:12:03.412Z`.
struct Pens {
    color: bool,
}

const DIM: &str = "2";
const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const MAGENTA: &str = "35";

impl Pens {
    fn ink(&self, color: &str, text: &str) -> String {
        if self.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn label(&self, color: &str, label: &str) -> String {
        self.ink(color, &format!("{label:>13}"))
    }

    fn missed(&self, missed: u64) -> String {
        format!("{}  {} more not shown\n", self.label(YELLOW, "..."), count(missed))
    }

    fn sight(&self, sight: &Sight) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}  {}", self.ink(DIM, clock(&sight.time)), self.head(sight));
        if sight.on.is_none() {
            let _ = writeln!(out, "{}  {}", self.label(DIM, "in"), payload(&sight.payload));
        }
        for message in &sight.messages {
            let label = if message.reported { "twin" } else { "out" };
            let _ = writeln!(out, "{}  {}", self.label(GREEN, label), self.message(sight, message));
        }
        if sight.more_messages > 0 {
            let _ = writeln!(
                out,
                "{}  and {}",
                self.label(GREEN, "out"),
                of_len(sight.more_messages, "more message", "more messages")
            );
        }
        let _ = match sight.verdict.as_str() {
            "dropped" => writeln!(out, "{}  {}", self.label(YELLOW, "dropped"), why(sight)),
            "quarantined" => writeln!(out, "{}  {}", self.label(RED, "quarantined"), why(sight)),
            "unmatched" if sight.messages.is_empty() => {
                writeln!(out, "{}  no rule takes it: dropped", self.label(MAGENTA, "unmatched"))
            }
            "unmatched" => {
                writeln!(out, "{}  no rule takes it: sent as the bridge's own", self.label(MAGENTA, "unmatched"))
            }
            _ => Ok(()),
        };
        out
    }

    fn head(&self, sight: &Sight) -> String {
        let client = plain(&sight.client);
        match (&sight.on, &sight.topic) {
            (Some(on), _) if on == "window" => format!("{} closes", self.ink(BOLD, "a window")),
            (Some(on), _) => {
                let does = if on == "connect" { "connects" } else { "goes" };
                format!("client {} {does}", self.ink(BOLD, &client))
            }
            (None, topic) => {
                let topic = plain(topic.as_deref().unwrap_or_default());
                let user = sight.user.as_ref().map_or(String::new(), |user| format!(", user {}", plain(user)));
                let retained = if sight.retain { ", retained" } else { "" };
                let from = format!("from {client}{user}, QoS {}{retained}", sight.qos);
                format!("{}  {}", self.ink(BOLD, &topic), self.ink(DIM, &from))
            }
        }
    }

    fn message(&self, sight: &Sight, message: &Message) -> String {
        let mut about: Vec<String> = Vec::new();
        if !message.rule.is_empty() {
            about.push(format!("rule {}", plain(&message.rule)));
        }
        if message.reported {
            about.push("a change of the twin, no message".to_owned());
        }
        if message.urgent {
            about.push("priority high".to_owned());
        }
        if message.held {
            about.push("waits in a window".to_owned());
        }
        let properties = message.properties.iter();
        about.extend(properties.map(|(name, value)| match name.as_str() {
            "" => format!("addressed to the hub: {}", plain(value)),
            name => format!("{}={}", plain(name), plain(value)),
        }));
        if message.time != sight.time {
            about.push(format!("time {}", plain(&message.time)));
        }
        let device = if message.device.is_empty() { "(the bridge itself)".to_owned() } else { plain(&message.device) };
        // The same bytes twice are harder to read than once.
        let body = if message.body == sight.payload && message.body.size > 0 {
            "as it came".to_owned()
        } else {
            payload(&message.body)
        };
        let about = if about.is_empty() { String::new() } else { format!("  ({})", about.join("; ")) };
        format!("{}  {body}{}", self.ink(GREEN, &device), self.ink(DIM, &about))
    }
}

/// Why a publish was dropped or quarantined.
pub(super) fn why(sight: &Sight) -> String {
    let by_rule = if sight.rule.is_empty() { String::new() } else { format!("by rule {}", sight.rule) };
    let words = match sight.reason.as_str() {
        // What the rule says itself has no other reason.
        "rule" => by_rule,
        reason => format!("{reason} {by_rule}"),
    };
    // The words of what a rule holds back begin with its reason.
    let said = sight.detail.strip_prefix(&sight.reason).and_then(|rest| rest.strip_prefix(": "));
    let detail = said.unwrap_or(&sight.detail);
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    plain(&format!("{}{detail}", words.trim_end()))
}

/// The time of day of an RFC 3339 time.
fn clock(time: &str) -> &str {
    time.split_once('T').map_or(time, |(_, clock)| clock)
}

/// A payload in one line.
pub(super) fn payload(excerpt: &Excerpt) -> String {
    let more = if excerpt.is_cut() { format!(" .. {}", bytes(excerpt.size)) } else { String::new() };
    match (&excerpt.text, &excerpt.hex) {
        _ if excerpt.size == 0 => "(empty)".to_owned(),
        (Some(text), _) => format!("{}{more}", plain(text)),
        (None, Some(hex)) => format!("0x{hex}{more}"),
        (None, None) => bytes(excerpt.size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Excerpt {
        Excerpt { size: text.len() as u64, text: Some(text.to_owned()), hex: None }
    }

    fn sight() -> Sight {
        let message = Message {
            rule: "wrappers".to_owned(),
            device: "wrapper3".to_owned(),
            properties: vec![("signal".to_owned(), "speed".to_owned())],
            time: "2026-11-21T09:12:03.412Z".to_owned(),
            body: text("{\"rpm\": 1450,\"signal\":\"speed\"}"),
            ..Message::default()
        };
        Sight {
            time: "2026-11-21T09:12:03.412Z".to_owned(),
            client: "plc-7".to_owned(),
            user: Some("line4".to_owned()),
            topic: Some("plant1/wrapper3/speed".to_owned()),
            qos: 1,
            retain: true,
            payload: text("{\"rpm\": 1450}"),
            verdict: "translated".to_owned(),
            messages: vec![message],
            ..Sight::default()
        }
    }

    #[test]
    fn how_it_looks() {
        let base = sight();
        let head = "09:12:03.412Z  plant1/wrapper3/speed  from plc-7, user line4, QoS 1, retained\n";
        let input = "           in  {\"rpm\": 1450}\n";
        let without = |verdict: &str| Sight { verdict: verdict.to_owned(), messages: Vec::new(), ..sight() };
        let as_it_came = Message { body: text("{\"rpm\": 1450}"), properties: Vec::new(), ..base.messages[0].clone() };
        let reported = Message { reported: true, ..as_it_came.clone() };
        for (sight, expect) in [
            (
                base.clone(),
                "          out  wrapper3  {\"rpm\": 1450,\"signal\":\"speed\"}  (rule wrappers; signal=speed)\n",
            ),
            (Sight { messages: vec![as_it_came], ..sight() }, "          out  wrapper3  as it came  (rule wrappers)\n"),
            (without("unmatched"), "    unmatched  no rule takes it: dropped\n"),
            (
                Sight { rule: "noise".into(), reason: "rule".into(), ..without("dropped") },
                "      dropped  by rule noise\n",
            ),
            (
                Sight {
                    rule: "slow".into(),
                    reason: "throttled".into(),
                    detail: "throttled: 27 ms after the one before".into(),
                    ..without("dropped")
                },
                "      dropped  throttled by rule slow: 27 ms after the one before\n",
            ),
            (
                Sight { messages: vec![reported], ..sight() },
                "         twin  wrapper3  as it came  (rule wrappers; a change of the twin, no message)\n",
            ),
            (
                Sight {
                    rule: "s".into(),
                    reason: "not_json".into(),
                    detail: "byte 3".into(),
                    ..without("quarantined")
                },
                "  quarantined  not_json by rule s: byte 3\n",
            ),
        ] {
            assert_eq!(Pens { color: false }.sight(&sight), format!("{head}{input}{expect}"));
        }
        let went = Sight { on: Some("disconnect".into()), topic: None, ..without("translated") };
        assert_eq!(Pens { color: false }.sight(&went), "09:12:03.412Z  client plc-7 goes\n");
        let sent = Sight { on: Some("window".into()), topic: None, ..sight() };
        let told = Pens { color: false }.sight(&sent);
        assert!(told.starts_with("09:12:03.412Z  a window closes\n          out  wrapper3  "), "{told}");
        assert_eq!(Pens { color: false }.missed(1_234), "          ...  1,234 more not shown\n");
        assert!(Pens { color: true }.sight(&base).contains("\x1b[1mplant1/wrapper3/speed\x1b[0m"));
        // What comes from outside does not steer the terminal.
        let evil = Sight { payload: text("\x1b[2J"), ..base };
        assert!(!Pens { color: false }.sight(&evil).contains('\x1b'));
    }
}
