//! One metric with its label values.

use std::{
    borrow::Cow,
    sync::{Mutex, MutexGuard, PoisonError},
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
    /// Sorted by label values, so that a lookup needs no owned key.
    series: Mutex<Vec<(Vec<String>, Series)>>,
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
        self.lock().clone()
    }

    /// Whether nothing was counted yet.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn with(&self, labels: &[&str], change: impl FnOnce(&mut Series)) {
        debug_assert_eq!(labels.len(), self.labels.len(), "labels of {:?}", self.labels);
        let clean: Vec<Cow<'_, str>> = labels.iter().map(|value| super::sanitize(value)).collect();
        let mut series = self.lock();
        let mut found = find(&series, &clean);
        let mut key: Vec<String> = Vec::new();
        if found.is_err() {
            key = clean.into_iter().map(Cow::into_owned).collect();
            if series.len() >= MAX_SERIES {
                key = vec!["other".to_owned(); labels.len()];
                let other: Vec<_> = key.iter().map(|value| Cow::Borrowed(value.as_str())).collect();
                found = find(&series, &other);
            }
        }
        let at = match found {
            Ok(at) => at,
            Err(at) => {
                series.insert(at, (key, Series::default()));
                at
            }
        };
        if let Some((_, series)) = series.get_mut(at) {
            change(series);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Vec<String>, Series)>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a series is, or where it belongs.
fn find(series: &[(Vec<String>, Series)], labels: &[Cow<'_, str>]) -> Result<usize, usize> {
    series.binary_search_by(|(have, _)| {
        have.iter().map(String::as_str).cmp(labels.iter().map(Cow::as_ref))
    })
}
