//! Compares the clock of this machine with the hub's, and holds connecting while it is wrong.
//!
//! A hub refuses a token of a wrong clock with the same CONNACK 5 as a wrong key. Its HTTPS side tells the time in the
//! `Date` header of any answer. So after a refusal of a token that was made here, and only then, it is asked: once every
//! [`AGAIN`], with the same roots and by the same way. No answer is no finding.
//!
//! Each hub has a clock of its own, and each gateway: one that is wrong holds only those who connect there, and of them
//! only those whose tokens are made here.
//!
//! | the clock is | what happens |
//! |---|---|
//! | right | the refusal has another reason |
//! | wrong | no connection is made; it is looked at every few seconds, and the hub asked every [`WHILE_HELD`] |
//! | set | the next connection is made at once |
//! | wrong for [`HELD`] | one connection is made all the same: the refusal may have another reason, too |

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Target, now};
use crate::hub::clock::Skew;
use crate::message::Timestamp;
use crate::metrics;

/// How long an answer holds.
const AGAIN: Duration = Duration::from_secs(600);
/// How long it holds while nothing is connected because of it.
const WHILE_HELD: Duration = Duration::from_secs(60);
/// How long connecting is held at a time.
const HELD: Duration = Duration::from_secs(600);

/// What the clock is compared with, in sentences.
const THE_HUBS: &str = "the hub's";

/// Clocks that are known at one time.
const MOST: usize = 64;

/// The differences to the clocks of hubs, asked for when it matters. No lock is held while somebody is asked.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// Somewhere no connection is made. Looked at before every connect, and most of the time all there is to look at.
    holding: AtomicBool,
    /// By host.
    clocks: Mutex<HashMap<Box<str>, Clock>>,
    /// Tells that somebody was asked.
    told: Notify,
}

/// The difference to one of them.
#[derive(Debug, Default)]
struct Clock {
    asked: Option<Asked>,
    /// Since when no connection is made.
    held: Option<Instant>,
    /// It is being asked.
    asking: bool,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// What it said, in seconds since 1970.
    theirs: Option<i64>,
}

/// A sentence about a refusal, or about the waiting for a right clock.
pub(super) fn explain(skew: Skew) -> String {
    let text = skew.explain(THE_HUBS);
    if skew.is_wrong() {
        format!("{text}. Tokens of a wrong clock are refused, so connecting waits for it")
    } else {
        text
    }
}

impl Clocks {
    /// What the clock of the target's hub says about a refusal. Who is refused while it is asked waits for what it says.
    pub(super) async fn compare(&self, target: &Target) -> Option<Skew> {
        let (way, host, tls) = target.clock()?;
        loop {
            let told = self.told.notified();
            match self.step(host, AGAIN) {
                Step::Known => break,
                Step::Ask => self.ask(host, way.time(host, tls)).await,
                Step::Wait => told.await,
            }
        }
        self.judge(host, Timestamp::now())
    }

    /// Why no connection is to be made to the target now.
    pub(super) async fn holds(&self, target: &Target) -> Option<Skew> {
        if !self.holding.load(Ordering::Acquire) {
            return None;
        }
        let (way, host, tls) = target.clock()?;
        self.clocks.lock().get(host)?.held?;
        // While somebody else asks, what was said before is good.
        if let Step::Ask = self.step(host, WHILE_HELD) {
            self.ask(host, way.time(host, tls)).await;
        }
        self.still_held(host, Timestamp::now())
    }

    /// What is to be done for an answer that is no older than that.
    fn step(&self, host: &str, age: Duration) -> Step {
        let mut clocks = self.clocks.lock();
        if !clocks.contains_key(host) && clocks.len() >= MOST {
            clocks.retain(|_, clock| clock.held.is_some() || clock.asking || clock.is_younger(AGAIN));
            if clocks.len() >= MOST {
                return Step::Known;
            }
        }
        let clock = clocks.entry(host.into()).or_default();
        match (clock.is_younger(age), clock.asking) {
            (true, _) => Step::Known,
            (false, true) => Step::Wait,
            (false, false) => {
                clock.asking = true;
                Step::Ask
            }
        }
    }

    async fn ask(&self, host: &str, answer: impl Future<Output = Option<i64>>) {
        // Whoever asks may be given up meanwhile.
        let asking = Asking { clocks: self, host };
        let theirs = answer.await;
        let mut clocks = self.clocks.lock();
        if let Some(clock) = clocks.get_mut(host) {
            clock.asked = Some(Asked { at: now(), theirs });
            if let Some(skew) = clock.skew(Timestamp::now()) {
                metrics::clock_ahead(skew.0);
            }
        }
        drop(clocks);
        drop(asking);
    }

    /// From here on nobody connects there while it is wrong.
    fn judge(&self, host: &str, wall: Timestamp) -> Option<Skew> {
        let mut clocks = self.clocks.lock();
        let clock = clocks.get_mut(host)?;
        let skew = clock.skew(wall)?;
        clock.held = skew.is_wrong().then(now);
        self.look(&clocks);
        Some(skew)
    }

    fn still_held(&self, host: &str, wall: Timestamp) -> Option<Skew> {
        let mut clocks = self.clocks.lock();
        let skew = clocks.get_mut(host)?.still_held(wall);
        self.look(&clocks);
        skew
    }

    fn look(&self, clocks: &HashMap<Box<str>, Clock>) {
        self.holding.store(clocks.values().any(|clock| clock.held.is_some()), Ordering::Release);
    }
}

enum Step {
    /// There is nothing to ask.
    Known,
    Ask,
    /// Somebody asks.
    Wait,
}

/// Ends the asking.
struct Asking<'a> {
    clocks: &'a Clocks,
    host: &'a str,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(clock) = self.clocks.clocks.lock().get_mut(self.host) {
            clock.asking = false;
        }
        self.clocks.told.notify_waiters();
    }
}

