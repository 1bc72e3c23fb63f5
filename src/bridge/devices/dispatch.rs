//! The dispatcher: reads the spools and gives each message its way.
//!
//! A message for which there is no room is kept in hand, one a lane; then only lanes above it are read. In hand it waits
//! while the hub as a whole is slow or away. Where other lines stand idle it is its device that is slow: once that has
//! been short of room for [`PATIENCE`] the message goes onto the shelf, and with it all that follows, until the line has
//! caught up. That the one message waits for a moment only is no sign that all is well: were each to wait for a moment,
//! all devices would go at the pace of this one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::queue::{Device, Held, Phase, State, Way, apart};
use super::register::Verdict;
use super::shelving::{Shelving, Written};
use super::{Left, Shared, SpoolBacklog, Status};
use crate::config::WhenRefused;
use crate::hub::connection_string::is_id;
use crate::hub::limits::D2C_MAX_BYTES;
use crate::message::{HubMessage, excerpt};
use crate::metrics::translated_by_rule;
use crate::uplink::{Backlog as _, Isolation, Lane, MessageId, Outcome, Pacing, Waiting};

/// How long a device is short of room before it may be found slow.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often it is looked at who is slow.
const LOOK: Duration = Duration::from_millis(50);
/// How often what time brings about is looked at.
const TICK: Duration = Duration::from_millis(250);
/// Devices that are looked at in a tick. Where something is due of more, they wait for the next.
const AT_A_TICK: usize = 10_000;
/// Ticks between two looks at what is slow.
const SECOND: u32 = 4;
const MINUTE: u32 = 240;
/// Ticks between two looks whether the hub lets in anybody.
const PROBE: u32 = 8;
/// Messages of "a second of sending", where no tier says it.
const UNMEASURED: u64 = 1_000;

/// Why a device that was allowed is held.
const REMOVED: &str = "it was taken out of the devices table, and no pattern allows it";

/// A message for which there is no room.
struct InHand {
    device: Arc<Device>,
    held: Held,
    since: Instant,
}

struct Dispatcher<'a> {
    shared: &'a Arc<Shared>,
    /// By lane.
    hands: [Option<InHand>; 3],
    shelving: Shelving,
    pace: Pacing,
    /// Some line was connected at the last look.
    was_up: bool,
    ended: bool,
    ticks: u32,
    /// Some device was found refused since the hub was last tried.
    any_refused: bool,
    /// It is not one device that is slow; when that is looked at again.
    look_again: Option<Instant>,
}

