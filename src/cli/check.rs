//! `brownbridge check`, and how rule files are found and findings are printed.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::app::settings;
use crate::diag::{Diagnostic, SourceFile};
use crate::rules::{self, FileSummary};

/// Checks rule files and bridge.toml, and tells every mistake at once.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge check rules              the rule files of a folder\n  \
    brownbridge check bridge.toml        the configuration and the rules it names\n\n\
    Exit code: 0 no errors, 1 errors, 2 could not run.")]
pub(super) struct Args {
    /// Rule files, folders of rule files, or one bridge.toml.
    #[arg(default_value = "rules")]
    paths: Vec<PathBuf>,
    /// A configuration with another name than bridge.toml; its rules are checked too.
    #[arg(long, value_name = "FILE", conflicts_with = "paths")]
    config: Option<PathBuf>,
    /// Prints the findings as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// What there is to tell.
struct Checked {
    sources: Vec<SourceFile>,
    found: Vec<Diagnostic>,
    summaries: Vec<FileSummary>,
    sound: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let is_config = |path: &&PathBuf| path.file_name().is_some_and(|name| name == "bridge.toml");
    let config = args.config.as_ref().or_else(|| args.paths.iter().find(is_config));
    let checked = match config {
        Some(_) if args.config.is_none() && args.paths.len() > 1 => {
            return could_not_run("bridge.toml names its rules itself: check it alone");
        }
        Some(config) => check_config(config),
        None => check_rules(&args.paths),
    };
    let checked = match checked {
        Ok(checked) => checked,
        Err(problem) => return could_not_run(&problem),
    };
    if args.json {
        let findings: Vec<_> = checked.found.iter().map(|found| found.json(&checked.sources)).collect();
        print(&format!("{}\n", serde_json::Value::Array(findings)));
    } else {
        print_findings(&checked.found, &checked.sources);
        for (file, source) in checked.sources.iter().enumerate() {
            let line = summary_line(file, checked.summaries.get(file), &checked.found);
            print(&format!("{}: {line}\n", source.path));
        }
    }
    ExitCode::from(u8::from(!checked.sound))
}

fn check_rules(paths: &[PathBuf]) -> Result<Checked, String> {
    let sources = read_rule_files(paths)?;
    let loaded = rules::load(&sources);
    Ok(Checked { sources, found: loaded.diagnostics, summaries: loaded.files, sound: loaded.rules.is_some() })
}

fn check_config(path: &Path) -> Result<Checked, String> {
    let loaded =
        settings::load(path, &|name| std::env::var(name).ok()).map_err(|error| settings::cannot_read(path, &error))?;
    let sound = loaded.settings.is_some();
    Ok(Checked { sources: loaded.sources, found: loaded.diagnostics, summaries: loaded.summaries, sound })
}

fn summary_line(file: usize, summary: Option<&FileSummary>, found: &[Diagnostic]) -> String {
    let here = || found.iter().filter(|found| found.file == file);
    let errors = here().filter(|found| found.is_error()).count();
    let warnings = here().count() - errors;
    let warned = if warnings == 0 { String::new() } else { format!(", {}", counted(warnings, "warning")) };
    match (errors, summary) {
        (0, None) => format!("ok{warned}"),
        (0, Some(summary)) => {
            format!("ok, {}, {}{warned}", counted(summary.rules, "rule"), counted(summary.tests, "test"))
        }
        (errors, _) => format!("{}{warned}", counted(errors, "error")),
    }
}

fn counted(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// Reads rule files; of a folder every `*.toml` in it, in name order.
pub(super) fn read_rule_files(paths: &[PathBuf]) -> Result<Vec<SourceFile>, String> {
    let mut files = Vec::new();
    for path in paths {
        let found = settings::read_rule_files(path)?;
        if found.is_empty() {
            return Err(format!("there is no rule file (*.toml) in the folder {}", path.display()));
        }
        files.extend(found);
    }
    Ok(files)
}

/// Says why the command could not run; exit code 2.
pub(super) fn could_not_run(problem: &str) -> ExitCode {
    print_error(&format!("error: {problem}\n"));
    ExitCode::from(2)
}

/// Prints findings to stderr, with colour where a person looks on.
pub(super) fn print_findings(found: &[Diagnostic], sources: &[SourceFile]) {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    for found in found {
        print_error(&format!("{}\n", found.render(sources, color)));
    }
}

/// Prints to stdout. A reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints to stderr.
pub(super) fn print_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
