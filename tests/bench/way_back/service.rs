//! A service with one connection that it keeps: what is measured is no TLS handshake.

use std::sync::Arc;

use brownbridge::hub::sas::{Key, mint};
use brownbridge::hubsim::Running;
use brownbridge::message::Timestamp;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::sim_client::tls;

pub(crate) struct Service {
    stream: BufStream<TlsStream<TcpStream>>,
    token: String,
}

impl Service {
    pub(crate) async fn connect(sim: &Running) -> Self {
        let tcp = TcpStream::connect(sim.local_addr()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(tls(&sim.ca_file(), None))).connect(name, tcp).await.unwrap();
        let text = sim.service_connection_string();
        let key = Key::parse(text.expose().rsplit_once("SharedAccessKey=").unwrap().1).unwrap();
        let token = mint(&key, "localhost", Timestamp::now().as_secs() + 3600, Some("iothubowner"));
        Self { stream: BufStream::new(stream), token: token.expose().to_owned() }
    }

    /// One request; status and body of its answer.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.unwrap();
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if status == 0 {
                status = line.split(' ').nth(1).unwrap().parse().unwrap();
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = text.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}
