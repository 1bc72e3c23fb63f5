//! Parses TOML and tells its syntax errors in words.
//!
//! A TOML parser says what token it expected; the person at the machine forgot a quote. So the line of
//! each error is looked at first for the mistakes people make, and the parser's own words are the
//! fallback. A line gets one finding: what follows from it is not told again.

use toml::Spanned;
use toml::de::DeTable;

use super::walk::Report;
use super::{Diagnostic, Span, may_be_secret};

/// Parses the text of the report's file. The table is there only where the syntax is right: half a table would
/// lead to findings that vanish with the syntax error.
pub fn parse<'s>(report: &mut Report<'s>) -> Option<Spanned<DeTable<'s>>> {
    let (table, errors) = DeTable::parse_recoverable(report.text);
    let mut lines = Vec::new();
    let mut header_twice = false;
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let line = line_of(report.text, span.start);
        let twice = error.message().contains("duplicate key");
        // Below a doubled header every key is there twice: that follows from the header.
        if lines.contains(&line) || (twice && header_twice) {
            continue;
        }
        header_twice |= twice && report.text.get(line.clone()).is_some_and(|line| line.trim_start().starts_with('['));
        let found = in_words(report, &line, span, error.message());
        lines.push(line);
        if !report.found.contains(&found) {
            report.push(found);
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
    if message.contains("multi-line") {
        let before = report.text.get(..span.start).unwrap_or("");
        let open = before.rfind("\"\"\"").max(before.rfind("'''"));
        return syntax("the closing quotes are missing").at(open.map_or(span, |at| at..at + 3), "opened here");
    }
    let told = brackets(report, line)
        .or_else(|| typographic(report, line, &span))
        .or_else(|| value(report, line, &span, message))
        .or_else(|| inside(report, line))
        .or_else(|| separators(report, line, &span, message));
    if let Some(found) = told {
        return found;
    }
    if message.contains("duplicate key") {
        return syntax("this key is there twice").at(span, "keep one of them");
    }
    syntax("this is not valid TOML").at(span, message)
}

/// Headers: `[[rule]`, and `[rule]` where there is another rule.
fn brackets(report: &Report<'_>, line: &Span) -> Option<Diagnostic> {
    let text = report.text.get(line.clone())?;
    let header = text.trim();
    if !header.starts_with('[') {
        return None;
    }
    let name = header.trim_matches(['[', ']']);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(is_key) {
        return None;
    }
    let is_list = matches!(name, "rule" | "test");
    let (single, double) = (format!("[{name}]"), format!("[[{name}]]"));
    let place = |at: usize, line: &str| {
        let start = at + line.len() - line.trim_start().len();
        start..start + line.trim().len()
    };
    if header != single && header != double {
        let doubled = header.starts_with("[[") || header.ends_with("]]") || is_list;
        let place = place(line.start, text);
        let found = report.new_error("toml-syntax", "a bracket is missing").at(place.clone(), "");
        return Some(found.fix(place, if doubled { double } else { single }));
    }
    let mut at = 0;
    let lines = report.text.split_inclusive('\n').map(|line| {
        at += line.len();
        (at - line.len(), line)
    });
    let headers: Vec<(usize, &str)> =
        lines.filter(|(_, line)| is_list && (line.trim() == single || line.trim() == double)).collect();
    let mut wrong = headers.iter().filter(|(_, line)| headers.len() > 1 && line.trim() == single);
    let (at, wrong) = wrong.clone().find(|(at, _)| *at >= line.start).or_else(|| wrong.next())?;
    let wrong = place(*at, wrong);
    let title = "one pair of brackets is missing";
    Some(report.new_error("toml-syntax", title).at(wrong.clone(), "").fix(wrong.clone(), double))
}

/// Quotes that an editor or a web page put in the place of `"`.
fn typographic(report: &Report<'_>, line: &Span, span: &Span) -> Option<Diagnostic> {
    let text = report.text.get(line.clone())?;
    let value = value_of(text).map_or(line.end, |value| line.start + value.start);
    let (start, place) = [span.start, value].into_iter().find_map(|start| {
        let length = quoted(report.text.get(start..line.end)?)?;
        Some((start, start..start + length))
    })?;
    let open = report.text.get(start..)?.chars().next()?;
    let inside = report.text.get(place.clone())?.strip_prefix(open)?.trim_end_matches(is_quote);
    let found = report.new_error("toml-syntax", "text must be in straight quotes");
    let found = found.at(place.clone(), "these are typographic quotes");
    let risky = inside.contains(['\\', '"']) || may_be_secret(text);
    Some(if risky { found } else { found.fix(place, format!("\"{inside}\"")) })
}

