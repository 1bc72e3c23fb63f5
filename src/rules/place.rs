//! Where in a twin a change of reported properties lies: the objects around it, named by templates.

use super::refusal::Refusal;
use super::template::{Facts, Place, Template};
use super::{QuarantineReason, json};
use crate::message::push_twin_name;

/// Opens the objects in which a change of reported properties lies, and says how many are to be closed.
pub(super) fn open(
    at: &[Template],
    facts: &Facts<'_>,
    value: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<usize, Refusal> {
    for template in at {
        value.clear();
        let rendered = template.render(facts, Place::Property, value).is_ok();
        let text = std::str::from_utf8(value).unwrap_or("");
        if !rendered || text.is_empty() {
            let detail = "`at` needs something the payload does not have, or that is empty";
            return Err(Refusal::new(QuarantineReason::MissingField, detail));
        }
        let mut name = String::with_capacity(text.len());
        push_twin_name(text, &mut name);
        out.extend_from_slice(b"{\"");
        json::push_escaped(out, &name);
        out.extend_from_slice(b"\":");
    }
    Ok(at.len())
}
