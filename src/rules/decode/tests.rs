//! What every decoder is tested with.

use proptest::prelude::*;

use super::*;
use crate::message::Timestamp;

/// The bytes of hexadecimal digits.
pub(super) fn hex(digits: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    coding::bytes(coding::Coding::Hex, digits.as_bytes(), &mut bytes).unwrap();
    bytes
}

fn publish<'p>(topic: &'p str, payload: &'p [u8], at: i64) -> Publish<'p> {
    Publish { topic, payload, client: "c", user: None, qos: 1, retain: false, received: Timestamp(at) }
}

/// The objects a payload becomes, or why it does not.
pub(super) fn decode_with(
    format: &Decode,
    topic: &str,
    payload: &[u8],
    births: &Births,
) -> Result<Vec<String>, String> {
    decode_received(format, (topic, 0), payload, births)
}

/// The same for a publish that was received then.
pub(super) fn decode_received(
    format: &Decode,
    (topic, at): (&str, i64),
    payload: &[u8],
    births: &Births,
) -> Result<Vec<String>, String> {
    let mut out = Decoded::default();
    match decode(format, (&publish(topic, payload, at), false), births, &mut out) {
        Ok(_) => Ok(texts(&out)),
        Err(refusal) => Err(refusal.detail),
    }
}

/// What a payload becomes, and what is left out of it.
pub(super) fn decode_graded(format: &Decode, payload: &[u8]) -> (Result<Vec<String>, String>, LeftOut) {
    let mut out = Decoded::default();
    let decoded = decode(format, (&publish("t", payload, 0), false), &Births::default(), &mut out);
    (decoded.map(|_| texts(&out)).map_err(|refusal| refusal.detail), out.left_out)
}

fn texts(out: &Decoded) -> Vec<String> {
    out.items.iter().map(|item| String::from_utf8(out.body(item).to_vec()).unwrap()).collect()
}

/// One row: the objects a payload becomes, or the words in which it is refused.
pub(super) fn check(format: &Decode, payload: &[u8], expect: Result<Vec<&str>, &str>) {
    let made = decode_with(format, "t", payload, &Births::default());
    let expect = expect.map(|texts| texts.into_iter().map(str::to_owned).collect()).map_err(str::to_owned);
    assert_eq!(made, expect, "{format:?} {payload:?}");
}

/// What a rule could say instead, where what came is no UTF-8.
#[test]
fn encodings_are_named_by_their_looks() {
    const LATIN_1: &str = "decode = { .., encoding = \"latin1\" }";
    const UTF_16_LE: &str = "decode = { .., encoding = \"utf-16le\" }";
    const UTF_16_BE: &str = "decode = { .., encoding = \"utf-16be\" }";
    const JSON: &str = "decode = { format = \"json\", encoding = \"latin1\" }";
    let number = || Decode::Number { comma: false };
    for (format, payload, expect) in [
        (Decode::Text, &b"M\xfcnchen\r\n"[..], Some(LATIN_1)),
        (Decode::KeyValue(keyvalue::KeyValue::default()), b"a=\xb0C\0", Some(LATIN_1)),
        (Decode::Text, b"\xff\xfea\0", Some(UTF_16_LE)),
        (Decode::Text, b"\0\xfc\0b", Some(UTF_16_BE)),
        (number(), b"2\x001\0", Some(UTF_16_LE)),
        (number(), b"\x002\x001", Some(UTF_16_BE)),
        (number(), b"\0\0\0", None),
        (number(), b"x", None),
        (Decode::Text, b"\x01\xff", Some(refusal::BASE64)),
        (Decode::Json, b" {\"a\":\"\xb0\"}", Some(JSON)),
        (Decode::Json, b"\xb0", Some(refusal::BASE64)),
        (Decode::Xml, b"<a>\xb0</a>", Some(refusal::BASE64)),
    ] {
        let publish = publish("t", payload, 0);
        let refused = decode(&format, (&publish, false), &Births::default(), &mut Decoded::default()).unwrap_err();
        assert_eq!(refused.advice, expect, "{format:?} {payload:?}");
    }
}

fn formats() -> Vec<Decode> {
    let layout = binary::Layout {
        fields: [
            binary::Kind::Integer { bytes: 2, signed: true },
            binary::Kind::F32,
            binary::Kind::Bcd { bytes: 1 },
            binary::Kind::Text { bytes: 2 },
            binary::Kind::S7 { length: 3, wide: false },
            binary::Kind::S7 { length: 2, wide: true },
        ]
        .map(|kind| binary::Field { name: "x".into(), at: None, kind, order: binary::Order::WordSwapped, count: None })
        .into(),
        ignore_rest: true,
    };
    let split = |split| {
        Decode::Kepware(kepware::Kepware {
            split,
            quality: quality::Quality::Mark,
            good: Box::default(),
            keys: kepware::Keys::default(),
        })
    };
    vec![
        Decode::Text,
        Decode::Number { comma: true },
        Decode::RawHex,
        Decode::RawBase64,
        Decode::KeyValue(keyvalue::KeyValue::default()),
        Decode::Csv(csv::Csv { separator: b',', names: None, comma: false }),
        Decode::Coded(coding::Coding::Hex, Some(Box::new(Decode::Binary(layout.clone())))),
        Decode::Coded(coding::Coding::Base64, Some(Box::new(Decode::Text))),
        Decode::Binary(layout),
        split(kepware::Split::None),
        split(kepware::Split::Device),
        split(kepware::Split::Tag),
        Decode::Xml,
        Decode::Encoded(encoding::Encoding::Latin1, Box::new(Decode::Text)),
        Decode::Encoded(encoding::Encoding::Utf16Be, Box::new(Decode::Text)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a decoder takes becomes JSON.
    #[test]
    fn what_is_decoded_is_json(payload in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        "[ab=;,:\"\n0-9.é]{0,20}".prop_map(String::into_bytes),
        "(<a b=\"[a\\\\1]\">|<c>|</a>|</c>|x|1|&#34;){0,6}".prop_map(String::into_bytes),
        "\\[(\\{\"id\":(\"C\\.D\\.[ab]\"|1),\"v\":(1|\\[\\{\\}\\]),\"q\":(true|0|\"x\"),\"t\":(\"x\"|-1|1600000000000)\\},?){0,4}\\]"
            .prop_map(String::into_bytes),
    ]) {
        for format in formats() {
            for text in decode_with(&format, "t", &payload, &Births::default()).unwrap_or_default() {
                let parsed = serde_json::from_str::<serde_json::Value>(&text);
                prop_assert!(parsed.is_ok() || matches!(format, Decode::Coded(..)), "{:?} {}", format, text);
            }
        }
    }
}
