//! The plant's side of the real program beside the plain port: WebSocket, TLS, `$SYS`, who is there, who comes and goes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, reason = "test code")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rumqttc::tokio_rustls::rustls::crypto::ring;
use rumqttc::tokio_rustls::rustls::pki_types::pem::PemObject as _;
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rumqttc::tokio_rustls::rustls::{ClientConfig, RootCertStore};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use support::{BINARY, Bridge, Publisher, Sim, free_port};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const PATIENCE: Duration = Duration::from_secs(20);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A bridge with more of `[broker]` and an uplink to nowhere.
fn start(dir: &Path, more: &str) -> Bridge {
    Bridge::alone(dir, more, (free_port(), free_port()))
}

fn start_websocket(dir: &Path, more: &str) -> (Bridge, SocketAddr) {
    let port = free_port();
    (start(dir, &format!("websocket = \"127.0.0.1:{port}\"\n{more}")), local(port))
}

/// Writes, and reads until `enough` has come, or the end; who waits for more in vain gets what there is.
fn exchange(stream: &mut TcpStream, bytes: &[u8], enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(bytes).unwrap();
    let (mut all, mut buf) = (Vec::new(), [0; 4096]);
    while !enough(&all) {
        match stream.read(&mut buf) {
            Ok(n) if n > 0 => all.extend(&buf[..n]),
            _ => break,
        }
    }
    all
}

fn upgrade(address: SocketAddr) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let answer = exchange(&mut stream, UPGRADE.as_bytes(), |answer| answer.ends_with(b"\r\n\r\n"));
    (stream, answer)
}

/// A frame of a client; the mask is there and zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqttv5, mqtt\r\n\r\n";
const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01w";
const SUBSCRIBE: &[u8] = b"\x82\x06\0\x01\0\x01t\0";
const PUBLISH: &[u8] = b"\x30\x06\0\x01thi!";

#[test]
fn requests_over_http_get_an_answer() {
    let dir = folder();
    let (bridge, address) = start_websocket(dir.path(), "");
    let without = |line: &str| {
        assert!(UPGRADE.contains(line), "{line}");
        UPGRADE.replace(line, "")
    };
    for (request, expect) in [
        (UPGRADE.to_owned(), "HTTP/1.1 101"),
        (UPGRADE.replace("mqttv5, mqtt", "mqttv3.1"), "HTTP/1.1 101"),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "HTTP/1.1 426"),
        (UPGRADE.replace("GET", "POST"), "HTTP/1.1 426"),
        (without("Upgrade: websocket\r\n"), "HTTP/1.1 426"),
        (UPGRADE.replace("Version: 13", "Version: 8"), "HTTP/1.1 426"),
        (without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "HTTP/1.1 400"),
        (without("Sec-WebSocket-Protocol: mqttv5, mqtt\r\n"), "HTTP/1.1 400"),
        (UPGRADE.replace("mqttv5, mqtt", "chat"), "HTTP/1.1 400"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)), "HTTP/1.1 431"),
        ("\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01w".to_owned(), "HTTP/1.1 400"),
    ] {
        let answer = exchange(&mut TcpStream::connect(address).unwrap(), request.as_bytes(), |answer| {
            answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(b"\r\n\r\n")
        });
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(expect), "{request:?}: {answer:?}");
        match expect {
            "HTTP/1.1 101" => {
                let answer = answer.to_ascii_lowercase();
                assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{answer}");
                assert!(answer.contains("sec-websocket-protocol: mqtt"), "{answer}");
                assert!(answer.contains("connection: upgrade\r\n"), "{answer}");
            }
            "HTTP/1.1 426" => assert!(answer.contains("upgrade: websocket"), "{answer}"),
            _ => {}
        }
    }
    assert_eq!(bridge.metric("brownbridge_broker_accepted_total{listener=\"websocket\"}"), 11.0);
}

