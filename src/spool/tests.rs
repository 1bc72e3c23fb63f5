//! The spool against a model, over a disk with faults.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::appender::lock;
use super::sim::Faults;
use super::world::{SEGMENT, World, options};
use super::*;

mod lanes;

use lanes::two_lanes;

#[derive(Debug, Clone)]
enum Op {
    Append(Vec<usize>),
    Commit,
    Read(usize, bool),
    Ack(usize, usize),
    Cursor(bool),
    Split(u64, u8),
    Reopen,
    PowerCut,
    Capacity(u64),
    Fail(u32, u32),
    Retry,
}

fn op() -> impl Strategy<Value = Op> {
    let sizes = prop::collection::vec(prop_oneof![4 => 8..60usize, 2 => 60..900usize, 1 => 900..5000usize], 1..6);
    prop_oneof![
        12 => sizes.prop_map(Op::Append),
        10 => Just(Op::Commit),
        5 => (1..80usize, prop::bool::weighted(0.6)).prop_map(|(most, late)| Op::Read(most, late)),
        3 => (0..30u64, 0..3u8).prop_map(|(over, parts)| Op::Split(over, parts)),
        6 => (0..4usize, 1..40usize).prop_map(|(at, n)| Op::Ack(at, n)),
        3 => any::<bool>().prop_map(Op::Cursor),
        1 => Just(Op::Reopen),
        2 => Just(Op::PowerCut),
        1 => (0..9u64).prop_map(Op::Capacity),
        1 => (0..3u32, 0..3u32).prop_map(|(writes, syncs)| Op::Fail(writes, syncs)),
        2 => Just(Op::Retry),
    ]
}

fn play(world: &mut World, op: &Op) {
    match op {
        Op::Append(sizes) => match world.append(sizes) {
            Ok(_) => {}
            Err(AppendError::TooLarge) => assert!(sizes.iter().sum::<usize>() > 4000, "{sizes:?}"),
            Err(AppendError::Full) => {}
            Err(AppendError::Closed) => assert!(world.failed),
        },
        Op::Commit => world.commit(),
        Op::Read(most, late) => world.read(*most, *late),
        Op::Split(over, parts) => world.split(*over, *parts),
        Op::Ack(at, times) => (0..*times).for_each(|_| world.ack(*at)),
        Op::Cursor(sync) => {
            if !world.failed {
                world.log.write_cursor(*sync);
                world.log.tidy();
            }
        }
        Op::Reopen => {
            world.commit();
            world.disk.set_faults(Faults::default());
            world.reopen();
        }
        Op::PowerCut => {
            world.disk.power_cut();
            world.reopen();
        }
        Op::Capacity(segments) => world.disk.set_capacity(world.disk.used().max(1) + segments * SEGMENT),
        Op::Fail(writes, syncs) => world.disk.set_faults(Faults { writes: *writes, syncs: *syncs, power: None }),
        Op::Retry => {
            world.log.retry();
            world.log.tidy();
        }
    }
    if world.options.when_full == WhenFull::DropOldest {
        let track = lock(&world.log.shared.track).cursor();
        world.owed.retain(|seq, _| *seq > track);
        world.delivered.retain(|stored| stored.seq > track);
    }
    world.check();
}

/// About a second; PROPTEST_CASES asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150);
    ProptestConfig { cases, max_shrink_iters: 2000, ..ProptestConfig::default() }
}

/// Schedules that failed once.
const FAILED: [u64; 0] = [];

/// What a seed does to a spool; the same for ever.
fn schedule(seed: u64) -> (Options, Vec<Op>) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let strategy = (prop::bool::weighted(0.25), 4..12u64, prop::collection::vec(op(), 60..240));
    let (drop_oldest, segments, ops) = strategy.new_tree(&mut runner).expect("a schedule").current();
    let when_full = if drop_oldest { WhenFull::DropOldest } else { WhenFull::Refuse };
    (Options { when_full, ..options(segments) }, ops)
}

