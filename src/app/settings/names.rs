//! What `[uplink]` calls things by: the name in front of a hub, the model of a device.

use super::Place;
use crate::config::{Config, Placed};
use crate::diag::Span;
use crate::hub::connection_string::{ConnectionString, is_host};
use crate::hub::model;

impl Place {
    /// `gateway_host_name`, where it is a name.
    pub(super) fn gateway_host_name(&mut self, config: &Config) -> Option<String> {
        let given = config.uplink.gateway_host_name.as_ref()?;
        if given.value.is_empty() || !is_host(&given.value) {
            let help = "the bare name, without https:// and port: gateway_host_name = \"iot.plant.example\"";
            self.error("bad-value", "`gateway_host_name` is no host name", &given.span, Some(help));
            return None;
        }
        Some(given.value.clone())
    }

    /// The connection string at `span` goes through what `gateway_host_name` names, unless it says the same itself.
    pub(super) fn put_gateway(&mut self, connection: &mut ConnectionString, (config, span): (&Config, &Span)) {
        let Some(name) = self.gateway_host_name(config) else { return };
        let other = connection.gateway.as_ref().filter(|other| !other.eq_ignore_ascii_case(&name));
        if let Some(other) = other {
            let title = format!("the connection string says GatewayHostName={other}, and `gateway_host_name` {name}");
            self.error("two-gateways", title, span, Some("remove one of them"));
        }
        connection.gateway = Some(name);
    }

    /// A `model_id`, where it is one.
    pub(in crate::app) fn model_id(&mut self, given: Option<&Placed<String>>) -> Option<String> {
        let given = given?;
        if let Err(error) = model::check(&given.value) {
            let title = format!("{:?} is no model id: {error}", given.value);
            self.error("bad-model-id", title, &given.span, Some("model_id = \"dtmi:com:example:Gateway;1\""));
            return None;
        }
        Some(given.value.clone())
    }
}
