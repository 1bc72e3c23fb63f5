//! Topic names, topic filters and a trie of filters ([MQTT-4.7]).
//!
//! A *name* is what a PUBLISH carries, a *filter* what a subscription or a rule asks for. Both are
//! split at `/` into *levels*; empty levels are levels of their own, so `/a` and `a` differ
//! ([MQTT-4.7.3-4]).

use std::collections::HashMap;
use std::fmt;

/// The longest topic name or filter in bytes: the length prefix has 16 bits ([MQTT-4.7.3-3]).
pub const MAX_LEN: usize = 65_535;

/// Most levels of a topic; deeper ones are refused so that no input can build a tree of 65,535 nodes.
pub const MAX_LEVELS: usize = 200;

/// Why a topic name or filter cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// No character at all ([MQTT-4.7.3-1]).
    Empty,
    /// More than [`MAX_LEN`] bytes.
    TooLong,
    /// More than [`MAX_LEVELS`] levels.
    TooDeep,
    /// A NUL character ([MQTT-4.7.3-2]).
    Nul,
    /// `+` or `#` in a topic name ([MQTT-3.3.2-2]).
    WildcardInName,
    /// `#` that is not the last level, alone ([MQTT-4.7.1-2]).
    MisplacedHash,
    /// `+` beside other characters in its level ([MQTT-4.7.1-3]).
    MisplacedPlus,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the topic is empty",
            Self::TooLong => "the topic is longer than 65535 bytes",
            Self::TooDeep => "the topic has more than 200 levels",
            Self::Nul => "the topic contains a NUL character",
            Self::WildcardInName => "a topic to publish to cannot contain `+` or `#`",
            Self::MisplacedHash => "`#` must be the last level and stand alone in it",
            Self::MisplacedPlus => "`+` must be a whole topic level",
        })
    }
}

impl std::error::Error for TopicError {}

/// Checks a topic name as a PUBLISH carries it.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    check_shape(name)?;
    if memchr::memchr2(b'+', b'#', name.as_bytes()).is_some() {
        return Err(TopicError::WildcardInName);
    }
    Ok(())
}

/// Checks a topic filter as a SUBSCRIBE or a rule carries it.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    check_shape(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicError::MisplacedHash);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::MisplacedPlus);
        }
    }
    Ok(())
}

fn check_shape(text: &str) -> Result<(), TopicError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(TopicError::Empty);
    }
    if bytes.len() > MAX_LEN {
        return Err(TopicError::TooLong);
    }
    if memchr::memchr(0, bytes).is_some() {
        return Err(TopicError::Nul);
    }
    if memchr::memchr_iter(b'/', bytes).count() >= MAX_LEVELS {
        return Err(TopicError::TooDeep);
    }
    Ok(())
}

