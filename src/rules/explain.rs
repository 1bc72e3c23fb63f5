//! Why a publish takes the way it takes: for people, and for the messages of failing tests.

use super::decode::{self, Births, Body, Decoded};
use super::json;
use super::lookup::Miss;
use super::number::is_number;
use super::pattern::{Level, Pattern};
use super::rule::{Action, Rule};
use super::{Output, RuleIndex, RuleSet, Verdict};
use crate::diag::nearest as nearest_word;
use crate::message::{Event, Presence, Publish};

/// Decoded objects that are shown, and the bytes of each.
const OBJECTS: usize = 3;
const LONGEST_OBJECT: usize = 400;

/// What happens to a publish, and why.
#[derive(Debug)]
pub struct Explanation {
    /// The rules that were tried, in order; those behind the rule that took it were not.
    pub tried: Vec<Tried>,
    /// What became of it, from the same call as `run` makes.
    pub verdict: Verdict,
    /// The records, and why it was quarantined.
    pub output: Output,
    /// Where no rule matched: the one that came nearest, by its place in `tried`.
    pub nearest: Option<usize>,
}

/// A rule that was tried.
#[derive(Debug)]
pub struct Tried {
    /// Its index.
    pub rule: RuleIndex,
    /// Its name.
    pub name: String,
    /// The file and line it stands in.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The topic or regex as the user wrote it.
    pub pattern: String,
    /// How it went.
    pub step: Step,
    /// What its `decode` made of the payload, where that is not the payload itself.
    pub decoded: Vec<String>,
    /// How much the topic looks like what the rule takes; only to be compared.
    pub likeness: i32,
}

/// How trying a rule went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It takes the topic; names and what they stand for.
    Took {
        /// Name and text of each.
        captures: Vec<(String, String)>,
    },
    /// It takes the topic, and its `when` or `lookup` lets the publish go by.
    LetBy {
        /// Name and text of each.
        captures: Vec<(String, String)>,
        /// Which of the two, and what it asks.
        why: String,
    },
    /// A level differs.
    Level {
        /// The number of the level, from 1.
        number: usize,
        /// What the rule has there; nothing where the rule has no more levels.
        want: Option<String>,
        /// What the topic has there; nothing where it has no more levels.
        got: Option<String>,
    },
    /// `+` and `#` in the first level do not take topics that begin with `$` ([MQTT-4.7.2-1]).
    Dollar,
    /// The regex does not match.
    Regex,
    /// The client id is not of the rule's form.
    Client,
}

impl Step {
    /// The step in words.
    pub fn in_words(&self) -> String {
        match self {
            Self::Took { .. } => "takes it".to_owned(),
            Self::LetBy { why, .. } => format!("takes the topic, and lets this publish go by: {why}"),
            Self::Level { number, want: Some(want), got: Some(got) } => {
                format!("level {number} is `{got}`, the rule wants `{want}`")
            }
            Self::Level { number, want: Some(want), got: None } => {
                format!("the topic ends before level {number}, the rule wants `{want}` there")
            }
            Self::Level { number, want: None, got } => {
                format!(
                    "the topic goes on at level {number} with `{}`, the rule ends there",
                    got.as_deref().unwrap_or("")
                )
            }
            Self::Dollar => "a wildcard in the first level does not take a topic that begins with `$`".to_owned(),
            Self::Regex => "the regex does not match".to_owned(),
            Self::Client => "the client id does not match".to_owned(),
        }
    }
}

pub(super) fn explain(rules: &RuleSet, publish: &Publish<'_>, mut output: Output) -> Explanation {
    let verdict = rules.translate(publish, &mut output);
    let mut explanation = retrace(rules, None, publish.topic, (verdict, output));
    for tried in &mut explanation.tried {
        if let (Step::Took { .. } | Step::LetBy { .. }, Some(rule)) = (&tried.step, rules.0.rules.get(tried.rule)) {
            tried.decoded = decoded(&explanation.output.memory().births, rule, publish);
        }
    }
    explanation
}

