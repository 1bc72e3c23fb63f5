//! Shelves against a model, with a crash at any byte, damage, and full disks.

use std::collections::VecDeque;
use std::fs;

use proptest::prelude::*;

use super::file::Persist;
use super::*;

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), max_size: 1 << 20, max_device_size: 1 << 20 }
}

fn message(sequence: u64, length: usize) -> Shelved {
    Shelved { spool: 7, sequence, lane: 1, record: vec![b'x'; length].into() }
}

fn all(shelves: &Shelves, device: &str) -> Vec<Placed> {
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let chunk = shelves.read(device, from, 3).unwrap();
        found.extend(chunk.messages);
        if shelves.is_read(device, chunk.next) {
            return found;
        }
        from = chunk.next;
    }
}

fn sequences(found: &[Placed]) -> Vec<u64> {
    found.iter().map(|placed| placed.shelved.sequence).collect()
}

fn balanced(stats: &Stats) -> bool {
    let appended: u64 = stats.appended.values().sum();
    appended + stats.recovered == stats.settled + stats.shed + stats.expired + stats.lost + stats.waiting
}

fn only_file(dir: &Path) -> PathBuf {
    fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn a_shelf_is_a_queue_on_disk_and_goes_when_it_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let shelves = Shelves::open(options(dir.path())).unwrap();
    shelves.append("press-4", &[message(1, 10), message(2, 0), message(3, 200_000)], 5).unwrap();
    shelves.append("press-4", &[message(9, 10)], 6).unwrap();
    let found = all(&shelves, "press-4");
    assert_eq!(sequences(&found), [1, 2, 3, 9]);
    assert_eq!(found[2].shelved, message(3, 200_000));
    // Out of order, as PUBACKs may come.
    assert!(shelves.settle("press-4", found[1].place));
    assert!(!shelves.settle("press-4", found[1].place), "once only");
    assert_eq!(sequences(&all(&shelves, "press-4")), [1, 3, 9], "what is settled is not given again");
    for placed in &found {
        shelves.settle("press-4", placed.place);
    }
    assert_eq!(shelves.share("press-4"), None);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "who settles waits for no file");
    assert!(shelves.is_to_persist());
    shelves.persist();
    assert!(!shelves.is_to_persist());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(balanced(&shelves.stats()));
    assert_eq!(shelves.stats().appended, BTreeMap::from([(7, 4)]));
}

#[test]
fn a_restart_goes_on_where_the_cursor_was() {
    let dir = tempfile::tempdir().unwrap();
    for (persisted, expect) in [(true, vec![3, 4]), (false, vec![1, 2, 3, 4])] {
        let _ = fs::remove_dir_all(dir.path());
        let shelves = Shelves::open(options(dir.path())).unwrap();
        shelves.append("a b/ü", &[message(1, 10), message(2, 10), message(3, 10), message(4, 1)], 5).unwrap();
        for placed in all(&shelves, "a b/ü").iter().take(2) {
            shelves.settle("a b/ü", placed.place);
        }
        if persisted {
            shelves.persist();
        }
        drop(shelves);
        let shelves = Shelves::open(options(dir.path())).unwrap();
        assert_eq!(shelves.devices(), ["a b/ü"]);
        assert_eq!(sequences(&all(&shelves, "a b/ü")), expect);
        assert_eq!(shelves.stats().recovered, expect.len() as u64);
        assert_eq!(shelves.share("a b/ü").unwrap().oldest, 5);
    }
}

#[test]
fn bounds_hold_and_the_oldest_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Options { max_size: 3_000, max_device_size: 2_000, ..options(dir.path()) };
    let shelves = Shelves::open(bounds).unwrap();
    shelves.append("a", &[message(1, 900), message(2, 900)], 1).unwrap();
    assert!(matches!(shelves.append("a", &[message(3, 900)], 2), Err(ShelfError::Full)), "of the device");
    shelves.append("b", &[message(1, 900)], 1).unwrap();
    assert!(matches!(shelves.append("c", &[message(1, 900)], 1), Err(ShelfError::Full)), "of all");
    shelves.make_room("a", 937, &[]).unwrap();
    shelves.append("a", &[message(3, 900)], 2).unwrap();
    assert_eq!(sequences(&all(&shelves, "a")), [2, 3]);
    assert_eq!(shelves.expire("a", 2).unwrap(), 1);
    assert_eq!(sequences(&all(&shelves, "a")), [3]);
    let stats = shelves.stats();
    assert_eq!((stats.shed, stats.expired, stats.waiting, stats.shelves), (1, 1, 2, 2));
    assert!(balanced(&stats));
}

