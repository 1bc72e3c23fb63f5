//! What comes down the uplink's connection: subscriptions, arrivals, and what is said in return.
//!
//! Nothing of it touches the order or the window of what goes up: subscriptions are asked for before the first
//! message, arrivals go into a bounded queue, and answers are QoS 0, which has no packet identifier. What finds no room
//! in the queue is not acknowledged, so the hub sends it again; of what has QoS 0 nothing remains but its count.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttc::{AsyncClient, ClientError, QoS, SubscribeFilter, SubscribeReasonCode};
use tokio::sync::{Notify, mpsc, watch};

use super::Target;
use crate::hub::back;
use crate::hub::connect::Identity;
use crate::metrics::Metrics;

/// What is said about twins that may wait, of all connections together.
const ROOM_FOR_TWINS: usize = 1024;
/// Arrivals that may wait. A hub has 50 messages on their way to a device at most.
const ROOM: usize = 256;
/// How long a line that is stuck may keep others from being served.
const PATIENCE: Duration = Duration::from_secs(2);

/// The uplink's side of the way down.
#[derive(Clone)]
pub struct Down {
    wanted: watch::Receiver<Wanted>,
    arrivals: mpsc::Sender<Arrival>,
    twins: mpsc::Sender<Arrival>,
    opened: Arc<Opened>,
    metrics: Metrics,
}

/// What comes out of the connections.
#[derive(Debug)]
pub struct Arrivals {
    /// Commands and calls of methods.
    pub commands: mpsc::Receiver<Arrival>,
    /// All about twins.
    pub twins: Twins,
}

/// What comes about twins.
#[derive(Debug)]
pub struct Twins {
    arrivals: mpsc::Receiver<Arrival>,
    opened: Arc<Opened>,
}

/// What happened to a twin.
#[derive(Debug)]
pub enum TwinNews {
    /// There is a connection of this device, with its subscriptions: twins can be asked for, and answers come.
    Opened(String, TwinLine),
    /// Something the hub said about the twin of this device was lost, for there was no room.
    Missed(String),
    /// The hub says something.
    Arrived(Arrival),
}

/// Where to say something about a twin, while the connection lasts. Cheap to clone.
#[derive(Clone)]
pub struct TwinLine(AsyncClient);

impl fmt::Debug for TwinLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwinLine")
    }
}

impl TwinLine {
    /// Publishes at QoS 0. Where the connection takes nothing for a while it is as if it were lost on the way: whoever
    /// waits for an answer says it again.
    pub async fn say(&self, topic: String, payload: Bytes) -> Result<(), Gone> {
        let publish = self.0.publish_bytes(topic, QoS::AtMostOnce, false, payload);
        match tokio::time::timeout(PATIENCE, publish).await {
            Ok(said) => said.map_err(|_| Gone),
            Err(_) => Ok(()),
        }
    }
}

/// Connections that are new, and twins of which something was lost: at most one entry a device.
#[derive(Debug, Default)]
struct Opened {
    news: Mutex<VecDeque<(String, Option<TwinLine>)>>,
    told: Notify,
}

impl Opened {
    fn add(&self, device: &str, line: Option<TwinLine>) {
        let mut news = self.news.lock();
        match news.iter_mut().find(|(known, _)| known == device) {
            // A new connection asks for everything anyway.
            Some((_, known)) => *known = line.or(known.take()),
            None => news.push_back((device.to_owned(), line)),
        }
        self.told.notify_one();
    }
}

impl Twins {
    /// What happened next; `None` when nothing more can. Cancel-safe.
    pub async fn next(&mut self) -> Option<TwinNews> {
        loop {
            let told = self.opened.told.notified();
            let opened = self.opened.news.lock().pop_front();
            if let Some((device, line)) = opened {
                return Some(match line {
                    Some(line) => TwinNews::Opened(device, line),
                    None => TwinNews::Missed(device),
                });
            }
            tokio::select! {
                biased;
                () = told => {}
                arrival = self.arrivals.recv() => return arrival.map(TwinNews::Arrived),
            }
        }
    }
}

impl fmt::Debug for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Down").field("wanted", &*self.wanted.borrow()).finish_non_exhaustive()
    }
}

/// What the hub is to send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Cloud-to-device messages.
    pub messages: bool,
    /// Direct methods.
    pub methods: bool,
    /// Answers about twins: somebody reports, or wants to know what is desired.
    pub twins: bool,
    /// Changes of desired properties.
    pub desired: bool,
}

