//! The control socket: how the commands `queue` and `quarantine` ask the running bridge to do something.
//!
//! A Unix socket `control.sock` in the state folder, for its owner (mode 0600) and root: whoever may write the spool's
//! files may do this too, and nobody else, no browser and no other machine. A client writes one line of JSON, a
//! [`Request`], and reads one line of JSON, an [`Answer`]; then the connection ends.
//!
//! It owns the socket and the lines. What is done comes in through [`Control`].

use std::fs;
use std::future::Future;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections served at one time.
const MAX_CONNECTIONS: usize = 8;
/// The longest line either way.
const MAX_LINE: u64 = 16 << 20;
/// Time to write a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a client waits for its answer: longer than a request waits for room in the spool.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The name of the socket in the state folder.
pub const SOCKET: &str = "control.sock";

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Give quarantined publishes to today's rules, and send quarantined hub messages again.
    Retry {
        /// Identifiers of entries, at most [`MAX_IDS`].
        ids: Vec<String>,
    },
    /// Delete entries of the quarantine.
    Drop {
        /// Identifiers of entries, at most [`MAX_IDS`].
        ids: Vec<String>,
    },
    /// How much waits, and of whom.
    QueueStat,
    /// The messages that wait first.
    QueuePeek {
        /// How many.
        first: usize,
        /// Only of this device.
        device: Option<String>,
    },
    /// Give waiting messages up.
    QueueDrop(Which),
    /// The devices that have a connection of their own.
    Devices {
        /// Only this one.
        id: Option<String>,
    },
    /// Let devices in, or keep them out.
    DevicesSay {
        /// Their ids, at most [`MAX_DEVICES`].
        ids: Vec<String>,
        /// Let them in.
        approve: bool,
    },
}

/// Which of the waiting messages are meant: those all of it is true of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// At most so many, the oldest.
    pub first: Option<u64>,
    /// Older than this.
    pub older_than_seconds: Option<u64>,
    /// Of this device; the empty one is the bridge's own.
    pub device: Option<String>,
}

/// What waits for the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStat {
    /// Messages.
    pub waiting: u64,
    /// Those of them that waited through an outage and follow the new ones.
    pub late: u64,
    /// Disk space of the spools.
    pub disk_bytes: u64,
    /// Age of the oldest that was looked at.
    pub oldest_seconds: u64,
    /// True while nothing more is taken.
    pub full: bool,
    /// How many messages the rest is about.
    pub looked_at: u64,
    /// Messages on the shelves of devices, which are not among the others.
    #[serde(default)]
    pub shelved: u64,
    /// By device, with what is on its shelf; the empty one is the bridge's own.
    pub devices: std::collections::BTreeMap<String, DeviceShare>,
}

/// What waits of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceShare {
    /// Messages.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest_seconds: u64,
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peeked {
    /// Its `$.mid`.
    pub message_id: String,
    /// Its device; empty for the bridge's own.
    pub device: String,
    /// When the plant published it.
    pub created: String,
    /// How long ago that was.
    pub age_seconds: u64,
    /// Bytes of the payload.
    pub size: u64,
    /// Its properties.
    pub properties: Vec<(String, String)>,
    /// The beginning of the payload.
    pub payload: String,
}

/// Most devices of one request.
pub const MAX_DEVICES: usize = 1_000;

/// Most entries of one request: their payloads are in memory together.
pub const MAX_IDS: usize = 64;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What became of each entry that was retried.
    Retried(Vec<Retried>),
    /// The entries that were deleted.
    Dropped(Vec<String>),
    /// What waits.
    Queue(QueueStat),
    /// The messages that wait first.
    Peeked(Vec<Peeked>),
    /// Messages were given up.
    Withdrawn {
        /// How many.
        messages: u64,
        /// There may be more of them: ask again.
        more: bool,
        /// There are more, but the spool cannot remember more gaps before some of what waits is delivered.
        scattered: bool,
    },
    /// The devices, as the status page shows them, each a JSON object.
    Devices(Vec<serde_json::Value>),
    /// What was said of devices is kept, and counts from now on.
    Said(u64),
    /// It could not be done.
    Failed(String),
}

/// What became of an entry that was retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// Its identifier.
    pub id: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an entry that was retried. All but the last two have left the quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The rules made hub messages of it; they wait for the hub.
    Translated,
    /// The rules drop it.
    Dropped,
    /// The hub message waits to be sent again.
    Queued,
    /// It failed again, and is in the quarantine as a new entry.
    Quarantined,
    /// There is no such entry any more.
    Gone,
    /// There was no room in the spool, or the entry is damaged: it stays.
    Kept,
}

/// Does what is asked for.
pub trait Control: Send + Sync + 'static {
    /// Carries a request out.
    fn answer(&self, request: Request) -> impl Future<Output = Answer> + Send;
}

/// A socket that is listened on; its file goes with it.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

/// Opens the socket in the state folder. The caller holds the lock of the spool, so what lies there is left over.
pub fn listen(state: &Path) -> io::Result<Listener> {
    let path = state.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(Listener { socket, path })
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves the socket until `stop`.
pub async fn serve<C: Control>(listener: Listener, control: Arc<C>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.socket.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (control, stop) = (Arc::clone(&control), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                served = one(stream, &*control) => {
                    if let Err(error) = served {
                        tracing::debug!("control: {error}");
                    }
                }
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn one<C: Control>(stream: UnixStream, control: &C) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(MAX_LINE));
    tokio::time::timeout(REQUEST_TIMEOUT, read.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => control.answer(request).await,
        Err(error) => Answer::Failed(format!("this is no request of this version: {error}")),
    };
    let mut answer = serde_json::to_vec(&answer)?;
    answer.push(b'\n');
    write.write_all(&answer).await
}

/// Asks the bridge whose state folder it is. `NotFound` and `ConnectionRefused` say that none runs.
pub fn ask(state: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = StdStream::connect(state.join(SOCKET))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer)?;
    serde_json::from_str(&answer).map_err(|error| io::Error::other(format!("the answer cannot be read: {error}")))
}
