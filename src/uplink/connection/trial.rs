//! A connection on trial: suspects are sent alone, see [`super::super::suspicion`].

use std::time::Duration;

use super::{End, Line};
use crate::message::HubMessage;
use crate::uplink::wire::Sender;
use crate::uplink::{Backlog, Lane, Outcome};

/// How long a trial waits for another message to go before a suspect that is alone in the backlog.
const COMPANY: Duration = Duration::from_secs(1);

impl<O: Outcome> Line<'_, O> {
    /// Sends what is known to be good, then the suspects one at a time. Returns when there is none left, and traffic
    /// may go on as usual.
    pub(super) async fn send_suspects_alone<B: Backlog>(
        &self,
        sender: &impl Sender,
        backlog: &mut B,
    ) -> Result<(), End> {
        if !self.flight.lock().is_on_trial() {
            return Ok(());
        }
        let controls = self.flight.lock().controls();
        for _ in 0..controls {
            let good = self.flight.lock().good();
            // It may be too old by now.
            let Some((topic, body, _)) = good.and_then(|good| self.ready_to_send(&good).ok()) else {
                self.flight.lock().forget_good();
                self.find_company(backlog).await;
                break;
            };
            self.flight.lock().hand_good();
            self.metrics.uplink_publishes.increment(1);
            sender.publish(topic, body).await.map_err(|error| End::not_taken(&error))?;
            self.all_acknowledged().await;
        }
        while self.flight.lock().is_on_trial() {
            let next = self.flight.lock().left_over().cloned();
            let Some(waiting) = next else { break };
            self.hand_over(sender, waiting).await?;
            self.all_acknowledged().await;
        }
        self.flight.lock().acquit();
        Ok(())
    }

    /// With nothing known to be good, a message that is no suspect goes before a single suspect.
    async fn find_company<B: Backlog>(&self, backlog: &mut B) {
        if self.flight.lock().span() > 1 {
            return;
        }
        if let Ok(Some(waiting)) = tokio::time::timeout(COMPANY, backlog.next(Lane::Late)).await {
            let created = HubMessage::parse(&waiting.record).map_or(crate::message::Timestamp(0), |m| m.created);
            self.flight.lock().add_first(waiting, created);
        }
    }
}
