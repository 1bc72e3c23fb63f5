//! Where rule files and their tables lie: a file as it is, or a folder's `*.toml` in name order; and beside them `*.csv`.
//! Hidden files are none, so that what an editor or a mounted volume keeps there does not count.

use std::fs;
use std::path::{Path, PathBuf};

use super::settings::cannot_read;
use crate::diag::SourceFile;

/// Reads rule files, and the tables that lie beside them.
pub fn read(path: &Path) -> Result<Vec<SourceFile>, String> {
    let mut paths = rule_paths(path)?;
    if !paths.is_empty() {
        paths.extend(table_paths(path));
    }
    let read = |path: PathBuf| match fs::read_to_string(&path) {
        Ok(text) => Ok(SourceFile { path: path.display().to_string(), text }),
        Err(error) => Err(cannot_read(&path, &error)),
    };
    paths.into_iter().map(read).collect()
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

fn in_folder(folder: &Path, kind: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| cannot_read(folder, &error))? {
        let path = entry.map_err(|error| cannot_read(folder, &error))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if path.extension().is_some_and(|extension| extension == kind) && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
