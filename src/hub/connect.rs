//! What a CONNECT says: client id, user name, and the resource its token is for.

use super::bag;
use super::connection_string::{Auth, ConnectionString};
use super::limits::API_VERSION;
use super::sas;
use crate::secret::Secret;

/// Who connects, and to which hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The host name of the hub, also where the connection goes through a gateway.
    pub hub: &'a str,
    /// The device id.
    pub device: &'a str,
    /// The module id, for a module of the device.
    pub module: Option<&'a str>,
}

impl<'a> Identity<'a> {
    /// The identity a connection string names.
    pub fn of(connection: &'a ConnectionString) -> Self {
        Self { hub: &connection.host, device: &connection.device, module: connection.module.as_deref() }
    }

    /// `{device}` or `{device}/{module}`, never encoded.
    pub fn client_id(&self) -> String {
        match self.module {
            None => self.device.to_owned(),
            Some(module) => format!("{}/{module}", self.device),
        }
    }

    /// `{hub}/{device}/?api-version=2021-04-12`, `&DeviceClientType=` where the client names itself, and `&model-id=` where
    /// it is a plug-and-play device that says which model it follows.
    ///
    /// The hub wants a user name with an X.509 certificate too; only the password is absent then.
    pub fn username(&self, client_type: Option<&str>, model_id: Option<&str>) -> String {
        let mut name = format!("{}/{}/?api-version={API_VERSION}", self.hub, self.client_id());
        for (key, value) in [("DeviceClientType", client_type), ("model-id", model_id)] {
            if let Some(value) = value {
                name.extend(["&", key, "="]);
                bag::encode(&mut name, value);
            }
        }
        name
    }

    /// What a token of this identity is for: `{hub}/devices/{device}[/modules/{module}]`, not encoded.
    pub fn resource(&self) -> String {
        match self.module {
            None => format!("{}/devices/{}", self.hub, self.device),
            Some(module) => format!("{}/devices/{}/modules/{module}", self.hub, self.device),
        }
    }
}

/// Hubs keep subscriptions and queued commands for a session that is not clean, as all their SDKs ask for.
pub const CLEAN_SESSION: bool = false;

/// The host to dial and to expect in the certificate: the gateway's where there is one.
pub fn server_name(connection: &ConnectionString) -> &str {
    connection.gateway.as_deref().unwrap_or(&connection.host)
}

/// Where a hub, an edgeHub and the provisioning service take MQTT over WebSocket.
pub const WEBSOCKET_PATH: &str = "/$iothub/websocket";

/// The path of a WebSocket request. Without a client certificate the hub is told not to ask for one: it would ask by a
/// new handshake in the middle of the connection, which TLS libraries of today do not do.
pub fn websocket_path(has_certificate: bool) -> &'static str {
    if has_certificate { WEBSOCKET_PATH } else { "/$iothub/websocket?iothub-no-client-cert=true" }
}

/// The password of a CONNECT: a token good until `expiry` (seconds since 1970) where there is a key, the
/// given token as it is, and none with a certificate.
pub fn password(connection: &ConnectionString, expiry: i64) -> Option<Secret> {
    match &connection.auth {
        Auth::Key(key) => Some(sas::mint(key, &Identity::of(connection).resource(), expiry, None)),
        Auth::Token(token) => Some(token.clone()),
        Auth::X509 => None,
    }
}
