//! Sessions that outlive their connection: what waits, what is sent again, what ends them, wills that wait.

use bytes::Bytes;

use super::properties::{connect_with, subscribe_5};
use super::*;

/// MQTT 3.1.1 without clean session.
pub(super) fn lasting(id: &str) -> Vec<u8> {
    packet(0x10, &[&text("MQTT"), &[4, 0, 0, 0], &text(id)])
}

/// Session Expiry Interval.
pub(super) fn expiry(seconds: u32) -> Vec<u8> {
    [&[0x11][..], &seconds.to_be_bytes()].concat()
}

/// MQTT 5 with a session of some seconds.
pub(super) fn lasting_5(id: &str, clean_start: bool, seconds: u32) -> Vec<u8> {
    connect_with(id, if clean_start { 2 } else { 0 }, &expiry(seconds))
}

/// Connects, expects this session present flag, and gives the rest of what was read.
pub(super) async fn resume(bench: &Bench, connect: &[u8], present: bool) -> (Client, String) {
    let mut client = bench.open();
    client.send(connect).await;
    let read = client.read().await;
    let field = |range: std::ops::Range<usize>| read.get(range).unwrap();
    let connack_len = 2 * (2 + u8::from_str_radix(field(2..4), 16).unwrap() as usize);
    assert_eq!(field(0..2), "20", "{read}");
    assert_eq!(field(4..8), if present { "0100" } else { "0000" }, "session present: {read}");
    let rest = field(connack_len..read.len()).to_owned();
    (client, rest)
}

pub(super) async fn leave(mut client: Client) {
    client.send(&[0xe0, 0]).await;
    assert_eq!(client.read().await, "closed");
}

