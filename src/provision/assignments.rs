//! The assignments of many devices on disk, in one file: a device that knows its hub need not ask again after a restart.
//!
//! `<state>/assignments/devices.jsonl`, a JSON object a line, no secret in it; of two lines for one registration the later
//! counts. An assignment is appended and synced. The file is written anew, and put in place of the old one as a whole,
//! when half of its lines are out of date, when a line cannot be read (a crash cut it off, or somebody has edited it), and
//! after an append that failed. What was told in another ID scope is as good as not there. At most [`MOST`] are kept, the
//! latest.
//!
//! The assignment of the bridge itself is in [`super::cache`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hub::connection_string::{is_host, is_id};
use crate::hub::dps::{Assignment, RegistrationId};
use crate::message::Timestamp;

/// Most assignments that are kept.
pub const MOST: usize = 100_000;
/// Lines out of date that are not worth a new file.
const SLACK: usize = 64;
/// The file, below the state folder.
const FILE: &str = "assignments/devices.jsonl";

/// Where a device belongs, as it was last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The host name of the hub.
    pub hub: String,
    /// The device id there.
    pub device: String,
    /// When it was told.
    pub at: String,
}

impl Assigned {
    /// What was told now.
    pub fn new(assignment: &Assignment, now: Timestamp) -> Self {
        Self { hub: assignment.hub.clone(), device: assignment.device.clone(), at: now.to_string() }
    }
}

/// Assignments by registration id.
pub type Known = HashMap<String, Arc<Assigned>>;

/// One line.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    scope: &'a str,
    registration: &'a str,
    #[serde(flatten)]
    assigned: Assigned,
}

/// The file.
#[derive(Debug)]
pub struct Assignments {
    path: PathBuf,
    scope: String,
    known: Known,
    /// Lines in the file.
    lines: usize,
    /// A new file is to be written: something in this one may not be readable, or too much of it is out of date.
    is_stale: bool,
}

impl Assignments {
    /// Reads what was told before in this ID scope. A file that cannot be read at all is an error.
    pub fn open(state: &Path, scope: &str) -> io::Result<Self> {
        let path = state.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut file = Self { path, scope: scope.to_owned(), known: Known::new(), lines: 0, is_stale: false };
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            file.lines += 1;
            match serde_json::from_slice::<Line<'_>>(line) {
                Ok(read) if line.ends_with(b"\n") && read.is_sound() => {
                    if read.scope == scope {
                        file.known.insert(read.registration.to_owned(), Arc::new(read.assigned));
                    }
                }
                _ => file.is_stale = true,
            }
        }
        Ok(file)
    }

    /// All that is known.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Writes down an assignment; returns when it is on disk. Without success it counts until the program ends, and the
    /// next one tries to write all of them.
    pub fn store(&mut self, id: &RegistrationId, assigned: Arc<Assigned>) -> io::Result<()> {
        let line = self.line(id.as_str(), &assigned)?;
        self.known.insert(id.as_str().to_owned(), assigned);
        if self.known.len() > MOST + SLACK {
            self.forget_the_oldest();
        }
        if self.is_stale || self.lines >= 2 * self.known.len() + SLACK {
            return self.write_anew();
        }
        let appended = self.append(&line);
        self.is_stale = appended.is_err();
        appended
    }

    fn line(&self, registration: &str, assigned: &Assigned) -> io::Result<Vec<u8>> {
        let line = Line { scope: &self.scope, registration, assigned: assigned.clone() };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        Ok(text)
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let folder = self.folder();
        fs::create_dir_all(&folder)?;
        let is_new = !self.path.exists();
        let mut file = File::options().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(line)?;
        file.sync_data()?;
        if is_new {
            File::open(&folder)?.sync_all()?;
        }
        self.lines += 1;
        Ok(())
    }

    /// A crash leaves the old file or the new one.
    fn write_anew(&mut self) -> io::Result<()> {
        self.is_stale = true;
        let (folder, new) = (self.folder(), self.path.with_extension("new"));
        fs::create_dir_all(&folder)?;
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut out = io::BufWriter::new(file);
        for (registration, assigned) in &self.known {
            out.write_all(&self.line(registration, assigned)?)?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(&folder)?.sync_all()?;
        (self.lines, self.is_stale) = (self.known.len(), false);
        Ok(())
    }

    fn forget_the_oldest(&mut self) {
        let mut times: Vec<String> = self.known.values().map(|assigned| assigned.at.clone()).collect();
        let surplus = times.len().saturating_sub(MOST);
        times.sort_unstable();
        let Some(oldest) = times.get(surplus).cloned() else { return };
        let mut left = surplus;
        self.known.retain(|_, assigned| {
            let goes = left > 0 && assigned.at <= oldest;
            left -= usize::from(goes);
            !goes
        });
        self.is_stale = true;
    }

    fn folder(&self) -> PathBuf {
        self.path.parent().unwrap_or(Path::new(".")).to_owned()
    }
}

