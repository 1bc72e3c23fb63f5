//! What `[uplink.devices]` names, read and checked: who may connect, and with what.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::settings::Place;
use crate::bridge::devices::directory::Directory;
use crate::bridge::devices::known::Known;
use crate::bridge::devices::provisioned::{Provisioned, Service};
use crate::bridge::devices::{Keep, Plan};
use crate::config::{self, Config, Devices, Given, Placed, WhenFull};
use crate::diag::{Diagnostic, SourceFile};
use crate::fence::Name;
use crate::hub::accounts::Accounts;
use crate::hub::device_table::{self, Listed, Proof};
use crate::hub::limits;
use crate::hub::sas::Key;
use crate::outbound::Way;
use crate::provision::assignments::Assignments;
use crate::uplink::HubTarget;
use crate::uplink::tls;
use certificates::{AllSeen, Tried};

pub(super) mod certificates;

/// What the files of the devices say.
pub(super) struct DeviceFiles {
    /// Ids that may connect, by pattern.
    pub(super) allow: Vec<Name>,
    /// Whose connections stay open.
    pub(super) keep: Keep,
    /// Ids that may connect, by name.
    pub(super) table: HashSet<String>,
    /// What they prove themselves with.
    pub(super) known: Known,
}

/// The devices as they are at the start.
pub struct Planned {
    /// For [`crate::bridge::devices::open`].
    pub plan: Plan,
    /// What they connect with; new files are taken up here.
    pub directory: Arc<Directory>,
    /// The configuration at the start: it says which files those are.
    pub(super) config: Config,
}

impl Place {
    /// The devices; `None` with errors.
    pub(super) fn devices(
        &mut self,
        (config, devices): (&Config, &Devices),
        own: &HubTarget,
        sources: &mut Vec<SourceFile>,
    ) -> Option<Planned> {
        let files = self.device_files((config, devices), sources);
        let trust = self.device_trust(config)?;
        let service = match &config.uplink.dps {
            None => None,
            Some(dps) => Some(self.opened_service(config, dps, &trust)?),
        };
        let DeviceFiles { allow, keep, table, known } = files?;
        let tier = config.uplink.tier.and_then(|tier| limits::connects_per_second(tier, config.uplink.units));
        let one_address = service.is_some();
        let directory = Arc::new(Directory::new(known, own.connection.host.clone(), service));
        let plan = Plan {
            own: own.clone(),
            trust,
            one_address,
            gateway: config.uplink.gateway_host_name.as_ref().filter(|_| one_address).map(|name| name.value.clone()),
            allow,
            table,
            accounts: Arc::clone(&directory) as Arc<dyn Accounts>,
            when_refused: devices.when_refused,
            keep_own: Arc::new(AtomicBool::new(config.commands.enabled.value && config.commands.own_line)),
            keep,
            idle_timeout: devices.idle_timeout,
            max_connections: devices.max_connections,
            connect_rate: devices.connect_rate.or(tier).unwrap_or(limits::CONNECTS_PER_SECOND_MIN),
            shelf_max_age: devices.shelf_max_age,
            refuse_above: match devices.shelf_when_full {
                WhenFull::Refuse => Some((devices.shelf_max_device_size, devices.shelf_max_size)),
                WhenFull::DropOldest => None,
            },
        };
        Some(Planned { plan, directory, config: config.clone() })
    }

    /// Reads the files of the devices; `None` with errors.
    pub(super) fn device_files(
        &mut self,
        (config, devices): (&Config, &Devices),
        sources: &mut Vec<SourceFile>,
    ) -> Option<DeviceFiles> {
        let provisioned = config.uplink.dps.is_some();
        let listed = match &devices.table {
            Some(file) => self.device_table(file, provisioned, sources),
            None => Some((Vec::new(), AllSeen::new())),
        };
        let of_dps = config.uplink.dps.as_ref().map(|dps| dps.group_key.clone());
        let of_devices = Given { text: devices.group_key.clone(), file: devices.group_key_file.clone() };
        let given = if of_devices.span().is_some() { Some(of_devices) } else { of_dps };
        let group_key = match given.filter(|given| given.span().is_some()) {
            None => Some(None),
            Some(given) => {
                let text = self.given(&given);
                text.and_then(|text| self.group_key(text.value.expose(), text.span)).map(Some)
            }
        };
        let mut seen = AllSeen::new();
        let certificates = devices.certificates.as_ref().map(|folder| {
            let path = self.base.join(&folder.value);
            if !path.is_dir() {
                let title = format!("{} is no folder", path.display());
                self.error("no-such-file", title, &folder.span, Some("a folder with ID.pem and ID.key of each device"));
            }
            seen = self.folder_of_certificates(&path, folder, provisioned);
            path
        });
        let ((listed, of_table), group_key) = (listed?, group_key?);
        seen.extend(of_table);
        self.warn_of_strangers(devices, &listed);
        let ids = listed.iter().map(|device| device.id.as_str()).chain(seen.keys().map(String::as_str));
        let keep = self.kept_open(devices, ids);
        let model_id = self.model_id(devices.model_id.as_ref());
        Some(DeviceFiles {
            keep,
            allow: devices.allow.iter().map(|pattern| Name::new(&pattern.value)).collect(),
            table: listed.iter().map(|device| device.id.clone()).collect(),
            known: Known {
                models: models_of(&listed),
                model_id,
                table: listed.into_iter().map(|device| (device.id, device.proof)).collect(),
                group_key,
                certificates,
                seen,
            },
        })
    }

