//! `brownbridge check`, and how rule files are found and findings are printed.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::diag::{Diagnostic, SourceFile};
use crate::rules::{self, FileSummary};

/// Checks rule files and tells every mistake at once.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  brownbridge check rules\n\nExit code: 0 no errors, 1 errors, 2 could not run.")]
pub(super) struct Args {
    /// Rule files, or folders of rule files.
    #[arg(default_value = "rules")]
    paths: Vec<PathBuf>,
    /// Prints the findings as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    if let Some(path) = args.paths.iter().find(|path| is_bridge_config(path)) {
        return could_not_run(&format!("{} is no rule file, and this version checks rule files only", path.display()));
    }
    let sources = match read_rule_files(&args.paths) {
        Ok(sources) => sources,
        Err(problem) => return could_not_run(&problem),
    };
    let loaded = rules::load(&sources);
    if args.json {
        let findings: Vec<_> = loaded.diagnostics.iter().map(|found| found.json(&sources)).collect();
        print(&format!("{}\n", serde_json::Value::Array(findings)));
    } else {
        print_findings(&loaded.diagnostics, &sources);
        for (file, (source, summary)) in sources.iter().zip(&loaded.files).enumerate() {
            print(&format!("{}: {}\n", source.path, summary_line(file, *summary, &loaded.diagnostics)));
        }
    }
    ExitCode::from(u8::from(loaded.rules.is_none()))
}

/// The configuration of the bridge is read by other rules than rule files; whoever checks it too branches off here.
fn is_bridge_config(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "bridge.toml")
}

fn summary_line(file: usize, summary: FileSummary, found: &[Diagnostic]) -> String {
    let here = || found.iter().filter(|found| found.file == file);
    let errors = here().filter(|found| found.is_error()).count();
    let warnings = here().count() - errors;
    let warned = if warnings == 0 { String::new() } else { format!(", {}", counted(warnings, "warning")) };
    match errors {
        0 => format!("ok, {}, {}{warned}", counted(summary.rules, "rule"), counted(summary.tests, "test")),
        errors => format!("{}{warned}", counted(errors, "error")),
    }
}

fn counted(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// Reads rule files; of a folder every `*.toml` in it, in name order.
pub(super) fn read_rule_files(paths: &[PathBuf]) -> Result<Vec<SourceFile>, String> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            let entries = std::fs::read_dir(path).map_err(|error| cannot_read(path, &error))?;
            for entry in entries {
                let file = entry.map_err(|error| cannot_read(path, &error))?.path();
                if file.extension().is_some_and(|extension| extension == "toml") {
                    files.push(file);
                }
            }
            if files.len() == before {
                return Err(format!("there is no rule file (*.toml) in the folder {}", path.display()));
            }
            if let Some(added) = files.get_mut(before..) {
                added.sort();
            }
        } else {
            files.push(path.clone());
        }
    }
    files.iter().map(|path| read_source(path)).collect()
}

/// Reads one file the user wrote.
fn read_source(path: &Path) -> Result<SourceFile, String> {
    let text = std::fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
    Ok(SourceFile { path: path.display().to_string(), text })
}

fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::InvalidData => {
            format!("{} is not UTF-8 text: save it as UTF-8 in your editor", path.display())
        }
        _ => format!("cannot read {}: {error}", path.display()),
    }
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
