//! Sessions and retained messages of the real program, over an orderly restart and a kill.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, reason = "test code")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::{Bridge, free_port, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A client that says and hears bytes of MQTT 3.1.1.
struct Client(TcpStream);

impl Client {
    fn connect(port: u16, id: &str, clean: bool) -> (Self, bool) {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self(stream);
        let mut connect = vec![0x10, 12 + id.len() as u8, 0, 4];
        connect.extend(b"MQTT\x04");
        connect.extend([if clean { 2 } else { 0 }, 0, 0, 0, id.len() as u8]);
        connect.extend(id.as_bytes());
        client.send(&connect);
        let connack = client.read(4);
        assert_eq!(connack[..2], [0x20, 2]);
        (client, connack[2] == 1)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut packet = vec![0x82, 5 + filter.len() as u8, 0, 1, 0, filter.len() as u8];
        packet.extend(filter.as_bytes());
        packet.push(qos);
        self.send(&packet);
        assert_eq!(self.read(5), [0x90, 3, 0, 1, qos]);
    }

    /// QoS 1; 1 in `flags` is retain, 8 is DUP.
    fn publish(&mut self, flags: u8, topic: &str, id: u8, payload: &str) {
        self.send(&packet(flags, topic, id, payload));
        assert_eq!(self.read(4), [0x40, 2, 0, id]);
    }

    fn hears(&mut self, flags: u8, topic: &str, id: u8, payload: &str) {
        let expect = packet(flags, topic, id, payload);
        assert_eq!(self.read(expect.len()), expect);
    }
}

fn packet(flags: u8, topic: &str, id: u8, payload: &str) -> Vec<u8> {
    let mut packet = vec![0x32 | flags, (4 + topic.len() + payload.len()) as u8, 0, topic.len() as u8];
    packet.extend(topic.as_bytes());
    packet.extend([0, id]);
    packet.extend(payload.as_bytes());
    packet
}

/// Waits until the broker knows that a client has gone.
fn away(bridge: &Bridge) {
    until("it is away", PATIENCE, || (bridge.metric("brownbridge_broker_sessions_away") == 1.0).then_some(()));
}

#[test]
fn sessions_and_retained_messages_survive_a_restart_and_a_kill() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ports = (free_port(), free_port());
    let mut bridge = Bridge::alone(dir.path(), "", ports);
    let (mut hmi, present) = Client::connect(ports.0, "hmi", false);
    assert!(!present);
    hmi.subscribe("t", 1);
    drop(hmi);
    away(&bridge);
    let (mut plc, _) = Client::connect(ports.0, "plc", true);
    plc.publish(0, "t", 1, "first");
    plc.publish(1, "state", 2, "on");
    // An orderly end writes what changed last.
    assert_eq!(bridge.process.terminate(), Some(0));
    let mut bridge = Bridge::alone(dir.path(), "", ports);
    let (mut hmi, present) = Client::connect(ports.0, "hmi", false);
    assert!(present);
    hmi.hears(0, "t", 1, "first");
    let (mut plc, _) = Client::connect(ports.0, "plc", true);
    plc.publish(0, "t", 1, "second");
    hmi.hears(0, "t", 2, "second");
    hmi.send(&[0x40, 2, 0, 1]);
    hmi.subscribe("state", 1);
    hmi.hears(1, "state", 3, "on");
    drop(hmi);
    away(&bridge);
    plc.publish(0, "t", 2, "third");
    plc.publish(1, "state", 3, "off");
    // A kill may cost the last moment of retained messages: wait until it is written, beside the one that waits.
    let newest = || {
        let files = std::fs::read_dir(dir.path().join("state/sessions")).unwrap();
        let files: Vec<u8> = files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        (files.windows(3).filter(|part| part == b"off").count() >= 2).then_some(())
    };
    until("the journal", PATIENCE, newest);
    bridge.process.kill();
    let bridge = Bridge::alone(dir.path(), "", ports);
    let (mut hmi, present) = Client::connect(ports.0, "hmi", false);
    assert!(present);
    hmi.hears(8, "t", 2, "second");
    hmi.hears(9, "state", 3, "on");
    hmi.hears(0, "t", 4, "third");
    hmi.hears(0, "state", 5, "off");
    let (mut late, _) = Client::connect(ports.0, "late", true);
    late.subscribe("state", 0);
    assert_eq!(late.read(12), *b"\x31\x0a\0\x05stateoff");
    assert!(bridge.metric("brownbridge_broker_sessions") >= 2.0);
}
