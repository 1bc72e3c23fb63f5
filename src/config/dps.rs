//! `[uplink.dps]`: the hub is told by the Device Provisioning Service instead of a connection string.

use std::net::IpAddr;
use std::time::Duration;

use super::proxy;
use super::read::Section;
use super::{Devices, Kind, Placed, Uplink};
use crate::diag::Span;
use crate::diag::walk::Report;
use crate::secret::Secret;

/// How the service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DpsTransport {
    /// HTTPS.
    Rest,
    /// MQTT over TLS.
    Mqtt,
    /// MQTT over WebSocket over TLS.
    WebSocket,
}

/// `[uplink.dps]`
#[derive(Debug, Clone)]
pub struct Dps {
    /// Where the section stands.
    pub span: Span,
    /// The ID scope of the service.
    pub id_scope: Placed<String>,
    /// Who registers; the common name of the certificate, where there is one and this is not given.
    pub registration_id: Option<Placed<String>>,
    /// The key of an individual enrolment, or the file that has it.
    pub symmetric_key: Given,
    /// The key of an enrolment group, or the file that has it.
    pub group_key: Given,
    /// How the service is spoken to.
    pub transport: DpsTransport,
    /// The host name of the service.
    pub host: Placed<String>,
    /// Connect here instead.
    pub address: Option<Placed<(String, u16)>>,
    /// The version of its interface.
    pub api_version: String,
    /// A JSON value for a custom allocation.
    pub payload: Option<String>,
    /// How long the assigned hub may refuse until the service is asked again.
    pub ask_again_after: Duration,
    /// Registrations a minute, of all devices together.
    pub registrations_per_minute: u32,
}

impl Uplink {
    /// The bridge itself is who a connection string says; otherwise who [`Dps`] says.
    pub fn has_connection_string(&self) -> bool {
        self.connection_string.is_some() || self.connection_string_file.is_some()
    }
}

/// A secret in the configuration, or in a file that it names.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The text itself.
    pub text: Option<Placed<Secret>>,
    /// The file.
    pub file: Option<Placed<String>>,
}

impl Given {
    fn read(section: &mut Section<'_, '_, '_>, key: &'static str, file: &'static str) -> Self {
        let given = Self { text: section.secret(key), file: section.text(file) };
        if let (Some(text), Some(file)) = (&given.text, &given.file) {
            let report = section.report();
            let found = report.new_error("two-proofs", format!("`{key}` is given twice"));
            report.push(found.at(file.span.clone(), "").context(text.span.clone(), "here it is too"));
        }
        given
    }

    /// Where it stands.
    pub fn span(&self) -> Option<&Span> {
        self.text.as_ref().map(|text| &text.span).or(self.file.as_ref().map(|file| &file.span))
    }
}

/// The service takes 1,000 operations a minute; a registration is two of them at least, as a rule three.
const PER_MINUTE: usize = 300;

/// Reads the section.
pub(super) fn dps(section: &mut Section<'_, '_, '_>) -> Option<Dps> {
    let id_scope = section.demanded("id_scope", "id_scope = \"0ne00000A0A\"   # portal: DPS > Overview");
    let transports =
        [("rest", DpsTransport::Rest), ("mqtt", DpsTransport::Mqtt), ("websocket", DpsTransport::WebSocket)];
    let transport = section.choice("transport", &transports).map_or(DpsTransport::Rest, |choice| choice.value);
    let port = if transport == DpsTransport::Mqtt { 8883 } else { 443 };
    let symmetric_key = Given::read(section, "symmetric_key", "symmetric_key_file");
    let group_key = Given::read(section, "group_key", "group_key_file");
    let host = section.text_or("host", "global.azure-devices-provisioning.net");
    let api_version = section.text_or("api_version", "2019-03-31");
    let registration_id = section.text("registration_id");
    let payload = section.text("payload");
    let address = section.address("address", port);
    let ask_again_after = section.duration("ask_again_after", Duration::from_secs(1_200));
    let per_minute = section.count("registrations_per_minute", PER_MINUTE, 1..=60_000);
    let registrations_per_minute = u32::try_from(per_minute).unwrap_or(u32::MAX);
    let word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !text.is_empty();
    let host_like = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    let mut check = |value: &Placed<String>, sound: bool, what: &str, help: &str| {
        if !sound {
            let report = section.report();
            let found = report.new_error("bad-value", what.to_owned()).at(value.span.clone(), "");
            report.push(found.help(help));
        }
    };
    if let Some(scope) = &id_scope {
        check(
            scope,
            word(&scope.value),
            "`id_scope` is no ID scope",
            "the portal shows it: 0ne followed by 8 characters",
        );
    }
    check(&api_version, word(&api_version.value), "`api_version` is no version", "api_version = \"2019-03-31\"");
    let bare = host_like(&host.value) && !host.value.is_empty();
    check(&host, bare, "`host` is no host name", "the bare name, without https:// and port");
    if let Some(payload) = &payload {
        let sound = serde_json::from_str::<serde::de::IgnoredAny>(&payload.value).is_ok();
        check(payload, sound, "`payload` is not JSON", "payload = '{ \"modelId\": \"dtmi:example:Press;1\" }'");
    }
    Some(Dps {
        span: section.span(),
        id_scope: id_scope?,
        registration_id,
        symmetric_key,
        group_key,
        transport,
        host,
        address,
        api_version: api_version.value,
        payload: payload.map(|payload| payload.value),
        ask_again_after,
        registrations_per_minute,
    })
}

