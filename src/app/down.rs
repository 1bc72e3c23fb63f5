//! Builds what the uplink's connections carry beside messages: the way down and twins. Both only where the uplink is a hub;
//! whether anything comes down at all is a matter of `[commands]`, which may change at any time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{BROKER_GRACE, NotTaken, Reloaded, Reloader, Settings, on_its_own_thread, own_twin};
use crate::bridge::devices::Devices;
use crate::bridge::down::{self, Answered, Audit, Downlink, Reload, Watch};
use crate::bridge::twins::{self, Agreed, Plant, Twins, Whose};
use crate::bridge::{Bridge, InUse};
use crate::broker::Inside;
use crate::journal;
use crate::metrics::Metrics;
use crate::shelf::Shelves;
use crate::uplink::{Arrivals, Down, Subscribed, Wanted};

/// Both before their parts are there.
pub(super) struct Prepared {
    commands: Commands,
    pub(super) twins: Twins,
    terms: Agreed,
    kept: journal::Writer,
    arrivals: Arrivals,
    wanted: watch::Sender<Wanted>,
}

/// The way down before its parts are there.
struct Commands {
    watch: Arc<Watch>,
    answers: mpsc::Receiver<Answered>,
    settings: down::Settings,
    audit: Audit,
}

/// Both at work.
pub(super) struct Running {
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    kept: journal::Writer,
}

/// Tells the uplink what to subscribe to; `None` where it is no hub.
pub(super) fn prepare(settings: &mut Settings, terms: Agreed, metrics: &Metrics) -> io::Result<Option<Prepared>> {
    let Some(own) = settings.own.device.clone() else { return Ok(None) };
    settings.uplink.subscribed = Some(Arc::new(Subscribed::open(&settings.state, settings.devices.is_none())));
    let wanted = down::wanted(&settings.rules, &terms.borrow());
    let (per_device, block) = (settings.devices.is_some(), settings.own.block);
    let own_twin = own_twin::is_wanted(settings);
    let whose = Whose { own, per_device, block, own_twin };
    let (twins, kept) = twins::open(&settings.state, (whose, terms.clone()), metrics.clone())?;
    let wanted = twins.wanted(&settings.rules, wanted);
    let (wanted, to_come) = watch::channel(wanted);
    let (down, arrivals) = Down::new(to_come, metrics.clone());
    settings.uplink.down = Some(down);
    let commands = commands(settings, terms.clone());
    Ok(Some(Prepared { commands, twins, terms, kept, arrivals, wanted }))
}

fn commands(settings: &mut Settings, terms: Agreed) -> Commands {
    let (watch, answers) = Watch::new();
    Commands {
        watch: Arc::new(watch),
        answers,
        settings: down::Settings {
            terms,
            per_device: settings.devices.is_some(),
            shown: std::mem::take(&mut settings.shown),
            state: settings.state.clone(),
        },
        audit: Audit::new(&settings.state, settings.config.commands.audit_max_size),
    }
}

impl Prepared {
    /// Tells of answers to commands.
    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.commands.watch)
    }

    /// What comes down is written there.
    pub(super) fn audit(&self) -> Audit {
        self.commands.audit.clone()
    }

    /// Begins to serve.
    pub(super) fn start(
        self,
        (inside, bridge): (Inside, &Bridge),
        reloader: Reloader,
        (shelves, devices): (Option<Arc<Shelves>>, Option<Devices>),
        metrics: Metrics,
    ) -> io::Result<Running> {
        let stop = CancellationToken::new();
        let (rules, commands) = (bridge.rules(), self.commands);
        let plant = Some(Plant { inside: inside.clone(), terms: self.terms, audit: commands.audit.clone() });
        let parts = down::Parts {
            rules: Arc::clone(rules),
            wanted: self.wanted.clone(),
            inside,
            watch: commands.watch,
            audit: commands.audit,
            stores: bridge.stores().clone(),
            shelves,
            reload: Box::new(Files { reloader, rules: Arc::clone(rules) }),
            metrics,
        };
        let run = Downlink::new(commands.settings, parts).run(self.arrivals.commands, commands.answers, stop.clone());
        let down = on_its_own_thread("commands", run)?;
        let parts = twins::Parts { rules: Arc::clone(rules), wanted: self.wanted, devices, plant };
        let run = twins::run(self.twins, parts, self.arrivals.twins, stop.clone());
        let tasks = vec![down, on_its_own_thread("twins", run)?];
        Ok(Running { tasks, stop, kept: self.kept })
    }
}

/// What the method `reload` has looked at.
struct Files {
    reloader: Reloader,
    rules: Arc<InUse>,
}

impl Reload for Files {
    fn reload(&self) -> Pin<Box<dyn Future<Output = (bool, Value)> + Send>> {
        let (reloader, in_use) = (self.reloader.clone(), Arc::clone(&self.rules));
        Box::pin(async move {
            let before = in_use.rules();
            let Reloaded { in_use: sound, refused, restart_for } = reloader.reload().await;
            let now = in_use.rules();
            let told: Vec<Value> = refused.iter().map(|(what, trouble)| refusal(what, trouble)).collect();
            let rules = json!({"count": now.len(), "hash": now.hash(), "changed": now.hash() != before.hash()});
            let told = json!({"rules": rules, "in_use": sound, "refused": told, "restart_for": restart_for});
            (refused.is_empty(), told)
        })
    }
}

fn refusal(what: &str, trouble: &NotTaken) -> Value {
    let findings = down::findings_excerpt(&trouble.findings);
    json!({"what": what, "why": trouble.why, "findings": Some(findings).filter(|findings| !findings.is_empty())})
}

impl Running {
    /// Ends; what waits is left to the hub, and to the next start.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            let _ = tokio::time::timeout(BROKER_GRACE, task).await;
        }
        let kept = tokio::task::spawn_blocking(move || self.kept.join());
        let _ = tokio::time::timeout(BROKER_GRACE, kept).await;
    }
}
