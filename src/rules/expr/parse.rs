//! Reads an expression; the first mistake is told with its place.

use std::ops::Range;

use super::{Compare, Expr, Math, Name};

mod habits;
mod mentions;
mod term;

pub(in crate::rules) use mentions::{Mention, mentions};

/// The deepest nesting of an expression.
const MAX_DEPTH: usize = 100;

/// The longest expression, in bytes.
const MAX_LENGTH: usize = 4_096;

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
    /// A filter that scripts do not have, with the names of those they have.
    ScriptFilter(String, Vec<&'static str>),
    /// Why a script may have no end.
    Endless(String),
    /// What is written otherwise here, or not at all.
    Otherwise {
        /// What findings of this kind are called.
        code: &'static str,
        title: String,
        /// What to do about it; may be empty.
        help: String,
        /// What to write, and in the place of what.
        fix: Option<(Range<usize>, String)>,
    },
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

/// Reads a text.
pub(in crate::rules) fn parse(text: &str, known: Known<'_>) -> Result<Expr, Mistake> {
    read(text, known).map_err(|mistake| habits::explain(text, Some(known), mistake))
}

fn read(text: &str, known: Known<'_>) -> Parsed {
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
            && let Some(path) = mentions::path(&term).filter(|path| !path.is_empty())
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
}
