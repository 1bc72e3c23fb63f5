//! The uplink against a broker played byte by byte.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::message::{Content, RecordWriter, Timestamp};
use crate::outbound::Way;

/// Far more than a planned end needs, and less than the 5 s for which it waits for acknowledgements.
const SOON: Duration = Duration::from_secs(3);

impl Backlog for mpsc::Receiver<Waiting> {
    async fn next(&mut self, _: Lane) -> Option<Waiting> {
        self.recv().await
    }

    fn split(&mut self, _: u64) -> bool {
        false
    }
}

#[derive(Clone, Default)]
struct Delivered(Arc<Mutex<Vec<u64>>>);

impl Outcome for Delivered {
    fn delivered(&self, id: MessageId) -> bool {
        self.0.lock().push(id.sequence);
        true
    }

    fn abandon(&self, _: MessageId, reason: &'static str) {
        panic!("abandoned: {reason}");
    }

    async fn isolate(&self, _: &Waiting, isolation: &Isolation) {
        panic!("isolated: {isolation:?}");
    }
}

pub(super) fn waiting(sequence: u64) -> Waiting {
    let mut record = Vec::new();
    RecordWriter::begin(&mut record, Timestamp(0), Content::None, |_| ()).finish(|_| ()).unwrap();
    Waiting { id: MessageId { spool: 0, sequence }, lane: Lane::Live, record: record.into() }
}

pub(super) fn options(port: u16, window: u16) -> Options {
    let target = MqttTarget {
        address: ("127.0.0.1".into(), port),
        way: Way::default(),
        tls: None,
        websocket: None,
        topic: "t".into(),
        credentials: None,
        client_id: "c".into(),
    };
    Options {
        target: Target::Mqtt(target),
        window: WindowSize::Fixed(window),
        hub_rate: HubRate::default(),
        live_first: true,
        mark_late: false,
        max_age: None,
        renew: Arc::default(),
        relays: None,
        keep_alive: Duration::from_secs(60),
        backoff: (Duration::from_millis(1), Duration::from_millis(1)),
        ack_timeout: Duration::from_secs(60),
        suspect_after: 3,
        down: None,
        subscribed: None,
        crowd: None,
    }
}

/// Gives messages of the lane that is asked for, and says what was asked.
struct Asked {
    waiting: Vec<Waiting>,
    asked: mpsc::Sender<Lane>,
}

impl Backlog for Asked {
    async fn next(&mut self, down_to: Lane) -> Option<Waiting> {
        let _ = self.asked.try_send(down_to);
        match self.waiting.iter().position(|waiting| waiting.lane <= down_to) {
            Some(at) => Some(self.waiting.remove(at)),
            None => std::future::pending().await,
        }
    }

    fn split(&mut self, _: u64) -> bool {
        false
    }
}

/// What becomes of messages, in words.
#[derive(Clone, Default)]
struct Told {
    words: Arc<Mutex<Vec<String>>>,
    /// Nothing that is isolated is ever on disk.
    stuck: bool,
}

impl Outcome for Told {
    fn delivered(&self, id: MessageId) -> bool {
        self.words.lock().push(format!("{} delivered", id.sequence));
        true
    }

    fn abandon(&self, id: MessageId, reason: &'static str) {
        self.words.lock().push(format!("{} {reason}", id.sequence));
    }

    async fn isolate(&self, waiting: &Waiting, isolation: &Isolation) {
        self.words.lock().push(format!("{} isolated {}", waiting.id.sequence, isolation.reason));
        if self.stuck {
            std::future::pending().await
        }
    }
}

