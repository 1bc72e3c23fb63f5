//! The service over MQTT 3.1.1.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, ConnectAck, ConnectAckReason, Packet, SubscribeReturnCode};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::{Answer, Proof, Service};
use crate::hub::bag;
use crate::hub::dps::REPLIES;
use crate::hubsim::connection::{Stream, write_out};
use crate::hubsim::counters::Closed;

/// The largest message and its topic.
pub(super) const PACKET_MAX: u32 = 128 * 1024;
/// Silence after which a client is closed that asks for no keep-alive.
const PATIENCE: Duration = Duration::from_secs(300);

/// Serves one connection, of which something is read already.
pub(super) async fn serve(
    stream: Stream,
    read: &[u8],
    service: &Arc<Service>,
    certificates: Option<&[CertificateDer<'static>]>,
) -> Closed {
    let mut input = BytesMut::with_capacity(8 * 1024);
    input.extend_from_slice(read);
    let codec = Codec::new(PACKET_MAX);
    let mut line = Line { stream, codec, input, output: BytesMut::new(), patience: PATIENCE };
    let connect = match line.next().await {
        Ok(Packet::Connect(connect)) => *connect,
        Ok(_) => return Closed::Protocol,
        Err(closed) => return closed,
    };
    if connect.keep_alive > 0 {
        line.patience = Duration::from_secs(connect.keep_alive.into()) * 3 / 2;
    }
    let known = named(&connect);
    let return_code =
        if known.is_some() { ConnectAckReason::ConnectionAccepted } else { ConnectAckReason::NotAuthorized };
    line.send(Packet::ConnectAck(ConnectAck { return_code, session_present: false }));
    if let Err(closed) = line.flush().await {
        return closed;
    }
    let Some((scope, id)) = known else { return Closed::Refused };
    let password = connect.password.as_deref().and_then(|password| std::str::from_utf8(password).ok());
    let proof = Proof { token: password, certificates };
    let mut listens = false;
    loop {
        let packet = match line.next().await {
            Ok(packet) => packet,
            Err(closed) => return closed,
        };
        match packet {
            Packet::PingRequest => line.send(Packet::PingResponse),
            Packet::Disconnect => return Closed::Goodbye,
            Packet::Subscribe { packet_id, topic_filters } => {
                if topic_filters.iter().any(|(filter, _)| **filter != *REPLIES) {
                    return Closed::Subscribe;
                }
                listens = true;
                let status = topic_filters.iter().map(|_| SubscribeReturnCode::Success(QoS::AtLeastOnce)).collect();
                line.send(Packet::SubscribeAck { packet_id, status });
            }
            Packet::Unsubscribe { packet_id, .. } => {
                listens = false;
                line.send(Packet::UnsubscribeAck { packet_id });
            }
            Packet::Publish(publish) => {
                let Some((request_id, answer)) = asked(service, (&scope, &id), &proof, &publish) else {
                    return Closed::Topic;
                };
                if let Some(packet_id) = publish.packet_id {
                    line.send(Packet::PublishAck { packet_id });
                }
                if listens {
                    line.send(reply(request_id, &answer));
                }
            }
            _ => return Closed::Protocol,
        }
        if let Err(closed) = line.flush().await {
            return closed;
        }
    }
}

/// ID scope and registration id of the user name `{scope}/registrations/{id}/api-version=..`.
fn named(connect: &Connect) -> Option<(String, String)> {
    let mut levels = connect.username.as_deref()?.splitn(4, '/');
    let (scope, word, id, query) = (levels.next()?, levels.next()?, levels.next()?, levels.next()?);
    let version = query.split('&').find_map(|pair| pair.strip_prefix("api-version="))?;
    let good = connect.protocol.level() == 4
        && word == "registrations"
        && !version.is_empty()
        && connect.client_id.eq_ignore_ascii_case(id);
    good.then(|| (scope.to_owned(), id.to_owned()))
}

/// The answer to a request, with its id; `None` for a topic that is no request.
fn asked<'p>(
    service: &Service,
    who: (&str, &str),
    proof: &Proof<'_>,
    publish: &'p Publish,
) -> Option<(&'p str, Answer)> {
    let (request, query) = publish.topic.strip_prefix("$dps/registrations/")?.split_once("/?")?;
    let field = |name: &str| query.split('&').find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name));
    let (_, request_id) = field("$rid")?;
    let answer = match request {
        "PUT/iotdps-register" => service.register(who, proof, &publish.payload),
        "GET/iotdps-get-operationstatus" => {
            let (_, operation) = field("operationId")?;
            service.status(who, Some(&bag::unescape(operation)), proof)
        }
        _ => return None,
    };
    Some((request_id, answer))
}

fn reply(request_id: &str, answer: &Answer) -> Packet {
    let mut topic = format!("$dps/registrations/res/{}/?$rid={request_id}", answer.status);
    if let Some(seconds) = answer.retry_after {
        topic.push_str(&format!("&retry-after={seconds}"));
    }
    Packet::Publish(Box::new(Publish {
        dup: false,
        retain: false,
        qos: QoS::AtMostOnce,
        topic: topic.into(),
        packet_id: None,
        payload: answer.body.to_string().into(),
        properties: None,
    }))
}

struct Line {
    stream: Stream,
    codec: Codec,
    input: BytesMut,
    output: BytesMut,
    /// Silence longer than this ends it.
    patience: Duration,
}

impl Line {
    async fn next(&mut self) -> Result<Packet, Closed> {
        loop {
            match self.codec.decode(&mut self.input) {
                Ok(Some((packet, _))) => return Ok(packet),
                Ok(None) => {}
                Err(_) => return Err(Closed::Protocol),
            }
            match timeout(self.patience, self.stream.read_buf(&mut self.input)).await {
                Err(_) => return Err(Closed::Silent),
                Ok(Ok(0) | Err(_)) => return Err(Closed::Lost),
                Ok(Ok(_)) => {}
            }
        }
    }

    fn send(&mut self, packet: Packet) {
        // The packets above are all small and well formed, so that encoding them cannot fail.
        let _ = self.codec.encode(packet, &mut self.output);
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        write_out(&mut self.stream, &mut self.output).await
    }
}
