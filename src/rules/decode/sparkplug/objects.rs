//! Which metrics of a payload go into one object.
//!
//! - Values of the moment are one object with the time of the payload. A name that comes again begins a further one; each
//!   then has the time of its own metrics, and takes those of the same time.
//! - History (`is_historical`) is apart from them and before them: an object for each time of its metrics, the oldest first.

use std::collections::{HashMap, HashSet};

use super::wire::Metric;

/// A metric whose name is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'n> {
    pub(super) name: &'n str,
    pub(super) datatype: u32,
    pub(super) metric: &'n Metric<'n>,
}

/// What one object is made of.
#[derive(Debug, Default)]
pub(super) struct Object<'n> {
    /// In milliseconds since 1970.
    pub(super) time: Option<u64>,
    pub(super) metrics: Vec<Named<'n>>,
}

/// The objects of a payload that was sent at that time.
pub(super) fn of<'n>(mut live: Vec<Named<'n>>, sent: Option<u64>) -> Vec<Object<'n>> {
    let is_history = |named: &mut Named<'n>| named.metric.is_historical;
    let history: Vec<Named<'n>> = live.extract_if(.., is_history).collect();
    let mut objects = grouped(history, |_| None);
    for object in &mut objects {
        object.time = object.time.or(sent);
    }
    objects.sort_by_key(|object| object.time);
    objects.append(&mut of_the_moment(live, sent));
    objects
}

fn of_the_moment<'n>(live: Vec<Named<'n>>, sent: Option<u64>) -> Vec<Object<'n>> {
    let own = |metrics: &[Named<'n>]| metrics.iter().find_map(|named| named.metric.timestamp);
    let mut names = HashSet::with_capacity(live.len());
    if live.iter().all(|named| names.insert(named.name)) {
        let time = sent.or_else(|| own(&live));
        return if live.is_empty() { Vec::new() } else { vec![Object { time, metrics: live }] };
    }
    let mut objects = grouped(live, |latest| latest);
    for object in &mut objects {
        object.time = own(&object.metrics).or(sent);
    }
    objects
}

/// Puts metrics of the same time together, no name twice. `otherwise` gets the latest object, and says which one takes a
/// metric of a time that none has yet.
fn grouped<'n>(metrics: Vec<Named<'n>>, otherwise: impl Fn(Option<usize>) -> Option<usize>) -> Vec<Object<'n>> {
    let mut objects: Vec<Object<'n>> = Vec::new();
    let mut of_time: HashMap<Option<u64>, usize> = HashMap::new();
    let mut names: HashSet<(usize, &str)> = HashSet::new();
    for named in metrics {
        let time = named.metric.timestamp;
        let lacks = |at: &usize| !names.contains(&(*at, named.name));
        let known = of_time.get(&time).copied().filter(lacks);
        let at = known.or_else(|| otherwise(objects.len().checked_sub(1)).filter(lacks)).unwrap_or(objects.len());
        if at == objects.len() {
            objects.push(Object { time, metrics: Vec::new() });
        }
        of_time.insert(time, at);
        names.insert((at, named.name));
        if let Some(object) = objects.get_mut(at) {
            object.metrics.push(named);
        }
    }
    objects
}
