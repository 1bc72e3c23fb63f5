//! The simulator behaves as `reference` says a hub does: one row per behaviour.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod sim_client;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use brownbridge::hub::connect::Identity;
use brownbridge::hub::dps::REPLIES;
use brownbridge::hub::sas::{Key, mint};
use brownbridge::hubsim::{Closed, Credential, Misbehave, Running, thumbprint_of};
use brownbridge::message::Timestamp;
use rmqtt_codec::types::{Protocol, QoS};
use rmqtt_codec::v3::{Connect, LastWill, Packet, SubscribeReturnCode};
use sim_client::*;

const EVENTS: &str = "devices/dev-01/messages/events/";

/// Waits until the simulator has counted this end; the counts are its own, so this is no race.
async fn ended(sim: &Running, why: Closed) {
    let counted = async {
        while sim.counts().closed(why) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let counts = || sim.counts();
    if tokio::time::timeout(LONG, counted).await.is_err() {
        panic!("not ended by {why:?}: {:?}", counts());
    }
}

fn token(sim: &Running, resource: &str, expires_in: i64, policy: Option<&str>) -> bytes::Bytes {
    let text = sim.connection_string("dev-01");
    let key = Key::parse(text.expose().rsplit_once("SharedAccessKey=").unwrap().1).unwrap();
    mint(&key, resource, Timestamp::now().as_secs() + expires_in, policy).expose().to_owned().into()
}

type Change = fn(&Running, &mut Connect);

#[tokio::test]
async fn connects_are_judged() {
    const DEV: &str = "localhost/devices/dev-01";
    let rows: [(&str, u8, Change); 22] = [
        ("as it should be", 0, |_, _| ()),
        ("host in capitals", 0, |_, c| c.username = Some("LOCALHOST/dev-01/?api-version=2021-04-12".into())),
        ("legacy user name", 0, |_, c| c.username = Some("localhost/dev-01/api-version=2019-03-31".into())),
        ("client type", 0, |_, c| {
            c.username = Some("localhost/dev-01/?api-version=2021-04-12&DeviceClientType=a%2Fb".into());
        }),
        ("expired within the skew", 0, |s, c| c.password = Some(token(s, DEV, -240, None))),
        ("clean session", 0, |_, c| c.clean_session = true),
        ("expired", 5, |s, c| c.password = Some(token(s, DEV, -400, None))),
        ("no api-version", 5, |_, c| c.username = Some("localhost/dev-01".into())),
        ("no slash before the version", 5, |_, c| c.username = Some("localhost/dev-01?api-version=2021-04-12".into())),
        ("another hub", 5, |_, c| c.username = Some("other/dev-01/?api-version=2021-04-12".into())),
        ("no user name", 5, |_, c| (c.username, c.password) = (None, None)),
        ("another client id", 5, |_, c| c.client_id = "dev-02".into()),
        ("client id in another case", 5, |_, c| c.client_id = "Dev-01".into()),
        ("no password", 5, |_, c| c.password = None),
        ("no token", 5, |_, c| c.password = Some("secret".into())),
        ("password is not UTF-8", 5, |_, c| c.password = Some(vec![0xff, 0xfe].into())),
        ("token of another device", 5, |s, c| c.password = Some(token(s, "localhost/devices/dev-02", 60, None))),
        ("token of another hub", 5, |s, c| c.password = Some(token(s, "other/devices/dev-01", 60, None))),
        ("token of a module", 5, |s, c| c.password = Some(token(s, &format!("{DEV}/modules/m"), 60, None))),
        ("token of a policy", 5, |s, c| c.password = Some(token(s, DEV, 60, Some("device")))),
        ("module with the key of its device", 5, |s, c| {
            let who = Identity { hub: "localhost", device: "dev-01", module: Some("m") };
            c.client_id = who.client_id().into();
            c.username = Some(who.username(None, None).into());
            c.password = Some(token(s, &who.resource(), 60, None));
        }),
        ("MQTT 3.1", 1, |_, c| c.protocol = Protocol(3)),
    ];
    let (sim, _messages) = sim(|_| ()).await;
    for (what, expect, change) in rows {
        let mut connect = hello(&sim, "dev-01");
        change(&sim, &mut connect);
        let mut client = Client::dial(&sim).await;
        let answer = if connect.protocol.level() == 3 {
            client.send_bytes(b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00").await;
            match client.next().await {
                Some(Packet::ConnectAck(ack)) => Some(ack.return_code.into()),
                other => panic!("{other:?}"),
            }
        } else {
            client.connect(connect).await.map(|(code, _)| code)
        };
        assert_eq!(answer, Some(expect), "{what}");
        if expect != 0 {
            assert_eq!(client.next().await, None, "{what}: closed after the refusal");
        }
    }
    for level in [5, 0x84] {
        let mut client = Client::dial(&sim).await;
        client.send_bytes(&[0x10, 0x0d, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 60, 0, 1, b'a']).await;
        assert!(matches!(client.next().await, Some(Packet::ConnectAck(a)) if u8::from(a.return_code) == 1), "{level}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn only_registered_devices_where_some_are() {
    let key = Key::from_bytes(b"0123456789abcdef");
    let (sim, _messages) = sim(|o| {
        o.devices = HashMap::from([("a".to_owned(), Credential::Key(key)), ("b".to_owned(), Credential::Derived)]);
    })
    .await;
    for (id, expect) in [("a", 0), ("b", 0), ("c", 5)] {
        let mut client = Client::dial(&sim).await;
        assert_eq!(client.connect(hello(&sim, id)).await, Some((expect, false)), "{id}");
    }
}

#[tokio::test]
async fn what_ends_a_connection() {
    let big = |n: usize| publish(&format!("{EVENTS}ab=%C3%A9&$.ct=xyz"), 1, vec![b'x'; n]);
    let pub1 = |topic: &str| publish(topic, 1, "x");
    let unsubscribe = |filter: &str| Packet::Unsubscribe {
        packet_id: 3.try_into().unwrap(),
        topic_filters: vec![filter.to_owned().into()],
    };
    // What is counted beside the body: the name `ab`, two bytes of its value, three of the content type.
    let full = 262_144 - 7;
    let rows = [
        ("QoS 2", vec![publish(EVENTS, 2, "x")], Closed::Qos2),
        ("another device", vec![pub1("devices/dev-02/messages/events/")], Closed::Topic),
        ("its module", vec![pub1("devices/dev-01/modules/m/messages/events/")], Closed::Topic),
        ("any topic", vec![pub1("plant/line/1")], Closed::Topic),
        ("mosquitto's state topic", vec![pub1("$SYS/broker/connection/x/state")], Closed::Topic),
        ("almost events", vec![pub1("devices/dev-01/messages/events2")], Closed::Topic),
        ("bad bag", vec![pub1(&format!("{EVENTS}a=b&"))], Closed::Bag),
        ("one byte too large", vec![big(full + 1)], Closed::TooLarge),
        ("far too large", vec![publish(EVENTS, 1, vec![0; 400_000])], Closed::TooLarge),
        ("undocumented filter", vec![subscribe("#", QoS::AtLeastOnce)], Closed::Subscribe),
        (
            "another's commands",
            vec![subscribe("devices/dev-02/messages/devicebound/#", QoS::AtLeastOnce)],
            Closed::Subscribe,
        ),
        ("unsubscribe", vec![unsubscribe("devices/dev-01/messages/devicebound/#")], Closed::Unsubscribe),
        ("second CONNECT", vec![Connect::default().client_id("x").into()], Closed::Protocol),
        ("DISCONNECT", vec![Packet::Disconnect], Closed::Goodbye),
    ];
    for (what, packets, expect) in rows {
        let (sim, _messages) = sim(|_| ()).await;
        let mut client = Client::connected(&sim, "dev-01").await;
        for packet in packets {
            client.send(packet).await;
        }
        assert_eq!(client.next().await, None, "{what}: no answer");
        ended(&sim, expect).await;
        assert_eq!(sim.counts().messages, 0, "{what}");
        sim.stop().await;
    }
    let (sim, mut messages) = sim(|_| ()).await;
    let mut client = Client::connected(&sim, "dev-01").await;
    client.send(big(full)).await;
    assert_eq!(client.next().await, Some(puback(7)), "the largest message is taken");
    assert_eq!(take(&mut messages, 1).await[0].body.len(), full);
    client.send_bytes(b"\x00\x00").await;
    assert_eq!(client.next().await, None, "no MQTT packet");
    ended(&sim, Closed::Protocol).await;
}

#[tokio::test]
async fn messages_arrive_as_the_hub_shows_them() {
    let (sim, mut messages) = sim(|_| ()).await;
    let mut client = Client::connected(&sim, "dev-01/mod-01").await;
    let topic = "devices/dev-01/modules/mod-01/messages/events/%24.mid=7&%24.ct=a%2Fb&%24.ctime=2026-01-01T00%3A00%3A00Z\
                 &x=1&none&x=2&mqtt-retain=no&iothub-connection-device-id=spoofed&%24.new=n/lost=1";
    let Packet::Publish(mut packet) = publish(topic, 1, vec![0xff, 0]) else { unreachable!() };
    packet.retain = true;
    client.send(Packet::Publish(packet)).await;
    assert_eq!(client.next().await, Some(puback(7)));
    let got = take(&mut messages, 1).await.remove(0);
    let mut shown = serde_json::to_value(&got).unwrap();
    let received = shown["received"].take();
    assert_eq!(shown["system"]["iothub-enqueuedtime"].take(), received);
    let expect = serde_json::json!({
        "device": "dev-01",
        "module": "mod-01",
        "received": null,
        "system": {
            "message-id": "7",
            "content-type": "a/b",
            "iothub-creation-time-utc": "2026-01-01T00:00:00Z",
            "$.new": "n",
            "iothub-connection-device-id": "dev-01",
            "iothub-connection-module-id": "mod-01",
            "iothub-connection-auth-method": r#"{"scope":"device","type":"sas","issuer":"iothub"}"#,
            "iothub-enqueuedtime": null,
            "iothub-message-source": "Telemetry",
        },
        "properties": { "x": "2", "none": null, "mqtt-retain": "true" },
        "body_base64": "/wA=",
    });
    assert_eq!(shown, expect);
}

#[tokio::test]
async fn subscriptions_are_granted_kept_and_limited() {
    let (sim, _messages) = sim(|_| ()).await;
    let mut client = Client::connected(&sim, "dev-01").await;
    for filter in [
        "$iothub/twin/res/#",
        "$iothub/twin/PATCH/properties/desired/#",
        "$iothub/methods/POST/#",
        "devices/dev-01/messages/devicebound/#",
        "devices/dev-01/messages/devicebound/#",
        "devices/+/messages/devicebound/#",
    ] {
        client.send(subscribe(filter, QoS::ExactlyOnce)).await;
        let Some(Packet::SubscribeAck { status, .. }) = client.next().await else { panic!("{filter}") };
        assert_eq!(status, [SubscribeReturnCode::Success(QoS::AtLeastOnce)], "QoS 2 is granted as 1");
    }
    client.send(publish("$iothub/twin/GET/?$rid=a%20b", 1, " ")).await;
    let Some(Packet::Publish(twin)) = client.next().await else { panic!() };
    assert_eq!(&*twin.topic, "$iothub/twin/res/200/?$rid=a%20b");
    assert_eq!(client.next().await, Some(puback(7)));
    client.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=2", 0, "{}")).await;
    let Some(Packet::Publish(twin)) = client.next().await else { panic!() };
    assert_eq!(&*twin.topic, "$iothub/twin/res/204/?$rid=2&$version=2");

    // A sixth is one too many; the five survive the connection.
    client.send(subscribe("$iothub/credentials/res/#", QoS::AtMostOnce)).await;
    assert_eq!(client.next().await, None);
    ended(&sim, Closed::Subscribe).await;
    let mut client = Client::dial(&sim).await;
    assert_eq!(client.connect(hello(&sim, "dev-01")).await, Some((0, true)), "the session is there");
    assert_eq!(sim.subscriptions("dev-01").len(), 5);

    // A clean session forgets.
    let mut client = Client::dial(&sim).await;
    assert_eq!(client.connect(Connect { clean_session: true, ..hello(&sim, "dev-01") }).await, Some((0, false)));
    assert_eq!(sim.subscriptions("dev-01").len(), 0);
    client.send(subscribe("$iothub/twin/res/#", QoS::AtMostOnce)).await;
    assert!(matches!(client.next().await, Some(Packet::SubscribeAck { .. })));
    let topic_filters = vec!["$iothub/twin/res/#".into()];
    client.send(Packet::Unsubscribe { packet_id: 4.try_into().unwrap(), topic_filters }).await;
    assert!(matches!(client.next().await, Some(Packet::UnsubscribeAck { .. })));
}

/// Every SUBSCRIBE and UNSUBSCRIBE of Microsoft's SDKs and of Mosquitto's bridge, byte for byte.
#[tokio::test]
async fn subscriptions_as_the_sdks_ask_for_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/azure/subscriptions.json");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (sim, _messages) = sim(|_| ()).await;
    let (mut granted, mut closed, mut of_dps) = (0, 0, 0);
    for row in file["vectors"].as_array().unwrap() {
        let filter = &row["filters"][0];
        let (qos, filter) = (&filter["qos"], filter["filter"].as_str().or(filter.as_str()).unwrap());
        // Those of the provisioning service are for a site: `provisioning.rs` and the SDKs themselves play them.
        if filter == REPLIES {
            of_dps += 1;
            continue;
        }
        let hex = row["packet_hex"].as_str().unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let packet: Vec<u8> = hex.chunks(2).map(byte).collect();
        let number = u16::from_be_bytes([packet[2], packet[3]]);
        let mut client = Client::dial(&sim).await;
        let id = if filter.contains("/modules/") { "edge-dev-01/mod-01" } else { "dev-01" };
        assert_eq!(client.connect(Connect { clean_session: true, ..hello(&sim, id) }).await, Some((0, false)));
        client.send_bytes(&packet).await;
        match (row["packet"].as_str(), client.next().await) {
            (Some("SUBSCRIBE"), Some(Packet::SubscribeAck { packet_id, status })) => {
                let [SubscribeReturnCode::Success(given)] = status[..] else { panic!("{row}: {status:?}") };
                assert_eq!((packet_id.get(), qos.as_u64()), (number, Some(u64::from(u8::from(given)))), "{row}");
                granted += 1;
            }
            // A bridge takes back what it never asked for, and a hub closes the connection at that.
            (Some("UNSUBSCRIBE"), None) => closed += 1,
            (_, answer) => panic!("{row}: {answer:?}"),
        }
    }
    assert_eq!((granted, closed, of_dps), (16, 2, 10));
}

#[tokio::test]
async fn a_second_connection_takes_over_and_the_will_is_sent() {
    let (sim, mut messages) = sim(|_| ()).await;
    let mut connect = hello(&sim, "dev-01");
    connect.last_will = Some(LastWill {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: format!("{EVENTS}a=1").into(),
        message: "gone".into(),
    });
    let mut first = Client::dial(&sim).await;
    assert_eq!(first.connect(connect.clone()).await, Some((0, false)));
    let mut second = Client::dial(&sim).await;
    assert_eq!(second.connect(connect).await, Some((0, false)));
    assert_eq!(first.next().await, None);
    ended(&sim, Closed::TakenOver).await;
    let will = take(&mut messages, 1).await.remove(0);
    assert_eq!((&will.body[..], will.property("iothub-MessageType")), (&b"gone"[..], Some("Will")));
    assert_eq!(will.property("a"), Some("1"));
    second.send(publish(EVENTS, 1, "alive")).await;
    assert_eq!(second.next().await, Some(puback(7)));
    take(&mut messages, 1).await;
    // A DISCONNECT takes the will with it.
    second.send(Packet::Disconnect).await;
    assert_eq!(second.next().await, None);
    ended(&sim, Closed::Goodbye).await;
    assert_eq!(sim.counts().messages, 2);
}

#[tokio::test]
async fn an_edge_hub_is_different() {
    let (sim, mut messages) = sim(|o| (o.edge, o.host) = (true, "hub.example".to_owned())).await;
    let mut connect = hello(&sim, "dev-01");
    connect.username = Some("anything/dev-01/?api-version=x".into());
    let mut client = Client::dial(&sim).await;
    assert_eq!(client.connect(connect.clone()).await, Some((0, false)), "any host in the user name");
    for topic in ["plant/x", "devices/dev-01/messages/events/a=b&", "devices/dev-01/messages/events/a=b/c"] {
        client.send(publish(topic, 1, "x")).await;
        assert_eq!(client.next().await, Some(puback(7)), "{topic} is acknowledged");
    }
    client.send(subscribe("anything/#", QoS::AtLeastOnce)).await;
    assert!(matches!(client.next().await, Some(Packet::SubscribeAck { .. })));
    let topic_filters = vec!["nothing".into()];
    client.send(Packet::Unsubscribe { packet_id: 4.try_into().unwrap(), topic_filters }).await;
    assert!(matches!(client.next().await, Some(Packet::UnsubscribeAck { .. })));
    client.send(publish("devices/dev-01/messages/events", 1, "y")).await;
    assert_eq!(client.next().await, Some(puback(7)));
    assert_eq!(&take(&mut messages, 1).await[0].body[..], b"y");
    assert_eq!((sim.counts().messages, sim.counts().dropped), (1, 3));
    client.send(publish(EVENTS, 2, "x")).await;
    assert_eq!(client.next().await, None);
    ended(&sim, Closed::Qos2).await;
    connect.username = Some("hub.example/dev-01".into());
    let mut client = Client::dial(&sim).await;
    assert_eq!(client.connect(connect).await, Some((3, false)), "malformed user name");
}

#[tokio::test]
async fn certificates_instead_of_keys() {
    let folder = tempfile::tempdir().unwrap();
    // A certificate of another CA, and one that is registered by its thumbprint.
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let (own_pem, own_key) = (folder.path().join("own.pem"), folder.path().join("own.key"));
    std::fs::write(&own_pem, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&own_key, key.serialize_pem()).unwrap();
    let registered = Credential::Thumbprint(thumbprint_of(&own_pem).unwrap());
    let (sim, mut messages) = sim(|o| {
        o.devices = HashMap::from([
            ("press-4".to_owned(), Credential::Derived),
            ("press-5".to_owned(), Credential::Derived),
            ("thumb".to_owned(), registered.clone()),
            ("keyed".to_owned(), Credential::Key(Key::from_bytes(b"k"))),
        ]);
    })
    .await;
    let (pem, key) = sim.device_certificate("press-4").unwrap();
    type Files<'a> = Option<(&'a Path, &'a Path)>;
    let ours: Files<'_> = Some((&pem, &key));
    let own: Files<'_> = Some((&own_pem, &own_key));
    for (device, files, expect) in [
        ("press-4", ours, 0),
        ("thumb", own, 0),
        ("press-5", ours, 5),
        ("press-4", own, 5),
        ("thumb", ours, 5),
        ("keyed", ours, 5),
        ("press-4", None, 5),
    ] {
        let who = Identity { hub: "localhost", device, module: None };
        let connect =
            Connect { client_id: device.into(), username: Some(who.username(None, None).into()), ..Connect::default() };
        let mut client = Client::dial_as(&sim, files).await;
        assert_eq!(client.connect(connect).await, Some((expect, false)), "{device} {files:?}");
        if expect == 0 {
            client.send(publish(&format!("devices/{device}/messages/events/"), 1, "x")).await;
            assert_eq!(client.next().await, Some(puback(7)));
            assert!(take(&mut messages, 1).await[0].source.auth_method.contains("x509"));
        }
    }
}

#[tokio::test]
async fn a_line_that_is_cut() {
    let (sim, mut messages) = sim(|o| o.misbehave = Misbehave { cut_every: Some(3), ..Misbehave::default() }).await;
    let mut client = Client::connected(&sim, "dev-01").await;
    for expect in [Some(puback(7)), Some(puback(7)), None] {
        client.send(publish(EVENTS, 1, "x")).await;
        assert_eq!(client.next().await, expect);
    }
    assert_eq!(take(&mut messages, 3).await.len(), 3, "the third arrived, its PUBACK did not");
    ended(&sim, Closed::Cut).await;
}

#[tokio::test]
async fn messages_beyond_a_rate_wait_and_then_the_line_is_closed() {
    let (sim, mut messages) = sim(|o| o.misbehave = Misbehave { message_rate: Some(2), ..Misbehave::default() }).await;
    let mut client = Client::connected(&sim, "dev-01").await;
    for _ in 0..2 {
        client.send(publish(EVENTS, 1, "x")).await;
        assert_eq!(client.next().await, Some(puback(7)), "it waits and is acknowledged");
    }
    for _ in 0..20 {
        client.send(publish(EVENTS, 1, "x")).await;
    }
    while let Some(packet) = client.next().await {
        assert_eq!(packet, puback(7));
    }
    ended(&sim, Closed::Throttled).await;
    assert_eq!(take(&mut messages, 2).await.len(), 2);
}

#[tokio::test]
async fn other_faults() {
    let fault = |misbehave: Misbehave| sim(|o| o.misbehave = misbehave);
    let (refusing, _m) = fault(Misbehave { refuse: true, ..Misbehave::default() }).await;
    let mut client = Client::dial(&refusing).await;
    assert_eq!(client.connect(hello(&refusing, "dev-01")).await, Some((5, false)));

    let (expiring, _m) =
        fault(Misbehave { expire_after: Some(Duration::from_millis(50)), ..Misbehave::default() }).await;
    let mut client = Client::connected(&expiring, "dev-01").await;
    assert_eq!(client.next().await, None);
    ended(&expiring, Closed::Expired).await;

    let (mute, mut messages) = fault(Misbehave { withhold_puback: true, ..Misbehave::default() }).await;
    let mut client = Client::connected(&mute, "dev-01").await;
    client.send(publish(EVENTS, 1, "x")).await;
    client.send(Packet::PingRequest).await;
    assert_eq!(client.next().await, Some(Packet::PingResponse), "and no PUBACK before it");
    assert_eq!(take(&mut messages, 1).await.len(), 1);

    let late = Duration::from_millis(120);
    let (slow, _messages) = fault(Misbehave { puback_delay: late, ..Misbehave::default() }).await;
    let mut client = Client::connected(&slow, "dev-01").await;
    let begun = std::time::Instant::now();
    client.send(publish(EVENTS, 1, "x")).await;
    client.send(Packet::PingRequest).await;
    assert_eq!(client.next().await, Some(Packet::PingResponse));
    assert_eq!(client.next().await, Some(puback(7)));
    assert!(begun.elapsed() >= late);
}

#[tokio::test]
async fn a_token_ends_with_its_grace() {
    let (sim, _messages) = sim(|o| o.expiry_grace = Duration::from_millis(300)).await;
    let mut client = Client::dial(&sim).await;
    let password = Some(token(&sim, "localhost/devices/dev-01", 0, None));
    assert_eq!(client.connect(Connect { password, ..hello(&sim, "dev-01") }).await, Some((0, false)));
    assert_eq!(client.next().await, None);
    ended(&sim, Closed::Expired).await;
}

#[tokio::test]
async fn who_never_speaks_or_reads_hurts_nobody() {
    let (sim, mut messages) = sim(|o| {
        o.connect_timeout = Duration::from_millis(100);
        o.handshake_timeout = Duration::from_millis(100);
    })
    .await;
    // One that says nothing, one that stops in the middle of TLS, one in the middle of its CONNECT.
    let _silent = tokio::net::TcpStream::connect(sim.local_addr()).await.unwrap();
    let mut loris = Client::dial(&sim).await;
    loris.send_bytes(b"\x10\x20\x00\x04MQ").await;
    // One that publishes for ever and never reads.
    let mut deaf = Client::connected(&sim, "deaf").await;
    let flood = tokio::spawn(async move {
        loop {
            deaf.send(publish("devices/deaf/messages/events/", 1, vec![b'x'; 10])).await;
        }
    });
    let drain = tokio::spawn(async move { while messages.recv().await.is_some() {} });
    let mut client = Client::connected(&sim, "dev-01").await;
    for _ in 0..50 {
        client.send(publish(EVENTS, 1, "x")).await;
        assert_eq!(client.next().await, Some(puback(7)));
    }
    flood.abort();
    drain.abort();
    assert_eq!(loris.next().await, None);
    ended(&sim, Closed::NoConnect).await;
    ended(&sim, Closed::Handshake).await;
}

#[tokio::test]
async fn any_bytes_end_in_a_close_and_not_in_a_panic() {
    use tokio_util::codec::Encoder as _;
    let (sim, mut messages) = sim(|o| o.connect_timeout = Duration::from_secs(5)).await;
    let drain = tokio::spawn(async move { while messages.recv().await.is_some() {} });
    let mut valid = bytes::BytesMut::new();
    let mut codec = rmqtt_codec::v3::Codec::new(0);
    let packets = [publish(&format!("{EVENTS}a=%C3%BC"), 1, "x"), subscribe("$iothub/twin/res/#", QoS::AtLeastOnce)];
    for packet in packets.into_iter().chain([publish("$iothub/twin/GET/?$rid=1", 1, " "), Packet::PingRequest]) {
        codec.encode(packet, &mut valid).unwrap();
    }
    let mut connect = bytes::BytesMut::new();
    codec.encode(hello(&sim, "dev-01").into(), &mut connect).unwrap();
    // A small generator of its own: the same bytes in every run.
    let mut seed = 1_u32;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    for round in 0..150_u64 {
        // In turn the CONNECT is damaged, or what follows it.
        let (mut first, mut then) = (connect.to_vec(), valid.to_vec());
        let damaged = if round % 3 == 0 { &mut first } else { &mut then };
        for _ in 0..=random(3) {
            let at = random(damaged.len());
            damaged[at] = u8::try_from(random(256)).unwrap();
        }
        damaged.truncate(1 + random(damaged.len()));
        let mut client = Client::dial(&sim).await;
        client.send_bytes(&first).await;
        client.send_bytes(&then).await;
        drop(client);
    }
    let all = async {
        while sim.counts().ended() < 150 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, all).await.expect("every connection ended in order");
    Client::connected(&sim, "dev-02").await;
    drain.abort();
}

#[tokio::test]
async fn connections_are_bounded() {
    let (sim, _messages) = sim(|o| o.max_connections = 1).await;
    let mut first = Client::connected(&sim, "dev-01").await;
    let second = Client::connected(&sim, "dev-02");
    tokio::pin!(second);
    for _ in 0..20 {
        first.send(Packet::PingRequest).await;
        tokio::select! {
            answer = first.next() => assert_eq!(answer, Some(Packet::PingResponse)),
            _ = &mut second => panic!("there was no room"),
        }
    }
    first.send(Packet::Disconnect).await;
    tokio::time::timeout(LONG, second).await.expect("room at last");
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let (sim, _messages) = sim(|_| ()).await;
    let mut client = Client::dial(&sim).await;
    let begun = std::time::Instant::now();
    assert_eq!(client.connect(Connect { keep_alive: 1, ..hello(&sim, "dev-01") }).await, Some((0, false)));
    assert_eq!(client.next().await, None);
    assert!(begun.elapsed() >= Duration::from_millis(1450));
    ended(&sim, Closed::Silent).await;
}

#[tokio::test]
async fn a_kept_folder_survives_a_restart_and_hides_its_keys() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("sim");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (sim, _messages) = sim(|o| o.dir = Some(dir.clone())).await;
        Client::connected(&sim, "dev-01").await;
        seen.push((sim.connection_string("dev-01").expose().to_owned(), std::fs::read(sim.ca_file()).unwrap()));
        sim.stop().await;
    }
    assert_eq!(seen[0], seen[1]);
    for (file, mode) in [("ca.key", 0o600), ("master.key", 0o600), ("ca.pem", 0o644)] {
        let is = std::fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(is, mode, "{file}");
    }
    let (temporary, _messages) = sim(|_| ()).await;
    let at = temporary.ca_file();
    assert!(at.exists());
    temporary.stop().await;
    assert!(!at.exists(), "a folder nobody asked for is removed");
}

#[tokio::test]
async fn the_client_library_of_the_uplink_gets_through() {
    let (sim, mut messages) = sim(|_| ()).await;
    let connect = hello(&sim, "dev-01");
    let mut options = rumqttc::MqttOptions::new(&*connect.client_id, "localhost", sim.local_addr().port());
    options.set_credentials(
        &**connect.username.as_ref().unwrap(),
        String::from_utf8(connect.password.unwrap().to_vec()).unwrap(),
    );
    options.set_clean_session(false);
    options.set_max_packet_size(400_000, 400_000);
    let tls = rumqttc::TlsConfiguration::Rustls(std::sync::Arc::new(tls(&sim.ca_file(), None)));
    options.set_transport(rumqttc::Transport::Tls(tls));
    let (client, mut events) = rumqttc::AsyncClient::new(options, 64);
    let publish = async {
        for n in 0..1000 {
            client.publish(format!("{EVENTS}n={n}"), rumqttc::QoS::AtLeastOnce, false, n.to_string()).await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let drive = async {
        let mut acked = 0;
        while acked < 1000 {
            if let rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_)) = events.poll().await.unwrap() {
                acked += 1;
            }
        }
    };
    let receive = take(&mut messages, 1000);
    let both = async { tokio::join!(drive, receive).1 };
    let got = tokio::select! {
        () = publish => unreachable!(),
        got = both => got,
    };
    let numbers: Vec<usize> = got.iter().map(|m| m.property("n").unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>(), "all, once, in order");
}
