//! The messages that may be published once, and may have been: `<state>/once.jsonl`. No restart, no clock that is set, and
//! nothing that happens to other commands makes it forget one that is open as long as the hub may send it again.
//!
//! A line of JSON for each change. The whole is written anew, into a new file, with the first change after a start or a
//! failure, and where most lines say nothing any more.
//!
//! | line | meaning |
//! |---|---|
//! | `{"key":"6 press7 m-1","until":1767225600000}` | it may be published from now on; on the disk before it is |
//! | `{"key":"6 press7 m-1","done":true}` | it is over, and the hub was told so, which that may not have heard |
//! | `{"key":"6 press7 m-1"}` | it was not published after all |
//!
//! `until` is when the hub has given it up: two days after it was sent at the latest, or as the message says, and
//! `MARGIN` for clocks that differ. So many are open at one time; then those make way that it has given up, and where there
//! are none nothing more is begun. Of those that are over, of which the hub was told, as many are known: the last ones.
//!
//! After a failure the file is left alone for `RETRY`, and nothing is begun: messages that wait ask every second.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Done;
use super::audit::Said;
use crate::message::Timestamp;

const NAME: &str = "once.jsonl";
/// The longest that a hub keeps a message: two days, in milliseconds.
pub(super) const LONGEST: i64 = 2 * 86_400_000;
/// What is added to that.
const MARGIN: i64 = 86_400_000;
/// Lines that may say nothing any more, beside as many as say something.
const SLACK: usize = 100;
/// How long a file that cannot be read or written is left alone.
const RETRY: Duration = Duration::from_secs(5);

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Begun {
    path: PathBuf,
    most: usize,
    /// With the time at which the hub has given it up.
    open: HashMap<String, i64>,
    done: Done,
    /// With its lines. `None` where all is to be written anew.
    file: Option<(File, usize)>,
    /// What the file says is known.
    is_read: bool,
    /// When it could not be read or written last.
    failed: Option<Instant>,
    told: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    done: bool,
}

impl Begun {
    /// What is known in the folder `state`, of `most` messages; where there is no such file yet, what the audit log says.
    pub(super) fn open(state: &Path, most: usize, audit: &[Said]) -> Self {
        let path = state.join(NAME);
        let is_new = matches!(path.try_exists(), Ok(false));
        let (open, done) = (HashMap::new(), Done::new(most));
        let mut begun = Self { path, most, open, done, file: None, is_read: false, failed: None, told: false };
        if is_new {
            begun.take_over(audit);
        } else if let Err(error) = begun.read() {
            begun.fail(&format!("cannot be read: {error}"));
        }
        begun
    }

    fn take_over(&mut self, audit: &[Said]) {
        let until = until(None, Timestamp::now());
        for said in audit {
            match said {
                Said::Begun(key) => _ = self.open.insert(key.clone(), until),
                Said::Done(key) | Said::Withdrawn(key) => _ = self.open.remove(key),
            }
        }
        self.is_read = true;
    }

    fn read(&mut self) -> io::Result<()> {
        let mut damaged = 0;
        for line in BufReader::new(File::open(&self.path)?).split(b'\n') {
            match serde_json::from_slice(&line?) {
                Ok(Line { key, until: Some(until), .. }) => _ = self.open.insert(key.into_owned(), until),
                Ok(Line { key, done, .. }) => {
                    self.open.remove(&*key);
                    if done {
                        self.done.add(&key);
                    }
                }
                Err(_) => damaged += 1,
            }
        }
        // The last line may be torn; it was not relied on.
        if damaged > 1 {
            tracing::warn!("{damaged} lines of {} cannot be read and are left out", self.path.display());
        }
        self.is_read = true;
        Ok(())
    }

    /// True where it may have been published.
    pub(super) fn has(&self, key: &str) -> bool {
        self.open.contains_key(key)
    }

    /// True where it was, and is over.
    pub(super) fn is_done(&self, key: &str) -> bool {
        self.done.has(key)
    }

