//! How many publishes may wait for their PUBACK. Pure: moments come in, a number goes out.
//!
//! A fixed window is just that. The automatic one begins at [`START`] and looks at rounds: as long as a window's
//! worth of acknowledgements takes, after the acknowledgements of the round before have passed. A round in which
//! there was nothing to send tells nothing and is not counted.
//!
//! * **Climbing**: the window doubles after each round. It goes on while the round brought a tenth more messages a
//!   second than the one before and messages do not queue: the mean latency is below twice the best one seen (or
//!   less than 20 ms above it). Else it goes back to the size before and holds.
//! * **Holding**: where messages queue, half the window is tried, and kept if the rate stays within a tenth. Where
//!   they do not, every five seconds half as much again is tried, and it climbs on if that pays.
//!
//! So a line of 100 ms is filled within some two seconds, and a hub that takes no more is not flooded.

use std::time::{Duration, Instant};

/// Publishes in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowSize {
    /// As many as pay, up to the cap of 16,384.
    Auto,
    /// So many.
    Fixed(u16),
}

/// The largest automatic window.
pub(super) const CAP: u16 = 16_384;
/// What the automatic window begins with: Microsoft's gateways take as many before they stop reading.
const START: usize = 16;
const FLOOR: usize = 4;
/// The shortest round.
const ROUND: Duration = Duration::from_millis(20);
/// How often a holding window tries whether a larger one pays.
const PROBE: Duration = Duration::from_secs(5);
/// A latency this much above the best one is no sign of a queue.
const JITTER: Duration = Duration::from_millis(20);
/// Messages of "a second of sending" before it was measured, and at least.
const UNMEASURED: u64 = 1000;
const LEAST_SECOND: u64 = 100;

impl WindowSize {
    /// The most there can be in flight.
    pub(super) fn most(self) -> u16 {
        match self {
            Self::Auto => CAP,
            Self::Fixed(size) => size,
        }
    }
}

/// The window of one connection after the other.
#[derive(Debug)]
pub(super) struct Window {
    size: WindowSize,
    limit: usize,
    phase: Phase,
    round: Round,
    latency: Latency,
    second: Second,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// With what the round before measured.
    Climbing(Option<f64>),
    /// Since when; `tried`: a smaller window was found too small then.
    Holding {
        since: Instant,
        tried: bool,
    },
    /// The window was `back` before, and brought `rate`.
    Probing {
        back: usize,
        rate: f64,
    },
    Shrinking {
        back: usize,
        rate: f64,
    },
}

#[derive(Debug, Default)]
struct Round {
    /// It begins after this moment.
    after: Option<Instant>,
    began: Option<Instant>,
    acknowledged: u32,
    waited: Duration,
}

/// How long PUBACKs take on this connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Latency {
    /// The shortest.
    pub(super) best: Option<Duration>,
    /// The mean of the last ones.
    pub(super) recent: Duration,
}

/// The most messages acknowledged in a second, forgotten slowly.
#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    count: u32,
    best: Option<f64>,
}

impl Window {
    pub(super) fn new(size: WindowSize) -> Self {
        let limit = match size {
            WindowSize::Auto => START,
            WindowSize::Fixed(size) => usize::from(size),
        };
        let (round, latency, second) = (Round::default(), Latency::default(), Second::default());
        Self { size, limit, phase: Phase::Climbing(None), round, latency, second }
    }

    /// A connection begins: what was learned about the last one's line is no more than a guess.
    pub(super) fn restart(&mut self) {
        let second = std::mem::take(&mut self.second);
        *self = Self { second: Second { began: None, count: 0, ..second }, ..Self::new(self.size) };
    }

