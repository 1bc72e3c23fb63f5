//! `hex` and `base64`: bytes that were written as text, to be decoded further.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use crate::rules::refusal::{self, Refusal, shown};

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rules) enum Coding {
    /// Two hexadecimal digits a byte, in either case, white space, `-`, `:` and `,` between them, `0x` before all or each.
    Hex,
    /// Of either alphabet, with or without padding; white space between is left out.
    Base64,
}

/// The bytes that a text stands for.
pub(in crate::rules) fn bytes(coding: Coding, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.clear();
    let text = refusal::text(payload)?.trim();
    match coding {
        Coding::Hex => hex(text, out),
        Coding::Base64 => base64(text, out),
    }
}

fn hex(text: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut high = None;
    for c in text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | ':' | ',')) {
        // The first half of a byte was none, but the beginning of `0x`.
        if high == Some(0) && matches!(c, 'x' | 'X') {
            high = None;
            continue;
        }
        let Some(digit) = c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()) else {
            let detail = format!("`{c}` is no hexadecimal digit: {}", shown(text.as_bytes()));
            return Err(Refusal::undecoded(detail));
        };
        match high.take() {
            None => high = Some(digit),
            Some(high) => out.push(high << 4 | digit),
        }
    }
    match high {
        None => Ok(()),
        Some(_) => Err(Refusal::undecoded("the number of hexadecimal digits is odd")),
    }
}

fn base64(text: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let compact: String;
    let text = match text.contains(char::is_whitespace) {
        false => text,
        true => {
            compact = text.chars().filter(|c| !c.is_whitespace()).collect();
            &compact
        }
    };
    let engine = match (text.contains(['-', '_']), text.ends_with('=')) {
        (false, true) => &STANDARD,
        (false, false) => &STANDARD_NO_PAD,
        (true, true) => &URL_SAFE,
        (true, false) => &URL_SAFE_NO_PAD,
    };
    engine
        .decode_vec(text, out)
        .map_err(|error| Refusal::undecoded(format!("the payload is not base64: {error}: {}", shown(text.as_bytes()))))
}

/// Appends bytes as text.
pub(in crate::rules) fn push(coding: Coding, bytes: &[u8], out: &mut Vec<u8>) {
    match coding {
        Coding::Hex => push_hex(bytes, out),
        Coding::Base64 => super::push_base64(bytes, out),
    }
}

/// Appends bytes as hexadecimal digits.
pub(super) fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    for byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::Coding;
    use crate::rules::rule::Decode;

    #[test]
    fn texts_that_stand_for_bytes() {
        for (coding, payload, expect) in [
            (Coding::Hex, "7b7D", Ok("{}")),
            (Coding::Hex, "0x7B 7d\n", Ok("{}")),
            (Coding::Hex, "7b:7d", Ok("{}")),
            (Coding::Hex, "0x7B,0X7d", Ok("{}")),
            (Coding::Hex, "0x7B0x7D\0", Ok("{}")),
            (Coding::Hex, "70x7d", Err("`x` is no hexadecimal digit: `70x7d`")),
            (Coding::Hex, "", Ok("")),
            (Coding::Hex, "7b7", Err("the number of hexadecimal digits is odd")),
            (Coding::Hex, "7g", Err("`g` is no hexadecimal digit: `7g`")),
            (Coding::Base64, "e30=", Ok("{}")),
            (Coding::Base64, "e3\n0", Ok("{}")),
            (Coding::Base64, "Pz8_", Ok("???")),
            (Coding::Base64, "e3!=", Err("the payload is not base64: Invalid symbol 33, offset 2.: `e3!=`")),
        ] {
            check(
                &Decode::Coded(coding, Some(Box::new(Decode::Raw))),
                payload.as_bytes(),
                expect.map(|text| vec![text]),
            );
        }
    }

    #[test]
    fn bytes_as_text() {
        check(&Decode::RawHex, b"\x00\xab", Ok(vec!["{\"value_hex\":\"00ab\"}"]));
        check(&Decode::RawBase64, b"\x00\xff", Ok(vec!["{\"value_base64\":\"AP8=\"}"]));
    }
}
