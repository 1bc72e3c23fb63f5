//! Whose identity a message goes up under, where every device has one of its own. From a configuration and the state folder
//! beside it, which also has the Sparkplug births; no bridge and no service is asked.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::super::check::{could_not_run, print_findings};
use super::fence::Fence;
use crate::app::command_terms;
use crate::app::devices::Planned;
use crate::app::{settings, text_file};
use crate::bridge::devices::{Origin, origin};
use crate::bridge::kept_births;
use crate::rules::{Births, RuleSet};

/// The devices of a configuration.
pub(super) struct Identities {
    planned: Planned,
    state: PathBuf,
}

/// What a configuration says.
pub(super) struct Configured {
    pub(super) rules: RuleSet,
    /// Its devices, where each has an identity of its own.
    pub(super) identities: Option<Identities>,
    /// The bridge itself, as `--gateway` takes it; none where the uplink is no hub.
    pub(super) gateway: Option<String>,
    /// The births that its bridge has kept.
    pub(super) births: Births,
    /// The fence of what comes down.
    pub(super) fence: Fence,
}

/// Reads a configuration with its rules.
pub(super) fn load(path: &Path) -> Result<Configured, ExitCode> {
    let loaded = settings::load(path, &|name| std::env::var(name).ok())
        .map_err(|error| could_not_run(&text_file::cannot_read(path, &error)))?;
    let Some(settings) = loaded.settings else {
        print_findings(&loaded.diagnostics, &loaded.sources);
        return Err(ExitCode::from(1));
    };
    let state = settings.state;
    let births = kept_births(&state).map_err(|error| could_not_run(&format!("the births cannot be read: {error}")))?;
    let identities = settings.devices.map(|planned| Identities { planned, state });
    let own = settings.own;
    let terms = command_terms(&settings.config.commands);
    let fence = Fence { terms, own: own.device.clone(), per_device: identities.is_some() };
    let gateway = own.device.map(|device| match own.module {
        Some(module) => format!("{device}/{module}"),
        None => device,
    });
    Ok(Configured { rules: settings.rules, identities, gateway, births, fence })
}

impl Identities {
    /// It has an identity of its own.
    pub(super) fn has(&self, device: &str) -> bool {
        !device.is_empty() && *device != *self.planned.plan.own.connection.device
    }

    /// What the device is called at its hub, where the provisioning service assigned another id.
    pub(super) fn there(&self, device: &str) -> Option<String> {
        self.planned.plan.accounts.describe(device).there
    }

    fn origin(&self, device: &str) -> Result<Origin, String> {
        let origin = origin(&self.planned.plan, &self.state, device);
        origin.map_err(|error| format!("what was said of devices cannot be read: {error}"))
    }

    pub(super) fn write(&self, out: &mut String, device: &str) -> fmt::Result {
        let Origin { verdict, admission, account } = match self.origin(device) {
            Ok(origin) => origin,
            Err(problem) => return writeln!(out, "  identity    {problem}"),
        };
        writeln!(out, "  identity    its own, {verdict}: {admission}")?;
        writeln!(out, "  proof       {}", account.proof)?;
        match (account.hub, account.assigned) {
            (Some(hub), Some(at)) => writeln!(out, "  hub         {hub}, as the provisioning service said {at}"),
            (Some(hub), None) => writeln!(out, "  hub         {hub}"),
            (None, _) => writeln!(out, "  hub         not known yet: the provisioning service will be asked"),
        }?;
        match account.there {
            Some(there) => writeln!(out, "  there       {there}, the id the provisioning service gave it"),
            None => Ok(()),
        }
    }

    pub(super) fn as_json(&self, device: &str) -> Value {
        match self.origin(device) {
            Ok(Origin { verdict, admission, account }) => json!({
                "verdict": verdict, "admission": admission, "credentials": account.proof, "hub": account.hub,
                "assigned": account.assigned, "there": account.there,
            }),
            Err(problem) => json!({ "problem": problem }),
        }
    }
}
