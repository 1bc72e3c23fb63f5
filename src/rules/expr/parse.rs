//! Reads an expression; the first mistake is told with its place.

use std::ops::Range;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use regex::RegexBuilder;

use super::{CHECKED, Compare, Expr, FUNCTIONS, Math, Name};

/// The deepest nesting of an expression.
const MAX_DEPTH: usize = 100;

/// The longest expression, in bytes.
const MAX_LENGTH: usize = 4_096;

/// A compiled regex may grow to this.
const REGEX_LIMIT: usize = 1 << 20;

/// What is wrong, and where in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Mistake {
    pub(in crate::rules) at: Range<usize>,
    pub(in crate::rules) wrong: Wrong,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) enum Wrong {
    /// What was expected there.
    Syntax(String),
    /// `$name`
    Variable(String),
    /// A function that is not there, with the names of those that are.
    Filter(String, Vec<&'static str>),
    /// How a function that is there is written.
    Arguments(String),
    /// Why a script may have no end.
    Endless(String),
}

/// The names an expression may use.
#[derive(Debug, Clone, Copy)]
pub(in crate::rules) struct Known<'n> {
    pub(in crate::rules) names: &'n [String],
    pub(in crate::rules) columns: &'n [String],
}

/// Names of the publish.
pub(in crate::rules) const VARIABLES: [(&str, Name); 6] = [
    ("topic", Name::Topic),
    ("client", Name::Client),
    ("user", Name::User),
    ("time", Name::Time),
    ("qos", Name::Qos),
    ("retained", Name::Retained),
];

/// A field of the payload that an expression names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct Mention {
    /// The names of the field and of those it lies in, up to an index.
    pub(in crate::rules) path: Vec<Box<str>>,
    pub(in crate::rules) at: Range<usize>,
}

/// The fields that an expression names, whatever its `$names` are; none where it has a mistake.
pub(in crate::rules) fn mentions(text: &str) -> Vec<Mention> {
    let mut parser = Parser::new(text, None);
    match parser.pipe() {
        Ok(_) => parser.mentions,
        Err(_) => Vec::new(),
    }
}

