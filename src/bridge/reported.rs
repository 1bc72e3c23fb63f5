//! The way of a publish of which something goes into a twin.
//!
//! Everything is looked at before anything is stored: what does not fit its twin sends the whole publish into the
//! quarantine. Then its messages are stored as ever, and only with them what is reported is taken, so that a publish that
//! is offered again reports nothing twice. Its acknowledgement waits for all of it, and its client is read on meanwhile; where too much
//! waits for the disk, it is not.

use super::commits::REPORTED;
use super::twins::{Ready, Refused, Twins};
use super::{Bridge, Current};
use crate::broker::{Offer, Sequences};
use crate::message::HubMessage;
use crate::rules::{Output, RuleIndex};

/// What there is no twin for.
pub(super) const NO_TWIN: &str = "the uplink is no hub: there is no twin to report to";

impl Bridge {
    /// What of a publish goes into twins; or the rule whose change does not fit, and why.
    pub(super) fn reported(
        &self,
        now: &Current,
        out: &Output,
    ) -> Result<Vec<(RuleIndex, Ready)>, (RuleIndex, Refused)> {
        if !now.has_reported {
            return Ok(Vec::new());
        }
        let changes = out.records().filter_map(|(rule, record)| Some((rule, now.set.reported(rule)?, record)));
        let ready = |(rule, every, record)| {
            let ready = match (&self.twins, HubMessage::parse(record)) {
                (Some(twins), Ok(message)) => twins.ready(message.device, message.body, every),
                (None, _) => Err(("no_twin", NO_TWIN.to_owned())),
                (_, Err(error)) => Err(("bad_twin", error.to_string())),
            };
            ready.map(|ready| (rule, ready)).map_err(|refused| (rule, refused))
        };
        changes.map(ready).collect()
    }

    /// Takes what goes into twins, where the publish itself was taken.
    pub(super) fn report(&self, now: &Current, reported: Vec<(RuleIndex, Ready)>, taken: Offer) -> Offer {
        let Some(twins) = self.twins.as_ref().filter(|_| !reported.is_empty()) else { return taken };
        let take = |parts: Sequences| {
            let changes = reported.into_iter().map(|(rule, ready)| (now.set.name(rule), ready));
            parts.and(REPORTED, twins.take(changes))
        };
        match taken {
            Offer::Full => Offer::Full,
            Offer::Taken(parts) => Offer::Taken(take(parts)),
            Offer::TakenAfter(others, parts) => Offer::TakenAfter(others, take(parts)),
        }
    }

    /// False while too much of what is reported waits for the disk.
    pub(super) fn has_room_to_report(&self) -> bool {
        self.twins.as_ref().is_none_or(Twins::has_room)
    }

    /// Returns when what was refused for that is worth offering again.
    pub(super) async fn room_to_report(&self, refused: &Output) {
        let Some(twins) = self.twins.as_ref().filter(|twins| !twins.has_room()) else { return };
        let reports = {
            let now = self.rules.load();
            now.has_reported && refused.records().any(|(rule, _)| now.set.reported(rule).is_some())
        };
        if reports {
            twins.room().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Waker};

    use super::super::tests::bridge;
    use super::*;
    use crate::broker::{Commits as _, Ingest as _};
    use crate::journal::Journal;
    use crate::message::{Publish, Timestamp};

    /// A client that reports more than the disk takes is read no more until it does, and nobody else is held up.
    #[tokio::test]
    async fn what_waits_for_the_journal_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let rules = "[[rule]]\ntopic = \"twin/{d}\"\ndevice = \"{d}\"\nto = \"reported\"\n\
            [[rule]]\ntopic = \"plain/a\"\ndevice = \"d\"\n";
        let (bridge, writer, _spools) = bridge(dir.path(), Some("own"), rules);
        let journal = Journal::stuck();
        let bridge = bridge.reporting(Twins::kept_in(journal.clone()));
        let (mut scratch, mut commits) = (bridge.scratch(), bridge.commits());
        let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(4000));
        let publish = |topic: &'static str| Publish {
            topic,
            payload: payload.as_bytes(),
            client: "c",
            user: None,
            qos: 1,
            retain: false,
            received: Timestamp(0),
        };
        let mut taken = Vec::new();
        while let Offer::Taken(parts) = bridge.offer(&mut scratch, &publish("twin/a")) {
            assert!(!commits.cover(parts) && taken.len() < 2_000, "nothing is on disk");
            taken.push(parts);
        }
        assert!((1000..1050).contains(&taken.len()), "4 MiB may wait: {}", taken.len());
        let mut waits = Box::pin(bridge.room(&scratch));
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut other = bridge.scratch();
        assert!(matches!(bridge.offer(&mut other, &publish("plain/a")), Offer::Taken(_)));
        bridge.room(&other).await;
        journal.go_on();
        waits.await;
        assert!(taken.into_iter().all(|parts| commits.cover(parts)));
        assert!(matches!(bridge.offer(&mut scratch, &publish("twin/a")), Offer::Taken(_)));
        drop(bridge);
        writer.join();
    }
}
