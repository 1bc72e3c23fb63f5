//! `kepware`: the tags of a message of KEPServerEX's IoT Gateway, or of one that looks like it.
//!
//! The standard template sends `{"timestamp":..,"values":[{"id":"Channel.Device.Tag","v":..,"q":..,"t":..}]}`; other
//! templates send the list alone or a single tag, or call the keys otherwise ([`Kepware::keys`]). A tag's id is channel,
//! device and the rest; where it has two parts there is no channel, where it has one there is no device either.
//!
//! | split | objects | names |
//! |---|---|---|
//! | none | one: `time`, and each tag by its whole id | |
//! | device | one a device: `time`, and each tag by its name | `tag_channel` `tag_device` |
//! | tag | one a tag: `time` and `value` | `tag_channel` `tag_device` `tag_name` |
//!
//! A tag that comes again, as after an outage of the gateway, begins a further object, so that no value is lost.
//!
//! `time` is RFC 3339: the tag's own with `split = "tag"`; the latest of its tags where an object was followed or
//! preceded by one of the same tags; otherwise that of the message. Times are epoch milliseconds, or text that is taken as it is.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::quality::{Grade, Quality};
use super::{Decoded, push_key, push_texts};
use crate::message::Timestamp;
use crate::rules::json::{self, Kind, Member};
use crate::rules::refusal::{Refusal, not_json, shown};

/// What is wanted of the tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Kepware {
    pub(in crate::rules) split: Split,
    pub(in crate::rules) quality: Quality,
    /// Values of the quality that are good, as JSON, beside those that are by themselves.
    pub(in crate::rules) good: Box<[Box<str>]>,
    pub(in crate::rules) keys: Keys,
}

/// How the keys are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Keys {
    pub(in crate::rules) timestamp: Box<str>,
    pub(in crate::rules) values: Box<str>,
    pub(in crate::rules) id: Box<str>,
    pub(in crate::rules) v: Box<str>,
    pub(in crate::rules) q: Box<str>,
    pub(in crate::rules) t: Box<str>,
}

/// What becomes a message of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rules) enum Split {
    None,
    Device,
    Tag,
}

impl Default for Keys {
    fn default() -> Self {
        let [timestamp, values, id, v, q, t] = ["timestamp", "values", "id", "v", "q", "t"].map(Box::from);
        Self { timestamp, values, id, v, q, t }
    }
}

impl Split {
    /// The names a template may use.
    pub(in crate::rules) fn names(self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Device => &["tag_channel", "tag_device"],
            Self::Tag => &["tag_channel", "tag_device", "tag_name"],
        }
    }
}

/// A tag with its value.
struct Tag<'p> {
    id: Cow<'p, str>,
    value: &'p str,
    good: bool,
    time: Option<&'p str>,
}

impl Tag<'_> {
    /// Channel, device and the rest.
    fn parts(&self) -> [&str; 3] {
        match self.id.split_once('.') {
            None => ["", "", &self.id],
            Some((first, rest)) => match rest.split_once('.') {
                None => ["", first, rest],
                Some((second, rest)) => [first, second, rest],
            },
        }
    }
}

pub(super) fn decode(options: &Kepware, payload: &[u8], out: &mut Decoded) -> Result<(), Refusal> {
    let text = std::str::from_utf8(payload).map_err(|_| not_json(payload, None))?;
    let (mut tags, sent) = read(options, text)?;
    if options.quality == Quality::Good {
        tags.retain(|tag| {
            if !tag.good {
                out.left_out.note(Grade::Bad);
            }
            tag.good
        });
    }
    match options.split {
        Split::None => together(options, &tags, sent, out, |tag| ["", "", &tag.id]),
        Split::Tag => tags.iter().try_for_each(|tag| {
            let parts = tag.parts();
            write(options, &[tag], tag.time.or(sent), out, |_| "value", parts)
        }),
        Split::Device => together(options, &tags, sent, out, Tag::parts),
    }
}

/// The tags of a payload and the time of the message.
fn read<'p>(options: &Kepware, text: &'p str) -> Result<(Vec<Tag<'p>>, Option<&'p str>), Refusal> {
    let mut members = Vec::new();
    let kind = json::scan(text, Some(&mut members)).map_err(|error| not_json(text.as_bytes(), Some(error)))?;
    let field = |key: &str| json::member(text, &members, key);
    match (kind, field(&options.keys.values)) {
        (Kind::Object, Some(list)) if list.starts_with('[') => {
            Ok((list_of(options, list)?, field(&options.keys.timestamp)))
        }
        (Kind::Object, _) if field(&options.keys.id).is_some() => {
            Ok((vec![tag(options, text, &members, 1)?], field(&options.keys.timestamp)))
        }
        (Kind::Array, _) => Ok((list_of(options, text.trim())?, None)),
        _ => {
            let detail = format!(
                "there is no list `{}` of tags in the payload: {}",
                options.keys.values,
                shown(text.as_bytes())
            );
            Err(Refusal::undecoded(detail))
        }
    }
}

