//! The plan of ARCHITECTURE.md, held by the code: imports point to lower floors, every module says what it is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules by floor; a module may name modules of lower floors only.
const FLOORS: [&[&str]; 5] = [
    &["topic", "message", "diag", "secret", "metrics", "amount"],
    &["config", "rules", "hub", "fence", "ledger", "watch", "downlink"],
    &[
        "broker",
        "spool",
        "quarantine",
        "shelf",
        "recording",
        "journal",
        "uplink",
        "provision",
        "outbound",
        "websocket",
        "admin",
        "control",
        "hubsim",
    ],
    &["bridge", "app"],
    &["cli"],
];

/// `app` builds `bridge`; `metrics` stamps its log pace with `message::Timestamp`; who goes to the cloud goes `outbound`;
/// `websocket` is a byte stream for who has a connection.
const SIDEWAYS: [(&str, &str); 8] = [
    ("app", "bridge"),
    ("metrics", "message"),
    ("uplink", "outbound"),
    ("provision", "outbound"),
    ("broker", "websocket"),
    ("uplink", "websocket"),
    ("provision", "websocket"),
    ("hubsim", "websocket"),
];

/// Pure modules: bytes, text and `now` in, values out.
const PURE: [&str; 11] =
    ["topic", "message", "diag", "amount", "config", "rules", "hub", "fence", "ledger", "watch", "downlink"];

const MAX_LINES: usize = 600;

fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let named = found.into_iter().map(|path| {
        let inside = path.strip_prefix(&root).unwrap();
        let top = inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        (top, path, text)
    });
    named.collect()
}

fn is_test_code(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    name.contains("tests") || name == "sim" || path.components().any(|part| part.as_os_str() == "tests")
}

/// The text before the unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

#[test]
fn every_module_has_a_floor() {
    let known: BTreeSet<&str> = FLOORS.concat().into_iter().collect();
    let tops: BTreeSet<String> = sources().into_iter().map(|(top, ..)| top).collect();
    let missing: Vec<_> =
        tops.iter().filter(|top| !known.contains(top.as_str()) && *top != "lib" && *top != "main").collect();
    assert!(missing.is_empty(), "no floor for {missing:?}");
    let gone: Vec<_> = known.iter().filter(|module| !tops.contains(**module)).collect();
    assert!(gone.is_empty(), "a floor for {gone:?}, which is not there");
}

#[test]
fn imports_point_to_lower_floors() {
    let named = regex::Regex::new(r"crate::(?:\{([^}]*)\}|(\w+))").unwrap();
    let mut wrong = Vec::new();
    for (top, path, text) in sources() {
        let Some(own) = floor(&top) else { continue };
        if is_test_code(&path) {
            continue;
        }
        for line in product(&text).lines().filter(|line| !line.trim_start().starts_with("//")) {
            for found in named.captures_iter(line) {
                let names = found.get(1).or(found.get(2)).unwrap().as_str();
                for name in names.split(',').map(|name| name.trim().split("::").next().unwrap()) {
                    let allowed = name == top
                        || SIDEWAYS.contains(&(top.as_str(), name))
                        || floor(name).is_none_or(|there| there < own);
                    if !allowed {
                        wrong.push(format!("{}: {} names {name}", path.display(), top));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cores_touch_no_file_socket_or_clock() {
    let forbidden =
        ["std::fs", "std::net::Tcp", "tokio::", "SystemTime::now", "Instant::now", "std::env", "std::thread"];
    let mut wrong = Vec::new();
    for (top, path, text) in sources() {
        // `Timestamp::now` is the one clock, a word for engines to call.
        if !PURE.contains(&top.as_str()) || top == "message" || is_test_code(&path) {
            continue;
        }
        for word in forbidden {
            if product(&text).contains(word) {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
        if product(&text).contains("Timestamp::now") {
            wrong.push(format!("{}: Timestamp::now", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_say_what_they_are_and_stay_readable() {
    let mut wrong = Vec::new();
    for (_, path, text) in sources() {
        if is_test_code(&path) {
            continue;
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{}: no `//!` at its top", path.display()));
        }
        let lines = product(&text).lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        if text.contains("unbounded_channel") || text.contains("unbounded()") {
            wrong.push(format!("{}: an unbounded queue", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn architecture_md_names_tests_that_exist() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let mut code: String = sources().into_iter().map(|(_, _, text)| text).collect();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            code += &fs::read_to_string(path).unwrap();
        }
    }
    let section = text.split("## Invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    let names = regex::Regex::new(r"`(\w+)`").unwrap();
    let tests: Vec<&str> =
        names.captures_iter(section).map(|found| found.extract::<1>().1[0]).filter(|n| n.contains('_')).collect();
    assert!(tests.len() >= 9, "{tests:?}");
    for test in tests {
        assert!(code.contains(&format!("fn {test}")), "ARCHITECTURE.md names the test `{test}`, which is not there");
    }
}
