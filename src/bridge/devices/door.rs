//! The door: publishes for a device whose shelf is full are not taken, so that nothing acknowledged has to be given up.
//!
//! It is shut for a device when its shelf has reached its bound, and for all that have a shelf when nearly all the room of
//! the shelves is taken; it opens again at seven eighths. Who publishes for such a device is not acknowledged and not read,
//! as with a full spool; everybody else goes on. What was acknowledged before the door was shut still finds its place:
//! a shelf grows beyond its bound by what was in the spool then. The room of all shelves is a bound that holds: beyond it
//! what is in the spool stays there. When nearly all of it is taken, the rest is for devices that can send.
//!
//! Urgent messages pass: they are few, and overtake the shelf.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Shared;
use super::queue::Device;
use super::shelving::PIECE;
use crate::message::HubMessage;

/// Of the room, what must be taken at most for a door that was shut to open, and of all room, at least for all to be shut.
const NEARLY: (u64, u64) = (7, 8);

/// Which devices nothing is taken for. Asking takes no lock.
#[derive(Debug, Default)]
pub struct Door {
    is_shut: AtomicBool,
    shut: ArcSwap<HashSet<String>>,
    changed: Notify,
}

impl Door {
    /// True where it is shut for the device of one of these messages.
    pub fn refuses<'r>(&self, mut records: impl Iterator<Item = &'r [u8]>) -> bool {
        if !self.is_shut.load(Ordering::Relaxed) {
            return false;
        }
        let shut = self.shut.load();
        records.any(|record| HubMessage::parse(record).is_ok_and(|message| shut.contains(message.device)))
    }

    /// Returns when it may be open for all of these messages.
    pub async fn opens<'r, R: Iterator<Item = &'r [u8]>>(&self, records: impl Fn() -> R) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.refuses(records()) {
                return;
            }
            changed.await;
        }
    }

    /// For how many devices it is shut.
    pub(super) fn count(&self) -> usize {
        self.shut.load().len()
    }

    pub(super) fn is_shut_for(&self, device: &str) -> bool {
        self.is_shut.load(Ordering::Relaxed) && self.shut.load().contains(device)
    }

    fn shut_for(&self, devices: HashSet<String>) {
        self.is_shut.store(!devices.is_empty(), Ordering::Relaxed);
        self.shut.store(Arc::new(devices));
        self.changed.notify_waiters();
    }
}

impl Shared {
    /// Something was put on a shelf: shuts the door where it is full now.
    pub(super) fn look_at_the_shelf_of(&self, device: &Device) {
        let Some((one, _)) = self.options.plan.refuse_above else { return };
        let is_full = self.shelves.share(&device.id).is_some_and(|share| share.bytes >= one);
        if is_full && !self.door.is_shut_for(&device.id) {
            self.mind_the_door();
        }
    }

    /// Shuts and opens the door as the shelves are now.
    pub(super) fn mind_the_door(&self) {
        let Some(bounds) = self.options.plan.refuse_above else { return };
        let seen = (self.shelves.changes(), self.fleet.shelf_changes());
        if self.door_minded.lock().replace(seen) == Some(seen) {
            return;
        }
        let own = &*self.options.plan.own.connection.device;
        let before = self.door.shut.load_full();
        let shares = self.shelves.shares();
        let mut shut = which_to_shut(&shares, bounds, |id| before.contains(id));
        if is_tight(&shares, bounds.1) {
            // Also for those whose messages have found no room on a shelf yet.
            shut.extend(self.numbered(self.fleet.on_shelf()).iter().map(|device| device.id.to_string()));
        }
        if shut.contains("") {
            shut.insert(own.to_owned());
        }
        if *before == shut {
            return;
        }
        if let Some(device) = shut.iter().find(|id| !before.contains(*id)) {
            self.metrics.log_pace("shelf full", |left_out| {
                tracing::warn!(
                    device,
                    devices = shut.len(),
                    left_out,
                    "a shelf is full: what is published for its device is not acknowledged until there is room"
                );
            });
        }
        self.door.shut_for(shut);
    }
}

/// For whom the door is to be shut, with the bounds of one shelf and of all. `shut` says for whom it is.
fn which_to_shut(
    shares: &[(String, crate::shelf::Share)],
    (one, all): (u64, u64),
    shut: impl Fn(&str) -> bool,
) -> HashSet<String> {
    let is_tight = is_tight(shares, all);
    let full = shares.iter().filter(|(id, share)| {
        share.messages > 0 && (is_tight || share.bytes >= if shut(id) { nearly(one) } else { one })
    });
    full.map(|(id, _)| id.clone()).collect()
}

