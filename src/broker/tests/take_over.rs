//! What goes wrong between a client, its sessions and the store: connections that do not end, exchanges that are begun
//! twice, a disk that hangs.

use bytestring::ByteString;

use super::super::clients::Terms;
use super::restart::{Memory, gathered};
use super::sessions::{Fickle, expiry, lasting, leave, resume};
use super::*;

const TERMS: Terms = Terms { clean_start: false, expiry: 100, receive_max: None };

#[tokio::test(start_paused = true)]
async fn of_many_with_one_client_id_the_last_one_stays() {
    let bench = Bench::new();
    let router = &bench.shared.router;
    let id = || ByteString::from_static("hmi");
    for (name, clean_start) in [("the session goes on", false), ("a clean start", true)] {
        // The first one does not end, however long it is waited for; the second is taken over while it waits.
        let first = router.enter(id(), TERMS).await.unwrap().place;
        let clean = Terms { clean_start, ..TERMS };
        let (second, third) = tokio::join!(router.enter(id(), TERMS), router.enter(id(), clean));
        assert!(second.is_none(), "{name}");
        let third = third.unwrap().place;
        drop(first);
        assert!(third.session.is_present(), "{name}");
        assert_eq!((router.session_count(), router.census.totals().away), (1, 0), "{name}");
        assert_eq!(router.next_due(), None, "{name}");
        drop(third);
        assert_eq!((router.session_count(), router.census.totals().away), (1, 1), "{name}");
        let entered = router.enter(id(), TERMS).await.unwrap();
        assert!(entered.present, "{name}");
        entered.place.session.set_expiry(0);
        drop(entered);
        assert_eq!(router.session_count(), 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_qos_2_publish_that_comes_again_is_answered_again() {
    let fickle = Fickle::default();
    let bench = Bench::with(Options { gate: Some(Arc::new(fickle.clone())), ..Options::default() });
    fickle.forbid(&["secret"]);
    let mut plc = bench.connect(&connect_311("plc")).await;
    plc.send(&[publish(4, "secret", 1, "x"), publish(4 | 8, "secret", 1, "x")].concat()).await;
    assert_eq!(plc.read().await, "5002000150020001");
    plc.send(&publish(2, "t", 2, "y")).await;
    bench.commit(1);
    assert_eq!(plc.read().await, "40020002", "what comes later does not wait for it");
    plc.send(&[0x62, 2, 0, 1]).await;
    assert_eq!(plc.read().await, "70020001");
    assert_eq!(bench.offered(), ["t"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_is_not_resumed() {
    // Nobody has looked since it ended: the broker has just started, or is busy.
    let bench = Bench::new();
    let connect = |clean: u8| packet(0x10, &[&text("MQTT"), &[5, clean, 0, 0, 5], &expiry(10), &text("hmi")]);
    let (hmi, _) = resume(&bench, &connect(2), false).await;
    leave(hmi).await;
    tokio::time::advance(Duration::from_secs(11)).await;
    resume(&bench, &connect(0), false).await;
    assert_eq!(bench.shared.router.session_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn fewer_sessions_than_before_are_allowed_at_once() {
    let memory = Arc::new(Memory::default());
    let bench = memory.restart();
    for id in ["a", "b", "c", "d"] {
        leave(resume(&bench, &lasting(id), false).await.0).await;
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    gathered().await;
    let bench = memory.restart_with(Options { max_sessions: 2, ..Options::default() });
    gathered().await;
    assert_eq!(bench.shared.router.session_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_without_room_does_not_keep_changes_in_memory() {
    let memory = Arc::new(Memory::default());
    leave(resume(&memory.restart(), &lasting("hmi"), false).await.0).await;
    gathered().await;
    memory.fill();
    let bench = memory.restart();
    let (mut hmi, _) = resume(&bench, &lasting("hmi"), true).await;
    gathered().await;
    let before = memory.count();
    for n in 0..10 {
        let filter = format!("f/{n}");
        hmi.send(&subscribe(1, &filter, 1)).await;
        hmi.send(&packet(0xa2, &[&[0, 2], &text(&filter)])).await;
        hmi.read().await;
    }
    gathered().await;
    assert!(memory.count() >= before + 10, "{} after {before}", memory.count());
}

#[tokio::test(start_paused = true)]
async fn only_what_is_retained_is_written_down() {
    let memory = Arc::new(Memory::default());
    let bench = memory.restart_with(Options { max_retained: 1, ..Options::default() });
    let mut plc = bench.connect(&connect_311("plc")).await;
    gathered().await;
    for (name, topic, payload, records) in [
        ("the first", "a", "on", 1),
        ("one without room", "b", "on", 0),
        ("the end of one that is not there", "c", "", 0),
        ("another value", "a", "off", 1),
        ("the end", "a", "", 1),
        ("room again", "b", "on", 1),
    ] {
        let before = memory.count();
        plc.send(&publish(1, topic, 0, payload)).await;
        gathered().await;
        assert_eq!(memory.count() - before, records, "{name}");
    }
}
