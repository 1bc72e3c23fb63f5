//! What became of a publish, or would become of it, told from the verdict of the rules.
//!
//! `tap` tells it of publishes that were settled, `replay` of recorded ones that nothing is stored of. It follows what
//! [`Bridge::offer`](super::Bridge) does; `what_is_told_is_what_is_counted` compares the two.

use std::borrow::Cow;

use super::reported::NO_TWIN;
use super::{Own, TOO_LARGE_FOR_SPOOL};
use crate::config::Unmatched;
use crate::hub::d2c;
use crate::message::{HubMessage, Presence, Publish};
use crate::rules::{self, Output, RuleIndex, RuleSet, Verdict};
use crate::watch::{Fate, Made, Treated};

/// A `$.mid` as messages have it, for their size.
const MESSAGE_ID: &str = "0123456789abcdef-1234567";

/// Rules, and what else decides about a publish.
pub struct Judge<'j> {
    /// The rules.
    pub rules: &'j RuleSet,
    /// What becomes of publishes no rule takes.
    pub unmatched: Unmatched,
    /// The identity of the uplink.
    pub own: &'j Own,
}

/// A publish that was settled, as the bridge has it at hand.
pub(super) struct Settled<'s, 'a> {
    /// The rules that were asked; none where they were not.
    pub(super) rules: Option<&'a RuleSet>,
    pub(super) publish: &'s Publish<'a>,
    /// Where it is the coming or going of a client.
    pub(super) presence: Option<&'s Presence<'a>>,
    pub(super) out: &'a Output,
    /// None where no rule was asked.
    pub(super) verdict: Option<Verdict>,
}

impl<'j> Judge<'j> {
    /// What becomes of a publish. `given` is room for what is addressed to the hub.
    pub fn publish<'a>(&self, publish: &Publish<'a>, out: &'a mut Output, given: &'a mut Vec<u8>) -> Treated<'a>
    where
        'j: 'a,
    {
        let verdict = self.own.addressed(publish.topic).is_none().then(|| self.rules.translate(publish, out));
        if verdict == Some(Verdict::Unmatched) && self.forwards(publish) && !self.rules.is_answer(publish.topic) {
            rules::forward(publish, out);
        }
        self.treated(&Settled { rules: None, publish, presence: None, out, verdict }, given)
    }

    /// What becomes of the coming or going of a client.
    pub fn presence<'a>(&self, presence: &Presence<'a>, out: &'a mut Output, given: &'a mut Vec<u8>) -> Treated<'a>
    where
        'j: 'a,
    {
        let verdict = Some(self.rules.presence(presence, out));
        let publish = &presence.as_publish();
        self.treated(&Settled { rules: None, publish, presence: Some(presence), out, verdict }, given)
    }

    /// The messages of windows that have just closed.
    pub fn closed<'a>(&self, out: &'a Output) -> Vec<Made<'a>>
    where
        'j: 'a,
    {
        out.records().filter_map(|(rule, record)| self.made_by(rule, record)).collect()
    }

    fn forwards(&self, publish: &Publish<'_>) -> bool {
        self.unmatched == Unmatched::Forward && !publish.topic.starts_with('$')
    }

    /// What became of a publish that was settled.
    pub(super) fn treated<'a>(&self, settled: &Settled<'_, 'a>, given: &'a mut Vec<u8>) -> Treated<'a>
    where
        'j: 'a,
    {
        let Settled { publish, presence, out, verdict, .. } = *settled;
        let mut made = Vec::new();
        let fate = match verdict {
            None => {
                let bag = self.own.addressed(publish.topic).unwrap_or_default();
                match self.own.addressed_record(publish, bag, given) {
                    Ok(()) => {
                        made.extend(self.made("", false, given));
                        Fate::Addressed
                    }
                    Err((reason, detail)) => Fate::Quarantined { rule: "", reason, detail: detail.into() },
                }
            }
            Some(Verdict::Unmatched) if presence.is_some() => Fate::Unmatched,
            Some(verdict) => {
                let rules = self.rules;
                let name = |rule| rules.name(rule);
                let all = || {
                    let held = out.held().filter_map(move |(rule, held)| {
                        let made = self.made_by(rule, rules::held_record(held))?;
                        Some(Made { held: true, ..made })
                    });
                    out.records().filter_map(move |(rule, record)| self.made_by(rule, record)).chain(held)
                };
                let too_large = super::any_too_large(self.own, out).map(|(rule, why)| (rule, "too_large", why.into()));
                match too_large.or_else(|| self.no_twin(out)) {
                    Some((rule, reason, detail)) => Fate::Quarantined { rule: name(rule), reason, detail },
                    None => {
                        made.extend(all());
                        self.fate(verdict, publish, out)
                    }
                }
            }
        };
        Treated { publish: *publish, presence: presence.copied(), fate, made }
    }

    /// The rule that reports where there is no twin.
    fn no_twin(&self, out: &Output) -> Option<(RuleIndex, &'static str, Cow<'static, str>)> {
        if self.own.device.is_some() {
            return None;
        }
        let (rule, _) = out.records().find(|(rule, _)| self.rules.reported(*rule).is_some())?;
        Some((rule, "no_twin", NO_TWIN.into()))
    }

    fn fate<'a>(&self, verdict: Verdict, publish: &Publish<'_>, out: &'a Output) -> Fate<'a>
    where
        'j: 'a,
    {
        match verdict {
            Verdict::Translated => Fate::Translated,
            Verdict::Dropped { rule } => {
                let held_back = out.held_back().iter().find(|(holds, _)| *holds == rule).map(|(_, why)| why);
                let (reason, detail) = match held_back {
                    Some(why) => (why.label(), why.to_string().into()),
                    None if out.let_by().contains(&rule) => ("rule", self.rules.why_let_by(rule).into()),
                    None if out.clears_retained() => {
                        ("retained_cleared", "it only takes the retained message away".into())
                    }
                    None => match out.nothing_left(rule) {
                        Some(left_out) => ("bad_quality", left_out.to_string().into()),
                        None => ("rule", "".into()),
                    },
                };
                Fate::Dropped { rule: self.rules.name(rule), reason, detail }
            }
            Verdict::Quarantined { rule, reason } => {
                let detail = out.detail().into();
                Fate::Quarantined { rule: self.rules.name(rule), reason: reason.label(), detail }
            }
            Verdict::Unmatched if self.rules.is_answer(publish.topic) => Fate::Dropped {
                rule: "",
                reason: "command_answer",
                detail: "it is for a [[command]], and no rule asks for it".into(),
            },
            Verdict::Unmatched if self.unmatched == Unmatched::Drop => Fate::Unmatched,
            Verdict::Unmatched if !self.forwards(publish) => {
                Fate::Dropped { rule: "", reason: "system_topic", detail: "no rule asks for it".into() }
            }
            Verdict::Unmatched if out.records().next().is_none() => {
                Fate::Quarantined { rule: "", reason: "too_long", detail: "the topic is too long".into() }
            }
            Verdict::Unmatched => Fate::Forwarded,
        }
    }

    fn made_by<'a>(&self, rule: RuleIndex, record: &'a [u8]) -> Option<Made<'a>>
    where
        'j: 'a,
    {
        let rules = self.rules;
        let made = self.made(rules.name(rule), rules.is_urgent(rule), record)?;
        Some(Made { reported: rules.reported(rule).is_some(), ..made })
    }

    pub(super) fn made<'a>(&self, rule: &'a str, urgent: bool, record: &'a [u8]) -> Option<Made<'a>> {
        let message = HubMessage::parse(record).ok()?;
        Some(Made { rule, urgent, held: false, reported: false, size: self.own.size_of(&message), message })
    }
}

