//! The clock of this machine beside that of a service, as the `Date` of its HTTP answers tells it.
//!
//! Tokens are made by the one clock and judged by the other. What is refused because of that is refused as a wrong key
//! is, so whoever is refused compares the clocks before anything else is blamed.

use jiff::fmt::rfc2822;

use super::limits::CLOCK_SKEW_SECS;
use crate::message::Timestamp;

/// Of the provisioning service, for [`Skew::explain`].
pub const THE_SERVICES: &str = "the provisioning service's";

/// How many seconds this machine is ahead of a service; negative: behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew(pub i64);

impl Skew {
    /// Of this machine, which says `now`, to a service that says `theirs`, in seconds since 1970.
    pub fn between(now: Timestamp, theirs: i64) -> Self {
        Self(now.as_secs().saturating_sub(theirs))
    }

    /// More than a hub lets pass.
    pub fn is_wrong(self) -> bool {
        self.0.unsigned_abs() > CLOCK_SKEW_SECS.unsigned_abs()
    }

    /// A sentence. `whose` is the clock compared with: "the hub's".
    pub fn explain(self, whose: &str) -> String {
        if !self.is_wrong() {
            return format!("the clock of this machine is not the reason, it agrees with {whose}");
        }
        let side = if self.0 > 0 { "ahead of" } else { "behind" };
        let span = span(self.0.unsigned_abs());
        format!("the clock of this machine is {span} {side} {whose}: set it (timedatectl, chrony)")
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The `Date` of an answer's head, in seconds since 1970.
pub fn date_in(head: &str) -> Option<i64> {
    let mut lines = head.lines();
    if !lines.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let mut fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let (_, date) = fields.find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    date_of(date)
}

/// The value of a `Date` field, in seconds since 1970.
pub fn date_of(value: &str) -> Option<i64> {
    // Some say GMT where RFC 2822 wants an offset; both are read.
    let date = rfc2822::DateTimeParser::new().parse_timestamp(value.trim()).ok()?;
    Some(date.as_second())
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
            assert_eq!(date_in(head).map(|theirs| Skew::between(now, theirs).0), expect, "{head:?}");
        }
    }

    #[test]
    fn skews_in_words() {
        for (ahead, expect) in [
            (0, "agrees with the hub's"),
            (-300, "agrees with the hub's"),
            (301, "5 min ahead of the hub's"),
            (-7_200, "2 h behind the hub's"),
            (172_800, "2 days ahead of the hub's"),
            (i64::MIN, "behind"),
        ] {
            let text = Skew(ahead).explain("the hub's");
            assert!(text.contains(expect), "{text}");
        }
    }
}
