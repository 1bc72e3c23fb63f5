//! What a message gives to its window, as bytes that are kept until the window is stored.
//!
//! | contribution | type | meaning |
//! |---|---|---|
//! | version | `u8` | 2; it is less than 0x80 for ever |
//! | received | `i64` | milliseconds since 1970, little endian as all |
//! | group | `u128` | what may share a window |
//! | kind | `u8` | 0 `batch`, 1 `aggregate`, 2 `pivot`; not in version 1 |
//! | shape | `u32` | stands for the settings that decide what the values mean: the fields and functions of an aggregate, the names and place of a pivot; not in version 1 |
//! | rule | `u16` length, text | what the rule's memory is filed under |
//! | record | rest | the message it would be alone |

use super::{Combine, OfRule};
use crate::message::{NotARecord, Timestamp};
use crate::rules::memory;

/// What made a contribution, as far as another window must know to take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rules) struct Made {
    kind: u8,
    shape: u32,
}

impl Made {
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
    pub(super) fn of(combine: &Combine) -> Self {
        let (kind, shape) = match combine {
            // Any bodies make a list.
            Combine::Batch(_) => (0, 0),
            Combine::Aggregate(aggregate) => (1, memory::digest(format!("{:?}", aggregate.fields).as_bytes())),
            Combine::Pivot(pivot) => (2, memory::digest(format!("{:?} {:?}", pivot.name, pivot.value).as_bytes())),
        };
        Self { kind, shape: shape as u32 }
    }
}

/// A contribution, taken apart.
#[derive(Debug, Clone, Copy)]
pub(in crate::rules) struct Held<'a> {
    pub(super) received: i64,
    pub(super) group: u128,
    /// None where it was written before that was.
    made: Option<Made>,
    pub(in crate::rules) state: &'a str,
    pub(super) record: &'a [u8],
}

/// What is written; of version 1, which has no kind and no shape, it is not known whether they fit.
const VERSION: u8 = 2;
/// Where the group stands in a contribution.
const GROUP_AT: usize = 9;

impl<'a> Held<'a> {
    /// Begins a contribution; its record is to follow, and the group once it is known.
    pub(in crate::rules) fn begin(out: &mut Vec<u8>, received: Timestamp, (state, made): (&str, Made)) -> usize {
        let start = out.len();
        out.push(VERSION);
        out.extend_from_slice(&received.0.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        out.push(made.kind);
        out.extend_from_slice(&made.shape.to_le_bytes());
        let state = state.get(..state.floor_char_boundary(usize::from(u16::MAX))).unwrap_or(state);
        out.extend_from_slice(&u16::try_from(state.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(state.as_bytes());
        start
    }

    /// Says what may share a window with the contribution that begins at `start`.
    pub(in crate::rules) fn set_group(out: &mut [u8], start: usize, group: u128) {
        if let Some(place) = out.get_mut(start + GROUP_AT..start + GROUP_AT + 16) {
            place.copy_from_slice(&group.to_le_bytes());
        }
    }

    /// Takes a contribution apart.
    pub(in crate::rules) fn parse(bytes: &'a [u8]) -> Result<Self, NotARecord> {
        let (version, rest) = bytes.split_first().ok_or(NotARecord)?;
        let (received, rest) = rest.split_first_chunk().ok_or(NotARecord)?;
        let (group, rest) = rest.split_first_chunk().ok_or(NotARecord)?;
        let (made, rest) = match *version {
            1 => (None, rest),
            VERSION => {
                let (kind, rest) = rest.split_first().ok_or(NotARecord)?;
                let (shape, rest) = rest.split_first_chunk().ok_or(NotARecord)?;
                (Some(Made { kind: *kind, shape: u32::from_le_bytes(*shape) }), rest)
            }
            _ => return Err(NotARecord),
        };
        let (length, rest) = rest.split_first_chunk().ok_or(NotARecord)?;
        let (state, record) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or(NotARecord)?;
        Ok(Self {
            received: i64::from_le_bytes(*received),
            group: u128::from_le_bytes(*group),
            made,
            state: std::str::from_utf8(state).map_err(|_| NotARecord)?,
            record,
        })
    }

    /// The rule, where its window takes such contributions.
    pub(super) fn fitting<'r>(&self, rule: Option<OfRule<'r>>) -> Option<OfRule<'r>> {
        rule.filter(|rule| self.made.is_none_or(|made| made == rule.window.made))
    }

    /// The message it would be alone.
    pub(in crate::rules) fn record(&self) -> &'a [u8] {
        self.record
    }
}

/// The message that a contribution would be by itself.
pub fn held_record(held: &[u8]) -> &[u8] {
    Held::parse(held).map_or(&[], |held| held.record)
}
