//! Payloads made by a public Sparkplug library, and payloads that are none.

use proptest::prelude::*;

use super::super::quality::Quality;
use super::super::tests::{decode_graded, decode_with, hex};
use super::{Births, Sparkplug};
use crate::rules::rule::Decode;

const DBIRTH: &str = "0880b09cdb9f3412210a0b54656d706572617475726510011880b09cdb9f34200a690000000000803540121a0a08507265737375726510021880b09cdb9f342009650000a03f12160a0752756e6e696e6710031880b09cdb9f34200b700112180a05436f756e7410041880b09cdb9f34200350fbffffff0f12190a05546f74616c10051880b09cdb9f34200858cb89ec8ff723121c0a05426174636810061880b09cdb9f34200c7a08422d34322fc2b04312140a05537061726510071880b09cdb9f34200238011801";
const BY_ALIAS: &str = "08e8b79cdb9f341212100118e8b79cdb9f34690000000000003640120b100318e8b79cdb9f3470001802";
const BY_NAME: &str = "08d0bf9cdb9f34121d0a0b54656d706572617475726518d0bf9cdb9f346900000000008036401803";

fn decoded(births: &Births, topic: &str, payload: &str) -> Result<Vec<String>, String> {
    decode_with(&Decode::Sparkplug(Sparkplug::default()), topic, &hex(payload), births)
}

#[test]
fn aliases_live_from_birth_to_death() {
    let births = Births::default();
    let born = r#"{"time":"2026-11-21T00:00:00.000Z","seq":1,"Temperature":21.5,"Pressure":1.25,"Running":true,"Count":-5,"Total":1234567890123,"Batch":"B-42/°C","Spare":null}"#;
    let data = r#"{"time":"2026-11-21T00:00:01.000Z","seq":2,"Temperature":22,"Running":false}"#;
    let named = r#"{"time":"2026-11-21T00:00:02.000Z","seq":3,"Temperature":22.5}"#;
    let unknown = "no birth that holds has declared the alias 1: its sender was born before brownbridge was there, or has died since, ask the edge node for a rebirth";
    let not_of_it = "the birth that holds does not declare the alias 99: it is of another session or the sender has changed since, ask the edge node for a rebirth";
    for (topic, payload, expect) in [
        ("spBv1.0/PlantA/DDATA/Line1/PLC-7", BY_ALIAS, Err(unknown)),
        ("spBv1.0/PlantA/DDATA/Line1/PLC-7", BY_NAME, Ok(named)),
        ("spBv1.0/PlantA/DBIRTH/Line1/PLC-7", DBIRTH, Ok(born)),
        ("spBv1.0/PlantA/DDATA/Line1/PLC-7", BY_ALIAS, Ok(data)),
        ("spBv1.0/PlantA/DDATA/Line1/PLC-7", "120410637000", Err(not_of_it)),
        ("spBv1.0/PlantA/DDATA/Line2/PLC-7", BY_ALIAS, Err(unknown)),
        ("spBv1.0/PlantA/NDEATH/Line1", "", Ok("{}")),
        ("spBv1.0/PlantA/DDATA/Line1/PLC-7", BY_ALIAS, Err(unknown)),
    ] {
        let expect = expect.map(|text| vec![text.to_owned()]).map_err(str::to_owned);
        assert_eq!(decoded(&births, topic, payload), expect, "{topic}");
    }
}

#[test]
fn what_is_no_payload() {
    let births = Births::default();
    for (payload, expect) in [
        ("ff", "the payload is not Sparkplug B: at byte 1 a number is cut short: the bytes ff"),
        ("0f", "the payload is not Sparkplug B: at byte 1 there is no such wire type: the bytes 0f"),
        ("12050a", "the payload is not Sparkplug B: at byte 2 a field is longer than what is left: the bytes 12 05 0a"),
        (
            "12020a05",
            "the payload is not Sparkplug B: at byte 4 a field is longer than what is left: the bytes 12 02 0a 05",
        ),
        (
            "1206 0a0161 4a0110",
            "the payload is not Sparkplug B: at byte 8 a number is cut short: the bytes 12 06 0a 01 61 4a 01 10",
        ),
        ("1200", "a metric has neither name nor alias"),
    ] {
        assert_eq!(decoded(&births, "x", payload), Err(expect.to_owned()), "{payload}");
    }
}

