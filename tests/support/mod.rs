//! The real program as processes, and a plain MQTT 3.1.1 publisher, for tests and benchmarks.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "test code"
)]

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub mod clock;
pub mod site;

pub const BINARY: &str = env!("CARGO_BIN_EXE_brownbridge");

/// Waits for something another process brings about.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port nobody listens on at this moment. It lies below those the system gives to connections, so that none of them
/// takes it before it is used.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// A process that dies with its value.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }

    /// The exit code, once there is one.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.0.try_wait().unwrap()?.code()
    }

    /// Resident memory in KiB: now, and the most there was.
    pub fn rss(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// CPU time used so far, in clock ticks of 10 ms.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl From<Child> for Process {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `brownbridge sim`.
pub struct Sim {
    pub process: Process,
    pub host: IpAddr,
    pub port: u16,
    pub connection_string: String,
    pub dir: PathBuf,
    output: PathBuf,
}

impl Sim {
    /// Starts on `port`; its keys and output are kept in `dir`, so that a restart is the same hub.
    pub fn start(dir: &Path, port: u16, args: &[&str]) -> Self {
        Self::start_as(Command::new(BINARY), ([127, 0, 0, 1], port).into(), dir, args)
    }

    /// The same by a command that runs the program elsewhere.
    pub fn start_as(mut program: Command, listen: SocketAddr, dir: &Path, args: &[&str]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let output = dir.join("received.jsonl");
        let file = File::options().create(true).append(true).open(&output).unwrap();
        let mut child = program
            .args(["sim", "--listen", &listen.to_string(), "--dir"])
            .arg(dir)
            .args(args)
            .stdout(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut connection_string = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        for line in lines.by_ref() {
            if let Some(text) = line.strip_prefix("connection_string = \"") {
                connection_string = text.trim_end_matches('"').to_owned();
            }
            if line.starts_with("address") {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        assert!(!connection_string.is_empty(), "the simulator did not start");
        let (host, port) = (listen.ip(), listen.port());
        Self { process: Process(child), host, port, connection_string, dir: dir.to_owned(), output }
    }

    /// Every message received so far.
    pub fn received(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// `brownbridge run`.
pub struct Bridge {
    pub process: Process,
    pub mqtt: SocketAddr,
    pub admin: SocketAddr,
    pub log: PathBuf,
}

impl Bridge {
    /// Writes `bridge.toml` into `dir` and starts; `extra` is more of `[uplink]`, then further sections.
    pub fn start(dir: &Path, sim: &Sim, rules: &str, extra: &str) -> Self {
        Self::start_in(dir, sim, (rules, extra), &[])
    }

    /// The same with environment variables.
    pub fn start_in(dir: &Path, sim: &Sim, (rules, extra): (&str, &str), environment: &[(&str, &str)]) -> Self {
        Self::configured(dir, sim, ("", rules, extra), environment)
    }

    /// The same with more above the sections.
    pub fn start_top(dir: &Path, sim: &Sim, top: &str, (rules, extra): (&str, &str)) -> Self {
        Self::configured(dir, sim, (top, rules, extra), &[])
    }

    fn configured(
        dir: &Path,
        sim: &Sim,
        (top, rules, extra): (&str, &str, &str),
        environment: &[(&str, &str)],
    ) -> Self {
        let (mqtt, admin) = (free_port(), free_port());
        let config = format!(
            "rules = \"rules\"\nstate = \"state\"\n{top}\n\
             [broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [uplink]\nconnection_string = \"{}\"\nca_file = \"{}\"\naddress = \"{}:{}\"\n{extra}\n",
            sim.connection_string,
            sim.dir.join("ca.pem").display(),
            sim.host,
            sim.port,
        );
        fs::create_dir_all(dir.join("rules")).unwrap();
        fs::write(dir.join("rules/10-test.toml"), rules).unwrap();
        Self::launch(dir, &config, (mqtt, admin), environment)
    }

    /// A bridge with more of `[broker]`, no rule, and an uplink to nowhere. On the same ports it is the same bridge.
    pub fn alone(dir: &Path, broker: &str, (mqtt, admin): (u16, u16)) -> Self {
        fs::create_dir_all(dir.join("rules")).unwrap();
        fs::write(dir.join("rules/1.toml"), "").unwrap();
        let config = format!(
            "state = \"state\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [uplink]\nkind = \"mqtt\"\naddress = \"127.0.0.1:9\"\ntls = false\ndrain_timeout = \"10ms\"\n\
             [broker]\nlisten = \"127.0.0.1:{mqtt}\"\n{broker}\n"
        );
        Self::with_config(dir, &config, (mqtt, admin))
    }

    pub fn with_config(dir: &Path, config: &str, ports: (u16, u16)) -> Self {
        Self::launch(dir, config, ports, &[])
    }

    /// The same with environment variables.
    pub fn launch(dir: &Path, config: &str, (mqtt, admin): (u16, u16), environment: &[(&str, &str)]) -> Self {
        fs::write(dir.join("bridge.toml"), config).unwrap();
        let log = dir.join("log.txt");
        let child = Command::new(BINARY)
            .args(["run", "--config"])
            .arg(dir.join("bridge.toml"))
            .envs(environment.iter().copied())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut bridge = Self { process: Process(child), mqtt: address(mqtt), admin: address(admin), log };
        until("the bridge listens", Duration::from_secs(20), || {
            let running = bridge.process.0.try_wait().unwrap().is_none();
            assert!(running, "the bridge ended: {}", fs::read_to_string(&bridge.log).unwrap());
            TcpStream::connect(bridge.mqtt).and_then(|_| TcpStream::connect(bridge.admin)).ok()
        });
        // The sockets listen first; this is answered when everything is there.
        bridge.get("/healthz");
        bridge
    }

    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        metric(&self.get("/metrics"), name)
    }
}

/// A plain MQTT 3.1.1 client that publishes at QoS 1 and counts its acknowledgements.
pub struct Publisher {
    stream: TcpStream,
    next: u16,
    /// When each publish in flight was written.
    inflight: VecDeque<Instant>,
    partial: Vec<u8>,
}

impl Publisher {
    pub fn connect(address: SocketAddr, client_id: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut publisher = Self { stream, next: 0, inflight: VecDeque::new(), partial: Vec::new() };
        let id = client_id.as_bytes();
        let mut connect = vec![0x10, 12 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, id.len() as u8];
        connect.extend(id);
        publisher.stream.write_all(&connect)?;
        let mut connack = [0; 4];
        publisher.stream.read_exact(&mut connack)?;
        if connack != [0x20, 2, 0, 0] {
            return Err(io::Error::other(format!("CONNACK {connack:?}")));
        }
        Ok(publisher)
    }

    /// Publishes in flight.
    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// Appends a PUBLISH to `out`; send it with [`flush`](Self::flush).
    pub fn publish(&mut self, out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
        self.next = self.next.checked_add(1).unwrap_or(1);
        out.push(0x32);
        let mut len = 4 + topic.len() + payload.len();
        while len >= 128 {
            out.push((len % 128) as u8 | 0x80);
            len /= 128;
        }
        out.push(len as u8);
        out.extend((topic.len() as u16).to_be_bytes());
        out.extend(topic.as_bytes());
        out.extend(self.next.to_be_bytes());
        out.extend(payload);
        self.inflight.push_back(Instant::now());
    }

    /// Writes what [`publish`](Self::publish) collected.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.stream.write_all(out)?;
        out.clear();
        Ok(())
    }

    /// Reads at least one acknowledgement; returns how long each took.
    pub fn acknowledged(&mut self) -> io::Result<Vec<Duration>> {
        let mut buf = [0; 4096];
        while self.partial.len() < 4 {
            let n = self.stream.read(&mut buf)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.partial.extend(&buf[..n]);
        }
        let now = Instant::now();
        let whole = self.partial.len() / 4;
        let mut took = Vec::with_capacity(whole);
        for ack in self.partial.drain(..whole * 4).collect::<Vec<u8>>().chunks(4) {
            assert_eq!(ack[..2], [0x40, 2], "a PUBACK");
            took.push(now - self.inflight.pop_front().expect("a publish for each acknowledgement"));
        }
        Ok(took)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.stream.write_all(&[0xe0, 0]);
    }
}

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of its own below target/.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Publishes in one connection and waits for all acknowledgements.
pub fn publish_all<'a>(address: SocketAddr, topic: &str, payloads: impl IntoIterator<Item = &'a str>) {
    let mut publisher = Publisher::connect(address, "test").unwrap();
    let mut out = Vec::new();
    for payload in payloads {
        publisher.publish(&mut out, topic, payload.as_bytes());
    }
    publisher.flush(&mut out).unwrap();
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
}

/// The payloads the simulator printed.
pub fn bodies(sim: &Sim) -> Vec<String> {
    sim.received().iter().map(|message| message["body"].as_str().unwrap_or_default().to_owned()).collect()
}

/// What lies in the quarantine of the state folder in `dir`.
pub fn quarantined(dir: &Path) -> Vec<serde_json::Value> {
    let files = fs::read_dir(dir.join("state/quarantine")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|kind| kind == "jsonl")).collect();
    files.sort();
    let texts = files.into_iter().map(|path| fs::read_to_string(path).unwrap());
    texts.flat_map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()).collect()
}

/// The equations of src/metrics.rs hold, all on one page. A message may be between two counters when a page is made, so
/// another look is allowed; what is out of balance for good fails.
pub fn assert_conserved(bridge: &Bridge) {
    let end = Instant::now() + PATIENCE;
    loop {
        let page = bridge.get("/metrics");
        match imbalance(&page) {
            None => return,
            Some(told) if Instant::now() > end => panic!("{told}\n{page}"),
            Some(_) => std::thread::yield_now(),
        }
    }
}

fn imbalance(page: &str) -> Option<String> {
    let m = |name: &str| metric(page, &format!("brownbridge_{name}"));
    let taken = m("publishes_translated_total") + m("messages_dropped_total") + m("messages_quarantined_total");
    let received = m("publishes_received_total");
    let made = m("messages_translated_total") + m("spool_recovered_total") + m("shelf_recovered_total");
    let given_up = m("messages_shed_total") + m("hub_messages_quarantined_total");
    let lost = m("spool_lost_total") + m("shelf_lost_total");
    let waiting = m("spool_messages") + m("shelf_messages");
    let gone = m("messages_delivered_total") + given_up + lost + waiting;
    let balanced = received == taken && made == gone;
    (!balanced)
        .then(|| format!("{received} received, {taken} taken; {made} made, {gone} delivered or known to be somewhere"))
}

/// The sum of a metric over its labels.
pub fn metric(page: &str, name: &str) -> f64 {
    let wanted = page
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')));
    wanted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The ledger after `crashes`, balanced and no smaller than what was `acknowledged` (each made one hub message).
pub fn assert_ledger(bridge: &Bridge, crashes: u64, acknowledged: u64) -> serde_json::Value {
    let answer = bridge.get("/ledger");
    let books: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let total = |value: &serde_json::Value| match value.as_object() {
        Some(reasons) => reasons.values().map(|count| count.as_u64().unwrap()).sum(),
        None => value.as_u64().unwrap(),
    };
    let m = |name: &str| total(&books["messages"][name]);
    let p = |name: &str| total(&books["publishes"][name]);
    assert_eq!(books["crashes"], crashes);
    assert_eq!(p("received"), p("translated") + p("dropped") + p("quarantined") + p("interrupted") + p("in_progress"));
    let settled = m("delivered") + m("shed") + m("quarantined") + m("lost") + m("unrecorded");
    assert_eq!(m("produced") + m("reopened"), settled + m("waiting"), "{books}");
    // Known from elsewhere: what waits, and the numbers the spool gave out.
    let waiting = bridge.metric("brownbridge_spool_messages") + bridge.metric("brownbridge_shelf_messages");
    assert_eq!(m("waiting"), waiting as u64, "{books}");
    let last: u64 = books["spools"].as_object().unwrap().values().map(|spool| spool["last"].as_u64().unwrap()).sum();
    assert_eq!(m("produced"), last, "{books}");
    assert!(m("produced") >= acknowledged, "{acknowledged} acknowledged: {books}");
    books
}

fn missing<'a>(received: &[serde_json::Value], acknowledged: &'a [String]) -> Vec<&'a String> {
    let mut ids: HashMap<&str, &str> = HashMap::new();
    let mut arrived = HashSet::new();
    for message in received {
        let body = message["body"].as_str().unwrap();
        arrived.insert(body.to_owned());
        let mid = message["system"]["message-id"].as_str().unwrap();
        assert_eq!(*ids.entry(mid).or_insert(body), body, "one $.mid, two messages");
    }
    acknowledged.iter().filter(|id| !arrived.contains(&format!("{{\"id\":\"{id}\"}}"))).collect()
}

