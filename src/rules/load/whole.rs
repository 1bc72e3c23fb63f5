//! Checks that need all rules: names used twice, and rules that can never run.

use std::collections::HashMap;

use super::Draft;
use crate::diag::Diagnostic;
use crate::rules::pattern;

/// A rule whose every topic is taken by one before it.
pub(super) fn never_runs(drafts: &[Draft], found: &mut Vec<Diagnostic>) {
    for (index, late) in drafts.iter().enumerate() {
        let Some(early) = drafts.iter().take(index).find(|early| !early.goes_on && takes_all(early, late)) else {
            continue;
        };
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

fn takes_all(early: &Draft, late: &Draft) -> bool {
    if early.on != late.on {
        return false;
    }
    match (&early.filter, &late.filter) {
        (Some(wide), Some(narrow)) => pattern::covers(wide, narrow),
        (None, None) => early.regex.is_some() && early.regex == late.regex,
        _ => false,
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
