//! Publishes on their way to one subscriber: packet identifiers and the in-flight window.

use std::collections::HashMap;
use std::num::NonZeroU16;

use rmqtt_codec::types::{Publish, QoS};

use super::router::Delivery;
use super::wire::Outgoing;

/// QoS 1 and 2 publishes in flight to one subscriber, unless its Receive Maximum is smaller.
const WINDOW: u16 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Ack,
    Received,
    Complete,
}

/// The in-flight window of one subscriber.
#[derive(Debug)]
pub(super) struct Window {
    inflight: HashMap<NonZeroU16, Awaits>,
    last: u16,
    max: usize,
}

impl Window {
    /// `receive_max` is the client's own limit, where it named one ([MQTT-3.3.4-9]).
    pub(super) fn new(receive_max: Option<NonZeroU16>) -> Self {
        let max = receive_max.map_or(WINDOW, |max| max.get().min(WINDOW));
        Self { inflight: HashMap::new(), last: 0, max: usize::from(max) }
    }

    /// True while another publish may be sent.
    pub(super) fn is_open(&self) -> bool {
        self.inflight.len() < self.max
    }

    /// Makes the PUBLISH packet of a delivery.
    pub(super) fn send(&mut self, delivery: Delivery) -> Box<Publish> {
        let message = &delivery.message;
        let packet_id = match delivery.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(self.claim(Awaits::Ack)),
            QoS::ExactlyOnce => Some(self.claim(Awaits::Received)),
        };
        let mut properties = message.properties_now();
        if !delivery.identifiers.is_empty() {
            properties.get_or_insert_default().subscription_ids = delivery.identifiers;
        }
        Box::new(Publish {
            dup: false,
            retain: delivery.retain,
            qos: delivery.qos,
            topic: message.topic.clone(),
            packet_id,
            payload: message.payload.clone(),
            properties,
        })
    }

    /// The client has the QoS 1 publish (or refused the QoS 2 one).
    pub(super) fn on_puback(&mut self, packet_id: NonZeroU16) {
        if matches!(self.inflight.get(&packet_id), Some(Awaits::Ack | Awaits::Received)) {
            self.inflight.remove(&packet_id);
        }
    }

    /// The client has the QoS 2 publish; PUBREL answers in any case ([MQTT-4.3.3-3]).
    pub(super) fn on_pubrec(&mut self, packet_id: NonZeroU16) -> Outgoing {
        if let Some(awaits) = self.inflight.get_mut(&packet_id)
            && *awaits == Awaits::Received
        {
            *awaits = Awaits::Complete;
        }
        Outgoing::PubRel(packet_id)
    }

    /// The QoS 2 exchange is over.
    pub(super) fn on_pubcomp(&mut self, packet_id: NonZeroU16) {
        if self.inflight.get(&packet_id) == Some(&Awaits::Complete) {
            self.inflight.remove(&packet_id);
        }
    }

    /// Gives back the identifier of a publish that could not be encoded.
    pub(super) fn forget(&mut self, packet_id: Option<NonZeroU16>) {
        if let Some(packet_id) = packet_id {
            self.inflight.remove(&packet_id);
        }
    }

    fn claim(&mut self, awaits: Awaits) -> NonZeroU16 {
        loop {
            // At most WINDOW identifiers are taken, so this ends.
            self.last = self.last.wrapping_add(1);
            if let Some(packet_id) = NonZeroU16::new(self.last)
                && !self.inflight.contains_key(&packet_id)
            {
                self.inflight.insert(packet_id, awaits);
                return packet_id;
            }
        }
    }
}
