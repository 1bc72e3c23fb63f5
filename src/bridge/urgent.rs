//! The way of a publish of which some messages are urgent and some, perhaps, are not.
//!
//! Its acknowledgement waits for both spools, and its client is read on meanwhile. The urgent ones are stored first: if
//! their spool has no room, all of them go the way of the others, in one piece, and nothing has happened yet. If it is
//! the other spool that has no room, the publish is taken all the same and its ordinary messages are stored as soon as
//! there is some; until then its client is not acknowledged and not read.

use super::commits::{STORED, URGENT};
use super::meters::Meter;
use super::{Bridge, Current, Own, Reason, Stores, messages};
use crate::broker::{Offer, Sequences};
use crate::message::Publish;
use crate::rules::Output;
use crate::spool::{AppendError, Appender, Ticket};

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
        let urgent = self.store_first(now, out)?;
        Some(self.store_rest(now, publish, out, (failed, Sequences::NONE, Some(urgent))))
    }

    /// Stores the urgent messages of a publish. `None` where there are none, or they have to go the ordinary way.
    pub(super) fn store_first(&self, now: &Current, out: &Output) -> Option<Ticket> {
        let first = || out.records().filter(|(rule, _)| now.set.is_urgent(*rule));
        first().next()?;
        let ticket = self.stores.append(&self.stores.urgent, first().map(|(_, record)| record)).ok()?;
        self.made(now, first(), ticket);
        Some(ticket)
    }

    /// Stores the messages of a publish of which some `parts` are stored already, and its `urgent` ones perhaps. It is
    /// taken whether or not there is room for them now.
    pub(super) fn store_rest(
        &self,
        now: &Current,
        publish: &Publish<'_>,
        out: &Output,
        (mut failed, mut parts, urgent): (Option<Reason<'_>>, Sequences, Option<Ticket>),
    ) -> Offer {
        if let Some(ticket) = urgent {
            parts = parts.and(URGENT, ticket.0);
        }
        let rest = || messages(now, out).filter(|(rule, _)| !(urgent.is_some() && now.set.is_urgent(*rule)));
        if rest().next().is_some() {
            match self.stores.append(&self.stores.normal, rest().map(|(_, record)| record)) {
                Ok(ticket) => {
                    parts = parts.and(STORED, ticket.0);
                    self.made(now, rest(), ticket);
                }
                Err(AppendError::TooLarge) => failed = Some(super::TOO_LARGE_FOR_SPOOL),
                Err(AppendError::Full | AppendError::Closed) => {
                    let rest = rest().map(|(rule, record)| (now.meters.of(rule).clone(), record.to_vec())).collect();
                    return self.taken_later(publish, failed, (rest, parts));
                }
            }
        }
        self.taken(publish, parts, failed)
    }

    /// The answer for a publish of which the `rest` is stored later.
    fn taken_later(
        &self,
        publish: &Publish<'_>,
        failed: Option<Reason<'_>>,
        (rest, parts): (Vec<(Meter, Vec<u8>)>, Sequences),
    ) -> Offer {
        let later = later(self.stores.clone(), self.own.clone(), rest);
        let spool = self.stores.normal.clone();
        let quarantined = failed.map(|reason| self.quarantined(publish, reason));
        let translated = quarantined.is_none().then(|| self.unsettled(self.metrics.publishes_translated.clone()));
        let all = async move {
            let ticket = later.await;
            if let Some(translated) = translated {
                translated.settle();
            }
            durable(spool, ticket.0).await;
            if let Some(quarantined) = quarantined {
                quarantined.await;
            }
        };
        Offer::TakenAfter(Box::pin(all), parts)
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
async fn later(stores: Stores, own: Own, records: Vec<(Meter, Vec<u8>)>) -> Ticket {
    loop {
        match stores.append(&stores.normal, records.iter().map(|(_, record)| record.as_slice())) {
            Ok(ticket) => {
                records.iter().for_each(|(meter, record)| meter.made(&own, record, ticket));
                return ticket;
            }
            Err(AppendError::Full) => stores.normal.room().await,
            Err(AppendError::Closed | AppendError::TooLarge) => return std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::super::tests::{bridge, fill};
    use super::super::{Holding, rules};
    use super::*;
    use crate::broker::{Commits as _, Ingest as _};
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

    fn ready(written: &mut Pin<Box<dyn Future<Output = ()> + Send>>) -> bool {
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

        let mut commits = bridge.commits();
        let Offer::Taken(parts) = offer(&bridge, "a/one") else { panic!("one urgent message") };
        assert_eq!(parts, Sequences::of(URGENT, 1));
        commits.reach(parts).await;
        assert_eq!((urgent.appender.stats().waiting, normal.appender.stats().waiting), (1, 0));

        let Offer::Taken(parts) = offer(&bridge, "a/both") else { panic!("one message in each spool") };
        assert_eq!(parts, Sequences::of(URGENT, 2).and(STORED, 1));
        commits.reach(parts).await;
        assert_eq!((urgent.appender.stats().waiting, normal.appender.stats().waiting), (2, 1));

        // The ordinary spool is full: the alarm is on its way, the acknowledgement waits for the copy.
        fill(&normal.appender).await;
        let Offer::TakenAfter(mut written, parts) = offer(&bridge, "a/both") else { panic!("taken all the same") };
        assert_eq!(parts, Sequences::of(URGENT, 3));
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
        assert!(
            matches!(offer(&bridge, "a/both"), Offer::Taken(parts) if parts == Sequences::of(STORED, parts.in_log(STORED)))
        );
        drop(bridge);
    }

    /// In progress until all its messages are stored; where its client leaves before that, the publish is not one that
    /// was translated.
    #[tokio::test]
    async fn a_publish_counts_once_all_its_messages_are_stored() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = PrometheusBuilder::new().build_recorder();
        let (bridge, writer, (mut spools, _held)) =
            metrics::with_local_recorder(&recorder, || bridge(dir.path(), None, RULES));
        let normal = &mut spools[0];
        fill(&normal.appender).await;
        let counted = || {
            let page = recorder.handle().render();
            let count = |name: &str| {
                let line = page.lines().find_map(|line| line.strip_prefix(&format!("brownbridge_{name} ")));
                line.map_or(0, |count| count.parse::<u64>().unwrap())
            };
            (count("publishes_translated_total"), count("messages_dropped_total{reason=\"publisher_gone\"}"))
        };
        let both = || match metrics::with_local_recorder(&recorder, || offer(&bridge, "a/both")) {
            Offer::TakenAfter(written, _) => written,
            _ => panic!("the copy has no room"),
        };
        let (gone, stays) = (both(), both());
        assert_eq!(counted(), (0, 0), "both are in progress");
        metrics::with_local_recorder(&recorder, || drop(gone));
        assert_eq!(counted(), (0, 1));
        for _ in 0..normal.appender.stats().waiting {
            let stored = normal.reader.next(true).await.unwrap();
            normal.acker.ack(stored.seq);
        }
        stays.await;
        assert_eq!(counted(), (1, 1));
        drop(bridge);
        writer.join();
    }
}
