//! `bridge.toml` is read at start only, but for the patterns of devices that may connect, and that stay connected ([`super::devices`]), and the fence
//! of commands ([`super::commands`]). Who asks for a reload hears what of it would need a restart.

use std::path::{Path, PathBuf};

use super::{NotTaken, commands};
use crate::app::text_file::{self, cannot_read};
use crate::config;
use crate::diag::{Diagnostic, SourceFile, rendered};
use crate::secret::Secret;

/// Keys that need no restart, beside those of `[commands]`.
const TAKEN_UP: [&str; 2] = ["uplink.devices.allow", "uplink.devices.keep_open"];

fn is_taken_up(key: &str) -> bool {
    let of_commands = key.strip_prefix("commands.").and_then(|key| key.split('.').next());
    TAKEN_UP.contains(&key) || of_commands.is_some_and(|key| commands::TAKEN_UP.contains(&key))
}

/// The configuration as it was at start.
pub struct BridgeToml {
    path: PathBuf,
    text: Secret,
}

impl BridgeToml {
    /// As it was read.
    pub fn new(path: PathBuf, text: String) -> Self {
        Self { path, text: Secret::new(text) }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It was this text at the start.
    pub(super) fn is(&self, text: &str) -> bool {
        self.text.expose() == text
    }

    /// The keys that are different on disk now and need a restart, also told to the log; or why the file is not good.
    pub(super) fn compare(&self) -> Result<Vec<String>, NotTaken> {
        let text = text_file::read(&self.path).map_err(|error| {
            let why = format!("{}; brownbridge would not start again", cannot_read(&self.path, &error));
            tracing::error!("{why}");
            why
        })?;
        if text == self.text.expose() {
            return Ok(Vec::new());
        }
        let path = self.path.display().to_string();
        let (_, found) = config::parse(0, &text, &|name| std::env::var(name).ok());
        if found.iter().any(Diagnostic::is_error) {
            let sources = [SourceFile { path: path.clone(), text: config::masked(&text) }];
            let findings = rendered(&found, &sources);
            let why = format!("{path} has errors, brownbridge would not start again");
            tracing::error!("{why}:\n{findings}");
            return Err(NotTaken { why, findings });
        }
        let mut changed = config::changed_keys(self.text.expose(), &text);
        changed.retain(|key| !is_taken_up(key));
        if !changed.is_empty() {
            let keys = changed.join(", ");
            tracing::warn!(
                "{path} has changed and is read at start only: restart for {keys}; no message is lost by that"
            );
        }
        Ok(changed)
    }
}
