//! What births declared, and how long that holds.
//!
//! | message | what it does |
//! |---|---|
//! | NBIRTH | begins a session of its edge node: what it declares holds, and no birth of a device of the session before |
//! | DBIRTH | what it declares holds for its device |
//! | DDEATH | ends the birth of its device |
//! | NDEATH | ends the births of the node and of all its devices; one whose `bdSeq` is not that of the NBIRTH is of an earlier session, came late, and says nothing |
//!
//! A birth that has ended is still remembered, until the next session of its node has passed without it: nodes that
//! come back mostly declare the same again, and then little is to be written down. It names no metric.
//!
//! An NBIRTH that says what the one before it said, with the same `bdSeq`, begins no session: a rebirth was asked for, and
//! the births of the devices follow.
//!
//! What an operator takes out of the quarantine again may be of an earlier session, see [`Births::retried`]: a birth or
//! death from before what was heard last of its node changes nothing, and a message that was
//! received while other births held than now gets no name by alias. One from before the first birth does: data comes
//! before the rebirth that it makes a node asked for.
//!
//! All births together hold so many bytes and so many nodes at most; beyond that the nodes go whose last birth was the
//! longest ago.
//!
//! Whoever sets a [`Keep`] is told each change as a record, in order, and can give them back to [`Births::restore`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Sender;
use super::declared::{Declared, InForce, Scope};
use super::records::{self, Change};
use super::wire::{Metric, Value};
use crate::message::Timestamp;

/// Bytes that all births together may hold.
pub(super) const MAX_BYTES: usize = 32 << 20;
/// Edge nodes at most.
pub(super) const MAX_NODES: usize = 10_000;
/// What a birth costs beside what it declares.
const PER_BIRTH: usize = 160;

/// What births declared, per edge node. A clone is another handle to the same births.
#[derive(Debug, Clone, Default)]
pub struct Births {
    known: Arc<Mutex<Known>>,
    /// What is heard through this handle was received some time ago.
    retried: bool,
}

/// Writes down what is told, and asks for what is missing. It does not wait.
pub trait Keep: fmt::Debug + Send + Sync {
    /// Takes a record and gives it a number, which is higher than those before.
    fn keep(&self, record: &[u8]) -> u64;

    /// The births of an edge node are not known and would be needed. Said for each message that needs them. True where
    /// it is asked now, or was a moment ago.
    fn ask_rebirth(&self, node: &str) -> bool;
}

/// How many births there are, and what became of those that there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Edge nodes that something is known of.
    pub nodes: usize,
    /// Births that hold, of nodes and of devices.
    pub births: usize,
    /// Bytes they take, with those that have ended and are remembered.
    pub bytes: usize,
    /// Births that declared something new.
    pub changed: u64,
    /// Births that declared what an ended one had declared.
    pub repeated: u64,
    /// Births that said what was known.
    pub unchanged: u64,
    /// Births ended by NDEATH or DDEATH.
    pub died: u64,
    /// Births ended by the NBIRTH of a new session.
    pub superseded: u64,
    /// Births of nodes for which there was no room.
    pub no_room: u64,
}

#[derive(Debug, Default)]
struct Known {
    nodes: HashMap<String, Node>,
    /// Births there were, which tells the nodes' age.
    order: u64,
    tally: Tally,
    keep: Option<Arc<dyn Keep>>,
}

#[derive(Debug, Default)]
struct Node {
    /// The number of the session, as the node gives it.
    bd_seq: Option<u64>,
    /// By device; that of the node itself by no name.
    births: HashMap<String, Birth>,
    /// Sessions there were.
    session: u64,
    /// Births that hold.
    alive: usize,
    bytes: usize,
    order: u64,
    /// The number of the last record about it.
    record: u64,
    /// When the message was received that changed it last, in milliseconds since 1970.
    heard: i64,
    /// An earlier process wrote down what is known, and may have missed what the node said last.
    restored: bool,
}

#[derive(Debug)]
struct Birth {
    declared: Arc<Declared>,
    alive: bool,
    session: u64,
    /// In milliseconds since 1970: until when another birth of this device held, when it was said last, and when it ended.
    since: i64,
    said: i64,
    ended: i64,
}

