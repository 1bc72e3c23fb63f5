//! The end of the uplink: waits for what can go, and says what could not.
//!
//! What waits for a device that is held or refused, or for a hub that is not there, is not waited for: it is on disk, and
//! goes with the next start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::amount::{count, of};
use crate::bridge::Stores;
use crate::bridge::devices::Devices;
use crate::shelf::Shelves;
use crate::uplink::Status;

/// How often it is looked at what waits.
const LOOK: Duration = Duration::from_millis(10);
/// Where nobody can send and nothing has left the spool for so long, no more is waited for.
const STILL: Duration = Duration::from_millis(500);

/// What there is to see of what waits for the hub.
pub(super) struct Drain {
    pub(super) stores: Stores,
    pub(super) status: watch::Receiver<Status>,
    pub(super) devices: Option<Devices>,
    pub(super) shelves: Option<Arc<Shelves>>,
}

impl Drain {
    /// Returns when nothing waits, or nothing that can go.
    pub(super) async fn done(&self) {
        let mut look = tokio::time::interval(LOOK);
        let mut still = (u64::MAX, Instant::now());
        loop {
            let now = look.tick().await;
            let waiting = self.stores.stats().waiting;
            if waiting == 0 {
                return;
            }
            if waiting != still.0 || self.can_send() {
                still = (waiting, now);
            } else if now - still.1 >= STILL {
                return;
            }
        }
    }

    fn can_send(&self) -> bool {
        match &self.devices {
            Some(devices) => devices.can_send(),
            None => can_connect(&self.status.borrow()),
        }
    }

    /// Says what is left.
    pub(super) fn tell(&self) {
        let held = self.stores.held.waiting();
        if held > 0 {
            tracing::info!(
                "{} in the holding spool for the next start",
                of(held, "message for a window stays", "messages for windows stay")
            );
        }
        let shelved = self.shelves.as_ref().map_or(0, |shelves| shelves.stats().waiting);
        tracing::info!("{}", left(self.stores.stats().waiting, shelved));
    }
}

/// The connection is there, or being made for the first time or anew; a pause after a failure is none of these.
fn can_connect(status: &Status) -> bool {
    status.connected.is_some() || status.renewing || status.trouble.is_none()
}

fn left(in_spool: u64, on_shelves: u64) -> String {
    let all = in_spool + on_shelves;
    let shelved = if on_shelves > 0 { format!(", {} of them on shelves", count(on_shelves)) } else { String::new() };
    match all {
        0 => "everything is delivered".to_owned(),
        _ => format!("{} on disk for the next start{shelved}", of(all, "message waits", "messages wait")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told() {
        for (in_spool, on_shelves, expect) in [
            (0, 0, "everything is delivered"),
            (1, 0, "1 message waits on disk for the next start"),
            (0, 1, "1 message waits on disk for the next start, 1 of them on shelves"),
            (1200, 34, "1,234 messages wait on disk for the next start, 34 of them on shelves"),
        ] {
            assert_eq!(left(in_spool, on_shelves), expect);
        }
    }

    #[test]
    fn a_hub_that_is_away_is_not_waited_for() {
        let connected = Some(std::time::Instant::now());
        let trouble = || Some("refused".to_owned());
        for (status, expect) in [
            (Status::default(), true),
            (Status { trouble: trouble(), ..Status::default() }, false),
            (Status { connected, trouble: trouble(), ..Status::default() }, true),
            (Status { renewing: true, trouble: trouble(), ..Status::default() }, true),
        ] {
            assert_eq!(can_connect(&status), expect, "{status:?}");
        }
    }
}
