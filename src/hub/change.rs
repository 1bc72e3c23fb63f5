//! What is to be changed in reported properties: many changes in one, so that only the last of each value is kept.
//! Pure.
//!
//! A change as the hub takes it says `null` for what goes away and merges objects, so two of them cannot always be
//! written as one: where a text became an object, what was under that name before would come to light again. So a
//! [`Change`] has two parts, what is cleared first and what is set then, and becomes what is sent only when it is
//! known what the hub has ([`Change::against`]).

use serde_json::{Map, Value};

use super::twin::{self, Properties};

/// Changes that are not made yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Nothing but `null`, in objects.
    cleared: Properties,
    set: Properties,
    /// How many it was made of.
    pub count: u64,
}

impl Change {
    /// True where there is nothing to change, and nothing to count: a change may have said nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.cleared.is_empty() && self.set.is_empty()
    }

    /// Bytes of what is set, as the hub counts them.
    pub fn size(&self) -> usize {
        twin::size(&self.set)
    }

    /// One more, which follows what is there.
    pub fn add(&mut self, change: &Properties) {
        merge(Some(&mut self.cleared), &mut self.set, change);
        self.count += 1;
    }

    /// All of another, which follows what is there.
    pub fn follow(&mut self, other: &Self) {
        merge(Some(&mut self.cleared), &mut self.set, &other.cleared);
        merge(Some(&mut self.cleared), &mut self.set, &other.set);
        self.count += other.count;
    }

    /// Takes out all under one name, or about one member under the name `within`.
    pub fn take_one(&mut self, within: &str) -> Self {
        let mut one = Self::default();
        let Some(name) = self.set.keys().chain(self.cleared.keys()).next().cloned() else {
            return std::mem::take(self);
        };
        let inner = if name == within { self.first_within(within) } else { None };
        for (from, to) in [(&mut self.cleared, &mut one.cleared), (&mut self.set, &mut one.set)] {
            match (&inner, from.get_mut(&name)) {
                (Some(inner), Some(Value::Object(members))) => {
                    let taken = members.remove_entry(inner);
                    if members.is_empty() {
                        from.remove(&name);
                    }
                    to.extend(taken.map(|taken| (name.clone(), Value::Object(Map::from_iter([taken])))));
                }
                _ => to.extend(from.remove_entry(&name)),
            }
        }
        // What is left has the count of at least one change.
        let is_last = self.set.is_empty() && self.cleared.is_empty();
        one.count = if is_last { self.count } else { self.count.saturating_sub(1).min(1) };
        self.count -= one.count;
        one
    }

    /// A member under a name that is changed and not replaced.
    fn first_within(&self, name: &str) -> Option<String> {
        let parts = [self.set.get(name), self.cleared.get(name)];
        let objects: Option<Vec<_>> = parts.into_iter().flatten().map(Value::as_object).collect();
        objects?.into_iter().flat_map(Map::keys).next().cloned()
    }

    /// How often [`take_one`](Self::take_one) finds something.
    pub fn parts(&self, within: &str) -> usize {
        let mut left = self.clone();
        std::iter::from_fn(|| (!left.is_empty()).then(|| left.take_one(within))).count()
    }

    /// What it makes of these properties.
    pub fn applied(&self, to: &Properties) -> Properties {
        let mut changed = to.clone();
        twin::merge(&mut changed, &self.cleared);
        twin::merge(&mut changed, &self.set);
        changed
    }

    /// What has to be sent to somebody who has these properties; empty where nothing has to.
    pub fn against(&self, known: &Properties) -> Properties {
        between(known, &self.applied(known))
    }

    /// As it is kept on disk.
    pub fn to_json(&self) -> Value {
        Value::Array(vec![
            Value::Object(self.cleared.clone()),
            Value::Object(self.set.clone()),
            Value::from(self.count),
        ])
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    pub fn from_json(value: &Value) -> Option<Self> {
        let [Value::Object(cleared), Value::Object(set), count] = value.as_array()?.as_slice() else { return None };
        Some(Self { cleared: cleared.clone(), set: set.clone(), count: count.as_u64()? })
    }
}

