use super::*;

const ASSIGNING: &[u8] = br#"{"operationId":"4.op","status":"assigning"}"#;

fn reply(status: u16, retry_after: Option<u64>, body: &[u8]) -> Reply<'_> {
    Reply { status, retry_after: retry_after.map(Duration::from_secs), body }
}

/// What a step is, in one line.
fn told(step: &Step) -> String {
    match step {
        Step::Ask(Request::Register, pause) => format!("register after {} ms", pause.as_millis()),
        Step::Ask(Request::Status(operation), pause) => format!("{operation} after {} ms", pause.as_millis()),
        Step::Done(done) => format!("{} at {}: {}", done.device, done.hub, done.how()),
        Step::Failed(trouble) => format!("{}: {trouble}", trouble.kind.label()),
    }
}

#[test]
fn registration_ids() {
    let (long, longest) = ("x".repeat(129), "x".repeat(128));
    for (text, expect) in [
        ("reg-01", Ok("reg-01")),
        ("Press-4.Line_2:A-", Ok("press-4.line_2:a-")),
        (&longest, Ok(&longest)),
        ("", Err(RegistrationIdError::Empty)),
        (&long, Err(RegistrationIdError::Long(129))),
        ("a/b", Err(RegistrationIdError::Character('/'))),
        ("é", Err(RegistrationIdError::Character('é'))),
        ("a b", Err(RegistrationIdError::Character(' '))),
        ("a.", Err(RegistrationIdError::End('.'))),
        (":", Err(RegistrationIdError::End(':'))),
    ] {
        let got = RegistrationId::parse(text);
        assert_eq!(got.as_ref().map(RegistrationId::as_str).map_err(|e| *e), expect, "{text:?}");
    }
}

