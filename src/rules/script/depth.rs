//! How deep a script nests, told from its text before it is parsed: jaq reads, compiles and runs by recursion, and a
//! script that nests too deep would end the process.
//!
//! What deepens: brackets and operators, which stand for a step each; the values of a list, the members of an object and
//! the pieces of a text, which jaq adds up one into the other and which cost less; the steps of a path, which cost least.
//! What stands side by side counts once, as deep as the deepest of it: the members of an object, the branches of an `if`,
//! what commas part. A definition counts in full, for it may be called at the deepest place. Comments and texts
//! count nothing.

use std::ops::Range;

use crate::rules::expr::{Mistake, Wrong};

/// The longest script, in bytes.
const MAX_LENGTH: usize = 8_192;

/// The deepest nesting of brackets.
const MAX_BRACKETS: usize = 24;

/// How deep a script may be in all. A thread of 2 MiB bears twice as much, in a build without optimisation.
const MAX_DEPTH: usize = 720;

/// What a bracket, an operator or a keyword adds to the depth: 120 of them are the most.
const OPERATOR: usize = 6;
/// A value of a list: 180.
const VALUE: usize = 4;
/// A member of an object, a piece of a text: 240.
const PIECE: usize = 3;
/// A step of a path.
const STEP: usize = 1;

const TOO_DEEP: &str = "this script is deeper than can be read";
const LESS_DEEP: &str = "make an object at once, {a: .., b: ..}, not by one step after the other; `set`, `rename` and `add` can do the rest";
const TOO_MANY_BRACKETS: &str = "brackets nest at most 24 deep";

/// Words that count as operators.
const KEYWORDS: [&str; 8] = ["try", "reduce", "foreach", "label", "def", "as", "and", "or"];

/// Looks at the text before it is parsed.
pub(super) fn check(text: &str) -> Result<(), Mistake> {
    if text.len() > MAX_LENGTH {
        let title = format!("a script has at most {MAX_LENGTH} bytes, and this one has {}", text.len());
        return Err(wrong(0..text.len(), &title, "a long list of names belongs into a table, see `lookup`"));
    }
    Scan { text, at: 0, around: Vec::new(), top: Level::default(), defined: 0 }.all()
}

fn wrong(at: Range<usize>, title: &str, help: &str) -> Mistake {
    let (code, title, help) = ("script-syntax", title.to_owned(), help.to_owned());
    Mistake { at, wrong: Wrong::Otherwise { code, title, help, fix: None } }
}

/// What opens a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Script,
    Bracket,
    Object,
    /// `\(..)`
    InText,
    If,
    Def,
}

/// What is open, as deep as it is so far.
#[derive(Debug, Default)]
struct Level {
    kind: Kind,
    /// What deepens everything in it.
    fixed: usize,
    /// The same of the part that is being read.
    part: usize,
    /// Operators since the last `|` or comma of the part, and the most there were between two of them.
    operators: usize,
    most: usize,
    /// The deepest that was opened and closed in the part.
    inner: usize,
    /// The deepest part before this one.
    before: usize,
}

impl Level {
    fn own(&self) -> usize {
        self.fixed + self.part + self.most.max(self.operators)
    }

    fn depth(&self) -> usize {
        (self.own() + self.inner).max(self.fixed + self.before)
    }

    /// Goes on with what is bound less tightly.
    fn next_operand(&mut self) {
        self.most = self.most.max(self.operators);
        self.operators = 0;
    }

    /// Goes on with what stands beside.
    fn next_part(&mut self) {
        self.before = self.before.max(self.part + self.most.max(self.operators) + self.inner);
        (self.part, self.operators, self.most, self.inner) = (0, 0, 0, 0);
    }
}

struct Scan<'t> {
    text: &'t str,
    at: usize,
    /// What is open around the last level.
    around: Vec<Level>,
    /// The level that was opened last.
    top: Level,
    /// The depths of all definitions.
    defined: usize,
}

