//! The bridge's own twin: what it tells about itself, and what may be desired of it
//! ([`downlink::Wishes`](crate::downlink::Wishes)).
//!
//! All of it is in the component `bridge` of the twin of the bridge's own identity. What is there is told when it changes,
//! looked at every few seconds, and counters at a slow pace. What is desired is taken or refused parameter by parameter, and
//! what was taken last is kept in `<state>/own_twin.json`, so that it is in use again from the first publish after a start,
//! whatever the hub says by then. What the rules' files say is only bent: their tests are run on what they say.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

mod presence;

use presence::Presence;

use super::Reloader;
use super::page::Gauges;
use super::reload::fence::write;
use super::reload::rules::{RuleFiles, Tuned};
use super::settings::{LogLevel, Settings, tier_rate};
use super::status;
use crate::admin::{Recorder, Source as _};
use crate::bridge::twins::{Agreed, Twins};
use crate::bridge::{InUse, Seen};
use crate::downlink::{self, COMPONENT, Parameter, Terms, Wishes};
use crate::hub::exchange::Desired;
use crate::hub::twin::{self, Properties};
use crate::message::{Timestamp, excerpt};
use crate::rules::Tune;
use crate::uplink::HubRate;

const NAME: &str = "own_twin.json";
/// How often what is told is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What changes all the time is told no oftener than this.
const EVERY: Duration = Duration::from_secs(10);
/// How often it is written down which devices were heard of.
const KEEP: Duration = Duration::from_secs(600);
/// Names of clients at most; more are only counted.
const MOST_NAMES: usize = 50;

/// Why a parameter is not taken: a status as in HTTP, and a sentence.
type Refused = (u16, String);

/// The own twin before its parts are there.
pub(super) struct Prepared {
    /// What may be done now.
    terms: Agreed,
    /// What is desired is done at all.
    takes: bool,
    every: Duration,
    kept: PathBuf,
    wishes: Wishes,
    rule_path: PathBuf,
    log_level: Option<LogLevel>,
    hub_rate: HubRate,
    /// The messages a second that the hub's tier takes, as far as bridge.toml says.
    tier_rate: Option<u32>,
    presence: Option<Presence>,
}

/// What it uses of the other parts.
pub(super) struct Parts {
    pub(super) twins: Twins,
    pub(super) gauges: Arc<Gauges>,
    pub(super) recorder: Recorder,
    pub(super) reloader: Reloader,
    pub(super) rules: Arc<InUse>,
    pub(super) tuned: Arc<Mutex<Tuned>>,
}

/// Brings what was taken last into use again. With what the rules' files are bent by.
pub(super) fn prepare(settings: &mut Settings, terms: &Agreed) -> (Arc<Mutex<Tuned>>, Option<Prepared>) {
    let commands = &settings.config.commands;
    if !is_wanted(settings) {
        return (Arc::default(), None);
    }
    let kept = settings.state.join(NAME);
    let text =
        may(commands.desired, &terms.borrow()).ok().and_then(|()| fs::read_to_string(&kept).ok()).unwrap_or_default();
    let mut wishes = Wishes::from_json(&serde_json::from_str(&text).unwrap_or(Value::Null));
    // What is not in use is forgotten: else it were answered as taken when the hub says it again.
    let mut tuned = tuned(&wishes);
    if tuned != Tuned::default() {
        match tuned.load(&settings.rule_path).and_then(|(candidate, _)| candidate.rules(&settings.rules)) {
            Ok(rules) => settings.rules = rules,
            Err(why) => {
                tracing::warn!("what was desired of the rules is not in use: {why}");
                tuned = Tuned::default();
                (wishes.rule_files, wishes.tuning) = Default::default();
            }
        }
    }
    if let Some(level) = wishes.log_level
        && let Err((_, why)) = set_level(settings.log_level.as_ref(), Some(level))
    {
        tracing::warn!("the log stays as it is: {why}");
        wishes.log_level = None;
    }
    let mut prepared = Prepared {
        hub_rate: settings.uplink.hub_rate.clone(),
        tier_rate: tier_rate(&settings.config),
        presence: Presence::open(settings),
        terms: terms.clone(),
        takes: commands.desired,
        every: commands.own_twin_every,
        kept,
        wishes,
        rule_path: settings.rule_path.clone(),
        log_level: settings.log_level.clone(),
    };
    if let Err(why) = prepared.pace(prepared.wishes.hub_rate) {
        tracing::warn!("the pace of the uplink is as bridge.toml says: {why}");
        prepared.wishes.hub_rate = None;
    }
    (Arc::new(Mutex::new(tuned)), Some(prepared))
}

