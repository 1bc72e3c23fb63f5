//! Which client has which session: coming, taking over, going, staying away for too long.
//!
//! An entry lives while a connection has its client id, or its session lasts. A connection that takes a client id over
//! kicks the one before and waits for its end, so that a session is served by one connection at a time
//! ([MQTT-3.1.4-2]). One that is itself taken over while it waits gives up: the last one stays.
//!
//! The lock of the table is taken before that of a session, never after it.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::router::Router;
use super::session::{DelayedWill, Session, Subscribed};
use super::store::Kept;
use crate::message::Timestamp;

/// How long a taken-over connection may take to end before the new one goes on without it.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// What a client asks of its session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Nothing of an earlier session is wanted.
    pub(super) clean_start: bool,
    /// Seconds it is to outlive this connection; [`NEVER`](super::session::NEVER) never ends.
    pub(super) expiry: u32,
    /// The client's Receive Maximum.
    pub(super) receive_max: Option<NonZeroU16>,
}

/// All sessions, by client id.
#[derive(Default)]
pub(super) struct Clients {
    entries: Mutex<Entries>,
    /// How many there are; to be read under the lock of a session, which is taken after that of the entries.
    count: AtomicUsize,
    /// Told when the first moment at which something is due may have changed.
    pub(super) due_changed: Notify,
}

#[derive(Default)]
struct Entries {
    by_id: HashMap<ByteString, Entry>,
    /// Moments at which something is due for who is away: a will, the end of the session.
    due: BTreeSet<(Instant, ByteString)>,
    /// Who is away, longest first.
    away: BTreeSet<(Timestamp, ByteString)>,
    next_number: u64,
    next_connection: u64,
}

/// A client id somebody has or is to find again: at least one of both is there.
#[derive(Default)]
struct Entry {
    session: Option<Arc<Session>>,
    occupant: Option<Occupant>,
}

/// The connection that has a client id, or waits for the one before it to end.
struct Occupant {
    connection: u64,
    kick: CancellationToken,
    ended: CancellationToken,
}

/// A connected client's place in the router. Leaving it ends the session, or lets it wait.
pub(super) struct Place<'r> {
    router: &'r Router,
    pub(super) session: Arc<Session>,
    connection: u64,
    /// Cancelled when another connection takes the client id over.
    pub(super) kick: CancellationToken,
    ended: CancellationToken,
    left: bool,
}

/// A client that was let in.
pub(super) struct Entered<'r> {
    pub(super) place: Place<'r>,
    /// There was a session, and it goes on.
    pub(super) present: bool,
    /// The will of the session this one replaces.
    pub(super) will: Option<DelayedWill>,
}

/// What is due for a client that stays away.
pub(super) struct Due {
    pub(super) client_id: ByteString,
    pub(super) will: Option<DelayedWill>,
}

impl Entry {
    fn is_occupied_by(&self, connection: u64) -> bool {
        self.occupant.as_ref().is_some_and(|occupant| occupant.connection == connection)
    }
}

impl Entries {
    /// Takes a client off the lists of those who are away.
    fn back(&mut self, session: &Session) {
        if let Some(gone_at) = session.gone_at() {
            self.away.remove(&(gone_at, session.client_id.clone()));
            for due in [session.will_due(), session.ends_at()].into_iter().flatten() {
                self.due.remove(&(due, session.client_id.clone()));
            }
        }
    }

    /// Puts a client on the lists of those who are away.
    fn gone(&mut self, session: &Session) {
        if let Some(gone_at) = session.gone_at() {
            self.away.insert((gone_at, session.client_id.clone()));
            for due in [session.will_due(), session.ends_at()].into_iter().flatten() {
                self.due.insert((due, session.client_id.clone()));
            }
        }
    }

    /// Takes the session of a client that is away out of the table.
    fn remove(&mut self, session: &Session) {
        self.back(session);
        if let Some(entry) = self.by_id.get_mut(&session.client_id) {
            entry.session = None;
            if entry.occupant.is_none() {
                self.by_id.remove(&session.client_id);
            }
        }
    }
}

impl Router {
    /// Puts the sessions of an earlier process back.
    pub(super) fn restore(&self, sessions: Vec<(u64, Kept)>) {
        for (number, kept) in sessions {
            let session = Session::restore(kept, number, Arc::clone(&self.common));
            for (filter, to) in session.subscriptions() {
                self.file(&session, &filter, to);
            }
            let mut entries = self.clients.entries.lock();
            entries.next_number = entries.next_number.max(number);
            entries.gone(&session);
            let entry = Entry { session: Some(Arc::clone(&session)), occupant: None };
            entries.by_id.insert(session.client_id.clone(), entry);
            self.count_sessions(&entries);
        }
    }

