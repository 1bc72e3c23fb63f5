//! `brownbridge enrol`: one registration with the provisioning service by hand.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};

use super::check::{could_not_run, print, print_error, print_findings};
use super::running::default_config;
use crate::app::settings;
use crate::app::settings::dps::{Enrolment, enrolment};
use crate::app::text_file::{self, cannot_read};
use crate::bridge::devices::{Origin, origin};
use crate::hub::dps::{Assignment, Trouble};
use crate::message::Timestamp;
use crate::provision::{self, Options, Proof, cache};

/// Asks the Device Provisioning Service once for the hub of a device, and shows each step.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  brownbridge enrol                              as [uplink.dps] of the bridge says\n  \
    brownbridge enrol press-9                      a device, with what the bridge has for it\n  \
    brownbridge enrol press-4 --id-scope 0ne00000A0A --symmetric-key-file press-4.key\n  \
    brownbridge enrol --id-scope 0ne00000A0A --certificate press-4.pem --key press-4.key\n\n\
    With --id-scope no configuration is read; a key then comes from a file, or from the environment\n\
    variable DPS_SYMMETRIC_KEY or DPS_GROUP_KEY.\n\n\
    Exit code: 0 assigned, 1 not assigned, 2 could not run."
)]
pub(super) struct Args {
    /// The registration id [default: the one of the configuration or of the certificate]; with identity = "per-device" a
    /// device, which registers with what the bridge would use for it
    id: Option<String>,
    /// The configuration of the bridge [default: bridge.toml if it lies here, else
    /// /etc/brownbridge/bridge.toml]
    #[arg(long, value_name = "FILE", hide_default_value = true, default_value = default_config())]
    config: PathBuf,
    /// Writes the assignment down for the bridge, which takes it up at its next start.
    #[arg(long, conflicts_with = "id_scope")]
    save: bool,
    /// Prints the result as JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    by_hand: ByHand,
}

/// What stands in for a configuration.
#[derive(clap::Args)]
#[command(next_help_heading = "Without a configuration")]
struct ByHand {
    /// The ID scope of the service.
    #[arg(long, value_name = "SCOPE", conflicts_with = "config")]
    id_scope: Option<String>,
    /// File with the key of an individual enrolment.
    #[arg(long, value_name = "FILE", requires = "id_scope")]
    symmetric_key_file: Option<String>,
    /// File with the key of an enrolment group.
    #[arg(long, value_name = "FILE", requires = "id_scope")]
    group_key_file: Option<String>,
    /// PEM file of the certificate and its chain, leaf first.
    #[arg(long, value_name = "FILE", requires_all = ["id_scope", "key"])]
    certificate: Option<String>,
    /// PEM file of the certificate's key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<String>,
    /// PEM file of the roots to trust instead of the system's.
    #[arg(long, value_name = "FILE", requires = "id_scope")]
    ca_file: Option<String>,
    /// How the service is spoken to [default: rest].
    #[arg(long, value_name = "WAY", value_parser = ["rest", "mqtt", "websocket"], requires = "id_scope")]
    transport: Option<String>,
    /// The host name of the service [default: global.azure-devices-provisioning.net].
    #[arg(long, value_name = "NAME", requires = "id_scope")]
    host: Option<String>,
    /// Connects here; the name in --host is still checked.
    #[arg(long, value_name = "ADDR:PORT", requires = "id_scope")]
    address: Option<String>,
    /// What a custom allocation is told: '{"line": 4}'.
    #[arg(long, value_name = "JSON", requires = "id_scope")]
    payload: Option<String>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let found = match args.by_hand.as_config(args.id.as_deref(), &env) {
        Some(text) => enrolment(Path::new("command line"), &text, None, &env),
        None => match text_file::read(&args.config) {
            Ok(text) => enrolment(&args.config, &text, args.id.as_deref(), &env),
            Err(error) => return could_not_run(&cannot_read(&args.config, &error)),
        },
    };
    print_findings(&found.diagnostics, &found.sources);
    let Some(options) = &found.options else { return could_not_run("the configuration has errors") };
    if args.save && found.of_device.is_some() {
        return could_not_run("--save is for the bridge itself: it registers its devices when they first send");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return could_not_run(&format!("the runtime cannot start: {error}")),
    };
    let result = runtime.block_on(register(options, found.of_device));
    print(&if args.json { shown_as_json(options, &result) } else { shown(options, &result) });
    if let (Ok(_), Some(_)) = (&result, found.of_device) {
        tell_admission(&args.config, &options.registration.id.to_string());
    }
    match (&result, args.save) {
        (Err(_), _) => ExitCode::from(1),
        (Ok(_), false) => ExitCode::SUCCESS,
        (Ok(assignment), true) => save(&found, options, assignment),
    }
}

