//! Sequences as ranges: disjoint, in order, none touching the next. Pure.

use std::collections::{BTreeMap, VecDeque};

/// Bytes of one range in a block: its first and last sequence.
pub(super) const RANGE_LEN: usize = 16;

/// First and last sequence.
pub(super) type Range = (u64, u64);

/// A set of sequences.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ranges {
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl Ranges {
    /// Adds a range, and says how many of its sequences were not there before.
    pub fn insert(&mut self, first: u64, last: u64) -> u64 {
        let (mut start, mut end, mut known) = (first, last, 0);
        // Swallow every range that touches the new one; the acknowledgement in order meets at most one.
        while let Some((&other_first, &other_last)) = self.ranges.range(..=end.saturating_add(1)).next_back() {
            if other_last.saturating_add(1) < start {
                break;
            }
            let overlap = last.min(other_last).saturating_add(1);
            known += overlap.saturating_sub(first.max(other_first));
            self.ranges.remove(&other_first);
            self.len -= other_last - other_first + 1;
            start = start.min(other_first);
            end = end.max(other_last);
        }
        self.ranges.insert(start, end);
        self.len += end - start + 1;
        last - first + 1 - known
    }

    /// Takes out the range that begins at `first`.
    pub(super) fn take(&mut self, first: u64) -> Option<u64> {
        let last = self.ranges.remove(&first)?;
        self.len -= last - first + 1;
        Some(last)
    }

    /// Sequences in it.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Ranges it is made of.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Sequences above `seq` in it.
    pub(super) fn len_above(&self, seq: u64) -> u64 {
        let below: u64 = self.iter().take_while(|(first, _)| *first <= seq).map(|(f, l)| l.min(seq) - f + 1).sum();
        self.len - below
    }

    /// The first sequence from `seq` on that is not in it.
    pub fn first_gap(&self, seq: u64) -> u64 {
        match self.ranges.range(..=seq).next_back() {
            Some((_, &last)) if last >= seq => last + 1,
            _ => seq,
        }
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges.iter().map(|(&first, &last)| (first, last))
    }

    /// The ranges in order; where there are more than `most`, the longest of them.
    pub(super) fn list(&self, most: usize) -> Vec<Range> {
        let mut list: Vec<Range> = self.iter().collect();
        if list.len() > most {
            list.select_nth_unstable_by_key(most, |(first, last)| std::cmp::Reverse(last - first));
            list.truncate(most);
            list.sort_unstable();
        }
        list
    }
}

impl Extend<Range> for Ranges {
    fn extend<T: IntoIterator<Item = Range>>(&mut self, ranges: T) {
        for (first, last) in ranges {
            self.insert(first, last);
        }
    }
}

/// Appends a list of ranges in the form of a block's body.
pub(super) fn encode(list: &[Range], out: &mut Vec<u8>) {
    for (first, last) in list {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
}

/// The list in a block's body, as far as it makes sense: ascending, none beyond `most`.
pub(super) fn decode(body: &[u8], most: u64) -> Vec<Range> {
    let mut list: Vec<Range> = Vec::new();
    let (chunks, _) = body.as_chunks::<RANGE_LEN>();
    for chunk in chunks {
        let Some((first, rest)) = chunk.split_first_chunk::<8>() else { break };
        let Some((last, _)) = rest.split_first_chunk::<8>() else { break };
        let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
        if first > last || last > most || list.last().is_some_and(|(_, before)| *before >= first) {
            break;
        }
        list.push((first, last));
    }
    list
}

/// What a walk through ascending sequences leaves out.
#[derive(Debug, Default)]
pub(super) struct Skip(VecDeque<Range>);

impl Skip {
    pub(super) fn new(ranges: &Ranges) -> Self {
        Self(ranges.iter().collect())
    }

    /// Adds a range behind all others.
    pub(super) fn add(&mut self, range: Option<Range>) {
        self.0.extend(range);
    }

    /// The first sequence from `seq` on that is not left out.
    pub(super) fn pass(&mut self, mut seq: u64) -> u64 {
        while let Some((_, last)) = self.0.pop_front_if(|(first, _)| *first <= seq) {
            seq = seq.max(last + 1);
        }
        seq
    }

    /// Whether `seq` is left out; nothing before it is asked for again.
    pub(super) fn has(&mut self, seq: u64) -> bool {
        while self.0.pop_front_if(|(_, last)| *last < seq).is_some() {}
        self.0.front().is_some_and(|(first, _)| *first <= seq)
    }

    /// The parts of `first..=last` that are not left out.
    pub(super) fn gaps(&self, first: u64, last: u64) -> Vec<Range> {
        let mut parts = Vec::new();
        let mut from = first;
        for &(skip_first, skip_last) in self.0.iter().take_while(|(first, _)| *first <= last) {
            if skip_first > from {
                parts.push((from, skip_first - 1));
            }
            from = from.max(skip_last + 1);
        }
        if from <= last {
            parts.push((from, last));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_sequences(adds in prop::collection::vec((1..80u64, 0..12u64), 0..40), at in 0..90u64) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (first, more) in adds {
                let new = (first..=first + more).filter(|seq| model.insert(*seq)).count() as u64;
                prop_assert_eq!(ranges.insert(first, first + more), new);
            }
            prop_assert_eq!(ranges.len(), model.len() as u64);
            prop_assert_eq!(ranges.len_above(at), model.iter().filter(|seq| **seq > at).count() as u64);
            prop_assert_eq!(ranges.first_gap(at), (at..).find(|seq| !model.contains(seq)).unwrap());
            let list = ranges.list(usize::MAX);
            prop_assert!(list.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{list:?}");
            let listed: BTreeSet<u64> = list.iter().flat_map(|(first, last)| *first..=*last).collect();
            prop_assert_eq!(&listed, &model);
            let outside = |range: std::ops::RangeInclusive<u64>| range.filter(|seq| !model.contains(seq)).collect::<Vec<_>>();
            let mut skip = Skip::new(&ranges);
            let gaps: Vec<u64> = skip.gaps(5, 60).into_iter().flat_map(|(f, l)| f..=l).collect();
            prop_assert_eq!(gaps, outside(5..=60));
            prop_assert_eq!((1..=at).filter(|seq| !skip.has(*seq)).collect::<Vec<_>>(), outside(1..=at));
            prop_assert_eq!(skip.pass(at), ranges.first_gap(at));

            let mut body = Vec::new();
            encode(&list, &mut body);
            prop_assert_eq!(body.len(), list.len() * RANGE_LEN);
            prop_assert_eq!(decode(&body, 1000), list.clone());
            let short = ranges.list(2);
            prop_assert!(short.len() <= 2 && short.iter().all(|range| list.contains(range)));
        }

        #[test]
        fn any_body_is_a_list_in_order(body: Vec<u8>) {
            let list = decode(&body, 1 << 62);
            prop_assert!(list.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
