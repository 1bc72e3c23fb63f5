//! Joins the broker to rules, spool and quarantine, and the spool to the uplink. It owns no algorithm.
//!
//! The way of one publish is in [`Bridge::offer`]. Every way out of it counts the publish exactly once, as
//! translated, dropped or quarantined, and only once it is settled: a publish that finds no room is offered
//! again and counted then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::metrics::Counter;

use crate::broker::{Ingest, Offer, Sequences};
use crate::config::Unmatched;
use crate::message::{Presence, Publish, excerpt};
use crate::metrics::Metrics;
use crate::quarantine::{Quarantine, Reason};
use crate::rules::{self, Doubt, Output, RuleIndex, RuleSet, Verdict};
use crate::spool::{AppendError, Ticket};

mod births;
mod commits;
pub mod devices;
pub mod down;
mod holding;
mod in_use;
mod judge;
mod lanes;
mod meters;
mod numbering;
mod own;
mod reported;
mod seen;
#[cfg(test)]
mod sim;
pub mod twins;
mod urgent;
mod watchers;

pub use judge::Judge;
use judge::Settled;
pub use watchers::{View, Watchers};

pub use births::{KeptBirths, kept as kept_births};
pub use commits::LogCommits;
use commits::STORED;
use devices::Door;
pub use holding::{CLOSE_GRACE, Holding};
use in_use::Current;
pub use in_use::InUse;
pub use lanes::{SpoolBacklog, SpoolOutcome, Stores, join};
use meters::Meter;
pub use own::Own;
pub use seen::Seen;

/// What takes the broker's publishes.
pub struct Bridge {
    rules: Arc<InUse>,
    unmatched: Unmatched,
    own: Own,
    stores: Stores,
    quarantine: Quarantine,
    metrics: Metrics,
    addressed: Meter,
    retried: Meter,
    closed: AtomicBool,
    answers: Option<Arc<down::Watch>>,
    twins: Option<twins::Twins>,
    door: Option<Arc<Door>>,
    watchers: Arc<Watchers>,
    seen: Option<Arc<Seen>>,
}

/// Why a publish is isolated that no commit can hold.
const TOO_LARGE_FOR_SPOOL: Reason<'static> = Reason {
    rule: "",
    reason: "too_large",
    detail: "the messages of this publish do not fit the spool's largest commit",
};

impl Bridge {
    /// Over loaded rules, open spools and an open quarantine.
    pub fn new(
        (rules, unmatched): (RuleSet, Unmatched),
        own: Own,
        stores: Stores,
        quarantine: Quarantine,
        metrics: Metrics,
    ) -> Self {
        Self {
            addressed: Meter::new("(addressed to the hub)", (false, false), own.block),
            retried: Meter::new("(retried)", (false, false), own.block),
            closed: AtomicBool::new(false),
            answers: None,
            twins: None,
            door: None,
            watchers: Arc::default(),
            seen: None,
            rules: Arc::new(InUse::new(rules, own.block)),
            unmatched,
            own,
            stores,
            quarantine,
            metrics,
        }
    }

    /// Tells of answers to commands among what plant clients publish.
    pub fn watched_by(mut self, watch: Arc<down::Watch>) -> Self {
        self.answers = Some(watch);
        self
    }

    /// Puts what rules report into twins.
    pub fn reporting(mut self, twins: twins::Twins) -> Self {
        self.twins = Some(twins);
        self
    }

    /// Takes nothing for a device while this is shut for it.
    pub fn behind(mut self, door: Arc<Door>) -> Self {
        self.door = Some(door);
        self
    }

    /// Notes which devices the plant is heard of.
    pub fn hearing(mut self, seen: Arc<Seen>) -> Self {
        self.seen = Some(seen);
        self
    }

    /// What waits for the hub.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Who looks on.
    pub fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// The rules in use.
    pub fn rules(&self) -> &Arc<InUse> {
        &self.rules
    }

    fn translated(&self, publish: &Publish<'_>, out: &mut Output) -> Offer {
        let now = self.rules.load();
        let verdict = now.set.attempt(publish, out);
        let offer = self.settled((&now, verdict), publish, out);
        self.note(&Settled { rules: Some(&now.set), publish, presence: None, out, verdict: Some(verdict) }, &offer);
        self.after_births(now.hears_births, publish, offer)
    }

