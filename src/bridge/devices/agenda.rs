//! When a device is to be looked at though nothing happens to it.
//!
//! Most of what a device does follows from an event: a message comes, a line ends, an operator says something. What only
//! time brings about is written down here, so that a tick touches the devices for which something is due and no others.
//! Each change of a device's state says anew what is due of it, see [`State::due`](super::queue::State); nobody else
//! has to think of it.
//!
//! | a device | is due |
//! |---|---|
//! | idle, with something to send | at the next tick |
//! | denied, with something on its shelf | at the next tick |
//! | refused, with something to send | when its pause ends |
//! | refused or removed, with something on its shelf | as soon as the hub lets in somebody, where that is to go another way |
//! | connected, never at rest | when its turn is over, where others wait for a place |
//! | connected, at rest or after its turn | first who has been so longest, last who is kept open, where others wait for a place |
//! | anything else | never |
//!
//! The last two are asked for where somebody waits for a place. When a device was active last changes with each message,
//! and what is written down here does not: it is a time before which it was not at rest, and who takes the first of them
//! looks, and puts it back where it belongs by now.

use std::collections::BTreeSet;
use std::time::Instant;

/// The place of a device among all; the bridge's own line is the first.
pub(super) type Number = u32;

/// What is due of a device, and when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Due {
    #[default]
    Never,
    /// At the next tick.
    Soon,
    /// At this moment.
    At(Instant),
    /// As soon as the hub lets in somebody.
    Admission,
    /// Whichever of these comes first.
    AtOrAdmission(Instant),
    /// Its turn is over then: it may make a place for another.
    TurnOver(Instant),
    /// It may make a place for another. It has not been at rest for longer than this.
    MayLeave(Instant),
}

/// What is due, in order. Devices at the same moment come in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    soon: BTreeSet<Number>,
    times: BTreeSet<(Instant, Number)>,
    admission: BTreeSet<Number>,
    turns: BTreeSet<(Instant, Number)>,
    may_leave: BTreeSet<(Instant, Number)>,
}

impl Agenda {
    /// Something else is due of a device than before.
    pub(super) fn replace(&mut self, number: Number, (before, after): (Due, Due)) {
        match before {
            Due::Never => false,
            Due::Soon => self.soon.remove(&number),
            Due::At(at) => self.times.remove(&(at, number)),
            Due::Admission => self.admission.remove(&number),
            Due::AtOrAdmission(at) => self.times.remove(&(at, number)) | self.admission.remove(&number),
            Due::TurnOver(at) => self.turns.remove(&(at, number)),
            Due::MayLeave(since) => self.may_leave.remove(&(since, number)),
        };
        match after {
            Due::Never => false,
            Due::Soon => self.soon.insert(number),
            Due::At(at) => self.times.insert((at, number)),
            Due::Admission => self.admission.insert(number),
            Due::AtOrAdmission(at) => self.times.insert((at, number)) | self.admission.insert(number),
            Due::TurnOver(at) => self.turns.insert((at, number)),
            Due::MayLeave(since) => self.may_leave.insert((since, number)),
        };
    }

    /// Whom a tick looks at, so many at most. They stay here until what is due of them is another.
    pub(super) fn due(&self, now: Instant, admission: bool, most: usize) -> Vec<Number> {
        let times = self.times.range(..=(now, Number::MAX)).map(|(_, number)| *number);
        let admission = self.admission.iter().copied().filter(|_| admission);
        self.soon.iter().copied().chain(times).chain(admission).take(most).collect()
    }

    /// Takes out somebody whose turn was over before this moment. What is due of him is to be written down anew.
    pub(super) fn take_turn_over(&mut self, now: Instant) -> Option<Number> {
        let (at, _) = self.turns.first()?;
        if *at >= now {
            return None;
        }
        self.turns.pop_first().map(|(_, number)| number)
    }

    /// The same of him who may make a place for another first, as far as is known here, and since when.
    pub(super) fn take_first_to_leave(&mut self) -> Option<(Instant, Number)> {
        self.may_leave.pop_first()
    }
}
