//! What a translation costs: nanoseconds per message, at 10 and 1,000 rules, by topic and by regex.
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
    let loaded = load(&[SourceFile { path: "bench.toml".into(), text }]);
    let Some(rules) = loaded.rules else { panic!("the rules of the benchmark have mistakes") };
    rules
}

fn measure(rules: &RuleSet, topics: &[String]) -> f64 {
    let mut out = Output::new();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let mut messages = 0_u32;
        while start.elapsed() < Duration::from_millis(60) {
            for topic in topics.iter().cycle().take(topics.len().max(1024)) {
                let publish = Publish {
                    topic,
                    payload: PAYLOAD,
                    client: "plc7",
                    user: None,
                    qos: 1,
                    retain: false,
                    received: Timestamp(1_767_225_600_000),
                };
                let verdict = rules.translate(black_box(&publish), &mut out);
                assert!(verdict == Verdict::Translated);
                black_box(out.records().count());
                messages += 1;
            }
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(messages));
    }
    best
}

fn main() {
    let passes = "device = \"{line}-{machine}\"";
    let enriches =
        "device = \"{line}-{machine}\"\nadd = { signal = \"{signal}\", site = \"plant1\", time = \"{time}\" }";
    println!("payload: {} bytes of JSON; ns per message", PAYLOAD.len());
    println!("{:<14}{:<8}{:<14}{:>10}{:>12}", "", "by", "topics", "10 rules", "1,000 rules");
    for (what, action) in [("pass-through", passes), ("enrichment", enriches)] {
        for (by, regex) in [("topic", false), ("regex", true)] {
            for (how, count) in [("few", 16), ("many", 4096)] {
                let topics: Vec<String> =
                    (0..count).map(|n| format!("plant{}/line{}/press{}/speed", n % 10, n / 10 % 16, n / 160)).collect();
                let few = measure(&rules(10, regex, action), &topics);
                let many = measure(&rules(1000, regex, action), &topics);
                println!("{what:<14}{by:<8}{how:<14}{few:>10.0}{many:>12.0}");
            }
        }
    }
}
