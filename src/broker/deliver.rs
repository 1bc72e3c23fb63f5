//! Publishes on their way to one client: packet identifiers, the in-flight window, and what is sent again.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use rmqtt_codec::types::{Publish, QoS};

use super::application_message::Delivery;
use super::wire::Outgoing;

/// QoS 1 and 2 publishes in flight to one client, unless its Receive Maximum is smaller.
const WINDOW: u16 = 32;

/// What a publish in flight waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    /// PUBACK.
    Ack,
    /// PUBREC.
    Received,
    /// PUBCOMP: the message is the client's, only its identifier is still taken.
    Complete,
}

/// A publish between its first sending and its last acknowledgement.
#[derive(Debug)]
pub(super) struct Flying {
    pub(super) packet_id: NonZeroU16,
    pub(super) awaits: Awaits,
    /// To send it again; `None` where the session ends with its connection, and once the client has it.
    pub(super) delivery: Option<Delivery>,
    /// Its place in the session's order, see [`Delivery`].
    pub(super) seq: u64,
    /// Sent on the connection there is now.
    sent: bool,
    /// The state the store knows.
    pub(super) stored: Option<Awaits>,
}

/// The in-flight window of one session, across its connections.
#[derive(Debug, Default)]
pub(super) struct Window {
    flying: VecDeque<Flying>,
    last: u16,
    max: usize,
    /// Entries not yet sent again on this connection.
    unsent: usize,
}

impl Window {
    /// Begins a connection: everything in flight is to be sent again ([MQTT-4.4.0-1]), within the client's Receive
    /// Maximum, where it named one ([MQTT-3.3.4-9]).
    pub(super) fn attach(&mut self, receive_max: Option<NonZeroU16>) {
        self.max = usize::from(receive_max.map_or(WINDOW, |max| max.get().min(WINDOW)));
        self.flying.iter_mut().for_each(|flying| flying.sent = false);
        self.unsent = self.flying.len();
    }

    /// Puts an entry of an earlier process back, in order.
    pub(super) fn restore(&mut self, (packet_id, awaits): (NonZeroU16, Awaits), delivery: Option<Delivery>, seq: u64) {
        self.last = packet_id.get();
        self.flying.push_back(Flying { packet_id, awaits, delivery, seq, sent: false, stored: Some(awaits) });
    }

    /// What is in flight, oldest first.
    pub(super) fn flying(&mut self) -> impl Iterator<Item = &mut Flying> {
        self.flying.iter_mut()
    }

    /// True while a new publish may be sent: old ones go first.
    pub(super) fn is_open(&self) -> bool {
        self.unsent == 0 && self.flying.len() < self.max
    }

    /// Takes the next publish an earlier connection left out of the window, where nobody is to hear of it any more. MQTT
    /// would have it sent again; a stroke of a press is not made later for that.
    pub(super) fn overdue(&mut self) -> Option<Flying> {
        if self.unsent == 0 {
            return None;
        }
        let at = self.flying.iter().position(|flying| !flying.sent)?;
        self.flying.get(at)?.delivery.as_ref().filter(|delivery| delivery.message.is_over())?;
        self.unsent -= 1;
        self.flying.remove(at)
    }

    /// The next packet an earlier connection left, if the window allows it now.
    pub(super) fn resend(&mut self) -> Option<Outgoing> {
        if self.unsent == 0 {
            return None;
        }
        let on_the_way = self.flying.len() - self.unsent;
        let flying = self.flying.iter_mut().find(|flying| !flying.sent)?;
        let packet = match (&flying.delivery, flying.awaits) {
            (Some(delivery), Awaits::Ack | Awaits::Received) if on_the_way < self.max => {
                let mut publish = delivery.publish(Some(flying.packet_id));
                publish.dup = true;
                Outgoing::Publish(publish)
            }
            (Some(_), Awaits::Ack | Awaits::Received) => return None,
            _ => Outgoing::PubRel(flying.packet_id),
        };
        flying.sent = true;
        self.unsent -= 1;
        Some(packet)
    }

    /// Makes the PUBLISH packet of a delivery. Where the session `lasts` it is kept until it is acknowledged.
    pub(super) fn send(&mut self, delivery: Delivery, lasts: bool) -> Box<Publish> {
        let awaits = match delivery.qos {
            QoS::AtMostOnce => return delivery.publish(None),
            QoS::AtLeastOnce => Awaits::Ack,
            QoS::ExactlyOnce => Awaits::Received,
        };
        let packet_id = self.free_id();
        let publish = delivery.publish(Some(packet_id));
        let seq = delivery.seq;
        let delivery = lasts.then_some(delivery);
        self.flying.push_back(Flying { packet_id, awaits, delivery, seq, sent: true, stored: None });
        publish
    }

    /// The client has the QoS 1 publish, or refused the QoS 2 one. Gives the entry that is over.
    pub(super) fn on_puback(&mut self, packet_id: NonZeroU16) -> Option<Flying> {
        self.take(packet_id, |awaits| awaits != Awaits::Complete)
    }

    /// The client has the QoS 2 publish. True where that is news.
    pub(super) fn on_pubrec(&mut self, packet_id: NonZeroU16) -> bool {
        let flying = self.flying.iter_mut().find(|flying| flying.packet_id == packet_id && flying.sent);
        match flying {
            Some(flying) if flying.awaits == Awaits::Received => {
                flying.awaits = Awaits::Complete;
                flying.delivery = None;
                true
            }
            _ => false,
        }
    }

    /// The QoS 2 exchange is over.
    pub(super) fn on_pubcomp(&mut self, packet_id: NonZeroU16) -> Option<Flying> {
        self.take(packet_id, |awaits| awaits == Awaits::Complete)
    }

    /// Gives back the identifier of a publish that could not be encoded.
    pub(super) fn forget(&mut self, packet_id: NonZeroU16) -> Option<Flying> {
        self.take(packet_id, |_| true)
    }

    fn take(&mut self, packet_id: NonZeroU16, is_due: impl Fn(Awaits) -> bool) -> Option<Flying> {
        let found = |flying: &Flying| flying.packet_id == packet_id && flying.sent && is_due(flying.awaits);
        let at = self.flying.iter().position(found)?;
        self.flying.remove(at)
    }

    fn free_id(&mut self) -> NonZeroU16 {
        loop {
            // At most WINDOW identifiers are taken, so this ends.
            self.last = self.last.wrapping_add(1);
            if let Some(packet_id) = NonZeroU16::new(self.last)
                && self.flying.iter().all(|flying| flying.packet_id != packet_id)
            {
                return packet_id;
            }
        }
    }
}
