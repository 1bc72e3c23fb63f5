//! `brownbridge test`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::check::{could_not_run, print, print_findings, read_rule_files};
use crate::rules::{self, testing};

/// Runs the `[[test]]` cases of rule files.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  brownbridge test rules\n\nExit code: 0 all passed, 1 failures or errors, 2 could not run."
)]
pub(super) struct Args {
    /// Rule files, or folders of rule files.
    #[arg(default_value = "rules")]
    paths: Vec<PathBuf>,
    /// Prints the results as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let sources = match read_rule_files(&args.paths, "brownbridge test PATH") {
        Ok(sources) => sources,
        Err(problem) => return could_not_run(&problem),
    };
    let loaded = rules::load(&sources);
    let Some(set) = &loaded.rules else {
        if args.json {
            let findings: Vec<_> = loaded.diagnostics.iter().map(|found| found.json(&sources)).collect();
            print(&format!("{}\n", serde_json::json!({ "errors": findings })));
        } else {
            print_findings(&loaded.diagnostics, &sources);
            print("no test was run: the rules have errors\n");
        }
        return ExitCode::from(1);
    };
    let results = testing::run(set, &loaded.tests);
    let failed = results.iter().filter(|result| !result.passed()).count();
    if args.json {
        let tell = |result: &testing::TestResult| {
            let failures: Vec<_> = result.failures.iter().map(|found| found.json(&sources)).collect();
            let path = sources.get(result.file).map(|source| source.path.as_str());
            serde_json::json!({ "path": path, "name": result.name, "passed": result.passed(), "failures": failures })
        };
        let tests: Vec<_> = results.iter().map(tell).collect();
        print(&format!("{}\n", serde_json::json!({ "tests": tests })));
    } else {
        print_findings(&loaded.diagnostics, &sources);
        for result in &results {
            print_findings(&result.failures, &sources);
        }
        print(&format!("{} passed, {failed} failed\n", results.len() - failed));
    }
    ExitCode::from(u8::from(failed > 0))
}
