//! What the hub was ever asked to send, and how that is taken back.
//!
//! A hub keeps the subscriptions of a persistent session. Where commands are switched off, or no rule wants messages any
//! more, it would go on to send what nobody takes: messages would be tried again and again until they are dead, and
//! calls of methods wait for their timeout instead of being told that the device is not there.
//!
//! Real hubs close the connection at an UNSUBSCRIBE from what the session does not have, and who knows what a hub still
//! has of a session of last year? So the filter is subscribed to first and then unsubscribed from, in one connection:
//! that is right whatever the hub remembers. It is done only for what the file `subscribed` in the state folder says was
//! asked for before: once for each identity and run of the program, and where there is only one, once.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rumqttc::{AsyncClient, QoS};

use super::Target;
use crate::hub::back;
use crate::hub::connect::Identity;

const NAME: &str = "subscribed";

/// What a subscription is for, as the file says it.
const KINDS: [&str; 4] = ["messages", "methods", "twins", "desired"];

fn filter(kind: &str, identity: &Identity<'_>) -> String {
    match kind {
        "messages" => back::commands(identity),
        "methods" => back::METHODS.to_owned(),
        "twins" => back::TWIN_ANSWERS.to_owned(),
        _ => back::DESIRED.to_owned(),
    }
}

/// The memory of it.
#[derive(Debug)]
pub struct Subscribed {
    path: PathBuf,
    /// One identity has all connections.
    single: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Kinds that were ever asked for.
    ever: BTreeSet<&'static str>,
    /// What was taken back since the start.
    taken_back: HashSet<(String, &'static str)>,
    /// Kinds whose UNSUBACK has not come, in order; of the one identity.
    awaited: Vec<&'static str>,
}

impl Subscribed {
    /// As the state folder knows it.
    pub fn open(state: &Path, single: bool) -> Self {
        let path = state.join(NAME);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let ever = KINDS.into_iter().filter(|kind| text.lines().any(|line| line == *kind)).collect();
        Self { path, single, state: Mutex::new(State { ever, ..State::default() }) }
    }

    /// A connection is there on which the filters in `wanted` are subscribed to: the others are taken back.
    pub(super) fn connected(&self, client: &AsyncClient, target: &Target, wanted: &[String]) {
        let Target::Hub(hub) = target else { return };
        let identity = Identity::of(&hub.connection);
        for filter in self.take_back(&identity, wanted) {
            // Nothing else has been handed to the client yet, so there is room.
            let asked = client.try_subscribe(filter.as_str(), QoS::AtLeastOnce);
            if asked.and_then(|()| client.try_unsubscribe(filter.as_str())).is_ok() {
                tracing::info!(filter, "uplink: the hub is told that nobody wants this any more");
            }
        }
    }

    /// Notes what is wanted, and says what is to be taken back.
    fn take_back(&self, identity: &Identity<'_>, wanted: &[String]) -> Vec<String> {
        let mut state = self.state.lock();
        state.awaited.clear();
        let (mut unwanted, mut is_new) = (Vec::new(), false);
        for kind in KINDS {
            let filter = filter(kind, identity);
            let taken_back = (identity.client_id(), kind);
            if wanted.contains(&filter) {
                is_new |= state.ever.insert(kind);
                state.taken_back.remove(&taken_back);
            } else if state.ever.contains(kind) && (self.single || state.taken_back.insert(taken_back)) {
                state.awaited.push(kind);
                unwanted.push(filter);
            }
        }
        if is_new {
            self.write(&state.ever);
        }
        unwanted
    }

    /// An UNSUBACK has come: they come in order.
    pub(super) fn unsubscribed(&self) {
        let mut state = self.state.lock();
        if self.single && !state.awaited.is_empty() {
            let kind = state.awaited.remove(0);
            state.ever.remove(kind);
            self.write(&state.ever);
        }
    }

    /// A few bytes, a few times in the life of a program; what cannot be written costs a pair of packets at a start.
    fn write(&self, ever: &BTreeSet<&str>) {
        let written = match ever.is_empty() {
            true => fs::remove_file(&self.path),
            false => fs::write(&self.path, ever.iter().map(|kind| format!("{kind}\n")).collect::<String>()),
        };
        if let Err(error) =
            written.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        {
            tracing::warn!("{} cannot be written: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity<'_> = Identity { hub: "h", device: "d", module: None };

    fn filters(kinds: &[&str]) -> Vec<String> {
        kinds.iter().map(|kind| filter(kind, &IDENTITY)).collect()
    }

    #[test]
    fn what_was_asked_for_is_taken_back_once() {
        for (single, again) in [(true, vec!["messages", "desired"]), (false, vec![])] {
            let dir = tempfile::tempdir().unwrap();
            let known = Subscribed::open(dir.path(), single);
            assert!(known.take_back(&IDENTITY, &[]).is_empty(), "a new bridge has nothing to take back");
            let wanted = filters(&["messages", "methods", "desired"]);
            assert!(known.take_back(&IDENTITY, &wanted).is_empty());

            let known = Subscribed::open(dir.path(), single);
            let methods = filters(&["methods"]);
            assert_eq!(known.take_back(&IDENTITY, &methods), filters(&["messages", "desired"]), "after a restart");
            assert_eq!(known.take_back(&IDENTITY, &methods), filters(&again), "without an UNSUBACK: {single}");
            known.unsubscribed();
            known.unsubscribed();
            known.unsubscribed();
            assert_eq!(known.take_back(&IDENTITY, &methods), filters(&[]));
            assert!(known.take_back(&IDENTITY, &wanted).is_empty());
            assert_eq!(known.take_back(&IDENTITY, &methods), filters(&["messages", "desired"]), "wanted in between");
            let other = Identity { device: "e", ..IDENTITY };
            assert_eq!(known.take_back(&other, &[]).len(), 3, "each identity has a session");
        }
    }

    #[test]
    fn a_file_that_says_nothing_more_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), "methods\nsomething of a later version\n").unwrap();
        let known = Subscribed::open(dir.path(), true);
        assert_eq!(known.take_back(&IDENTITY, &[]), filters(&["methods"]));
        known.unsubscribed();
        assert!(!dir.path().join(NAME).exists());
    }
}