impl Birth {
    /// True where it held until now.
    fn end(&mut self, at: i64) -> bool {
        let held = std::mem::replace(&mut self.alive, false);
        if held {
            self.ended = at;
        }
        held
    }
}

impl Node {
    /// An NBIRTH; returns how many births it ended.
    fn begin_session(&mut self, bd_seq: Option<u64>, at: i64) -> usize {
        let ended = self.alive - usize::from(self.births.get("").is_some_and(|own| own.alive));
        let (session, mut freed) = (self.session, 0);
        self.births.retain(|device, birth| {
            let stays = device.is_empty() || birth.session == session;
            freed += if stays { 0 } else { size(device, &birth.declared) };
            stays
        });
        self.bytes -= freed;
        self.births.values_mut().for_each(|birth| _ = birth.end(at));
        self.alive = 0;
        self.session += 1;
        self.bd_seq = bd_seq;
        ended
    }

    /// A birth that declares something else than the one before it.
    fn bear(&mut self, device: &str, declared: Arc<Declared>, at: i64) {
        let before = self.births.get(device);
        let since = before.map_or(0, |before| if before.alive { at } else { before.ended });
        self.put(device, Birth { declared, alive: true, session: self.session, since, said: at, ended: 0 });
    }

    fn put(&mut self, device: &str, birth: Birth) {
        self.remove(device);
        self.bytes += size(device, &birth.declared);
        self.alive += usize::from(birth.alive);
        self.births.insert(device.to_owned(), birth);
    }

    fn remove(&mut self, device: &str) {
        if let Some(gone) = self.births.remove(device) {
            self.bytes -= size(device, &gone.declared);
            self.alive -= usize::from(gone.alive);
        }
    }

    fn revive(&mut self, device: &str, at: i64) {
        if let Some(birth) = self.births.get_mut(device) {
            self.alive += usize::from(!birth.alive);
            (birth.alive, birth.session, birth.said) = (true, self.session, at);
        }
    }

    /// Ends the birth of a device, or all; returns how many.
    fn end(&mut self, device: &str, at: i64) -> usize {
        let mut ended = 0;
        for (name, birth) in &mut self.births {
            if (device.is_empty() || name == device) && birth.end(at) {
                ended += 1;
            }
        }
        self.alive -= ended;
        ended
    }

    /// Something was heard of it that was received after that.
    fn was_heard_after(&self, at: i64) -> bool {
        self.heard > at || self.births.values().any(|birth| birth.said > at)
    }

    /// What a message with these metrics, received then, changes.
    fn change(&self, sender: &Sender<'_>, metrics: &[Metric<'_>], at: i64) -> Option<Change> {
        let device = sender.device;
        let known = self.births.get(device);
        match sender.kind {
            "NBIRTH" | "DBIRTH" => {
                let bd_seq = device.is_empty().then(|| bd_seq(metrics)).flatten();
                let declared = Declared::of(metrics);
                match known.filter(|known| *known.declared == declared) {
                    None => Some(Change::Born { bd_seq, declared: Arc::new(declared), at }),
                    Some(same) if same.alive && (!device.is_empty() || self.bd_seq == bd_seq) => None,
                    Some(_) => Some(Change::Again { bd_seq, at }),
                }
            }
            "NDEATH" => {
                let late = bd_seq(metrics).is_some_and(|of| self.bd_seq.is_some_and(|now| of != now));
                (self.alive > 0 && !late).then_some(Change::Dead { at })
            }
            "DDEATH" => known.is_some_and(|birth| birth.alive).then_some(Change::Dead { at }),
            _ => None,
        }
    }

    /// What names the metrics of a message now, or of one that was received then.
    fn scope(&self, device: &str, received: Option<i64>) -> Scope {
        let in_force = |device: &str| {
            let birth = self.births.get(device).filter(|birth| birth.alive)?;
            let is_later = received.is_some_and(|received| birth.since > received);
            Some(InForce { declared: Arc::clone(&birth.declared), is_later })
        };
        let node = if device.is_empty() { None } else { in_force("") };
        Scope { own: in_force(device), node, restored: self.restored && received.is_none() }
    }
}

