//! Ways out of the plant: MQTT in a WebSocket on the port that firewalls leave open, by every identity, and what is told
//! where something else answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use brownbridge::hub::sas::Key;
use brownbridge::hubsim::{Closed, Options};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

#[path = "support/proxy.rs"]
mod proxy;
mod sim_client;
mod support;
use support::*;

const RULES: &str = "[[rule]]\nname = \"t\"\ntopic = \"t/{d}\"\ndevice = \"{d}\"\n";

/// A simulated hub whose second port takes WebSocket and no bare MQTT.
fn hub(dir: &Path, args: &[&str]) -> (Sim, SocketAddr) {
    let web = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let web_text = web.to_string();
    let args: Vec<&str> = ["--websocket", &web_text].into_iter().chain(args.iter().copied()).collect();
    (Sim::start(dir, free_port(), &args), web)
}

/// A bridge with this `[uplink]`.
fn bridge(dir: &Path, uplink: &str) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    fs::create_dir_all(dir.join("rules")).unwrap();
    fs::write(dir.join("rules/1.toml"), RULES).unwrap();
    let config = format!(
        "state = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [uplink]\nbackoff_min = \"20ms\"\nbackoff_max = \"50ms\"\n{uplink}\n"
    );
    Bridge::with_config(dir, &config, (mqtt, admin))
}

fn drained(bridge: &Bridge) {
    until("drained", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(bridge);
}

fn told(bridge: &Bridge, expect: &str) {
    let page = || bridge.get("/readyz");
    until(expect, PATIENCE, || page().contains(expect).then_some(()));
}

#[test]
fn every_identity_goes_by_websocket() {
    let dir = folder();
    let args = ["--host-name", "hub.example", "--device", "dev-01", "--device", "dev-01/m", "--x509", "press-4"];
    let (sim, web) = hub(&dir.path().join("hub"), &args);
    let (edge, edge_web) = hub(&dir.path().join("edge"), &["--edge"]);
    let key = |sim: &Sim, id: &str| {
        let master = fs::read_to_string(sim.dir.join("master.key")).unwrap();
        Key::parse(master.trim()).unwrap().derive(id)
    };
    let module = key(&sim, "dev-01/m");
    let device_key = Key::parse(key(&sim, "dev-01").expose()).unwrap();
    let token = brownbridge::hub::sas::mint(&device_key, "hub.example/devices/dev-01", 4_000_000_000, None);
    let (proxy, asked) = proxy::start();
    let [pem, private] = ["press-4.pem", "press-4.key"].map(|name| sim.dir.join(name));
    let string = |rest: &str| format!("connection_string = \"HostName=hub.example;{rest}\"\n");
    let sas = format!("connection_string = \"{}\"\n", sim.connection_string);
    let x509 = string("DeviceId=press-4;x509=true") + &format!("certificate = {pem:?}\nkey = {private:?}\n");
    let through = format!("bind = \"127.0.0.1\"\nproxy = \"http://me:pass%20word@127.0.0.1:{proxy}\"\n");
    let master = sim.dir.join("master.key");
    let devices =
        format!("identity = \"per-device\"\n[uplink.devices]\ngroup_key_file = {master:?}\nallow = [\"dev-01\"]\n");
    let rows = [
        ("a key", &sim, web, sas.clone(), "dev-01"),
        ("a certificate", &sim, web, x509.clone(), "press-4"),
        (
            "a module",
            &sim,
            web,
            string(&format!("DeviceId=dev-01;ModuleId=m;SharedAccessKey={}", module.expose())),
            "dev-01",
        ),
        ("a token", &sim, web, string(&format!("DeviceId=dev-01;SharedAccessSignature={}", token.expose())), "dev-01"),
        ("a key through a proxy", &sim, web, format!("{sas}{through}"), "dev-01"),
        ("a certificate through a proxy", &sim, web, format!("{x509}{through}"), "press-4"),
        ("devices of their own", &sim, web, format!("{x509}{devices}"), "dev-01"),
        (
            "an edge",
            &edge,
            edge_web,
            format!("kind = \"edge\"\nconnection_string = \"{}\"\n", edge.connection_string),
            "dev-01",
        ),
    ];
    let mut sent = [0, 0];
    for (name, sim, web, uplink, device) in rows {
        let dir = dir.path().join(name.replace(' ', "-"));
        let (ca, large) = (sim.dir.join("ca.pem"), "x".repeat(200_000));
        let way = format!("transport = \"websocket\"\naddress = \"{web}\"\nca_file = {ca:?}\n{uplink}");
        let bridge = bridge(&dir, &way);
        publish_all(bridge.mqtt, "t/dev-01", ["{}", large.as_str(), "{\"last\":1}"]);
        let count = &mut sent[usize::from(std::ptr::eq(sim, &edge))];
        *count += 3;
        until(name, PATIENCE, || (sim.received().len() == *count).then_some(()));
        let received = sim.received();
        assert!(received.iter().rev().take(3).all(|message| message["device"] == device), "{name}");
        drained(&bridge);
        assert_eq!(bridge.metric("brownbridge_uplink_reconnects_total{reason=\"websocket\"}"), 0.0, "{name}");
        let page = bridge.get("/status");
        let shown = !uplink.contains("per-device");
        assert_eq!(page.contains(&format!("WebSocket on port {}", web.port())), shown, "{name}: {page}");
    }
    let place = web.to_string();
    assert_eq!(*asked.lock().unwrap(), [place.clone(), place]);
    // The port is no port for bare MQTT, so what arrived was in WebSockets.
    let ca = sim.dir.join("ca.pem");
    let bare = bridge(&dir.path().join("bare"), &format!("address = \"{web}\"\nca_file = {ca:?}\n{sas}"));
    publish_all(bare.mqtt, "t/dev-01", ["{}"]);
    told(&bare, "If that port is one for web traffic, set `transport = \"websocket\"` in [uplink]");
    assert!(!fs::read_to_string(&bare.log).unwrap().contains("docs.rs"));
    // Nor one for a registration over bare MQTT.
    let mut enrol = Command::new(BINARY);
    enrol.args(["enrol", "dev-01", "--id-scope", "0ne00000A0A", "--transport", "mqtt", "--host", "hub.example"]);
    enrol.arg("--address").arg(web.to_string()).arg("--ca-file").arg(&ca).env("DPS_GROUP_KEY", "a2V5");
    let output = enrol.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.ends_with(
            "cannot be reached: the other side closed the connection. If that port is one for web traffic, set \
             `transport` to \"rest\" or \"websocket\"\n"
        ),
        "{said}"
    );
    assert_eq!(sim.received().len(), sent[0]);
}

