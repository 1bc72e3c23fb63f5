//! How the commands find and ask a running bridge.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::check::{could_not_run, print_findings};
use crate::app::settings;
use crate::app::text_file::{self, cannot_read};
use crate::config::{self, Config};
use crate::control::{self, Answer, Request};
use crate::diag::SourceFile;
use crate::rules::{self, RuleSet};

/// Time to connect and for each read.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer: more than the longest page.
const MAX_ANSWER: u64 = 64 << 20;

/// The configuration where none is named: the one that lies here, as `check` takes it, or that of the system.
pub(super) fn default_config() -> &'static str {
    const HERE: &str = "bridge.toml";
    if Path::new(HERE).exists() { HERE } else { "/etc/brownbridge/bridge.toml" }
}

/// Where the admin page is: as said, or as configured.
pub(super) fn admin_address(admin: Option<String>, config: &Path) -> Result<String, ExitCode> {
    match admin {
        Some(admin) => Ok(admin),
        None => configured(config).map(|address| address.to_string()),
    }
}

/// Asks the bridge that runs over `state`; `None` where none runs.
pub(super) fn ask(state: &Path, request: &Request) -> Result<Option<Answer>, String> {
    match control::ask(state, request) {
        Ok(Answer::Failed(why)) => Err(why),
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_none_there(&error) => Ok(None),
        Err(error) => Err(format!("{} cannot be asked: {error}", state.join(control::SOCKET).display())),
    }
}

/// True where nobody listens on the socket.
pub(super) fn is_none_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Where the configuration puts the admin page, as seen from this machine.
fn configured(path: &Path) -> Result<SocketAddr, ExitCode> {
    let config = configuration(path)?;
    let mut address = config.admin.listen.value;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Ok(address)
}

/// Where everything is kept that the configuration's bridge keeps.
pub(super) fn state_folder(path: &Path) -> Result<PathBuf, ExitCode> {
    let config = configuration(path)?;
    Ok(path.parent().unwrap_or(Path::new("")).join(&config.state.value))
}

/// The rules the configuration names, as they are on disk; none where they cannot be read.
pub(super) fn rules(config: &Path) -> Option<RuleSet> {
    let rules = &configuration(config).ok()?.rules.value;
    let sources = settings::read_rule_files(&config.parent().unwrap_or(Path::new("")).join(rules)).ok()?;
    rules::load(&sources).rules
}

fn configuration(path: &Path) -> Result<Config, ExitCode> {
    let text = text_file::read(path).map_err(|error| could_not_run(&cannot_read(path, &error)))?;
    // The service's variables (its keys) need not be set where somebody looks on.
    let (config, found) = config::parse(0, &text, &|name| Some(std::env::var(name).unwrap_or_default()));
    config.ok_or_else(|| {
        let source = SourceFile { path: path.display().to_string(), text: config::masked(&text) };
        print_findings(&found, &[source]);
        ExitCode::from(2)
    })
}

/// Asks the admin page for `path`; returns the body.
pub(super) fn get(address: &str, path: &str) -> io::Result<String> {
    let resolved = address.to_socket_addrs()?.next();
    let resolved = resolved.ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&resolved, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("the answer is no HTTP"))?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("it answers {status:?}"))),
    }
}