/// Publishes numbered messages for ever, reconnecting; returns those that were acknowledged.
pub fn number_publisher(address: Arc<Mutex<std::net::SocketAddr>>, name: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let (mut acknowledged, mut next) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let to = *address.lock().unwrap();
        let Ok(mut publisher) = Publisher::connect(to, &name) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let (mut out, mut inflight) = (Vec::new(), VecDeque::new());
        while !stop.load(Ordering::Relaxed) {
            while inflight.len() < 20 {
                let id = format!("{name}-{next}");
                next += 1;
                publisher.publish(&mut out, &format!("t/{name}"), format!("{{\"id\":\"{id}\"}}").as_bytes());
                inflight.push_back(id);
            }
            if publisher.flush(&mut out).is_err() {
                break;
            }
            match publisher.acknowledged() {
                Ok(acks) => acknowledged.extend(inflight.drain(..acks.len())),
                Err(_) => break,
            }
        }
    }
    acknowledged
}

/// Every acknowledged id arrived, and copies of one message carry one message id.
pub fn assert_nothing_missing(received: impl Fn() -> Vec<serde_json::Value>, acknowledged: &[String]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let missing = missing(&received(), acknowledged);
        let (count, first) = (missing.len(), missing.first());
        if count == 0 {
            break;
        }
        // The simulator acknowledges before it prints.
        assert!(Instant::now() < end, "{count} acknowledged messages missing, first {first:?}");
    }
    assert!(acknowledged.len() > 200, "the test did too little: {} acknowledged", acknowledged.len());
}
