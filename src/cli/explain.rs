//! `brownbridge explain`.

use std::process::ExitCode;

/// Says which rule takes a topic and what the hub would receive.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> ExitCode {
    ExitCode::from(2)
}
