//! What a command made is given to the plant: who has to be there for it, and how long it is good for.
//!
//! | what | somebody has to be | good for |
//! |---|---|---|
//! | a method with `response` | connected | `within`, then its caller has given up |
//! | a method without | connected, unless it is retained | [`UNANSWERED`]; retained for ever |
//! | a message with `$.exp` | connected, unless it is retained | until then |
//! | a message with `ack` | connected, or away with a session that waits for it | as long as a hub may keep it |
//! | another message | the same | ever |
//!
//! A device that was away does not carry out late what somebody has given up: the hub has told its caller that it came
//! to nothing, and will tell nobody that it happened after all. So what is over is not sent, nor sent again to
//! who broke off before acknowledging it, nor retained.
//!
//! Several publishes of one command are given together or not at all, as far as who is there decides that. Where one but
//! the first then finds a queue without room, the command is told as `in_part`.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Case, Downlink, Kind, LOOK, Order, Stage, Timestamp, begun};
use crate::message::excerpt;
use crate::rules::LocalPublish;

/// How long the publish of a method is good for that waits for no answer.
const UNANSWERED: Duration = Duration::from_secs(10);

/// What a publish asks of those who hear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Demands {
    /// Who is away with a session does not do.
    connected: bool,
    /// To be retained does.
    retained: bool,
    /// After that nobody is to hear of it.
    good_for: Option<Duration>,
}

impl Downlink {
    /// Publishes what a command made, as soon as it may be; until `end` it waits here.
    pub(super) async fn deliver(&mut self, mut order: Order, key: String, (now, end): (Instant, Instant)) {
        let is_method = matches!(order.kind, Kind::Method(_));
        if order.made.publishes.is_empty() {
            return self.finish(order, &key, "nothing", "").await;
        }
        if order.expires.is_some_and(|expires| expires <= Timestamp::now()) {
            self.withdraw(&order);
            return self.tell(&order, "expired", "", false);
        }
        let topics = order.made.publishes.iter().map(|publish| publish.topic.as_str());
        if let Some(forbidden) = self.terms().forbid(&order.device, topics) {
            return self.forbidden(order, &key, &forbidden).await;
        }
        if !is_method && self.is_behind(&order) {
            return self.wait(order, key, (Stage::Due(now + LOOK), end)).await;
        }
        if let Some(nobody) = self.missed(&order) {
            return self.nobody(order, key, nobody, (now, end)).await;
        }
        match self.rates.take(&order.device, now) {
            Err(_) if is_method => return self.finish(order, &key, "over_rate", "").await,
            Err(at) => return self.wait(order, key, (Stage::Due(at), end)).await,
            Ok(()) => {}
        }
        if !self.admit(&mut order) {
            return self.unaudited(order, &key).await;
        }
        if !self.note_begin(&mut order, &key) {
            return self.wait(order, key, (Stage::Due(now + LOOK), end)).await;
        }
        self.give(order, key, (now, end)).await;
    }

    /// Publishes it now.
    async fn give(&mut self, mut order: Order, key: String, (now, end): (Instant, Instant)) {
        let answer = order.made.answer.clone();
        if let Some((topic, answer)) = &answer {
            self.parts.watch.add(topic, answer.picks());
        }
        let lost = match self.publish(&order) {
            Ok(lost) => lost,
            Err(full) => {
                if let Some((topic, answer)) = &answer {
                    self.parts.watch.remove(topic, answer.picks());
                }
                return self.nobody(order, key, full, (now, end)).await;
            }
        };
        order.begun = false;
        let outcome = if lost.is_some() { "in_part" } else { "published" };
        let detail = lost.unwrap_or_default();
        let Some((topic, answer)) = answer else { return self.finish(order, &key, outcome, &detail).await };
        if outcome == "in_part" {
            self.tell(&order, outcome, &detail, false);
        } else {
            self.note(&order, outcome, "", false);
        }
        let until = now + answer.within;
        self.wait(order, key, (Stage::Answer(topic, until), end.max(until))).await;
    }

    /// Says who is missing for one of its publishes.
    fn missed(&self, order: &Order) -> Option<String> {
        let Demands { connected, retained, .. } = order.demands(Timestamp::now());
        let inside = &self.parts.inside;
        let is_missed = |publish: &&LocalPublish| {
            let is_taken = retained && publish.retain || inside.has_taker(&publish.topic, publish.qos, connected);
            !is_taken
        };
        let publish = order.made.publishes.iter().find(is_missed)?;
        let topic = excerpt(&publish.topic);
        Some(match inside.has_subscriber(&publish.topic) {
            true if connected => format!("nobody who subscribes to {topic} is connected"),
            true => format!("nobody who subscribes to {topic} is connected, or has a session that waits for it"),
            false => format!("nobody subscribes to {topic}"),
        })
    }

    /// Publishes it. Fails, with why, where nobody got the first, which is what the command is about: then nothing is
    /// published. Else says what became of those that nobody got.
    fn publish(&self, order: &Order) -> Result<Option<String>, String> {
        let good_for = order.demands(Timestamp::now()).good_for;
        let mut lost = Vec::new();
        for (n, publish) in order.made.publishes.iter().enumerate() {
            let what = (publish.topic.as_str(), Bytes::copy_from_slice(&publish.payload));
            if self.parts.inside.publish_for(what, publish.qos, publish.retain, good_for) {
                continue;
            }
            let topic = excerpt(&publish.topic);
            if n == 0 {
                return Err(format!("who subscribes is away or has no room for {topic}"));
            }
            lost.push(topic);
        }
        let all = order.made.publishes.len();
        Ok(lost.first().map(|topic| {
            format!("{} of {all} publishes are lost, who subscribes has no room: {topic} first", lost.len())
        }))
    }

    /// Nobody takes the publish now: a message waits, a method is over.
    async fn nobody(&mut self, order: Order, key: String, why: String, (now, end): (Instant, Instant)) {
        if matches!(order.kind, Kind::Message) {
            return self.wait(order, key, (Stage::Due(now + LOOK), end)).await;
        }
        self.finish(order, &key, "no_device", &why).await;
    }

    /// True where an older message for one of its topics waits: the last setpoint must be the last one that arrives.
    fn is_behind(&self, order: &Order) -> bool {
        let older = |case: &Case<Order>| case.what.number < order.number && matches!(case.stage, Stage::Due(_));
        let is_for = |topic: &str, order: &Order| order.made.publishes.iter().any(|publish| publish.topic == topic);
        let same = |case: &Case<Order>| case.what.made.publishes.iter().any(|publish| is_for(&publish.topic, order));
        self.desk.cases().any(|case| older(case) && same(case))
    }
}

impl Order {
    /// See the module documentation.
    fn demands(&self, now: Timestamp) -> Demands {
        let answer = self.made.answer.as_ref().map(|(_, answer)| answer.within);
        let is_retained = self.made.publishes.iter().all(|publish| publish.retain);
        let (connected, good_for) = match (&self.kind, self.expires) {
            (Kind::Method(_), _) if is_retained && answer.is_none() => (false, None),
            (Kind::Method(_), _) => (true, Some(answer.unwrap_or(UNANSWERED))),
            (Kind::Message, Some(expires)) => (true, Some(millis(expires.0.saturating_sub(now.0)))),
            (Kind::Message, None) => (false, answer.map(|_| millis(begun::LONGEST))),
        };
        let retained = answer.is_none() || matches!(self.kind, Kind::Message);
        Demands { connected, retained, good_for }
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
