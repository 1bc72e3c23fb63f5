//! The documents hold what they say: links lead somewhere, command lines are understood, rules pass their own tests, keys
//! and metrics are there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use regex::Regex;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every document, and its text.
fn documents() -> Vec<(String, String)> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let mut names: Vec<String> =
        docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_string_lossy())).collect();
    let others = ["README.md", "ARCHITECTURE.md", "tests/golden/mqtt/README.md", "tests/interop/README.md"];
    names.extend(others.map(str::to_owned));
    let read = |name: String| (fs::read_to_string(Path::new(ROOT).join(&name)).unwrap(), name);
    names.into_iter().map(read).map(|(text, name)| (name, text)).collect()
}

/// A text without what stands between fences.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The blocks of a language, with the line each begins at.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<(usize, &'t str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&format!("```{language}\n")) {
        let block = &text[at + language.len() + 4..];
        found.push((text[..at].lines().count() + 1, &block[..block.find("```").unwrap()]));
    }
    found
}

fn brownbridge(args: &[&str], dir: &Path) -> Output {
    let key = "HostName=h.azure-devices.net;DeviceId=g;SharedAccessKey=a2V5a2V5a2V5a2V5a2V5";
    let mut command = Command::new(env!("CARGO_BIN_EXE_brownbridge"));
    command.args(args).current_dir(dir).env("HUB_CONNECTION", key).stdin(Stdio::null()).output().unwrap()
}

/// The anchors of a document, as forges make them of its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings = headings.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| -> String {
        let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
        heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#]*)(?:#([^)]*))?\)").unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (name, text) in documents() {
        for found in link.captures_iter(&prose(&text)).filter(|found| !found[1].starts_with("http")) {
            seen += 1;
            let place = match &found[1] {
                "" => PathBuf::from(ROOT).join(&name),
                path => Path::new(ROOT).join(&name).parent().unwrap().join(path),
            };
            let is_there = match found.get(2) {
                None => place.exists(),
                Some(anchor) => fs::read_to_string(&place).is_ok_and(|text| anchors(&text).contains(anchor.as_str())),
            };
            if !is_there {
                wrong.push(format!("{name}: {}", &found[0]));
            }
        }
    }
    assert!(wrong.is_empty() && seen > 60, "{seen} links, to nowhere: {wrong:#?}");
}

#[test]
fn command_lines_are_understood() {
    let inline = Regex::new(r"`(brownbridge [^`\n]+)`").unwrap();
    let of_line = Regex::new(r"^\s*(brownbridge .+)$").unwrap();
    let mut lines = BTreeSet::new();
    for (name, text) in documents() {
        lines.extend(inline.captures_iter(&prose(&text)).map(|found| (name.clone(), found[1].to_owned())));
        for (_, block) in blocks(&text, "sh") {
            lines.extend(block.lines().filter_map(|line| Some((name.clone(), of_line.captures(line)?[1].to_owned()))));
        }
    }
    let mut wrong = Vec::new();
    for (name, line) in &lines {
        // What is behind these is for the shell, or for the reader.
        let cut = [" #", " | ", " > ", " && "].iter().filter_map(|end| line.find(end)).min().unwrap_or(line.len());
        let line = &line[..cut];
        let args = words(line);
        let args: Vec<&str> = args.iter().skip(1).map(String::as_str).chain(["--help"]).collect();
        let output = brownbridge(&args, Path::new(ROOT));
        if !output.status.success() {
            wrong.push(format!("{name}: {line}\n{}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(wrong.is_empty() && lines.len() > 50, "{} lines, not understood:\n{}", lines.len(), wrong.join("\n"));
}

/// The words of a line as a shell takes it apart.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c.is_whitespace() => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn rules_and_settings_are_as_the_program_has_them() {
    let (mut rules, mut settings) = (0, 0);
    for (name, text) in documents() {
        for (line, block) in blocks(&text, "toml") {
            let place = format!("{name}:{line}");
            let dir = tempfile::tempdir().unwrap();
            let begins = |line: &str, table: &&str| line.trim_start().starts_with(&format!("[[{table}]]"));
            let has = |tables: &[&str]| block.lines().any(|line| tables.iter().any(|table| begins(line, table)));
            if has(&["rule", "command", "desired"]) {
                rules += 1;
                fs::write(dir.path().join("rules.toml"), block).unwrap();
                for args in [&["check", "--deny", "warnings", "rules.toml"][..], &["test", "rules.toml"]] {
                    let output = brownbridge(args, dir.path());
                    let told = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{place} {args:?}\n{told}");
                }
            } else if !has(&["allow", "hub", "device"]) {
                settings += 1;
                fs::write(dir.path().join("bridge.toml"), block).unwrap();
                let output = brownbridge(&["check", "bridge.toml"], dir.path());
                let told = String::from_utf8_lossy(&output.stderr);
                // Files and the hub are left out of examples; keys and words must be right.
                let is_wrong = ["unknown", "wrong type", "TOML", "must be"].iter().any(|what| told.contains(what));
                assert!(!is_wrong, "{place}\n{told}");
            }
        }
    }
    assert!(rules > 8 && settings > 6, "{rules} of rules, {settings} of settings");
}

#[test]
fn metrics_are_there() {
    let metrics = fs::read_to_string(Path::new(ROOT).join("src/metrics.rs")).unwrap();
    let named =
        Regex::new(r"`brownbridge_([a-z_]+[a-z])|`([a-z]+_[a-z_]+[a-z])\{|[( ]brownbridge_([a-z_]+[a-z])").unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (name, text) in documents() {
        for found in named.captures_iter(&text) {
            let metric = found.iter().skip(1).flatten().next().unwrap().as_str();
            seen += 1;
            if ![format!("\"{metric}\""), format!("\"brownbridge_{metric}\"")].iter().any(|n| metrics.contains(n)) {
                wrong.push(format!("{name}: {metric}"));
            }
        }
    }
    assert!(wrong.is_empty() && seen > 30, "{seen} metrics, unknown: {wrong:#?}");
}
