//! One publish, what the rules made of it, and how it is shown.
//!
//! [`Treated`] borrows everything in full. [`Sight`] is an excerpt of it that can wait in a queue and goes over the
//! control socket as one line of JSON:
//!
//! | field | meaning |
//! |---|---|
//! | `time` | when the broker read it, RFC 3339 in UTC |
//! | `on` | `connect` or `disconnect` where a client came or went, `window` where windows closed; then there is no topic |
//! | `client`, `user`, `topic`, `qos`, `retain` | as the client sent it |
//! | `payload` | `size` in bytes, and the beginning as `text`, or as `hex` where it is not UTF-8 |
//! | `verdict` | `translated`, `addressed`, `unmatched`, `dropped`, `quarantined` |
//! | `rule`, `reason`, `detail` | which rule dropped or failed, the reason as in the metrics, and in words |
//! | `messages` | what goes to the hub: `rule`, `device`, `properties`, `content_type`, `content_encoding`, `urgent`, `held` (it waits in a window), `reported` (a change of the twin instead of a message), `time`, `size`, `body` |
//! | `more_messages` | how many messages are left out |
//!
//! Texts from outside are cut at 1,024 bytes, so that a sight is small whatever a client sends.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::message::{Event, HubMessage, Presence, Publish, Timestamp};
use crate::topic;

/// Bytes of a topic, name or value that are shown.
const LONGEST_TEXT: usize = 1_024;
/// Properties of a message that are shown.
const MOST_PROPERTIES: usize = 32;
/// Messages of a publish that are shown.
const MOST_MESSAGES: usize = 20;

/// What became of a publish as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate<'a> {
    /// Rules made messages of it.
    Translated,
    /// It was addressed to the hub and goes up as it is.
    Addressed,
    /// No rule takes it: it goes up under the bridge's own identity.
    Forwarded,
    /// No rule takes it, and that is dropped here.
    Unmatched,
    /// It makes no message on purpose.
    Dropped {
        /// The rule that says so; empty where none does.
        rule: &'a str,
        /// As in the metrics.
        reason: &'a str,
        /// In words, where there is more to say.
        detail: Cow<'a, str>,
    },
    /// It cannot be translated. Messages of rules before the failing one go up.
    Quarantined {
        /// The rule that failed; empty where none did.
        rule: &'a str,
        /// As in the metrics.
        reason: &'a str,
        /// In words.
        detail: Cow<'a, str>,
    },
}

impl Fate<'_> {
    /// The verdict as one word.
    pub fn verdict(&self) -> &'static str {
        match self {
            Self::Translated => "translated",
            Self::Addressed => "addressed",
            Self::Forwarded | Self::Unmatched => "unmatched",
            Self::Dropped { .. } => "dropped",
            Self::Quarantined { .. } => "quarantined",
        }
    }

    /// The rule that decided alone; empty where messages say it, or no rule did.
    pub fn rule(&self) -> &str {
        match self {
            Self::Dropped { rule, .. } | Self::Quarantined { rule, .. } => rule,
            _ => "",
        }
    }

    /// The reason as in the metrics; empty where messages are made.
    pub fn reason(&self) -> &str {
        match self {
            Self::Unmatched => "unmatched",
            Self::Dropped { reason, .. } | Self::Quarantined { reason, .. } => reason,
            _ => "",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Dropped { detail, .. } | Self::Quarantined { detail, .. } => detail,
            _ => "",
        }
    }
}

/// A hub message that was made.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// The rule that made it; empty for what no rule did.
    pub rule: &'a str,
    /// It goes before others.
    pub urgent: bool,
    /// It waits in a window and becomes part of a message later.
    pub held: bool,
    /// It is a change of the twin, and no message.
    pub reported: bool,
    /// Bytes as the hub counts them, with its properties.
    pub size: usize,
    /// The message.
    pub message: HubMessage<'a>,
}

/// A publish, or the coming or going of a client, and all that became of it.
#[derive(Debug, Clone)]
pub struct Treated<'a> {
    /// The publish; for a client that comes or goes what it is treated as.
    pub publish: Publish<'a>,
    /// Where it is none.
    pub presence: Option<Presence<'a>>,
    /// What became of it.
    pub fate: Fate<'a>,
    /// What goes to the hub.
    pub made: Vec<Made<'a>>,
}

