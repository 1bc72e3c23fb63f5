//! What the control socket can do, over bridge and quarantine.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::queue;
use super::status::Device;
use crate::bridge::devices::Devices;
use crate::bridge::{Bridge, Stores, View};
use crate::broker::{Commits as _, Ingest as _, Offer};
use crate::control::{Answer, Control, DEVICES_AT_ONCE, MAX_DEVICES, MAX_IDS, Outcome, Request, Retried, Watch};
use crate::hub::connection_string::is_id;
use crate::message::Publish;
use crate::metrics::Metrics;
use crate::quarantine::{self, Entry, Quarantine};
use crate::topic;

/// How long a retry waits for room in the spool.
const ROOM: Duration = Duration::from_secs(10);

/// What an operator may have done.
pub(super) struct Operator {
    pub(super) bridge: Arc<Bridge>,
    pub(super) stores: Stores,
    pub(super) quarantine: Quarantine,
    pub(super) quarantine_dir: PathBuf,
    pub(super) metrics: Metrics,
    /// The devices, where each has a connection of its own.
    pub(super) devices: Option<Devices>,
}

/// Why there are no devices to speak of.
const NO_DEVICES: &str = "devices have no connections of their own here: [uplink] identity = \"per-device\"";

impl Control for Operator {
    type Feed = View;

    fn watch(&self, watch: Watch) -> Result<View, String> {
        let view = self.bridge.watchers().open(watch.clone())?;
        tracing::info!("somebody looks on: {watch}");
        Ok(view)
    }

    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Retry { ids } | Request::Drop { ids } if ids.len() > MAX_IDS => {
                Answer::Failed(format!("{} entries at once; {MAX_IDS} are the most", ids.len()))
            }
            Request::Retry { ids } => self.retry(ids).await,
            Request::Drop { ids } => match self.take(ids.into_iter().collect(), "operator").await {
                Ok(taken) => Answer::Dropped(taken),
                Err(failed) => failed,
            },
            Request::QueueStat => {
                let devices = self.devices.clone();
                self.look(move |stores| queue::stat(stores, devices.as_ref())).await
            }
            Request::Devices { id, after } => self.devices(id.as_deref(), after.as_deref()),
            Request::DevicesSay { ids, .. } if ids.len() > MAX_DEVICES => {
                Answer::Failed(format!("{} devices at once; {MAX_DEVICES} are the most", ids.len()))
            }
            Request::DevicesSay { ids, approve } => self.say(ids, approve).await,
            Request::QueuePeek { first, device } => {
                let lines = self.devices.clone();
                self.look(move |stores| queue::peek((stores, lines.as_ref()), first, device.as_deref())).await
            }
            Request::QueueDrop(which) => {
                let lines = self.devices.clone();
                self.look(move |stores| queue::withdraw((stores, lines.as_ref()), &which)).await
            }
            Request::Unmatched { reset } => {
                // A rule or command that was added since then has settled the matter.
                let rules = self.bridge.rules().rules();
                let settled = |topic: &str| rules.takes(topic) || rules.is_answer(topic);
                Answer::Unmatched(self.bridge.watchers().unmatched(reset).without(settled))
            }
            Request::Watch(_) => Answer::Failed("this is answered line by line".to_owned()),
        }
    }
}

impl Operator {
    /// Reads from disk, away from the connections.
    async fn look(&self, how: impl FnOnce(&Stores) -> Answer + Send + 'static) -> Answer {
        let stores = self.stores.clone();
        let looked = tokio::task::spawn_blocking(move || how(&stores)).await;
        looked.unwrap_or_else(|_| Answer::Failed("the look into the queue was cut off".to_owned()))
    }

    fn devices(&self, id: Option<&str>, after: Option<&str>) -> Answer {
        let Some(devices) = &self.devices else { return Answer::Failed(NO_DEVICES.to_owned()) };
        let listed = match id {
            None => devices.page(after, DEVICES_AT_ONCE),
            Some(id) => devices.show(id).into_iter().collect(),
        };
        let listed = listed.into_iter().map(|one| serde_json::to_value(Device::from(one)).unwrap_or_default());
        Answer::Devices(listed.collect())
    }

