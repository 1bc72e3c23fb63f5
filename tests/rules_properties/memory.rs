//! Rules that remember, and what comes down: whatever is published, wished or commanded, there is an outcome, and what
//! went into windows comes out of them.

use std::sync::OnceLock;

use brownbridge::message::{HubMessage, Publish, Timestamp};
use brownbridge::rules::{Commanded, Incoming, Output, RuleSet, Verdict, plain_body};
use brownbridge::topic;
use proptest::prelude::*;

use super::{json, rules};

const REMEMBERING: &str = r##"
[[rule]]
topic    = "batch/{x}"
device   = "{x}-{.a}"
batch    = { max_messages = 3, max_wait = "10s" }
[[rule]]
topic    = "packed/{x}"
device   = "{x}"
add      = { x = "{x}", at = "{time}" }
batch    = { max_bytes = 60, max_wait = "3s" }
compress = "gzip"
[[rule]]
topic     = "fold/{x}/#"
device    = "{x}{.b}"
per       = "{device}"
aggregate = { every = "10s", fields = { a = ["min", "max", "mean", "sum", "count", "first", "last"], "b.c" = "last" } }
[[rule]]
topic    = "row/{x}/{n}"
device   = "{x}"
pivot    = { name = "{n}{.b}", value = ".a", max_wait = "5s", complete = ["p", "q"], trigger = "t" }
[[rule]]
topic    = "less/{x}"
device   = "{x}-{.b}"
throttle = "1s"
dedupe   = { within = "5s", key = "{device}/{.a}" }
report_by_exception = { field = "a", percent = 10, at_least_every = "30s" }
per      = "{device}"
[[rule]]
topic    = "twin/{x}"
device   = "{x}"
to       = "reported"
at       = "{x}.{.b}"
every    = "10s"
[[rule]]
topic    = "script/{x}"
script   = '.[]?, {a, $x}'
device   = "{x}"
dedupe   = "1s"
batch    = { max_messages = 2, max_wait = "1m" }
priority = "high"
"##;

/// The rules whose windows are lists, and the one of a twin.
const LISTS: [usize; 3] = [0, 1, 6];
const TWIN: usize = 5;

fn remembering() -> &'static RuleSet {
    static SET: OnceLock<RuleSet> = OnceLock::new();
    SET.get_or_init(|| rules(REMEMBERING))
}

