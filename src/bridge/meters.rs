//! What each rule makes, and what the hub will bill for it.
//!
//! A message is billed when it is stored, by its size as the hub counts it. What the hub bills beside that is left out:
//! messages that are sent again after a lost connection.

use ::metrics::Counter;

use super::Own;
use super::own::LONGEST_ID;
use crate::hub::{d2c, limits};
use crate::message::HubMessage;
use crate::metrics::{billable_by_rule, combined_by_rule, held_back_by_rule, left_out_by_rule, translated_by_rule};
use crate::rules::{HeldBack, LeftOut, RuleIndex, RuleSet};
use crate::spool::Ticket;

/// What the hub counts of a message beside its record, at most.
const SYSTEM_BYTES: usize = 128;

/// What stands before the sequence in the id of a message: 16 digits of the spool, and a dash.
const SPOOL_DIGITS: usize = 17;

/// The counters of one rule.
#[derive(Clone)]
pub(super) struct Meter {
    made: Counter,
    billed: Counter,
    held_back: [Counter; 3],
    combined: Counter,
    left_out: [Counter; 2],
    block: Option<usize>,
}

/// The counters of all rules of a set, and of what no rule matched.
pub(super) struct Meters {
    rules: Vec<Meter>,
    forwarded: Meter,
}

impl Meter {
    /// That of a rule which holds messages back, or combines them, or neither.
    pub(super) fn new(name: &str, (restrains, combines): (bool, bool), block: Option<usize>) -> Self {
        let held_back = ["throttled", "unchanged", "duplicate"].map(|reason| match restrains {
            true => held_back_by_rule(name, reason),
            false => Counter::noop(),
        });
        let billed = block.map_or_else(Counter::noop, |_| billable_by_rule(name));
        let combined = if combines { combined_by_rule(name) } else { Counter::noop() };
        let left_out = [Counter::noop(), Counter::noop()];
        Self { made: translated_by_rule(name), billed, held_back, combined, left_out, block }
    }

    /// The same for a rule that leaves values out.
    fn grading(self, name: &str) -> Self {
        Self { left_out: LeftOut::REASONS.map(|reason| left_out_by_rule(name, reason)), ..self }
    }

    /// A message is stored; its sequence, or one as long, is known by its ticket.
    pub(super) fn made(&self, own: &Own, record: &[u8], ticket: Ticket) {
        self.made.increment(1);
        if let Some(block) = self.block {
            self.billed.increment(units(own, record, (block, ticket)));
        }
    }

    /// A message waits in a window.
    pub(super) fn combined(&self) {
        self.combined.increment(1);
    }
}

impl Meters {
    /// Rules that are not to be counted by themselves share their counters.
    pub(super) fn new(rules: &RuleSet, block: Option<usize>, mut is_counted: impl FnMut(&str) -> bool) -> Self {
        let of = |(index, name): (RuleIndex, &str)| {
            let name = if is_counted(name) { name } else { "(others)" };
            let meter = Meter::new(name, (rules.restrains(index), rules.combines(index)), block);
            if rules.grades(index) { meter.grading(name) } else { meter }
        };
        Self {
            rules: rules.names().enumerate().map(of).collect(),
            forwarded: Meter::new("(unmatched)", (false, false), block),
        }
    }

    /// That of a rule, or of what goes up without one.
    pub(super) fn of(&self, rule: RuleIndex) -> &Meter {
        self.rules.get(rule).unwrap_or(&self.forwarded)
    }

    /// A message was not made.
    pub(super) fn held_back(&self, rule: RuleIndex, why: &HeldBack) {
        let at = match why {
            HeldBack::Throttled { .. } => 0,
            HeldBack::Unchanged { .. } => 1,
            HeldBack::Duplicate { .. } => 2,
        };
        if let Some(counter) = self.of(rule).held_back.get(at) {
            counter.increment(1);
        }
    }

    /// Values are in no message.
    pub(super) fn left_out(&self, rule: RuleIndex, left_out: &LeftOut) {
        for (counter, count) in self.of(rule).left_out.iter().zip(left_out.counts()) {
            counter.increment(count);
        }
    }
}

/// The blocks a message is billed for. The hub counts the bytes of its id, too, which ends with the digits of the sequence.
fn units(own: &Own, record: &[u8], (block, Ticket(sequence)): (usize, Ticket)) -> u64 {
    // No value is shorter in the record, so this decides nearly all.
    if record.len() + SYSTEM_BYTES <= block {
        return 1;
    }
    let Ok(message) = HubMessage::parse(record) else { return 1 };
    let sender = d2c::Sender { identity: own.identity(), gateway: true, replayed: false };
    let digits = sequence.checked_ilog10().unwrap_or(0) as usize + 1;
    let id = LONGEST_ID.get(..SPOOL_DIGITS + digits).unwrap_or(LONGEST_ID);
    limits::billable_units(d2c::size(&sender, &message, id), block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Content, RecordWriter, Timestamp};

    #[test]
    fn a_message_is_billed_by_the_block() {
        let own = Own { hub: "h".into(), device: Some("own".into()), module: None, mark_late: false, block: None };
        // Id 17 and the digits of the sequence, type 16, encoding 5, time 24, "device" and its name 6 + 5.
        for (body, block, sequence, expect) in [
            (0, 4096, u64::MAX, 1),
            (4096 - 93, 4096, u64::MAX, 1),
            (4096 - 92, 4096, u64::MAX, 2),
            (4096 - 92, 4096, 999_999, 1),
            (4096 - 79, 4096, 999_999, 1),
            (4096 - 78, 4096, 999_999, 2),
            (4096 - 79, 4096, 1_000_000, 2),
            (4096 - 74, 4096, 1, 1),
            (4096 - 73, 4096, 0, 2),
            (8192, 4096, 7, 3),
            (512 - 93, 512, u64::MAX, 1),
            (512 - 92, 512, u64::MAX, 2),
        ] {
            let mut record = Vec::new();
            let writer = RecordWriter::begin(&mut record, Timestamp(0), Content::Json, |out| out.extend(b"press"));
            writer.finish(|out| out.resize(out.len() + body, b'1')).unwrap();
            let units = units(&own, &record, (block, Ticket(sequence)));
            assert_eq!(units, expect, "{body} bytes in blocks of {block}, sequence {sequence}");
        }
    }
}
