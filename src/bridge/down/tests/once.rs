//! What becomes of commands, by what is written down of them.

use std::path::Path;

use super::super::*;
use super::NoFiles;
use crate::bridge::tests::bridge;
use crate::diag::SourceFile;
use crate::downlink::Fence;
use crate::rules;
use bytes::Bytes;

/// Nobody subscribes here: what is published waits.
const RULES: &str = "[[command]]\nname = \"waits\"\nprops = { kind = \"waits\" }\ntopic = \"waits/{device}\"\nonce = true\n\
    [[command]]\nname = \"limit\"\nprops = { kind = \"speed\" }\ndecode = \"json\"\nwhen = '.speed <= 100'\n\
    topic = \"speed/{device}\"\n\
    [[command]]\nname = \"line\"\nprops = { kind = \"speed\" }\ndecode = \"json\"\nwhen = '.line == 7'\n\
    topic = \"line/{device}\"\n\
    [[command]]\nname = \"reset\"\nmethod = \"reset\"\ndecode = \"json\"\nwhen = '.sure'\ntopic = \"reset\"\n";

/// A way down with its audit log, and what it stands on.
struct Alone {
    down: Downlink,
    audit: Audit,
    _below: Box<dyn std::any::Any>,
}

impl Alone {
    /// In a folder; the audit log in another, which is gone with it.
    fn start(state: &Path) -> Self {
        let log = tempfile::tempdir().unwrap();
        let (bridge, writer, spools) = bridge(log.path(), Some("own"), "");
        let set = rules::load(&[SourceFile { path: "r.toml".into(), text: RULES.into() }]).rules.unwrap();
        let audit = Audit::new(log.path(), 1 << 20);
        let terms = Terms {
            enabled: true,
            dry_run: false,
            fence: Fence::default(),
            rate: 0,
            own_methods: false,
            audit_required: false,
            audit_payload: 0,
        };
        let terms = watch::channel(Arc::new(terms)).1;
        let settings = Settings { terms, per_device: false, shown: String::new(), state: state.to_owned() };
        let parts = Parts {
            rules: Arc::new(InUse::new(set, None)),
            wanted: watch::Sender::default(),
            inside: Inside::of_nobody(),
            watch: Arc::new(Watch::new().0),
            audit: audit.clone(),
            stores: bridge.stores().clone(),
            shelves: None,
            reload: Box::new(NoFiles),
            metrics: Metrics::register(),
        };
        let below = Box::new((bridge, writer, spools, log));
        Self { down: Downlink::new(settings, parts), audit, _below: below }
    }

    /// The hub sends it.
    async fn comes(&mut self, topic: &str, payload: &'static str) {
        let (topic, payload) = (topic.to_owned(), Bytes::from_static(payload.as_bytes()));
        self.down
            .arrived(Arrival { device: "d".to_owned(), own: true, topic, payload, line: Return::to_nobody() })
            .await;
    }

    async fn message(&mut self, kind: &str, id: &str, payload: &'static str) {
        self.comes(&format!("devices/d/messages/devicebound/%24.mid={id}&kind={kind}"), payload).await;
    }

    /// What is written down since the start, the oldest first: command, outcome and detail.
    fn written(&self) -> Vec<[String; 3]> {
        let text = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap_or("").to_owned();
        let recent = self.audit.recent();
        recent.iter().rev().map(|line| ["command", "outcome", "detail"].map(|name| text(line, name))).collect()
    }

    fn outcomes(&self) -> Vec<String> {
        self.written().into_iter().map(|[_, outcome, _]| outcome).collect()
    }
}

#[tokio::test]
async fn the_audit_log_says_why_commands_let_something_go_by() {
    let dir = tempfile::tempdir().unwrap();
    let limit = "limit: its `when` is not true: .speed <= 100";
    let (message, method) = ("devices/d/messages/devicebound/", "$iothub/methods/POST/");
    for (topic, payload, expect) in [
        (
            format!("{message}kind=speed"),
            "{\"speed\": 500, \"line\": 1}",
            [limit, "line: its `when` is not true: .line == 7"].join("; "),
        ),
        (
            format!("{message}kind=other&a=b"),
            "{}",
            "no [[command]] takes it: its properties are kind=other a=b".to_owned(),
        ),
        (message.to_owned(), "{}", "no [[command]] takes it: it has no properties".to_owned()),
        (format!("{method}reset/?$rid=1"), "{\"sure\": false}", "reset: its `when` is not true: .sure".to_owned()),
        (format!("{method}none/?$rid=2"), "{}", "no [[command]] has the method none".to_owned()),
    ] {
        let mut alone = Alone::start(dir.path());
        alone.comes(&topic, payload).await;
        assert_eq!(alone.written(), [[String::new(), "no_rule".to_owned(), expect]], "{topic}");
    }
}

/// What was written down and is given back, or finds the desk full, may be published when it comes again.
#[tokio::test]
async fn what_was_written_down_and_not_published_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    for (name, is_full, expect) in [("its time is over", false, "given_back"), ("there is no room", true, "busy")] {
        let mut alone = Alone::start(dir.path());
        alone.message("waits", "m-1", "on").await;
        let Case { key, stage, end, what: mut order } = alone.down.desk.clear().pop().unwrap();
        assert!(alone.down.note_begin(&mut order, &key) && alone.down.begun.has(&key), "{name}");
        if is_full {
            for number in 0..1_000 {
                alone.message("waits", &format!("other-{number}"), "on").await;
            }
        }
        alone.down.wait(order, key.clone(), (stage, end)).await;
        if !is_full {
            alone.down.due(end).await;
        }
        assert_eq!(alone.outcomes(), ["begun", "withdrawn", expect], "{name}");
        assert!(!alone.down.begun.has(&key), "{name}");
    }
}
