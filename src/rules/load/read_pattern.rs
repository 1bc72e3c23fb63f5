//! `topic` or `regex`: what a rule asks of a topic.

use regex_syntax::ast;

use super::texts::Unknown;
use crate::diag::walk::{Reader, Report, Text, text};
use crate::diag::{Diagnostic, Span};
use crate::rules::pattern::{self, Level, Mistake, Pattern};

/// A compiled regex may grow to this.
const REGEX_LIMIT: usize = 16 << 20;

/// What the pattern of a rule came to.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) pattern: Option<Pattern>,
    /// The pattern as written.
    pub(super) text: String,
    pub(super) names: Vec<String>,
    pub(super) place: Option<Span>,
    pub(super) filter: Option<String>,
    /// The topic filter, also of a pattern with mistakes: such a level counts as it stands.
    pub(super) meant: Option<String>,
    pub(super) regex: Option<String>,
    /// There is a regex, and it does not work.
    pub(super) broken_regex: bool,
}

impl Asked {
    /// What a name is that the pattern does not bring.
    pub(super) fn unknown(&self, on: bool) -> Unknown {
        match self.pattern {
            Some(_) => Unknown::Wrong,
            None if self.broken_regex && !on => Unknown::WrongOnce,
            None => Unknown::Open,
        }
    }
}

pub(super) fn read<'a>(keys: &mut Reader<'a>, report: &mut Report<'_>) -> Asked {
    match (keys.any("topic"), keys.any("regex")) {
        (Some(topic), Some(regex)) => {
            let found = report.new_error("two-patterns", "a rule has `topic` or `regex`, not both");
            report.push(found.at(regex.key_span, "one too many").context(topic.key_span, "the other one"));
            Asked::default()
        }
        (Some(topic), None) => text(&topic, report).map(|text| read_topic(&text, report)).unwrap_or_default(),
        (None, Some(regex)) => text(&regex, report).map(|text| read_regex(&text, report)).unwrap_or_default(),
        (None, None) => Asked::default(),
    }
}

fn read_topic(text: &Text<'_>, report: &mut Report<'_>) -> Asked {
    let (levels, mistakes) = pattern::levels(text.value);
    let sound = mistakes.is_empty();
    let is_filter = !mistakes.iter().any(|mistake| matches!(mistake, Mistake::Filter(_)));
    for mistake in mistakes {
        let part = |part| text.part(report.text, part);
        let found = match mistake {
            Mistake::Mixed(level) => report
                .new_error("bad-topic", "a wildcard must be a whole topic level")
                .at(part(level), "mixed with other characters")
                .help("to match inside a level, use `regex = '...'` instead of `topic`"),
            Mistake::Hash(level) => report
                .new_error("bad-topic", "`#` must be the last topic level")
                .at(part(level), "levels follow")
                .help("for exactly one level write `+` or a name in braces"),
            Mistake::Name(name) => report
                .new_error("bad-name", "this cannot be the name of a topic level")
                .at(part(name), "")
                .help("a name has letters, digits and `_`, and is not `time`, `topic` or `client`"),
            Mistake::Twice(name, first) => report
                .new_error("bad-name", "two topic levels have the same name")
                .at(part(name), "again")
                .context(part(first), "first here"),
            Mistake::Filter(error) => report.new_error("bad-topic", error.to_string()).at(text.span(), ""),
        };
        report.push(found);
    }
    foreign_wildcards(text, &levels, report);
    let filter = pattern::filter(&levels);
    Asked {
        text: text.value.to_owned(),
        names: pattern::names(&levels),
        place: Some(text.span()),
        filter: sound.then(|| filter.clone()),
        meant: is_filter.then(|| filter.clone()),
        regex: None,
        broken_regex: false,
        pattern: sound.then(|| Pattern::Topic { filter, levels }),
    }
}

/// Warns of levels that are wildcards or names elsewhere, and that MQTT takes as they stand. `$name` is none of
/// them: topics of that kind exist.
fn foreign_wildcards(text: &Text<'_>, levels: &[Level], report: &mut Report<'_>) {
    subscription(text, report);
    let mut at = 0;
    for (level, written) in levels.iter().zip(text.value.split('/')) {
        let exact = text.exact_part(report.text, at..at + written.len());
        let place = exact.clone().unwrap_or(text.span());
        at += written.len() + 1;
        if !matches!(level, Level::Literal(_)) {
            continue;
        }
        if written == "*" {
            let found = Diagnostic::warning("odd-level", "`*` is no MQTT wildcard", report.file).at(place, "");
            report.push(found.help("write `+` or `{name}` for one level, `#` for all that follow"));
        } else if let Some(name) = placeholder_elsewhere(written) {
            let title = format!("`{written}` takes only a level that is written so");
            let found = Diagnostic::warning("odd-level", title, report.file).at(place, "a name is in braces");
            report.push(match exact {
                Some(place) => found.fix(place, format!("{{{name}}}")),
                None => found.help(format!("write {{{name}}}")),
            });
        }
    }
}