/// Nearly all the room of the shelves is taken.
fn is_tight(shares: &[(String, crate::shelf::Share)], all: u64) -> bool {
    shares.iter().map(|(_, share)| share.bytes).sum::<u64>() >= tight(all)
}

/// At so much of all room it is kept for those who can send, and the door is shut for the others. A piece of what is
/// written at once still fits below, so nobody waits for room in vain while the door is open.
pub(super) fn tight(all: u64) -> u64 {
    nearly(all).min(all.checked_sub(PIECE as u64).unwrap_or(all))
}

/// At so much of a bound it is full for some.
fn nearly(bytes: u64) -> u64 {
    bytes / NEARLY.1 * NEARLY.0
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::broker::{Ingest as _, Offer};
    use crate::message::{Content, Publish, RecordWriter, Timestamp};
    use crate::shelf::Share;

    /// A failing test ends.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn for_whom_it_is_shut() {
        let share = |bytes| Share { messages: 1, bytes, oldest: 0 };
        for (name, a, b, was_shut, expect) in [
            ("room for both", 799, 100, false, ""),
            ("one is full", 800, 100, false, "a"),
            ("not yet room enough", 700, 100, true, "a"),
            ("room again", 699, 100, true, ""),
            ("all together nearly full", 700, 700, false, "ab"),
        ] {
            let shares = [("a".to_owned(), share(a)), ("b".to_owned(), share(b))];
            let mut shut: Vec<_> = which_to_shut(&shares, (800, 1_600), |_| was_shut).into_iter().collect();
            shut.sort();
            assert_eq!(shut.concat(), expect, "{name}");
        }
    }

    #[tokio::test]
    async fn who_waits_is_told_when_it_opens() {
        let record = |device: &str| {
            let mut record = Vec::new();
            let writer = RecordWriter::begin(&mut record, Timestamp(0), Content::Json, |out| {
                out.extend_from_slice(device.as_bytes());
            });
            writer.finish(|_| ()).unwrap();
            record
        };
        let (door, a, b) = (Arc::new(Door::default()), record("a"), record("b"));
        assert!(!door.refuses([&*a].into_iter()));
        door.shut_for(HashSet::from(["a".to_owned()]));
        assert!(door.refuses([&*b, &*a].into_iter()) && !door.refuses([&*b].into_iter()));
        door.opens(|| [&*b].into_iter()).await;
        let waits = tokio::spawn({
            let (door, a) = (Arc::clone(&door), a.clone());
            async move { door.opens(|| [&*a].into_iter()).await }
        });
        tokio::task::yield_now().await;
        door.shut_for(HashSet::from(["a".to_owned(), "b".to_owned()]));
        tokio::task::yield_now().await;
        assert!(!waits.is_finished(), "it is still shut for this one");
        door.shut_for(HashSet::from(["b".to_owned()]));
        waits.await.unwrap();
    }

    /// What goes into a window comes onto the shelf later than the rest, and is turned away like it. Urgent messages pass,
    /// and nobody waits at the door who was not turned away there.
    #[tokio::test]
    async fn who_is_turned_away_waits_and_nobody_else() {
        const RULES: &str = "[[rule]]\ntopic = \"window\"\ndevice = \"a\"\nbatch = { max_wait = \"1d\" }\n\
            [[rule]]\ntopic = \"plain\"\ndevice = \"a\"\n\
            [[rule]]\ntopic = \"alarm\"\ndevice = \"a\"\npriority = \"high\"\n\
            [[rule]]\ntopic = \"other\"\ndevice = \"b\"\nbatch = { max_wait = \"1d\" }\n";
        let dir = tempfile::tempdir().unwrap();
        let (bridge, _writer, _spools) = crate::bridge::tests::bridge(dir.path(), Some("own"), RULES);
        let door = Arc::new(Door::default());
        let bridge = bridge.behind(Arc::clone(&door));
        for (topic, turned_away) in [("window", true), ("plain", true), ("alarm", false), ("other", false)] {
            let received = Timestamp(0);
            let publish = Publish { topic, payload: b"1", client: "c", user: None, qos: 1, retain: false, received };
            let mut out = bridge.scratch();
            door.shut_for(HashSet::from(["a".to_owned()]));
            assert_eq!(matches!(bridge.offer(&mut out, &publish), Offer::Full), turned_away, "{topic}");
            let mut room = Box::pin(bridge.room(&out));
            if !turned_away {
                tokio::time::timeout(PATIENCE, room).await.unwrap();
                continue;
            }
            assert!(room.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "{topic}");
            door.shut_for(HashSet::new());
            tokio::time::timeout(PATIENCE, room).await.unwrap();
            assert!(matches!(bridge.offer(&mut out, &publish), Offer::Taken(_)), "{topic}");
        }
    }
}
