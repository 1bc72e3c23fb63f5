//! Publishes of the process itself, to the clients of the broker. They are never offered to the [`Ingest`](super::Ingest):
//! what comes down from the hub cannot go up again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use rmqtt_codec::types::{Publish, QoS};
use tokio::time::Instant;

use super::router::Router;

/// Publishes to the clients; a clone does the same.
#[derive(Clone)]
pub struct Inside(Arc<Router>);

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").finish_non_exhaustive()
    }
}

impl Inside {
    pub(super) fn new(router: Arc<Router>) -> Self {
        Self(router)
    }

    /// Gives a publish to its subscribers, connected or away, and keeps it where it is to be retained. `topic` is a valid
    /// topic name. True where a session has it queued or it is retained; otherwise nobody has it or will get it: who
    /// subscribes has no room, or is away without a session that waits for it.
    pub fn publish(&self, topic: &str, payload: Bytes, qos: u8, retain: bool) -> bool {
        self.publish_for((topic, payload), qos, retain, None)
    }

    /// The same, of what is `good_for` so long only: after that it is sent to nobody, not even again to a client whose
    /// connection broke before it had acknowledged it, and is not retained any more.
    pub fn publish_for(
        &self,
        (topic, payload): (&str, Bytes),
        qos: u8,
        retain: bool,
        good_for: Option<Duration>,
    ) -> bool {
        let (qos, topic) = (level(qos), ByteString::from(topic));
        let publish = Publish { dup: false, retain, qos, topic, packet_id: None, payload, properties: None };
        let ends = good_for.and_then(|good_for| Instant::now().checked_add(good_for));
        let routed = self.0.route_until(None, &publish, ends);
        routed.queued || routed.retained
    }

    /// Says whether a publish that is not retained would find somebody: a subscriber who is connected or, unless it is
    /// for those who are `connected`, one who is away with a session that waits for it. There may still be no room.
    pub fn has_taker(&self, topic: &str, qos: u8, connected: bool) -> bool {
        self.0.has_taker((topic, level(qos)), connected)
    }

    /// Returns when somebody has subscribed, or has come back to a session, since this returned last. One task at a time
    /// may wait.
    pub async fn somebody(&self) {
        self.0.came.notified().await;
    }

    /// Says whether anybody subscribes to this topic.
    pub fn has_subscriber(&self, topic: &str) -> bool {
        self.0.has_subscriber(topic)
    }
}

fn level(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

#[cfg(test)]
impl Inside {
    /// Of a broker with one client, which is connected and subscribes to this.
    pub(crate) fn of_one(filter: &str) -> Self {
        use super::session::{Session, Subscribed};
        let inside = Self::of_nobody();
        let router = &inside.0;
        let session = Session::new(ByteString::from_static("one"), 1, Arc::clone(&router.common));
        session.attach(1, 0, None);
        router.file(&session, filter, Subscribed { options: Default::default(), identifier: None });
        inside
    }

    /// Of a broker that nobody connects to.
    pub(crate) fn of_nobody() -> Self {
        let (options, metrics) = (super::Options::default(), crate::metrics::Metrics::register());
        Self(Arc::new(Router::new(&options, metrics, super::Restored::default())))
    }
}
