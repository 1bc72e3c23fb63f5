//! `[uplink.devices]`: every device with a hub identity and a connection of its own.

use std::time::Duration;

use super::{Kind, Placed, Uplink, WhenFull};
use crate::config::read::Section;
use crate::secret::Secret;

/// Whose identity messages go up under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// The bridge's own, with the device as a property.
    Gateway,
    /// That of the device a rule names.
    PerDevice,
}

/// What becomes of the messages of a device that the hub refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenRefused {
    /// They wait on the device's shelf until it is let in.
    Wait,
    /// They go up under the bridge's own identity, with the device as a property.
    Gateway,
    /// They go to the quarantine.
    Quarantine,
}

/// The keys of `[uplink.devices]`.
#[derive(Debug, Clone)]
pub struct Devices {
    /// Patterns of ids that may connect, beside those of the table.
    pub allow: Vec<Placed<String>>,
    /// Patterns of ids whose connection stays open though nothing goes up.
    pub keep_open: Vec<Placed<String>>,
    /// The devices table, TOML or CSV.
    pub table: Option<Placed<String>>,
    /// The key that the keys of devices are derived from.
    pub group_key: Option<Placed<Secret>>,
    /// A file with that key.
    pub group_key_file: Option<Placed<String>>,
    /// A folder with `{id}.pem` and `{id}.key`.
    pub certificates: Option<Placed<String>>,
    /// The model that devices follow of which the table says none.
    pub model_id: Option<Placed<String>>,
    /// What becomes of the messages of a device that the hub refuses.
    pub when_refused: WhenRefused,
    /// A connection without a message for so long is closed.
    pub idle_timeout: Duration,
    /// Most connections at one time.
    pub max_connections: usize,
    /// Connects a second at each hub; `None` is what the tier allows.
    pub connect_rate: Option<u32>,
    /// Most disk space of all shelves, in bytes.
    pub shelf_max_size: u64,
    /// Most disk space of one device's shelf, in bytes.
    pub shelf_max_device_size: u64,
    /// What full shelves do.
    pub shelf_when_full: WhenFull,
    /// Messages on a shelf for longer than this are given up; `None` keeps them.
    pub shelf_max_age: Option<Duration>,
    /// Where the section's name stands.
    pub span: crate::diag::Span,
}

/// Reads `identity` and `[uplink.devices]` of `[uplink]`; the devices are there with `identity = "per-device"` only.
pub(super) fn read(section: &mut Section<'_, '_, '_>, kind: Kind) -> Option<Devices> {
    let choices = [("gateway", Identity::Gateway), ("per-device", Identity::PerDevice)];
    let identity = section.choice("identity", &choices);
    let given = section.table("devices", "[uplink.devices]", devices);
    match identity.map_or(Identity::Gateway, |identity| identity.value) {
        Identity::Gateway => {
            section.unused_devices(given.is_some());
            None
        }
        Identity::PerDevice => {
            section.only_for_a_hub("identity", kind);
            let devices = given.unwrap_or_else(|| section.without(devices));
            section.check_devices(&devices);
            Some(devices)
        }
    }
}

impl Uplink {
    /// Of what names files and keys of devices nobody knows any more where it stands: the text is another.
    pub fn forget_places(&mut self) {
        if let Some(dps) = &mut self.dps {
            dps.span = 0..0;
            dps.group_key.text.iter_mut().for_each(|text| text.span = 0..0);
            dps.group_key.file.iter_mut().for_each(|file| file.span = 0..0);
        }
        if let Some(devices) = &mut self.devices {
            devices.span = 0..0;
            devices.group_key.iter_mut().for_each(|key| key.span = 0..0);
            let texts =
                [&mut devices.table, &mut devices.group_key_file, &mut devices.certificates, &mut devices.model_id];
            texts.into_iter().flatten().for_each(|text| text.span = 0..0);
        }
    }
}

impl Section<'_, '_, '_> {
    /// Devices need something to connect with.
    pub(super) fn check_credentials(&mut self, uplink: &Uplink) {
        let Some(devices) = &uplink.devices else { return };
        let files = [&devices.table, &devices.group_key_file, &devices.certificates];
        let of_group = uplink.dps.as_ref().and_then(|dps| dps.group_key.span());
        if devices.group_key.is_some() || of_group.is_some() || files.iter().any(|file| file.is_some()) {
            return;
        }
        let report = self.report();
        let found = report.new_error("no-credentials", "what should devices connect with?");
        let found = found.at(devices.span.clone(), "");
        report.push(found.help(
            "in [uplink.devices] one or more of\n  table = \"devices.toml\"           # id and key of each\n  \
             group_key = \"${GROUP_KEY}\"       # keys are derived from it\n  certificates = \"devices\"         \
             # a folder with ID.pem and ID.key\nor in [uplink.dps], where there is one\n  \
             group_key = \"${GROUP_KEY}\"       # it is that of the bridge itself, too",
        ));
    }
}

fn devices(section: &mut Section<'_, '_, '_>) -> Devices {
    let refused =
        [("wait", WhenRefused::Wait), ("gateway", WhenRefused::Gateway), ("quarantine", WhenRefused::Quarantine)];
    let full = [("refuse", WhenFull::Refuse), ("drop-oldest", WhenFull::DropOldest)];
    Devices {
        allow: section.texts("allow"),
        keep_open: section.texts("keep_open"),
        table: section.text("table"),
        group_key: section.secret("group_key"),
        group_key_file: section.text("group_key_file"),
        certificates: section.text("certificates"),
        model_id: section.text("model_id"),
        when_refused: section.choice("when_refused", &refused).map_or(WhenRefused::Wait, |choice| choice.value),
        idle_timeout: section.duration("idle_timeout", Duration::from_secs(600)),
        max_connections: section.count("max_connections", 5_000, 1..=100_000),
        connect_rate: section.count_or_auto("connect_rate", 1..=10_000).and_then(|rate| u32::try_from(rate).ok()),
        shelf_max_size: section.size("shelf_max_size", 1 << 30, 1 << 20..=1 << 50),
        shelf_max_device_size: section.size("shelf_max_device_size", 64 << 20, 1 << 20..=1 << 50),
        shelf_when_full: section.choice("shelf_when_full", &full).map_or(WhenFull::Refuse, |choice| choice.value),
        shelf_max_age: section.age("shelf_max_age"),
        span: section.span(),
    }
}
