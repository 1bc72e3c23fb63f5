//! The account of a spool.

/// Counters of one instant, since the spool was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Records that wait to be acknowledged, those not yet durable included.
    pub waiting: u64,
    /// Those of them that are in the late lane.
    pub late: u64,
    /// When the oldest of them was appended, to about a second.
    pub oldest_ms: Option<i64>,
    /// Records that waited when the spool was opened.
    pub recovered: u64,
    /// Records taken since.
    pub appended: u64,
    /// Records acknowledged.
    pub acked: u64,
    /// Records dropped because the spool was full.
    pub shed: u64,
    /// Records given up because they were too old.
    pub expired: u64,
    /// Records found destroyed on disk.
    pub lost: u64,
    /// Appends are refused for lack of space.
    pub full: bool,
    /// Bytes of all segments, spares included.
    pub disk_bytes: u64,
    /// Group commits.
    pub commits: u64,
    /// Bytes of the records taken.
    pub bytes_appended: u64,
    /// Bytes written; over those of the records it is what a flash card pays for one of them.
    pub bytes_written: u64,
    /// Failed calls of `fdatasync`.
    pub sync_failures: u64,
}

impl Stats {
    /// The account of two spools as one.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            waiting: self.waiting + other.waiting,
            late: self.late + other.late,
            oldest_ms: self.oldest_ms.into_iter().chain(other.oldest_ms).min(),
            recovered: self.recovered + other.recovered,
            appended: self.appended + other.appended,
            acked: self.acked + other.acked,
            shed: self.shed + other.shed,
            expired: self.expired + other.expired,
            lost: self.lost + other.lost,
            full: self.full || other.full,
            disk_bytes: self.disk_bytes + other.disk_bytes,
            commits: self.commits + other.commits,
            bytes_appended: self.bytes_appended + other.bytes_appended,
            bytes_written: self.bytes_written + other.bytes_written,
            sync_failures: self.sync_failures + other.sync_failures,
        }
    }
}
