//! Many clients, rude clients, and what another client feels of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};

use super::client;
use super::server::{self, Server};
use super::support::Publisher;

/// Names the server to a child of this program that plays clients which are stopped.
const CHILD: &str = "BROWNBRIDGE_BENCH_STOPPED_CLIENTS_OF";
const STOPPED: usize = 200;

pub(crate) fn run() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let files = limit.maximum.unwrap_or(u64::MAX);
    let mut starts: Vec<fn() -> Server> = vec![server::brownbridge];
    if server::has_mosquitto() {
        starts.push(server::mosquitto);
    }
    let each = |row: &dyn Fn(Server)| starts.iter().for_each(|start| row(start()));
    println!("\nconnected and idle                      KB each   RSS MB   connects/s, one after the other");
    for count in [1_000, 10_000].into_iter().filter(|count| files > count + 100) {
        each(&|server| idle(&server, count as usize));
    }
    println!("\n200 MB past subscribers that never read           RSS MB before   after   at most");
    each(&|server| never_reads(&server));
    println!("\nanother client's PUBACK, ms                          p50     p99     most");
    each(&|server| storm(&server));
    each(&|server| half_open(&server));
    each(&|server| stopped(&server));
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn idle(server: &Server, count: usize) {
    let before = server.process.rss().0;
    let started = Instant::now();
    let clients: Vec<TcpStream> =
        (0..count).map(|n| client::connect(server.address, &format!("idle-{n:05}")).unwrap()).collect();
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let after = server.process.rss().0;
    println!(
        "{:6} clients, {:11} {:20.1} {:8.1} {:8.0}",
        clients.len(),
        server.name,
        (after - before) as f64 / count as f64,
        megabytes(after),
        rate,
    );
}

/// One subscriber of each QoS that does not read, and 20,000 publishes of 10 KB.
fn never_reads(server: &Server) {
    let payload = vec![b'x'; 10_000];
    publish(server.address, &payload, 2_000);
    let before = server.process.rss().0;
    let subscribers: Vec<TcpStream> = (0..3)
        .map(|qos| {
            let mut stream = client::connect(server.address, &format!("never-reads-{qos}")).unwrap();
            client::subscribe(&mut stream, "plant1/#", qos).unwrap();
            stream
        })
        .collect();
    publish(server.address, &payload, 20_000);
    let (after, most) = server.process.rss();
    drop(subscribers);
    println!("{:11} {:47.1} {:9.1} {:8.1}", server.name, megabytes(before), megabytes(after), megabytes(most));
}

fn publish(address: SocketAddr, payload: &[u8], total: usize) {
    let mut publisher = Publisher::connect(address, "speaker").unwrap();
    let (mut out, mut sent, mut done) = (Vec::new(), 0, 0);
    while done < total {
        while sent < total && publisher.inflight() < 20 {
            publisher.publish(&mut out, "plant1/hall/machine/picture", payload);
            sent += 1;
        }
        publisher.flush(&mut out).unwrap();
        done += publisher.acknowledged().unwrap().len();
    }
}

/// A client that publishes at QoS 1 every two milliseconds and notes how long each PUBACK takes.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Probe {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let mut publisher = Publisher::connect(address, "probe").unwrap();
        let thread = std::thread::spawn(move || {
            let (payload, mut out, mut took) = (client::payload(), Vec::new(), Vec::new());
            while !until.load(Ordering::Relaxed) {
                publisher.publish(&mut out, "plant1/packaging/machine1/speed", &payload);
                publisher.flush(&mut out).unwrap();
                took.extend(publisher.acknowledged().unwrap());
                std::thread::sleep(Duration::from_millis(2));
            }
            took
        });
        Self { stop, thread }
    }

    fn report(self, name: &str, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.thread.join().unwrap();
        took.sort();
        let ms = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
        println!("{name:11} {what:36} {:8.2} {:7.2} {:8.2}", ms(0.5), ms(0.99), ms(1.0));
    }
}

/// Eight clients that connect and disconnect for three seconds, each as often as it can.
fn storm(server: &Server) {
    let address = server.address;
    let quiet = Probe::start(address);
    std::thread::sleep(Duration::from_secs(2));
    quiet.report(server.name, "nobody else");
    let probe = Probe::start(address);
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (stop, count) = (&stop, &count);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = client::connect(address, &format!("storm-{thread}")).unwrap();
                    stream.write_all(&[0xe0, 0]).unwrap();
                    // The server closes: so the ports of this side are free again at once.
                    let _ = stream.read(&mut [0; 1]);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
    });
    probe.report(server.name, &format!("{} connect and go each second", count.load(Ordering::Relaxed) / 3));
}

/// Sockets that never say a whole CONNECT.
fn half_open(server: &Server) {
    const EACH: usize = 2_000;
    let probe = Probe::start(server.address);
    let connect = client::connect_packet("half");
    let mut sockets = Vec::new();
    for n in 0..EACH * 2 {
        let mut socket = TcpStream::connect(server.address).unwrap();
        if n % 2 == 0 {
            socket.write_all(&connect[..connect.len() / 2]).unwrap();
        }
        sockets.push(socket);
    }
    // Their time to say CONNECT is three seconds.
    std::thread::sleep(Duration::from_millis(3_500));
    probe.report(server.name, &format!("{EACH} silent, {EACH} with half a CONNECT"));
    let closed = sockets.iter_mut().map(is_closed).filter(|closed| *closed).count();
    println!("{:11} .. closed {closed} of them within 3.5 s", server.name);
}

fn is_closed(socket: &mut TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    matches!(socket.read(&mut [0; 1]), Ok(0))
}

/// Subscribers whose process is stopped: their sockets stay open and are never read.
fn stopped(server: &Server) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, server.address.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
    let before = server.process.rss().0;
    let probe = Probe::start(server.address);
    publish(server.address, &[b'x'; 1_000], 20_000);
    probe.report(server.name, &format!("20 MB to {STOPPED} stopped subscribers"));
    let grown = server.process.rss().1 - before;
    println!("{:11} .. grew by at most {:.1} MB", server.name, megabytes(grown));
    let _ = child.kill();
    let _ = child.wait();
}

/// True where this process was started to play the clients of [`stopped`], once it has.
pub(crate) fn is_child() -> bool {
    let Ok(address) = std::env::var(CHILD) else { return false };
    let address: SocketAddr = address.parse().unwrap();
    let clients: Vec<TcpStream> = (0..STOPPED)
        .map(|n| {
            let mut stream = client::connect(address, &format!("stopped-{n}")).unwrap();
            client::subscribe(&mut stream, "plant1/#", 1).unwrap();
            stream
        })
        .collect();
    println!("ready");
    // Its parent stops it here, and kills it in the end.
    std::thread::sleep(Duration::from_secs(60));
    drop(clients);
    true
}
