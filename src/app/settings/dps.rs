//! `[uplink.dps]`: who registers, and what is known from the last time.

use super::{Place, Uplinked};
use crate::app::credentials::{Credentials, Dps};
use crate::bridge::Own;
use crate::config::{self, Config, DpsTransport, Given, Placed};
use crate::hub::certificate;
use crate::hub::dps::{COMMON_NAME_MAX_CHARS, Registration, RegistrationId};
use crate::hub::sas::Key;
use crate::outbound::Way;
use crate::provision::cache::{self, Known};
use crate::provision::{Options, Proof, Transport};
use crate::uplink::{Target, tls};

impl Place {
    /// A hub that the provisioning service tells.
    pub(super) fn provisioned(&mut self, config: &Config, dps: &config::Dps, way: Way) -> Option<Uplinked> {
        let id = self.registration_id(config, dps);
        let proof = id.as_ref().and_then(|id| self.proof(dps, id));
        let registration = Registration {
            scope: dps.id_scope.value.clone(),
            id: id?,
            api_version: dps.api_version.clone(),
            payload: dps.payload.clone(),
        };
        let state = self.base.join(&config.state.value);
        let known = self.known(&state, &registration, dps);
        let tls = self.tls(config)?;
        let options = Options {
            host: dps.host.value.clone(),
            way: Way { address: dps.address.as_ref().map(|address| address.value.clone()), ..way.clone() },
            transport: match dps.transport {
                DpsTransport::Rest => Transport::Rest,
                DpsTransport::Mqtt => Transport::Mqtt,
            },
            tls,
            registration,
            proof: proof?,
        };
        let dps = Dps { options, state, ask_again_after: dps.ask_again_after, known };
        let connection = dps.connection(dps.known.as_ref());
        let own = Own {
            hub: connection.host.clone(),
            device: Some(connection.device.clone()),
            module: None,
            mark_late: config.uplink.mark_late,
        };
        let target = Target::Hub(self.hub_target(config, connection, way)?);
        Some((target.clone(), Credentials::new(target, self.files(config), Some(dps)), own))
    }

    /// The registration id as it is given, or the common name of the certificate.
    fn registration_id(&mut self, config: &Config, dps: &config::Dps) -> Option<RegistrationId> {
        let named = config.uplink.certificate.as_ref().and_then(|file| {
            let chain = tls::certificates(&self.read(file, None)?).ok()?;
            Some(Placed { value: certificate::common_name(chain.first()?)?, span: file.span.clone() })
        });
        if let (Some(given), Some(named)) = (&dps.registration_id, &named)
            && !given.value.eq_ignore_ascii_case(&named.value)
        {
            let title = format!("the certificate is for {:?}, not for this registration id", named.value);
            let help = "with X.509 the registration id is the common name of the certificate: remove this line";
            self.error("bad-registration-id", title, &given.span, Some(help));
            return None;
        }
        let by_certificate = named.is_some();
        let text = dps.registration_id.clone().or(named)?;
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

    fn key(&mut self, given: &Given) -> Option<Key> {
        let text = self.given(given)?;
        let key = Key::parse(text.value.expose().trim());
        key.inspect_err(|error| {
            let help = "portal: DPS > Manage enrollments > (the enrolment) > Primary key";
            self.error("bad-key", error.to_string(), &text.span, Some(help));
        })
        .ok()
    }

    /// What was assigned before; of no use is as good as nothing.
    fn known(&mut self, state: &std::path::Path, registration: &Registration, dps: &config::Dps) -> Option<Known> {
        cache::load(state, registration).unwrap_or_else(|error| {
            let title = format!("the last assignment cannot be read, the service is asked again: {error}");
            self.warning("no-assignment", title, &dps.span);
            None
        })
    }
}
