//! Test results as JUnit XML, in the dialect that Jenkins, GitLab, GitHub and Azure Pipelines all read: a suite for
//! each rule file, at most one `failure` or `error` in a case, the whole finding as its text.

use std::fmt::Write;
use std::time::Duration;

use crate::diag::{Diagnostic, SourceFile};
use crate::rules::testing::TestResult;

/// How one test went, and how long it took.
pub(super) struct Timed {
    pub(super) result: TestResult,
    pub(super) took: Duration,
}

/// The results of all files; files without tests have no suite.
pub(super) fn results(results: &[Timed], sources: &[SourceFile]) -> String {
    let suites = sources.iter().enumerate().filter_map(|(file, source)| {
        let of_file = results.iter().filter(|timed| timed.result.file == file);
        let cases = of_file.map(|Timed { result, took }| Case {
            name: &result.name,
            took: *took,
            wrong: (!result.passed()).then_some(("failure", result.failures.iter().collect())),
        });
        let cases: Vec<Case<'_>> = cases.collect();
        (!cases.is_empty()).then_some(Suite { path: &source.path, cases })
    });
    document(&suites.collect::<Vec<_>>(), sources)
}

/// The findings because of which no test was run.
pub(super) fn not_run(found: &[Diagnostic], sources: &[SourceFile]) -> String {
    let suites = sources.iter().enumerate().filter_map(|(file, source)| {
        let errors: Vec<&Diagnostic> = found.iter().filter(|found| found.file == file && found.is_error()).collect();
        let case = |errors| Case { name: "the rules load", took: Duration::ZERO, wrong: Some(("error", errors)) };
        (!errors.is_empty()).then(|| Suite { path: &source.path, cases: vec![case(errors)] })
    });
    document(&suites.collect::<Vec<_>>(), sources)
}

struct Suite<'a> {
    path: &'a str,
    cases: Vec<Case<'a>>,
}

struct Case<'a> {
    name: &'a str,
    took: Duration,
    /// `failure` or `error`, and what is to be told.
    wrong: Option<(&'static str, Vec<&'a Diagnostic>)>,
}

fn document(suites: &[Suite<'_>], sources: &[SourceFile]) -> String {
    let all: Vec<&Case<'_>> = suites.iter().flat_map(|suite| &suite.cases).collect();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    line(&mut out, format_args!("<testsuites name=\"brownbridge\" {}>", sums(all.iter().copied())));
    for Suite { path, cases } in suites {
        let file = escaped(path);
        line(&mut out, format_args!("  <testsuite name=\"{file}\" {}>", sums(cases.iter())));
        // A dot would part it into package and class.
        let class = file.strip_suffix(".toml").unwrap_or(&file);
        for Case { name, took, wrong } in cases {
            let (name, took) = (escaped(name), took.as_secs_f64());
            let head = format!("<testcase name=\"{name}\" classname=\"{class}\" file=\"{file}\" time=\"{took:.6}\"");
            let Some((kind, found)) = wrong else {
                line(&mut out, format_args!("    {head}/>"));
                continue;
            };
            let code = found.first().map_or("", |found| found.code);
            let message: Vec<&str> = found.iter().map(|found| in_short(found)).collect();
            let text: Vec<String> = found.iter().map(|found| found.render(sources, false)).collect();
            let (message, text) = (escaped(&message.join("; ")), escaped_text(&text.join("\n")));
            line(&mut out, format_args!("    {head}>"));
            line(&mut out, format_args!("      <{kind} type=\"{code}\" message=\"{message}\">{text}</{kind}>"));
            line(&mut out, format_args!("    </testcase>"));
        }
        line(&mut out, format_args!("  </testsuite>"));
    }
    out + "</testsuites>\n"
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn sums<'a>(cases: impl Iterator<Item = &'a Case<'a>> + Clone) -> String {
    let of = |kind| cases.clone().filter(|case| case.wrong.as_ref().is_some_and(|(wrong, _)| *wrong == kind)).count();
    let took: Duration = cases.clone().map(|case| case.took).sum();
    let (tests, failures, errors) = (cases.clone().count(), of("failure"), of("error"));
    let took = took.as_secs_f64();
    format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"0\" time=\"{took:.6}\"")
}

/// What is different, or, where it is no test that failed, what is wrong.
fn in_short(found: &Diagnostic) -> &str {
    let label = found.primary.as_ref().map_or("", |primary| primary.text.as_str());
    if found.code == "test-failed" && !label.is_empty() { label } else { &found.title }
}

/// A text as the value of an attribute.
fn escaped(text: &str) -> String {
    escaped_text(text).replace('"', "&quot;").replace('\n', "&#10;").replace('\t', "&#9;")
}

/// A text between tags. What XML 1.0 has no way to write becomes a replacement character.
fn escaped_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            '\n' | '\t' => out.push(c),
            c if c.is_ascii_control() && c != '\u{7f}' || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a test is called and whatever differs, a reader of XML gets it back.
        #[test]
        fn what_is_written_can_be_read(name in ".{0,20}|[&<>\"'\r\n\t\u{0}\u{b}\u{7f}\u{fffe}\\]]{0,9}", label in "(?s).{0,20}") {
            let sources = [SourceFile { path: "rules/a&b.toml".into(), text: name.clone() }];
            let failure = Diagnostic::error("test-failed", "title", 0).at(0..name.len(), label.clone());
            let result = TestResult { file: 0, name: name.clone(), failures: vec![failure] };
            let text = results(&[Timed { result, took: Duration::from_micros(1500) }], &sources);
            let document = roxmltree::Document::parse(&text).unwrap();
            let case = document.descendants().find(|node| node.has_tag_name("testcase")).unwrap();
            let failure = case.first_element_child().unwrap();
            let readable = |text: &str| {
                let lost = |c: char| matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
                text.replace(lost, "\u{fffd}")
            };
            prop_assert_eq!(case.attribute("name").unwrap(), readable(&name));
            let short = if label.is_empty() { "title".to_owned() } else { readable(&label) };
            prop_assert_eq!(failure.attribute("message").unwrap(), short);
            prop_assert_eq!(case.attribute("time"), Some("0.001500"));
            prop_assert_eq!(case.attribute("classname"), Some("rules/a&b"));
        }
    }
}
