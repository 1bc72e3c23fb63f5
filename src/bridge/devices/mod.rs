//! Every device a hub identity and a connection of its own.
//!
//! One *dispatcher* reads the spools, the lanes in their order, and gives each message to its device's own queue, which
//! is bounded. A *line* is an uplink that drains the queue of one device over a connection of its own; it is opened when
//! the first message waits and closed when none came for a while, but for those that are to stay open (see `keeping`). Messages without a device, and those addressed to the
//! bridge itself, go over the bridge's own line, which is one of them with an empty name.
//!
//! Nothing one device does may stop another. A message whose device cannot take it now (the hub refuses it, nobody has
//! approved it, or it sends more than its line takes while the lines of others stand idle) is put on the device's
//! [shelf](crate::shelf), and only when it is durable there the spool is told that it is settled. While something is on
//! a shelf, everything newer of that device goes behind it, so its messages stay in order; only urgent ones overtake the
//! shelf of a device that is connected. What waits in memory when a shelf begins goes onto it first (see `transfer`), so
//! the order holds over a restart, too. When the hub as a whole is away, nothing is shelved: the dispatcher stops
//! reading, and the spool keeps what it has.
//!
//! | state of a device | its messages |
//! |---|---|
//! | idle, in line, connecting, connected | go into its queue; behind its shelf where that holds something |
//! | registering: the provisioning service has to be asked for its hub | the same; what its queue has no room for goes onto the shelf |
//! | refused: the hub or the provisioning service said no, or nobody knows its credentials | `when_refused`: wait on the shelf, go over the bridge's own line with the property `device`, or to the quarantine. It is tried again after a pause that doubles to five times `backoff_max` |
//! | refused, for a reason that is not its own: the provisioning service cannot be reached, throttles, or has not assigned anybody yet | on the shelf, whatever `when_refused` says |
//! | held: neither in the table nor allowed by a pattern | on the shelf until an operator approves or denies it |
//! | denied | to the quarantine |
//!
//! A shelf that is full shuts the [`Door`] for its device, unless its oldest messages are to be given up.
//!
//! A device that is refused is quarantined or sent another way only after the hub has let somebody in: a hub that lets
//! in nobody says nothing about a device.
//!
//! A device whose hub has to be asked for waits for that without taking the place of a connection: a fleet that is new
//! takes hours at the pace of the service, and those that are known must go on meanwhile. See [`directory`] for what a
//! device connects with, and `provisioned` for the service.
//!
//! Nothing walks over all devices again and again: what only time brings about is kept in the order of time (`agenda`), and
//! what is counted is counted where it changes (`fleet`). A device that rests costs its memory, and no time.
//!
//! Everything here runs on the uplink's one thread. What the disk takes its time for is done beside it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lanes::{SpoolBacklog, SpoolOutcome};
use crate::config::WhenRefused;
use crate::fence::Name;
use crate::hub::accounts::Accounts;
use crate::hub::device_table;
use crate::metrics::Metrics;
use crate::shelf::Shelves;
use crate::uplink::{self, Crowd, HubTarget, Status, Target, Unassigned, tls};

mod agenda;
mod census;
mod courses;
pub mod directory;
mod dispatch;
mod door;
mod ends;
mod expiries;
mod fleet;
mod keeping;
pub mod known;
mod line;
pub mod provisioned;
mod queue;
mod register;
mod renewal;
mod shelving;
#[cfg(test)]
mod tests;
mod transfer;
mod turns;
mod withdraw;

use agenda::Number;
pub use census::{Listed, Origin, Phase as Condition, Summary, origin};
pub use door::Door;
use fleet::Fleet;
pub use keeping::Keep;
use keeping::Keeping;
use queue::{Device, Held, Phase};
use register::{Register, Verdict};
pub use renewal::Renewed;
pub use shelving::give_back;
pub use withdraw::Withdrawn;

/// Devices known at one time; what names more goes to the quarantine.
const MOST_DEVICES: usize = device_table::MOST;
/// Of those, devices that nobody has allowed: a rule that makes an id of a time stamp must not take the place of all.
const MOST_STRANGERS: usize = 10_000;
/// Bytes of all messages in memory.
const MOST_BYTES: usize = 64 << 20;
/// A connection is closed for another device that waits in line after this time, also when it is busy.
const A_TURN: Duration = Duration::from_secs(10);
/// The longest pause of a refused device, in `backoff_max`.
const LONGEST_PAUSE: u32 = 5;
/// Publishes a device may have in flight where `window` does not say.
const WINDOW: u16 = 32;
/// Messages on their way to the quarantine; with so many nothing more is read.
const ISOLATIONS: usize = 64;

