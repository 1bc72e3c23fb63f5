//! The same load against brownbridge and against Mosquitto, in turns, on the same machine.
//!
//! brownbridge translates each publish by a rule that puts fields into its JSON, writes it to the spool and
//! acknowledges it after fsync; its hub cannot be reached, so that nothing goes up. Mosquitto has its defaults,
//! anonymous clients and a window of 100 to subscribers, and writes nothing to disk.
//! QoS 0 has no acknowledgement: there each connection ends with one publish at QoS 1, and the time runs until its
//! PUBACK, which for brownbridge means that all before it are on disk.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client;
use super::server::{self, Server};
use super::support::Publisher;

const ROUNDS: usize = 5;
/// How long a subscriber waits for more once the publishers are through.
const PATIENCE: Duration = Duration::from_millis(500);

struct Row {
    qos: u8,
    connections: usize,
    window: usize,
    subscriber: bool,
    total: usize,
}

const fn row(qos: u8, connections: usize, window: usize, subscriber: bool, total: usize) -> Row {
    Row { qos, connections, window, subscriber, total }
}

const ROWS: [Row; 6] = [
    row(0, 4, 0, false, 800_000),
    row(1, 4, 100, false, 600_000),
    row(1, 20, 1, false, 200_000),
    row(0, 4, 0, true, 400_000),
    row(1, 4, 100, true, 400_000),
    row(1, 20, 1, true, 200_000),
];

#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    cpu: f64,
    delivered: f64,
}

pub(crate) fn run() {
    if !server::has_mosquitto() {
        return println!("mosquitto is not installed (or /usr/sbin is not on the PATH): nothing to compare with");
    }
    println!("payload {} bytes; brownbridge enriches it by one rule and syncs it to disk,", client::payload().len());
    println!("Mosquitto forwards it to subscribers and forgets it; medians of {ROUNDS} rounds in turns\n");
    println!("                                         msg/s                    CPU s per 100,000");
    println!(
        "                             brownbridge  Mosquitto  ratio   brownbridge  Mosquitto  ratio   subscriber got"
    );
    for row in &ROWS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(measure(row, server::brownbridge()));
            theirs.push(measure(row, server::mosquitto()));
        }
        let (ours, theirs) = (median(&ours), median(&theirs));
        println!(
            "QoS {} x {:2}{}{} {:11.0} {:10.0} {:6.2} {:13.2} {:10.2} {:6.2}   {}",
            row.qos,
            row.connections,
            if row.window > 0 { format!(", window {:3}", row.window) } else { " ".repeat(12) },
            if row.subscriber { " +1 sub" } else { "       " },
            ours.rate,
            theirs.rate,
            ours.rate / theirs.rate,
            ours.cpu,
            theirs.cpu,
            ours.cpu / theirs.cpu,
            if row.subscriber {
                format!("{:.1} % / {:.1} %", ours.delivered * 100.0, theirs.delivered * 100.0)
            } else {
                String::new()
            },
        );
    }
}

fn measure(row: &Row, server: Server) -> Figures {
    let address = server.address;
    let subscriber = row.subscriber.then(|| {
        let mut stream = client::connect(address, "bench-subscriber").unwrap();
        client::subscribe(&mut stream, "plant1/#", row.qos).unwrap();
        stream
    });
    let before = server.process.cpu();
    let started = Instant::now();
    let counting = subscriber.map(|mut stream| {
        let total = row.total;
        std::thread::spawn(move || client::count_publishes(&mut stream, total, PATIENCE))
    });
    let publishers: Vec<_> = (0..row.connections)
        .map(|n| {
            let (each, window) = (row.total / row.connections, row.window);
            std::thread::spawn(move || match window {
                0 => flood(address, n, each),
                window => windowed(address, n, each, window),
            })
        })
        .collect();
    publishers.into_iter().for_each(|thread| thread.join().unwrap());
    let mut took = started.elapsed();
    let mut delivered = 0.0;
    if let Some(counting) = counting {
        let (count, last) = counting.join().unwrap();
        took = took.max(last - started);
        delivered = count as f64 / row.total as f64;
    }
    let cpu = (server.process.cpu() - before).as_secs_f64() * 100_000.0 / row.total as f64;
    Figures { rate: row.total as f64 / took.as_secs_f64(), cpu, delivered }
}

fn topic(n: usize) -> String {
    format!("plant1/packaging/machine{n}/speed")
}

/// Publishes at QoS 0 as fast as the socket takes it, the last one at QoS 1.
fn flood(address: SocketAddr, n: usize, total: usize) {
    const BATCH: usize = 64;
    let mut stream = client::connect(address, &format!("bench-{n}")).unwrap();
    let (topic, payload) = (topic(n), client::payload());
    let (mut batch, mut last) = (Vec::new(), Vec::new());
    (0..BATCH).for_each(|_| client::publish(&mut batch, &topic, &payload));
    let one = batch.len() / BATCH;
    let mut left = total - 1;
    while left > 0 {
        let count = left.min(BATCH);
        stream.write_all(&batch[..count * one]).unwrap();
        left -= count;
    }
    client::publish_once(&mut last, &topic, 1, &payload);
    stream.write_all(&last).unwrap();
    let mut puback = [0; 4];
    stream.read_exact(&mut puback).unwrap();
    assert_eq!(puback, [0x40, 2, 0, 1]);
}

/// Publishes at QoS 1 with `window` in flight.
fn windowed(address: SocketAddr, n: usize, total: usize, window: usize) {
    let mut publisher = Publisher::connect(address, &format!("bench-{n}")).unwrap();
    let (topic, payload, mut out) = (topic(n), client::payload(), Vec::new());
    let (mut sent, mut done) = (0, 0);
    while done < total {
        while sent < total && publisher.inflight() < window {
            publisher.publish(&mut out, &topic, &payload);
            sent += 1;
        }
        publisher.flush(&mut out).unwrap();
        done += publisher.acknowledged().unwrap().len();
    }
}

/// The median of each figure.
fn median(all: &[Figures]) -> Figures {
    let middle = |figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = all.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures { rate: middle(|f| f.rate), cpu: middle(|f| f.cpu), delivered: middle(|f| f.delivered) }
}
