//! The fence at work: what [`Terms`] forbid is told, what they demand is written down before it is done, and new ones are
//! taken up between two commands.

use std::sync::Arc;

use super::{Downlink, Kind, Order};
use crate::downlink::{Forbidden, Terms};

/// What the audit log says before something is published, where it must.
pub(in crate::bridge) const ADMITTED: &str = "admitted";
/// The outcome where it cannot.
pub(in crate::bridge) const UNAUDITED: &str = "unaudited";

impl Downlink {
    /// The terms as they are now. Each decision is made by one look at them.
    pub(super) fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.settings.terms.borrow())
    }

    /// Rules that were taken up may want other subscriptions, and a log that could not be written may be again.
    pub(super) fn look(&self) {
        self.subscribe();
        let terms = self.terms();
        if terms.enabled && self.parts.audit.trouble().is_some() {
            self.parts.audit.look();
        }
    }

    /// These are in force from now on, at the start or since they were changed. What waits for its device or its turn meets them when it is tried next.
    pub(super) fn on_new_terms(&mut self) {
        let terms = self.terms();
        self.rates.change(terms.rate);
        self.subscribe();
        if terms.enabled {
            self.parts.audit.look();
        }
    }

    /// Writes down that an order is about to be carried out, where it must be; false where it cannot be, and the order may
    /// not be carried out.
    pub(super) fn admit(&self, order: &mut Order) -> bool {
        let terms = self.terms();
        if terms.audit_required && !order.admitted {
            order.admitted = self.parts.audit.write(&order.line_of(ADMITTED, ("", false), 0));
        }
        order.admitted || !terms.audit_required
    }

    /// An order is not carried out, for nobody could say afterwards that it was. The hub sends a message again.
    pub(super) async fn unaudited(&mut self, order: Order, key: &str) {
        let why = self.parts.audit.trouble().map_or("the audit log cannot be written".to_owned(), |t| t.to_string());
        if matches!(order.kind, Kind::Message) {
            self.withdraw(&order);
            return self.tell(&order, UNAUDITED, &why, false);
        }
        self.finish(order, key, UNAUDITED, &why).await;
    }

    /// An order is not carried out. What came while nothing may come down is left to the hub, as if it were not subscribed
    /// to any more: that takes a new connection, and this one has not ended yet.
    pub(super) async fn forbidden(&mut self, order: Order, key: &str, why: &Forbidden) {
        if matches!((why, &order.kind), (Forbidden::Closed, Kind::Message)) {
            self.withdraw(&order);
            return self.tell(&order, why.label(), &why.to_string(), false);
        }
        let detail = if *why == Forbidden::DryRun { String::new() } else { why.to_string() };
        self.finish(order, key, why.label(), &detail).await;
    }
}
