//! What it means when the hub closes the connection again and again. Pure.
//!
//! MQTT 3.1.1 has no word for it, so the pattern has to tell. Only connections that were accepted and closed by the
//! other side within [`SHORT`] count, [`RUN`] of them in a row:
//!
//! | each of them | most likely |
//! |---|---|
//! | took messages and acknowledged none | [`Cause::NothingTaken`]: the daily quota is spent, or a message is disliked |
//! | most acknowledged [`FAST`] messages a second and more | [`Cause::Throttled`]: faster than the hub's tier allows |
//! | anything else: some idle, some with a few acknowledgements | [`Cause::TakenOver`]: another client has the same identity |

use std::collections::VecDeque;
use std::time::Duration;

/// Connections in a row that make a pattern.
const RUN: usize = 4;
/// A connection that lived longer was closed for another reason.
pub(super) const SHORT: Duration = Duration::from_secs(60);
/// Acknowledged messages a second from which a close is taken for throttling.
const FAST: f64 = 50.0;

/// A connection that the other side closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    /// From CONNACK to the close.
    pub(super) lived: Duration,
    /// Messages that went out.
    pub(super) sent: u64,
    /// Messages that were acknowledged.
    pub(super) acknowledged: u64,
}

/// Why connections are closed again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    TakenOver,
    NothingTaken,
    Throttled,
}

impl Cause {
    /// The label of the counter and the gauge.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::TakenOver => "taken_over",
            Self::NothingTaken => "nothing_taken",
            Self::Throttled => "throttled",
        }
    }

    /// In words, with what to do about it.
    pub(super) fn explain(self, identity: &str, host: &str) -> String {
        match self {
            Self::TakenOver => format!(
                "{host} closes the connection again and again soon after it was made: most likely another client \
                 connects as {identity} and takes it over. Look for a second gateway, or a test tool, with the same \
                 connection string; each device id is for one connection"
            ),
            Self::NothingTaken => format!(
                "{host} lets {identity} in and closes at the first message, again and again: most likely the hub's \
                 daily message quota is spent (it is there again at 00:00 UTC; add units or a larger tier). It may \
                 also be in trouble, or dislike a message: if so, that message is found and put into the quarantine"
            ),
            Self::Throttled => format!(
                "{host} takes many messages of {identity} and closes again and again: most likely it throttles, \
                 because more is sent than its tier allows; add units or a larger tier, or send less"
            ),
        }
    }
}

/// The closes in a row so far.
#[derive(Debug, Default)]
pub(super) struct Diagnosis(VecDeque<Closed>);

impl Diagnosis {
    /// Adds a close; says what the pattern is, once there is one.
    pub(super) fn closed(&mut self, closed: Closed) -> Option<Cause> {
        if closed.lived > SHORT {
            self.0.clear();
            return None;
        }
        self.0.push_back(closed);
        if self.0.len() > RUN {
            self.0.pop_front();
        }
        (self.0.len() == RUN).then(|| self.cause())
    }

    fn cause(&self) -> Cause {
        let count = |pattern: fn(&Closed) -> bool| self.0.iter().filter(|closed| pattern(closed)).count();
        if count(|closed| closed.sent > 0 && closed.acknowledged == 0) == self.0.len() {
            return Cause::NothingTaken;
        }
        #[expect(clippy::cast_precision_loss)]
        let fast = count(|closed| {
            let seconds = closed.lived.as_secs_f64().max(1.0);
            closed.acknowledged as f64 / seconds >= FAST
        });
        if fast * 2 > self.0.len() { Cause::Throttled } else { Cause::TakenOver }
    }

    /// The connection ended for a reason of its own, or has lasted.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        // Seconds, sent, acknowledged of each close.
        type Row = (&'static str, &'static [(u64, u64, u64)], Option<Cause>);
        let rows: [Row; 8] = [
            ("three are no pattern", &[(1, 0, 0); 3], None),
            ("idle and closed", &[(1, 0, 0); 4], Some(Cause::TakenOver)),
            ("a few messages each time", &[(2, 5, 3), (1, 0, 0), (2, 9, 9), (1, 2, 0)], Some(Cause::TakenOver)),
            ("each at its first message", &[(1, 16, 0); 4], Some(Cause::NothingTaken)),
            ("one of them idle", &[(1, 16, 0), (1, 16, 0), (1, 0, 0), (1, 16, 0)], Some(Cause::TakenOver)),
            ("many messages each time", &[(10, 2_000, 1_990); 4], Some(Cause::Throttled)),
            ("one that lasted", &[(1, 0, 0), (1, 0, 0), (1, 0, 0), (90, 0, 0)], None),
            (
                "one that lasted, long ago",
                &[(90, 0, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0)],
                Some(Cause::TakenOver),
            ),
        ];
        for (name, closes, expect) in rows {
            let mut diagnosis = Diagnosis::default();
            let mut got = None;
            for (seconds, sent, acknowledged) in closes.iter().copied() {
                let lived = Duration::from_secs(seconds);
                got = diagnosis.closed(Closed { lived, sent, acknowledged });
            }
            assert_eq!(got, expect, "{name}");
        }
    }
}
