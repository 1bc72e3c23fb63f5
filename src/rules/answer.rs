//! What the plant answers to a command: whether a publish is the answer, and what a method is told by it.
//!
//! `ack` and `response` read it with the keys of a body, and know the names of their command. `when` says which publishes
//! are meant where several calls, or several devices, share a topic: `when = ".ref == $id"`. What a `script` makes several
//! of, the first counts.

use std::sync::Arc;
use std::time::Duration;

use super::command::{self, PAYLOAD};
use super::make::{Records, Taken};
use super::rule::Message;
use crate::message::{HubMessage, Timestamp};

/// Under this name the status rides in the record of an answer.
pub(super) const STATUS: &str = "status";

/// What a command waits for before it is complete.
#[derive(Debug, Clone)]
pub struct Answer {
    /// How long.
    pub within: Duration,
    /// The field that is the status of a method; 200 without one.
    pub(super) status: Option<Box<[Box<str>]>>,
    /// How it is read; without it any publish is the answer, as it is.
    pub(super) reading: Option<Arc<Message>>,
    /// What the names of the command stand for.
    pub(super) names: Vec<String>,
}

/// What a publish on the topic of an answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Not the answer.
    Another,
    /// The answer.
    Is {
        /// The status of a method.
        status: i32,
        /// What is answered.
        body: Vec<u8>,
    },
    /// An answer nobody can read, and why.
    Unreadable(String),
}

impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        let readings = (self.reading.as_ref().map(Arc::as_ptr), other.reading.as_ref().map(Arc::as_ptr));
        (self.within, &self.status, &self.names) == (other.within, &other.status, &other.names)
            && readings.0 == readings.1
    }
}

impl Eq for Answer {}

impl Answer {
    /// True where a publish on its topic may be none of its answers: only one that is read says so.
    pub fn picks(&self) -> bool {
        self.reading.is_some()
    }

    /// True where others may be answered on its topic, too.
    fn shares(&self) -> bool {
        self.reading.as_ref().is_some_and(|message| message.when.is_some() || message.lookup.is_some())
    }

    /// What a publish on its topic is that is too large to be read.
    pub fn too_large(&self) -> Reply {
        match self.shares() {
            true => Reply::Another,
            false => Reply::Is { status: 200, body: Vec::new() },
        }
    }

    /// Reads a publish on its topic.
    pub fn read(&self, payload: &[u8], received: Timestamp) -> Reply {
        let Some(message) = &self.reading else {
            return match self.plain_status(payload) {
                Ok(status) => Reply::Is { status, body: payload.to_vec() },
                Err(why) => Reply::Unreadable(why),
            };
        };
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut records = Records::default();
        match command::make(message, (&names, payload), received, &mut records) {
            Ok(Taken::When | Taken::Lookup) => Reply::Another,
            Ok(Taken::Yes) if message.drops => Reply::Is { status: 200, body: payload.to_vec() },
            Ok(Taken::Yes) => self.of_record(message, &records),
            Err(_) if self.shares() => Reply::Another,
            Err(refusal) => Reply::Unreadable(refusal.detail),
        }
    }

    fn of_record(&self, message: &Message, records: &Records) -> Reply {
        let first = records.ends.first().and_then(|(_, end)| records.bytes.get(..*end));
        let Some(Ok(made)) = first.map(HubMessage::parse) else { return Reply::Another };
        let text = |wanted: &str| made.properties().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        let has_payload = message.props.iter().any(|(name, _)| **name == *PAYLOAD);
        let body = match text(PAYLOAD) {
            Some(payload) => payload.as_bytes(),
            None if has_payload => return Reply::Unreadable("it lacks a field that `payload` needs".to_owned()),
            None => made.body,
        };
        match text(STATUS).map_or(Ok(200), number) {
            Ok(status) => Reply::Is { status, body: body.to_vec() },
            Err(why) => Reply::Unreadable(why),
        }
    }

    fn plain_status(&self, payload: &[u8]) -> Result<i32, String> {
        let Some(path) = &self.status else { return Ok(200) };
        let value = serde_json::from_slice::<serde_json::Value>(payload).ok();
        let found = value.as_ref().and_then(|value| path.iter().try_fold(value, |value, step| value.get(&**step)));
        match found {
            None | Some(serde_json::Value::Null) => Ok(200),
            Some(serde_json::Value::String(text)) => number(text),
            Some(other) => number(&other.to_string()),
        }
    }
}

fn number(text: &str) -> Result<i32, String> {
    text.trim().parse().map_err(|_| format!("its status is no whole number: {}", crate::message::excerpt(text)))
}
