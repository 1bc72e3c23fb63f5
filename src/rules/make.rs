//! One rule's messages: decode, ask the table and `when`, run the script, shape the object, write the records.

use std::ops::Range;

use parking_lot::Mutex;

use super::clock::Doubt;
use super::decode::{self, Births, Body, Decoded, LeftOut};
use super::expr::{Expr, Scope};
use super::gzip::{self, Gzip};
use super::json::{self, Member};
use super::lookup::{Lookup, Miss};
use super::memory::{self, Marks};
use super::refusal::{BASE64, Refusal, shown};
use super::restraint::{HeldBack, Judged, Noted};
use super::rule::{Decode, Message};
use super::script::Script;
use super::shape;
use super::template::{Facts, Gap, Place};
use super::window::{self, Combine, Held, Window};
use super::{QuarantineReason, RuleIndex, place};
use crate::message::{Content, Publish, RecordWriter, TooLong};

mod body;

use body::{enrich, object, push_body, rescan};

/// What making a message needs, kept from one to the next so that nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Work {
    decoded: Decoded,
    buffers: Buffers,
}

#[derive(Debug, Default)]
struct Buffers {
    members: Vec<Member>,
    device: Vec<u8>,
    value: Vec<u8>,
    /// After `scale` and `set`.
    shaped: Shaped,
    /// After `rename` and `remove`.
    reshaped: Shaped,
    /// Before `compress`, or what a message gives to its window.
    plain: Vec<u8>,
    gzip: Gzip,
}

/// An object that a rule has changed.
#[derive(Debug, Default)]
struct Shaped {
    text: Vec<u8>,
    next: Vec<u8>,
    members: Vec<Member>,
}

impl Work {
    /// Forgets everything and keeps at most `kept` bytes of room in each buffer.
    pub(super) fn clear(&mut self, kept: usize) {
        self.decoded.clear(kept);
        let Buffers { members, device, value, shaped, reshaped, plain, gzip: _ } = &mut self.buffers;
        for buffer in [device, value, &mut shaped.text, &mut shaped.next, &mut reshaped.text, plain] {
            buffer.clear();
            buffer.shrink_to(kept);
        }
        for list in [members, &mut shaped.members, &mut reshaped.members] {
            list.clear();
            list.shrink_to(kept / size_of::<Member>());
        }
    }
}

/// What a message is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) publish: &'a Publish<'a>,
    pub(super) captures: &'a [Range<usize>],
    /// What the names of a rule with `on` stand for.
    pub(super) event: &'a [&'a str],
    pub(super) births: &'a Births,
    /// What the memory of the rule is filed under.
    pub(super) state: &'a str,
    /// What the rule has sent, where it remembers that.
    pub(super) marks: Option<&'a Mutex<Marks>>,
}

/// The records made so far.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) bytes: Vec<u8>,
    /// The rule of each record and where the record ends.
    pub(super) ends: Vec<(Option<RuleIndex>, usize)>,
    /// What is to wait in windows, and where each contribution ends.
    pub(super) held: Vec<u8>,
    pub(super) held_ends: Vec<(RuleIndex, usize)>,
    /// The rules that let the publish go by.
    pub(super) let_by: Vec<RuleIndex>,
    /// Where the time of a payload was not taken.
    pub(super) doubts: Vec<(RuleIndex, Doubt)>,
    /// The messages that were not made because they are not worth it.
    pub(super) held_back: Vec<(RuleIndex, HeldBack)>,
    /// The values that were left out of what the rules made.
    pub(super) left_out: Vec<(RuleIndex, LeftOut)>,
    /// What rules will have sent once the records are stored.
    pub(super) pending: Noted,
}

/// Whether a rule takes a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// Its `when` lets it go by.
    When,
    /// Its `lookup` lets it go by.
    Lookup,
}