impl Wanted {
    /// What to subscribe to: at most four of the five subscriptions a connection may have.
    fn filters(self, identity: &Identity<'_>) -> Vec<String> {
        let Self { messages, methods, twins, desired } = self;
        let fixed = [(methods, back::METHODS), (twins || desired, back::TWIN_ANSWERS), (desired, back::DESIRED)];
        let fixed = fixed.into_iter().filter(|(wanted, _)| *wanted).map(|(_, filter)| filter.to_owned());
        messages.then(|| back::commands(identity)).into_iter().chain(fixed).collect()
    }
}

/// A publish of the hub.
#[derive(Debug)]
pub struct Arrival {
    /// The device of the connection it came on.
    pub device: String,
    /// That is the bridge's own.
    pub own: bool,
    /// Its topic.
    pub topic: String,
    /// Its body.
    pub payload: Bytes,
    /// The connection it came on.
    pub line: Return,
}

/// What can be said in return, on the connection of an arrival and while that lasts.
pub struct Return {
    client: AsyncClient,
    publish: rumqttc::Publish,
}

impl fmt::Debug for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Return").field("pkid", &self.publish.pkid).finish_non_exhaustive()
    }
}

/// The connection has ended, or is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Return {
    /// Acknowledges the arrival: the hub forgets it.
    pub async fn complete(&self) -> Result<(), Gone> {
        said(self.client.ack(&self.publish)).await
    }

    /// Publishes an answer at QoS 0.
    pub async fn answer(&self, topic: String, payload: Bytes) -> Result<(), Gone> {
        said(self.client.publish_bytes(topic, QoS::AtMostOnce, false, payload)).await
    }
}

async fn said(what: impl Future<Output = Result<(), ClientError>>) -> Result<(), Gone> {
    tokio::time::timeout(PATIENCE, what).await.map_err(|_| Gone)?.map_err(|_| Gone)
}

impl Down {
    /// Subscribes to what is wanted, and with a new connection to something else when that changes; what comes waits in
    /// the arrivals.
    pub fn new(wanted: watch::Receiver<Wanted>, metrics: Metrics) -> (Self, Arrivals) {
        let (arrivals, commands) = mpsc::channel(ROOM);
        let (twins, of_twins) = mpsc::channel(ROOM_FOR_TWINS);
        let opened = Arc::<Opened>::default();
        let twin_news = Twins { arrivals: of_twins, opened: Arc::clone(&opened) };
        (Self { wanted, arrivals, twins, opened, metrics }, Arrivals { commands, twins: twin_news })
    }

    /// Returns when something else is wanted than now.
    pub(super) async fn changed(&self) {
        let mut wanted = self.wanted.clone();
        wanted.mark_unchanged();
        if wanted.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// What is subscribed to on a connection that begins now.
    pub(super) fn filters(&self, target: &Target) -> Vec<String> {
        let Target::Hub(hub) = target else { return Vec::new() };
        self.wanted.borrow().filters(&Identity::of(&hub.connection))
    }

    /// Asks for the subscriptions; nothing else has been handed to the client yet, so there is room. True where an
    /// answer comes: the first of the connection.
    pub(super) fn subscribe(&self, client: &AsyncClient, target: &Target) -> bool {
        let filters = self.filters(target);
        if filters.is_empty() {
            return false;
        }
        let filters = filters.into_iter().map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce));
        let asked = client.try_subscribe_many(filters).is_ok();
        if !asked {
            tracing::warn!("uplink: the subscriptions for commands could not be asked for");
        }
        asked
    }

    /// The hub has answered the subscriptions; told where it does not grant one.
    pub(super) fn subscribed(&self, client: &AsyncClient, target: &Target, ack: &rumqttc::SubAck) {
        let Target::Hub(hub) = target else { return };
        if ack.return_codes.iter().any(|code| matches!(code, SubscribeReasonCode::Failure)) {
            tracing::warn!(
                "uplink: the hub refuses a subscription: commands, methods or twins will not come (is it a Basic tier?)"
            );
        } else if self.wanted.borrow().twins || self.wanted.borrow().desired {
            self.opened.add(&hub.connection.device, Some(TwinLine(client.clone())));
        }
    }

    /// Takes a publish of the hub.
    pub(super) fn arrived(&self, client: &AsyncClient, target: &Target, mut publish: rumqttc::Publish) {
        let Target::Hub(hub) = target else { return };
        let device = hub.connection.device.clone();
        let payload = std::mem::take(&mut publish.payload);
        let topic = publish.topic.clone();
        let line = Return { client: client.clone(), publish };
        let arrival = Arrival { device, own: hub.gateway, topic, payload, line };
        if !arrival.topic.starts_with(back::TWIN_PREFIX) {
            if self.arrivals.try_send(arrival).is_err() {
                self.metrics.commanded("", "no_room");
            }
        } else if let Err(error) = self.twins.try_send(arrival) {
            // The twin is asked for as a whole instead.
            self.opened.add(&error.into_inner().device, None);
        }
    }
}