/// Reads until the program ends.
pub(super) async fn run(shared: &Arc<Shared>, mut backlog: SpoolBacklog, status: &watch::Sender<Status>) {
    let mut dispatcher = Dispatcher::new(shared);
    let mut tick = tokio::time::interval(TICK);
    loop {
        dispatcher.give_again();
        dispatcher.look_into_hands();
        dispatcher.split(&mut backlog);
        dispatcher.shelving.begin(shared);
        let (down_to, pause) = dispatcher.reads();
        let late = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let next = async {
            match down_to {
                Some(lane) => backlog.next(lane).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            written = dispatcher.shelving.written() => dispatcher.put_away(written).await,
            () = shared.wake.notified() => {}
            _ = tick.tick() => dispatcher.tick(status),
            next = next => match next {
                Some(waiting) => dispatcher.take(waiting),
                None => dispatcher.ended = true,
            },
            () = late => {}
        }
    }
    let written = dispatcher.shelving.last().await;
    if let Some(written) = written {
        dispatcher.put_away(written).await;
    }
}

impl<'a> Dispatcher<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            shared,
            hands: [None, None, None],
            shelving: Shelving::default(),
            pace: Pacing::new(shared.options.uplink.hub_rate.clone()),
            was_up: false,
            ended: false,
            ticks: 0,
            any_refused: false,
            look_again: None,
        }
    }

    /// Down to which lane may be read, and how long the late one has to wait.
    fn reads(&mut self) -> (Option<Lane>, Option<Duration>) {
        if self.ended || !self.shared.has_room() || self.shelving.is_full_for(Lane::Urgent) {
            return (None, None);
        }
        if self.shelving.is_full_for(Lane::Late) {
            // Alarms of devices that can send go on.
            return (self.hands[0].is_none().then_some(Lane::Urgent), None);
        }
        let pause = self.pace.wait(Instant::now());
        match &self.hands {
            [Some(_), ..] => (None, None),
            [None, Some(_), _] => (Some(Lane::Urgent), None),
            [None, None, Some(_)] => (Some(Lane::Live), None),
            _ if !pause.is_zero() => (Some(Lane::Live), Some(pause)),
            _ => (Some(Lane::Late), None),
        }
    }

    /// After the hub was away, what is more than a second of sending follows what is new.
    fn split(&mut self, backlog: &mut SpoolBacklog) {
        let up = self.shared.any_connected();
        if up && !self.was_up && self.shared.options.uplink.live_first {
            let second =
                self.shared.options.uplink.hub_rate.get().map_or(UNMEASURED, |rate| UNMEASURED.min(u64::from(rate)));
            if backlog.split(second) {
                tracing::info!("uplink: what waited follows in its own lane; what comes now goes first");
            }
        }
        self.was_up = up;
    }

    /// A message from a spool.
    fn take(&mut self, waiting: Waiting) {
        // A line may have ended since: what it left is older.
        self.give_again();
        self.pace.sent(Instant::now(), waiting.lane == Lane::Late);
        let waiting = apart(waiting);
        let named = HubMessage::parse(&waiting.record).map(|message| message.device).unwrap_or_default();
        if named.is_empty() || *named == *self.shared.options.plan.own.connection.device {
            let own = Arc::clone(&self.shared.own);
            return self.give(&own, Held::from_spool(waiting));
        }
        if !is_id(named) {
            let detail = format!("{:?} is no device id: letters, digits and -.%_*?!(),:=@$'", excerpt(named));
            return self.shared.isolate(&waiting, Isolation { reason: "bad_device_id", detail });
        }
        match self.shared.device(named) {
            Some(device) => self.give(&device, Held::from_spool(waiting)),
            None => {
                let detail = "there are more devices than a bridge has room for".to_owned();
                self.shared.isolate(&waiting, Isolation { reason: "too_many_devices", detail });
            }
        }
    }

    /// Gives a message its way.
    fn give(&mut self, device: &Arc<Device>, held: Held) {
        let now = Instant::now();
        let (held, way) = match device.offer(held, now) {
            Ok(()) => return self.shared.want(device),
            Err(left) => left,
        };
        // Somebody may have emptied its queue since the last look: that is older.
        self.give_again();
        // A hub that lets in nobody says nothing about a device: that waits like everything else.
        let way = if way == Way::Refused && !self.shared.lets_in() { Way::Blocked } else { way };
        let when_refused = self.shared.options.plan.when_refused;
        if way == Way::Refused && when_refused != WhenRefused::Wait && self.shared.give_up_queue(device) {
            return self.give(device, held);
        }
        match (way, when_refused) {
            (Way::Queued, _) => {}
            (Way::Blocked, _) => {
                if let Some(hand) = self.hands.get_mut(held.waiting.lane as usize) {
                    *hand = Some(InHand { device: Arc::clone(device), held, since: now });
                }
            }
            (Way::Shelf, _) | (Way::Refused, WhenRefused::Wait) => self.shelving.add(device, held.waiting),
            (Way::Refused, WhenRefused::Gateway) => {
                let own = Arc::clone(&self.shared.own);
                self.give(&own, held);
            }
            (Way::Refused, WhenRefused::Quarantine) => {
                self.shared.isolate_refused(device, &held.waiting);
            }
            (Way::Denied, _) => {
                self.shared.isolate_denied(&held.waiting);
            }
        }
    }

    /// What ended lines have left gets its way before anything newer does.
    fn give_again(&mut self) {
        loop {
            let left = self.shared.left.lock().pop_front();
            let Some(Left { device, held }) = left else { return };
            if device.state().phase == Phase::Denied {
                self.shared.isolate_denied(&held.waiting);
                continue;
            }
            let policy = self.shared.policy(&device);
            let (gateway, quarantine) = (policy == WhenRefused::Gateway, policy == WhenRefused::Quarantine);
            if gateway && !device.state().shelving {
                self.over_own_line(held);
            } else if quarantine && !device.state().shelving {
                self.shared.isolate_refused(&device, &held.waiting);
            } else {
                self.shelving.add(&device, held.waiting);
            }
        }
    }

    /// Behind what the bridge's own line has already, also where that is on its shelf.
    fn over_own_line(&mut self, held: Held) {
        let own = &self.shared.own;
        if own.state().shelving {
            self.shelving.add(own, held.waiting);
        } else {
            // Without a look at the room: there is no way back for it, and there are few.
            own.take_left(held);
        }
        self.shared.want(own);
    }

    /// Tries again what found no room.
    fn look_into_hands(&mut self) {
        for lane in 0..self.hands.len() {
            let Some(hand) = self.hands.get_mut(lane).and_then(Option::take) else { continue };
            let InHand { device, held, since } = hand;
            let stalls = match held.waiting.lane {
                Lane::Urgent | Lane::Live => device.is_short_for(PATIENCE),
                // What waits behind a late one is late anyway, and on the shelf it would be before what is new.
                Lane::Late => since.elapsed() >= PATIENCE && !device.has_room(),
            };
            if stalls && self.is_slow(&device) {
                tracing::debug!(
                    device = &*device.id,
                    "it sends more than its line takes: the rest goes onto its shelf"
                );
                self.shelving.add(&device, held.waiting);
                continue;
            }
            self.give(&device, held);
            if let Some(Some(hand)) = self.hands.get_mut(lane) {
                hand.since = since;
            }
        }
    }

    /// It is this device that is slow, not the hub. That is looked at now and then.
    fn is_slow(&mut self, device: &Arc<Device>) -> bool {
        let now = Instant::now();
        if self.look_again.is_some_and(|at| now < at) {
            return false;
        }
        let slow = self.shared.others_are_idle(device);
        self.look_again = (!slow).then(|| now + LOOK);
        slow
    }

    /// Messages have come to shelves, or have not.
    async fn put_away(&mut self, written: Written) {
        for (device, messages, result) in written {
            match result {
                Ok(places) => {
                    let came = device.came_to_shelf(&messages, &places);
                    came.settled.into_iter().for_each(|place| {
                        self.shared.shelves.settle(&device.id, place);
                    });
                    let saved = leave_spool(&self.shared.outcome, &came.to_leave);
                    if saved > 0 {
                        translated_by_rule("(saved on a shelf)").increment(saved);
                    }
                    device.news.notify_waiters();
                    self.shared.want(&device);
                    self.shared.look_at_the_shelf_of(&device);
                }
                Err(error) => {
                    self.shelving.again(&device, messages);
                    let why = error.map_or_else(|| "there is no room".to_owned(), |error| error.to_string());
                    self.shared.metrics.log_pace("shelf", |left_out| {
                        let device = &*device.id;
                        tracing::error!(device, left_out, "a shelf cannot be written: {why}; it is tried again");
                    });
                }
            }
        }
    }

    fn tick(&mut self, status: &watch::Sender<Status>) {
        self.ticks = self.ticks.wrapping_add(1);
        self.shelving.retry();
        let now = Instant::now();
        let sweeps = self.shared.options.plan.when_refused != WhenRefused::Wait && self.shared.lets_in();
        self.any_refused |= self.shared.fleet.some_are_refused();
        let due = self.shared.fleet.agenda().due(now, sweeps, AT_A_TICK);
        for device in self.shared.numbered(due) {
            self.shared.look_at(&device, now, sweeps);
        }
        if self.shared.options.plan.keep_own.load(Ordering::Relaxed) {
            // It lines up where it has no line.
            self.shared.want(&self.shared.own);
        }
        if self.ticks.is_multiple_of(PROBE) && std::mem::take(&mut self.any_refused) && !self.shared.lets_in() {
            // Does the hub let in nobody? The bridge's own line tells.
            self.shared.want(&self.shared.own);
        }
        self.shared.make_places();
        if self.shared.door.count() > 0 || self.ticks.is_multiple_of(SECOND) {
            self.shared.mind_the_door();
        }
        if self.ticks.is_multiple_of(SECOND) {
            self.shared.publish(status);
            self.shared.look_after_kept();
            self.shared.look_after_shelves(self.ticks.is_multiple_of(MINUTE));
        }
    }
}

