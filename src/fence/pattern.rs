//! Patterns of an access file: names with `*`, and topic filters with `{client}` and `{user}`.

use std::fmt;

use super::Caller;
use crate::topic::{self, TopicError};

/// A name in which `*` stands for any characters, also for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(Box<str>);

impl Name {
    /// The pattern a text is; every text is one.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether a name fits.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return *self.0 == *name };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*') {
            // The earliest place is the best one: it leaves the most for what follows.
            match name.split_once(part) {
                Some((_, after)) => name = after,
                None => return false,
            }
        }
        name.ends_with(last)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Client,
    User,
}

/// The placeholders a filter may have.
pub(super) const PLACEHOLDERS: [&str; 2] = ["client", "user"];

/// A topic filter with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            Piece::Client => f.write_str("{client}"),
            Piece::User => f.write_str("{user}"),
        })
    }
}

/// Why a text is no filter template; places count from its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TemplateError {
    /// `{` or `}` alone at this place.
    Brace(usize),
    /// A placeholder nobody knows, at this place.
    Unknown { name: String, at: usize },
    /// What stands around the placeholders is no topic filter.
    Topic(TopicError),
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(brace) = rest.find(['{', '}']) {
            let at = text.len() - rest.len() + brace;
            let (before, from) = rest.split_at_checked(brace).unwrap_or((rest, ""));
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                literal.extend(from.chars().next());
                rest = after;
                continue;
            }
            let inside = from.strip_prefix('{').and_then(|inside| inside.split_once('}'));
            let (name, after) = inside.ok_or(TemplateError::Brace(at))?;
            let piece = match name {
                "client" => Piece::Client,
                "user" => Piece::User,
                _ => return Err(TemplateError::Unknown { name: name.to_owned(), at }),
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(piece);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        let template = Self(pieces);
        topic::check_filter(&template.filled_with("x", "x")).map_err(TemplateError::Topic)?;
        Ok(template)
    }

    /// The filter for a caller whose names are fit to stand in it.
    pub(super) fn allow(&self, caller: &Caller<'_>) -> Option<String> {
        let fit = |name: &str| !name.is_empty() && !name.starts_with('$') && !name.contains(['/', '+', '#', '\0']);
        let usable = |piece: &Piece| match piece {
            Piece::Text(_) => true,
            Piece::Client => fit(caller.client),
            Piece::User => caller.user.is_some_and(fit),
        };
        let filter = self.0.iter().all(usable).then(|| self.filled_with(caller.client, caller.user.unwrap_or("")))?;
        topic::check_filter(&filter).is_ok().then_some(filter)
    }

    /// The filter to refuse to a caller, whatever its names are. None where no topic can match it.
    pub(super) fn deny(&self, caller: &Caller<'_>) -> Option<String> {
        if caller.user.is_none() && self.0.contains(&Piece::User) {
            return None;
        }
        let filter = self.filled_with(caller.client, caller.user.unwrap_or(""));
        topic::check_filter(&filter).is_ok().then_some(filter)
    }

    fn filled_with(&self, client: &str, user: &str) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.to_string(),
            Piece::Client => client.to_owned(),
            Piece::User => user.to_owned(),
        };
        self.0.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for (pattern, name, expect) in [
            ("plc-7", "plc-7", true),
            ("plc-7", "plc-77", false),
            ("plc-*", "plc-7", true),
            ("plc-*", "plc-", true),
            ("plc-*", "xplc-7", false),
            ("*-7", "plc-7", true),
            ("*", "", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("a*a", "a", false),
            ("*ab", "aab", true),
            ("**", "x", true),
            ("a*b*b", "ab", false),
            ("*ä*", "xäy", true),
        ] {
            assert_eq!(Name::new(pattern).matches(name), expect, "{pattern} {name}");
        }
    }

    fn caller<'a>(client: &'a str, user: Option<&'a str>) -> Caller<'a> {
        Caller { client, user, address: [10, 0, 0, 1].into() }
    }

    #[test]
    fn templates() {
        for (text, client, user, allow, deny) in [
            ("a/{client}/#", "plc", None, Some("a/plc/#"), Some("a/plc/#")),
            ("a/line-{client}", "7", None, Some("a/line-7"), Some("a/line-7")),
            ("{user}/{client}", "c", Some("u"), Some("u/c"), Some("u/c")),
            ("{user}/#", "c", None, None, None),
            ("{client}/#", "a/b", None, None, Some("a/b/#")),
            ("{client}/#", "#", None, None, None),
            ("{client}/#", "+", None, None, Some("+/#")),
            ("{client}/#", "$SYS", None, None, Some("$SYS/#")),
            ("{client}/#", "", None, None, Some("/#")),
            ("{{client}}/{client}", "c", None, Some("{client}/c"), Some("{client}/c")),
        ] {
            let template = Template::parse(text).unwrap();
            let caller = caller(client, user);
            assert_eq!(template.allow(&caller).as_deref(), allow, "{text} {client:?}");
            assert_eq!(template.deny(&caller).as_deref(), deny, "{text} {client:?}");
        }
        for (text, expect) in [
            ("a/{clint}/#", TemplateError::Unknown { name: "clint".into(), at: 2 }),
            ("a/{client", TemplateError::Brace(2)),
            ("a}/b", TemplateError::Brace(1)),
            ("a/#/b", TemplateError::Topic(TopicError::MisplacedHash)),
            ("", TemplateError::Topic(TopicError::Empty)),
            ("{client}+", TemplateError::Topic(TopicError::MisplacedPlus)),
        ] {
            assert_eq!(Template::parse(text), Err(expect), "{text}");
        }
    }

    /// The pattern as a regular expression, the slow way.
    fn naive(pattern: &str, name: &str) -> bool {
        let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
        regex::Regex::new(&format!("^(?s:{})$", parts.join(".*"))).unwrap().is_match(name)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn a_star_is_any_characters(pattern in "[ab*]{0,6}", name in "[ab]{0,6}") {
            prop_assert_eq!(Name::new(&pattern).matches(&name), naive(&pattern, &name));
        }

        #[test]
        fn an_allowed_filter_is_one(text in "[a{}clientusr/+#]{0,20}|\\PC{0,12}", client in "\\PC{0,6}") {
            if let Ok(template) = Template::parse(&text)
                && let Some(filter) = template.allow(&caller(&client, Some("u")))
            {
                prop_assert!(topic::check_filter(&filter).is_ok());
            }
        }
    }
}
