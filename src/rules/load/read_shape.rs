//! The keys that choose and change messages: `when`, `scale`, `set`, `rename`, `remove`.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::read_path;
use super::texts::Names;
use crate::diag::nearest;
use crate::diag::walk::{Entry, Reader, Report, Text, text, type_name};
use crate::rules::expr::{self, Expr, Known, Mistake, VARIABLES, Wrong};
use crate::rules::script::Script;
use crate::rules::shape::{Reshape, Scale, Set};

/// Reads an expression and tells its mistake.
pub(super) fn expression(text: &Text<'_>, names: &Names, report: &mut Report<'_>) -> Option<Expr> {
    let known = Known { names: &names.names, columns: &names.columns };
    match expr::parse(text.value, known) {
        Ok(expr) if names.on && expr.has_field() => {
            let title = "a rule with `on` has no payload";
            report.error("unknown-name", title, text.span(), "this needs a field");
            None
        }
        Ok(expr) => {
            tell_never(&expr, text, report);
            Some(expr)
        }
        Err(Mistake { wrong: Wrong::Variable(_), .. }) if names.is_open() => None,
        Err(mistake) => {
            tell(&mistake, text, names, report);
            None
        }
    }
}

/// Tells what is compared with the clock and never is what it shows.
fn tell_never(expr: &Expr, text: &Text<'_>, report: &mut Report<'_>) {
    let mut found = Vec::new();
    expr::never(expr, &mut found);
    for never in found {
        let written = format!("\"{}\"", never.text);
        let exact = text.value.find(&written).and_then(|at| text.exact_part(report.text, at..at + written.len()));
        let told = report.new_error("unknown-word", never.title).at(exact.clone().unwrap_or(text.span()), "");
        let told = told.help(never.help);
        report.push(match (exact, never.meant) {
            (Some(exact), Some(meant)) => told.fix(exact, format!("\"{meant}\"")),
            _ => told,
        });
    }
}

/// Tells a mistake in an expression or a script.
pub(super) fn tell(mistake: &Mistake, text: &Text<'_>, names: &Names, report: &mut Report<'_>) {
    let exact = text.exact_part(report.text, mistake.at.clone());
    let place = exact.clone().unwrap_or(text.span());
    let found = match &mistake.wrong {
        Wrong::Syntax(expected) => {
            report.new_error("script-syntax", "syntax error in script").at(place, expected.clone())
        }
        Wrong::Arguments(how) => {
            report.new_error("script-syntax", "a function is not used as it must be").at(place, "").help(how.clone())
        }
        Wrong::Endless(why) => {
            report.new_error("endless-script", "the script may never end").at(place, "").help(why.clone())
        }
        Wrong::Variable(name) => {
            let found = report.new_error("unknown-variable", format!("undefined variable `${name}`"));
            let found = found.at(place, "not known here");
            let known = names.names.iter().chain(&names.columns).map(String::as_str);
            let known: Vec<&str> = known.chain(VARIABLES.iter().map(|(name, _)| *name)).collect();
            match (nearest(name, known.iter().copied()), exact) {
                (Some(meant), Some(place)) => found.fix(place, format!("${meant}")),
                (Some(meant), None) => found.help(format!("did you mean `${meant}`?")),
                (None, _) => found.help(format!("known are ${}", known.join(", $"))),
            }
        }
        Wrong::Otherwise { code, title, help, fix } => {
            let found = report.new_error(code, title.as_str()).at(place, "");
            let found = if help.is_empty() { found } else { found.help(help.as_str()) };
            match fix.as_ref().map(|(at, instead)| (text.exact_part(report.text, at.clone()), instead)) {
                Some((Some(at), instead)) => found.fix(at, quoted(instead, text, report)),
                Some((None, instead)) if !instead.is_empty() => found.help(format!("write {instead}")),
                _ => found,
            }
        }
        Wrong::Filter(name, functions) | Wrong::ScriptFilter(name, functions) => {
            let found = report.new_error("unknown-filter", format!("undefined filter `{name}`"));
            let found = found.at(place, "not known here");
            let is_name = names.names.iter().chain(&names.columns).any(|known| known == name)
                || VARIABLES.iter().any(|(known, _)| known == name);
            match (is_name, nearest(name, functions.iter().copied()), exact) {
                (true, _, Some(place)) => found.help("topic levels are variables").fix(place, format!("${name}")),
                (true, ..) => found.help(format!("topic levels are variables: write `${name}`")),
                (_, Some(meant), Some(place)) => found.fix(place, meant),
                (_, Some(meant), None) => found.help(format!("did you mean `{meant}`?")),
                (_, None, _) => found
                    .help(format!("a field of the payload is written .{name}, a name from the topic ${name}"))
                    .help(match mistake.wrong {
                        Wrong::Filter(..) => format!("filters here: {}; `script` has more", functions.join(", ")),
                        _ => "`script` has the filters of jq but for those that docs/rules.md names".to_owned(),
                    }),
            }
        }
    };
    report.push(found);
}

