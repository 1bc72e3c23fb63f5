//! The life of the writer thread: when to commit, how long to gather, when to write the cursor.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::appender::{Pending, lock};
use super::log::{Committed, Log};

/// Acknowledgements without appends are written after this time, and synced after [`CURSOR_SYNC`].
const CURSOR_WRITE: Duration = Duration::from_millis(50);
const CURSOR_SYNC: Duration = Duration::from_secs(1);
/// A full disk is asked again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// How often a spool that is being closed tries to place what it accepted.
const CLOSING_TRIES: u32 = 3;

/// Runs until the spool is closed or fails.
pub(super) fn run(mut log: Log, linger: Duration) -> Result<(), String> {
    let mut last_batch = 0;
    let mut last_sync = Instant::now();
    let mut last_try = Instant::now();
    let mut closing = 0;
    loop {
        gather(&log, last_batch, linger);
        match log.commit() {
            Committed::Records(count) => last_batch = count,
            Committed::Nothing => last_batch = 0,
            Committed::NoRoom => last_batch = 0,
            Committed::Failed(reason) => return Err(fail(&log, reason)),
        }
        let now = Instant::now();
        if log.wants_retry() && now.duration_since(last_try) >= RETRY {
            last_try = now;
            log.retry();
        }
        log.tidy();
        let mut cursor_left = false;
        if last_batch == 0 {
            let sync = now.duration_since(last_sync) >= CURSOR_SYNC;
            cursor_left = log.write_cursor(sync);
            if sync {
                last_sync = now;
            }
            log.tidy();
        }
        let closed = {
            let pending = lock(&log.shared.pending);
            pending.closed && (pending.batch.count() == 0 || log.has_batch())
        };
        if last_batch == 0 && closed {
            if !log.wants_retry() || closing == CLOSING_TRIES {
                return finish(&mut log);
            }
            closing += 1;
            std::thread::sleep(RETRY / 4);
            log.retry();
            continue;
        }
        sleep(&log, last_batch > 0 || cursor_left);
    }
}

/// Waits a little for the company the last batch had: the appenders that were acknowledged with it are on their way.
fn gather(log: &Log, last_batch: u64, linger: Duration) {
    let mut pending = lock(&log.shared.pending);
    let count = pending.batch.count();
    if last_batch <= 1 || count == 0 || count >= last_batch || pending.closed || linger.is_zero() {
        return;
    }
    pending.wake_at = Some(last_batch);
    let waited =
        log.shared.work.wait_timeout_while(pending, linger, |pending| pending.wake_at.is_some() && !pending.closed);
    waited.unwrap_or_else(PoisonError::into_inner).0.wake_at = None;
}

/// Until there is a record, or something else to do. Only a writer that has nothing to look after sleeps without
/// an alarm.
fn sleep(log: &Log, alarm: bool) {
    let shared = &log.shared;
    let mut pending = lock(&shared.pending);
    if pending.batch.count() == 0 || log.has_batch() {
        let time = if alarm || shared.cursor_moved.load(Ordering::Acquire) {
            CURSOR_WRITE
        } else if log.wants_retry() {
            RETRY
        } else {
            pending.idle = true;
            Duration::MAX
        };
        pending.wake_at = Some(if log.has_batch() { u64::MAX } else { 1 });
        let asleep = |pending: &mut Pending| pending.wake_at.is_some() && !pending.poked && !pending.closed;
        pending = match time {
            Duration::MAX => shared.work.wait_while(pending, asleep).unwrap_or_else(PoisonError::into_inner),
            time => shared.work.wait_timeout_while(pending, time, asleep).unwrap_or_else(PoisonError::into_inner).0,
        };
    }
    pending.idle = false;
    pending.poked = false;
    pending.wake_at = None;
}

fn finish(log: &mut Log) -> Result<(), String> {
    log.write_cursor(true);
    if log.has_batch() {
        return Err(fail(log, "no space for the last messages".into()));
    }
    log.shared.room.closed();
    Ok(())
}

/// The spool takes no more, and says why.
fn fail(log: &Log, reason: String) -> String {
    tracing::error!(reason, "spool: failed for good");
    lock(&log.shared.pending).closed = true;
    log.shared.room.closed();
    log.shared.durable.send_modify(|durable| durable.failed = Some(reason.as_str().into()));
    reason
}
