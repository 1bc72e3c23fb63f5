//! The broker over in-memory streams, byte for byte, with a clock that only moves when all tasks wait.

use std::collections::VecDeque;
use std::net::SocketAddr;

use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::Counter;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, watch};

use super::*;

mod inside;
mod listeners;
mod pipeline;
mod pressure;
mod properties;
mod restart;
mod sessions;
mod take_over;

/// An ingest whose commits and room the test decides.
struct Fake {
    offered: Mutex<Vec<(String, Vec<u8>, String)>>,
    /// The user of the latest publish.
    user: Mutex<Option<String>>,
    /// The last sequences of two logs. What is below `held/` goes into the second, below `both/` into both.
    sequences: Mutex<[u64; 2]>,
    durable: [watch::Sender<u64>; 2],
    room_left: Mutex<usize>,
    room: Notify,
    /// Who came and went, once somebody wants to know.
    presences: Mutex<Option<Vec<String>>>,
    /// Permits are writes elsewhere that are done; a topic below `elsewhere/` needs one.
    written: Arc<Semaphore>,
}

impl Ingest for Fake {
    type Scratch = ();

    fn scratch(&self) {}

    fn offer(&self, (): &mut (), publish: &Publish<'_>) -> Offer {
        let mut room = self.room_left.lock();
        if *room == 0 {
            return Offer::Full;
        }
        *room -= 1;
        *self.user.lock() = publish.user.map(str::to_owned);
        self.offered.lock().push((publish.topic.into(), publish.payload.to_vec(), publish.client.into()));
        if publish.topic.starts_with("dropped/") {
            return Offer::Taken(Sequences::NONE);
        }
        if publish.topic.starts_with("elsewhere/") {
            let written = Arc::clone(&self.written);
            return Offer::TakenAfter(
                Box::pin(async move { written.acquire().await.unwrap().forget() }),
                Sequences::NONE,
            );
        }
        let logs = match publish.topic.split('/').next() {
            Some("held") => 1..2,
            Some("both") => 0..2,
            _ => 0..1,
        };
        let mut sequences = self.sequences.lock();
        Offer::Taken(logs.fold(Sequences::NONE, |parts, log| {
            sequences[log] += 1;
            parts.and(log, sequences[log])
        }))
    }

    fn presence(&self, (): &mut (), presence: &Presence<'_>) -> Option<Offer> {
        let mut presences = self.presences.lock();
        let told = presences.as_mut()?;
        if *self.room_left.lock() == 0 {
            return Some(Offer::Full);
        }
        told.push(format!("{:?} {} {} {}", presence.event, presence.client, presence.address, presence.reason));
        Some(Offer::Taken(Sequences::of(0, 1)))
    }

    async fn room(&self, (): &()) {
        loop {
            let notified = self.room.notified();
            if *self.room_left.lock() > 0 {
                return;
            }
            notified.await;
        }
    }

    type Commits = [watch::Receiver<u64>; 2];

    fn commits(&self) -> Self::Commits {
        self.durable.each_ref().map(watch::Sender::subscribe)
    }
}

impl Commits for [watch::Receiver<u64>; 2] {
    fn cover(&mut self, sequences: Sequences) -> bool {
        self.iter().zip(sequences.each()).all(|(durable, sequence)| sequence <= *durable.borrow())
    }

    async fn reach(&mut self, sequences: Sequences) {
        for (durable, sequence) in self.iter_mut().zip(sequences.each()) {
            durable.wait_for(|durable| *durable >= sequence).await.unwrap();
        }
    }
}

struct Bench {
    shared: Arc<Shared<Fake>>,
    received: Arc<AtomicU64>,
}

/// A client's end of the stream; what it reads is hex.
struct Client(DuplexStream);

impl Bench {
    fn new() -> Self {
        Self::with(Options { max_packet_size: 1024, ..Options::default() })
    }

    fn with(options: Options) -> Self {
        Self::restored(options, Restored::default())
    }

