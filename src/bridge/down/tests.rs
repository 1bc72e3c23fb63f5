//! What becomes of what comes down, where it would take more than a hub and a plant to bring it about.

use std::future::Future;
use std::pin::Pin;

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;

use super::*;
use crate::bridge::{Bridge, tests};
use crate::downlink::Fence;
use crate::uplink::Nowhere;

mod once;

const RULES: &str = r#"
[[command]]
name  = "waits"
props = { kind = "waits" }
topic = "plant/{device}/set"

[[command]]
name   = "stays"
props  = { kind = "stays" }
topic  = "plant/{device}/mode"
retain = true

[[command]]
name   = "reset"
method = "reset"
topic  = "plant/reset"
retain = true

[[command]]
name     = "read"
method   = "read"
topic    = "plant/read"
retain   = true
response = { topic = "plant/answer", within = "10s" }
"#;

const WAITS: &str = "devices/gw/messages/devicebound/kind=waits";
const STAYS: &str = "devices/gw/messages/devicebound/kind=stays";
const RESET: &str = "$iothub/methods/POST/reset/?$rid=1";
const READ: &str = "$iothub/methods/POST/read/?$rid=1";
const PING: &str = "$iothub/methods/POST/ping/?$rid=1";
const FLUSH: &str = "$iothub/methods/POST/flush/?$rid=1";
const NONSENSE: &str = "devices/gw/messages/other";

struct NoFiles;

impl Reload for NoFiles {
    fn reload(&self) -> Pin<Box<dyn Future<Output = (bool, Value)> + Send>> {
        Box::pin(std::future::ready((true, Value::Null)))
    }
}

/// How the world is when something comes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum World {
    Plain,
    /// The device that answers is not connected.
    Absent,
    /// The device has used up its rate for an hour.
    OverRate,
    /// As many wait as may.
    Full,
    /// `enabled = false`
    Closed,
    Fenced,
    DryRun,
    /// The audit log cannot be written.
    Unwritable,
    /// The same, and it must be.
    Required,
    /// It must be, and can.
    Written,
}

fn downlink(bridge: &Bridge, dir: &std::path::Path, world: World) -> (Downlink, watch::Sender<Arc<Terms>>) {
    let allow = vec![("other".to_owned(), vec!["#".to_owned()])];
    let terms = Terms {
        enabled: world != World::Closed,
        dry_run: world == World::DryRun,
        fence: if world == World::Fenced { Fence { allow } } else { Fence::default() },
        rate: 1_000,
        own_methods: true,
        audit_required: matches!(world, World::Required | World::Written),
        audit_payload: 0,
    };
    let (sender, terms) = watch::channel(Arc::new(terms));
    let is_gone = matches!(world, World::Unwritable | World::Required);
    let log = if is_gone { dir.join("gone") } else { dir.to_owned() };
    let settings = Settings { terms, per_device: false, shown: String::new(), state: dir.to_owned() };
    let parts = Parts {
        rules: Arc::clone(bridge.rules()),
        wanted: watch::channel(Wanted::default()).0,
        inside: if world == World::Absent { Inside::of_nobody() } else { Inside::of_one("plant/read") },
        watch: Arc::new(Watch::new().0),
        audit: Audit::new(&log, 1 << 20),
        stores: bridge.stores().clone(),
        shelves: None,
        reload: Box::new(NoFiles),
        metrics: Metrics::register(),
    };
    (Downlink::new(settings, parts), sender)
}

/// Lets something come into a world, and time pass until nothing of it can wait any more.
async fn outcome(bridge: &Bridge, world: World, topic: &str) -> (Vec<String>, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut down, _terms) = downlink(bridge, dir.path(), world);
    let mut line = Nowhere::new();
    match world {
        World::OverRate => {
            down.rates = Rates::new(1);
            assert!(down.rates.take("gw", Instant::now() + Duration::from_secs(3_600)).is_ok());
        }
        World::Full => {
            for _ in 0..1_000 {
                down.arrived(line.arrival(("gw", true), WAITS, "")).await;
            }
        }
        _ => {}
    }
    down.arrived(line.arrival(("gw", true), topic, "")).await;
    let wanted = line.said();
    if world != World::Full {
        down.due(Instant::now() + LOCK + LOOK).await;
        assert_eq!(down.desk.len(), 0, "{world:?} {topic}");
    }
    let mut told = down.parts.audit.recent();
    told.reverse();
    (wanted, told)
}

