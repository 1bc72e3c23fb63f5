//! Builds the way down, where `[commands]` is enabled and the uplink is a hub.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{BROKER_GRACE, NotTaken, Reloaded, Reloader, Settings, on_its_own_thread};
use crate::bridge::down::{self, Answered, Audit, Downlink, Parts, Reload, Watch};
use crate::bridge::{Bridge, InUse};
use crate::broker::Inside;
use crate::downlink::Fence;
use crate::metrics::Metrics;
use crate::shelf::Shelves;
use crate::uplink::{Arrival, Down, Subscribed, Wanted};

/// The way down before its parts are there.
pub(super) struct Prepared {
    pub(super) watch: Arc<Watch>,
    answers: mpsc::Receiver<Answered>,
    arrivals: mpsc::Receiver<Arrival>,
    wanted: watch::Sender<Wanted>,
    settings: down::Settings,
    state: PathBuf,
    audit_max_size: u64,
}

/// The way down at work.
pub(super) struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

/// Tells the uplink what to subscribe to.
pub(super) fn prepare(settings: &mut Settings, metrics: &Metrics) -> Option<Prepared> {
    let commands = &settings.config.commands;
    settings.own.device.as_ref()?;
    settings.uplink.subscribed = Some(Arc::new(Subscribed::open(&settings.state, settings.devices.is_none())));
    if !commands.enabled {
        return None;
    }
    let own_methods = commands.own_methods;
    let (wanted, to_come) = watch::channel(down::wanted(&settings.rules, own_methods));
    let (down, arrivals) = Down::new(to_come, metrics.clone());
    settings.uplink.down = Some(down);
    let (watch, answers) = Watch::new();
    Some(Prepared {
        watch: Arc::new(watch),
        answers,
        arrivals,
        wanted,
        settings: down::Settings {
            fence: Fence { allow: commands.allow.clone() },
            rate: commands.rate,
            dry_run: commands.dry_run,
            own_methods,
            shown: std::mem::take(&mut settings.shown),
        },
        state: settings.state.clone(),
        audit_max_size: commands.audit_max_size,
    })
}

impl Prepared {
    /// Begins to serve.
    pub(super) fn start(
        self,
        (inside, bridge): (Inside, &Bridge),
        reloader: Reloader,
        shelves: Option<Arc<Shelves>>,
        metrics: Metrics,
    ) -> io::Result<Running> {
        let audit = Audit::new(&self.state, self.audit_max_size);
        let parts = Parts {
            rules: Arc::clone(bridge.rules()),
            wanted: self.wanted,
            inside,
            watch: self.watch,
            audit,
            stores: bridge.stores().clone(),
            shelves,
            reload: Box::new(Files { reloader, rules: Arc::clone(bridge.rules()) }),
            metrics,
        };
        let downlink = Downlink::new(self.settings, parts);
        let stop = CancellationToken::new();
        let task = on_its_own_thread("commands", downlink.run(self.arrivals, self.answers, stop.clone()))?;
        Ok(Running { task, stop })
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
    /// Ends; what waits is left to the hub.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(BROKER_GRACE, self.task).await;
    }
}
