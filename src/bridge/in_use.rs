//! The rules in use, and how they are exchanged while publishes pass.
//!
//! A publish asks for the rules once, and is translated, counted and stored by what it got: never by half of the old
//! ones and half of the new. Asking takes no lock. Whoever began with the old rules ends with them;
//! [`InUse::replace`] waits for that, so that afterwards nobody remembers anything for a rule that is gone.
//!
//! The [`Memory`] of the rules is here, because it outlives them, and the journal of what it must not forget.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::births::Kept;
use super::meters::Meters;
use crate::message::Timestamp;
use crate::rules::{Memory, RuleSet};

/// Rules that have a counter of their own, over all rule sets of a process: a counter stays until the end, so that the
/// books balance. Those beyond share one.
const MAX_COUNTED: usize = 20_000;

/// Most time a publish is given to end with the rules it began with: many times what the worst script may take.
const LONGEST_PUBLISH: Duration = Duration::from_secs(5);

/// The rules in use.
pub struct InUse {
    current: ArcSwap<Current>,
    memory: Memory,
    births: OnceLock<Arc<Kept>>,
    /// The names of rules that have a counter.
    counted: Mutex<HashSet<String>>,
    /// The bytes that the hub bills as one message.
    block: Option<usize>,
    replaced: Notify,
}

/// A rule set with what goes with it.
pub(super) struct Current {
    pub(super) set: RuleSet,
    /// Some rule has `priority = "high"`.
    pub(super) has_urgent: bool,
    /// Some rule has `to = "reported"`.
    pub(super) has_reported: bool,
    /// Some rule has `decode = "sparkplug"`.
    pub(super) hears_births: bool,
    pub(super) meters: Meters,
    since: Timestamp,
}

impl InUse {
    /// The first rules.
    pub(super) fn new(set: RuleSet, block: Option<usize>) -> Self {
        let mut counted = HashSet::new();
        let current = ArcSwap::from_pointee(Current::new(set, block, &mut counted));
        let (memory, births) = (Memory::default(), OnceLock::new());
        if let Some(block) = block {
            memory.bill_by(block);
        }
        Self { current, memory, births, counted: Mutex::new(counted), block, replaced: Notify::new() }
    }

    /// Writes Sparkplug births down in a folder of the state, from when rules ask for them.
    pub(super) fn keep_births(&self, state: &Path) -> io::Result<()> {
        let kept = self.births.get_or_init(|| Arc::new(Kept::new(state, self.memory.births().clone())));
        if self.load().hears_births { kept.open() } else { Ok(()) }
    }

    pub(super) fn kept_births(&self) -> Option<Arc<Kept>> {
        self.births.get().cloned()
    }

    /// False while Sparkplug births would not survive a restart; `None` where no rule has asked for them.
    pub fn births_are_kept(&self) -> Option<bool> {
        self.births.get()?.is_sound()
    }

    /// The rules for one publish. Not to be kept.
    pub(super) fn load(&self) -> Guard<Arc<Current>> {
        self.current.load()
    }

    /// What rules remember, whichever are in use.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Returns when rules were replaced.
    pub(super) async fn replaced(&self) {
        self.replaced.notified().await;
    }

    /// The rules as they are now.
    pub fn rules(&self) -> RuleSet {
        self.load().set.clone()
    }

    /// Since when.
    pub fn since(&self) -> Timestamp {
        self.load().since
    }

    /// Takes new rules. Returns when no publish is on its way through the old ones; blocks, for a moment, until then.
    pub fn replace(&self, set: RuleSet) {
        if set.hears_births()
            && let Some(Err(error)) = self.births.get().map(|kept| kept.open())
        {
            tracing::error!(
                "Sparkplug births would not survive a restart: {error}; the next change of the rules tries again"
            );
        }
        let new = Current::new(set.clone(), self.block, &mut self.counted.lock());
        let mut old = self.current.swap(Arc::new(new));
        let deadline = Instant::now() + LONGEST_PUBLISH;
        while let Err(still) = Arc::try_unwrap(old) {
            if Instant::now() > deadline {
                break;
            }
            old = still;
            std::thread::sleep(Duration::from_micros(100));
        }
        self.memory.taken_up(&set);
        self.replaced.notify_one();
    }
}

