//! What is desired, with the plant: which publishes that takes, and which of them are there already.
//!
//! Every look at the desired properties gives all publishes they make under the rules in use. Those whose payload is with
//! the plant already are left out; what was retained and is made no more is cleared. A value that is refused (beyond `when`,
//! a table without its row, a body that cannot be worked on) takes nothing out of the plant: what is there stays in force,
//! until something better is desired, or nothing. So it does not matter how often the
//! same is looked at: after a restart, a new connection, new rules. What nobody takes now, or is over the rate of its
//! device, waits and is tried again; something newer for the same topic takes its place.
//!
//! The fence is that of commands: nothing is published beyond `allow`, or in a dry run. Every publish is in the audit log,
//! and counted as a command is: `published`, `cleared`, `not_allowed`, `dry_run`, `beyond_when`, `no_row` or a
//! reason of the quarantine; all but the first two once for each value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Agreed, DEVICES, OF_BRIDGE, Whose};
use crate::bridge::down::{ADMITTED, Audit, UNAUDITED, publishes};
use crate::broker::Inside;
use crate::downlink::{Forbidden, Rates, Terms};
use crate::hub::exchange::Desired;
use crate::hub::twin::Properties;
use crate::message::{Timestamp, excerpt, from_twin_name};
use crate::metrics::Metrics;
use crate::rules::{LocalPublish, RuleSet, Wish};

/// How often somebody is looked for who takes a publish.
const LOOK: Duration = Duration::from_secs(1);

/// What was published of one twin, by topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Published(BTreeMap<String, Kept>);

/// A publish that is with the plant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    /// What stands for its payload.
    hash: String,
    /// The broker keeps it.
    retained: bool,
    /// Where what it was made of lies in the twin, see [`place`]; not known of what older versions wrote.
    place: Option<String>,
    /// Something was desired after it that was refused.
    outlived: bool,
}

impl Kept {
    fn to_json(&self) -> Value {
        match (&self.place, self.outlived) {
            (None, false) => json!([self.hash, self.retained]),
            (place, outlived) => json!([self.hash, self.retained, place, outlived]),
        }
    }

    fn from_json(value: &Value) -> Option<Self> {
        let (hash, retained, more) = match value.as_array()?.as_slice() {
            [hash, retained] => (hash, retained, None),
            [hash, retained, place, outlived] => (hash, retained, Some((place, outlived))),
            _ => return None,
        };
        let place = more.and_then(|(place, _)| place.as_str()).map(str::to_owned);
        let outlived = more.and_then(|(_, outlived)| outlived.as_bool()).unwrap_or(false);
        Some(Self { hash: hash.as_str()?.to_owned(), retained: retained.as_bool()?, place, outlived })
    }
}

impl Published {
    /// True where nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As it is kept on disk.
    pub(super) fn to_json(&self) -> Value {
        let one = |(topic, kept): (&String, &Kept)| (topic.clone(), kept.to_json());
        Value::Object(self.0.iter().map(one).collect::<Map<_, _>>())
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let mut published = Self::default();
        for (topic, kept) in value.as_object()? {
            published.note(topic, kept)?;
        }
        Some(published)
    }

    /// Takes an entry as it is on disk: with `null` the topic is cleared.
    pub(super) fn note(&mut self, topic: &str, kept: &Value) -> Option<()> {
        match kept {
            Value::Null => drop(self.0.remove(topic)),
            kept => drop(self.0.insert(topic.to_owned(), Kept::from_json(kept)?)),
        }
        Some(())
    }
}

/// A publish that is to be made.
#[derive(Debug, Clone, PartialEq)]
struct Order {
    rule: String,
    /// In whose twin it is desired.
    identity: String,
    device: String,
    publish: LocalPublish,
    hash: String,
    /// Where what it is made of lies.
    place: String,
    /// What is reported then: the value, and where it lies in the twin. Only one publish of a value has it.
    answer: Option<(Vec<String>, Value)>,
    version: Option<u64>,
}

/// What is to be done for one twin.
#[derive(Debug, Default)]
pub(super) struct ToDo {
    /// By topic.
    orders: BTreeMap<String, Order>,
    /// What was told once already: rule and place, and what stands for the value.
    told: BTreeMap<String, String>,
}