    /// It is published now. False where that cannot be kept, or is known already: then it must not be.
    pub(super) fn begin(&mut self, key: &str, expires: Option<Timestamp>, now: Timestamp) -> bool {
        if self.rests() {
            return false;
        }
        if !self.is_read
            && let Err(error) = self.read()
        {
            self.fail(&format!("cannot be read: {error}"));
            return false;
        }
        if self.has(key) || self.is_done(key) {
            return false;
        }
        if self.open.len() >= self.most {
            self.open.retain(|_, until| *until > now.0);
        }
        if self.open.len() >= self.most {
            self.tell(&format!("has {} that the hub may send again, and takes no more", self.most));
            return false;
        }
        let until = until(expires, now);
        self.open.insert(key.to_owned(), until);
        let kept = self.write(&Line { key: key.into(), until: Some(until), done: false });
        if !kept {
            self.open.remove(key);
        } else if std::mem::take(&mut self.told) {
            tracing::info!("commands with `once` are published again");
        }
        kept
    }

    /// It is over.
    pub(super) fn finished(&mut self, key: &str) {
        if self.open.remove(key).is_some() {
            self.done.add(key);
            self.write(&Line { key: key.into(), until: None, done: true });
        }
    }

    /// It was not published.
    pub(super) fn withdraw(&mut self, key: &str) {
        if self.open.remove(key).is_some() {
            self.write(&Line { key: key.into(), until: None, done: false });
        }
    }

    /// Writes a change that was made; false where it is not on the disk. One that takes back is not waited for: without
    /// it nothing is done twice.
    fn write(&mut self, line: &Line<'_>) -> bool {
        if self.rests() {
            return false;
        }
        let most = 2 * (self.open.len() + self.done.len()) + SLACK;
        let written = match self.file.take().filter(|(_, lines)| *lines < most) {
            Some((file, lines)) => add(file, line).map(|file| (file, lines + 1)),
            None => {
                let new = self.path.with_extension("jsonl.new");
                self.write_anew(&new).inspect_err(|_| _ = fs::remove_file(&new))
            }
        };
        match written {
            Ok(file) => self.file = Some(file),
            Err(error) => self.fail(&format!("cannot be written: {error}")),
        }
        self.file.is_some()
    }

    fn write_anew(&self, new: &Path) -> io::Result<(File, usize)> {
        let mut file = BufWriter::new(File::create(new)?);
        let open = self.open.iter().map(|(key, until)| Line { key: key.into(), until: Some(*until), done: false });
        let done = self.done.keys().map(|key| Line { key: key.into(), until: None, done: true });
        for line in open.chain(done) {
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_data()?;
        fs::rename(new, &self.path)?;
        self.path.parent().map(|folder| File::open(folder)?.sync_all()).transpose()?;
        Ok((file, self.open.len() + self.done.len()))
    }

    /// It failed a moment ago.
    fn rests(&self) -> bool {
        self.failed.is_some_and(|at| at.elapsed() < RETRY)
    }

    fn fail(&mut self, why: &str) {
        self.failed = Some(Instant::now());
        self.tell(why);
    }

    fn tell(&mut self, why: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::error!("{} {why}: commands with `once` are not published", self.path.display());
        }
    }
}

fn add(mut file: File, line: &Line<'_>) -> io::Result<File> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)?;
    if line.until.is_some() {
        file.sync_data()?;
    }
    Ok(file)
}

