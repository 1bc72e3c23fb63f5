//! The real program under a service manager: what it tells, the sockets it is passed, and its end under load.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Pid, Signal, kill_process};
use support::{
    BINARY, Bridge, PATIENCE, Publisher, Sim, assert_nothing_missing, bodies, folder, free_port, number_publisher,
    publish_all, quarantined, until,
};

const RULES: &str = "[[rule]]\nname = \"all\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n";

/// Starts the bridge as systemd does: with a socket as descriptor 3, a place to tell things, and a watchdog.
fn start(dir: &Path, socket: &TcpListener, notify: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; export LISTEN_PID=$$ WATCHDOG_PID=$$; exec \"$@\"", "sh", BINARY, "run"])
        .arg("--config")
        .arg(dir.join("bridge.toml"))
        .env("LISTEN_FDS", "1")
        .env("WATCHDOG_USEC", "600000")
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket.try_clone().unwrap())))
        .stderr(fs::File::options().create(true).append(true).open(dir.join("log.txt")).unwrap())
        .spawn()
        .unwrap()
}

/// Reads what was told until a line is among it; returns all that was told with it.
fn told(notify: &UnixDatagram, line: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let len = notify.recv(&mut buffer).unwrap_or_else(|error| panic!("{line} is not told: {error}"));
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        if text.lines().any(|told| told.starts_with(line)) {
            return text;
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn nobody_else_can_read_what_is_kept() {
    let dir = folder();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let state = dir.path().join("state");
    // As an older version left them.
    for folder in ["", "spool", "quarantine"] {
        fs::create_dir_all(state.join(folder)).unwrap();
        fs::set_permissions(state.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(state.join("ledger.json"), "").unwrap();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules =
        format!("{RULES}[[rule]]\nname = \"n\"\ntopic = \"n/{{device}}\"\ndevice = \"n\"\ndecode = \"number\"\n");
    let bridge = Bridge::start(dir.path(), &sim, &rules, "");
    publish_all(bridge.mqtt, "t/d", ["{}"]);
    publish_all(bridge.mqtt, "n/d", ["no number"]);
    until("delivered", PATIENCE, || (sim.received().len() == 1).then_some(()));
    until("quarantined", PATIENCE, || (quarantined(dir.path()).len() == 1).then_some(()));
    drop(bridge);
    let (mut folders, mut seen) = (vec![state], 0);
    while let Some(folder) = folders.pop() {
        let mode = fs::metadata(&folder).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let found = entry.metadata().unwrap();
            match found.is_dir() {
                true => folders.push(entry.path()),
                false => assert_eq!(found.mode() & 0o077, 0, "{}", entry.path().display()),
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} files and folders");
}

#[test]
fn a_restart_refuses_no_connection_and_systemd_is_told() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let plant = socket.local_addr().unwrap();
    let notify = UnixDatagram::bind(dir.path().join("notify.sock")).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    fs::create_dir(dir.path().join("rules")).unwrap();
    fs::write(dir.path().join("rules/1.toml"), RULES).unwrap();
    let config = format!(
        "state = \"state\"\n[broker]\nlisten = \"{plant}\"\n[admin]\nlisten = \"127.0.0.1:{}\"\n[uplink]\n\
         connection_string = \"{}\"\nca_file = \"sim/ca.pem\"\naddress = \"127.0.0.1:{}\"\n",
        free_port(),
        sim.connection_string,
        sim.port
    );
    fs::write(dir.path().join("bridge.toml"), config).unwrap();
    let start = || start(dir.path(), &socket, &dir.path().join("notify.sock"));

    let mut first = start();
    for line in ["READY=1", "WATCHDOG=1", "STATUS=ready", "WATCHDOG=1"] {
        told(&notify, line);
    }
    signal(&first, Signal::HUP);
    assert!(told(&notify, "RELOADING=1").contains("MONOTONIC_USEC="), "as Type=notify-reload wants it");
    // Before it is ready again, what was asked for is done.
    told(&notify, "READY=1");
    assert!(fs::read_to_string(dir.path().join("log.txt")).unwrap().contains("the rules have not changed"));
    let mut publisher = Publisher::connect(plant, "before").unwrap();
    let mut out = Vec::new();
    publisher.publish(&mut out, "t/a", b"before");
    publisher.flush(&mut out).unwrap();
    publisher.acknowledged().unwrap();

    // Clients knock all the time; not one is turned away.
    let stop = Arc::new(AtomicBool::new(false));
    let knocking = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut connected = 0;
            while !stop.load(Ordering::Relaxed) {
                // One that was accepted in the last moment before the end is closed, which is no refusal.
                match Publisher::connect(plant, &format!("k{connected}")) {
                    Ok(_) => connected += 1,
                    Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused),
                }
            }
            connected
        })
    };
    signal(&first, Signal::TERM);
    told(&notify, "STOPPING=1");
    assert_eq!(first.wait().unwrap().code(), Some(0));
    let waiting = std::thread::spawn(move || Publisher::connect(plant, "meanwhile").map(drop));
    let mut second = start();
    told(&notify, "READY=1");
    waiting.join().unwrap().expect("who came while there was none is served by the next");
    until("served again", PATIENCE, || Publisher::connect(plant, "after").ok());
    stop.store(true, Ordering::Relaxed);
    assert!(knocking.join().unwrap() > 0);
    signal(&second, Signal::TERM);
    assert_eq!(second.wait().unwrap().code(), Some(0));
    assert!(fs::read_to_string(dir.path().join("log.txt")).unwrap().contains("a listening socket was taken over"));
    assert_eq!(bodies(&sim), ["before"]);
}

