//! `brownbridge sim`.

use std::process::ExitCode;

/// A simulated IoT Hub (or edgeHub) behind real TLS, for trying and testing without Azure.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> ExitCode {
    ExitCode::from(2)
}