    /// Whom the lines of devices trust.
    pub(super) fn device_trust(&mut self, config: &Config) -> Option<Arc<tls::Trust>> {
        let trust = tls::Trust::new(self.roots(config)?);
        self.usable(trust, &config.uplink.kind.span, "[uplink]").map(Arc::new)
    }

    /// The provisioning service and what it told the devices before.
    fn opened_service(&mut self, config: &Config, dps: &config::Dps, trust: &Arc<tls::Trust>) -> Option<Provisioned> {
        let state = self.base.join(&config.state.value);
        let told = match Assignments::open(&state, &dps.id_scope.value) {
            Ok(told) => told,
            Err(error) => {
                let title = format!("the assignments of devices in {} cannot be read: {error}", state.display());
                self.error(
                    "no-assignment",
                    title,
                    &dps.span,
                    Some("they may be removed: the service tells them again"),
                );
                return None;
            }
        };
        Some(Provisioned::new(self.service(config, dps, trust), told))
    }

    /// The provisioning service as the devices reach it.
    pub(super) fn service(&mut self, config: &Config, dps: &config::Dps, trust: &Arc<tls::Trust>) -> Service {
        Service {
            host: dps.host.value.clone(),
            way: Way { address: dps.address.as_ref().map(|address| address.value.clone()), ..self.way(config) },
            transport: dps.transport.into(),
            scope: dps.id_scope.value.clone(),
            api_version: dps.api_version.clone(),
            payload: dps.payload.clone(),
            trust: Arc::clone(trust),
            ask_again_after: dps.ask_again_after,
            per_minute: dps.registrations_per_minute,
        }
    }

    fn group_key(&mut self, text: &str, span: crate::diag::Span) -> Option<Key> {
        let help = "the primary key of the enrolment group or policy, base64";
        Key::parse(text.trim()).inspect_err(|error| self.error("bad-key", error.to_string(), &span, Some(help))).ok()
    }

    /// Reads the table; the certificates that it names are tried.
    fn device_table(
        &mut self,
        file: &Placed<String>,
        provisioned: bool,
        sources: &mut Vec<SourceFile>,
    ) -> Option<(Vec<Listed>, AllSeen)> {
        let text = self.read(file, Some("table = \"devices.toml\"   # [[device]] with id and key"))?;
        let Ok(text) = String::from_utf8(text) else {
            self.error("not-utf8", format!("{} is not UTF-8 text", file.value), &file.span, None);
            return None;
        };
        let csv = Path::new(&file.value).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
        let number = sources.len();
        let (mut listed, found) = device_table::parse(number, (&text, csv));
        let path = self.base.join(&file.value);
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        sources.push(SourceFile { path: path.display().to_string(), text: device_table::masked(&text) });
        let mut sound = !found.iter().any(Diagnostic::is_error);
        self.found.extend(found);
        let mut tried = Tried::new(number, provisioned);
        for device in &mut listed {
            let Proof::Certificate { certificate, key } = &mut device.proof else { continue };
            for (name, _) in [&mut *certificate, &mut *key] {
                *name = folder.join(&*name).display().to_string();
            }
            tried.pair((Path::new(&certificate.0), Path::new(&key.0)), &device.id, [&certificate.1, &key.1]);
        }
        let (seen, sound_files) = self.tell(tried, &file.value);
        sound &= sound_files;
        sound.then_some((listed, seen))
    }

    /// Without a table and a pattern nobody may connect before an operator says so.
    fn warn_of_strangers(&mut self, devices: &Devices, listed: &[Listed]) {
        if listed.is_empty() && devices.allow.is_empty() {
            let title = "every device will be held until somebody approves it";
            let found = Diagnostic::warning("nobody-allowed", title, self.file);
            let found = if devices.span.is_empty() { found } else { found.at(devices.span.clone(), "") };
            let help =
                "name them in `table`, or by pattern: allow = [\"press-*\"]; or `brownbridge devices approve ID`";
            self.found.push(found.help(help));
        }
    }

    /// Whose connections stay open, of the `ids` that the files name. What cannot be is told.
    fn kept_open<'a>(&mut self, devices: &Devices, ids: impl Iterator<Item = &'a str>) -> Keep {
        let names = |patterns: &[Placed<String>]| -> Vec<Name> {
            patterns.iter().map(|pattern| Name::new(&pattern.value)).collect()
        };
        let (open, allow) = (names(&devices.keep_open), names(&devices.allow));
        let Some(first) = devices.keep_open.first() else { return Keep::default() };
        let known: BTreeSet<&str> = ids.filter(|id| open.iter().any(|name| name.matches(id))).collect();
        let mut all = known.clone();
        for id in devices.keep_open.iter().filter(|id| !id.value.contains('*')) {
            all.insert(&id.value);
            if !known.contains(&*id.value) && !allow.iter().any(|name| name.matches(&id.value)) {
                let title = format!("`keep_open` names {}, which may not connect", id.value);
                let found = Diagnostic::warning("nobody-allowed", title, self.file).at(id.span.clone(), "");
                self.found.push(found.help("put it into `table`, or a pattern that fits into `allow`"));
            }
        }
        if all.len() > devices.max_connections {
            let (wanted, most) = (all.len(), devices.max_connections);
            let title = format!("{wanted} devices are to stay connected, and `max_connections` is {most}");
            let found = Diagnostic::warning("too-few-connections", title, self.file).at(first.span.clone(), "");
            self.found.push(found.help("raise `max_connections`, or let `keep_open` name fewer"));
        }
        Keep { open, known: known.into_iter().map(str::to_owned).collect() }
    }
}

fn models_of(listed: &[Listed]) -> HashMap<String, String> {
    listed.iter().filter_map(|device| Some((device.id.clone(), device.model_id.clone()?))).collect()
}
