//! `[uplink.dps]`: who registers, and what is known from the last time.

use std::path::{Path, PathBuf};

use super::{Place, Uplinked};
use crate::app::credentials::{Credentials, Dps};
use crate::bridge::Own;
use crate::bridge::devices::provisioned;
use crate::config::{self, Config, DpsTransport, Given, Placed};
use crate::diag::{Diagnostic, SourceFile};
use crate::hub::accounts::NoAccount;
use crate::hub::certificate;
use crate::hub::dps::{COMMON_NAME_MAX_CHARS, Registration, RegistrationId};
use crate::hub::limits;
use crate::hub::sas::Key;
use crate::outbound::Way;
use crate::provision::cache::{self, Known};
use crate::provision::{Options, Proof, Transport};
use crate::uplink::{Target, tls};

/// What a registration by hand needs of a configuration.
pub struct Enrolment {
    /// Who registers where; there only without errors.
    pub options: Option<Options>,
    /// What the configuration has for a device that is not the bridge itself, in words.
    pub of_device: Option<&'static str>,
    /// Where assignments are kept.
    pub state: PathBuf,
    /// What was found wrong or doubtful.
    pub diagnostics: Vec<Diagnostic>,
    /// The files the findings point into.
    pub sources: Vec<SourceFile>,
}

