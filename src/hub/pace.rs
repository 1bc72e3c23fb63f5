//! How fast a backlog may follow, so that it neither meets the hub's throttle nor takes the room of what is new.
//! Pure.
//!
//! A token bucket: it fills with nine tenths of what the tier takes in a second. Every message takes a token, and
//! only late ones wait for theirs, so the backlog gets what live traffic leaves. Where live traffic leaves nothing,
//! the backlog still gets a twentieth: it has to end some day.
//!
//! When PUBACKs take well over what they took at best, the hub is delaying them, which is how it throttles. Then the
//! backlog halves its pace once a second, and takes it up again by a tenth a second.

use std::time::{Duration, Instant};

/// The part of the tier's rate that is used.
const SHARE: f64 = 0.9;
/// What the backlog gets in any case.
const LEAST: f64 = 0.05;
/// The bucket holds what comes in this time, and owes as much at most.
const DEPTH: f64 = 0.25;
const SLOWEST: f64 = 1.0 / 64.0;
const LOOK: Duration = Duration::from_secs(1);
/// A latency this much above the best one says nothing.
const JITTER: Duration = Duration::from_millis(100);

/// The pace of a backlog.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Messages a second that the hub takes.
    limit: f64,
    /// What the hub's latency leaves of it.
    part: f64,
    tokens: f64,
    filled: Instant,
    last_late: Instant,
    looked: Instant,
}

impl Pace {
    /// For a hub that takes so many messages a second.
    pub fn new(limit: f64, now: Instant) -> Self {
        Self { limit: limit.max(1.0), part: 1.0, tokens: 0.0, filled: now, last_late: now, looked: now }
    }

    /// The same for a hub that takes another number of them.
    pub fn with_limit(mut self, limit: f64, now: Instant) -> Self {
        self.fill(now);
        self.limit = limit.max(1.0);
        self.tokens = self.tokens.clamp(-self.depth(), self.depth());
        self
    }

    /// Messages of the backlog a second while nothing else is sent.
    pub fn per_second(&self) -> f64 {
        self.limit * SHARE * self.part
    }

    /// A message is sent.
    pub fn sent(&mut self, now: Instant, late: bool) {
        self.fill(now);
        self.tokens = (self.tokens - 1.0).max(-self.depth());
        if late {
            self.last_late = now;
        }
    }

    /// How long the next late message has to wait.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.fill(now);
        if self.tokens >= 1.0 {
            return Duration::ZERO;
        }
        let token = Duration::from_secs_f64((1.0 - self.tokens) / self.per_second());
        let least = Duration::from_secs_f64(1.0 / (self.per_second() * LEAST));
        token.min((self.last_late + least).saturating_duration_since(now))
    }

    /// How long PUBACKs take now, and took at best.
    pub fn latency(&mut self, now: Instant, recent: Duration, best: Duration) {
        if now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        self.fill(now);
        self.looked = now;
        let slow = recent > best * 3 + JITTER;
        self.part = if slow { (self.part / 2.0).max(SLOWEST) } else { (self.part * 1.1).min(1.0) };
    }

    fn depth(&self) -> f64 {
        (self.limit * DEPTH).max(1.0)
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second()).min(self.depth());
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Late messages in ten seconds beside so many live ones a second.
    fn late_beside(pace: &mut Pace, start: Instant, live: f64) -> f64 {
        let (mut late, mut next_live) = (0.0, 0.0);
        let mut at = 0.0;
        while at < 10.0 {
            let now = start + Duration::from_secs_f64(at);
            while live > 0.0 && next_live <= at {
                pace.sent(now, false);
                next_live += 1.0 / live;
            }
            while pace.wait(now).is_zero() {
                pace.sent(now, true);
                late += 1.0;
            }
            at += 0.001;
        }
        late / 10.0
    }

    #[test]
    fn the_backlog_gets_what_live_traffic_leaves() {
        for (limit, live, expect) in [
            (100.0, 0.0, 90.0),
            (100.0, 50.0, 40.0),
            (100.0, 90.0, 4.5),
            (100.0, 1000.0, 4.5),
            (6000.0, 1000.0, 4400.0),
            (1.0, 0.0, 0.9),
        ] {
            let start = Instant::now();
            let late = late_beside(&mut Pace::new(limit, start), start, live);
            assert!((late - expect).abs() <= expect * 0.1 + 0.2, "{limit} {live}: {late}, not {expect}");
        }
    }

    #[test]
    fn late_pubacks_slow_it_and_it_recovers() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut pace = Pace::new(100.0, start);
        for (second, recent, expect) in [
            (1, 100, 90.0),
            (2, 390, 90.0),
            (3, 500, 45.0),
            (4, 900, 22.5),
            (5, 100, 24.75),
            (6, 100, 27.2),
            (60, 100, 29.9),
        ] {
            pace.latency(start + Duration::from_secs(second), ms(recent), ms(100));
            assert!((pace.per_second() - expect).abs() < 0.1, "second {second}: {}", pace.per_second());
        }
    }

    proptest! {
        #[test]
        fn never_more_than_the_tier_in_any_second(
            limit in 1.0..5000.0f64, steps in prop::collection::vec((0..2000u64, any::<bool>()), 0..400),
        ) {
            let start = Instant::now();
            let (mut pace, mut now, mut late) = (Pace::new(limit, start), start, 0.0);
            for (later, live) in steps {
                now += Duration::from_micros(later);
                if live {
                    pace.sent(now, false);
                }
                if pace.wait(now).is_zero() {
                    pace.sent(now, true);
                    late += 1.0;
                }
            }
            let elapsed = (now - start).as_secs_f64();
            prop_assert!(late <= limit * (SHARE * elapsed + DEPTH) + 2.0, "{late} in {elapsed} s of {limit}");
        }
    }
}
