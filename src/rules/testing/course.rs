//! Plays what a test sends, one publish after the other, and keeps what became of each.

use super::{How, On, Sent, Test};
use crate::message::{Presence, excerpt};
use crate::rules::{Output, RuleSet, Verdict};

/// At most so many publishes are listed where a test fails.
const LISTED: usize = 20;

/// What became of all that a test sends.
pub(super) struct Course<'t> {
    /// The messages, and how they go up.
    pub(super) records: Vec<(How, Vec<u8>)>,
    /// Of the last publish; that messages are made, where any are.
    pub(super) verdict: Verdict,
    /// The last one that was sent: what is quarantined ends the test.
    pub(super) last: Option<&'t Sent>,
    /// What became of the last one, where nothing was made of it.
    pub(super) nothing: String,
    /// Times that were not believed, each told once.
    pub(super) doubts: Vec<String>,
    /// Where there are several publishes: what became of each.
    pub(super) steps: Vec<String>,
}

impl<'t> Course<'t> {
    /// Plays a test; `out` is left as the last publish left it where that was quarantined.
    pub(super) fn play(rules: &RuleSet, test: &'t Test, out: &mut Output) -> Self {
        let mut course = Self {
            records: Vec::new(),
            verdict: Verdict::Unmatched,
            last: None,
            nothing: String::new(),
            doubts: Vec::new(),
            steps: Vec::new(),
        };
        for sent in &test.sent {
            rules.due(sent.publish().received, out);
            course.keep_closed(rules, &at(sent), out);
            let before = course.records.len();
            course.verdict = match &test.on {
                None => rules.translate(&sent.publish(), out),
                Some(On { event, address, reason }) => {
                    let at = sent.publish().received;
                    rules.presence(&Presence { event: *event, client: &sent.client, address, reason, at }, out)
                }
            };
            course.keep(rules, out);
            course.last = Some(sent);
            course.nothing = super::nothing(rules, course.verdict, test.on.is_some(), out);
            course.tell_doubts(rules, out);
            let outcome = course.outcome(rules, out, course.records.len() - before);
            course.steps.push(format!("{}  {} -> {outcome}", at(sent), what(test, sent)));
            if matches!(course.verdict, Verdict::Quarantined { .. }) {
                break;
            }
        }
        if !matches!(course.verdict, Verdict::Quarantined { .. }) {
            rules.finish(out);
            course.keep_closed(rules, "end", out);
            // Of several the last may be let go by: what counts is what was made.
            if !course.records.is_empty() {
                course.verdict = Verdict::Translated;
            }
        }
        course.shorten(test.sent.len());
        course
    }

    fn keep(&mut self, rules: &RuleSet, out: &Output) {
        let how = |rule| How { urgent: rules.is_urgent(rule), reported: rules.reported(rule).is_some() };
        self.records.extend(out.records().map(|(rule, record)| (how(rule), record.to_vec())));
    }

    /// Keeps the messages of windows that have closed.
    fn keep_closed(&mut self, rules: &RuleSet, when: &str, out: &Output) {
        let before = self.records.len();
        self.keep(rules, out);
        match self.records.len() - before {
            0 => {}
            1 => self.steps.push(format!("{when}  a window closes -> sent")),
            made => self.steps.push(format!("{when}  windows close -> {made} messages sent")),
        }
    }

    fn tell_doubts(&mut self, rules: &RuleSet, out: &Output) {
        for (rule, doubt) in out.doubts() {
            let text = format!("rule `{}` does not take the time: {doubt}", rules.name(rule));
            if !self.doubts.contains(&text) && self.doubts.len() < LISTED {
                self.doubts.push(text);
            }
        }
    }

    /// What became of the last publish, which made so many messages at once.
    fn outcome(&self, rules: &RuleSet, out: &Output, made: usize) -> String {
        let mut parts = Vec::new();
        match (made, self.verdict) {
            (_, Verdict::Quarantined { reason, .. }) => {
                parts.push(format!("quarantined as {reason}: {}", out.detail()))
            }
            (0, Verdict::Unmatched) => parts.push("no rule takes it".to_owned()),
            (0, _) => {}
            (1, _) => parts.push("sent".to_owned()),
            (made, _) => parts.push(format!("{made} messages sent")),
        }
        if out.held().next().is_some() {
            parts.push("waits in a window".to_owned());
        }
        parts.extend(out.held_back().iter().map(|(_, why)| format!("held back: {why}")));
        parts.extend(out.left_out().iter().map(|(_, left_out)| left_out.to_string()));
        let let_by = |rule: &usize| format!("rule `{}` lets it go by", rules.name(*rule));
        parts.extend(out.let_by().iter().map(let_by));
        match (parts.is_empty(), self.verdict) {
            (true, Verdict::Dropped { rule }) => format!("rule `{}` drops it", rules.name(rule)),
            _ => parts.join(", "),
        }
    }

    /// One publish needs no list, and of very many the first ones and the last do.
    fn shorten(&mut self, sent: usize) {
        if sent < 2 {
            self.steps.clear();
        }
        if let Some(more @ 1..) = self.steps.len().checked_sub(LISTED) {
            self.steps.drain(LISTED / 2..LISTED / 2 + more);
            self.steps.insert(LISTED / 2, format!("and {more} more"));
        }
    }
}

/// When a publish comes after the begin of its test.
fn at(sent: &Sent) -> String {
    match sent.at {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// What a publish is called in the list: its payload, and its topic where that is not always the same.
fn what(test: &Test, sent: &Sent) -> String {
    let payload = String::from_utf8_lossy(&sent.payload);
    let same = test.sent.iter().all(|other| other.topic == sent.topic);
    match (&test.on, same) {
        (Some(_), _) => sent.client.clone(),
        (None, true) => excerpt(&payload).to_owned(),
        (None, false) => format!("{} {}", sent.topic, excerpt(&payload)),
    }
}