#[test]
fn a_thousand_schedules_of_faults_lose_nothing_and_deliver_nothing_twice() {
    let most = std::env::var("BROWNBRIDGE_SEEDS").map_or(1000, |seeds| seeds.parse().expect("a number"));
    let (mut splits, mut holes) = (0, 0);
    for seed in FAILED.into_iter().chain(0..most) {
        let (options, ops) = schedule(seed);
        let play = || {
            let mut world = World::new(seed, options);
            ops.iter().for_each(|op| play(&mut world, op));
            world.prove();
            (world.splits, world.hole)
        };
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(play)) {
            Ok((split, hole)) => {
                splits += u64::from(split);
                holes += u64::from(hole);
            }
            Err(_) => panic!("seed {seed} failed; add it to FAILED"),
        }
    }
    assert!(splits > most && holes * 20 > most, "the schedules do too little: {splits} splits, {holes} with holes");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_spool_is_a_queue_whatever_the_disk_does(
        seed: u64, drop_oldest in prop::bool::weighted(0.25), segments in 4..9u64, ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut options = options(segments);
        if drop_oldest {
            options.when_full = WhenFull::DropOldest;
        }
        let mut world = World::new(seed, options);
        for op in &ops {
            play(&mut world, op);
        }
        world.prove();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_the_folder_open_and_nothing_corrupt_comes_out(
        seed: u64, lanes: bool, writes in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 1..100)), 0..60),
        first_seq in 0..200u64, stranger in prop::collection::vec(any::<u8>(), 0..9000),
    ) {
        let mut world = backlog(seed, 60);
        let mut owed = world.owed.clone();
        if lanes {
            owed = two_lanes(&mut world);
            world.log.write_cursor(true);
        }
        world.damaged = true;
        world.disk.put(&super::format::segment_name(first_seq, 7), &stranger);
        world.disk.edit(|_, bytes| for (at, patch) in &writes {
            let at = (at.wrapping_add(seed) % bytes.len().max(1) as u64) as usize;
            let end = (at + patch.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&patch[..end - at]);
        });
        let mut again = World::on(world.disk.clone(), world.options.clone());
        let mut out = VecDeque::new();
        again.ahead.live.fill(&mut out, usize::MAX, usize::MAX);
        prop_assert!(out.iter().all(|stored| owed.get(&stored.seq).is_some_and(|expect| stored.record == expect)));
        prop_assert_eq!(again.appender().stats().lost + out.len() as u64, again.recovered.waiting);
        again.damaged = true;
        let ticket = again.append(&[10]).expect("room");
        again.commit();
        prop_assert_eq!(again.durable, ticket.0);
        again.check();
    }
}

/// A backlog in several sealed segments, none acknowledged.
fn backlog(seed: u64, records: usize) -> World {
    let mut world = World::new(seed, options(16));
    for n in 0..records {
        world.append(&[200 + n % 7, 300]).expect("room");
        world.commit();
    }
    world
}

#[test]
fn who_finds_too_little_room_waits_for_the_next_commit() {
    let mut world = World::new(1, options(16));
    let appender = world.appender();
    world.append(&[4_000]).expect("room");
    let large = vec![0; 5_000];
    let tries = || {
        let mut context = Context::from_waker(Waker::noop());
        (0..9).find(|_| {
            let refused = appender.try_append(std::iter::once(large.as_slice()));
            assert_eq!(refused, Err(AppendError::Full));
            pin!(appender.room()).poll(&mut context).is_pending()
        })
    };
    assert!(tries().is_some_and(|tries| tries < 4), "it wakes itself again and again");
    let mut waits = Box::pin(appender.room());
    let mut context = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    world.commit();
    assert!(waits.as_mut().poll(&mut context).is_ready());
    assert!(appender.try_append(std::iter::once(large.as_slice())).is_ok());
}

