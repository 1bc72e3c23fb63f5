//! Windows against what they must come to, over random publishes and times.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use crate::diag::SourceFile;
use crate::message::{HubMessage, Publish, Timestamp};
use crate::rules::{Memory, Output, RuleSet, Verdict, load};

const START: i64 = 1_767_225_600_000;

fn rules(keys: &str) -> RuleSet {
    let text = format!("[[rule]]\nname = \"r\"\ntopic = \"t/{{device}}\"\ndevice = \"{{device}}\"\n{keys}\n");
    load(&[SourceFile { path: "r.toml".into(), text }]).rules.unwrap()
}

/// A publish of some device at some time.
#[derive(Debug, Clone)]
struct Sent {
    at: i64,
    device: usize,
    payload: String,
}

impl Sent {
    fn topic(&self) -> String {
        format!("t/{}", self.device)
    }

    fn publish<'p>(&'p self, topic: &'p str) -> Publish<'p> {
        let received = Timestamp(START + self.at);
        let payload = self.payload.as_bytes();
        Publish { topic, payload, client: "c", user: None, qos: 1, retain: false, received }
    }
}

/// Publishes one after the other, some at the same time.
fn publishes(most: usize) -> impl Strategy<Value = Vec<Sent>> {
    vec((0..3_000_i64, 0..3_usize, 0..2_000_i64), 1..most).prop_map(|steps| {
        let mut at = 0;
        let of = |(after, device, number): (i64, usize, i64)| {
            at += if after < 500 { 0 } else { after };
            Sent { at, device, payload: format!("{}", number as f64 / 8.0) }
        };
        steps.into_iter().map(of).collect()
    })
}

/// A message as it came out: when, of which device, its body.
type Came = (i64, usize, Value);

/// Everything the rules make, at the time they make it.
fn run(rules: &RuleSet, sent: &[Sent]) -> Vec<Came> {
    let mut out = Output::new();
    let mut came = Vec::new();
    let keep = |out: &Output, at: i64, came: &mut Vec<Came>| {
        for (_, record) in out.records() {
            let message = HubMessage::parse(record).unwrap();
            came.push((at, message.device.parse().unwrap(), serde_json::from_slice(message.body).unwrap()));
        }
    };
    for one in sent {
        // Windows that end before are closed in their time.
        while let Some(due) = out.memory().next_due().filter(|due| due.0 <= START + one.at) {
            rules.due(due, &mut out);
            keep(&out, due.0 - START, &mut came);
        }
        let verdict = rules.translate(&one.publish(&one.topic()), &mut out);
        assert!(matches!(verdict, Verdict::Translated | Verdict::Dropped { .. }), "{verdict:?}");
        keep(&out, one.at, &mut came);
        rules.due(Timestamp(START + one.at), &mut out);
        keep(&out, one.at, &mut came);
    }
    // A window that the last message opened does not end in the moment at which the one before it did.
    let end = sent.last().map_or(0, |one| one.at + 1);
    rules.finish(&mut out);
    keep(&out, end, &mut came);
    came
}

