//! What has become of cloud-to-device messages, for a service that asked for it with `iothub-ack` ("Message feedback").
//!
//! Records go out in batches of 64 at most. A hub waits up to 15 seconds for a batch to fill; here what is there goes out
//! at once, so that nobody waits. A batch is locked while a service has it, and goes when the service completes it, when
//! its records are an hour old or when it was given out ten times.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::queue::Outcome;
use crate::hub::back::Command;
use crate::message::Timestamp;

/// Records in one batch.
const BATCH: usize = 64;
/// Records that wait; the oldest is forgotten first.
const MOST: usize = 10_000;
/// How long one waits.
const TIME_TO_LIVE: Duration = Duration::from_secs(3600);
/// How often a batch is given out.
const DELIVERIES_MAX: u32 = 10;

/// The values of `iothub-ack`.
pub(super) const ACKS: [&str; 4] = ["none", "positive", "negative", "full"];

impl Outcome {
    /// The `statusCode` of a record.
    fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Expired => "Expired",
            Self::DeliveryCountExceeded => "DeliveryCountExceeded",
            Self::Purged => "Purged",
        }
    }
}

#[derive(Debug)]
struct Record {
    value: Value,
    since: Instant,
}

/// Records that a service has, or had.
#[derive(Debug)]
struct Batch {
    token: String,
    records: Vec<Record>,
    deliveries: u32,
    until: Instant,
}

#[derive(Debug, Default)]
struct Records {
    waiting: VecDeque<Record>,
    batches: VecDeque<Batch>,
}

/// All feedback of the hub.
#[derive(Debug, Default)]
pub(super) struct Feedback(Mutex<Records>);

impl Feedback {
    /// A message of this device has come to its end.
    pub(super) fn add(&self, device: &str, command: &Command, outcome: Outcome) {
        let ack = command.ack.as_deref().unwrap_or("none");
        let wanted = if outcome == Outcome::Success { ["positive", "full"] } else { ["negative", "full"] };
        if !wanted.iter().any(|wanted| ack.eq_ignore_ascii_case(wanted)) {
            return;
        }
        let value = json!({
            "originalMessageId": command.message_id,
            "enqueuedTimeUtc": Timestamp::now().to_string(),
            "statusCode": outcome.name(),
            "description": outcome.name(),
            "deviceId": device.split('/').next(),
            "deviceGenerationId": "1",
        });
        let mut records = self.0.lock();
        if records.waiting.len() >= MOST {
            records.waiting.pop_front();
        }
        records.waiting.push_back(Record { value, since: Instant::now() });
    }

    /// The next batch, and the token of its lock.
    pub(super) fn receive(&self, lock: Duration) -> Option<(String, Value)> {
        let now = Instant::now();
        let mut records = self.0.lock();
        let fresh = |record: &Record| now.duration_since(record.since) < TIME_TO_LIVE;
        records.waiting.retain(fresh);
        records.batches.retain_mut(|batch| {
            batch.records.retain(fresh);
            !batch.records.is_empty() && (batch.until > now || batch.deliveries < DELIVERIES_MAX)
        });
        let again = records.batches.iter().position(|batch| batch.until <= now);
        let mut batch = match again.and_then(|at| records.batches.remove(at)) {
            Some(batch) => batch,
            None => {
                let size = records.waiting.len().min(BATCH);
                let first = records.waiting.drain(..size).collect();
                Batch { token: String::new(), records: first, deliveries: 0, until: now }
            }
        };
        if batch.records.is_empty() {
            return None;
        }
        batch.token = format!("{:032x}", rand::random::<u128>());
        (batch.deliveries, batch.until) = (batch.deliveries + 1, now + lock);
        let told = (batch.token.clone(), batch.records.iter().map(|record| record.value.clone()).collect());
        records.batches.push_back(batch);
        Some(told)
    }

    /// A service is done with a batch, or (`again`) gives it back; false where the lock is lost.
    pub(super) fn settle(&self, token: &str, again: bool) -> bool {
        let now = Instant::now();
        let mut records = self.0.lock();
        let Some(at) = records.batches.iter().position(|batch| batch.token == token && batch.until > now) else {
            return false;
        };
        if !again {
            records.batches.remove(at);
        } else if let Some(batch) = records.batches.get_mut(at) {
            batch.until = now;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: Duration = Duration::from_secs(60);

    fn command(ack: &str) -> Command {
        Command { message_id: Some(ack.to_owned()), ack: Some(ack.to_owned()), ..Command::default() }
    }

    #[test]
    fn a_service_hears_of_what_it_asked_for() {
        for (outcome, expect) in [
            (Outcome::Success, ["positive", "full"]),
            (Outcome::Expired, ["negative", "full"]),
            (Outcome::DeliveryCountExceeded, ["negative", "full"]),
            (Outcome::Purged, ["negative", "full"]),
        ] {
            let feedback = Feedback::default();
            ACKS.iter().for_each(|ack| feedback.add("d", &command(ack), outcome));
            feedback.add("d", &Command::default(), outcome);
            let (_, records) = feedback.receive(LOCK).unwrap();
            let told = records.as_array().unwrap();
            let heard: Vec<_> = told.iter().map(|record| record["originalMessageId"].as_str().unwrap()).collect();
            assert_eq!(heard, expect, "{outcome:?}");
            assert!(told.iter().all(|record| record["statusCode"] == outcome.name() && record["deviceId"] == "d"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_locked_comes_again_and_goes_when_it_is_completed() {
        let feedback = Feedback::default();
        (0..65).for_each(|_| feedback.add("d", &command("full"), Outcome::Success));
        let size = |batch: &Option<(String, Value)>| batch.as_ref().map(|(_, all)| all.as_array().unwrap().len());
        let first = feedback.receive(LOCK);
        assert_eq!(size(&first), Some(64));
        let second = feedback.receive(LOCK);
        assert_eq!((size(&second), size(&feedback.receive(LOCK))), (Some(1), None));
        let (token, _) = second.unwrap();
        assert!(feedback.settle(&token, true) && !feedback.settle(&token, false), "it was given back");
        let (token, _) = feedback.receive(LOCK).unwrap();
        assert!(feedback.settle(&token, false));
        tokio::time::advance(LOCK).await;
        assert!(!feedback.settle(&first.unwrap().0, false), "the lock is lost");
        for n in 1..10 {
            assert_eq!(size(&feedback.receive(LOCK)), Some(64), "{n}");
            tokio::time::advance(LOCK).await;
        }
        assert_eq!(size(&feedback.receive(LOCK)), None, "ten times");
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_an_hour() {
        let feedback = Feedback::default();
        feedback.add("d", &command("full"), Outcome::Success);
        tokio::time::advance(TIME_TO_LIVE).await;
        assert!(feedback.receive(LOCK).is_none());
    }
}
