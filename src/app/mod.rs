//! Builds the parts, joins them, and ends them in order.
//!
//! | task or thread | started by | ends when | queue into it |
//! |---|---|---|---|
//! | broker: an accept loop a listener, one task a connection, one each for `$SYS`, what is due and what is to be kept | [`start`] | [`Running::stop`], first | sockets (not read while the spool is full) |
//! | spool, and those of urgent messages and of what waits in windows: writer and reader threads | [`start`] | after the uplink | one pending batch, 4 MB |
//! | quarantine: writer thread | [`start`] | after the uplink | 64 entries |
//! | births of Sparkplug: the journal's thread, and a task that has it written anew | [`start`], where a rule decodes Sparkplug | after the broker | 16 MiB of records |
//! | sessions: the journal's thread | [`start`] | after the broker | 64 MiB of records |
//! | uplink, on a thread of its own | [`start`] | after what can go has gone, or `drain_timeout` | the spool; `window` in flight |
//! | windows: closes those of rules with `batch`, `aggregate` or `pivot`, and stores their messages | [`start`] | after the broker | the holding spool; 10,000 closed ones |
//! | dispatcher and a line a device, on that thread, instead of the one uplink | [`start`] | the same | 128 messages or 1 MB a device, 64 MB in all; 4,096 messages or 8 MB for the shelves |
//! | watches of the files of the rules, the fence, the devices, the TLS listener and the uplink's TLS | [`start`] | after the broker | 1 request each; passwords wait for one of 2 places |
//! | way down: commands and methods, on a thread of its own | [`start`], where `[commands]` is enabled | after the broker | 256 arrivals, 64 answers, 1,000 commands that wait |
//! | own twin: tells about the bridge and takes what is desired of it | [`start`], where `own_twin` is on | with the watches | none |
//! | ledger: writes the books | [`start`] | after the uplink | none |
//! | control socket | [`start`] | after the broker | 8 connections; 4,096 entries and 8 MiB for each of 4 taps and recordings |
//! | admin | [`start`] | last | 64 connections |

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{self, Handle};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Recorder};
use crate::bridge::{self, Bridge, Holding, InUse, KeptBirths, Stores};
use crate::broker::{Broker, Listener, Transport};
use crate::control as control_socket;
use crate::journal;
use crate::message::Timestamp;
use crate::metrics::{Metrics, describe_labelled};
use crate::quarantine::{self, Quarantine};
use crate::shelf::{self, Shelves};
use crate::spool::{self, OpenError, Spool};
use crate::uplink::{self, Status};

mod control;
pub mod credentials;
pub mod devices;
mod down;
mod drain;
pub mod gate;
pub mod inherited;
mod keep;
pub mod ledger;
mod own_twin;
mod page;
pub mod plant_tls;
pub mod private;
mod pulse;
mod queue;
mod reload;
pub mod replay;
pub mod rule_files;
pub mod settings;
pub mod status;
pub mod text_file;

use self::ledger::Ledger;
use control::Operator;
use credentials::{Identity, UplinkTls};
use devices::Planned;
use drain::Drain;
use gate::Keeper;
use inherited::Inherited;
use page::Gauges;
use plant_tls::PlantTls;
pub use pulse::Pulse;
use reload::commands::CommandTerms;
pub use reload::commands::terms as command_terms;
use reload::devices::DeviceTables;
use reload::fence::Fence;
use reload::rules::RuleFiles;
pub use reload::{BridgeToml, NotTaken, Reloaded, Reloader};
use reload::{Standing, Watches};
pub use settings::Settings;

