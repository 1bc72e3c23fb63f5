//! The spool over real files and with its threads.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use brownbridge::spool::{AppendError, Durability, OpenError, Opened, Options, Stored, WhenFull, open};

fn options(dir: &Path) -> Options {
    Options { segment_size: Some(256 << 10), ..Options::new(dir, 16 << 20) }
}

async fn next(opened: &mut Opened) -> Stored {
    tokio::time::timeout(Duration::from_secs(20), opened.reader.next(true)).await.expect("in time").expect("a record")
}

/// Appends `count` records of `task` in publishes of one to three, waiting for each to be durable every so often.
async fn publish(appender: brownbridge::spool::Appender, task: u32, count: u32) {
    let mut durable = appender.durable();
    let mut n = 0;
    while n < count {
        let publish: Vec<Vec<u8>> = (n..(n + 1 + n % 3).min(count))
            .map(|n| [&task.to_le_bytes()[..], &n.to_le_bytes(), &vec![7; n as usize % 500]].concat())
            .collect();
        let ticket = loop {
            match appender.try_append(publish.iter().map(Vec::as_slice)) {
                Ok(ticket) => break ticket,
                Err(AppendError::Full) => appender.room().await,
                Err(error) => panic!("{error}"),
            }
        };
        n += publish.len() as u32;
        if n.is_multiple_of(7) {
            durable.wait_for(|durable| durable.seq >= ticket.0).await.expect("open");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_append_one_reads_and_all_arrives_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    let (tasks, count) = (8, 3000);
    let mut arrived = 0;
    {
        let mut opened = open(Options { max_size: 1 << 20, ..options(dir.path()) }).expect("opens");
        let publishers: Vec<_> =
            (0..tasks).map(|task| tokio::spawn(publish(opened.appender.clone(), task, count))).collect();
        // The spool is smaller than what is published: the appenders wait for room again and again.
        for _ in 0..tasks * count - 100 {
            let stored = next(&mut opened).await;
            arrive(&mut last, &stored);
            arrived += 1;
            assert!(opened.acker.ack(stored.seq));
        }
        for publisher in publishers {
            publisher.await.expect("no panic");
        }
        opened.spool.close().expect("all is written");
    }
    let mut opened = open(options(dir.path())).expect("opens again");
    assert_eq!(opened.recovered.waiting, 100);
    for _ in 0..100 {
        let stored = next(&mut opened).await;
        arrive(&mut last, &stored);
        arrived += 1;
        assert!(opened.acker.ack(stored.seq));
    }
    assert_eq!(arrived, tasks * count);
    assert!(last.values().all(|&n| n == count - 1));
    let stats = opened.appender.stats();
    assert_eq!((stats.waiting, stats.lost, stats.shed, stats.acked), (0, 0, 0, 100));
}

fn arrive(last: &mut BTreeMap<u32, u32>, stored: &Stored) {
    let (task, rest) = stored.record.split_first_chunk().expect("the task");
    let (n, _) = rest.split_first_chunk().expect("the number");
    let (task, n) = (u32::from_le_bytes(*task), u32::from_le_bytes(*n));
    assert_eq!(stored.record.len(), 8 + n as usize % 500);
    let expect = last.get(&task).map_or(0, |last| last + 1);
    assert_eq!(n, expect, "order of task {task}");
    last.insert(task, n);
}

#[tokio::test]
async fn room_comes_when_the_backlog_is_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut opened = open(Options { max_size: 1 << 20, ..options(dir.path()) }).expect("opens");
    let record = vec![1; 50_000];
    let mut waiting = 0;
    while !opened.appender.stats().full {
        match opened.appender.try_append([&record[..]].into_iter()) {
            Ok(_) => waiting += 1,
            Err(AppendError::Full) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
    let waiters: Vec<_> = (0..200)
        .map(|_| {
            let appender = opened.appender.clone();
            tokio::spawn(async move {
                while appender.try_append([&b"small"[..]].into_iter()).is_err() {
                    appender.room().await;
                }
            })
        })
        .collect();
    for _ in 0..waiting + 200 {
        let stored = next(&mut opened).await;
        assert!(opened.acker.ack(stored.seq));
    }
    for waiter in waiters {
        waiter.await.expect("no panic");
    }
    assert_eq!(opened.appender.stats().waiting, 0);
}

#[tokio::test]
async fn drop_oldest_never_stops_the_appenders_and_keeps_the_account() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = Options { max_size: 1 << 20, when_full: WhenFull::DropOldest, ..options(dir.path()) };
    let mut opened = open(Options { durability: Durability::Os, ..options }).expect("opens");
    publish(opened.appender.clone(), 1, 20_000).await;
    let stats = opened.appender.stats();
    assert!(stats.shed > 5_000, "{stats:?}");
    assert_eq!(stats.appended, stats.acked + stats.shed + stats.lost + stats.waiting);
    let mut seq = 0;
    while seq < 20_000 {
        let stored = next(&mut opened).await;
        assert!(stored.seq > seq.max(stats.shed));
        seq = stored.seq;
        opened.acker.ack(seq);
    }
    let stats = opened.appender.stats();
    assert_eq!((stats.waiting, stats.acked + stats.shed, stats.lost), (0, 20_000, 0));
}

#[test]
fn a_second_process_is_told_who_has_the_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let opened = open(options(dir.path())).expect("opens");
    let error = open(options(dir.path())).expect_err("locked");
    let text = format!("the spool folder {} is in use by process {}", dir.path().display(), std::process::id());
    assert_eq!(error.to_string(), text);
    opened.spool.close().expect("nothing to write");
    open(options(dir.path())).expect("free again, although an appender is still around");
}

#[test]
fn a_file_in_the_place_of_the_folder_is_an_error() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = open(options(file.path())).expect_err("no folder");
    assert!(matches!(error, OpenError::Folder { .. }), "{error}");
}

