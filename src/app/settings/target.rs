//! `[uplink]`: from keys and files to where the uplink connects, and as whom.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::doubts::{self, Doubt};
use super::{Place, Uplinked};
use crate::app::credentials::{Credentials, Files};
use crate::bridge::Own;
use crate::config::{self, Config, Given, Kind, Placed};
use crate::diag::Span;
use crate::hub::certificate;
use crate::hub::connect::Identity;
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::hub::limits;
use crate::hub::sas::Token;
use crate::message::Timestamp;
use crate::outbound::{Proxy, Way};
use crate::secret::Secret;
use crate::uplink::tls;
use crate::uplink::{HubTarget, MqttTarget, Target, Transport};

impl Place {
    /// Where the uplink goes, and what follows from it.
    pub(super) fn target(&mut self, config: &Config) -> Option<Uplinked> {
        let way = self.way(config);
        match config.uplink.kind.value {
            Kind::Mqtt => self.mqtt(config, way),
            Kind::IotHub | Kind::Edge => match &config.uplink.dps {
                Some(dps) if !config.uplink.has_connection_string() => self.provisioned(config, dps, way),
                _ => self.hub(config, way),
            },
        }
    }

    /// How the cloud is reached.
    pub(in crate::app) fn way(&self, config: &Config) -> Way {
        let uplink = &config.uplink;
        // Its form was looked at with the rest of the file.
        let proxy = uplink.proxy.as_ref().and_then(|text| Proxy::parse(text.value.expose()).ok());
        let address = uplink.address.as_ref().map(|address| address.value.clone());
        Way { address, proxy, bind: uplink.bind.as_ref().map(|bind| bind.value) }
    }

    /// The files of the uplink's TLS, to look at again later.
    pub(super) fn files(&self, config: &Config) -> Files {
        let uplink = &config.uplink;
        let path = |file: &Placed<String>| self.base.join(&file.value);
        let identity = uplink.certificate.as_ref().zip(uplink.key.as_ref());
        Files {
            identity: identity.map(|(certificate, key)| (path(certificate), path(key))),
            roots: uplink.roots.files().map(|(_, file)| path(file)).collect(),
            has_system: uplink.roots.has_system(),
        }
    }

    fn mqtt(&mut self, config: &Config, way: Way) -> Option<Uplinked> {
        let uplink = &config.uplink;
        let tls = if uplink.mqtt.tls { Some(self.tls(config)?) } else { None };
        let username = uplink.mqtt.username.as_ref().map(|name| name.value.clone());
        let password = uplink.mqtt.password.as_ref().map(|password| password.value.clone());
        let credentials = username.map(|name| (name, password.unwrap_or_else(|| Secret::new(String::new()))));
        let is_websocket = uplink.transport == config::Transport::WebSocket;
        let target = MqttTarget {
            address: uplink.address.as_ref()?.value.clone(),
            way: Way { address: None, ..way },
            tls,
            websocket: is_websocket.then(|| uplink.mqtt.websocket_path.value.clone()),
            topic: uplink.mqtt.topic.value.clone(),
            credentials,
            client_id: uplink.mqtt.client_id.value.clone(),
        };
        let own = Own { hub: String::new(), device: None, module: None, mark_late: uplink.mark_late, block: None };
        let target = Target::Mqtt(target);
        Some((target.clone(), Credentials::new(target, self.files(config), None), own))
    }

