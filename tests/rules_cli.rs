//! `check`, `test` and `explain` as a user runs them: exit code, stdout and stderr.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "rules_cli/fence.rs"]
mod fence;

use std::io::Write as _;
use std::process::{Command, Stdio};

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
    let overlap = "tests/golden/check/overlap.toml";
    let rules = ["--rules", "rules"];
    let explain = |args: &[&'static str]| [&["explain"], args, &rules].concat();
    let commands = ["--rules", "tests/golden/rules/command.toml"];
    let down = |args: &[&'static str]| [&["explain", "--command"], args, &commands].concat();
    for (args, code, stdout, stderr) in [
        (vec!["check"], 0, "rules/10-packaging.toml: ok, 1 rule, 2 tests\n", ""),
        (vec!["check", "rules"], 0, "rules/40-bare-values.toml: ok, 2 rules, 3 tests\n", ""),
        (vec!["check", typos], 1, "bad-1-typos.toml: 6 errors, 1 warning\n", "error: unknown key `devise` in rule"),
        (vec!["check", "--json", typos], 1, "\"code\":\"unknown-key\"", ""),
        (
            vec!["check", "no/such"],
            2,
            "",
            "error: there is no file or folder `no/such` here: name one, e.g. brownbridge check PATH (No such file",
        ),
        (vec!["check", "--deny", "warnings"], 0, "rules/10-packaging.toml: ok, 1 rule, 2 tests\n", ""),
        (
            vec!["check", "--deny", "warnings", overlap],
            1,
            "overlap.toml: ok, 7 rules, 0 tests, 2 w",
            "\nerror: 2 warnings denied\n",
        ),
        (
            vec!["check", "--deny", "overlap", "--json", overlap],
            1,
            "\"severity\":\"warning\"",
            "error: 2 warnings denied\n",
        ),
        (vec!["check", "--deny", "too-long", overlap], 0, "overlap.toml: ok", "misses some of its topics"),
        (
            vec!["check", "--deny", "unused-key", "tests/golden/check/unused-key.toml"],
            1,
            "unused-key.toml: 2 errors, 1 warning\n",
            "error: 1 warning denied\n",
        ),
        (
            vec!["check", "--deny", "unused-table", "tests/golden/check/unused-table.toml"],
            1,
            "unused-table.toml: ok, 1 rule, 0 tests, 1 warning\n",
            "error: 1 warning denied\n",
        ),
        (vec!["check", "--deny", "all"], 2, "", "[possible values: warnings, constant-device"),
        (vec!["check", "bridge.toml.example"], 0, "bridge.toml.example: ok\n", ""),
        (vec!["check", "tests/golden/bridge/typos.toml"], 1, "typos.toml: 3 errors\n", "did you mean"),
        (vec!["check", "rules", "bridge.toml.example"], 2, "", "bridge.toml.example is a configuration and names its"),
        (vec!["test", "bridge.toml.example"], 2, "", "error: bridge.toml.example is a configuration, no rule file"),
        (vec!["schema", "rules"], 0, "\n  \"$schema\": \"http://json-schema.org/draft-07/schema#\",\n", ""),
        (vec!["schema", "config"], 0, "\"title\": \"brownbridge: bridge.toml\",\n", ""),
        (vec!["schema", "users"], 2, "", "[possible values: rules, config]"),
        (vec!["check", "src/rules"], 2, "", "there is no rule file (*.toml) in the folder src/rules"),
        (vec!["check", "bridge.toml"], 2, "", "error: cannot read bridge.toml: No such file"),
        (vec!["check", "--config", "bridge.toml.example"], 0, "bridge.toml.example: ok\n", ""),
        (vec!["check", "--config", "tests/golden/bridge/typos.toml"], 1, "typos.toml: 3 errors\n", "did you mean"),
        (vec!["test"], 0, "55 passed, 0 failed\n", ""),
        (vec!["test", "--json"], 0, "\"passed\":true", ""),
        (vec!["test", "tests/golden/rules/failing.toml"], 1, "0 passed, 12 failed\n", "want 1500, got 1450"),
        (vec!["test", typos], 1, "no test was run: the rules have errors\n", "error: unknown format `jsn`"),
        (vec!["test", "no/such"], 2, "", "name one, e.g. brownbridge test PATH (No such file"),
        (
            explain(&["gw07-press/temp/oil", "--payload", "{\"v\":1}"]),
            0,
            "  body        {\"v\":1,\"tag\":\"temp/oil\"}\n",
            "",
        ),
        (
            down(&["press7", "--prop", "kind=text", "--payload", "hi"]),
            0,
            "  topic       display/press7\n  qos         0, retained\n  body        hi\n\ncomplete once",
            "",
        ),
        (down(&["x", "--prop", "kind=lamp", "--payload", "{\"nr\": 3}"]), 0, "lamps/3/done/1 within 30s\n", ""),
        (
            down(&["x", "--prop", "kind=lamp", "--payload", "{"]),
            1,
            "command `lamp` cannot make anything of it (not_json)",
            "",
        ),
        (down(&["x", "--method", "boot", "--json"]), 2, "\"no_rule\":true", ""),
        (down(&["x"]), 2, "  setpoint  `device` does not match\n  text  the property `kind` is missing", ""),
        (explain(&["gw07-press/temp/oil", "--payload", "{}", "--json"]), 0, "\"device\":\"press-gw07\"", ""),
        (explain(&["plant1/testbench/x"]), 0, "nothing is sent: rule `test bench` drops it\n", ""),
        (explain(&["plant1/packaging/w3/speed", "--payload", "5"]), 1, "the rule could say: decode = \"number\"\n", ""),
        (
            explain(&["iotgateway/a/b"]),
            2,
            "nearest: kepware agent (rules/30-kepware-agent.toml:17), but the topic goes on at level 3",
            "",
        ),
        (explain(&["a/b/c"]), 2, "topic  = \"a/{machine}/c\"\n", ""),
        (explain(&["a/+"]), 2, "", "error: a topic to publish to cannot contain `+` or `#`"),
        (explain(&["a", "--payload-file", "no/such"]), 2, "", "error: cannot read no/such"),
        (explain(&["a", "--payload-hex", "0 1f"]), 2, "", "a byte has two digits"),
        (explain(&["a", "--payload-hex", "0x1f"]), 2, "", "`x` is no hexadecimal digit"),
        (vec!["explain", "a", "--rules", "no/such"], 2, "", "name one, e.g. brownbridge explain TOPIC --rules PATH"),
        (
            vec!["explain", "devices/gw1/messages/events/$.ct=a/b&c=d", "--gateway", "gw1", "--json"],
            0,
            "\"lost\":\"b&c=d\"",
            "",
        ),
        (explain(&["plant1/packaging/w3/speed", "--json"]), 1, "\"detail\":\"no payload was given", ""),
        (
            vec![
                "explain",
                "--on",
                "connect",
                "--client",
                "hmi.3",
                "--rules",
                "tests/golden/rules/presence.toml",
                "--json",
            ],
            0,
            "\"device\":\"hmi.3\"",
            "",
        ),
        (vec!["explain", "a", "--rules", typos], 1, "", "error: unknown format `jsn`"),
    ] {
        check(&args, code, stdout, stderr);
    }
}

/// What `explain` says, kept word for word. Bless with `UPDATE_EXPECT=1`.
#[test]
fn explanations() {
    let mut text = String::new();
    for line in [
        "gw07-press/temp/oil --payload {\"v\":61.5}",
        "plant1/line3/press7/value/temp --payload 21.50",
        "plant1/line3/press7/value/temp --payload 21,50",
        "plant1/line3/press7/value/temp --payload -0.5",
        "plant1/line3/press7/value/temp",
        "plant1/packaging/wrapper3/speed",
        "plant1/testbench/x --payload 1",
        "plant1/packing/wrapper3/speed --payload 1",
        "devices/gw1/messages/events/a=b%20c&$.ct=text%2Fplain --payload 1 --gateway gw1",
        "devices/gw1/messages/events/a=b/c&d=e --payload 1 --gateway gw1",
        "devices/gw1/messages/events/a=b=c --payload 1 --gateway gw1",
        "devices/gw1/messages/events/a=b --payload 1",
        "plant/hall2/oven/temp --payload 1 --rules tests/golden/rules/many.toml",
        "--on disconnect --client plc-line4-7 --reason keep_alive_timeout --rules tests/golden/rules/presence.toml",
        "--on connect --client plc-line4-7 --rules tests/golden/rules/presence.toml",
        "all/l1 --payload {\"kind\":\"y\"} --rules tests/golden/rules/shape.toml",
        "compared/m7 --payload {\"T\":21.5} --rules tests/golden/rules/renamed.toml",
        "late --payload {\"M\":\"m7\"} --rules tests/golden/rules/renamed.toml",
        "ms --payload {\"ts\":2008000} --rules tests/golden/rules/time.toml",
        "packed/a --payload {\"v\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"} --rules tests/golden/rules/restraint.toml",
        "cells/7 --payload 1 --rules tests/golden/rules/shape.toml",
        "ms --payload {\"ts\":1767225600} --rules tests/golden/rules/time.toml",
        "plant/hall2/oven/temp --payload 1 --rules tests/golden/rules/many.toml --all",
        "energy/m1 --payload P=12.5;U=231 --rules tests/golden/rules/failing.toml",
        "gw07-press/temp/oil --payload-hex 7b2276223a2036317d --rules rules",
        "energy/m9 --payload P=12.5;U=231 --rules tests/golden/rules/failing.toml",
        "kepware/together --payload [{\"id\":\"C.D.T\",\"v\":1},{\"id\":\"C.D.U\",\"v\":2,\"q\":false}] --rules tests/golden/rules/decode.toml",
        "kepware/together --payload [{\"id\":\"C.D.U\",\"v\":2,\"q\":false}] --rules tests/golden/rules/decode.toml",
        "pairs/m1 --payload-hex 543d3231b043 --rules tests/golden/rules/decode.toml",
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brownbridge"));
        // Now, but for the times in what it says.
        let at = ["--at", "2026-01-01T00:00:00Z"];
        command.arg("explain").args(line.split(' ')).args(at).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.output().unwrap();
        let code = output.status.code().unwrap();
        text.push_str(&format!("$ brownbridge explain {line}   # exit code {code}\n"));
        text.push_str(&String::from_utf8(output.stdout).unwrap());
        text.push('\n');
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/rules/explain.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    let want = std::fs::read_to_string(golden).unwrap_or_default();
    assert!(text == want, "--- want\n{want}\n--- got\n{text}");
}

/// Where the configuration lies, it is what is checked, and its rules with it; what was found is told before the sums.
#[test]
fn a_folder_with_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("rules")).unwrap();
    put("rules/a.toml", "[[rule]]\ntopic = \"a/*\"\ndevice = \"a\"\n");
    put("bridge.toml", "state = \"state\"\n[uplink]\nkind = \"mqtt\"\naddress = \"127.0.0.1:1883\"\n");
    let text = std::fs::read_to_string(folder.path().join("bridge.toml")).unwrap();
    put("my.toml", &text);
    for args in [&["check"][..], &["check", "."], &["check", "./bridge.toml"], &["check", "my.toml"]] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_brownbridge"));
        command.args(args).current_dir(folder.path()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let status = command.status().unwrap();
        drop(command);
        let told = std::io::read_to_string(&mut reader).unwrap();
        assert_eq!(status.code(), Some(0), "{args:?}\n{told}");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.first(), Some(&"warning: `*` is no MQTT wildcard"), "{args:?}\n{told}");
        assert!(lines[lines.len() - 3].ends_with("a.toml: ok, 1 rule, 0 tests, 1 warning"), "{args:?}\n{told}");
        assert!(lines[lines.len() - 2].ends_with(".toml: ok"), "{args:?}\n{told}");
        assert!(lines[lines.len() - 1].starts_with("hash of the rules: "), "{args:?}\n{told}");
    }
    std::fs::remove_file(folder.path().join("bridge.toml")).unwrap();
    std::fs::remove_dir_all(folder.path().join("rules")).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_brownbridge")).arg("check").current_dir(folder.path()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.starts_with("error: there is no folder `rules` here: name one, e.g. brownbridge check PATH"),
        "{told}"
    );
    assert_eq!(output.status.code(), Some(2));
}

