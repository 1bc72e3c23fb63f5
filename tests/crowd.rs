//! Crowds and rude clients against the real program: what one client is owed whatever the others do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{Bridge, Publisher, free_port, until};

const PATIENCE: Duration = Duration::from_secs(20);
const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c";

/// A bridge with more of `[broker]` and an uplink to nowhere.
fn start(dir: &Path, more: &str) -> Bridge {
    Bridge::alone(dir, more, (free_port(), free_port()))
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn signal(bridge: &Bridge, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(bridge.process.id()).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_plant_that_comes_back_at_once_is_not_turned_away() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bridge = start(dir.path(), "");
    let allowed: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    // All at once, for a program that gets no time.
    signal(&bridge, Signal::STOP);
    let mut clients: Vec<TcpStream> = (0..allowed.min(900))
        .map(|n| {
            let connected = TcpStream::connect_timeout(&bridge.mqtt, PATIENCE);
            let mut stream = connected.unwrap_or_else(|error| panic!("connection {n}: {error}"));
            let mut connect = CONNECT[..12].to_vec();
            connect[1] += 4;
            connect.extend(format!("\0\x05{n:05}").bytes());
            stream.write_all(&connect).unwrap();
            stream
        })
        .collect();
    signal(&bridge, Signal::CONT);
    for stream in &mut clients {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
    }
}

#[test]
fn others_are_served_while_sockets_are_half_open() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bridge = start(dir.path(), "connect_timeout = \"1s\"");
    let mut half_open: Vec<TcpStream> = (0..300).map(|_| open(bridge.mqtt)).collect();
    half_open.iter_mut().step_by(2).for_each(|stream| stream.write_all(&CONNECT[..9]).unwrap());
    // Subscribers that read nothing from here on.
    let mut deaf: Vec<TcpStream> = (0..20).map(|_| open(bridge.mqtt)).collect();
    for (n, stream) in deaf.iter_mut().enumerate() {
        let mut connect = CONNECT.to_vec();
        connect[14] = b'a' + u8::try_from(n).unwrap();
        stream.write_all(&[&connect[..], b"\x82\x06\0\x01\0\x01#\x01"].concat()).unwrap();
        stream.read_exact(&mut [0; 9]).unwrap();
    }
    let mut publisher = Publisher::connect(bridge.mqtt, "publisher").unwrap();
    let mut out = Vec::new();
    for _ in 0..2_000 {
        publisher.publish(&mut out, "plant1/hall/press/picture", &[0; 2_000]);
        publisher.flush(&mut out).unwrap();
        publisher.acknowledged().unwrap();
    }
    for stream in &mut half_open {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "closed without a word");
    }
    until("all are counted", PATIENCE, || {
        let page = bridge.get("/metrics");
        page.contains("brownbridge_broker_disconnects_total{reason=\"connect_timeout\"} 300\n").then_some(())
    });
    publisher.publish(&mut out, "plant1/hall/press/picture", b"still here");
    publisher.flush(&mut out).unwrap();
    publisher.acknowledged().unwrap();
}