#[test]
fn each_has_its_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (bridge, _writer, _spools) = tests::bridge(dir.path(), Some("gw"), RULES);
    let bad = format!("{STAYS}&=1");
    let (ack, mut wrong) = ("acknowledged", Vec::new());
    // The last thing that is told of it, whether the hub is then told that it is over, and what it is told.
    for (world, topic, outcome_of, complete, said) in [
        (World::Plain, STAYS, "published", true, ack),
        (World::Plain, RESET, "published", true, "200"),
        (World::Plain, WAITS, "given_back", false, ""),
        (World::Plain, READ, "timeout", true, ""),
        // To be retained is no answer.
        (World::Absent, READ, "no_device", true, "404"),
        (World::Absent, RESET, "published", true, "200"),
        (World::Plain, &bad, "bad_property_bag", true, ack),
        (World::Plain, NONSENSE, "not_understood", true, ack),
        (World::OverRate, RESET, "over_rate", true, "429"),
        (World::OverRate, STAYS, "given_back", false, ""),
        (World::Full, READ, "busy", false, "503"),
        (World::Full, WAITS, "busy", false, ""),
        (World::Closed, STAYS, "closed", false, ""),
        (World::Closed, NONSENSE, "closed", false, ""),
        (World::Closed, RESET, "closed", true, "403"),
        (World::Closed, PING, "closed", true, "403"),
        (World::Fenced, STAYS, "not_allowed", true, ack),
        (World::Fenced, RESET, "not_allowed", true, "403"),
        (World::DryRun, STAYS, "dry_run", true, ack),
        (World::Unwritable, STAYS, "published", true, ack),
        (World::Required, STAYS, "unaudited", false, ""),
        (World::Required, RESET, "unaudited", true, "503"),
        (World::Required, FLUSH, "unaudited", true, "503"),
        (World::Required, PING, "answered", true, "200"),
        (World::Written, STAYS, "published", true, ack),
    ] {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (wanted, told) =
            metrics::with_local_recorder(&recorder, || runtime.block_on(outcome(&bridge, world, topic)));
        // The answer of a method has its status in its topic.
        let status =
            |said: &String| said.strip_prefix("$iothub/methods/res/").and_then(|rest| Some(rest.get(..3)?.to_owned()));
        let wanted: Vec<String> = wanted.iter().map(|said| status(said).unwrap_or_else(|| said.clone())).collect();
        let (page, last) = (recorder.handle().render(), told.last().unwrap());
        let admitted = told.iter().any(|line| line["outcome"] == "admitted");
        let is_gone = matches!(world, World::Unwritable | World::Required);
        let got = (wanted.join(" "), last["outcome"].as_str().unwrap(), &last["complete"], &last["identity"], admitted);
        let (complete, identity): (Value, Value) = (complete.into(), "gw".into());
        let is_admitted = world == World::Written || outcome_of == "unaudited";
        let expect = (said.to_owned(), outcome_of, &complete, &identity, is_admitted);
        let counted = page.contains(&format!("outcome=\"{outcome_of}\"}} 1\n"));
        let lost = page.contains("audit_lines_lost_total{reason=\"no_folder\"}");
        if got != expect || !counted || lost != is_gone {
            wrong.push(format!("{world:?} {topic}: {got:?}, counted: {counted}, lost: {lost}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_waits_meets_the_terms_of_the_moment_it_is_tried() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (bridge, _writer, _spools) = tests::bridge(dir.path(), Some("gw"), RULES);
    let open = Terms { enabled: true, ..Terms::default() };
    let fence = Fence { allow: vec![("other".to_owned(), vec!["#".to_owned()])] };
    for (terms, expect, said) in [
        (Terms { enabled: false, ..open.clone() }, "closed", vec![]),
        (Terms { fence, ..open.clone() }, "not_allowed", vec!["acknowledged"]),
        (Terms { dry_run: true, ..open.clone() }, "dry_run", vec!["acknowledged"]),
    ] {
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let (mut down, sender) = downlink(&bridge, dir.path(), World::Plain);
            let mut line = Nowhere::new();
            down.arrived(line.arrival(("gw", true), WAITS, "")).await;
            assert_eq!((down.desk.len(), down.parts.audit.recent().len()), (1, 0), "{expect}");
            sender.send_replace(Arc::new(terms));
            down.on_new_terms();
            down.due(Instant::now() + LOOK).await;
            assert_eq!((down.desk.len(), line.said()), (0, said.iter().map(ToString::to_string).collect()), "{expect}");
            assert_eq!(down.parts.audit.recent()[0]["outcome"], expect);
        });
    }
}
