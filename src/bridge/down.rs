//! The way down: what the hub sends, through the commands of the rules and the fence, to plant clients, and what they
//! say to it back to the hub. One task with one loop; what waits lies on a bounded [`Desk`].
//!
//! A cloud-to-device message is acknowledged, and with that forgotten by the hub, when its command says so: once it was
//! queued in the session of a subscriber or retained (`on-publish`), or once the plant has answered (`on-ack`). What cannot become
//! anything (no command, a body that cannot be read, a topic beyond the fence) is acknowledged too, or it would
//! come until it expires. What its device does not take yet is kept for a hub's lock of a minute and then left to the
//! hub, which sends it again.
//!
//! Every command ends with one outcome, counted in `commands_total` and written to the audit log:
//!
//! | outcome | meaning | message acknowledged | method answered |
//! |---|---|---|---|
//! | `published` | queued for a subscriber, or retained | with `on-publish` | 200, without `response` |
//! | `acknowledged`, `acknowledged_late` | the plant has answered, in time or after it | yes | |
//! | `answered` | the same of a method | | its status |
//! | `no_rule` | no command takes it | yes | 404 |
//! | a reason of the quarantine | a command takes it and cannot make anything of it | yes | 400 |
//! | `nothing` | a command takes it and makes nothing | yes | 200 |
//! | `not_allowed` | beyond the fence | yes | 403 |
//! | `closed` | nothing comes down now: the hub keeps what it has | no | 403 |
//! | `dry_run` | it would have been published | yes | 200 |
//! | `expired` | its time has passed: the hub dead-letters it, and tells its service so | no | |
//! | `duplicate` | it was done before | yes | |
//! | `came_again` | the hub sent again what waits here; nothing is published again, it goes on waiting | no | |
//! | `no_id` | `once`, and the message has no id to be known by | yes | |
//! | `not_repeated` | `once`, and it was or may have been published before; an answer still completes it | no | |
//! | `bad_property_bag`, `not_understood` | the topic is none that a hub sends | yes | |
//! | `in_part` | of several publishes one found no room, and the first was queued | with `on-publish` | 502, without `response` |
//! | `no_device` | nobody who is connected subscribes to its topic, or who does is full | | 404 |
//! | `over_rate` | the device is over its rate | | 429 |
//! | `busy` | too many commands wait | no | 503 |
//! | `ack_timeout`, `timeout` | no answer in time | no | 504 |
//! | `given_back` | it waited for its device or its turn for a minute, or with `once` for a disk that can be written | no | |
//! | `bad_answer` | `response` cannot read the answer | yes | 502 |
//! | `answer_too_large` | the answer is larger than a hub takes | yes | 502 |
//! | `line_lost` | the connection ended before the hub could be told | no | no |
//! | `unaudited` | the audit log cannot be written, and it must be | no | 503 |
//! | `stopped` | the bridge ends | no | 503 |

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{InUse, Stores};
use crate::broker::Inside;
use crate::downlink::{Case, Desk, Done, Forbidden, Rates, Stage, Terms};
use crate::hub::back::{self, Command, Downward};
use crate::message::{Timestamp, excerpt};
use crate::metrics::Metrics;
use crate::rules::{Commanded, Incoming, Made, Reply, RuleSet, addressee};
use crate::shelf::Shelves;
use crate::uplink::{Arrival, Return, Wanted};

mod answers;
mod audit;
mod begun;
mod fenced;
mod giving;
mod method;
mod once;
mod own;
mod telling;
#[cfg(test)]
mod tests;

pub use answers::{Answered, Watch};
pub use audit::{Audit, Trouble, publishes};
use begun::Begun;
pub(super) use fenced::{ADMITTED, UNAUDITED};
use own::Ended;
pub use own::{Reload, findings_excerpt, is_own_method};

/// As long as a hub keeps a message locked for its device ("Understand cloud-to-device messaging").
const LOCK: Duration = Duration::from_secs(60);
/// How often a device that was not there is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How soon where somebody has come; many who come together are one reason to look.
const SOON: Duration = Duration::from_millis(20);

/// What is settled before the first command comes.
pub struct Settings {
    /// What may be done now.
    pub terms: watch::Receiver<Arc<Terms>>,
    /// Every device has a connection of its own.
    pub per_device: bool,
    /// `bridge.toml` without its secrets.
    pub shown: String,
    /// Where it is kept what was published and must not be again.
    pub state: PathBuf,
}

