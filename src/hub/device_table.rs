//! The devices table: which devices there are, and what they connect with. Pure.
//!
//! As TOML,
//!
//! ```toml
//! [[device]]
//! id = "press-4"
//! key = "bXkga2V5"                  # its symmetric key, base64
//! [[device]]
//! id = "press-5"
//! certificate = "press-5.pem"       # with x509: chain, leaf first
//! certificate_key = "press-5.key"
//! [[device]]
//! connection_string = "HostName=..;DeviceId=press-6;SharedAccessKey=.."
//! [[device]]
//! id = "press-7"
//! model_id = "dtmi:com:example:Press;1"   # with plug and play; beside any of the above
//! [[device]]
//! id = "press-8"                    # there is such a device; its key follows from the group key
//! ```
//!
//! or as CSV, whose first line names some of the same columns: `id,key`. A field in double quotes may hold commas, and
//! `""` is a quote in it. Lines that are empty or begin with `#` are left out.

use std::collections::HashMap;

use super::connection_string::{ConnectionString, is_id};
use super::model;
use super::sas::Key;
use crate::amount::of_len;
use crate::diag::walk::{Reader, Report};
use crate::diag::{Diagnostic, Span, nearest};

/// Most devices of a table, and of a bridge.
pub const MOST: usize = 100_000;
const COLUMNS: [&str; 6] = ["id", "key", "certificate", "certificate_key", "connection_string", "model_id"];

/// One device.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// What it connects with.
    pub proof: Proof,
    /// The model it follows, where it is a plug-and-play device.
    pub model_id: Option<String>,
    /// Where its id stands.
    pub span: Span,
}

/// What a device of the table connects with.
#[derive(Debug, Clone)]
pub enum Proof {
    /// The table does not say: group key, folder of certificates or provisioning.
    Elsewhere,
    /// Its own key.
    Key(Key),
    /// Paths of certificate and key, with their places.
    Certificate {
        /// The chain, leaf first.
        certificate: (String, Span),
        /// The private key.
        key: (String, Span),
    },
    /// Everything.
    Connection(ConnectionString),
}

