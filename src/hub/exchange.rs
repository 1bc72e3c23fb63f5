//! The dialogue about one twin: questions with their deadlines, changes with their repetitions, versions. Pure: what
//! comes and the time go in, what is to be said comes out.
//!
//! - With each connection ([`opened`](Exchange::opened)) the twin is asked for where desired properties are wanted, or
//!   where something is to be reported and it is not known what the hub has.
//! - One question and one change are under way at most. A change is sent when it is due, against what the hub is known
//!   to have, so that nothing is sent twice; what comes meanwhile is merged and follows.
//! - What the hub has is known from the answer to a question and the changes confirmed since, on one connection. It is
//!   known no more after a change whose outcome is open, for the hub may have made it: the twin is asked for before the
//!   next one. An answer that such a change may have overtaken does not count.
//! - 429, 5xx and silence are followed by another try after a pause that doubles, with jitter. Other refusals are told
//!   and not repeated: what was refused is forgotten. Where a change is refused for what is in it (400, 413), its
//!   properties and devices go one by one first, so that what is wrong with one does not cost the others.
//! - Desired properties have versions. A change with a version that is known is passed over; a gap, a change that cannot
//!   be read or a missed one is followed by the question for the whole. While that is under way changes are kept, and
//!   those that are newer than the answer follow it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::back;
use super::change::Change;
use super::twin::{self, DEVICES, Properties, VERSION};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// First and longest pause after a refusal that may pass.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Changes of desired properties that are kept while the whole is asked for.
const KEPT: usize = 64;

/// A publish for the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its topic.
    pub topic: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This is to be said to the hub.
    Say(Ask),
    /// So many changes were of nothing that the hub does not have already.
    Unchanged(u64),
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nothing was asked that it answers.
    Stray,
    /// The whole twin is known. True where its desired properties are others than those known before.
    Whole(bool),
    /// So many changes are made.
    Confirmed(u64),
    /// The hub is asked again, after a pause.
    Again(u16),
    /// The hub does not take it; so many changes are lost with it.
    Refused(u16, u64),
}

/// Desired properties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// As the hub counts; `None` before anything is known.
    pub version: Option<u64>,
    /// Without `$version` and the like.
    pub properties: Properties,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// Not asked for.
    Unasked,
    Due,
    Asked(Waits),
    /// Known for this connection.
    Known,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waits {
    rid: u64,
    until: Instant,
}

/// What is under way.
#[derive(Debug)]
struct Sent {
    at: Instant,
    waits: Waits,
    change: Change,
    body: Properties,
}

/// The dialogue about one twin.
#[derive(Debug)]
pub struct Exchange {
    wants_desired: bool,
    open: bool,
    next_rid: u64,
    whole: Whole,
    desired: Desired,
    /// Changes that came while the whole was asked for.
    kept: Vec<(u64, Properties)>,
    /// What the hub had as reported when that was known last.
    confirmed: Option<Properties>,
    /// It has that still.
    sure: bool,
    waiting: Change,
    due: Option<Instant>,
    /// So many changes go one property, or one device, at a time.
    apart: usize,
    sent: Option<Sent>,
    last_sent: Option<Instant>,
    not_before: Option<Instant>,
    pause: Duration,
}

impl Exchange {
    /// Nothing is known. Request ids are counted from `first_rid`.
    pub fn new(first_rid: u64) -> Self {
        Self {
            wants_desired: false,
            open: false,
            next_rid: first_rid,
            whole: Whole::Unasked,
            desired: Desired::default(),
            kept: Vec::new(),
            confirmed: None,
            sure: false,
            waiting: Change::default(),
            due: None,
            apart: 0,
            sent: None,
            last_sent: None,
            not_before: None,
            pause: PAUSE.0,
        }
    }

    /// What was desired when the program ended.
    pub fn restore_desired(&mut self, desired: Desired) {
        self.desired = desired;
    }

    /// What waited when the program ended.
    pub fn restore(&mut self, change: Change, now: Instant) {
        self.waiting = change;
        self.due = Some(now);
    }

    /// Says whether desired properties are wanted.
    pub fn want_desired(&mut self, wanted: bool) {
        if wanted && !self.wants_desired && self.open && !matches!(self.whole, Whole::Asked(_)) {
            self.whole = Whole::Due;
        }
        self.wants_desired = wanted;
    }

    /// A connection is there, with its subscriptions.
    pub fn opened(&mut self) {
        self.closed();
        self.open = true;
        self.whole = if self.wants_desired { Whole::Due } else { Whole::Unasked };
    }

    /// The connection is over, and with it what was under way.
    pub fn closed(&mut self) {
        self.open = false;
        // The next connection may be to another hub.
        self.sure = false;
        self.whole = Whole::Unasked;
        self.kept.clear();
        self.take_back();
    }

    /// Something the hub said was lost: it is asked for the whole.
    pub fn missed(&mut self) {
        if self.open && self.wants_desired {
            self.whole = Whole::Due;
            self.kept.clear();
        }
    }