/// The bridge's own identity, asked before each connection of its own line. See [`uplink::Credentials`], which cannot be
/// had as an object.
pub trait OwnIdentity: Send + Sync + 'static {
    /// Its target.
    fn target(&self) -> Pin<Box<dyn Future<Output = Result<Target, Unassigned>> + Send + '_>>;

    /// The hub let it in.
    fn accepted(&self);

    /// The hub refused it.
    fn refused(&self);

    /// The network did not lead to the hub.
    fn unreachable(&self);
}

impl<C: uplink::Credentials> OwnIdentity for C {
    fn target(&self) -> Pin<Box<dyn Future<Output = Result<Target, Unassigned>> + Send + '_>> {
        Box::pin(uplink::Credentials::target(self))
    }

    fn accepted(&self) {
        uplink::Credentials::accepted(self);
    }

    fn refused(&self) {
        uplink::Credentials::refused(self);
    }

    fn unreachable(&self) {
        uplink::Credentials::unreachable(self);
    }
}

/// Who may connect, with what, and what becomes of the others.
pub struct Plan {
    /// The bridge's own identity and hub, as far as they were known at the start.
    pub own: HubTarget,
    /// Whom to trust.
    pub trust: Arc<tls::Trust>,
    /// What devices connect with.
    pub accounts: Arc<dyn Accounts>,
    /// The address in [`Self::own`] is where every hub is reached, not only the bridge's own.
    pub one_address: bool,
    /// The name under which every hub is reached, not only the bridge's own.
    pub gateway: Option<String>,
    /// Ids that may connect, by pattern.
    pub allow: Vec<Name>,
    /// Ids that may connect, by name.
    pub table: HashSet<String>,
    /// What becomes of the messages of a refused device.
    pub when_refused: WhenRefused,
    /// The bridge's own line stays open though nothing waits: the hub sends something on it. May change at any time.
    pub keep_own: Arc<AtomicBool>,
    /// Whose lines stay open, too.
    pub keep: Keep,
    /// A connection without a message for so long is closed.
    pub idle_timeout: Duration,
    /// Most connections.
    pub max_connections: usize,
    /// Connects a second at each hub.
    pub connect_rate: u32,
    /// Messages on a shelf for longer are given up.
    pub shelf_max_age: Option<Duration>,
    /// The bounds of one shelf and of all, in bytes, where full ones refuse. Otherwise their oldest messages are given up.
    pub refuse_above: Option<(u64, u64)>,
}

/// How devices connect.
pub struct Options {
    /// Of the bridge's own line; the others follow it.
    pub uplink: uplink::Options,
    /// Who may, and with what.
    pub plan: Plan,
    /// Who the bridge's own line is.
    pub identity: Arc<dyn OwnIdentity>,
    /// The shelves.
    pub shelves: Arc<Shelves>,
    /// The folder in which approvals are kept.
    pub state: PathBuf,
}

/// What an operator sees and does. Cheap to clone.
#[derive(Clone)]
pub struct Devices(Arc<Shared>);

