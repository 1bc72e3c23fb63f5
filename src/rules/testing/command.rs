//! Tests of commands: what comes down, and what is to be published.

use super::{TEST_TIME, Want, differences};
use crate::amount::of_len;
use crate::diag::Span;
use crate::rules::{Commanded, Incoming, Made, QuarantineReason, Reply, RuleSet, Unmade, addressee};

/// A test of a command.
#[derive(Debug, Clone)]
pub(in crate::rules) struct CommandTest {
    /// Where `command` stands.
    pub(in crate::rules) span: Span,
    pub(in crate::rules) device: String,
    pub(in crate::rules) method: Option<String>,
    pub(in crate::rules) id: String,
    pub(in crate::rules) props: Vec<(String, Option<String>)>,
    pub(in crate::rules) payload: Vec<u8>,
    /// The payload is what is desired of the device.
    pub(in crate::rules) desired: bool,
    /// What the plant publishes on the topic of the answer.
    pub(in crate::rules) answered: Option<Vec<u8>>,
    pub(in crate::rules) want: WantCommand,
    pub(in crate::rules) want_answer: WantAnswer,
}

/// What a method is to be answered.
#[derive(Debug, Clone, Default)]
pub(in crate::rules) struct WantAnswer {
    pub(in crate::rules) status: Option<(i64, Span)>,
    pub(in crate::rules) body: Option<(String, Span)>,
}

/// What a test wants of a command.
#[derive(Debug, Clone)]
pub(in crate::rules) enum WantCommand {
    /// These publishes.
    Publishes(Vec<WantPublish>),
    /// No command takes it.
    Nothing(Span),
    /// A command takes it and cannot make anything of it.
    Refused(QuarantineReason, Span),
}

/// A publish, with the place of each part that is wanted.
#[derive(Debug, Clone)]
pub(in crate::rules) struct WantPublish {
    pub(in crate::rules) span: Span,
    pub(in crate::rules) topic: Option<(String, Span)>,
    pub(in crate::rules) payload: Option<(String, Span)>,
    pub(in crate::rules) payload_hex: Option<(Vec<u8>, Span)>,
    pub(in crate::rules) qos: Option<(i64, Span)>,
    pub(in crate::rules) retain: Option<(bool, Span)>,
    /// The topic on which the answer is awaited.
    pub(in crate::rules) answer: Option<(String, Span)>,
}

/// What is wrong, with its place.
pub(super) fn run(rules: &RuleSet, test: &CommandTest) -> Vec<(Span, String)> {
    let incoming = Incoming {
        // Rule files know no bridge.toml: as on the connection that all share where it says nothing else.
        device: addressee(&test.device, test.method.is_none(), &test.props),
        method: test.method.as_deref(),
        id: &test.id,
        props: &test.props,
        payload: &test.payload,
        received: TEST_TIME,
    };
    let got = if test.desired { desired(rules, test) } else { rules.command(&incoming) };
    let mut wrong = Vec::new();
    match (&test.want, got) {
        (WantCommand::Nothing(_), Commanded::NoRule) => {}
        (WantCommand::Refused(want, _), Commanded::Refused { reason, .. }) if *want == reason => {}
        (WantCommand::Publishes(wants), Commanded::Made(made)) if wants.len() == made.publishes.len() => {
            wrong.extend(answered(test, &made));
            let answer = made.answer.as_ref().map(|(topic, _)| topic.as_str());
            for (want, got) in wants.iter().zip(&made.publishes) {
                let mut compare = |want: &Option<(String, Span)>, got: &str| {
                    if let Some((_, span)) = want.as_ref().filter(|(text, _)| text != got) {
                        wrong.push((span.clone(), format!("got \"{got}\"")));
                    }
                };
                compare(&want.topic, &got.topic);
                compare(&want.answer, answer.unwrap_or(""));
                if let Some((payload, span)) = &want.payload {
                    let differences = differences(payload, &got.payload);
                    if !differences.is_empty() {
                        wrong.push((span.clone(), differences.join("; ")));
                    }
                }
                if let Some((_, span)) = want.payload_hex.as_ref().filter(|(bytes, _)| *bytes != got.payload) {
                    wrong.push((span.clone(), format!("got {}", hex(&got.payload))));
                }
                if let Some((_, span)) = want.qos.as_ref().filter(|(qos, _)| *qos != i64::from(got.qos)) {
                    wrong.push((span.clone(), format!("got {}", got.qos)));
                }
                if let Some((_, span)) = want.retain.as_ref().filter(|(retain, _)| *retain != got.retain) {
                    wrong.push((span.clone(), format!("got {}", got.retain)));
                }
            }
        }
        (WantCommand::Publishes(wants), Commanded::Made(made)) => {
            let span = wants.get(made.publishes.len()).or(wants.last()).map_or(test.span.clone(), |w| w.span.clone());
            wrong.push((
                span,
                format!("want {}, got {}", of_len(wants.len(), "publish", "publishes"), made.publishes.len()),
            ));
        }
        (WantCommand::Nothing(span) | WantCommand::Refused(_, span), got) => wrong.push((span.clone(), said(&got))),
        (WantCommand::Publishes(_), got) => wrong.push((test.span.clone(), said(&got))),
    }
    wrong
}

