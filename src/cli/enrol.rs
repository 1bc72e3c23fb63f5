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
use by_hand::ByHand;

mod by_hand;

/// Asks the Device Provisioning Service once for the hub of a device, and shows each step.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  brownbridge enrol                              as [uplink.dps] of the bridge says\n  \
    brownbridge enrol press-9                      a device, with what the bridge has for it\n  \
    brownbridge enrol press-4 --id-scope 0ne00000A0A --symmetric-key-file press-4.key\n  \
    brownbridge enrol --id-scope 0ne00000A0A --certificate press-4.pem --key press-4.key\n\n\
    With --id-scope no configuration is read; a key then comes from a file, or from the environment\n\
    variable DPS_SYMMETRIC_KEY or DPS_GROUP_KEY, and a proxy with a password from DPS_PROXY.\n\n\
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

pub(super) fn run(args: Args) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let found = match &args.by_hand.id_scope {
        Some(scope) => args.by_hand.enrolment((scope, args.id.as_deref()), &env),
        None => configured(&args, &env),
    };
    let found = match found {
        Ok(found) => found,
        Err(problem) => return could_not_run(&problem),
    };
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

fn configured(args: &Args, env: &dyn Fn(&str) -> Option<String>) -> Result<Enrolment, String> {
    let text = text_file::read(&args.config).map_err(|error| cannot_read(&args.config, &error))?;
    let found = enrolment(&args.config, &text, args.id.as_deref(), env);
    print_findings(&found.diagnostics, &found.sources);
    Ok(found)
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