impl Line<'_> {
    fn is_sound(&self) -> bool {
        !self.assigned.hub.is_empty() && is_host(&self.assigned.hub) && is_id(&self.assigned.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(hub: &str, at: i64) -> Arc<Assigned> {
        Arc::new(Assigned { hub: hub.into(), device: "d".into(), at: Timestamp(at).to_string() })
    }

    fn id(text: &str) -> RegistrationId {
        RegistrationId::parse(text).unwrap()
    }

    fn hubs(file: &Assignments) -> Vec<String> {
        let mut hubs: Vec<_> = file.known.iter().map(|(id, assigned)| format!("{id} {}", assigned.hub)).collect();
        hubs.sort();
        hubs
    }

    #[test]
    fn what_is_stored_is_found_again_and_the_last_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = Assignments::open(dir.path(), "s").unwrap();
        for (name, hub) in [("a", "h1"), ("b", "h1"), ("a", "h2")] {
            file.store(&id(name), assigned(hub, 0)).unwrap();
        }
        assert_eq!(hubs(&Assignments::open(dir.path(), "s").unwrap()), ["a h2", "b h1"]);
        assert!(Assignments::open(dir.path(), "another").unwrap().known().is_empty());
        for number in 0..1_000 {
            file.store(&id("a"), assigned("h3", number)).unwrap();
        }
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(text.lines().count() < 100, "what is out of date is left out: {}", text.lines().count());
        assert_eq!(hubs(&Assignments::open(dir.path(), "s").unwrap()), ["a h3", "b h1"]);
    }

    /// Whatever is in the file: what can be read counts, and the next assignment puts it right.
    #[test]
    fn a_damaged_file_costs_its_damaged_lines() {
        let good = "{\"scope\":\"s\",\"registration\":\"a\",\"hub\":\"h\",\"device\":\"d\",\"at\":\"1\"}\n";
        let torn = good.strip_suffix("\"1\"}\n").unwrap();
        for (name, text, expect) in [
            ("whole", good.to_owned(), vec!["a h"]),
            ("a torn end", format!("{good}{torn}"), vec!["a h"]),
            ("an end without its newline", good.trim_end().to_owned(), vec![]),
            ("garbage between", format!("\u{0}\u{0}\n{good}"), vec!["a h"]),
            ("a hub that is none", good.replace("\"h\"", "\"h/x\""), vec![]),
            ("no text", "\n\n".to_owned(), vec![]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("assignments")).unwrap();
            fs::write(dir.path().join(FILE), text).unwrap();
            let mut file = Assignments::open(dir.path(), "s").unwrap();
            assert_eq!(hubs(&file), expect, "{name}");
            file.store(&id("z"), assigned("h", 0)).unwrap();
            let again = Assignments::open(dir.path(), "s").unwrap();
            assert_eq!(hubs(&again), [expect, vec!["z h"]].concat(), "{name}");
            assert!(!again.is_stale, "{name}");
        }
    }

    #[test]
    fn a_disk_that_says_no_is_tried_again_with_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("assignments"), "in the way").unwrap();
        let mut file =
            Assignments { is_stale: false, ..Assignments::open(dir.path(), "s").unwrap_or_else(|_| empty(dir.path())) };
        assert!(file.store(&id("a"), assigned("h", 0)).is_err());
        fs::remove_file(dir.path().join("assignments")).unwrap();
        file.store(&id("b"), assigned("h", 0)).unwrap();
        assert_eq!(hubs(&Assignments::open(dir.path(), "s").unwrap()), ["a h", "b h"]);
    }

    fn empty(state: &Path) -> Assignments {
        Assignments { path: state.join(FILE), scope: "s".into(), known: Known::new(), lines: 0, is_stale: false }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = empty(dir.path());
        for number in 0..MOST + SLACK {
            file.known.insert(format!("r{number}"), assigned("h", number as i64 * 1_000));
        }
        file.store(&id("new"), assigned("h", i64::from(u32::MAX) * 1_000)).unwrap();
        let kept = Assignments::open(dir.path(), "s").unwrap();
        assert_eq!(kept.known().len(), MOST);
        assert!(kept.known().contains_key("new") && !kept.known().contains_key("r0"));
    }
}
