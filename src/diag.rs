//! What is wrong with a file the user wrote, and where.
//!
//! A [`Diagnostic`] is one finding: a fixed `code` for machines, a title that says what is wrong, the
//! place in the user's own text with a label, other places that explain it, what to do about it, and
//! where possible the exact edit. Whoever reads a file collects every finding and stops at none.
//! Nothing here prints; the command line decides between [`Diagnostic::render`] and [`Diagnostic::json`].
//!
//! Spans are byte ranges into [`SourceFile::text`]. A span that does not fit its text (it cannot come
//! from a parser, but a bug must not take the process down) is moved to the nearest place that does.
//!
//! [`walk`] reads typed values out of TOML and reports unknown keys and wrong types;
//! [`syntax`] parses TOML and tells its syntax errors in words.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Patch, Renderer, Snippet};

pub mod syntax;
pub mod walk;

/// A byte range of a source text.
pub type Span = Range<usize>;

/// A file the user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// How the file is called in messages.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but hardly means what it says.
    Warning,
}

/// A place in one of the source files with a few words about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Index into the source files.
    pub file: usize,
    /// The place.
    pub span: Span,
    /// What to say there; may be empty.
    pub text: String,
}

/// An edit that would put the finding right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// The text to replace, in the file of the finding; an empty span inserts.
    pub span: Span,
    /// The text to put there.
    pub replacement: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A fixed name in kebab case.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub title: String,
    /// Index of the file into the source files.
    pub file: usize,
    /// Where it is wrong; a finding about a whole file has no place.
    pub primary: Option<Label>,
    /// Other places that explain it.
    pub context: Vec<Label>,
    /// What to do about it, a line each.
    pub help: Vec<String>,
    /// The edit that would put it right.
    pub fix: Option<Fix>,
}

impl Diagnostic {
    /// An error in a file.
    pub fn error(code: &'static str, title: impl Into<String>, file: usize) -> Self {
        Self::new(Severity::Error, code, title.into(), file)
    }

    /// A warning about a file.
    pub fn warning(code: &'static str, title: impl Into<String>, file: usize) -> Self {
        Self::new(Severity::Warning, code, title.into(), file)
    }

    fn new(severity: Severity, code: &'static str, title: String, file: usize) -> Self {
        Self { severity, code, title, file, primary: None, context: Vec::new(), help: Vec::new(), fix: None }
    }

    /// Says where it is wrong; the label may be empty.
    #[must_use]
    pub fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.primary = Some(Label { file: self.file, span, text: label.into() });
        self
    }

    /// Adds a place of the same file that explains it.
    #[must_use]
    pub fn context(self, span: Span, label: impl Into<String>) -> Self {
        let file = self.file;
        self.context_in(file, span, label)
    }

    /// Adds a place of any file that explains it.
    #[must_use]
    pub fn context_in(mut self, file: usize, span: Span, label: impl Into<String>) -> Self {
        self.context.push(Label { file, span, text: label.into() });
        self
    }

    /// Adds a line about what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// Gives the edit that would put it right.
    #[must_use]
    pub fn fix(mut self, span: Span, replacement: impl Into<String>) -> Self {
        self.fix = Some(Fix { span, replacement: replacement.into() });
        self
    }

    /// True for an error, false for a warning.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// By file and place: the order in which a user reads the findings.
    pub fn sort_key(&self) -> (usize, usize, usize) {
        let (start, end) = self.primary.as_ref().map_or((0, 0), |l| (l.span.start, l.span.end));
        (self.file, start, end)
    }

    /// The finding as text with the user's own lines, ending with a newline.
    pub fn render(&self, sources: &[SourceFile], color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.title.as_str()));
        let mut files = vec![self.file];
        for label in &self.context {
            if !files.contains(&label.file) {
                files.push(label.file);
            }
        }
        for file in files {
            group = match sources.get(file) {
                Some(source) => self.add_snippet(group, file, source),
                None => group,
            };
        }
        group = group.elements(self.help.iter().map(|help| Level::HELP.message(help.as_str())));
        let mut report = vec![group];
        if let (Some(fix), Some(source)) = (&self.fix, sources.get(self.file)) {
            let patch = Patch::new(fit(&source.text, &fix.span), fix.replacement.as_str());
            report.push(
                Level::HELP
                    .secondary_title("did you mean")
                    .element(Snippet::source(source.text.as_str()).path(source.path.as_str()).patch(patch)),
            );
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = renderer.render(&report);
        text.push('\n');
        text
    }

    fn add_snippet<'a>(&'a self, group: Group<'a>, file: usize, source: &'a SourceFile) -> Group<'a> {
        let primary = self.primary.iter().map(|label| (AnnotationKind::Primary, label));
        let context = self.context.iter().map(|label| (AnnotationKind::Context, label));
        let labels: Vec<_> = primary.chain(context).filter(|(_, label)| label.file == file).collect();
        if labels.is_empty() {
            return group.element(Origin::path(source.path.as_str()));
        }
        let mut snippet = Snippet::source(source.text.as_str()).path(source.path.as_str());
        for (kind, label) in labels {
            let text = Some(label.text.as_str()).filter(|text| !text.is_empty());
            snippet = snippet.annotation(kind.span(fit(&source.text, &label.span)).label(text));
        }
        group.element(snippet)
    }

    /// The finding for machines: lines and columns count from 1, columns in characters.
    pub fn json(&self, sources: &[SourceFile]) -> serde_json::Value {
        let place = |file: usize, span: &Span| {
            let source = sources.get(file);
            let text = source.map_or("", |s| s.text.as_str());
            let span = fit(text, span);
            let (line, column) = position(text, span.start);
            let (end_line, end_column) = position(text, span.end);
            serde_json::json!({
                "path": source.map(|s| s.path.as_str()), "start": span.start, "end": span.end,
                "line": line, "column": column, "end_line": end_line, "end_column": end_column,
            })
        };
        let label = |l: &Label| serde_json::json!({ "label": l.text, "at": place(l.file, &l.span) });
        serde_json::json!({
            "severity": self.severity,
            "code": self.code,
            "title": self.title,
            "path": sources.get(self.file).map(|s| s.path.as_str()),
            "primary": self.primary.as_ref().map(label),
            "context": self.context.iter().map(label).collect::<Vec<_>>(),
            "help": self.help,
            "fix": self.fix.as_ref().map(|fix| serde_json::json!({
                "replacement": fix.replacement, "at": place(self.file, &fix.span),
            })),
        })
    }
}

/// Findings as text without colour, one after the other.
pub fn rendered<'d>(found: impl IntoIterator<Item = &'d Diagnostic>, sources: &[SourceFile]) -> String {
    found.into_iter().map(|found| found.render(sources, false)).collect()
}

/// Moves a span to the nearest character boundaries inside `text`.
fn fit(text: &str, span: &Span) -> Span {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    start..end
}

/// Line and column of a byte offset, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// True for a line that may hold a key or a password. Where source texts are shown, those are covered; a fix would
/// write them out again, so such a line gets none.
fn may_be_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    ["password", "connection", "sharedaccess", "secret", "token"].iter().any(|word| lower.contains(word))
}

/// The candidate a mistyped word most likely means, if one is near enough.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_lowercase();
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
