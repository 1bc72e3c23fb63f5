//! What the simulation is held against: what was promised to publishers, and what a hub may see.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::uplink::sim::Arrival;

/// A message as the test knows it: its device and the number in its body.
pub(super) type Key = (String, u64);

/// One arrival, read.
struct Seen {
    mid: String,
    /// Its spool and the sequence there; a message of a window is called by what it was made of.
    place: Option<(u64, u64)>,
    device: String,
    body: Body,
    late: bool,
}

/// What an arrival is made of.
#[derive(Debug, Clone, PartialEq)]
enum Body {
    /// A publish by itself.
    One(u64),
    /// The numbers of all that were in a window.
    Window(Vec<u64>),
    /// What an aggregate tells of them.
    Fold { count: u64, min: u64, max: u64, sum: u64 },
}

/// The last time a message arrived.
struct Last {
    life: u32,
    at: usize,
    /// One of the arrivals before it, in the same life, was acknowledged.
    told: bool,
}

/// Counts of what happened, so that a run that tests nothing is noticed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) promised: u64,
    pub(super) arrived: u64,
    pub(super) again: u64,
    pub(super) late: u64,
    pub(super) urgent: u64,
    pub(super) controls: u64,
    pub(super) isolated: u64,
    pub(super) innocent: u64,
    pub(super) refused: u64,
    pub(super) crashes: u64,
    pub(super) stops: u64,
    pub(super) renewed: u64,
    pub(super) connections: u64,
    pub(super) combined: u64,
    pub(super) combined_again: u64,
    pub(super) marked: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.promised += other.promised;
        self.arrived += other.arrived;
        self.again += other.again;
        self.late += other.late;
        self.urgent += other.urgent;
        self.controls += other.controls;
        self.isolated += other.isolated;
        self.innocent += other.innocent;
        self.refused += other.refused;
        self.crashes += other.crashes;
        self.stops += other.stops;
        self.renewed += other.renewed;
        self.connections += other.connections;
        self.combined += other.combined;
        self.combined_again += other.combined_again;
        self.marked += other.marked;
    }
}

/// The judge of one seed.
#[derive(Default)]
pub(super) struct Oracle {
    /// Everything that was offered: true where the hub must never see it.
    offered: BTreeMap<Key, bool>,
    promised: BTreeSet<Key>,
    isolated: BTreeSet<Key>,
    /// By `$.mid`.
    arrived: HashMap<String, (Body, Last)>,
    mids: HashMap<Key, String>,
    /// What was in a window that arrived, the message it was in, and its `$.mid`.
    combined: HashMap<Key, (Body, String)>,
    /// The holding spool had no room to write down what became of a window.
    pub(super) unmarked: bool,
    /// Acknowledged by the hub before an orderly end: never to be sent again.
    settled: BTreeSet<String>,
    /// The last sequence that arrived first in this life, by spool and lane.
    order: HashMap<(u64, bool), u64>,
    /// Up to these sequences the order may have been broken to find poison.
    unordered: HashMap<u64, u64>,
    life: u32,
    /// Arrivals before this life.
    began: usize,
    /// Arrivals that were judged.
    judged: usize,
    /// The connection of the last one, and the message known to be good that began it.
    connection: u64,
    control: Option<(String, u32)>,
    pub(super) tally: Tally,
}

impl Oracle {
    pub(super) fn offered(&mut self, key: Key, never: bool) {
        self.offered.insert(key, never);
    }

    pub(super) fn promised(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.promised.extend(keys);
    }

    pub(super) fn isolated(&mut self, key: Key, poison: bool) {
        assert!(self.offered.contains_key(&key), "{key:?} was isolated and never offered");
        self.tally.innocent += u64::from(!poison);
        self.isolated.insert(key);
    }

    /// The program starts again. `orderly`: it had ended so, and everything it knew was on disk.
    pub(super) fn new_life(&mut self, orderly: bool, arrivals: &[Arrival]) {
        self.life += 1;
        self.order.clear();
        self.unordered.clear();
        self.control = None;
        let told = arrivals.iter().skip(self.began).filter(|arrival| orderly && arrival.told);
        self.settled.extend(told.map(|arrival| read(arrival).mid));
        self.began = arrivals.len();
    }

