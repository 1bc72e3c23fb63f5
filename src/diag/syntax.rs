//! Parses TOML and tells its syntax errors in words.

use toml::Spanned;
use toml::de::DeTable;

use super::walk::Report;

/// Parses the text of the report's file. The table is there only where the syntax is right: half a table would
/// lead to findings that vanish with the syntax error.
pub fn parse<'s>(report: &mut Report<'s>) -> Option<Spanned<DeTable<'s>>> {
    let (table, errors) = DeTable::parse_recoverable(report.text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        report.error("toml-syntax", "this is not valid TOML", span, error.message());
    }
    errors.is_empty().then_some(table)
}