/// Which publishes are wanted: those that all of it is true of. Where several of `unmatched`, `dropped` and
/// `quarantined` are set, one of them has to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// A topic filter for the topic of the publish.
    pub topic: Option<String>,
    /// The rule that made a message of it, dropped it or failed.
    pub rule: Option<String>,
    /// The client id of the publisher.
    pub client: Option<String>,
    /// The device of a message.
    pub device: Option<String>,
    /// No rule takes it.
    pub unmatched: bool,
    /// It makes no message on purpose.
    pub dropped: bool,
    /// It went to the quarantine.
    pub quarantined: bool,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("publishes")?;
        for (what, named) in
            [("on", &self.topic), ("of rule", &self.rule), ("from client", &self.client), ("for device", &self.device)]
        {
            named.iter().try_for_each(|name| write!(f, " {what} {name:?}"))?;
        }
        let fates = [(self.unmatched, "unmatched"), (self.dropped, "dropped"), (self.quarantined, "quarantined")];
        let fates: Vec<&str> = fates.into_iter().filter(|(wanted, _)| *wanted).map(|(_, fate)| fate).collect();
        if fates.is_empty() { Ok(()) } else { write!(f, " that are {}", fates.join(" or ")) }
    }
}

impl Filter {
    /// What can be said before it is known what became of the publish.
    pub fn may_want(&self, publish: &Publish<'_>, presence: Option<&Presence<'_>>) -> bool {
        let on_topic = |filter: &String| presence.is_none() && topic::matches(filter, publish.topic);
        self.topic.as_ref().is_none_or(on_topic) && self.client.as_ref().is_none_or(|client| client == publish.client)
    }

    /// True where [`may_want`](Self::may_want) says already what is wanted.
    pub fn is_settled_early(&self) -> bool {
        let any_fate = !(self.unmatched || self.dropped || self.quarantined);
        any_fate && self.rule.is_none() && self.device.is_none()
    }

    /// Whether what a window sends is wanted: it has no topic and no client of its own.
    pub fn wants_window(&self, made: &Made<'_>) -> bool {
        let of_publishes = self.topic.is_some() || self.client.is_some();
        let any_fate = !(self.unmatched || self.dropped || self.quarantined);
        !of_publishes
            && any_fate
            && self.rule.as_ref().is_none_or(|rule| made.rule == rule)
            && self.device.as_ref().is_none_or(|device| made.message.device == device)
    }

    /// Whether a publish is wanted.
    pub fn wants(&self, treated: &Treated<'_>) -> bool {
        let fate = &treated.fate;
        let of_rule = |rule: &String| fate.rule() == rule || treated.made.iter().any(|made| made.rule == rule);
        let of_device = |device: &String| treated.made.iter().any(|made| made.message.device == device);
        let any_fate = !(self.unmatched || self.dropped || self.quarantined);
        let by_fate = match fate {
            Fate::Forwarded => self.unmatched,
            Fate::Unmatched => self.unmatched || self.dropped,
            Fate::Dropped { .. } => self.dropped,
            Fate::Quarantined { .. } => self.quarantined,
            Fate::Translated | Fate::Addressed => false,
        };
        (any_fate || by_fate)
            && self.may_want(&treated.publish, treated.presence.as_ref())
            && self.rule.as_ref().is_none_or(of_rule)
            && self.device.as_ref().is_none_or(of_device)
    }
}

/// The beginning of a payload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// Bytes of the whole.
    pub size: u64,
    /// Its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its beginning where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
}

impl Excerpt {
    /// At most so many bytes of a payload.
    pub fn new(payload: &[u8], most: usize) -> Self {
        let size = payload.len() as u64;
        let head = payload.get(..most).unwrap_or(payload);
        let whole = head.len() == payload.len();
        let text = match std::str::from_utf8(head) {
            Ok(text) => Some(text),
            // The cut went through a character.
            Err(error) if !whole && error.error_len().is_none() => {
                head.get(..error.valid_up_to()).and_then(|head| std::str::from_utf8(head).ok())
            }
            Err(_) => None,
        };
        match text {
            Some(text) => Self { size, text: Some(text.to_owned()), hex: None },
            None => {
                let head = head.get(..most / 2).unwrap_or(head);
                Self { size, text: None, hex: Some(head.iter().map(|byte| format!("{byte:02x}")).collect()) }
            }
        }
    }

    /// True where there is more than is shown.
    pub fn is_cut(&self) -> bool {
        let text = self.text.as_ref().map_or(0, String::len) as u64;
        let hex = self.hex.as_ref().map_or(0, String::len) as u64 / 2;
        text + hex < self.size
    }
}

/// A publish and what became of it, as it is shown; the fields are described above.
#[expect(missing_docs, reason = "the table above describes them")]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    pub time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    pub client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    pub qos: u8,
    pub retain: bool,
    pub payload: Excerpt,
    pub verdict: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    pub messages: Vec<Message>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_messages: usize,
}

