//! The hot path: one publish through its rules into records.

use super::clock::Doubt;
use super::decode::LeftOut;
use super::index::{Cache, Route};
use super::make::{self, Records, Source, Taken, Work, look};
use super::memory::{Ledgers, Memory};
use super::restraint::HeldBack;
use super::rule::Action;
use super::window::{Again, Held, OfRule};
use super::{RuleIndex, Rules, Verdict};
use crate::message::{Event, HubMessage, NotARecord, Presence, Publish, RecordWriter};

/// Room an [`Output`] keeps in each of its buffers from one translation to the next, in bytes.
const KEPT: usize = 1 << 20;

/// Where a translation puts its records, and what it needs to work without allocating. One per connection.
#[derive(Debug, Default)]
pub struct Output {
    records: Records,
    detail: String,
    advice: Option<&'static str>,
    cleared: bool,
    cache: Cache,
    work: Work,
    memory: Memory,
    ledgers: Ledgers,
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

    /// True where a rule found no payload to read because the publish only takes a retained message away.
    pub fn clears_retained(&self) -> bool {
        self.cleared
    }

    /// The rules that did not take the time of the payload, once for each message, and why.
    pub fn doubts(&self) -> impl Iterator<Item = (RuleIndex, Doubt)> {
        self.records.doubts.iter().copied()
    }

    /// The rules whose `when` or `lookup` let the last publish go by.
    pub fn let_by(&self) -> &[RuleIndex] {
        &self.records.let_by
    }

    /// The messages that `throttle`, `report_by_exception` and `dedupe` held back, with the rule of each.
    pub fn held_back(&self) -> &[(RuleIndex, HeldBack)] {
        &self.records.held_back
    }

    /// The values that were left out of the messages, or of what would have been one, with the rule of each.
    pub fn left_out(&self) -> &[(RuleIndex, LeftOut)] {
        &self.records.left_out
    }

    /// What a rule that made nothing left out, where there was nothing else.
    pub fn nothing_left(&self, rule: RuleIndex) -> Option<&LeftOut> {
        self.records.left_out.iter().find(|(leaves, left_out)| *leaves == rule && left_out.is_all()).map(|(_, all)| all)
    }

    /// What the last translation gave to windows, with the rule of each contribution: bytes to be kept until the
    /// window has become a message, and for [`hold`](super::RuleSet::hold).
    pub fn held(&self) -> impl Iterator<Item = (RuleIndex, &[u8])> + Clone {
        let Records { held, held_ends, .. } = &self.records;
        let starts = std::iter::once(0).chain(held_ends.iter().map(|(_, end)| *end));
        starts.zip(held_ends).map(|(start, (rule, end))| (*rule, held.get(start..*end).unwrap_or(&[])))
    }

    /// The memory that the rules have here.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Forgets the last translation. What one huge payload needed is given back.
    pub fn clear(&mut self) {
        self.records.bytes.clear();
        self.records.bytes.shrink_to(KEPT);
        self.records.ends.clear();
        self.records.held.clear();
        self.records.held.shrink_to(KEPT);
        self.records.held_ends.clear();
        self.records.doubts.clear();
        self.records.let_by.clear();
        self.records.held_back.clear();
        self.records.left_out.clear();
        self.records.pending.clear();
        self.work.clear(KEPT);
        self.detail.clear();
        self.advice = None;
        self.cleared = false;
    }
}

pub(super) fn translate(rules: &Rules, publish: &Publish<'_>, out: &mut Output) -> Verdict {
    out.clear();
    let route = out.cache.route(rules.number, &rules.index, &rules.rules, publish.topic);
    let (records, work) = (&mut out.records, &mut out.work);
    let told = Told { detail: &mut out.detail, advice: &mut out.advice, cleared: &mut out.cleared };
    let known = Known { memory: &out.memory, ledgers: &mut out.ledgers };
    follow(rules, route, (publish, &[], known), (records, work), told)
}

