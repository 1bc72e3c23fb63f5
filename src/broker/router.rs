//! Who is connected, who subscribes to what, what is retained.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytestring::ByteString;
use parking_lot::{Mutex, RwLock};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::{RetainHandling, SubscriptionOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(super) use super::application_message::{Delivery, Message};
use super::census::Census;
use super::{Options, system};
use crate::metrics::Metrics;
use crate::topic::{self, Trie};

/// The sending end of a subscriber's queue, bounded in messages and bytes.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Delivery>,
    bytes: Arc<AtomicUsize>,
    max_bytes: usize,
}

/// The receiving end of a subscriber's queue.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: mpsc::Receiver<Delivery>,
    bytes: Arc<AtomicUsize>,
}

impl Outbox {
    fn pair(options: &Options) -> (Arc<Self>, Inbox) {
        let (sender, receiver) = mpsc::channel(options.subscriber_queue_messages.max(1));
        let bytes = Arc::new(AtomicUsize::new(0));
        let outbox = Self { queue: sender, bytes: Arc::clone(&bytes), max_bytes: options.subscriber_queue_bytes };
        (Arc::new(outbox), Inbox { queue: receiver, bytes })
    }

    fn put(&self, delivery: Delivery) -> bool {
        let size = delivery.message.size;
        // An empty queue takes any one message, so that a message over the byte limit is not undeliverable.
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        let fits = before == 0 || before + size <= self.max_bytes;
        if fits && self.queue.try_send(delivery).is_ok() {
            return true;
        }
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        false
    }
}

impl Inbox {
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.queue.recv().await?;
        self.bytes.fetch_sub(delivery.message.size, Ordering::Relaxed);
        Some(delivery)
    }

    /// The next delivery, if it is there already.
    pub(super) fn try_next(&mut self) -> Option<Delivery> {
        let delivery = self.queue.try_recv().ok()?;
        self.bytes.fetch_sub(delivery.message.size, Ordering::Relaxed);
        Some(delivery)
    }
}

#[derive(Debug)]
struct Subscription {
    client: Arc<Outbox>,
    options: SubscriptionOptions,
    identifier: Option<NonZeroU32>,
}

struct Client {
    outbox: Arc<Outbox>,
    kick: CancellationToken,
    ended: CancellationToken,
}

#[derive(Default)]
struct Retained {
    messages: HashMap<ByteString, Arc<Message>>,
    bytes: usize,
}

/// The broker's shared state.
pub(super) struct Router {
    clients: Mutex<HashMap<ByteString, Client>>,
    subscriptions: RwLock<Trie<Subscription>>,
    /// Lets a publish skip the lock while nobody subscribes, the common case of a bridge.
    subscribed: AtomicUsize,
    retained: Mutex<Retained>,
    pub(super) census: Arc<Census>,
    options: Options,
    metrics: Metrics,
}

/// A connected client's place in the router; leaving it ends its subscriptions.
pub(super) struct Place<'r> {
    router: &'r Router,
    client_id: ByteString,
    outbox: Arc<Outbox>,
    filters: HashSet<ByteString>,
    /// Cancelled when another connection takes the client id over.
    pub(super) kick: CancellationToken,
    ended: CancellationToken,
}

impl Router {
    pub(super) fn new(options: &Options, metrics: Metrics) -> Self {
        Self {
            clients: Mutex::default(),
            subscriptions: RwLock::default(),
            subscribed: AtomicUsize::new(0),
            retained: Mutex::default(),
            census: Arc::default(),
            options: options.clone(),
            metrics,
        }
    }

    /// Enters a client. The token is that of the connection it took over: await it before the CONNACK.
    pub(super) fn enter(&self, client_id: ByteString) -> (Place<'_>, Inbox, Option<CancellationToken>) {
        let (outbox, inbox) = Outbox::pair(&self.options);
        let client =
            Client { outbox: Arc::clone(&outbox), kick: CancellationToken::new(), ended: CancellationToken::new() };
        let place = Place {
            router: self,
            client_id: client_id.clone(),
            outbox,
            filters: HashSet::new(),
            kick: client.kick.clone(),
            ended: client.ended.clone(),
        };
        let previous = self.clients.lock().insert(client_id, client);
        let ended = previous.map(|previous| {
            previous.kick.cancel();
            previous.ended
        });
        (place, inbox, ended)
    }

