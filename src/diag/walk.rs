//! Reads typed values out of a parsed TOML file, with the place of each.
//!
//! A [`Reader`] is opened on a table and asked for keys by name; what is there with another type, and
//! what was never asked for, becomes a finding in the [`Report`]. The keys a reader was asked for are
//! the keys the program knows, so there is no second list of names to keep in step.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Diagnostic, Span, may_be_secret, nearest};

/// The findings about one file.
#[derive(Debug)]
pub struct Report<'s> {
    /// Index of the file into the source files.
    pub file: usize,
    /// The text of the file.
    pub text: &'s str,
    /// What was found so far.
    pub found: Vec<Diagnostic>,
}

impl<'s> Report<'s> {
    /// An empty report about a file.
    pub fn new(file: usize, text: &'s str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    /// Adds an error with its place.
    pub fn error(&mut self, code: &'static str, title: impl Into<String>, span: Span, label: impl Into<String>) {
        self.push(Diagnostic::error(code, title, self.file).at(span, label));
    }

    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// An error to be completed and [pushed](Self::push).
    pub fn new_error(&self, code: &'static str, title: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, title, self.file)
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, want: Want) {
        let title = format!("`{key}` must be {}", want.in_words());
        let found =
            self.new_error("wrong-type", title).at(value.span(), format!("this is {}", type_name(value.get_ref())));
        let word = self.text.get(value.span()).unwrap_or("");
        let found = match (want, value.get_ref()) {
            _ if may_be_secret(key) => found.help("put it in quotes"),
            (Want::Text, DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)) => {
                match key {
                    // A size or a duration needs its unit too.
                    "name" | "device" | "client" | "payload" => found.fix(value.span(), format!("\"{word}\"")),
                    _ => found.help("put it in quotes"),
                }
            }
            (Want::Flag, DeValue::String(text)) if matches!(text.as_ref(), "true" | "false") => {
                found.fix(value.span(), text.as_ref())
            }
            (Want::Whole, DeValue::String(text)) if text.parse::<i64>().is_ok() => {
                found.fix(value.span(), text.as_ref())
            }
            _ => found.help(want.example(key)),
        };
        self.push(found);
    }
}

/// What a value must be.
#[derive(Debug, Clone, Copy)]
enum Want {
    Text,
    Flag,
    Whole,
    Texts,
    Table,
    Tables,
}

impl Want {
    fn in_words(self) -> &'static str {
        match self {
            Self::Text => "text in quotes",
            Self::Flag => "true or false",
            Self::Whole => "a whole number",
            Self::Texts => "a list of texts",
            Self::Table => "a table",
            Self::Tables => "a list of tables",
        }
    }

    /// A line with a right value.
    fn example(self, key: &str) -> String {
        match (self, key) {
            (Self::Text, "topic") => "one topic for each rule: topic = \"plant1/{line}/{machine}\"".to_owned(),
            (Self::Text, "device") => "device = \"{machine}\"".to_owned(),
            (Self::Text, _) => format!("{key} = \"text\""),
            (Self::Flag, _) => format!("{key} = true"),
            (Self::Whole, _) => format!("{key} = 10"),
            (Self::Texts, _) => format!("{key} = [\"a\", \"b\"]"),
            (Self::Table, _) => match inline(key) {
                Some(example) => format!("{key} = {example}"),
                None => format!("write [{key}] on a line of its own, and its keys below it"),
            },
            (Self::Tables, _) => match inline_list(key) {
                Some(example) => format!("{key} = {example}"),
                None => format!("write [[{key}]] on a line of its own, and its keys below it"),
            },
        }
    }
}

/// A right table for a key that stands inside of another one, where a line `[key]` would begin a table of the file.
fn inline(key: &str) -> Option<&'static str> {
    Some(match key {
        "add" | "props" => "{ site = \"plant1\" }",
        "want" => "{ device = \"press7\" }",
        "time" => "{ from = \".ts\", format = \"unix_ms\" }",
        "batch" => "{ max_wait = \"10s\" }",
        "aggregate" => "{ every = \"1m\", fields = { temp = \"mean\" } }",
        "fields" => "{ temp = \"mean\", state = \"last\" }",
        "pivot" => "{ name = \"{signal}\", max_wait = \"2s\" }",
        "report_by_exception" => "{ field = \"temp\", change = 0.5 }",
        "lookup" => "{ table = \"sensors\", key = \"{channel}\" }",
        "default" => "{ machine = \"unknown\" }",
        "set" => "{ temp_f = \".temp * 1.8 + 32\" }",
        "scale" => "{ level = { from = [4, 20], to = [0, 150] } }",
        "rename" => "{ temp = \"temperature\" }",
        "keys" => "{ values = \"values\", id = \"id\", v = \"v\" }",
        "command" => "{ device = \"press7\", payload = \"12\" }",
        _ => return None,
    })
}

/// The same for keys with a list of tables.
fn inline_list(key: &str) -> Option<&'static str> {
    Some(match key {
        "want" => "[{ device = \"press7\" }, { device = \"press8\" }]",
        "send" => "[{ payload = \"1\" }, { payload = \"2\", at = \"10s\" }]",
        "fields" => "[{ name = \"temp\", type = \"f32\" }]",
        _ => return None,
    })
}

