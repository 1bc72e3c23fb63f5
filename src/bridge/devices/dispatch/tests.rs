//! The order of a device's messages where they change their way.

use std::collections::HashSet;

use rumqttc::tokio_rustls::rustls::RootCertStore;

use super::super::queue::LOOKS;
use super::super::{Keep, Options, Plan, line, open};
use super::*;
use crate::bridge::holding::Holding;
use crate::bridge::lanes;
use crate::hub::accounts::{Accounts, Answer, Described, NoAccount};
use crate::hub::connection_string::ConnectionString;
use crate::metrics::Metrics;
use crate::outbound;
use crate::shelf::{self, Shelves};
use crate::uplink::{self, Expiry, HubRate, HubTarget, Target, Transport, WindowSize, tls};
use crate::{quarantine, spool};

/// Nobody connects here. Certificates in files, and when they end.
#[derive(Default)]
struct NoAccounts(Vec<(&'static str, i64)>);

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

    fn ask_anew(&self, _: &str) {}
}

fn plan(when_refused: WhenRefused) -> Plan {
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
        accounts: Arc::new(NoAccounts::default()),
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

fn held(sequence: u64) -> Held {
    let id = MessageId { spool: 1, sequence };
    Held::from_spool(Waiting { id, lane: Lane::Live, record: vec![0; 100].into() })
}

/// Devices that deliver nothing, and what they need.
fn rest(plan: Plan) -> (Arc<Shared>, impl Sized) {
    let dir = tempfile::tempdir().unwrap();
    let open_spool = |name: &str| spool::open(spool::Options::new(dir.path().join(name), 16 << 20)).unwrap();
    let (quarantine, writer) = quarantine::open(&dir.path().join("quarantine"), 1 << 20).unwrap();
    let metrics = Metrics::register();
    let spools = ["spool", "urgent"].map(open_spool);
    let (_, (_, outcome), spools) = lanes::join(spools, Holding::over(open_spool("held")), (&quarantine, &metrics));
    let shared = open(options(dir.path(), plan), outcome, metrics).unwrap().0;
    (shared, (spools, quarantine, writer, dir))
}

/// Five messages of a device wait in its queue, a sixth comes; where they go, in order.
#[tokio::test]
async fn a_refused_device_keeps_its_order_whichever_way_it_goes() {
    let own_line = ["own 1", "own 2", "own 3", "own 4", "own 5", "own 6"].join(", ");
    let shelf_of_own = own_line.replace("own", "shelf of own");
    let shelf_of_device = own_line.replace("own", "shelf of d");
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
    ] {
        let (shared, _rest) = rest(plan(policy));
        let mut dispatcher = Dispatcher::new(&shared);
        let device = shared.device("d").unwrap();
        shared.own.state().shelving = own_is_shelving;
        shared.set_phase(&mut device.state(), Phase::Connecting);
        (1..=5).for_each(|sequence| dispatcher.give(&device, held(sequence)));
        let lets_in = || *shared.admitted.lock() = Some(Instant::now());
        match name {
            "nobody is let in at first" => {
                line::refused(&shared, &device, NoAccount::new("no"));
                dispatcher.give(&device, held(6));
                lets_in();
                dispatcher.give_again();
                dispatcher.look_into_hands();
            }
            "refused between two looks" => {
                lets_in();
                line::refused(&shared, &device, NoAccount::new("no"));
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
    let (shared, _rest) = rest(plan(WhenRefused::Gateway));
    let device = shared.device("d").unwrap();
    let messages: Vec<_> = (1..=9).map(|sequence| super::super::queue::shelved(&held(sequence).waiting)).collect();
    shared.shelves.append("d", &messages, 0).unwrap();
    device.is_on_shelf();
    device.take_chunk(shared.shelves.read("d", None, 4).unwrap(), &shared.shelves);
    shared.set_phase(&mut device.state(), Phase::Connecting);
    line::refused(&shared, &device, NoAccount::new("no"));
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
    let accounts = NoAccounts(vec![("d", 7), ("e", 5), ("nobody", 9)]);
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