/// True where the bridge has a twin and is to use it.
pub(super) fn is_wanted(settings: &Settings) -> bool {
    let commands = &settings.config.commands;
    commands.own_twin && settings.own.device.is_some()
}

/// What is desired of the bridge may be done.
fn may(takes: bool, terms: &Terms) -> Result<(), &'static str> {
    match (terms.enabled, takes, terms.dry_run) {
        (false, ..) => Err("[commands] enabled = false: nothing comes down"),
        (true, false, _) => Err("[commands] desired = false: bridge.toml has the last word"),
        (true, true, true) => Err("[commands] dry_run = true: nothing is changed"),
        (true, true, false) => Ok(()),
    }
}

fn in_component(properties: Properties) -> Properties {
    Properties::from_iter([(COMPONENT.to_owned(), properties.into())])
}

fn set_level(change: Option<&LogLevel>, level: Option<&'static str>) -> Result<(), Refused> {
    match change {
        Some(change) => change(level).map_err(|why| (400, why)),
        None => Err((501, "this log has one level".to_owned())),
    }
}

fn tuned(wishes: &Wishes) -> Tuned {
    let off = wishes.rule_files.iter().filter(|(_, on)| !**on).map(|(name, _)| name.clone()).collect();
    let tune = |tune: &downlink::Tune| Tune { throttle: tune.throttle, change: tune.change };
    Tuned { off, tunes: wishes.tuning.iter().map(|(name, numbers)| (name.clone(), tune(numbers))).collect() }
}

impl Prepared {
    /// Where it is to be noted which devices the plant was heard of.
    pub(super) fn seen(&self) -> Option<Arc<Seen>> {
        self.presence.as_ref().map(|presence| Arc::clone(presence.seen()))
    }

    /// The hub is taken to take so many messages a second, or what its tier says; never more than that.
    fn pace(&self, wanted: Option<u32>) -> Result<(), String> {
        if let (Some(wanted), Some(most)) = (wanted, self.tier_rate)
            && wanted > most
        {
            return Err(format!(
                "{wanted} messages a second are more than the {most} of `tier` and `units` in bridge.toml"
            ));
        }
        self.hub_rate.set(wanted.or(self.tier_rate));
        Ok(())
    }

