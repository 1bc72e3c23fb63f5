//! `brownbridge test`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use super::check::{could_not_run, print, print_error, print_findings, read_rule_files};
use crate::diag::SourceFile;
use crate::rules::{self, Loaded, RuleSet, testing};

mod junit;

use junit::Timed;

/// Runs the `[[test]]` cases of rule files.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge test rules\n  \
    brownbridge test rules --junit report.xml    for the test report of a CI server\n\n\
    Exit code: 0 all passed, 1 failures or errors, 2 could not run.")]
pub(super) struct Args {
    /// Rule files, or folders of rule files.
    #[arg(default_value = "rules")]
    paths: Vec<PathBuf>,
    /// Prints the results as JSON on stdout.
    #[arg(long)]
    json: bool,
    /// Writes the results as JUnit XML; `-` is stdout.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    junit: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let sources = match read_rule_files(&args.paths, "brownbridge test PATH") {
        Ok(sources) => sources,
        Err(problem) => return could_not_run(&problem),
    };
    let loaded = rules::load(&sources);
    let results = loaded.rules.as_ref().map(|set| timed(set, &loaded.tests));
    if args.json {
        print_json(&loaded, results.as_deref(), &sources);
    } else {
        print_text(&loaded, results.as_deref(), &args, &sources);
    }
    if let Some(path) = &args.junit {
        let report = match &results {
            Some(results) => junit::results(results, &sources),
            None => junit::not_run(&loaded.diagnostics, &sources),
        };
        if path == Path::new("-") {
            print(&report);
        } else if let Err(error) = std::fs::write(path, report) {
            return could_not_run(&format!("cannot write {}: {error}", path.display()));
        }
    }
    let passed = results.is_some_and(|results| results.iter().all(|timed| timed.result.passed()));
    ExitCode::from(u8::from(!passed))
}

fn timed(set: &RuleSet, tests: &[testing::Test]) -> Vec<Timed> {
    let run = |test| {
        let begin = Instant::now();
        let results = testing::run(set, std::slice::from_ref(test));
        let took = begin.elapsed();
        results.into_iter().map(move |result| Timed { result, took })
    };
    tests.iter().flat_map(run).collect()
}

fn print_json(loaded: &Loaded, results: Option<&[Timed]>, sources: &[SourceFile]) {
    let Some(results) = results else {
        let findings: Vec<_> = loaded.diagnostics.iter().map(|found| found.json(sources)).collect();
        return print(&format!("{}\n", serde_json::json!({ "errors": findings })));
    };
    let tell = |Timed { result, .. }: &Timed| {
        let failures: Vec<_> = result.failures.iter().map(|found| found.json(sources)).collect();
        let path = sources.get(result.file).map(|source| source.path.as_str());
        serde_json::json!({ "path": path, "name": result.name, "passed": result.passed(), "failures": failures })
    };
    let tests: Vec<_> = results.iter().map(tell).collect();
    print(&format!("{}\n", serde_json::json!({ "tests": tests })));
}

fn print_text(loaded: &Loaded, results: Option<&[Timed]>, args: &Args, sources: &[SourceFile]) {
    print_findings(&loaded.diagnostics, sources);
    let sum = match results {
        None => "no test was run: the rules have errors\n".to_owned(),
        Some(results) => {
            results.iter().for_each(|timed| print_findings(&timed.result.failures, sources));
            let failed = results.iter().filter(|timed| !timed.result.passed()).count();
            format!("{} passed, {failed} failed\n", results.len() - failed)
        }
    };
    // On stdout there is nothing but the report.
    let elsewhere = args.junit.as_deref() == Some(Path::new("-"));
    if elsewhere { print_error(&sum) } else { print(&sum) }
}
