//! Packets without their version: one set of incoming and outgoing packets for MQTT 3.1, 3.1.1 and 5.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::BytesMut;
use bytestring::ByteString;
use rmqtt_codec::error::{DecodeError, EncodeError};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::{
    Disconnect, DisconnectReasonCode, PublishAck, PublishAck2, PublishAck2Reason, PublishAckReason, SubscribeAck,
    SubscribeAckReason, SubscriptionOptions, ToReasonCode, UnsubscribeAck, UnsubscribeAckReason,
};
use rmqtt_codec::{MqttCodec, MqttPacket, v3, v5};
use tokio_util::codec::{Decoder, Encoder};

use super::acknowledge::Kind;
use super::expired::{self, Found};
use super::strict::{self, SubscribeWatch};

/// A packet of a connected client.
#[derive(Debug)]
pub(super) enum Incoming {
    Publish(Box<Publish>),
    PubAck(NonZeroU16),
    PubRec(NonZeroU16),
    PubRel(NonZeroU16),
    PubComp(NonZeroU16),
    Subscribe(Subscribe),
    Unsubscribe { packet_id: NonZeroU16, filters: Vec<ByteString> },
    PingReq,
    Disconnect { publish_will: bool, expiry: Option<u32> },
}

/// A SUBSCRIBE of any version.
#[derive(Debug)]
pub(super) struct Subscribe {
    pub(super) packet_id: NonZeroU16,
    pub(super) identifier: Option<NonZeroU32>,
    pub(super) filters: Vec<(ByteString, SubscriptionOptions)>,
}

/// A packet to a connected client.
pub(super) enum Outgoing {
    Publish(Box<Publish>),
    PubAck(NonZeroU16),
    PubRec(NonZeroU16),
    /// Answers a publish that is not allowed; before MQTT 5 an acknowledgement like any other.
    NotAuthorized(Kind, NonZeroU16),
    PubRel(NonZeroU16),
    PubComp {
        packet_id: NonZeroU16,
        known: bool,
    },
    SubAck {
        packet_id: NonZeroU16,
        status: Vec<SubscribeAckReason>,
    },
    UnsubAck {
        packet_id: NonZeroU16,
        status: Vec<UnsubscribeAckReason>,
    },
    PingResp,
}

impl Outgoing {
    /// First byte and identifier of an acknowledgement that says success: four bytes, the same in every version.
    fn plain_ack(&self) -> Option<(u8, NonZeroU16)> {
        match self {
            Self::PubAck(packet_id) => Some((0x40, *packet_id)),
            Self::PubRec(packet_id) => Some((0x50, *packet_id)),
            Self::PubRel(packet_id) => Some((0x62, *packet_id)),
            Self::PubComp { packet_id, known: true } => Some((0x70, *packet_id)),
            _ => None,
        }
    }
}

/// Why a connection ends; each has a counter label, and a reason code for MQTT 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// The client said DISCONNECT, or closed its socket after all its traffic.
    Disconnected,
    /// DISCONNECT with another reason than 0x00: the will is published ([MQTT-3.14.4-3]).
    DisconnectedWithWill,
    /// The socket ended without DISCONNECT.
    Lost,
    /// A packet that is no MQTT.
    Malformed,
    /// A packet that is not allowed at this point.
    Protocol,
    /// A packet over the limit.
    TooLarge,
    /// A topic name nobody may publish to.
    TopicName,
    /// A topic alias over the maximum.
    TopicAlias,
    /// More publishes unacknowledged than the receive maximum allows ([MQTT-3.3.4-7]).
    ReceiveMaximum,
    /// No packet in one and a half times the keep-alive ([MQTT-3.1.2-24]).
    KeepAlive,
    /// More publishes a second than a client may make.
    MessageRate,
    /// Another connection came with the same client id ([MQTT-3.1.4-2]).
    TakenOver,
    /// The broker ends.
    ShuttingDown,
}

impl Close {
    /// The value of the counter's `reason` label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnect",
            Self::DisconnectedWithWill => "disconnect_with_will",
            Self::Lost => "connection_lost",
            Self::Malformed => "malformed_packet",
            Self::Protocol => "protocol_error",
            Self::TooLarge => "packet_too_large",
            Self::TopicName => "topic_name_invalid",
            Self::TopicAlias => "topic_alias_invalid",
            Self::ReceiveMaximum => "receive_maximum_exceeded",
            Self::KeepAlive => "keep_alive_timeout",
            Self::MessageRate => "message_rate_too_high",
            Self::TakenOver => "session_taken_over",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// True where [MQTT-3.1.2-8] asks for the will.
    pub(super) fn publishes_will(self) -> bool {
        self != Self::Disconnected
    }

