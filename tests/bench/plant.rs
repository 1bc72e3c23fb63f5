//! The whole program under load: `cargo bench --bench plant [ingest] [e2e] [start] [drain] [waiting] [devices]`.
//!
//! Publishers run in this process, the bridge and the simulated hub each in their own, all on one machine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a benchmark may fail loudly")]

#[path = "../support/mod.rs"]
mod support;

mod delay;
mod devices;
mod drain;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::{Bridge, Publisher, Sim, free_port, until};

const PATIENCE: Duration = Duration::from_secs(120);

const RULES: &str = "[[rule]]\nname = \"packaging\"\ntopic = \"plant1/packaging/{machine}/{signal}\"\n\
    device = \"{machine}\"\nadd = { signal = \"{signal}\", site = \"plant1\", time = \"{time}\" }\n";

/// A rule with a window, and one of alarms.
const WINDOW: &str = "[[rule]]\nname = \"window\"\ntopic = \"plant1/packaging/{machine}/+\"\ndevice = \"{machine}\"\n\
    batch = { max_messages = 10, max_wait = \"10s\" }\n";
const ALARM: &str = "[[rule]]\nname = \"alarm\"\ntopic = \"plant1/packaging/{machine}/+\"\ndevice = \"{machine}\"\n\
    priority = \"high\"\n";
/// One of twins.
const REPORTED: &str = "[[rule]]\nname = \"reported\"\ntopic = \"plant1/packaging/{machine}/+\"\ndevice = \"{machine}\"\n\
    to = \"reported\"\n";

fn payload() -> Vec<u8> {
    let values: Vec<String> = (0..14).map(|n| format!("\"value{n:02}\": {}.5", n * 7)).collect();
    format!("{{{}}}", values.join(", ")).into_bytes()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    println!("payload {} bytes, enriched by one rule, fsync on", payload().len());
    if wanted("ingest") {
        ingest();
    }
    if wanted("e2e") {
        end_to_end();
    }
    if wanted("start") {
        start_up();
    }
    if wanted("drain") {
        drain::run();
    }
    if wanted("waiting") {
        drain::five_gigabytes();
    }
    if wanted("devices") {
        devices::run();
    }
}

fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Publishes from `connections` threads with `window` in flight each until `total` are acknowledged.
fn load(bridge: &Bridge, connections: usize, window: usize, total: usize) -> (Duration, Vec<Duration>) {
    let address = bridge.mqtt;
    let started = Instant::now();
    let each = total / connections;
    let threads: Vec<_> = (0..connections)
        .map(|n| {
            std::thread::spawn(move || {
                let payload = payload();
                let topic = format!("plant1/packaging/machine{n}/speed");
                let mut publisher = Publisher::connect(address, &format!("bench-{n}")).unwrap();
                let mut latencies = Vec::with_capacity(each);
                let mut out = Vec::new();
                let mut sent = 0;
                while latencies.len() < each {
                    while sent < each && publisher.inflight() < window {
                        publisher.publish(&mut out, &topic, &payload);
                        sent += 1;
                    }
                    publisher.flush(&mut out).unwrap();
                    latencies.extend(publisher.acknowledged().unwrap());
                }
                latencies
            })
        })
        .collect();
    let mut latencies: Vec<Duration> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let took = started.elapsed();
    latencies.sort();
    (took, latencies)
}

