//! Terms: what stands between operators.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use regex::RegexBuilder;

use super::super::{CHECKED, Expr, FUNCTIONS, Function, Name};
use super::{Mistake, Parsed, Parser, VARIABLES, Wrong};

/// A compiled regex may grow to this.
const REGEX_LIMIT: usize = 1 << 20;

impl<'t> Parser<'t> {
    pub(super) fn term(&mut self) -> Parsed {
        self.space();
        match self.rest().chars().next() {
            Some('(') => {
                self.at += 1;
                let inner = self.nested(Self::pipe)?;
                if !self.take(")") {
                    return self.expected("closing parenthesis");
                }
                Ok(inner)
            }
            Some('.') => {
                self.at += 1;
                match self.rest().chars().next() {
                    Some(c) if c.is_alphabetic() || matches!(c, '_' | '"') => self.field(Expr::Dot),
                    Some('[') if !self.rest().starts_with("[]") => {
                        self.at += 1;
                        self.bracket(Expr::Dot)
                    }
                    Some('0'..='9') => self.expected("a digit before the point"),
                    _ => Ok(Expr::Dot),
                }
            }
            Some('$') => self.variable(),
            Some('"') => Ok(Expr::Text(self.string()?.into())),
            Some('0'..='9') => self.number(),
            Some('{' | '[') => self.expected("one value: objects and lists are made by `script`"),
            _ => self.word(),
        }
    }

    fn variable(&mut self) -> Parsed {
        let start = self.at;
        self.at += 1;
        let name = self.peek_word();
        self.at += name.len();
        let Some(known) = self.known else { return Ok(Expr::Name(Name::Topic)) };
        let position = |list: &[String]| list.iter().position(|known| known == name);
        let found = position(known.names).map(Name::Capture);
        let found = found.or_else(|| position(known.columns).map(Name::Column));
        let found = found.or_else(|| VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, name)| *name));
        found.map(Expr::Name).ok_or_else(|| Mistake { at: start..self.at, wrong: Wrong::Variable(name.to_owned()) })
    }

    fn number(&mut self) -> Parsed {
        let rest = self.rest();
        let mut length = 0;
        let mut before = ' ';
        for c in rest.chars() {
            let inner = c.is_ascii_digit()
                || matches!(c, '.' | 'e' | 'E')
                || (matches!(c, '+' | '-') && matches!(before, 'e' | 'E'));
            if !inner {
                break;
            }
            length += 1;
            before = c;
        }
        match rest.get(..length).and_then(|digits| digits.parse::<f64>().ok()).filter(|number| number.is_finite()) {
            Some(number) => {
                self.at += length;
                Ok(Expr::Number(number))
            }
            None => self.expected("a number"),
        }
    }

    /// A string with the escapes of JSON.
    pub(super) fn string(&mut self) -> Result<String, Mistake> {
        self.space();
        let start = self.at;
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                '"' if !escaped => {
                    self.at += at + 1;
                    let quoted = self.text.get(start..self.at).unwrap_or("");
                    return serde_json::from_str(quoted).map_err(|_| Mistake {
                        at: start..self.at,
                        wrong: Wrong::Syntax("expected a text with the escapes of JSON".to_owned()),
                    });
                }
                '(' if escaped => {
                    let wrong = Wrong::Syntax("texts are put together with +".to_owned());
                    return Err(Mistake { at: start + at - 1..start + at + 1, wrong });
                }
                _ => escaped = c == '\\' && !escaped,
            }
        }
        self.at = self.text.len();
        self.expected("closing quote")
    }

    fn word(&mut self) -> Parsed {
        let start = self.at;
        let word = self.peek_word();
        self.at += word.len();
        match word {
            "" => self.expected("a value"),
            "true" => Ok(Expr::Bool(true)),
            "false" => Ok(Expr::Bool(false)),
            "null" => Ok(Expr::Null),
            "if" => self.nested(Self::branches),
            "and" | "or" | "then" | "elif" | "else" | "end" => {
                self.at = start;
                self.expected("a value")
            }
            word => self.call(word, start),
        }
    }

    /// What stands behind `if` or `elif`.
    fn branches(&mut self) -> Parsed {
        let condition = self.nested(Self::pipe)?;
        if !self.take_word("then") {
            return self.expected("then");
        }
        let then = self.nested(Self::pipe)?;
        let otherwise = match () {
            () if self.take_word("elif") => self.nested(Self::branches)?,
            () if self.take_word("else") => {
                let otherwise = self.nested(Self::pipe)?;
                if !self.take_word("end") {
                    return self.expected("end");
                }
                otherwise
            }
            () if self.take_word("end") => Expr::Dot,
            () => return self.expected("else or end"),
        };
        Ok(Expr::If(Box::new([condition, then, otherwise])))
    }

    fn call(&mut self, word: &'t str, start: usize) -> Parsed {
        let place = start..self.at;
        let mut arguments = Vec::new();
        if self.rest().starts_with('(') {
            self.at += 1;
            loop {
                arguments.push(self.nested(Self::pipe)?);
                if !self.take(";") {
                    break;
                }
            }
            if !self.take(")") {
                return self.expected("closing parenthesis");
            }
        }
        if CHECKED.contains(&word) {
            return checked(word, &arguments).map_err(|wrong| Mistake { at: place, wrong });
        }
        let Some((_, function, least, most)) = FUNCTIONS.iter().find(|(name, ..)| *name == word) else {
            let names = FUNCTIONS.iter().map(|(name, ..)| *name).chain(CHECKED).collect();
            return Err(Mistake { at: place, wrong: Wrong::Filter(word.to_owned(), names) });
        };
        // The payload itself cannot be rounded: `round(.a)` is meant to be `.a | round`.
        let of_payload = *function == Function::Round && self.piped == 0 && !arguments.is_empty();
        if arguments.len() < *least || arguments.len() > *most || of_payload {
            let how = match (least, most) {
                (0, 0) => format!(".field | {word}"),
                (0, _) => format!(".field | {word}, or .field | {word}(2)"),
                (1, _) => format!(".field | {word}(\"text\")"),
                _ => format!("{word}(.a; .b)"),
            };
            return Err(Mistake { at: place, wrong: Wrong::Arguments(how) });
        }
        Ok(Expr::Call(*function, arguments.into()))
    }
}

/// The functions whose argument must be a text that makes sense.
fn checked(word: &str, arguments: &[Expr]) -> Result<Expr, Wrong> {
    let text = match arguments {
        [] => None,
        [Expr::Text(text)] => Some(&**text),
        _ => return Err(Wrong::Arguments(format!("{word}(\"text\")"))),
    };
    match (word, text) {
        ("test", Some(pattern)) => match RegexBuilder::new(pattern).size_limit(REGEX_LIMIT).build() {
            Ok(regex) => Ok(Expr::Test(Box::new(regex))),
            Err(error) => Err(Wrong::Syntax(error.to_string().lines().last().unwrap_or("no regex").to_owned())),
        },
        ("test", None) => Err(Wrong::Arguments(".field | test(\"^a.*z$\")".to_owned())),
        (_, zone) => {
            let zone = match zone {
                None => TimeZone::UTC,
                Some(name) => TimeZoneDatabase::bundled().get(name).map_err(|_| {
                    Wrong::Arguments(format!("{word}(\"Europe/Berlin\"), and `{name}` is no time zone"))
                })?,
            };
            Ok(if word == "weekday" { Expr::Weekday(zone) } else { Expr::TimeOfDay(zone) })
        }
    }
}
