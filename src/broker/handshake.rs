//! From the first byte of a socket to a checked CONNECT.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::PublishProperties;
use rmqtt_codec::version::{ProtocolVersion, VersionCodec};
use rmqtt_codec::{MqttCodec, MqttPacket, v3, v5};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::{Decoder, Encoder};

use super::gate::Badge;
use super::{Options, alias, expired, strict};

/// Largest CONNECT read, whatever the packet limit: nobody is known yet who could be trusted with more.
const MAX_CONNECT: u32 = 256 * 1024;

/// What a client asked for.
pub(super) struct Connected {
    pub(super) codec: MqttCodec,
    pub(super) client_id: ByteString,
    /// The MQTT version, for people.
    pub(super) version: &'static str,
    pub(super) keep_alive: Duration,
    pub(super) will: Option<Box<Publish>>,
    pub(super) receive_max: Option<NonZeroU16>,
    pub(super) badge: Badge,
    /// Aliases the client allows.
    pub(super) topic_alias_max: u16,
    /// The largest packet the client takes.
    pub(super) max_packet_size: Option<u32>,
    /// Nothing of an earlier session is wanted.
    pub(super) clean_start: bool,
    /// Seconds the session is to outlive the connection, as far as the broker allows it.
    pub(super) session_expiry: u32,
    /// Seconds the will waits for the client to come back.
    pub(super) will_delay: u32,
    /// A Mosquitto bridge: it hears retain flags as they were published, and not its own publishes.
    pub(super) is_bridge: bool,
    /// An identifier the broker chose, to be told to the client.
    assigned: bool,
    /// The session expiry the broker allows instead of what was asked for.
    told_expiry: Option<u32>,
    /// The keep-alive the broker wants instead of what was asked for.
    told_keep_alive: Option<u16>,
}

/// Why there was no CONNECT; the value is the counter's label.
pub(super) type Refused = &'static str;

/// A connection that was closed without a byte: a port scan or a health check, nothing to warn of.
pub(super) const PROBED: Refused = "probed";

/// Reads CONNECT. A refusal the protocol has an answer for is answered.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    options: &Options,
) -> Result<Connected, Refused> {
    let mut is_bridge = false;
    let version = loop {
        is_bridge |= take_bridge_flag(input);
        match VersionCodec.decode(input) {
            Ok(Some(version)) => break version,
            Ok(None) => read(stream, input).await?,
            Err(_) if speaks_other_level(input) => {
                // [MQTT-3.1.2-2]
                refuse(stream, &[0x20, 2, 0, 1]).await;
                return Err("unsupported_protocol_version");
            }
            Err(_) => return Err("not_mqtt"),
        }
    };
    let max = options.max_packet_size.min(MAX_CONNECT);
    let mut will_expires_at_once = false;
    while let Some((header, length)) =
        strict::header(input).filter(|(_, length)| u32::try_from(*length).is_ok_and(|length| length <= max))
    {
        match input.get(header..).and_then(|rest| rest.get(..length)) {
            Some(body) if strict::is_sound_connect(body) => {
                will_expires_at_once = expired::is_of_will(body);
                break;
            }
            Some(_) => return Err("malformed_connect"),
            None => read(stream, input).await?,
        }
    }
    let clean_start = loop {
        match take_clean_start(version, input) {
            Some(clean_start) => break clean_start,
            None => read(stream, input).await?,
        }
    };
    let mut codec = match version {
        ProtocolVersion::MQTT3 => MqttCodec::V3(v3::Codec::new(max)),
        ProtocolVersion::MQTT5 => MqttCodec::V5(v5::Codec::new(max, 0)),
    };
    let packet = loop {
        match codec.decode(input) {
            Ok(Some((packet, _))) => break packet,
            Ok(None) => read(stream, input).await?,
            Err(DecodeError::InvalidClientId) => {
                refuse(stream, &[0x20, 2, 0, 2]).await; // [MQTT-3.1.3-8]
                return Err("client_id_rejected");
            }
            Err(DecodeError::MaxSizeExceeded { .. }) => return Err("packet_too_large"),
            Err(_) if will_expires_at_once => {
                // Nothing is wrong with it, and the codec cannot read it: Implementation specific error.
                refuse(stream, &[0x20, 3, 0, 0x83, 0]).await;
                return Err("will_expiry_zero");
            }
            Err(_) => return Err("malformed_connect"),
        }
    };
    match (packet, codec) {
        (MqttPacket::V3(v3::Packet::Connect(packet)), MqttCodec::V3(mut codec)) => {
            codec.set_max_size(options.max_packet_size);
            let connected = check_v3(stream, *packet, MqttCodec::V3(codec), options).await;
            connected.map(|connected| Connected { is_bridge, ..connected })
        }
        (MqttPacket::V5(v5::Packet::Connect(mut packet)), MqttCodec::V5(mut codec)) => {
            packet.clean_start = clean_start;
            codec.set_max_inbound_size(options.max_packet_size);
            check_v5(stream, *packet, MqttCodec::V5(codec), options).await
        }
        _ => Err("no_connect"),
    }
}