    /// What becomes of a publish after the verdict of the rules it met.
    fn settled(&self, (now, verdict): (&Current, Verdict), publish: &Publish<'_>, out: &mut Output) -> Offer {
        match verdict {
            Verdict::Translated => self.store(now, publish, out, None),
            Verdict::Dropped { rule } => {
                count_left_away(now, out);
                let held_back = out.held_back().iter().find(|(holds, _)| *holds == rule);
                let otherwise = match () {
                    () if out.clears_retained() => "retained_cleared",
                    () if out.nothing_left(rule).is_some() => "bad_quality",
                    () => "rule",
                };
                self.drop(held_back.map_or(otherwise, |(_, why)| why.label()))
            }
            Verdict::Quarantined { rule, reason } => {
                let detail = out.detail().to_owned();
                let reason = Reason { rule: now.set.name(rule), reason: reason.label(), detail: &detail };
                self.store(now, publish, out, Some(reason))
            }
            // Answers to commands are no telemetry, unless a rule takes them.
            Verdict::Unmatched if now.set.is_answer(publish.topic) => self.drop("command_answer"),
            Verdict::Unmatched if self.unmatched == Unmatched::Drop => self.drop("unmatched"),
            // What brokers and bridges say about themselves ($SYS) is for a rule that asks for it.
            Verdict::Unmatched if publish.topic.starts_with('$') => self.drop("system_topic"),
            Verdict::Unmatched => {
                rules::forward(publish, out);
                if out.records().next().is_none() {
                    return self
                        .isolate(publish, Reason { rule: "", reason: "too_long", detail: "the topic is too long" });
                }
                self.store(now, publish, out, None)
            }
        }
    }

    /// Spools what the rules made, and puts the publish into the quarantine beside it where a rule failed.
    fn store(&self, now: &Current, publish: &Publish<'_>, out: &mut Output, failed: Option<Reason<'_>>) -> Offer {
        if let Some((rule, detail)) = any_too_large(&self.own, out) {
            return self.isolate(publish, Reason { rule: now.set.name(rule), reason: "too_large", detail: &detail });
        }
        if self.door.as_ref().is_some_and(|door| door.refuses(at_the_door(now, out))) {
            return Offer::Full;
        }
        let reported = match self.reported(now, out) {
            Ok(reported) => reported,
            Err((rule, (reason, detail))) => {
                return self.isolate(publish, Reason { rule: now.set.name(rule), reason, detail: &detail });
            }
        };
        if !reported.is_empty() && !self.has_room_to_report() {
            return Offer::Full;
        }
        let taken = if out.held().next().is_some() {
            match self.store_held(now, publish, out, failed) {
                Ok(taken) => taken,
                Err(error) => return self.not_appended(publish, error),
            }
        } else if now.has_urgent
            && out.records().any(|(rule, _)| now.set.is_urgent(rule))
            && let Some(taken) = self.store_urgent(now, publish, out, failed)
        {
            taken
        } else if !reported.is_empty() && messages(now, out).next().is_none() {
            self.taken(publish, Sequences::NONE, failed)
        } else {
            match self.stores.append(&self.stores.normal, messages(now, out).map(|(_, record)| record)) {
                Ok(ticket) => {
                    self.made(now, messages(now, out), ticket);
                    self.taken(publish, Sequences::of(STORED, ticket.0), failed)
                }
                Err(error) => return self.not_appended(publish, error),
            }
        };
        let taken = self.report(now, reported, taken);
        if !matches!(taken, Offer::Full) {
            now.set.settle(out);
            count_left_away(now, out);
            self.doubts(now, publish, out);
            self.heard_of(out, publish.received);
        }
        taken
    }

