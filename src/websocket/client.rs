//! The client's side: asks a server for MQTT over WebSocket, and understands whoever answers something else.
//!
//! On the way out of a plant that is often not the server at all: a proxy that wants a password, a portal that wants
//! somebody to log in, a firewall's page. An answer that is no `101 Switching Protocols` is therefore told with its
//! status and what to do about it, and what comes after a good answer is checked as RFC 6455 demands.

use std::fmt;
use std::io;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, LOCATION, PROXY_AUTHENTICATE, SERVER};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::{Request, generate_key};

use super::{WebSocket, config};
use crate::hub::broken::in_words;
use crate::message::excerpt;

/// Why there is no WebSocket.
#[derive(Debug)]
pub enum NotUpgraded {
    /// An HTTP answer that is no upgrade.
    Answered {
        /// Its status.
        status: StatusCode,
        /// Where it sends to.
        location: Option<String>,
        /// How who answers calls itself.
        server: Option<String>,
        /// It is a proxy that asks who we are.
        is_proxy: bool,
    },
    /// It is no HTTP server, or breaks the rules of the upgrade.
    Protocol(String),
    /// The line broke.
    Io(io::Error),
}

impl fmt::Display for NotUpgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the line broke before the WebSocket was there: {}", in_words(error)),
            Self::Protocol(why) => write!(
                f,
                "it answers, but not as a server of MQTT over WebSocket does ({why}): something on the way may change \
                 what is sent; ask for an exemption from inspection for this name"
            ),
            Self::Answered { status, location, server, is_proxy } => {
                write!(f, "instead of a WebSocket came the HTTP answer {status}")?;
                if let Some(server) = server {
                    write!(f, " of {:?}", excerpt(server))?;
                }
                if let Some(location) = location {
                    write!(f, ", which sends to {:?}", excerpt(location))?;
                }
                write!(f, ": {}", fix(*status, *is_proxy))
            }
        }
    }
}

impl std::error::Error for NotUpgraded {}

/// What to do about a status.
fn fix(status: StatusCode, is_proxy: bool) -> &'static str {
    match status.as_u16() {
        407 => {
            "a proxy on the way wants to know who asks: set `proxy = \"http://user:password@host:port\"` in [uplink]"
        }
        _ if is_proxy => "a proxy on the way wants to know who asks: set `proxy` in [uplink]",
        300..=399 => {
            "a portal or proxy on the way wants somebody to log in first: ask for an exemption of this machine and name"
        }
        401 | 403 | 451 => {
            "a firewall or proxy on the way, or an IP filter of the server, does not let this machine through: ask for \
             WebSocket to this name to be let through, and look at the hub's networking page"
        }
        404 | 405 | 410 => {
            "there is no MQTT over WebSocket at this path: is it the right server? For `kind = \"mqtt\"` look at \
             `websocket_path`"
        }
        400 | 426 | 501 => {
            "it does not take the upgrade to a WebSocket: a proxy on the way may have removed it; ask for an exemption \
             from inspection for this name"
        }
        429 | 502..=504 => "it is too busy, or what is behind it does not answer: it is tried again",
        500..=599 => "an error inside the server: it is tried again",
        _ => "who answers is a web server, perhaps a portal on the way: look at it with a browser or curl",
    }
}

/// Asks for a WebSocket over `stream`. `host` as the header says it, with the port where it is not the usual one.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    (host, path): (&str, &str),
    max_packet_size: usize,
) -> Result<WebSocket<S>, NotUpgraded> {
    let request = Request::builder()
        .uri(format!("wss://{host}{path}"))
        .header("Host", host)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", generate_key())
        .header("Sec-WebSocket-Protocol", "mqtt")
        .body(())
        .map_err(|error| NotUpgraded::Protocol(error.to_string()))?;
    let asked = client_async_with_config(request, stream, Some(config(max_packet_size))).await;
    let (frames, _) = asked.map_err(understand)?;
    Ok(WebSocket::new(frames))
}