#[test]
fn a_power_cut_after_any_operation_loses_nothing_durable() {
    let script = |world: &mut World| {
        world.log.list_every = 0;
        for round in 0..14 {
            let _ = world.append(&[20, 3000, 700 + round]);
            world.commit();
            let _ = world.append(&[1500, 1500, 1500]);
            world.commit();
            if !world.failed {
                if round % 5 == 1 {
                    world.split(2, (round / 5) as u8);
                }
                world.read(if round % 5 == 1 { 2 } else { 8 }, true);
                (0..8).for_each(|_| world.ack(0));
                world.log.write_cursor(round % 2 == 0);
                world.log.tidy();
            }
        }
    };
    let mut whole = World::new(1, options(6));
    script(&mut whole);
    let ops = whole.disk.ops();
    assert!(ops > 60 && whole.durable > 50, "the script does too little: {ops}, {}", whole.durable);
    assert!(whole.splits == 3, "{} new lanes", whole.splits);
    for power in 0..ops {
        for seed in [1, 2] {
            let mut world = World::new(seed, options(6));
            let before = world.disk.ops();
            world.disk.set_faults(Faults { power: Some(power.saturating_sub(before)), ..Faults::default() });
            script(&mut world);
            world.disk.power_cut();
            world.reopen();
            world.prove();
        }
    }
}

#[test]
fn without_fsync_a_power_cut_loses_what_was_called_durable() {
    let lost = (0..40).filter(|&seed| {
        let mut world = World::new(seed, Options { durability: Durability::Os, ..options(8) });
        for _ in 0..5 {
            world.append(&[100, 900]).expect("room");
            world.commit();
        }
        world.disk.power_cut();
        let (log, ..) = assemble(Arc::new(world.disk.clone()), &world.options).expect("opens");
        let found = log.shared.durable.borrow().seq;
        found < world.durable
    });
    assert!(lost.count() > 10, "the simulated power cut cannot tell a synced disk from an unsynced one");
}

