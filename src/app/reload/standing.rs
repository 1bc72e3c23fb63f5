//! How the files on disk and what is in use stand to each other.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::message::Timestamp;

/// What is refused, by what it is, and when something was last taken up.
#[derive(Debug)]
pub(in crate::app) struct Standing(Mutex<State>);

#[derive(Debug)]
struct State {
    refused: BTreeMap<&'static str, Refused>,
    last_success: Timestamp,
}

/// Files that are not in use as they are on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::app) struct Refused {
    pub(in crate::app) since: Timestamp,
    /// In a sentence.
    pub(in crate::app) why: String,
}

impl Standing {
    /// Everything was just read at the start.
    pub(in crate::app) fn new(now: Timestamp) -> Self {
        Self(Mutex::new(State { refused: BTreeMap::new(), last_success: now }))
    }

    pub(super) fn note(&self, what: &'static str, result: Result<(), String>) {
        let (mut state, now) = (self.0.lock(), Timestamp::now());
        match result {
            Ok(()) => {
                state.refused.remove(what);
                state.last_success = now;
            }
            Err(why) => {
                // Another fault has a time of its own.
                let same = state.refused.get(what).filter(|before| before.why == why);
                let since = same.map_or(now, |before| before.since);
                state.refused.insert(what, Refused { since, why });
            }
        }
    }

    /// True where it is what is said already.
    pub(super) fn says(&self, what: &str, why: &str) -> bool {
        self.0.lock().refused.get(what).is_some_and(|refused| refused.why == why)
    }

    /// What is refused now.
    pub(in crate::app) fn refused(&self) -> Vec<Refused> {
        self.0.lock().refused.values().cloned().collect()
    }

    /// The same in words for `/readyz`; the plant goes on, so it is a warning.
    pub(in crate::app) fn warning(&self) -> Option<String> {
        let refused = self.refused();
        let words: Vec<String> = refused.iter().map(|one| format!("{} (since {})", one.why, one.since)).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// When files were last found good.
    pub(in crate::app) fn last_success(&self) -> Timestamp {
        self.0.lock().last_success
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told_since_the_first_time_until_it_is_put_right() {
        let standing = Standing::new(Timestamp(5));
        assert_eq!((standing.warning(), standing.last_success()), (None, Timestamp(5)));
        let begin = |why: &str| {
            let begun = Refused { since: Timestamp(7), why: why.to_owned() };
            standing.0.lock().refused.insert("rules", begun);
        };
        begin("one");
        standing.note("rules", Err("one".to_owned()));
        assert_eq!(standing.refused()[0].since, Timestamp(7), "the same again");
        standing.note("rules", Err("two".to_owned()));
        let since = standing.refused()[0].since;
        assert!(since > Timestamp(7), "another one, at {since}");
        standing.note("users", Err("three".to_owned()));
        assert_eq!(standing.refused()[0], Refused { since, why: "two".to_owned() });
        assert!(standing.says("rules", "two") && !standing.says("rules", "one"));
        assert!(standing.warning().unwrap().contains("two (since"));
        assert_eq!(standing.last_success(), Timestamp(5));
        standing.note("rules", Ok(()));
        assert_eq!(standing.refused().len(), 1);
        assert!(standing.last_success() > Timestamp(5));
    }
}