impl Own {
    /// The bytes of a record as the hub counts them; none of what is no record.
    pub fn size(&self, record: &[u8]) -> Option<usize> {
        Some(self.size_of(&HubMessage::parse(record).ok()?))
    }

    fn size_of(&self, message: &HubMessage<'_>) -> usize {
        let sender = d2c::Sender { identity: self.identity(), gateway: true, replayed: false };
        d2c::size(&sender, message, MESSAGE_ID)
    }
}

/// What becomes of a publish whose messages no commit can hold.
pub(super) fn does_not_fit(treated: &mut Treated<'_>) {
    if matches!(treated.fate, Fate::Translated | Fate::Addressed | Fate::Forwarded) {
        treated.made.clear();
        let detail = TOO_LARGE_FOR_SPOOL.detail.into();
        treated.fate = Fate::Quarantined { rule: "", reason: TOO_LARGE_FOR_SPOOL.reason, detail };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::bridge::{Bridge, Holding, Stores};
    use crate::broker::{Ingest as _, Offer};
    use crate::control::{Feed as _, Watch};
    use crate::diag::SourceFile;
    use crate::message::{Event, Timestamp};
    use crate::metrics::Metrics;
    use crate::watch::{Filter, Sight};
    use crate::{quarantine, spool};

    const RULES: &str = "[[rule]]\nname = \"no\"\ntopic = \"no/#\"\ndrop = true\n\
        [[rule]]\nname = \"big\"\ntopic = \"a/+\"\nwhen = '$qos == 1'\ndevice = \"d\"\ncontinue = true\n\
        [[rule]]\nname = \"json\"\ntopic = \"a/json\"\ndevice = \"d\"\ndecode = \"json\"\n\
        [[rule]]\nname = \"many\"\ntopic = \"many\"\ndevice = \"d\"\ndecode = { format = \"csv\", names = [\"a\"] }\n\
        [[rule]]\nname = \"tags\"\ntopic = \"tags\"\ndevice = \"d\"\ndecode = \"kepware\"\n\
        [[rule]]\nname = \"alarm\"\ntopic = \"alarm\"\ndevice = \"d\"\npriority = \"high\"\n\
        [[rule]]\nname = \"batch\"\ntopic = \"batch\"\ndevice = \"d\"\nbatch = { max_messages = 9, max_wait = \"9s\" }\n\
        [[rule]]\nname = \"on\"\non = \"connect\"\nclient = \"asked\"\ndevice = \"{client}\"\n\
        [[rule]]\nname = \"twin\"\ntopic = \"twin\"\ndevice = \"d\"\nto = \"reported\"\n";

    /// What keeps the spools of a bridge of its own open, and the bridge.
    struct Alone {
        bridge: Bridge,
        writer: quarantine::Writer,
        _spools: ([spool::Opened; 2], spool::Spool),
    }

    fn alone(dir: &std::path::Path, rules: RuleSet, unmatched: Unmatched, own: Own) -> Alone {
        let open = |name: &str| spool::open(spool::Options::new(dir.join(name), 64 << 20)).unwrap();
        let spools = [open("spool"), open("urgent")];
        let [normal, urgent] = [&spools[0], &spools[1]].map(|spool| spool.appender.clone());
        let (held, held_spool) = Holding::over(open("held"));
        let (quarantine, writer) = quarantine::open(&dir.join("quarantine"), 16 << 20).unwrap();
        let stores = Stores { normal, urgent, held, numbering: None };
        let bridge = Bridge::new((rules, unmatched), own, stores, quarantine, Metrics::register());
        Alone { bridge, writer, _spools: (spools, held_spool) }
    }

    fn loaded() -> RuleSet {
        rules::load(&[SourceFile { path: "r.toml".into(), text: RULES.into() }]).rules.unwrap()
    }

    /// What the page counts of an outcome, which is one publish by one label.
    fn counted(page: &str) -> Vec<String> {
        let of_outcome = |line: &&str| {
            ["messages_dropped_total", "messages_quarantined_total", "publishes_translated_total"]
                .iter()
                .any(|name| line.contains(name) && !line.starts_with('#') && !line.ends_with(" 0"))
        };
        page.lines().filter(of_outcome).map(str::to_owned).collect()
    }

    /// What `tap` tells of a publish, what `replay` tells, and what is counted are one thing.
    #[tokio::test]
    async fn what_is_told_is_what_is_counted() {
        let large = vec![b'x'; 262_144];
        let rows: Vec<u8> = (0..500).flat_map(|_| "y".repeat(10_000).into_bytes().into_iter().chain([b'\n'])).collect();
        let translated = "publishes_translated_total 1";
        let quarantined = |reason: &str| format!("messages_quarantined_total{{reason=\"{reason}\"}} 1");
        let dropped = |reason: &str| format!("messages_dropped_total{{reason=\"{reason}\"}} 1");
        let (forward, drop) = (Unmatched::Forward, Unmatched::Drop);
        let base = |topic, payload| Publish {
            topic,
            payload,
            client: "c",
            user: None,
            qos: 1,
            retain: false,
            received: Timestamp(0),
        };
        for (unmatched, publish, verdict, reason, made, expect) in [
            (forward, base("a/x", &b"1"[..]), "translated", "", 1, translated.to_owned()),
            (forward, base("a/json", b"{}"), "translated", "", 2, translated.to_owned()),
            (forward, base("a/json", b"{"), "quarantined", "not_json", 1, quarantined("not_json")),
            (forward, base("alarm", b"1"), "translated", "", 1, translated.to_owned()),
            (forward, base("batch", b"1"), "translated", "", 1, translated.to_owned()),
            (forward, base("no/x", b"1"), "dropped", "rule", 0, dropped("rule")),
            (forward, Publish { qos: 0, ..base("a/x", b"1") }, "dropped", "rule", 0, dropped("rule")),
            (
                forward,
                Publish { qos: 0, retain: true, ..base("a/json", b"") },
                "dropped",
                "retained_cleared",
                0,
                dropped("retained_cleared"),
            ),
            (
                forward,
                base("tags", br#"[{"id":"a","v":1,"q":0}]"#),
                "dropped",
                "bad_quality",
                0,
                dropped("bad_quality"),
            ),
            (
                forward,
                base("tags", br#"[{"id":"a","v":1,"q":0},{"id":"b","v":1}]"#),
                "translated",
                "",
                1,
                translated.to_owned(),
            ),
            (forward, base("a/json", b""), "quarantined", "not_json", 1, quarantined("not_json")),
            (forward, base("a/x", &large), "quarantined", "too_large", 0, quarantined("too_large")),
            (forward, base("many", &rows), "quarantined", "too_large", 0, quarantined("too_large")),
            // This one is offered where the uplink is a broker.
            (forward, base("twin", b"{}"), "quarantined", "no_twin", 0, quarantined("no_twin")),
            (forward, base("else", b"1"), "unmatched", "", 1, translated.to_owned()),
            (drop, base("else", b"1"), "unmatched", "unmatched", 0, dropped("unmatched")),
            (forward, base("$SYS/x", b"1"), "dropped", "system_topic", 0, dropped("system_topic")),
            (drop, base("$SYS/x", b"1"), "unmatched", "unmatched", 0, dropped("unmatched")),
            (forward, base("devices/own/messages/events/a=b", b"1"), "addressed", "", 1, translated.to_owned()),
            (
                forward,
                base("devices/own/messages/events/a==b", b"1"),
                "quarantined",
                "bad_property_bag",
                0,
                quarantined("bad_property_bag"),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let recorder = PrometheusBuilder::new().build_recorder();
            let device = (publish.topic != "twin").then(|| "own".into());
            let own = Own { hub: "h".into(), device, module: None, mark_late: false, block: None };
            let rules = loaded();
            let (alone, offer, mut view) = metrics::with_local_recorder(&recorder, || {
                let alone = alone(dir.path(), rules.clone(), unmatched, own.clone());
                let bridge = &alone.bridge;
                let watch = Watch::Tap { filter: Filter::default(), excerpt: 100, rate: 10 };
                let view = Arc::clone(bridge.watchers()).open(watch).unwrap();
                let offer = bridge.offer(&mut bridge.scratch(), &publish);
                (alone, offer, view)
            });
            // It counts when it is stored or given up.
            if let Offer::TakenAfter(written, _) = offer {
                written.await;
            }
            let left_out =
                recorder.handle().render().contains("left_out_total{rule=\"tags\",reason=\"bad_quality\"} 1\n");
            assert_eq!(left_out, publish.topic == "tags", "{}", publish.topic);
            let mut line = Vec::new();
            assert!(view.next(&mut line).await);
            let sight: Sight = serde_json::from_slice(&line).unwrap();
            let told = (sight.verdict.as_str(), sight.reason.as_str(), sight.messages.len());
            assert_eq!(told, (verdict, reason, made), "{}", publish.topic);
            let page = recorder.handle().render();
            assert_eq!(counted(&page), [format!("brownbridge_{expect}")], "{}", publish.topic);
            let (mut out, mut given) = (Output::new(), Vec::new());
            let treated = Judge { rules: &rules, unmatched, own: &own }.publish(&publish, &mut out, &mut given);
            if publish.topic != "many" {
                assert_eq!(Sight::new(&treated, 100), sight, "as replayed");
            }
            std::mem::drop((alone.bridge, view));
            alone.writer.join();
        }
    }

    #[tokio::test]
    async fn clients_that_come_are_shown_where_a_rule_asks_and_recorded_always() {
        let dir = tempfile::tempdir().unwrap();
        let own = Own { hub: "h".into(), device: None, module: None, mark_late: false, block: None };
        let alone = alone(dir.path(), loaded(), Unmatched::Forward, own);
        let bridge = &alone.bridge;
        let open = |watch| Arc::clone(bridge.watchers()).open(watch).unwrap();
        let mut tap = open(Watch::Tap { filter: Filter::default(), excerpt: 100, rate: 10 });
        let mut record = open(Watch::Record { topic: None });
        let mut by_topic = open(Watch::Record { topic: Some("#".to_owned()) });
        for client in ["unasked", "asked"] {
            let presence = Presence { event: Event::Connect, client, address: "::1", reason: "", at: Timestamp(0) };
            let offer = bridge.presence(&mut bridge.scratch(), &presence);
            assert_eq!(offer.is_some(), client == "asked");
        }
        let publish = Publish {
            topic: "t",
            payload: b"",
            client: "c",
            user: None,
            qos: 0,
            retain: false,
            received: Timestamp(0),
        };
        bridge.offer(&mut bridge.scratch(), &publish);
        for (view, expect) in [(&mut tap, 2), (&mut record, 3), (&mut by_topic, 1)] {
            let mut lines = Vec::new();
            assert!(view.next(&mut lines).await);
            let lines = String::from_utf8(lines).unwrap();
            assert_eq!(lines.lines().count(), expect, "{lines}");
        }
        // Whoever does not look any more is not waited for, and a publish without a rule is counted all the same.
        std::mem::drop((tap, record, by_topic));
        assert!(!bridge.watchers().any());
        bridge.offer(&mut bridge.scratch(), &publish);
        assert_eq!(bridge.watchers().unmatched(false).total, 2);
        std::mem::drop(alone.bridge);
        alone.writer.join();
    }
}
