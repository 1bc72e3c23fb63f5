//! `script`.

use super::refusal::Refusal;
use super::template::Facts;

/// A checked script.
#[derive(Debug)]
pub(super) enum Script {}

impl Script {
    pub(super) fn run(&self, _input: &[u8], _facts: &Facts<'_>) -> Result<Vec<Vec<u8>>, Refusal> {
        match *self {}
    }
}