#[test]
fn a_passed_socket_nobody_asked_for_is_told() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, "");
    assert_eq!(bridge.process.terminate(), Some(0));
    let stray = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = start(dir.path(), &stray, &dir.path().join("nobody.sock"));
    until("it runs on its own socket", PATIENCE, || std::net::TcpStream::connect(bridge.mqtt).ok());
    until("told", PATIENCE, || {
        let log = fs::read_to_string(&bridge.log).unwrap();
        log.contains("is no `listen` of bridge.toml").then_some(())
    });
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn sigterm_under_load_ends_in_order_and_loses_nothing() {
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let address: Arc<Mutex<SocketAddr>> = Arc::new(Mutex::new(([127, 0, 0, 1], 1).into()));
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..3)
        .map(|n| {
            let (address, stop) = (Arc::clone(&address), Arc::clone(&stop));
            std::thread::spawn(move || number_publisher(address, format!("p{n}"), stop))
        })
        .collect();
    for n in 1..=4 {
        let mut bridge = Bridge::start(dir.path(), &sim, RULES, "drain_timeout = \"200ms\"");
        *address.lock().unwrap() = bridge.mqtt;
        let deep = f64::from(n * 300);
        until("load", PATIENCE, || (bridge.metric("brownbridge_publishes_received_total") > deep).then_some(()));
        assert_eq!(bridge.process.terminate(), Some(0));
    }
    stop.store(true, Ordering::Relaxed);
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, "");
    *address.lock().unwrap() = bridge.mqtt;
    let acknowledged: Vec<String> = publishers.into_iter().flat_map(|p| p.join().unwrap()).collect();
    until("the spool drains", Duration::from_secs(60), || {
        (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(())
    });
    let books = support::assert_ledger(&bridge, 0, acknowledged.len() as u64);
    for (part, name) in [("messages", "unrecorded"), ("messages", "reopened"), ("publishes", "uncounted")] {
        assert_eq!(books[part][name], 0, "an orderly end leaves nothing open: {books}");
    }
    assert_eq!(bridge.process.terminate(), Some(0));
    assert_eq!(sim.process.terminate(), Some(0));
    assert_nothing_missing(|| sim.received(), &acknowledged);
}