/// What the way down uses of the other parts.
pub struct Parts {
    /// The rules with their commands.
    pub rules: Arc<InUse>,
    /// What the hub is to send.
    pub wanted: watch::Sender<Wanted>,
    /// Publishes to the plant.
    pub inside: Inside,
    /// Tells of answers from the plant.
    pub watch: Arc<Watch>,
    /// Writes down what was done.
    pub audit: Audit,
    /// What waits for the hub.
    pub stores: Stores,
    /// What waits for devices that cannot take it, where each has a connection of its own.
    pub shelves: Option<Arc<Shelves>>,
    /// Has files looked at.
    pub reload: Box<dyn Reload>,
    /// Counts.
    pub metrics: Metrics,
}

/// What the hub is to send of messages and calls.
pub fn wanted(rules: &RuleSet, terms: &Terms) -> Wanted {
    if !terms.enabled {
        return Wanted::default();
    }
    let methods = terms.own_methods || rules.takes_methods();
    Wanted { messages: rules.takes_messages(), methods, ..Wanted::default() }
}

/// A command that a rule takes, until it is done.
struct Order {
    /// Counts what came down.
    number: u64,
    /// Whose connection it came on.
    identity: String,
    device: String,
    made: Made,
    kind: Kind,
    /// Who sent it, where the hub says so.
    who: Option<String>,
    id: String,
    expires: Option<Timestamp>,
    /// It is written down that it may have been published, and it was not.
    begun: bool,
    /// It is written down that it is about to be published, where it must be.
    admitted: bool,
    line: Return,
}

impl Order {
    /// True where only some publishes on the topic of its answer are the answer.
    fn picks(&self) -> bool {
        self.made.answer.as_ref().is_some_and(|(_, answer)| answer.picks())
    }

    /// What a publish on the topic of its answer is; what is too large to be read comes without its payload.
    fn reply(&self, payload: Option<&[u8]>) -> Reply {
        match (&self.made.answer, payload) {
            (Some((_, answer)), Some(payload)) => answer.read(payload, Timestamp::now()),
            (Some((_, answer)), None) => answer.too_large(),
            (None, _) => Reply::Another,
        }
    }
}

/// What came down.
enum Kind {
    Message,
    /// A method, with the request id of its answer.
    Method(String),
}

/// The way down.
pub struct Downlink {
    settings: Settings,
    parts: Parts,
    desk: Desk<Order>,
    done: Done,
    /// Messages that may be published once, and may have been.
    begun: Begun,
    rates: Rates,
    started: Instant,
    number: u64,
    /// Methods of the bridge itself that take their time, and who waits for them.
    jobs: JoinSet<Ended>,
    own: HashMap<u64, Order>,
}

impl Downlink {
    /// With nothing on the desk; what was done is known.
    pub fn new(settings: Settings, parts: Parts) -> Self {
        let (done, begun) = once::known(&settings.state, &parts.audit);
        let rates = Rates::new(settings.terms.borrow().rate);
        let (jobs, own) = (JoinSet::new(), HashMap::new());
        Self {
            settings,
            parts,
            desk: Desk::default(),
            done,
            begun,
            rates,
            started: Instant::now(),
            number: 0,
            jobs,
            own,
        }
    }

