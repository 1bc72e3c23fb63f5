//! What flows: the publish of a plant client, and the hub message the rules made of it.
//!
//! A hub message is kept as one *record*, the bytes the spool stores and the uplink reads back.
//! Rules write records straight into a reusable buffer with [`RecordWriter`]; [`HubMessage::parse`]
//! looks into one without copying.
//!
//! # Record layout, version 1
//!
//! All integers little endian. `text` is a `u16` length followed by that many bytes of UTF-8.
//!
//! | field | type | meaning |
//! |---|---|---|
//! | version | `u8` | 1 |
//! | content | `u8` | 0 none, 1 JSON, 2 text, 3 binary, 4 named (two texts follow `device`), 5 bag as given |
//! | created | `i64` | milliseconds since 1970 UTC: the moment of the plant's publish |
//! | device | `text` | the device the rule names; empty for the bridge's own identity |
//! | type, encoding | `text` x 2 | only with content 4 |
//! | count | `u16` | number of properties |
//! | properties | (`text`, `text`) x count | name and value, in the order they are sent |
//! | body | rest | the payload |
//!
//! With content 5 there is exactly one property with an empty name: its value is a property bag
//! that goes up as the plant wrote it.
//!
//! A message that may be made twice has a `$.mid` of its own, as its first property. All others are called by the place
//! that the spool gives them.

use std::fmt;

/// A moment in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The system's clock.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Whole seconds since 1970.
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2026-01-01T00:00:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Howard Hinnant's civil_from_days: a tenth of the cost of a calendar crate, and it is on the hot path.
        let days = self.0.div_euclid(86_400_000);
        let ms = self.0.rem_euclid(86_400_000);
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
    }
}

/// The beginning of a text from outside, short enough for a line in the log.
pub fn excerpt(text: &str) -> &str {
    text.get(..text.floor_char_boundary(200)).unwrap_or(text)
}

/// Longest name in a twin, in bytes ("Understand and use device twins in IoT Hub", as the others).
pub const TWIN_NAME_MAX: usize = 1024;
/// How deep objects of a twin may be nested.
pub const TWIN_DEPTH_MAX: usize = 10;

/// Whether names in twins have such a character.
pub fn is_in_twin_names(c: char) -> bool {
    !(c.is_control() || matches!(c, '.' | '$' | ' '))
}

/// Why a twin takes no such name, as the end of a sentence about it.
pub fn twin_name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is not empty")
    } else if name.len() > TWIN_NAME_MAX {
        Some("is no longer than 1024 bytes")
    } else if name.chars().all(is_in_twin_names) {
        None
    } else {
        Some("has no control character, `.`, `$` or space in it")
    }
}

/// Appends a text as a name that a twin takes: what it takes in none is written as `%` and two hex digits.
pub fn push_twin_name(text: &str, name: &mut String) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for c in text.chars() {
        if is_in_twin_names(c) && c != '%' {
            name.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            let digits = [byte >> 4, byte & 15].map(|digit| HEX.get(usize::from(digit)).copied().unwrap_or('0'));
            name.extend(['%'].into_iter().chain(digits));
        }
    }
}

/// The text that a name of a twin stands for.
pub fn from_twin_name(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digit =
            |at: usize| behind.get(at).and_then(|c| char::from(*c).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high << 4 | low);
                rest = behind.get(2..).unwrap_or(&[]);
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_owned())
}

/// One publish as a plant client sent it.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    /// The topic name, checked by [`crate::topic::check_name`].
    pub topic: &'a str,
    /// The payload, any bytes.
    pub payload: &'a [u8],
    /// The client id of the publisher.
    pub client: &'a str,
    /// The user name its connection gave, also for a will that comes long after the connection.
    pub user: Option<&'a str>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The RETAIN flag.
    pub retain: bool,
    /// When the broker read it.
    pub received: Timestamp,
}

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was accepted.
    Connect,
    /// Its connection ended.
    Disconnect,
}

