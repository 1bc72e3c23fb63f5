//! What keeps the audit log from being written, from the first line that could not be until one can again.

use std::fmt;
use std::io;

use serde_json::{Value, json};

use crate::message::Timestamp;

/// The log cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: Timestamp,
    /// Why, the last time it was tried.
    pub why: String,
    /// Lines that are missing.
    pub lost: u64,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, why, lost } = self;
        let lines = if *lost == 1 { "line is" } else { "lines are" };
        write!(f, "the audit log of commands cannot be written since {since}, {lost} {lines} missing: {why}")
    }
}

impl Trouble {
    /// The line that stands where lines are missing.
    pub(super) fn line(&self) -> Value {
        json!({
            "at": Timestamp::now().to_string(),
            "kind": "audit",
            "command": "",
            "identity": "",
            "device": "",
            "id": "",
            "user": null,
            "topic": null,
            "bytes": null,
            "outcome": "lines_lost",
            "detail": format!("{} lines could not be written since {}: {}", self.lost, self.since, self.why),
            "complete": true,
        })
    }
}

/// A fixed word, for metrics.
pub(super) fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "disk_full",
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => "not_a_file",
        io::ErrorKind::PermissionDenied => "permission_denied",
        io::ErrorKind::ReadOnlyFilesystem => "read_only",
        io::ErrorKind::NotFound => "no_folder",
        _ => "io_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        use io::ErrorKind::*;
        for (kind, expect) in [
            (StorageFull, "disk_full"),
            (QuotaExceeded, "disk_full"),
            (IsADirectory, "not_a_file"),
            (PermissionDenied, "permission_denied"),
            (ReadOnlyFilesystem, "read_only"),
            (NotFound, "no_folder"),
            (Interrupted, "io_error"),
        ] {
            assert_eq!(reason(&kind.into()), expect, "{kind}");
        }
    }

    #[test]
    fn words() {
        for (lost, expect) in [(0, "0 lines are missing: full"), (1, "1 line is missing: full")] {
            let told = Trouble { since: Timestamp(0), why: "full".to_owned(), lost }.to_string();
            assert!(told.ends_with(expect), "{told}");
        }
    }
}
