//! Whether the parts make progress, for systemd's watchdog.
//!
//! Everything here is about this process: an unreachable hub or a full disk is no reason to start it again, and the
//! watchdog is fed through them. It is not when the uplink's task has ended, when a lock that every message needs is not
//! given within [`PATIENCE`], or when messages wait to become durable and not one has become so since the last beat.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::page::Gauges;
use crate::admin::Source as _;
use crate::spool::Appender;

/// Time for a lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches the parts.
pub struct Pulse {
    spools: Vec<Progress>,
    source: Arc<Gauges>,
    uplink: AbortHandle,
}

/// How a spool gets on.
pub(super) struct Progress {
    spool: Appender,
    /// The last number when it was opened.
    first: u64,
    last: Option<Mark>,
}

/// Numbers at one beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    given: u64,
    durable: u64,
}

impl Mark {
    /// Something waited to become durable then, and nothing has become so up to `now`.
    fn is_stuck(self, now: Self) -> bool {
        self.given > self.durable && now.durable == self.durable
    }
}

impl Progress {
    /// Of a spool that was just opened.
    pub(super) fn of(spool: &Appender) -> Self {
        Self { spool: spool.clone(), first: spool.durable().borrow().seq, last: None }
    }

    fn mark(&self) -> Mark {
        // In this order: what is durable was given before.
        let durable = self.spool.durable().borrow().seq;
        Mark { given: self.first + self.spool.stats().appended, durable }
    }
}

impl Pulse {
    pub(super) fn new(spools: Vec<Progress>, source: Arc<Gauges>, uplink: AbortHandle) -> Self {
        Self { spools, source, uplink }
    }

    /// `Err` says what does not move. Beats are to be some seconds apart.
    pub async fn beat(&mut self) -> Result<(), &'static str> {
        if self.uplink.is_finished() {
            return Err("the uplink has ended");
        }
        let mut spools = std::mem::take(&mut self.spools);
        let census = Arc::clone(&self.source.census);
        let looking = tokio::task::spawn_blocking(move || {
            census.connected();
            let mut stuck = false;
            for spool in &mut spools {
                let now = spool.mark();
                stuck |= spool.last.replace(now).is_some_and(|before| before.is_stuck(now));
            }
            (spools, stuck)
        });
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(Ok((spools, stuck))) => {
                self.spools = spools;
                if stuck { Err("messages do not become durable") } else { Ok(()) }
            }
            _ => Err("a lock is not given"),
        }
    }

    /// Whether the bridge does its job, in words.
    pub fn status(&self) -> String {
        match self.source.ready() {
            Ok(None) => "ready".to_owned(),
            Ok(Some(warning)) => format!("ready, but: {warning}"),
            Err(why) => format!("not ready: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuck_is_what_waits_and_does_not_move() {
        for (given, durable, durable_now, expect) in
            [(0, 0, 0, false), (5, 5, 5, false), (7, 5, 6, false), (7, 5, 5, true), (9, 5, 9, false)]
        {
            let now = Mark { given: 10, durable: durable_now };
            assert_eq!(Mark { given, durable }.is_stuck(now), expect, "{given} {durable} {durable_now}");
        }
    }
}