    /// Lets a client in, once a connection it takes over has ended; `None` where it is itself taken over meanwhile.
    pub(super) async fn enter(&self, client_id: ByteString, terms: Terms) -> Option<Entered<'_>> {
        let (kick, ended) = (CancellationToken::new(), CancellationToken::new());
        let (connection, before) = {
            let mut entries = self.clients.entries.lock();
            entries.next_connection += 1;
            let connection = entries.next_connection;
            let occupant = Occupant { connection, kick: kick.clone(), ended: ended.clone() };
            (connection, entries.by_id.entry(client_id.clone()).or_default().occupant.replace(occupant))
        };
        if let Some(before) = before {
            before.kick.cancel();
            let _ = tokio::time::timeout(TAKE_OVER_PATIENCE, before.ended.cancelled()).await;
        }
        let mut entries = self.clients.entries.lock();
        let entry = entries.by_id.get(&client_id).filter(|entry| entry.is_occupied_by(connection));
        let Some(entry) = entry else {
            ended.cancel();
            return None;
        };
        let old = entry.session.clone();
        if let Some(old) = &old {
            entries.back(old);
        }
        let (old, resumed) = match old {
            Some(old) if !terms.clean_start && old.is_resumable() => (None, Some(old)),
            old => (old, None),
        };
        let present = resumed.is_some();
        let session = resumed.unwrap_or_else(|| {
            entries.next_number += 1;
            Session::new(client_id.clone(), entries.next_number, Arc::clone(&self.common))
        });
        // The will of a client that came back in time is not published ([MQTT-3.1.3-9]).
        session.attach(connection, terms.expiry, terms.receive_max);
        entries.by_id.entry(client_id).or_default().session = Some(Arc::clone(&session));
        self.count_sessions(&entries);
        drop(entries);
        if present {
            self.came.notify_one();
        }
        let will = old.and_then(|old| self.end_session(&old));
        Some(Entered { place: Place { router: self, session, connection, kick, ended, left: false }, present, will })
    }

    /// Ends a session that has left the table; gives the will that waited.
    fn end_session(&self, session: &Arc<Session>) -> Option<DelayedWill> {
        let (filters, will) = session.end();
        filters.iter().for_each(|filter| self.unfile(session, filter));
        will
    }

    fn count_sessions(&self, entries: &Entries) {
        self.clients.count.store(entries.by_id.len(), Ordering::Relaxed);
        self.metrics.sessions(entries.by_id.len(), entries.away.len());
        self.census.are_away(entries.away.len());
    }

    /// How many sessions there are, those whose client is away among them.
    pub(super) fn session_count(&self) -> usize {
        self.clients.count.load(Ordering::Relaxed)
    }

    /// Every session.
    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        self.clients.entries.lock().by_id.values().filter_map(|entry| entry.session.clone()).collect()
    }

    /// The first moment at which something is due for a client that is away.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.clients.entries.lock().due.first().map(|(due, _)| *due)
    }

    /// Takes the first thing that is due by now.
    pub(super) fn take_due(&self, now: Instant) -> Option<Due> {
        let mut entries = self.clients.entries.lock();
        let (due, client_id) = entries.due.first().filter(|(due, _)| *due <= now)?.clone();
        entries.due.remove(&(due, client_id.clone()));
        let session = entries.by_id.get(&client_id).and_then(|entry| entry.session.clone());
        let Some(session) = session.filter(|session| session.gone_at().is_some()) else {
            return Some(Due { client_id, will: None });
        };
        if session.ends_at().is_none_or(|ends| ends > now) {
            return Some(Due { client_id, will: session.take_will() });
        }
        entries.remove(&session);
        self.count_sessions(&entries);
        drop(entries);
        self.metrics.session_ended("expired");
        Some(Due { client_id, will: self.end_session(&session) })
    }

    /// Ends the session of the client that is away longest, where there are more than there may be.
    pub(super) fn make_room(&self) -> Option<Due> {
        let mut entries = self.clients.entries.lock();
        if entries.away.len() <= self.options.max_sessions {
            return None;
        }
        let (_, client_id) = entries.away.pop_first()?;
        let session = entries.by_id.get(&client_id)?.session.clone().filter(|session| session.gone_at().is_some())?;
        entries.remove(&session);
        self.count_sessions(&entries);
        drop(entries);
        self.metrics.session_ended("max_sessions");
        Some(Due { client_id, will: self.end_session(&session) })
    }
}

impl Place<'_> {
    /// The connection is over. The `will` is one that is to wait, at most until the session ends.
    ///
    /// Gives what is due at once: wills of sessions that end by this.
    pub(super) fn leave(mut self, will: Option<DelayedWill>) -> Vec<Due> {
        self.part(will)
    }

    fn part(&mut self, will: Option<DelayedWill>) -> Vec<Due> {
        if std::mem::replace(&mut self.left, true) {
            return Vec::new();
        }
        let mut due = Vec::new();
        let mut entries = self.router.clients.entries.lock();
        if let Some(entry) = entries.by_id.get_mut(&self.session.client_id)
            && entry.is_occupied_by(self.connection)
        {
            entry.occupant = None;
        }
        // Where the wait for this end was given up, the session is served by another connection.
        let detached = self.session.detach(self.connection, will);
        if detached && self.session.expiry() > 0 {
            entries.gone(&self.session);
            self.router.count_sessions(&entries);
            drop(entries);
            due.extend(std::iter::from_fn(|| self.router.make_room()));
            self.router.clients.due_changed.notify_one();
        } else if detached {
            entries.remove(&self.session);
            self.router.count_sessions(&entries);
            drop(entries);
            let will = self.router.end_session(&self.session);
            due.push(Due { client_id: self.session.client_id.clone(), will });
        }
        self.ended.cancel();
        due
    }

    /// Adds or replaces a subscription ([MQTT-3.8.4-3]). `None` where the client has as many as it may, else whether
    /// it had this one.
    pub(super) fn subscribe(&self, filter: &ByteString, to: Subscribed) -> Option<bool> {
        let known = self.session.subscribe(filter, to, self.router.options.max_subscriptions)?;
        self.router.file(&self.session, filter, to);
        Some(known)
    }

    /// Ends a subscription; says whether there was one.
    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        let known = self.session.unsubscribe(filter);
        if known {
            self.router.unfile(&self.session, filter);
        }
        known
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.part(None);
    }
}