/// What dispatcher, lines and operator share.
struct Shared {
    options: Options,
    outcome: SpoolOutcome,
    metrics: Metrics,
    shelves: Arc<Shelves>,
    crowd: Arc<Crowd>,
    register: Mutex<Register>,
    devices: Mutex<Roster>,
    /// The bridge's own line.
    own: Arc<Device>,
    slots: Mutex<Slots>,
    asking: Mutex<Asking>,
    keeping: Mutex<Keeping>,
    door: Arc<Door>,
    lines: TaskTracker,
    /// Messages on their way to the quarantine.
    isolating: AtomicUsize,
    /// What lines left behind and is to be given its way anew, in order.
    left: Mutex<VecDeque<Left>>,
    /// What all devices have in common.
    fleet: Arc<Fleet>,
    /// The certificates in files are others than before.
    files_changed: AtomicBool,
    /// The shelves and who has one, as they were when the door was minded last.
    door_minded: Mutex<Option<(u64, u64)>>,
    /// Devices that are connected.
    connected: AtomicUsize,
    /// When one of them was last.
    admitted: Mutex<Option<Instant>>,
    last_puback: Mutex<Option<Instant>>,
    /// Why the last connection of any device ended.
    trouble: Mutex<Option<(&'static str, String)>>,
    /// For the dispatcher: something may have changed that it waits for.
    wake: Notify,
    stop: CancellationToken,
}

/// All devices but the bridge's own line. None ever leaves.
#[derive(Default)]
struct Roster {
    by_id: HashMap<Arc<str>, Arc<Device>>,
    /// By their number, which begins with 1.
    in_order: Vec<Arc<Device>>,
    /// How many came as strangers, and were not let in since.
    strangers: usize,
}

/// A message that a line has left behind.
struct Left {
    device: Arc<Device>,
    held: Held,
}

/// Who has a connection, and who waits for one.
#[derive(Default)]
struct Slots {
    taken: usize,
    /// Of those, how many were asked to leave.
    leaving: usize,
    line: VecDeque<Arc<Device>>,
}

/// Who asks for its hub, and who will.
#[derive(Default)]
struct Asking {
    now: usize,
    line: VecDeque<Arc<Device>>,
}

/// Opens the approvals. The devices do nothing before [`run`].
pub fn open(options: Options, outcome: SpoolOutcome, metrics: Metrics) -> std::io::Result<Devices> {
    let shelves = Arc::clone(&options.shelves);
    let register = Register::open(&options.state, options.plan.allow.clone(), options.plan.table.clone())?;
    let crowd = Arc::new(Crowd::new(options.plan.connect_rate));
    let fleet = Arc::<Fleet>::default();
    let own = Device::new("", 0, Phase::Idle, &fleet);
    let shared = Arc::new(Shared {
        outcome,
        metrics,
        crowd,
        register: Mutex::new(register),
        devices: Mutex::default(),
        own,
        slots: Mutex::default(),
        asking: Mutex::default(),
        keeping: Mutex::new(Keeping::open(&options.state)),
        door: Arc::default(),
        lines: TaskTracker::new(),
        isolating: AtomicUsize::new(0),
        left: Mutex::default(),
        fleet,
        files_changed: AtomicBool::new(true),
        door_minded: Mutex::default(),
        connected: AtomicUsize::new(0),
        admitted: Mutex::default(),
        last_puback: Mutex::default(),
        trouble: Mutex::default(),
        wake: Notify::new(),
        stop: CancellationToken::new(),
        shelves,
        options,
    });
    for id in shared.shelves.devices() {
        let device = if id.is_empty() { Some(Arc::clone(&shared.own)) } else { shared.device(&id) };
        if let Some(device) = device {
            device.is_on_shelf();
        }
    }
    shared.mind_the_door();
    shared.keep_open(shared.options.plan.keep.clone());
    Ok(Devices(shared))
}

/// Delivers until `stop`; what is then in flight is still in a spool or on a shelf.
pub async fn run(devices: Devices, backlog: SpoolBacklog, status: watch::Sender<Status>, stop: CancellationToken) {
    let shared = devices.0;
    let ended = async {
        stop.cancelled().await;
        shared.stop.cancel();
    };
    tokio::join!(ended, dispatch::run(&shared, backlog, &status));
    shared.lines.close();
    shared.lines.wait().await;
    shared.write_let_in().await;
    shared.persist().await;
}

async fn ask_for_hub(shared: Arc<Shared>, device: Arc<Device>) {
    // Somebody may have denied it while it waited.
    let wanted = |device: &Device| device.state().phase == Phase::Registering;
    let answer = loop {
        if !wanted(&device) {
            break None;
        }
        let anew = device.may_be_ended();
        tokio::select! {
            answer = shared.options.plan.accounts.of(&device.id) => break Some(answer),
            () = shared.stop.cancelled() => break None,
            // What it proves itself with is another now.
            () = anew.cancelled() => {}
        }
    };
    match answer.filter(|_| wanted(&device)) {
        None => {}
        Some(Err(why)) => line::refused(&shared, &device, why),
        Some(Ok(_)) => {
            shared.set_phase(&mut device.state(), Phase::InLine);
            shared.line_up(&device);
        }
    }
    {
        let mut asking = shared.asking.lock();
        asking.now -= 1;
        shared.ask(&mut asking);
    }
    shared.wake.notify_one();
}

impl Devices {
    /// Something else than messages is to be said over the line of a device, which is opened for it and stays open; or
    /// nothing more. An empty name is the bridge's own line.
    pub(super) fn errand(&self, id: &str, is: bool) {
        let shared = &self.0;
        let device = if id.is_empty() { Some(Arc::clone(&shared.own)) } else { shared.device(id) };
        let Some(device) = device else { return };
        {
            let mut state = device.state();
            state.errand = is;
            state.active = Instant::now();
        }
        device.news.notify_waiters();
        if is {
            shared.want(&device);
        }
    }
}

impl Shared {
    /// The device of this name, new or known; `None` where there are too many.
    fn device(&self, id: &str) -> Option<Arc<Device>> {
        let mut devices = self.devices.lock();
        if let Some(device) = devices.by_id.get(id) {
            return Some(Arc::clone(device));
        }
        if devices.in_order.len() >= MOST_DEVICES {
            return None;
        }
        let phase = match self.register.lock().verdict(id) {
            Verdict::Allowed => Phase::Idle,
            Verdict::Unknown => Phase::Held,
            Verdict::Denied => Phase::Denied,
        };
        if phase == Phase::Held {
            if devices.strangers >= MOST_STRANGERS {
                return None;
            }
            devices.strangers += 1;
            tracing::warn!(
                device = id,
                "a device that is neither in the table nor allowed is held: `brownbridge devices approve` lets it in"
            );
        }
        let number = Number::try_from(devices.in_order.len() + 1).ok()?;
        let device = Device::new(id, number, phase, &self.fleet);
        self.keeping.lock().meets(&device);
        devices.by_id.insert(Arc::clone(&device.id), Arc::clone(&device));
        devices.in_order.push(Arc::clone(&device));
        Some(device)
    }