/// A hub message as it is shown.
#[expect(missing_docs, reason = "the table above describes them")]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub rule: String,
    pub device: String,
    pub properties: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub urgent: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reported: bool,
    pub time: String,
    pub size: usize,
    pub body: Excerpt,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(LONGEST_TEXT)).unwrap_or(text).to_owned()
}

impl Sight {
    /// With at most `most` bytes of each payload.
    pub fn new(treated: &Treated<'_>, most: usize) -> Self {
        let Treated { publish, presence, fate, made } = treated;
        let on = presence.map(|presence| match presence.event {
            Event::Connect => "connect".to_owned(),
            Event::Disconnect => "disconnect".to_owned(),
        });
        Self {
            time: publish.received.to_string(),
            topic: on.is_none().then(|| cut(publish.topic)),
            on,
            client: cut(publish.client),
            user: publish.user.map(cut),
            qos: publish.qos,
            retain: publish.retain,
            payload: Excerpt::new(publish.payload, most),
            verdict: fate.verdict().to_owned(),
            rule: cut(fate.rule()),
            reason: fate.reason().to_owned(),
            detail: cut(fate.detail()),
            messages: made.iter().take(MOST_MESSAGES).map(|made| Message::new(made, most)).collect(),
            more_messages: made.len().saturating_sub(MOST_MESSAGES),
        }
    }

    /// What a window sends as it closes, or does not.
    pub fn of_window(at: Timestamp, made: Option<&Made<'_>>, most: usize) -> Self {
        Self {
            time: at.to_string(),
            on: Some("window".to_owned()),
            verdict: "translated".to_owned(),
            messages: made.iter().map(|made| Message::new(made, most)).collect(),
            ..Self::default()
        }
    }

    /// Bytes it takes, roughly: enough to bound a queue.
    pub fn weight(&self) -> usize {
        const EACH: usize = 512;
        let excerpt = |excerpt: &Excerpt| {
            excerpt.text.as_ref().map_or(0, String::len) + excerpt.hex.as_ref().map_or(0, String::len)
        };
        let message = |message: &Message| {
            let properties: usize = message.properties.iter().map(|(name, value)| name.len() + value.len()).sum();
            EACH + excerpt(&message.body) + properties + message.device.len()
        };
        let topic = self.topic.as_ref().map_or(0, String::len);
        EACH + excerpt(&self.payload) + topic + self.messages.iter().map(message).sum::<usize>()
    }
}

