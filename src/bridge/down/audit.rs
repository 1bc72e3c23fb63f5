//! The audit log: one line of JSON for each thing that happened to a command.
//!
//! `<state>/commands.jsonl` grows to half the size it may have and then becomes `commands.1.jsonl`, in place of the one
//! before. A line that cannot be written is counted and told in the log of the program, once, and in [`Trouble`] until one
//! can be written again, which then says how many are missing before it. Whether the command goes its way is a matter of
//! `audit` in `[commands]`: where that is `required`, a line that says `admitted` stands in the log before anything is
//! published, and nothing is where that cannot be written.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::key;
use super::once::{BEGUN, WITHDRAWN};
use crate::message::Timestamp;
use crate::metrics::audit_lost;

mod published;
mod trouble;

pub use published::publishes;
pub use trouble::Trouble;
use trouble::reason;

const NAME: &str = "commands.jsonl";
const OLD: &str = "commands.1.jsonl";
/// What is read of it at start.
const TAIL: u64 = 1 << 20;
/// Lines that are shown.
const RECENT: usize = 8;

/// What a line says about a message that may come again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Done(String),
    Begun(String),
    Withdrawn(String),
}

/// The log. A clone writes into the same.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    log: Mutex<Log>,
    /// The last lines. By themselves, for who looks at them is not to wait for the disk.
    recent: Mutex<VecDeque<Value>>,
    /// The same of who asks whether it can be written.
    trouble: Mutex<Option<Trouble>>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    old: PathBuf,
    most: u64,
    /// `None` after a failure; it is opened again with the next line.
    open: Option<(File, u64)>,
}

impl Audit {
    /// In the folder `state`, both files together no larger than `max_size`.
    pub fn new(state: &Path, max_size: u64) -> Self {
        let (path, old) = (state.join(NAME), state.join(OLD));
        let log = Mutex::new(Log { path, old, most: max_size / 2, open: None });
        Self(Arc::new(Shared { log, recent: Mutex::default(), trouble: Mutex::default() }))
    }

    /// Adds a line; false where it could not be written.
    pub fn write(&self, line: &Value) -> bool {
        self.remember(line);
        let mut log = self.0.log.lock();
        let gap = self.0.trouble.lock().as_ref().filter(|trouble| trouble.lost > 0).map(Trouble::line);
        let gap = gap.map_or(String::new(), |gap| format!("{gap}\n"));
        let written = log.try_write(&format!("{gap}{line}\n"));
        self.settle(&mut log, written, 1)
    }

    /// Sees to it that there is a log to write into, and where lines are missing that it says so.
    pub fn look(&self) -> bool {
        let mut log = self.0.log.lock();
        let gap = self.0.trouble.lock().as_ref().filter(|trouble| trouble.lost > 0).map(Trouble::line);
        let written = match gap {
            Some(gap) => log.try_write(&format!("{gap}\n")),
            None => log.try_write(""),
        };
        self.settle(&mut log, written, 0)
    }

    /// Why the log cannot be written, while that is so.
    pub fn trouble(&self) -> Option<Trouble> {
        self.0.trouble.lock().clone()
    }

    /// Takes note of what came of writing so many lines.
    fn settle(&self, log: &mut Log, written: io::Result<()>, lines: u64) -> bool {
        let mut trouble = self.0.trouble.lock();
        match written {
            Ok(()) => {
                if let Some(over) = trouble.take() {
                    tracing::info!(lost = over.lost, "the audit log {} is written again", log.path.display());
                }
                true
            }
            Err(error) => {
                log.open = None;
                let why = format!("{}: {error}", log.path.display());
                if lines > 0 {
                    audit_lost(reason(&error), lines);
                }
                if trouble.is_none() {
                    tracing::error!("the audit log cannot be written: {why}");
                }
                let known =
                    trouble.get_or_insert_with(|| Trouble { since: Timestamp::now(), why: String::new(), lost: 0 });
                (known.why, known.lost) = (why, known.lost + lines);
                false
            }
        }
    }

    fn remember(&self, line: &Value) {
        let mut line = line.clone();
        if let Some(line) = line.as_object_mut() {
            line.remove("publishes");
        }
        let mut recent = self.0.recent.lock();
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        recent.push_back(line);
    }

    /// The last few lines since the start, the newest first. No payload is in them.
    pub fn recent(&self) -> Vec<Value> {
        self.0.recent.lock().iter().rev().cloned().collect()
    }

    /// True while a line is on its way to the disk.
    #[cfg(test)]
    pub(in crate::bridge) fn is_busy(&self) -> bool {
        self.0.log.is_locked()
    }

    /// What the end of the log says about messages that may come again, oldest first.
    pub(super) fn said(&self) -> Vec<Said> {
        let log = self.0.log.lock();
        let texts = [&log.old, &log.path].map(|path| tail(path).unwrap_or_default());
        let lines = texts.iter().flat_map(|text| text.split(|byte| *byte == b'\n'));
        lines.filter_map(|line| said(&serde_json::from_slice(line).ok()?)).collect()
    }
}

impl Log {
    fn try_write(&mut self, line: &str) -> io::Result<()> {
        let (mut file, size) = match self.open.take() {
            Some(open) => open,
            None => self.file()?,
        };
        let (mut file, size) = if size + line.len() as u64 > self.most && size > 0 {
            file.flush()?;
            fs::rename(&self.path, &self.old)?;
            self.file()?
        } else {
            (file, size)
        };
        file.write_all(line.as_bytes())?;
        self.open = Some((file, size + line.len() as u64));
        Ok(())
    }

