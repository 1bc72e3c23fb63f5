//! What is noted of a device when its state has changed: how it stands, in the [fleet](super::super::fleet), and what is
//! due of it, in the [agenda](super::super::agenda).

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use tokio_util::sync::CancellationToken;

use super::super::A_TURN;
use super::super::agenda::Due;
use super::super::fleet::Standing;
use super::{Device, Phase, State};

/// What puts those that are kept behind all others.
const LAST_TO_LEAVE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The state of a device, locked. Where it was changed, that is noted when the lock is given back.
#[derive(Debug)]
pub(in super::super) struct Locked<'a> {
    device: &'a Device,
    state: MutexGuard<'a, State>,
    is_changed: bool,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.is_changed = true;
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if !self.is_changed {
            return;
        }
        let Device { number, fleet, .. } = self.device;
        let state = &mut *self.state;
        let standing = Standing::of(state);
        if standing != state.standing {
            fleet.stands(*number, (std::mem::replace(&mut state.standing, standing), standing));
        }
        let due = state.is_due(self.device.is_own());
        if due != state.due {
            fleet.is_due(*number, (std::mem::replace(&mut state.due, due), due));
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread has looked at a device.
    pub(in super::super) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Device {
    pub(in super::super) fn state(&self) -> Locked<'_> {
        #[cfg(test)]
        LOOKS.with(|looks| looks.set(looks.get() + 1));
        Locked { device: self, state: self.state.lock(), is_changed: false }
    }

    /// Makes a place for another, where it has been idle for longest: no other has since this moment. False where it is
    /// not so any more, which is then written down.
    pub(in super::super) fn makes_place(&self, since: Instant, now: Instant) -> bool {
        let mut state = self.state();
        let may = state.may_leave(now);
        if may == Some(since)
            && let Some(leave) = &state.leave
        {
            leave.cancel();
            self.note(&mut state, Due::Never);
            return true;
        }
        self.note(&mut state, may.map_or(Due::Never, Due::MayLeave));
        false
    }

    /// Its turn is over.
    pub(in super::super) fn end_turn(&self, now: Instant) {
        let mut state = self.state();
        let may = state.may_leave(now);
        self.note(&mut state, may.map_or(Due::Never, Due::MayLeave));
    }

    fn note(&self, state: &mut State, due: Due) {
        self.fleet.is_due(self.number, (std::mem::replace(&mut state.due, due), due));
    }
}

impl State {
    /// What is due of it though nothing happens to it.
    fn is_due(&self, is_own: bool) -> Due {
        if let Some(since) = self.has_place_since() {
            return if is_own { Due::Never } else { self.place_is_due(since) };
        }
        let waits = self.shelving || !self.queue.is_empty() || self.errand;
        match self.phase {
            _ if self.sweeping || !waits => Due::Never,
            Phase::Idle => Due::Soon,
            Phase::Denied if self.shelving => Due::Soon,
            Phase::Held if self.shelving && self.is_removed => Due::Admission,
            Phase::Refused(again) if self.shelving && self.is_its_own => Due::AtOrAdmission(again),
            Phase::Refused(again) => Due::At(again),
            _ => Due::Never,
        }
    }

    /// When it may make a place for another. What is written down already stays though it may have been active since, but
    /// is never later than what is true: one that comes to rest without a message was active before its turn was over.
    fn place_is_due(&self, since: Instant) -> Due {
        match self.due {
            Due::MayLeave(from) if from <= self.leaves_from(since) => self.due,
            Due::TurnOver(_) if !self.is_resting() => self.due,
            _ if self.is_asked_to_leave() => Due::Never,
            _ if self.is_resting() => Due::MayLeave(self.leaves_from(since)),
            _ => Due::TurnOver(since + A_TURN),
        }
    }

    /// Since when it has been idle, or connected where it is not, and may make a place for another.
    pub(in super::super) fn may_leave(&self, now: Instant) -> Option<Instant> {
        let since = self.has_place_since()?;
        if self.is_asked_to_leave() {
            return None;
        }
        let may = self.is_resting() || now.saturating_duration_since(since) > A_TURN;
        may.then(|| self.leaves_from(since))
    }

    /// Since when it has had a place that it may make for another. One that is kept tries for as long as its hub is away.
    fn has_place_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Connected(since) => Some(since),
            Phase::Connecting if self.is_kept && self.is_resting() => Some(self.active),
            _ => None,
        }
    }

    /// By which moment devices make places, the first ones first: since when it has been idle, or connected where it is
    /// not. Those that are kept come after all others that are idle, and after those that had their turn.
    fn leaves_from(&self, since: Instant) -> Instant {
        match self.is_resting() {
            true if self.is_kept => self.active.checked_add(LAST_TO_LEAVE).unwrap_or(self.active),
            true => self.active,
            false => since.max(self.active),
        }
    }

    /// Its line was asked to end, or there is none.
    fn is_asked_to_leave(&self) -> bool {
        self.leave.as_ref().is_none_or(CancellationToken::is_cancelled)
    }

    /// How it stands.
    pub(in super::super) fn standing(&self) -> Standing {
        Standing::of(self)
    }
}
