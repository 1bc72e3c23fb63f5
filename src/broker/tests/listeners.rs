//! What lies beside the protocol: streams that buffer, `$SYS`, who is connected.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::websocket::WebSocket;

#[tokio::test(start_paused = true)]
async fn a_stream_that_buffers_is_flushed_to_its_last_byte() {
    let bench = Bench::new();
    // A line that takes a few bytes at a time: the rest of each frame waits in the WebSocket's buffer.
    let (near, far) = tokio::io::duplex(16);
    let shared = Arc::clone(&bench.shared);
    tokio::spawn(async move {
        let stream = WebSocket::server(far, 1024).await;
        serve::serve(stream, SocketAddr::from(([127, 0, 0, 1], 9)), &shared).await;
    });
    let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let told = publish(0, "t", 0, &"x".repeat(900));
    client.send(Message::binary([connect_311("a"), subscribe(1, "t", 0), told.clone()].concat())).await.unwrap();
    let expect = [vec![0x20, 2, 0, 0, 0x90, 3, 0, 1, 0], told].concat();
    let mut got = Vec::new();
    while got.len() < expect.len() {
        let next = tokio::time::timeout(Duration::from_secs(1), client.next()).await;
        got.extend(next.expect("the last bytes").unwrap().unwrap().into_data());
    }
    assert_eq!(got, expect);
}

#[tokio::test(start_paused = true)]
async fn the_broker_tells_about_itself_while_somebody_listens() {
    let bench = Bench::new();
    tokio::spawn(system::refresh(Arc::clone(&bench.shared)));
    let mut nosy = bench.connect(&connect_311("nosy")).await;
    nosy.send(&subscribe(1, "#", 0)).await;
    assert_eq!(nosy.read().await, "9003000100", "[MQTT-4.7.2-1]");
    assert!(!bench.shared.router.has_subscribers_below(system::ROOT));

    let mut client = bench.connect(&connect_311("client")).await;
    client.send(&publish(0, "$SYS/broker/mine", 0, "x")).await;
    client.send(&subscribe(1, "$SYS/broker/clients/connected", 0)).await;
    let said = |retain, count: &str| hex(&publish(retain, "$SYS/broker/clients/connected", 0, count));
    assert_eq!(client.read().await, format!("9003000100{}", said(1, "2")), "at once, as a retained message");
    drop(nosy);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(client.read().await, said(0, "1"));
    let offered = bench.offered();
    assert_eq!(offered, ["$SYS/broker/mine"], "a client's own publish, and nothing of the broker's");

    client.send(&packet(0xa2, &[&[0, 2], &text("$SYS/broker/clients/connected")])).await;
    assert_eq!(client.read().await, "b0020002");
    assert!(!bench.shared.router.has_subscribers_below(system::ROOT));
}

#[tokio::test(start_paused = true)]
async fn the_census_counts_what_comes_and_goes() {
    let bench = Bench::new();
    let census = Arc::clone(&bench.shared.router.census);
    let mut a = bench.connect(&connect_311("a")).await;
    a.send(&[subscribe(1, "t", 0), publish(0, "t", 0, "x"), publish(0, "u", 0, "x"), vec![0xc0, 0]].concat()).await;
    a.read().await;
    let b = bench.connect(&connect_5("b")).await;
    let traffic = Traffic { packets_in: 5, packets_out: 4, publishes_in: 2, publishes_out: 1 };
    let known: Vec<_> = census.clients(10).into_iter().map(|(c, t)| (c.client_id, c.version, c.via, t)).collect();
    let nothing = Traffic { packets_in: 1, packets_out: 1, ..Traffic::default() };
    assert_eq!(known, [("a".into(), "3.1.1", "mqtt", traffic), ("b".into(), "5", "mqtt", nothing)]);
    assert_eq!(census.clients(1).len(), 1);
    drop((a, b));
    tokio::time::advance(Duration::from_secs(1)).await;
    let totals = census.totals();
    assert_eq!((totals.connected, totals.maximum, totals.traffic.packets_in), (0, 2, 6), "what was is not forgotten");
    assert_eq!(census.clients(10), []);
}

#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_is_told() {
    let bench = Bench::new();
    *bench.shared.ingest.presences.lock() = Some(Vec::new());
    let told = || std::mem::take(bench.shared.ingest.presences.lock().as_mut().unwrap());
    for (last, reason) in [
        (vec![0xe0, 0], Some("disconnect")),
        (vec![], Some("connection_lost")),
        (vec![0x30, 1, 0], Some("malformed_packet")),
        (connect_311("a"), Some("protocol_error")),
    ] {
        let mut client = bench.connect(&connect_311("a")).await;
        assert_eq!(told(), ["Connect a 127.0.0.1 "]);
        client.send(&last).await;
        client.read().await;
        drop(client);
        tokio::time::advance(Duration::from_secs(1)).await;
        let expect: Vec<String> = reason.iter().map(|reason| format!("Disconnect a 127.0.0.1 {reason}")).collect();
        assert_eq!(told(), expect);
    }
    let first = bench.connect(&connect_311("a")).await;
    let second = bench.connect(&connect_311("a")).await;
    assert_eq!(told(), ["Connect a 127.0.0.1 ", "Connect a 127.0.0.1 "], "who is taken over has not gone");
    drop((first, second));
    let mut refused = bench.open();
    refused.send(&publish(0, "t", 0, "x")).await;
    refused.read().await;
    assert_eq!(told(), ["Disconnect a 127.0.0.1 connection_lost"], "who was not accepted did not come");
    assert_eq!(bench.received(), 11, "each counts as a publish");
}

#[tokio::test(start_paused = true)]
async fn a_going_waits_for_room_and_a_coming_does_not() {
    let bench = Bench::with(Options { max_connections: 20, ..Options::default() });
    *bench.shared.ingest.presences.lock() = Some(Vec::new());
    *bench.shared.ingest.room_left.lock() = 0;
    for id in ["a", "b", "c"] {
        drop(bench.connect(&connect_311(id)).await);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    *bench.shared.ingest.room_left.lock() = usize::MAX;
    bench.shared.ingest.room.notify_waiters();
    tokio::time::advance(Duration::from_secs(1)).await;
    let told = bench.shared.ingest.presences.lock().take().unwrap();
    assert_eq!(told, ["Disconnect a 127.0.0.1 connection_lost", "Disconnect b 127.0.0.1 connection_lost"]);
    assert_eq!(bench.received(), 6, "what is dropped is counted, too");
}
