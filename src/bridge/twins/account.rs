//! How the twins are, for an operator.

use std::cmp::Reverse;
use std::sync::Arc;

use super::Twins;
use super::book::Twin;
use crate::message::{Timestamp, excerpt};

/// How all twins are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Twins that are known.
    pub twins: usize,
    /// Changes of reported properties that wait for the hub, of all of them.
    pub waiting: u64,
    /// The bridge's own twin, then those of which most waits; a few of them.
    pub listed: Vec<Listed>,
    /// What the hub refused last.
    pub refused: Option<Refusal>,
}

/// One twin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The hub's device.
    pub device: String,
    /// The version of its desired properties, where they are known.
    pub desired: Option<u64>,
    /// That of the reported ones, as the hub said after a change.
    pub reported: Option<u64>,
    /// Changes that wait.
    pub waiting: u64,
}

/// A twin operation that the hub refused and that is not repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// When.
    pub at: Timestamp,
    /// The hub's device.
    pub device: String,
    /// As in HTTP.
    pub status: u16,
    /// What the hub said; nothing of what it was told.
    pub detail: String,
}

impl Refusal {
    pub(super) fn now(device: &str, status: u16, said: &str) -> Self {
        Self { at: Timestamp::now(), device: device.to_owned(), status, detail: excerpt(said).to_owned() }
    }
}

impl Twins {
    /// How they are now; so many of them are listed.
    pub fn account(&self, most: usize) -> Account {
        let own = self.0.whose.own.as_str();
        // Who reports waits for the book: it is closed again before anything is put in order.
        let (mut all, waiting) = {
            let book = self.0.book.lock();
            let one = |(device, twin): (&Arc<str>, &Twin)| {
                let versions = (twin.exchange.desired().version, twin.reported_version);
                (twin.exchange.waits(), Arc::clone(device), versions)
            };
            (book.all().map(one).collect::<Vec<_>>(), book.waiting())
        };
        let twins = all.len();
        let order = |(waits, device, _): &(u64, Arc<str>, _), (other_waits, other, _): &(u64, Arc<str>, _)| {
            (**device != *own, Reverse(waits), device).cmp(&(**other != *own, Reverse(other_waits), other))
        };
        if most < all.len() {
            all.select_nth_unstable_by(most, order);
            all.truncate(most);
        }
        all.sort_unstable_by(order);
        let listed = all.into_iter().map(|(waiting, device, (desired, reported))| Listed {
            device: device.to_string(),
            desired,
            reported,
            waiting,
        });
        Account { twins, waiting, listed: listed.collect(), refused: self.0.refused.lock().clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::hub::twin::Properties;
    use crate::journal::Journal;

    #[test]
    fn the_own_twin_comes_first_and_then_where_most_waits() {
        let twins = Twins::kept_in(Journal::stuck());
        let change = Properties::from_iter([("x".to_owned(), 1.into())]);
        for device in ["b", "a", "c", "c", "own"] {
            twins.0.book.lock().report(device, (&change, Duration::ZERO), Instant::now());
        }
        let listed = |most| {
            let all = twins.account(most).listed;
            all.into_iter().map(|one| (one.device, one.waiting)).collect::<Vec<_>>()
        };
        let expect = [("own", 1), ("c", 2), ("a", 1), ("b", 1)].map(|(device, waits)| (device.to_owned(), waits));
        for most in 0..6 {
            assert_eq!(listed(most), expect[..most.min(4)], "{most}");
        }
        assert_eq!((twins.account(1).twins, twins.account(1).waiting), (4, 5));
    }
}
