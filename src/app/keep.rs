//! Keeps the broker's sessions and retained messages in a journal.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use crate::broker::{self, Restored, Store};
use crate::journal::{self, Journal, Writer};

/// Bytes of records that may wait for the disk, unless the queue of one client alone may be larger.
const MAX_PENDING: usize = 64 << 20;

#[derive(Debug)]
struct Keep(Journal);

impl Store for Keep {
    fn append(&self, record: &[u8]) {
        self.0.append(record);
    }

    fn begin_anew(&self) {
        self.0.begin_anew();
    }

    fn written_anew(&self) {
        self.0.written_anew();
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.room())
    }

    fn outgrown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.outgrown())
    }
}

/// Opens the journal in `dir`, gives it to the broker, and reads what an earlier process left.
pub(super) fn open(dir: &Path, options: &mut broker::Options) -> io::Result<(Journal, Writer, Restored)> {
    let mut restored = Restored::default();
    let max_pending = options.subscriber_queue_bytes.saturating_mul(2).max(MAX_PENDING);
    let (journal, writer, _) = journal::open(dir, max_pending, |record| restored.read(record))?;
    let (sessions, retained, unreadable) = restored.counts();
    if unreadable > 0 {
        tracing::warn!(unreadable, "{}: records that say nothing were passed over", dir.display());
    }
    tracing::info!(sessions, retained, "sessions and retained messages are back");
    options.store = Some(Arc::new(Keep(journal.clone())));
    Ok((journal, writer, restored))
}