fn list_of<'p>(options: &Kepware, list: &'p str) -> Result<Vec<Tag<'p>>, Refusal> {
    let mut members = Vec::new();
    let mut tags = Vec::new();
    for (index, place) in json::elements(list).into_iter().enumerate() {
        let element = list.get(place).unwrap_or("");
        // The list was scanned with the payload, so each element is JSON.
        let _ = json::scan(element, Some(&mut members));
        tags.push(tag(options, element, &members, index + 1)?);
    }
    Ok(tags)
}

fn tag<'p>(options: &Kepware, text: &'p str, members: &[Member], number: usize) -> Result<Tag<'p>, Refusal> {
    let keys = &options.keys;
    let field = |key: &str| json::member(text, members, key);
    let missing = |key: &str| Refusal::undecoded(format!("tag {number} has no `{key}`: {}", shown(text.as_bytes())));
    let id = field(&keys.id).ok_or_else(|| missing(&keys.id))?;
    let id = match json::string(id) {
        Some(id) => id,
        None if !id.starts_with(['{', '[']) => Cow::Borrowed(id),
        None => return Err(missing(&keys.id)),
    };
    let value = field(&keys.v);
    let good = field(&keys.q).is_none_or(|quality| is_good(options, quality));
    match value {
        Some(value) => Ok(Tag { id, value, good, time: field(&keys.t).filter(|time| *time != "null") }),
        // A tag that has an error instead of a value is one of bad quality.
        None if options.quality == Quality::Good => Ok(Tag { id, value: "null", good: false, time: None }),
        None => Err(missing(&keys.v)),
    }
}

/// Good by itself: `true`, "good", and OPC's two quality bits.
fn is_good(options: &Kepware, quality: &str) -> bool {
    let by_itself = match json::string(quality) {
        Some(text) => text.eq_ignore_ascii_case("good"),
        None => quality == "true" || quality.parse().is_ok_and(Grade::is_good_code),
    };
    by_itself || options.good.iter().any(|good| &**good == quality)
}

/// One object for all tags of a channel and device, and a further one wherever a tag of it comes again.
fn together<'t, 'p>(
    options: &Kepware,
    tags: &'t [Tag<'p>],
    sent: Option<&str>,
    out: &mut Decoded,
    parts: impl Fn(&'t Tag<'p>) -> [&'t str; 3],
) -> Result<(), Refusal> {
    let mut latest_group: HashMap<[&str; 2], usize> = HashMap::new();
    let mut seen: HashSet<(usize, &str)> = HashSet::new();
    let mut groups: Vec<([&str; 2], Vec<&Tag<'_>>)> = Vec::new();
    let mut again: HashSet<[&str; 2]> = HashSet::new();
    for tag in tags {
        let [channel, device, name] = parts(tag);
        let whose = [channel, device];
        let group = latest_group.get(&whose).copied().filter(|group| !seen.contains(&(*group, name)));
        let group = group.unwrap_or_else(|| {
            if latest_group.insert(whose, groups.len()).is_some() {
                again.insert(whose);
            }
            groups.push((whose, Vec::new()));
            groups.len() - 1
        });
        seen.insert((group, name));
        if let Some((_, group)) = groups.get_mut(group) {
            group.push(tag);
        }
    }
    for (whose, group) in &groups {
        let own = || latest(group);
        let time = if again.contains(whose) { own().or(sent) } else { sent.or_else(own) };
        let [channel, device] = *whose;
        write(options, group, time, out, |tag| parts(tag)[2], [channel, device, ""])?;
    }
    Ok(())
}

/// The latest time of some tags.
fn latest<'p>(tags: &[&Tag<'p>]) -> Option<&'p str> {
    let by_number = |time: &&str| time.parse::<i64>().unwrap_or(i64::MIN);
    tags.iter().filter_map(|tag| tag.time).max_by_key(by_number)
}

/// Writes the object of some tags, each under its key.
fn write<'t, 'p>(
    options: &Kepware,
    tags: &[&'t Tag<'p>],
    time: Option<&str>,
    out: &mut Decoded,
    key: impl Fn(&'t Tag<'p>) -> &'t str,
    names: [&str; 3],
) -> Result<(), Refusal> {
    let start = out.json.len();
    out.json.push(b'{');
    let mut first = true;
    if let Some(time) = time {
        push_key(&mut out.json, &mut first, "time");
        push_time(&mut out.json, time);
    }
    for tag in tags {
        push_key(&mut out.json, &mut first, key(tag));
        out.json.extend_from_slice(tag.value.as_bytes());
    }
    if options.quality == Quality::Mark && tags.iter().any(|tag| !tag.good) {
        push_key(&mut out.json, &mut first, "bad");
        push_texts(&mut out.json, tags.iter().filter(|tag| !tag.good).map(|tag| key(tag)));
    }
    out.json.push(b'}');
    out.end(start, names)
}