/// What is to stand in a text of the file, with its quotes escaped where that is needed.
fn quoted(instead: &str, text: &Text<'_>, report: &Report<'_>) -> String {
    let begin = report.text.get(text.span()).unwrap_or("");
    match begin.starts_with('"') && !begin.starts_with("\"\"\"") {
        true => instead.replace('"', "\\\""),
        false => instead.to_owned(),
    }
}

/// Reads `script`.
pub(super) fn script(keys: &mut Reader<'_>, names: &Names, report: &mut Report<'_>) -> Option<Script> {
    let text = keys.string("script", report)?;
    match Script::parse(text.value, Known { names: &names.names, columns: &names.columns }) {
        Ok(script) => Some(script),
        Err(mistakes) => {
            for mistake in mistakes {
                if !(names.is_open() && matches!(mistake.wrong, Wrong::Variable(_))) {
                    tell(&mistake, &text, names, report);
                }
            }
            None
        }
    }
}

/// Reads `when`.
pub(super) fn when(keys: &mut Reader<'_>, names: &Names, report: &mut Report<'_>) -> Option<Expr> {
    let text = keys.string("when", report)?;
    expression(&text, names, report)
}

/// Reads `set`; a value that is no text stands for itself.
pub(super) fn set(keys: &mut Reader<'_>, names: &Names, report: &mut Report<'_>) -> Vec<Set> {
    let mut sets = Vec::new();
    let Some((table, _)) = keys.table("set", report) else { return sets };
    for (key, value) in table {
        let path = read_path(&Text::new(key.get_ref(), &key.span()), report);
        let expr = match value.get_ref() {
            DeValue::String(text) => expression(&Text::new(text, &value.span()), names, report),
            DeValue::Boolean(flag) => Some(Expr::Bool(*flag)),
            _ => match float(value) {
                Some(number) => Some(Expr::Number(number)),
                None => {
                    let title = format!("`{}` must be an expression in quotes", key.get_ref());
                    let label = format!("this is {}", type_name(value.get_ref()));
                    report.error("wrong-type", title, value.span(), label);
                    None
                }
            },
        };
        sets.extend(path.zip(expr).map(|(path, expr)| Set { path, expr }));
    }
    sets
}

