//! `brownbridge derive-key`.

use std::process::ExitCode;

use super::check::{could_not_run, print};
use super::secret::From;
use crate::hub::dps::RegistrationId;
use crate::hub::sas::Key;

/// Derives the key of one device from the key of its enrolment group.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge derive-key press-4 --env GROUP_KEY\n  \
    pass show dps/line-1 | brownbridge derive-key press-4\n\n\
    The registration id is taken in lower case, as the service does. The group key is read from a\n\
    file, the environment or standard input, never from the command line.\n\n\
    Exit code: 0 done, 2 could not run.")]
pub(super) struct Args {
    /// The registration id of the device.
    id: String,
    #[command(flatten)]
    from: From,
    /// Prints JSON on stdout: the registration id and its key.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    match derive(&args) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(problem) => could_not_run(&problem),
    }
}

fn derive(args: &Args) -> Result<String, String> {
    let id = RegistrationId::parse(&args.id).map_err(|error| error.to_string())?;
    let text = args.from.read("the group key")?;
    let key = Key::parse(text.expose()).map_err(|error| error.to_string())?;
    let key = id.key_of(&key);
    Ok(match args.json {
        true => format!("{}\n", serde_json::json!({"registration_id": id.as_str(), "key": key.expose()})),
        false => format!("{}\n", key.expose()),
    })
}
