//! The spools as the uplink sees them: three lanes and one account.
//!
//! Urgent messages have a spool of their own, so that a hundred gigabytes of telemetry cannot fill the way of an
//! alarm. It is there from the start, so that new rules can ask for it at any time and a disk that fills up has the room
//! already; when it is full, an urgent message goes the way of all others. The other spool has the live and the late lane.
//! The holding spool (`bridge::holding`) is none of the uplink's.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::holding::Holding;
use super::numbering::Numbering;
use crate::metrics::Metrics;
use crate::quarantine::{Quarantine, Reason};
use crate::spool::{Acker, AppendError, Appender, Durable, Opened, Reader, Stats, Ticket};
use crate::uplink::{Backlog, Isolation, Lane, MessageId, Outcome, TOO_OLD, Waiting};

/// What messages are stored with.
#[derive(Debug, Clone)]
pub struct Stores {
    /// For all of them.
    pub normal: Appender,
    /// For those that go first.
    pub urgent: Appender,
    /// For what waits in windows.
    pub held: Holding,
    /// Numbers them.
    pub numbering: Option<Arc<Numbering>>,
}

impl Stores {
    /// Numbers all messages in `property`, see `bridge::numbering`; what is needed for that is kept in `state`.
    pub fn number(&mut self, state: &Path, property: String) -> io::Result<()> {
        self.numbering = Some(Arc::new(Numbering::open(state, property)?));
        Ok(())
    }

    /// Appends the records of a publish to one of the spools.
    pub(super) fn append<'r>(
        &self,
        spool: &Appender,
        records: impl Iterator<Item = &'r [u8]> + Clone,
    ) -> Result<Ticket, AppendError> {
        match &self.numbering {
            None => spool.try_append(records),
            Some(numbering) => numbering.append(records, spool),
        }
    }

    /// Leaves behind what the next start goes on with. Nothing may be appended any more.
    pub fn close(&self) {
        if let Some(Err(error)) = self.numbering.as_ref().map(|numbering| numbering.close()) {
            tracing::warn!("the numbers of the sequence property are not kept, a new run begins: {error}");
        }
    }

    /// Both spools as one.
    pub fn stats(&self) -> Stats {
        self.normal.stats().with(self.urgent.stats())
    }

    /// Why messages cannot be stored any more, where that is so.
    pub fn failed(&self) -> Option<Arc<str>> {
        let failed = |appender: &Appender| appender.durable().borrow().failed.clone();
        failed(&self.normal).or_else(|| failed(&self.urgent)).or_else(|| failed(self.held.spool()))
    }

    /// Returns, with the reason, only when messages cannot be stored any more.
    pub async fn failure(self) -> Arc<str> {
        tokio::select! {
            reason = failure(self.normal.durable()) => reason,
            reason = failure(self.urgent.durable()) => reason,
            reason = failure(self.held.spool().durable()) => reason,
        }
    }
}

async fn failure(mut durable: watch::Receiver<Durable>) -> Arc<str> {
    match durable.wait_for(|durable| durable.failed.is_some()).await.map(|durable| durable.failed.clone()) {
        Ok(Some(reason)) => reason,
        _ => std::future::pending().await,
    }
}

/// The spools as the uplink reads them.
pub struct SpoolBacklog {
    normal: Source,
    urgent: Source,
}

struct Source {
    /// The spool's identifier.
    id: u64,
    reader: Reader,
}

impl Source {
    /// The next record, a late one only if asked for; `urgent` is the lane where it is not the log that says it.
    async fn next(&mut self, late: bool, urgent: bool) -> Option<Waiting> {
        let stored = self.reader.next(late).await?;
        let lane = match (urgent, stored.late) {
            (true, _) => Lane::Urgent,
            (false, false) => Lane::Live,
            (false, true) => Lane::Late,
        };
        Some(Waiting { id: MessageId { spool: self.id, sequence: stored.seq }, lane, record: stored.record })
    }
}

impl Backlog for SpoolBacklog {
    async fn next(&mut self, down_to: Lane) -> Option<Waiting> {
        let Self { normal, urgent } = self;
        let normal = async {
            match down_to {
                Lane::Urgent => std::future::pending().await,
                down_to => normal.next(down_to == Lane::Late, false).await,
            }
        };
        tokio::select! {
            biased;
            waiting = urgent.next(true, true) => waiting,
            waiting = normal => waiting,
        }
    }

    fn split(&mut self, over: u64) -> bool {
        self.normal.reader.split(over).is_some()
    }
}

/// The spools as the uplink settles them.
pub struct SpoolOutcome {
    normal: Acker,
    /// With the spool's identifier.
    urgent: (u64, Acker),
    /// Takes what the hub would not.
    quarantine: Quarantine,
    metrics: Metrics,
}

impl SpoolOutcome {
    /// Where what the hub would not take goes.
    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    fn spool(&self, id: MessageId) -> &Acker {
        let (urgent, acker) = &self.urgent;
        if *urgent == id.spool { acker } else { &self.normal }
    }
}

impl Outcome for SpoolOutcome {
    fn delivered(&self, id: MessageId) -> bool {
        self.spool(id).ack(id.sequence)
    }

    fn abandon(&self, id: MessageId, reason: &'static str) {
        if reason == TOO_OLD {
            // The spool counts these itself: it gives up old ones too.
            self.spool(id).expire(id.sequence);
        } else if self.spool(id).ack(id.sequence) {
            ::metrics::counter!("brownbridge_messages_shed_total", "reason" => reason).increment(1);
        }
    }

    async fn isolate(&self, waiting: &Waiting, isolation: &Isolation) {
        let reason = Reason { rule: "", reason: isolation.reason, detail: &isolation.detail };
        self.quarantine.put_message(&waiting.id.to_string(), &waiting.record, reason).await;
        if self.spool(waiting.id).ack(waiting.id.sequence) {
            self.metrics.isolated(isolation.reason);
        }
    }
}

/// Takes open spools (of all messages, of urgent ones, of what waits in windows) apart into what stores messages and what sends them.
pub fn join(
    [normal, urgent]: [Opened; 2],
    (held, held_spool): (Holding, crate::spool::Spool),
    (quarantine, metrics): (&Quarantine, &Metrics),
) -> (Stores, (SpoolBacklog, SpoolOutcome), Vec<crate::spool::Spool>) {
    let source = |appender: &Appender, reader| Source { id: appender.id(), reader };
    let backlog = SpoolBacklog {
        normal: source(&normal.appender, normal.reader),
        urgent: source(&urgent.appender, urgent.reader),
    };
    let outcome = SpoolOutcome {
        normal: normal.acker,
        urgent: (urgent.appender.id(), urgent.acker),
        quarantine: quarantine.clone(),
        metrics: metrics.clone(),
    };
    let stores = Stores { normal: normal.appender, urgent: urgent.appender, held, numbering: None };
    (stores, (backlog, outcome), vec![normal.spool, urgent.spool, held_spool])
}
