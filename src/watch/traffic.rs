//! The lines of a recording: JSON, one object a line, so that `less`, `grep` and `jq` read it too.
//!
//! | line | meaning |
//! |---|---|
//! | `{"brownbridge_traffic":1,"began":"2026-..Z"}` | the first of a file, with the version of the format; may come again where a recording went on |
//! | `{"time":"..","topic":"..","client":"..","user":"..","qos":1,"retain":true,"payload":".."}` | a publish, when the broker read it. `user` is left out where there is none, `retain` where it is false |
//! | .. `"base64":".."` instead of `payload` | the same with a payload that is not UTF-8 |
//! | `{"time":"..","on":"connect","client":"..","address":"..","reason":".."}` | a client came or went, `reason` only where it went |
//! | `{"gap":12,"time":".."}` | so many lines are missing here: whoever wrote could not keep up |
//!
//! A line that is none of these, as a crash leaves one, is skipped by the reader and counted. Fields that are not
//! known are ignored.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::message::{Event, Presence, Publish, Timestamp};
use crate::topic;

/// The version of the format.
const VERSION: u64 = 1;

/// A line that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file begins, or goes on.
    Began,
    /// The file is of another version, which may mean anything.
    Foreign(u64),
    /// A publish.
    Publish(Recorded),
    /// A client came or went.
    Presence(Passage),
    /// So many lines are missing.
    Gap(u64),
    /// Not a line of a recording.
    Damaged,
}

/// A publish that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When the broker read it.
    pub received: Timestamp,
    /// Its topic name.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The client id of the publisher.
    pub client: String,
    /// The user of the publisher.
    pub user: Option<String>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The RETAIN flag.
    pub retain: bool,
}

/// The coming or going of a client that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// What the client did.
    pub event: Event,
    /// Its client id.
    pub client: String,
    /// The address it came from.
    pub address: String,
    /// Why its connection ended.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl Recorded {
    /// A copy of a publish.
    pub fn of(publish: &Publish<'_>) -> Self {
        Self {
            received: publish.received,
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            client: publish.client.to_owned(),
            user: publish.user.map(str::to_owned),
            qos: publish.qos,
            retain: publish.retain,
        }
    }

    /// The publish.
    pub fn as_publish(&self) -> Publish<'_> {
        Publish {
            topic: &self.topic,
            payload: &self.payload,
            client: &self.client,
            user: self.user.as_deref(),
            qos: self.qos,
            retain: self.retain,
            received: self.received,
        }
    }
}

impl Passage {
    /// A copy of what a client did.
    pub fn of(presence: &Presence<'_>) -> Self {
        Self {
            event: presence.event,
            client: presence.client.to_owned(),
            address: presence.address.to_owned(),
            reason: presence.reason.to_owned(),
            at: presence.at,
        }
    }

    /// What the client did.
    pub fn as_presence(&self) -> Presence<'_> {
        Presence { event: self.event, client: &self.client, address: &self.address, reason: &self.reason, at: self.at }
    }
}

/// A line as it stands in the file: one shape for all of them.
#[derive(Default, Serialize, Deserialize)]
struct Line<'l> {
    #[serde(skip_serializing_if = "Option::is_none")]
    brownbridge_traffic: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    began: Option<Cow<'l, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    time: Option<Cow<'l, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    topic: Option<Cow<'l, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    on: Option<Cow<'l, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    client: Option<Cow<'l, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'l, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain: Option<bool>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    address: Option<Cow<'l, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'l, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    payload: Option<Cow<'l, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    base64: Option<Cow<'l, str>>,
}

fn push(out: &mut Vec<u8>, line: &Line<'_>) {
    // Writing text to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *out, line);
    out.push(b'\n');
}

/// Appends the line a file begins with.
pub fn push_began(out: &mut Vec<u8>, now: Timestamp) {
    let began = Some(now.to_string().into());
    push(out, &Line { brownbridge_traffic: Some(VERSION), began, ..Line::default() });
}

/// Appends the line for what is missing.
pub fn push_gap(out: &mut Vec<u8>, missing: u64, now: Timestamp) {
    push(out, &Line { gap: Some(missing), time: Some(now.to_string().into()), ..Line::default() });
}

/// Appends the line of a publish.
pub fn push_publish(out: &mut Vec<u8>, publish: &Publish<'_>) {
    let text = std::str::from_utf8(publish.payload);
    let base64 = text.is_err().then(|| BASE64_STANDARD.encode(publish.payload).into());
    push(
        out,
        &Line {
            time: Some(publish.received.to_string().into()),
            topic: Some(publish.topic.into()),
            client: Some(publish.client.into()),
            user: publish.user.map(Cow::from),
            qos: Some(publish.qos),
            retain: publish.retain.then_some(true),
            payload: text.ok().map(Cow::from),
            base64,
            ..Line::default()
        },
    );
}

/// Appends the line of a client that comes or goes.
pub fn push_presence(out: &mut Vec<u8>, presence: &Presence<'_>) {
    let (on, reason) = match presence.event {
        Event::Connect => ("connect", None),
        Event::Disconnect => ("disconnect", Some(presence.reason.into())),
    };
    push(
        out,
        &Line {
            time: Some(presence.at.to_string().into()),
            on: Some(on.into()),
            client: Some(presence.client.into()),
            address: Some(presence.address.into()),
            reason,
            ..Line::default()
        },
    );
}