#[test]
fn values_by_datatype() {
    for (metric, expect) in [
        // int8, a time, bytes, arrays of int16, booleans and strings, a template, a data set
        ("0a0161200150ffffffff0f", "-1"),
        ("0a0161200d5880b09cdb9f34", "\"2026-11-21T00:00:00.000Z\""),
        ("0a01612011820102ff00", "\"/wA=\""),
        ("0a01612017820104ffff0100", "[-1,1]"),
        ("0a0161202082010503000000a0", "[true,false,true]"),
        ("0a016120218201046100620a", "[\"a\",\"b\\n\"]"),
        ("0a0161201392010712050a01627001", "{\"b\":true}"),
        ("0a016120108a010c1201631a010322040a020805", "[{\"c\":5}]"),
    ] {
        let metric = hex(metric);
        let mut payload = vec![0x12, u8::try_from(metric.len()).unwrap()];
        payload.extend_from_slice(&metric);
        let made = decode_with(&Decode::Sparkplug(Sparkplug::default()), "x", &payload, &Births::default());
        assert_eq!(made, Ok(vec![format!("{{\"a\":{expect}}}")]));
    }
}

#[test]
fn history_becomes_messages_of_their_own() {
    let at = |ms: &str, value: &str| format!("1209 0a0161 18{ms} 58{value} 2004");
    let payload = format!("0803 {} {}", at("01", "07"), at("02", "08"));
    let made = decoded(&Births::default(), "x", &payload).unwrap();
    assert_eq!(made, [r#"{"time":"1970-01-01T00:00:00.001Z","a":7}"#, r#"{"time":"1970-01-01T00:00:00.002Z","a":8}"#]);
}

/// A metric: name, time (none where it is 0), an integer, and further fields.
fn metric((name, time, value): (&str, u8, u8), more: &[u8]) -> Vec<u8> {
    let mut metric = vec![0x0a, name.len().try_into().unwrap()];
    metric.extend_from_slice(name.as_bytes());
    if time > 0 {
        metric.extend_from_slice(&[0x18, time]);
    }
    metric.extend_from_slice(&[0x20, 4, 0x58, value]);
    metric.extend_from_slice(more);
    metric
}

/// A payload sent at millisecond 9.
fn payload(metrics: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![0x08, 9];
    for metric in metrics {
        payload.extend_from_slice(&[0x12, metric.len().try_into().unwrap()]);
        payload.extend_from_slice(metric);
    }
    payload
}

const HISTORY: &[u8] = &[0x28, 1];

/// The property `Quality` behind another one, with this value.
fn with_quality(value: &[u8]) -> Vec<u8> {
    let mut set = b"\x0a\x04Unit\x0a\x07Quality\x12\x05\x08\x0c\x42\x01C\x12".to_vec();
    set.push(value.len().try_into().unwrap());
    set.extend_from_slice(value);
    let mut field = vec![0x4a, set.len().try_into().unwrap()];
    field.append(&mut set);
    field
}

fn of_code(code: u16) -> Vec<u8> {
    let [low, high] = [code & 0x7f | 0x80, code >> 7].map(|part| part.to_le_bytes()[0]);
    with_quality(&[0x08, 3, 0x18, low, high])
}

#[test]
fn metrics_have_the_time_they_were_measured() {
    let live = |name, time, value| metric((name, time, value), &[]);
    let past = |name, time, value| metric((name, time, value), HISTORY);
    let at = |ms: u8, fields: &str| format!("{{\"time\":\"1970-01-01T00:00:00.00{ms}Z\",{fields}}}");
    for (what, metrics, expect) in [
        ("of the moment", vec![live("a", 1, 5), live("b", 2, 6)], vec![at(9, "\"a\":5,\"b\":6")]),
        ("history among live values", vec![past("a", 1, 5), live("b", 8, 6)], vec![at(1, "\"a\":5"), at(9, "\"b\":6")]),
        ("history alone", vec![past("a", 1, 5), past("b", 1, 6)], vec![at(1, "\"a\":5,\"b\":6")]),
        (
            "history metric by metric",
            vec![past("a", 1, 5), past("a", 3, 6), past("b", 1, 7), past("b", 2, 8)],
            vec![at(1, "\"a\":5,\"b\":7"), at(2, "\"b\":8"), at(3, "\"a\":6")],
        ),
        ("twice at the same time", vec![past("a", 1, 5), past("a", 1, 6)], vec![at(1, "\"a\":5"), at(1, "\"a\":6")]),
        ("history without a time", vec![past("a", 0, 5), live("b", 0, 6)], vec![at(9, "\"a\":5"), at(9, "\"b\":6")]),
        (
            "the live value of what has history",
            vec![past("a", 1, 5), live("a", 8, 6), live("b", 2, 7)],
            vec![at(1, "\"a\":5"), at(9, "\"a\":6,\"b\":7")],
        ),
        (
            "buffered without a word, metric by metric",
            vec![live("a", 1, 5), live("a", 2, 6), live("b", 1, 7), live("b", 3, 8)],
            vec![at(1, "\"a\":5,\"b\":7"), at(2, "\"a\":6,\"b\":8")],
        ),
    ] {
        let made = decode_with(&Decode::Sparkplug(Sparkplug::default()), "x", &payload(&metrics), &Births::default());
        assert_eq!(made, Ok(expect), "{what}");
    }
}

#[test]
fn values_that_are_not_good() {
    let of = |quality: Quality| Decode::Sparkplug(Sparkplug { quality, ..Sparkplug::default() });
    let template = |members: &[Vec<u8>]| {
        let inside = payload(members).split_off(2);
        let mut metric = vec![0x0a, 1, b'T', 0x92, 1, inside.len().try_into().unwrap()];
        metric.extend_from_slice(&inside);
        metric
    };
    let (good, bad) = (metric(("a", 0, 1), &of_code(192)), metric(("b", 0, 2), &of_code(0)));
    let (stale, plain) = (metric(("c", 0, 3), &of_code(500)), metric(("d", 0, 4), &[]));
    let all = [good.clone(), bad.clone(), stale.clone(), plain.clone()];
    let time = "\"time\":\"1970-01-01T00:00:00.009Z\"";
    for (metrics, [left, kept, marked], counts) in [
        (&all[..], ["\"a\":1,\"d\":4", "\"a\":1,\"b\":2,\"c\":3,\"d\":4", ",\"bad\":[\"b\",\"c\"]"], [1, 1]),
        (&all[1..3], ["", "\"b\":2,\"c\":3", ",\"bad\":[\"b\",\"c\"]"], [1, 1]),
        (
            &[template(&[good, bad]), plain][..],
            ["\"T\":{\"a\":1},\"d\":4", "\"T\":{\"a\":1,\"b\":2},\"d\":4", ",\"bad\":[\"T/b\"]"],
            [1, 0],
        ),
        // Null says nothing, 216 is good, and so is the property of another name; -1 and a short number are bad.
        (&[metric(("a", 0, 1), &with_quality(&[0x10, 1, 0x18, 0]))], ["\"a\":1", "\"a\":1", ""], [0, 0]),
        (&[metric(("a", 0, 1), &of_code(216))], ["\"a\":1", "\"a\":1", ""], [0, 0]),
        (&[metric(("a", 0, 1), b"\x4a\x0b\x0a\x03Low\x12\x04\x08\x03\x18\x00")], ["\"a\":1", "\"a\":1", ""], [0, 0]),
        (
            &[metric(("a", 0, 1), &with_quality(&[0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]))],
            ["", "\"a\":1", ",\"bad\":[\"a\"]"],
            [1, 0],
        ),
    ] {
        for (quality, fields, more, counts) in [
            (Quality::Good, left, "", counts),
            (Quality::Keep, kept, "", [0, 0]),
            (Quality::Mark, kept, marked, [0, 0]),
        ] {
            let expect = (!fields.is_empty()).then(|| format!("{{{time},{fields}{more}}}"));
            let (made, left_out) = decode_graded(&of(quality), &payload(metrics));
            assert_eq!(made, Ok(expect.into_iter().collect()), "{quality:?}");
            assert_eq!(left_out.counts(), counts, "{quality:?} {fields}");
        }
    }
}

/// What a birth leaves out of its message is declared all the same.
#[test]
fn a_bad_value_in_a_birth_has_a_name() {
    let births = Births::default();
    let metric = metric(("b", 0, 2), &[&[0x10, 7][..], &of_code(0)].concat());
    let sparkplug = Decode::Sparkplug(Sparkplug::default());
    assert_eq!(decode_with(&sparkplug, "spBv1.0/g/NBIRTH/n", &payload(&[metric]), &births), Ok(Vec::new()));
    let data = decode_with(&sparkplug, "spBv1.0/g/NDATA/n", &hex("1206 1007 2004 5805"), &births);
    assert_eq!(data, Ok(vec!["{\"b\":5}".to_owned()]));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(start in proptest::sample::select(vec![DBIRTH, BY_ALIAS, ""]), cut: usize, tail: Vec<u8>) {
        let mut payload = hex(start);
        payload.truncate(cut % (payload.len() + 1));
        payload.extend_from_slice(&tail);
        if let Ok(made) = decode_with(&Decode::Sparkplug(Sparkplug::default()), "spBv1.0/a/DBIRTH/b/c", &payload, &Births::default()) {
            for text in made {
                serde_json::from_str::<serde_json::Value>(&text).unwrap();
            }
        }
    }
}
