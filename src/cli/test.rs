//! `brownbridge test`.

use std::process::ExitCode;

/// Runs the `[[test]]` cases of rule files.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> ExitCode {
    ExitCode::from(2)
}