impl Scan<'_> {
    fn all(mut self) -> Result<(), Mistake> {
        while let Some(c) = self.rest().chars().next() {
            let start = self.at;
            self.at += c.len_utf8();
            match c {
                '#' => self.comment(),
                '"' => self.string(),
                '(' | '[' => self.push(Kind::Bracket),
                '{' => self.push(Kind::Object),
                ')' | ']' | '}' => self.close(),
                '|' if !self.rest().starts_with('=') => {
                    self.top.part += OPERATOR;
                    self.top.next_operand();
                }
                ',' => self.comma(),
                ';' if self.top.kind == Kind::Def => self.pop(),
                '.' => {
                    self.identifier();
                    self.top.operators += STEP;
                }
                '?' => self.top.operators += STEP,
                '|' | '+' | '-' | '*' | '/' | '%' | '=' | '<' | '>' | '!' => {
                    let rest = self.rest();
                    self.at += rest.find(|c: char| !"|=!<>+*/%".contains(c)).unwrap_or(rest.len());
                    self.top.operators += OPERATOR;
                }
                c if c.is_alphanumeric() || matches!(c, '_' | '$' | '@') => self.word(start),
                _ => {}
            }
            self.within(start..start + c.len_utf8())?;
        }
        Ok(())
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn within(&mut self, at: Range<usize>) -> Result<(), Mistake> {
        let is_bracket = |level: &&Level| matches!(level.kind, Kind::Bracket | Kind::Object | Kind::InText);
        if self.around.iter().chain([&self.top]).filter(is_bracket).count() > MAX_BRACKETS {
            return Err(wrong(at, TOO_MANY_BRACKETS, "`. as $x |` keeps what is calculated once for later"));
        }
        if self.defined + self.around.iter().map(Level::own).sum::<usize>() + self.top.depth() > MAX_DEPTH {
            return Err(wrong(at, TOO_DEEP, LESS_DEEP));
        }
        Ok(())
    }

    fn push(&mut self, kind: Kind) {
        let level = Level { kind, fixed: OPERATOR, ..Level::default() };
        self.around.push(std::mem::replace(&mut self.top, level));
    }

    /// Ends the last level, as a part of the one around it, or as a definition.
    fn pop(&mut self) {
        let Some(around) = self.around.pop() else { return };
        let level = std::mem::replace(&mut self.top, around);
        match level.kind {
            Kind::Def => self.defined += level.depth(),
            _ => self.top.inner = self.top.inner.max(level.depth()),
        }
    }

    /// Ends a bracket, with whatever was left open in it.
    fn close(&mut self) {
        while matches!(self.top.kind, Kind::If | Kind::Def) {
            self.pop();
        }
        match self.top.kind {
            Kind::Script => {}
            Kind::InText => {
                self.pop();
                self.string();
            }
            _ => {
                self.pop();
                // What follows may be a step into it: `.a[0][1]`.
                self.top.operators += STEP;
            }
        }
    }

    fn comma(&mut self) {
        match self.top.kind {
            Kind::Object => {
                self.top.fixed += PIECE;
                self.top.next_part();
            }
            _ => {
                self.top.part += VALUE;
                self.top.next_operand();
            }
        }
    }

    fn identifier(&mut self) {
        let rest = self.rest();
        self.at += rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    }

    fn word(&mut self, start: usize) {
        self.identifier();
        let word = self.text.get(start..self.at).unwrap_or("");
        let counts = KEYWORDS.contains(&word);
        let branch = matches!(word, "then" | "elif" | "else" | "end") && self.top.kind == Kind::If;
        match word {
            "if" => self.push(Kind::If),
            "def" => {
                self.top.part += OPERATOR;
                self.push(Kind::Def);
            }
            "end" if branch => self.pop(),
            "elif" if branch => {
                self.top.fixed += OPERATOR;
                self.top.next_part();
            }
            _ if branch => self.top.next_part(),
            _ if counts => self.top.operators += OPERATOR,
            _ => {}
        }
    }

    /// Goes behind a comment; an odd number of `\` at the end of its line makes it go on.
    fn comment(&mut self) {
        loop {
            let rest = self.rest();
            let Some(length) = rest.find('\n') else {
                self.at = self.text.len();
                return;
            };
            let line = rest.get(..length).unwrap_or("").trim_end_matches('\r');
            let slashes = line.len() - line.trim_end_matches('\\').len();
            self.at += length + 1;
            if slashes % 2 == 0 {
                return;
            }
        }
    }

    /// Goes behind a text, or into what is calculated in it.
    fn string(&mut self) {
        loop {
            let rest = self.rest();
            let Some(length) = rest.find(['"', '\\']) else {
                self.at = self.text.len();
                return;
            };
            let is_end = rest.get(length..).is_some_and(|rest| rest.starts_with('"'));
            let behind = rest.get(length + 1..).and_then(|rest| rest.chars().next());
            self.at += length + 1;
            if is_end {
                return;
            }
            // The escape, and the text before it.
            self.top.operators += PIECE + if length > 0 { PIECE } else { 0 };
            self.at += behind.map_or(0, char::len_utf8);
            if behind == Some('(') {
                self.push(Kind::InText);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_what_is_not() {
        let joined = |part: &str, by: &str, times: usize| vec![part; times].join(by);
        let members = |count: usize| {
            let members: Vec<String> = (0..count).map(|number| format!("k{number}: (.a + {number})")).collect();
            format!("{{{}}}", members.join(", "))
        };
        let dashes = format!("# {}\n", "-".repeat(70));
        for (name, code, expect) in [
            ("comments", format!("{dashes}{dashes}# ((((( \"\n{{a: .a}}"), Ok(())),
            ("a comment that goes on", format!("# one \\\n{}\n.a", "|".repeat(200)), Ok(())),
            ("texts", format!("[\"{}\", \"\\\"{}\"]", "- | ".repeat(100), "(".repeat(100)), Ok(())),
            ("an object of many fields", members(200), Ok(())),
            ("a list of many texts", format!("[{}]", joined("\"x, y\"", ", ", 170)), Ok(())),
            ("sums side by side", format!("[{}]", joined("1 + 2 * 3", ", ", 150)), Ok(())),
            ("steps of assignments", joined(".a.b += 1", " | ", 110), Ok(())),
            ("one `if` after the other", format!("[{}]", joined("if . then 1 else 2 end", ", ", 150)), Ok(())),
            ("fields called as words", joined(".if.end.def", " + ", 60), Ok(())),
            ("calls", format!("def f(x; y): x + y; [{}]", joined("f(1; 2)", ", ", 150)), Ok(())),
            ("too many fields", members(260), Err("deeper")),
            ("too many values", format!("[{}]", joined("1", ", ", 190)), Err("deeper")),
            (
                "the first of many is the deepest",
                format!("[{}, {}]", joined("1", " | ", 100), joined("1", ", ", 40)),
                Err("deeper"),
            ),
            ("too many pieces", format!("\"{}\"", "\\(.)".repeat(250)), Err("deeper")),
            ("too many escapes", format!("\"{}\"", "a\\n".repeat(130)), Err("deeper")),
            ("too long a path", ".a".repeat(800), Err("deeper")),
            ("too many steps of another kind", format!(".{}", "[]".repeat(800)), Err("deeper")),
            ("too many operators", joined("1", " + ", 122), Err("deeper")),
            (
                "operators of several brackets",
                format!("{}({}", joined("1", " + ", 70), joined("1", " + ", 70)),
                Err("deeper"),
            ),
            (
                "definitions that call each other",
                (0..10).map(|n| format!("def f{n}: {}; ", joined(".", "|", 15))).collect(),
                Err("deeper"),
            ),
            ("branches", format!("if . then 1 {} end", "elif . then 2 ".repeat(121)), Err("deeper")),
            ("conditions", "if . then ".repeat(121), Err("deeper")),
            ("signs", "-".repeat(121), Err("deeper")),
            ("brackets", "[".repeat(25), Err("brackets nest")),
            ("brackets in texts", "\"\\(".repeat(25), Err("brackets nest")),
            ("length", " ".repeat(8_193), Err("8192 bytes")),
        ] {
            let told = check(&code).map_err(|mistake| match mistake.wrong {
                Wrong::Otherwise { title, .. } => title,
                other => format!("{other:?}"),
            });
            match expect {
                Ok(()) => assert_eq!(told, Ok(()), "{name}"),
                Err(part) => assert!(told.as_ref().is_err_and(|told| told.contains(part)), "{name}: {told:?}"),
            }
        }
    }
}
