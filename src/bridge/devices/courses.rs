//! How it goes with the registrations of devices: what is known, who may ask again when, and whose turn it is. Without
//! sockets and clocks.
//!
//! | what is known of a device | what happens |
//! |---|---|
//! | a hub | that is used, also after a restart, as Microsoft asks of devices |
//! | a hub that has refused it for `ask_again_after` | the service is asked; while that fails, the hub is tried further |
//! | a hub that has been out of reach for so long, and whose name is gone | the same |
//! | nothing | the service is asked |
//! | the service said no | it is asked again after the pause of [`Trouble::pause`], and not before |
//!
//! All of them together ask so many times a minute, and not at all while the service throttles, or the clock of
//! this machine is wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::accounts::NoAccount;
use crate::hub::dps::{Kind, Trouble};
use crate::provision::assignments::{Assigned, Known};

/// What is to be done for a device.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This is its hub.
    Use(Arc<Assigned>),
    /// The service is to be asked.
    Ask,
    /// There is none, and it is too early to ask again.
    Wait(NoAccount),
}

/// How it goes with one registration.
#[derive(Debug, Default)]
struct Course {
    /// The device as its messages name it.
    device: Option<Box<str>>,
    known: Option<Arc<Assigned>>,
    /// Since when the hub refuses it.
    refused: Option<Instant>,
    /// Since when the network does not lead to it.
    unreachable: Option<Instant>,
    /// Registrations that failed in a row.
    failures: u32,
    /// The last of them.
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    again: Instant,
    why: NoAccount,
}

/// All registrations. They are known by their id, which is in lower case.
#[derive(Debug)]
pub(super) struct Courses {
    courses: HashMap<String, Course>,
    ask_again_after: Duration,
    /// Time from one registration to the next.
    step: Duration,
    next_turn: Option<Instant>,
    /// Until when the service throttles, or the clock is waited for.
    paused_until: Option<Instant>,
    /// It has assigned a hub to somebody since the start.
    assigns: bool,
}

impl Courses {
    pub(super) fn new(known: &Known, ask_again_after: Duration, per_minute: u32) -> Self {
        let course = |known: &Arc<Assigned>| Course { known: Some(Arc::clone(known)), ..Course::default() };
        Self {
            courses: known.iter().map(|(id, known)| (id.clone(), course(known))).collect(),
            ask_again_after,
            step: Duration::from_secs(60) / per_minute.max(1),
            next_turn: None,
            paused_until: None,
            assigns: false,
        }
    }

    /// What is to be done for `device`, whose registration this is.
    pub(super) fn next(&mut self, registration: &str, device: &str, now: Instant) -> Next {
        let course = self.courses.entry(registration.to_owned()).or_default();
        match &course.device {
            None => course.device = Some(device.into()),
            Some(other) if **other == *device => {}
            Some(other) => {
                let text = format!(
                    "the provisioning service takes {other} and {device} for one device: ids that differ in upper and \
                     lower case only are one registration. Give one of them another name in the rules; if {device} is the \
                     one that is meant, `brownbridge devices approve` it"
                );
                return Next::Wait(NoAccount::new(text));
            }
        }
        let gone = course.refused.is_some_and(|since| now.saturating_duration_since(since) >= self.ask_again_after);
        let early = course.failed.as_ref().filter(|failed| now < failed.again);
        match (&course.known, early) {
            (Some(known), early) if !gone || early.is_some() => Next::Use(Arc::clone(known)),
            (None, Some(Failed { again, why })) => {
                Next::Wait(NoAccount { pause: Some(again.saturating_duration_since(now)), ..why.clone() })
            }
            _ => Next::Ask,
        }
    }

    /// When the next registration may begin; the turn is given away by asking.
    pub(super) fn turn(&mut self, now: Instant) -> Instant {
        let at = [self.next_turn, self.paused_until].into_iter().flatten().fold(now, Instant::max);
        self.next_turn = Some(at + self.step);
        at
    }

    /// True where a turn that was given cannot be taken: the service throttles since.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// The service has told a hub; what was known before.
    pub(super) fn assigned(&mut self, registration: &str, assigned: &Arc<Assigned>) -> Option<Arc<Assigned>> {
        self.assigns = true;
        let course = self.courses.entry(registration.to_owned()).or_default();
        let before = course.known.replace(Arc::clone(assigned));
        (course.refused, course.unreachable) = (None, None);
        (course.failures, course.failed) = (0, None);
        before
    }

