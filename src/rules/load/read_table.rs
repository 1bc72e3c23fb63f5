//! Tables: `[table.sensors]` with its rows, or with a CSV file that has them; and the key `lookup`.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::is_table_file;
use super::lint::escaped_length;
use super::texts::{Names, Unknown};
use crate::diag::walk::{Entry, Reader, Report, type_name};
use crate::diag::{Diagnostic, SourceFile, Span, nearest};
use crate::rules::decode::csv::{Rows, twice};
use crate::rules::lookup::{Lookup, Miss, Row, Table};
use crate::rules::number;

/// Cells of one table at most.
const MAX_CELLS: usize = 1_000_000;

/// The tables of all files, by name.
#[derive(Default)]
pub(super) struct Tables {
    by_name: HashMap<String, Known>,
    /// The CSV files they are to be read from, as they are named.
    pub(super) files: Vec<String>,
}

/// A table of some file.
struct Known {
    /// None where it has mistakes.
    table: Option<Arc<Table>>,
    file: usize,
    place: Span,
    /// A rule names it.
    used: Cell<bool>,
}

impl Tables {
    /// Reads the tables of a file.
    pub(super) fn read<'a>(&mut self, file: &mut Reader<'a>, sources: &[SourceFile], report: &mut Report<'_>) {
        let Some((tables, _)) = file.table("table", report) else { return };
        for (name, value) in tables {
            let entry = Entry { key: name.get_ref(), key_span: name.span(), value };
            let Some(rows) = value.get_ref().as_table() else {
                let title = format!("`{}` must be a table", entry.key);
                let found = report.new_error("wrong-type", title).at(value.span(), "");
                report.push(found.help("[table.sensors]\n\"line3/7\" = { machine = \"press7\" }"));
                continue;
            };
            let file = rows.get("file").and_then(|file| file.get_ref().as_str());
            self.files.extend(file.filter(|file| !self.files.iter().any(|known| known == file)).map(str::to_owned));
            let table = table(rows, (name.get_ref(), &entry.key_span), sources, report).map(Arc::new);
            match self.by_name.get(entry.key) {
                Some(other) => {
                    let found = report.new_error("duplicate-name", format!("two tables are called `{}`", entry.key));
                    let found = found.at(entry.key_span.clone(), "the name is taken");
                    report.push(found.context_in(other.file, other.place.clone(), "by this table"));
                }
                None => {
                    let (file, place) = (report.file, entry.key_span);
                    self.by_name.insert(entry.key.to_owned(), Known { table, file, place, used: Cell::new(false) });
                }
            }
        }
    }

    /// Tells the tables that no rule names.
    pub(super) fn unused(&self, found: &mut Vec<Diagnostic>) {
        for (name, known) in self.by_name.iter().filter(|(_, known)| !known.used.get()) {
            let told =
                Diagnostic::warning("unused-table", format!("no rule looks into the table `{name}`"), known.file);
            let told = told.at(known.place.clone(), "");
            found.push(told.help(format!("lookup = {{ table = \"{name}\", key = \"{{machine}}\" }}, or remove it")));
        }
    }
}

fn table<'a>(
    table: &'a DeTable<'a>,
    (name, place): (&str, &Span),
    sources: &[SourceFile],
    report: &mut Report<'_>,
) -> Option<Table> {
    match table.get("file") {
        Some(file) if file.get_ref().is_str() => {
            let mut keys = Reader::new(table, "table");
            let path = keys.string("file", report)?;
            let key = keys.string("key", report);
            keys.finish(report);
            let Some(at) = sources.iter().position(|source| is_table_file(&source.path, path.value)) else {
                let title = format!("there is no file `{}`", path.value);
                let found = report.new_error("unknown-table", title).at(path.span(), "");
                report.push(found.help("it must lie in the folder of the rules, and end with .csv"));
                return None;
            };
            let source = sources.get(at)?;
            let wanted = key.map(|key| key.value);
            match of_csv(&source.text, wanted) {
                Ok(table) => Some(table),
                Err((line, problem)) => {
                    let title = format!("the table `{name}` cannot be read from `{}`: {problem}", path.value);
                    let span = line_span(&source.text, line);
                    let mut found = Diagnostic::error("bad-table", title, at).at(span, "");
                    found = found.context_in(report.file, place.clone(), "this table");
                    report.push(found);
                    None
                }
            }
        }
        _ => of_rows(table, report),
    }
}

