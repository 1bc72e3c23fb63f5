//! Retained messages: the last one of each topic, and how a new subscriber gets them.
//!
//! They do not go through a subscriber's queue, which they could fill: its connection takes them one by one as its
//! socket and window allow, before anything that was published since.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::vec;

use bytestring::ByteString;
use rmqtt_codec::types::QoS;

use super::Options;
use super::application_message::{Delivery, Message};
use super::router::Router;
use super::system;
use crate::topic;

/// The retained messages, bounded in number and bytes.
#[derive(Default)]
pub(super) struct Retained {
    messages: HashMap<ByteString, Arc<Message>>,
    bytes: usize,
}

impl Retained {
    /// Keeps a message instead of the last one of its topic; an empty one ends it ([MQTT-3.3.1-10]). False where
    /// there is no room.
    pub(super) fn keep(&mut self, message: &Arc<Message>, options: &Options) -> bool {
        if let Some(old) = self.messages.remove(&message.topic) {
            self.bytes -= old.size;
        }
        if message.payload.is_empty() {
            return true;
        }
        let fits =
            self.messages.len() < options.max_retained && self.bytes + message.size <= options.max_retained_bytes;
        if fits {
            self.bytes += message.size;
            self.messages.insert(message.topic.clone(), Arc::clone(message));
        }
        fits
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The message of a topic.
    pub(super) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.messages.get(topic)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Message>> {
        self.messages.values().cloned().collect()
    }

    /// Those a filter matches.
    pub(super) fn matching(&self, filter: &str) -> Vec<Arc<Message>> {
        if memchr::memchr2(b'+', b'#', filter.as_bytes()).is_none() {
            return self.messages.get(filter).cloned().into_iter().collect();
        }
        self.messages.values().filter(|message| topic::matches(filter, &message.topic)).cloned().collect()
    }
}

/// The retained messages a connection has still to send. It holds those of one filter at a time.
#[derive(Default)]
pub(super) struct Feed {
    asked: VecDeque<Asked>,
    found: vec::IntoIter<Arc<Message>>,
    found_for: Option<Asked>,
}

#[derive(Clone)]
struct Asked {
    filter: ByteString,
    qos: QoS,
    identifier: Option<NonZeroU32>,
}

impl Feed {
    /// Asks for the retained messages of a subscription. A filter that is asked for again takes the place of the
    /// first, so that there are no more than subscriptions.
    pub(super) fn ask(&mut self, filter: &ByteString, qos: QoS, identifier: Option<NonZeroU32>) {
        self.asked.retain(|asked| asked.filter != *filter);
        self.asked.push_back(Asked { filter: ByteString::from(&**filter), qos, identifier });
    }

    /// Forgets a subscription that has ended.
    pub(super) fn forget(&mut self, filter: &str) {
        self.asked.retain(|asked| asked.filter != *filter);
        if self.found_for.as_ref().is_some_and(|asked| asked.filter == *filter) {
            self.found = vec::IntoIter::default();
        }
    }

    /// The next one.
    pub(super) fn next(&mut self, router: &Router) -> Option<Delivery> {
        loop {
            for message in self.found.by_ref() {
                let Some(asked) = &self.found_for else { break };
                if !message.is_expired() {
                    let qos = asked.qos.less_value(message.qos);
                    let identifiers = asked.identifier.into_iter().collect();
                    return Some(Delivery { message, qos, retain: true, identifiers, seq: 0 });
                }
            }
            let asked = self.asked.pop_front()?;
            let mut found = router.retained.lock().matching(&asked.filter);
            if asked.filter.starts_with(system::ROOT) {
                let own = system::publishes(router);
                let own = own.iter().filter(|publish| topic::matches(&asked.filter, &publish.topic));
                found.extend(own.map(|publish| Arc::new(Message::detach(publish))));
            }
            self.found = found.into_iter();
            self.found_for = Some(asked);
        }
    }
}
