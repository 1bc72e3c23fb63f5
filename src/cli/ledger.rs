//! `brownbridge ledger`: what became of everything.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::check::{could_not_run, print, print_error};
use super::running::{admin_address, default_config, get, state_folder};
use super::text::plain;
use crate::amount::of;
use crate::app;
use crate::ledger::{Books, ByReason, sum};

/// Shows what became of every publish and every hub message, over restarts and crashes.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge ledger                       of the bridge of this machine\n  \
    brownbridge ledger --json | jq .messages.waiting\n\n\
    Where no bridge runs, it shows what the last one wrote. Exit code: 0 shown, 2 could not run.")]
pub(super) struct Args {
    /// The configuration of the bridge whose ledger it is [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    /// Where the admin page is, instead of what the configuration says: 10.0.0.5:9883.
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "config")]
    admin: Option<String>,
    /// Prints the ledger as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let asked = args.admin.is_some();
    let address = match admin_address(args.admin, &args.config) {
        Ok(address) => address,
        Err(code) => return code,
    };
    let books = match get(&address, "/ledger") {
        Ok(page) => serde_json::from_str(&page).map_err(|error| format!("{address} is no brownbridge: {error}")),
        Err(error) if asked => Err(format!("the bridge's admin page at {address} cannot be read: {error}")),
        Err(error) => written(&args.config, &address, &error),
    };
    let books: Books = match books {
        Ok(books) => books,
        Err(problem) => return could_not_run(&problem),
    };
    if args.json {
        print(&format!("{}\n", books.to_json()));
    } else {
        print(&shown(&books));
    }
    ExitCode::SUCCESS
}

/// What the last bridge wrote.
fn written(config: &std::path::Path, address: &str, why: &std::io::Error) -> Result<Books, String> {
    let state = state_folder(config).map_err(|_| String::from("the configuration has errors"))?;
    let books = app::ledger::read(&state).map_err(|error| format!("{} cannot be read: {error}", state.display()))?;
    let books = books.ok_or_else(|| format!("no bridge answers at {address} ({why}), and none has run here"))?;
    print_error(&format!("no bridge answers at {address}; this was written {}\n", plain(&books.written)));
    Ok(books)
}

/// The two balances.
fn shown(books: &Books) -> String {
    let (p, m) = (&books.publishes, &books.messages);
    let none = ByReason::new();
    let mut out = format!("since {}, {}\n\n", plain(&books.since), of(books.crashes, "crash", "crashes"));
    let _ = writeln!(out, "publishes");
    for (sign, name, count, reasons) in [
        (" ", "received", p.received, &none),
        ("=", "translated", p.translated, &none),
        ("+", "dropped", sum(&p.dropped), &p.dropped),
        ("+", "quarantined", sum(&p.quarantined), &p.quarantined),
        ("+", "interrupted", p.interrupted, &none),
        ("+", "in progress", p.in_progress(), &none),
    ] {
        line(&mut out, (sign, name), count, reasons);
    }
    let _ = writeln!(out, "\nhub messages");
    for (sign, name, count, reasons) in [
        (" ", "produced", m.produced, &none),
        ("+", "reopened", m.reopened, &none),
        ("=", "delivered", m.delivered, &none),
        ("+", "shed", sum(&m.shed), &m.shed),
        ("+", "quarantined", sum(&m.quarantined), &m.quarantined),
        ("+", "lost", m.lost, &none),
        ("+", "unrecorded", m.unrecorded, &none),
        ("+", "waiting", m.waiting(), &none),
    ] {
        line(&mut out, (sign, name), count, reasons);
    }
    if m.held > 0 {
        let _ = writeln!(
            out,
            "\n{} for others in a window: translated, and produced when it closes",
            of(m.held, "message waits", "messages wait")
        );
    }
    if p.uncounted > 0 {
        let _ = writeln!(
            out,
            "\n{} made of publishes that a crash kept from being counted",
            of(p.uncounted, "hub message was", "hub messages were")
        );
    }
    out
}

fn line(out: &mut String, (sign, name): (&str, &str), count: u64, reasons: &ByReason) {
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{} {count}", plain(reason))).collect();
    let text = format!("{sign} {name:12}{count:>14}   {}", reasons.join(", "));
    out.push_str(text.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Messages, Publishes};

    #[test]
    fn two_balances() {
        let publishes = Publishes {
            received: 12,
            translated: 7,
            dropped: [("rule".to_owned(), 3), ("unmatched".to_owned(), 1)].into(),
            ..Publishes::default()
        };
        let messages = Messages { produced: 9, reopened: 2, delivered: 8, ..Messages::default() };
        let books = Books { since: "2026-01-01T00:00:00.000Z".to_owned(), publishes, messages, ..Books::default() };
        let expect = "\
since 2026-01-01T00:00:00.000Z, 0 crashes

publishes
  received                12
= translated               7
+ dropped                  4   rule 3, unmatched 1
+ quarantined              0
+ interrupted              0
+ in progress              1

hub messages
  produced                 9
+ reopened                 2
= delivered                8
+ shed                     0
+ quarantined              0
+ lost                     0
+ unrecorded               0
+ waiting                  3
";
        assert_eq!(shown(&books), expect);
    }

    #[test]
    fn one_of_a_kind() {
        for (number, expect) in [
            (1, ["1 crash\n", "1 message waits for others", "1 hub message was made"]),
            (1_200, ["1,200 crashes\n", "1,200 messages wait for others", "1,200 hub messages were made"]),
        ] {
            let publishes = Publishes { uncounted: number, ..Publishes::default() };
            let messages = Messages { held: number, ..Messages::default() };
            let told = shown(&Books { crashes: number, publishes, messages, ..Books::default() });
            for expect in expect {
                assert!(told.contains(expect), "{told}");
            }
        }
    }
}