    /// The service has told none. What was known before stays good.
    pub(super) fn failed(&mut self, registration: &str, trouble: &Trouble, (now, chance): (Instant, f64)) -> Next {
        let of_device = match trouble.kind {
            Kind::Disabled | Kind::Failed | Kind::Profile => true,
            // A wrong scope or group key refuses everybody.
            Kind::Refused => self.assigns,
            Kind::Clock | Kind::Throttled | Kind::Unavailable | Kind::Unreachable => false,
        };
        let course = self.courses.entry(registration.to_owned()).or_default();
        let pause = trouble.pause(course.failures, chance);
        course.failures = course.failures.saturating_add(1);
        if matches!(trouble.kind, Kind::Clock | Kind::Throttled) {
            self.paused_until = self.paused_until.max(Some(now + pause));
        }
        let why = NoAccount { text: trouble.text.clone(), pause: Some(pause), is_its_own: of_device };
        course.failed = Some(Failed { again: now + pause, why: why.clone() });
        match &course.known {
            Some(known) => Next::Use(Arc::clone(known)),
            None => Next::Wait(why),
        }
    }

    pub(super) fn known(&self, registration: &str) -> Option<Arc<Assigned>> {
        self.courses.get(registration)?.known.clone()
    }

    /// Of a device without a course nothing is noted: it was never asked for.
    fn with(&mut self, registration: &str, change: impl FnOnce(&mut Course)) {
        if let Some(course) = self.courses.get_mut(registration) {
            change(course);
        }
    }

    /// The hub let the device in.
    pub(super) fn accepted(&mut self, registration: &str) {
        self.with(registration, |course| (course.refused, course.unreachable) = (None, None));
    }

    /// The hub refused the device.
    pub(super) fn refused(&mut self, registration: &str, now: Instant) {
        self.with(registration, |course| {
            course.refused.get_or_insert(now);
            course.unreachable = None;
        });
    }

    /// The network did not lead to its hub.
    pub(super) fn unreachable(&mut self, registration: &str, now: Instant) {
        self.with(registration, |course| _ = course.unreachable.get_or_insert(now));
    }

    /// A hub that has been out of reach for `ask_again_after`, once in that time: is it there any more?
    pub(super) fn lost(&mut self, registration: &str, now: Instant) -> Option<Arc<Assigned>> {
        let patience = self.ask_again_after;
        let course = self.courses.get_mut(registration)?;
        let since = course.unreachable.as_mut()?;
        if now.saturating_duration_since(*since) < patience {
            return None;
        }
        *since = now;
        course.known.clone()
    }

    /// Its hub is there no more, which is as good as one that has refused it for long.
    pub(super) fn gone(&mut self, registration: &str, now: Instant) {
        let long_ago = now.checked_sub(self.ask_again_after).unwrap_or(now);
        self.with(registration, |course| course.refused = Some(long_ago));
    }

