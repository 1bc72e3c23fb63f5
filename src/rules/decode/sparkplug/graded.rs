//! The property `Quality` of metrics: 192 is good, 0 bad, 500 stale. A metric without it is good.

use super::super::quality::{Grade, LeftOut, Quality};
use super::values::Place;
use super::wire::Metric;

/// What becomes of metrics that are not good, and what became of those that came.
#[derive(Debug)]
pub(super) struct Graded {
    quality: Quality,
    pub(super) left_out: LeftOut,
    /// What the object in the making has of them.
    pub(super) bad: Vec<String>,
}

impl Graded {
    pub(super) fn new(quality: Quality) -> Self {
        Self { quality, left_out: LeftOut::default(), bad: Vec::new() }
    }

    /// False for a metric that is left out, which is noted.
    pub(super) fn takes(&mut self, metric: &Metric<'_>) -> bool {
        let takes = self.quality != Quality::Good || metric.grade == Grade::Good;
        if !takes {
            self.left_out.note(metric.grade);
        }
        takes
    }

    /// Writes down that a metric is not good where it is to be marked.
    pub(super) fn mark(&mut self, metric: &Metric<'_>, place: Place<'_>) {
        if self.quality == Quality::Mark && metric.grade != Grade::Good {
            self.bad.push(place.path());
        }
    }
}
