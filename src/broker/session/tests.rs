//! Random lives of sessions: what is counted adds up, and what was written down, cut off anywhere, is a state there
//! could have been.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::clients::{Place, Terms};
use super::super::deliver::Awaits;
use super::super::router::Router;
use super::super::store::{Restored, Store};
use super::super::upkeep;
use super::*;

/// Every record there ever was.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<Vec<u8>>>);

impl Store for Log {
    fn append(&self, record: &[u8]) {
        self.0.lock().push(record.to_vec());
    }

    fn begin_anew(&self) {}

    fn written_anew(&self) {}

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn outgrown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

/// What a session that lasts is to be after a restart.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    expiry: u32,
    filters: Vec<ByteString>,
    flying: Vec<(NonZeroU16, Awaits, Option<Bytes>)>,
    waiting: Vec<Bytes>,
    inward: Vec<NonZeroU16>,
    has_will: bool,
}

/// All sessions that last, and all retained messages.
type World = (BTreeMap<ByteString, Look>, BTreeMap<ByteString, Bytes>);

fn look(session: &Session) -> Look {
    let state = &mut *session.state.lock();
    let mut filters: Vec<_> = state.subscriptions.keys().cloned().collect();
    let acknowledged = state.inward.iter().filter(|(_, inward)| inward.acknowledged);
    let mut inward: Vec<_> = acknowledged.map(|(id, _)| *id).collect();
    filters.sort();
    inward.sort();
    let payload = |delivery: &Delivery| delivery.message.payload.clone();
    let flying = state.window.flying().map(|it| (it.packet_id, it.awaits, it.delivery.as_ref().map(payload)));
    Look {
        expiry: state.expiry,
        filters,
        flying: flying.collect(),
        waiting: state.waiting.iter().filter(|delivery| delivery.qos != QoS::AtMostOnce).map(payload).collect(),
        inward,
        has_will: state.will.is_some(),
    }
}

fn world(router: &Router) -> World {
    let lasting = router.sessions().into_iter().filter(|session| session.expiry() > 0);
    let sessions = lasting.map(|session| (session.client_id.clone(), look(&session))).collect();
    let retained = router.retained_messages().into_iter();
    (sessions, retained.map(|message| (message.topic.clone(), message.payload.clone())).collect())
}

fn options(store: Option<Arc<Log>>) -> Options {
    let store = store.map(|store| store as Arc<dyn Store>);
    let max_session_bytes = 60;
    Options { store, max_sessions: 3, subscriber_queue_messages: 6, max_session_bytes, ..Options::default() }
}

fn restart(records: &[Vec<u8>]) -> Router {
    let mut restored = Restored::default();
    records.iter().for_each(|record| restored.read(record));
    assert_eq!(restored.counts().2, 0, "every record says something");
    Router::new(&options(None), Metrics::register(), restored)
}

fn publish(topic: &str, qos: u8, retain: bool, payload: u32) -> Publish {
    Publish {
        dup: false,
        retain,
        qos: QoS::try_from(qos).unwrap(),
        topic: ByteString::from(topic),
        packet_id: None,
        payload: Bytes::from(payload.to_string()),
        properties: None,
    }
}

/// What bytes are counted and what bytes there are.
fn assert_bytes_add_up(router: &Router, also: &[Place<'_>]) {
    let mut absent = 0;
    for session in router.sessions().iter().chain(also.iter().map(|place| &place.session)) {
        let state = session.state.lock();
        let bytes: usize = state.waiting.iter().map(|delivery| delivery.message.size).sum();
        assert_eq!(state.bytes, bytes);
        absent += if state.served_by == 0 { bytes } else { 0 };
    }
    assert_eq!(router.common.absent_bytes.load(Ordering::Relaxed), absent);
}

/// A broker without sockets, and what it is to remember.
struct Plant<'r> {
    router: &'r Router,
    log: &'r Log,
    places: BTreeMap<u8, Place<'r>>,
    /// Connections that were taken over and have not ended, however long that was waited for.
    zombies: Vec<Place<'r>>,
    payload: u32,
    /// Length of the log after each time changes were written down, and what there was.
    written: Vec<(usize, World)>,
    /// Client and payload that were acknowledged, and how often had been written until then.
    done: Vec<(ByteString, Bytes, usize)>,
}

impl<'r> Plant<'r> {
    async fn step(&mut self, (what, client, how): (u8, u8, u8)) {
        let topic = ["a", "b", "$share/g/a", "+"][usize::from(how % 4)];
        let id = NonZeroU16::new(u16::from(how) + 1).unwrap();
        match what {
            0 | 1 => self.enter(client, how).await,
            2 => self.leave(client, how),
            3 => self.publish(how),
            4 => {
                self.publish(how);
                self.deliver(client, how);
            }
            5 => self.written_down(),
            6 => {
                upkeep::write_everything(self.router).await;
                self.written_down();
            }
            7 => {
                tokio::time::advance(Duration::from_secs(u64::from(how) * 10)).await;
                while self.router.take_due(Instant::now()).is_some() {}
            }
            8 => drop(self.zombies.pop()),
            _ => {
                let Some(place) = self.places.get(&client) else { return };
                let to = Subscribed {
                    options: SubscriptionOptions { qos: QoS::try_from(how % 3).unwrap(), ..Default::default() },
                    identifier: None,
                };
                match what {
                    9 | 10 => drop(place.subscribe(&ByteString::from(topic), to)),
                    11 => drop(place.unsubscribe(topic)),
                    12 if place.session.receive(id).is_none() => place.session.received(id, Sequences::of(0, 1)),
                    12 => place.session.acknowledged(id),
                    13 => drop(place.session.release(id)),
                    14 => drop(place.session.drop_waiting(|topic| topic == "a")),
                    _ => self.acknowledge(client, how),
                }
            }
        }
        assert_bytes_add_up(self.router, &[]);
    }

