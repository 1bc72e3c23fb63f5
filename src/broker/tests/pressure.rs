//! No room, no end, no pause: what a busy or broken plant does to the broker.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_publish_without_room_counts_when_it_is_taken() {
    let bench = Bench::new();
    *bench.shared.ingest.room_left.lock() = 1;
    let mut client = bench.connect(&connect_311("a")).await;
    client.send(&[publish(2, "t", 1, "x"), publish(2, "t", 2, "x")].concat()).await;
    assert_eq!(client.read().await, "");
    assert_eq!(bench.received(), 1);
    let mut again = bench.connect(&connect_311("a")).await;
    assert_eq!(client.read().await, "closed", "taken over while its publish waits for room");
    *bench.shared.ingest.room_left.lock() = usize::MAX;
    again.send(&publish(2 | 8, "t", 2, "x")).await;
    bench.commit(2);
    assert_eq!(again.read().await, "40020002");
    assert_eq!((bench.received(), bench.offered().len()), (2, 2), "counted once, as it was taken once");
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_what_is_written_elsewhere() {
    let bench = Bench::new();
    let mut client = bench.connect(&connect_311("a")).await;
    client.send(&publish(2, "elsewhere/t", 1, "x")).await;
    assert_eq!(client.read().await, "");
    bench.shared.stop.cancel();
    assert_eq!(client.read().await, "");
    bench.shared.ingest.written.add_permits(1);
    assert_eq!(client.read().await, "40020001closed");
}

#[tokio::test(start_paused = true)]
async fn wills_that_find_no_room_are_bounded() {
    let with_will = packet(0x10, &[&text("MQTT"), &[4, 6, 0, 0], &text("a"), &text("state/a"), &text("offline")]);
    let bench = Bench::with(Options { max_connections: 20, ..Options::default() });
    *bench.shared.ingest.room_left.lock() = 0;
    for _ in 0..5 {
        // A PLC that comes again and again while the spool is full.
        drop(bench.connect(&with_will).await);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    *bench.shared.ingest.room_left.lock() = usize::MAX;
    bench.shared.ingest.room.notify_waiters();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(bench.received(), 5);
    assert_eq!(bench.offered().len(), 2, "a tenth of the connections may wait");
}

/// A disk that does not take what a will says, as that of an edge node of Sparkplug: the end of the connection does not wait
/// for ever, and the end of the program hardly.
#[tokio::test(start_paused = true)]
async fn a_will_that_is_not_written_holds_up_no_end() {
    let will = [text("elsewhere/a"), text("offline")].concat();
    for (written, stops, seconds) in [(true, false, 0), (false, false, 5), (false, true, 1)] {
        let bench = Bench::new();
        bench.shared.ingest.written.add_permits(usize::from(written));
        let input = packet(0x10, &[&text("MQTT"), &[4, 6, 0, 0], &text("a"), &will]);
        let stream = Flood { input: std::io::Cursor::new(input), output: Arc::default() };
        let began = tokio::time::Instant::now();
        let stop = async {
            while bench.offered().is_empty() {
                tokio::task::yield_now().await;
            }
            if stops {
                bench.shared.stop.cancel();
            }
        };
        let ends = serve::serve(stream, SocketAddr::from(([127, 0, 0, 1], 9)), &bench.shared);
        let ends = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(ends, stop) });
        assert!(ends.await.is_ok(), "{written} {stops}");
        assert_eq!((bench.offered(), began.elapsed().as_secs()), (vec!["elsewhere/a".to_owned()], seconds), "{stops}");
        // What holds up nobody any more is written when it can be.
        bench.shared.ingest.written.add_permits(1);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.shared.ingest.written.available_permits(), usize::from(written || stops), "{written} {stops}");
        assert_eq!(
            bench.shared.wills.available_permits(),
            bench.shared.options.max_connections / 10,
            "its place is free"
        );
    }
}

