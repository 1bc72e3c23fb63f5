//! What a rule asks of a topic: a topic filter with named levels, or a regex with named captures.

use std::ops::Range;

use regex::Regex;

use crate::topic::{self, TopicError};

/// A checked pattern.
#[derive(Debug)]
pub(super) enum Pattern {
    /// The levels, and the filter they make with `+` in the place of names.
    Topic { filter: String, levels: Vec<Level> },
    /// A regex; names stand in the order of `groups`.
    Regex { text: String, regex: Regex, groups: Vec<usize> },
}

/// One level of a topic pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Level {
    Literal(String),
    Named(String),
    Plus,
    Hash,
}

/// What is wrong with a topic pattern, with the place inside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mistake {
    /// `oil{nr}` or `oil+`: a wildcard beside other characters.
    Mixed(Range<usize>),
    /// `#` before the last level.
    Hash(Range<usize>),
    /// A name with other characters than letters, digits and `_`, or one that is built in.
    Name(Range<usize>),
    /// A name used twice.
    Twice(Range<usize>, Range<usize>),
    /// The whole is no topic filter.
    Filter(TopicError),
}

/// Reads the levels of a topic pattern. A level with a mistake is kept as a literal, so that what the
/// pattern was meant to take can still be told.
pub(super) fn levels(text: &str) -> (Vec<Level>, Vec<Mistake>) {
    let mut levels = Vec::new();
    let mut mistakes = Vec::new();
    let mut names: Vec<(&str, Range<usize>)> = Vec::new();
    let mut at = 0;
    let count = text.split('/').count();
    for (index, level) in text.split('/').enumerate() {
        let place = at..at + level.len();
        at = place.end + 1;
        let name = level.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        levels.push(match (level, name) {
            ("+", _) => Level::Plus,
            ("#", _) if index + 1 == count => Level::Hash,
            (_, Some(name)) if !name.contains(['{', '}']) => {
                let inside = place.start + 1..place.end - 1;
                if !is_name(name) {
                    mistakes.push(Mistake::Name(inside));
                } else if let Some((_, first)) = names.iter().find(|(known, _)| *known == name) {
                    mistakes.push(Mistake::Twice(inside, first.clone()));
                } else {
                    names.push((name, inside));
                }
                Level::Named(name.to_owned())
            }
            ("#", _) => {
                mistakes.push(Mistake::Hash(place));
                Level::Literal(level.to_owned())
            }
            _ => {
                if level.contains(['{', '}', '+', '#']) {
                    mistakes.push(Mistake::Mixed(place));
                }
                Level::Literal(level.to_owned())
            }
        });
    }
    if mistakes.is_empty()
        && let Err(error) = topic::check_filter(&filter(&levels))
    {
        mistakes.push(Mistake::Filter(error));
    }
    (levels, mistakes)
}

/// True for what a level may be called.
pub(super) fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_')
        && !super::template::BUILT_IN.contains(&name)
}

/// The topic filter of some levels.
pub(super) fn filter(levels: &[Level]) -> String {
    let words: Vec<&str> = levels
        .iter()
        .map(|level| match level {
            Level::Literal(text) => text.as_str(),
            Level::Named(_) | Level::Plus => "+",
            Level::Hash => "#",
        })
        .collect();
    words.join("/")
}

/// The names of some levels, in order.
pub(super) fn names(levels: &[Level]) -> Vec<String> {
    let name = |level: &Level| match level {
        Level::Named(name) => Some(name.clone()),
        _ => None,
    };
    levels.iter().filter_map(name).collect()
}

/// True where the filter `wide` takes every topic that `narrow` takes.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    if narrow.starts_with('$') && (wide.starts_with('+') || wide.starts_with('#')) {
        return false;
    }
    let mut narrow = narrow.split('/');
    for want in wide.split('/') {
        match (want, narrow.next()) {
            ("#", _) => return true,
            ("+", Some(level)) if level != "#" => {}
            (want, Some(level)) if want == level => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

impl Pattern {
    /// The levels of a topic pattern; none for a regex.
    pub(super) fn levels(&self) -> &[Level] {
        match self {
            Self::Topic { levels, .. } => levels,
            Self::Regex { .. } => &[],
        }
    }

    /// Appends where the names of the pattern are in a topic; false where it does not match.
    pub(super) fn captures(&self, topic: &str, places: &mut Vec<Range<usize>>) -> bool {
        match self {
            Self::Topic { filter, levels, .. } => {
                if !topic::matches(filter, topic) {
                    return false;
                }
                let mut at = 0;
                for (level, text) in levels.iter().zip(topic.split('/')) {
                    if matches!(level, Level::Named(_)) {
                        places.push(at..at + text.len());
                    }
                    at += text.len() + 1;
                }
                true
            }
            Self::Regex { regex, groups, .. } => {
                let mut slots = regex.capture_locations();
                if regex.captures_read(&mut slots, topic).is_none() {
                    return false;
                }
                places.extend(groups.iter().map(|group| slots.get(*group).map_or(0..0, |(start, end)| start..end)));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn covering() {
        for (wide, narrow, expect) in [
            ("#", "a/b", true),
            ("#", "$SYS/b", false),
            ("+/b", "$SYS/b", false),
            ("$SYS/#", "$SYS/b", true),
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a/+", "a/#", false),
            ("a/+", "a/+", true),
            ("a/+", "a/b/c", false),
            ("a/b", "a/+", false),
            ("a/+/c", "a/b/c", true),
        ] {
            assert_eq!(covers(wide, narrow), expect, "{wide} {narrow}");
        }
    }

    #[test]
    fn reading_levels() {
        for (text, expect, places) in [
            ("a/{b}/+/#", "a/+/+/#", vec![]),
            ("a/{b}c", "a/{b}c", vec![Mistake::Mixed(2..6)]),
            ("é/#/{x}", "é/#/+", vec![Mistake::Hash(3..4)]),
            ("{}/{x}/{x}", "+/+/+", vec![Mistake::Name(1..1), Mistake::Twice(8..9, 4..5)]),
            ("{1}/{topic}", "+/+", vec![Mistake::Name(1..2), Mistake::Name(5..10)]),
            ("", "", vec![Mistake::Filter(TopicError::Empty)]),
        ] {
            let (levels, mistakes) = levels(text);
            assert_eq!((filter(&levels).as_str(), mistakes), (expect, places), "{text}");
        }
    }

    fn random_filter() -> impl Strategy<Value = String> {
        (proptest::collection::vec("[ab$]|\\+", 1..4), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash {
                levels.push("#".into());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn a_covered_filter_takes_nothing_else(wide in random_filter(), narrow in random_filter(),
            names in proptest::collection::vec("[ab$](/[ab$]){0,4}", 20))
        {
            for name in names.iter().filter(|name| covers(&wide, &narrow) && topic::matches(&narrow, name)) {
                prop_assert!(topic::matches(&wide, name), "{} {} {}", wide, narrow, name);
            }
        }
    }
}