#[tokio::test]
async fn late_messages_wait_for_their_pace_and_are_marked() {
    for (hub_rate, first_asked) in [(None, Lane::Late), (Some(1), Lane::Live)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut options = options(listener.local_addr().unwrap().port(), 4);
        (options.hub_rate, options.mark_late) = (HubRate::of(hub_rate), true);
        if let Target::Mqtt(target) = &mut options.target {
            target.topic = "t/{properties}".into();
        }
        let (asked, mut heard) = mpsc::channel(1);
        let late = Waiting { lane: Lane::Late, ..waiting(1) };
        let backlog = Asked { waiting: vec![late, waiting(2)], asked };
        let (status, stop) = (watch::Sender::default(), CancellationToken::new());
        tokio::spawn(run(
            (options.clone(), options.target),
            (backlog, Told::default()),
            Metrics::register(),
            status,
            stop.clone(),
        ));
        let (mut hub, _) = listener.accept().await.unwrap();
        packet(&mut hub).await;
        hub.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let mut first = String::from_utf8_lossy(&packet(&mut hub).await).into_owned();
        assert_eq!(heard.recv().await, Some(first_asked), "{hub_rate:?}");
        if hub_rate.is_some() {
            assert!(!first.contains("replayed"), "a live one needs no pace: {first}");
            first = String::from_utf8_lossy(&packet(&mut hub).await).into_owned();
        }
        assert!(first.contains("replayed=true"), "{first}");
        stop.cancel();
    }
}

#[tokio::test]
async fn what_is_too_old_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(listener.local_addr().unwrap().port(), 4);
    options.max_age = Some(Duration::from_secs(3600));
    let (sender, queue) = mpsc::channel(4);
    let (status, stop, told) = (watch::Sender::default(), CancellationToken::new(), Told::default());
    let uplink = tokio::spawn(run(
        (options.clone(), options.target),
        (queue, told.clone()),
        Metrics::register(),
        status,
        stop.clone(),
    ));
    let (mut hub, _) = listener.accept().await.unwrap();
    packet(&mut hub).await;
    hub.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    sender.send(waiting(1)).await.unwrap();
    let mut record = Vec::new();
    RecordWriter::begin(&mut record, Timestamp::now(), Content::None, |_| ()).finish(|_| ()).unwrap();
    sender.send(Waiting { record: record.into(), ..waiting(2) }).await.unwrap();
    assert_eq!(packet(&mut hub).await, [0x32, 5, 0, 1, b't', 0, 1]);
    hub.write_all(&[0x40, 2, 0, 1]).await.unwrap();
    stop.cancel();
    tokio::time::timeout(SOON, packet(&mut hub)).await.expect("DISCONNECT");
    drop(hub);
    uplink.await.unwrap();
    assert_eq!(*told.words.lock(), ["1 too_old", "2 delivered"]);
}

/// A queue that a test fills and a hub it plays, on a clock that runs as fast as they do.
struct Played {
    hub: sim::Hub,
    backlog: mpsc::Sender<Waiting>,
    told: Told,
    stop: CancellationToken,
    uplink: JoinHandle<()>,
}

impl Played {
    fn new(max_age: Option<Duration>, told: Told) -> Self {
        let hub = sim::Hub::default();
        hub.poisoned_by(b"poison");
        let (backlog, queue) = mpsc::channel(16);
        let (status, stop) = (watch::Sender::default(), CancellationToken::new());
        let options = Options { max_age, ..options(1, 4) };
        let parts = (queue, told.clone());
        let uplink = tokio::spawn(run_over(
            (hub.clone(), options.clone(), options.target),
            parts,
            Metrics::register(),
            status,
            stop.clone(),
        ));
        Self { hub, backlog, told, stop, uplink }
    }

    async fn send(&self, sequence: u64, created: Timestamp, body: &[u8]) {
        let mut record = Vec::new();
        let writer = RecordWriter::begin(&mut record, created, Content::None, |_| ());
        writer.finish(|out| out.extend_from_slice(body)).unwrap();
        self.backlog.send(Waiting { record: record.into(), ..waiting(sequence) }).await.unwrap();
    }