/// The wills of sessions that end at one time, on a disk that takes none of them, or that has no room for them.
#[tokio::test(start_paused = true)]
async fn delayed_wills_do_not_wait_for_each_other() {
    for (room, at_the_stop) in [(usize::MAX, false), (0, false), (usize::MAX, true)] {
        let bench = Bench::new();
        tokio::spawn(upkeep::expire(Arc::clone(&bench.shared)));
        for id in ["a", "b", "c"] {
            let will = [&[5, 0x18, 0, 0, 0, 10][..], &text(&format!("elsewhere/{id}")), &text("gone")].concat();
            let connect = packet(0x10, &[&text("MQTT"), &[5, 6, 0, 0, 5, 0x11, 0, 0, 0, 100], &text(id), &will]);
            let mut client = bench.open();
            client.send(&connect).await;
            client.read().await;
        }
        *bench.shared.ingest.room_left.lock() = room;
        tokio::time::sleep(Duration::from_secs(11)).await;
        if at_the_stop {
            bench.shared.stop.cancel();
        }
        *bench.shared.ingest.room_left.lock() = usize::MAX;
        bench.shared.ingest.room.notify_waiters();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(bench.offered(), ["elsewhere/a", "elsewhere/b", "elsewhere/c"], "{room}");
        bench.shared.ingest.written.add_permits(3);
        bench.shared.tasks.close();
        bench.shared.tasks.wait().await;
        assert_eq!(bench.shared.ingest.written.available_permits(), 0, "all are written: {room} {at_the_stop}");
    }
}

/// A will tells others what has happened; that its client has gone they can do without.
#[tokio::test(start_paused = true)]
async fn the_last_place_is_for_the_will() {
    let bench = Bench::with(Options { max_connections: 10, ..Options::default() });
    *bench.shared.ingest.presences.lock() = Some(Vec::new());
    *bench.shared.ingest.room_left.lock() = 0;
    let will = packet(0x10, &[&text("MQTT"), &[4, 6, 0, 0], &text("a"), &text("state/a"), &text("offline")]);
    drop(bench.connect(&will).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    *bench.shared.ingest.room_left.lock() = usize::MAX;
    bench.shared.ingest.room.notify_waiters();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.offered(), ["state/a"]);
}

/// A socket that never runs dry: a client that publishes QoS 0 without a pause.
struct Flood {
    input: std::io::Cursor<Vec<u8>>,
    output: Arc<Mutex<Vec<u8>>>,
}

impl tokio::io::AsyncRead for Flood {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        // A few packets at a time.
        let read = std::io::Read::read(&mut self.input, buf.initialize_unfilled_to(64))?;
        buf.advance(read);
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Flood {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.output.lock().extend_from_slice(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_publishes_without_a_pause_gets_what_it_subscribed_to() {
    let bench = Bench::new();
    let mut input = [connect_311("a"), subscribe(1, "t", 0)].concat();
    (0..2_000).for_each(|_| input.extend(publish(0, "t", 0, "x")));
    let output = Arc::new(Mutex::new(Vec::new()));
    let stream = Flood { input: std::io::Cursor::new(input), output: Arc::clone(&output) };
    serve::serve(stream, SocketAddr::from(([127, 0, 0, 1], 9)), &bench.shared).await;
    // CONNACK and SUBACK, then the messages, none lost to a full queue of 1,000.
    assert_eq!(output.lock().len(), 4 + 5 + 2_000 * publish(0, "t", 0, "x").len());
}

#[tokio::test(start_paused = true)]
async fn a_flood_leaves_a_reading_subscriber_its_turn() {
    let bench = Bench::new();
    let mut subscriber = bench.connect(&connect_311("s")).await;
    subscriber.send(&subscribe(1, "t", 0)).await;
    assert_eq!(subscriber.read().await, "9003000100");
    let one = publish(0, "t", 0, "x");
    let mut input = connect_311("a");
    (0..5_000).for_each(|_| input.extend(&one));
    let stream = Flood { input: std::io::Cursor::new(input), output: Arc::default() };
    serve::serve(stream, SocketAddr::from(([127, 0, 0, 1], 9)), &bench.shared).await;
    // Far more than the 1,000 that may wait.
    assert_eq!(subscriber.read().await, hex(&one).repeat(5_000));
}