fn number(sent: &Sent) -> f64 {
    sent.payload.parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Nothing is lost or doubled, the order of a device is kept, and no list is longer or waits longer than it may.
    #[test]
    fn batches_are_what_came(sent in publishes(60), most in 2..6_u64, bytes in 8..40_usize) {
        let rules = rules(&format!("batch = {{ max_messages = {most}, max_bytes = {bytes}, max_wait = \"4s\" }}"));
        let came = run(&rules, &sent);
        for device in 0..3 {
            let expect: Vec<(i64, f64)> =
                sent.iter().filter(|one| one.device == device).map(|one| (one.at, number(one))).collect();
            let mut left = expect.iter();
            for (at, _, list) in came.iter().filter(|(_, of, _)| *of == device) {
                let list = list.as_array().unwrap();
                prop_assert!(list.len() as u64 <= most);
                prop_assert!(list.len() == 1 || Value::from(list.clone()).to_string().len() <= bytes + 2 * list.len());
                for got in list {
                    let (came_at, expect) = left.next().unwrap();
                    prop_assert_eq!(got.as_f64().unwrap(), *expect);
                    prop_assert!((0..=4_000).contains(&(at - came_at)), "waited {}", at - came_at);
                }
            }
            prop_assert_eq!(left.next(), None);
        }
    }

    /// An aggregate is the fold of the values of its window.
    #[test]
    fn aggregates_are_folds(sent in publishes(60)) {
        let functions = "[\"min\", \"max\", \"mean\", \"sum\", \"count\", \"first\", \"last\"]";
        let rules = rules(&format!("decode = \"number\"\naggregate = {{ every = \"5s\", fields = {{ value = {functions} }} }}"));
        let mut windows: BTreeMap<(i64, usize), Vec<f64>> = BTreeMap::new();
        for one in &sent {
            windows.entry((one.at / 5_000, one.device)).or_default().push(number(one));
        }
        let mut came = run(&rules, &sent);
        came.sort_by_key(|(at, device, _)| (at - i64::from(*at % 5_000 == 0 && *at > 0), *device));
        prop_assert_eq!(came.len(), windows.len());
        for ((_, values), (_, _, got)) in windows.iter().zip(&came) {
            let of = |key: &str| got[format!("value_{key}")].as_f64().unwrap();
            let sum: f64 = values.iter().sum();
            prop_assert_eq!(of("min"), values.iter().copied().fold(f64::MAX, f64::min));
            prop_assert_eq!(of("max"), values.iter().copied().fold(f64::MIN, f64::max));
            prop_assert_eq!(of("sum"), sum);
            // Reading JSON may lose the last bit.
            prop_assert!((of("mean") - sum / values.len() as f64).abs() < 1e-9);
            prop_assert_eq!((of("count"), of("first"), of("last")), (values.len() as f64, values[0], *values.last().unwrap()));
        }
    }

    /// What is reported by exception differs enough or is due; what is not, is neither; and a throttle keeps its distance.
    #[test]
    fn what_is_held_back_is_not_missed(sent in publishes(80), percent: bool, throttle: bool) {
        let change = if percent { "percent = 20" } else { "change = 30" };
        let report = format!("report_by_exception = {{ field = \"value\", {change}, at_least_every = \"6s\" }}");
        let rules = rules(&format!("decode = \"number\"\n{report}\n{}", if throttle { "throttle = \"2s\"" } else { "" }));
        let came = run(&rules, &sent);
        for device in 0..3 {
            let mut came = came.iter().filter(|(_, of, _)| *of == device).map(|(at, _, body)| (*at, body["value"].as_f64().unwrap()));
            let mut last: Option<(i64, f64)> = None;
            for one in sent.iter().filter(|one| one.device == device) {
                let value = number(one);
                let goes = last.is_none_or(|(at, before)| {
                    let difference = (value - before).abs();
                    let enough = if percent { difference > 0.0 && difference >= before.abs() * 0.2 } else { difference >= 30.0 };
                    (enough || one.at - at >= 6_000) && (!throttle || one.at - at >= 2_000)
                });
                if goes {
                    prop_assert_eq!(came.next(), Some((one.at, value)));
                    last = Some((one.at, value));
                }
            }
            prop_assert_eq!(came.next(), None);
        }
    }

    /// A crash at any moment: what is still kept makes the windows again, and every contribution is in one message.
    #[test]
    fn windows_are_made_again_from_what_is_kept(sent in publishes(40), crash in 0..40_usize, changed: bool) {
        let before = rules("batch = { max_messages = 4, max_wait = \"4s\" }");
        let after = if changed { rules("batch = { max_messages = 3, max_wait = \"9s\" }") } else { before.clone() };
        let mut kept: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut arrived: Vec<f64> = Vec::new();
        let mut out = Output::new();
        let mut fetch = |memory: &Memory, kept: &mut BTreeMap<u64, Vec<u8>>| {
            while let Some(closed) = memory.fetch_closed() {
                let list: Vec<f64> = serde_json::from_slice(HubMessage::parse(&closed.record).unwrap().body).unwrap();
                let done: BTreeSet<u64> = closed.sequences.iter().flat_map(|(first, last)| first..=last).collect();
                assert_eq!((list.len(), done.len() as u64), (done.len(), closed.messages));
                done.iter().for_each(|sequence| assert!(kept.remove(sequence).is_some()));
                arrived.extend(list);
            }
        };
        for (index, one) in sent.iter().enumerate() {
            let rules = if index < crash { &before } else { &after };
            if index == crash {
                out = Output::new();
                kept.iter().for_each(|(sequence, held)| rules.hold(held, *sequence, out.memory()).unwrap());
            }
            out.memory().close_due(Timestamp(START + one.at));
            rules.attempt(&one.publish(&one.topic()), &mut out);
            rules.settle(&mut out);
            let (_, held) = out.held().next().unwrap();
            kept.insert(index as u64 + 1, held.to_vec());
            rules.hold(held, index as u64 + 1, out.memory()).unwrap();
            fetch(out.memory(), &mut kept);
        }
        while out.memory().close_oldest(2) > 0 {}
        fetch(out.memory(), &mut kept);
        prop_assert!(kept.is_empty());
        let mut expect: Vec<f64> = sent.iter().map(number).collect();
        arrived.sort_by(f64::total_cmp);
        expect.sort_by(f64::total_cmp);
        prop_assert_eq!(arrived, expect);
    }

    #[test]
    fn any_bytes_are_held_or_not_but_never_panic(bytes: Vec<u8>, cut in 0..100_usize) {
        let rules = rules("batch = { max_wait = \"4s\" }");
        let mut out = Output::new();
        let _ = rules.hold(&bytes, 1, out.memory());
        let one = Sent { at: 0, device: 0, payload: "1".into() };
        rules.attempt(&one.publish("t/0"), &mut out);
        let held = out.held().next().unwrap().1.to_vec();
        let _ = rules.hold(&held[..cut.min(held.len())], 2, out.memory());
        rules.finish(&mut out);
    }
}

