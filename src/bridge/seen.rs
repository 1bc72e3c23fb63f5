//! Which devices the plant was heard of, and when, to ten seconds. In memory; who wants it kept writes it down.
//!
//! A publish that makes something for a device costs a look at one number, as long as the device was heard of in the same
//! ten seconds; else a place in a table, under a lock. What is known is bounded: an eighth of the devices, those that were
//! not heard of for longest, are forgotten when there are too many.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Bridge;
use crate::message::{HubMessage, Timestamp};
use crate::rules::{self, Output};

/// Devices at most.
const MOST: usize = 20_000;
/// A longer id is none that a hub has.
const LONGEST: usize = 512;
/// Milliseconds to which it is known.
const STEP: i64 = 10_000;
/// Marks of who was heard of lately.
const MARKS: usize = 4096;

/// The devices and when they were heard of.
#[derive(Debug)]
pub struct Seen {
    devices: Mutex<HashMap<Box<str>, i64>>,
    marks: Box<[AtomicU64]>,
    hash: RandomState,
}

impl Seen {
    /// With what is known of earlier.
    pub fn new(known: impl IntoIterator<Item = (String, Timestamp)>) -> Self {
        let known = known.into_iter().filter(|(device, _)| is_noted(device)).take(MOST);
        let devices = known.map(|(device, at)| (device.into(), at.0.div_euclid(STEP))).collect();
        let marks = (0..MARKS).map(|_| AtomicU64::new(0)).collect();
        Self { devices: Mutex::new(devices), marks, hash: RandomState::new() }
    }

    /// A device was heard of.
    pub fn note(&self, device: &str, now: Timestamp) {
        if !is_noted(device) {
            return;
        }
        let step = now.0.div_euclid(STEP);
        let hash = self.hash.hash_one(device);
        // Two that share a place only displace each other's mark.
        let Some(mark) = usize::try_from(hash % MARKS as u64).ok().and_then(|place| self.marks.get(place)) else {
            return;
        };
        let wanted = hash.rotate_left(32) ^ step.cast_unsigned();
        if mark.load(Ordering::Relaxed) == wanted {
            return;
        }
        let mut devices = self.devices.lock();
        match devices.get_mut(device) {
            Some(last) => *last = step.max(*last),
            None => {
                forget(&mut devices);
                devices.insert(device.into(), step);
            }
        }
        mark.store(wanted, Ordering::Relaxed);
    }

    /// All that are known.
    pub fn all(&self) -> Vec<(String, Timestamp)> {
        let devices = self.devices.lock();
        devices.iter().map(|(device, step)| (device.to_string(), Timestamp(step * STEP))).collect()
    }
}

fn is_noted(device: &str) -> bool {
    !device.is_empty() && device.len() <= LONGEST
}

/// Makes room for one more.
fn forget(devices: &mut HashMap<Box<str>, i64>) {
    if devices.len() < MOST {
        return;
    }
    let mut steps: Vec<i64> = devices.values().copied().collect();
    let (_, oldest, _) = steps.select_nth_unstable(MOST / 8);
    // Where many were heard of in that same step, any of them will do.
    let (oldest, mut left) = (*oldest, MOST / 8);
    left -= steps.iter().filter(|step| **step < oldest).count().min(left);
    devices.retain(|_, step| {
        if *step != oldest {
            return *step > oldest;
        }
        let stays = left == 0;
        left = left.saturating_sub(1);
        stays
    });
}

impl Bridge {
    /// Notes the devices for which something was made.
    pub(super) fn heard_of(&self, out: &Output, now: Timestamp) {
        let Some(seen) = &self.seen else { return };
        let held = out.held().map(|(_, held)| rules::held_record(held));
        for record in out.records().map(|(_, record)| record).chain(held) {
            if let Ok(message) = HubMessage::parse(record) {
                seen.note(message.device, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_heard_of_and_when() {
        let long = "x".repeat(LONGEST + 1);
        let seen = Seen::new([("old".to_owned(), Timestamp(12_345)), (String::new(), Timestamp(1))]);
        for (device, at) in [("a", 20_000), ("a", 29_999), ("b", 20_000), ("a", 30_000), ("a", 5), ("", 7), (&long, 7)]
        {
            seen.note(device, Timestamp(at));
        }
        let mut all = seen.all();
        all.sort();
        let expect = [("a", 30_000), ("b", 20_000), ("old", 10_000)];
        assert_eq!(all, expect.map(|(device, at)| (device.to_owned(), Timestamp(at))));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        for same in [false, true] {
            let seen = Seen::new(None);
            for n in 0..MOST as i64 {
                seen.note(&format!("first {n}"), Timestamp(if same { 7 } else { n * STEP }));
            }
            seen.note("new", Timestamp(if same { 7 } else { STEP * MOST as i64 }));
            let all = seen.all();
            assert_eq!(all.len(), MOST - MOST / 8 + 1, "{same}");
            assert!(all.iter().any(|(device, _)| device == "new"), "{same}");
            let oldest = all.into_iter().map(|(_, at)| at.0).min();
            assert_eq!(oldest, Some(if same { 0 } else { MOST as i64 / 8 * STEP }));
        }
    }
}