fn understand(error: Error) -> NotUpgraded {
    match error {
        Error::Io(error) => NotUpgraded::Io(error),
        Error::Protocol(ProtocolError::HandshakeIncomplete) => NotUpgraded::Io(io::ErrorKind::UnexpectedEof.into()),
        Error::Http(answer) => {
            let (status, headers) = (answer.status(), answer.headers());
            NotUpgraded::Answered {
                status,
                location: text(headers, LOCATION),
                server: text(headers, SERVER),
                is_proxy: headers.contains_key(PROXY_AUTHENTICATE),
            }
        }
        other => NotUpgraded::Protocol(other.to_string()),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::frame::coding::CloseCode};

    use super::*;

    /// Reads a request; `{accept}` in the answer is what the key demands.
    async fn play(mut stream: DuplexStream, answer: &str) -> (DuplexStream, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let answer = answer.replace("{accept}", &derive_accept_key(key.as_bytes()));
        stream.write_all(answer.as_bytes()).await.unwrap();
        (stream, head)
    }

    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

    #[tokio::test]
    async fn whoever_answers_is_understood() {
        let other = |from: &str, to: &str| GOOD.replace(from, to);
        for (answer, expect) in [
            (GOOD.to_owned(), ""),
            (other("Connection: Upgrade", "connection: upgrade"), ""),
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".into(), "407 Proxy Authentication Required: a proxy"),
            ("HTTP/1.1 403 Forbidden\r\nServer: Zscaler\r\n\r\n".into(), "403 Forbidden of \"Zscaler\": a firewall"),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://portal.plant/login\r\n\r\n".into(),
                "302 Found, which sends to \"http://portal.plant/login\": a portal",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".into(), "200 OK: who answers is a web server"),
            ("HTTP/1.1 404 Not Found\r\n\r\n".into(), "`websocket_path`"),
            ("HTTP/1.1 426 Upgrade Required\r\n\r\n".into(), "may have removed it"),
            ("HTTP/1.1 503 Busy\r\n\r\n".into(), "tried again"),
            ("HTTP/1.1 511 Network Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n".into(), "`proxy`"),
            (other("Sec-WebSocket-Protocol: mqtt\r\n", ""), "not as a server of MQTT"),
            (other("Protocol: mqtt", "Protocol: AMQPWSB10"), "not as a server of MQTT"),
            (other("{accept}", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "not as a server of MQTT"),
            (other("Upgrade: websocket", "Upgrade: h2c"), "not as a server of MQTT"),
            ("HTTP/1.0 200 OK\r\n\r\n".into(), "not as a server of MQTT"),
            ("SSH-2.0-OpenSSH\r\n\r\n".into(), "not as a server of MQTT"),
            (String::new(), "before the WebSocket was there"),
        ] {
            let (near, far) = tokio::io::duplex(4096);
            let played = async {
                let (stream, head) = play(far, &answer).await;
                if answer.contains("101") { (Some(stream), head) } else { (None, head) }
            };
            let asked = ask(near, ("hub.example", "/$iothub/websocket?a=b"), 1024);
            let (asked, (_stream, head)) = tokio::join!(asked, played);
            match asked {
                Ok(_) => assert_eq!(expect, "", "{answer}"),
                Err(why) => {
                    let why = why.to_string();
                    assert!(!expect.is_empty() && why.contains(expect), "{answer}: {why}");
                }
            }
            assert!(head.starts_with("GET /$iothub/websocket?a=b HTTP/1.1\r\nHost: hub.example\r\n"), "{head}");
            assert!(head.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn frames_of_any_cut_are_one_stream_and_its_end_is_told() {
        let part = |bytes: &'static [u8], code, last| {
            Message::Frame(Frame::message(Bytes::from_static(bytes), OpCode::Data(code), last))
        };
        let close = |code, reason: &'static str| Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        for (frames, read, goodbye) in [
            (vec![Message::binary(&b"abc"[..]), Message::binary(&b"de"[..])], "abcde", None),
            (
                vec![
                    part(b"a", Data::Binary, false),
                    Message::Ping(Bytes::from_static(b"there?")),
                    part(b"b", Data::Continue, false),
                    Message::Pong(Bytes::new()),
                    part(b"", Data::Continue, false),
                    part(b"c", Data::Continue, true),
                    close(CloseCode::Restart, ""),
                ],
                "abc",
                Some("close code 1012: the server restarts"),
            ),
            (
                vec![close(CloseCode::Policy, "idle"), Message::binary(&b"late"[..])],
                "",
                Some("close code 1008 \"idle\": a policy"),
            ),
            (vec![Message::Close(None)], "", Some("no close code")),
            (vec![close(CloseCode::Library(4001), "gone")], "", Some("close code 4001 \"gone\"")),
        ] {
            let (near, far) = tokio::io::duplex(4096);
            let server = async {
                let (stream, _) = play(far, GOOD).await;
                let mut server = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                for frame in frames.clone() {
                    // Nothing may follow a close frame; a server that writes on is not our matter.
                    let _ = server.send(frame).await;
                }
                let pong = match frames.iter().any(Message::is_ping) {
                    true => server.next().await,
                    false => None,
                };
                let _ = server.into_inner().shutdown().await;
                pong
            };
            let client = async {
                let mut client = ask(near, ("h", "/"), 1024).await.unwrap();
                let mut got = Vec::new();
                // Where it hangs up without a close frame that is an error, after all there was to read.
                let _ = client.read_to_end(&mut got).await;
                (String::from_utf8(got).unwrap(), client.goodbye().get().map(ToString::to_string))
            };
            let (pong, (got, said)) = tokio::join!(server, client);
            assert_eq!(got, read);
            assert_eq!(said.is_some(), goodbye.is_some(), "{said:?}");
            let said = said.unwrap_or_default();
            assert!(said.starts_with(goodbye.unwrap_or("")), "{said}");
            if let Some(pong) = pong {
                assert_eq!(pong.unwrap(), Message::Pong(Bytes::from_static(b"there?")));
            }
        }
    }

    #[tokio::test]
    async fn text_and_giants_end_it() {
        for frame in [Message::text("CONNECT"), Message::binary(vec![0; 70_000])] {
            let (near, far) = tokio::io::duplex(128 * 1024);
            let server = async {
                let (stream, _) = play(far, GOOD).await;
                let mut server = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                server.send(frame).await.unwrap();
                server
            };
            let client = async {
                let mut client = ask(near, ("h", "/"), 1024).await.unwrap();
                client.read_u8().await.unwrap_err()
            };
            let (_, error) = tokio::join!(server, client);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
