//! One metric with its label values: a family of `prometheus-client`, with a bound on its series.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{
        MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};

use super::sanitize;

/// How many combinations of label values one metric keeps.
pub const MAX_SERIES: usize = 1_000;

const SECONDS: [f64; 16] = [
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0,
];
const MILLISECONDS: [f64; 16] =
    [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 3e4];
const NUMBERS: [f64; 10] = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e4];

/// Label names with their values.
type Labels = Vec<(&'static str, String)>;

/// A counter under the name that it was given: the one of `prometheus-client` gets `_total`, which
/// SPIRE's counters have not.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain(pub(super) Counter);

impl TypedMetric for Plain {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Plain {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Seconds,
    Milliseconds,
    Numbers,
}

/// A family whose series are bounded in number. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Bounded<M> {
    names: Arc<[&'static str]>,
    /// Which of them are shown.
    shown: Arc<[bool]>,
    series: Family<Labels, M, fn() -> M>,
    len: Arc<AtomicUsize>,
}

impl<M> Bounded<M> {
    fn new(names: &[&'static str], shown: Arc<[bool]>, make: fn() -> M) -> Self {
        Self {
            names: names.into(),
            shown,
            series: Family::new_with_constructor(make),
            len: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// A family that is not shown, for a key that is of another kind already: a mistake of ours,
    /// which the tests find.
    pub(super) fn lost(other: &AnyFamily, names: &[&'static str], make: fn() -> M) -> Self {
        debug_assert!(false, "a metric has two kinds: {other:?}");
        Self::new(names, names.iter().map(|_| true).collect(), make)
    }

    /// Changes the series with these values of the labels, in the order of their names.
    pub(super) fn with(&self, values: &[&str], change: impl FnOnce(&M)) {
        debug_assert_eq!(values.len(), self.names.len(), "labels of {:?}", self.names);
        let mut labels = self.labels(values);
        if let Some(known) = self.series.get(&labels) {
            return change(&known);
        }
        if self.len.load(Ordering::Relaxed) >= MAX_SERIES {
            for (_, value) in &mut labels {
                *value = "other".to_owned();
            }
        } else {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        change(&self.series.get_or_create(&labels));
    }

    /// Forgets the series with these values of the labels.
    pub(super) fn forget(&self, values: &[&str]) {
        if self.series.remove(&self.labels(values)) {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets all series.
    pub(super) fn forget_all(&self) {
        self.series.clear();
        self.len.store(0, Ordering::Relaxed);
    }

    fn labels(&self, values: &[&str]) -> Labels {
        let shown = self.names.iter().zip(values).zip(&*self.shown).filter(|(_, shown)| **shown);
        shown.map(|((name, value), _)| (*name, sanitize(value).into_owned())).collect()
    }
}

impl<M: EncodeMetric + TypedMetric> EncodeMetric for Bounded<M> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        if self.shown.contains(&true) {
            return self.series.encode(encoder);
        }
        // Without labels there are no braces either.
        match self.series.get(&Labels::new()) {
            Some(metric) => metric.encode(encoder),
            None => Ok(()),
        }
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

/// A family of any kind.
#[derive(Clone, Debug)]
pub(super) enum AnyFamily {
    Counter(Bounded<Plain>),
    Gauge(Bounded<Gauge<f64, AtomicU64>>),
    Histogram(Kind, Bounded<Histogram>),
}

impl AnyFamily {
    pub(super) fn new(kind: Kind, names: &[&'static str], shown: Arc<[bool]>) -> Self {
        let make: fn() -> Histogram = match kind {
            Kind::Counter => return Self::Counter(Bounded::new(names, shown, Plain::default)),
            Kind::Gauge => return Self::Gauge(Bounded::new(names, shown, Gauge::default)),
            Kind::Seconds => || Histogram::new(SECONDS),
            Kind::Milliseconds => || Histogram::new(MILLISECONDS),
            Kind::Numbers => || Histogram::new(NUMBERS),
        };
        Self::Histogram(kind, Bounded::new(names, shown, make))
    }

    pub(super) fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        match self {
            Self::Counter(family) => registry.register(name, help, family.clone()),
            Self::Gauge(family) => registry.register(name, help, family.clone()),
            Self::Histogram(_, family) => registry.register(name, help, family.clone()),
        }
    }

    pub(super) fn is(&self, kind: Kind, names: &[&'static str]) -> bool {
        let (have, of) = match self {
            Self::Counter(family) => (Kind::Counter, &family.names),
            Self::Gauge(family) => (Kind::Gauge, &family.names),
            Self::Histogram(kind, family) => (*kind, &family.names),
        };
        have == kind && **of == *names
    }
}