    /// With nothing known to be good, suspects take turns: what waits now may go in any order.
    pub(super) fn may_be_unordered(&mut self, spool: u64, durable: u64) {
        self.unordered.insert(spool, durable);
    }

    /// Judges what arrived. `durable` says how far a spool is; `None` where it is none of the running ones.
    pub(super) fn judge(&mut self, arrivals: &[Arrival], durable: impl Fn(u64) -> Option<u64>) {
        for (at, arrival) in arrivals.iter().enumerate().skip(self.judged) {
            let seen = read(arrival);
            if let Some((spool, sequence)) = seen.place {
                let known = durable(spool).expect("a spool of this life");
                assert!(sequence <= known, "{} was sent and only {known} are durable", seen.mid);
            }
            self.judge_content(&seen);
            if arrival.connection != self.connection {
                (self.connection, self.control) = (arrival.connection, Some((String::new(), 0)));
            }
            let told = self.judge_one(&seen, arrivals, at);
            self.tally.arrived += 1;
            self.arrived.insert(seen.mid, (seen.body, Last { life: self.life, at, told }));
        }
        self.judged = arrivals.len();
    }

    /// What arrived was offered, and each publish goes up under one name, unless it was in a window.
    fn judge_content(&mut self, seen: &Seen) {
        let offered = |number: u64| self.offered.get(&(seen.device.clone(), number)).copied();
        let numbers = match &seen.body {
            Body::One(number) => vec![*number],
            Body::Window(numbers) => numbers.clone(),
            Body::Fold { count, min, max, sum } => self.unfold(&seen.device, (*count, *sum), *min..=*max),
        };
        for number in &numbers {
            assert_eq!(offered(*number), Some(false), "{number} of {} was not made for the hub", seen.device);
        }
        if let Body::One(number) = seen.body {
            let mid = self.mids.entry((seen.device.clone(), number)).or_insert_with(|| seen.mid.clone());
            assert_eq!(*mid, seen.mid, "{number} of {} was sent under two names", seen.device);
            return;
        }
        self.tally.combined += numbers.len() as u64;
        for number in numbers {
            let first = || (seen.body.clone(), seen.mid.clone());
            let (body, mid) = self.combined.entry((seen.device.clone(), number)).or_insert_with(first);
            assert!(*body == seen.body || self.unmarked, "{number} is in {body:?} and in {:?}", seen.body);
            assert_eq!(*body == seen.body, *mid == seen.mid, "{number} of {body:?}: {mid} and {}", seen.mid);
        }
    }

    /// The publishes that an aggregate was surely made of. Of those that were offered shortly before a crash, and were
    /// not acknowledged, nobody knows.
    fn unfold(&self, device: &str, (count, sum): (u64, u64), numbers: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        let offered = numbers.filter(|number| self.offered.contains_key(&(device.to_owned(), *number)));
        let offered: Vec<u64> = offered.collect();
        let promised = |number: &&u64| self.promised.contains(&(device.to_owned(), **number));
        let promised: Vec<u64> = offered.iter().filter(promised).copied().collect();
        let bounds = promised.len() as u64..=offered.len() as u64;
        assert!(bounds.contains(&count), "{device}: {count} in an aggregate, of {promised:?} to {offered:?}");
        let all = offered.len() as u64 == count;
        assert!(!all || offered.iter().sum::<u64>() == sum, "{device}: {offered:?} do not sum up to {sum}");
        let promised_sum: u64 = promised.iter().sum();
        assert!(promised_sum <= sum, "{device}: {promised:?} are more than {sum}");
        promised
    }