/// Makes all messages of a rule, or none.
pub(super) fn make(
    message: &Message,
    rule: RuleIndex,
    source: &Source<'_>,
    work: &mut Work,
    records: &mut Records,
) -> Result<Taken, Refusal> {
    let (bytes, ends, doubts) = (records.bytes.len(), records.ends.len(), records.doubts.len());
    let (held_back, pending) = (records.held_back.len(), records.pending.len());
    let (held, held_ends) = (records.held.len(), records.held_ends.len());
    let Work { decoded, buffers } = work;
    let made = Maker { message, rule, source, buffers, records }.all(decoded);
    if made.is_err() {
        records.bytes.truncate(bytes);
        records.ends.truncate(ends);
        records.doubts.truncate(doubts);
        records.held_back.truncate(held_back);
        records.pending.truncate(pending);
        records.held.truncate(held);
        records.held_ends.truncate(held_ends);
    }
    made
}

/// Why a body that `when` or `lookup` looks into is none they can look into.
pub(super) fn unreadable(message: &Message, payload: &[u8]) -> Option<Refusal> {
    let is_asked = message.when.as_ref().is_some_and(Expr::has_field)
        || message.lookup.as_ref().is_some_and(|lookup| lookup.key.has_field());
    let as_it_is = matches!(message.decode, None | Some(Decode::Json));
    let body = (is_asked && as_it_is).then(|| decode::without_mark(payload))?;
    object(message, body, &mut Vec::new()).err()
}

/// One rule at work on one publish.
struct Maker<'m> {
    message: &'m Message,
    rule: RuleIndex,
    source: &'m Source<'m>,
    buffers: &'m mut Buffers,
    records: &'m mut Records,
}