    /// The next time the service is asked, whatever is known; and from now on the registration is that of `device`, however
    /// it was spelt before.
    pub(super) fn ask_anew(&mut self, registration: &str, device: &str, now: Instant) {
        let long_ago = now.checked_sub(self.ask_again_after);
        self.with(registration, |course| {
            course.device = Some(device.into());
            (course.failures, course.failed) = (0, None);
            course.refused = course.refused.and(long_ago).or(course.refused);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(hub: &str) -> Arc<Assigned> {
        Arc::new(Assigned { hub: hub.into(), device: "d".into(), at: String::new() })
    }

    fn courses() -> Courses {
        let known = Known::from([("known".to_owned(), assigned("old"))]);
        Courses::new(&known, Duration::from_secs(100), 60)
    }

    fn in_words(next: Next) -> String {
        match next {
            Next::Use(known) => format!("use {}", known.hub),
            Next::Ask => "ask".into(),
            Next::Wait(why) => format!("{} {:?}", if why.is_its_own { "own" } else { "all" }, why.pause.is_some()),
        }
    }

    #[test]
    fn what_is_done_for_a_device() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let trouble = |kind| Trouble::new(kind, "no".into());
        for (name, steps, expect) in [
            ("a hub that is known", vec![], "use old"),
            ("it refuses, not yet for long", vec![("refused", 950)], "use old"),
            ("it refuses for long", vec![("refused", 850)], "ask"),
            ("it refused, and then not", vec![("refused", 850), ("accepted", 0)], "use old"),
            ("refused, and the service is away", vec![("refused", 850), ("unreachable", 999)], "use old"),
            ("out of reach, not yet for long", vec![("unreachable hub", 950), ("looked up", 1_000)], "use old"),
            ("out of reach for long, and gone", vec![("unreachable hub", 850), ("looked up", 1_000)], "ask"),
            (
                "gone, and the service is away",
                vec![("unreachable hub", 850), ("looked up", 990), ("unreachable", 999)],
                "use old",
            ),
            (
                "it was out of reach, and then not",
                vec![("unreachable hub", 850), ("accepted", 0), ("looked up", 1_000)],
                "use old",
            ),
            (
                "it was out of reach, and then it refused",
                vec![("unreachable hub", 850), ("refused", 990), ("looked up", 1_000)],
                "use old",
            ),
            (
                "it is looked up once in a while",
                vec![("unreachable hub", 850), ("still there", 990), ("looked up", 1_000)],
                "use old",
            ),
            ("refused, and an operator wants it", vec![("refused", 990), ("anew", 1000)], "ask"),
            ("another hub", vec![("refused", 850), ("assigned", 0)], "use new"),
        ] {
            let mut courses = courses();
            courses.next("known", "Known", start);
            for (what, when) in steps {
                match what {
                    "refused" => courses.refused("known", at(when)),
                    "accepted" => courses.accepted("known"),
                    "unreachable hub" => courses.unreachable("known", at(when)),
                    "still there" => assert!(courses.lost("known", at(when)).is_some()),
                    "looked up" => {
                        if courses.lost("known", at(when)).is_some() {
                            courses.gone("known", at(when));
                        }
                    }
                    "anew" => courses.ask_anew("known", "Known", at(when)),
                    "assigned" => drop(courses.assigned("known", &assigned("new"))),
                    _ => drop(courses.failed("known", &trouble(Kind::Unreachable), (at(when), 0.0))),
                }
            }
            assert_eq!(in_words(courses.next("known", "Known", at(1_000))), expect, "{name}");
        }
    }

    #[test]
    fn what_a_failure_says_about_a_device() {
        let now = Instant::now();
        for (kind, somebody_was_assigned, own, pauses_all) in [
            (Kind::Disabled, false, true, false),
            (Kind::Failed, false, true, false),
            (Kind::Refused, false, false, false),
            (Kind::Refused, true, true, false),
            (Kind::Throttled, true, false, true),
            (Kind::Clock, true, false, true),
            (Kind::Unreachable, true, false, false),
        ] {
            let mut courses = courses();
            assert_eq!(courses.next("new", "new", now), Next::Ask);
            if somebody_was_assigned {
                courses.assigned("another", &assigned("h"));
            }
            let trouble = Trouble::new(kind, "no".into());
            let Next::Wait(why) = courses.failed("new", &trouble, (now, 0.0)) else { panic!("{kind:?}") };
            assert_eq!((why.is_its_own, courses.is_paused(now)), (own, pauses_all), "{kind:?}");
            let pause = why.pause.unwrap();
            assert!(matches!(courses.next("new", "new", now), Next::Wait(again) if again == why), "{kind:?}");
            assert_eq!(courses.next("new", "new", now + pause), Next::Ask, "{kind:?}");
            courses.ask_anew("new", "new", now);
            assert_eq!(courses.next("new", "new", now), Next::Ask, "{kind:?}: an operator wants it");
            assert_eq!(courses.turn(now) > now, pauses_all, "{kind:?}");
        }
    }

    #[test]
    fn registrations_come_in_a_row() {
        let (mut courses, now) = (courses(), Instant::now());
        let turns: Vec<u64> = (0..4).map(|_| courses.turn(now).duration_since(now).as_secs()).collect();
        assert_eq!(turns, [0, 1, 2, 3]);
        assert_eq!(courses.turn(now + Duration::from_secs(60)), now + Duration::from_secs(60), "nothing is saved up");
    }

    #[test]
    fn two_devices_are_not_one_registration() {
        let (mut courses, now) = (courses(), Instant::now());
        assert_eq!(courses.next("press-4", "Press-4", now), Next::Ask);
        let Next::Wait(why) = courses.next("press-4", "press-4", now) else { panic!("refused") };
        assert!(why.text.contains("takes Press-4 and press-4 for one device") && why.is_its_own, "{}", why.text);
        assert_eq!(courses.next("press-4", "Press-4", now), Next::Ask);
        // An operator says which of them is meant.
        courses.ask_anew("press-4", "press-4", now);
        assert_eq!(courses.next("press-4", "press-4", now), Next::Ask);
        assert!(matches!(courses.next("press-4", "Press-4", now), Next::Wait(_)));
    }
}
