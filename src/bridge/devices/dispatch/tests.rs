//! The order of a device's messages where they change their way.

use std::collections::HashSet;

use rumqttc::tokio_rustls::rustls::RootCertStore;

use super::super::{Keep, Options, Plan, line, open};
use super::*;
use crate::bridge::holding::Holding;
use crate::bridge::lanes;
use crate::hub::accounts::{Accounts, Answer, Described, NoAccount};
use crate::hub::connection_string::ConnectionString;
use crate::metrics::Metrics;
use crate::outbound;
use crate::shelf::{self, Shelves};
use crate::uplink::{self, HubRate, HubTarget, Target, Transport, WindowSize, tls};
use crate::{quarantine, spool};

/// Nobody connects here.
struct NoAccounts;

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

    fn each_end(&self, _: &mut dyn FnMut(&str, i64)) {}

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
        certificate_expiry: None,
        token_lifetime: Duration::from_secs(3_600),
        gateway: false,
    };
    Plan {
        own,
        trust: Arc::new(trust),
        accounts: Arc::new(NoAccounts),
        one_address: false,
        allow: Vec::new(),
        table: HashSet::from(["d".to_owned()]),
        when_refused,
        keep_own: false,
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
        let dir = tempfile::tempdir().unwrap();
        let open_spool = |name: &str| spool::open(spool::Options::new(dir.path().join(name), 16 << 20)).unwrap();
        let (quarantine, writer) = quarantine::open(&dir.path().join("quarantine"), 1 << 20).unwrap();
        let metrics = Metrics::register();
        let spools = ["spool", "urgent"].map(open_spool);
        let (_, (_, outcome), spools) = lanes::join(spools, Holding::over(open_spool("held")), (&quarantine, &metrics));
        let shared = open(options(dir.path(), plan(policy)), outcome, metrics).unwrap().0;
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
        drop((shared, quarantine, spools));
        drop(writer);
    }
}

/// A shelf that is emptied another way: what was read from it already goes first.
#[tokio::test]
async fn a_sweep_begins_with_what_was_read_already() {
    let dir = tempfile::tempdir().unwrap();
    let open_spool = |name: &str| spool::open(spool::Options::new(dir.path().join(name), 16 << 20)).unwrap();
    let (quarantine, _writer) = quarantine::open(&dir.path().join("quarantine"), 1 << 20).unwrap();
    let metrics = Metrics::register();
    let spools = ["spool", "urgent"].map(open_spool);
    let (_, (_, outcome), _spools) = lanes::join(spools, Holding::over(open_spool("held")), (&quarantine, &metrics));
    let shared = open(options(dir.path(), plan(WhenRefused::Gateway)), outcome, metrics).unwrap().0;
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
