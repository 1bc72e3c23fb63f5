//! The counters of the program, for the ledger's equation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

/// Keeps the counters, each as the sum over its labels; the ends of connections and of windows by reason.
#[derive(Default, Clone)]
pub(super) struct Books(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Books {
    pub(super) fn count(&self, name: &str) -> u64 {
        self.0.lock().get(&format!("brownbridge_{name}")).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Recorder for Books {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let name = match key.labels().find(|label| label.key() == "reason") {
            Some(reason)
                if ["reconnects_total", "windows_closed_total"].iter().any(|name| key.name().ends_with(name)) =>
            {
                format!("{} {}", key.name(), reason.value())
            }
            _ => key.name().to_owned(),
        };
        Counter::from_arc(Arc::clone(self.0.lock().entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