#[test]
fn frames_carry_a_stream_of_packets() {
    let dir = folder();
    let (_bridge, address) = start_websocket(dir.path(), "max_packet_size = \"1KiB\"");
    let connect = frame(0x82, CONNECT);
    let connack = b"\x82\x04\x20\x02\0\0".to_vec();
    let heard = [b"\x82\x05\x90\x03\0\x01\0".as_slice(), b"\x82\x08", PUBLISH].concat();
    let oversize = [&[0x82, 0xff, 0, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0], PUBLISH].concat();
    for (name, sent, expect) in [
        ("whole", connect.clone(), connack.clone()),
        ("split in two messages", [frame(0x82, &CONNECT[..1]), frame(0x82, &CONNECT[1..])].concat(), connack.clone()),
        ("split in two frames", [frame(0x02, &CONNECT[..9]), frame(0x80, &CONNECT[9..])].concat(), connack.clone()),
        ("an empty message first", [frame(0x82, b""), connect.clone()].concat(), connack.clone()),
        (
            "a ping is answered",
            [connect.clone(), frame(0x89, b"hello")].concat(),
            [connack.clone(), b"\x8a\x05hello".to_vec()].concat(),
        ),
        (
            "a close is answered",
            [connect.clone(), frame(0x88, b"\x03\xe8")].concat(),
            [connack.clone(), b"\x88\x02\x03\xe8".to_vec()].concat(),
        ),
        (
            "text is no MQTT",
            [connect.clone(), frame(0x81, PUBLISH)].concat(),
            [connack.clone(), b"\x88\0".to_vec()].concat(),
        ),
        (
            "no mask",
            [connect.clone(), [b"\x82\x08", PUBLISH].concat()].concat(),
            [connack.clone(), b"\x88\0".to_vec()].concat(),
        ),
        ("a message without end", [connect.clone(), oversize].concat(), [connack.clone(), b"\x88\0".to_vec()].concat()),
        (
            "DISCONNECT",
            [connect.clone(), frame(0x82, b"\xe0\0")].concat(),
            [connack.clone(), b"\x88\0".to_vec()].concat(),
        ),
    ] {
        let (mut stream, _) = upgrade(address);
        assert_eq!(exchange(&mut stream, &sent, |answer| answer.len() >= expect.len()), expect, "{name}");
    }
    // Two packets in one message; how many messages carry the answer is the broker's choice.
    let (mut stream, _) = upgrade(address);
    exchange(&mut stream, &connect, |answer| answer == connack);
    let both = frame(0x82, &[SUBSCRIBE, PUBLISH].concat());
    let answer = exchange(&mut stream, &both, |answer| answer.ends_with(PUBLISH));
    let joined = [&[0x82, 13], &heard[2..7], PUBLISH].concat();
    assert!(answer == heard || answer == joined, "{answer:02x?}");
}

#[tokio::test]
async fn a_websocket_client_gets_large_messages() {
    let dir = folder();
    let (bridge, address) = start_websocket(dir.path(), "");
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let publish = [b"\x30\x83\xb8\x02\0\x01t".as_slice(), &[b'x'; 39_936]].concat();
    socket.send(Message::binary(CONNECT)).await.unwrap();
    socket.send(Message::binary(SUBSCRIBE)).await.unwrap();
    for _ in 0..20 {
        socket.send(Message::binary(publish.clone())).await.unwrap();
    }
    let expect = 4 + 5 + 20 * publish.len();
    let mut got = Vec::new();
    while got.len() < expect {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        got.extend(message.into_data());
    }
    assert_eq!(got.len(), expect);
    assert!(got.ends_with(&publish));
    assert_eq!(bridge.metric("brownbridge_broker_connections"), 1.0);
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

/// Writes `<name>.pem` and `<name>.key` signed by `ca`.
fn issue(dir: &Path, name: &str, ca: &CertifiedIssuer<'_, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// A CA in `dir/<name>.pem`.
fn authority(dir: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), ca.pem()).unwrap();
    ca
}

