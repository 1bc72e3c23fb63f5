//! Which contributions a window is made of, in few bytes: with a thousand devices taking turns a window has as many
//! stretches of sequences as messages.
//!
//! A stretch is the way from the last sequence of the one before to its first one, as a zigzag number, times two, plus
//! one where it has more than one sequence; then how many more. Numbers have seven bits a byte, the lowest first, with
//! the highest bit set where more follow.

/// Sequences as stretches, in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequences {
    /// All stretches but the last.
    bytes: Vec<u8>,
    /// The last sequence in `bytes`.
    end: u64,
    last: Option<(u64, u64)>,
}

impl Sequences {
    /// Adds a sequence behind the others.
    pub fn push(&mut self, sequence: u64) {
        self.push_range(sequence, sequence);
    }

    /// Adds all sequences from `first` to `last`.
    pub fn push_range(&mut self, first: u64, last: u64) {
        match &mut self.last {
            Some((_, end)) if *end == first || end.checked_add(1) == Some(first) => *end = last.max(*end),
            before => {
                if let Some(range) = before.replace((first, last)) {
                    encode(&mut self.bytes, self.end, range);
                    self.end = range.1;
                }
            }
        }
    }

    /// First and last sequence of each stretch.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        Stretches { bytes: &self.bytes, end: 0 }.chain(self.last)
    }

    /// The lowest sequence, which belongs to no other window, and the highest.
    pub fn span(&self) -> Option<(u64, u64)> {
        self.iter().reduce(|(low, high), (first, last)| (low.min(first), high.max(last)))
    }

    /// Bytes it takes.
    pub fn len(&self) -> usize {
        self.bytes.len() + size_of::<(u64, u64)>()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Appends it as bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
        if let Some(last) = self.last {
            encode(out, self.end, last);
        }
    }

    /// Reads what was written, as far as it can be read.
    pub fn read(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
        Stretches { bytes, end: 0 }
    }
}

impl FromIterator<(u64, u64)> for Sequences {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Self {
        let mut sequences = Self::default();
        ranges.into_iter().for_each(|(first, last)| sequences.push_range(first, last));
        sequences
    }
}

fn encode(out: &mut Vec<u8>, end: u64, (first, last): (u64, u64)) {
    let way = first.wrapping_sub(end).cast_signed();
    let zigzag = ((way << 1) ^ (way >> 63)).cast_unsigned();
    let more = last.saturating_sub(first);
    push_number(out, u128::from(zigzag) << 1 | u128::from(more > 0));
    if more > 0 {
        push_number(out, u128::from(more));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits")]
fn push_number(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Stretches<'a> {
    bytes: &'a [u8],
    end: u64,
}

impl Stretches<'_> {
    fn number(&mut self) -> Option<u128> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

impl Iterator for Stretches<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let head = self.number()?;
        let zigzag = u64::try_from(head >> 1).ok()?;
        let way = (zigzag >> 1) ^ 0_u64.wrapping_sub(zigzag & 1);
        let first = self.end.wrapping_add(way);
        let more = if head & 1 == 1 { u64::try_from(self.number()?).ok()? } else { 0 };
        self.end = first.checked_add(more)?;
        Some((first, self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_of_a_thousand_devices_costs_two_bytes_a_message() {
        let mut sequences = Sequences::default();
        (0..10_000).for_each(|n| sequences.push(1_000_000 + n * 1_000));
        assert!(sequences.len() < 20_100, "{}", sequences.len());
        assert_eq!((1..=10_000).map(|n| (n, n)).collect::<Sequences>().iter().collect::<Vec<_>>(), [(1, 10_000)]);
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read(
            pushed in prop::collection::vec((prop_oneof![0..200_u64, any::<u64>()], 0..9_u64), 0..60), bytes: Vec<u8>,
        ) {
            let pushed = pushed.into_iter().map(|(first, more)| (first, first.saturating_add(more)));
            let (mut sequences, mut expect) = (Sequences::default(), Vec::new());
            for (first, last) in pushed {
                sequences.push_range(first, last);
                match expect.last_mut() {
                    Some((_, end)) if *end == first || u64::checked_add(*end, 1) == Some(first) => *end = last.max(*end),
                    _ => expect.push((first, last)),
                }
            }
            prop_assert_eq!(sequences.iter().collect::<Vec<_>>(), expect.clone());
            prop_assert_eq!(sequences.is_empty(), expect.is_empty());
            let mut out = Vec::new();
            sequences.write(&mut out);
            prop_assert_eq!(Sequences::read(&out).collect::<Vec<_>>(), expect.clone());
            let low = expect.iter().map(|(first, _)| *first).min();
            prop_assert_eq!(sequences.span().map(|(low, _)| low), low);
            prop_assert!(Sequences::read(&bytes).count() <= bytes.len());
            prop_assert!(Sequences::read(&bytes).all(|(first, last)| first <= last));
        }
    }
}
