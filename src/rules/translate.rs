//! The hot path: one publish through its rules into records.

use super::clock::Doubt;
use super::decode::Births;
use super::index::{Cache, Route};
use super::make::{self, Records, Source, Taken, Work, look};
use super::rule::Action;
use super::{RuleIndex, RuleSet, Rules, Verdict};
use crate::message::{Event, Presence, Publish, RecordWriter};

/// Room an [`Output`] keeps in each of its buffers from one translation to the next, in bytes.
const KEPT: usize = 1 << 20;

/// What the rules remember from one publish to the next; a clone is another handle to the same memory. It is bounded,
/// belongs to the caller, and so survives connections and new rules.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    births: Births,
}

impl Memory {
    pub(super) fn births(&self) -> &Births {
        &self.births
    }

    /// To be called once `rules` are in use and no publish is on its way through those before them any more. Births belong
    /// to no rule and stay.
    pub fn taken_up(&self, _: &RuleSet) {}
}

/// Where a translation puts its records, and what it needs to work without allocating. One per connection.
#[derive(Debug, Default)]
pub struct Output {
    records: Records,
    detail: String,
    advice: Option<&'static str>,
    cache: Cache,
    work: Work,
    memory: Memory,
}

impl Output {
    /// An empty output with a memory of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty output that shares a memory with others.
    pub fn sharing(memory: &Memory) -> Self {
        Self { memory: memory.clone(), ..Self::default() }
    }

    /// The records of the last translation with the rule that made each. What [`forward`] made has no rule
    /// and is given with `RuleIndex::MAX`.
    pub fn records(&self) -> impl Iterator<Item = (RuleIndex, &[u8])> + Clone {
        let Records { bytes, ends, .. } = &self.records;
        let starts = std::iter::once(0).chain(ends.iter().map(|(_, end)| *end));
        starts
            .zip(ends)
            .map(|(start, (rule, end))| (rule.unwrap_or(RuleIndex::MAX), bytes.get(start..*end).unwrap_or(&[])))
    }

    /// In words why the last publish was quarantined; empty otherwise.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What the rule could say to take such a payload, if there is something.
    pub fn advice(&self) -> Option<&'static str> {
        self.advice
    }

    /// The rules that did not take the time of the payload, once for each message, and why.
    pub fn doubts(&self) -> impl Iterator<Item = (RuleIndex, Doubt)> {
        self.records.doubts.iter().copied()
    }

    /// The rules whose `when` or `lookup` let the last publish go by.
    pub fn let_by(&self) -> &[RuleIndex] {
        &self.records.let_by
    }

    /// Forgets the last translation. What one huge payload needed is given back.
    fn clear(&mut self) {
        self.records.bytes.clear();
        self.records.bytes.shrink_to(KEPT);
        self.records.ends.clear();
        self.records.doubts.clear();
        self.records.let_by.clear();
        self.work.clear(KEPT);
        self.detail.clear();
        self.advice = None;
    }
}

pub(super) fn translate(rules: &Rules, publish: &Publish<'_>, out: &mut Output) -> Verdict {
    out.clear();
    let Output { records, detail, advice, cache, work, memory } = out;
    let route = cache.route(rules.number, &rules.index, &rules.rules, publish.topic);
    let told = Told { detail, advice };
    follow(rules, route, (publish, &[], &memory.births), (records, work), told)
}

pub(super) fn presence(rules: &Rules, presence: &Presence<'_>, out: &mut Output) -> Verdict {
    out.clear();
    let Output { records, detail, advice, cache, work, memory } = out;
    let facts = [presence.address, presence.reason];
    let (index, event) = match presence.event {
        Event::Connect => (&rules.on_connect, &facts[..1]),
        Event::Disconnect => (&rules.on_disconnect, &facts[..]),
    };
    let route = cache.find(index, &rules.rules, presence.client);
    let told = Told { detail, advice };
    follow(rules, route, (&presence.as_publish(), event, &memory.births), (records, work), told)
}

/// Why a publish was quarantined.
struct Told<'o> {
    detail: &'o mut String,
    advice: &'o mut Option<&'static str>,
}

fn follow(
    rules: &Rules,
    route: &Route,
    (publish, event, births): (&Publish<'_>, &[&str], &Births),
    (records, work): (&mut Records, &mut Work),
    told: Told<'_>,
) -> Verdict {
    let mut nothing_made = None;
    for (index, captures) in route.steps() {
        let Some(rule) = rules.rules.get(index) else { continue };
        match &rule.action {
            Action::Drop if records.ends.is_empty() => return Verdict::Dropped { rule: index },
            Action::Drop => {}
            Action::Send(message) => {
                let before = records.ends.len();
                let source = Source { publish, captures, event, births };
                match make::make(message, index, &source, work, records) {
                    Ok(Taken::No) => {
                        records.let_by.push(index);
                        continue;
                    }
                    Ok(Taken::Yes) if records.ends.len() == before => {
                        nothing_made.get_or_insert(index);
                    }
                    Ok(Taken::Yes) => {}
                    Err(refusal) => {
                        *told.detail = refusal.detail;
                        *told.advice = refusal.advice;
                        return Verdict::Quarantined { rule: index, reason: refusal.reason };
                    }
                }
                if !rule.goes_on || message.drops {
                    break;
                }
            }
        }
    }
    match nothing_made.or(records.let_by.first().copied()) {
        _ if !records.ends.is_empty() => Verdict::Translated,
        Some(rule) => Verdict::Dropped { rule },
        None => Verdict::Unmatched,
    }
}

/// Makes the message for a publish that no rule matched and that is to go up all the same: from the bridge's own
/// identity, the payload as it is, the topic in the property `topic`. Nothing is made of a topic that is too long.
pub fn forward(publish: &Publish<'_>, out: &mut Output) {
    out.clear();
    let Records { bytes, ends, .. } = &mut out.records;
    let mut writer = RecordWriter::begin(bytes, publish.received, look(publish.payload), |_| ());
    writer.property("topic", |value| value.extend_from_slice(publish.topic.as_bytes()));
    if writer.finish(|body| body.extend_from_slice(publish.payload)).is_ok() {
        ends.push((None, bytes.len()));
    }
}
