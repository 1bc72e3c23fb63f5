//! Recordings of local traffic: files of [lines](crate::watch::traffic), written as a ring and read as a stream.
//!
//! A recording is the file that was named and, once that was half as large as all may be, the one before it, with
//! `.1` behind its name. When the file is full again it takes the place of the other one, so at least the newer half
//! of `max_size` is there, and never more than `max_size` in both. Each file begins with a line of its own and can be
//! read alone. Only its owner may read them (mode 0600): payloads are the plant's.
//!
//! A line goes to the system as a whole. A crash may leave a torn one at the end; it is skipped by the reader and
//! counted, and a recording that goes on begins a new line.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::message::Timestamp;
use crate::watch::traffic::{self, Entry};

/// The smallest ring: two files that take the largest publish a broker takes by default, in base64.
pub const MIN_SIZE: u64 = 4 << 20;
/// The longest line that is read. The longest a broker can take is 256 MiB, and base64 makes it a third longer.
const MAX_LINE: u64 = 384 << 20;

/// A recording that is being written.
pub struct Ring {
    path: PathBuf,
    /// The most of one file.
    half: u64,
    file: BufWriter<File>,
    written: u64,
    line: Vec<u8>,
}

/// The older file of a ring.
pub fn older(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    PathBuf::from(name)
}

impl Ring {
    /// Begins a recording of at most `max_size` bytes. `AlreadyExists` where there is one, unless it is to go on.
    pub fn open(path: &Path, max_size: u64, go_on: bool) -> io::Result<Self> {
        if !go_on && older(path).exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (file, written) = if go_on { reopened(path)? } else { (created(path)?, 0) };
        let half = max_size.max(MIN_SIZE) / 2;
        let mut ring = Self { path: path.to_owned(), half, file: BufWriter::new(file), written, line: Vec::new() };
        ring.begin()?;
        // An empty recording is one, too.
        ring.flush()?;
        Ok(ring)
    }

    /// Appends a line, with its end. One that fits no file is left out, and a gap says so.
    pub fn push(&mut self, line: &[u8]) -> io::Result<()> {
        if self.written + line.len() as u64 > self.half {
            self.turn()?;
        }
        if self.written + line.len() as u64 > self.half {
            let mut gap = std::mem::take(&mut self.line);
            gap.clear();
            traffic::push_gap(&mut gap, 1, Timestamp::now());
            self.write(&gap)?;
            self.line = gap;
            return Ok(());
        }
        self.write(line)
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.written += line.len() as u64;
        self.file.write_all(line)
    }

    fn begin(&mut self) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        traffic::push_began(&mut line, Timestamp::now());
        let written = self.write(&line);
        self.line = line;
        written
    }

    fn turn(&mut self) -> io::Result<()> {
        self.file.flush()?;
        fs::rename(&self.path, older(&self.path))?;
        self.file = BufWriter::new(created(&self.path)?);
        self.written = 0;
        self.begin()
    }
}

fn created(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// The file at its end, behind the end of a line.
fn reopened(path: &Path) -> io::Result<(File, u64)> {
    let mut file = File::options().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut written = file.metadata()?.len();
    if written > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            written += 1;
        }
    }
    Ok((file, written))
}

