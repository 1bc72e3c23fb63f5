//! The fields of the payload that an expression names.

use std::ops::Range;

use super::super::Expr;
use super::Parser;

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

/// The path of a field, up to an index in it; none of what is no field of the payload.
pub(super) fn path(expr: &Expr) -> Option<Vec<Box<str>>> {
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