    /// True where the client did something worth a line in the log.
    pub(super) fn is_fault(self) -> bool {
        !matches!(self, Self::Disconnected | Self::DisconnectedWithWill | Self::ShuttingDown)
    }

    fn reason_code(self) -> Option<DisconnectReasonCode> {
        Some(match self {
            Self::Disconnected | Self::DisconnectedWithWill | Self::Lost => return None,
            Self::Malformed => DisconnectReasonCode::MalformedPacket,
            Self::Protocol => DisconnectReasonCode::ProtocolError,
            Self::TooLarge => DisconnectReasonCode::PacketTooLarge,
            Self::TopicName => DisconnectReasonCode::TopicNameInvalid,
            Self::TopicAlias => DisconnectReasonCode::TopicAliasInvalid,
            Self::ReceiveMaximum => DisconnectReasonCode::ReceiveMaximumExceeded,
            Self::KeepAlive => DisconnectReasonCode::KeepAliveTimeout,
            Self::MessageRate => DisconnectReasonCode::MessageRateTooHigh,
            Self::TakenOver => DisconnectReasonCode::SessionTakenOver,
            Self::ShuttingDown => DisconnectReasonCode::ServerShuttingDown,
        })
    }
}

impl From<DecodeError> for Close {
    fn from(error: DecodeError) -> Self {
        match (&error, error.to_reason_code()) {
            (DecodeError::MaxSizeExceeded { .. }, _) => Self::TooLarge,
            (DecodeError::InvalidTopicName, _) => Self::TopicName,
            (_, DisconnectReasonCode::ProtocolError) => Self::Protocol,
            _ => Self::Malformed,
        }
    }
}

/// Reads and writes the packets of one connection in its version.
pub(super) struct Wire {
    codec: MqttCodec,
    /// The largest packet the client takes.
    max_packet_size: usize,
    watch: SubscribeWatch,
    /// The input begins with a packet: of none the codec has taken the header already.
    between_packets: bool,
}

impl Wire {
    pub(super) fn new(codec: MqttCodec, max_packet_size: Option<u32>) -> Self {
        let max_packet_size = max_packet_size.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        Self { codec, max_packet_size, watch: SubscribeWatch::default(), between_packets: true }
    }

    pub(super) fn is_v5(&self) -> bool {
        matches!(self.codec, MqttCodec::V5(_))
    }

    /// Takes the next complete packet from the buffer.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, Close> {
        if let MqttCodec::V5(codec) = &self.codec
            && self.between_packets
        {
            match expired::take(input, codec.max_inbound_size()) {
                Found::Publish(publish) => return check(Incoming::Publish(publish)).map(Some),
                Found::Incomplete => return Ok(None),
                Found::Other => {}
            }
        }
        let subscribe = if self.is_v5() { None } else { self.watch.before(input)? };
        let before = input.len();
        let decoded = self.codec.decode(input)?;
        if decoded.is_some() || input.len() != before {
            self.between_packets = decoded.is_some();
        }
        self.watch.after(subscribe, decoded.is_some(), input.len() != before);
        let Some((packet, length)) = decoded else { return Ok(None) };
        match packet {
            MqttPacket::V3(v3::Packet::PingRequest) | MqttPacket::V5(v5::Packet::PingRequest) if length > 0 => {
                Err(Close::Malformed)
            }
            MqttPacket::V3(packet) => incoming_v3(packet),
            MqttPacket::V5(packet) => incoming_v5(packet),
            MqttPacket::Version(_) => Err(Close::Protocol),
        }
        .and_then(check)
        .map(Some)
    }

    /// Appends a packet to the output; one that is over the client's own limit is not sent ([MQTT-3.1.2-25]).
    pub(super) fn encode(&mut self, packet: Outgoing, output: &mut BytesMut) -> Result<(), EncodeError> {
        if let Some((first, packet_id)) = packet.plain_ack() {
            let [high, low] = packet_id.get().to_be_bytes();
            output.extend_from_slice(&[first, 2, high, low]);
            return Ok(());
        }
        let packet = match self.codec {
            MqttCodec::V5(_) => MqttPacket::V5(outgoing_v5(packet)),
            _ => MqttPacket::V3(outgoing_v3(packet)),
        };
        let start = output.len();
        self.codec.encode(packet, output)?;
        // The codec knows a limit too, but only roughly: it counts the longest header there is.
        if output.len() - start > self.max_packet_size {
            output.truncate(start);
            return Err(EncodeError::InvalidLength);
        }
        Ok(())
    }

    /// Tells an MQTT 5 client why the connection ends; older versions have no such packet.
    pub(super) fn farewell(&mut self, close: Close, output: &mut BytesMut) {
        if let (MqttCodec::V5(_), Some(reason)) = (&self.codec, close.reason_code()) {
            let _ = self.codec.encode(MqttPacket::V5(v5::Packet::Disconnect(Disconnect::new(reason))), output);
        }
    }
}