/// How long plant connections may take to end.
const BROKER_GRACE: Duration = Duration::from_secs(5);
/// How long the disk may take to close the spool. What is acknowledged is on it already.
const CLOSE_GRACE: Duration = Duration::from_secs(10);
/// How long a command may have the quarantine's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted: when a whole plant comes back at once, one that finds no place is silent
/// for a second before it tries again. The system may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Why the program cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address is taken or forbidden.
    Listen(&'static str, SocketAddr, io::Error),
    /// The spool's folder is locked, forbidden or no folder.
    Spool(OpenError),
    /// The quarantine's folder cannot be used.
    Quarantine(PathBuf, io::Error),
    /// The folder of sessions and retained messages cannot be used.
    Sessions(PathBuf, io::Error),
    /// What waits for twins cannot be kept.
    Twins(PathBuf, io::Error),
    /// Sparkplug births cannot be kept.
    Births(PathBuf, io::Error),
    /// What the sequence property goes on with cannot be read.
    Sequences(PathBuf, io::Error),
    /// What devices have left, or what was said of them, cannot be used.
    Devices(PathBuf, io::Error),
    /// The uplink's thread has no runtime.
    Runtime(io::Error),
    /// The broker's socket cannot be used.
    Broker(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(what, address, error) => {
                write!(f, "cannot listen on {address} for {what}: {error}")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        write!(f, "; `ss -ltnp 'sport = :{}'` tells who does", address.port())
                    }
                    io::ErrorKind::PermissionDenied => f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE"),
                    _ => Ok(()),
                }
            }
            Self::Spool(error) => error.fmt(f),
            Self::Quarantine(dir, error) => write!(f, "the quarantine {} cannot be used: {error}", dir.display()),
            Self::Sessions(dir, error) => {
                write!(f, "sessions and retained messages cannot be kept in {}: {error}", dir.display())
            }
            Self::Twins(dir, error) => write!(f, "{} cannot be used: {error}", dir.join("twins").display()),
            Self::Births(dir, error) => write!(f, "{} cannot be used: {error}", dir.join("births").display()),
            Self::Sequences(dir, error) => write!(f, "sequences.json in {} cannot be used: {error}", dir.display()),
            Self::Devices(dir, error) => write!(f, "the devices' files in {} cannot be used: {error}", dir.display()),
            Self::Runtime(error) => write!(f, "the uplink cannot start: {error}"),
            Self::Broker(error) => write!(f, "the broker cannot start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A running bridge.
pub struct Running {
    broker: Broker,
    bridge: Arc<Bridge>,
    files: Watches,
    bridge_toml: Arc<BridgeToml>,
    mqtt_addr: SocketAddr,
    admin_addr: SocketAddr,
    spools: Vec<Spool>,
    stores: Stores,
    quarantine: quarantine::Writer,
    sessions: journal::Writer,
    births: KeptBirths,
    uplink: JoinHandle<()>,
    uplink_stop: CancellationToken,
    status: watch::Receiver<Status>,
    pulse: Option<Pulse>,
    admin: JoinHandle<()>,
    admin_stop: CancellationToken,
    windows: JoinHandle<()>,
    windows_stop: CancellationToken,
    control: Option<JoinHandle<()>>,
    control_stop: CancellationToken,
    down: Option<down::Running>,
    own_twin: Option<JoinHandle<()>>,
    ledger: Arc<Ledger>,
    ledger_kept: JoinHandle<()>,
    ledger_stop: CancellationToken,
    drain: Drain,
    drain_timeout: Duration,
}

/// Starts everything. Only what belongs to this machine can fail: an unreachable hub is the uplink's to retry.
pub async fn start(mut settings: Settings, recorder: Recorder) -> Result<Running, StartError> {
    for (path, error) in private::close(&settings.state) {
        tracing::warn!("others on this machine can read {}, and that cannot be changed: {error}", path.display());
    }
    let mut inherited = std::mem::take(&mut settings.inherited);
    let listeners = listen(std::mem::take(&mut settings.listeners), &mut inherited)?;
    let listen = settings.config.admin.listen.value;
    let page = TcpListener::bind(listen).await.map_err(|error| StartError::Listen("/metrics", listen, error))?;
    let admin_addr = page.local_addr().unwrap_or(listen);
    describe_labelled();
    let metrics = Metrics::register();

    let (terms_sender, terms) = watch::channel(Arc::new(command_terms(&settings.config.commands)));
    let (tuned, own_twin) = own_twin::prepare(&mut settings, &terms);
    let down = down::prepare(&mut settings, terms.clone(), &metrics)
        .map_err(|error| StartError::Twins(settings.state.clone(), error))?;
    let opened = open_spool("spool", settings.spool)?;
    let urgent = open_spool("urgent spool", settings.urgent)?;
    let (held, held_spool) = Holding::over(open_spool("holding spool", settings.held)?);
    // Before anything moves: it starts from what the spools were found to hold.
    let found = vec![opened.appender.clone(), urgent.appender.clone()];
    let shelves = open_shelves(settings.shelf, settings.devices.is_some())?;
    let ledger = Ledger::open(&settings.state, recorder.clone(), (found.clone(), shelves.clone(), held.clone()));
    let progress = found.iter().chain([held.spool()]).map(pulse::Progress::of).collect();
    let (quarantine_dir, max_size) = settings.quarantine;
    let (quarantine, quarantine_writer) = open_quarantine(&quarantine_dir, max_size)
        .await
        .map_err(|error| StartError::Quarantine(quarantine_dir.clone(), error))?;
    let (mut stores, backlog, spools) = bridge::join([opened, urgent], (held, held_spool), (&quarantine, &metrics));
    if let Some(property) = settings.config.uplink.sequence_property.take() {
        let state = &settings.state;
        stores.number(state, property.value).map_err(|error| StartError::Sequences(state.clone(), error))?;
    }

    let (status_sender, status) = watch::channel(Status::default());
    let uplink_stop = CancellationToken::new();
    settings.uplink.relays = Some(Handle::current());
    let hub_rate = settings.uplink.hub_rate.clone();
    let keep_own = settings.devices.as_ref().map(|planned| Arc::clone(&planned.plan.keep_own));
    let mut tables = None;
    let (uplink, devices) = match (settings.devices, shelves.clone()) {
        (Some(Planned { plan, directory, config }), Some(shelves)) => {
            tables = Some((config, directory));
            let identity = Arc::new(Identity::new(Arc::clone(&settings.credentials)));
            let (backlog, outcome) = backlog;
            let state = settings.state.clone();
            let options = bridge::devices::Options { uplink: settings.uplink, plan, identity, shelves, state };
            let devices = bridge::devices::open(options, outcome, metrics.clone())
                .map_err(|error| StartError::Devices(settings.state.clone(), error))?;
            let run = bridge::devices::run(devices.clone(), backlog, status_sender, uplink_stop.clone());
            (on_its_own_thread("uplink", run), Some(devices))
        }
        _ => {
            if let Some(shelves) = shelves.clone() {
                // It ends by itself, with the shelves; what is left at the end of the program is still there.
                tokio::spawn(bridge::devices::give_back(shelves, stores.clone()));
            }
            let identity = Identity::new(Arc::clone(&settings.credentials));
            let run =
                uplink::run((settings.uplink, identity), backlog, metrics.clone(), status_sender, uplink_stop.clone());
            (on_its_own_thread("uplink", run), None)
        }
    };
    let uplink = uplink.map_err(StartError::Runtime)?;

    let rules = (settings.rules, settings.unmatched);
    let bridge = Bridge::new(rules, settings.own, stores.clone(), quarantine.clone(), metrics.clone());
    let bridge =
        bridge.keeping_births(&settings.state).map_err(|error| StartError::Births(settings.state.clone(), error))?;
    let bridge = match &devices {
        Some(devices) => bridge.behind(devices.door()),
        None => bridge,
    };
    let bridge = match &down {
        Some(down) => bridge.reporting(down.twins.clone()),
        None => bridge,
    };
    let bridge = match own_twin.as_ref().and_then(own_twin::Prepared::seen) {
        Some(seen) => bridge.hearing(seen),
        None => bridge,
    };
    let bridge = Arc::new(match down.as_ref().map(down::Prepared::watch) {
        Some(watch) => bridge.watched_by(watch),
        None => bridge,
    });
    bridge.recover();
    let windows_stop = CancellationToken::new();
    let windows = tokio::spawn(Arc::clone(&bridge).run_windows(Timestamp::now, windows_stop.clone()));
    let control_stop = CancellationToken::new();
    let operator = Operator {
        bridge: Arc::clone(&bridge),
        stores: stores.clone(),
        quarantine,
        quarantine_dir,
        metrics: metrics.clone(),
        devices: devices.clone(),
    };
    let control = open_control(&settings.state, operator, &control_stop);
    let standing = Arc::new(Standing::new(Timestamp::now()));
    let mut files = Watches::new(Arc::clone(&standing));
    files.add_unseen(RuleFiles::new(settings.rule_path, Arc::clone(bridge.rules()), Arc::clone(&tuned)));
    if let Some(fence) = settings.fence {
        let keeper = Keeper::new(fence.policy, fence.notebook);
        settings.broker.gate = Some(Arc::new(keeper.clone()));
        files.add(Fence::new(fence.files, keeper));
    }
    files.add(UplinkTls::new(settings.credentials, devices.clone()));
    let bridge_toml = Arc::new(settings.bridge_toml);
    if down.is_some() {
        let own_line = keep_own.filter(|_| settings.config.commands.own_line);
        files.add_unseen(CommandTerms::new(Arc::clone(&bridge_toml), terms_sender, own_line));
    }
    if let (Some(tables), Some(devices)) = (tables, &devices) {
        files.add_unseen(DeviceTables::new(Arc::clone(&bridge_toml), tables, devices.clone()));
    }
    if let Some((tls, config)) = settings.plant_tls {
        files.add(PlantTls::new(tls, config, metrics.clone()));
    }
    let dir = settings.sessions;
    let (kept, sessions, restored) =
        keep::open(&dir, &mut settings.broker).map_err(|error| StartError::Sessions(dir, error))?;
    let broker = Broker::start(listeners, (settings.broker, restored), Arc::clone(&bridge), metrics.clone())
        .map_err(StartError::Broker)?;
    let births = KeptBirths::run(&bridge, broker.inside());
    let reloader = || files.reloader(Arc::clone(&bridge_toml));
    let lines = (shelves.clone(), devices.clone());
    let drain =
        Drain { stores: stores.clone(), status: status.clone(), devices: devices.clone(), shelves: shelves.clone() };
    let twins = down.as_ref().map(|down| down.twins.clone());
    let audit = down.as_ref().map(down::Prepared::audit);
    let down = down.map(|down| down.start((broker.inside(), &bridge), reloader(), lines, metrics)).transpose();
    let down = down.map_err(StartError::Runtime)?;

    let admin_stop = CancellationToken::new();
    let ledger_stop = CancellationToken::new();
    let ledger_kept = tokio::spawn(ledger::keep(Arc::clone(&ledger), ledger_stop.clone()));
    let source = Arc::new(Gauges {
        ledger: Arc::clone(&ledger),
        stores: stores.clone(),
        status: status.clone(),
        hub_rate,
        listeners: broker.addresses().to_vec(),
        census: broker.census(),
        standing,
        rules: Arc::clone(bridge.rules()),
        quota: settings::quota(&settings.config),
        sessions: kept,
        shelves,
        devices,
        audit,
        terms,
        twins: twins.clone(),
    });
    let pulse = Pulse::new(progress, Arc::clone(&source), uplink.abort_handle());
    let own_twin = own_twin.zip(twins).map(|(own, twins)| {
        let (gauges, rules) = (Arc::clone(&source), Arc::clone(bridge.rules()));
        let parts = own_twin::Parts { twins, gauges, recorder: recorder.clone(), reloader: reloader(), rules, tuned };
        // It ends by itself, with the watches of the files.
        tokio::spawn(own.run(parts, files.ended()))
    });
    let admin = tokio::spawn(admin::serve(page, recorder, source, admin_stop.clone()));
    let plant: Vec<String> = broker.addresses().iter().map(|(name, address)| format!("{name}://{address}")).collect();
    let rules = bridge.rules().rules();
    let (count, hash, page) = (rules.len(), rules.hash(), format!("http://{admin_addr}/metrics"));
    tracing::info!(listeners = plant.join(" "), metrics = %page, rules = count, hash, "brownbridge is up");
    Ok(Running {
        mqtt_addr: broker.addresses().first().map_or(settings.config.broker.listen.value, |(_, address)| *address),
        broker,
        bridge,
        files,
        bridge_toml,
        admin_addr,
        spools,
        stores,
        quarantine: quarantine_writer,
        sessions,
        births,
        uplink,
        uplink_stop,
        status,
        pulse: Some(pulse),
        admin,
        admin_stop,
        windows,
        windows_stop,
        control,
        control_stop,
        down,
        own_twin,
        ledger,
        ledger_kept,
        ledger_stop,
        drain,
        drain_timeout: settings.config.uplink.drain_timeout,
    })
}

/// Opens the quarantine. `brownbridge quarantine drop` may have it for a moment while no bridge runs.
async fn open_quarantine(dir: &Path, max_size: u64) -> io::Result<(Quarantine, quarantine::Writer)> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match quarantine::open(dir, max_size) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => return opened,
        }
    }
}