/// With a configuration the hub topic has the id that the bridge itself goes by, as far as that is known.
#[test]
fn explanations_by_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir_all(folder.path().join("state/assignments")).unwrap();
    put("r.toml", "[[rule]]\ntopic = \"t/{d}\"\ndevice = \"{d}\"\n");
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let string = format!("connection_string = \"HostName=h.example;DeviceId=gw-1;SharedAccessKey={key}\"");
    let module = string.replace(";Shared", ";ModuleId=m;Shared");
    let dps =
        format!("[uplink.dps]\nid_scope = \"0ne00000A0A\"\nregistration_id = \"line4\"\nsymmetric_key = \"{key}\"");
    let assigned =
        r#"{"hub":"h.example","device":"Line4","id_scope":"0ne00000A0A","registration_id":"line4","assigned":"x"}"#;
    for (uplink, cache, expect) in [
        (string.as_str(), None, "devices/gw-1/messages/events/"),
        (&module, None, "devices/gw-1/modules/m/messages/events/"),
        (&dps, None, "devices/line4/messages/events/"),
        (&dps, Some(assigned), "devices/Line4/messages/events/"),
        ("kind = \"mqtt\"\naddress = \"127.0.0.1:1883\"", None, "devices/GATEWAY/messages/events/"),
    ] {
        put("bridge.toml", &format!("state = \"state\"\nrules = \"r.toml\"\n[uplink]\n{uplink}\n"));
        if let Some(cache) = cache {
            put("state/assignments/line4.json", cache);
        }
        let config = folder.path().join("bridge.toml");
        let config = config.to_str().unwrap();
        check(
            &["explain", "t/press-1", "--payload", "1", "--config", config],
            0,
            &format!("  hub topic   {expect}"),
            "",
        );
        let addressed = format!("{expect}a=1");
        if !addressed.contains("GATEWAY") {
            check(&["explain", &addressed, "--config", config], 0, "goes up as it is", "");
        }
    }
}

