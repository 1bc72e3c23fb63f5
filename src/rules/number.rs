//! Numbers as equipment writes them, and as JSON wants them.

/// True for what `decode = "number"` takes.
pub(super) fn is_number(text: &str) -> bool {
    push_number(text, &mut Vec::new())
}

/// Appends a number as JSON wants it. The digits stay as written; a `+`, leading zeros, and a point without
/// digits beside it, which equipment writes and JSON does not know, are put right.
pub(super) fn push_number(text: &str, out: &mut Vec<u8>) -> bool {
    let plausible = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(plausible) || !text.parse().is_ok_and(f64::is_finite) {
        return false;
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = digits.split_at(digits.find(['e', 'E']).unwrap_or(digits.len()));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches('0');
    out.extend_from_slice(sign.as_bytes());
    out.extend_from_slice(if whole.is_empty() { "0" } else { whole }.as_bytes());
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
    out.extend_from_slice(exponent.as_bytes());
    true
}

/// As [`push_number`], with the decimal sign that is in use. Before a `,` points part thousands: `1.234,5`. A point
/// without a comma is refused, as it may be either.
pub(super) fn push_with_decimal(text: &str, comma: bool, out: &mut Vec<u8>) -> bool {
    if !comma {
        return push_number(text, out);
    }
    match text.split_once(',') {
        None => !text.contains('.') && push_number(text, out),
        Some((_, fraction)) if fraction.contains(['.', ',']) => false,
        Some((whole, fraction)) if whole.contains('.') => {
            has_thousands(whole) && push_number(&format!("{}.{fraction}", whole.replace('.', "")), out)
        }
        Some((whole, fraction)) => push_number(&format!("{whole}.{fraction}"), out),
    }
}

/// Appends a whole number with more than one point: `1.234.567` can be nothing else.
pub(super) fn push_thousands(text: &str, out: &mut Vec<u8>) -> bool {
    text.matches('.').count() > 1 && has_thousands(text) && push_number(&text.replace('.', ""), out)
}

/// Digits with a point before every three of them.
pub(super) fn has_thousands(text: &str) -> bool {
    let mut groups = text.trim_start_matches(['+', '-']).split('.');
    groups.next().is_some_and(|first| matches!(first.len(), 1..=3)) && groups.all(|group| group.len() == 3)
}

/// Appends a calculated number: whole ones without a point. False, and nothing, for what JSON cannot write.
pub(super) fn push_f64(value: f64, out: &mut Vec<u8>) -> bool {
    use std::io::Write as _;
    /// Up to here every whole number is one of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if !value.is_finite() {
        return false;
    }
    // Writing to a Vec cannot fail.
    let _ = match value {
        0.0 => write!(out, "0"),
        value if value.fract() == 0.0 && value.abs() <= EXACT => write!(out, "{value:.0}"),
        value => write!(out, "{value:?}"),
    };
    true
}

/// Appends a single-precision number with the fewest digits that tell it from its neighbours.
pub(super) fn push_f32(value: f32, out: &mut Vec<u8>) -> bool {
    use std::io::Write as _;
    if !value.is_finite() {
        return false;
    }
    // Writing to a Vec cannot fail.
    let _ = match value {
        0.0 => write!(out, "0"),
        value if value.fract() == 0.0 && value.abs() < 16_777_216.0 => write!(out, "{value:.0}"),
        value => write!(out, "{value:?}"),
    };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calculated_numbers_are_json() {
        for (value, expect) in [
            (0.0, "0"),
            (-0.0, "0"),
            (75.0, "75"),
            (-1.5, "-1.5"),
            (70.7, "70.7"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (1e300, "1e300"),
            (1e-9, "1e-9"),
            (f64::NAN, ""),
            (f64::INFINITY, ""),
        ] {
            let mut out = Vec::new();
            assert_eq!(push_f64(value, &mut out), !expect.is_empty());
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        }
        for (value, expect) in [(21.5_f32, "21.5"), (0.1, "0.1"), (3e38, "3e38"), (f32::NAN, "")] {
            let mut out = Vec::new();
            assert_eq!(push_f32(value, &mut out), !expect.is_empty());
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        }
    }

    #[test]
    fn decimal_commas() {
        for (text, comma, expect) in [
            ("1,5", true, Some("1.5")),
            ("-,5", true, Some("-0.5")),
            ("1.234,5", true, Some("1234.5")),
            ("-12.345.678,25", true, Some("-12345678.25")),
            ("1.234", true, None),
            ("1.234.567", true, None),
            ("1234.567,8", true, None),
            ("1.23,5", true, None),
            (".234,5", true, None),
            ("1,234.5", true, None),
            ("1,5e3", true, Some("1.5e3")),
            ("1,2,3", true, None),
            ("12", true, Some("12")),
            ("1,5", false, None),
            ("1.5", false, Some("1.5")),
        ] {
            let mut out = Vec::new();
            let taken = push_with_decimal(text, comma, &mut out).then(|| String::from_utf8(out).unwrap());
            assert_eq!(taken.as_deref(), expect, "{text}");
        }
        for (text, expect) in [("1.234.567", Some("1234567")), ("1.234", None), ("1.2.3", None), ("1.234.5a7", None)] {
            let mut out = Vec::new();
            let taken = push_thousands(text, &mut out).then(|| String::from_utf8(out).unwrap());
            assert_eq!(taken.as_deref(), expect, "{text}");
        }
    }
}
