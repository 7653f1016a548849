//! One metric with its label values.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// How many combinations of label values one metric keeps.
pub const MAX_SERIES: usize = 1_000;

const SECONDS: &[f64] = &[
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0,
];
const MILLISECONDS: &[f64] =
    &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 3e4];

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Seconds,
    Milliseconds,
}

impl Kind {
    pub(super) fn bounds(self) -> &'static [f64] {
        match self {
            Self::Counter | Self::Gauge => &[],
            Self::Seconds => SECONDS,
            Self::Milliseconds => MILLISECONDS,
        }
    }
}

#[derive(Debug)]
pub(super) struct Family {
    pub(super) kind: Kind,
    pub(super) labels: Vec<&'static str>,
    series: Mutex<HashMap<Vec<String>, Series>>,
}

/// The state of one combination of label values; which field is used depends on the kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    pub(super) count: u64,
    pub(super) value: f64,
    pub(super) buckets: Vec<u64>,
}

impl Family {
    pub(super) fn new(kind: Kind, labels: &[&'static str]) -> Self {
        Self { kind, labels: labels.to_vec(), series: Mutex::default() }
    }

    pub(super) fn is(&self, kind: Kind, labels: &[&'static str]) -> bool {
        self.kind == kind && self.labels == labels
    }

    pub(super) fn count(&self, labels: &[&str], n: u64) {
        self.with(labels, |series| series.count = series.count.saturating_add(n));
    }

    pub(super) fn set(&self, labels: &[&str], value: f64) {
        self.with(labels, |series| series.value = value);
    }

    pub(super) fn add(&self, labels: &[&str], by: f64) {
        self.with(labels, |series| series.value += by);
    }

    pub(super) fn observe(&self, labels: &[&str], value: f64) {
        let bounds = self.kind.bounds();
        self.with(labels, |series| {
            series.count += 1;
            series.value += value;
            series.buckets.resize(bounds.len() + 1, 0);
            let at = bounds.partition_point(|bound| *bound < value);
            if let Some(bucket) = series.buckets.get_mut(at) {
                *bucket += 1;
            }
        });
    }

    /// All series, sorted by label values.
    pub(super) fn snapshot(&self) -> Vec<(Vec<String>, Series)> {
        let mut all: Vec<_> =
            self.lock().iter().map(|(labels, series)| (labels.clone(), series.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    fn with(&self, labels: &[&str], change: impl FnOnce(&mut Series)) {
        debug_assert_eq!(labels.len(), self.labels.len(), "labels of {:?}", self.labels);
        let key: Vec<String> = labels.iter().map(|value| super::sanitize(value)).collect();
        let mut series = self.lock();
        if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            change(series.entry(vec!["other".to_owned(); self.labels.len()]).or_default());
        } else {
            change(series.entry(key).or_default());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<String>, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
