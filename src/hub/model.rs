//! Digital twin model identifiers (DTMI), by which a plug-and-play device says what it is.
//!
//! `dtmi:{segment}:..:{segment};{version}`: segments of letters, digits and `_` that begin with a letter and do not end
//! with `_`, and a version without leading zeros, of at most nine digits and, in version 3 of the language, a minor one
//! behind a dot.

use std::fmt;

/// Longest identifier that a hub takes for an interface.
const MAX_CHARS: usize = 2_048;
/// Most digits of a version.
const VERSION_DIGITS: usize = 9;

/// What is wrong with a model id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelIdError {
    /// It does not begin with `dtmi:`, in lower case.
    Scheme,
    /// A segment that is none, by its number from 1.
    Segment(usize),
    /// There is no `;1` at its end, or something else behind the `;`.
    Version,
    /// More than 2,048 characters.
    Long,
}

impl fmt::Display for ModelIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("it begins with `dtmi:`, in lower case"),
            Self::Segment(n) => write!(
                f,
                "its part {n} is none: letters, digits and `_`, a letter first and no `_` last, as in `com:example:Press_4`"
            ),
            Self::Version => f.write_str("it ends with its version: `;1`"),
            Self::Long => write!(f, "it has more than {MAX_CHARS} characters"),
        }
    }
}

impl std::error::Error for ModelIdError {}

/// Says whether a text is the id of a model.
pub fn check(text: &str) -> Result<(), ModelIdError> {
    if text.len() > MAX_CHARS {
        return Err(ModelIdError::Long);
    }
    let rest = text.strip_prefix("dtmi:").ok_or(ModelIdError::Scheme)?;
    let (path, version) = rest.split_once(';').ok_or(ModelIdError::Version)?;
    if let Some((number, _)) = (1..).zip(path.split(':')).find(|(_, segment)| !is_segment(segment)) {
        return Err(ModelIdError::Segment(number));
    }
    let (major, minor) = version.split_once('.').map_or((version, None), |(major, minor)| (major, Some(minor)));
    let is_sound = is_number(major) && major != "0" && minor.is_none_or(is_number);
    if is_sound { Ok(()) } else { Err(ModelIdError::Version) }
}

fn is_segment(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with('_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_number(text: &str) -> bool {
    let has_zero_in_front = text.starts_with('0') && text.len() > 1;
    !text.is_empty() && text.len() <= VERSION_DIGITS && !has_zero_in_front && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_ids() {
        use ModelIdError as E;
        let long = format!("dtmi:{};1", "a".repeat(MAX_CHARS));
        for (text, expect) in [
            ("dtmi:com:example:Thermostat;1", Ok(())),
            ("dtmi:azure:DeviceManagement:DeviceInformation;1", Ok(())),
            ("dtmi:a;999999999", Ok(())),
            ("dtmi:foo_bar:_16:b;1", Err(E::Segment(2))),
            ("dtmi:com:example:Press_4;2.10", Ok(())),
            ("dtmi:com:example:Press;1.0", Ok(())),
            ("", Err(E::Scheme)),
            ("DTMI:com:example:Press;1", Err(E::Scheme)),
            ("com:example:Press;1", Err(E::Scheme)),
            ("dtmi:;1", Err(E::Segment(1))),
            ("dtmi:com::Press;1", Err(E::Segment(2))),
            ("dtmi:com:4press;1", Err(E::Segment(2))),
            ("dtmi:com:press_;1", Err(E::Segment(2))),
            ("dtmi:com:press-4;1", Err(E::Segment(2))),
            ("dtmi:com:pr\u{e4}ss;1", Err(E::Segment(2))),
            ("dtmi:com:press", Err(E::Version)),
            ("dtmi:com:press;", Err(E::Version)),
            ("dtmi:com:press;0", Err(E::Version)),
            ("dtmi:com:press;01", Err(E::Version)),
            ("dtmi:com:press;1.02", Err(E::Version)),
            ("dtmi:com:press;1.", Err(E::Version)),
            ("dtmi:com:press;1234567890", Err(E::Version)),
            ("dtmi:com:press;1;2", Err(E::Version)),
            (long.as_str(), Err(E::Long)),
        ] {
            assert_eq!(check(text), expect, "{text:.60}");
        }
    }
}
