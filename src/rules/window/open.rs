//! An open window: what contributions become, one after the other.

use std::sync::Arc;

use super::{
    Closed, Closing, Combine, Held, LARGEST_BODY, MAX_SEQUENCES, OfRule, PER_WINDOW, Sequences, Window, aggregate,
    pivot,
};
use crate::message::{Content, HubMessage, RecordWriter, Timestamp};
use crate::rules::gzip::{self, Gzip};

/// The message in the making.
#[derive(Debug)]
enum Fold {
    Batch(Vec<u8>),
    Aggregate(aggregate::Cells),
    Pivot(pivot::Object),
}

/// An open window.
#[derive(Debug)]
pub(in crate::rules) struct Open {
    pub(super) id: u64,
    pub(super) settings: Arc<Window>,
    rule: Arc<str>,
    pub(super) state: Box<str>,
    pub(super) due: i64,
    pub(super) longest: i64,
    /// The newest record without its body, and its time.
    head: Vec<u8>,
    created: Timestamp,
    fold: Fold,
    sequences: Sequences,
    messages: u64,
    pub(super) bytes: usize,
    /// What is billed as one message.
    block: usize,
}

impl Fold {
    fn of(combine: &Combine) -> Self {
        match combine {
            Combine::Batch(_) => Self::Batch(Vec::new()),
            Combine::Aggregate(aggregate) => Self::Aggregate(aggregate.cells()),
            Combine::Pivot(_) => Self::Pivot(pivot::Object::default()),
        }
    }
}

impl Open {
    pub(super) fn begin(id: u64, held: &Held<'_>, rule: &OfRule<'_>, block: usize) -> Self {
        let (due, longest) = rule.window.combine.due(held.received);
        Self {
            id,
            settings: Arc::clone(rule.window),
            rule: rule.name.into(),
            state: held.state.into(),
            due,
            longest,
            head: Vec::new(),
            created: Timestamp(i64::MIN),
            fold: Fold::of(&rule.window.combine),
            sequences: Sequences::default(),
            messages: 0,
            bytes: PER_WINDOW,
            block,
        }
    }

    /// The contribution is to begin a window of its own.
    pub(super) fn has_no_room(&self, message: &HubMessage<'_>) -> bool {
        match (&self.settings.combine, &self.fold) {
            (Combine::Batch(batch), Fold::Batch(list)) => {
                list.len() + message.body.len() + 2 > batch.most(message, self.block)
            }
            (_, Fold::Pivot(object)) => object.len() + message.body.len() > LARGEST_BODY,
            _ => false,
        }
    }

    /// Takes a contribution; says why the window closes, if it does.
    pub(super) fn add(&mut self, held: &Held<'_>, message: &HubMessage<'_>, sequence: u64) -> Option<Closing> {
        self.sequences.push(sequence);
        self.messages += 1;
        if message.created >= self.created {
            self.created = message.created;
            self.head.clear();
            self.head.extend_from_slice(held.record.get(..held.record.len() - message.body.len()).unwrap_or(&[]));
        }
        let body = std::str::from_utf8(message.body).unwrap_or("");
        let (ends, bytes) = match (&self.settings.combine, &mut self.fold) {
            (Combine::Batch(batch), Fold::Batch(list)) => {
                list.push(if list.is_empty() { b'[' } else { b',' });
                list.extend_from_slice(message.body);
                let ends = match () {
                    () if self.messages >= batch.max_messages => Some(Closing::Messages),
                    // Not even an empty object would fit.
                    () if list.len() + 4 > batch.most(message, self.block) => Some(Closing::Bytes),
                    () => None,
                };
                (ends, list.len())
            }
            (Combine::Aggregate(aggregate), Fold::Aggregate(cells)) => (None, cells.add(aggregate, body)),
            (Combine::Pivot(pivot), Fold::Pivot(object)) => {
                let name = object.put(body);
                let ends = match () {
                    () if pivot.is_trigger(name.as_deref()) => Some(Closing::Trigger),
                    () if pivot.is_complete(object) => Some(Closing::Complete),
                    () => None,
                };
                (ends, object.len())
            }
            _ => (None, 0),
        };
        self.bytes = PER_WINDOW + self.head.len() + bytes + self.sequences.len();
        ends.or_else(|| (self.sequences.len() > MAX_SEQUENCES).then_some(Closing::Early))
    }

    pub(super) fn close(self, why: Closing, gzip: &mut Gzip) -> Closed {
        let mut body = match (self.fold, &self.settings.combine) {
            (Fold::Batch(list), _) => list,
            (Fold::Aggregate(cells), Combine::Aggregate(aggregate)) => cells.finish(aggregate),
            (Fold::Pivot(object), _) => object.finish(),
            (Fold::Aggregate(_), _) => Vec::new(),
        };
        if matches!(self.settings.combine, Combine::Batch(_)) {
            // One that is as large as a message may be has no room for brackets.
            if self.messages == 1 && body.len() > LARGEST_BODY {
                body.remove(0);
            } else {
                body.push(b']');
            }
        }
        let mut record = Vec::with_capacity(self.head.len() + body.len());
        if let Ok(head) = HubMessage::parse(&self.head) {
            let content = if self.settings.gzip { gzip::said_to_be(Content::Json) } else { Content::Json };
            let device = head.device.as_bytes();
            let mut writer =
                RecordWriter::begin(&mut record, self.created, content, |out| out.extend_from_slice(device));
            for (name, value) in head.properties() {
                writer.property(name, |out| out.extend_from_slice(value.as_bytes()));
            }
            // The texts are those of a record, so they fit one.
            let _ = writer.finish(|out| match self.settings.gzip {
                true => gzip.push(&body, out),
                false => out.extend_from_slice(&body),
            });
        }
        Closed {
            rule: self.rule,
            urgent: self.settings.urgent,
            record,
            sequences: self.sequences,
            messages: self.messages,
            why,
            state: self.state,
        }
    }
}
