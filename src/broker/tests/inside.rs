//! Publishes of the process itself: who is there for them, and how long they are good for.

use bytes::Bytes;

use super::properties::subscribe_5;
use super::restart::{Memory, gathered};
use super::sessions::{lasting, lasting_5, leave, resume};
use super::*;

fn inside(bench: &Bench) -> Inside {
    Inside::new(Arc::clone(&bench.shared.router))
}

fn give(bench: &Bench, qos: u8, retain: bool, millis: u64) -> bool {
    inside(bench).publish_for(("t", Bytes::from_static(b"x")), qos, retain, Some(Duration::from_millis(millis)))
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_kept_for_nobody() {
    // The seconds an MQTT 5 client is told are those that have begun.
    for (good_for, away, told) in
        [(2_500, 100, Some(3)), (2_500, 2_000, Some(1)), (300, 100, Some(1)), (300, 301, None), (2_500, 2_501, None)]
    {
        let bench = Bench::new();
        let (mut hmi, _) = resume(&bench, &lasting_5("hmi", true, 100), false).await;
        hmi.send(&subscribe_5(1, "t", 1)).await;
        hmi.read().await;
        leave(hmi).await;
        assert!(give(&bench, 1, true, good_for), "{good_for}");
        tokio::time::advance(Duration::from_millis(away)).await;
        let publish = |flags, id, left| publish_5(flags, "t", id, &[0x02, 0, 0, 0, left], "x");
        let (_, waited) = resume(&bench, &lasting_5("hmi", false, 100), true).await;
        assert_eq!(waited, told.map(|left| hex(&publish(2, 1, left))).unwrap_or_default(), "{good_for} {away}");
        let mut new = bench.connect(&connect_5("new")).await;
        new.send(&subscribe_5(1, "t", 0)).await;
        let retained = told.map(|left| hex(&publish(1, 0, left))).unwrap_or_default();
        assert_eq!(new.read().await, format!("900400010000{retained}"), "{good_for} {away}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_not_sent_again_and_stops_nothing() {
    for (qos, millis, again) in [(1, 5_000, true), (1, 900, false), (2, 5_000, true), (2, 900, false)] {
        let bench = Bench::new();
        let (mut hmi, _) = resume(&bench, &lasting("hmi"), false).await;
        hmi.send(&subscribe(1, "t", 2)).await;
        hmi.read().await;
        assert!(give(&bench, qos, false, millis));
        assert!(inside(&bench).publish("t", Bytes::from_static(b"for ever"), qos, false));
        let (flags, row) = (qos << 1, (qos, millis));
        let both = |flags| [publish(flags, "t", 1, "x"), publish(flags, "t", 2, "for ever")];
        assert_eq!(hmi.read().await, hex(&both(flags).concat()), "{row:?}");
        drop(hmi);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (mut hmi, resent) = resume(&bench, &lasting("hmi"), true).await;
        let left = both(flags | 8).into_iter().skip(usize::from(!again)).collect::<Vec<_>>();
        assert_eq!(resent, hex(&left.concat()), "{row:?}");
        assert!(give(&bench, 1, false, 1_000));
        assert_eq!(hmi.read().await, hex(&publish(2, "t", 3, "x")), "{row:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_lets_expire_is_sent_again_once_it_was_sent() {
    let bench = Bench::new();
    let mut plc = bench.connect(&connect_5("plc")).await;
    let (mut hmi, _) = resume(&bench, &lasting("hmi"), false).await;
    hmi.send(&subscribe(1, "t", 1)).await;
    hmi.read().await;
    plc.send(&publish_5(2, "t", 1, &[0x02, 0, 0, 0, 1], "x")).await;
    assert_eq!(hmi.read().await, hex(&publish(2, "t", 1, "x")));
    drop(hmi);
    tokio::time::advance(Duration::from_secs(5)).await;
    let (_, resent) = resume(&bench, &lasting("hmi"), true).await;
    assert_eq!(resent, hex(&publish(2 | 8, "t", 1, "x")), "[MQTT-4.4.0-1]");
}

#[tokio::test(start_paused = true)]
async fn a_restart_lengthens_nothing() {
    // Away or with it in flight, and a time of which the seconds alone would be 30.
    for (in_flight, after, heard) in
        [(false, 29_000, true), (false, 29_600, false), (true, 29_000, true), (true, 29_600, false)]
    {
        let memory = Arc::new(Memory::default());
        let bench = memory.restart();
        let (mut hmi, _) = resume(&bench, &lasting("hmi"), false).await;
        hmi.send(&subscribe(1, "t", 1)).await;
        hmi.read().await;
        if in_flight {
            assert!(give(&bench, 1, true, 29_500));
            assert_eq!(hmi.read().await, hex(&publish(2, "t", 1, "x")));
            drop(hmi);
        } else {
            leave(hmi).await;
            assert!(give(&bench, 1, true, 29_500));
        }
        gathered().await;
        let (bench, row) = (memory.restart(), (in_flight, after));
        tokio::time::advance(Duration::from_millis(after)).await;
        let (_, waited) = resume(&bench, &lasting("hmi"), true).await;
        let expect = hex(&publish(if in_flight { 2 | 8 } else { 2 }, "t", 1, "x"));
        assert_eq!(waited, if heard { expect.as_str() } else { "" }, "{row:?}");
        let mut new = bench.connect(&connect_311("new")).await;
        new.send(&subscribe(1, "t", 0)).await;
        let retained = if heard { hex(&publish(1, "t", 0, "x")) } else { String::new() };
        assert_eq!(new.read().await, format!("9003000100{retained}"), "{row:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_there_for_a_publish() {
    // The session lasts; its filter, at which QoS; its client is here: for QoS 0, for QoS 1, and for who is connected.
    for (lasts, filter, qos, here, expect) in [
        (false, "t", 0, true, [true, true, true]),
        (true, "t", 1, true, [true, true, true]),
        (true, "$share/g/t", 1, true, [true, true, true]),
        (true, "other", 1, true, [false, false, false]),
        (true, "t", 1, false, [false, true, false]),
        (true, "t", 0, false, [false, false, false]),
        (true, "$share/g/t", 1, false, [false, true, false]),
        (false, "t", 1, false, [false, false, false]),
    ] {
        let bench = Bench::new();
        let (mut hmi, _) = resume(&bench, &if lasts { lasting("hmi") } else { connect_311("hmi") }, false).await;
        hmi.send(&subscribe(1, filter, qos)).await;
        hmi.read().await;
        let _here = if here {
            Some(hmi)
        } else {
            leave(hmi).await;
            None
        };
        let inside = inside(&bench);
        let found = [(0, false), (1, false), (1, true)].map(|(qos, connected)| inside.has_taker("t", qos, connected));
        assert_eq!(found, expect, "{lasts} {filter} {qos} {here}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_is_told_of() {
    let bench = Bench::new();
    let inside = inside(&bench);
    let told = async || tokio::time::timeout(Duration::from_millis(1), inside.somebody()).await.is_ok();
    let (mut hmi, _) = resume(&bench, &lasting("hmi"), false).await;
    assert!(!told().await, "it subscribes to nothing");
    hmi.send(&subscribe(1, "t", 1)).await;
    hmi.read().await;
    assert!(told().await && !told().await);
    leave(hmi).await;
    assert!(!told().await);
    let _back = resume(&bench, &lasting("hmi"), true).await;
    assert!(told().await && !told().await);
}
