//! Rows: what a file of them says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::packet::Version;

/// One row: a short dialogue of clients with the broker.
pub(crate) struct Row {
    pub(crate) file: String,
    line: usize,
    title: String,
    /// The versions it is played for, each with the statements it proves.
    pub(crate) versions: Vec<(Version, Vec<String>)>,
    pub(crate) steps: Vec<Step>,
    /// Where in all files it is; makes its topics and client identifiers its own.
    pub(crate) number: usize,
}

/// What a client does or hears.
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) client: String,
    pub(crate) act: Act,
    pub(crate) tokens: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// `>`
    Sends,
    /// `<`
    Hears,
    /// `<?`: in any order with the steps beside it.
    HearsAnyOrder,
}

impl Row {
    pub(crate) fn place(&self) -> String {
        format!("{}:{} {}", self.file, self.line, self.title)
    }
}

/// Reads a file; a line that cannot be read is a mistake of its author.
pub(crate) fn parse(path: &Path) -> Vec<Row> {
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut rows: Vec<Row> = Vec::new();
    for (at, text) in fs::read_to_string(path).unwrap().lines().enumerate() {
        let line = at + 1;
        if text.is_empty() || text.starts_with("# ") {
            continue;
        }
        if let Some(title) = text.strip_prefix("= ") {
            let (file, title) = (file.clone(), title.to_owned());
            rows.push(Row { number: line, file, line, title, versions: Vec::new(), steps: Vec::new() });
            continue;
        }
        let row = rows.last_mut().unwrap_or_else(|| panic!("{file}:{line}: a step before the first row"));
        let mut words = text.split_whitespace().map(str::to_owned);
        let first = words.next().unwrap();
        if let Some(version) = Version::parse(&first) {
            row.versions.push((version, words.collect()));
            continue;
        }
        let act = match words.next().as_deref() {
            Some(">") => Act::Sends,
            Some("<") => Act::Hears,
            Some("<?") => Act::HearsAnyOrder,
            other => panic!("{file}:{line}: {other:?} is no act"),
        };
        row.steps.push(Step { line, client: first, act, tokens: words.collect() });
    }
    for row in &rows {
        assert!(!row.versions.is_empty() && !row.steps.is_empty(), "{} says nothing", row.place());
    }
    rows
}

/// The statements of a standard that rows name.
pub(crate) fn named(rows: &[Row], standard: Version) -> BTreeSet<String> {
    let versions = rows.iter().flat_map(|row| &row.versions).filter(|(version, _)| *version == standard);
    versions.flat_map(|(_, statements)| statements.iter().cloned()).collect()
}

/// The statements a README lists as left out: lines of `- <version> [..] [..]: why`.
pub(crate) fn left_out(readme: &str) -> Vec<(Version, String)> {
    let mut found = Vec::new();
    for line in readme.lines().filter_map(|line| line.strip_prefix("- ")) {
        let mut words = line.split_whitespace();
        let Some(version) = words.next().and_then(Version::parse) else { continue };
        for word in words.take_while(|word| word.starts_with('[')) {
            found.push((version, word.trim_end_matches(':').to_owned()));
        }
    }
    found
}
