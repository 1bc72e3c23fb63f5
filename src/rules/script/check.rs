//! What a script is refused for when it is loaded: jaq goes on for ever where it is told to.

use std::ops::Range;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::load::span;
use jaq_core::path::{Part, Path};

use crate::rules::expr::{Mistake, Wrong};

/// Filters that go on for ever, and what to write instead.
const ENDLESS: [(&str, &str); 4] = [
    ("repeat", "range(0; 10) counts to an end"),
    ("while", "range(0; 10) counts to an end"),
    ("until", "range(0; 10) counts to an end"),
    ("recurse", ".. visits everything in a value"),
];

/// Filters of jq that there are none of, and what to do without.
const ABSENT: [(&[&str], &str); 9] = [
    (&["setpath"], "write the path itself: .a.b = 1"),
    (&["delpaths"], "write the path itself: del(.a.b)"),
    (&["combinations"], "bind one list after the other: .a[] as $x | .b[] as $y"),
    (&["now"], "$time is when the publish came, as text, and ($time | fromdate) the same in seconds"),
    (
        &["localtime", "strflocaltime", "dateadd", "datesub", "date"],
        "times are seconds here, in UTC: fromdate, todate, strptime, mktime, gmtime and strftime",
    ),
    (
        &[
            "env",
            "input",
            "inputs",
            "input_filename",
            "input_line_number",
            "debug",
            "stderr",
            "halt",
            "halt_error",
            "builtins",
            "modulemeta",
            "get_search_list",
        ],
        "a script sees the payload and its $names, and nothing else",
    ),
    (
        &["tostream", "fromstream", "truncate_stream", "leaf_paths"],
        ".. visits everything in a value, `paths` says where",
    ),
    (&["@base32", "@base32d"], "there are @text, @json, @csv, @tsv, @html, @uri, @sh, @base64 and @base64d"),
    (
        &[
            "logb",
            "significand",
            "gamma",
            "lgamma",
            "tgamma",
            "frexp",
            "ldexp",
            "scalb",
            "drem",
            "pow10",
            "exp10",
            "exp2",
        ],
        "there are sqrt, pow, exp, log, log2, log10, sin, cos, tan, atan, atan2, fmin, fmax, fmod, fabs and trunc",
    ),
];

/// Filters that others are made of, and that nobody would look for.
const INNER: [&str; 18] = [
    "capture_of_match",
    "decode_base64",
    "encode_base64",
    "encode_uri",
    "error_empty",
    "escape_html",
    "escape_sh",
    "halt",
    "key_values",
    "matches",
    "max_by_or_empty",
    "min_by_or_empty",
    "path_value",
    "scan_",
    "separated",
    "split_",
    "split_matches",
    "!empty",
];

/// Filters whose argument is a path.
const OF_PATHS: [&str; 4] = ["del", "path", "pick", "paths"];

/// Looks for what might never end.
pub(super) fn finite<'s>(code: &'s str, term: &Term<&'s str>) -> Result<(), Mistake> {
    Check { code, open: Vec::new(), own: Vec::new() }.term(term, false)
}

/// What there is none of, where jq has it.
pub(super) fn absent(name: &str, at: &Range<usize>) -> Option<Wrong> {
    let (_, help) = ABSENT.iter().find(|(names, _)| names.contains(&name))?;
    let fix = (name == "now").then(|| (at.clone(), "($time | fromdate)".to_owned()));
    let (code, title) = ("unknown-filter", format!("`script` has no `{name}`"));
    Some(Wrong::Otherwise { code, title, help: (*help).to_owned(), fix })
}

/// True for a filter to be proposed.
pub(super) fn is_offered(name: &str) -> bool {
    !INNER.contains(&name)
        && !ENDLESS.iter().any(|(endless, _)| *endless == name)
        && !ABSENT.iter().any(|(names, _)| names.contains(&name))
}

struct Check<'s> {
    code: &'s str,
    /// Definitions in whose body this is.
    open: Vec<&'s str>,
    /// All definitions of the script.
    own: Vec<&'s str>,
}

type Checked = Result<(), Mistake>;

impl<'s> Check<'s> {
    fn endless<T>(&self, at: &'s str, why: &str) -> Result<T, Mistake> {
        Err(Mistake { at: span(self.code, at), wrong: Wrong::Endless(why.to_owned()) })
    }

    fn no_place<T>(&self, at: &'s str, help: &str) -> Result<T, Mistake> {
        let (code, title) = ("script-syntax", "this cannot say where to assign, or what to delete".to_owned());
        Err(Mistake {
            at: span(self.code, at),
            wrong: Wrong::Otherwise { code, title, help: help.to_owned(), fix: None },
        })
    }