/// Why a recording cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// A file cannot be read.
    Io(PathBuf, io::Error),
    /// It does not begin as a recording does.
    Strange(PathBuf),
    /// It is of a version this program does not know.
    Foreign(PathBuf, u64),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Strange(path) => write!(f, "{} is no recording: `brownbridge record` makes one", path.display()),
            Self::Foreign(path, version) => {
                write!(f, "{} is a recording of version {version}, this program knows version 1", path.display())
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// Reads a recording from its oldest line on, one line in memory at a time; the older file is read first where there
/// is one.
pub fn read(path: &Path, mut with: impl FnMut(Entry)) -> Result<(), ReadError> {
    let before = older(path);
    let files = before.exists().then_some(before).into_iter().chain([path.to_owned()]);
    for path in files {
        read_file(&path, &mut with).map_err(|error| match error {
            Failed::Io(error) => ReadError::Io(path, error),
            Failed::Strange => ReadError::Strange(path),
            Failed::Foreign(version) => ReadError::Foreign(path, version),
        })?;
    }
    Ok(())
}

enum Failed {
    Io(io::Error),
    Strange,
    Foreign(u64),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn read_file(path: &Path, with: &mut impl FnMut(Entry)) -> Result<(), Failed> {
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let mut line = Vec::new();
    let mut first = true;
    loop {
        line.clear();
        if file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return if first { Err(Failed::Strange) } else { Ok(()) };
        }
        let entry = match line.len() as u64 {
            MAX_LINE.. => {
                file.skip_until(b'\n')?;
                Entry::Damaged
            }
            _ => traffic::parse(&line),
        };
        match entry {
            Entry::Foreign(version) => return Err(Failed::Foreign(version)),
            Entry::Began => {}
            _ if first => return Err(Failed::Strange),
            entry => with(entry),
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publish;

    fn line(number: usize, payload: &[u8]) -> Vec<u8> {
        let topic = format!("t/{number}");
        let publish =
            Publish { topic: &topic, payload, client: "c", user: None, qos: 1, retain: false, received: Timestamp(0) };
        let mut line = Vec::new();
        traffic::push_publish(&mut line, &publish);
        line
    }

    fn topics(path: &Path) -> Vec<String> {
        let mut topics = Vec::new();
        read(path, |entry| match entry {
            Entry::Publish(recorded) => topics.push(recorded.topic),
            other => topics.push(format!("{other:?}")),
        })
        .unwrap();
        topics
    }

    #[test]
    fn the_newer_half_is_there_and_never_more_than_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let mut ring = Ring::open(&path, MIN_SIZE, false).unwrap();
        let payload = vec![b'x'; 50_000];
        for number in 0..300 {
            ring.push(&line(number, &payload)).unwrap();
        }
        ring.flush().unwrap();
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        let total = size(&path) + size(&older(&path));
        assert!((MIN_SIZE / 2..=MIN_SIZE).contains(&total), "{total}");
        let kept = topics(&path);
        let first = 300 - kept.len();
        assert!(kept.len() as u64 * 50_000 >= MIN_SIZE / 2 - 100_000, "{}", kept.len());
        assert_eq!(kept, (first..300).map(|number| format!("t/{number}")).collect::<Vec<_>>());
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // One alone can be read, too.
        assert!(topics(&older(&path)).len() < kept.len());
    }

    #[test]
    fn what_fits_no_file_is_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let mut ring = Ring::open(&path, MIN_SIZE, false).unwrap();
        ring.push(&line(0, b"small")).unwrap();
        ring.push(&line(1, &vec![b'x'; 3 << 20])).unwrap();
        ring.push(&line(2, b"small")).unwrap();
        ring.flush().unwrap();
        assert_eq!(topics(&path), ["t/0", "Gap(1)", "t/2"]);
    }

    #[test]
    fn a_torn_tail_is_skipped_and_a_recording_goes_on_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let mut ring = Ring::open(&path, MIN_SIZE, false).unwrap();
        (0..3).for_each(|number| ring.push(&line(number, b"1")).unwrap());
        ring.flush().unwrap();
        drop(ring);
        let whole = fs::read(&path).unwrap();
        let last = line(2, b"1").len();
        for cut in 1..last {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let kept = topics(&path);
            let expect: &[&str] = match cut {
                1 => &["t/0", "t/1", "t/2"],
                _ => &["t/0", "t/1", "Damaged"],
            };
            assert_eq!(kept, expect, "{cut}");
        }
        assert_eq!(Ring::open(&path, MIN_SIZE, false).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        let mut ring = Ring::open(&path, MIN_SIZE, true).unwrap();
        ring.push(&line(3, b"1")).unwrap();
        ring.flush().unwrap();
        assert_eq!(topics(&path), ["t/0", "t/1", "Damaged", "t/3"]);
    }

    #[test]
    fn what_is_no_recording_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (bytes, expect) in [
            (&b""[..], "is no recording"),
            (b"[[rule]]\n", "is no recording"),
            (b"{\"brownbridge_traffic\":9}\n{}\n", "of version 9"),
            (&[0xff; 100], "is no recording"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = read(&path, |_| ()).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
        assert!(read(&dir.path().join("nothing"), |_| ()).unwrap_err().to_string().contains("cannot read"));
    }
}
