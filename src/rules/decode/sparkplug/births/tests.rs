//! Births, deaths and what is written down of them.

use proptest::prelude::*;

use super::super::super::tests::{decode_received, decode_with};
use super::super::Sparkplug;
use super::*;
use crate::rules::rule::Decode;

/// Keeps records in memory.
#[derive(Debug, Default)]
struct Tape(Mutex<Vec<Vec<u8>>>, Mutex<Vec<String>>);

impl Keep for Tape {
    fn keep(&self, record: &[u8]) -> u64 {
        let mut records = self.0.lock();
        records.push(record.to_vec());
        records.len() as u64
    }

    fn ask_rebirth(&self, node: &str) -> bool {
        self.1.lock().push(node.to_owned());
        true
    }
}

impl Tape {
    fn records(&self) -> Vec<Vec<u8>> {
        self.0.lock().clone()
    }
}

fn taped() -> (Births, Arc<Tape>) {
    let (births, tape) = (Births::default(), Arc::new(Tape::default()));
    births.keep_with(Arc::<Tape>::clone(&tape));
    (births, tape)
}

fn restored(records: &[Vec<u8>]) -> Births {
    let births = Births::default();
    assert!(records.iter().all(|record| births.restore(record)));
    births
}

/// Everything that is known, as it is written anew.
fn written(births: &Births) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    births.nodes().iter().for_each(|node| births.write(node, |record| records.push(record.to_vec())));
    records
}

fn sorted(mut records: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    records.sort_unstable();
    records
}

fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

/// A payload of Int32 metrics with these names and aliases; one is `bdSeq` with its value.
fn payload(bd_seq: Option<u8>, metrics: &[(&str, u8)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, alias) in metrics {
        let mut metric = Vec::new();
        if !name.is_empty() {
            field(1, name.as_bytes(), &mut metric);
        }
        metric.extend_from_slice(&[0x10, *alias, 0x20, 3, 0x50, 7]);
        field(2, &metric, &mut out);
    }
    if let Some(value) = bd_seq {
        let mut metric = Vec::new();
        field(1, b"bdSeq", &mut metric);
        metric.extend_from_slice(&[0x20, 8, 0x58, value]);
        field(2, &metric, &mut out);
    }
    out
}

fn hear(births: &Births, topic: &str, payload: &[u8]) -> Result<Vec<String>, String> {
    decode_with(&Decode::Sparkplug(Sparkplug::default()), &format!("spBv1.0/g/{topic}"), payload, births)
}

/// The name that an alias has in a data message.
fn name(births: &Births, topic: &str, alias: u8) -> String {
    match hear(births, topic, &payload(None, &[("", alias)])) {
        Ok(made) => made[0].split('"').nth(1).unwrap().to_owned(),
        Err(_) => String::new(),
    }
}

