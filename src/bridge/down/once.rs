//! Commands that are published once at most, also where the bridge is killed or loses its power in between.
//!
//! Before such a message is published, the audit log says `begun`, on the disk. A message of which that is known is never
//! published (again): where its command waits for an answer, one that comes late still completes it; else it is left to
//! the hub until it expires, so that the service hears of it if it asked to. What was begun and could not be published
//! is withdrawn when it leaves the desk.

use std::time::Instant;

use super::{Audit, Done, Downlink, Kind, LOCK, Order, Stage, Timestamp};

/// Messages that are known again after they were done, and as many that were begun.
const REMEMBERED: usize = 10_000;
/// What the audit log says before a message is published, and where it was not after all.
pub(super) const BEGUN: &str = "begun";
pub(super) const WITHDRAWN: &str = "withdrawn";

/// What a line of the audit log says about a message that may come again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Done(String),
    Begun(String),
    Withdrawn(String),
}

/// The messages that were done, and those that may have been published.
pub(super) fn known(audit: &Audit) -> (Done, Done) {
    let (mut done, mut begun) = (Done::new(REMEMBERED), Done::new(REMEMBERED));
    for said in audit.said() {
        match said {
            Said::Done(key) => done.add(&key),
            Said::Begun(key) => begun.add(&key),
            Said::Withdrawn(key) => begun.forget(&key),
        }
    }
    (done, begun)
}

impl Downlink {
    /// Takes a message that is not known to be done.
    pub(super) async fn take(&mut self, order: Order, key: String) {
        let now = Instant::now();
        if !order.made.once || order.made.publishes.is_empty() {
            return self.deliver(order, key, (now, now + LOCK)).await;
        }
        if key.is_empty() {
            let detail = "`once` takes no message without a message id: it could not be known again";
            return self.finish(order, &key, "no_id", detail).await;
        }
        if !self.begun.has(&key) {
            return self.deliver(order, key, (now, now + LOCK)).await;
        }
        if order.expires.is_some_and(|expires| expires <= Timestamp::now()) {
            return self.tell(&order, "expired", "it may have been published before", false);
        }
        let detail = "it was published before, or may have been";
        self.tell(&order, "not_repeated", detail, false);
        if let Some((topic, _)) = order.made.answer.clone() {
            self.parts.watch.add(&topic);
            self.wait(order, key, (Stage::Late(topic), now + LOCK)).await;
        }
    }

    /// Writes down that a message which may be published once is published now; false where it cannot be written, and
    /// nothing may be published.
    pub(super) fn note_begin(&mut self, order: &mut Order, key: &str) -> bool {
        if !order.made.once || order.begun || matches!(order.kind, Kind::Method(_)) {
            return true;
        }
        if !self.parts.audit.write_through(&order.line_of(BEGUN, "", false)) {
            return false;
        }
        self.begun.add(key);
        order.begun = true;
        true
    }

    /// What was begun and not published may be published when it comes again.
    pub(super) fn withdraw(&mut self, order: &Order) {
        if order.begun {
            self.begun.forget(&super::key(&order.device, &order.id));
            self.note(order, WITHDRAWN, "", false);
        }
    }
}
