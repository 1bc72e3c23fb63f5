//! The key `decode`: how the payload is read.

use toml::de::DeValue;

use super::read_binary;
use crate::diag::nearest;
use crate::diag::walk::{Entry, Reader, Report, Text, text};
use crate::rules::decode::coding::Coding;
use crate::rules::decode::csv::{Csv, twice};
use crate::rules::decode::encoding::Encoding;
use crate::rules::decode::kepware::{Kepware, Keys, Split};
use crate::rules::decode::keyvalue::KeyValue;
use crate::rules::decode::quality::Quality;
use crate::rules::decode::sparkplug::Sparkplug;
use crate::rules::rule::Decode;

pub(super) const FORMATS: [&str; 12] =
    ["json", "text", "number", "raw", "keyvalue", "csv", "hex", "base64", "binary", "kepware", "sparkplug", "xml"];

/// What stands before the fraction of a number, and whether it is a comma.
pub(super) const DECIMALS: [(&str, bool); 2] = [(".", false), (",", true)];

/// What text is written in; nothing for UTF-8.
pub(super) const ENCODINGS: [(&str, Option<Encoding>); 4] = [
    ("utf-8", None),
    ("latin1", Some(Encoding::Latin1)),
    ("utf-16le", Some(Encoding::Utf16Le)),
    ("utf-16be", Some(Encoding::Utf16Be)),
];

/// What bytes can be written as.
pub(super) const CODINGS: [&str; 2] = ["hex", "base64"];

pub(super) const SPLITS: [(&str, Split); 3] = [("none", Split::None), ("device", Split::Device), ("tag", Split::Tag)];

pub(super) const QUALITIES: [(&str, Quality); 3] =
    [("good", Quality::Good), ("keep", Quality::Keep), ("mark", Quality::Mark)];

/// Reads a format: its name alone, or a table with its options.
pub(super) fn read(entry: &Entry<'_>, report: &mut Report<'_>) -> Option<Decode> {
    read_nested(entry, true, report)
}

/// True where a format with mistakes would bring names if it had none.
pub(super) fn brings_names(entry: &Entry<'_>) -> bool {
    let format = entry.value.get_ref().as_table().and_then(|table| table.get("format"));
    format.is_some_and(|format| matches!(format.get_ref(), DeValue::String(name) if name == "kepware"))
}

/// `outer` is false for what `then` says.
fn read_nested<'a>(entry: &Entry<'a>, outer: bool, report: &mut Report<'_>) -> Option<Decode> {
    let DeValue::Table(table) = entry.value.get_ref() else {
        let name = text(entry, report)?;
        return match plain(name.value) {
            Some(decode) => Some(decode),
            None => without_options(entry.key, &name, report),
        };
    };
    let mut keys = Reader::new(table, "decode");
    let Some(name) = keys.any("format") else {
        let found = report.new_error("unknown-format", "`decode` does not say which format");
        report.push(found.at(entry.value.span(), "no `format`").help("decode = { format = \"json\" }"));
        return None;
    };
    let name = text(&name, report)?;
    let before = report.found.len();
    let decode = match name.value {
        "json" => Some(Decode::Json),
        "text" => Some(Decode::Text),
        "number" => Some(Decode::Number { comma: decimal(&mut keys, report) }),
        "raw" => raw(&mut keys, report),
        "keyvalue" => keyvalue(&mut keys, report),
        "csv" => csv(&mut keys, &name, report),
        "hex" => coded(Coding::Hex, &mut keys, outer, report),
        "base64" => coded(Coding::Base64, &mut keys, outer, report),
        "binary" => read_binary::read(&mut keys, &name, report),
        "kepware" => kepware(&mut keys, report),
        "sparkplug" => {
            let rebirth = keys.boolean("rebirth", report).is_some_and(|(rebirth, _)| rebirth);
            Some(Decode::Sparkplug(Sparkplug { rebirth, quality: quality(&mut keys, report) }))
        }
        other => match plain(other) {
            Some(decode) => Some(decode),
            None => {
                unknown(&name, report);
                return None;
            }
        },
    };
    let encoding = match name.value {
        "json" | "text" | "number" | "keyvalue" | "csv" => encoding(&mut keys, report),
        _ => None,
    };
    let decode = match encoding {
        Some(encoding) => decode.map(|decode| Decode::Encoded(encoding, Box::new(decode))),
        None => decode,
    };
    keys.finish(report);
    let sound = !report.found.iter().skip(before).any(|found| found.is_error());
    decode.filter(|_| sound)
}