/// Adds a change to what is set; `cleared` is `None` where all of it is cleared already.
fn merge(mut cleared: Option<&mut Properties>, set: &mut Properties, change: &Properties) {
    for (name, value) in change {
        let Value::Object(inner) = value else {
            if let Some(cleared) = cleared.as_deref_mut() {
                cleared.remove(name);
            }
            set.insert(name.clone(), value.clone());
            continue;
        };
        match set.get_mut(name) {
            Some(Value::Object(known)) => match cleared.as_deref_mut() {
                None => merge(None, known, inner),
                Some(cleared) => within(cleared, name, known, inner),
            },
            Some(_) => {
                if let Some(cleared) = cleared.as_deref_mut() {
                    cleared.insert(name.clone(), Value::Null);
                }
                set.insert(name.clone(), value.clone());
            }
            None => {
                set.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Adds a change of an object that is set to it.
fn within(cleared: &mut Properties, name: &str, known: &mut Properties, inner: &Properties) {
    match cleared.get_mut(name) {
        Some(Value::Null) => merge(None, known, inner),
        Some(Value::Object(under)) => merge(Some(under), known, inner),
        _ => {
            let mut under = Map::new();
            merge(Some(&mut under), known, inner);
            if !under.is_empty() {
                cleared.insert(name.to_owned(), Value::Object(under));
            }
        }
    }
}

/// The change that makes one of the other.
fn between(from: &Properties, to: &Properties) -> Properties {
    let mut change = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        change.insert(name.clone(), Value::Null);
    }
    for (name, value) in to {
        match (from.get(name), value) {
            (Some(Value::Object(from)), Value::Object(to)) => {
                let inner = between(from, to);
                if !inner.is_empty() {
                    change.insert(name.clone(), Value::Object(inner));
                }
            }
            (Some(known), value) if known == value => {}
            _ => {
                change.insert(name.clone(), value.clone());
            }
        }
    }
    change
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::twin::arbitrary;
    use super::*;

    fn object(value: Value) -> Properties {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_the_last_of_each_value_is_sent() {
        for (known, changes, expect) in [
            (json!({}), vec![json!({"a": 1}), json!({"a": 2, "b": 1})], json!({"a": 2, "b": 1})),
            (json!({"a": 1}), vec![json!({"a": 2}), json!({"a": 1})], json!({})),
            (json!({"a": 1}), vec![json!({"a": null})], json!({"a": null})),
            (json!({}), vec![json!({"a": null})], json!({})),
            (
                json!({"a": {"x": 1}}),
                vec![json!({"a": null}), json!({"a": {"y": 2}})],
                json!({"a": {"x": null, "y": 2}}),
            ),
            (json!({"a": {"x": 1}}), vec![json!({"a": 5}), json!({"a": {"y": 2}})], json!({"a": {"x": null, "y": 2}})),
            (json!({"a": {"x": 1}}), vec![json!({"a": {"x": null}}), json!({"a": {"x": 1}})], json!({})),
            (json!({"a": 3}), vec![json!({"a": {"x": 1}})], json!({"a": {"x": 1}})),
            (json!({"a": [1, 2]}), vec![json!({"a": [1]})], json!({"a": [1]})),
        ] {
            let mut change = Change::default();
            changes.iter().for_each(|one| change.add(&object(one.clone())));
            assert_eq!(Value::Object(change.against(&object(known.clone()))), expect, "{known} {changes:?}");
            assert_eq!(change.count, changes.len() as u64);
        }
    }

    proptest! {
        /// Merged, kept on disk and sent as a difference, changes do what they do one by one.
        #[test]
        fn merged_changes_do_what_each_would(
            known in arbitrary(),
            first in proptest::collection::vec(arbitrary(), 0..4),
            second in proptest::collection::vec(arbitrary(), 0..4),
        ) {
            let mut start = Map::new();
            twin::merge(&mut start, &known);
            let mut one_by_one = start.clone();
            first.iter().chain(&second).for_each(|change| twin::merge(&mut one_by_one, change));
            let collect = |changes: &[Properties]| {
                let mut change = Change::default();
                changes.iter().for_each(|one| change.add(one));
                Change::from_json(&change.to_json()).unwrap()
            };
            let mut change = collect(&first);
            change.follow(&collect(&second));
            let mut at_the_hub = start.clone();
            twin::merge(&mut at_the_hub, &change.against(&start));
            prop_assert_eq!(&at_the_hub, &one_by_one);
            prop_assert_eq!(change.against(&at_the_hub), Map::new());
            let (mut left, mut one_by_one, mut count) = (change.clone(), start.clone(), 0);
            while !left.is_empty() {
                let one = left.take_one("a");
                one_by_one = one.applied(&one_by_one);
                count += one.count;
            }
            prop_assert_eq!((one_by_one, count), (change.applied(&start), change.count));
        }
    }
}