pub(super) fn presence(rules: &RuleSet, presence: &Presence<'_>) -> Explanation {
    let mut output = Output::new();
    let verdict = rules.presence(presence, &mut output);
    let mut explanation = retrace(rules, Some(presence.event), presence.client, (verdict, output));
    for tried in &mut explanation.tried {
        if let Step::Took { captures } | Step::LetBy { captures, .. } = &mut tried.step {
            captures.push(("address".to_owned(), presence.address.to_owned()));
            if presence.event == Event::Disconnect {
                captures.push(("reason".to_owned(), presence.reason.to_owned()));
            }
        } else if tried.step == Step::Regex {
            tried.step = Step::Client;
        }
    }
    explanation
}

/// What a rule's `decode` makes of a payload: the first objects, and how many more there are.
fn decoded(births: &Births, rule: &Rule, publish: &Publish<'_>) -> Vec<String> {
    let Some(format) = rule.action.message().and_then(|message| message.decode.as_ref()) else { return Vec::new() };
    let mut decoded = Decoded::default();
    if !matches!(decode::decode(format, (publish, false), births, &mut decoded), Ok(Body::Items(_))) {
        return Vec::new();
    }
    let text = |item| {
        let text = String::from_utf8_lossy(decoded.body(item)).into_owned();
        match text.get(..text.floor_char_boundary(LONGEST_OBJECT)) {
            Some(head) if head.len() < text.len() => format!("{head} ..."),
            _ => text,
        }
    };
    let mut objects: Vec<String> = decoded.items.iter().take(OBJECTS).map(text).collect();
    if let Some(more) = decoded.items.len().checked_sub(OBJECTS).filter(|more| *more > 0) {
        objects.push(format!("and {more} more"));
    }
    objects
}

/// Why a rule lets a publish of its topics go by, as far as the rule alone tells.
pub(super) fn why_let_by(rule: &Rule) -> String {
    let message = rule.action.message();
    let lookup = message.and_then(|message| message.lookup.as_ref()).filter(|lookup| lookup.miss == Miss::Skip);
    let when = rule.when.as_ref().map(|when| format!("its `when` is not true: {when}"));
    let row = lookup.map(|lookup| format!("its table `{}` has no row for it", lookup.name));
    match (row, when) {
        (Some(row), Some(when)) => format!("{row}, or {when}"),
        (Some(why), None) | (None, Some(why)) => why,
        (None, None) => "it makes nothing of it".to_owned(),
    }
}

/// Tries the rules for an event, or for publishes, in order, as far as the verdict came.
fn retrace(rules: &RuleSet, on: Option<Event>, text: &str, (verdict, output): (Verdict, Output)) -> Explanation {
    let mut tried = Vec::new();
    for (index, rule) in rules.0.rules.iter().enumerate().filter(|(_, rule)| rule.on == on) {
        let step = match attempt(rule, text) {
            Step::Took { captures } if output.let_by().contains(&index) => {
                Step::LetBy { captures, why: why_let_by(rule) }
            }
            step => step,
        };
        let ends = matches!(step, Step::Took { .. }) && ends_here(rule, index, verdict);
        tried.push(Tried {
            rule: index,
            name: rule.name.clone(),
            path: rule.path.clone(),
            line: rule.line,
            pattern: rule.written.clone(),
            step,
            decoded: Vec::new(),
            likeness: likeness(rule.pattern.levels(), text),
        });
        if ends {
            break;
        }
    }
    let nearest = match verdict {
        Verdict::Unmatched => nearest(&tried),
        _ => None,
    };
    Explanation { tried, verdict, output, nearest }
}

fn ends_here(rule: &Rule, index: RuleIndex, verdict: Verdict) -> bool {
    let failed = matches!(verdict, Verdict::Quarantined { rule, .. } if rule == index);
    let drops = match &rule.action {
        Action::Drop => true,
        Action::Send(message) => message.drops,
    };
    !rule.goes_on || failed || drops
}

