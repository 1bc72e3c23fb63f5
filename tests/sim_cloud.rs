//! The cloud's side of the simulator: twins, direct methods and cloud-to-device messages, asked over HTTPS as
//! Microsoft's service SDK asks (`tests/golden/azure/hub_rest.json`), answered over MQTT as a device does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod sim_client;

use brownbridge::hub::sas::{Key, mint};
use brownbridge::hubsim::Running;
use brownbridge::message::Timestamp;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::Packet;
use serde_json::{Value, json};
use sim_client::service::*;
use sim_client::*;

async fn subscribed(sim: &Running, id: &str, filters: &[&str]) -> Client {
    let mut client = Client::connected(sim, id).await;
    for filter in filters {
        client.send(subscribe(filter, QoS::AtLeastOnce)).await;
        assert!(matches!(client.next().await, Some(Packet::SubscribeAck { .. })), "{filter}");
    }
    client
}

async fn published(client: &mut Client) -> Publish {
    match client.next().await {
        Some(Packet::Publish(publish)) => *publish,
        other => panic!("{other:?}"),
    }
}

fn object(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap()
}

#[tokio::test]
async fn a_twin_from_both_sides() {
    let (sim, _messages) = sim(|_| ()).await;
    let (twin, _) = (format!("/twins/dev-01?{API}"), ());
    let mut client =
        subscribed(&sim, "dev-01", &["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"]).await;

    let change = r#"{"properties":{"desired":{"every":"5m","limits":{"high":80}}},"tags":{"line":3}}"#;
    let (status, answer) = ask(&sim, ("PATCH", &twin), "If-Match: \"*\"\r\n", change).await;
    assert_eq!(
        (status, &answer["properties"]["desired"]["$version"], &answer["tags"]["line"]),
        (200, &json!(2), &json!(3))
    );
    let told = published(&mut client).await;
    assert_eq!(&*told.topic, "$iothub/twin/PATCH/properties/desired/?$version=2");
    assert_eq!(object(&told.payload), json!({"every": "5m", "limits": {"high": 80}, "$version": 2}));

    let (status, _) =
        ask(&sim, ("PATCH", &twin), "", r#"{"properties":{"desired":{"limits":{"high":null,"low":1}}}}"#).await;
    assert_eq!(status, 200);
    assert_eq!(
        object(&published(&mut client).await.payload),
        json!({"limits": {"high": null, "low": 1}, "$version": 3})
    );

    client
        .send(publish("$iothub/twin/PATCH/properties/reported/?$rid=r1", 0, r#"{"state":{"on":true},"gone":null}"#))
        .await;
    assert_eq!(&*published(&mut client).await.topic, "$iothub/twin/res/204/?$rid=r1&$version=2");
    client.send(publish("$iothub/twin/GET/?$rid=r2", 0, " ")).await;
    let whole = published(&mut client).await;
    assert_eq!(&*whole.topic, "$iothub/twin/res/200/?$rid=r2");
    let expect = json!({
        "desired": {"every": "5m", "limits": {"low": 1}, "$version": 3},
        "reported": {"state": {"on": true}, "$version": 2},
    });
    assert_eq!(object(&whole.payload), expect);
    for (rid, bad) in [("r3", "[1]"), ("r4", "nonsense"), ("r5", r#"{"a.b":1}"#)] {
        client.send(publish(&format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}"), 0, bad)).await;
        let refused = published(&mut client).await;
        assert_eq!(&*refused.topic, format!("$iothub/twin/res/400/?$rid={rid}"));
        assert_eq!(object(&refused.payload)["errorCode"], 400_004);
    }

    let (_, read) = ask(&sim, ("GET", &twin), "", "").await;
    assert_eq!(
        (&read["connectionState"], &read["properties"]["reported"]["state"]),
        (&json!("Connected"), &json!({"on": true}))
    );
    let stale = ask(&sim, ("PATCH", &twin), "If-Match: \"AAAAAAAAAAE=\"\r\n", "{}").await;
    assert_eq!(stale.0, 412, "the twin has changed since it was new");
    let tag = format!("If-Match: \"{}\"\r\n", read["etag"].as_str().unwrap());
    let (status, replaced) = ask(&sim, ("PUT", &twin), &tag, r#"{"properties":{"desired":{"only":1}}}"#).await;
    assert_eq!(
        (status, &replaced["properties"]["desired"]["only"], replaced["properties"]["desired"].get("every")),
        (200, &json!(1), None)
    );
    assert_eq!(object(&published(&mut client).await.payload), json!({"only": 1, "$version": 4}));
}

#[tokio::test]
async fn methods_are_called_and_answered() {
    let (sim, _messages) = sim(|_| ()).await;
    let path = format!("/twins/dev-01/methods?{API}");
    let call = |extra: &str| {
        format!(r#"{{"methodName":"set point","payload":{{"bar":3}},"responseTimeoutInSeconds":5{extra}}}"#)
    };
    let (status, answer) = ask(&sim, ("POST", &path), "", &call("")).await;
    assert_eq!((status, &answer["errorCode"]), (404, &json!(404_103)), "nobody is there");

    // It connects while the call waits for it.
    let body = call(r#","connectTimeoutInSeconds":30"#);
    let device = async {
        let mut client = subscribed(&sim, "dev-01", &["$iothub/methods/POST/#"]).await;
        let called = published(&mut client).await;
        let (name, rid) = called.topic.strip_prefix("$iothub/methods/POST/").unwrap().split_once("/?$rid=").unwrap();
        assert_eq!((name, object(&called.payload)), ("set%20point", json!({"bar": 3})));
        client.send(publish("$iothub/methods/res/200/?$rid=other", 0, "{}")).await;
        client.send(publish(&format!("$iothub/methods/res/207/?$rid={rid}"), 1, r#"{"ok":true}"#)).await;
        assert_eq!(client.next().await, Some(puback(7)));
        client
    };
    let ((status, answer), mut client) = tokio::join!(ask(&sim, ("POST", &path), "", &body), device);
    assert_eq!((status, answer), (200, json!({"status": 207, "payload": {"ok": true}})));

    let silent = async { published(&mut client).await };
    let no_payload = r#"{"methodName":"reboot","responseTimeoutInSeconds":5}"#;
    let ((status, answer), called) = tokio::join!(ask(&sim, ("POST", &path), "", no_payload), silent);
    assert_eq!((status, &answer["errorCode"]), (504, &json!(504_101)));
    assert!(called.payload.is_empty());
    for (body, text) in [
        ("", "EOF"),
        ("{}", "methodName"),
        (r#"{"methodName":"x","responseTimeoutInSeconds":301}"#, "from 5 to 300"),
        (r#"{"methodName":"x","connectTimeoutInSeconds":-1}"#, "from 0 to 300"),
    ] {
        let (status, answer) = ask(&sim, ("POST", &path), "", body).await;
        assert_eq!(status, 400, "{body}");
        assert!(answer["message"].as_str().unwrap().contains(text), "{answer}");
    }
}

const BOX: &str = "devices/dev-01/messages/devicebound/#";
/// A lock whose end a test can wait for.
const LOCK: std::time::Duration = std::time::Duration::from_millis(100);

async fn send(sim: &Running, headers: &str) {
    let path = format!("/devices/dev-01/messages/deviceBound?{API}");
    assert_eq!(ask(sim, ("POST", &path), headers, "x").await.0, 204, "{headers}");
}

#[tokio::test]
async fn a_service_hears_what_became_of_its_messages() {
    let (sim, _messages) = sim(|options| {
        options.keeping.lock = LOCK;
        options.keeping.count_lock_ends = true;
        options.keeping.max_deliveries = 2;
    })
    .await;
    send(&sim, "iothub-messageid: late\r\niothub-ack: full\r\niothub-expiry: 2020-01-01T00:00:00Z\r\n").await;
    send(&sim, "iothub-messageid: quiet\r\niothub-ack: positive\r\niothub-expiry: 2020-01-01T00:00:00Z\r\n").await;
    assert_eq!(feedback(&sim, 1).await, [told("late", "Expired")]);
    send(&sim, "iothub-messageid: done\r\niothub-ack: positive\r\n").await;
    let mut client = subscribed(&sim, "dev-01", &[BOX]).await;
    let done = published(&mut client).await;
    client.send(Packet::PublishAck { packet_id: done.packet_id.unwrap() }).await;
    assert_eq!(feedback(&sim, 1).await, [told("done", "Success")]);

    // It comes again on the same connection, and the first packet completes nothing any more.
    send(&sim, "iothub-messageid: often\r\niothub-ack: negative\r\n").await;
    let (first, second) = (published(&mut client).await, published(&mut client).await);
    assert_eq!((first.dup, second.dup, &first.topic), (false, true, &second.topic));
    assert_ne!(first.packet_id, second.packet_id);
    client.send(Packet::PublishAck { packet_id: first.packet_id.unwrap() }).await;
    assert_eq!(feedback(&sim, 1).await, [told("often", "DeliveryCountExceeded")]);

    drop(client);
    send(&sim, "iothub-messageid: swept\r\niothub-ack: full\r\n").await;
    let (_, purged) = ask(&sim, ("DELETE", &format!("/devices/dev-01/commands?{API}")), "", "").await;
    assert_eq!(purged, json!({"deviceId": "dev-01", "moduleId": null, "totalMessagesPurged": 1}));
    assert_eq!(feedback(&sim, 1).await, [told("swept", "Purged")]);
}

#[tokio::test]
async fn a_message_comes_again_until_it_expires_and_a_batch_until_it_is_completed() {
    let (sim, _messages) = sim(|options| {
        (options.keeping.lock, options.keeping.feedback_lock) = (LOCK, LOCK);
    })
    .await;
    let mut client = subscribed(&sim, "dev-01", &[BOX]).await;
    send(&sim, "iothub-messageid: m\r\niothub-ack: full\r\n").await;
    let mut last = published(&mut client).await;
    for n in 0..11 {
        last = published(&mut client).await;
        assert!(last.dup, "{n}: over MQTT the end of a lock is no delivery that counts");
    }
    client.send(Packet::PublishAck { packet_id: last.packet_id.unwrap() }).await;
    for _ in 0..2 {
        assert_eq!(feedback(&sim, 1).await, [told("m", "Success")]);
    }
    for (method, path, status) in [
        ("DELETE", "/messages/serviceBound/feedback/nonsense", 412),
        ("POST", "/messages/serviceBound/feedback/nonsense/abandon", 412),
        ("PUT", "/messages/serviceBound/feedback", 405),
    ] {
        assert_eq!(ask(&sim, (method, &format!("{path}?{API}")), "", "").await.0, status, "{method} {path}");
    }
    for headers in ["iothub-ack: always\r\n", "iothub-expiry: tomorrow\r\n"] {
        let path = format!("/devices/dev-01/messages/deviceBound?{API}");
        assert_eq!(ask(&sim, ("POST", &path), headers, "x").await.0, 400, "{headers}");
    }
}

#[tokio::test]
async fn messages_to_a_device_wait_until_it_acknowledges_them() {
    let (sim, _messages) = sim(|options| options.keeping.lock = LOCK).await;
    let path = format!("/devices/dev-01/messages/deviceBound?{API}");
    let headers = "iothub-messageid: m-1\r\niothub-ack: full\r\niothub-app-site: plant a\r\niothub-app-flag:\r\n";
    assert_eq!(ask(&sim, ("POST", &path), headers, "start").await.0, 204);
    let late = "iothub-messageid: m-2\r\niothub-expiry: 2020-01-01T00:00:00Z\r\n";
    assert_eq!(ask(&sim, ("POST", &path), late, "too late").await.0, 204);

    let mut client = subscribed(&sim, "dev-01", &[BOX]).await;
    let first = published(&mut client).await;
    let expect = "devices/dev-01/messages/devicebound/%24.mid=m-1&%24.to=%2Fdevices%2Fdev-01%2Fmessages%2FdeviceBound\
                  &iothub-ack=full&flag&site=plant%20a";
    let sorted = |topic: &str| {
        let mut pairs: Vec<String> = topic.split('&').map(str::to_owned).collect();
        pairs.sort_unstable();
        pairs
    };
    assert_eq!((sorted(&first.topic), &*first.payload, first.qos), (sorted(expect), &b"start"[..], QoS::AtLeastOnce));
    assert!(!first.dup);
    drop(client);

    // Not acknowledged: it comes again when its lock has ended, also on a session that is still subscribed.
    let mut client = Client::dial(&sim).await;
    assert_eq!(client.connect(hello(&sim, "dev-01")).await, Some((0, true)));
    let again = published(&mut client).await;
    assert_eq!((&again.topic, again.dup), (&first.topic, true));
    client.send(Packet::PublishAck { packet_id: again.packet_id.unwrap() }).await;
    assert_eq!(ask(&sim, ("POST", &path), "", "second").await.0, 204);
    let second = published(&mut client).await;
    assert_eq!(&*second.payload, b"second");
    client.send(Packet::PublishAck { packet_id: second.packet_id.unwrap() }).await;
    client.send(Packet::PingRequest).await;
    assert_eq!(client.next().await, Some(Packet::PingResponse));
    let (_, device) = ask(&sim, ("GET", &format!("/devices/dev-01?{API}")), "", "").await;
    assert_eq!(device["cloudToDeviceMessageCount"], 0);

    let path = format!("/devices/dev-02/messages/devicebound?{API}");
    for n in 0..50 {
        assert_eq!(ask(&sim, ("POST", &path), "", "x").await.0, 204, "{n}");
    }
    let (status, answer) = ask(&sim, ("POST", &path), "", "x").await;
    assert_eq!((status, &answer["errorCode"]), (403, &json!(403_004)), "the 51st");
    let (_, purged) = ask(&sim, ("DELETE", &format!("/devices/dev-02/commands?{API}")), "", "").await;
    assert_eq!(purged["totalMessagesPurged"], 50);
}

#[tokio::test]
async fn requests_of_services_are_judged() {
    let (sim, _messages) = sim(|options| {
        options.devices.insert("dev-01".to_owned(), brownbridge::hubsim::Credential::Derived);
    })
    .await;
    let twin = format!("/twins/dev-01?{API}");
    for (request, headers, expect) in [
        (("GET", twin.as_str()), "", 200),
        (("HEAD", "/"), "", 200),
        (("GET", "/twins/dev-01"), "", 400),
        (("GET", &format!("/twins/dev-02?{API}")), "", 404),
        (("GET", &format!("/twins/dev-01/modules/m?{API}")), "", 404),
        (("GET", &format!("/nothing?{API}")), "", 404),
        (("POST", &twin), "", 405),
        (("PATCH", &twin), "", 400),
        (("GET", &format!("/devices?{API}")), "", 200),
        (("GET", &format!("/statistics/service?{API}")), "", 200),
        (("POST", &format!("/devices/query?{API}")), "", 400),
    ] {
        assert_eq!(ask(&sim, request, headers, "").await.0, expect, "{request:?}");
    }
    let query = ask(&sim, ("POST", &format!("/devices/query?{API}")), "", r#"{"query":"SELECT * FROM devices"}"#).await;
    assert_eq!((query.0, &query.1[0]["deviceId"]), (200, &json!("dev-01")));
    let device = sim.connection_string("dev-01");
    let key = Key::parse(device.expose().rsplit_once("SharedAccessKey=").unwrap().1).unwrap();
    let expiry = Timestamp::now().as_secs() + 60;
    for (name, token) in [
        ("none", String::new()),
        ("of a device", mint(&key, "localhost/devices/dev-01", expiry, None).expose().to_owned()),
        ("with another key", mint(&key, "localhost", expiry, Some("iothubowner")).expose().to_owned()),
    ] {
        let headers = if token.is_empty() { token } else { format!("Authorization: {token}\r\n") };
        assert_eq!(ask_as(&sim, ("GET", &twin), &headers, "").await.0, 401, "a token {name}");
    }
}
