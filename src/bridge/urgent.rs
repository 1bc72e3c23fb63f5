//! The way of a publish of which some messages are urgent and some, perhaps, are not.
//!
//! Its acknowledgement waits for both spools. The urgent ones are stored first: if their spool has no room, all of
//! them go the way of the others, in one piece, and nothing has happened yet. If it is the other spool that has no
//! room, the publish is taken all the same and its ordinary messages are stored as soon as there is some; until then
//! its client is not acknowledged and not read.

use std::future::Future;
use std::pin::Pin;

use super::meters::Meter;
use super::{Bridge, Current, Own, Reason, Stores, messages};
use crate::broker::Offer;
use crate::message::Publish;
use crate::rules::{Output, RuleIndex};
use crate::spool::{AppendError, Appender};

pub(super) type Written = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Bridge {
    /// Stores a publish with urgent messages. `None` where they have to go the ordinary way.
    #[cold]
    pub(super) fn store_urgent(
        &self,
        now: &Current,
        publish: &Publish<'_>,
        out: &Output,
        failed: Option<Reason<'_>>,
    ) -> Option<Offer> {
        let written = self.store_first(now, out)?;
        Some(self.store_rest(now, publish, out, (failed, vec![written], true)))
    }

    /// Stores the urgent messages of a publish. `None` where there are none, or they have to go the ordinary way.
    pub(super) fn store_first(&self, now: &Current, out: &Output) -> Option<Written> {
        let first = || out.records().filter(|(rule, _)| now.set.is_urgent(*rule));
        first().next()?;
        let ticket = self.stores.append(&self.stores.urgent, first().map(|(_, record)| record)).ok()?;
        self.made(now, first());
        Some(Box::pin(durable(self.stores.urgent.clone(), ticket.0)))
    }

    /// Stores the messages of a publish of which a part is `written` already, the urgent ones perhaps among it. It is
    /// taken whether or not there is room for them now.
    pub(super) fn store_rest(
        &self,
        now: &Current,
        publish: &Publish<'_>,
        out: &Output,
        (mut failed, mut written, urgent_is): (Option<Reason<'_>>, Vec<Written>, bool),
    ) -> Offer {
        let is_left = |(rule, _): &(RuleIndex, &[u8])| !(urgent_is && now.set.is_urgent(*rule));
        let rest: Vec<(RuleIndex, &[u8])> = messages(now, out).filter(is_left).collect();
        let mut sequence = 0;
        if !rest.is_empty() {
            match self.stores.append(&self.stores.normal, rest.iter().map(|(_, record)| *record)) {
                Ok(ticket) => {
                    sequence = ticket.0;
                    self.made(now, rest.into_iter());
                }
                Err(AppendError::TooLarge) => failed = Some(super::TOO_LARGE_FOR_SPOOL),
                Err(AppendError::Full | AppendError::Closed) => {
                    let rest = rest.into_iter().map(|(rule, record)| (now.meters.of(rule).clone(), record.to_vec()));
                    written.push(Box::pin(later(self.stores.clone(), self.own.clone(), rest.collect())));
                }
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
        Offer::TakenAfter(Box::pin(all), sequence)
    }
}

/// Returns when the spool has made a sequence durable; never, if it ends before.
pub(super) async fn durable(spool: Appender, sequence: u64) {
    let mut durable = spool.durable();
    if durable.wait_for(|durable| durable.seq >= sequence).await.is_err() {
        std::future::pending().await
    }
}

/// Stores records, each with the meter of its rule, when there is room.
async fn later(stores: Stores, own: Own, records: Vec<(Meter, Vec<u8>)>) {
    let spool = stores.normal.clone();
    loop {
        match stores.append(&spool, records.iter().map(|(_, record)| record.as_slice())) {
            Ok(ticket) => {
                records.iter().for_each(|(meter, record)| meter.made(&own, record));
                return durable(spool, ticket.0).await;
            }
            Err(AppendError::Full) => spool.room().await,
            Err(AppendError::Closed | AppendError::TooLarge) => return std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::super::tests::fill;
    use super::super::{Holding, rules};
    use super::*;
    use crate::broker::Ingest as _;
    use crate::config::Unmatched;
    use crate::diag::SourceFile;
    use crate::message::Timestamp;
    use crate::metrics::Metrics;
    use crate::spool::Options;
    use crate::{quarantine, spool};

    const RULES: &str = "[[rule]]\ntopic = \"a/{d}\"\ndevice = \"{d}\"\npriority = \"high\"\ncontinue = true\n\
        [[rule]]\ntopic = \"a/both\"\ndevice = \"copy\"\n";

    fn offer(bridge: &Bridge, topic: &str) -> Offer {
        let publish =
            Publish { topic, payload: b"1", client: "c", user: None, qos: 1, retain: false, received: Timestamp(0) };
        bridge.offer(&mut bridge.scratch(), &publish)
    }

    fn ready(written: &mut Written) -> bool {
        written.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn a_publish_is_acknowledged_when_all_its_messages_are_stored() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let options = Options { segment_size: Some(256 << 10), ..Options::new(dir.path().join(name), 1 << 20) };
            spool::open(options).unwrap()
        };
        let (mut normal, urgent) = (open("spool"), open("urgent"));
        let (quarantine, _writer) = quarantine::open(&dir.path().join("quarantine"), 1 << 20).unwrap();
        let file = SourceFile { path: "r.toml".into(), text: RULES.into() };
        let rules = (rules::load(&[file]).rules.unwrap(), Unmatched::Drop);
        let own = Own { hub: "h".into(), device: Some("own".into()), module: None, mark_late: false, block: None };
        let (held, _held) = Holding::over(open("held"));
        let stores = Stores { normal: normal.appender.clone(), urgent: urgent.appender.clone(), held, numbering: None };
        let bridge = Bridge::new(rules, own, stores, quarantine, Metrics::register());

        let Offer::TakenAfter(written, 0) = offer(&bridge, "a/one") else { panic!("one urgent message") };
        written.await;
        assert_eq!((urgent.appender.stats().waiting, normal.appender.stats().waiting), (1, 0));

        let Offer::TakenAfter(written, 1) = offer(&bridge, "a/both") else { panic!("one message in each spool") };
        written.await;
        assert_eq!((urgent.appender.stats().waiting, normal.appender.stats().waiting), (2, 1));

        // The ordinary spool is full: the alarm is on its way, the acknowledgement waits for the copy.
        fill(&normal.appender).await;
        let Offer::TakenAfter(mut written, 0) = offer(&bridge, "a/both") else { panic!("taken all the same") };
        assert!(!ready(&mut written));
        urgent.appender.durable().wait_for(|durable| durable.seq == 3).await.unwrap();
        assert!(!ready(&mut written), "the copy is nowhere yet");
        for _ in 0..normal.appender.stats().waiting {
            let stored = normal.reader.next(true).await.unwrap();
            normal.acker.ack(stored.seq);
        }
        written.await;
        assert_eq!(normal.appender.stats().waiting, 1);

        // Without room for alarms they go the way of all messages.
        fill(&urgent.appender).await;
        assert!(matches!(offer(&bridge, "a/both"), Offer::Taken(sequence) if sequence > 0));
        drop(bridge);
    }
}