impl ByHand {
    /// The configuration that says the same; none without `--id-scope`.
    fn as_config(&self, id: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let scope = self.id_scope.as_deref()?;
        let (mut uplink, mut dps) = (toml::Table::new(), toml::Table::new());
        let mut put = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                // A `$` on the command line is a `$`.
                dps.insert(key.to_owned(), value.replace('$', "$$").into());
            }
        };
        put("id_scope", Some(scope));
        put("registration_id", id);
        put("symmetric_key_file", self.symmetric_key_file.as_deref());
        put("group_key_file", self.group_key_file.as_deref());
        put("transport", self.transport.as_deref());
        put("host", self.host.as_deref());
        put("address", self.address.as_deref());
        put("payload", self.payload.as_deref());
        let given = self.symmetric_key_file.is_some() || self.group_key_file.is_some() || self.certificate.is_some();
        for (key, name) in [("symmetric_key", "DPS_SYMMETRIC_KEY"), ("group_key", "DPS_GROUP_KEY")] {
            if !given && env(name).is_some() {
                dps.insert(key.to_owned(), format!("${{{name}}}").into());
            }
        }
        let files = [("certificate", &self.certificate), ("key", &self.key), ("ca_file", &self.ca_file)];
        for (key, value) in files {
            if let Some(value) = value {
                uplink.insert(key.to_owned(), value.replace('$', "$$").into());
            }
        }
        uplink.insert("dps".to_owned(), dps.into());
        let mut whole = toml::Table::new();
        whole.insert("uplink".to_owned(), uplink.into());
        Some(whole.to_string())
    }
}

async fn register(options: &Options, of_device: Option<&str>) -> Result<Assignment, Trouble> {
    let began = Instant::now();
    let step = |text: &str| print_error(&format!("{:6.1} s  {text}\n", began.elapsed().as_secs_f64()));
    let registration = &options.registration;
    let proof = of_device.unwrap_or(match &options.proof {
        Proof::Key(_) => "a key",
        Proof::Certificate => "a certificate",
    });
    step(&format!("{} in ID scope {}, with {proof}", registration.id, registration.scope));
    provision::register(options, |seen| step(&seen.to_string())).await
}

/// Says where the bridge would not let a device in.
fn tell_admission(config: &Path, device: &str) {
    let loaded = settings::load(config, &|name| std::env::var(name).ok());
    let Some(settings) = loaded.ok().and_then(|loaded| loaded.settings) else { return };
    let Some(planned) = settings.devices else { return };
    if let Ok(Origin { verdict, admission, .. }) = origin(&planned.plan, &settings.state, device)
        && verdict != "allowed"
    {
        print_error(&format!(
            "the bridge does not let it in, it is {verdict}: {admission}; `brownbridge devices approve {device}` does\n"
        ));
    }
}

fn shown(options: &Options, result: &Result<Assignment, Trouble>) -> String {
    let id = &options.registration.id;
    let assignment = match result {
        Ok(assignment) => assignment,
        Err(trouble) => return format!("{id} has no hub: {trouble}\n"),
    };
    let mut text = format!("{id} is device {} at {} ({})\n", assignment.device, assignment.hub, assignment.how());
    if let Some(group) = &assignment.group {
        let _ = writeln!(text, "enrolment group: {group}");
    }
    if let Some(payload) = &assignment.payload {
        let _ = writeln!(text, "payload: {payload}");
    }
    text
}

fn shown_as_json(options: &Options, result: &Result<Assignment, Trouble>) -> String {
    let id = options.registration.id.as_str();
    let json = match result {
        Ok(assignment) => json!({
            "registration_id": id,
            "result": "assigned",
            "hub": assignment.hub,
            "device": assignment.device,
            "substatus": assignment.substatus,
            "group": assignment.group,
            "payload": assignment.payload.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()),
        }),
        Err(trouble) => json!({
            "registration_id": id,
            "result": trouble.kind.label(),
            "message": trouble.text,
            "retry_after_seconds": trouble.retry_after.map(|after| after.as_secs()),
        }),
    };
    format!("{json}\n")
}

fn save(found: &Enrolment, options: &Options, assignment: &Assignment) -> ExitCode {
    let known = cache::Known::new(&options.registration, assignment, Timestamp::now());
    match cache::store(&found.state, &options.registration, &known) {
        Ok(()) => {
            print_error("written down; the bridge takes it up at its next start\n");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let path = cache::path(&found.state, &options.registration);
            could_not_run(&format!("cannot write {}: {error}", path.display()))
        }
    }
}
