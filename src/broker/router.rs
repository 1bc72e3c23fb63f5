//! Which publish goes to which sessions, and what is retained.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use rmqtt_codec::types::{Publish, QoS};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Options;
use super::application_message::{Delivery, Message};
use super::census::Census;
use super::clients::Clients;
use super::retained::Retained;
use super::session::{Common, Put, Session, Subscribed};
use super::share::{self, Share};
use super::store::{Restored, Scribe};
use crate::metrics::Metrics;
use crate::topic::Trie;

/// What is filed under a filter.
enum Filed {
    /// A subscription of one session.
    One(Arc<Session>, Subscribed),
    /// A shared subscription.
    Shared(Arc<Share>),
}

/// What became of a publish within the broker.
#[derive(Clone, Copy, Default)]
pub(super) struct Routed {
    /// It was offered to at least one session.
    pub(super) offered: bool,
    /// At least one session has it queued.
    pub(super) queued: bool,
    /// It is the retained message of its topic, or has ended the one there was.
    pub(super) retained: bool,
}

/// The broker's shared state.
pub(super) struct Router {
    pub(super) clients: Clients,
    subscriptions: RwLock<Trie<Filed>>,
    /// Lets a publish skip the lock while nobody subscribes, the common case of a bridge.
    subscribed: AtomicUsize,
    /// Told when somebody has subscribed, or has come back to a session.
    pub(super) came: Notify,
    pub(super) retained: Mutex<Retained>,
    pub(super) census: Arc<Census>,
    pub(super) common: Arc<Common>,
    pub(super) options: Options,
    pub(super) metrics: Metrics,
}

impl Router {
    pub(super) fn new(options: &Options, metrics: Metrics, restored: Restored) -> Self {
        let scribe = options.store.clone().map(|store| Arc::new(Scribe::new(store)));
        let router = Self {
            clients: Clients::default(),
            subscriptions: RwLock::default(),
            subscribed: AtomicUsize::new(0),
            came: Notify::new(),
            retained: Mutex::default(),
            census: Arc::default(),
            common: Arc::new(Common::new(options, scribe, metrics.clone())),
            options: options.clone(),
            metrics,
        };
        let (sessions, retained) = restored.into_parts();
        router.restore(sessions);
        for message in retained {
            if !router.retained.lock().keep(&message, options) {
                router.metrics.retained_dropped.increment(1);
            }
        }
        router
    }

    /// Gives a publish to the local subscribers and keeps it if it is to be retained.
    /// `from` is the publisher's own session, for the no-local option.
    pub(super) fn route(&self, from: Option<&Arc<Session>>, publish: &Publish) -> Routed {
        self.route_until(from, publish, None)
    }

    /// The same of what nobody is to hear of after `ends`.
    pub(super) fn route_until(&self, from: Option<&Arc<Session>>, publish: &Publish, ends: Option<Instant>) -> Routed {
        let detached = || Arc::new(Message::until(publish, ends));
        let mut routed = Routed::default();
        let mut message = None;
        if publish.retain {
            let shared = detached();
            routed.retained = self.retain(&shared);
            message = Some(shared);
        }
        if self.subscribed.load(Ordering::Acquire) == 0 {
            return routed;
        }
        let subscriptions = self.subscriptions.read();
        // One delivery per client, at the highest QoS of its matching subscriptions ([MQTT-3.3.5-1]).
        let mut targets: Vec<(&Arc<Session>, Delivery)> = Vec::new();
        subscriptions.each_match(&publish.topic, |filed| {
            let (session, to) = match filed {
                Filed::One(session, to) => (session, to),
                Filed::Shared(share) => {
                    routed.offered = true;
                    let message = message.get_or_insert_with(detached);
                    routed.queued |= self.count(share.put(publish, message));
                    return;
                }
            };
            if to.options.no_local && from.is_some_and(|from| Arc::ptr_eq(from, session)) {
                return;
            }
            let qos = to.options.qos.less_value(publish.qos);
            let retain = publish.retain && to.options.retain_as_published;
            match targets.iter_mut().find(|(other, _)| Arc::ptr_eq(other, session)) {
                Some((_, delivery)) => {
                    delivery.qos = delivery.qos.max(qos);
                    delivery.retain |= retain;
                    delivery.identifiers.extend(to.identifier);
                }
                None => {
                    let message = Arc::clone(message.get_or_insert_with(detached));
                    let identifiers = to.identifier.into_iter().collect();
                    targets.push((session, Delivery { message, qos, retain, identifiers, seq: 0 }));
                }
            }
        });
        routed.offered |= !targets.is_empty();
        for (session, delivery) in targets {
            routed.queued |= self.count(session.put(delivery));
        }
        routed
    }