/// A shelf that was given up while messages of it were on their way, and a new one of the same device: the
/// acknowledgements of the old ones say nothing about the new ones in the same places.
#[test]
fn what_was_on_an_earlier_shelf_says_nothing_about_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let shelves = Shelves::open(options(dir.path())).unwrap();
    type Settle = fn(&Shelves, Place) -> bool;
    let settle: [Settle; 2] = [|all, place| all.settle("d", place), |all, place| all.expire_one("d", place)];
    for settle in settle {
        shelves.append("d", &[message(1, 10), message(2, 10)], 5).unwrap();
        let old = all(&shelves, "d");
        let mark = shelves.read("d", None, 1).unwrap().next;
        shelves.give_up_oldest("d", u64::MAX).unwrap();
        shelves.append("d", &[message(3, 10), message(4, 10)], 6).unwrap();
        for placed in &old {
            assert!(!settle(&shelves, placed.place));
        }
        assert_eq!(sequences(&all(&shelves, "d")), [3, 4]);
        assert_eq!(sequences(&shelves.read("d", mark, 9).unwrap().messages), [3, 4], "a place of the old one");
        shelves.give_up_oldest("d", u64::MAX).unwrap();
        assert!(balanced(&shelves.stats()));
    }
}

/// What a start would find if the program were killed now.
fn after_a_kill(dir: &Path) -> Vec<u64> {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let shelves = Shelves::open(options(copy.path())).unwrap();
    sequences(&all(&shelves, "d"))
}

/// A shelf ends, and the next takes its name, while cursors and unlinks of the old one are under way: at each step the
/// program may be killed.
#[test]
fn the_name_of_a_shelf_changes_hands_between_any_two_steps() {
    type Step = fn(&Shelves, &mut Late);
    /// What is under way.
    #[derive(Default)]
    struct Late {
        placed: Vec<Placed>,
        cursors: Vec<Persist>,
        empty: Vec<PathBuf>,
    }
    let settle: Step = |shelves, late| assert!(shelves.settle("d", late.placed.remove(0).place));
    let collect: Step = |shelves, late| {
        late.cursors = shelves.moved();
        late.empty = shelves.index.lock().empty.iter().cloned().collect();
    };
    let write: Step = |shelves, late| shelves.write_cursors(&late.cursors);
    let unlink: Step = |shelves, late| late.empty.iter().for_each(|path| shelves.unlink(path));
    let append: Step = |shelves, _| _ = shelves.append("d", &[message(3, 10), message(4, 10)], 6).unwrap();
    let (old, rest, new) = (vec![1, 2], vec![2], vec![3, 4]);
    for (name, steps) in [
        ("in time", vec![(settle, &old), (collect, &old), (write, &rest), (settle, &rest), (collect, &rest)]),
        (
            "late cursors",
            vec![(settle, &old), (collect, &old), (settle, &old), (write, &old), (append, &new), (write, &new)],
        ),
        ("late unlinks", vec![(settle, &old), (settle, &old), (collect, &old), (append, &new), (unlink, &new)]),
        ("unlinked first", vec![(settle, &old), (settle, &old), (collect, &old), (unlink, &vec![]), (append, &new)]),
        (
            "both late",
            vec![(settle, &old), (collect, &old), (settle, &old), (append, &new), (write, &new), (unlink, &new)],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let shelves = Shelves::open(options(dir.path())).unwrap();
        shelves.append("d", &[message(1, 10), message(2, 10)], 5).unwrap();
        let mut late = Late { placed: all(&shelves, "d"), ..Late::default() };
        for (number, (step, expect)) in steps.into_iter().enumerate() {
            step(&shelves, &mut late);
            assert_eq!(&after_a_kill(dir.path()), expect, "{name}: step {number}");
        }
        shelves.persist();
        let expect = sequences(&all(&shelves, "d"));
        assert_eq!(after_a_kill(dir.path()), expect, "{name}");
        assert!(balanced(&shelves.stats()));
    }
    // The file was made, and that is all.
    let dir = tempfile::tempdir().unwrap();
    let shelves = Shelves::open(options(dir.path())).unwrap();
    shelves.append("d", &[message(1, 10)], 5).unwrap();
    fs::write(only_file(dir.path()), "").unwrap();
    assert!(after_a_kill(dir.path()).is_empty());
}

/// Shelves come and go while another thread writes cursors and unlinks: what was appended and not settled is there.
#[test]
fn shelves_come_and_go_while_cursors_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let shelves = Shelves::open(options(dir.path())).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        // Ends with the rounds, also where one fails.
        let _stop = stop;
        let shelves = &shelves;
        scope.spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                shelves.persist();
                std::thread::yield_now();
            }
        });
        let mut expect = Vec::new();
        for round in 0..60 {
            shelves.append("d", &[message(2 * round, 10), message(2 * round + 1, 10)], 5).unwrap();
            expect.extend([2 * round, 2 * round + 1]);
            let placed = all(shelves, "d");
            assert_eq!(sequences(&placed), expect);
            for placed in placed.iter().take(1 + (round as usize) % 4) {
                assert!(shelves.settle("d", placed.place));
                expect.remove(0);
            }
            if !expect.is_empty() {
                // Copied while it is written: a cursor may be torn, and is then the one before.
                assert!(after_a_kill(dir.path()).ends_with(&expect), "{round}");
            }
        }
    });
    let expect = sequences(&all(&shelves, "d"));
    shelves.persist();
    assert_eq!(after_a_kill(dir.path()), expect);
    assert!(balanced(&shelves.stats()));
}