    /// `path` is true where the term says where, and not what: on the left of an assignment.
    fn term(&mut self, term: &Term<&'s str>, path: bool) -> Checked {
        match term {
            Term::Id | Term::Recurse | Term::Num(_) | Term::Arr(None) | Term::Var(_) | Term::Break(_) => Ok(()),
            Term::Str(_, parts) => parts.iter().try_for_each(|part| match part {
                StrPart::Term(term) => self.term(term, false),
                _ => Ok(()),
            }),
            Term::Arr(Some(inner)) | Term::Neg(inner) => self.term(inner, false),
            Term::Label(_, inner) => self.term(inner, path),
            Term::Obj(entries) => entries.iter().try_for_each(|(key, value)| {
                self.term(key, false)?;
                value.as_ref().map_or(Ok(()), |value| self.term(value, false))
            }),
            Term::BinOp(left, op, right) => self.operation(left, op, right, path),
            Term::Fold(name, _, _, _) if path => self.no_place(name, "assign in the loop instead"),
            Term::Fold(_, over, pattern, steps) => {
                self.term(over, false)?;
                self.pattern(pattern)?;
                steps.iter().try_for_each(|step| self.term(step, false))
            }
            Term::TryCatch(inner, catch) => {
                self.term(inner, path)?;
                catch.as_ref().map_or(Ok(()), |catch| self.term(catch, false))
            }
            Term::IfThenElse(branches, otherwise) => {
                for (condition, then) in branches {
                    self.term(condition, false)?;
                    self.term(then, path)?;
                }
                otherwise.as_ref().map_or(Ok(()), |otherwise| self.term(otherwise, path))
            }
            Term::Def(defs, inner) => {
                defs.iter().try_for_each(|def| self.definition(def))?;
                self.term(inner, path)
            }
            Term::Call(name, arguments) => self.call(name, arguments, path),
            Term::Path(of, Path(parts)) => {
                self.term(of, path)?;
                for (part, _) in parts {
                    match part {
                        Part::Index(index) => self.term(index, false)?,
                        Part::Range(start, end) => {
                            start.iter().chain(end).try_for_each(|bound| self.term(bound, false))?;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn operation(
        &mut self,
        left: &Term<&'s str>,
        op: &BinaryOp<&'s str>,
        right: &Term<&'s str>,
        path: bool,
    ) -> Checked {
        let (left_path, right_path) = match op {
            BinaryOp::Pipe(None) | BinaryOp::Comma | BinaryOp::Alt => (path, path),
            BinaryOp::Pipe(Some(pattern)) => {
                self.pattern(pattern)?;
                (false, path)
            }
            BinaryOp::Assign | BinaryOp::Update | BinaryOp::UpdateMath(_) | BinaryOp::UpdateAlt => (true, false),
            BinaryOp::Or | BinaryOp::And | BinaryOp::Math(_) | BinaryOp::Cmp(_) => (false, false),
        };
        self.term(left, left_path)?;
        self.term(right, right_path)
    }

    fn definition(&mut self, def: &Def<&'s str>) -> Checked {
        self.own.push(def.name);
        self.open.push(def.name);
        let checked = self.term(&def.body, false);
        self.open.pop();
        checked
    }

    fn call(&mut self, name: &'s str, arguments: &[Term<&'s str>], path: bool) -> Checked {
        if self.open.contains(&name) {
            return self.endless(name, "a definition that calls itself may never end");
        }
        let is_own = self.own.contains(&name);
        let by_itself = matches!(name, "recurse" | "combinations") && arguments.is_empty();
        if let Some((_, instead)) = ENDLESS.iter().find(|(endless, _)| *endless == name)
            && !is_own
            && !by_itself
        {
            return self.endless(name, &format!("`{name}` may never end: {instead}"));
        }
        let at = span(self.code, name);
        if let Some(wrong) = absent(name, &at).filter(|_| !is_own && !by_itself) {
            return Err(Mistake { at, wrong });
        }
        if path && (is_own || name == "getpath") {
            return self.no_place(name, "write the path itself: .a.b");
        }
        let of_path = OF_PATHS.contains(&name) || path;
        arguments.iter().try_for_each(|argument| self.term(argument, of_path))
    }

    fn pattern(&mut self, pattern: &Pattern<&'s str>) -> Checked {
        match pattern {
            Pattern::Var(_) => Ok(()),
            Pattern::Arr(inner) => inner.iter().try_for_each(|inner| self.pattern(inner)),
            Pattern::Obj(entries) => entries.iter().try_for_each(|(key, inner)| {
                self.term(key, false)?;
                self.pattern(inner)
            }),
        }
    }
}
