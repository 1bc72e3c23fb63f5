//! `tap`, `unmatched`, `record` and `replay`, with the real program.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use brownbridge::recording;
use brownbridge::watch::traffic::Entry;
use serde_json::Value;
use support::{BINARY, Bridge, PATIENCE, Publisher, Sim, assert_conserved, folder, free_port, publish_all, until};

const RULES: &str = "[[rule]]\nname = \"noise\"\ntopic = \"t/+/noise\"\ndrop = true\n\
    [[rule]]\nname = \"presses\"\ntopic = \"t/{press}/+\"\ndevice = \"{press}\"\ndecode = \"json\"\nprops = { line = \"4\" }\n\
    [[rule]]\nname = \"raw\"\ntopic = \"raw/#\"\ndevice = \"raw\"\n";
const QUICK: &str = "backoff_min = \"5ms\"\nbackoff_max = \"20ms\"";

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).args(["--config", "bridge.toml"]).current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs a command to its end: exit code, stdout, stderr.
fn ran(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A command that looks on, from the moment the bridge knows of it.
struct Looking(Child, Option<Lines<BufReader<ChildStdout>>>);

impl Looking {
    fn on(dir: &Path, bridge: &Bridge, args: &[&str]) -> Self {
        let begun = || fs::read_to_string(&bridge.log).unwrap().matches("somebody looks on").count();
        let before = begun();
        let mut child = command(dir, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the bridge is looked at", PATIENCE, || {
            assert!(child.try_wait().unwrap().is_none(), "it ended at once");
            (begun() > before).then_some(())
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, Some(lines))
    }

    fn lines(&mut self, count: usize) -> Vec<Value> {
        let lines = self.1.as_mut().unwrap().take(count);
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    /// Exit code and stderr.
    fn end(mut self) -> (i32, String) {
        let mut told = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        (self.0.wait().unwrap().code().unwrap(), told)
    }

    fn interrupt(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The equations hold when everything is delivered.
fn at_rest(bridge: &Bridge) {
    until("delivered", PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(bridge);
}

/// One publish of each kind, in this order.
fn publish_each(bridge: &Bridge) {
    for (topic, payload) in [
        ("t/m7/temp", "{\"v\":1}"),
        ("t/m7/noise", "x"),
        ("t/m8/temp", "{oops"),
        ("other/topic", "hello"),
        ("t/m8/temp", "{}"),
    ] {
        publish_all(bridge.mqtt, topic, [payload]);
    }
}

#[test]
fn a_tap_shows_what_came_in_which_rule_took_it_and_what_went_out() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    for (args, expect) in [
        (&[][..], &["t/m7/temp", "t/m7/noise", "t/m8/temp", "other/topic", "t/m8/temp"][..]),
        (&["--topic", "t/+/temp"], &["t/m7/temp", "t/m8/temp", "t/m8/temp"]),
        (&["--rule", "presses"], &["t/m7/temp", "t/m8/temp", "t/m8/temp"]),
        (&["--device", "m8"], &["t/m8/temp"]),
        (&["--client", "test", "--dropped"], &["t/m7/noise"]),
        (&["--quarantined"], &["t/m8/temp"]),
        (&["--unmatched"], &["other/topic"]),
        (&["--unmatched", "--quarantined", "--topic", "t/#"], &["t/m8/temp"]),
    ] {
        // Twice: what does not belong to the first round would come before the second.
        let count = (2 * expect.len()).to_string();
        let args: Vec<&str> = ["tap", "--json", "--count", &count].iter().chain(args).copied().collect();
        let mut tap = Looking::on(dir.path(), &bridge, &args);
        publish_each(&bridge);
        publish_each(&bridge);
        // The coming and going of clients is not shown: no rule asks for it.
        let shown = tap.lines(100);
        let topics: Vec<&str> = shown.iter().map(|sight| sight["topic"].as_str().unwrap()).collect();
        assert_eq!(topics, [expect, expect].concat(), "{args:?}");
        assert_eq!(tap.end(), (0, format!("{count} publishes shown, 0 not shown\n")));
    }
    let mut tap = Looking::on(dir.path(), &bridge, &["tap", "--json", "--count", "4"]);
    publish_each(&bridge);
    let shown = tap.lines(4);
    assert_eq!(
        (&shown[0]["client"], &shown[0]["qos"], &shown[0]["verdict"]),
        (&"test".into(), &1.into(), &"translated".into())
    );
    assert_eq!(shown[0]["payload"], serde_json::json!({"size": 7, "text": "{\"v\":1}"}));
    let message = &shown[0]["messages"][0];
    assert_eq!((&message["rule"], &message["device"]), (&"presses".into(), &"m7".into()));
    assert_eq!(message["properties"], serde_json::json!([["line", "4"]]));
    assert_eq!(message["body"]["text"], "{\"v\":1}");
    assert_eq!((&shown[1]["verdict"], &shown[1]["rule"]), (&"dropped".into(), &"noise".into()));
    assert_eq!((&shown[2]["verdict"], &shown[2]["reason"]), (&"quarantined".into(), &"not_json".into()));
    assert_eq!((&shown[3]["verdict"], &shown[3]["messages"][0]["rule"]), (&"unmatched".into(), &"".into()));
    drop(tap);

    // For people, until Ctrl-C, and for a reader that has enough.
    let mut tap = Looking::on(dir.path(), &bridge, &["tap"]);
    publish_each(&bridge);
    let lines: Vec<String> = tap.1.as_mut().unwrap().take(6).map(Result::unwrap).collect();
    assert!(lines[0].ends_with("Z  t/m7/temp  from test, QoS 1"), "{lines:?}");
    assert_eq!(lines[1..3], ["           in  {\"v\":1}", "          out  m7  as it came  (rule presses; line=4)"]);
    assert_eq!(lines[5], "      dropped  by rule noise");
    tap.interrupt();
    let (code, told) = tap.end();
    assert!(code == 0 && told.contains("publishes shown"), "{told}");
    assert_eq!(bridge.metric("brownbridge_watch_missed_total"), 0.0);
    at_rest(&bridge);
}

#[test]
fn a_tap_shows_what_a_window_sends() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = "[[rule]]\nname = \"pairs\"\ntopic = \"w/{d}\"\ndevice = \"{d}\"\n\
        batch = { max_messages = 2, max_wait = \"1h\" }\n";
    let bridge = Bridge::start(dir.path(), &sim, rules, QUICK);
    for (args, windows) in [(&["--count", "3"][..], 1), (&["--count", "2", "--topic", "w/#"], 0)] {
        let args = [&["tap", "--json"], args].concat();
        let mut tap = Looking::on(dir.path(), &bridge, &args);
        publish_all(bridge.mqtt, "w/m7", ["{\"v\":1}", "{\"v\":2}"]);
        let shown = tap.lines(100);
        let sent: Vec<_> = shown.iter().filter(|sight| sight["on"] == "window").collect();
        assert_eq!(sent.len(), windows, "{shown:?}");
        for sight in sent {
            let message = &sight["messages"][0];
            assert_eq!((&message["rule"], &message["device"]), (&"pairs".into(), &"m7".into()));
            assert_eq!(message["body"]["text"], "[{\"v\":1},{\"v\":2}]");
        }
    }
    at_rest(&bridge);
}

#[test]
fn a_tap_ends_with_the_bridge_with_its_time_and_with_its_reader() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let (code, _, stderr) = ran(command(dir.path(), &["tap"]));
    assert!(code == 2 && stderr.contains("bridge.toml"), "{stderr}");
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    assert_eq!(ran(command(dir.path(), &["tap", "--for", "1ms"])).0, 0);
    let (code, _, stderr) = ran(command(dir.path(), &["tap", "--topic", "a/#/b"]));
    assert!(code == 2 && stderr.contains("`#` must be the last level"), "{stderr}");

    // A reader that has enough: the next line that cannot be written ends it.
    let mut tap = Looking::on(dir.path(), &bridge, &["tap"]);
    drop(tap.1.take());
    until("the tap has noticed", PATIENCE, || {
        publish_all(bridge.mqtt, "t/m7/temp", ["{}"]);
        tap.0.try_wait().unwrap()
    });
    assert_eq!(tap.end(), (0, String::new()));

    let taps: Vec<Looking> = (0..4).map(|_| Looking::on(dir.path(), &bridge, &["tap"])).collect();
    let (code, _, stderr) = ran(command(dir.path(), &["tap"]));
    assert!(code == 2 && stderr.contains("4 taps and recordings run already"), "{stderr}");
    // Other questions are answered all the same.
    assert_eq!(ran(command(dir.path(), &["queue", "stat"])).0, 0);
    assert_eq!(bridge.process.terminate(), Some(0));
    for tap in taps {
        assert_eq!(tap.end(), (1, "the bridge has ended\n".to_owned()));
    }
    let (code, _, stderr) = ran(command(dir.path(), &["tap"]));
    assert!(code == 2 && stderr.contains("no bridge runs here"), "{stderr}");
}

/// A tap nobody reads neither slows the plant nor fills the memory, and what it does not show is counted.
#[test]
fn a_tap_that_nobody_reads_costs_a_bounded_queue() {
    const PUBLISHES: usize = 40_000;
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--quiet"]);
    let bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    let mut tap = Looking::on(
        dir.path(),
        &bridge,
        &["tap", "--json", "--rate", "10000", "--payload", "65536", "--topic", "raw/#"],
    );
    let out = dir.path().join("out.jsonl");
    let record = Looking::on(dir.path(), &bridge, &["record", out.to_str().unwrap(), "--topic", "raw/#"]);
    record.signal(rustix::process::Signal::STOP);
    let payload = "x".repeat(2_000);
    let mut publisher = Publisher::connect(bridge.mqtt, "test").unwrap();
    let mut bytes = Vec::new();
    let before = bridge.process.rss().0;
    let mut sent = 0;
    while sent < PUBLISHES || publisher.inflight() > 0 {
        while sent < PUBLISHES && publisher.inflight() < 500 {
            publisher.publish(&mut bytes, "raw/m7", payload.as_bytes());
            sent += 1;
        }
        publisher.flush(&mut bytes).unwrap();
        publisher.acknowledged().unwrap();
    }
    let grown = bridge.process.rss().1.saturating_sub(before);
    // 80 MB went by; two queues have 8 MiB each at most, and the program's own buffers grow too.
    assert!(grown < 50_000, "{grown} KiB more");
    let (mut shown, mut missed) = (0, 0);
    while shown + missed < PUBLISHES as u64 {
        match tap.lines(1)[0]["missed"].as_u64() {
            Some(more) => missed += more,
            None => shown += 1,
        }
    }
    assert_eq!(shown + missed, PUBLISHES as u64);
    assert!(missed > 0 && shown > 100, "{shown} shown, {missed} missed");
    record.signal(rustix::process::Signal::CONT);
    let (kept, gaps) = until("the recording is whole", PATIENCE, || {
        let (kept, gaps) = recorded(&out);
        (kept + gaps == PUBLISHES as u64).then_some((kept, gaps))
    });
    assert!(kept > 100 && gaps > 0, "{kept} kept, {gaps} missed");
    assert_eq!(bridge.metric("brownbridge_watch_missed_total"), (missed + gaps) as f64);
    at_rest(&bridge);
}

/// How many publishes a recording has, and how many it says are missing.
fn recorded(out: &Path) -> (u64, u64) {
    let (mut kept, mut gaps) = (0, 0);
    recording::read(out, |entry| match entry {
        Entry::Publish(_) => kept += 1,
        Entry::Gap(missing) => gaps += missing,
        _ => {}
    })
    .unwrap();
    (kept, gaps)
}

/// However a recording ends, what came before that is in it, or the gap says how much is not.
#[test]
fn a_recording_ends_with_what_came_before_its_end() {
    use rustix::process::Signal;
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &["--quiet"]);
    let mut bridge = Bridge::start(dir.path(), &sim, RULES, QUICK);
    let payload = "x".repeat(1_000);
    for (name, publishes, by_bridge) in [("crowded", 6_000, false), ("stopped", 1_000, false), ("ended", 1_000, true)] {
        let out = dir.path().join(name);
        let record = Looking::on(dir.path(), &bridge, &["record", out.to_str().unwrap(), "--topic", "raw/#"]);
        record.signal(Signal::STOP);
        let mut publisher = Publisher::connect(bridge.mqtt, "test").unwrap();
        let mut bytes = Vec::new();
        for _ in 0..publishes {
            publisher.publish(&mut bytes, "raw/m7", payload.as_bytes());
            if publisher.inflight() == 500 {
                publisher.flush(&mut bytes).unwrap();
                while publisher.inflight() > 0 {
                    publisher.acknowledged().unwrap();
                }
            }
        }
        assert_eq!(publisher.inflight(), 0);
        if by_bridge {
            let pid = rustix::process::Pid::from_raw(bridge.process.id().cast_signed()).unwrap();
            rustix::process::kill_process(pid, Signal::TERM).unwrap();
        } else {
            record.interrupt();
        }
        record.signal(Signal::CONT);
        let (code, told) = record.end();
        let (kept, gaps) = recorded(&out);
        assert_eq!(
            (code, kept + gaps),
            (i32::from(by_bridge), publishes),
            "{name}: {kept} kept, {gaps} missed; {told}"
        );
        assert_eq!(gaps > 0, name == "crowded", "{name}: {gaps}");
    }
    assert_eq!(bridge.process.terminate(), Some(0));
}

#[test]
fn topics_without_a_rule_are_counted_grouped_and_get_a_rule() {
    for (unmatched, forwarded) in [("forward", true), ("drop", false)] {
        let dir = folder();
        let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
        fs::create_dir_all(dir.path().join("rules")).unwrap();
        let bridge = Bridge::start_top(dir.path(), &sim, &format!("unmatched = \"{unmatched}\""), (RULES, QUICK));
        let (code, stdout, _) = ran(command(dir.path(), &["unmatched"]));
        assert_eq!((code, stdout.as_str()), (0, "every publish has found a rule\n"));
        for press in 0..5 {
            publish_all(bridge.mqtt, &format!("hall2/press{press}/oil"), ["{\"bar\": 61.5}"; 3]);
        }
        publish_all(bridge.mqtt, "lab/scale", ["21.5", "21.6"]);
        publish_all(bridge.mqtt, "t/m7/temp", ["{}"]);
        publish_all(bridge.mqtt, "$other/x", ["{}"]);
        let (code, stdout, _) = ran(command(dir.path(), &["unmatched", "--json"]));
        let told: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &told["publishes"], &told["rows"]), (1, &17.into(), &2.into()), "{told}");
        let row = &told["topics"][0];
        assert_eq!((&row["topic"], &row["topics"], &row["publishes"]), (&"hall2/+/oil".into(), &5.into(), &15.into()));
        assert_eq!((&row["payload"]["text"], &row["client"]), (&"{\"bar\": 61.5}".into(), &"test".into()));
        let (_, stdout, _) = ran(command(dir.path(), &["unmatched", "--each", "--first", "3"]));
        assert!(
            stdout.contains("17 publishes on 6 topics found no rule") && stdout.contains("hall2/press0/oil"),
            "{stdout}"
        );

        // The rules are good as they are, and take those topics.
        let (_, rules, _) = ran(command(dir.path(), &["unmatched", "--rules"]));
        let file = dir.path().join("new.toml");
        fs::write(&file, &rules).unwrap();
        let file = file.to_str().unwrap();
        for tool in ["check", "test"] {
            let output = Command::new(BINARY).args([tool, file]).output().unwrap();
            assert!(output.status.success(), "{rules}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let explained = Command::new(BINARY).args(["explain", "hall2/press77/oil", "--rules", file]).output().unwrap();
        let explained = String::from_utf8(explained.stdout).unwrap();
        assert!(explained.contains("device      press77"), "{explained}\n{rules}");

        publish_all(bridge.mqtt, "without/rule", ["1"]);
        fs::write(dir.path().join("rules/20-new.toml"), &rules).unwrap();
        until("the new rules are in use, and only one topic is left", PATIENCE, || {
            ran(command(dir.path(), &["unmatched"])).1.contains("1 publish on 1 topic found no rule").then_some(())
        });
        let (code, _, _) = ran(command(dir.path(), &["unmatched", "--reset"]));
        assert_eq!(code, 1);
        assert_eq!(ran(command(dir.path(), &["unmatched"])).0, 0);
        assert_eq!(bridge.metric("brownbridge_messages_dropped_total") > 1.0, !forwarded);
        at_rest(&bridge);
    }
}

/// A new line of presses is told from no rule at all.
#[test]
fn the_rule_that_comes_near_is_named_with_a_topic_for_both() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = "[[rule]]\nname = \"temps\"\ntopic = \"plant/line1/+/temp\"\ndevice = \"d\"\n";
    let bridge = Bridge::start(dir.path(), &sim, rules, QUICK);
    publish_all(bridge.mqtt, "plant/line7/press3/temp", ["{}"]);
    publish_all(bridge.mqtt, "else/where", ["{}"]);
    let (_, text, _) = ran(command(dir.path(), &["unmatched"]));
    let near = "# near: rule temps (rules/10-test.toml:2) takes plant/line1/+/temp, but level 2 is `line7`, the rule wants `line1`\n\
        # if it is meant for these, too: it takes both with  topic = \"plant/+/+/temp\"\n[[rule]]\n";
    assert!(text.contains(near) && text.matches("# near").count() == 1, "{text}");
    let (_, json, _) = ran(command(dir.path(), &["unmatched", "--json"]));
    let told: Value = serde_json::from_str(&json).unwrap();
    let row =
        |topic: &str| told["topics"].as_array().unwrap().iter().find(|row| row["topic"] == topic).unwrap().clone();
    assert_eq!(row("plant/line7/press3/temp")["near"]["topic_for_both"], "plant/+/+/temp");
    assert!(row("else/where")["near"].is_null());
    // Pasted, it is what the running bridge takes up.
    fs::write(dir.path().join("rules/10-test.toml"), rules.replace("line1", "+")).unwrap();
    until("both are taken", PATIENCE, || {
        ran(command(dir.path(), &["unmatched"])).1.contains("1 publish on 1 topic found no rule").then_some(())
    });
}

