//! What a client subscribes to, and whether it still may.

use bytestring::ByteString;
use rmqtt_codec::types::QoS;
use rmqtt_codec::v5::{RetainHandling, SubscribeAckReason, UnsubscribeAckReason};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::session::Subscribed;
use super::super::wire::{Close, Outgoing, Subscribe};
use super::super::{Ingest, share};
use super::Connection;
use crate::message;

impl<S, I> Connection<'_, S, I>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Ingest,
{
    pub(super) fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), Close> {
        let Subscribe { packet_id, identifier, filters } = subscribe;
        if filters.iter().any(|(filter, options)| options.no_local && share::parse(filter).is_some()) {
            return Err(Close::Protocol); // [MQTT-3.8.3-4]
        }
        let mut status = Vec::with_capacity(filters.len());
        for (filter, mut options) in filters {
            options.no_local |= self.is_bridge;
            options.retain_as_published |= self.is_bridge;
            status.push(self.subscribe(&filter, Subscribed { options, identifier }));
        }
        self.send(Outgoing::SubAck { packet_id, status });
        Ok(())
    }

    fn subscribe(&mut self, filter: &ByteString, to: Subscribed) -> SubscribeAckReason {
        if !share::is_valid(filter) {
            return SubscribeAckReason::TopicFilterInvalid;
        }
        if !self.badge.may_subscribe(share::inner(filter)) {
            self.refused(filter, "not_authorized");
            return SubscribeAckReason::NotAuthorized;
        }
        let Some(known) = self.place.subscribe(filter, to) else {
            self.refused(filter, "max_subscriptions");
            return SubscribeAckReason::QuotaExceeded;
        };
        let wanted = match to.options.retain_handling {
            RetainHandling::AtSubscribe => true,
            RetainHandling::AtSubscribeNew => !known,
            RetainHandling::NoAtSubscribe => false,
        };
        if wanted && share::parse(filter).is_none() {
            self.feed.ask(filter, to.options.qos, to.identifier);
        }
        match to.options.qos {
            QoS::AtMostOnce => SubscribeAckReason::GrantedQos0,
            QoS::AtLeastOnce => SubscribeAckReason::GrantedQos1,
            QoS::ExactlyOnce => SubscribeAckReason::GrantedQos2,
        }
    }

    fn refused(&self, filter: &str, reason: &'static str) {
        self.shared.metrics.subscription_refused(reason);
        self.shared.metrics.log_pace("subscription refused", |left_out| {
            let (client, filter) = (message::excerpt(&self.client_id), message::excerpt(filter));
            tracing::warn!(client, filter, reason, left_out, "a subscription was refused");
        });
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) -> UnsubscribeAckReason {
        self.feed.forget(filter);
        if self.place.unsubscribe(filter) {
            UnsubscribeAckReason::Success
        } else {
            UnsubscribeAckReason::NoSubscriptionExisted
        }
    }

    /// Ends the subscriptions the client may not have any more, and drops what waits because of them: its rights have
    /// changed, or the session is from a time when it had others.
    pub(super) fn judge_again(&mut self) {
        if !self.badge.is_judged() {
            return;
        }
        let mut changed = false;
        for (filter, _) in self.place.session.subscriptions() {
            if !self.badge.may_subscribe(share::inner(&filter)) {
                self.refused(&filter, "not_authorized");
                self.unsubscribe(&filter);
                changed = true;
            }
        }
        if changed {
            let badge = &mut self.badge;
            let dropped = self.place.session.drop_waiting(|topic| !badge.may_subscribe(topic));
            self.shared.metrics.deliveries_dropped("not_authorized", dropped);
        }
    }
}