    /// Counts messages that are stored.
    fn made<'r>(&self, now: &Current, records: impl Iterator<Item = (RuleIndex, &'r [u8])>, last: Ticket) {
        for (rule, record) in records {
            now.meters.of(rule).made(&self.own, record, last);
        }
    }

    /// The answer for a publish whose messages are stored.
    fn taken(&self, publish: &Publish<'_>, parts: Sequences, failed: Option<Reason<'_>>) -> Offer {
        match failed {
            None => {
                self.metrics.publishes_translated.increment(1);
                Offer::Taken(parts)
            }
            Some(reason) => Offer::TakenAfter(self.quarantined(publish, reason), parts),
        }
    }

    fn doubts(&self, now: &Current, publish: &Publish<'_>, out: &Output) {
        for (rule, doubt) in out.doubts() {
            self.doubt(publish, now.set.name(rule), doubt);
        }
    }

    /// A device's clock was not believed.
    fn doubt(&self, publish: &Publish<'_>, rule: &str, doubt: Doubt) {
        self.metrics.time_ignored(rule, doubt.label());
        self.metrics.log_pace(&format!("{rule} time {}", doubt.label()), |left_out| {
            let topic = excerpt(publish.topic);
            tracing::warn!(topic, rule, left_out, "{doubt}; the message has the time it was received");
        });
    }

    /// A publish already addressed to `devices/<own id>/messages/events/..`, as the remap of a classic bridge
    /// writes it, goes up as it is.
    fn as_addressed(&self, publish: &Publish<'_>, given: &str) -> Offer {
        let mut record = Vec::with_capacity(publish.topic.len() + publish.payload.len() + 32);
        if let Err((reason, detail)) = self.own.addressed_record(publish, given, &mut record) {
            return self.isolate(publish, Reason { rule: "", reason, detail: &detail });
        }
        match self.stores.normal.try_append(std::iter::once(record.as_slice())) {
            Ok(ticket) => {
                self.addressed.made(&self.own, &record, ticket);
                self.metrics.publishes_translated.increment(1);
                Offer::Taken(Sequences::of(STORED, ticket.0))
            }
            Err(error) => self.not_appended(publish, error),
        }
    }

    /// Spools a hub message that was in the quarantine.
    pub fn send_again(&self, record: &[u8]) -> Offer {
        match self.stores.normal.try_append(std::iter::once(record)) {
            Ok(ticket) => {
                self.retried.made(&self.own, record, ticket);
                Offer::Taken(Sequences::of(STORED, ticket.0))
            }
            Err(AppendError::Closed) => {
                self.closed.store(true, Ordering::Relaxed);
                Offer::Full
            }
            Err(AppendError::Full | AppendError::TooLarge) => Offer::Full,
        }
    }

    /// What a publish is translated with that was in the quarantine: other than [`scratch`](Ingest::scratch) it makes no
    /// birth of Sparkplug undone by an older one.
    pub fn scratch_for_retry(&self) -> Output {
        Output::sharing(&self.rules.memory().retried())
    }

    /// Whether [`offer`](Ingest::offer) puts the publish into the quarantine where it answers [`Offer::TakenAfter`],
    /// which it also does where a part of what it made has no room yet.
    pub fn would_fail(&self, out: &mut Output, publish: &Publish<'_>) -> bool {
        if self.own.addressed(publish.topic).is_some() {
            return true;
        }
        let failed =
            matches!(self.rules.load().set.attempt(publish, out), Verdict::Quarantined { .. } | Verdict::Unmatched);
        failed || any_too_large(&self.own, out).is_some()
    }

    fn not_appended(&self, publish: &Publish<'_>, error: AppendError) -> Offer {
        match error {
            AppendError::Full => Offer::Full,
            AppendError::Closed => {
                self.closed.store(true, Ordering::Relaxed);
                Offer::Full
            }
            AppendError::TooLarge => self.isolate(publish, TOO_LARGE_FOR_SPOOL),
        }
    }

    fn drop(&self, reason: &'static str) -> Offer {
        self.metrics.dropped(reason);
        Offer::Taken(Sequences::NONE)
    }

    fn isolate(&self, publish: &Publish<'_>, reason: Reason<'_>) -> Offer {
        Offer::TakenAfter(self.quarantined(publish, reason), Sequences::NONE)
    }

    /// A publish that counts by `counter` once it is where it belongs.
    fn unsettled(&self, counter: Counter) -> Unsettled {
        Unsettled { stored: false, counter, metrics: self.metrics.clone() }
    }

    fn quarantined(&self, publish: &Publish<'_>, reason: Reason<'_>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let unsettled = self.unsettled(self.metrics.quarantined(reason.reason));
        if !reason.rule.is_empty() {
            self.metrics.rule_failed(reason.rule, reason.reason);
        }
        let stored = self.quarantine.put(publish, reason, || unsettled.settle());
        self.metrics.log_pace(&format!("{} {}", reason.rule, reason.reason), |left_out| {
            tracing::warn!(
                topic = excerpt(publish.topic),
                client = excerpt(publish.client),
                rule = reason.rule,
                reason = reason.reason,
                detail = excerpt(reason.detail),
                left_out,
                "a publish went to the quarantine"
            );
        });
        Box::pin(stored)
    }
}

/// A publish that waits for room in the queue of the quarantine or in the spool: counted when it is there, or when its
/// client is gone before it came that far. What is in the queue of the quarantine gets written whoever has gone, and is
/// counted by its writer. Until then it is in progress.
struct Unsettled {
    stored: bool,
    counter: Counter,
    metrics: Metrics,
}

