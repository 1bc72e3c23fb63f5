//! Payloads made by a public Sparkplug library, and payloads that are none.

use proptest::prelude::*;

use super::super::tests::{decode_with, hex};
use super::Births;
use crate::rules::rule::Decode;

const DBIRTH: &str = "0880b09cdb9f3412210a0b54656d706572617475726510011880b09cdb9f34200a690000000000803540121a0a08507265737375726510021880b09cdb9f342009650000a03f12160a0752756e6e696e6710031880b09cdb9f34200b700112180a05436f756e7410041880b09cdb9f34200350fbffffff0f12190a05546f74616c10051880b09cdb9f34200858cb89ec8ff723121c0a05426174636810061880b09cdb9f34200c7a08422d34322fc2b04312140a05537061726510071880b09cdb9f34200238011801";
const BY_ALIAS: &str = "08e8b79cdb9f341212100118e8b79cdb9f34690000000000003640120b100318e8b79cdb9f3470001802";
const BY_NAME: &str = "08d0bf9cdb9f34121d0a0b54656d706572617475726518d0bf9cdb9f346900000000008036401803";

fn decoded(births: &Births, topic: &str, payload: &str) -> Result<Vec<String>, String> {
    decode_with(&Decode::Sparkplug { rebirth: false }, topic, &hex(payload), births)
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
        let made = decode_with(&Decode::Sparkplug { rebirth: false }, "x", &payload, &Births::default());
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

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(start in proptest::sample::select(vec![DBIRTH, BY_ALIAS, ""]), cut: usize, tail: Vec<u8>) {
        let mut payload = hex(start);
        payload.truncate(cut % (payload.len() + 1));
        payload.extend_from_slice(&tail);
        if let Ok(made) = decode_with(&Decode::Sparkplug { rebirth: false }, "spBv1.0/a/DBIRTH/b/c", &payload, &Births::default()) {
            for text in made {
                serde_json::from_str::<serde_json::Value>(&text).unwrap();
            }
        }
    }
}
