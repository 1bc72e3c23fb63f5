//! `brownbridge devices`: the devices that have a connection of their own, and who may have one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::check::{could_not_run, print, print_error};
use super::running::{self, default_config};
use super::text::{beginning, bytes, columns, plain, span};
use crate::amount::of;
use crate::app::status::Device;
use crate::control::{Answer, DEVICES_AT_ONCE, Request};
use crate::message::excerpt;

/// Of so many devices it is told one by one what letting them in or keeping them out does.
const TOLD: usize = 20;

/// Shows the devices of a running bridge with identity = "per-device", lets them in and keeps them out.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  brownbridge devices list                  all of them, those that cannot send first\n  \
    brownbridge devices list --state held     those that wait for approval\n  \
    brownbridge devices approve press-4       lets it in for good, and tries it at once\n  \
    brownbridge devices deny press-4          keeps it out; what waits for it goes to the quarantine\n\n\
    Exit code: 0 done, 1 there is no such device, 2 could not run (no bridge runs, or it is another\n\
    user's)."
)]
pub(super) struct Args {
    /// The configuration of the bridge whose devices they are [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", global = true, hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Lists the devices that messages have named, those that cannot send first.
    List {
        /// Only those in this state.
        #[arg(long, value_name = "STATE",
            value_parser = ["connected", "connecting", "registering", "idle", "refused", "held", "denied"])]
        state: Option<String>,
        /// Prints them as JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Shows one device.
    Show {
        /// The id of the device.
        id: String,
        /// Prints it as JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Lets devices in, and tries those at once that the hub has refused.
    Approve {
        /// The ids of the devices.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Keeps devices out; what waits for them, and what they send, goes to the quarantine.
    Deny {
        /// The ids of the devices.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

pub(super) fn run(args: Args) -> ExitCode {
    let state = match running::state_folder(&args.config) {
        Ok(state) => state,
        Err(code) => return code,
    };
    let done = match args.action {
        Action::List { state: wanted, json } => list(&state, wanted.as_deref(), json),
        Action::Show { id, json } => show(&state, id, json),
        Action::Approve { ids } => say(&state, ids, true),
        Action::Deny { ids } => say(&state, ids, false),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => could_not_run(&problem),
    }
}

fn ask(state: &Path, request: &Request) -> Result<Answer, String> {
    running::ask(state, request)?.ok_or_else(|| "no bridge runs here: only a running one can be asked".to_owned())
}

fn devices(state: &Path, id: Option<String>, after: Option<String>) -> Result<Vec<Device>, String> {
    let Answer::Devices(listed) = ask(state, &Request::Devices { id, after })? else {
        return Err("the bridge gave another answer".to_owned());
    };
    let read = |one| serde_json::from_value(one).map_err(|error| format!("the answer cannot be read: {error}"));
    listed.into_iter().map(read).collect()
}

/// All devices, those that cannot send first, then those on whose shelves most waits.
fn all(state: &Path) -> Result<Vec<Device>, String> {
    let mut all: Vec<Device> = Vec::new();
    loop {
        let more = devices(state, None, all.last().map(|device| device.id.clone()))?;
        let last = more.len() < DEVICES_AT_ONCE;
        all.extend(more);
        if last {
            break;
        }
    }
    let cannot = |device: &Device| matches!(device.state.as_str(), "refused" | "held");
    all.sort_by_key(|device| (!cannot(device), std::cmp::Reverse(device.shelved)));
    Ok(all)
}

fn list(state: &Path, wanted: Option<&str>, as_json: bool) -> Result<bool, String> {
    let mut listed = all(state)?;
    listed.retain(|device| wanted.is_none_or(|wanted| device.state == wanted));
    if as_json {
        print(&format!("{}\n", serde_json::to_string(&listed).map_err(|error| error.to_string())?));
        return Ok(true);
    }
    if listed.is_empty() {
        print_error("no devices\n");
        return Ok(true);
    }
    let mut out = String::new();
    table(&mut out, &listed);
    print(&out);
    Ok(true)
}

/// Devices in columns.
pub(super) fn table(out: &mut String, devices: &[Device]) {
    let rows = devices.iter().map(|device| {
        let trouble = device.trouble.as_deref().unwrap_or_default();
        [
            own_or(&device.id),
            device.state.clone(),
            device.queued.to_string(),
            device.shelved.to_string(),
            bytes(device.shelf_bytes),
            device.delivered.to_string(),
            beginning(&plain(trouble.split(". ").next().unwrap_or_default()), 70),
        ]
    });
    columns(out, ["DEVICE", "STATE", "QUEUED", "SHELVED", "SIZE", "DELIVERED", "TROUBLE"], rows);
}

fn own_or(id: &str) -> String {
    if id.is_empty() { "(the bridge itself)".to_owned() } else { plain(excerpt(id)) }
}

fn show(state: &Path, id: String, as_json: bool) -> Result<bool, String> {
    let Some(device) = devices(state, Some(id.clone()), None)?.into_iter().next() else {
        print_error(&format!("no message has named the device {} since the bridge started\n", plain(&id)));
        return Ok(false);
    };
    if as_json {
        print(&format!("{}\n", serde_json::to_string(&device).map_err(|error| error.to_string())?));
        return Ok(true);
    }
    let mut out = match device.id.as_str() {
        "" => format!("{} is the bridge itself: {}\n", plain(&id), device.state),
        id => format!("{}: {}\n", plain(id), device.state),
    };
    let _ = writeln!(out, "queued     {}", of(device.queued, "message", "messages"));
    let since = device.shelved_since.map_or_else(String::new, |since| format!(", the oldest since {since}"));
    let shelved = of(device.shelved, "message", "messages");
    let _ = writeln!(out, "on shelf   {shelved}, {}{since}", bytes(device.shelf_bytes));
    let last = device.last_delivered.map_or_else(String::new, |at| format!(", the last {at}"));
    let delivered = of(device.delivered, "message", "messages");
    let _ = writeln!(out, "delivered  {delivered} since the start{last}");
    if let Some(admission) = &device.admission {
        let _ = writeln!(out, "admission  {}", plain(admission));
    }
    if let Some(credentials) = &device.credentials {
        let _ = writeln!(out, "connects   with {}", plain(credentials));
    }
    match (&device.hub, &device.assigned) {
        (Some(hub), Some(assigned)) => {
            let _ = writeln!(out, "hub        {}, as the provisioning service said {assigned}", plain(hub));
            if let Some(there) = &device.there {
                let _ = writeln!(out, "there      {}, the id the provisioning service gave it", plain(there));
            }
        }
        (Some(hub), None) => {
            let _ = writeln!(out, "hub        {}", plain(hub));
        }
        (None, _) if device.credentials.is_some() => {
            let _ = writeln!(out, "hub        not known yet: the provisioning service is to tell it");
        }
        (None, _) => {}
    }
    if let Some(trouble) = &device.trouble {
        let _ = writeln!(out, "trouble    {}", plain(trouble));
    }
    if let Some(again) = device.again_in_seconds {
        let _ = writeln!(out, "next try   in {}; `devices approve` tries it now", span(Duration::from_secs(again)));
    }
    print(&out);
    Ok(true)
}

/// What devices do; nothing where they have not named themselves.
fn states(state: &Path, ids: &[String]) -> Result<Vec<Option<String>>, String> {
    let one = |id: &String| Ok(devices(state, Some(id.clone()), None)?.pop().map(|device| device.state));
    ids.iter().map(one).collect()
}

/// What becomes of a device that was in this state.
fn said(before: Option<&str>, approve: bool) -> &'static str {
    match before {
        None => "not seen yet: no message has named it since the bridge started. Is it spelled so?",
        Some(_) if !approve => "is kept out now",
        Some("refused") => "was refused: it is tried now, and asks the provisioning service again where it has one",
        Some("held" | "denied") => "is let in now",
        Some("connected") => "was connected and stays so: nothing is tried or asked again",
        Some(_) => "was let in before: nothing is tried or asked again",
    }
}

fn say(state: &Path, ids: Vec<String>, approve: bool) -> Result<bool, String> {
    let what = if approve { "let in" } else { "kept out" };
    let before = if ids.len() <= TOLD { states(state, &ids)? } else { Vec::new() };
    let mut count = 0;
    for some in ids.chunks(crate::control::MAX_DEVICES) {
        match ask(state, &Request::DevicesSay { ids: some.to_vec(), approve })? {
            Answer::Said(some) => count += some,
            _ => return Err("the bridge gave another answer".to_owned()),
        }
    }
    for (id, before) in ids.iter().zip(&before) {
        print(&format!("{}: {}\n", plain(id), said(before.as_deref(), approve)));
    }
    print(&format!("{} {what} from now on\n", of(count, "device is", "devices are")));
    Ok(true)
}
