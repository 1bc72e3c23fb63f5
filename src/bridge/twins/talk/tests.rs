use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::{Value, json};

use super::*;
use crate::bridge::down::Audit;
use crate::broker::Inside;
use crate::diag::SourceFile;
use crate::downlink::Terms;
use crate::hub::exchange::Desired;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::rules;

const RULES: &str = "[[desired]]\nname = \"takes\"\ntopic = \"set/{name}\"\n\
    [[desired]]\nname = \"fails\"\nat = \"bad\"\nsplit = \"whole\"\ntopic = \"set/{device}/{.x}\"\n";

/// A talk about the bridge's own twin, in which this is desired.
fn talk(dir: &Path, desired: Value) -> Talk {
    let set = rules::load(&[SourceFile { path: "r.toml".into(), text: RULES.into() }]).rules.unwrap();
    let twins = Twins::kept_in(Journal::stuck());
    let (inside, audit) = (Inside::of_nobody(), Audit::new(dir, 1 << 20));
    let (_, terms) = watch::channel(Arc::new(Terms { enabled: true, ..Terms::default() }));
    let plant = Plant { inside, terms, audit };
    let properties = desired.as_object().unwrap().clone();
    let known = Desired { version: Some(1), properties };
    twins.0.book.lock().with("own", |twin| twin.exchange.restore_desired(known));
    let (wanted, _) = watch::channel(Wanted::default());
    let parts = Parts { rules: Arc::new(InUse::new(set, None)), wanted, devices: None, plant: None };
    let desk = Some(Desk::new(plant, Metrics::register()));
    let (times, rate, seen) = (BTreeSet::new(), Rates::new(A_SECOND), None);
    Talk { shared: twins.0, parts, desk, times, rate, seen }
}

/// An audit log that takes nothing until it is read.
fn full_pipe(dir: &Path) -> File {
    let path = dir.join("commands.jsonl");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
    let mut pipe = fs::OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(&path).unwrap();
    for size in [4096, 1] {
        while pipe.write(&vec![b' '; size]).is_ok() {}
    }
    pipe
}

/// Publishers of the plant wait for the book; what rules, the broker and the audit log take their time with is none of
/// their business.
#[test]
fn nobody_waits_for_the_book_while_what_is_desired_is_looked_at_and_published() {
    type Act = fn(&mut Talk);
    for (name, desired, act) in [
        ("a look", json!({"bad": {"x": "a/b"}}), (|talk| talk.desired("own")) as Act),
        ("a publish", json!({"speed": 1}), |talk| {
            talk.desired("own");
            talk.publish("own");
        }),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut pipe = full_pipe(dir.path());
        let mut talk = talk(dir.path(), desired);
        let shared = Arc::clone(&talk.shared);
        let audit = talk.desk.as_ref().unwrap().audit().clone();
        let work = std::thread::spawn(move || act(&mut talk));
        while !audit.is_busy() {
            assert!(!work.is_finished(), "{name} writes into the audit log");
            std::thread::yield_now();
        }
        assert!(!shared.book.is_locked(), "{name}");
        // What was written for the pipe to be full, and then what is written to the audit log.
        let mut read = vec![0; 1 << 16];
        while !work.is_finished() {
            match pipe.read(&mut read) {
                Ok(some) => assert!(some > 0, "{name}"),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{name}");
                    std::thread::yield_now();
                }
            }
        }
        work.join().unwrap();
    }
}
