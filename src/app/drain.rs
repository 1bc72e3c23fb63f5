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
        done(|| (self.stores.stats().waiting, self.can_send())).await;
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

/// Follows how much waits, and whether anybody can send.
async fn done(look_at: impl Fn() -> (u64, bool)) {
    let mut look = tokio::time::interval(LOOK);
    let mut still = (u64::MAX, Instant::now());
    loop {
        let now = look.tick().await;
        let (waiting, can_send) = look_at();
        if waiting == 0 {
            return;
        }
        if waiting != still.0 || can_send {
            still = (waiting, now);
        } else if now - still.1 >= STILL {
            return;
        }
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

    /// Milliseconds until no more is waited for: so many messages wait, of which one leaves every so often until somebody can
    /// send no more.
    #[tokio::test(start_paused = true)]
    async fn what_can_go_is_waited_for() {
        for (name, waiting, every, can_send_for, expect) in [
            ("nothing waits", 0, 1_000, u64::MAX, Some(0)),
            ("a slow hub takes all of it", 3, 20_000, u64::MAX, Some(60_000)),
            ("a hub that takes nothing and is there", 3, u64::MAX, u64::MAX, None),
            ("nobody can send", 3, u64::MAX, 0, Some(500)),
            ("nobody can any more", 3, u64::MAX, 10_000, Some(10_500)),
            ("nobody seems to, and something goes", 3, 400, 0, Some(1_200)),
        ] {
            let began = Instant::now();
            let since = || u64::try_from(began.elapsed().as_millis()).unwrap();
            let left = |at: u64| u64::saturating_sub(waiting, at / every);
            let ended =
                tokio::time::timeout(Duration::from_secs(600), done(|| (left(since()), since() < can_send_for)));
            let took = ended.await.ok().map(|()| since());
            assert!(
                took.zip(expect).map_or(took == expect, |(took, expect)| took.abs_diff(expect) <= 20),
                "{name}: {took:?}"
            );
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
