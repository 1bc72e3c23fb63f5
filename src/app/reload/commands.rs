//! Takes up what `[commands]` says of the fence: a plant that is to be left alone, or that somebody has let too much into,
//! does not wait for a restart.
//!
//! `enabled`, `allow`, `rate`, `dry_run`, `own_methods`, `audit` and `audit_payload` are taken up together; the other keys of the section are read
//! at the start. A bridge.toml with errors changes nothing, and is told until it is put right: somebody may have closed
//! the fence in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::{BridgeToml, NotTaken, Watched};
use crate::app::text_file::{self, cannot_read};
use crate::config::{self, Commands};
use crate::diag::{Diagnostic, SourceFile, rendered};
use crate::downlink::{Fence, Terms};

/// The keys of the section that need no restart.
pub(super) const TAKEN_UP: [&str; 7] = ["enabled", "allow", "rate", "dry_run", "own_methods", "audit", "audit_payload"];

/// What a configuration says of the fence.
pub fn terms(commands: &Commands) -> Terms {
    Terms {
        enabled: commands.enabled.value,
        dry_run: commands.dry_run,
        fence: Fence { allow: commands.allow.value.clone() },
        rate: commands.rate,
        own_methods: commands.own_methods,
        audit_required: commands.audit_required,
        audit_payload: commands.audit_payload,
    }
}

/// The fence of commands.
pub(in crate::app) struct CommandTerms {
    bridge_toml: Arc<BridgeToml>,
    terms: watch::Sender<Arc<Terms>>,
    /// The bridge's own line is to stay open while something may come down.
    own_line: Option<Arc<AtomicBool>>,
}

impl CommandTerms {
    /// `own_line` is there where `own_line` of the section says so, and each device has a connection of its own.
    pub(in crate::app) fn new(
        bridge_toml: Arc<BridgeToml>,
        terms: watch::Sender<Arc<Terms>>,
        own_line: Option<Arc<AtomicBool>>,
    ) -> Self {
        Self { bridge_toml, terms, own_line }
    }
}

impl Watched for CommandTerms {
    const WHAT: &'static str = "the fence of [commands]";
    const STILL: Duration = Duration::from_secs(1);
    type Found = Result<Terms, NotTaken>;

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.bridge_toml.path().to_owned()]
    }

    fn read(&self) -> Self::Found {
        let path = self.bridge_toml.path();
        let stays = |why: String| format!("{} stays as it was: {why}", Self::WHAT);
        let text = text_file::read(path).map_err(|error| stays(cannot_read(path, &error)))?;
        match config::parse(0, &text, &|name| std::env::var(name).ok()) {
            (Some(config), _) => Ok(terms(&config.commands)),
            (None, found) => {
                let errors: Vec<Diagnostic> = found.into_iter().filter(Diagnostic::is_error).collect();
                let path = path.display().to_string();
                let why = stays(format!("{path} has errors (`brownbridge check` shows them)"));
                let findings = rendered(&errors, &[SourceFile { path, text: config::masked(&text) }]);
                Err(NotTaken { why, findings })
            }
        }
    }

    fn take(&self, found: Self::Found, asked: bool) -> Result<(), NotTaken> {
        let new = Arc::new(found.inspect_err(|refused| {
            // Who asked is told the findings by whoever compares the whole file.
            let findings = if asked { "" } else { refused.findings.as_str() };
            tracing::error!("{}{}{findings}", refused.why, if findings.is_empty() { "" } else { ":\n" });
        })?);
        if let Some(own_line) = &self.own_line {
            own_line.store(new.enabled, Ordering::Relaxed);
        }
        let changed = self.terms.send_if_modified(|known| {
            let changed = **known != *new;
            *known = Arc::clone(&new);
            changed
        });
        if changed {
            let Terms { enabled, dry_run, fence, rate, own_methods, .. } = &*new;
            let allowed = fence.allow.len();
            tracing::warn!(enabled, dry_run, rate, own_methods, allowed, "{} is taken up", Self::WHAT);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_fence_is_exchanged_as_a_whole_or_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bridge.toml");
        let uplink = "[uplink]\naddress = \"127.0.0.1:1883\"\nkind = \"mqtt\"\n";
        let (sender, mut terms) = watch::channel(Arc::default());
        let own_line = Arc::new(AtomicBool::new(true));
        let watched = CommandTerms::new(
            Arc::new(BridgeToml::new(path.clone(), String::new())),
            sender,
            Some(Arc::clone(&own_line)),
        );
        let open = Terms { enabled: true, rate: 10, own_methods: true, ..Terms::default() };
        let fence = Fence { allow: vec![("a".into(), vec!["x/#".into()])] };
        let (audit_required, audit_payload) = (true, 1024);
        let all =
            Terms { enabled: true, dry_run: true, fence, rate: 3, own_methods: false, audit_required, audit_payload };
        let closed = Terms { enabled: false, ..open.clone() };
        let all_keys = "enabled = true\ndry_run = true\nrate = 3\nown_methods = false\nallow = { a = [\"x/#\"] }\n\
             audit = \"required\"\naudit_payload = \"1KiB\"";
        // What the section says; what is in force then, and whether anybody is told of a change.
        for (text, expect, is_told) in [
            (Some("enabled = true"), &open, true),
            (Some("# a comment\nenabled = true\nrate = 10"), &open, false),
            (Some(all_keys), &all, true),
            (Some("enabled = false\nrat = 3"), &all, false),
            (Some("enabled = "), &all, false),
            (None, &all, false),
            (Some("enabled = false"), &closed, true),
            (Some(""), &closed, false),
        ] {
            match text {
                Some(text) => fs::write(&path, format!("{uplink}[commands]\n{text}\n")).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let found = watched.read();
            let is_sound = found.is_ok();
            let taken = watched.take(found, false);
            assert_eq!(taken.is_ok(), is_sound, "{text:?}");
            assert_eq!(terms.has_changed().unwrap(), is_told, "{text:?}");
            assert_eq!(**terms.borrow_and_update(), *expect, "{text:?}");
            assert_eq!(own_line.load(Ordering::Relaxed), expect.enabled, "{text:?}");
        }
    }
}
