//! `time`: the moment a message is of, read from its payload.
//!
//! A device's clock is believed within reason. A moment before [`OLDEST`], where clocks stand that were never set, or
//! further ahead of the receipt than `max_ahead`, or further behind it than `max_age` where the rule has one, is not
//! taken: the message then has the time it was received, and the [`Doubt`] is told.

use std::fmt;

use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use super::json;
use super::template::Facts;
use crate::message::Timestamp;

/// 2015-01-01: what controllers say after a reset (1970, 1980, 1990, 2000, 2010, 2012) is before it.
const OLDEST: i64 = 1_420_070_400_000;

/// 2100-01-01: a number of our days is before it, and in any other unit is not.
const NEWEST: i64 = 4_102_444_800_000;

/// How far ahead a clock may be where the rule says nothing, in milliseconds.
pub(super) const MAX_AHEAD: i64 = 10 * 60_000;

/// Where the time is and how it is written.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    pub(super) from: Box<[Box<str>]>,
    pub(super) format: Format,
    /// For times that do not say theirs.
    pub(super) zone: TimeZone,
    /// Milliseconds.
    pub(super) max_ahead: i64,
    pub(super) max_age: Option<i64>,
}

/// How a time is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// Since 1970, in this many units a second.
    Unix { per_second: u32 },
    /// Or ISO 8601 without an offset, which is then in the zone of the rule.
    Rfc3339,
    /// With the conversions of strftime.
    Pattern(Box<str>),
}

/// Why the payload's time is not the message's, and what it looks like where that is another format than the rule's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The payload has none.
    Missing,
    /// It is not written as the rule says.
    Unreadable(Option<Look>),
    /// It is before 2015, or older than the rule's `max_age`.
    TooOld(Option<Look>),
    /// It is ahead of the time of receipt.
    Ahead(Option<Look>),
}

/// A number that would be a moment of our days in another format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    number: i64,
    format: &'static str,
}

impl Look {
    /// What a text looks like, if it is not what the rule says it is.
    fn of(text: &str, format: &Format) -> Option<Self> {
        let number = text.parse().ok()?;
        let all = [("unix_s", 1), ("unix_ms", 1_000), ("unix_us", 1_000_000), ("unix_ns", 1_000_000_000)];
        let (name, per_second) = all
            .into_iter()
            .find(|(_, per_second)| unix(text, *per_second).is_some_and(|ms| (OLDEST..NEWEST).contains(&ms)))?;
        (*format != Format::Unix { per_second }).then_some(Self { number, format: name })
    }
}

impl Doubt {
    /// As a fixed word, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable(_) => "unreadable",
            Self::TooOld(_) => "too_old",
            Self::Ahead(_) => "ahead",
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, look) = match self {
            Self::Missing => ("the payload has no time", None),
            Self::Unreadable(look) => ("the payload's time is not written as the rule says", *look),
            Self::TooOld(Some(look)) => ("the payload's time is too old as the rule reads it", Some(*look)),
            Self::TooOld(None) => ("the payload's time is too old: the device's clock may not be set", None),
            Self::Ahead(Some(look)) => ("the payload's time is in the future as the rule reads it", Some(*look)),
            Self::Ahead(None) => {
                ("the payload's time is in the future: the device's clock or the zone may be wrong", None)
            }
        };
        f.write_str(text)?;
        look.iter().try_for_each(|Look { number, format }| write!(f, ": {number} looks like format = \"{format}\""))
    }
}

impl Clock {
    /// The moment a payload is of.
    pub(super) fn read(&self, facts: &Facts<'_>) -> Result<Timestamp, Doubt> {
        let received = facts.publish.received;
        let value = facts.field(&self.from).filter(|value| *value != "null").ok_or(Doubt::Missing)?;
        let text = json::string(value);
        let text = text.as_deref().unwrap_or(value).trim();
        let look = || Look::of(text, &self.format);
        let ms = self.parse(text).ok_or_else(|| Doubt::Unreadable(look()))?;
        match () {
            () if ms < OLDEST => Err(Doubt::TooOld(look())),
            () if self.max_age.is_some_and(|age| ms < received.0.saturating_sub(age)) => Err(Doubt::TooOld(look())),
            () if ms > received.0.saturating_add(self.max_ahead) => Err(Doubt::Ahead(look())),
            () => Ok(Timestamp(ms)),
        }
    }

    /// Milliseconds since 1970.
    fn parse(&self, text: &str) -> Option<i64> {
        match &self.format {
            Format::Unix { per_second } => unix(text, *per_second),
            Format::Rfc3339 => match text.parse::<jiff::Timestamp>() {
                Ok(moment) => Some(moment.as_millisecond()),
                Err(_) => self.in_zone(text.parse().ok()?),
            },
            Format::Pattern(pattern) => {
                let time = strtime::parse(pattern.as_bytes(), text).ok()?;
                match time.to_timestamp() {
                    Ok(moment) => Some(moment.as_millisecond()),
                    Err(_) => self.in_zone(time.to_datetime().ok()?),
                }
            }
        }
    }

