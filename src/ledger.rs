//! The ledger: what became of everything since the state folder was begun, over restarts and crashes. Pure.
//!
//! Two balances, true at any moment:
//!
//! - received = translated + dropped{reason} + quarantined{reason} + interrupted + in progress
//! - produced + reopened = delivered + shed{reason} + quarantined{reason} + lost + unrecorded + waiting
//!
//! The first counts publishes, the second the hub messages made of them. *In progress* and *waiting* are what is left.
//!
//! # What a crash makes uncertain
//!
//! The books are written every so often, not with every message. The spool numbers its messages for ever and knows
//! after a crash which of them wait, so the second balance loses nothing; but the books may not know what became of
//! some of them, and that is counted:
//!
//! - **unrecorded**: settled between the last entry and the crash. The hub acknowledged them, or they were given up;
//!   which of the two the crash has hidden.
//! - **reopened**: counted as settled, but the crash undid it before the disk had it. They wait again, and the hub gets
//!   them a second time with the same `$.mid`.
//! - **interrupted**: publishes that were received and not yet settled, also at an end that was no crash. They were never acknowledged; their clients
//!   send them again.
//! - **uncounted**: hub messages made between the last entry and the crash. They are in the second balance; their
//!   publishes are missing in the first.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::message::Timestamp;

/// Numbers by reason.
pub type ByReason = BTreeMap<String, u64>;

/// The books, as they are written to disk and shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Books {
    /// When they were begun.
    pub since: String,
    /// When this was written.
    pub written: String,
    /// False once the program has ended as it should.
    pub running: bool,
    /// How often it has not.
    pub crashes: u64,
    /// What came from the plant.
    pub publishes: Publishes,
    /// What was made of it.
    pub messages: Messages,
    /// Each spool by its identifier.
    pub spools: BTreeMap<String, Position>,
}

/// What became of publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Publishes {
    /// Taken from clients, and retried from the quarantine.
    pub received: u64,
    /// Made into at least one hub message.
    pub translated: u64,
    /// Made into none on purpose.
    pub dropped: ByReason,
    /// Put into the quarantine.
    pub quarantined: ByReason,
    /// Not settled when the program ended.
    pub interrupted: u64,
    /// Hub messages whose publishes a crash kept from being counted here.
    pub uncounted: u64,
}

/// What became of hub messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Messages {
    /// Stored.
    pub produced: u64,
    /// Settled, and waiting again after a crash.
    pub reopened: u64,
    /// Acknowledged by the hub.
    pub delivered: u64,
    /// Given up.
    pub shed: ByReason,
    /// Put into the quarantine.
    pub quarantined: ByReason,
    /// Destroyed on disk.
    pub lost: u64,
    /// Settled in the moments before a crash.
    pub unrecorded: u64,
    /// Waiting in windows: translated, and produced when the window closes. In neither balance.
    pub held: u64,
}

/// How far a spool has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The last number given to a message.
    pub last: u64,
    /// How many wait.
    pub waiting: u64,
}

/// What this process has counted so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Publishes.
    pub publishes: Publishes,
    /// Messages given up for reasons the spool does not know.
    pub shed: ByReason,
    /// Messages put into the quarantine.
    pub quarantined: ByReason,
    /// What waits in windows.
    pub held: u64,
    /// Each spool by its identifier.
    pub spools: BTreeMap<String, Account>,
}

/// The account of a spool since it was opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Account {
    /// The last number given to a message.
    pub last: u64,
    /// Messages taken.
    pub appended: u64,
    /// Messages settled, for whatever reason but the next two.
    pub settled: u64,
    /// Messages given up because it was full.
    pub shed: u64,
    /// Messages given up because they were too old.
    pub expired: u64,
    /// Messages found destroyed.
    pub lost: u64,
    /// Messages that wait.
    pub waiting: u64,
}

impl Publishes {
    /// What is received and not settled yet.
    pub fn in_progress(&self) -> u64 {
        let settled = self.translated + sum(&self.dropped) + sum(&self.quarantined) + self.interrupted;
        self.received.saturating_sub(settled)
    }
}

impl Messages {
    /// What is left.
    pub fn waiting(&self) -> u64 {
        let settled = self.delivered + sum(&self.shed) + sum(&self.quarantined) + self.lost + self.unrecorded;
        (self.produced + self.reopened).saturating_sub(settled)
    }
}

/// The total over all reasons.
pub fn sum(by_reason: &ByReason) -> u64 {
    by_reason.values().sum()
}