/// The proxy on the way out.
pub(super) fn proxy(section: &mut Section<'_, '_, '_>) -> Option<Placed<Secret>> {
    let text = section.secret("proxy")?;
    if let Err(why) = proxy::split(text.value.expose()) {
        let report = section.report();
        let found = report.new_error("not-a-proxy", format!("`proxy` is no HTTP proxy: {why}")).at(text.span, "");
        report.push(found);
        return None;
    }
    Some(text)
}

/// The address of this machine to connect from.
pub(super) fn bind(section: &mut Section<'_, '_, '_>) -> Option<Placed<IpAddr>> {
    let text = section.text("bind")?;
    let Ok(value) = text.value.parse() else {
        let report = section.report();
        let found = report.new_error("not-an-address", "`bind` is not an IP address").at(text.span, "");
        report.push(found.help("one of this machine's own: bind = \"10.0.0.7\""));
        return None;
    };
    Some(Placed { value, span: text.span })
}

/// With a connection string the service tells the hubs of the devices only.
fn check_dps_of_devices(report: &mut Report<'_>, dps: &Dps, (string, devices): (&Span, &Devices)) {
    let own = [dps.registration_id.as_ref().map(|id| &id.span), dps.symmetric_key.span()];
    if let Some(span) = own.into_iter().flatten().next() {
        let title = "a connection string and a registration of the bridge itself: which one is it?";
        let found = report.new_error("two-identities", title).at(span.clone(), "");
        report.push(found.context(string.clone(), "this is who the bridge is").help("remove one of them"));
    }
    let of_devices = devices.group_key.as_ref().map(|key| &key.span);
    let of_devices = of_devices.or(devices.group_key_file.as_ref().map(|file| &file.span));
    if let (Some(first), Some(second)) = (dps.group_key.span(), of_devices) {
        let found = report.new_error("two-keys", "the group key of the devices is given twice");
        report.push(found.at(second.clone(), "").context(first.clone(), "here it is too"));
    }
}

impl Section<'_, '_, '_> {
    /// What `[uplink.dps]` demands of the rest of `[uplink]`, and of itself.
    pub(super) fn check_dps(&mut self, uplink: &Uplink, dps: &Dps) {
        let report = self.report();
        if uplink.kind.value != Kind::IotHub {
            let found = report.new_error("not-for-this-kind", "only an IoT hub can be assigned by [uplink.dps]");
            return report.push(found.at(dps.span.clone(), "").help("remove the section, or set kind = \"iothub\""));
        }
        let strings = [
            uplink.connection_string.as_ref().map(|given| &given.span),
            uplink.connection_string_file.as_ref().map(|given| &given.span),
        ];
        let string = strings.into_iter().flatten().next();
        if let (Some(span), Some(devices)) = (string, &uplink.devices) {
            return check_dps_of_devices(report, dps, (span, devices));
        }
        if let Some(span) = string {
            let found = report.new_error("two-identities", "a connection string and [uplink.dps]: which one is it?");
            let found = found.at(span.clone(), "").context(dps.span.clone(), "the hub is told by this service");
            report.push(found.help("remove one of them"));
        }
        let certificate = uplink.certificate.as_ref().map(|file| &file.span);
        let proofs: Vec<&Span> =
            [dps.symmetric_key.span(), dps.group_key.span(), certificate].into_iter().flatten().collect();
        match proofs.as_slice() {
            [] => {
                let found = report.new_error("no-proof", "[uplink.dps] has nothing to prove its identity with");
                report.push(found.at(dps.span.clone(), "").help(
                    "symmetric_key = \"${DPS_KEY}\"   # of an individual enrolment, or group_key of a group, or \
                     `certificate` and `key` in [uplink]",
                ));
            }
            [_] => {}
            [first, second, ..] => {
                let found = report.new_error("two-proofs", "more than one proof of identity");
                let found = found.at((*second).clone(), "").context((*first).clone(), "here is another");
                report
                    .push(found.help("one of `symmetric_key`, `group_key`, and `certificate` with `key` in [uplink]"));
            }
        }
        if dps.registration_id.is_none() && certificate.is_none() && !proofs.is_empty() {
            let found = report.new_error("missing-key", "there is no `registration_id`").at(dps.span.clone(), "");
            report
                .push(found.help("registration_id = \"press-4\"   # as in the enrolment; in a group, any of your own"));
        }
    }
}
