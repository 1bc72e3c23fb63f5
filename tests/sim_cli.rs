//! `brownbridge sim` from the outside: what it says, what it prints, how it ends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod sim_client;

use brownbridge::hub::sas::Token;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use sim_client::*;

fn sim(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_brownbridge"))
        .arg("sim")
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The [uplink] section it prints, as a bridge would read it.
fn introduction(stderr: &mut impl std::io::BufRead) -> toml::Table {
    let mut said = String::new();
    while !said.contains("address = ") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "ended after: {said}");
    }
    let section = said.split_once("[uplink]").unwrap().1;
    section.parse().unwrap()
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn it_introduces_itself_prints_messages_and_ends_cleanly() {
    for (arguments, kind, gateway) in
        [(&["--device", "press-4"][..], "iothub", false), (&["--device", "press-4", "--edge"], "edge", true)]
    {
        let mut child = sim(&[arguments, &["--listen", "127.0.0.1:0"]].concat());
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let uplink = introduction(&mut stderr);
        let said = |key: &str| uplink[key].as_str().unwrap();
        assert_eq!(said("kind"), kind);
        let connection = said("connection_string");
        assert!(connection.contains("DeviceId=press-4;"), "{connection}");
        assert_eq!(connection.ends_with(";GatewayHostName=localhost"), gateway);
        let at: SocketAddr = said("address").parse().unwrap();
        let mut client = Client::dial_at(at, Path::new(said("ca_file")), None).await;
        assert_eq!(client.connect(hello_with(connection)).await, Some((0, false)));
        client.send(publish("devices/press-4/messages/events/a=%C3%BC", 1, "21 °C")).await;
        assert_eq!(client.next().await, Some(puback(7)));

        // The line is there while the simulator runs: nothing waits in a buffer.
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let message: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&message["body"], &message["properties"]["a"]), (&"21 °C".into(), &"ü".into()));
        interrupt(&child);
        assert!(child.wait().unwrap().success());
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("1 message, 0 dropped, 1 connection\n"), "{rest}");
        let key = connection.split("SharedAccessKey=").nth(1).unwrap().split(';').next().unwrap();
        assert!(!rest.contains(key), "the key is in the log");
        let port = at.port();
        for request in [
            format!("https://localhost:{port}/devices/press-4/messages/devicebound?api-version="),
            format!("https://localhost:{port}/twins/press-4/methods?api-version="),
            "/master.key\"".to_owned(),
        ] {
            assert!(rest.contains(&request) || gateway, "{request}\n{rest}");
        }
        let token = rest.split("Authorization: ").nth(1).unwrap().split('\'').next().unwrap();
        let token = Token::parse(token).unwrap();
        assert_eq!((&*token.key_name, token.audience == "localhost"), ("iothubowner", !gateway));
    }
}

#[test]
fn the_first_device_of_a_file_is_introduced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    for (text, expect) in [("!off\n# spare\n m-1\nm-2\n", "m-1"), ("!off\n", "dev-01"), ("", "dev-01")] {
        std::fs::write(&file, text).unwrap();
        let mut child = sim(&["--device-file", file.to_str().unwrap(), "--listen", "127.0.0.1:0", "--quiet"]);
        let uplink = introduction(&mut BufReader::new(child.stderr.take().unwrap()));
        let connection = uplink["connection_string"].as_str().unwrap();
        assert!(connection.contains(&format!("DeviceId={expect};")), "{text:?}: {connection}");
        interrupt(&child);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_certificate_comes_with_its_section() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let mut child = sim(&["--x509", "press-4", "--dir", dir, "--listen", "127.0.0.1:0", "--quiet"]);
    let uplink = introduction(&mut BufReader::new(child.stderr.take().unwrap()));
    assert_eq!(uplink["connection_string"].as_str(), Some("HostName=localhost;DeviceId=press-4;x509=true"));
    for key in ["certificate", "key", "ca_file"] {
        assert!(Path::new(uplink[key].as_str().unwrap()).exists(), "{key}");
    }
    interrupt(&child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn it_says_why_it_cannot_run() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "not base64!").unwrap();
    let with_key = format!("d={}", key.display());
    for (arguments, expect) in [
        (&["--listen", &taken][..], "cannot listen on 127.0.0.1:"),
        (&["--device", "a/b/c"], "not a device id"),
        (&["--device", "a+b"], "not a device id"),
        (&["--x509", "a/b"], "not a device id"),
        (&["--device", "d=/nonexistent"], "/nonexistent"),
        (&["--device", &with_key], "the key is not base64"),
        (&["--cut-every", "0"], "--cut-every"),
        (&["--lock", "0"], "--lock"),
        (&["--lock", "86401"], "--lock"),
    ] {
        let Output { status, stdout, stderr } = sim(arguments).wait_with_output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), stdout.len()), (Some(2), 0), "{arguments:?}: {said}");
        assert!(said.contains(expect), "{arguments:?}: {said}");
    }
}
