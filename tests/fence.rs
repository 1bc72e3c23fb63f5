//! The fence of the plaintext port on the real program: users, access, limits, reload, learning, `passwd`, `check`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{BINARY, Bridge, free_port, until};

const PATIENCE: Duration = Duration::from_secs(30);
const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const DISCONNECT: u8 = 0xe0;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A bridge whose uplink leads nowhere; `broker` is more of `[broker]`.
fn bridge(dir: &Path, broker: &str) -> Bridge {
    let (mqtt, admin) = (free_port(), free_port());
    fs::create_dir_all(dir.join("rules")).unwrap();
    let config = format!(
        "unmatched = \"drop\"\nstate = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n{broker}\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n[uplink]\nkind = \"mqtt\"\naddress = \"127.0.0.1:1\"\ntls = false\n"
    );
    Bridge::with_config(dir, &config, (mqtt, admin))
}

fn passwd(dir: &Path, args: &[&str], password: &str) -> (Option<i32>, String) {
    let mut child = Command::new(BINARY)
        .arg("passwd")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(password.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// A client of MQTT 3.1.1 (4) or 5, byte by byte.
struct Client {
    stream: TcpStream,
    version: u8,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

impl Client {
    /// Connects; the reason of the CONNACK comes with it.
    fn connect(to: SocketAddr, version: u8, id: &str, user: Option<(&str, &str)>) -> (Self, u8) {
        Self::connect_with_will(to, version, id, user, None)
    }

    fn connect_with_will(
        to: SocketAddr,
        version: u8,
        id: &str,
        user: Option<(&str, &str)>,
        will: Option<&str>,
    ) -> (Self, u8) {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self { stream, version };
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        let flags = 2 | if user.is_some() { 0xc0 } else { 0 } | if will.is_some() { 4 } else { 0 };
        body.extend([version, flags, 0, 0]);
        client.no_properties(&mut body);
        text(&mut body, id);
        if let Some(topic) = will {
            client.no_properties(&mut body);
            text(&mut body, topic);
            text(&mut body, "gone");
        }
        if let Some((name, password)) = user {
            text(&mut body, name);
            text(&mut body, password);
        }
        client.send(0x10, &body);
        let (kind, body) = client.read().unwrap();
        assert_eq!(kind, CONNACK);
        (client, body[1])
    }

    fn no_properties(&self, body: &mut Vec<u8>) {
        body.extend(&[0][..usize::from(self.version == 5)]);
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        assert!(body.len() < 128);
        self.stream.write_all(&[&[kind, body.len() as u8], body].concat()).unwrap();
    }

    /// The next packet; none where the connection has ended.
    fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).ok()?;
        assert!(head[1] < 128);
        let mut body = vec![0; head[1].into()];
        self.stream.read_exact(&mut body).ok()?;
        Some((head[0], body))
    }

    /// Publishes; kind and reason of the answer.
    fn publish(&mut self, topic: &str, qos: u8) -> (u8, u8) {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend([0, 9]);
        self.no_properties(&mut body);
        self.send(0x30 | qos << 1, &body);
        let (kind, body) = self.read().unwrap();
        (kind, body.get(2).copied().unwrap_or(0))
    }

    /// Subscribes; the reason in the answer.
    fn subscribe(&mut self, filter: &str) -> u8 {
        let mut body = vec![0, 8];
        self.no_properties(&mut body);
        text(&mut body, filter);
        body.push(1);
        self.send(0x82, &body);
        loop {
            let (kind, body) = self.read().unwrap();
            if kind == SUBACK {
                return *body.last().unwrap();
            }
        }
    }
}

fn log(bridge: &Bridge) -> String {
    fs::read_to_string(&bridge.log).unwrap()
}

fn count(bridge: &Bridge, metric: &str, reason: &str) -> u64 {
    let page = bridge.get("/metrics");
    let wanted = format!("brownbridge_{metric}{{reason=\"{reason}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0, |n| n.parse().unwrap())
}

#[test]
fn passwd_keeps_users() {
    let dir = folder();
    let at = dir.path();
    for (args, password, code, told) in [
        (vec!["u.toml", "panel", "--stdin"], "one\n", 0, "u.toml: user panel added\n"),
        (vec!["u.toml", "night shift", "--stdin"], "two", 0, "u.toml: user night shift added\n"),
        (vec!["u.toml", "panel", "--stdin"], "three\nfour\n", 0, "u.toml: user panel has a new password\n"),
        (vec!["u.toml", "night shift", "--delete"], "", 0, "u.toml: user night shift removed\n"),
        (vec!["u.toml", "night shift", "--delete"], "", 2, "error: there is no user night shift in u.toml\n"),
        (vec!["u.toml", "x*", "--stdin"], "p", 2, "error: a user name has no `*`"),
        (vec!["u.toml", "x", "--stdin"], "\n", 2, "error: an empty password is no password\n"),
        (vec!["none/u.toml", "x", "--stdin"], "p\n", 2, "error: cannot write none/u.toml"),
    ] {
        let (got, output) = passwd(at, &args, password);
        assert_eq!(got, Some(code), "{args:?} {output}");
        assert!(output.starts_with(told), "{args:?} {output}");
    }
    let file = at.join("u.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.contains("\"panel\" = \"$argon2id$") && !written.contains("three"), "{written}");
    fs::write(&file, written + "old = \"$1$secret\"\n").unwrap();
    let (code, output) = passwd(at, &["u.toml", "x", "--stdin"], "p\n");
    assert_eq!(code, Some(1));
    assert!(output.contains("this is no Argon2 hash") && !output.contains("secret"), "{output}");
}

#[test]
fn who_may_connect() {
    let dir = folder();
    passwd(dir.path(), &["users.toml", "panel", "--stdin"], "right\n");
    let access =
        "[[allow]]\npublish = \"#\"\n[[bind]]\nclient = \"plc-7\"\nfrom = \"10.1.2.3\"\n[[deny]]\nclient = \"old-*\"\n";
    fs::write(dir.path().join("access.toml"), access).unwrap();
    let bridge = bridge(
        dir.path(),
        "users = \"users.toml\"\naccess = \"access.toml\"\nanonymous = false\nconnect_timeout = \"30s\"",
    );
    for (version, id, user, expect) in [
        (4, "a", Some(("panel", "right")), 0),
        (5, "a", Some(("panel", "right")), 0),
        (4, "a", Some(("panel", "wrong")), 4),
        (5, "a", Some(("panel", "wrong")), 0x86),
        (5, "a", Some(("nobody", "right")), 0x86),
        (4, "a", None, 5),
        (5, "a", None, 0x87),
        (4, "plc-7", Some(("panel", "right")), 5),
        (5, "plc-7", Some(("panel", "right")), 0x87),
        (5, "old-3", Some(("panel", "right")), 0x87),
    ] {
        let (mut client, reason) = Client::connect(bridge.mqtt, version, id, user);
        assert_eq!(reason, expect, "MQTT {version} {id} {user:?}");
        if reason == 0 {
            assert_eq!(client.publish("t", 1), (PUBACK, 0));
        } else {
            assert_eq!(client.read(), None, "a refused client is closed");
        }
    }
    for (reason, expect) in
        [("bad_user_name_or_password", 3), ("anonymous", 2), ("client_id_bound_elsewhere", 2), ("denied", 1)]
    {
        assert_eq!(count(&bridge, "broker_disconnects_total", reason), expect, "{reason}");
    }
    let log = log(&bridge);
    assert!(log.contains("a client was refused") && log.contains("plc-7"), "{log}");
    assert!(!log.contains("wrong"), "no password in the log: {log}");
}

#[test]
fn who_may_do_what() {
    let dir = folder();
    let access = "[[allow]]\npublish = \"plant/{client}/#\"\nsubscribe = [\"cmd/{client}/#\", \"plant/#\"]\n\
        [[deny]]\nsubscribe = \"plant/secret\"\n";
    fs::write(dir.path().join("access.toml"), access).unwrap();
    let bridge = bridge(dir.path(), "access = \"access.toml\"\nmax_subscriptions = 2");
    let (mut old, _) = Client::connect(bridge.mqtt, 4, "old", None);
    let (mut new, _) = Client::connect(bridge.mqtt, 5, "new", None);
    let (mut spy, _) = Client::connect(bridge.mqtt, 5, "spy", None);
    assert_eq!(spy.subscribe("plant/+/x"), 1);
    assert_eq!(old.publish("plant/old/x", 1), (PUBACK, 0));
    assert_eq!(spy.read().unwrap().0 & 0xf0, 0x30);
    // 3.1.1 cannot refuse: acknowledged, counted, and nobody gets it.
    assert_eq!(old.publish("plant/new/x", 1), (PUBACK, 0));
    assert_eq!(old.publish("plant/new/x", 2), (PUBREC, 0));
    old.send(0x62, &[0, 9]);
    assert_eq!(old.read().unwrap().0, PUBCOMP);
    assert_eq!(new.publish("plant/old/x", 1), (PUBACK, 0x87));
    assert_eq!(new.publish("plant/old/x", 2), (PUBREC, 0x87));
    // The identifier of the refused exchange is free again.
    assert_eq!(new.publish("plant/new/x", 2), (PUBREC, 0));
    assert_eq!(spy.read().unwrap().1[2..11], *b"plant/new", "the first after the refused ones");
    let mut clients = [old, new];
    for (client, filter, expect) in [
        (0, "cmd/old/+", 1),
        (0, "cmd/+/x", 0x80),
        (1, "cmd/new/#", 1),
        (1, "cmd/#", 0x87),
        (1, "plant/#", 0x87),
        (1, "plant/a/b", 1),
        (1, "plant/a/c", 0x97),
    ] {
        assert_eq!(clients[client].subscribe(filter), expect, "{filter}");
    }
    assert_eq!(Client::connect_with_will(bridge.mqtt, 4, "w", None, Some("plant/w/state")).1, 0);
    assert_eq!(Client::connect_with_will(bridge.mqtt, 4, "w", None, Some("plant/x/state")).1, 5);
    assert_eq!(Client::connect_with_will(bridge.mqtt, 5, "w", None, Some("plant/x/state")).1, 0x87);
    assert_eq!(count(&bridge, "messages_dropped_total", "not_authorized"), 4);
    assert_eq!(count(&bridge, "broker_subscriptions_refused_total", "not_authorized"), 3);
    assert_eq!(count(&bridge, "broker_subscriptions_refused_total", "max_subscriptions"), 1);
    assert_eq!(
        bridge.metric("brownbridge_publishes_received_total"),
        bridge.metric("brownbridge_messages_dropped_total")
    );
}

#[test]
fn limits_of_an_address() {
    let dir = folder();
    let bridge = bridge(dir.path(), "max_connections_per_address = 3");
    let until_three = |id: &str| {
        until("a place", PATIENCE, || {
            Some(Client::connect(bridge.mqtt, 4, id, None)).filter(|(_, reason)| *reason == 0)
        })
    };
    let held: Vec<Client> = ["a", "b", "c"].map(|id| until_three(id).0).into();
    assert_eq!(Client::connect(bridge.mqtt, 4, "d", None).1, 3);
    assert_eq!(Client::connect(bridge.mqtt, 5, "d", None).1, 0x97);
    drop(held);
    until_three("d");
    assert!(count(&bridge, "broker_disconnects_total", "connections_per_address") >= 2);
}

#[test]
fn limits_of_rates() {
    let dir = folder();
    let bridge = bridge(dir.path(), "max_publish_rate = 20\nmax_connect_rate = 2");
    let (mut client, reason) = Client::connect(bridge.mqtt, 4, "a", None);
    assert_eq!(reason, 0);
    let began = Instant::now();
    (0..30).for_each(|_| assert_eq!(client.publish("t", 1), (PUBACK, 0)));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400), "20 at once, 10 more in half a second: {took:?}");
    let refused = until("a refusal", PATIENCE, || {
        Some(Client::connect(bridge.mqtt, 5, "b", None).1).filter(|reason| *reason != 0)
    });
    assert_eq!(refused, 0x9f);
    until("the second is over", PATIENCE, || Some(Client::connect(bridge.mqtt, 4, "b", None).1).filter(|r| *r == 0));
}