pub(super) fn presence(rules: &Rules, presence: &Presence<'_>, out: &mut Output) -> Verdict {
    out.clear();
    let facts = [presence.address, presence.reason];
    let (index, event) = match presence.event {
        Event::Connect => (&rules.on_connect, &facts[..1]),
        Event::Disconnect => (&rules.on_disconnect, &facts[..]),
    };
    let route = out.cache.find(index, &rules.rules, presence.client);
    let (records, work) = (&mut out.records, &mut out.work);
    let told = Told { detail: &mut out.detail, advice: &mut out.advice, cleared: &mut out.cleared };
    let known = Known { memory: &out.memory, ledgers: &mut out.ledgers };
    follow(rules, route, (&presence.as_publish(), event, known), (records, work), told)
}

/// Writes down what the rules will remember of the last translation.
pub(super) fn settle(rules: &Rules, out: &mut Output) {
    if out.records.pending.is_empty() {
        return;
    }
    let ledgers = out.ledgers.of(rules.number, &rules.rules, &out.memory);
    for note in out.records.pending.iter() {
        if let Some(Some(marks)) = ledgers.get(note.rule) {
            note.settle(marks);
        }
    }
    out.records.pending.clear();
}

/// Puts a contribution into its window.
pub(super) fn hold(
    rules: &Rules,
    held: &[u8],
    (sequence, again): (u64, Option<Again>),
    memory: &Memory,
) -> Result<(), NotARecord> {
    let held = Held::parse(held)?;
    HubMessage::parse(held.record())?;
    let rule = rules.windows.get(held.state).and_then(|rule| rules.rules.get(*rule));
    let window = rule.and_then(|rule| Some(OfRule { name: &rule.name, window: rule.window()? }));
    match again {
        None => memory.windows().add(held, window, sequence),
        Some(again) => memory.windows().add_again(held, window, (sequence, again)),
    }
    Ok(())
}

/// Writes the records of all closed windows.
pub(super) fn fetch(rules: &Rules, out: &mut Output) {
    while let Some(closed) = out.memory.fetch_closed() {
        let rule = rules.windows.get(&closed.state).copied();
        out.records.bytes.extend_from_slice(&closed.record);
        out.records.ends.push((rule, out.records.bytes.len()));
    }
}

/// What the rules remember.
struct Known<'o> {
    memory: &'o Memory,
    ledgers: &'o mut Ledgers,
}

/// Why a publish was quarantined.
struct Told<'o> {
    detail: &'o mut String,
    advice: &'o mut Option<&'static str>,
    cleared: &'o mut bool,
}

fn follow(
    rules: &Rules,
    route: &Route,
    (publish, event, known): (&Publish<'_>, &[&str], Known<'_>),
    (records, work): (&mut Records, &mut Work),
    told: Told<'_>,
) -> Verdict {
    let ledgers = known.ledgers.of(rules.number, &rules.rules, known.memory);
    let mut nothing_made = None;
    for (index, captures) in route.steps() {
        let Some(rule) = rules.rules.get(index) else { continue };
        match &rule.action {
            Action::Drop if records.ends.is_empty() && records.held_ends.is_empty() => {
                return Verdict::Dropped { rule: index };
            }
            Action::Drop => {}
            Action::Send(message) => {
                let before = records.ends.len() + records.held_ends.len();
                let marks = ledgers.get(index).and_then(|marks| marks.as_deref());
                let source =
                    Source { publish, captures, event, births: &known.memory.births, state: &rule.state, marks };
                match make::make(message, index, &source, work, records) {
                    Ok(Taken::When | Taken::Lookup) => {
                        records.let_by.push(index);
                        continue;
                    }
                    Ok(Taken::Yes) if records.ends.len() + records.held_ends.len() == before => {
                        nothing_made.get_or_insert(index);
                    }
                    Ok(Taken::Yes) => {}
                    // It takes the retained message of its topic away and says nothing else [MQTT-3.3.1-10].
                    Err(_) if publish.retain && publish.payload.is_empty() => {
                        *told.cleared = true;
                        nothing_made.get_or_insert(index);
                    }
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
        _ if !(records.ends.is_empty() && records.held_ends.is_empty()) => Verdict::Translated,
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
