//! The way out of the plant: how TCP connections to the cloud are opened.
//!
//! Directly, or to another address than the name says, from one of this machine's addresses, or through an HTTP proxy
//! with CONNECT. Where there is a proxy it also resolves the name. TLS is spoken over what comes back, so a proxy sees
//! nothing but the name and the port.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::message::excerpt;
use crate::secret::Secret;

/// Time until the connection is there, the proxy's answer included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time to look up a name.
const LOOKUP: Duration = Duration::from_secs(10);
/// Most bytes of a proxy's answer.
const MAX_HEAD: usize = 16 * 1024;

/// How a host is reached.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// Connect here instead.
    pub address: Option<(String, u16)>,
    /// Through this proxy.
    pub proxy: Option<Proxy>,
    /// From this address of this machine.
    pub bind: Option<IpAddr>,
}

/// An HTTP proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `user:password`, for basic authentication.
    pub credentials: Option<Secret>,
}

impl Proxy {
    /// Reads `http://[user:password@]host:port`; the error says what is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err("only proxies that speak plain HTTP themselves are known: http://host:port"),
            None => return Err("it begins with http://"),
        };
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, rest),
        };
        let (host, port) = place.trim_end_matches('/').rsplit_once(':').ok_or("there is no port: http://host:port")?;
        let port = port.parse().map_err(|_| "the port is no number up to 65535")?;
        let host = host.trim_matches(['[', ']']);
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err("there is no host: http://host:port");
        }
        if credentials.is_some_and(|credentials| !credentials.contains(':')) {
            return Err("a user has a password: http://user:password@host:port");
        }
        let credentials = credentials.map(|text| Secret::new(crate::hub::bag::unescape(text).into_owned()));
        Ok(Self { host: host.to_owned(), port, credentials })
    }
}

