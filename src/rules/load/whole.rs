//! Checks that need all rules: names used twice, rules that can never run, and rules that miss some of their topics.

use std::collections::HashMap;

use regex_syntax::hir::{Hir, HirKind, Look};

use super::{Draft, read_command};
use crate::diag::Diagnostic;
use crate::rules::pattern::{self, Pattern};

/// A rule whose every topic is taken by one before it.
pub(super) fn never_runs(drafts: &[Draft], found: &mut Vec<Diagnostic>) {
    let takers: Vec<Taker<'_>> = drafts.iter().map(Taker::new).collect();
    for (index, late) in drafts.iter().enumerate().filter(|(_, late)| !late.allows("never-runs")) {
        let early = takers.iter().take(index).find(|early| !early.draft.goes_on && early.takes_all(late));
        let Some(early) = early.map(|early| early.draft) else { continue };
        found.push(
            Diagnostic::warning("never-runs", format!("rule `{}` can never run", late.name), late.file)
                .at(late.name_span.clone(), "never reached")
                .context_in(
                    early.file,
                    early.name_span.clone(),
                    if late.on.is_some() {
                        "this rule takes all its clients first"
                    } else {
                        "this rule takes all its topics first"
                    },
                )
                .help("put the more specific rule first, or write `continue = true` in the other one"),
        );
    }
}

/// A rule, and what its regex is known to take.
struct Taker<'d> {
    draft: &'d Draft,
    behind: Option<Behind>,
    /// What every topic that the regex takes begins with.
    begin: String,
}

impl<'d> Taker<'d> {
    fn new(draft: &'d Draft) -> Self {
        let hir = draft.regex.as_deref().and_then(|regex| regex_syntax::parse(regex).ok());
        let behind = hir.as_ref().and_then(all_behind);
        Self { draft, behind, begin: hir.as_ref().map(beginning).unwrap_or_default() }
    }

    fn takes_all(&self, late: &Draft) -> bool {
        let early = self.draft;
        if early.on != late.on {
            return false;
        }
        match (&early.filter, &late.meant) {
            (Some(wide), Some(narrow)) => pattern::covers(wide, narrow),
            (None, None) => early.regex.is_some() && early.regex == late.regex,
            // `#` takes all but `$SYS` and its like.
            (Some(filter), None) => filter == "#" && late.regex.as_deref().is_some_and(begins_with_a_letter),
            (None, Some(filter)) => {
                self.behind.as_ref().is_some_and(|all| all.takes_filter(filter)) || self.takes_topic(filter)
            }
        }
    }

    /// True for a filter that is one topic, and that the regex takes.
    fn takes_topic(&self, filter: &str) -> bool {
        let pattern = self.draft.rule.as_ref().map(|rule| &rule.pattern);
        let is_taken = |topic: &str| match pattern {
            Some(Pattern::Regex { regex, .. }) => regex.is_match(topic),
            _ => false,
        };
        filter.starts_with(&self.begin) && !filter.contains(['+', '#']) && is_taken(filter)
    }
}

/// The text that everything begins with that a regex takes.
fn beginning(hir: &Hir) -> String {
    let HirKind::Concat(parts) = hir.kind() else { return String::new() };
    let mut parts = parts.iter().map(uncaptured);
    let mut begin = String::new();
    if matches!(parts.next(), Some(HirKind::Look(Look::Start))) {
        let texts = parts.map_while(|part| match part {
            HirKind::Literal(text) => std::str::from_utf8(&text.0).ok(),
            _ => None,
        });
        begin.extend(texts);
    }
    begin
}

/// All topics that begin with a text and, where `more` is set, go on behind it: what `^plant1/.*$` and `^plant1/.+$` take.
#[derive(Debug, PartialEq, Eq)]
struct Behind {
    begin: String,
    more: bool,
}

impl Behind {
    fn takes_filter(&self, filter: &str) -> bool {
        let fixed = filter.split(['+', '#']).next().unwrap_or(filter);
        // `a/#` takes `a`, too.
        let fixed = if filter.strip_prefix(fixed) == Some("#") { fixed.trim_end_matches('/') } else { fixed };
        let rest = filter.strip_prefix(&self.begin).unwrap_or("");
        fixed.starts_with(&self.begin) && !(self.more && matches!(rest, "" | "+" | "#"))
    }
}

