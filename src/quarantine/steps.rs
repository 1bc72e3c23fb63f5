//! A quarantine without folder and thread: the test takes what is put into it, and says when it is on disk.

use tokio::sync::mpsc;

use super::{Entry, Job, QUEUE, Quarantine};

/// The place of the writer.
pub(crate) struct Steps(mpsc::Receiver<Job>);

/// A quarantine that is empty.
pub(crate) fn open() -> (Quarantine, Steps) {
    let (jobs, queue) = mpsc::channel(QUEUE);
    (Quarantine { jobs }, Steps(queue))
}

impl Steps {
    /// Stores one entry; `None` where none waits.
    pub(crate) fn store(&mut self) -> Option<Entry> {
        let Job::Put { line, settled, done } = self.0.try_recv().ok()? else { return None };
        settled();
        let _ = done.send(());
        Entry::parse(std::str::from_utf8(&line).ok()?)
    }
}