/// Says whether a valid filter matches a valid name, level by level.
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false; // [MQTT-4.7.2-1]
    }
    let mut levels = name.split('/');
    for want in filter.split('/') {
        match (want, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (want, Some(level)) if want == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Says whether two valid filters have a name in common.
pub fn overlap(one: &str, other: &str) -> bool {
    let is_wild = |filter: &str| filter.starts_with(['+', '#']);
    if one.starts_with('$') && is_wild(other) || other.starts_with('$') && is_wild(one) {
        return false; // [MQTT-4.7.2-1]
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// Values filed under topic filters, found by topic name in one walk down its levels.
#[derive(Debug)]
pub struct Trie<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    literal: HashMap<Box<str>, Node<T>>,
    plus: Option<Box<Node<T>>>,
    /// Values of filters that end with `#` below this node.
    hash: Vec<T>,
    /// Values of filters that end at this node.
    here: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { literal: HashMap::new(), plus: None, hash: Vec::new(), here: Vec::new() }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<T> Trie<T> {
    /// The values filed under exactly this filter; the place is made where there is none.
    pub fn entry(&mut self, filter: &str) -> &mut Vec<T> {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            match level {
                "#" => return &mut node.hash,
                "+" => node = node.plus.get_or_insert_default(),
                level => node = node.literal.entry(level.into()).or_default(),
            }
        }
        &mut node.here
    }

    /// Keeps only the values under exactly this filter that `keep` wants, and prunes what is empty.
    pub fn retain(&mut self, filter: &str, keep: impl FnMut(&mut T) -> bool) {
        let levels: Vec<&str> = filter.split('/').collect();
        self.root.retain(&levels, keep);
    }

    /// Calls `found` with every value whose filter matches `name`, in no particular order.
    pub fn each_match<'a>(&'a self, name: &str, mut found: impl FnMut(&'a T)) {
        self.root.walk(Some(name), name.starts_with('$'), &mut found);
    }

    /// True where something is filed under a filter whose first level is `level`, word for word.
    pub fn has_branch(&self, level: &str) -> bool {
        self.root.literal.contains_key(level)
    }

    /// True where nothing is filed.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.plus.is_none() && self.hash.is_empty() && self.here.is_empty()
    }

    fn retain(&mut self, levels: &[&str], mut keep: impl FnMut(&mut T) -> bool) {
        match levels.split_first() {
            None => self.here.retain_mut(|value| keep(value)),
            Some((&"#", _)) => self.hash.retain_mut(|value| keep(value)),
            Some((&"+", rest)) => {
                if let Some(node) = &mut self.plus {
                    node.retain(rest, &mut keep as &mut dyn FnMut(&mut T) -> bool);
                    if node.is_empty() {
                        self.plus = None;
                    }
                }
            }
            Some((level, rest)) => {
                if let Some(node) = self.literal.get_mut(*level) {
                    node.retain(rest, &mut keep as &mut dyn FnMut(&mut T) -> bool);
                    if node.is_empty() {
                        self.literal.remove(*level);
                    }
                }
            }
        }
    }

    fn walk<'a>(&'a self, rest: Option<&str>, no_wildcard: bool, found: &mut impl FnMut(&'a T)) {
        if !no_wildcard {
            self.hash.iter().for_each(&mut *found);
        }
        let Some(rest) = rest else {
            self.here.iter().for_each(found);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if let Some(node) = self.literal.get(level) {
            node.walk(rest, false, found);
        }
        if let Some(node) = &self.plus
            && !no_wildcard
        {
            node.walk(rest, false, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filters_with_a_name_in_common() {
        for (one, other, expect) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a/b", "a", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+/c", "+/b/+", true),
            ("a/+/c", "a/+/d", false),
            ("a/+", "a/+/c", false),
            ("a/+/#", "a/b", true),
            ("+/b/#", "a/+", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("other/#", "plant/+/set", false),
        ] {
            assert_eq!(overlap(one, other), expect, "{one} {other}");
            assert_eq!(overlap(other, one), expect, "{other} {one}");
        }
    }

    #[test]
    fn names() {
        let deep = "/".repeat(MAX_LEVELS);
        for (name, expect) in [
            ("a/b", Ok(())),
            ("/", Ok(())),
            ("ä/ /°C", Ok(())),
            ("$SYS/x", Ok(())),
            ("", Err(TopicError::Empty)),
            ("a\0b", Err(TopicError::Nul)),
            ("a/+/b", Err(TopicError::WildcardInName)),
            ("a#", Err(TopicError::WildcardInName)),
            (deep.as_str(), Err(TopicError::TooDeep)),
        ] {
            assert_eq!(check_name(name), expect, "{name:?}");
        }
        assert_eq!(check_name(&"a".repeat(MAX_LEN + 1)), Err(TopicError::TooLong));
    }

    #[test]
    fn filters() {
        for (filter, expect) in [
            ("#", Ok(())),
            ("+", Ok(())),
            ("+/a/#", Ok(())),
            ("a//+", Ok(())),
            ("", Err(TopicError::Empty)),
            ("a/#/b", Err(TopicError::MisplacedHash)),
            ("a#", Err(TopicError::MisplacedHash)),
            ("#/", Err(TopicError::MisplacedHash)),
            ("a+/b", Err(TopicError::MisplacedPlus)),
            ("++", Err(TopicError::MisplacedPlus)),
        ] {
            assert_eq!(check_filter(filter), expect, "{filter:?}");
        }
    }

    #[test]
    fn matching() {
        for (filter, name, expect) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/a", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/a", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a", "a/b", false),
            ("a/b", "a", false),
        ] {
            assert_eq!(matches(filter, name), expect, "{filter} {name}");
            let mut trie = Trie::default();
            trie.entry(filter).push(());
            let mut found = 0;
            trie.each_match(name, |()| found += 1);
            assert_eq!(found == 1, expect, "trie: {filter} {name}");
        }
    }

    fn levels(wild: bool) -> impl Strategy<Value = String> {
        let level = if wild { "[ab$]{0,1}|\\+" } else { "[ab$]{0,1}" };
        (proptest::collection::vec(level, 1..5), any::<bool>()).prop_map(move |(mut v, hash)| {
            if wild && hash {
                v.push("#".into());
            }
            v.join("/")
        })
    }

    proptest! {
        #[test]
        fn trie_equals_naive_matcher(filters in proptest::collection::vec(levels(true), 0..20), name in levels(false)) {
            prop_assume!(!name.is_empty());
            let filters: Vec<String> = filters.into_iter().filter(|f| !f.is_empty()).collect();
            let mut trie = Trie::default();
            for (i, filter) in filters.iter().enumerate() {
                trie.entry(filter).push(i);
            }
            let mut found = Vec::new();
            trie.each_match(&name, |i| found.push(*i));
            found.sort_unstable();
            let expect: Vec<usize> =
                filters.iter().enumerate().filter(|(_, f)| matches(f, &name)).map(|(i, _)| i).collect();
            prop_assert_eq!(found, expect);
            for (i, filter) in filters.iter().enumerate() {
                trie.retain(filter, |v| *v != i);
            }
            prop_assert!(trie.is_empty());
        }
    }
}
