//! Who is there, as the bridge's own twin tells it: which devices rules made something for lately, and with per-device
//! identity how their lines are.
//!
//! When devices were heard of is kept in `<state>/presence.json` (`{"press-7": <milliseconds since 1970>}`), written now
//! and then and at the end, so that a restart does not forget who has been quiet since.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::app::reload::fence::write;
use crate::app::settings::Settings;
use crate::bridge::Seen;
use crate::bridge::devices::{Condition, Devices};
use crate::downlink::{Known, State};
use crate::message::Timestamp;

const NAME: &str = "presence.json";
/// Who was not heard of for longer is forgotten: it is not quiet, it is gone.
const GONE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is told, and of whom.
pub(super) struct Presence {
    seen: Arc<Seen>,
    /// Devices that are listed.
    pub(super) most: usize,
    /// Who was not heard of for so long is quiet.
    quiet_after: Duration,
    path: PathBuf,
    /// What the file says.
    kept: BTreeMap<String, i64>,
}

impl Presence {
    /// With what the last run knew; `None` where nothing is to be told.
    pub(super) fn open(settings: &Settings) -> Option<Self> {
        let commands = &settings.config.commands;
        let (most, quiet_after) = (commands.own_twin_presence, commands.own_twin_quiet_after);
        if most == 0 {
            return None;
        }
        let path = settings.state.join(NAME);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let kept: BTreeMap<String, i64> = serde_json::from_str(&text).unwrap_or_default();
        let known = heard_of(&kept, Timestamp::now());
        Some(Self { seen: Arc::new(Seen::new(known)), most, quiet_after, path, kept })
    }

    /// Where it is noted who was heard of.
    pub(super) fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    /// How all devices are.
    pub(super) fn now(&self, devices: Option<&Devices>, now: Timestamp) -> Vec<Known> {
        known(self.seen.all(), devices.map(Devices::conditions).unwrap_or_default(), (now, self.quiet_after))
    }

    /// Writes down who was heard of, where that is news.
    pub(super) fn keep(&mut self) {
        let all = to_keep(self.seen.all(), Timestamp::now());
        if all == self.kept {
            return;
        }
        let text = serde_json::to_string(&all).unwrap_or_default();
        match write(&self.path, &text) {
            Ok(()) => self.kept = all,
            Err(error) => {
                tracing::warn!("{} cannot be written, a restart will not know it: {error}", self.path.display());
            }
        }
    }
}

/// What the file said. A clock that was ahead must not keep somebody present.
fn heard_of(kept: &BTreeMap<String, i64>, now: Timestamp) -> impl Iterator<Item = (String, Timestamp)> {
    kept.iter().map(move |(device, at)| (device.clone(), Timestamp((*at).min(now.0))))
}

/// What the file is to say.
fn to_keep(seen: Vec<(String, Timestamp)>, now: Timestamp) -> BTreeMap<String, i64> {
    let fresh = |(_, at): &(String, Timestamp)| !is_longer_ago(*at, now, GONE);
    seen.into_iter().filter(fresh).map(|(device, at)| (device, at.0)).collect()
}

/// How devices are, by when they were heard of and by how their lines are.
fn known(
    seen: Vec<(String, Timestamp)>,
    lines: Vec<(String, Condition)>,
    (now, quiet_after): (Timestamp, Duration),
) -> Vec<Known> {
    let mut seen: HashMap<String, Timestamp> = seen.into_iter().collect();
    let state = |at: Option<Timestamp>| match at {
        Some(at) if !is_longer_ago(at, now, quiet_after) => State::Connected,
        _ => State::Quiet,
    };
    let with_line = |(device, condition): (String, Condition)| {
        let seen = seen.remove(&device);
        let state = match condition {
            Condition::Refused | Condition::Held | Condition::Denied => State::Refused,
            Condition::Connected => State::Connected,
            Condition::Connecting | Condition::Registering | Condition::Idle => state(seen),
        };
        Known { device, state, seen }
    };
    let mut all: Vec<Known> = lines.into_iter().map(with_line).collect();
    let others = seen.into_iter().filter(|(_, at)| !is_longer_ago(*at, now, GONE));
    all.extend(others.map(|(device, at)| Known { device, state: state(Some(at)), seen: Some(at) }));
    all
}

fn is_longer_ago(at: Timestamp, now: Timestamp, than: Duration) -> bool {
    u128::try_from(now.0.saturating_sub(at.0)).is_ok_and(|ago| ago > than.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_devices_are() {
        let (now, quiet_after) = (Timestamp(40 * 24 * 3_600_000), Duration::from_secs(60));
        let gone = i64::try_from(GONE.as_millis()).unwrap();
        for (name, ago, line, expect) in [
            ("heard of", Some(60_000), None, Some(State::Connected)),
            ("a while ago", Some(60_001), None, Some(State::Quiet)),
            ("by a clock that was ahead", Some(-5_000), None, Some(State::Connected)),
            ("gone", Some(gone + 1), None, None),
            ("never, and a line is open", None, Some(Condition::Connected), Some(State::Connected)),
            ("long ago, and a line is open", Some(gone + 1), Some(Condition::Connected), Some(State::Connected)),
            ("with nothing to send", Some(1), Some(Condition::Idle), Some(State::Connected)),
            ("with nothing to send for a while", Some(60_001), Some(Condition::Idle), Some(State::Quiet)),
            ("never, and nothing to send", None, Some(Condition::Idle), Some(State::Quiet)),
            ("on its way", Some(1), Some(Condition::Connecting), Some(State::Connected)),
            ("asked for", None, Some(Condition::Registering), Some(State::Quiet)),
            ("refused", Some(1), Some(Condition::Refused), Some(State::Refused)),
            ("held", Some(1), Some(Condition::Held), Some(State::Refused)),
            ("denied", None, Some(Condition::Denied), Some(State::Refused)),
        ] {
            let seen = ago.map(|ago| Timestamp(now.0 - ago));
            let lines = line.map(|line| ("d".to_owned(), line)).into_iter().collect();
            let all = known(seen.map(|at| ("d".to_owned(), at)).into_iter().collect(), lines, (now, quiet_after));
            let expect = expect.map(|state| Known { device: "d".to_owned(), state, seen });
            assert_eq!(all, Vec::from_iter(expect), "{name}");
        }
    }

    #[test]
    fn what_a_restart_knows() {
        let now = Timestamp(40 * 24 * 3_600_000);
        let gone = i64::try_from(GONE.as_millis()).unwrap();
        for (name, at, kept, known) in [
            ("a moment ago", now.0 - 1, Some(now.0 - 1), now.0 - 1),
            ("long ago", now.0 - gone, Some(now.0 - gone), now.0 - gone),
            ("gone", now.0 - gone - 1, None, now.0 - gone - 1),
            ("by a clock that was ahead", now.0 + 5, Some(now.0 + 5), now.0),
        ] {
            let file = to_keep(vec![("d".to_owned(), Timestamp(at))], now);
            assert_eq!(file.get("d").copied(), kept, "{name}");
            let of = BTreeMap::from([("d".to_owned(), at)]);
            assert_eq!(heard_of(&of, now).next(), Some(("d".to_owned(), Timestamp(known))), "{name}");
        }
    }
}