/// Reads `[uplink]` of a configuration, and nothing else of it. `id` registers instead of the one it names: where every
/// device has a connection of its own, with what the bridge would use for it; else as another one of the same enrolment.
pub fn enrolment(path: &Path, text: &str, id: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Enrolment {
    let (config, found) = config::parse(0, text, env);
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let mut place = Place { base, file: 0, found };
    let mut sources = vec![SourceFile { path: path.display().to_string(), text: config::masked(text) }];
    let (mut state, mut of_device) = (PathBuf::new(), None);
    let options = config.and_then(|config| {
        state = place.base.join(&config.state.value);
        let Some(dps) = &config.uplink.dps else {
            let span = &config.uplink.kind.span;
            place.error("no-dps", "there is no [uplink.dps] to register with", span, Some("[uplink.dps]"));
            return None;
        };
        let own = dps.registration_id.as_ref().map(|own| own.value.as_str());
        let device = id.filter(|id| own.is_none_or(|own| !own.eq_ignore_ascii_case(id)));
        if let (Some(devices), Some(device)) = (&config.uplink.devices, device) {
            let (options, with) = place.registering_device(&config, (dps, devices), device, &mut sources)?;
            of_device = Some(with);
            return Some(options);
        }
        let way = place.way(&config);
        place.registering(&config, dps, &way, id)
    });
    let options = options.filter(|_| !place.found.iter().any(Diagnostic::is_error));
    Enrolment { options, of_device, state, diagnostics: place.found, sources }
}

impl From<DpsTransport> for Transport {
    fn from(transport: DpsTransport) -> Self {
        match transport {
            DpsTransport::Rest => Self::Rest,
            DpsTransport::Mqtt => Self::Mqtt,
            DpsTransport::WebSocket => Self::WebSocket,
        }
    }
}

impl Place {
    /// A hub that the provisioning service tells.
    pub(super) fn provisioned(&mut self, config: &Config, dps: &config::Dps, way: Way) -> Option<Uplinked> {
        let options = self.registering(config, dps, &way, None)?;
        let state = self.base.join(&config.state.value);
        let known = self.known(&state, &options.registration, dps);
        let gateway = self.gateway_host_name(config);
        let dps = Dps { options, state, ask_again_after: dps.ask_again_after, known, gateway };
        let connection = dps.connection(dps.known.as_ref());
        let own = Own {
            hub: connection.host.clone(),
            device: Some(connection.device.clone()),
            module: None,
            mark_late: config.uplink.mark_late,
            block: Some(limits::block_bytes(config.uplink.tier)),
        };
        let target = Target::Hub(self.hub_target(config, connection, way)?);
        Some((target.clone(), Credentials::new(target, self.files(config), Some(dps)), own))
    }

    /// Who registers where; `id` instead of the one in the configuration.
    fn registering(&mut self, config: &Config, dps: &config::Dps, way: &Way, id: Option<&str>) -> Option<Options> {
        let other = id.map(|id| Placed { value: id.to_owned(), span: dps.span.clone() });
        let id = self.registration_id(config, other.or_else(|| dps.registration_id.clone()));
        let proof = id.as_ref().and_then(|id| self.proof(dps, id));
        let tls = self.tls(config);
        Some(Options {
            host: dps.host.value.clone(),
            way: Way { address: dps.address.as_ref().map(|address| address.value.clone()), ..way.clone() },
            transport: dps.transport.into(),
            tls: tls?,
            registration: Registration {
                scope: dps.id_scope.value.clone(),
                id: id?,
                api_version: dps.api_version.clone(),
                payload: dps.payload.clone(),
            },
            proof: proof?,
        })
    }

    /// A device with a connection of its own, and what it proves itself with.
    fn registering_device(
        &mut self,
        config: &Config,
        (dps, devices): (&config::Dps, &config::Devices),
        device: &str,
        sources: &mut Vec<SourceFile>,
    ) -> Option<(Options, &'static str)> {
        let known = self.device_files((config, devices), sources)?.known;
        let trust = self.device_trust(config)?;
        let service = self.service(config, dps, &trust);
        let with = known.describe(device);
        let options = known.find(device).and_then(|found| match provisioned::Given::try_from(found) {
            Ok(given) => service.registering(device, given),
            Err(_) => Err(NoAccount::new("its connection string says which hub it is, the service is not asked")),
        });
        match options {
            Ok(options) => Some((options, with)),
            Err(NoAccount { text, .. }) => {
                let help = "the devices table, a certificate in `certificates`, or `group_key`; with --id-scope it \
                            registers without this configuration";
                self.error("no-account", format!("{device} cannot register: {text}"), &dps.span, Some(help));
                None
            }
        }
    }

    /// The registration id as it is given, or the common name of the certificate.
    fn registration_id(&mut self, config: &Config, given: Option<Placed<String>>) -> Option<RegistrationId> {
        let named = config.uplink.certificate.as_ref().and_then(|file| {
            let chain = tls::certificates(&self.read(file, None)?).ok()?;
            Some(Placed { value: certificate::common_name(chain.first()?)?, span: file.span.clone() })
        });
        if let (Some(given), Some(named)) = (&given, &named)
            && !given.value.eq_ignore_ascii_case(&named.value)
        {
            let title = format!("the certificate is for {:?}, not for this registration id", named.value);
            let help = "with X.509 the registration id is the common name of the certificate: remove this line";
            self.error("bad-registration-id", title, &given.span, Some(help));
            return None;
        }
        let by_certificate = named.is_some();
        let text = given.or(named)?;
        match RegistrationId::parse(&text.value) {
            Ok(id) if by_certificate && id.as_str().len() > COMMON_NAME_MAX_CHARS => {
                let title =
                    format!("a registration id with a certificate has at most {COMMON_NAME_MAX_CHARS} characters");
                self.error("bad-registration-id", title, &text.span, None);
                None
            }
            Ok(id) => Some(id),
            Err(error) => {
                self.error("bad-registration-id", error.to_string(), &text.span, None);
                None
            }
        }
    }

    fn proof(&mut self, dps: &config::Dps, id: &RegistrationId) -> Option<Proof> {
        if dps.group_key.span().is_some() {
            let group = self.key(&dps.group_key)?;
            return Key::parse(id.key_of(&group).expose()).ok().map(Proof::Key);
        }
        if dps.symmetric_key.span().is_some() {
            return self.key(&dps.symmetric_key).map(Proof::Key);
        }
        Some(Proof::Certificate)
    }

    pub(super) fn key(&mut self, given: &Given) -> Option<Key> {
        let text = self.given(given)?;
        let key = Key::parse(text.value.expose().trim());
        key.inspect_err(|error| {
            let help = "portal: DPS > Manage enrollments > (the enrolment) > Primary key";
            self.error("bad-key", error.to_string(), &text.span, Some(help));
        })
        .ok()
    }

    /// What was assigned before; of no use is as good as nothing.
    fn known(&mut self, state: &Path, registration: &Registration, dps: &config::Dps) -> Option<Known> {
        cache::load(state, registration).unwrap_or_else(|error| {
            let title = format!("the last assignment cannot be read, the service is asked again: {error}");
            self.warning("no-assignment", title, &dps.span);
            None
        })
    }
}
