//! What people write who have another language at hand, and what it is here: `&&`, `!x`, `x ? y : z`, `round(.a, 2)`.
//!
//! Looked at once an expression could not be read, at the place where that was noticed.

use std::ops::Range;

use super::super::FUNCTIONS;
use super::{Known, Mistake, Parsed, Parser, Wrong};

/// Operators of others at the place of a mistake, as far as they stand before it, and what they are here.
const OPERATORS: [(&str, &str, &str); 12] = [
    ("", "&&", "and"),
    ("", "&", "and"),
    ("|", "|", "or"),
    ("<", ">", "!="),
    ("!=", "=", "!="),
    ("==", "=", "=="),
    ("", "=>", ">="),
    ("", "=<", "<="),
    ("", "=", "=="),
    ("", "???", "//"),
    ("", "??", "//"),
    ("", "~=", "!="),
];

/// Words of others behind a value, and what they are here.
const INFIX: [(&str, &str); 9] = [
    ("is", "a comparison is written ==: .a == null"),
    ("equals", "a comparison is written =="),
    ("in", "write each comparison: .a == \"x\" or .a == \"y\""),
    ("between", "write both comparisons: .a >= 1 and .a <= 5"),
    ("like", "for a regular expression write .a | test(\"^x\")"),
    ("matches", "for a regular expression write .a | test(\"^x\")"),
    ("contains", "write .a | contains(\"x\")"),
    ("mod", "the remainder is written %"),
    ("xor", "write != between two conditions in brackets"),
];

/// Functions of others, and what they are called here.
const FUNCTIONS_ELSEWHERE: [(&str, &str); 20] = [
    ("min", "fmin"),
    ("max", "fmax"),
    ("len", "length"),
    ("size", "length"),
    ("count", "length"),
    ("lower", "ascii_downcase"),
    ("tolower", "ascii_downcase"),
    ("lowercase", "ascii_downcase"),
    ("upper", "ascii_upcase"),
    ("toupper", "ascii_upcase"),
    ("uppercase", "ascii_upcase"),
    ("int", "floor"),
    ("str", "tostring"),
    ("string", "tostring"),
    ("number", "tonumber"),
    ("float", "tonumber"),
    ("ceiling", "ceil"),
    ("match", "test"),
    ("regex", "test"),
    ("power", "pow"),
];

/// Constants of others.
const CONSTANTS: [(&str, &str); 6] =
    [("true", "true"), ("false", "false"), ("null", "null"), ("none", "null"), ("nil", "null"), ("undefined", "null")];

/// Words for the payload as a whole, which is `.` here.
const PAYLOADS: [&str; 6] = ["payload", "body", "msg", "message", "this", "data"];

/// Tells a mistake as what it most likely is.
pub(super) fn explain(text: &str, known: Option<Known<'_>>, mistake: Mistake) -> Mistake {
    let at = mistake.at.start;
    let habit = Habit { text, known, at };
    let found = match &mistake.wrong {
        Wrong::Syntax(_) => habit.operator().or_else(|| habit.sign()).or_else(|| habit.behind_a_value()),
        Wrong::Filter(word, _) => habit.word(word),
        Wrong::Arguments(_) => habit.call(at),
        _ => None,
    };
    found.unwrap_or(mistake)
}

/// An expression, and where it could not be read.
#[derive(Clone, Copy)]
struct Habit<'t> {
    text: &'t str,
    known: Option<Known<'t>>,
    at: usize,
}

