//! The task that speaks with the hub about all twins: one loop, which owns the times at which twins are looked after.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::book::Twin;
use super::desired::{Desk, Done, Plant};
use super::{Refusal, Shared, Twins, records};
use crate::bridge::InUse;
use crate::bridge::devices::Devices;
use crate::downlink::{Rates, Terms};
use crate::hub::back::Downward;
use crate::hub::exchange::{Step, Told};
use crate::hub::twin;
use crate::message::excerpt;
use crate::uplink::{self, Arrival, Gone, TwinNews, Wanted};

/// Twin operations a second, of all twins: what an S1 hub takes, less a fifth ("IoT Hub quotas and throttling").
const A_SECOND: u32 = 40;
/// A twin is not looked after more often than this where nothing happens.
const A_MOMENT: Duration = Duration::from_millis(10);
/// The answers to desired properties of a twin go together in this time.
const ANSWERS_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked at what rules want.
const LOOK: Duration = Duration::from_secs(1);

/// What the task uses of the other parts.
pub struct Parts {
    /// The rules that want something reported or desired.
    pub rules: Arc<InUse>,
    /// What the hub is to send.
    pub wanted: watch::Sender<Wanted>,
    /// Where every device has a line: those are opened for what is to be said.
    pub devices: Option<Devices>,
    /// Where what is desired goes.
    pub plant: Option<Plant>,
}

/// Speaks with the hub until `stop`.
pub async fn run(twins: Twins, mut parts: Parts, mut news: uplink::Twins, stop: CancellationToken) {
    let shared = twins.0;
    let desk = parts.plant.take().map(|plant| Desk::new(plant, shared.metrics.clone()));
    let (times, rate, seen) = (BTreeSet::new(), Rates::new(A_SECOND), None);
    let mut terms = shared.terms.clone();
    terms.mark_unchanged();
    let mut talk = Talk { shared, parts, desk, times, rate, seen };
    talk.write_anew();
    talk.shared.book.lock().touch_all();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = talk.times.first().map(|(at, _)| *at);
        let time = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let shared = Arc::clone(&talk.shared);
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = look.tick() => talk.look(),
            Ok(()) = terms.changed() => talk.look(),
            Some(news) = news.next() => talk.heard(news).await,
            () = shared.touched.notified() => {}
            () = shared.journal.outgrown() => talk.write_anew(),
            () = time => {}
        }
        talk.look_after().await;
    }
}

struct Talk {
    shared: Arc<Shared>,
    parts: Parts,
    desk: Option<Desk>,
    /// When a twin is to be looked after.
    times: BTreeSet<(Instant, Arc<str>)>,
    rate: Rates,
    /// By what everything that is desired was looked at: the hash of the rules, and what may be done.
    seen: Option<(String, Arc<Terms>)>,
}

impl Talk {
    /// Everything that is kept is written to the journal.
    fn write_anew(&self) {
        Twins(Arc::clone(&self.shared)).write_anew();
    }

    /// Rules, or terms, that were taken up may want something else.
    fn look(&mut self) {
        let (rules, terms) = (self.parts.rules.rules(), Arc::clone(&self.shared.terms.borrow()));
        let is_seen = |(hash, seen): &(String, Arc<Terms>)| rules.hash() == hash && terms == *seen;
        if self.desk.is_some() && !self.seen.as_ref().is_some_and(is_seen) {
            self.seen = Some((rules.hash().to_owned(), Arc::clone(&terms)));
            let names = self.shared.book.lock().names();
            if terms.enabled {
                names.iter().for_each(|device| self.desired(device));
            }
            let wants = self.wants_desired();
            let mut book = self.shared.book.lock();
            for device in &names {
                book.with(device, |twin| twin.exchange.want_desired(wants));
                book.touch(device);
            }
        }
        self.parts.wanted.send_if_modified(|known| {
            let new = self.wanted(*known);
            std::mem::replace(known, new) != new
        });
    }

    fn wanted(&self, others: Wanted) -> Wanted {
        Twins(Arc::clone(&self.shared)).wanted(&self.parts.rules.rules(), others)
    }

    fn wants_desired(&self) -> bool {
        self.wanted(Wanted::default()).desired
    }

    async fn heard(&self, news: TwinNews) {
        match news {
            TwinNews::Opened(device, line) => {
                let wants = self.wants_desired();
                let mut book = self.shared.book.lock();
                book.with(&device, |twin| {
                    twin.line = Some(line);
                    twin.exchange.want_desired(wants);
                    twin.exchange.opened();
                });
                book.touch(&device);
            }
            TwinNews::Missed(device) => {
                self.shared.metrics.twin_answer("missed");
                let mut book = self.shared.book.lock();
                book.with_known(&device, |twin| twin.exchange.missed());
                book.touch(&device);
            }
            TwinNews::Arrived(arrival) => {
                self.arrived(&arrival);
                let _ = arrival.line.complete().await;
            }
        }
    }

