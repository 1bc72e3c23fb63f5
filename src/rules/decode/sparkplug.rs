//! `sparkplug`: a Sparkplug B payload becomes an object: `time`, `seq`, and each metric as a field.
//!
//! | metric | field |
//! |---|---|
//! | integers, floats, booleans, strings, UUIDs | as they are; the datatype of the birth decides the sign |
//! | DateTime | RFC 3339 text |
//! | Bytes, File | base64 |
//! | arrays | lists |
//! | DataSet | a list of row objects |
//! | Template | an object of its metrics |
//! | null | null |
//!
//! History (`is_historical`) becomes objects of its own with the times of its metrics, and so does a metric that comes
//! again in one payload. Metrics whose property `Quality` is not 192 are left out, or named in the list `bad`: in a
//! template `Motor/Temp`.
//!
//! Data messages may name metrics by the alias that the birth gave them. What births say is kept in [`Births`], which
//! belongs to the caller and is bounded; a data message with an alias nobody has declared is refused, and its node is
//! asked for its births where the rule says so.

use super::quality::Quality;
use super::{Decoded, ITEM_NAMES, push_key, push_texts};
use crate::message::Publish;
use crate::rules::QuarantineReason;
use crate::rules::refusal::{Refusal, shown};

mod births;
mod declared;
mod graded;
mod objects;
mod rebirth;
mod records;
mod values;
mod wire;

pub use births::{Births, Keep, Tally};
use graded::Graded;
use objects::{Named, Object};
pub use rebirth::rebirth;
use values::{Place, push_time, push_value, push_whole};
use wire::{Fault, Metric, Payload};

/// What is wanted of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rules) struct Sparkplug {
    /// Edge nodes whose births are not known are asked for them.
    pub(in crate::rules) rebirth: bool,
    pub(in crate::rules) quality: Quality,
}

impl Default for Sparkplug {
    fn default() -> Self {
        Self { rebirth: false, quality: Quality::Good }
    }
}

/// Who sent a payload, and what kind it is.
struct Sender<'t> {
    node: String,
    kind: &'t str,
    device: &'t str,
}

impl<'t> Sender<'t> {
    /// From `spBv1.0/group/kind/node[/device]`; what is of the node itself has no device.
    fn of(topic: &'t str) -> Option<Self> {
        let mut levels = topic.split('/');
        let _namespace = levels.next().filter(|level| *level == "spBv1.0")?;
        let (group, kind, node) = (levels.next()?, levels.next()?, levels.next()?);
        let device = match kind {
            "NBIRTH" | "NDEATH" => "",
            "DBIRTH" | "DDEATH" => levels.next().filter(|device| !device.is_empty())?,
            _ => levels.next().unwrap_or(""),
        };
        Some(Self { node: format!("{group}/{node}"), kind, device })
    }

    fn is_data(&self) -> bool {
        matches!(self.kind, "NDATA" | "DDATA")
    }
}

pub(super) fn decode(
    options: Sparkplug,
    publish: &Publish<'_>,
    births: &Births,
    out: &mut Decoded,
) -> Result<(), Refusal> {
    let asks = options.rebirth;
    let payload = Payload::read(publish.payload).map_err(|fault| unreadable(fault, publish.payload))?;
    let sender = Sender::of(publish.topic);
    let (metrics, received) = (&payload.metrics, publish.received);
    let scope = sender.as_ref().map(|sender| births.scope(sender, metrics, received)).unwrap_or_default();
    let asked = sender.as_ref().filter(|sender| asks && sender.is_data());
    if let Some(sender) = asked.filter(|_| scope.restored && metrics.iter().any(|metric| metric.name.is_none())) {
        // The last birth before a crash may not have come to the disk.
        births.ask_rebirth(&sender.node);
    }
    let mut graded = Graded::new(options.quality);
    let mut taken: Vec<Named<'_>> = Vec::with_capacity(metrics.len());
    for metric in metrics {
        let Some((name, datatype)) = scope.resolve(metric) else {
            if let Some(alias) = metric.alias.filter(|_| scope.is_later()) {
                return Err(of_earlier_births(alias));
            }
            if let Some(sender) = asked.filter(|_| metric.alias.is_some()) {
                births.ask_rebirth(&sender.node);
            }
            return Err(unknown_alias(metric, asks, scope.is_born()));
        };
        if graded.takes(metric) {
            taken.push(Named { name, datatype, metric });
        }
    }
    let mut objects = objects::of(taken, payload.timestamp);
    if metrics.is_empty() {
        objects.push(Object { time: payload.timestamp, metrics: Vec::new() });
    }
    for object in &objects {
        write(object, (payload.seq, publish.payload), &mut graded, out)?;
    }
    out.left_out = graded.left_out;
    Ok(())
}

/// Writes an object of a payload.
fn write(
    object: &Object<'_>,
    (seq, payload): (Option<u64>, &[u8]),
    graded: &mut Graded,
    out: &mut Decoded,
) -> Result<(), Refusal> {
    let start = out.json.len();
    let (json, mut first) = (&mut out.json, true);
    json.push(b'{');
    if let Some(time) = object.time {
        push_key(json, &mut first, "time");
        push_time(time, json);
    }
    if let Some(seq) = seq {
        push_key(json, &mut first, "seq");
        push_whole(seq, json);
    }
    graded.bad.clear();
    for Named { name, datatype, metric } in &object.metrics {
        let place = Place::of(name);
        push_key(json, &mut first, name);
        graded.mark(metric, place);
        push_value((metric, *datatype), place, graded, json).map_err(|fault| unreadable(fault, payload))?;
    }
    if !graded.bad.is_empty() {
        push_key(json, &mut first, "bad");
        push_texts(json, graded.bad.iter().map(String::as_str));
    }
    json.push(b'}');
    out.end(start, [""; ITEM_NAMES])
}

fn unreadable(fault: Fault, payload: &[u8]) -> Refusal {
    Refusal::undecoded(format!("the payload is not Sparkplug B: {fault}: {}", shown(payload)))
}

fn of_earlier_births(alias: u64) -> Refusal {
    let detail =
        format!("the birth that declared the alias {alias} for this message is not known any more: another came since");
    Refusal::new(QuarantineReason::UnknownAlias, detail)
}

fn unknown_alias(metric: &Metric<'_>, asked: bool, born: bool) -> Refusal {
    let ask = if asked { "the edge node is asked" } else { "ask the edge node" };
    let detail = match metric.alias {
        Some(alias) if born => format!(
            "the birth that holds does not declare the alias {alias}: it is of another session or the sender has changed since, {ask} for a rebirth"
        ),
        Some(alias) => format!(
            "no birth that holds has declared the alias {alias}: its sender was born before brownbridge was there, or has died since, {ask} for a rebirth"
        ),
        None => "a metric has neither name nor alias".to_owned(),
    };
    let advice = (!asked).then_some("decode = { format = \"sparkplug\", rebirth = true }");
    Refusal::new(QuarantineReason::UnknownAlias, detail).advise(advice)
}

#[cfg(test)]
mod tests;
