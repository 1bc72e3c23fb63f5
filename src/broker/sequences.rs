//! What must be on disk before a publish is acknowledged.

/// How many logs an ingest may keep what it makes of a publish in.
pub const LOGS: usize = 4;

/// A sequence for each log of the ingest: the last one of what the publish left there, 0 where it left nothing. Logs
/// commit in order, so they say all that an acknowledgement has to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sequences([u64; LOGS]);

impl Sequences {
    /// Nothing has to be on disk.
    pub const NONE: Self = Self([0; LOGS]);
    /// What no disk ever has.
    pub(super) const NEVER: Self = Self([u64::MAX; LOGS]);

    /// One sequence of one log, the first of which is 0.
    pub fn of(log: usize, sequence: u64) -> Self {
        Self::NONE.and(log, sequence)
    }

    /// Another sequence beside these.
    #[must_use]
    pub fn and(mut self, log: usize, sequence: u64) -> Self {
        if let Some(last) = self.0.get_mut(log) {
            *last = sequence.max(*last);
        }
        self
    }

    /// True where nothing has to be on disk.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// That of a log.
    pub fn in_log(self, log: usize) -> u64 {
        self.0.get(log).copied().unwrap_or(0)
    }

    /// Those of all logs, in their order.
    pub fn each(self) -> [u64; LOGS] {
        self.0
    }
}
