//! Takes up files that change while the program runs.
//!
//! Files are looked at every [`LOOK`], and when asked (SIGHUP). What has changed is read once it lies still, and only
//! counts if it is still the same after it was read: half-written files, and half of a folder, are not taken. What makes
//! no sense changes nothing: it is told in the log, once, and in [`Standing`] until it is put right.
//!
//! What is watched says how in a [`Watched`]: the rules, users and access files, the certificate of the TLS listener.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod bridge_toml;
pub(super) mod commands;
pub(super) mod devices;
pub(super) mod fence;
pub(super) mod rules;
mod standing;
#[cfg(test)]
mod tests;

pub use bridge_toml::BridgeToml;
pub(super) use standing::{Refused, Standing};

/// Why files are not taken into use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTaken {
    /// In a sentence.
    pub why: String,
    /// What is wrong, place by place; empty where there is no more to say, or where it is nobody else's business.
    pub findings: String,
}

impl From<String> for NotTaken {
    fn from(why: String) -> Self {
        Self { why, findings: String::new() }
    }
}

/// What came of a reload that somebody asked for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// In use as they are on disk.
    pub in_use: Vec<&'static str>,
    /// Refused: what was in use stays.
    pub refused: Vec<(&'static str, NotTaken)>,
    /// Keys of bridge.toml that have changed and are read at start only.
    pub restart_for: Vec<String>,
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How long files must lie still when somebody asked for them: he is done writing.
const STILL_WHEN_ASKED: Duration = Duration::from_millis(100);

/// How often that is waited for, and how often files are read that change meanwhile.
const SETTLE_AT_MOST: usize = 50;
const READ_AT_MOST: usize = 5;

/// Files that are taken up when they change. All of it is called on blocking threads.
pub(super) trait Watched: Send + Sync + 'static {
    /// What they are to the user.
    const WHAT: &'static str;
    /// How long they must lie still. An editor empties a file before it fills it; a folder is copied file by file.
    const STILL: Duration;
    /// They are taken again when somebody asks, also where nothing has changed since they were taken.
    const AGAIN: bool = true;
    /// What was read.
    type Found: Send;

    /// The files as they are now; those too that ought to be there.
    fn paths(&self) -> Vec<PathBuf>;

    /// Reads them and changes nothing.
    fn read(&self) -> Self::Found;

    /// Takes what was read into use, and tells the log; or says why what was in use stays. `asked` is somebody who wants
    /// to hear about it even if nothing has changed.
    fn take(&self, found: Self::Found, asked: bool) -> Result<(), NotTaken>;

    /// Called at every look.
    fn turn(&self) {}
}

/// What tells one state of a file from the next. The time of the last change of the inode cannot be set back, as that of
/// its contents is by `rsync --times`, and follows the permissions too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The files of a look; without a mark where one cannot be seen.
type Seen = Vec<(PathBuf, Option<Mark>)>;