/// When a hub has given up a message that it has now.
fn until(expires: Option<Timestamp>, now: Timestamp) -> i64 {
    let longest = now.0.saturating_add(LONGEST);
    expires.map_or(longest, |expires| expires.0.min(longest)).saturating_add(MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_767_225_600_000);

    fn now() -> Timestamp {
        Timestamp::now()
    }

    /// Lets the time pass for which it is left alone; true where there was one.
    fn lapse(begun: &mut Begun) -> bool {
        begun.failed.take().is_some()
    }

    fn lines(folder: &Path) -> usize {
        fs::read_to_string(folder.join(NAME)).unwrap().lines().count()
    }

    #[test]
    fn what_is_open_outlives_all_that_is_over_and_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut begun = Begun::open(dir.path(), 20, &[]);
        for key in ["open", "withdrawn"] {
            assert!(begun.begin(key, None, now()));
        }
        begun.withdraw("withdrawn");
        for n in 0..SLACK {
            let key = n.to_string();
            assert!(begun.begin(&key, None, now()), "{n}");
            begun.finished(&key);
            assert!(!begun.begin(&key, None, now()), "it is known: {n}");
        }
        assert!(lines(dir.path()) < SLACK + 100, "what says nothing any more is removed");
        for round in 0..3 {
            let last = format!("{}", SLACK - 1);
            for (key, open, done) in
                [("open", true, false), ("withdrawn", false, false), (&last, false, true), ("0", false, false)]
            {
                assert_eq!((begun.has(key), begun.is_done(key)), (open, done), "{key} {round}");
            }
            // As a crash leaves it.
            File::options().append(true).open(dir.path().join(NAME)).unwrap().write_all(b"{\"key\":\"op").unwrap();
            begun = Begun::open(dir.path(), 20, &[Said::Begun("withdrawn".to_owned())]);
            assert!(!begun.begin("open", None, now()), "{round}");
            assert!(begun.begin(&format!("new {round}"), None, now()));
        }
    }

    #[test]
    fn no_open_one_makes_way() {
        let day = 86_400_000;
        let dir = tempfile::tempdir().unwrap();
        let mut begun = Begun::open(dir.path(), 2, &[]);
        for (key, expires, days, expect) in [
            ("a", None, 0, true),
            // A margin of a day beyond that.
            ("b", Some(1), 0, true),
            ("c", None, 0, false),
            ("c", None, 1, false),
            ("c", None, 2, true),
            ("d", None, 2, false),
            ("d", None, 3, true),
            // No hub keeps one that long.
            ("e", Some(1_000_000), 5, true),
            ("f", None, 7, true),
            ("g", None, 7, false),
            ("g", None, 8, true),
        ] {
            let now = Timestamp(NOW.0 + days * day);
            let expires = expires.map(|days| Timestamp(NOW.0 + days * day));
            assert_eq!(begun.begin(key, expires, now), expect, "{key} {days}");
            assert_eq!(begun.has(key), expect, "{key} {days}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let mut begun = Begun::open(&gone, 10, &[]);
        assert!(!begun.begin("a", None, now()) && !begun.has("a"));
        fs::create_dir(&gone).unwrap();
        assert!(!begun.begin("a", None, now()), "it is not tried for each message anew");
        assert!(lapse(&mut begun), "it failed");
        assert!(begun.begin("a", None, now()));

        // What cannot be read may know it.
        let (file, aside) = (gone.join(NAME), gone.join("aside"));
        fs::rename(&file, &aside).unwrap();
        fs::create_dir(&file).unwrap();
        let mut begun = Begun::open(&gone, 10, &[]);
        assert!(!begun.begin("b", None, now()));
        fs::remove_dir(&file).unwrap();
        fs::rename(&aside, &file).unwrap();
        assert!(lapse(&mut begun), "it failed");
        for (key, expect) in [("a", false), ("b", true)] {
            assert_eq!(begun.begin(key, None, now()), expect, "{key}");
        }
        assert!(Begun::open(&gone, 10, &[]).has("b"));

        // What was written on the way there does not fill the disk.
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        let mut begun = Begun::open(&other, 10, &[]);
        fs::create_dir(other.join(NAME)).unwrap();
        assert!(!begun.begin("a", None, now()));
        assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    }

    #[test]
    fn a_clock_that_is_set_makes_it_forget_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Begun::open(dir.path(), 10, &[]).begin("a", None, NOW));
        let ahead = Timestamp(NOW.0 + 100 * LONGEST);
        for (key, at) in [("b", ahead), ("c", NOW)] {
            // It is written anew with the first change.
            let mut begun = Begun::open(dir.path(), 10, &[]);
            assert!(begun.begin(key, None, at), "{key}");
            assert!(!begun.begin("a", None, at), "{key}");
        }
    }

    #[test]
    fn an_audit_log_without_this_file_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let said = [Said::Begun, Said::Done, Said::Withdrawn];
        let said: Vec<Said> = [(0, "a"), (0, "b"), (1, "b"), (0, "c"), (2, "c"), (0, "d"), (2, "d"), (0, "d")]
            .map(|(what, key): (usize, &str)| said[what](key.to_owned()))
            .into();
        let begun = Begun::open(dir.path(), 10, &said);
        for (key, expect) in [("a", true), ("b", false), ("c", false), ("d", true)] {
            assert_eq!(begun.has(key), expect, "{key}");
        }
    }
}
