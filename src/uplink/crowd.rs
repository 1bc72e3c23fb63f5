//! What many uplinks of one program share: the pace of their connects, and what the hub's clock says.
//!
//! A hub takes so many connects a second and closes on who comes beyond that. When it restarts, a thousand connections
//! end in one moment; each then waits for its [`turn`](Crowd::turn), so they come back in a row instead of a stampede.
//! Where devices are at several hubs, each hub has a pace of its own: one that restarts does not hold up the others.
//! The clock of a hub is compared once for all of them, not once for each that is refused.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::clock::Clocks;

/// What comes at once after a quiet time: this part of a second's connects, at least one.
const BURST: f64 = 0.1;

/// Hubs with a pace of their own at one time; those beyond share one.
const MOST_HUBS: usize = 64;
/// The hub of those, which no hub is called.
const BEYOND: &str = "";

/// Shared by the uplinks of a program.
#[derive(Debug)]
pub struct Crowd {
    /// Time from one connect to the next.
    step: Duration,
    /// How far the next turn may lie before now.
    slack: Duration,
    /// When the next turn is, by hub.
    next: Mutex<HashMap<Box<str>, Instant>>,
    pub(super) clocks: Clocks,
}

impl Crowd {
    /// For hubs of which each takes so many connects a second.
    pub fn new(per_second: u32) -> Self {
        let rate = f64::from(per_second.max(1));
        let step = Duration::from_secs_f64(1.0 / rate);
        let slack = step.mul_f64((rate * BURST).floor().max(1.0) - 1.0);
        Self { step, slack, next: Mutex::default(), clocks: Clocks::default() }
    }

    /// Returns when this one may connect to a hub. Turns are given in the order they are asked for; one that is not waited
    /// for is lost.
    pub async fn turn(&self, hub: &str) {
        let now = Instant::now();
        let at = self.take(hub, now);
        if at > now {
            tokio::time::sleep_until(at).await;
        }
    }

    /// Whoever waits for a turn gives it up and asks anew: the turns that were given are free again.
    pub fn begin_anew(&self) {
        let now = Instant::now();
        self.next.lock().values_mut().for_each(|next| *next = (*next).min(now));
    }

    fn take(&self, hub: &str, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.slack).unwrap_or(now);
        let mut next = self.next.lock();
        if let Some(next) = next.get_mut(hub) {
            let at = (*next).max(earliest);
            *next = at + self.step;
            return at;
        }
        if next.len() >= MOST_HUBS {
            // One that was quiet for long enough has nothing to remember.
            next.retain(|_, next| *next > earliest);
        }
        let hub = if next.len() < MOST_HUBS { hub } else { BEYOND };
        let at = next.get(hub).map_or(earliest, |next| (*next).max(earliest));
        next.insert(hub.into(), at + self.step);
        at
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connects_come_in_a_row_at_each_hub() {
        for (per_second, hubs, askers, at_once, seconds) in [
            (100, 1, 1000, 10, 9.9),
            (10, 1, 30, 1, 2.9),
            (1, 1, 3, 1, 2.0),
            // Each of them 30, beside each other.
            (10, 4, 120, 4, 2.9),
            // 64 have their own pace, the other 36 share one.
            (1, 100, 100, 65, 35.0),
        ] {
            let crowd = Arc::new(Crowd::new(per_second));
            let began = Instant::now();
            let asked: Vec<_> = (0..askers)
                .map(|asker| {
                    let crowd = Arc::clone(&crowd);
                    tokio::spawn(async move {
                        crowd.turn(&format!("hub-{}", asker % hubs)).await;
                        began.elapsed()
                    })
                })
                .collect();
            let mut came = Vec::new();
            for asked in asked {
                came.push(asked.await.unwrap());
            }
            let early = came.iter().filter(|at| at.is_zero()).count();
            assert_eq!(early, at_once, "{per_second} {hubs}");
            let last = came.iter().max().unwrap().as_secs_f64();
            assert!((last - seconds).abs() < 0.02, "{per_second} {hubs}: {last}");
            assert!(crowd.next.lock().len() <= MOST_HUBS + 1);
        }
    }

    /// All who wait come anew, as with a new `ca_file`: the first of them need not wait for the turns that nobody takes.
    #[tokio::test(start_paused = true)]
    async fn turns_that_are_given_up_together_are_free_again() {
        let crowd = Crowd::new(10);
        for round in 0..3 {
            let began = Instant::now();
            let turns: Vec<_> = (0..1_000).map(|_| crowd.take("hub", began)).collect();
            assert!(turns.first().unwrap().duration_since(began) <= crowd.step, "round {round}");
            assert_eq!(turns.last().unwrap().duration_since(turns[0]), crowd.step * 999);
            tokio::time::advance(Duration::from_secs(1)).await;
            crowd.begin_anew();
        }
    }

    /// Hubs that were quiet make room for others.
    #[tokio::test(start_paused = true)]
    async fn hubs_that_are_quiet_are_forgotten() {
        let crowd = Crowd::new(10);
        for hub in 0..1_000 {
            let began = Instant::now();
            crowd.turn(&format!("hub-{hub}")).await;
            assert!(began.elapsed().is_zero(), "{hub}");
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        assert!(crowd.next.lock().len() <= MOST_HUBS);
    }
}
