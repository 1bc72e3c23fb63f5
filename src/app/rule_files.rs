//! Where rule files and their tables lie: a file as it is, or a folder's `*.toml` in name order; and beside them `*.csv`.
//! Hidden files are none, so that what an editor or a mounted volume keeps there does not count. `*.TOML` is one, as Windows
//! has it. A folder in the folder is not looked into, and [`passed_by`] tells of one that has rule files.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::text_file::{self, cannot_read};
use crate::diag::SourceFile;

/// Bytes of all files together. More lies there by accident, and must not cost a running plant its memory.
const MAX_BYTES: usize = 256 << 20;

/// Reads rule files, and the tables that lie beside them.
pub fn read(path: &Path) -> Result<Vec<SourceFile>, String> {
    read_within(path, MAX_BYTES)
}

fn read_within(path: &Path, most: usize) -> Result<Vec<SourceFile>, String> {
    let mut paths = rule_paths(path)?;
    if !paths.is_empty() {
        paths.extend(table_paths(path));
    }
    let mut left = most;
    let mut files = Vec::with_capacity(paths.len());
    let of_folder = path.is_dir();
    for path in paths {
        // A pipe would be waited for, and by a running bridge, too.
        if of_folder && fs::metadata(&path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            return Err(format!("{} is no file that can be read: it does not belong here", path.display()));
        }
        let text = read_file(&path, left).map_err(|error| cannot_read(&path, &error))?;
        left = left.checked_sub(text.len()).ok_or_else(|| {
            format!("{} is too large: rule files and tables may have {} MiB together", path.display(), most >> 20)
        })?;
        files.push(SourceFile { path: path.display().to_string(), text });
    }
    Ok(files)
}

/// The text of a file, or one byte more than `most` of it.
fn read_file(path: &Path, most: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    // What is cut off may end within a character.
    let whole = bytes.len() <= most;
    if whole { text_file::text(bytes) } else { Ok(String::from_utf8_lossy(&bytes).into_owned()) }
}

/// The rule files.
pub(super) fn rule_paths(path: &Path) -> Result<Vec<PathBuf>, String> {
    if path.is_dir() { in_folder(path, "toml") } else { Ok(vec![path.to_owned()]) }
}

/// What tables may be read from; nothing in a folder that cannot be listed.
pub(super) fn table_paths(path: &Path) -> Vec<PathBuf> {
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    let folder = folder.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    folder.and_then(|folder| in_folder(folder, "csv").ok()).unwrap_or_default()
}

/// What is said of folders with rule files that nobody reads, a text each.
pub fn passed_by(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let shown = |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    folders.retain(|path| path.is_dir() && shown(path) && in_folder(path, "toml").is_ok_and(|files| !files.is_empty()));
    folders.sort();
    let told = |folder: &PathBuf| {
        let (folder, path) = (folder.display(), path.display());
        format!("the rule files in {folder} are not read: they must lie in {path} itself")
    };
    folders.iter().map(told).collect()
}

fn in_folder(folder: &Path, kind: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| cannot_read(folder, &error))? {
        let path = entry.map_err(|error| cannot_read(folder, &error))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(kind)) && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("20-b.TOML", &b"b"[..]),
            ("10-a.toml", b"\xc3\xa4"),
            (".hidden.toml", b"\xff"),
            ("30-c.toml.part", b"\xff"),
            ("t.csv", b"t"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let one = |name: &str| dir.path().join(name);
        assert_eq!(passed_by(dir.path()), Vec::<String>::new());
        for name in ["empty", "old", ".git"] {
            fs::create_dir(one(name)).unwrap();
        }
        fs::write(one("old/a.toml"), "").unwrap();
        fs::write(one(".git/a.toml"), "").unwrap();
        let told = passed_by(dir.path());
        assert!(told.len() == 1 && told[0].contains("/old are not read"), "{told:?}");
        for (path, most, expect) in [
            (one(""), 4, Ok("\u{e4}bt")),
            (one("20-b.TOML"), 2, Ok("bt")),
            (one("10-a.toml"), 1, Err("10-a.toml is too large")),
            (one(""), 3, Err("t.csv is too large")),
            (one("30-c.toml.part"), 9, Err("is not UTF-8")),
            (one("nothing"), 9, Err("cannot read")),
        ] {
            let read = read_within(&path, most);
            match (&read, expect) {
                (Ok(files), Ok(expect)) => assert_eq!(files.iter().map(|f| &*f.text).collect::<String>(), expect),
                (Err(why), Err(expect)) => assert!(why.contains(expect), "{why}"),
                _ => panic!("{path:?} {most}: {read:?}"),
            }
        }
    }
}