/// A string with its place.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The string itself, escapes resolved.
    pub value: &'a str,
    start: usize,
    end: usize,
}

impl<'a> Text<'a> {
    /// A string that is known to stand at `span`.
    pub fn new(value: &'a str, span: &Span) -> Self {
        Self { value, start: span.start, end: span.end }
    }

    /// The whole string in the file, with its quotes.
    pub fn span(&self) -> Span {
        self.start..self.end
    }

    /// The place of a part of the string. Where escapes make the two differ, the whole string.
    pub fn part(&self, source: &str, part: Span) -> Span {
        self.exact_part(source, part).unwrap_or(self.span())
    }

    /// The place of a part of the string; none where escapes make the two differ. Only this may be replaced.
    pub fn exact_part(&self, source: &str, part: Span) -> Option<Span> {
        let quote = self.start + source.get(self.span())?.find(self.value)?;
        Some(quote + part.start..quote + part.end)
    }
}

/// A key with its value.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a str,
    /// The place of the key.
    pub key_span: Span,
    /// The value with its place.
    pub value: &'a Spanned<DeValue<'a>>,
}

/// A table being read.
#[derive(Debug)]
pub struct Reader<'a> {
    table: &'a DeTable<'a>,
    what: &'a str,
    asked: Vec<&'a str>,
    unoffered: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    /// Opens a table; `what` names it in messages: ``unknown key `x` in <what>``.
    pub fn new(table: &'a DeTable<'a>, what: &'a str) -> Self {
        Self { table, what, asked: Vec::new(), unoffered: Vec::new() }
    }

    /// Any value.
    pub fn any(&mut self, key: &'a str) -> Option<Entry<'a>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.entry(key)
    }

    /// Any value of a key that is known but not offered: neither listed nor suggested to anybody.
    pub fn unoffered(&mut self, key: &'a str) -> Option<Entry<'a>> {
        self.unoffered.push(key);
        self.entry(key)
    }

    fn entry(&self, key: &str) -> Option<Entry<'a>> {
        let (name, value) = self.table.get_key_value(key)?;
        Some(Entry { key: name.get_ref(), key_span: name.span(), value })
    }

    /// A string.
    pub fn string(&mut self, key: &'a str, report: &mut Report<'_>) -> Option<Text<'a>> {
        let entry = self.any(key)?;
        text(&entry, report)
    }

    /// `true` or `false`, with its place.
    pub fn boolean(&mut self, key: &'a str, report: &mut Report<'_>) -> Option<(bool, Span)> {
        let entry = self.any(key)?;
        let found = entry.value.get_ref().as_bool();
        if found.is_none() {
            report.wrong_type(key, entry.value, Want::Flag);
        }
        Some((found?, entry.value.span()))
    }

    /// A whole number, with its place.
    pub fn integer(&mut self, key: &'a str, report: &mut Report<'_>) -> Option<(i64, Span)> {
        let entry = self.any(key)?;
        let number = entry.value.get_ref().as_integer();
        let found = number.and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
        match (number, found) {
            (_, Some(_)) => {}
            (Some(_), None) => {
                let title = format!("`{key}` is too large");
                report.error("wrong-type", title, entry.value.span(), "does not fit 64 bits");
            }
            (None, None) => report.wrong_type(key, entry.value, Want::Whole),
        }
        Some((found?, entry.value.span()))
    }

    /// One of a few words, as what it stands for; another word is a finding with this code.
    pub fn word<T: Copy>(
        &mut self,
        key: &'a str,
        choices: &[(&'static str, T)],
        code: &'static str,
        report: &mut Report<'_>,
    ) -> Option<T> {
        let text = self.string(key, report)?;
        let found = choices.iter().find(|(word, _)| *word == text.value).map(|(_, choice)| *choice);
        if found.is_none() {
            let title = format!("`{key}` cannot be `{}`", text.value);
            let told = report.new_error(code, title).at(text.span(), "");
            let words = || choices.iter().map(|(word, _)| *word);
            report.push(match nearest(text.value, words()) {
                Some(meant) => told.fix(text.span(), format!("\"{meant}\"")),
                None => told.help(format!("{key} = \"{}\"", words().collect::<Vec<_>>().join("\" or \""))),
            });
        }
        found
    }

    /// The strings of a list, with the place of each; none where the key is not there.
    pub fn strings(&mut self, key: &'a str, report: &mut Report<'_>) -> Option<Vec<Text<'a>>> {
        let entry = self.any(key)?;
        let Some(list) = entry.value.get_ref().as_array() else {
            report.wrong_type(key, entry.value, Want::Texts);
            return None;
        };
        let texts = list.iter().filter_map(|value| text(&Entry { value, ..entry.clone() }, report));
        Some(texts.collect())
    }

    /// A table, with its place.
    pub fn table(&mut self, key: &'a str, report: &mut Report<'_>) -> Option<(&'a DeTable<'a>, Span)> {
        let entry = self.any(key)?;
        let found = entry.value.get_ref().as_table();
        if found.is_none() {
            report.wrong_type(key, entry.value, Want::Table);
        }
        Some((found?, entry.value.span()))
    }

    /// The tables of `[[key]]`, or of an array of inline tables; empty where there are none.
    pub fn tables(&mut self, key: &'a str, report: &mut Report<'_>) -> Vec<(&'a DeTable<'a>, Span)> {
        let Some(entry) = self.any(key) else { return Vec::new() };
        let Some(array) = entry.value.get_ref().as_array() else {
            let title = match inline_list(key) {
                Some(_) => format!("`{key}` must be {}", Want::Tables.in_words()),
                None => format!("`{key}` must be written `[[{key}]]`"),
            };
            let found = report.new_error("wrong-type", title);
            let found = match entry.value.get_ref() {
                DeValue::Table(_) => found.at(entry.key_span, "one pair of brackets is missing"),
                other => found.at(entry.value.span(), format!("this is {}", type_name(other))),
            };
            report.push(found.help(Want::Tables.example(key)));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for value in array.iter() {
            match value.get_ref().as_table() {
                Some(table) => tables.push((table, value.span())),
                None => report.wrong_type(key, value, Want::Tables),
            }
        }
        tables
    }

    /// Reports every key that was never asked for, and returns the keys that those most likely mean: who misses one
    /// of them need not say so again.
    pub fn finish(self, report: &mut Report<'_>) -> Vec<&'a str> {
        #[cfg(test)]
        tests::note(self.what, &self.asked);
        let mut mistyped = Vec::new();
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) || self.unoffered.contains(&name) {
                continue;
            }
            let title = format!("unknown key `{name}` in {}", self.what);
            let found = report.new_error("unknown-key", title).at(key.span(), "not a key this program knows");
            let free = self.asked.iter().copied().filter(|asked| self.table.get(*asked).is_none());
            let meant = nearest(name, free);
            mistyped.extend(meant);
            report.push(match meant {
                Some(meant) => found.fix(key.span(), meant),
                None => found.help(format!("known keys: {}", self.asked.join(", "))),
            });
        }
        mistyped
    }
}

