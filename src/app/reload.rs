//! Takes up changed users and access files, and writes what is learned.
//!
//! Files are looked at every [`LOOK`] and on SIGHUP. A file with errors keeps what is in use, says so in the log with
//! its findings, and sets `config_last_reload_successful` to 0 until it is put right.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::gate::{Files, Keeper};

/// How often the files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// How long a file must lie still, and how often that is waited for.
const SETTLE: Duration = Duration::from_millis(100);
const SETTLE_AT_MOST: usize = 50;

/// What tells one state of a file from the next.
pub(super) type Mark = Option<(u64, i64, i64, u64)>;

/// Watches until `stop`. `sound` tells whether the files on disk are the ones in use.
pub(super) async fn run(files: Files, keeper: Keeper, sound: Arc<AtomicBool>, stop: CancellationToken) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut page = Page::default();
    let mut known = marks(&files);
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return page.turn(&files, &keeper),
            () = tokio::time::sleep(LOOK) => false,
            () = hung_up(&mut hangup) => true,
        };
        page.turn(&files, &keeper);
        if asked || marks(&files) != known {
            known = settled(|| marks(&files)).await;
            let files = files.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || files.read(0)).await else { continue };
            sound.store(read.policy.is_some(), Ordering::Relaxed);
            let told: String = read.found.iter().map(|found| found.render(&read.sources, false)).collect();
            match read.policy {
                Some(policy) => {
                    keeper.replace(policy);
                    tracing::info!("users and access files taken up{}{told}", if told.is_empty() { "" } else { ":\n" });
                }
                None => tracing::error!("users and access files have errors, the old ones stay in use:\n{told}"),
            }
        }
    }
}

/// The files once nobody writes them any more: an editor empties a file before it fills it.
pub(super) async fn settled<M: PartialEq>(marks: impl Fn() -> M) -> M {
    let mut seen = marks();
    for _ in 0..SETTLE_AT_MOST {
        tokio::time::sleep(SETTLE).await;
        let now = marks();
        if now == seen {
            break;
        }
        seen = now;
    }
    seen
}

pub(super) async fn hung_up(hangup: &mut Option<tokio::signal::unix::Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

fn marks(files: &Files) -> [Mark; 2] {
    [&files.users, &files.access].map(|path| mark(path.as_ref()?))
}

/// The state of a file; `None` where it cannot be seen.
pub(super) fn mark(path: &Path) -> Mark {
    let seen = fs::metadata(path).ok()?;
    Some((seen.ino(), seen.mtime(), seen.mtime_nsec(), seen.len()))
}

/// What is learned and not yet on disk.
#[derive(Default)]
struct Page {
    unwritten: Option<String>,
    told: bool,
}

impl Page {
    /// Writes what was learned since the last time, or could not be written then.
    fn turn(&mut self, files: &Files, keeper: &Keeper) {
        self.unwritten = keeper.learned().or(self.unwritten.take());
        let Some((path, text)) = files.learn.as_deref().zip(self.unwritten.as_ref()) else { return };
        match write(path, text) {
            Ok(()) => *self = Self::default(),
            Err(error) if !self.told => {
                tracing::warn!("what is learned cannot be written to {}: {error}", path.display());
                self.told = true;
            }
            Err(_) => {}
        }
    }
}

/// A reader sees the old file or the new one, whole.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, text)?;
    fs::rename(&new, path)
}
