//! What MQTT 5 allows and the codec refuses: a Message Expiry Interval of 0.
//!
//! Such a message is for those who are there now. The codec has no number for it and calls its packet malformed, which
//! would cost a client its connection, and the next one as soon as it sends the message again. So a PUBLISH with that
//! interval is read here; every other packet is left to the codec. The shortest interval the codec has a number for
//! stands for it, and subscribers are told that one: a second. A will with it is only found here, and refused.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Buf as _, Bytes, BytesMut};
use bytestring::ByteString;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::PublishProperties;

use super::strict::{self, Fields};

const PUBLISH: u8 = 3;

// The properties a PUBLISH or a will can have.
const FORMAT: u8 = 0x01;
const EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION: u8 = 0x09;
const SUBSCRIPTION: u8 = 0x0b;
const WILL_DELAY: u8 = 0x18;
const TOPIC_ALIAS: u8 = 0x23;
const USER: u8 = 0x26;

/// What an input begins with.
#[derive(Debug)]
pub(super) enum Found {
    /// A PUBLISH that expires at once. It is taken out of the input.
    Publish(Box<Publish>),
    /// A PUBLISH that is not all there: whose it is, is not known yet.
    Incomplete,
    /// Something for the codec.
    Other,
}

/// Looks at an input that begins with a packet; one of more than `max` bytes is the codec's to refuse.
pub(super) fn take(input: &mut BytesMut, max: u32) -> Found {
    let Some(first) = input.first().copied().filter(|first| first >> 4 == PUBLISH) else { return Found::Other };
    let Some((header, length)) = strict::header(input) else { return Found::Other };
    if max != 0 && u32::try_from(length).is_ok_and(|length| length > max) {
        return Found::Other;
    }
    let end = header + length;
    let Some(body) = input.get(header..end) else {
        input.reserve(end - input.len());
        return Found::Incomplete;
    };
    let publish = if publish_expiry(first, body) == Some(0) { read(first, body) } else { None };
    match publish {
        Some(publish) => {
            input.advance(end);
            Found::Publish(Box::new(publish))
        }
        None => Found::Other,
    }
}

/// True for the body of a CONNECT whose will expires at once.
pub(super) fn is_of_will(connect: &[u8]) -> bool {
    Fields(connect).connect().is_some_and(|properties| expiry(properties) == Some(0))
}

fn publish_expiry(first: u8, body: &[u8]) -> Option<u32> {
    let mut fields = Fields(body);
    fields.bytes()?;
    if first & 0x06 != 0 {
        fields.two()?;
    }
    expiry(fields.properties()?)
}

/// The interval these properties name.
fn expiry(properties: &[u8]) -> Option<u32> {
    let mut fields = Fields(properties);
    while !fields.0.is_empty() {
        match fields.byte()? {
            EXPIRY => return fields.four(),
            FORMAT => drop(fields.byte()?),
            CONTENT_TYPE | RESPONSE_TOPIC | CORRELATION => drop(fields.bytes()?),
            SUBSCRIPTION => drop(fields.varint()?),
            WILL_DELAY => drop(fields.four()?),
            TOPIC_ALIAS => drop(fields.two()?),
            USER => drop((fields.bytes()?, fields.bytes()?)),
            _ => return None,
        }
    }
    None
}

/// A PUBLISH as the codec would have it, but for an interval of 0; `None` where it would refuse it for something else.
fn read(first: u8, body: &[u8]) -> Option<Publish> {
    let mut fields = Fields(body);
    let topic = text(fields.bytes())?;
    let qos = QoS::try_from((first >> 1) & 0x03).ok()?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        _ => Some(NonZeroU16::new(fields.two()?)?),
    };
    let properties = read_properties(Fields(fields.properties()?))?;
    Some(Publish {
        dup: first & 0x08 != 0,
        retain: first & 0x01 != 0,
        qos,
        topic,
        packet_id,
        payload: Bytes::copy_from_slice(fields.0),
        properties: Some(properties),
    })
}

