//! `batch`: a list of messages.

use super::{LARGEST_BODY, SYSTEM_BYTES};
use crate::message::HubMessage;

/// The settings of a batch.
#[derive(Debug, PartialEq)]
pub(in crate::rules) struct Batch {
    pub(in crate::rules) max_messages: u64,
    /// Of the body; where nothing is said, as many as one billed block has beside the properties.
    pub(in crate::rules) max_bytes: Option<usize>,
    /// Milliseconds.
    pub(in crate::rules) max_wait: i64,
}

impl Batch {
    /// The longest list for messages like this one, where so many bytes are billed as one.
    pub(super) fn most(&self, message: &HubMessage<'_>, block: usize) -> usize {
        let wanted = self.max_bytes.unwrap_or_else(|| {
            let named: usize = message.properties().map(|(name, value)| name.len() + value.len()).sum();
            block.saturating_sub(SYSTEM_BYTES + "device".len() + message.device.len() + named)
        });
        wanted.min(LARGEST_BODY)
    }
}
