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
    /// When its Message Expiry Interval ends.
    ends: Option<Instant>,
    /// Nobody is to hear of it after that: what was sent and not acknowledged by then is not sent again.
    is_firm: bool,
    /// What it takes of a bound in bytes.
    pub(super) size: usize,
}

impl Message {
    /// Copies a publish of the process itself, which nobody is to hear of after `ends`.
    pub(super) fn until(publish: &Publish, ends: Option<Instant>) -> Self {
        let message = Self::detach(publish);
        if ends.is_none() { message } else { Self { ends, is_firm: true, ..message } }
    }

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
            ends: properties
                .as_ref()
                .and_then(|properties| properties.message_expiry_interval)
                .and_then(|interval| Instant::now().checked_add(Duration::from_secs(interval.get().into()))),
            is_firm: false,
            size: publish.topic.len() + publish.payload.len() + properties.as_ref().map_or(0, properties_size),
            properties,
        }
    }

    /// True once its Message Expiry Interval has passed ([MQTT-3.3.2-5]).
    pub(super) fn is_expired(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }

    /// True where it is over for those, too, who were sent it and did not acknowledge it.
    pub(super) fn is_over(&self) -> bool {
        self.is_firm && self.is_expired()
    }

    /// When nobody is to hear of it any more.
    pub(super) fn firm_end(&self) -> Option<Instant> {
        self.ends.filter(|_| self.is_firm)
    }

    /// Counts time it waited in an earlier process.
    pub(super) fn age(&mut self, waited: Duration) {
        self.ends = self.ends.map(|ends| ends.checked_sub(waited).unwrap_or_else(Instant::now));
    }

    /// The properties as they go out at this moment: the expiry interval is less the time waited ([MQTT-3.3.2-6]), in
    /// seconds that have begun, so that less than one is told as one.
    pub(super) fn properties_now(&self) -> Option<PublishProperties> {
        let mut properties = self.properties.clone();
        if let Some(ends) = self.ends {
            let left = ends.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000);
            let left = NonZeroU32::new(u32::try_from(left).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
            properties.get_or_insert_default().message_expiry_interval = Some(left);
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
