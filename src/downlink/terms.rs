//! What `[commands]` says, as it may change while the program runs: whether anything comes down at all, for whom and
//! where to, how often, and how it is written down. One value, exchanged as a whole: nothing is judged by half of it.

use std::fmt;

use super::matches;
use crate::topic;

/// The terms on which something is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Anything may come down.
    pub enabled: bool,
    /// Nothing is published.
    pub dry_run: bool,
    /// Where it may go.
    pub fence: Fence,
    /// Commands a second of one device; 0 is no limit.
    pub rate: u32,
    /// The bridge answers methods of its own.
    pub own_methods: bool,
    /// Nothing is done that cannot be written down.
    pub audit_required: bool,
    /// So many bytes of what is published are written down.
    pub audit_payload: usize,
}

/// Which topics the commands for a device may go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fence {
    /// Devices, in which `*` stands for any text, and topic filters. Without an entry nothing is fenced in.
    pub allow: Vec<(String, Vec<String>)>,
}

/// Why something is not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forbidden {
    /// Nothing comes down.
    Closed,
    /// This topic is beyond the fence.
    Beyond(String),
    /// Everything is done but this.
    DryRun,
}

impl Forbidden {
    /// The word for the audit log and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Beyond(_) => "not_allowed",
            Self::DryRun => "dry_run",
        }
    }
}

/// A topic in the log is cut after so many characters.
const SHOWN: usize = 200;

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("[commands] enabled = false"),
            Self::Beyond(topic) => {
                let topic: String = topic.chars().take(SHOWN).collect();
                write!(f, "[commands] allow lets nothing for this device go to {topic}")
            }
            Self::DryRun => f.write_str("[commands] dry_run = true"),
        }
    }
}

impl Terms {
    /// Why what a command or a wish makes for a device may not be published, to all of these topics. What only takes
    /// something away has none that the fence would look at.
    pub fn forbid<'t>(&self, device: &str, mut topics: impl Iterator<Item = &'t str>) -> Option<Forbidden> {
        if !self.enabled {
            return Some(Forbidden::Closed);
        }
        let beyond = topics.find(|topic| !self.fence.allows(device, topic));
        let beyond = beyond.map(|topic| Forbidden::Beyond(topic.to_owned()));
        beyond.or_else(|| self.dry_run.then_some(Forbidden::DryRun))
    }
}

/// As it stands in bridge.toml.
impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What JSON makes of a text is one in TOML, too.
        let quoted = |text: &String| serde_json::Value::from(text.as_str()).to_string();
        let list = |filters: &Vec<String>| filters.iter().map(quoted).collect::<Vec<_>>().join(", ");
        let entries = self.allow.iter().map(|(pattern, filters)| format!("{} = [{}]", quoted(pattern), list(filters)));
        write!(f, "allow = {{ {} }}", entries.collect::<Vec<_>>().join(", "))
    }
}

impl Fence {
    /// The same, and commands for these devices may go to this topic.
    pub fn with(&self, device: &str, filter: &str) -> Self {
        let mut fence = self.clone();
        match fence.allow.iter_mut().find(|(pattern, _)| pattern == device) {
            Some((_, filters)) => filters.push(filter.to_owned()),
            None => fence.allow.push((device.to_owned(), vec![filter.to_owned()])),
        }
        fence
    }

    /// True where a command for this device may go to this topic.
    pub fn allows(&self, device: &str, topic: &str) -> bool {
        self.allow.is_empty() || self.admits(device, topic).is_some()
    }

    /// The entry that lets a command for this device go to this topic: its device pattern and its filter.
    pub fn admits(&self, device: &str, topic: &str) -> Option<(&str, &str)> {
        self.allow.iter().filter(|(pattern, _)| matches(pattern, device)).find_map(|(pattern, filters)| {
            let filter = filters.iter().find(|filter| topic::matches(filter, topic))?;
            Some((pattern.as_str(), filter.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_their_topics() {
        let fence = Fence {
            allow: vec![
                ("press*".into(), vec!["plant1/+/set".into(), "plant1/all/#".into()]),
                ("*-7".into(), vec!["line7/#".into()]),
                ("one".into(), vec!["one".into()]),
            ],
        };
        for (device, topic, expect) in [
            ("press1", "plant1/press1/set", Some(("press*", "plant1/+/set"))),
            ("press1", "plant1/all/lamps", Some(("press*", "plant1/all/#"))),
            ("press1", "plant1/press1/reset", None),
            ("press-7", "line7/x", Some(("*-7", "line7/#"))),
            ("oven-7", "line7/x", Some(("*-7", "line7/#"))),
            ("oven-7", "plant1/oven/set", None),
            ("one", "one", Some(("one", "one"))),
            ("one-", "one", None),
            ("x", "plant1/x/set", None),
        ] {
            assert_eq!(fence.admits(device, topic), expect, "{device} {topic}");
            assert_eq!(fence.allows(device, topic), expect.is_some(), "{device} {topic}");
        }
        assert!(Fence::default().allows("any", "where"));
        assert_eq!(fence.with("one", "two").allow[2], ("one".into(), vec!["one".into(), "two".into()]));
        let more = fence.with("a \"b\"", "x/#");
        assert!(more.allows("a \"b\"", "x/y") && !fence.allows("a \"b\"", "x/y"));
        let expect = r#"allow = { "press*" = ["plant1/+/set", "plant1/all/#"], "*-7" = ["line7/#"], "one" = ["one"], "a \"b\"" = ["x/#"] }"#;
        assert_eq!(more.to_string(), expect);
    }

    #[test]
    fn what_is_forbidden_and_which_reason_goes_first() {
        let fence = Fence { allow: vec![("d".into(), vec!["in/#".into()])] };
        let (within, beyond) = (vec!["in/a", "in/b"], vec!["in/a", "out/b", "out/c"]);
        let out = || Some(Forbidden::Beyond("out/b".to_owned()));
        for (enabled, dry_run, topics, expect) in [
            (true, false, &within, None),
            (true, true, &within, Some(Forbidden::DryRun)),
            (true, false, &beyond, out()),
            (true, true, &beyond, out()),
            (true, false, &vec![], None),
            (true, true, &vec![], Some(Forbidden::DryRun)),
            (false, false, &within, Some(Forbidden::Closed)),
            (false, true, &beyond, Some(Forbidden::Closed)),
            (false, false, &vec![], Some(Forbidden::Closed)),
        ] {
            let terms = Terms { enabled, dry_run, fence: fence.clone(), ..Terms::default() };
            assert_eq!(terms.forbid("d", topics.iter().copied()), expect, "{enabled} {dry_run} {topics:?}");
        }
    }
}
