//! What an acknowledgement waits for: the commits of every spool that holds a part of what was made of the publish.

use tokio::sync::watch;

use super::Stores;
use crate::broker::{Commits, LOGS, Sequences};
use crate::spool::{Appender, Durable};

/// The spool of all messages, as a log of the broker's ingest.
pub(super) const STORED: usize = 0;
/// The holding spool.
pub(super) const HELD: usize = 1;
/// The spool of urgent messages.
pub(super) const URGENT: usize = 2;

/// What the spools have on disk, for one connection. A spool is asked only for what it was not seen to have: where
/// there are no windows and no alarms, only the spool of all messages is.
pub struct SpoolCommits {
    spools: [watch::Receiver<Durable>; LOGS],
    seen: [u64; LOGS],
}

impl SpoolCommits {
    pub(super) fn of(stores: &Stores) -> Self {
        // In the order of the numbers above.
        let spools = [&stores.normal, stores.held.spool(), &stores.urgent];
        Self { spools: spools.map(Appender::durable), seen: [0; LOGS] }
    }
}

impl Commits for SpoolCommits {
    fn cover(&mut self, sequences: Sequences) -> bool {
        let logs = self.spools.iter().zip(&mut self.seen).zip(sequences.each());
        for ((spool, seen), sequence) in logs {
            if sequence > *seen {
                *seen = spool.borrow().seq;
                if sequence > *seen {
                    return false;
                }
            }
        }
        true
    }

    async fn reach(&mut self, sequences: Sequences) {
        let logs = self.spools.iter_mut().zip(&mut self.seen).zip(sequences.each());
        for ((spool, seen), sequence) in logs {
            if sequence > *seen {
                match spool.wait_for(|durable| durable.seq >= sequence).await.map(|durable| durable.seq) {
                    Ok(durable) => *seen = durable,
                    // The spool is gone: nothing more becomes durable.
                    Err(_) => return std::future::pending().await,
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
    use crate::message::{Publish, Timestamp};

    const RULES: &str = "[[rule]]\ntopic = \"window/#\"\ndevice = \"d\"\nbatch = { max_wait = \"1d\" }\ncontinue = true\n\
        [[rule]]\ntopic = \"+/alarm\"\ndevice = \"d\"\npriority = \"high\"\ncontinue = true\n\
        [[rule]]\ntopic = \"+/+\"\nwhen = '$topic != \"window/alone\"'\ndevice = \"d\"\n";

    /// One answer for all spools, and none that would stop the reading of the connection.
    #[tokio::test]
    async fn what_a_publish_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let (bridge, writer, _spools) = bridge(dir.path(), Some("own"), RULES);
        let mut scratch = bridge.scratch();
        let mut commits = bridge.commits();
        for (topic, expect) in [
            ("plain/a", [1, 0, 0]),
            ("window/alone", [0, 1, 0]),
            ("window/a", [2, 2, 0]),
            ("plain/alarm", [3, 0, 1]),
            ("window/alarm", [4, 3, 2]),
            ("other/a/b", [0, 0, 0]),
        ] {
            let publish = Publish {
                topic,
                payload: b"1",
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

        /// However the spools come along, what is said to be covered is, and nothing else.
        #[test]
        fn covered_is_what_every_spool_has(
            steps in prop::collection::vec((0..LOGS, 0..4_u64, [0..20_u64, 0..20, 0..20]), 1..40),
        ) {
            let spools = [0; LOGS].map(|seq| Sender::new(Durable { seq, ..Durable::default() }));
            let mut commits = SpoolCommits { spools: spools.each_ref().map(Sender::subscribe), seen: [0; LOGS] };
            let mut durable = [0; LOGS];
            for (spool, more, wanted) in steps {
                durable[spool] += more;
                spools[spool].send_modify(|now| now.seq += more);
                let sequences = Sequences::of(STORED, wanted[STORED]).and(HELD, wanted[HELD]).and(URGENT, wanted[URGENT]);
                let expect = durable.iter().zip(wanted).all(|(durable, wanted)| wanted <= *durable);
                // One of the two may see it first.
                let reaches = |commits: &mut SpoolCommits| {
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
