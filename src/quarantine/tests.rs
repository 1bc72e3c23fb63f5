use std::fs::{self, OpenOptions};
use std::io::Write as _;

use super::*;
use crate::message::{Content, RecordWriter, Timestamp};

fn publish(payload: &[u8]) -> Publish<'_> {
    Publish { topic: "a/b", payload, client: "plc", user: Some("mia"), qos: 1, retain: false, received: Timestamp(0) }
}

const REASON: Reason<'_> = Reason { rule: "press", reason: "not_json", detail: "expected value at column 1" };

fn entries(dir: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    read(dir, |entry| {
        entries.push(entry);
        true
    })
    .unwrap();
    entries
}

fn newest(dir: &Path) -> std::path::PathBuf {
    files::list(dir).unwrap().pop().unwrap()
}

#[tokio::test]
async fn original_bytes_and_reason_are_kept_over_a_torn_line() {
    let dir = tempfile::tempdir().unwrap();
    for (payload, key, expect) in [(&b"{oops"[..], "payload", "{oops"), (&[0xff, 0x00][..], "payload_base64", "/wA=")] {
        let (quarantine, writer) = open(dir.path(), 1 << 20).unwrap();
        quarantine.put(&publish(payload), REASON, || ()).await;
        drop(quarantine);
        writer.join();
        let mut file = OpenOptions::new().append(true).open(newest(dir.path())).unwrap();
        file.write_all(b"{\"torn").unwrap();
        let last = entries(dir.path()).pop().unwrap();
        assert_eq!((last.payload(), last.size()), (payload.to_vec(), payload.len()));
        assert_eq!((last.rule.as_str(), last.reason.as_str()), ("press", "not_json"));
        assert_eq!(last.received(), Some(Timestamp(0)));
        let text = fs::read_to_string(newest(dir.path())).unwrap();
        assert!(text.contains(&format!("{key:?}:{expect:?}")), "{text}");
    }
    assert_eq!(entries(dir.path()).len(), 2);
}

#[tokio::test]
async fn the_oldest_files_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let (quarantine, writer) = open(dir.path(), 8 << 10).unwrap();
    for n in 0..100 {
        let payload = format!("{n:0400}");
        quarantine.put(&publish(payload.as_bytes()), REASON, || ()).await;
    }
    drop(quarantine);
    writer.join();
    let size: u64 = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 9 << 10, "{size}");
    let kept = entries(dir.path());
    assert!(kept.last().unwrap().payload().ends_with(b"99"));
    assert!(kept.len() > 5);
}

#[tokio::test]
async fn entries_are_taken_out_one_by_one_and_what_comes_later_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (quarantine, writer) = open(dir.path(), 1 << 20).unwrap();
    for payload in ["a", "b", "b", "c"] {
        quarantine.put(&publish(payload.as_bytes()), REASON, || ()).await;
    }
    let payloads = || entries(dir.path()).iter().map(|entry| entry.payload()).collect::<Vec<_>>();
    let id_of = |n: usize| entries(dir.path())[n].id.clone();
    let (a, b, b2, c) = (id_of(0), id_of(1), id_of(2), id_of(3));
    for (take, expect_taken, expect_left) in [
        (vec!["000000000000".to_owned()], 0, vec!["a", "b", "b", "c"]),
        (vec![b.clone()], 1, vec!["a", "b", "c"]),
        (vec![a, c], 2, vec!["b"]),
        (vec![b2, "no".to_owned()], 1, vec![]),
        (vec![b], 0, vec![]),
    ] {
        let taken = quarantine.take(take.iter().cloned().collect()).await.unwrap();
        assert_eq!(taken.len(), expect_taken, "{take:?}");
        assert_eq!(payloads(), expect_left.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>());
    }
    quarantine.put(&publish(b"d"), REASON, || ()).await;
    assert_eq!(payloads(), [b"d"]);
    let again = open(dir.path(), 1 << 20);
    assert!(again.is_err(), "one process at a time");
    drop(quarantine);
    writer.join();
}

#[tokio::test]
async fn a_hub_message_is_kept_with_what_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut record = Vec::new();
    let mut message =
        RecordWriter::begin(&mut record, Timestamp(5), Content::Json, |out| out.extend_from_slice(b"press7"));
    message.property("line", |out| out.extend_from_slice(b"3"));
    message.finish(|out| out.extend_from_slice(b"{}")).unwrap();
    let (quarantine, writer) = open(dir.path(), 1 << 20).unwrap();
    for record in [record.as_slice(), b"no record"] {
        quarantine.put_message("x-1", record, Reason { rule: "", reason: "poison", detail: "closed" }).await;
    }
    drop(quarantine);
    writer.join();
    let entries = entries(dir.path());
    assert_eq!((entries[0].device.as_str(), entries[0].message_id.as_str()), ("press7", "x-1"));
    assert_eq!((entries[0].record(), entries[0].payload()), (Some(record), b"{}".to_vec()));
    assert_eq!(entries[1].record().as_deref(), Some(&b"no record"[..]));
    assert!(entries.iter().all(Entry::is_message));
}

#[tokio::test]
async fn what_root_does_leaves_the_files_to_their_owner() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let dir = tempfile::tempdir().unwrap();
    let someone = Some(12_345);
    if chown(dir.path(), someone, someone).is_err() {
        return; // Not root: there is nobody else whose files these could be.
    }
    let (quarantine, writer) = open(dir.path(), 1 << 20).unwrap();
    for payload in ["a", "b"] {
        quarantine.put(&publish(payload.as_bytes()), REASON, || ()).await;
    }
    let first = entries(dir.path()).remove(0).id;
    quarantine.take([first].into()).await.unwrap();
    drop(quarantine);
    writer.join();
    for file in fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().uid(), 12_345, "{:?}", file.path());
    }
}

/// Who gives up waiting for room in the queue has put nothing there; who gives up later has.
#[test]
fn what_is_in_the_queue_is_settled_whoever_waits_for_it() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let (jobs, queue) = mpsc::channel(2);
    let quarantine = Quarantine { jobs };
    let (one, settled) = (publish(b"x"), Arc::new(AtomicUsize::new(0)));
    let put = || {
        let settled = Arc::clone(&settled);
        let count = move || {
            settled.fetch_add(1, Ordering::Relaxed);
        };
        quarantine.put(&one, REASON, count)
    };
    let waits = put();
    drop(put());
    drop(put());
    assert_eq!(Arc::strong_count(&settled), 3, "the third is nowhere, and nobody is to count it");
    let dir = tempfile::tempdir().unwrap();
    drop(waits);
    drop(quarantine);
    write(queue, Files::open(dir.path(), 1 << 20).unwrap());
    assert_eq!((settled.load(Ordering::Relaxed), entries(dir.path()).len()), (2, 2));
}