/// Takes out of the spool what has come to a shelf. Says how many of them the spool had given up meanwhile: those count as
/// lost there, and would count as delivered, too, when they leave the shelf.
pub(super) fn leave_spool(outcome: &impl Outcome, messages: &[MessageId]) -> u64 {
    messages.iter().filter(|id| !outcome.delivered(**id)).count() as u64
}

impl Shared {
    /// Something may be due of a device. Where what it has on its shelf may go another way, it does.
    fn look_at(self: &Arc<Self>, device: &Arc<Device>, now: Instant, sweeps: bool) {
        let (phase, shelving, drained, (its_own, is_removed)) = {
            let state = device.state();
            (state.phase, state.shelving, state.is_drained() && !state.errand, (state.is_its_own, state.is_removed))
        };
        match phase {
            Phase::Denied if shelving => self.sweep(device),
            Phase::Held if shelving && sweeps && is_removed => self.sweep(device),
            Phase::Refused(_) if shelving && sweeps && its_own => self.sweep(device),
            Phase::Refused(again) if now >= again && (shelving || !drained) => self.want(device),
            Phase::Idle if shelving || !drained => self.want(device),
            _ => {}
        }
    }

    /// At least half of the other lines that are connected have nothing to do: the hub is not what is slow.
    fn others_are_idle(&self, slow: &Arc<Device>) -> bool {
        let its = {
            let state = slow.state();
            (matches!(state.phase, Phase::Connected(_)), state.standing().is_idle)
        };
        let connected = self.connected.load(Ordering::Relaxed).saturating_sub(usize::from(its.0));
        let idle = self.fleet.idle().saturating_sub(usize::from(its.1));
        connected > 0 && idle * 2 >= connected
    }

