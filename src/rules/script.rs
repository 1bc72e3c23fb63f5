//! `script`: the payload through a filter in jq's language, run by jaq.
//!
//! `.` is the payload, `$line` a name from the topic, the decoder or the table, `$topic`, `$client`, `$user`, `$time`,
//! `$qos` and `$retained` are of the publish. Each result becomes a message; none at all drops the publish. What is not
//! JSON for jq (NaN, infinity) becomes null.
//!
//! A script is finite. When it is loaded, filters that may never end, definitions that call themselves, and more of it
//! than can be read by recursion are refused ([`check`], [`depth`]); nothing of it sees files, the environment or the clock. When it
//! runs, its values count what they cost ([`value`]), and it ends once that is more than one message may cost.

use jaq_core::load::{Arena, File, Loader, lex, parse};
use jaq_core::{Compiler, Ctx, Vars};

use super::QuarantineReason;
use super::decode::MAX_ITEMS;
use super::expr::{Known, Mistake, Name, VARIABLES, Wrong};
use super::json;
use super::refusal::{Refusal, not_json};
use super::template::Facts;

mod check;
mod depth;
mod formats;
mod functions;
mod value;

use functions::Data;
use value::Val;

/// Bytes that all results of one run may have.
const MAX_RESULT: usize = 4 << 20;

/// A checked script.
pub(super) struct Script {
    filter: jaq_core::Filter<Data>,
    /// What its variables are, in the order in which it was given them.
    variables: Vec<Name>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script").field("variables", &self.variables).finish_non_exhaustive()
    }
}

impl Script {
    /// Reads a script; every mistake of the first kind found is told.
    pub(super) fn parse(code: &str, known: Known<'_>) -> Result<Self, Vec<Mistake>> {
        depth::check(code).map_err(|mistake| vec![mistake])?;
        let names = known.names.iter().enumerate().map(|(index, name)| (name.as_str(), Name::Capture(index)));
        let columns = known.columns.iter().enumerate().map(|(index, name)| (name.as_str(), Name::Column(index)));
        let all: Vec<(String, Name)> =
            names.chain(columns).chain(VARIABLES).map(|(name, what)| (format!("${name}"), what)).collect();
        let arena = Arena::default();
        let modules = Loader::new(functions::defs())
            .load(&arena, File { code, path: () })
            .map_err(|errors| errors.into_iter().flat_map(|(_, error)| unread(code, error)).collect::<Vec<_>>())?;
        if let Some(term) = jaq_core::load::parse(code, |parser| parser.term()) {
            check::finite(code, &term).map_err(|mistake| vec![mistake])?;
        }
        let filter = Compiler::default()
            .with_funs(functions::funs())
            .with_global_vars(all.iter().map(|(name, _)| name.as_str()))
            .compile(modules)
            .map_err(|errors| errors.into_iter().flat_map(|(_, errors)| undefined(code, errors)).collect::<Vec<_>>())?;
        Ok(Self { filter, variables: all.into_iter().map(|(_, what)| what).collect() })
    }

    /// The results as JSON.
    pub(super) fn run(&self, input: &[u8], facts: &Facts<'_>) -> Result<Vec<Vec<u8>>, Refusal> {
        let text = std::str::from_utf8(input).map_err(|_| not_json(input, None))?;
        json::scan(text, None).map_err(|error| not_json(input, Some(error)))?;
        value::refuel();
        let variables = self.variables.iter().map(|name| variable(*name, facts));
        let context = Ctx::<Data>::new(&self.filter.lut, Vars::new(variables));
        let mut results: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for result in self.filter.id.run((context, Val::of_json(text))) {
            if value::is_spent() {
                return Err(too_much());
            }
            let result = match result.map_err(jaq_core::Exn::get_err) {
                Ok(value) => value.to_json(),
                Err(Ok(error)) => Err(error),
                Err(Err(_)) => return Err(Refusal::new(QuarantineReason::ScriptFailed, "the script broke off")),
            };
            let result = match result {
                Ok(result) => result,
                Err(_) if value::is_spent() => return Err(too_much()),
                Err(error) => {
                    let said = match error.into_val() {
                        Val::Text(text) => excerpt(&text),
                        other => excerpt(&other.to_string()),
                    };
                    let detail = format!("the script failed: {said}");
                    return Err(Refusal::new(QuarantineReason::ScriptFailed, detail));
                }
            };
            bytes += result.len();
            if results.len() >= MAX_ITEMS || bytes > MAX_RESULT {
                return Err(too_much());
            }
            results.push(result.into_bytes());
        }
        match value::is_spent() {
            true => Err(too_much()),
            false => Ok(results),
        }
    }
}