#[test]
fn the_name_in_the_certificate_is_checked_below_a_websocket_too() {
    let dir = folder();
    let (sim, web) = hub(&dir.path().join("hub"), &["--host-name", "hub.example"]);
    let (stranger, _) = hub(&dir.path().join("stranger"), &[]);
    let other_name = sim.connection_string.replace("hub.example", "other.example");
    for (name, string, ca, expect) in [
        ("another name", &other_name, &sim.dir, "The certificate is for another name"),
        ("another root", &sim.connection_string, &stranger.dir, "A proxy or portal that looks into TLS"),
    ] {
        let ca = ca.join("ca.pem");
        let uplink = format!(
            "transport = \"websocket\"\naddress = \"{web}\"\nca_file = {ca:?}\nconnection_string = \"{string}\"\n"
        );
        let bridge = bridge(&dir.path().join(name), &uplink);
        publish_all(bridge.mqtt, "t/d", ["{}"]);
        told(&bridge, expect);
        assert!(bridge.metric("brownbridge_uplink_reconnects_total{reason=\"tls\"}") >= 1.0, "{name}");
    }
    assert_eq!(sim.received().len(), 0);
}

/// Answers every request so; after a WebSocket's it reads a little and writes `frames`.
fn answering(answer: &'static str, frames: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut near in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && near.read(&mut byte).is_ok_and(|read| read == 1) {
                head.extend(byte);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
            let _ = near.write_all(answer.replace("{accept}", &derive_accept_key(key.as_bytes())).as_bytes());
            if !frames.is_empty() {
                let _ = near.read(&mut [0; 1024]);
                let _ = near.write_all(frames);
                // Until the other side has understood.
                let _ = near.read_to_end(&mut Vec::new());
            }
        }
    });
    port
}