/// Epoch milliseconds as RFC 3339; anything else as it is.
fn push_time(out: &mut Vec<u8>, time: &str) {
    use std::io::Write as _;
    match time.parse::<i64>() {
        // Writing to a Vec cannot fail.
        Ok(ms) if (0..=253_402_300_799_999).contains(&ms) => drop(write!(out, "\"{}\"", Timestamp(ms))),
        _ => out.extend_from_slice(time.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::rules::rule::Decode;

    const TWO: &str = r#"{"timestamp":1690000000000,"values":[
        {"id":"C.D1.a","v":1,"q":true,"t":1690000000001},{"id":"C.D2.b.c","v":"x","q":false,"t":1690000000002},
        {"id":"C.D1.a","v":2,"t":1690000000003}]}"#;

    #[test]
    fn tags() {
        let plain = |split, quality| Kepware { split, quality, good: Box::default(), keys: Keys::default() };
        let siemens = Kepware {
            split: Split::None,
            quality: Quality::Good,
            good: ["3".into()].into(),
            keys: Keys { values: "vals".into(), v: "val".into(), q: "qc".into(), t: "ts".into(), ..Keys::default() },
        };
        let vals =
            r#"{"vals":[{"id":"101","qc":3,"ts":"2021-03-10T22:23:04.146Z","val":80},{"id":"102","qc":1,"val":2}]}"#;
        for (options, payload, expect) in [
            (
                plain(Split::Device, Quality::Keep),
                TWO,
                Ok(vec![
                    r#"{"time":"2023-07-22T04:26:40.001Z","a":1}"#,
                    r#"{"time":"2023-07-22T04:26:40.000Z","b.c":"x"}"#,
                    r#"{"time":"2023-07-22T04:26:40.003Z","a":2}"#,
                ]),
            ),
            (
                plain(Split::Tag, Quality::Good),
                TWO,
                Ok(vec![
                    r#"{"time":"2023-07-22T04:26:40.001Z","value":1}"#,
                    r#"{"time":"2023-07-22T04:26:40.003Z","value":2}"#,
                ]),
            ),
            (
                plain(Split::None, Quality::Mark),
                TWO,
                Ok(vec![
                    r#"{"time":"2023-07-22T04:26:40.002Z","C.D1.a":1,"C.D2.b.c":"x","bad":["C.D2.b.c"]}"#,
                    r#"{"time":"2023-07-22T04:26:40.003Z","C.D1.a":2}"#,
                ]),
            ),
            (
                plain(Split::None, Quality::Good),
                r#"{"timestamp":9,"values":[{"id":"a","v":1,"t":1},{"id":"b","v":2,"t":2},{"id":"a","v":3},{"id":"b","v":4,"t":4},
                    {"id":"a","v":5,"t":5}]}"#,
                Ok(vec![
                    r#"{"time":"1970-01-01T00:00:00.002Z","a":1,"b":2}"#,
                    r#"{"time":"1970-01-01T00:00:00.004Z","a":3,"b":4}"#,
                    r#"{"time":"1970-01-01T00:00:00.005Z","a":5}"#,
                ]),
            ),
            (siemens, vals, Ok(vec![r#"{"time":"2021-03-10T22:23:04.146Z","101":80}"#])),
            (
                plain(Split::Tag, Quality::Good),
                r#"{"id":"271d","v":48.8,"q":true,"t":1659006375584}"#,
                Ok(vec![r#"{"time":"2022-07-28T11:06:15.584Z","value":48.8}"#]),
            ),
            (plain(Split::None, Quality::Good), r#"[{"id":"a.b","v":"123"}]"#, Ok(vec![r#"{"a.b":"123"}"#])),
            (plain(Split::None, Quality::Good), r#"{"values":[{"id":"a","v":1,"q":false}]}"#, Ok(vec![])),
            (plain(Split::None, Quality::Good), r#"{"values":[{"id":"a","error":1}]}"#, Ok(vec![])),
            (plain(Split::None, Quality::Good), "[1]", Err("tag 1 has no `id`: `1`")),
            (plain(Split::None, Quality::Keep), r#"[{"id":"a"}]"#, Err("tag 1 has no `v`: `{\"id\":\"a\"}`")),
            (plain(Split::None, Quality::Keep), "{}", Err("there is no list `values` of tags in the payload: `{}`")),
            (plain(Split::None, Quality::Keep), "{", Err("the payload is not JSON, at byte 2: `{`")),
        ] {
            check(&Decode::Kepware(options), payload.as_bytes(), expect);
        }
    }
}