    /// What becomes of the messages of a device that is refused.
    pub(super) fn policy(&self, device: &Device) -> WhenRefused {
        if device.state().is_its_own { self.options.plan.when_refused } else { WhenRefused::Wait }
    }

    fn isolate_refused(self: &Arc<Self>, device: &Device, waiting: &Waiting) {
        let detail = device.state().trouble.clone().unwrap_or_default();
        self.isolate(waiting, Isolation { reason: "device_refused", detail });
    }

    fn isolate_denied(self: &Arc<Self>, waiting: &Waiting) {
        let detail = "an operator has denied this device".to_owned();
        self.isolate(waiting, Isolation { reason: "device_denied", detail });
    }

    /// Whether a device may connect.
    pub(super) fn verdict(&self, device: &Device) -> Verdict {
        if device.is_own() { Verdict::Allowed } else { self.register.lock().verdict(&device.id) }
    }

    /// Keeps a device out that an operator has denied, or that nothing allows any more; false while its line has to end
    /// first.
    pub(super) fn keep_out(&self, device: &Arc<Device>, verdict: Verdict) -> bool {
        let mut state = device.state();
        if matches!(state.phase, Phase::InLine | Phase::Connecting | Phase::Connected(_)) {
            return false;
        }
        if verdict == Verdict::Denied {
            self.set_phase(&mut state, Phase::Denied);
        } else {
            self.set_phase(&mut state, Phase::Held);
            (state.is_removed, state.is_its_own) = (true, true);
            state.trouble = Some(REMOVED.to_owned());
        }
        self.leave_queue(device, &mut state);
        true
    }

    /// What waits in the queue of a device is given its way anew. Whoever sees the device without it finds it there: the
    /// state stays locked.
    pub(super) fn leave_queue(&self, device: &Arc<Device>, state: &mut State) {
        let left = device.clear(state);
        self.left.lock().extend(left.into_iter().map(|held| Left { device: Arc::clone(device), held }));
    }

    /// A device that was refused while the hub let in nobody has kept its queue, and now what is newer goes another way: the
    /// queue goes before it. False where there is none.
    pub(super) fn give_up_queue(&self, device: &Arc<Device>) -> bool {
        let mut state = device.state();
        let kept = matches!(state.phase, Phase::Refused(_)) && !state.is_drained();
        if kept {
            self.leave_queue(device, &mut state);
        }
        kept
    }

    /// Sends a message to the quarantine.
    fn isolate(self: &Arc<Self>, waiting: &Waiting, isolation: Isolation) {
        let (shared, waiting) = (Arc::clone(self), waiting.clone());
        self.isolating.fetch_add(1, Ordering::Relaxed);
        self.lines.spawn(async move {
            tokio::select! {
                () = shared.outcome.isolate(&waiting, &isolation) => {}
                () = shared.stop.cancelled() => {}
            }
            shared.isolating.fetch_sub(1, Ordering::Relaxed);
            shared.wake.notify_one();
        });
    }
}

#[cfg(test)]
pub(super) mod tests;

/// The largest message fits into a queue of any device.
const _: () = assert!(D2C_MAX_BYTES < 1 << 20);
