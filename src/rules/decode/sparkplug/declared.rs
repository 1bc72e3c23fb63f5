//! What one birth declared: the names of its metrics, with their aliases and datatypes.

use std::sync::Arc;

use super::wire::Metric;

/// What a metric costs beside its name.
const PER_METRIC: usize = 96;

/// The metrics of a birth, in its order.
#[derive(Debug, Default)]
pub(super) struct Declared {
    metrics: Vec<Named>,
    /// Places in `metrics`, in the order of the aliases, each once.
    by_alias: Vec<(u64, usize)>,
    /// The same in the order of the names.
    by_name: Vec<usize>,
}

/// A metric that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: Box<str>,
    pub(super) alias: Option<u64>,
    pub(super) datatype: u32,
}

/// What names the metrics of a message: the birth of its sender, and where that is a device, the one of its node. The
/// aliases of a node and its devices are told apart by the specification.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) own: Option<InForce>,
    pub(super) node: Option<InForce>,
    /// An earlier process wrote this down, and the node was not heard since.
    pub(super) restored: bool,
}

/// A birth that holds.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) declared: Arc<Declared>,
    /// When the message was received another one held: the aliases of this one say nothing about it.
    pub(super) is_later: bool,
}

impl PartialEq for Declared {
    fn eq(&self, other: &Self) -> bool {
        self.metrics == other.metrics
    }
}

impl Declared {
    pub(super) fn new(metrics: Vec<Named>) -> Self {
        let mut by_alias: Vec<_> = metrics.iter().enumerate().filter_map(|(at, m)| Some((m.alias?, at))).collect();
        // Of those that share an alias the last one has it.
        by_alias.sort_unstable_by_key(|(alias, at)| (*alias, std::cmp::Reverse(*at)));
        by_alias.dedup_by_key(|(alias, _)| *alias);
        let mut by_name: Vec<_> = (0..metrics.len()).collect();
        by_name.sort_by_key(|at| metrics.get(*at).map(|metric| &metric.name));
        Self { metrics, by_alias, by_name }
    }

    /// Those of a payload.
    pub(super) fn of(metrics: &[Metric<'_>]) -> Self {
        let named = metrics.iter().filter_map(|metric| {
            let datatype = metric.datatype.unwrap_or(0);
            Some(Named { name: metric.name?.into(), alias: metric.alias, datatype })
        });
        Self::new(named.collect())
    }

    pub(super) fn metrics(&self) -> &[Named] {
        &self.metrics
    }

    pub(super) fn bytes(&self) -> usize {
        self.metrics.iter().map(|metric| metric.name.len() + PER_METRIC).sum()
    }

    fn by_alias(&self, alias: u64) -> Option<&Named> {
        let at = self.by_alias.binary_search_by_key(&alias, |(alias, _)| *alias).ok()?;
        self.metrics.get(self.by_alias.get(at)?.1)
    }

    fn by_name(&self, name: &str) -> Option<&Named> {
        let named = |at: &usize| self.metrics.get(*at).map_or("", |metric| &*metric.name);
        let at = self.by_name.binary_search_by(|at| named(at).cmp(name)).ok()?;
        self.metrics.get(*self.by_name.get(at)?)
    }
}

impl Scope {
    /// True where the birth of the sender itself holds.
    pub(super) fn is_born(&self) -> bool {
        self.own.is_some()
    }

    fn births(&self) -> impl Iterator<Item = &InForce> {
        [&self.own, &self.node].into_iter().flatten()
    }

    /// Some birth is later than the message.
    pub(super) fn is_later(&self) -> bool {
        self.births().any(|birth| birth.is_later)
    }

    /// The name and datatype of a metric.
    pub(super) fn resolve<'n>(&'n self, metric: &Metric<'n>) -> Option<(&'n str, u32)> {
        let births = || self.births().filter(|birth| !birth.is_later);
        let declared = metric.alias.and_then(|alias| births().find_map(|birth| birth.declared.by_alias(alias)));
        let name = metric.name.or(declared.map(|declared| &*declared.name))?;
        let datatype = metric.datatype.or(declared.map(|declared| declared.datatype));
        let datatype = datatype.or_else(|| Some(self.own.as_ref()?.declared.by_name(name)?.datatype));
        Some((name, datatype.unwrap_or(0)))
    }
}
