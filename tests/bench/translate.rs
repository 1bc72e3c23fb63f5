//! What a translation costs: nanoseconds and allocations per message, at 10, 1,000 and 5,000 rules, by topic and by regex.
//!
//! Then what single keys cost, with one rule.
//!
//! Run with `cargo bench --bench translate`. Aims: pass-through below 1 us, enrichment below 3 us, and
//! 1,000 rules at most 0.5 us dearer than 10. "few topics" is a machine that publishes on 16 topics, so the
//! routes are cached; "many topics" is 4,096 topics in turn, so that they are not.

use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};

use brownbridge::diag::SourceFile;
use brownbridge::message::{Publish, Timestamp};
use brownbridge::rules::{Output, RuleSet, Verdict, load};

const PAYLOAD: &[u8] = br#"{"rpm": 1450, "torque": 61.5, "state": "running", "temperature": {"oil": 71.2, "motor": 65.0}, "counters": [12, 4711, 99120], "alarm": false, "batch": "2026-07-12/A", "operator": null, "shift": "early"}"#;

fn rules(count: usize, regex: bool, action: &str) -> RuleSet {
    let mut text = String::new();
    for index in 0..count {
        let _ = match regex {
            false => write!(text, "[[rule]]\ntopic = \"plant{index}/{{line}}/{{machine}}/{{signal}}\"\n{action}\n"),
            true => write!(
                text,
                "[[rule]]\nregex = '^plant{index}/(?<line>[^/]+)/(?<machine>[^/]+)/(?<signal>.+)$'\n{action}\n"
            ),
        };
    }
    load_rules(text)
}

fn load_rules(text: String) -> RuleSet {
    let loaded = load(&[SourceFile { path: "bench.toml".into(), text }]);
    let Some(rules) = loaded.rules else { panic!("the rules of the benchmark have mistakes") };
    rules
}

/// A message of 20 tags of four devices, as Kepware sends them.
fn kepware() -> Vec<u8> {
    let tag = |n: u32| {
        let (device, t) = (n % 4, 1_767_225_599_000_u64 + u64::from(n));
        format!("{{\"id\":\"Channel1.Press{device}.Tag{n}\",\"v\":{n}.5,\"q\":true,\"t\":{t}}}")
    };
    let tags: Vec<String> = (0..20).map(tag).collect();
    format!("{{\"timestamp\":1767225599000,\"values\":[{}]}}", tags.join(",")).into_bytes()
}

/// What the keys of a rule cost: the rule, the payload.
fn keys() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let words = "[rule.decode]\nformat = \"binary\"\nfields = [ { name = \"status\", type = \"u16\" }, \
        { name = \"running\", bit = 0, of = \"status\" }, { name = \"temp\", type = \"f32\" }, { name = \"counter\", type = \"u16\" } ]";
    vec![
        (
            "number, scale",
            "decode = \"number\"\ndevice = \"d\"\nscale = { value = { factor = 0.1, round = 1 } }",
            b"415".to_vec(),
        ),
        ("keyvalue", "decode = \"keyvalue\"\ndevice = \"d\"", b"P=12.5;U=231;I=0.5;f=50.01".to_vec()),
        ("binary, 8 bytes", words, b"\x01\x03\x41\xac\0\0\x12\x67".to_vec()),
        ("when, let by", "when = '.rpm > 9000'\ndevice = \"d\"", PAYLOAD.to_vec()),
        (
            "when and set",
            "when = '.rpm > 0.1 and .state != \"idle\"'\ndevice = \"d\"\nset = { kw = \".rpm * .torque / 9550 | round(2)\" }",
            PAYLOAD.to_vec(),
        ),
        (
            "rename, remove",
            "device = \"d\"\nrename = { rpm = \"speed\" }\nremove = [\"counters\", \"operator\"]",
            PAYLOAD.to_vec(),
        ),
        (
            "time",
            "device = \"d\"\ntime = { from = \".ts\", format = \"unix_ms\" }",
            b"{\"v\":1,\"ts\":1767225599000}".to_vec(),
        ),
        (
            "kepware, 20 tags in 4 messages",
            "decode = { format = \"kepware\", split = \"device\" }\ndevice = \"{tag_device}\"",
            kepware(),
        ),
        (
            "kepware, 20 messages",
            "decode = { format = \"kepware\", split = \"tag\" }\ndevice = \"{tag_device}\"",
            kepware(),
        ),
        ("throttle, held back", "device = \"d\"\nthrottle = \"1h\"", PAYLOAD.to_vec()),
        (
            "report_by_exception, held back",
            "device = \"d\"\nreport_by_exception = { field = \"rpm\", change = 1 }",
            PAYLOAD.to_vec(),
        ),
        ("dedupe, held back", "device = \"d\"\ndedupe = \"1h\"", PAYLOAD.to_vec()),
        ("compress", "device = \"d\"\ncompress = \"gzip\"", PAYLOAD.to_vec()),
        (
            "script",
            "device = \"d\"\nscript = '{rpm, torque, oil: .temperature.oil, sum: (.counters | add)}'",
            PAYLOAD.to_vec(),
        ),
    ]
}

