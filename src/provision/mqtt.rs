//! The dialogue over MQTT 3.1.1: CONNECT, SUBSCRIBE, then a publish and its answer for each request. The bytes go over
//! TLS, or a WebSocket over that.

use std::io;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, Packet};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::{Answer, BODY_MAX, CLIENT, Options, Proof, Seen, Tell, Transport, exposed, named};
use crate::hub::connect::websocket_path;
use crate::hub::dps::{CLEAN_SESSION, Kind, REPLIES, ReplyTopic, Request, Trouble};
use crate::secret::Secret;
use crate::websocket::{WebSocket, client};

/// Keep-alive asked for; pauses are shorter, or the line is made anew.
const KEEP_ALIVE: u16 = 60;
const NOT_MQTT: &str = "it does not speak MQTT 3.1.1";

/// A line to the service.
pub(super) struct Line<'o> {
    options: &'o Options,
    token: Option<Secret>,
    open: Option<Open>,
    requests: u16,
}

enum Bytes {
    Tls(Box<TlsStream<TcpStream>>),
    WebSocket(Box<WebSocket<TlsStream<TcpStream>>>),
}

struct Open {
    stream: Bytes,
    codec: Codec,
    input: BytesMut,
    /// When something was sent last.
    used: Instant,
}

impl<'o> Line<'o> {
    pub(super) fn new(options: &'o Options, token: Option<Secret>) -> Self {
        Self { options, token, open: None, requests: 0 }
    }

    pub(super) async fn ask(&mut self, request: &Request, tell: Tell<'_>) -> Result<Answer, Trouble> {
        let options = self.options;
        let stale = Duration::from_secs(KEEP_ALIVE.into());
        let mut open = match self.open.take().filter(|open| open.used.elapsed() < stale) {
            Some(open) => open,
            None => self.connect(tell).await?,
        };
        self.requests = self.requests.wrapping_add(1).max(1);
        let request_id = self.requests.to_string();
        let publish = Publish {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: request.topic(&request_id).into(),
            packet_id: NonZeroU16::new(self.requests),
            payload: request.payload(&self.options.registration).into(),
            properties: None,
        };
        tell(Seen::Asked(named(request)));
        open.send(options, Packet::Publish(Box::new(publish))).await?;
        let answer = loop {
            let Packet::Publish(publish) = open.next(options).await? else { continue };
            if let Some(packet_id) = publish.packet_id {
                open.send(options, Packet::PublishAck { packet_id }).await?;
            }
            let Some(topic) = ReplyTopic::parse(&publish.topic).filter(|topic| topic.request_id == request_id) else {
                continue;
            };
            let retry_after = topic.retry_after.map(Duration::from_secs);
            break Answer { status: topic.status, retry_after, date: None, body: publish.payload.to_vec() };
        };
        self.open = Some(open);
        Ok(answer)
    }

    async fn connect(&mut self, tell: Tell<'_>) -> Result<Open, Trouble> {
        let options = self.options;
        let stream = options.dial(tell).await?;
        let stream = match options.transport {
            Transport::WebSocket => Bytes::WebSocket(Box::new(upgrade(options, stream).await?)),
            Transport::Rest | Transport::Mqtt => Bytes::Tls(Box::new(stream)),
        };
        let codec = Codec::new(u32::try_from(BODY_MAX).unwrap_or(u32::MAX));
        let mut open = Open { stream, codec, input: BytesMut::new(), used: Instant::now() };
        let registration = &options.registration;
        let connect = Connect {
            keep_alive: KEEP_ALIVE,
            clean_session: CLEAN_SESSION,
            client_id: registration.id.as_str().to_owned().into(),
            username: Some(registration.username(CLIENT).into()),
            password: exposed(self.token.as_ref()).map(|token| token.to_owned().into()),
            ..Connect::default()
        };
        open.send(options, Packet::Connect(Box::new(connect))).await?;
        match open.next(options).await.map_err(|trouble| options.not_greeted(trouble))? {
            Packet::ConnectAck(ack) if ack.return_code == ConnectAckReason::ConnectionAccepted => {}
            Packet::ConnectAck(ack) => return Err(refused(u8::from(ack.return_code))),
            _ => return Err(options.not_greeted(options.unreachable(NOT_MQTT))),
        }
        let packet_id = NonZeroU16::MAX;
        let topic_filters = vec![(REPLIES.into(), QoS::AtLeastOnce)];
        open.send(options, Packet::Subscribe { packet_id, topic_filters }).await?;
        while !matches!(open.next(options).await?, Packet::SubscribeAck { .. }) {}
        Ok(open)
    }
}

impl Open {
    async fn send(&mut self, options: &Options, packet: Packet) -> Result<(), Trouble> {
        let mut output = BytesMut::new();
        let encoded = self.codec.encode(packet, &mut output);
        encoded.map_err(|_| options.unreachable("the request does not fit a packet"))?;
        let written = async {
            match &mut self.stream {
                Bytes::Tls(stream) => write(stream, &output).await,
                Bytes::WebSocket(stream) => write(stream, &output).await,
            }
        };
        written.await.map_err(|error: io::Error| options.broken(&error))?;
        self.used = Instant::now();
        Ok(())
    }

    async fn next(&mut self, options: &Options) -> Result<Packet, Trouble> {
        loop {
            match self.codec.decode(&mut self.input) {
                Ok(Some((packet, _))) => return Ok(packet),
                Ok(None) => {}
                Err(_) => return Err(options.unreachable(NOT_MQTT)),
            }
            let read = match &mut self.stream {
                Bytes::Tls(stream) => stream.read_buf(&mut self.input).await,
                Bytes::WebSocket(stream) => stream.read_buf(&mut self.input).await,
            };
            match read {
                Ok(0) => return Err(options.broken(&io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(options.broken(&error)),
            }
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn upgrade(options: &Options, stream: TlsStream<TcpStream>) -> Result<WebSocket<TlsStream<TcpStream>>, Trouble> {
    let path = websocket_path(matches!(options.proof, Proof::Certificate));
    let asked = client::ask(stream, (&options.host, path), BODY_MAX).await;
    asked.map_err(|why| options.unreachable(&format!("no WebSocket: {why}")))
}

/// A refused CONNECT. The service says no more than the code.
fn refused(code: u8) -> Trouble {
    let kind = if code == 3 { Kind::Unavailable } else { Kind::Refused };
    let text = format!(
        "the provisioning service refused the connection (CONNACK {code}): look at the clock of this machine, the key \
         or certificate, `id_scope` and `registration_id`; over REST it says more"
    );
    Trouble::new(kind, text)
}