    /// Tells and takes until `stop`.
    pub(super) async fn run(self, parts: Parts, stop: CancellationToken) {
        let (mut desired, mut terms) = (parts.twins.own_desired(), self.terms.clone());
        let (mut look, mut slow) = (tokio::time::interval(LOOK), tokio::time::interval(self.every.max(LOOK)));
        let mut keep = tokio::time::interval_at(tokio::time::Instant::now() + KEEP, KEEP);
        for interval in [&mut look, &mut slow, &mut keep] {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        let mut own = OwnTwin {
            prepared: self,
            parts,
            started: Timestamp::now(),
            told: Properties::new(),
            full: BTreeSet::new(),
        };
        let (mut is_begun, mut allowed) = (false, may(own.prepared.takes, &terms.borrow()));
        desired.mark_changed();
        let work = async {
            loop {
                let is_open = terms.borrow_and_update().enabled;
                if is_open && !std::mem::replace(&mut is_begun, true) {
                    own.begin();
                }
                tokio::select! {
                    // What was forbidden may be done now, and the other way round.
                    Ok(()) = terms.changed() => {
                        let now = may(own.prepared.takes, &terms.borrow());
                        if std::mem::replace(&mut allowed, now) != now {
                            desired.mark_changed();
                        }
                    }
                    Ok(()) = desired.changed(), if is_open => {
                        let now = desired.borrow_and_update().clone();
                        if let Some(now) = now {
                            own.desired(&now).await;
                        }
                    }
                    _ = slow.tick(), if is_open => {
                        own.tell("counters", own.counters(), EVERY);
                        own.tell_presence();
                    }
                    _ = look.tick(), if is_open => own.tell("facts", own.facts(), EVERY),
                    _ = keep.tick() => own.keep_presence().await,
                }
            }
        };
        // A disk that does not answer must not keep the program from ending.
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
        own.keep_presence().await;
    }
}

struct OwnTwin {
    prepared: Prepared,
    parts: Parts,
    started: Timestamp,
    /// What was handed over to be reported.
    told: Properties,
    /// The parts whose last report found no room.
    full: BTreeSet<&'static str>,
}

impl OwnTwin {
    /// The bridge tells about itself from now on. What an earlier run told of devices, of which this one may know nothing,
    /// goes first.
    fn begin(&mut self) {
        self.report("presence", &in_component(Properties::from_iter([("presence".to_owned(), Value::Null)])), EVERY);
    }

    /// Reports what is new of it.
    fn tell(&mut self, part: &'static str, what: Value, every: Duration) {
        let Value::Object(what) = what else { return };
        let new = twin::difference(&self.told, &what);
        if new.is_empty() {
            return;
        }
        if self.report(part, &in_component(new.clone()), every) {
            twin::merge(&mut self.told, &new);
        }
    }

    /// Reports who is there; who is no longer listed is taken out.
    fn tell_presence(&mut self) {
        let Some(presence) = &self.prepared.presence else { return };
        let known = presence.now(self.parts.gauges.devices.as_ref(), Timestamp::now());
        let mut now = downlink::presence(known, presence.most);
        let told = self.told.get("presence").and_then(|told| told.get("devices")?.as_object());
        if let Some(Value::Object(devices)) = now.get_mut("devices") {
            for gone in told.into_iter().flat_map(Properties::keys) {
                devices.entry(gone).or_insert(Value::Null);
            }
        }
        self.tell("presence", json!({"presence": now}), EVERY);
    }

    /// Writes down which devices were heard of.
    async fn keep_presence(&mut self) {
        let Some(mut presence) = self.prepared.presence.take() else { return };
        let kept = tokio::task::spawn_blocking(move || {
            presence.keep();
            presence
        });
        self.prepared.presence = kept.await.ok();
    }

    /// False where there is no room for it; that is said once for each part, until there is.
    fn report(&mut self, part: &'static str, component: &Properties, every: Duration) -> bool {
        let reported = self.parts.twins.report_own(component, every);
        match &reported {
            Ok(()) => drop(self.full.remove(part)),
            Err(error) if self.full.insert(part) => {
                tracing::warn!(part, "the bridge cannot report about itself: {error}");
            }
            Err(_) => {}
        }
        reported.is_ok()
    }

    fn facts(&self) -> Value {
        let gauges = &self.parts.gauges;
        let rules = status::Rules::of(&gauges.rules);
        let refused = gauges.standing.refused();
        let names: Vec<String> = gauges
            .census
            .clients(MOST_NAMES)
            .into_iter()
            .map(|(client, _)| excerpt(&client.client_id).into())
            .collect();
        json!({
            "__t": "c",
            "version": env!("CARGO_PKG_VERSION"),
            "started": self.started.to_string(),
            "rules": {"count": rules.count, "hash": rules.hash, "since": rules.since},
            "files": {
                "sound": refused.is_empty(),
                "refused": refused.first().map(|refused| excerpt(&refused.why).to_string()),
                "since": gauges.standing.last_success().to_string(),
            },
            "clients": {"connected": gauges.census.connected(), "names": names},
            "devices": gauges.devices.as_ref().map(|devices| {
                let connected = devices.summary().count(crate::bridge::devices::Condition::Connected);
                json!({"connected": connected})
            }),
        })
    }

