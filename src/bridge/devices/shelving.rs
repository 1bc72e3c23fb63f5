//! What goes onto shelves, in groups; and shelves that are emptied another way than over their device's line.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::queue::{Device, Held, Phase, shelved};
use super::{Shared, WhenRefused};
use crate::bridge::Stores;
use crate::message::Timestamp;
use crate::metrics::translated_by_rule;
use crate::shelf::{Placed, ShelfError, Shelved, Shelves};
use crate::spool::AppendError;
use crate::uplink::{Isolation, Waiting};

/// Messages that may wait for the disk; then nothing more is read.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 8 << 20;

/// Messages of one device, and what became of them: `None` is for lack of room.
pub(super) type Written = Vec<(Arc<Device>, Vec<Waiting>, Result<(), Option<io::Error>>)>;

/// Messages on their way to shelves. One group is written at a time, the next one gathers meanwhile.
#[derive(Default)]
pub(super) struct Shelving {
    waiting: Vec<(Arc<Device>, Waiting)>,
    bytes: usize,
    writing: Option<JoinHandle<Written>>,
    /// The last attempt failed: the next tick tries again.
    failed: bool,
}

impl Shelving {
    /// A message is to go onto a shelf, and with it everything of this device that comes later.
    pub(super) fn add(&mut self, device: &Arc<Device>, waiting: Waiting) {
        {
            let mut state = device.state();
            state.shelving = true;
            state.to_shelf += 1;
        }
        self.bytes += waiting.record.len();
        self.waiting.push((Arc::clone(device), waiting));
    }

    /// Messages that could not be written, before all that came since.
    pub(super) fn again(&mut self, device: &Arc<Device>, messages: Vec<Waiting>) {
        self.bytes += messages.iter().map(|waiting| waiting.record.len()).sum::<usize>();
        let messages = messages.into_iter().map(|waiting| (Arc::clone(device), waiting));
        self.waiting.splice(0..0, messages);
        self.failed = true;
    }

    pub(super) fn retry(&mut self) {
        self.failed = false;
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MOST || self.bytes >= MOST_BYTES
    }

    /// Begins to write what has gathered.
    pub(super) fn begin(&mut self, shared: &Shared) {
        if self.waiting.is_empty() || self.writing.is_some() || self.failed {
            return;
        }
        self.bytes = 0;
        let group = std::mem::take(&mut self.waiting);
        let shelves = Arc::clone(&shared.shelves);
        self.writing = Some(tokio::task::spawn_blocking(move || write(&shelves, group)));
    }

    /// Returns when a group was written.
    pub(super) async fn written(&mut self) -> Written {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let written = writing.await;
        self.writing = None;
        written.unwrap_or_default()
    }

    /// The group that is being written, if any.
    pub(super) async fn last(&mut self) -> Option<Written> {
        match self.writing {
            Some(_) => Some(self.written().await),
            None => None,
        }
    }
}

fn write(shelves: &Shelves, group: Vec<(Arc<Device>, Waiting)>) -> Written {
    let mut of: HashMap<Arc<str>, usize> = HashMap::new();
    let mut written: Written = Vec::new();
    for (device, waiting) in group {
        let at = *of.entry(Arc::clone(&device.id)).or_insert(written.len());
        match written.get_mut(at) {
            Some((_, messages, _)) => messages.push(waiting),
            None => written.push((device, vec![waiting], Ok(()))),
        }
    }
    for (device, messages, result) in &mut written {
        let messages: Vec<Shelved> = messages.iter().map(shelved).collect();
        *result = append(shelves, device, &messages).map_err(|error| match error {
            ShelfError::Full => None,
            ShelfError::Disk(error) => Some(error),
        });
    }
    written
}

/// Appends; a device that sends nothing now gives up its oldest messages for that, one that does waits.
fn append(shelves: &Shelves, device: &Device, messages: &[Shelved]) -> Result<(), ShelfError> {
    let now = Timestamp::now().0;
    match shelves.append(&device.id, messages, now) {
        Err(ShelfError::Full) if device.state().phase.is_parked() => {
            let needed = messages.iter().map(|message| message.record.len() as u64 + 64).sum();
            shelves.make_room(&device.id, needed).map_err(ShelfError::Disk)?;
            shelves.append(&device.id, messages, now)
        }
        other => other,
    }
}

impl Shared {
    /// Empties the shelf of a device that is refused or denied, to where its messages go then.
    pub(super) fn sweep(self: &Arc<Self>, device: &Arc<Device>) {
        if std::mem::replace(&mut device.state().sweeping, true) {
            return;
        }
        let (shared, device) = (Arc::clone(self), Arc::clone(device));
        self.lines.spawn(async move {
            tokio::select! {
                () = shared.sweep_all(&device) => {}
                () = shared.stop.cancelled() => {}
            }
            device.state().sweeping = false;
            shared.wake.notify_one();
        });
    }