/// Rows as `"key" = { column = value, .. }`.
fn of_rows<'a>(table: &'a DeTable<'a>, report: &mut Report<'_>) -> Option<Table> {
    let before = report.found.len();
    let mut columns: Vec<String> = Vec::new();
    for (key, value) in table {
        match value.get_ref().as_table() {
            Some(row) => {
                for (column, _) in row {
                    if !columns.iter().any(|known| known == column.get_ref().as_ref()) {
                        columns.push(column.get_ref().as_ref().to_owned());
                    }
                }
            }
            None => {
                let title = format!("the row `{}` must be a table", key.get_ref());
                let label = format!("this is {}", type_name(value.get_ref()));
                let found = report.new_error("bad-table", title).at(value.span(), label);
                report.push(found.help(format!("\"{}\" = {{ machine = \"press7\" }}", key.get_ref())));
            }
        }
    }
    let mut rows = HashMap::new();
    for (key, value) in table {
        let Some(row) = value.get_ref().as_table() else { continue };
        rows.insert(key.get_ref().as_ref().to_owned(), read_row(row, &columns, report));
    }
    (report.found.len() == before).then(|| measured(columns, rows))
}

/// The cells of a row in the order of the columns.
fn read_row<'a>(row: &'a DeTable<'a>, columns: &[String], report: &mut Report<'_>) -> Row {
    columns.iter().map(|column| row.get(column.as_str()).map(|cell| cell_json(cell, report).into())).collect()
}

fn cell_json(cell: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> String {
    match cell.get_ref() {
        DeValue::String(text) => serde_json::Value::from(text.as_ref()).to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| "null".to_owned(), |n| n.to_string())
        }
        DeValue::Float(number) => {
            let mut out = Vec::new();
            match number::push_number(number.as_str(), &mut out) {
                true => String::from_utf8(out).unwrap_or_default(),
                false => "null".to_owned(),
            }
        }
        other => {
            let label = format!("this is {}", type_name(other));
            let title = "a cell is a text, a number, true or false";
            report.error("bad-table", title, cell.span(), label);
            "null".to_owned()
        }
    }
}

/// Rows from a file: the first has the names, the column `key` (else the first) the keys.
fn of_csv(text: &str, key: Option<&str>) -> Result<Table, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let head = text.lines().next().unwrap_or("");
    let count = |separator: char| head.matches(separator).count();
    let separator = [(b';', ';'), (b'\t', '\t'), (b',', ',')].into_iter().max_by_key(|(_, c)| count(*c));
    let separator = separator.map_or(b',', |(byte, _)| byte);
    let mut rows = Rows::new(text, separator);
    let open = |line| (line, "a quoted field has no closing quote".to_owned());
    let Some(header) = rows.next() else { return Err((1, "it is empty".to_owned())) };
    let names: Vec<String> = header.map_err(open)?.1.into_iter().map(|(name, _)| name).collect();
    if names.iter().any(String::is_empty) || twice(names.iter().map(String::as_str)).is_some() {
        return Err((1, "the columns in the first row need names, each its own".to_owned()));
    }
    let key = match key {
        Some(key) => names.iter().position(|name| name == key).ok_or((1, format!("there is no column `{key}`")))?,
        None => 0,
    };
    let mut columns = names.clone();
    columns.remove(key);
    let mut rows_by_key = HashMap::new();
    let mut cells = 0;
    while let Some(row) = rows.next() {
        let (line, mut fields) = row.map_err(open)?;
        cells += names.len();
        if fields.len() > names.len() {
            return Err((line, format!("there are {} fields, and names for {}", fields.len(), names.len())));
        }
        if cells > MAX_CELLS {
            return Err((line, format!("there are more than {MAX_CELLS} cells")));
        }
        fields.resize_with(names.len(), Default::default);
        let (name, _) = fields.remove(key);
        let row = fields.iter().map(|(field, quoted)| csv_cell(field, *quoted)).collect();
        if rows_by_key.insert(name.clone(), row).is_some() {
            return Err((line, format!("the key `{name}` is there twice")));
        }
    }
    Ok(measured(columns, rows_by_key))
}