    /// Where clocks are put back, the first of the two moments.
    fn in_zone(&self, time: DateTime) -> Option<i64> {
        Some(self.zone.to_zoned(time).ok()?.timestamp().as_millisecond())
    }
}

fn unix(text: &str, per_second: u32) -> Option<i64> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(match i64::from(per_second) {
            1 => whole.checked_mul(1000)?,
            per_second => whole.div_euclid(per_second / 1000),
        });
    }
    let ms = text.parse::<f64>().ok()? * 1000.0 / f64::from(per_second);
    // The range of years 1 to 9999, which an i64 has room for.
    #[expect(clippy::cast_possible_truncation)]
    (-6.3e13..=2.6e14).contains(&ms).then(|| ms.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publish;

    fn clock(format: Format, zone: &str) -> Clock {
        let zone = jiff::tz::TimeZoneDatabase::bundled().get(zone).unwrap();
        Clock { from: ["t".into()].into(), format, zone, max_ahead: MAX_AHEAD, max_age: Some(86_400_000 * 365) }
    }

    #[test]
    fn times() {
        let pattern = |text: &str| Format::Pattern(text.into());
        let unix = |per_second| Format::Unix { per_second };
        let looks = |number, format| Some(Look { number, format });
        // Received at 2026-01-01T00:00:00Z.
        for (format, zone, value, expect) in [
            (unix(1000), "UTC", "1767225599999", Ok("2025-12-31T23:59:59.999Z")),
            (unix(1000), "UTC", "\"1767225599999\"", Ok("2025-12-31T23:59:59.999Z")),
            (unix(1), "UTC", "1767225599", Ok("2025-12-31T23:59:59.000Z")),
            (unix(1), "UTC", "1767225599.25", Ok("2025-12-31T23:59:59.250Z")),
            (unix(1_000_000), "UTC", "1767225599123456", Ok("2025-12-31T23:59:59.123Z")),
            (Format::Rfc3339, "UTC", "\"2025-12-31T23:00:00+01:00\"", Ok("2025-12-31T22:00:00.000Z")),
            (Format::Rfc3339, "Europe/Berlin", "\"2025-07-01T12:00:00\"", Ok("2025-07-01T10:00:00.000Z")),
            (Format::Rfc3339, "Europe/Berlin", "\"2025-10-26T02:30:00\"", Ok("2025-10-26T00:30:00.000Z")),
            (pattern("%d.%m.%Y %H:%M:%S"), "Europe/Berlin", "\"31.12.2025 12:00:00\"", Ok("2025-12-31T11:00:00.000Z")),
            (pattern("%Y%m%d%H%M%S%z"), "Europe/Berlin", "\"20251231120000+0000\"", Ok("2025-12-31T12:00:00.000Z")),
            (unix(1000), "UTC", "1767225599", Err(Doubt::TooOld(looks(1_767_225_599, "unix_s")))),
            (unix(1), "UTC", "1767225599999", Err(Doubt::Ahead(looks(1_767_225_599_999, "unix_ms")))),
            (Format::Rfc3339, "UTC", "1690000000000", Err(Doubt::Unreadable(looks(1_690_000_000_000, "unix_ms")))),
            (pattern("%d.%m.%Y"), "UTC", "\"1690000000\"", Err(Doubt::Unreadable(looks(1_690_000_000, "unix_s")))),
            (unix(1), "UTC", "2008", Err(Doubt::TooOld(None))),
            (unix(1), "UTC", "1700000000", Err(Doubt::TooOld(None))),
            (unix(1), "UTC", "1767225900", Ok("2026-01-01T00:05:00.000Z")),
            (unix(1), "UTC", "1767229200", Err(Doubt::Ahead(None))),
            (unix(1), "UTC", "1e300", Err(Doubt::Unreadable(None))),
            (unix(1), "UTC", "9223372036854775807", Err(Doubt::Unreadable(None))),
            (Format::Rfc3339, "UTC", "\"1970-01-01T00:33:28\"", Err(Doubt::TooOld(None))),
            (Format::Rfc3339, "UTC", "\"soon\"", Err(Doubt::Unreadable(None))),
            (Format::Rfc3339, "UTC", "null", Err(Doubt::Missing)),
            (Format::Rfc3339, "UTC", "{}", Err(Doubt::Unreadable(None))),
        ] {
            let text = format!("{{\"t\":{value}}}");
            let mut members = Vec::new();
            json::scan(&text, Some(&mut members)).unwrap();
            let received = Timestamp(1_767_225_600_000);
            let publish =
                Publish { topic: "t", payload: b"", client: "c", user: None, qos: 1, retain: false, received };
            let facts = Facts {
                publish: &publish,
                captures: &[],
                more: [&[], &[]],
                row: &[],
                time: received,
                text: &text,
                members: &members,
            };
            let read = clock(format.clone(), zone).read(&facts).map(|time| time.to_string());
            assert_eq!(read, expect.map(str::to_owned), "{format:?} {zone} {value}");
        }
    }
}
