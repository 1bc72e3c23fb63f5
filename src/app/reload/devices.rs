//! Takes up the devices table, the certificates of devices, and the patterns of `[uplink.devices]`.
//!
//! `allow` and `keep_open` are the keys of bridge.toml that are taken up while the program runs; all else of it, the names
//! of the files too, is as it was at the start. A table that had devices and has none is refused: an unmounted folder, an upload that a
//! full disk cut off.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::{BridgeToml, NotTaken, Watched};
use crate::app::credentials::DAY;
use crate::app::devices::DeviceFiles;
use crate::app::devices::certificates::ending;
use crate::app::settings::Place;
use crate::app::text_file::{self, cannot_read};
use crate::bridge::devices::directory::Directory;
use crate::bridge::devices::{Devices, Renewed};
use crate::config::{self, Config};
use crate::diag::{Diagnostic, SourceFile, rendered};
use crate::hub::device_table::Proof;
use crate::message::Timestamp;

/// Files of certificates that are looked at one by one. Of a larger folder only the folder is: what is put in place by
/// renaming, as tools do, and what comes and goes shows there.
const MOST_FILES: usize = 2_000;

/// The files of the devices.
pub(in crate::app) struct DeviceTables {
    bridge_toml: Arc<BridgeToml>,
    /// As it was at the start.
    config: Config,
    directory: Arc<Directory>,
    devices: Devices,
    /// When the ends of certificates were last told, in seconds since 1970.
    told: AtomicI64,
}

/// What was read.
pub(in crate::app) struct Read {
    files: Option<DeviceFiles>,
    found: Vec<Diagnostic>,
    sources: Vec<SourceFile>,
}

impl DeviceTables {
    /// Those that `config` names, as it was read from `bridge_toml` at the start.
    pub(in crate::app) fn new(
        bridge_toml: Arc<BridgeToml>,
        (config, directory): (Config, Arc<Directory>),
        devices: Devices,
    ) -> Self {
        // The start has told them.
        let told = AtomicI64::new(Timestamp::now().as_secs());
        Self { bridge_toml, config, directory, devices, told }
    }

    fn base(&self) -> &Path {
        self.bridge_toml.path().parent().unwrap_or(Path::new(""))
    }

    /// The configuration as it was, with the patterns as they are in `text` now; `None` where that has errors.
    fn config(&self, text: &str, found: &mut Vec<Diagnostic>) -> Option<Config> {
        let mut config = self.config.clone();
        if self.bridge_toml.is(text) {
            return Some(config);
        }
        let (new, told) = config::parse(0, text, &|name| std::env::var(name).ok());
        if told.iter().any(Diagnostic::is_error) {
            found.extend(told);
            return None;
        }
        config.uplink.forget_places();
        if let (Some(devices), Some(new)) = (&mut config.uplink.devices, new.and_then(|new| new.uplink.devices)) {
            (devices.allow, devices.keep_open) = (new.allow, new.keep_open);
        }
        Some(config)
    }

    fn read_all(&self) -> Read {
        let (mut found, mut sources) = (Vec::new(), Vec::new());
        let path = self.bridge_toml.path();
        let text = match text_file::read(path) {
            Ok(text) => text,
            Err(error) => {
                found.push(Diagnostic::error("no-such-file", cannot_read(path, &error), 0));
                return Read { files: None, found, sources };
            }
        };
        sources.push(SourceFile { path: path.display().to_string(), text: config::masked(&text) });
        let files = self.config(&text, &mut found).and_then(|config| {
            let devices = config.uplink.devices.as_ref()?;
            let mut place = Place { base: self.base().to_owned(), file: 0, found: Vec::new() };
            let files = place.device_files((&config, devices), &mut sources);
            found.append(&mut place.found);
            files
        });
        let had_devices = !self.directory.known().table.is_empty();
        if files.as_ref().is_some_and(|files| had_devices && files.table.is_empty()) {
            let emptied = Diagnostic::error("emptied-file", "the devices table is empty, and had devices", 0);
            found.push(emptied.help("to be without a table, remove `table` from bridge.toml and restart"));
        }
        let sound = !found.iter().any(Diagnostic::is_error);
        Read { files: files.filter(|_| sound), found, sources }
    }

    /// The files of certificates, as many as are looked at.
    fn certificates(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let folder = self.config.uplink.devices.as_ref().and_then(|devices| devices.certificates.as_ref());
        if let Some(folder) = folder.map(|folder| self.base().join(&folder.value)) {
            let files = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            paths.extend(files.take(MOST_FILES + 1));
            if paths.len() > MOST_FILES {
                paths.clear();
            }
            paths.push(folder);
        }
        let known = self.directory.known();
        let of_table = known.table.values().filter_map(|proof| match proof {
            Proof::Certificate { certificate, key } => Some([&certificate.0, &key.0]),
            _ => None,
        });
        paths.extend(of_table.flatten().take(MOST_FILES).map(PathBuf::from));
        paths
    }
}

impl Watched for DeviceTables {
    const WHAT: &'static str = "the files of the devices";
    /// A folder of certificates is copied file by file.
    const STILL: Duration = Duration::from_secs(1);
    type Found = Read;

    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = self.certificates();
        if let Some(devices) = &self.config.uplink.devices {
            let of_dps = self.config.uplink.dps.iter().filter_map(|dps| dps.group_key.file.as_ref());
            let named = [&devices.table, &devices.group_key_file].into_iter().flatten().chain(of_dps);
            paths.extend(named.map(|file| self.base().join(&file.value)));
        }
        paths.push(self.bridge_toml.path().to_owned());
        paths.sort();
        paths
    }

    fn read(&self) -> Read {
        self.read_all()
    }

    fn take(&self, found: Read, asked: bool) -> Result<(), NotTaken> {
        let told = rendered(&found.found, &found.sources);
        let Some(DeviceFiles { allow, keep, table, known }) = found.files else {
            let why = format!(
                "{} have errors, what they said before stays in use (`brownbridge check` shows them)",
                Self::WHAT
            );
            tracing::error!("{why}:\n{told}");
            return Err(NotTaken { why, findings: told });
        };
        let (before, known) = (self.directory.known(), Arc::new(known));
        self.directory.replace(Arc::clone(&known));
        let listed = table.len();
        let renewed = self.devices.take_up((allow, table), |device| !known.is_same(&before, device));
        self.devices.keep_open(keep);
        let Renewed { let_in, removed, changed } = renewed;
        if renewed != Renewed::default() || listed != before.table.len() || asked {
            let told = if told.is_empty() { told } else { format!(":\n{told}") };
            tracing::info!(listed, let_in, removed, changed, "{} are taken up{told}", Self::WHAT);
        }
        Ok(())
    }

    fn turn(&self) {
        let now = Timestamp::now().as_secs();
        if now - self.told.load(Ordering::Relaxed) < DAY {
            return;
        }
        self.told.store(now, Ordering::Relaxed);
        if let Some(ending) = ending(self.directory.known().ends(), now) {
            tracing::warn!("{ending}");
        }
    }
}
