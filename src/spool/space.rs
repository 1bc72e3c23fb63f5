//! The room of the spool: spares, finished segments, the size bound, and how much the appenders may bring.

use std::sync::atomic::Ordering;

use super::WhenFull;
use super::appender::lock;
use super::format::spare_name;
use super::log::{Log, SPARES, Spare};
use super::track::{GivenUp, Segment};

impl Log {
    /// Takes back finished segments, keeps spares, sheds if that is asked for, and says how much may be appended.
    pub(super) fn tidy(&mut self) {
        loop {
            let freed = lock(&self.shared.track).free_front(false);
            let Some(segment) = freed else { break };
            self.recycle(segment, true);
        }
        self.expire();
        loop {
            let freed = lock(&self.shared.track).free_middle(&self.on_disk);
            let Some(segment) = freed else { break };
            self.recycle(segment, false);
        }
        self.replenish();
        self.reuse_last();
        // Only once someone was refused: what waits is not given up for room that nobody needs.
        let needed = self.when_full == WhenFull::DropOldest && lock(&self.shared.pending).full;
        while needed && !self.can_take_batch() && self.shed(GivenUp::Full) {}
        self.admit();
    }

    /// After a full disk: ask for space again at the next [`tidy`](Self::tidy). Says whether that is needed.
    pub(super) fn retry(&mut self) -> bool {
        std::mem::take(&mut self.no_space)
    }

    /// Whether a batch may rely on a spare.
    pub(super) fn ready(&self) -> bool {
        let track = lock(&self.shared.track);
        // The last one is kept for acknowledgements, unless there is nothing to acknowledge, or else what waits
        // would have to be given up for it.
        let needless = self.when_full == WhenFull::DropOldest || track.cursor() == track.durable();
        self.spares.len() >= SPARES || (needless && !self.spares.is_empty())
    }

    pub(super) fn limit(&self, left: usize, ready: bool) -> usize {
        let most = self.shared.geometry.batch;
        if ready { most } else { left.min(most) }
    }

    pub(super) fn can_take_batch(&self) -> bool {
        self.left() >= self.shared.geometry.batch || self.ready()
    }

    pub(super) fn remove(&self, name: &str) {
        if let Err(error) = self.shared.disk.remove(name) {
            tracing::warn!(name, %error, "spool: a finished segment cannot be removed");
        }
        self.count_bytes();
    }

    /// `leading`: nothing waits before the end of it.
    pub(super) fn recycle(&mut self, segment: Segment, leading: bool) {
        let disk = &*self.shared.disk;
        let name = segment.name();
        let wanted = self.spares.len() < SPARES && segment.len == self.shared.geometry.segment as u64;
        let spare = if leading { spare_name(segment.last_seq + 1, segment.salt) } else { self.new_spare_name() };
        if wanted && disk.rename(&name, &spare).is_ok() {
            self.spares.push(Spare { name: spare, len: segment.len });
            self.count_bytes();
        } else {
            self.remove(&name);
        }
    }

    fn new_spare_name(&self) -> String {
        format!("new-{:016x}.spare", self.shared.disk.random())
    }

    /// Creates spares as far as size and disk allow.
    pub(super) fn replenish(&mut self) {
        let len = self.shared.geometry.segment as u64;
        while self.spares.len() < SPARES && !self.no_space {
            if self.count_bytes() + len > self.shared.geometry.max_size {
                return;
            }
            let name = self.new_spare_name();
            match self.shared.disk.create(&name, len) {
                Ok(_) => {
                    self.told_no_space = false;
                    self.spares.push(Spare { name, len });
                }
                Err(error) => {
                    self.no_space = true;
                    // Once per shortage: it is tried again every second, for hours perhaps.
                    if !std::mem::replace(&mut self.told_no_space, true) {
                        tracing::warn!(%error, "spool: no space for another segment; trying again");
                    }
                }
            }
        }
        self.count_bytes();
    }

    /// Without a spare and without space, a last segment in which nothing waits is the only way on.
    pub(super) fn reuse_last(&mut self) {
        if !self.spares.is_empty() || self.taken || self.left() >= self.shared.geometry.batch {
            return;
        }
        let freed = {
            let mut pending = lock(&self.shared.pending);
            let mut track = lock(&self.shared.track);
            let durable = track.durable();
            if pending.batch.count() > 0 || track.cursor() != durable {
                return;
            }
            pending.limit = 0;
            track.seal_active(durable);
            track.free_front(true)
        };
        self.active = None;
        if let Some(segment) = freed {
            self.recycle(segment, true);
        }
    }

    /// Gives up leading segments in which everything is too old.
    fn expire(&mut self) {
        let Some(max_age) = self.max_age else { return };
        let bound = self.shared.disk.now().saturating_sub(max_age);
        while lock(&self.shared.track).front_is_before(bound) && self.shed(GivenUp::TooOld) {}
    }

    pub(super) fn shed(&mut self, why: GivenUp) -> bool {
        let shed = {
            let mut track = lock(&self.shared.track);
            let shed = track.shed_front(why);
            if let Some((segment, _)) = shed {
                self.shared.reading.shed(segment.last_seq);
            }
            shed
        };
        let Some((segment, count)) = shed else { return false };
        let reason = match why {
            GivenUp::Full => "full, the oldest messages are dropped",
            GivenUp::TooOld => "messages older than max_age are dropped",
        };
        tracing::warn!(count, last = segment.last_seq, "spool: {reason}");
        self.recycle(segment, true);
        true
    }

    /// Tells the appenders how much there is room for.
    pub(super) fn admit(&mut self) {
        let ready = self.ready();
        let left = self.left();
        let live = lock(&self.shared.track).segment_bytes();
        let mut pending = lock(&self.shared.pending);
        if !self.taken {
            pending.limit = self.limit(left, ready);
        }
        // Resuming at nine tenths spares the appenders a stop for every few messages.
        let low = live / 9 <= self.shared.geometry.max_size / 10;
        let drops = self.when_full == WhenFull::DropOldest && self.can_take_batch();
        if pending.full && !self.taken && (drops || (ready && low)) {
            pending.full = false;
        }
        let open = !pending.full && pending.limit > 0;
        drop(pending);
        if open {
            self.shared.room.opened();
        }
    }

    pub(super) fn count_bytes(&self) -> u64 {
        let spares: u64 = self.spares.iter().map(|spare| spare.len).sum();
        let bytes = lock(&self.shared.track).segment_bytes() + spares;
        self.shared.written.disk_bytes.store(bytes, Ordering::Relaxed);
        bytes
    }
}