/// The coming or going of a client, for rules with `on`.
#[derive(Debug, Clone, Copy)]
pub struct Presence<'a> {
    /// What it did.
    pub event: Event,
    /// Its client id.
    pub client: &'a str,
    /// The IP address it came from.
    pub address: &'a str,
    /// Why its connection ended, a fixed word; empty for [`Event::Connect`].
    pub reason: &'a str,
    /// When.
    pub at: Timestamp,
}

impl<'a> Presence<'a> {
    /// The publish it is treated as: rules match the client id where others match the topic, and build on `{}`.
    pub fn as_publish(&self) -> Publish<'a> {
        Publish {
            topic: self.client,
            payload: b"{}",
            client: self.client,
            user: None,
            qos: 1,
            retain: false,
            received: self.at,
        }
    }
}

/// What the body of a hub message is, said to the hub as `$.ct` and `$.ce`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// Nothing is said.
    None,
    /// `application/json`, `utf-8`.
    Json,
    /// `text/plain`, `utf-8`.
    Text,
    /// `application/octet-stream`.
    Binary,
    /// Another content type and encoding; an empty one is not sent.
    Named {
        /// `$.ct`
        content_type: &'a str,
        /// `$.ce`
        encoding: &'a str,
    },
    /// The whole property bag as the plant wrote it (a publish already addressed to the hub).
    BagAsGiven,
}

impl<'a> Content<'a> {
    /// The content type, where one is sent.
    pub fn content_type(self) -> Option<&'a str> {
        match self {
            Self::None | Self::BagAsGiven => None,
            Self::Json => Some("application/json"),
            Self::Text => Some("text/plain"),
            Self::Binary => Some("application/octet-stream"),
            Self::Named { content_type, .. } => Some(content_type).filter(|t| !t.is_empty()),
        }
    }

    /// The content encoding, where one is sent.
    pub fn encoding(self) -> Option<&'a str> {
        match self {
            Self::None | Self::Binary | Self::BagAsGiven => None,
            Self::Json | Self::Text => Some("utf-8"),
            Self::Named { encoding, .. } => Some(encoding).filter(|e| !e.is_empty()),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Json => 1,
            Self::Text => 2,
            Self::Binary => 3,
            Self::Named { .. } => 4,
            Self::BagAsGiven => 5,
        }
    }
}

/// A look into one record.
#[derive(Debug, Clone, Copy)]
pub struct HubMessage<'a> {
    /// What the body is.
    pub content: Content<'a>,
    /// The moment of the plant's publish.
    pub created: Timestamp,
    /// The device the rule names; empty for the bridge's own identity.
    pub device: &'a str,
    /// The payload.
    pub body: &'a [u8],
    /// The `$.mid` it has of its own.
    pub own_id: Option<&'a str>,
    /// All of them, with the `$.mid`.
    properties: &'a [u8],
}

/// Bytes that are no record of a version this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotARecord;

impl fmt::Display for NotARecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a message record of version 1")
    }
}

impl std::error::Error for NotARecord {}

const VERSION: u8 = 1;

/// What the property is called that a message has its own `$.mid` in; no rule can make one.
const MESSAGE_ID: &str = "$.mid";

impl<'a> HubMessage<'a> {
    /// Reads a record. Every length is checked here, so [`properties`](Self::properties) cannot fail.
    pub fn parse(record: &'a [u8]) -> Result<Self, NotARecord> {
        let mut input = Input(record);
        if input.u8()? != VERSION {
            return Err(NotARecord);
        }
        let code = input.u8()?;
        let created = Timestamp(i64::from_le_bytes(input.array()?));
        let device = input.text()?;
        let content = match code {
            0 => Content::None,
            1 => Content::Json,
            2 => Content::Text,
            3 => Content::Binary,
            4 => Content::Named { content_type: input.text()?, encoding: input.text()? },
            5 => Content::BagAsGiven,
            _ => return Err(NotARecord),
        };
        let count = u16::from_le_bytes(input.array()?);
        let start = input.0;
        let mut own_id = None;
        for index in 0..count {
            let (name, value) = (input.text()?, input.text()?);
            if index == 0 && name == MESSAGE_ID {
                own_id = Some(value);
            }
        }
        let (properties, body) = start.split_at(start.len() - input.0.len());
        Ok(Self { content, created, device, body, own_id, properties })
    }

