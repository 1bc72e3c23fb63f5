//! From `bridge.toml` and the files it names to checked settings, all mistakes at once.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::credentials::Credentials;
use super::devices::Planned;
use super::gate::{Files, Policy};
use super::inherited::Inherited;
use super::plant_tls;
use super::reload::BridgeToml;
pub use super::rule_files::{passed_by as passed_by_rule_files, read as read_rule_files};
use super::text_file::{self, cannot_read};
use crate::bridge::Own;
use crate::config::{self, Config, OverRate, Placed, Unmatched, WhenFull};
use crate::diag::{Diagnostic, SourceFile, Span};
use crate::fence::learn::Notebook;
use crate::hub::limits;
use crate::rules::{self, RuleSet};
use crate::uplink::Target;
use crate::uplink::tls::{self, TlsError};
use crate::{broker, shelf, spool, uplink};

/// Everything [`super::start`] needs.
pub struct Settings {
    /// The rules.
    pub rules: RuleSet,
    /// The file or folder they were read from.
    pub rule_path: PathBuf,
    /// Where these settings stand.
    pub bridge_toml: BridgeToml,
    /// What becomes of publishes no rule takes.
    pub unmatched: Unmatched,
    /// The uplink's identity.
    pub own: Own,
    /// The broker's bounds.
    pub broker: broker::Options,
    /// Where plant clients connect.
    pub listeners: Vec<(SocketAddr, broker::Transport)>,
    /// What the TLS listener takes up when it changes, where there is one.
    pub plant_tls: Option<PlantTls>,
    /// Sockets that were opened before the start.
    pub inherited: Inherited,
    /// Where the uplink goes; the spool's identifier is filled in at start.
    pub uplink: uplink::Options,
    /// Who it is there.
    pub credentials: Arc<Credentials>,
    /// The folder of everything that is kept.
    pub state: PathBuf,
    /// The spool.
    pub spool: spool::Options,
    /// The spool of urgent messages.
    pub urgent: spool::Options,
    /// The holding spool of what waits in windows; it is opened where it is needed.
    pub held: spool::Options,
    /// Folder of sessions and retained messages.
    pub sessions: PathBuf,
    /// Folder and size of the quarantine.
    pub quarantine: (PathBuf, u64),
    /// Bounds of the shelves, which are opened where they are needed.
    pub shelf: shelf::Options,
    /// Set where every device has a connection of its own.
    pub devices: Option<Planned>,
    /// The fence of the plaintext port, where there is one.
    pub fence: Option<Fence>,
    /// `bridge.toml` without its secrets.
    pub shown: String,
    /// Changes what the log says, where that can be done; without a level it is what it was at start.
    pub log_level: Option<LogLevel>,
    /// Where scrapers connect, and how long the end may drain.
    pub config: Config,
}

/// Changes what the log says.
pub type LogLevel = Arc<dyn Fn(Option<&str>) -> Result<(), String> + Send + Sync>;

/// The files of the TLS listener, and where what they say goes.
pub type PlantTls = (plant_tls::Files, watch::Sender<Arc<rustls::ServerConfig>>);

/// Where plant clients connect, and what of it may change.
type Listeners = (Vec<(SocketAddr, broker::Transport)>, Option<PlantTls>);

/// The fence as its files say.
pub struct Fence {
    /// Where it stands.
    pub files: Files,
    /// What it says.
    pub policy: Policy,
    /// What is learned goes here.
    pub notebook: Option<Notebook>,
}

/// What loading found: the settings, unless there are errors, and what to tell the user.
pub struct Loaded {
    /// There only without errors.
    pub settings: Option<Settings>,
    /// What was found wrong or doubtful.
    pub diagnostics: Vec<Diagnostic>,
    /// The files the findings point into.
    pub sources: Vec<SourceFile>,
    /// What there is to say per rule file.
    pub summaries: Vec<rules::FileSummary>,
}

pub mod derived;
pub(super) mod doubts;
pub mod dps;
mod fenced;
mod names;
mod target;

