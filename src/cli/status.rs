//! `brownbridge status`: asks a running bridge for its `/status` and shows it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::check::{could_not_run, print};
use super::running::{admin_address, default_config, get};
use super::text::{beginning, bytes, columns, plain, span};
use crate::amount::{of, of_len};
use crate::app::status::{Connected, MAX_CLIENTS, Report, Sparkplug};

/// Shows a running bridge: uplink, spool, counters, and who is connected.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge status                       of the bridge of this machine\n  \
    brownbridge status --admin 10.0.0.5:9883 --json | jq '.clients.list[].client_id'\n\n\
    Exit code: 0 it does its job, 1 it does not (as /readyz), 2 it could not be asked.")]
pub(super) struct Args {
    /// The configuration that says where the admin page is [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    /// Where the admin page is, instead of what the configuration says: 10.0.0.5:9883.
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "config")]
    admin: Option<String>,
    /// Prints the page as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let address = match admin_address(args.admin, &args.config) {
        Ok(address) => address,
        Err(code) => return code,
    };
    let page = match get(&address, "/status") {
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
        (None, true) => "connected".to_owned(),
        (Some(trouble), true) => format!("connected, but: {}", plain(trouble)),
        (Some(trouble), false) => format!("not connected: {}", plain(trouble)),
        (None, false) => "not connected yet".to_owned(),
    };
    let via = report.uplink.via.as_ref().map_or(String::new(), |via| format!(" by {}", plain(via)));
    let pace = report.uplink.hub_rate.map_or(String::new(), |rate| format!("; a backlog follows within {rate}/s"));
    let _ = writeln!(out, "uplink     {uplink}{via}; {acknowledged}{pace}");
    let spool = &report.spool;
    let waiting = match spool.waiting {
        0 => "nothing waits".to_owned(),
        waiting => format!(
            "{} {}",
            of(waiting, "message waits, for", "messages wait, the oldest for"),
            span(seconds(spool.oldest_age_seconds))
        ),
    };
    let full = if spool.full { "; FULL, nothing is acknowledged" } else { "" };
    let _ = writeln!(out, "spool      {waiting}; {} on disk{full}", bytes(spool.bytes));
    if let Some(devices) = &report.devices {
        let states: Vec<_> = devices.states.iter().filter(|(_, count)| **count > 0).collect();
        let states: Vec<_> = states.into_iter().map(|(state, count)| format!("{count} {}", plain(state))).collect();
        let states = if states.is_empty() { "none yet".to_owned() } else { states.join(", ") };
        let shelved = match devices.shelved {
            0 => String::new(),
            shelved => {
                format!("; {} on shelves, {} on disk", of(shelved, "message", "messages"), bytes(devices.shelf_bytes))
            }
        };
        let _ = writeln!(out, "devices    {states}{shelved}");
        for device in &devices.worst {
            let trouble = device.trouble.as_deref().unwrap_or("`brownbridge devices approve` lets it in");
            let trouble = beginning(&plain(trouble), 100);
            let _ = writeln!(out, "           {} is {}: {trouble}", plain(&device.id), plain(&device.state));
        }
    }
    way_back(&mut out, report);
    let rules = &report.rules;
    let count = of_len(rules.count, "rule", "rules");
    let _ = writeln!(out, "rules      {count}, {}, in use since {}", rules.hash, rules.since);
    for refused in &report.refused {
        let _ = writeln!(out, "NOT IN USE a change of {}: {}", plain(&refused.since), plain(&refused.why));
    }
    if !report.refused.is_empty() {
        out.push_str("           what is mended is taken up without a restart\n");
    }
    if report.windows.messages > 0 {
        let (messages, open) = (report.windows.messages, report.windows.open);
        let _ = writeln!(
            out,
            "windows    {} for others in {}",
            of(messages, "message waits", "messages wait"),
            of(open as u64, "window", "windows")
        );
    }
    if let Some(sparkplug) = &report.sparkplug {
        births(&mut out, sparkplug);
    }
    let c = &report.counters;
    let _ = writeln!(
        out,
        "publishes  {} received: {} translated, {} dropped, {} quarantined",
        c.received, c.translated, c.dropped, c.quarantined
    );
    let _ =
        writeln!(out, "messages   {} delivered, {} given up for room, {} lost on disk", c.delivered, c.shed, c.lost);
    let clients = &report.clients;
    let away =
        if clients.away > 0 { format!("; {} away, whose messages are kept", clients.away) } else { String::new() };
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

