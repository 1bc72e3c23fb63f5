//! Numbers of rules that are changed while they run: what a file says about `throttle` and `report_by_exception` may get
//! another number, and a rule that says nothing about them gets nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::RuleSet;
use super::restraint::Change;
use super::rule::Action;
use crate::message::push_twin_name;

/// Other numbers for a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tune {
    /// Milliseconds.
    pub throttle: Option<i64>,
    /// What counts as a change, in the unit the rule has.
    pub change: Option<f64>,
}

impl RuleSet {
    /// Changes the numbers of rules, by their names as they are written in a twin; says in words what cannot be changed.
    /// Only for a set that nobody else has yet. The hash tells of it.
    pub fn tune(&mut self, tunes: &BTreeMap<String, Tune>) -> Vec<String> {
        let Some(rules) = Arc::get_mut(&mut self.0).filter(|_| !tunes.is_empty()) else { return Vec::new() };
        let mut wrong = Vec::new();
        for (name, tune) in tunes {
            let named = rules.rules.iter_mut().filter(|rule| twin_name(&rule.name) == *name);
            let before = wrong.len();
            let mut any = false;
            for rule in named {
                any = true;
                let Action::Send(message) = &mut rule.action else {
                    wrong.push(format!("`{name}` sends nothing"));
                    continue;
                };
                let restraint = message.restraint.as_mut();
                let (throttle, report) = match restraint {
                    Some(restraint) => (restraint.throttle.as_mut(), restraint.report.as_mut()),
                    None => (None, None),
                };
                match (tune.throttle, throttle) {
                    (Some(ms), Some(place)) => *place = ms,
                    (Some(_), None) => wrong.push(format!("`{name}` has no `throttle` in its file")),
                    (None, _) => {}
                }
                match (tune.change, report.map(|report| &mut report.change)) {
                    (Some(number), Some(Change::By(place) | Change::Percent(place))) => *place = number,
                    (Some(_), _) => {
                        wrong.push(format!("`{name}` has no `report_by_exception` with a number in its file"))
                    }
                    (None, _) => {}
                }
            }
            if !any && wrong.len() == before {
                wrong.push(format!("no rule in use is called `{name}`"));
            }
        }
        let length = rules.hash.len();
        let text = format!("{} {tunes:?}", rules.hash);
        rules.hash = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        rules.hash.truncate(length);
        wrong
    }
}

/// A name as a twin takes it.
pub fn twin_name(name: &str) -> String {
    let mut written = String::with_capacity(name.len());
    push_twin_name(name, &mut written);
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::SourceFile;
    use crate::message::{Publish, Timestamp};
    use crate::rules::{Output, Verdict, load};

    const RULES: &str = "[[rule]]\nname = \"slow one\"\ntopic = \"a\"\ndevice = \"d\"\nthrottle = \"10s\"\n\
        [[rule]]\nname = \"coarse\"\ntopic = \"b\"\ndevice = \"d\"\nreport_by_exception = { field = \"x\", change = 5 }\n\
        [[rule]]\nname = \"any\"\ntopic = \"c\"\ndevice = \"d\"\nreport_by_exception = { field = \"x\" }\n\
        [[rule]]\nname = \"gone\"\ntopic = \"d\"\ndrop = true\n";

    fn set() -> RuleSet {
        load(&[SourceFile { path: "r.toml".into(), text: RULES.into() }]).rules.unwrap()
    }

    fn tune(name: &str, throttle: Option<i64>, change: Option<f64>) -> BTreeMap<String, Tune> {
        BTreeMap::from([(name.to_owned(), Tune { throttle, change })])
    }

    /// Which of some publishes, a second apart, are sent.
    fn sent(set: &RuleSet, topic: &str) -> Vec<usize> {
        let mut out = Output::default();
        let taken = |n: &usize| {
            let payload = format!("{{\"x\":{n}}}");
            let received = Timestamp(1_000 * i64::try_from(*n).unwrap());
            let payload = payload.as_bytes();
            let publish = Publish { topic, payload, client: "", user: None, qos: 0, retain: false, received };
            set.translate(&publish, &mut out) == Verdict::Translated
        };
        (0..12).filter(taken).collect()
    }

    #[test]
    fn numbers_of_the_file_become_others() {
        for (topic, tunes, before, after) in [
            ("a", tune("slow%20one", Some(4_000), None), vec![0, 10], vec![0, 4, 8]),
            ("b", tune("coarse", None, Some(8.0)), vec![0, 5, 10], vec![0, 8]),
        ] {
            let mut set = set();
            let hash = set.hash().to_owned();
            assert_eq!(sent(&set, topic), before);
            assert!(set.tune(&tunes).is_empty());
            assert_eq!(sent(&set, topic), after);
            assert!(set.hash() != hash && set.hash().len() == hash.len());
        }
    }

    #[test]
    fn what_a_file_does_not_have_cannot_be_tuned() {
        for (tunes, expect) in [
            (
                tune("slow%20one", None, Some(1.0)),
                vec!["`slow%20one` has no `report_by_exception` with a number in its file"],
            ),
            (tune("any", None, Some(1.0)), vec!["`any` has no `report_by_exception` with a number in its file"]),
            (tune("coarse", Some(1), None), vec!["`coarse` has no `throttle` in its file"]),
            (tune("gone", Some(1), None), vec!["`gone` sends nothing"]),
            (tune("slow one", Some(1), None), vec!["no rule in use is called `slow one`"]),
            (BTreeMap::new(), vec![]),
        ] {
            assert_eq!(set().tune(&tunes), expect);
        }
    }
}