impl Unsettled {
    fn settle(mut self) {
        self.stored = true;
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if self.stored {
            self.counter.increment(1);
        } else {
            self.metrics.dropped("publisher_gone");
        }
    }
}

impl Ingest for Bridge {
    type Scratch = Output;
    type Commits = LogCommits;

    fn scratch(&self) -> Output {
        Output::sharing(self.rules.memory())
    }

    fn offer(&self, out: &mut Output, publish: &Publish<'_>) -> Offer {
        let offer = match self.own.addressed(publish.topic) {
            None => self.translated(publish, out),
            Some(given) => {
                out.clear();
                let offer = self.as_addressed(publish, given);
                self.note(&Settled { rules: None, publish, presence: None, out, verdict: None }, &offer);
                offer
            }
        };
        // What finds no room comes again, and is an answer once.
        if let Some(answers) = self.answers.as_ref().filter(|_| !matches!(offer, Offer::Full)) {
            answers.published(publish.topic, publish.payload);
        }
        offer
    }

    fn presence(&self, out: &mut Output, presence: &Presence<'_>) -> Option<Offer> {
        let publish = &presence.as_publish();
        let now = self.rules.load();
        let verdict = now.set.attempt_presence(presence, out);
        let offer = (verdict != Verdict::Unmatched).then(|| self.settled((&now, verdict), publish, out));
        let settled = Settled { rules: Some(&now.set), publish, presence: Some(presence), out, verdict: Some(verdict) };
        self.note(&settled, offer.as_ref().unwrap_or(&Offer::Taken(Sequences::NONE)));
        offer
    }

    async fn room(&self, refused: &Output) {
        if self.closed.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        if let Some(door) = &self.door {
            // Copied, for the rules must not be kept while this waits.
            let turned_away = {
                let now = self.rules.load();
                let asks = at_the_door(&now, refused);
                if door.refuses(asks.clone()) { asks.map(<[u8]>::to_vec).collect() } else { Vec::new() }
            };
            door.opens(|| turned_away.iter().map(Vec::as_slice)).await;
        }
        self.room_to_report(refused).await;
        // What gives to a window is refused by the holding spool only, all else by the spool only: see `store_rest`.
        match refused.held().next() {
            Some(_) => self.stores.held.room(self.rules.memory()).await,
            None => self.stores.normal.room().await,
        }
    }

    fn commits(&self) -> LogCommits {
        LogCommits::of(&self.stores, self.twins.as_ref())
    }
}

/// In words why the hub would not take one of the messages.
fn any_too_large(own: &Own, out: &Output) -> Option<(RuleIndex, String)> {
    let held = out.held().map(|(rule, held)| (rule, rules::held_record(held)));
    out.records().chain(held).find_map(|(rule, record)| Some((rule, own.too_large(record)?)))
}

/// The records that are messages.
fn messages<'o>(now: &'o Current, out: &'o Output) -> impl Iterator<Item = (RuleIndex, &'o [u8])> + Clone {
    out.records().filter(|(rule, _)| !(now.has_reported && now.set.reported(*rule).is_some()))
}

/// What may be turned away for want of room on a shelf: messages, and what is to become one in a window. Urgent ones pass,
/// and what goes into a twin goes onto no shelf.
fn at_the_door<'o>(now: &'o Current, out: &'o Output) -> impl Iterator<Item = &'o [u8]> + Clone {
    let held = out.held().map(|(rule, held)| (rule, rules::held_record(held)));
    messages(now, out).chain(held).filter(|(rule, _)| !now.set.is_urgent(*rule)).map(|(_, record)| record)
}

