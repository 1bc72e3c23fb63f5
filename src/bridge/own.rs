//! The identity of the uplink: what is addressed to it, and what the hub takes from it.

use crate::hub::connect::Identity;
use crate::hub::{bag, d2c, limits};
use crate::message::{Content, HubMessage, Publish, RecordWriter};

/// Characters of a `$.mid` at most, and what a topic has beside names and values.
const TOPIC_OVERHEAD: usize = 512;

/// A `$.mid` as long as one can be: that of a message of a window.
pub(super) const LONGEST_ID: &str = "0123456789abcdef-4611686018427387904-4611686018427387904";

/// The identity of the uplink: what is addressed to it goes up as it is.
#[derive(Debug, Clone)]
pub struct Own {
    /// The hub's host name.
    pub hub: String,
    /// The device id; `None` where the uplink is no hub.
    pub device: Option<String>,
    /// The module id.
    pub module: Option<String>,
    /// Late messages get a property that says so.
    pub mark_late: bool,
    /// The bytes that the hub bills as one message; `None` where nothing is billed.
    pub block: Option<usize>,
}

impl Own {
    pub(super) fn identity(&self) -> Identity<'_> {
        let device = self.device.as_deref().unwrap_or_default();
        Identity { hub: &self.hub, device, module: self.module.as_deref() }
    }

    /// The property bag of a topic that is addressed to this identity.
    pub(super) fn addressed<'t>(&self, topic: &'t str) -> Option<&'t str> {
        self.device.as_deref().and_then(|own| d2c::addressed(topic, (own, self.module.as_deref())))
    }

    /// Writes the record of a publish that goes up as it is, or says why the hub would not take it.
    pub(super) fn addressed_record(
        &self,
        publish: &Publish<'_>,
        given: &str,
        record: &mut Vec<u8>,
    ) -> Result<(), (&'static str, String)> {
        if let Err(error) = bag::check(given) {
            let detail = format!("the hub would close the connection at this property bag: {error}");
            return Err(("bad_property_bag", detail));
        }
        let mut writer = RecordWriter::begin(record, publish.received, Content::BagAsGiven, |_| ());
        writer.property("", |out| out.extend_from_slice(given.as_bytes()));
        let written = writer.finish(|out| out.extend_from_slice(publish.payload));
        match written.is_ok().then(|| self.too_large(record)).flatten() {
            Some(detail) => Err(("too_large", detail)),
            None => Ok(()),
        }
    }

    /// In words why the hub would not take a record; `None` where it will.
    pub(super) fn too_large(&self, record: &[u8]) -> Option<String> {
        // Percent-encoding triples at most, so this decides all but the few that come near a limit.
        if TOPIC_OVERHEAD + 3 * record.len() <= limits::TOPIC_MAX_BYTES {
            return None;
        }
        let message = HubMessage::parse(record).ok()?;
        let longest_topic = TOPIC_OVERHEAD + 3 * (record.len() - message.body.len());
        if longest_topic <= limits::TOPIC_MAX_BYTES && longest_topic + message.body.len() <= limits::D2C_MAX_BYTES {
            return None;
        }
        let sender = d2c::Sender { identity: self.identity(), gateway: true, replayed: self.mark_late };
        let mut topic = String::new();
        d2c::push_topic(&mut topic, &sender, &message, LONGEST_ID);
        d2c::check_size(&sender, &message, LONGEST_ID, &topic).err().map(|error| error.to_string())
    }
}
