//! The quarantine: publishes the rules could not translate, and hub messages the hub would not take, kept with their
//! original bytes and the reason.
//!
//! JSON lines in `*.jsonl` files, one object an entry, readable with any tool at two in the morning:
//!
//! | key | value |
//! |---|---|
//! | `time` | when the broker read it, RFC 3339 |
//! | `client`, `user` (where proved), `topic`, `qos`, `retain` | of a publish, as published |
//! | `message_id`, `device`, `properties`, `record_base64` | of a hub message; the last is what is sent again |
//! | `rule`, `reason`, `detail` | the rule that failed, a fixed word, a sentence |
//! | `payload` or `payload_base64` | the original bytes, as text where they are UTF-8 |
//! | `nr` | a number that makes each line another one |
//!
//! [`Quarantine::put`] returns after fdatasync, so the publisher is acknowledged only then; entries that come
//! together share one. What is told by [`put`](Quarantine::put) of its being there is told by the writer, so that an entry
//! counts also where its publisher has gone meanwhile. A write that fails is repeated in a new file until it succeeds, and nobody is
//! acknowledged meanwhile. The folder is bounded: the oldest file goes first, its entries counted.
//!
//! An entry is named by a hash of its line. [`Quarantine::take`] writes a file anew without the entries taken and puts
//! it in the place of the old one, so that a reader sees either. The folder is locked by the process that writes it;
//! [`read`] needs no lock.

use std::collections::HashSet;
use std::fs::File;
use std::future::Future;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::message::Publish;

mod entry;
mod files;
#[cfg(test)]
pub(crate) mod steps;
#[cfg(test)]
mod tests;

pub use entry::Entry;
use files::Files;

/// Entries that may wait for the writer.
const QUEUE: usize = 64;
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

enum Job {
    Put { line: Vec<u8>, settled: Box<dyn FnOnce() + Send>, done: oneshot::Sender<()> },
    Take { ids: HashSet<String>, done: oneshot::Sender<io::Result<Vec<String>>> },
}

/// Puts entries into the quarantine, and takes them out.
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
    let files = Files::open(dir, max_size)?;
    let (jobs, queue) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new().name("quarantine".into()).spawn(move || write(queue, files))?;
    Ok((Quarantine { jobs }, Writer { thread: Some(thread) }))
}

/// Reads all entries, the oldest first, until `with` says no. A folder that is not there has none.
pub fn read(dir: &Path, mut with: impl FnMut(Entry) -> bool) -> io::Result<()> {
    let files = match files::list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    for path in files {
        let mut lines = match File::open(&path) {
            // Given up, or taken, since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => BufReader::new(file?),
        };
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let entry = std::str::from_utf8(&line).ok().and_then(Entry::parse);
            if entry.is_some_and(|entry| !with(entry)) {
                return Ok(());
            }
            line.clear();
        }
    }
    Ok(())
}

impl Quarantine {
    /// Stores a publish; the future is ready when it is on disk. `settled` is called then, also where the future is
    /// dropped before; it is dropped uncalled where the future is dropped before there was room in the queue.
    pub fn put(
        &self,
        publish: &Publish<'_>,
        reason: Reason<'_>,
        settled: impl FnOnce() + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.store(entry::of_publish(publish, reason), Box::new(settled))
    }

    /// Stores a hub message; the future is ready when it is on disk.
    pub fn put_message(
        &self,
        message_id: &str,
        record: &[u8],
        reason: Reason<'_>,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.store(entry::of_message(message_id, record, reason), Box::new(|| ()))
    }

    fn store(&self, line: Vec<u8>, settled: Box<dyn FnOnce() + Send>) -> impl Future<Output = ()> + Send + 'static {
        let (done, written) = oneshot::channel();
        let sent = self.jobs.try_send(Job::Put { line, settled, done });
        let jobs = self.jobs.clone();
        async move {
            let sent = match sent {
                Err(TrySendError::Full(job)) => jobs.send(job).await.is_ok(),
                sent => sent.is_ok(),
            };
            if !(sent && written.await.is_ok()) {
                // The program ends; what is not on disk is not acknowledged.
                std::future::pending().await
            }
        }
    }

    /// Takes entries out; returns the identifiers of those that were there.
    pub async fn take(&self, ids: HashSet<String>) -> io::Result<Vec<String>> {
        let (done, taken) = oneshot::channel();
        let ended = || io::Error::other("the quarantine is closed");
        self.jobs.send(Job::Take { ids, done }).await.map_err(|_| ended())?;
        taken.await.map_err(|_| ended())?
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

fn write(mut queue: mpsc::Receiver<Job>, mut files: Files) {
    let mut jobs = Vec::with_capacity(QUEUE);
    while queue.blocking_recv_many(&mut jobs, QUEUE) > 0 {
        let (mut lines, mut stored, mut takes) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs.drain(..) {
            match job {
                Job::Put { mut line, settled, done } => {
                    lines.append(&mut line);
                    stored.push((settled, done));
                }
                Job::Take { ids, done } => takes.push((ids, done)),
            }
        }
        while let Err(error) = if stored.is_empty() { Ok(()) } else { files.append(&lines) } {
            tracing::error!("the quarantine in {} cannot be written: {error}; trying again", files.dir.display());
            std::thread::sleep(RETRY);
        }
        for (settled, done) in stored {
            settled();
            let _ = done.send(());
        }
        for (ids, done) in takes {
            let _ = done.send(files.take(ids));
        }
    }
}
