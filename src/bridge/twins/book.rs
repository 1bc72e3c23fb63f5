//! Every twin's state. Locked for a look or a change, never while something is waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::change::Change;
use crate::hub::exchange::{Desired, Exchange};
use crate::hub::twin::{self, PROPERTIES_MAX_BYTES, Properties};
use crate::uplink::TwinLine;

use super::desired::{Published, ToDo};

/// Twins at most.
const MOST: usize = 20_000;
/// Bytes of all that waits.
const MOST_BYTES: usize = 64 << 20;
/// Bytes of what waits for one twin. More than a twin holds, for what goes away has a name, too.
const MOST_BYTES_OF_ONE: usize = 4 * PROPERTIES_MAX_BYTES;

/// All twins, by the hub's device.
#[derive(Default)]
pub(super) struct Book {
    twins: HashMap<Arc<str>, Twin>,
    /// Twins to look after.
    touched: Vec<Arc<str>>,
    bytes: usize,
    /// Changes that wait, of all twins.
    waiting: u64,
}

/// One twin.
pub(super) struct Twin {
    pub(super) exchange: Exchange,
    pub(super) line: Option<TwinLine>,
    /// What of the desired properties is with the plant.
    pub(super) published: Published,
    /// What of them is not, and when it is tried again.
    pub(super) todo: ToDo,
    pub(super) plant_at: Option<Instant>,
    /// The version of what is reported, as the hub said after a change.
    pub(super) reported_version: Option<u64>,
    /// Its line was asked to stay open.
    pub(super) errand: bool,
    /// When it is looked after by itself.
    pub(super) at: Option<Instant>,
    touched: bool,
    bytes: usize,
    waits: u64,
}

impl Twin {
    fn new() -> Self {
        Self {
            exchange: Exchange::new(u64::from(rand::random::<u32>())),
            line: None,
            published: Published::default(),
            todo: ToDo::default(),
            plant_at: None,
            reported_version: None,
            errand: false,
            at: None,
            touched: false,
            bytes: 0,
            waits: 0,
        }
    }

    /// What is kept of it on disk.
    pub(super) fn kept(&self) -> (Change, &Desired, &Published) {
        (self.exchange.unconfirmed(), self.exchange.desired(), &self.published)
    }
}

impl Book {
    /// Does something with a twin, which is made where there is none.
    pub(super) fn with<T>(&mut self, device: &str, act: impl FnOnce(&mut Twin) -> T) -> T {
        let twin = match self.twins.get_mut(device) {
            Some(twin) => twin,
            None => self.twins.entry(device.into()).or_insert_with(Twin::new),
        };
        let done = act(twin);
        let (bytes, waits) = (twin.exchange.waiting_bytes(), twin.exchange.waits());
        self.bytes = self.bytes + bytes - twin.bytes;
        self.waiting = self.waiting + waits - twin.waits;
        (twin.bytes, twin.waits) = (bytes, waits);
        done
    }

    /// The same with one that is known.
    pub(super) fn with_known<T>(&mut self, device: &str, act: impl FnOnce(&mut Twin) -> T) -> Option<T> {
        self.twins.contains_key(device).then(|| self.with(device, act))
    }

    /// To be reported; the twin is to be looked after.
    pub(super) fn report(&mut self, device: &str, (change, every): (&Properties, Duration), now: Instant) {
        self.with(device, |twin| twin.exchange.report(change, every, now));
        self.touch(device);
    }

    /// The twin is to be looked after.
    pub(super) fn touch(&mut self, device: &str) {
        if let Some((name, _)) = self.twins.get_key_value(device) {
            let name = Arc::clone(name);
            if let Some(twin) = self.twins.get_mut(device)
                && !std::mem::replace(&mut twin.touched, true)
            {
                self.touched.push(name);
            }
        }
    }

    /// All are to be looked after.
    pub(super) fn touch_all(&mut self) {
        self.names().iter().for_each(|name| self.touch(name));
    }

    /// One that is to be looked after.
    pub(super) fn next_touched(&mut self) -> Option<Arc<str>> {
        let name = self.touched.pop()?;
        if let Some(twin) = self.twins.get_mut(&name) {
            twin.touched = false;
        }
        Some(name)
    }

    /// Why a twin cannot take a change, in words.
    pub(super) fn full(&self, device: &str, change: &Properties) -> Option<String> {
        let known = self.twins.get(device);
        let waits = known.map_or(0, |twin| twin.bytes) + twin::size(change);
        if self.bytes >= MOST_BYTES || known.is_none() && self.twins.len() >= MOST || waits > MOST_BYTES_OF_ONE {
            return Some("more waits to be reported than there is room for".to_owned());
        }
        let size = self.size_with(device, change);
        (size > PROPERTIES_MAX_BYTES)
            .then(|| format!("the twin of {device} would have {size} bytes reported; it holds {PROPERTIES_MAX_BYTES}"))
    }

    /// What would be reported in a twin, in bytes.
    pub(super) fn size_with(&self, device: &str, change: &Properties) -> usize {
        match self.twins.get(device) {
            Some(twin) => twin.exchange.size_with(change),
            None => twin::size(change),
        }
    }

    /// Changes that wait.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// What is desired, as far as it is known.
    pub(super) fn desired(&self, device: &str) -> Option<&Desired> {
        self.twins.get(device).map(|twin| twin.exchange.desired())
    }

    /// All twins.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Arc<str>, &Twin)> {
        self.twins.iter()
    }

    /// The names of all twins.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.twins.keys().cloned().collect()
    }
}
