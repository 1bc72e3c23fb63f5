//! What users read when a rule file has mistakes, kept word for word. Bless with `UPDATE_EXPECT=1`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use brownbridge::diag::SourceFile;
use brownbridge::message::{HubMessage, Publish, Timestamp};
use brownbridge::rules::{self, CODES, Output, RuleSet, Verdict, testing};
use serde_json::Value;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty());
    files
}

fn source(path: &Path) -> SourceFile {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    SourceFile { path: name, text: std::fs::read_to_string(path).unwrap() }
}

fn expect(path: &Path, got: &str) {
    let golden = path.with_extension("stderr");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&golden, got).unwrap();
    }
    let want = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(got == want, "{} differs\n--- want\n{want}\n--- got\n{got}", golden.display());
}

#[test]
fn findings() {
    let mut missing: Vec<&str> = CODES.to_vec();
    for path in files("tests/golden/check") {
        let sources = [source(&path)];
        let loaded = rules::load(&sources);
        let text: Vec<String> = loaded.diagnostics.iter().map(|found| found.render(&sources, false)).collect();
        expect(&path, &text.join("\n"));
        for found in &loaded.diagnostics {
            assert!(CODES.contains(&found.code), "{} is not in CODES", found.code);
            found.json(&sources);
        }
        let own = path.file_stem().unwrap().to_str().unwrap();
        if loaded.diagnostics.iter().any(|found| found.code == own) {
            missing.retain(|code| *code != own);
        }
        let errors = loaded.diagnostics.iter().any(|found| found.is_error());
        assert_eq!(loaded.rules.is_none(), errors, "{own}: rules are there exactly where there is no error");
    }
    assert!(missing.is_empty(), "codes without a case of their own: {missing:?}");
}

/// Every fix is tried: the file it makes has one finding less of that place.
#[test]
fn fixes_do_what_they_promise() {
    let mut tried = 0;
    for path in files("tests/golden/check") {
        let sources = [source(&path)];
        for found in rules::load(&sources).diagnostics {
            let Some(fix) = found.fix else { continue };
            let mut text = sources[0].text.clone();
            text.replace_range(fix.span.clone(), &fix.replacement);
            let fixed = [SourceFile { path: sources[0].path.clone(), text }];
            let place = found.primary.unwrap().span.start;
            let still = rules::load(&fixed).diagnostics.iter().any(|again| {
                again.code == found.code
                    && again.title == found.title
                    && again.primary.as_ref().is_some_and(|l| l.span.start == place)
            });
            assert!(!still, "{}: {:?} is still there", path.display(), found.title);
            tried += 1;
        }
    }
    assert!(tried > 10);
}

#[test]
fn failing_tests() {
    for name in ["failing.toml", "failing-command.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rules").join(name);
        let sources = [source(&path)];
        let loaded = rules::load(&sources);
        let results = testing::run(&loaded.rules.unwrap(), &loaded.tests);
        assert!(results.iter().all(|result| !result.passed()));
        let text: Vec<String> =
            results.iter().flat_map(|result| &result.failures).map(|found| found.render(&sources, false)).collect();
        expect(&path, &text.join("\n"));
    }
}

fn all_pass(paths: &[PathBuf], least: usize, warnings_count: bool) {
    let sources: Vec<SourceFile> = paths.iter().map(|path| source(path)).collect();
    let loaded = rules::load(&sources);
    let told = loaded.diagnostics.iter().filter(|found| found.is_error() || warnings_count);
    let text: Vec<String> = told.map(|found| found.render(&sources, false)).collect();
    assert!(text.is_empty(), "{}", text.join("\n"));
    let results = testing::run(&loaded.rules.unwrap(), &loaded.tests);
    let failed: Vec<String> =
        results.iter().flat_map(|result| &result.failures).map(|found| found.render(&sources, false)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(results.len() >= least, "only {} tests", results.len());
}

#[test]
fn what_each_key_means() {
    let check = |name: &str, least| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rules").join(name);
        all_pass(&[path], least, false);
    };
    check("meaning.toml", 32);
    check("presence.toml", 7);
    check("decode.toml", 20);
    check("time.toml", 6);
    check("shape.toml", 20);
    check("script.toml", 6);
    check("command.toml", 30);
    check("restraint.toml", 11);
    check("window.toml", 13);
    check("cost.toml", 3);
}