impl Known {
    /// Takes up a change; returns how many births of others it ended.
    fn apply(&mut self, (name, device): (&str, &str), change: &Change) -> usize {
        if matches!(change, Change::Forgotten) {
            return self.forget(name);
        }
        let node = match self.nodes.get_mut(name) {
            Some(node) => node,
            None if matches!(change, Change::Born { .. } | Change::Stands { .. }) => {
                self.tally.bytes += name.len() + PER_BIRTH;
                self.nodes.entry(name.to_owned()).or_default()
            }
            None => return 0,
        };
        if matches!(change, Change::Again { .. }) && !device.is_empty() && !node.births.contains_key(device) {
            return 0;
        }
        let (bytes, alive) = (node.bytes, node.alive);
        node.heard = change.heard();
        if !matches!(change, Change::Dead { .. }) {
            self.order += 1;
            node.order = self.order;
        }
        let mut ended = 0;
        if device.is_empty() {
            match change {
                Change::Born { bd_seq, at, .. } | Change::Again { bd_seq, at } => {
                    ended = node.begin_session(*bd_seq, *at)
                }
                Change::Stands { bd_seq, .. } => node.bd_seq = *bd_seq,
                Change::Dead { .. } | Change::Forgotten => {}
            }
        }
        match change {
            Change::Born { declared, at, .. } => node.bear(device, Arc::clone(declared), *at),
            Change::Stands { alive, declared, since, ended, .. } => {
                let (declared, alive, session) = (Arc::clone(declared), *alive, node.session);
                node.put(device, Birth { declared, alive, session, since: *since, said: *since, ended: *ended });
            }
            Change::Again { at, .. } => node.revive(device, *at),
            Change::Dead { at } => ended = node.end(device, *at),
            Change::Forgotten => {}
        }
        self.tally.bytes = self.tally.bytes + node.bytes - bytes;
        self.tally.births = self.tally.births + node.alive - alive;
        ended
    }

    /// Takes up what a birth or death says, and writes it down.
    fn hear(&mut self, sender: &Sender<'_>, metrics: &[Metric<'_>], at: i64) {
        let nobody = Node::default();
        let node = self.nodes.get(&sender.node).unwrap_or(&nobody);
        let Some(change) = node.change(sender, metrics, at) else {
            return self.unchanged(sender, at);
        };
        let ended = self.apply((&sender.node, sender.device), &change) as u64;
        let tally = &mut self.tally;
        match change {
            Change::Born { .. } => (tally.changed, tally.superseded) = (tally.changed + 1, tally.superseded + ended),
            Change::Again { .. } => (tally.repeated, tally.superseded) = (tally.repeated + 1, tally.superseded + ended),
            _ => tally.died += ended,
        }
        if let Some(node) = self.nodes.get_mut(&sender.node) {
            node.restored &= sender.kind != "NBIRTH";
            if let Some(keep) = &self.keep {
                node.record = keep.keep(&records::record((&sender.node, sender.device), &change));
            }
        }
        self.make_room();
    }

    /// A birth that said what is known makes its node young; a death that ends nothing says nothing. A birth that several
    /// rules read, or that found no room at first, is heard more than once and counts once.
    fn unchanged(&mut self, sender: &Sender<'_>, at: i64) {
        if let Some(node) = self.nodes.get_mut(&sender.node)
            && matches!(sender.kind, "NBIRTH" | "DBIRTH")
        {
            self.order += 1;
            node.order = self.order;
            node.restored &= sender.kind != "NBIRTH";
            if let Some(birth) = node.births.get_mut(sender.device)
                && std::mem::replace(&mut birth.said, at) != at
            {
                self.tally.unchanged += 1;
            }
        }
    }

    fn make_room(&mut self) {
        while self.tally.bytes > MAX_BYTES || self.nodes.len() > MAX_NODES {
            let oldest = self.nodes.iter().min_by_key(|(_, node)| node.order).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            self.tally.no_room += self.forget(&oldest) as u64;
            if let Some(keep) = &self.keep {
                keep.keep(&records::record((&oldest, ""), &Change::Forgotten));
            }
        }
    }

    fn forget(&mut self, name: &str) -> usize {
        let Some(gone) = self.nodes.remove(name) else { return 0 };
        self.tally.bytes -= gone.bytes + name.len() + PER_BIRTH;
        self.tally.births -= gone.alive;
        gone.alive
    }
}

