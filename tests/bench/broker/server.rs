//! The servers under load, each a process with a fresh folder.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::{Bridge, Process, free_port, until};

const RULES: &str = "[[rule]]\nname = \"packaging\"\ntopic = \"plant1/packaging/{machine}/{signal}\"\n\
    device = \"{machine}\"\nadd = { signal = \"{signal}\", site = \"plant1\", time = \"{time}\" }\n";

/// A running server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

/// With fsync, one rule, and an uplink to where nobody listens.
pub(crate) fn brownbridge() -> Server {
    let dir = folder("bench-broker");
    let (mqtt, admin) = (free_port(), free_port());
    fs::create_dir_all(dir.join("rules")).unwrap();
    fs::write(dir.join("rules/10-bench.toml"), RULES).unwrap();
    let config = format!(
        "rules = \"rules\"\nstate = \"state\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [uplink]\nkind = \"mqtt\"\naddress = \"127.0.0.1:{}\"\ntls = false\n\
         [broker]\nlisten = \"127.0.0.1:{mqtt}\"\nconnect_timeout = \"3s\"\n\
         max_connections = 20000\nmax_connections_per_address = 20000\n",
        free_port(),
    );
    let Bridge { process, mqtt: address, .. } = Bridge::with_config(&dir, &config, (mqtt, admin));
    Server { name: "brownbridge", process, address }
}

pub(crate) fn has_mosquitto() -> bool {
    Command::new("mosquitto").arg("-h").stdout(Stdio::null()).status().is_ok()
}

/// With its defaults but for `max_inflight_messages`, and nothing on disk.
pub(crate) fn mosquitto() -> Server {
    let dir = folder("bench-mosquitto");
    let port = free_port();
    let config = dir.join("mosquitto.conf");
    let lines = "allow_anonymous true\nmax_inflight_messages 100\nmax_queued_messages 1000\nlog_dest stderr\n";
    // As root it would change to the user `mosquitto`, who may not enter the folder.
    fs::write(&config, format!("user root\nlistener {port} 127.0.0.1\n{lines}")).unwrap();
    let log = File::create(dir.join("log.txt")).unwrap();
    let process = Process::start(Command::new("mosquitto").arg("-c").arg(&config).stderr(log));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until("mosquitto listens", Duration::from_secs(20), || TcpStream::connect(address).ok());
    Server { name: "Mosquitto", process, address }
}

fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}
