//! What `tap` and `record` share: lines of a running bridge until somebody ends it.

use std::io::{self, BufRead as _, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::run::told_to_stop;
use super::running::is_none_there;
use crate::control::{self, Watch};

/// Lines of a running bridge.
pub(super) struct Watching {
    lines: BufReader<UnixStream>,
    end: Arc<AtomicU8>,
}

/// Why there are no more lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The bridge ended, or closed the line.
    Bridge,
    /// Ctrl-C or SIGTERM.
    Signal,
    /// The time is over.
    Time,
}

impl Watching {
    /// Begins; it ends at Ctrl-C, SIGTERM and after `time`.
    pub(super) fn begin(state: &Path, watch: Watch, time: Option<Duration>) -> Result<Self, String> {
        let begun = control::watch(state, watch);
        let (lines, stream) = match begun {
            Ok(begun) => begun?,
            Err(error) if is_none_there(&error) => {
                return Err("no bridge runs here: only a running one can be watched".to_owned());
            }
            Err(error) => {
                return Err(format!("{} cannot be asked: {error}", state.join(control::SOCKET).display()));
            }
        };
        let end = Arc::new(AtomicU8::new(End::Bridge as u8));
        let (told, ready) = mpsc::sync_channel(1);
        let noted = Arc::clone(&end);
        std::thread::spawn(move || ends(&stream, &noted, time, &told));
        // From here on Ctrl-C ends it cleanly.
        let _ = ready.recv();
        Ok(Self { lines, end })
    }

    /// The next line, with its end; false where there are no more.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> bool {
        line.clear();
        // What the end cut off is no line.
        self.lines.read_until(b'\n', line).is_ok_and(|read| read > 0) && line.ends_with(b"\n")
    }

    /// True where the next line is here already.
    pub(super) fn has_more(&self) -> bool {
        !self.lines.buffer().is_empty()
    }

    /// Why there are no more lines.
    pub(super) fn end(&self) -> End {
        let noted = self.end.load(Ordering::Relaxed);
        [End::Signal, End::Time].into_iter().find(|end| *end as u8 == noted).unwrap_or(End::Bridge)
    }
}

/// Closes the stream when it is time.
fn ends(stream: &UnixStream, end: &AtomicU8, time: Option<Duration>, ready: &mpsc::SyncSender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let stop = told_to_stop();
        let _ = ready.send(());
        let over = async {
            match time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            _ = stop => End::Signal,
            () = over => End::Time,
        };
        end.store(why as u8, Ordering::Relaxed);
        let _ = stream.shutdown(Shutdown::Both);
        // Whoever cannot write the last lines is ended by the second Ctrl-C.
        told_to_stop().await;
        std::process::exit(130);
    });
}

/// Writes for a reader that may be gone: false says that it is.
pub(super) fn write_out(text: &[u8]) -> bool {
    use io::Write as _;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).is_ok()
}