    /// Names and values of the properties, in the order they are sent; without its own `$.mid`.
    pub fn properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut input = Input(self.properties);
        let pairs = std::iter::from_fn(move || Some((input.text().ok()?, input.text().ok()?)));
        pairs.skip(usize::from(self.own_id.is_some()))
    }
}

/// Writes one record at the end of a buffer, field by field in the order of the layout.
///
/// A text longer than 65,535 bytes does not fit its length: [`finish`](Self::finish) then takes the whole
/// record back and says so.
#[derive(Debug)]
pub struct RecordWriter<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    count_at: usize,
    count: u16,
    overflow: bool,
}

/// A device, property name or value does not fit its 16-bit length, or there are more than 65,535 properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl<'b> RecordWriter<'b> {
    /// Begins a record; `device` writes the device name.
    pub fn begin(
        out: &'b mut Vec<u8>,
        created: Timestamp,
        content: Content<'_>,
        device: impl FnOnce(&mut Vec<u8>),
    ) -> Self {
        let start = out.len();
        out.push(VERSION);
        out.push(content.code());
        out.extend_from_slice(&created.0.to_le_bytes());
        let mut writer = Self { out, start, count_at: 0, count: 0, overflow: false };
        writer.text(device);
        if let Content::Named { content_type, encoding } = content {
            writer.text(|out| out.extend_from_slice(content_type.as_bytes()));
            writer.text(|out| out.extend_from_slice(encoding.as_bytes()));
        }
        writer.count_at = writer.out.len();
        writer.out.extend_from_slice(&[0, 0]);
        writer
    }

    /// Adds a property; `value` must append UTF-8.
    pub fn property(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        self.text(|out| out.extend_from_slice(name.as_bytes()));
        self.text(value);
        match self.count.checked_add(1) {
            Some(count) => self.count = count,
            None => self.overflow = true,
        }
    }

    /// Writes the body and ends the record. On `Err` the buffer is as it was before [`begin`](Self::begin).
    pub fn finish(self, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), TooLong> {
        if self.overflow {
            self.out.truncate(self.start);
            return Err(TooLong);
        }
        if let Some(count) = self.out.get_mut(self.count_at..self.count_at + 2) {
            count.copy_from_slice(&self.count.to_le_bytes());
        }
        body(self.out);
        Ok(())
    }

    fn text(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        write(self.out);
        let len = u16::try_from(self.out.len() - at - 2).unwrap_or_else(|_| {
            self.overflow = true;
            self.out.truncate(at + 2);
            0
        });
        if let Some(prefix) = self.out.get_mut(at..at + 2) {
            prefix.copy_from_slice(&len.to_le_bytes());
        }
    }
}

/// Appends `record` with one more property behind its others. One that has no room for it is appended as it is.
pub fn push_with_property(out: &mut Vec<u8>, record: &[u8], name: &str, value: &str) {
    push_with(out, record, (name, value), false);
}

/// Appends `record` with a `$.mid` of its own.
pub fn push_with_id(out: &mut Vec<u8>, record: &[u8], id: &str) {
    push_with(out, record, (MESSAGE_ID, id), true);
}

