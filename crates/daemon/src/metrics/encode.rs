//! Writes a metric through `prometheus-client`.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::family::{Family, Kind, Series};

/// A family as the registry holds it.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<Family>);

impl EncodeMetric for Shared {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (values, series) in self.0.snapshot() {
            if values.is_empty() {
                encode_series(&mut encoder, self.0.kind, &series)?;
            } else {
                let labels: Vec<(&str, &str)> =
                    self.0.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                let mut of_series = encoder.encode_family(&labels)?;
                encode_series(&mut of_series, self.0.kind, &series)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.0.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Seconds | Kind::Milliseconds => MetricType::Histogram,
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn encode_series(
    encoder: &mut MetricEncoder<'_>,
    kind: Kind,
    series: &Series,
) -> Result<(), fmt::Error> {
    match kind {
        // Encoded like a gauge: SPIRE's counters have no `_total`.
        Kind::Counter => encoder.encode_gauge(&series.count),
        Kind::Gauge => encoder.encode_gauge(&series.value),
        Kind::Seconds | Kind::Milliseconds => {
            let bounds = kind.bounds().iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(series.buckets.iter().copied()).collect();
            encoder.encode_histogram::<NoLabelSet>(series.value, series.count, &buckets, None)
        }
    }
}
