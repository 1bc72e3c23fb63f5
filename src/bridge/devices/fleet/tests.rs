//! What is noted at each change, against a walk over all devices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::queue::{Device, Held, Phase as Doing, State};
use super::*;
use crate::uplink::{Lane, MessageId, Waiting};

/// What happens to a device: which, what, and how.
type Step = (usize, u8, u32);

struct World {
    fleet: Arc<Fleet>,
    /// The bridge's own line first.
    devices: Vec<Arc<Device>>,
    began: Instant,
    messages: u64,
}

impl World {
    fn new() -> Self {
        let fleet = Arc::<Fleet>::default();
        let device = |number: u32| {
            let id = if number == 0 { String::new() } else { format!("d-{number}") };
            Device::new(&id, number, if number == 4 { Doing::Held } else { Doing::Idle }, &fleet)
        };
        Self { devices: (0..5).map(device).collect(), fleet, began: Instant::now(), messages: 0 }
    }

    fn later(&self, seconds: u32) -> Instant {
        self.began + Duration::from_secs(seconds.into())
    }

    fn go(&mut self, (which, what, how): Step) {
        let device = Arc::clone(&self.devices[which]);
        let flag = how % 2 == 1;
        match what {
            0 => device.state().phase = Doing::Idle,
            1 => drop(device.begin()),
            2 => {
                drop(device.begin());
                device.state().phase = Doing::Connected(self.later(how * 6));
            }
            3 => device.state().phase = Doing::Refused(self.later(how * 6)),
            4 => device.state().phase = if flag { Doing::Held } else { Doing::Denied },
            5 => device.state().phase = if flag { Doing::InLine } else { Doing::Registering },
            6 | 7 => {
                let id = MessageId { spool: 1, sequence: self.messages };
                self.messages += 1;
                device.take_left(Held::from_spool(Waiting { id, lane: Lane::Live, record: vec![0; 10].into() }));
            }
            8 => _ = device.next(),
            9 => {
                device.next().into_iter().for_each(|waiting| _ = device.settle(waiting.id));
            }
            10 => device.state().shelving = flag,
            11 => device.state().errand = flag,
            12 => device.state().sweeping = flag,
            13 => device.state().is_its_own = flag,
            14 => device.state().is_removed = flag,
            15 => device.state().trouble = flag.then(|| "no".to_owned()),
            16 => _ = device.ask_to_leave(),
            17 => device.end(),
            18 => device.state().is_kept = flag,
            _ => self.make_places(how as usize),
        }
    }

    /// Those idle longest are asked to leave, and those that had their turn.
    fn make_places(&self, most: usize) {
        let now = self.later(20);
        let may_leave = |device: &Arc<Device>| device.state().may_leave(now);
        let others = || self.devices.iter().skip(1);
        let mut expect: Vec<_> = others().filter_map(|device| Some((may_leave(device)?, &device.id))).collect();
        expect.sort_by_key(|(since, _)| *since);
        expect.truncate(most);
        let asked = self.fleet.ask_to_leave(most, now, |number| self.devices.get(number as usize).cloned());
        assert_eq!(asked, expect.len());
        for (_, id) in expect {
            assert!(others().find(|device| device.id == *id).is_some_and(|device| may_leave(device).is_none()), "{id}");
        }
    }

    /// What a walk over all devices finds is what was noted.
    fn check(&self) {
        let mut expect = Summary::default();
        let (mut can_send, mut idle, mut refused, mut on_shelf) = (false, 0, false, Vec::new());
        for (number, device) in (0..).zip(&self.devices) {
            let state = device.state();
            can_send |= !state.is_resting() && !state.phase.is_parked() && state.trouble.is_none();
            idle += usize::from(matches!(state.phase, Doing::Connected(_)) && state.is_drained());
            refused |= matches!(state.phase, Doing::Refused(_)) && state.is_its_own;
            on_shelf.extend(state.shelving.then_some(number));
            if number == 0 {
                continue;
            }
            let phase = Phase::from(state.phase);
            let count = Phase::ALL.iter().position(|known| *known == phase).unwrap();
            expect.phases[count] += 1;
            match phase {
                Phase::Refused | Phase::Held => expect.stuck += u64::from(!state.is_resting()),
                Phase::Denied => {}
                _ => expect.able += 1,
            }
        }
        let fleet = &self.fleet;
        assert_eq!(fleet.summary(), expect);
        assert_eq!((fleet.can_send(), fleet.idle(), fleet.some_are_refused()), (can_send, idle, refused));
        assert_eq!(fleet.on_shelf(), on_shelf);
        for (now, lets_in) in [(0, false), (7, false), (20, false), (0, true), (20, true)] {
            let now = self.later(now);
            let is_due = |device: &Arc<Device>| is_due(&device.state(), now, lets_in);
            let expect: Vec<_> =
                (0..).zip(&self.devices).filter(|(_, device)| is_due(device)).map(|(n, _)| n).collect();
            let mut due = fleet.agenda().due(now, lets_in, 10);
            due.sort_unstable();
            due.dedup();
            assert_eq!(due, expect, "{:?} {lets_in}", now - self.began);
        }
    }
}

/// A look at the device would do something.
fn is_due(state: &State, now: Instant, lets_in: bool) -> bool {
    let waits = state.shelving || !state.is_drained() || state.errand;
    let does = match state.phase {
        Doing::Denied => state.shelving,
        Doing::Held => state.shelving && lets_in && state.is_removed,
        Doing::Refused(_) if state.shelving && lets_in && state.is_its_own => true,
        Doing::Refused(again) => now >= again && waits,
        Doing::Idle => waits,
        _ => false,
    };
    does && !state.sweeping
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_noted_is_what_a_walk_finds(steps in prop::collection::vec((0..5_usize, 0..21_u8, 0..4_u32), 1..60)) {
        let mut world = World::new();
        world.check();
        for step in steps {
            world.go(step);
            world.check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Devices come, send, rest and are asked to leave; all of them have a connection for most of the time.
    #[test]
    fn who_has_rested_longest_leaves_first(
        steps in prop::collection::vec((1..5_usize, prop::sample::select(vec![2, 6, 9, 9, 9, 18]), 0..3_u32), 20..80),
    ) {
        let mut world = World::new();
        (1..5).for_each(|which| world.go((which, 2, 0)));
        steps.into_iter().for_each(|step| world.go(step));
    }
}

/// 20,000 devices are refused, and tried again as their pauses end: those whose time it is, the longest first.
#[test]
fn who_is_due_comes_in_the_order_of_time() {
    let (fleet, began) = (Arc::<Fleet>::default(), Instant::now());
    let later = |seconds: u32| began + Duration::from_secs(seconds.into());
    let all: Vec<_> = (0..20_000)
        .map(|number| {
            let device = Device::new("d", number, Doing::Idle, &fleet);
            device.state().phase = Doing::Refused(later(20_000 - number));
            device.state().shelving = true;
            device
        })
        .collect();
    for (seconds, lets_in, most, expect) in [
        (0, false, 10, vec![]),
        (1, false, 10, vec![19_999]),
        (5, false, 3, vec![19_999, 19_998, 19_997]),
        (2, true, 4, vec![19_999, 19_998, 0, 1]),
    ] {
        assert_eq!(fleet.agenda().due(later(seconds), lets_in, most), expect, "{seconds} {lets_in}");
    }
    all[19_999].state().phase = Doing::Idle;
    assert_eq!(fleet.agenda().due(later(2), false, 10), [19_999, 19_998]);
}
