//! One connection per identity, and the subscriptions that outlive it.
//!
//! The lock is taken when a client connects, subscribes or leaves, never for a message.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::hub::limits::SUBSCRIPTIONS_MAX;

/// Identities remembered at once.
const SESSIONS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_identity: Mutex<HashMap<String, Session>>,
    /// Never given twice, so that a slow loser of a take-over cannot be mistaken for a later winner.
    next_owner: AtomicU64,
}

#[derive(Debug)]
struct Session {
    /// Which connection owns it; a connection that was taken over must not touch it any more.
    owner: u64,
    taken_over: CancellationToken,
    clean: bool,
    filters: Vec<String>,
}

/// A connection's hold on its session.
#[derive(Debug)]
pub(super) struct Hold {
    identity: String,
    owner: u64,
    /// Fires when another connection takes the identity.
    pub(super) taken_over: CancellationToken,
    /// Something was kept from an earlier connection.
    pub(super) present: bool,
}

impl Hold {
    /// Whose it is.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        // A panic elsewhere leaves the map whole: every change to it is one insert or remove.
        self.by_identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the identity over from whoever has it. `None` where there are too many.
    pub(super) fn take(&self, identity: &str, clean: bool) -> Option<Hold> {
        let mut sessions = self.lock();
        if sessions.len() >= SESSIONS_MAX && !sessions.contains_key(identity) {
            return None;
        }
        let old = sessions.remove(identity);
        if let Some(old) = &old {
            old.taken_over.cancel();
        }
        let owner = self.next_owner.fetch_add(1, Relaxed);
        let kept = old.filter(|old| !clean && !old.clean).map_or(Vec::new(), |old| old.filters);
        let present = !kept.is_empty();
        let taken_over = CancellationToken::new();
        let session = Session { owner, taken_over: taken_over.clone(), clean, filters: kept };
        sessions.insert(identity.to_owned(), session);
        Some(Hold { identity: identity.to_owned(), owner, taken_over, present })
    }

    /// Adds the filters of one SUBSCRIBE, all of them at once; the first that one is too many for.
    pub(super) fn subscribe<'f>(&self, hold: &Hold, filters: &[&'f str]) -> Option<&'f str> {
        let mut sessions = self.lock();
        let session = sessions.get_mut(&hold.identity).filter(|s| s.owner == hold.owner)?;
        for filter in filters {
            if session.filters.iter().any(|f| f == filter) {
                continue;
            }
            if session.filters.len() >= SUBSCRIPTIONS_MAX {
                return Some(filter);
            }
            session.filters.push((*filter).to_owned());
        }
        None
    }

    /// Removes a filter; false where it was never there.
    pub(super) fn unsubscribe(&self, hold: &Hold, filter: &str) -> bool {
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(&hold.identity).filter(|s| s.owner == hold.owner) else { return false };
        let before = session.filters.len();
        session.filters.retain(|f| f != filter);
        session.filters.len() < before
    }

    /// What this identity is subscribed to.
    pub(super) fn filters(&self, identity: &str) -> Vec<String> {
        self.lock().get(identity).map(|s| s.filters.clone()).unwrap_or_default()
    }

    /// Ends the connection of an identity.
    pub(super) fn end(&self, identity: &str) {
        if let Some(session) = self.lock().get(identity) {
            session.taken_over.cancel();
        }
    }

    /// The connection is over; a clean session goes with it.
    pub(super) fn leave(&self, hold: &Hold) {
        let mut sessions = self.lock();
        let ours = sessions.get(&hold.identity).is_some_and(|s| s.owner == hold.owner);
        let ends = sessions.get(&hold.identity).is_some_and(|s| s.clean || s.filters.is_empty());
        if ours && ends {
            sessions.remove(&hold.identity);
        }
    }
}
