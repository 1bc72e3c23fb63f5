//! `sequence_property`: a number in each hub message with which the cloud can prove that none is missing.
//!
//! The value is `<run>-<number>`. Numbers count from 1 for each device, in the order of the spool, without a gap. They
//! go on over a stop and start of the program: it leaves `<state>/sequences.json` behind and takes it away when it
//! starts. After a crash there is no such file; a new run begins, with numbers from 1. What was durable then is still
//! delivered under the old run, and what was not was never acknowledged to the plant, so a gap within a run is a
//! message that is missing, and nothing is missing between two runs.
//!
//! A message as the plant addressed it goes up as it is and has no number. Devices beyond [`MAX_DEVICES`] have none.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::message::{self, Content, HubMessage, Timestamp};
use crate::spool::{AppendError, Appender, Ticket};

/// Devices that are numbered; it bounds the memory.
const MAX_DEVICES: usize = 100_000;

/// Gives numbers to messages; see the module.
#[derive(Debug)]
pub struct Numbering {
    property: String,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Kept,
    /// The records of one publish with their numbers, where each ends, and the numbers.
    buffer: Vec<u8>,
    ends: Vec<usize>,
    given: Vec<(String, u64)>,
    text: String,
}

/// What outlives a stop.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    run: String,
    last: HashMap<String, u64>,
}

impl Numbering {
    /// Goes on where the last stop ended, or begins a new run.
    pub(super) fn open(state: &Path, property: String) -> io::Result<Self> {
        let path = state.join("sequences.json");
        let kept = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let kept = match kept {
            Some(kept) => {
                // From here on a crash must not find it.
                fs::remove_file(&path)?;
                File::open(state)?.sync_all()?;
                kept
            }
            None => Kept { run: format!("{:x}", Timestamp::now().0), last: HashMap::new() },
        };
        Ok(Self { property, path, state: Mutex::new(State { kept, ..State::default() }) })
    }

    /// Numbers the records of one publish and appends them; the numbers count only if that succeeds.
    pub(super) fn append<'r>(
        &self,
        records: impl Iterator<Item = &'r [u8]>,
        spool: &Appender,
    ) -> Result<Ticket, AppendError> {
        // Held over the append: the order of the numbers is the order of the spool.
        let mut state = self.state.lock();
        let State { kept, buffer, ends, text, given } = &mut *state;
        buffer.clear();
        ends.clear();
        given.clear();
        for record in records {
            match HubMessage::parse(record) {
                Ok(message) if message.content != Content::BagAsGiven => match number(kept, given, message.device) {
                    Some(number) => {
                        text.clear();
                        let _ = write!(text, "{}-{number}", kept.run);
                        message::push_with_property(buffer, record, &self.property, text);
                    }
                    None => buffer.extend_from_slice(record),
                },
                _ => buffer.extend_from_slice(record),
            }
            ends.push(buffer.len());
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let numbered = starts.zip(ends.iter().copied()).filter_map(|(start, end)| buffer.get(start..end));
        let ticket = spool.try_append(numbered)?;
        for (device, number) in given.drain(..) {
            kept.last.insert(device, number);
        }
        Ok(ticket)
    }

    /// Leaves the numbers behind for the next start. Nothing may be appended any more.
    pub(super) fn close(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.state.lock().kept)?;
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&new, &self.path)
    }
}

/// The next number of a device, with those given to earlier records of the same publish in mind.
fn number(kept: &Kept, given: &mut Vec<(String, u64)>, device: &str) -> Option<u64> {
    let earlier = given.iter().rev().find(|(name, _)| name == device).map(|(_, number)| *number);
    let last = earlier.or_else(|| kept.last.get(device).copied());
    if last.is_none() && kept.last.len() + given.len() >= MAX_DEVICES {
        return None;
    }
    let next = last.unwrap_or(0) + 1;
    given.push((device.to_owned(), next));
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RecordWriter;
    use crate::spool;

    fn record(device: &str) -> Vec<u8> {
        let mut record = Vec::new();
        let content = if device == "as given" { Content::BagAsGiven } else { Content::Json };
        let mut writer = RecordWriter::begin(&mut record, Timestamp(1), content, |out| {
            out.extend_from_slice(device.as_bytes());
        });
        writer.property("p", |out| out.push(b'v'));
        writer.finish(|out| out.extend_from_slice(b"{}")).unwrap();
        record
    }

    /// Appends a publish of some devices; returns the sequence properties read back, the run left out.
    async fn append(numbering: &Numbering, opened: &mut spool::Opened, devices: &[&str]) -> Vec<String> {
        let records: Vec<_> = devices.iter().map(|device| record(device)).collect();
        numbering.append(records.iter().map(Vec::as_slice), &opened.appender).unwrap();
        let mut numbers = Vec::new();
        for device in devices {
            let stored = opened.reader.next(true).await.unwrap();
            let message = HubMessage::parse(&stored.record).unwrap();
            assert_eq!((message.device, message.body, message.created), (*device, &b"{}"[..], Timestamp(1)));
            let properties: Vec<_> = message.properties().collect();
            assert_eq!(properties[0], ("p", "v"));
            let number = properties.get(1).map_or("", |(_, value)| value.split_once('-').unwrap().1);
            numbers.push(number.to_owned());
        }
        numbers
    }

    #[tokio::test]
    async fn numbers_go_on_over_a_stop_and_begin_anew_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = spool::open(spool::Options::new(dir.path().join("spool"), 16 << 20)).unwrap();
        let open = || Numbering::open(dir.path(), "seq".to_owned()).unwrap();
        let numbering = open();
        let run = numbering.state.lock().kept.run.clone();
        assert_eq!(append(&numbering, &mut opened, &["a", "b", "a", "as given"]).await, ["1", "1", "2", ""]);
        assert_eq!(append(&numbering, &mut opened, &["", "b"]).await, ["1", "2"]);
        numbering.close().unwrap();
        let numbering = open();
        assert_eq!(append(&numbering, &mut opened, &["a", "c"]).await, ["3", "1"]);
        assert_eq!(numbering.state.lock().kept.run, run);
        while Timestamp::now().0 == i64::from_str_radix(&run, 16).unwrap() {}
        let numbering = open();
        assert_eq!(append(&numbering, &mut opened, &["a"]).await, ["1"]);
        assert_ne!(numbering.state.lock().kept.run, run, "it did not close: a new run");
    }

    #[test]
    fn what_was_not_appended_takes_no_number() {
        let dir = tempfile::tempdir().unwrap();
        let opened = spool::open(spool::Options::new(dir.path().join("spool"), 16 << 20)).unwrap();
        let numbering = Numbering::open(dir.path(), "seq".to_owned()).unwrap();
        let one = record("a");
        opened.spool.close().unwrap();
        assert_eq!(numbering.append([one.as_slice()].into_iter(), &opened.appender), Err(AppendError::Closed));
        assert!(numbering.state.lock().kept.last.is_empty());
    }
}
