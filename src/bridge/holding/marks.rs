//! What the holding spool says about contributions of its own: which windows they are in, and that they are done with.
//!
//! The spool itself remembers what is done with as stretches beside its cursor, of which it writes down the longest
//! 2,048. With many windows open at a time there are more, and a start would find a part of what was done with again.
//! So that is written down as records among the contributions, the *marks*:
//!
//! | mark | type | meaning |
//! |---|---|---|
//! | kind | `u8` | 0x81: windows are closed and about to be stored. 0x82: contributions are done with |
//! | of 0x81 | for each window: length `u32`, little endian, [`Sequences`] | what it was made of |
//! | of 0x82 | [`Sequences`] | what is done with, ascending |
//!
//! The first byte of a contribution is its version, which is less than 0x80.
//!
//! A mark says nothing any more once the cursor has passed all that it names; it is done with then itself. Cursor and
//! stretches are written down together, so a start that finds a mark gone finds the cursor behind what it named. Where
//! one old contribution keeps the cursor, [`MOST`] marks at most add up (or [`MOST_BYTES`]): then a single list of all
//! that is done with takes their place.

use bytes::Bytes;

use crate::rules::{Closed, Sequences};
use crate::spool::Ranges;

const CLOSING: u8 = 0x81;
const DONE: u8 = 0x82;
/// A record of a list that may be cut anywhere.
const PART: usize = 16 << 10;
/// Marks that are in force, beside twice those that the last list took.
const MOST: usize = 256;
const MOST_BYTES: usize = 4 << 20;
/// Sequences above this are nonsense.
const MAX_SEQUENCE: u64 = 1 << 62;

/// A mark to be written, and the highest sequence it names.
pub(super) type Note = (Vec<u8>, u64);

/// A record that is no contribution.
pub(super) fn is_mark(record: &[u8]) -> bool {
    record.first().is_some_and(|kind| *kind >= 0x80)
}

/// What a start reads from the marks.
#[derive(Default)]
pub(super) struct Found {
    closing: Vec<Bytes>,
    /// What is done with.
    pub(super) done: Ranges,
}

impl Found {
    /// Takes a mark, and says the highest sequence it names; none where it cannot be read.
    pub(super) fn take(&mut self, record: &Bytes) -> Option<u64> {
        let (kind, rest) = record.split_first()?;
        match *kind {
            CLOSING => {
                self.closing.push(record.clone());
                windows(rest).flat_map(ranges).map(|(_, last)| last).max()
            }
            DONE => ranges(rest).map(|(first, last)| (self.done.insert(first, last), last).1).max(),
            _ => None,
        }
    }

    /// The windows that were closed and are not done with, each as its stretches.
    pub(super) fn again(&self) -> Vec<Vec<(u64, u64)>> {
        let is_open =
            |stretches: &Vec<(u64, u64)>| stretches.iter().any(|(first, last)| self.done.first_gap(*first) <= *last);
        let mut seen = Ranges::default();
        // One that was made again already is announced twice, and the latest says how it was.
        let mut is_new = |stretches: &Vec<(u64, u64)>| {
            stretches.iter().fold(true, |new, (first, last)| (seen.insert(*first, *last) == last - first + 1) && new)
        };
        let all = self.closing.iter().rev().flat_map(|record| windows(record.get(1..).unwrap_or(&[])));
        let again = all.map(|window| ranges(window).collect()).filter(is_open).filter(|window| is_new(window));
        again.collect()
    }
}

/// The windows in a mark that says they close.
fn windows(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (window, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        bytes = rest;
        Some(window)
    })
}

fn ranges(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    Sequences::read(bytes).take_while(|(_, last)| *last <= MAX_SEQUENCE)
}

/// The marks that say that windows are about to be stored; each window is in one of them, whole.
pub(super) fn closing(group: &[Closed]) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for closed in group {
        if notes.last().is_none_or(|(note, _)| note.len() > PART) {
            notes.push((vec![CLOSING], 0));
        }
        let Some((note, names_to)) = notes.last_mut() else { continue };
        let at = note.len();
        note.extend_from_slice(&[0; 4]);
        closed.sequences.write(note);
        let length = u32::try_from(note.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(place) = note.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        *names_to = closed.sequences.span().map_or(*names_to, |(_, high)| high.max(*names_to));
    }
    notes
}

/// The mark that says that all these are done with: one, so that a crash leaves all of it or nothing.
pub(super) fn done(ranges: &Ranges) -> Note {
    note_of(ranges.iter().collect())
}

/// The same in parts, for what is known to be done with already.
fn list(ranges: &Ranges) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut part = Sequences::default();
    for (first, last) in ranges.iter() {
        part.push_range(first, last);
        if part.len() > PART {
            notes.push(note_of(std::mem::take(&mut part)));
        }
    }
    if !part.is_empty() {
        notes.push(note_of(part));
    }
    notes
}

fn note_of(sequences: Sequences) -> Note {
    let mut note = vec![DONE];
    sequences.write(&mut note);
    (note, sequences.span().map_or(0, |(_, high)| high))
}

/// A mark that is in force.
#[derive(Debug, Clone, Copy)]
struct Mark {
    sequence: u64,
    names_to: u64,
    length: usize,
}

/// The marks that are in force.
#[derive(Debug)]
pub(super) struct Marks {
    marks: Vec<Mark>,
    most: usize,
    /// What the last list took, in marks and bytes.
    listed: (usize, usize),
    /// What is done with and could not be written down: there was no room.
    pub(super) unwritten: Ranges,
}