impl ToDo {
    /// True where nothing is to be done.
    pub(super) fn is_idle(&self) -> bool {
        self.orders.is_empty()
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Topics with what is on disk of them.
    pub(super) noted: Vec<(String, Value)>,
    /// What is to be reported, with the rule.
    pub(super) answers: Vec<(String, Properties)>,
    /// When there is more to do.
    pub(super) again: Option<Instant>,
}

/// The plant's side of desired properties.
pub struct Plant {
    /// Publishes to the plant.
    pub inside: Inside,
    /// What may be done now.
    pub terms: Agreed,
    /// Writes down what was done.
    pub audit: Audit,
}

/// The same at work.
pub(super) struct Desk {
    plant: Plant,
    rates: Rates,
    metrics: Metrics,
}

impl Desk {
    pub(super) fn new(plant: Plant, metrics: Metrics) -> Self {
        let rates = Rates::new(plant.terms.borrow().rate);
        Self { rates, plant, metrics }
    }

    /// The terms as they are now.
    pub(super) fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.plant.terms.borrow())
    }

    #[cfg(test)]
    pub(super) fn audit(&self) -> &Audit {
        &self.plant.audit
    }

    /// What the desired properties of a hub's device ask for that is not with the plant.
    pub(super) fn look(
        &self,
        (whose, rules): (&Whose, &RuleSet),
        (device, desired): (&str, &Desired),
        (published, todo): (&Published, &mut ToDo),
    ) -> Done {
        let mut found = Found { orders: BTreeMap::new(), refused: Vec::new() };
        for (addressed, path, properties) in devices(whose, device, &desired.properties) {
            for wish in rules.desired((&addressed, Timestamp::now()), &properties) {
                found.take((device, &addressed, &path), wish, desired.version);
            }
        }
        let refused = found.refused_places();
        let mut done = found.stays(published, &refused);
        let told = std::mem::take(&mut todo.told);
        for Refused { key, order, outcome, detail } in found.refused {
            if told.get(&key) != Some(&order.hash) {
                self.tell(&order, outcome, &detail);
                done.answers.extend(answer(&order, 400, &detail));
            }
            todo.told.insert(key, order.hash);
        }
        let wanted = |topic: &str| found.orders.contains_key(topic);
        let gone = published.0.iter().filter(|(topic, kept)| !wanted(topic) && !stays(kept, &refused));
        let (retained, gone): (Vec<_>, Vec<_>) = gone.partition(|(_, kept)| kept.retained);
        let cleared =
            retained.into_iter().map(|(topic, _)| (topic.clone(), clearing((device, topic), desired.version)));
        let cleared: Vec<_> = cleared.collect();
        done.noted.extend(gone.into_iter().map(|(topic, _)| (topic.clone(), Value::Null)));
        let known = |order: &Order| published.0.get(&order.publish.topic).is_some_and(|kept| kept.hash == order.hash);
        todo.told.extend(told.into_iter().filter(|(key, _)| wanted(key)));
        todo.orders = found.orders.into_iter().filter(|(_, order)| !known(order)).chain(cleared).collect();
        done
    }

    /// Does what can be done now.
    pub(super) fn work(&mut self, todo: &mut ToDo, now: Instant) -> Done {
        let mut done = Done::default();
        let mut left = BTreeMap::new();
        let terms = self.terms();
        self.rates.change(terms.rate);
        for (topic, order) in std::mem::take(&mut todo.orders) {
            let clears = order.hash.is_empty();
            if let Some(forbidden) = forbidden(&terms, &order) {
                let (outcome, detail) = (forbidden.label(), detail(&forbidden));
                if todo.told.insert(topic, order.hash.clone()).as_ref() != Some(&order.hash) {
                    self.tell(&order, outcome, &detail);
                    done.answers.extend(answer(&order, 403, &detail).filter(|_| forbidden != Forbidden::DryRun));
                }
                continue;
            }
            if terms.audit_required && !self.plant.audit.write(&order.line(ADMITTED, "", 0)) {
                if todo.told.insert(topic.clone(), order.hash.clone()).as_ref() != Some(&order.hash) {
                    self.tell(&order, UNAUDITED, "the audit log cannot be written");
                }
                done.again = Some(done.again.map_or(now + LOOK, |known| known.min(now + LOOK)));
                left.insert(topic, order);
                continue;
            }
            let LocalPublish { payload, qos, retain, .. } = &order.publish;
            let wait = if !retain && !self.plant.inside.has_subscriber(&topic) {
                Some(now + LOOK)
            } else if let Err(at) = self.rates.take(&order.device, now) {
                Some(at)
            } else {
                let given = self.plant.inside.publish(&topic, Bytes::copy_from_slice(payload), *qos, *retain);
                (!given && !clears).then_some(now + LOOK)
            };
            if let Some(at) = wait {
                done.again = Some(done.again.map_or(at, |known| known.min(at)));
                left.insert(topic, order);
                continue;
            }
            self.tell(&order, if clears { "cleared" } else { "published" }, "");
            done.answers.extend(answer(&order, 200, "published"));
            let kept = if clears { Value::Null } else { order.kept().to_json() };
            done.noted.push((topic, kept));
        }
        todo.orders = left;
        done
    }

    /// Counts, logs and writes down what became of an order.
    fn tell(&self, order: &Order, outcome: &'static str, detail: &str) {
        let Order { rule, device, .. } = order;
        self.plant.audit.write(&order.line(outcome, detail, self.terms().audit_payload));
        self.metrics.commanded(rule, outcome);
        self.metrics.log_pace(&format!("desired {rule} {outcome}"), |left_out| {
            let (device, detail) = (excerpt(device), excerpt(detail));
            if matches!(outcome, "published" | "cleared" | "dry_run") {
                tracing::info!(rule, device, outcome, left_out, "a desired property");
            } else {
                tracing::warn!(rule, device, outcome, detail, left_out, "a desired property");
            }
        });
    }
}

