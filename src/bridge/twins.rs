//! Twins: what the plant reports on its way up, what is desired on its way down, one exchange a hub identity.
//!
//! What is reported is a last value, no message: it does not go through the spool. A publish that a rule with
//! `to = "reported"` takes is merged into what waits for its twin, written to a journal in `<state>/twins` and
//! acknowledged when the disk has it. The hub gets what waits as one change, no oftener than the rule says, as a difference
//! to what it has; when it has confirmed that, the journal says so. So no last value that was acknowledged is lost, by
//! a restart, a power cut or an outage of any length; values that were followed by others may never be seen by the hub.
//!
//! With one connection for all, the properties of a device are in the gateway's twin, under `devices` and the id of the
//! device, in which what a twin takes in no name is written as `%` and two hex digits. With a connection each they are
//! in the device's own twin, and something that waits opens its line.
//!
//! All changes are counted: those taken and those found in the journal are the sum of those `confirmed`, `unchanged`
//! (the hub had them already), `refused` and waiting.
//!
//! The bridge's own identity has a twin, too: what the bridge says about itself goes through
//! [`report_own`](Twins::report_own), what is desired of it comes through [`own_desired`](Twins::own_desired).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::downlink::Terms;
use crate::hub::connection_string::is_id;
use crate::hub::exchange::Desired;
use crate::hub::twin::{self, DEVICES, PROPERTIES_MAX_BYTES, Properties};
use crate::journal::{self, Journal};
use crate::message::{excerpt, push_twin_name};
use crate::metrics::{Metrics, billable_by_rule};
use crate::rules::RuleSet;
use crate::uplink::Wanted;

mod account;
mod book;
mod desired;
mod records;
mod talk;

pub use account::{Account, Listed, Refusal};
use book::Book;
pub use desired::Plant;
pub use talk::{Parts, run};

/// The folder below the state.
const FOLDER: &str = "twins";
/// Records that may wait for the disk.
const MAX_PENDING: usize = 8 << 20;
/// Where in the bridge's own twin it is about the bridge, and no matter of the plant.
pub const OF_BRIDGE: &str = "bridge";
/// The rule under which what a hub bills for twins is counted.
const BILLED: &str = "(twins)";
/// The rule under which the bridge's own properties are counted.
const OWN: &str = "(bridge)";

/// Whose twins they are.
#[derive(Debug, Clone)]
pub struct Whose {
    /// The device id of the bridge's own connection.
    pub own: String,
    /// Every device has a connection, and so a twin, of its own.
    pub per_device: bool,
    /// The bytes that the hub bills as one message; `None` where nothing is billed.
    pub block: Option<usize>,
    /// The bridge wants to know what is desired of itself, whatever rules say.
    pub own_twin: bool,
}

/// What `[commands]` says now.
pub type Agreed = watch::Receiver<Arc<Terms>>;

/// All twins. Cheap to clone.
#[derive(Clone)]
pub struct Twins(Arc<Shared>);

struct Shared {
    whose: Whose,
    /// What may come down now.
    terms: Agreed,
    book: Mutex<Book>,
    journal: Journal,
    /// Something waits in `Book::touched`.
    touched: Notify,
    own_desired: watch::Sender<Option<Arc<Desired>>>,
    /// What the hub refused last.
    refused: Mutex<Option<Refusal>>,
    metrics: Metrics,
}

/// A change that fits its twin.
pub(super) struct Ready {
    /// The hub's device.
    device: String,
    change: Properties,
    every: Duration,
}

