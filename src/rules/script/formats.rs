//! `@csv` and its like, and times: texts out of values, and values out of texts.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use jaq_core::native::{Filter, bome, unary, v};
use jaq_core::{Error, RunPtr, ValR};
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use super::functions::Data;
use super::value::{Val, spend};

/// Those that are told in terms of others.
pub(super) const DEFINITIONS: &str = "
def @json: tojson;
def @html: tostring | escape_html;
def @uri: tostring | encode_uri;
def @base64d: tostring | decode_base64;
def @csv: separated(\",\");
def @tsv: separated(\"\\t\");
def ascii: [.] | implode;
";

/// The longest format of a time.
const MAX_FORMAT: usize = 200;

/// Those that are written here.
pub(super) fn funs() -> Vec<Filter<RunPtr<Data>>> {
    vec![
        ("encode_base64", v(0), |cv| bome(cv.1.as_text().map(|text| Val::from(STANDARD.encode(text.as_bytes()))))),
        ("decode_base64", v(0), |cv| bome(decode_base64(&cv.1))),
        ("escape_html", v(0), |cv| bome(cv.1.as_text().map(|text| escape(text, html)))),
        ("encode_uri", v(0), |cv| bome(cv.1.as_text().map(|text| Val::from(uri(text))))),
        ("separated", v(1), |cv| unary(cv, |value, by| separated(&value, by.as_text()?))),
        ("implode", v(0), |cv| bome(implode(&cv.1))),
        ("todateiso8601", v(0), |cv| bome(format_time(&cv.1, "%Y-%m-%dT%H:%M:%SZ"))),
        ("fromdateiso8601", v(0), |cv| bome(parse_time(&cv.1))),
        ("strftime", v(1), |cv| unary(cv, |value, format| format_time(&value, format.as_text()?))),
        ("strptime", v(1), |cv| unary(cv, |value, format| read_time(&value, format.as_text()?))),
        ("gmtime", v(0), |cv| bome(moment(&cv.1).map(broken_down))),
        ("mktime", v(0), |cv| bome(mktime(&cv.1))),
    ]
}

fn decode_base64(value: &Val) -> ValR<Val> {
    let text = value.as_text()?;
    let bytes = STANDARD_NO_PAD.decode(text.trim_end_matches('='));
    let text = bytes.ok().map(String::from_utf8);
    match text {
        Some(Ok(text)) => Ok(Val::from(text)),
        Some(Err(_)) => Err(Error::str(format_args!("what {value} decodes to is no text"))),
        None => Err(Error::str(format_args!("{value} is not base64"))),
    }
}

fn escape(text: &str, with: impl Fn(char) -> Option<&'static str>) -> Val {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match with(c) {
            Some(instead) => escaped.push_str(instead),
            None => escaped.push(c),
        }
    }
    Val::from(escaped)
}

fn html(c: char) -> Option<&'static str> {
    Some(match c {
        '<' => "&lt;",
        '>' => "&gt;",
        '&' => "&amp;",
        '\'' => "&#39;",
        '"' => "&quot;",
        _ => return None,
    })
}