#[test]
fn who_answers_instead_of_the_server_is_told() {
    let dir = folder();
    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    for (name, answer, frames, (reason, expect)) in [
        (
            "a portal",
            "HTTP/1.1 302 Found\r\nLocation: http://portal.plant/\r\n\r\n",
            &b""[..],
            ("websocket", "302 Found, which sends to \\\"http://portal.plant/\\\": a portal or proxy on the way wants"),
        ),
        ("a proxy", "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"", ("websocket", "set `proxy = ")),
        ("a firewall", "HTTP/1.1 403 Forbidden\r\n\r\n", b"", ("websocket", "does not let this machine through")),
        ("another path", "HTTP/1.1 404 Not Found\r\n\r\n", b"", ("websocket", "`websocket_path`")),
        ("no web server", "SSH-2.0-x\r\n\r\n", b"", ("websocket", "not as a server of MQTT over WebSocket does")),
        (
            "a restart",
            GOOD,
            // CONNACK, then close 1012.
            b"\x82\x04\x20\x02\x00\x00\x88\x09\x03\xf4restart",
            ("closed", "closed the WebSocket, close code 1012 \\\"restart\\\": the server restarts"),
        ),
        ("a policy", GOOD, b"\x88\x02\x03\xf0", ("closed", "close code 1008: a policy")),
    ] {
        let port = answering(answer, frames);
        let uplink = format!(
            "kind = \"mqtt\"\ntls = false\ntransport = \"websocket\"\nwebsocket_path = \"/ws\"\naddress = \"127.0.0.1:{port}\"\n"
        );
        let bridge = bridge(&dir.path().join(name.replace(' ', "-")), &uplink);
        publish_all(bridge.mqtt, "t/d", ["{}"]);
        let expect = expect.replace("\\\"", "\"");
        until(name, PATIENCE, || fs::read_to_string(&bridge.log).unwrap().contains(&expect).then_some(()));
        let counted = format!("brownbridge_uplink_reconnects_total{{reason=\"{reason}\"}}");
        until(name, PATIENCE, || (bridge.metric(&counted) >= 1.0).then_some(()));
    }
}

#[test]
fn what_a_proxy_says_is_told() {
    let dir = folder();
    const WHO: &str = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\
                       Content-Length: 6\r\n\r\n<html>";
    const AWAY: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello";
    // What keeps its line open reads on before it says more.
    for (name, answer, held, user, expect) in [
        ("nobody", WHO, &b" "[..], "", "it wants a user name and a password"),
        ("nobody, closed", "HTTP/1.1 407 Who?\r\n\r\n", b"", "", "it wants a user name and a password"),
        ("somebody else", WHO, b" ", "me:wrong@", "it does not take the user name and password of `proxy`"),
        ("no way", AWAY, b" ", "", "it cannot reach hub.example:8883 itself: 502 Bad Gateway."),
    ] {
        let port = answering(answer, held);
        let uplink = format!(
            "connection_string = \"HostName=hub.example;DeviceId=d;SharedAccessKey=c2VjcmV0\"\n\
             proxy = \"http://{user}127.0.0.1:{port}\"\n"
        );
        let bridge = bridge(&dir.path().join(name.replace([' ', ','], "-")), &uplink);
        publish_all(bridge.mqtt, "t/d", ["{}"]);
        told(&bridge, expect);
        let failures = |reason| bridge.metric(&format!("brownbridge_uplink_reconnects_total{{reason=\"{reason}\"}}"));
        until(name, PATIENCE, || (failures("proxy") >= 3.0).then_some(()));
        assert_eq!((failures("protocol"), failures("timeout"), failures("network")), (0.0, 0.0, 0.0), "{name}");
    }
}

#[test]
fn a_broker_takes_messages_by_websocket() {
    let dir = folder();
    let web = free_port();
    let broker = Bridge::alone(
        &dir.path().join("broker"),
        &format!("websocket = \"127.0.0.1:{web}\""),
        (free_port(), free_port()),
    );
    let bridge = bridge(
        &dir.path().join("bridge"),
        &format!(
            "kind = \"mqtt\"\ntls = false\nclient_id = \"b\"\ntransport = \"websocket\"\naddress = \"127.0.0.1:{web}\"\n"
        ),
    );
    publish_all(bridge.mqtt, "t/d", ["{}", "{}"]);
    drained(&bridge);
    assert_eq!(broker.metric("brownbridge_publishes_received_total"), 2.0);
    assert_eq!(broker.metric("brownbridge_broker_accepted_total{listener=\"websocket\"}"), 1.0);
}

#[test]
fn where_8883_is_shut_auto_goes_to_443() {
    let dir = folder();
    let [.., b, c, d] = rand::random::<u32>().to_be_bytes();
    let host = Ipv4Addr::new(127, b | 64, c, d.clamp(1, 254));
    if let Err(error) = TcpListener::bind((host, 443)) {
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        return; // Only root may.
    }
    let web = SocketAddr::from((host, 443)).to_string();
    let sim =
        Sim::start(&dir.path().join("hub"), free_port(), &["--host-name", &host.to_string(), "--websocket", &web]);
    assert_eq!(sim.host, IpAddr::from(Ipv4Addr::LOCALHOST));
    let ca = sim.dir.join("ca.pem");
    let uplink = format!("connection_string = \"{}\"\nca_file = {ca:?}\n", sim.connection_string);
    // Without it the error says what to do.
    let fixed = bridge(&dir.path().join("fixed"), &uplink);
    publish_all(fixed.mqtt, "t/d", ["{}"]);
    told(&fixed, "set `transport = \"websocket\"` in [uplink]");
    drop(fixed);
    let bridge = bridge(&dir.path().join("auto"), &format!("transport = \"auto\"\n{uplink}"));
    publish_all(bridge.mqtt, "t/d", ["{}"]);
    until("it arrives", PATIENCE, || (sim.received().len() == 1).then_some(()));
    drained(&bridge);
    assert!(bridge.get("/status").contains("WebSocket on port 443, because port 8883 could not be reached"));
    assert_eq!(bridge.metric("brownbridge_uplink_reconnects_total{reason=\"network\"}"), 3.0);
}

#[tokio::test]
async fn the_simulator_takes_websockets_as_a_hub_does() {
    use sim_client::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (sim, _messages) = sim(|options: &mut Options| options.websocket = Some(([127, 0, 0, 1], 0).into())).await;
    let web = sim.websocket_addr().unwrap();
    let dial = async |at: SocketAddr| {
        let tcp = tokio::net::TcpStream::connect(at).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(tls(&sim.ca_file(), None))).connect(name, tcp).await.unwrap()
    };
    let path = "/$iothub/websocket";
    for (path, protocol, expect) in [
        (path, "mqtt", "HTTP/1.1 101"),
        ("/$iothub/websocket?iothub-no-client-cert=true", "mqtt", "HTTP/1.1 101"),
        (path, "AMQPWSB10, mqtt", "HTTP/1.1 101"),
        (path, "AMQPWSB10", "HTTP/1.1 400"),
        ("/mqtt", "mqtt", "HTTP/1.1 404"),
        ("/", "mqtt", "HTTP/1.1 404"),
    ] {
        for at in [sim.local_addr(), web] {
            let mut stream = dial(at).await;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&head), expect, "{path} {protocol}");
        }
    }
    // Bare MQTT has nothing to do there.
    let mut bare = Client::dial_at(web, &sim.ca_file(), None).await;
    assert_eq!(bare.connect(hello(&sim, "dev-01")).await, None);
    assert_eq!(sim.counts().closed(Closed::Protocol), 1);
    let _ = TcpStream::connect(web).unwrap();
}
