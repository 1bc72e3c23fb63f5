//! The files that people write: reading one, and why it cannot be read, in words that say what to do.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::string::FromUtf8Error;

/// Why bytes are no text.
#[derive(Debug)]
enum NotText {
    Utf16,
    /// The first byte that is none of UTF-8.
    Byte {
        line: usize,
        column: usize,
        byte: u8,
    },
}

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf16 => f.write_str(" this is UTF-16 text: save it as UTF-8 in your editor"),
            Self::Byte { line, column, byte } => {
                write!(f, "{line}:{column} is not UTF-8 text (byte {byte:#04x}): save it as UTF-8 in your editor")
            }
        }
    }
}

impl Error for NotText {}

/// Reads a file of text.
pub fn read(path: &Path) -> io::Result<String> {
    text(fs::read(path)?)
}

/// The text of a file that was read.
pub(super) fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, NotText::of(&error)))
}

impl NotText {
    fn of(error: &FromUtf8Error) -> Self {
        let bytes = error.as_bytes();
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Self::Utf16;
        }
        let (sound, rest) = bytes.split_at_checked(error.utf8_error().valid_up_to()).unwrap_or((bytes, &[]));
        let sound = String::from_utf8_lossy(sound);
        let line = sound.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = sound.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self::Byte { line, column, byte: rest.first().copied().unwrap_or_default() }
    }
}

/// Says which file cannot be read and why.
pub fn cannot_read(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    let not_text = error.get_ref().and_then(|inner| inner.downcast_ref::<NotText>());
    match (not_text, error.kind()) {
        (Some(why), _) => format!("{path}:{why}"),
        (None, ErrorKind::InvalidData) => format!("{path} is not UTF-8 text: save it as UTF-8 in your editor"),
        (None, ErrorKind::IsADirectory) => format!("{path} is a folder: a file is needed here"),
        (None, ErrorKind::PermissionDenied) => {
            format!(
                "cannot read {path}: {error}: it and the folders it lies in must be readable for who runs brownbridge"
            )
        }
        (None, _) => format!("cannot read {path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_file_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        for (bytes, expect) in [
            (&b"a = \"\xe9\"\n"[..], Some("a.toml:1:6 is not UTF-8 text (byte 0xe9): save it as UTF-8 in your editor")),
            (b"# \xc3\xa4\n\xc3\xa4\xff", Some("a.toml:2:2 is not UTF-8 text (byte 0xff)")),
            (b"a = 1\n\xc3", Some("a.toml:2:1 is not UTF-8 text (byte 0xc3)")),
            (b"\xff\xfe[\0[\0", Some("a.toml: this is UTF-16 text: save it as UTF-8")),
            (b"\xef\xbb\xbfa = 1\r\n", None),
            (b"", None),
        ] {
            fs::write(&path, bytes).unwrap();
            let told = read(&path).err().map(|error| cannot_read(&path, &error));
            match (&told, expect) {
                (Some(told), Some(expect)) => assert!(told.contains(expect), "{told}"),
                (None, None) => {}
                _ => panic!("{}: {told:?}", bytes.escape_ascii()),
            }
        }
        for (error, expect) in [
            (read(dir.path()).unwrap_err(), " is a folder: a file is needed here"),
            (read(&dir.path().join("b")).unwrap_err(), "/b: No such file"),
            (ErrorKind::PermissionDenied.into(), "must be readable for who runs brownbridge"),
            (fs::read_to_string(write(&path, b"\xff")).unwrap_err(), "a.toml is not UTF-8 text: save it"),
        ] {
            let path = if expect.starts_with("/b") { dir.path().join("b") } else { path.clone() };
            let told = cannot_read(&path, &error);
            assert!(told.contains(expect), "{told}");
        }
    }

    fn write<'a>(path: &'a Path, bytes: &[u8]) -> &'a Path {
        fs::write(path, bytes).unwrap();
        path
    }
}