    /// What was sent waits again. Whether the hub has made it is open.
    fn take_back(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.sure = false;
            self.distrust_answer();
            let later = std::mem::replace(&mut self.waiting, sent.change);
            self.waiting.follow(&later);
            // It was due when it was sent.
            self.due = Some(self.due.map_or(sent.at, |due| due.min(sent.at)));
        }
    }

    /// An answer that is under way may be from before or after a change: the question is put again.
    fn distrust_answer(&mut self) {
        if matches!(self.whole, Whole::Asked(_)) {
            self.whole = Whole::Due;
        }
    }

    /// To be reported, `every` so often at most.
    pub fn report(&mut self, change: &Properties, every: Duration, now: Instant) {
        self.waiting.add(change);
        let due = self.last_sent.map_or(now, |last| (last + every).max(now));
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
    }

    /// The bytes that would be reported with this change, as the hub counts them and as far as is known what it has; where
    /// they fit at a first look, no less than that.
    pub fn size_with(&self, change: &Properties) -> usize {
        // As if nothing were replaced; where that fits, nothing has to be merged to know it.
        let most = self.confirmed.as_ref().map_or(0, twin::size) + self.waiting_bytes() + twin::size(change);
        if most <= twin::PROPERTIES_MAX_BYTES {
            return most;
        }
        let mut all = self.confirmed.clone().unwrap_or_default();
        if let Some(sent) = &self.sent {
            all = sent.change.applied(&all);
        }
        all = self.waiting.applied(&all);
        twin::merge(&mut all, change);
        twin::size(&all)
    }

    /// Bytes of what waits, as the hub counts them.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.size() + self.sent.as_ref().map_or(0, |sent| sent.change.size())
    }

    /// Everything that the hub has not confirmed.
    pub fn unconfirmed(&self) -> Change {
        let Some(sent) = &self.sent else { return self.waiting.clone() };
        let mut all = sent.change.clone();
        all.follow(&self.waiting);
        all
    }

    /// How many changes the hub has not confirmed.
    pub fn waits(&self) -> u64 {
        self.waiting.count + self.sent.as_ref().map_or(0, |sent| sent.change.count)
    }

    /// The desired properties as they are known.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// True where there is something to be said, now or later.
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.sent.is_some() || matches!(self.whole, Whole::Due | Whole::Asked(_))
    }

    /// What is to be done now; to be asked again until there is nothing. `dice` is between 0 and 1.
    pub fn step(&mut self, now: Instant, dice: f64) -> Option<Step> {
        if !self.open {
            return None;
        }
        self.look_at_deadlines(now, dice);
        if self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        let due = self.due.is_some_and(|due| due <= now) && !self.waiting.is_empty();
        if !self.sure && due && matches!(self.whole, Whole::Unasked | Whole::Known) {
            self.whole = Whole::Due;
        }
        if self.whole == Whole::Due {
            let waits = self.waits_until(now);
            self.whole = Whole::Asked(waits);
            return Some(Step::Say(Ask { topic: back::get_twin(&waits.rid.to_string()), body: b" ".to_vec() }));
        }
        let may = due && self.sure && self.sent.is_none() && !matches!(self.whole, Whole::Asked(_));
        let confirmed = self.confirmed.as_ref().filter(|_| may)?;
        let change = if self.apart > 0 { self.waiting.take_one(DEVICES) } else { std::mem::take(&mut self.waiting) };
        self.apart = self.apart.saturating_sub(1);
        let body = change.against(confirmed);
        self.due = (!self.waiting.is_empty()).then_some(now);
        if body.is_empty() {
            return Some(Step::Unchanged(change.count));
        }
        let waits = self.waits_until(now);
        let text = Value::Object(body.clone()).to_string();
        self.last_sent = Some(now);
        self.sent = Some(Sent { at: now, waits, change, body });
        Some(Step::Say(Ask { topic: back::patch_reported(&waits.rid.to_string()), body: text.into_bytes() }))
    }

    fn waits_until(&mut self, now: Instant) -> Waits {
        self.next_rid = self.next_rid.wrapping_add(1);
        Waits { rid: self.next_rid, until: now + PATIENCE }
    }

    /// Silence is a refusal that may pass.
    fn look_at_deadlines(&mut self, now: Instant, dice: f64) {
        if matches!(self.whole, Whole::Asked(waits) if waits.until <= now) {
            self.whole = Whole::Due;
            self.pause(now, dice);
        }
        if self.sent.as_ref().is_some_and(|sent| sent.waits.until <= now) {
            self.take_back();
            self.pause(now, dice);
        }
    }

    fn pause(&mut self, now: Instant, dice: f64) {
        self.not_before = Some(now + self.pause.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0));
        self.pause = (self.pause * 2).min(PAUSE.1);
    }

    /// When [`step`](Self::step) has something to do, if nothing comes before.
    pub fn next_time(&self, now: Instant) -> Option<Instant> {
        if !self.open {
            return None;
        }
        let asked = if let Whole::Asked(waits) = self.whole { Some(waits.until) } else { None };
        let sent = self.sent.as_ref().map(|sent| sent.waits.until);
        let due = self.due.filter(|_| !self.waiting.is_empty() && self.sent.is_none());
        let say = match self.whole {
            Whole::Due => Some(now),
            Whole::Asked(_) => None,
            Whole::Unasked | Whole::Known => due,
        };
        let say = say.map(|at| self.not_before.map_or(at, |not_before| not_before.max(at)));
        [asked, sent, say].into_iter().flatten().min()
    }

    /// The hub has answered.
    pub fn answered(&mut self, (status, rid): (u16, &str), body: &[u8], now: Instant, dice: f64) -> Told {
        let Ok(rid) = rid.parse::<u64>() else { return Told::Stray };
        if matches!(self.whole, Whole::Asked(waits) if waits.rid == rid) {
            return self.whole_answered(status, body, now, dice);
        }
        let Some(sent) = self.sent.take_if(|sent| sent.waits.rid == rid) else { return Told::Stray };
        if (200..300).contains(&status) {
            self.settled();
            self.distrust_answer();
            if let Some(confirmed) = &mut self.confirmed {
                twin::merge(confirmed, &sent.body);
            }
            return Told::Confirmed(sent.change.count);
        }
        if passes(status) {
            self.sent = Some(sent);
            self.take_back();
            self.pause(now, dice);
            return Told::Again(status);
        }
        let parts = if matches!(status, 400 | 413) { sent.change.parts(DEVICES) } else { 0 };
        if parts > 1 {
            self.apart = parts;
            self.sent = Some(sent);
            self.take_back();
            return Told::Again(status);
        }
        // What the hub has may be something else than was thought.
        self.sure = false;
        Told::Refused(status, sent.change.count)
    }

    fn settled(&mut self) {
        (self.pause, self.not_before) = (PAUSE.0, None);
    }

    fn whole_answered(&mut self, status: u16, body: &[u8], now: Instant, dice: f64) -> Told {
        let read = if status == 200 { read_whole(body) } else { None };
        let Some((desired, reported)) = read else {
            self.whole = Whole::Due;
            self.pause(now, dice);
            return if passes(status) || status == 200 { Told::Again(status) } else { Told::Refused(status, 0) };
        };
        self.settled();
        self.whole = Whole::Known;
        (self.confirmed, self.sure) = (Some(reported), true);
        // Another hub, or a device that was made again, may have other properties under the same version.
        let mut changed = desired != self.desired;
        if changed {
            self.desired = desired;
        }
        let kept = std::mem::take(&mut self.kept);
        for (version, change) in kept {
            changed |= self.take(version, &change);
        }
        Told::Whole(changed)
    }

    /// Desired properties have changed; true where what is desired is something else now.
    pub fn desired_changed(&mut self, version: Option<u64>, body: &[u8]) -> bool {
        if !self.wants_desired {
            return false;
        }
        let Ok(Value::Object(change)) = serde_json::from_slice::<Value>(body) else {
            self.missed();
            return false;
        };
        let version = version.or_else(|| change.get(VERSION).and_then(Value::as_u64));
        match (version, self.whole) {
            (None, _) => {
                self.missed();
                false
            }
            (Some(version), Whole::Known) => self.take(version, &change),
            (Some(version), _) => {
                if self.kept.len() < KEPT {
                    self.kept.push((version, change));
                } else {
                    // The oldest is what the answer will have; without the newest there is a gap, which is noticed.
                    self.kept.remove(0);
                    self.kept.push((version, change));
                }
                false
            }
        }
    }

    /// Takes a change that follows what is known.
    fn take(&mut self, version: u64, change: &Properties) -> bool {
        match self.desired.version {
            Some(known) if version <= known => false,
            Some(known) if version == known + 1 => {
                let change = own(change);
                twin::merge(&mut self.desired.properties, &change);
                self.desired.version = Some(version);
                true
            }
            _ => {
                self.missed();
                false
            }
        }
    }
}

/// A refusal that may be none a while later.
fn passes(status: u16) -> bool {
    status == 429 || status == 408 || status >= 500
}

fn read_whole(body: &[u8]) -> Option<(Desired, Properties)> {
    let twin: Value = serde_json::from_slice(body).ok()?;
    let part = |name: &str| match twin.get(name) {
        Some(Value::Object(part)) => Some(part.clone()),
        None | Some(Value::Null) => Some(Properties::new()),
        Some(_) => None,
    };
    let desired = part("desired")?;
    let version = desired.get(VERSION).and_then(Value::as_u64);
    Some((Desired { version, properties: own(&desired) }, own(&part("reported")?)))
}

/// Without what is the hub's own.
fn own(properties: &Properties) -> Properties {
    properties.iter().filter(|(name, _)| !name.starts_with('$')).map(|(n, v)| (n.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests;
