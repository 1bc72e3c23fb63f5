//! Application messages on their way to subscribers, and what each of them is owed.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::PublishProperties;
use tokio::time::Instant;

/// A message on its way to subscribers, detached from the read buffer it came in.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: ByteString,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) properties: Option<PublishProperties>,
    /// When the broker took it, the start of its expiry interval.
    pub(super) taken: Instant,
    /// What it takes of a bound in bytes.
    pub(super) size: usize,
}

impl Message {
    /// Copies a publish out of the read buffer it came in.
    pub(super) fn detach(publish: &Publish) -> Self {
        let text = |text: &ByteString| ByteString::from(&**text);
        let properties = publish.properties.as_ref().map(|p| PublishProperties {
            topic_alias: None,
            correlation_data: p.correlation_data.as_deref().map(Bytes::copy_from_slice),
            message_expiry_interval: p.message_expiry_interval,
            content_type: p.content_type.as_ref().map(text),
            user_properties: p.user_properties.iter().map(|(n, v)| (text(n), text(v))).collect(),
            is_utf8_payload: p.is_utf8_payload,
            response_topic: p.response_topic.as_ref().map(text),
            subscription_ids: Vec::new(),
        });
        Self {
            topic: text(&publish.topic),
            payload: Bytes::copy_from_slice(&publish.payload),
            qos: publish.qos,
            taken: Instant::now(),
            size: publish.topic.len() + publish.payload.len() + properties.as_ref().map_or(0, properties_size),
            properties,
        }
    }

    fn expiry_interval(&self) -> Option<NonZeroU32> {
        self.properties.as_ref().and_then(|properties| properties.message_expiry_interval)
    }

    /// True once its Message Expiry Interval has passed ([MQTT-3.3.2-5]).
    pub(super) fn is_expired(&self) -> bool {
        let interval = self.expiry_interval();
        interval.is_some_and(|interval| self.taken.elapsed() >= Duration::from_secs(interval.get().into()))
    }

    /// Counts time it waited in an earlier process.
    pub(super) fn age(&mut self, waited: Duration) {
        let Some(properties) = &mut self.properties else { return };
        let Some(interval) = &mut properties.message_expiry_interval else { return };
        let waited = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX);
        match NonZeroU32::new(interval.get().saturating_sub(waited)) {
            Some(left) => *interval = left,
            None => {
                *interval = NonZeroU32::MIN;
                self.taken = self.taken.checked_sub(Duration::from_secs(1)).unwrap_or(self.taken);
            }
        }
    }

    /// The properties as they go out at this moment: the expiry interval is less the time waited ([MQTT-3.3.2-6]).
    pub(super) fn properties_now(&self) -> Option<PublishProperties> {
        let mut properties = self.properties.clone();
        if let Some(properties) = &mut properties
            && let Some(interval) = properties.message_expiry_interval
        {
            let waited = u32::try_from(self.taken.elapsed().as_secs()).unwrap_or(u32::MAX);
            let left = NonZeroU32::new(interval.get().saturating_sub(waited));
            properties.message_expiry_interval = Some(left.unwrap_or(NonZeroU32::MIN));
        }
        properties
    }
}

/// The memory of MQTT 5 properties: an empty user property has 5 bytes on the wire and many more here.
fn properties_size(properties: &PublishProperties) -> usize {
    let text = |text: &Option<ByteString>| text.as_ref().map_or(0, |text| text.len());
    let user = properties.user_properties.iter();
    size_of::<PublishProperties>()
        + properties.correlation_data.as_ref().map_or(0, Bytes::len)
        + text(&properties.content_type)
        + text(&properties.response_topic)
        + user.map(|(name, value)| size_of::<(ByteString, ByteString)>() + name.len() + value.len()).sum::<usize>()
}

/// One message for one subscriber.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) identifiers: Vec<NonZeroU32>,
    /// Its number among the deliveries of a session that lasts, which the store knows it by; 0 where it is not kept.
    pub(super) seq: u64,
}

impl Delivery {
    /// The packet that carries it.
    pub(super) fn publish(&self, packet_id: Option<NonZeroU16>) -> Box<Publish> {
        let mut properties = self.message.properties_now();
        if !self.identifiers.is_empty() {
            properties.get_or_insert_default().subscription_ids.clone_from(&self.identifiers);
        }
        Box::new(Publish {
            dup: false,
            retain: self.retain,
            qos: self.qos,
            topic: self.message.topic.clone(),
            packet_id,
            payload: self.message.payload.clone(),
            properties,
        })
    }
}
