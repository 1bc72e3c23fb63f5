//! Values whose sender says that they are not good, and what becomes of them.

use std::fmt;

/// What becomes of values of bad quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rules) enum Quality {
    /// They are left out.
    Good,
    /// They are sent like others.
    Keep,
    /// They are sent, and the list `bad` names them.
    Mark,
}

/// What a sender says of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::rules) enum Grade {
    #[default]
    Good,
    Bad,
    /// It was good, and has not been read since.
    Stale,
}

impl Grade {
    /// OPC's two quality bits decide.
    pub(super) fn is_good_code(code: i64) -> bool {
        u16::try_from(code).is_ok_and(|code| code & 0xC0 == 0xC0)
    }
}

/// How many values were left out of what was made, by why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    bad: u64,
    stale: u64,
    nothing_left: bool,
}

impl LeftOut {
    /// The reasons as fixed words, for metrics.
    pub const REASONS: [&str; 2] = ["bad_quality", "stale"];

    pub(super) fn note(&mut self, grade: Grade) {
        match grade {
            Grade::Good => {}
            Grade::Bad => self.bad += 1,
            Grade::Stale => self.stale += 1,
        }
    }

    /// How many for each of the [reasons](Self::REASONS).
    pub fn counts(&self) -> [u64; 2] {
        [self.bad, self.stale]
    }

    /// True where no value was left out.
    pub fn is_empty(&self) -> bool {
        self.counts() == [0, 0]
    }

    /// With nothing else in the payload, there is no message.
    pub(in crate::rules) fn of_payload(mut self, nothing_left: bool) -> Self {
        self.nothing_left = nothing_left;
        self
    }

    /// True where there was nothing else to make a message of.
    pub fn is_all(&self) -> bool {
        self.nothing_left
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = |count: u64| if count == 1 { "value" } else { "values" };
        match (self.bad, self.stale) {
            (bad, 0) => write!(f, "{bad} {} of bad quality left out", values(bad)),
            (0, stale) => write!(f, "{stale} stale {} left out", values(stale)),
            (bad, stale) => {
                write!(f, "{bad} {} of bad quality and {stale} stale {} left out", values(bad), values(stale))
            }
        }
    }
}
