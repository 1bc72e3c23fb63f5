//! The methods of the bridge itself.
//!
//! | method | what it does |
//! |---|---|
//! | `ping` | version and time |
//! | `status` | what waits, and how the bridge is doing |
//! | `get-config` | bridge.toml as it was at the start, without its secrets, what of `[commands]` is in force, and which rules are in use |
//! | `reload` | has all files looked at as SIGHUP does: 200 with what is in use, 409 with what is refused and why |
//! | `flush` | closes open windows, and waits until what waited when it was called has left, or for `within` seconds |
//!
//! The last two take their time. They are served beside the loop, a few at once, and end by themselves.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Downlink, Kind, Order};
use crate::bridge::{InUse, Stores};
use crate::downlink::Terms;
use crate::hub::back;
use crate::message::Timestamp;
use crate::shelf::Shelves;

/// Of those that take their time, so many at once.
const MOST: usize = 4;
/// A hub waits 30 seconds where the caller says nothing else ("Understand and invoke direct methods").
const PATIENCE: Duration = Duration::from_secs(25);
/// And five minutes at most.
const WITHIN_MAX: u64 = 295;
/// How often it is looked whether all has left.
const LOOK: Duration = Duration::from_millis(20);
/// What is told of the findings of one kind of files: some of them fit into an answer of 128 KB.
const FINDINGS_MAX: usize = 16 * 1024;

/// Has all files looked at that may change.
pub trait Reload: Send + Sync {
    /// Returns when each is in use or refused: true where none is refused, and what is to be told.
    fn reload(&self) -> Pin<Box<dyn Future<Output = (bool, Value)> + Send>>;
}

/// A method of the bridge itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Ping,
    Status,
    GetConfig,
    Reload,
    Flush,
}

impl Own {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ping" => Self::Ping,
            "status" => Self::Status,
            "get-config" => Self::GetConfig,
            "reload" => Self::Reload,
            "flush" => Self::Flush,
            _ => return None,
        })
    }
}

/// True where a method of this name is one of the bridge itself.
pub fn is_own_method(name: &str) -> bool {
    Own::named(name).is_some()
}

/// The end of one that took its time: which it was, and its answer.
pub(super) type Ended = (u64, (i32, Value));

impl Downlink {
    /// Serves a method of the bridge itself.
    pub(super) async fn own_method(&mut self, own: Own, payload: &[u8], mut order: Order) {
        let answer = match own {
            Own::Ping => json!({"version": env!("CARGO_PKG_VERSION"), "time": Timestamp::now().to_string()}),
            Own::Status => self.state(),
            Own::GetConfig => json!({
                "version": env!("CARGO_PKG_VERSION"),
                "bridge.toml": self.settings.shown,
                "rules": self.parts.rules.rules().hash(),
                "commands": self.in_force(),
            }),
            Own::Reload | Own::Flush if !self.admit(&mut order) => return self.unaudited(order, "").await,
            Own::Reload | Own::Flush => match self.begin(own, payload, order.number) {
                Ok(()) => {
                    self.own.insert(order.number, order);
                    return;
                }
                Err((status, error)) => return self.own_answer(&order, (status, json!({"error": error}))).await,
            },
        };
        self.own_answer(&order, (200, answer)).await;
    }

    /// What of `[commands]` may have changed since the start.
    fn in_force(&self) -> Value {
        let terms = self.terms();
        let Terms { enabled, dry_run, fence, rate, own_methods, .. } = &*terms;
        let allow: serde_json::Map<_, _> = fence.allow.iter().map(|(device, to)| (device.clone(), json!(to))).collect();
        json!({"enabled": enabled, "dry_run": dry_run, "rate": rate, "own_methods": own_methods, "allow": allow})
    }

