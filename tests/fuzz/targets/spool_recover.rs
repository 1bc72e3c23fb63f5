//! A spool of two segments and 40 records, damaged in any way: it opens, reading it ends, every record that comes is
//! the one that was written under its sequence, in order, and the account balances. It goes on to take a new record
//! and still has it when it is opened again.
//!
//! The input is a list of harms, eight bytes each.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use brownbridge::spool::{AppendError, Opened, Options, open};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

mod harm;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    tempfile::Builder::new().prefix("brownbridge-fuzz-").tempdir_in("/dev/shm").expect("a folder in memory")
});
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

fuzz_target!(|bytes: &[u8]| {
    let dir = FOLDER.path().join("spool");
    harm::write(&dir, bytes);
    let mut opened = start(&dir);
    let before = RUNTIME.block_on(read_all(&mut opened));
    let next = opened.appender.durable().borrow().seq + 1;
    assert!(before.is_none_or(|last| last < next));
    RUNTIME.block_on(append(&opened, &record(next)));
    opened.spool.close().expect("written");

    let mut opened = start(&dir);
    assert_eq!(RUNTIME.block_on(read_all(&mut opened)), Some(next));
    opened.spool.close().expect("written");
    fs::remove_dir_all(dir).expect("removed");
});

fn start(dir: &Path) -> Opened {
    open(Options { segment_size: Some(16 << 10), ..Options::new(dir, 1 << 20) }).expect("damage does not fail it")
}

/// What the program of version 1 wrote under a sequence.
fn record(seq: u64) -> Vec<u8> {
    format!("record {seq} ").repeat(seq as usize % 9 + 1).into_bytes()
}

async fn append(opened: &Opened, record: &[u8]) {
    while let Err(error) = opened.appender.try_append([record].into_iter()) {
        assert_eq!(error, AppendError::Full);
        tokio::time::timeout(Duration::from_secs(5), opened.appender.room()).await.expect("room in time");
    }
}

/// Reads until all that waits was delivered; returns the last sequence.
async fn read_all(opened: &mut Opened) -> Option<u64> {
    let (mut last, mut delivered) = (None, 0);
    for _ in 0..10_000 {
        let stats = opened.appender.stats();
        assert_eq!(stats.recovered, stats.lost + stats.waiting, "{stats:?}");
        if stats.waiting == delivered {
            return last;
        }
        // What is lost wakes nobody: look at the account again.
        let Ok(stored) = tokio::time::timeout(Duration::from_millis(1), opened.reader.next(true)).await else { continue };
        let stored = stored.expect("open");
        assert!(last < Some(stored.seq), "in order");
        assert_eq!(stored.record, record(stored.seq));
        (last, delivered) = (Some(stored.seq), delivered + 1);
    }
    panic!("reading does not end: {:?}", opened.appender.stats());
}
