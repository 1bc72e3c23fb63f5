//! A thousand devices, each on a connection of its own: time to connect all, what an idle connection costs, how they come
//! back after the hub has dropped them all; and what a device that floods costs the others.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Bridge, Publisher, Sim, free_port, until};
use crate::{PATIENCE, RULES, folder, percentile};

/// How long idle connections are watched.
const WATCHED: Duration = Duration::from_secs(10);
/// How long a device floods.
const FLOOD: Duration = Duration::from_secs(5);
/// What it publishes a second; its line takes 32 in flight, each acknowledged after [`PUBACK_DELAY`].
const FLOOD_RATE: usize = 2_000;
const PUBACK_DELAY: &str = "50";
/// The devices beside it, each with two messages a second.
const CALM: usize = 99;

/// A thousand, or as many as the environment says.
fn devices() -> u32 {
    std::env::var("BROWNBRIDGE_BENCH_DEVICES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000)
}

pub(crate) fn run() {
    connect_all("\"auto\"", true);
    connect_all("10000", false);
    println!(
        "\none device floods ({FLOOD_RATE} msg/s)   the {CALM} others, publish to hub: p50 ms   p99 ms   longest ms"
    );
    for floods in [false, true] {
        fairness(floods);
    }
}

fn bridge(dir: &std::path::Path, sim: &Sim, more: &str) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    std::fs::create_dir_all(dir.join("rules")).unwrap();
    std::fs::write(dir.join("rules/1.toml"), RULES).unwrap();
    let config = format!(
        "state = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [uplink]\nidentity = \"per-device\"\nconnection_string = \"{}\"\nca_file = {:?}\naddress = \"localhost:{}\"\n\
         tier = \"S1\"\n[uplink.devices]\nallow = [\"*\"]\ngroup_key_file = {:?}\n{more}\n",
        sim.connection_string,
        sim.dir.join("ca.pem"),
        sim.port,
        sim.dir.join("master.key"),
    );
    Bridge::with_config(dir, &config, (mqtt, admin))
}

/// One message of each device.
fn one_of_each(publisher: &mut Publisher) {
    let mut out = Vec::new();
    for device in 0..devices() {
        publisher.publish(&mut out, &format!("plant1/packaging/m-{device}/speed"), b"{\"v\":1}");
    }
    publisher.flush(&mut out).unwrap();
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
}

fn connect_all(connect_rate: &str, restart: bool) {
    let dir = folder("devices");
    let count = devices();
    let sim = Sim::start(&dir.join("hub"), free_port(), &["--quiet"]);
    let bridge = bridge(&dir, &sim, &format!("connect_rate = {connect_rate}"));
    let (before, _) = bridge.process.rss();
    let mut publisher = Publisher::connect(bridge.mqtt, "bench").unwrap();
    let (cpu, began) = (bridge.process.cpu(), Instant::now());
    one_of_each(&mut publisher);
    until("all are delivered", PATIENCE, || {
        (bridge.metric("brownbridge_messages_delivered_total") >= f64::from(count)).then_some(())
    });
    let (took, used) = (began.elapsed(), bridge.process.cpu() - cpu);
    let (after, most) = bridge.process.rss();
    let cpu = bridge.process.cpu();
    std::thread::sleep(WATCHED);
    let idle = (bridge.process.cpu() - cpu).as_secs_f64() / WATCHED.as_secs_f64();
    let each = (after.saturating_sub(before)) as f64 / f64::from(count);
    println!(
        "devices: {count} connected and delivered in {took:.1?} (connect_rate {connect_rate}, {used:.1?} of CPU); {each:.0} KiB \
         each, {after} KiB in all, most {most} KiB; idle {:.2} % of a core",
        idle * 100.0
    );
    if restart {
        hub_restart((&bridge, &sim), &mut publisher);
    }
}

