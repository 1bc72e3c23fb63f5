//! The control socket: how `queue`, `quarantine`, `tap`, `unmatched` and `record` ask the running bridge to do something.
//!
//! A Unix socket `control.sock` in the state folder, for its owner (mode 0600) and root: whoever may write the spool's
//! files may do this too, and nobody else, no browser and no other machine. A client writes one line of JSON, a
//! [`Request`], and reads one line of JSON, an [`Answer`]; then the connection ends. After [`Request::Watch`] the
//! answer is [`Answer::Watching`], and lines follow until either side closes. A client that closes only its own
//! direction still gets the lines of what came before that, as everybody does at the end of the bridge.
//!
//! It owns the socket and the lines. What is done comes in through [`Control`].

use std::fmt;
use std::fs;
use std::future::Future;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::message::{Presence, Publish};
use crate::topic;
use crate::watch::Filter;
use crate::watch::busiest::Counted;

/// Connections served at one time.
const MAX_CONNECTIONS: usize = 8;
/// The longest line either way.
const MAX_LINE: u64 = 16 << 20;
/// Time to write a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last lines may take at the end of the bridge.
const LAST_LINES: Duration = Duration::from_secs(3);
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
        /// Those that follow this id in the order of ids: at most [`DEVICES_AT_ONCE`].
        #[serde(default)]
        after: Option<String>,
    },
    /// Let devices in, or keep them out.
    DevicesSay {
        /// Their ids, at most [`MAX_DEVICES`].
        ids: Vec<String>,
        /// Let them in.
        approve: bool,
    },
    /// The busiest topics that no rule takes.
    Unmatched {
        /// Count anew from now on.
        reset: bool,
    },
    /// Show what comes in, line by line.
    Watch(Watch),
}

/// What is to be shown line by line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "watch", rename_all = "kebab-case")]
pub enum Watch {
    /// Publishes and what became of them: lines are a [`Sight`](crate::watch::Sight), or `{"missed":n}` before the
    /// next one where `n` are left out.
    Tap {
        /// Which of them.
        filter: Filter,
        /// Bytes of each payload.
        excerpt: usize,
        /// At most so many a second.
        rate: u32,
    },
    /// Publishes, and clients that come and go, in full: lines are those of [`traffic`](crate::watch::traffic).
    Record {
        /// Only publishes that this topic filter matches.
        topic: Option<String>,
    },
}

impl Watch {
    /// False for what it does not show, whatever becomes of it.
    pub fn may_want(&self, publish: &Publish<'_>, presence: Option<&Presence<'_>>) -> bool {
        match self {
            Self::Tap { filter, .. } => filter.may_want(publish, presence),
            Self::Record { topic: None } => true,
            Self::Record { topic: Some(filter) } => presence.is_none() && topic::matches(filter, publish.topic),
        }
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap { filter, rate, .. } => write!(f, "tap of {filter}, at most {rate} a second"),
            Self::Record { topic: None } => f.write_str("record of all publishes, comings and goings"),
            Self::Record { topic: Some(filter) } => write!(f, "record of publishes on {filter:?}"),
        }
    }
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
    /// Its place in the spool.
    pub number: u64,
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

/// Devices of one answer; there may be more where it has so many.
pub const DEVICES_AT_ONCE: usize = 5_000;

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
    /// The busiest topics that no rule takes.
    Unmatched(Counted),
    /// Lines follow.
    Watching,
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
    /// What is shown line by line.
    type Feed: Feed;

    /// Carries a request out.
    fn answer(&self, request: Request) -> impl Future<Output = Answer> + Send;

    /// Begins to show something; the error says why not.
    fn watch(&self, watch: Watch) -> Result<Self::Feed, String>;
}

/// Lines without an end, for one connection.
pub trait Feed: Send {
    /// Appends the next lines, or none after a while; false says that there will be no more.
    fn next(&mut self, lines: &mut Vec<u8>) -> impl Future<Output = bool> + Send;

    /// Lets nothing more in; what is there still comes.
    fn close(&mut self);
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
            if let Err(error) = one(stream, &*control, &stop).await {
                tracing::debug!("control: {error}");
            }
            drop(place);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn one<C: Control>(stream: UnixStream, control: &C, stop: &CancellationToken) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(MAX_LINE));
    let answered = async {
        tokio::time::timeout(REQUEST_TIMEOUT, read.read_line(&mut line)).await??;
        let answer = match serde_json::from_str(&line) {
            Ok(Request::Watch(watch)) => match control.watch(watch) {
                Ok(feed) => return Ok(Some(feed)),
                Err(why) => Answer::Failed(why),
            },
            Ok(request) => control.answer(request).await,
            Err(error) => Answer::Failed(format!("this is no request of this version: {error}")),
        };
        write.write_all(&line_of(&answer)?).await.map(|()| None)
    };
    let feed = tokio::select! {
        feed = answered => feed?,
        () = stop.cancelled() => None,
    };
    let Some(feed) = feed else { return Ok(()) };
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_LINES).await;
    };
    tokio::select! {
        shown = show(feed, (read, write), stop) => shown,
        () = too_late => Ok(()),
    }
}

fn line_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Shows lines until either side ends, and then those of what came before. Whoever does not read them is waited for:
/// the feed is bounded.
async fn show<F: Feed>(
    mut feed: F,
    (mut read, mut write): (impl AsyncRead + Unpin, OwnedWriteHalf),
    stop: &CancellationToken,
) -> io::Result<()> {
    write.write_all(&line_of(&Answer::Watching)?).await?;
    let (mut lines, mut end, mut is_open) = (Vec::new(), [0], true);
    loop {
        lines.clear();
        let more = tokio::select! {
            more = feed.next(&mut lines) => more,
            // There is nothing more to ask for: this is the end of whoever looked.
            _ = read.read(&mut end), if is_open => {
                is_open = false;
                feed.close();
                continue;
            }
            () = stop.cancelled(), if is_open => {
                is_open = false;
                feed.close();
                continue;
            }
        };
        write.write_all(&lines).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Asks the bridge whose state folder it is. `NotFound` and `ConnectionRefused` say that none runs.
pub fn ask(state: &Path, request: &Request) -> io::Result<Answer> {
    let mut answer = String::new();
    BufReader::new(asked(state, request)?.take(MAX_LINE)).read_line(&mut answer)?;
    read_answer(&answer)
}

/// Begins to look on. The lines come from the reader; the stream is to end them from elsewhere.
pub fn watch(state: &Path, watch: Watch) -> io::Result<Result<(BufReader<StdStream>, StdStream), String>> {
    let stream = asked(state, &Request::Watch(watch))?;
    let mut lines = BufReader::with_capacity(64 << 10, stream.try_clone()?);
    let mut answer = String::new();
    lines.by_ref().take(MAX_LINE).read_line(&mut answer)?;
    stream.set_read_timeout(None)?;
    match read_answer(&answer)? {
        Answer::Watching => Ok(Ok((lines, stream))),
        Answer::Failed(why) => Ok(Err(why)),
        _ => Ok(Err("the bridge gave another answer".to_owned())),
    }
}

fn asked(state: &Path, request: &Request) -> io::Result<StdStream> {
    let mut stream = StdStream::connect(state.join(SOCKET))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&line_of(request)?)?;
    Ok(stream)
}

fn read_answer(line: &str) -> io::Result<Answer> {
    serde_json::from_str(line).map_err(|error| io::Error::other(format!("the answer cannot be read: {error}")))
}