/// Refuses what the codec lets through.
fn check(packet: Incoming) -> Result<Incoming, Close> {
    let is_sound = match &packet {
        Incoming::Publish(publish) => strict::is_sound_publish(publish),
        Incoming::Subscribe(subscribe) => !subscribe.filters.iter().any(|(filter, _)| strict::has_null(filter)),
        Incoming::Unsubscribe { filters, .. } => !filters.iter().any(strict::has_null),
        _ => true,
    };
    if is_sound { Ok(packet) } else { Err(Close::Malformed) }
}

fn incoming_v3(packet: v3::Packet) -> Result<Incoming, Close> {
    Ok(match packet {
        v3::Packet::Publish(publish) => Incoming::Publish(publish),
        v3::Packet::PublishAck { packet_id } => Incoming::PubAck(packet_id),
        v3::Packet::PublishReceived { packet_id } => Incoming::PubRec(packet_id),
        v3::Packet::PublishRelease { packet_id } => Incoming::PubRel(packet_id),
        v3::Packet::PublishComplete { packet_id } => Incoming::PubComp(packet_id),
        v3::Packet::Subscribe { packet_id, topic_filters } => Incoming::Subscribe(Subscribe {
            packet_id,
            identifier: None,
            filters: topic_filters
                .into_iter()
                .map(|(filter, qos)| (filter, SubscriptionOptions { qos, ..Default::default() }))
                .collect(),
        }),
        v3::Packet::Unsubscribe { packet_id, topic_filters } => {
            Incoming::Unsubscribe { packet_id, filters: topic_filters }
        }
        v3::Packet::PingRequest => Incoming::PingReq,
        v3::Packet::Disconnect => Incoming::Disconnect { publish_will: false, expiry: None },
        v3::Packet::Connect(_)
        | v3::Packet::ConnectAck(_)
        | v3::Packet::SubscribeAck { .. }
        | v3::Packet::UnsubscribeAck { .. }
        | v3::Packet::PingResponse => return Err(Close::Protocol),
    })
}

fn incoming_v5(packet: v5::Packet) -> Result<Incoming, Close> {
    Ok(match packet {
        v5::Packet::Publish(publish) => Incoming::Publish(publish),
        v5::Packet::PublishAck(ack) => Incoming::PubAck(ack.packet_id),
        // A reason of 0x80 or more ends the exchange ([MQTT-4.3.3-1] and the text of 4.3.3): no PUBREL follows.
        v5::Packet::PublishReceived(ack) if u8::from(ack.reason_code) >= 0x80 => Incoming::PubAck(ack.packet_id),
        v5::Packet::PublishReceived(ack) => Incoming::PubRec(ack.packet_id),
        v5::Packet::PublishRelease(ack) => Incoming::PubRel(ack.packet_id),
        v5::Packet::PublishComplete(ack) => Incoming::PubComp(ack.packet_id),
        v5::Packet::Subscribe(subscribe) => Incoming::Subscribe(Subscribe {
            packet_id: subscribe.packet_id,
            identifier: subscribe.id,
            filters: subscribe.topic_filters,
        }),
        v5::Packet::Unsubscribe(unsubscribe) => {
            Incoming::Unsubscribe { packet_id: unsubscribe.packet_id, filters: unsubscribe.topic_filters }
        }
        v5::Packet::PingRequest => Incoming::PingReq,
        v5::Packet::Disconnect(disconnect) => Incoming::Disconnect {
            // Anything but a normal end publishes the will ([MQTT-3.14.4-3]).
            publish_will: disconnect.reason_code != DisconnectReasonCode::NormalDisconnection,
            expiry: disconnect.session_expiry_interval_secs,
        },
        v5::Packet::Connect(_)
        | v5::Packet::ConnectAck(_)
        | v5::Packet::SubscribeAck(_)
        | v5::Packet::UnsubscribeAck(_)
        | v5::Packet::PingResponse
        | v5::Packet::Auth(_) => return Err(Close::Protocol),
    })
}