impl Births {
    /// A handle for what was in the quarantine: it may be older than what is known, and then changes nothing.
    #[must_use]
    pub fn retried(&self) -> Self {
        Self { known: Arc::clone(&self.known), retried: true }
    }

    /// Takes up what a message says about births, and returns what names its metrics.
    pub(super) fn scope(&self, sender: &Sender<'_>, metrics: &[Metric<'_>], received: Timestamp) -> Scope {
        let (mut known, at) = (self.known.lock(), received.0);
        let then = self.retried.then_some(at);
        let scope = |known: &Known| known.nodes.get(&sender.node).map(|node| node.scope(sender.device, then));
        let is_past = |node: &Node| self.retried && node.was_heard_after(at);
        match sender.kind {
            _ if known.nodes.get(&sender.node).is_some_and(is_past) => scope(&known),
            "NBIRTH" | "DBIRTH" => {
                known.hear(sender, metrics, at);
                scope(&known)
            }
            "NDEATH" | "DDEATH" => {
                // The last message of a session may still use its aliases.
                let before = scope(&known);
                known.hear(sender, metrics, at);
                before
            }
            _ => scope(&known),
        }
        .unwrap_or_default()
    }

    /// The births of this node would be needed, or those that an earlier process wrote down are to be heard again.
    pub(super) fn ask_rebirth(&self, node: &str) {
        let keep = self.known.lock().keep.clone();
        if keep.is_some_and(|keep| keep.ask_rebirth(node))
            && let Some(node) = self.known.lock().nodes.get_mut(node)
        {
            node.restored = false;
        }
    }

    /// How many there are, and what became of them.
    pub fn tally(&self) -> Tally {
        let known = self.known.lock();
        Tally { nodes: known.nodes.len(), ..known.tally }
    }

    /// Tells every change from now on.
    pub fn keep_with(&self, keep: Arc<dyn Keep>) {
        self.known.lock().keep = Some(keep);
    }

    /// The number of the last record about the edge node of this topic, where it is that of a birth or death. What such a
    /// message has changed is written down when that record is.
    pub fn record_of(&self, topic: &str) -> Option<u64> {
        topic.split('/').nth(2).filter(|kind| matches!(*kind, "NBIRTH" | "DBIRTH" | "NDEATH" | "DDEATH"))?;
        let sender = Sender::of(topic)?;
        Some(self.known.lock().nodes.get(&sender.node)?.record)
    }

    /// Takes up a record of an earlier process; false where it is none.
    pub fn restore(&self, record: &[u8]) -> bool {
        let Some((node, device, change)) = records::read(record) else { return false };
        let mut known = self.known.lock();
        known.apply((&node, &device), &change);
        if let Some(node) = known.nodes.get_mut(&node) {
            node.restored = true;
        }
        known.make_room();
        true
    }

    /// The names of all edge nodes, in the order in which they were born last.
    pub fn nodes(&self) -> Vec<String> {
        let known = self.known.lock();
        let mut nodes: Vec<_> = known.nodes.iter().map(|(name, node)| (node.order, name.clone())).collect();
        nodes.sort_unstable();
        nodes.into_iter().map(|(_, name)| name).collect()
    }

    /// Gives what is known of an edge node to `write`, as records. Nothing changes meanwhile.
    pub fn write(&self, node: &str, mut write: impl FnMut(&[u8])) {
        let known = self.known.lock();
        let Some(known) = known.nodes.get(node) else { return };
        for (device, birth) in &known.births {
            let (bd_seq, alive) = (known.bd_seq.filter(|_| device.is_empty()), birth.alive);
            let (since, ended, heard) = (birth.since, birth.ended, known.heard);
            let stands = Change::Stands { bd_seq, alive, declared: Arc::clone(&birth.declared), since, heard, ended };
            write(&records::record((node, device), &stands));
        }
    }
}

fn size(device: &str, declared: &Declared) -> usize {
    device.len() + declared.bytes() + PER_BIRTH
}

/// The number of the session that a message of a node begins or ends.
fn bd_seq(metrics: &[Metric<'_>]) -> Option<u64> {
    match metrics.iter().find(|metric| metric.name == Some("bdSeq"))?.value? {
        Value::Int(value) => Some(value.into()),
        Value::Long(value) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
