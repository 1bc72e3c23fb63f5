//! What an acknowledgement waits for: the commits of every log that holds a part of what was made of the publish.

use tokio::sync::watch;

use super::Stores;
use super::twins::Twins;
use crate::broker::{Commits, LOGS, Sequences};
use crate::spool::{Appender, Durable};

/// The spool of all messages, as a log of the broker's ingest.
pub(super) const STORED: usize = 0;
/// The holding spool.
pub(super) const HELD: usize = 1;
/// The spool of urgent messages.
pub(super) const URGENT: usize = 2;
/// The journal of what is reported.
pub(super) const REPORTED: usize = 3;

/// What the logs have on disk, for one connection. A log is asked only for what it was not seen to have: where there
/// are no windows, no alarms and no twins, only the spool of all messages is.
pub struct LogCommits {
    logs: [Log; LOGS],
    seen: [u64; LOGS],
}

/// What is asked what it has.
enum Log {
    Spool(watch::Receiver<Durable>),
    Journal(watch::Receiver<u64>),
    /// There is no such log here, and nothing in it.
    Missing,
}

impl Log {
    /// The last sequence that is on disk.
    fn durable(&self) -> u64 {
        match self {
            Self::Spool(spool) => spool.borrow().seq,
            Self::Journal(journal) => *journal.borrow(),
            Self::Missing => 0,
        }
    }

    /// The same, once it is `sequence` at least; `None` if the log ends before.
    async fn reach(&mut self, sequence: u64) -> Option<u64> {
        match self {
            Self::Spool(spool) => spool.wait_for(|durable| durable.seq >= sequence).await.ok().map(|now| now.seq),
            Self::Journal(journal) => journal.wait_for(|durable| *durable >= sequence).await.ok().map(|now| *now),
            Self::Missing => None,
        }
    }
}

impl LogCommits {
    pub(super) fn of(stores: &Stores, twins: Option<&Twins>) -> Self {
        let mut logs = [const { Log::Missing }; LOGS];
        let spools = [(STORED, &stores.normal), (HELD, stores.held.spool()), (URGENT, &stores.urgent)];
        let spools = spools.map(|(log, spool)| (log, Log::Spool(Appender::durable(spool))));
        let journals = twins.and_then(Twins::committed).map(|journal| (REPORTED, Log::Journal(journal)));
        for (number, log) in spools.into_iter().chain(journals) {
            if let Some(place) = logs.get_mut(number) {
                *place = log;
            }
        }
        Self { logs, seen: [0; LOGS] }
    }
}

impl Commits for LogCommits {
    fn cover(&mut self, sequences: Sequences) -> bool {
        let logs = self.logs.iter().zip(&mut self.seen).zip(sequences.each());
        for ((log, seen), sequence) in logs {
            if sequence > *seen {
                *seen = log.durable();
                if sequence > *seen {
                    return false;
                }
            }
        }
        true
    }