/// Reads `scale`.
pub(super) fn scale(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Vec<Scale> {
    let mut scales = Vec::new();
    let Some((table, _)) = keys.table("scale", report) else { return scales };
    for (key, value) in table {
        let path = read_path(&Text::new(key.get_ref(), &key.span()), report);
        let scale = match value.get_ref() {
            DeValue::Table(table) => one_scale(table, value, report),
            _ => {
                let title = format!("`{}` must say how the value is scaled", key.get_ref());
                let found = report.new_error("bad-scale", title).at(value.span(), "");
                report
                    .push(found.help("{ from = [4, 20], to = [0, 150], round = 1 } or { factor = 0.1, offset = -40 }"));
                None
            }
        };
        scales.extend(path.zip(scale).map(|(path, scale)| Scale { path, ..scale }));
    }
    scales
}

fn one_scale<'a>(table: &'a DeTable<'a>, value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Scale> {
    let before = report.found.len();
    let mut keys = Reader::new(table, "scale");
    let from = pair(&mut keys, "from", report);
    let to = pair(&mut keys, "to", report);
    let factor = number(&mut keys, "factor", report);
    let offset = number(&mut keys, "offset", report);
    let round = number(&mut keys, "round", report);
    let clamp = keys.boolean("clamp", report).is_some_and(|(yes, _)| yes);
    keys.finish(report);
    let wrong = |report: &mut Report<'_>, title: &str| {
        let found = report.new_error("bad-scale", title).at(value.span(), "");
        report.push(found.help("{ from = [4, 20], to = [0, 150], round = 1 } or { factor = 0.1, offset = -40 }"));
    };
    let (factor, offset, limits) = match (from, to, factor, offset) {
        (Some([a, b]), Some(_), None, None) if a == b => {
            wrong(report, "the two ends of `from` are the same");
            (1.0, 0.0, None)
        }
        (Some([a, b]), Some([low, high]), None, None) => {
            let factor = (high - low) / (b - a);
            (factor, low - a * factor, Some([low, high]))
        }
        (None, None, None, None) if round.is_some() => (1.0, 0.0, None),
        (None, None, factor, offset) if factor.is_some() || offset.is_some() => {
            (factor.unwrap_or(1.0), offset.unwrap_or(0.0), None)
        }
        _ if report.found.len() > before => (1.0, 0.0, None),
        _ => {
            wrong(report, "a value is scaled by `from` and `to`, or by `factor` and `offset`");
            (1.0, 0.0, None)
        }
    };
    if clamp && limits.is_none() && report.found.len() == before {
        wrong(report, "`clamp` cuts off what is beyond `to`, and there is no `to`");
    }
    let clamp = limits.filter(|_| clamp);
    (report.found.len() == before).then(|| Scale { path: Box::default(), factor, offset, round, clamp })
}

/// A finite number of a value.
fn float(value: &Spanned<DeValue<'_>>) -> Option<f64> {
    let number = match value.get_ref() {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok()?.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        _ => return None,
    };
    number.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A finite number.
pub(super) fn number<'a>(keys: &mut Reader<'a>, key: &'static str, report: &mut Report<'_>) -> Option<f64> {
    let entry = keys.any(key)?;
    let number = float(entry.value);
    if number.is_none() {
        let label = format!("this is {}", type_name(entry.value.get_ref()));
        report.error("wrong-type", format!("`{key}` must be a number"), entry.value.span(), label);
    }
    number
}

fn pair<'a>(keys: &mut Reader<'a>, key: &'static str, report: &mut Report<'_>) -> Option<[f64; 2]> {
    let entry = keys.any(key)?;
    let list = entry.value.get_ref().as_array();
    let numbers: Vec<f64> = list.map(|list| list.iter().filter_map(float).collect()).unwrap_or_default();
    match (numbers.as_slice(), list.map(|list| list.len())) {
        ([low, high], Some(2)) => Some([*low, *high]),
        _ => {
            let found = report.new_error("wrong-type", format!("`{key}` must be two numbers"));
            report.push(found.at(entry.value.span(), "").help(format!("{key} = [4, 20]")));
            None
        }
    }
}

/// Reads `rename` and `remove`.
pub(super) fn reshape(keys: &mut Reader<'_>, report: &mut Report<'_>) -> Reshape {
    let mut reshape = Reshape::default();
    if let Some((table, _)) = keys.table("rename", report) {
        for (key, value) in table {
            let entry = Entry { key: key.get_ref(), key_span: key.span(), value };
            let Some(new) = text(&entry, report) else { continue };
            let Some(path) = read_path(&Text::new(key.get_ref(), &key.span()), report) else { continue };
            if new.value.is_empty() {
                report.error("bad-path", "the new name is empty", new.span(), "");
            }
            if let Some(field) = reshape.entry(&path) {
                field.rename = Some(new.value.into());
            }
        }
    }
    for name in keys.strings("remove", report).unwrap_or_default() {
        let Some(path) = read_path(&name, report) else { continue };
        let Some(field) = reshape.entry(&path) else { continue };
        if field.rename.is_some() {
            let found = report.new_error("bad-path", "a field cannot be renamed and removed");
            report.push(found.at(name.span(), "it is in `rename` too"));
        }
        field.remove = true;
    }
    reshape
}
