//! `brownbridge sim`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::run::{LogFormat, start_log};
use crate::amount::of;
use crate::hub::bag;
use crate::hub::connection_string::is_id;
use crate::hub::limits::MQTT_PORT;
use crate::hub::sas::Key;
use crate::hubsim::site::Site;
use crate::hubsim::{self, ByIdentity, Counts, Credential, Keeping, Misbehave, Options, Received, Running};
use crate::message::Timestamp;

mod site;

/// Plays an IoT Hub (or edgeHub) behind real TLS, for trying and testing without Azure.
///
/// It prints a connection string, its CA and a ready [uplink] section to stderr, and every message it
/// receives as one line of JSON to stdout. Stop it with Ctrl-C.
///
/// With the connection string for services, which it prints too, Microsoft's service SDK (or curl, over HTTPS on the
/// same port) calls methods, changes twins and sends messages to devices.
///
/// Keys and certificates last as long as the process; give --dir to keep them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  brownbridge sim                              any device, on 127.0.0.1:8883
  brownbridge sim --dir ~/sim --device press-4 only this device; its key survives restarts
  brownbridge sim | jq .body                   only the payloads
  brownbridge sim --cut-every 100              see the bridge deliver again what was cut off
  brownbridge sim --x509 press-4               also write a client certificate for press-4
  brownbridge sim --device-file ids            thousands of devices, some disabled
  brownbridge sim --site site.toml --dir ~/sim two hubs and a provisioning service, as the file says
  kill -HUP PID                                reads the file of devices or of the site again
  kill -USR1 PID                               drops all connections at once, as a restart does

Exit code: 0 stopped, 2 could not run.")]
pub(super) struct Args {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], MQTT_PORT)))]
    listen: SocketAddr,
    /// Listens here, too, as a hub does on port 443: HTTPS and MQTT over WebSocket, no bare MQTT. (WebSocket is taken
    /// on the other port as well.)
    #[arg(long, value_name = "ADDR:PORT")]
    websocket: Option<SocketAddr>,
    /// The host name of the simulated hub, as in HostName=.. [default: localhost; with --edge, hub.example]
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
    /// Keeps the CA and the keys in this folder, so that a restart changes nothing.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Accepts only this device, or DEVICE/MODULE; its key is derived, or read from the file after `=`; may be given
    /// several times [default: any device whose key fits]
    #[arg(long, value_name = "ID[=KEY_FILE]")]
    device: Vec<String>,
    /// Reads devices from a file: a line `ID` is accepted as with --device, `!ID` is known and refused (disabled); with
    /// only such lines any other device is accepted. SIGHUP reads it again, and closes who is disabled now.
    #[arg(long, value_name = "FILE")]
    device_file: Option<PathBuf>,
    /// Writes a client certificate for this device and accepts it; may be given several times.
    #[arg(long, value_name = "ID")]
    x509: Vec<String>,
    /// Plays several hubs and a Device Provisioning Service, as this file says (docs/uplink.md has an example). SIGHUP
    /// reads it again: who may register, at which hub, and who is disabled.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host_name", "device", "device_file", "x509", "edge"])]
    site: Option<PathBuf>,
    /// Plays the edgeHub of IoT Edge.
    #[arg(long)]
    edge: bool,
    /// Sends a cloud-to-device message again when it was not acknowledged for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    lock: u64,
    /// Counts messages and does not print them.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    faults: Faults,
}

/// Faults on purpose.
#[derive(clap::Args)]
#[command(next_help_heading = "Misbehave")]
struct Faults {
    /// Writes every PUBACK this many milliseconds late.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    puback_delay: u64,
    /// Never writes a PUBACK.
    #[arg(long)]
    withhold_puback: bool,
    /// Cuts the line after every N messages of a connection, before the PUBACK of the Nth.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cut_every: Option<u64>,
    /// Closes the connection at every message whose payload has this text in it, as a hub does at one it dislikes.
    #[arg(long, value_name = "TEXT")]
    close_on: Option<String>,
    /// Takes N messages in all; then closes each connection at its first publish, as with a spent daily quota.
    #[arg(long, value_name = "N")]
    quota: Option<u64>,
    /// Refuses every CONNECT with return code 5.
    #[arg(long)]
    refuse: bool,
    /// Lets N clients connect a second: more wait for their CONNACK, and are closed where that takes too long.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connect_rate: Option<u32>,
    /// Takes N messages a second, of all devices together: more wait for their PUBACK, and where that takes too long the
    /// connection is closed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    message_rate: Option<u32>,
    /// Takes N twin operations a second; answers more with 429.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    twin_rate: Option<u32>,
    /// Closes every connection so many seconds after its CONNECT, as if its token were over.
    #[arg(long, value_name = "SECONDS")]
    expire: Option<u64>,
}

