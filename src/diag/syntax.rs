//! Parses TOML and tells its syntax errors in words.
//!
//! A TOML parser says what token it expected; the person at the machine forgot a quote. So the line of
//! each error is looked at first for the mistakes people make, and the parser's own words are the
//! fallback. A line gets one finding: what follows from it is not told again.

use toml::Spanned;
use toml::de::DeTable;

use super::walk::Report;
use super::{Diagnostic, Span};

/// Parses the text of the report's file. The table is there only where the syntax is right: half a table would
/// lead to findings that vanish with the syntax error.
pub fn parse<'s>(report: &mut Report<'s>) -> Option<Spanned<DeTable<'s>>> {
    let (table, errors) = DeTable::parse_recoverable(report.text);
    let mut lines = Vec::new();
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let line = line_of(report.text, span.start);
        if !lines.contains(&line) {
            let found = in_words(report, &line, span, error.message());
            report.push(found);
            lines.push(line);
        }
    }
    errors.is_empty().then_some(table)
}

/// The line around a byte offset, without its line end.
fn line_of(text: &str, at: usize) -> Span {
    let at = text.floor_char_boundary(at.min(text.len()));
    let (before, after) = text.split_at(at);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let end = at + after.find('\n').unwrap_or(after.len());
    let end = if text.get(start..end).is_some_and(|line| line.ends_with('\r')) { end - 1 } else { end };
    start..end
}

fn in_words(report: &Report<'_>, line: &Span, span: Span, message: &str) -> Diagnostic {
    let syntax = |title: &str| report.new_error("toml-syntax", title);
    let text = report.text.get(line.clone()).unwrap_or("");
    if message.contains("multi-line") {
        let before = report.text.get(..span.start).unwrap_or("");
        let open = before.rfind("\"\"\"").max(before.rfind("'''"));
        return syntax("the closing quotes are missing").at(open.map_or(span, |at| at..at + 3), "opened here");
    }
    if message.contains("duplicate key") {
        return syntax("this key is there twice").at(span, "keep one of them");
    }
    if let Some(header) = text.trim_end().strip_prefix("[[")
        && !header.ends_with("]]")
        && header.trim_end_matches(']').chars().all(is_key)
    {
        let fixed = format!("[[{}]]", header.trim_end_matches(']'));
        return syntax("a bracket is missing").at(line.clone(), "").fix(line.clone(), fixed);
    }
    if let Some(value) = value_of(text) {
        let start = line.start + value.start;
        let value = text.get(value).unwrap_or("");
        let place = start..start + value.len();
        if is_unquoted(value) {
            return syntax("text must be in quotes").at(place.clone(), "").fix(place, format!("\"{value}\""));
        }
        if let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\''))
            && value.matches(quote).count() == 1
        {
            let end = place.end;
            return syntax("the closing quote is missing").at(place, "").fix(end..end, quote);
        }
        if message.contains("escape") {
            return syntax("a backslash in double quotes has a meaning of its own")
                .at(span, message)
                .help("write the text in single quotes, they leave a backslash alone: '\\d+'");
        }
    }
    if message.contains("expected `=`")
        && let Some((key, value)) = text.split_once(':')
        && key.trim().chars().all(is_key)
    {
        let fixed = format!("{} ={value}", key.trim_end());
        return syntax("a key and its value are joined by `=`").at(line.clone(), "").fix(line.clone(), fixed);
    }
    syntax("this is not valid TOML").at(span, message)
}

/// The place of the value in a line `key = value`, without what surrounds it.
fn value_of(line: &str) -> Option<Span> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    if key.is_empty() || !key.chars().all(is_key) {
        return None;
    }
    let start = line.len() - value.trim_start().len();
    Some(start..start + value.trim().len())
}

fn is_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// True for a word without quotes, also one that begins with a placeholder such as `{line}`.
fn is_unquoted(value: &str) -> bool {
    let plain = |c: char| !matches!(c, '"' | '\'' | '=' | '[' | ']' | ',') && !c.is_control();
    let number = value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-')) && !value.contains('/');
    !value.is_empty() && !number && !matches!(value, "true" | "false") && value.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_in_words() {
        for (text, title, fix) in [
            ("a = plant1/{line}/temp", "text must be in quotes", Some("\"plant1/{line}/temp\"")),
            ("a = {line}", "text must be in quotes", Some("\"{line}\"")),
            ("a = \"oven\nb = 1", "the closing quote is missing", Some("\"")),
            ("a = 'oven\r\nb = 1", "the closing quote is missing", Some("'")),
            ("a = 1\na = 2", "this key is there twice", None),
            ("a = \"\"\"x\ny", "the closing quotes are missing", None),
            ("[[rule]\n", "a bracket is missing", Some("[[rule]]")),
            ("device: \"x\"", "a key and its value are joined by `=`", Some("device = \"x\"")),
            ("regex = \"\\d+\"", "a backslash in double quotes has a meaning of its own", None),
            ("= 3", "this is not valid TOML", None),
        ] {
            let mut report = Report::new(0, text);
            assert!(parse(&mut report).is_none(), "{text:?}");
            let found = &report.found[0];
            assert_eq!(found.title, title, "{text:?}: {found:?}");
            assert_eq!(found.fix.as_ref().map(|fix| fix.replacement.as_str()), fix, "{text:?}");
            assert_eq!(report.found.len(), 1, "{text:?}: {:?}", report.found);
        }
    }
}