impl Maker<'_> {
    fn all(&mut self, decoded: &mut Decoded) -> Result<Taken, Refusal> {
        let publish = self.source.publish;
        let message = self.message;
        let Some(format) = &message.decode else {
            let is_read = message.reads_fields || message.reads_early || message.script.is_some();
            let body = if is_read { decode::without_mark(publish.payload) } else { publish.payload };
            return self.one(&[], body, None);
        };
        decoded.clear(usize::MAX);
        let looked_at = self.message.reads_fields && self.message.script.is_none();
        match decode::decode(format, (publish, looked_at), self.source.births, decoded)? {
            Body::Payload(content) => self.one(&[], format.part(publish.payload), content),
            Body::Items(content) => {
                let mut taken = if decoded.items.is_empty() { Taken::Yes } else { Taken::When };
                for item in &decoded.items {
                    let names = decoded.names(item);
                    let names = names.get(..format.names().len()).unwrap_or(&[]);
                    let of_item = self.one(names, decoded.body(item), content)?;
                    if taken != Taken::Yes {
                        taken = of_item;
                    }
                }
                if taken == Taken::Yes && !decoded.left_out.is_empty() && !self.message.drops {
                    let left_out = decoded.left_out.of_payload(decoded.items.is_empty());
                    self.records.left_out.push((self.rule, left_out));
                }
                Ok(taken)
            }
        }
    }

    fn one(&mut self, names: &[&str], body: &[u8], content: Option<Content<'static>>) -> Result<Taken, Refusal> {
        let mut members = std::mem::take(&mut self.buffers.members);
        members.clear();
        let made = self.of_body(names, (body, content), &mut members);
        self.buffers.members = members;
        made
    }

    /// Makes the messages of one body. What is wrong with a body counts only once `when` has let it in.
    fn of_body(
        &mut self,
        names: &[&str],
        (body, content): (&[u8], Option<Content<'static>>),
        members: &mut Vec<Member>,
    ) -> Result<Taken, Refusal> {
        let message = self.message;
        let strict = message.reads_fields && message.script.is_none() && !message.drops;
        let found = if strict || message.reads_early { object(message, body, members) } else { Ok("") };
        let text = found.as_ref().copied().unwrap_or("");
        if text.is_empty() {
            members.clear();
        }
        let Source { publish, captures, event, .. } = *self.source;
        let mut facts =
            Facts { publish, captures, more: [event, names], row: &[], time: publish.received, text, members };
        let looked_up = match &message.lookup {
            Some(lookup) => self.look_up(lookup, &mut facts),
            None => Ok(Taken::Yes),
        };
        if let Some(when) = &message.when {
            let value = Scope::new(&facts).value(when).map_err(|problem| {
                Refusal::new(QuarantineReason::NotCalculable, format!("`when` cannot be calculated: {problem}"))
            })?;
            if !value.is_true() {
                return Ok(Taken::When);
            }
        }
        if looked_up? != Taken::Yes {
            return Ok(Taken::Lookup);
        }
        if strict {
            found?;
        }
        match &message.script {
            _ if message.drops => {}
            None => self.finish(&facts, body, content)?,
            Some(script) => self.scripted(script, &facts, body)?,
        }
        Ok(Taken::Yes)
    }

    /// Finds the row of the rule's table.
    fn look_up<'a>(&mut self, lookup: &'a Lookup, facts: &mut Facts<'a>) -> Result<Taken, Refusal> {
        let key = &mut self.buffers.value;
        key.clear();
        let rendered = lookup.key.render(facts, Place::Property, key).is_ok();
        let key = std::str::from_utf8(key).unwrap_or("");
        facts.row = match lookup.table.rows.get(key) {
            Some(row) if rendered => row,
            _ => match &lookup.miss {
                Miss::Default(row) => row,
                Miss::Skip => return Ok(Taken::Lookup),
                Miss::Quarantine => {
                    let detail = match rendered {
                        true => format!("the table `{}` has no {}", lookup.name, shown(key.as_bytes())),
                        false => format!("the payload lacks what `lookup` needs for the table `{}`", lookup.name),
                    };
                    return Err(Refusal::new(QuarantineReason::LookupMiss, detail));
                }
            },
        };
        Ok(Taken::Yes)
    }

    /// Makes a message of each of the script's results.
    fn scripted(&mut self, script: &Script, facts: &Facts<'_>, body: &[u8]) -> Result<(), Refusal> {
        let mut members = Vec::new();
        for result in script.run(body, facts)? {
            members.clear();
            let text = match self.message.reads_fields {
                true => object(self.message, &result, &mut members)?,
                false => "",
            };
            self.finish(&Facts { text, members: &members, ..*facts }, &result, Some(Content::Json))?;
        }
        Ok(())
    }

    /// Writes the record of a body.
    fn finish(&mut self, facts: &Facts<'_>, body: &[u8], content: Option<Content<'static>>) -> Result<(), Refusal> {
        let message = self.message;
        if message.scale.is_empty() && message.set.is_empty() {
            return self.record(facts, (body, body), content);
        }
        let mut shaped = std::mem::take(&mut self.buffers.shaped);
        let made = self.calculated(facts, &mut shaped).and_then(|()| {
            let text = std::str::from_utf8(&shaped.text).unwrap_or("");
            let facts = Facts { text, members: &shaped.members, ..*facts };
            self.record(&facts, (text.as_bytes(), body), content)
        });
        self.buffers.shaped = shaped;
        made
    }

    /// The object after `scale` and `set`; each entry of `set` sees those before it.
    fn calculated(&mut self, facts: &Facts<'_>, shaped: &mut Shaped) -> Result<(), Refusal> {
        let Shaped { text, next, members } = shaped;
        text.clear();
        shape::scale(&self.message.scale, facts, text)?;
        rescan(text, members);
        for set in &self.message.set {
            next.clear();
            let now = Facts { text: std::str::from_utf8(text).unwrap_or(""), members, ..*facts };
            if shape::set(set, &now, &mut self.buffers.value, next)? {
                std::mem::swap(text, next);
                rescan(text, members);
            }
        }
        Ok(())
    }

    /// Writes the record of a body, given as it is now and as it was decoded, or holds it back.
    fn record(
        &mut self,
        facts: &Facts<'_>,
        (body, decoded): (&[u8], &[u8]),
        content: Option<Content<'static>>,
    ) -> Result<(), Refusal> {
        let Self { message, rule, buffers, records, source } = self;
        let Buffers { device, value, .. } = &mut **buffers;
        if records.ends.len() + records.held_ends.len() >= decode::MAX_ITEMS {
            let detail = format!("the publish makes more than {} messages", decode::MAX_ITEMS);
            return Err(Refusal::new(QuarantineReason::TooMany, detail));
        }
        let mut facts = *facts;
        if let Some(clock) = &message.time {
            match clock.read(&facts) {
                Ok(time) => facts.time = time,
                Err(doubt) => records.doubts.push((*rule, doubt)),
            }
        }
        device.clear();
        message.device.render(&facts, Place::Device, device).map_err(|gap| no_device(gap, message, &facts))?;
        if device.is_empty() || message.device.is_nothing_but_signs(device) {
            return Err(empty_device(device));
        }
        let judged = Judged { rule: *rule, facts: &facts, device, decoded, body };
        if let Some((restraint, marks)) = message.restraint.as_ref().zip(source.marks)
            && let Some(why) = restraint.judge(&judged, marks, (&mut records.pending, value))
        {
            records.held_back.push((*rule, why));
            return Ok(());
        }
        let content = content.unwrap_or_else(|| if message.reads_fields { Content::Json } else { look(body) });
        match &message.window {
            None => self.write(&facts, body, content),
            Some(window) => {
                let thing = match window.combine {
                    Combine::Batch(_) => 0,
                    Combine::Aggregate(_) => judged.thing(window.per.as_ref(), value),
                    Combine::Pivot(_) => memory::key([device.as_slice()].iter()),
                };
                self.contribute((window, thing), &facts, (body, content))
            }
        }
    }

    /// Writes a record that goes up by itself.
    fn write(&mut self, facts: &Facts<'_>, body: &[u8], content: Content<'static>) -> Result<(), Refusal> {
        let Self { message, rule, buffers, records, .. } = self;
        let Buffers { device, value, reshaped, plain, gzip, .. } = &mut **buffers;
        plain.clear();
        let mut content = content;
        if message.gzip {
            push_body(message, facts, (body, value, reshaped), plain);
            content = gzip::said_to_be(content);
        }
        let reported = message.reported.as_ref();
        let depth = reported.map_or(Ok(0), |reported| place::open(&reported.at, facts, value, plain))?;
        let writer = begin(message, facts, (device, value), (content, &mut records.bytes));
        let written = writer.finish(|out| match message.gzip {
            true => gzip.push(plain, out),
            false => {
                out.extend_from_slice(plain);
                push_body(message, facts, (body, value, reshaped), out);
                out.resize(out.len() + depth, b'}');
            }
        });
        written.map_err(too_long)?;
        records.ends.push((Some(*rule), records.bytes.len()));
        Ok(())
    }

    /// Writes what a message gives to its window.
    fn contribute(
        &mut self,
        (window, thing): (&Window, u128),
        facts: &Facts<'_>,
        (body, content): (&[u8], Content<'static>),
    ) -> Result<(), Refusal> {
        let Self { message, rule, buffers, records, source } = self;
        let Buffers { device, value, reshaped, plain, .. } = &mut **buffers;
        plain.clear();
        match &window.combine {
            Combine::Batch(_) if content == Content::Json => push_body(message, facts, (body, value, reshaped), plain),
            Combine::Batch(_) => return Err(no_list(body)),
            Combine::Aggregate(aggregate) => aggregate.push_picked(facts, plain)?,
            Combine::Pivot(pivot) => pivot.push_named(facts, (body, content), value, plain)?,
        }
        let start = Held::begin(&mut records.held, source.publish.received, (source.state, window.made));
        let record = records.held.len();
        let writer = begin(message, facts, (device, value), (Content::Json, &mut records.held));
        let mut at = record;
        let written = writer.finish(|out| {
            at = out.len();
            if matches!(window.combine, Combine::Batch(_)) || message.add.is_empty() {
                return out.extend_from_slice(plain);
            }
            reshaped.text.clone_from(plain);
            rescan(&reshaped.text, &mut reshaped.members);
            let text = std::str::from_utf8(&reshaped.text).unwrap_or("");
            enrich(&message.add, facts, (text, &reshaped.members), value, out);
        });
        if let Err(error) = written {
            records.held.truncate(start);
            return Err(too_long(error));
        }
        let group = match window.combine {
            Combine::Batch(_) => window::group_of(records.held.get(record..).unwrap_or(&[]), at - record),
            Combine::Aggregate(_) | Combine::Pivot(_) => thing,
        };
        Held::set_group(&mut records.held, start, group);
        records.held_ends.push((*rule, records.held.len()));
        Ok(())
    }
}

