//! Rules that change while the real program runs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, reason = "test code")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{
    BINARY, Bridge, PATIENCE, Publisher, Sim, assert_conserved, assert_nothing_missing, folder, free_port,
    number_publisher, publish_all, quarantined, until,
};

fn hang_up(bridge: &Bridge) {
    kill_process(Pid::from_raw(bridge.process.id().cast_signed()).unwrap(), Signal::HUP).unwrap();
}

fn status(bridge: &Bridge) -> Value {
    serde_json::from_str(bridge.get("/status").split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn hash(bridge: &Bridge) -> String {
    status(bridge)["rules"]["hash"].as_str().unwrap().to_owned()
}

fn log(bridge: &Bridge) -> String {
    fs::read_to_string(&bridge.log).unwrap()
}

/// Waits until other rules than those of `before` are in use.
fn replaced(bridge: &Bridge, before: &str) -> String {
    until("new rules", PATIENCE, || Some(hash(bridge)).filter(|hash| hash != before))
}

/// Waits until a text is in the log, `times` times.
fn told(bridge: &Bridge, text: &str, times: usize) {
    until(text, PATIENCE, || (log(bridge).matches(text).count() >= times).then_some(()));
}

/// Two messages of each publish, which say in five places, and from two files, which edition of the rules made them.
fn write_edition(dir: &Path, edition: usize) {
    let rule = |name: &str, device: &str| {
        format!(
            "[[rule]]\nname = \"{name}{edition}\"\ntopic = \"t/{{who}}\"\ncontinue = true\ndevice = \"{device}\"\n\
             lookup = {{ table = \"editions\", key = \"now\" }}\n\
             props = {{ a = \"{edition}\", b = \"{edition}\", of_table = \"{{edition}}\" }}\n"
        )
    };
    let table = "[table.editions]\nfile = \"editions.csv\"\n";
    let text = format!("{table}{}{}", rule("first", "{who}"), rule("second", "copy"));
    fs::write(dir.join("rules/10-test.toml"), text).unwrap();
    fs::write(dir.join("rules/editions.csv"), format!("key,edition\nnow,{edition}\n")).unwrap();
}

#[test]
fn rules_change_under_load_and_each_publish_meets_one_edition() {
    const EDITIONS: usize = 8;
    const PUBLISHERS: usize = 4;
    let dir = folder();
    let mut sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let mut bridge = Bridge::start(dir.path(), &sim, "", "");
    write_edition(dir.path(), 0);
    let mut now = replaced(&bridge, &hash(&bridge));
    let before = bridge.metric("brownbridge_broker_accepted_total");
    let (address, stop) = (Arc::new(Mutex::new(bridge.mqtt)), Arc::new(AtomicBool::new(false)));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|n| {
            let (address, stop) = (Arc::clone(&address), Arc::clone(&stop));
            std::thread::spawn(move || number_publisher(address, format!("p{n}"), stop))
        })
        .collect();
    let load = || {
        let deep = bridge.metric("brownbridge_publishes_received_total") + 200.0;
        until("load", PATIENCE, || (bridge.metric("brownbridge_publishes_received_total") > deep).then_some(()));
    };
    for edition in 1..EDITIONS {
        load();
        write_edition(dir.path(), edition);
        // One in four is found without being told.
        if edition % 4 != 0 {
            hang_up(&bridge);
        }
        now = replaced(&bridge, &now);
    }
    load();
    assert_eq!(bridge.metric("brownbridge_broker_connections"), PUBLISHERS as f64, "nobody was disconnected");
    assert_eq!(bridge.metric("brownbridge_broker_accepted_total"), before + PUBLISHERS as f64, "and came again");
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<String> = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
    until("all is delivered", 2 * PATIENCE, || (bridge.metric("brownbridge_spool_messages") == 0.0).then_some(()));
    assert_conserved(&bridge);
    let page = bridge.get("/metrics");
    assert!(page.contains("messages_translated_total{rule=\"first0\"}"), "a counter stays: {page}");
    assert_eq!(page.matches("brownbridge_rules_info{").count(), 1, "{page}");
    assert!(page.contains(&format!("brownbridge_rules_info{{hash=\"{now}\"}} 1\n")), "{page}");
    assert!(quarantined(dir.path()).is_empty());
    assert_eq!(bridge.process.terminate(), Some(0));
    assert_eq!(sim.process.terminate(), Some(0));

    let received = sim.received();
    assert_nothing_missing(|| received.clone(), &acknowledged);
    let mut editions: HashMap<&str, Vec<usize>> = HashMap::new();
    for message in &received {
        let told: [usize; 3] =
            ["a", "b", "of_table"].map(|name| message["properties"][name].as_str().unwrap().parse().unwrap());
        editions.entry(message["body"].as_str().unwrap()).or_default().extend(told);
    }
    let mut last = [0; PUBLISHERS];
    let mut seen = [false; EDITIONS];
    for id in &acknowledged {
        let told = &editions[&*format!("{{\"id\":\"{id}\"}}")];
        assert!(told.len() == 6 && told.iter().all(|edition| *edition == told[0]), "{id} is made by {told:?}");
        let publisher: usize = id[1..2].parse().unwrap();
        assert!(last[publisher] <= told[0], "{id} of p{publisher} met edition {} after {}", told[0], last[publisher]);
        last[publisher] = told[0];
        seen[told[0]] = true;
    }
    assert_eq!(seen, [true; EDITIONS], "every edition made something");
}

/// A rule whose messages say the edition, with a test that wants `wanted`.
fn edition(number: usize, wanted: usize) -> String {
    format!(
        "[[rule]]\nname = \"r\"\ntopic = \"t/{{d}}\"\ndevice = \"{{d}}\"\nprops = {{ edition = \"{number}\" }}\n\
         [[test]]\nname = \"says its edition\"\ntopic = \"t/x\"\nwant.device = \"x\"\nwant.props.edition = \"{wanted}\"\n"
    )
}

/// The edition that makes messages now.
fn made_by(bridge: &Bridge, sim: &Sim) -> String {
    let before = sim.received().len();
    publish_all(bridge.mqtt, "t/d", ["1"]);
    let message = until("it arrives", PATIENCE, || sim.received().into_iter().nth(before));
    message["properties"]["edition"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_wrong_with_new_rules_is_told_and_the_old_ones_stay() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, &edition(1, 1), "");
    let (rules, away) = (dir.path().join("rules"), dir.path().join("away"));
    let file = rules.join("10-test.toml");
    let write = |text: &str| fs::write(&file, text).unwrap();
    let good = |expect: f64| {
        let successful = || bridge.metric("brownbridge_config_last_reload_successful");
        until("config_last_reload_successful", PATIENCE, || (successful() == expect).then_some(()));
    };
    // What is done, what the log says then, in its lines, and the edition in use.
    type Case<'c> = (&'c str, &'c dyn Fn(), &'c [&'c str], &'c str);
    // The first are found without being told.
    const FOUND: usize = 3;
    let cases: [Case<'_>; 9] = [
        (
            "a typing error",
            &|| write(&edition(2, 2).replace("device = \"{d}\"", "devcie = \"{d}\"")),
            &["the rules on disk have ", "devcie", "^^^^^^", "10-test.toml:4:1", " (`brownbridge check "],
            "1",
        ),
        ("mended", &|| write(&edition(3, 3)), &["new rules are in use"], "3"),
        (
            "a failing test",
            &|| write(&edition(4, 5)),
            &["the rules on disk do not pass their own tests: 1 failure: ", "got \"4\"", "^^^", " (`brownbridge test "],
            "3",
        ),
        ("as they were", &|| write(&edition(3, 3)), &["the rules on disk are again those in use"], "3"),
        (
            "cut off by a full disk",
            &|| write(""),
            &[
                "the rules on disk lack what they had: ",
                "10-test.toml is empty, and had rules (to be without its rules, ",
            ],
            "3",
        ),
        (
            "the folder is gone",
            &|| fs::rename(&rules, &away).unwrap(),
            &["the rules on disk cannot be read: cannot read", "No such file"],
            "3",
        ),
        (
            "an unmounted folder",
            &|| fs::create_dir(&rules).unwrap(),
            &["the rules on disk are gone (to run without any, restart); older ones stay in use"],
            "3",
        ),
        ("not text", &|| fs::write(&file, [0xff]).unwrap(), &["is not UTF-8 text"], "3"),
        ("good again", &|| write(&edition(6, 6)), &["new rules are in use"], "6"),
    ];
    let mut mended = 0;
    for (n, (name, act, lines, expect)) in cases.into_iter().enumerate() {
        let before = log(&bridge).len();
        act();
        if n >= FOUND {
            hang_up(&bridge);
        }
        until(name, PATIENCE, || lines.iter().all(|line| log(&bridge)[before..].contains(line)).then_some(()));
        let taken = lines[0].contains("in use") && lines.len() == 1 && !lines[0].contains("older");
        good(f64::from(u8::from(taken)));
        mended += usize::from(taken);
        assert_eq!(made_by(&bridge, &sim), expect, "{name}");
        let ready = bridge.get("/readyz");
        assert!(ready.starts_with("HTTP/1.1 200"), "{name}: the plant goes on: {ready}");
        assert_eq!(ready.contains("ready, but: the rules on disk"), !taken, "{name}: {ready}");
        let shown = Command::new(BINARY).args(["status", "--admin", &bridge.admin.to_string()]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert_eq!(shown.contains("NOT IN USE a change of 20"), !taken, "{name}: {shown}");
        assert!(shown.contains("rules      1 rule, ") && shown.contains(&hash(&bridge)), "{name}: {shown}");
    }
    let refused = log(&bridge).matches("older ones stay in use").count();
    assert_eq!((refused, mended), (6, 3), "each is told once:\n{}", log(&bridge));
    let last = bridge.metric("brownbridge_config_last_reload_success_timestamp_seconds");
    let file_time = fs::metadata(&file).unwrap().modified().unwrap().elapsed().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!(last > (now - file_time).as_secs_f64(), "{last}");
    assert_conserved(&bridge);
}

#[test]
fn files_come_and_go_and_what_is_new_works() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rule = "[[rule]]\nname = \"first\"\ntopic = \"a/{d}\"\ndevice = \"{d}\"\n";
    let bridge = Bridge::start(dir.path(), &sim, rule, "");
    let rules = dir.path().join("rules");
    let sent = |topic: &str| {
        let before = sim.received().len();
        publish_all(bridge.mqtt, topic, ["{}"]);
        until(topic, PATIENCE, || sim.received().into_iter().nth(before))
    };
    let spool =
        |message: &Value| message["system"]["message-id"].as_str().unwrap().split('-').next().unwrap().to_owned();
    let mut now = hash(&bridge);
    let mut taken = || {
        hang_up(&bridge);
        now = replaced(&bridge, &now);
    };
    let normal = spool(&sent("a/1"));

    // The first rule with priority: its messages have the spool of urgent ones, without a restart.
    let alarm = "[[rule]]\nname = \"alarm\"\ntopic = \"alarm/{d}\"\ndevice = \"{d}\"\npriority = \"high\"\n";
    fs::write(rules.join("20-alarm.toml"), alarm).unwrap();
    taken();
    told(&bridge, "1 new: alarm", 1);
    assert_ne!(spool(&sent("alarm/1")), normal);
    assert_eq!(spool(&sent("a/2")), normal);

    // A rule that hears who comes.
    fs::write(rules.join("30-on.toml"), "[[rule]]\nname = \"comes\"\non = \"connect\"\ndevice = \"{client}\"\n")
        .unwrap();
    taken();
    let before = sim.received().len();
    drop(Publisher::connect(bridge.mqtt, "newcomer").unwrap());
    let came = until("it is told", PATIENCE, || sim.received().into_iter().nth(before));
    assert_eq!(came["properties"]["device"], "newcomer");
    fs::remove_file(rules.join("30-on.toml")).unwrap();
    taken();
    told(&bridge, "1 gone: comes", 1);

    // A table that is not there yet, then comes, and changes.
    let table = "[table.lines]\nfile = \"lines.csv\"\n[[rule]]\nname = \"table\"\ntopic = \"l/{n}\"\ndevice = \"{n}\"\n\
        lookup = { table = \"lines\", key = \"{n}\" }\nprops = { line = \"{line}\" }\n";
    fs::write(rules.join("40-table.toml"), table).unwrap();
    told(&bridge, "there is no file `lines.csv`", 1);
    fs::write(rules.join("lines.csv"), "n,line\n1,press\n").unwrap();
    taken();
    assert_eq!(sent("l/1")["properties"]["line"], "press");
    fs::write(rules.join("lines.csv"), "n,line\n1,mould\n").unwrap();
    taken();
    assert_eq!(sent("l/1")["properties"]["line"], "mould");
    // What no rule names does not matter.
    fs::write(rules.join("other.csv"), "log\n").unwrap();
    hang_up(&bridge);
    told(&bridge, "the rules have not changed", 1);

    // Retried from the quarantine by the rules that are there now.
    publish_all(bridge.mqtt, "l/2", ["{}"]);
    assert_eq!(quarantined(dir.path()).len(), 1);
    fs::write(rules.join("lines.csv"), "n,line\n1,mould\n2,oven\n").unwrap();
    taken();
    let before = sim.received().len();
    let config = dir.path().join("bridge.toml");
    let retried =
        Command::new(BINARY).args(["quarantine", "retry", "--all", "--config"]).arg(&config).output().unwrap();
    assert!(retried.status.success(), "{retried:?}");
    let message = until("it arrives", PATIENCE, || sim.received().into_iter().nth(before));
    assert_eq!(message["properties"]["line"], "oven");
    let checked = Command::new(BINARY).arg("check").arg(&rules).output().unwrap();
    let checked = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.ends_with(&format!("hash of the rules: {}\n", hash(&bridge))), "{checked}");
    assert_conserved(&bridge);

    // bridge.toml is for the next start, and that is said, without a value.
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}window = 7\n[spool]\nmax_size = \"64MiB\"\n")).unwrap();
    hang_up(&bridge);
    told(&bridge, "restart for spool.max_size, uplink.window;", 1);
    fs::write(&config, format!("{text}widnow = 7\n")).unwrap();
    hang_up(&bridge);
    told(&bridge, "brownbridge would not start again:\nerror: ", 1);
    let key = sim.connection_string.split("SharedAccessKey=").nth(1).unwrap().split(';').next().unwrap();
    assert!(key.len() > 8 && !log(&bridge).contains(key), "{}", log(&bridge));
}

