//! The pace of late messages, where the hub is to be spared: by the tier of the hub, or by what somebody wants while the
//! program runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::hub::pace::Pace;

/// A pause is no longer than this at a time, for the rate may be another one then.
const LOOK: Duration = Duration::from_secs(1);

/// Messages a second that the hub takes; `None` where it is not to be spared. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct HubRate(Arc<AtomicU32>);

impl HubRate {
    /// One of so many.
    pub fn of(rate: Option<u32>) -> Self {
        let new = Self::default();
        new.set(rate);
        new
    }

    /// How many they are now.
    pub fn get(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// They are so many from now on.
    pub fn set(&self, rate: Option<u32>) {
        self.0.store(rate.unwrap_or(0), Ordering::Relaxed);
    }
}

/// Follows the rate.
#[derive(Debug)]
pub struct Pacing {
    rate: HubRate,
    known: Option<u32>,
    pace: Option<Pace>,
}

impl Pacing {
    /// Begins now.
    pub fn new(rate: HubRate) -> Self {
        Self { rate, known: None, pace: None }
    }

    /// How long the next late message has to wait, or until that is to be asked again.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.follow(now).map_or(Duration::ZERO, |pace| pace.wait(now).min(LOOK))
    }

    /// A message is sent.
    pub fn sent(&mut self, now: Instant, late: bool) {
        if let Some(pace) = self.follow(now) {
            pace.sent(now, late);
        }
    }

    /// How long PUBACKs take now, and took at best.
    pub fn latency(&mut self, now: Instant, recent: Duration, best: Duration) {
        if let Some(pace) = self.follow(now) {
            pace.latency(now, recent, best);
        }
    }

    fn follow(&mut self, now: Instant) -> Option<&mut Pace> {
        let rate = self.rate.get();
        if rate != self.known {
            self.known = rate;
            self.pace = rate.map(f64::from).map(|rate| match self.pace.take() {
                Some(pace) => pace.with_limit(rate, now),
                None => Pace::new(rate, now),
            });
        }
        self.pace.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Late messages in the tenth of seconds that follow another, each at a rate of its own.
    #[test]
    fn a_rate_may_change_at_any_time() {
        let (rate, mut now) = (HubRate::default(), Instant::now());
        let mut pacing = Pacing::new(rate.clone());
        for (wanted, expect) in [
            (None, 10_000..10_001),
            (Some(100), 880..930),
            (Some(1000), 8_900..9_300),
            (Some(10), 80..100),
            (None, 10_000..10_001),
            (Some(1), 8..11),
        ] {
            rate.set(wanted);
            let end = now + Duration::from_secs(10);
            let mut sent = 0;
            while now < end {
                let wait = pacing.wait(now);
                assert!(wait <= LOOK, "{wait:?}");
                if wait.is_zero() {
                    pacing.sent(now, true);
                    sent += 1;
                }
                now += wait.max(Duration::from_millis(1));
            }
            assert!(expect.contains(&sent), "{wanted:?}: {sent}");
        }
    }
}
