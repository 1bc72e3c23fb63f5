//! Numbers as people read them: `1 message`, `1,234 messages`.

/// A number with its thousands apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things, and what they do where that is said: `1 publish`, `1,234 messages wait`.
pub fn of(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// The same of what is counted in memory.
pub fn of_len(number: usize, one: &str, many: &str) -> String {
    of(number as u64, one, many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (number, expect) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), expect);
        }
        for (number, expect) in [(0, "0 entries"), (1, "1 entry"), (2, "2 entries"), (1_000, "1,000 entries")] {
            assert_eq!(of(number, "entry", "entries"), expect);
        }
    }
}