impl Faults {
    fn misbehave(self) -> Misbehave {
        Misbehave {
            puback_delay: Duration::from_millis(self.puback_delay),
            withhold_puback: self.withhold_puback,
            cut_every: self.cut_every,
            close_on: self.close_on,
            quota: self.quota,
            refuse: self.refuse,
            expire_after: self.expire.map(Duration::from_secs),
            connect_rate: self.connect_rate,
            message_rate: self.message_rate,
            twin_rate: self.twin_rate,
            twin_status: None,
        }
    }
}

/// Messages wait here, in batches of one read, for a slow reader of stdout.
const BATCHES: usize = 64;
/// Seconds the token of the printed requests is good for.
const TOKEN_LASTS: i64 = 24 * 60 * 60;
/// Of the printed requests.
const API_VERSION: &str = "2021-04-12";
/// How long the last lines may take after Ctrl-C.
const LAST_LINES: Duration = Duration::from_secs(2);

pub(super) fn run(args: Args) -> ExitCode {
    match simulate(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn simulate(args: Args) -> anyhow::Result<()> {
    start_log(LogFormat::Text, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let (output, messages) = mpsc::channel(BATCHES);
    let (first, x509, quiet) = (args.first_device(), args.x509.clone(), args.quiet);
    let output = (!quiet).then_some(output);
    // Before it says that it is ready: from then on Ctrl-C must end it cleanly.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let mut restart = signal(SignalKind::user_defined1()).context("cannot wait for SIGUSR1")?;
    let (device_file, site_file) = (args.device_file.clone(), args.site.clone());
    let (sim, fixed) = match &site_file {
        Some(path) => (Simulated::Site(site::start(path, args, output).await?), HashMap::new()),
        None => {
            let options = options(args, output)?;
            let fixed = options.devices.clone();
            let sim = hubsim::start(options).await?;
            introduce(&sim, &first, &x509)?;
            (Simulated::Hub(sim), fixed)
        }
    };
    let printer = std::thread::spawn(move || print(messages));
    let changed = || {
        let taken = match (&sim, &device_file, &site_file) {
            (Simulated::Hub(hub), Some(file), _) => {
                read_devices(file, fixed.clone()).map(|(devices, disabled)| hub.register(devices, disabled))
            }
            (Simulated::Site(site), _, Some(file)) => site::again(file, site),
            _ => Ok(()),
        };
        match taken {
            Ok(()) => tracing::info!("read again"),
            Err(error) => eprintln!("error: {error:#}"),
        }
    };
    // The printer ends early only when nobody reads stdout any more.
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = look.tick() => if !quiet && printer.is_finished() {
                break;
            },
            _ = restart.recv() => sim.restart(),
            _ = hang_up.recv() => changed(),
        }
    }
    let ([messages, dropped, connected], spread) = (sim.counts(), sim.spread());
    sim.stop().await;
    // Nobody may be left who reads stderr; that is no failure.
    let _ = writeln!(
        std::io::stderr(),
        "{}, {dropped} dropped, {}{spread}",
        of(messages, "message", "messages"),
        of(connected, "connection", "connections")
    );
    // Whoever reads stdout may have stopped to do so without closing it: Ctrl-C must end that too.
    let joined = tokio::task::spawn_blocking(move || printer.join());
    match tokio::time::timeout(LAST_LINES, joined).await {
        Ok(Ok(Ok(printed))) => printed.context("stdout"),
        Ok(_) => anyhow::bail!("the printer failed"),
        Err(_) => {
            eprintln!("error: stdout is not read; the last messages are not printed");
            std::process::exit(2)
        }
    }
}

impl Args {
    fn keeping(&self) -> Keeping {
        Keeping { lock: Duration::from_secs(self.lock), ..Keeping::default() }
    }

    /// The device that is introduced.
    fn first_device(&self) -> String {
        let given = self.device.first().or(self.x509.first());
        let given = given.map(|device| device.split('=').next().unwrap_or(device).to_owned());
        let text = || std::fs::read_to_string(self.device_file.as_ref()?).ok();
        let in_file = || listed(&text()?).find(|id| !id.starts_with('!')).map(str::to_owned);
        given.or_else(in_file).unwrap_or_else(|| "dev-01".to_owned())
    }
}

/// The lines of a file of devices.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What runs.
enum Simulated {
    Hub(Running),
    Site(Site),
}

impl Simulated {
    /// Messages, those dropped, connections.
    fn counts(&self) -> [u64; 3] {
        let all = match self {
            Self::Hub(hub) => vec![hub.counts()],
            Self::Site(site) => site.counts(),
        };
        let sum = |count: fn(&Counts) -> u64| all.iter().map(count).sum();
        [sum(|counts| counts.messages), sum(|counts| counts.dropped), sum(|counts| counts.connected)]
    }

    /// How messages and connections spread over the devices of a single hub.
    fn spread(&self) -> String {
        match self {
            Self::Hub(hub) => spread(&hub.by_identity()),
            Self::Site(_) => String::new(),
        }
    }

    /// Drops all connections at once.
    fn restart(&self) {
        match self {
            Self::Hub(hub) => hub.restart(),
            Self::Site(site) => site.restart(),
        }
    }

    async fn stop(self) {
        match self {
            Self::Hub(hub) => hub.stop().await,
            Self::Site(site) => site.stop().await,
        }
    }
}

/// How messages and connections spread over devices, where there are several.
fn spread(by_identity: &BTreeMap<String, ByIdentity>) -> String {
    if by_identity.len() < 2 {
        return String::new();
    }
    let range = |of: fn(&ByIdentity) -> u64| {
        let (fewest, most) = (by_identity.values().map(of).min(), by_identity.values().map(of).max());
        format!("{} to {}", fewest.unwrap_or(0), most.unwrap_or(0))
    };
    let (messages, connected) = (range(|counts| counts.messages), range(|counts| counts.connected));
    format!("; {} devices; of each, messages {messages}, connections {connected}", by_identity.len())
}

/// The devices of a file, beside those that are given; and those that are disabled.
fn read_devices(
    file: &Path,
    mut devices: HashMap<String, Credential>,
) -> anyhow::Result<(HashMap<String, Credential>, HashSet<String>)> {
    let text = std::fs::read_to_string(file).with_context(|| format!("--device-file: {}", file.display()))?;
    let mut disabled = HashSet::new();
    for line in listed(&text) {
        let id = line.strip_prefix('!').unwrap_or(line);
        anyhow::ensure!(is_id(id), "--device-file {}: {id:?} is no device id", file.display());
        match line.starts_with('!') {
            true => drop(disabled.insert(id.to_owned())),
            false => drop(devices.insert(id.to_owned(), Credential::Derived)),
        }
    }
    Ok((devices, disabled))
}

fn options(args: Args, output: Option<mpsc::Sender<Vec<Received>>>) -> anyhow::Result<Options> {
    let mut devices = HashMap::new();
    for device in &args.device {
        let (id, credential) = match device.split_once('=') {
            None => (device.as_str(), Credential::Derived),
            Some((id, file)) => (id, Credential::Key(key_file(Path::new(file))?)),
        };
        let good = id.split('/').count() <= 2 && id.split('/').all(is_id);
        anyhow::ensure!(good, "--device {id}: not a device id, nor DEVICE/MODULE");
        devices.insert(id.to_owned(), credential);
    }
    for id in &args.x509 {
        anyhow::ensure!(is_id(id), "--x509 {id}: not a device id");
        if !devices.is_empty() {
            devices.insert(id.clone(), Credential::Derived);
        }
    }
    let mut disabled = HashSet::new();
    if let Some(file) = &args.device_file {
        (devices, disabled) = read_devices(file, devices)?;
    }
    let keeping = args.keeping();
    let default_host = if args.edge { "hub.example" } else { "localhost" };
    Ok(Options {
        listen: args.listen,
        websocket: args.websocket,
        host: args.host_name.unwrap_or_else(|| default_host.to_owned()),
        dir: args.dir,
        devices,
        disabled,
        edge: args.edge,
        output,
        keeping,
        misbehave: args.faults.misbehave(),
        ..Options::default()
    })
}

fn key_file(path: &Path) -> anyhow::Result<Key> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--device: {}", path.display()))?;
    Key::parse(text.trim()).with_context(|| format!("--device: {}", path.display()))
}

