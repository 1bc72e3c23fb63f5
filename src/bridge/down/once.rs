//! Commands that are published once at most, also where the bridge is killed or loses its power in between.
//!
//! Before such a message is published, [`Begun`] has it, on the disk. A message of which that is known is never
//! published (again): where its command waits for an answer, one that comes late still completes it; else it is left to
//! the hub until it expires, so that the service hears of it if it asked to. What was begun and could not be published
//! is withdrawn when it leaves the desk.

use std::path::Path;
use std::time::Instant;

use super::audit::Said;
use super::begun::Begun;
use super::{Audit, Done, Downlink, Kind, LOCK, Order, Stage, Timestamp};

/// Messages that are known again after they were done, and as many that were begun.
const REMEMBERED: usize = 10_000;
/// What the audit log says before a message is published, and where it was not after all.
pub(super) const BEGUN: &str = "begun";
pub(super) const WITHDRAWN: &str = "withdrawn";

/// Why a message without an id is refused.
pub(super) const NO_ID: &str = "`once` takes no message without a message id: it could not be known again";

/// The messages that were done, and those that may have been published.
pub(super) fn known(state: &Path, audit: &Audit) -> (Done, Begun) {
    let mut done = Done::new(REMEMBERED);
    let said = audit.said();
    for said in &said {
        if let Said::Done(key) = said {
            done.add(key);
        }
    }
    (done, Begun::open(state, REMEMBERED, &said))
}

impl Downlink {
    /// Takes a message that is not known to be done.
    pub(super) async fn take(&mut self, order: Order, key: String) {
        let now = Instant::now();
        if !order.made.once || order.made.publishes.is_empty() {
            return self.deliver(order, key, (now, now + LOCK)).await;
        }
        if key.is_empty() {
            return self.finish(order, &key, "no_id", NO_ID).await;
        }
        if !self.begun.has(&key) {
            return self.deliver(order, key, (now, now + LOCK)).await;
        }
        if order.expires.is_some_and(|expires| expires <= Timestamp::now()) {
            return self.tell(&order, "expired", "it may have been published before", false);
        }
        let detail = "it was published before, or may have been";
        self.tell(&order, "not_repeated", detail, false);
        if let Some((topic, answer)) = order.made.answer.clone() {
            self.parts.watch.add(&topic, answer.picks());
            self.wait(order, key, (Stage::Late(topic), now + LOCK)).await;
        }
    }

    /// Writes down that a message which may be published once is published now; false where it cannot be written, and
    /// nothing may be published.
    pub(super) fn note_begin(&mut self, order: &mut Order, key: &str) -> bool {
        if !order.made.once || order.begun || matches!(order.kind, Kind::Method(_)) {
            return true;
        }
        order.begun = self.begun.begin(key, order.expires, Timestamp::now());
        if order.begun {
            self.note(order, BEGUN, "", false);
        }
        order.begun
    }

    /// What was begun and not published may be published when it comes again.
    pub(super) fn withdraw(&mut self, order: &Order) {
        if order.begun {
            self.begun.withdraw(&super::key(&order.device, &order.id));
            self.note(order, WITHDRAWN, "", false);
        }
    }
}
