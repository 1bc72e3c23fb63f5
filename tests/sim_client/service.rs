//! What a service asks of the simulator over HTTPS.

use std::sync::Arc;

use brownbridge::hub::sas::{Key, mint};
use brownbridge::hubsim::Running;
use brownbridge::message::Timestamp;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{LONG, tls};

pub(crate) const API: &str = "api-version=2021-04-12";

/// One request on a connection of its own: status and JSON of the answer. `headers` end with a line break each.
pub(crate) async fn ask(sim: &Running, (method, path): (&str, &str), headers: &str, body: &str) -> (u16, Value) {
    let text = sim.service_connection_string();
    let key = Key::parse(text.expose().rsplit_once("SharedAccessKey=").unwrap().1).unwrap();
    let token = mint(&key, "localhost", Timestamp::now().as_secs() + 60, Some("iothubowner"));
    ask_as(sim, (method, path), &format!("Authorization: {}\r\n{headers}", token.expose()), body).await
}

pub(crate) async fn ask_as(sim: &Running, (method, path): (&str, &str), headers: &str, body: &str) -> (u16, Value) {
    let tcp = TcpStream::connect(sim.local_addr()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls(&sim.ca_file(), None))).connect(name, tcp).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // In two pieces: what it is shows only with the second.
    stream.write_all(&request.as_bytes()[..2]).await.unwrap();
    stream.flush().await.unwrap();
    stream.write_all(&request.as_bytes()[2..]).await.unwrap();
    let mut answer = Vec::new();
    // The simulator closes without close_notify where the client asked it to close.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an answer");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() })
}

/// The next records of feedback: the message and what became of it.
pub(crate) async fn feedback(sim: &Running, count: usize) -> Vec<(String, String)> {
    let path = format!("/messages/serviceBound/feedback?{API}");
    let mut told = Vec::new();
    let began = std::time::Instant::now();
    while told.len() < count {
        assert!(began.elapsed() < LONG, "only {told:?}");
        let (status, records) = ask(sim, ("GET", &path), "", "").await;
        assert!(status == 200 || status == 204 && records.is_null(), "{status} {records}");
        for record in records.as_array().into_iter().flatten() {
            assert_eq!(record["description"], record["statusCode"]);
            let text = |name: &str| record[name].as_str().unwrap().to_owned();
            told.push((text("originalMessageId"), text("statusCode")));
        }
    }
    told
}

pub(crate) fn told(id: &str, status: &str) -> (String, String) {
    (id.to_owned(), status.to_owned())
}
