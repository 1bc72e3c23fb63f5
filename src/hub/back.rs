//! The way back: the topics on which the hub answers, calls and sends, and those on which it is asked.
//!
//! | topic | direction | meaning |
//! |---|---|---|
//! | `$iothub/twin/GET/?$rid={rid}` | up | asks for the twin |
//! | `$iothub/twin/PATCH/properties/reported/?$rid={rid}` | up | changes reported properties |
//! | `$iothub/twin/res/{status}/?$rid={rid}[&$version={version}]` | down | the answer to one of them |
//! | `$iothub/twin/PATCH/properties/desired/?$version={version}` | down | desired properties have changed |
//! | `$iothub/methods/POST/{name}/?$rid={rid}` | down | a direct method is called |
//! | `$iothub/methods/res/{status}/?$rid={rid}` | up | its answer |
//! | `devices/{device}[/modules/{module}]/messages/devicebound/{bag}` | down | a cloud-to-device message |
//!
//! A request identifier is echoed as it was written, escapes included: Microsoft's server does not decode it.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::bag::{self, BagError, Encoder};
use super::connect::Identity;

/// How every topic about twins begins.
pub const TWIN_PREFIX: &str = "$iothub/twin/";
/// What to subscribe to for answers about the twin.
pub const TWIN_ANSWERS: &str = "$iothub/twin/res/#";
/// What to subscribe to for changes of desired properties.
pub const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";
/// What to subscribe to for direct methods.
pub const METHODS: &str = "$iothub/methods/POST/#";

/// What to subscribe to for cloud-to-device messages.
pub fn commands(identity: &Identity<'_>) -> String {
    format!("{}#", command_prefix(identity))
}

fn command_prefix(identity: &Identity<'_>) -> String {
    match identity.module {
        Some(module) => format!("devices/{}/modules/{module}/messages/devicebound/", identity.device),
        None => format!("devices/{}/messages/devicebound/", identity.device),
    }
}

/// What a device asks or answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upward<'a> {
    /// It wants the twin.
    GetTwin {
        /// What stands between `GET/` and the query; the service takes no notice of it.
        resource: &'a str,
        /// The query behind the `?` as it is written.
        query: &'a str,
    },
    /// It changes its reported properties.
    PatchReported {
        /// See [`Upward::GetTwin`].
        resource: &'a str,
        /// See [`Upward::GetTwin`].
        query: &'a str,
    },
    /// It answers a direct method.
    MethodAnswer {
        /// The status, as it is written.
        status: &'a str,
        /// See [`Upward::GetTwin`].
        query: &'a str,
    },
}

impl<'a> Upward<'a> {
    /// Reads a topic as an edgeHub does (its `TwinAddressHelper`); `None` for every other topic.
    pub fn parse(topic: &'a str) -> Option<Self> {
        let path = topic.strip_prefix("$iothub/")?;
        let split = |rest: &'a str| {
            let (resource, query) = rest.split_once('?').unwrap_or((rest, ""));
            (resource.strip_suffix('/').unwrap_or(resource), query)
        };
        if let Some(rest) = path.strip_prefix("twin/GET/") {
            let (resource, query) = split(rest);
            return Some(Self::GetTwin { resource, query });
        }
        if let Some(rest) = path.strip_prefix("twin/PATCH/properties/reported/") {
            let (resource, query) = split(rest);
            return Some(Self::PatchReported { resource, query });
        }
        let (status, query) = split(path.strip_prefix("methods/res/")?);
        Some(Self::MethodAnswer { status, query })
    }

    /// The query of any of them.
    pub fn query(self) -> &'a str {
        match self {
            Self::GetTwin { query, .. } | Self::PatchReported { query, .. } | Self::MethodAnswer { query, .. } => query,
        }
    }
}

/// What the hub says to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Downward<'a> {
    /// The answer to a request about the twin.
    TwinAnswer {
        /// As in HTTP: 200 with the twin, 204 for a change taken, 400, 429 and 5xx.
        status: u16,
        /// The request.
        rid: &'a str,
        /// Of the reported properties, after a change.
        version: Option<u64>,
    },
    /// Desired properties have changed; the payload is the change with its `$version`.
    Desired {
        /// The version the change leads to.
        version: Option<u64>,
    },
    /// A direct method is called.
    Method {
        /// Its name.
        name: Cow<'a, str>,
        /// To be repeated in the answer.
        rid: &'a str,
    },
    /// A cloud-to-device message.
    Command {
        /// The device it is for.
        device: &'a str,
        /// The module it is for.
        module: Option<&'a str>,
        /// Its properties: [`Command::parse`].
        bag: &'a str,
    },
}