/// Where all shelves together are full, the longest makes room also for a device that has nothing on its own.
#[test]
fn the_longest_shelf_makes_room_for_the_others() {
    for (others, give_up, expect) in [
        (vec!["a", "b"], 1, vec![2, 3]),
        (vec!["b"], 1, vec![1, 2, 3]),
        (vec!["c", "nobody"], 0, vec![1, 2, 3]),
        (vec![], 0, vec![1, 2, 3]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let shelves = Shelves::open(Options { max_size: 4_000, ..options(dir.path()) }).unwrap();
        shelves.append("a", &[message(1, 900), message(2, 900), message(3, 900)], 1).unwrap();
        shelves.append("b", &[message(1, 900)], 1).unwrap();
        assert!(matches!(shelves.append("c", &[message(1, 900)], 2), Err(ShelfError::Full)));
        let others: Vec<_> = others.into_iter().map(Arc::from).collect();
        assert_eq!(shelves.make_room("c", 937, &others).unwrap(), give_up, "{others:?}");
        assert_eq!(shelves.append("c", &[message(1, 900)], 2).is_ok(), give_up > 0, "{others:?}");
        assert_eq!(sequences(&all(&shelves, "a")), expect, "{others:?}");
        assert!(balanced(&shelves.stats()) && shelves.stats().shed == give_up);
    }
}

#[test]
fn damage_costs_the_record_it_hits() {
    let dir = tempfile::tempdir().unwrap();
    let write = || {
        let _ = fs::remove_dir_all(dir.path());
        let shelves = Shelves::open(options(dir.path())).unwrap();
        shelves.append("d", &[message(1, 100), message(2, 100), message(3, 100)], 5).unwrap();
        all(&shelves, "d")[1].place.at
    };
    let second = usize::try_from(write()).unwrap();
    // A flipped bit in length, checksum, body; found at a start, and under a running program.
    for at in [second + 1, second + 5, second + 9, second + 50] {
        for running in [false, true] {
            write();
            let open = running.then(|| Shelves::open(options(dir.path())).unwrap());
            let path = only_file(dir.path());
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            let shelves = open.unwrap_or_else(|| Shelves::open(options(dir.path())).unwrap());
            assert_eq!(sequences(&all(&shelves, "d")), [1, 3], "{at} {running}");
            assert_eq!(shelves.stats().lost, 1, "{at} {running}");
            assert!(balanced(&shelves.stats()), "{:?}", shelves.stats());
        }
    }
    write();
    let path = only_file(dir.path());
    fs::write(&path, b"bbshelf\x01 of nobody").unwrap();
    assert_eq!(Shelves::open(options(dir.path())).unwrap().devices(), Vec::<String>::new());
    assert!(path.with_extension("damaged").exists(), "it is kept for somebody to look at");
}

#[test]
fn a_message_that_looks_like_a_record_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let shelves = Shelves::open(options(dir.path())).unwrap();
    let mut inner = Vec::new();
    format::push(&mut inner, (0, 0), &message(66, 10), 0);
    let shelved = Shelved { record: inner.into(), ..message(1, 0) };
    shelves.append("d", &[shelved, message(2, 10)], 5).unwrap();
    let second = all(&shelves, "d")[1].place.at;
    let path = only_file(dir.path());
    let bytes = fs::read(&path).unwrap();
    // The first is torn in the middle of its message.
    fs::write(&path, &bytes[..usize::try_from(second).unwrap() - 2]).unwrap();
    assert!(all(&Shelves::open(options(dir.path())).unwrap(), "d").is_empty());
}

