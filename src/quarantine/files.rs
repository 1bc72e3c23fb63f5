//! The folder of the quarantine: bounded files of lines, appended to, taken from, the oldest given up first.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::entry;
use crate::amount::of;
use crate::message::Timestamp;

/// Files the folder's bound is divided into.
const FILES: u64 = 8;
/// Locked while the folder is in use.
const LOCK: &str = "lock";
/// A file is rewritten under this name first.
const REWRITTEN: &str = "rewritten.tmp";

/// The folder; one process at a time.
pub(super) struct Files {
    pub(super) dir: PathBuf,
    max_size: u64,
    current: Option<(File, u64)>,
    _lock: File,
}

impl Files {
    /// Makes the folder where needed, locks it, and goes on with the newest file.
    pub(super) fn open(dir: &Path, max_size: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))?;
        owned_as(&lock, dir);
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let mut files = Self { dir: dir.to_owned(), max_size, current: None, _lock: lock };
        files.resume()?;
        Ok(files)
    }

    /// Goes on with the newest file, after a line that a crash cut short.
    fn resume(&mut self) -> io::Result<()> {
        let Some(newest) = list(&self.dir)?.pop() else { return Ok(()) };
        let mut file = OpenOptions::new().read(true).append(true).open(&newest)?;
        let size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
        self.current = Some((file, size));
        Ok(())
    }

    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        // After an error `current` stays empty: what a failed sync left behind is never trusted again.
        let (file, size) = match self.current.take() {
            Some((mut file, size)) if size < self.max_size / FILES => {
                store(&mut file, lines)?;
                (file, size)
            }
            _ => {
                let (path, mut file) = self.create()?;
                // The lines are written again: a new file that could not take them would hold them twice.
                store(&mut file, lines).inspect_err(|_| drop(fs::remove_file(&path)))?;
                (file, 0)
            }
        };
        self.current = Some((file, size + lines.len() as u64));
        if let Err(error) = self.evict() {
            tracing::warn!("old files of the quarantine in {} cannot be removed: {error}", self.dir.display());
        }
        Ok(())
    }

    /// Takes out the entries of these identifiers, and says which there were.
    pub(super) fn take(&mut self, mut ids: HashSet<String>) -> io::Result<Vec<String>> {
        let mut taken = Vec::new();
        for path in list(&self.dir)? {
            if ids.is_empty() {
                break;
            }
            let found = self.take_from(&path, &ids)?;
            for id in &found {
                ids.remove(id);
            }
            taken.extend(found);
        }
        Ok(taken)
    }

    fn take_from(&mut self, path: &Path, ids: &HashSet<String>) -> io::Result<Vec<String>> {
        let mut left: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let mut taken = Vec::new();
        let temporary = self.dir.join(REWRITTEN);
        let rewritten = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        owned_as(&rewritten, path);
        let mut rewritten = BufWriter::new(rewritten);
        let (mut lines, mut line, mut kept) = (BufReader::new(File::open(path)?), Vec::new(), 0_u64);
        while lines.read_until(b'\n', &mut line)? > 0 {
            let id = std::str::from_utf8(&line).map(|line| entry::id(line.trim_end_matches('\n'))).unwrap_or_default();
            if left.remove(id.as_str()) {
                taken.push(id);
            } else {
                rewritten.write_all(&line)?;
                kept += 1;
            }
            line.clear();
        }
        if taken.is_empty() {
            fs::remove_file(&temporary)?;
            return Ok(taken);
        }
        rewritten.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        // What was open for appending is another file from here on.
        self.current = None;
        if kept == 0 {
            fs::remove_file(&temporary)?;
            fs::remove_file(path)?;
        } else {
            fs::rename(&temporary, path)?;
        }
        File::open(&self.dir)?.sync_all()?;
        Ok(taken)
    }

    fn create(&self) -> io::Result<(PathBuf, File)> {
        let now = Timestamp::now().0;
        for n in 0..1_000 {
            let path = self.dir.join(format!("{now:015}-{n:03}.jsonl"));
            match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    owned_as(&file, &self.dir);
                    File::open(&self.dir)?.sync_all()?;
                    return Ok((path, file));
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn evict(&self) -> io::Result<()> {
        let files = list(&self.dir)?;
        let mut sizes = Vec::with_capacity(files.len());
        for file in &files {
            sizes.push(fs::metadata(file)?.len());
        }
        let mut total: u64 = sizes.iter().sum();
        let older = files.len().saturating_sub(1);
        for (path, size) in files.iter().zip(sizes).take(older) {
            if total <= self.max_size {
                break;
            }
            let entries = count_lines(path)?;
            fs::remove_file(path)?;
            total -= size;
            ::metrics::counter!("brownbridge_quarantine_evicted_total").increment(entries);
            let entries = of(entries, "entry", "entries");
            tracing::warn!("the quarantine is full: {entries} of {} given up", path.display());
        }
        Ok(())
    }
}

/// The files of the folder, the oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Root drops entries of the service's own user, who must be able to go on with the files.
fn owned_as(file: &File, like: &Path) {
    if let Ok(owner) = fs::metadata(like) {
        // Whoever is not root owns both already.
        let _ = std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

fn store(file: &mut File, lines: &[u8]) -> io::Result<()> {
    file.write_all(lines)?;
    file.sync_data()
}

fn count_lines(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let (mut lines, mut buffer) = (0, vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(lines),
            n => lines += memchr::memchr_iter(b'\n', buffer.get(..n).unwrap_or_default()).count() as u64,
        }
    }
}