impl Default for Marks {
    fn default() -> Self {
        Self { marks: Vec::new(), most: MOST, listed: (0, 0), unwritten: Ranges::default() }
    }
}

impl Marks {
    /// As if no more than so many were good.
    #[cfg(test)]
    pub(super) fn bound(&mut self, most: usize) {
        self.most = most;
    }

    pub(super) fn count(&self) -> u64 {
        self.marks.len() as u64
    }

    /// The record `sequence` is a mark.
    pub(super) fn add(&mut self, sequence: u64, length: usize, names_to: u64) {
        self.marks.push(Mark { sequence, names_to, length });
    }

    /// Takes out what says nothing any more, as sequences to be done with.
    pub(super) fn take_passed(&mut self, cursor: u64, durable: u64) -> Vec<(u64, u64)> {
        let passed = |mark: &mut Mark| mark.names_to <= cursor && mark.sequence <= durable;
        self.marks.extract_if(.., passed).map(|mark| (mark.sequence, mark.sequence)).collect()
    }

    /// The list that is to take the place of all marks, where there are too many.
    pub(super) fn list(&self, resolved: impl FnOnce() -> Ranges) -> Option<Vec<Note>> {
        let bytes: usize = self.marks.iter().map(|mark| mark.length).sum();
        let (marks, listed) = self.listed;
        // What could not be written down is only in the marks that say it is closing.
        let many = self.marks.len() > self.most + 2 * marks || bytes > MOST_BYTES + 2 * listed;
        (many && self.unwritten.count() == 0).then(|| list(&resolved()))
    }

    /// The marks from `first` on are a list that took the place of those before, which are to be done with.
    pub(super) fn take_listed(&mut self, first: u64) -> Vec<(u64, u64)> {
        let taken = self.marks.extract_if(.., |mark| mark.sequence < first);
        let taken = taken.map(|mark| (mark.sequence, mark.sequence)).collect();
        self.listed = (self.marks.len(), self.marks.iter().map(|mark| mark.length).sum());
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Closing;
    use proptest::prelude::*;

    fn closed(ranges: &[(u64, u64)]) -> Closed {
        Closed::new("r", Vec::new(), ranges.iter().copied().collect(), Closing::Wait)
    }

    fn take(found: &mut Found, notes: Vec<Note>) {
        for (note, names_to) in notes {
            assert!(is_mark(&note));
            assert_eq!(found.take(&note.into()), Some(names_to));
        }
    }

    #[test]
    fn a_window_is_done_with_as_a_whole_or_made_again_as_a_whole() {
        let windows = [closed(&[(1, 3), (7, 7)]), closed(&[(4, 6), (9, 12)]), closed(&[(8, 8)])];
        for (done_with, again) in [
            (&[][..], &[0, 1, 2][..]),
            (&[(1, 3)], &[0, 1, 2]),
            (&[(1, 7)], &[1, 2]),
            (&[(1, 6), (9, 12)], &[0, 2]),
            (&[(1, 12)], &[]),
        ] {
            let mut found = Found::default();
            take(&mut found, closing(&windows));
            take(&mut found, closing(&windows[1..]));
            let mut ranges = Ranges::default();
            ranges.extend(done_with.iter().copied());
            if !done_with.is_empty() {
                take(&mut found, vec![done(&ranges)]);
            }
            let expect: Vec<Vec<(u64, u64)>> = again.iter().map(|n| windows[*n].sequences.iter().collect()).collect();
            let mut made = found.again();
            made.sort_unstable();
            assert_eq!(made, expect, "{done_with:?}");
        }
    }

    #[test]
    fn a_list_takes_the_place_of_many_marks() {
        let mut marks = Marks::default();
        let mut resolved = Ranges::default();
        let (mut next, mut lists, mut most) = (1, 0, 0);
        // Every third sequence waits for ever, and so the cursor does not move.
        while next < 100_000 {
            resolved.insert(next, next);
            marks.add(next + 1, 10, next);
            assert_eq!(marks.take_passed(0, next + 1), []);
            next += 3;
            most = most.max(marks.count());
            let Some(list) = marks.list(|| resolved.clone()) else { continue };
            let (first, mut found) = (next, Found::default());
            for (note, names_to) in list {
                assert!(note.len() <= PART + 20);
                marks.add(next, note.len(), names_to);
                next += 1;
                found.take(&note.into());
            }
            assert_eq!(found.done, resolved);
            for (first, last) in marks.take_listed(first) {
                resolved.insert(first, last);
            }
            lists += 1;
        }
        assert!(lists > 50 && most < 300, "{lists} lists, {most} marks");
        let left = marks.count();
        assert_eq!(marks.take_passed(next, next).len() as u64, left, "the cursor has passed everything");
    }

    proptest! {
        /// Whatever the records are, no contribution is in two windows that are made again.
        #[test]
        fn any_bytes_are_a_mark_or_not(
            records in prop::collection::vec((0x7f..0x84_u8, prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::collection::vec((1..9_u8, 0..9_u8), 0..4).prop_map(|windows| {
                    windows.into_iter().flat_map(|(at, more)| [2, 0, 0, 0, at << 2 | 1, more]).collect()
                }),
            ]), 0..6),
        ) {
            let mut found = Found::default();
            for (kind, rest) in records {
                let named = found.take(&[vec![kind], rest].concat().into());
                prop_assert!(named.is_none_or(|to| to <= MAX_SEQUENCE));
            }
            let mut seen = Ranges::default();
            for (first, last) in found.again().into_iter().flatten() {
                prop_assert_eq!(seen.insert(first, last), last - first + 1, "{} to {} is in two windows", first, last);
            }
        }
    }
}
