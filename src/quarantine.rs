//! The quarantine: publishes the rules could not translate, kept with their original bytes and the reason.
//!
//! JSON lines in `*.jsonl` files, one object a publish, readable with any tool at two in the morning:
//!
//! | key | value |
//! |---|---|
//! | `time` | when the broker read it, RFC 3339 |
//! | `client`, `topic`, `qos`, `retain` | as published |
//! | `rule`, `reason`, `detail` | the rule that failed, a fixed word, a sentence |
//! | `payload` or `payload_base64` | the original bytes, as text where they are UTF-8 |
//!
//! [`Quarantine::put`] returns after fdatasync, so the publisher is acknowledged only then; entries that come
//! together share one. A write that fails is repeated in a new file until it succeeds, and nobody is
//! acknowledged meanwhile. The folder is bounded: the oldest file goes first, its entries counted.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::{mpsc, oneshot};

use crate::message::{Publish, Timestamp};

/// Entries that may wait for the writer.
const QUEUE: usize = 64;
/// Files the folder's bound is divided into.
const FILES: u64 = 8;
/// Pause before a failed write is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// Why a publish is here.
#[derive(Debug, Clone, Copy)]
pub struct Reason<'a> {
    /// The rule that failed; empty where no rule was involved.
    pub rule: &'a str,
    /// A fixed word, the counter's label.
    pub reason: &'a str,
    /// A sentence.
    pub detail: &'a str,
}

struct Job {
    line: Vec<u8>,
    done: oneshot::Sender<()>,
}

/// Puts publishes into the quarantine.
#[derive(Debug, Clone)]
pub struct Quarantine {
    jobs: mpsc::Sender<Job>,
}

/// Ends the writer when the last [`Quarantine`] is gone.
#[derive(Debug)]
pub struct Writer {
    thread: Option<JoinHandle<()>>,
}

/// Opens the folder, making it where it is missing, and starts its writer.
pub fn open(dir: &Path, max_size: u64) -> io::Result<(Quarantine, Writer)> {
    fs::create_dir_all(dir)?;
    let mut files = Files { dir: dir.to_owned(), max_size, current: None };
    files.resume()?;
    let (jobs, queue) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new().name("quarantine".into()).spawn(move || write(queue, files))?;
    Ok((Quarantine { jobs }, Writer { thread: Some(thread) }))
}

impl Quarantine {
    /// Stores a publish; the future is ready when it is on disk.
    pub fn put(&self, publish: &Publish<'_>, reason: Reason<'_>) -> impl Future<Output = ()> + Send + 'static {
        let line = line(publish, reason);
        let jobs = self.jobs.clone();
        async move {
            let (done, written) = oneshot::channel();
            let stored = jobs.send(Job { line, done }).await.is_ok() && written.await.is_ok();
            if !stored {
                // The program ends; what is not on disk is not acknowledged.
                std::future::pending().await
            }
        }
    }
}

impl Writer {
    /// Waits until everything put is on disk. Drop all [`Quarantine`]s first.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn line(publish: &Publish<'_>, reason: Reason<'_>) -> Vec<u8> {
    let mut entry = serde_json::json!({
        "time": publish.received.to_string(),
        "client": publish.client,
        "topic": publish.topic,
        "qos": publish.qos,
        "retain": publish.retain,
        "rule": reason.rule,
        "reason": reason.reason,
        "detail": reason.detail,
    });
    let (key, payload) = match std::str::from_utf8(publish.payload) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => ("payload_base64", BASE64_STANDARD.encode(publish.payload)),
    };
    if let Some(entry) = entry.as_object_mut() {
        entry.insert(key.to_owned(), payload.into());
    }
    let mut line = entry.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn write(mut queue: mpsc::Receiver<Job>, mut files: Files) {
    let mut jobs = Vec::with_capacity(QUEUE);
    while queue.blocking_recv_many(&mut jobs, QUEUE) > 0 {
        let lines: Vec<u8> = jobs.iter().flat_map(|job| job.line.iter().copied()).collect();
        while let Err(error) = files.append(&lines) {
            tracing::error!("the quarantine in {} cannot be written: {error}; trying again", files.dir.display());
            std::thread::sleep(RETRY);
        }
        for job in jobs.drain(..) {
            let _ = job.done.send(());
        }
    }
}

fn store(file: &mut File, lines: &[u8]) -> io::Result<()> {
    file.write_all(lines)?;
    file.sync_data()
}

