//! What a device does with a message, in each of its states.

use super::ends::Source;
use super::queue::*;
use super::shelving::{Shelving, pieces};
use super::*;
use crate::shelf::{self, Shelved};
use crate::uplink::{Lane, MessageId, Waiting};

fn waiting(sequence: u64, lane: Lane) -> Waiting {
    Waiting { id: MessageId { spool: 1, sequence }, lane, record: vec![0; 100].into() }
}

fn device(phase: Phase) -> Arc<Device> {
    Device::new("d", 1, phase, &Arc::default())
}

/// Shelves, and their folder.
fn shelves() -> (tempfile::TempDir, Shelves) {
    let dir = tempfile::tempdir().unwrap();
    let options = shelf::Options { dir: dir.path().into(), max_size: 1 << 20, max_device_size: 1 << 20 };
    (dir, Shelves::open(options).unwrap())
}

fn put(shelves: &Shelves, sequences: std::ops::Range<u64>) {
    let shelved = |sequence| Shelved { spool: 1, sequence, lane: 1, record: vec![0; 100].into() };
    shelves.append("d", &sequences.map(shelved).collect::<Vec<_>>(), 0).unwrap();
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

/// 100,000 devices are 50 MB while they rest.
#[test]
fn a_device_that_rests_costs_half_a_kilobyte() {
    let device = device(Phase::Idle);
    for sequence in 0..100 {
        device.offer(Held::from_spool(waiting(sequence, Lane::Live)), Instant::now()).unwrap();
    }
    while let Some(waiting) = device.next() {
        device.settle(waiting.id).unwrap();
    }
    let mut state = device.state();
    assert!(state.is_resting() && state.room() > 0);
    state.release();
    let heap = state.room() * size_of::<Held>();
    // Its id, and its places in the map and the list.
    let all = size_of::<Device>() + heap + 32 + 2 * size_of::<Arc<str>>() + 2 * size_of::<Arc<Device>>();
    assert!(heap == 0 && all <= 512, "{all}");
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

/// A line that makes room all the time, one place after the other, is slow all the same.
#[test]
fn a_device_is_short_of_room_until_its_queue_is_half_empty() {
    let device = device(Phase::Connected(Instant::now()));
    let offer = |sequence| device.offer(Held::from_spool(waiting(sequence, Lane::Live)), Instant::now()).is_ok();
    let settle = || device.next().is_some_and(|waiting| device.settle(waiting.id).is_some());
    let is_short = || device.is_short_for(Duration::ZERO);
    assert!((0..128).all(offer) && !is_short(), "there was room for all");
    for sequence in 128..200 {
        assert!(!offer(sequence) && is_short());
        assert!(settle() && offer(sequence) && is_short(), "room for one is no room");
    }
    assert!(!device.is_short_for(Duration::from_secs(3_600)), "not for so long");
    assert!((0..63).all(|_| settle()) && is_short());
    assert!(settle() && !is_short(), "half empty");
    assert!((200..264).all(offer) && !offer(264) && is_short());
    device.begin();
    assert!(!is_short(), "the hub was away: that is not its fault");
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

/// What a refused device leaves: messages of its shelf, or on their way there, are read from there again; those of the spool
/// go behind them.
#[test]
fn what_is_left_is_newer_than_the_shelf() {
    let spool = |device: &Arc<Device>, sequence| {
        device.offer(Held::from_spool(waiting(sequence, Lane::Live)), Instant::now()).unwrap();
    };
    for (name, from_shelf, shelf_begins, left) in [
        ("of the spool only", 0, false, vec![7, 8]),
        ("of the shelf, then of the spool", 3, false, vec![7, 8]),
        ("of the spool, then onto the shelf", 0, true, vec![]),
        ("all of that", 3, true, vec![]),
    ] {
        let device = device(Phase::Idle);
        let (_dir, shelves) = shelves();
        put(&shelves, 0..from_shelf);
        device.take_chunk(shelves.read("d", None, 64).unwrap(), &shelves);
        spool(&device, 7);
        spool(&device, 8);
        if shelf_begins {
            Shelving::default().add(&device, waiting(9, Lane::Live));
        }
        let mut state = device.state();
        let got: Vec<u64> = device.clear(&mut state).iter().map(|held| held.waiting.id.sequence).collect();
        assert_eq!(got, left, "{name}");
        assert_eq!(state.shelving, from_shelf > 0 || shelf_begins, "{name}");
        assert!(state.is_drained(), "{name}");
    }
}

#[test]
fn a_shelf_that_was_read_to_its_end_lets_new_messages_pass() {
    let device = device(Phase::Connected(Instant::now()));
    let (_dir, shelves) = shelves();
    device.is_on_shelf();
    let read = |most| shelves.read("d", device.read_to(), most).unwrap();
    put(&shelves, 0..5);
    assert!(device.take_chunk(read(3), &shelves) && device.state().shelving);
    device.state().to_shelf = 1;
    assert!(device.take_chunk(read(9), &shelves) && device.state().shelving, "one is on its way there");
    assert!(!device.take_chunk(read(9), &shelves), "it is not there yet");
    put(&shelves, 5..6);
    device.state().to_shelf = 0;
    assert!(device.take_chunk(read(9), &shelves) && !device.state().shelving);
}

/// What comes onto the shelf between the reading of it and the look at what was read.
#[test]
fn what_comes_onto_a_shelf_while_it_is_read_is_not_overtaken() {
    for (before, while_read, expect) in [(5, 0, false), (5, 2, true), (0, 2, true)] {
        let device = device(Phase::Connected(Instant::now()));
        let (_dir, shelves) = shelves();
        device.is_on_shelf();
        put(&shelves, 0..before);
        let chunk = shelves.read("d", None, 64).unwrap();
        put(&shelves, before..before + while_read);
        device.take_chunk(chunk, &shelves);
        assert_eq!(device.state().shelving, expect, "{before} {while_read}");
        if expect {
            let rest = shelves.read("d", device.read_to(), 64).unwrap();
            device.take_chunk(rest, &shelves);
        }
        let mut order = Vec::new();
        while let Some(waiting) = device.next() {
            order.push(waiting.id.sequence);
        }
        assert!(!device.state().shelving && order.iter().copied().eq(0..before + while_read), "{order:?}");
    }
}

/// What cannot be written keeps back what is newer of the same device, and nothing else.
#[test]
fn a_shelf_that_cannot_be_written_keeps_back_its_own_device_only() {
    let devices = ["a", "b"].map(|id| Device::new(id, 1, Phase::Held, &Arc::default()));
    let [a, b] = &devices;
    let names = |group: Vec<(Arc<Device>, Waiting)>| -> Vec<String> {
        group.iter().map(|(device, waiting)| format!("{}{}", device.id, waiting.id.sequence)).collect()
    };
    let mut shelving = Shelving::default();
    for (device, sequence) in [(a, 1), (b, 1), (a, 2)] {
        shelving.add(device, waiting(sequence, Lane::Live));
    }
    assert_eq!(names(shelving.group()), ["a1", "b1", "a2"]);
    shelving.add(a, waiting(3, Lane::Live));
    // Two pieces of the one device, in their order.
    shelving.again(a, vec![waiting(1, Lane::Live)]);
    shelving.again(a, vec![waiting(2, Lane::Live)]);
    shelving.add(b, waiting(2, Lane::Live));
    assert_eq!(names(shelving.group()), ["b2"]);
    shelving.add(a, waiting(4, Lane::Live));
    shelving.retry();
    assert_eq!(names(shelving.group()), ["a1", "a2", "a3", "a4"]);
    assert!(!shelving.is_full_for(Lane::Late) && shelving.group().is_empty());
    shelving.again(a, (0..4_096).map(|sequence| waiting(sequence, Lane::Live)).collect());
    // Those that wait for room do not hold up alarms of the others.
    let is_full = |shelving: &Shelving| [Lane::Late, Lane::Live, Lane::Urgent].map(|lane| shelving.is_full_for(lane));
    assert_eq!(is_full(&shelving), [true, true, false], "what is blocked counts");
    shelving.again(b, (0..4_096).map(|sequence| waiting(sequence, Lane::Urgent)).collect());
    assert_eq!(is_full(&shelving), [true; 3]);
    shelving.retry();
    assert_eq!(shelving.group().len(), 8_192);
    assert_eq!(is_full(&shelving), [false; 3]);
}

#[test]
fn who_gets_the_last_room_of_all_shelves() {
    let now = Instant::now();
    for (phase, refusals, expect) in [
        (Phase::Idle, 0, true),
        (Phase::InLine, 0, true),
        (Phase::Connected(now), 0, true),
        (Phase::Connecting, 0, true),
        (Phase::Connecting, 2, false),
        (Phase::Registering, 0, false),
        (Phase::Refused(now), 2, false),
        (Phase::Held, 0, false),
    ] {
        let device = device(phase);
        device.state().refusals = refusals;
        assert_eq!(device.state().can_send(), expect, "{phase:?} {refusals}");
    }
    let (_dir, shelves) = shelves();
    put(&shelves, 0..10);
    let taken = shelves.stats().bytes;
    let one = [Shelved { spool: 1, sequence: 10, lane: 1, record: vec![0; 100].into() }];
    assert!(matches!(shelves.append_below(taken, "e", &one, 0), Err(shelf::ShelfError::Full)));
    assert!(shelves.append_below(taken + 1, "e", &one, 0).is_ok());
}

/// One device that sends more than its line takes, its spool, its shelf, and a line.
struct Flood {
    _dir: tempfile::TempDir,
    shelves: Shelves,
    device: Arc<Device>,
    shelving: Shelving,
    /// What is not settled in the spool.
    spool: std::collections::BTreeSet<u64>,
    written: Vec<(Vec<Waiting>, Vec<shelf::Place>)>,
    delivered: Vec<u64>,
}

impl Flood {
    fn begin() -> Self {
        let (dir, shelves) = shelves();
        let device = device(Phase::Connected(Instant::now()));
        let (spool, written, delivered) = Default::default();
        Self { _dir: dir, shelves, device, shelving: Shelving::default(), spool, written, delivered }
    }

    /// The dispatcher reads so many messages.
    fn comes(&mut self, sequences: std::ops::Range<u64>) {
        for sequence in sequences {
            let message = waiting(sequence, Lane::Live);
            self.spool.insert(sequence);
            if self.device.offer(Held::from_spool(message.clone()), Instant::now()).is_err() {
                self.shelving.add(&self.device, message);
            }
        }
    }

    /// What has gathered is durable on the shelf.
    fn write(&mut self) {
        for (_, messages) in pieces(self.shelving.group()) {
            let shelved: Vec<_> = messages.iter().map(shelved).collect();
            let places = self.shelves.append("d", &shelved, 0).unwrap();
            self.written.push((messages, places));
        }
    }

    /// The dispatcher hears of it.
    fn put_away(&mut self) {
        for (messages, places) in std::mem::take(&mut self.written) {
            let came = self.device.came_to_shelf(&messages, &places);
            came.settled.into_iter().for_each(|place| assert!(self.shelves.settle("d", place)));
            came.to_leave.iter().for_each(|id| assert!(self.spool.remove(&id.sequence), "{id:?}"));
        }
    }

    /// The line delivers so many messages, as far as there are any.
    fn deliver(&mut self, most: usize) {
        for _ in 0..most {
            if self.device.wants_more() {
                let chunk = self.shelves.read("d", self.device.read_to(), 64).unwrap();
                self.device.take_chunk(chunk, &self.shelves);
            }
            let Some(message) = self.device.next() else { return };
            self.delivered.push(message.id.sequence);
            match self.device.settle(message.id).unwrap().home {
                Home::Shelf(_, place) => assert!(self.shelves.settle("d", place)),
                Home::Spool | Home::OnItsWay => assert!(self.spool.remove(&message.id.sequence)),
            }
        }
    }

    /// The program ends here, and comes again: it reads the spool, and the shelf.
    fn restart(&mut self) {
        self.device = device(Phase::Connected(Instant::now()));
        if !self.shelves.devices().is_empty() {
            self.device.is_on_shelf();
        }
        (self.shelving, self.written) = (Shelving::default(), Vec::new());
        for sequence in std::mem::take(&mut self.spool) {
            self.comes(sequence..sequence + 1);
            self.write();
            self.put_away();
        }
    }
}

/// 200 messages come, 128 of them are in memory when the shelf begins; then the program ends, or goes on.
#[test]
fn the_order_holds_wherever_a_flood_is_cut() {
    type Step = fn(&mut Flood);
    let steps: [(&str, Step); 8] = [
        ("128 in memory", |flood| flood.comes(0..128)),
        ("some are delivered", |flood| flood.deliver(20)),
        ("the shelf begins", |flood| flood.comes(128..200)),
        ("some are delivered before it is written", |flood| flood.deliver(20)),
        ("it is written", Flood::write),
        ("some are delivered before the spool hears of it", |flood| flood.deliver(20)),
        ("the spool hears of it", Flood::put_away),
        ("some are delivered", |flood| flood.deliver(30)),
    ];
    for cut in 0..=steps.len() {
        let mut flood = Flood::begin();
        for (_, step) in steps.iter().take(cut) {
            step(&mut flood);
        }
        let came = flood.spool.iter().copied().chain(flood.delivered.iter().copied()).max().map_or(0, |last| last + 1);
        let came = came.max(if cut > 2 { 200 } else { 0 });
        if cut < steps.len() {
            flood.restart();
        }
        flood.deliver(1_000);
        let name = cut.checked_sub(1).map_or("nothing yet", |at| steps[at].0);
        // The first arrivals: a restart may repeat.
        let mut seen = HashSet::new();
        let first: Vec<u64> = flood.delivered.iter().copied().filter(|sequence| seen.insert(*sequence)).collect();
        assert!(first.iter().copied().eq(0..came), "cut where {name}: {first:?}");
        let repeats = flood.delivered.len() - first.len();
        assert!(repeats == 0 || cut == 5 || cut == 6, "cut where {name}: {repeats} repeats");
        assert!(flood.spool.is_empty() && flood.shelves.devices().is_empty(), "cut where {name}");
        assert!(!flood.device.state().shelving && flood.device.state().is_resting(), "cut where {name}");
    }
}

/// What an operator takes off a shelf is on its way to the hub, or not: also while the queue does not know yet that it is
/// on the shelf.
#[test]
fn what_comes_to_a_shelf_is_taken_back_or_stays() {
    for hears in [false, true] {
        let mut flood = Flood::begin();
        flood.comes(0..130);
        let given: Vec<_> = (0..3).map(|_| flood.device.next().unwrap().id.sequence).collect();
        assert_eq!(given, [0, 1, 2]);
        flood.write();
        if hears {
            flood.put_away();
        }
        let placed = |sequence: u64| {
            let all = flood.shelves.read("d", None, 200).unwrap().messages;
            all.into_iter().find(|placed| placed.shelved.sequence == sequence).unwrap()
        };
        for (shelf, sequence, expect) in [
            ("d", 0, Kept::Given),
            ("d", 2, Kept::Given),
            ("e", 2, Kept::OnShelf),
            ("e", 3, Kept::OnShelf),
            ("d", 3, Kept::Queued),
            ("d", 3, Kept::OnShelf),
            ("d", 127, Kept::Queued),
            ("d", 128, Kept::OnShelf),
        ] {
            let placed = placed(sequence);
            assert_eq!(flood.device.take_back(shelf, &placed), expect, "{shelf} {sequence}, {hears}");
        }
        for sequence in [3, 127, 128] {
            assert!(flood.shelves.settle("d", placed(sequence).place));
        }
        flood.put_away();
        flood.device.end();
        flood.deliver(1_000);
        assert!(flood.delivered.iter().copied().eq((0..130).filter(|sequence| ![3, 127, 128].contains(sequence))));
        assert!(flood.spool.is_empty() && flood.shelves.devices().is_empty() && flood.device.state().is_resting());
    }
}

#[test]
fn pieces_are_small_and_in_order() {
    let device = device(Phase::Held);
    for (length, messages, expect) in [(100, 10, 1), (100_000, 7, 4), (300_000, 3, 3), (0, 0, 0)] {
        let group = (0..messages).map(|sequence| {
            let record = vec![0; length].into();
            (Arc::clone(&device), Waiting { record, ..waiting(sequence, Lane::Live) })
        });
        let pieces = pieces(group.collect());
        assert_eq!(pieces.len(), expect, "{length}");
        let order = pieces.iter().flat_map(|(_, messages)| messages.iter().map(|waiting| waiting.id.sequence));
        assert!(order.eq(0..messages), "{length}");
    }
}

#[test]
fn what_the_spool_gave_up_while_it_came_to_a_shelf_is_counted() {
    struct Spool(u64);
    impl crate::uplink::Outcome for Spool {
        fn delivered(&self, id: MessageId) -> bool {
            id.sequence >= self.0
        }

        fn abandon(&self, _: MessageId, _: &'static str) {
            unreachable!("it is on the shelf");
        }

        async fn isolate(&self, _: &Waiting, _: &crate::uplink::Isolation) {
            unreachable!("it is on the shelf");
        }
    }
    for (given_up, expect) in [(0, 0), (3, 3), (9, 5)] {
        let messages: Vec<_> = (0..5).map(|sequence| waiting(sequence, Lane::Live).id).collect();
        assert_eq!(dispatch::leave_spool(&Spool(given_up), &messages), expect);
    }
}