/// Is told when the files asked for are in use or refused.
type Done = oneshot::Sender<(&'static str, Result<(), NotTaken>)>;

/// The watches of all files.
pub(super) struct Watches {
    standing: Arc<Standing>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    asked: Vec<Asked>,
}

/// A watch, by what it watches.
type Asked = (&'static str, mpsc::Sender<Done>);

/// Asks for a look at all files.
#[derive(Clone)]
pub struct Reloader {
    bridge_toml: Arc<BridgeToml>,
    asked: Vec<Asked>,
}

impl Watches {
    pub(super) fn new(standing: Arc<Standing>) -> Self {
        Self { standing, stop: CancellationToken::new(), tasks: Vec::new(), asked: Vec::new() }
    }

    /// Watches files whose state is in use.
    pub(super) fn add<W: Watched>(&mut self, watched: W) {
        let known = look(&watched);
        self.spawn(watched, Some(known));
    }

    /// Watches files that may have changed since they were read: they are read again at once.
    pub(super) fn add_unseen<W: Watched>(&mut self, watched: W) {
        self.spawn(watched, None);
    }

    fn spawn<W: Watched>(&mut self, watched: W, known: Option<Seen>) {
        let (sender, asked) = mpsc::channel(1);
        let watch = Watch { watched: Arc::new(watched), standing: Arc::clone(&self.standing), known, refused: false };
        self.tasks.push(tokio::spawn(watch.run(asked, self.stop.clone())));
        self.asked.push((W::WHAT, sender));
    }

    /// Is cancelled when files are looked at no more.
    pub(super) fn ended(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub(super) fn reloader(&self, bridge_toml: Arc<BridgeToml>) -> Reloader {
        Reloader { bridge_toml, asked: self.asked.clone() }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

impl Reloader {
    /// Has all files looked at; returns when what they say is in use or refused.
    pub async fn reload(&self) -> Reloaded {
        let bridge_toml = Arc::clone(&self.bridge_toml);
        let mut reloaded = Reloaded::default();
        match tokio::task::spawn_blocking(move || bridge_toml.compare()).await {
            Ok(Ok(keys)) => reloaded.restart_for = keys,
            Ok(Err(trouble)) => reloaded.refused.push(("bridge.toml", trouble)),
            Err(_) => {}
        }
        self.ask(&mut reloaded, |_| true).await;
        reloaded
    }

    /// Has one kind of files looked at.
    pub(super) async fn reload_only<W: Watched>(&self) -> Result<(), NotTaken> {
        let mut reloaded = Reloaded::default();
        self.ask(&mut reloaded, |what| what == W::WHAT).await;
        reloaded.refused.pop().map_or(Ok(()), |(_, why)| Err(why))
    }

    async fn ask(&self, reloaded: &mut Reloaded, wanted: impl Fn(&str) -> bool) {
        let mut waiting = Vec::new();
        for (_, watch) in self.asked.iter().filter(|(what, _)| wanted(what)) {
            let (done, wait) = oneshot::channel();
            if watch.send(done).await.is_ok() {
                waiting.push(wait);
            }
        }
        for wait in waiting {
            match wait.await {
                Ok((what, Ok(()))) => reloaded.in_use.push(what),
                Ok((what, Err(trouble))) => reloaded.refused.push((what, trouble)),
                Err(_) => {}
            }
        }
    }
}

/// One kind of files.
struct Watch<W> {
    watched: Arc<W>,
    standing: Arc<Standing>,
    /// What was last taken or refused.
    known: Option<Seen>,
    refused: bool,
}

impl<W: Watched> Watch<W> {
    async fn run(mut self, mut asked: mpsc::Receiver<Done>, stop: CancellationToken) {
        // Everything may be broken off: a disk of the network that does not answer must not keep the program from ending.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch(&mut asked) => {}
        }
        self.watched.turn();
    }

    async fn watch(&mut self, asked: &mut mpsc::Receiver<Done>) {
        if self.known.is_none() {
            let _ = self.take_up(false).await;
        }
        loop {
            let done = tokio::select! {
                () = tokio::time::sleep(LOOK) => None,
                done = asked.recv() => match done {
                    Some(done) => Some(done),
                    None => return,
                },
            };
            let watched = Arc::clone(&self.watched);
            let seen = blocking(move || {
                watched.turn();
                look(&*watched)
            });
            let changed = seen.await != self.known;
            match done {
                Some(done) => {
                    let result = match changed || W::AGAIN || self.refused {
                        true => self.take_up(true).await,
                        false => Ok(()),
                    };
                    let _ = done.send((W::WHAT, result));
                }
                None if changed => {
                    let _ = self.take_up(false).await;
                }
                None => {}
            }
        }
    }

    /// Takes the files as they are now.
    async fn take_up(&mut self, asked: bool) -> Result<(), NotTaken> {
        let taking = async {
            for _ in 0..READ_AT_MOST {
                let still = if asked { STILL_WHEN_ASKED.min(W::STILL) } else { W::STILL };
                let seen = settled(&self.watched, still).await?;
                let (watched, before) = (Arc::clone(&self.watched), seen.clone());
                let taken = blocking(move || {
                    let found = watched.read();
                    (look(&*watched) == before).then(|| watched.take(found, asked))
                });
                if let Some(result) = taken.await? {
                    return Some((seen, result));
                }
            }
            None
        };
        let result = match taking.await {
            Some((seen, result)) => {
                self.known = Some(seen);
                result
            }
            None => {
                // It is tried again at the next look.
                self.known = None;
                let why = format!("{} are not taken up: they are being written all the time", W::WHAT);
                if !self.standing.says(W::WHAT, &why) {
                    tracing::error!("{why}");
                }
                Err(why.into())
            }
        };
        self.refused = result.is_err();
        self.standing.note(W::WHAT, result.as_ref().copied().map_err(|trouble| trouble.why.clone()));
        result
    }
}

/// `None` where it panicked or the program ends.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The files once nobody writes them any more; `None` where that does not happen.
async fn settled<W: Watched>(watched: &Arc<W>, still: Duration) -> Option<Seen> {
    let now = || {
        let watched = Arc::clone(watched);
        blocking(move || look(&*watched))
    };
    let mut seen = now().await?;
    for _ in 0..SETTLE_AT_MOST {
        tokio::time::sleep(still).await;
        let now = now().await?;
        if now == seen {
            return Some(seen);
        }
        seen = now;
    }
    None
}

fn look(watched: &impl Watched) -> Seen {
    let marked = |path: PathBuf| {
        let mark = mark(&path);
        (path, mark)
    };
    watched.paths().into_iter().map(marked).collect()
}

/// The state of a file; `None` where it cannot be seen.
fn mark(path: &Path) -> Option<Mark> {
    let seen = fs::metadata(path).ok()?;
    Some(Mark {
        inode: seen.ino(),
        len: seen.len(),
        modified: (seen.mtime(), seen.mtime_nsec()),
        changed: (seen.ctime(), seen.ctime_nsec()),
    })
}