/// What each message writes down, and how the metrics 1 of the node and 2 of its device are called after it. Whoever
/// reads what was written, or what is written anew, knows the same.
#[test]
fn births_hold_as_long_as_the_specification_says() {
    let (births, tape) = taped();
    let (a, b, x, y) = ([("a", 1)], [("b", 1)], [("x", 2)], [("y", 2)]);
    let none: [(&str, u8); 0] = [];
    for (step, (topic, bd_seq, metrics, record, node, device)) in [
        ("NDEATH/n", Some(0), &none[..], "", "", ""),
        ("NBIRTH/n", Some(1), &a, "birth", "a", ""),
        ("NBIRTH/n", Some(1), &a, "", "a", ""),
        ("DBIRTH/n/d", None, &x, "birth", "a", "x"),
        ("DBIRTH/n/d", None, &x, "", "a", "x"),
        // A rebirth was asked for: the device keeps its names.
        ("NBIRTH/n", Some(1), &a, "", "a", "x"),
        // The will of an earlier connection.
        ("NDEATH/n", Some(0), &none, "", "a", "x"),
        ("NDEATH/n", Some(1), &none, "death", "", ""),
        ("NDEATH/n", Some(1), &none, "", "", ""),
        ("NBIRTH/n", Some(2), &a, "again", "a", ""),
        ("DBIRTH/n/d", None, &x, "again", "a", "x"),
        ("DBIRTH/n/d", None, &y, "birth", "a", "y"),
        ("DBIRTH/n", None, &b, "", "a", "y"),
        ("DDEATH/n/other", None, &none, "", "a", "y"),
        ("DDEATH/n/d", None, &none, "death", "a", ""),
        ("DDEATH/n/d", None, &none, "", "a", ""),
        ("DBIRTH/n/d", None, &y, "again", "a", "y"),
        ("NBIRTH/n", Some(3), &a, "again", "a", ""),
        ("DBIRTH/n/d", None, &y, "again", "a", "y"),
        ("NBIRTH/n", Some(3), &b, "birth", "b", ""),
        // The device did not come in the session before.
        ("NBIRTH/n", Some(4), &b, "again", "b", ""),
        ("DBIRTH/n/d", None, &y, "birth", "b", "y"),
        // Nodes that count no sessions.
        ("NDEATH/n", None, &none, "death", "", ""),
        ("NBIRTH/n", None, &b, "birth", "b", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let before = tape.records().len();
        hear(&births, topic, &payload(bd_seq, metrics)).unwrap();
        let records = tape.records();
        let kinds: Vec<_> = records[before..].iter().map(|record| std::str::from_utf8(record).unwrap()).collect();
        let kind = kinds.first().map_or("", |record| record.split('"').nth(1).unwrap());
        assert_eq!((kind, kinds.len() < 2), (record, true), "step {step}: {topic}");
        for (who, births) in
            [("live", births.clone()), ("read", restored(&records)), ("anew", restored(&written(&births)))]
        {
            let names = (name(&births, "NDATA/n", 1), name(&births, "DDATA/n/d", 2));
            assert_eq!((names.0.as_str(), names.1.as_str()), (node, device), "{who}, step {step}: {topic}");
        }
        assert_eq!(sorted(written(&restored(&records))), sorted(written(&births)), "step {step}: {topic}");
    }
    let tally = births.tally();
    let counts = [tally.changed, tally.repeated, tally.unchanged, tally.died, tally.superseded, tally.no_room];
    assert_eq!(
        (tally.nodes, tally.births, counts),
        (1, 1, [6, 6, 0, 5, 2, 0]),
        "what is said in one moment is one birth"
    );
}

/// `topic` at `at`, live or out of the quarantine.
fn hear_at(births: &Births, (topic, at): (&str, i64), payload: &[u8]) -> Result<Vec<String>, String> {
    decode_received(&Decode::Sparkplug(Sparkplug::default()), (&format!("spBv1.0/g/{topic}"), at), payload, births)
}

/// A birth that two rules read, or that found no room at first, counts once.
#[test]
fn a_birth_counts_once() {
    let births = Births::default();
    for (topic, at, changed, unchanged) in [
        ("NBIRTH/n", 1, 1, 0),
        ("NBIRTH/n", 1, 1, 0),
        ("DBIRTH/n/d", 1, 2, 0),
        ("NBIRTH/n", 2, 2, 1),
        ("NBIRTH/n", 2, 2, 1),
        ("DBIRTH/n/d", 2, 2, 2),
        ("DBIRTH/n/e", 2, 3, 2),
        ("DBIRTH/n/d", 3, 3, 3),
        ("DBIRTH/n/d", 3, 3, 3),
    ] {
        let name = topic.replace("NBIRTH/n", "a");
        hear_at(&births, (topic, at), &payload(Some(1), &[(name.as_str(), 1)])).unwrap();
        let tally = births.tally();
        assert_eq!((tally.changed, tally.unchanged), (changed, unchanged), "{topic} at {at}");
    }
}

/// What comes out of the quarantine is older than what was heard since, or not: also after a restart.
#[test]
fn what_is_retried_undoes_no_birth_that_came_since() {
    let none: [(&str, u8); 0] = [];
    for (name, live, (topic, at, metrics), expect) in [
        ("a session that is over", &[("NBIRTH/n", 10, "new")][..], ("NBIRTH/n", 5, &[("old", 1)][..]), "new"),
        ("its end", &[("NBIRTH/n", 10, "new")], ("NDEATH/n", 5, &none), "new"),
        ("a birth nobody heard", &[("NBIRTH/n", 10, "new")], ("NBIRTH/n", 15, &[("newest", 1)]), "newest"),
        ("the first birth at all", &[], ("NBIRTH/n", 5, &[("old", 1)]), "old"),
        (
            "it is told by the clock of now",
            &[("NBIRTH/n", 10, "new"), ("NBIRTH/n", 3, "now")],
            ("NDEATH/n", 2, &none),
            "now",
        ),
        ("after its death", &[("NBIRTH/n", 10, "new"), ("NDEATH/n", 20, "")], ("NBIRTH/n", 15, &[("old", 1)]), ""),
    ] {
        let (births, tape) = taped();
        for (topic, at, metric) in live {
            let metrics = [(*metric, 1)];
            hear_at(&births, (topic, *at), &payload(None, if metric.is_empty() { &none } else { &metrics })).unwrap();
        }
        for (who, births) in
            [("read", restored(&tape.records())), ("anew", restored(&written(&births))), ("live", births.clone())]
        {
            hear_at(&births.retried(), (topic, at), &payload(None, metrics)).unwrap();
            assert_eq!(super::tests::name(&births, "NDATA/n", 1), expect, "{name}, {who}");
        }
    }
}

/// Data that was received while other births held does not get the names of now; what came before the first birth does.
#[test]
fn data_is_not_named_by_births_of_a_later_session() {
    let (live, tape) = taped();
    for (topic, at, metric) in [
        ("NBIRTH/n", 10, ("a", 1)),
        ("DBIRTH/n/d", 20, ("x", 2)),
        // It says the same again: what it said before still holds.
        ("DBIRTH/n/d", 30, ("x", 2)),
        ("NBIRTH/m", 10, ("a", 1)),
        ("NBIRTH/m", 20, ("b", 1)),
        ("NBIRTH/o", 10, ("a", 1)),
        ("DBIRTH/o/d", 10, ("x", 2)),
        ("NDEATH/o", 20, ("", 1)),
        ("NBIRTH/o", 30, ("b", 1)),
        ("DBIRTH/o/d", 30, ("y", 2)),
        // Two sessions pass without the device, whose birth is known no more.
        ("NBIRTH/p", 10, ("a", 1)),
        ("DBIRTH/p/d", 10, ("x", 2)),
        ("NBIRTH/p", 20, ("b", 1)),
        ("NBIRTH/p", 30, ("c", 1)),
        ("DBIRTH/p/d", 40, ("y", 2)),
    ] {
        hear_at(&live, (topic, at), &payload(None, &[metric])).unwrap();
    }
    let read = restored(&tape.records());
    let anew = restored(&written(&read));
    let later = Err("another came since");
    for (is_retried, topic, at, metric, expect) in [
        (true, "NDATA/n", 9, ("", 1), Ok("a")),
        (true, "NDATA/n", 11, ("", 1), Ok("a")),
        (true, "DDATA/n/d", 19, ("", 2), Ok("x")),
        (true, "DDATA/n/d", 25, ("", 2), Ok("x")),
        (true, "DDATA/n/d", 25, ("", 3), Err("does not declare the alias 3")),
        (true, "NDATA/m", 19, ("", 1), later),
        (true, "NDATA/m", 19, ("b", 1), Ok("b")),
        (true, "NDATA/m", 20, ("", 1), Ok("b")),
        (false, "NDATA/m", 19, ("", 1), Ok("b")),
        (true, "NDATA/o", 19, ("", 1), later),
        (true, "DDATA/o/d", 19, ("", 2), later),
        // Nothing held, and it was asked for its births.
        (true, "NDATA/o", 25, ("", 1), Ok("b")),
        (true, "DDATA/o/d", 25, ("", 2), Ok("y")),
        (true, "DDATA/p/d", 15, ("", 2), later),
        (true, "DDATA/p/d", 35, ("", 2), Ok("y")),
    ] {
        for (who, births) in [("live", &live), ("read", &read), ("anew", &anew)] {
            let births = if is_retried { births.retried() } else { births.clone() };
            let made = hear_at(&births, (topic, at), &payload(None, &[metric]));
            let made = made.map(|made| made[0].split('"').nth(1).unwrap().to_owned());
            match expect {
                Ok(name) => assert_eq!(made.as_deref(), Ok(name), "{topic} at {at}, {metric:?}, {who}"),
                Err(words) => assert!(made.is_err_and(|why| why.contains(words)), "{topic} at {at}, {who}"),
            }
        }
    }
}

/// A node that was forgotten for want of room may have had other births.
#[test]
fn data_is_not_named_by_births_after_a_node_was_forgotten() {
    let births = Births::default();
    hear_at(&births, ("NBIRTH/n", 10), &payload(None, &[("a", 1)])).unwrap();
    for (other, at) in (0..MAX_NODES).zip(20..) {
        hear_at(&births, (&format!("NBIRTH/other{other}"), at), &payload(None, &[("m", 1)])).unwrap();
    }
    let last = 20 + i64::try_from(MAX_NODES).unwrap() - 1;
    hear_at(&births, ("NBIRTH/n", last + 10), &payload(None, &[("b", 1)])).unwrap();
    let anew = restored(&written(&births));
    for (at, is_named) in [(15, false), (last - 1, false), (last + 5, true)] {
        for births in [&births, &anew] {
            let made = hear_at(&births.retried(), ("NDATA/n", at), &payload(None, &[("", 1)]));
            assert_eq!(made.is_ok_and(|made| made[0].contains("\"b\"")), is_named, "{at}");
        }
    }
}

/// What an earlier process wrote down may be older than what the node said last: it is asked once, by data that needs it.
#[test]
fn a_node_is_asked_once_after_a_restart() {
    let (births, tape) = taped();
    hear(&births, "NBIRTH/n", &payload(Some(1), &[("a", 1)])).unwrap();
    let records = tape.records();
    let data: &[(&str, &[(&str, u8)])] = &[("NDATA/n", &[("", 1)])];
    for (name, messages, rebirth, expect) in [
        ("by alias", [data, data].concat(), true, 1),
        ("the rule does not ask", [data, data].concat(), false, 0),
        ("by name", vec![("NDATA/n", &[("a", 1)][..])], true, 0),
        ("it was born since", [&[("NBIRTH/n", &[("a", 1)][..])], data].concat(), true, 0),
        ("it was born otherwise", [&[("NBIRTH/n", &[("b", 1)][..])], data].concat(), true, 0),
        ("a device was born", [&[("DBIRTH/n/d", &[("b", 2)][..])], data].concat(), true, 1),
    ] {
        let (births, tape) = (restored(&records), Arc::new(Tape::default()));
        births.keep_with(Arc::<Tape>::clone(&tape));
        for (topic, metrics) in messages {
            let bd_seq = topic.starts_with("NBIRTH").then_some(1);
            let format = Decode::Sparkplug(Sparkplug { rebirth, ..Sparkplug::default() });
            decode_with(&format, &format!("spBv1.0/g/{topic}"), &payload(bd_seq, metrics), &births).unwrap();
        }
        assert_eq!(*tape.1.lock(), vec!["g/n"; expect], "{name}");
    }
}

/// Records of an earlier version have no times, and a node may have said again what the journal has no birth of.
#[test]
fn records_that_lack_something() {
    let device = r#"["stands","g/n","d",null,true,[["x",2,3]]]"#;
    for (records, node, of_device) in [
        (&[r#"["birth","g/n","",1,[["a",1,3]]]"#][..], "a", ""),
        (&[r#"["stands","g/n","",1,true,[["a",1,3]]]"#, device], "a", "x"),
        (&[r#"["birth","g/n","",1,[["a",1,3]]]"#, r#"["death","g/n",""]"#, r#"["again","g/n","",2]"#], "a", ""),
        // The session of the device is over, whatever the node said.
        (&[device, r#"["again","g/n","",2,7]"#], "", ""),
        (&[device, r#"["again","g/n","e",2,7]"#], "", "x"),
    ] {
        let records: Vec<_> = records.iter().map(|record| record.as_bytes().to_vec()).collect();
        let births = restored(&records);
        let names = (name(&births, "NDATA/n", 1), name(&births, "DDATA/n/d", 2));
        assert_eq!((names.0.as_str(), names.1.as_str()), (node, of_device), "{records:?}");
    }
}

#[test]
fn aliases_of_a_device_come_before_those_of_its_node() {
    let births = Births::default();
    hear(&births, "NBIRTH/n", &payload(None, &[("a", 1), ("b", 2), ("c", 2)])).unwrap();
    hear(&births, "DBIRTH/n/d", &payload(None, &[("x", 1)])).unwrap();
    hear(&births, "DBIRTH/n/e", &payload(None, &[("z", 3)])).unwrap();
    for (topic, alias, expect) in [
        ("NDATA/n", 1, "a"),
        ("NDATA/n", 2, "c"),
        ("NDATA/n", 3, ""),
        ("DDATA/n/d", 1, "x"),
        ("DDATA/n/d", 2, "c"),
        ("DDATA/n/d", 3, ""),
        ("DDATA/n/e", 3, "z"),
        ("DDATA/m/d", 1, ""),
    ] {
        assert_eq!(name(&births, topic, alias), expect, "{topic} {alias}");
    }
}

/// The last message of a session may use its aliases.
#[test]
fn a_death_is_read_by_the_birth_that_it_ends() {
    let births = Births::default();
    hear(&births, "DBIRTH/n/d", &payload(None, &[("x", 1)])).unwrap();
    assert_eq!(name(&births, "DDEATH/n/d", 1), "x");
    assert_eq!(name(&births, "DDEATH/n/d", 1), "");
}

#[test]
fn a_node_is_asked_for_its_births_where_the_rule_says_so() {
    let (births, tape) = taped();
    hear(&births, "DBIRTH/n/d", &payload(None, &[("x", 1)])).unwrap();
    for (topic, name, alias, rebirth, expect) in [
        ("spBv1.0/g/DDATA/n/d", "", 1, true, None),
        ("spBv1.0/g/DDATA/n/d", "y", 2, true, None),
        ("spBv1.0/g/DDATA/n/d", "", 2, false, None),
        ("spBv1.0/g/DDATA/n/d", "", 2, true, Some("g/n")),
        ("spBv1.0/h/NDATA/m", "", 1, true, Some("h/m")),
        ("spBv1.0/h/NCMD/m", "", 1, true, None),
        ("spBv1.0/h/DDEATH/m/d", "", 1, true, None),
        ("other/h/NDATA/m", "", 1, true, None),
    ] {
        let _ = decode_with(
            &Decode::Sparkplug(Sparkplug { rebirth, ..Sparkplug::default() }),
            topic,
            &payload(None, &[(name, alias)]),
            &births,
        );
        assert_eq!(tape.1.lock().pop().as_deref(), expect, "{topic} {alias} {rebirth}");
    }
    let (topic, command) = super::super::rebirth("g/n", crate::message::Timestamp(1_000)).unwrap();
    assert_eq!(topic, "spBv1.0/g/NCMD/n");
    let read = decode_with(&Decode::Sparkplug(Sparkplug::default()), &topic, &command, &births).unwrap();
    assert_eq!(read, [r#"{"time":"1970-01-01T00:00:01.000Z","Node Control/Rebirth":true}"#]);
}

#[test]
fn births_are_bounded() {
    let long = "n".repeat(60_000);
    for (nodes, metric) in [(600, long.as_str()), (MAX_NODES + 20, "m")] {
        let (births, tape) = taped();
        hear(&births, "NBIRTH/0", &payload(None, &[(metric, 1)])).unwrap();
        for node in 1..nodes {
            hear(&births, &format!("NBIRTH/{node}"), &payload(None, &[(metric, 1)])).unwrap();
            if node == 9 {
                // It says again what it said: there is nothing to write down, and it is the youngest.
                hear(&births, "NBIRTH/1", &payload(None, &[(metric, 1)])).unwrap();
            }
            assert!(births.tally().bytes <= MAX_BYTES && births.tally().nodes <= MAX_NODES);
        }
        let known = births.nodes();
        assert!(!known.contains(&"g/0".to_owned()) && known.last() == Some(&format!("g/{}", nodes - 1)));
        let gone = usize::try_from(births.tally().no_room).unwrap();
        assert_eq!(gone, nodes - known.len());
        assert_eq!(known.contains(&"g/1".to_owned()), gone < 9, "{gone}");
        let mut again = restored(&tape.records()).nodes();
        again.sort_unstable();
        let mut known = known;
        known.sort_unstable();
        assert_eq!(again, known);
    }
}

#[test]
fn what_is_no_record_says_nothing() {
    for record in [
        "",
        "{}",
        "[]",
        r#"["birth","g/n",""]"#,
        r#"["birth","g/n","",0,[["a",1]]]"#,
        r#"["birth","g/n","",0,[["a",1,-1]]]"#,
        r#"["death","g/n"]"#,
        r#"["stands","g/n","",0,1,[]]"#,
        r#"["later","g/n",""]"#,
    ] {
        assert!(!Births::default().restore(record.as_bytes()), "{record}");
    }
}

#[derive(Debug, Clone)]
struct Step {
    kind: &'static str,
    node: u8,
    device: u8,
    bd_seq: Option<u8>,
    metrics: Vec<(&'static str, u8)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop::sample::select(vec!["NBIRTH", "DBIRTH", "DBIRTH", "DDEATH", "NDEATH"]);
    let metrics = prop::collection::vec((prop::sample::select(vec!["a", "b", "\"\u{1f}"]), 0..3_u8), 0..3);
    let step = (kind, 0..2_u8, 0..3_u8, prop::option::of(0..3_u8), metrics);
    let step = step.prop_map(|(kind, node, device, bd_seq, metrics)| Step { kind, node, device, bd_seq, metrics });
    prop::collection::vec(step, 0..30)
}

fn follow(births: &Births, steps: &[Step]) {
    for Step { kind, node, device, bd_seq, metrics } in steps {
        let topic = if kind.starts_with('N') { format!("{kind}/{node}") } else { format!("{kind}/{node}/{device}") };
        hear(births, &topic, &payload(*bd_seq, metrics)).unwrap();
    }
}

/// What is called how.
fn names(births: &Births) -> Vec<String> {
    let topics = (0..2).flat_map(|node| {
        let devices = (0..3).map(move |device| format!("DDATA/{node}/{device}"));
        devices.chain([format!("NDATA/{node}")])
    });
    topics.flat_map(|topic| (0..3).map(|alias| name(births, &topic, alias)).collect::<Vec<_>>()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Wherever the program ends, and wherever everything was written anew before, what is read names the same metrics.
    #[test]
    fn a_restart_forgets_no_name(before in steps(), after in steps()) {
        let (births, tape) = taped();
        follow(&births, &before);
        let anew = written(&births);
        let so_far = tape.records().len();
        follow(&births, &after);
        let records = tape.records();
        let read = restored(&records);
        prop_assert_eq!(sorted(written(&read)), sorted(written(&births)));
        let rewritten = restored(&[&anew[..], &records[so_far..]].concat());
        prop_assert_eq!(names(&rewritten), names(&births));
        let tally = births.tally();
        let again = read.tally();
        prop_assert_eq!((again.nodes, again.births, again.bytes), (tally.nodes, tally.births, tally.bytes));
        let known = births.known.lock();
        let all = || known.nodes.values().flat_map(|node| &node.births);
        let bytes: usize = all().map(|(device, birth)| size(device, &birth.declared)).sum();
        let names: usize = known.nodes.keys().map(|name| name.len() + PER_BIRTH).sum();
        prop_assert_eq!(tally.bytes, bytes + names);
        prop_assert_eq!(tally.births, all().filter(|(_, birth)| birth.alive).count());
    }

    #[test]
    fn any_record_is_read_or_passed_over(
        bytes: Vec<u8>,
        records in prop::collection::vec(any_record(), 0..12),
    ) {
        let births = Births::default();
        births.restore(&bytes);
        for record in &records {
            births.restore(record.as_bytes());
        }
        let anew = restored(&written(&births));
        prop_assert_eq!(sorted(written(&anew)), sorted(written(&births)), "{:?}", records);
    }
}

/// What may be a record.
fn any_record() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec!["birth", "again", "death", "stands", "forgotten", "else"]);
    let device = prop::sample::select(vec!["", "d", "e"]);
    let rest = prop::sample::select(vec![
        "",
        ",null",
        ",1",
        ",1,8",
        ",1,[]",
        ",1,[[\"a\",1,3]],9",
        ",2,[[\"a\",1,3]]",
        ",null,[[\"b\",null,3],[\"a\",1,3]]",
        ",null,[[\"b\",1]]",
        ",7,true,[[\"c\",3,3]]",
        ",7,false,[[\"c\",3,3]],5,9,7",
        ",null,false,[[\"c\",3,3]]",
        ",null,0,[]",
    ]);
    (kind, 0..2_u8, device, rest)
        .prop_map(|(kind, node, device, rest)| format!("[\"{kind}\",\"g/{node}\",\"{device}\"{rest}]"))
}
