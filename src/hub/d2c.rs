//! Device to cloud: the topic a message goes up on, and whether it fits.
//!
//! ```text
//! devices/{device}[/modules/{module}]/messages/events/{bag}
//! ```
//!
//! In the bag come the system properties first (`$.mid`, `$.ct`, `$.ce`, `$.ctime`), then `device` where
//! a gateway speaks for another device, then the rule's properties in their order.

use std::fmt;
use std::fmt::Write as _;

use super::bag;
use super::connect::Identity;
use super::limits::{D2C_MAX_BYTES, MESSAGE_ID_MARKS, MESSAGE_ID_MAX_CHARS, TOPIC_MAX_BYTES};
use crate::message::{Content, HubMessage};

/// The application property that names the device in gateway identity.
pub const DEVICE: &str = "device";

/// The application property, `true`, of a message that waited through an outage.
pub const REPLAYED: &str = "replayed";

/// Whose connection a message goes up on.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The identity of the connection.
    pub identity: Identity<'a>,
    /// One connection for many devices: the device a rule names becomes the property [`DEVICE`].
    /// Without it, the device of the message is the identity itself and is not repeated.
    pub gateway: bool,
    /// The message waited through an outage and gets the property [`REPLAYED`] that says so.
    pub replayed: bool,
}

impl<'a> Sender<'a> {
    fn device_property(&self, message: &HubMessage<'a>) -> Option<&'a str> {
        Some(message.device).filter(|device| self.gateway && !device.is_empty())
    }
}

/// Appends the whole topic of `message`.
///
/// An empty `message_id` is not sent, and one of the message's own goes before it. A bag as the plant wrote it goes up as it is, with nothing added.
pub fn push_topic<'a>(out: &mut String, sender: &Sender<'a>, message: &HubMessage<'a>, message_id: &str) {
    push_prefix(out, &sender.identity);
    let start = out.len();
    if message.content == Content::BagAsGiven {
        if let Some((_, given)) = message.properties().next() {
            out.push_str(given);
        }
        return;
    }
    let message_id = message.own_id.unwrap_or(message_id);
    if !message_id.is_empty() {
        bag::push(out, start, "$.mid", message_id);
    }
    if let Some(content_type) = message.content.content_type() {
        bag::push(out, start, "$.ct", content_type);
    }
    if let Some(encoding) = message.content.encoding() {
        bag::push(out, start, "$.ce", encoding);
    }
    bag::push(out, start, "$.ctime", "");
    let _ = write!(bag::Encoder(out), "{}", message.created);
    if let Some(device) = sender.device_property(message) {
        bag::push(out, start, DEVICE, device);
    }
    for (name, value) in message.properties() {
        bag::push(out, start, name, value);
    }
    if sender.replayed {
        bag::push(out, start, REPLAYED, "true");
    }
}

/// Appends the topic up to the bag, with the `/` the hub requires.
pub fn push_prefix(out: &mut String, identity: &Identity<'_>) {
    out.push_str("devices/");
    out.push_str(identity.device);
    if let Some(module) = identity.module {
        out.push_str("/modules/");
        out.push_str(module);
    }
    out.push_str("/messages/events/");
}

/// The bag of a local publish that is already addressed to `devices/{device}[/modules/{module}]/messages/events/..`, as
/// the remap of a classic bridge writes it. `None` for every other topic. A module takes its device's form as well.
///
/// The `/` before the bag may be missing with it, and one behind it is taken away; [`bag::check`] says
/// whether the hub will accept the rest.
pub fn addressed<'t>(topic: &'t str, (device, module): (&str, Option<&str>)) -> Option<&'t str> {
    let rest = topic.strip_prefix("devices/")?.strip_prefix(device)?;
    let of_module = |module| rest.strip_prefix("/modules/")?.strip_prefix(module);
    let rest = module.and_then(of_module).unwrap_or(rest).strip_prefix("/messages/events")?;
    if rest.is_empty() {
        return Some(rest);
    }
    let bag = rest.strip_prefix('/')?;
    Some(bag.strip_suffix('/').unwrap_or(bag))
}

/// A message that the hub would answer by closing the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeError {
    /// Body and properties together, in bytes.
    Message(usize),
    /// The topic, in bytes.
    Topic(usize),
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(size) => {
                write!(f, "the message has {size} bytes with its properties; the hub takes {D2C_MAX_BYTES}")
            }
            Self::Topic(size) => {
                write!(f, "the properties make a topic of {size} bytes; MQTT carries {TOPIC_MAX_BYTES}")
            }
        }
    }
}

impl std::error::Error for SizeError {}

/// Says whether the hub takes this message; `topic` is what [`push_topic`] made of it.
pub fn check_size<'a>(
    sender: &Sender<'a>,
    message: &HubMessage<'a>,
    message_id: &str,
    topic: &str,
) -> Result<(), SizeError> {
    if topic.len() > TOPIC_MAX_BYTES {
        return Err(SizeError::Topic(topic.len()));
    }
    // No value is longer than its encoded form, so almost every message is decided here.
    if message.body.len() + topic.len() <= D2C_MAX_BYTES {
        return Ok(());
    }
    match size(sender, message, message_id) {
        size if size > D2C_MAX_BYTES => Err(SizeError::Message(size)),
        _ => Ok(()),
    }
}

/// The size the hub counts: body, values of system properties, names and values of the others.
pub fn size<'a>(sender: &Sender<'a>, message: &HubMessage<'a>, message_id: &str) -> usize {
    if message.content == Content::BagAsGiven {
        let given = message.properties().next().map_or("", |(_, given)| given);
        return message.body.len() + bag_size(given);
    }
    const CREATED: usize = "2026-01-01T00:00:00.000Z".len();
    let system = message.own_id.unwrap_or(message_id).len()
        + message.content.content_type().map_or(0, str::len)
        + message.content.encoding().map_or(0, str::len)
        + CREATED;
    let device = sender.device_property(message).map_or(0, |device| DEVICE.len() + device.len());
    let named: usize = message.properties().map(|(name, value)| counted(name, value)).sum();
    let replayed = if sender.replayed { counted(REPLAYED, "true") } else { 0 };
    message.body.len() + system + device + named + replayed
}

/// The same count for the properties of a bag.
pub fn bag_size(given: &str) -> usize {
    let pair = |(name, value): (&str, Option<&str>)| {
        counted(&bag::unescape(name), &value.map(bag::unescape).unwrap_or_default())
    };
    bag::pairs(given).flatten().map(pair).sum()
}

fn counted(name: &str, value: &str) -> usize {
    if name.starts_with("$.") { value.len() } else { name.len() + value.len() }
}

/// Says whether the hub allows this message id.
pub fn is_message_id(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || MESSAGE_ID_MARKS.contains(c);
    !text.is_empty() && text.len() <= MESSAGE_ID_MAX_CHARS && text.chars().all(allowed)
}