fn read_properties(mut fields: Fields<'_>) -> Option<PublishProperties> {
    let (mut found, mut format, mut expiry) = (PublishProperties::default(), None, None);
    while !fields.0.is_empty() {
        match fields.byte()? {
            FORMAT => once(&mut format, fields.byte().filter(|format| *format < 2))?,
            EXPIRY => once(&mut expiry, fields.four())?,
            CONTENT_TYPE => once(&mut found.content_type, text(fields.bytes()))?,
            RESPONSE_TOPIC => once(&mut found.response_topic, text(fields.bytes()))?,
            CORRELATION => once(&mut found.correlation_data, fields.bytes().map(Bytes::copy_from_slice))?,
            SUBSCRIPTION => found.subscription_ids.push(NonZeroU32::new(fields.varint()?)?),
            TOPIC_ALIAS => once(&mut found.topic_alias, fields.two().and_then(NonZeroU16::new))?,
            USER => found.user_properties.push((text(fields.bytes())?, text(fields.bytes())?)),
            _ => return None,
        }
    }
    found.is_utf8_payload = format == Some(1);
    found.message_expiry_interval = expiry.map(|seconds| NonZeroU32::new(seconds).unwrap_or(NonZeroU32::MIN));
    Some(found)
}

fn text(bytes: Option<&[u8]>) -> Option<ByteString> {
    std::str::from_utf8(bytes?).ok().map(ByteString::from)
}

