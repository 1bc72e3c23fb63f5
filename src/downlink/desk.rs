//! Commands that are not done yet: those that wait for their device or their turn, and those that wait for an answer.
//!
//! Bounded. Each has an end of its own, at which it leaves whatever became of it: nothing stays for ever.

use std::time::Instant;

/// Commands on the desk at most.
const MOST: usize = 1_000;

/// What a command waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// To be tried at this time.
    Due(Instant),
    /// Its answer on this topic, until this time.
    Answer(String, Instant),
    /// Its answer did not come in time; it is still taken.
    Late(String),
}

/// A command on the desk.
#[derive(Debug)]
pub struct Case<T> {
    /// What makes it the same command when it comes again; empty where nothing does.
    pub key: String,
    /// What it waits for.
    pub stage: Stage,
    /// When it leaves in any case.
    pub end: Instant,
    /// What the caller knows about it.
    pub what: T,
}

/// All of them.
#[derive(Debug)]
pub struct Desk<T> {
    cases: Vec<Case<T>>,
}

impl<T> Default for Desk<T> {
    fn default() -> Self {
        Self { cases: Vec::new() }
    }
}

impl<T> Desk<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Puts one on the desk, or gives it back where that is full.
    pub fn put(&mut self, case: Case<T>) -> Result<(), Case<T>> {
        if self.cases.len() >= MOST {
            return Err(case);
        }
        self.cases.push(case);
        Ok(())
    }

    /// All of them.
    pub fn cases(&self) -> impl Iterator<Item = &Case<T>> {
        self.cases.iter()
    }

    /// Takes the one with this key.
    pub fn take(&mut self, key: &str) -> Option<Case<T>> {
        let at = self.cases.iter().position(|case| !key.is_empty() && case.key == key)?;
        Some(self.cases.remove(at))
    }

    /// Takes the oldest one that waits for an answer on this topic and takes it for its own; those in time go first.
    pub fn answered(&mut self, topic: &str, mut is_its: impl FnMut(&T) -> bool) -> Option<Case<T>> {
        let in_time = |case: &Case<T>| matches!(&case.stage, Stage::Answer(wanted, _) if wanted == topic);
        let late = |case: &Case<T>| matches!(&case.stage, Stage::Late(wanted) if wanted == topic);
        let mut cases = self.cases.iter();
        let at = cases.position(|case| in_time(case) && is_its(&case.what));
        let at = at.or_else(|| self.cases.iter().position(|case| late(case) && is_its(&case.what)))?;
        Some(self.cases.remove(at))
    }

    /// Takes the first one whose time has come.
    pub fn due(&mut self, now: Instant) -> Option<Case<T>> {
        let at = self.cases.iter().position(|case| case.time() <= now)?;
        Some(self.cases.remove(at))
    }

    /// Has all that wait to be tried tried at this time, unless their own is sooner.
    pub fn hurry(&mut self, at: Instant) {
        for case in &mut self.cases {
            if let Stage::Due(due) = &mut case.stage {
                *due = at.min(*due);
            }
        }
    }

    /// When the next time comes.
    pub fn next_time(&self) -> Option<Instant> {
        self.cases.iter().map(Case::time).min()
    }

    /// Takes all of them.
    pub fn clear(&mut self) -> Vec<Case<T>> {
        std::mem::take(&mut self.cases)
    }
}

impl<T> Case<T> {
    /// It stays at least until then: what it was given to wait for an answer is not cut short.
    pub fn stay(&mut self, until: Instant) {
        self.end = self.end.max(until);
    }

    fn time(&self) -> Instant {
        match self.stage {
            Stage::Due(at) | Stage::Answer(_, at) => at.min(self.end),
            Stage::Late(_) => self.end,
        }
    }

    /// The topic on which its answer is awaited.
    pub fn answer_topic(&self) -> Option<&str> {
        match &self.stage {
            Stage::Due(_) => None,
            Stage::Answer(topic, _) | Stage::Late(topic) => Some(topic),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_waits_for_its_own() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut desk = Desk::default();
        for (key, stage, end) in [
            ("late", Stage::Late("t".into()), 60),
            ("first", Stage::Answer("t".into(), at(10)), 60),
            ("second", Stage::Answer("t".into(), at(12)), 60),
            ("away", Stage::Due(at(1)), 60),
            ("ends", Stage::Due(at(9)), 5),
            ("", Stage::Answer("other".into(), at(30)), 60),
        ] {
            desk.put(Case { key: key.to_owned(), stage, end: at(end), what: () }).unwrap();
        }
        assert_eq!(desk.next_time(), Some(at(1)));
        let due = |desk: &mut Desk<()>, now| desk.due(at(now)).map(|case| case.key);
        assert_eq!(due(&mut desk, 0), None);
        assert_eq!(due(&mut desk, 6).as_deref(), Some("away"));
        assert_eq!(due(&mut desk, 6).as_deref(), Some("ends"), "whatever it waits for");
        let answered = |desk: &mut Desk<()>| desk.answered("t", |()| true).map(|case| case.key);
        for expect in [Some("first"), Some("second"), Some("late"), None] {
            assert_eq!(answered(&mut desk).as_deref(), expect);
        }
        assert!(desk.take("").is_none(), "what has no key is never the same");
        assert_eq!(desk.len(), 1);
    }

    #[test]
    fn what_comes_again_does_not_cut_short_what_it_waits_for() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        for (end, again, expect) in [(300, 120, 300), (60, 119, 119)] {
            let mut case = Case { key: String::new(), stage: Stage::Late("t".into()), end: at(end), what: () };
            case.stay(at(again));
            assert_eq!(case.end, at(expect));
        }
    }

    #[test]
    fn what_waits_to_be_tried_is_hurried_and_nothing_else() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        for (stage, expect) in [
            (Stage::Due(at(9)), 3),
            (Stage::Due(at(1)), 1),
            (Stage::Answer("t".into(), at(9)), 9),
            (Stage::Late("t".into()), 60),
        ] {
            let mut desk = Desk::default();
            desk.put(Case { key: String::new(), stage: stage.clone(), end: at(60), what: () }).unwrap();
            desk.hurry(at(3));
            assert_eq!(desk.next_time(), Some(at(expect)), "{stage:?}");
        }
    }

    #[test]
    fn a_full_desk_takes_nothing() {
        let now = Instant::now();
        let mut desk = Desk::default();
        let case = || Case { key: String::new(), stage: Stage::Due(now), end: now, what: () };
        for _ in 0..MOST {
            desk.put(case()).unwrap();
        }
        assert!(desk.put(case()).is_err());
        assert_eq!(desk.clear().len(), MOST);
        assert!(desk.is_empty());
    }
}
