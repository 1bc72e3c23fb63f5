use proptest::prelude::*;

use super::*;
use crate::message::{Publish, Timestamp};
use crate::rules::decode::binary::{Field, Kind as FieldKind, Layout, Order};
use crate::rules::decode::{Births, Body, Decoded, decode};

/// What a decoder makes of a payload, where that is one object.
fn decoded(how: &Decode, payload: &[u8]) -> Option<String> {
    let received = Timestamp(0);
    let publish = Publish { topic: "", payload, client: "", user: None, qos: 0, retain: false, received };
    let mut out = Decoded::default();
    match decode(how, (&publish, false), &Births::default(), &mut out).ok()? {
        Body::Payload(_) => Some(String::from_utf8_lossy(payload).into_owned()),
        Body::Items(_) => match &*out.items {
            [item] => String::from_utf8(out.body(item).to_vec()).ok(),
            _ => None,
        },
    }
}

fn encoded(how: &Decode, body: &str) -> Result<Vec<u8>, String> {
    let how = Encode::of(how.clone())?;
    encode(&how, Source::Body(body.as_bytes())).map_err(|refusal| refusal.detail)
}

fn field(name: &str, kind: FieldKind) -> Field {
    Field { name: name.into(), at: None, kind, order: Order::Big, count: None }
}

fn binary(fields: Vec<Field>) -> Decode {
    Decode::Binary(Layout { fields: fields.into(), ignore_rest: false })
}

const U16: FieldKind = FieldKind::Integer { bytes: 2, signed: false };
const I16: FieldKind = FieldKind::Integer { bytes: 2, signed: true };
const U64: FieldKind = FieldKind::Integer { bytes: 8, signed: false };