pub(super) fn attempt(rule: &Rule, topic: &str) -> Step {
    let mut places = Vec::new();
    if rule.pattern.captures(topic, &mut places) {
        let text = |place: std::ops::Range<usize>| topic.get(place).unwrap_or("").to_owned();
        return Step::Took { captures: rule.names.iter().cloned().zip(places.into_iter().map(text)).collect() };
    }
    if matches!(rule.pattern, Pattern::Regex { .. }) {
        return Step::Regex;
    }
    let levels = rule.pattern.levels();
    if topic.starts_with('$') && !matches!(levels.first(), Some(Level::Literal(_))) {
        return Step::Dollar;
    }
    let mut words = topic.split('/');
    for (index, level) in levels.iter().enumerate() {
        let word = words.next();
        let want = match (level, word) {
            (Level::Literal(want), Some(word)) if want == word => continue,
            (Level::Named(_) | Level::Plus, Some(_)) => continue,
            (Level::Hash, _) => break,
            (Level::Literal(want), _) => want.clone(),
            (Level::Named(name), _) => format!("{{{name}}}"),
            (Level::Plus, _) => "+".to_owned(),
        };
        return Step::Level { number: index + 1, want: Some(want), got: word.map(str::to_owned) };
    }
    Step::Level { number: levels.len() + 1, want: None, got: words.next().map(str::to_owned) }
}

/// The rule whose levels look most like the topic, if one looks like it at all.
fn nearest(tried: &[Tried]) -> Option<usize> {
    let best = tried.iter().map(|tried| tried.likeness).max().filter(|likeness| *likeness > 0)?;
    tried.iter().position(|tried| tried.likeness == best)
}

/// How much a topic looks like a pattern: a literal counts most, a mistyped one almost as much, a wildcard little;
/// a level too many or too few counts against.
pub(super) fn likeness(levels: &[Level], topic: &str) -> i32 {
    let mut words = topic.split('/');
    let mut likeness = 0;
    let mut literals = 0;
    for level in levels {
        likeness += match (level, words.next()) {
            (Level::Hash, _) => break,
            (_, None) => -2,
            (Level::Named(_) | Level::Plus, Some(_)) => 1,
            (Level::Literal(want), Some(word)) => {
                let points = if want == word { 3 } else { nearest_word(word, [want.as_str()]).map_or(0, |_| 2) };
                literals += points;
                points
            }
        };
    }
    if !matches!(levels.last(), Some(Level::Hash)) {
        likeness -= words.map(|_| 2).sum::<i32>();
    }
    if literals > 0 { likeness } else { 0 }
}

/// A rule that would take a publish, with a test, ready to be pasted and changed. Without a payload the test has one
/// of its own.
pub fn new_rule(topic: &str, payload: &[u8]) -> String {
    let levels: Vec<&str> = topic.split('/').collect();
    let awkward = topic.contains(['{', '}']);
    // The level before the last is most often the machine; an empty one names no device, and a wildcard does not
    // take a first level that begins with `$`.
    let (pattern, device, machine) = match levels.as_slice() {
        [before @ .., machine, signal] if !awkward && !machine.is_empty() && !machine.starts_with('$') => {
            let mut pattern: Vec<&str> = before.to_vec();
            pattern.extend(["{machine}", signal]);
            (pattern.join("/"), "{machine}", *machine)
        }
        _ => (topic.to_owned(), "machine-1", "machine-1"),
    };
    written_out((topic, topic), (&pattern, device, machine), &[payload])
}