/// Tells how to reach it. The key in it opens nothing but this simulator.
fn introduce(sim: &Running, device: &str, x509: &[String]) -> anyhow::Result<()> {
    let (address, kind) = (sim.local_addr(), sim.kind());
    let mut text = format!("The simulated hub listens on {address}. For bridge.toml:\n\n[uplink]\nkind = \"{kind}\"\n");
    if !x509.iter().any(|id| id == device) {
        let _ = writeln!(text, "connection_string = {:?}", sim.connection_string(device).expose());
    }
    for id in x509 {
        let (certificate, key) = sim.device_certificate(id)?;
        let prefix = if id == device { "" } else { "# " };
        let _ = writeln!(text, "{prefix}connection_string = {:?}", sim.x509_connection_string(id));
        let _ = writeln!(text, "{prefix}certificate = {certificate:?}\n{prefix}key = {key:?}");
    }
    let _ = writeln!(text, "ca_file = {:?}\naddress = \"{address}\"", sim.ca_file());
    if let Some(address) = sim.websocket_addr() {
        let _ = writeln!(text, "# transport = \"websocket\"   address = \"{address}\"");
    }
    text.push('\n');
    let _ = writeln!(
        text,
        "For services (methods, twins, messages to devices; HTTPS on the same port):\n\n# service: {:?}\n",
        sim.service_connection_string().expose()
    );
    text.push_str(&requests(sim, device));
    let master = sim.ca_file().with_file_name("master.key");
    let _ = writeln!(text, "The group key for identity = \"per-device\":\n\n# group_key_file = {master:?}\n");
    std::io::stderr().write_all(text.as_bytes()).context("stderr")
}

