//! `csv`: rows of fields become objects, one message a row.
//!
//! The names of the columns are in the first row (`header = true`) or in the rule (`names`). A field in double quotes is
//! text, with `""` for a quote, and may have separators and line ends in it; any other is a number, a truth value or
//! text (`0012` is text), without the white space around it. An empty field is left out. Empty rows are skipped.

use super::{Decoded, ITEM_NAMES, push_guessed, push_key, push_string};
use crate::rules::refusal::{self, Refusal, shown};

/// How the rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Csv {
    pub(in crate::rules) separator: u8,
    /// The names of the columns; none where the first row has them.
    pub(in crate::rules) names: Option<Box<[Box<str>]>>,
    /// Numbers have a decimal comma.
    pub(in crate::rules) comma: bool,
}

/// A field: its text, and whether it was in quotes.
pub(in crate::rules) type Field = (String, bool);

/// Reads rows of RFC 4180, for payloads and for tables in files.
#[derive(Debug)]
pub(in crate::rules) struct Rows<'t> {
    text: &'t str,
    at: usize,
    separator: u8,
    line: usize,
}

impl<'t> Rows<'t> {
    pub(in crate::rules) fn new(text: &'t str, separator: u8) -> Self {
        Self { text, at: 0, separator, line: 1 }
    }

    /// The next row that is not empty, with the line it begins in; `Err` is the line of a quote that is not closed.
    pub(in crate::rules) fn next(&mut self) -> Option<Result<(usize, Vec<Field>), usize>> {
        while self.text.as_bytes().get(self.at).is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            self.line += usize::from(self.text.as_bytes().get(self.at) == Some(&b'\n'));
            self.at += 1;
        }
        if self.at >= self.text.len() {
            return None;
        }
        let line = self.line;
        let mut fields = Vec::new();
        loop {
            match self.field() {
                Some(field) => fields.push(field),
                None => return Some(Err(line)),
            }
            match self.text.as_bytes().get(self.at) {
                Some(byte) if *byte == self.separator => self.at += 1,
                _ => return Some(Ok((line, fields))),
            }
        }
    }

    fn field(&mut self) -> Option<Field> {
        let bytes = self.text.as_bytes();
        let is_end = |byte: u8, separator: u8| byte == separator || matches!(byte, b'\n' | b'\r');
        let mut start = self.at;
        while bytes.get(start) == Some(&b' ') {
            start += 1;
        }
        if bytes.get(start) != Some(&b'"') {
            let rest = bytes.get(self.at..).unwrap_or(&[]);
            let length = rest.iter().position(|byte| is_end(*byte, self.separator)).unwrap_or(rest.len());
            let text = self.text.get(self.at..self.at + length).unwrap_or("").trim();
            self.at += length;
            return Some((text.to_owned(), false));
        }
        let mut text = String::new();
        let mut at = start + 1;
        loop {
            let rest = self.text.get(at..)?;
            let length = rest.find('"')?;
            text.push_str(rest.get(..length)?);
            at += length + 1;
            match bytes.get(at) {
                Some(b'"') => {
                    text.push('"');
                    at += 1;
                }
                _ => break,
            }
        }
        self.line += text.matches('\n').count();
        while bytes.get(at).is_some_and(|byte| !is_end(*byte, self.separator)) {
            at += 1;
        }
        self.at = at;
        Some((text, true))
    }
}

pub(super) fn decode(options: &Csv, payload: &[u8], out: &mut Decoded) -> Result<(), Refusal> {
    let text = refusal::text(payload)?;
    let mut rows = Rows::new(text, options.separator);
    let open = |line| Refusal::undecoded(format!("line {line}: a quoted field has no closing quote"));
    let header: Vec<Box<str>>;
    let names = match &options.names {
        Some(names) => &**names,
        None => {
            header = match rows.next() {
                Some(row) => row.map_err(open)?.1.into_iter().map(|(name, _)| name.into()).collect(),
                None => return Err(Refusal::undecoded("there is no header row, the payload is empty")),
            };
            if let Some(at) = header.iter().position(|name| name.is_empty()) {
                return Err(Refusal::undecoded(format!("column {} of the header row has no name", at + 1)));
            }
            if let Some(name) = twice(header.iter().map(AsRef::as_ref)) {
                return Err(Refusal::undecoded(format!("two columns of the header row are called `{name}`")));
            }
            &*header
        }
    };
    let mut any = false;
    while let Some(row) = rows.next() {
        let (line, fields) = row.map_err(open)?;
        any = true;
        if fields.len() > names.len() {
            let detail = format!(
                "line {line} has {} fields, there are names for {}: {}",
                fields.len(),
                names.len(),
                shown(payload)
            );
            return Err(Refusal::undecoded(detail));
        }
        let start = out.json.len();
        out.json.push(b'{');
        let mut first = true;
        for (name, (field, quoted)) in names.iter().zip(&fields).filter(|(_, (field, _))| !field.is_empty()) {
            push_key(&mut out.json, &mut first, name);
            match quoted {
                true => push_string(&mut out.json, field),
                false => push_guessed(&mut out.json, field, options.comma),
            }
        }
        out.json.push(b'}');
        out.end(start, [""; ITEM_NAMES])?;
    }
    if any || options.names.is_none() {
        return Ok(());
    }
    Err(Refusal::undecoded("there is no row, the payload is empty"))
}

/// A text that is there more than once.
pub(in crate::rules) fn twice<'t>(texts: impl Iterator<Item = &'t str>) -> Option<&'t str> {
    let mut sorted: Vec<&str> = texts.collect();
    sorted.sort_unstable();
    sorted.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::Csv;
    use crate::rules::rule::Decode;

    #[test]
    fn rows() {
        let named = |names: &[&str]| Csv {
            separator: b';',
            names: Some(names.iter().map(|name| (*name).into()).collect()),
            comma: true,
        };
        let header = Csv { separator: b',', names: None, comma: false };
        for (options, payload, expect) in [
            (named(&["a", "b"]), "1,5;x", Ok(vec!["{\"a\":1.5,\"b\":\"x\"}"])),
            (named(&["a", "b"]), "1;2\r\n\r\n3;\n", Ok(vec!["{\"a\":1,\"b\":2}", "{\"a\":3}"])),
            (named(&["a", "b"]), "\"7;\"\"x\"\"\n\" ;true", Ok(vec!["{\"a\":\"7;\\\"x\\\"\\n\",\"b\":true}"])),
            (named(&["a", "b"]), "1;x\0", Ok(vec!["{\"a\":1,\"b\":\"x\"}"])),
            (named(&["a", "b"]), "0012;0,5", Ok(vec!["{\"a\":\"0012\",\"b\":0.5}"])),
            (header.clone(), "\u{feff}a,b\n1,2\n", Ok(vec!["{\"a\":1,\"b\":2}"])),
            (named(&["a"]), "1;2", Err("line 1 has 2 fields, there are names for 1: `1;2`")),
            (named(&["a"]), "1\n\"2", Err("line 2: a quoted field has no closing quote")),
            (named(&["a"]), "\n", Err("there is no row, the payload is empty")),
            (header.clone(), "a, b\n1,2\n", Ok(vec!["{\"a\":1,\"b\":2}"])),
            (header.clone(), "a,b\n", Ok(vec![])),
            (header.clone(), "a,,b\n1,2,3", Err("column 2 of the header row has no name")),
            (header.clone(), "a,b,a\n", Err("two columns of the header row are called `a`")),
            (header, "", Err("there is no header row, the payload is empty")),
        ] {
            check(&Decode::Csv(options), payload.as_bytes(), expect);
        }
    }
}