/// Warns of a filter as subscribers write it to share messages among them. Publishes are on the topic behind it.
fn subscription(text: &Text<'_>, report: &mut Report<'_>) {
    let mut levels = text.value.split('/');
    let begin = match (levels.next(), levels.next()) {
        (Some("$share"), Some(group)) => "$share/".len() + group.len() + 1,
        (Some("$queue"), Some(_)) => "$queue/".len(),
        _ => return,
    };
    let Some(shared) = text.value.get(..begin).filter(|_| begin < text.value.len()) else { return };
    let exact = text.exact_part(report.text, 0..begin);
    let title = format!("`{shared}` is for subscribers: nothing is published there");
    let found = Diagnostic::warning("odd-level", title, report.file).at(exact.clone().unwrap_or(text.span()), "");
    report.push(match exact {
        Some(place) => found.fix(place, ""),
        None => found.help("write the topic behind it"),
    });
}

/// The name in `<name>`, `:name` or `%name%`.
fn placeholder_elsewhere(level: &str) -> Option<&str> {
    let between = |open, close| level.strip_prefix(open)?.strip_suffix(close);
    between('<', '>')
        .or_else(|| between('%', '%'))
        .or_else(|| level.strip_prefix(':'))
        .filter(|name| pattern::is_name(name))
}

pub(super) fn read_regex(text: &Text<'_>, report: &mut Report<'_>) -> Asked {
    let mut asked = Asked {
        text: text.value.to_owned(),
        place: Some(text.span()),
        regex: Some(text.value.to_owned()),
        ..Asked::default()
    };
    match regex::RegexBuilder::new(text.value).size_limit(REGEX_LIMIT).build() {
        Ok(regex) => {
            let named = || regex.capture_names().enumerate().filter_map(|(group, name)| Some((group, name?)));
            asked.names = named().map(|(_, name)| name.to_owned()).collect();
            let groups = named().map(|(group, _)| group).collect();
            asked.pattern = Some(Pattern::Regex { text: text.value.to_owned(), regex, groups });
        }
        Err(error) => {
            asked.regex = None;
            asked.broken_regex = true;
            bad_regex(text, &error, report);
        }
    }
    asked
}

fn bad_regex(text: &Text<'_>, error: &regex::Error, report: &mut Report<'_>) {
    let found = report.new_error("bad-regex", "this regex does not work");
    report.push(match ast::parse::Parser::new().parse(text.value) {
        Err(syntax) => {
            let part = syntax.span().start.offset..syntax.span().end.offset;
            let found = found.at(text.part(report.text, part), syntax.kind().to_string());
            match regex_advice(syntax.kind()) {
                Some(advice) => found.help(advice),
                None => found,
            }
        }
        Ok(_) => found.at(text.span(), error.to_string().lines().last().unwrap_or("")),
    });
}

/// What to do about the mistakes people make in a regex.
fn regex_advice(kind: &ast::ErrorKind) -> Option<&'static str> {
    match kind {
        ast::ErrorKind::GroupUnclosed | ast::ErrorKind::GroupUnopened => {
            Some("a group is written (..); a parenthesis that is meant as it stands is written \\( or \\)")
        }
        ast::ErrorKind::UnsupportedLookAround => {
            Some("write what the topic looks like; a rule before this one can take those that are not wanted")
        }
        ast::ErrorKind::GroupNameInvalid | ast::ErrorKind::GroupNameEmpty | ast::ErrorKind::GroupNameUnexpectedEof => {
            Some("a name has letters, digits and `_`, a letter first: (?<line>[^/]+)")
        }
        ast::ErrorKind::RepetitionMissing => {
            Some("`*` and `+` repeat what stands before them; one topic level is [^/]+, any text is .*")
        }
        ast::ErrorKind::UnsupportedBackreference => Some("a regex here cannot refer to its own groups"),
        _ => None,
    }
}
