//! A thousand devices, each on a connection of its own: time to connect all, and what an idle connection costs.

use std::time::{Duration, Instant};

use crate::support::{Bridge, Publisher, Sim, free_port, until};
use crate::{PATIENCE, RULES, folder};

const DEVICES: u32 = 1_000;
/// How long idle connections are watched.
const WATCHED: Duration = Duration::from_secs(20);

pub(crate) fn run() {
    for connect_rate in ["\"auto\"", "10000"] {
        connect_all(connect_rate);
    }
}

fn connect_all(connect_rate: &str) {
    let dir = folder("devices");
    let sim = Sim::start(&dir.join("hub"), free_port(), &["--quiet"]);
    let (mqtt, admin) = (free_port(), free_port());
    std::fs::create_dir_all(dir.join("rules")).unwrap();
    std::fs::write(dir.join("rules/1.toml"), RULES).unwrap();
    let config = format!(
        "state = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [uplink]\nidentity = \"per-device\"\nconnection_string = \"{}\"\nca_file = {:?}\naddress = \"localhost:{}\"\n\
         tier = \"S1\"\n[uplink.devices]\nallow = [\"*\"]\ngroup_key_file = {:?}\nconnect_rate = {connect_rate}\n",
        sim.connection_string,
        sim.dir.join("ca.pem"),
        sim.port,
        sim.dir.join("master.key"),
    );
    let bridge = Bridge::with_config(&dir, &config, (mqtt, admin));
    let (before, _) = bridge.process.rss();
    let mut publisher = Publisher::connect(bridge.mqtt, "bench").unwrap();
    let (mut out, cpu, began) = (Vec::new(), bridge.process.cpu(), Instant::now());
    for device in 0..DEVICES {
        publisher.publish(&mut out, &format!("plant1/packaging/m-{device}/speed"), b"{\"v\":1}");
    }
    publisher.flush(&mut out).unwrap();
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
    until("all are delivered", PATIENCE, || {
        (bridge.metric("brownbridge_messages_delivered_total") >= f64::from(DEVICES)).then_some(())
    });
    let (took, used) = (began.elapsed(), bridge.process.cpu() - cpu);
    let (after, most) = bridge.process.rss();
    let cpu = bridge.process.cpu();
    std::thread::sleep(WATCHED);
    let idle = (bridge.process.cpu() - cpu).as_secs_f64() / WATCHED.as_secs_f64();
    let each = (after.saturating_sub(before)) as f64 / f64::from(DEVICES);
    println!(
        "devices: {DEVICES} connected and delivered in {took:.1?} (connect_rate {connect_rate}, {used:.1?} of CPU); {each:.0} KiB \
         each, {after} KiB in all, most {most} KiB; idle {:.2} % of a core",
        idle * 100.0
    );
}
