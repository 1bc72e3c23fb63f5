//! What a device does with a message, in each of its states.

use super::ends::Source;
use super::queue::*;
use super::*;
use crate::shelf::{self, Chunk, Shelved};
use crate::uplink::{Lane, MessageId, Waiting};

fn waiting(sequence: u64, lane: Lane) -> Waiting {
    Waiting { id: MessageId { spool: 1, sequence }, lane, record: vec![0; 100].into() }
}

fn device(phase: Phase) -> Arc<Device> {
    Device::new("d", phase, Arc::default())
}

fn chunk(sequences: std::ops::Range<u64>, last: bool) -> Chunk {
    let dir = tempfile::tempdir().unwrap();
    let shelves = Shelves::open(shelf::Options { dir: dir.path().into(), max_size: 1 << 20, max_device_size: 1 << 20 });
    let shelves = shelves.unwrap();
    let shelved = |sequence| Shelved { spool: 1, sequence, lane: 1, record: vec![0; 100].into() };
    shelves.append("d", &sequences.map(shelved).collect::<Vec<_>>(), 0).unwrap();
    Chunk { last, ..shelves.read("d", None, 64).unwrap() }
}

#[test]
fn the_way_of_a_message() {
    let now = Instant::now();
    let (later, before) = (now + Duration::from_secs(9), now.checked_sub(Duration::from_secs(9)).unwrap());
    for (phase, shelving, lane, expect) in [
        (Phase::Idle, false, Lane::Live, Way::Queued),
        (Phase::InLine, false, Lane::Late, Way::Queued),
        (Phase::Idle, true, Lane::Urgent, Way::Shelf),
        (Phase::Connected(now), true, Lane::Live, Way::Shelf),
        (Phase::Connected(now), true, Lane::Urgent, Way::Queued),
        (Phase::Refused(later), false, Lane::Live, Way::Refused),
        (Phase::Refused(later), true, Lane::Live, Way::Shelf),
        (Phase::Refused(before), false, Lane::Live, Way::Queued),
        (Phase::Held, false, Lane::Urgent, Way::Shelf),
        (Phase::Denied, true, Lane::Live, Way::Denied),
    ] {
        let device = device(phase);
        device.state().shelving = shelving;
        let way = device.offer(Held::from_spool(waiting(1, lane)), now).map_or_else(|(_, way)| way, |()| Way::Queued);
        assert_eq!(way, expect, "{phase:?} {shelving} {lane:?}");
    }
}

#[test]
fn a_queue_is_bounded() {
    let device = device(Phase::Idle);
    let mut taken = 0;
    while device.offer(Held::from_spool(waiting(taken, Lane::Live)), Instant::now()).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 128);
}

#[tokio::test]
async fn what_was_given_to_a_line_that_ended_waits_in_its_order_and_urgent_ones_go_first() {
    use crate::uplink::Backlog as _;
    let device = device(Phase::Idle);
    for (sequence, lane) in [(1, Lane::Live), (2, Lane::Live), (3, Lane::Live), (9, Lane::Urgent)] {
        device.offer(Held::from_spool(waiting(sequence, lane)), Instant::now()).unwrap();
    }
    let mut source = Source(Arc::clone(&device));
    assert_eq!(source.next(Lane::Late).await.unwrap().id.sequence, 9);
    assert_eq!(source.next(Lane::Late).await.unwrap().id.sequence, 1);
    device.end();
    let mut order = Vec::new();
    while !device.state().is_drained() {
        order.push(source.next(Lane::Late).await.unwrap().id.sequence);
    }
    assert_eq!(order, [9, 1, 2, 3]);
}

/// What a refused device leaves: messages of its shelf are read from there again, those of the spool go behind them;
/// where the shelf is newer than they are, that is said.
#[test]
fn what_is_left_and_whether_it_is_older_than_the_shelf() {
    let spool = |device: &Arc<Device>, sequence| {
        device.offer(Held::from_spool(waiting(sequence, Lane::Live)), Instant::now()).unwrap();
    };
    for (name, from_shelf, shelf_is_newer, left, before_shelf) in [
        ("of the spool only", 0, false, vec![7, 8], false),
        ("of the shelf, then of the spool", 3, false, vec![7, 8], false),
        ("of the spool, then onto the shelf", 0, true, vec![7, 8], true),
    ] {
        let device = device(Phase::Idle);
        device.take_chunk(chunk(0..from_shelf, true));
        spool(&device, 7);
        spool(&device, 8);
        device.state().shelving = shelf_is_newer;
        let mut state = device.state();
        let (got, before) = device.clear(&mut state);
        let got: Vec<u64> = got.iter().map(|held| held.waiting.id.sequence).collect();
        assert_eq!((got, before), (left, before_shelf), "{name}");
        assert_eq!(state.shelving, from_shelf > 0 || shelf_is_newer, "{name}");
        assert!(state.is_drained(), "{name}");
    }
}

#[test]
fn a_shelf_that_was_read_to_its_end_lets_new_messages_pass() {
    let device = device(Phase::Connected(Instant::now()));
    device.is_on_shelf();
    assert!(device.take_chunk(chunk(0..3, false)) && device.state().shelving);
    device.state().to_shelf = 1;
    assert!(device.take_chunk(chunk(3..5, true)) && device.state().shelving, "one is on its way there");
    assert!(!device.take_chunk(chunk(0..0, true)), "it is not there yet");
    device.state().to_shelf = 0;
    assert!(device.take_chunk(chunk(5..6, true)) && !device.state().shelving);
}
