//! Which message makes the hub close the connection.
//!
//! A hub answers most mistakes by closing, without a word. A network that drops and a hub that restarts look the
//! same, so a single close says nothing. Pure; the proof has three steps, and each of them needs more than bad luck:
//!
//! 1. **Suspects.** The other side closed the line [`after`](Suspicion::new) times in a row while the same message
//!    was the oldest one it had not acknowledged. All that were in flight then are suspects. Connections that could
//!    not be made, broke on the way, timed out or ended as planned neither count nor clear.
//! 2. **Alone.** The next connection is a trial: the hub has to acknowledge a message that is known to be good first
//!    (the last one it acknowledged is sent again; it has the same `$.mid`). Then each suspect is sent alone. One that
//!    is acknowledged is cleared; if the line is closed on the good message, all are.
//! 3. **Proof.** The line that just carried a good message is closed on a suspect that is alone on it. After
//!    [`PROOFS`] of these the suspect is convicted, and the others go on. Each proof asks for one good message more
//!    than the last one did, so that a line that is cut after every so many messages proves nothing.
//!
//! So a hub that acknowledges nothing (its daily quota is spent, another gateway takes the identity over, it
//! restarts) convicts nobody: step 2 never succeeds. Where nothing was acknowledged since the start, the suspects
//! take turns in being the first, until one of them is known to be good.

use std::collections::BTreeMap;

use super::MessageId;

/// Times the line must be closed on a suspect that is alone on it.
const PROOFS: u32 = 2;

/// Most suspects of one trial; they are sent one at a time.
const MAX_SUSPECTS: usize = 64;

/// What is known about the messages that were in flight when the line was closed.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    after: u32,
    /// The oldest message in flight at the last close, and how often in a row it was that.
    oldest: Option<MessageId>,
    closes: u32,
    /// With the proofs there are against each.
    suspects: BTreeMap<MessageId, u32>,
}

/// What a close has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Unknown,
    /// So many messages are to be sent alone.
    Suspected(usize),
    /// The line was closed before it acknowledged anything: no proof against the message that was on it.
    Unproven,
    /// This message makes the hub close.
    Convicted(MessageId),
}

impl Suspicion {
    /// Messages are suspects after so many closes in a row; 0 suspects none.
    pub(super) fn new(after: u32) -> Self {
        Self { after, ..Self::default() }
    }