/// Counts the messages that were not made, and the values that are in none.
fn count_left_away(now: &Current, out: &Output) {
    for (rule, why) in out.held_back() {
        now.meters.held_back(*rule, why);
    }
    for (rule, left_out) in out.left_out() {
        now.meters.left_out(*rule, left_out);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::message::Timestamp;
    use crate::{quarantine, spool};

    /// A bridge of `rules`, what ends its quarantine, and the spools.
    pub(super) fn bridge(
        dir: &Path,
        device: Option<&str>,
        rules: &str,
    ) -> (Bridge, quarantine::Writer, ([spool::Opened; 2], spool::Spool)) {
        bridge_over(dir, device, rules, spool::Options::new("", 16 << 20))
    }

    /// The same with spools of other options; their folders are in `dir`.
    pub(super) fn bridge_over(
        dir: &Path,
        device: Option<&str>,
        rules: &str,
        options: spool::Options,
    ) -> (Bridge, quarantine::Writer, ([spool::Opened; 2], spool::Spool)) {
        let open = |name: &str| spool::open(spool::Options { dir: dir.join(name), ..options.clone() }).unwrap();
        let spools = ["spool", "urgent"].map(open);
        let [normal, urgent] = [&spools[0], &spools[1]].map(|spool| spool.appender.clone());
        let (held, held_spool) = Holding::over(open("held"));
        let stores = Stores { normal, urgent, held, numbering: None };
        let (quarantine, writer) = quarantine::open(&dir.join("quarantine"), 1 << 20).unwrap();
        let own =
            Own { hub: "h".into(), device: device.map(str::to_owned), module: None, mark_late: false, block: None };
        let rules = (loaded(rules), Unmatched::Drop);
        (Bridge::new(rules, own, stores, quarantine, Metrics::register()), writer, (spools, held_spool))
    }

    /// Fills a spool until it takes no more.
    pub(super) async fn fill(spool: &spool::Appender) {
        let record = vec![0; 60_000];
        while !spool.stats().full {
            let _ = spool.try_append(std::iter::once(record.as_slice()));
            tokio::task::yield_now().await;
        }
    }

    fn loaded(rules: &str) -> RuleSet {
        let source = crate::diag::SourceFile { path: "r.toml".into(), text: rules.into() };
        rules::load(&[source]).rules.unwrap()
    }

    fn publish<'p>(topic: &'p str, payload: &'p [u8]) -> Publish<'p> {
        Publish { topic, payload, client: "c", user: None, qos: 1, retain: false, received: Timestamp(0) }
    }

    #[tokio::test]
    async fn a_publish_that_the_quarantine_gets_counts_as_quarantined_even_if_its_client_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = PrometheusBuilder::new().build_recorder();
        let (bridge, writer, _spools) = bridge(dir.path(), Some("own"), "");
        let publish = publish("devices/own/messages/events/a==b", b"");
        let offer = || match bridge.offer(&mut bridge.scratch(), &publish) {
            Offer::TakenAfter(written, Sequences::NONE) => written,
            _ => panic!("it has to be kept in the quarantine"),
        };
        let stored = metrics::with_local_recorder(&recorder, offer);
        stored.await;
        metrics::with_local_recorder(&recorder, || drop(offer()));
        drop(bridge);
        writer.join();
        let page = recorder.handle().render();
        assert!(page.contains("messages_quarantined_total{reason=\"bad_property_bag\"} 2\n"), "{page}");
        assert!(!page.contains("publisher_gone"), "{page}");
        let mut kept = 0;
        let count = |_| {
            kept += 1;
            true
        };
        quarantine::read(&dir.path().join("quarantine"), count).unwrap();
        assert_eq!(kept, 2, "the books say what is there");
    }

    /// A birth that came through one connection names the metrics of another, and a clock that is not believed counts.
    #[tokio::test]
    async fn connections_share_the_memory_of_the_rules() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = PrometheusBuilder::new().build_recorder();
        let text = "[[rule]]\nname = \"r\"\ntopic = \"spBv1.0/#\"\ndecode = \"sparkplug\"\ndevice = \"d\"\ntime = { from = \".time\" }\n";
        let (bridge, writer, _spools) = metrics::with_local_recorder(&recorder, || bridge(dir.path(), None, text));
        // A metric `a` with the alias 1 at 1970-01-01T00:00:00.001Z, and then the alias alone.
        for (topic, payload) in [
            ("spBv1.0/g/NBIRTH/n", &b"\x08\x01\x12\x09\x0a\x01a\x10\x01\x20\x0b\x70\x01"[..]),
            ("spBv1.0/g/NDATA/n", &b"\x08\x01\x12\x04\x10\x01\x70\x00"[..]),
        ] {
            let publish = publish(topic, payload);
            let offer = metrics::with_local_recorder(&recorder, || {
                // New rules forget nothing that was learned under the old ones.
                bridge.rules().replace(loaded(text));
                bridge.offer(&mut bridge.scratch(), &publish)
            });
            assert!(matches!(offer, Offer::Taken(_)), "{topic}");
        }
        let page = recorder.handle().render();
        let expect = "brownbridge_time_ignored_total{rule=\"r\",reason=\"too_old\"} 2\n";
        assert!(page.contains(expect), "{page}");
        drop(bridge);
        writer.join();
    }
}