    fn file(&self) -> io::Result<(File, u64)> {
        let mut file = File::options().create(true).append(true).read(true).open(&self.path)?;
        let mut size = file.metadata()?.len();
        // A line that a crash cut off is ended, so that the next one is whole.
        if size > 0 {
            file.seek(SeekFrom::Start(size - 1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        Ok((file, size))
    }
}

/// What a line says.
fn said(line: &Value) -> Option<Said> {
    let text = |name: &str| line.get(name)?.as_str();
    let (device, id) = (text("device")?, text("id")?);
    if text("kind")? != "message" || id.is_empty() {
        return None;
    }
    let key = key(device, id);
    match (text("outcome")?, line.get("complete")?.as_bool()?) {
        ("published" | "acknowledged" | "acknowledged_late" | "duplicate", true) => Some(Said::Done(key)),
        (BEGUN, _) => Some(Said::Begun(key)),
        (WITHDRAWN, _) => Some(Said::Withdrawn(key)),
        _ => None,
    }
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(id: u32, outcome: &str, complete: bool) -> Value {
        json!({"kind": "message", "device": "d", "id": id.to_string(), "outcome": outcome, "complete": complete})
    }

    #[test]
    fn what_was_done_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::new(dir.path(), 1 << 20);
        assert!(audit.said().is_empty());
        for (id, outcome, complete) in [
            (1, "published", true),
            (2, "published", false),
            (3, "no_rule", true),
            (4, "acknowledged", true),
            (6, "begun", false),
            (6, "withdrawn", false),
        ] {
            audit.write(&line(id, outcome, complete));
        }
        drop(audit);
        let mut torn = File::options().append(true).open(dir.path().join(NAME)).unwrap();
        torn.write_all(b"{\"kind\":\"mess").unwrap();
        let audit = Audit::new(dir.path(), 1 << 20);
        audit.write(&line(5, "acknowledged_late", true));
        let key = |id: u32| format!("1 d {id}");
        let expect =
            [Said::Done(key(1)), Said::Done(key(4)), Said::Begun(key(6)), Said::Withdrawn(key(6)), Said::Done(key(5))];
        assert_eq!(audit.said(), expect);
    }

    #[test]
    fn it_does_not_outgrow_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::new(dir.path(), 4_000);
        for id in 0..1_000 {
            audit.write(&line(id, "published", true));
        }
        let sizes = [NAME, OLD].map(|name| fs::metadata(dir.path().join(name)).unwrap().len());
        assert!(sizes.iter().all(|size| (1..=2_000).contains(size)), "{sizes:?}");
        assert_eq!(audit.said().last(), Some(&Said::Done("1 d 999".to_owned())));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_said_where_it_is_missing() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        // What is in the way, and the reason it counts as.
        type Arrange = fn(&Path);
        let cases: [(&str, Arrange, Arrange); 2] = [
            ("no_folder", |_| (), |gone| fs::create_dir(gone).unwrap()),
            (
                "not_a_file",
                |gone| fs::create_dir_all(gone.join(NAME)).unwrap(),
                |gone| fs::remove_dir(gone.join(NAME)).unwrap(),
            ),
        ];
        for (why, arrange, mend) in cases {
            let dir = tempfile::tempdir().unwrap();
            let gone = dir.path().join("gone");
            arrange(&gone);
            let audit = Audit::new(&gone, 4_000);
            metrics::with_local_recorder(&recorder, || {
                assert!(!audit.look(), "{why}: before anything is lost");
                assert_eq!(audit.trouble().unwrap().lost, 0, "{why}");
                for id in 1..=2 {
                    assert!(!audit.write(&line(id, "published", true)), "{why}");
                }
                assert!(!audit.look(), "{why}");
            });
            assert_eq!(audit.trouble().unwrap().lost, 2, "{why}");
            let page = recorder.handle().render();
            assert!(page.contains(&format!("brownbridge_audit_lines_lost_total{{reason=\"{why}\"}} 2\n")), "{page}");
            mend(&gone);
            assert!(audit.write(&line(3, "published", true)), "{why}");
            assert_eq!((audit.trouble(), audit.said()), (None, vec![Said::Done("1 d 3".to_owned())]), "{why}");
            let text = fs::read_to_string(gone.join(NAME)).unwrap();
            let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
            assert_eq!((&first["outcome"], text.lines().count()), (&json!("lines_lost"), 2), "{text}");
            assert!(first["detail"].as_str().unwrap().starts_with("2 lines could not be written"), "{text}");
        }
    }

    #[test]
    fn the_gap_is_written_down_also_where_nothing_more_happens() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::new(&dir.path().join("gone"), 4_000);
        assert!(!audit.write(&line(1, "published", true)));
        fs::create_dir(dir.path().join("gone")).unwrap();
        assert!(audit.look() && audit.look());
        assert_eq!(audit.trouble(), None);
        let text = fs::read_to_string(dir.path().join("gone").join(NAME)).unwrap();
        assert_eq!(text.matches("lines_lost").count(), 1, "{text}");
    }

    #[test]
    fn payloads_stay_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::new(dir.path(), 1 << 20);
        let mut told = line(1, "published", true);
        told["publishes"] = json!([{"topic": "t", "payload": "secret"}]);
        audit.write(&told);
        assert!(audit.recent()[0].get("publishes").is_none());
        assert!(fs::read_to_string(dir.path().join(NAME)).unwrap().contains("secret"));
    }
}