    async fn sweep_all(self: &Arc<Self>, device: &Arc<Device>) {
        const AT_ONCE: usize = 64;
        loop {
            let (shelves, id, from) = (Arc::clone(&self.shelves), Arc::clone(&device.id), device.read_to());
            let read = tokio::task::spawn_blocking(move || shelves.read(&id, from, AT_ONCE)).await;
            let chunk = match read {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(error)) => return self.disk_trouble("read", &error).await,
                Err(_) => return,
            };
            let nothing = chunk.messages.is_empty();
            for placed in chunk.messages {
                let behind = placed.place.behind();
                if !device.state().phase.is_parked() {
                    return; // An operator lets it in: the rest goes over its own line.
                }
                self.send_another_way(device, placed).await;
                device.state().read_to = Some(behind);
            }
            let all = device.read_up_to(&mut device.state(), chunk.next, &self.shelves);
            if all || nothing {
                return;
            }
        }
    }

    async fn send_another_way(self: &Arc<Self>, device: &Arc<Device>, placed: Placed) {
        let place = placed.place;
        let (phase, trouble) = {
            let state = device.state();
            (state.phase, state.trouble.clone())
        };
        let held = Held::from_shelf(device, placed);
        if phase != Phase::Denied && self.options.plan.when_refused == WhenRefused::Gateway {
            let mut held = held;
            while let Err((back, _)) = self.own.offer(held, Instant::now()) {
                held = back;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return self.want(&self.own);
        }
        let isolation = match phase {
            Phase::Denied => {
                Isolation { reason: "device_denied", detail: "an operator has denied this device".to_owned() }
            }
            _ => Isolation { reason: "device_refused", detail: trouble.unwrap_or_default() },
        };
        self.quarantine(&held.waiting, &isolation).await;
        if self.shelves.settle(&device.id, place) {
            self.metrics.isolated(isolation.reason);
        }
    }

    /// Writes down how far shelves are settled, and now and then gives up what is too old.
    pub(super) fn look_after_shelves(self: &Arc<Self>, thoroughly: bool) {
        let max_age = self.options.plan.shelf_max_age.filter(|_| thoroughly);
        let parked: Vec<_> = match max_age {
            Some(_) => self.all().into_iter().filter(|device| device.state().phase.is_parked()).collect(),
            None => Vec::new(),
        };
        let shelves = Arc::clone(&self.shelves);
        tokio::task::spawn_blocking(move || {
            shelves.persist();
            let age = max_age.map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
            for device in parked {
                if let Err(error) = shelves.expire(&device.id, Timestamp::now().0.saturating_sub(age)) {
                    tracing::warn!(device = &*device.id, "a shelf cannot be read: {error}");
                }
            }
        });
    }
}

/// Puts everything that is on shelves back into the spool, where devices have no lines of their own any more. It gets
/// new names by that. Ends with the shelves, or when the spool does.
pub async fn give_back(shelves: Arc<Shelves>, stores: Stores) {
    let waiting = shelves.stats().waiting;
    tracing::info!(waiting, "what waits on the shelves of devices goes back into the spool");
    for device in shelves.devices() {
        while let Some(messages) = read(&shelves, &device).await {
            let mut last = 0;
            for placed in &messages {
                last = match store(&stores, &placed.shelved.record).await {
                    Some(sequence) => sequence,
                    None => return,
                };
            }
            if stores.normal.durable().wait_for(|durable| durable.seq >= last).await.is_err() {
                return;
            }
            for placed in messages {
                if shelves.settle(&device, placed.place) {
                    translated_by_rule("(from a shelf)").increment(1);
                    ::metrics::counter!("brownbridge_messages_shed_total", "reason" => "back_in_spool").increment(1);
                }
            }
        }
    }
}

/// The first messages of a shelf; `None` where there are none, or none that can be read.
async fn read(shelves: &Arc<Shelves>, device: &str) -> Option<Vec<Placed>> {
    const AT_ONCE: usize = 256;
    let (shelves, id) = (Arc::clone(shelves), device.to_owned());
    let read = tokio::task::spawn_blocking(move || shelves.read(&id, None, AT_ONCE)).await.ok()?;
    let chunk = read.inspect_err(|error| tracing::error!(device, "a shelf cannot be read: {error}")).ok()?;
    Some(chunk.messages).filter(|messages| !messages.is_empty())
}

/// Stores a message when there is room; `None` where the spool has ended.
async fn store(stores: &Stores, record: &[u8]) -> Option<u64> {
    loop {
        match stores.normal.try_append(std::iter::once(record)) {
            Ok(ticket) => return Some(ticket.0),
            Err(AppendError::Full) => stores.normal.room().await,
            Err(AppendError::Closed | AppendError::TooLarge) => return None,
        }
    }
}