/// The length of the quoted text at the beginning of `rest`, where at least one of its quotes is typographic.
fn quoted(rest: &str) -> Option<usize> {
    let open = rest.chars().next()?;
    let behind = rest.get(open.len_utf8()..)?;
    if is_typographic(open) {
        // An apostrophe inside does not close a text in double quotes.
        let closes = |c: &char| is_quote(*c) && is_single(*c) == is_single(open);
        let (end, close) = behind.char_indices().find(|(_, c)| closes(c))?;
        return Some(open.len_utf8() + end + close.len_utf8());
    }
    let word = without_comment(behind);
    let half = open == '"' && !behind.contains('"') && word.ends_with(|c| is_typographic(c) && !is_single(c));
    half.then(|| open.len_utf8() + word.len())
}

/// A value without its quotes, or with one of them.
fn value(report: &Report<'_>, line: &Span, span: &Span, message: &str) -> Option<Diagnostic> {
    let syntax = |title: &str| report.new_error("toml-syntax", title);
    let text = report.text.get(line.clone())?;
    let value = value_of(text)?;
    let start = line.start + value.start;
    let value = text.get(value)?;
    let word = without_comment(value);
    let place = start..start + word.len();
    let lower = word.to_ascii_lowercase();
    if word != lower && matches!(lower.as_str(), "true" | "false") {
        return Some(syntax("`true` and `false` are written in small letters").at(place.clone(), "").fix(place, lower));
    }
    if is_unquoted(word) {
        let found = syntax("text must be in quotes").at(place.clone(), "");
        return Some(if may_be_secret(text) { found } else { found.fix(place, format!("\"{word}\"")) });
    }
    if let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\''))
        && value.matches(quote).count() == 1
    {
        let end = place.end;
        return Some(syntax("the closing quote is missing").at(place, "").fix(end..end, quote));
    }
    message.contains("escape").then(|| {
        syntax("a backslash in double quotes has a meaning of its own")
            .at(span.clone(), message)
            .help("write the text in single quotes, they leave a backslash alone: '\\d+'")
    })
}

/// A value without quotes inside of `{ key = value }`.
fn inside(report: &Report<'_>, line: &Span) -> Option<Diagnostic> {
    let text = report.text.get(line.clone())?;
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') => depth -= 1,
            (None, '=') if depth > 0 => {
                let value = text.get(at + 1..)?;
                let word = inner_value(value);
                if !is_unquoted(word) || word.trim_matches(['{', '}', ' ']).is_empty() {
                    continue;
                }
                let start = line.start + at + 1 + value.len() - value.trim_start().len();
                let place = start..start + word.len();
                let found = report.new_error("toml-syntax", "text must be in quotes").at(place.clone(), "");
                return Some(if may_be_secret(text) { found } else { found.fix(place, format!("\"{word}\"")) });
            }
            (None, _) => {}
        }
    }
    None
}

/// The first value of `rest`, as far as the comma or the brace that ends it.
fn inner_value(rest: &str) -> &str {
    let mut depth = 0_usize;
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => return rest.get(..at).unwrap_or(rest).trim(),
            _ => {}
        }
    }
    without_comment(rest).trim()
}

/// What stands between keys and values: `=`, a comma, a new line.
fn separators(report: &Report<'_>, line: &Span, span: &Span, message: &str) -> Option<Diagnostic> {
    let syntax = |title: &str| report.new_error("toml-syntax", title);
    let text = report.text.get(line.clone())?;
    if message.contains("expected `=`")
        && let Some((key, value)) = text.split_once(':')
        && key.trim().chars().all(is_key)
        && !may_be_secret(text)
    {
        let fixed = format!("{} ={value}", key.trim_end());
        return Some(syntax("a key and its value are joined by `=`").at(line.clone(), "").fix(line.clone(), fixed));
    }
    let before = report.text.get(line.start..span.start)?;
    if message.contains("between key-value pairs") {
        // The parser points at the second key, or at the `=` behind it.
        let key =
            if message.contains("extra assignment") { before.trim_end().trim_end_matches(is_key) } else { before };
        let at = line.start + key.trim_end().len();
        let rest = report.text.get(at..line.end)?;
        let next = at + rest.len() - rest.trim_start().len();
        return Some(syntax("a comma is missing").at(next..next + 1, "before this").fix(at..at, ","));
    }
    let next = report.text.get(span.start..line.end)?;
    if message.contains("expected newline") && value_of(next).is_some() {
        return Some(syntax("each key has a line of its own").at(span.clone(), "put this on the next line"));
    }
    None
}

