use proptest::prelude::*;
use serde_json::json;

use super::*;

const EVERY: Duration = Duration::from_secs(10);

/// An exchange with a clock.
struct Talk {
    exchange: Exchange,
    now: Instant,
}

impl Talk {
    fn new(wants_desired: bool) -> Self {
        let mut exchange = Exchange::new(0);
        exchange.want_desired(wants_desired);
        exchange.opened();
        Self { exchange, now: Instant::now() }
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn report(&mut self, change: Value) {
        self.exchange.report(change.as_object().unwrap(), EVERY, self.now);
    }

    /// What is said, as topic without `$iothub/twin/` and body.
    fn says(&mut self) -> Vec<(String, Value)> {
        let mut said = Vec::new();
        while let Some(step) = self.exchange.step(self.now, 1.0) {
            said.push(match step {
                Step::Say(ask) => {
                    let body = serde_json::from_slice(&ask.body).unwrap_or(Value::Null);
                    (ask.topic.strip_prefix("$iothub/twin/").unwrap().to_owned(), body)
                }
                Step::Unchanged(count) => ("unchanged".to_owned(), json!(count)),
            });
        }
        said
    }

    fn answer(&mut self, status: u16, rid: &str, body: Value) -> Told {
        self.exchange.answered((status, rid), body.to_string().as_bytes(), self.now, 1.0)
    }

    fn patch(&mut self, version: u64, change: Value) -> bool {
        self.exchange.desired_changed(Some(version), change.to_string().as_bytes())
    }

    fn desired(&self) -> (Option<u64>, Value) {
        let desired = self.exchange.desired();
        (desired.version, Value::Object(desired.properties.clone()))
    }
}

fn get(rid: u64) -> (String, Value) {
    (format!("GET/?$rid={rid}"), Value::Null)
}

fn reported(rid: u64, body: Value) -> (String, Value) {
    (format!("PATCH/properties/reported/?$rid={rid}"), body)
}

#[test]
fn changes_are_sent_against_what_the_hub_has_and_no_oftener_than_wanted() {
    let mut talk = Talk::new(false);
    assert_eq!(talk.says(), [], "nobody wants anything");
    talk.report(json!({"a": 1, "b": 2}));
    assert_eq!(talk.says(), [get(1)]);
    assert_eq!(
        talk.answer(200, "1", json!({"desired": {"$version": 3}, "reported": {"a": 1, "$version": 9}})),
        Told::Whole(true)
    );
    assert_eq!(talk.says(), [reported(2, json!({"b": 2}))]);
    talk.report(json!({"b": 3}));
    talk.report(json!({"b": 4, "c": null}));
    assert_eq!(talk.says(), [], "one at a time");
    assert_eq!(talk.answer(204, "7", Value::Null), Told::Stray);
    assert_eq!(talk.answer(204, "2", Value::Null), Told::Confirmed(1));
    assert_eq!(talk.says(), [], "it was sent a moment ago");
    assert_eq!(talk.exchange.next_time(talk.now), Some(talk.now + EVERY));
    talk.later(10);
    assert_eq!(talk.says(), [reported(3, json!({"b": 4}))]);
    assert_eq!(talk.answer(204, "3", Value::Null), Told::Confirmed(2));
    talk.later(10);
    talk.report(json!({"b": 4}));
    assert_eq!(talk.says(), [("unchanged".to_owned(), json!(1))]);
    assert!(!talk.exchange.is_busy());
    assert_eq!(talk.exchange.next_time(talk.now), None);
}

#[test]
fn refusals_that_may_pass_are_followed_by_another_try_and_others_are_told() {
    for (status, told, again) in [
        (429, Told::Again(429), true),
        (500, Told::Again(500), true),
        (503, Told::Again(503), true),
        (400, Told::Refused(400, 1), false),
        (413, Told::Refused(413, 1), false),
    ] {
        let mut talk = Talk::new(false);
        talk.report(json!({"a": 1}));
        talk.says();
        talk.answer(200, "1", json!({"reported": {}}));
        assert_eq!(talk.says(), [reported(2, json!({"a": 1}))]);
        talk.report(json!({"b": 1}));
        assert_eq!(talk.answer(status, "2", Value::Null), told, "{status}");
        talk.later(10);
        assert_eq!(talk.says(), [get(3)], "{status}: what the hub has is looked at");
        talk.answer(200, "3", json!({"reported": {}}));
        let expect = if again { json!({"a": 1, "b": 1}) } else { json!({"b": 1}) };
        assert_eq!(talk.says(), [reported(4, expect)], "{status}");
    }
}

#[test]
fn what_the_hub_refuses_in_one_device_does_not_cost_the_others() {
    let mut talk = Talk::new(false);
    talk.report(json!({"devices": {"a": {"x": 1}, "b": {"x": 1}}}));
    talk.report(json!({"c": 1}));
    talk.says();
    talk.answer(200, "1", json!({"reported": {}}));
    talk.says();
    assert_eq!(talk.answer(400, "2", Value::Null), Told::Again(400));
    assert_eq!(talk.says(), [get(3)]);
    talk.answer(200, "3", json!({"reported": {}}));
    let (mut said, mut ended) = (Vec::new(), 0);
    while let [(topic, body), ..] = talk.says().as_slice() {
        let rid = topic.rsplit_once("$rid=").unwrap().1;
        if topic.starts_with("GET") {
            talk.answer(200, rid, json!({"reported": {}}));
            continue;
        }
        said.push(body.to_string());
        let status = if body["devices"]["a"].is_null() { 204 } else { 400 };
        match talk.answer(status, rid, Value::Null) {
            Told::Confirmed(count) | Told::Refused(400, count) => ended += count,
            other => panic!("{other:?}"),
        }
    }
    said.sort();
    assert_eq!(said, [r#"{"c":1}"#, r#"{"devices":{"a":{"x":1}}}"#, r#"{"devices":{"b":{"x":1}}}"#]);
    assert_eq!((ended, talk.exchange.waits()), (2, 0));
}

#[test]
fn pauses_double_and_end_with_success() {
    let mut talk = Talk::new(true);
    let mut rid = 0;
    for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        rid += 1;
        assert_eq!(talk.says(), [get(rid)]);
        assert_eq!(talk.answer(429, &rid.to_string(), Value::Null), Told::Again(429));
        assert_eq!(talk.exchange.next_time(talk.now), Some(talk.now + Duration::from_secs(seconds)));
        talk.later(seconds - 1);
        assert_eq!(talk.says(), [], "{seconds}");
        talk.later(1);
    }
    talk.says();
    talk.answer(200, &(rid + 1).to_string(), json!({}));
    talk.exchange.missed();
    assert_eq!(talk.says(), [get(rid + 2)], "at once");
}

#[test]
fn silence_and_a_lost_connection_lose_nothing() {
    let mut talk = Talk::new(false);
    talk.report(json!({"a": 1}));
    talk.says();
    talk.answer(200, "1", json!({"reported": {}}));
    assert_eq!(talk.says(), [reported(2, json!({"a": 1}))]);
    talk.later(30);
    assert_eq!(talk.says(), []);
    talk.later(1);
    assert_eq!(talk.says(), [get(3)], "nobody answered: it may be made or not");
    assert_eq!(talk.answer(200, "3", json!({"reported": {}})), Told::Whole(false));
    assert_eq!(talk.says(), [reported(4, json!({"a": 1}))]);
    talk.report(json!({"b": 1}));
    talk.exchange.closed();
    assert_eq!((talk.says(), talk.exchange.waits(), talk.exchange.unconfirmed().count), (vec![], 2, 2));
    talk.exchange.opened();
    assert_eq!(talk.says(), [get(5)], "and so with every connection");
    assert_eq!(talk.answer(204, "4", Value::Null), Told::Stray, "of the connection before");
    assert_eq!(talk.answer(200, "5", json!({"reported": {"a": 1}})), Told::Whole(false));
    assert_eq!(talk.says(), [reported(6, json!({"b": 1}))]);
    assert_eq!(talk.answer(204, "6", Value::Null), Told::Confirmed(2));
}

#[test]
fn an_answer_and_a_change_that_may_have_overtaken_each_other() {
    let mut talk = Talk::new(true);
    talk.says();
    talk.answer(200, "1", json!({"reported": {"door": 0}}));
    talk.report(json!({"door": 1}));
    assert_eq!(talk.says(), [reported(2, json!({"door": 1}))]);
    talk.exchange.missed();
    assert_eq!(talk.says(), [get(3)]);
    assert_eq!(talk.answer(204, "2", Value::Null), Told::Confirmed(1));
    assert_eq!(talk.answer(200, "3", json!({"reported": {"door": 0}})), Told::Stray, "from before the change, perhaps");
    talk.later(10);
    talk.report(json!({"door": 0}));
    assert_eq!(talk.says(), [get(4)], "and no change while it is asked for");
    talk.answer(200, "4", json!({"reported": {"door": 1}}));
    assert_eq!(talk.says(), [reported(5, json!({"door": 0}))]);
}

/// What becomes of a publish to the hub, or of its answer.
#[derive(Debug, Clone, Copy)]
enum Luck {
    Good,
    /// The hub does not get it.
    NotHeard,
    /// The hub makes it, and its answer is lost.
    NotAnswered,
    /// The hub makes it, and says that it failed.
    Failed,
    /// The connection ends before the hub has it, or after.
    CutBefore,
    CutAfter,
}

/// A hub with one twin, at the other end of an exchange.
fn hub_takes(talk: &mut Talk, hub: &mut Properties, ask: &Ask, luck: Luck) {
    let rid = ask.topic.rsplit_once("$rid=").unwrap().1;
    let heard = !matches!(luck, Luck::NotHeard | Luck::CutBefore);
    let patch = serde_json::from_slice::<Value>(&ask.body).ok();
    if let Some(Value::Object(change)) = patch.as_ref().filter(|_| heard) {
        twin::merge(hub, change);
    }
    match luck {
        Luck::Good => {
            let (status, body) = if patch.is_some() { (204, Value::Null) } else { (200, json!({"reported": hub})) };
            assert_ne!(talk.answer(status, rid, body), Told::Stray);
        }
        Luck::Failed => assert_eq!(talk.answer(503, rid, Value::Null), Told::Again(503)),
        Luck::NotHeard | Luck::NotAnswered => {}
        Luck::CutBefore | Luck::CutAfter => talk.exchange.opened(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is lost on the way, in the end the hub has what was reported last.
    #[test]
    fn the_hub_has_what_was_reported_last(
        wants_desired in any::<bool>(),
        changes in prop::collection::vec((twin::arbitrary(), 0_u64..40), 1..8),
        lucks in prop::collection::vec(
            prop::sample::select(vec![
                Luck::Good, Luck::Good, Luck::NotHeard, Luck::NotAnswered, Luck::Failed, Luck::CutBefore, Luck::CutAfter,
            ]),
            0..20,
        ),
    ) {
        let mut talk = Talk::new(wants_desired);
        let (mut hub, mut expect) = (Properties::new(), Properties::new());
        let mut lucks = lucks.into_iter();
        let mut taken = |talk: &mut Talk, hub: &mut Properties| {
            while let Some(step) = talk.exchange.step(talk.now, 1.0) {
                if let Step::Say(ask) = step {
                    hub_takes(talk, hub, &ask, lucks.next().unwrap_or(Luck::Good));
                }
            }
        };
        for (change, seconds) in changes {
            talk.exchange.report(&change, EVERY, talk.now);
            twin::merge(&mut expect, &change);
            taken(&mut talk, &mut hub);
            talk.later(seconds);
            taken(&mut talk, &mut hub);
        }
        while let Some(at) = talk.exchange.next_time(talk.now) {
            talk.now = talk.now.max(at);
            taken(&mut talk, &mut hub);
        }
        prop_assert_eq!(hub, expect);
        prop_assert_eq!(talk.exchange.waits(), 0);
    }
}

#[test]
fn nothing_desired_is_applied_twice_and_nothing_is_missed() {
    let mut talk = Talk::new(true);
    assert_eq!(talk.says(), [get(1)], "with each connection");
    assert!(!talk.patch(5, json!({"a": 5, "$version": 5})), "kept until the whole is there");
    assert!(!talk.patch(6, json!({"b": 6, "$version": 6})));
    let whole = json!({"desired": {"a": 5, "x": 1, "$version": 5, "$metadata": {}}, "reported": {"$version": 1}});
    assert_eq!(talk.answer(200, "1", whole), Told::Whole(true));
    assert_eq!(talk.desired(), (Some(6), json!({"a": 5, "b": 6, "x": 1})));
    for (version, change, expect, desired) in [
        (6, json!({"b": 0}), false, json!({"a": 5, "b": 6, "x": 1})),
        (3, json!({"b": 0}), false, json!({"a": 5, "b": 6, "x": 1})),
        (7, json!({"b": null, "x": {"y": 1}}), true, json!({"a": 5, "x": {"y": 1}})),
    ] {
        assert_eq!(talk.patch(version, change), expect, "{version}");
        assert_eq!(talk.desired().1, desired, "{version}");
    }
    assert_eq!(talk.says(), []);
    assert!(!talk.patch(9, json!({"c": 9})), "there is one before it");
    assert_eq!(talk.says(), [get(2)]);
    assert_eq!(talk.answer(200, "2", json!({"desired": {"c": 9, "$version": 9}})), Told::Whole(true));
    assert_eq!(talk.desired(), (Some(9), json!({"c": 9})));
    assert!(!talk.exchange.desired_changed(Some(10), b"{nonsense"));
    assert_eq!(talk.says(), [get(3)], "what cannot be read is asked for");
}

#[test]
fn a_new_connection_asks_and_only_something_else_counts() {
    for (version, a, expect) in [(4, 1, false), (5, 1, true), (1, 1, true), (4, 2, true)] {
        let mut talk = Talk::new(true);
        let properties = json!({"a": 1}).as_object().unwrap().clone();
        talk.exchange.restore_desired(Desired { version: Some(4), properties });
        assert_eq!(talk.says(), [get(1)]);
        let whole = json!({"desired": {"a": a, "$version": version}, "reported": {}});
        assert_eq!(talk.answer(200, "1", whole.clone()), Told::Whole(expect), "{version} {a}");
        talk.exchange.opened();
        assert_eq!(talk.says(), [get(2)]);
        assert_eq!(talk.answer(200, "2", whole), Told::Whole(false), "{version} {a}");
        assert_eq!(talk.desired(), (Some(version), json!({"a": a})));
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_asked_for_again() {
    for (status, body, told) in [
        (200, json!([]), Told::Again(200)),
        (200, json!({"desired": 1}), Told::Again(200)),
        (404, Value::Null, Told::Refused(404, 0)),
    ] {
        let mut talk = Talk::new(true);
        talk.says();
        let body = if body == json!([]) { json!({"reported": 5}) } else { body };
        assert_eq!(talk.answer(status, "1", body), told);
        assert_eq!(talk.says(), []);
        talk.later(1);
        assert_eq!(talk.says(), [get(2)]);
    }
}

#[test]
fn what_is_reported_is_measured_with_what_waits() {
    let mut talk = Talk::new(false);
    let text = |length: usize| "x".repeat(length);
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        talk.report(json!({name: text(4000)}));
    }
    let fits =
        |talk: &Talk, change: Value| talk.exchange.size_with(change.as_object().unwrap()) <= twin::PROPERTIES_MAX_BYTES;
    assert!(fits(&talk, json!({"h": text(4000)})));
    assert!(fits(&talk, json!({"a": text(4096), "h": text(4000)})), "what is replaced does not count");
    assert!(!fits(&talk, json!({"h": text(4000), "i": text(4000)})));
}
