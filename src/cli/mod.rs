//! The command line: arguments in, text and an exit code out.
//!
//! Exit codes: 0 done, 1 findings, 2 could not run (or, for `explain`, no rule matched),
//! 78 bad configuration under `run`. Data goes to stdout, everything else to stderr.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod check;
mod cost;
mod demo;
mod derive_key;
mod devices;
mod enrol;
mod explain;
mod ledger;
mod passwd;
mod quarantine;
mod queue;
mod record;
mod replay;
mod run;
mod running;
mod sas;
mod schema;
mod secret;
mod service;
mod sim;
mod status;
mod tap;
mod test;
mod text;
mod unmatched;
mod watching;

/// A durable bridge from plaintext MQTT on the plant floor to Azure IoT Hub and IoT Edge.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Status(status::Args),
    Cost(cost::Args),
    Ledger(ledger::Args),
    Queue(queue::Args),
    Devices(devices::Args),
    Quarantine(quarantine::Args),
    Tap(tap::Args),
    Unmatched(unmatched::Args),
    Record(record::Args),
    Replay(replay::Args),
    Check(check::Args),
    Test(test::Args),
    Explain(explain::Args),
    Schema(schema::Args),
    Demo(demo::Args),
    Passwd(passwd::Args),
    Enrol(enrol::Args),
    Sas(sas::Args),
    DeriveKey(derive_key::Args),
    Sim(sim::Args),
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Status(args) => status::run(args),
        Command::Cost(args) => cost::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Queue(args) => queue::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Quarantine(args) => quarantine::run(args),
        Command::Tap(args) => tap::run(args),
        Command::Unmatched(args) => unmatched::run(args),
        Command::Record(args) => record::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Check(args) => check::run(args),
        Command::Test(args) => test::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Schema(args) => schema::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Passwd(args) => passwd::run(args),
        Command::Enrol(args) => enrol::run(args),
        Command::Sas(args) => sas::run(args),
        Command::DeriveKey(args) => derive_key::run(args),
        Command::Sim(args) => sim::run(args),
    }
}