#[test]
fn a_hard_publish_rate_closes() {
    let dir = folder();
    let bridge = bridge(dir.path(), "max_publish_rate = 5\nover_publish_rate = \"close\"");
    let (mut client, _) = Client::connect(bridge.mqtt, 5, "a", None);
    let mut acknowledged = 0;
    let end = loop {
        let answer = client.publish("t", 1);
        if answer.0 != PUBACK {
            break answer;
        }
        acknowledged += 1;
        assert!(acknowledged < 1_000);
    };
    assert_eq!(end.0, DISCONNECT);
    assert!(acknowledged >= 5, "{acknowledged}");
    until("the end is counted", PATIENCE, || {
        (count(&bridge, "broker_disconnects_total", "message_rate_too_high") == 1).then_some(())
    });
}

#[test]
fn files_are_reloaded_and_bad_ones_are_not() {
    let dir = folder();
    let file = dir.path().join("access.toml");
    let open = "[[allow]]\npublish = \"a\"\nsubscribe = []\n";
    fs::write(&file, open).unwrap();
    let bridge = bridge(dir.path(), "access = \"access.toml\"");
    let (mut client, _) = Client::connect(bridge.mqtt, 5, "c", None);
    assert_eq!((client.publish("a", 1).1, client.publish("b", 1).1), (0, 0x87));
    fs::write(&file, open.replace("\"a\"", "\"b\"")).unwrap();
    // The same connection, by the new file.
    until("the new file", PATIENCE, || (client.publish("b", 1).1 == 0).then_some(()));
    assert_eq!(client.publish("a", 1).1, 0x87);
    assert_eq!(bridge.metric("brownbridge_config_last_reload_successful"), 1.0);

    fs::write(&file, "[[allow]]\npublsh = \"a\"\n").unwrap();
    until("the bad file", PATIENCE, || {
        (bridge.metric("brownbridge_config_last_reload_successful") == 0.0).then_some(())
    });
    assert_eq!((client.publish("a", 1).1, client.publish("b", 1).1), (0x87, 0), "the old one stays in use");
    let told = log(&bridge);
    assert!(told.contains("unknown key `publsh` in [[allow]]") && told.contains("the old ones stay in use"), "{told}");

    fs::remove_file(&file).unwrap();
    fs::write(&file, "[[allow]]\nclient = \"d\"\npublish = \"#\"\n").unwrap();
    let pid = rustix::process::Pid::from_raw(bridge.process.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until("the good file", PATIENCE, || {
        (bridge.metric("brownbridge_config_last_reload_successful") == 1.0).then_some(())
    });
    assert_eq!(client.publish("b", 1).1, 0x87, "a client that could not come in now may do nothing more");
    assert_eq!(Client::connect(bridge.mqtt, 4, "c", None).1, 5);
}

#[test]
fn what_was_learned_can_be_enforced() {
    let dir = folder();
    let learned = dir.path().join("learned.toml");
    let mut first = bridge(dir.path(), "learn = \"learned.toml\"");
    for n in 1..=3 {
        let (mut plc, reason) = Client::connect(first.mqtt, 4, &format!("plc-{n}"), None);
        assert_eq!(reason, 0);
        assert_eq!(plc.publish(&format!("plant/plc-{n}/temp"), 1), (PUBACK, 0));
        assert_eq!(plc.subscribe(&format!("cmd/plc-{n}/#")), 1);
    }
    until("the learned file", PATIENCE, || {
        fs::read_to_string(&learned).ok().filter(|text| text.contains("cmd/{client}/#"))
    });
    // What comes just before the end is in it too.
    let (mut panel, _) = Client::connect(first.mqtt, 5, "panel", None);
    assert_eq!(panel.subscribe("plant/+/temp"), 1);
    assert_eq!(first.process.terminate(), Some(0));
    let text = fs::read_to_string(&learned).unwrap();
    let expect = "[[allow]]\nclient    = \"plc-*\"\nfrom      = [\"127.0.0.1\"]\npublish   = [\"plant/{client}/temp\"]\nsubscribe = [\"cmd/{client}/#\"]\n";
    assert!(text.contains(expect) && text.contains("subscribe = [\"plant/+/temp\"]"), "{text}");

    let second = bridge(dir.path(), "access = \"learned.toml\"");
    let (mut plc, reason) = Client::connect(second.mqtt, 5, "plc-9", None);
    assert_eq!(reason, 0);
    assert_eq!((plc.publish("plant/plc-9/temp", 1).1, plc.publish("plant/plc-1/temp", 1).1), (0, 0x87));
    assert_eq!((plc.subscribe("cmd/plc-9/#"), plc.subscribe("cmd/#")), (1, 0x87));
    assert_eq!(Client::connect(second.mqtt, 5, "stranger", None).1, 0x87);
}

/// `check` reads these files too; the findings are kept word for word. Bless with `UPDATE_EXPECT=1`.
#[test]
fn findings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fence");
    let check = |args: &[&str]| {
        let output =
            Command::new(BINARY).arg("check").args(args).current_dir(&folder).env_remove("NO_COLOR").output().unwrap();
        (output.status.code(), String::from_utf8([output.stderr, output.stdout].concat()).unwrap())
    };
    let mut codes = String::new();
    for (config, code) in [("errors.toml", 1), ("warnings.toml", 0)] {
        let (got_code, got) = check(&["--config", config]);
        let golden = folder.join(config).with_extension("stderr");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&golden, &got).unwrap();
        }
        assert_eq!(got, fs::read_to_string(&golden).unwrap());
        assert_eq!(got_code, Some(code));
        assert!(!got.contains("argon2id$") && !got.contains("hunter2"), "a secret is shown: {got}");
        codes += &check(&["--json", "--config", config]).1;
    }
    for code in brownbridge::fence::CODES {
        assert!(codes.contains(&format!("\"code\":\"{code}\"")), "no row for {code}");
    }
}