/// The formats that need no options, without them.
pub(super) fn plain(name: &str) -> Option<Decode> {
    Some(match name {
        "json" => Decode::Json,
        "text" => Decode::Text,
        "number" => Decode::Number { comma: false },
        "raw" => Decode::Raw,
        "keyvalue" => Decode::KeyValue(KeyValue::default()),
        "hex" => Decode::Coded(Coding::Hex, None),
        "base64" => Decode::Coded(Coding::Base64, None),
        "kepware" => Decode::Kepware(Kepware {
            split: Split::None,
            quality: Quality::Good,
            good: Box::default(),
            keys: Keys::default(),
        }),
        "sparkplug" => Decode::Sparkplug(Sparkplug::default()),
        "xml" => Decode::Xml,
        _ => return None,
    })
}

/// A format that cannot be without its options, or that is none.
fn without_options(key: &str, name: &Text<'_>, report: &mut Report<'_>) -> Option<Decode> {
    let example = match name.value {
        "csv" => "{ format = \"csv\", separator = \";\", header = true }",
        "binary" => "{ format = \"binary\", fields = [ { name = \"temp\", type = \"f32\" } ] }",
        _ => {
            unknown(name, report);
            return None;
        }
    };
    let title = format!("`{}` needs to know more", name.value);
    report.push(report.new_error("bad-decode", title).at(name.span(), "").help(format!("{key} = {example}")));
    None
}

fn unknown(name: &Text<'_>, report: &mut Report<'_>) {
    let found = report.new_error("unknown-format", format!("unknown format `{}`", name.value)).at(name.span(), "");
    report.push(match nearest(name.value, FORMATS) {
        Some(meant) => found.fix(name.span(), format!("\"{meant}\"")),
        None => found.help(format!("formats: {}", FORMATS.join(", "))),
    });
}

/// True where numbers have a decimal comma.
fn decimal(keys: &mut Reader<'_>, report: &mut Report<'_>) -> bool {
    keys.word("decimal", &DECIMALS, "unknown-word", report).unwrap_or(false)
}

