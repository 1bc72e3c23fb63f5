//! Two lanes: what the disk remembers of them, and what it gives back.

use std::collections::BTreeMap;

use super::super::appender::lock;
use super::super::world::{World, options};
use super::super::*;
use super::backlog;

/// Makes the backlog late, and delivers and acknowledges as much again before it. All that was ever owed.
pub(super) fn two_lanes(world: &mut World) -> BTreeMap<u64, Vec<u8>> {
    world.split(0, 0);
    for _ in 0..world.durable / 2 {
        world.append(&[300, 200]).expect("room");
        world.commit();
    }
    world.read(usize::MAX, false);
    let owed = world.owed.clone();
    while !world.delivered.is_empty() {
        world.ack(0);
    }
    owed
}

#[test]
fn what_went_out_before_late_records_does_not_come_again_after_a_power_cut() {
    type Told = fn(&mut World);
    let rows: [(&str, Told); 3] = [
        ("by a block of its own", |world| assert!(!world.log.write_cursor(true))),
        ("with a commit", |world| {
            world.log.list_every = 0;
            world.append(&[100]).expect("room");
            world.commit();
        }),
        ("by a new segment", |world| {
            while lock(&world.log.shared.track).resolved().list(9) != world.log.on_disk {
                world.append(&[4000]).expect("room");
                world.commit();
            }
        }),
    ];
    for (how, tell) in rows {
        let mut world = backlog(12, 30);
        world.log.list_every = i64::MAX;
        two_lanes(&mut world);
        assert_eq!(world.appender().stats().late, 60, "{how}");
        tell(&mut world);
        let waiting = world.owed.len() as u64;
        world.disk.power_cut();
        world.reopen();
        assert_eq!(world.recovered.waiting, waiting, "{how}");
        assert_eq!(lock(&world.log.shared.track).cursor(), 0, "{how}");
        world.prove();
    }
}

#[test]
fn a_segment_that_is_delivered_is_taken_back_though_older_ones_wait() {
    let mut world = backlog(13, 150);
    two_lanes(&mut world);
    let before = lock(&world.log.shared.track).segment_bytes();
    world.log.write_cursor(false);
    world.log.tidy();
    assert_eq!(lock(&world.log.shared.track).segment_bytes(), before, "the disk does not know yet");
    world.log.write_cursor(true);
    world.log.tidy();
    let after = lock(&world.log.shared.track).segment_bytes();
    assert!(after < before, "{before} {after}");
    world.check();
    assert!(world.hole);
    world.disk.power_cut();
    world.reopen();
    assert_eq!((world.recovered.waiting, world.recovered.quarantined), (300, 0));
    world.prove();
    assert_eq!(world.appender().stats().lost, 0);
}

#[test]
fn segments_that_are_too_old_are_given_up() {
    let options = Options { max_age: Some(Duration::from_millis(2000)), ..options(16) };
    let mut world = World::new(14, options);
    while world.appender().stats().expired == 0 {
        world.append(&[200, 300]).expect("room");
        world.commit();
        for _ in 0..10 {
            world.disk.now(); // The clock goes on.
        }
    }
    let stats = world.appender().stats();
    let cursor = lock(&world.log.shared.track).cursor();
    assert_eq!((stats.expired, stats.shed, stats.lost), (cursor, 0, 0));
    assert_eq!(stats.appended, stats.expired + stats.waiting);
    world.owed.retain(|seq, _| *seq > cursor);
    world.read(1, true);
    assert_eq!(world.delivered.front().map(|stored| stored.seq), Some(cursor + 1));
    let acker = Acker { shared: world.log.shared.clone() };
    assert!(acker.expire(cursor + 1) && !acker.ack(cursor + 1));
    assert_eq!(world.appender().stats().expired, cursor + 1);
}
