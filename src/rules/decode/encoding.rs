//! Text that is no UTF-8, from and to its bytes.
//!
//! `latin1` is Windows-1252: ISO 8859-1 with the signs that Windows has where that has control codes (0x80 is the euro
//! sign). The five bytes which Windows has nothing for are these control codes after all, so every byte is text.

use crate::rules::QuarantineReason;
use crate::rules::refusal::{BASE64, Refusal};

/// How text is written as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rules) enum Encoding {
    Latin1,
    Utf16Le,
    Utf16Be,
}

/// What Windows-1252 has from 0x80 to 0x9F.
const WINDOWS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Names that the same encodings have elsewhere, in small letters.
const NAMES: [(&str, Option<Encoding>); 12] = [
    ("utf-8", None),
    ("utf8", None),
    ("us-ascii", None),
    ("latin1", Some(Encoding::Latin1)),
    ("latin-1", Some(Encoding::Latin1)),
    ("iso-8859-1", Some(Encoding::Latin1)),
    ("iso8859-1", Some(Encoding::Latin1)),
    ("iso_8859-1", Some(Encoding::Latin1)),
    ("windows-1252", Some(Encoding::Latin1)),
    ("cp1252", Some(Encoding::Latin1)),
    ("utf-16le", Some(Encoding::Utf16Le)),
    ("utf-16be", Some(Encoding::Utf16Be)),
];

impl Encoding {
    /// The encoding of this name, with nothing for UTF-8.
    pub(in crate::rules) fn named(name: &str) -> Option<Option<Self>> {
        NAMES.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, encoding)| encoding)
    }

    /// The word for it in a rule.
    pub(in crate::rules) fn word(self) -> &'static str {
        match self {
            Self::Latin1 => "latin1",
            Self::Utf16Le => "utf-16le",
            Self::Utf16Be => "utf-16be",
        }
    }
}

/// The text of some bytes, as UTF-8.
pub(super) fn read(encoding: Encoding, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.clear();
    let mut buffer = [0; 4];
    let mut push = |c: char| out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    let join = match encoding {
        Encoding::Latin1 => {
            for byte in bytes {
                let windows = byte.checked_sub(0x80).and_then(|at| WINDOWS.get(usize::from(at)));
                push(windows.copied().unwrap_or(char::from(*byte)));
            }
            return Ok(());
        }
        Encoding::Utf16Le => u16::from_le_bytes,
        Encoding::Utf16Be => u16::from_be_bytes,
    };
    let (units, rest) = bytes.as_chunks::<2>();
    // The zero byte at the end of a text may be one alone.
    if !matches!(rest, [] | [0]) {
        return Err(no_text(encoding, &format!("it has {} bytes, an odd number", bytes.len())));
    }
    let mut at = 0;
    for c in char::decode_utf16(units.iter().copied().map(join)) {
        let c = c.map_err(|_| no_text(encoding, &format!("byte {} begins half a character", at + 1)))?;
        push(c);
        at += 2 * c.len_utf16();
    }
    Ok(())
}

fn no_text(encoding: Encoding, why: &str) -> Refusal {
    let detail = format!("the payload is not text in {}: {why}", encoding.word());
    Refusal::new(QuarantineReason::NotText, detail).advise(Some(BASE64))
}

/// Appends the bytes of a text; `Err` is a character that the encoding does not have.
pub(in crate::rules) fn write(encoding: Encoding, text: &str, out: &mut Vec<u8>) -> Result<(), char> {
    let bytes = match encoding {
        Encoding::Latin1 => {
            for c in text.chars() {
                out.push(latin1(c).ok_or(c)?);
            }
            return Ok(());
        }
        Encoding::Utf16Le => u16::to_le_bytes,
        Encoding::Utf16Be => u16::to_be_bytes,
    };
    out.extend(text.encode_utf16().flat_map(bytes));
    Ok(())
}

fn latin1(c: char) -> Option<u8> {
    let windows = || WINDOWS.iter().position(|known| *known == c).and_then(|at| u8::try_from(at + 0x80).ok());
    u8::try_from(c).ok().filter(|byte| !(0x80..0xA0).contains(byte)).or_else(windows)
}

#[cfg(test)]
mod tests {
    use super::super::csv::Csv;
    use super::super::keyvalue::KeyValue;
    use super::super::tests::check;
    use super::*;
    use crate::rules::rule::Decode;

    #[test]
    fn texts_of_other_encodings() {
        use Encoding::{Latin1, Utf16Be, Utf16Le};
        let csv = || Decode::Csv(Csv { separator: b';', names: Some(["a".into(), "b".into()].into()), comma: true });
        let keyvalue = || Decode::KeyValue(KeyValue::default());
        let number = || Decode::Number { comma: false };
        for (encoding, inner, payload, expect) in [
            (Latin1, Decode::Text, &b"M\xfcnchen \x80"[..], Ok("{\"value\":\"München €\"}")),
            (Latin1, keyvalue(), b"Ort=M\xfcnchen;T=21", Ok("{\"Ort\":\"München\",\"T\":21}")),
            (Latin1, csv(), b"K\xfchler;1,5\r\n", Ok("{\"a\":\"Kühler\",\"b\":1.5}")),
            (Latin1, Decode::Json, b"{\"a\":\"\xe4\"}\0", Ok("{\"a\":\"ä\"}")),
            (Latin1, Decode::Json, b"{\xe4", Err("the payload is not JSON, at byte 2: `{ä`")),
            (Latin1, number(), b"21.5\0\0", Ok("{\"value\":21.5}")),
            (Latin1, number(), b"\xe4", Err("the payload is not a number: `ä`")),
            (Utf16Le, number(), b"2\x001\0.\x005\0", Ok("{\"value\":21.5}")),
            (Utf16Le, Decode::Text, b"\xff\xfeA\0\x3d\xd8\0\xde\0\0", Ok("{\"value\":\"A\u{1f600}\"}")),
            (Utf16Le, Decode::Text, b"A\0\0", Ok("{\"value\":\"A\"}")),
            (Utf16Be, Decode::Text, b"\xfe\xff\0A\x20\xac", Ok("{\"value\":\"A€\"}")),
            (Utf16Be, Decode::Text, b"\0A\0", Ok("{\"value\":\"A\"}")),
            (Utf16Be, Decode::Text, b"\0AB", Err("the payload is not text in utf-16be: it has 3 bytes, an odd number")),
            (
                Utf16Le,
                Decode::Text,
                b"A\0\x3d\xd8B\0",
                Err("the payload is not text in utf-16le: byte 3 begins half a character"),
            ),
        ] {
            check(&Decode::Encoded(encoding, Box::new(inner)), payload, expect.map(|text| vec![text]));
        }
    }

    #[test]
    fn every_byte_is_a_character_and_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let (mut text, mut back) = (Vec::new(), Vec::new());
        read(Encoding::Latin1, &bytes, &mut text).unwrap();
        write(Encoding::Latin1, &String::from_utf8(text).unwrap(), &mut back).unwrap();
        assert_eq!(back, bytes);
        assert_eq!(write(Encoding::Latin1, "aЖ", &mut back), Err('Ж'));
    }
}