    /// Publishes that may be in flight.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn latency(&self) -> Latency {
        self.latency
    }

    /// Messages that the uplink sends in about a second.
    pub(super) fn second(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.second.best.map_or(UNMEASURED, |rate| (rate as u64).max(LEAST_SECOND))
    }

    /// There was room in the window and nothing to send.
    pub(super) fn idle(&mut self) {
        self.round = Round { after: self.round.after, ..Round::default() };
    }

    /// A PUBACK came, so long after its message was handed over.
    pub(super) fn acknowledged(&mut self, now: Instant, latency: Duration) {
        self.latency.add(latency);
        self.second.add(now);
        if self.size == WindowSize::Auto && self.round.after.is_none_or(|after| now >= after) {
            let began = *self.round.began.get_or_insert(now);
            self.round.acknowledged += 1;
            self.round.waited += latency;
            let elapsed = now.saturating_duration_since(began);
            if elapsed >= ROUND && self.round.acknowledged as usize > self.limit {
                // The first one began the round and does not count for its rate.
                let rate = f64::from(self.round.acknowledged - 1) / elapsed.as_secs_f64();
                let mean = self.round.waited / self.round.acknowledged;
                self.end_round(now, rate, mean);
            }
        }
    }

    fn end_round(&mut self, now: Instant, rate: f64, latency: Duration) {
        let before = self.limit;
        let best = self.latency.best.unwrap_or_default();
        let queues = latency > (best * 2).max(best + JITTER);
        let hold = |tried| Phase::Holding { since: now, tried };
        let tired = |since: Instant| now.saturating_duration_since(since) >= PROBE;
        (self.phase, self.limit) = match self.phase {
            Phase::Climbing(before) if queues || before.is_some_and(|before| rate < before * 1.1) => {
                (hold(false), if before.is_some() { self.limit / 2 } else { self.limit })
            }
            Phase::Climbing(_) if self.limit >= usize::from(CAP) => (hold(false), self.limit),
            Phase::Climbing(_) => (Phase::Climbing(Some(rate)), self.limit * 2),
            Phase::Holding { since, tried } if queues && self.limit > FLOOR && (!tried || tired(since)) => {
                (Phase::Shrinking { back: self.limit, rate }, self.limit / 2)
            }
            Phase::Holding { since, .. } if !queues && tired(since) => {
                (Phase::Probing { back: self.limit, rate }, self.limit + self.limit / 2)
            }
            Phase::Holding { .. } => (self.phase, self.limit),
            Phase::Shrinking { rate: was, .. } if rate >= was * 0.9 => (hold(false), self.limit),
            Phase::Probing { rate: was, .. } if !queues && rate >= was * 1.1 => {
                (Phase::Climbing(Some(rate)), self.limit * 2)
            }
            Phase::Shrinking { back, .. } | Phase::Probing { back, .. } => (hold(true), back),
        };
        self.limit = self.limit.clamp(FLOOR, usize::from(CAP));
        // What was sent under another window is acknowledged within its latency.
        let settle = if self.limit == before { Duration::ZERO } else { self.latency.recent };
        self.round = Round { after: Some(now + settle), ..Round::default() };
    }
}

impl Latency {
    fn add(&mut self, latency: Duration) {
        if self.best.is_none() {
            self.recent = latency;
        }
        self.best = Some(self.best.map_or(latency, |best| best.min(latency)));
        self.recent = (self.recent * 15 + latency) / 16;
    }
}