fn add(to: &mut ByReason, more: &ByReason) {
    for (reason, count) in more.iter().filter(|(_, count)| **count > 0) {
        *to.entry(reason.clone()).or_default() += count;
    }
}

impl Books {
    /// Opens the books of a start: what was written last, and what the spools were found to hold.
    pub fn open(written: Option<Self>, found: &BTreeMap<String, Position>, now: Timestamp) -> Self {
        let mut books = written.unwrap_or_else(|| Self { since: now.to_string(), ..Self::default() });
        if books.running {
            books.crashes += 1;
        }
        books.publishes.interrupted += books.publishes.in_progress();
        let known = std::mem::take(&mut books.spools);
        let messages = &mut books.messages;
        for (id, at) in found {
            let Some(before) = known.get(id) else {
                messages.produced += at.waiting;
                continue;
            };
            let made = at.last.saturating_sub(before.last);
            // What had a number and was not on disk yet is gone, and was never acknowledged.
            let unmade = before.last.saturating_sub(at.last);
            messages.produced = (messages.produced + made).saturating_sub(unmade);
            books.publishes.uncounted += made;
            let expected = (before.waiting + made).saturating_sub(unmade);
            messages.unrecorded += expected.saturating_sub(at.waiting);
            messages.reopened += at.waiting.saturating_sub(expected);
        }
        let gone = known.iter().filter(|(id, _)| !found.contains_key(*id));
        messages.lost += gone.map(|(_, before)| before.waiting).sum::<u64>();
        books.spools = found.clone();
        books.running = true;
        books.written = now.to_string();
        books
    }

    /// The books of this moment: these, opened at the start, and what was counted since.
    #[must_use]
    pub fn with(&self, counts: &Counts, now: Timestamp) -> Self {
        let mut books = self.clone();
        books.written = now.to_string();
        let publishes = &mut books.publishes;
        publishes.translated += counts.publishes.translated;
        add(&mut publishes.dropped, &counts.publishes.dropped);
        add(&mut publishes.quarantined, &counts.publishes.quarantined);
        // The counters are read one after the other: a publish may be settled in one and not yet received in another.
        let settled = counts.publishes.translated + sum(&counts.publishes.dropped) + sum(&counts.publishes.quarantined);
        publishes.received += counts.publishes.received.max(settled);
        let messages = &mut books.messages;
        messages.held = counts.held;
        let mut settled = 0;
        for (id, account) in &counts.spools {
            messages.produced += account.appended;
            messages.lost += account.lost;
            let given_up = [("spool_full", account.shed), ("too_old", account.expired)];
            add(&mut messages.shed, &given_up.map(|(reason, count)| (reason.to_owned(), count)).into());
            settled += account.settled;
            books.spools.insert(id.clone(), Position { last: account.last, waiting: account.waiting });
        }
        add(&mut messages.shed, &counts.shed);
        add(&mut messages.quarantined, &counts.quarantined);
        messages.delivered += settled.saturating_sub(sum(&counts.shed) + sum(&counts.quarantined));
        books
    }

    /// What happened between `before` and these, in one line.
    pub fn day(&self, before: &Self) -> String {
        let (p, q) = (&self.publishes, &before.publishes);
        let (m, n) = (&self.messages, &before.messages);
        let since = |now: u64, then: u64| now.saturating_sub(then);
        let mut line = format!(
            "received {} = translated {} + dropped {} + quarantined {} + interrupted {}; ",
            since(p.received, q.received),
            since(p.translated, q.translated),
            since(sum(&p.dropped), sum(&q.dropped)),
            since(sum(&p.quarantined), sum(&q.quarantined)),
            since(p.interrupted, q.interrupted),
        );
        let _ = write!(
            line,
            "waiting before {} + produced {} + reopened {} = delivered {} + shed {} + quarantined {} + lost {} + \
             unrecorded {} + waiting {}",
            n.waiting(),
            since(m.produced, n.produced),
            since(m.reopened, n.reopened),
            since(m.delivered, n.delivered),
            since(sum(&m.shed), sum(&n.shed)),
            since(sum(&m.quarantined), sum(&n.quarantined)),
            since(m.lost, n.lost),
            since(m.unrecorded, n.unrecorded),
            m.waiting(),
        );
        line
    }

