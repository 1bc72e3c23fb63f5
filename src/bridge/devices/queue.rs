//! One device: its state, and its queue between dispatcher and line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::agenda::{Due, Number};
use super::fleet::{Fleet, Standing};
use super::transfer::Transfer;
use crate::message::Timestamp;
use crate::shelf::{Chunk, Mark, Place, Placed, Shelved, Shelves};
use crate::uplink::{Expiry, Lane, MessageId, Waiting};

mod due;

#[cfg(test)]
pub(super) use due::LOOKS;

/// Messages in memory of a device, those in flight among them.
const MOST: usize = 128;
/// The same of the bridge's own line.
const MOST_OWN: usize = 2_048;
/// Their bytes.
const MOST_BYTES: usize = 1 << 20;
const MOST_BYTES_OWN: usize = 8 << 20;
/// A queue with fewer messages is filled from the shelf.
const LOW: usize = 32;

/// What a device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has nothing to send.
    Idle,
    /// The provisioning service is asked for its hub, or will be.
    Registering,
    /// It waits for one of the connections there may be.
    InLine,
    Connecting,
    /// Since when.
    Connected(Instant),
    /// The hub refuses it, or nobody knows its credentials; when it is tried again.
    Refused(Instant),
    /// Nobody has said that it may connect.
    Held,
    /// An operator has said that it may not.
    Denied,
}

impl Phase {
    /// It sends nothing, whatever waits.
    pub(super) fn is_parked(self) -> bool {
        matches!(self, Self::Refused(_) | Self::Held | Self::Denied)
    }
}

/// A message in memory, and where it is kept on disk.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) waiting: Waiting,
    pub(super) home: Home,
}

/// Where a message in memory is kept on disk.
#[derive(Debug, Clone)]
pub(super) enum Home {
    Spool,
    /// In its spool, and soon on the shelf of the device whose queue this is; see [`super::transfer`].
    OnItsWay,
    /// On the shelf of this device, there.
    Shelf(Arc<Device>, Place),
}

impl Home {
    fn is_shelf_of(&self, id: &str) -> bool {
        matches!(self, Self::Shelf(home, _) if *home.id == *id)
    }
}

impl Held {
    pub(super) fn from_spool(waiting: Waiting) -> Self {
        Self { waiting, home: Home::Spool }
    }

    pub(super) fn from_shelf(device: &Arc<Device>, placed: Placed) -> Self {
        let Placed { place, shelved: Shelved { spool, sequence, lane, record } } = placed;
        let lane = match lane {
            0 => Lane::Urgent,
            1 => Lane::Live,
            _ => Lane::Late,
        };
        let waiting = Waiting { id: MessageId { spool, sequence }, lane, record };
        Self { waiting, home: Home::Shelf(Arc::clone(device), place) }
    }

    fn len(&self) -> usize {
        self.waiting.record.len()
    }
}

/// As it is put on a shelf.
pub(super) fn shelved(waiting: &Waiting) -> Shelved {
    let lane = match waiting.lane {
        Lane::Urgent => 0,
        Lane::Live => 1,
        Lane::Late => 2,
    };
    Shelved { spool: waiting.id.spool, sequence: waiting.id.sequence, lane, record: waiting.record.clone() }
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: Arc<str>,
    number: Number,
    state: Mutex<State>,
    /// Something came, or went.
    pub(super) news: Notify,
    fleet: Arc<Fleet>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// How it stands, as the [`Fleet`] has counted it.
    standing: Standing,
    /// What is due of it, as it is written down in the [agenda](super::agenda).
    due: Due,
    /// Not given to the line yet.
    queue: VecDeque<Held>,
    /// Given and not settled.
    given: VecDeque<Held>,
    bytes: usize,
    /// What is newer than the queue goes onto the shelf: there is something on it that was not read yet, or soon.
    pub(super) shelving: bool,
    /// Messages on their way to the shelf.
    pub(super) to_shelf: usize,
    /// What is in memory and goes onto the shelf before all else.
    pub(super) transfer: Option<Box<Transfer>>,
    /// How far the shelf was read.
    pub(super) read_to: Option<Mark>,
    /// Something else than messages is to be said over its line.
    pub(super) errand: bool,
    /// Its line stays open though nothing waits.
    pub(super) is_kept: bool,
    /// Somebody drains the shelf another way.
    pub(super) sweeping: bool,
    /// Since when it has been short of room: no message found any, and it was not half empty since.
    short_since: Option<Instant>,
    /// When a message came or went last.
    pub(super) active: Instant,
    /// Refusals in a row.
    pub(super) refusals: u32,
    pub(super) pause: Duration,
    pub(super) trouble: Option<String>,
    /// That it is refused says something about this device.
    pub(super) is_its_own: bool,
    /// It is held because nothing allows it any more, and what it left is to go where that of refused ones goes.
    pub(super) is_removed: bool,
    pub(super) delivered: u64,
    pub(super) last_delivered: Option<Timestamp>,
    /// When what it connects with ends, as far as it was seen.
    expiry: Expiry,
    /// Ends the line, or has its hub asked for anew.
    leave: Option<CancellationToken>,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is in the queue.
    Queued,
    /// There is no room in the queue now.
    Blocked,
    Shelf,
    /// The device is refused, for a reason of its own.
    Refused,
    Denied,
}

