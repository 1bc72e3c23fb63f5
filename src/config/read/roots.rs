//! `ca_file` and `extra_ca_file`: whom the uplink trusts.

use super::Section;
use crate::config::Placed;
use crate::config::schema::Shape;

/// The key of [`Roots::alone`].
const ALONE: &str = "ca_file";
/// The key of [`Roots::beside`].
const BESIDE: &str = "extra_ca_file";

/// PEM files of roots. Only one of the two lists has files in it.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    /// They are trusted instead of the system's.
    pub alone: Vec<Placed<String>>,
    /// They are trusted beside the system's.
    pub beside: Vec<Placed<String>>,
}

impl Roots {
    /// The system's roots are trusted.
    pub fn has_system(&self) -> bool {
        self.alone.is_empty()
    }

    /// The files, each with the key that names it.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Placed<String>)> {
        let alone = self.alone.iter().map(|file| (ALONE, file));
        alone.chain(self.beside.iter().map(|file| (BESIDE, file)))
    }
}

/// Reads both keys.
pub(in crate::config) fn roots(section: &mut Section<'_, '_, '_>) -> Roots {
    let roots = Roots { alone: section.files(ALONE), beside: section.files(BESIDE) };
    if let (Some(alone), Some(beside)) = (roots.alone.first(), roots.beside.first()) {
        let title = "`ca_file` replaces the system's roots and `extra_ca_file` adds to them: which is it?";
        let found = section.report.new_error("two-roots", title).at(beside.span.clone(), "");
        section.report.push(found.context(alone.span.clone(), "this one replaces them").help(
            "to trust the system's roots as well, name all files in `extra_ca_file`; to trust no others, in `ca_file`",
        ));
    }
    roots
}

impl Section<'_, '_, '_> {
    /// The name of a file, or a list of them.
    fn files(&mut self, key: &'static str) -> Vec<Placed<String>> {
        self.note(key, || Shape::TextOrTexts);
        let is_list = self.reader.any(key).is_some_and(|entry| entry.value.get_ref().as_array().is_some());
        if !is_list {
            return self.text(key).into_iter().collect();
        }
        let texts = self.reader.strings(key, self.report).unwrap_or_default();
        let filled = texts.into_iter().filter_map(|text| {
            let value = self.filled_in(key, text)?;
            Some(Placed { value, span: text.span() })
        });
        filled.collect()
    }
}