    /// Says whether the uplink had heard of its acknowledgement before.
    fn judge_one(&mut self, seen: &Seen, arrivals: &[Arrival], at: usize) -> bool {
        let mid = &seen.mid;
        self.tally.urgent += u64::from(seen.device.starts_with("urgent"));
        self.tally.late += u64::from(seen.late);
        let before = self.arrived.get(mid);
        if let Some((body, _)) = before {
            assert_eq!(*body, seen.body, "{mid} is two messages");
            self.tally.again += 1;
        }
        let before = before.map(|(_, last)| last).filter(|last| last.life == self.life);
        let told = before.is_some_and(|last| last.told || arrivals[last.at].told);
        let Some((spool, sequence)) = seen.place else {
            // It may have been made, and stored, a second time.
            self.control.take_if(|_| !told);
            return told;
        };
        if told {
            let (good, count) = self.control.get_or_insert((String::from("-"), 9));
            let is_control = (good.is_empty() || good == mid) && *count < 3;
            assert!(is_control, "{mid} was acknowledged and sent again, arrival {at}");
            (*good, *count) = (mid.clone(), *count + 1);
            self.tally.controls += 1;
            return true;
        }
        self.control = None;
        assert!(!self.settled.contains(mid), "{mid} was acknowledged before an orderly end and sent again");
        match before {
            Some(last) => {
                let cut = arrivals[last.at].connection != arrivals[at].connection;
                assert!(cut, "{mid} was sent twice on one line");
            }
            None if self.unordered.get(&spool).is_some_and(|to| sequence <= *to) => {}
            None => {
                let last = self.order.entry((spool, seen.late)).or_default();
                assert!(*last < sequence, "{mid} after {last} in its lane, late: {}", seen.late);
                *last = sequence;
            }
        }
        false
    }

    /// At the end: everything that was promised is where it belongs. `given_up`: messages that left by the rules
    /// (room, age).
    pub(super) fn finish(&mut self, given_up: u64) {
        let arrived = |key: &Key| self.mids.contains_key(key) || self.combined.contains_key(key);
        let missing = self.promised.iter().filter(|key| !arrived(key) && !self.isolated.contains(*key));
        let (of_windows, missing): (Vec<&Key>, Vec<&Key>) = missing.partition(|(device, _)| is_of_window(device));
        assert!(missing.len() as u64 <= given_up, "{missing:?} were acknowledged and are lost; given up: {given_up}");
        // A message that is given up may be one of a window.
        let unexplained = of_windows.is_empty() || given_up > 0;
        assert!(unexplained, "{of_windows:?} were acknowledged and are in no message");
        self.tally.promised = self.promised.len() as u64;
        self.tally.isolated = self.isolated.len() as u64;
    }
}

fn read(arrival: &Arrival) -> Seen {
    let (_, bag) = arrival.topic.rsplit_once('/').expect("a topic with a bag");
    let property = |name: &str| bag.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let mid = property("%24.mid").or_else(|| property("$.mid")).expect("a message id").to_owned();
    let device = property("device").expect("a device").to_owned();
    let parts: Vec<&str> = mid.split('-').collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let spool = u64::from_str_radix(parts[0], 16).expect("hex");
    assert_eq!(parts.len(), if is_of_window(&device) { 3 } else { 2 }, "{mid} of {device}");
    Seen {
        place: (parts.len() == 2).then(|| (spool, number(parts[1]))),
        body: read_body(&device, std::str::from_utf8(&arrival.body).expect("a text")),
        device,
        late: property("replayed").is_some(),
        mid,
    }
}

fn is_of_window(device: &str) -> bool {
    ["list-", "fold-", "row-"].iter().any(|kind| device.starts_with(kind))
}

fn read_body(device: &str, text: &str) -> Body {
    let json = || serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    match device {
        list if list.starts_with("list-") => {
            Body::Window(json().as_array().expect("a list").iter().map(number).collect())
        }
        row if row.starts_with("row-") => {
            Body::Window(json().as_object().expect("an object").values().map(number).collect())
        }
        fold if fold.starts_with("fold-") => {
            let [count, min, max, sum] = ["n_count", "n_min", "n_max", "n_sum"].map(|name| number(&json()[name]));
            Body::Fold { count, min, max, sum }
        }
        _ => Body::One(text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")),
    }
}
