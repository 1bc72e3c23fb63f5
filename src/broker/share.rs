//! Shared subscriptions: `$share/<group>/<filter>`, of which one member gets each message ([MQTT-4.8.2]).
//!
//! Members take turns. One that is away or whose queue is full is passed over as long as another can take the
//! message; when nobody is there, it waits in the session of one that lasts. For clients of MQTT 3.1.1 the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytestring::ByteString;
use parking_lot::Mutex;
use rmqtt_codec::types::Publish;

use super::application_message::{Delivery, Message};
use super::session::{Put, Session, Subscribed};

const PREFIX: &str = "$share/";

/// The group and the filter of a shared subscription; `None` for one that is not shared. The group is empty, or has
/// a wildcard, where it is not valid ([MQTT-4.8.2-1], [MQTT-4.8.2-2]).
pub(super) fn parse(filter: &str) -> Option<(&str, &str)> {
    let rest = filter.strip_prefix(PREFIX)?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

/// The filter that topics are matched with.
pub(super) fn inner(filter: &str) -> &str {
    parse(filter).map_or(filter, |(_, inner)| inner)
}

/// True for a filter that can be subscribed to.
pub(super) fn is_valid(filter: &str) -> bool {
    match parse(filter) {
        Some((group, inner)) => {
            !group.is_empty() && !group.contains(['+', '#']) && crate::topic::check_filter(inner).is_ok()
        }
        None => crate::topic::check_filter(filter).is_ok(),
    }
}

/// One shared subscription.
pub(super) struct Share {
    pub(super) group: ByteString,
    members: Mutex<Vec<(Arc<Session>, Subscribed)>>,
    turn: AtomicUsize,
}

impl Share {
    pub(super) fn new(group: &str) -> Self {
        Self { group: ByteString::from(group), members: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// Adds a member, or replaces how it subscribed; true where it is new.
    pub(super) fn join(&self, session: &Arc<Session>, to: Subscribed) -> bool {
        let mut members = self.members.lock();
        if let Some((_, known)) = members.iter_mut().find(|(member, _)| Arc::ptr_eq(member, session)) {
            *known = to;
            return false;
        }
        members.push((Arc::clone(session), to));
        true
    }

    /// Takes a member out; true where nobody is left.
    pub(super) fn part(&self, session: &Arc<Session>) -> bool {
        let mut members = self.members.lock();
        members.retain(|(member, _)| !Arc::ptr_eq(member, session));
        members.is_empty()
    }

    /// True where that is true of a member.
    pub(super) fn any(&self, takes: impl Fn(&Session, &Subscribed) -> bool) -> bool {
        self.members.lock().iter().any(|(session, to)| takes(session, to))
    }

    /// Gives a message to one member.
    pub(super) fn put(&self, publish: &Publish, message: &Arc<Message>) -> Put {
        let members = self.members.lock();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % members.len().max(1);
        let mut outcome = Put::Absent;
        let (before, after) = members.split_at_checked(turn).unwrap_or((&members, &[]));
        for only_present in [true, false] {
            for (session, to) in after.iter().chain(before) {
                if only_present != session.is_present() {
                    continue;
                }
                let delivery = Delivery {
                    message: Arc::clone(message),
                    qos: to.options.qos.less_value(publish.qos),
                    retain: publish.retain && to.options.retain_as_published,
                    identifiers: to.identifier.into_iter().collect(),
                    seq: 0,
                };
                match session.put(delivery) {
                    Put::Queued => return Put::Queued,
                    Put::Full => outcome = Put::Full,
                    Put::Absent => {}
                }
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for (filter, valid, expect) in [
            ("a/b", true, "a/b"),
            ("$share/g/a/+", true, "a/+"),
            ("$share/g//a", true, "/a"),
            ("$share/g/", false, ""),
            ("$share/g", false, ""),
            ("$share//a", false, "a"),
            ("$share/+/a", false, "a"),
            ("$share/g#/a", false, "a"),
            ("$share/g/a#", false, "a#"),
            ("$SYS/#", true, "$SYS/#"),
        ] {
            assert_eq!((is_valid(filter), inner(filter)), (valid, expect), "{filter}");
        }
    }
}