/// The string of an entry; anything else is a finding.
pub fn text<'a>(entry: &Entry<'a>, report: &mut Report<'_>) -> Option<Text<'a>> {
    let span = entry.value.span();
    match entry.value.get_ref() {
        DeValue::String(value) => Some(Text { value, start: span.start, end: span.end }),
        _ => {
            report.wrong_type(entry.key, entry.value, Want::Text);
            None
        }
    }
}

/// What a value is, in words.
pub fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
pub(crate) use tests::note_keys;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    type Asked = BTreeMap<String, BTreeSet<String>>;

    thread_local! {
        static ASKED: RefCell<Option<Asked>> = const { RefCell::new(None) };
    }

    /// The keys that are asked for while `read` runs, by the kind of table.
    pub(crate) fn note_keys(read: impl FnOnce()) -> Asked {
        ASKED.set(Some(Asked::new()));
        read();
        ASKED.take().unwrap()
    }

    pub(super) fn note(what: &str, asked: &[&str]) {
        ASKED.with_borrow_mut(|noted| {
            if let Some(noted) = noted {
                noted.entry(what.to_owned()).or_default().extend(asked.iter().map(|key| (*key).to_owned()));
            }
        });
    }

    #[test]
    fn typed_values_and_what_is_told_about_others() {
        for (text, integer, boolean, told) in [
            ("i = 1_000\nb = true", Some(1000), Some(true), vec![]),
            ("i = -0\nb = false", Some(0), Some(false), vec![]),
            ("i = 0x1F", Some(31), None, vec![]),
            ("i = 99999999999999999999", None, None, vec!["`i` is too large"]),
            ("i = 1.5\nb = 1", None, None, vec!["`i` must be a whole number", "`b` must be true or false"]),
            ("j = 1", None, None, vec!["unknown key `j` in the file"]),
        ] {
            let table = DeTable::parse(text).unwrap();
            let mut report = Report::new(0, text);
            let mut keys = Reader::new(table.get_ref(), "the file");
            assert_eq!(keys.integer("i", &mut report).map(|(value, _)| value), integer, "{text}");
            assert_eq!(keys.boolean("b", &mut report).map(|(value, _)| value), boolean, "{text}");
            keys.finish(&mut report);
            assert_eq!(report.found.iter().map(|found| found.title.as_str()).collect::<Vec<_>>(), told, "{text}");
        }
    }

    #[test]
    fn a_part_of_a_text_is_found_behind_any_quote() {
        for (text, expect) in [
            ("k = \"a{x}\"", "x"),
            ("k = 'a{x}'", "x"),
            ("k = \"\"\"\na{x}\"\"\"", "x"),
            ("k = \"\\u0061{x}\"", "\"\\u0061{x}\""),
        ] {
            let table = DeTable::parse(text).unwrap();
            let mut report = Report::new(0, text);
            let value = Reader::new(table.get_ref(), "the file").string("k", &mut report).unwrap();
            assert_eq!(text.get(value.part(text, 2..3)), Some(expect), "{text}");
        }
    }
}