/// The uplink's target now, where it comes from, and what the bridge calls its own.
type Uplinked = (Target, Credentials, Own);

/// Reads `bridge.toml` at `path` and everything it names. `Err` only where that file itself cannot be read.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> io::Result<Loaded> {
    let text = text_file::read(path)?;
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let (first, first_found) = config::parse(0, &text, env);
    // The rule files come first in the list, so that their findings keep their places; bridge.toml is the last.
    let mut place = Place { base, file: 0, found: Vec::new() };
    let rule_files = match &first {
        Some(config) => place.rule_files(&config.rules),
        None => Vec::new(),
    };
    let file = rule_files.len();
    let rules = rules::load(&rule_files);
    let (config, found) = if file == 0 { (first, first_found) } else { config::parse(file, &text, env) };
    for diagnostic in &mut place.found {
        diagnostic.file = file;
        diagnostic.primary.iter_mut().for_each(|label| label.file = file);
    }
    place.file = file;
    place.found.extend(found);
    let mut sources = rule_files;
    sources.push(SourceFile { path: path.display().to_string(), text: config::masked(&text) });
    let fence = config.as_ref().and_then(|config| place.fence(&config.broker.fence, &mut sources));
    let mut plan = None;
    let resolved = config.and_then(|config| {
        let (target, listeners) = (place.target(&config), place.listeners(&config));
        if let (Some((Target::Hub(own), ..)), Some(devices)) = (&target, &config.uplink.devices) {
            plan = place.devices((&config, devices), own, &mut sources);
        }
        let state = place.base.join(&config.state.value);
        Some((target?, listeners?, state, config))
    });
    let mut diagnostics = rules.diagnostics;
    diagnostics.extend(place.found);
    if let (Some(((.., own), .., config)), Some(rules)) = (&resolved, &rules.rules) {
        diagnostics.extend(fenced::doubts(config, own, rules, file));
    }
    let sound = !diagnostics.iter().any(Diagnostic::is_error);
    let settings = match (resolved, rules.rules) {
        (Some((uplinked, listeners, state, config)), Some(rules)) if sound => {
            let shown = config::masked(&text);
            let rules = (rules, place.base.join(&config.rules.value), BridgeToml::new(path.to_owned(), text));
            let mut settings = settled(rules, uplinked, listeners, (state, config));
            settings.fence = fence;
            settings.shown = shown;
            settings.devices = plan;
            Some(settings)
        }
        _ => None,
    };
    Ok(Loaded { settings, diagnostics, sources, summaries: rules.files })
}

