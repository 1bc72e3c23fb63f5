//! A received message, as the hub shows it to those who read from it.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::hub::bag::{self, BagError};
use crate::message::Timestamp;

/// Who sent it; shared by all messages of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The hub's host name, where there are several.
    pub hub: Option<String>,
    /// The device id.
    pub device: String,
    /// The module id.
    pub module: Option<String>,
    /// The model it follows, which the hub stamps as `dt-dataschema`.
    pub model_id: Option<String>,
    /// What the hub stamps as `iothub-connection-auth-method`.
    pub auth_method: &'static str,
}

/// One device-to-cloud message.
#[derive(Debug, Clone)]
pub struct Received {
    /// Who sent it.
    pub source: Arc<Source>,
    /// System properties under the names the hub shows: `message-id`, `content-type`, ...
    pub system: Vec<(String, Option<String>)>,
    /// Application properties; a name without a value has none.
    pub properties: Vec<(String, Option<String>)>,
    /// The payload.
    pub body: Bytes,
    /// When it came.
    pub received: Timestamp,
}

const CREATED: &str = "iothub-creation-time-utc";

impl Received {
    /// Reads the bag and sorts its properties. The stamps of the hub cannot be sent by a device.
    pub(super) fn new(source: &Arc<Source>, bag: &str, body: &[u8], received: Timestamp) -> Result<Self, BagError> {
        let mut message = Self {
            source: Arc::clone(source),
            system: Vec::new(),
            properties: Vec::new(),
            body: Bytes::copy_from_slice(body),
            received,
        };
        for (name, value) in bag::decode(bag)? {
            let value = value.map(|v| v.into_owned());
            match shown(&name) {
                Some(shown) => message.system.push((shown.to_owned(), value)),
                None if name.starts_with("$.") || name == CREATED => message.system.push((name.into_owned(), value)),
                None if name.starts_with("iothub-connection-") => {}
                None => message.properties.push((name.into_owned(), value)),
            }
        }
        Ok(message)
    }

    /// The value of a system property, by the name the hub shows.
    pub fn system(&self, name: &str) -> Option<&str> {
        find(&self.system, name)
    }

    /// The value of an application property.
    pub fn property(&self, name: &str) -> Option<&str> {
        find(&self.properties, name)
    }
}

fn find<'a>(properties: &'a [(String, Option<String>)], name: &str) -> Option<&'a str> {
    properties.iter().find(|(n, _)| n == name)?.1.as_deref()
}

/// The name the hub shows for a system property on the wire.
fn shown(wire: &str) -> Option<&'static str> {
    Some(match wire {
        "$.mid" => "message-id",
        "$.cid" => "correlation-id",
        "$.uid" => "user-id",
        "$.ct" => "content-type",
        "$.ce" => "content-encoding",
        "$.exp" => "absolute-expiry",
        "$.to" => "to",
        "$.ctime" => CREATED,
        "$.on" => "output-name",
        "$.sub" => "dt-subject",
        "$.ifid" => "iothub-interface-id",
        "$.schema" => "iothub-message-schema",
        _ => return None,
    })
}

/// One JSON object: `hub` where there are several, `device`, `module`, `received`, `system`, `properties`, and `body`, or
/// `body_base64` where the payload is no UTF-8.
impl Serialize for Received {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(hub) = &self.source.hub {
            map.serialize_entry("hub", hub)?;
        }
        map.serialize_entry("device", &self.source.device)?;
        if let Some(module) = &self.source.module {
            map.serialize_entry("module", module)?;
        }
        map.serialize_entry("received", &self.received.to_string())?;
        map.serialize_entry("system", &System(self))?;
        map.serialize_entry("properties", &Properties(&self.properties))?;
        match std::str::from_utf8(&self.body) {
            Ok(text) => map.serialize_entry("body", text)?,
            Err(_) => {
                map.serialize_entry("body_base64", &base64::prelude::BASE64_STANDARD.encode(&self.body))?;
            }
        }
        map.end()
    }
}

struct Properties<'a>(&'a [(String, Option<String>)]);

impl Serialize for Properties<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

struct System<'a>(&'a Received);

impl Serialize for System<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Received { source, system, received, .. } = self.0;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in system {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("iothub-connection-device-id", &source.device)?;
        if let Some(module) = &source.module {
            map.serialize_entry("iothub-connection-module-id", module)?;
        }
        if let Some(model) = &source.model_id {
            map.serialize_entry("dt-dataschema", model)?;
        }
        map.serialize_entry("iothub-connection-auth-method", source.auth_method)?;
        map.serialize_entry("iothub-enqueuedtime", &received.to_string())?;
        map.serialize_entry("iothub-message-source", "Telemetry")?;
        map.end()
    }
}
