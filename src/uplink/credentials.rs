//! Where to connect and as whom, asked before each connection.
//!
//! A [`Target`] is its own answer. What may change between connections (a hub that a provisioning service assigns, a
//! certificate in a file) is behind the same trait. No connection is made while the clock of this machine cannot be
//! right: a token made then would be refused, and whoever counts refusals would draw wrong conclusions.

use std::future::Future;
use std::time::Duration;

use super::Target;
use crate::message::Timestamp;

/// When this program was released, as `build.rs` knows it: no clock can be before that.
const OLDEST: Timestamp = Timestamp(1_000 * number(env!("BROWNBRIDGE_RELEASED")));
/// How soon the clock is looked at again.
pub(super) const CLOCK_AGAIN: Duration = Duration::from_secs(10);

/// Says where to connect and as whom. One value an identity.
pub trait Credentials: Send + Sync + 'static {
    /// The target of the next connection. May take long, for somebody else may have to be asked.
    fn target(&self) -> impl Future<Output = Result<Target, Unassigned>> + Send;

    /// The hub let this identity in.
    fn accepted(&self);

    /// The hub refused this identity, and the clock is not the reason.
    fn refused(&self);

    /// The network did not lead to the hub.
    fn unreachable(&self);
}

/// Why there is nowhere to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unassigned {
    /// A fixed word, the counter's label.
    pub reason: &'static str,
    /// A sentence.
    pub text: String,
    /// When to ask again.
    pub pause: Duration,
}

impl Credentials for Target {
    async fn target(&self) -> Result<Target, Unassigned> {
        Ok(self.clone())
    }

    fn accepted(&self) {}

    fn refused(&self) {}

    fn unreachable(&self) {}
}

/// The number in a text of digits.
const fn number(digits: &str) -> i64 {
    match i64::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}

/// Asks, once the clock makes sense.
pub(super) async fn ask<C: Credentials>(credentials: &C) -> Result<Target, Unassigned> {
    match impossible(Timestamp::now()) {
        Some(text) => Err(Unassigned { reason: "clock", text, pause: CLOCK_AGAIN }),
        None => credentials.target().await,
    }
}

/// Says so where the time cannot be.
fn impossible(now: Timestamp) -> Option<String> {
    (now < OLDEST).then(|| {
        format!(
            "the clock of this machine says {now}, which is before this program was made: set it (timedatectl, \
             chrony). Until then no connection is made, messages wait in the spool"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_cannot_be() {
        assert!(OLDEST >= Timestamp(1_776_297_600_000), "no older than the compiler: {OLDEST}");
        for (now, expect) in [
            (Timestamp(0), true),
            (Timestamp(OLDEST.0 - 1), true),
            (OLDEST, false),
            (Timestamp::now(), false),
            (Timestamp(i64::MAX), false),
        ] {
            assert_eq!(impossible(now).is_some(), expect, "{now:?}");
        }
    }
}
