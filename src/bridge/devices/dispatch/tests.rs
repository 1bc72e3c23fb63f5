//! The order of a device's messages where they change their way.

use std::collections::HashSet;

use futures_util::FutureExt as _;
use rumqttc::tokio_rustls::rustls::RootCertStore;

use super::super::queue::LOOKS;
use super::super::{Devices, Keep, Options, Plan, Renewed, line, open, queue};
use super::*;
use crate::bridge::holding::Holding;
use crate::bridge::lanes;
use crate::hub::accounts::{Accounts, Answer, Described, NoAccount};
use crate::hub::connection_string::ConnectionString;
use crate::message::{Content, RecordWriter, Timestamp};
use crate::metrics::Metrics;
use crate::outbound;
use crate::shelf::{self, Shelves};
use crate::uplink::{self, Expiry, HubRate, HubTarget, Target, Transport, WindowSize, tls};
use crate::{quarantine, spool};

/// Nobody connects here. Certificates in files, and when they end; and for whom the service is to be asked anew.
#[derive(Default)]
struct NoAccounts(Vec<(&'static str, i64)>, parking_lot::Mutex<Vec<String>>);

impl Accounts for NoAccounts {
    fn of<'a>(&'a self, _: &'a str) -> Answer<'a> {
        Box::pin(std::future::pending())
    }

    fn is_at_hand(&self, _: &str) -> bool {
        true
    }

    fn describe(&self, _: &str) -> Described {
        Described::default()
    }

    fn each_end(&self, with: &mut dyn FnMut(&str, i64)) {
        self.0.iter().for_each(|(device, ends)| with(device, *ends));
    }

    fn end_of(&self, device: &str) -> Option<i64> {
        self.0.iter().find(|(known, _)| *known == device).map(|(_, ends)| *ends)
    }

    fn accepted(&self, _: &str) {}

    fn refused(&self, _: &str) {}

    fn unreachable(&self, _: &str) {}

    fn is_gone<'a>(&'a self, _: &'a str) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(std::future::ready(false))
    }

    fn ask_anew(&self, device: &str) {
        self.1.lock().push(device.to_owned());
    }
}

pub(in super::super) fn plan(when_refused: WhenRefused) -> Plan {
    let trust = tls::Trust::new(RootCertStore::empty()).unwrap();
    let text = "HostName=h.example;DeviceId=gw;SharedAccessKey=c2VjcmV0";
    let own = HubTarget {
        connection: ConnectionString::parse(text).unwrap(),
        tls: trust.client(),
        way: outbound::Way::default(),
        transport: Transport::MQTT,
        model_id: None,
        certificate_expiry: None,
        token_lifetime: Duration::from_secs(3_600),
        gateway: false,
    };
    Plan {
        own,
        trust: Arc::new(trust),
        accounts: Arc::<NoAccounts>::default(),
        one_address: false,
        gateway: None,
        allow: Vec::new(),
        table: HashSet::from(["d".to_owned()]),
        when_refused,
        keep_own: Arc::default(),
        keep: Keep::default(),
        idle_timeout: Duration::from_secs(60),
        max_connections: 0,
        connect_rate: 1,
        shelf_max_age: None,
        refuse_above: None,
    }
}

fn options(dir: &std::path::Path, plan: Plan) -> Options {
    let uplink = uplink::Options {
        target: Target::Hub(plan.own.clone()),
        window: WindowSize::Auto,
        hub_rate: HubRate::default(),
        live_first: false,
        mark_late: false,
        max_age: None,
        renew: Arc::default(),
        relays: None,
        keep_alive: Duration::from_secs(60),
        // No device is tried again while a test runs.
        backoff: (Duration::from_secs(3_600), Duration::from_secs(3_600)),
        ack_timeout: Duration::from_secs(60),
        suspect_after: 0,
        down: None,
        subscribed: None,
        crowd: None,
    };
    let shelves = shelf::Options { dir: dir.join("shelf"), max_size: 1 << 20, max_device_size: 1 << 20 };
    Options {
        identity: Arc::new(uplink.target.clone()),
        uplink,
        plan,
        shelves: Arc::new(Shelves::open(shelves).unwrap()),
        state: dir.to_owned(),
    }
}

/// Devices of such a plan, and what they stand on.
pub(in super::super) struct Parts {
    pub(in super::super) devices: Devices,
    _below: Box<dyn std::any::Any>,
}

impl Parts {
    pub(in super::super) fn open(plan: Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open_spool = |name: &str| spool::open(spool::Options::new(dir.path().join(name), 16 << 20)).unwrap();
        let (quarantine, writer) = quarantine::open(&dir.path().join("quarantine"), 1 << 20).unwrap();
        let metrics = Metrics::register();
        let spools = ["spool", "urgent"].map(open_spool);
        let (_, (_, outcome), spools) = lanes::join(spools, Holding::over(open_spool("held")), (&quarantine, &metrics));
        let devices = open(options(dir.path(), plan), outcome, metrics).unwrap();
        Self { devices, _below: Box::new((quarantine, writer, spools, dir)) }
    }
}

fn held(sequence: u64) -> Held {
    let id = MessageId { spool: 1, sequence };
    Held::from_spool(Waiting { id, lane: Lane::Live, record: vec![0; 100].into() })
}

/// The same, as the spool gives it: the device is named in it.
fn named(sequence: u64) -> Waiting {
    let mut record = Vec::new();
    let writer = RecordWriter::begin(&mut record, Timestamp(0), Content::None, |out| out.extend_from_slice(b"d"));
    writer.finish(|_| ()).unwrap();
    Waiting { record: record.into(), ..held(sequence).waiting }
}

/// Devices that deliver nothing, and what they need.
fn rest(plan: Plan) -> (Arc<Shared>, impl Sized) {
    let parts = Parts::open(plan);
    (Arc::clone(&parts.devices.0), parts)
}

/// Five messages of a device wait in its queue, a sixth comes; where they go, in order.
#[tokio::test]
async fn a_refused_device_keeps_its_order_whichever_way_it_goes() {
    let own_line = ["own 1", "own 2", "own 3", "own 4", "own 5", "own 6"].join(", ");
    let shelf_of_own = own_line.replace("own", "shelf of own");
    let shelf_of_device = own_line.replace("own", "shelf of d");
    // 1 and 2 are there already.
    let behind_its_shelf = "shelf of d 3, shelf of d 4, shelf of d 5, shelf of d 6";
    for (name, policy, own_is_shelving, expect) in [
        ("nobody is let in at first", WhenRefused::Gateway, false, own_line.as_str()),
        ("nobody is let in at first", WhenRefused::Gateway, true, &shelf_of_own),
        ("nobody is let in at first", WhenRefused::Quarantine, false, "6 quarantined"),
        ("nobody is let in at first", WhenRefused::Wait, false, &shelf_of_device),
        ("refused between two looks", WhenRefused::Gateway, false, &own_line),
        ("refused between two looks", WhenRefused::Gateway, true, &shelf_of_own),
        ("refused between two looks", WhenRefused::Wait, false, &shelf_of_device),
        ("removed between two looks", WhenRefused::Gateway, false, "own 1, own 2, own 3, own 4, own 5, shelf of d 6"),
        ("removed between two looks", WhenRefused::Wait, false, &shelf_of_device),
        ("denied between two looks", WhenRefused::Gateway, false, "6 quarantined"),
        ("denied between two looks", WhenRefused::Wait, false, "6 quarantined"),
        ("let in before what it left was looked at", WhenRefused::Wait, false, &shelf_of_device),
        ("refused behind its shelf", WhenRefused::Gateway, false, behind_its_shelf),
        ("refused behind its shelf", WhenRefused::Quarantine, false, behind_its_shelf),
        ("refused behind its shelf", WhenRefused::Wait, false, behind_its_shelf),
    ] {
        let parts = Parts::open(plan(policy));
        let shared = &parts.devices.0;
        let mut dispatcher = Dispatcher::new(shared);
        let device = shared.device("d").unwrap();
        shared.own.state().shelving = own_is_shelving;
        shared.set_phase(&mut device.state(), Phase::Connecting);
        (1..=5).for_each(|sequence| dispatcher.give(&device, held(sequence)));
        let lets_in = || *shared.admitted.lock() = Some(Instant::now());
        match name {
            "nobody is let in at first" => {
                line::refused(shared, &device, NoAccount::new("no"));
                dispatcher.give(&device, held(6));
                let waits = dispatcher.hands[Lane::Live as usize].is_some() && shared.own.state().is_drained();
                assert!(waits && dispatcher.shelving.group().is_empty(), "it is the hub that is waited for");
                lets_in();
                dispatcher.give_again();
                dispatcher.look_into_hands();
            }
            "refused between two looks" => {
                lets_in();
                line::refused(shared, &device, NoAccount::new("no"));
                dispatcher.give(&device, held(6));
            }
            "refused behind its shelf" => {
                let messages = [1, 2].map(|sequence| queue::shelved(&held(sequence).waiting));
                shared.shelves.append("d", &messages, 0).unwrap();
                (1..=2).for_each(|_| drop(device.next().and_then(|waiting| device.settle(waiting.id))));
                device.is_on_shelf();
                device.take_chunk(shared.shelves.read("d", None, 4).unwrap(), &shared.shelves);
                assert!(!device.state().shelving, "what comes now is behind it in the queue");
                // What was read of it is before them.
                let rest = [3, 4, 5].map(|_| device.next().and_then(|waiting| device.settle(waiting.id)).unwrap());
                rest.into_iter().for_each(|held| dispatcher.give(&device, held));
                lets_in();
                line::refused(shared, &device, NoAccount::new("no"));
                dispatcher.give(&device, held(6));
            }
            "let in before what it left was looked at" => {
                lets_in();
                line::refused(shared, &device, NoAccount::new("no"));
                shared.let_in(&device);
                dispatcher.take(named(6));
            }
            "denied between two looks" => {
                shared.set_phase(&mut device.state(), Phase::Idle);
                assert!(shared.keep_out(&device, Verdict::Denied));
                dispatcher.give(&device, held(6));
            }
            _ => {
                shared.set_phase(&mut device.state(), Phase::Idle);
                assert!(shared.keep_out(&device, Verdict::Unknown));
                dispatcher.give(&device, held(6));
            }
        }
        let mut went: Vec<String> = Vec::new();
        while let Some(waiting) = shared.own.next() {
            went.push(format!("own {}", waiting.id.sequence));
        }
        for (device, waiting) in dispatcher.shelving.group() {
            let whose = if device.is_own() { "own" } else { &*device.id };
            went.push(format!("shelf of {whose} {}", waiting.id.sequence));
        }
        let isolating = shared.isolating.load(Ordering::Relaxed);
        went.extend((isolating > 0).then(|| format!("{isolating} quarantined")));
        assert_eq!(went.join(", "), expect, "{name}, {policy:?}, {own_is_shelving}");
    }
}

/// A shelf that is emptied another way: what was read from it already goes first.
#[tokio::test]
async fn a_sweep_begins_with_what_was_read_already() {
    let parts = Parts::open(plan(WhenRefused::Gateway));
    let shared = &parts.devices.0;
    let device = shared.device("d").unwrap();
    let messages: Vec<_> = (1..=9).map(|sequence| queue::shelved(&held(sequence).waiting)).collect();
    shared.shelves.append("d", &messages, 0).unwrap();
    device.is_on_shelf();
    device.take_chunk(shared.shelves.read("d", None, 4).unwrap(), &shared.shelves);
    shared.set_phase(&mut device.state(), Phase::Connecting);
    line::refused(shared, &device, NoAccount::new("no"));
    assert!(!device.state().is_drained(), "nobody is let in");
    *shared.admitted.lock() = Some(Instant::now());
    shared.sweep(&device);
    shared.lines.close();
    shared.lines.wait().await;
    let mut went = Vec::new();
    while let Some(waiting) = shared.own.next() {
        went.push(waiting.id.sequence);
    }
    assert_eq!(went, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

/// Who is kept out, and whose line has to end first.
#[tokio::test]
async fn a_line_that_is_there_ends_before_its_device_is_kept_out() {
    let now = Instant::now();
    for (phase, verdict, expect) in [
        (Phase::InLine, Verdict::Denied, None),
        (Phase::Connecting, Verdict::Unknown, None),
        (Phase::Connected(now), Verdict::Denied, None),
        (Phase::Idle, Verdict::Denied, Some((Phase::Denied, false))),
        (Phase::Idle, Verdict::Unknown, Some((Phase::Held, true))),
        (Phase::Refused(now), Verdict::Unknown, Some((Phase::Held, true))),
        (Phase::Registering, Verdict::Denied, Some((Phase::Denied, false))),
    ] {
        let parts = Parts::open(plan(WhenRefused::Wait));
        let shared = &parts.devices.0;
        let device = shared.device("d").unwrap();
        device.offer(held(1), now).unwrap();
        shared.set_phase(&mut device.state(), phase);
        assert_eq!(shared.keep_out(&device, verdict), expect.is_some(), "{phase:?} {verdict:?}");
        let state = device.state();
        let (is, is_removed) = expect.unwrap_or((phase, false));
        assert_eq!((state.phase, state.is_removed), (is, is_removed), "{phase:?} {verdict:?}");
        assert_eq!((state.is_drained(), shared.left.lock().len()), (expect.is_some(), usize::from(expect.is_some())));
    }
}

/// Nobody sees a device kept out whose queue is neither in its place nor left behind: what is newer would go before it.
#[tokio::test]
async fn who_sees_a_device_kept_out_finds_what_it_left() {
    for verdict in [Verdict::Denied, Verdict::Unknown] {
        let parts = Parts::open(plan(WhenRefused::Wait));
        let shared = &parts.devices.0;
        let device = shared.device("d").unwrap();
        device.offer(held(1), Instant::now()).unwrap();
        std::thread::scope(|scope| {
            // It comes as far as what is left behind, and no further.
            let left = shared.left.lock();
            let kept_out = scope.spawn(|| shared.keep_out(&device, verdict));
            let mut looks = 0;
            while looks < 10_000 {
                match device.try_state() {
                    Some(state) => assert_eq!(state.phase, Phase::Idle, "{verdict:?}"),
                    None => looks += 1,
                }
                std::thread::yield_now();
            }
            drop(left);
            assert!(kept_out.join().unwrap());
        });
        assert_eq!(shared.left.lock().len(), 1);
    }
}

/// Whose shelf is emptied another way, where messages of refused devices go one.
#[tokio::test]
async fn only_shelves_of_those_who_are_kept_out_are_swept() {
    let far = Instant::now() + Duration::from_secs(3_600);
    for (name, phase, (is_removed, is_its_own), lets_in, expect) in [
        ("refused", Phase::Refused(far), (false, true), true, true),
        ("refused like everybody", Phase::Refused(far), (false, true), false, false),
        ("refused, by no fault of its own", Phase::Refused(far), (false, false), true, false),
        ("a stranger, of whom an operator has said nothing", Phase::Held, (false, true), true, false),
        ("removed", Phase::Held, (true, true), true, true),
        ("removed, and nobody is let in", Phase::Held, (true, true), false, false),
        ("denied", Phase::Denied, (false, true), false, true),
        ("connecting", Phase::Connecting, (false, true), true, false),
    ] {
        let parts = Parts::open(plan(WhenRefused::Gateway));
        let shared = &parts.devices.0;
        let mut dispatcher = Dispatcher::new(shared);
        let device = shared.device("d").unwrap();
        shared.shelves.append("d", &[queue::shelved(&held(1).waiting)], 0).unwrap();
        device.is_on_shelf();
        shared.set_phase(&mut device.state(), phase);
        (device.state().is_removed, device.state().is_its_own) = (is_removed, is_its_own);
        *shared.admitted.lock() = lets_in.then(Instant::now);
        dispatcher.tick(&watch::Sender::default());
        assert_eq!(device.state().sweeping, expect, "{name}");
    }
}

/// One device is slow where at least half of the other lines have nothing to do.
#[tokio::test]
async fn who_is_slow_is_told_by_the_other_lines() {
    for (busy, idle, expect) in [(0, 0, false), (0, 1, true), (1, 0, false), (1, 1, true), (2, 1, false), (2, 3, true)]
    {
        let parts = Parts::open(plan(WhenRefused::Wait));
        let shared = &parts.devices.0;
        let slow = shared.device("d").unwrap();
        for number in 0..busy + idle {
            let other = shared.device(&format!("other {number}")).unwrap();
            other.state().phase = Phase::Idle;
            if number < busy {
                other.offer(held(1), Instant::now()).unwrap();
            }
            shared.set_phase(&mut other.state(), Phase::Connected(Instant::now()));
        }
        assert_eq!(Dispatcher::new(shared).is_slow(&slow), expect, "{busy} {idle}");
    }
}

/// What was delivered while its copy was on its way to the shelf leaves the shelf, too.
#[tokio::test]
async fn what_was_delivered_on_its_way_to_the_shelf_does_not_wait_there() {
    let parts = Parts::open(plan(WhenRefused::Wait));
    let shared = &parts.devices.0;
    let mut dispatcher = Dispatcher::new(shared);
    let device = shared.device("d").unwrap();
    shared.set_phase(&mut device.state(), Phase::Connecting);
    (1..=5).for_each(|sequence| dispatcher.give(&device, held(sequence)));
    let first = device.next().unwrap();
    dispatcher.shelving.add(&device, held(6).waiting);
    assert!(!device.wants_more(), "nothing is read before all of it is there");
    device.settle(first.id).unwrap();
    let messages: Vec<Waiting> = dispatcher.shelving.group().into_iter().map(|(_, waiting)| waiting).collect();
    let shelved: Vec<_> = messages.iter().map(queue::shelved).collect();
    let places = shared.shelves.append("d", &shelved, 0).unwrap();
    dispatcher.put_away(vec![(Arc::clone(&device), messages, Ok(places))]).await;
    assert_eq!(shared.shelves.stats().waiting, 5);
    assert!(device.wants_more());
}

/// Turns come at the rate of the configuration, for each hub; who comes anew with other roots waits for none of those
/// that were given.
#[tokio::test(start_paused = true)]
async fn lines_connect_in_turns_and_begin_anew_with_other_roots() {
    let parts = Parts::open(plan(WhenRefused::Wait));
    let crowd = &parts.devices.0.crowd;
    let comes = |hub: &'static str| crowd.turn(hub).now_or_never().is_some();
    // One a second is what the plan says, and no time passes here.
    for (hub, expect) in [("one", true), ("one", false), ("one", false), ("two", true), ("two", false)] {
        assert_eq!(comes(hub), expect, "{hub}");
    }
    (0..1_000).for_each(|_| _ = comes("one"));
    parts.devices.trust(Arc::new(RootCertStore::empty())).unwrap();
    assert!(comes("one"));
}

/// New files: who may connect now does, who may not any more ends, and who connects with something else does so at once,
/// whatever pause the service or the hub has earned it.
#[tokio::test]
async fn new_files_are_taken_up_by_each_device() {
    let (now, far) = (Instant::now(), Instant::now() + Duration::from_secs(3_600));
    let nobody = Renewed::default();
    let (let_in, removed, changed) =
        (Renewed { let_in: 1, ..nobody }, Renewed { removed: 1, ..nobody }, Renewed { changed: 1, ..nobody });
    for (phase, is_listed, is_changed, expect, then, asks_anew, leaves) in [
        (Phase::Held, true, false, let_in, Phase::Idle, false, false),
        (Phase::Held, false, true, nobody, Phase::Held, false, false),
        (Phase::Idle, false, true, removed, Phase::Held, false, false),
        (Phase::Connected(now), false, false, removed, Phase::Connected(now), false, true),
        (Phase::Connected(now), true, true, changed, Phase::Connected(now), false, true),
        (Phase::Connected(now), true, false, nobody, Phase::Connected(now), false, false),
        (Phase::Refused(far), true, true, changed, Phase::Idle, true, false),
        (Phase::Refused(far), true, false, nobody, Phase::Refused(far), false, false),
        (Phase::Registering, true, true, changed, Phase::Registering, true, true),
    ] {
        let accounts = Arc::<NoAccounts>::default();
        let parts = Parts::open(Plan { accounts: Arc::<NoAccounts>::clone(&accounts), ..plan(WhenRefused::Wait) });
        let shared = &parts.devices.0;
        let device = shared.device("d").unwrap();
        let leave = device.may_be_ended();
        shared.set_phase(&mut device.state(), phase);
        let table = is_listed.then(|| "d".to_owned()).into_iter().collect();
        let name = format!("{phase:?}, listed: {is_listed}, changed: {is_changed}");
        assert_eq!(parts.devices.take_up((Vec::new(), table), |_| is_changed), expect, "{name}");
        assert_eq!((device.state().phase, leave.is_cancelled()), (then, leaves), "{name}");
        assert_eq!(accounts.1.lock().len(), usize::from(asks_anew), "{name}");
    }
}

/// A thousand devices without anything to do, connected, idle or held, or refused for an hour: nobody looks at them in a
/// minute of ticks, though their numbers are told each second. Then three of them have something on their shelf: one lines
/// up, and what the others have goes another way.
#[tokio::test]
async fn a_tick_looks_at_no_device_that_rests() {
    let allow = vec![crate::fence::Name::new("d-*")];
    let plan = Plan { allow, refuse_above: Some((1 << 20, 1 << 20)), ..plan(WhenRefused::Quarantine) };
    let (shared, _rest) = rest(plan);
    let later = Instant::now() + Duration::from_secs(3_600);
    let phases = [Phase::Idle, Phase::Connected(Instant::now()), Phase::Held, Phase::Refused(later)];
    let devices: Vec<_> = (0..1_000).map(|number| shared.device(&format!("d-{number}")).unwrap()).collect();
    for (device, phase) in devices.iter().zip(phases.into_iter().cycle()) {
        shared.set_phase(&mut device.state(), phase);
    }
    let (status, seen) = watch::channel(Status::default());
    let mut dispatcher = Dispatcher::new(&shared);
    let mut looks = |ticks| {
        let before = LOOKS.get();
        (0..ticks).for_each(|_| dispatcher.tick(&status));
        LOOKS.get() - before
    };
    assert_eq!(looks(MINUTE), 0);
    assert!(seen.borrow().warning.as_ref().unwrap().starts_with("250 devices are not let in, 250 devices wait"));
    let changed = [(2, Phase::Idle), (3, Phase::Refused(later)), (6, Phase::Denied)];
    for (number, phase) in changed {
        devices[number].state().shelving = true;
        shared.set_phase(&mut devices[number].state(), phase);
    }
    let (some, then) = (looks(1), looks(MINUTE));
    assert!((3..=15).contains(&some) && then == 0, "{some} {then}");
    let state = |number: usize| {
        let state = devices[number].state();
        (state.phase, state.sweeping)
    };
    let expect = [(Phase::InLine, false), (Phase::Refused(later), true), (Phase::Denied, true)];
    assert_eq!(changed.map(|(number, _)| state(number)), expect);
}

/// What a line uses counts as long as it is there, and else what the device's file has.
#[tokio::test]
async fn a_certificate_counts_once() {
    let accounts = NoAccounts(vec![("d", 7), ("e", 5), ("nobody", 9)], Default::default());
    let allow = vec![crate::fence::Name::new("*")];
    let (shared, _rest) = rest(Plan { allow, accounts: Arc::new(accounts), ..plan(WhenRefused::Wait) });
    let [d, e] = ["d", "e"].map(|id| shared.device(id).unwrap());
    let certificate = |ends| Expiry { certificate: Some(ends), ..Expiry::default() };
    let token = |ends| Expiry { minted: Some(ends), ..Expiry::default() };
    assert_eq!(shared.next_end().soon, 3);
    for (name, device, uses, first, soon) in [
        ("nothing is used", &d, Expiry::default(), 5, 3),
        ("that of the file", &e, certificate(5), 5, 3),
        ("a renewed one is in the file", &e, certificate(3), 3, 3),
        ("another", &d, certificate(4), 3, 3),
        ("the same", &d, certificate(4), 3, 3),
        ("the bridge's own", &shared.own, certificate(2), 2, 4),
        ("a line ends", &e, Expiry::default(), 2, 4),
        ("a token", &shared.own, token(2), 4, 3),
        ("all lines end", &d, Expiry::default(), 5, 3),
    ] {
        match uses == Expiry::default() {
            true => shared.uses_nothing(device),
            false => shared.uses(device, uses),
        }
        for files_changed in [false, true] {
            shared.files_changed.store(files_changed, Ordering::Relaxed);
            let next = shared.next_end();
            assert_eq!((next.certificate, next.soon), (Some(first), soon), "{name} {files_changed}");
        }
    }
    assert_eq!(shared.next_end().token, Some(2));
    shared.uses(&shared.own, certificate(2));
    shared.uses_nothing(&shared.own);
    assert_eq!(shared.next_end().certificate, Some(2), "the bridge's own certificate is there without a line, too");
}