/// Keeps what may be there once.
fn once<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
    if place.is_some() {
        return None;
    }
    *place = Some(value?);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rmqtt_codec::v5;
    use tokio_util::codec::Decoder as _;

    use super::*;

    fn packet(first: u8, body: &[u8]) -> BytesMut {
        let length = u8::try_from(body.len()).unwrap();
        assert!(length < 128);
        BytesMut::from(&[&[first, length], body].concat()[..])
    }

    #[test]
    fn what_is_taken_from_the_codec() {
        for (first, body, taken) in [
            (0x30, &b"\0\x01t\x05\x02\0\0\0\0x"[..], true),
            (0x3b, b"\0\x01t\0\x07\x0c\x26\0\x01a\0\x01b\x02\0\0\0\0x", true),
            // Another interval, none, and one that only stands in a text.
            (0x30, b"\0\x01t\x05\x02\0\0\0\x01x", false),
            (0x30, b"\0\x01t\0x", false),
            (0x30, b"\0\x01t\x08\x03\0\x05\x02\0\0\0\0x", false),
            // What has another fault besides: twice, no identifier, QoS 3, no such property, cut off.
            (0x30, b"\0\x01t\x0a\x02\0\0\0\0\x02\0\0\0\0x", false),
            (0x32, b"\0\x01t\0\0\x05\x02\0\0\0\0x", false),
            (0x36, b"\0\x01t\0\x01\x05\x02\0\0\0\0x", false),
            (0x30, b"\0\x01t\x07\x02\0\0\0\0\x7f\0x", false),
            (0x30, b"\0\x01t\x06\x02\0\0\0\0", false),
            // No PUBLISH.
            (0x82, b"\0\x01t\x05\x02\0\0\0\0x", false),
        ] {
            let mut input = packet(first, body);
            input.extend_from_slice(b"next");
            let found = take(&mut input, 99);
            let (is_taken, left) = (matches!(found, Found::Publish(_)), if taken { 4 } else { body.len() + 6 });
            assert_eq!((is_taken, input.len()), (taken, left), "{first:x} {}", body.escape_ascii());
            // Where the codec may have it, it is told of a fault, or of none.
            let refuses = v5::Codec::new(99, 0).decode(&mut packet(first, body)).is_err();
            assert!(refuses || !taken, "{first:x} {}: the codec takes it itself", body.escape_ascii());
        }
    }

    #[test]
    fn a_packet_that_comes_bit_by_bit() {
        let whole = packet(0x30, b"\0\x01t\x05\x02\0\0\0\0x");
        for length in 0..whole.len() {
            let mut input = BytesMut::from(&whole[..length]);
            let header_is_there = length >= 2;
            assert_eq!(matches!(take(&mut input, 99), Found::Incomplete), header_is_there, "{length}");
            assert_eq!(input.len(), length);
        }
        assert!(matches!(take(&mut BytesMut::from(&whole[..]), 9), Found::Other), "the codec refuses its size");
    }

    /// Among other packets, in parts of any size. The identifier of the SUBSCRIBE looks like the header of a PUBLISH.
    #[test]
    fn it_is_found_however_it_comes_in() {
        use super::super::wire::{Incoming, Wire};
        let subscribe = b"\x82\x07\x30\x50\0\0\x01t\0";
        let expiring = packet(0x30, b"\0\x01t\x05\x02\0\0\0\0x");
        let lasting = packet(0x30, b"\0\x01t\x05\x02\0\0\0\x07x");
        let stream = [subscribe, &expiring[..], &lasting, subscribe, &expiring].concat();
        for size in 1..=stream.len() {
            let mut wire = Wire::new(rmqtt_codec::MqttCodec::V5(v5::Codec::new(99, 0)), None);
            let (mut input, mut seen) = (BytesMut::new(), Vec::new());
            for part in stream.chunks(size) {
                input.extend_from_slice(part);
                while let Some(packet) = wire.decode(&mut input).unwrap() {
                    seen.push(match packet {
                        Incoming::Publish(publish) => {
                            publish.properties.unwrap().message_expiry_interval.map(NonZeroU32::get)
                        }
                        _ => None,
                    });
                }
            }
            assert_eq!(seen, [None, Some(1), Some(7), None, Some(1)], "parts of {size}");
        }
    }

    #[test]
    fn wills() {
        for (connect, expect) in [
            (&b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\x05\x02\0\0\0\0\0\x01w\0\0"[..], true),
            (b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\x0a\x18\0\0\0\0\x02\0\0\0\x01\0\x01w\0\0", false),
            (b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x01w\0\0", false),
            (b"\0\x04MQTT\x05\x02\0\0\0\0\x01a", false),
            (b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01w\0\0", false),
            (b"\0\x04MQ", false),
        ] {
            assert_eq!(is_of_will(connect), expect, "{}", connect.escape_ascii());
        }
    }

    /// A property, most often a sound one.
    fn property() -> impl Strategy<Value = Vec<u8>> {
        let text = || prop_oneof![9 => "[a-z]{0,3}".prop_map(String::into_bytes), 1 => Just(vec![0xff])];
        let counted = |text: Vec<u8>| [vec![0, u8::try_from(text.len()).unwrap()], text].concat();
        prop_oneof![
            (0..3_u8).prop_map(|format| vec![FORMAT, format]),
            (1..9_u8).prop_map(|seconds| vec![EXPIRY, 0, 0, 1, seconds]),
            (prop::sample::select(vec![CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION]), text())
                .prop_map(move |(what, text)| [vec![what], counted(text)].concat()),
            (text(), text()).prop_map(move |(a, b)| [vec![USER], counted(a), counted(b)].concat()),
            (0..3_u8).prop_map(|id| vec![SUBSCRIPTION, id]),
            (0..3_u8).prop_map(|alias| vec![TOPIC_ALIAS, 0, alias]),
            prop::collection::vec(any::<u8>(), 1..4),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// What is read here is what the codec reads, where it knows the interval; and nothing else is.
        #[test]
        fn it_reads_as_the_codec_does(
            flags in 0..16_u8, topic in "[a-z]{0,3}", id in 0..3_u8, properties in prop::collection::vec(property(), 0..5)
        ) {
            let (properties, first) = (properties.concat(), 0x30 | flags);
            let id = if flags & 0x06 == 0 { vec![] } else { vec![0, id] };
            let lengths = [u8::try_from(topic.len()).unwrap(), u8::try_from(properties.len()).unwrap()];
            let body = [&[0, lengths[0]], topic.as_bytes(), &id, &lengths[1..], &properties, b"x"].concat();
            let theirs = match v5::Codec::new(0, 0).decode(&mut packet(first, &body)) {
                Ok(Some((v5::Packet::Publish(publish), _))) => Some(*publish),
                _ => None,
            };
            prop_assert_eq!(read(first, &body), theirs, "{}", body.escape_ascii());
        }
    }
}
