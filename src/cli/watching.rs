//! What `tap` and `record` share: lines of a running bridge until somebody ends it.
//!
//! A tap ends at once. A recording ends with what came before its end: it tells the bridge, which sends what waits and a
//! gap for what is missing, and closes.

use std::io::{self, BufRead as _, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

use super::run::told_to_stop;
use super::running::is_none_there;
use crate::control::{self, Watch};

/// How long a bridge may take with the last lines.
const LAST_LINES: Duration = Duration::from_secs(10);

/// Lines of a running bridge.
pub(super) struct Watching {
    lines: BufReader<UnixStream>,
    end: Arc<AtomicU8>,
    /// The last line has no end.
    is_cut: bool,
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
        let how = if matches!(watch, Watch::Record { .. }) { Shutdown::Write } else { Shutdown::Both };
        let end = Arc::new(AtomicU8::new(End::Bridge as u8));
        let (told, ready) = mpsc::sync_channel(1);
        let (line, taken) = oneshot::channel();
        let noted = Arc::clone(&end);
        std::thread::spawn(move || ends((taken, how), &noted, time, &told));
        // From here on Ctrl-C ends it cleanly.
        let _ = ready.recv();
        let (lines, stream) = match control::watch(state, watch) {
            Ok(begun) => begun?,
            Err(error) if is_none_there(&error) => {
                return Err("no bridge runs here: only a running one can be watched".to_owned());
            }
            Err(error) => {
                return Err(format!("{} cannot be asked: {error}", state.join(control::SOCKET).display()));
            }
        };
        let _ = line.send(stream);
        Ok(Self { lines, end, is_cut: false })
    }

    /// The next line, with its end; false where there are no more.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> bool {
        line.clear();
        let read = self.lines.read_until(b'\n', line);
        // What the end cut off is no line.
        self.is_cut = !line.is_empty() && !line.ends_with(b"\n");
        read.is_ok() && !line.is_empty() && !self.is_cut
    }

    /// True where the end cut a line off.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
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
fn ends(
    (mut stream, how): (oneshot::Receiver<UnixStream>, Shutdown),
    end: &AtomicU8,
    time: Option<Duration>,
    ready: &mpsc::SyncSender<()>,
) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let mut stop = pin!(told_to_stop());
        let _ = ready.send(());
        let (stream, why) = tokio::select! {
            biased;
            stream = &mut stream => (stream, None),
            // It ends as soon as it has begun, or at the second Ctrl-C.
            _ = &mut stop => tokio::select! {
                stream = stream => (stream, Some(End::Signal)),
                _ = told_to_stop() => std::process::exit(130),
            },
        };
        // There is none: that is told already.
        let Ok(stream) = stream else { return };
        let over = async {
            match time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        let why = match why {
            Some(why) => why,
            None => tokio::select! {
                _ = stop => End::Signal,
                () = over => End::Time,
            },
        };
        end.store(why as u8, Ordering::Relaxed);
        let _ = stream.shutdown(how);
        let closes = async {
            tokio::time::sleep(LAST_LINES).await;
            let _ = stream.shutdown(Shutdown::Both);
            std::future::pending().await
        };
        // Whoever cannot write the last lines is ended by the second Ctrl-C.
        tokio::select! {
            () = closes => {}
            _ = told_to_stop() => std::process::exit(130),
        }
    });
}

/// Writes for a reader that may be gone: false says that it is.
pub(super) fn write_out(text: &[u8]) -> bool {
    use io::Write as _;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_without_an_end_is_told_apart() {
        for (sent, lines, is_cut) in [("", 0, false), ("a\n", 1, false), ("a\nb", 1, true), ("b", 0, true)] {
            let (mut far, near) = UnixStream::pair().unwrap();
            far.write_all(sent.as_bytes()).unwrap();
            drop(far);
            let end = Arc::new(AtomicU8::new(End::Bridge as u8));
            let mut watching = Watching { lines: BufReader::new(near), end, is_cut: false };
            let mut line = Vec::new();
            let got = std::iter::from_fn(|| watching.next(&mut line).then_some(())).count();
            assert_eq!((got, watching.is_cut()), (lines, is_cut), "{sent:?}");
        }
    }
}
