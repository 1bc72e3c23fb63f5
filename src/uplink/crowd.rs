//! What many uplinks of one program share: the pace of their connects, and what the hub's clock says.
//!
//! A hub takes so many connects a second and closes on who comes beyond that. When it restarts, a thousand connections
//! end in one moment; each then waits for its [`turn`](Crowd::turn), so they come back in a row instead of a stampede.
//! The clock is compared once for all of them, not once for each that is refused.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Target;
use super::clock::Clock;
use crate::hub::clock::Skew;

/// What comes at once after a quiet time: this part of a second's connects, at least one.
const BURST: f64 = 0.1;

/// Shared by the uplinks of one hub.
#[derive(Debug)]
pub struct Crowd {
    /// Time from one connect to the next.
    step: Duration,
    /// How far the next turn may lie before now.
    slack: Duration,
    /// When the next turn is.
    next: Mutex<Option<Instant>>,
    clock: tokio::sync::Mutex<Clock>,
}

impl Crowd {
    /// For a hub that takes so many connects a second.
    pub fn new(per_second: u32) -> Self {
        let rate = f64::from(per_second.max(1));
        let step = Duration::from_secs_f64(1.0 / rate);
        let slack = step.mul_f64((rate * BURST).floor().max(1.0) - 1.0);
        Self { step, slack, next: Mutex::new(None), clock: tokio::sync::Mutex::default() }
    }

    /// Returns when this one may connect. Turns are given in the order they are asked for; one that is not waited for
    /// is lost.
    pub async fn turn(&self) {
        let now = Instant::now();
        let at = {
            let mut next = self.next.lock();
            let earliest = now.checked_sub(self.slack).unwrap_or(now);
            let at = next.map_or(earliest, |next| next.max(earliest));
            *next = Some(at + self.step);
            at
        };
        if at > now {
            tokio::time::sleep_until(at).await;
        }
    }

    /// What the hub's clock says about a refusal.
    pub(super) async fn compare(&self, target: &Target) -> Option<Skew> {
        self.clock.lock().await.compare(target).await
    }

    /// Why nobody may connect now.
    pub(super) async fn holds(&self, target: &Target) -> Option<Skew> {
        self.clock.lock().await.holds(target).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connects_come_in_a_row() {
        for (per_second, askers, at_once, seconds) in [(100, 1000, 10, 9.9), (10, 30, 1, 2.9), (1, 3, 1, 2.0)] {
            let crowd = Arc::new(Crowd::new(per_second));
            let began = Instant::now();
            let asked: Vec<_> = (0..askers)
                .map(|_| {
                    let crowd = Arc::clone(&crowd);
                    tokio::spawn(async move {
                        crowd.turn().await;
                        began.elapsed()
                    })
                })
                .collect();
            let mut came = Vec::new();
            for asked in asked {
                came.push(asked.await.unwrap());
            }
            let early = came.iter().filter(|at| at.is_zero()).count();
            assert_eq!(early, at_once, "{per_second}");
            let last = came.iter().max().unwrap().as_secs_f64();
            assert!((last - seconds).abs() < 0.02, "{per_second}: {last}");
        }
    }
}