    /// True while suspects are to be sent alone.
    pub(super) fn is_on_trial(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// The other side closed the line. `in_flight` was sent and not acknowledged, oldest first; `heard` says whether
    /// this connection brought an acknowledgement.
    pub(super) fn closed(&mut self, in_flight: impl Iterator<Item = MessageId>, heard: bool) -> Verdict {
        let mut in_flight = in_flight.peekable();
        let Some(&oldest) = in_flight.peek() else { return Verdict::Unknown };
        if !self.is_on_trial() {
            self.closes = if self.oldest == Some(oldest) { self.closes.saturating_add(1) } else { 1 };
            self.oldest = Some(oldest);
            if self.after == 0 || self.closes < self.after {
                return Verdict::Unknown;
            }
            self.suspects = in_flight.take(MAX_SUSPECTS).map(|id| (id, 0)).collect();
            return Verdict::Suspected(self.suspects.len());
        }
        if !heard {
            return Verdict::Unproven;
        }
        let Some(proofs) = self.suspects.get_mut(&oldest) else { return Verdict::Unknown };
        *proofs += 1;
        if *proofs < PROOFS {
            return Verdict::Unknown;
        }
        self.clear(oldest);
        Verdict::Convicted(oldest)
    }

    /// How many good messages the hub has to take before the next suspect is sent.
    pub(super) fn controls(&self) -> u32 {
        1 + self.suspects.values().max().copied().unwrap_or(0)
    }

    /// The hub acknowledged a message.
    pub(super) fn clear(&mut self, id: MessageId) {
        self.suspects.remove(&id);
        if self.oldest == Some(id) {
            self.oldest = None;
            self.closes = 0;
        }
    }

    /// Lets all suspects go.
    pub(super) fn forget(&mut self) {
        self.suspects.clear();
        self.oldest = None;
        self.closes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(sequence: u64) -> MessageId {
        MessageId { spool: 1, sequence }
    }

    /// A step of a story: what was in flight when the line closed and whether it had acknowledged anything, or an
    /// acknowledgement.
    enum Step {
        Closed(&'static [u64], bool, Verdict),
        Acked(u64),
    }
    use Step::{Acked, Closed};

    #[test]
    fn stories() {
        const NO: Verdict = Verdict::Unknown;
        let convicted = |n| Verdict::Convicted(id(n));
        let stories: [(&str, &[Step]); 7] = [
            (
                "poison in the middle",
                &[
                    Closed(&[1, 2, 3], false, NO),
                    Closed(&[1, 2, 3], false, NO),
                    Closed(&[1, 2, 3], false, Verdict::Suspected(3)),
                    Acked(1),
                    Closed(&[2], true, NO),
                    Closed(&[2], true, convicted(2)),
                    Acked(3),
                ],
            ),
            (
                "a line that is cut now and then, but goes on",
                &[
                    Closed(&[1, 2, 3], false, NO),
                    Acked(1),
                    Closed(&[2, 3], true, NO),
                    Acked(2),
                    Closed(&[3], true, NO),
                    Acked(3),
                    Closed(&[4], true, NO),
                ],
            ),
            (
                "a hub that acknowledges nothing convicts nobody",
                &[
                    Closed(&[1], false, NO),
                    Closed(&[1], false, NO),
                    Closed(&[1], false, Verdict::Suspected(1)),
                    Closed(&[1], false, Verdict::Unproven),
                    Closed(&[1], false, Verdict::Unproven),
                    Closed(&[1], false, Verdict::Unproven),
                ],
            ),
            (
                "and when it is back, they are all innocent",
                &[
                    Closed(&[1, 2], false, NO),
                    Closed(&[1, 2], false, NO),
                    Closed(&[1, 2], false, Verdict::Suspected(2)),
                    Acked(1),
                    Acked(2),
                    Closed(&[3], true, NO),
                ],
            ),
            (
                "nothing in flight, nothing to suspect",
                &[Closed(&[], true, NO), Closed(&[], true, NO), Closed(&[], true, NO)],
            ),
            (
                "one close alone on the line is no proof yet",
                &[
                    Closed(&[1], true, NO),
                    Closed(&[1], true, NO),
                    Closed(&[1], true, Verdict::Suspected(1)),
                    Closed(&[1], true, NO),
                    Acked(1),
                ],
            ),
            (
                "the good message that goes first is no suspect",
                &[
                    Closed(&[1], true, NO),
                    Closed(&[1], true, NO),
                    Closed(&[1], true, Verdict::Suspected(1)),
                    Closed(&[9], true, NO),
                    Closed(&[9], true, NO),
                    Closed(&[9], true, NO),
                ],
            ),
        ];
        for (name, steps) in stories {
            let mut suspicion = Suspicion::new(3);
            for (n, step) in steps.iter().enumerate() {
                match step {
                    Closed(in_flight, heard, expect) => {
                        let got = suspicion.closed(in_flight.iter().copied().map(id), *heard);
                        assert_eq!(got, *expect, "{name}, step {n}");
                    }
                    Acked(sequence) => suspicion.clear(id(*sequence)),
                }
            }
        }
    }

    #[test]
    fn with_0_nobody_is_suspected() {
        let mut suspicion = Suspicion::new(0);
        for _ in 0..100 {
            assert_eq!(suspicion.closed([id(1)].into_iter(), true), Verdict::Unknown);
        }
    }

    proptest! {
        /// Where the hub acknowledges nothing on the connections it closes, nobody is ever convicted.
        #[test]
        fn no_conviction_without_an_acknowledgement(closes in proptest::collection::vec((1..9u64, 1..9u64), 0..200)) {
            let mut suspicion = Suspicion::new(3);
            for (first, len) in closes {
                let verdict = suspicion.closed((first..first + len).map(id), false);
                prop_assert!(!matches!(verdict, Verdict::Convicted(_)));
            }
        }
    }
}
