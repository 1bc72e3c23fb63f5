//! Sizes and durations as an integrator writes them: `"4GiB"`, `"500ms"`.

use std::time::Duration;

pub(super) const SIZES: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

pub(super) const DURATIONS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// A number of bytes with its unit.
pub fn size(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// A length of time with its unit, down to microseconds.
pub fn duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATIONS).map(Duration::from_micros)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(*factor),
        Some((whole, part)) => {
            let whole = whole.parse::<u64>().ok()?.checked_mul(*factor)?;
            let divisor = 10_u64.checked_pow(u32::try_from(part.len()).ok()?)?;
            whole.checked_add(part.parse::<u64>().ok()?.checked_mul(*factor)? / divisor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expect) in [
            ("4GiB", Some(4 << 30)),
            ("1.5 MiB", Some(3 << 19)),
            ("64 kB", Some(64_000)),
            ("10B", Some(10)),
            ("4G", None),
            ("4", None),
            ("", None),
            ("GiB", None),
            ("1.2.3MB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(size(text), expect, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, expect) in [
            ("0.5ms", Some(500)),
            ("500us", Some(500)),
            ("1.5s", Some(1_500_000)),
            ("5m", Some(300_000_000)),
            ("1h", Some(3_600_000_000)),
            ("2d", Some(172_800_000_000)),
            ("10 sec", None),
            ("-1s", None),
        ] {
            assert_eq!(duration(text), expect.map(Duration::from_micros), "{text}");
        }
    }
}
