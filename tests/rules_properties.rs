//! Properties of the rule engine over random rules, topics and payloads.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fmt::Write;

use brownbridge::diag::SourceFile;
use brownbridge::message::{Content, HubMessage, Publish, Timestamp};
use brownbridge::rules::{Output, QuarantineReason, RuleSet, Verdict, forward, load};
use proptest::prelude::*;

#[path = "rules_properties/memory.rs"]
mod memory;

fn rules(text: &str) -> RuleSet {
    let sources = [SourceFile { path: "r.toml".into(), text: text.into() }];
    let loaded = load(&sources);
    let told: Vec<String> = loaded.diagnostics.iter().map(|found| found.render(&sources, false)).collect();
    loaded.rules.unwrap_or_else(|| panic!("{}", told.join("\n")))
}

fn publish<'a>(topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        topic,
        payload,
        client: "plc 7",
        user: None,
        qos: 1,
        retain: false,
        received: Timestamp(1_767_225_600_000),
    }
}

/// A pattern as the rules and as the oracle read it.
#[derive(Debug, Clone)]
enum Pattern {
    Topic(Vec<String>),
    /// Levels, each a literal or `[ab]+`.
    Regex(Vec<String>),
}

#[derive(Debug, Clone)]
struct RandomRule {
    pattern: Pattern,
    goes_on: bool,
    drop: bool,
}

fn random_rule() -> impl Strategy<Value = RandomRule> {
    let level = prop_oneof![3 => "[ab]{1,2}", 1 => Just("+".to_owned()), 1 => Just("{x}".to_owned())];
    let topic = (proptest::collection::vec(level, 1..4), any::<bool>()).prop_map(|(mut levels, hash)| {
        let mut seen = false;
        for level in &mut levels {
            if level == "{x}" {
                if seen {
                    *level = "+".into();
                }
                seen = true;
            }
        }
        if hash {
            levels.push("#".into());
        }
        Pattern::Topic(levels)
    });
    let level = prop_oneof![2 => "[ab]{1,2}", 1 => Just("[^/]+".to_owned())];
    let regex = proptest::collection::vec(level, 1..4).prop_map(Pattern::Regex);
    let pattern = prop_oneof![3 => topic, 1 => regex];
    (pattern, proptest::bool::weighted(0.4), proptest::bool::weighted(0.1))
        .prop_map(|(pattern, goes_on, drop)| RandomRule { pattern, goes_on, drop })
}

fn as_toml(rules: &[RandomRule]) -> String {
    let mut text = String::new();
    for (index, rule) in rules.iter().enumerate() {
        match &rule.pattern {
            Pattern::Topic(levels) => write!(text, "[[rule]]\nname = \"{index}\"\ntopic = '{}'\n", levels.join("/")),
            Pattern::Regex(levels) => write!(text, "[[rule]]\nname = \"{index}\"\nregex = '^{}$'\n", levels.join("/")),
        }
        .unwrap();
        text.push_str(if rule.drop { "drop = true\n" } else { "device = \"d\"\n" });
        if rule.goes_on {
            text.push_str("continue = true\n");
        }
    }
    text
}

fn level_matches(want: &str, level: &str) -> bool {
    matches!(want, "+" | "{x}") || want == "[^/]+" && !level.is_empty() || want == level
}

fn oracle_matches(pattern: &Pattern, topic: &str) -> bool {
    let levels: Vec<&str> = topic.split('/').collect();
    match pattern {
        Pattern::Topic(want) if want.last().is_some_and(|last| last == "#") => {
            let want = &want[..want.len() - 1];
            levels.len() >= want.len() && want.iter().zip(&levels).all(|(want, level)| level_matches(want, level))
        }
        Pattern::Topic(want) | Pattern::Regex(want) => {
            levels.len() == want.len() && want.iter().zip(&levels).all(|(want, level)| level_matches(want, level))
        }
    }
}

/// Which rules make a message and how it ends, by asking every rule in order.
fn oracle(rules: &[RandomRule], topic: &str) -> (Vec<usize>, Verdict) {
    let mut made = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        if !oracle_matches(&rule.pattern, topic) {
            continue;
        }
        if rule.drop {
            let verdict = if made.is_empty() { Verdict::Dropped { rule: index } } else { Verdict::Translated };
            return (made, verdict);
        }
        made.push(index);
        if !rule.goes_on {
            break;
        }
    }
    let verdict = if made.is_empty() { Verdict::Unmatched } else { Verdict::Translated };
    (made, verdict)
}

fn bodies(out: &Output) -> Vec<(Vec<u8>, String)> {
    let parse = |record| HubMessage::parse(record).unwrap();
    out.records().map(|(_, record)| (parse(record).body.to_vec(), parse(record).device.to_owned())).collect()
}