    /// Plays the hub until so much was told.
    async fn until_told(&self, count: usize) -> Vec<String> {
        for _ in 0..10_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.hub.take(9);
            self.hub.acknowledge(9, 0);
            if self.told.words.lock().len() >= count {
                break;
            }
        }
        self.told.words.lock().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn poison_is_found_though_what_was_good_is_too_old_by_now() {
    let played = Played::new(Some(Duration::from_millis(20)), Told::default());
    let good = Timestamp::now();
    played.send(1, good, b"good").await;
    assert_eq!(played.until_told(1).await, ["1 delivered"]);
    while Timestamp::now().0 <= good.0 + 20 {
        std::thread::yield_now();
    }
    let new = Timestamp(good.0 + 3_600_000);
    played.send(2, new, b"poison").await;
    played.send(3, new, b"good").await;
    let mut told = played.until_told(3).await;
    told.sort_unstable();
    assert_eq!(told, ["1 delivered", "2 isolated poison", "3 delivered"]);
}

/// Lines that share a crowd come to each hub one after the other, and to two hubs beside each other.
#[tokio::test(start_paused = true)]
async fn lines_of_a_crowd_connect_in_turns_at_each_hub() {
    for (hosts, at_once, after_a_second) in
        [(["one", "two", "three"], 3, 3), (["one", "one", "two"], 2, 3), (["one"; 3], 1, 2)]
    {
        let (crowd, stop) = (Arc::new(Crowd::new(1)), CancellationToken::new());
        let lines = hosts.map(|host| {
            let mut options = Options { crowd: Some(Arc::clone(&crowd)), ..options(1, 4) };
            if let Target::Mqtt(target) = &mut options.target {
                target.address.0 = host.to_owned();
            }
            let (hub, (backlog, queue)) = (sim::Hub::default(), mpsc::channel::<Waiting>(1));
            let identity = options.target.clone();
            tokio::spawn(run_over(
                (hub.clone(), options, identity),
                (queue, Told::default()),
                Metrics::register(),
                watch::Sender::default(),
                stop.clone(),
            ));
            (hub, backlog)
        });
        let connected = || lines.iter().filter(|(hub, _)| hub.connections() > 0).count();
        for (pause, expect) in [(10, at_once), (1_000, after_a_second)] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            assert_eq!(connected(), expect, "{hosts:?}");
        }
        stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_quarantine_that_does_not_answer_does_not_keep_the_uplink_from_its_end() {
    let told = Told { stuck: true, ..Told::default() };
    let played = Played::new(None, told);
    for (sequence, body) in [(1, b"good".as_slice()), (2, b"poison"), (3, b"good")] {
        played.send(sequence, Timestamp(0), body).await;
    }
    assert!(played.until_told(2).await.contains(&"2 isolated poison".to_owned()));
    played.stop.cancel();
    tokio::time::timeout(SOON, played.uplink).await.expect("the end").unwrap();
}

struct Bench {
    listener: TcpListener,
    backlog: mpsc::Sender<Waiting>,
    stop: CancellationToken,
    uplink: JoinHandle<()>,
}

impl Bench {
    async fn new(window: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (backlog, queue) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let options = options(listener.local_addr().unwrap().port(), window);
        let outcome = Delivered::default();
        let status = watch::Sender::default();
        let uplink = tokio::spawn(run(
            (options.clone(), options.target),
            (queue, outcome),
            Metrics::register(),
            status,
            stop.clone(),
        ));
        Self { listener, backlog, stop, uplink }
    }

    async fn accept(&self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        assert_eq!(packet(&mut stream).await[0], 0x10);
        stream
    }
}

/// One packet of less than 128 bytes.
async fn packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut packet = vec![0; 2];
    stream.read_exact(&mut packet).await.unwrap();
    packet.resize(2 + usize::from(packet[1]), 0);
    stream.read_exact(&mut packet[2..]).await.unwrap();
    packet
}

#[tokio::test]
async fn a_planned_end_takes_no_longer_than_its_acknowledgements() {
    let bench = Bench::new(1).await;
    bench.backlog.send(waiting(1)).await.unwrap();
    bench.backlog.send(waiting(2)).await.unwrap();
    let mut hub = bench.accept().await;
    hub.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    assert_eq!(packet(&mut hub).await, [0x32, 5, 0, 1, b't', 0, 1]);
    // The window is full: the feeder waits for the same acknowledgement as the end does.
    bench.stop.cancel();
    tokio::task::yield_now().await;
    hub.write_all(&[0x40, 2, 0, 1]).await.unwrap();
    let farewell = tokio::time::timeout(SOON, packet(&mut hub)).await.expect("DISCONNECT");
    assert_eq!(farewell, [0xe0, 0]);
    tokio::time::timeout(SOON, bench.uplink).await.expect("the end").unwrap();
}

#[tokio::test]
async fn an_end_while_connecting_waits_for_nobody() {
    let bench = Bench::new(1).await;
    let _silent = bench.accept().await;
    bench.stop.cancel();
    tokio::time::timeout(SOON, bench.uplink).await.expect("the end").unwrap();
}