/// Publishes once over TLS, trusting `ca.pem` and showing the certificate `identity`.
async fn publish_over_tls(dir: &Path, port: u16, identity: Option<&str>) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let mut options = MqttOptions::new("press7", "localhost", port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.publish("t", QoS::AtLeastOnce, false, vec![b'x'; 5_000]).await.unwrap();
    let acknowledged = async {
        loop {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.map_err(|error| error.to_string())? {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, acknowledged).await.unwrap()
}

#[tokio::test]
async fn tls_and_mutual_tls() {
    let dir = folder();
    let ca = authority(dir.path(), "ca");
    let other = authority(dir.path(), "other-ca");
    issue(dir.path(), "plant", &ca);
    issue(dir.path(), "press7", &ca);
    issue(dir.path(), "stranger", &other);
    for (client_ca, identity, expect) in [
        ("", None, true),
        ("", Some("stranger"), true),
        (", client_ca = \"ca.pem\"", None, false),
        (", client_ca = \"ca.pem\"", Some("press7"), true),
        (", client_ca = \"ca.pem\"", Some("stranger"), false),
    ] {
        let port = free_port();
        let tls =
            format!("{{ listen = \"127.0.0.1:{port}\", certificate = \"plant.pem\", key = \"plant.key\"{client_ca} }}");
        let mut bridge = start(dir.path(), &format!("tls = {tls}"));
        let sent = publish_over_tls(dir.path(), port, identity).await;
        assert_eq!(sent.is_ok(), expect, "{client_ca} {identity:?}: {sent:?}");
        let refused = || bridge.metric("brownbridge_broker_disconnects_total{reason=\"tls_handshake\"}") > 0.0;
        if expect {
            assert!(!refused(), "{client_ca} {identity:?}");
        } else {
            support::until("the refusal is counted", PATIENCE, || refused().then_some(()));
        }
        // The plain port is there all the time.
        Publisher::connect(bridge.mqtt, "plain").unwrap();
        assert_eq!(bridge.process.terminate(), Some(0));
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_while_connections_go_on() {
    let dir = folder();
    let old = authority(dir.path(), "old-ca");
    issue(dir.path(), "plant", &old);
    let port = free_port();
    let tls = format!("tls = {{ listen = \"127.0.0.1:{port}\", certificate = \"plant.pem\", key = \"plant.key\" }}");
    let mut bridge = start(dir.path(), &tls);
    let trusting = |name: &str| std::fs::copy(dir.path().join(format!("{name}.pem")), dir.path().join("ca.pem"));
    trusting("old-ca").unwrap();
    publish_over_tls(dir.path(), port, None).await.unwrap();
    let mut plain = Publisher::connect(bridge.mqtt, "plain").unwrap();
    let successful = || bridge.metric("brownbridge_config_last_reload_successful");
    std::fs::write(dir.path().join("plant.pem"), "no certificate").unwrap();
    support::until("it is told", PATIENCE, || (successful() == 0.0).then_some(()));
    publish_over_tls(dir.path(), port, None).await.unwrap();
    let new = authority(dir.path(), "new-ca");
    issue(dir.path(), "plant", &new);
    support::until("it is taken up", PATIENCE, || (successful() == 1.0).then_some(()));
    assert!(publish_over_tls(dir.path(), port, None).await.is_err(), "of an authority nobody trusts");
    trusting("new-ca").unwrap();
    publish_over_tls(dir.path(), port, None).await.unwrap();
    assert!(bridge.metric("brownbridge_broker_certificate_expiry_timestamp_seconds") > 1e9);
    let mut out = Vec::new();
    plain.publish(&mut out, "t", b"x");
    plain.flush(&mut out).unwrap();
    while plain.acknowledged().unwrap().is_empty() {}
    assert_eq!(bridge.process.terminate(), Some(0));
}

#[test]
fn who_does_not_shake_hands_is_let_go() {
    let dir = folder();
    issue(dir.path(), "plant", &authority(dir.path(), "ca"));
    let port = free_port();
    let tls = format!("tls = {{ listen = \"127.0.0.1:{port}\", certificate = \"plant.pem\", key = \"plant.key\" }}");
    let (bridge, websocket) = start_websocket(dir.path(), &format!("{tls}\nconnect_timeout = \"300ms\""));
    let closed = |reason: &str| bridge.metric(&format!("brownbridge_broker_disconnects_total{{reason=\"{reason}\"}}"));
    // The start of the bridge was watched by one such connection.
    let probed = support::until("the start's own", PATIENCE, || Some(closed("probed")).filter(|probed| *probed == 1.0));
    for address in [local(port), websocket] {
        let (timed_out, before) = (closed("connect_timeout"), closed("probed"));
        // A port scan is nothing to warn of.
        drop(TcpStream::connect(address).unwrap());
        support::until("the scan is counted", PATIENCE, || (closed("probed") > before).then_some(()));
        let mut silent = TcpStream::connect(address).unwrap();
        assert_eq!(exchange(&mut silent, &[], |_| false), b"");
        support::until("silence is counted", PATIENCE, || (closed("connect_timeout") > timed_out).then_some(()));
    }
    assert_eq!(closed("probed"), probed + 2.0);
    assert_eq!(closed("tls_handshake"), 0.0);
    // MQTT in the clear on the TLS port.
    exchange(&mut TcpStream::connect(local(port)).unwrap(), CONNECT, |_| false);
    support::until("plaintext is counted", PATIENCE, || (closed("tls_handshake") == 1.0).then_some(()));
}

#[test]
fn bad_tls_files_are_told_at_check() {
    let dir = folder();
    let ca = authority(dir.path(), "ca");
    issue(dir.path(), "plant", &ca);
    issue(dir.path(), "press7", &ca);
    std::fs::create_dir_all(dir.path().join("rules")).unwrap();
    std::fs::write(dir.path().join("rules/1.toml"), "").unwrap();
    for (tls, expect) in [
        ("certificate = \"plant.pem\", key = \"plant.key\", client_ca = \"ca.pem\"", None),
        ("certificate = \"none.pem\", key = \"plant.key\"", Some("cannot read")),
        ("certificate = \"plant.key\", key = \"plant.key\"", Some("there is no certificate in it")),
        ("certificate = \"plant.pem\", key = \"plant.pem\"", Some("there is no private key in it")),
        ("certificate = \"plant.pem\", key = \"press7.key\"", Some("the key is not the one of the certificate")),
        (
            "certificate = \"plant.pem\", key = \"plant.key\", client_ca = \"plant.key\"",
            Some("there is no certificate"),
        ),
        ("certificate = \"plant.pem\"", Some("there is no `key`")),
    ] {
        let file = dir.path().join("bridge.toml");
        let broker = format!("[broker]\ntls = {{ {tls} }}\n");
        let uplink = "[uplink]\nkind = \"mqtt\"\naddress = \"127.0.0.1:9\"\ntls = false\n";
        std::fs::write(&file, format!("{broker}{uplink}")).unwrap();
        let done = Command::new(BINARY).arg("check").arg(&file).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(i32::from(expect.is_some())), "{tls}: {told}");
        if let Some(expect) = expect {
            assert!(told.contains(expect) && told.contains("bridge.toml:2:") && told.contains("^^^"), "{tls}: {told}");
        }
    }
}

#[test]
fn all_listeners_share_the_places() {
    let dir = folder();
    let (bridge, address) = start_websocket(dir.path(), "max_connections = 1");
    let first = support::until("a place", PATIENCE, || Publisher::connect(bridge.mqtt, "a").ok());
    assert_eq!(upgrade(address).1, b"", "no place, no answer");
    drop(first);
    support::until("its place again", PATIENCE, || upgrade(address).1.starts_with(b"HTTP/1.1 101").then_some(()));
}

#[test]
fn the_broker_tells_about_itself() {
    let dir = folder();
    let bridge = start(dir.path(), "");
    let _other = Publisher::connect(bridge.mqtt, "other").unwrap();
    let mut stream = TcpStream::connect(bridge.mqtt).unwrap();
    assert_eq!(exchange(&mut stream, CONNECT, |answer| answer.len() == 4), b"\x20\x02\0\0");
    let filter = b"$SYS/broker/clients/+";
    let subscribe = [&[0x82, 5 + filter.len() as u8, 0, 1, 0, filter.len() as u8], filter.as_slice(), &[0]].concat();
    let heard = exchange(&mut stream, &subscribe, |heard| {
        heard.windows(7).filter(|level| *level == b"clients").count() == 3 && heard.ends_with(b"2")
    });
    let heard = String::from_utf8_lossy(&heard);
    for expect in ["clients/connected2", "clients/total2", "clients/maximum2"] {
        assert!(heard.contains(expect), "{heard:?}");
    }
    assert_eq!(bridge.metric("brownbridge_publishes_received_total"), 0.0, "it is nothing for rules or hub");
}

#[test]
fn status_says_who_is_connected() {
    let dir = folder();
    let (bridge, _) = start_websocket(dir.path(), "");
    let mut client = Publisher::connect(bridge.mqtt, "press7").unwrap();
    let mut out = Vec::new();
    client.publish(&mut out, "t", b"hello");
    client.flush(&mut out).unwrap();
    client.acknowledged().unwrap();
    let ask = |args: &[&str]| Command::new(BINARY).arg("status").args(args).output().unwrap();
    let config = dir.path().join("bridge.toml").display().to_string();
    let admin = bridge.admin.to_string();

    let done = ask(&["--admin", &admin, "--json"]);
    assert_eq!(done.status.code(), Some(1), "a message waits and there is no hub");
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["clients"]["connected"], 1);
    let known = &report["clients"]["list"][0];
    for (key, expect) in [
        ("client_id", "press7".into()),
        ("via", "mqtt".into()),
        ("mqtt_version", "3.1.1".into()),
        ("keep_alive_seconds", 0.into()),
        ("messages_in", 1.into()),
        ("messages_out", serde_json::Value::from(0)),
    ] {
        assert_eq!(known[key], expect, "{key}");
    }
    assert_eq!(report["counters"]["received"], 1);
    assert_eq!(report["spool"]["waiting"], 1);
    assert_eq!(report["uplink"]["connected"], false);
    assert_eq!(report["listeners"][1]["name"], "websocket");

    let done = ask(&["--config", &config]);
    let shown = String::from_utf8_lossy(&done.stdout);
    for expect in
        ["press7  127.0.0.1:", "1 message waits, for ", "1 received: 1 translated", "NOT READY", "not connected"]
    {
        assert!(shown.contains(expect), "{expect}: {shown}");
    }
    drop(bridge);
    let done = ask(&["--admin", &admin]);
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains(&admin));
}

#[test]
fn the_hub_hears_who_comes_and_goes() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = "[[rule]]\nname = \"on\"\non = \"connect\"\nclient = \"plc-{line}\"\ndevice = \"{line}\"\n\
        add = { state = \"online\", from = \"{address}\" }\n\
        [[rule]]\nname = \"off\"\non = \"disconnect\"\nclient = \"plc-{line}\"\ndevice = \"{line}\"\n\
        add = { state = \"offline\", reason = \"{reason}\" }\n";
    let bridge = Bridge::start(dir.path(), &sim, rules, "");
    drop(Publisher::connect(bridge.mqtt, "somebody").unwrap());
    drop(Publisher::connect(bridge.mqtt, "plc-line4").unwrap());
    let received = support::until("both at the hub", PATIENCE, || Some(sim.received()).filter(|all| all.len() == 2));
    let told =
        |n: usize| (received[n]["body"].as_str().unwrap(), received[n]["properties"]["device"].as_str().unwrap());
    assert_eq!(told(0), ("{\"state\":\"online\",\"from\":\"127.0.0.1\"}", "line4"));
    assert_eq!(told(1), ("{\"state\":\"offline\",\"reason\":\"disconnect\"}", "line4"));
    let metric = |name: &str| bridge.metric(&format!("brownbridge_{name}"));
    assert_eq!((metric("publishes_received_total"), metric("publishes_translated_total")), (2.0, 2.0));
    assert_eq!(metric("messages_translated_total{rule=\"off\"}"), 1.0);
}