const EVERYTHING: &str = r##"
[[rule]]
topic = "pairs/{x}"
decode = "keyvalue"
lookup = { table = "t", key = "{x}", default = { u = "none" } }
when = '.a != 1 or $x == "b"'
scale = { a = { factor = 2, round = 1 } }
set = { s = ".a * 2 + .b", "n.m" = "$u", t = '.c | length' }
rename = { b = "a", "c.d" = "e" }
remove = ["x"]
time = { from = ".a", format = "unix_s" }
device = "d{.a}"
add = { u = "{u}", v = "{.b}", w = "{v}" }
[[rule]]
topic = "rows"
decode = { format = "csv", header = true }
when = ".a"
device = "d"
[[rule]]
topic = "rows"
decode = { format = "hex", then = { format = "binary", rest = "ignore", fields = [ { name = "a", type = "f32" }, { name = "b", type = "bcd16" } ] } }
device = "d"
[[rule]]
topic = "tags/{x}"
decode = { format = "kepware", split = "tag", quality = "mark", keys = { values = "a", id = "b", v = "c" } }
device = "{tag_device}{tag_name}"
set = { c = ".value | tostring" }
[[rule]]
topic = "xml"
decode = "xml"
device = "d"
set = { a = ".a.b | length" }
[[rule]]
topic = "script/{x}"
script = '.[]?, {a, $x, n: ([.. | numbers] | add)}, (.a | tojson)'
device = "d{.a}"
[[rule]]
topic = "spBv1.0/#"
decode = "sparkplug"
device = "d"
[table.t]
a = { u = "x", v = 5 }
b = { u = "y" }
[[rule]]
topic = "number/#"
decode = "number"
device = "{topic}"
add = { at = "{time}" }
[[rule]]
topic = "text/{x}"
decode = "text"
device = "{client}-{x}"
add = { value = "{.value}{x}", y = ["{.value}", { z = "{.none}" }] }
[[rule]]
topic = "raw"
decode = { format = "raw", as = "base64" }
device = "d"
add = { n = 1 }
[[rule]]
topic = "json/{x}"
decode = "json"
device = "d{.a}"
props = { a = "{.a}", bc = "{.b.c}" }
[[rule]]
regex = '^(?<all>[^/]*)(?<opt>/none)?$'
continue = true
device = "{all}{opt}"
[[rule]]
topic = "#"
device = "{.a}"
add = { a = "{.b}", x = "{.a}" }
"##;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn index_and_cache_equal_a_linear_scan(
        first in proptest::collection::vec(random_rule(), 1..12),
        second in proptest::collection::vec(random_rule(), 1..12),
        topics in proptest::collection::vec("[ab]{1,2}(/[ab]{0,2}){0,3}", 1..8),
    ) {
        // One output for two rule sets: a reload must not leave routes behind in the cache.
        let mut out = Output::new();
        for random in [&first, &second] {
            let set = rules(&as_toml(random));
            for topic in topics.iter().chain(&topics) {
                let (made, verdict) = oracle(random, topic);
                prop_assert_eq!(set.translate(&publish(topic, b"1"), &mut out), verdict, "{} {:?}", topic, random);
                prop_assert_eq!(out.records().map(|(rule, _)| rule).collect::<Vec<_>>(), made);
            }
        }
    }

    #[test]
    fn what_no_key_touches_passes_byte_for_byte(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let set = rules("[[rule]]\ntopic = \"{x}\"\ndevice = \"{x}\"\nprops = { t = \"{time}\" }\n");
        let mut out = Output::new();
        prop_assert_eq!(set.translate(&publish("m1", &payload), &mut out), Verdict::Translated);
        prop_assert_eq!(bodies(&out), [(payload.clone(), "m1".to_owned())]);
        forward(&publish("m1", &payload), &mut out);
        prop_assert_eq!(bodies(&out), [(payload, String::new())]);
    }

    #[test]
    fn enriched_json_is_the_object_with_the_entries(
        object in proptest::collection::btree_map("[a-d\"\u{1}é]{1,2}", json(), 0..6),
        topic in "[^/+#\u{0}]{1,8}", pretty: bool,
    ) {
        let set = rules("[[rule]]\ntopic = \"{x}\"\ndevice = \"d\"\nadd = { a = \"{x}\", new = \"{.b}\", t = \"<{x}>\" }\n");
        prop_assume!(!topic.starts_with('$'));
        let object = serde_json::Value::Object(object.into_iter().collect());
        let payload = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
        let mut out = Output::new();
        prop_assert_eq!(set.translate(&publish(&topic, payload.as_bytes()), &mut out), Verdict::Translated);
        let mut expect = object.clone();
        expect["a"] = topic.as_str().into();
        if let Some(b) = object.get("b") {
            expect["new"] = b.clone();
        }
        expect["t"] = format!("<{topic}>").into();
        let body = &bodies(&out)[0].0;
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(body).unwrap(), expect);
        if object.get("a").is_none() {
            let kept = payload.trim_end_matches(['}', '\n', ' ']);
            prop_assert!(body.starts_with(kept.as_bytes()), "the payload's own bytes are kept");
        }
    }

    #[test]
    fn any_publish_has_an_outcome(
        topic in "(number|text|raw|json|pairs|rows|tags|xml|script|spBv1\\.0|[a-z$\"é]{0,3})(/[a-z{}\\\\é]{0,4}){0,3}",
        payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "[-+0-9.eE ]{0,8}".prop_map(String::into_bytes),
            "([abcx]=[-0-9.ax]{0,4}[;\n]){0,4}".prop_map(String::into_bytes),
            "(a,b\n)?([0-9a]{0,3}[,\n]){0,6}".prop_map(String::into_bytes),
            "([0-9a-f]{2}){0,8}".prop_map(String::into_bytes),
            "<a>(<b c=\"1\"/>|x|<b>2</b>){0,3}</a>".prop_map(String::into_bytes),
            "\\{\"a\":\\[(\\{\"b\":(\"c\\.d\\.[ab]\"|1),\"c\":(1|\"x\"|null)\\},?){0,3}\\]\\}".prop_map(String::into_bytes),
            "\\{(\"[abc]\":(1|\"x\"|\\{\"c\":\\[\\]\\}|null),?){0,3}\\}?".prop_map(String::into_bytes),
        ],
    ) {
        let set = rules(EVERYTHING);
        let mut out = Output::new();
        let publish = publish(&topic, &payload);
        let verdict = set.translate(&publish, &mut out);
        for (_, record) in out.records() {
            let message = HubMessage::parse(record).unwrap();
            prop_assert!(!message.device.is_empty());
            if message.content.content_type() == Some("application/json") {
                serde_json::from_slice::<serde_json::Value>(message.body).unwrap();
            }
        }
        let quarantined = matches!(verdict, Verdict::Quarantined { .. });
        prop_assert_eq!(quarantined, !out.detail().is_empty());
        prop_assert_eq!(set.explain(&publish).verdict, verdict);
        forward(&publish, &mut out);
        prop_assert_eq!(out.records().count(), 1);
    }

    #[test]
    fn any_text_is_read_and_its_findings_are_shown(
        lines in proptest::collection::vec(prop_oneof![
            Just("[[rule]]".to_owned()), Just("[[test]]".to_owned()), Just("[rule".to_owned()), Just("[table.x]".to_owned()),
            "(name|topic|regex|device|add|props|decode|drop|continue|want|payload|payload_hex|throttle|when|set|scale|rename|remove|script|lookup|time|send|[a-z]{1,6}) = \
             (\"[a-z{}.+#/é\\\\]{0,9}\"|'[a-z{}()\\[+*?<]{0,9}'|true|[0-9]{1,3}|nan|\\{ [a-z]{1,3} = \"\\{[a-z.]{0,4}\\}?\" \\}|\\[1, \"a\"\\])",
            "[ -~é\t]{0,20}",
        ], 0..14),
        crlf: bool,
    ) {
        let sources = [SourceFile { path: "r.toml".into(), text: lines.join(if crlf { "\r\n" } else { "\n" }) }];
        let loaded = load(&sources);
        for found in &loaded.diagnostics {
            found.render(&sources, false);
            found.json(&sources);
        }
        prop_assert_eq!(loaded.rules.is_none(), loaded.diagnostics.iter().any(|found| found.is_error()));
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i64>().prop_map(Into::into),
        "[a-z\"\\\\\n]{0,4}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            proptest::collection::btree_map("[a-c]", inner, 0..3)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn what_a_payload_looks_like() {
    let set = rules("[[rule]]\ntopic = \"x\"\ndevice = \"d\"\n");
    let deep = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    for (payload, expect) in [
        (b"".to_vec(), Content::None),
        (b" ".to_vec(), Content::Text),
        (b"1".to_vec(), Content::Json),
        (b" {\"a\":[]} ".to_vec(), Content::Json),
        (b"{a:1}".to_vec(), Content::Text),
        ("\u{feff}1".as_bytes().to_vec(), Content::Text),
        (b"\xff".to_vec(), Content::Binary),
        (b"\"\xff\"".to_vec(), Content::Binary),
        (deep(128), Content::Json),
        (deep(129), Content::Text),
    ] {
        let mut out = Output::new();
        set.translate(&publish("x", &payload), &mut out);
        let (_, record) = out.records().next().unwrap();
        assert_eq!(HubMessage::parse(record).unwrap().content, expect, "{:?}", payload.get(..9));
        forward(&publish("x", &payload), &mut out);
        let (_, record) = out.records().next().unwrap();
        assert_eq!(HubMessage::parse(record).unwrap().content, expect);
    }
}