/// A message to the device and a call of a method, ready for a shell.
fn requests(sim: &Running, device: &str) -> String {
    let (host, address, ca) = (sim.host(), sim.local_addr(), sim.ca_file());
    let (ip, port) = (address.ip(), address.port());
    let ip = if address.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let token = sim.service_token(Timestamp::now().as_secs() + TOKEN_LASTS);
    let mut path = String::new();
    for (n, id) in device.split('/').enumerate() {
        path.push_str(if n == 0 { "" } else { "/modules/" });
        bag::encode(&mut path, id);
    }
    let curl =
        format!("curl --cacert {ca:?} --resolve {host}:{port}:{ip} -H 'Authorization: {}' \\\n ", token.expose());
    format!(
        "A command for {device} and a call of one of its methods, for a day:\n\n\
         {curl} -H 'iothub-app-kind: setpoint' -d '12.5' \\\n  \
         'https://{host}:{port}/devices/{path}/messages/devicebound?api-version={API_VERSION}'\n\n\
         {curl} -d '{{\"methodName\": \"ping\", \"payload\": null}}' \\\n  \
         'https://{host}:{port}/twins/{path}/methods?api-version={API_VERSION}'\n\n"
    )
}

/// Prints until the simulator stops. A reader that closed stdout has seen enough.
fn print(messages: mpsc::Receiver<Vec<Received>>) -> std::io::Result<()> {
    match print_all(messages, std::io::stdout().lock()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn print_all(mut messages: mpsc::Receiver<Vec<Received>>, out: impl std::io::Write) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    loop {
        let batch = match messages.try_recv() {
            Ok(batch) => Some(batch),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                out.flush()?;
                messages.blocking_recv()
            }
        };
        let Some(batch) = batch else { return out.flush() };
        for message in &batch {
            serde_json::to_writer(&mut out, message)?;
            out.write_all(b"\n")?;
        }
    }
}