#[test]
fn shipped_rules() {
    all_pass(&files("rules"), 35, true);
}

/// Examples of the format, each on its own.
#[test]
fn examples() {
    for path in files("tests/golden/rules/examples") {
        all_pass(&[path], 1, false);
    }
}

/// One publish as the vectors have it: what it is called, its topic and its bytes.
fn publishes(vectors: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/azure").join(vectors);
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes = |hex: &str| hex.as_bytes().chunks(2).map(byte).collect();
    let payload = |vector: &Value| match (vector["payload_hex"].as_str(), vector["payload_kind"].as_str()) {
        (Some(hex), _) => bytes(hex),
        (None, Some("hex")) => bytes(vector["payload"].as_str().unwrap()),
        _ => vector["payload"].as_str().or(vector["payload_text"].as_str()).unwrap().as_bytes().to_vec(),
    };
    let vectors = file["vectors"].as_array().unwrap();
    vectors.iter().map(|vector| (vector["topic"].as_str().unwrap().to_owned(), payload(vector))).collect()
}

/// What the hub gets of it, or why nothing.
fn outcome(rules: &RuleSet, publish: &Publish<'_>, out: &mut Output) -> String {
    let told = match rules.translate(publish, out) {
        Verdict::Translated => String::new(),
        Verdict::Dropped { rule } => format!("  dropped by `{}`\n", rules.name(rule)),
        Verdict::Quarantined { rule, reason } => {
            format!("  quarantined by `{}`: {}\n", rules.name(rule), reason.label())
        }
        Verdict::Unmatched => "  no rule\n".to_owned(),
    };
    let records = out.records().chain(out.held().map(|(rule, held)| (rule, rules::held_record(held))));
    let message = |(rule, record)| {
        let message = HubMessage::parse(record).unwrap();
        let body = String::from_utf8_lossy(message.body);
        format!("  {} | {} | {} | {body}\n", rules.name(rule), message.device, message.created)
    };
    told + &records.map(message).collect::<String>()
}

/// The cookbook over payloads of real equipment.
#[test]
fn equipment() {
    let sources: Vec<SourceFile> = files("rules").iter().map(|path| source(path)).collect();
    let rules = rules::load(&sources).rules.unwrap();
    let mut out = Output::new();
    let mut got = String::new();
    for (topic, payload) in ["plc_samples.json", "sparkplug.json"].into_iter().flat_map(publishes) {
        let (received, client) = (Timestamp(1_795_219_260_000), "plc");
        let publish = Publish { topic: &topic, payload: &payload, client, user: None, qos: 1, retain: false, received };
        let text = std::str::from_utf8(&payload).ok().filter(|text| !text.contains(char::is_control));
        let shown = text.unwrap_or("(binary)");
        got += &format!("{topic}  {shown}\n{}\n", outcome(&rules, &publish, &mut out));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rules/equipment.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&golden, &got).unwrap();
    }
    assert_eq!(got, std::fs::read_to_string(&golden).unwrap_or_default());
}

/// The bodies that a rule with this line makes of a payload.
fn bodies(line: &str, payload: &str) -> Vec<String> {
    let text = format!("[[rule]]\ntopic = \"plant/{{line}}\"\ndevice = \"{{line}}\"\n{line}\n");
    let sources = [SourceFile { path: "docs.toml".into(), text }];
    let loaded = rules::load(&sources);
    let told: Vec<String> = loaded.diagnostics.iter().map(|found| found.render(&sources, false)).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
    let publish = Publish {
        topic: "plant/line3",
        payload: payload.as_bytes(),
        client: "c",
        user: None,
        qos: 1,
        retain: false,
        // Thursday, 2026-01-01T00:00:00Z.
        received: Timestamp(1_767_225_600_000),
    };
    let mut out = Output::new();
    loaded.rules.unwrap().translate(&publish, &mut out);
    let body = |record| String::from_utf8(HubMessage::parse(record).unwrap().body.to_vec()).unwrap();
    out.records().map(|(_, record)| body(record)).collect()
}

