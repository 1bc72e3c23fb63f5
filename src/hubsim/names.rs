//! User names and publish topics, read as Microsoft's servers read them.

use std::borrow::Cow;

use crate::hub::bag;

/// A user name: `{host}/{device}[/{module}]/[?]api-version=..[&DeviceClientType=..]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Username<'a> {
    /// The hub the client thinks it talks to.
    pub host: &'a str,
    /// The device id.
    pub device: &'a str,
    /// The module id.
    pub module: Option<&'a str>,
    /// How the client names itself.
    pub client_type: Cow<'a, str>,
    /// The model of a plug-and-play device.
    pub model_id: Option<Cow<'a, str>>,
    /// The gateways between a nested device and its hub.
    pub auth_chain: Option<Cow<'a, str>>,
}

impl<'a> Username<'a> {
    /// Reads a user name; `None` where an edgeHub would call it malformed.
    ///
    /// The version must be there and not empty, its value is not looked at. The `?` before it is
    /// missing in older guides and may be.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('/');
        let (host, device, third, fourth) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() || device.is_empty() {
            return None;
        }
        let (module, query) = match fourth {
            None => (None, third),
            Some(query) => (Some(third), query),
        };
        let query = query.strip_prefix('?').unwrap_or(query);
        let field = |name: &str| {
            let named = |pair: &'a str| pair.split_once('=').filter(|(n, v)| *n == name && !v.is_empty());
            query.split('&').find_map(named).map(|(_, value)| bag::unescape(value))
        };
        field("api-version")?;
        Some(Self {
            host,
            device,
            module,
            client_type: field("DeviceClientType").unwrap_or_default(),
            model_id: field("model-id"),
            auth_chain: field("auth-chain"),
        })
    }
}

/// Where a publish goes.
#[derive(Debug, PartialEq, Eq)]
pub struct EventsTopic<'a> {
    /// The device id of the topic.
    pub device: &'a str,
    /// The module id of the topic.
    pub module: Option<&'a str>,
    /// The property bag.
    pub bag: &'a str,
}

impl<'a> EventsTopic<'a> {
    /// Reads `devices/{device}[/modules/{module}]/messages/events[/[{bag}]]`.
    ///
    /// The bag is everything behind the `/`; [`parse_edge`](Self::parse_edge) is stricter.
    pub fn parse(topic: &'a str) -> Option<Self> {
        let (device, rest) = topic.strip_prefix("devices/")?.split_once('/')?;
        let (module, rest) = match rest.strip_prefix("modules/") {
            Some(rest) => rest.split_once('/').map(|(module, rest)| (Some(module), rest))?,
            None => (None, rest),
        };
        let tail = rest.strip_prefix("messages/events")?;
        let bag = if tail.is_empty() { tail } else { tail.strip_prefix('/')? };
        Some(Self { device, module, bag })
    }

    /// Reads the topic as an edgeHub does: a `/` before it is tolerated, one inside the bag is not.
    pub fn parse_edge(topic: &'a str) -> Option<Self> {
        let read = Self::parse(topic.strip_prefix('/').unwrap_or(topic))?;
        let bag = read.bag.strip_suffix('/').unwrap_or(read.bag);
        (!bag.contains('/')).then_some(Self { bag, ..read })
    }
}

/// The topic filters a hub grants to this identity.
pub fn is_known_filter(filter: &str, device: &str, module: Option<&str>) -> bool {
    const FIXED: [&str; 5] = [
        "$iothub/twin/res/#",
        "$iothub/twin/PATCH/properties/desired/#",
        "$iothub/methods/POST/#",
        "$iothub/credentials/res/#",
        "devices/+/messages/devicebound/#",
    ];
    if FIXED.contains(&filter) {
        return true;
    }
    let Some(rest) = filter.strip_prefix("devices/").and_then(|f| f.strip_prefix(device)) else { return false };
    match module {
        None => rest == "/messages/devicebound/#",
        Some(module) => rest
            .strip_prefix("/modules/")
            .and_then(|r| r.strip_prefix(module))
            .is_some_and(|r| matches!(r, "/inputs/#" | "/#" | "/messages/devicebound/#")),
    }
}
