//! What an operator sees of the shelves and takes off them.

use std::io;

use super::Devices;
use super::queue::Kept;
use crate::message::HubMessage;
use crate::shelf::{Mark, Shelved};

/// Messages read at once.
const AT_ONCE: usize = 64;

/// What was taken off shelves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// Messages.
    pub messages: u64,
    /// There are more that were not looked at.
    pub more: bool,
}

impl Devices {
    /// Shows what is on the shelf of a device, or of all, the oldest of each first, until `with` says no. Blocks for as long
    /// as the disk takes.
    pub fn each_shelved(&self, device: Option<&str>, mut with: impl FnMut(&Shelved) -> bool) -> io::Result<()> {
        for id in self.on_shelves(device) {
            let mut from: Option<Mark> = None;
            loop {
                let chunk = self.0.shelves.read(&id, from, AT_ONCE)?;
                if !chunk.messages.iter().all(|placed| with(&placed.shelved)) {
                    return Ok(());
                }
                if chunk.messages.is_empty() {
                    break;
                }
                from = chunk.next;
            }
        }
        Ok(())
    }

    /// Takes messages for good off the shelf of a device, or of all, at most so many; one that is on its way to the hub
    /// stays. Looks at so many messages at most. Blocks for as long as the disk takes.
    pub fn withdraw(
        &self,
        device: Option<&str>,
        (most, look_at): (u64, usize),
        which: impl Fn(&HubMessage<'_>) -> bool,
    ) -> io::Result<Withdrawn> {
        let (mut withdrawn, mut looked_at) = (Withdrawn::default(), 0);
        for id in self.on_shelves(device) {
            let known = self.0.find(&id);
            let mut from: Option<Mark> = None;
            loop {
                if withdrawn.messages >= most || looked_at >= look_at {
                    withdrawn.more = true;
                    return Ok(withdrawn);
                }
                let left = usize::try_from(most - withdrawn.messages).unwrap_or(usize::MAX);
                let chunk = self.0.shelves.read(&id, from, AT_ONCE.min(left))?;
                if chunk.messages.is_empty() {
                    break;
                }
                looked_at += chunk.messages.len();
                for placed in &chunk.messages {
                    let meant = HubMessage::parse(&placed.shelved.record).is_ok_and(|message| which(&message));
                    // What a refused device has may be on its way over the bridge's own line.
                    let mut lines = known.iter().chain([&self.0.own]);
                    let mut stays = || lines.any(|line| line.take_back(&id, placed) == Kept::Given);
                    if meant && !stays() && self.0.shelves.settle(&id, placed.place) {
                        withdrawn.messages += 1;
                    }
                }
                from = chunk.next;
            }
        }
        self.0.wake.notify_one();
        Ok(withdrawn)
    }

    /// The devices with something on their shelf.
    fn on_shelves(&self, device: Option<&str>) -> Vec<String> {
        let mut ids: Vec<String> = match device {
            Some(id) => vec![id.to_owned()],
            None => self.shares().into_iter().map(|(id, _)| id).collect(),
        };
        ids.sort_unstable();
        ids
    }
}