    fn arrived(&self, arrival: &Arrival) {
        let Arrival { device, topic, payload, .. } = arrival;
        match Downward::parse(topic) {
            Some(Downward::TwinAnswer { status, rid, version }) => {
                if let (200..300, Some(version)) = (status, version) {
                    let mut book = self.shared.book.lock();
                    book.with_known(device, |twin| twin.reported_version = Some(version));
                }
                self.answered(device, (status, rid), payload);
            }
            Some(Downward::Desired { version }) => {
                let change = |twin: &mut Twin| twin.exchange.desired_changed(version, payload);
                let changed = self.shared.book.lock().with_known(device, change);
                if changed == Some(true) {
                    self.desired(device);
                }
            }
            _ => {
                self.shared.metrics.twin_answer("not_understood");
                let detail = excerpt(topic);
                self.shared.metrics.log_pace("twin not_understood", |left_out| {
                    tracing::warn!(detail, left_out, "the hub said something about a twin that is not understood");
                });
            }
        }
        self.shared.book.lock().touch(device);
    }

    fn answered(&self, device: &str, answer: (u16, &str), payload: &Bytes) {
        let now = Instant::now();
        let act = |twin: &mut Twin| twin.exchange.answered(answer, payload, now, rand::random());
        let Some(told) = self.shared.book.lock().with_known(device, act) else { return };
        self.shared.metrics.twin_answer(match (&told, answer.0) {
            (Told::Stray, _) => "stray",
            (_, 200..300) => "taken",
            (_, 429) => "throttled",
            (Told::Again(_), _) => "failed",
            _ => "refused",
        });
        if let Told::Whole(_) = told {
            Twins(Arc::clone(&self.shared)).billed(payload.len());
        }
        match told {
            Told::Stray | Told::Whole(false) => {}
            Told::Whole(true) => self.desired(device),
            Told::Confirmed(changes) => self.ended(device, "confirmed", changes),
            Told::Again(status) => self.shared.metrics.log_pace(&format!("twin {status}"), |left_out| {
                tracing::warn!(
                    device,
                    status,
                    left_out,
                    "the hub does not take a twin operation now; it is tried again"
                );
            }),
            Told::Refused(status, changes) => {
                self.ended(device, "refused", changes);
                let detail = String::from_utf8_lossy(payload);
                let detail = excerpt(&detail);
                *self.shared.refused.lock() = Some(Refusal::now(device, status, detail));
                self.shared.metrics.log_pace(&format!("twin {status}"), |left_out| {
                    tracing::warn!(device, status, detail, changes, left_out, "the hub refuses a twin operation");
                });
            }
        }
    }

    /// So many changes are over.
    fn ended(&self, device: &str, outcome: &'static str, changes: u64) {
        let mut book = self.shared.book.lock();
        if let Some(change) = book.with_known(device, |twin| twin.exchange.unconfirmed()) {
            self.shared.journal.append(&records::waits(device, &change));
        }
        self.shared.metrics.reported_ended(outcome, changes);
        self.shared.metrics.reported_waiting(book.waiting());
    }

    /// What is desired has changed, or what is made of it.
    fn desired(&self, device: &str) {
        let rules = self.parts.rules.rules();
        let noted = self.shared.book.lock().with_known(device, |twin| {
            let known = twin.exchange.desired();
            known.version?;
            self.shared.journal.append(&records::desired(device, known, None));
            Some((known.clone(), twin.published.clone(), std::mem::take(&mut twin.todo)))
        });
        let Some(Some((known, published, mut todo))) = noted else { return };
        if *device == *self.shared.whose.own {
            self.shared.own_desired.send_replace(Some(Arc::new(known.clone())));
        }
        // Rules, scripts and the audit log take their time, and publishers of the plant wait for the book.
        let look = |desk: &Desk| desk.look((&self.shared.whose, &rules), (device, &known), (&published, &mut todo));
        let done = self.desk.as_ref().filter(|desk| desk.terms().enabled).map(look);
        self.shared.book.lock().with_known(device, |twin| twin.todo = todo);
        if let Some(done) = done {
            self.done(device, done);
        }
    }

