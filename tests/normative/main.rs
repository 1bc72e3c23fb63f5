//! The normative statements of MQTT 3.1.1 and MQTT 5 as rows of text, played against the real program.
//!
//! The rows are in `tests/golden/mqtt/*.txt`, and the format is told in the README there. Encoder and decoder are
//! written for these rows alone, so that no mistake of the program's codec can hide in its own mirror.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "test code"
)]

mod packet;
mod play;
mod row;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use packet::Version;
use row::Row;
use support::{Bridge, free_port};

/// Rows that play at the same time: most of the time of a run is waiting for an expiry of one second.
const PLAYERS: usize = 16;
/// This file is about limits, or hears every topic: it has a process of its own, and its rows play one by one.
const ALONE: &str = "alone.txt";
const SMALL_LIMITS: &str = "max_packet_size = \"2KiB\"\nmax_unacknowledged = 3\nmax_subscriptions = 3\nmax_keep_alive = \"60s\"\n\
    max_session_expiry = \"1h\"\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mqtt")
}

fn rows() -> Vec<Row> {
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files.iter().flat_map(|path| row::parse(path)).collect()
}

fn start(dir: &Path, more: &str) -> Bridge {
    Bridge::alone(dir, more, (free_port(), free_port()))
}

/// Plays rows on one process; gives what went wrong.
fn play_all(rows: &[&Row], players: usize, limits: &str) -> Vec<String> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bridge = start(dir.path(), limits);
    let plays: Vec<(&Row, Version)> =
        rows.iter().flat_map(|row| row.versions.iter().map(|(version, _)| (*row, *version))).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..players {
            scope.spawn(|| {
                while let Some((row, version)) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = play::play(row, *version, bridge.mqtt) {
                        wrong.lock().unwrap().push(format!("{} ({})\n    {error}", row.place(), version.name()));
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

#[test]
fn the_broker_keeps_the_normative_statements() {
    let rows = rows();
    let only = std::env::var("ROW").unwrap_or_default();
    let wanted = rows.iter().filter(|row| row.place().contains(&only));
    let (alone, together): (Vec<_>, Vec<_>) = wanted.partition(|row| row.file == ALONE);
    let mut wrong = thread::scope(|scope| {
        let alone = scope.spawn(|| play_all(&alone, 1, SMALL_LIMITS));
        let mut wrong = play_all(&together, PLAYERS, "");
        wrong.extend(alone.join().unwrap());
        wrong
    });
    wrong.sort();
    assert!(wrong.is_empty(), "{} rows are wrong\n{}", wrong.len(), wrong.join("\n"));
    let named = |standard| row::named(&rows, standard).len();
    println!(
        "{} rows name {} statements of MQTT 3.1.1 and {} of MQTT 5",
        rows.len(),
        named(Version::V311),
        named(Version::V5)
    );
}

/// The numbered statements of each standard.
const STATEMENTS: [(Version, usize); 2] = [(Version::V311, 142), (Version::V5, 248)];

#[test]
fn every_statement_is_played_or_left_out_with_a_reason() {
    let rows = rows();
    let left_out = row::left_out(&fs::read_to_string(folder().join("README.md")).unwrap());
    for (standard, expect) in STATEMENTS {
        let named = row::named(&rows, standard);
        let left: BTreeSet<_> =
            left_out.iter().filter(|(other, _)| *other == standard).map(|(_, id)| id.clone()).collect();
        let both: Vec<_> = named.intersection(&left).collect();
        assert!(both.is_empty(), "{}: played, and still in the list of what is left out: {both:?}", standard.name());
        assert_eq!(named.len() + left.len(), expect, "{}: statements played and left out", standard.name());
    }
}