impl Way {
    /// Opens a connection to `host`.
    pub async fn open(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let (host, port) = self.address.as_ref().map_or((host, port), |(host, port)| (host.as_str(), *port));
        let open = async {
            match &self.proxy {
                None => self.dial(host, port).await,
                Some(proxy) => {
                    let dialled = self.dial(&proxy.host, proxy.port).await;
                    let mut stream = dialled.map_err(|error| {
                        let text = format!("no connection to the proxy {}:{}: {error}", proxy.host, proxy.port);
                        io::Error::new(error.kind(), text)
                    })?;
                    proxy.ask(&mut stream, host, port).await?;
                    Ok(stream)
                }
            }
        };
        let stream = timeout(PATIENCE, open).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Whether the name this way dials for `host` leads anywhere; `None` where that cannot be said here: a proxy looks it
    /// up, or nobody answers.
    pub async fn resolves(&self, host: &str) -> Option<bool> {
        if self.proxy.is_some() {
            return None;
        }
        let host = self.address.as_ref().map_or(host, |(host, _)| host);
        let found = timeout(LOOKUP, lookup_host((host, 0))).await.ok()?;
        Some(found.is_ok_and(|mut addresses| addresses.next().is_some()))
    }

    /// Where a connection to `host` goes, for people.
    pub fn describe(&self, host: &str, port: u16) -> String {
        let mut text = match &self.address {
            Some((host, port)) => format!("{host}:{port}"),
            None => format!("{host}:{port}"),
        };
        if let Some(proxy) = &self.proxy {
            let _ = write!(text, " through the proxy {}:{}", proxy.host, proxy.port);
        }
        text
    }

    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let Some(bind) = self.bind else { return TcpStream::connect((host, port)).await };
        let mut last =
            io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{host} has no address of the kind of {bind}"));
        for address in lookup_host((host, port)).await?.filter(|address| address.is_ipv4() == bind.is_ipv4()) {
            let socket = if bind.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            let from = |error: io::Error| io::Error::new(error.kind(), format!("from {bind}: {error}"));
            socket.bind(SocketAddr::new(bind, 0)).map_err(from)?;
            match socket.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Proxy {
    /// Asks for a tunnel.
    async fn ask(&self, stream: &mut TcpStream, host: &str, port: u16) -> io::Result<()> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut request = zeroize::Zeroizing::new(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"));
        if let Some(credentials) = &self.credentials {
            let encoded = base64::prelude::BASE64_STANDARD.encode(credentials.expose());
            let _ = write!(request, "Proxy-Authorization: Basic {encoded}\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        // The other side of the tunnel is silent until it is greeted, so nothing follows the head.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
                return Err(self.error("it does not answer as an HTTP proxy does"));
            }
        }
        let head = String::from_utf8_lossy(&head);
        let mut words = head.lines().next().unwrap_or_default().splitn(3, ' ');
        match (words.next(), words.next(), words.next().unwrap_or_default()) {
            (Some(version), Some("200"), _) if version.starts_with("HTTP/1.") => Ok(()),
            (_, Some("407"), _) => {
                Err(self.error("it wants a user name and a password: http://user:password@host:port"))
            }
            (_, Some(status), why) => {
                let why = format!("it does not let {host}:{port} through: {} {}", excerpt(status), excerpt(why));
                Err(self.error(&why))
            }
            _ => Err(self.error("it does not answer as an HTTP proxy does")),
        }
    }

    fn error(&self, why: &str) -> io::Error {
        io::Error::other(format!("the proxy {}:{}: {why}", self.host, self.port))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn proxies_as_people_write_them() {
        for (text, expect) in [
            ("http://proxy.plant:3128", Ok(("proxy.plant", 3128, None))),
            ("http://proxy.plant:3128/", Ok(("proxy.plant", 3128, None))),
            ("http://[fd00::1]:8080", Ok(("fd00::1", 8080, None))),
            ("http://me:p%40ss:w@10.0.0.1:80", Ok(("10.0.0.1", 80, Some("me:p@ss:w")))),
            ("proxy.plant:3128", Err("begins with")),
            ("https://proxy.plant:3128", Err("plain HTTP")),
            ("socks5://proxy.plant:1080", Err("plain HTTP")),
            ("http://proxy.plant", Err("no port")),
            ("http://:80", Err("no host")),
            ("http://proxy:99999", Err("65535")),
            ("http://me@proxy:80", Err("has a password")),
            ("", Err("begins with")),
        ] {
            match (Proxy::parse(text), expect) {
                (Ok(proxy), Ok((host, port, credentials))) => {
                    let said = proxy.credentials.as_ref().map(Secret::expose);
                    assert_eq!((proxy.host.as_str(), proxy.port, said), (host, port, credentials), "{text}");
                }
                (Err(why), Err(expect)) => assert!(why.contains(expect), "{text}: {why}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    /// Plays a proxy: reads a request's head, answers, and echoes one byte.
    async fn play(listener: TcpListener, answer: &'static str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        if let Ok(byte) = stream.read_u8().await {
            stream.write_u8(byte).await.unwrap();
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn a_tunnel_through_a_proxy() {
        for (credentials, answer, expect) in [
            (None, "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", Ok(())),
            (Some("me:secret"), "HTTP/1.0 200 OK\r\n\r\n", Ok(())),
            (None, "HTTP/1.1 407 Who?\r\n\r\n", Err("user name and a password")),
            (None, "HTTP/1.1 403 Forbidden\r\n\r\n", Err("does not let hub.example:8883 through: 403 Forbidden")),
            (None, "220 mail\r\n\r\n", Err("does not let")),
            (None, "\r\n\r\n", Err("as an HTTP proxy does")),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let played = tokio::spawn(play(listener, answer));
            let credentials = credentials.map(|text: &str| Secret::new(text.to_owned()));
            let authorised = credentials.is_some();
            let proxy = Proxy { host: "127.0.0.1".into(), port, credentials };
            let way = Way { proxy: Some(proxy), bind: Some(Ipv4Addr::LOCALHOST.into()), ..Way::default() };
            match (way.open("hub.example", 8883).await, expect) {
                (Ok(mut stream), Ok(())) => {
                    stream.write_u8(7).await.unwrap();
                    assert_eq!(stream.read_u8().await.unwrap(), 7);
                }
                (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{answer}: {error}"),
                (got, _) => panic!("{answer}: {got:?}"),
            }
            let head = played.await.unwrap();
            assert!(head.starts_with("CONNECT hub.example:8883 HTTP/1.1\r\nHost: hub.example:8883\r\n"), "{head}");
            assert_eq!(head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), authorised, "{head}");
        }
    }

    #[tokio::test]
    async fn names_that_lead_somewhere() {
        let address = |host: &str| Way { address: Some((host.into(), 1)), ..Way::default() };
        let proxy = Proxy { host: "127.0.0.1".into(), port: 1, credentials: None };
        for (way, host, expect) in [
            (Way::default(), "127.0.0.1", Some(true)),
            (Way::default(), "localhost", Some(true)),
            (Way::default(), "no such name", Some(false)),
            (address("127.0.0.1"), "no such name", Some(true)),
            (address("no such name"), "localhost", Some(false)),
            (Way { proxy: Some(proxy), ..Way::default() }, "no such name", None),
        ] {
            assert_eq!(way.resolves(host).await, expect, "{way:?} {host}");
        }
    }

    #[tokio::test]
    async fn the_address_it_comes_from() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let from = |ip: &str| Way { bind: Some(ip.parse().unwrap()), ..Way::default() };
        let _line = from("127.0.0.9").open("127.0.0.1", port).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.9");
        let error = from("203.0.113.77").open("127.0.0.1", port).await.unwrap_err().to_string();
        assert!(error.starts_with("from 203.0.113.77: "), "{error}");
    }
}