/// Reads a text.
pub(in crate::rules) fn parse(text: &str, known: Known<'_>) -> Result<Expr, Mistake> {
    if text.len() > MAX_LENGTH {
        let wrong = Wrong::Syntax(format!("at most {MAX_LENGTH} bytes"));
        return Err(Mistake { at: 0..text.len(), wrong });
    }
    let mut parser = Parser::new(text, Some(known));
    let expr = parser.pipe()?;
    parser.space();
    match parser.rest().chars().next() {
        None => Ok(expr),
        Some(c) => {
            let at = parser.at..parser.at + c.len_utf8();
            let wrong = match c {
                ',' | ';' => "one value: what makes several belongs into `script`",
                '=' => "a comparison, written ==",
                '&' => "and",
                _ => "an operator or the end",
            };
            Err(Mistake { at, wrong: Wrong::Syntax(wrong.to_owned()) })
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    /// The `$names`; none where every one is known.
    known: Option<Known<'t>>,
    depth: usize,
    /// How many `|` it is behind, where `.` is no more the payload.
    piped: usize,
    mentions: Vec<Mention>,
}

type Parsed = Result<Expr, Mistake>;

impl<'t> Parser<'t> {
    fn new(text: &'t str, known: Option<Known<'t>>) -> Self {
        Self { text, at: 0, known, depth: 0, piped: 0, mentions: Vec::new() }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Takes a symbol.
    fn take(&mut self, symbol: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(symbol);
        self.at += if found { symbol.len() } else { 0 };
        found
    }

    /// The word that begins here, if one does.
    fn peek_word(&mut self) -> &'t str {
        self.space();
        let rest = self.rest();
        let is_inner = |c: char| c.is_alphanumeric() || c == '_';
        if !rest.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return "";
        }
        let length = rest.find(|c: char| !is_inner(c)).unwrap_or(rest.len());
        rest.get(..length).unwrap_or("")
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == word;
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// What was expected here.
    fn expected<T>(&mut self, what: &str) -> Result<T, Mistake> {
        self.space();
        let length = self.rest().chars().next().map_or(1, char::len_utf8);
        Err(Mistake { at: self.at..self.at + length, wrong: Wrong::Syntax(format!("expected {what}")) })
    }

    fn nested(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let wrong = Wrong::Syntax(format!("nested deeper than {MAX_DEPTH} levels"));
            return Err(Mistake { at: self.at..self.at + 1, wrong });
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn pipe(&mut self) -> Parsed {
        let first = self.otherwise()?;
        if !self.take("|") {
            return Ok(first);
        }
        let moves = usize::from(!matches!(first, Expr::Dot));
        self.piped += moves;
        let second = self.nested(Self::pipe)?;
        self.piped -= moves;
        Ok(Expr::Pipe(Box::new([first, second])))
    }

    fn otherwise(&mut self) -> Parsed {
        let first = self.or()?;
        match self.take("//") {
            true => Ok(Expr::Otherwise(Box::new([first, self.nested(Self::otherwise)?]))),
            false => Ok(first),
        }
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.take_word("or") {
            left = Expr::Or(Box::new([left, self.and()?]));
            self.count()?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.comparison()?;
        while self.take_word("and") {
            left = Expr::And(Box::new([left, self.comparison()?]));
            self.count()?;
        }
        Ok(left)
    }

    /// A chain of operators nests to the left, and so counts like brackets.
    fn count(&mut self) -> Result<(), Mistake> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => self.expected("fewer operators"),
            false => Ok(()),
        }
    }

    fn comparison(&mut self) -> Parsed {
        let left = self.sum()?;
        for (symbol, compare) in [
            ("==", Compare::Equal),
            ("!=", Compare::Unequal),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ] {
            if self.take(symbol) {
                return Ok(Expr::Compare(compare, Box::new([left, self.sum()?])));
            }
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let math = match () {
                () if self.take("+") => Math::Add,
                () if self.take("-") => Math::Subtract,
                () => return Ok(left),
            };
            left = Expr::Math(math, Box::new([left, self.product()?]));
            self.count()?;
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            self.space();
            let math = match () {
                () if self.rest().starts_with("//") => return Ok(left),
                () if self.take("*") => Math::Multiply,
                () if self.take("/") => Math::Divide,
                () if self.take("%") => Math::Remainder,
                () => return Ok(left),
            };
            left = Expr::Math(math, Box::new([left, self.unary()?]));
            self.count()?;
        }
    }

    fn unary(&mut self) -> Parsed {
        match self.take("-") {
            true => Ok(Expr::Negate(Box::new(self.nested(Self::unary)?))),
            false => self.postfix(),
        }
    }

    /// A term with `.field` and `[0]` behind it.
    fn postfix(&mut self) -> Parsed {
        self.space();
        let start = self.at;
        let term = self.steps()?;
        if self.piped == 0
            && self.text.get(start..self.at).is_some_and(|text| text.starts_with('.'))
            && let Some(path) = path(&term).filter(|path| !path.is_empty())
        {
            self.mentions.push(Mention { path, at: start..self.at });
        }
        Ok(term)
    }

    fn steps(&mut self) -> Parsed {
        let mut term = self.term()?;
        loop {
            let rest = self.rest();
            if rest.starts_with("[]") {
                return self.expected("an index: what makes several values belongs into `script`");
            }
            if rest.starts_with('[') {
                self.at += 1;
                term = self.bracket(term)?;
            } else if rest.starts_with('.') {
                self.at += 1;
                if self.rest().starts_with('[') {
                    continue;
                }
                term = self.field(term)?;
            } else {
                return Ok(term);
            }
        }
    }

    /// The name behind a point.
    fn field(&mut self, of: Expr) -> Parsed {
        if self.rest().starts_with('"') {
            let name = self.string()?;
            return self.deeper(Expr::Field(Box::new(of), name.into()));
        }
        let word = self.peek_word();
        if word.is_empty() || !self.rest().starts_with(word) {
            return self.expected("the name of a field");
        }
        self.at += word.len();
        self.deeper(Expr::Field(Box::new(of), word.into()))
    }

    fn deeper(&mut self, expr: Expr) -> Parsed {
        self.count().map(|()| expr)
    }

    fn bracket(&mut self, of: Expr) -> Parsed {
        self.space();
        let inner = match self.rest().chars().next() {
            Some('"') => Expr::Field(Box::new(of), self.string()?.into()),
            _ => {
                let negative = self.take("-");
                let digits = self.digits();
                let Ok(index) = digits.parse::<i64>() else { return self.expected("an index or a name in quotes") };
                Expr::Index(Box::new(of), if negative { -index } else { index })
            }
        };
        if !self.take("]") {
            return self.expected("closing bracket");
        }
        self.deeper(inner)
    }

    fn digits(&mut self) -> &'t str {
        self.space();
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or("")
    }

    fn term(&mut self) -> Parsed {
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
    fn string(&mut self) -> Result<String, Mistake> {
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
        if arguments.len() < *least || arguments.len() > *most {
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

/// The path of a field, up to an index in it; none of what is no field of the payload.
fn path(expr: &Expr) -> Option<Vec<Box<str>>> {
    match expr {
        Expr::Dot => Some(Vec::new()),
        Expr::Index(of, _) => path(of),
        Expr::Field(of, name) => {
            let mut steps = path(of)?;
            if !has_index(of) {
                steps.push(name.clone());
            }
            Some(steps)
        }
        _ => None,
    }
}

fn has_index(expr: &Expr) -> bool {
    match expr {
        Expr::Index(..) => true,
        Expr::Field(of, _) => has_index(of),
        _ => false,
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
