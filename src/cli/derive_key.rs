//! `brownbridge derive-key`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::check::{could_not_run, print, print_error, print_findings};
use super::secret::From;
use crate::app::settings::derived::{Derived, derivation, derived_by_hand};
use crate::app::text_file::{self, cannot_read};
use crate::hub::dps::RegistrationId;
use crate::hub::sas::Key;

/// Derives the key of one device from the key of its group.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    brownbridge derive-key press-4 --config /etc/brownbridge/bridge.toml     as that bridge does\n  \
    brownbridge derive-key press-4 --env GROUP_KEY                           as an enrolment group does\n  \
    pass show line-1 | brownbridge derive-key SN-007 --as-written            for a bridge without [uplink.dps]\n\n\
    An id with capitals has two keys: the provisioning service derives from the id in lower case, a\n\
    bridge without [uplink.dps] from the id as it is written. The group key is read from the\n\
    configuration, a file, the environment or standard input, never from the command line.\n\n\
    Exit code: 0 done, 2 could not run.")]
pub(super) struct Args {
    /// The id of the device.
    id: String,
    /// Derives as the bridge of this configuration does, from the group key in it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "env"])]
    config: Option<PathBuf>,
    /// Takes the id as it is written, as a bridge without [uplink.dps] does.
    #[arg(long, conflicts_with = "config")]
    as_written: bool,
    #[command(flatten)]
    from: From,
    /// Prints JSON on stdout: the registration id and its key.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let derived = match &args.config {
        Some(config) => of_bridge(config, &args.id),
        None => by_hand(&args),
    };
    match derived {
        Ok(derived) => {
            tell(&args, &derived);
            print(&shown(&derived, args.json));
            ExitCode::SUCCESS
        }
        Err(problem) => could_not_run(&problem),
    }
}

fn of_bridge(config: &Path, id: &str) -> Result<Derived, String> {
    let text = text_file::read(config).map_err(|error| cannot_read(config, &error))?;
    let found = derivation(config, &text, id, &|name| std::env::var(name).ok());
    print_findings(&found.diagnostics, &found.sources);
    found.derived.ok_or_else(|| "the configuration has errors".to_owned())
}

fn by_hand(args: &Args) -> Result<Derived, String> {
    if !args.as_written {
        RegistrationId::parse(&args.id).map_err(|error| error.to_string())?;
    }
    let text = args.from.read("the group key")?;
    let group = Key::parse(text.expose()).map_err(|error| error.to_string())?;
    derived_by_hand(&group, &args.id, !args.as_written)
}

/// Says what the key was derived from where that is not plain, and where the bridge uses another one.
fn tell(args: &Args, derived: &Derived) {
    let Derived { id, is_registration, instead, .. } = derived;
    if let Some(instead) = instead {
        print_error(&format!("the bridge does not use this key for {}, but {instead}\n", args.id));
    }
    if !args.id.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return;
    }
    print_error(&match (is_registration, &args.config) {
        (true, Some(_)) => format!("derived from {id:?}, in lower case: this bridge has [uplink.dps]\n"),
        (false, Some(_)) => format!("derived from {id:?}, as it is written: this bridge has no [uplink.dps]\n"),
        (true, None) => format!(
            "derived from {id:?}, in lower case, as the provisioning service does; for a bridge without [uplink.dps] \
             --as-written (--config FILE knows which)\n"
        ),
        (false, None) => format!(
            "derived from {id:?}, as it is written, for a bridge without [uplink.dps]; the provisioning service \
             derives from {:?}\n",
            id.to_ascii_lowercase()
        ),
    });
}

fn shown(Derived { id, is_registration, key, .. }: &Derived, json: bool) -> String {
    let key = key.encode();
    if !json {
        return format!("{}\n", key.expose());
    }
    let name = if *is_registration { "registration_id" } else { "device_id" };
    format!("{}\n", serde_json::json!({name: id, "key": key.expose()}))
}
