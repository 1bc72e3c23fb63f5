//! What time it is where a way leads: the `Date` of any HTTPS answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{MAX_HEAD, Way};
use crate::hub::clock::date_in;

const HTTPS: u16 = 443;
/// Time for the whole question.
const PATIENCE: Duration = Duration::from_secs(10);

impl Way {
    /// The time at `host`, in seconds since 1970, by one TLS connection to its port 443, or to the address of this way.
    /// `None` where it does not say within ten seconds.
    pub async fn time(&self, host: &str, tls: &Arc<ClientConfig>) -> Option<i64> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_time(host, tls)).await;
        asked.ok()?.ok()?
    }

    async fn ask_time(&self, host: &str, tls: &Arc<ClientConfig>) -> io::Result<Option<i64>> {
        let stream = self.open(host, HTTPS).await?;
        let server = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut stream = TlsConnector::from(Arc::clone(tls)).connect(server, stream).await?;
        stream.write_all(format!("HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        while head.len() < MAX_HEAD && memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        Ok(date_in(&String::from_utf8_lossy(&head)))
    }
}