/// A connection that leads nowhere, and keeps what is said on it.
#[cfg(test)]
pub(crate) struct Nowhere {
    client: AsyncClient,
    events: rumqttc::EventLoop,
}

#[cfg(test)]
impl Nowhere {
    pub(crate) fn new() -> Self {
        let (client, events) = AsyncClient::new(rumqttc::MqttOptions::new("c", "localhost", 1), 64);
        Self { client, events }
    }

    /// Something that came on it. At QoS 2, at which what acknowledges it can be seen.
    pub(crate) fn arrival(&self, (device, own): (&str, bool), topic: &str, payload: &str) -> Arrival {
        let publish = rumqttc::Publish::new(topic, QoS::ExactlyOnce, payload);
        let line = Return { client: self.client.clone(), publish };
        let (device, topic) = (device.to_owned(), topic.to_owned());
        Arrival { device, own, topic, payload: Bytes::copy_from_slice(payload.as_bytes()), line }
    }

    /// What was said since the last time: `acknowledged`, or the topic of an answer.
    pub(crate) fn said(&mut self) -> Vec<String> {
        self.events.clean();
        let said = self.events.pending.drain(..).map(|request| match request {
            rumqttc::Request::PubRec(_) => "acknowledged".to_owned(),
            rumqttc::Request::Publish(publish) => publish.topic,
            other => format!("{other:?}"),
        });
        said.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_subscriptions_than_a_hub_takes() {
        let identity = Identity { hub: "h", device: "d", module: None };
        let (messages, methods) = ("devices/d/messages/devicebound/#", back::METHODS);
        for (wanted, expect) in [
            ((false, false, false, false), vec![]),
            ((true, false, false, false), vec![messages]),
            ((false, true, true, false), vec![methods, back::TWIN_ANSWERS]),
            ((false, false, false, true), vec![back::TWIN_ANSWERS, back::DESIRED]),
            ((true, true, true, true), vec![messages, methods, back::TWIN_ANSWERS, back::DESIRED]),
        ] {
            let (messages, methods, twins, desired) = wanted;
            assert_eq!(Wanted { messages, methods, twins, desired }.filters(&identity), expect, "{wanted:?}");
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_left_to_the_hub() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let (_wanted, receiver) = watch::channel(Wanted::default());
            let (down, mut arrivals) = Down::new(receiver, Metrics::register());
            let mut nowhere = Nowhere::new();
            let target = crate::uplink::dial::tests::hub();
            for n in 0..ROOM + 2 {
                let topic = format!("devices/d/messages/devicebound/n={n}");
                let publish = rumqttc::Publish::new(topic, QoS::ExactlyOnce, "");
                down.arrived(&nowhere.client, &target, publish);
            }
            let page = recorder.handle().render();
            assert!(page.contains("commands_total{command=\"\",outcome=\"no_room\"} 2\n"), "{page}");
            assert!(nowhere.said().is_empty(), "the hub sends it again");
            let first = arrivals.commands.try_recv().unwrap();
            assert!(first.topic.ends_with("/n=0") && first.own, "{first:?}");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_stuck_is_not_gone() {
        let (client, events) = AsyncClient::new(rumqttc::MqttOptions::new("c", "localhost", 1), 1);
        let line = TwinLine(client);
        for what in ["in the queue", "no room"] {
            assert_eq!(line.say("t".into(), Bytes::new()).await, Ok(()), "{what}");
        }
        drop(events);
        assert_eq!(line.say("t".into(), Bytes::new()).await, Err(Gone));
    }

    #[tokio::test]
    async fn a_device_is_told_of_once_and_before_what_came_for_it() {
        let (_wanted, receiver) = watch::channel(Wanted::default());
        let (down, mut arrivals) = Down::new(receiver, Metrics::register());
        let (client, _events) = AsyncClient::new(rumqttc::MqttOptions::new("c", "localhost", 1), 4);
        let line = || TwinLine(client.clone());
        down.opened.add("a", None);
        down.opened.add("b", Some(line()));
        down.opened.add("b", None);
        down.opened.add("a", Some(line()));
        down.opened.add("c", None);
        let mut news = Vec::new();
        for _ in 0..3 {
            news.push(match arrivals.twins.next().await.unwrap() {
                TwinNews::Opened(device, _) => format!("{device} opened"),
                TwinNews::Missed(device) => format!("{device} missed"),
                TwinNews::Arrived(arrival) => arrival.topic,
            });
        }
        assert_eq!(news, ["a opened", "b opened", "c missed"]);
        drop(down);
        assert!(arrivals.twins.next().await.is_none());
    }
}
