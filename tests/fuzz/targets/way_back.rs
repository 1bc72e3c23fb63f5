//! Any text as a topic of the way back, and any bag as a command's: nothing panics, what is written is read again, and
//! what a command of the rules makes of it is a topic of its own.
#![no_main]

use std::sync::OnceLock;

use brownbridge::diag::SourceFile;
use brownbridge::hub::back::{self, Command, Downward, Upward};
use brownbridge::hub::connect::Identity;
use brownbridge::message::Timestamp;
use brownbridge::rules::{self, Commanded, Incoming, RuleSet};
use brownbridge::topic;
use libfuzzer_sys::fuzz_target;

const RULES: &str = r#"
[[command]]
device = "d{d}"
props  = { a = "{a}" }
topic  = "own/{device}/{a}/{id}/x"
ack    = { topic = "ack/{d}/{.b}" }

[[command]]
topic   = "other/{.b}"
payload = "{.c}"
"#;

fn rules() -> &'static RuleSet {
    static RULE_SET: OnceLock<RuleSet> = OnceLock::new();
    let source = || SourceFile { path: "r.toml".into(), text: RULES.into() };
    RULE_SET.get_or_init(|| rules::load(&[source()]).rules.expect("sound rules"))
}

fuzz_target!(|input: (&str, &str, &[u8])| {
    let (text, bag, payload) = input;
    let identity = Identity { hub: "h", device: "d", module: None };
    match Downward::parse(text) {
        Some(Downward::Method { name, rid }) => {
            let again = back::method(&name, rid);
            assert_eq!(Downward::parse(&again), Some(Downward::Method { name, rid }), "{again}");
        }
        Some(Downward::TwinAnswer { status, rid, version }) => {
            let again = back::twin_answer(status, rid, version);
            assert_eq!(Downward::parse(&again), Some(Downward::TwinAnswer { status, rid, version }), "{again}");
        }
        _ => {}
    }
    if let Some(up) = Upward::parse(text) {
        let _ = back::field(up.query(), "$rid");
    }
    let Ok(command) = Command::parse(bag) else { return };
    let written = command.topic(&identity);
    let Some(Downward::Command { bag, .. }) = Downward::parse(&written) else { panic!("{written}") };
    // A name or value that is empty is written as none.
    assert!(Command::parse(bag).is_ok(), "{written}");
    let incoming = Incoming {
        device: text,
        method: None,
        id: command.message_id.as_deref().unwrap_or(""),
        props: &command.properties,
        payload,
        received: Timestamp(0),
    };
    if let Commanded::Made(made) = rules().command(&incoming) {
        let (first, levels) = if made.publishes[0].topic.starts_with("own/") { ("own", 5) } else { ("other", 2) };
        for name in made.publishes.iter().map(|publish| &publish.topic) {
            assert!(topic::check_name(name).is_ok(), "{name}");
            assert_eq!(name.split('/').count(), levels, "{name}");
            assert_eq!(name.split('/').next(), Some(first), "{name}");
        }
        assert!(made.answer.is_none_or(|(name, _)| name.starts_with("ack/") && name.split('/').count() == 3));
    }
});