    fn counters(&self) -> Value {
        self.parts.gauges.refresh();
        let counters = status::Counters::of(&self.parts.recorder.render());
        let waiting = self.parts.gauges.stores.stats().waiting;
        json!({"counters": {
            "received": counters.received,
            "translated": counters.translated,
            "dropped": counters.dropped,
            "quarantined": counters.quarantined,
            "delivered": counters.delivered,
            "shed": counters.shed,
            "lost": counters.lost,
            "waiting": waiting,
        }})
    }

    /// Takes or refuses what is desired, and says so.
    async fn desired(&mut self, desired: &Desired) {
        let component = desired.properties.get(COMPONENT).unwrap_or(&Value::Null);
        let (mut cleared, mut told) = (Properties::new(), Properties::new());
        for parameter in Parameter::ALL {
            let value = downlink::desired(component, parameter);
            let taken = self.take(parameter, value).await;
            if let Err((status, why)) = &taken {
                tracing::warn!(parameter = parameter.name(), status, "what is desired is not taken: {why}");
            }
            let answer = |value: &Value| match &taken {
                Ok(()) => downlink::acknowledged(value, 200, desired.version, ""),
                Err((status, why)) => downlink::acknowledged(value, *status, desired.version, excerpt(why)),
            };
            // A twin merges objects: what was answered before goes first, whatever that was.
            cleared.insert(parameter.name().to_owned(), Value::Null);
            told.extend(value.map(|value| (parameter.name().to_owned(), answer(value))));
        }
        for what in [cleared, told] {
            self.report("answers", &in_component(what), Duration::ZERO);
        }
    }

    async fn take(&mut self, parameter: Parameter, value: Option<&Value>) -> Result<(), Refused> {
        if let Err(why) = may(self.prepared.takes, &self.prepared.terms.borrow()) {
            return if value.is_some() { Err((403, why.to_owned())) } else { Ok(()) };
        }
        let wishes = self.prepared.wishes.with(parameter, value).map_err(|why| (400, why))?;
        if wishes == self.prepared.wishes {
            return Ok(());
        }
        match parameter {
            Parameter::LogLevel => set_level(self.prepared.log_level.as_ref(), wishes.log_level)?,
            Parameter::HubRate => self.prepared.pace(wishes.hub_rate).map_err(|why| (400, why))?,
            Parameter::RuleFiles | Parameter::Tuning => self.bend(tuned(&wishes)).await?,
        }
        tracing::info!(parameter = parameter.name(), "what is desired in the twin is taken");
        self.prepared.wishes = wishes;
        self.keep().await;
        Ok(())
    }

    /// Brings the rules into use as they are bent now.
    async fn bend(&self, tuned: Tuned) -> Result<(), Refused> {
        let (path, before, tried) = (self.prepared.rule_path.clone(), self.parts.rules.rules(), tuned.clone());
        let check = move || -> Result<(), String> {
            let (candidate, wrong) = tried.load(&path)?;
            match wrong.into_iter().next() {
                Some(wrong) => Err(wrong),
                None => candidate.rules(&before).map(drop),
            }
        };
        let checked = tokio::task::spawn_blocking(check).await;
        checked.unwrap_or_else(|error| Err(error.to_string())).map_err(|why| (400, why))?;
        let old = std::mem::replace(&mut *self.parts.tuned.lock(), tuned);
        self.parts.reloader.reload_only::<RuleFiles>().await.map_err(|refused| {
            *self.parts.tuned.lock() = old;
            (409, refused.why)
        })
    }

    async fn keep(&self) {
        let (path, text) = (self.prepared.kept.clone(), self.prepared.wishes.to_json().to_string());
        let written = tokio::task::spawn_blocking(move || write(&path, &text)).await;
        if let Ok(Err(error)) = written {
            let path = self.prepared.kept.display();
            tracing::warn!("{path} cannot be written, a restart will not know it: {error}");
        }
    }
}