fn encoding(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Option<Encoding> {
    let name = keys.string("encoding", report)?;
    if let Some((_, encoding)) = ENCODINGS.iter().find(|(word, _)| *word == name.value) {
        return *encoding;
    }
    let found = report.new_error("unknown-word", format!("`encoding` cannot be `{}`", name.value));
    let found = found.at(name.span(), "");
    let elsewhere = Encoding::named(name.value).map(|encoding| encoding.map_or("utf-8", Encoding::word));
    let words = || ENCODINGS.iter().map(|(word, _)| *word);
    report.push(match elsewhere.or_else(|| nearest(name.value, words())) {
        Some(meant) => found.fix(name.span(), format!("\"{meant}\"")),
        None => found.help(format!("encoding = \"{}\"", words().collect::<Vec<_>>().join("\" or \""))),
    });
    None
}

fn quality(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Quality {
    keys.word("quality", &QUALITIES, "unknown-word", report).unwrap_or(Quality::Good)
}

fn raw(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Option<Decode> {
    let Some(coding) = keys.string("as", report) else { return Some(Decode::Raw) };
    match coding.value {
        "base64" => return Some(Decode::RawBase64),
        "hex" => return Some(Decode::RawHex),
        _ => {}
    }
    let found = report.new_error("unknown-format", format!("`as` cannot be `{}`", coding.value));
    let meant = nearest(coding.value, CODINGS).unwrap_or("base64");
    report.push(found.at(coding.span(), "").fix(coding.span(), format!("\"{meant}\"")));
    None
}

fn coded<'a>(coding: Coding, keys: &mut Reader<'a>, outer: bool, report: &mut Report<'_>) -> Option<Decode> {
    let Some(then) = keys.any("then") else { return Some(Decode::Coded(coding, None)) };
    if !outer {
        report.error("bad-decode", "bytes are written as text once, not twice", then.key_span, "");
        return None;
    }
    Some(Decode::Coded(coding, Some(Box::new(read_nested(&then, false, report)?))))
}

fn keyvalue(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Option<Decode> {
    let mut options = KeyValue::default();
    for (key, place) in [("separator", &mut options.separator), ("assign", &mut options.assign)] {
        let Some(text) = keys.string(key, report) else { continue };
        if text.value.is_empty() {
            report.error("bad-decode", format!("`{key}` cannot be empty"), text.span(), "");
        }
        *place = text.value.into();
    }
    options.comma = decimal(keys, report);
    if options.comma && [&options.separator, &options.assign].iter().any(|text| text.contains(',')) {
        let place = keys.any("decimal").map_or(0..0, |entry| entry.value.span());
        report.error("bad-decode", "a comma cannot both part pairs and be in numbers", place, "");
    }
    Some(Decode::KeyValue(options))
}

fn csv<'a>(keys: &mut Reader<'a>, name: &Text<'_>, report: &mut Report<'_>) -> Option<Decode> {
    let mut separator = b',';
    if let Some(text) = keys.string("separator", report) {
        match text.value.as_bytes() {
            [one] if !matches!(one, b'"' | b'\n' | b'\r') => separator = *one,
            _ => report.error(
                "bad-decode",
                "`separator` is one character",
                text.span(),
                "one of , ; | or a tab: \"\\t\"",
            ),
        }
    }
    let comma = decimal(keys, report);
    if comma && separator == b',' {
        let place = keys.any("decimal").map_or(0..0, |entry| entry.value.span());
        let found = report.new_error("bad-decode", "a comma cannot both part fields and be in numbers");
        report.push(found.at(place, "").help("separator = \";\""));
    }
    let header = keys.boolean("header", report);
    let columns = keys.strings("names", report);
    match (&columns, header) {
        (Some(_), Some((true, span))) => {
            report.error("bad-decode", "the names are in `names` or in the first row, not both", span, "one too many");
        }
        (None, None | Some((false, _))) => {
            let found = report.new_error("bad-decode", "the columns have no names").at(name.span(), "");
            report.push(found.help("names = [\"time\", \"temp\"], or header = true where the first row has them"));
        }
        _ => {}
    }
    for column in columns.iter().flatten().filter(|column| column.value.is_empty()) {
        report.error("bad-decode", "a column needs a name", column.span(), "");
    }
    let texts = || columns.iter().flatten().map(|column| column.value);
    if let Some(again) = twice(texts())
        && let Some(place) = columns.iter().flatten().rfind(|column| column.value == again)
    {
        report.error("bad-decode", format!("two columns are called `{again}`"), place.span(), "again");
    }
    let names = columns.is_some().then(|| texts().map(Box::from).collect());
    Some(Decode::Csv(Csv { separator, names, comma }))
}

fn kepware<'a>(keys: &mut Reader<'a>, report: &mut Report<'_>) -> Option<Decode> {
    let split = keys.word("split", &SPLITS, "unknown-word", report).unwrap_or(Split::None);
    let quality = quality(keys, report);
    let mut names = Keys::default();
    if let Some((table, _)) = keys.table("keys", report) {
        let mut keys = Reader::new(table, "keys");
        for (key, place) in [
            ("timestamp", &mut names.timestamp),
            ("values", &mut names.values),
            ("id", &mut names.id),
            ("v", &mut names.v),
            ("q", &mut names.q),
            ("t", &mut names.t),
        ] {
            if let Some(text) = keys.string(key, report) {
                *place = text.value.into();
            }
        }
        keys.finish(report);
    }
    let mut good = Vec::new();
    if let Some(entry) = keys.any("good") {
        let one = std::slice::from_ref(entry.value);
        let list = entry.value.get_ref().as_array().map_or(one, |list| list.as_ref());
        for value in list {
            match value.get_ref() {
                DeValue::Integer(number) => good.push(number.as_str().into()),
                DeValue::Boolean(flag) => good.push(flag.to_string().into()),
                DeValue::String(text) => good.push(serde_json::Value::from(text.as_ref()).to_string().into()),
                _ => report.error("wrong-type", "a quality is a number, a text, true or false", value.span(), ""),
            }
        }
    }
    Some(Decode::Kepware(Kepware { split, quality, good: good.into(), keys: names }))
}