impl Second {
    fn add(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let elapsed = now.saturating_duration_since(began);
        if elapsed < Duration::from_secs(1) {
            self.count += 1;
            return;
        }
        let rate = f64::from(self.count) / elapsed.as_secs_f64();
        self.best = Some(self.best.map_or(rate, |best| rate.max(best * 0.95)));
        (self.began, self.count) = (Some(now), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// A hub behind a line: it acknowledges each message after the round trip, and at most `rate` a second.
    struct Line {
        round_trip: Duration,
        rate: f64,
        now: Instant,
        /// When the hub is through with what it has.
        busy: Instant,
        /// When each message was sent and is acknowledged.
        flight: VecDeque<(Instant, Instant)>,
    }

    impl Line {
        fn new(round_trip_ms: u64, rate: f64) -> Self {
            let now = Instant::now();
            Self { round_trip: Duration::from_millis(round_trip_ms), rate, now, busy: now, flight: VecDeque::new() }
        }

        /// Keeps the window full for a while; messages acknowledged.
        fn run(&mut self, window: &mut Window, time: Duration) -> u32 {
            let (end, mut acknowledged) = (self.now + time, 0);
            while self.now < end {
                while self.flight.len() < window.limit() {
                    self.busy = self.busy.max(self.now) + Duration::from_secs_f64(1.0 / self.rate);
                    self.flight.push_back((self.now, self.busy + self.round_trip));
                }
                let Some((sent, due)) = self.flight.pop_front() else { break };
                self.now = self.now.max(due);
                window.acknowledged(self.now, self.now - sent);
                acknowledged += 1;
            }
            acknowledged
        }
    }

    #[test]
    fn a_line_is_filled_and_no_more() {
        // What fills a line is its rate times its round trip.
        for (round_trip, rate, least, most) in [
            (100, 20_000.0, 1500, 8192),
            (100, 1_000.0, 64, 400),
            (100, 50.0, 4, 32),
            (10, 10_000.0, 64, 600),
            (1, 30_000.0, 16, 1200),
            (300, 20_000.0, 4096, 16_384),
            (500, 90_000.0, 16_384, 16_384),
            (5, 100.0, 4, 16),
        ] {
            let (mut line, mut window) = (Line::new(round_trip, rate), Window::new(WindowSize::Auto));
            line.run(&mut window, Duration::from_secs(15));
            let reached = window.limit();
            assert!((least..=most).contains(&reached), "{round_trip} ms, {rate}/s: {reached}");
            let second = f64::from(line.run(&mut window, Duration::from_secs(10))) / 10.0;
            let possible = rate.min(f64::from(CAP) / (round_trip as f64 / 1000.0));
            assert!(second > possible * 0.75, "{round_trip} ms, {rate}/s: {second} a second at {reached}");
        }
    }

    #[test]
    fn a_hundred_milliseconds_are_filled_within_three_seconds() {
        let (mut line, mut window) = (Line::new(100, 20_000.0), Window::new(WindowSize::Auto));
        line.run(&mut window, Duration::from_secs(3));
        assert!(window.limit() >= 1024, "{}", window.limit());
        window.restart();
        assert_eq!(window.limit(), START, "another connection, perhaps another line");
    }

    #[test]
    fn a_hub_that_slows_down_gets_less_and_one_that_recovers_gets_more() {
        let (mut line, mut window) = (Line::new(20, 20_000.0), Window::new(WindowSize::Auto));
        line.run(&mut window, Duration::from_secs(10));
        let fast = window.limit();
        line.rate = 200.0;
        line.run(&mut window, Duration::from_secs(60));
        let slow = window.limit();
        assert!(slow * 4 <= fast, "{fast}, then {slow}");
        line.rate = 20_000.0;
        line.run(&mut window, Duration::from_secs(60));
        assert!(window.limit() * 2 >= fast, "{fast}, {slow}, then {}", window.limit());
    }

    #[test]
    fn without_a_backlog_the_window_stays() {
        let (mut window, mut now) = (Window::new(WindowSize::Auto), Instant::now());
        for _ in 0..10_000 {
            now += Duration::from_millis(10);
            window.acknowledged(now, Duration::from_millis(100));
            window.idle();
        }
        assert_eq!(window.limit(), START);
        assert_eq!(window.second(), LEAST_SECOND.max(99));
    }

    #[test]
    fn a_second_of_sending() {
        let mut window = Window::new(WindowSize::Fixed(64));
        assert_eq!(window.second(), UNMEASURED);
        let mut line = Line::new(10, 3000.0);
        line.run(&mut window, Duration::from_secs(5));
        let second = window.second();
        assert!((2500..=3100).contains(&second), "{second}");
        window.restart();
        assert_eq!(window.second(), second, "the last connection is the measure of the next");
    }

    proptest! {
        #[test]
        fn whatever_comes_the_window_keeps_its_bounds(
            fixed in prop::option::of(1..2000u16),
            events in prop::collection::vec((0..3u8, 0..50_000u64, 0..900_000u64), 0..800),
        ) {
            let size = fixed.map_or(WindowSize::Auto, WindowSize::Fixed);
            let (mut window, mut now) = (Window::new(size), Instant::now());
            for (what, later, latency) in events {
                now += Duration::from_micros(later);
                match what {
                    0 if later % 50 == 0 => window.restart(),
                    1 if later % 9 == 0 => window.idle(),
                    _ => window.acknowledged(now, Duration::from_micros(latency)),
                }
                match fixed {
                    Some(size) => prop_assert_eq!(window.limit(), usize::from(size)),
                    None => prop_assert!((FLOOR..=usize::from(CAP)).contains(&window.limit())),
                }
                prop_assert!(window.limit() <= usize::from(size.most()));
            }
        }
    }
}