/// Why an order is not carried out. What was published may be cleared wherever it is.
fn forbidden(terms: &Terms, order: &Order) -> Option<Forbidden> {
    let topic = Some(order.publish.topic.as_str()).filter(|_| !order.hash.is_empty());
    terms.forbid(&order.device, topic.into_iter())
}

/// In words, where a label does not say it all.
fn detail(forbidden: &Forbidden) -> String {
    if *forbidden == Forbidden::DryRun { String::new() } else { forbidden.to_string() }
}

/// What the wishes come to.
struct Found {
    orders: BTreeMap<String, Order>,
    refused: Vec<Refused>,
}

/// What a rule could make nothing of.
struct Refused {
    key: String,
    order: Order,
    outcome: &'static str,
    detail: String,
}

/// Whether a publish stays with the plant though nothing asks for it any more: what was desired instead is refused.
/// Where its place is not known it is cleared, as it was before places were kept.
fn stays(kept: &Kept, refused: &BTreeSet<String>) -> bool {
    kept.place.as_ref().is_some_and(|place| refused.contains(place))
}

/// Stands for the place of a value in the twin, or of an object as a whole, which ends with a dot: no name has one.
fn place(path: &[String], whole: bool) -> String {
    let mut place = path.join(".");
    if whole {
        place.push('.');
    }
    place
}

impl Order {
    /// Its line in the audit log, with so many bytes of its payload.
    fn line(&self, outcome: &str, detail: &str, payload: usize) -> Value {
        let Self { rule, identity, device, publish, version, .. } = self;
        let has_topic = !publish.topic.is_empty();
        let mut line = json!({
            "at": Timestamp::now().to_string(),
            "kind": "desired",
            "command": rule,
            "identity": identity,
            "device": device,
            "id": version,
            "topic": has_topic.then_some(&publish.topic),
            "bytes": publish.payload.len(),
            "outcome": outcome,
            "detail": Some(detail).filter(|detail| !detail.is_empty()),
            "complete": outcome != ADMITTED,
        });
        let all = std::slice::from_ref(publish);
        if let (Some(line), Some(all)) = (line.as_object_mut(), publishes(all, outcome, payload).filter(|_| has_topic))
        {
            line.insert("publishes".to_owned(), all);
        }
        line
    }

    /// What is kept of it once it is published.
    fn kept(&self) -> Kept {
        let (hash, retained) = (self.hash.clone(), self.publish.retain);
        Kept { hash, retained, place: Some(self.place.clone()), outlived: false }
    }
}

impl Found {
    fn refused_places(&self) -> BTreeSet<String> {
        self.refused.iter().map(|refused| refused.order.place.clone()).collect()
    }