/// A table with the length of its longest cells.
fn measured(columns: Vec<String>, rows: HashMap<String, Row>) -> Table {
    let mut longest = vec![0; columns.len()];
    for row in rows.values() {
        for (longest, cell) in longest.iter_mut().zip(row) {
            let text = cell.as_deref().unwrap_or("").trim_matches('"');
            *longest = escaped_length(text, 3).max(*longest);
        }
    }
    Table { columns, rows, longest }
}

fn csv_cell(field: &str, quoted: bool) -> Option<Box<str>> {
    let mut out = Vec::new();
    match field {
        "" => None,
        "true" | "false" if !quoted => Some(field.into()),
        // Numbers that would lose their spelling are texts: `007` is a name.
        field if !quoted && number::push_number(field, &mut out) && out == field.as_bytes() => Some(field.into()),
        field => Some(serde_json::Value::from(field).to_string().into()),
    }
}

fn line_span(text: &str, line: usize) -> Span {
    let mut start = 0;
    for (index, content) in text.split('\n').enumerate() {
        if index + 1 >= line {
            return start..start + content.trim_end().len();
        }
        start += content.len() + 1;
    }
    0..0
}

/// What a miss can be, and whether the rule lets the publish go by.
pub(super) const MISSES: [(&str, bool); 2] = [("quarantine", false), ("skip", true)];

/// Reads `lookup`, whose columns are new names.
pub(super) fn lookup(
    keys: &mut Reader<'_>,
    names: &mut Names,
    tables: &Tables,
    report: &mut Report<'_>,
) -> Option<Lookup> {
    let (table, span) = keys.table("lookup", report)?;
    let mut keys = Reader::new(table, "lookup");
    let name = keys.string("table", report);
    let key = keys.string("key", report);
    let skip = keys.word("miss", &MISSES, "unknown-word", report);
    let default = keys.table("default", report);
    let before = report.found.len();
    let mistyped = keys.finish(report);
    if let Some((file, path)) = table.get_key_value("file") {
        let of_file = |found: &&mut Diagnostic| found.primary.as_ref().is_some_and(|label| label.span == file.span());
        if let Some(found) = report.found.iter_mut().skip(before).find(of_file) {
            let path = path.get_ref().as_str().unwrap_or("sensors.csv");
            let name = name.as_ref().map_or("sensors", |name| name.value);
            found.help = vec![format!("a file is that of a table: [table.{name}] with file = \"{path}\"")];
            found.fix = None;
        }
    }
    for (wanted, example) in [("table", "table = \"sensors\""), ("key", "key = \"{line}/{channel}\"")] {
        if !table.contains_key(wanted) && !mistyped.contains(&wanted) {
            let title = format!("`lookup` does not say the {wanted}");
            let found = report.new_error("unknown-table", title).at(span.clone(), format!("no `{wanted}`"));
            report.push(found.help(example));
        }
    }
    let key = key.map(|key| names.template(&key, report));
    // Where the table is not known, neither are the names it brings.
    let unknown = names.unknown.replace(Unknown::Open);
    let name = name?;
    let Some(known) = tables.by_name.get(name.value) else {
        let found = report.new_error("unknown-table", format!("there is no table `{}`", name.value));
        let found = found.at(name.span(), "");
        report.push(match nearest(name.value, tables.by_name.keys().map(String::as_str)) {
            Some(meant) => found.fix(name.span(), format!("\"{meant}\"")),
            None => found.help(format!("[table.{}]", name.value)).help("\"line3/7\" = { machine = \"press7\" }"),
        });
        return None;
    };
    known.used.set(true);
    let found = known.table.clone()?;
    names.unknown.set(unknown);
    names.bring_columns(&found.columns, &name.span(), report);
    let miss = match (default, skip) {
        (Some((_, span)), Some(_)) => {
            report.error("unused-key", "a miss has `miss` or `default`, not both", span, "one too many");
            Miss::Skip
        }
        (Some((row, _)), None) => {
            for (column, _) in row {
                if !found.columns.iter().any(|known| known == column.get_ref().as_ref()) {
                    let title = format!("the table has no column `{}`", column.get_ref());
                    let told = report.new_error("bad-table", title).at(column.span(), "");
                    report.push(told.help(format!("columns: {}", found.columns.join(", "))));
                }
            }
            Miss::Default(read_row(row, &found.columns, report))
        }
        (None, Some(true)) => Miss::Skip,
        (None, _) => Miss::Quarantine,
    };
    Some(Lookup { name: name.value.into(), table: found, key: key?, miss })
}
