//! What waits: how fast it leaves over a line of 100 ms, beside a Mosquitto bridge on the same line, and what 5 GB of
//! it do to start, memory and acknowledgements.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::delay::relay;
use super::support::{Bridge, Process, Publisher, Sim, free_port, until};
use super::{PATIENCE, RULES, folder, load, percentile};

const MESSAGES: usize = 1_000_000;
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// What is not through by then is measured by what is.
const MOST: Duration = Duration::from_secs(60);

pub(crate) fn run() {
    println!("\n{MESSAGES} waiting messages, a line of {ROUND_TRIP:?}        msg/s   drained in   window   RSS MB");
    let dir = folder("bench-drain");
    let sim = Sim::start(&dir.join("sim"), free_port(), &["--quiet", "--refuse"]);
    let mut bridge = Bridge::start(&dir, &sim, RULES, "");
    load(&bridge, 10, 100, MESSAGES);
    assert_eq!(bridge.process.terminate(), Some(0));
    drop(sim);
    for window in ["16", "128", "\"auto\""] {
        drain(&dir, window);
    }
    let _ = fs::remove_dir_all(&dir);
    match Command::new("mosquitto").arg("-h").stdout(Stdio::null()).status() {
        Ok(_) => [20, 1000].into_iter().for_each(mosquitto),
        Err(_) => println!("mosquitto is not installed (or /usr/sbin is not on the PATH): nothing to compare with"),
    }
}

/// A bridge over the relay, with the same folder.
fn bridge_over(dir: &Path, sim: &Sim, port: u16, more: &str) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    let config = format!(
        "rules = \"rules\"\nstate = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n[uplink]\nconnection_string = \"{}\"\nca_file = \"{}\"\n\
         address = \"localhost:{port}\"\ndrain_timeout = \"10ms\"\n{more}\n",
        sim.connection_string,
        sim.dir.join("ca.pem").display(),
    );
    Bridge::with_config(dir, &config, (mqtt, admin))
}

fn drain(from: &Path, window: &str) {
    let dir = folder("bench-drain-copy");
    assert!(Command::new("cp").arg("-r").arg(from.join(".")).arg(&dir).status().unwrap().success());
    let sim = Sim::start(&dir.join("sim"), free_port(), &["--quiet"]);
    let line = relay(SocketAddr::from(([127, 0, 0, 1], sim.port)), ROUND_TRIP);
    let bridge = bridge_over(&dir, &sim, line.port(), &format!("window = {window}"));
    let delivered = || bridge.metric("brownbridge_messages_delivered_total") as usize;
    until("the first", PATIENCE, || (delivered() > 0).then_some(()));
    let (count, took) = measure(MESSAGES, delivered);
    report(&format!("brownbridge, window {window}"), count, took);
    println!("{:19.0} {:8.1}", bridge.metric("brownbridge_uplink_window"), bridge.process.rss().1 as f64 / 1024.0);
}

/// Looks until all are there or the time is over: how many came and how long that took.
fn measure(all: usize, mut arrived: impl FnMut() -> usize) -> (usize, Duration) {
    let started = Instant::now();
    loop {
        let count = arrived();
        if count >= all || started.elapsed() > MOST {
            return (count, started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn report(what: &str, count: usize, took: Duration) {
    let rate = count as f64 / took.as_secs_f64();
    let whole = MESSAGES as f64 / rate;
    let about = if count < MESSAGES { "~" } else { "" };
    print!("{what:44} {rate:14.0} {:>10}", format!("{about}{whole:.0} s"));
}

/// A Mosquitto bridge with a queue of the same messages, to another Mosquitto behind the same line.
fn mosquitto(window: u16) {
    let dir = folder("bench-drain-mosquitto");
    let (near, far) = (free_port(), free_port());
    let line = relay(SocketAddr::from(([127, 0, 0, 1], far)), ROUND_TRIP);
    let start = |name: &str, config: String| {
        let path = dir.join(name);
        // As root it would change to the user `mosquitto`, who may not enter the folder.
        fs::write(&path, format!("user root\nallow_anonymous true\nset_tcp_nodelay true\n{config}")).unwrap();
        let log = fs::File::create(path.with_extension("log")).unwrap();
        Process::start(Command::new("mosquitto").arg("-c").arg(&path).stdout(Stdio::null()).stderr(log))
    };
    let near_process = start(
        "near",
        format!(
            "listener {near} 127.0.0.1\nmax_queued_messages 0\nmax_inflight_messages {window}\n\
             connection up\naddress 127.0.0.1:{}\ntopic plant1/# out 1\ncleansession false\nrestart_timeout 1\n",
            line.port()
        ),
    );
    let near = SocketAddr::from(([127, 0, 0, 1], near));
    until("mosquitto listens", PATIENCE, || Publisher::connect(near, "first").ok());
    let payload = super::payload();
    let mut publisher = Publisher::connect(near, "filler").unwrap();
    let (mut out, mut sent, mut acknowledged) = (Vec::new(), 0, 0);
    while acknowledged < MESSAGES {
        while sent < MESSAGES && publisher.inflight() < 500 {
            publisher.publish(&mut out, "plant1/packaging/machine1/speed", &payload);
            sent += 1;
        }
        publisher.flush(&mut out).unwrap();
        acknowledged += publisher.acknowledged().unwrap().len();
    }
    let _far = start("far", format!("listener {far} 127.0.0.1\nsys_interval 1\n"));
    until("the far one listens", PATIENCE, || {
        Publisher::connect(SocketAddr::from(([127, 0, 0, 1], far)), "first").ok()
    });
    let mut counter = Counter::start(far);
    until("the first", PATIENCE, || (counter.arrived() > 10).then_some(()));
    let before = counter.arrived();
    let (count, took) = measure(MESSAGES, || counter.arrived());
    report(&format!("mosquitto bridge, max_inflight_messages {window}"), count - before, took);
    println!("{window:19} {:8.1}", near_process.rss().1 as f64 / 1024.0);
    let _ = fs::remove_dir_all(&dir);
}

/// What a Mosquitto says it has received.
struct Counter {
    _process: Process,
    path: std::path::PathBuf,
}

impl Counter {
    fn start(port: u16) -> Self {
        let path = folder("bench-drain-sys").join("received");
        let file = fs::File::create(&path).unwrap();
        let topic = "$SYS/broker/publish/messages/received";
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &port.to_string(), "-t", topic]).stdout(file);
        Self { _process: Process::start(&mut command), path }
    }

    fn arrived(&mut self) -> usize {
        let text = fs::read_to_string(&self.path).unwrap();
        let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap());
        whole.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0)
    }
}