    async fn reach(&mut self, sequences: Sequences) {
        let logs = self.logs.iter_mut().zip(&mut self.seen).zip(sequences.each());
        for ((log, seen), sequence) in logs {
            if sequence > *seen {
                match log.reach(sequence).await {
                    Some(durable) => *seen = durable,
                    // The log is gone: nothing more becomes durable.
                    None => return std::future::pending().await,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use proptest::prelude::*;
    use tokio::sync::watch::Sender;

    use super::super::tests::bridge;
    use super::*;
    use crate::broker::{Ingest as _, Offer};
    use crate::journal;
    use crate::message::{Publish, Timestamp};

    const RULES: &str = "[[rule]]\ntopic = \"twin/#\"\ndevice = \"d\"\nto = \"reported\"\ncontinue = true\n\
        [[rule]]\ntopic = \"window/twin\"\ndevice = \"d\"\nto = \"reported\"\ncontinue = true\n\
        [[rule]]\ntopic = \"window/#\"\ndevice = \"d\"\nbatch = { max_wait = \"1d\" }\ncontinue = true\n\
        [[rule]]\ntopic = \"+/alarm\"\ndevice = \"d\"\npriority = \"high\"\ncontinue = true\n\
        [[rule]]\ntopic = \"+/+\"\nwhen = '$topic != \"window/alone\"'\ndevice = \"d\"\n";

    /// One answer for all logs, and none that would stop the reading of the connection.
    #[tokio::test]
    async fn what_a_publish_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let (bridge, writer, _spools) = bridge(dir.path(), Some("own"), RULES);
        let (journal, _journal, _) = journal::open_synced(&dir.path().join("twins"), ("", 1 << 20), |_| ()).unwrap();
        let bridge = bridge.reporting(Twins::kept_in(journal.clone()));
        journal.begin_anew();
        journal.written_anew();
        let mut scratch = bridge.scratch();
        let mut commits = bridge.commits();
        for (topic, expect) in [
            ("plain/a", [1, 0, 0, 0]),
            ("window/alone", [0, 1, 0, 0]),
            ("window/a", [2, 2, 0, 0]),
            ("plain/alarm", [3, 0, 1, 0]),
            ("window/alarm", [4, 3, 2, 0]),
            ("other/a/b", [0, 0, 0, 0]),
            ("twin/a/alone", [0, 0, 0, 1]),
            ("twin/a", [5, 0, 0, 2]),
            ("twin/alarm", [6, 0, 3, 3]),
            ("window/twin", [7, 4, 0, 4]),
            ("twin/nothing/new", [0, 0, 0, 0]),
        ] {
            let publish = Publish {
                topic,
                payload: if topic.ends_with("new") { b"{}" } else { b"{\"v\":1}" },
                client: "c",
                user: None,
                qos: 1,
                retain: false,
                received: Timestamp(0),
            };
            let Offer::Taken(parts) = bridge.offer(&mut scratch, &publish) else { panic!("{topic} stops the reading") };
            assert_eq!(parts.each(), expect, "{topic}");
            commits.reach(parts).await;
        }
        drop(bridge);
        writer.join();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// However the logs come along, what is said to be covered is, and nothing else.
        #[test]
        fn covered_is_what_every_log_has(
            steps in prop::collection::vec((0..LOGS, 0..4_u64, prop::array::uniform::<_, LOGS>(0..20_u64)), 1..40),
        ) {
            let spools = [0; REPORTED].map(|seq| Sender::new(Durable { seq, ..Durable::default() }));
            let journal = Sender::new(0);
            let mut logs = [const { Log::Missing }; LOGS];
            logs.iter_mut().zip(&spools).for_each(|(log, spool)| *log = Log::Spool(spool.subscribe()));
            logs[REPORTED] = Log::Journal(journal.subscribe());
            let mut commits = LogCommits { logs, seen: [0; LOGS] };
            let mut durable = [0; LOGS];
            for (log, more, wanted) in steps {
                durable[log] += more;
                match spools.get(log) {
                    Some(spool) => spool.send_modify(|now| now.seq += more),
                    None => journal.send_modify(|now| *now += more),
                }
                let with = |all: Sequences, (log, sequence): (usize, &u64)| all.and(log, *sequence);
                let sequences = wanted.iter().enumerate().fold(Sequences::NONE, with);
                let expect = durable.iter().zip(wanted).all(|(durable, wanted)| wanted <= *durable);
                // One of the two may see it first.
                let reaches = |commits: &mut LogCommits| {
                    pin!(commits.reach(sequences)).poll(&mut Context::from_waker(Waker::noop())).is_ready()
                };
                if more % 2 == 0 {
                    prop_assert_eq!(reaches(&mut commits), expect);
                }
                prop_assert_eq!(commits.cover(sequences), expect);
                prop_assert_eq!(reaches(&mut commits), expect);
            }
        }
    }
}
