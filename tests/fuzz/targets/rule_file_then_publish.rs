//! Any text as a rule file, and where it loads, any publish through it: findings can be shown, translating ends with
//! records that can be read, explaining comes to the same verdict, and the file's own tests can be run.
//!
//! The last three lines of the input are topic, client id and payload; before them stands the rule file.
#![no_main]

use brownbridge::diag::{Diagnostic, SourceFile};
use brownbridge::message::{HubMessage, Publish, Timestamp};
use brownbridge::rules::{self, Output, Verdict, testing};
use brownbridge::topic;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.rsplitn(4, |byte| *byte == b'\n');
    let payload = parts.next().unwrap_or_default();
    let client = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();

    let sources = [SourceFile { path: "rules.toml".to_owned(), text }];
    let loaded = rules::load(&sources);
    assert_eq!(loaded.rules.is_none(), loaded.diagnostics.iter().any(Diagnostic::is_error));
    for diagnostic in &loaded.diagnostics {
        assert!(rules::CODES.contains(&diagnostic.code), "{}", diagnostic.code);
        assert!(diagnostic.render(&sources, true).ends_with('\n'));
        assert!(diagnostic.json(&sources).is_object());
    }
    let Some(set) = loaded.rules else { return };
    for result in testing::run(&set, &loaded.tests) {
        result.failures.iter().for_each(|failure| assert!(!failure.render(&sources, false).is_empty()));
    }
    if topic::check_name(&name).is_err() {
        return;
    }
    let publish = Publish { topic: &name, payload, client: &client, user: None, qos: 1, retain: false, received: Timestamp(0) };
    let mut out = Output::new();
    let verdict = set.translate(&publish, &mut out);
    let records: Vec<_> = out.records().map(|(rule, record)| (rule, record.to_vec())).collect();
    for (rule, record) in &records {
        assert!(*rule < set.len() && HubMessage::parse(record).is_ok());
    }
    assert_eq!(set.translate(&publish, &mut out), verdict, "the cache changes nothing");
    assert!(out.records().eq(records.iter().map(|(rule, record)| (*rule, &record[..]))));
    let explained = set.explain(&publish);
    assert_eq!(explained.verdict, verdict);
    assert!(explained.output.records().eq(records.iter().map(|(rule, record)| (*rule, &record[..]))));
    match verdict {
        Verdict::Translated => assert!(!records.is_empty()),
        Verdict::Quarantined { rule, .. } => {
            assert_eq!(explained.tried.last().map(|tried| tried.rule), Some(rule));
        }
        Verdict::Dropped { rule } => assert!(explained.tried.iter().any(|tried| tried.rule == rule)),
        Verdict::Unmatched => assert!(records.is_empty()),
    }
});
