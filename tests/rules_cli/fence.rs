//! `explain` and `check` know what `[commands]` says.

use super::check;

const RULES: &str = r#"
[[command]]
name  = "setpoint"
props = { kind = "setpoint" }
topic = "plant/{device}/set"

[[command]]
name   = "oven"
device = "oven*"
props  = { kind = "oven" }
topic  = "ovens/{device}"

[[command]]
method = "reset"
topic  = "plant/{device}/reset"

[[desired]]
name        = "speed"
topic       = "plant/{device}/speed"
acknowledge = true
"#;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A configuration of the hub's device `gw`.
struct Config(tempfile::TempDir);

impl Config {
    fn new(uplink: &str, commands: &str, rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hub = format!("connection_string = \"HostName=h.example;DeviceId=gw;SharedAccessKey={KEY}\"\n{uplink}");
        let uplink = if uplink.contains("kind") { uplink } else { &hub };
        let text = format!("state = \"state\"\nrules = \"r.toml\"\n[uplink]\n{uplink}\n[commands]\n{commands}\n");
        std::fs::write(folder.path().join("bridge.toml"), text).unwrap();
        std::fs::write(folder.path().join("r.toml"), rules).unwrap();
        Self(folder)
    }

    fn path(&self) -> String {
        self.0.path().join("bridge.toml").display().to_string()
    }
}

const SHARED: &str = "";
const EACH: &str = "identity = \"per-device\"\n[uplink.devices]\nallow = [\"*\"]\n\
    group_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"";
const BROKER: &str = "kind = \"mqtt\"\naddress = \"127.0.0.1:1883\"";

#[test]
fn explanations_tell_what_the_fence_does() {
    let set = ["--prop", "kind=setpoint"];
    let other = ["--prop", "kind=setpoint", "--prop", "device=danger"];
    let json = ["--prop", "kind=setpoint", "--json"];
    let open = "enabled = true\n";
    let narrow = "enabled = true\nallow = { \"press*\" = [\"plant/+/other\"], danger = [\"plant/#\"] }\n";
    let closed = "enabled = false\nallow = { \"*\" = [\"plant/#\"] }\n";
    let dry = "enabled = true\ndry_run = true\n";
    for (uplink, commands, args, code, expect) in [
        (SHARED, open, [&["--command", "press7"], &set[..]].concat(), 0, "open: there is no [commands] allow\n"),
        (
            SHARED,
            narrow,
            [&["--command", "press7"], &set[..]].concat(),
            1,
            "closed (not_allowed): [commands] allow lets nothing for press7 go there\n              allow = { \"press*\" = \
             [\"plant/+/other\"], \"danger\" = [\"plant/#\"], \"press7\" = [\"plant/press7/set\"] } would\n",
        ),
        (SHARED, narrow, [&["--command", "press7"], &set[..]].concat(), 1, "\nnothing is published (not_allowed)\n"),
        (SHARED, narrow, [&["--command", "press7"], &other[..]].concat(), 0, "message for device danger\n"),
        (SHARED, narrow, [&["--command", "x"], &other[..]].concat(), 0, "open by allow: \"danger\" = [\"plant/#\"]\n"),
        (EACH, narrow, [&["--command", "press7"], &other[..]].concat(), 1, "message for device press7\n"),
        (
            SHARED,
            closed,
            [&["--command", "press7"], &set[..]].concat(),
            1,
            "\nnothing is published (closed): [commands] enabled = false\n",
        ),
        (
            SHARED,
            dry,
            [&["--command", "press7"], &set[..]].concat(),
            0,
            "\nnothing is published (dry_run): [commands] dry_run = true\n",
        ),
        (SHARED, narrow, [&["--command", "press7"], &json[..]].concat(), 1, "\"outcome\":\"not_allowed\""),
        (
            BROKER,
            open,
            [&["--command", "press7"], &set[..]].concat(),
            1,
            "\nnothing comes down: the uplink is a broker\n",
        ),
        (SHARED, open, vec!["--command", "gw", "--method", "ping"], 0, "this method: the bridge answers it itself\n"),
        (SHARED, open, vec!["--command", "x", "--method", "ping"], 0, "method ping of device gw\n"),
        (SHARED, "enabled = true\nown_methods = false", vec!["--command", "gw", "--method", "ping"], 2, "with 404\n"),
        (EACH, open, vec!["--command", "press7", "--method", "ping"], 2, "with 404\n"),
        (EACH, open, vec!["--command", "gw", "--method", "ping"], 0, "the bridge answers it itself\n"),
        (SHARED, open, vec!["--command", "gw", "--method", "nope"], 2, "takes this method: it is answered with 404\n"),
        (SHARED, open, vec!["--command", "gw", "--method", "ping", "--json"], 0, "\"answered_by_bridge\":true"),
        (EACH, narrow, vec!["--command", "press7", "--method", "reset"], 1, "\"press7\" = [\"plant/press7/reset\"] }"),
        (SHARED, open, vec!["--desired", "press7", "--payload", "{\"a\":1}"], 0, "open: there is no"),
        (
            SHARED,
            narrow,
            vec!["--desired", "press7", "--payload", "{\"a\":1}"],
            1,
            "\"press7\" = [\"plant/press7/speed\"] } would\n\nnothing is published (not_allowed)\n  and then    it is \
             reported, with code 403",
        ),
        (SHARED, closed, vec!["--desired", "press7", "--payload", "{\"a\":1}"], 1, "(closed)"),
        (SHARED, narrow, vec!["--desired", "press7", "--payload", "{\"a\":1}", "--json"], 1, "\"mend\":\"allow = {"),
    ] {
        let config = Config::new(uplink, commands, RULES);
        let path = config.path();
        check(&[&["explain"], &args[..], &["--config", &path]].concat(), code, expect, "");
    }
}