/// A mounted ConfigMap: files are links through a link to a folder, and that one link is replaced.
#[test]
fn a_link_that_is_replaced_replaces_the_rules() {
    use std::os::unix::fs::symlink;
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let rules = dir.path().join("rules");
    let mount = |version: usize| {
        let folder = rules.join(format!("..2026_{version}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("10-test.toml"), edition(version, version)).unwrap();
        symlink(folder.file_name().unwrap(), rules.join("..data_tmp")).unwrap();
        fs::rename(rules.join("..data_tmp"), rules.join("..data")).unwrap();
    };
    mount(1);
    symlink("..data/10-test.toml", rules.join("10-test.toml")).unwrap();
    let bridge = Bridge::start(dir.path(), &sim, &edition(1, 1), "");
    assert_eq!(made_by(&bridge, &sim), "1");
    let before = hash(&bridge);
    mount(2);
    fs::remove_dir_all(rules.join("..2026_1")).unwrap();
    replaced(&bridge, &before);
    assert_eq!(made_by(&bridge, &sim), "2");
    assert!(!log(&bridge).contains("stay in use"), "{}", log(&bridge));
}

#[test]
fn rules_that_fail_their_tests_at_the_start_run_and_are_told() {
    let dir = folder();
    let sim = Sim::start(&dir.path().join("sim"), free_port(), &[]);
    let bridge = Bridge::start(dir.path(), &sim, &edition(1, 2), "");
    told(&bridge, "the rules in use do not pass their own tests: 1 failure: test `says its edition` failed", 1);
    until("the metric", PATIENCE, || (bridge.metric("brownbridge_config_last_reload_successful") == 0.0).then_some(()));
    assert_eq!(made_by(&bridge, &sim), "1");
    fs::write(dir.path().join("rules/10-test.toml"), edition(1, 1)).unwrap();
    hang_up(&bridge);
    told(&bridge, "new rules are in use", 1);
    until("nothing to say", PATIENCE, || bridge.get("/readyz").ends_with("\r\n\r\nready\n").then_some(()));
}

/// Whoever tries rules in the demo need not start it again.
#[test]
fn the_demo_takes_up_rules_while_it_runs() {
    let dir = folder();
    let file = dir.path().join("10-test.toml");
    let rule = |device: &str| format!("[[rule]]\nname = \"r\"\ntopic = \"plant1/#\"\ndevice = \"{device}\"\n");
    fs::write(&file, rule("before")).unwrap();
    let mut demo = Command::new(BINARY);
    demo.args(["demo", "--for", "60s", "--rules"]).arg(dir.path()).stdout(Stdio::piped());
    let mut demo = Shown::of(demo.spawn().unwrap());
    demo.until("device=before");
    fs::write(&file, rule("after")).unwrap();
    demo.until("rules >  the files have changed: 1 rule in use");
    demo.until("device=after");
    kill_process(Pid::from_child(&demo.child), Signal::INT).unwrap();
    demo.until("Nothing is left behind");
    assert!(demo.child.wait().unwrap().success());
}

/// A program whose output is read line by line.
struct Shown {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Shown {
    fn of(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads on until a line has this text.
    fn until(&mut self, text: &str) {
        assert!(self.lines.any(|line| line.unwrap().contains(text)), "it ended without {text:?}");
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
