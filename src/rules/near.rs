//! The rule that comes near to a topic which no rule takes, and the topic with which it would take it, too.
//!
//! A new line of machines is most often one level away from a rule that is there. What is proposed leaves open the levels
//! that differ, so it takes what the rule took before and the new topic.

use super::explain::{attempt, likeness};
use super::rule::Rule;
use super::{RuleIndex, RuleSet};

/// A rule that comes near to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Near {
    /// Its name.
    pub name: String,
    /// The file and line it stands in.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// Its topic as the user wrote it.
    pub pattern: String,
    /// What differs, in words.
    pub why: String,
    /// The topic with which it would take both, where there is one.
    pub both: Option<String>,
}

impl RuleSet {
    /// The rule that comes nearest to a topic. Where the topic stands for others that differ from it in a level, counted
    /// from 0, that level is `open`.
    pub fn near(&self, topic: &str, open: Option<usize>) -> Option<Near> {
        let rules = self.0.rules.iter().filter(|rule| rule.on.is_none());
        let alike = rules.map(|rule| (likeness(rule.pattern.levels(), topic), rule));
        // The first of those that are equally near.
        let nearest = alike.filter(|(likeness, _)| *likeness > 0).reduce(|a, b| if b.0 > a.0 { b } else { a });
        nearest.map(|(_, rule)| Near {
            name: rule.name.clone(),
            path: rule.path.clone(),
            line: rule.line,
            pattern: rule.written.clone(),
            why: attempt(rule, topic).in_words(),
            // What waits in a window belongs to one kind of value: others in it make a wrong aggregate.
            both: both(rule, topic, open).filter(|_| rule.window().is_none()),
        })
    }

    /// The topic with which a rule would take this one, too.
    pub fn with_both(&self, rule: RuleIndex, topic: &str) -> Option<String> {
        self.0.rules.get(rule).and_then(|rule| both(rule, topic, None))
    }
}

fn both(rule: &Rule, topic: &str, open: Option<usize>) -> Option<String> {
    if rule.pattern.levels().is_empty() {
        return None;
    }
    let mut words = topic.split('/');
    let mut levels = Vec::new();
    let mut is_known = false;
    for (number, level) in rule.written.split('/').enumerate() {
        if level == "#" {
            levels.push(level);
            return is_known.then(|| levels.join("/"));
        }
        let word = words.next()?;
        let is_free = level == "+" || level.starts_with('{');
        let differs = !is_free && (level != word || open == Some(number));
        // A wildcard in the first level does not take a topic that begins with `$`.
        if (differs || is_free) && number == 0 && word.starts_with('$') {
            return None;
        }
        is_known |= !is_free && !differs;
        levels.push(if differs { "+" } else { level });
    }
    if words.next().is_some() {
        levels.push("#");
    }
    // What would take everything is no proposal.
    is_known.then(|| levels.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diag::SourceFile;
    use crate::message::{Publish, Timestamp};
    use crate::rules::{self, Output, Verdict};

    fn rules_of(topics: &[&str]) -> RuleSet {
        let rule =
            |(n, topic): (usize, &&str)| format!("[[rule]]\nname = \"{n}\"\ntopic = \"{topic}\"\ndevice = \"d\"\n");
        let text = topics.iter().enumerate().map(rule).collect();
        rules::load(&[SourceFile { path: "r.toml".into(), text }]).rules.unwrap()
    }

    #[test]
    fn the_nearest_rule_and_a_topic_for_both() {
        for (rules, topic, open, expect) in [
            (&["plant/line1/+/temp"][..], "plant/line7/press3/temp", None, Some(("0", "2", Some("plant/+/+/temp")))),
            (
                &["other/#", "plant/line1/{m}/temp"],
                "plant/line7/press3/temp",
                None,
                Some(("1", "2", Some("plant/+/{m}/temp"))),
            ),
            (&["plant/line1/{m}/#"], "plant/line7/press3/temp", None, Some(("0", "2", Some("plant/+/{m}/#")))),
            (&["plant/line1/{m}"], "plant/line1/press3/temp", None, Some(("0", "4", Some("plant/line1/{m}/#")))),
            (&["plant/line1/{m}/temp"], "plant/line1/press3", None, Some(("0", "4", None))),
            (&["hall1/press1/oil"], "hall2/press1/oil", Some(1), Some(("0", "1", Some("+/+/oil")))),
            (&["hall1/+/oil"], "$SYS/press1/oil", None, Some(("0", "1", None))),
            (&["a/b"], "x/y", None, None),
            (&[], "x/y", None, None),
        ] {
            let near = rules_of(rules).near(topic, open);
            let told = near.as_ref().map(|near| {
                let level = near.why.split_once("level ").map_or("", |(_, rest)| rest);
                (near.name.as_str(), level.get(..1).unwrap_or(""), near.both.as_deref())
            });
            assert_eq!(told, expect, "{rules:?} {topic}");
        }
    }

    /// A temperature does not belong into an aggregate of vibrations.
    #[test]
    fn nothing_is_proposed_for_a_rule_with_a_window() {
        for (more, expect) in
            [("", Some("w9/{m}/+/{axis}")), ("aggregate = { every = \"1m\", fields = { v = \"mean\" } }\n", None)]
        {
            let text = format!("[[rule]]\ntopic = \"w9/{{m}}/vib/{{axis}}\"\ndevice = \"{{m}}\"\n{more}");
            let rules = rules::load(&[SourceFile { path: "r.toml".into(), text }]).rules.unwrap();
            let near = rules.near("w9/line1/m4/temp", None).unwrap();
            assert_eq!(near.both.as_deref(), expect, "{more}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// What is proposed can be pasted, and takes both what the rule took and the topic.
        #[test]
        fn what_is_proposed_takes_both(
            levels in prop::collection::vec("[ab]|\\+|\\{m\\}", 1..4),
            words in prop::collection::vec("[abc]", 1..5),
            more in "(/#)?",
        ) {
            let first = levels.iter().position(|level| level == "{m}");
            let mut levels = levels;
            for (place, level) in levels.iter_mut().enumerate() {
                if level == "{m}" && Some(place) != first {
                    *level = "+".to_owned();
                }
            }
            let (topic, pattern) = (words.join("/"), levels.join("/") + &more);
            let Some(both) = rules_of(&[&pattern]).with_both(0, &topic) else { return Ok(()) };
            let of_rule = levels.iter().map(|level| if level == "+" || level == "{m}" { "z" } else { level });
            let of_rule = of_rule.collect::<Vec<_>>().join("/");
            let set = rules_of(&[&both]);
            for topic in [topic, of_rule] {
                let publish = Publish {
                    topic: &topic, payload: b"{}", client: "c", user: None, qos: 1, retain: false, received: Timestamp(0),
                };
                prop_assert_eq!(set.translate(&publish, &mut Output::new()), Verdict::Translated, "{} {} {}", pattern, both, topic);
            }
        }
    }
}
