//! What the messages of one publish will have sent, until that is written down.
//!
//! A publish of a gateway may make thousands of messages, each of which asks what the ones before it will have sent. Few
//! notes are looked through; more have an index, in which each note knows the one it hides, so that notes can be taken
//! back. Where there are few the index is empty.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::rules::RuleIndex;
use crate::rules::memory::{AsItIs, Mark};

/// So many notes are looked through.
const FEW: usize = 8;

/// One message of a rule will have been sent.
#[derive(Debug, Clone, Copy)]
pub(in crate::rules) struct Note {
    pub(in crate::rules) rule: RuleIndex,
    pub(in crate::rules) key: u128,
    pub(in crate::rules) mark: Mark,
    /// The place of the last note before it of the same rule and key, where there is an index.
    hides: Option<usize>,
}

/// What will have been sent, in order.
#[derive(Debug, Default)]
pub(in crate::rules) struct Noted {
    notes: Vec<Note>,
    /// The last place of each rule and key.
    places: HashMap<(RuleIndex, u128), usize, BuildHasherDefault<AsItIs>>,
}

impl Noted {
    pub(in crate::rules) fn len(&self) -> usize {
        self.notes.len()
    }

    pub(in crate::rules) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    pub(in crate::rules) fn iter(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter()
    }

    pub(in crate::rules) fn clear(&mut self) {
        self.notes.clear();
        self.places.clear();
    }

    /// The last mark of a rule and key.
    pub(super) fn last(&self, rule: RuleIndex, key: u128) -> Option<Mark> {
        if self.notes.len() <= FEW {
            let own = self.notes.iter().rev().find(|own| own.rule == rule && own.key == key);
            return own.map(|own| own.mark);
        }
        self.places.get(&(rule, key)).and_then(|place| self.notes.get(*place)).map(|own| own.mark)
    }

    pub(super) fn push(&mut self, rule: RuleIndex, key: u128, mark: Mark) {
        self.notes.push(Note { rule, key, mark, hides: None });
        let indexed = if self.notes.len() == FEW + 1 { 0 } else { self.notes.len() - 1 };
        if self.notes.len() > FEW {
            for (place, note) in self.notes.iter_mut().enumerate().skip(indexed) {
                note.hides = self.places.insert((note.rule, note.key), place);
            }
        }
    }

    /// Takes back all but the first ones.
    pub(in crate::rules) fn truncate(&mut self, most: usize) {
        while self.notes.len() > most.max(FEW)
            && let Some(note) = self.notes.pop()
        {
            match note.hides {
                Some(place) => self.places.insert((note.rule, note.key), place),
                None => self.places.remove(&(note.rule, note.key)),
            };
        }
        if self.notes.len() <= FEW {
            self.places.clear();
            self.notes.truncate(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Whatever is noted and taken back, it is what a look through all of it finds.
        #[test]
        fn the_index_finds_what_is_there(steps in prop::collection::vec((0..4_u8, 0..3_usize, 0..6_u128, 0..40_usize), 1..80)) {
            let mut noted = Noted::default();
            let mut plain: Vec<(usize, u128, i64)> = Vec::new();
            for ((step, rule, key, most), at) in steps.into_iter().zip(0..) {
                match step {
                    0 => {
                        noted.truncate(most);
                        plain.truncate(most);
                    }
                    _ => {
                        noted.push(rule, key, Mark { at, until: at, number: 0.0, text: 0 });
                        plain.push((rule, key, at));
                    }
                }
                prop_assert_eq!(noted.iter().map(|note| note.mark.at).collect::<Vec<_>>(), plain.iter().map(|own| own.2).collect::<Vec<_>>());
                for (rule, key) in (0..3).flat_map(|rule| (0..6).map(move |key| (rule, key))) {
                    let expect = plain.iter().rev().find(|own| (own.0, own.1) == (rule, key)).map(|own| own.2);
                    prop_assert_eq!(noted.last(rule, key).map(|mark| mark.at), expect);
                }
                prop_assert_eq!(noted.places.is_empty(), noted.len() <= FEW);
            }
        }
    }
}