impl Clock {
    fn is_younger(&self, age: Duration) -> bool {
        self.asked.is_some_and(|asked| now().duration_since(asked.at) <= age)
    }

    fn still_held(&mut self, wall: Timestamp) -> Option<Skew> {
        let since = self.held?;
        let skew = self.skew(wall).filter(|skew| skew.is_wrong() && now().duration_since(since) < HELD);
        if skew.is_none() {
            self.held = None;
        }
        skew
    }

    /// By what was said last and the time since: a clock that is set meanwhile is right at once.
    fn skew(&self, wall: Timestamp) -> Option<Skew> {
        let Asked { at, theirs } = self.asked?;
        let since = i64::try_from(now().duration_since(at).as_secs()).unwrap_or(i64::MAX);
        Some(Skew::between(wall, theirs?.saturating_add(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::connection_string::{Auth, ConnectionString};
    use crate::hub::sas::Key;
    use crate::secret::Secret;
    use crate::uplink::{HubTarget, Transport, tls};

    #[tokio::test(start_paused = true)]
    async fn connecting_waits_for_a_right_clock_and_not_for_ever() {
        let hub = Timestamp(1_767_225_600_000);
        // Seconds that this machine is off at the refusal, later, and how much later; whether connecting waits then.
        for (first, later, after, expect) in [
            (0, 0, 10, false),
            (-200, -200, 10, false),
            (-3_600, -3_600, 10, true),
            (3_600, 3_600, 10, true),
            (-3_600, 0, 10, false),
            (-3_600, 299, 10, false),
            (-3_600, 400, 10, true),
            (-3_600, -3_600, 599, true),
            (-3_600, -3_600, 601, false),
        ] {
            let at = |off: i64, since: i64| Timestamp(hub.0 + (off + since) * 1_000);
            let asked = Some(Asked { at: now(), theirs: Some(hub.as_secs()) });
            let mut clock = Clock { asked, ..Clock::default() };
            clock.held = clock.skew(at(first, 0)).filter(|skew| skew.is_wrong()).map(|_| now());
            tokio::time::advance(Duration::from_secs(after)).await;
            let after = i64::try_from(after).unwrap();
            let held = clock.still_held(at(later, after));
            assert_eq!(held.is_some(), expect, "{first} {later} {after}");
            assert_eq!(clock.held.is_some(), expect, "{first} {later} {after}");
        }
    }

    fn target(host: &str, auth: Auth) -> Target {
        let connection =
            ConnectionString { host: host.to_owned(), device: "d".to_owned(), module: None, gateway: None, auth };
        let trust = tls::client(rustls::RootCertStore::empty(), None).unwrap();
        Target::Hub(HubTarget {
            connection,
            tls: trust,
            transport: Transport::MQTT,
            way: crate::outbound::Way::default(),
            model_id: None,
            certificate_expiry: None,
            token_lifetime: Duration::from_secs(3_600),
            gateway: false,
        })
    }

    /// A clock that is wrong, or does not answer, is no matter of who does not depend on it.
    #[tokio::test(start_paused = true)]
    async fn each_host_holds_its_own() {
        let clocks = Clocks::default();
        let key = || Auth::Key(Key::parse("AAAA").unwrap());
        let ours = Timestamp::now().as_secs();
        for (host, theirs) in [("wrong", Some(ours + 7_200)), ("right", Some(ours)), ("silent", None)] {
            assert!(matches!(clocks.step(host, AGAIN), Step::Ask), "{host}");
            clocks.ask(host, std::future::ready(theirs)).await;
            assert_eq!(clocks.judge(host, Timestamp::now()).map(Skew::is_wrong), theirs.map(|at| at > ours), "{host}");
        }
        for (host, auth, expect) in [
            ("wrong", key(), true),
            ("right", key(), false),
            ("silent", key(), false),
            ("other", key(), false),
            ("wrong", Auth::X509, false),
            ("wrong", Auth::Token(Secret::new("SharedAccessSignature sr=x".to_owned())), false),
        ] {
            assert_eq!(clocks.holds(&target(host, auth)).await.is_some(), expect, "{host}");
        }
        // While one is asked, nobody else waits for what it says before connecting, and nothing is asked twice.
        tokio::time::advance(WHILE_HELD + Duration::from_secs(1)).await;
        assert!(matches!(clocks.step("wrong", WHILE_HELD), Step::Ask));
        let mut asked = Box::pin(clocks.ask("wrong", std::future::pending()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        for (host, expect) in [("wrong", true), ("right", false)] {
            assert_eq!(clocks.holds(&target(host, key())).await.is_some(), expect, "{host}");
        }
        assert!(matches!(clocks.step("wrong", WHILE_HELD), Step::Wait));
        drop(asked);
        assert!(matches!(clocks.step("wrong", WHILE_HELD), Step::Ask), "who was given up asks no more");
        clocks.ask("wrong", std::future::ready(Some(Timestamp::now().as_secs()))).await;
        assert!(clocks.holds(&target("wrong", key())).await.is_none(), "it was set");
        assert!(!clocks.holding.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_clocks_are_known_than_may_be() {
        let clocks = Clocks::default();
        for host in 0..2 * MOST {
            let host = format!("hub-{host}");
            if let Step::Ask = clocks.step(&host, AGAIN) {
                clocks.ask(&host, std::future::ready(Some(0))).await;
            }
        }
        assert_eq!(clocks.clocks.lock().len(), MOST);
        tokio::time::advance(AGAIN + Duration::from_secs(1)).await;
        assert!(matches!(clocks.step("new", AGAIN), Step::Ask));
        assert_eq!(clocks.clocks.lock().len(), 1);
    }
}
