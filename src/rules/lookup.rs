//! `lookup`: names from a table.

use std::collections::HashMap;
use std::sync::Arc;

use super::template::Template;

/// A table: rows of JSON values under a key.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) rows: HashMap<String, Row>,
    /// The bytes of the longest cell of each column, as it stands in a property.
    pub(super) longest: Vec<usize>,
}

/// The values of a row, in the order of the columns.
pub(super) type Row = Box<[Option<Box<str>>]>;

/// What a rule asks of a table.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) name: Box<str>,
    pub(super) table: Arc<Table>,
    pub(super) key: Template,
    pub(super) miss: Miss,
}

/// What happens where the table has no such key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// The publish is quarantined.
    Quarantine,
    /// The rule lets the publish go by.
    Skip,
    /// This row is taken.
    Default(Row),
}