fn push_with(out: &mut Vec<u8>, record: &[u8], (name, value): (&str, &str), first: bool) {
    let parsed = HubMessage::parse(record).ok();
    let lengths = u16::try_from(name.len()).ok().zip(u16::try_from(value.len()).ok());
    let parts = parsed.zip(lengths).and_then(|(message, lengths)| {
        let (head, body) = record.split_at_checked(record.len() - message.body.len())?;
        let (head, properties) = head.split_at_checked(head.len() - message.properties.len())?;
        let (head, count) = head.split_last_chunk()?;
        let count = u16::from_le_bytes(*count).checked_add(1)?;
        Some((head, count, properties, lengths, body))
    });
    let Some((head, count, properties, (name_len, value_len), body)) = parts else {
        return out.extend_from_slice(record);
    };
    out.extend_from_slice(head);
    out.extend_from_slice(&count.to_le_bytes());
    let (before, behind) = if first { (&[][..], properties) } else { (properties, &[][..]) };
    out.extend_from_slice(before);
    out.extend_from_slice(&name_len.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&value_len.to_le_bytes());
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(behind);
    out.extend_from_slice(body);
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], NotARecord> {
        let (head, rest) = self.0.split_first_chunk().ok_or(NotARecord)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, NotARecord> {
        self.array().map(|[byte]| byte)
    }

    fn text(&mut self) -> Result<&'a str, NotARecord> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        let (head, rest) = self.0.split_at_checked(len).ok_or(NotARecord)?;
        self.0 = rest;
        std::str::from_utf8(head).map_err(|_| NotARecord)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timestamps() {
        for (ms, expect) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00.000Z"),
            (1_709_164_799_999, "2024-02-28T23:59:59.999Z"),
            (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), expect);
        }
    }

    #[test]
    fn a_field_over_64_kib_is_refused_and_leaves_the_buffer_alone() {
        let mut buf = b"before".to_vec();
        let mut writer = RecordWriter::begin(&mut buf, Timestamp(0), Content::Json, |_| ());
        writer.property("p", |out| out.resize(out.len() + 65_536, b'x'));
        assert_eq!(writer.finish(|_| ()), Err(TooLong));
        assert_eq!(buf, b"before");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            created: i64, code in 0..6u8, device in ".{0,20}", ct in ".{0,9}",
            properties in proptest::collection::vec((".{0,9}", ".{0,30}"), 0..5), body: Vec<u8>, cut: u16,
        ) {
            let content = match code {
                0 => Content::None,
                1 => Content::Json,
                2 => Content::Text,
                3 => Content::Binary,
                4 => Content::Named { content_type: &ct, encoding: "x" },
                _ => Content::BagAsGiven,
            };
            let mut buf = Vec::new();
            let put = |text: &str| { let text = text.to_owned(); move |out: &mut Vec<u8>| out.extend_from_slice(text.as_bytes()) };
            let mut writer = RecordWriter::begin(&mut buf, Timestamp(created), content, put(&device));
            for (name, value) in &properties {
                writer.property(name, put(value));
            }
            writer.finish(|out| out.extend_from_slice(&body)).unwrap();
            let read = HubMessage::parse(&buf).unwrap();
            prop_assert_eq!(read.content, content);
            prop_assert_eq!(read.created, Timestamp(created));
            prop_assert_eq!(read.device, &device);
            prop_assert_eq!(read.body, &body);
            let read: Vec<(String, String)> = read.properties().map(|(n, v)| (n.into(), v.into())).collect();
            prop_assert_eq!(&read, &properties);
            let mut longer = b"before".to_vec();
            push_with_property(&mut longer, &buf, "seq", "x-1");
            let longer = HubMessage::parse(&longer[6..]).unwrap();
            prop_assert_eq!((longer.content, longer.device, longer.body), (content, device.as_str(), body.as_slice()));
            prop_assert_eq!(longer.properties().count(), properties.len() + 1);
            prop_assert_eq!((longer.properties().last(), longer.own_id), (Some(("seq", "x-1")), None));
            let mut named = Vec::new();
            push_with_id(&mut named, &buf, "s-1-2");
            let mut twice = Vec::new();
            push_with_property(&mut twice, &named, "seq", "x-1");
            for (record, more) in [(&named, 0), (&twice, 1)] {
                let named = HubMessage::parse(record).unwrap();
                prop_assert_eq!((named.own_id, named.body), (Some("s-1-2"), body.as_slice()));
                let kept = named.properties().take(properties.len());
                prop_assert!(kept.eq(properties.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
                prop_assert_eq!(named.properties().count(), properties.len() + more);
            }
            let _ = HubMessage::parse(&buf[..usize::from(cut).min(buf.len())]);
        }

        #[test]
        fn any_bytes_parse_or_not_but_never_panic(bytes: Vec<u8>) {
            if let Ok(message) = HubMessage::parse(&bytes) {
                message.properties().count();
            }
        }
    }
}