fn percentile(sorted: &[Duration], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn ingest() {
    println!(
        "\ndurable ingest (hub unreachable)                                   msg/s   ack p50 ms   p99 ms   CPU s/100k   RSS MB (peak)"
    );
    let plain = [(1, 1), (1, 20), (10, 1), (10, 20), (100, 1), (100, 20)].map(|load| ("", RULES.to_owned(), load));
    let more = [
        ("window alone", WINDOW.to_owned()),
        ("window beside another rule (continue)", format!("{WINDOW}continue = true\n{RULES}")),
        ("alarm alone", ALARM.to_owned()),
        ("alarm beside another rule (continue)", format!("{ALARM}continue = true\n{RULES}")),
        ("reported alone", REPORTED.to_owned()),
        ("reported beside another rule (continue)", format!("{REPORTED}continue = true\n{RULES}")),
    ];
    let more = more.iter().flat_map(|(name, rules)| [(1, 20), (10, 20)].map(|load| (*name, rules.clone(), load)));
    for (name, rules, (connections, window)) in plain.into_iter().chain(more) {
        let dir = folder("bench-ingest");
        let sim = Sim::start(&dir.join("sim"), free_port(), &["--quiet", "--refuse"]);
        let bridge = Bridge::start(&dir, &sim, &rules, "");
        let total = if connections * window == 1 {
            3_000
        } else if connections * window < 50 {
            40_000
        } else {
            200_000
        };
        let before = bridge.process.cpu();
        let (took, latencies) = load(&bridge, connections, window, total);
        let cpu = (bridge.process.cpu() - before).as_secs_f64() * 100_000.0 / total as f64;
        println!(
            "{:70} {:8.0} {:10.2} {:9.2} {cpu:11.2} {:12.1}",
            format!("{connections:4} connections, window {window:3}  {name}"),
            rate(total, took),
            percentile(&latencies, 0.5),
            percentile(&latencies, 0.99),
            bridge.process.rss().1 as f64 / 1024.0,
        );
    }
}

fn end_to_end() {
    println!("\nend to end through TLS   msg/s   ack p99 ms   CPU s/100k: bridge, sim   RSS MB: idle, peak");
    for window in [16, 64, 256] {
        let dir = folder("bench-e2e");
        let sim = Sim::start(&dir.join("sim"), free_port(), &["--quiet"]);
        let bridge = Bridge::start(&dir, &sim, RULES, &format!("window = {window}"));
        until("connected", PATIENCE, || (bridge.metric("brownbridge_uplink_connected") == 1.0).then_some(()));
        let idle = bridge.process.rss().0;
        let total = 300_000;
        let (before, sim_before) = (bridge.process.cpu(), sim.process.cpu());
        let started = Instant::now();
        let (_, latencies) = load(&bridge, 10, 20, total);
        delivered(&bridge, total);
        let took = started.elapsed();
        let per_100k = |cpu: Duration| cpu.as_secs_f64() * 100_000.0 / total as f64;
        println!(
            "uplink window {window:4} {:12.0} {:10.2} {:14.2} {:.2} {:20.1} {:.1}",
            rate(total, took),
            percentile(&latencies, 0.99),
            per_100k(bridge.process.cpu() - before),
            per_100k(sim.process.cpu() - sim_before),
            idle as f64 / 1024.0,
            bridge.process.rss().1 as f64 / 1024.0,
        );
    }
    at_a_steady_rate();
}

/// Delivery latency at a rate the bridge can keep up with.
fn at_a_steady_rate() {
    println!("\nplant's publish to hub's PUBACK, window 16    p50 ms   p99 ms   RSS MB peak");
    for rate in [100, 15_000] {
        let dir = folder("bench-rate");
        let sim = Sim::start(&dir.join("sim"), free_port(), &["--quiet"]);
        let bridge = Bridge::start(&dir, &sim, RULES, "");
        until("connected", PATIENCE, || (bridge.metric("brownbridge_uplink_connected") == 1.0).then_some(()));
        let mut publisher = Publisher::connect(bridge.mqtt, "steady").unwrap();
        let (payload, mut out) = (payload(), Vec::new());
        let (started, mut sent) = (Instant::now(), 0);
        while started.elapsed() < Duration::from_secs(5) {
            let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as usize;
            while sent < due {
                publisher.publish(&mut out, "plant1/packaging/machine1/speed", &payload);
                sent += 1;
            }
            publisher.flush(&mut out).unwrap();
            while publisher.inflight() > 0 {
                publisher.acknowledged().unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        delivered(&bridge, sent);
        let page = bridge.get("/metrics");
        println!(
            "{rate:6} msg/s {:41} {:8} {:10.1}",
            format!("<= {}", quantile(&page, 0.5)),
            format!("<= {}", quantile(&page, 0.99)),
            bridge.process.rss().1 as f64 / 1024.0,
        );
    }
}

/// The upper bound in ms of the histogram bucket a quantile falls into.
fn quantile(page: &str, part: f64) -> f64 {
    let buckets: Vec<(f64, f64)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("brownbridge_delivery_seconds_bucket{le=\""))
        .filter_map(|rest| rest.split_once("\"} "))
        .map(|(bound, count)| (bound.parse().unwrap_or(f64::INFINITY), count.parse().unwrap_or(0.0)))
        .collect();
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    buckets.iter().find(|(_, count)| *count >= total * part).map_or(0.0, |(bound, _)| bound * 1000.0)
}

fn delivered(bridge: &Bridge, total: usize) {
    until("all delivered", PATIENCE, || {
        (bridge.metric("brownbridge_messages_delivered_total") as usize >= total).then_some(())
    });
}

/// From exec to the first CONNACK, with nothing and with 1 GB waiting.
fn start_up() {
    println!("\nstart until the first CONNACK      ms    waiting");
    let dir = folder("bench-start");
    let sim = Sim::start(&dir.join("sim"), free_port(), &["--quiet", "--refuse"]);
    for messages in [0, 3_500_000] {
        if messages > 0 {
            let bridge = Bridge::start(&dir, &sim, RULES, "");
            load(&bridge, 10, 100, messages);
        }
        let started = Instant::now();
        let bridge = Bridge::start(&dir, &sim, RULES, "");
        // The socket listens before the spool is open: only a CONNACK says that the broker is there.
        Publisher::connect(bridge.mqtt, "first").unwrap();
        let took = started.elapsed();
        let waiting = bridge.metric("brownbridge_spool_messages");
        let bytes = bridge.metric("brownbridge_spool_bytes") / 1e9;
        println!("{:34.0} {waiting:10.0}  ({bytes:.2} GB of spool)", took.as_secs_f64() * 1000.0);
    }
}