fn settled(
    (rules, rule_path, bridge_toml): (RuleSet, PathBuf, BridgeToml),
    (target, credentials, own): Uplinked,
    (listeners, plant_tls): Listeners,
    (state, config): (PathBuf, Config),
) -> Settings {
    let limit = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let broker = broker::Options {
        max_packet_size: u32::try_from(config.broker.max_packet_size).unwrap_or(u32::MAX),
        max_connections: config.broker.max_connections,
        connect_timeout: config.broker.connect_timeout,
        max_unacknowledged: config.broker.max_unacknowledged,
        subscriber_queue_messages: config.broker.subscriber_queue_messages,
        subscriber_queue_bytes: limit(config.broker.subscriber_queue_bytes),
        max_session_expiry: u32::try_from(config.broker.sessions.max_expiry.as_secs()).unwrap_or(u32::MAX),
        max_sessions: config.broker.sessions.max_away,
        max_session_bytes: limit(config.broker.sessions.max_bytes),
        max_keep_alive: u16::try_from(config.broker.max_keep_alive.as_secs()).unwrap_or(u16::MAX),
        store: None,
        max_retained: config.broker.max_retained,
        max_retained_bytes: limit(config.broker.max_retained_bytes),
        refused_client_id: match &target {
            Target::Mqtt(mqtt) => Some(mqtt.client_id.clone()),
            Target::Hub(_) => None,
        },
        max_subscriptions: config.broker.limits.max_subscriptions,
        max_connections_per_address: config.broker.limits.max_connections_per_address,
        max_connect_rate: u32::try_from(config.broker.limits.max_connect_rate).unwrap_or(u32::MAX),
        max_publish_rate: u32::try_from(config.broker.limits.max_publish_rate).unwrap_or(u32::MAX),
        close_over_publish_rate: config.broker.limits.over_publish_rate == OverRate::Close,
        gate: None,
    };
    let uplink = uplink::Options {
        target,
        window: config.uplink.window.map_or(uplink::WindowSize::Auto, uplink::WindowSize::Fixed),
        hub_rate: uplink::HubRate::of(tier_rate(&config)),
        live_first: config.uplink.live_first,
        mark_late: config.uplink.mark_late,
        max_age: config.spool.max_age,
        renew: credentials.renew(),
        relays: None,
        keep_alive: config.uplink.keep_alive,
        backoff: config.uplink.backoff,
        ack_timeout: config.uplink.ack_timeout,
        suspect_after: config.uplink.suspect_after,
        down: None,
        subscribed: None,
        crowd: None,
    };
    let spool = |folder: &str, max_size, when_full| spool::Options {
        linger: config.spool.commit_wait,
        durability: config.spool.durability,
        when_full,
        max_age: config.spool.max_age,
        ..spool::Options::new(state.join(folder), max_size)
    };
    // When it is full, what is urgent goes the way of all messages.
    let urgent = spool("urgent", config.spool.urgent_max_size, WhenFull::Refuse);
    // What waits in a window is never too old: its message may be.
    let held = spool("held", config.spool.held_max_size, WhenFull::Refuse);
    let held = spool::Options { max_age: None, ..held };
    let spool = spool("spool", config.spool.max_size, config.spool.when_full);
    let quarantine = (state.join("quarantine"), config.quarantine.max_size);
    let sessions = state.join("sessions");
    let fence = None;
    let devices = config.uplink.devices.as_ref();
    let shelf = shelf::Options {
        dir: state.join("shelf"),
        max_size: devices.map_or(u64::MAX, |devices| devices.shelf_max_size),
        // One that refuses does so before anything is acknowledged: what is has its place.
        max_device_size: match devices {
            Some(devices) if devices.shelf_when_full == WhenFull::DropOldest => devices.shelf_max_device_size,
            _ => u64::MAX,
        },
    };
    Settings {
        rules,
        rule_path,
        bridge_toml,
        unmatched: config.unmatched,
        own,
        broker,
        listeners,
        plant_tls,
        inherited: Inherited::default(),
        uplink,
        credentials: Arc::new(credentials),
        state,
        spool,
        urgent,
        held,
        sessions,
        quarantine,
        shelf,
        devices: None,
        fence,
        shown: String::new(),
        log_level: None,
        config,
    }
}

/// The messages a second that the hub's tier takes, where bridge.toml names it.
pub(super) fn tier_rate(config: &Config) -> Option<u32> {
    config.uplink.tier.and_then(|tier| limits::d2c_per_second(tier, config.uplink.units))
}

/// The hub's tier, its units, and the billed messages a day that they take.
pub(super) fn quota(config: &Config) -> Option<(&'static str, u32, u64)> {
    let (tier, units) = (config.uplink.tier?, config.uplink.units);
    Some((tier, units, limits::daily_quota(tier, units)?))
}

/// Turns what `bridge.toml` names into what it is, and keeps the findings.
pub(super) struct Place {
    pub(super) base: PathBuf,
    pub(super) file: usize,
    pub(super) found: Vec<Diagnostic>,
}

impl Place {
    pub(super) fn error(&mut self, code: &'static str, title: impl Into<String>, span: &Span, help: Option<&str>) {
        let found = Diagnostic::error(code, title, self.file);
        let found = if span.is_empty() { found } else { found.at(span.clone(), "") };
        self.found.push(match help {
            Some(help) => found.help(help),
            None => found,
        });
    }

    fn warning(&mut self, code: &'static str, title: String, span: &Span) {
        self.found.push(Diagnostic::warning(code, title, self.file).at(span.clone(), ""));
    }