fn too_much() -> Refusal {
    Refusal::new(QuarantineReason::ScriptLimit, "the script wants more time or room than one message may have")
}

fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

fn variable(name: Name, facts: &Facts<'_>) -> Val {
    let publish = facts.publish;
    match name {
        Name::Capture(index) => Val::text(facts.capture(index)),
        Name::Column(index) => facts.column(index).map_or(Val::Null, Val::of_json),
        Name::Topic => Val::text(publish.topic),
        Name::Client => Val::text(publish.client),
        Name::User => publish.user.map_or(Val::Null, Val::text),
        Name::Time => Val::from(facts.time.to_string()),
        Name::Qos => Val::from(isize::from(publish.qos)),
        Name::Retained => Val::Bool(publish.retain),
    }
}

/// What could not be read.
fn unread(code: &str, error: jaq_core::load::Error<&str>) -> Vec<Mistake> {
    let at = |part: &str| {
        let place = jaq_core::load::span(code, part);
        let length = code.get(place.start..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
        place.start..place.end.min(place.start + length.max(part.split_whitespace().next().map_or(0, str::len)))
    };
    let place = |part: &str| if part.is_empty() { code.trim_end().len()..code.trim_end().len() + 1 } else { at(part) };
    let mistake =
        |part: &str, expected: &str| Mistake { at: place(part), wrong: Wrong::Syntax(format!("expected {expected}")) };
    match error {
        jaq_core::load::Error::Io(errors) => errors
            .into_iter()
            .map(|(part, _)| Mistake { at: place(part), wrong: Wrong::Syntax("no files are read here".to_owned()) })
            .collect(),
        jaq_core::load::Error::Lex(errors) => errors
            .into_iter()
            .map(|(expected, part)| match expected {
                lex::Expect::Delim(_) => mistake("", expected.as_str()),
                expected => mistake(part, expected.as_str()),
            })
            .collect(),
        jaq_core::load::Error::Parse(errors) => {
            errors.into_iter().map(|(expected, part): parse::Error<&str>| mistake(part, expected.as_str())).collect()
        }
    }
}

/// What is not known.
fn undefined(code: &str, errors: Vec<jaq_core::compile::Error<&str>>) -> Vec<Mistake> {
    let tell = |(name, what): jaq_core::compile::Error<&str>| {
        let at = jaq_core::load::span(code, name);
        let wrong = match what {
            jaq_core::compile::Undefined::Var => Wrong::Variable(name.trim_start_matches('$').to_owned()),
            jaq_core::compile::Undefined::Filter(_) => {
                check::absent(name, &at).unwrap_or_else(|| Wrong::ScriptFilter(name.to_owned(), known_filters()))
            }
            other => Wrong::Syntax(format!("there is no such {}", other.as_str())),
        };
        Mistake { at, wrong }
    };
    errors.into_iter().map(tell).collect()
}

/// The filters that can be called, to find the one that was meant.
fn known_filters() -> Vec<&'static str> {
    let defs = functions::defs().map(|def| def.name);
    let funs = functions::funs().map(|(name, ..)| name);
    let mut names: Vec<&str> = defs.chain(funs).filter(|name| check::is_offered(name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests;