/// Takes the flag off a protocol level by which a Mosquitto bridge says that it is one: 0x84 is 3.1.1, 0x83 is 3.1.
fn take_bridge_flag(input: &mut BytesMut) -> bool {
    for (name, level) in [(&b"\0\x04MQTT"[..], 0x84), (b"\0\x06MQIsdp", 0x83)] {
        // The fixed header is one byte and one to four length bytes.
        for at in 2..=5 {
            let rest = input.get(at..).and_then(|rest| rest.strip_prefix(name)).and_then(|rest| rest.first());
            if rest == Some(&level)
                && let Some(byte) = input.get_mut(at + name.len())
            {
                *byte &= 0x7f;
                return true;
            }
        }
    }
    false
}

/// The Clean Start flag of an MQTT 5 CONNECT, once it has come. It is set in the buffer: the codec refuses an empty
/// client identifier without it, as MQTT 3.1.1 asks, but MQTT 5 allows that ([MQTT-3.1.3-6]).
fn take_clean_start(version: ProtocolVersion, input: &mut BytesMut) -> Option<bool> {
    const CLEAN_START: u8 = 2;
    if version == ProtocolVersion::MQTT3 {
        return Some(true);
    }
    let length_bytes = input.iter().skip(1).position(|byte| byte & 0x80 == 0)? + 1;
    let before_flags = b"\0\x04MQTT\x05".len();
    let flags = input.get_mut(1 + length_bytes + before_flags)?;
    let clean_start = *flags & CLEAN_START != 0;
    *flags |= CLEAN_START;
    Some(clean_start)
}

async fn check_v3<S: AsyncWrite + Unpin>(
    stream: &mut S,
    packet: v3::Connect,
    codec: MqttCodec,
    options: &Options,
) -> Result<Connected, Refused> {
    // MQTT 3.1 knows no empty client identifier.
    let empty = packet.client_id.is_empty();
    if (empty && packet.protocol.level() == 3) || is_refused(&packet.client_id, options) {
        refuse(stream, &[0x20, 2, 0, 2]).await;
        return Err("client_id_rejected");
    }
    let will = packet.last_will.map(|will| {
        Box::new(Publish {
            dup: false,
            retain: will.retain,
            qos: will.qos,
            topic: will.topic,
            packet_id: None,
            payload: will.message,
            properties: None,
        })
    });
    if !will_is_valid(will.as_deref()) {
        return Err("will_topic_invalid");
    }
    Ok(Connected {
        codec,
        client_id: if empty { assigned_id() } else { packet.client_id },
        version: if packet.protocol.level() == 3 { "3.1" } else { "3.1.1" },
        keep_alive: Duration::from_secs(packet.keep_alive.into()),
        will,
        receive_max: None,
        badge: Badge::claimed(packet.username, packet.password),
        topic_alias_max: 0,
        max_packet_size: None,
        clean_start: packet.clean_session,
        session_expiry: if packet.clean_session { 0 } else { options.max_session_expiry },
        will_delay: 0,
        assigned: empty,
        told_expiry: None,
        told_keep_alive: None,
        is_bridge: false,
    })
}

