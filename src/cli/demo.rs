//! `brownbridge demo`: the whole way of a message on one machine, without Azure.
//!
//! A small plant publishes plaintext MQTT, the bridge takes it through the rules and the spool, and a simulated
//! hub behind real TLS receives it. Everything the demo makes is in one folder that is removed at its end.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::sync::{Notify, mpsc};

use super::check::{could_not_run, print, print_findings};
use super::run::{LogFormat, start_log, told_to_stop};
use crate::admin::Recorder;
use crate::amount::of;
use crate::app::{self, settings};
use crate::bridge::InUse;
use crate::config::units;
use crate::hubsim::{self, Received};
use crate::message::{Publish, Timestamp};
use crate::rules::{Output, Verdict};

/// Shows it all on this machine: a small plant, the bridge, a simulated hub behind real TLS.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  brownbridge demo            until Ctrl-C\n  brownbridge demo --for 10s  ends by itself\n\n\
    While it runs, change a rule in rules/ and see what the hub gets a few seconds later.\n\n\
    Exit code: 0 done, also by Ctrl-C, 1 the rules have errors, 2 could not run."
)]
pub(super) struct Args {
    /// Ends by itself after this time: 10s, 2m.
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    lasts: Option<Duration>,
    /// Rule files; without them the folder `rules` here, or the rules built into the program.
    #[arg(long, value_name = "PATH")]
    rules: Option<PathBuf>,
}

fn time(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "write a number and a unit: 10s, 2m, 1h".to_owned())
}

/// The shipped rules, for a program that was installed without its folder.
const RULES: [(&str, &str); 13] = [
    ("10-packaging.toml", include_str!("../../rules/10-packaging.toml")),
    ("20-legacy-gateways.toml", include_str!("../../rules/20-legacy-gateways.toml")),
    ("30-kepware-agent.toml", include_str!("../../rules/30-kepware-agent.toml")),
    ("35-siemens.toml", include_str!("../../rules/35-siemens.toml")),
    ("40-bare-values.toml", include_str!("../../rules/40-bare-values.toml")),
    ("42-plc-registers.toml", include_str!("../../rules/42-plc-registers.toml")),
    ("50-beckhoff.toml", include_str!("../../rules/50-beckhoff.toml")),
    ("55-ignition.toml", include_str!("../../rules/55-ignition.toml")),
    ("60-tasmota.toml", include_str!("../../rules/60-tasmota.toml")),
    ("65-zigbee2mqtt.toml", include_str!("../../rules/65-zigbee2mqtt.toml")),
    ("70-shelly.toml", include_str!("../../rules/70-shelly.toml")),
    ("80-cost.toml", include_str!("../../rules/80-cost.toml")),
    ("90-passthrough.toml", include_str!("../../rules/90-passthrough.toml")),
];

/// Batches of received messages that wait to be printed.
const BATCHES: usize = 64;
/// How often the demo asks which rules are in use.
const LOOK_AT_RULES: Duration = Duration::from_millis(500);
/// Where ports are looked for: the usual one, then the next.
const TRIES: u16 = 100;

pub(super) fn run(args: Args) -> ExitCode {
    start_log(LogFormat::Text, "error");
    let dir = std::env::temp_dir().join(format!("brownbridge-demo-{}", std::process::id()));
    let outcome = in_folder(&args, &dir);
    let _ = fs::remove_dir_all(&dir);
    outcome.unwrap_or_else(|error| could_not_run(&format!("{error:#}")))
}

fn in_folder(args: &Args, dir: &Path) -> anyhow::Result<ExitCode> {
    fs::DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let rules = rules(args, dir)?;
    let recorder = Recorder::install().context("the metrics cannot be set up")?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot start")?;
    let shown = runtime.block_on(show(args, dir, &rules, recorder));
    runtime.shutdown_background();
    shown
}

