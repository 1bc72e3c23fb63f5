//! What goes onto shelves, in groups; and shelves that are emptied another way than over their device's line.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::door::tight;
use super::queue::{Device, Held, Phase, shelved};
use super::{Shared, WhenRefused};
use crate::bridge::Stores;
use crate::message::Timestamp;
use crate::metrics::translated_by_rule;
use crate::shelf::{Place, Placed, ShelfError, Shelved, Shelves};
use crate::spool::AppendError;
use crate::uplink::{Isolation, Lane, Waiting};

/// Messages that may wait for the disk; then only urgent ones are read, and with twice as many nothing.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 8 << 20;
/// Bytes written onto one shelf at once, except a longer message: the smallest shelf that can be configured has room.
pub(super) const PIECE: usize = 256 << 10;
/// More than a message takes on a shelf besides itself.
const OVERHEAD: usize = 64;

/// Messages of one device, and where they are now; `None` is for lack of room.
pub(super) type Written = Vec<(Arc<Device>, Vec<Waiting>, Result<Vec<Place>, Option<io::Error>>)>;

/// Messages on their way to shelves. One group is written at a time, the next one gathers meanwhile.
#[derive(Default)]
pub(super) struct Shelving {
    waiting: Vec<(Arc<Device>, Waiting)>,
    /// What could not be written, by device, and what came behind it: the next tick tries again.
    blocked: HashMap<Arc<str>, (Arc<Device>, Vec<Waiting>)>,
    /// Messages that wait, the blocked ones among them, and their bytes.
    messages: usize,
    bytes: usize,
    writing: Option<JoinHandle<Written>>,
}

impl Shelving {
    /// A message is to go onto a shelf, and with it everything of this device that comes later; what waits in memory goes
    /// before it.
    pub(super) fn add(&mut self, device: &Arc<Device>, waiting: Waiting) {
        let mut messages = {
            let mut state = device.state();
            let copies = state.begin_shelving();
            state.to_shelf += copies.len() + 1;
            copies
        };
        messages.push(waiting);
        self.messages += messages.len();
        self.bytes += messages.iter().map(|waiting| waiting.record.len()).sum::<usize>();
        self.waiting.extend(messages.into_iter().map(|waiting| (Arc::clone(device), waiting)));
    }

    /// Messages that could not be written. Those of other devices go on.
    pub(super) fn again(&mut self, device: &Arc<Device>, messages: Vec<Waiting>) {
        self.messages += messages.len();
        self.bytes += messages.iter().map(|waiting| waiting.record.len()).sum::<usize>();
        self.block(device, messages);
    }

    fn block(&mut self, device: &Arc<Device>, messages: impl IntoIterator<Item = Waiting>) {
        let blocked = self.blocked.entry(Arc::clone(&device.id));
        blocked.or_insert_with(|| (Arc::clone(device), Vec::new())).1.extend(messages);
    }

    pub(super) fn retry(&mut self) {
        if self.blocked.is_empty() {
            return;
        }
        let newer = std::mem::take(&mut self.waiting);
        for (_, (device, messages)) in std::mem::take(&mut self.blocked) {
            self.waiting.extend(messages.into_iter().map(|waiting| (Arc::clone(&device), waiting)));
        }
        self.waiting.extend(newer);
    }

    /// Nothing more of this lane is to be read.
    pub(super) fn is_full_for(&self, lane: Lane) -> bool {
        let times = if lane == Lane::Urgent { 2 } else { 1 };
        self.messages >= MOST * times || self.bytes >= MOST_BYTES * times
    }

    /// What is to be written now. What is behind a blocked message waits with that.
    pub(super) fn group(&mut self) -> Vec<(Arc<Device>, Waiting)> {
        let mut group = Vec::new();
        for (device, waiting) in std::mem::take(&mut self.waiting) {
            if self.blocked.contains_key(&device.id) {
                self.block(&device, [waiting]);
            } else {
                self.messages -= 1;
                self.bytes -= waiting.record.len();
                group.push((device, waiting));
            }
        }
        group
    }