/// A table in a CSV file beside the rules, and what is told of one with mistakes.
#[test]
fn a_table_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put(
        "rules.toml",
        "[[rule]]\ntopic = \"ai/{channel}\"\nlookup = { table = \"sensors\", key = \"{channel}\" }\ndevice = \"{machine}\"\n\
         decode = \"number\"\nadd = { unit = \"{unit}\", max = \"{max}\", nr = \"{nr}\" }\n\n[table.sensors]\nfile = \"sensors.csv\"\n\
         \n[[test]]\ntopic = \"ai/7\"\npayload = \"1\"\nwant.device = \"press7\"\n\
         want.payload = '{\"value\":1,\"unit\":\"bar; abs\",\"max\":12.50,\"nr\":\"007\"}'\n\
         \n[[test]]\ntopic = \"ai/8\"\npayload = \"1\"\nwant.payload = '{\"value\":1,\"nr\":8}'\n",
    );
    let table = "\u{feff}channel;machine;unit;max;nr\r\n7;press7;\"bar; abs\";12.50;007\r\n8;press8;;;8\r\n";
    put("sensors.csv", table);
    let path = folder.path().to_str().unwrap();
    let file = folder.path().join("rules.toml");
    check(&["check", path], 0, "sensors.csv: ok\n", "");
    for path in [path, file.to_str().unwrap()] {
        check(&["test", path], 0, "2 passed, 0 failed\n", "");
    }
    for (table, told) in [
        ("", "it is empty"),
        ("channel;unit;unit\n", "the columns in the first row need names, each its own"),
        ("channel;machine\n7;a\n7;b\n", "the key `7` is there twice"),
        ("channel;machine\n7;a;b\n", "there are 3 fields, and names for 2"),
        ("channel;machine\n7;\"a\n", "a quoted field has no closing quote"),
    ] {
        put("sensors.csv", table);
        check(&["check", path], 1, "sensors.csv: 1 error\n", told);
    }
}