fn translate(rules: &RuleSet, topic: &str, payload: &[u8], out: &mut Output) {
    let received = Timestamp(1_767_225_600_000);
    let publish = Publish { topic, payload, client: "plc7", user: None, qos: 1, retain: false, received };
    let verdict = rules.translate(black_box(&publish), out);
    assert!(!matches!(verdict, Verdict::Quarantined { .. } | Verdict::Unmatched));
    black_box(out.records().count());
}

/// Nanoseconds per message.
fn measure(rules: &RuleSet, topics: &[String], payload: &[u8]) -> f64 {
    let mut out = Output::new();
    let mut best = f64::MAX;
    // The best of many short rounds is one that nothing interrupted.
    for _ in 0..60 {
        let start = Instant::now();
        let mut messages = 0_u32;
        while start.elapsed() < Duration::from_millis(5) {
            for topic in topics.iter().cycle().take(topics.len().max(1024)) {
                translate(rules, topic, payload, &mut out);
                messages += 1;
            }
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(messages));
    }
    best
}

/// Allocations per message, once the buffers have grown and the routes are cached.
fn allocations(rules: &RuleSet, topics: &[String], payload: &[u8]) -> f64 {
    let mut out = Output::new();
    let mut round = || topics.iter().for_each(|topic| translate(rules, topic, payload, &mut out));
    round();
    allocation_counter::measure(round).count_total as f64 / topics.len() as f64
}

fn main() {
    let passes = "device = \"{line}-{machine}\"";
    let enriches =
        "device = \"{line}-{machine}\"\nadd = { signal = \"{signal}\", site = \"plant1\", time = \"{time}\" }";
    println!("payload: {} bytes of JSON; ns per message, and allocations per message with 5,000 rules", PAYLOAD.len());
    let counts = ["10 rules", "1,000 rules", "5,000 rules", "allocations"];
    println!(
        "{:<14}{:<8}{:<14}{:>10}{:>12}{:>12}{:>12}",
        "", "by", "topics", counts[0], counts[1], counts[2], counts[3]
    );
    for (what, action) in [("pass-through", passes), ("enrichment", enriches)] {
        for (by, regex) in [("topic", false), ("regex", true)] {
            for (how, count) in [("few", 16), ("many", 4096)] {
                let topics: Vec<String> =
                    (0..count).map(|n| format!("plant{}/line{}/press{}/speed", n % 10, n / 10 % 16, n / 160)).collect();
                let sets = [10, 1000, 5000].map(|count| rules(count, regex, action));
                let [few, many, most] = sets.each_ref().map(|rules| measure(rules, &topics, PAYLOAD));
                let allocated = allocations(&sets[2], &topics, PAYLOAD);
                println!("{what:<14}{by:<8}{how:<14}{few:>10.0}{many:>12.0}{most:>12.0}{allocated:>12.2}");
            }
        }
    }
    println!("\n{:<36}{:>10}{:>12}", "one rule, few topics", "ns", "allocations");
    for (what, keys, payload) in keys() {
        let topics: Vec<String> = (0..16).map(|n| format!("plant/line{n}/press/words")).collect();
        let text = format!("[[rule]]\ntopic = \"plant/{{line}}/{{machine}}/{{signal}}\"\n{keys}\n");
        let text = if keys.contains("device") {
            text
        } else {
            text.replacen("[rule.decode]", "device = \"d\"\n[rule.decode]", 1)
        };
        let rules = load_rules(text);
        let (ns, allocated) = (measure(&rules, &topics, &payload), allocations(&rules, &topics, &payload));
        println!("{what:<36}{ns:>10.0}{allocated:>12.2}");
    }
}
