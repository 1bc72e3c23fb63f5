//! Both ends of a device's queue: where its line takes messages from and settles them, and where its shelf fills it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::queue::{Device, Home};
use crate::message::Timestamp;
use crate::quarantine::Reason;
use crate::uplink::{Backlog, Isolation, Lane, MessageId, Outcome, TOO_OLD, Waiting};

/// A device's queue as its line reads it.
pub(super) struct Source(pub(super) Arc<Device>);

impl Backlog for Source {
    async fn next(&mut self, _: Lane) -> Option<Waiting> {
        loop {
            let news = self.0.news.notified();
            if let Some(waiting) = self.0.next() {
                return Some(waiting);
            }
            news.await;
        }
    }

    fn split(&mut self, _: u64) -> bool {
        false
    }
}

/// A device's queue as its line settles it.
pub(super) struct Settle {
    pub(super) shared: Arc<Shared>,
    pub(super) device: Arc<Device>,
}

impl Settle {
    /// Takes a message out of memory and, with `spool`, out of where it is kept. False where it was not there.
    fn settle(&self, id: MessageId, spool: impl FnOnce() -> bool) -> bool {
        let Some(held) = self.device.settle(id) else { return false };
        let counts = match held.home {
            Home::Spool | Home::OnItsWay => spool(),
            Home::Shelf(home, place) => {
                home.news.notify_waiters();
                self.shared.shelves.settle(&home.id, place)
            }
        };
        self.shared.wake.notify_one();
        counts
    }

    fn is_on_shelf(&self, id: MessageId) -> bool {
        self.device.state().is_on_shelf(id)
    }
}

impl Outcome for Settle {
    fn delivered(&self, id: MessageId) -> bool {
        let counts = self.settle(id, || self.shared.outcome.delivered(id));
        {
            let mut state = self.device.state();
            // One that was given up meanwhile is counted there, and nowhere else.
            state.delivered += u64::from(counts);
            state.last_delivered = Some(Timestamp::now());
        }
        *self.shared.last_puback.lock() = Some(Instant::now());
        counts
    }

    fn abandon(&self, id: MessageId, reason: &'static str) {
        let Some(held) = self.device.settle(id) else { return };
        match held.home {
            Home::Spool | Home::OnItsWay => self.shared.outcome.abandon(id, reason),
            Home::Shelf(home, place) if reason == TOO_OLD => {
                self.shared.shelves.expire_one(&home.id, place);
            }
            Home::Shelf(home, place) => {
                if self.shared.shelves.settle(&home.id, place) {
                    ::metrics::counter!("brownbridge_messages_shed_total", "reason" => reason).increment(1);
                }
            }
        }
        self.shared.wake.notify_one();
    }

    async fn isolate(&self, waiting: &Waiting, isolation: &Isolation) {
        if !self.is_on_shelf(waiting.id) {
            self.shared.outcome.isolate(waiting, isolation).await;
            // It may have come to a shelf meanwhile: then the books have it twice, and it leaves twice.
            if self.settle(waiting.id, || false) {
                self.shared.metrics.isolated(isolation.reason);
            }
            return;
        }
        self.shared.quarantine(waiting, isolation).await;
        if self.settle(waiting.id, || false) {
            self.shared.metrics.isolated(isolation.reason);
        }
    }
}

impl Shared {
    /// Writes a message into the quarantine. It is not counted.
    pub(super) async fn quarantine(&self, waiting: &Waiting, isolation: &Isolation) {
        let reason = Reason { rule: "", reason: isolation.reason, detail: &isolation.detail };
        self.outcome.quarantine().put_message(&waiting.id.to_string(), &waiting.record, reason).await;
    }

    /// Fills the line of a device from its shelf, as there is room.
    pub(super) async fn refill(&self, device: &Arc<Device>) -> Infallible {
        const AT_ONCE: usize = 64;
        loop {
            let news = device.news.notified();
            if !device.wants_more() {
                news.await;
                continue;
            }
            let (shelves, id, from) = (Arc::clone(&self.shelves), Arc::clone(&device.id), device.read_to());
            let read = tokio::task::spawn_blocking(move || shelves.read(&id, from, AT_ONCE)).await;
            match read {
                Ok(Ok(chunk)) => {
                    if !device.take_chunk(chunk, &self.shelves) {
                        news.await; // What is on its way to the shelf is not there yet.
                    }
                }
                Ok(Err(error)) => self.disk_trouble("read", &error).await,
                Err(_) => news.await,
            }
        }
    }

    /// Tells that a shelf cannot be used, and waits before it is tried again.
    pub(super) async fn disk_trouble(&self, what: &str, error: &std::io::Error) {
        self.metrics.log_pace("shelf", |left_out| {
            tracing::error!(left_out, "a shelf cannot be {what}: {error}; it is tried again");
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
