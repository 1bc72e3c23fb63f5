//! `brownbridge schema`.

use std::process::ExitCode;

use super::check::print;
use crate::{config, rules};

/// Prints a JSON Schema for editors, which complete and mark rule files and bridge.toml by it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  brownbridge schema rules > rules/rules.schema.json\n\n\
    and as the first line of each rule file, for Even Better TOML, Taplo and Tombi:\n\n  \
    #:schema ./rules.schema.json\n\nExit code: 0 done.")]
pub(super) struct Args {
    /// Which file the schema is for.
    what: What,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Rule files.
    Rules,
    /// bridge.toml.
    Config,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let schema = match args.what {
        What::Rules => rules::schema(),
        What::Config => config::schema(),
    };
    print(&format!("{schema:#}\n"));
    ExitCode::SUCCESS
}