    /// True where a publish to this topic would be offered to somebody, who need not have room for it or wait for it.
    pub(super) fn has_subscriber(&self, topic: &str) -> bool {
        let mut any = false;
        if self.subscribed.load(Ordering::Acquire) > 0 {
            self.subscriptions.read().each_match(topic, |_| any = true);
        }
        any
    }

    /// True where somebody is there for a publish to this topic, or, unless it is for those who are `connected`, has a
    /// session that waits for it. Whether there is room is not asked.
    pub(super) fn has_taker(&self, (topic, qos): (&str, QoS), connected: bool) -> bool {
        let takes = |session: &Session, to: &Subscribed| {
            session.is_present() || (!connected && session.keeps(to.options.qos.less_value(qos)))
        };
        let mut any = false;
        if self.subscribed.load(Ordering::Acquire) > 0 {
            self.subscriptions.read().each_match(topic, |filed| {
                any = any
                    || match filed {
                        Filed::One(session, to) => takes(session, to),
                        Filed::Shared(share) => share.any(takes),
                    };
            });
        }
        any
    }

    /// Counts a delivery; true where it is queued.
    fn count(&self, put: Put) -> bool {
        match put {
            Put::Queued => self.metrics.local_deliveries.increment(1),
            Put::Full => {
                self.metrics.local_deliveries_dropped.increment(1);
                self.census.lost();
            }
            Put::Absent => {}
        }
        matches!(put, Put::Queued)
    }

    /// Files a subscription, in place of an older one of the same session.
    pub(super) fn file(&self, session: &Arc<Session>, filter: &str, to: Subscribed) {
        let mut subscriptions = self.subscriptions.write();
        let here = subscriptions.entry(share::inner(filter));
        let is_new = if let Some((group, _)) = share::parse(filter) {
            let known = here.iter().find_map(|filed| match filed {
                Filed::Shared(share) if share.group == *group => Some(share),
                _ => None,
            });
            match known {
                Some(share) => share.join(session, to),
                None => {
                    let share = Share::new(group);
                    share.join(session, to);
                    here.push(Filed::Shared(Arc::new(share)));
                    true
                }
            }
        } else {
            let before = here.len();
            here.retain(|filed| !filed.is_of(session));
            let is_new = here.len() == before;
            here.push(Filed::One(Arc::clone(session), to));
            is_new
        };
        if is_new {
            self.subscribed.fetch_add(1, Ordering::Release);
        }
        self.came.notify_one();
    }

    /// Takes a subscription out.
    pub(super) fn unfile(&self, session: &Arc<Session>, filter: &str) {
        let group = share::parse(filter).map(|(group, _)| group);
        self.subscriptions.write().retain(share::inner(filter), |filed| match (filed, group) {
            (Filed::Shared(share), Some(group)) if share.group == *group => !share.part(session),
            (filed, None) => !filed.is_of(session),
            _ => true,
        });
        self.subscribed.fetch_sub(1, Ordering::Release);
    }

    /// True where a subscription's first level is `level`.
    pub(super) fn has_subscribers_below(&self, level: &str) -> bool {
        self.subscribed.load(Ordering::Acquire) > 0 && self.subscriptions.read().has_branch(level)
    }

    pub(super) fn subscription_count(&self) -> usize {
        self.subscribed.load(Ordering::Acquire)
    }

    /// Every retained message.
    pub(super) fn retained_messages(&self) -> Vec<Arc<Message>> {
        self.retained.lock().all()
    }

    /// Keeps a message; false where there is no room for it.
    fn retain(&self, message: &Arc<Message>) -> bool {
        let (was_there, kept) = {
            let mut retained = self.retained.lock();
            (retained.get(&message.topic).is_some(), retained.keep(message, &self.options))
        };
        if !kept {
            self.metrics.retained_dropped.increment(1);
        }
        // What found no room, or ends what was not there, is nothing to write down.
        let is_there = kept && !message.payload.is_empty();
        if let Some(scribe) = self.common.scribe.as_ref().filter(|_| was_there || is_there) {
            scribe.list_retained(&message.topic);
        }
        kept
    }
}

impl Filed {
    fn is_of(&self, session: &Arc<Session>) -> bool {
        matches!(self, Self::One(other, _) if Arc::ptr_eq(other, session))
    }
}