    async fn enter(&mut self, client: u8, how: u8) {
        if let Some(place) = self.places.remove(&client) {
            if how < 6 {
                drop(place.leave(None));
            } else {
                self.zombies.push(place);
            }
        }
        let expiry = [0, 50, 100, NEVER][usize::from(how % 4)];
        let terms = Terms { clean_start: how.is_multiple_of(3), expiry, receive_max: NonZeroU16::new(3) };
        let id = ByteString::from(format!("client {client}"));
        let entered = self.router.enter(id, terms).await.expect("nobody else has this client id");
        self.places.insert(client, entered.place);
    }

    fn leave(&mut self, client: u8, how: u8) {
        let Some(place) = self.places.remove(&client) else { return };
        if how == 0 {
            place.session.set_expiry(0);
        }
        let due = Instant::now() + Duration::from_secs(20);
        let will = (how % 4 == 1).then(|| DelayedWill {
            publish: Box::new(publish("will", 1, false, 0)),
            user: (how % 8 == 1).then(|| "oven".into()),
            due,
        });
        drop(place.leave(will));
    }

    fn publish(&mut self, how: u8) {
        self.payload += 1;
        let topic = if how.is_multiple_of(2) { "a" } else { "b" };
        self.router.route(None, &publish(topic, how % 3, how == 7, self.payload));
    }

    fn deliver(&self, client: u8, how: u8) {
        let Some(place) = self.places.get(&client) else { return };
        for _ in 0..how {
            place.session.next(|| None);
        }
    }

    /// Acknowledges the nth publish in flight, or all.
    fn acknowledge(&mut self, client: u8, how: u8) {
        let Some(place) = self.places.get(&client) else { return };
        let flying = look(&place.session).flying;
        for (packet_id, awaits, payload) in flying.into_iter().skip(usize::from(how / 2)) {
            match awaits {
                Awaits::Ack => place.session.on_puback(packet_id),
                Awaits::Received => place.session.on_pubrec(packet_id),
                Awaits::Complete => place.session.on_pubcomp(packet_id),
            }
            // One that was not sent again on this connection is none the client can acknowledge, and it may get the
            // same message from a shared subscription as well.
            let left = look(&place.session);
            if let Some(payload) = payload
                && !left.flying.iter().any(|(.., flying)| flying.as_ref() == Some(&payload))
                && !left.waiting.contains(&payload)
            {
                self.done.push((place.session.client_id.clone(), payload, self.written.len()));
            }
        }
    }

    fn written_down(&mut self) {
        upkeep::write_changes(self.router);
        self.written.push((self.log.0.lock().len(), world(self.router)));
    }

    /// Ends every session; nothing is left of any.
    async fn end(mut self) {
        self.zombies.clear();
        let clients: Vec<_> = self.places.keys().copied().collect();
        clients.into_iter().for_each(|client| self.leave(client, 2));
        for client in 0..4 {
            self.enter(client, 0).await;
            self.leave(client, 2);
        }
        assert_bytes_add_up(self.router, &[]);
        assert_eq!(self.router.common.absent_bytes.load(Ordering::Relaxed), 0);
        assert_eq!((self.router.session_count(), self.router.subscription_count()), (0, 0));
        assert_eq!(self.router.census.totals().away, 0);
        assert_eq!(self.router.next_due(), None);
        upkeep::write_changes(self.router);
    }
}

async fn live(steps: Vec<(u8, u8, u8)>, cut: usize) {
    let log = Arc::new(Log::default());
    let router = Router::new(&options(Some(Arc::clone(&log))), Metrics::register(), Restored::default());
    let mut plant = Plant {
        router: &router,
        log: &log,
        places: BTreeMap::new(),
        zombies: Vec::new(),
        payload: 0,
        written: Vec::new(),
        done: Vec::new(),
    };
    for step in steps {
        plant.step(step).await;
    }
    plant.written_down();
    let (written, done) = (std::mem::take(&mut plant.written), std::mem::take(&mut plant.done));
    plant.end().await;

    let records = std::mem::take(&mut *log.0.lock());
    for (len, expect) in &written {
        assert_eq!(&world(&restart(&records[..*len])), expect, "what was written down is what there was");
    }
    assert_eq!(world(&restart(&records)).0.len(), 0, "all sessions have ended");

    let cut = cut % (records.len() + 1);
    let restored = restart(&records[..cut]);
    assert_bytes_add_up(&restored, &[]);
    let (sessions, _) = world(&restored);
    assert_eq!(sessions.len(), restored.session_count());
    let filters: usize = sessions.values().map(|session| session.filters.len()).sum();
    assert_eq!(restored.subscription_count(), filters, "nobody subscribes who has no session");
    for (client, payload, before) in &done {
        let Some(known_from) = written.get(*before).map(|(len, _)| *len).filter(|len| *len <= cut) else { continue };
        let Some(session) = sessions.get(client) else { continue };
        let sent_again = session.flying.iter().any(|(.., flying)| flying.as_ref() == Some(payload));
        assert!(!sent_again && !session.waiting.contains(payload), "{client} has {payload:?} since {known_from}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn lives_add_up_and_any_cut_of_them_is_one(
        steps in prop::collection::vec((0_u8..18, 0_u8..4, 0_u8..8), 1..80), cut in any::<usize>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(live(steps, cut));
    }
}