    /// Serves until `stop`.
    pub async fn run(
        mut self,
        mut arrivals: mpsc::Receiver<Arrival>,
        mut answers: mpsc::Receiver<Answered>,
        stop: CancellationToken,
    ) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut terms = self.settings.terms.clone();
        terms.mark_unchanged();
        self.on_new_terms();
        loop {
            let next = self.desk.next_time();
            let time = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = terms.changed() => self.on_new_terms(),
                Some(answered) = answers.recv() => self.answered(answered).await,
                () = time => self.due(Instant::now()).await,
                Some(Ok(ended)) = self.jobs.join_next() => self.own_ended(ended).await,
                _ = look.tick() => self.look(),
                () = self.parts.inside.somebody() => self.desk.hurry(Instant::now() + SOON),
                Some(arrival) = arrivals.recv() => self.arrived(arrival).await,
            }
            self.parts.metrics.commands_waiting(self.desk.len());
        }
        let own = std::mem::take(&mut self.own).into_values();
        let waiting: Vec<Order> = self.desk.clear().into_iter().map(|case| case.what).chain(own).collect();
        // An answer may wait for a line that takes nothing, and the end of the program does not.
        for order in &waiting {
            self.withdraw(order);
            self.tell(order, "stopped", "", false);
        }
        for order in waiting {
            if let Kind::Method(rid) = &order.kind {
                method::answer(&order.line, rid, 503, &json!({"error": "the bridge is stopping"})).await;
            }
        }
    }

    /// Rules that were taken up may need other subscriptions.
    fn subscribe(&self) {
        let Wanted { messages, methods, .. } = wanted(&self.parts.rules.rules(), &self.terms());
        self.parts.wanted.send_if_modified(|known| {
            let new = Wanted { messages, methods, ..*known };
            std::mem::replace(known, new) != new
        });
    }

    async fn arrived(&mut self, arrival: Arrival) {
        self.number += 1;
        match Downward::parse(&arrival.topic) {
            Some(Downward::Command { bag, .. }) => match Command::parse(bag) {
                Ok(command) => self.message(command, arrival).await,
                Err(error) => self.not_understood(arrival, "bad_property_bag", &error.to_string()).await,
            },
            Some(Downward::Method { name, rid }) => {
                let (name, rid) = (name.into_owned(), rid.to_owned());
                self.method(&name, rid, arrival).await;
            }
            _ => {
                let topic = excerpt(&arrival.topic).to_owned();
                self.not_understood(arrival, "not_understood", &topic).await;
            }
        }
    }

    /// The hub sent something that is no command. It would come for ever.
    async fn not_understood(&mut self, arrival: Arrival, outcome: &'static str, detail: &str) {
        let order = Order {
            number: self.number,
            identity: arrival.device.clone(),
            device: arrival.device,
            made: Made::nothing(String::new()),
            kind: Kind::Message,
            who: None,
            id: String::new(),
            expires: None,
            begun: false,
            admitted: false,
            line: arrival.line,
        };
        if !self.terms().enabled {
            return self.forbidden(order, "", &Forbidden::Closed).await;
        }
        self.finish(order, "", outcome, detail).await;
    }

    async fn message(&mut self, command: Command, arrival: Arrival) {
        let Arrival { device: identity, own, payload, line, .. } = arrival;
        let is_shared = own && !self.settings.per_device;
        let device = addressee(&identity, is_shared, &command.properties).to_owned();
        let id = command.message_id.unwrap_or_default();
        let key = if id.is_empty() { String::new() } else { key(&device, &id) };
        let expires = command.expiry.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let expires = expires.map(|at| Timestamp(at.as_millisecond()));
        let (number, made, kind) = (self.number, Made::nothing(String::new()), Kind::Message);
        let who = command.user_id;
        let mut order =
            Order { number, identity, device, made, kind, who, id, expires, begun: false, admitted: false, line };
        if !self.terms().enabled {
            return self.forbidden(order, &key, &Forbidden::Closed).await;
        }
        if self.done.has(&key) || self.begun.is_done(&key) {
            return self.finish(order, &key, "duplicate", "").await;
        }
        if let Some(known) = self.desk.take(&key) {
            return self.again(known, order.line).await;
        }
        let incoming = Incoming {
            device: &order.device,
            method: None,
            id: &order.id,
            props: &command.properties,
            payload: &payload,
            received: Timestamp::now(),
        };
        let rules = self.parts.rules.rules();
        match rules.command(&incoming) {
            Commanded::Made(made) => {
                order.made = made;
                self.take(order, key).await;
            }
            Commanded::NoRule => {
                let passed_by = self.parts.rules.rules().passed_by(&incoming);
                let detail = telling::passed_by(&passed_by).unwrap_or_else(|| {
                    format!("no [[command]] takes it: {}", telling::properties(&command.properties))
                });
                self.finish(order, &key, "no_rule", &detail).await;
            }
            // A topic with `{id}` cannot be made without one: the missing id is the reason, not what follows from it.
            Commanded::Refused { command, .. } if key.is_empty() && rules.is_once(&command) => {
                order.made = Made::nothing(command);
                self.finish(order, &key, "no_id", once::NO_ID).await;
            }
            Commanded::Refused { command, reason, detail } => {
                order.made = Made::nothing(command);
                self.finish(order, &key, reason.label(), &detail).await;
            }
        }
    }

    /// A message on the desk has come again: the hub has lost patience, or its connection. What counts is what it is
    /// waiting for now.
    async fn again(&mut self, mut known: Case<Order>, line: Return) {
        let now = Instant::now();
        known.what.line = line;
        known.stay(now + LOCK);
        if matches!(known.stage, Stage::Late(_)) && !known.what.made.once {
            self.unwatch(&known);
            return self.deliver(known.what, known.key, (now, now + LOCK)).await;
        }
        self.tell(
            &known.what,
            "came_again",
            "the hub sent it again while it waits here; nothing was published again",
            false,
        );
        let _ = self.desk.put(known);
    }

    /// Puts a command on the desk.
    async fn wait(&mut self, order: Order, key: String, (stage, end): (Stage, Instant)) {
        if let Err(case) = self.desk.put(Case { key, stage, end, what: order }) {
            self.unwatch(&case);
            self.withdraw(&case.what);
            if let Kind::Method(rid) = &case.what.kind {
                let body = json!({"error": "too many commands wait"});
                method::answer(&case.what.line, rid, 503, &body).await;
            }
            self.tell(&case.what, "busy", "too many commands wait", false);
        }
    }

    fn unwatch(&self, case: &Case<Order>) {
        if let Some(topic) = case.answer_topic() {
            self.parts.watch.remove(topic, case.what.picks());
        }
    }

    /// The plant has published on a topic of an answer.
    async fn answered(&mut self, answered: Answered) {
        let mut reply = Reply::Another;
        let case = self.desk.answered(&answered.topic, |order: &Order| {
            reply = order.reply(answered.payload.as_deref());
            match order.kind {
                Kind::Message => matches!(reply, Reply::Is { .. }),
                Kind::Method(_) => reply != Reply::Another,
            }
        });
        let Some(case) = case else { return };
        if !answered.counted {
            self.unwatch(&case);
        }
        let late = matches!(case.stage, Stage::Late(_));
        let (order, key) = (case.what, case.key);
        match (&order.kind, reply) {
            (Kind::Message, _) if late => self.finish(order, &key, "acknowledged_late", "").await,
            (Kind::Message, _) => self.finish(order, &key, "acknowledged", "").await,
            (Kind::Method(_), _) if answered.payload.is_none() => {
                self.finish(order, &key, "answer_too_large", "").await;
            }
            (Kind::Method(rid), Reply::Is { status, body }) => {
                let sent = order.line.answer(back::method_answer(status, rid), method::body(body)).await;
                let outcome = if sent.is_ok() { "answered" } else { "line_lost" };
                self.tell(&order, outcome, &format!("status {status}"), true);
            }
            (Kind::Method(_), Reply::Unreadable(why)) => self.finish(order, &key, "bad_answer", &why).await,
            (Kind::Method(_), Reply::Another) => {}
        }
    }

    /// Looks after everything whose time has come.
    async fn due(&mut self, now: Instant) {
        while let Some(mut case) = self.desk.due(now) {
            match (&case.stage, &case.what.kind) {
                (Stage::Due(_), _) if case.end > now => {
                    self.deliver(case.what, case.key, (now, case.end)).await;
                }
                (Stage::Answer(..), Kind::Method(_)) => {
                    self.unwatch(&case);
                    let Case { what, key, .. } = case;
                    self.finish(what, &key, "timeout", "").await;
                }
                (Stage::Answer(topic, _), Kind::Message) if case.end > now => {
                    self.tell(&case.what, "ack_timeout", "", false);
                    case.stage = Stage::Late(topic.clone());
                    let _ = self.desk.put(case);
                }
                (Stage::Answer(..), Kind::Message) => {
                    self.unwatch(&case);
                    self.tell(&case.what, "ack_timeout", "", false);
                }
                // It was told already.
                (Stage::Late(_), _) => self.unwatch(&case),
                (Stage::Due(_), _) => {
                    self.withdraw(&case.what);
                    self.tell(&case.what, "given_back", "the hub will send it again", false);
                }
            }
        }
    }

    /// A command is over: the hub is told, then everybody else.
    async fn finish(&mut self, order: Order, key: &str, outcome: &'static str, detail: &str) {
        let told = match &order.kind {
            Kind::Message => {
                // Written down first: what is done twice for want of a line is worse than what is told twice.
                if matches!(outcome, "published" | "in_part" | "acknowledged" | "acknowledged_late") && !key.is_empty()
                {
                    self.done.add(key);
                }
                self.begun.finished(key);
                self.note(&order, outcome, detail, true);
                order.line.complete().await
            }
            Kind::Method(rid) => {
                self.note(&order, outcome, detail, true);
                let (status, body) = method::of_outcome(outcome, detail, &order.made);
                order.line.answer(back::method_answer(status, rid), body).await
            }
        };
        self.parts.metrics.commanded(&order.made.command, outcome);
        if told.is_err() {
            self.parts.metrics.commanded(&order.made.command, "line_lost");
        }
        telling::log(&order, outcome, detail, &self.parts.metrics);
    }
}

/// What makes a message the same when it comes again. The length tells where the device ends: both may have blanks.
fn key(device: &str, id: &str) -> String {
    format!("{} {device} {id}", device.len())
}
