//! `brownbridge status`: asks a running bridge for its `/status` and shows it.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::check::{could_not_run, print, print_findings};
use crate::app::settings::cannot_read;
use crate::app::status::{Connected, MAX_CLIENTS, Report};
use crate::config;
use crate::diag::SourceFile;

/// Time to connect and for each read.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer: more than the longest page.
const MAX_ANSWER: u64 = 64 << 20;

/// Shows a running bridge: uplink, spool, counters, and who is connected.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge status                       of the bridge of this machine\n  \
    brownbridge status --admin 10.0.0.5:9883 --json | jq '.clients.list[].client_id'\n\n\
    Exit code: 0 it does its job, 1 it does not (as /readyz), 2 it could not be asked.")]
pub(super) struct Args {
    /// The configuration that says where the admin page is.
    #[arg(long, value_name = "FILE", default_value = "/etc/brownbridge/bridge.toml")]
    config: PathBuf,
    /// Where the admin page is, instead of what the configuration says.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    admin: Option<String>,
    /// Prints the page as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let address = match &args.admin {
        Some(admin) => admin.clone(),
        None => match configured(&args.config) {
            Ok(address) => address.to_string(),
            Err(code) => return code,
        },
    };
    let page = match ask(&address) {
        Ok(page) => page,
        Err(error) => return could_not_run(&format!("the bridge's admin page at {address} cannot be read: {error}")),
    };
    let report: Report = match serde_json::from_str(&page) {
        Ok(report) => report,
        Err(error) => return could_not_run(&format!("{address} is no brownbridge of this version: {error}")),
    };
    if args.json {
        print(&page);
    } else {
        print(&shown(&report));
    }
    ExitCode::from(u8::from(report.not_ready.is_some()))
}

/// Where the configuration puts the admin page, as seen from this machine.
fn configured(path: &Path) -> Result<SocketAddr, ExitCode> {
    let text = std::fs::read_to_string(path).map_err(|error| could_not_run(&cannot_read(path, &error)))?;
    // The service's variables (its keys) need not be set where somebody looks on.
    let (config, found) = config::parse(0, &text, &|name| Some(std::env::var(name).unwrap_or_default()));
    let Some(config) = config else {
        let source = SourceFile { path: path.display().to_string(), text: config::masked(&text) };
        print_findings(&found, &[source]);
        return Err(ExitCode::from(2));
    };
    let mut address = config.admin.listen.value;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Ok(address)
}

/// Asks for `/status`; returns the body.
fn ask(address: &str) -> io::Result<String> {
    let resolved = address.to_socket_addrs()?.next();
    let resolved = resolved.ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&resolved, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("the answer is no HTTP"))?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("it answers {status:?}"))),
    }
}

/// The report for people.
fn shown(report: &Report) -> String {
    let mut out = String::new();
    let seconds = Duration::from_secs;
    let _ = writeln!(out, "brownbridge {}, up {}", report.version, span(seconds(report.uptime_seconds)));
    let listeners: Vec<String> = report.listeners.iter().map(|l| format!("{}://{}", l.name, l.address)).collect();
    let _ = writeln!(out, "plant      {}", listeners.join(" "));
    let acknowledged = match report.uplink.last_acknowledged_seconds_ago {
        Some(ago) => format!("last acknowledgement {} ago", span(seconds(ago))),
        None => "nothing acknowledged yet".to_owned(),
    };
    let uplink = match (&report.uplink.trouble, report.uplink.connected) {
        (_, true) => "connected".to_owned(),
        (Some(trouble), false) => format!("not connected: {}", plain(trouble)),
        (None, false) => "not connected yet".to_owned(),
    };
    let _ = writeln!(out, "uplink     {uplink}; {acknowledged}");
    let spool = &report.spool;
    let waiting = match spool.waiting {
        0 => "nothing waits".to_owned(),
        waiting => format!("{waiting} messages wait, the oldest for {}", span(seconds(spool.oldest_age_seconds))),
    };
    let full = if spool.full { "; FULL, nothing is acknowledged" } else { "" };
    let _ = writeln!(out, "spool      {waiting}; {} on disk{full}", bytes(spool.bytes));
    let c = &report.counters;
    let _ = writeln!(
        out,
        "publishes  {} received: {} translated, {} dropped on purpose, {} quarantined",
        c.received, c.translated, c.dropped, c.quarantined
    );
    let _ =
        writeln!(out, "messages   {} delivered, {} given up for room, {} lost on disk", c.delivered, c.shed, c.lost);
    let clients = &report.clients;
    let away =
        if clients.away > 0 { format!("; {} away, messages wait for them", clients.away) } else { String::new() };
    let _ = writeln!(out, "clients    {} connected, at most {} at one time{away}", clients.connected, clients.maximum);
    if let Some(why) = &report.not_ready {
        let _ = writeln!(out, "NOT READY  {}", plain(why));
    }
    if !clients.list.is_empty() {
        out.push('\n');
        table(&mut out, &clients.list);
    }
    if clients.connected > MAX_CLIENTS {
        let _ = writeln!(out, ".. and {} more", clients.connected - MAX_CLIENTS);
    }
    out
}

fn table(out: &mut String, clients: &[Connected]) {
    const HEADS: [&str; 8] = ["CLIENT", "FROM", "VIA", "MQTT", "KEEP-ALIVE", "SINCE", "IN", "OUT"];
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(clients.iter().map(|client| {
        let keep_alive = match client.keep_alive_seconds {
            0 => "none".to_owned(),
            seconds => format!("{seconds} s"),
        };
        [
            plain(&client.client_id),
            plain(&client.address),
            plain(&client.via),
            plain(&client.mqtt_version),
            keep_alive,
            plain(&client.since),
            client.messages_in.to_string(),
            client.messages_out.to_string(),
        ]
    }));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// A text from outside, without what could steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A length of time in its two largest units.
fn span(time: Duration) -> String {
    let s = time.as_secs();
    match (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

#[expect(clippy::cast_precision_loss)]
fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (seconds, expect) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (180_000, "2 d 2 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), expect);
        }
        for (count, expect) in [(1023, "1023 B"), (1536, "1.5 KiB"), (3 << 19, "1.5 MiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(bytes(count), expect);
        }
    }

    #[test]
    fn a_client_id_cannot_steer_the_terminal() {
        let client = Connected {
            client_id: "\u{1b}[2Jü".into(),
            address: "10.0.0.5:1".into(),
            via: "mqtt".into(),
            mqtt_version: "5".into(),
            keep_alive_seconds: 0,
            since: "2026-01-01T00:00:00.000Z".into(),
            messages_in: 1,
            messages_out: 22,
        };
        let mut out = String::new();
        table(&mut out, &[client]);
        let expect = "CLIENT  FROM        VIA   MQTT  KEEP-ALIVE  SINCE                     IN  OUT\n\
            \u{fffd}[2Jü   10.0.0.5:1  mqtt  5     none        2026-01-01T00:00:00.000Z  1   22\n";
        assert_eq!(out, expect);
    }
}