/// Reads a line, with or without its end.
pub fn parse(line: &[u8]) -> Entry {
    serde_json::from_slice(line).ok().and_then(read).unwrap_or(Entry::Damaged)
}

fn read(line: Line<'_>) -> Option<Entry> {
    if let Some(version) = line.brownbridge_traffic {
        return Some(if version == VERSION { Entry::Began } else { Entry::Foreign(version) });
    }
    if let Some(missing) = line.gap {
        return Some(Entry::Gap(missing));
    }
    let time: jiff::Timestamp = line.time?.parse().ok()?;
    let time = Timestamp(time.as_millisecond());
    let client = line.client?.into_owned();
    if let Some(on) = line.on {
        let event = match &*on {
            "connect" => Event::Connect,
            "disconnect" => Event::Disconnect,
            _ => return None,
        };
        let text = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned).unwrap_or_default();
        let (address, reason) = (text(line.address), text(line.reason));
        return Some(Entry::Presence(Passage { event, client, address, reason, at: time }));
    }
    let payload = match (line.payload, line.base64) {
        (Some(text), None) => text.into_owned().into_bytes(),
        (None, Some(coded)) => BASE64_STANDARD.decode(&*coded).ok()?,
        _ => return None,
    };
    let topic = line.topic.filter(|name| topic::check_name(name).is_ok())?.into_owned();
    let qos = line.qos.filter(|qos| *qos <= 2)?;
    let user = line.user.map(Cow::into_owned);
    let retain = line.retain.unwrap_or(false);
    Some(Entry::Publish(Recorded { received: time, topic, payload, client, user, qos, retain }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_publish_reads_back_as_it_was(
            topic in "[^+#\0]{1,20}",
            payload in prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)],
            client: String,
            user: Option<String>,
            (qos, retain) in (0_u8..3, any::<bool>()),
            ms in 0_i64..4_102_444_800_000,
        ) {
            let recorded = Recorded { received: Timestamp(ms), topic, payload, client, user, qos, retain };
            let mut line = Vec::new();
            push_publish(&mut line, &recorded.as_publish());
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(parse(&line), Entry::Publish(recorded.clone()));
            prop_assert_eq!(Recorded::of(&recorded.as_publish()), recorded);
            // What a crash leaves of it is never taken for another one.
            for end in 0..line.len().saturating_sub(1) {
                prop_assert_eq!(parse(&line[..end]), Entry::Damaged);
            }
        }

        #[test]
        fn any_bytes_are_a_line_or_not(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn lines() {
        let text = |push: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            push(&mut out);
            String::from_utf8(out).unwrap()
        };
        let began = text(&|out| push_began(out, Timestamp(0)));
        assert_eq!(began, "{\"brownbridge_traffic\":1,\"began\":\"1970-01-01T00:00:00.000Z\"}\n");
        let gap = text(&|out| push_gap(out, 12, Timestamp(0)));
        assert_eq!(gap, "{\"gap\":12,\"time\":\"1970-01-01T00:00:00.000Z\"}\n");
        assert_eq!(parse(gap.as_bytes()), Entry::Gap(12));
        let presence = Presence {
            event: Event::Disconnect,
            client: "plc",
            address: "10.0.0.7",
            reason: "connection_lost",
            at: Timestamp(5),
        };
        let went = text(&|out| push_presence(out, &presence));
        assert_eq!(parse(went.as_bytes()), Entry::Presence(Passage::of(&presence)));
        assert!(went.contains("\"on\":\"disconnect\""), "{went}");
        let publish = Publish {
            topic: "a/b",
            payload: b"\xff",
            client: "c",
            user: None,
            qos: 1,
            retain: false,
            received: Timestamp(0),
        };
        let binary = text(&|out| push_publish(out, &publish));
        let expect = "{\"time\":\"1970-01-01T00:00:00.000Z\",\"topic\":\"a/b\",\"client\":\"c\",\"qos\":1,\"base64\":\"/w==\"}\n";
        assert_eq!(binary, expect);
        for (line, expect) in [
            ("", Entry::Damaged),
            ("{}", Entry::Damaged),
            ("[]", Entry::Damaged),
            ("{\"brownbridge_traffic\":2}", Entry::Foreign(2)),
            ("{\"brownbridge_traffic\":1,\"new\":[{}]}", Entry::Began),
            (
                "{\"time\":\"1970-01-01T00:00:00Z\",\"topic\":\"a/+\",\"client\":\"c\",\"qos\":1,\"payload\":\"\"}",
                Entry::Damaged,
            ),
            (
                "{\"time\":\"1970-01-01T00:00:00Z\",\"topic\":\"a\",\"client\":\"c\",\"qos\":3,\"payload\":\"\"}",
                Entry::Damaged,
            ),
            ("{\"time\":\"yesterday\",\"topic\":\"a\",\"client\":\"c\",\"qos\":1,\"payload\":\"\"}", Entry::Damaged),
            ("{\"time\":\"1970-01-01T00:00:00Z\",\"topic\":\"a\",\"client\":\"c\",\"qos\":1}", Entry::Damaged),
            (
                "{\"time\":\"1970-01-01T00:00:00Z\",\"topic\":\"a\",\"client\":\"c\",\"qos\":1,\"base64\":\"!\"}",
                Entry::Damaged,
            ),
            ("{\"time\":\"1970-01-01T00:00:00Z\",\"on\":\"sneeze\",\"client\":\"c\"}", Entry::Damaged),
        ] {
            assert_eq!(parse(line.as_bytes()), expect, "{line}");
        }
    }
}
