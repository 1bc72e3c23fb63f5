//! Sparkplug with the real program: what births declared survives the program, so that data by alias has its names.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::{BINARY, Bridge, Publisher, Sim, folder, free_port, quarantined, until};

const PATIENCE: Duration = Duration::from_secs(60);
const RULES: &str = "[[rule]]\ntopic = \"spBv1.0/{group}/+/{node}/#\"\ndecode = \"sparkplug\"\ndevice = \"{node}\"\n";
/// Made by a public Sparkplug library: a birth with `bdSeq` 7, that of a device, data of it by alias, and the death.
const NBIRTH: &str = "0880b09cdb9f3412120a0562645365711880b09cdb9f342004580712210a144e6f646520436f6e74726f6c2f526562697274681880b09cdb9f34200b700012280a1350726f706572746965732f48617264776172651880b09cdb9f34200c7a08456467652d3130301800";
const DBIRTH: &str = "0880b09cdb9f3412210a0b54656d706572617475726510011880b09cdb9f34200a690000000000803540121a0a08507265737375726510021880b09cdb9f342009650000a03f12160a0752756e6e696e6710031880b09cdb9f34200b700112180a05436f756e7410041880b09cdb9f34200350fbffffff0f12190a05546f74616c10051880b09cdb9f34200858cb89ec8ff723121c0a05426174636810061880b09cdb9f34200c7a08422d34322fc2b04312140a05537061726510071880b09cdb9f34200238011801";
const BY_ALIAS: &str = "08e8b79cdb9f341212100118e8b79cdb9f34690000000000003640120b100318e8b79cdb9f3470001802";
const NDEATH: &str = "12120a0562645365711880b09cdb9f3420045807";
/// A birth of the same device that gives the alias 1 to `Speed` and 3 to `On`.
const OTHER_DBIRTH: &str = "120b0a05537065656410012009120a0a024f6e1003200b7001";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// Publishes at QoS 1 and returns when that is acknowledged.
fn publish(bridge: &Bridge, kind: &str, payload: &str) {
    let mut publisher = Publisher::connect(bridge.mqtt, "edge").unwrap();
    let mut out = Vec::new();
    publisher.publish(&mut out, &topic(kind), &hex(payload));
    publisher.flush(&mut out).unwrap();
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
}

fn topic(kind: &str) -> String {
    let device = if kind.starts_with('D') { "/PLC-7" } else { "" };
    format!("spBv1.0/PlantA/{kind}/Line1{device}")
}

/// A client of MQTT 3.1.1.
fn connected(bridge: &Bridge) -> TcpStream {
    let mut stream = TcpStream::connect(bridge.mqtt).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02qz").unwrap();
    assert_eq!(read(&mut stream, 4)[..2], [0x20, 2]);
    stream
}

fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// The same at QoS 0, as Sparkplug has it: nobody says whether it has come.
fn publish_unanswered(bridge: &Bridge, kind: &str, payload: &str) {
    let mut stream = connected(bridge);
    let (topic, payload) = (topic(kind), hex(payload));
    let length = 2 + topic.len() + payload.len();
    let mut packet = vec![0x30, length as u8 | 0x80, (length >> 7) as u8, 0, topic.len() as u8];
    packet.extend_from_slice(topic.as_bytes());
    packet.extend_from_slice(&payload);
    stream.write_all(&packet).unwrap();
}