fn outgoing_v3(packet: Outgoing) -> v3::Packet {
    match packet {
        Outgoing::Publish(publish) => v3::Packet::Publish(publish),
        Outgoing::PubAck(packet_id) | Outgoing::NotAuthorized(Kind::PubAck, packet_id) => {
            v3::Packet::PublishAck { packet_id }
        }
        Outgoing::PubRec(packet_id) | Outgoing::NotAuthorized(Kind::PubRec, packet_id) => {
            v3::Packet::PublishReceived { packet_id }
        }
        Outgoing::PubRel(packet_id) => v3::Packet::PublishRelease { packet_id },
        Outgoing::PubComp { packet_id, .. } => v3::Packet::PublishComplete { packet_id },
        Outgoing::SubAck { packet_id, status } => {
            v3::Packet::SubscribeAck { packet_id, status: status.into_iter().map(suback_v3).collect() }
        }
        Outgoing::UnsubAck { packet_id, .. } => v3::Packet::UnsubscribeAck { packet_id },
        Outgoing::PingResp => v3::Packet::PingResponse,
    }
}

fn suback_v3(reason: SubscribeAckReason) -> v3::SubscribeReturnCode {
    match reason {
        SubscribeAckReason::GrantedQos0 => v3::SubscribeReturnCode::Success(QoS::AtMostOnce),
        SubscribeAckReason::GrantedQos1 => v3::SubscribeReturnCode::Success(QoS::AtLeastOnce),
        SubscribeAckReason::GrantedQos2 => v3::SubscribeReturnCode::Success(QoS::ExactlyOnce),
        _ => v3::SubscribeReturnCode::Failure,
    }
}

fn outgoing_v5(packet: Outgoing) -> v5::Packet {
    let first = |packet_id| PublishAck {
        packet_id,
        reason_code: PublishAckReason::Success,
        properties: Vec::new(),
        reason_string: None,
    };
    let second = |packet_id, known| PublishAck2 {
        packet_id,
        reason_code: if known { PublishAck2Reason::Success } else { PublishAck2Reason::PacketIdNotFound },
        properties: Vec::new(),
        reason_string: None,
    };
    match packet {
        Outgoing::Publish(publish) => v5::Packet::Publish(publish),
        Outgoing::PubAck(packet_id) => v5::Packet::PublishAck(first(packet_id)),
        Outgoing::PubRec(packet_id) => v5::Packet::PublishReceived(first(packet_id)),
        Outgoing::NotAuthorized(Kind::PubAck, packet_id) => {
            let reason_code = PublishAckReason::NotAuthorized;
            v5::Packet::PublishAck(PublishAck { reason_code, ..first(packet_id) })
        }
        Outgoing::NotAuthorized(Kind::PubRec, packet_id) => {
            let reason_code = PublishAckReason::NotAuthorized;
            v5::Packet::PublishReceived(PublishAck { reason_code, ..first(packet_id) })
        }
        Outgoing::PubRel(packet_id) => v5::Packet::PublishRelease(second(packet_id, true)),
        Outgoing::PubComp { packet_id, known } => v5::Packet::PublishComplete(second(packet_id, known)),
        Outgoing::SubAck { packet_id, status } => {
            v5::Packet::SubscribeAck(SubscribeAck { packet_id, properties: Vec::new(), reason_string: None, status })
        }
        Outgoing::UnsubAck { packet_id, status } => v5::Packet::UnsubscribeAck(UnsubscribeAck {
            packet_id,
            properties: Vec::new(),
            reason_string: None,
            status,
        }),
        Outgoing::PingResp => v5::Packet::PingResponse,
    }
}
