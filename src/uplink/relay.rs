//! A detour for one connection: where it is to be opened in another way than by dialling the hub's name.
//!
//! `rumqttc` dials the name it verifies. To go [another way](crate::outbound) and still send and check the right name,
//! it is given this one-shot HTTP CONNECT proxy on loopback, which opens the TCP connection that way and copies bytes.
//! It sees only TLS.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::outbound::Way;

const MAX_REQUEST: usize = 4096;

/// Lives as long as its connection.
pub(super) struct Relay {
    port: u16,
    error: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// `on`: where the copying is done.
    pub(super) fn start(target: (Way, String, u16), on: Option<&Handle>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let error = Arc::new(Mutex::new(None));
        let failed = Arc::clone(&error);
        let serve = async move {
            if let Err(error) = serve(listener, target).await {
                *failed.lock() = Some(error.to_string());
            }
        };
        let task = match on {
            Some(runtime) => runtime.spawn(serve),
            None => tokio::spawn(serve),
        };
        Ok(Self { port, error, task })
    }

    pub(super) fn local(&self) -> (String, u16) {
        (Ipv4Addr::LOCALHOST.to_string(), self.port)
    }

    /// Why the other host could not be reached.
    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: std::net::TcpListener, (way, host, port): (Way, String, u16)) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (mut near, _) = listener.accept().await?;
    drop(listener);
    near.set_nodelay(true)?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if near.read_buf(&mut request).await? == 0 || request.len() > MAX_REQUEST {
            return Ok(());
        }
    }
    let mut far = way.open(&host, port).await?;
    far.set_nodelay(true)?;
    near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    // An end of either side here is an end of the connection; the uplink sees it as such.
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    Ok(())
}