/// Begins a record with the device and the properties of a rule.
fn begin<'o>(
    message: &Message,
    facts: &Facts<'_>,
    (device, value): (&[u8], &mut Vec<u8>),
    (content, out): (Content<'_>, &'o mut Vec<u8>),
) -> RecordWriter<'o> {
    let mut writer = RecordWriter::begin(out, facts.time, content, |out| out.extend_from_slice(device));
    for (name, template) in &message.props {
        value.clear();
        if template.render(facts, Place::Property, value).is_ok() {
            writer.property(name, |out| out.extend_from_slice(value));
        }
    }
    writer
}

fn too_long(_: TooLong) -> Refusal {
    Refusal::new(QuarantineReason::TooLong, "the device or a property is longer than 65535 bytes")
}

/// A batch is a list of JSON.
fn no_list(body: &[u8]) -> Refusal {
    let detail = format!("`batch` makes a JSON list, the payload is {}", shown(body));
    let advice = if std::str::from_utf8(body).is_ok() { "decode = \"text\"" } else { BASE64 };
    Refusal::new(QuarantineReason::NotJson, detail).advise(Some(advice))
}

/// What a payload is, by its looks.
pub(super) fn look(payload: &[u8]) -> Content<'static> {
    match std::str::from_utf8(payload) {
        Ok("") => Content::None,
        Ok(text) if json::scan(text, None).is_ok() => Content::Json,
        Ok(_) => Content::Text,
        Err(_) => Content::Binary,
    }
}

