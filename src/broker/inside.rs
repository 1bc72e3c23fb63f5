//! Publishes of the process itself, to the clients of the broker. They are never offered to the [`Ingest`](super::Ingest):
//! what comes down from the hub cannot go up again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use rmqtt_codec::types::{Publish, QoS};

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
        let qos = match qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let topic = ByteString::from(topic);
        let publish = Publish { dup: false, retain, qos, topic, packet_id: None, payload, properties: None };
        let routed = self.0.route(None, &publish);
        routed.queued || routed.retained
    }

    /// Says whether anybody subscribes to this topic.
    pub fn has_subscriber(&self, topic: &str) -> bool {
        self.0.has_subscriber(topic)
    }
}

#[cfg(test)]
impl Inside {
    /// Of a broker that nobody connects to.
    pub(crate) fn of_nobody() -> Self {
        let (options, metrics) = (super::Options::default(), crate::metrics::Metrics::register());
        Self(Arc::new(Router::new(&options, metrics, super::Restored::default())))
    }
}
