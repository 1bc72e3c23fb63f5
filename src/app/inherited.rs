//! Listening sockets that systemd opened and passes on (`LISTEN_FDS`), so that a restart refuses no connection: the
//! kernel keeps who connects meanwhile.
//!
//! Which socket is whose follows from its address: it must be what `listen` of a listener says, or the same port on
//! every address of either family.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// The sockets that were passed.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

impl Inherited {
    /// Takes the sockets out of the environment. To be called once, before there are threads.
    pub fn from_environment() -> Self {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            match passed.take_tcp_listener(index) {
                Ok(Some(socket)) => match socket.local_addr() {
                    Ok(address) => sockets.push((address, socket)),
                    Err(error) => tracing::warn!("a passed socket has no address: {error}"),
                },
                Ok(None) => {}
                Err(error) => tracing::warn!("passed socket {index} is no listening TCP socket: {error}"),
            }
        }
        Self(sockets)
    }

    /// Takes the socket for `wanted`, where one was passed.
    pub(super) fn take(&mut self, wanted: SocketAddr) -> Option<io::Result<tokio::net::TcpListener>> {
        let at = self.0.iter().position(|(address, _)| serves(*address, wanted))?;
        let (address, socket) = self.0.swap_remove(at);
        tracing::info!(%address, "a listening socket was taken over");
        Some(socket.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(socket)))
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        for (address, _) in &self.0 {
            tracing::warn!(%address, "a passed socket is no `listen` of bridge.toml; nobody answers on it");
        }
    }
}

/// Whether a socket on `address` takes the connections that one on `wanted` would.
fn serves(address: SocketAddr, wanted: SocketAddr) -> bool {
    let everywhere = address.ip().is_unspecified() && wanted.ip().is_unspecified();
    address.port() == wanted.port() && (address.ip() == wanted.ip() || everywhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_known_by_its_address() {
        for (address, wanted, expect) in [
            ("127.0.0.1:1883", "127.0.0.1:1883", true),
            ("[::]:1883", "0.0.0.0:1883", true),
            ("0.0.0.0:1883", "0.0.0.0:1883", true),
            ("0.0.0.0:1883", "10.0.0.1:1883", false),
            ("127.0.0.1:1884", "127.0.0.1:1883", false),
        ] {
            assert_eq!(serves(address.parse().unwrap(), wanted.parse().unwrap()), expect, "{address} {wanted}");
        }
    }
}