#[test]
fn a_flipped_bit_costs_its_block_and_is_counted() {
    for seed in 0..60u64 {
        let mut world = backlog(seed, 300);
        world.damaged = true;
        let mut at = seed.wrapping_mul(7919);
        world.disk.edit(|name, bytes| {
            if name.ends_with(".seg") {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let bit = (at >> 20) as usize % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        });
        let segments = lock(&world.log.shared.track).segment_bytes() / SEGMENT;
        assert!(segments > 4, "{segments} segments are no backlog");
        let durable = world.durable;
        let owed = std::mem::take(&mut world.owed);
        let mut again = World::on(world.disk.clone(), world.options.clone());
        let mut out = VecDeque::new();
        again.ahead.live.fill(&mut out, usize::MAX, usize::MAX);
        for stored in &out {
            assert_eq!(stored.record, owed[&stored.seq], "a corrupt record was delivered");
        }
        let stats = again.appender().stats();
        // The very last commit may look like a torn tail; everything else is told from it.
        assert!(again.recovered.waiting + 2 >= durable);
        assert_eq!(stats.lost + out.len() as u64, again.recovered.waiting);
        assert!(stats.lost <= 2 * segments, "{} records lost to {segments} bits", stats.lost);
        assert_eq!(again.recovered.quarantined, 0);
        again.damaged = true;
        again.check();
    }
}

#[test]
fn a_destroyed_segment_costs_its_records_only() {
    type Damage = fn(&mut Vec<u8>);
    let whole = backlog(3, 300);
    let names: Vec<String> = whole.disk.names().into_iter().filter(|name| name.ends_with(".seg")).collect();
    let rows: [(&str, usize, Damage, u64, bool); 6] = [
        ("damaged header", 1, |bytes| bytes[..64].fill(0xff), 0, false),
        ("all zero", 1, |bytes| bytes.fill(0), 1, true),
        ("all zero, the first", 0, |bytes| bytes.fill(0), 1, true),
        ("a newer version", 1, |bytes| newer(bytes), 1, true),
        ("cut short", 1, |bytes| bytes.truncate(9000), 0, true),
        ("empty", 1, Vec::clear, 1, true),
    ];
    for (what, which, damage, quarantined, loses) in rows {
        let mut world = backlog(3, 300);
        world.disk.edit(|name, bytes| {
            if name == names[which] {
                damage(bytes);
            }
        });
        world.damaged = true;
        let owed = world.owed.clone();
        let mut again = World::on(world.disk.clone(), world.options.clone());
        assert_eq!(again.recovered.quarantined, quarantined, "{what}");
        assert_eq!(again.recovered.waiting, 600, "{what}");
        let mut out = VecDeque::new();
        again.ahead.live.fill(&mut out, usize::MAX, usize::MAX);
        assert!(out.iter().all(|stored| stored.record == owed[&stored.seq]), "{what}");
        let lost = again.appender().stats().lost;
        assert_eq!(lost + out.len() as u64, 600, "{what}");
        assert_eq!(lost > 0, loses, "{what}: {lost} lost");
        assert!(lost < 120, "{what}: {lost} lost");
    }
}

#[test]
fn with_every_segment_put_aside_nothing_waits_for_ever() {
    let mut world = backlog(3, 300);
    world.disk.edit(|_, bytes| bytes.fill(0));
    world.damaged = true;
    let mut again = World::on(world.disk.clone(), world.options.clone());
    assert!(again.recovered.waiting > 0, "the names tell of {:?}", again.recovered);
    let mut out = VecDeque::new();
    again.ahead.live.fill(&mut out, usize::MAX, usize::MAX);
    let stats = again.appender().stats();
    assert_eq!((out.len(), stats.waiting, stats.lost), (0, 0, again.recovered.waiting));
    again.damaged = true;
    again.prove();
}

/// A sound header of a version to come.
fn newer(bytes: &mut [u8]) {
    bytes[8] = 3;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn what_is_no_part_of_the_spool_is_put_aside() {
    let mut world = backlog(4, 3);
    world.disk.put("notes.txt", b"by the night shift");
    world.disk.put("0000000000000001-nosalt00.seg", b"");
    world.reopen();
    assert_eq!(world.recovered.quarantined, 2);
    let names = world.disk.names();
    assert!(names.contains(&"quarantine/notes.txt".to_owned()), "{names:?}");
    world.prove();
}

#[test]
fn a_failed_sync_is_never_asked_again() {
    let mut world = World::new(5, options(8));
    world.append(&[50]).expect("room");
    world.commit();
    world.append(&[60]).expect("room");
    world.disk.set_faults(Faults { syncs: 1, ..Faults::default() });
    world.commit();
    assert_eq!((world.durable, world.failed, world.appender().stats().sync_failures), (2, false, 1));
    let live = world.disk.names().iter().filter(|name| name.ends_with(".seg")).count();
    assert_eq!(live, 2, "the failed segment is finished");
    world.disk.power_cut();
    world.reopen();
    world.append(&[70]).expect("room");
    world.disk.set_faults(Faults { syncs: 2, ..Faults::default() });
    world.commit();
    assert!(world.failed, "two segments failed and the spool goes on");
    assert_eq!(world.append(&[80]), Err(AppendError::Closed));
    world.prove();
}

#[test]
fn what_a_restart_finds_only_in_memory_is_made_durable_before_it_counts() {
    for seed in 0..20 {
        let mut world = World::new(seed, options(8));
        world.append(&[50, 3000, 600]).expect("room");
        world.disk.set_faults(Faults { syncs: 1, ..Faults::default() });
        world.commit();
        world.append(&[60, 70]).expect("room");
        world.disk.set_faults(Faults { syncs: 2, ..Faults::default() });
        world.commit();
        assert!(world.failed);
        world.disk.set_faults(Faults::default());
        world.reopen();
        assert_eq!(world.durable, 5, "the page cache still had it");
        world.disk.power_cut();
        world.reopen();
        world.prove();
    }
}

#[test]
fn a_torn_tail_is_cut_and_no_loss() {
    for seed in 0..60 {
        let mut world = World::new(seed, options(8));
        world.append(&[100, 100]).expect("room");
        world.commit();
        // Several blocks and pages in one commit; the power goes before its sync.
        world.append(&[1000, 1000, 1000, 1000, 1000]).expect("room");
        world.disk.set_faults(Faults { power: Some(1), ..Faults::default() });
        world.commit();
        assert!(world.failed);
        world.disk.power_cut();
        world.reopen();
        world.check();
        world.prove();
    }
}

#[test]
fn a_full_spool_refuses_and_goes_on_at_nine_tenths() {
    let mut world = World::new(6, options(40));
    while world.append(&[4000]).is_ok() {
        world.commit();
    }
    assert!(world.appender().stats().full);
    world.log.tidy();
    assert_eq!(world.append(&[10]), Err(AppendError::Full), "full for small ones too");
    let free_of = |world: &World| 40 - lock(&world.log.shared.track).segment_bytes() / SEGMENT;
    loop {
        world.read(1, true);
        world.ack(0);
        world.log.tidy();
        match world.append(&[10]) {
            Ok(_) => break,
            Err(error) => assert_eq!((error, free_of(&world) < 4), (AppendError::Full, true)),
        }
    }
    assert_eq!(free_of(&world), 4, "a tenth of forty segments");
    assert_eq!(world.append(&[9000]), Err(AppendError::TooLarge));
    world.prove();
}

#[test]
fn a_full_disk_refuses_acknowledges_and_recovers() {
    let mut world = World::new(7, options(20));
    world.disk.set_capacity(5 * SEGMENT);
    while world.append(&[4000]).is_ok() {
        world.commit();
    }
    world.log.tidy();
    assert!(world.appender().stats().full && !world.failed);
    world.read(3, true);
    (0..3).for_each(|_| world.ack(0));
    world.log.write_cursor(true);
    world.disk.power_cut();
    world.reopen();
    assert_eq!(lock(&world.log.shared.track).cursor(), 3, "the acknowledgements are on the full disk");
    assert_eq!(world.append(&[4000]), Err(AppendError::Full));
    world.disk.set_capacity(u64::MAX);
    assert!(world.log.retry());
    world.log.tidy();
    world.append(&[4000]).expect("room again without a restart");
    world.prove();
}

#[test]
fn drop_oldest_sheds_whole_segments_and_late_acknowledgements_do_not_count() {
    let mut world = World::new(8, Options { when_full: WhenFull::DropOldest, ..options(4) });
    let acker = Acker { shared: world.log.shared.clone() };
    let mut read = VecDeque::new();
    let mut appended = 0;
    while world.appender().stats().shed == 0 {
        match world.append(&[2000]) {
            Ok(_) => appended += 1,
            Err(_) => world.log.tidy(),
        }
        world.commit();
        if appended == 6 && read.is_empty() {
            world.ahead.live.fill(&mut read, 6, usize::MAX);
            assert!(acker.ack(3));
        }
    }
    let stats = world.appender().stats();
    let cursor = lock(&world.log.shared.track).cursor();
    assert_eq!((stats.shed, stats.acked), (cursor - 1, 1), "the acknowledged one is not shed");
    assert!(!acker.ack(1) && !acker.ack(3));
    let mut rest = VecDeque::new();
    world.ahead.live.fill(&mut rest, usize::MAX, usize::MAX);
    assert_eq!(rest.front().map(|stored| stored.seq), Some(cursor + 1), "the reader skips ahead");
    assert_eq!(stats.lost, 0);
    world.check();
}

#[tokio::test]
async fn a_record_counted_as_shed_is_not_delivered_from_the_hand() {
    let mut world = World::new(9, Options { when_full: WhenFull::DropOldest, ..options(4) });
    world.append(&[100, 100, 100]).expect("room");
    world.commit();
    world.ahead.turn();
    let World { log, mut reader, .. } = world;
    assert_eq!(reader.next(true).await.map(|stored| stored.seq), Some(1));
    log.shared.reading.shed(2);
    assert_eq!(reader.next(true).await.map(|stored| stored.seq), Some(3));
}

#[test]
fn the_oldest_waiting_message_is_known() {
    let mut world = World::new(10, options(8));
    assert_eq!(world.appender().stats().oldest_ms, None);
    world.append(&[10]).expect("room");
    world.commit();
    let first = world.appender().stats().oldest_ms.expect("one waits");
    world.append(&[10]).expect("room");
    world.commit();
    world.read(9, true);
    assert!(world.appender().stats().oldest_ms.is_some_and(|oldest| (first..first + 1000).contains(&oldest)));
    world.ack(0);
    world.ack(0);
    assert_eq!(world.appender().stats().oldest_ms, None);
}

#[test]
fn the_id_stays_with_the_folder() {
    let mut world = backlog(11, 2);
    let id = world.appender().id();
    world.reopen();
    assert_eq!(world.appender().id(), id);
    world.disk.remove("id").expect("is there");
    world.reopen();
    assert_eq!(world.appender().id(), id, "every segment has it too");
}
