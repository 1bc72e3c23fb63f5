//! Devices whose lines stay open though nothing goes up, so that the hub reaches them at any time: they are dialled at the
//! start and after a drop, and never rest.
//!
//! `keep_open` names them. A pattern stands for the ids that are known: those of the devices table and of the folder of
//! certificates, those that an operator has approved, and those that the hub has ever let in. These are in the file
//! `let-in` of the state folder, an id a line. Who may not connect is not kept, either.
//!
//! Who has something to send goes before them. A place is taken for them where one is free, and no more of them begin
//! in a second than connects are made in one, so that who comes with a message does not wait behind a fleet. Where others
//! need places they give way, as the last ones that do, and come back when there is room. More than there are connections
//! is told.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::queue::{Device, Phase};
use super::register::Verdict;
use super::{Devices, MOST_DEVICES, Shared};
use crate::fence::Name;
use crate::hub::connection_string::is_id;

/// The name of the file in the state folder.
const FILE: &str = "let-in";

/// Which lines stay open.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Of these devices, by name and by pattern.
    pub open: Vec<Name>,
    /// Ids that the files name.
    pub known: Vec<String>,
}

impl Keep {
    fn is_for(&self, id: &str) -> bool {
        self.open.iter().any(|name| name.matches(id))
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Keeping {
    keep: Keep,
    devices: Vec<Arc<Device>>,
    let_in: LetIn,
}

/// Devices that the hub has let in.
#[derive(Debug)]
struct LetIn {
    path: PathBuf,
    known: HashSet<String>,
    /// Of those, what is not in the file.
    new: Vec<String>,
    /// A crash has torn the last line of the file.
    is_torn: bool,
}

impl LetIn {
    fn open(state: &Path) -> Self {
        let path = state.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("{} cannot be read: {error}; its devices are not kept open", path.display());
                }
                String::new()
            }
        };
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let known = lines.filter(|id| is_id(id)).take(MOST_DEVICES).map(str::to_owned).collect();
        Self { path, known, new: Vec::new(), is_torn: !text.is_empty() && !text.ends_with('\n') }
    }

    fn note(&mut self, id: &str) {
        if self.known.len() < MOST_DEVICES && !self.known.contains(id) {
            self.known.insert(id.to_owned());
            self.new.push(id.to_owned());
        }
    }
}

/// Appends a line each. A torn one is taken out first: with an end it would be an id that nobody has.
fn append(path: &Path, ids: &[String], is_torn: bool) -> io::Result<()> {
    let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
    let mut file = File::options().append(true).create(true).mode(0o600).open(path)?;
    if is_torn {
        let written = fs::read(path)?;
        let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

impl Keeping {
    /// Of nobody yet.
    pub(super) fn open(state: &Path) -> Self {
        Self { keep: Keep::default(), devices: Vec::new(), let_in: LetIn::open(state) }
    }

    /// A device has come.
    pub(super) fn meets(&mut self, device: &Arc<Device>) {
        let is_kept = self.keep.is_for(&device.id);
        device.state().is_kept = is_kept;
        if is_kept {
            self.devices.push(Arc::clone(device));
        }
    }

    /// Those that are to begin now, with `room` for so many lines and so many connects a second, and how many more have
    /// no place.
    fn to_begin(&self, now: Instant, (room, rate): (usize, usize)) -> (Vec<Arc<Device>>, usize) {
        let (mut waiting, mut begin) = (0_usize, 0_usize);
        let mut first = Vec::new();
        for device in &self.devices {
            let state = device.state();
            match state.phase {
                // One that has failed waits for a time of its own.
                Phase::InLine | Phase::Connecting if state.trouble.is_none() => begin += 1,
                Phase::Refused(again) if now < again => {}
                Phase::Idle | Phase::Refused(_) => {
                    waiting += 1;
                    if first.len() < room.min(rate) {
                        first.push(Arc::clone(device));
                    }
                }
                _ => {}
            }
        }
        first.truncate(rate.saturating_sub(begin));
        (first, waiting.saturating_sub(room))
    }
}

impl Devices {
    /// From now on these lines stay open, and no others.
    pub fn keep_open(&self, keep: Keep) {
        self.0.keep_open(keep);
        self.0.wake.notify_one();
    }
}

impl Shared {
    /// From now on these lines stay open.
    pub(super) fn keep_open(&self, keep: Keep) {
        let mut ids: Vec<String> = keep.open.iter().map(Name::to_string).filter(|id| is_literal(id)).collect();
        ids.extend(keep.known.iter().cloned());
        ids.extend(self.register.lock().approved().map(str::to_owned));
        {
            let mut keeping = self.keeping.lock();
            ids.extend(keeping.let_in.known.iter().cloned());
            keeping.keep = keep.clone();
            keeping.devices.clear();
        }
        for device in self.all().iter().filter(|device| !device.is_own()) {
            self.keeping.lock().meets(device);
        }
        for id in ids.iter().filter(|id| keep.is_for(id) && is_id(id)) {
            let allowed = self.register.lock().verdict(id) == Verdict::Allowed;
            if allowed && *id != self.options.plan.own.connection.device {
                self.device(id);
            }
        }
    }

    /// The hub has let this device in.
    pub(super) fn was_let_in(&self, device: &Device) {
        self.keeping.lock().let_in.note(&device.id);
    }

    /// Once a second: has those dialled that are not connected, and writes down who is new.
    pub(super) fn look_after_kept(self: &Arc<Self>) {
        if !self.keeping.lock().let_in.new.is_empty() {
            let shared = Arc::clone(self);
            self.lines.spawn(async move { shared.write_let_in().await });
        }
        let rate = usize::try_from(self.options.plan.connect_rate).unwrap_or(usize::MAX).max(1);
        let (begin, beyond) = self.keeping.lock().to_begin(Instant::now(), (self.free_places(), rate));
        for device in begin {
            self.want(&device);
        }
        if beyond > 0 {
            let max_connections = self.options.plan.max_connections;
            self.metrics.log_pace("keep_open", |left_out| {
                tracing::warn!(
                    max_connections,
                    left_out,
                    "{beyond} devices that `keep_open` names have no connection: all there may be are taken"
                );
            });
        }
    }

    /// Connections there may be beside those that are, or will be.
    fn free_places(&self) -> usize {
        let taken = {
            let slots = self.slots.lock();
            slots.taken + slots.line.len()
        };
        let asking = self.asking.lock();
        self.options.plan.max_connections.saturating_sub(taken + asking.now + asking.line.len())
    }

    /// Writes down who is new.
    pub(super) async fn write_let_in(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let (path, new, is_torn) = {
                let LetIn { path, new, is_torn, .. } = &mut shared.keeping.lock().let_in;
                (path.clone(), std::mem::take(new), *is_torn)
            };
            let written = if new.is_empty() { Ok(()) } else { append(&path, &new, is_torn) };
            let let_in = &mut shared.keeping.lock().let_in;
            if let Err(error) = written {
                // What of it has come to the file may be torn, and comes again.
                let_in.is_torn = true;
                let_in.new.extend(new);
                shared.metrics.log_pace("let in", |left_out| {
                    tracing::error!(left_out, "{} cannot be written: {error}; it is tried again", path.display());
                });
            } else if !new.is_empty() {
                let_in.is_torn = false;
            }
        });
        let _ = written.await;
    }
}