/// A rule that changes ends its windows with the next message, one that goes at once, and one that comes back begins anew.
#[test]
fn windows_when_rules_change() {
    let batch = rules("batch = { max_wait = \"1h\" }");
    let other = rules("batch = { max_wait = \"2h\" }");
    let without = rules("");
    let mut out = Output::new();
    let mut publish = |rules: &RuleSet| {
        let one = Sent { at: 0, device: 0, payload: "1".into() };
        rules.translate(&one.publish("t/0"), &mut out);
        out.memory().clone()
    };
    let memory = publish(&batch);
    memory.taken_up(&batch);
    memory.taken_up(&other);
    assert_eq!(memory.count_windows(), (1, 0), "it goes on as it was begun");
    publish(&other);
    assert_eq!(memory.count_windows(), (1, 1));
    memory.taken_up(&without);
    assert_eq!(memory.count_windows(), (0, 2));
    let bodies = std::iter::from_fn(|| memory.fetch_closed())
        .map(|closed| (HubMessage::parse(&closed.record).unwrap().body.to_vec(), closed.why.label()));
    assert_eq!(bodies.collect::<Vec<_>>(), [(b"[1]".to_vec(), "rules_changed"), (b"[1]".to_vec(), "rules_changed")]);
}

/// What a rule has sent is known to one of the same name, and forgotten with the rule.
#[test]
fn marks_when_rules_change() {
    let throttled = rules("throttle = \"1h\"");
    let mut out = Output::new();
    let mut goes = |rules: &RuleSet| {
        let one = Sent { at: 0, device: 0, payload: "1".into() };
        rules.translate(&one.publish("t/0"), &mut out) == Verdict::Translated
    };
    assert!(goes(&throttled) && !goes(&throttled));
    assert!(!goes(&rules("throttle = \"2h\"")), "another distance, the same rule");
    out.memory().taken_up(&rules(""));
    let mut out = Output::sharing(out.memory());
    let one = Sent { at: 0, device: 0, payload: "1".into() };
    assert_eq!(throttled.translate(&one.publish("t/0"), &mut out), Verdict::Translated);
}

/// Time that goes back does not keep anybody waiting.
#[test]
fn a_clock_that_is_set_back() {
    let batch = rules("batch = { max_wait = \"10s\" }\nthrottle = \"1s\"");
    let sent = [(100_000_000, "1"), (0, "2"), (500, "3"), (20_000, "4")];
    let sent = sent.map(|(at, payload)| Sent { at, device: 0, payload: payload.into() });
    let mut out = Output::new();
    let mut bodies = Vec::new();
    for one in &sent {
        batch.due(Timestamp(START + one.at), &mut out);
        bodies.extend(out.records().map(|(_, record)| HubMessage::parse(record).unwrap().body.to_vec()));
        batch.translate(&one.publish("t/0"), &mut out);
    }
    assert_eq!(bodies, [b"[1]".to_vec(), b"[2]".to_vec()]);
}

