//! Compares the clock of this machine with the hub's.
//!
//! A hub refuses a token of a wrong clock with the same CONNACK 5 as a wrong key. Its HTTPS side tells the time in the
//! `Date` header of any answer. So after a refusal, and only then, it is asked once every [`AGAIN`]: one TLS connection
//! with the same roots, to port 443 of the hub's name, or to `address` where one is set. No answer is no finding.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::fmt::rfc2822;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Target;
use crate::hub::limits::CLOCK_SKEW_SECS;
use crate::message::Timestamp;

/// How long a finding holds.
const AGAIN: Duration = Duration::from_secs(600);
/// Time for the whole question.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an answer's head.
const MAX_HEAD: usize = 16 * 1024;
const HTTPS: u16 = 443;

/// The difference to the hub's clock, asked for when it matters.
#[derive(Debug, Default)]
pub(super) struct Clock {
    asked: Option<(Instant, Option<i64>)>,
}

/// What a clock says about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// This machine is so many seconds ahead; negative: behind. Tokens are refused.
    Wrong(i64),
    /// Both clocks tell the same time: the refusal has another reason.
    Right,
}

impl Finding {
    fn of(ahead: i64) -> Self {
        if ahead.unsigned_abs() > CLOCK_SKEW_SECS.unsigned_abs() { Self::Wrong(ahead) } else { Self::Right }
    }

    /// A sentence.
    pub(super) fn explain(self) -> String {
        match self {
            Self::Wrong(ahead) => {
                let side = if ahead > 0 { "ahead of" } else { "behind" };
                format!(
                    "the clock of this machine is {} {side} the hub's: set it (timedatectl, chrony), tokens are \
                     refused until then",
                    span(ahead.unsigned_abs())
                )
            }
            Self::Right => "the clock of this machine is not the reason, it agrees with the hub's".to_owned(),
        }
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl Clock {
    /// Asks the hub, or remembers what it said.
    pub(super) async fn compare(&mut self, target: &Target) -> Option<Finding> {
        if self.asked.is_none_or(|(at, _)| at.elapsed() > AGAIN) {
            let ahead = tokio::time::timeout(PATIENCE, ask(target)).await;
            self.asked = Some((Instant::now(), ahead.ok().and_then(Result::ok).flatten()));
        }
        self.asked.and_then(|(_, ahead)| ahead).map(Finding::of)
    }
}

/// How many seconds this machine is ahead of the hub.
async fn ask(target: &Target) -> io::Result<Option<i64>> {
    let Target::Hub(hub) = target else { return Ok(None) };
    let (name, _) = target.server();
    let stream = hub.way.open(name, HTTPS).await?;
    let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(Arc::clone(&hub.tls)).connect(server, stream).await?;
    stream.write_all(format!("HEAD / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while head.len() < MAX_HEAD && memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(ahead_of(&String::from_utf8_lossy(&head), Timestamp::now()))
}

/// How many seconds `now` is ahead of the `Date` in an HTTP head.
fn ahead_of(head: &str, now: Timestamp) -> Option<i64> {
    let mut lines = head.lines();
    if !lines.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let (_, date) = fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    // Some say GMT where RFC 2822 wants an offset; both are read.
    let date = rfc2822::DateTimeParser::new().parse_timestamp(date.trim()).ok()?;
    Some(now.as_secs() - date.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer() {
        let now = Timestamp(1_767_225_600_000);
        for (head, expect) in [
            ("HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n", Some(0)),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\ndate: Thu, 01 Jan 2026 00:00:07 GMT\r\n", Some(-7)),
            ("HTTP/1.1 200 OK\r\nDate: Tue, 30 Dec 2025 00:00:00 GMT\r\n\r\n", Some(172_800)),
            ("HTTP/1.1 200 OK\r\n\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n", None),
            ("HTTP/1.1 200 OK\r\nDate: yesterday\r\n\r\n", None),
            (" \x02\0\0", None),
            ("", None),
        ] {
            assert_eq!(ahead_of(head, now), expect, "{head:?}");
        }
    }

    #[test]
    fn findings_in_words() {
        for (ahead, expect) in [
            (0, "agrees"),
            (-300, "agrees"),
            (301, "5 min ahead of"),
            (-7_200, "2 h behind"),
            (172_800, "2 days ahead of"),
            (i64::MIN, "behind"),
        ] {
            let text = Finding::of(ahead).explain();
            assert!(text.contains(expect), "{text}");
        }
    }
}
