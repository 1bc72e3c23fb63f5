//! `brownbridge check`.

use std::process::ExitCode;

/// Checks rule files (and bridge.toml) and tells every mistake at once.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> ExitCode {
    ExitCode::from(2)
}
