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
#[command(
    version,
    about,
    max_term_width = 100,
    after_help = "Begin with:\n  brownbridge demo                     shows it all on this machine, without Azure\n  \
        brownbridge explain TOPIC            what becomes of a topic, and a first rule for it\n  \
        brownbridge check bridge.toml        before `brownbridge run`\n\n\
        Exit code: 0 done, 1 findings, 2 could not run; `run` has 78 for a bad configuration. Each command\n\
        tells its own."
)]
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// What values are called: the same thing has one word in all commands.
    const WORDS: [&str; 33] = [
        "ADDR:PORT",
        "BYTES",
        "DEVICE",
        "DIGITS",
        "EVENT",
        "FILE",
        "FILTER",
        "FOLDER",
        "FORMAT",
        "ID",
        "ID[=KEY_FILE]",
        "IP",
        "JSON",
        "KIND",
        "MS",
        "N",
        "NAME",
        "NAME=VALUE",
        "NEW",
        "OLD",
        "PATH",
        "QOS",
        "REASON",
        "SCOPE",
        "SECONDS",
        "SIZE",
        "STATE",
        "TEXT",
        "TIME",
        "URL",
        "VERSION",
        "WAY",
        "WHAT",
    ];
    const PLACES: [&str; 7] = ["FILE", "ID", "OUT", "PATHS", "TOPIC", "USER", "WHAT"];
    /// As wide as a help page is; a longer line would be broken where nobody meant it.
    const WIDTH: usize = 100;

    #[test]
    fn every_option_has_its_sentence_and_every_command_its_exit_codes() {
        let mut cli = Cli::command();
        cli.build();
        let mut pages = 0;
        walk(&cli, false, &mut pages);
        assert!(pages > 30, "{pages}");
    }

    fn walk(command: &clap::Command, told: bool, pages: &mut usize) {
        let name = command.get_display_name().unwrap_or_default();
        if name.contains("-help") {
            return;
        }
        *pages += 1;
        assert!(command.get_about().is_some(), "{name} says what it does");
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in after.lines() {
            assert!(line.chars().count() <= WIDTH, "{name}: {line}");
        }
        let told = told || after.contains("Exit code: 0 ");
        assert!(told, "{name} tells its exit codes");
        for arg in command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
            let place = format!("{name} {}", arg.get_id());
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.len() > 8 && help.starts_with(|c: char| c.is_uppercase()), "{place}: {help:?}");
            let words = if arg.is_positional() { &PLACES[..] } else { &WORDS };
            let values = arg.get_value_names().unwrap_or_default();
            if arg.get_action().takes_values() {
                assert!(values.iter().all(|value| words.contains(&value.as_str())), "{place}: {values:?}");
            }
        }
        command.get_subcommands().for_each(|sub| walk(sub, told, pages));
    }
}