    fn rule_files(&mut self, rules: &Placed<String>) -> Vec<SourceFile> {
        let path = self.base.join(&rules.value);
        for title in passed_by_rule_files(&path) {
            self.warning("no-rules", title, &rules.span);
        }
        match read_rule_files(&path) {
            Ok(files) => {
                if files.is_empty() {
                    let title = format!("there is no rule file in {}", path.display());
                    let help = "every publish is unmatched; `unmatched` says what becomes of it";
                    self.found.push(Diagnostic::warning("no-rules", title, self.file).help(help));
                }
                files
            }
            Err(error) => {
                let title = format!("the rules cannot be read: {error}");
                self.error(
                    "no-such-file",
                    title,
                    &rules.span,
                    Some("rules = \"rules\"   # a folder of *.toml, or one file"),
                );
                Vec::new()
            }
        }
    }

    /// Reads the files of the fence; none where there is nothing to judge by, or with errors.
    fn fence(&mut self, config: &config::Fence, sources: &mut Vec<SourceFile>) -> Option<Fence> {
        for (file, help) in [(&config.access, None), (&config.users, Some("brownbridge passwd users.toml NAME"))] {
            if let Some(file) = file {
                self.read(file, help)?;
            }
        }
        let path = |file: &Option<Placed<String>>| file.as_ref().map(|file| self.base.join(&file.value));
        let files = Files {
            access: path(&config.access),
            users: path(&config.users),
            learn: path(&config.learn),
            anonymous: config.anonymous,
        };
        if files.is_empty() {
            return None;
        }
        let mut read = files.read(sources.len());
        let notebook = files.notebook(sources.len(), &mut read);
        self.found.append(&mut read.found);
        sources.append(&mut read.sources);
        Some(Fence { files, policy: read.policy?, notebook })
    }

    fn listeners(&mut self, config: &Config) -> Option<Listeners> {
        let broker = &config.broker;
        let mut listeners = vec![(broker.listen.value, broker::Transport::Tcp)];
        let mut plant_tls = None;
        if let Some(tls) = &broker.tls {
            let (chain, key) = (self.read(&tls.certificate, None), self.read(&tls.key, None));
            let roots = tls.client_ca.as_ref().map(|file| (file, self.read(file, None)));
            let chain = self.usable(tls::certificates(&chain?), &tls.certificate.span, &tls.certificate.value);
            let key = self.usable(tls::private_key(&key?), &tls.key.span, &tls.key.value);
            let roots = match roots {
                None => None,
                Some((file, text)) => Some(self.usable(tls::roots(&text?), &file.span, &file.value)?),
            };
            let server = broker::server_tls((chain?, key?), roots).map_err(TlsError::Pair);
            let server = self.usable(server, &tls.certificate.span, &tls.certificate.value)?;
            let (sender, receiver) = watch::channel(server);
            listeners.push((tls.listen.value, broker::Transport::Tls(receiver)));
            let path = |file: &Placed<String>| self.base.join(&file.value);
            let files = plant_tls::Files {
                certificate: path(&tls.certificate),
                key: path(&tls.key),
                client_ca: tls.client_ca.as_ref().map(path),
            };
            plant_tls = Some((files, sender));
        }
        listeners.extend(broker.websocket.as_ref().map(|at| (at.value, broker::Transport::WebSocket)));
        Some((listeners, plant_tls))
    }

    pub(super) fn read(&mut self, file: &Placed<String>, help: Option<&str>) -> Option<Vec<u8>> {
        let path = self.base.join(&file.value);
        fs::read(&path)
            .inspect_err(|error| {
                self.error("no-such-file", cannot_read(&path, error), &file.span, help);
            })
            .ok()
    }

    pub(super) fn usable<T>(&mut self, result: Result<T, TlsError>, span: &Span, name: &str) -> Option<T> {
        result.inspect_err(|error| self.error("tls", format!("{name}: {error}"), span, None)).ok()
    }
}