/// The same for all topics that differ from this one in a level, counted from 0. The first of `payloads` is that of this topic,
/// the others are those of its siblings: the rule must not quarantine one of them.
pub fn new_rule_for_siblings(topic: &str, payloads: &[&[u8]], level: usize) -> String {
    let mut levels: Vec<&str> = topic.split('/').collect();
    let word = levels.get(level).copied().unwrap_or_default();
    let before = level.checked_sub(1).and_then(|before| levels.get(before)).copied().unwrap_or_default();
    // In the last level stands what is measured, mostly, and before it where.
    let (name, device, machine) = match (level + 1 == levels.len(), before) {
        (false, _) => ("{machine}", "{machine}", word),
        (true, "") => ("{machine}", "{machine}", word),
        (true, before) => ("{signal}", before, before),
    };
    if topic.contains(['{', '}']) || machine.is_empty() || word.is_empty() || word.starts_with('$') {
        return new_rule(topic, payloads.first().copied().unwrap_or_default());
    }
    if let Some(open) = levels.get_mut(level) {
        *open = "+";
    }
    let siblings = levels.join("/");
    if let Some(open) = levels.get_mut(level) {
        *open = name;
    }
    written_out((&siblings, topic), (&levels.join("/"), device, machine), payloads)
}

/// A rule with a name and a test by a topic; the test wants `machine` for `device`.
fn written_out(
    (name, topic): (&str, &str),
    (pattern, device, machine): (&str, &str, &str),
    payloads: &[&[u8]],
) -> String {
    let awkward = topic.contains(['{', '}']);
    let (key, pattern) = match awkward {
        true => ("regex ", format!("^{}$", regex::escape(topic))),
        false => ("topic ", pattern.to_owned()),
    };
    let decode = common_decode(payloads);
    let (_, sample) = sample(payloads.first().copied().unwrap_or_default());
    // Somebody does publish so.
    let allow = if !awkward && topic.split('/').any(str::is_empty) { "allow  = [\"empty-level\"]\n" } else { "" };
    // Without it nothing in the message would tell the topics of one device apart.
    let props = if pattern.ends_with("/{signal}") { "props  = { signal = \"{signal}\" }\n" } else { "" };
    format!(
        "[[rule]]\nname   = {}\n{key} = {}\n{allow}{decode}device = {}\n{props}\n[[test]]\ntopic       = {}\n{sample}\nwant.device = {}\n",
        quoted(name),
        quoted(&pattern),
        quoted(device),
        quoted(topic),
        quoted(machine),
    )
}

/// The `decode` that all payloads need, as a line; none, with a remark, where they differ: then they go up as they are.
fn common_decode(payloads: &[&[u8]]) -> &'static str {
    let mut needed = payloads.iter().filter(|payload| !payload.is_empty()).map(|payload| sample(payload).0);
    let Some(first) = needed.next() else { return "" };
    match needed.all(|other| other == first) {
        true => first,
        false => "# no decode: what these topics carry is not all of one kind\n",
    }
}

/// The `decode` that a payload needs, as a line, and the line of the test that has the payload.
fn sample(payload: &[u8]) -> (&'static str, String) {
    /// A longer payload is no line to paste.
    const LONGEST: usize = 400;
    let own = || "payload     = '{\"value\": 1}'".to_owned();
    let (decode, line) = match std::str::from_utf8(payload) {
        Ok("") => ("", own()),
        Ok(text) => {
            let decode = match json::scan(text, None) {
                _ if is_number(text.trim()) => "decode = \"number\"\n",
                _ if is_number(&text.trim().replacen(',', ".", 1)) => {
                    "decode = { format = \"number\", decimal = \",\" }\n"
                }
                Ok(_) => "",
                Err(_) => "decode = \"text\"\n",
            };
            (decode, format!("payload     = {}", quoted(text)))
        }
        Err(_) => {
            let hex: String = payload.iter().take(LONGEST / 4).map(|byte| format!("{byte:02x}")).collect();
            ("decode = { format = \"raw\", as = \"base64\" }\n", format!("payload_hex = \"{hex}\""))
        }
    };
    (decode, if line.len() > LONGEST { own() } else { line })
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