/// Acknowledgements of ten clients at a steady rate, for less time than the backlog takes: the 99th percentile in ms.
fn acknowledgement_p99(bridge: &Bridge) -> f64 {
    let payload = super::payload();
    let threads: Vec<_> = (0..10)
        .map(|n| {
            let (address, payload) = (bridge.mqtt, payload.clone());
            std::thread::spawn(move || {
                let mut publisher = Publisher::connect(address, &format!("steady-{n}")).unwrap();
                let (mut out, mut latencies) = (Vec::new(), Vec::new());
                let started = Instant::now();
                while started.elapsed() < Duration::from_secs(3) {
                    publisher.publish(&mut out, &format!("plant1/packaging/machine{n}/speed"), &payload);
                    publisher.flush(&mut out).unwrap();
                    latencies.extend(publisher.acknowledged().unwrap());
                    std::thread::sleep(Duration::from_millis(10));
                }
                latencies
            })
        })
        .collect();
    let mut latencies: Vec<Duration> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    latencies.sort();
    percentile(&latencies, 0.99)
}

pub(crate) fn five_gigabytes() {
    let dir = folder("bench-drain-5gb");
    let port = free_port();
    let mut sim = Sim::start(&dir.join("sim"), port, &["--quiet"]);
    let spool = "[spool]\nmax_size = \"8GiB\"\n";
    let mut bridge = Bridge::start(&dir, &sim, RULES, spool);
    until("connected", PATIENCE, || (bridge.metric("brownbridge_uplink_connected") == 1.0).then_some(()));
    let idle = acknowledgement_p99(&bridge);
    sim.process.kill();
    fill(&bridge, 5_000_000_000);
    assert_eq!(bridge.process.terminate(), Some(0));

    let sim = Sim::start(&dir.join("sim"), port, &["--quiet"]);
    let started = Instant::now();
    let bridge = bridge_over(&dir, &sim, port, spool);
    let waiting = bridge.metric("brownbridge_spool_bytes") / 1e9;
    until("the first", PATIENCE, || (bridge.metric("brownbridge_messages_delivered_total") > 0.0).then_some(()));
    let first = started.elapsed();
    let busy = acknowledgement_p99(&bridge);
    let late = |bridge: &Bridge| bridge.metric("brownbridge_spool_late_messages") > 0.0;
    assert!(late(&bridge), "the backlog was through before the measurement");
    let most = bridge.process.rss().1;
    // At the pace of a hub: 6,000 messages a second.
    drop(bridge);
    let bridge = bridge_over(&dir, &sim, port, &format!("tier = \"S3\"\n{spool}"));
    until("it goes on", PATIENCE, || (bridge.metric("brownbridge_messages_delivered_total") > 0.0).then_some(()));
    let paced = acknowledgement_p99(&bridge);
    assert!(late(&bridge), "the backlog was through before the measurement");
    println!("\n{waiting:.1} GB waiting, hub on the same machine");
    println!("exec to the first message's PUBACK       {:6.0} ms", first.as_secs_f64() * 1000.0);
    println!("memory, most                             {:6.1} MB", most as f64 / 1024.0);
    println!(
        "acknowledgement p99 at 1,000 msg/s       {idle:6.2} ms idle, {busy:.2} ms while it drains as fast as two cores \
         with the hub on them allow, {paced:.2} ms at the pace of tier = \"S3\""
    );
    drop(bridge);
    let _ = fs::remove_dir_all(&dir);
}

/// Publishes messages of 5 KB until the spool has so many bytes.
fn fill(bridge: &Bridge, bytes: usize) {
    let payload = format!("{{\"v\":\"{}\"}}", "x".repeat(5_000)).into_bytes();
    let mut publisher = Publisher::connect(bridge.mqtt, "filler").unwrap();
    let (mut out, mut sent) = (Vec::new(), 0);
    while sent * payload.len() < bytes || publisher.inflight() > 0 {
        while sent * payload.len() < bytes && publisher.inflight() < 500 {
            publisher.publish(&mut out, "plant1/packaging/machine1/speed", &payload);
            sent += 1;
        }
        publisher.flush(&mut out).unwrap();
        publisher.acknowledged().unwrap();
    }
}