/// Why a change is not taken: the label, and a sentence.
pub(super) type Refused = (&'static str, String);

/// Opens what was kept.
pub fn open(state: &Path, (whose, terms): (Whose, Agreed), metrics: Metrics) -> io::Result<(Twins, journal::Writer)> {
    let now = Instant::now();
    let mut book = Book::default();
    let what = ("reported and desired properties", MAX_PENDING);
    let (journal, writer, _) = journal::open_synced(&state.join(FOLDER), what, |record| {
        if !records::read(record, &mut book, now) {
            tracing::warn!("{}: a record that says nothing was passed over", FOLDER);
        }
    })?;
    let waiting = book.waiting();
    metrics.reported_recovered(waiting);
    metrics.reported_waiting(waiting);
    Ok((Twins::over((book, journal), (whose, terms), metrics), writer))
}

impl Twins {
    fn over((book, journal): (Book, Journal), (whose, terms): (Whose, Agreed), metrics: Metrics) -> Self {
        let own = book.desired(&whose.own).filter(|desired| desired.version.is_some());
        let own_desired = watch::Sender::new(own.cloned().map(Arc::new));
        let (book, touched, refused) = (Mutex::new(book), Notify::new(), Mutex::default());
        let shared = Shared { whose, terms, book, journal, touched, own_desired, refused, metrics };
        Self(Arc::new(shared))
    }

    /// To be reported in the bridge's own twin, where that holds it with what waits for it. Kept in memory only: who
    /// reports says it again after a start.
    pub fn report_own(&self, change: &Properties, every: Duration) -> Result<(), twin::TwinError> {
        twin::check(change)?;
        let own = &self.0.whose.own;
        {
            let mut book = self.0.book.lock();
            let size = book.size_with(own, change);
            if size > PROPERTIES_MAX_BYTES {
                return Err(twin::TwinError::TooLarge(size));
            }
            book.report(own, (change, every), Instant::now());
        }
        self.0.metrics.reported(OWN);
        self.0.touched.notify_one();
        Ok(())
    }

    /// What is desired in the bridge's own twin; what was known when the program ended, until the hub says more.
    pub fn own_desired(&self) -> watch::Receiver<Option<Arc<Desired>>> {
        self.0.own_desired.subscribe()
    }

    /// Whether a change of a device's properties can be taken.
    pub(super) fn ready(&self, device: &str, json: &[u8], every: Duration) -> Result<Ready, Refused> {
        let Ok(serde_json::Value::Object(properties)) = serde_json::from_slice(json) else {
            return Err(("not_an_object", "what is to be reported is no JSON object".to_owned()));
        };
        if self.0.whose.per_device && !device.is_empty() && !is_id(device) {
            let detail = format!("{:?} is no device id: letters, digits and -.%_*?!(),:=@$'", excerpt(device));
            return Err(("bad_device_id", detail));
        }
        let (device, path) = self.place(device);
        if properties.is_empty() {
            return Ok(Ready { device, change: properties, every });
        }
        let within = |inner: Properties, name| Properties::from_iter([(name, inner.into())]);
        let change = path.into_iter().rev().fold(properties, within);
        twin::check(&change).map_err(|error| ("bad_twin", error.to_string()))?;
        if let Some(detail) = self.0.book.lock().full(&device, &change) {
            return Err(("twin_full", detail));
        }
        Ok(Ready { device, change, every })
    }

    /// Takes changes of one publish. Gives the number of the last record there is of them, 0 where there is none.
    pub(super) fn take<'r>(&self, changes: impl Iterator<Item = (&'r str, Ready)>) -> u64 {
        let now = Instant::now();
        let mut last = 0;
        {
            let mut book = self.0.book.lock();
            // Where nothing is said there is nothing to tell the hub.
            for (rule, Ready { device, change, every }) in changes.filter(|(_, ready)| !ready.change.is_empty()) {
                last = self.0.journal.append(&records::changed(&device, &change));
                book.report(&device, (&change, every), now);
                self.0.metrics.reported(rule);
            }
            self.0.metrics.reported_waiting(book.waiting());
        }
        self.0.touched.notify_one();
        last
    }

    /// The number of the last record that is on disk.
    pub(super) fn committed(&self) -> Option<watch::Receiver<u64>> {
        self.0.journal.committed()
    }

    /// True where changes may be taken; false while too many wait for the disk.
    pub(super) fn has_room(&self) -> bool {
        self.0.journal.has_room()
    }

    /// Returns when changes may be taken.
    pub(super) async fn room(&self) {
        self.0.journal.room().await;
    }

    /// Everything that is kept is written to the journal.
    pub(super) fn write_anew(&self) {
        let book = self.0.book.lock();
        self.0.journal.begin_anew();
        for (device, twin) in book.all() {
            for record in records::all(device, twin) {
                self.0.journal.append(&record);
            }
        }
        self.0.journal.written_anew();
    }

    /// With what twins want of the hub.
    pub fn wanted(&self, rules: &RuleSet, others: Wanted) -> Wanted {
        let desired = self.0.terms.borrow().enabled && (self.0.whose.own_twin || rules.takes_desired());
        let twins = desired || rules.has_reported() || self.0.book.lock().waiting() > 0;
        Wanted { twins, desired, ..others }
    }

    /// A twin operation with so many bytes of properties was done.
    fn billed(&self, bytes: usize) {
        if let Some(block) = self.0.whose.block {
            let units = bytes.div_ceil(block.max(1)).max(1);
            billable_by_rule(BILLED).increment(u64::try_from(units).unwrap_or(1));
        }
    }

    /// The hub's device in whose twin a device is, and where.
    fn place(&self, device: &str) -> (String, Vec<String>) {
        let Whose { own, per_device, .. } = &self.0.whose;
        if device.is_empty() || device == own {
            (own.clone(), Vec::new())
        } else if *per_device {
            (device.to_owned(), Vec::new())
        } else {
            let mut name = String::with_capacity(device.len());
            push_twin_name(device, &mut name);
            (own.clone(), vec![DEVICES.to_owned(), name])
        }
    }
}

/// Terms that let nothing come down.
#[cfg(test)]
pub(super) fn closed() -> Agreed {
    watch::channel(Arc::default()).1
}