    fn hub(&mut self, config: &Config, way: Way) -> Option<Uplinked> {
        let uplink = &config.uplink;
        let text = self.connection_string(config)?;
        let mut connection = match ConnectionString::parse(text.value.expose()) {
            Ok(connection) => connection,
            Err(error) => {
                self.error("connection-string", error.to_string(), &text.span, None);
                return None;
            }
        };
        self.put_gateway(&mut connection, (config, &text.span));
        if uplink.kind.value == Kind::Edge && connection.gateway.is_none() {
            let help = "append ;GatewayHostName=<host name of the edge device> to the connection string, or \
                        gateway_host_name = \"<host name of the edge device>\"";
            self.error(
                "no-gateway",
                "an edge needs `GatewayHostName` in the connection string, or `gateway_host_name`",
                &text.span,
                Some(help),
            );
        }
        match (&connection.auth, &uplink.certificate) {
            (Auth::X509, None) => {
                let help = "certificate = \"device.pem\"\n  key = \"device.key\"";
                self.error("no-certificate", "x509=true needs a certificate and its key", &text.span, Some(help));
            }
            (Auth::Key(_) | Auth::Token(_), Some(certificate)) => {
                let help = "write x509=true in the connection string, or remove `certificate` and `key`";
                self.error("two-proofs", "a key and a certificate at once", &certificate.span, Some(help));
            }
            _ => {}
        }
        self.check_audience(&connection, &text.span);
        let own = Own {
            hub: connection.host.clone(),
            device: Some(connection.device.clone()),
            module: connection.module.clone(),
            mark_late: uplink.mark_late,
            block: (uplink.kind.value == Kind::IotHub).then(|| limits::block_bytes(uplink.tier)),
        };
        let target = Target::Hub(self.hub_target(config, connection, way)?);
        if let Some(why) = target.token_expired(Timestamp::now()) {
            self.warning("token-expired", why, &text.span);
        }
        Some((target.clone(), Credentials::new(target, self.files(config), None), own))
    }