/// Opens the control socket. Without it the bridge does its job, so that is only told.
fn open_control(state: &Path, operator: Operator, stop: &CancellationToken) -> Option<JoinHandle<()>> {
    match control_socket::listen(state) {
        Ok(listener) => Some(tokio::spawn(control_socket::serve(listener, Arc::new(operator), stop.clone()))),
        Err(error) => {
            let path = state.join(control_socket::SOCKET);
            tracing::warn!(
                "`quarantine retry` and `queue` will not work: {} cannot be opened: {error}",
                path.display()
            );
            None
        }
    }
}

/// Runs a part beside the runtime of the plant's connections, which have acknowledgements to write: a backlog that is
/// drained at full speed keeps a thread busy, and a disk may take its time with a line of the audit log.
fn on_its_own_thread(name: &str, part: impl Future<Output = ()> + Send + 'static) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (alive, mut ended) = mpsc::channel::<()>(1);
    std::thread::Builder::new().name(name.into()).spawn(move || {
        runtime.block_on(part);
        drop(alive);
    })?;
    Ok(tokio::spawn(async move {
        ended.recv().await;
    }))
}

/// Opens the shelves where devices have them, and where some were left from a time when they had.
fn open_shelves(options: shelf::Options, needed: bool) -> Result<Option<Arc<Shelves>>, StartError> {
    if !needed && !shelf::holds_something(&options.dir) {
        return Ok(None);
    }
    let dir = options.dir.clone();
    let shelves = Shelves::open(options).map_err(|error| StartError::Devices(dir, error))?;
    let stats = shelves.stats();
    if stats.waiting > 0 {
        tracing::info!(waiting = stats.waiting, devices = stats.shelves, "messages wait on shelves");
    }
    Ok(Some(Arc::new(shelves)))
}