/// The files in which births are kept.
fn journals(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("state/births")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn on_disk(dir: &Path, text: &str) -> bool {
    journals(dir)
        .iter()
        .any(|file| fs::read(file).unwrap_or_default().windows(text.len()).any(|part| part == text.as_bytes()))
}

/// In how many messages of the hub this is.
fn times(sim: &Sim, text: &str) -> usize {
    sim.received().iter().filter(|message| message["body"].as_str().unwrap_or_default().contains(text)).count()
}

/// Waits until the hub has a message with this in it.
fn arrives(sim: &Sim, text: &str) {
    until(text, PATIENCE, || (times(sim, text) > 0).then_some(()));
}

#[test]
fn data_by_alias_has_its_names_after_kill_9() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let start = || Bridge::start(dir.path(), &sim, RULES, "");
    let mut bridge = start();
    publish(&bridge, "NBIRTH", NBIRTH);
    publish(&bridge, "DBIRTH", DBIRTH);
    bridge.process.kill();

    let mut bridge = start();
    let named = r#""Temperature":22,"Running":false"#;
    publish(&bridge, "DDATA", BY_ALIAS);
    arrives(&sim, named);
    for (name, expect) in [("nodes", 1.0), ("births", 2.0), ("births_kept", 1.0)] {
        assert_eq!(bridge.metric(&format!("brownbridge_sparkplug_{name}")), expect, "{name}");
    }
    let status = Command::new(BINARY).args(["status", "--admin", &bridge.admin.to_string()]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("sparkplug  2 births hold, of 1 edge node; "), "{status}");

    // What `explain` says, of which data, with the births that the bridge at work keeps or without.
    let kept = fs::read_dir(dir.path().join("state/births")).unwrap().count();
    let (by_alias, by_another) = (dir.path().join("by-alias"), dir.path().join("by-another"));
    fs::write(&by_alias, hex(BY_ALIAS)).unwrap();
    fs::write(&by_another, hex("120410637000")).unwrap();
    for (source, payload, expect) in [
        (["--config", "bridge.toml"], &by_alias, named),
        (["--config", "bridge.toml"], &by_another, "the birth that holds does not declare the alias 99"),
        (["--rules", "rules"], &by_alias, "explain knows no births: with --config it reads those the bridge keeps"),
    ] {
        let told = Command::new(BINARY)
            .current_dir(dir.path())
            .args(["explain", &topic("DDATA"), "--payload-file"])
            .arg(payload)
            .args(source)
            .output()
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert!(told.contains(expect), "{source:?}: {told}");
    }
    assert_eq!(fs::read_dir(dir.path().join("state/births")).unwrap().count(), kept, "nothing is written");

    // As it is most often: nobody waits for an answer, and what the birth says is on disk soon.
    publish_unanswered(&bridge, "DBIRTH", OTHER_DBIRTH);
    until("the birth is on disk", PATIENCE, || on_disk(dir.path(), "Speed").then_some(()));
    bridge.process.kill();
    // And the power went while something was written.
    let last = journals(dir.path()).pop().unwrap();
    OpenOptions::new()
        .append(true)
        .open(last)
        .unwrap()
        .write_all(b"\x40\0\0\0\x01\x02\x03\x04[\"death\",\"Pl")
        .unwrap();

    let mut bridge = start();
    publish(&bridge, "DDATA", BY_ALIAS);
    arrives(&sim, r#""On":false"#);
    assert_eq!(times(&sim, named), 1, "the old names are gone");
    publish(&bridge, "NDEATH", NDEATH);
    bridge.process.kill();

    let bridge = start();
    publish(&bridge, "DDATA", BY_ALIAS);
    let failed = quarantined(dir.path());
    assert_eq!((failed.len(), &failed[0]["reason"]), (1, &"unknown_alias".into()), "{failed:?}");
    assert_eq!(bridge.metric("brownbridge_sparkplug_births"), 0.0);
}

/// Whoever does not know the births of a node asks for them, once, where the rule says so.
#[test]
fn an_unknown_node_is_asked_for_its_births() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = RULES.replace("\"sparkplug\"", "{ format = \"sparkplug\", rebirth = true }");
    let bridge = Bridge::start(dir.path(), &sim, &rules, "");
    publish(&bridge, "DDATA", BY_ALIAS);
    let asked = |outcome: &str, times: u32| {
        let line = format!("brownbridge_sparkplug_rebirths_total{{outcome=\"{outcome}\"}} {times}\n");
        until(&line, PATIENCE, || bridge.get("/metrics").contains(&line).then_some(()));
    };
    asked("no_subscriber", 1);

    let mut node = connected(&bridge);
    let (other, command) = ("spBv1.0/PlantA/NCMD/Line2", "spBv1.0/+/NCMD/#");
    node.write_all(&[0x82, 21, 0, 1, 0, 16]).unwrap();
    node.write_all(&[command.as_bytes(), &[0]].concat()).unwrap();
    assert_eq!(read(&mut node, 5)[..2], [0x90, 3]);
    let mut publisher = Publisher::connect(bridge.mqtt, "edge").unwrap();
    let mut out = Vec::new();
    for topic in ["spBv1.0/PlantA/DDATA/Line2/PLC-7", "spBv1.0/PlantA/NDATA/Line2"] {
        publisher.publish(&mut out, topic, &hex(BY_ALIAS));
    }
    publisher.flush(&mut out).unwrap();
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
    let head = read(&mut node, 2);
    let packet = read(&mut node, usize::from(head[1]));
    assert_eq!((head[0], &packet[2..2 + other.len()]), (0x30, other.as_bytes()));
    let name = b"Node Control/Rebirth";
    assert!(packet.windows(name.len()).any(|part| part == name) && packet.ends_with(&[0x20, 11, 0x70, 1]));
    asked("asked", 1);
    asked("no_subscriber", 1);
}

/// What an operator retries is older than what the device said since: the names of now stay, also over a restart.
#[test]
fn a_birth_out_of_the_quarantine_undoes_none_that_came_since() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let mut bridge = Bridge::start(dir.path(), &sim, &RULES.replace("sparkplug", "json"), "");
    publish(&bridge, "DBIRTH", DBIRTH);
    assert_eq!(quarantined(dir.path()).len(), 1);
    assert_eq!(bridge.process.terminate(), Some(0));

    let mut bridge = Bridge::start(dir.path(), &sim, RULES, "");
    publish(&bridge, "DBIRTH", OTHER_DBIRTH);
    let retried = Command::new(BINARY)
        .args(["quarantine", "retry", "--all", "--config"])
        .arg(dir.path().join("bridge.toml"))
        .output()
        .unwrap();
    assert_eq!(retried.status.code(), Some(0), "{retried:?}");
    arrives(&sim, "Pressure");
    publish(&bridge, "DDATA", BY_ALIAS);
    arrives(&sim, r#""On":false"#);
    assert_eq!(bridge.process.terminate(), Some(0));

    let bridge = Bridge::start(dir.path(), &sim, RULES, "");
    publish(&bridge, "DDATA", BY_ALIAS);
    until("twice", PATIENCE, || (times(&sim, r#""On":false"#) == 2).then_some(()));
    assert_eq!(times(&sim, r#""Running":false"#), 0, "the old birth names nothing");
    drop(bridge);
}