    /// Gives a publish to the local subscribers and keeps it if it is to be retained.
    /// `from` is the publisher's own place, for the no-local option. Says whether anybody subscribes to it.
    pub(super) fn route(&self, from: Option<&Place<'_>>, publish: &Publish) -> bool {
        let mut message = None;
        if publish.retain {
            let shared = Arc::new(Message::detach(publish));
            self.retain(&shared);
            message = Some(shared);
        }
        if self.subscribed.load(Ordering::Acquire) == 0 {
            return false;
        }
        let subscriptions = self.subscriptions.read();
        // One delivery per client, at the highest QoS of its matching subscriptions ([MQTT-3.3.5-1]).
        let mut targets: Vec<(&Arc<Outbox>, Delivery)> = Vec::new();
        subscriptions.each_match(&publish.topic, |subscription: &Subscription| {
            let own = from.is_some_and(|place| Arc::ptr_eq(&place.outbox, &subscription.client));
            if own && subscription.options.no_local {
                return;
            }
            let qos = subscription.options.qos.less_value(publish.qos);
            let retain = publish.retain && subscription.options.retain_as_published;
            match targets.iter_mut().find(|(client, _)| Arc::ptr_eq(client, &subscription.client)) {
                Some((_, delivery)) => {
                    delivery.qos = delivery.qos.max(qos);
                    delivery.retain |= retain;
                    delivery.identifiers.extend(subscription.identifier);
                }
                None => {
                    let message = Arc::clone(message.get_or_insert_with(|| Arc::new(Message::detach(publish))));
                    let identifiers = subscription.identifier.into_iter().collect();
                    targets.push((&subscription.client, Delivery { message, qos, retain, identifiers }));
                }
            }
        });
        let any = !targets.is_empty();
        for (client, delivery) in targets {
            self.put(client, delivery);
        }
        any
    }

    fn put(&self, client: &Outbox, delivery: Delivery) {
        if client.put(delivery) {
            self.metrics.local_deliveries.increment(1);
        } else {
            self.metrics.local_deliveries_dropped.increment(1);
            self.census.lost();
        }
    }

    /// True where a subscription's first level is `level`.
    pub(super) fn has_subscribers_below(&self, level: &str) -> bool {
        self.subscribed.load(Ordering::Acquire) > 0 && self.subscriptions.read().has_branch(level)
    }

    pub(super) fn subscription_count(&self) -> usize {
        self.subscribed.load(Ordering::Acquire)
    }

    pub(super) fn retained_count(&self) -> usize {
        self.retained.lock().messages.len()
    }

    fn retain(&self, message: &Arc<Message>) {
        let mut retained = self.retained.lock();
        if let Some(old) = retained.messages.remove(&message.topic) {
            retained.bytes -= old.size;
        }
        if message.payload.is_empty() {
            return; // [MQTT-3.3.1-10]
        }
        let fits = retained.messages.len() < self.options.max_retained
            && retained.bytes + message.size <= self.options.max_retained_bytes;
        if fits {
            retained.bytes += message.size;
            retained.messages.insert(message.topic.clone(), Arc::clone(message));
        } else {
            self.metrics.retained_dropped.increment(1);
        }
    }
}

impl Place<'_> {
    /// Adds or replaces a subscription ([MQTT-3.8.4-3]) and queues the retained messages it asks for.
    /// False where the client has as many as it may.
    pub(super) fn subscribe(
        &mut self,
        filter: &ByteString,
        options: SubscriptionOptions,
        identifier: Option<NonZeroU32>,
    ) -> bool {
        let known = self.filters.contains(filter);
        if !known && self.filters.len() >= self.router.options.max_subscriptions {
            return false;
        }
        let filter = ByteString::from(&**filter);
        let subscription = Subscription { client: Arc::clone(&self.outbox), options, identifier };
        {
            let mut subscriptions = self.router.subscriptions.write();
            let here = subscriptions.entry(&filter);
            here.retain(|other| !Arc::ptr_eq(&other.client, &self.outbox));
            here.push(subscription);
        }
        if !known {
            self.router.subscribed.fetch_add(1, Ordering::Release);
            self.filters.insert(filter.clone());
        }
        let wanted = match options.retain_handling {
            RetainHandling::AtSubscribe => true,
            RetainHandling::AtSubscribeNew => !known,
            RetainHandling::NoAtSubscribe => false,
        };
        if wanted {
            self.send_retained(&filter, options.qos, identifier);
        }
        true
    }

    fn send_retained(&self, filter: &str, qos: QoS, identifier: Option<NonZeroU32>) {
        let mut found: Vec<Arc<Message>> = {
            let retained = self.router.retained.lock();
            let found = retained.messages.values().filter(|m| topic::matches(filter, &m.topic));
            found.filter(|m| !m.is_expired()).map(Arc::clone).collect()
        };
        if filter.starts_with(system::ROOT) {
            let own = system::publishes(self.router);
            found.extend(own.iter().filter(|p| topic::matches(filter, &p.topic)).map(|p| Arc::new(Message::detach(p))));
        }
        for message in found {
            let qos = qos.less_value(message.qos);
            let identifiers = identifier.into_iter().collect();
            self.router.put(&self.outbox, Delivery { message, qos, retain: true, identifiers });
        }
    }

    /// Ends a subscription; says whether there was one.
    pub(super) fn unsubscribe(&mut self, filter: &str) -> bool {
        let known = self.filters.remove(filter);
        if known {
            self.forget(filter);
        }
        known
    }

    fn forget(&self, filter: &str) {
        let own = &self.outbox;
        self.router.subscriptions.write().retain(filter, |other| !Arc::ptr_eq(&other.client, own));
        self.router.subscribed.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        for filter in std::mem::take(&mut self.filters) {
            self.forget(&filter);
        }
        let mut clients = self.router.clients.lock();
        if clients.get(&self.client_id).is_some_and(|client| Arc::ptr_eq(&client.outbox, &self.outbox)) {
            clients.remove(&self.client_id);
        }
        self.ended.cancel();
    }
}
