//! Texts for people: amounts, columns, and what comes from outside.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal, Write as _};
use std::time::Duration;

use crate::config::units;
use crate::topic;

/// Writes rows below their heads, each column as wide as its widest cell.
pub(super) fn columns<const N: usize>(out: &mut String, heads: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let mut lines = vec![heads.map(str::to_owned)];
    lines.extend(rows);
    let mut widths = [0; N];
    for row in &lines {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in lines {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// Asks on the terminal before something is deleted; `Err` where nobody can be asked.
pub(super) fn confirmed(question: &str) -> Result<bool, String> {
    if !io::stdin().is_terminal() {
        return Err("this deletes messages: say --yes where nobody can be asked".to_owned());
    }
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{question} Type yes: ");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| error.to_string())?;
    Ok(line.trim() == "yes")
}

/// A text from outside, without what could steer a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The beginning of a text, with a mark where it is cut.
pub(super) fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(3)).chain("...".chars()).collect(),
    }
}

/// A length of time as an argument.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "write a number and a unit: 10s, 30m, 24h".to_owned())
}

/// A topic filter as an argument.
pub(super) fn filter(text: &str) -> Result<String, String> {
    topic::check_filter(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// True where a person looks on who has nothing against colour.
pub(super) fn colored(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// A length of time in its two largest units.
pub(super) fn span(time: Duration) -> String {
    let s = time.as_secs();
    match (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

/// An amount of bytes in a unit that fits.
#[expect(clippy::cast_precision_loss)]
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (seconds, expect) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (180_000, "2 d 2 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), expect);
        }
        for (count, expect) in [(1023, "1023 B"), (1536, "1.5 KiB"), (3 << 19, "1.5 MiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(bytes(count), expect);
        }
    }
}