#[test]
fn what_the_disk_did_not_take_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let shelves = Shelves::open(options(dir.path())).unwrap();
    shelves.append("d", &[message(1, 10)], 5).unwrap();
    // A folder in the place of the file: it cannot be written, whoever runs this.
    let path = only_file(dir.path());
    let aside = dir.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(shelves.append("d", &[message(2, 10)], 5), Err(ShelfError::Disk(_))));
    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    shelves.append("d", &[message(3, 10)], 5).unwrap();
    assert_eq!(sequences(&all(&shelves, "d")), [1, 3]);
    assert!(balanced(&shelves.stats()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Appends, settles in any order, persists, restarts, and crashes in the middle of an append. What was appended
    /// and not settled is there, in order; what was settled comes again only after a crash.
    #[test]
    fn as_a_queue_under_crashes(steps in prop::collection::vec((0..6u8, 0..5usize, 0..300usize), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut shelves = Shelves::open(options(dir.path())).unwrap();
        let (mut model, mut next, mut taken) = (VecDeque::new(), 0, Vec::<Placed>::new());
        for (step, n, length) in steps {
            match step {
                0 | 1 => {
                    let batch: Vec<_> = (0..=n as u64).map(|i| message(next + i, length)).collect();
                    next += batch.len() as u64;
                    shelves.append("d", &batch, 0).unwrap();
                    model.extend(batch.iter().map(|shelved| shelved.sequence));
                }
                2 | 3 => {
                    taken = all(&shelves, "d");
                    prop_assert_eq!(sequences(&taken), model.iter().copied().collect::<Vec<_>>());
                    if let Some(placed) = taken.get(n) {
                        prop_assert!(shelves.settle("d", placed.place));
                        model.remove(n);
                    }
                }
                4 => shelves.persist(),
                _ => {
                    // A crash in the middle of the next append: so many of its bytes came to disk.
                    let whole = shelves.share("d").is_some();
                    drop(shelves);
                    if whole {
                        let path = only_file(dir.path());
                        let mut bytes = fs::read(&path).unwrap();
                        let (_, salt, _) = format::read_header(&bytes).unwrap();
                        let mut torn = Vec::new();
                        format::push(&mut torn, (salt, bytes.len() as u64), &message(next, 50), 0);
                        bytes.extend(&torn[..length.min(torn.len() - 1)]);
                        fs::write(&path, bytes).unwrap();
                    }
                    shelves = Shelves::open(options(dir.path())).unwrap();
                    let found = sequences(&all(&shelves, "d"));
                    // Nothing is missing, and what is more was there before, in its place.
                    prop_assert!(model.iter().all(|sequence| found.contains(sequence)));
                    prop_assert!(found.is_sorted() && found.iter().all(|sequence| *sequence < next));
                    model = found.into();
                }
            }
            prop_assert!(balanced(&shelves.stats()), "{:?}", shelves.stats());
        }
        drop(taken);
    }

    /// Any bytes behind a header: no panic, and the messages before them are there.
    #[test]
    fn any_tail_is_survived(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        Shelves::open(options(dir.path())).unwrap().append("d", &[message(1, 10)], 5).unwrap();
        let path = only_file(dir.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(tail);
        fs::write(&path, bytes).unwrap();
        let shelves = Shelves::open(options(dir.path())).unwrap();
        prop_assert_eq!(sequences(&all(&shelves, "d")), [1]);
    }
}