fn uri(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A row of CSV or TSV.
fn separated(value: &Val, by: &str) -> ValR<Val> {
    let Val::List(list) = value else { return Err(Error::typ(value.clone(), "array")) };
    let mut row = String::new();
    for (index, item) in list.items.iter().enumerate() {
        if index > 0 {
            row.push_str(by);
        }
        match item {
            Val::Null => {}
            Val::Text(text) if by == "," => {
                if !spend(text.len()) {
                    return Err(Error::new(Val::Null));
                }
                row.push('"');
                row.push_str(&text.replace('"', "\"\""));
                row.push('"');
            }
            Val::Text(_) => {
                for c in item.as_text()?.chars() {
                    match c {
                        '\t' => row.push_str("\\t"),
                        '\n' => row.push_str("\\n"),
                        '\r' => row.push_str("\\r"),
                        '\\' => row.push_str("\\\\"),
                        c => row.push(c),
                    }
                }
            }
            Val::List(_) | Val::Object(_) => {
                return Err(Error::str(format_args!("{item} cannot be in a row")));
            }
            other => row.push_str(&other.to_json()?),
        }
    }
    Ok(Val::from(row))
}

fn implode(value: &Val) -> ValR<Val> {
    let Val::List(list) = value else { return Err(Error::typ(value.clone(), "array")) };
    if !spend(list.items.len()) {
        return Err(Error::new(Val::Null));
    }
    let character = |item: &Val| match item {
        Val::Int(point) => u32::try_from(*point).ok().and_then(char::from_u32),
        _ => None,
    };
    let text: Option<String> = list.items.iter().map(character).collect();
    text.map(Val::from).ok_or_else(|| Error::str("these are no numbers of characters"))
}

/// What a number of seconds, or a time in its parts, is.
fn moment(value: &Val) -> Result<DateTime, Error<Val>> {
    let wrong = || Error::str(format_args!("{value} is no time"));
    if let Val::List(parts) = value {
        let part = |at: usize| parts.items.get(at).and_then(Val::as_number).unwrap_or(0.0);
        #[expect(clippy::cast_possible_truncation, reason = "what does not fit is refused")]
        let whole = |at: usize| part(at).clamp(-1e4, 1e4) as i16;
        let small = |number: i16| i8::try_from(number).map_err(|_| wrong());
        #[expect(clippy::cast_possible_truncation, reason = "less than a second")]
        let nanoseconds = (part(5).fract() * 1e9) as i32;
        let (month, day) = (small(whole(1).saturating_add(1))?, small(whole(2))?);
        let (hour, minute, second) = (small(whole(3))?, small(whole(4))?, small(whole(5))?);
        return DateTime::new(whole(0), month, day, hour, minute, second, nanoseconds).map_err(|_| wrong());
    }
    let seconds = value.as_number().ok_or_else(|| Error::typ(value.clone(), "number"))?;
    // The range of years 0 to 9999.
    #[expect(clippy::cast_possible_truncation)]
    let ms = (-6.2e10..=2.5e11).contains(&seconds).then(|| (seconds * 1000.0).floor() as i64);
    let moment = ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).ok_or_else(wrong)?;
    Ok(TimeZone::UTC.to_datetime(moment))
}

/// A time in its parts: year, month from 0, day, hour, minute, seconds, weekday from Sunday as 0, day of the year from 0.
fn broken_down(time: DateTime) -> Val {
    let seconds = f64::from(time.second()) + f64::from(time.subsec_nanosecond()) / 1e9;
    let whole = |number: i16| Val::Int(isize::from(number));
    Val::list(vec![
        whole(time.year()),
        whole(i16::from(time.month()) - 1),
        whole(i16::from(time.day())),
        whole(i16::from(time.hour())),
        whole(i16::from(time.minute())),
        Val::number(seconds),
        whole(i16::from(time.weekday().to_sunday_zero_offset())),
        whole(time.day_of_year() - 1),
    ])
}

fn mktime(value: &Val) -> ValR<Val> {
    let Val::List(_) = value else { return Err(Error::typ(value.clone(), "array")) };
    let zoned = moment(value)?.to_zoned(TimeZone::UTC);
    let second = zoned.map(|zoned| zoned.timestamp().as_second());
    let second = second.ok().and_then(|second| isize::try_from(second).ok());
    second.map(Val::Int).ok_or_else(|| Error::str(format_args!("{value} is no time")))
}

fn format_time(value: &Val, format: &str) -> ValR<Val> {
    let moment = moment(value)?;
    let format = if format.len() > MAX_FORMAT { "" } else { format };
    let written = moment.to_zoned(TimeZone::UTC).and_then(|zoned| strtime::format(format, &zoned));
    written.map(Val::from).map_err(|error| Error::str(format_args!("`{format}` is no format of time: {error}")))
}

/// A text by a format, in UTC: what has an offset of its own is moved there.
fn read_time(value: &Val, format: &str) -> ValR<Val> {
    let text = value.as_text()?;
    let read = strtime::parse(if format.len() > MAX_FORMAT { "" } else { format }, &**text);
    let time = read.ok().and_then(|time| match time.to_timestamp() {
        Ok(moment) => Some(TimeZone::UTC.to_datetime(moment)),
        Err(_) => time.to_datetime().or_else(|_| time.to_date().map(DateTime::from)).ok(),
    });
    time.map(broken_down).ok_or_else(|| Error::str(format_args!("{value} is no time of the format \"{format}\"")))
}

fn parse_time(value: &Val) -> ValR<Val> {
    let moment = value.as_text()?.parse::<jiff::Timestamp>();
    #[expect(clippy::cast_precision_loss)]
    match moment {
        Ok(moment) => Ok(Val::from(moment.as_millisecond() as f64 / 1000.0)),
        Err(_) => Err(Error::str(format_args!("{value} is no time"))),
    }
}
