//! One line of the quarantine, written and read back.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::Reason;
use crate::message::{HubMessage, Publish, Timestamp};

/// Digits of an identifier: enough to tell a million entries apart.
const ID_DIGITS: usize = 12;

/// An entry as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Names it: a hash of its line.
    #[serde(skip)]
    pub id: String,
    /// When the broker read the publish, RFC 3339.
    pub time: String,
    /// The client that published; empty for a hub message.
    pub client: String,
    /// The user it had proved to be.
    pub user: Option<String>,
    /// The topic as published; for a hub message the device it is of.
    pub topic: String,
    /// As published.
    pub qos: u8,
    /// As published.
    pub retain: bool,
    /// The rule that failed; empty where no rule was involved.
    pub rule: String,
    /// A fixed word.
    pub reason: String,
    /// A sentence.
    pub detail: String,
    /// For a hub message its `$.mid`.
    pub message_id: String,
    /// The device of a hub message.
    pub device: String,
    payload: Option<String>,
    payload_base64: Option<String>,
    record_base64: Option<String>,
    /// Where the bytes themselves were left out.
    #[serde(skip)]
    size: Option<usize>,
}

impl Default for Entry {
    fn default() -> Self {
        let no = String::new;
        Self {
            id: no(),
            time: no(),
            client: no(),
            user: None,
            topic: no(),
            qos: 0,
            retain: false,
            rule: no(),
            reason: no(),
            detail: no(),
            message_id: no(),
            device: no(),
            payload: None,
            payload_base64: None,
            record_base64: None,
            size: None,
        }
    }
}

impl Entry {
    /// Reads a line; `None` for one that a crash cut short.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end_matches('\n');
        let entry: Self = serde_json::from_str(line).ok()?;
        Some(Self { id: id(line), ..entry })
    }

    /// The entry without its bytes, which may be many.
    #[must_use]
    pub fn summary(self) -> Self {
        let size = self.size();
        let record_base64 = self.record_base64.map(|_| String::new());
        Self { size: Some(size), payload: None, payload_base64: None, record_base64, ..self }
    }

    /// The original bytes.
    pub fn payload(&self) -> Vec<u8> {
        match (&self.payload, &self.payload_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(coded)) => BASE64_STANDARD.decode(coded).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }

    /// The record of a hub message; `None` for a publish.
    pub fn record(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(self.record_base64.as_ref()?).ok()
    }

    /// True for a hub message, false for a publish.
    pub fn is_message(&self) -> bool {
        self.record_base64.is_some()
    }

    /// When the broker read the publish.
    pub fn received(&self) -> Option<Timestamp> {
        let time: jiff::Timestamp = self.time.parse().ok()?;
        Some(Timestamp(time.as_millisecond()))
    }

    /// The length of the payload.
    pub fn size(&self) -> usize {
        if let Some(size) = self.size {
            return size;
        }
        match (&self.payload, &self.payload_base64) {
            (Some(text), _) => text.len(),
            (None, Some(coded)) => coded.len() / 4 * 3 - coded.bytes().rev().take_while(|byte| *byte == b'=').count(),
            (None, None) => 0,
        }
    }
}

/// The identifier of a line without its end.
pub(super) fn id(line: &str) -> String {
    let mut id = String::with_capacity(64);
    for byte in Sha256::digest(line.as_bytes()) {
        let _ = write!(id, "{byte:02x}");
    }
    id.truncate(ID_DIGITS);
    id
}

/// The line of a publish.
pub(super) fn of_publish(publish: &Publish<'_>, reason: Reason<'_>) -> Vec<u8> {
    let mut entry = json!({
        "time": publish.received.to_string(),
        "client": publish.client,
        "topic": publish.topic,
        "qos": publish.qos,
        "retain": publish.retain,
        "rule": reason.rule,
        "reason": reason.reason,
        "detail": reason.detail,
    });
    if let (Some(user), Some(entry)) = (publish.user, entry.as_object_mut()) {
        entry.insert("user".to_owned(), user.into());
    }
    finish(entry, publish.payload)
}

/// The line of a stored hub message; one that cannot be read is kept with its bytes alone.
pub(super) fn of_message(message_id: &str, record: &[u8], reason: Reason<'_>) -> Vec<u8> {
    let message = HubMessage::parse(record).ok();
    let properties: Map<String, Value> = message
        .iter()
        .flat_map(HubMessage::properties)
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect();
    let entry = json!({
        "time": message.map_or_else(Timestamp::now, |message| message.created).to_string(),
        "message_id": message.and_then(|message| message.own_id).unwrap_or(message_id),
        "device": message.map_or("", |message| message.device),
        "properties": properties,
        "rule": reason.rule,
        "reason": reason.reason,
        "detail": reason.detail,
        "record_base64": BASE64_STANDARD.encode(record),
    });
    finish(entry, message.map_or(&[], |message| message.body))
}

fn finish(mut entry: Value, payload: &[u8]) -> Vec<u8> {
    // Tells the lines of equal publishes of one millisecond apart.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let (key, payload) = match std::str::from_utf8(payload) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => ("payload_base64", BASE64_STANDARD.encode(payload)),
    };
    if let Some(entry) = entry.as_object_mut() {
        entry.insert(key.to_owned(), payload.into());
        entry.insert("nr".to_owned(), NUMBER.fetch_add(1, Ordering::Relaxed).into());
    }
    let mut line = entry.to_string().into_bytes();
    line.push(b'\n');
    line
}