    async fn say(&self, ids: Vec<String>, approve: bool) -> Answer {
        let Some(devices) = self.devices.clone() else { return Answer::Failed(NO_DEVICES.to_owned()) };
        if let Some(id) = ids.iter().find(|id| !is_id(id)) {
            return Answer::Failed(format!("{id:?} is no device id"));
        }
        let said = tokio::task::spawn_blocking(move || {
            let mut count = 0;
            for id in ids {
                if approve { devices.approve(&id) } else { devices.deny(&id) }?;
                tracing::info!(device = id, approve, "an operator has spoken on a device");
                count += 1;
            }
            Ok(count)
        });
        match said.await {
            Ok(Ok(count)) => Answer::Said(count),
            Ok(Err(error)) => Answer::Failed(cannot_keep(&error)),
            Err(_) => Answer::Failed("it was cut off".to_owned()),
        }
    }

    async fn take(&self, ids: HashSet<String>, reason: &'static str) -> Result<Vec<String>, Answer> {
        let taken = self.quarantine.take(ids).await;
        let taken = taken.map_err(|error| Answer::Failed(format!("the quarantine cannot be rewritten: {error}")))?;
        self.metrics.quarantine_taken(reason, taken.len());
        tracing::info!(entries = taken.len(), reason, "entries were taken out of the quarantine");
        Ok(taken)
    }

    async fn retry(&self, ids: Vec<String>) -> Answer {
        let (dir, wanted) = (self.quarantine_dir.clone(), ids.iter().cloned().collect::<HashSet<_>>());
        let reading = tokio::task::spawn_blocking(move || {
            let mut found: Vec<Entry> = Vec::new();
            quarantine::read(&dir, |entry| {
                if wanted.contains(&entry.id) && !found.iter().any(|other| other.id == entry.id) {
                    found.push(entry);
                }
                found.len() < wanted.len()
            })
            .map(|()| found)
        });
        let entries = match reading.await {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => return Answer::Failed(format!("the quarantine cannot be read: {error}")),
            Err(_) => return Answer::Failed("the reading of the quarantine was cut off".to_owned()),
        };
        let mut retried: Vec<Retried> = Vec::with_capacity(ids.len());
        for entry in &entries {
            let outcome = self.once_more(entry).await;
            retried.push(Retried { id: entry.id.clone(), outcome });
        }
        // Only now: a crash before this repeats a message, it loses none.
        let done = retried.iter().filter(|one| one.outcome != Outcome::Kept).map(|one| one.id.clone()).collect();
        if let Err(failed) = self.take(done, "retried").await {
            return failed;
        }
        let gone = ids.into_iter().filter(|id| !entries.iter().any(|entry| entry.id == *id));
        retried.extend(gone.map(|id| Retried { id, outcome: Outcome::Gone }));
        Answer::Retried(retried)
    }

    /// Gives an entry to the bridge, and waits until what it made is on disk.
    async fn once_more(&self, entry: &Entry) -> Outcome {
        let record = entry.record();
        let payload = entry.payload();
        let publish = match (&record, entry.received()) {
            (None, Some(received)) if topic::check_name(&entry.topic).is_ok() => Some(Publish {
                topic: &entry.topic,
                payload: &payload,
                client: &entry.client,
                user: entry.user.as_deref(),
                qos: entry.qos,
                retain: entry.retain,
                received,
            }),
            (None, _) => return Outcome::Kept,
            (Some(_), _) => None,
        };
        let mut scratch = self.bridge.scratch_for_retry();
        let offer = |scratch: &mut _| match (&publish, &record) {
            (Some(publish), _) => self.bridge.offer(scratch, publish),
            (None, record) => self.bridge.send_again(record.as_deref().unwrap_or_default()),
        };
        let Ok(offered) = tokio::time::timeout(ROOM, async {
            loop {
                match offer(&mut scratch) {
                    Offer::Full => self.bridge.room(&scratch).await,
                    offered => return offered,
                }
            }
        })
        .await
        else {
            return Outcome::Kept;
        };
        if publish.is_some() {
            self.metrics.publishes_received.increment(1);
        }
        let (outcome, parts) = match offered {
            Offer::Taken(parts) if parts.is_none() => (Outcome::Dropped, parts),
            Offer::Taken(parts) if publish.is_none() => (Outcome::Queued, parts),
            Offer::Taken(parts) => (Outcome::Translated, parts),
            Offer::TakenAfter(stored, parts) => {
                stored.await;
                let failed = publish.is_some_and(|publish| self.bridge.would_fail(&mut scratch, &publish));
                (if failed { Outcome::Quarantined } else { Outcome::Translated }, parts)
            }
            Offer::Full => return Outcome::Kept,
        };
        self.bridge.commits().reach(parts).await;
        outcome
    }
}

fn cannot_keep(error: &std::io::Error) -> String {
    format!("what is said of devices cannot be kept: {error}")
}