#[test]
fn a_recording_has_every_byte_and_replays_as_the_bridge_did() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = format!("{RULES}[[rule]]\nname = \"gone\"\non = \"disconnect\"\ndevice = \"{{client}}\"\n");
    let bridge = Bridge::start(dir.path(), &sim, &rules, QUICK);
    let out = dir.path().join("out.jsonl");
    let record = Looking::on(dir.path(), &bridge, &["record", out.to_str().unwrap()]);
    let big = vec![b'"'; 200_000];
    let payloads: [&[u8]; 7] =
        [b"", b"\x00", b"\xff\xfe", b"{\"v\": 1.0}", b"line\nline\r\n\t\"\\", "\u{1f525}\u{85}".as_bytes(), &big];
    let mut publisher = Publisher::connect(bridge.mqtt, "plc").unwrap();
    let mut bytes = Vec::new();
    for payload in payloads {
        publisher.publish(&mut bytes, "raw/m7", payload);
    }
    publisher.publish(&mut bytes, "nobody/asks", b"1");
    publisher.publish(&mut bytes, "t/m7/temp", b"{oops");
    publisher.publish(&mut bytes, "t/m7/noise", b"z");
    publisher.flush(&mut bytes).unwrap();
    while publisher.inflight() > 0 {
        publisher.acknowledged().unwrap();
    }
    drop(publisher);
    let entries = until("all of it is recorded", PATIENCE, || {
        let mut entries = Vec::new();
        recording::read(&out, |entry| entries.push(entry)).ok()?;
        // The client's coming and going among them.
        (entries.len() == payloads.len() + 5).then_some(entries)
    });
    let recorded: Vec<&[u8]> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Publish(recorded) if recorded.topic == "raw/m7" => Some(recorded.payload.as_slice()),
            _ => None,
        })
        .collect();
    assert_eq!(recorded, payloads);
    let (code, _, stderr) = ran(command(dir.path(), &["record", out.to_str().unwrap()]));
    assert!(code == 2 && stderr.contains("is there already: --append"), "{stderr}");
    record.interrupt();
    let (code, told) = record.end();
    assert!(code == 0 && told.contains("12 lines recorded, 0 missed"), "{told}");

    // The same verdicts as those of the bridge.
    let replay = |args: &[&str]| {
        let output = Command::new(BINARY).arg("replay").arg(&out).args(args).current_dir(dir.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = replay(&["--rules", "rules", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let new = &told["new"];
    assert_eq!((code, &told["recording"]["damaged_lines"]), (0, &0.into()));
    until("the going is counted", PATIENCE, || {
        (bridge.metric("brownbridge_publishes_received_total") == 11.0).then_some(())
    });
    assert_conserved(&bridge);
    assert_eq!(new["publishes"].as_f64().unwrap(), bridge.metric("brownbridge_publishes_received_total"));
    let translated = new["translated"].as_f64().unwrap() + new["forwarded"].as_f64().unwrap();
    assert_eq!(translated, bridge.metric("brownbridge_publishes_translated_total"));
    assert_eq!((&new["dropped"]["rule"], &new["quarantined"]["not_json"]), (&1.into(), &1.into()));
    assert_eq!(new["messages"]["messages"].as_f64().unwrap(), bridge.metric("brownbridge_messages_translated_total"));
    assert_eq!((&new["rules"]["raw"]["messages"], &new["rules"]["raw"]["units"]), (&7.into(), &(6 + 49).into()));
    assert_eq!(replay(&["--rules", "rules", "--against", "rules"]).0, 0);
}

/// What would change, as it is shown; `UPDATE_EXPECT=1` writes the files anew.
#[test]
fn changes_are_told_by_what_differs() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/replay");
    let replay = |args: &[&str]| {
        let output =
            Command::new(BINARY).args(["replay", "traffic.jsonl"]).args(args).current_dir(&golden).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    for (file, args, code) in [
        ("summary.txt", &["--rules", "old.toml"][..], 0),
        ("changes.txt", &["--rules", "new.toml", "--against", "old.toml"], 1),
        ("changes.json", &["--rules", "new.toml", "--against", "old.toml", "--json"], 1),
        ("dropped.txt", &["--rules", "new.toml", "--against", "new.toml", "--unmatched", "drop"], 0),
        ("windows.txt", &["--rules", "windows-new.toml", "--against", "windows-old.toml"], 1),
        ("windows-same.txt", &["--rules", "windows-old.toml", "--against", "windows-old.toml"], 0),
        (
            "filtered.txt",
            &["--rules", "new.toml", "--against", "old.toml", "--topic", "plant1/+/temp", "--first", "1"],
            1,
        ),
    ] {
        let (got, stdout, stderr) = replay(args);
        assert_eq!((got, stderr.as_str()), (code, ""), "{args:?}");
        let path = golden.join(file);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &stdout).unwrap();
        }
        assert_eq!(stdout, fs::read_to_string(&path).unwrap_or_default(), "{file}");
    }
    for (args, expect) in [
        (&["--rules", "nowhere.toml"][..], "nowhere.toml"),
        (&["--rules", "broken.toml"], "`{lin}` is not known in this rule"),
        (&["--rules", "new.toml", "--against", "broken.toml"], "nothing was replayed"),
    ] {
        let (code, stdout, stderr) = replay(args);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(expect), "{args:?}: {stderr}");
    }
}