    /// Tells a token that was made for somebody else.
    fn check_audience(&mut self, connection: &ConnectionString, span: &Span) {
        let Auth::Token(token) = &connection.auth else { return };
        let Ok(token) = Token::parse(token.expose()) else { return };
        let resource = Identity::of(connection).resource();
        let (audience, wanted) = (token.audience.to_ascii_lowercase(), resource.to_ascii_lowercase());
        let rest = wanted.strip_prefix(audience.trim_end_matches('/'));
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let title =
                format!("the SharedAccessSignature is for {:?} (its `sr`), and this is {resource:?}", token.audience);
            self.warning("token-for-another", title, span);
        }
    }

    /// The hub of `connection`, with the certificate of the configuration.
    pub(super) fn hub_target(&mut self, config: &Config, connection: ConnectionString, way: Way) -> Option<HubTarget> {
        let tls = self.tls(config)?;
        let certificate_expiry = config.uplink.certificate.as_ref().and_then(|file| {
            let chain = tls::certificates(&self.read(file, None)?).ok()?;
            let leaf = chain.first()?;
            if connection.module.is_none() && !connection.device.is_empty() {
                self.check_name((leaf, file), &connection.device);
            }
            certificate::expiry(leaf)
        });
        let token_lifetime = config.uplink.token_lifetime;
        let transport = match config.uplink.transport {
            config::Transport::Mqtt => Transport::MQTT,
            config::Transport::WebSocket => Transport::WEBSOCKET,
            config::Transport::Auto => Transport::auto(),
        };
        let model_id = self.model_id(config.uplink.model_id.as_ref());
        Some(HubTarget { connection, tls, transport, way, certificate_expiry, token_lifetime, model_id, gateway: true })
    }

    fn connection_string(&mut self, config: &Config) -> Option<Placed<Secret>> {
        let uplink = &config.uplink;
        let given = Given { text: uplink.connection_string.clone(), file: uplink.connection_string_file.clone() };
        self.given(&given)
    }

    /// A secret from the configuration or from its file.
    pub(in crate::app) fn given(&mut self, given: &Given) -> Option<Placed<Secret>> {
        if let Some(text) = &given.text {
            return Some(text.clone());
        }
        let file = given.file.as_ref()?;
        let text = Zeroizing::new(self.read(file, None)?);
        Some(Placed { value: Secret::new(String::from_utf8_lossy(&text).into_owned()), span: file.span.clone() })
    }

    /// Whom to trust.
    pub(in crate::app) fn roots(&mut self, config: &Config) -> Option<rustls::RootCertStore> {
        let uplink = &config.uplink;
        let mut roots = match uplink.roots.has_system() {
            true => self.usable(tls::system_roots(), &uplink.kind.span, "the system's roots"),
            false => Some(rustls::RootCertStore::empty()),
        };
        for (key, file) in uplink.roots.files() {
            let added = self.read(file, None).and_then(|text| {
                self.check_roots(&text, (key, file), uplink.kind.value);
                self.usable(tls::add_roots(roots.as_mut()?, &text), &file.span, &file.value)
            });
            roots = roots.filter(|_| added.is_some());
        }
        roots
    }

    pub(super) fn tls(&mut self, config: &Config) -> Option<Arc<rustls::ClientConfig>> {
        let uplink = &config.uplink;
        let roots = self.roots(config);
        let identity = match (&uplink.certificate, &uplink.key) {
            (Some(certificate), Some(key)) => {
                let (chain, private) = (self.read(certificate, None), self.read(key, None));
                let chain = self.usable(tls::certificates(&chain?), &certificate.span, &certificate.value);
                let private = self.usable(tls::private_key(&private?), &key.span, &key.value);
                let chain = chain?;
                self.check_chain(&chain, certificate);
                Some((chain, private?))
            }
            _ => None,
        };
        let span = uplink.certificate.as_ref().map_or(0..0, |certificate| certificate.span.clone());
        let client = tls::client(roots?, identity);
        self.usable(client, &span, "[uplink]")
    }

    /// Tells a chain that no hub can follow, and a certificate that ends.
    fn check_chain(&mut self, chain: &[CertificateDer<'_>], file: &Placed<String>) {
        if let Some(Doubt { code, title, help }) = doubts::order(chain, &file.value) {
            self.error(code, title, &file.span, help);
        }
        self.doubt(doubts::time(chain, &file.value, Timestamp::now().as_secs()), &file.span);
    }

    /// Tells a certificate that is hardly this device's.
    fn check_name(&mut self, (leaf, file): (&CertificateDer<'_>, &Placed<String>), device: &str) {
        self.doubt(doubts::name(leaf, &file.value, (device, false)), &file.span);
    }

    fn doubt(&mut self, doubt: Option<Doubt>, span: &Span) {
        let Some(Doubt { code, title, help }) = doubt else { return };
        self.warning(code, title, span);
        if let Some(help) = help {
            self.help(help);
        }
    }

    /// Tells roots that lead nowhere: what signs nobody, what is over, and what older guides pin and no hub uses any more.
    fn check_roots(&mut self, text: &[u8], (key, file): (&str, &Placed<String>), kind: Kind) {
        let now = Timestamp::now().as_secs();
        let roots = tls::certificates(text).unwrap_or_default();
        for root in &roots {
            let name = certificate::subject(root).unwrap_or_default();
            if !certificate::may_sign(root) {
                let title = format!("`{key}`: {name} is a server's or device's own certificate and signs no other");
                self.warning("not-a-root", title, &file.span);
                self.help("put the root in it that this one was signed by");
            }
            if certificate::expiry(root).is_some_and(|end| end < now) && !certificate::is_baltimore(root) {
                self.warning("old-root", format!("`{key}`: {name} has expired"), &file.span);
                self.help("put the new root in it, beside the old one until all servers have changed");
            }
        }
        if kind == Kind::IotHub && roots.iter().any(|root| certificate::is_baltimore(root)) {
            let title = format!(
                "`{key}` has the Baltimore CyberTrust Root, which no IoT hub uses any more: they moved to DigiCert \
                 Global Root G2 by 2024, and it ended on 2025-05-12"
            );
            self.warning("old-root", title, &file.span);
            self.help(format!("remove `{key}`: the system's own roots have the right ones, and the next"));
        }
    }

    /// Adds what to do about the last finding.
    fn help(&mut self, help: impl Into<String>) {
        if let Some(found) = self.found.pop() {
            self.found.push(found.help(help));
        }
    }
}