fn rules(args: &Args, dir: &Path) -> anyhow::Result<PathBuf> {
    let here = Path::new("rules");
    if let Some(given) = &args.rules {
        return given.canonicalize().with_context(|| format!("--rules {}", given.display()));
    }
    if here.is_dir() {
        return Ok(here.canonicalize()?);
    }
    let folder = dir.join("rules");
    fs::create_dir_all(&folder)?;
    for (name, text) in RULES {
        fs::write(folder.join(name), text)?;
    }
    Ok(folder)
}

async fn show(args: &Args, dir: &Path, rules: &Path, recorder: Recorder) -> anyhow::Result<ExitCode> {
    let (output, received) = mpsc::channel(BATCHES);
    let options = hubsim::Options { dir: Some(dir.join("hub")), output: Some(output), ..hubsim::Options::default() };
    let hub = hubsim::start(options).await?;
    let (mqtt, admin) = (free_port(1883)?, free_port(9883)?);
    let config = dir.join("bridge.toml");
    fs::write(&config, bridge_toml(&hub, rules, mqtt, admin))?;
    let loaded = settings::load(&config, &|_| None)?;
    print_findings(&loaded.diagnostics, &loaded.sources);
    let Some(settings) = loaded.settings else { return Ok(ExitCode::from(1)) };
    let running = app::start(settings, recorder).await?;
    introduce(&hub, rules, &running);

    let in_use = running.rules();
    let failure = running.spool_failure();
    let watched = Notify::new();
    let lasts = async {
        match args.lasts {
            Some(lasts) => tokio::time::sleep(lasts).await,
            None => std::future::pending().await,
        }
    };
    let why = tokio::select! {
        signal = told_to_stop() => signal.to_owned(),
        () = lasts => "the time is over".to_owned(),
        () = show_new_rules(&in_use) => "the rules ended".to_owned(),
        () = show_what_comes_in(mqtt, &in_use, &watched) => "the broker closed the demo's own client".to_owned(),
        () = show_what_arrives(received) => "the hub ended".to_owned(),
        () = plant(mqtt, &watched) => "the plant ended".to_owned(),
        reason = failure => format!("the spool failed: {reason}"),
    };
    let _ = running.stop().await;
    let counts = hub.counts();
    hub.stop().await;
    print(&format!("\n{why}; messages the hub received: {}. Nothing is left behind.\n", counts.messages));
    Ok(ExitCode::SUCCESS)
}

fn bridge_toml(hub: &hubsim::Running, rules: &Path, mqtt: u16, admin: u16) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "rules = {rules:?}\nstate = \"state\"\n\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n\n[uplink]\n\
         connection_string = {:?}\nca_file = {:?}\naddress = \"{}\"\n\n[spool]\nmax_size = \"64MiB\"\n\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n",
        hub.connection_string("demo-gateway").expose(),
        hub.ca_file(),
        hub.local_addr(),
    );
    text
}

fn free_port(first: u16) -> anyhow::Result<u16> {
    (first..first + TRIES)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .with_context(|| format!("no free port from {first} to {}", first + TRIES - 1))
}

fn introduce(hub: &hubsim::Running, rules: &Path, running: &app::Running) {
    let (mqtt, admin) = (running.mqtt_addr(), running.admin_addr());
    let taken = if mqtt.port() == 1883 { "" } else { "   (1883 is taken)" };
    print(&format!(
        "broker   mqtt://{mqtt}   plaintext MQTT 3.1, 3.1.1 and 5{taken}\n\
         rules    {}   changes are taken up while it runs\n\
         hub      simulated, TLS on {}, a certificate authority of its own\n\
         metrics  http://{admin}/metrics   also /healthz and /readyz\n\n\
         Try it from another terminal:\n  \
         mosquitto_pub -h 127.0.0.1 -p {} -q 1 -t plant1/packaging/wrapper3/speed -m '{{\"rpm\": 1450}}'\n\n\
         plant >  a publish on the plant floor        > hub  what IoT Hub received        Ctrl-C ends it\n\n",
        rules.display(),
        hub.local_addr(),
        mqtt.port(),
    ));
}

