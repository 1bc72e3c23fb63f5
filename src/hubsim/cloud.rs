//! The cloud's side of each device: its twin, the messages that wait for it, the methods called on it.
//!
//! Locks are held for a look or a change, never while something is waited for. A device has an entry from the first
//! time somebody asks for it. What goes down passes a bounded queue of its connection; a connection that does not
//! read loses changes of desired properties (it gets the whole with its next `GET`) and methods (they time out), as
//! with a hub.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::feedback::Feedback;
use super::queue::{Delivery, Keeping, Queue};
use super::sessions::Sessions;
use crate::hub::back::{self, Command};
use crate::hub::twin::{self, Properties, TwinError};
use crate::message::Timestamp;

/// Devices with an entry at most.
const DEVICES_MAX: usize = 10_000;
/// What may be on its way to one connection.
const DOWN_MAX: usize = 64;

/// What a connection is to send.
#[derive(Debug)]
pub(super) enum Down {
    /// A publish with QoS 0.
    Publish(String, Bytes),
    /// Messages wait.
    Commands,
}

#[derive(Debug, Default)]
struct Device {
    desired: Properties,
    reported: Properties,
    tags: Properties,
    /// Versions begin with 1, so these count the changes.
    changes: Changes,
    line: Option<(u64, mpsc::Sender<Down>)>,
    queue: Queue,
}

#[derive(Debug, Default, Clone, Copy)]
struct Changes {
    desired: u64,
    reported: u64,
    all: u64,
}

/// All devices as the cloud sees them.
#[derive(Debug, Default)]
pub(super) struct Cloud {
    devices: Mutex<HashMap<String, Device>>,
    calls: Mutex<HashMap<String, Call>>,
    keeping: Keeping,
    pub(super) feedback: Feedback,
    next: AtomicU64,
    /// Twin operations in this second, and which second it is.
    operations: Mutex<(u64, u32)>,
    /// Changes of reported properties that were answered with a status on purpose.
    pub(super) failed_on_purpose: AtomicU32,
    /// Somebody connected or subscribed.
    changed: Notify,
}

#[derive(Debug)]
struct Call {
    identity: String,
    answer: oneshot::Sender<(i32, Bytes)>,
}

/// Why a method has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallError {
    /// The device is not connected, or not subscribed to methods.
    NotOnline,
    /// It did not answer in time.
    Timeout,
}

/// A connection's end of the way down.
#[derive(Debug)]
pub(super) struct Line {
    id: u64,
    pub(super) down: mpsc::Receiver<Down>,
}

/// A change from the service.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Replace instead of merging.
    pub(super) replace: bool,
    pub(super) desired: Option<Properties>,
    pub(super) tags: Option<Properties>,
}

