//! The way of a publish of which some messages are urgent and some, perhaps, are not.
//!
//! Its acknowledgement waits for both spools. The urgent ones are stored first: if their spool has no room, all of
//! them go the way of the others, in one piece, and nothing has happened yet. If it is the other spool that has no
//! room, the publish is taken all the same and its ordinary messages are stored as soon as there is some; until then
//! its client is not acknowledged and not read.

use std::future::Future;
use std::pin::Pin;

use ::metrics::Counter;

use super::{Bridge, Reason};
use crate::broker::Offer;
use crate::message::Publish;
use crate::rules::Output;
use crate::spool::{AppendError, Appender};

type Written = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Bridge {
    /// Stores a publish with urgent messages. `None` where they have to go the ordinary way.
    #[cold]
    pub(super) fn store_urgent(
        &self,
        urgent: &Appender,
        publish: &Publish<'_>,
        out: &Output,
        failed: Option<Reason<'_>>,
    ) -> Option<Offer> {
        let lane = |first: bool| {
            let records = out.records().filter(move |(rule, _)| self.rules.is_urgent(*rule) == first);
            records.map(|(_, record)| record)
        };
        let ticket = urgent.try_append(lane(true)).ok()?;
        let mut written: Vec<Written> = vec![Box::pin(durable(urgent.clone(), ticket.0))];
        let (mut sequence, mut failed) = (0, failed);
        let counted = |first: bool| {
            let rules = out.records().map(|(rule, _)| rule).filter(|rule| self.rules.is_urgent(*rule) == first);
            rules.for_each(|rule| self.counter(rule).increment(1));
        };
        counted(true);
        let others = if lane(false).next().is_none() { None } else { Some(self.stores.normal.try_append(lane(false))) };
        match others {
            None => {}
            Some(Ok(ticket)) => {
                sequence = ticket.0;
                counted(false);
            }
            Some(Err(AppendError::TooLarge)) => failed = Some(super::TOO_LARGE_FOR_SPOOL),
            Some(Err(AppendError::Full | AppendError::Closed)) => {
                let records = out.records().filter(|(rule, _)| !self.rules.is_urgent(*rule));
                let records = records.map(|(rule, record)| (self.counter(rule).clone(), record.to_vec())).collect();
                written.push(Box::pin(later(self.stores.normal.clone(), records)));
            }
        }
        match failed {
            None => self.metrics.publishes_translated.increment(1),
            Some(reason) => written.push(self.quarantined(publish, reason)),
        }
        let all = async move {
            for part in written {
                part.await;
            }
        };
        Some(Offer::TakenAfter(Box::pin(all), sequence))
    }
}

/// Returns when the spool has made a sequence durable; never, if it ends before.
async fn durable(spool: Appender, sequence: u64) {
    let mut durable = spool.durable();
    if durable.wait_for(|durable| durable.seq >= sequence).await.is_err() {
        std::future::pending().await
    }
}

/// Stores records, each with the counter of its rule, when there is room.
async fn later(spool: Appender, records: Vec<(Counter, Vec<u8>)>) {
    loop {
        match spool.try_append(records.iter().map(|(_, record)| record.as_slice())) {
            Ok(ticket) => {
                records.iter().for_each(|(counter, _)| counter.increment(1));
                return durable(spool, ticket.0).await;
            }
            Err(AppendError::Full) => spool.room().await,
            Err(AppendError::Closed | AppendError::TooLarge) => return std::future::pending().await,
        }
    }
}