/// Where a message of a shelf is besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nowhere.
    OnShelf,
    /// It was in the queue.
    Queued,
    /// It is on its way to the hub.
    Given,
}

impl Device {
    /// The device of this number; that of the bridge's own line is 0.
    pub(super) fn new(id: &str, number: Number, phase: Phase, fleet: &Arc<Fleet>) -> Arc<Self> {
        let state = State::new(phase);
        fleet.enter(number, state.standing);
        let (state, fleet) = (Mutex::new(state), Arc::clone(fleet));
        Arc::new(Self { id: id.into(), number, state, news: Notify::new(), fleet })
    }

    /// The same where nobody else has it now.
    #[cfg(test)]
    pub(super) fn try_state(&self) -> Option<parking_lot::MutexGuard<'_, State>> {
        self.state.try_lock()
    }

    /// It is the bridge's own line.
    pub(super) fn is_own(&self) -> bool {
        self.id.is_empty()
    }

    /// Its shelf was found to hold something.
    pub(super) fn is_on_shelf(&self) {
        self.state().shelving = true;
    }

    /// Takes a message, or says what is to become of it.
    pub(super) fn offer(&self, held: Held, now: Instant) -> Result<(), (Held, Way)> {
        let mut state = self.state();
        let due = matches!(state.phase, Phase::Refused(again) if now >= again);
        let connected = matches!(state.phase, Phase::Connected(_));
        let urgent = held.waiting.lane == Lane::Urgent;
        let way = match state.phase {
            Phase::Denied => Way::Denied,
            Phase::Held => Way::Shelf,
            // An urgent one that follows another does not go where the other would come behind it after a restart.
            _ if state.shelving && !(urgent && (connected || state.urgent_waits())) => Way::Shelf,
            Phase::Refused(_) if !due && !state.is_its_own => Way::Shelf,
            Phase::Refused(_) if !due => Way::Refused,
            // Thousands may wait for hours until they are registered; they must not take the room of the others.
            Phase::Registering if !state.has_room(self.is_own()) || self.is_half_full() => Way::Shelf,
            _ if !state.has_room(self.is_own()) => Way::Blocked,
            _ => Way::Queued,
        };
        if way == Way::Blocked {
            state.short_since.get_or_insert(now);
        }
        if way != Way::Queued {
            return Err((held, way));
        }
        self.push(&mut state, held);
        Ok(())
    }

    /// Half of the room of all devices is taken.
    fn is_half_full(&self) -> bool {
        self.fleet.bytes.load(Ordering::Relaxed) >= super::MOST_BYTES / 2
    }

    /// Takes a message that has to go first of all, room or not: there are few of them.
    pub(super) fn take_left(&self, held: Held) {
        self.push(&mut self.state(), held);
    }

    fn push(&self, state: &mut State, held: Held) {
        state.bytes += held.len();
        self.fleet.bytes.fetch_add(held.len(), Ordering::Relaxed);
        state.active = Instant::now();
        state.queue.push_back(held);
        self.news.notify_waiters();
    }

    /// True where there is room for more.
    pub(super) fn has_room(&self) -> bool {
        self.state().has_room(self.is_own())
    }

    /// It has been short of room for so long: now and then there is room for one, and the next finds none.
    pub(super) fn is_short_for(&self, patience: Duration) -> bool {
        self.state().short_since.is_some_and(|since| since.elapsed() >= patience)
    }

    /// Since when it has had nothing to do; `None` while it has.
    pub(super) fn rests_since(&self) -> Option<Instant> {
        let state = self.state();
        state.may_rest().then_some(state.active)
    }

    /// Takes its place in the line for a connection; false where it has one already, or may not.
    pub(super) fn line_up(&self, now: Instant) -> bool {
        let mut state = self.state();
        let may = match state.phase {
            Phase::Idle => !state.sweeping,
            Phase::Refused(again) => now >= again && !state.sweeping,
            _ => false,
        };
        if may {
            state.phase = Phase::InLine;
        }
        may
    }

    /// Asks its line to end, or its registration to begin anew; false where that is no use any more.
    pub(super) fn ask_to_leave(&self) -> bool {
        let state = self.state();
        let open = state.leave.as_ref().filter(|leave| !leave.is_cancelled());
        open.inspect(|leave| leave.cancel()).is_some()
    }

    /// A line begins.
    pub(super) fn begin(&self) -> CancellationToken {
        {
            let mut state = self.state();
            state.phase = Phase::Connecting;
            state.active = Instant::now();
            state.short_since = None;
        }
        self.may_be_ended()
    }

    /// Is cancelled when what it does now is to end, see [`Self::ask_to_leave`].
    pub(super) fn may_be_ended(&self) -> CancellationToken {
        let leave = CancellationToken::new();
        self.state().leave = Some(leave.clone());
        leave
    }

    /// The line has ended: what it was given waits again, in its order.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.leave = None;
        let given = std::mem::take(&mut state.given);
        for held in given.into_iter().rev() {
            state.queue.push_front(held);
        }
    }

    /// Empties the queue. What is on the shelf, or will be, is read from there again; the rest is returned, and newer.
    pub(super) fn clear(&self, state: &mut State) -> Vec<Held> {
        let on_shelf = |held: &Held| matches!(held.home, Home::OnItsWay) || held.home.is_shelf_of(&self.id);
        self.fleet.bytes.fetch_sub(state.bytes, Ordering::Relaxed);
        state.bytes = 0;
        state.read_to = None;
        state.shelving |= state.queue.iter().any(on_shelf);
        state.queue.drain(..).filter(|held| !on_shelf(held)).collect()
    }

    /// True where its line is to be filled from the shelf.
    pub(super) fn wants_more(&self) -> bool {
        let state = self.state();
        state.shelving && state.transfer.is_none() && state.queue.len() < LOW && state.has_room(self.is_own())
    }

    /// How far its shelf was read.
    pub(super) fn read_to(&self) -> Option<Mark> {
        self.state().read_to
    }

    /// Takes what was read from its shelf. True where that was something, or nothing is behind it.
    pub(super) fn take_chunk(self: &Arc<Self>, chunk: Chunk, shelves: &Shelves) -> bool {
        let mut state = self.state();
        let some = !chunk.messages.is_empty();
        for placed in chunk.messages {
            self.push(&mut state, Held::from_shelf(self, placed));
        }
        let all = self.read_up_to(&mut state, chunk.next, shelves);
        some || all
    }

    /// Its shelf was read so far. True where that is all of it: what is newer goes the direct way again. That is decided
    /// here, with the state locked and nothing on its way to the shelf: when it was read there may have been less on it.
    pub(super) fn read_up_to(&self, state: &mut State, to: Option<Mark>, shelves: &Shelves) -> bool {
        state.read_to = to;
        if state.to_shelf == 0 && shelves.is_read(&self.id, to) {
            // The place stays: messages before it may be on their way to the hub.
            state.shelving = false;
        }
        !state.shelving
    }

    /// The next message for the line; urgent ones first.
    pub(super) fn next(&self) -> Option<Waiting> {
        let mut state = self.state();
        let urgent = state.queue.iter().position(|held| held.waiting.lane == Lane::Urgent).unwrap_or(0);
        let held = state.queue.remove(urgent)?;
        let waiting = held.waiting.clone();
        state.given.push_back(held);
        Some(waiting)
    }

    /// Its line uses this from now on; returns what it used before.
    pub(super) fn uses(&self, expiry: Expiry) -> Expiry {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.expiry, expiry);
        self.fleet.expiries().replace(before, expiry);
        before
    }

    /// What its line uses, as far as it was seen.
    pub(super) fn expiry(&self) -> Expiry {
        self.state().expiry
    }

    /// Takes a message that was read from a shelf, its own or that of another, out of the queue again; one that was given
    /// to the line stays. So with one that has come to its shelf, of which this queue was not told yet.
    pub(super) fn take_back(&self, shelf: &str, placed: &Placed) -> Kept {
        let mut state = self.state();
        let Placed { place, shelved: Shelved { spool, sequence, .. } } = *placed;
        let is = |held: &Held| match &held.home {
            Home::Spool => false,
            Home::OnItsWay => *self.id == *shelf && held.waiting.id == MessageId { spool, sequence },
            Home::Shelf(home, at) => *home.id == *shelf && *at == place,
        };
        if state.given.iter().any(is) {
            return Kept::Given;
        }
        let Some(at) = state.queue.iter().position(is) else { return Kept::OnShelf };
        if let Some(held) = state.queue.remove(at) {
            state.bytes -= held.len();
            self.fleet.bytes.fetch_sub(held.len(), Ordering::Relaxed);
        }
        self.news.notify_waiters();
        Kept::Queued
    }

    /// Takes a message out for good.
    pub(super) fn settle(&self, id: MessageId) -> Option<Held> {
        let mut state = self.state();
        let at = state.given.iter().position(|held| held.waiting.id == id)?;
        let held = state.given.remove(at)?;
        state.bytes -= held.len();
        self.fleet.bytes.fetch_sub(held.len(), Ordering::Relaxed);
        state.active = Instant::now();
        if state.is_half_empty(self.is_own()) {
            state.short_since = None;
        }
        if matches!(held.home, Home::OnItsWay) {
            state.settled_on_its_way(id);
        }
        self.news.notify_waiters();
        Some(held)
    }
}

