//! `brownbridge sas`.

use std::process::ExitCode;
use std::time::Duration;

use super::check::{could_not_run, print};
use super::secret::From;
use crate::config::units;
use crate::hub::connect::{Identity, password};
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::message::Timestamp;

/// Mints a SAS token from a device connection string, for tools that want one.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge sas --env HUB_CONNECTION\n  \
    brownbridge sas --file hub.secret --lifetime 10m --json\n\n\
    The connection string is read from a file, the environment or standard input, never from the\n\
    command line.\n\n\
    Exit code: 0 done, 2 could not run.")]
pub(super) struct Args {
    #[command(flatten)]
    from: From,
    /// How long the token is good: 10m, 1h, 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    lifetime: Duration,
    /// Prints JSON on stdout: the token, what it is for, when it ends.
    #[arg(long)]
    json: bool,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let found = units::duration(text).ok_or("write a number and a unit: 10m, 1h, 7d")?;
    if found < Duration::from_secs(1) { Err("at least 1s".into()) } else { Ok(found) }
}

pub(super) fn run(args: Args) -> ExitCode {
    match mint(&args) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(problem) => could_not_run(&problem),
    }
}

fn mint(args: &Args) -> Result<String, String> {
    let text = args.from.read("the connection string")?;
    let connection = ConnectionString::parse(text.expose()).map_err(|error| error.to_string())?;
    if !matches!(connection.auth, Auth::Key(_)) {
        return Err("the connection string has no `SharedAccessKey`, and a token is made from one".into());
    }
    let seconds = i64::try_from(args.lifetime.as_secs()).unwrap_or(i64::MAX);
    let expiry = Timestamp::now().as_secs().saturating_add(seconds);
    let token = password(&connection, expiry).ok_or("there is no key to make a token from")?;
    Ok(match args.json {
        true => {
            let resource = Identity::of(&connection).resource();
            let expires = Timestamp(expiry.saturating_mul(1_000)).to_string();
            let json = serde_json::json!({"token": token.expose(), "resource": resource, "expires": expires});
            format!("{json}\n")
        }
        false => format!("{}\n", token.expose()),
    })
}
