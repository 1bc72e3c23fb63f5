//! The way of a publish of which something goes into a twin.
//!
//! Everything is looked at before anything is stored: what does not fit its twin sends the whole publish into the
//! quarantine. Then its messages are stored as ever, and only with them what is reported is taken, so that a publish that
//! is offered again reports nothing twice. Its acknowledgement waits for all of it.

use super::twins::{Ready, Refused};
use super::{Bridge, Current};
use crate::broker::Offer;
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
        if matches!(taken, Offer::Full) {
            return taken;
        }
        let changes = reported.into_iter().map(|(rule, ready)| (now.set.name(rule), ready));
        taken.and_after(twins.take(changes))
    }
}
