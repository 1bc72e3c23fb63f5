//! Who makes a place for another, where more devices have something to send than there may be connections.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::agenda::Number;
use super::fleet::Fleet;
use super::queue::Device;

impl Shared {
    /// Where devices wait for a connection: asks those idle longest to leave, and then those that had their turn.
    pub(super) fn make_places(&self) {
        let missing = {
            let slots = self.slots.lock();
            slots.line.len().saturating_sub(slots.leaving)
        };
        if missing > 0 {
            let device = |number| self.numbered([number]).pop();
            let asked = self.fleet.ask_to_leave(missing, Instant::now(), device);
            self.slots.lock().leaving += asked;
        }
    }
}

impl Fleet {
    /// Asks so many lines to end, where so many may; says how many were.
    pub(super) fn ask_to_leave(
        &self,
        most: usize,
        now: Instant,
        device: impl Fn(Number) -> Option<Arc<Device>>,
    ) -> usize {
        loop {
            let over = self.agenda().take_turn_over(now);
            let Some(number) = over else { break };
            device(number).into_iter().for_each(|device| device.end_turn(now));
        }
        let mut asked = 0;
        while asked < most {
            let first = self.agenda().take_first_to_leave();
            let Some((since, number)) = first else { break };
            asked += device(number).map_or(0, |device| usize::from(device.makes_place(since, now)));
        }
        asked
    }
}