#[tokio::test]
async fn closing_ends_the_reader_and_the_appenders() {
    let dir = tempfile::tempdir().expect("a folder");
    let Opened { appender, mut reader, spool, .. } = open(options(dir.path())).expect("opens");
    appender.try_append([&b"last words"[..]].into_iter()).expect("room");
    spool.close().expect("written");
    assert_eq!(reader.next(true).await, None);
    assert_eq!(appender.try_append([&b"late"[..]].into_iter()), Err(AppendError::Closed));
    appender.room().await;
    assert_eq!(open(options(dir.path())).expect("opens").recovered.waiting, 1);
}

/// The process this test kills is this test itself, told by the environment to append until it dies.
#[tokio::test]
async fn kill_9_loses_nothing_that_was_durable() {
    const CHILD: &str = "BROWNBRIDGE_SPOOL_CHILD";
    if let Some(dir) = std::env::var_os(CHILD) {
        return append_for_ever(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut promised = 0;
    for round in 1..=6 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "kill_9_loses_nothing_that_was_durable", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (mut seen, mut killed) = (0, false);
        for line in lines.map_while(Result::ok) {
            if let Some(seq) = line.strip_prefix("durable ") {
                promised = seq.parse().expect("a sequence");
                seen += 1;
            }
            if seen >= round * 60 && !killed {
                child.kill().expect("killed");
                killed = true;
            }
        }
        child.wait().expect("gone");
        let mut opened = open(options(dir.path())).expect("opens");
        assert!(killed && opened.recovered.waiting >= promised, "{} of {promised}", opened.recovered.waiting);
        for seq in 1..=opened.recovered.waiting {
            let stored = next(&mut opened).await;
            assert_eq!(stored, Stored { seq, late: false, record: seq.to_le_bytes().repeat(20).into() });
        }
        opened.spool.close().expect("closes");
    }
}

async fn append_for_ever(dir: &Path) {
    let Opened { appender, spool: _open, .. } = open(options(dir)).expect("opens");
    let mut durable = appender.durable();
    let mut seq = durable.borrow().seq;
    loop {
        for _ in 0..7 {
            seq += 1;
            appender.try_append([&seq.to_le_bytes().repeat(20)[..]].into_iter()).expect("room");
        }
        let durable = durable.wait_for(|durable| durable.seq >= seq).await.expect("open").seq;
        println!("\ndurable {durable}");
    }
}

/// The records of the golden spools.
fn golden() -> impl Iterator<Item = Vec<u8>> {
    (1..=40u64).map(|n| format!("record {n} ").repeat(n as usize % 9 + 1).into_bytes())
}

/// What every version that ever wrote a spool left in `tests/golden/spool`, and what waits in it. A version that
/// is no longer written is never made anew.
///
/// | folder | what |
/// |---|---|
/// | `v1` | 40 records in two segments, the first 5 acknowledged |
/// | `v2` | the same, and 21 to 30 acknowledged in the live lane while 6 to 20 were late |
#[tokio::test]
async fn the_spools_of_all_versions_open() {
    let golden_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/spool");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        write_golden(&golden_dir.join("v2")).await;
    }
    for (version, waiting) in [("v1", (6..=40).collect::<Vec<u64>>()), ("v2", (6..=20).chain(31..=40).collect())] {
        let golden_dir = golden_dir.join(version);
        let dir = tempfile::tempdir().expect("a folder");
        for file in std::fs::read_dir(&golden_dir).expect("the fixture") {
            let file = file.expect("readable");
            std::fs::copy(file.path(), dir.path().join(file.file_name())).expect("copied");
        }
        let mut opened = open(options(dir.path())).expect("opens");
        assert_eq!((opened.recovered.waiting, opened.recovered.quarantined), (waiting.len() as u64, 0), "{version}");
        let id = std::fs::read_to_string(golden_dir.join("id")).expect("the id");
        assert_eq!(format!("{:016x}\n", opened.appender.id()), id, "{version}");
        for seq in waiting {
            let record = golden().nth(seq as usize - 1).expect("one of them");
            assert_eq!(next(&mut opened).await, Stored { seq, late: false, record: record.into() }, "{version}");
        }
    }
}

async fn write_golden(to: &Path) {
    let dir = tempfile::tempdir().expect("a folder");
    let small = Options { segment_size: Some(16 << 10), ..options(dir.path()) };
    for part in [0..20, 20..40] {
        let mut opened = open(small.clone()).expect("opens");
        let acknowledged = if part.start == 0 {
            5
        } else {
            assert_eq!(opened.reader.split(0), Some(15));
            10
        };
        for record in golden().skip(part.start).take(part.len()) {
            opened.appender.try_append([&record[..]].into_iter()).expect("room");
        }
        let mut durable = opened.appender.durable();
        durable.wait_for(|durable| durable.seq == part.end as u64).await.expect("open");
        for _ in 0..acknowledged {
            let live = opened.reader.next(false).await.expect("open");
            assert!(opened.acker.ack(live.seq));
        }
        opened.spool.close().expect("written");
    }
    std::fs::create_dir_all(to).expect("a folder");
    for old in std::fs::read_dir(to).expect("readable") {
        std::fs::remove_file(old.expect("readable").path()).expect("removed");
    }
    for file in std::fs::read_dir(dir.path()).expect("readable") {
        let name = file.expect("readable").file_name();
        if name == "id" || Path::new(&name).extension().is_some_and(|extension| extension == "seg") {
            std::fs::copy(dir.path().join(&name), to.join(&name)).expect("copied");
        }
    }
}