fn open_spool(what: &str, options: spool::Options) -> Result<spool::Opened, StartError> {
    let opened = spool::open(options).map_err(StartError::Spool)?;
    let recovered = &opened.recovered;
    tracing::info!(waiting = recovered.waiting, "{what} open after {:.0?}", recovered.took);
    Ok(opened)
}

/// Opens the sockets of the plant's side, in their order; what systemd opened is taken over.
fn listen(wanted: Vec<(SocketAddr, Transport)>, inherited: &mut Inherited) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    for (address, transport) in wanted {
        let name = match transport {
            Transport::Tcp => "MQTT",
            Transport::Tls(_) => "MQTT over TLS",
            Transport::WebSocket => "MQTT over WebSocket",
        };
        let socket = inherited
            .take(address)
            .unwrap_or_else(|| bind(address))
            .map_err(|error| StartError::Listen(name, address, error))?;
        listeners.push(Listener { socket, transport });
    }
    Ok(listeners)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for what is left of the connections before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Running {
    /// Where MQTT clients connect.
    pub fn mqtt_addr(&self) -> SocketAddr {
        self.mqtt_addr
    }

    /// Where /metrics is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// What the uplink is doing.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether the parts make progress; there is one.
    pub fn pulse(&mut self) -> Option<Pulse> {
        self.pulse.take()
    }

    /// The rules in use.
    pub fn rules(&self) -> Arc<InUse> {
        Arc::clone(self.bridge.rules())
    }

    /// Asks for a look at all files that may change.
    pub fn reloader(&self) -> Reloader {
        self.files.reloader(Arc::clone(&self.bridge_toml))
    }

    /// How long [`stop`](Self::stop) takes at most.
    pub fn longest_stop(&self) -> Duration {
        5 * BROKER_GRACE + bridge::CLOSE_GRACE + self.drain_timeout + CLOSE_GRACE
    }

    /// Returns, with the reason, only if the spool failed for good.
    pub fn spool_failure(&self) -> impl Future<Output = Arc<str>> + Send + 'static {
        self.stores.clone().failure()
    }

    /// Ends in the order of the message's way: the plant side, what is committed, the uplink when it has drained.
    pub async fn stop(self) -> Result<(), spool::CloseError> {
        self.broker.stop(BROKER_GRACE).await;
        if let Some(down) = self.down {
            down.stop().await;
        }
        self.files.stop().await;
        if let Some(own_twin) = self.own_twin {
            let _ = tokio::time::timeout(BROKER_GRACE, own_twin).await;
        }
        self.control_stop.cancel();
        if let Some(control) = self.control {
            let _ = control.await;
        }
        self.windows_stop.cancel();
        let _ = self.windows.await;
        self.stores.close();
        drop(self.bridge);
        let kept = tokio::task::spawn_blocking(move || self.sessions.join());
        let _ = tokio::time::timeout(BROKER_GRACE, async { tokio::join!(kept, self.births.stop()) }).await;
        let _ = tokio::time::timeout(self.drain_timeout, self.drain.done()).await;
        self.uplink_stop.cancel();
        let _ = self.uplink.await;
        // The uplink was the last that could put something into it.
        let waiting = tokio::task::spawn_blocking(move || self.quarantine.join());
        let _ = tokio::time::timeout(BROKER_GRACE, waiting).await;
        self.drain.tell();
        self.ledger_stop.cancel();
        let _ = self.ledger_kept.await;
        self.ledger.close();
        let spools = self.spools;
        let close = move || spools.into_iter().map(Spool::close).fold(Ok(()), Result::and);
        let closed = tokio::time::timeout(CLOSE_GRACE, tokio::task::spawn_blocking(close)).await;
        self.admin_stop.cancel();
        let _ = self.admin.await;
        match closed {
            Ok(Ok(closed)) => closed,
            Ok(Err(_)) => Err(spool::CloseError("its closing was cut off".into())),
            Err(_) => Err(spool::CloseError(format!("the disk did not answer within {CLOSE_GRACE:?}"))),
        }
    }
}
