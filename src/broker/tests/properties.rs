//! What MQTT 5 adds to a connection: limits, aliases, properties, expiry.

use super::*;

/// Receive Maximum 3, no packet over 1 KiB.
fn narrow() -> Bench {
    Bench::with(Options { max_packet_size: 1024, max_unacknowledged: 3, ..Options::default() })
}

/// A CONNECT with properties.
pub(super) fn connect_with(id: &str, flags: u8, properties: &[u8]) -> Vec<u8> {
    packet(0x10, &[&text("MQTT"), &[5, flags, 0, 0, properties.len() as u8], properties, &text(id)])
}

pub(super) fn subscribe_5(id: u16, filter: &str, options: u8) -> Vec<u8> {
    packet(0x82, &[&id.to_be_bytes(), &[0], &text(filter), &[options]])
}

#[tokio::test(start_paused = true)]
async fn limits_are_announced() {
    let bench = narrow();
    let mut client = bench.open();
    client.send(&connect_5("a")).await;
    let connack = client.read().await;
    for (name, property) in
        [("receive maximum", "210003"), ("maximum packet size", "2700000400"), ("aliases", "220020")]
    {
        assert!(connack.contains(property), "{name}: {connack}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_client_id_without_clean_start() {
    let bench = Bench::new();
    let mut client = bench.open();
    for byte in connect_with("", 0, &[]) {
        client.send(&[byte]).await;
    }
    let connack = client.read().await;
    assert!(connack.contains(&hex(b"\x12\0\x15auto-")), "[MQTT-3.1.3-6] {connack}");
}

#[tokio::test(start_paused = true)]
async fn receive_maximum_inward() {
    let (p1, p2) = (|id| publish_5(2, "t", id, &[], "x"), |id| publish_5(4, "t", id, &[], "x"));
    for (name, packets, commit, expect) in [
        ("three are allowed", vec![p1(1), p2(2), p1(3)], 0, ""),
        ("a fourth is not [MQTT-3.3.4-7]", vec![p1(1), p2(2), p1(3), p1(4)], 0, "e0029300closed"),
        ("QoS 0 does not count", vec![p1(1), p1(2), p1(3), publish_5(0, "t", 0, &[], "x")], 0, ""),
        ("a repetition does not count", vec![p2(1), p2(2), p2(3), p2(3)], 0, ""),
        ("what is acknowledged no longer counts", vec![p1(1), p1(2), p1(3)], 3, "400200014002000240020003"),
    ] {
        let bench = narrow();
        let mut client = bench.connect(&connect_5("a")).await;
        client.send(&packets.concat()).await;
        bench.commit(commit);
        assert_eq!(client.read().await, expect, "{name}");
    }
    let bench = narrow();
    let mut client = bench.connect(&connect_5("a")).await;
    client.send(&[p2(1), p2(2), p2(3)].concat()).await;
    bench.commit(3);
    assert_eq!(client.read().await, "500200015002000250020003");
    client.send(&p2(4)).await;
    assert_eq!(client.read().await, "e0029300closed", "QoS 2 counts until PUBCOMP (4.9)");
}

#[tokio::test(start_paused = true)]
async fn topic_aliases_inward() {
    let by = |topic, alias: u16| publish_5(0, topic, 0, &[&[0x23][..], &alias.to_be_bytes()].concat(), "x");
    for (name, packets, offered, expect) in [
        ("set and used [MQTT-3.3.2-12]", vec![by("a/b", 1), by("", 1)], vec!["a/b", "a/b"], ""),
        ("set anew", vec![by("a", 32), by("b", 32), by("", 32)], vec!["a", "b", "b"], ""),
        ("never set", vec![by("", 1)], vec![], "e0028200closed"),
        ("over the maximum [MQTT-3.3.2-9]", vec![by("a", 33)], vec![], "e0029400closed"),
        ("neither topic nor alias", vec![publish_5(0, "", 0, &[], "x")], vec![], "e0029000closed"),
        ("an invalid topic is no alias", vec![by("a/#", 1)], vec![], "e0029000closed"),
    ] {
        let bench = Bench::new();
        let mut client = bench.connect(&connect_5("a")).await;
        client.send(&packets.concat()).await;
        assert_eq!(client.read().await, expect, "{name}");
        assert_eq!(bench.offered(), offered, "{name}");
    }
    let bench = Bench::new();
    let mut first = bench.connect(&connect_5("a")).await;
    first.send(&by("a", 1)).await;
    let mut second = bench.connect(&connect_5("a")).await;
    second.send(&by("", 1)).await;
    assert_eq!(second.read().await, "e0028200closed", "aliases end with the connection [MQTT-3.3.2-7]");
}

#[tokio::test(start_paused = true)]
async fn topic_aliases_outward() {
    let bench = Bench::new();
    let mut sub = bench.connect(&connect_with("sub", 2, &[0x22, 0, 1])).await;
    let mut plain = bench.connect(&connect_5("plain")).await;
    for client in [&mut sub, &mut plain] {
        client.send(&subscribe_5(1, "#", 0)).await;
        client.read().await;
    }
    let mut plc = bench.connect(&connect_311("plc")).await;
    for (topic, alias) in [
        ("a", publish_5(0, "a", 0, &[0x23, 0, 1], "x")),
        ("a", publish_5(0, "", 0, &[0x23, 0, 1], "x")),
        ("b", publish_5(0, "b", 0, &[], "x")),
        ("a", publish_5(0, "", 0, &[0x23, 0, 1], "x")),
    ] {
        plc.send(&publish(0, topic, 0, "x")).await;
        assert_eq!(sub.read().await, hex(&alias), "the client allows one alias [MQTT-3.1.2-26]");
        assert_eq!(plain.read().await, hex(&publish_5(0, topic, 0, &[], "x")), "[MQTT-3.1.2-27]");
    }
}

#[tokio::test(start_paused = true)]
async fn an_alias_whose_packet_was_too_large_is_not_used() {
    let bench = Bench::new();
    // Maximum packet size 20 and one alias.
    let mut sub = bench.connect(&connect_with("sub", 2, &[0x27, 0, 0, 0, 20, 0x22, 0, 1])).await;
    sub.send(&subscribe_5(1, "#", 0)).await;
    sub.read().await;
    let mut plc = bench.connect(&connect_311("plc")).await;
    for (payload, expect) in
        [("0123456789abc", String::new()), ("0123456789a", hex(&publish_5(0, "a", 0, &[0x23, 0, 1], "0123456789a")))]
    {
        plc.send(&publish(0, "a", 0, payload)).await;
        assert_eq!(sub.read().await, expect, "[MQTT-3.1.2-24], [MQTT-3.1.2-25]");
    }
}

#[tokio::test(start_paused = true)]
async fn properties_reach_subscribers() {
    let bench = Bench::new();
    let mut sub = bench.connect(&connect_5("sub")).await;
    let mut old = bench.connect(&connect_311("old")).await;
    sub.send(&subscribe_5(1, "q", 0)).await;
    old.send(&subscribe(1, "q", 0)).await;
    sub.read().await;
    old.read().await;
    let mut plc = bench.connect(&connect_5("plc")).await;
    let user = |name: &str, value: &str| [vec![0x26], text(name), text(value)].concat();
    let properties = [
        [vec![0x09], text("c")].concat(),
        [vec![0x03], text("text/plain")].concat(),
        vec![0x01, 1],
        [vec![0x08], text("answers/here")].concat(),
        user("b", "1"),
        user("a", "2"),
        user("b", "1"),
    ]
    .concat();
    plc.send(&publish_5(0, "q", 0, &properties, "x")).await;
    let expect = hex(&publish_5(0, "q", 0, &properties, "x"));
    assert_eq!(
        sub.read().await,
        expect,
        "[MQTT-3.3.2-4], [MQTT-3.3.2-15..20], order of user properties [MQTT-3.3.2-18]"
    );
    assert_eq!(old.read().await, hex(&publish(0, "q", 0, "x")), "an older subscriber sees none of it");
}

#[tokio::test(start_paused = true)]
async fn message_expiry() {
    let bench = Bench::new();
    let expiring = |flags, topic, secs: u8| publish_5(flags, topic, 0, &[0x02, 0, 0, 0, secs], "x");
    let mut plc = bench.connect(&connect_5("plc")).await;
    plc.send(&expiring(1, "r", 10)).await;
    plc.read().await;
    for (pause, left) in [(0, Some(10)), (4, Some(6)), (5, Some(1)), (1, None)] {
        tokio::time::advance(Duration::from_secs(pause)).await;
        let mut sub = bench.connect(&connect_5("sub")).await;
        sub.send(&subscribe_5(1, "#", 0)).await;
        let retained = left.map(|left| hex(&expiring(1, "r", left))).unwrap_or_default();
        assert_eq!(sub.read().await, format!("900400010000{retained}"), "[MQTT-3.3.2-5], [MQTT-3.3.2-6]");
    }
    // 0 is for those who are there. Who comes later finds nothing of it.
    let mut here = bench.connect(&connect_5("here")).await;
    here.send(&subscribe_5(1, "z", 0)).await;
    here.read().await;
    plc.send(&expiring(1, "z", 0)).await;
    assert_eq!(here.read().await, hex(&expiring(0, "z", 1)), "the shortest interval that can be told");
    assert_eq!(plc.read().await, "");
    tokio::time::advance(Duration::from_secs(1)).await;
    here.send(&subscribe_5(2, "z", 0)).await;
    assert_eq!(here.read().await, "900400020000", "[MQTT-3.3.2-5]");
    // A subscriber whose window is closed: what waits for it expires meanwhile.
    let mut sub = bench.connect(&connect_with("sub", 2, &[0x21, 0, 1])).await;
    sub.send(&subscribe_5(1, "t", 1)).await;
    sub.read().await;
    for secs in [100, 5, 60] {
        plc.send(&publish_5(2, "t", 1, &[0x02, 0, 0, 0, secs], "x")).await;
    }
    plc.read().await;
    assert_eq!(sub.read().await, hex(&publish_5(2, "t", 1, &[0x02, 0, 0, 0, 100], "x")));
    tokio::time::advance(Duration::from_secs(8)).await;
    sub.send(&[0x40, 2, 0, 1]).await;
    assert_eq!(sub.read().await, hex(&publish_5(2, "t", 2, &[0x02, 0, 0, 0, 52], "x")), "the second has expired");
}
