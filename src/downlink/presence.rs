//! Who is there, as the bridge tells it in its own twin: few words a device, which change when something happens to the
//! device and not with each of its messages. Pure.
//!
//! ```json
//! { "counts": { "connected": 41, "quiet": 1, "refused": 0 }, "unlisted": 0,
//!   "devices": { "press-7": { "state": "quiet", "seen": "2026-11-21T15:30Z" } } }
//! ```
//!
//! Those in trouble are listed first: the refused ones by name, then the quiet ones, those seen last before the others, then
//! who is connected, by name. Where more are there than may be listed, the rest is counted.

use serde_json::{Map, Value, json};

use crate::message::{TWIN_NAME_MAX, Timestamp, push_twin_name};

/// Bytes of the list, as the hub counts them: a quarter of a twin.
const MOST_BYTES: usize = 8 << 10;
/// Bytes of what is told of a device beside its name.
const BYTES_BESIDE: usize = "state".len() + "connected".len() + "seen".len() + "2026-11-21T15:30Z".len();
/// A minute, and an hour, in milliseconds.
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The hub does not let it in, or it is held or denied.
    Refused,
    /// It was not heard of for a while.
    Quiet,
    /// It was, or its line to the hub is open.
    Connected,
}

impl State {
    const ALL: [Self; 3] = [Self::Refused, Self::Quiet, Self::Connected];

    fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Quiet => "quiet",
            Self::Connected => "connected",
        }
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub device: String,
    /// How it is.
    pub state: State,
    /// When it was heard of last.
    pub seen: Option<Timestamp>,
}

/// What is told of all devices, of which `most` are listed.
pub fn presence(mut all: Vec<Known>, most: usize) -> Value {
    let counts: Map<String, Value> = State::ALL
        .iter()
        .map(|state| (state.label().to_owned(), all.iter().filter(|one| one.state == *state).count().into()))
        .collect();
    // The others may be seen all the time, and would change places.
    let rank = |one: &Known| one.seen.filter(|_| one.state == State::Quiet).map_or(i64::MAX, |seen| -seen.0);
    all.sort_unstable_by(|a, b| (a.state, rank(a), &a.device).cmp(&(b.state, rank(b), &b.device)));
    let (mut devices, mut bytes) = (Map::new(), 0);
    for Known { device, state, seen } in all.iter().take(most) {
        let mut name = String::with_capacity(device.len());
        push_twin_name(device, &mut name);
        let larger = bytes + name.len() + BYTES_BESIDE;
        if name.is_empty() || name.len() > TWIN_NAME_MAX || larger > MOST_BYTES {
            continue;
        }
        bytes = larger;
        // Of who may go on to be seen the hour is enough.
        let step = if *state == State::Quiet { MINUTE } else { HOUR };
        let seen = seen.map(|seen| minutes(Timestamp(seen.0 - seen.0.rem_euclid(step))));
        devices.insert(name, json!({"state": state.label(), "seen": seen}));
    }
    let unlisted = all.len() - devices.len();
    json!({"counts": counts, "unlisted": unlisted, "devices": devices})
}

/// `2026-11-21T15:30Z`.
fn minutes(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{}Z", text.get(..16).unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Connected, Quiet, Refused};

    fn known(device: &str, state: State, seen: Option<i64>) -> Known {
        Known { device: device.to_owned(), state, seen: seen.map(|minutes| Timestamp(minutes * MINUTE + 59_999)) }
    }

    #[test]
    fn what_is_told() {
        let at = |text: &str| format!("1970-01-01T{text}Z");
        let all = [
            known("b", Connected, Some(61)),
            known("a", Connected, None),
            known("old", Quiet, Some(3)),
            known("press 7", Quiet, Some(75)),
            known("never", Refused, None),
            known("lately", Refused, Some(119)),
            known("long ago", Refused, Some(0)),
        ];
        let told = [
            ("lately", json!({"state": "refused", "seen": at("01:00")})),
            ("long%20ago", json!({"state": "refused", "seen": at("00:00")})),
            ("never", json!({"state": "refused", "seen": null})),
            ("press%207", json!({"state": "quiet", "seen": at("01:15")})),
            ("old", json!({"state": "quiet", "seen": at("00:03")})),
            ("a", json!({"state": "connected", "seen": null})),
            ("b", json!({"state": "connected", "seen": at("01:00")})),
        ];
        for most in 0..=all.len() + 1 {
            let listed = told.iter().take(most);
            let devices: Map<String, Value> = listed.map(|(name, told)| ((*name).to_owned(), told.clone())).collect();
            let expect = json!({
                "counts": {"connected": 2, "quiet": 2, "refused": 3},
                "unlisted": all.len() - devices.len(),
                "devices": devices,
            });
            assert_eq!(presence(all.to_vec(), most), expect, "{most}");
        }
    }

    #[test]
    fn what_is_told_has_a_limit_in_bytes() {
        for (length, expect) in [(1, 100), (128, 50), (1024, 7), (1025, 0)] {
            let all = (0..100).map(|n| known(&format!("{n:0length$}"), Quiet, Some(n))).collect();
            let told = presence(all, 100);
            let listed = told["devices"].as_object().unwrap().len();
            assert_eq!((listed, told["unlisted"].as_u64()), (expect.min(100), Some(100 - expect as u64)), "{length}");
        }
    }
}