#[cfg(test)]
impl Twins {
    /// Twins over a journal that a test has.
    pub(super) fn kept_in(journal: Journal) -> Self {
        let whose = Whose { own: "own".into(), per_device: false, block: None, own_twin: false };
        Self::over((Book::default(), journal), (whose, closed()), Metrics::register())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn twins(dir: &Path, per_device: bool) -> (Twins, journal::Writer) {
        let whose = Whose { own: "gw".into(), per_device, block: None, own_twin: false };
        open(dir, (whose, closed()), Metrics::register()).unwrap()
    }

    fn ready(twins: &Twins, device: &str, json: &str) -> Result<(String, Value), &'static str> {
        let ready = twins.ready(device, json.as_bytes(), Duration::ZERO);
        ready.map(|ready| (ready.device, ready.change.into())).map_err(|(reason, _)| reason)
    }

    #[test]
    fn where_properties_go() {
        let dir = tempfile::tempdir().unwrap();
        let own = |change| Ok(("gw".to_owned(), change));
        let (gateway, _writer) = twins(dir.path(), false);
        let long = "x".repeat(4097);
        let many: Vec<_> = (0..9).map(|n| format!("\"{n}\":\"{}\"", "x".repeat(4000))).collect();
        let deep = format!("{}1{}", "{\"a\":".repeat(10), "}".repeat(10));
        for (device, json, expect) in [
            ("", r#"{"a":1}"#, own(json!({"a": 1}))),
            ("gw", r#"{"a":1}"#, own(json!({"a": 1}))),
            ("press.7", "{}", own(json!({}))),
            ("press.7", r#"{"x":null}"#, own(json!({"devices": {"press%2E7": {"x": null}}}))),
            ("d", "12", Err("not_an_object")),
            ("d", "{", Err("not_an_object")),
            ("d", r#"{"a.b":1}"#, Err("bad_twin")),
            ("d", &format!("{{\"a\":\"{long}\"}}"), Err("bad_twin")),
            ("d", &deep, Err("bad_twin")),
            ("d", &format!("{{{}}}", many.join(",")), Err("bad_twin")),
        ] {
            assert_eq!(ready(&gateway, device, json), expect, "{device} {json:.40}");
        }
        let dir = tempfile::tempdir().unwrap();
        let (each, _writer) = twins(dir.path(), true);
        assert_eq!(ready(&each, "press.7", r#"{"a":1}"#), Ok(("press.7".into(), json!({"a": 1}))));
        assert_eq!(ready(&each, "press 7", r#"{"a":1}"#), Err("bad_device_id"));
    }

    #[tokio::test]
    async fn a_twin_that_is_full_takes_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let (twins, _writer) = twins(dir.path(), true);
        let text = "x".repeat(4000);
        let mut taken = 0;
        let refused = loop {
            let json = format!("{{\"v{taken}\":\"{text}\"}}");
            match twins.ready("d", json.as_bytes(), Duration::ZERO) {
                Ok(ready) => {
                    twins.take([("r", ready)].into_iter());
                }
                Err((reason, _)) => break reason,
            }
            taken += 1;
        };
        assert_eq!((taken, refused), (8, "twin_full"));
        assert!(twins.ready("d", br#"{"v0":"short"}"#, Duration::ZERO).is_ok(), "what is there may change");
        assert_eq!(ready(&twins, "d", "{}"), Ok(("d".into(), json!({}))), "nothing fits always");
    }

    #[tokio::test]
    async fn names_that_go_away_have_a_limit_and_nothing_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let (twins, _writer) = twins(dir.path(), true);
        let nothing = twins.ready("d", b"{}", Duration::ZERO).unwrap_or_else(|_| unreachable!());
        assert_eq!(twins.take([("r", nothing)].into_iter()), 0);
        assert_eq!(twins.0.book.lock().waiting(), 0);
        let mut taken = 0;
        let refused = loop {
            let json = format!("{{\"{taken:01000}\":null}}");
            match twins.ready("d", json.as_bytes(), Duration::ZERO) {
                Ok(ready) => {
                    twins.take([("r", ready)].into_iter());
                }
                Err((reason, _)) => break reason,
            }
            taken += 1;
        };
        assert_eq!((taken, refused), (131, "twin_full"));
    }

    #[test]
    fn what_the_bridge_reports_takes_no_room_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let (twins, _writer) = twins(dir.path(), false);
        let text = "x".repeat(4000);
        for n in 0..7 {
            let json = format!("{{\"v{n}\":\"{text}\"}}");
            let ready = twins.ready("", json.as_bytes(), Duration::ZERO).unwrap_or_else(|_| unreachable!());
            twins.take([("r", ready)].into_iter());
        }
        for (length, expect) in [(5, Err(())), (4, Ok(()))] {
            let change: Vec<_> = (0..length).map(|n| (n.to_string(), Value::from("y".repeat(1100)))).collect();
            let own = Properties::from_iter([(OF_BRIDGE.to_owned(), Value::Object(change.into_iter().collect()))]);
            assert_eq!(twins.report_own(&own, Duration::ZERO).map_err(drop), expect, "{length}");
        }
    }
}