/// The hub drops all connections at once, while every device has something to send.
fn hub_restart((bridge, sim): (&Bridge, &Sim), publisher: &mut Publisher) {
    let count = f64::from(devices());
    let reconnects = || bridge.metric("brownbridge_uplink_reconnects_total");
    let before = reconnects();
    let began = Instant::now();
    kill_process(Pid::from_raw(sim.process.id().cast_signed()).unwrap(), Signal::USR1).unwrap();
    until("all have noticed", PATIENCE, || (reconnects() - before >= count).then_some(()));
    one_of_each(publisher);
    // The bridge counts them once a second.
    let connections = || bridge.metric("brownbridge_uplink_connections");
    let (mut last, mut since, mut highest, mut first) = (connections(), Instant::now(), 0.0_f64, None);
    until("all are back", PATIENCE, || {
        let now = connections();
        if now != last {
            if now > last {
                first = first.or(Some(began.elapsed()));
                highest = highest.max((now - last) / since.elapsed().as_secs_f64().max(0.9));
            }
            (last, since) = (now, Instant::now());
        }
        let delivered = bridge.metric("brownbridge_messages_delivered_total");
        (now >= count && delivered >= 2.0 * count).then_some(())
    });
    println!(
        "devices: {count} connections dropped at once; the first seen again after {:.1?}, all connected and delivered after {:.1?}, \
         at most {highest:.0} connects in a second, {:.0} closed again",
        first.unwrap_or_default(),
        began.elapsed(),
        reconnects() - before - count,
    );
}

fn millis_now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// The latency of calm devices, alone and beside one that floods.
fn fairness(floods: bool) {
    let dir = folder("fairness");
    let sim = Sim::start(&dir.join("hub"), free_port(), &["--puback-delay", PUBACK_DELAY]);
    let bridge = bridge(&dir, &sim, "connect_rate = 10000");
    let (mut calm, mut out) = (Publisher::connect(bridge.mqtt, "calm").unwrap(), Vec::new());
    let mut round = |warm: bool| {
        for device in 0..CALM {
            let payload = if warm { "{}".to_owned() } else { format!("{{\"t\":{}}}", millis_now()) };
            calm.publish(&mut out, &format!("plant1/packaging/calm-{device}/speed"), payload.as_bytes());
        }
        calm.flush(&mut out).unwrap();
        while calm.inflight() > 0 {
            calm.acknowledged().unwrap();
        }
    };
    // All lines are there before it begins.
    round(true);
    until("all lines", PATIENCE, || (sim.received().len() >= CALM).then_some(()));
    let address = bridge.mqtt;
    let flood = std::thread::spawn(move || if floods { flood(address) } else { 0 });
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < FLOOD {
        round(false);
        rounds += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    let flooded = flood.join().unwrap();
    let mut latencies = Vec::new();
    until("all of the calm ones", PATIENCE, || {
        latencies = sim.received().iter().filter_map(latency).collect();
        (latencies.len() >= rounds * CALM).then_some(())
    });
    latencies.sort();
    println!(
        "{:44} {:29.0} {:8.0} {:12.0}   {:.0} messages went over its shelf",
        if floods { format!("{flooded} messages of it") } else { "without".to_owned() },
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99),
        percentile(&latencies, 1.0),
        bridge.metric("brownbridge_shelf_appended_total"),
    );
}

/// Publishes at [`FLOOD_RATE`]; says how many that were.
fn flood(address: std::net::SocketAddr) -> usize {
    let mut publisher = Publisher::connect(address, "flood").unwrap();
    let (began, mut out, mut sent) = (Instant::now(), Vec::new(), 0);
    while began.elapsed() < FLOOD {
        let due = (began.elapsed().as_secs_f64() * FLOOD_RATE as f64) as usize;
        while sent < due {
            publisher.publish(&mut out, "plant1/packaging/flood/speed", b"{\"v\":1}");
            sent += 1;
        }
        publisher.flush(&mut out).unwrap();
        while publisher.inflight() > 0 {
            publisher.acknowledged().unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// From the publish, which its payload tells, to when the hub had it.
fn latency(message: &serde_json::Value) -> Option<Duration> {
    let body = &message["body"];
    let text = body.as_str().map(|text| serde_json::from_str(text).unwrap_or_default());
    let sent = text.as_ref().unwrap_or(body)["t"].as_u64()?;
    let arrived: jiff::Timestamp = message["system"]["iothub-enqueuedtime"].as_str()?.parse().ok()?;
    Some(Duration::from_millis(arrived.as_millisecond().cast_unsigned().saturating_sub(sent)))
}