    /// A device that was held may connect now.
    fn let_in(&self, device: &Device) {
        let was_held = {
            let mut state = device.state();
            let was_held = state.phase == Phase::Held;
            state.let_in();
            was_held
        };
        let mut devices = self.devices.lock();
        devices.strangers = devices.strangers.saturating_sub(usize::from(was_held));
    }

    /// The device of this name, where it is known; without one, the bridge's own line.
    fn find(&self, id: &str) -> Option<Arc<Device>> {
        match id {
            "" => Some(Arc::clone(&self.own)),
            id => self.devices.lock().by_id.get(id).cloned(),
        }
    }

    /// The devices of these numbers.
    fn numbered(&self, numbers: impl IntoIterator<Item = Number>) -> Vec<Arc<Device>> {
        let devices = self.devices.lock();
        let device = |number: Number| match number.checked_sub(1) {
            None => Some(Arc::clone(&self.own)),
            Some(at) => devices.in_order.get(at as usize).cloned(),
        };
        numbers.into_iter().filter_map(device).collect()
    }

    /// All devices, the bridge's own line first.
    fn all(&self) -> Vec<Arc<Device>> {
        let devices = self.devices.lock();
        std::iter::once(&self.own).chain(&devices.in_order).cloned().collect()
    }

    /// A device has something to send: it gets a line, or a place in the line for one.
    fn want(self: &Arc<Self>, device: &Arc<Device>) {
        if !device.line_up(Instant::now()) {
            return;
        }
        if device.is_own() || self.options.plan.accounts.is_at_hand(&device.id) {
            return self.line_up(device);
        }
        self.set_phase(&mut device.state(), Phase::Registering);
        let mut asking = self.asking.lock();
        asking.line.push_back(Arc::clone(device));
        self.ask(&mut asking);
    }

    /// The device gets a line, or a place in the line for one.
    fn line_up(self: &Arc<Self>, device: &Arc<Device>) {
        let mut slots = self.slots.lock();
        if device.is_own() {
            slots.line.push_front(Arc::clone(device));
        } else {
            slots.line.push_back(Arc::clone(device));
        }
        self.admit(&mut slots);
    }

    /// Has devices ask for their hub, as many as may at one time.
    fn ask(self: &Arc<Self>, asking: &mut Asking) {
        while asking.now < self.options.plan.accounts.asks_at_once()
            && !self.stop.is_cancelled()
            && let Some(device) = asking.line.pop_front()
        {
            asking.now += 1;
            self.lines.spawn(ask_for_hub(Arc::clone(self), device));
        }
    }

    fn admit(self: &Arc<Self>, slots: &mut Slots) {
        while slots.taken < self.options.plan.max_connections
            && !self.stop.is_cancelled()
            && let Some(device) = slots.line.pop_front()
        {
            slots.taken += 1;
            self.lines.spawn(line::run(Arc::clone(self), device));
        }
    }

    /// A line has ended.
    fn leave(self: &Arc<Self>, was_asked: bool) {
        let mut slots = self.slots.lock();
        slots.taken = slots.taken.saturating_sub(1);
        slots.leaving = slots.leaving.saturating_sub(usize::from(was_asked));
        self.admit(&mut slots);
    }

    /// Writes down how far shelves are settled.
    async fn persist(&self) {
        let shelves = Arc::clone(&self.shelves);
        let _ = tokio::task::spawn_blocking(move || shelves.persist()).await;
    }

    /// More may be read.
    fn has_room(&self) -> bool {
        self.fleet.bytes.load(Ordering::Relaxed) < MOST_BYTES && self.isolating.load(Ordering::Relaxed) < ISOLATIONS
    }
}