impl Current {
    fn new(set: RuleSet, block: Option<usize>, counted: &mut HashSet<String>) -> Self {
        let is_counted = |name: &str| {
            if counted.len() < MAX_COUNTED && !counted.contains(name) {
                counted.insert(name.to_owned());
            }
            counted.contains(name)
        };
        Self {
            meters: Meters::new(&set, block, is_counted),
            has_urgent: set.has_urgent(),
            has_reported: set.has_reported(),
            hears_births: set.hears_births(),
            since: Timestamp::now(),
            set,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::diag::SourceFile;
    use crate::message::{HubMessage, Publish};
    use crate::rules::{self, Output, Verdict};

    /// Two rules that make a message each, and say in name, device and body which round they are of.
    fn round(number: u64) -> RuleSet {
        let rule = |part: u64| {
            format!(
                "[[rule]]\nname = \"{number}.{part}\"\ntopic = \"t\"\ncontinue = true\ndevice = \"{number}\"\n\
                 add = {{ round = {number} }}\n"
            )
        };
        let source = SourceFile { path: "r.toml".into(), text: rule(0) + &rule(1) };
        rules::load(&[source]).rules.unwrap()
    }

    /// The round of everything the rules make of a publish.
    fn translated(set: &RuleSet, out: &mut Output) -> u64 {
        let publish = Publish {
            topic: "t",
            payload: b"{}",
            client: "c",
            user: None,
            qos: 1,
            retain: false,
            received: Timestamp(0),
        };
        assert_eq!(set.translate(&publish, out), Verdict::Translated);
        let told = out.records().flat_map(|(rule, record)| {
            let message = HubMessage::parse(record).unwrap();
            let body = std::str::from_utf8(message.body).unwrap();
            let round = body.trim_start_matches("{\"round\":").trim_end_matches('}');
            [set.name(rule).split('.').next().unwrap(), message.device, round].map(|text| text.parse().unwrap())
        });
        let told: Vec<u64> = told.collect();
        assert!(told.len() == 6 && told.iter().all(|round| *round == told[0]), "{told:?}");
        told[0]
    }

    /// Publishes meet whole rule sets while these are exchanged, never an old one after `replace` is back, and `replace`
    /// is not back before the last of them has ended.
    #[test]
    fn a_publish_meets_one_rule_set() {
        const ROUNDS: u64 = 60;
        let in_use = InUse::new(round(0), None);
        let (replaced, published) = (AtomicU64::new(0), AtomicU64::new(0));
        let publish = || {
            let mut out = Output::sharing(in_use.memory());
            while replaced.load(Ordering::SeqCst) < ROUNDS {
                let before = replaced.load(Ordering::SeqCst);
                let current = in_use.load();
                let round = translated(&current.set, &mut out);
                let after = replaced.load(Ordering::SeqCst);
                drop(current);
                published.fetch_add(1, Ordering::SeqCst);
                assert!(before <= round && after <= round, "{before} {round} {after}");
            }
        };
        std::thread::scope(|scope| {
            let publishers: Vec<_> = (0..4).map(|_| scope.spawn(publish)).collect();
            for number in 1..=ROUNDS {
                let next = published.load(Ordering::SeqCst) + 10;
                while published.load(Ordering::SeqCst) < next && !publishers.iter().any(|one| one.is_finished()) {
                    std::thread::yield_now();
                }
                in_use.replace(round(number));
                replaced.store(number, Ordering::SeqCst);
            }
        });
    }

    #[test]
    fn counters_are_bounded() {
        let mut counted: HashSet<String> = (1..MAX_COUNTED).map(|n| n.to_string()).collect();
        Current::new(round(MAX_COUNTED as u64), None, &mut counted);
        assert_eq!(counted.len(), MAX_COUNTED);
    }
}
