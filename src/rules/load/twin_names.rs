//! Names that no twin has, told where they are written: nothing that a hub would refuse at run time is left to it, as far
//! as it does not depend on a payload.

use toml::de::DeTable;

use crate::diag::Diagnostic;
use crate::diag::walk::{Reader, Report, Text};
use crate::message::{TWIN_DEPTH_MAX, is_in_twin_names, twin_name_fault};

/// What helps where a place in a twin is looked for.
const AS_IT_IS: &str = "write the name as the service writes it in the twin";

/// Tells where desired properties cannot lie.
pub(super) fn place(text: &Text<'_>, path: &[Box<str>], report: &mut Report<'_>) {
    // One more level is that of what lies there.
    if path.len() >= TWIN_DEPTH_MAX {
        let title = format!("nothing lies here: a twin has {TWIN_DEPTH_MAX} levels");
        let help = format!("at most {} names with dots between them: at = \"motor.limits\"", TWIN_DEPTH_MAX - 1);
        report.push(report.new_error("bad-path", title).at(text.span(), "").help(help));
        return;
    }
    let mut end = text.value.len() - text.value.strip_prefix('.').unwrap_or(text.value).len();
    for name in path {
        let start = end;
        end = start + name.len() + 1;
        if let Some(why) = twin_name_fault(name) {
            let title = format!("nothing lies here: a name in a twin {why}");
            let found = report.new_error("bad-path", title);
            report.push(found.at(text.part(report.text, start..start + name.len()), "").help(AS_IT_IS));
        }
    }
}

/// Tells what of `at` in a rule is written otherwise in the twin, or does not fit. What is put in is no matter of this.
pub(super) fn place_of_rule(text: &Text<'_>, parts: &[&str], report: &mut Report<'_>) {
    let mut end = 0;
    for part in parts {
        let start = end;
        end = start + part.len() + 1;
        let mut depth = 0_usize;
        let fixed = |c: char| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => return if depth == 0 { Some(c) } else { None },
            }
            None
        };
        let fixed: String = part.chars().filter_map(fixed).collect();
        let Some(why) = twin_name_fault(&fixed).filter(|_| !fixed.is_empty()) else { continue };
        let place = text.part(report.text, start..start + part.len());
        let title = format!("a name in a twin {why}");
        if fixed.chars().all(is_in_twin_names) {
            report.push(report.new_error("bad-path", title).at(place, "").help("a shorter name"));
            continue;
        }
        let found = Diagnostic::warning("bad-path", title, report.file);
        let found = found.at(place, "its characters are put in as `%20` and the like");
        report.push(match text.exact_part(report.text, start..start + part.len()) {
            Some(exact) => found.fix(exact, cleaned(part)),
            None => found.help(format!("write {}", cleaned(part))),
        });
    }
}

/// Tells fields with which the twin would refuse everything a rule makes.
pub(super) fn fields<'a>(keys: &mut Reader<'a>, report: &mut Report<'_>) {
    let table = |keys: &mut Reader<'a>, key| keys.any(key).and_then(|entry| entry.value.get_ref().as_table());
    let (add, set, rename) = (table(keys, "add"), table(keys, "set"), table(keys, "rename"));
    for (key, _) in add.into_iter().flatten() {
        field(&Text::new(key.get_ref(), &key.span()), [key.get_ref().as_ref()].into_iter(), report);
    }
    let renamed = |key: &str| rename.is_some_and(|rename: &DeTable<'_>| rename.contains_key(key));
    for (key, _) in set.into_iter().flatten().filter(|(key, _)| !renamed(key.get_ref())) {
        let path = key.get_ref().strip_prefix('.').unwrap_or(key.get_ref());
        field(&Text::new(key.get_ref(), &key.span()), path.split('.').filter(|name| !name.is_empty()), report);
    }
    for (_, value) in rename.into_iter().flatten() {
        if let Some(name) = value.get_ref().as_str().filter(|name| !name.is_empty()) {
            field(&Text::new(name, &value.span()), [name].into_iter(), report);
        }
    }
}

fn field<'n>(text: &Text<'_>, mut names: impl Iterator<Item = &'n str>, report: &mut Report<'_>) {
    let Some(name) = names.find(|name| twin_name_fault(name).is_some()) else { return };
    let title = format!("a name in a twin {}", twin_name_fault(name).unwrap_or_default());
    let found = report.new_error("bad-path", title).at(text.span(), "the hub would take nothing of this rule");
    let found = match name.chars().all(is_in_twin_names) {
        true => found.help("a shorter name"),
        false => found.fix(text.span(), format!("\"{}\"", text.value.replace(name, &cleaned(name)))),
    };
    report.push(found);
}

/// The name with something in place of what a twin does not take.
fn cleaned(name: &str) -> String {
    name.chars().map(|c| if is_in_twin_names(c) { c } else { '_' }).collect()
}
