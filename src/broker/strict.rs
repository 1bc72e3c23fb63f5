//! What the standard forbids and the codec lets through.
//!
//! The codec looks at each field it needs; these rules are about the fields it skips, masks or cannot know.

use bytestring::ByteString;
use rmqtt_codec::types::{Publish, QoS};

use super::wire::Close;

const SUBSCRIBE: u8 = 0x82;

/// The packet a buffer begins with, once its header has come: length of the header, and of what follows it.
pub(super) fn header(input: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (at, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((at + 2, length));
        }
    }
    None
}

/// True where nothing is wrong with the body of a CONNECT of MQTT 3.1.1 or 5: its flags agree with each other and with
/// the payload, which ends where it has to, and no text has a null character ([MQTT-1.5.4-2]). MQTT 3.1 has no such
/// rules, and its clients are old.
pub(super) fn is_sound_connect(body: &[u8]) -> bool {
    let mut fields = Fields(body);
    fields.connect().is_some() && (fields.0.is_empty() || body.starts_with(b"\0\x06"))
}

/// Takes the body of a packet apart; `None` where something is missing or must not be.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// A CONNECT. Gives the properties of its will.
    pub(super) fn connect(&mut self) -> Option<&'a [u8]> {
        const WILL: u8 = 4;
        const OF_WILL: u8 = 0x38;
        const PASSWORD: u8 = 0x40;
        const USERNAME: u8 = 0x80;
        self.bytes()?;
        let (level, flags) = (self.byte()?, self.byte()?);
        let mut of_will = &[][..];
        if level == 3 {
            return Some(of_will);
        }
        let is_v5 = level == 5;
        let has = |flag| flags & flag != 0;
        let will_is_odd = !has(WILL) && has(OF_WILL); // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
        let password_is_odd = !is_v5 && has(PASSWORD) && !has(USERNAME); // 3.1.1: [MQTT-3.1.2-22]
        if will_is_odd || password_is_odd {
            return None;
        }
        self.take(2)?; // The keep-alive.
        if is_v5 {
            self.properties()?;
        }
        self.text()?;
        if has(WILL) {
            if is_v5 {
                of_will = self.properties()?;
            }
            self.text()?;
            self.bytes()?;
        }
        if has(USERNAME) {
            self.text()?;
        }
        if has(PASSWORD) {
            self.bytes()?;
        }
        Some(of_will)
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn two(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn four(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A number of one to four bytes.
    pub(super) fn varint(&mut self) -> Option<u32> {
        let mut number = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.two()?;
        self.take(length.into())
    }

    fn text(&mut self) -> Option<()> {
        (!self.bytes()?.contains(&0)).then_some(())
    }

    pub(super) fn properties(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }
}

/// Watches the input of an MQTT 3.1.1 client for SUBSCRIBE packets with reserved bits, which the codec masks
/// ([MQTT-3-8.3-4] of MQTT 3.1.1).
#[derive(Debug, Default)]
pub(super) struct SubscribeWatch(Position);

/// What the codec takes next.
#[derive(Debug, Default, Clone, Copy)]
enum Position {
    #[default]
    Header,
    /// The body of a SUBSCRIBE, of so many bytes.
    Subscribe(usize),
    /// The body of another packet.
    Other,
}

impl SubscribeWatch {
    /// Looks at the input before the codec does; gives the SUBSCRIBE there is in it, for [`after`](Self::after).
    pub(super) fn before(&self, input: &[u8]) -> Result<Option<usize>, Close> {
        let (header, length) = match self.0 {
            Position::Header if input.first() == Some(&SUBSCRIBE) => match header(input) {
                Some(found) => found,
                None => return Ok(None),
            },
            Position::Subscribe(length) => (0, length),
            Position::Header | Position::Other => return Ok(None),
        };
        let body = input.get(header..).and_then(|rest| rest.get(..length));
        if body.is_some_and(|body| !options_are_sound(body)) {
            return Err(Close::Malformed);
        }
        Ok(Some(length))
    }

    /// The codec had its turn: it took a whole packet, or some bytes, or none.
    pub(super) fn after(&mut self, subscribe: Option<usize>, took_packet: bool, took_bytes: bool) {
        if took_packet {
            self.0 = Position::Header;
        } else if took_bytes {
            self.0 = subscribe.map_or(Position::Other, Position::Subscribe);
        }
    }
}

/// True where each options byte of a SUBSCRIBE is a QoS and nothing else. What is cut off is the codec's to find.
fn options_are_sound(body: &[u8]) -> bool {
    let mut fields = Fields(body);
    if fields.take(2).is_none() {
        return true;
    }
    while fields.bytes().is_some() {
        if fields.byte().is_some_and(|options| options > 2) {
            return false;
        }
    }
    true
}

/// A PUBLISH has DUP only where it can be sent again ([MQTT-3.3.1-2]), and texts without null characters.
pub(super) fn is_sound_publish(publish: &Publish) -> bool {
    let odd_dup = publish.dup && publish.qos == QoS::AtMostOnce;
    let odd_text = publish.properties.as_ref().is_some_and(|properties| {
        let user = properties.user_properties.iter().any(|(name, value)| has_null(name) || has_null(value));
        user || properties.content_type.as_ref().is_some_and(has_null)
    });
    !odd_dup && !odd_text
}

/// True for a text nobody may send ([MQTT-1.5.4-2]).
pub(super) fn has_null(text: &ByteString) -> bool {
    memchr::memchr(0, text.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_bodies() {
        for (body, sound) in [
            (&b"\0\x04MQTT\x04\x02\0\0\0\x01a"[..], true),
            (b"\0\x04MQTT\x04\x02\0\0\0\x01ab", false),
            (b"\0\x04MQTT\x04\x02\0\0\0\x01\0", false),
            (b"\0\x04MQTT\x04\x42\0\0\0\x01a\0\x01p", false),
            (b"\0\x04MQTT\x05\x42\0\0\0\0\x01a\0\x01p", true),
            (b"\0\x04MQTT\x05\x0a\0\0\0\0\x01a", false),
            (b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x01w\0\0", true),
            (b"\0\x04MQTT\x05\x02\0\0\x80\x80\x80\x80\x01", false),
            (b"\0\x06MQIsdp\x03\x02\0\0\0\x01ab", true),
            (b"\0\x04MQ", false),
        ] {
            assert_eq!(is_sound_connect(body), sound, "{:?}", body.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_subscribe_is_judged_however_it_comes_in() {
        // A PUBLISH whose body looks like a SUBSCRIBE goes before.
        let publish = b"\x30\x09\0\x01t\x82\x04\0\x01\0\x00".as_slice();
        for (subscribe, sound) in
            [(b"\x82\x06\0\x01\0\x01t\x02".as_slice(), true), (b"\x82\x06\0\x01\0\x01t\x04", false)]
        {
            let stream = [publish, subscribe].concat();
            for size in 1..=stream.len() {
                let mut wire =
                    super::super::wire::Wire::new(rmqtt_codec::MqttCodec::V3(rmqtt_codec::v3::Codec::new(99)), None);
                let (mut input, mut outcome) = (bytes::BytesMut::new(), Vec::new());
                for part in stream.chunks(size) {
                    input.extend_from_slice(part);
                    loop {
                        match wire.decode(&mut input) {
                            Ok(Some(_)) => outcome.push(true),
                            Ok(None) => break,
                            Err(_) => {
                                outcome.push(false);
                                break;
                            }
                        }
                    }
                }
                assert_eq!(outcome, [true, sound], "parts of {size}");
            }
        }
    }
}
