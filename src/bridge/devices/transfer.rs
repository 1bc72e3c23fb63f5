//! The beginning of a shelf: what its device has in memory goes onto it first.
//!
//! A queue holds messages that only the spool keeps. Were what is newer put on the shelf alone, a start would find the
//! newer messages there and the older ones in the spool, and could not tell how they belong together. So the first
//! message that goes onto a shelf is preceded by copies of all that waits in memory. When they are durable the spool lets
//! go of them. Whatever ends the program then, what the spool still has of a device that has a shelf is newer than all on
//! it, or a repeat.
//!
//! Meanwhile the line goes on with them. One that was settled before its copy was durable is settled on the shelf at once;
//! the others are from then on messages of the shelf that were read already. Nothing is read from the shelf before all
//! copies are there.

use std::sync::Arc;

use super::queue::{Device, Held, Home, State};
use crate::shelf::Place;
use crate::uplink::{MessageId, Waiting};

/// Copies on their way to a shelf.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    /// How many are not there yet.
    left: usize,
    /// Of those, what was settled meanwhile.
    settled: Vec<MessageId>,
}

/// What came of messages that have come to a shelf.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// The spool is to be told of these.
    pub(super) to_leave: Vec<MessageId>,
    /// These are settled, and the spool knows.
    pub(super) settled: Vec<Place>,
}

impl Device {
    /// Messages have come to its shelf, there.
    pub(super) fn came_to_shelf(self: &Arc<Self>, messages: &[Waiting], places: &[Place]) -> Came {
        let mut came = Came::default();
        let mut state = self.state();
        state.to_shelf -= messages.len();
        for (waiting, place) in messages.iter().zip(places) {
            if state.arrived(self, waiting.id, *place) {
                came.settled.push(*place);
            } else {
                came.to_leave.push(waiting.id);
            }
        }
        came
    }
}

impl State {
    /// The first message since the shelf was read to its end goes onto it: what has to go there before.
    pub(super) fn begin_shelving(&mut self) -> Vec<Waiting> {
        if std::mem::replace(&mut self.shelving, true) {
            return Vec::new();
        }
        let copies: Vec<Waiting> = self
            .in_order()
            .filter(|held| matches!(held.home, Home::Spool))
            .map(|held| {
                held.home = Home::OnItsWay;
                held.waiting.clone()
            })
            .collect();
        if !copies.is_empty() {
            self.transfer.get_or_insert_default().left += copies.len();
        }
        copies
    }

    /// A message that is on its way to the shelf is settled.
    pub(super) fn settled_on_its_way(&mut self, id: MessageId) {
        if let Some(transfer) = &mut self.transfer {
            transfer.settled.push(id);
        }
    }

    /// A message has come to the shelf; true where it was settled meanwhile.
    fn arrived(&mut self, device: &Arc<Device>, id: MessageId, place: Place) -> bool {
        // The copies come first: what comes when they are all there is newer.
        let Some(transfer) = &mut self.transfer else { return false };
        transfer.left = transfer.left.saturating_sub(1);
        let is_settled = transfer.settled.contains(&id);
        if transfer.left == 0 {
            self.transfer = None;
        }
        if is_settled {
            return true;
        }
        let is = |held: &&mut Held| held.waiting.id == id && matches!(held.home, Home::OnItsWay);
        // Where the queue was given up meanwhile, the copy is what there is of it.
        let is_in_memory = match self.in_order().find(is) {
            Some(held) => {
                held.home = Home::Shelf(Arc::clone(device), place);
                true
            }
            None => false,
        };
        if is_in_memory {
            self.read_to = Some(place.behind());
        }
        false
    }
}