/// There are too many devices, or too many messages for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Cloud {
    /// Without devices.
    pub(super) fn new(keeping: Keeping) -> Self {
        Self { keeping, ..Self::default() }
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    fn with<T>(&self, identity: &str, act: impl FnOnce(&mut Device) -> T) -> Result<T, Full> {
        let mut devices = self.devices.lock();
        if let Some(device) = devices.get_mut(identity) {
            return Ok(act(device));
        }
        if devices.len() >= DEVICES_MAX {
            return Err(Full);
        }
        Ok(act(devices.entry(identity.to_owned()).or_default()))
    }

    /// A device has connected. Beyond the most devices it gets a line on which nothing comes.
    pub(super) fn attach(&self, identity: &str) -> Line {
        let (sender, down) = mpsc::channel(DOWN_MAX);
        let id = self.next();
        let _ = self.with(identity, |device| {
            device.line = Some((id, sender.clone()));
            if !device.queue.is_empty() {
                let _ = sender.try_send(Down::Commands);
            }
        });
        self.changed.notify_waiters();
        Line { id, down }
    }

    /// Its connection is over; what it has not acknowledged waits again, at the latest when its lock ends.
    pub(super) fn detach(&self, identity: &str, line: &Line) {
        if let Some(device) = self.devices.lock().get_mut(identity)
            && device.line.as_ref().is_some_and(|(id, _)| *id == line.id)
        {
            device.line = None;
            if self.keeping.release_on_close {
                device.queue.release(Instant::now());
            }
        }
    }

    /// It has subscribed to something.
    pub(super) fn subscribed(&self, identity: &str) {
        if let Some(device) = self.devices.lock().get(identity)
            && !device.queue.is_empty()
            && let Some((_, line)) = &device.line
        {
            let _ = line.try_send(Down::Commands);
        }
        self.changed.notify_waiters();
    }

    /// What `act` makes of the queue of a device after what its time has brought, and feedback about what has ended.
    fn with_queue<T>(&self, identity: &str, act: impl FnOnce(&mut Queue, Instant) -> T) -> Option<T> {
        let mut devices = self.devices.lock();
        let queue = &mut devices.get_mut(identity)?.queue;
        let now = Instant::now();
        queue.look(now, &self.keeping);
        let made = act(queue, now);
        for (command, outcome) in queue.ended() {
            self.feedback.add(identity, &command, outcome);
        }
        Some(made)
    }

    /// The next message for it that is enqueued; it is invisible then.
    pub(super) fn take(&self, identity: &str) -> Option<Delivery> {
        let lock = self.next();
        self.with_queue(identity, |queue, now| queue.take(lock, now, &self.keeping))?
    }

    /// When one of its messages may come again.
    pub(super) fn next_lock_end(&self, identity: &str) -> Option<Instant> {
        self.devices.lock().get(identity)?.queue.next_lock_end()
    }

    /// The device has acknowledged the message under this lock; false where the lock is lost.
    pub(super) fn complete(&self, identity: &str, lock: u64) -> bool {
        self.with_queue(identity, |queue, now| queue.complete(lock, now)).unwrap_or(false)
    }

    /// Puts a message into the queue of a device.
    pub(super) fn send(&self, identity: &str, command: Command, body: Bytes) -> Result<(), Full> {
        let life = command.expiry.as_deref().and_then(remaining).unwrap_or(self.keeping.time_to_live);
        let id = self.next();
        self.with(identity, |_| ())?;
        let added = self.with_queue(identity, |queue, now| queue.add(id, (command, body), now + life));
        if added != Some(true) {
            return Err(Full);
        }
        self.subscribed(identity);
        Ok(())
    }

    /// Throws away what waits for a device, and says how much that was.
    pub(super) fn purge(&self, identity: &str) -> usize {
        self.with_queue(identity, |queue, _| queue.purge()).unwrap_or(0)
    }

    /// How much waits for a device, or is on its way to it.
    pub(super) fn waiting(&self, identity: &str) -> usize {
        self.with_queue(identity, |queue, _| queue.len()).unwrap_or(0)
    }

    /// The next batch of feedback, and the token of its lock.
    pub(super) fn receive_feedback(&self) -> Option<(String, Value)> {
        for identity in self.known().0 {
            self.waiting(&identity);
        }
        self.feedback.receive(self.keeping.feedback_lock)
    }

    /// True while it is connected.
    pub(super) fn is_connected(&self, identity: &str) -> bool {
        self.devices.lock().get(identity).is_some_and(|device| device.line.is_some())
    }

    /// The identities somebody has asked for, in order, and how many of them are connected.
    pub(super) fn known(&self) -> (Vec<String>, usize) {
        let devices = self.devices.lock();
        let connected = devices.values().filter(|device| device.line.is_some()).count();
        let mut known: Vec<String> = devices.keys().cloned().collect();
        known.sort_unstable();
        (known, connected)
    }

    /// Calls a method and waits for its answer.
    pub(super) async fn call(
        &self,
        sessions: &Sessions,
        identity: &str,
        (name, payload): (&str, Bytes),
        (connect, response): (Duration, Duration),
    ) -> Result<(i32, Bytes), CallError> {
        let rid = format!("{:016x}", rand::random::<u64>());
        let (answer, answered) = oneshot::channel();
        self.calls.lock().insert(rid.clone(), Call { identity: identity.to_owned(), answer });
        let forget = Forget(self, &rid);
        let line = self.line_for_methods(sessions, identity, Instant::now() + connect).await?;
        if line.send_timeout(Down::Publish(back::method(name, &rid), payload), response).await.is_err() {
            return Err(CallError::NotOnline);
        }
        let answered = timeout_at(Instant::now() + response, answered).await;
        drop(forget);
        answered.ok().and_then(Result::ok).ok_or(CallError::Timeout)
    }

    async fn line_for_methods(
        &self,
        sessions: &Sessions,
        identity: &str,
        until: Instant,
    ) -> Result<mpsc::Sender<Down>, CallError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let line = self.devices.lock().get(identity).and_then(|device| device.line.clone());
            if let Some((_, line)) = line
                && sessions.filters(identity).iter().any(|filter| filter == back::METHODS)
            {
                return Ok(line);
            }
            timeout_at(until, changed).await.map_err(|_| CallError::NotOnline)?;
        }
    }

    /// A device has answered a call. An answer nobody waits for is late, and forgotten.
    pub(super) fn answer(&self, identity: &str, rid: &str, status: i32, payload: Bytes) {
        let mut calls = self.calls.lock();
        if calls.get(rid).is_some_and(|call| call.identity == identity)
            && let Some(call) = calls.remove(rid)
        {
            let _ = call.answer.send((status, payload));
        }
    }

    /// True where another twin operation in this second is more than a hub takes.
    pub(super) fn is_over(&self, rate: u32) -> bool {
        let second = u64::try_from(Timestamp::now().as_secs()).unwrap_or(0);
        let mut operations = self.operations.lock();
        if operations.0 != second {
            *operations = (second, 0);
        }
        operations.1 = operations.1.saturating_add(1);
        operations.1 > rate
    }

    /// The twin as a device gets it.
    pub(super) fn twin_for_device(&self, identity: &str) -> Value {
        let twin = |device: &mut Device| {
            let Changes { desired, reported, .. } = device.changes;
            json!({
                "desired": versioned(&device.desired, desired, None),
                "reported": versioned(&device.reported, reported, None),
            })
        };
        self.with(identity, twin).unwrap_or(Value::Null)
    }

    /// A device changes its reported properties. The new version, or why not.
    pub(super) fn report(&self, identity: &str, json: &[u8]) -> Result<u64, TwinError> {
        let change = twin::parse(json)?;
        let merged = self.with(identity, |device| {
            let mut merged = device.reported.clone();
            twin::merge(&mut merged, &change);
            twin::check(&merged)?;
            device.reported = merged;
            device.changes.reported += 1;
            device.changes.all += 1;
            Ok(device.changes.reported + 1)
        });
        merged.unwrap_or(Err(TwinError::TooLarge(DEVICES_MAX)))
    }

    /// The service changes a twin, and its device hears of it if it is there.
    pub(super) fn change(&self, sessions: &Sessions, identity: &str, change: Change) -> Result<(), TwinError> {
        let changed = self.with(identity, |device| {
            let (mut desired, mut tags) = (device.desired.clone(), device.tags.clone());
            let told = change.desired.map(|wanted| replaced_or_merged(&mut desired, wanted, change.replace));
            if let Some(wanted) = change.tags {
                replaced_or_merged(&mut tags, wanted, change.replace);
            }
            twin::check(&desired)?;
            twin::check(&tags)?;
            let size = twin::size(&tags);
            if size > twin::TAGS_MAX_BYTES {
                return Err(TwinError::TooLarge(size));
            }
            (device.desired, device.tags) = (desired, tags);
            device.changes.all += 1;
            let Some(told) = told else { return Ok(None) };
            device.changes.desired += 1;
            let version = device.changes.desired + 1;
            let publish = Down::Publish(
                back::desired(version),
                versioned(&told, device.changes.desired, None).to_string().into(),
            );
            Ok(device.line.clone().map(|(_, line)| (line, publish)))
        });
        if let Some((line, publish)) = changed.unwrap_or(Err(TwinError::TooLarge(DEVICES_MAX)))?
            && sessions.filters(identity).iter().any(|filter| filter == back::DESIRED)
            && line.try_send(publish).is_err()
        {
            tracing::warn!(identity, "the device does not read: a change of its desired properties is not sent");
        }
        Ok(())
    }

    /// The twin as the service gets it, with the entity tag that changes with it.
    pub(super) fn twin_for_service(&self, identity: &str) -> Value {
        let (device, module) = identity.split_once('/').map_or((identity, None), |(d, m)| (d, Some(m)));
        let twin = |state: &mut Device| {
            let Changes { desired, reported, all } = state.changes;
            let now = Some(Timestamp::now());
            let mut twin = json!({
                "deviceId": device,
                "etag": etag(all),
                "deviceEtag": etag(0),
                "status": "enabled",
                "statusUpdateTime": NEVER,
                "connectionState": if state.line.is_some() { "Connected" } else { "Disconnected" },
                "lastActivityTime": NEVER,
                "cloudToDeviceMessageCount": state.queue.len(),
                "authenticationType": "sas",
                "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
                "modelId": "",
                "version": all + 1,
                "tags": state.tags,
                "properties": {
                    "desired": versioned(&state.desired, desired, now),
                    "reported": versioned(&state.reported, reported, now),
                },
                "capabilities": {"iotEdge": false},
            });
            if let (Some(twin), Some(module)) = (twin.as_object_mut(), module) {
                twin.insert("moduleId".to_owned(), module.into());
            }
            twin
        };
        self.with(identity, twin).unwrap_or(Value::Null)
    }

    /// The entity tag of a twin.
    pub(super) fn etag(&self, identity: &str) -> String {
        etag(self.devices.lock().get(identity).map_or(0, |device| device.changes.all))
    }
}