impl<'a> Downward<'a> {
    /// Reads a topic; `None` for every other one.
    pub fn parse(topic: &'a str) -> Option<Self> {
        let Some(path) = topic.strip_prefix("$iothub/") else { return Self::command(topic) };
        let (path, query) = path.split_once("/?")?;
        if let Some(status) = path.strip_prefix("twin/res/") {
            let version = field(query, "$version").and_then(|version| version.parse().ok());
            return Some(Self::TwinAnswer { status: status.parse().ok()?, rid: field(query, "$rid")?, version });
        }
        if let Some(name) = path.strip_prefix("methods/POST/") {
            let named = !name.is_empty() && !name.contains('/');
            return named.then_some(Self::Method { name: bag::unescape(name), rid: field(query, "$rid")? });
        }
        let version = field(query, "$version").and_then(|version| version.parse().ok());
        (path == "twin/PATCH/properties/desired").then_some(Self::Desired { version })
    }

    fn command(topic: &'a str) -> Option<Self> {
        let (device, rest) = topic.strip_prefix("devices/")?.split_once('/')?;
        let (module, rest) = match rest.strip_prefix("modules/") {
            Some(rest) => rest.split_once('/').map(|(module, rest)| (Some(module), rest))?,
            None => (None, rest),
        };
        let tail = rest.strip_prefix("messages/devicebound")?;
        let bag = if tail.is_empty() { tail } else { tail.strip_prefix('/')? };
        Some(Self::Command { device, module, bag })
    }
}

/// The value of a field of a query as it is written; the last one counts.
pub fn field<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let named = |pair: &'a str| pair.split_once('=').filter(|(found, _)| *found == name).map(|(_, value)| value);
    query.split('&').filter_map(named).next_back()
}

/// The properties of a cloud-to-device message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// `$.mid`
    pub message_id: Option<String>,
    /// `$.cid`
    pub correlation_id: Option<String>,
    /// `$.uid`
    pub user_id: Option<String>,
    /// `$.to`, the address the service sent it to.
    pub to: Option<String>,
    /// `$.ct`
    pub content_type: Option<String>,
    /// `$.ce`
    pub content_encoding: Option<String>,
    /// `$.exp`, when it becomes void, ISO 8601.
    pub expiry: Option<String>,
    /// `iothub-ack`: `none`, `positive`, `negative`, `full`.
    pub ack: Option<String>,
    /// Application properties in their order; a name without a value has none.
    pub properties: Vec<(String, Option<String>)>,
}

const ACK: &str = "iothub-ack";

impl Command {
    /// Reads a bag. System properties that are none of the above are left out.
    pub fn parse(bag: &str) -> Result<Self, BagError> {
        let mut command = Self::default();
        for (name, value) in bag::decode(bag)? {
            let value = value.map(Cow::into_owned);
            match command.system(&name) {
                Some(field) => *field = value,
                None if name.starts_with("$.") => {}
                None => command.properties.push((name.into_owned(), value)),
            }
        }
        Ok(command)
    }

    fn system(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "$.mid" => &mut self.message_id,
            "$.cid" => &mut self.correlation_id,
            "$.uid" => &mut self.user_id,
            "$.to" => &mut self.to,
            "$.ct" => &mut self.content_type,
            "$.ce" => &mut self.content_encoding,
            "$.exp" => &mut self.expiry,
            ACK => &mut self.ack,
            _ => return None,
        })
    }

    /// The topic on which it goes down.
    pub fn topic(&self, identity: &Identity<'_>) -> String {
        let mut topic = command_prefix(identity);
        let start = topic.len();
        let system = [
            ("$.mid", &self.message_id),
            ("$.cid", &self.correlation_id),
            ("$.uid", &self.user_id),
            ("$.to", &self.to),
            ("$.ct", &self.content_type),
            ("$.ce", &self.content_encoding),
            ("$.exp", &self.expiry),
            (ACK, &self.ack),
        ];
        for (name, value) in system {
            if let Some(value) = value {
                bag::push(&mut topic, start, name, value);
            }
        }
        for (name, value) in &self.properties {
            match value {
                Some(value) => bag::push(&mut topic, start, name, value),
                None => {
                    if topic.len() > start {
                        topic.push('&');
                    }
                    bag::encode(&mut topic, name);
                }
            }
        }
        topic
    }
}

/// The topic of a question for the twin. Its body is one space, as Microsoft's SDKs send it.
pub fn get_twin(rid: &str) -> String {
    format!("$iothub/twin/GET/?$rid={rid}")
}

/// The topic of a change of reported properties.
pub fn patch_reported(rid: &str) -> String {
    format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}")
}