    fn restored(options: Options, restored: Restored) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let mut metrics = Metrics::register();
        metrics.publishes_received = Counter::from_arc(Arc::clone(&received));
        let ingest = Fake {
            offered: Mutex::default(),
            user: Mutex::default(),
            sequences: Mutex::default(),
            durable: [0; 2].map(watch::Sender::new),
            room_left: Mutex::new(usize::MAX),
            room: Notify::new(),
            presences: Mutex::new(None),
            written: Arc::new(Semaphore::new(0)),
        };
        let shared = Arc::new(Shared::new((options, restored), Arc::new(ingest), metrics, CancellationToken::new()));
        Self { shared, received }
    }

    fn open(&self) -> Client {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { serve::serve(far, SocketAddr::from(([127, 0, 0, 1], 9)), &shared).await });
        Client(near)
    }

    async fn connect(&self, connect: &[u8]) -> Client {
        let mut client = self.open();
        client.send(connect).await;
        let connack = client.read().await;
        assert!(connack.starts_with("20") && connack.get(4..8) == Some("0000"), "{connack}");
        client
    }

    fn commit(&self, durable: u64) {
        self.commit_log(0, durable);
    }

    fn commit_log(&self, log: usize, durable: u64) {
        self.shared.ingest.durable[log].send_replace(durable);
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn offered(&self) -> Vec<String> {
        self.shared.ingest.offered.lock().iter().map(|(topic, ..)| topic.clone()).collect()
    }
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// All bytes that come until everybody waits; `closed` at the end if the stream ends.
    async fn read(&mut self) -> String {
        let mut all = Vec::new();
        let mut buf = [0; 4096];
        loop {
            // The paused clock makes this return as soon as no task can go on.
            match tokio::time::timeout(Duration::from_millis(1), self.0.read(&mut buf)).await {
                Ok(Ok(0) | Err(_)) => break hex(&all) + "closed",
                Ok(Ok(n)) => all.extend_from_slice(&buf[..n]),
                Err(_) => break hex(&all),
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut packet = vec![first];
    let mut len = body.len();
    loop {
        let more = if len >= 128 { 0x80 } else { 0 };
        packet.push((len % 128) as u8 | more);
        len /= 128;
        if len == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn connect_311(id: &str) -> Vec<u8> {
    packet(0x10, &[&text("MQTT"), &[4, 2, 0, 0], &text(id)])
}

fn connect_5(id: &str) -> Vec<u8> {
    packet(0x10, &[&text("MQTT"), &[5, 2, 0, 0, 0], &text(id)])
}

/// Flags: 2 QoS 1, 4 QoS 2, 1 retain, 8 dup.
fn publish(flags: u8, topic: &str, id: u16, payload: &str) -> Vec<u8> {
    let id = if flags & 6 == 0 { vec![] } else { id.to_be_bytes().to_vec() };
    packet(0x30 | flags, &[&text(topic), &id, payload.as_bytes()])
}

fn publish_5(flags: u8, topic: &str, id: u16, properties: &[u8], payload: &str) -> Vec<u8> {
    let id = if flags & 6 == 0 { vec![] } else { id.to_be_bytes().to_vec() };
    packet(0x30 | flags, &[&text(topic), &id, &[properties.len() as u8], properties, payload.as_bytes()])
}

fn subscribe(id: u16, filter: &str, qos: u8) -> Vec<u8> {
    packet(0x82, &[&id.to_be_bytes(), &text(filter), &[qos]])
}

#[tokio::test(start_paused = true)]
async fn what_a_first_packet_gets() {
    let long_id = "x".repeat(2_000);
    for (name, bytes, expect) in [
        ("3.1.1", connect_311("a"), "20020000"),
        ("3.1", packet(0x10, &[&text("MQIsdp"), &[3, 2, 0, 60], &text("a")]), "20020000"),
        ("a client id is chosen [MQTT-3.1.3-6]", connect_311(""), "20020000"),
        (
            "no id without clean session [MQTT-3.1.3-8]",
            packet(0x10, &[&text("MQTT"), &[4, 0, 0, 0, 0, 0]]),
            "20020002closed",
        ),
        ("no empty id in 3.1", packet(0x10, &[&text("MQIsdp"), &[3, 2, 0, 60, 0, 0]]), "20020002closed"),
        ("a Mosquitto bridge's first try", packet(0x10, &[&text("MQTT"), &[0x84, 2, 0, 0], &text("a")]), "20020000"),
        ("unknown level [MQTT-3.1.2-2]", packet(0x10, &[&text("MQTT"), &[6, 2, 0, 0], &text("a")]), "20020001closed"),
        ("no CONNECT first [MQTT-3.1.0-1]", publish(0, "a", 0, ""), "closed"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "closed"),
        ("oversize", connect_311(&long_id), "closed"),
        ("reserved flag [MQTT-3.1.2-3]", packet(0x10, &[&text("MQTT"), &[4, 3, 0, 0], &text("a")]), "closed"),
        (
            "enhanced authentication",
            packet(0x10, &[&text("MQTT"), &[5, 2, 0, 0, 8, 0x15], &text("SCRAM"), &text("a")]),
            "2003008c00closed",
        ),
        (
            "a will nobody may publish",
            packet(0x10, &[&text("MQTT"), &[4, 6, 0, 0], &text("a"), &text("w/#"), &text("x")]),
            "closed",
        ),
    ] {
        let bench = Bench::new();
        let mut client = bench.open();
        client.send(&bytes).await;
        assert_eq!(client.read().await, expect, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_5_is_told_its_id_and_limits() {
    let bench = Bench::new();
    let mut client = bench.open();
    client.send(&connect_5("")).await;
    let connack = client.read().await;
    assert!(connack.contains(&hex(b"\x12\0\x15auto-")), "assigned client identifier: {connack}");
    assert!(connack.contains("2700000400"), "maximum packet size: {connack}");
    assert!(!connack.contains("2a00"), "shared subscriptions are there: {connack}");
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_waits_for_its_commit() {
    let bench = Bench::new();
    let mut client = bench.connect(&connect_311("a")).await;
    client.send(&publish(2, "t", 7, "x")).await;
    client.send(&publish(4, "t", 8, "x")).await;
    client.send(&publish(2, "dropped/t", 9, "x")).await;
    assert_eq!(client.read().await, "", "nothing is durable yet");
    bench.commit(1);
    assert_eq!(client.read().await, "40020007");
    bench.commit(2);
    assert_eq!(client.read().await, "5002000840020009", "9 needs no commit but does not overtake");
    client.send(&packet(0x62, &[&[0, 8]])).await;
    assert_eq!(client.read().await, "70020008");
    assert_eq!(bench.offered().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn fifty_publishes_share_a_commit() {
    let bench = Bench::new();
    let mut client = bench.connect(&connect_311("a")).await;
    let all: Vec<u8> = (1..=50).flat_map(|id| publish(2, "t", id, "x")).collect();
    client.send(&all).await;
    assert_eq!(client.read().await, "");
    assert_eq!(bench.offered().len(), 50, "all are offered before the first commit");
    bench.commit(50);
    let expect: String = (1..=50).map(|id| format!("4002{id:04x}")).collect();
    assert_eq!(client.read().await, expect, "in the order of the publishes [MQTT-4.6.0-2]");
}

#[tokio::test(start_paused = true)]
async fn qos_2_is_taken_once() {
    let bench = Bench::new();
    let mut client = bench.connect(&connect_311("a")).await;
    client.send(&publish(4, "t", 1, "x")).await;
    client.send(&publish(4 | 8, "t", 1, "x")).await;
    assert_eq!(client.read().await, "", "the repetition waits for the first one's commit");
    bench.commit(1);
    assert_eq!(client.read().await, "5002000150020001");
    client.send(&packet(0x62, &[&[0, 1]])).await;
    client.send(&packet(0x62, &[&[0, 1]])).await;
    assert_eq!(client.read().await, "7002000170020001");
    client.send(&publish(4, "t", 1, "y")).await;
    assert_eq!(bench.shared.ingest.offered.lock().len(), 1);
    bench.commit(2);
    assert_eq!(client.read().await, "50020001", "a new exchange with the same identifier");
    assert_eq!(bench.offered().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_ingest_stops_the_reading() {
    let bench = Bench::new();
    *bench.shared.ingest.room_left.lock() = 2;
    let mut client = bench.connect(&connect_311("a")).await;
    let all: Vec<u8> = (1..=5).flat_map(|id| publish(2, &format!("t/{id}"), id, "x")).collect();
    client.send(&all).await;
    bench.commit(2);
    assert_eq!(client.read().await, "4002000140020002", "what is durable is acknowledged while the rest waits");
    assert_eq!(bench.offered(), ["t/1", "t/2"]);
    *bench.shared.ingest.room_left.lock() = usize::MAX;
    bench.shared.ingest.room.notify_waiters();
    bench.commit(5);
    assert_eq!(client.read().await, "400200034002000440020005");
    assert_eq!(bench.offered(), ["t/1", "t/2", "t/3", "t/4", "t/5"], "in order, nothing twice");
}

#[tokio::test(start_paused = true)]
async fn unacknowledged_publishes_are_bounded() {
    let bench = Bench::with(Options { max_unacknowledged: 3, ..Options::default() });
    let mut client = bench.connect(&connect_311("a")).await;
    let all: Vec<u8> = (1..=9).flat_map(|id| publish(2, "t", id, "x")).collect();
    client.send(&all).await;
    assert_eq!(client.read().await, "");
    assert_eq!(bench.offered().len(), 3);
    bench.commit(2);
    assert_eq!(client.read().await, "4002000140020002");
    assert_eq!(bench.offered().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_a_bad_packet_gets() {
    let big = "x".repeat(2_000);
    for (name, v5, bytes, expect) in [
        ("wildcard in a topic name [MQTT-3.3.2-2]", false, publish(0, "a/+", 0, ""), "closed"),
        ("wildcard, MQTT 5", true, publish_5(0, "a/#", 0, &[], ""), "e0029000closed"),
        ("NUL in a topic name [MQTT-4.7.3-2]", false, publish(0, "a\0", 0, ""), "closed"),
        ("empty topic", false, publish(0, "", 0, ""), "closed"),
        ("invalid UTF-8 [MQTT-1.5.3-1]", false, packet(0x30, &[&[0, 1, 0xff]]), "closed"),
        ("QoS 3 [MQTT-3.3.1-4]", false, publish(6, "a", 1, ""), "closed"),
        ("packet id 0 [MQTT-2.3.1-1]", false, publish(2, "a", 0, ""), "closed"),
        ("second CONNECT [MQTT-3.1.0-2]", false, connect_311("a"), "closed"),
        ("second CONNECT, MQTT 5", true, connect_5("a"), "e0028200closed"),
        ("oversize", false, publish(0, "a", 0, &big), "closed"),
        ("oversize, MQTT 5", true, publish_5(0, "a", 0, &[], &big), "e0029500closed"),
        ("subscription identifier in a publish", true, publish_5(0, "a", 0, &[0x0b, 1], ""), "e0028200closed"),
        ("SUBSCRIBE without filters [MQTT-3.8.3-3]", false, packet(0x82, &[&[0, 1]]), "closed"),
        ("reserved type 0", false, packet(0x00, &[]), "closed"),
        ("AUTH in 3.1.1", false, packet(0xf0, &[]), "closed"),
        ("a remaining length without end", false, vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff], "closed"),
    ] {
        let bench = Bench::new();
        let mut other = bench.connect(&connect_311("bystander")).await;
        let mut client = bench.connect(&if v5 { connect_5("a") } else { connect_311("a") }).await;
        client.send(&bytes).await;
        assert_eq!(client.read().await, expect, "{name}");
        assert_eq!(bench.offered(), [""; 0], "{name}");
        other.send(&[0xc0, 0]).await;
        assert_eq!(other.read().await, "d000", "{name}: nobody else notices");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_and_silent_clients_end() {
    let bench = Bench::new();
    let mut loris = bench.open();
    for byte in &connect_311("loris")[..5] {
        loris.send(&[*byte]).await;
        tokio::time::advance(Duration::from_secs(3)).await;
    }
    assert_eq!(loris.read().await, "closed", "10 s for a CONNECT");

    let mut silent = bench.open();
    silent.send(&packet(0x10, &[&text("MQTT"), &[5, 2, 0, 10, 0], &text("a")])).await;
    silent.read().await;
    tokio::time::advance(Duration::from_secs(14)).await;
    silent.send(&[0xc0, 0]).await;
    assert_eq!(silent.read().await, "d000");
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(silent.read().await, "e0028d00closed", "1.5 times the keep-alive [MQTT-3.1.2-24]");
}

#[tokio::test(start_paused = true)]
async fn the_newer_connection_takes_over() {
    let bench = Bench::new();
    let mut old = bench.connect(&connect_5("a")).await;
    let mut new = bench.connect(&connect_311("a")).await;
    assert_eq!(old.read().await, "e0028e00closed", "[MQTT-3.1.4-2]");
    new.send(&publish(2, "t", 1, "x")).await;
    bench.commit(1);
    assert_eq!(new.read().await, "40020001");
    let mut newest = bench.connect(&connect_311("a")).await;
    assert_eq!(new.read().await, "closed");
    newest.send(&[0xc0, 0]).await;
    assert_eq!(newest.read().await, "d000");
}

#[tokio::test(start_paused = true)]
async fn wills() {
    let will = [text("state/a"), text("offline")].concat();
    let with_will = packet(0x10, &[&text("MQTT"), &[4, 0xa6, 0, 0], &text("a"), &will, &text("oven")]);
    for (goodbye, expect) in [(&[][..], vec!["state/a"]), (&[0xe0, 0][..], vec![])] {
        let bench = Bench::new();
        let mut watcher = bench.connect(&connect_311("watcher")).await;
        watcher.send(&subscribe(1, "state/+", 0)).await;
        assert_eq!(watcher.read().await, "9003000100");
        let mut client = bench.connect(&with_will).await;
        client.send(goodbye).await;
        drop(client);
        let seen = watcher.read().await;
        assert_eq!(bench.offered(), expect, "the will goes to the hub like any publish");
        assert_eq!(bench.shared.ingest.user.lock().as_deref(), expect.first().map(|_| "oven"));
        let will = hex(&publish(0, "state/a", 0, "offline"));
        assert_eq!(seen, if expect.is_empty() { String::new() } else { will });
        let mut late = bench.connect(&connect_311("late")).await;
        late.send(&subscribe(1, "#", 0)).await;
        let retained = if expect.is_empty() { String::new() } else { hex(&publish(1, "state/a", 0, "offline")) };
        assert_eq!(late.read().await, format!("9003000100{retained}"));
    }
}

#[tokio::test(start_paused = true)]
async fn subscribers() {
    let bench = Bench::new();
    let mut sub = bench.connect(&connect_311("sub")).await;
    sub.send(&subscribe(1, "a/+", 1)).await;
    sub.send(&subscribe(2, "a/#", 2)).await;
    sub.send(&subscribe(3, "bad#", 0)).await;
    assert_eq!(sub.read().await, "9003000101900300020290030003 80".replace(' ', ""));
    let mut plc = bench.connect(&connect_311("plc")).await;
    plc.send(&publish(0, "a/b", 0, "0")).await;
    plc.send(&publish(4, "a/b", 1, "2")).await;
    let expect = hex(&[publish(0, "a/b", 0, "0"), publish(4, "a/b", 1, "2")].concat());
    assert_eq!(sub.read().await, expect, "one copy at the highest granted QoS, without waiting for the spool");
    sub.send(&[0x50, 2, 0, 1]).await;
    assert_eq!(sub.read().await, "62020001");
    sub.send(&[0x70, 2, 0, 1]).await;
    sub.send(&packet(0xa2, &[&[0, 9], &text("a/#"), &text("a/+")])).await;
    assert_eq!(sub.read().await, "b0020009");
    plc.send(&publish(0, "a/b", 0, "0")).await;
    assert_eq!(sub.read().await, "");
}

#[tokio::test(start_paused = true)]
async fn retained_messages() {
    let bench = Bench::new();
    let mut plc = bench.connect(&connect_311("plc")).await;
    plc.send(&publish(1, "s/1", 0, "on")).await;
    plc.send(&publish(1, "s/2", 0, "on")).await;
    plc.send(&publish(1, "s/2", 0, "")).await;
    plc.read().await;
    let mut sub = bench.connect(&connect_311("sub")).await;
    sub.send(&subscribe(1, "s/#", 0)).await;
    assert_eq!(sub.read().await, format!("9003000100{}", hex(&publish(1, "s/1", 0, "on"))), "[MQTT-3.3.1-10]");
}

#[tokio::test(start_paused = true)]
async fn messages_expire() {
    let bench = Bench::new();
    let mut plc = bench.connect(&connect_5("plc")).await;
    plc.send(&publish_5(1, "a", 0, &[0x02, 0, 0, 0, 10], "x")).await;
    assert_eq!(plc.read().await, "");
    let subscribe = packet(0x82, &[&[0, 1, 0], &text("a"), &[0]]);
    // Each read takes a little of the paused clock's time, too.
    for (wait, left) in [(3_500, Some(7)), (4_000, Some(3)), (3_000, None)] {
        tokio::time::advance(Duration::from_millis(wait)).await;
        let mut sub = bench.connect(&connect_5("sub")).await;
        sub.send(&subscribe).await;
        let message = left.map(|left| hex(&publish_5(1, "a", 0, &[0x02, 0, 0, 0, left], "x")));
        let expect = format!("900400010000{}", message.unwrap_or_default());
        assert_eq!(sub.read().await, expect, "{left:?} [MQTT-3.3.2-5] [MQTT-3.3.2-6]");
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_5_subscription_options() {
    let bench = Bench::new();
    let mut sub = bench.connect(&connect_5("sub")).await;
    // Identifier 5, no local, retain as published.
    sub.send(&packet(0x82, &[&[0, 1, 2, 0x0b, 5], &text("a"), &[0x0c]])).await;
    assert_eq!(sub.read().await, "900400010000");
    sub.send(&publish_5(0, "a", 0, &[], "own")).await;
    assert_eq!(sub.read().await, "", "no local");
    let mut plc = bench.connect(&connect_311("plc")).await;
    plc.send(&publish(1, "a", 0, "x")).await;
    assert_eq!(sub.read().await, hex(&publish_5(1, "a", 0, &[0x0b, 5], "x")));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_never_reads_costs_its_own_queue() {
    let options = Options { subscriber_queue_bytes: 10_000, ..Options::default() };
    let bench = Bench::with(options);
    let mut dead = bench.connect(&connect_311("dead")).await;
    dead.send(&subscribe(1, "#", 0)).await;
    assert_eq!(dead.read().await, "9003000100");
    let mut plc = bench.connect(&connect_311("plc")).await;
    let payload = "x".repeat(1_000);
    let mut answers = VecDeque::new();
    for id in 1..=500 {
        plc.send(&publish(2, "t", id, &payload)).await;
        bench.commit(id.into());
        answers.push_back(plc.read().await);
    }
    assert!(answers.iter().enumerate().all(|(n, ack)| *ack == format!("4002{:04x}", n + 1)));
    let delivered = dead.read().await.len() / 2;
    // The stream and the connection's output hold 64 KiB each, its queue 10 kB.
    assert!((100_000..160_000).contains(&delivered), "{delivered}");
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_bounded_within_one_packet() {
    let bench = Bench::with(Options { max_subscriptions: 2, ..Options::default() });
    let mut sub = bench.connect(&connect_311("sub")).await;
    let filters: Vec<u8> = ["a", "b", "c"].iter().flat_map(|filter| [text(filter), vec![0]].concat()).collect();
    sub.send(&packet(0x82, &[&[0, 1], &filters])).await;
    assert_eq!(sub.read().await, "90050001000080");
    sub.send(&subscribe(2, "a", 1)).await;
    assert_eq!(sub.read().await, "9003000201", "one it has is replaced [MQTT-3.8.4-3]");
}

#[tokio::test(start_paused = true)]
async fn properties_count_against_a_subscribers_queue() {
    let options = Options { subscriber_queue_bytes: 10_000, max_retained_bytes: 10_000, ..Options::default() };
    let bench = Bench::with(options);
    let mut dead = bench.connect(&connect_5("dead")).await;
    dead.send(&packet(0x82, &[&[0, 1, 0], &text("#"), &[0]])).await;
    dead.read().await;
    let mut plc = bench.connect(&connect_5("plc")).await;
    // A user property of 10 kB: the properties are 10,008 bytes long.
    let property = [vec![0x26], text("n"), text(&"x".repeat(10_002))].concat();
    for n in 0..100 {
        plc.send(&packet(0x31, &[&text(&format!("t/{n}")), &[0x98, 0x4e], &property])).await;
        assert_eq!(plc.read().await, "");
    }
    let delivered = dead.read().await.len() / 2;
    assert!((100_000..200_000).contains(&delivered), "{delivered}");
    let mut late = bench.connect(&connect_5("late")).await;
    late.send(&packet(0x82, &[&[0, 1, 0], &text("t/1"), &[0]])).await;
    assert_eq!(late.read().await, "900400010000", "not retained: it is over the limit");
}

#[tokio::test(start_paused = true)]
async fn the_end_acknowledges_what_becomes_durable() {
    let bench = Bench::new();
    let mut client = bench.connect(&connect_5("a")).await;
    client.send(&publish_5(2, "t", 1, &[], "x")).await;
    assert_eq!(client.read().await, "");
    bench.shared.stop.cancel();
    client.send(&publish_5(2, "t", 2, &[], "x")).await;
    assert_eq!(client.read().await, "");
    bench.commit(1);
    assert_eq!(client.read().await, "40020001e0028b00closed");
    assert_eq!(bench.offered().len(), 1, "nothing is taken up after the stop");
}
