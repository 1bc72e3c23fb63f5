//! Twins: how changes are merged, and what a hub takes in them.
//!
//! Limits are those of "Understand and use device twins in IoT Hub": sizes, depth and characters of names, length of
//! texts, range of whole numbers. Sizes count what that page counts: names and texts by their UTF-8 bytes, a number
//! as 8, true and false as 4.

use std::fmt;

use serde_json::{Map, Value};

use crate::message::{TWIN_DEPTH_MAX, twin_name_fault};

/// An object of a twin.
pub type Properties = Map<String, Value>;

/// Most bytes of all desired properties, and of all reported ones.
pub const PROPERTIES_MAX_BYTES: usize = 32 * 1024;
/// Most bytes of all tags.
pub const TAGS_MAX_BYTES: usize = 8 * 1024;
/// Longest text, in bytes.
pub const TEXT_MAX_BYTES: usize = 4096;
/// How deep objects may be nested.
pub const DEPTH_MAX: usize = TWIN_DEPTH_MAX;
/// Whole numbers lie between this and its negative.
pub const INTEGER_MAX: i64 = 4_503_599_627_370_496;

/// Where devices are in the twin of a gateway, each under its id.
pub const DEVICES: &str = "devices";
/// The member that counts the changes; the hub's own.
pub const VERSION: &str = "$version";

/// Why a hub would refuse properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TwinError {
    /// It is no JSON object.
    NotAnObject,
    /// All of it together, in bytes.
    TooLarge(usize),
    /// A name, with what one must be.
    Name(String, &'static str),
    /// The text under this name is too long.
    Text(String),
    /// The whole number under this name is out of range.
    Integer(String),
    /// There are objects in objects in objects.
    TooDeep(String),
}

impl fmt::Display for TwinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("twin properties are a JSON object"),
            Self::TooLarge(size) => {
                write!(f, "the properties have {size} bytes; a twin holds {PROPERTIES_MAX_BYTES} in each direction")
            }
            Self::Name(name, why) => write!(f, "{name:?} is no name in a twin, which {why}"),
            Self::Text(name) => write!(f, "the text {name:?} is longer than {TEXT_MAX_BYTES} bytes"),
            Self::Integer(name) => write!(f, "the number {name:?} is beyond ±{INTEGER_MAX}"),
            Self::TooDeep(name) => write!(f, "{name:?} lies deeper than {DEPTH_MAX} levels"),
        }
    }
}

impl std::error::Error for TwinError {}

/// Reads a change: an object whose members a twin may have.
pub fn parse(json: &[u8]) -> Result<Properties, TwinError> {
    let Ok(Value::Object(properties)) = serde_json::from_slice(json) else { return Err(TwinError::NotAnObject) };
    check(&properties)?;
    Ok(properties)
}

/// Says whether a hub takes these properties.
pub fn check(properties: &Properties) -> Result<(), TwinError> {
    members(properties, 1)?;
    let size = size(properties);
    if size > PROPERTIES_MAX_BYTES { Err(TwinError::TooLarge(size)) } else { Ok(()) }
}

fn members(properties: &Properties, depth: usize) -> Result<(), TwinError> {
    for (name, value) in properties {
        let own = depth == 1 && name == VERSION;
        if !own {
            check_name(name)?;
        }
        member(name, value, depth)?;
    }
    Ok(())
}

fn member(name: &str, value: &Value, depth: usize) -> Result<(), TwinError> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => {
            let within = number.as_i64().is_some_and(|whole| (-INTEGER_MAX..=INTEGER_MAX).contains(&whole));
            if number.is_f64() || within { Ok(()) } else { Err(TwinError::Integer(name.to_owned())) }
        }
        Value::String(text) if text.len() > TEXT_MAX_BYTES => Err(TwinError::Text(name.to_owned())),
        Value::String(_) => Ok(()),
        Value::Array(_) | Value::Object(_) if depth >= DEPTH_MAX => Err(TwinError::TooDeep(name.to_owned())),
        Value::Array(values) => values.iter().try_for_each(|value| member(name, value, depth + 1)),
        Value::Object(inner) => members(inner, depth + 1),
    }
}

fn check_name(name: &str) -> Result<(), TwinError> {
    let Some(why) = twin_name_fault(name) else { return Ok(()) };
    let shown = name.get(..name.floor_char_boundary(100)).unwrap_or(name);
    Err(TwinError::Name(shown.to_owned(), why))
}

/// The bytes of properties as the hub counts them; its own members do not count.
pub fn size(properties: &Properties) -> usize {
    properties.iter().filter(|(name, _)| !name.starts_with('$')).map(|(name, value)| name.len() + weight(value)).sum()
}

