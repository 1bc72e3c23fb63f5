//! What all devices have in common: the bytes in their queues, how many stand how, and what is due of whom.
//!
//! Nobody walks over all devices to find out. Each change of a device's state is noted here, when the lock of the state
//! is given back; so the numbers are those of this moment, and asking costs the same for ten devices and for a hundred
//! thousand.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::agenda::{Agenda, Due, Number};
use super::census::{Phase, Summary};
use super::expiries::Expiries;
use super::queue;

/// See the module documentation. Its locks are the last that anybody takes.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    /// Of all messages in queues.
    pub(super) bytes: AtomicUsize,
    /// By what they do, in the order of [`Phase::ALL`]; the bridge's own line is none of them.
    phases: [AtomicUsize; Phase::ALL.len()],
    /// Of those, how many have something to send and cannot.
    stuck: AtomicUsize,
    /// Refused, each for a reason of its own.
    refused: AtomicUsize,
    /// Those that may send something in a moment.
    can_send: AtomicUsize,
    /// Connected, with nothing to hand over.
    idle: AtomicUsize,
    agenda: Mutex<Agenda>,
    shelving: Mutex<OnShelf>,
    expiries: Mutex<Expiries>,
}

/// Who has something on a shelf, or soon.
#[derive(Debug, Default)]
struct OnShelf {
    numbers: BTreeSet<Number>,
    /// How often that has changed.
    changes: u64,
}

/// How a device stands, as far as that is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Standing {
    phase: Phase,
    is_resting: bool,
    is_refused_itself: bool,
    can_send: bool,
    /// It is connected and has nothing to hand over.
    pub(super) is_idle: bool,
    shelving: bool,
}

impl Standing {
    /// How a device in this state stands.
    pub(super) fn of(state: &queue::State) -> Self {
        let (phase, is_resting) = (Phase::from(state.phase), state.is_resting());
        Self {
            phase,
            is_resting,
            is_refused_itself: phase == Phase::Refused && state.is_its_own,
            can_send: !is_resting && !state.phase.is_parked() && state.trouble.is_none(),
            is_idle: phase == Phase::Connected && state.is_drained(),
            shelving: state.shelving,
        }
    }

    fn is_stuck(self) -> bool {
        matches!(self.phase, Phase::Refused | Phase::Held) && !self.is_resting
    }
}

impl Fleet {
    /// A device has come.
    pub(super) fn enter(&self, number: Number, standing: Standing) {
        self.count_phase(number, standing.phase, add);
        let flags = self.flags(number, standing);
        flags.into_iter().filter(|(_, is)| *is).for_each(|(count, _)| add(count));
    }

    /// A device stands otherwise than before. Its state is locked.
    pub(super) fn stands(&self, number: Number, (before, after): (Standing, Standing)) {
        if before.phase != after.phase {
            self.count_phase(number, before.phase, subtract);
            self.count_phase(number, after.phase, add);
        }
        for ((count, was), (_, is)) in self.flags(number, before).into_iter().zip(self.flags(number, after)) {
            match (was, is) {
                (false, true) => add(count),
                (true, false) => subtract(count),
                _ => {}
            }
        }
        if before.shelving != after.shelving {
            let mut shelving = self.shelving.lock();
            shelving.changes += 1;
            match after.shelving {
                true => shelving.numbers.insert(number),
                false => shelving.numbers.remove(&number),
            };
        }
    }

    /// Something else is due of a device than before. Its state is locked.
    pub(super) fn is_due(&self, number: Number, (before, after): (Due, Due)) {
        self.agenda.lock().replace(number, (before, after));
    }

    fn count_phase(&self, number: Number, phase: Phase, change: impl Fn(&AtomicUsize)) {
        let is_own = number == 0;
        self.phases.get(phase as usize).filter(|_| !is_own).into_iter().for_each(change);
    }

    /// The other counts, and whether a device that stands so is one of each.
    fn flags(&self, number: Number, standing: Standing) -> [(&AtomicUsize, bool); 4] {
        [
            (&self.stuck, standing.is_stuck() && number != 0),
            (&self.refused, standing.is_refused_itself),
            (&self.can_send, standing.can_send),
            (&self.idle, standing.is_idle),
        ]
    }

    /// All devices in numbers, but for the doors that are shut.
    pub(super) fn summary(&self) -> Summary {
        let phases = self.phases.each_ref().map(|count| count.load(Ordering::Relaxed) as u64);
        let stuck = self.stuck.load(Ordering::Relaxed) as u64;
        let summary = Summary { phases, stuck, ..Summary::default() };
        let parked: u64 = [Phase::Refused, Phase::Held, Phase::Denied].map(|phase| summary.count(phase)).iter().sum();
        Summary { able: phases.iter().sum::<u64>() - parked, ..summary }
    }

    /// Some device is refused, for a reason of its own.
    pub(super) fn some_are_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) > 0
    }

    /// Some device has messages and is neither kept out nor in trouble.
    pub(super) fn can_send(&self) -> bool {
        self.can_send.load(Ordering::Relaxed) > 0
    }

    /// Devices that are connected and have nothing to hand over.
    pub(super) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// What is due of whom.
    pub(super) fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock()
    }

    /// Who has something on a shelf, or soon.
    pub(super) fn on_shelf(&self) -> Vec<Number> {
        self.shelving.lock().numbers.iter().copied().collect()
    }

    /// How often it has changed who has something on a shelf.
    pub(super) fn shelf_changes(&self) -> u64 {
        self.shelving.lock().changes
    }

    /// When what they connect with ends.
    pub(super) fn expiries(&self) -> MutexGuard<'_, Expiries> {
        self.expiries.lock()
    }
}

fn add(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn subtract(count: &AtomicUsize) {
    count.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
