//! Looking on: what `tap`, `unmatched`, `record` and `replay` know of publishes and what became of them. Pure.
//!
//! | part | what it is |
//! |---|---|
//! | [`sight`] | one publish and what became of it, in full ([`Treated`]) and as it is shown ([`Sight`]); [`Filter`] chooses |
//! | [`busiest`] | the busiest topics of many in bounded memory |
//! | [`siblings`] | topics that differ in one level as one row |
//! | [`traffic`] | the lines of a recording |
//! | [`tally`] | what a rule set makes of a recording, summed up |
//! | [`changes`] | what another rule set would make different, grouped |
//!
//! It decides nothing about a publish: it is told by who did.

pub mod busiest;
pub mod changes;
pub mod siblings;
pub mod sight;
pub mod tally;
pub mod traffic;

pub use sight::{Fate, Filter, Made, Sight, Treated};
