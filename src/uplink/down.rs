//! What comes down the uplink's connection: subscriptions, arrivals, and what is said in return.
//!
//! Nothing of it touches the order or the window of what goes up: subscriptions are asked for before the first
//! message, arrivals go into a bounded queue, and answers are QoS 0, which has no packet identifier. What finds no room
//! in the queue is not acknowledged, so the hub sends it again; of what has QoS 0 nothing remains but its count.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{AsyncClient, ClientError, QoS, SubscribeFilter};
use tokio::sync::{mpsc, watch};

use super::Target;
use crate::hub::back;
use crate::hub::connect::Identity;
use crate::metrics::Metrics;

/// Arrivals that may wait. A hub has 50 messages on their way to a device at most.
const ROOM: usize = 256;
/// How long a line that is stuck may keep others from being served.
const PATIENCE: Duration = Duration::from_secs(2);

/// The uplink's side of the way down.
#[derive(Clone)]
pub struct Down {
    wanted: watch::Receiver<Wanted>,
    arrivals: mpsc::Sender<Arrival>,
    metrics: Metrics,
}

impl fmt::Debug for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Down").field("wanted", &*self.wanted.borrow()).finish_non_exhaustive()
    }
}

/// What the hub is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Cloud-to-device messages.
    pub messages: bool,
    /// Direct methods.
    pub methods: bool,
}

/// A publish of the hub.
#[derive(Debug)]
pub struct Arrival {
    /// The device of the connection it came on.
    pub device: String,
    /// Its topic.
    pub topic: String,
    /// Its body.
    pub payload: Bytes,
    /// The connection it came on.
    pub line: Return,
}

/// What can be said in return, on the connection of an arrival and while that lasts.
pub struct Return {
    client: AsyncClient,
    publish: rumqttc::Publish,
}

impl fmt::Debug for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Return").field("pkid", &self.publish.pkid).finish_non_exhaustive()
    }
}

/// The connection has ended, or is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Return {
    /// Acknowledges the arrival: the hub forgets it.
    pub async fn complete(&self) -> Result<(), Gone> {
        said(self.client.ack(&self.publish)).await
    }

    /// Publishes an answer at QoS 0.
    pub async fn answer(&self, topic: String, payload: Bytes) -> Result<(), Gone> {
        said(self.client.publish_bytes(topic, QoS::AtMostOnce, false, payload)).await
    }
}

async fn said(what: impl Future<Output = Result<(), ClientError>>) -> Result<(), Gone> {
    tokio::time::timeout(PATIENCE, what).await.map_err(|_| Gone)?.map_err(|_| Gone)
}

impl Down {
    /// Subscribes to what is wanted, and with a new connection to something else when that changes; what comes waits in
    /// the receiver.
    pub fn new(wanted: watch::Receiver<Wanted>, metrics: Metrics) -> (Self, mpsc::Receiver<Arrival>) {
        let (arrivals, receiver) = mpsc::channel(ROOM);
        (Self { wanted, arrivals, metrics }, receiver)
    }

    /// Returns when something else is wanted than now.
    pub(super) async fn changed(&self) {
        let mut wanted = self.wanted.clone();
        wanted.mark_unchanged();
        if wanted.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// What is subscribed to on a connection that begins now.
    pub(super) fn filters(&self, target: &Target) -> Vec<String> {
        let Target::Hub(hub) = target else { return Vec::new() };
        let Wanted { messages, methods } = *self.wanted.borrow();
        let mut filters = Vec::new();
        if messages {
            filters.push(back::commands(&Identity::of(&hub.connection)));
        }
        if methods {
            filters.push(back::METHODS.to_owned());
        }
        filters
    }

    /// Asks for the subscriptions; nothing else has been handed to the client yet, so there is room.
    pub(super) fn subscribe(&self, client: &AsyncClient, target: &Target) {
        let filters = self.filters(target);
        if filters.is_empty() {
            return;
        }
        let filters = filters.into_iter().map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce));
        if client.try_subscribe_many(filters).is_err() {
            tracing::warn!("uplink: the subscriptions for commands could not be asked for");
        }
    }

    /// Takes a publish of the hub.
    pub(super) fn arrived(&self, client: &AsyncClient, target: &Target, mut publish: rumqttc::Publish) {
        let Target::Hub(hub) = target else { return };
        let device = hub.connection.device.clone();
        let payload = std::mem::take(&mut publish.payload);
        let topic = publish.topic.clone();
        let line = Return { client: client.clone(), publish };
        if self.arrivals.try_send(Arrival { device, topic, payload, line }).is_err() {
            self.metrics.commanded("", "no_room");
        }
    }
}

/// Tells where the hub does not grant a subscription.
pub(super) fn look_for_refusals(ack: &rumqttc::SubAck) {
    if ack.return_codes.iter().any(|code| matches!(code, rumqttc::SubscribeReasonCode::Failure)) {
        tracing::warn!(
            "uplink: the hub refuses a subscription: commands or methods will not come (is it a Basic tier?)"
        );
    }
}