    /// What is to be noted of what stays with the plant, and reported of it where it is desired again.
    fn stays(&self, published: &Published, refused: &BTreeSet<String>) -> Done {
        let mut done = Done::default();
        for (topic, kept) in &published.0 {
            let now = match self.orders.get(topic) {
                Some(order) if order.hash == kept.hash => {
                    if kept.outlived {
                        done.answers.extend(answer(order, 200, "published"));
                    }
                    order.kept()
                }
                None if stays(kept, refused) => Kept { outlived: true, ..kept.clone() },
                _ => continue,
            };
            if now != *kept {
                done.noted.push((topic.clone(), now.to_json()));
            }
        }
        done
    }

    fn take(&mut self, (identity, device, prefix): (&str, &str, &[String]), wish: Wish, version: Option<u64>) {
        let Wish { rule, path, value, whole, made, acknowledge } = wish;
        let path: Vec<String> = prefix.iter().cloned().chain(path).collect();
        let mut answer = acknowledge.then(|| (path.clone(), value.clone()));
        let mut order = |publish: LocalPublish, hash| Order {
            rule: rule.clone(),
            identity: identity.to_owned(),
            device: device.to_owned(),
            publish,
            hash,
            place: place(&path, whole),
            answer: answer.take(),
            version,
        };
        match made {
            Ok(publishes) => {
                for publish in publishes {
                    let hash = hash(&[&publish.payload, &[publish.qos, u8::from(publish.retain)]]);
                    let order = order(publish, hash);
                    // Of two values for one topic the first has it.
                    self.orders.entry(order.publish.topic.clone()).or_insert(order);
                }
            }
            Err((reason, detail)) => {
                let hash = hash(&[value.to_string().as_bytes(), detail.as_bytes()]);
                let none = LocalPublish { topic: String::new(), payload: Vec::new(), qos: 0, retain: false };
                let order = order(none, hash);
                let key = format!("\0{rule}\0{}", path.join("."));
                self.refused.push(Refused { key, order, outcome: reason.label(), detail });
            }
        }
    }
}

/// An empty retained publish, which makes the broker forget what it keeps of the topic.
fn clearing((identity, topic): (&str, &str), version: Option<u64>) -> Order {
    let publish = LocalPublish { topic: topic.to_owned(), payload: Vec::new(), qos: 1, retain: true };
    let (rule, device, hash) = ("(removed)".to_owned(), String::new(), String::new());
    let identity = identity.to_owned();
    Order { rule, identity, device, publish, hash, place: String::new(), answer: None, version }
}

/// What is reported of a value, as IoT Plug and Play has it.
fn answer(order: &Order, code: u16, detail: &str) -> Option<(String, Properties)> {
    let (path, value) = order.answer.as_ref()?;
    let said = json!({"value": value, "ac": code, "av": order.version, "ad": detail});
    let Value::Object(change) = path.iter().rev().fold(said, |inner, name| json!({name: inner})) else { return None };
    Some((order.rule.clone(), change))
}

/// What stands for some bytes.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    digest.iter().take(8).flat_map(digits).collect()
}

/// The devices in the twin of a hub's device: each with where its properties lie, and the properties.
fn devices(whose: &Whose, device: &str, properties: &Properties) -> Vec<(String, Vec<String>, Properties)> {
    if whose.per_device || device != whose.own {
        return vec![(device.to_owned(), Vec::new(), properties.clone())];
    }
    let mut own = properties.clone();
    own.remove(OF_BRIDGE);
    let mut all = Vec::new();
    if let Some(Value::Object(devices)) = own.remove(DEVICES) {
        for (name, properties) in devices {
            let Value::Object(properties) = properties else { continue };
            all.push((from_twin_name(&name), vec![DEVICES.to_owned(), name], properties));
        }
    }
    all.insert(0, (device.to_owned(), Vec::new(), own));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nothing asks for any more stays only where its very place has a refused value.
    #[test]
    fn what_stays_though_nothing_asks_for_it() {
        let refused = BTreeSet::from(["motor.speed".to_owned()]);
        for (entry, expect) in [
            (json!(["00ff", true, "motor.speed", false]), true),
            (json!(["00ff", true, "motor.speed", true]), true),
            (json!(["00ff", true, "motor.top", false]), false),
            (json!(["00ff", true, "motor.", false]), false),
            // As older versions wrote it.
            (json!(["00ff", true]), false),
        ] {
            let kept = Kept::from_json(&entry).unwrap();
            assert_eq!(stays(&kept, &refused), expect, "{entry}");
            assert!(!stays(&kept, &BTreeSet::new()), "{entry}");
        }
    }
}
