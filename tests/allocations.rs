//! What the hot path allocates: a promise of the translator that no clock is needed to check.

use brownbridge::diag::SourceFile;
use brownbridge::message::{Publish, Timestamp};
use brownbridge::rules::{Output, Verdict, load};

/// Allocations of one translation, once the buffers have grown and the route is cached.
fn allocations(keys: &str, payload: &[u8]) -> u64 {
    let text = format!("[[rule]]\ntopic = \"plant/{{line}}/{{signal}}\"\n{keys}\n");
    let Some(rules) = load(&[SourceFile { path: "mine.toml".into(), text }]).rules else {
        panic!("{keys}: not loaded")
    };
    let mut out = Output::new();
    let mut translate = || {
        let received = Timestamp(1_767_225_600_000);
        let topic = "plant/line4/speed";
        let publish = Publish { topic, payload, client: "plc7", user: None, qos: 1, retain: false, received };
        let verdict = rules.translate(&publish, &mut out);
        assert!(!matches!(verdict, Verdict::Quarantined { .. } | Verdict::Unmatched), "{keys}: {verdict:?}");
        assert!(out.records().count() <= 1);
    };
    (0..3).for_each(|_| translate());
    allocation_counter::measure(translate).count_total
}

#[test]
fn what_needs_no_memory_asks_for_none() {
    let json = br#"{"rpm": 1450, "torque": 61.5, "state": "running", "temperature": {"oil": 71.2}, "alarm": false}"#;
    for (what, keys, payload) in [
        ("untouched", "device = \"{line}\"", &json[..]),
        ("property", "device = \"{line}\"\nprops = { signal = \"{signal}\" }", json),
        ("enriched", "device = \"{line}\"\nadd = { signal = \"{signal}\", time = \"{time}\" }", json),
        ("throttled", "device = \"{line}\"\nthrottle = \"1h\"", json),
        ("compressed", "device = \"{line}\"\ncompress = \"gzip\"", json),
        ("dropped", "drop = true", json),
        ("JSON that is checked", "device = \"{line}\"\ndecode = \"json\"", json),
        ("number", "device = \"{line}\"\ndecode = \"number\"", b"21.5\0"),
        ("text", "device = \"{line}\"\ndecode = \"text\"", "Kühler".as_bytes()),
        ("Latin-1", "device = \"{line}\"\ndecode = { format = \"text\", encoding = \"latin1\" }", b"K\xfchler"),
    ] {
        assert_eq!(allocations(keys, payload), 0, "{what}");
    }
    // The control: what has to allocate is seen to.
    assert_ne!(allocations("device = \"{line}\"\nscript = '{rpm}'", json), 0);
}