/// What a regex takes that is a text with anything behind it.
fn all_behind(hir: &Hir) -> Option<Behind> {
    let HirKind::Concat(parts) = hir.kind() else { return None };
    let mut parts = parts.iter().map(uncaptured).peekable();
    if !matches!(parts.next()?, HirKind::Look(Look::Start)) {
        return None;
    }
    let mut begin = String::new();
    while let Some(HirKind::Literal(text)) = parts.peek() {
        begin.push_str(std::str::from_utf8(&text.0).ok()?);
        parts.next();
    }
    let HirKind::Repetition(all) = parts.next()? else { return None };
    let any = [regex_syntax::parse("."), regex_syntax::parse("(?s).")];
    let takes_any = all.max.is_none() && all.min <= 1 && any.iter().any(|any| any.as_ref() == Ok(&*all.sub));
    let ends = parts.all(|part| matches!(part, HirKind::Look(Look::End)));
    (takes_any && ends).then_some(Behind { begin, more: all.min == 1 })
}

/// What is inside of groups.
fn uncaptured(hir: &Hir) -> &HirKind {
    match hir.kind() {
        HirKind::Capture(group) => uncaptured(&group.sub),
        kind => kind,
    }
}

fn begins_with_a_letter(regex: &str) -> bool {
    regex.strip_prefix('^').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

/// A rule that reads as the more specific one, and still does not get all of its topics.
///
/// Told is what surprises: `plant1/+/temp` before `plant1/press7/+` takes `plant1/press7/temp`. The other way round is
/// how exceptions are written, a `drop` in front is one too, and rules with wildcards in the first level are meant
/// for whatever comes.
pub(super) fn overlaps(drafts: &[Draft], found: &mut Vec<Diagnostic>) {
    let mut before: Vec<(&Draft, Vec<&str>)> = Vec::new();
    for late in drafts.iter().filter(|draft| draft.on.is_none() && draft.rule.is_some()) {
        let Some(filter) = &late.filter else { continue };
        let levels: Vec<&str> = filter.split('/').collect();
        if !late.allows("overlap") {
            let early = before.iter().find_map(|(early, wide)| Some((early, lost(wide, &levels)?)));
            if let Some((early, lost)) = early {
                found.push(
                    Diagnostic::warning(
                        "overlap",
                        format!("rule `{}` misses some of its topics", late.name),
                        late.file,
                    )
                    .at(late.name_span.clone(), format!("not {lost}"))
                    .context_in(early.file, early.name_span.clone(), "this rule takes those first")
                    .help("put this rule first, or write `continue = true` in the other one, or allow = [\"overlap\"]"),
                );
            }
        }
        let drops = late.rule.as_ref().is_some_and(|rule| rule.action.message().is_none());
        if !late.goes_on && !drops {
            before.push((late, levels));
        }
    }
}

/// The topics that `early` takes away from `late`, as a filter, where `late` is the more specific one of two that take
/// some topics each alone.
fn lost(early: &[&str], late: &[&str]) -> Option<String> {
    if early.first() != late.first() || matches!(early.first(), Some(&("+" | "#"))) {
        return None;
    }
    let differing = early.iter().zip(late).find(|(early, late)| early != late)?;
    if *differing.0 != "+" || matches!(*differing.1, "+" | "#") {
        return None;
    }
    let mut both: Vec<&str> = Vec::new();
    let mut at = 0;
    loop {
        match (early.get(at), late.get(at)) {
            (None, None) => break,
            (Some(&"#"), _) => {
                both.extend(late.get(at..).unwrap_or_default());
                break;
            }
            (_, Some(&"#")) => {
                both.extend(early.get(at..).unwrap_or_default());
                break;
            }
            (Some(&"+"), Some(level)) | (Some(level), Some(&"+")) => both.push(level),
            (Some(early), Some(late)) if early == late => both.push(early),
            _ => return None,
        }
        at += 1;
    }
    // Else it takes all of them, which is told as `never-runs`.
    (both != late).then(|| both.join("/"))
}

impl Draft {
    fn allows(&self, lint: &str) -> bool {
        self.allow.iter().any(|allowed| allowed == lint)
    }
}

/// Two rules of one name: the figures of /metrics could not be told apart.
pub(super) fn duplicate_names(drafts: &[Draft], found: &mut Vec<Diagnostic>) {
    let mut first: HashMap<&str, &Draft> = HashMap::new();
    for draft in drafts.iter().filter(|draft| draft.named) {
        if let Some(other) = first.get(draft.name.as_str()) {
            found.push(
                Diagnostic::error("duplicate-name", format!("two rules are called `{}`", draft.name), draft.file)
                    .at(draft.name_span.clone(), "the name is taken")
                    .context_in(other.file, other.name_span.clone(), "by this rule")
                    .help("give each rule its own name, it is how logs and metrics tell them apart"),
            );
        } else {
            first.insert(&draft.name, draft);
        }
    }
}

/// The same for commands, whose names are in the audit log.
pub(super) fn duplicate_commands<C>(
    drafts: &[read_command::Draft<C>],
    (all, one): (&str, &str),
    found: &mut Vec<Diagnostic>,
) {
    let mut first: HashMap<&str, &read_command::Draft<C>> = HashMap::new();
    for draft in drafts {
        if let Some(other) = first.get(draft.name.as_str()) {
            let title = format!("two {all} are called `{}`", draft.name);
            found.push(
                Diagnostic::error("duplicate-name", title, draft.file)
                    .at(draft.name_span.clone(), "the name is taken")
                    .context_in(other.file, other.name_span.clone(), format!("by this {one}"))
                    .help(format!("give each {one} a `name` of its own, it is how logs and metrics tell them apart")),
            );
        } else {
            first.insert(&draft.name, draft);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_regex_takes_of_a_filter() {
        for (regex, filter, expect) in [
            ("^plant1/.*$", "plant1/+/temp", true),
            ("^plant1/(?<rest>.*)$", "plant1/press7/temp", true),
            ("^plant1/.*", "plant1/#", false),
            ("^plant1.*", "plant1/#", true),
            ("^plant1/.+$", "plant1/+", false),
            ("^plant1/.+$", "plant1/+/temp", true),
            ("^plant1/.*$", "plant2/+/temp", false),
            ("^plant1/.*$", "+/press7/temp", false),
            ("^plant1/.*x$", "plant1/+/temp", false),
            ("^plant1/[^/]*$", "plant1/a", false),
            ("plant1/.*$", "plant1/a", false),
            ("^.*$", "plant1/a", true),
        ] {
            let takes = all_behind(&regex_syntax::parse(regex).unwrap()).is_some_and(|all| all.takes_filter(filter));
            assert_eq!(takes, expect, "{regex} {filter}");
        }
    }

    #[test]
    fn what_a_regex_takes_begins_with() {
        for (regex, expect) in [
            ("^plant/(?<line>\\w+)/temp$", "plant/"),
            ("^plant/(a)b(?<x>.)", "plant/ab"),
            ("plant/.*", ""),
            ("(?i)^plant/x", ""),
            ("^(plant|hall)/x", ""),
        ] {
            assert_eq!(beginning(&regex_syntax::parse(regex).unwrap()), expect, "{regex}");
        }
    }

    #[test]
    fn what_a_more_general_rule_takes_away() {
        for (early, late, expect) in [
            ("p/+/temp", "p/press7/+", Some("p/press7/temp")),
            ("p/+/+/value/+", "p/bench/#", Some("p/bench/+/value/+")),
            ("p/+/#", "p/press7/+", None),
            ("p/+/temp", "p/press7/temp", None),
            ("p/press7/+", "p/+/temp", None),
            ("p/+/temp", "p/press7/speed", None),
            ("p/+/a/#", "p/x/+/b", Some("p/x/a/b")),
            ("p/+/a", "p/x/+/b", None),
            ("p/+/a", "p/x/a/#", Some("p/x/a")),
            ("+/x/temp", "+/+/temp", None),
            ("p/a/+", "q/+/b", None),
            ("p/#", "p/x", None),
        ] {
            let levels = |filter: &'static str| filter.split('/').collect::<Vec<_>>();
            assert_eq!(lost(&levels(early), &levels(late)).as_deref(), expect, "{early} {late}");
        }
    }
}