/// What is wrong with the answer of a method.
fn answered(test: &CommandTest, made: &Made) -> Vec<(Span, String)> {
    let reply = match (&made.answer, &test.answered) {
        (Some((_, answer)), Some(payload)) => answer.read(payload, TEST_TIME),
        (Some(_), None) => Reply::Another,
        (None, _) => Reply::Is { status: 200, body: Vec::new() },
    };
    let (status, body, why) = match reply {
        Reply::Is { status, body } => (status, body, String::new()),
        Reply::Unreadable(why) => (502, Vec::new(), format!(": {why}")),
        Reply::Another => (504, Vec::new(), ": this is not its answer".to_owned()),
    };
    let mut wrong = Vec::new();
    if let Some((_, span)) = test.want_answer.status.as_ref().filter(|(want, _)| *want != i64::from(status)) {
        wrong.push((span.clone(), format!("got {status}{why}")));
    }
    if let Some((want, span)) = &test.want_answer.body {
        let differences = differences(want, &body);
        if !differences.is_empty() {
            wrong.push((span.clone(), format!("{}{why}", differences.join("; "))));
        }
    }
    wrong
}

/// What becomes of desired properties, as if one command made all of it.
fn desired(rules: &RuleSet, test: &CommandTest) -> Commanded {
    let properties = serde_json::from_slice(&test.payload).unwrap_or_default();
    let mut made = Made::nothing(String::new());
    let mut wishes = rules.desired((&test.device, TEST_TIME), &properties);
    wishes.retain(|wish| !wish.is_let_by());
    if wishes.is_empty() {
        return Commanded::NoRule;
    }
    for wish in wishes {
        match wish.made {
            Ok(publishes) => made.publishes.extend(publishes),
            Err((Unmade::Reason(reason), detail)) => return Commanded::Refused { command: wish.rule, reason, detail },
            Err(_) => {}
        }
        made.command = wish.rule;
    }
    Commanded::Made(made)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn said(got: &Commanded) -> String {
    match got {
        Commanded::Made(made) => {
            let topics: Vec<&str> = made.publishes.iter().map(|publish| publish.topic.as_str()).collect();
            format!("command `{}` publishes to {}", made.command, topics.join(", "))
        }
        Commanded::Refused { command, reason, detail } => {
            format!("command `{command}` refuses it as {reason}: {detail}")
        }
        Commanded::NoRule => "no command takes it".to_owned(),
    }
}

/// A test of a command wants nothing of messages.
pub(in crate::rules) fn no_messages() -> Want {
    Want::Messages(Vec::new())
}
