//! Takes up changed users and access files, and writes what is learned.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::{NotTaken, Watched};
use crate::app::gate::{Files, Keeper, Read};
use crate::diag::rendered;

/// The files of the fence.
pub(in crate::app) struct Fence {
    files: Files,
    keeper: Keeper,
    page: Mutex<Page>,
}

impl Fence {
    pub(in crate::app) fn new(files: Files, keeper: Keeper) -> Self {
        Self { files, keeper, page: Mutex::default() }
    }
}

impl Watched for Fence {
    const WHAT: &'static str = "users and access files";
    const STILL: Duration = Duration::from_millis(100);
    type Found = Read;

    fn paths(&self) -> Vec<PathBuf> {
        self.files.users.iter().chain(&self.files.access).cloned().collect()
    }

    fn read(&self) -> Read {
        self.files.read(0)
    }

    fn take(&self, found: Read, _: bool) -> Result<(), NotTaken> {
        let told = rendered(&found.found, &found.sources);
        match found.policy {
            Some(policy) => {
                self.keeper.replace(policy);
                tracing::info!("{} taken up{}{told}", Self::WHAT, if told.is_empty() { "" } else { ":\n" });
                Ok(())
            }
            None => {
                let why =
                    format!("{} have errors, the old ones stay in use (`brownbridge check` shows them)", Self::WHAT);
                tracing::error!("{why}:\n{told}");
                // The findings show lines of the files, which are for who may read them.
                Err(why.into())
            }
        }
    }

    fn turn(&self) {
        self.page.lock().turn(&self.files, &self.keeper);
    }
}

/// What is learned and not yet on disk.
#[derive(Default)]
struct Page {
    unwritten: Option<String>,
    told: bool,
}

impl Page {
    /// Writes what was learned since the last time, or could not be written then.
    fn turn(&mut self, files: &Files, keeper: &Keeper) {
        self.unwritten = keeper.learned().or(self.unwritten.take());
        let Some((path, text)) = files.learn.as_deref().zip(self.unwritten.as_ref()) else { return };
        match write(path, text) {
            Ok(()) => *self = Self::default(),
            Err(error) if !self.told => {
                tracing::warn!("what is learned cannot be written to {}: {error}", path.display());
                self.told = true;
            }
            Err(_) => {}
        }
    }
}

/// A reader sees the old file or the new one, whole.
pub(in crate::app) fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, text)?;
    // Who could read it still can: it is a file of the plant's, not of the state.
    if let Ok(before) = fs::metadata(path) {
        fs::set_permissions(&new, before.permissions())?;
    }
    fs::rename(&new, path)
}