impl Message {
    fn new(made: &Made<'_>, most: usize) -> Self {
        let message = &made.message;
        Self {
            rule: cut(made.rule),
            device: cut(message.device),
            properties: message
                .properties()
                .take(MOST_PROPERTIES)
                .map(|(name, value)| (cut(name), cut(value)))
                .collect(),
            content_type: message.content.content_type().map(cut),
            content_encoding: message.content.encoding().map(cut),
            urgent: made.urgent,
            held: made.held,
            reported: made.reported,
            time: message.created.to_string(),
            size: made.size,
            body: Excerpt::new(message.body, most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Content, RecordWriter, Timestamp};

    #[test]
    fn a_filter_in_words() {
        let named = |name: &str| Some(name.to_owned());
        for (filter, expect) in [
            (Filter::default(), "publishes"),
            (
                Filter { topic: named("a/#"), rule: named("r"), ..Filter::default() },
                "publishes on \"a/#\" of rule \"r\"",
            ),
            (
                Filter {
                    client: named("c\n"),
                    device: named("d"),
                    unmatched: true,
                    dropped: true,
                    ..Filter::default()
                },
                "publishes from client \"c\\n\" for device \"d\" that are unmatched or dropped",
            ),
            (Filter { quarantined: true, ..Filter::default() }, "publishes that are quarantined"),
        ] {
            assert_eq!(filter.to_string(), expect);
        }
    }

    #[test]
    fn excerpts() {
        for (payload, most, text, hex, cut) in [
            (&b"21.5"[..], 10, Some("21.5"), None, false),
            (b"", 10, Some(""), None, false),
            (b"21.55", 4, Some("21.5"), None, true),
            ("2\u{b0}C".as_bytes(), 2, Some("2"), None, true),
            (b"\xff\x00", 10, None, Some("ff00"), false),
            (b"\xff\x00\x01\x02", 4, None, Some("ff00"), true),
            (b"ab\xc2", 10, None, Some("6162c2"), false),
        ] {
            let excerpt = Excerpt::new(payload, most);
            assert_eq!((excerpt.text.as_deref(), excerpt.hex.as_deref()), (text, hex), "{payload:?}");
            assert_eq!((excerpt.is_cut(), excerpt.size), (cut, payload.len() as u64), "{payload:?}");
        }
    }

    #[test]
    fn filters() {
        let mut record = Vec::new();
        let writer =
            RecordWriter::begin(&mut record, Timestamp(0), Content::None, |out| out.extend_from_slice(b"press7"));
        writer.finish(|_| ()).unwrap();
        let publish = Publish {
            topic: "a/b",
            payload: b"",
            client: "c",
            user: None,
            qos: 0,
            retain: false,
            received: Timestamp(0),
        };
        let presence = Presence { event: Event::Connect, client: "c", address: "::1", reason: "", at: Timestamp(0) };
        let made = Made {
            rule: "r",
            urgent: false,
            held: false,
            reported: false,
            size: 0,
            message: HubMessage::parse(&record).unwrap(),
        };
        let quarantined = || Fate::Quarantined { rule: "q", reason: "not_json", detail: "".into() };
        let dropped = || Fate::Dropped { rule: "d", reason: "rule", detail: "".into() };
        let of = |fate, made, presence| Treated { publish, presence, fate, made };
        let sights = [
            of(Fate::Translated, vec![made], None),
            of(Fate::Forwarded, vec![Made { rule: "", ..made }], None),
            of(Fate::Unmatched, vec![], None),
            of(dropped(), vec![], None),
            of(quarantined(), vec![made], None),
            of(Fate::Translated, vec![made], Some(presence)),
        ];
        let all = Filter::default();
        let some = |text: &str| Some(text.to_owned());
        for (filter, expect) in [
            (all.clone(), &[0, 1, 2, 3, 4, 5][..]),
            (Filter { topic: some("a/+"), ..all.clone() }, &[0, 1, 2, 3, 4]),
            (Filter { topic: some("b/#"), ..all.clone() }, &[]),
            (Filter { client: some("c"), ..all.clone() }, &[0, 1, 2, 3, 4, 5]),
            (Filter { client: some("d"), ..all.clone() }, &[]),
            (Filter { rule: some("r"), ..all.clone() }, &[0, 4, 5]),
            (Filter { rule: some("q"), ..all.clone() }, &[4]),
            (Filter { rule: some("d"), ..all.clone() }, &[3]),
            (Filter { device: some("press7"), ..all.clone() }, &[0, 1, 4, 5]),
            (Filter { unmatched: true, ..all.clone() }, &[1, 2]),
            (Filter { dropped: true, ..all.clone() }, &[2, 3]),
            (Filter { quarantined: true, ..all.clone() }, &[4]),
            (Filter { dropped: true, quarantined: true, ..all.clone() }, &[2, 3, 4]),
            (Filter { dropped: true, rule: some("d"), ..all }, &[3]),
        ] {
            let wanted: Vec<usize> = (0..sights.len()).filter(|at| filter.wants(&sights[*at])).collect();
            assert_eq!(wanted, expect, "{filter:?}");
        }
    }

    #[test]
    fn a_sight_is_small_whatever_it_is_of() {
        let long = "x".repeat(60_000);
        let mut record = Vec::new();
        let mut writer =
            RecordWriter::begin(&mut record, Timestamp(0), Content::Json, |out| out.extend_from_slice(long.as_bytes()));
        (0..50).for_each(|_| writer.property(&long, |out| out.extend_from_slice(long.as_bytes())));
        writer.finish(|out| out.extend_from_slice(long.as_bytes())).unwrap();
        let made = Made {
            rule: &long,
            urgent: true,
            held: true,
            reported: false,
            size: 1,
            message: HubMessage::parse(&record).unwrap(),
        };
        let publish = Publish {
            topic: &long,
            payload: &[0xff; 60_000],
            client: &long,
            user: Some(&long),
            qos: 2,
            retain: true,
            received: Timestamp(0),
        };
        let fate = Fate::Quarantined { rule: &long, reason: "not_json", detail: long.as_str().into() };
        let sight = Sight::new(&Treated { publish, presence: None, fate, made: vec![made; 100] }, 200);
        assert_eq!((sight.messages.len(), sight.more_messages), (20, 80));
        assert_eq!(sight.payload.hex.as_ref().unwrap().len(), 200);
        let line = serde_json::to_string(&sight).unwrap();
        assert!(line.len() < 2_000_000, "{}", line.len());
        assert!(sight.weight() * 2 > line.len());
        assert_eq!(serde_json::from_str::<Sight>(&line).unwrap(), sight);
    }
}