fn client(id: &str, port: u16) -> (AsyncClient, rumqttc::EventLoop) {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options.set_max_packet_size(1 << 20, 1 << 20);
    AsyncClient::new(options, 16)
}

/// Says when changed rule files are in use. Files with mistakes are told by the log.
async fn show_new_rules(in_use: &InUse) {
    let mut known = in_use.rules().hash().to_owned();
    let mut look = tokio::time::interval(LOOK_AT_RULES);
    loop {
        look.tick().await;
        let rules = in_use.rules();
        if rules.hash() != known {
            rules.hash().clone_into(&mut known);
            print(&format!("rules >  the files have changed: {} in use\n", of(rules.len() as u64, "rule", "rules")));
        }
    }
}

/// Prints every publish that the broker takes, also the user's own, and what becomes of it if not a hub message.
async fn show_what_comes_in(port: u16, in_use: &InUse, watched: &Notify) {
    let mut out = Output::new();
    let (client, mut events) = client("demo-watcher", port);
    if client.subscribe("#", QoS::AtMostOnce).await.is_err() {
        return;
    }
    while let Ok(event) = events.poll().await {
        match event {
            Event::Incoming(Incoming::SubAck(_)) => watched.notify_one(),
            Event::Incoming(Incoming::Publish(publish)) => {
                let payload = String::from_utf8_lossy(&publish.payload);
                print(&format!("plant >  {}  {payload}\n", publish.topic));
                let publish = Publish {
                    topic: &publish.topic,
                    payload: &publish.payload,
                    client: "",
                    user: None,
                    qos: 0,
                    retain: publish.retain,
                    received: Timestamp::now(),
                };
                let rules = in_use.rules();
                match rules.translate(&publish, &mut out) {
                    Verdict::Dropped { rule } => print(&format!("  > dropped by rule `{}`\n", rules.name(rule))),
                    Verdict::Quarantined { reason, .. } => {
                        print(&format!("  > quarantine  {reason}: {}\n", out.detail()));
                    }
                    Verdict::Translated | Verdict::Unmatched => {}
                }
            }
            _ => {}
        }
    }
}

async fn show_what_arrives(mut received: mpsc::Receiver<Vec<Received>>) {
    while let Some(batch) = received.recv().await {
        for message in batch {
            let mut properties = String::new();
            for (name, value) in &message.properties {
                let _ = write!(properties, "{name}={} ", value.as_deref().unwrap_or_default());
            }
            let kind = message.system("content-type").unwrap_or("no content type");
            print(&format!("  > hub  {properties}({kind})  {}\n", String::from_utf8_lossy(&message.body)));
        }
    }
}

/// Four pieces of equipment, one publish a second.
async fn plant(port: u16, watched: &Notify) {
    let (client, mut events) = client("demo-plant", port);
    let publish = async {
        watched.notified().await;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        for n in 0_u64.. {
            second.tick().await;
            let (topic, payload) = equipment(n);
            if client.publish(topic, QoS::AtLeastOnce, false, payload).await.is_err() {
                return;
            }
        }
    };
    let drive = async { while events.poll().await.is_ok() {} };
    tokio::select! {
        () = publish => {}
        () = drive => {}
    }
}

fn equipment(n: u64) -> (&'static str, String) {
    let now = Timestamp::now().0;
    let wave = n * 37 % 50;
    match n % 4 {
        0 => ("plant1/packaging/wrapper3/speed", format!("{{\"rpm\": {}}}", 1_420 + wave)),
        1 => ("plant1/line3/press7/value/oil_temp", format!("{}.5", 40 + wave / 5)),
        2 => (
            "iotgateway/line4",
            format!(
                "{{\"timestamp\":{now},\"values\":[{{\"id\":\"Channel1.Press7.Temp\",\"v\":4{}.5,\"q\":true,\"t\":{now}}}]}}",
                wave % 10
            ),
        ),
        _ => ("gw07-press/temp/oil", format!("{{\"v\": 6{}.5}}", wave % 10)),
    }
}