/// What lies there is not always a file with rules in UTF-8.
#[test]
fn files_of_all_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir_all(path("folder/named.toml")).unwrap();
    std::fs::create_dir_all(path("pipes")).unwrap();
    std::fs::create_dir_all(path("none")).unwrap();
    assert!(Command::new("mkfifo").arg(path("pipes/a.toml")).status().unwrap().success());
    std::os::unix::fs::symlink("loop.toml", path("loop.toml")).unwrap();
    let rule = "[[rule]]\ntopic  = \"a\"\ndevice = \"b\"\n";
    for (name, bytes) in [
        ("bom.toml", format!("\u{feff}{rule}").into_bytes()),
        ("crlf.toml", rule.replace('\n', "\r\n").into_bytes()),
        ("empty.toml", Vec::new()),
        ("comment.toml", b"# nothing yet\n".to_vec()),
        ("latin.toml", b"[[rule]]\ntopic = \"\xe9\"\n".to_vec()),
        ("utf16.toml", b"\xff\xfe[\0[\0r\0".to_vec()),
        ("nulls.toml", b"\0\0\0".to_vec()),
    ] {
        std::fs::write(path(name), bytes).unwrap();
    }
    // As much as nobody writes, without the disk it would take.
    std::fs::File::create(path("large.toml")).unwrap().set_len(257 << 20).unwrap();
    for (name, codes, told) in [
        ("bom.toml", (0, 0), ""),
        ("crlf.toml", (0, 0), ""),
        ("empty.toml", (0, 2), "there is no [[rule]] in this file"),
        ("comment.toml", (0, 2), "there is no [[rule]] in this file"),
        ("latin.toml", (2, 2), "latin.toml:2:10 is not UTF-8 text (byte 0xe9): save it as UTF-8 in your editor"),
        ("utf16.toml", (2, 2), "utf16.toml: this is UTF-16 text: save it as UTF-8 in your editor"),
        ("nulls.toml", (1, 1), "error: this is not valid TOML"),
        ("large.toml", (2, 2), "large.toml is too large: rule files and tables may have 256 MiB together"),
        ("loop.toml", (2, 2), "loop.toml: Too many levels of symbolic links"),
        ("folder", (2, 2), "named.toml is a folder: a file is needed here"),
        ("none", (2, 2), "there is no rule file (*.toml) in the folder "),
        ("pipes", (2, 2), "pipes/a.toml is no file that can be read: it does not belong here"),
    ] {
        let path = path(name);
        let (checked, explained) = match codes {
            (0, _) => ("ok, ", "topic a\n"),
            (1, _) => ("1 error\n", ""),
            _ => ("", ""),
        };
        check(&["check", &path], codes.0, checked, told);
        let told = if codes.0 == 0 { "" } else { told };
        check(&["explain", "a", "--payload", "1", "--rules", &path], codes.1, explained, told);
    }
    std::fs::write(path("mistake.toml"), format!("\u{feff}{rule}").replace('\n', "\r\n").replace("\"b\"", "\"{b}\""))
        .unwrap();
    check(&["check", &path("mistake.toml")], 1, "mistake.toml: 1 error\n", "mistake.toml:3:12\n");
    check(&["explain", "a", "--payload-file", &path("none")], 2, "", "none is a folder: a file is needed here");
    for (name, told) in [("none", "none is a folder"), ("latin.toml", "latin.toml:2:10 is not UTF-8 text")] {
        check(&["check", "--config", &path(name)], 2, "", told);
        check(&["run", "--config", &path(name)], 78, "", told);
    }
}