impl<'t> Habit<'t> {
    fn part(&self, range: Range<usize>) -> &'t str {
        self.text.get(range).unwrap_or("")
    }

    fn before(&self) -> &'t str {
        self.part(0..self.at)
    }

    fn rest(&self) -> &'t str {
        self.part(self.at..self.text.len())
    }

    /// What can be read from a place on, as far as its end.
    fn read(&self, at: usize, parse: impl FnOnce(&mut Parser<'t>) -> Parsed) -> Option<Range<usize>> {
        let mut parser = Parser::new(self.text, self.known);
        parser.at = at;
        parser.space();
        let start = parser.at;
        parse(&mut parser).ok()?;
        let end = start + self.part(start..parser.at).trim_end().len();
        Some(start..end)
    }

    fn operator(&self) -> Option<Mistake> {
        let (before, behind, here) = OPERATORS
            .iter()
            .find(|(before, behind, _)| self.rest().starts_with(behind) && self.before().ends_with(before))?;
        let at = self.at - before.len()..self.at + behind.len();
        let title = format!("`{}` is written `{here}` here", self.part(at.clone()));
        Some(with_space(self.text, at, here, title))
    }

    /// What begins with a sign that is none here.
    fn sign(&self) -> Option<Mistake> {
        let rest = self.rest();
        let at = self.at;
        match rest.chars().next()? {
            '!' => {
                let operand = self.read(at + 1, Parser::unary)?;
                Some(self.negated(at..operand.end, operand))
            }
            quote @ ('\'' | '`' | '\u{201c}' | '\u{201d}' | '\u{201e}') => {
                let closing: &[char] = if quote.is_ascii() { &[quote] } else { &['\u{201c}', '\u{201d}', '"'] };
                let inside = rest.get(quote.len_utf8()..)?;
                let length = inside.find(closing)?;
                let closed = inside.get(length..)?.chars().next()?;
                let end = at + quote.len_utf8() + length + closed.len_utf8();
                let inside = inside.get(..length).filter(|inside| !inside.contains(['"', '\\']))?;
                Some(otherwise(at..end, "a text stands in double quotes", "", Some(format!("\"{inside}\""))))
            }
            '{' => {
                let length = rest.find('}')?;
                let name = rest.get(1..length)?;
                let plain = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
                let name = if name.starts_with('.') { name.to_owned() } else { format!("${name}") };
                let title = format!("`{{{}}}` is written `{name}` in an expression", name.trim_start_matches('$'));
                (plain && name.len() > 1).then(|| otherwise(at..at + length + 1, title, "", Some(name.clone())))
            }
            ',' => self.comma(),
            '?' => self.question(),
            '*' if self.before().ends_with('*') => Some(power(at - 1..at + 1)),
            '^' => Some(power(at..at + 1)),
            _ => None,
        }
    }

    /// A decimal comma, or one between the arguments of a function.
    fn comma(&self) -> Option<Mistake> {
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        if digit(self.before().chars().next_back()) && digit(self.rest().chars().nth(1)) {
            let title = "numbers have a decimal point";
            return Some(otherwise(self.at..self.at + 1, title, "", Some(".".to_owned())));
        }
        let mut open: Vec<usize> = Vec::new();
        let mut in_text = false;
        for (at, c) in self.before().char_indices() {
            match c {
                '"' => in_text = !in_text || self.part(0..at).ends_with('\\'),
                '(' if !in_text => open.push(at),
                ')' if !in_text => drop(open.pop()),
                _ => {}
            }
        }
        let before = self.part(0..*open.last()?);
        let name = before.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_');
        self.call(name.len())
    }

    /// `a ? b : c`, and a `?` that lets mistakes pass.
    fn question(&self) -> Option<Mistake> {
        let branches = || {
            let then = self.read(self.at + 1, Parser::pipe)?;
            let rest = self.part(then.end..self.text.len()).trim_start();
            let colon = rest.starts_with(':').then(|| self.text.len() - rest.len())?;
            Some((then, self.read(colon + 1, Parser::pipe)?))
        };
        let condition = self.before().trim();
        match branches() {
            Some((then, otherwise_)) => {
                let title = "a choice is written if .. then .. else .. end";
                let start = self.text.len() - self.text.trim_start().len();
                let is_whole = |whole: Range<usize>| whole.end == start + condition.len();
                let all =
                    self.text.trim_end().len() == otherwise_.end && self.read(0, Parser::pipe).is_some_and(is_whole);
                let (then, other) = (self.part(then), self.part(otherwise_.clone()));
                let written = format!("if {condition} then {then} else {other} end");
                let fix = all.then_some((start..otherwise_.end, written));
                Some(mistake(self.at..self.at + 1, title, "if .a > 1 then \"high\" else \"low\" end", fix))
            }
            None => {
                let title = "a field that is missing is no mistake: `?` has no meaning here";
                Some(otherwise(self.at..self.at + 1, title, "", Some(String::new())))
            }
        }
    }

    /// A value behind `not`, or a word of others behind a value.
    fn behind_a_value(&self) -> Option<Mistake> {
        let before = self.before().trim_end();
        let start = before.strip_suffix("not").map(str::len);
        if let Some(start) = start.filter(|start| !self.part(0..*start).ends_with(|c| is_inner(c) || c == '.'))
            && let Some(operand) = self.read(self.at, Parser::comparison)
        {
            return Some(self.negated(start..operand.end, operand));
        }
        let length = self.rest().find(|c| !is_inner(c)).unwrap_or(self.rest().len());
        let at = self.at..self.at + length;
        let word = self.part(at.clone());
        let lower = word.to_ascii_lowercase();
        match lower.as_str() {
            "and" | "or" => Some(otherwise(at, format!("`{word}` is written `{lower}` here"), "", Some(lower))),
            _ => {
                let (_, help) = INFIX.iter().find(|(infix, _)| *infix == lower)?;
                Some(otherwise(at, format!("there is no operator `{word}`"), help, None))
            }
        }
    }

    /// A word that is none here.
    fn word(&self, word: &str) -> Option<Mistake> {
        let end = self.at + word.len();
        let lower = word.to_ascii_lowercase();
        let behind = self.part(end..self.text.len());
        if lower == "not" {
            let operand = self.read(end, Parser::comparison)?;
            return Some(self.negated(self.at..operand.end, operand));
        }
        if lower == "now" && !behind.starts_with('(') {
            let help = "$time is the time of receipt, as text; `script` calculates with times";
            return Some(otherwise(self.at..end, "there is no `now`", help, None));
        }
        if PAYLOADS.contains(&lower.as_str()) && behind.starts_with(['.', '[']) {
            let title = "the payload itself is written `.`, and a field of it `.field`";
            let instead = if behind.starts_with('[') { "." } else { "" };
            return Some(otherwise(self.at..end, title, "", Some(instead.to_owned())));
        }
        if let Some((_, here)) = CONSTANTS.iter().find(|(elsewhere, _)| *elsewhere == lower) {
            let title = format!("`{word}` is written `{here}` here");
            return Some(otherwise(self.at..end, title, "", Some((*here).to_owned())));
        }
        if behind.starts_with('(') {
            return self.call(self.at);
        }
        let (_, here) = FUNCTIONS_ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == lower)?;
        Some(otherwise(self.at..end, format!("`{word}` is called `{here}` here"), "", Some((*here).to_owned())))
    }

    /// A function with its value in brackets, or with commas between its arguments: `round(.a, 2)`.
    fn call(&self, start: usize) -> Option<Mistake> {
        let length = self.part(start..self.text.len()).find(|c| !is_inner(c))?;
        let word = self.part(start..start + length);
        let lower = word.to_ascii_lowercase();
        let elsewhere = FUNCTIONS_ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == lower).map(|(_, here)| *here);
        let (name, least, most) = FUNCTIONS
            .iter()
            .map(|(name, _, least, most)| (*name, *least, *most))
            .chain([("test", 1, 1)])
            .find(|(name, ..)| *name == elsewhere.unwrap_or(lower.as_str()))?;
        let mut at = start + length;
        let (mut arguments, mut with_comma) = (Vec::new(), false);
        loop {
            // Behind the bracket, the comma or the semicolon.
            let argument = self.read(at + 1, Parser::pipe)?;
            let rest = self.part(argument.end..self.text.len()).trim_start();
            at = self.text.len() - rest.len();
            arguments.push(self.part(argument));
            match rest.chars().next()? {
                ',' => with_comma = true,
                ';' => {}
                ')' => break,
                _ => return None,
            }
        }
        let whole = start..at + 1;
        if name == "not" {
            let written = format!("({} | not)", arguments.first().filter(|_| arguments.len() == 1)?);
            return Some(otherwise(whole, "`not` stands behind what it is about", "", Some(written)));
        }
        if with_comma && (least.max(1)..=most).contains(&arguments.len()) {
            let written = format!("{name}({})", arguments.join("; "));
            let title = "between arguments stands `;`";
            return Some(otherwise(whole, title, "", Some(written)));
        }
        // Behind `|` it has its value already.
        let (value, others) = arguments.split_first().filter(|_| !self.part(0..start).trim_end().ends_with('|'))?;
        let written = match others.len() {
            0 if least == 0 => format!("({value} | {name})"),
            count if (least.max(1)..=most).contains(&count) => format!("({value} | {name}({}))", others.join("; ")),
            _ => return None,
        };
        let title = format!("`{name}` stands behind the value it is about");
        Some(otherwise(whole, title, "", Some(written)))
    }

    /// `not` behind what it is about.
    fn negated(&self, at: Range<usize>, operand: Range<usize>) -> Mistake {
        let written = self.part(operand);
        let inside = written.strip_prefix('(').and_then(|inside| inside.strip_suffix(')'));
        let inside = inside.filter(|inside| !inside.contains(['(', ')'])).unwrap_or(written);
        otherwise(at, "`not` stands behind what it is about", "", Some(format!("({inside} | not)")))
    }
}

