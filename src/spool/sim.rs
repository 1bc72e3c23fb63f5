//! A disk that keeps what a real one keeps: synced pages for sure, unsynced ones by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use super::appender::lock;
use super::disk::{Disk, DiskFile};
use super::format::PAGE;

const SECTOR: usize = 512;

/// What goes wrong, and when.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Faults {
    /// The next so many writes or syncs fail.
    pub(crate) writes: u32,
    pub(crate) syncs: u32,
    /// After this many more operations the power is gone.
    pub(crate) power: Option<u64>,
}

#[derive(Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum NameOp {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending: Vec<NameOp>,
    capacity: u64,
    faults: Faults,
    ops: u64,
    rng: u64,
    clock: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl State {
    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.rng ^ (self.rng >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Counts an operation; fails if there is no power.
    fn op(&mut self) -> io::Result<()> {
        self.ops += 1;
        match &mut self.faults.power {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].live.len() as u64).sum()
    }

    fn sync_names(&mut self, count: usize) {
        for op in self.pending.drain(..).take(count) {
            apply(&mut self.durable_names, &op);
        }
    }

    fn settle(&mut self, inode: usize, page: usize) {
        let range = page * PAGE..((page + 1) * PAGE).min(self.inodes[inode].live.len());
        for sector in range.step_by(SECTOR) {
            let choice = self.random() % 4;
            let file = &mut self.inodes[inode];
            let end = (sector + SECTOR).min(file.live.len());
            if choice > 1 {
                file.durable[sector..end].copy_from_slice(&file.live[sector..end]);
            }
        }
    }
}

fn apply(names: &mut BTreeMap<String, usize>, op: &NameOp) {
    match op {
        NameOp::Create(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameOp::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameOp::Remove(name) => {
            names.remove(name);
        }
    }
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            capacity: u64::MAX,
            faults: Faults::default(),
            ops: 0,
            rng: seed,
            clock: 1_000_000,
        })))
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        lock(&self.0).faults = faults;
    }

    /// Nothing is going to fail.
    pub(crate) fn is_sound(&self) -> bool {
        let faults = lock(&self.0).faults;
        faults.writes == 0 && faults.syncs == 0 && faults.power.is_none()
    }

    pub(crate) fn set_capacity(&self, bytes: u64) {
        lock(&self.0).capacity = bytes;
    }

    pub(crate) fn used(&self) -> u64 {
        lock(&self.0).used()
    }

    pub(super) fn ops(&self) -> u64 {
        lock(&self.0).ops
    }

    /// The power goes and comes back: each unsynced sector and the last unsynced names are there or not.
    pub(crate) fn power_cut(&self) {
        let mut state = lock(&self.0);
        let keep = state.random() as usize % (state.pending.len() + 1);
        state.sync_names(keep);
        state.names = state.durable_names.clone();
        for inode in 0..state.inodes.len() {
            let whole = state.random() % 4;
            for page in std::mem::take(&mut state.inodes[inode].dirty) {
                let range = page * PAGE..((page + 1) * PAGE).min(state.inodes[inode].live.len());
                let file = &mut state.inodes[inode];
                match whole {
                    0 => {}
                    1 => file.durable[range.clone()].copy_from_slice(&file.live[range]),
                    _ => state.settle(inode, page),
                }
            }
            state.inodes[inode].live = state.inodes[inode].durable.clone();
        }
        state.faults = Faults::default();
    }

    /// Every file, to look at or to damage.
    pub(super) fn edit(&self, mut each: impl FnMut(&str, &mut Vec<u8>)) {
        let mut state = lock(&self.0);
        for (name, inode) in state.names.clone() {
            let file = &mut state.inodes[inode];
            each(&name, &mut file.live);
            file.durable = file.live.clone();
        }
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let file = self.create(name, bytes.len() as u64).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.sync().unwrap();
        self.sync().unwrap();
    }

    pub(super) fn names(&self) -> Vec<String> {
        lock(&self.0).names.keys().cloned().collect()
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = lock(&self.0);
        let files = state.names.iter().filter(|(name, _)| !name.starts_with("quarantine/"));
        Ok(files.map(|(name, &inode)| (name.clone(), state.inodes[inode].live.len() as u64)).collect())
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = lock(&self.0);
        state.op()?;
        if state.used() + size > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = vec![0; size as usize];
        state.inodes.push(Inode { durable: bytes.clone(), live: bytes, dirty: BTreeSet::new() });
        let inode = state.inodes.len() - 1;
        assert!(state.names.insert(name.into(), inode).is_none(), "{name} exists");
        state.pending.push(NameOp::Create(name.into(), inode));
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = lock(&self.0);
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.op()?;
        let op = NameOp::Rename(from.into(), to.into());
        assert!(state.names.contains_key(from), "{from} is gone");
        apply(&mut state.names, &op);
        state.pending.push(op);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.op()?;
        let op = NameOp::Remove(name.into());
        apply(&mut state.names, &op);
        state.pending.push(op);
        Ok(())
    }

    fn quarantine(&self, name: &str) -> io::Result<()> {
        self.rename(name, &format!("quarantine/{name}"))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.op()?;
        if state.faults.syncs > 0 {
            state.faults.syncs -= 1;
            return Err(io::Error::other("directory sync failed"));
        }
        state.sync_names(usize::MAX);
        Ok(())
    }

    fn now(&self) -> i64 {
        let mut state = lock(&self.0);
        state.clock += 1;
        state.clock
    }

    fn random(&self) -> u64 {
        lock(&self.0).random()
    }

    fn release(&self) {}
}

impl DiskFile for SimFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = lock(&self.disk.0);
        state.op()?;
        let failed = state.faults.writes > 0;
        state.faults.writes -= u32::from(failed);
        // A write that fails may have come some way.
        let part = state.random() as usize % (bytes.len() + 1);
        let len = if failed { part } else { bytes.len() };
        let at = at as usize;
        let file = &mut state.inodes[self.inode];
        assert!(at + bytes.len() <= file.live.len(), "a write past the end of the segment");
        file.live[at..at + len].copy_from_slice(&bytes[..len]);
        file.dirty.extend(at / PAGE..(at + len).div_ceil(PAGE));
        if failed { Err(io::Error::other("write failed")) } else { Ok(()) }
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let state = lock(&self.disk.0);
        let file = &state.inodes[self.inode].live;
        let rest = &file[(at as usize).min(file.len())..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.disk.0);
        state.op()?;
        let dirty = std::mem::take(&mut state.inodes[self.inode].dirty);
        if state.faults.syncs > 0 {
            state.faults.syncs -= 1;
            // As Linux does: the pages count as clean now, whether the disk has them or not.
            for page in dirty {
                state.settle(self.inode, page);
            }
            return Err(io::Error::other("fdatasync failed"));
        }
        for page in dirty {
            let file = &mut state.inodes[self.inode];
            let range = page * PAGE..((page + 1) * PAGE).min(file.live.len());
            file.durable[range.clone()].copy_from_slice(&file.live[range]);
        }
        Ok(())
    }
}