/// Windows take so much memory and no more; what is beyond goes up early.
#[test]
fn open_windows_are_bounded() {
    let batch = rules("batch = { max_bytes = 200000, max_wait = \"1h\" }");
    let mut out = Output::new();
    let payload = format!("\"{}\"", "x".repeat(100_000));
    let mut early = 0;
    for device in 0..1_000 {
        let one = Sent { at: device as i64, device, payload: payload.clone() };
        batch.translate(&one.publish(&one.topic()), &mut out);
        let closed = std::iter::from_fn(|| out.memory().fetch_closed());
        early += closed.inspect(|closed| assert_eq!(closed.why.label(), "early")).count();
    }
    let open = out.memory().count_windows().0;
    assert_eq!(open + early, 1_000);
    assert!((200..400).contains(&open), "{open} open");
}

/// A batch of which nothing is said but the wait stays within what is billed as one message.
#[test]
fn a_batch_fits_a_billed_block() {
    let batch = rules("batch = { max_wait = \"1h\" }\nprops = { site = \"plant1\", line = \"line3\" }");
    for (said, block) in [(None, 4096), (Some(4096), 4096), (Some(512), 512)] {
        let mut out = Output::new();
        said.into_iter().for_each(|block| out.memory().bill_by(block));
        let mut closed = None;
        for n in 0..2_000 {
            let one = Sent { at: 0, device: 12_345, payload: n.to_string() };
            batch.translate(&one.publish("t/12345"), &mut out);
            closed = closed.or(out.memory().fetch_closed());
        }
        let closed = closed.unwrap();
        let message = HubMessage::parse(&closed.record).unwrap();
        let named: usize = message.properties().map(|(name, value)| name.len() + value.len()).sum();
        let size = message.body.len() + named + "device12345".len() + 56 + 16 + 5 + 24 + 12;
        assert!((block - 8..=block).contains(&size), "{size} of {block}");
    }
}

/// Two connections read the clock apart: what is received first may come second, also around the end of a window.
#[test]
fn contributions_that_come_out_of_order_share_a_window() {
    for (keys, times, expect) in [
        ("aggregate = { every = \"5s\", fields = { value = \"count\" } }", [5_000, 4_999, 5_001], 1),
        ("aggregate = { every = \"5s\", fields = { value = \"count\" } }", [15_000, 10_000, 9_999], 2),
        ("batch = { max_wait = \"1s\" }", [5_000, 4_999, 5_001], 1),
        ("batch = { max_wait = \"1s\" }", [10_000, 5_000, 4_999], 2),
    ] {
        let sent = times.map(|at| Sent { at, device: 0, payload: "1".into() });
        let came = run(&rules(&format!("decode = \"number\"\n{keys}")), &sent);
        assert_eq!(came.len(), expect, "{keys} {times:?}: {came:?}");
    }
}

/// What some publishes of `{"n":..,"m":..}` give to the window of a rule, as it is kept.
fn contributions(rules: &RuleSet, count: usize) -> Vec<Vec<u8>> {
    let mut out = Output::new();
    let held = (0..count).map(|n| {
        let one = Sent { at: 0, device: 0, payload: format!("{{\"n\":{n},\"m\":1}}") };
        assert_eq!(rules.attempt(&one.publish("t/0"), &mut out), Verdict::Translated);
        out.held().next().unwrap().1.to_vec()
    });
    held.collect()
}

/// All messages that windows became, and why each closed.
fn closed(memory: &Memory) -> Vec<(String, &'static str)> {
    while memory.close_first() {}
    let body = |record: &[u8]| String::from_utf8(HubMessage::parse(record).unwrap().body.to_vec()).unwrap();
    std::iter::from_fn(|| memory.fetch_closed()).map(|one| (body(&one.record), one.why.label())).collect()
}