#[test]
fn limits_end_in_quarantine() {
    let set = rules("[[rule]]\ntopic = \"{x}\"\ndevice = \"{.a}\"\nprops = { b = \"{.b}\" }\nadd = { x = \"{x}\" }\n");
    let long = "y".repeat(65_536);
    for (payload, expect) in [
        (format!("{{\"a\":{}", "[".repeat(1_000_000)), QuarantineReason::TooDeep),
        (format!("{{\"a\":\"{long}\"}}"), QuarantineReason::TooLong),
        (format!("{{\"a\":1,\"b\":\"{long}\"}}"), QuarantineReason::TooLong),
        (String::new(), QuarantineReason::NotAnObject),
    ] {
        let mut out = Output::new();
        let verdict = set.translate(&publish("x", payload.as_bytes()), &mut out);
        assert_eq!(verdict, Verdict::Quarantined { rule: 0, reason: expect });
        assert_eq!(out.records().count(), 0);
        assert!(out.detail().len() < 200, "a detail shows the beginning of a payload only");
    }
}

/// What comes from the cloud cannot choose where it goes: whatever device, properties and body say, a topic is one of
/// those its command names.
mod commands {
    use brownbridge::diag::SourceFile;
    use brownbridge::hub::back::{self, Command, Downward, Upward};
    use brownbridge::hub::connect::Identity;
    use brownbridge::message::Timestamp;
    use brownbridge::rules::{self, Commanded, Incoming};
    use brownbridge::topic;
    use proptest::prelude::*;

