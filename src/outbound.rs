//! The way out of the plant: how TCP connections to the cloud are opened.
//!
//! Directly, or to another address than the name says, from one of this machine's addresses, or through an HTTP proxy
//! with CONNECT. Where there is a proxy it also resolves the name. TLS is spoken over what comes back, so a proxy sees
//! nothing but the name and the port. What a proxy says instead of making a tunnel is a [`ProxyError`].

use std::fmt::{self, Write as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::proxy::{self, Parts};
use crate::message::excerpt;
use crate::secret::Secret;

mod time;

/// Time until the connection is there, the proxy's answer included. Less than whoever waits for it has: what is told of a
/// proxy is not to be overtaken by somebody else's "no answer".
const PATIENCE: Duration = Duration::from_secs(20);
/// Time to look up a name.
const LOOKUP: Duration = Duration::from_secs(10);
/// Most bytes of the head of a proxy's answer.
const MAX_HEAD: usize = 16 * 1024;
const NO_PROXY: &str = "it does not answer as an HTTP proxy does: is that its port?";

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

/// Why there is no tunnel, in a sentence with what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyError {
    text: String,
    is_for_place: bool,
}

impl ProxyError {
    /// The one in `error`, if it came from a proxy.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The proxy works and takes this program, but does not lead where it was asked to; another port may do.
    pub fn is_for_place(&self) -> bool {
        self.is_for_place
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ProxyError {}

impl Proxy {
    /// Reads `http://[user:password@]host:port`; the error says what is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Parts { credentials, host, port } = proxy::split(text)?;
        let credentials = credentials.map(|text| Secret::new(crate::hub::bag::unescape(text).into_owned()));
        Ok(Self { host: host.to_owned(), port, credentials })
    }
}

impl Way {
    /// Opens a connection to `host`.
    pub async fn open(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let (host, port) = self.address.as_ref().map_or((host, port), |(host, port)| (host.as_str(), *port));
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let by = Instant::now() + PATIENCE;
        let stream = match &self.proxy {
            None => timeout_at(by, self.dial(host, port)).await.map_err(|_| late())??,
            Some(proxy) => {
                let dialled = timeout_at(by, self.dial(&proxy.host, proxy.port)).await.unwrap_or_else(|_| Err(late()));
                let mut stream = dialled.map_err(|error| {
                    let text = format!("no connection to the proxy {}:{}: {error}", proxy.host, proxy.port);
                    io::Error::new(error.kind(), ProxyError { text, is_for_place: false })
                })?;
                let asked = timeout_at(by, proxy.ask(&mut stream, host, port)).await;
                asked.unwrap_or_else(|_| {
                    let why = format!(
                        "it does not answer within {} s; perhaps it waits in vain for {host}:{port} itself",
                        PATIENCE.as_secs()
                    );
                    Err(proxy.error(&why, true))
                })?;
                stream
            }
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Whether the name this way dials for `host` leads anywhere; `None` where that cannot be said here: a proxy looks it
    /// up, or nobody says that there is no such name.
    pub async fn resolves(&self, host: &str) -> Option<bool> {
        if self.proxy.is_some() {
            return None;
        }
        let host = self.address.as_ref().map_or(host, |(host, _)| host);
        match timeout(LOOKUP, lookup_host((host, 0))).await.ok()? {
            Ok(mut addresses) => Some(addresses.next().is_some()),
            Err(error) => is_no_name(&error).then_some(false),
        }
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

/// True where the names' servers say that there is no such name, or none with an address. What they cannot say now is no
/// answer, and the standard library tells the two apart by the words of the system's library only, which are not translated
/// here: those of glibc and musl.
fn is_no_name(error: &io::Error) -> bool {
    let text = error.to_string();
    ["Name or service not known", "No address associated with", "Name does not resolve", "Name has no usable address"]
        .into_iter()
        .any(|words| text.contains(words))
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
        let head = self.head(stream).await?;
        match self.understand(&head, (&host, port)) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// The head of its answer. What follows an error, a page for people, is nobody's business.
    async fn head(&self, stream: &mut TcpStream) -> io::Result<String> {
        let mut head = Vec::new();
        loop {
            let got = stream.read_buf(&mut head).await.map_err(|error| self.error(&error.to_string(), false))?;
            let begins = head.iter().zip(b"HTTP/1.").all(|(got, expect)| got == expect);
            if got == 0 && head.is_empty() {
                return Err(self.error("it closes the connection without an answer", false));
            }
            if got == 0 || !begins || head.len() > MAX_HEAD {
                return Err(self.error(NO_PROXY, false));
            }
            let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") else { continue };
            // The other side of a tunnel is silent until it is greeted: who says more is a web server.
            let made = head.get(9) == Some(&b'2');
            if made && head.len() > end + 4 {
                return Err(self.error(NO_PROXY, false));
            }
            head.truncate(end);
            return Ok(String::from_utf8_lossy(&head).into_owned());
        }
    }

    /// What an answer means; `None` where there is a tunnel.
    fn understand(&self, head: &str, (host, port): (&str, u16)) -> Option<io::Error> {
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().splitn(3, ' ').skip(1);
        let Some(status) = words.next().and_then(|word| word.parse::<u16>().ok()) else {
            return Some(self.error(NO_PROXY, false));
        };
        let said = format!("{status} {}", excerpt(words.next().unwrap_or_default()));
        let said = said.trim_end();
        let place = format!("{host}:{port}");
        let (why, is_for_place) = match status {
            200..300 => return None,
            407 => (self.wants(lines), false),
            400 | 405 | 501 => {
                let why = format!(
                    "it makes no tunnel to {place}: {said}. Is that the port of an HTTP proxy, and may CONNECT go to that port?"
                );
                (why, true)
            }
            502..=504 => {
                let why = format!(
                    "it cannot reach {place} itself: {said}. Look whether it finds the name, and whether its own firewall \
                     lets it out there"
                );
                (why, true)
            }
            300..400 | 511 => (format!("it wants somebody to log in first: {said}. Have this machine exempted"), false),
            _ => (format!("it does not let {place} through: {said}. Have it allowed there for this machine"), true),
        };
        Some(self.error(&why, is_for_place))
    }

    /// What helps against a 407.
    fn wants<'h>(&self, fields: impl Iterator<Item = &'h str>) -> String {
        let asked = fields.filter_map(|line| line.split_once(':'));
        let asked = asked.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authenticate"));
        let schemes: Vec<&str> =
            asked.filter_map(|(_, value)| value.split([' ', ',']).find(|word| !word.is_empty())).collect();
        let takes_basic = schemes.is_empty() || schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
        match (&self.credentials, takes_basic) {
            (_, false) => format!(
                "407, it wants to know who asks, by {}; brownbridge knows Basic only: have Basic allowed there, or this \
                 machine let through without",
                excerpt(&schemes.join(", "))
            ),
            (None, true) => {
                "407, it wants a user name and a password: `proxy` = http://user:password@host:port".to_owned()
            }
            (Some(_), true) => {
                "407, it does not take the user name and password of `proxy`: look at both (in them @ is \
                                %40, : is %3A and % is %25), and whether that account is locked"
                    .to_owned()
            }
        }
    }

    fn error(&self, why: &str, is_for_place: bool) -> io::Error {
        io::Error::other(ProxyError { text: format!("the proxy {}:{}: {why}", self.host, self.port), is_for_place })
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
        const SQUID: &str = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\
                             Content-Length: 6\r\nConnection: keep-alive\r\n\r\n<html>";
        const WINDOWS: &str = "HTTP/1.1 407 Who?\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM\r\n\r\n";
        let endless: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD)).into());
        let me = Some("me:secret");
        for (credentials, answer, expect) in [
            (None, "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", Ok(())),
            (me, "HTTP/1.0 200 OK\r\n\r\n", Ok(())),
            (None, "HTTP/1.1 204\r\n\r\n", Ok(())),
            (None, "HTTP/1.1 407 Who?\r\n\r\n", Err((false, "wants a user name and a password"))),
            (None, SQUID, Err((false, "wants a user name and a password"))),
            (me, SQUID, Err((false, "does not take the user name and password"))),
            (me, WINDOWS, Err((false, "by Negotiate, NTLM; brownbridge knows Basic only"))),
            (
                None,
                "HTTP/1.1 403 Forbidden\r\n\r\n",
                Err((true, "does not let hub.example:8883 through: 403 Forbidden.")),
            ),
            (
                None,
                "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello",
                Err((true, "cannot reach hub.example:8883 itself: 502 Bad Gateway.")),
            ),
            (None, "HTTP/1.1 501\r\n\r\n", Err((true, "makes no tunnel to hub.example:8883: 501."))),
            (None, "HTTP/1.1 302 Found\r\n\r\n", Err((false, "wants somebody to log in"))),
            (None, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Err((false, "as an HTTP proxy does"))),
            (None, "220 mail\r\n", Err((false, "as an HTTP proxy does"))),
            (None, "HTTP/1.1 x\r\n\r\n", Err((false, "as an HTTP proxy does"))),
            (None, "\r\n\r\n", Err((false, "as an HTTP proxy does"))),
            (None, endless, Err((false, "as an HTTP proxy does"))),
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
                (Err(error), Err((is_for_place, expect))) => {
                    assert!(error.to_string().contains(expect), "{answer}: {error}");
                    assert_eq!(
                        ProxyError::within(&error).map(ProxyError::is_for_place),
                        Some(is_for_place),
                        "{answer}"
                    );
                }
                (got, _) => panic!("{answer}: {got:?}"),
            }
            let head = played.await.unwrap();
            assert!(head.starts_with("CONNECT hub.example:8883 HTTP/1.1\r\nHost: hub.example:8883\r\n"), "{head}");
            assert_eq!(head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), authorised, "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port(), credentials: None };
        let way = Way { proxy: Some(proxy), ..Way::default() };
        let error = way.open("hub.example", 8883).await.unwrap_err();
        assert!(error.to_string().contains("does not answer within 20 s; perhaps it waits in vain"), "{error}");
        drop(listener);
        let error = way.open("hub.example", 8883).await.unwrap_err();
        assert!(error.to_string().starts_with("no connection to the proxy 127.0.0.1:"), "{error}");
        assert_eq!(ProxyError::within(&error).map(ProxyError::is_for_place), Some(false));
    }

    #[test]
    fn what_is_said_of_a_name_that_is_not_there() {
        for (text, expect) in [
            ("Name or service not known", true),
            ("No address associated with hostname", true),
            ("Name does not resolve", true),
            ("Name has no usable address", true),
            ("Temporary failure in name resolution", false),
            ("Non-recoverable failure in name resolution", false),
            ("Try again", false),
            ("Unrecoverable error", false),
            ("", false),
        ] {
            let error = io::Error::other(format!("failed to lookup address information: {text}"));
            assert_eq!(is_no_name(&error), expect, "{text}");
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
