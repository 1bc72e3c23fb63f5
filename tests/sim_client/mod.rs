//! A bare MQTT client for the simulator's tests: it can send what no library would.

#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

pub(crate) mod service;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brownbridge::hub::connect::Identity;
use brownbridge::hub::connection_string::{Auth, ConnectionString};
use brownbridge::hub::sas;
use brownbridge::hubsim::{Options, Received, Running, start};
use brownbridge::message::Timestamp;
use bytes::BytesMut;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, Packet};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Decoder as _, Encoder as _};

/// Nothing here takes long; a test that waits for this has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) type Messages = mpsc::Receiver<Vec<Received>>;

pub(crate) async fn sim(change: impl FnOnce(&mut Options)) -> (Running, Messages) {
    let (output, messages) = mpsc::channel(64);
    let mut options = Options { output: Some(output), ..Options::default() };
    change(&mut options);
    (start(options).await.unwrap(), messages)
}

/// The next `n` messages.
pub(crate) async fn take(messages: &mut Messages, n: usize) -> Vec<Received> {
    let mut all = Vec::new();
    while all.len() < n {
        all.extend(tokio::time::timeout(LONG, messages.recv()).await.expect("a message in time").unwrap());
    }
    all
}

/// What a well-behaved client says.
pub(crate) fn hello(sim: &Running, id: &str) -> Connect {
    hello_with(sim.connection_string(id).expose())
}

pub(crate) fn hello_with(connection_string: &str) -> Connect {
    let connection = ConnectionString::parse(connection_string).unwrap();
    let identity = Identity::of(&connection);
    let Auth::Key(key) = &connection.auth else { panic!("a key") };
    let expiry = Timestamp::now().as_secs() + 3600;
    Connect {
        keep_alive: 60,
        client_id: identity.client_id().into(),
        username: Some(identity.username(None, None).into()),
        password: Some(sas::mint(key, &identity.resource(), expiry, None).expose().to_owned().into()),
        ..Connect::default()
    }
}

pub(crate) fn publish(topic: &str, qos: u8, body: impl Into<bytes::Bytes>) -> Packet {
    let qos = QoS::try_from(qos).unwrap();
    Packet::Publish(Box::new(Publish {
        dup: false,
        retain: false,
        qos,
        topic: topic.to_owned().into(),
        packet_id: (qos != QoS::AtMostOnce).then(|| 7.try_into().unwrap()),
        payload: body.into(),
        properties: None,
    }))
}

pub(crate) fn subscribe(filter: &str, qos: QoS) -> Packet {
    Packet::Subscribe { packet_id: 3.try_into().unwrap(), topic_filters: vec![(filter.to_owned().into(), qos)] }
}

pub(crate) fn puback(id: u16) -> Packet {
    Packet::PublishAck { packet_id: id.try_into().unwrap() }
}

pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    codec: Codec,
    input: BytesMut,
}

impl Client {
    pub(crate) async fn dial(sim: &Running) -> Self {
        Self::dial_as(sim, None).await
    }

    /// With a client certificate: the paths of certificate and key.
    pub(crate) async fn dial_as(sim: &Running, certificate: Option<(&Path, &Path)>) -> Self {
        Self::dial_at(sim.local_addr(), &sim.ca_file(), certificate).await
    }

    pub(crate) async fn dial_at(at: SocketAddr, ca: &Path, certificate: Option<(&Path, &Path)>) -> Self {
        let tcp = TcpStream::connect(at).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(tls(ca, certificate))).connect(name, tcp).await.unwrap();
        Self { stream, codec: Codec::new(0), input: BytesMut::new() }
    }

    /// Dials and connects; the connection is accepted.
    pub(crate) async fn connected(sim: &Running, id: &str) -> Self {
        let mut client = Self::dial(sim).await;
        assert_eq!(client.connect(hello(sim, id)).await, Some((0, false)));
        client
    }

    /// Return code and session-present of the answer.
    pub(crate) async fn connect(&mut self, connect: Connect) -> Option<(u8, bool)> {
        self.send(connect.into()).await;
        match self.next().await? {
            Packet::ConnectAck(ack) => Some((ack.return_code.into(), ack.session_present)),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        self.codec.encode(packet, &mut out).unwrap();
        self.send_bytes(&out).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        // The other end may have closed already: what it said first is still to be read.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// The next packet, or `None` where the line is closed.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        let read = async {
            loop {
                if let Some((packet, _)) = self.codec.decode(&mut self.input).unwrap() {
                    return Some(packet);
                }
                if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(LONG, read).await.expect("an answer in time")
    }
}

pub(crate) fn tls(ca: &Path, certificate: Option<(&Path, &Path)>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(certificate).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap(),
    }
}