/// The rows of the tables of a section of docs/rules.md, as cells.
fn rows(docs: &str, section: &str) -> Vec<Vec<String>> {
    let (_, section) = docs.split_once(&format!("\n## {section}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    let cells = |line: &str| {
        let line = line.trim_matches('|').replace("\\|", "\u{1}");
        line.split(" | ").map(|cell| cell.trim().replace('\u{1}', "|")).collect::<Vec<_>>()
    };
    lines.map(cells).collect()
}

fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.trim_matches('`').split("`, `")
}

/// What docs/rules.md says that expressions and scripts make, they make.
#[test]
fn examples_in_the_docs() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules.md")).unwrap();
    let expressions = rows(&docs, "Expressions");
    for row in &expressions {
        let [written, payload, makes] = row.as_slice() else { panic!("{row:?}") };
        for expression in code(written) {
            let set = format!("set = {{ made_of_it = '''{expression}''' }}");
            let body = bodies(&set, payload.trim_matches('`')).concat();
            let made: serde_json::Value = serde_json::from_str(&body).unwrap();
            let want: serde_json::Value = serde_json::from_str(makes.trim_matches('`')).unwrap();
            assert_eq!(made["made_of_it"].to_string(), want.to_string(), "{expression}");
        }
    }
    let scripts = rows(&docs, "Scripts");
    for row in &scripts {
        let [written, payload, makes] = row.as_slice() else { panic!("{row:?}") };
        let script = format!("script = '''{}'''", written.trim_matches('`'));
        assert_eq!(bodies(&script, payload.trim_matches('`')).join(" "), makes.trim_matches('`'), "{written}");
    }
    assert!(expressions.len() > 30 && scripts.len() >= 10);
}

/// No function of expressions is missing there, and what is called left out is.
#[test]
fn functions_in_the_docs() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules.md")).unwrap();
    let findings = |line: String| {
        let text = format!("[[rule]]\ntopic = \"a\"\ndevice = \"b\"\n{line}\n");
        rules::load(&[SourceFile { path: "docs.toml".into(), text }]).diagnostics
    };
    let unknown = findings("when = '.a | qqqqqqqqqq'".to_owned());
    let list = unknown[0].help.iter().find_map(|help| help.strip_prefix("filters here: ")).unwrap();
    let examples: Vec<String> = rows(&docs, "Expressions").into_iter().map(|row| row[0].clone()).collect();
    let functions: Vec<&str> = list.split(';').next().unwrap().split(", ").collect();
    assert!(functions.len() > 20);
    for function in functions {
        let words =
            |text: &String| text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == function);
        assert!(examples.iter().any(words), "`{function}` has no example");
    }
    let (_, left_out) = docs.split_once("Left out are what never ends").unwrap();
    let left_out = left_out.split("the rarer functions").next().unwrap();
    let names: Vec<&str> = left_out.split('`').skip(1).step_by(2).filter(|name| *name != "getpath").collect();
    assert!(names.len() > 15);
    for name in names {
        let call = name.replace("(f)", "(.a?)").replace("(n)", "(2)");
        let call = match name {
            "repeat" => "repeat(.)".to_owned(),
            "while" | "until" => format!("{name}(true; .)"),
            "setpath" => "setpath([\"a\"]; 1)".to_owned(),
            "delpaths" => "delpaths([[\"a\"]])".to_owned(),
            "import" | "include" => format!("{name} \"a\"; ."),
            _ => call,
        };
        assert!(!findings(format!("script = '{call}'")).is_empty(), "{name} is there");
    }
}