    fn state(&self) -> Value {
        let stats = self.parts.stores.stats();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "spool": {"waiting": stats.waiting, "late": stats.late, "bytes": stats.disk_bytes, "full": stats.full},
            "commands_waiting": self.desk.len(),
            "dry_run": self.terms().dry_run,
        })
    }

    /// Begins one that takes its time.
    fn begin(&mut self, own: Own, payload: &[u8], number: u64) -> Result<(), (i32, String)> {
        if self.jobs.len() >= MOST {
            return Err((503, format!("{MOST} such calls are being served")));
        }
        if own == Own::Flush {
            let within = within(payload).map_err(|error| (400, error))?;
            let (rules, stores) = (self.parts.rules.clone(), self.parts.stores.clone());
            let shelves = self.parts.shelves.clone();
            self.jobs.spawn(async move {
                let told = flush(&rules, &stores, within).await;
                (number, (200, with_shelves(told, shelves.as_deref())))
            });
            return Ok(());
        }
        let reloading = self.parts.reload.reload();
        self.jobs.spawn(async move {
            let answer = match timeout(PATIENCE, reloading).await {
                Ok((true, told)) => (200, told),
                Ok((false, told)) => (409, told),
                Err(_) => (504, json!({"error": "the files are still being looked at"})),
            };
            (number, answer)
        });
        Ok(())
    }

    /// One that took its time has ended.
    pub(super) async fn own_ended(&mut self, (number, answer): Ended) {
        if let Some(order) = self.own.remove(&number) {
            self.own_answer(&order, answer).await;
        }
    }

    /// Answers, and tells everybody else.
    pub(super) async fn own_answer(&mut self, order: &Order, (status, body): (i32, Value)) {
        let Kind::Method(rid) = &order.kind else { return };
        let sent = order.line.answer(back::method_answer(status, rid), Bytes::from(body.to_string())).await;
        let detail = if status == 200 { String::new() } else { format!("status {status}") };
        self.tell(order, if sent.is_ok() { "answered" } else { "line_lost" }, &detail, true);
    }
}

/// Findings as far as an answer has room for them.
pub fn findings_excerpt(findings: &str) -> &str {
    let end = (0..=FINDINGS_MAX.min(findings.len())).rev().find(|end| findings.is_char_boundary(*end));
    findings.get(..end.unwrap_or(0)).unwrap_or("")
}

/// How long a flush may take: `{"within": 20}`, in seconds.
fn within(payload: &[u8]) -> Result<Duration, String> {
    if payload.iter().all(u8::is_ascii_whitespace) || payload == b"null" {
        return Ok(PATIENCE);
    }
    let value: Value = serde_json::from_slice(payload).map_err(|error| format!("the payload is no JSON: {error}"))?;
    match value.get("within") {
        None => Ok(PATIENCE),
        Some(within) => match within.as_u64().filter(|seconds| (1..=WITHIN_MAX).contains(seconds)) {
            Some(seconds) => Ok(Duration::from_secs(seconds)),
            None => Err(format!("`within` is a whole number of seconds from 1 to {WITHIN_MAX}")),
        },
    }
}

/// Closes open windows, and waits until what waits now has left.
async fn flush(rules: &InUse, stores: &Stores, within: Duration) -> Value {
    let began = Instant::now();
    let held = stores.held.spool();
    let last_held = held.last();
    let mut windows = 0;
    let mut waited = 0;
    let all_left = async {
        // A contribution may be on disk a moment before it is in its window.
        while {
            windows += stores.held.close_all(rules.memory());
            held.waiting_up_to(last_held) > 0
        } {
            tokio::time::sleep(LOOK).await;
        }
        let spools = [&stores.normal, &stores.urgent].map(|spool| (spool, spool.last()));
        let left = || spools.iter().map(|(spool, last)| spool.waiting_up_to(*last)).sum::<u64>();
        waited = left();
        while left() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    let empty = timeout(within, all_left).await.is_ok();
    json!({
        "windows_closed": windows,
        "waited": waited,
        "empty": empty,
        "waiting": stores.stats().waiting,
        "seconds": (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    })
}

/// What waits for devices that cannot take it has left the spool, and is not at the hub.
fn with_shelves(mut told: Value, shelves: Option<&Shelves>) -> Value {
    if let (Some(told), Some(shelves)) = (told.as_object_mut(), shelves) {
        told.insert("shelved".to_owned(), shelves.stats().waiting.into());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_flush_may_take() {
        for (payload, expect) in [
            ("", Ok(25)),
            ("null", Ok(25)),
            ("{}", Ok(25)),
            (r#"{"within": 3}"#, Ok(3)),
            (r#"{"within": 0}"#, Err("`within` is a whole number of seconds from 1 to 295")),
            (r#"{"within": "5s"}"#, Err("`within` is a whole number of seconds from 1 to 295")),
            ("{", Err("the payload is no JSON: EOF while parsing an object at line 1 column 1")),
        ] {
            let got = within(payload.as_bytes());
            assert_eq!(got, expect.map(Duration::from_secs).map_err(str::to_owned), "{payload}");
        }
    }

    #[test]
    fn findings_are_cut_between_characters() {
        let long = "ä".repeat(FINDINGS_MAX);
        for (findings, expect) in [("", 0), ("short", 5), (long.as_str(), FINDINGS_MAX)] {
            assert_eq!(findings_excerpt(findings).len(), expect);
        }
        assert_eq!(findings_excerpt(&format!("x{long}")).len(), FINDINGS_MAX - 1);
    }
}
