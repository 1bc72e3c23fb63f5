//! Names that no twin has, told where they are written: nothing that a hub would refuse at run time is left to it, as far
//! as it does not depend on a payload.

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
        let name: String = fixed(part).filter_map(|(c, is_fixed)| is_fixed.then_some(c)).collect();
        let Some(why) = twin_name_fault(&name).filter(|_| !name.is_empty()) else { continue };
        let place = text.part(report.text, start..start + part.len());
        let title = format!("a name in a twin {why}");
        if name.chars().all(is_in_twin_names) {
            report.push(report.new_error("bad-path", title).at(place, "").help("a shorter name"));
            continue;
        }
        let found = Diagnostic::warning("bad-path", title, report.file);
        let found = found.at(place, "its characters are put in as `%20` and the like");
        report.push(match text.exact_part(report.text, start..start + part.len()) {
            Some(exact) => found.fix(exact, cleaned(fixed(part))),
            None => found.help(format!("write {}", cleaned(fixed(part)))),
        });
    }
}

/// Tells fields with which the twin would refuse everything a rule makes.
pub(super) fn fields<'a>(keys: &mut Reader<'a>, report: &mut Report<'_>) {
    let table = |keys: &mut Reader<'a>, key| keys.any(key).and_then(|entry| entry.value.get_ref().as_table());
    let (add, set, rename) = (table(keys, "add"), table(keys, "set"), table(keys, "rename"));
    let removed = keys.any("remove").and_then(|entry| entry.value.get_ref().as_array());
    let removed: Vec<Vec<&str>> =
        removed.into_iter().flatten().filter_map(|name| Some(path_of(name.get_ref().as_str()?))).collect();
    let is_removed = |path: &[&str]| removed.iter().any(|removed| path.starts_with(removed));
    for (key, _) in add.into_iter().flatten() {
        field(&Text::new(key.get_ref(), &key.span()), [key.get_ref().as_ref()].into_iter(), report);
    }
    let renamed: Vec<Vec<&str>> = rename.into_iter().flatten().map(|(key, _)| path_of(key.get_ref())).collect();
    for (key, _) in set.into_iter().flatten() {
        let path = path_of(key.get_ref());
        if is_removed(&path) {
            continue;
        }
        // A name that `rename` takes is not the one that is sent.
        let stays = |(at, _): &(usize, &&str)| !renamed.iter().any(|old| path.get(..=*at) == Some(&**old));
        let names = path.iter().enumerate().filter(stays).map(|(_, name)| *name);
        field(&Text::new(key.get_ref(), &key.span()), names, report);
    }
    for (old, value) in rename.into_iter().flatten() {
        if is_removed(&path_of(old.get_ref())) {
            continue;
        }
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
        false => found
            .fix(text.span(), format!("\"{}\"", text.value.replace(name, &cleaned(name.chars().map(|c| (c, true)))))),
    };
    report.push(found);
}

/// The names of a path as a rule writes it.
fn path_of(text: &str) -> Vec<&str> {
    text.split('.').filter(|name| !name.is_empty()).collect()
}

/// The characters of a template, and whether they are sent as they are.
fn fixed(template: &str) -> impl Iterator<Item = (char, bool)> {
    let mut depth = 0_usize;
    template.chars().map(move |c| {
        let before = depth;
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        (c, before == 0 && depth == 0)
    })
}

/// With something in place of what a twin does not take.
fn cleaned(name: impl Iterator<Item = (char, bool)>) -> String {
    name.map(|(c, is_fixed)| if !is_fixed || is_in_twin_names(c) { c } else { '_' }).collect()
}