fn is_inner(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where another text belongs in the place of this one.
fn otherwise(at: Range<usize>, title: impl Into<String>, help: &str, instead: Option<String>) -> Mistake {
    let fix = instead.map(|instead| (at.clone(), instead));
    mistake(at, title, help, fix)
}

fn mistake(at: Range<usize>, title: impl Into<String>, help: &str, fix: Option<(Range<usize>, String)>) -> Mistake {
    let help = help.to_owned();
    Mistake { at, wrong: Wrong::Otherwise { code: "script-syntax", title: title.into(), help, fix } }
}

/// A word in the place of signs, which need no space around them.
fn with_space(text: &str, at: Range<usize>, here: &str, title: String) -> Mistake {
    let is_word = here.chars().all(char::is_alphabetic);
    let before = text.get(..at.start).unwrap_or("").ends_with(|c: char| !c.is_whitespace());
    let behind = text.get(at.end..).unwrap_or("").starts_with(|c: char| !c.is_whitespace());
    let space = |needed| if is_word && needed { " " } else { "" };
    otherwise(at, title, "", Some(format!("{}{here}{}", space(before), space(behind))))
}

fn power(at: Range<usize>) -> Mistake {
    otherwise(at, "powers are calculated by a function", "write pow(.a; 2)", None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{mentions, parse};
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever is written: a mistake lies in the text, and what is to be replaced too.
        #[test]
        fn mistakes_and_fixes_lie_in_the_text(parts in proptest::collection::vec(prop_oneof![
            Just(".a"), Just(" && "), Just("||"), Just("!"), Just("not "), Just("NOT("), Just("("), Just(")"), Just(" ? "), Just(" : "),
            Just("'x'"), Just("'"), Just("\u{201c}ü\u{201d}"), Just("{m}"), Just("{"), Just("}"), Just("round(.a, 2)"), Just("min("), Just(","),
            Just("0,5"), Just(" = "), Just("=="), Just("<>"), Just("ü"), Just("\""), Just("\\"), Just(" is "), Just(" | "), Just("payload."),
            Just("**"), Just("if "), Just(" then "), Just(" end"), Just("$m"), Just("# "), Just("\n"), Just("; "), Just("[0]"), Just("1"),
        ], 1..10)) {
            let text = parts.concat();
            mentions(&text);
            if let Err(mistake) = parse(&text, Known { names: &["m".to_owned()], columns: &[] }) {
                prop_assert!(mistake.at.start <= text.len(), "{:?}: {:?}", text, mistake);
                if let Wrong::Otherwise { fix: Some((at, _)), .. } = &mistake.wrong {
                    prop_assert!(text.get(at.clone()).is_some(), "{:?}: {:?}", text, mistake);
                }
            }
        }
    }
}
