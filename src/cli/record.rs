//! `brownbridge record`.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::check::{could_not_run, print_error};
use super::running::{self, default_config};
use super::text::{bytes, duration, filter};
use super::watching::{End, Watching};
use crate::amount::{count, of};
use crate::config::units;
use crate::control::Watch;
use crate::message::Timestamp;
use crate::recording::{MIN_SIZE, Ring, older};
use crate::watch::traffic::{self, Entry};

/// Records the local traffic of a running bridge, for `brownbridge replay`.
///
/// Every publish with its payload goes into OUT, one JSON object a line, and into OUT.1 once that is half full. The
/// oldest are overwritten. What a slow disk misses is counted and stands in the file as a gap. Passwords are not
/// recorded, payloads are: the files are readable by their owner only.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge record line4.jsonl --topic 'plant1/line4/#' --for 1h\n  \
    brownbridge record all.jsonl --max-size 1GiB   until Ctrl-C\n  \
    brownbridge replay line4.jsonl --rules rules.new --against rules\n\n\
    Exit code: 0 done, also by Ctrl-C, 1 the bridge ended, 2 could not run.")]
pub(super) struct Args {
    /// The file to write.
    out: PathBuf,
    /// The most that OUT and OUT.1 take together.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    max_size: u64,
    /// Ends after this time: 10m, 1h.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Only publishes on topics that this filter matches; + and # as in MQTT.
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    topic: Option<String>,
    /// Goes on with a recording that is there already.
    #[arg(long)]
    append: bool,
    /// The configuration of the bridge [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", hide_default_value = true, default_value = default_config())]
    config: PathBuf,
}

fn size(text: &str) -> Result<u64, String> {
    let size = units::size(text).ok_or_else(|| "write a number and a unit: 64MiB, 1GiB".to_owned())?;
    if size < MIN_SIZE { Err(format!("{} at least", bytes(MIN_SIZE))) } else { Ok(size) }
}

pub(super) fn run(args: Args) -> ExitCode {
    let state = match running::state_folder(&args.config) {
        Ok(state) => state,
        Err(code) => return code,
    };
    let mut ring = match Ring::open(&args.out, args.max_size, args.append) {
        Ok(ring) => ring,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return could_not_run(&format!(
                "{} or {} is there already: --append goes on with it, or take another name",
                args.out.display(),
                older(&args.out).display()
            ));
        }
        Err(error) => return could_not_run(&format!("cannot write {}: {error}", args.out.display())),
    };
    let mut watching = match Watching::begin(&state, Watch::Record { topic: args.topic }, args.time) {
        Ok(watching) => watching,
        Err(problem) => {
            // Nothing was recorded: the name stays free.
            if !args.append {
                let _ = std::fs::remove_file(&args.out);
            }
            return could_not_run(&problem);
        }
    };
    print_error(&format!("recording into {}, Ctrl-C ends it\n", args.out.display()));
    match follow(&mut watching, &mut ring) {
        Err(error) => could_not_run(&format!("cannot write {}: {error}", args.out.display())),
        Ok(kept) => {
            print_error(&format!("{} recorded, {} missed\n", of(kept.lines, "line", "lines"), count(kept.missed)));
            if watching.end() == End::Bridge {
                print_error("the bridge has ended\n");
                return ExitCode::from(1);
            }
            ExitCode::SUCCESS
        }
    }
}

/// What went into the recording.
#[derive(Default)]
struct Kept {
    lines: u64,
    missed: u64,
}

fn follow(watching: &mut Watching, ring: &mut Ring) -> std::io::Result<Kept> {
    let mut kept = Kept::default();
    let mut line = Vec::new();
    // What came is with the system before the next line is waited for.
    while watching.has_more() || ring.flush().map(|()| true)? {
        if !watching.next(&mut line) {
            break;
        }
        match line.starts_with(b"{\"gap\"") {
            true => {
                if let Entry::Gap(missed) = traffic::parse(&line) {
                    kept.missed += missed;
                }
            }
            false => kept.lines += 1,
        }
        ring.push(&line)?;
    }
    if watching.is_cut() {
        // At least that one; how many more the bridge had, nobody knows any more.
        line.clear();
        traffic::push_gap(&mut line, 1, Timestamp::now());
        ring.push(&line)?;
        kept.missed += 1;
    }
    ring.flush()?;
    Ok(kept)
}