#[test]
fn answers_to_a_registration() {
    let assigned = |more: &str| {
        format!(
            r#"{{"operationId":"o","status":"assigned","registrationState":{{"assignedHub":"h.example","deviceId":"d"{more}}}}}"#
        )
    };
    for (status, retry_after, body, expect) in [
        (202, Some(3), String::from_utf8(ASSIGNING.to_vec()).unwrap(), "4.op after 3000 ms"),
        (202, None, String::from_utf8(ASSIGNING.to_vec()).unwrap(), "4.op after 2000 ms"),
        (202, None, "{}".into(), "unavailable: the provisioning service answered 202 and its answer makes no sense"),
        (202, None, r#"{"operationId":""}"#.into(), "unavailable: "),
        (202, Some(700), r#"{"operationId":"o"}"#.into(), "unavailable: the provisioning service has not assigned"),
        (200, None, assigned(""), "d at h.example: assigned"),
        (
            200,
            None,
            assigned(r#","substatus":"deviceDataMigrated""#),
            "d at h.example: moved here, its twin came along",
        ),
        (200, None, assigned(r#","connectionProfile":"Classic""#), "d at h.example: assigned"),
        (
            200,
            None,
            assigned(r#","connectionProfile":"MqttV5""#),
            "profile: the assigned hub wants the connection profile \"MqttV5\"",
        ),
        (200, None, assigned("").replace("h.example", "h/../x"), "failed: the provisioning service assigned"),
        (200, None, assigned("").replace("\"d\"", "\"+\""), "failed: the provisioning service assigned"),
        (200, None, r#"{"status":"assigned"}"#.into(), "unavailable: "),
        (200, None, r#"{"status":"disabled"}"#.into(), "disabled: the enrolment of this device is disabled"),
        (200, None, r#"{"status":"unassigned"}"#.into(), "failed: the provisioning service knows the device"),
        (
            200,
            None,
            r#"{"status":"failed","registrationState":{"errorCode":400209,"errorMessage":"no\nhub"}}"#.into(),
            "failed: the provisioning service could not assign a hub",
        ),
        (200, None, "<html>".into(), "unavailable: the provisioning service answered 200"),
        (
            401,
            None,
            r#"{"errorCode":401002,"trackingId":"t-1","message":"Unauthorized"}"#.into(),
            "refused: the provisioning service refused: the proof of identity is wrong",
        ),
        (
            404,
            None,
            r#"{"errorCode":404201}"#.into(),
            "refused: the provisioning service refused: there is no such ID scope",
        ),
        (403, None, String::new(), "refused: "),
        (400, None, String::new(), "refused: "),
        (409, None, String::new(), "unavailable: "),
        (429, Some(9), r#"{"errorCode":429001}"#.into(), "throttled: "),
        (500, None, String::new(), "unavailable: "),
        (503, None, "\u{0}".into(), "unavailable: "),
        (302, None, String::new(), "refused: the provisioning service refused: for a reason"),
    ] {
        let step =
            Dialogue::begin(Duration::ZERO).answered(&reply(status, retry_after, body.as_bytes()), Duration::ZERO, 0.0);
        assert!(told(&step).starts_with(expect), "{status} {body}: {}", told(&step));
        assert!(!told(&step).contains(char::is_control), "{}", told(&step));
    }
}

#[test]
fn a_whole_dialogue_keeps_to_the_limits_of_the_service() {
    let mut dialogue = Dialogue::begin(Duration::ZERO);
    let (mut now, mut asked) = (Duration::ZERO, vec![Duration::ZERO]);
    // It says 0 s; never more than five requests in ten seconds go out.
    let end = loop {
        match dialogue.answered(&reply(202, Some(0), ASSIGNING), now, 0.5) {
            Step::Ask(_, pause) => now += pause,
            end => break end,
        }
        asked.push(now);
    };
    assert!(told(&end).contains("not assigned a hub within 10 minutes"), "{}", told(&end));
    assert!(asked.len() > 200, "{}", asked.len());
    assert!(asked.windows(6).all(|six| six[5] - six[0] >= Duration::from_secs(10)), "{asked:?}");
}

#[test]
fn a_status_that_fails_for_now_is_asked_again() {
    let mut dialogue = Dialogue::begin(Duration::ZERO);
    let mut now = Duration::ZERO;
    let mut answer = |status, retry_after, body| {
        let step = dialogue.answered(&reply(status, retry_after, body), now, 1.0);
        if let Step::Ask(_, pause) = &step {
            now += *pause;
        }
        told(&step)
    };
    for (status, retry_after, body, expect) in [
        (202, Some(1), ASSIGNING, "4.op after 1000 ms"),
        (503, None, b"".as_slice(), "4.op after 6250 ms"),
        (500, None, b"", "4.op after 12500 ms"),
        (429, Some(7), b"", "4.op after 7000 ms"),
        (202, Some(3), ASSIGNING, "4.op after 3000 ms"),
        (503, Some(1), b"", "4.op after 6250 ms"),
        (503, Some(20), b"", "4.op after 20000 ms"),
        (401, None, b"", "refused: the provisioning service refused: the proof of identity is wrong"),
    ] {
        let got = answer(status, retry_after, body);
        assert!(got.starts_with(expect), "{status}: {got}");
    }
}

#[test]
fn pauses_between_registrations() {
    let seconds = |kind, retry_after: Option<u64>, failures, chance| {
        let trouble = Trouble { kind, text: String::new(), retry_after: retry_after.map(Duration::from_secs) };
        trouble.pause(failures, chance).as_secs()
    };
    for (kind, retry_after, failures, least, most) in [
        (Kind::Clock, None, 0, 10, 12),
        (Kind::Clock, None, 9, 60, 75),
        (Kind::Refused, None, 0, 300, 375),
        (Kind::Disabled, Some(1), 2, 1_200, 1_500),
        (Kind::Profile, None, 40, 3_600, 4_500),
        (Kind::Throttled, Some(9), 5, 9, 11),
        (Kind::Throttled, Some(0), 0, 5, 6),
        (Kind::Throttled, Some(100_000), 0, 3_600, 4_500),
        (Kind::Throttled, None, 0, 30, 37),
        (Kind::Unavailable, None, 0, 5, 6),
        (Kind::Unavailable, Some(1), 0, 5, 6),
        (Kind::Unavailable, Some(60), 0, 60, 75),
        (Kind::Unreachable, None, 40, 300, 375),
    ] {
        let name = format!("{kind:?} {retry_after:?} {failures}");
        assert_eq!(
            (seconds(kind, retry_after, failures, 0.0), seconds(kind, retry_after, failures, 1.0)),
            (least, most),
            "{name}"
        );
    }
}

#[test]
fn topics_of_answers() {
    for (topic, expect) in [
        ("$dps/registrations/res/202/?$rid=1&retry-after=3", Some((202, "1", Some(3)))),
        ("$dps/registrations/res/200/?$rid=a-b", Some((200, "a-b", None))),
        ("$dps/registrations/res/429/?retry-after=x&$rid=7", Some((429, "7", None))),
        ("$dps/registrations/res/200/?x=1", None),
        ("$dps/registrations/res/abc/?$rid=1", None),
        ("$dps/registrations/res/70000/?$rid=1", None),
        ("$iothub/twin/res/200/?$rid=1", None),
        ("", None),
    ] {
        let got = ReplyTopic::parse(topic).map(|r| (r.status, r.request_id, r.retry_after));
        assert_eq!(got, expect, "{topic:?}");
    }
}

#[test]
fn what_the_service_calls_an_operation_cannot_leave_its_place() {
    let registration = Registration {
        scope: "0ne00000A0A".into(),
        id: RegistrationId::parse("Reg-01").unwrap(),
        api_version: API_VERSION.into(),
        payload: Some("{\"a\":1}".into()),
    };
    let odd = Request::Status("a/../b?c&d=#\r\n".into());
    assert_eq!(
        odd.http(&registration).path,
        "/0ne00000A0A/registrations/reg-01/operations/a%2F..%2Fb%3Fc%26d%3D%23%0D%0A?api-version=2019-03-31"
    );
    assert!(odd.topic("1").ends_with("&operationId=a%2F..%2Fb%3Fc%26d%3D%23%0D%0A"));
    assert_eq!(Request::Register.http(&registration).body, r#"{"registrationId":"reg-01","payload":{"a":1}}"#);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    #[test]
    fn any_answers_end_and_pause_no_longer_than_the_patience(
        answers in proptest::collection::vec((200u16..600, proptest::option::of(0u64..100_000), ".{0,60}"), 1..40),
    ) {
        let mut dialogue = Dialogue::begin(Duration::ZERO);
        let mut now = Duration::ZERO;
        let _ = dialogue.answered(&reply(202, Some(1), ASSIGNING), now, 0.0);
        for (status, retry_after, body) in &answers {
            match dialogue.answered(&reply(*status, *retry_after, body.as_bytes()), now, 0.3) {
                Step::Ask(_, pause) => now += pause,
                _ => break,
            }
            proptest::prop_assert!(now <= PATIENCE + Duration::from_secs(10));
        }
    }
}
