//! What the spool does on this machine: durable messages a second, append to durable, start with a backlog.
//!
//! `cargo bench --bench spool`. Works in a folder under `target/` and removes it.

use std::path::Path;
use std::time::{Duration, Instant};

use brownbridge::spool::{AppendError, Appender, Opened, Options, open};

const RECORD: usize = 300;
const RUN: Duration = Duration::from_millis(700);
const BACKLOG: u64 = 1 << 30;

fn main() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let root = tempfile::tempdir_in(target).expect("a folder under target/");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
    println!("{:>6} {:>7} {:>12} {:>10} {:>10} {:>9}", "tasks", "window", "durable/s", "p50 us", "p99 us", "msg/sync");
    for tasks in [1, 10, 100] {
        for window in [1, 20] {
            let dir = root.path().join(format!("{tasks}-{window}"));
            runtime.block_on(throughput(&dir, tasks, window));
            std::fs::remove_dir_all(&dir).expect("removed");
        }
    }
    runtime.block_on(backlog(&root.path().join("backlog")));
}

async fn throughput(dir: &Path, tasks: usize, window: usize) {
    let Opened { appender, mut reader, acker, spool, .. } = open(Options::new(dir, 1 << 30)).expect("opens");
    let uplink = tokio::spawn(async move {
        while let Some(stored) = reader.next(true).await {
            acker.ack(stored.seq);
        }
    });
    let started = Instant::now();
    let publishers: Vec<_> =
        (0..tasks).map(|_| tokio::spawn(publish(appender.clone(), window, started + RUN))).collect();
    let mut times = Vec::new();
    for publisher in publishers {
        times.extend(publisher.await.expect("no panic"));
    }
    let elapsed = started.elapsed().as_secs_f64();
    let stats = appender.stats();
    spool.close().expect("written");
    uplink.await.expect("no panic");
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).map_or(0, Duration::as_micros);
    let per_second = stats.appended as f64 / elapsed;
    let per_sync = stats.appended as f64 / stats.commits.max(1) as f64;
    println!("{tasks:>6} {window:>7} {per_second:>12.0} {:>10} {:>10} {per_sync:>9.1}", at(50), at(99));
}

/// Keeps `window` messages on the way, as a client with that in-flight window does.
async fn publish(appender: Appender, window: usize, until: Instant) -> Vec<Duration> {
    let record = vec![b'x'; RECORD];
    let mut durable = appender.durable();
    let mut times = Vec::new();
    let mut flying = std::collections::VecDeque::new();
    while Instant::now() < until {
        while flying.len() < window {
            match appender.try_append(std::iter::once(&record[..])) {
                Ok(ticket) => flying.push_back((ticket.0, Instant::now())),
                Err(AppendError::Full) => appender.room().await,
                Err(error) => panic!("{error}"),
            }
        }
        let first = flying.front().map_or(0, |(seq, _)| *seq);
        let seq = durable.wait_for(|durable| durable.seq >= first).await.expect("open").seq;
        while let Some((_, appended)) = flying.pop_front_if(|(flying, _)| *flying <= seq) {
            times.push(appended.elapsed());
        }
    }
    times
}

async fn backlog(dir: &Path) {
    let options = Options::new(dir, 2 * BACKLOG);
    let Opened { appender, spool, .. } = open(options.clone()).expect("opens");
    let record = vec![b'x'; RECORD];
    let filling = Instant::now();
    while appender.stats().bytes_written < BACKLOG {
        for _ in 0..1000 {
            while appender.try_append(std::iter::repeat_n(&record[..], 10)).is_err() {
                appender.room().await;
            }
        }
    }
    let stats = appender.stats();
    let written = stats.bytes_written as f64 / (stats.appended * RECORD as u64) as f64;
    spool.close().expect("written");
    println!("backlog of {} messages in {:?}, {written:.3} bytes written per byte", stats.appended, filling.elapsed());
    let opening = Instant::now();
    let Opened { mut reader, acker, recovered, spool, .. } = open(options).expect("opens");
    let opened = opening.elapsed();
    let first = reader.next(true).await.expect("a record");
    let first_read = opening.elapsed();
    acker.ack(first.seq);
    for _ in 1..recovered.waiting {
        let stored = reader.next(true).await.expect("a record");
        acker.ack(stored.seq);
    }
    let drained = opening.elapsed().as_secs_f64();
    println!("open {opened:?}, first read {first_read:?}, drained at {:.0} msg/s", recovered.waiting as f64 / drained);
    spool.close().expect("written");
}