    /// Takes up what came of a look at what is desired, or of the work on it.
    fn done(&self, device: &str, done: Done) {
        let now = Instant::now();
        let mut book = self.shared.book.lock();
        book.with_known(device, |twin| {
            for (topic, entry) in &done.noted {
                twin.published.note(topic, entry);
                self.shared.journal.append(&records::published(device, (topic, entry)));
            }
            twin.plant_at = done.again;
        });
        for (rule, change) in &done.answers {
            let wrong = twin::check(change).err().map(|error| error.to_string());
            if let Some(why) = wrong.or_else(|| book.full(device, change)) {
                self.shared.metrics.log_pace_of("twin answer", device, |left_out| {
                    tracing::warn!(device, rule, left_out, "what is desired is not acknowledged: {why}");
                });
                continue;
            }
            self.shared.journal.append(&records::changed(device, change));
            book.report(device, (change, ANSWERS_EVERY), now);
            self.shared.metrics.reported(rule);
        }
        self.shared.metrics.reported_waiting(book.waiting());
    }

    /// Publishes what is desired, as far as that can be done now.
    fn publish(&mut self, device: &str) {
        // What waits while nothing may come down is looked at anew when it may.
        let Some(desk) = self.desk.as_mut().filter(|desk| desk.terms().enabled) else { return };
        let now = Instant::now();
        let take = |twin: &mut Twin| (!twin.todo.is_idle()).then(|| std::mem::take(&mut twin.todo));
        let Some(Some(mut todo)) = self.shared.book.lock().with_known(device, take) else { return };
        let done = desk.work(&mut todo, now);
        self.shared.book.lock().with_known(device, |twin| twin.todo = todo);
        self.done(device, done);
    }

    /// Looks after all twins that were touched, or whose time has come.
    async fn look_after(&mut self) {
        let now = Instant::now();
        while let Some((at, device)) = self.times.pop_first() {
            if at > now {
                self.times.insert((at, device));
                break;
            }
            let mut book = self.shared.book.lock();
            book.with_known(&device, |twin| twin.at = None);
            book.touch(&device);
        }
        loop {
            let Some(device) = self.shared.book.lock().next_touched() else { break };
            self.publish(&device);
            self.speak(&device).await;
        }
    }

    /// Says what is to be said about a twin.
    async fn speak(&mut self, device: &Arc<str>) {
        loop {
            let now = Instant::now();
            let next = self.shared.book.lock().with_known(device, |twin| twin.exchange.next_time(now)).flatten();
            let Some(next) = next else { break self.again(device, None) };
            let next = if next > now { Err(next) } else { self.rate.take("", now) };
            if let Err(at) = next {
                break self.again(device, Some(at));
            }
            let step = self.shared.book.lock().with_known(device, |twin| {
                let step = twin.exchange.step(now, rand::random())?;
                Some((step, twin.line.clone()))
            });
            match step.flatten() {
                None => {
                    let next =
                        self.shared.book.lock().with_known(device, |twin| twin.exchange.next_time(now)).flatten();
                    break self.again(device, next.map(|at| at.max(now + A_MOMENT)));
                }
                Some((Step::Unchanged(changes), _)) => self.ended(device, "unchanged", changes),
                Some((Step::Say(ask), line)) => {
                    // A question has a blank as its body; what it costs is told by its answer.
                    if ask.body.len() > 1 {
                        Twins(Arc::clone(&self.shared)).billed(ask.body.len());
                    }
                    let said = match line {
                        Some(line) => line.say(ask.topic, ask.body.into()).await,
                        None => Err(Gone),
                    };
                    if said.is_err() {
                        let closed = |twin: &mut Twin| {
                            twin.exchange.closed();
                            twin.line = None;
                        };
                        self.shared.book.lock().with_known(device, closed);
                    }
                }
            }
        }
    }

    /// It is looked after again at this time; its line stays open while there is something to be said.
    fn again(&mut self, device: &Arc<str>, at: Option<Instant>) {
        let mut next = at;
        let errand = self.shared.book.lock().with_known(device, |twin| {
            let at = [at, twin.plant_at].into_iter().flatten().min();
            next = at;
            if let Some(before) = std::mem::replace(&mut twin.at, at) {
                self.times.remove(&(before, Arc::clone(device)));
            }
            let busy = twin.exchange.is_busy();
            (std::mem::replace(&mut twin.errand, busy) != busy).then_some(busy)
        });
        if let Some(at) = next {
            self.times.insert((at, Arc::clone(device)));
        }
        if let (Some(Some(busy)), Some(devices)) = (errand, &self.parts.devices) {
            let own = **device == *self.shared.whose.own;
            devices.errand(if own { "" } else { device }, busy);
        }
    }
}

#[cfg(test)]
mod tests;