fn births(out: &mut String, sparkplug: &Sparkplug) {
    let &Sparkplug { nodes, births, bytes: size, kept } = sparkplug;
    let (births, nodes) = (of_len(births, "birth holds", "births hold"), of_len(nodes, "edge node", "edge nodes"));
    let lost = if kept { "" } else { "; NOT KEPT over a restart, the disk does not take them" };
    let _ = writeln!(out, "sparkplug  {births}, of {nodes}; {}{lost}", bytes(size as u64));
}

/// Commands and twins.
fn way_back(out: &mut String, report: &Report) {
    if let Some(commands) = &report.commands {
        let outcomes = commands.outcomes.iter().map(|(outcome, count)| format!("{count} {}", plain(outcome)));
        let outcomes = outcomes.collect::<Vec<_>>().join(", ");
        let outcomes = if outcomes.is_empty() { "none yet" } else { outcomes.as_str() };
        let waiting =
            if commands.waiting > 0 { format!("; {}", of(commands.waiting, "waits", "wait")) } else { String::new() };
        let state = match commands.state.as_str() {
            "" | "open" => String::new(),
            state => format!("{}; ", plain(&state.to_uppercase())),
        };
        let _ = writeln!(out, "commands   {state}{outcomes}{waiting}");
        if let Some(why) = &commands.unaudited {
            let _ = writeln!(out, "UNAUDITED  {}", plain(why));
        }
        for one in &commands.last {
            let (at, kind, outcome) = (plain(&one.at), plain(&one.kind), plain(&one.outcome));
            let (command, device) = (plain(&one.command), plain(&one.device));
            let topic = one.topic.as_ref().map_or(String::new(), |topic| format!(", {}", plain(topic)));
            let why = one.detail.as_ref().map_or(String::new(), |why| format!(": {}", plain(why)));
            let _ = writeln!(out, "           {at} {kind} {command} for {device}{topic}: {outcome}{why}");
        }
    }
    let Some(twins) = report.twins.as_ref().filter(|twins| twins.count > 0) else { return };
    let waiting = match twins.waiting {
        0 => "the hub has all that is reported".to_owned(),
        waiting => format!("{} for the hub", of(waiting, "change waits", "changes wait")),
    };
    let _ = writeln!(out, "twins      {}; {waiting}", of_len(twins.count, "twin", "twins"));
    let version = |version: Option<u64>| version.map_or("not known yet".to_owned(), |version| version.to_string());
    for twin in &twins.listed {
        let (desired, reported) = (version(twin.desired_version), version(twin.reported_version));
        let waiting = match twin.waiting {
            0 => String::new(),
            waiting => format!(", {}", of(waiting, "change waits", "changes wait")),
        };
        let device = plain(&twin.device);
        let _ = writeln!(out, "           {device}: version desired {desired}, reported {reported}{waiting}");
    }
    if let Some(refused) = &twins.last_refused {
        let (at, device, detail) = (plain(&refused.at), plain(&refused.device), plain(&refused.detail));
        let _ = writeln!(out, "           {at} the hub refused {device} with {}: {detail}", refused.status);
    }
}

fn table(out: &mut String, clients: &[Connected]) {
    const HEADS: [&str; 8] = ["CLIENT", "FROM", "VIA", "MQTT", "KEEP-ALIVE", "SINCE", "IN", "OUT"];
    let rows = clients.iter().map(|client| {
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
    });
    columns(out, HEADS, rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_sparkplug() {
        for (nodes, births, kept, expect) in [
            (0, 0, true, "sparkplug  0 births hold, of 0 edge nodes; 0 B\n"),
            (1, 1, true, "sparkplug  1 birth holds, of 1 edge node; 0 B\n"),
            (1, 4, true, "sparkplug  4 births hold, of 1 edge node; 0 B\n"),
            (
                2,
                4,
                false,
                "sparkplug  4 births hold, of 2 edge nodes; 0 B; NOT KEPT over a restart, the disk does not take them\n",
            ),
        ] {
            let mut out = String::new();
            super::births(&mut out, &Sparkplug { nodes, births, bytes: 0, kept });
            assert_eq!(out, expect);
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