/// Looks at what is to be sent; says how many bodies are in the lists.
fn look(out: &Output) -> Result<usize, TestCaseError> {
    let mut listed = 0;
    for (rule, record) in out.records() {
        let message = HubMessage::parse(record).unwrap();
        prop_assert!(!message.device.is_empty());
        let body = plain_body(&message);
        if message.content.content_type() == Some("application/json") {
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            prop_assert!(rule != TWIN || json.is_object(), "{json}");
            if LISTS.contains(&rule) {
                listed += json.as_array().unwrap().len();
            }
        }
    }
    Ok(listed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_goes_into_windows_comes_out(
        publishes in proptest::collection::vec((
            "(batch|packed|fold|row|less|twin|script)/[ab]?(/[pqt]?)?",
            prop_oneof![
                4 => "\\{\"a\":(-?[0-9]{1,3}(\\.5)?|\"x\"|null),\"b\":(1|\"y\"|\\{\"c\":[12]\\}|\\[\\])\\}".prop_map(String::into_bytes),
                1 => json().prop_map(|json| json.to_string().into_bytes()),
                1 => proptest::collection::vec(any::<u8>(), 0..20),
            ],
            -2_000_i64..20_000,
        ), 0..40),
    ) {
        let (set, mut out, mut now) = (remembering(), Output::new(), 1_767_225_600_000);
        let (mut held, mut listed) = (0, 0);
        for (topic, payload, later) in &publishes {
            now += later;
            let received = Timestamp(now);
            set.due(received, &mut out);
            listed += look(&out)?;
            let publish = Publish { topic, payload, client: "c", user: None, qos: 1, retain: false, received };
            let verdict = set.translate(&publish, &mut out);
            look(&out)?;
            held += out.held().filter(|(rule, _)| LISTS.contains(rule)).count();
            let made = out.records().count() + out.held().count();
            match verdict {
                Verdict::Translated => prop_assert!(made > 0),
                Verdict::Quarantined { .. } => prop_assert!(made == 0 && !out.detail().is_empty()),
                Verdict::Dropped { rule } => {
                    prop_assert_eq!(made, 0);
                    prop_assert!(out.held_back().iter().any(|(holds, _)| *holds == rule) || rule == LISTS[2]);
                }
                Verdict::Unmatched => prop_assert_eq!(made, 0),
            }
        }
        set.finish(&mut out);
        listed += look(&out)?;
        prop_assert_eq!(listed, held, "a body is in one list, once");
        prop_assert_eq!(out.memory().count_windows(), (0, 0));
    }

    #[test]
    fn whatever_comes_down_is_written_or_refused(
        properties in proptest::collection::btree_map("[a-c$.]{0,2}", json(), 0..4), as_object: bool,
        device in "d?[a/+#]{0,3}",
    ) {
        let properties: serde_json::Map<String, serde_json::Value> = properties.into_iter().collect();
        let body = match properties.values().next() {
            Some(value) if !as_object => value.clone(),
            _ => serde_json::Value::Object(properties.clone()),
        };
        let props = [("a".to_owned(), Some("1".to_owned()))];
        let payload = body.to_string();
        for (encode, set) in encoding() {
            let received = Timestamp(0);
            let incoming =
                Incoming { device: &device, method: None, id: "7", props: &props, payload: payload.as_bytes(), received };
            let commanded = match set.command(&incoming) {
                Commanded::Made(made) => made.publishes,
                Commanded::Refused { detail, .. } => {
                    prop_assert!(!detail.is_empty());
                    Vec::new()
                }
                Commanded::NoRule => Vec::new(),
            };
            let wishes = set.desired((&device, received), &properties);
            let wished = wishes.iter().filter_map(|wish| wish.made.as_ref().ok()).flatten();
            for publish in commanded.iter().chain(wished) {
                prop_assert!(topic::check_name(&publish.topic).is_ok(), "{encode}: {}", publish.topic);
            }
        }
    }
}

/// Ways to write what comes down, each with a body it can write.
const ENCODINGS: [(&str, &str); 10] = [
    (r#""json""#, "[1]"),
    (r#""text""#, r#""on""#),
    (r#"{ format = "number", decimal = "," }"#, "1.5"),
    (r#"{ format = "raw", as = "hex" }"#, r#"{"value_hex":"00ff"}"#),
    (r#""keyvalue""#, r#"{"a":1,"b":"x y"}"#),
    (r#"{ format = "csv", names = ["a", "b"], separator = ";" }"#, r#"{"a":1,"b":"x;y"}"#),
    (r#"{ format = "csv", header = true }"#, r#"[{"a":1},{"a":2}]"#),
    (r#""base64""#, r#"{"a":1}"#),
    (
        r#"{ format = "binary", order = "word-swapped", fields = [ { name = "a", type = "i16" }, { name = "b", type = "f32" }, { name = "c", type = "string", length = 4 } ] }"#,
        r#"{"a":-1,"b":1.5,"c":"abc"}"#,
    ),
    (
        r#"{ format = "hex", then = { format = "binary", fields = [ { name = "value", type = "u8" } ] } }"#,
        r#"{"value":255}"#,
    ),
];

/// Rules for what comes down, with each way to write it.
fn encoding() -> &'static [(&'static str, RuleSet)] {
    static SETS: OnceLock<Vec<(&str, RuleSet)>> = OnceLock::new();
    SETS.get_or_init(|| {
        let of = |(encode, _): &(&'static str, _)| {
            let text = format!(
                "[[command]]\ntopic = \"c/{{device}}/{{id}}\"\nencode = {encode}\n\
                 [[desired]]\ntopic = \"w/{{device}}/{{.a}}\"\nsplit = \"whole\"\nencode = {encode}\n\
                 [[desired]]\ndevice = \"d*\"\nname = \"leaf\"\ntopic = \"l/{{device}}/{{path}}\"\nencode = {encode}\n"
            );
            (*encode, rules(&text))
        };
        ENCODINGS.iter().map(of).collect()
    })
}

#[test]
fn each_way_to_write_writes_something() {
    for ((encode, set), (_, body)) in encoding().iter().zip(ENCODINGS) {
        let (props, received) = ([("a".to_owned(), Some("1".to_owned()))], Timestamp(0));
        let incoming =
            Incoming { device: "d", method: None, id: "7", props: &props, payload: body.as_bytes(), received };
        match set.command(&incoming) {
            Commanded::Made(made) => assert!(!made.publishes[0].payload.is_empty(), "{encode}"),
            other => panic!("{encode} of {body}: {other:?}"),
        }
    }
}
