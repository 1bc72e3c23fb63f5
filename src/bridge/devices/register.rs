//! Which ids may connect: the table, patterns, and what an operator has said, which is kept in `devices.json`.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fence::Name;

/// The name of the file in the state folder.
const FILE: &str = "devices.json";

/// What is to become of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// Nobody has said anything about it.
    Unknown,
    Denied,
}

/// Who may connect.
#[derive(Debug)]
pub(super) struct Register {
    path: PathBuf,
    allow: Vec<Name>,
    table: HashSet<String>,
    said: Said,
}

/// What an operator has said. It counts more than table and patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Said {
    approved: BTreeSet<String>,
    denied: BTreeSet<String>,
}

impl Register {
    /// Reads what was said before. A file that cannot be read is an error: it may deny somebody.
    pub(super) fn open(state: &Path, allow: Vec<Name>, table: HashSet<String>) -> io::Result<Self> {
        let path = state.join(FILE);
        let said = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| io::Error::other(format!("{} cannot be read: {error}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Said::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, allow, table, said })
    }

    /// From now on these may connect; what an operator has said stays.
    pub(super) fn replace(&mut self, allow: Vec<Name>, table: HashSet<String>) {
        (self.allow, self.table) = (allow, table);
    }

    pub(super) fn verdict(&self, id: &str) -> Verdict {
        if self.said.denied.contains(id) {
            return Verdict::Denied;
        }
        let known = self.said.approved.contains(id)
            || self.table.contains(id)
            || self.allow.iter().any(|pattern| pattern.matches(id));
        if known { Verdict::Allowed } else { Verdict::Unknown }
    }

    /// Whom an operator has let in.
    pub(super) fn approved(&self) -> impl Iterator<Item = &str> {
        self.said.approved.iter().map(String::as_str)
    }

    /// Why the verdict is what it is, in words.
    pub(super) fn reason(&self, id: &str) -> String {
        if self.said.denied.contains(id) {
            "an operator has denied it".to_owned()
        } else if self.said.approved.contains(id) {
            "an operator has approved it".to_owned()
        } else if self.table.contains(id) {
            "it is in the devices table".to_owned()
        } else if let Some(pattern) = self.allow.iter().find(|pattern| pattern.matches(id)) {
            format!("the pattern \"{pattern}\" of `allow` fits")
        } else {
            "it is neither in the devices table nor allowed by a pattern".to_owned()
        }
    }

    /// Keeps what an operator says of a device. Returns when it is on disk.
    pub(super) fn say(&mut self, id: &str, approved: bool) -> io::Result<()> {
        let mut said = self.said.clone();
        let (to, from) =
            if approved { (&mut said.approved, &mut said.denied) } else { (&mut said.denied, &mut said.approved) };
        from.remove(id);
        to.insert(id.to_owned());
        if said != self.said {
            replace(&self.path, &serde_json::to_vec_pretty(&said)?)?;
            self.said = said;
        }
        Ok(())
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_data()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_says_counts_most_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let table = HashSet::from(["listed".to_owned()]);
            Register::open(dir.path(), vec![Name::new("press-*")], table).unwrap()
        };
        let mut register = open();
        for (id, said, expect, reason) in [
            ("listed", None, Verdict::Allowed, "it is in the devices table"),
            ("press-4", None, Verdict::Allowed, "the pattern \"press-*\" of `allow` fits"),
            ("other", None, Verdict::Unknown, "it is neither in the devices table nor allowed by a pattern"),
            ("other", Some(true), Verdict::Allowed, "an operator has approved it"),
            ("press-4", Some(false), Verdict::Denied, "an operator has denied it"),
            ("listed", Some(false), Verdict::Denied, "an operator has denied it"),
            ("listed", Some(true), Verdict::Allowed, "an operator has approved it"),
        ] {
            if let Some(approved) = said {
                register.say(id, approved).unwrap();
            }
            assert_eq!((register.verdict(id), register.reason(id).as_str()), (expect, reason), "{id} {said:?}");
            assert_eq!(open().verdict(id), expect, "after a restart: {id} {said:?}");
        }
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Register::open(dir.path(), Vec::new(), HashSet::new()).is_err());
    }
}
