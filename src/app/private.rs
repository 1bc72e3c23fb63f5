//! What the program writes is for itself alone: plant data, and what is known of devices.
//!
//! A running bridge makes files nobody else can read ([`keep`]). A state folder of a version that did not is
//! closed at the start, with the folders the bridge has in it; where other things lie in it too (somebody wrote
//! `state = "."`), it stays as it is, and only what is the bridge's own is closed.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// Folders of the bridge in its state folder.
const FOLDERS: [&str; 9] =
    ["assignments", "births", "held", "quarantine", "sessions", "shelf", "spool", "twins", "urgent"];
/// Its files there.
const FILES: [&str; 10] = [
    "commands.1.jsonl",
    "commands.jsonl",
    "control.sock",
    "devices.json",
    "ledger.json",
    "once.jsonl",
    "own_twin.json",
    "presence.json",
    "sequences.json",
    "subscribed",
];
/// What others may do.
const OTHERS: u32 = 0o077;

/// From here on nobody else can read what this process makes.
pub fn keep() {
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::process::umask(before | Mode::RWXG | Mode::RWXO);
}

/// Makes the state folder where there is none, and closes what others can read of it. What cannot be closed is told with
/// why, and keeps nothing from working.
pub(super) fn close(state: &Path) -> Vec<(PathBuf, io::Error)> {
    // Whoever opens the first file in it says why it cannot be made.
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(state);
    let mut open = Vec::new();
    let mut is_all_ours = true;
    let mut ours = Vec::new();
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let written = [".new", ".unreadable"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        match FOLDERS.contains(&name) || FILES.contains(&written) {
            true => ours.push(entry.path()),
            false => is_all_ours = false,
        }
    }
    if is_all_ours {
        ours.push(state.to_owned());
    }
    for path in ours {
        if let Err(error) = close_one(&path) {
            open.push((path, error));
        }
    }
    open
}

/// A link is not followed: where it leads may be somebody else's.
fn close_one(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() || found.mode() & OTHERS == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o7777 & !OTHERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn only_what_is_the_bridges_own_is_closed() {
        for (others, expect) in [(&[][..], 0o700), (&["notes.txt"], 0o755), (&["sessions.old"], 0o755)] {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path().join("state");
            for folder in ["spool", "shelf"] {
                fs::create_dir_all(state.join(folder)).unwrap();
            }
            for name in ["ledger.json", "ledger.json.new"].iter().chain(others) {
                fs::write(state.join(name), "").unwrap();
                fs::set_permissions(state.join(name), Permissions::from_mode(0o644)).unwrap();
            }
            for folder in ["", "spool", "shelf"] {
                fs::set_permissions(state.join(folder), Permissions::from_mode(0o755)).unwrap();
            }
            assert!(close(&state).is_empty());
            assert_eq!(mode(&state), expect, "{others:?}");
            assert_eq!([mode(&state.join("spool")), mode(&state.join("shelf"))], [0o700; 2]);
            assert_eq!([mode(&state.join("ledger.json")), mode(&state.join("ledger.json.new"))], [0o600; 2]);
            for other in others {
                assert_eq!(mode(&state.join(other)), 0o644, "{other}");
            }
        }
    }

    #[test]
    fn a_new_folder_is_closed_and_links_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (state, elsewhere) = (dir.path().join("a/state"), dir.path().join("elsewhere"));
        assert!(close(&state).is_empty());
        assert_eq!(mode(&state), 0o700);
        fs::create_dir(&elsewhere).unwrap();
        fs::set_permissions(&elsewhere, Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, state.join("spool")).unwrap();
        assert!(close(&state).is_empty());
        assert_eq!(mode(&elsewhere), 0o755);
    }
}