async fn check_v5<S: AsyncWrite + Unpin>(
    stream: &mut S,
    packet: v5::Connect,
    mut codec: MqttCodec,
    options: &Options,
) -> Result<Connected, Refused> {
    let texts = packet.last_will.iter().flat_map(|will| &will.user_properties).chain(&packet.user_properties);
    let has_null = texts.into_iter().any(|(name, value)| strict::has_null(name) || strict::has_null(value));
    if has_null || (packet.auth_data.is_some() && packet.auth_method.is_none()) {
        return Err("malformed_connect");
    }
    let refusal = if packet.auth_method.is_some() {
        Some((v5::ConnectAckReason::BadAuthenticationMethod, "bad_authentication_method"))
    } else if is_refused(&packet.client_id, options) {
        Some((v5::ConnectAckReason::ClientIdentifierNotValid, "client_id_rejected"))
    } else {
        None
    };
    let will_delay = packet.last_will.as_ref().and_then(|will| will.will_delay_interval_sec).unwrap_or(0);
    let will = packet.last_will.map(|will| {
        Box::new(Publish {
            dup: false,
            retain: will.retain,
            qos: will.qos,
            topic: will.topic,
            packet_id: None,
            payload: will.message,
            properties: Some(PublishProperties {
                correlation_data: will.correlation_data,
                message_expiry_interval: will.message_expiry_interval,
                content_type: will.content_type,
                user_properties: will.user_properties,
                is_utf8_payload: will.is_utf8_payload.unwrap_or(false),
                response_topic: will.response_topic,
                ..Default::default()
            }),
        })
    });
    let refusal = refusal.or_else(|| {
        let valid = will_is_valid(will.as_deref());
        (!valid).then_some((v5::ConnectAckReason::TopicNameInvalid, "will_topic_invalid"))
    });
    if let Some((reason_code, label)) = refusal {
        let ack = v5::ConnectAck { reason_code, ..Default::default() };
        let mut output = BytesMut::new();
        if codec.encode(MqttPacket::V5(v5::Packet::ConnectAck(Box::new(ack))), &mut output).is_ok() {
            refuse(stream, &output).await;
        }
        return Err(label);
    }
    let empty = packet.client_id.is_empty();
    let asked = packet.session_expiry_interval_secs;
    let session_expiry = asked.min(options.max_session_expiry);
    let is_too_long = packet.keep_alive == 0 || packet.keep_alive > options.max_keep_alive;
    let told_keep_alive = (options.max_keep_alive > 0 && is_too_long).then_some(options.max_keep_alive);
    Ok(Connected {
        codec,
        client_id: if empty { assigned_id() } else { packet.client_id },
        version: "5",
        keep_alive: Duration::from_secs(told_keep_alive.unwrap_or(packet.keep_alive).into()),
        will,
        receive_max: packet.receive_max,
        badge: Badge::claimed(packet.username, packet.password),
        topic_alias_max: packet.topic_alias_max,
        max_packet_size: packet.max_packet_size.map(NonZeroU32::get),
        clean_start: packet.clean_start,
        session_expiry,
        will_delay,
        assigned: empty,
        told_expiry: (session_expiry != asked).then_some(session_expiry),
        told_keep_alive,
        is_bridge: false,
    })
}

impl Connected {
    /// True where the broker chose the client id.
    pub(super) fn is_assigned(&self) -> bool {
        self.assigned
    }

    /// Appends the CONNACK that accepts this client; its session is `present` where it goes on.
    pub(super) fn accept(&mut self, options: &Options, present: bool, output: &mut BytesMut) {
        let packet = match self.codec {
            MqttCodec::V5(_) => MqttPacket::V5(v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
                session_present: present,
                session_expiry_interval_secs: self.told_expiry,
                server_keepalive_sec: self.told_keep_alive,
                receive_max: receive_maximum(options),
                topic_alias_max: alias::MAX,
                max_packet_size: Some(options.max_packet_size),
                assigned_client_id: self.assigned.then(|| self.client_id.clone()),
                ..Default::default()
            }))),
            _ => MqttPacket::V3(v3::Packet::ConnectAck(v3::ConnectAck {
                return_code: v3::ConnectAckReason::ConnectionAccepted,
                // In MQTT 3.1 the byte of this flag is not used.
                session_present: present && self.version != "3.1",
            })),
        };
        let _ = self.codec.encode(packet, output);
    }
}

/// QoS 1 and 2 publishes an MQTT 5 client may have unacknowledged.
pub(super) fn receive_maximum(options: &Options) -> NonZeroU16 {
    u16::try_from(options.max_unacknowledged).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MAX)
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, input: &mut BytesMut) -> Result<(), Refused> {
    match stream.read_buf(input).await {
        Ok(n) if n > 0 => Ok(()),
        _ if input.is_empty() => Err(PROBED),
        _ => Err("closed_before_connect"),
    }
}

async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, connack: &[u8]) {
    let _ = stream.write_all(connack).await;
    let _ = stream.shutdown().await;
}

/// True for a CONNECT with a protocol name of MQTT and a level this broker does not speak.
fn speaks_other_level(input: &[u8]) -> bool {
    // The fixed header is one byte and one to four length bytes.
    input.first() == Some(&0x10)
        && (2..=5).any(|at| {
            let rest = input.get(at..).unwrap_or_default();
            rest.starts_with(b"\x00\x04MQTT") || rest.starts_with(b"\x00\x06MQIsdp")
        })
}

fn is_refused(client_id: &str, options: &Options) -> bool {
    options.refused_client_id.as_deref() == Some(client_id)
}

fn will_is_valid(will: Option<&Publish>) -> bool {
    will.is_none_or(|will| crate::topic::check_name(&will.topic).is_ok() && will.qos <= QoS::ExactlyOnce)
}

fn assigned_id() -> ByteString {
    ByteString::from(format!("auto-{:016x}", rand::random::<u64>()))
}