/// `check <(..)`: a pipe can be read once.
#[test]
fn rules_from_a_pipe() {
    let rule = "[[rule]]\ntopic = \"a\"\ndevise = \"b\"\n";
    for args in [vec!["check", "/dev/stdin"], vec!["explain", "a", "--rules", "/dev/stdin"]] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_brownbridge"));
        let mut run =
            run.args(&args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        run.stdin.take().unwrap().write_all(rule.as_bytes()).unwrap();
        let output = run.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(told.contains("unknown key `devise` in rule"), "{args:?}: {told}");
    }
}

/// The rule that `explain` offers for a topic no rule takes passes its own test.
#[test]
fn an_offered_rule_works_as_it_is() {
    use brownbridge::diag::SourceFile;
    use brownbridge::rules::{load, new_rule, new_rule_for_siblings, testing};
    let topics = [
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
    ];
    let payloads: [(&[u8], &str); 9] = [
        (b"", "'{\"value\": 1}'"),
        (b"{\"v\": 1}", "'{\"v\": 1}'"),
        (b"-21.50 ", "decode = \"number\""),
        (b"-21,5", "decode = { format = \"number\", decimal = \",\" }"),
        (b"it's \"on\"\n\x01", "decode = \"text\""),
        (b"[1]", "\"[1]\""),
        (b"\xff\x00", "payload_hex = \"ff00\""),
        (&[b'x'; 5000], "'{\"value\": 1}'"),
        (&[0xff; 5000], "payload_hex = \"ffff"),
    ];
    let rows =
        topics.iter().map(|topic| (*topic, payloads[0])).chain(payloads.iter().map(|payload| ("a/b/c", *payload)));
    let kinds: [(&[&[u8]], &str); 4] = [
        (&[b"hello", b"hello", b"2"], "# no decode"),
        (&[b"2", b"hello"], "# no decode"),
        (&[b"2", b"", b"3.5"], "decode = \"number\""),
        (&[b"{}", b"[1]"], "payload     = \"{}\""),
    ];
    let kinds = kinds.map(|(payloads, holds)| ("a/b/c", new_rule_for_siblings("a/b/c", payloads, 2), holds));
    let siblings = topics.iter().flat_map(|topic| (0..4).map(move |level| (*topic, level)));
    let texts = rows
        .map(|(topic, (payload, holds))| (topic, new_rule(topic, payload), holds))
        .chain(siblings.map(|(topic, level)| (topic, new_rule_for_siblings(topic, &[b"{}"], level), "{}")))
        .chain(kinds);
    for (topic, text, holds) in texts {
        assert!(text.contains(holds), "{text}");
        let loaded = load(&[SourceFile { path: "new.toml".into(), text: text.clone() }]);
        assert!(loaded.diagnostics.is_empty(), "{topic}\n{text}\n{:?}", loaded.diagnostics);
        assert_eq!(loaded.tests.len(), 1);
        let results = testing::run(&loaded.rules.unwrap(), &loaded.tests);
        assert!(results.iter().all(|result| result.passed()), "{topic}\n{text}\n{results:?}");
    }
}