#[test]
fn words() {
    let ordered = |order| vec![Field { order, ..field("x", FieldKind::Integer { bytes: 4, signed: false }) }];
    let odd = |order| vec![Field { order, ..field("x", FieldKind::Integer { bytes: 3, signed: false }) }];
    let bits = || {
        let bit = |name, bit| field(name, FieldKind::Bit { bit, of: 0 });
        vec![field("w", U16), bit("run", 0), bit("fault", 9)]
    };
    let s7 = |length, wide| field("x", FieldKind::S7 { length, wide });
    let bits_of_array = || {
        let bits = Field { count: Some(2), ..field("c", FieldKind::Bit { bit: 15, of: 0 }) };
        vec![Field { count: Some(2), ..field("w", U16) }, field("b", FieldKind::Bit { bit: 16, of: 0 }), bits]
    };
    for (fields, body, expect) in [
        (vec![field("x", U16)], r#"{"x": 513}"#, Ok(&b"\x02\x01"[..])),
        (vec![field("x", U16)], r#"{"x": 5.0, "other": []}"#, Ok(b"\0\x05")),
        (vec![field("x", I16)], r#"{"x": -2}"#, Ok(b"\xff\xfe")),
        (vec![field("x", U64)], r#"{"x": 18446744073709551615}"#, Ok(&[0xff; 8])),
        (ordered(Order::Big), r#"{"x":16909060}"#, Ok(b"\x01\x02\x03\x04")),
        (ordered(Order::Little), r#"{"x":16909060}"#, Ok(b"\x04\x03\x02\x01")),
        (ordered(Order::WordSwapped), r#"{"x":16909060}"#, Ok(b"\x03\x04\x01\x02")),
        (ordered(Order::ByteSwapped), r#"{"x":16909060}"#, Ok(b"\x02\x01\x04\x03")),
        (odd(Order::WordSwapped), r#"{"x":66051}"#, Ok(b"\x03\x01\x02")),
        (odd(Order::ByteSwapped), r#"{"x":66051}"#, Ok(b"\x02\x01\x03")),
        (vec![field("x", FieldKind::F32)], r#"{"x":21.5}"#, Ok(b"\x41\xac\0\0")),
        (vec![field("x", FieldKind::F64)], r#"{"x":2.15e1}"#, Ok(b"\x40\x35\x80\0\0\0\0\0")),
        (vec![field("x", FieldKind::Bcd { bytes: 2 })], r#"{"x":1234}"#, Ok(b"\x12\x34")),
        (vec![field("x", FieldKind::Text { bytes: 4 })], r#"{"x":"ab"}"#, Ok(b"ab\0\0")),
        (vec![field("x", FieldKind::Text { bytes: 2 })], r#"{"x":"äb"}"#, Ok(b"\xe4b")),
        (vec![s7(6, false)], r#"{"x":"Kühl"}"#, Ok(b"\x06\x04K\xfchl\0\0")),
        (vec![s7(2, true)], r#"{"x":"€"}"#, Ok(b"\0\x02\0\x01\x20\xac\0\0")),
        (vec![s7(4, false)], r#"{"x":"Motor"}"#, Err("the field `x` is a text of 4 characters, the body's is longer")),
        (
            vec![s7(4, false)],
            r#"{"x":"5€"}"#,
            Err("the field `x` is a text of 4 characters, the body's has characters that are not in ISO 8859-1"),
        ),
        (
            vec![s7(1, true)],
            r#"{"x":"\ud83d\ude00"}"#,
            Err("the field `x` is a text of 1 characters, the body's is longer"),
        ),
        (bits_of_array(), r#"{"w":[1,2],"b":true,"c":[true,false]}"#, Ok(b"\x80\x01\0\x02")),
        (bits_of_array(), r#"{"b":true,"c":[false,true]}"#, Ok(b"\0\0\0\x01")),
        (bits_of_array(), r#"{"b":true,"c":true}"#, Err("the field `c` is a list of 2, the body has none")),
        (vec![field("x", FieldKind::Bytes { bytes: 2 })], r#"{"x":"AP8="}"#, Ok(b"\0\xff")),
        (vec![field("x", FieldKind::Bool), field("y", FieldKind::Bool)], r#"{"x":true,"y":0}"#, Ok(b"\x01\0")),
        (vec![Field { count: Some(2), ..field("x", U16) }], r#"{"x":[1, 2]}"#, Ok(b"\0\x01\0\x02")),
        (
            vec![Field { at: Some(2), ..field("x", U16) }, field("", FieldKind::Skip { bytes: 1 })],
            r#"{"x":1}"#,
            Ok(b"\0\0\0\x01\0"),
        ),
        (bits(), r#"{"run":true,"fault":true}"#, Ok(b"\x02\x01")),
        (bits(), r#"{"w":1,"fault":true,"run":false}"#, Ok(b"\x02\0")),
        (bits(), r#"{"w":4,"run":true}"#, Ok(b"\0\x05")),
        (bits(), r#"{"run":true}"#, Err("the body lacks the field `fault`")),
        (bits(), r#"{"w":1,"run":"on"}"#, Err("the field `run` is true or false, the body's is `\"on\"`")),
        (vec![field("x", U16)], r#"{"y":1}"#, Err("the body lacks the field `x`")),
        (vec![field("x", U16)], "5", Err("the body is no JSON object, it is `5`")),
        (
            vec![field("x", U16)],
            r#"{"x":65536}"#,
            Err("the field `x` is a whole number from 0 to 65535, the body's is `65536`"),
        ),
        (
            vec![field("x", U16)],
            r#"{"x":1.5}"#,
            Err("the field `x` is a whole number from 0 to 65535, the body's is `1.5`"),
        ),
        (
            vec![field("x", U16)],
            r#"{"x":"1"}"#,
            Err("the field `x` is a whole number from 0 to 65535, the body's is `\"1\"`"),
        ),
        (
            vec![field("x", I16)],
            r#"{"x":32768}"#,
            Err("the field `x` is a whole number from -32768 to 32767, the body's is `32768`"),
        ),
        (vec![field("x", FieldKind::F32)], r#"{"x":1e39}"#, Err("the field `x` is `1e39`, and no f32")),
        (vec![field("x", FieldKind::F64)], r#"{"x":null}"#, Err("the field `x` is `null`, and no number")),
        (
            vec![field("x", FieldKind::Bcd { bytes: 1 })],
            r#"{"x":100}"#,
            Err("the field `x` is a whole number of up to 2 digits, the body's is `100`"),
        ),
        (
            vec![field("x", FieldKind::Text { bytes: 2 })],
            r#"{"x":"äbc"}"#,
            Err("the field `x` is a text of 2 bytes, the body's is longer"),
        ),
        (
            vec![field("x", FieldKind::Text { bytes: 2 })],
            r#"{"x":"\u0000"}"#,
            Err("the field `x` is a text of 2 bytes, the body's has a zero byte in it"),
        ),
        (
            vec![field("x", FieldKind::Bytes { bytes: 2 })],
            r#"{"x":"AA=="}"#,
            Err("the field `x` has 2 bytes, the body's has 1"),
        ),
        (
            vec![Field { count: Some(2), ..field("x", U16) }],
            r#"{"x":[1]}"#,
            Err("the field `x` is a list of 2, the body has 1"),
        ),
        (
            vec![field("x", U16), Field { at: Some(1), ..field("y", U16) }],
            "{}",
            Err("`x` and `y` are written to the same bytes"),
        ),
    ] {
        let got = encoded(&binary(fields), body);
        assert_eq!(got.as_deref(), expect.map_err(str::to_owned).as_ref().map(|bytes| *bytes), "{body}");
    }
}

#[test]
fn texts() {
    let number = |comma| Decode::Number { comma };
    let pairs = |comma| Decode::KeyValue(KeyValue { comma, ..KeyValue::default() });
    let rows = |names: Option<&[&str]>, comma| {
        let names = names.map(|names| names.iter().map(|name| Box::from(*name)).collect());
        Decode::Csv(Csv { separator: b';', names, comma })
    };
    let coded = |coding, inner: Option<Decode>| Decode::Coded(coding, inner.map(Box::new));
    for (how, body, expect) in [
        (Decode::Json, "{ }", Ok("{ }")),
        (Decode::Text, r#"{"value":"a\nb"}"#, Ok("a\nb")),
        (Decode::Text, r#""bare""#, Ok("bare")),
        (Decode::Text, r#"{"value":12.50}"#, Ok("12.50")),
        (Decode::Text, r#"{"value":{}}"#, Err("`{}` is neither text nor number")),
        (Decode::Text, "{}", Err("the body has no `value`, it is `{}`")),
        (number(false), r#"{"value":12.50}"#, Ok("12.50")),
        (number(true), "12.5", Ok("12,5")),
        (number(false), r#"{"value":"x"}"#, Err("`x` is not a number")),
        (Decode::RawHex, r#"{"value_hex":"4142"}"#, Ok("AB")),
        (Decode::RawBase64, r#"{"value_base64":"QUI="}"#, Ok("AB")),
        (
            Decode::RawHex,
            r#"{"value_hex":"4"}"#,
            Err("`value_hex` is not what it is called: the number of hexadecimal digits is odd"),
        ),
        (coded(Coding::Hex, None), "AB", Ok("4142")),
        (coded(Coding::Base64, Some(binary(vec![field("x", U16)]))), r#"{"x":513}"#, Ok("AgE=")),
        (pairs(false), r#"{"P":12.5,"on":true,"s":"x y"}"#, Ok("P=12.5;on=true;s=x y")),
        (pairs(true), r#"{"P":12.5,"s":"7","q":"\"q\""}"#, Ok("P=12,5;s=\"7\";q=\"\"q\"\"")),
        (pairs(false), r#"{"s":"a;b"}"#, Err("`s` has a separator or a line end in it")),
        (pairs(false), r#"{"a=b":1}"#, Err("`a=b` cannot be a key")),
        (pairs(false), r#"{"a":null}"#, Err("`a` is `null`, and no plain value")),
        (pairs(false), "{}", Err("the body has no members")),
        (rows(Some(&["a", "b", "c"]), false), r#"{"b":"x;\"y","a":1,"d":5}"#, Ok("1;\"x;\"\"y\";")),
        (rows(None, true), r#"[{"a":1.5,"b":""},{"b":"1"}]"#, Ok("a;b\n1,5;\n;\"1\"")),
        (rows(None, true), "[]", Err("a list without a row has no header")),
        (rows(None, true), "[1]", Err("the body is no JSON object, it is `1`")),
        (Decode::Xml, "{}", Err("this format can only be read")),
    ] {
        let got = encoded(&how, body).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(got.as_deref(), expect.map_err(str::to_owned).as_ref().map(|text| *text), "{how:?} {body}");
    }
}

#[test]
fn what_a_template_made() {
    let latin1 = |inner| Decode::Encoded(Encoding::Latin1, Box::new(inner));
    for (how, text, expect) in [
        (Decode::Number { comma: true }, " 1.5", Ok(&b"1,5"[..])),
        (Decode::Text, "a", Ok(b"a")),
        (Decode::Coded(Coding::Hex, None), "a", Ok(b"61")),
        (latin1(Decode::Text), "ä €", Ok(b"\xe4 \x80")),
        (latin1(Decode::Text), "aЖ", Err("`Ж` is not in latin1: `aЖ`")),
        (latin1(Decode::Number { comma: true }), "1.5", Ok(b"1,5")),
        (Decode::Encoded(Encoding::Utf16Be, Box::new(Decode::Json)), "1€", Ok(b"\x001\x20\xac")),
        (Decode::Number { comma: false }, "a", Err("`a` is not a number")),
    ] {
        let got = encode(&Encode::of(how).unwrap(), Source::Text(text)).map_err(|refusal| refusal.detail);
        assert_eq!(got.as_deref(), expect.map_err(str::to_owned).as_ref().map(|bytes| *bytes), "{text}");
    }
}

/// Fields, and the bytes of a payload of theirs.
fn layouts() -> impl Strategy<Value = (Vec<Field>, Vec<u8>)> {
    let bytes = || prop_oneof![Just(1_usize), Just(2), Just(3), Just(4), Just(8)];
    let kind = prop_oneof![
        (bytes(), any::<bool>()).prop_map(|(bytes, signed)| FieldKind::Integer { bytes, signed }),
        Just(FieldKind::F32),
        Just(FieldKind::F64),
        Just(FieldKind::Bool),
        (1_usize..=8).prop_map(|bytes| FieldKind::Bcd { bytes }),
        (1_usize..6).prop_map(|bytes| FieldKind::Text { bytes }),
        (1_usize..6).prop_map(|bytes| FieldKind::Bytes { bytes }),
        (1_usize..6, any::<bool>()).prop_map(|(length, wide)| FieldKind::S7 { length, wide }),
        (1_usize..3).prop_map(|bytes| FieldKind::Skip { bytes }),
    ];
    let order = prop_oneof![Just(Order::Big), Just(Order::Little), Just(Order::WordSwapped), Just(Order::ByteSwapped)];
    let one = (kind, order, prop::option::of(1_usize..4), any::<u64>());
    prop::collection::vec(one, 1..6).prop_flat_map(|drawn| {
        let (mut fields, mut payload_size) = (Vec::new(), 0);
        for (n, (kind, order, count, bits)) in drawn.into_iter().enumerate() {
            let count = count.filter(|_| !matches!(kind, FieldKind::Skip { .. }));
            payload_size += kind.size() * count.unwrap_or(1);
            let of = fields.len();
            fields.push(Field { name: format!("f{n}").into(), at: None, kind, order, count });
            if let FieldKind::Integer { bytes, .. } = kind {
                let most = (bytes * count.unwrap_or(1)) as u64 * 8;
                let bit = u32::try_from(bits % most).unwrap();
                let count = usize::try_from((bits >> 32) % (most + 1 - u64::from(bit))).unwrap();
                let count = Some(count).filter(|count| *count > 0);
                fields.push(Field { count, ..field(&format!("b{n}"), FieldKind::Bit { bit, of }) });
            }
        }
        let payload = prop::collection::vec(prop_oneof![any::<u8>(), (b'0'..=b'9')], payload_size);
        (Just(fields), payload)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn what_was_read_from_words_is_written_to_the_same_words((fields, payload) in layouts()) {
        let exact = fields.iter().all(|field| {
            use FieldKind::{Bool, S7, Skip, Text};
            !matches!(field.kind, Bool | Text { .. } | Skip { .. } | S7 { .. })
        });
        let how = binary(fields);
        // Digits that are none, and numbers JSON has no word for, are not read or become null.
        if let Some(body) = decoded(&how, &payload).filter(|body| !body.contains("null")) {
            let again = encoded(&how, &body).unwrap();
            prop_assert_eq!(decoded(&how, &again), Some(body.clone()));
            // A zero loses its sign.
            if exact && !body.contains(":0") && !body.contains(",0") && !body.contains("[0") {
                prop_assert_eq!(&again, &payload, "{}", body);
            }
        }
    }

    #[test]
    fn what_was_written_as_text_is_read_again(
        pairs in prop::collection::btree_map("[a-z\"ä][a-z \"ä]{0,4}[a-z\"]", value(), 1..5),
        comma in any::<bool>(),
    ) {
        let members: Vec<String> = pairs.iter().map(|(key, value)| format!("{}:{value}", serde_json::json!(key))).collect();
        let body = format!("{{{}}}", members.join(","));
        for how in [
            Decode::KeyValue(KeyValue { comma, ..KeyValue::default() }),
            Decode::Csv(Csv { separator: b';', names: None, comma }),
            Decode::Coded(Coding::Base64, None),
            Decode::Encoded(Encoding::Utf16Le, Box::new(Decode::Csv(Csv { separator: b';', names: None, comma }))),
            Decode::Coded(Coding::Hex, Some(Box::new(Decode::Csv(Csv { separator: b'|', names: None, comma })))),
        ] {
            if let Ok(payload) = encoded(&how, &body) {
                let read = decoded(&how, &payload).unwrap();
                prop_assert_eq!(&read, &body, "{:?} {}", how, String::from_utf8_lossy(&payload));
            } else {
                prop_assert!(matches!(how, Decode::KeyValue(_)) && (body.contains(';') || body.contains("\\n")), "{} {:?}", body, how);
            }
        }
    }

    #[test]
    fn nothing_makes_an_encoder_panic(fields in layouts(), body in "\\PC{0,40}|[0-9,:{}\"a\\[\\]-]{0,40}") {
        for how in [
            binary(fields.0),
            Decode::Text,
            Decode::Number { comma: true },
            Decode::RawHex,
            Decode::KeyValue(KeyValue::default()),
            Decode::Csv(Csv { separator: b',', names: None, comma: false }),
        ] {
            let _ = encoded(&how, &body);
        }
    }
}

/// JSON of a plain value as the decoders write it.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i32>().prop_map(|number| number.to_string()),
        (-1_000_i32..1_000).prop_map(|number| format!("{}.5", number)),
        any::<bool>().prop_map(|flag| flag.to_string()),
        "[ -~ä\n;]{1,6}|true|12|1,5|1\\.5".prop_map(|text: String| serde_json::Value::from(text).to_string()),
    ]
}
