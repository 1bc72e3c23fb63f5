//! What a script may call: jq's filters, without those that never end, that look outside, or that cost without bound.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use jaq_core::data::JustLut;
use jaq_core::load::parse::Def;
use jaq_core::native::{Filter, Fun, bome, run, unary, v};
use jaq_core::{Cv, Error, RunPtr, ValR};
use regex::{Regex, RegexBuilder};

use super::formats;
use super::value::{Val, spend};
use crate::rules::json;

/// What scripts run on.
pub(super) type Data = JustLut<Val>;

/// Filters of jq in terms of others.
const DEFINITIONS: &str = "
def in(xs): . as $x | xs | has($x);
def inside(xs): . as $x | xs | contains($x);
def index($i): indices($i) | .[0];
def rindex($i): indices($i) | .[-1];
def transpose: . as $rows | [range(0; [.[] | length] | max // 0) as $i | [$rows[][$i]]];
def trimstr($x): ltrimstr($x) | rtrimstr($x);
def toarray: if isarray then . else [.] end;
def IN(xs): any(xs == .; .);
def IN(ys; xs): any(ys == xs; .);
def INDEX(xs; f): reduce xs as $x ({}; . + {($x | f | tostring): $x});
def INDEX(f): INDEX(.[]; f);
";

/// Definitions of jaq that need what is left out here.
const LEFT_OUT: [&str; 16] = [
    "stderr",
    "debug",
    "halt",
    "halt_error",
    "logb",
    "significand",
    "pow10",
    "drem",
    "nexttoward",
    "scalb",
    "gamma",
    "@htmld",
    "@urid",
    "@html",
    "@uri",
    "@base64d",
];

/// A compiled regex may grow to this, and so many are kept.
const REGEX_LIMIT: usize = 1 << 18;
const REGEXES: usize = 64;

/// What compiling a regex costs.
const REGEX_COST: usize = 2_000;

thread_local! {
    static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
}

/// The definitions.
pub(super) fn defs() -> impl Iterator<Item = Def<&'static str>> {
    let read = |text| jaq_core::load::parse(text, |parser| parser.defs()).unwrap_or_default();
    let own = read(DEFINITIONS).into_iter().chain(read(formats::DEFINITIONS));
    jaq_core::defs().chain(jaq_std::defs()).filter(|def| !LEFT_OUT.contains(&def.name)).chain(own)
}

/// The filters written in Rust.
pub(super) fn funs() -> impl Iterator<Item = Fun<Data>> {
    let base = jaq_std::base_funs().filter(|(name, ..)| !matches!(*name, "halt" | "implode"));
    jaq_core::funs().chain(base).chain(own().into_iter().chain(numbers()).chain(formats::funs()).map(run::<Data>))
}

fn own() -> Vec<Filter<RunPtr<Data>>> {
    vec![
        ("length", v(0), |cv| bome(length(&cv.1))),
        ("tojson", v(0), |cv| bome(cv.1.to_json().map(Val::from))),
        ("fromjson", v(0), |cv| bome(from_json(&cv.1))),
        ("tonumber", v(0), |cv| bome(to_number(cv.1))),
        ("contains", v(1), |cv| unary(cv, |value, part| Ok(Val::Bool(contains(&value, &part))))),
        ("has", v(1), |cv| unary(cv, |value, key| has(value, &key))),
        ("indices", v(1), |cv| unary(cv, |value, part| indices(&value, &part))),
        ("matches", v(2), |cv| bome(pieces(cv, false, true))),
        ("split_matches", v(2), |cv| bome(pieces(cv, true, true))),
        ("split_", v(2), |cv| bome(pieces(cv, true, false))),
    ]
}

fn numbers() -> Vec<Filter<RunPtr<Data>>> {
    vec![
        ("sqrt", v(0), |cv| bome(of_number(&cv.1, f64::sqrt))),
        ("log", v(0), |cv| bome(of_number(&cv.1, f64::ln))),
        ("log2", v(0), |cv| bome(of_number(&cv.1, f64::log2))),
        ("log10", v(0), |cv| bome(of_number(&cv.1, f64::log10))),
        ("exp", v(0), |cv| bome(of_number(&cv.1, f64::exp))),
        ("fabs", v(0), |cv| bome(of_number(&cv.1, f64::abs))),
        ("trunc", v(0), |cv| bome(of_number(&cv.1, f64::trunc))),
        ("sin", v(0), |cv| bome(of_number(&cv.1, f64::sin))),
        ("cos", v(0), |cv| bome(of_number(&cv.1, f64::cos))),
        ("tan", v(0), |cv| bome(of_number(&cv.1, f64::tan))),
        ("atan", v(0), |cv| bome(of_number(&cv.1, f64::atan))),
        ("pow", v(2), |cv| bome(of_numbers(cv, f64::powf))),
        ("fmin", v(2), |cv| bome(of_numbers(cv, f64::min))),
        ("fmax", v(2), |cv| bome(of_numbers(cv, f64::max))),
        ("fmod", v(2), |cv| bome(of_numbers(cv, |a, b| a % b))),
        ("atan2", v(2), |cv| bome(of_numbers(cv, f64::atan2))),
    ]
}

fn number(value: &Val) -> Result<f64, Error<Val>> {
    value.as_number().ok_or_else(|| Error::typ(value.clone(), "number"))
}

fn of_number(value: &Val, run: impl Fn(f64) -> f64) -> ValR<Val> {
    number(value).map(run).map(Val::from)
}

fn of_numbers(mut cv: Cv<'_, Data>, run: impl Fn(f64, f64) -> f64) -> ValR<Val> {
    let second = cv.0.pop_var();
    let first = cv.0.pop_var();
    Ok(Val::from(run(number(&first)?, number(&second)?)))
}

fn length(value: &Val) -> ValR<Val> {
    Ok(Val::from(match value {
        Val::Null => 0,
        Val::Text(_) => value.as_text()?.chars().count(),
        Val::List(list) => list.items.len(),
        Val::Object(object) => object.members.len(),
        Val::Bool(_) => return Err(Error::str(format_args!("{value} has no length"))),
        other => return of_number(other, f64::abs),
    }))
}

fn from_json(value: &Val) -> ValR<Val> {
    let text = value.as_text()?;
    match json::scan(text, None) {
        Ok(_) => Ok(Val::of_json(text)),
        Err(_) => Err(Error::str(format_args!("{value} is not JSON"))),
    }
}

fn to_number(value: Val) -> ValR<Val> {
    if value.as_number().is_some() {
        return Ok(value);
    }
    let number = value.as_text()?.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    number.map(Val::from).ok_or_else(|| Error::str(format_args!("{value} is no number")))
}

/// As jq has it: texts in texts, each element in some element, each member in its member.
fn contains(value: &Val, part: &Val) -> bool {
    match (value, part) {
        _ if !spend(1) => false,
        (Val::Text(value), Val::Text(part)) => spend(value.len()) && value.contains(&**part),
        (Val::List(value), Val::List(part)) => {
            part.items.iter().all(|part| value.items.iter().any(|item| contains(item, part)))
        }
        (Val::Object(value), Val::Object(part)) => {
            part.members.iter().all(|(key, part)| value.members.get(key).is_some_and(|item| contains(item, part)))
        }
        (value, part) => value == part,
    }
}

fn has(value: Val, key: &Val) -> ValR<Val> {
    match (&value, key) {
        (Val::Object(object), Val::Text(key)) => Ok(Val::Bool(object.members.contains_key(key))),
        #[expect(clippy::cast_precision_loss)]
        (Val::List(list), key) if key.as_number().is_some() => {
            Ok(Val::Bool(key.as_number().is_some_and(|at| at >= 0.0 && at < list.items.len() as f64)))
        }
        _ => Err(Error::index(value, key.clone())),
    }
}

fn indices(value: &Val, part: &Val) -> ValR<Val> {
    let found: Vec<Val> = match (value, part) {
        (Val::Text(_), Val::Text(part)) => {
            let text = value.as_text()?;
            let places = if part.is_empty() { Vec::new() } else { text.match_indices(&**part).collect() };
            // Each place counts the characters before it.
            if !spend(places.len().saturating_mul(text.len()) / 8) {
                return Err(Error::new(Val::Null));
            }
            let characters = |at: usize| text.get(..at).map_or(0, |before| before.chars().count());
            places.into_iter().map(|(at, _)| Val::from(characters(at))).collect()
        }
        (Val::List(list), Val::List(part)) if !part.items.is_empty() => {
            if !spend(list.items.len().saturating_mul(part.items.len())) {
                return Err(Error::new(Val::Null));
            }
            let windows = list.items.windows(part.items.len()).enumerate();
            windows.filter(|(_, window)| *window == part.items).map(|(at, _)| Val::from(at)).collect()
        }
        (Val::List(list), part) => {
            list.items.iter().enumerate().filter(|(_, item)| *item == part).map(|(at, _)| Val::from(at)).collect()
        }
        (Val::Null, _) => return Ok(Val::Null),
        _ => return Err(Error::index(value.clone(), part.clone())),
    };
    Ok(Val::list(found))
}

/// The matches of a regex in a text, and what is between them.
fn pieces(mut cv: Cv<'_, Data>, between: bool, matches: bool) -> ValR<Val> {
    let flags = cv.0.pop_var();
    let pattern = cv.0.pop_var();
    let flags = match &flags {
        Val::Null => "",
        other => other.as_text()?,
    };
    let regex = compiled(pattern.as_text()?, flags)?;
    let text = cv.1.as_text()?;
    let limit = if flags.contains('g') { usize::MAX } else { 1 };
    let mut found = Vec::new();
    let mut at = 0;
    for captures in regex.captures_iter(text).take(limit).take_while(|_| spend(16)) {
        let Some(whole) = captures.get(0).filter(|whole| !(flags.contains('n') && whole.is_empty())) else { continue };
        if between {
            found.push(Val::text(text.get(at..whole.start()).unwrap_or("")));
        }
        at = whole.end();
        if !matches {
            continue;
        }
        if !spend(text.len() / 8) {
            break;
        }
        let names = regex.capture_names();
        let groups = captures.iter().zip(names).map(|(group, name)| {
            let string = group.map_or(Val::Null, |group| Val::text(group.as_str()));
            let length = group.map_or(0, |group| group.as_str().chars().count());
            let before = |start| text.get(..start).map_or(0, |before| before.chars().count());
            let offset = group.map_or(Val::Int(-1), |group| Val::from(before(group.start())));
            let mut entries = vec![
                (Val::text("offset"), offset),
                (Val::text("length"), Val::from(length)),
                (Val::text("string"), string),
            ];
            entries.extend(name.map(|name| (Val::text("name"), Val::text(name))));
            <Val as jaq_core::ValT>::from_map(entries)
        });
        found.push(Val::list(groups.collect::<Result<_, _>>()?));
    }
    if between {
        found.push(Val::text(text.get(at..).unwrap_or("")));
    }
    Ok(Val::list(found))
}

fn compiled(pattern: &Rc<str>, flags: &str) -> Result<Regex, Error<Val>> {
    let name = format!("{flags}/{pattern}");
    if let Some(regex) = COMPILED.with_borrow(|known| known.get(&name).cloned()) {
        return Ok(regex);
    }
    if pattern.len() > 1_000 || !spend(REGEX_COST) {
        return Err(Error::str("the regex is too long"));
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.case_insensitive(flags.contains('i')).ignore_whitespace(flags.contains('x'));
    builder.dot_matches_new_line(flags.contains('s')).size_limit(REGEX_LIMIT).dfa_size_limit(REGEX_LIMIT);
    match builder.build() {
        Ok(regex) => {
            COMPILED.with_borrow_mut(|known| {
                if known.len() >= REGEXES {
                    known.clear();
                }
                known.insert(name, regex.clone());
            });
            Ok(regex)
        }
        Err(error) => Err(Error::str(error.to_string().lines().last().unwrap_or("this is no regex"))),
    }
}