    /// Begins to write what has gathered.
    pub(super) fn begin(&mut self, shared: &Arc<Shared>) {
        if self.waiting.is_empty() || self.writing.is_some() {
            return;
        }
        let group = self.group();
        if !group.is_empty() {
            let shared = Arc::clone(shared);
            self.writing = Some(tokio::task::spawn_blocking(move || shared.write(group)));
        }
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

/// The messages of a group by device, in pieces for which any shelf has room.
pub(super) fn pieces(group: Vec<(Arc<Device>, Waiting)>) -> Vec<(Arc<Device>, Vec<Waiting>)> {
    let mut of: HashMap<Arc<str>, (usize, usize)> = HashMap::new();
    let mut pieces: Vec<(Arc<Device>, Vec<Waiting>)> = Vec::new();
    for (device, waiting) in group {
        let length = waiting.record.len() + OVERHEAD;
        let (at, bytes) = of.entry(Arc::clone(&device.id)).or_insert((usize::MAX, 0));
        *bytes += length;
        match pieces.get_mut(*at).filter(|_| *bytes <= PIECE) {
            Some((_, messages)) => messages.push(waiting),
            None => {
                (*at, *bytes) = (pieces.len(), length);
                pieces.push((device, vec![waiting]));
            }
        }
    }
    pieces
}

impl Shared {
    fn write(&self, group: Vec<(Arc<Device>, Waiting)>) -> Written {
        let mut blocked: HashSet<Arc<str>> = HashSet::new();
        let mut written: Written = Vec::new();
        for (device, messages) in pieces(group) {
            let result = match blocked.contains(&device.id) {
                true => Err(None), // Never before what is older.
                false => self.append(&device, &messages).map_err(|error| match error {
                    ShelfError::Full => None,
                    ShelfError::Disk(error) => Some(error),
                }),
            };
            if result.is_err() {
                blocked.insert(Arc::clone(&device.id));
            }
            written.push((device, messages, result));
        }
        written
    }

    /// Appends. Where full shelves refuse, the door is shut, and the last of all room is for devices that can send: what one
    /// of them has there goes up soon, and it would wait for ever behind those that are refused. Otherwise, where the
    /// shelf is full its oldest messages are given up for that; where all together are, the oldest of the longest shelf
    /// whose device sends nothing now, and where there is none, of the longest.
    fn append(&self, device: &Device, messages: &[Waiting]) -> Result<Vec<Place>, ShelfError> {
        let now = Timestamp::now().0;
        let messages: Vec<Shelved> = messages.iter().map(shelved).collect();
        let needed = messages.iter().map(|message| (message.record.len() + OVERHEAD) as u64).sum();
        if let Some((_, all)) = self.options.plan.refuse_above {
            let below = if device.state().can_send() { u64::MAX } else { tight(all) };
            return self.shelves.append_below(below, &device.id, &messages, now);
        }
        let mut result = self.shelves.append(&device.id, &messages, now);
        for parked in [true, false] {
            if !matches!(result, Err(ShelfError::Full)) {
                break;
            }
            let others = self.shelves.devices().into_iter().filter_map(|id| self.find(&id)).filter(|other| {
                let state = other.state();
                !state.sweeping && (state.phase.is_parked() || !parked)
            });
            let others: Vec<_> = others.map(|other| Arc::clone(&other.id)).collect();
            let gone = self.shelves.make_room(&device.id, needed, &others).map_err(ShelfError::Disk)?;
            if gone > 0 {
                self.metrics.log_pace("shelf full", |left_out| {
                    let device = &*device.id;
                    tracing::warn!(device, gone, left_out, "a shelf is full: the oldest messages are given up");
                });
            }
            result = self.shelves.append(&device.id, &messages, now);
        }
        result
    }
}

impl Shared {
    /// Empties the shelf of a device that is refused or denied, to where its messages go then.
    pub(super) fn sweep(self: &Arc<Self>, device: &Arc<Device>) {
        if std::mem::replace(&mut device.state().sweeping, true) {
            return;
        }
        // What was read from the shelf already goes before the rest.
        self.give_up_queue(device);
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
                if !self.send_another_way(device, placed).await {
                    return; // An operator lets it in: the rest goes over its own line.
                }
                device.state().read_to = Some(behind);
            }
            let all = device.read_up_to(&mut device.state(), chunk.next, &self.shelves);
            if all || nothing {
                // What comes from now on is that of a stranger.
                device.state().is_removed = false;
                return;
            }
        }
    }

    /// False where the device was let in before there was room for the message: it is still on the shelf only.
    async fn send_another_way(self: &Arc<Self>, device: &Arc<Device>, placed: Placed) -> bool {
        let place = placed.place;
        let (phase, trouble) = {
            let state = device.state();
            (state.phase, state.trouble.clone())
        };
        if !phase.is_parked() {
            return false;
        }
        let held = Held::from_shelf(device, placed);
        if phase != Phase::Denied && self.options.plan.when_refused == WhenRefused::Gateway {
            let mut held = held;
            while let Err((back, _)) = self.own.offer(held, Instant::now()) {
                held = back;
                if !device.state().phase.is_parked() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            self.want(&self.own);
            return true;
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
        true
    }

    /// Writes down how far shelves are settled, and now and then gives up what is too old.
    pub(super) fn look_after_shelves(self: &Arc<Self>, thoroughly: bool) {
        let max_age = self.options.plan.shelf_max_age.filter(|_| thoroughly);
        let parked: Vec<_> = match max_age {
            Some(_) => self.all().into_iter().filter(|device| device.state().phase.is_parked()).collect(),
            None => Vec::new(),
        };
        if parked.is_empty() && !self.shelves.is_to_persist() {
            return;
        }
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
        // Nobody else does it where devices have no lines.
        let emptied = Arc::clone(&shelves);
        let _ = tokio::task::spawn_blocking(move || emptied.persist()).await;
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