/// Forgets a call that nobody waits for any more.
struct Forget<'a>(&'a Cloud, &'a str);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.calls.lock().remove(self.1);
    }
}

pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

fn etag(changes: u64) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode((changes + 1).to_be_bytes())
}

/// Applies a change and returns what the device is told: the change itself, or with a replacement the whole.
fn replaced_or_merged(known: &mut Properties, wanted: Properties, replace: bool) -> Properties {
    if !replace {
        twin::merge(known, &wanted);
        return wanted;
    }
    known.clear();
    twin::merge(known, &wanted);
    known.clone()
}

fn versioned(properties: &Properties, changes: u64, updated: Option<Timestamp>) -> Value {
    let mut properties: Map<String, Value> = properties.clone();
    properties.remove(twin::VERSION);
    if let Some(at) = updated {
        properties.insert("$metadata".to_owned(), json!({"$lastUpdated": at.to_string()}));
    }
    properties.insert(twin::VERSION.to_owned(), (changes + 1).into());
    Value::Object(properties)
}

/// The time until a moment in ISO 8601.
fn remaining(expiry: &str) -> Option<Duration> {
    let at: jiff::Timestamp = expiry.parse().ok()?;
    let left = at.as_millisecond().saturating_sub(Timestamp::now().0);
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(Duration::from_secs(2 * 86_400)))
}