impl State {
    fn new(phase: Phase) -> Self {
        let standing = Standing::default();
        let mut state = Self {
            phase,
            standing,
            due: Due::Never,
            queue: VecDeque::new(),
            given: VecDeque::new(),
            bytes: 0,
            shelving: false,
            to_shelf: 0,
            transfer: None,
            read_to: None,
            errand: false,
            is_kept: false,
            sweeping: false,
            short_since: None,
            active: Instant::now(),
            refusals: 0,
            pause: Duration::ZERO,
            trouble: None,
            is_its_own: true,
            is_removed: false,
            delivered: 0,
            last_delivered: None,
            expiry: Expiry::default(),
            leave: None,
        };
        state.standing = Standing::of(&state);
        state
    }

    /// It is parked no longer, and is tried at once.
    pub(super) fn let_in(&mut self) {
        self.phase = Phase::Idle;
        (self.refusals, self.pause, self.trouble) = (0, Duration::ZERO, None);
        (self.is_its_own, self.is_removed) = (true, false);
    }

    /// What is put on its shelf goes up soon, as far as one knows: it is not refused, nor tried again after that.
    pub(super) fn can_send(&self) -> bool {
        self.refusals == 0 && !self.phase.is_parked() && self.phase != Phase::Registering
    }

    fn has_room(&self, own: bool) -> bool {
        let (messages, bytes) = if own { (MOST_OWN, MOST_BYTES_OWN) } else { (MOST, MOST_BYTES) };
        self.in_memory() < messages && self.bytes < bytes
    }

