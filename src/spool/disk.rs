//! What the spool asks of a disk, and the real one.
//!
//! The seam exists for the tests: `sim` implements it with pages that are lost at a power cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

/// One folder.
pub(super) trait Disk: Send + Sync {
    /// Names and lengths of the plain files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// A new file with `size` bytes of space already taken. Leaves nothing behind when there is no space.
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Moves a file out of the way into `quarantine/`.
    fn quarantine(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync(&self) -> io::Result<()>;
    /// Milliseconds since 1970.
    fn now(&self) -> i64;
    fn random(&self) -> u64;
    /// Lets another process have the folder.
    fn release(&self);
}

/// One file.
pub(super) trait DiskFile: Send + Sync {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Reads until `into` is full or the file ends.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;
    fn sync(&self) -> io::Result<()>;
}

/// Whether an error means that space is used up, which passes, and not that the disk is broken.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

const QUARANTINE: &str = "quarantine";
const LOCK: &str = "lock";

/// A folder of the real file system, locked against a second process.
#[derive(Debug)]
pub(super) struct RealDisk {
    dir: PathBuf,
    handle: File,
    /// Its lock ends with the process at the latest.
    lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug)]
pub(super) enum FolderError {
    Locked(Option<u32>),
    Io(io::Error),
}

impl From<io::Error> for FolderError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl RealDisk {
    /// Makes the folder where needed and locks it.
    pub(super) fn open(dir: &Path) -> Result<Self, FolderError> {
        std::fs::create_dir_all(dir)?;
        let handle = File::open(dir)?;
        let mut lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join(LOCK))?;
        if let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(FolderError::Io(error.into()));
            }
            let mut text = String::new();
            let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(FolderError::Locked(pid));
        }
        // The number is a courtesy to whoever finds the folder locked: without space there is none.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { dir: dir.to_owned(), handle, lock })
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(meta) = entry.metadata() else { continue };
            // A name that is no UTF-8 is no file of the spool and cannot be mistaken for one.
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string())
                && name != LOCK
            {
                files.push((name, meta.len()));
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = allocate(&file, size) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn quarantine(&self, name: &str) -> io::Result<()> {
        let folder = self.dir.join(QUARANTINE);
        std::fs::create_dir_all(&folder)?;
        let mut target = folder.join(name);
        // A file that came here earlier under this name is kept as well.
        let mut again = 1;
        while target.symlink_metadata().is_ok() {
            target = folder.join(format!("{name}.{again}"));
            again += 1;
        }
        std::fs::rename(self.dir.join(name), target)
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn now(&self) -> i64 {
        crate::message::Timestamp::now().0
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn release(&self) {
        // Fails only for a descriptor that is none.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Takes the space now. A file system that cannot promise space gets zeros instead.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = vec![0; 1 << 20];
            let mut at = 0;
            while at < size {
                let len = usize::try_from(size - at).unwrap_or(usize::MAX).min(zeros.len());
                FileExt::write_all_at(file, zeros.get(..len).unwrap_or_default(), at)?;
                at += u64::try_from(len).unwrap_or(size);
            }
            Ok(())
        }
        other => other.map_err(io::Error::from),
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
