//! Any text as a rule file, and where it loads, any publish through it: findings can be shown, translating ends with
//! records that can be read, explaining comes to the same verdict, what went into windows comes out of them, and the
//! file's own tests can be run. The same payload as a command, a method and desired properties becomes publishes on
//! valid topics, or nothing.
//!
//! The last three lines of the input are topic, client id (and device) and payload; before them stands the rule file.
#![no_main]

use brownbridge::diag::{Diagnostic, SourceFile};
use brownbridge::message::{HubMessage, Publish, Timestamp};
use brownbridge::rules::{self, Commanded, Incoming, Output, RuleSet, Verdict, testing};
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
    come_down(&set, &client, payload);
    if topic::check_name(&name).is_err() {
        return;
    }
    let publish = Publish { topic: &name, payload, client: &client, user: None, qos: 1, retain: false, received: Timestamp(0) };
    let mut out = Output::new();
    let verdict = set.translate(&publish, &mut out);
    let records: Vec<_> = out.records().map(|(rule, record)| (rule, record.to_vec())).collect();
    let held: Vec<_> = out.held().map(|(rule, held)| (rule, held.to_vec())).collect();
    for (rule, record) in &records {
        assert!(*rule < set.len() && HubMessage::parse(record).is_ok());
    }
    for (rule, held) in &held {
        assert!(set.combines(*rule) && HubMessage::parse(rules::held_record(held)).is_ok());
    }
    set.due(Timestamp(1 << 40), &mut out);
    assert!(out.records().all(|(_, record)| HubMessage::parse(record).is_ok()));
    let again = set.translate(&publish, &mut out);
    if !(0..set.len()).any(|rule| set.restrains(rule)) {
        assert_eq!(again, verdict, "the cache changes nothing");
        assert!(out.records().eq(records.iter().map(|(rule, record)| (*rule, &record[..]))));
    }
    set.finish(&mut out);
    assert!(out.records().all(|(_, record)| HubMessage::parse(record).is_ok()));
    assert_eq!(out.memory().count_windows(), (0, 0));
    let explained = set.explain(&publish);
    assert_eq!(explained.verdict, verdict);
    assert!(explained.output.records().eq(records.iter().map(|(rule, record)| (*rule, &record[..]))));
    match verdict {
        Verdict::Translated => assert!(!records.is_empty() || !held.is_empty()),
        Verdict::Quarantined { rule, .. } => {
            assert_eq!(explained.tried.last().map(|tried| tried.rule), Some(rule));
        }
        Verdict::Dropped { rule } => assert!(explained.tried.iter().any(|tried| tried.rule == rule)),
        Verdict::Unmatched => assert!(records.is_empty() && held.is_empty()),
    }
});

/// The payload as what comes down for a device.
fn come_down(set: &RuleSet, device: &str, payload: &[u8]) {
    let props = [("kind".to_owned(), Some("a".to_owned())), ("a".to_owned(), None)];
    let mut publishes = Vec::new();
    for method in [None, Some("a")] {
        let incoming = Incoming { device, method, id: "1", props: &props, payload, received: Timestamp(0) };
        if let Commanded::Made(made) = set.command(&incoming) {
            publishes.extend(made.publishes);
        }
    }
    if let Ok(properties) = serde_json::from_slice(payload) {
        let wishes = set.desired((device, Timestamp(0)), &properties);
        publishes.extend(wishes.into_iter().filter_map(|wish| wish.made.ok()).flatten());
    }
    assert!(publishes.iter().all(|publish| topic::check_name(&publish.topic).is_ok()));
}
