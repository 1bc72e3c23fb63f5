//! The words that keys can be, from the tables they are read by: for the schema.

use super::{
    read_binary, read_command, read_decode, read_desired, read_on, read_reported, read_rule, read_table, read_time,
};
use crate::rules::window::Function;

fn firsts<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
    choices.iter().map(|(word, _)| *word).collect()
}

pub(in crate::rules) fn events() -> Vec<&'static str> {
    firsts(&read_on::EVENTS)
}

pub(in crate::rules) fn priorities() -> Vec<&'static str> {
    firsts(&read_rule::PRIORITIES)
}

pub(in crate::rules) fn completions() -> Vec<&'static str> {
    firsts(&read_command::COMPLETE)
}

pub(in crate::rules) fn targets() -> Vec<&'static str> {
    firsts(&read_reported::TO)
}

pub(in crate::rules) fn compressions() -> Vec<&'static str> {
    firsts(&read_rule::COMPRESSIONS)
}

pub(in crate::rules) fn functions() -> Vec<&'static str> {
    firsts(&Function::ALL)
}

pub(in crate::rules) fn formats() -> Vec<&'static str> {
    read_decode::FORMATS.to_vec()
}

/// The formats that need no options.
pub(in crate::rules) fn plain_formats() -> Vec<&'static str> {
    read_decode::FORMATS.into_iter().filter(|name| read_decode::plain(name).is_some()).collect()
}

pub(in crate::rules) fn decimals() -> Vec<&'static str> {
    firsts(&read_decode::DECIMALS)
}

pub(in crate::rules) fn encodings() -> Vec<&'static str> {
    firsts(&read_decode::ENCODINGS)
}

pub(in crate::rules) fn codings() -> Vec<&'static str> {
    read_decode::CODINGS.to_vec()
}

pub(in crate::rules) fn splits() -> Vec<&'static str> {
    firsts(&read_decode::SPLITS)
}

pub(in crate::rules) fn parts() -> Vec<&'static str> {
    firsts(&read_desired::SPLITS)
}

pub(in crate::rules) fn qualities() -> Vec<&'static str> {
    firsts(&read_decode::QUALITIES)
}

pub(in crate::rules) fn orders() -> Vec<&'static str> {
    firsts(&read_binary::ORDERS)
}

pub(in crate::rules) fn rests() -> Vec<&'static str> {
    firsts(&read_binary::RESTS)
}

pub(in crate::rules) fn types() -> Vec<&'static str> {
    read_binary::TYPES.to_vec()
}

pub(in crate::rules) fn misses() -> Vec<&'static str> {
    firsts(&read_table::MISSES)
}

pub(in crate::rules) fn time_formats() -> Vec<&'static str> {
    read_time::FORMATS.to_vec()
}
