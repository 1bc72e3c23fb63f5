//! What a script is refused for when it is loaded: jaq goes on for ever where it is told to.

use std::ops::Range;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::load::span;
use jaq_core::path::{Part, Path};

use crate::rules::expr::{Mistake, Wrong};

/// The longest script, in bytes.
const MAX_LENGTH: usize = 8_192;

/// The deepest nesting of brackets, and most operators and keywords: jaq reads and runs them by recursion.
const MAX_DEPTH: usize = 24;
const MAX_OPERATORS: usize = 120;

/// Words that count as operators.
const KEYWORDS: [&str; 10] = ["if", "elif", "try", "reduce", "foreach", "label", "def", "as", "and", "or"];

/// Filters that go on for ever or as deep as they are told, and what to write instead.
const ENDLESS: [(&str, &str); 8] = [
    ("repeat", "range(0; 10) counts to an end"),
    ("while", "range(0; 10) counts to an end"),
    ("until", "range(0; 10) counts to an end"),
    ("recurse", ".. visits everything in a value"),
    ("getpath", "write the path itself: .a.b"),
    ("setpath", "write the path itself: .a.b = 1"),
    ("delpaths", "write the path itself: del(.a.b)"),
    ("combinations", "bind one list after the other: .a[] as $x | .b[] as $y"),
];

/// Filters whose argument is a path.
const OF_PATHS: [&str; 4] = ["del", "path", "pick", "paths"];

/// Looks at the text before it is parsed.
pub(super) fn size(text: &str) -> Result<(), Mistake> {
    let wrong = |at: Range<usize>, what: String| Err(Mistake { at, wrong: Wrong::Syntax(what) });
    if text.len() > MAX_LENGTH {
        return wrong(0..text.len(), format!("a script has at most {MAX_LENGTH} bytes"));
    }
    let (mut depth, mut operators) = (0_usize, 0_usize);
    let mut word = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '|' | ',' | '+' | '-' | '*' | '/' | '%' | '=' | '<' | '>' | '?' => operators += 1,
            _ => {}
        }
        let end = at + c.len_utf8();
        if !(c.is_alphanumeric() || c == '_') {
            word = end;
        } else if !text.get(end..).is_some_and(|rest| rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')) {
            operators += usize::from(text.get(word..end).is_some_and(|word| KEYWORDS.contains(&word)));
        }
        if depth > MAX_DEPTH {
            return wrong(at..end, format!("brackets nest at most {MAX_DEPTH} deep"));
        }
        if operators > MAX_OPERATORS {
            return wrong(at..end, "a script this long is two: split it with `continue`".to_owned());
        }
    }
    Ok(())
}

/// Looks for what might never end.
pub(super) fn finite<'s>(code: &'s str, term: &Term<&'s str>) -> Result<(), Mistake> {
    Check { code, open: Vec::new(), own: Vec::new() }.term(term, false)
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
            Term::Fold(name, _, _, _) if path => {
                self.endless(name, "a loop cannot say where to assign: assign in the loop instead")
            }
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
        let by_itself = matches!(name, "recurse" | "combinations") && arguments.is_empty();
        if let Some((_, instead)) = ENDLESS.iter().find(|(endless, _)| *endless == name)
            && !self.own.contains(&name)
            && !by_itself
        {
            return self.endless(name, &format!("`{name}` may never end: {instead}"));
        }
        if path && self.own.contains(&name) {
            return self.endless(name, "a definition cannot say where to assign: write the path itself");
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