/// It is one id, and no pattern.
fn is_literal(name: &str) -> bool {
    !name.contains('*')
}

#[cfg(test)]
mod tests {
    use super::super::fleet::Fleet;
    use super::*;

    #[test]
    fn who_was_let_in_is_known_again_and_a_torn_line_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for (text, known, then) in [
            ("", vec![], "a\nb\n"),
            ("a\nc\n", vec!["a", "c"], "a\nc\nb\n"),
            ("a\npress-1", vec!["a"], "a\nb\n"),
            ("no id/\n\nc\n", vec!["c"], "no id/\n\nc\na\nb\n"),
        ] {
            fs::write(&path, text).unwrap();
            let mut let_in = LetIn::open(dir.path());
            let mut found: Vec<_> = let_in.known.iter().map(String::as_str).collect();
            found.sort_unstable();
            assert_eq!(found, known, "{text:?}");
            ["a", "b", "a"].into_iter().for_each(|id| let_in.note(id));
            append(&path, &let_in.new, let_in.is_torn).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), then, "{text:?}");
        }
    }

    #[test]
    fn so_many_begin_as_have_room_and_connect_in_a_second() {
        let (now, room) = (Instant::now(), 3);
        let later = now + std::time::Duration::from_secs(1);
        let (i, l, c, r) = (Phase::Idle, Phase::InLine, Phase::Connecting, Phase::Refused);
        for (phases, room, rate, begin, beyond) in [
            (vec![i, i, i], room, 10, 3, 0),
            (vec![i, i, i, i, i], room, 10, 3, 2),
            (vec![i, i, i], room, 2, 2, 0),
            (vec![l, c, i], room, 2, 0, 0),
            (vec![r(later), r(now), Phase::Connected(now), Phase::Held, Phase::Denied], room, 10, 1, 0),
            (vec![i], 0, 10, 0, 1),
        ] {
            let mut keeping = Keeping::open(Path::new("nowhere"));
            keeping.keep.open = vec![Name::new("d*")];
            let fleet = Arc::<Fleet>::default();
            for (number, phase) in (1..).zip(&phases) {
                keeping.meets(&Device::new("d", number, *phase, &fleet));
            }
            keeping.meets(&Device::new("other", 100, Phase::Idle, &fleet));
            let (first, more) = keeping.to_begin(now, (room, rate));
            assert_eq!((first.len(), more), (begin, beyond), "{phases:?} {room} {rate}");
        }
    }
}