/// Sends QoS 1 publishes and commits them.
pub(super) async fn tell(bench: &Bench, plc: &mut Client, topic: &str, payloads: &[&str]) {
    for payload in payloads {
        plc.send(&publish(2, topic, 9, payload)).await;
        bench.commit(bench.shared.ingest.offered.lock().len() as u64 + 1_000);
        assert_eq!(plc.read().await, "40020009");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_published_meanwhile_waits() {
    let bench = Bench::new();
    let mut plc = bench.connect(&connect_311("plc")).await;
    let (mut hmi, _) = resume(&bench, &lasting("hmi"), false).await;
    hmi.send(&subscribe(1, "a", 1)).await;
    hmi.send(&subscribe(2, "z", 0)).await;
    hmi.read().await;
    leave(hmi).await;
    tell(&bench, &mut plc, "a", &["1", "2"]).await;
    plc.send(&publish(0, "a", 0, "QoS 0 does not wait")).await;
    tell(&bench, &mut plc, "z", &["nor what was subscribed to with it"]).await;
    let (mut hmi, waited) = resume(&bench, &lasting("hmi"), true).await;
    let expect = hex(&[publish(2, "a", 1, "1"), publish(2, "a", 2, "2")].concat());
    assert_eq!(waited, expect, "[MQTT-3.1.2-5] [MQTT-3.2.2-2]");
    hmi.send(&[0x40, 2, 0, 1]).await;
    hmi.send(&[0x40, 2, 0, 2]).await;
    tell(&bench, &mut plc, "a", &["3"]).await;
    assert_eq!(hmi.read().await, hex(&publish(2, "a", 3, "3")), "the subscription goes on");
    leave(hmi).await;
    // Clean session ends it, before and after.
    let (hmi, waited) = resume(&bench, &connect_311("hmi"), false).await;
    assert_eq!(waited, "", "[MQTT-3.1.2-6]");
    leave(hmi).await;
    let (_, waited) = resume(&bench, &lasting("hmi"), false).await;
    assert_eq!(waited, "");
    assert_eq!(bench.shared.router.subscription_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_in_flight_is_sent_again_in_order() {
    let bench = Bench::new();
    let mut plc = bench.connect(&connect_311("plc")).await;
    let (mut hmi, _) = resume(&bench, &lasting("hmi"), false).await;
    hmi.send(&subscribe(1, "#", 2)).await;
    hmi.read().await;
    for (flags, payload) in [(4, "a"), (2, "b"), (4, "c"), (2, "d")] {
        plc.send(&publish(flags, "t", 7, payload)).await;
        bench.commit(1_000);
        plc.read().await;
        plc.send(&[0x62, 2, 0, 7]).await;
        plc.read().await;
    }
    let first = [publish(4, "t", 1, "a"), publish(2, "t", 2, "b"), publish(4, "t", 3, "c"), publish(2, "t", 4, "d")];
    assert_eq!(hmi.read().await, hex(&first.concat()));
    // The client has c, and has said so of a.
    hmi.send(&[0x50, 2, 0, 1, 0x40, 2, 0, 4]).await;
    assert_eq!(hmi.read().await, "62020001");
    drop(hmi);
    let (mut hmi, again) = resume(&bench, &lasting("hmi"), true).await;
    let expect = [vec![0x62, 2, 0, 1], publish(2 | 8, "t", 2, "b"), publish(4 | 8, "t", 3, "c")];
    assert_eq!(again, hex(&expect.concat()), "[MQTT-4.4.0-1] [MQTT-4.6.0-1]");
    hmi.send(&[0x70, 2, 0, 1, 0x40, 2, 0, 2, 0x50, 2, 0, 3, 0x70, 2, 0, 3]).await;
    hmi.read().await;
    tell(&bench, &mut plc, "t", &["e"]).await;
    assert_eq!(hmi.read().await, hex(&publish(2, "t", 5, "e")));
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_keeps_the_new_receive_maximum() {
    let bench = Bench::new();
    let mut plc = bench.connect(&connect_311("plc")).await;
    let (mut hmi, _) = resume(&bench, &lasting_5("hmi", true, 100), false).await;
    hmi.send(&subscribe_5(1, "t", 1)).await;
    hmi.read().await;
    tell(&bench, &mut plc, "t", &["1", "2", "3"]).await;
    hmi.read().await;
    drop(hmi);
    let narrow = connect_with("hmi", 0, &[&expiry(100)[..], &[0x21, 0, 2]].concat());
    let (mut hmi, again) = resume(&bench, &narrow, true).await;
    let sent = |id, payload| publish_5(2 | 8, "t", id, &[], payload);
    assert_eq!(again, hex(&[sent(1, "1"), sent(2, "2")].concat()), "[MQTT-3.3.4-9]");
    hmi.send(&[0x40, 2, 0, 1]).await;
    assert_eq!(hmi.read().await, hex(&sent(3, "3")));
}

#[tokio::test(start_paused = true)]
async fn qos_2_is_taken_once_over_connections() {
    let bench = Bench::new();
    let (mut plc, _) = resume(&bench, &lasting("plc"), false).await;
    plc.send(&[publish(4, "t", 1, "x"), publish(4, "t", 2, "y")].concat()).await;
    assert_eq!(plc.read().await, "");
    bench.commit(1);
    assert_eq!(plc.read().await, "50020001");
    drop(plc);
    let (mut plc, _) = resume(&bench, &lasting("plc"), true).await;
    plc.send(&[publish(4 | 8, "t", 2, "y"), publish(4 | 8, "t", 1, "x")].concat()).await;
    assert_eq!(plc.read().await, "", "2 is taken, but not on disk yet, and goes first");
    bench.commit(2);
    assert_eq!(plc.read().await, "5002000250020001");
    plc.send(&[0x62, 2, 0, 1, 0x62, 2, 0, 2]).await;
    assert_eq!(plc.read().await, "7002000170020002");
    assert_eq!(bench.offered().len(), 2, "[MQTT-4.3.3-10]");
    // One the ingest never took is taken when it comes again.
    *bench.shared.ingest.room_left.lock() = 0;
    plc.send(&publish(4, "t", 3, "z")).await;
    plc.read().await;
    drop(plc);
    *bench.shared.ingest.room_left.lock() = usize::MAX;
    let (mut plc, _) = resume(&bench, &lasting("plc"), true).await;
    plc.send(&publish(4 | 8, "t", 3, "z")).await;
    bench.commit(3);
    assert_eq!(plc.read().await, "50020003");
    assert_eq!(bench.offered().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn sessions_expire() {
    let bench = Bench::with(Options { max_session_expiry: 3_600, ..Options::default() });
    tokio::spawn(upkeep::expire(Arc::clone(&bench.shared)));
    for (name, connect, pause, present) in [
        ("in time", lasting_5("hmi", true, 100), 99, true),
        ("too late [MQTT-3.1.2-23]", lasting_5("hmi", true, 100), 101, false),
        ("none asked for", lasting_5("hmi", true, 0), 0, false),
        ("never is an hour here", lasting_5("hmi", true, u32::MAX), 3_599, true),
        ("never is an hour here", lasting_5("hmi", true, u32::MAX), 3_601, false),
        ("3.1.1, in time", lasting("hmi"), 3_599, true),
        ("3.1.1, too late", lasting("hmi"), 3_601, false),
    ] {
        leave(bench.connect(&connect_311("hmi")).await).await;
        let (mut hmi, _) = resume(&bench, &connect, false).await;
        hmi.send(&[subscribe_5(1, "a", 1), vec![0xe0, 0]].concat()).await;
        hmi.read().await;
        tokio::time::sleep(Duration::from_secs(pause)).await;
        let (_, rest) = resume(&bench, &lasting_5("hmi", false, 10), present).await;
        assert_eq!(rest, "", "{name}");
    }
    let mut hmi = bench.open();
    hmi.send(&lasting_5("hmi", true, u32::MAX)).await;
    assert!(hmi.read().await.contains("1100000e10"), "the client is told [MQTT-3.2.2-21]");
}

#[tokio::test(start_paused = true)]
async fn disconnect_may_change_the_expiry() {
    let goodbye = |seconds: u32| packet(0xe0, &[&[0, 5], &expiry(seconds)]);
    for (name, connect, asked, answer, present) in [
        ("shorter", lasting_5("hmi", true, 100), 0, "closed", false),
        ("longer", lasting_5("hmi", true, 100), 1_000, "closed", true),
        ("out of nothing [MQTT-3.1.2-23]", lasting_5("hmi", true, 0), 100, "e0028200closed", false),
    ] {
        let bench = Bench::new();
        let (mut hmi, _) = resume(&bench, &connect, false).await;
        hmi.send(&goodbye(asked)).await;
        assert_eq!(hmi.read().await, answer, "{name}");
        resume(&bench, &lasting_5("hmi", false, 10), present).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_take_over_keeps_the_session() {
    let bench = Bench::new();
    let mut plc = bench.connect(&connect_311("plc")).await;
    let (mut old, _) = resume(&bench, &lasting("hmi"), false).await;
    old.send(&subscribe(1, "t", 1)).await;
    old.read().await;
    tell(&bench, &mut plc, "t", &["1"]).await;
    old.read().await;
    let (_new, again) = resume(&bench, &lasting("hmi"), true).await;
    assert_eq!(again, hex(&publish(2 | 8, "t", 1, "1")));
    assert_eq!(old.read().await, "closed");
    let (_, rest) = resume(&bench, &connect_311("hmi"), false).await;
    assert_eq!(rest, "");
    assert_eq!(bench.shared.router.session_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded() {
    let options = Options {
        subscriber_queue_messages: 3,
        max_session_bytes: 20,
        max_sessions: 2,
        max_packet_size: 1024,
        ..Options::default()
    };
    let bench = Bench::with(options);
    let mut plc = bench.connect(&connect_311("plc")).await;
    for id in ["a", "b", "c"] {
        let (mut hmi, _) = resume(&bench, &lasting(id), false).await;
        hmi.send(&subscribe(1, "t", 1)).await;
        hmi.read().await;
        leave(hmi).await;
    }
    assert_eq!(bench.shared.router.session_count(), 3, "the client and two of three sessions");
    tell(&bench, &mut plc, "t", &["1", "2", "3", "4", "5"]).await;
    let all = |ids: &[u16]| hex(&ids.iter().flat_map(|n| publish(2, "t", *n, &n.to_string())).collect::<Vec<_>>());
    let (_a, a) = resume(&bench, &lasting("a"), false).await;
    assert_eq!(a, "", "the one away longest ended");
    let (_b, b) = resume(&bench, &lasting("b"), true).await;
    let (_c, c) = resume(&bench, &lasting("c"), true).await;
    // Two bytes a message: three for each of the two, 12 bytes of 20.
    assert_eq!((b, c), (all(&[1, 2, 3]), all(&[1, 2, 3])));
}

#[tokio::test(start_paused = true)]
async fn all_absent_clients_share_a_bound() {
    let bench = Bench::with(Options { max_session_bytes: 10, ..Options::default() });
    let mut plc = bench.connect(&connect_311("plc")).await;
    for id in ["a", "b"] {
        let (mut hmi, _) = resume(&bench, &lasting(id), false).await;
        hmi.send(&subscribe(1, "t", 1)).await;
        hmi.read().await;
        leave(hmi).await;
    }
    tell(&bench, &mut plc, "t", &["1", "2", "3"]).await;
    let (a, waited_a) = resume(&bench, &lasting("a"), true).await;
    let (_b, waited_b) = resume(&bench, &lasting("b"), true).await;
    assert_eq!((waited_a.len() + waited_b.len()) / hex(&publish(2, "t", 1, "1")).len(), 5, "2 bytes each");
    drop(a);
}

#[tokio::test(start_paused = true)]
async fn retained_messages_do_not_fill_the_queue() {
    let bench = Bench::with(Options { subscriber_queue_messages: 10, ..Options::default() });
    let mut plc = bench.connect(&connect_311("plc")).await;
    for n in 0..500 {
        plc.send(&publish(1, &format!("s/{n:03}"), 0, "on")).await;
    }
    plc.read().await;
    let mut sub = bench.connect(&connect_311("sub")).await;
    sub.send(&subscribe(1, "s/#", 0)).await;
    let read = sub.read().await;
    assert_eq!(read.len(), 10 + 500 * hex(&publish(1, "s/000", 0, "on")).len(), "all of them");
    // A subscriber that lasts and goes in the middle of it finds the rest.
    let (mut sub, _) = resume(&bench, &connect_with("q", 2, &[&expiry(60)[..], &[0x21, 0, 1]].concat()), false).await;
    plc.send(&publish(3, "q/1", 1, "on")).await;
    plc.send(&publish(3, "q/2", 2, "on")).await;
    plc.send(&subscribe(9, "nothing", 0)).await;
    plc.read().await;
    sub.send(&subscribe_5(1, "q/#", 1)).await;
    let first = sub.read().await;
    assert_eq!(first.matches(&hex(b"q/")).count(), 1, "the window is 1: {first}");
    drop(sub);
    let (mut sub, again) = resume(&bench, &lasting_5("q", false, 60), true).await;
    sub.send(&[0x40, 2, 0, 1, 0x40, 2, 0, 2]).await;
    assert!(again.contains(&hex(b"q/1")) && again.contains(&hex(b"q/2")), "{again}");
}

#[tokio::test(start_paused = true)]
async fn wills_wait_for_their_delay() {
    let connect = |clean: bool, session: u32, delay: u8| {
        let flags = 4 | if clean { 2 } else { 0 };
        let properties = [&[5][..], &expiry(session)].concat();
        let will = [&[5, 0x18, 0, 0, 0, delay][..], &text("w"), &text("gone")].concat();
        packet(0x10, &[&text("MQTT"), &[5, flags, 0, 0], &properties, &text("a"), &will])
    };
    for (name, session, delay, back_after, seen) in [
        ("no delay", 100, 0, None, vec![0]),
        ("after the delay [MQTT-3.1.3-9]", 100, 10, None, vec![10]),
        ("when the session ends", 5, 10, None, vec![5]),
        ("without a session at once", 0, 10, None, vec![0]),
        ("not if the client is back", 100, 10, Some((9, false)), vec![]),
        ("but if it starts clean", 100, 10, Some((4, true)), vec![4]),
    ] {
        let bench = Bench::new();
        tokio::spawn(upkeep::expire(Arc::clone(&bench.shared)));
        let mut watcher = bench.connect(&connect_311("watcher")).await;
        watcher.send(&subscribe(1, "w", 0)).await;
        watcher.read().await;
        let mut client = bench.open();
        client.send(&connect(true, session, delay)).await;
        client.read().await;
        drop(client);
        let mut back = None;
        let mut seen_at = Vec::new();
        for second in 0..20 {
            if let Some((_, clean)) = back_after.filter(|(at, _)| *at == second) {
                let mut client = bench.open();
                client.send(&connect(clean, session, delay)).await;
                client.read().await;
                back = Some(client);
            }
            if !watcher.read().await.is_empty() {
                seen_at.push(second);
            }
            tokio::time::sleep(Duration::from_millis(999)).await;
        }
        let near =
            seen_at.len() == seen.len() && seen_at.iter().zip(&seen).all(|(a, b): (&i32, &i32)| (a - b).abs() <= 1);
        assert!(near, "{name}: {seen_at:?}");
        drop(back);
    }
}

#[tokio::test(start_paused = true)]
async fn shared_subscriptions() {
    let bench = Bench::new();
    let mut plc = bench.connect(&connect_311("plc")).await;
    let mut members = Vec::new();
    for id in ["a", "b"] {
        let (mut member, _) = resume(&bench, &lasting_5(id, true, 100), false).await;
        member.send(&subscribe_5(1, "$share/g/t/+", 1)).await;
        assert_eq!(member.read().await, "90040001000 1".replace(' ', ""));
        members.push(member);
    }
    let mut alone = bench.connect(&connect_311("alone")).await;
    alone.send(&subscribe(1, "$share/other/t/+", 0)).await;
    assert_eq!(alone.read().await, "9003000100", "3.1.1 too");
    tell(&bench, &mut plc, "t/1", &["1", "2", "3", "4"]).await;
    let size = hex(&publish_5(2, "t/1", 1, &[], "1")).len();
    for member in &mut members {
        assert_eq!(member.read().await.len(), 2 * size, "they take turns");
        member.send(&[0x40, 2, 0, 1, 0x40, 2, 0, 2]).await;
        member.read().await;
    }
    assert_eq!(alone.read().await.len(), 4 * hex(&publish(0, "t/1", 0, "1")).len(), "each group gets all");
    leave(members.remove(0)).await;
    tell(&bench, &mut plc, "t/1", &["5", "6"]).await;
    assert_eq!(members[0].read().await.len(), 2 * size, "who is away is passed over");
    members[0].send(&[0x40, 2, 0, 3, 0x40, 2, 0, 4]).await;
    members[0].send(&packet(0xa2, &[&[0, 9], &[0], &text("$share/g/t/+")])).await;
    assert_eq!(members[0].read().await, "b00400090000");
    tell(&bench, &mut plc, "t/1", &["7"]).await;
    let (_a, waited) = resume(&bench, &lasting_5("a", false, 100), true).await;
    assert_eq!(waited, hex(&publish_5(2, "t/1", 3, &[], "7")), "until nobody is there");
    for (name, filter, options, answer) in [
        ("no local [MQTT-3.8.3-4]", "$share/g/t", 4, "e0028200closed"),
        ("no group", "$share//t", 0, "90040001008f"),
        ("a group with a wildcard [MQTT-4.8.2-2]", "$share/+/t", 0, "90040001008f"),
        ("no filter", "$share/g", 0, "90040001008f"),
    ] {
        let mut client = bench.connect(&connect_5("c")).await;
        client.send(&subscribe_5(1, filter, options)).await;
        assert_eq!(client.read().await, answer, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_longer_keep_alive_than_allowed_is_told() {
    for (asked, expect, told) in [(60_u8, 30_u32, true), (0, 30, true), (20, 20, false)] {
        let bench = Bench::with(Options { max_keep_alive: 30, ..Options::default() });
        let mut client = bench.open();
        client.send(&packet(0x10, &[&text("MQTT"), &[5, 2, 0, asked, 0], &text("a")])).await;
        assert_eq!(client.read().await.contains("13001e"), told, "{asked} [MQTT-3.1.2-21]");
        tokio::time::sleep(Duration::from_millis(u64::from(expect) * 1_500 - 100)).await;
        assert_eq!(client.read().await, "");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(client.read().await, "e0028d00closed");
    }
}

/// A gate that forbids some topics, which may change.
#[derive(Debug, Default, Clone)]
pub(super) struct Fickle(Arc<Mutex<(Vec<&'static str>, u64)>>);

struct FicklePass(Fickle, u64);

impl Fickle {
    pub(super) fn forbid(&self, topics: &[&'static str]) {
        self.0.lock().0.extend(topics);
    }
}

impl Gate for Fickle {
    fn admit(&self, _: Visitor) -> Judgement<'_> {
        let generation = self.0.lock().1;
        Box::pin(std::future::ready(Ok(Box::new(FicklePass(self.clone(), generation)) as Box<dyn Pass>)))
    }
}

impl Pass for FicklePass {
    fn may_publish(&mut self, topic: &str) -> bool {
        !self.0.0.lock().0.contains(&topic)
    }

    fn may_subscribe(&mut self, filter: &str) -> bool {
        !self.0.0.lock().0.contains(&filter)
    }

    fn has_changed(&mut self) -> bool {
        let generation = self.0.0.lock().1;
        std::mem::replace(&mut self.1, generation) != generation
    }
}

#[tokio::test(start_paused = true)]
async fn rights_that_are_lost_end_subscriptions_and_wills() {
    let fickle = Fickle::default();
    let bench = Bench::with(Options { gate: Some(Arc::new(fickle.clone())), ..Options::default() });
    let mut plc = bench.connect(&connect_311("plc")).await;
    let with_will = packet(0x10, &[&text("MQTT"), &[4, 4, 0, 0], &text("hmi"), &text("w"), &text("gone")]);
    let (mut hmi, _) = resume(&bench, &with_will, false).await;
    for (id, filter) in [(1, "a"), (2, "b"), (3, "w"), (4, "$share/g/s")] {
        hmi.send(&subscribe(id, filter, 1)).await;
        hmi.read().await;
    }
    *fickle.0.lock() = (vec!["a", "w", "s"], 1);
    tell(&bench, &mut plc, "b", &["before"]).await;
    // The first message after the change is the one that makes the client look.
    assert_eq!(hmi.read().await, hex(&publish(2, "b", 1, "before")));
    hmi.send(&[0x40, 2, 0, 1]).await;
    fickle.0.lock().0.clear();
    tell(&bench, &mut plc, "a", &["not any more"]).await;
    tell(&bench, &mut plc, "s", &["nor this"]).await;
    assert_eq!(hmi.read().await, "");
    fickle.0.lock().0.push("w");
    drop(hmi);
    assert_eq!(bench.offered().iter().filter(|topic| *topic == "w").count(), 0, "a will nobody may publish now");
    // What waits for a client that is away is judged when it comes back.
    tell(&bench, &mut plc, "b", &["waits"]).await;
    fickle.0.lock().0.push("b");
    let (_hmi, waited) = resume(&bench, &lasting("hmi"), true).await;
    assert_eq!(waited, "");
    assert_eq!(bench.shared.router.subscription_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_mosquitto_bridge_hears_retain_flags_and_not_itself() {
    let bench = Bench::new();
    let mut bridge = bench.connect(&packet(0x10, &[&text("MQTT"), &[0x84, 2, 0, 0], &text("bridge")])).await;
    bridge.send(&subscribe(1, "#", 0)).await;
    bridge.read().await;
    bridge.send(&publish(0, "own", 0, "x")).await;
    let mut plc = bench.connect(&connect_311("plc")).await;
    plc.send(&publish(1, "t", 0, "x")).await;
    assert_eq!(bridge.read().await, hex(&publish(1, "t", 0, "x")));
}

#[tokio::test(start_paused = true)]
async fn a_publish_from_inside_knows_whether_anybody_has_it() {
    let options = || Options { subscriber_queue_messages: 2, max_retained: 1, ..Options::default() };
    // The session lasts; it subscribes at this QoS; its client is here; so many publishes went before.
    for (lasts, subscribed, here, before, (qos, retain), expect) in [
        (false, 0, true, 0, (0, false), true),
        (false, 1, false, 0, (1, false), false),
        (true, 0, false, 0, (1, false), false),
        (true, 1, false, 0, (0, false), false),
        (true, 1, false, 0, (1, false), true),
        (true, 2, false, 1, (2, false), true),
        (true, 1, false, 2, (1, false), false),
        (true, 0, false, 0, (1, true), true),
        (true, 1, false, 2, (1, true), true),
    ] {
        let bench = Bench::with(options());
        let (mut hmi, _) = resume(&bench, &if lasts { lasting("hmi") } else { connect_311("hmi") }, false).await;
        hmi.send(&subscribe(1, "a", subscribed)).await;
        hmi.read().await;
        let _here = if here {
            Some(hmi)
        } else {
            leave(hmi).await;
            None
        };
        let inside = Inside::new(Arc::clone(&bench.shared.router));
        for _ in 0..before {
            assert!(inside.publish("a", Bytes::from_static(b"1"), 1, false));
        }
        let row = (lasts, subscribed, here, before, qos, retain);
        assert_eq!(inside.publish("a", Bytes::from_static(b"2"), qos, retain), expect, "{row:?}");
    }
    // There is no room for a second retained message, and nobody subscribes.
    let inside = Inside::new(Arc::clone(&Bench::with(options()).shared.router));
    let given = ["a", "b", "a"].map(|topic| inside.publish(topic, Bytes::from_static(b"x"), 1, true));
    assert_eq!(given, [true, false, true]);
}