    fn is_half_empty(&self, own: bool) -> bool {
        let (messages, bytes) = if own { (MOST_OWN, MOST_BYTES_OWN) } else { (MOST, MOST_BYTES) };
        self.in_memory() <= messages / 2 && self.bytes <= bytes / 2
    }

    pub(super) fn in_memory(&self) -> usize {
        self.queue.len() + self.given.len()
    }

    /// Nothing waits to be taken by the line.
    pub(super) fn is_drained(&self) -> bool {
        self.queue.is_empty()
    }

    /// A message that was given is on a shelf.
    pub(super) fn is_on_shelf(&self, id: MessageId) -> bool {
        self.given.iter().any(|held| held.waiting.id == id && matches!(held.home, Home::Shelf(..)))
    }

    /// All messages in memory, the oldest first but for urgent ones, which are sent before others.
    pub(super) fn in_order(&mut self) -> impl Iterator<Item = &mut Held> {
        self.given.iter_mut().chain(&mut self.queue)
    }

    /// An urgent message waits that only the spool keeps.
    fn urgent_waits(&self) -> bool {
        let is = |held: &Held| held.waiting.lane == Lane::Urgent && matches!(held.home, Home::Spool);
        self.given.iter().chain(&self.queue).any(is)
    }

    /// Gives back the memory that its messages took.
    pub(super) fn release(&mut self) {
        self.queue.shrink_to_fit();
        self.given.shrink_to_fit();
    }

    /// What messages take besides themselves.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.queue.capacity() + self.given.capacity()
    }

    /// Its line may end: it has nothing to do, and is not kept.
    pub(super) fn may_rest(&self) -> bool {
        self.is_resting() && !self.is_kept
    }

    /// Nothing waits, nothing is in flight, nothing is on the shelf, nothing else is to be said.
    pub(super) fn is_resting(&self) -> bool {
        self.queue.is_empty() && self.given.is_empty() && !self.shelving && !self.errand
    }
}

/// A message of its own, apart from what was read from the spool at once: it may stay in memory for long.
pub(super) fn apart(waiting: Waiting) -> Waiting {
    Waiting { record: Bytes::copy_from_slice(&waiting.record), ..waiting }
}