fn weight(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight).sum(),
        Value::Object(inner) => size(inner),
    }
}

/// Merges a change: `null` removes a member, objects are merged, everything else replaces.
pub fn merge(into: &mut Properties, change: &Properties) {
    for (name, value) in change {
        match value {
            _ if name == VERSION => {}
            Value::Null => {
                into.remove(name);
            }
            Value::Object(inner) => {
                let known = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if !known.is_object() {
                    *known = Value::Object(Map::new());
                }
                if let Value::Object(known) = known {
                    merge(known, inner);
                }
            }
            other => {
                into.insert(name.clone(), other.clone());
            }
        }
    }
}

/// What of `change` would change `known`: the rest is left out, so that a second time nothing is left.
pub fn difference(known: &Properties, change: &Properties) -> Properties {
    let mut rest = Map::new();
    for (name, value) in change {
        match (known.get(name), value) {
            (None, Value::Null) => {}
            (Some(Value::Object(known)), Value::Object(inner)) => {
                let inner = difference(known, inner);
                if !inner.is_empty() {
                    rest.insert(name.clone(), Value::Object(inner));
                }
            }
            (Some(known), value) if known == value => {}
            _ => {
                rest.insert(name.clone(), value.clone());
            }
        }
    }
    rest
}

/// Small objects of few names, for the tests of all who change them.
#[cfg(test)]
pub(super) fn arbitrary() -> impl proptest::strategy::Strategy<Value = Properties> {
    use proptest::prelude::*;
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3u8).prop_map(Value::from)];
    let value = leaf.prop_recursive(3, 20, 3, |inner| {
        prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    prop::collection::btree_map("[abc]", value, 0..4).prop_map(|map| map.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Properties {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn merging() {
        for (known, change, expect) in [
            (json!({}), json!({"a": 1}), json!({"a": 1})),
            (json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2})),
            (json!({"a": {"x": 1}}), json!({"a": {"y": 2}}), json!({"a": {"x": 1, "y": 2}})),
            (json!({"a": {"x": 1}}), json!({"a": {"x": null}}), json!({"a": {}})),
            (json!({"a": 1}), json!({"a": {"x": null, "y": 1}}), json!({"a": {"y": 1}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"$version": 3}), json!({"$version": 9, "a": 1}), json!({"$version": 3, "a": 1})),
        ] {
            let mut merged = object(known.clone());
            merge(&mut merged, &object(change.clone()));
            assert_eq!(Value::Object(merged), expect, "{known} and {change}");
        }
    }

    #[test]
    fn what_a_hub_takes() {
        let deep = |levels: usize| (1..levels).fold(json!(1), |inner, _| json!({"a": inner}));
        for (properties, expect) in [
            (json!({"a": 1, "b": [1, 2.5, true, null], "ünï": "°C"}), Ok(())),
            (json!({"$version": 3, "a": null}), Ok(())),
            (json!([1]), Err(TwinError::NotAnObject)),
            (
                json!({"a.b": 1}),
                Err(TwinError::Name("a.b".into(), "has no control character, `.`, `$` or space in it")),
            ),
            (
                json!({"a": {"$x": 1}}),
                Err(TwinError::Name("$x".into(), "has no control character, `.`, `$` or space in it")),
            ),
            (json!({"": 1}), Err(TwinError::Name(String::new(), "is not empty"))),
            (json!({"a": "x".repeat(4096)}), Ok(())),
            (json!({"a": "x".repeat(4097)}), Err(TwinError::Text("a".into()))),
            (json!({"a": INTEGER_MAX}), Ok(())),
            (json!({"a": INTEGER_MAX + 1}), Err(TwinError::Integer("a".into()))),
            (json!({"a": u64::MAX}), Err(TwinError::Integer("a".into()))),
            (json!({"a": 1e300}), Ok(())),
            (deep(11), Ok(())),
            (deep(12), Err(TwinError::TooDeep("a".into()))),
            (json!({"a": vec!["x".repeat(4000); 8], "b": "x".repeat(800)}), Err(TwinError::TooLarge(32_802))),
        ] {
            let text = properties.to_string();
            assert_eq!(parse(text.as_bytes()).map(|_| ()), expect, "{:.80}", text);
        }
    }

    proptest! {
        #[test]
        fn a_difference_changes_as_much_as_the_change(known in arbitrary(), change in arbitrary()) {
            let mut start = Map::new();
            merge(&mut start, &known);
            let (mut whole, mut part) = (start.clone(), start.clone());
            merge(&mut whole, &change);
            merge(&mut part, &difference(&start, &change));
            prop_assert_eq!(&whole, &part);
            prop_assert_eq!(difference(&whole, &whole), Map::new());
        }
    }
}