    const RULES: &str = r#"
[[command]]
device = "d{d}"
props  = { a = "{a}" }
topic  = "own/{device}/x{a}/{id}"
ack    = { topic = "ack/{d}/{.b}" }

[[command]]
topic   = "other/{.b}"
payload = "{.c}"
"#;

    fn odd() -> impl Strategy<Value = String> {
        prop_oneof!["d?[a/+#$ ]{0,3}", "\\PC{0,4}", Just("\0".to_owned()), Just(String::new())]
    }

    proptest! {
        #[test]
        fn go_where_their_rule_says(device in odd(), id in odd(), a in odd(), b in odd(), as_text in any::<bool>()) {
            let loaded = rules::load(&[SourceFile { path: "r.toml".into(), text: RULES.into() }]);
            let b = if as_text { serde_json::Value::from(b) } else { serde_json::json!({ "b": b }) };
            let payload = serde_json::json!({ "b": b, "c": 1 }).to_string();
            let props = [("a".to_owned(), Some(a))];
            let incoming = Incoming {
                device: &device,
                method: None,
                id: &id,
                props: &props,
                payload: payload.as_bytes(),
                received: Timestamp(0),
            };
            if let Commanded::Made(made) = loaded.rules.unwrap().command(&incoming) {
                let names = made.publishes.iter().map(|publish| publish.topic.as_str());
                for name in names.chain(made.answer.as_ref().map(|(name, _)| name.as_str())) {
                    prop_assert!(topic::check_name(name).is_ok(), "{name}");
                    let levels: Vec<&str> = name.split('/').collect();
                    let expect = match levels[0] { "own" => 4, "ack" => 3, "other" => 2, _ => 0 };
                    prop_assert_eq!(levels.len(), expect, "{}", name);
                    prop_assert!(levels.iter().all(|level| !level.is_empty()), "{}", name);
                }
            }
        }

        #[test]
        fn any_topic_of_the_way_back_is_read(text in "([$]iothub/|devices/d/)?(twin/res/|methods/(POST|res)/|messages/devicebound/|twin/PATCH/)?\\PC{0,12}(/[?][$]rid=\\PC{0,3})?") {
            if let Some(Downward::Method { name, rid }) = Downward::parse(&text) {
                let again = back::method(&name, rid);
                prop_assert_eq!(Downward::parse(&again), Some(Downward::Method { name, rid }), "{}", again);
            }
            if let Some(up) = Upward::parse(&text) {
                let _ = back::field(up.query(), "$rid");
            }
            if let Ok(command) = Command::parse(&text) {
                let written = command.topic(&Identity { hub: "h", device: "d", module: None });
                let Some(Downward::Command { bag, .. }) = Downward::parse(&written) else { panic!("{written}") };
                prop_assert!(Command::parse(bag).is_ok(), "{}", written);
            }
        }
    }
}