/// The values of one device as they stand there, in the order of [`COLUMNS`].
#[derive(Default)]
struct Row<'a> {
    values: [Option<(std::borrow::Cow<'a, str>, Span)>; 6],
    /// Where the device begins.
    span: Span,
}

/// Reads a table; CSV where the name of its file says so.
pub fn parse(file: usize, (text, csv): (&str, bool)) -> (Vec<Listed>, Vec<Diagnostic>) {
    let mut report = Report::new(file, text);
    let rows = if csv { csv_rows(text, &mut report) } else { toml_rows(&mut report) };
    let mut listed: Vec<Listed> = Vec::new();
    let mut places: HashMap<String, Span> = HashMap::new();
    for found in rows {
        let Some(device) = found.device(&mut report) else { continue };
        if let Some(first) = places.insert(device.id.clone(), device.span.clone()) {
            let found = report.new_error("device-twice", format!("the device {:?} is there twice", device.id));
            report.push(found.at(device.span.clone(), "").context(first, "here it is too"));
        }
        listed.push(device);
    }
    if listed.len() > MOST {
        let title = format!("{} devices; {MOST} are the most", listed.len());
        report.found.push(Diagnostic::error("too-many-devices", title, file));
    }
    (listed, report.found)
}

/// The text without what may be a key: findings show the user's own lines.
pub fn masked(text: &str) -> String {
    const SHORTEST: usize = 16;
    let part_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '%');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(part_of_key) {
        let (before, from) = rest.split_at_checked(start).unwrap_or((rest, ""));
        let end = from.find(|c| !part_of_key(c)).unwrap_or(from.len());
        let (word, after) = from.split_at_checked(end).unwrap_or((from, ""));
        out.push_str(before);
        match word.len() {
            SHORTEST.. if !COLUMNS.contains(&word) => out.extend(std::iter::repeat_n('*', word.len())),
            _ => out.push_str(word),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn toml_rows<'s>(report: &mut Report<'s>) -> Vec<Row<'s>> {
    let Some(table) = crate::diag::syntax::parse(report) else { return Vec::new() };
    let mut top = Reader::new(table.get_ref(), "the devices table");
    let mut rows = Vec::new();
    for (device, span) in top.tables("device", report) {
        let mut reader = Reader::new(device, "[[device]]");
        let mut row = Row { span, ..Row::default() };
        for (value, name) in row.values.iter_mut().zip(COLUMNS) {
            *value = reader.string(name, report).map(|text| (text.value.to_owned().into(), text.span()));
        }
        reader.finish(report);
        rows.push(row);
    }
    top.finish(report);
    rows
}

fn csv_rows<'s>(text: &'s str, report: &mut Report<'s>) -> Vec<Row<'s>> {
    let mut start = 0;
    let mut columns: Option<Vec<usize>> = None;
    let mut rows = Vec::new();
    for line in text.split_inclusive('\n') {
        let (at, line) = (start, line.trim_end_matches(['\r', '\n']));
        start = at + text.get(at..).and_then(|rest| rest.find('\n')).map_or(line.len(), |end| end + 1);
        let line = if at == 0 { line.trim_start_matches('\u{feff}') } else { line };
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let fields = csv_fields(line, at);
        let Some(columns) = &columns else {
            columns = Some(head(&fields, report));
            continue;
        };
        if fields.len() > columns.len() {
            let title = format!("{} fields under {}", fields.len(), of_len(columns.len(), "column", "columns"));
            report.error("csv-columns", title, at..at + line.len(), "");
            continue;
        }
        let mut row = Row { span: at..at + line.len(), ..Row::default() };
        for (column, (value, span)) in columns.iter().zip(fields).filter(|(_, (value, _))| !value.is_empty()) {
            if let Some(place) = row.values.get_mut(*column) {
                *place = Some((value, span));
            }
        }
        rows.push(row);
    }
    rows
}

/// The columns that the first line names.
fn head(fields: &[(std::borrow::Cow<'_, str>, Span)], report: &mut Report<'_>) -> Vec<usize> {
    let mut columns = Vec::new();
    for (name, span) in fields {
        let known = COLUMNS.iter().position(|column| column == name);
        if known.is_none() {
            let found = report.new_error("unknown-key", format!("there is no column `{}`", masked(name)));
            let found = found.at(span.clone(), "");
            report.push(match nearest(name, COLUMNS) {
                Some(meant) => found.fix(span.clone(), meant),
                None => found.help("the first line names the columns: id,key"),
            });
        }
        columns.push(known.unwrap_or(usize::MAX));
    }
    columns
}

/// The fields of a line with their places; `base` is where the line begins.
fn csv_fields(line: &str, base: usize) -> Vec<(std::borrow::Cow<'_, str>, Span)> {
    let mut fields = Vec::new();
    let (mut start, mut quoted) = (0, false);
    let ends = line.char_indices().filter(|(_, c)| {
        quoted ^= *c == '"';
        *c == ',' && !quoted
    });
    let ends: Vec<usize> = ends.map(|(at, _)| at).chain([line.len()]).collect();
    for end in ends {
        let raw = line.get(start..end).unwrap_or_default();
        let text = raw.trim();
        let from = base + start + (raw.len() - raw.trim_start().len());
        let span = from..from + text.len();
        fields.push(match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(inner) => (inner.replace("\"\"", "\"").into(), span),
            None => (text.into(), span),
        });
        start = end + 1;
    }
    fields
}

impl Row<'_> {
    fn device(self, report: &mut Report<'_>) -> Option<Listed> {
        let [id, key, certificate, certificate_key, connection, model] = self.values;
        let model_id = match model {
            Some((text, span)) => Some(checked_model(text.into_owned(), span, report)?),
            None => None,
        };
        if let Some((text, span)) = connection {
            let others = [&key, &certificate, &certificate_key].into_iter().flatten().next();
            if let Some((_, other)) = others {
                report.error("two-proofs", "a connection string says it all", other.clone(), "remove this");
            }
            return from_connection_string(id, (&text, span), report).map(|device| Listed { model_id, ..device });
        }
        let Some((id, span)) = id else {
            report.error("missing-key", "a device needs its `id`", self.span, "");
            return None;
        };
        check_id(&id, &span, report)?;
        let proof = match (key, certificate, certificate_key) {
            (None, None, None) => Proof::Elsewhere,
            (Some((text, span)), None, None) => match Key::parse(text.trim()) {
                Ok(key) => Proof::Key(key),
                Err(error) => {
                    let found = report.new_error("bad-key", error.to_string()).at(span, "");
                    report.push(found.help("the primary key of the device in the portal, 44 characters of base64"));
                    return None;
                }
            },
            (None, Some(certificate), Some(key)) => Proof::Certificate {
                certificate: (certificate.0.into_owned(), certificate.1),
                key: (key.0.into_owned(), key.1),
            },
            (Some(_), Some((_, at)), _) | (Some(_), None, Some((_, at))) => {
                report.error("two-proofs", "a key and a certificate at once", at, "");
                return None;
            }
            (None, Some((_, at)), None) => {
                report.error("no-key", "a certificate needs its key", at, "no `certificate_key` beside it");
                return None;
            }
            (None, None, Some((_, at))) => {
                report.error("no-certificate", "a key needs its certificate", at, "no `certificate` beside it");
                return None;
            }
        };
        Some(Listed { id: id.into_owned(), proof, model_id, span })
    }
}

fn from_connection_string(
    id: Option<(std::borrow::Cow<'_, str>, Span)>,
    (text, span): (&str, Span),
    report: &mut Report<'_>,
) -> Option<Listed> {
    let connection = match ConnectionString::parse(text) {
        Ok(connection) => connection,
        Err(error) => {
            report.error("connection-string", error.to_string(), span, "");
            return None;
        }
    };
    if let Some((id, at)) = id.filter(|(id, _)| **id != connection.device) {
        let found = report.new_error("connection-string", format!("the connection string is not of {id:?}"));
        report.push(found.at(span, format!("DeviceId={}", connection.device)).context(at, "this id"));
        return None;
    }
    if connection.module.is_some() {
        report.error("connection-string", "a module is no device", span, "it has a ModuleId");
        return None;
    }
    Some(Listed { id: connection.device.clone(), proof: Proof::Connection(connection), model_id: None, span })
}

fn checked_model(text: String, span: Span, report: &mut Report<'_>) -> Option<String> {
    if let Err(error) = model::check(&text) {
        let found = report.new_error("bad-model-id", format!("{text:?} is no model id: {error}")).at(span, "");
        report.push(found.help("model_id = \"dtmi:com:example:Press;1\""));
        return None;
    }
    Some(text)
}

fn check_id(id: &str, span: &Span, report: &mut Report<'_>) -> Option<()> {
    if is_id(id) {
        return Some(());
    }
    let found = report.new_error("bad-device-id", format!("{id:?} is no device id")).at(span.clone(), "");
    report.push(found.help("ASCII letters, digits and -.%_*?!(),:=@$' , at most 128 of them"));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "bXkga2V5IGluIGJhc2U2NA==";

    fn kinds(text: &str, csv: bool) -> (Vec<String>, Vec<&'static str>) {
        let (listed, found) = parse(0, (text, csv));
        let kind = |proof: &Proof| match proof {
            Proof::Elsewhere => "elsewhere".to_owned(),
            Proof::Key(key) => key.encode().expose().to_owned(),
            Proof::Certificate { certificate, key } => format!("{} {}", certificate.0, key.0),
            Proof::Connection(connection) => connection.host.clone(),
        };
        let model = |device: &Listed| device.model_id.as_ref().map(|model| format!(" {model}")).unwrap_or_default();
        let told = |device: &Listed| format!("{} {}{}", device.id, kind(&device.proof), model(device));
        let listed = listed.iter().map(told).collect();
        (listed, found.iter().map(|found| found.code).collect())
    }

    #[test]
    fn tables() {
        let string = format!("HostName=h;DeviceId=c;SharedAccessKey={KEY}");
        let toml = format!(
            "[[device]]\nid = \"a\"\nkey = \"{KEY}\"\n[[device]]\nid = \"b\"\nmodel_id = \"dtmi:a:B;1\"\ncertificate = \"b.pem\"\n\
             certificate_key = \"b.key\"\n[[device]]\nconnection_string = \"{string}\"\nmodel_id = \"dtmi:c;2\"\n[[device]]\nid = \"d\"\n"
        );
        let csv = format!(
            "\u{feff}# made by hand\r\nid, key ,certificate,certificate_key,connection_string,model_id\r\na,{KEY}\r\n\
             b,,b.pem,b.key,,dtmi:a:B;1\n,,,,\"{string}\",dtmi:c;2\n\nd"
        );
        let expect =
            [format!("a {KEY}"), "b b.pem b.key dtmi:a:B;1".into(), "c h dtmi:c;2".into(), "d elsewhere".into()];
        for (text, is_csv) in [(&toml, false), (&csv, true)] {
            assert_eq!(kinds(text, is_csv), (expect.to_vec(), vec![]), "{text}");
        }
    }

    #[test]
    fn mistakes() {
        for (text, csv, expect) in [
            ("[[device]]\nkey = \"a2V5\"", false, "missing-key"),
            ("[[device]]\nid = \"a\"\nkey = \"no\"", false, "bad-key"),
            ("[[device]]\nid = \"a/b\"", false, "bad-device-id"),
            ("[[device]]\nid = \"a\"\nmodel_id = \"press\"", false, "bad-model-id"),
            ("id,model_id\na,dtmi:press", true, "bad-model-id"),
            ("[[device]]\nid = \"a\"\n[[device]]\nid = \"a\"", false, "device-twice"),
            ("[[device]]\nid = \"a\"\ncertificate = \"c\"", false, "no-key"),
            ("[[device]]\nid = \"a\"\ncertificate_key = \"c\"", false, "no-certificate"),
            ("[[device]]\nid = \"a\"\nkey = \"a2V5\"\ncertificate = \"c\"", false, "two-proofs"),
            ("[[device]]\nid = \"a\"\nkye = \"a2V5\"", false, "unknown-key"),
            ("[[device]]\nconnection_string = \"x\"", false, "connection-string"),
            ("[[device]\n", false, "toml-syntax"),
            ("id,kye\na,a2V5", true, "unknown-key"),
            ("id\na,b", true, "csv-columns"),
            ("id,connection_string\na,HostName=h;DeviceId=b;SharedAccessKey=a2V5", true, "connection-string"),
        ] {
            assert_eq!(kinds(text, csv).1, [expect], "{text}");
        }
    }

    #[test]
    fn a_table_has_a_bound() {
        for (devices, expect) in [(MOST, vec![]), (MOST + 1, vec!["too-many-devices"])] {
            let rows: String = (0..devices).map(|number| format!("d{number}\n")).collect();
            assert_eq!(kinds(&format!("id\n{rows}"), true).1, expect, "{devices}");
        }
    }

    #[test]
    fn findings_show_no_key() {
        let text = format!("[[device]]\nid = \"press-4\"\nkey = \"{KEY}\"\n# {KEY}\ncertificate_key = \"a/b.key\"\n");
        let shown = masked(&text);
        assert_eq!(shown.len(), text.len(), "places stay right");
        assert!(
            !shown.contains("bXkg") && shown.contains("press-4") && shown.contains("certificate_key = \"a/b.key\"")
        );
    }
}