/// A rule changed between a crash and the start: what waited for it is taken by a window that means the same by it, or
/// goes up by itself, and comes never into a window of the new kind.
#[test]
fn contributions_of_another_kind_or_shape_go_up_by_themselves() {
    let batch = "batch = { max_wait = \"1h\" }";
    let longer = "batch = { max_wait = \"2h\", max_messages = 100 }";
    let sum = "aggregate = { every = \"1h\", fields = { n = \"sum\" } }";
    let often = "aggregate = { every = \"1m\", fields = { n = \"sum\" } }";
    let last = "aggregate = { every = \"1h\", fields = { n = \"last\" } }";
    let other = "aggregate = { every = \"1h\", fields = { m = \"sum\" } }";
    let pivot = "pivot = { name = \"a\", value = \".n\", max_wait = \"1h\" }";
    let renamed = "pivot = { name = \"b\", value = \".n\", max_wait = \"1h\" }";
    let bodies = ["{\"n\":0,\"m\":1}", "{\"n\":1,\"m\":1}"];
    let (picked, named) = (["{\"n\":0}", "{\"n\":1}"], ["{\"a\":0}", "{\"a\":1}"]);
    for (before, after, alone, new) in [
        (batch, longer, &[][..], "[{\"n\":0,\"m\":1},{\"n\":1,\"m\":1},{\"n\":0,\"m\":1}]"),
        (sum, often, &[], "{\"n\":1}"),
        (pivot, pivot, &[], "{\"a\":0}"),
        (batch, sum, &bodies, "{\"n\":0}"),
        (batch, pivot, &bodies, "{\"a\":0}"),
        (sum, batch, &picked, "[{\"n\":0,\"m\":1}]"),
        (sum, pivot, &picked, "{\"a\":0}"),
        (sum, other, &picked, "{\"m\":1}"),
        (sum, last, &picked, "{\"n\":0}"),
        (pivot, batch, &named, "[{\"n\":0,\"m\":1}]"),
        (pivot, renamed, &named, "{\"b\":0}"),
    ] {
        let (before, after) = (rules(before), rules(after));
        let memory = Memory::default();
        for (sequence, held) in (1..).zip(contributions(&before, 2)) {
            after.hold(&held, sequence, &memory).unwrap();
        }
        after.hold(&contributions(&after, 1)[0], 3, &memory).unwrap();
        let mut expect: Vec<_> = alone.iter().map(|body| ((*body).to_owned(), "rules_changed")).collect();
        expect.push((new.to_owned(), "early"));
        assert_eq!(closed(&memory), expect);
    }
}

/// Version 1 had neither kind nor shape: such contributions go into the window of their rule, as they did.
#[test]
fn contributions_of_the_former_version_are_taken() {
    let batch = rules("batch = { max_wait = \"1h\" }");
    let memory = Memory::default();
    for (sequence, now) in (1..).zip(contributions(&batch, 2)) {
        let (before, rest) = now.split_at(25);
        let former = [&[1], &before[1..], &rest[5..]].concat();
        assert_eq!(batch.hold(&former, sequence, &memory), Ok(()));
        assert_eq!(super::held_record(&former), super::held_record(&now));
    }
    assert_eq!(closed(&memory), [("[{\"n\":0,\"m\":1},{\"n\":1,\"m\":1}]".to_owned(), "early")]);
    let newer = [&[3], &contributions(&batch, 1)[0][1..]].concat();
    assert!(batch.hold(&newer, 3, &memory).is_err(), "of a version that is not known");
}

/// Closed windows that nobody fetches are bounded too, in bytes.
#[test]
fn closed_windows_are_bounded() {
    let batch = rules("batch = { max_bytes = 200000, max_wait = \"1h\" }");
    let memory = Memory::default();
    let payload = format!("\"{}\"", "x".repeat(199_000));
    let mut out = Output::new();
    let mut held = 0;
    while memory.has_room() {
        let one = Sent { at: 0, device: held, payload: payload.clone() };
        batch.attempt(&one.publish(&one.topic()), &mut out);
        batch.hold(out.held().next().unwrap().1, held as u64, &memory).unwrap();
        held += 1;
        assert!(held < 1_000, "there is room without end");
    }
    let (open, closed) = memory.count_windows();
    assert!(open < 200 && (150..200).contains(&closed), "{open} open, {closed} closed");
    memory.fetch_closed().unwrap();
    assert!(memory.has_room());
}
