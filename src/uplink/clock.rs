//! Compares the clock of this machine with the hub's, and holds connecting while it is wrong.
//!
//! A hub refuses a token of a wrong clock with the same CONNACK 5 as a wrong key. Its HTTPS side tells the time in the
//! `Date` header of any answer. So after a refusal of a token that was made here, and only then, it is asked: once every
//! [`AGAIN`], with the same roots and by the same way. No answer is no finding.
//!
//! | the clock is | what happens |
//! |---|---|
//! | right | the refusal has another reason |
//! | wrong | no connection is made; it is looked at every few seconds, and the hub asked every [`WHILE_HELD`] |
//! | set | the next connection is made at once |
//! | wrong for [`HELD`] | one connection is made all the same: the refusal may have another reason, too |

use std::time::{Duration, Instant};

use super::{Target, now};
use crate::hub::clock::Skew;
use crate::message::Timestamp;
use crate::metrics;

/// How long an answer holds.
const AGAIN: Duration = Duration::from_secs(600);
/// How long it holds while nothing is connected because of it.
const WHILE_HELD: Duration = Duration::from_secs(60);
/// How long connecting is held at a time.
const HELD: Duration = Duration::from_secs(600);

/// What the clock is compared with, in sentences.
const THE_HUBS: &str = "the hub's";

/// The difference to the hub's clock, asked for when it matters.
#[derive(Debug, Default)]
pub(super) struct Clock {
    asked: Option<Asked>,
    /// Since when no connection is made.
    held: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// What it said, in seconds since 1970.
    theirs: Option<i64>,
}

/// A sentence about a refusal, or about the waiting for a right clock.
pub(super) fn explain(skew: Skew) -> String {
    let text = skew.explain(THE_HUBS);
    if skew.is_wrong() {
        format!("{text}. Tokens of a wrong clock are refused, so connecting waits for it")
    } else {
        text
    }
}

impl Clock {
    /// What the hub's clock says about a refusal.
    pub(super) async fn compare(&mut self, target: &Target) -> Option<Skew> {
        self.ask(target, AGAIN).await;
        let skew = self.skew(Timestamp::now())?;
        self.held = skew.is_wrong().then(now);
        Some(skew)
    }

    /// Why no connection is to be made now.
    pub(super) async fn holds(&mut self, target: &Target) -> Option<Skew> {
        self.held?;
        self.ask(target, WHILE_HELD).await;
        self.still_held(Timestamp::now())
    }

    fn still_held(&mut self, wall: Timestamp) -> Option<Skew> {
        let since = self.held?;
        let skew = self.skew(wall).filter(|skew| skew.is_wrong() && now().duration_since(since) < HELD);
        if skew.is_none() {
            self.held = None;
        }
        skew
    }

    /// Asks, where the last answer is older than that.
    async fn ask(&mut self, target: &Target, age: Duration) {
        if self.asked.is_some_and(|asked| now().duration_since(asked.at) <= age) {
            return;
        }
        let Some((way, host, tls)) = target.clock() else { return };
        let theirs = way.time(host, tls).await;
        self.asked = Some(Asked { at: now(), theirs });
        if let Some(skew) = self.skew(Timestamp::now()) {
            metrics::clock_ahead(skew.0);
        }
    }

    /// By what was said last and the time since: a clock that is set meanwhile is right at once.
    fn skew(&self, wall: Timestamp) -> Option<Skew> {
        let Asked { at, theirs } = self.asked?;
        let since = i64::try_from(now().duration_since(at).as_secs()).unwrap_or(i64::MAX);
        Some(Skew::between(wall, theirs?.saturating_add(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connecting_waits_for_a_right_clock_and_not_for_ever() {
        let hub = Timestamp(1_767_225_600_000);
        // Seconds that this machine is off at the refusal, later, and how much later; whether connecting waits then.
        for (first, later, after, expect) in [
            (0, 0, 10, false),
            (-200, -200, 10, false),
            (-3_600, -3_600, 10, true),
            (3_600, 3_600, 10, true),
            (-3_600, 0, 10, false),
            (-3_600, 299, 10, false),
            (-3_600, 400, 10, true),
            (-3_600, -3_600, 599, true),
            (-3_600, -3_600, 601, false),
        ] {
            let at = |off: i64, since: i64| Timestamp(hub.0 + (off + since) * 1_000);
            let mut clock = Clock { asked: Some(Asked { at: now(), theirs: Some(hub.as_secs()) }), held: None };
            clock.held = clock.skew(at(first, 0)).filter(|skew| skew.is_wrong()).map(|_| now());
            tokio::time::advance(Duration::from_secs(after)).await;
            let after = i64::try_from(after).unwrap();
            let held = clock.still_held(at(later, after));
            assert_eq!(held.is_some(), expect, "{first} {later} {after}");
            assert_eq!(clock.held.is_some(), expect, "{first} {later} {after}");
        }
    }
}