/// A value without the comment behind it. `#` is a comment only behind a space: it is a wildcard too.
fn without_comment(value: &str) -> &str {
    let comment = value.find(" #").into_iter().chain(value.find("\t#")).min();
    value.get(..comment.unwrap_or(value.len())).unwrap_or(value).trim_end()
}

fn is_typographic(c: char) -> bool {
    matches!(c, '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}' | '\u{2039}' | '\u{203a}')
}

fn is_quote(c: char) -> bool {
    is_typographic(c) || matches!(c, '"' | '\'')
}

fn is_single(c: char) -> bool {
    matches!(c, '\u{2018}'..='\u{201b}' | '\u{2039}' | '\u{203a}' | '\'')
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
            ("[[r]\n", "a bracket is missing", Some("[[r]]")),
            ("[r]]\n", "a bracket is missing", Some("[[r]]")),
            ("[rule\n", "a bracket is missing", Some("[[rule]]")),
            ("[uplink\n", "a bracket is missing", Some("[uplink]")),
            ("device: \"x\"", "a key and its value are joined by `=`", Some("device = \"x\"")),
            ("regex = \"\\d+\"", "a backslash in double quotes has a meaning of its own", None),
            ("= 3", "this is not valid TOML", None),
            ("a = plant # the plant", "text must be in quotes", Some("\"plant\"")),
            ("password = s3cret", "text must be in quotes", None),
            ("connection_string = “HostName=h”", "text must be in straight quotes", None),
            ("a = True # yes", "`true` and `false` are written in small letters", Some("true")),
            ("a = “x y” # b", "text must be in straight quotes", Some("\"x y\"")),
            ("a = \"x”", "text must be in straight quotes", Some("\"x\"")),
            ("a = “it’s x”", "text must be in straight quotes", Some("\"it’s x\"")),
            ("a = \"it’s x", "the closing quote is missing", Some("\"")),
            ("a = ‘x’", "text must be in straight quotes", Some("\"x\"")),
            ("a = ‘\\d’", "text must be in straight quotes", None),
            ("a = { b = „x“, c = 1 }", "text must be in straight quotes", Some("\"x\"")),
            ("add = { axis = {axis} }", "text must be in quotes", Some("\"{axis}\"")),
            ("add = {axis={axis}}", "text must be in quotes", Some("\"{axis}\"")),
            ("a = { s = \"=x, {\", b = plant/{line}, c = 1 } # d", "text must be in quotes", Some("\"plant/{line}\"")),
            ("a = [\n{ n = 1, device = {hall} },\n]", "text must be in quotes", Some("\"{hall}\"")),
            ("a = { b = {}, password = s3cret }", "text must be in quotes", None),
            ("a = { b = 1 c = 2 }", "a comma is missing", Some(",")),
            ("a = { b = \"x\" c = 2 }", "a comma is missing", Some(",")),
            ("a = \"x\" b = 1", "each key has a line of its own", None),
            ("[[rule]]\na = 1\n[rule]\nb = 1", "one pair of brackets is missing", Some("[[rule]]")),
            ("  [test]\na = 1\n[[test]]\nb = 1", "one pair of brackets is missing", Some("[[test]]")),
            ("[rule]\na = 1\n[rule]\na = 1", "one pair of brackets is missing", Some("[[rule]]")),
            ("[uplink]\na = 1\n[[uplink]]\na = 1", "this key is there twice", None),
            ("[uplink]\na = 1\n[uplink]\na = 1", "this key is there twice", None),
        ] {
            let mut report = Report::new(0, text);
            assert!(parse(&mut report).is_none(), "{text:?}");
            let found = &report.found[0];
            assert_eq!(found.title, title, "{text:?}: {found:?}");
            assert_eq!(found.fix.as_ref().map(|fix| fix.replacement.as_str()), fix, "{text:?}");
            assert_eq!(report.found.len(), 1, "{text:?}: {:?}", report.found);
            if let Some(fix) = &found.fix {
                let mut fixed = text.to_owned();
                fixed.replace_range(fix.span.clone(), &fix.replacement);
                let mut again = Report::new(0, &fixed);
                assert!(
                    parse(&mut again).is_some() || again.found[0].title == "one pair of brackets is missing",
                    "{fixed:?}: {:?}",
                    again.found
                );
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "([\\[\\]{}=,\"'“”‘\\\\#\n a-c:T1.]|true|True|rule|\"\"\"|ä){0,40}") {
            let mut report = Report::new(0, &text);
            let sound = parse(&mut report).is_some();
            proptest::prop_assert_eq!(sound, report.found.is_empty());
            for fix in report.found.iter().filter_map(|found| found.fix.as_ref()) {
                proptest::prop_assert!(text.get(fix.span.clone()).is_some(), "{:?} {:?}", text, fix);
            }
        }
    }
}
