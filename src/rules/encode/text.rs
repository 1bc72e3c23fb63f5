//! `keyvalue` and `csv`: members as text.

use super::{Object, Source, push_number, refused};
use crate::rules::decode::csv::Csv;
use crate::rules::decode::keyvalue::KeyValue;
use crate::rules::json;
use crate::rules::number;
use crate::rules::refusal::{Refusal, shown};

pub(super) fn keyvalue(options: &KeyValue, object: &Object<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    if object.members.is_empty() {
        return Err(refused("the body has no members"));
    }
    for (n, member) in object.members.iter().enumerate() {
        let raw = object.text.get(member.key.clone()).unwrap_or("");
        let key = json::unescape(raw);
        let bad = [&*options.separator, &*options.assign, "\n", "\r"].iter().any(|text| key.contains(text));
        if key.is_empty() || bad || key.trim() != key {
            return Err(refused(format!("{} cannot be a key", shown(key.as_bytes()))));
        }
        if n > 0 {
            out.extend_from_slice(options.separator.as_bytes());
        }
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(options.assign.as_bytes());
        let value = object.text.get(member.value.clone()).unwrap_or("");
        let Some(text) = json::string(value) else {
            plain(&key, value, options.comma, out)?;
            continue;
        };
        // Quotes do not hide a separator from the decoder.
        if [&*options.separator, "\n", "\r"].iter().any(|bad| text.contains(bad)) {
            return Err(refused(format!("`{key}` has a separator or a line end in it")));
        }
        let quoted = text.len() > 1 && text.starts_with('"') && text.ends_with('"');
        quote(&text, quoted || is_guessed(&text, options.comma), out);
    }
    Ok(())
}

pub(super) fn csv(options: &Csv, source: Source<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let text = std::str::from_utf8(source.bytes()).unwrap_or("");
    let is_list = text.trim_start().starts_with('[') && json::scan(text, None).is_ok();
    let rows: Vec<Object<'_>> = match is_list {
        false => vec![Object::of(source)?],
        true => json::elements(text)
            .into_iter()
            .map(|row| Object::of(Source::Text(text.get(row).unwrap_or(""))))
            .collect::<Result<_, _>>()?,
    };
    let header: Vec<Box<str>>;
    let names = match (&options.names, rows.first()) {
        (Some(names), _) => &**names,
        (None, None) => return Err(refused("a list without a row has no header")),
        (None, Some(first)) => {
            let keys = first.members.iter().map(|member| first.text.get(member.key.clone()).unwrap_or(""));
            header = keys.map(|key| json::unescape(key).into()).collect();
            for (n, name) in header.iter().enumerate() {
                part(n, options, out);
                field(name, options, out);
            }
            out.push(b'\n');
            &header
        }
    };
    for (n, row) in rows.iter().enumerate() {
        if n > 0 {
            out.push(b'\n');
        }
        for (n, name) in names.iter().enumerate() {
            part(n, options, out);
            let Some(value) = row.get(name) else { continue };
            match json::string(value) {
                Some(text) => field(&text, options, out),
                None => plain(name, value, options.comma, out)?,
            }
        }
    }
    Ok(())
}

fn part(n: usize, options: &Csv, out: &mut Vec<u8>) {
    if n > 0 {
        out.push(options.separator);
    }
}

fn field(text: &str, options: &Csv, out: &mut Vec<u8>) {
    let special = |byte: u8| byte == options.separator || matches!(byte, b'"' | b'\n' | b'\r');
    let quoted = text.bytes().any(special) || is_guessed(text, options.comma);
    match quoted {
        true => quote(&text.replace('"', "\"\""), true, out),
        false => quote(text, false, out),
    }
}

/// Text that a decoder would take for something else, or trim.
fn is_guessed(text: &str, comma: bool) -> bool {
    let number = number::push_with_decimal(text, comma, &mut Vec::new());
    number || matches!(text, "true" | "false") || text.trim() != text || text.ends_with('\0')
}

fn quote(text: &str, quoted: bool, out: &mut Vec<u8>) {
    let marks = if quoted { &b"\""[..] } else { b"" };
    out.extend_from_slice(marks);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(marks);
}

/// A number or a truth value.
fn plain(name: &str, value: &str, comma: bool, out: &mut Vec<u8>) -> Result<(), Refusal> {
    match value {
        "true" | "false" => out.extend_from_slice(value.as_bytes()),
        _ if value.starts_with(['{', '[', 'n']) => {
            return Err(refused(format!("`{name}` is {}, and no plain value", shown(value.as_bytes()))));
        }
        _ => push_number(value, comma, out)?,
    }
    Ok(())
}
