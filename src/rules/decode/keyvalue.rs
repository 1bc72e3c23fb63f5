//! `keyvalue`: `P=12.5;U=231` becomes `{"P":12.5,"U":231}`.
//!
//! Numbers become numbers, `true` and `false` truth values, all else text, also `007`; a value in double quotes is text as it
//! stands. White space around keys and values is left out, and so are empty pairs (`a=1;;`). Line ends separate pairs
//! too. Of a key that is there twice the last one is kept.

use super::{Decoded, ITEM_NAMES, push_guessed, push_key, push_string};
use crate::rules::refusal::{self, Refusal, shown};

/// How the pairs are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rules) struct KeyValue {
    /// Between pairs.
    pub(in crate::rules) separator: Box<str>,
    /// Between key and value.
    pub(in crate::rules) assign: Box<str>,
    /// Numbers have a decimal comma.
    pub(in crate::rules) comma: bool,
}

impl Default for KeyValue {
    fn default() -> Self {
        Self { separator: ";".into(), assign: "=".into(), comma: false }
    }
}

/// Keys of one payload at most.
const MAX_PAIRS: usize = 1_000;

pub(super) fn decode(options: &KeyValue, payload: &[u8], out: &mut Decoded) -> Result<(), Refusal> {
    let text = refusal::text(payload)?;
    let start = out.json.len();
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for line in text.split(['\n', '\r']) {
        for pair in line.split(&*options.separator).map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once(&*options.assign) else {
                let (place, assign) = (pair.as_ptr() as usize - text.as_ptr() as usize + 1, &options.assign);
                let detail = format!("no `{assign}` in {} at byte {place}", shown(pair.as_bytes()));
                return Err(Refusal::undecoded(detail));
            };
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() {
                return Err(Refusal::undecoded(format!("{} has no key", shown(pair.as_bytes()))));
            }
            let full = pairs.len() == MAX_PAIRS;
            match pairs.iter_mut().find(|(known, _)| *known == key) {
                Some(known) => known.1 = value,
                None if full => {
                    return Err(Refusal::undecoded(format!("the payload has more than {MAX_PAIRS} keys")));
                }
                None => pairs.push((key, value)),
            }
        }
    }
    if pairs.is_empty() {
        let detail = format!("there is no `key{}value` in the payload, it is {}", options.assign, shown(payload));
        return Err(Refusal::undecoded(detail));
    }
    out.json.push(b'{');
    let mut first = true;
    for (key, value) in pairs {
        push_key(&mut out.json, &mut first, key);
        match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
            Some(quoted) => push_string(&mut out.json, quoted),
            None => push_guessed(&mut out.json, value, options.comma),
        }
    }
    out.json.push(b'}');
    out.end(start, [""; ITEM_NAMES])
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::KeyValue;
    use crate::rules::rule::Decode;

    #[test]
    fn pairs() {
        let own = KeyValue { separator: "&".into(), assign: ":".into(), comma: true };
        for (options, payload, expect) in [
            (KeyValue::default(), "P=12.5;U=231", Ok("{\"P\":12.5,\"U\":231}")),
            (KeyValue::default(), " a = x y ; b=true;\r\nc=\"7\";;", Ok("{\"a\":\"x y\",\"b\":true,\"c\":\"7\"}")),
            (KeyValue::default(), "a=1;a=2;b==", Ok("{\"a\":2,\"b\":\"=\"}")),
            (
                KeyValue::default(),
                "part=007;a=0;b=0.5;c=-0.5;d=-05;e=00;f=0e1",
                Ok("{\"part\":\"007\",\"a\":0,\"b\":0.5,\"c\":-0.5,\"d\":\"-05\",\"e\":\"00\",\"f\":0e1}"),
            ),
            (KeyValue::default(), "\u{feff}a=1", Ok("{\"a\":1}")),
            (KeyValue::default(), "a=x;b=2\0\0", Ok("{\"a\":\"x\",\"b\":2}")),
            (KeyValue::default(), "a=", Ok("{\"a\":\"\"}")),
            (KeyValue::default(), "a=1;b", Err("no `=` in `b` at byte 5")),
            (KeyValue::default(), "=1", Err("`=1` has no key")),
            (KeyValue::default(), " ", Err("there is no `key=value` in the payload, it is ` `")),
            (own.clone(), "a:1,5&b:1.5", Ok("{\"a\":1.5,\"b\":\"1.5\"}")),
            (own, "a:1.234,5&b:1.234.567", Ok("{\"a\":1234.5,\"b\":\"1.234.567\"}")),
        ] {
            check(&Decode::KeyValue(options), payload.as_bytes(), expect.map(|text| vec![text]));
        }
    }
}
