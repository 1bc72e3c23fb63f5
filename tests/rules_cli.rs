//! `check`, `test` and `explain` as a user runs them: exit code, stdout and stderr.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

fn check(args: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_brownbridge"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("NO_COLOR")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    assert!(out.contains(stdout) && (!stdout.is_empty() || out.is_empty()), "{args:?} stdout\n{out}");
    assert!(err.contains(stderr) && (!stderr.is_empty() || err.is_empty()), "{args:?} stderr\n{err}");
    assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}'), "colour without a terminal");
}

#[test]
fn commands() {
    let typos = "tests/golden/check/bad-1-typos.toml";
    let rules = ["--rules", "rules"];
    let explain = |args: &[&'static str]| [&["explain"], args, &rules].concat();
    for (args, code, stdout, stderr) in [
        (vec!["check"], 0, "rules/10-packaging.toml: ok, 1 rule, 2 tests\n", ""),
        (vec!["check", "rules"], 0, "rules/40-bare-values.toml: ok, 2 rules, 3 tests\n", ""),
        (vec!["check", typos], 1, "bad-1-typos.toml: 7 errors, 1 warning\n", "error: unknown key `devise` in rule"),
        (vec!["check", "--json", typos], 1, "\"code\":\"unknown-key\"", ""),
        (vec!["check", "no/such"], 2, "", "error: cannot read no/such: No such file"),
        (vec!["check", "src/rules"], 2, "", "there is no rule file (*.toml) in the folder src/rules"),
        (vec!["check", "bridge.toml"], 2, "", "error: cannot read bridge.toml: No such file"),
        (vec!["check", "--config", "bridge.toml.example"], 0, "bridge.toml.example: ok\n", ""),
        (vec!["check", "--config", "tests/golden/bridge/typos.toml"], 1, "typos.toml: 3 errors\n", "did you mean"),
        (vec!["test"], 0, "7 passed, 0 failed\n", ""),
        (vec!["test", "--json"], 0, "\"passed\":true", ""),
        (vec!["test", "tests/golden/rules/failing.toml"], 1, "0 passed, 5 failed\n", "want 1500, got 1450"),
        (vec!["test", typos], 1, "no test was run: the rules have errors\n", "error: unknown format `jsn`"),
        (vec!["test", "no/such"], 2, "", "error: cannot read no/such"),
        (
            explain(&["gw07-press/temp/oil", "--payload", "{\"v\":1}"]),
            0,
            "  body        {\"v\":1,\"tag\":\"temp/oil\"}\n",
            "",
        ),
        (explain(&["gw07-press/temp/oil", "--payload", "{}", "--json"]), 0, "\"device\":\"press-gw07\"", ""),
        (explain(&["plant1/testbench/x"]), 0, "nothing is sent: rule `test bench` drops it\n", ""),
        (explain(&["plant1/packaging/w3/speed", "--payload", "5"]), 1, "the rule could say: decode = \"number\"\n", ""),
        (
            explain(&["iotgateway"]),
            2,
            "nearest: kepware agent (rules/30-kepware-agent.toml:3), but the topic ends before level 2",
            "",
        ),
        (explain(&["a/b/c"]), 2, "topic  = \"a/{machine}/c\"\n", ""),
        (explain(&["a/+"]), 2, "", "error: a topic to publish to cannot contain `+` or `#`"),
        (explain(&["a", "--payload-file", "no/such"]), 2, "", "error: cannot read no/such"),
        (vec!["explain", "a", "--rules", typos], 1, "", "error: unknown format `jsn`"),
    ] {
        check(&args, code, stdout, stderr);
    }
}

/// What `explain` says, kept word for word. Bless with `UPDATE_EXPECT=1`.
#[test]
fn explanations() {
    let mut text = String::new();
    for (topic, payload) in [
        ("gw07-press/temp/oil", "{\"v\": 61.5}"),
        ("plant1/line3/press7/value/temp", "21.50"),
        ("plant1/line3/press7/value/temp", "broken"),
        ("plant1/testbench/x", "1"),
        ("plant1/packing/wrapper3/speed", "1"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brownbridge"));
        command.args(["explain", topic, "--payload", payload]).current_dir(env!("CARGO_MANIFEST_DIR"));
        text.push_str(&format!("$ brownbridge explain {topic} --payload '{payload}'\n"));
        text.push_str(&String::from_utf8(command.output().unwrap().stdout).unwrap());
        text.push('\n');
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/rules/explain.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    let want = std::fs::read_to_string(golden).unwrap_or_default();
    assert!(text == want, "--- want\n{want}\n--- got\n{text}");
}

/// A file saved by an editor of another system: byte order mark, CRLF, another encoding.
#[test]
fn files_from_other_editors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "\u{feff}[[rule]]\r\ntopic  = \"a/{line}\"\r\ndevice = \"{lin}\"\r\n").unwrap();
    check(&["check", path], 1, "a.toml: 1 error\n", "a.toml:3:12\n");
    std::fs::write(&file, b"[[rule]]\ntopic = \"\xe9\"\n").unwrap();
    check(&["check", path], 2, "", "is not UTF-8 text: save it as UTF-8");
}

/// The rule that `explain` offers for a topic no rule takes passes its own test.
#[test]
fn an_offered_rule_works_as_it_is() {
    use brownbridge::diag::SourceFile;
    use brownbridge::rules::{load, new_rule, testing};
    for topic in [
        "a",
        "a/b",
        "a/b/c",
        "plant 1/\"x\"/ä/temp",
        "/",
        "//",
        "a//b",
        "a/{b}/c",
        "a'\"b\\n/c/d",
        "$SYS/x/y",
        "$SYS/x",
    ] {
        let text = new_rule(topic);
        let loaded = load(&[SourceFile { path: "new.toml".into(), text: text.clone() }]);
        assert!(loaded.diagnostics.is_empty(), "{topic}\n{text}\n{:?}", loaded.diagnostics);
        assert_eq!(loaded.tests.len(), 1);
        let results = testing::run(&loaded.rules.unwrap(), &loaded.tests);
        assert!(results.iter().all(|result| result.passed()), "{topic}\n{text}\n{results:?}");
    }
}
