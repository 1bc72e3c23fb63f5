//! Topic aliases of MQTT 5: a number for a topic name, on one connection and in one direction.
//!
//! Inward the client sets them ([MQTT-3.3.2-7]); outward the broker gives one to each topic, first come, until
//! the client's own maximum or [`MAX`] is reached. Neither table takes memory before it is used.

use std::collections::HashMap;
use std::num::NonZeroU16;

use bytestring::ByteString;

use super::wire::Close;

/// The Topic Alias Maximum of the broker, and the most aliases it uses towards a client.
pub(super) const MAX: u16 = 32;

/// Aliases a client has set.
#[derive(Debug, Default)]
pub(super) struct Inward {
    topics: Vec<Option<ByteString>>,
}

impl Inward {
    /// Sets the alias where there is a topic, and fills the topic in where there is none.
    pub(super) fn resolve(&mut self, alias: NonZeroU16, topic: &mut ByteString) -> Result<(), Close> {
        if alias.get() > MAX {
            return Err(Close::TopicAlias); // [MQTT-3.3.2-9]
        }
        let place = usize::from(alias.get());
        if topic.is_empty() {
            let known = self.topics.get(place).cloned().flatten();
            *topic = known.ok_or(Close::Protocol)?;
            return Ok(());
        }
        if self.topics.len() <= place {
            self.topics.resize(place + 1, None);
        }
        if let Some(known) = self.topics.get_mut(place) {
            // The topic points into the read buffer; the table keeps its own copy.
            *known = Some(ByteString::from(&**topic));
        }
        Ok(())
    }
}

/// Aliases the broker uses towards a client.
#[derive(Debug, Default)]
pub(super) struct Outward {
    aliases: HashMap<ByteString, NonZeroU16>,
    max: usize,
}

/// How a topic goes out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// By name; all aliases are taken.
    Name,
    /// By name, and from now on also by this alias.
    NameAnd(NonZeroU16),
    /// By alias alone.
    Alias(NonZeroU16),
}

impl Outward {
    /// `max` is the client's Topic Alias Maximum, 0 where it wants none ([MQTT-3.1.2-26], [MQTT-3.1.2-27]).
    pub(super) fn new(max: u16) -> Self {
        Self { aliases: HashMap::new(), max: usize::from(max.min(MAX)) }
    }

    /// Picks how the topic goes out.
    pub(super) fn pick(&mut self, topic: &ByteString) -> Sent {
        if self.max == 0 {
            return Sent::Name;
        }
        if let Some(alias) = self.aliases.get(topic) {
            return Sent::Alias(*alias);
        }
        let next = u16::try_from(self.aliases.len() + 1).ok().and_then(NonZeroU16::new);
        match next {
            Some(alias) if self.aliases.len() < self.max => {
                self.aliases.insert(topic.clone(), alias);
                Sent::NameAnd(alias)
            }
            _ => Sent::Name,
        }
    }

    /// Takes an alias back whose first packet could not be sent.
    pub(super) fn forget(&mut self, topic: &ByteString) {
        self.aliases.remove(topic);
    }
}