/// The topic of an answer about the twin.
pub fn twin_answer(status: u16, rid: &str, version: Option<u64>) -> String {
    let mut topic = format!("$iothub/twin/res/{status}/?$rid={rid}");
    if let Some(version) = version {
        let _ = write!(topic, "&$version={version}");
    }
    topic
}

/// The topic of a change of desired properties.
pub fn desired(version: u64) -> String {
    format!("$iothub/twin/PATCH/properties/desired/?$version={version}")
}

/// The topic of a call.
pub fn method(name: &str, rid: &str) -> String {
    let mut topic = "$iothub/methods/POST/".to_owned();
    let _ = write!(Encoder(&mut topic), "{name}");
    let _ = write!(topic, "/?$rid={rid}");
    topic
}

/// The topic of the answer to a call.
pub fn method_answer(status: i32, rid: &str) -> String {
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_says() {
        let answer = |status, rid, version| Some(Downward::TwinAnswer { status, rid, version });
        let method = |name: &'static str, rid| Some(Downward::Method { name: name.into(), rid });
        let command = |device, module, bag| Some(Downward::Command { device, module, bag });
        for (topic, expect) in [
            ("$iothub/twin/res/200/?$rid=1", answer(200, "1", None)),
            ("$iothub/twin/res/204/?$rid=a%20b&$version=4", answer(204, "a%20b", Some(4))),
            ("$iothub/twin/res/429/?$version=x&$rid=7", answer(429, "7", None)),
            ("$iothub/twin/res/200", None),
            ("$iothub/twin/res/2x0/?$rid=1", None),
            ("$iothub/twin/res/200/?rid=1", None),
            ("$iothub/twin/PATCH/properties/desired/?$version=8", Some(Downward::Desired { version: Some(8) })),
            ("$iothub/twin/PATCH/properties/desired/?", Some(Downward::Desired { version: None })),
            ("$iothub/twin/PATCH/properties/reported/?$version=8", None),
            ("$iothub/methods/POST/reboot/?$rid=1", method("reboot", "1")),
            ("$iothub/methods/POST/no%20payload/?$rid=ff", method("no payload", "ff")),
            ("$iothub/methods/POST//?$rid=1", None),
            ("$iothub/methods/POST/a/b/?$rid=1", None),
            ("$iothub/methods/POST/reboot", None),
            ("devices/d/messages/devicebound/", command("d", None, "")),
            ("devices/d/messages/devicebound", command("d", None, "")),
            ("devices/d/messages/devicebound/a=b", command("d", None, "a=b")),
            ("devices/d/modules/m/messages/devicebound/a=b", command("d", Some("m"), "a=b")),
            ("devices/d/messages/events/a=b", None),
            ("", None),
        ] {
            assert_eq!(Downward::parse(topic), expect, "{topic}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let rid = "94cce381-109d-45e1-8930-b1a730258f9a";
        for name in ["reboot", "no payload", "a/b?c=d", "Öl #1"] {
            let topic = method(name, rid);
            assert_eq!(Downward::parse(&topic), Some(Downward::Method { name: name.into(), rid }), "{topic}");
        }
        let topic = twin_answer(204, rid, Some(5));
        assert_eq!(Downward::parse(&topic), Some(Downward::TwinAnswer { status: 204, rid, version: Some(5) }));
        assert_eq!(Downward::parse(&desired(9)), Some(Downward::Desired { version: Some(9) }));
        for topic in [get_twin(rid), patch_reported(rid), method_answer(-1, rid)] {
            let read = Upward::parse(&topic).unwrap();
            assert_eq!(field(read.query(), "$rid"), Some(rid), "{topic}");
        }
        let command = Command {
            message_id: Some("m/1".into()),
            to: Some("/devices/d/messages/deviceBound".into()),
            ack: Some("full".into()),
            properties: vec![
                ("a&b".into(), Some("R&D +".into())),
                ("empty".into(), None),
                ("ü".into(), Some("°C".into())),
            ],
            ..Command::default()
        };
        let identity = Identity { hub: "h", device: "d", module: None };
        let topic = command.topic(&identity);
        let Some(Downward::Command { bag, .. }) = Downward::parse(&topic) else { panic!("{topic}") };
        assert_eq!(Command::parse(bag).unwrap(), command, "{topic}");
    }

    #[test]
    fn filters_of_an_identity() {
        let device = Identity { hub: "h", device: "d", module: None };
        assert_eq!(commands(&device), "devices/d/messages/devicebound/#");
        assert_eq!(commands(&Identity { module: Some("m"), ..device }), "devices/d/modules/m/messages/devicebound/#");
    }
}