/// The report for CI servers, read by a parser of XML.
#[test]
fn junit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.xml");
    let path = file.to_str().unwrap();
    let case = "tests/golden/rules/failing.toml";
    let errors = "tests/golden/check/bad-1-typos.toml";
    for (files, code, stdout, sums, wrong) in [
        (vec!["rules"], 0, "55 passed, 0 failed\n", ["55", "0", "0"], None),
        (
            vec![case],
            1,
            "0 passed, 12 failed\n",
            ["12", "12", "0"],
            Some(("failure", "test-failed", "want 1500, got 1450")),
        ),
        (
            vec![errors],
            1,
            "no test was run",
            ["1", "0", "1"],
            Some(("error", "no-device", "error: unknown key `devise` in rule\n")),
        ),
    ] {
        let stderr = if code == 0 { "" } else { "error" };
        check(&[&["test"], &files[..], &["--junit", path]].concat(), code, stdout, stderr);
        let text = std::fs::read_to_string(&file).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let root = document.root_element();
        assert_eq!(["tests", "failures", "errors"].map(|name| root.attribute(name).unwrap()), sums, "{text}");
        let suites: Vec<_> = root.children().filter(|node| node.has_tag_name("testsuite")).collect();
        let cases: Vec<_> = root.descendants().filter(|node| node.has_tag_name("testcase")).collect();
        assert_eq!(cases.len().to_string(), sums[0]);
        assert!(suites.iter().all(|suite| suite.attribute("name").unwrap().ends_with(".toml")));
        assert!(cases.iter().all(|case| case.attribute("time").unwrap().parse::<f64>().unwrap() < 60.0), "{text}");
        if let Some((kind, code, holds)) = wrong {
            let told = cases[0].first_element_child().unwrap();
            assert_eq!((told.tag_name().name(), told.attribute("type")), (kind, Some(code)));
            assert!(told.text().unwrap().contains(holds), "{text}");
        }
        check(&[&["test"], &files[..], &["--junit", "-"]].concat(), code, "<?xml version", stdout);
    }
    check(
        &["test", "--junit", "no/such/report.xml"],
        2,
        "55 passed",
        "error: cannot write no/such/report.xml: No such",
    );
}