    /// The books with what is left of each balance, for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        for (part, name, left) in [
            ("publishes", "in_progress", self.publishes.in_progress()),
            ("messages", "waiting", self.messages.waiting()),
        ] {
            if let Some(part) = value.get_mut(part).and_then(serde_json::Value::as_object_mut) {
                part.insert(name.to_owned(), left.into());
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(last: u64, waiting: u64) -> BTreeMap<String, Position> {
        [("s".to_owned(), Position { last, waiting })].into()
    }

    fn counts(account: Account) -> Counts {
        Counts { spools: [("s".to_owned(), account)].into(), ..Counts::default() }
    }

    #[test]
    fn what_a_start_finds() {
        // What was written: last number, waiting, running; what is found: last number, waiting.
        for (name, before, found, expect) in [
            ("a clean restart", (100, 10, false), (100, 10), (0, 0, 0)),
            ("a crash at rest", (100, 10, true), (100, 10), (0, 0, 0)),
            ("made and waiting", (100, 10, true), (130, 40), (0, 0, 30)),
            ("made and delivered", (100, 10, true), (130, 5), (35, 0, 30)),
            ("the cursor was not on disk", (100, 10, true), (100, 16), (0, 6, 0)),
            ("numbers that never came to disk", (100, 10, true), (97, 7), (0, 0, 0)),
        ] {
            let (last, waiting, running) = before;
            let messages = Messages { produced: last, delivered: last - waiting, ..Messages::default() };
            let spools = at(last, waiting);
            let written = Books { messages, spools, running, ..Books::default() };
            let books = Books::open(Some(written), &at(found.0, found.1), Timestamp(0));
            let m = &books.messages;
            assert_eq!((m.unrecorded, m.reopened, books.publishes.uncounted), expect, "{name}");
            assert_eq!((m.waiting(), m.produced), (found.1, found.0), "{name}");
            assert_eq!(books.crashes, u64::from(running), "{name}");
        }
    }

    #[test]
    fn a_spool_that_is_gone_is_lost_and_a_new_one_is_begun() {
        let messages = Messages { produced: 10, delivered: 7, ..Messages::default() };
        let written = Books { messages, spools: at(10, 3), ..Books::default() };
        let found = [("other".to_owned(), Position { last: 5, waiting: 2 })].into();
        let books = Books::open(Some(written), &found, Timestamp(0));
        assert_eq!((books.messages.lost, books.messages.produced, books.messages.waiting()), (3, 12, 2));
        let books = Books::open(None, &found, Timestamp(0));
        assert_eq!((books.messages.produced, books.messages.waiting()), (2, 2));
    }

    #[test]
    fn a_day_in_one_line() {
        let before = Books::open(None, &at(5, 1), Timestamp(0));
        let publishes =
            Publishes { received: 4, translated: 2, dropped: [("rule".to_owned(), 2)].into(), ..Publishes::default() };
        let spools = counts(Account { last: 8, appended: 3, settled: 3, waiting: 1, ..Account::default() }).spools;
        let counted = Counts { publishes, spools, quarantined: [("poison".to_owned(), 1)].into(), ..Counts::default() };
        let after = before.with(&counted, Timestamp(0));
        assert_eq!(
            after.day(&before),
            "received 4 = translated 2 + dropped 2 + quarantined 0 + interrupted 0; waiting before 1 + produced 3 + \
             reopened 0 = delivered 2 + shed 0 + quarantined 1 + lost 0 + unrecorded 0 + waiting 1"
        );
    }

    proptest! {
        /// A spool that appends, settles, sheds, loses and crashes; the books are written now and then. Their waiting
        /// is the spool's at every moment.
        #[test]
        fn the_books_balance_over_crashes(steps in proptest::collection::vec((0..7u8, 0..20u64), 0..60)) {
            let mut disk = (0_u64, 0_u64); // last number, waiting
            let mut written = None;
            let mut open = Books::open(None, &at(0, 0), Timestamp(0));
            let mut account = Account::default();
            for (step, n) in steps {
                // Only what is on disk is ever settled; that it was settled may come to disk later.
                if matches!(step, 2 | 3) && disk.0 < account.last {
                    disk = (account.last, account.waiting);
                }
                match step {
                    0 | 1 => { account.appended += n; account.last += n; account.waiting += n; }
                    2 => { let n = n.min(account.waiting); account.settled += n; account.waiting -= n; }
                    3 => { let n = n.min(account.waiting); account.shed += n; account.waiting -= n; }
                    4 => disk = (account.last, account.waiting),
                    5 => written = Some(open.with(&counts(account), Timestamp(0))),
                    _ => {
                        open = Books::open(written.clone(), &at(disk.0, disk.1), Timestamp(0));
                        account = Account { last: disk.0, waiting: disk.1, ..Account::default() };
                        written = Some(open.clone());
                    }
                }
                let books = open.with(&counts(account), Timestamp(0));
                prop_assert_eq!(books.messages.waiting(), account.waiting);
            }
        }
    }
}
