//! The cloud's side of each device: its twin, the messages that wait for it, the methods called on it.
//!
//! Locks are held for a look or a change, never while something is waited for. A device has an entry from the first
//! time somebody asks for it. What goes down passes a bounded queue of its connection; a connection that does not
//! read loses changes of desired properties (it gets the whole with its next `GET`) and methods (they time out), as
//! with a hub.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::sessions::Sessions;
use crate::hub::back::{self, Command};
use crate::hub::twin::{self, Properties, TwinError};
use crate::message::Timestamp;

/// Devices with an entry at most.
const DEVICES_MAX: usize = 10_000;
/// Messages that wait for one device ("Understand cloud-to-device messaging").
pub(super) const QUEUE_MAX: usize = 50;
/// How often a message is delivered before it is dead-lettered; the hub's default.
const DELIVERIES_MAX: u32 = 10;
/// How long a message waits that names no expiry; the hub's default.
const TIME_TO_LIVE: Duration = Duration::from_secs(3600);
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

/// A message that waits for its device.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    id: u64,
    pub(super) command: Command,
    pub(super) body: Bytes,
    expires: Instant,
    deliveries: u32,
    /// A connection has it and has not acknowledged it.
    locked: bool,
}

#[derive(Debug, Default)]
struct Device {
    desired: Properties,
    reported: Properties,
    tags: Properties,
    /// Versions begin with 1, so these count the changes.
    changes: Changes,
    line: Option<(u64, mpsc::Sender<Down>)>,
    queue: VecDeque<Queued>,
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
            device.queue.iter_mut().for_each(|queued| queued.locked = false);
            if !device.queue.is_empty() {
                let _ = sender.try_send(Down::Commands);
            }
        });
        self.changed.notify_waiters();
        Line { id, down }
    }

    /// Its connection is over; what it has not acknowledged waits again.
    pub(super) fn detach(&self, identity: &str, line: &Line) {
        if let Some(device) = self.devices.lock().get_mut(identity)
            && device.line.as_ref().is_some_and(|(id, _)| *id == line.id)
        {
            device.line = None;
            device.queue.iter_mut().for_each(|queued| queued.locked = false);
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

    /// The next message for it that is neither expired nor on its way.
    pub(super) fn take(&self, identity: &str) -> Option<(u64, Queued)> {
        let now = Instant::now();
        let mut devices = self.devices.lock();
        let device = devices.get_mut(identity)?;
        device.queue.retain(|queued| queued.locked || (queued.expires > now && queued.deliveries < DELIVERIES_MAX));
        let queued = device.queue.iter_mut().find(|queued| !queued.locked)?;
        (queued.locked, queued.deliveries) = (true, queued.deliveries + 1);
        Some((queued.id, queued.clone()))
    }

    /// The device has acknowledged a message: it is complete.
    pub(super) fn complete(&self, identity: &str, id: u64) {
        if let Some(device) = self.devices.lock().get_mut(identity) {
            device.queue.retain(|queued| queued.id != id);
        }
    }

    /// Puts a message into the queue of a device.
    pub(super) fn send(&self, identity: &str, command: Command, body: Bytes) -> Result<(), Full> {
        let life = command.expiry.as_deref().and_then(remaining).unwrap_or(TIME_TO_LIVE);
        let expires = Instant::now() + life;
        let queued = Queued { id: self.next(), command, body, expires, deliveries: 0, locked: false };
        self.with(identity, |device| {
            if device.queue.len() >= QUEUE_MAX {
                return Err(Full);
            }
            device.queue.push_back(queued);
            if let Some((_, line)) = &device.line {
                let _ = line.try_send(Down::Commands);
            }
            Ok(())
        })?
    }

    /// Throws away what waits for a device, and says how much that was.
    pub(super) fn purge(&self, identity: &str) -> usize {
        self.devices.lock().get_mut(identity).map_or(0, |device| device.queue.drain(..).count())
    }

    /// How much waits for a device.
    pub(super) fn waiting(&self, identity: &str) -> usize {
        self.devices.lock().get(identity).map_or(0, |device| device.queue.len())
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
