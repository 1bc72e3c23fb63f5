//! The way back under load: `cargo bench --bench way_back [methods] [twins]`.
//!
//! The simulated hub, the service that asks it and the plant's device run in this process, the bridge in its own, all on
//! one machine. Each row is compared with what the same run finds the local MQTT round trip alone to take.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a benchmark may fail loudly")]

#[path = "../../sim_client/mod.rs"]
mod sim_client;
#[path = "../../support/mod.rs"]
mod support;

mod methods;
mod service;
mod twins;

use std::path::PathBuf;
use std::time::Duration;

use brownbridge::hubsim::Running;
use support::{Bridge, PATIENCE, free_port, until};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if wanted("methods") {
        runtime.block_on(methods::run());
    }
    if wanted("twins") {
        runtime.block_on(twins::run());
    }
}

/// A bridge before a simulator, subscribed to what its rules want.
pub(crate) struct World {
    pub(crate) sim: Running,
    pub(crate) bridge: Bridge,
}

impl World {
    pub(crate) async fn start(name: &str, rules: &str, sections: &str) -> Self {
        let (sim, _) = sim_client::sim(|options| options.output = None).await;
        let dir = folder(name);
        let (mqtt, admin) = (free_port(), free_port());
        let config = format!(
            "state = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [uplink]\nconnection_string = \"{}\"\nca_file = \"{}\"\naddress = \"127.0.0.1:{}\"\n{sections}",
            sim.connection_string("gw").expose(),
            sim.ca_file().display(),
            sim.local_addr().port(),
        );
        std::fs::create_dir_all(dir.join("rules")).unwrap();
        std::fs::write(dir.join("rules/1.toml"), rules).unwrap();
        let bridge = Bridge::with_config(&dir, &config, (mqtt, admin));
        until("the bridge is subscribed", PATIENCE, || (!sim.subscriptions("gw").is_empty()).then_some(()));
        Self { sim, bridge }
    }
}

fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A row: the times of one thing, in milliseconds.
pub(crate) fn row(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{what:44} {:8} {:9.2} {:9.2} {:9.2}", times.len(), at(0.5), at(0.99), at(1.0));
    at(0.5)
}