fn no_device(gap: Gap<'_>, message: &Message, facts: &Facts<'_>) -> Refusal {
    match gap {
        Gap::NoCell(column) => {
            let mut key = Vec::new();
            let lookup = message.lookup.as_ref();
            let column = lookup.and_then(|lookup| lookup.table.columns.get(column)).map_or("", String::as_str);
            let table = lookup.map_or("", |lookup| &lookup.name);
            let _ = lookup.map(|lookup| lookup.key.render(facts, Place::Property, &mut key));
            let row = shown(&key);
            let detail =
                format!("`device` needs the column `{column}`, in the row {row} of the table `{table}` it is empty");
            Refusal::new(QuarantineReason::MissingField, detail)
        }
        Gap::Missing(path) => {
            let later = message.reshape.old_name(path);
            let later =
                later.map_or(String::new(), |old| format!("; `rename` makes it later, here it is still `{old}`"));
            let detail = format!("`device` needs the field `{}`, the payload does not have it{later}", path.join("."));
            Refusal::new(QuarantineReason::MissingField, detail)
        }
        Gap::NotText(path) => {
            let detail = format!("the field `{}` names no device: it is an object, a list or null", path.join("."));
            Refusal::new(QuarantineReason::DeviceNotText, detail)
        }
    }
}

fn empty_device(name: &[u8]) -> Refusal {
    let detail = match name {
        [] => "the name of the device is empty".to_owned(),
        signs => format!("the name of the device is {}: there is nothing in its placeholders", shown(signs)),
    };
    Refusal::new(QuarantineReason::EmptyDevice, detail)
}
