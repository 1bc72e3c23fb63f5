//! The key that the bridge of a configuration derives for a device.

use std::path::Path;

use super::Place;
use crate::bridge::devices::directory;
use crate::bridge::devices::known::Found;
use crate::config::{self, Config};
use crate::diag::{Diagnostic, SourceFile};
use crate::hub::accounts::NoAccount;
use crate::hub::connection_string::is_id;
use crate::hub::sas::Key;

/// A derived key.
#[derive(Debug, Clone)]
pub struct Derived {
    /// What it was derived from: the device's id as it is written, or its registration id.
    pub id: String,
    /// That is its registration id.
    pub is_registration: bool,
    /// The key.
    pub key: Key,
    /// What the bridge would use for this device in place of it, in words.
    pub instead: Option<&'static str>,
}

/// What a configuration says of a derived key.
pub struct Derivation {
    /// There only without errors.
    pub derived: Option<Derived>,
    /// What was found wrong or doubtful.
    pub diagnostics: Vec<Diagnostic>,
    /// The files the findings point into.
    pub sources: Vec<SourceFile>,
}

/// Derives the key of `device` from the group key that the configuration `text` at `path` names, as its bridge does.
pub fn derivation(path: &Path, text: &str, device: &str, env: &dyn Fn(&str) -> Option<String>) -> Derivation {
    let (config, found) = config::parse(0, text, env);
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let mut place = Place { base, file: 0, found };
    let mut sources = vec![SourceFile { path: path.display().to_string(), text: config::masked(text) }];
    let derived = config.and_then(|config| place.derived(&config, device, &mut sources));
    let derived = derived.filter(|_| !place.found.iter().any(Diagnostic::is_error));
    Derivation { derived, diagnostics: place.found, sources }
}

/// Derives from a group key without a configuration.
pub fn derived_by_hand(group: &Key, device: &str, is_registration: bool) -> Result<Derived, String> {
    derived(group, device, is_registration).map_err(|error| error.text)
}

fn derived(group: &Key, device: &str, is_registration: bool) -> Result<Derived, NoAccount> {
    if !is_registration && !is_id(device) {
        return Err(NoAccount::new(format!("{device:?} is no device id")));
    }
    let id = directory::derived_from(device, is_registration)?;
    let key = directory::derived(group, &id)?;
    Ok(Derived { id, is_registration, key, instead: None })
}

impl Place {
    fn derived(&mut self, config: &Config, device: &str, sources: &mut Vec<SourceFile>) -> Option<Derived> {
        let (dps, devices) = (&config.uplink.dps, &config.uplink.devices);
        let (group, instead) = match (devices, dps) {
            (Some(devices), _) => {
                let known = self.device_files((config, devices), sources)?.known;
                let is_derived = matches!(known.find(device), Ok(Found::Group(_)));
                let instead = (!is_derived).then(|| known.describe(device));
                (known.group_key, instead)
            }
            (None, Some(dps)) if dps.group_key.span().is_some() => (Some(self.key(&dps.group_key)?), None),
            (None, _) => (None, None),
        };
        let Some(group) = group else {
            let help = "group_key = \"${GROUP_KEY}\" in [uplink.devices] or [uplink.dps]; by hand the key comes from \
                        --file, --env or standard input, without --config";
            let title = "this configuration has no group key to derive from";
            self.error("no-group-key", title, &config.uplink.kind.span, Some(help));
            return None;
        };
        match derived(&group, device, dps.is_some()) {
            Ok(derived) => Some(Derived { instead, ..derived }),
            Err(NoAccount { text, .. }) => {
                self.error("bad-device-id", text, &config.uplink.kind.span, None);
                None
            }
        }
    }
}