#[test]
fn methods_of_the_bridge_are_known_without_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("r.toml");
    std::fs::write(&rules, RULES).unwrap();
    let rules = rules.to_str().unwrap();
    for (args, code, expect) in [
        (
            ["--method", "ping"],
            0,
            "the bridge answers it itself, under its own identity and unless own_methods = false\n",
        ),
        (["--method", "nope"], 2, "it is answered with 404\n"),
        (["--prop", "kind=nope"], 2, "no [[command]] takes it: it is acknowledged, counted and forgotten\n"),
        (["--prop", "device=press8"], 2, "message for device press8\n"),
    ] {
        check(&[&["explain", "--command", "press7", "--rules", rules], &args[..]].concat(), code, expect, "");
    }
}

#[test]
fn check_tells_commands_that_reach_nobody() {
    let reported = "[[rule]]\nname = \"r\"\ntopic = \"t/{d}\"\ndevice = \"{d}\"\nto = \"reported\"\n";
    let both = format!("{RULES}{reported}");
    let all = "enabled = true\nallow = { \"*\" = [\"plant/+/+\", \"ovens/#\"] }";
    for (uplink, commands, rules, expect) in [
        (SHARED, all, RULES, vec![]),
        (SHARED, "enabled = true", RULES, vec![]),
        (
            SHARED,
            "enabled = true\nallow = { \"*\" = [\"other/#\"] }",
            RULES,
            vec!["`setpoint` publishes to plant/+/set,", "`oven` publishes", "`reset` publishes", "`speed` publishes"],
        ),
        (
            SHARED,
            "enabled = true\nallow = { press7 = [\"plant/#\", \"ovens/#\"] }",
            RULES,
            vec!["[[command]] `oven` publishes to ovens/+, and `allow` has no such topic"],
        ),
        (
            "tier = \"B1\"",
            all,
            RULES,
            vec!["a Basic hub (tier = \"B1\") has no messages to devices, no methods and no twins"],
        ),
        ("tier = \"S1\"", all, RULES, vec![]),
        ("tier = \"B2\"", "enabled = false", reported, vec!["a Basic hub (tier = \"B2\")"]),
        (SHARED, "enabled = false", RULES, vec!["the rules have [[command]], and the hub may command nothing"]),
        (
            BROKER,
            "enabled = true",
            &both,
            vec!["there is no twin", "commands come from a hub, and the uplink is a broker"],
        ),
    ] {
        let config = Config::new(uplink, commands, rules);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_brownbridge"))
            .args(["check", &config.path()])
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{commands}: {told}");
        assert_eq!(told.matches("warning: ").count(), expect.len(), "{uplink} {commands}: {told}");
        for expect in expect {
            assert!(told.contains(expect), "{uplink} {commands}: {expect}: {told}");
        }
        if commands.contains("other/#") {
            assert!(told.contains("allow = { \"*\" = [\"other/#\"] }\n") && told.contains("^^^"), "the place: {told}");
            assert!(told.contains("allow = { \"*\" = [\"other/#\", \"plant/+/set\"] }, or remove"), "the mend: {told}");
        }
    }
}
