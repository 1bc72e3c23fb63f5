//! Builds the way down, where `[commands]` is enabled and the uplink is a hub.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{BROKER_GRACE, Settings, on_its_own_thread};
use crate::bridge::Bridge;
use crate::bridge::down::{self, Answered, Audit, Downlink, Parts, Watch};
use crate::broker::Inside;
use crate::downlink::Fence;
use crate::metrics::Metrics;
use crate::uplink::{Arrival, Down, Wanted};

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
    if !commands.enabled || settings.own.device.is_none() {
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
    pub(super) fn start(self, inside: Inside, bridge: &Bridge, metrics: Metrics) -> io::Result<Running> {
        let audit = Audit::new(&self.state, self.audit_max_size);
        let parts = Parts {
            rules: Arc::clone(bridge.rules()),
            wanted: self.wanted,
            inside,
            watch: self.watch,
            audit,
            stores: bridge.stores().clone(),
            metrics,
        };
        let downlink = Downlink::new(self.settings, parts);
        let stop = CancellationToken::new();
        let task = on_its_own_thread("commands", downlink.run(self.arrivals, self.answers, stop.clone()))?;
        Ok(Running { task, stop })
    }
}

impl Running {
    /// Ends; what waits is left to the hub.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(BROKER_GRACE, self.task).await;
    }
}