fn count_lines(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let (mut lines, mut buffer) = (0, vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(lines),
            n => lines += memchr::memchr_iter(b'\n', buffer.get(..n).unwrap_or_default()).count() as u64,
        }
    }
}

struct Files {
    dir: PathBuf,
    max_size: u64,
    current: Option<(File, u64)>,
}

impl Files {
    /// Goes on with the newest file, after a line that a crash cut short.
    fn resume(&mut self) -> io::Result<()> {
        let Some(newest) = self.list()?.pop() else { return Ok(()) };
        let mut file = OpenOptions::new().read(true).append(true).open(&newest)?;
        let size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
        self.current = Some((file, size));
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        // After an error `current` stays empty: what a failed sync left behind is never trusted again.
        let (file, size) = match self.current.take() {
            Some((mut file, size)) if size < self.max_size / FILES => {
                store(&mut file, lines)?;
                (file, size)
            }
            _ => {
                let (path, mut file) = self.create()?;
                // The lines are written again: a new file that could not take them would hold them twice.
                store(&mut file, lines).inspect_err(|_| drop(fs::remove_file(&path)))?;
                (file, 0)
            }
        };
        self.current = Some((file, size + lines.len() as u64));
        if let Err(error) = self.evict() {
            tracing::warn!("old files of the quarantine in {} cannot be removed: {error}", self.dir.display());
        }
        Ok(())
    }

    fn create(&self) -> io::Result<(PathBuf, File)> {
        let now = Timestamp::now().0;
        for n in 0..1_000 {
            let path = self.dir.join(format!("{now:015}-{n:03}.jsonl"));
            match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    File::open(&self.dir)?.sync_all()?;
                    return Ok((path, file));
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn evict(&self) -> io::Result<()> {
        let files = self.list()?;
        let mut sizes = Vec::with_capacity(files.len());
        for file in &files {
            sizes.push(fs::metadata(file)?.len());
        }
        let mut total: u64 = sizes.iter().sum();
        let older = files.len().saturating_sub(1);
        for (path, size) in files.iter().zip(sizes).take(older) {
            if total <= self.max_size {
                break;
            }
            let entries = count_lines(path)?;
            fs::remove_file(path)?;
            total -= size;
            ::metrics::counter!("brownbridge_quarantine_evicted_total").increment(entries);
            tracing::warn!("the quarantine is full: {entries} entries of {} were given up", path.display());
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(payload: &[u8]) -> Publish<'_> {
        Publish { topic: "a/b", payload, client: "plc", user: None, qos: 1, retain: false, received: Timestamp(0) }
    }

    const REASON: Reason<'_> = Reason { rule: "press", reason: "not_json", detail: "expected value at column 1" };

    fn entries(dir: &Path) -> Vec<serde_json::Value> {
        let files = Files { dir: dir.to_owned(), max_size: 0, current: None };
        let texts = files.list().unwrap().into_iter().map(|path| fs::read_to_string(path).unwrap());
        texts.flat_map(|text| text.lines().map(serde_json::from_str).collect::<Vec<_>>()).flatten().collect()
    }

    #[tokio::test]
    async fn original_bytes_and_reason_are_kept_over_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        for (payload, key, expect) in
            [(&b"{oops"[..], "payload", "{oops"), (&[0xff, 0x00][..], "payload_base64", "/wA=")]
        {
            let (quarantine, writer) = open(dir.path(), 1 << 20).unwrap();
            quarantine.put(&publish(payload), REASON).await;
            drop(quarantine);
            writer.join();
            let newest =
                Files { dir: dir.path().to_owned(), max_size: 0, current: None }.list().unwrap().pop().unwrap();
            OpenOptions::new().append(true).open(newest).unwrap().write_all(b"{\"torn").unwrap();
            let last = entries(dir.path()).pop().unwrap();
            assert_eq!(last[key], expect);
            assert_eq!((last["rule"].as_str(), last["reason"].as_str()), (Some("press"), Some("not_json")));
        }
        assert_eq!(entries(dir.path()).len(), 2);
    }

    #[tokio::test]
    async fn the_oldest_files_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let (quarantine, writer) = open(dir.path(), 8 << 10).unwrap();
        for n in 0..100 {
            let payload = format!("{n:0400}");
            quarantine.put(&publish(payload.as_bytes()), REASON).await;
        }
        drop(quarantine);
        writer.join();
        let size: u64 = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 9 << 10, "{size}");
        let kept = entries(dir.path());
        assert!(kept.last().unwrap()["payload"].as_str().unwrap().ends_with("99"));
        assert!(kept.len() > 5);
    }
}
